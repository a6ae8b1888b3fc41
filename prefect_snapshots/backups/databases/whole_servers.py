"""Whole servers: every database whose name matches a pattern, and the accounts.

`mariadb://host/*` means all databases of a server, and `mariadb://host/shop_*` those that begin with `shop_`. The list
is made once, when a backup begins. Each database is a part of its own, as if its URL had been given. Accounts (users or
roles) are a part of their own, which comes first, because what is in the databases refers to them.
"""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Generic, Protocol, Self, TypeVar, cast
from urllib.parse import quote, unquote

import msgspec

from ...errors import InvalidArgument, SourceUnusable
from ..sources import Database, DropsAbandoned, Dump, DumpFile, DumpNote, DumpReader, Password
from .base import Address, ServerDatabase, check_counts, read_settings, restoring


class OpenedByURL(Database, Protocol):
    """A database of a server, or its accounts."""

    @classmethod
    def from_url(cls, url: str, password: Password = None) -> Self:
        """See `DatabaseDriver.from_url`."""
        ...


@dataclass(frozen=True, repr=False)
class WholeServer(ServerDatabase):
    """The databases of a server whose names match a pattern, and its accounts.

    Args:
        url: The URL of a server, with a pattern in place of the name of a database. `*` matches any characters.
        password: As for one database.
    """

    single: ClassVar[type[OpenedByURL]]
    """The class of one database."""
    accounts: ClassVar[type[OpenedByURL]]
    """The class of the accounts. The name of this part is the URL of the server."""
    of_accounts: ClassVar[tuple[str, ...]] = ()
    """Options of a URL that are for the accounts alone: the class of one database does not know them."""
    home: ClassVar[str]
    """The database that stands for the server: what is asked about the whole server is asked by way of it."""

    def check_url(self, address: Address) -> None:
        for each in (self.home, ""):
            self.named(each)

    @property
    def name(self) -> str:
        """The URL without user, password and options."""
        return self._place + "*".join(quote(piece, safe="") for piece in self._pieces)

    def databases(self) -> list[Database]:
        """Return the accounts of the server, and the databases that match now.

        Raises:
            BackupFailed: The server cannot be reached, or no database matches.
        """
        names = self.listed()
        found = [name for name in names if self._matches(name)]
        if not found:
            raise SourceUnusable(f"No database matches {self.name}. The server has: {', '.join(names) or 'none'}.")
        return [self.named(name) for name in ([""] * self.with_accounts + found)]

    def covers(self, part: str) -> bool:
        """Return whether a part of a backup comes from this server, and its name matches.

        Databases of the server itself never match: whoever forged a part with such a name would get all rights on it.

        Args:
            part: The name of the part.
        """
        head, _, name = part.rpartition("/")
        if f"{head}/" != self._place:
            return False
        name = unquote(name)
        # Some servers do not tell apart upper and lower case.
        return (
            self._matches(name) and not (self.is_own(name) or self.is_own(name.lower())) if name else self.with_accounts
        )

    def is_own(self, database: str) -> bool:
        """Return whether a database belongs to the server itself, to a drill or to a restore.

        Args:
            database: Its name.
        """
        raise NotImplementedError

    def named(self, database: str) -> Database:
        """Return one database of the server.

        Args:
            database: Its name. Empty: the accounts.
        """
        url = self.renamed(database)
        if not database:
            return self.accounts.from_url(url, self.password)
        return self.single.from_url(without_options(url, self.of_accounts), self.password)

    @property
    def with_accounts(self) -> bool:
        """Whether the accounts are backed up."""
        return True

    def drop_abandoned(self) -> Sequence[str]:
        """See `DropsAbandoned`."""
        server = self.named(self.home)
        return server.drop_abandoned() if isinstance(server, DropsAbandoned) else []

    def listed(self) -> list[str]:
        """Return the databases of the server, sorted, without its own and without those of drills and restores."""
        raise NotImplementedError

    @property
    def _place(self) -> str:
        return place(self.named(self.home).name)

    @property
    def _pieces(self) -> list[str]:
        """What is between the stars. They are found before decoding: a `%2A` is a part of a name."""
        return [unquote(piece) for piece in self.url.partition("?")[0].rpartition("/")[2].split("*")]

    def _matches(self, name: str) -> bool:
        return fnmatch.fnmatchcase(name, "*".join(map(glob.escape, self._pieces)))


