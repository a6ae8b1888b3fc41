"""Every error that you can meet, in one tree under `SnapshotsError`.

Four base classes say what you can do about an error:

- `UsageError`: fix the call. Nothing was changed.
- `RetryableError`: try again, as the message says.
- `SetupError`: fix the setup: storage, credentials, packages or programs.
- `IntegrityError`: stored data is damaged or lost. Run `prefect-snapshots check`, then `repair`.

The first line of a docstring says what happened, the rest says what to do. `docs/reference/errors.md` is generated from
them.

Errors that replace a well-known built-in one (`KeyError`, `ValueError`, `OSError`, ...) also inherit from it, so that
ordinary code catches them. All of them can be pickled, because task runners send exceptions between processes.
"""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Sequence

import msgspec

from .messages import printable

UNDECODABLE = (ValueError, RecursionError, msgspec.MsgspecError)
"""What decoders of JSON, TOML and MessagePack raise for bytes that anybody may have written: they may be no UTF-8, have
other types, or be nested too deeply."""


class SnapshotsError(Exception):
    """Base of every error raised by prefect-snapshots.

    Catch it to catch all of them. The group below it says what you can do.
    """

    def __str__(self) -> str:
        # Messages quote names, files, storages and programs, and end up on terminals and in the logs of Prefect. So
        # no subclass overrides this method.
        return printable(self._message())

    def _message(self) -> str:
        return Exception.__str__(self)

    @classmethod
    def public_name(cls) -> str:
        """Return the name under which the documentation and `prefect-snapshots explain` describe this error."""
        return next(kind.__name__ for kind in cls.__mro__ if kind.__module__ == __name__)  # others are private

    @classmethod
    def explanation(cls) -> tuple[str, str]:
        """Return what happened when this error is raised, and what to do."""
        what, _, remedy = inspect.cleandoc(cls.__doc__ or "").partition("\n\n")
        return " ".join(what.split()), " ".join(remedy.split())


class UsageError(SnapshotsError):
    """The call asked for something that is not possible. Nothing was changed.

    Fix the call: the message says what it should be.
    """


class RetryableError(SnapshotsError):
    """The operation did not succeed this time.

    Try again, as the message says.
    """


class SetupError(SnapshotsError):
    """The setup needs fixing: storage, credentials, packages, programs or sources.

    Fix it, and try again.
    """


class IntegrityError(SnapshotsError):
    """Stored data was changed, cut off, swapped or deleted after it was written.

    Run `prefect-snapshots check` to see everything that is affected, then `prefect-snapshots repair`. Undamaged
    versions stay readable.
    """


# --- the storage of a repository -------------------------------------------------------------------------


class StorageError(SetupError, OSError):
    """The storage of a repository failed: network, disk or credentials.

    The message quotes the storage. Check the URL, `storage_options` and the disk, and try again.
    """


class ObjectMissing(StorageError, FileNotFoundError):
    """An object is not in the storage.

    Open the snapshot or artifact again: it may have been deleted and pruned since. If that does not help, run
    `prefect-snapshots check`.
    """


class StorageFull(StorageError):
    """The storage has no space left, or a quota is used up. Nothing was published.

    Free some space, raise the quota, or run `prefect-snapshots prune`.
    """


class PermissionDenied(StorageError, PermissionError):
    """The credentials, or the file permissions, do not allow this call.

    Check which identity the storage sees, and its permissions: see [least privilege](../storage.md#least-privilege).
    """


class StorageUnavailable(StorageError, RetryableError, ConnectionError):
    """The storage did not answer, or answered with a temporary error, after all retries.

    Check the network and the endpoint, and try again later.
    """


class UnsupportedStorage(SetupError):
    """The storage cannot create an object exclusively, so two writers could overwrite each other.

    Use a directory, S3, Google Cloud Storage, or another store with conditional writes. Pass `single_writer=True`
    if at most one process writes at a time.
    """


class MissingDependency(SetupError, ImportError):
    """A URL or a value needs a package that is not installed or does not load.

    Install the extra that the message names.
    """


# --- opening a repository --------------------------------------------------------------------------------


class RepositoryError(SetupError):
    """A repository cannot be opened or used as asked.

    The subclasses say why.
    """


