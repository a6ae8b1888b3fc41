"""Every type of object that a database knows goes through every way that a backup can take, and comes back.

`database_zoo.py` has the objects. What is compared is what the database's own tool shows, and never our own counts.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import database_servers
import database_zoo
import duckdb
import pytest
from database_servers import PASSWORD, Server
from database_zoo import Exhibit

from prefect_snapshots import BackupManager
from prefect_snapshots.backups.databases import DuckDB, Etcd, MariaDB, PostgreSQL, Redis, SQLite
from prefect_snapshots.backups.sources import DatabaseDriver


class Zoo:
    """The zoo of one database: a test class inherits it."""

    exhibits: ClassVar[list[Exhibit]]
    only: ClassVar[str]
    """A table, collection or database that can be restored alone. Empty: there is none."""

    def database(self, name: str) -> DatabaseDriver:
        """Return the driver of a database with a name, which need not exist."""
        raise NotImplementedError

    def state(self, name: str) -> list[str]:
        """Return everything in a database, as its own tool shows it."""
        raise NotImplementedError

    def change(self, name: str) -> None:
        """Change data and schema, and also the table `only`."""
        raise NotImplementedError

    def drop(self, name: str) -> None:
        """Drop a database."""
        raise NotImplementedError

    def add(self, exhibits: list[Exhibit]) -> None:
        """Create what only a superuser may create, and no drill."""
        raise NotImplementedError

    def load(self, part: Path, name: str) -> None:
        """Load an exported dump into a new database with the database's own tool."""
        raise NotImplementedError

    def look(self, name: str) -> list[str]:
        """Return the state of a copy as if it had the name of the original."""
        return [line.replace(name, "shop") for line in self.state(name)]

    def alone(self, state: list[str]) -> list[str]:
        """Return the lines of a state that tell of the table `only`."""
        return [line for line in state if self.only.rpartition(".")[2] in line]

    def copied(self, state: list[str]) -> list[str]:
        """Return the state that a copy beside the original is to have."""
        return state

    def loaded(self, state: list[str]) -> list[str]:
        """Return the part of a state that the database's own tool gives to a copy."""
        return state

    def test_everything_comes_back_by_every_way(self, tmp_path: Path) -> None:
        source, copy = self.database("shop"), self.database("shop_copy")
        before = self.state("shop")
        manager = BackupManager(tmp_path / "repository", databases=[source])
        backup = manager.create_backup("zoo", prove=True)
        assert backup.proven_at is not None
        assert not backup.incomplete
        assert self.state("shop") == before, "a drill has changed the original"
        if more := [each for each in self.exhibits if each.for_superusers]:
            self.add(more)
            before = self.state("shop")
            backup = manager.create_backup("all of the zoo")
        shown = "\n".join(before)
        assert [each.kind for each in self.exhibits if each.proof not in shown] == []

        self.change("shop")
        assert self.state("shop") != before
        manager.restore_backup(backup.name, confirm=True, safety=False)
        assert self.state("shop") == before
        self.drop("shop")
        manager.restore_backup(backup.name, confirm=True)
        assert self.state("shop") == before

        manager.restore_backup(backup.name, confirm=True, to={source.name: copy})
        assert self.look("shop_copy") == self.copied(before)
        assert self.state("shop") == before, "a restore beside it has changed the original"
        self.drop("shop_copy")

        if self.only:
            alone = self.alone(before)
            self.change("shop")
            assert self.alone(self.state("shop")) != alone
            manager.restore_backup(backup.name, confirm=True, only={source.name: [self.only]})
            now = self.state("shop")
            assert self.alone(now) == alone
            assert now != before, "more than this table was restored"

        with tarfile.open(manager.export(backup.name, tmp_path / "zoo.tar")) as tar:
            # Python 3.11.2 has no filters.
            tar.extraction_filter = getattr(tarfile, "data_filter", None)
            tar.extractall(tmp_path / "exported")
        [part] = [path for path in (tmp_path / "exported").iterdir() if path.is_dir()]
        self.load(part, "shop_copy")
        assert self.loaded(self.look("shop_copy")) == self.loaded(before)
        self.drop("shop_copy")


@pytest.fixture(scope="module")
def postgresql_server() -> Iterator[Server]:
    with database_servers.postgresql() as server:
        yield server


