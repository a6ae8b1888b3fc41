"""MariaDB and MySQL: `mariadb-dump` of one database, as SQL.

The dump is one transaction with a snapshot of all transactional tables, rows in the order of their keys, one row a
line: equal rows are equal lines, and the number of rows is counted from the very lines that are backed up. A restore
drops the database and makes it anew: renaming tables into place would not take triggers, views and routines along.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import re
import secrets
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ...errors import BackupFailed, InvalidArgument
from ..sources import Database, DatabaseDescription, Dump, DumpFile, DumpReader
from .base import Address, Checksums, ServerDatabase, Tool, check_only, lines, private_file, restoring

_DUMP = "database.sql"
_SETTINGS = "database.json"
_PACKAGE = "mariadb-client"
_OPTIONS = {"unix_socket": "socket", "ssl_ca": "ssl-ca", "ssl_cert": "ssl-cert", "ssl_key": "ssl-key"}
"""What a URL may say after its `?`, and the clients' option of the same meaning."""

_DUMPED = (
    *("--single-transaction", "--quick", "--order-by-primary", "--no-autocommit", "--hex-blob", "--skip-comments"),
    *("--routines", "--triggers", "--events", "--default-character-set=utf8mb4", "--max-allowed-packet=1G"),
)
_ONE_ROW_A_LINE = (10, 11)
"""The version of mariadb-dump from which statements of many rows have one row a line; others get statements of one."""