class RepositoryNotFound(RepositoryError, FileNotFoundError):
    """There is no repository at this URL. Reading never creates one.

    Check the URL. The first save creates a repository.
    """


class NotARepository(RepositoryError):
    """The location is not empty, and does not contain a repository. Nothing was changed.

    Choose an empty location, or correct the URL.
    """


class UnsupportedFormat(RepositoryError):
    """The repository was written in a newer format than this version understands, or with other parameters.

    Upgrade prefect-snapshots, or open it with `read_only=True` if the message says so.
    """


class WrongPassword(RepositoryError):
    """The password does not open this repository, or the repository is encrypted and you passed no password, or it is
    not encrypted and a password is configured.

    Check the password and the URL. To open a repository without encryption while a password is configured, pass
    `password=False` (`--no-password`).
    """


class RepositoryChanged(RepositoryError):
    """The repository at this URL is not the one that you opened before, or whose id you passed.

    Find out who replaced it. If you know why it changed, run `prefect-snapshots password trust`, or pass its new
    `id`.
    """


class ReadOnlyRepository(RepositoryError, PermissionError):
    """The call would write to a repository that was opened with `read_only=True`. Nothing was changed.

    Open it without `read_only=True`.
    """


class EphemeralRepositoryError(RepositoryError):
    """A deployed run would store its data in a directory that is deleted when the run ends. Nothing was written.

    Set `PREFECT_INTEGRATIONS_SNAPSHOTS_REPOSITORY`, or save a block `SnapshotRepository` as `default`.
    """


# --- damage ----------------------------------------------------------------------------------------------