class TestPostgreSQL(Zoo):
    exhibits = database_zoo.POSTGRESQL
    only = "public.pages"

    @pytest.fixture(autouse=True)
    def _server(self, postgresql_server: Server) -> Iterator[None]:
        self.server = postgresql_server
        self.admin = database_servers.psql(self.server)
        self.admin("CREATE DATABASE shop TEMPLATE template0;")
        self.add([each for each in self.exhibits if not each.for_superusers])
        yield
        self.drop("shop")
        self.admin("DROP ROLE reader;")

    def database(self, name: str) -> DatabaseDriver:
        return PostgreSQL(f"postgresql://postgres@127.0.0.1:{self.server.port}/{name}", PASSWORD)

    def add(self, exhibits: list[Exhibit]) -> None:
        database_servers.psql(self.server, "shop")(database_zoo.script(exhibits))

    def state(self, name: str) -> list[str]:
        client = database_servers.psql(self.server, name)
        program = f"{database_servers.newest('/usr/lib/postgresql/*/bin')}/pg_dump"
        lines = replace(client, command=[program, "--create"])("")
        return [line for line in lines if not line.startswith(("\\restrict", "\\unrestrict"))]

    def change(self, name: str) -> None:
        database_servers.psql(self.server, name)(
            "INSERT INTO pages VALUES ('new'); DROP MATERIALIZED VIEW longer; CREATE TABLE later (i int); "
            "INSERT INTO parents VALUES (7, 7); ALTER TYPE mood ADD VALUE 'new';"
        )

    def drop(self, name: str) -> None:
        inside = database_servers.psql(self.server, name)
        for subscription in inside(
            "SELECT subname FROM pg_subscription JOIN pg_database d ON d.oid = subdbid "
            "WHERE datname = current_database();"
        ):
            inside(f"DROP SUBSCRIPTION {subscription};")
        self.admin(f"DROP DATABASE {name} WITH (FORCE);")

    def alone(self, state: list[str]) -> list[str]:
        start = state.index("COPY public.pages (name) FROM stdin;")
        return state[start : state.index("\\.", start)]

    def load(self, part: Path, name: str) -> None:
        self.admin(f"CREATE DATABASE {name} TEMPLATE template0;")
        client = database_servers.psql(self.server, name)
        program = f"{database_servers.newest('/usr/lib/postgresql/*/bin')}/pg_restore"
        dump = next(path for path in part.rglob("*") if path.is_file() and path.read_bytes()[:5] == b"PGDMP")
        loading = [program, "--exit-on-error", f"--dbname={name}", str(dump)]
        replace(client, command=[*loading, "--section=pre-data"])("")
        # pg_restore alone cannot fill a generated column whose function finds another one by the search path.
        client("ALTER FUNCTION slug SET search_path = public;")
        replace(client, command=[*loading, "--section=data", "--section=post-data"])("")
        client("ALTER FUNCTION slug RESET search_path;")

    def loaded(self, state: list[str]) -> list[str]:
        # pg_restore without --create leaves out what belongs to the database itself.
        return [line for line in state if line.startswith("CREATE ") and not line.startswith("CREATE DATABASE")]


@pytest.fixture(scope="module")
def mariadb_server() -> Iterator[Server]:
    with database_servers.mariadb() as server:
        yield server


class TestMariaDB(Zoo):
    exhibits = database_zoo.MARIADB
    only = "parts"

    @pytest.fixture(autouse=True)
    def _server(self, mariadb_server: Server) -> Iterator[None]:
        self.server = mariadb_server
        self.admin = database_servers.mariadb_client(self.server)
        self.admin("CREATE DATABASE shop;")
        database_servers.mariadb_client(self.server, "shop")(database_zoo.script(self.exhibits))
        yield
        self.drop("shop")

    def database(self, name: str) -> DatabaseDriver:
        return MariaDB(f"mariadb://admin@127.0.0.1:{self.server.port}/{name}", PASSWORD)

    def loaded(self, state: list[str]) -> list[str]:
        # For the tool, a row of a versioned table begins when it is loaded.
        return [re.sub(r"^(INSERT INTO `shown` VALUES \(1,)'[^']+'", r"\1", line) for line in state]

    def state(self, name: str) -> list[str]:
        options = ["--host=127.0.0.1", f"--port={self.server.port}", "--user=admin", "--skip-comments", "--hex-blob"]
        more = ["--routines", "--triggers", "--events", "--skip-extended-insert", "--databases", name]
        dump = database_servers.Client(["mariadb-dump", "--no-defaults", *options, *more], {"MYSQL_PWD": PASSWORD})
        return dump("")

    def change(self, name: str) -> None:
        database_servers.mariadb_client(self.server, name)(
            "INSERT INTO parts VALUES (5, NULL, NULL); DROP VIEW fewer; CREATE TABLE later (i int); "
            "INSERT INTO parents VALUES (77, 'new'); DROP FUNCTION twice;"
        )

    def drop(self, name: str) -> None:
        self.admin(f"DROP DATABASE {name};")

    def copied(self, state: list[str]) -> list[str]:
        # The events of a copy would run beside those of the original.
        return [line.replace(" ENABLE ", " DISABLE ") if " EVENT `" in line else line for line in state]

    def load(self, part: Path, name: str) -> None:
        self.admin(f"CREATE DATABASE {name} CHARACTER SET latin2 COLLATE latin2_croatian_ci;")
        [dump] = part.rglob("*.sql")
        client = database_servers.mariadb_client(self.server, name)
        done = subprocess.run(
            client.command, stdin=dump.open(), env={**client.environment, "PATH": "/usr/bin"}, check=True
        )
        assert done.returncode == 0


