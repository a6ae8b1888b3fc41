"""`Repository`: the storage of everything that must outlive a run.

A repository is any fsspec URL or path with a `repository.json`. Each kind has one *stream* for each of its names, and
commits *events* to it, some of them with *content*.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from ..arguments import checking_types
from ..errors import InvalidArgument, RepositoryNotFound
from ..private_files import why_forgeable
from ..redaction import harmless_options
from . import copies, keyring, maintenance
from .catalog import Catalog, Event, Stream
from .commits import MakeDraft, commit, stage
from .contents import ContentReader, StagedPart, Stored, Writer
from .copies import CopyReport
from .keyring import PasswordInfo
from .location import Buffer, LimitedLocation, Location, open_location
from .maintenance import CheckReport, PruneReport, RepairReport, Statistics
from .names import STREAM_LIMIT, check_name
from .opened import Opened
from .opening import Opener
from .passwords import Password, PasswordSource
from .progress import Progress
from .sealing import Compression
from .times import parse_time, to_nanoseconds

DEFAULT_URL = "./snapshots"
SETTING = "PREFECT_INTEGRATIONS_SNAPSHOTS_REPOSITORY"

_open: weakref.WeakValueDictionary[str, Repository] = weakref.WeakValueDictionary()


@checking_types
class Repository:
    """Store values, artifacts, backups and results in one place.

    Nothing is read or written before the first use. The first save creates the repository if the URL does not exist or
    is empty. Reading never creates one.

    Args:
        url: Any fsspec URL or path. Default: the repository of the enclosing `use_repository`, then the environment
            variable `PREFECT_INTEGRATIONS_SNAPSHOTS_REPOSITORY`, then `./snapshots`.
        storage_options: Options for the fsspec filesystem, such as credentials and endpoint. Default: none.
        password: The password that opens the repository, or encrypts a new one: a string, or a function that returns
            it. With a password, a repository without encryption is refused; pass False to open one. Default: the
            environment variable `PREFECT_INTEGRATIONS_SNAPSHOTS_PASSWORD`, else the content of the file in
            `PREFECT_INTEGRATIONS_SNAPSHOTS_PASSWORD_FILE`, else the output of the command in
            `PREFECT_INTEGRATIONS_SNAPSHOTS_PASSWORD_COMMAND`, else none.
        id: The id that the repository must have, as `prefect-snapshots stats` shows it. Another one is refused, and
            none is created. Default: the id that it had when you last opened it, if that is known.
        compression: "auto" (zstd where it pays), "high" (slower, smaller) or "none". Each writer decides for itself.
            Default: "auto".
        allow_pickle: Whether to load objects that were stored with pickle. Pass False for a repository that others
            write to: loading a pickle can run any code. Default: True.
        read_only: Write nothing at all, not even summaries. Default: False.
        single_writer: Accept storage that cannot create objects exclusively. Pass True only if at most one process
            writes at a time. Default: False.
        limit_upload: Write at most this many bytes a second on average, for all threads of this process together. An
            object store gets its objects in one piece, so that a shorter burst can be faster. Default: no limit.

    Example:
        >>> from prefect_snapshots import Repository, SnapshotManager
        >>> repository = Repository("memory://example")
        >>> SnapshotManager(repository).save_snapshot({"a": 1}, snapshot_id="first")
        'first'
        >>> repository.check().ok
        True
    """

    def __init__(
        self,
        url: str | os.PathLike[str] | None = None,
        *,
        storage_options: Mapping[str, Any] | None = None,
        password: Password = None,
        id: str | None = None,
        compression: Compression = "auto",
        allow_pickle: bool = True,
        read_only: bool = False,
        single_writer: bool = False,
        limit_upload: float | None = None,
    ) -> None:
        if compression not in ("auto", "high", "none"):
            raise InvalidArgument(f'compression must be "auto", "high" or "none", not {compression!r}.')
        if url is None:
            url = os.environ.get(SETTING) or unnamed_place()
        self.allow_pickle = allow_pickle
        self.read_only = read_only
        self._password = PasswordSource(password)
        self._expected_id = id
        self._compression: Compression = compression
        self._single_writer = single_writer
        location = open_location(url, storage_options)
        if limit_upload is not None:
            location = LimitedLocation(location, limit_upload)
        self._opener = Opener(location, self._password, id, compression, read_only, single_writer)
        self._token = os.urandom(16).hex()
        _open[self._token] = self

    @property
    def location(self) -> Location:
        """Where the objects of the repository are."""
        return self._opener.location

    @location.setter
    def location(self, location: Location) -> None:
        self._opener.location = location

    @property
    def url(self) -> str:
        """The URL, without secrets."""
        return self.location.url

    @property
    def id(self) -> str:
        """The id of the repository: 32 hexadecimal digits."""
        return self._reading().id

    @property
    def encrypted(self) -> bool:
        """Whether the repository has a password."""
        return self._reading().sealer.encrypted

    def exists(self) -> bool:
        """Return whether there is a repository at the URL. Writes nothing."""
        try:
            self._reading()
        except RepositoryNotFound:
            return False
        return True

    # --- streams and contents: for the kinds -----------------------------------------------------------------

    def stream(
        self, kind: str, name: str, apply: Callable[[Event], None], forget: Callable[[], None] = lambda: None
    ) -> Stream:
        """Open the stream of a kind and name, and read all its events.

        In a repository that does not exist yet, every stream is empty, unless it was opened read-only.

        Args:
            kind: The kind, such as "snapshots".
            name: The name within the kind.
            apply: Called with every event in order, now and later.
            forget: Called before all events are applied again, which may be necessary after a fork. Default: nothing.

        Returns:
            The stream, with all its events applied.
        """
        check_name(name, limit=STREAM_LIMIT)

        def catalog() -> Catalog | None:
            try:
                return self._reading().catalog
            except RepositoryNotFound:
                if self.read_only:
                    raise
                return None

        stream = Stream(catalog, kind, name, apply, forget)
        stream.refresh()
        return stream

    def names(self, kind: str) -> list[str]:
        """Return the names of all streams of a kind, sorted.

        Args:
            kind: The kind, such as "snapshots".
        """
        return sorted(name for its_kind, name in self._reading().catalog.streams().values() if its_kind == kind)

    def commit(
        self,
        stream: Stream,
        draft: MakeDraft,
        *,
        store: Callable[[Writer], Stored] | None = None,
        content: Stored | None = None,
        token: bytes | None = None,
    ) -> Event | None:
        """Commit one event: data first, then its name.

        Args:
            stream: The stream to commit to.
            draft: A function that returns the event to commit for the current state of the stream. It is called again
                if another writer was faster. It may raise an error, or return None to commit nothing.
            store: A function that stores the content of the event. It is called again if a prune has condemned data
                that it reused.
            content: Content to store inside the event, instead of `store`.
            token: The token of an earlier attempt with an unknown outcome. If that succeeded, you get its event.

        Returns:
            The event, or None if the draft was None.

        Raises:
            CommitUnknown: The storage did not say whether the commit succeeded.
        """
        opened = self._writing()
        return commit(opened.catalog, opened.store, stream, draft, store=store, content=content, token=token)

    def adopt(
        self,
        stream: Stream,
        draft: MakeDraft,
        source: ContentReader,
        *,
        token: bytes | None = None,
        passed: Callable[[int], None] = lambda _: None,
    ) -> Event | None:
        """Commit one event with content that is already stored in this or another repository.

        Only missing chunks are copied. Another attempt after a kill copies the rest.

        Args:
            stream: The stream to commit to.
            draft: As for `commit`.
            source: The content.
            token: As for `commit`.
            passed: Called with the number of bytes that were copied or are already here. Default: nothing.

        Returns:
            The event, or None if the draft was None.
        """
        if source.inline is not None:
            return self.commit(stream, draft, content=source.inline, token=token)
        return self.commit(stream, draft, store=lambda writer: writer.adopt(source, passed), token=token)

    def stage(self, content: Sequence[Buffer] | Callable[[Writer], Stored]) -> StagedPart:
        """Store bytes for a commit that another process makes, or this one later.

        The process that commits opens each part with `staged`, and keeps its chunks with `Writer.keep` while its own
        content is stored. A part whose data was pruned meanwhile is reported there, and must be staged again.

        Args:
            content: The bytes. A chunk never contains bytes of two buffers, so that a commit can keep some of them. Or
                a function that stores the content with a writer, as for `commit`.

        Returns:
            A small value that says where the bytes are.
        """
        opened = self._writing()
        stored = stage(opened.catalog, opened.store, content)
        return StagedPart(self.id, stored.content, stored.inline)

    def staged(self, part: StagedPart) -> ContentReader:
        """Return a reader for a staged part.

        Args:
            part: What `stage` has returned, here or in another process.

        Raises:
            InvalidArgument: It was staged in another repository.
        """
        if part.repository != self.id:
            raise InvalidArgument(
                f"This part was staged in repository {part.repository}, but {self.url} has the id {self.id}. Open the "
                "same repository in all processes."
            )
        return ContentReader(self._reading().reader, part.content, part.inline)

    def read(self, stream: Stream, event: Event) -> ContentReader:
        """Return a reader for the content of an event.

        Args:
            stream: The stream of the event.
            event: The event whose content you want.
        """
        if event.content is None:
            raise InvalidArgument(f"Event {event.sequence} of {stream.label} has no content.")
        data = stream.inline(event.sequence) if event.content.depth == 0 else b""
        return ContentReader(self._reading().reader, event.content, data)

    # --- maintenance -----------------------------------------------------------------------------------

    def check(
        self,
        read_data: bool = False,
        *,
        against: Repository | str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> CheckReport:
        """Verify that all committed data exists.

        Args:
            read_data: Also read and verify every byte. Default: only check that the data exists.
            against: A copy of this repository that `copy_to` made. Also find what only a second place can show: newest
                versions that were taken away here, and data that was replaced in one of the two. With `read_data`, all
                data is compared. Default: none.
            progress: Called with a label of the current step, how much of it is done, and the total.

        Returns:
            A report of what was checked, and of each problem. `ok` is True if there is none.
        """
        report = maintenance.check(self._reading(), read_data, progress)
        if against is not None:
            copies.compare(self._reading(), _given(against).parts(), read_data, report, progress)
        return report

    def prune(
        self,
        dry_run: bool = False,
        *,
        grace: float = 24 * 3600.0,
        progress: Progress | None = None,
        without: Collection[tuple[str, str, int]] = (),
    ) -> PruneReport:
        """Delete data that no version needs, and reclaim its space. Safe with any number of running or paused writers.

        Args:
            dry_run: Only report what would be freed. Writes nothing. Default: False.
            grace: Keep packs that nothing refers to for this many seconds, because they may belong to a running upload.
                This only saves a slow writer from repeating its work; safety does not depend on it. Default: a day.
            progress: As for `check`.
            without: With `dry_run`, versions to treat as deleted: the kind and name of their streams, and the numbers
                of their events.

        Returns:
            A report of what was freed, and of what a later prune will free.

        Raises:
            InvalidArgument: `grace` is negative.
        """
        if not grace >= 0:
            raise InvalidArgument(f"grace={grace!r} must be a number of seconds, at least 0. Nothing was deleted.")
        return maintenance.prune(self.parts(writing=not dry_run), dry_run, grace, progress, without)

    def extend_locks(self) -> int:
        """Extend the Object Lock of everything that is stored, where it may end within half of its time.

        Run this more often than every `object_lock_days / 2` days. What prune has deleted is not extended.

        Returns:
            The number of objects that are locked for longer now.

        Raises:
            InvalidArgument: The repository was opened without the storage option `object_lock_days`.
            UnsupportedStorage: It is not in a bucket of S3 or Google Cloud Storage.
        """
        self.parts()  # there must be a repository
        return self.location.extend_locks()

    def repair(
        self,
        dry_run: bool = False,
        *,
        copy: Repository | str | os.PathLike[str] | None = None,
        unencrypted: bool = False,
        progress: Progress | None = None,
    ) -> RepairReport:
        """Recover as much damaged data as possible, and report what is lost. Stop other writers first.

        Args:
            dry_run: Only report what would be done. Writes nothing. Default: False.
            copy: A copy of this repository that `copy_to` made, or its original. Data that is damaged here is read
                there, and verified. Small data and results of checkpoints have no hash here, so whoever can forge the
                other repository can forge what is restored. Default: none.
            unencrypted: Allow to repair an encrypted repository from one without encryption. Default: False.
            progress: As for `check`.

        Returns:
            A report of what was done, and of each version that is lost.

        Raises:
            InvalidArgument: The other repository is not encrypted, and this one is.
        """
        other = None if copy is None else _given(copy)
        if other is not None and self.encrypted and not other.encrypted and not unencrypted:
            raise InvalidArgument(
                f"{self.url} is encrypted, and {other.url} is not. Nothing was repaired. Whoever can write to the "
                "storage of the other one could choose what is restored here. Repair without it, or pass "
                "unencrypted=True (--unencrypted) if you trust everybody who can write there."
            )
        elsewhere = None if other is None else copies.SecondPlace(other.parts())
        return maintenance.repair(self.parts(writing=not dry_run), dry_run, progress, elsewhere)

    def copy_to(
        self,
        target: Repository | str | os.PathLike[str],
        *,
        kinds: Collection[str] | str = (),
        names: Collection[str] | str = (),
        since: datetime | str | None = None,
        dry_run: bool = False,
        unencrypted: bool = False,
        progress: Progress | None = None,
    ) -> CopyReport:
        """Copy what is missing in another repository, such as a second place for your only backups.

        Versions keep their numbers, times, metadata, tags, stages and pins. Deletes are not copied: the retention of
        the copy decides there. The storage, the password and the compression of the two can differ. You can run it at
        any time, and again after it was killed: it continues where it stopped.

        Do not write to the names of the copy. If you did, they are reported, and only the others are copied.

        Args:
            target: The other repository, or its URL or path. It is created if it does not exist.
            kinds: Copy only these kinds: "snapshots", "checkpoints", "artifacts" (with releases), "backups",
                "results" or "wal". Default: all.
            names: Copy only names that are equal to one of these, or match it as a pattern such as `"train-*"`.
                Artifacts are called `COLLECTION:NAME`. Releases are copied only with all artifacts. A name
                that nothing has is a problem in the report. Default: all.
            since: Leave out versions that were committed before this time: a datetime with a time zone, or an ISO 8601
                string. They cannot be added to the same copy later. Default: leave out none.
            dry_run: Only report what would be copied. Writes nothing. Default: False.
            unencrypted: Allow to copy an encrypted repository to one without encryption. Default: False.
            progress: As for `check`.

        Returns:
            A report of what was copied, and of what could not be copied and why. `ok` is True if nothing is missing.

        Raises:
            InvalidArgument: A kind does not exist. Or the target is the same repository, or is not encrypted and this
                one is.

        Example:
            >>> from prefect_snapshots import Repository, SnapshotManager
            >>> repository, second = Repository("memory://example-copied"), Repository("memory://example-second")
            >>> SnapshotManager(repository).save_snapshot({"a": 1}, snapshot_id="first")
            'first'
            >>> repository.copy_to(second).versions
            1
            >>> SnapshotManager(second).load_snapshot("first")
            {'a': 1}
        """
        source, target = self._reading(), _given(target)
        exists = target.exists()
        if exists and target.id == source.id:
            raise InvalidArgument(f"{self.url} and {target.url} are the same repository. Nothing was copied.")
        encrypts = target.encrypted if exists else target._password() is not None
        if source.sealer.encrypted and not encrypts and not unencrypted:
            raise InvalidArgument(
                f"{self.url} is encrypted, and {target.url} is not. Nothing was copied. Give the copy a password, or "
                "pass unencrypted=True (--unencrypted) if everybody who can read its storage may read the data."
            )
        kinds, names = ([one] if isinstance(one, str) else one for one in (kinds, names))
        selection = copies.Selection(kinds, names, None if since is None else to_nanoseconds(parse_time(since)))
        selection.check_kinds(kind for kind, _ in source.catalog.streams().values())
        there = target.parts(writing=not dry_run) if exists or not dry_run else None
        return copies.copy(source, there, selection, dry_run, progress)

    def stats(self) -> Statistics:
        """Count objects, bytes, the savings of deduplication, and the requests of this process.

        Returns:
            The counts, and the bytes by purpose.
        """
        return maintenance.statistics(self._reading())

    def written_since(self, moment: datetime) -> dict[str, int]:
        """Count the bytes that were stored since a point in time, by kind.

        Data that was deleted since is included. Copies that `prune` made, events and indexes are not. The results of
        checkpointed iterables are counted as `logs`.

        Args:
            moment: A datetime with a time zone.

        Returns:
            Bytes by kind, such as `{"snapshots": 1024, "logs": 10}`.
        """
        return maintenance.written_since(self._reading(), moment)

    # --- passwords ------------------------------------------------------------------------------------------

    def list_passwords(self) -> list[PasswordInfo]:
        """Return the passwords that open the repository, newest first. Empty if it is not encrypted."""
        self._reading()
        return keyring.list_passwords(self.location)

    def add_password(self, name: str, password: str) -> None:
        """Add another password that opens the repository.

        Args:
            name: A name for it, such as `"ci"` or `"laptop of Ada"`. Everybody who can read the bucket can see it.
            password: The password.

        Raises:
            WrongPassword: The repository is not encrypted.
            InvalidName: A password already has this name, or the name is invalid.
            InvalidArgument: The password is empty, or there are already 16 passwords.
        """
        keyring.add_password(self._writing(), name, password)

    def change_password(self, new: str, name: str | None = None) -> None:
        """Replace a password. The keys of the data do not change, so no data is rewritten.

        Anyone who knew the old password may have kept the secret and can still read the data. After a leak, copy the
        data to a new repository.

        Args:
            new: The new password.
            name: The name of the password to replace. Default: the one that you opened the repository with.

        Raises:
            WrongPassword: The repository is not encrypted.
            InvalidName: No password has this name.
            InvalidArgument: The new password is empty.
        """
        own = self._writing().password_name
        keyring.change_password(self._writing(), new, own if name is None else name)
        if name in (None, own):
            self._password.use(new)

    def remove_password(self, name: str) -> None:
        """Remove a password, so that it no longer opens the repository.

        Anyone who knew it may have kept the secret, or an old copy of `repository.json`, and can still read the data.

        Args:
            name: The name of the password.

        Raises:
            WrongPassword: The repository is not encrypted.
            InvalidName: No password has this name.
            InvalidArgument: You opened the repository with this password. (So you cannot remove the last one.)
        """
        keyring.remove_password(self._writing(), name)

    # --- opening --------------------------------------------------------------------------------------------

    def parts(self, *, writing: bool = False) -> Opened:
        """Return the parts of the repository, opened for reading or writing.

        Args:
            writing: Open it for writing, and create it if it does not exist. Default: False.
        """
        return self._writing() if writing else self._reading()

    def _reading(self) -> Opened:
        return self._opener.reading()

    def _writing(self) -> Opened:
        return self._opener.writing()

    @property
    def limit_upload(self) -> float | None:
        """The most bytes per second to write. None means no limit."""
        return self.location.limit if isinstance(self.location, LimitedLocation) else None

    # --- elsewhere --------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"Repository({self.url!r}{', read_only=True' if self.read_only else ''})"

    def __reduce__(self) -> tuple[Callable[..., Repository], tuple[Any, ...]]:
        options = {
            "compression": self._compression,
            "allow_pickle": self.allow_pickle,
            "read_only": self.read_only,
            "single_writer": self._single_writer,
            "limit_upload": self.limit_upload,
            "id": self._expected_id,
            # `password=False` is not a secret, and must apply in the other process, too.
            **({"password": False} if self._password.is_refused else {}),
        }
        return _restore, (self._token, self.location.url, harmless_options(self.location.storage_options), options)


def _given(other: Repository | str | os.PathLike[str]) -> Repository:
    """Return another repository that was passed as an object, a URL or a path."""
    if isinstance(other, str | os.PathLike):
        return Repository(other)
    if not isinstance(other, Repository):
        raise InvalidArgument(
            f"The other repository must be a Repository, a URL or a path, not {type(other).__name__}."
        )
    return other


def unnamed_place() -> str:
    """Return the path of the repository if nothing names one: a directory in the working directory.

    Raises:
        InvalidArgument: Others have put it there, or can write to it. Loading what they stored could run their code.
    """
    with contextlib.suppress(OSError):  # there is none yet, or the working directory was deleted
        if (why := why_forgeable(DEFAULT_URL, ".")) is not None:
            raise InvalidArgument(
                f"{os.path.abspath(DEFAULT_URL)} {why}, and what is stored there could run programs as you. Nothing "
                f"was opened. If you trust it, name it: set {SETTING}, or pass a URL or path. Otherwise work in a "
                "directory of your own."
            )
    return DEFAULT_URL


def opened_here(token: str) -> Repository | None:
    """Return the repository of this process that was pickled with this token, or None if there is none."""
    return _open.get(token)


def _restore(token: str, url: str, storage_options: dict[str, Any], options: dict[str, Any]) -> Repository:
    """Unpickle a repository: the same object in the same process, otherwise one with the process's own credentials."""
    return opened_here(token) or Repository(url, storage_options=storage_options, **options)
