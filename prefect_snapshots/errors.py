"""Every error that you can meet, in one tree under `SnapshotsError`.

Four base classes say what you can do about an error:

- `UsageError`: fix the call. Nothing was changed.
- `RetryableError`: try again, as the message says.
- `SetupError`: fix the surroundings: storage, credentials, packages or programs.
- `IntegrityError`: stored data is damaged or lost. Run `prefect-snapshots check`, then `repair`.

Errors that replace a well-known built-in one (`KeyError`, `ValueError`, `OSError`, ...) also inherit from it, so that
ordinary code catches them. All of them survive pickling, because task runners carry exceptions between processes.
"""

from __future__ import annotations

from collections.abc import Sequence


class SnapshotsError(Exception):
    """Base of every error raised by prefect-snapshots."""

    @classmethod
    def docs_anchor(cls) -> str:
        """Return where the documentation describes this error, such as `reference/errors/#commitunknown`."""
        return f"reference/errors/#{cls.__name__.lower()}"


class UsageError(SnapshotsError):
    """The call asked for something that is not possible. Nothing was changed: fix the call."""


class RetryableError(SnapshotsError):
    """The operation may succeed when you try it again. The message says how."""


class SetupError(SnapshotsError):
    """Something around this package needs fixing: storage, credentials, packages, programs or sources."""


class IntegrityError(SnapshotsError):
    """Stored bytes are not what was written: flipped, cut, swapped or gone."""


# --- the place where a repository lives ------------------------------------------------------------------


class StorageError(SetupError, OSError):
    """The storage below a repository failed: network, disk, credentials."""

    def __str__(self) -> str:
        return Exception.__str__(self)


class ObjectMissing(StorageError, FileNotFoundError):
    """An object that was asked for is not there."""


class StorageFull(StorageError):
    """No space, or a quota is used up. Nothing was published."""


class PermissionDenied(StorageError, PermissionError):
    """The credentials, or the file permissions, do not allow this call."""


class StorageUnavailable(StorageError, RetryableError, ConnectionError):
    """The storage did not answer, or answered with a passing error, after all retries."""


class UnsupportedStorage(SetupError):
    """The storage cannot create an object exclusively, so that two writers could overwrite each other."""


class MissingDependency(SetupError, ImportError):
    """A URL or a value needs a package that is not installed; the message names the extra to install."""


# --- opening a repository --------------------------------------------------------------------------------


class RepositoryError(SetupError):
    """A repository cannot be opened or used as asked."""


class RepositoryNotFound(RepositoryError, FileNotFoundError):
    """There is no repository at this URL, and reading never creates one."""

    def __str__(self) -> str:
        return Exception.__str__(self)


class NotARepository(RepositoryError):
    """The directory is not empty and holds no repository: it is left alone."""


class UnsupportedFormat(RepositoryError):
    """The repository was written in a newer format than this version understands."""


class WrongPassword(RepositoryError):
    """The password does not open this repository, or it needs one, or it is not encrypted at all."""


class RepositoryChanged(RepositoryError):
    """Another repository is at this URL than the one that you opened there before, or that you named by its id."""


class ReadOnlyRepository(RepositoryError, PermissionError):
    """Something was to be written to a repository opened with `read_only=True`."""

    def __str__(self) -> str:
        return Exception.__str__(self)


class EphemeralRepositoryError(RepositoryError):
    """A deployed run would keep its state in a directory that vanishes with the run."""


# --- damage ----------------------------------------------------------------------------------------------


class DamagedObject(IntegrityError):
    """One stored object fails verification. `path` names it."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path} is damaged: {self.reason}. Run `prefect-snapshots check`, then `repair`."


class MissingChunk(IntegrityError):
    """A chunk that a version refers to is in no pack. `chunk` is its id in hexadecimal."""

    def __init__(self, chunk: str, where: str = "") -> None:
        super().__init__(chunk, where)
        self.chunk = chunk
        self.where = where

    def __str__(self) -> str:
        of = f" (needed by {self.where})" if self.where else ""
        return f"chunk {self.chunk[:16]} is in no pack{of}. Run `prefect-snapshots check`, then `repair`."


class MalformedContent(IntegrityError):
    """What an event says of its content makes no sense, and no version of this package wrote it.

    Somebody with write access did. Only the version that the event belongs to is lost: delete it, and check who may
    write to the repository.
    """


class DamagedVersion(IntegrityError):
    """A version cannot be read whole. `version` names it, `part` the leaf or file that is hit."""

    def __init__(self, version: str, part: str, reason: str) -> None:
        super().__init__(version, part, reason)
        self.version = version
        self.part = part
        self.reason = reason

    def __str__(self) -> str:
        part = f", {self.part}" if self.part else ""
        return f"{self.version}{part}: {self.reason}"


# --- committing ------------------------------------------------------------------------------------------


class CommitError(RetryableError):
    """A commit did not happen."""


class CommitUnknown(CommitError):
    """The storage did not say whether a commit landed.

    Saving again with `token` returns the version that did land, or makes it now: never two of them.
    """

    def __init__(self, token: str, reason: str = "") -> None:
        super().__init__(token, reason)
        self.token = token
        self.reason = reason

    def __str__(self) -> str:
        why = f" ({self.reason})" if self.reason else ""
        return (
            f"the storage did not confirm the commit{why}. Save again with token={self.token!r}: "
            "if it landed, you get that version, else it is made now."
        )

    def unavailable(self, what: str) -> StorageUnavailable:
        """Return the error for a commit of ours that may be repeated, of which the caller needs no token."""
        return StorageUnavailable(f"{what}: {self.reason or 'the storage did not answer'}. Try again.")


class CommitConflict(CommitError):
    """Somebody else changed what this commit was conditional on, or kept winning the race for its slot."""


# --- what callers hand in ----------------------------------------------------------------------------------


class InvalidName(UsageError, ValueError):
    """A name, id, tag or alias that cannot be stored safely."""


class InvalidArgument(UsageError, ValueError):
    """An argument, or a combination of arguments, that makes no sense."""


class SnapshotNotFound(UsageError, KeyError):
    """No snapshot has this id under this name."""

    def __str__(self) -> str:
        return Exception.__str__(self)


class SnapshotExists(UsageError, ValueError):
    """A snapshot with this id exists already, and `overwrite=True` was not given."""


class LeafError(UsageError):
    """One leaf of a value cannot be stored or restored. `path` names it, as in `encoder/layers/0/kernel`."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"leaf {self.path or '(the value itself)'}: {self.reason}"