class DamagedObject(IntegrityError):
    """One stored object is damaged. `path` names it.

    Run `prefect-snapshots check`, then `prefect-snapshots repair`.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def _message(self) -> str:
        return f"{self.path} is damaged: {self.reason}. Run `prefect-snapshots check`, then `repair`."


class MissingChunk(IntegrityError):
    """A chunk that a version needs is missing from all packs. `chunk` is its id in hexadecimal.

    Run `prefect-snapshots check`, then `prefect-snapshots repair`. Saving the same data again restores the chunk.
    """

    def __init__(self, chunk: str, where: str = "") -> None:
        super().__init__(chunk, where)
        self.chunk = chunk
        self.where = where

    def _message(self) -> str:
        of = f" (needed by {self.where})" if self.where else ""
        return f"Chunk {self.chunk[:16]} is in no pack{of}. Run `prefect-snapshots check`, then `repair`."


class MalformedContent(IntegrityError):
    """An event describes its content in an invalid way. No version of this package writes such an event.

    Somebody with write access wrote it. Only the version of this event is affected: delete it, and check who can write
    to the repository.
    """


class DamagedVersion(IntegrityError):
    """A version cannot be read completely. `version` is its name, and `part` the damaged leaf or file.

    Load another version or the other parts, and run `prefect-snapshots check` and `repair`.
    """

    def __init__(self, version: str, part: str, reason: str) -> None:
        super().__init__(version, part, reason)
        self.version = version
        self.part = part
        self.reason = reason

    def _message(self) -> str:
        part = f", {self.part}" if self.part else ""
        return f"{self.version}{part}: {self.reason}"


class CopyDiverged(IntegrityError):
    """A name was changed in a copy of a repository, or the original has lost its newest events.

    Nothing more is copied under this name, because nobody can say which of the two is right. Compare both with
    `prefect-snapshots check --against`. Then delete the name where it is wrong, or copy to another repository.
    """

    def __init__(self, name: str, sequence: int) -> None:
        super().__init__(name, sequence)
        self.name = name
        self.sequence = sequence

    def _message(self) -> str:
        return (
            f"The copy of {self.name} has an event, number {self.sequence}, that the original does not have: somebody "
            "wrote to the copy, or the newest events of the original were taken away. Nothing more of this name was "
            "copied."
        )


# --- committing ------------------------------------------------------------------------------------------


class CommitError(RetryableError):
    """A commit did not happen.

    Try again.
    """


class StagedPartsLost(CommitError):
    """Parts that were staged for a commit are no longer stored, because a prune has freed them since.

    Stage these parts again, and commit. `parts` has their positions among the parts of the commit.
    """

    def __init__(self, *parts: int) -> None:
        super().__init__(*parts)
        self.parts = parts

    def _message(self) -> str:
        numbers = ", ".join(map(str, self.parts))
        return (
            f"Nothing was committed, because a prune has freed staged parts since: {numbers}. Stage these again, and "
            "then commit."
        )


class ProcessesDisagree(UsageError, ValueError):
    """The processes of a run called one method with different arguments. The message says which.

    Pass the same in every process. Values that differ belong into arrays that are spread over the processes.
    """


class ProcessFailed(RetryableError):
    """Another process of the run failed, ended, or did not take part in a call within `process_timeout`.

    The message says which process, and whether anything was saved. Restart the run from its latest snapshot.
    """


class CommitUnknown(CommitError):
    """The storage did not say whether a commit succeeded.

    Save again with `token=` set to the `token` of this error. If the first commit succeeded, you get that version.
    Otherwise it is saved now. It is never saved twice.
    """

    def __init__(self, token: str, reason: str = "") -> None:
        super().__init__(token, reason)
        self.token = token
        self.reason = reason

    def _message(self) -> str:
        why = f" ({self.reason})" if self.reason else ""
        return (
            f"The storage did not confirm the commit{why}. Save again with token={self.token!r}: you get the version "
            "that was saved, or it is saved now."
        )

    def unavailable(self, what: str) -> StorageUnavailable:
        """Return the error for an internal commit that can be repeated, so that the caller needs no token."""
        return StorageUnavailable(f"{what}: {self.reason or 'the storage did not answer'}. Try again.")


class CommitConflict(CommitError):
    """Another writer changed what this commit depends on, or repeatedly committed first.

    Read the state again, and repeat the change if it is still right.
    """


# --- arguments of callers ----------------------------------------------------------------------------------


class InvalidName(UsageError, ValueError):
    """A name, id, tag or alias cannot be stored safely.

    Use 1 to 512 visible characters, without a backslash and without empty, `.` or `..` parts.
    """


class InvalidArgument(UsageError, ValueError):
    """An argument, or a combination of arguments, is invalid.

    The message says which, and what is expected.
    """


class SnapshotNotFound(UsageError, KeyError):
    """No snapshot has this id under this name.

    List the ids with `prefect-snapshots snapshots list NAME`. The message names similar ones.
    """


class SnapshotExists(UsageError, ValueError):
    """A snapshot with this id already exists.

    Choose another id, or pass `overwrite=True`.
    """


class PathNotFound(UsageError, FileNotFoundError):
    """There is nothing at this path of the file system `snapshots://`.

    List what there is with `prefect-snapshots ls`. The message names similar paths.
    """


class LeafError(UsageError):
    """One leaf of a value cannot be stored or restored. `path` names it, as in `encoder/layers/0/kernel`.

    The subclasses say why.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def _message(self) -> str:
        return f"Leaf {self.path or '(the value itself)'}: {self.reason}"


class UnserialisableLeaf(LeafError, TypeError):
    """A leaf cannot be written, not even with cloudpickle. The value was not saved.

    Remove it from the value, or convert it to arrays, numbers and strings.
    """


class PickleRefused(LeafError):
    """A leaf was stored with pickle, and this repository was opened with `allow_pickle=False`.

    Load it with `allow_pickle=True` only if you trust everybody who can write to the repository: unpickling runs
    code.
    """


class StructureMismatch(LeafError, ValueError):
    """The stored value does not have the structure, shape or type of the value in `like=`.

    Pass a matching `like=`, or load without it.
    """


# --- artifacts ---------------------------------------------------------------------------------------------


class ArtifactNotFound(UsageError, KeyError):
    """There is no such artifact, version, alias, collection or release.

    List existing artifacts with `prefect-snapshots artifacts list`. The message names similar ones.
    """


class ArtifactExpired(UsageError):
    """A version of an artifact has expired.

    Use a newer version, or extend the expiry.
    """


class ReleaseExists(UsageError, ValueError):
    """A release with this tag already exists, and releases never change.

    Choose another tag.
    """


