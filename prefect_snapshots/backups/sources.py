"""The interface of databases: what a backup reads its data from, and restores it to."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol, Self, TypeAlias, runtime_checkable

from ..errors import BackupFailed, SourceUnusable

_UNUSABLE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EACCES, errno.EPERM})
"""Codes of errors of the operating system that another try does not change."""

Password: TypeAlias = str | Callable[[], str] | None
"""A password, or a function that returns it when it is needed. None: use the URL, or what the database's tools find."""


@dataclass(frozen=True, slots=True)
class DumpFile:
    """One file of a dump: its path within the dump, and its bytes, which can be read only once and in order."""

    path: str
    pieces: Iterator[bytes]


@dataclass(frozen=True, slots=True)
class ChangedFile:
    """One file of a dump that contains only what has changed since an earlier dump.

    Attributes:
        path: Its path within both dumps.
        size: Its size in bytes now.
        kept: What is not in `changes` is unchanged up to this position. Behind it, and behind the end of the earlier
            file, there are zeros.
        changes: Positions in ascending order, each with the new bytes there. They can be read only once and in order.
    """

    path: str
    size: int
    kept: int
    changes: Iterator[tuple[int, bytes]]


@dataclass(frozen=True, slots=True)
class DumpNote:
    """A note about one object in a dump.

    Attributes:
        text: A full sentence that begins with the kind and the name of the object: "View totals is left out, ..."
        left_out: Whether no restore brings the object back. This makes the backup incomplete.
    """

    text: str
    left_out: bool = False


@dataclass(slots=True)
class Dump:
    """The dump of a database: its files, counts and notes.

    `files` can be read only once. `counts` and `notes` are complete after that.
    """

    files: Iterable[DumpFile]
    counts: dict[str, int] = field(default_factory=dict)
    """Rows or documents per table or collection, at the same moment as the dump."""
    notes: list[DumpNote] = field(default_factory=list)
    """What is not in the dump, and what a restore creates in another form. They become notes of the backup."""


@dataclass(slots=True)
class DumpSince:
    """A dump that contains only what has changed since an earlier one. Files that it does not name are gone.

    The attributes are those of `Dump`.
    """

    files: Iterable[DumpFile | ChangedFile]
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[DumpNote] = field(default_factory=list)


class DumpReader(Protocol):
    """A dump that is read back from a backup. Every byte is verified."""

    @property
    def paths(self) -> Sequence[str]: ...

    @property
    def counts(self) -> Mapping[str, int]: ...

    def open(self, path: str) -> Iterator[memoryview]:
        """Yield the bytes of one file, in pieces of at most a few MB."""
        ...

    def extract(self, folder: Path) -> None:
        """Write all files into an empty folder."""
        ...


class Database(Protocol):
    """A database that can be dumped to a stream or a tree, and restored from it."""

    kind: ClassVar[str]
    """The name of this kind of database: "postgresql", "sqlite", ..."""
    swaps: ClassVar[bool]
    """Whether `restore` builds the new state beside the old one and swaps them at the end, so that a failure changes
    nothing. If False, the manager makes a safety backup first."""

    @property
    def name(self) -> str:
        """The name of the database in backups. It contains no secrets, and is the same for the same database."""
        ...

    def check(self) -> list[str]:
        """Return the versions of the tools and of the server, to show them to users.

        Raise an error if a tool is missing or the server cannot be reached.
        """
        ...

    def check_restorable(self) -> Sequence[str]:
        """Return the objects in this database that no restore could create again. Empty if there are none.

        A backup calls this before it reads anything, and fails if something is returned. It takes a few seconds at
        most. What `dump` leaves out because the user chose it is not returned: it belongs in the notes of the dump.

        Returns:
            A full sentence for each object: its kind and name, why it cannot be restored, and what the user can do.
        """
        ...

    def dump(self) -> AbstractContextManager[Dump]:
        """Dump one consistent state of the database while others write. Leaving the block ends all started programs."""
        ...

    def counts(self) -> dict[str, int]:
        """Return the current number of rows or documents of each table or collection."""
        ...

    def checksums(self, dump: Iterable[DumpFile]) -> dict[str, str]:
        """Return a checksum of the rows of each table in a dump, and of its other data. This reads the dump to its end.

        Equal rows have equal checksums, even if the bytes of two dumps differ. Empty if this kind of database does not
        support checksums.
        """
        ...

    def restore(self, dump: DumpReader, only: Sequence[str] = ()) -> None:
        """Restore the database to the state in the dump. Anything that is not in the dump is deleted.

        Args:
            dump: The dump to restore.
            only: Restore only these tables or collections. Default: all.
        """
        ...

    def scratch(self) -> AbstractContextManager[Database]:
        """Create an empty database beside this one for a drill, and drop it when the block ends."""
        ...


Switch: TypeAlias = Callable[[], Sequence[str]]
"""Replaces the old state with the new one that was built beside it, atomically. If it raises, nothing has changed.

Returns warnings, as full sentences, about what could not be tidied up afterwards: by then the restore has succeeded.
"""


