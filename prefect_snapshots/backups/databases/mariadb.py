"""MariaDB and MySQL: `mariadb-dump` of one database, as SQL.

The dump is one transaction with a snapshot of all transactional tables. Rows are in the order of their keys, one row
per line, so equal rows are equal lines. The rows are counted in the lines that are backed up.

A restore loads the whole backup into a new database and counts it there. Then the tables are exchanged in one
statement, which the server executes completely or not at all. Triggers, routines, events and views, which cannot be
moved between databases, are dropped and created again. If something fails, everything is undone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import os
import re
import secrets
import socket
import subprocess
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Annotated, Any, ClassVar
from urllib.parse import quote

import msgspec

from ...errors import BackupFailed, InvalidArgument, SourceUnusable
from ...messages import logger
from ..sources import Database, DatabaseDescription, Dump, DumpFile, DumpNote, DumpReader, Switch
from ..working import check_space
from .base import (
    Address,
    Checksums,
    ServerDatabase,
    Tool,
    check_counts,
    check_only,
    drill_lock,
    drill_mark,
    private_file,
    read_settings,
    restoring,
)
from .mariadb_dumps import (
    AS_STORED,
    RowCounter,
    StatementPart,
    can_be_split,
    created_view,
    definer,
    disabled,
    drops_view,
    in_order_of_use,
    is_setting,
    of_this_database,
    replacing,
    rows,
    sets_back,
    statements,
    taking_all_dates,
    without_definer,
    without_far_keys,
    without_places,
)

_DUMP = "database.sql"
_SETTINGS = "database.json"
_PACKAGE = "mariadb-client"
_OPTIONS = {"unix_socket": "socket", "ssl_ca": "ssl-ca", "ssl_cert": "ssl-cert", "ssl_key": "ssl-key"}
"""What a URL may say after its `?`, and the clients' option of the same meaning."""
_USER = "snapshots_drill_"
"""How the names of users for drills begin. MySQL allows 32 characters."""
_STEM = 36
"""Characters of the name of a database that names beside it begin with: a name has 64 at most."""
_LEFT = re.compile(r"(?s)(.*)_(?:being_restored|replaced)_([0-9a-f]{8})")
_LONGEST_DRILL = 7 * 24 * 3600
"""Seconds after which the server may end the session that holds the lock of a drill: longer than any drill takes."""
_MB = 1 << 20  # to round sizes: far less than anybody leaves free on a disk
_HERE = ("", "localhost", "127.0.0.1", "::1")
_STRICT, _OWNERS = "strict", "owners"
"""Options of a URL: with `false`, views that cannot be used are left out of the backup, and a restore creates
everything for its own user."""

# Without LOCK TABLES, because a locked session cannot read the sequences that defaults refer to.
_DUMPED = (
    *("--single-transaction", "--quick", "--order-by-primary", "--no-autocommit", "--hex-blob", "--skip-comments"),
    *("--routines", "--triggers", "--events", "--default-character-set=utf8mb4", "--max-allowed-packet=1G"),
    "--skip-add-locks",
)
_ONE_ROW_A_LINE = (10, 11)
"""The version of mariadb-dump from which statements of many rows have one row a line; others get statements of one."""

_FOR_PROGRAMS = (
    f"SET sql_mode = '{AS_STORED}', autocommit = 1, completion_type = 0, sql_select_limit = 18446744073709551615, "
    "sql_big_selects = 1, sql_safe_updates = 0, sql_auto_is_null = 0 "
    "/*M! , tx_read_only = 0, max_statement_time = 0, idle_transaction_timeout = 0 */"
)
"""What a server, or its `init_connect`, may have set for people. MySQL has other names for the last ones."""

_BRIEFLY = b"/*M! SET max_statement_time = 5 */;\n"
"""In front of a look at all views, which reads no rows: seconds for each, in case that planning one takes long."""
FAILED = re.compile(r"(?m)^ERROR (\d+) \(\w+\) at line (\d+): (.*)")
_TIMED_OUT = "1969"
_DENIED = frozenset({"1044", "1142", "1143", "1227", "1370"})
"""What a server says when rights are missing: on a database, a table, a column, for everything, on a routine."""
_AS_THEY_ARE = (
    b"/*M! SET check_constraint_checks = 0, innodb_strict_mode = 0 */;\n"
    b"/*M!101100 SET system_versioning_insert_history = 1 */;\n"
)
"""In front of a dump: rows that break a CHECK, and tables that the strict mode forbids, were accepted once.

Without this no restore would take them. Rows keep the times from which they are valid. Other servers than MariaDB pass
over it."""

_DATA = re.compile(
    r"(?ms)^-{10,}\n.*?\n-{10,}\n|^-{10,}\n.*\Z"
    # A value may have such a sentence in it: up to the last place where it can end.
    r"|(?P<kept>Duplicate entry|\bvalue:?|\bnear|Illegal \w+) "
    r"(?:'.*'(?= for (?:key|column|function) | at line \d| value )|'.*)"
)
"""What a client repeats of the statement that failed: the rows of somebody's tables."""


class _MariaDBSettings(msgspec.Struct, forbid_unknown_fields=True):
    """What belongs to a database itself; names of character sets and collations are words."""

    database: str
    charset: str
    collation: str
    left_out: list[str] = []
    size: Annotated[int, msgspec.Meta(ge=0, lt=2**62)] = 0
    """Bytes of its tables and indexes on the server."""

    def __post_init__(self) -> None:
        for word in (self.charset, self.collation):
            if not re.fullmatch(r"[A-Za-z0-9_]{1,64}", word):
                raise ValueError("a character set or a collation is no word")


_PLAIN_BACKSLASHES = """
SELECT JSON_ARRAY(what, name, coalesce(code, '')) FROM (
SELECT lower(routine_type) what, routine_name name, routine_definition code, sql_mode
FROM information_schema.routines WHERE routine_schema = database()
UNION SELECT 'trigger', trigger_name, action_statement, sql_mode
FROM information_schema.triggers WHERE trigger_schema = database()
UNION SELECT 'event', event_name, event_definition, sql_mode
FROM information_schema.events WHERE event_schema = database()
) code WHERE sql_mode LIKE '%NO_BACKSLASH_ESCAPES%' ORDER BY 1"""
"""Code in whose strings a backslash is a character like any other."""


