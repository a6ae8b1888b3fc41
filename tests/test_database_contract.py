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

from prefect_snapshots.backups.databases import (
    ArangoDB,
    DuckDB,
    Etcd,
    MariaDB,
    MongoDB,
    PostgreSQL,
    Redis,
    SQLite,
    drivers,
    open_database,
)
from prefect_snapshots.backups.sources import DatabaseDriver
from prefect_snapshots.errors import InvalidArgument
from prefect_snapshots.testing import DatabaseContract

DOCS = Path(__file__).parent.parent / "docs" / "databases.md"
QUOTED = quote(PASSWORD, safe="")
NAMES = (f"d{number}" for number in itertools.count())

CREATE = "CREATE TABLE users (id int PRIMARY KEY, name varchar(20)); INSERT INTO users VALUES (1, 'a'), (2, 'b')"
CHANGE = "UPDATE users SET name = 'c' WHERE id = 1"
GROW = "INSERT INTO users VALUES (3, 'd')"


class TestSQLite(DatabaseContract):
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


class TestDuckDB(DatabaseContract):
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


class TestPostgreSQL(DatabaseContract):
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


class TestMariaDB(DatabaseContract):
    @pytest.fixture
    def database(self, mariadb_server: Server) -> DatabaseDriver:
        name = next(NAMES)
        database_servers.mariadb_client(mariadb_server)(f"CREATE DATABASE {name}")
        database_servers.mariadb_client(mariadb_server, name)(CREATE)
        return MariaDB(f"mariadb://admin@127.0.0.1:{mariadb_server.port}/{name}", PASSWORD)

    @pytest.fixture(autouse=True)
    def _client(self, mariadb_server: Server) -> None:
        self.server = mariadb_server

    def run(self, database: DatabaseDriver, statement: str) -> None:
        assert isinstance(database, MariaDB)
        database_servers.mariadb_client(self.server, database.address.database)(statement)

    def change(self, database: DatabaseDriver) -> None:
        self.run(database, CHANGE)

    def grow(self, database: DatabaseDriver) -> None:
        self.run(database, GROW)


class TestRedis(DatabaseContract):
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


class TestEtcd(DatabaseContract):
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


class TestMongoDB(DatabaseContract):
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


class TestArangoDB(DatabaseContract):
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
