"""SQLite: a copy by the online backup of SQLite, while others write.

The copy is made page by page into a temporary file. It is identical to the database file, so unchanged chunks are
deduplicated between backups. A restore works in the same way: SQLite itself copies the pages into the database in one
transaction, so programs that have it open see either the old state or the new one.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar
from urllib.parse import quote

import msgspec

from ...errors import UNDECODABLE, BackupFailed, SourceUnusable
from ...trees.descriptors import give, not_owned
from ..sources import Database, DatabaseDescription, Dump, DumpFile, DumpNote, DumpReader, Switch
from ..working import folder_beside, working_folder
from .base import Checksums, FileDatabase, check_only, file_pieces, restoring, write

_FILE = "database.sqlite"
_SETTINGS = "database.json"
_UNUSABLE = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT})
"""Codes of errors that another try does not change."""
_SHOWN = 100
"""The most problems that a check counts. More tell you nothing new, and counting all in a large table takes long."""
_RULES = re.compile(
    r"^(?:NULL value in|CHECK constraint failed in|[\w-]+ value in|non-unique entry in index|row \d+ missing from)"
)
"""The problems of rows whose pages are undamaged."""
_PATIENCE = 60.0
"""Seconds to wait for the locks of other connections: longer than most transactions, and a backup must not hang."""
_PAUSE = 0.002
"""Seconds between two attempts. Writers that never pause leave only short gaps."""
_INDEXES = (
    "(SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%' LIMIT -1) t, "
    "pragma_index_list(t.name) i"
)
"""All indexes of tables, in a query. The limit keeps SQLite from opening virtual tables, whose modules it may lack."""
_SIDECARS = ("-wal", "-shm", "-journal")


class _File(msgspec.Struct, forbid_unknown_fields=True):
    """The mode and the owner of the file. A database that was lost gets them back."""

    mode: Annotated[int, msgspec.Meta(ge=0, le=0o777)]
    uid: Annotated[int, msgspec.Meta(ge=0, lt=2**32 - 1)]
    gid: Annotated[int, msgspec.Meta(ge=0, lt=2**32 - 1)]


@dataclass(frozen=True)
class SQLite(FileDatabase):
    """A SQLite database.

    Attributes:
        path: The path of its file. A relative path is made absolute.

    Example:
        >>> from prefect_snapshots.backups.databases import SQLite
        >>> SQLite(path="/var/lib/app.db").name
        'sqlite:////var/lib/app.db'
    """

    schemes: ClassVar[tuple[str, ...]] = ("sqlite",)
    suffixes: ClassVar[tuple[str, ...]] = (".db", ".sqlite", ".sqlite3")
    kind: ClassVar[str] = "sqlite"
    swaps: ClassVar[bool] = True
    description: ClassVar[DatabaseDescription] = DatabaseDescription(
        title="SQLite",
        urls="`sqlite:///relative.db`, `sqlite:////absolute.db`, a path",
        needs="nothing",
        dump="one moment (online backup), counted in the copy",
        restored=(
            "checked in a temporary file, then copied in one transaction: programs that use it see a single change"
        ),
        not_kept=(
            "everything is kept; an existing database keeps its journal mode. With a rollback journal, writers wait "
            "during the copy. A database in which the name of a table, column, index or trigger is not valid UTF-8 is "
            "refused"
        ),
    )

    def check(self) -> list[str]:
        with _connected(self.path, "rw") as connection:
            connection.execute("SELECT count(*) FROM sqlite_master")
        return [f"SQLite {sqlite3.sqlite_version}"]

    @contextlib.contextmanager
    def dump(self) -> Iterator[Dump]:
        with working_folder("sqlite") as folder:
            copy = folder / _FILE
            try:
                with _readable(self.path) as source, contextlib.closing(sqlite3.connect(copy)) as target:
                    # All pages in one step. Between steps, a write of another connection would restart the copy.
                    source.backup(target, pages=-1, progress=_impatient(self.path), sleep=_PAUSE)
            except BackupFailed as error:
                if getattr(error.__cause__, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                    raise BackupFailed(
                        f"The temporary folder {folder.parent} is full: a copy of {self.path} needs "
                        f"{os.path.getsize(self.path):,} bytes. Set TMPDIR to a folder with more space."
                    ) from error
                raise
            doubts = check_integrity(copy)
            status = os.stat(self.path)
            kept = _File(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
            with _connected(str(copy), "ro&immutable=1") as connection:
                counts = _counts(connection)
            files = [DumpFile(_SETTINGS, iter([msgspec.json.encode(kept)])), DumpFile(_FILE, file_pieces(copy))]
            yield Dump(files, counts, [DumpNote(doubts)] if doubts else [])

    def counts(self) -> dict[str, int]:
        with _connected(self.path, "rw") as connection:
            return _counts(connection)

    def checksums(self, dump: Iterable[DumpFile]) -> dict[str, str]:
        found = Checksums()
        with working_folder("sqlite") as folder:
            for file in dump:
                if file.path == _FILE:
                    write(folder / _FILE, file.pieces)
            with _connected(str(folder / _FILE), "ro&immutable=1") as connection:
                tables = list(_counts(connection))
                connection.text_factory = bytearray  # must not be read as a blob, and may not be valid text
                for table in tables:
                    query = f"SELECT * FROM {_quoted(table)}"
                    _compile(connection, query)
                    for row in connection.execute(query):
                        found.add(table, repr(row).encode())
        return found.of_tables()

    @contextlib.contextmanager
    def stage(self, dump: DumpReader, only: Sequence[str] = ()) -> Iterator[Switch]:
        """See `StagedRestores`."""
        check_only(only, dump.counts)
        target = Path(os.path.realpath(self.path))
        with contextlib.ExitStack() as stack:
            with restoring(self.name, "and is unchanged"):
                beside = stack.enter_context(folder_beside(target)) / _FILE
                write(beside, dump.open(_FILE))
                kept = _kept(dump)
                warnings = [doubts] if (doubts := check_integrity(beside)) else []

            def switch() -> Sequence[str]:
                with restoring(self.name, "and is unchanged"):
                    if only:
                        with _connected(str(target), "rw") as connection:
                            _replace_tables(connection, beside, only)
                    else:
                        warnings.extend(_replace(target, beside, kept))
                return warnings

            yield switch

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Database]:
        with working_folder("sqlite") as folder:
            path = folder / os.path.basename(self.path)
            sqlite3.connect(path).close()
            yield SQLite(str(path))


@contextlib.contextmanager
def _connected(path: str, mode: str) -> Iterator[sqlite3.Connection]:
    """Connect to an existing file."""
    FileDatabase.refuse_missing(path)
    try:
        with contextlib.closing(
            sqlite3.connect(f"{_uri(path)}?mode={mode}", uri=True, timeout=_PATIENCE, isolation_level=None)
        ) as connection:
            # A hostile backup may contain any schema. `trusted_schema = OFF` is still not needed, because a schema can
            # never call a function with effects outside of the database (`load_extension`, `fts3_tokenizer`). With it,
            # schemas with `json_extract` in an index, as in Prefect's own database, could not be opened.
            yield connection
    except sqlite3.Error as error:
        if str(error).startswith("Could not decode to UTF-8"):  # never a value: no query reads those as text
            raise SourceUnusable(
                "The database has a table, column, index or trigger whose name is not valid UTF-8. Rename it, for "
                "example by ALTER TABLE in the program sqlite3, and run this again."
            ) from error
        kind = SourceUnusable if getattr(error, "sqlite_errorcode", 0) & 0xFF in _UNUSABLE else BackupFailed
        raise kind(f"{path}: SQLite says: {error}") from error


def _uri(path: str) -> str:
    """Return the URI of a file. Its path may be in any encoding."""
    return f"file:{quote(os.fsencode(path))}"


def _impatient(path: str) -> Callable[[int, int, int], None]:
    """A callback for `Connection.backup`, which would otherwise wait forever for the lock of another connection."""
    deadline = time.monotonic() + _PATIENCE

    def check(status: int, remaining: int, total: int) -> None:
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) and time.monotonic() > deadline:
            raise BackupFailed(
                f"{path} was locked by another program for {_PATIENCE:.0f} s. Run this again when that program is done."
            )

    return check


@contextlib.contextmanager
def _readable(path: str) -> Iterator[sqlite3.Connection]:
    """Connect to a database to copy it.

    If you can only read a database in WAL mode and its folder, you can open it only while another program has it open.
    If there is no log beside it, no program has. Then the file alone is the database, as long as it does not change.
    """
    try:
        with _connected(path, "rw") as connection:
            connection.execute("SELECT count(*) FROM sqlite_master")
            yield connection
            return
    except BackupFailed as error:
        code = getattr(error.__cause__, "sqlite_errorcode", 0) & 0xFF
        if code not in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN) or not os.access(path, os.R_OK):
            raise
        before = os.stat(path)
        if os.path.exists(f"{path}-wal"):
            raise SourceUnusable(
                f"{path} is in WAL mode and has a log, which you can read only if you may write to its folder. Grant "
                "this right to the user of the backup, or run the backup while the application runs."
            ) from error
    with _connected(path, "ro&immutable=1") as connection:
        yield connection
    after = os.stat(path)
    if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size) or os.path.exists(f"{path}-wal"):
        raise BackupFailed(f"{path} was opened by another program while it was copied. Run the backup again.")


def _in_order(one: str, other: str) -> int:
    """A stand-in for a collation of the application."""
    return (one > other) - (one < other)


def _compile(connection: sqlite3.Connection, query: str) -> None:
    """Define stand-ins for the application's collations and functions, which a query that reads pages never calls."""
    while True:
        try:
            connection.execute(f"EXPLAIN {query}").fetchall()
            if query.startswith("PRAGMA"):
                connection.execute(query).fetchall()
            return
        except sqlite3.OperationalError as error:
            if unknown := re.fullmatch(r"no such collation sequence: (.*)", str(error), re.DOTALL):
                connection.create_collation(unknown[1], _in_order)
            elif unknown := re.fullmatch(
                r"(?:unknown function|no such function): (.*?)(?:\(\))?", str(error), re.DOTALL
            ):
                connection.create_function(unknown[1], -1, lambda *values: None, deterministic=True)
            else:
                raise