@dataclass(frozen=True, repr=False)
class MariaDB(ServerDatabase):
    """A database of a MariaDB or MySQL server.

    Example:
        >>> from prefect_snapshots.backups.databases import MariaDB
        >>> MariaDB("mysql://backup:secret@db.example.com/shop").name
        'mariadb://db.example.com:3306/shop'

    Parts that the URL leaves out come from `~/.my.cnf`. The URL can have the options `?unix_socket=`, `ssl_ca=`,
    `ssl_cert=`, `ssl_key=`, and `strict=false`, which leaves out views that cannot be restored, such as views of a
    deleted table. With `owners=false`, what a restore creates belongs to its own user, and not to the users in the
    backup (`DEFINER`).
    """

    schemes: ClassVar[tuple[str, ...]] = ("mariadb", "mysql")
    kind: ClassVar[str] = "mariadb"
    swaps: ClassVar[bool] = False
    description: ClassVar[DatabaseDescription] = DatabaseDescription(
        title="MariaDB, MySQL",
        urls="`mariadb://user@host/name`, `mysql://`",
        needs="`mariadb-client`",
        dump=(
            "one snapshot of all InnoDB tables (`mariadb-dump --single-transaction`), rows counted from the dump itself"
        ),
        restored=(
            "into a new database, which is counted; then all tables are exchanged in one statement, and triggers, "
            "routines, events and views are created again. A failure is undone"
        ),
        not_kept=(
            "users and rights (unless you back up [the whole server](backups.md#whole-servers)), the comment of a "
            "database, the GTID position, the history of system-versioned tables (a backup names them), and the "
            "transaction numbers of those with such columns (a drill says that they differ), digits of a FLOAT after "
            "the sixth (a backup names the columns; a DOUBLE keeps all), folders of their own (`DATA DIRECTORY`, with "
            "a warning); tables of engines without transactions are not dumped at the same moment. A row whose SQL is "
            "longer than the server's `max_allowed_packet` cannot be restored (blobs take twice their size). A "
            "function, procedure, trigger or event in whose strings a backslash stands before a quote in the mode "
            "`NO_BACKSLASH_ESCAPES` prevents a backup, which names it. `mariadb-dump` cannot dump events "
            "of a database whose *name* has quotes, backslashes or control characters"
        ),
    )
    default_port: ClassVar[int] = 3306
    options: ClassVar[tuple[str, ...]] = (*_OPTIONS, _STRICT, _OWNERS)

    def check_url(self, address: Address) -> None:
        for option in (_STRICT, _OWNERS):
            if address.options.get(option, "true") not in ("true", "false"):
                raise InvalidArgument(f"In the URL of a MariaDB database, {option}= is true or false.")

    def check(self) -> list[str]:
        with self._client("mariadb-dump mysqldump") as tool:
            dump = tool.run("--version").decode().strip()
        ((server,),) = self._ask("SELECT JSON_ARRAY(version())")
        found = [(dump.partition("/")[2] and dump.rpartition("/")[2]) or dump, f"server {server}"]
        mine, others = self._definers()
        if others and not self._may_define():
            named = ", ".join(f"{what.lower()} {name!r} of {definer}" for what, name, definer in others)
            found.append(f"{mine} cannot restore this database: {named} would need the right SET USER")
        return found

    def check_restorable(self) -> list[str]:
        """See `Database`."""
        unreadable = [
            f"{what.capitalize()} {name!r} could not be restored: it has a string with a backslash before a quote, and "
            "the mode NO_BACKSLASH_ESCAPES. Create it again in a session without this mode."
            for what, name, code in self._ask(_PLAIN_BACKSLASHES)
            if not can_be_split(code.encode())
        ]
        if self.address.options.get(_STRICT) == "false":
            return unreadable
        remedy = f"Correct or drop the view, or add {_STRICT}=false to the URL to leave it out."
        broken = self._broken_views().items()
        return [*(f"View {name!r} cannot be used: {why} {remedy}" for name, why in broken), *unreadable]

    @contextlib.contextmanager
    def dump(self) -> Iterator[Dump]:
        self._check_settings()
        found = self._ask(
            "SELECT JSON_ARRAY(default_character_set_name, default_collation_name) FROM information_schema.schemata "
            f"WHERE schema_name = {_literal(self._database)}"
        )
        if not found:
            raise SourceUnusable(f"{self.name}: There is no such database.")
        broken = self._broken_views() if self.address.options.get(_STRICT) == "false" else {}
        ((charset, collation),) = found
        ((size,),) = self._ask(
            "SELECT JSON_ARRAY(coalesce(sum(data_length + index_length), 0)) FROM information_schema.tables "
            "WHERE table_schema = database()"
        )
        # In whole MB: equal data has equal dumps, though a server counts a few pages more now and then.
        size = math.ceil(size / _MB) * _MB
        settings = _MariaDBSettings(self._database, charset, collation, [f"view {name}" for name in broken], size)
        ignored = [f"--ignore-table={self._database}.{name}" for name in broken]
        with self._client("mariadb-dump mysqldump") as tool:
            version = re.search(rb"(\d+)\.(\d+)\.\d+-MariaDB", tool.run("--version"))
            many = version is not None and (int(version[1]), int(version[2])) >= _ONE_ROW_A_LINE
            arguments = [*_DUMPED, *ignored, *([] if many else ["--skip-extended-insert"]), "--", self._database]
            with contextlib.closing(tool.stream(*arguments)) as stream:
                counter = RowCounter()
                yield Dump(
                    [
                        DumpFile(_SETTINGS, iter([msgspec.json.encode(settings)])),
                        DumpFile(_DUMP, counter.passed(stream)),
                    ],
                    counter.counts,
                    [
                        *(DumpNote(f"View {name!r} is left out: {why}", left_out=True) for name, why in broken.items()),
                        *self._without_keys(),
                        *self._not_kept(),
                    ],
                )

    def counts(self) -> dict[str, int]:
        tables = self._tables()
        # No dump has rows of these: they are those of other tables.
        merged = self._ask(
            "SELECT JSON_ARRAY(table_name) FROM information_schema.tables WHERE table_schema = database() "
            "AND engine = 'MRG_MyISAM'"
        )
        without = {name for (name,) in merged}
        # By number, because quoting a name as a string depends on the server's mode.
        counted = [
            f"SELECT JSON_ARRAY({i}, {0 if table in without else f'(SELECT count(*) FROM {_quoted(table)})'})"
            for i, table in enumerate(tables)
        ]
        query = "; ".join(["START TRANSACTION WITH CONSISTENT SNAPSHOT", *counted])
        return {tables[i]: n for i, n in self._ask(query)} if tables else {}

    def checksums(self, dump: Iterable[DumpFile]) -> dict[str, str]:
        found = Checksums()
        for file in dump:
            if file.path == _DUMP:
                for table, row in rows(file.pieces):
                    found.add(table, row)
        return found.of_tables()

    @contextlib.contextmanager
    def stage(self, dump: DumpReader, only: Sequence[str] = ()) -> Iterator[Switch]:
        """See `StagedRestores`."""
        check_only(only, dump.counts)
        with contextlib.ExitStack() as stack:
            with restoring(self.name, "and is unchanged"):
                staged = stack.enter_context(self._staged_tables(dump, only) if only else self._staged(dump))

            def switch() -> Sequence[str]:
                with restoring(self.name, "and is unchanged"):
                    return staged()

            yield switch

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Database]:
        self.drop_abandoned()
        mark = drill_mark()
        # Before anything is made: what has no lock is dropped by others. The session ends with this process.
        with self._transaction("") as ask, self._beside("drill", mark) as other:
            ask(f"SET wait_timeout = {_LONGEST_DRILL}")
            ask(f"DO GET_LOCK({_literal(_lock(drill_lock(other._database)))}, 0)")
            other._ask(f"CREATE DATABASE {_quoted(other._database)}", database="")
            with self._confined(other, mark) as (address, password, notes):
                yield _ScratchMariaDB(address, password, list(notes))

    def drop_abandoned(self) -> list[str]:
        """See `DropsAbandoned`."""
        names = self._ask(
            "SELECT JSON_ARRAY(schema_name) FROM information_schema.schemata WHERE schema_name LIKE '%drill%'", ""
        )
        locks = {name: lock for (name,) in names if (lock := drill_lock(name)) is not None}
        if not locks:
            return []
        # After the names: whoever made one of them held its lock before.
        used = self._ask(
            "; ".join(
                f"SELECT JSON_ARRAY(IS_USED_LOCK({_literal(_lock(lock))}) IS NOT NULL)" for lock in locks.values()
            ),
            "",
        )
        left = [name for name, (held,) in zip(locks, used, strict=True) if not held]
        for name in left:
            # The user goes first, because only the name of the database tells that it is there. Whoever may not drop
            # users has made none.
            with contextlib.suppress(BackupFailed):
                self._ask(f"DROP USER IF EXISTS '{_USER}{name.rpartition('_')[2]}'@'%'", "")
            try:
                self._ask(f"DROP DATABASE IF EXISTS {_quoted(name)}", "")
            except BackupFailed as error:
                logger.warning("The database %s, which a killed drill has left, could not be dropped: %s", name, error)
        return left

    # --- restoring ---

    @contextlib.contextmanager
    def _staged(self, dump: DumpReader) -> Iterator[Switch]:
        """Build the backup in a database beside this one; the switch lets the tables change places."""
        self._check_settings()
        settings, there = read_settings(dump, _SETTINGS, _MariaDBSettings), self.is_there()
        referring = self._ask(
            "SELECT DISTINCT JSON_ARRAY(table_schema, table_name) FROM information_schema.key_column_usage "
            "WHERE referenced_table_schema = database() AND table_schema <> database()",
            database=self._database if there else "",
        )
        if referring:
            tables = ", ".join(".".join(row) for row in referring)
            raise BackupFailed(f"Tables of other databases refer to tables of this one: {tables}.")
        mine, others = self._definers() if there else ("", [])
        if others and not self._may_define():
            named = ", ".join(f"{what.lower()} {name!r} of {definer}" for what, name, definer in others)
            raise BackupFailed(
                f"The restore would drop {named}, which {mine} could not create again if it failed. Grant SET USER to "
                f"{mine}, or restore as an administrator."
            )
        copy = settings.database != self._database
        with self._beside("being_restored", _mark(self._database)) as other, tempfile.TemporaryFile() as code:
            other._drop_database()  # what an earlier restore left that was killed
            other._create(settings)
            moved = other._load(dump, settings, code, copy)
            check_counts(other.counts(), dump.counts)
            owners = {owner for text, _ in _kept(code) if (owner := definer(text))}
            warnings = [*self._check_owners(owners), *self._other_engines(), *moved]
            # This proves that it can be created. Events would begin to run, and so they are created disabled. In a
            # database of this name, definers have no rights, and views of such views cannot be created.
            other._run(without_definer(disabled(text) if event else text) for text, event in _kept(code))

            def switch() -> Sequence[str]:
                self._switch(other, settings, code)
                return warnings

            yield switch

    def _check_owners(self, owners: Collection[tuple[str, str]]) -> list[str]:
        """Return a warning about owners that this server does not have.

        Raises:
            BackupFailed: We may not create anything for others.
        """
        ((mine,),) = self._ask("SELECT JSON_ARRAY(current_user())", database="")
        others = sorted(name for owner in owners if (name := _account(*owner)) != mine)
        remedy = f"or add ?{_OWNERS}=false to the URL of the target, so that everything belongs to {mine}."
        if others and not self._may_define():
            raise BackupFailed(
                f"The backup has code and views of {', '.join(others)}, which {mine} may not create. Grant SET USER to "
                f"{mine}, restore as an administrator, {remedy}"
            )
        try:
            there = {_account(*account) for account in self._ask("SELECT JSON_ARRAY(user, host) FROM mysql.user", "")}
        except BackupFailed:  # whoever may not see users learns it from the server, when the code runs
            return []
        if absent := [name for name in others if name not in there]:
            return [
                f"{self.name} has code and views of users that do not exist on this server: {', '.join(absent)}. They "
                f"fail until you create these users, {remedy}"
            ]
        return []

    def _check_settings(self) -> None:
        """Refuse what `mariadb-dump` cannot switch off, and would leave out rows for, or write what nobody can load.

        Raises:
            BackupFailed: The server has such a setting for every session.
        """
        with self._client("mariadb mysql", programs=False) as tool:
            query = (
                b"SELECT JSON_ARRAY(@@sql_select_limit < 18446744073709551615, @@sql_quote_show_create + 0 "
                b"/*M! , @@system_versioning_asof */)"
            )
            limited, quoted, *times = json.loads(tool.run(*SESSION, stdin=[query]))
        remedy = "Set it to DEFAULT, and look into init_connect, too."
        if limited:
            raise SourceUnusable(f"The server limits the rows of every query by sql_select_limit. {remedy}")
        if not quoted:
            raise SourceUnusable(f"The server quotes no names, because of sql_quote_show_create. {remedy}")
        if times and times[0] != "DEFAULT":
            raise SourceUnusable(f"The server shows all sessions old rows, because of system_versioning_asof. {remedy}")

    def _without_keys(self) -> list[DumpNote]:
        """Tables that this server would not let anybody create."""
        ((forced,),) = self._ask("SELECT JSON_ARRAY(0 /*M! + @@innodb_force_primary_key */)", database="")
        if not forced:
            return []
        tables = self._ask(
            "SELECT JSON_ARRAY(t.table_name) FROM information_schema.tables t LEFT JOIN information_schema.statistics s"
            " ON s.table_schema = t.table_schema AND s.table_name = t.table_name AND s.non_unique = 0 "
            "WHERE t.table_schema = database() AND t.engine = 'InnoDB' AND t.table_type <> 'SEQUENCE' "
            "AND s.table_name IS NULL ORDER BY t.table_name"
        )
        return [
            DumpNote(
                f"Table {name!r} has no primary key, and the server creates no such table: set "
                "innodb_force_primary_key to OFF before you restore, or add a primary key."
            )
            for (name,) in tables
        ]

    def _not_kept(self) -> list[DumpNote]:
        """What `mariadb-dump` does not write: digits of a FLOAT behind the sixth one, and earlier rows of tables."""
        floats = self._ask(
            "SELECT JSON_ARRAY(table_name, column_name) FROM information_schema.columns WHERE table_schema = database()"
            " AND data_type = 'float' AND coalesce(generation_expression, '') = '' AND table_name IN (SELECT table_name"
            " FROM information_schema.tables WHERE table_schema = database() AND table_type <> 'VIEW') ORDER BY 1"
        )
        # A client gets the text of a FLOAT, and reads only that far until a value differs.
        lossy = "SELECT JSON_ARRAY({i}, EXISTS (SELECT 1 FROM {t} WHERE cast(cast({c} AS char) AS float) <> {c}))"
        asked = [lossy.format(i=i, t=_quoted(table), c=_quoted(name)) for i, (table, name) in enumerate(floats)]
        lost = [floats[i] for i, loses in (self._ask("; ".join(asked)) if asked else []) if loses]
        versioned = self._ask(
            "SELECT JSON_ARRAY(table_name) FROM information_schema.tables WHERE table_schema = database() "
            "AND table_type = 'SYSTEM VERSIONED' ORDER BY table_name"
        )
        return [
            *(
                DumpNote(
                    f"Column {column!r} of table {table!r} loses digits: mariadb-dump writes 6 of a FLOAT. Make it a "
                    "DOUBLE to keep all."
                )
                for table, column in lost
            ),
            *(
                DumpNote(f"Table {name!r} is system-versioned: its rows are kept, and its history is not.")
                for (name,) in versioned
            ),
        ]

    def _other_engines(self) -> list[str]:
        """Return a warning if the server chooses the engine of all tables."""
        ((engine, *_),) = self._ask("SELECT JSON_ARRAY(/*M! @@enforce_storage_engine, */ NULL)", database="")
        if engine is None:
            return []
        return [f"All tables are tables of {engine}, because the server creates no others (enforce_storage_engine)."]

    def _load(self, dump: DumpReader, settings: _MariaDBSettings, code: IO[bytes], copy: bool) -> list[str]:
        """Create and fill the tables of a dump, and write what else it creates to `code`.

        Returns:
            Warnings: what is not as it was.

        Raises:
            StorageFull: They do not fit on the server. Nothing was created.
        """
        ((host, folder),) = self._ask("SELECT JSON_ARRAY(@@hostname, @@datadir)")
        # The space of another machine, or of a container whose port is forwarded, cannot be known.
        if self.address.host in _HERE and host == socket.gethostname() and os.path.isdir(folder):
            check_space(settings.size, Path(folder), f"A copy of {settings.database} on the server")

        owners = self.address.options.get(_OWNERS) != "false"
        warnings: list[str] = []

        def tables() -> Iterator[bytes]:
            for part, text in statements(dump.open(_DUMP)):
                if part in (StatementPart.TABLES, StatementPart.BOTH):
                    if text.startswith(b"("):
                        yield text
                    else:
                        yield self._adapted(of_this_database(taking_all_dates(text), settings.database), warnings)
                if part is not StatementPart.TABLES:
                    kept = of_this_database(text if owners else without_definer(text), settings.database)
                    _keep(
                        code,
                        disabled(kept) if part is StatementPart.EVENT and copy else kept,
                        part is StatementPart.EVENT,
                    )

        self._run(itertools.chain([_AS_THEY_ARE], tables()))
        return warnings

    def _adapted(self, statement: bytes, warnings: list[str]) -> bytes:
        """Return a statement that makes a table, or sets something, so that it can run here."""
        found, places = without_places(statement)
        if places:
            warnings.append(f"Table {places} is in the folder of its database, and no longer in one of its own.")
        return found

    def _switch(self, other: MariaDB, settings: _MariaDBSettings, code: IO[bytes]) -> None:
        """Let the tables change places, and create anew what cannot be moved.

        Until the end, the old tables stand in a third database, and `before` has what else there was. Routines are
        replaced, and not dropped and created: dropping one revokes all rights on it.
        """
        with self._beside("replaced", _mark(self._database)) as replaced, tempfile.TemporaryFile() as before:
            replaced._drop_database()
            replaced._create(settings)
            there = self.is_there()
            old, new = self._tables(sequences=True) if there else [], other._tables(sequences=True)
            routines = other._routines()
            unusable: list[str] = []
            if there:
                # Nobody could create these again, and so they are dropped when everything else has succeeded.
                broken = self._broken_views()
                unusable = [name for name in broken if name not in {*new, *other._views()}]
                self._dump_code(before, broken)
            else:
                self._create(settings)
            earlier = self._routines()
            try:
                # A table with triggers cannot be moved, and a view would keep its name from a table.
                self._drop_code(unusable)
                other._drop_code()
                _exchange(self, (self, replaced, old), (other, self, new))
                self._qualify_sequences(other._database)
                self._recreate(code)
                self._drop_routines(set(earlier) - set(routines))
                self._ask(f"ALTER DATABASE {_quoted(self._database)} {_charset(settings)}")
                if unusable:
                    self._ask("; ".join(f"DROP VIEW IF EXISTS {_quoted(name)}" for name in unusable))
            except BaseException:
                self._take_back(other, replaced, there, new, before, unusable, earlier)
                raise

    def _take_back(
        self,
        other: MariaDB,
        replaced: MariaDB,
        there: bool,
        new: Sequence[str],
        before: IO[bytes],
        unusable: Sequence[str],
        earlier: Collection[tuple[str, str]],
    ) -> None:
        """Make the database what it was before `_switch`, wherever that failed."""
        if not there:
            self._drop_database()
            return
        self._drop_code(unusable)
        if old := replaced._tables(sequences=True):
            # The old tables have left, and so the new ones are here: the exchange was one statement.
            _exchange(self, (self, other, new), (replaced, self, old))
            self._qualify_sequences(replaced._database)
        self._recreate(before)
        self._drop_routines(set(self._routines()) - set(earlier))

    def _recreate(self, code: IO[bytes]) -> None:
        """Run a file of statements, so that they replace routines if the server can do that. MySQL cannot."""
        ((version,),) = self._ask("SELECT JSON_ARRAY(version())")
        self._run(replacing(text) if "MariaDB" in version else text for text, _ in _kept(code))

    def _routines(self) -> list[tuple[str, str]]:
        """The kind and the name of each routine."""
        found = self._ask(
            "SELECT JSON_ARRAY(routine_type, routine_name) FROM information_schema.routines "
            "WHERE routine_schema = database() AND routine_type <> 'PACKAGE BODY'"
        )
        return [(what, name) for what, name in found]

    def _drop_routines(self, routines: Collection[tuple[str, str]]) -> None:
        if routines:
            self._ask("; ".join(f"DROP {what} IF EXISTS {_quoted(name)}" for what, name in sorted(routines)))

    def _drop_code(self, but: Sequence[str] = ()) -> None:
        """Drop triggers, events and views, but not the views `but`."""
        found = self._ask(
            "SELECT JSON_ARRAY('TRIGGER', trigger_name) FROM information_schema.triggers "
            "WHERE trigger_schema = database() UNION ALL SELECT JSON_ARRAY('EVENT', event_name) "
            "FROM information_schema.events WHERE event_schema = database() UNION ALL "
            "SELECT JSON_ARRAY('VIEW', table_name) FROM information_schema.views WHERE table_schema = database()"
        )
        dropped = [
            f"DROP {what} IF EXISTS {_quoted(name)}" for what, name in found if what != "VIEW" or name not in but
        ]
        if dropped:
            self._ask("; ".join(dropped))

    def _dump_code(self, to: IO[bytes], broken: Collection[str]) -> None:
        """Write the statements that create triggers, routines, events and all views but the broken ones anew."""
        views = [name for name in self._views() if name not in broken]
        with self._client("mariadb-dump mysqldump") as tool:
            dumps = []
            if views:
                without = ["--no-data", "--skip-triggers", "--skip-routines", "--skip-events"]
                dumps.append([*without, "--", self._database, *views])
            ignored = [f"--ignore-table={self._database}.{name}" for name in broken]
            dumps.append(["--no-data", "--no-create-info", *ignored, "--", self._database])
            for arguments in dumps:
                for part, text in statements([tool.run(*_DUMPED, *arguments)]):
                    _keep(to, text, part is StatementPart.EVENT)

    def _qualify_sequences(self, source: str) -> None:
        """Let defaults draw from the sequences of this database, and not from those of where their table stood."""
        old, new = f"{_quoted(source)}.", f"{_quoted(self._database)}."
        found = self._ask(
            "SELECT JSON_ARRAY(table_name, column_name, column_default) FROM information_schema.columns "
            f"WHERE table_schema = database() AND locate({_literal(old)}, column_default) AND table_name NOT IN "
            "(SELECT table_name FROM information_schema.views WHERE table_schema = database())"
        )
        changed: dict[str, list[str]] = {}
        for table, column, default in found:
            # All columns of a table at once: while one of them names a sequence that is gone, nothing else can be
            # changed.
            clause = f"ALTER COLUMN {_quoted(column)} SET DEFAULT ({default.replace(old, new)})"
            changed.setdefault(table, []).append(clause)
        if changed:
            self._ask("; ".join(f"ALTER TABLE {_quoted(name)} {', '.join(each)}" for name, each in changed.items()))

    @contextlib.contextmanager
    def _staged_tables(self, dump: DumpReader, only: Sequence[str]) -> Iterator[Switch]:
        """Replace the rows of some tables in a transaction; the switch commits it."""
        if absent := sorted(set(only) - set(self._tables())):
            raise BackupFailed(
                f"{', '.join(absent)} is not in the database. Restore the whole backup to another database, and copy "
                "the table from there."
            )
        triggers = self._ask(
            "SELECT JSON_ARRAY(event_object_table) FROM information_schema.triggers WHERE trigger_schema = database()"
        )
        if hit := sorted({table for (table,) in triggers} & set(only)):
            raise BackupFailed(
                f"{', '.join(hit)} has triggers, which would react to every row. Restore the whole backup, maybe to "
                "another database."
            )
        settings = read_settings(dump, _SETTINGS, _MariaDBSettings)
        with self._beside("being_restored", _mark(self._database)) as other, tempfile.TemporaryFile() as code:
            other._drop_database()
            other._create(settings)
            other._load(dump, settings, code, copy=True)
            todo = ["SET foreign_key_checks = 0", _AS_THEY_ARE.decode().strip().strip(";"), "START TRANSACTION"]
            for table in only:
                to, source = _quoted(table), f"{_quoted(other._database)}.{_quoted(table)}"
                columns = ", ".join(_quoted(column) for column in other._columns(table))
                todo += [f"DELETE FROM {to}", f"INSERT INTO {to} ({columns}) SELECT {columns} FROM {source}"]
            orphans = " UNION ".join(self._orphans(only))
            with self._transaction() as ask:
                before = ask(orphans) if orphans else []
                ask("; ".join(todo))
                new = [row for row in ask(orphans) if row not in before] if orphans else []
                if new:
                    # Rows that refer to nothing in the backup either would never come back.
                    others = [row for row in other._ask(" UNION ".join(other._orphans(only))) if row[1] in only]
                    if any(row not in others for row in new):
                        raise BackupFailed(
                            "Some rows would refer to rows that do not exist. Restore the tables together."
                        )
                tables = ", ".join(sorted({table for _, table, *_ in new}))
                warnings = [f"Rows of {tables} refer to rows that do not exist, as in the backup."] if new else []
                counters = other._counters()

                def commit() -> Sequence[str]:
                    ask("COMMIT")
                    return [*warnings, *self._count_on({name: counters[name] for name in only if name in counters})]

                yield commit

    def _counters(self) -> dict[str, int]:
        """The next AUTO_INCREMENT of each table."""
        return dict(
            self._ask(
                "SELECT JSON_ARRAY(table_name, auto_increment) FROM information_schema.tables "
                "WHERE table_schema = database() AND auto_increment IS NOT NULL"
            )
        )

    def _count_on(self, counters: Mapping[str, int]) -> list[str]:
        """Let tables not give numbers again that they had given before the backup. Returns warnings."""
        here = self._counters() if counters else {}
        behind = {name: number for name, number in counters.items() if here.get(name, number) < number}
        if not behind:
            return []
        try:
            self._ask("; ".join(f"ALTER TABLE {_quoted(name)} AUTO_INCREMENT = {n}" for name, n in behind.items()))
        except BackupFailed as error:
            return [f"AUTO_INCREMENT of {', '.join(behind)} is lower than in the backup: {error}"]
        return []

    def _columns(self, table: str) -> list[str]:
        """Those that are not generated."""
        return [
            column
            for name, column in self._ask(
                "SELECT JSON_ARRAY(table_name, column_name) FROM information_schema.columns "
                "WHERE table_schema = database() AND coalesce(generation_expression, '') = '' ORDER BY ordinal_position"
            )
            if name == table
        ]

    def _orphans(self, only: Sequence[str]) -> Iterator[str]:
        """For each foreign key of these tables or to them: a query for what rows refer to, but does not exist."""
        keys = self._ask(
            "SELECT JSON_ARRAY(table_schema, table_name, constraint_name, referenced_table_schema, "
            "referenced_table_name, column_name, referenced_column_name) FROM information_schema.key_column_usage "
            "WHERE referenced_table_schema = database() OR table_schema = database() AND referenced_table_schema <> '' "
            "ORDER BY table_schema, table_name, constraint_name, ordinal_position"
        )
        keyed = itertools.groupby(keys, key=lambda row: row[:5])
        for (schema, table, key, *referred), columns in keyed:
            if {(schema, table), tuple(referred)}.isdisjoint((self._database, name) for name in only):
                continue
            pairs = [(f"c.{_quoted(row[5])}", f"p.{_quoted(row[6])}") for row in columns]
            same = " AND ".join(f"{mine} = {theirs}" for mine, theirs in pairs)
            given = " AND ".join(f"{mine} IS NOT NULL" for mine, _ in pairs)
            named = ", ".join(map(_literal, ("" if schema == self._database else schema, table, key)))
            parent, child = ".".join(map(_quoted, referred)), f"{_quoted(schema)}.{_quoted(table)}"
            values = ", ".join(f"hex(cast({mine} AS binary))" for mine, _ in pairs)
            yield (
                f"SELECT JSON_ARRAY({named}, {values}) FROM {child} c LEFT JOIN {parent} p ON {same} "
                f"WHERE {pairs[0][1]} IS NULL AND {given}"
            )

    # --- names, tools and sessions ---

    @property
    def _database(self) -> str:
        return self.address.database

    @contextlib.contextmanager
    def _beside(self, what: str, mark: str) -> Iterator[MariaDB]:
        """Another database, which is dropped when the block ends."""
        stem = self._database[:_STEM]
        other = dataclasses.replace(self, url=self.renamed(f"{stem}_{what}_{mark}"))
        try:
            yield other
        finally:
            # By then it is decided whether a restore has succeeded, and the next one drops what is left.
            try:
                other._drop_database()
            except BackupFailed as error:
                logger.warning("The database %s could not be dropped: %s", other._database, error)

    @contextlib.contextmanager
    def _confined(self, other: MariaDB, mark: str) -> Iterator[tuple[str, Any, tuple[str, ...]]]:
        """The URL and the password of a user who may touch that database alone, and what a drill has to say of it.

        The statements of a dump run with the rights of whoever restores it.
        """
        user, password = f"{_USER}{mark}", secrets.token_hex(16)
        pattern = re.sub(r"([\\_%])", r"\\\1", other._database)
        account = f"'{user}'@'%'"
        made = f"CREATE USER {account} IDENTIFIED BY '{password}'; GRANT ALL ON {_quoted(pattern)}.* TO {account}"
        try:
            try:
                self._ask(made, database="")
            except BackupFailed:
                note = (
                    "The drill ran with the rights of the backup's user, who may not create other users. A malicious "
                    "backup could have used these rights. Grant CREATE USER, so that drills run with fewer rights."
                )
                yield other.url, other.password, (note,)
            else:
                scheme, _, rest = other.url.partition("://")
                yield f"{scheme}://{quote(user)}@{rest.rpartition('@')[2]}", password, ()
        finally:
            with contextlib.suppress(BackupFailed):  # whoever may not drop users has made none
                self._ask(f"DROP USER IF EXISTS {account}", database="")

    def is_there(self) -> bool:
        """See `CanBeMissing`."""
        name = _literal(self._database)
        found = f"SELECT JSON_ARRAY(count(*)) FROM information_schema.schemata WHERE schema_name = {name}"
        return self._ask(found, database="") != [[0]]

    def _create(self, settings: _MariaDBSettings) -> None:
        self._ask(f"CREATE DATABASE {_quoted(self._database)} {_charset(settings)}", database="")

    def _drop_database(self) -> None:
        self._ask(f"DROP DATABASE IF EXISTS {_quoted(self._database)}", database="")

    def _tables(self, sequences: bool = False) -> list[str]:
        kinds = "'BASE TABLE', 'SYSTEM VERSIONED'" + (", 'SEQUENCE'" if sequences else "")
        return [
            name
            for (name,) in self._ask(
                "SELECT JSON_ARRAY(table_name) FROM information_schema.tables WHERE table_schema = database() "
                f"AND table_type IN ({kinds}) ORDER BY table_name"
            )
        ]

    def _broken_views(self) -> dict[str, str]:
        """Views that cannot be used, and what the server says of each: no server lets anybody create such a view."""
        names = self._views()
        asked = [f"SELECT 1 FROM {_quoted(name)} LIMIT 0;\n".encode() for name in names]
        starts = itertools.accumulate((query.count(b"\n") for query in asked), initial=2)
        by_line = dict(zip(starts, names, strict=False))
        with self._client("mariadb mysql") as tool, tempfile.TemporaryFile() as said:
            # With `--force`, a statement that fails is no failure of the client; a server that is gone is one.
            tool.run(*SESSION, "--force", *_in(self._database), stdin=itertools.chain([_BRIEFLY], asked), stderr=said)
            said.seek(0)
            found = FAILED.findall(said.read().decode(errors="replace"))
        return {by_line[int(line)]: f"{why.strip()}." for code, line, why in found if code != _TIMED_OUT}

    def _views(self) -> list[str]:
        found = self._ask(
            "SELECT JSON_ARRAY(table_name) FROM information_schema.views WHERE table_schema = database() "
            "ORDER BY table_name"
        )
        return [name for (name,) in found]

    def _definers(self) -> tuple[str, list[tuple[str, str, str]]]:
        """Who we are, and what belongs to somebody else: kind, name, definer."""
        ((mine,),) = self._ask("SELECT JSON_ARRAY(current_user())")
        found = self._ask(
            "SELECT JSON_ARRAY('Trigger', trigger_name, definer) FROM information_schema.triggers "
            "WHERE trigger_schema = database() UNION ALL SELECT JSON_ARRAY('Event', event_name, definer) "
            "FROM information_schema.events WHERE event_schema = database() UNION ALL "
            "SELECT JSON_ARRAY('Routine', routine_name, definer) FROM information_schema.routines "
            "WHERE routine_schema = database() UNION ALL SELECT JSON_ARRAY('View', table_name, definer) "
            "FROM information_schema.views WHERE table_schema = database() ORDER BY 1"
        )
        return mine, [(what, name, definer) for what, name, definer in found if definer != mine]

    def _may_define(self) -> bool:
        """Whether we may create what belongs to somebody else."""
        found = self._ask(
            "SELECT JSON_ARRAY(count(*)) FROM information_schema.user_privileges "
            "WHERE privilege_type IN ('SUPER', 'SET USER', 'SET_USER_ID', 'SET_ANY_DEFINER')",
            database="",
        )
        return bool(found != [[0]])

    @contextlib.contextmanager
    def _client(self, names: str, *, programs: bool = True) -> Iterator[Tool]:
        """A client that knows where the server is, and the password.

        In the environment the password would be overruled by one in `~/.my.cnf`.

        Args:
            names: The names of the client.
            programs: Whether settings that are for people are switched off.
        """
        address, secret = self.address, self.secret()
        told = {
            "host": address.host,
            "port": str(address.port or ""),
            "user": address.user,
            "password": secret or "",
        }
        told |= {_OPTIONS[option]: value for option, value in address.options.items() if option in _OPTIONS}
        lines = [f"{option}={_option(value)}" for option, value in told.items() if value]
        if address.host and "unix_socket" not in address.options:
            # Otherwise "localhost" would mean a socket.
            lines.append("protocol=tcp")
        tool = Tool.find(names, _PACKAGE, {}, secret)
        with private_file("\n".join(["[client]", *lines, ""])) as (path, descriptor):
            first = [f"--defaults-extra-file={path}"]
            if programs and "dump" not in names:
                first.append(f"--init-command={_FOR_PROGRAMS}")
            yield dataclasses.replace(tool, arguments=tuple(first), descriptors=(descriptor,), hidden=_DATA)

    def _run(self, script: Iterable[bytes]) -> None:
        """Run the statements of a script; the client's own commands are off."""
        with self._client("mariadb mysql") as tool:
            tool.run("--batch", "--binary-mode", "--max-allowed-packet=1G", *_in(self._database), stdin=script)

    def _ask(self, query: str, database: str | None = None) -> list[Any]:
        """The rows of a query, each of them one JSON value."""
        chosen = self._database if database is None else database
        with self._client("mariadb mysql") as tool:
            written = tool.run(*SESSION, *_in(chosen), stdin=[query.encode()])
        return [json.loads(line) for line in written.splitlines()]

    @contextlib.contextmanager
    def _transaction(self, database: str | None = None) -> Iterator[Callable[[str], list[Any]]]:
        """A function like `_ask`, whose calls share one session."""
        chosen = self._database if database is None else database
        with (
            self._client("mariadb mysql") as tool,
            tempfile.TemporaryFile() as said,
            tool.started(
                *(*SESSION, "--unbuffered", *_in(chosen)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said
            ) as process,
        ):
            assert process.stdin is not None
            assert process.stdout is not None
            to, written = process.stdin, process.stdout

            def ask(query: str) -> list[Any]:
                with contextlib.suppress(BrokenPipeError):
                    to.write(f"{query};\nSELECT 'done';\n".encode())
                    to.flush()
                rows = []
                while (line := written.readline()) != b"done\n":
                    if not line:  # a client ends with the first statement that fails
                        said.seek(0)
                        why = tool.masked(said.read().decode(errors="replace"))
                        raise BackupFailed(f"{tool.name} ended early: {why or 'it did not say why'}")
                    rows.append(json.loads(line))
                return rows

            yield ask


@dataclass(frozen=True, repr=False)
class _ScratchMariaDB(MariaDB):
    """An empty database for a drill: what a dump creates runs nothing, and belongs to whoever drills.

    Attributes:
        notes: what the report of the drill has to say.
    """

    notes: list[str] = field(default_factory=list, compare=False)

    def restore(self, dump: DumpReader, only: Sequence[str] = ()) -> None:
        check_only(only, dump.counts)
        with restoring(self.name, "and contains only a part of the backup"), tempfile.TemporaryFile() as code:
            settings = read_settings(dump, _SETTINGS, _MariaDBSettings)
            self._ask(f"ALTER DATABASE {_quoted(self._database)} {_charset(settings)}", database="")
            self.notes.extend(self._load(dump, settings, code, copy=True))
            self._create_code(without_definer(line) for line, event in _kept(code) if not event)
            check_counts(self.counts(), dump.counts)

    def _adapted(self, statement: bytes, warnings: list[str]) -> bytes:
        found, keys = without_far_keys(super()._adapted(statement, warnings))
        warnings.extend(f"The drill left out a foreign key to a table of another database: {key}." for key in keys)
        return found

    def _create_code(self, script: Iterable[bytes]) -> None:
        """Create triggers, routines and views. What needs rights outside of the scratch database is noted.

        Raises:
            BackupFailed: Something cannot be created for another reason.
        """
        with self._client("mariadb mysql") as tool, tempfile.TemporaryFile() as said:
            options = ["--batch", "--binary-mode", "--force", "--max-allowed-packet=1G"]
            tool.run(*options, *_in(self._database), stdin=script, stderr=said)
            said.seek(0)
            words = tool.masked(said.read().decode(errors="replace"))
        failed = FAILED.findall(words)
        if failed and not any(code in _DENIED for code, _, _ in failed):
            raise BackupFailed(f"A trigger, routine or view could not be created: {failed[0][2]}")
        # What uses one of those cannot be created either.
        self.notes.extend(f"The drill left out what needs rights on other databases: {why}" for _, _, why in failed)


def _exchange(server: MariaDB, *moves: tuple[MariaDB, MariaDB, Sequence[str]]) -> None:
    """Move tables between databases, all in one statement."""
    renamed = ", ".join(
        f"{_quoted(source._database)}.{_quoted(table)} TO {_quoted(target._database)}.{_quoted(table)}"
        for source, target, tables in moves
        for table in tables
    )
    if renamed:
        server._ask(f"SET foreign_key_checks = 0; RENAME TABLE {renamed}", database="")


def _account(user: str, host: str) -> str:
    """An account as the server shows it: a role has no host."""
    return f"{user}@{host}" if host else user


def _keep(to: IO[bytes], text: bytes, event: bool) -> None:
    """Write a statement to a file of statements."""
    to.write(b"%d %d\n%b" % (len(text), event, text))


def _kept(file: IO[bytes]) -> Iterator[tuple[bytes, bool]]:
    """The statements of a file, each with whether it makes an event. A view comes behind the views that it uses.

    `mariadb-dump` creates views in the order of their names, and until then uses stand-ins, which no view can use that
    has a CHECK OPTION or a collation, or searches a full text.
    """
    views: dict[bytes, tuple[int, int]] = {}
    used: dict[bytes, list[bytes]] = {}
    begin = at = 0
    view = b""
    for text, _ in _read(file):
        if view and not sets_back(text):
            views[view], view = (begin, at), b""
        if found := created_view(text):
            view, used[found[0]] = found
        elif drops_view(text) or not is_setting(text):
            begin = at if drops_view(text) else file.tell()
        at = file.tell()
    if view:
        views[view] = (begin, at)
    places, at = sorted(views.values()), 0
    for (begin, end), view in zip(places, in_order_of_use(used), strict=True):
        yield from _read(file, at, begin)
        yield from _read(file, *views[view])
        at = end
    yield from _read(file, at)


def _read(file: IO[bytes], at: int = 0, end: float = math.inf) -> Iterator[tuple[bytes, bool]]:
    while at < end:
        file.seek(at)
        if not (head := file.readline().split()):
            return
        yield file.read(int(head[0])), head[1] == b"1"
        at = file.tell()


def _lock(number: int | None) -> str:
    return f"prefect-snapshots drill {number}"


def _mark(database: str) -> str:
    return hashlib.blake2b(database.encode(), digest_size=4).hexdigest()


def is_left_by_restore(name: str) -> bool:
    """Return whether a killed restore has left this database: it holds what is on its way, or was replaced.

    A database of the user's may have a similar name, but not the checksum of what stands in front of it. Where that was
    shortened, it cannot be checked.
    """
    found = _LEFT.fullmatch(name)
    return found is not None and (len(found[1]) == _STEM or _mark(found[1]) == found[2])


def _charset(settings: _MariaDBSettings) -> str:
    return f"CHARACTER SET {_quoted(settings.charset)} COLLATE {_quoted(settings.collation)}"


SESSION = ("--batch", "--raw", "--skip-column-names", "--binary-mode", "--default-character-set=utf8mb4")


def _in(database: str) -> list[str]:
    return [f"--database={database}"] if database else []


def _option(value: str) -> str:
    """A value for an option file."""
    if "\n" in value or "\0" in value:
        raise InvalidArgument("Host, user and password of a MariaDB server have no line feeds.")
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _literal(text: str) -> str:
    return f"CONVERT(X'{text.encode().hex()}' USING utf8mb4)"
