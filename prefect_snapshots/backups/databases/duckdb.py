"""DuckDB: `EXPORT DATABASE` to a folder of CSV files, in one transaction.

CSV preserves every type that DuckDB can read back from text; for others, the file itself is copied. Parquet does not:
intervals and times with zones lose precision. Unchanged rows are deduplicated between backups. DuckDB lets only one
process open a file for writing: writers in the same process can continue during a dump, other processes must close the
file first.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

from ...errors import BackupFailed, InvalidArgument, MissingDependency
from ...messages import logger
from ...private_files import as_private
from ..sources import Database, DatabaseDescription, Dump, DumpFile, DumpNote, DumpReader, Switch
from ..working import folder_beside, working_folder
from .base import (
    Address,
    Checksums,
    FileDatabase,
    check_counts,
    check_only,
    file_pieces,
    lines,
    restoring,
    write,
)

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_LOAD = "load.sql"
_TABLE = ".csv"
_WHOLE = "database.duckdb"
"""The name of a copy of the file itself, for a database that cannot be exported."""
_DATA = re.compile(r"(?s)(?P<kept>\b(?:key|string|value|range:|Input:)) (?:\"|'|(?=[-+.\d])).*")
_COLUMN = re.compile(r"(?m)^Error when converting column \"(?:[^\"\n]|\"\")*\"")
"""What DuckDB repeats of rows, and what it says of a line that it does not read."""
_ROW = 2 << 20
"""Bytes of the longest row that DuckDB reads by default (`max_line_size`)."""
_BLOCK = _ROW // 2
_AT_ONCE = 1000
"""Rows to fetch at once: few calls, and little memory."""
_PATIENCE = 60.0
"""Seconds to wait for transactions of other connections: longer than most take, and a restore must not hang."""
_PAUSE = 0.01
"""Seconds between two attempts: short compared with a transaction, and long enough to cause no load."""
_CONFINED = ("enable_external_access = false", "lock_configuration = true")
"""The second setting prevents the dump from changing any setting. Neither can be undone in this connection."""
_LOADED = re.compile(r'COPY (?:"(?:[^"]|"")*"|[^\s"()\'])+ ?(?:\([^\']*\) ?)?FROM \'')
_LEFT_OUT = re.compile(r"CREATE (?:VIEW|MACRO)\b")


@dataclass(frozen=True)
class DuckDB(FileDatabase):
    """A DuckDB database.

    Attributes:
        path: The path of its file. A relative path is made absolute.
        strict: Whether a backup fails if a view cannot be restored. If False, the view is left out and noted. In a
            URL: `?strict=false`.

    Example:
        >>> from prefect_snapshots.backups.databases import DuckDB
        >>> DuckDB("/data/warehouse.duckdb").name
        'duckdb:////data/warehouse.duckdb'
    """

    strict: bool = True

    schemes: ClassVar[tuple[str, ...]] = ("duckdb",)
    suffixes: ClassVar[tuple[str, ...]] = (".duckdb",)
    kind: ClassVar[str] = "duckdb"
    swaps: ClassVar[bool] = True
    description: ClassVar[DatabaseDescription] = DatabaseDescription(
        title="DuckDB",
        urls="`duckdb:////absolute.duckdb`",
        needs="`prefect-snapshots[duckdb]`",
        dump="one transaction (`EXPORT DATABASE`, CSV)",
        restored="imported into a new file, which is counted and then replaces the old one",
        not_kept=(
            "secrets and settings. No other process may have the file open; during a restore, this process may not "
            "either"
        ),
    )

    @classmethod
    def options_of(cls, address: Address) -> dict[str, Any]:
        """See `FileDatabase`."""
        strict = {"true": True, "false": False}.get(address.options.get("strict", "true"))
        if strict is None or set(address.options) - {"strict"}:
            raise InvalidArgument("The URL of a DuckDB database has one option: strict=true or strict=false.")
        return {"strict": strict}

    def check(self) -> list[str]:
        with _connected(self.path) as connection:
            (version,) = connection.execute("SELECT version()").fetchone() or ("",)
        return [f"DuckDB {version}"]

    def check_restorable(self) -> list[str]:
        """See `Database`."""
        if not self.strict:
            return []
        with _connected(self.path) as connection:
            broken = _broken(connection)
        remedy = "Correct or drop it, or pass strict=False (strict=false in the URL) to leave it out."
        return [f"{found} refers to a table, column, function or file that is missing. {remedy}" for found in broken]

    @contextlib.contextmanager
    def dump(self) -> Iterator[Dump]:
        with working_folder("duckdb") as folder:
            with _connected(self.path) as connection:
                broken = _broken(connection)
                connection.execute("BEGIN")
                try:
                    connection.execute(f"EXPORT DATABASE {_literal(str(folder))} (FORMAT csv)")
                    counts = _counts(connection)
                    importable = (
                        not _is_more_than_text(connection) and _has_short_rows(folder) and _is_importable(folder)
                    )
                except Exception as error:
                    if "not supported for exporting" not in str(error):
                        raise
                    importable = False
                if not importable:
                    connection.execute("ROLLBACK")
                    self._copy(connection, folder)
            notes = []
            if not importable:
                with _connected(str(folder / _WHOLE), read_only=True) as connection:
                    counts = _counts(connection)
            else:
                # The paths would differ in every backup. An import uses only the names of the files.
                load = folder / _LOAD
                load.write_text(load.read_text().replace(f"FROM {_literal(str(folder))[:-1]}/", "FROM '"))
                notes = [
                    DumpNote(f"{found} refers to something that is missing: a restore leaves it out.", left_out=True)
                    for found in broken
                ]
            yield Dump([DumpFile(path.name, file_pieces(path)) for path in sorted(folder.iterdir())], counts, notes)

    def _copy(self, connection: DuckDBPyConnection, folder: Path) -> None:
        """Copy the file, because `EXPORT` cannot write every schema.

        Commits of other connections during the copy stay in the log beside the file until the next checkpoint.
        """
        for path in folder.iterdir():
            path.unlink()
        (threshold,) = connection.execute("SELECT current_setting('checkpoint_threshold')").fetchone() or ("16MB",)
        connection.execute("SET checkpoint_threshold = '1TB'")
        try:
            deadline = time.monotonic() + _PATIENCE
            while True:
                try:
                    connection.execute("CHECKPOINT")
                    break
                except Exception as error:
                    if "other" not in str(error) or time.monotonic() > deadline:
                        raise
                    time.sleep(_PAUSE)
            shutil.copyfile(self.path, folder / _WHOLE)
        finally:
            connection.execute(f"SET checkpoint_threshold = {_literal(str(threshold))}")

    def counts(self) -> dict[str, int]:
        with _connected(self.path) as connection:
            return _counts(connection)

    def checksums(self, dump: Iterable[DumpFile]) -> dict[str, str]:
        found = Checksums()
        for file in dump:
            if file.path == _WHOLE:
                _add_rows(found, file)
            elif file.path.endswith(_TABLE):
                for line in lines(file.pieces):
                    found.add(file.path.removesuffix(_TABLE), line)
        return found.of_tables()

    @contextlib.contextmanager
    def stage(self, dump: DumpReader, only: Sequence[str] = ()) -> Iterator[Switch]:
        """See `StagedRestores`."""
        check_only(only, dump.counts)
        target = Path(os.path.realpath(self.path))
        with contextlib.ExitStack() as stack:
            with restoring(self.name, "and is unchanged"):
                # DuckDB cannot put a log into a folder whose name has a question mark.
                folder = stack.enter_context(folder_beside(target.with_name(target.name.replace("?", "_"))))
                beside = folder / "database"
                if _WHOLE in dump.paths:
                    write(beside, dump.open(_WHOLE))
                    with _connected(str(beside), read_only=True) as connection:
                        check_counts(_counts(connection), dump.counts)
                    warnings = []
                else:
                    (folder / "dump").mkdir()
                    dump.extract(folder / "dump")
                    warnings = _import(beside, folder / "dump", dump.counts)
                as_private(beside)

            def switch() -> Sequence[str]:
                with restoring(self.name, "and is unchanged"):
                    if only:
                        _replace_tables(target, beside, only)
                    else:
                        _replace(target, beside)
                return warnings

            yield switch

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Database]:
        with working_folder("duckdb") as folder:
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
            'DuckDB databases need the package duckdb. Run `pip install "prefect-snapshots[duckdb]"`.'
        ) from error
    if not create:
        FileDatabase.refuse_missing(path)
    try:
        config: dict[str, str | bool | int | float | list[str]] = {"allow_persistent_secrets": False} if create else {}
        with contextlib.closing(duckdb.connect(path, read_only=read_only, config=config)) as connection:
            yield connection
    except duckdb.Error as error:
        raise BackupFailed(f"{path}: DuckDB says: {_without_data(str(error))}") from error


def _import(path: Path, folder: Path, counts: Mapping[str, int]) -> list[str]:
    """Create a database from the files of a dump.

    The statements come from a backup, which may be forged. So they run in a connection that can open only the files of
    the dump, load no extension and change no setting. Statements that `EXPORT DATABASE` never writes are refused.

    Returns:
        Warnings: which views and macros could not be created.
    """
    with _connected(str(path), create=True) as connection:
        for (extension,) in connection.execute(
            "SELECT extension_name FROM duckdb_extensions() WHERE installed AND NOT loaded"
        ).fetchall():
            # Load installed extensions, because the types of a table may need them.
            connection.execute(f"LOAD {_quoted(extension)}")
        connection.execute(f"SET allowed_directories = [{_literal(str(folder))}]")
        for setting in _CONFINED:
            connection.execute(f"SET {setting}")
        left = _create(connection, _statements(connection, folder / "schema.sql", ("CREATE", "ALTER")))
        if not all(map(_LOADED.match, _statements(connection, folder / _LOAD, ("COPY",)))):
            raise BackupFailed(f"{_LOAD} of the dump has a statement that DuckDB never exports: it was refused.")
        (folder / "schema.sql").write_text("")  # it has run
        connection.execute(f"IMPORT DATABASE {_literal(str(folder))}")
        check_counts(_counts(connection), counts)
    if not left:
        return []
    # For views of files, such as read_csv(...). To create one reads the file, and writes nothing.
    with _connected(str(path)) as connection:
        left = _create(connection, left)
    return [f"{statement.partition(' AS ')[0]} was left out: it refers to something missing." for statement in left]


def _is_more_than_text(connection: DuckDBPyConnection) -> bool:
    """Return whether there is something that `EXPORT` does not write: a comment, or which type a value has.

    The text of a UNION or VARIANT does not say that. NULL would become a string, and a string of digits a number.
    """
    mine = "database_name = current_database()"
    found = [
        f"SELECT 1 FROM duckdb_{kind}() WHERE comment IS NOT NULL AND {mine}"
        for kind in ("tables", "columns", "views", "indexes", "sequences", "types", "functions")
    ]
    # A name that only looks like such a type does no harm.
    found.append(rf"SELECT 1 FROM duckdb_columns() WHERE regexp_matches(data_type, 'UNION\(|\bVARIANT\b') AND {mine}")
    return connection.execute(f"{' UNION ALL '.join(found)} LIMIT 1").fetchone() is not None


def _has_short_rows(folder: Path) -> bool:
    """Return whether DuckDB can read all rows of an export. It writes rows of any length, but reads none above 2 MB."""
    for path in folder.glob(f"*{_TABLE}"):
        with path.open("rb") as file:
            if path.stat().st_size > _ROW and not all(_ends_of_rows(file)):
                return False
    return True


def _ends_of_rows(file: BinaryIO) -> Iterator[bool]:
    """Yield for each full block of a CSV file whether a row ends in it. A row of twice its size fills one."""
    quotes = 0
    while len(block := file.read(_BLOCK)) == _BLOCK:
        start, end, within = 0, block.find(b"\n"), quotes
        while end >= 0:
            within += block.count(b'"', start, end)
            if within % 2 == 0:  # otherwise a value has this line feed
                break
            start, end = end, block.find(b"\n", end + 1)
        yield end >= 0
        quotes += block.count(b'"')


def _is_importable(folder: Path) -> bool:
    """Return whether the schema of an export can be imported. DuckDB cannot read everything that `EXPORT` writes."""
    with _connected(":memory:", create=True) as connection:
        for setting in _CONFINED:
            connection.execute(f"SET {setting}")
        try:
            _create(connection, _statements(connection, folder / "schema.sql", ("CREATE", "ALTER")))
        except Exception as error:  # as in `_create`
            logger.info("The schema cannot be exported, so the whole file is copied: %s", error)
            return False
    return True


def _statements(connection: DuckDBPyConnection, file: Path, kinds: Sequence[str]) -> list[str]:
    try:
        found = connection.extract_statements(file.read_text("utf-8")) if file.exists() else []
    except UnicodeDecodeError:
        raise BackupFailed(f"{file.name} of the dump is not text: it is damaged or forged.") from None
    if any(statement.type.name not in kinds for statement in found):
        raise BackupFailed(f"{file.name} of the dump has a statement that DuckDB never exports: it was refused.")
    return [statement.query.strip() for statement in found]


def _create(connection: DuckDBPyConnection, statements: Sequence[str]) -> list[str]:
    """Run statements in the order of their dependencies, because `EXPORT` sorts views by name.

    Returns:
        Views and macros that cannot be created in any order.
    """
    left = list(statements)
    while left:
        failed: dict[str, Exception] = {}
        for statement in left:
            try:
                connection.execute(statement)
            except Exception as error:  # any error of DuckDB: an unknown name has a different one for each kind
                failed[statement] = error
        if len(failed) == len(left):
            for statement, why in failed.items():
                if not _LEFT_OUT.match(statement):
                    raise why
            return left
        left = list(failed)
    return []


def _broken(connection: DuckDBPyConnection) -> list[str]:
    """Return the views and macros that refer to something missing, so that a restore could not create them."""
    mine = "NOT internal AND database_name = current_database() ORDER BY ALL"
    views = connection.execute(f"SELECT schema_name, view_name FROM duckdb_views() WHERE {mine}").fetchall()
    macros = connection.execute(
        "SELECT schema_name, function_name, parameters, function_type = 'table_macro', macro_definition "
        f"FROM duckdb_functions() WHERE macro_definition IS NOT NULL AND {mine}"
    ).fetchall()
    tried = [
        (f"View {_named(schema, view)}", f"EXPLAIN SELECT * FROM {_place(schema, view)}") for schema, view in views
    ]
    for schema, name, parameters, gives_table, definition in macros:
        head = f"CREATE OR REPLACE TEMP MACRO snapshots_check({', '.join(map(_quoted, parameters))})"
        statement = f"{head} AS {'TABLE ' if gives_table else ''}{definition}"
        tried.append((f"Macro {_named(schema, name)}", statement))
    broken = []
    for found, statement in tried:
        try:
            connection.execute(statement)
        except Exception:  # as in `_create`
            broken.append(found)
    return broken


def _add_rows(found: Checksums, file: DumpFile) -> None:
    with working_folder("duckdb") as folder:
        write(folder / _WHOLE, file.pieces)
        with _connected(str(folder / _WHOLE), read_only=True) as connection:
            for schema, table in _tables(connection):
                rows = connection.execute(f"SELECT * FROM {_place(schema, table)}")
                while batch := rows.fetchmany(_AT_ONCE):
                    for row in batch:
                        found.add(_named(schema, table), repr(row).encode())


def _replace(target: Path, beside: Path) -> None:
    # What stands behind a question mark is an option for DuckDB.
    path, mark, rest = str(target).partition("?")
    log = Path(f"{path}.wal{mark}{rest}")
    if target.exists():
        try:
            with _connected(str(target)) as connection:
                connection.execute("FORCE CHECKPOINT")
            # DuckDB allows no read-only connection while this process has a connection that can write.
            with _connected(str(target), read_only=True):
                pass
        except BackupFailed as error:
            if "different configuration" in str(error):
                raise BackupFailed(f"{target} is open in this process. Close its connections first.") from error
            if "lock" in str(error):
                raise
            # It is damaged, and no program has it open.
        shutil.copymode(target, beside)
    # DuckDB would replay a log of a lost or broken database into the new one.
    log.unlink(missing_ok=True)
    os.replace(beside, target)


def _replace_tables(target: Path, beside: Path, only: Sequence[str]) -> None:
    """Replace the rows of some tables by those in the file beside the target, in one transaction."""
    import duckdb

    with _connected(str(target)) as connection:
        connection.execute(f"ATTACH {_literal(str(beside))} AS restoring (READ_ONLY)")
        (catalog,) = connection.execute("SELECT current_database()").fetchone() or ("",)
        there = {_named(schema, table): (schema, table) for schema, table in _tables(connection)}
        if absent := sorted(set(only) - set(there)):
            raise BackupFailed(
                f"{', '.join(absent)} is not in the database. Restore the whole backup to another file, and copy the "
                "table from there."
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
            place = _place(schema, table)
            try:
                connection.execute(f"DELETE FROM {_quoted(catalog)}.{place}")
                connection.execute(
                    f"INSERT INTO {_quoted(catalog)}.{place} ({names}) SELECT {names} FROM restoring.{place}"
                )
            except duckdb.ConstraintException as error:
                if "foreign key" not in str(error):
                    raise
                # Within one transaction DuckDB refuses this even if all rows that refer to them are gone.
                raise BackupFailed(
                    f"A foreign key prevents that the rows of {name} are replaced: rows would refer to rows that do "
                    "not exist, or other tables refer to it, which DuckDB does not allow. Restore the whole backup to "
                    "another file, and copy the rows from there."
                ) from error
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
        (n,) = connection.execute(f"SELECT count(*) FROM {_place(schema, table)}").fetchone() or (0,)
        counts[_named(schema, table)] = int(n)
    return counts


def _tables(connection: DuckDBPyConnection) -> list[tuple[str, str]]:
    return connection.execute(
        "SELECT schema_name, table_name FROM duckdb_tables() WHERE database_name = current_database() "
        "AND NOT internal AND NOT temporary ORDER BY ALL"
    ).fetchall()


def _named(schema: str, table: str) -> str:
    """Return the name of a table in counts: with the schema in front, unless that is the default one."""
    plain = [name if re.fullmatch(r"\w+", name) else _quoted(name) for name in (schema, table)]
    return plain[1] if schema == "main" else ".".join(plain)


def _place(schema: str, name: str) -> str:
    return f"{_quoted(schema)}.{_quoted(name)}"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _without_data(text: str) -> str:
    """Return a message of DuckDB without the rows in it: of several lines, only the first one and the column."""
    column = _COLUMN.search(text)
    first = _DATA.sub(r"\g<kept> ...", text.partition("\n")[0])
    return f"{first}. {column[0]}." if column else first


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
