"""DuckDB: `EXPORT DATABASE` to a folder of CSV files, in one transaction.

CSV keeps every type that DuckDB can read back from text, which Parquet does not (intervals and times with zones lose
precision in it), and rows that did not change are found again in the next backup. DuckDB lets one process at a time
open a file for writing: writers of the same process go on during a dump, another process has to close the file first.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ...errors import BackupFailed, MissingDependency
from ...private_files import as_private
from ..sources import Database, DatabaseDescription, Dump, DumpFile, DumpReader
from .base import (
    Checksums,
    FileDatabase,
    check_counts,
    check_only,
    file_pieces,
    lines,
    restoring,
    temporary_folder,
)

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_LOAD = "load.sql"
_TABLE = ".csv"


@dataclass(frozen=True)
class DuckDB(FileDatabase):
    """A DuckDB database.

    Attributes:
        path: of its file; a relative one is made absolute.

    Example:
        >>> from prefect_snapshots.backups.databases import DuckDB
        >>> DuckDB("/data/warehouse.duckdb").name
        'duckdb:////data/warehouse.duckdb'
    """

    schemes: ClassVar[tuple[str, ...]] = ("duckdb",)
    suffixes: ClassVar[tuple[str, ...]] = (".duckdb",)
    kind: ClassVar[str] = "duckdb"
    swaps: ClassVar[bool] = True
    description: ClassVar[DatabaseDescription] = DatabaseDescription(
        title="DuckDB",
        urls="`duckdb:////absolute.duckdb`",
        needs="`prefect-snapshots[duckdb]`",
        dump="one transaction (`EXPORT DATABASE`, CSV)",
        restored="imported into a file beside and counted, which then replaces the old one",
        not_kept=(
            "secrets and settings; another process must not have the file open, and for a restore no connection of this"
            " one either"
        ),
    )

    def check(self) -> list[str]:
        with _connected(self.path) as connection:
            (version,) = connection.execute("SELECT version()").fetchone() or ("",)
        return [f"DuckDB {version}"]

    @contextlib.contextmanager
    def dump(self) -> Iterator[Dump]:
        with temporary_folder() as folder:
            with _connected(self.path) as connection:
                connection.execute("BEGIN")
                connection.execute(f"EXPORT DATABASE {_literal(str(folder))} (FORMAT csv)")
                counts = _counts(connection)
            # The paths in it would differ with every backup; when it is imported, only the names count.
            load = folder / _LOAD
            load.write_text(load.read_text().replace(f"FROM {_literal(str(folder))[:-1]}/", "FROM '"))
            yield Dump([DumpFile(path.name, file_pieces(path)) for path in sorted(folder.iterdir())], counts)

    def counts(self) -> dict[str, int]:
        with _connected(self.path) as connection:
            return _counts(connection)

    def checksums(self, dump: Iterable[DumpFile]) -> dict[str, str]:
        found = Checksums()
        for file in dump:
            if file.path.endswith(_TABLE):
                for line in lines(file.pieces):
                    found.add(file.path.removesuffix(_TABLE), line)
        return found.of_tables()

    def restore(self, dump: DumpReader, only: Sequence[str] = ()) -> None:
        check_only(only, dump.counts)
        target = Path(os.path.realpath(self.path))
        with restoring(self.name, "and is as it was"):
            target.parent.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=f".{target.name[:100]}.restoring-", dir=target.parent))
            try:
                beside = folder / "database"
                (folder / "dump").mkdir()
                dump.extract(folder / "dump")
                with _connected(str(beside), create=True) as connection:
                    connection.execute(f"IMPORT DATABASE {_literal(str(folder / 'dump'))}")
                    check_counts(_counts(connection), dump.counts)
                as_private(beside)
                if only:
                    _replace_tables(target, beside, only)
                else:
                    _replace(target, beside)
            finally:
                shutil.rmtree(folder)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Database]:
        with temporary_folder() as folder:
            database = DuckDB(str(folder / os.path.basename(self.path)))
            with _connected(database.path, create=True):
                pass
            yield database


@contextlib.contextmanager
def _connected(path: str, create: bool = False, read_only: bool = False) -> Iterator[DuckDBPyConnection]:
    try:
        import duckdb
    except ImportError as error:
        raise MissingDependency(
            'DuckDB databases need the package duckdb: pip install "prefect-snapshots[duckdb]"'
        ) from error
    if not create and not os.path.exists(path):
        raise BackupFailed(f"{path} does not exist")
    try:
        with contextlib.closing(duckdb.connect(path, read_only=read_only)) as connection:
            yield connection
    except duckdb.Error as error:
        raise BackupFailed(f"{path}: DuckDB says: {error}") from error


def _replace(target: Path, beside: Path) -> None:
    log = Path(f"{target}.wal")
    if target.exists():
        try:
            with _connected(str(target)) as connection:
                connection.execute("FORCE CHECKPOINT")
            # While a connection of this process may write, none can be made that may not.
            with _connected(str(target), read_only=True):
                pass
        except BackupFailed as error:
            if "different configuration" in str(error):
                raise BackupFailed(f"{target} is open in this process: close its connections first") from error
            if "lock" in str(error):
                raise
            # It cannot be opened at all, and nobody has it open.
        shutil.copymode(target, beside)
    # What a lost or broken database left behind would be played back into the new one.
    log.unlink(missing_ok=True)
    os.replace(beside, target)


def _replace_tables(target: Path, beside: Path, only: Sequence[str]) -> None:
    """Make the rows of some tables what they are in the file beside, in one transaction."""
    with _connected(str(target)) as connection:
        connection.execute(f"ATTACH {_literal(str(beside))} AS restoring (READ_ONLY)")
        (catalog,) = connection.execute("SELECT current_database()").fetchone() or ("",)
        there = {_named(schema, table): (schema, table) for schema, table in _tables(connection)}
        if absent := sorted(set(only) - set(there)):
            raise BackupFailed(
                f"{', '.join(absent)} is not in the database: restore the whole backup to another file, and copy the "
                "table from there"
            )
        connection.execute("BEGIN")
        for name in only:
            schema, table = there[name]
            columns = connection.execute(
                "SELECT column_name FROM duckdb_columns() WHERE database_name = 'restoring' AND schema_name = ? "
                "AND table_name = ? AND NOT column_name IN (SELECT unnest(?)) ORDER BY column_index",
                [schema, table, _generated(connection, schema, table)],
            ).fetchall()
            names = ", ".join(_quoted(column) for (column,) in columns)
            place = f"{_quoted(schema)}.{_quoted(table)}"
            connection.execute(f"DELETE FROM {_quoted(catalog)}.{place}")
            connection.execute(
                f"INSERT INTO {_quoted(catalog)}.{place} ({names}) SELECT {names} FROM restoring.{place}"
            )
        connection.execute("COMMIT")


def _generated(connection: DuckDBPyConnection, schema: str, table: str) -> list[str]:
    found = connection.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_catalog = 'restoring' AND table_schema = ? "
        "AND table_name = ? AND is_generated = 'ALWAYS'",
        [schema, table],
    ).fetchall()
    return [name for (name,) in found]


def _counts(connection: DuckDBPyConnection) -> dict[str, int]:
    counts = {}
    for schema, table in _tables(connection):
        (n,) = connection.execute(f"SELECT count(*) FROM {_quoted(schema)}.{_quoted(table)}").fetchone() or (0,)
        counts[_named(schema, table)] = int(n)
    return counts


def _tables(connection: DuckDBPyConnection) -> list[tuple[str, str]]:
    return connection.execute(
        "SELECT schema_name, table_name FROM duckdb_tables() WHERE database_name = current_database() "
        "AND NOT internal AND NOT temporary ORDER BY ALL"
    ).fetchall()


def _named(schema: str, table: str) -> str:
    """What counts call a table: its name, with the schema's in front where that is not the usual one."""
    plain = [name if re.fullmatch(r"\w+", name) else _quoted(name) for name in (schema, table)]
    return plain[1] if schema == "main" else ".".join(plain)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