class Accounts(Protocol):
    """The accounts of a server, as a dump contains them: a struct whose fields `msgspec` checks."""

    @property
    def counts(self) -> dict[str, int]:
        """How many there are of each kind."""
        ...


A = TypeVar("A", bound=Accounts)


@dataclass(frozen=True, repr=False)
class ServerAccounts(ServerDatabase, Generic[A]):
    """The accounts of a server: users or roles, with their attributes, roles and rights, and without passwords.

    A restore creates the accounts that are missing, and changes no others.

    Args:
        url: The URL of the server.
        password: As for one database.
        allow_privileges: Whether a restore may create accounts with privileges on the server.
    """

    allow_privileges: bool = False

    swaps: ClassVar[bool] = True
    has_databases: ClassVar[bool] = False
    word: ClassVar[str]
    """What the database calls its accounts, in the plural."""
    stored_as: ClassVar[type[Accounts]]
    """The type of what is in the dump."""

    def allowing_privileges(self) -> Self:
        """See `CreatesUsers`."""
        return replace(self, allow_privileges=True)

    @property
    def name(self) -> str:
        """The URL of the server, without a database."""
        return place(self._server.name)

    @contextlib.contextmanager
    def dump(self) -> Iterator[Dump]:
        """See `Database`."""
        found = self._read()
        data = json.dumps(msgspec.to_builtins(found), indent=1, sort_keys=True).encode()
        yield Dump([DumpFile(self._file, iter([data]))], found.counts, self._notes())

    def counts(self) -> dict[str, int]:
        """See `Database`."""
        return self._read().counts

    @property
    def _server(self) -> ServerDatabase:
        """The database that stands for the server."""
        raise NotImplementedError

    @property
    def _file(self) -> str:
        return f"{self.word}.json"

    def _notes(self) -> list[DumpNote]:
        """Return notes about what the server has and the dump has not."""
        return []

    def _read(self) -> A:
        """Return the accounts that the server has now."""
        raise NotImplementedError

    def _stored(self, dump: DumpReader) -> A:
        """Return the accounts in a dump, checked."""
        return cast("A", read_settings(dump, self._file, self.stored_as))

    def _refuse_some(self, only: Sequence[str]) -> None:
        if only:
            raise InvalidArgument(
                f"{self.word.capitalize()} are restored together. Pass an empty list for this part: []."
            )


@dataclass(frozen=True, repr=False)
class AccountsTrial(ServerAccounts[A]):
    """Tries the accounts of a backup in a drill. Inherit it beside the class of the accounts.

    Attributes:
        notes: What the drill has not tried.
        found: How many accounts of each kind came out of the backup.
    """

    notes: list[str] = field(default_factory=list, compare=False)
    found: dict[str, int] = field(default_factory=dict, compare=False)

    def counts(self) -> dict[str, int]:
        """See `Database`."""
        return self.found

    def restore(self, dump: DumpReader, only: Sequence[str] = ()) -> None:
        """See `Database`."""
        with restoring(self.name, "for a drill"):
            stored = self._stored(dump)
            self._try(stored)
        self.found.update(stored.counts)
        check_counts(self.found, dump.counts)

    def _try(self, stored: A) -> None:
        """Try to create the accounts, and take that back."""
        raise NotImplementedError


def without_options(url: str, names: Collection[str]) -> str:
    """Return a URL without some of the options after its `?`."""
    head, _, options = url.partition("?")
    kept = [option for option in options.split("&") if option and unquote(option.partition("=")[0]) not in names]
    return f"{head}?{'&'.join(kept)}" if kept else head


def place(name: str) -> str:
    """Return the name of the server in the name of one of its databases."""
    return name.rpartition("/")[0] + "/"