class UnserialisableLeaf(LeafError, TypeError):
    """A leaf that cannot be written, not even with cloudpickle."""


class PickleRefused(LeafError):
    """A leaf was stored with pickle, and this repository was opened with `allow_pickle=False`."""


class StructureMismatch(LeafError, ValueError):
    """What is stored does not have the structure, shape or type that was asked for with `like=`."""


# --- artifacts ---------------------------------------------------------------------------------------------


class ArtifactNotFound(UsageError, KeyError):
    """There is no such artifact, version, alias, collection or release."""

    def __str__(self) -> str:
        return Exception.__str__(self)


class ArtifactExpired(UsageError):
    """A version of an artifact is past its expiry."""


class ReleaseExists(UsageError, ValueError):
    """A release with this tag exists already, and releases never change."""


class HandlerNotFound(UsageError, LookupError):
    """No installed package has a handler of this name, by which values become bytes and come back."""


class UnserialisableValue(UsageError, TypeError):
    """A handler cannot write a value. Nothing was logged."""


class EnvironmentMismatch(SetupError, RuntimeError):
    """A version was written in an environment that differs from this one where it matters."""


class NoActiveRun(SetupError, RuntimeError):
    """Logging to Weights & Biases takes a run of wandb, and none is active."""


class NotSupported(UsageError, NotImplementedError):
    """This store of artifacts does not offer what was asked for; the message says what it does offer."""


# --- checkpoints of long iterables -------------------------------------------------------------------------


class UnfingerprintableFunction(UsageError, TypeError):
    """Nobody can tell whether a function has changed. `function` names it."""

    def __init__(self, function: str, reason: str) -> None:
        super().__init__(function, reason)
        self.function = function
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"{self.function} has no fingerprint: {self.reason}. Pass function_version=, and say another one whenever "
            "what the function does has changed."
        )


class ItemError(UsageError):
    """One item of an iterable cannot be handled. `index` is its position."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(index, reason)
        self.index = index
        self.reason = reason

    def __str__(self) -> str:
        return f"item {self.index}: {self.reason}"


class UnhashableItem(ItemError, TypeError):
    """An item has no content by which it could be recognised in another process."""

    def __str__(self) -> str:
        return f"item {self.index}: {self.reason}. Pass key=, a function that says what stands for an item."


class UnserialisableResult(ItemError, TypeError):
    """What the function returned for an item cannot be kept."""


class ItemFailed(ItemError, RuntimeError):
    """The function failed for an item, and this was recorded."""


class CheckpointNotFound(UsageError, KeyError):
    """No checkpoints have this name, or none of them this fingerprint. The message names those that there are."""

    def __str__(self) -> str:
        return Exception.__str__(self)


class Pinned(UsageError):
    """What you want to delete is pinned. Nothing was deleted. Unpin it, or pass `force=True`."""


class IncompleteResults(RetryableError, LookupError):
    """Some items have no result yet. `missing` says how many, `failed` how many of them failed."""

    def __init__(self, missing: int, failed: int, total: int, first: int) -> None:
        super().__init__(missing, failed, total, first)
        self.missing = missing
        self.failed = failed
        self.total = total
        self.first = first

    def __str__(self) -> str:
        failures = f", {self.failed} of them because they failed" if self.failed else ""
        return (
            f"{self.missing} of {self.total} items have no result{failures}; the first one is item {self.first}. "
            "Start again, or pass missing= to get that value for them."
        )


class TooManyFailures(SetupError, RuntimeError):
    """So many items failed one after the other that the cause is hardly in the items. The last failure is its cause."""


# --- backups -----------------------------------------------------------------------------------------------


class BackupNotFound(UsageError, KeyError):
    """There is no backup, or no part of one, of this name."""

    def __str__(self) -> str:
        return Exception.__str__(self)


class ConfirmationRequired(UsageError):
    """What was asked for replaces data, and nobody confirmed it. Nothing was touched."""


class BackupFailed(SetupError):
    """A source could not be read whole: nothing was committed."""


class RestoreFailed(SetupError):
    """A target could not be made what a backup holds; the message says what state it is in."""


class NotProven(IntegrityError):
    """A backup is made, and a restore into a scratch place shows that it does not come back identical.

    `backup` names it, and `problems` says what differs. It is kept, and not marked as proven.
    """

    def __init__(self, backup: str, problems: Sequence[str]) -> None:
        super().__init__(backup, tuple(problems))
        self.backup = backup
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return (
            f"Backup {self.backup} is made, but it did not come back identical: {'; '.join(self.problems)}. Mend the "
            f"cause, and make another backup; or look closer with `prefect-snapshots backups drill {self.backup}`."
        )


class ToolMissing(SetupError, FileNotFoundError):
    """A program that a database needs is not installed; the message names the package that has it."""

    def __str__(self) -> str:
        return Exception.__str__(self)