def check_integrity(path: Path) -> str:
    """Return notes about a database that can be copied, but has problems, such as rows that its own rules forbid.

    Raises:
        BackupFailed: It is damaged and cannot be read.
    """
    with _connected(str(path), "ro&immutable=1") as connection:
        # Before the check: SQLite never again uses an index whose collation it has missed.
        for (collation,) in connection.execute(
            f"SELECT DISTINCT x.coll FROM {_INDEXES}, pragma_index_xinfo(i.name) x"
        ).fetchall():
            if collation not in ("BINARY", "NOCASE", "RTRIM"):
                connection.create_collation(collation, _in_order)
        # A check of pages does not depend on the order that a collation defines.
        query = f"PRAGMA quick_check({_SHOWN})"
        _compile(connection, query)
        found = [text for (text,) in connection.execute(query) if text != "ok"]
        if any(not _RULES.search(text) for text in found):
            raise BackupFailed("The database is damaged: `PRAGMA quick_check` finds broken pages.")
        indexes = list(_wrong_indexes(connection))
    told = []
    if found:
        told.append(
            f"Rows that break rules of their tables (NOT NULL, CHECK, or types): {len(found)}"
            f"{' or more' if len(found) == _SHOWN else ''}. They are kept as they are. `PRAGMA quick_check` names the "
            "tables."
        )
    if indexes:
        told.append(
            f"Indexes that lack rows or have too many: {', '.join(indexes[:_SHOWN])}. They are kept as they are, and "
            "queries can have wrong results. `REINDEX` repairs them."
        )
    return " ".join(told)


