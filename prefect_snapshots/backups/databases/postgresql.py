"""PostgreSQL: `pg_dump` of one database, and a restore into a new database that then takes the old one's name.

The dump is PostgreSQL's custom format without its own compression, so that rows that did not change are found again in
the next backup. The rows are counted in the very snapshot that `pg_dump` reads. What belongs to the database itself and
is in no dump (encoding, owner, settings, who may connect) is a small file beside the dump.

A restore makes a new database, fills it, compares the counts, and only then renames both in one transaction: whenever
it ends, the database is the old one or the new one. Needed are the rights to create databases and to own this one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import hashlib
import itertools
import json
import os
import re
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, ClassVar

from ...errors import BackupFailed, InvalidArgument
from ..sources import Database, DatabaseDescription, Dump, DumpFile, DumpReader
from .base import Address, Checksums, ServerDatabase, Tool, check_counts, check_only, missing, restoring

_DUMP = "database.pgdump"
_SETTINGS = "database.json"
_LARGE_OBJECTS = "(large objects)"
_OTHER = "(sequences and large objects)"
_PACKAGE = "postgresql-client"
_ATTEMPTS = 10
"""To swap while others keep connecting to the old database."""

_A_MOMENT = 2.0
"""Seconds in which psql, if it is what failed, ends."""

_OPTIONS = {
    "host": "PGHOST",
    "port": "PGPORT",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "channel_binding": "PGCHANNELBINDING",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "application_name": "PGAPPNAME",
    "options": "PGOPTIONS",
    "passfile": "PGPASSFILE",
    "service": "PGSERVICE",
}
"""What a URL may say after its `?`, and the environment variable of the same meaning."""

_COPY = re.compile(rb'COPY ((?:"(?:[^"]|"")*"|[^" ])+) (?:\(.*\))? FROM stdin;\n', re.DOTALL)
_RANDOM = (b"\\restrict ", b"\\unrestrict ")
"""Lines of a script that differ every time."""

_LISTS = ("search_path", "temp_tablespaces")
"""Settings whose value is a list of quoted names, which cannot be quoted once more."""

_TABLES = """
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND NOT EXISTS (
    SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
"""

_DATABASE = """
SELECT jsonb_build_object(
  'encoding', pg_encoding_to_char(encoding), 'owner', pg_get_userbyid(datdba), 'connections', datconnlimit,
  'LC_COLLATE', datcollate, 'LC_CTYPE', datctype,
  'provider', CASE to_jsonb(d) ->> 'datlocprovider' WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE 'libc' END,
  'locale', coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale'),
  'comment', shobj_description(oid, 'pg_database'),
  'settings', (SELECT coalesce(jsonb_agg(jsonb_build_array(r.rolname, c) ORDER BY r.rolname, i), '[]')
    FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = setrole, unnest(setconfig) WITH ORDINALITY AS u(c, i)
    WHERE setdatabase = d.oid),
  'grants', (SELECT jsonb_agg(jsonb_build_array(r.rolname, privilege_type, is_grantable) ORDER BY 1, 2)
    FROM aclexplode(datacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee WHERE datacl IS NOT NULL))
FROM pg_database d WHERE datname = current_database()
"""

# What stands in the way of replacing the rows of a table, and comes back afterwards: keys, which are then checked
# against all rows again, and triggers, each with its own way of being enabled. The tables are a JSON array of
# [schema, table].
_OBSTACLES = """
WITH t AS (SELECT c.oid FROM jsonb_array_elements({tables}) e JOIN pg_class c ON c.relname = e ->> 1
           JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = e ->> 0)
SELECT jsonb_build_object(
  'before', (SELECT coalesce(jsonb_agg(format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname)), '[]')
      FROM pg_constraint WHERE contype = 'f' AND conparentid = 0
        AND (conrelid IN (SELECT oid FROM t) OR confrelid IN (SELECT oid FROM t)))
    || (SELECT coalesce(jsonb_agg(format('ALTER TABLE %s DISABLE TRIGGER %I', tgrelid::regclass, tgname)), '[]')
      FROM pg_trigger WHERE NOT tgisinternal AND tgenabled IN ('O', 'A') AND tgrelid IN (SELECT oid FROM t)),
  'after', (SELECT coalesce(jsonb_agg(format('ALTER TABLE %s ENABLE %s TRIGGER %I', tgrelid::regclass,
        CASE tgenabled WHEN 'A' THEN 'ALWAYS' ELSE '' END, tgname)), '[]')
      FROM pg_trigger WHERE NOT tgisinternal AND tgenabled IN ('O', 'A') AND tgrelid IN (SELECT oid FROM t))
    || (SELECT coalesce(jsonb_agg(format('ALTER TABLE %s ADD CONSTRAINT %I %s', conrelid::regclass, conname,
        pg_get_constraintdef(oid)) ORDER BY conname), '[]')
      FROM pg_constraint WHERE contype = 'f' AND conparentid = 0
        AND (conrelid IN (SELECT oid FROM t) OR confrelid IN (SELECT oid FROM t))),
  'sequences', (SELECT coalesce(jsonb_agg(jsonb_build_array(n.nspname, s.relname)), '[]')
      FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
      JOIN pg_namespace n ON n.oid = s.relnamespace
      WHERE d.classid = 'pg_class'::regclass AND d.refobjid IN (SELECT oid FROM t) AND d.deptype IN ('a', 'i')))
"""


@dataclass(frozen=True, repr=False)
class PostgreSQL(ServerDatabase):
    """A database of a PostgreSQL server, version 13 or newer.

    Example:
        >>> from prefect_snapshots.backups.databases import PostgreSQL
        >>> PostgreSQL("postgresql://backup:secret@db.example.com/shop")
        PostgreSQL('postgresql://backup:***@db.example.com/shop')

    What the URL leaves out is as for `psql`: `PGHOST`, `PGUSER`, `PGPASSWORD`, `~/.pgpass` and so on. After a `?` it
    may say `host=` (a folder is that of the server's socket), `sslmode=` and what else libpq knows.
    """

    schemes: ClassVar[tuple[str, ...]] = ("postgresql", "postgres")
    kind: ClassVar[str] = "postgresql"
    swaps: ClassVar[bool] = True
    description: ClassVar[DatabaseDescription] = DatabaseDescription(
        title="PostgreSQL 13+",
        urls="`postgresql://user@host/name`",
        needs="`postgresql-client` of the server's version or newer",
        dump="one snapshot (`pg_dump -Fc -Z0`), rows counted in the same snapshot",
        restored="into a new database, counted, then both renamed in one transaction; others' connections are ended",
        not_kept=(
            "roles (have them first: `pg_dumpall --roles-only`), tablespaces, replication slots, statistics (`ANALYZE` "
            "is run)"
        ),
    )
    default_port: ClassVar[int] = 5432

    def check_url(self, address: Address) -> None:
        if not address.database:
            raise InvalidArgument("the URL of a PostgreSQL database ends with its name: postgresql://host/name")
        if unknown := sorted(set(address.options) - set(_OPTIONS)):
            raise InvalidArgument(f"unknown in the URL of a PostgreSQL database: {', '.join(unknown)}")

    def check(self) -> list[str]:
        with self._session() as session:
            server = self._check_version(session)
        return [f"pg_dump {self._dump_version()}", f"PostgreSQL {server}"]

    @contextlib.contextmanager
    def dump(self) -> Iterator[Dump]:
        with self._session() as session:
            self._check_version(session)
            session.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            snapshot = session.ask("SELECT to_jsonb(pg_export_snapshot())")
            settings = json.dumps(session.ask(_DATABASE), indent=1, sort_keys=True).encode()
            arguments = ["--format=custom", "--compress=0", "--no-password", f"--snapshot={snapshot}"]
            with contextlib.closing(self._tool("pg_dump").stream(*arguments)) as pieces:
                counts = _counts(session)
                yield Dump([DumpFile(_SETTINGS, iter([settings])), DumpFile(_DUMP, pieces)], counts)

    def counts(self) -> dict[str, int]:
        with self._session() as session:
            return _counts(session)

    def checksums(self, dump: Iterable[DumpFile]) -> dict[str, str]:
        found = Checksums()
        with tempfile.TemporaryFile() as script:
            for file in dump:
                if file.path == _DUMP:
                    arguments = ["--data-only", "--file=-"]
                    self._tool("pg_restore").run(*arguments, stdin=file.pieces, stdout=script)
            script.seek(0)
            table, head = "", b""
            for line in script:
                if table:
                    if line == b"\\.\n":
                        table = ""
                    else:
                        found.add(table, line)
                elif head or line.startswith(b"COPY "):  # over several lines where a name has line feeds
                    head += line
                    if copied := _COPY.fullmatch(head):
                        table, head = copied[1].decode(), b""
                elif not line.startswith(_RANDOM):
                    found.add(_OTHER, line)
        return found.of_tables()

    def restore(self, dump: DumpReader, only: Sequence[str] = ()) -> None:
        check_only(only, dump.counts)
        with restoring(self.name, "and is as it was"):
            if only:
                self._restore_tables(dump, only)
            else:
                self._restore_whole(dump)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Database]:
        other = dataclasses.replace(self, url=self.renamed(f"{_stem(self._database)}_drill_{secrets.token_hex(4)}"))
        with self._maintenance() as session:
            session.run(f"CREATE DATABASE {_quoted(other._database)}")
        try:
            yield other
        finally:
            with self._maintenance() as session:
                for name in (other._database, other._beside, other._replaced):
                    _drop(session, name)

    # --- restoring ---

    def _restore_whole(self, dump: DumpReader) -> None:
        settings = json.loads(b"".join(dump.open(_SETTINGS)))
        with self._maintenance() as session:
            lock = int.from_bytes(hashlib.blake2b(self._database.encode(), digest_size=4).digest())
            if not session.ask(f"SELECT to_jsonb(pg_try_advisory_lock({lock}))"):
                raise BackupFailed("another restore of this database is going on")
            # What an earlier restore left that was killed.
            _drop(session, self._beside)
            _drop(session, self._replaced)
            beside = dataclasses.replace(self, url=self.renamed(self._beside))
            session.run(_create_statement(self._beside, settings))
            try:
                beside._fill(dump)
                # Not before, because a database can be set to be read only.
                for statement in _alter_statements(self._beside, settings):
                    session.run(statement)
                self._swap(session)
            finally:
                _drop(session, self._beside)
            _drop(session, self._replaced)

    def _fill(self, dump: DumpReader) -> None:
        conninfo = "dbname='" + self._database.replace("\\", "\\\\").replace("'", "\\'") + "'"
        pg_restore = self._tool("pg_restore")
        pg_restore.run("--exit-on-error", "--no-password", f"--dbname={conninfo}", stdin=dump.open(_DUMP))
        with self._session() as session:
            check_counts(_counts(session), dump.counts)
            session.run("ANALYZE")

    def _swap(self, session: _Session) -> None:
        """Give the new database the name; the old one keeps it until that has happened."""
        old, new, replaced = map(_quoted, (self._database, self._beside, self._replaced))
        names = f"{_literal(self._database)}, {_literal(self._beside)}"
        # A connection that is made just then makes renaming fail.
        session.run(f"""
            DO $do$
            DECLARE attempt integer := 0;
            BEGIN
              LOOP
                BEGIN
                  PERFORM pg_stat_clear_snapshot();
                  PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname IN ({names});
                  IF EXISTS (SELECT FROM pg_database WHERE datname = {_literal(self._database)}) THEN
                    ALTER DATABASE {old} RENAME TO {replaced};
                  END IF;
                  ALTER DATABASE {new} RENAME TO {old};
                  EXIT;
                EXCEPTION WHEN object_in_use THEN
                  attempt := attempt + 1;
                  IF attempt = {_ATTEMPTS} THEN RAISE; END IF;
                END;
              END LOOP;
            END $do$""")

    def _restore_tables(self, dump: DumpReader, only: Sequence[str]) -> None:
        pg_restore = self._tool("pg_restore")
        with self._session() as session:
            there = {
                name: tuple(place)
                for name, place in session.ask(
                    f"SELECT coalesce(jsonb_agg(jsonb_build_array(format('%I.%I', nspname, relname), "
                    f"jsonb_build_array(nspname, relname))), '[]') {_TABLES}"
                )
            }
            if absent := sorted(set(only) - set(there)):
                raise BackupFailed(
                    f"{', '.join(absent)} is not in the database: restore the whole backup to another database, and "
                    "copy the table from there"
                )
            places = sorted(there[name] for name in only)
            tables = ", ".join(f"{_quoted(schema)}.{_quoted(table)}" for schema, table in places)
            session.run("BEGIN")
            session.run(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE")
            obstacles = session.ask(_OBSTACLES.format(tables=_literal(json.dumps(places))))
            for statement in [*obstacles["before"], f"TRUNCATE ONLY {tables}"]:
                session.run(statement)
            places = sorted([*places, *map(tuple, obstacles["sequences"])])
            for schema, found in itertools.groupby(places, key=lambda place: place[0]):
                chosen = [f"--table={table}" for _, table in found]
                session.feed(pg_restore, ["--data-only", f"--schema={schema}", *chosen, "--file=-"], dump)
            for statement in obstacles["after"]:
                session.run(statement)
            counts = _counts(session)
            check_counts({name: counts[name] for name in only}, {name: dump.counts[name] for name in only})
            session.run("COMMIT")

    # --- names, tools and sessions ---

    @property
    def _database(self) -> str:
        return self.address.database

    @property
    def _beside(self) -> str:
        return f"{_stem(self._database)}_being_restored_{_digest(self._database)}"

    @property
    def _replaced(self) -> str:
        return f"{_stem(self._database)}_replaced_{_digest(self._database)}"

    def _tool(self, name: str, database: str | None = None) -> Tool:
        address = self.address
        secret = self.secret()
        told = {"host": address.host, "port": str(address.port or ""), "user": address.user, "password": secret or ""}
        environment = {_OPTIONS[option]: value for option, value in (told | dict(address.options)).items() if value}
        environment = {"PGCONNECT_TIMEOUT": "15"} | environment | {"PGDATABASE": database or self._database}
        environment["PGCLIENTENCODING"] = "UTF8"
        return Tool(_program(name), environment, [secret] if secret else [])

    @contextlib.contextmanager
    def _session(self, database: str | None = None) -> Iterator[_Session]:
        tool = self._tool("psql", database)
        arguments = ["--no-psqlrc", "--no-password", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1"]
        with tool.started(*arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            session = _Session(process)
            try:
                session.run("SET search_path = pg_catalog; SET row_security = off; SET client_min_messages = error")
                yield session
            except BrokenPipeError:
                # It has ended, and its own words say why.
                process.wait()
                if not process.returncode:
                    raise

    @contextlib.contextmanager
    def _maintenance(self) -> Iterator[_Session]:
        """A session in another database than this one, which cannot be renamed from within."""
        with self._session("postgres" if self._database != "postgres" else "template1") as session:
            yield session

    def _dump_version(self) -> int:
        found = re.search(rb"(\d+)\S*", self._tool("pg_dump").run("--version"))
        if found is None:
            raise BackupFailed("pg_dump does not say its version")
        return int(found[1])

    def _check_version(self, session: _Session) -> str:
        server = session.ask(
            "SELECT jsonb_build_array(current_setting('server_version'), "
            "current_setting('server_version_num')::int / 10000)"
        )
        if (dump := self._dump_version()) < server[1]:
            raise BackupFailed(
                f"pg_dump {dump} cannot dump PostgreSQL {server[1]}, which is newer: install "
                f"postgresql-client-{server[1]}"
            )
        return str(server[0])


class _Session:
    """A psql that waits for statements."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._input: IO[bytes] = process.stdin
        self._output: IO[bytes] = process.stdout

    def run(self, statement: str) -> None:
        """Run a statement that returns nothing we need."""
        self._answer(statement)

    def ask(self, query: str) -> Any:
        """The one JSON value that a query returns."""
        return json.loads(self._answer(query))

    def feed(self, pg_restore: Tool, arguments: Sequence[str], dump: DumpReader) -> None:
        """Run the statements that pg_restore makes of a dump."""
        try:
            pg_restore.run(*arguments, stdin=dump.open(_DUMP), stdout=self._input)
        except BackupFailed as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_A_MOMENT)
                raise BrokenPipeError from error
            raise

    def _answer(self, statement: str) -> bytes:
        mark = secrets.token_hex(8)
        self._input.write(f"{statement};\n\\echo {mark}\n".encode())
        self._input.flush()
        answer = b""
        for line in self._output:
            if line == f"{mark}\n".encode():
                return answer
            answer = line
        raise BrokenPipeError


def _counts(session: _Session) -> dict[str, int]:
    names = session.ask(f"SELECT coalesce(jsonb_agg(format('%I.%I', nspname, relname) ORDER BY 1), '[]') {_TABLES}")
    counted = [f"SELECT {_literal(name)}, count(*) FROM ONLY {name}" for name in names]
    counted.append(f"SELECT {_literal(_LARGE_OBJECTS)}, count(*) FROM pg_largeobject_metadata HAVING count(*) > 0")
    query = f"SELECT coalesce(jsonb_object_agg(name, n), '{{}}') FROM ({' UNION ALL '.join(counted)}) AS c(name, n)"
    counts: dict[str, int] = session.ask(query)
    return counts


def _create_statement(name: str, settings: Mapping[str, Any]) -> str:
    parts = [f"CREATE DATABASE {_quoted(name)} TEMPLATE template0 ENCODING {_literal(settings['encoding'])}"]
    parts += [f"{option} {_literal(settings[option])}" for option in ("LC_COLLATE", "LC_CTYPE")]
    if settings["provider"] != "libc":
        option = {"icu": "ICU_LOCALE", "builtin": "BUILTIN_LOCALE"}[settings["provider"]]
        parts += [f"LOCALE_PROVIDER {settings['provider']} {option} {_literal(settings['locale'])}"]
    parts += [f"OWNER {_quoted(settings['owner'])}"]
    return " ".join(parts)


def _alter_statements(name: str, settings: Mapping[str, Any]) -> Iterator[str]:
    database = _quoted(name)
    yield f"ALTER DATABASE {database} CONNECTION LIMIT {settings['connections']}"
    if settings["comment"] is not None:
        yield f"COMMENT ON DATABASE {database} IS {_literal(settings['comment'])}"
    if settings["grants"] is not None:
        yield f"REVOKE ALL ON DATABASE {database} FROM PUBLIC"
        for role, privilege, grantable in settings["grants"]:
            option = " WITH GRANT OPTION" if grantable and role != settings["owner"] else ""
            yield f"GRANT {privilege} ON DATABASE {database} TO {_quoted(role) if role else 'PUBLIC'}{option}"
    for role, setting in settings["settings"]:
        option, _, value = setting.partition("=")
        # The names of extensions' settings are two, joined by a dot.
        option = ".".join(map(_quoted, option.split(".")))
        target = f"ALTER ROLE {_quoted(role)} IN DATABASE {database}" if role else f"ALTER DATABASE {database}"
        if option.strip('"') in _LISTS:
            local = f"SELECT set_config({_literal(option.strip(chr(34)))}, {_literal(value)}, true)"
            yield f"BEGIN; {local}; {target} SET {option} FROM CURRENT; COMMIT"
        else:
            yield f"{target} SET {option} TO {_literal(value)}"


def _drop(session: _Session, name: str) -> None:
    session.run(f"DROP DATABASE IF EXISTS {_quoted(name)} WITH (FORCE)")


def _stem(database: str) -> str:
    """The beginning of a name, with room for what is put behind it: names have at most 63 bytes."""
    return database.encode()[:36].decode(errors="ignore")


def _digest(database: str) -> str:
    return hashlib.blake2b(database.encode(), digest_size=4).hexdigest()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    # With a backslash the plain form would depend on a setting.
    return ("E'" if "\\" in text else "'") + text.replace("\\", "\\\\").replace("'", "''") + "'"


def _program(name: str) -> str:
    """The program on the PATH, or the newest one of Debian's, whose own wrapper picks another version by itself."""
    path = shutil.which(name)
    if path is None or os.path.basename(os.path.realpath(path)) == "pg_wrapper":
        versions = glob.glob(f"/usr/lib/postgresql/*/bin/{name}")
        path = max(versions, key=lambda found: float(found.split("/")[4]), default=None)
    if path is None:
        raise missing(name, _PACKAGE)
    return path
