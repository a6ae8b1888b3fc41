"""What a backup can take its data from, and put it back to: the narrow interface of directories and databases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol, Self, TypeAlias, runtime_checkable

Password: TypeAlias = str | Callable[[], str] | None
"""A password, or a function that returns it when it is needed. None leaves it to the URL and the database's tools."""


@dataclass(frozen=True, slots=True)
class DumpFile:
    """One file of a dump: its path within the dump, and its bytes, which are taken once and in order."""

    path: str
    pieces: Iterator[bytes]


@dataclass(frozen=True, slots=True)
class DumpNote:
    """What you should know of one object in a dump.

    Attributes:
        text: A full sentence that begins with the kind and the name of the object: "View totals is left out, ..."
        left_out: Whether no restore brings the object back. This makes the backup incomplete.
    """

    text: str
    left_out: bool = False


@dataclass(slots=True)
class Dump:
    """What a database gives: files, and what they hold.

    `files` is consumed once; `counts` and `notes` are complete after that.
    """

    files: Iterable[DumpFile]
    counts: dict[str, int] = field(default_factory=dict)
    """Rows or documents per table or collection, of the same moment as the dump."""
    notes: list[DumpNote] = field(default_factory=list)
    """What the dump does not hold, or what comes back in another form. The record of the backup has it."""


class DumpReader(Protocol):
    """A dump as it comes back from a backup; every byte is verified."""

    @property
    def paths(self) -> Sequence[str]: ...

    @property
    def counts(self) -> Mapping[str, int]: ...

    def open(self, path: str) -> Iterator[memoryview]:
        """Yield the bytes of one file, in pieces of up to some MB."""
        ...

    def extract(self, folder: Path) -> None:
        """Write all files into an empty folder."""
        ...


class Database(Protocol):
    """A database that can be dumped to a stream or a tree, and restored from it."""

    kind: ClassVar[str]
    """What the backup calls this kind: "postgresql", "sqlite", ..."""
    swaps: ClassVar[bool]
    """Whether `restore` builds the new state beside the old one and swaps them at the end, so that a failure leaves the
    old one. Otherwise the manager makes a safety backup first."""

    @property
    def name(self) -> str:
        """What a backup calls it; no secrets; equal for equal databases."""
        ...

    def check(self) -> list[str]:
        """Return the versions of the tools and of the server, for people.

        Raise an error if a tool is missing or the server cannot be reached.
        """
        ...

    def check_restorable(self) -> Sequence[str]:
        """Return what in this database no restore could bring back; empty if everything can be restored.

        A backup calls this before it reads anything, and fails if something is returned. It takes seconds at most. What
        `dump` leaves out because you asked for it is not returned: it belongs into the notes of the dump.

        Returns:
            A full sentence for each object: its kind and name, why it cannot be restored, and what you can do.
        """
        ...

    def dump(self) -> AbstractContextManager[Dump]:
        """One consistent state of the database, writers going on. Leaving the block ends what was started for it."""
        ...

    def counts(self) -> dict[str, int]:
        """Return the current number of rows or documents of each table or collection."""
        ...

    def checksums(self, dump: Iterable[DumpFile]) -> dict[str, str]:
        """A checksum of the rows of each table that a dump holds, and of its other data; what `dump` gives is used up.

        Equal for equal rows, also in two dumps whose bytes differ. Empty where this kind of database has none.
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
        """Give an empty database beside this one for a drill, and drop it when the block ends."""
        ...


Switch: TypeAlias = Callable[[], Sequence[str]]
"""Puts a new state that stands beside the old one in its place, atomically. If it raises, the old state is in place.

Returns warnings, as full sentences, about what could not be tidied up afterwards: by then the restore has succeeded.
"""


@runtime_checkable
class StagedRestores(Protocol):
    """A database that can build the new state first and take it later. `swaps` is true for each of them.

    With this, a restore of several parts builds and verifies all of them before it changes the first.
    """

    def stage(self, dump: DumpReader, only: Sequence[str] = ()) -> AbstractContextManager[Switch]:
        """Build and verify the new state beside the old one, which stays in place and in use.

        Leaving the block without a switch deletes the new state. What a killed process left is deleted by the next
        `stage` of the same database, and never stops it.

        Args:
            dump: The dump to restore.
            only: Build only these tables or collections. Default: all.

        Returns:
            A context manager that gives a function, which takes the new state when it is called.

        Raises:
            RestoreFailed: The new state cannot be built. The old one is as it was.
        """
        ...


@runtime_checkable
class Noted(Protocol):
    """A scratch database that has something to say in the report of a drill."""

    @property
    def notes(self) -> Sequence[str]:
        """What was left out, or how far the drill was confined: full sentences."""
        ...


@runtime_checkable
class DropsAbandoned(Protocol):
    """A database that finds what killed drills have left on its server. Its `scratch` does so, too."""

    def drop_abandoned(self) -> Sequence[str]:
        """Drop what drills have left on the server and no living process uses.

        Returns:
            The names of the databases that were dropped.
        """
        ...


@runtime_checkable
class Expires(Protocol):
    """A scratch database whose data may expire by itself."""

    def still_expected(self, counts: Mapping[str, int], found: Mapping[str, int]) -> Mapping[str, int]:
        """Return what of the counts of a backup can be expected now.

        Args:
            counts: The counts in the backup.
            found: The counts now.
        """
        ...


@dataclass(frozen=True, slots=True)
class DatabaseDescription:
    """What documentation says about a kind of database: its row of the table in docs/databases.md."""

    title: str
    """The product, and from which version on: "PostgreSQL 13+"."""
    urls: str
    """What its URLs look like."""
    needs: str
    """The packages that have to be installed."""
    dump: str
    """Of which moment a dump is, by which tool, and how its rows are counted."""
    restored: str
    """How a restore goes, and what a failed one leaves."""
    not_kept: str
    """What a backup does not hold."""


class DatabaseDriver(Database, Protocol):
    """A kind of database that `open_database` finds: a `Database` that says by which URLs it is named."""

    schemes: ClassVar[tuple[str, ...]]
    """The schemes of its URLs, without `://`."""
    suffixes: ClassVar[tuple[str, ...]]
    """How the names of its files end, if it lives in one: `(".sqlite",)`. Else empty."""
    description: ClassVar[DatabaseDescription]

    @classmethod
    def from_url(cls, url: str, password: Password = None) -> Self:
        """Return the database that a URL names. Nothing is connected to.

        Args:
            url: A URL with one of `schemes`, or a path with one of `suffixes`.
            password: The password to use instead of the one in the URL.

        Raises:
            InvalidArgument: The URL is not valid for this database. The message never repeats a password.
        """
        ...