class HandlerNotFound(UsageError, LookupError):
    """No installed package has a handler with this name. Handlers convert values to bytes and back.

    Install the package that provides it, or choose one of the handlers that the message names.
    """


class UnserialisableValue(UsageError, TypeError):
    """A handler cannot write a value. Nothing was saved.

    Convert the value, or pass another `handler=`.
    """


class EnvironmentMismatch(SetupError, RuntimeError):
    """A version needs another version of Python or of a package than this environment has.

    Install the versions that the message names.
    """


class UnreadableValue(SetupError, ValueError):
    """A handler cannot read the value of a version, although its bytes are those that were stored.

    Install the packages that the value needs. If nothing is missing, the bytes are not what this handler writes: ask
    whoever logged the version, or use another one. `download_artifact` returns the bytes as a file.
    """


class ReferenceChanged(SetupError, RuntimeError):
    """A file that an artifact refers to has changed, or is gone, since the reference was logged.

    Restore the file, load another version, or log the reference again. The message says what differs.
    """


class ReferenceRefused(SetupError, RuntimeError):
    """An artifact refers to a URL that you have not allowed. Its writer chose the URL, and no request was sent.

    Look at the URL in the message. If you trust it, pass it, or a folder above it, as `within=`.
    """


class NoActiveRun(SetupError, RuntimeError):
    """Logging to Weights & Biases needs an active run of wandb, and there is none.

    Call `wandb.init()` first.
    """


class NotSupported(UsageError, NotImplementedError):
    """This artifact store does not support the operation.

    The message says what it supports instead.
    """


# --- checkpoints of long iterables -------------------------------------------------------------------------


class UnfingerprintableFunction(UsageError, TypeError):
    """There is no way to detect changes of a function. `function` names it.

    Pass `function_version=`, and change it whenever the function changes.
    """

    def __init__(self, function: str, reason: str) -> None:
        super().__init__(function, reason)
        self.function = function
        self.reason = reason

    def _message(self) -> str:
        return (
            f"{self.function} has no fingerprint: {self.reason}. Pass function_version=, and change it whenever the "
            "function changes."
        )


class ItemError(UsageError):
    """One item of an iterable cannot be processed. `index` is its position, counted from 0.

    The subclasses say why.
    """

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(index, reason)
        self.index = index
        self.reason = reason

    def _message(self) -> str:
        return f"item {self.index}: {self.reason}"


class UnhashableItem(ItemError, TypeError):
    """An item cannot be recognised by its content in another process.

    Pass `key=`, a function that returns what identifies an item.
    """

    def _message(self) -> str:
        return f"item {self.index}: {self.reason}. Pass key=, a function that returns what identifies an item."


class UnserialisableResult(ItemError, TypeError):
    """The result of an item cannot be stored. Results of other items are saved.

    Return plain values or arrays. The message says which part cannot be stored.
    """


class CheckpointNotFound(UsageError, KeyError):
    """There are no checkpoints with this name or fingerprint.

    Choose one that the message names.
    """


class Pinned(UsageError):
    """What you want to delete is pinned. Nothing was deleted.

    Unpin it, or pass `force=True`.
    """


class IncompleteResults(RetryableError, LookupError):
    """Some items have no result yet. `missing` says how many, `failed` how many of them failed.

    Start again, or pass `missing=` with a value to use for them.
    """

    def __init__(self, missing: int, failed: int, total: int, first: int) -> None:
        super().__init__(missing, failed, total, first)
        self.missing = missing
        self.failed = failed
        self.total = total
        self.first = first

    def _message(self) -> str:
        failures = f", {self.failed} of them because they failed" if self.failed else ""
        return (
            f"{self.missing} of {self.total} items have no result{failures}; the first one is item {self.first}. "
            "Start again, or pass missing= with a value to use for them."
        )


class TooManyFailures(SetupError, RuntimeError):
    """So many items failed in a row that the items themselves are probably not the cause.

    Look at the last failure, which is the `__cause__` of this error. Fix it, and start again. Finished results are
    safe.
    """


# --- backups -----------------------------------------------------------------------------------------------


class BackupNotFound(UsageError, KeyError):
    """There is no backup of this name, or it has no such part.

    List the backups with `prefect-snapshots backups list`. The message names the parts.
    """


