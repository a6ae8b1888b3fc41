"""SQLite: a copy by its online backup, while others write.

The copy is made into a temporary file page by page, so that it is byte for byte what the database file would be, and
chunks of one backup are found in the next one. Restoring goes the same way: SQLite itself copies the pages into the
database in one transaction, so that programs that have it open see either the old state or the new one.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from ...errors import BackupFailed
from ..sources import Database, DatabaseDescription, Dump, DumpFile, DumpReader, Switch
from ..working import folder_beside
from .base import Checksums, FileDatabase, check_only, file_pieces, restoring, temporary_folder, write

_FILE = "database.sqlite"
_PATIENCE = 60.0  # seconds for other connections to let us in
_PAUSE = 0.002  # seconds between attempts: writers that never rest leave gaps no longer than that
_SIDECARS = ("-wal", "-shm", "-journal")


@dataclass(frozen=True)
class SQLite(FileDatabase):
    """A SQLite database.

    Attributes:
        path: of its file; a relative one is made absolute.

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
        restored="checked beside, then copied in one transaction, which programs that have it open see as one change",
        not_kept=(
            "nothing; a database that exists keeps its journal mode. While a rollback journal is used, writers wait for"
            " the copy"
        ),
    )

    def check(self) -> list[str]:
        with _connected(self.path, "rw") as connection:
            connection.execute("SELECT count(*) FROM sqlite_master")
        return [f"SQLite {sqlite3.sqlite_version}"]

    @contextlib.contextmanager
    def dump(self) -> Iterator[Dump]:
        with temporary_folder() as folder:
            copy = folder / _FILE
            with _connected(self.path, "rw") as source, contextlib.closing(sqlite3.connect(copy)) as target:
                # All pages at once: in steps it would begin anew with every write of others.
                source.backup(target, pages=-1, progress=_impatient(self.path), sleep=_PAUSE)
            with _connected(str(copy), "ro&immutable=1") as connection:
                counts = _counts(connection)
            yield Dump([DumpFile(_FILE, file_pieces(copy))], counts)

    def counts(self) -> dict[str, int]:
        with _connected(self.path, "rw") as connection:
            return _counts(connection)

    def checksums(self, dump: Iterable[DumpFile]) -> dict[str, str]:
        found = Checksums()
        with temporary_folder() as folder:
            for file in dump:
                write(folder / _FILE, file.pieces)
            with _connected(str(folder / _FILE), "ro&immutable=1") as connection:
                tables = list(_counts(connection))
                connection.text_factory = bytearray  # not to be taken for a blob, and maybe no text at all
                for table in tables:
                    for row in connection.execute(f"SELECT * FROM {_quoted(table)}"):
                        found.add(table, repr(row).encode())
        return found.of_tables()

    def restore(self, dump: DumpReader, only: Sequence[str] = ()) -> None:
        with self.stage(dump, only) as switch:
            switch()

    @contextlib.contextmanager
    def stage(self, dump: DumpReader, only: Sequence[str] = ()) -> Iterator[Switch]:
        check_only(only, dump.counts)
        target = Path(os.path.realpath(self.path))
        with restoring(self.name, "and is as it was"), folder_beside(target) as folder:
            beside = folder / _FILE
            write(beside, dump.open(_FILE))
            _check_integrity(beside)

            def switch() -> Sequence[str]:
                with restoring(self.name, "and is as it was"):
                    if only:
                        with _connected(str(target), "rw") as connection:
                            _replace_tables(connection, beside, only)
                    else:
                        _replace(target, beside)
                return ()

            yield switch

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Database]:
        with temporary_folder() as folder:
            path = folder / os.path.basename(self.path)
            sqlite3.connect(path).close()
            yield SQLite(str(path))


@contextlib.contextmanager
def _connected(path: str, mode: str) -> Iterator[sqlite3.Connection]:
    """A connection to a file that is there."""
    try:
        with contextlib.closing(
            sqlite3.connect(f"file:{quote(path)}?mode={mode}", uri=True, timeout=_PATIENCE, isolation_level=None)
        ) as connection:
            yield connection
    except sqlite3.Error as error:
        raise BackupFailed(f"{path}: SQLite says: {error}") from error