@dataclass(frozen=True, repr=False)
class MariaDB(ServerDatabase):
    """A database of a MariaDB or MySQL server.

    Example:
        >>> from prefect_snapshots.backups.databases import MariaDB
        >>> MariaDB("mysql://backup:secret@db.example.com/shop").name
        'mariadb://db.example.com:3306/shop'

    What the URL leaves out is as in `~/.my.cnf`. After a `?` it may say `unix_socket=`, `ssl_ca=`, `ssl_cert=` and
    `ssl_key=`.
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
        restored="in place: the database is dropped and made anew",
        not_kept=(
            "users and rights, tables of engines without transactions as of one moment, the history of system-versioned"
            " tables. A row whose SQL is longer than the server's `max_allowed_packet` cannot be restored (blobs are "
            "twice their size). `mariadb-dump` cannot dump events of a database whose *name* has quotes, backslashes or"
            " control characters"
        ),
    )
    default_port: ClassVar[int] = 3306

    def check_url(self, address: Address) -> None:
        if not address.database:
            raise InvalidArgument("the URL of a MariaDB database ends with its name: mariadb://host/name")
        if unknown := sorted(set(address.options) - set(_OPTIONS)):
            raise InvalidArgument(f"unknown in the URL of a MariaDB database: {', '.join(unknown)}")

    def check(self) -> list[str]:
        dump = self._find("mariadb-dump mysqldump").run("--version").decode().strip()
        ((server,),) = self._ask("SELECT JSON_ARRAY(version())")
        return [(dump.partition("/")[2] and dump.rpartition("/")[2]) or dump, f"server {server}"]

    @contextlib.contextmanager
    def dump(self) -> Iterator[Dump]:
        settings = self._ask(
            "SELECT JSON_ARRAY(default_character_set_name, default_collation_name) FROM information_schema.schemata "
            f"WHERE schema_name = {_literal(self._database)}"
        )
        if not settings:
            raise BackupFailed(f"{self.name}: there is no such database")
        tool = self._find("mariadb-dump mysqldump")
        found = re.search(rb"(\d+)\.(\d+)\.\d+-MariaDB", tool.run("--version"))
        many = found is not None and (int(found[1]), int(found[2])) >= _ONE_ROW_A_LINE
        with self._options() as options:
            arguments = [options, *_DUMPED, *([] if many else ["--skip-extended-insert"]), "--", self._database]
            with contextlib.closing(tool.stream(*arguments)) as pieces:
                counter = RowCounter()
                files = [
                    DumpFile(_SETTINGS, iter([json.dumps(settings[0]).encode()])),
                    DumpFile(_DUMP, counter.passed(pieces)),
                ]
                yield Dump(files, counter.counts)

    def counts(self) -> dict[str, int]:
        tables = self._tables()
        # By number, because quoting a name as a string depends on the server's mode.
        counted = [f"SELECT JSON_ARRAY({i}, count(*)) FROM {_quoted(table)}" for i, table in enumerate(tables)]
        query = f"START TRANSACTION WITH CONSISTENT SNAPSHOT; {' UNION ALL '.join(counted)}"
        return {tables[i]: n for i, n in self._ask(query)} if tables else {}

    def checksums(self, dump: Iterable[DumpFile]) -> dict[str, str]:
        found = Checksums()
        for file in dump:
            table, head, within = "", b"", False
            for line in lines(file.pieces) if file.path == _DUMP else ():
                row = line
                if line in (b"DELIMITER ;;\n", b"DELIMITER ;\n"):
                    within = line == b"DELIMITER ;;\n"
                elif not table and not within and (head or line.startswith(b"INSERT INTO ")):
                    head += line  # over several lines where a name has line feeds
                    if filled := _FILLED.match(head):
                        table, row, head = _name(filled["filled"]), head[filled.end() :], b""
                # What follows a row is a comma, or the end of the statement.
                if table and row:
                    found.add(table, row[:-2])
                    table = "" if row.endswith(b";\n") else table
        return found.of_tables()

    def restore(self, dump: DumpReader, only: Sequence[str] = ()) -> None:
        check_only(only, dump.counts)
        if only:
            with restoring(self.name, "and is as it was"):
                self._restore_tables(dump, only)
        else:
            with restoring(self.name, "and holds a part of the backup or nothing"):
                self._restore_whole(dump)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Database]:
        with self._beside("drill", secrets.token_hex(4)) as other:
            other._ask(f"CREATE DATABASE {_quoted(other._database)}", database="")
            yield other

    # --- restoring ---

    def _restore_whole(self, dump: DumpReader) -> None:
        charset, collation = json.loads(b"".join(dump.open(_SETTINGS)))
        self._ask(
            f"DROP DATABASE IF EXISTS {_quoted(self._database)}; CREATE DATABASE {_quoted(self._database)} "
            f"CHARACTER SET {_quoted(charset)} COLLATE {_quoted(collation)}",
            database="",
        )
        with self._options() as options:
            arguments = [options, "--batch", "--binary-mode", "--max-allowed-packet=1G", *_in(self._database)]
            self._find("mariadb mysql").run(*arguments, stdin=dump.open(_DUMP))

    def _restore_tables(self, dump: DumpReader, only: Sequence[str]) -> None:
        if absent := sorted(set(only) - set(self._tables())):
            raise BackupFailed(
                f"{', '.join(absent)} is not in the database: restore the whole backup to another database, and copy "
                "the table from there"
            )
        triggers = self._ask(
            "SELECT JSON_ARRAY(event_object_table) FROM information_schema.triggers WHERE trigger_schema = database()"
        )
        if hit := sorted({table for (table,) in triggers} & set(only)):
            raise BackupFailed(
                f"{', '.join(hit)} has triggers, which would react to every row: restore the whole backup, maybe to "
                "another database"
            )
        with self._beside(
            "being_restored", hashlib.blake2b(self._database.encode(), digest_size=4).hexdigest()
        ) as other:
            other._restore_whole(dump)
            statements = ["SET foreign_key_checks = 0", "START TRANSACTION"]
            for table in only:
                to, source = _quoted(table), f"{_quoted(other._database)}.{_quoted(table)}"
                columns = ", ".join(_quoted(column) for column in other._columns(table))
                statements += [f"DELETE FROM {to}", f"INSERT INTO {to} ({columns}) SELECT {columns} FROM {source}"]
            orphans = [f"SELECT JSON_ARRAY(count(*)) FROM {clause}" for clause in self._orphans(only)]
            with self._transaction() as ask:
                ask("; ".join(statements))
                if orphans and any(n for (n,) in ask(" UNION ALL ".join(orphans))):
                    raise BackupFailed("rows would refer to rows that are not there: restore the tables together")
                ask("COMMIT")

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
        """For each foreign key of these tables or to them: the rows that refer to nothing."""
        keys = self._ask(
            "SELECT JSON_ARRAY(table_schema, table_name, constraint_name, referenced_table_schema, "
            "referenced_table_name, column_name, referenced_column_name) FROM information_schema.key_column_usage "
            "WHERE referenced_table_schema = database() OR table_schema = database() AND referenced_table_schema <> '' "
            "ORDER BY table_schema, table_name, constraint_name, ordinal_position"
        )
        for (schema, table, _, *referred), columns in itertools.groupby(keys, key=lambda row: row[:5]):
            if {(schema, table), tuple(referred)}.isdisjoint((self._database, name) for name in only):
                continue
            pairs = [(f"c.{_quoted(row[5])}", f"p.{_quoted(row[6])}") for row in columns]
            same = " AND ".join(f"{mine} = {theirs}" for mine, theirs in pairs)
            given = " AND ".join(f"{mine} IS NOT NULL" for mine, _ in pairs)
            parent, child = ".".join(map(_quoted, referred)), f"{_quoted(schema)}.{_quoted(table)}"
            yield f"{child} c LEFT JOIN {parent} p ON {same} WHERE {pairs[0][1]} IS NULL AND {given}"

    # --- names, tools and sessions ---

    @property
    def _database(self) -> str:
        return self.address.database

    @contextlib.contextmanager
    def _beside(self, what: str, mark: str) -> Iterator[MariaDB]:
        """Another database, which is dropped when the block ends."""
        stem = self._database[:36]
        other = dataclasses.replace(self, url=self.renamed(f"{stem}_{what}_{mark}"))
        try:
            yield other
        finally:
            self._ask(f"DROP DATABASE IF EXISTS {_quoted(other._database)}", database="")

    def _tables(self) -> list[str]:
        return [
            name
            for (name,) in self._ask(
                "SELECT JSON_ARRAY(table_name) FROM information_schema.tables WHERE table_schema = database() "
                "AND table_type IN ('BASE TABLE', 'SYSTEM VERSIONED') ORDER BY table_name"
            )
        ]

    def _find(self, names: str) -> Tool:
        return Tool.find(names, _PACKAGE, {}, self.secret())

    @contextlib.contextmanager
    def _options(self) -> Iterator[str]:
        """The first argument of a client: a file that says where the server is, and the password.

        In the environment the password would be overruled by one in `~/.my.cnf`.
        """
        address = self.address
        told = {
            "host": address.host,
            "port": str(address.port or ""),
            "user": address.user,
            "password": self.secret() or "",
        }
        told |= {_OPTIONS[option]: value for option, value in address.options.items()}
        lines = [f"{option}={_option(value)}" for option, value in told.items() if value]
        if address.host and "unix_socket" not in address.options:
            # Otherwise "localhost" would mean a socket.
            lines.append("protocol=tcp")
        with private_file("\n".join(["[client]", *lines, ""])) as path:
            yield f"--defaults-extra-file={path}"

    def _ask(self, query: str, database: str | None = None) -> list[Any]:
        """The rows of a query, each of them one JSON value."""
        chosen = self._database if database is None else database
        with self._options() as options:
            written = self._find("mariadb mysql").run(options, *_SESSION, *_in(chosen), stdin=[query.encode()])
        return [json.loads(line) for line in written.splitlines()]

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Any]:
        """A function like `_ask`, whose calls share one session."""
        with (
            self._options() as options,
            self._find("mariadb mysql").started(
                options, *_SESSION, "--unbuffered", *_in(self._database), stdin=subprocess.PIPE, stdout=subprocess.PIPE
            ) as process,
        ):
            assert process.stdin is not None
            assert process.stdout is not None
            to, written = process.stdin, process.stdout

            def ask(query: str) -> list[Any]:
                to.write(f"{query};\nSELECT 'done';\n".encode())
                to.flush()
                rows = list(iter(written.readline, b"done\n")) if process.poll() is None else [b""]
                return [json.loads(line) for line in rows]

            yield ask


@dataclass
class RowCounter:
    """Counts the rows of a dump that passes by.

    Attributes:
        counts: rows per table.
    """

    counts: dict[str, int] = field(default_factory=dict)
    _rest: bytes = b"\n"
    _table: str | None = None

    def passed(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The pieces, which are counted on the way."""
        for piece in pieces:
            self._take(piece)
            yield piece

    def _take(self, piece: bytes) -> None:
        data, at = self._rest + piece, 0
        while True:
            if self._table is not None:
                # A line is a row, and line feeds within values are written as \n.
                end = data.find(b";\n", at)
                self.counts[self._table] += data.count(b"\n", at, end + 2 if end >= 0 else len(data))
                if end < 0:
                    self._rest = data[-1:] if data[-1:] == b";" else b""
                    return
                self._table, at = None, end + 1
            found = _HEAD.search(data, at)
            body = data.find(b"\nDELIMITER ;;\n", at)
            # What looks like a table within a body whose end is not there yet is none.
            if found is None or 0 <= body < found.start():
                self._rest = data[_unfinished(data, at) :]
                return
            at = found.end()
            if found["created"]:
                self.counts[_name(found["created"])] = 0
            elif found["filled"]:
                self._table = _name(found["filled"])


