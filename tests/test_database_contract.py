"""Every database of this package passes the contract that other packages' databases inherit."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import database_servers
import database_stand_ins
import duckdb
import pymongo
import pytest
from database_servers import PASSWORD, Server
from forging import assert_forged_dumps_harm_nobody

from prefect_snapshots.backups.databases import (
    ArangoDB,
    DuckDB,
    Etcd,
    MariaDB,
    MariaDBUsers,
    MongoDB,
    PostgreSQL,
    PostgreSQLRoles,
    Redis,
    SQLite,
    drivers,
    open_database,
)
from prefect_snapshots.backups.sources import DatabaseDriver
from prefect_snapshots.errors import InvalidArgument
from prefect_snapshots.testing import DatabaseContract, StoredDump

DOCS = Path(__file__).parent.parent / "docs" / "databases.md"
QUOTED = quote(PASSWORD, safe="")
NAMES = (f"d{number}" for number in itertools.count())

CREATE = "CREATE TABLE users (id int PRIMARY KEY, name varchar(20)); INSERT INTO users VALUES (1, 'a'), (2, 'b')"
CHANGE = "UPDATE users SET name = 'c' WHERE id = 1"
GROW = "INSERT INTO users VALUES (3, 'd')"


class Contract(DatabaseContract):
    """The contract, and forgeries of every file of a dump: one value in each field here, and all of them nightly."""

    def others(self) -> object:
        """Return what is on the server of the database and does not belong to it."""
        return None

    def test_a_forged_dump_harms_nobody(
        self, database: DatabaseDriver, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        assert_forged_dumps_harm_nobody(
            database, StoredDump.of(database), self.others, tmp_path_factory.mktemp("evil"), every=False
        )

    @pytest.mark.nightly
    @pytest.mark.timeout(3600)
    def test_no_forged_dump_harms_anybody(
        self, database: DatabaseDriver, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        assert_forged_dumps_harm_nobody(
            database, StoredDump.of(database), self.others, tmp_path_factory.mktemp("evil"), every=True
        )


class TestSQLite(Contract):
    @pytest.fixture
    def database(self, tmp_path: Path) -> DatabaseDriver:
        database = SQLite(str(tmp_path / "shop.db"))
        with contextlib.closing(sqlite3.connect(database.path)) as connection:
            connection.executescript(CREATE)
        return database

    def run(self, database: DatabaseDriver, statement: str) -> None:
        assert isinstance(database, SQLite)
        with contextlib.closing(sqlite3.connect(database.path, isolation_level=None)) as connection:
            connection.execute(statement)

    def change(self, database: DatabaseDriver) -> None:
        self.run(database, CHANGE)

    def grow(self, database: DatabaseDriver) -> None:
        self.run(database, GROW)


class TestDuckDB(Contract):
    @pytest.fixture
    def database(self, tmp_path: Path) -> DatabaseDriver:
        database = DuckDB(str(tmp_path / "shop.duckdb"))
        self.run(database, CREATE)
        return database

    def run(self, database: DatabaseDriver, statement: str) -> None:
        assert isinstance(database, DuckDB)
        with duckdb.connect(database.path) as connection:
            connection.execute(statement)

    def change(self, database: DatabaseDriver) -> None:
        self.run(database, CHANGE)

    def grow(self, database: DatabaseDriver) -> None:
        self.run(database, GROW)


@pytest.fixture(scope="module")
def postgresql_server() -> Iterator[Server]:
    with database_servers.postgresql() as server:
        yield server


def of_postgresql(server: Server) -> list[str]:
    """Roles, with all that they may, and the names of databases."""
    return database_servers.psql(server)(
        "SELECT r FROM pg_roles r ORDER BY oid; SELECT roleid, member FROM pg_auth_members ORDER BY 1, 2; "
        "SELECT datname FROM pg_database ORDER BY 1; SELECT * FROM pg_db_role_setting WHERE setdatabase = 0;"
    )


NIGHTLY = [False, pytest.param(True, marks=[pytest.mark.nightly, pytest.mark.timeout(3600)])]


@pytest.mark.parametrize("every", NIGHTLY)
def test_forged_roles_of_postgresql_harm_nobody(postgresql_server: Server, tmp_path: Path, every: bool) -> None:
    client = database_servers.psql(postgresql_server)
    client("CREATE ROLE member LOGIN VALID UNTIL '2031-01-01'; CREATE ROLE leader; GRANT leader TO member;")
    client("COMMENT ON ROLE leader IS 'x'; ALTER ROLE leader SET work_mem = '1MB';")
    roles = PostgreSQLRoles(f"postgresql://postgres@127.0.0.1:{postgresql_server.port}/", PASSWORD)
    kept = StoredDump.of(roles)

    def others() -> object:
        """What is left after new roles are dropped, and those of them that have rights."""
        new = "FROM pg_roles r WHERE oid > 16383"
        strong = client(f"SELECT rolname {new} AND (rolsuper OR rolcreaterole OR rolreplication OR rolbypassrls);")
        strong += client(
            f"SELECT rolname {new} AND EXISTS (SELECT FROM pg_auth_members WHERE member = r.oid AND roleid < 16384);"
        )
        client(f"SELECT format('DROP ROLE %I', rolname) {new} \\gexec\n")
        return strong, of_postgresql(postgresql_server)

    assert_forged_dumps_harm_nobody(roles, kept, others, tmp_path, every=every)
    others()


class TestPostgreSQL(Contract):
    @pytest.fixture
    def database(self, postgresql_server: Server, monkeypatch: pytest.MonkeyPatch) -> DatabaseDriver:
        name = next(NAMES)
        database_servers.psql(postgresql_server)(f"CREATE DATABASE {name};")
        database_servers.psql(postgresql_server, name)(f"{CREATE};")
        monkeypatch.setenv("PGUSER", "postgres")  # names of databases hold no users
        monkeypatch.setenv("PGPASSWORD", PASSWORD)
        return PostgreSQL(f"postgresql://127.0.0.1:{postgresql_server.port}/{name}")

    @pytest.fixture(autouse=True)
    def _client(self, postgresql_server: Server) -> None:
        self.server = postgresql_server

    def others(self) -> object:
        return of_postgresql(self.server)

    def run(self, database: DatabaseDriver, statement: str) -> None:
        assert isinstance(database, PostgreSQL)
        database_servers.psql(self.server, database.address.database)(f"{statement};")

    def change(self, database: DatabaseDriver) -> None:
        self.run(database, CHANGE)

    def grow(self, database: DatabaseDriver) -> None:
        self.run(database, GROW)


@pytest.fixture(scope="module")
def mariadb_server() -> Iterator[Server]:
    with database_servers.mariadb() as server:
        yield server


class TestMariaDB(Contract):
    @pytest.fixture
    def database(self, mariadb_server: Server) -> DatabaseDriver:
        name = next(NAMES)
        database_servers.mariadb_client(mariadb_server)(f"CREATE DATABASE {name}")
        database_servers.mariadb_client(mariadb_server, name)(CREATE)
        return MariaDB(f"mariadb://admin@127.0.0.1:{mariadb_server.port}/{name}", PASSWORD)

    @pytest.fixture(autouse=True)
    def _client(self, mariadb_server: Server) -> None:
        self.server = mariadb_server

    def others(self) -> object:
        return of_mariadb(self.server)

    def run(self, database: DatabaseDriver, statement: str) -> None:
        assert isinstance(database, MariaDB)
        database_servers.mariadb_client(self.server, database.address.database)(statement)

    def change(self, database: DatabaseDriver) -> None:
        self.run(database, CHANGE)

    def grow(self, database: DatabaseDriver) -> None:
        self.run(database, GROW)


def of_mariadb(server: Server) -> list[str]:
    """Accounts, with all that they may, and the names of databases."""
    return database_servers.mariadb_client(server)(
        "SELECT * FROM mysql.global_priv ORDER BY 1, 2; SELECT * FROM mysql.roles_mapping; SELECT * FROM mysql.db; "
        "SHOW DATABASES"
    )


@pytest.mark.parametrize("every", NIGHTLY)
def test_forged_users_of_mariadb_harm_nobody(mariadb_server: Server, tmp_path: Path, every: bool) -> None:
    client = database_servers.mariadb_client(mariadb_server)
    client("CREATE ROLE leader; CREATE USER member@localhost; GRANT leader TO member@localhost")
    client("GRANT SELECT ON shop.* TO leader")
    there = ("admin", "root", "mariadb.sys", "PUBLIC", "mysql", "nobody")
    users = MariaDBUsers(f"mariadb://admin@127.0.0.1:{mariadb_server.port}/", PASSWORD)
    kept = StoredDump.of(users)

    def others() -> object:
        """What is left after new accounts are dropped, and the rights of these on the whole server."""
        new = f"FROM mysql.global_priv WHERE user NOT IN {there} AND user <> ''"
        strong = client(f"SELECT user, priv {new} AND JSON_VALUE(priv, '$.access') > 0")
        # In hexadecimal, because names may have line feeds.
        for statement in client(
            f"SELECT HEX(CONCAT('DROP ', IF(JSON_VALUE(priv, '$.is_role'), CONCAT('ROLE ', QUOTE(user)), "
            f"CONCAT('USER ', QUOTE(user), '@', QUOTE(host))))) {new}"
        ):
            client(bytes.fromhex(statement).decode())
        return strong, of_mariadb(mariadb_server)

    assert_forged_dumps_harm_nobody(users, kept, others, tmp_path, every=every)
    others()


class TestRedis(Contract):
    @pytest.fixture
    def database(self) -> Iterator[DatabaseDriver]:
        with database_servers.redis() as server:
            self.client = database_servers.redis_client(server)
            self.client("SET a 1\nSELECT 3\nSET b 1\n")
            yield Redis(f"redis://127.0.0.1:{server.port}", PASSWORD)

    def change(self, database: DatabaseDriver) -> None:
        self.client("SET a 2\n")

    def grow(self, database: DatabaseDriver) -> None:
        self.client("SET c 1\n")


class TestEtcd(Contract):
    partial = False

    @pytest.fixture
    def database(self) -> Iterator[DatabaseDriver]:
        with database_servers.etcd() as server:
            self.client = database_servers.Client([*database_servers.etcdctl(server), "put"], {})
            for key in ("a", "b"):
                self.put(key, "1")
            yield Etcd(f"etcd://127.0.0.1:{server.port}")

    def put(self, key: str, value: str) -> None:
        database_servers.Client([*self.client.command, key, value], {})("")

    def change(self, database: DatabaseDriver) -> None:
        self.put("a", "2")

    def grow(self, database: DatabaseDriver) -> None:
        self.put("c", "1")


class TestMongoDB(Contract):
    @pytest.fixture
    def database(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DatabaseDriver]:
        with (
            database_servers.mongodb(tmp_path / "mongodb") as port,
            database_stand_ins.mongo(tmp_path) as programs,
            pymongo.MongoClient[dict[str, Any]](f"mongodb://127.0.0.1:{port}") as client,
        ):
            monkeypatch.setenv("PATH", str(programs), prepend=":")
            self.shop = client["shop"]
            self.shop["users"].insert_many([{"_id": 1, "name": "a"}, {"_id": 2}])
            yield MongoDB(f"mongodb://127.0.0.1:{port}/shop")

    def change(self, database: DatabaseDriver) -> None:
        self.shop["users"].update_one({"_id": 1}, {"$set": {"name": "c"}})

    def grow(self, database: DatabaseDriver) -> None:
        self.shop["users"].insert_one({"_id": 3})


class TestArangoDB(Contract):
    @pytest.fixture
    def database(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DatabaseDriver]:
        with database_stand_ins.arango(tmp_path, "root", "secret") as server:
            monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
            server.create("shop")
            self.server = server
            self.users = server.databases["shop"]["collections"]["users"] = [{"_key": "1"}, {"_key": "2"}]
            server.save()
            yield ArangoDB(f"arangodb://127.0.0.1:{server.port}/shop?threads=2", "secret")

    def write(self, users: list[dict[str, str]]) -> None:
        self.server.load()
        self.server.databases["shop"]["collections"]["users"] = users
        self.server.save()

    def change(self, database: DatabaseDriver) -> None:
        self.write([{"_key": "1"}, {"_key": "2", "name": "c"}])

    def grow(self, database: DatabaseDriver) -> None:
        self.write([{"_key": "1"}, {"_key": "2"}, {"_key": "3"}])


# --- what is said of all of them --------------------------------------------------------------------------


def test_the_documentation_has_a_row_for_each_database_as_its_module_says() -> None:
    lines = DOCS.read_text().splitlines()
    for driver in drivers():
        said = driver.description
        assert f"| {said.title} | {said.urls} | {said.needs} | {said.dump} | {said.restored} |" in lines
        assert f"| {said.title} | {said.not_kept} |" in lines


def test_options_stand_behind_a_url() -> None:
    with pytest.raises(InvalidArgument, match="without a colon"):
        open_database("postgresql://h/x?sslkey=pkcs11:key")
    database = open_database("postgresql://h/x?sslmode=require", options={"connect_timeout": "3"})
    assert isinstance(database, PostgreSQL)
    assert database.address.options == {"sslmode": "require", "connect_timeout": "3"}
    with pytest.raises(InvalidArgument, match="nonsense"):
        open_database("redis://h", options={"nonsense": "1"})


@pytest.mark.parametrize("url", ["sqlite:///app.db", "duckdb:///app.duckdb"])
def test_a_file_has_no_password(url: str) -> None:
    with pytest.raises(InvalidArgument, match="has no password"):
        open_database(url, "s3cret")