class TestSQLite(Zoo):
    exhibits = database_zoo.SQLITE
    only = "k"

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        self.run("shop", database_zoo.script(self.exhibits))

    def run(self, name: str, sql: str) -> list[str]:
        return database_servers.Client(["sqlite3", "-bail", str(self.folder / name)], {})(sql)

    def database(self, name: str) -> DatabaseDriver:
        return SQLite(str(self.folder / name))

    def state(self, name: str) -> list[str]:
        pragmas = ("page_size", "encoding", "auto_vacuum", "user_version", "application_id", "integrity_check")
        return self.run(name, "\n".join([*(f"PRAGMA {each};" for each in pragmas), ".dump", ".sha3sum --schema"]))

    def change(self, name: str) -> None:
        self.run(name, "UPDATE k SET a = 'new'; DROP VIEW w; CREATE TABLE later (x); INSERT INTO t (b) VALUES ('new');")

    def drop(self, name: str) -> None:
        (self.folder / name).unlink()

    def look(self, name: str) -> list[str]:
        return self.state(name)

    def alone(self, state: list[str]) -> list[str]:
        return [line for line in state if line.startswith("INSERT INTO k ")]

    def load(self, part: Path, name: str) -> None:
        [file] = [path for path in part.rglob("*") if path.is_file() and path.read_bytes()[:6] == b"SQLite"]
        file.rename(self.folder / name)


class TestDuckDB(Zoo):
    exhibits = database_zoo.DUCKDB
    only = "orders"

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        self.run("shop", database_zoo.script(self.exhibits))

    def run(self, name: str, sql: str) -> None:
        with duckdb.connect(str(self.folder / name)) as connection:
            connection.execute(sql)

    def database(self, name: str) -> DatabaseDriver:
        return DuckDB(str(self.folder / name))

    def state(self, name: str) -> list[str]:
        exported = self.folder / "looked at"
        self.run(name, f"EXPORT DATABASE '{exported}'")
        try:
            lines = [line for path in sorted(exported.iterdir()) for line in path.read_text("latin1").splitlines()]
        finally:
            shutil.rmtree(exported)
        with duckdb.connect(str(self.folder / name)) as connection:
            for what in ("tables", "columns", "views"):
                rows = connection.execute(
                    f"SELECT DISTINCT schema_name, {what[:-1]}_name, comment FROM duckdb_{what}() "
                    "WHERE NOT internal AND comment IS NOT NULL ORDER BY ALL"
                ).fetchall()
                lines += [str(row) for row in rows]
            found = connection.execute(
                "SELECT schema_name, function_name || '(' || array_to_string(parameters, ',') || ')', macro_definition "
                "FROM duckdb_functions() WHERE NOT internal ORDER BY ALL"
            )
            lines += [str(row) for row in found.fetchall()]
        return [line for line in lines if line]

    def change(self, name: str) -> None:
        self.run(name, "DROP VIEW s.fewer; CREATE TABLE later (x INTEGER); INSERT INTO orders VALUES (1, 'new');")

    def drop(self, name: str) -> None:
        (self.folder / name).unlink()

    def look(self, name: str) -> list[str]:
        return self.state(name)

    def alone(self, state: list[str]) -> list[str]:
        with duckdb.connect(str(self.folder / "shop")) as connection:
            return [*map(str, connection.execute("SELECT * FROM orders ORDER BY ALL").fetchall())]

    def load(self, part: Path, name: str) -> None:
        whole = [path for path in part.rglob("*") if path.is_file() and path.read_bytes()[8:12] == b"DUCK"]
        if whole:
            whole[0].rename(self.folder / name)
        else:
            [schema] = part.rglob("schema.sql")
            self.run(name, f"IMPORT DATABASE '{schema.parent}'")


class TestDuckDBWithoutComments(TestDuckDB):
    """Comments make the whole file the dump. This one is an export."""

    exhibits: ClassVar[list[Exhibit]] = [each for each in database_zoo.DUCKDB if each.kind != "comments"]