def _impatient(path: str) -> Callable[[int, int, int], None]:
    """For `Connection.backup`, which would wait for ever for another connection's lock."""
    deadline = time.monotonic() + _PATIENCE

    def check(status: int, remaining: int, total: int) -> None:
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) and time.monotonic() > deadline:
            raise BackupFailed(f"{path} was locked by another program for {_PATIENCE:.0f} s")

    return check


def _check_integrity(path: Path) -> None:
    with _connected(str(path), "ro&immutable=1") as connection:
        (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if found != "ok":
        raise BackupFailed(f"the database in the backup is damaged: {found}")


def _replace(target: Path, beside: Path) -> None:
    """Make the target what the file beside it is, in one transaction."""
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
            os.chmod(beside, old.st_mode & 0o7777)
            if os.geteuid() == 0:
                os.chown(beside, old.st_uid, old.st_gid)
        # What a lost or broken database left behind would be played back into the new one.
        for suffix in _SIDECARS:
            Path(f"{target}{suffix}").unlink(missing_ok=True)
        os.replace(beside, target)


def _page_size(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA page_size").fetchone()[0])


def _is_no_database(error: BackupFailed) -> bool:
    code = getattr(error.__cause__, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)


def _replace_tables(connection: sqlite3.Connection, beside: Path, only: Sequence[str]) -> None:
    """Make the rows of some tables what they are in the file beside, in one transaction."""
    connection.execute("PRAGMA foreign_keys = OFF")
    connection.execute("ATTACH ? AS source", [f"file:{quote(str(beside))}?mode=ro&immutable=1"])
    connection.execute("BEGIN IMMEDIATE")
    violations = set(connection.execute("PRAGMA main.foreign_key_check"))
    for table in only:
        if not connection.execute(
            "SELECT 1 FROM main.sqlite_master WHERE type = 'table' AND name = ?", [table]
        ).fetchone():
            _create(connection, table)
        # Triggers would react to every row.
        triggers = connection.execute(
            "SELECT name, sql FROM main.sqlite_master WHERE type = 'trigger' AND tbl_name = ? COLLATE NOCASE", [table]
        ).fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER main.{_quoted(name)}")
        # Generated columns are left to SQLite.
        columns = connection.execute("SELECT name FROM pragma_table_xinfo(?, 'source') WHERE hidden = 0", [table])
        names = ", ".join(_quoted(name) for (name,) in columns)
        connection.execute(f"DELETE FROM main.{_quoted(table)}")
        connection.execute(f"INSERT INTO main.{_quoted(table)} ({names}) SELECT {names} FROM source.{_quoted(table)}")
        for _, sql in triggers:
            connection.execute(sql)
    if new := set(connection.execute("PRAGMA main.foreign_key_check")) - violations:
        tables = ", ".join(sorted({str(row[0]) for row in new}))
        raise BackupFailed(f"rows would refer to rows that are not there, in {tables}: restore these tables too")
    connection.execute("COMMIT")


def _create(connection: sqlite3.Connection, table: str) -> None:
    """A table with its indexes and triggers, as in the backup."""
    for (sql,) in connection.execute(
        "SELECT sql FROM source.sqlite_master WHERE tbl_name = ? AND sql NOT NULL ORDER BY type <> 'table'", [table]
    ).fetchall():
        connection.execute(sql)


def _counts(connection: sqlite3.Connection) -> dict[str, int]:
    # The tables behind virtual ones are counted; the virtual ones may need extensions that are not here.
    names = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' "
        "AND sql NOT LIKE 'CREATE VIRTUAL%' ORDER BY name"
    ).fetchall()
    connection.execute("BEGIN")
    counts = {name: int(connection.execute(f"SELECT count(*) FROM {_quoted(name)}").fetchone()[0]) for (name,) in names}
    connection.execute("COMMIT")
    return counts


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