class ConfirmationRequired(UsageError):
    """The call would replace data and was not confirmed. Nothing was changed.

    Pass `confirm=True`, or `--yes` on the command line.
    """


class BackupFailed(SetupError):
    """A source could not be read completely, or could not be restored. No backup was created.

    The message quotes the database or the file system. Fix the cause, and try again.
    """


class SourceUnusable(BackupFailed):
    """A source cannot be backed up as it is: it does not exist, you may not read it, or a setting prevents it. No
    backup was created.

    The message says what to change. Flows do not try such a source again.
    """


class RestoreFailed(SetupError):
    """A restore did not complete. The message says which targets are restored, unchanged or only partly restored.

    Fix the cause, and run the command in the message.
    """


class RestoreRunning(RetryableError):
    """Another restore is changing the same target. Nothing was changed. `target` is its name, and `holder` says who
    runs the other restore, and since when.

    Wait until it has ended, and try again. If its process is killed, the target is free at once.
    """

    def __init__(self, target: str, holder: str) -> None:
        super().__init__(target, holder)
        self.target = target
        self.holder = holder

    def _message(self) -> str:
        return f"{self.target} is in use by {self.holder}. Nothing was changed. Wait until it has ended, and try again."


class PrivilegesRefused(UsageError):
    """A backup has users with privileges, which a restore creates only if you allow it. Nothing was changed. `place`
    is the server, and `refused` lists the users and their privileges.

    Whoever can write to the repository could have added them. If you trust the list, pass `allow_privileges=True`, or
    `--allow-privileges` on the command line. Otherwise create these users yourself, and restore again.
    """

    def __init__(self, place: str, refused: Sequence[str]) -> None:
        super().__init__(place, tuple(refused))
        self.place = place
        self.refused = tuple(refused)

    def _message(self) -> str:
        more = f"; and {len(self.refused) - 20} more" if len(self.refused) > 20 else ""
        return (
            f"Restoring {self.place} would create users with privileges: {'; '.join(self.refused[:20])}{more}. Nothing "
            "was changed. Whoever can write to the repository could have added them. If you trust the list, pass "
            "allow_privileges=True (--allow-privileges). Otherwise create these users yourself, and restore again."
        )


class NotProven(IntegrityError):
    """A backup was made, but the data restored from it is not identical. `backup` is its name, and `problems` says what
    differs.

    The backup is kept, and is not marked as proven. Fix the cause, and make another backup. To inspect the problems
    again, run `prefect-snapshots backups drill`.
    """

    def __init__(self, backup: str, problems: Sequence[str]) -> None:
        super().__init__(backup, tuple(problems))
        self.backup = backup
        self.problems = tuple(problems)

    def _message(self) -> str:
        return (
            f"Backup {self.backup} was made, but the data restored from it is not identical: "
            f"{'; '.join(self.problems)}. Fix the cause, and make another backup. To inspect the problems again, run "
            f"`prefect-snapshots backups drill {shlex.quote(self.backup)}`."
        )


class CommandRefused(SetupError):
    """The parameters of a flow run name commands, and the settings do not allow that. Nothing was run.

    Set `PREFECT_INTEGRATIONS_SNAPSHOTS_ALLOW_COMMANDS=true` where the flow runs, if everybody who may start runs of the
    deployment may run any program there. Otherwise write a flow of your own, with the commands in its code.
    """


class WalRefused(UsageError, ValueError):
    """A file of the write-ahead log (WAL) cannot be archived, or not under this name. The archive was not changed.

    The message says what is wrong with it. PostgreSQL keeps the file, and tries again.
    """


class WalNotFound(UsageError, FileNotFoundError):
    """The archive does not contain this file of the write-ahead log (WAL).

    List what it contains with `prefect-snapshots wal list`. During a recovery, PostgreSQL finds the end in this way.
    """


class ToolMissing(SetupError, FileNotFoundError):
    """A program that a database needs is not installed.

    Install the package that the message names.
    """


def error_classes() -> list[type[SnapshotsError]]:
    """Return the classes of all errors of this module, in the order in which they are defined."""
    return [kind for kind in globals().values() if isinstance(kind, type) and issubclass(kind, SnapshotsError)]