_NAME = rb"`(?:[^`]|``)+`"
_INSERT = rb"INSERT INTO (?P<filled>%(name)s)(?: \((?:%(name)s(?:, )?)+\))? VALUES(?:\n| )" % {b"name": _NAME}
_FILLED = re.compile(_INSERT)
_HEAD = re.compile(
    rb"\n(?:CREATE TABLE (?P<created>%(name)s) \(|%(insert)s|DELIMITER ;;\n.*?\nDELIMITER ;(?=\n))"
    % {b"name": _NAME, b"insert": _INSERT},
    re.DOTALL,
)
"""Where a table is made or filled; the bodies of triggers and routines are passed over whole."""


def _unfinished(data: bytes, at: int) -> int:
    """Where something may begin whose end is not there yet."""
    starts = [data.find(start, at) for start in (b"\nCREATE TABLE `", b"\nINSERT INTO `", b"\nDELIMITER ;;\n")]
    return min([start for start in starts if start >= 0], default=max(at, len(data) - 20))


def _name(quoted: bytes) -> str:
    return quoted[1:-1].replace(b"``", b"`").decode()


_SESSION = ("--batch", "--raw", "--skip-column-names", "--binary-mode", "--default-character-set=utf8mb4")


def _in(database: str) -> list[str]:
    return [f"--database={database}"] if database else []


def _option(value: str) -> str:
    """A value for an option file."""
    if "\n" in value or "\0" in value:
        raise InvalidArgument("host, user and password of a MariaDB server have no line feeds")
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _literal(text: str) -> str:
    return f"CONVERT(0x{text.encode().hex()} USING utf8mb4)"