def _wrong_indexes(connection: sqlite3.Connection) -> Iterator[str]:
    """Yield the indexes that have another number of rows than their tables. Partial ones cannot be counted."""
    query = f"SELECT t.name, i.name FROM {_INDEXES} WHERE NOT i.partial ORDER BY 1, 2"
    for table, index in connection.execute(query).fetchall():
        # A count is taken from any of the indexes, and a sum from the one that is named.
        query = (
            f"SELECT (SELECT count(*) FROM {_quoted(table)} NOT INDEXED) = "
            f"(SELECT coalesce(sum(1), 0) FROM {_quoted(table)} INDEXED BY {_quoted(index)})"
        )
        _compile(connection, query)
        if not connection.execute(query).fetchone()[0]:
            yield index


def _kept(dump: DumpReader) -> _File | None:
    if _SETTINGS not in dump.paths:
        return None
    try:
        return msgspec.json.decode(b"".join(dump.open(_SETTINGS)), type=_File)
    except UNDECODABLE as error:
        raise BackupFailed("What the backup says of the file's mode and owner is damaged.") from error


def _replace(target: Path, beside: Path, kept: _File | None) -> list[str]:
    """Replace the contents of the target by those of the file beside it, in one transaction. Returns warnings."""
    warnings = []
    try:
        with _connected(str(beside), "ro&immutable=1") as source, _connected(str(target), "rw") as connection:
            if _page_size(source) != _page_size(connection):
                # A database in WAL mode cannot take pages of another size.
                connection.execute("PRAGMA journal_mode = DELETE")
            source.backup(connection, pages=-1, progress=_impatient(str(target)), sleep=_PAUSE)
    except BackupFailed as error:
        if target.exists():
            if not _is_no_database(error):
                raise
            old = target.stat()
            kept = _File(old.st_mode & 0o777, old.st_uid, old.st_gid)
        if kept is not None:
            if not give(beside, kept.uid, kept.gid):
                warnings.append(not_owned(target))
            os.chmod(beside, kept.mode)
        # SQLite would replay a log of a lost or broken database into the new one.
        for suffix in _SIDECARS:
            Path(f"{target}{suffix}").unlink(missing_ok=True)
        os.replace(beside, target)
    return warnings