class TestRedis(Zoo):
    exhibits = database_zoo.REDIS
    only = "db3"

    @pytest.fixture(autouse=True)
    def _servers(self) -> Iterator[None]:
        with contextlib.ExitStack() as running:
            self.running = running
            self.servers = {name: self.start() for name in ("shop", "shop_copy")}
            database_servers.redis_client(self.servers["shop"])(database_zoo.script(self.exhibits))
            yield

    def start(self, *more: str) -> Server:
        return self.running.enter_context(database_servers.redis("--enable-debug-command", "local", *more))

    def database(self, name: str) -> DatabaseDriver:
        return Redis(f"redis://127.0.0.1:{self.servers[name].port}", PASSWORD)

    def state(self, name: str) -> list[str]:
        client = database_servers.redis_client(self.servers[name])
        keys = client("KEYS *\n")
        types = client("".join(f"TYPE {key}\n" for key in keys)) if keys else []
        state = [f"{key} {type}" for key, type in sorted(zip(keys, types, strict=True))]
        state += ["going expires"] if "going" in keys and int(client("PTTL going\n")[0]) > 0 else []
        state += [line.partition(",")[0] for line in client("INFO keyspace\n") if line.startswith("db")]
        return [*state, *client("DEBUG DIGEST\nFUNCTION LIST WITHCODE\n")]

    def look(self, name: str) -> list[str]:
        return self.state(name)

    def change(self, name: str) -> None:
        database_servers.redis_client(self.servers[name])(
            "SET text new\nDEL hash\nSET later 1\nFUNCTION FLUSH\nSELECT 3\nSET three new\n"
        )

    def drop(self, name: str) -> None:
        database_servers.redis_client(self.servers[name])("FLUSHALL\nFUNCTION FLUSH\n")

    def alone(self, state: list[str]) -> list[str]:
        return database_servers.redis_client(self.servers["shop"])("SELECT 3\nGET three\n")

    def load(self, part: Path, name: str) -> None:
        [file] = part.rglob("*.rdb")
        folder = Path(tempfile.mkdtemp(prefix="zoo-"))
        self.running.callback(shutil.rmtree, folder)
        shutil.copy(file, folder / "dump.rdb")
        for path in (folder, folder / "dump.rdb"):
            path.chmod(0o777)
        self.servers[name] = self.start("--dir", str(folder), "--dbfilename", "dump.rdb")


class TestEtcd(Zoo):
    exhibits = database_zoo.ETCD
    only = ""

    @pytest.fixture(autouse=True)
    def _servers(self) -> Iterator[None]:
        with database_servers.etcd() as shop, database_servers.etcd() as copy:
            self.servers = {"shop": shop, "shop_copy": copy}
            self.ctl("shop", "txn")(f"\n{database_zoo.script(self.exhibits)}\n\n")
            yield

    def ctl(self, name: str, *command: str) -> database_servers.Client:
        return database_servers.Client([*database_servers.etcdctl(self.servers[name]), *command], {})

    def database(self, name: str) -> DatabaseDriver:
        return Etcd(f"etcd://127.0.0.1:{self.servers[name].port}")

    def state(self, name: str) -> list[str]:
        return self.ctl(name, "get", "", "--from-key")("")

    def look(self, name: str) -> list[str]:
        return self.state(name)

    def change(self, name: str) -> None:
        self.ctl(name, "txn")("\nput /a 2\nput /new 1\ndel /b/c\n\n\n")

    def drop(self, name: str) -> None:
        self.ctl(name, "del", "", "--from-key")("")

    def load(self, part: Path, name: str) -> None:
        """The server of a copy takes no snapshot while it runs: the tool looks at the snapshot, and we copy."""
        [file] = [path for path in part.rglob("*") if path.is_file()]
        status = subprocess.run(
            ["etcdctl", "snapshot", "status", str(file)],
            env={**os.environ, "ETCDCTL_API": "3"},
            check=True,
            capture_output=True,
        )
        assert status.stdout.count(b",") == 3
        self.ctl(name, "txn")(f"\n{database_zoo.script(self.exhibits)}\n\n")


def test_the_documentation_lists_what_the_zoos_keep() -> None:
    lines = (Path(__file__).parent.parent / "docs" / "databases.md").read_text().splitlines()
    zoos: list[type[Zoo]] = [TestPostgreSQL, TestMariaDB, TestSQLite, TestDuckDB, TestRedis, TestEtcd]
    for title, each in zip(
        ("PostgreSQL 13+", "MariaDB, MySQL", "SQLite", "DuckDB", "Redis", "etcd"), zoos, strict=True
    ):
        assert [line for line in lines if line.startswith(f"| {title} | {database_zoo.kinds(each.exhibits)}")], title