@runtime_checkable
class StagedRestores(Protocol):
    """A database that can build the new state first and switch to it later. `swaps` must be True.

    With this, a restore of several parts builds and verifies all of them before it changes the first.
    """

    def stage(self, dump: DumpReader, only: Sequence[str] = ()) -> AbstractContextManager[Switch]:
        """Build and verify the new state beside the old one, which stays in use.

        Leaving the block without a switch deletes the new state. The next `stage` of the same database deletes what a
        killed process left, and never fails because of it.

        Args:
            dump: The dump to restore.
            only: Build only these tables or collections. Default: all.

        Returns:
            A context manager that yields a function. Calling it switches to the new state.

        Raises:
            RestoreFailed: The new state cannot be built. The old one is unchanged.
        """
        ...


@runtime_checkable
class DumpsChanges(Protocol):
    """A database that can dump only what has changed since an earlier dump. Backups store the whole state all the same.

    What has not changed is in the chunks of the earlier backup. No backup needs another one to be restored.
    """

    def dump_since(self, earlier: DumpReader) -> AbstractContextManager[DumpSince]:
        """Dump one consistent state of the database while others write.

        Args:
            earlier: The dump of the last backup. If the changes since then are not known, the result has all data, and
                a note that says why.
        """
        ...


@runtime_checkable
class Noted(Protocol):
    """A scratch database that adds notes to the report of a drill."""

    @property
    def notes(self) -> Sequence[str]:
        """Full sentences about what was left out, and about rights that the drill could not restrict."""
        ...


@runtime_checkable
class DropsAbandoned(Protocol):
    """A database that can drop what killed drills have left on its server. Its `scratch` does so, too."""

    def drop_abandoned(self) -> Sequence[str]:
        """Drop what drills have left on the server and no running process uses.

        Returns:
            The names of the databases that were dropped.
        """
        ...


@runtime_checkable
class CanBeMissing(Protocol):
    """A database that can only be changed in place, and that a restore creates if it does not exist."""

    def is_there(self) -> bool:
        """Return whether the database exists. If it does not, there is nothing to back up before a restore."""
        ...


@runtime_checkable
class DatabaseServer(Protocol):
    """The databases of a server whose names match a pattern. Each is a part of a backup."""

    @property
    def name(self) -> str:
        """The name of the server and the pattern. It contains no secrets."""
        ...

    def databases(self) -> Sequence[Database]:
        """Return the databases that match now. A backup calls this once, when it begins."""
        ...

    def covers(self, part: str) -> bool:
        """Return whether a part of a backup comes from this server, and matches, by its name."""
        ...

    def named(self, database: str) -> Database:
        """Return one database of this server, which need not exist, without connecting to it."""
        ...


@runtime_checkable
class StoredHere(Protocol):
    """A database whose server may store its data on this machine. Restores and drills then check the free space."""

    def data_folder(self) -> Path | None:
        """Return the folder of the server's data. None: it is on another machine, or this user may not know it."""
        ...


@runtime_checkable
class CreatesUsers(Protocol):
    """A part whose restore creates users of a server. It refuses to give them privileges, unless it is allowed to."""

    def allowing_privileges(self) -> Database:
        """Return this part, with a restore that may create users with privileges on the server."""
        ...


@runtime_checkable
class Expires(Protocol):
    """A scratch database whose data may expire on its own."""

    def still_expected(self, counts: Mapping[str, int], found: Mapping[str, int]) -> Mapping[str, int]:
        """Return the counts that can be expected now, after some of the data in the backup has expired.

        Args:
            counts: The counts in the backup.
            found: The counts now.
        """
        ...


@dataclass(frozen=True, slots=True)
class DatabaseDescription:
    """The documentation of a kind of database: its row in the table in docs/databases.md."""

    title: str
    """The product and its oldest supported version: "PostgreSQL 13+"."""
    urls: str
    """What its URLs look like."""
    needs: str
    """The packages that must be installed."""
    dump: str
    """Which moment a dump shows, which tool makes it, and how its rows are counted."""
    restored: str
    """How a restore works, and what a failed one leaves."""
    not_kept: str
    """What a backup does not contain."""


class DatabaseDriver(Database, Protocol):
    """A kind of database that `open_database` can open: a `Database` that declares its URLs."""

    schemes: ClassVar[tuple[str, ...]]
    """The schemes of its URLs, without `://`."""
    suffixes: ClassVar[tuple[str, ...]]
    """Suffixes of its files, such as `(".sqlite",)`. Empty if the database is not a file."""
    description: ClassVar[DatabaseDescription]

    @classmethod
    def from_url(cls, url: str, password: Password = None) -> Self:
        """Return the database with a URL, without connecting to it.

        Args:
            url: A URL with one of `schemes`, or a path with one of `suffixes`.
            password: The password to use instead of the one in the URL.

        Raises:
            InvalidArgument: The URL is not valid for this database. The message never repeats a password.
        """
        ...


def unreadable(error: OSError) -> type[BackupFailed]:
    """Return the class of the error that tells of a source which the operating system does not let us read."""
    return SourceUnusable if error.errno in _UNUSABLE else BackupFailed