def _page_size(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA page_size").fetchone()[0])


def _is_no_database(error: BackupFailed) -> bool:
    code = getattr(error.__cause__, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)


def _replace_tables(connection: sqlite3.Connection, beside: Path, only: Sequence[str]) -> None:
    """Replace the rows of some tables by those in the file beside the target, in one transaction."""
    connection.execute("PRAGMA foreign_keys = OFF")
    connection.execute("ATTACH ? AS source", [f"{_uri(str(beside))}?mode=ro&immutable=1"])
    connection.execute("BEGIN IMMEDIATE")
    violations = set(connection.execute("PRAGMA main.foreign_key_check"))
    for table in only:
        if not connection.execute(
            "SELECT 1 FROM main.sqlite_master WHERE type = 'table' AND name = ?", [table]
        ).fetchone():
            _create(connection, table)
        # Otherwise triggers would fire for every row.
        triggers = connection.execute(
            "SELECT name, sql FROM main.sqlite_master WHERE type = 'trigger' AND tbl_name = ? COLLATE NOCASE", [table]
        ).fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER main.{_quoted(name)}")
        # SQLite computes generated columns itself.
        columns = connection.execute("SELECT name FROM pragma_table_xinfo(?, 'source') WHERE hidden = 0", [table])
        names = ", ".join([*_rowid(connection, table), *(_quoted(name) for (name,) in columns)])
        connection.execute(f"DELETE FROM main.{_quoted(table)}")
        connection.execute(f"INSERT INTO main.{_quoted(table)} ({names}) SELECT {names} FROM source.{_quoted(table)}")
        for _, sql in triggers:
            connection.execute(sql)
        _count_on(connection, table)
    if new := set(connection.execute("PRAGMA main.foreign_key_check")) - violations:
        # Rows that refer to nothing in the backup either would never come back.
        for table in only:
            new -= set(connection.execute(f"PRAGMA source.foreign_key_check({_quoted(table)})"))
    if new:
        tables = ", ".join(sorted({str(row[0]) for row in new}))
        raise BackupFailed(f"Some rows in {tables} would refer to rows that do not exist. Restore these tables, too.")
    connection.execute("COMMIT")


def _count_on(connection: sqlite3.Connection, table: str) -> None:
    """Let a table with AUTOINCREMENT not give numbers again that it had given before the backup."""
    for schema in ("main", "source"):
        query = f"SELECT 1 FROM {schema}.sqlite_master WHERE name = 'sqlite_sequence'"
        if not connection.execute(query).fetchone():
            return
    connection.execute(
        "UPDATE main.sqlite_sequence SET seq = max(seq, "
        "coalesce((SELECT max(s.seq) FROM source.sqlite_sequence s WHERE s.name = ?1), 0)) WHERE name = ?1",
        [table],
    )


def _rowid(connection: sqlite3.Connection, table: str) -> list[str]:
    """Return a name of the hidden column with the numbers of rows, to which a full-text index may refer.

    A table `WITHOUT ROWID` has none, and one whose own columns have all its names cannot tell it.
    """
    query = "SELECT lower(name) FROM pragma_table_xinfo(?1, ?2)"
    columns = {name for schema in ("source", "main") for (name,) in connection.execute(query, [table, schema])}
    if not (free := [name for name in ("rowid", "oid", "_rowid_") if name not in columns]):
        return []
    try:
        for schema in ("source", "main"):
            connection.execute(f"SELECT {free[0]} FROM {schema}.{_quoted(table)} LIMIT 0")
    except sqlite3.OperationalError:
        return []
    return free[:1]


def _create(connection: sqlite3.Connection, table: str) -> None:
    """Create a table with its indexes and triggers, as in the backup."""
    for (sql,) in connection.execute(
        "SELECT sql FROM source.sqlite_master WHERE tbl_name = ? AND sql NOT NULL ORDER BY type <> 'table'", [table]
    ).fetchall():
        connection.execute(sql)


def _counts(connection: sqlite3.Connection) -> dict[str, int]:
    # The tables behind virtual tables are counted. The virtual tables may need extensions that are not installed here.
    names = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' "
        "AND sql NOT LIKE 'CREATE VIRTUAL%' ORDER BY name"
    ).fetchall()
    connection.execute("BEGIN")
    counts = {}
    for (name,) in names:
        # An index may lack rows.
        query = f"SELECT count(*) FROM {_quoted(name)} NOT INDEXED"
        _compile(connection, query)
        counts[name] = int(connection.execute(query).fetchone()[0])
    connection.execute("COMMIT")
    return counts


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
