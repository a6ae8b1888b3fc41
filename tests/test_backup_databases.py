"""Databases come back as they were: a dump holds one moment, restored whole or not at all, and no password shows.

Against real servers of PostgreSQL, MariaDB, Redis and etcd, and real files of SQLite and DuckDB. ArangoDB and MongoDB's
tools are stand-ins.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import os
import pickle
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import database_servers
import database_stand_ins
import duckdb
import psutil
import pytest
import servers
from database_servers import PASSWORD, Server, killed_at, killed_at_each_step

from prefect_snapshots.backups import BackupManager
from prefect_snapshots.backups.databases import (
    ArangoDB,
    DuckDB,
    Etcd,
    MariaDB,
    MongoDB,
    PostgreSQL,
    Redis,
    SQLite,
    arangodb,
    open_database,
    postgresql,
)
from prefect_snapshots.backups.databases import redis as redis_driver
from prefect_snapshots.backups.databases.base import Tool, abandoned_here, beside_name, check_beside
from prefect_snapshots.backups.databases.mariadb_dumps import RowCounter
from prefect_snapshots.backups.interruption import terminable
from prefect_snapshots.backups.journal import PartState
from prefect_snapshots.backups.sources import Database
from prefect_snapshots.errors import (
    BackupFailed,
    InvalidArgument,
    RestoreFailed,
    SnapshotsError,
    SourceUnusable,
    ToolMissing,
)
from prefect_snapshots.testing import StoredDump

QUOTED = quote(PASSWORD, safe="")
HOSTILE = "-my; \"d'b`\\x\ny"
_T = TypeVar("_T")


def take(database: Database) -> StoredDump:
    return StoredDump.of(database)


def checksums(database: Database) -> dict[str, str]:
    with database.dump() as dump:
        return database.checksums(dump.files)


def differing(database: Database, change: Callable[[], object]) -> list[str]:
    """The tables whose checksum is another one after a change; a restore elsewhere has those from before."""
    with database.dump() as dump:
        before = database.checksums(dump.files)
        counts = dict(dump.counts)
    kept = take(database)
    with database.scratch() as scratch:
        scratch.restore(kept)
        assert checksums(scratch) == before
    change()
    after = checksums(database)
    assert database.counts() == counts
    return sorted(table for table in before.keys() | after.keys() if before.get(table) != after.get(table))


def only(values: list[_T]) -> _T:
    (value,) = values
    return value


def ours(process: Path) -> bool:
    """Whether a process, by its folder in /proc, was started by this one, or by one of those."""
    pid = int(process.name)
    while pid > 1 and pid != os.getpid():
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return pid == os.getpid()


@contextlib.contextmanager
def no_password_shows() -> Iterator[None]:
    """Nobody sees the password among the arguments of any process that is started by this one during the block.

    Tests that run beside this one in other processes hand the same password to clients of their own.
    """
    ending = threading.Event()
    found: list[bytes] = []
    seen: set[bytes] = set()

    def look() -> None:
        while not ending.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    command = path.read_bytes()
                    seen.add(command.partition(b"\0")[0])
                    if (PASSWORD.encode() in command or QUOTED.encode() in command) and ours(path.parent):
                        found.append(command)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()
    assert not found
    assert len(seen) > 1


# --- PostgreSQL ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def postgres() -> Iterator[Server]:
    with database_servers.postgresql() as server:
        yield server


@pytest.fixture
def shop(postgres: Server) -> PostgreSQL:
    """A database of everything that may get lost."""
    admin = database_servers.psql(postgres)
    name = '"' + HOSTILE.replace('"', '""') + '"'
    admin(f"DROP DATABASE IF EXISTS {name} WITH (FORCE);")
    admin("DROP ROLE IF EXISTS clerk; CREATE ROLE clerk;")
    admin(f"CREATE DATABASE {name} TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C' CONNECTION LIMIT 50;")
    admin(
        f"ALTER DATABASE {name} SET search_path TO public, \"we ird\"; COMMENT ON DATABASE {name} IS E'it''s\\n\\\\';"
    )
    admin(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC; GRANT CONNECT ON DATABASE {name} TO clerk WITH GRANT OPTION;")
    admin(f"ALTER ROLE clerk IN DATABASE {name} SET statement_timeout TO '7s';")
    admin(f"ALTER DATABASE {name} SET default_transaction_read_only TO off;")
    database_servers.psql(postgres, HOSTILE)(SHOP)
    return PostgreSQL(f"postgresql://postgres:{QUOTED}@127.0.0.1:{postgres.port}/{quote(HOSTILE, safe='')}")


SHOP = """
CREATE SCHEMA "we ird";
CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL);
INSERT INTO accounts SELECT i, 100 FROM generate_series(1, 5000) i;
CREATE TABLE "we ird"."-t;
'"";" (id serial PRIMARY KEY, name text, data bytea, twice int GENERATED ALWAYS AS (length(name) * 2) STORED);
INSERT INTO "we ird"."-t;
'"";" (name, data) VALUES ('ü\N{SNOWMAN}', '\\x0001ff'), (NULL, ''), (E'\\\\N\\t\\n', NULL);
CREATE TABLE orders (id int GENERATED ALWAYS AS IDENTITY, account int REFERENCES accounts ON DELETE CASCADE);
INSERT INTO orders (account) VALUES (1), (2), (NULL);
CREATE TABLE parts (id int, at date) PARTITION BY RANGE (at);
CREATE TABLE parts_2026 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
INSERT INTO parts VALUES (1, '2026-02-03');
CREATE TABLE changes (what text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN INSERT INTO changes VALUES (TG_OP); RETURN NULL; END $$;
CREATE TRIGGER noted AFTER INSERT OR DELETE OR TRUNCATE ON orders EXECUTE FUNCTION note();
CREATE VIEW rich AS SELECT * FROM accounts WHERE balance > 1000;
CREATE MATERIALIZED VIEW total AS SELECT sum(balance) FROM accounts;
CREATE SEQUENCE numbers START 42; SELECT nextval('numbers');
SELECT lo_create(4711); SELECT lo_put(4711, 0, '\\x00ff00');
"""

STATE = """
SELECT format('%s %s', c.oid::regclass, md5(query_to_xml(format('SELECT t::text FROM %s t ORDER BY 1', c.oid::regclass),
  true, false, '')::text))
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE relkind IN ('r', 'v', 'm') AND nspname IN ('public', 'we ird')
ORDER BY 1;
SELECT loid, data FROM pg_largeobject ORDER BY 1;
SELECT schemaname, sequencename, last_value FROM pg_sequences ORDER BY 1, 2;
SELECT datcollate, datctype, datconnlimit, datacl, shobj_description(oid, 'pg_database'), pg_get_userbyid(datdba)
FROM pg_database WHERE datname = current_database();
SELECT setconfig, setrole::regrole FROM pg_db_role_setting JOIN pg_database d ON d.oid = setdatabase
WHERE datname = current_database() ORDER BY 2::text;
"""


def postgres_state(server: Server) -> list[str]:
    """The schema, the database's own settings, and a checksum of every table."""
    dump = f"{database_servers.newest('/usr/lib/postgresql/*/bin')}/pg_dump"
    client = database_servers.psql(server, HOSTILE)
    schema = dataclasses.replace(client, command=[dump, "--schema-only"])("")
    return client(STATE) + [line for line in schema if not line.startswith(("\\restrict", "\\unrestrict"))]


def test_postgresql_comes_back_whole(shop: PostgreSQL, postgres: Server) -> None:
    before = postgres_state(postgres)
    with no_password_shows():
        kept = take(shop)
        database_servers.psql(postgres, HOSTILE)("DROP TABLE accounts CASCADE; CREATE TABLE later (x int);")
        shop.restore(kept)
    assert postgres_state(postgres) == before
    assert shop.counts() == kept.counts
    assert kept.counts["public.accounts"] == 5000
    assert kept.counts["(large objects)"] == 1
    database_servers.psql(postgres)('DROP DATABASE "' + HOSTILE.replace('"', '""') + '" WITH (FORCE);')
    shop.restore(kept)
    assert postgres_state(postgres) == before


def test_postgresql_is_dumped_as_of_one_moment_while_others_write(shop: PostgreSQL, postgres: Server) -> None:
    transfer = """
    BEGIN; UPDATE accounts SET balance = balance - 1 WHERE id = 1;
    UPDATE accounts SET balance = balance + 1 WHERE id = 4999;
    INSERT INTO orders (account) VALUES (3); COMMIT; SELECT repeat('.', 5000);
    """
    with database_servers.psql(postgres, HOSTILE).repeating(transfer) as once_more:
        dumps = []
        for _ in range(3):
            dumps.append(take(shop))
            once_more()
    assert len({kept.counts["public.orders"] for kept in dumps}) == 3
    for kept in dumps:
        with shop.scratch() as scratch:
            assert isinstance(scratch, PostgreSQL)
            scratch.restore(kept)
            client = database_servers.psql(postgres, scratch.address.database)
            assert client("SELECT sum(balance) FROM accounts;") == ["500000"]
            assert client("SELECT count(*) FROM orders;") == [str(kept.counts["public.orders"])]
    assert "drill" not in " ".join(database_servers.psql(postgres)("SELECT datname FROM pg_database;"))


@pytest.mark.nightly
def test_checksums_of_postgresql_tell_one_value(shop: PostgreSQL, postgres: Server) -> None:
    client = database_servers.psql(postgres, HOSTILE)
    found = checksums(shop)
    assert found.keys() == {
        *(table for table, rows in take(shop).counts.items() if rows and table != "(large objects)"),
        "(sequences and large objects)",
    }
    client("UPDATE accounts SET balance = balance WHERE id < 100;")  # other places, and so another order
    assert checksums(shop) == found
    assert differing(shop, lambda: client("UPDATE accounts SET balance = balance + 1 WHERE id = 7;")) == [
        "public.accounts"
    ]
    assert differing(shop, lambda: client("SELECT nextval('numbers');")) == ["(sequences and large objects)"]
    assert differing(shop, lambda: client("SELECT lo_put(4711, 1, '\\xfe');")) == ["(sequences and large objects)"]


def test_two_dumps_of_the_same_postgresql_are_nearly_the_same_bytes(shop: PostgreSQL) -> None:
    first, second = take(shop).files, take(shop).files
    assert [len(data) for data in first.values()] == [len(data) for data in second.values()]
    # The time in the header.
    assert sum(a != b for path in first for a, b in zip(first[path], second[path], strict=True)) < 8


def test_some_tables_of_postgresql_come_back_alone(shop: PostgreSQL, postgres: Server) -> None:
    kept, before = take(shop), postgres_state(postgres)
    client = database_servers.psql(postgres, HOSTILE)
    client("DELETE FROM accounts WHERE id < 3; INSERT INTO parts VALUES (2, '2026-05-05'); DELETE FROM changes;")
    with pytest.raises(RestoreFailed, match="violates foreign key"):
        shop.restore(kept, only=["public.orders"])
    tables = ["public.accounts", "public.orders", "public.changes"]
    shop.restore(kept, only=tables)
    assert client("SELECT count(*) FROM parts;") == ["2"]
    client("DELETE FROM parts WHERE id = 2;")
    assert sorted(postgres_state(postgres)) == sorted(before)
    client("INSERT INTO orders (account) VALUES (1);")
    assert client("SELECT max(id) FROM orders;") == ["4"]
    with pytest.raises(InvalidArgument, match=r"no table public\.nothing in the backup"):
        shop.restore(kept, only=["public.nothing"])
    client("DROP TABLE orders;")
    with pytest.raises(RestoreFailed, match="is not in the database"):
        shop.restore(kept, only=["public.orders"])


@pytest.mark.parametrize("tables", [(), ("public.accounts",)], ids=["whole", "one table"])
def test_a_postgresql_restore_that_fails_changes_nothing(
    shop: PostgreSQL, postgres: Server, tables: Sequence[str]
) -> None:
    kept = take(shop)
    database_servers.psql(postgres, HOSTILE)("INSERT INTO accounts VALUES (9999, 1);")
    before = postgres_state(postgres)
    with pytest.raises(RestoreFailed, match="is unchanged: A chunk is missing"):
        shop.restore(StoredDump(kept.files, kept.counts, torn=".pgdump"), tables)
    broken = StoredDump({**kept.files, "database.pgdump": kept.files["database.pgdump"][:-3000]}, kept.counts)
    with pytest.raises(RestoreFailed, match="is unchanged"):
        shop.restore(broken, [*tables, "public.orders"] if tables else ())
    assert postgres_state(postgres) == before


def test_a_postgresql_restore_that_is_killed_changes_nothing(
    shop: PostgreSQL, postgres: Server, tmp_path: Path
) -> None:
    kept = take(shop)
    before = postgres_state(postgres)
    (tmp_path / "shop").write_bytes(pickle.dumps((shop.url, shop.secret(), kept.files, dict(kept.counts))))
    program = """if True:
        import pickle, sys, time
        from prefect_snapshots.backups.databases import PostgreSQL
        from prefect_snapshots.testing import StoredDump

        class Endless(StoredDump):
            def open(self, path):
                for number, piece in enumerate(super().open(path)):
                    yield piece
                    if path == "database.pgdump":
                        print("half", flush=True)
                        time.sleep(100)

        url, password, files, counts = pickle.load(open(sys.argv[1], "rb"))
        PostgreSQL(url, password).restore(Endless(files, counts))
    """
    command = [sys.executable, "-c", program, str(tmp_path / "shop")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parent) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
        process.send_signal(signal.SIGKILL)
    assert postgres_state(postgres) == before
    names = "SELECT count(*) FROM pg_database WHERE datname LIKE '%being_restored%';"
    assert database_servers.psql(postgres)(names) == ["1"]
    shop.restore(kept)
    assert postgres_state(postgres) == before
    assert database_servers.psql(postgres)(names) == ["0"]


def test_people_who_use_the_old_postgresql_do_not_keep_the_new_one_out(shop: PostgreSQL, postgres: Server) -> None:
    kept = take(shop)
    writing = database_servers.psql(postgres, HOSTILE).repeating("DELETE FROM changes; SELECT repeat('.', 5000);")
    # Its connection is ended by the restore.
    with pytest.raises(AssertionError, match="the writer has ended"), writing:
        shop.restore(kept)
    assert shop.counts() == kept.counts


def test_an_older_pg_dump_is_refused_clearly(shop: PostgreSQL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "pg_dump"
    old.write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6.24'\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(
        BackupFailed, match=r"pg_dump 9 cannot dump PostgreSQL \d+, which is newer\. Install postgresql-"
    ):
        take(shop)


def test_the_newest_tools_of_debian_are_found_without_a_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert postgresql._program("pg_dump") == f"{database_servers.newest('/usr/lib/postgresql/*/bin')}/pg_dump"
    with pytest.raises(ToolMissing, match="package postgresql-client"):
        postgresql._program("pg_nothing")


# --- MariaDB ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def maria() -> Iterator[Server]:
    with database_servers.mariadb() as server:
        yield server


# With quotes, a backslash or a line feed mariadb-dump itself could not dump events.
MARKET_NAME = "-my; d`b x"


@pytest.fixture
def market(maria: Server) -> MariaDB:
    name = "`" + MARKET_NAME.replace("`", "``") + "`"
    admin = database_servers.mariadb_client(maria)
    admin(f"DROP DATABASE IF EXISTS {name}; CREATE DATABASE {name} CHARACTER SET latin2;")
    database_servers.mariadb_client(maria, MARKET_NAME)(MARKET)
    return MariaDB(f"mariadb://admin:{QUOTED}@127.0.0.1:{maria.port}/{quote(MARKET_NAME, safe='')}")


MARKET = r"""
CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL);
INSERT INTO accounts SELECT seq, 100 FROM seq_1_to_5000;
CREATE TABLE `-t;
'``"` (id int PRIMARY KEY AUTO_INCREMENT, name text, data blob, flags bit(9), doc json,
  size int, twice int GENERATED ALWAYS AS (size * 2) STORED) CHARACTER SET utf8mb4;
INSERT INTO `-t;
'``"` (name, data, flags, doc, size) VALUES
  ('ü☃\n(1);\n', x'0001ff0a', b'101', '{"a": 1}', 3),
  (NULL, '', NULL, NULL, NULL);
CREATE TABLE orders (id int PRIMARY KEY AUTO_INCREMENT, account int,
  FOREIGN KEY (account) REFERENCES accounts (id) ON DELETE CASCADE);
INSERT INTO orders (account) VALUES (1), (2), (NULL);
CREATE TABLE changes (what text);
CREATE TABLE watched (x int);
CREATE TRIGGER noted AFTER INSERT ON watched FOR EACH ROW INSERT INTO changes VALUES ('insert');
CREATE VIEW rich AS SELECT * FROM accounts WHERE balance > 1000;
CREATE SEQUENCE numbers START 42; DO nextval(numbers);
CREATE EVENT nightly ON SCHEDULE EVERY 1 DAY DO DELETE FROM changes;
CREATE PROCEDURE tricky() SELECT 'INSERT INTO `zz` VALUES
(1);
CREATE TABLE `zzz` (';
"""


def maria_state(server: Server) -> list[str]:
    """Everything, as another tool's SQL: it has no sections that change by themselves."""
    client = database_servers.mariadb_client(server)
    options = ["--skip-dump-date", "--routines", "--events", "--hex-blob", "--order-by-primary", "--databases", "--"]
    command = ["mariadb-dump", *client.command[1:5], *options, MARKET_NAME]
    return dataclasses.replace(client, command=command)("")


def test_mariadb_comes_back_whole(market: MariaDB, maria: Server) -> None:
    before = maria_state(maria)
    with no_password_shows():
        kept = take(market)
        database_servers.mariadb_client(maria, MARKET_NAME)(
            "DROP TABLE orders; DELETE FROM accounts; CREATE TABLE later (x int);"
        )
        market.restore(kept)
    assert maria_state(maria) == before
    assert market.counts() == kept.counts
    assert kept.counts == {"accounts": 5000, "orders": 3, "changes": 0, "watched": 0, "-t;\n'`\"": 2}
    database_servers.mariadb_client(maria)("DROP DATABASE `" + MARKET_NAME.replace("`", "``") + "`;")
    market.restore(kept)
    assert maria_state(maria) == before


def test_checksums_of_mariadb_tell_one_value(market: MariaDB, maria: Server) -> None:
    client = database_servers.mariadb_client(maria, MARKET_NAME)
    assert checksums(market).keys() == {table for table, rows in take(market).counts.items() if rows}
    change = "UPDATE accounts SET balance = balance + 1 WHERE id = 7;"
    assert differing(market, lambda: client(change)) == ["accounts"]


def test_mariadb_is_dumped_as_of_one_moment_while_others_write(market: MariaDB, maria: Server) -> None:
    transfer = """
    START TRANSACTION; UPDATE accounts SET balance = balance - 1 WHERE id = 1;
    UPDATE accounts SET balance = balance + 1 WHERE id = 4999;
    INSERT INTO orders (account) VALUES (3); COMMIT; SELECT repeat('.', 5000);
    """
    with database_servers.mariadb_client(maria, MARKET_NAME).repeating(transfer) as once_more:
        dumps = []
        for _ in range(3):
            dumps.append(take(market))
            once_more()
    assert len({kept.counts["orders"] for kept in dumps}) == 3
    for kept in dumps:
        with market.scratch() as scratch:
            assert isinstance(scratch, MariaDB)
            scratch.restore(kept)
            assert scratch.counts() == kept.counts
            client = database_servers.mariadb_client(maria, scratch.address.database)
            assert client("SELECT sum(balance) FROM accounts;") == ["500000"]


def test_two_dumps_of_the_same_mariadb_are_the_same_bytes(market: MariaDB) -> None:
    assert take(market).files == take(market).files


def test_some_tables_of_mariadb_come_back_alone(market: MariaDB, maria: Server) -> None:
    kept, before = take(market), maria_state(maria)
    client = database_servers.mariadb_client(maria, MARKET_NAME)
    client("DELETE FROM accounts WHERE id < 3; DELETE FROM `-t;\n'``\"`;")
    with pytest.raises(RestoreFailed, match="would refer to rows that do not exist"):
        market.restore(kept, only=["orders"])
    with pytest.raises(RestoreFailed, match="watched has triggers"):
        market.restore(kept, only=["watched"])
    market.restore(kept, only=["orders", "accounts", "-t;\n'`\""])
    assert maria_state(maria) == before
    assert not [name for name in database_servers.mariadb_client(maria)("SHOW DATABASES;") if "restored" in name]


def test_rows_are_counted_wherever_the_pieces_of_a_dump_end(market: MariaDB) -> None:
    kept = take(market)
    sql = kept.files["database.sql"]
    for size in (1, 7, 4096):
        counter = RowCounter()
        assert b"".join(counter.passed(sql[at : at + size] for at in range(0, len(sql), size))) == sql
        assert counter.counts == kept.counts
    statements_of_one_row = RowCounter()
    text = b"CREATE TABLE `a` (\n  `x` int\n);\nINSERT INTO `a` VALUES (1);\nINSERT INTO `a` VALUES (2);\n"
    assert list(statements_of_one_row.passed([text])) == [text]
    assert statements_of_one_row.counts == {"a": 2}


# --- SQLite and DuckDB -----------------------------------------------------------------------------------


@pytest.fixture(params=["wal", "delete"])
def notes(tmp_path: Path, request: pytest.FixtureRequest) -> SQLite:
    path = tmp_path / "my 'notes'?#%41.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(f"PRAGMA journal_mode = {request.param};" + NOTES)
    return SQLite(str(path))


NOTES = (
    """
PRAGMA page_size = 1024;
CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
  INSERT INTO accounts SELECT i, 100 FROM n;
CREATE TABLE "-t;
'"""
    + '""'
    + """" (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, data BLOB,
  size INT GENERATED ALWAYS AS (length(name)) STORED);
INSERT INTO "-t;
'"""
    + '""'
    + """" (name, data) VALUES ('ü☃', x'0001ff'), (NULL, NULL), (char(97, 0, 98), x'');
CREATE TABLE orders (id INTEGER PRIMARY KEY, account INTEGER REFERENCES accounts);
INSERT INTO orders (account) VALUES (1), (2);
CREATE TABLE changes (what TEXT);
CREATE TRIGGER noted AFTER DELETE ON orders BEGIN INSERT INTO changes VALUES ('gone'); END;
CREATE VIEW rich AS SELECT * FROM accounts WHERE balance > 1000;
CREATE INDEX by_account ON orders (account);
CREATE VIRTUAL TABLE words USING fts5(text);
INSERT INTO words VALUES ('hello world');
"""
)


def sqlite_state(database: SQLite) -> list[Any]:
    with contextlib.closing(sqlite3.connect(database.path)) as connection:
        schema = connection.execute("SELECT name, type, sql FROM sqlite_master ORDER BY name").fetchall()
        tables = ['"' + name.replace('"', '""') + '"' for name, kind, _ in schema if kind in ("table", "view")]
        return [schema, *(connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables)]


def test_sqlite_comes_back_whole(notes: SQLite) -> None:
    kept, before = take(notes), sqlite_state(notes)
    assert kept.counts["accounts"] == 2000
    with contextlib.closing(sqlite3.connect(notes.path)) as still_open:
        still_open.executescript("DROP TABLE accounts; CREATE TABLE later (x); INSERT INTO later VALUES (1);")
        notes.restore(kept)
        assert still_open.execute("SELECT sum(balance) FROM accounts").fetchall() == [(200_000,)]
    assert sqlite_state(notes) == before
    assert notes.counts() == kept.counts
    Path(notes.path).unlink()
    notes.restore(kept)
    assert sqlite_state(notes) == before
    assert sorted(path.name for path in Path(notes.path).parent.iterdir()) == [Path(notes.path).name]


def test_checksums_of_sqlite_tell_one_value(notes: SQLite) -> None:
    def change() -> None:
        with contextlib.closing(sqlite3.connect(notes.path)) as connection, connection:
            connection.execute("UPDATE accounts SET balance = CAST(balance AS TEXT) || 'x' WHERE id = 7")

    assert checksums(notes).keys() == {table for table, rows in take(notes).counts.items() if rows}
    assert differing(notes, change) == ["accounts"]


def test_sqlite_is_dumped_as_of_one_moment_while_others_write(notes: SQLite) -> None:
    ending, written = threading.Event(), threading.Semaphore(0)

    def transfer() -> None:
        with contextlib.closing(sqlite3.connect(notes.path, timeout=60)) as connection:
            while not ending.is_set():
                with connection:
                    connection.execute("UPDATE accounts SET balance = balance - 1 WHERE id = 1")
                    connection.execute("UPDATE accounts SET balance = balance + 1 WHERE id = 1999")
                    connection.execute("INSERT INTO orders (account) VALUES (3)")
                written.release()
                ending.wait(0.001)

    writer = threading.Thread(target=transfer)
    writer.start()
    try:
        dumps = []
        for _ in range(5):
            assert written.acquire(timeout=60)
            dumps.append(take(notes))
            while written.acquire(blocking=False):  # so that the next one waits for a transaction after this one
                pass
    finally:
        ending.set()
        writer.join()
    assert len({kept.counts["orders"] for kept in dumps}) == 5
    for kept in dumps:
        with notes.scratch() as scratch:
            assert isinstance(scratch, SQLite)
            scratch.restore(kept)
            assert scratch.counts() == kept.counts
            with contextlib.closing(sqlite3.connect(scratch.path)) as connection:
                assert connection.execute("SELECT sum(balance) FROM accounts").fetchall() == [(200_000,)]


def test_two_dumps_of_the_same_sqlite_are_the_same_bytes(notes: SQLite) -> None:
    assert take(notes).files == take(notes).files


def test_some_tables_of_sqlite_come_back_alone(notes: SQLite) -> None:
    kept, before = take(notes), sqlite_state(notes)
    with contextlib.closing(sqlite3.connect(notes.path)) as connection:
        connection.executescript("DROP TABLE orders; DELETE FROM accounts WHERE id = 1; DELETE FROM changes;")
    with pytest.raises(RestoreFailed, match="rows in orders would refer to rows that do not exist"):
        notes.restore(kept, only=["orders"])
    notes.restore(kept, only=["orders", "accounts"])
    assert sqlite_state(notes) == before


def test_rows_of_sqlite_that_referred_to_nothing_and_counters_come_back(tmp_path: Path) -> None:
    database = SQLite(str(tmp_path / "app.db"))
    with contextlib.closing(sqlite3.connect(database.path)) as connection:
        connection.executescript(
            "CREATE TABLE parents (id INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO parents VALUES (1), (7);"
            "CREATE TABLE children (parent REFERENCES parents); INSERT INTO children VALUES (1), (8);"
            "DELETE FROM parents WHERE id = 7;"
        )
        kept = take(database)
        connection.executescript("DROP TABLE parents; DELETE FROM children;")
        with pytest.raises(RestoreFailed, match="would refer to rows that do not exist"):
            database.restore(kept, only=["children"])
        database.restore(kept, only=["children", "parents"])
        assert connection.execute("SELECT * FROM children").fetchall() == [(1,), (8,)]
        connection.execute("INSERT INTO parents DEFAULT VALUES")
        assert connection.execute("SELECT max(id) FROM parents").fetchone() == (8,)  # 7 was given before


def test_rows_of_sqlite_keep_their_numbers(tmp_path: Path) -> None:
    """A full-text index finds them by these. The path and the names of the columns are unusual, too."""
    database = SQLite(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.db"))
    assert SQLite.from_url(database.name) == database
    query = "SELECT rowid, body FROM texts; SELECT _rowid_, rowid, oid FROM odd; SELECT * FROM sorted"
    with contextlib.closing(sqlite3.connect(database.path)) as connection:
        connection.executescript(
            "CREATE TABLE texts (body); INSERT INTO texts (rowid, body) VALUES (10, 'x'), (20, 'y');"
            "CREATE VIRTUAL TABLE found USING fts5(body, content='texts'); INSERT INTO found(found) VALUES('rebuild');"
            "CREATE TABLE odd (RowId TEXT, oid); INSERT INTO odd (_rowid_, rowid) VALUES (7, 'a');"
            "CREATE TABLE sorted (a PRIMARY KEY) WITHOUT ROWID; INSERT INTO sorted VALUES ('z');"
        )

        def rows() -> list[Any]:
            return [connection.execute(each).fetchall() for each in query.split(";")]

        before, kept = rows(), take(database)
        for table in ("texts", "odd", "sorted"):
            connection.execute(f"DELETE FROM {table}")
        connection.commit()
        database.restore(kept, only=["texts", "odd", "sorted"])
        assert rows() == before
        assert connection.execute("SELECT body FROM found WHERE found MATCH 'y'").fetchall() == [("y",)]


def test_names_in_sqlite_that_are_not_text_are_told(tmp_path: Path) -> None:
    database = SQLite(str(tmp_path / "app.db"))
    with contextlib.closing(sqlite3.connect(database.path)) as connection:
        connection.executescript("CREATE TABLE cafZ (hZ TEXT); CREATE INDEX iZ ON cafZ (hZ);")
    file = Path(database.path)
    file.write_bytes(file.read_bytes().replace(b"Z", b"\xe9"))
    with pytest.raises(BackupFailed, match="name is not valid UTF-8") as caught:
        take(database)
    assert "caf" not in str(caught.value)


def test_a_sqlite_restore_that_fails_changes_nothing(notes: SQLite) -> None:
    kept, before = take(notes), sqlite_state(notes)
    data = bytearray(kept.files["database.sqlite"])
    data[4096:6144] = bytes(2048)
    for broken in (
        StoredDump({"database.sqlite": bytes(data)}, kept.counts),
        StoredDump(kept.files, kept.counts, torn=".sqlite"),
    ):
        with pytest.raises(RestoreFailed, match="is unchanged"):
            notes.restore(broken)
        with pytest.raises(RestoreFailed, match="is unchanged"):
            notes.restore(broken, only=["accounts"])
    assert sqlite_state(notes) == before
    assert not [path for path in Path(notes.path).parent.iterdir() if "restoring" in path.name]


def test_a_sqlite_that_is_broken_or_of_other_pages_is_replaced(notes: SQLite) -> None:
    kept, before = take(notes), sqlite_state(notes)
    path = Path(notes.path)
    path.write_bytes(b"no database at all" * 1000)
    path.chmod(0o640)
    Path(f"{path}-wal").write_bytes(b"what was left of another one")
    notes.restore(kept)
    assert sqlite_state(notes) == before
    assert path.stat().st_mode & 0o777 == 0o640
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript("PRAGMA page_size = 16384; PRAGMA journal_mode = wal; CREATE TABLE x (y);")
    notes.restore(kept)
    assert sqlite_state(notes) == before


@pytest.fixture
def warehouse(tmp_path: Path) -> DuckDB:
    database = DuckDB(str(tmp_path / "ware 'house'.duckdb"))
    with duckdb.connect(database.path) as connection:
        connection.execute(WAREHOUSE)
    return database


WAREHOUSE = """
CREATE SEQUENCE numbers START 42; SELECT nextval('numbers'); CREATE TYPE mood AS ENUM ('a', 'b ''c');
CREATE SCHEMA "we ird"; CREATE SCHEMA s; CREATE SCHEMA s_t; CREATE TABLE s.t_x (a int); CREATE TABLE s_t.x (a int);
INSERT INTO s.t_x VALUES (1); INSERT INTO s_t.x VALUES (2);
CREATE TABLE accounts (id integer PRIMARY KEY, name varchar);
INSERT INTO accounts VALUES (1, 'ü☃\n'), (2, ''), (3, NULL), (4, 'NULL'), (5, '#"\\,' || chr(0)), (6, ' '), (7, '\r\n');
CREATE TABLE orders (account integer REFERENCES accounts (id), note varchar NOT NULL CHECK (length(note) < 100));
INSERT INTO orders VALUES (1, 'x'), (2, 'a"b,c');
CREATE TABLE "we ird"."-t;
'""x" (id integer DEFAULT nextval('numbers'), h hugeint, b blob, i interval, l varchar[], s struct(a int, b varchar),
  m map(varchar, int), mo mood, tz timetz, ns timestamp_ns, de decimal(38, 10), d double,
  twice integer GENERATED ALWAYS AS (id * 2));
INSERT INTO "we ird"."-t;
'""x" SELECT i, 170141183460469231731687303715884105727, '\\x00\\xff\\x22'::blob, INTERVAL '1 month 2 days 3 us',
  ['', NULL, 'a,"b'], {'a': 1, 'b': '}'}, MAP {'k,=': 1}, 'b ''c',
  '12:00:00+02'::timetz, '2020-01-01 00:00:00.123456789'::timestamp_ns, 1234567890123456789.0123456789,
  '-inf'::double FROM range(5) t(i);
CREATE VIEW named AS SELECT * FROM accounts; CREATE INDEX by_name ON accounts (name); CREATE MACRO one(x) AS x + 1;
"""


def duckdb_state(database: DuckDB) -> list[Any]:
    with duckdb.connect(database.path) as connection:
        tables = connection.execute(
            "SELECT schema_name, table_name FROM duckdb_tables() WHERE NOT internal ORDER BY ALL"
        ).fetchall()
        rows = [
            connection.execute(
                'SELECT * FROM "{}"."{}"'.format(*(name.replace('"', '""') for name in place))
            ).fetchall()
            for place in tables
        ]
        sql = connection.execute(
            "SELECT sql FROM duckdb_tables() UNION ALL SELECT sql FROM duckdb_indexes() UNION ALL "
            "SELECT sql FROM duckdb_views() WHERE NOT internal ORDER BY ALL"
        ).fetchall()
        return [tables, rows, sql, connection.execute("SELECT nextval('numbers') - 43, one(1)").fetchall()]


def test_duckdb_comes_back_whole(warehouse: DuckDB) -> None:
    kept = take(warehouse)
    before = duckdb_state(warehouse)
    assert kept.counts["accounts"] == 7
    assert take(warehouse).files.keys() == kept.files.keys()
    with duckdb.connect(warehouse.path) as connection:
        connection.execute("DROP TABLE orders; CREATE TABLE later (x int)")
    warehouse.restore(kept)
    assert duckdb_state(warehouse) == before
    assert warehouse.counts() == kept.counts
    Path(warehouse.path).unlink()
    warehouse.restore(kept)
    assert duckdb_state(warehouse) == before
    assert sorted(path.name for path in Path(warehouse.path).parent.iterdir()) == [Path(warehouse.path).name]


@pytest.mark.parametrize(
    ("rows", "shown"),
    [
        (
            "SELECT NULL::union(i int, s varchar) AS v UNION ALL SELECT '5'::varchar::union(i int, s varchar)",
            "union_tag(v)",
        ),
        ("SELECT [{'a': '5'::varchar::union(i int, s varchar)}] AS v", "union_tag(v[1].a)"),
        ("SELECT '5'::varchar::variant AS v UNION ALL SELECT 5::variant", "variant_typeof(v)"),
        ("SELECT chr(10) || repeat('x\n', 1500000) || '\"' AS v FROM range(2)", "1"),
        ("SELECT i, repeat('x\n', 50) AS v FROM range(30000) t(i)", "i"),
    ],
)
def test_what_csv_does_not_hold_comes_back(rows: str, shown: str, tmp_path: Path) -> None:
    """Which type a value of a union has, and long rows. The last case is large, and its rows are short."""
    database = DuckDB(str(tmp_path / "a?b.duckdb"))
    query = f"SELECT {shown}, v::varchar FROM t ORDER BY ALL"
    with duckdb.connect(database.path) as connection:
        connection.execute(f"CREATE TABLE t AS {rows}")
        before = connection.execute(query).fetchall()
    kept = take(database)
    assert ("t.csv" in kept.files) is ("30000" in rows)
    with database.scratch() as scratch:
        scratch.restore(kept)
        assert scratch.counts() == kept.counts
    for only in ([], ["t"]):
        with duckdb.connect(database.path) as connection:
            connection.execute("DELETE FROM t")
        database.restore(kept, only)
        with duckdb.connect(database.path) as connection:
            assert connection.execute(query).fetchall() == before


def test_checksums_of_duckdb_tell_one_value(warehouse: DuckDB) -> None:
    def change() -> None:
        with duckdb.connect(warehouse.path) as connection:
            connection.execute("UPDATE accounts SET name = 'other' WHERE id = 4")

    assert len(checksums(warehouse)) == len(warehouse.counts())
    assert differing(warehouse, change) == ["accounts"]


def test_duckdb_is_dumped_as_of_one_moment_while_this_process_writes(warehouse: DuckDB) -> None:
    ending, begun = threading.Event(), threading.Event()
    with duckdb.connect(warehouse.path) as connection:
        connection.execute("CREATE TABLE balances AS SELECT i AS id, 100 AS balance FROM range(20000) t(i)")

        def transfer() -> None:
            while not ending.is_set():
                connection.execute("BEGIN")
                connection.execute("UPDATE balances SET balance = balance - 1 WHERE id = 1")
                connection.execute("UPDATE balances SET balance = balance + 1 WHERE id = 19999")
                connection.execute("INSERT INTO orders VALUES (3, 'y')")
                connection.execute("COMMIT")
                begun.set()

        writer = threading.Thread(target=transfer)
        writer.start()
        try:
            assert begun.wait(60)
            dumps = [take(warehouse) for _ in range(3)]
        finally:
            ending.set()
            writer.join()
    assert len({kept.counts["orders"] for kept in dumps}) == 3
    for kept in dumps:
        with warehouse.scratch() as scratch:
            assert isinstance(scratch, DuckDB)
            scratch.restore(kept)
            with duckdb.connect(scratch.path) as connection:
                assert connection.execute("SELECT sum(balance) FROM balances").fetchall() == [(2_000_000,)]


def test_rows_of_duckdb_that_others_refer_to_are_not_replaced(tmp_path: Path) -> None:
    database = DuckDB(str(tmp_path / "app.duckdb"))
    with duckdb.connect(database.path) as connection:
        connection.execute(
            "CREATE TABLE p (i int PRIMARY KEY); CREATE TABLE c (i int REFERENCES p); INSERT INTO p VALUES (1)"
        )
        connection.execute("INSERT INTO c VALUES (1)")
    kept = take(database)
    with pytest.raises(RestoreFailed, match="prevents that the rows of p are replaced"):
        database.restore(kept, only=["p", "c"])
    assert take(database).files == kept.files


def test_two_dumps_of_the_same_duckdb_are_the_same_bytes(warehouse: DuckDB) -> None:
    assert take(warehouse).files == take(warehouse).files


def test_some_tables_of_duckdb_come_back_alone(warehouse: DuckDB) -> None:
    kept = take(warehouse)
    before = duckdb_state(warehouse)
    table = '"we ird"."-t;\n\'""x"'
    with duckdb.connect(warehouse.path) as connection:
        connection.execute(f"DELETE FROM {table}; DELETE FROM orders; INSERT INTO s.t_x VALUES (5)")
    warehouse.restore(kept, only=[table, "orders"])
    with duckdb.connect(warehouse.path) as connection:
        connection.execute("DELETE FROM s.t_x WHERE a = 5")
    after = duckdb_state(warehouse)
    assert after[:3] == before[:3]


def test_a_duckdb_restore_that_fails_changes_nothing(warehouse: DuckDB) -> None:
    kept = take(warehouse)
    before = duckdb_state(warehouse)
    broken = StoredDump({**kept.files, "orders.csv": b"account,note\nnot a number,x\n"}, kept.counts)
    fewer = StoredDump({**kept.files, "orders.csv": b"account,note\n"}, kept.counts)
    for dump in (broken, fewer):
        with pytest.raises(RestoreFailed, match="is unchanged"):
            warehouse.restore(dump)
    with duckdb.connect(warehouse.path), pytest.raises(RestoreFailed, match="Close its connections first"):
        warehouse.restore(kept)
    hold = f"import duckdb, sys; c = duckdb.connect({warehouse.path!r}); print(1, flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        with pytest.raises(RestoreFailed, match="lock"):
            warehouse.restore(kept)
        with pytest.raises(BackupFailed, match="lock"):
            take(warehouse)
        process.communicate()
    assert duckdb_state(warehouse)[:3] == before[:3]


# --- Redis and etcd --------------------------------------------------------------------------------------


@pytest.fixture
def redis_server() -> Iterator[Server]:
    with database_servers.redis() as server:
        database_servers.redis_client(server)(CACHE)
        yield server


CACHE = (
    "".join(f'SET "key\\n{number}" "\\x00\\r\\n\\xff{number}"\n' for number in range(2000))
    + """SELECT 3
XADD stream 1-1 a b
XGROUP CREATE stream group 0
HSET hash a 1 b 2
ZADD set 1.5 a
RPUSH list a b
PFADD log a b
SET going x PXAT 4102444800000
FUNCTION LOAD "#!lua name=mine\\nredis.register_function('f', function(k, a) return 1 end)"
"""
)


def redis_of(server: Server) -> Redis:
    return Redis(f"redis://:{QUOTED}@127.0.0.1:{server.port}/0")


def test_redis_comes_back_whole(redis_server: Server) -> None:
    client, database = database_servers.redis_client(redis_server), redis_of(redis_server)
    looks = "FCALL f 0\nSELECT 3\nHGETALL hash\nZRANGE set 0 -1 WITHSCORES\n"
    looks += "LRANGE list 0 -1\nPFCOUNT log\nXINFO STREAM stream FULL\n"
    before = client(looks)
    with no_password_shows():
        kept = take(database)
        client("FLUSHDB\nSET later 1\nSELECT 7\nSET later 1\nFUNCTION FLUSH\n")
        database.restore(kept)
    assert client(looks) == before
    # The time that a key has left goes over, a little late.
    assert 4102444800000 <= int(client("SELECT 3\nPEXPIRETIME going\n")[1]) < 4102444860000
    assert database.counts() == kept.counts == {"db0": 2000, "db3": 6}
    client("FLUSHALL\n")
    database.restore(kept, only=["db3"])
    assert database.counts() == {"db3": 6}
    with database.scratch() as scratch:
        scratch.restore(kept)
        assert scratch.counts() == kept.counts


def test_a_redis_restore_that_fails_changes_nothing_and_leaves_nothing(redis_server: Server) -> None:
    database, client = redis_of(redis_server), database_servers.redis_client(redis_server)
    kept = take(database)
    data = kept.files["dump.rdb"]
    with pytest.raises(RestoreFailed, match=r"is unchanged: .*edis"):
        database.restore(StoredDump({"dump.rdb": data[: len(data) // 2]}, kept.counts))
    client("".join(f"SELECT {number}\nSET full 1\n" for number in range(16) if number not in (0, 3, 9)))
    full = database.counts()
    with pytest.raises(RestoreFailed, match="needs 2 empty databases, and the server has 1"):
        database.restore(kept)
    assert database.counts() == full
    # What a restore left that was killed: it is no data.
    client("SELECT 8\nSET prefect-snapshots:restoring 1\n")
    database.restore(kept)
    assert database.counts() == kept.counts
    # What is staged stands beside what is used, until it is swapped or given up.
    client("SELECT 0\nSET later 1\n")
    changed = database.counts()
    with database.stage(kept):
        assert changed.items() <= database.counts().items()
        assert len(database.counts()) == 2 * len(changed)
    assert database.counts() == changed
    # Another restore takes the databases that this one fills for leftovers: only one of the two counts.
    with database.stage(kept) as first:
        with database.stage(kept) as second:
            with pytest.raises(RestoreFailed, match="is unchanged: Another restore"):
                first()
            assert changed.items() <= database.counts().items()
            second()
        assert database.counts() == kept.counts
    assert database.counts() == kept.counts


def test_redis_is_dumped_as_of_one_moment_while_others_write(redis_server: Server) -> None:
    transfer = "MULTI\nDECR left\nINCR right\nINCR done\nEXEC\n"
    database = redis_of(redis_server)
    with database_servers.redis_client(redis_server).repeating(transfer):
        dumps = [take(database) for _ in range(3)]
    for kept in dumps:
        database.restore(kept)
        left, right = database_servers.redis_client(redis_server)("GET left\nGET right\n")
        assert int(left) + int(right) == 0


@pytest.fixture
def etcd_server() -> Iterator[Server]:
    with database_servers.etcd() as server:
        operations = "".join(f"put /key/{number} value-{number}\n" for number in range(100))
        transaction = database_servers.Client([*database_servers.etcdctl(server), "txn"], {})
        for start in range(12):
            transaction(f"\n{operations.replace('/key/', f'/key/{start}/')}\n\n")
        subprocess.run([*database_servers.etcdctl(server), "put", "--", "-k;\n", "v\n\xff"], check=True)
        yield server


def test_a_node_of_a_redis_cluster_is_no_database() -> None:
    (port,) = servers.free_ports(1)
    with (
        database_servers.redis("--cluster-enabled", "yes", "--cluster-port", str(port)) as server,
        pytest.raises(SourceUnusable, match="has only a part of its keys"),
    ):
        take(Redis(f"redis://:{QUOTED}@127.0.0.1:{server.port}"))


@contextlib.contextmanager
def redis_that_says(replies: bytes) -> Iterator[tuple[redis_driver._Connection, socket.socket]]:
    """A connection to what answers in the protocol of Redis, and its other end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(replies)
        yield redis_driver._Connection(ours), theirs


def test_a_key_of_redis_that_expires_during_its_restore_does_not_stay() -> None:
    scanned = b"*2\r\n$1\r\n0\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nA\r\n$1\r\nB\r\n:0\r\n:-1\r\n"
    with redis_that_says(scanned) as (source, _), redis_that_says(b"+OK\r\n+OK\r\n") as (target, sent):
        redis_driver._copy_keys(source, target)
        words = sent.recv(1000).split(b"\r\n")
    assert [words[at + 2 : at + 7 : 2] for at, word in enumerate(words) if word == b"RESTORE"] == [
        [b"a", b"1", b"A"],
        [b"b", b"0", b"B"],
    ]


def test_modules_of_redis_are_told() -> None:
    listed = b"*1\r\n*4\r\n$4\r\nname\r\n$6\r\nReJSON\r\n$3\r\nver\r\n:20000\r\n"
    with redis_that_says(listed) as (connection, _):
        assert [note.text for note in redis_driver._modules(connection) if "modules: ReJSON." in note.text]


def etcd_state(server: Server, password: str = "") -> list[str]:
    return database_servers.Client([*database_servers.etcdctl(server, password), "get", "", "--from-key"], {})("")


def test_etcd_comes_back_whole(etcd_server: Server) -> None:
    database = Etcd(f"etcd://root:{QUOTED}@127.0.0.1:{etcd_server.port}")
    ctl = database_servers.etcdctl(etcd_server)
    before = etcd_state(etcd_server)
    for command in (["user", "add", f"root:{PASSWORD}"], ["user", "grant-role", "root", "root"], ["auth", "enable"]):
        subprocess.run([*ctl, *command], check=True, capture_output=True)
    with no_password_shows():
        kept = take(database)
    assert kept.counts == {"keys": 1201} == database.counts()
    assert kept.files == take(database).files
    ctl = database_servers.etcdctl(etcd_server, PASSWORD)
    lease = subprocess.run([*ctl, "lease", "grant", "600"], check=True, capture_output=True, text=True).stdout.split()[
        1
    ]
    subprocess.run([*ctl, "put", "session", "x", f"--lease={lease}"], check=True)
    with database.dump() as dump:
        assert [note.text for note in dump.notes if "do not expire: 'session'." in note.text]
    subprocess.run([*ctl, "del", "session"], check=True)
    subprocess.run([*ctl, "del", "--prefix", "/key/1"], check=True)
    subprocess.run([*ctl, "put", "/key/2/2", "changed"], check=True)
    subprocess.run([*ctl, "put", "zz", "new"], check=True)
    changed = etcd_state(etcd_server, PASSWORD)
    with pytest.raises(RestoreFailed, match=r"is unchanged: .*keys has 1201 of 1202"):
        database.restore(StoredDump(kept.files, {"keys": 1202}))
    assert etcd_state(etcd_server, PASSWORD) == changed
    with no_password_shows():
        database.restore(kept)
    assert etcd_state(etcd_server, PASSWORD) == before
    with database.scratch() as scratch:
        scratch.restore(kept)
        assert scratch.counts() == kept.counts
    with pytest.raises(InvalidArgument, match="An etcd cluster has no tables"):
        database.restore(kept, only=["keys"])


# --- servers that die, tools and passwords that are missing ------------------------------------------------


def start(kind: str) -> tuple[contextlib.AbstractContextManager[Server], Callable[[Server], Database]]:
    """A server of a kind, and a database of it that takes several pieces."""
    match kind:
        case "postgresql":

            def filled_postgresql(server: Server) -> Database:
                database_servers.psql(server)(
                    "CREATE TABLE t AS SELECT repeat(i::text, 100) FROM generate_series(1, 50000) i;"
                )
                return PostgreSQL(f"postgresql://postgres:{QUOTED}@127.0.0.1:{server.port}/postgres")

            return database_servers.postgresql(), filled_postgresql
        case "mariadb":

            def filled_mariadb(server: Server) -> Database:
                sql = "CREATE DATABASE d; USE d; CREATE TABLE t AS SELECT repeat(seq, 100) AS x FROM seq_1_to_50000;"
                database_servers.mariadb_client(server)(sql)
                return MariaDB(f"mysql://admin:{QUOTED}@127.0.0.1:{server.port}/d")

            return database_servers.mariadb(), filled_mariadb
        case "redis":
            return database_servers.redis(), redis_of
        case _:
            return database_servers.etcd(), lambda server: Etcd(f"etcd://127.0.0.1:{server.port}")


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_server_that_dies_midway_gives_no_dump(kind: str) -> None:
    running, database_of = start(kind)
    with running as server, contextlib.ExitStack() as stack:
        database = database_of(server)
        stack.enter_context(pytest.raises(BackupFailed, match=r"failed|does not answer"))
        dump = stack.enter_context(database.dump())
        for number, file in enumerate(dump.files):
            for _ in file.pieces:
                if number:
                    subprocess.run(["pkill", "-KILL", "-P", str(server.process.pid)], check=False)
                    server.process.kill()
                    server.process.wait()


@pytest.mark.parametrize("kind", ["postgresql", "mariadb", "redis", "etcd"])
def test_a_server_that_is_gone_is_a_clear_error(kind: str) -> None:
    running, database_of = start(kind)
    with running as server:
        database = database_of(server)
        kept = take(database)
        assert database.check()
    for call in (database.check, database.counts, lambda: take(database)):
        with pytest.raises(BackupFailed, match=f"{server.port}|onnect"):
            call()
    with pytest.raises(RestoreFailed):
        database.restore(kept)


def test_a_wrong_password_is_a_clear_error_without_it(postgres: Server, maria: Server, redis_server: Server) -> None:
    wrong = "wrong:pass%word"
    databases: list[Database] = [
        PostgreSQL(f"postgresql://postgres@127.0.0.1:{postgres.port}/postgres", password=wrong),
        MariaDB(f"mariadb://admin@127.0.0.1:{maria.port}/mysql", password=wrong),
        Redis(f"redis://127.0.0.1:{redis_server.port}", password=wrong),
    ]
    for database in databases:
        for call in (database.counts, lambda database=database: take(database)):
            with pytest.raises(BackupFailed, match=r"(?i)password|AUTH") as raised:
                call()
            assert wrong not in str(raised.value)


@pytest.mark.parametrize(
    ("database", "package"),
    [
        (MariaDB("mariadb://localhost/x"), "mariadb-client"),
        (Redis("redis://localhost"), "redis-tools"),
        (Etcd("etcd://localhost"), "etcd-client"),
        (MongoDB("mongodb://localhost/x"), "mongodb-database-tools"),
        (ArangoDB("arangodb://localhost/x"), "arangodb3-client"),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_a_missing_tool_is_one_error_that_names_the_package(
    database: Database, package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissing, match=f"the package {package}"):
        database.check()


def test_a_password_may_come_from_a_function_and_from_the_environment(
    postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"postgresql://postgres@127.0.0.1:{postgres.port}/postgres"
    assert PostgreSQL(url, password=the_password).counts() == {}
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    assert PostgreSQL(url).counts() == {}


def the_password() -> str:
    return PASSWORD


# --- ArangoDB and MongoDB, by stand-ins ------------------------------------------------------------------


@pytest.fixture
def arango(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[database_stand_ins.Arango]:
    with database_stand_ins.arango(tmp_path, "us@er", " pass@word@ #") as server:
        monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
        server.create("my @shop")
        here = server.databases["my @shop"]
        here["collections"] |= {"users": [{"_key": "1", "name": "ü\n"}, {"_key": "2"}], "e@dges": [], "-odd": [{}]}
        here["collections"]["_graphs"] = [{"_key": "social"}]
        here["views"]["search"] = {"type": "arangosearch"}
        server.save()
        yield server


@pytest.mark.parametrize("over", ["tcp", "unix"])
def test_arangodb_comes_back_whole(arango: database_stand_ins.Arango, over: str) -> None:
    place = {"tcp": f"arangodb://us%40er@127.0.0.1:{arango.port}/my%20%40shop"}
    place["unix"] = f"arangodb+unix://us%40er@{arango.file.parent}/socket?database=my%20%40shop"
    database = ArangoDB(place[over], password=arango.password)
    assert database.check()[-1] == "server 3.12.4"
    with no_password_shows():
        kept = take(database)
    assert kept.counts == {"-odd": 1, "_analyzers": 0, "_graphs": 1, "e@dges": 0, "users": 2} == database.counts()
    before = pickle.dumps(arango.databases["my @shop"])
    here = arango.databases["my @shop"]
    here["collections"] |= {"users": [], "later": [{}], "_graphs": []}
    here["views"] = {"other": {}}
    arango.create(beside_name("my @shop"))
    changed = pickle.dumps(here)
    # What is not what the backup says is found in a database beside.
    with pytest.raises(RestoreFailed, match=r"is unchanged.*users has 2 of 3"):
        database.restore(StoredDump(kept.files, {**kept.counts, "users": 3}))
    arango.load()
    assert arango.databases["my @shop"] == pickle.loads(changed)
    database.restore(kept)
    arango.load()
    assert arango.databases["my @shop"] == pickle.loads(before)
    arango.databases["my @shop"]["collections"] |= {"users": [], "-odd": []}
    arango.save()
    database.restore(kept, only=["users"])
    assert database.counts() == {**kept.counts, "-odd": 0}
    with database.scratch() as scratch:
        scratch.restore(kept)
        assert scratch.counts() == kept.counts
    arango.load()
    assert sorted(arango.databases) == ["_system", "my @shop"]
    with pytest.raises(BackupFailed, match="not authorized"):
        take(ArangoDB(place[over], password="wrong"))


def test_without_the_right_to_build_beside_a_restore_goes_on_and_says_so(tmp_path: Path) -> None:
    @contextlib.contextmanager
    def beside(why: str) -> Iterator[Database]:
        raise BackupFailed(why)
        yield SQLite("never")

    (warning,) = check_beside(beside("HTTP 401: not authorized to execute this request"), StoredDump({}, {"a": 1}), [])
    assert "has no right to create one" in warning
    with pytest.raises(BackupFailed, match="does not answer"):
        check_beside(beside("the server does not answer"), StoredDump({}, {"a": 1}), [])


@pytest.fixture
def mongo_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    with database_servers.mongodb(tmp_path / "mongodb") as port, database_stand_ins.mongo(tmp_path) as programs:
        monkeypatch.setenv("PATH", str(programs), prepend=":")
        yield port


def test_mongodb_comes_back_whole(mongo_port: int) -> None:
    import pymongo

    database = MongoDB(f"mongodb://127.0.0.1:{mongo_port}/shop")
    with pymongo.MongoClient[dict[str, Any]](f"mongodb://127.0.0.1:{mongo_port}") as client:
        shop = client["shop"]
        shop["users"].insert_many([{"_id": 1, "name": "ü\0"}, {"_id": 2}])
        shop["odd-na*me"].insert_one({"_id": b"\0\xff"})
        client["other"]["users"].insert_one({"_id": 7})
        kept = take(database)
        assert kept.counts == {"users": 2, "odd-na*me": 1} == database.counts()
        shop["users"].delete_many({})
        shop["later"].insert_one({})
        changed = database.counts()
        # What is not what the backup says is found in a database beside.
        client[beside_name("shop")]["left"].insert_one({})
        with pytest.raises(RestoreFailed, match=r"is unchanged.*users has 2 of 3"):
            database.restore(StoredDump(kept.files, {**kept.counts, "users": 3}))
        assert database.counts() == changed
        database.restore(kept, only=["users"])
        assert database.counts() == {**kept.counts, "later": 1}
        database.restore(kept)
        assert database.counts() == kept.counts
        assert list(shop["users"].find()) == [{"_id": 1, "name": "ü\0"}, {"_id": 2}]
        with database.scratch() as scratch:
            scratch.restore(kept)
            assert scratch.counts() == kept.counts
        assert sorted(set(client.list_database_names()) - {"admin", "config", "local"}) == ["other", "shop"]
    assert (
        MongoDB("mongodb://u:p%40@h1,h2:27018/shop?w=1")._of("x")
        == "mongodb://u:p%40@h1,h2:27018/x?w=1&authSource=shop"
    )


def each_kill_is_mended(
    database: MongoDB | ArangoDB, change: Callable[[], object], names: Callable[[], Collection[str]]
) -> None:
    """A restore that is killed before any step leaves something that the next one makes whole."""
    kept, there = take(database), set(names())

    def look() -> None:
        database.restore(kept)
        assert database.counts() == kept.counts
        assert set(names()) == there

    assert killed_at_each_step(database, kept, Tool, "started", change, look, staging=True) == 2


def a_mixture_is_mended(
    database: MongoDB | ArangoDB, change: Callable[[], object], undo: bool, place: Path, at: tuple[int, type, str]
) -> None:
    """A restore that is killed between its last two steps is recorded. It can be finished or undone."""
    manager = BackupManager(place, databases=[database])
    new = database.counts()
    backup = manager.create_backup()
    change()
    old = database.counts()

    def restore(arm: Callable[[], None]) -> None:
        arm()
        manager.restore_backup(backup.name, confirm=True)

    number, owner, method = at
    assert killed_at(number, restore, owner, method)
    assert database.counts() not in (old, new)
    [record] = manager.list_interrupted_restores()
    assert [part.state for part in record.parts] == [PartState.SWITCHING]
    manager.resume_restore(undo=undo)
    assert database.counts() == (old if undo else new)
    assert manager.list_interrupted_restores() == []


@pytest.mark.nightly
def test_restores_of_mongodb_that_are_killed_are_mended(mongo_port: int, tmp_path: Path) -> None:
    import pymongo.database

    database = MongoDB(f"mongodb://127.0.0.1:{mongo_port}/shop")
    with pymongo.MongoClient[dict[str, Any]](f"mongodb://127.0.0.1:{mongo_port}") as client:
        client["shop"]["users"].insert_many([{"_id": 1}, {"_id": 2}])

        def change() -> None:
            client["shop"]["users"].delete_many({})
            client["shop"]["later"].insert_one({})

        each_kill_is_mended(database, change, client.list_database_names)
        at = (1, pymongo.database.Database, "drop_collection")
        a_mixture_is_mended(database, change, False, tmp_path / "repository", at)


@pytest.mark.nightly
def test_restores_of_arangodb_that_are_killed_are_mended(arango: database_stand_ins.Arango, tmp_path: Path) -> None:
    database = ArangoDB(f"arangodb://us%40er@127.0.0.1:{arango.port}/my%20%40shop", arango.password)

    def change() -> None:
        arango.load()
        arango.databases["my @shop"]["collections"] |= {"users": [], "later": [{}]}
        arango.save()

    def names() -> list[str]:
        arango.load()
        return list(arango.databases)

    each_kill_is_mended(database, change, names)
    at = (2, arangodb._Server, "drop_others")
    a_mixture_is_mended(database, change, True, tmp_path / "repository", at)


def a_killed_drill_is_cleaned_up(database: MongoDB | ArangoDB, names: Callable[[], Collection[str]]) -> None:
    """By the next drill or cleanup on this machine; one that is running is left alone, and so are other names."""
    kept, there = take(database), set(names())

    def drill() -> None:
        with database.scratch() as scratch:
            scratch.restore(kept)
            os.kill(os.getpid(), signal.SIGKILL)

    assert os.WTERMSIG(os.waitpid(in_a_child(drill), 0)[1]) == signal.SIGKILL
    [left] = set(names()) - there
    with database.scratch() as running:
        running.restore(kept)
        assert left not in names()
        assert database.drop_abandoned() == []
        assert running.counts() == kept.counts
    assert set(names()) == there
    assert abandoned_here([left[:-1] + "x", "shop_drill_" + "0" * 24, left.replace("_drill_", "_drill_0"), left]) == [
        left
    ]


def test_what_killed_drills_of_mongodb_leave_is_dropped(mongo_port: int) -> None:
    import pymongo

    with pymongo.MongoClient[dict[str, Any]](f"mongodb://127.0.0.1:{mongo_port}") as client:
        client["shop"]["users"].insert_many([{"_id": 1}, {"_id": 2}])
        database = MongoDB(f"mongodb://127.0.0.1:{mongo_port}/shop")
        a_killed_drill_is_cleaned_up(database, client.list_database_names)


def test_what_killed_drills_of_arangodb_leave_is_dropped(arango: database_stand_ins.Arango) -> None:
    def names() -> list[str]:
        arango.load()
        return list(arango.databases)

    database = ArangoDB(f"arangodb://us%40er@127.0.0.1:{arango.port}/my%20%40shop", arango.password)
    a_killed_drill_is_cleaned_up(database, names)


# --- signals ---------------------------------------------------------------------------------------------

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)


def in_a_child(work: Callable[[], object]) -> int:
    """Start a process that does something until a signal ends it. Returns its number."""
    if (child := os.fork()) == 0:
        try:
            with terminable():
                work()
        finally:
            os._exit(0)
    return child


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if not path.is_dir()]


def test_a_signal_during_a_dump_leaves_no_plain_copy(
    warehouse: DuckDB,
    redis_server: Server,
    etcd_server: Server,
    arango: database_stand_ins.Arango,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with contextlib.closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        connection.executescript(NOTES)
    databases: list[Database] = [
        *(SQLite(str(tmp_path / "app.db")), warehouse, Etcd(f"etcd://127.0.0.1:{etcd_server.port}")),
        Redis(f"redis://:{QUOTED}@127.0.0.1:{redis_server.port}"),
        ArangoDB(f"arangodb://us%40er@127.0.0.1:{arango.port}/my%20%40shop", arango.password),
    ]

    def work() -> None:
        with database.dump() as dump:
            next(next(iter(dump.files)).pieces)
            if files(folder):  # the plain copy
                signal.raise_signal(number)

    for database, number in itertools.product(databases, SIGNALS):
        status = os.waitpid(in_a_child(work), 0)[1]
        assert (status == signal.SIGKILL) == (number == signal.SIGKILL) == bool(files(folder)), (database, number)
        take(database)  # whoever comes next removes what a kill has left
        assert not files(folder)


def test_a_signal_while_a_client_hangs_leaves_no_password_and_no_client(
    market: MariaDB, mongo_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, started, program = tmp_path / "temporary", tmp_path / "started", tmp_path / "hanging"
    for path in (folder, program):
        path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("PATH", str(program), prepend=":")
    mongo = MongoDB(f"mongodb://u:{QUOTED}@127.0.0.1:{mongo_port}/shop")

    def work(database: Database) -> None:
        with database.dump() as dump:
            for file in dump.files:
                list(file.pieces)

    hangs: tuple[tuple[Database, str, str], ...] = (
        (market, "mariadb-dump", "--version"),
        (market, "mariadb-dump", "--quick"),
        (mongo, "mongodump", "--archive"),
    )
    for (database, name, option), number in itertools.product(hangs, SIGNALS):
        begun = f"echo $$ > '{started}.new'; mv '{started}.new' '{started}'; exec sleep 600"
        (program / name).write_text(f'#!/bin/sh\ncase "$*" in *{option}*) {begun};; *) echo 1;; esac\n')
        (program / name).chmod(0o755)
        child = in_a_child(functools.partial(work, database))
        database_servers.until(started.exists, os.sched_yield)
        os.kill(child, number)
        os.waitpid(child, 0)
        client = int(started.read_text())
        started.unlink()
        if number == signal.SIGKILL:  # nothing is written to it, and nobody ends it
            os.kill(client, signal.SIGKILL)
        assert not files(folder)
        database_servers.until(functools.partial(is_dead, client), os.sched_yield)


def is_dead(process: int) -> bool:
    return not psutil.pid_exists(process) or psutil.Process(process).status() == psutil.STATUS_ZOMBIE


# --- forged dumps ----------------------------------------------------------------------------------------

VALUES: list[Any] = [
    *(None, True, -1, 2**70, float("nan"), [], {}, ["x"], {"x": 1}),
    *("", "a\nb", "a\0b", "../../x", "x" * 100_000, "`touch {file}`", "$(touch {file})", "--config={file}", "ad.min"),
]


def forged(file: Path, deep: int = 100_000) -> Iterator[bytes]:
    """What somebody may put in the place of one JSON value."""
    for value in VALUES:
        yield json.dumps(value).replace("{file}", str(file)).encode()
    yield b"[" * deep + b"]" * deep
    yield b'"\xff'
    yield b" "


def each_refused(database: Database, dumps: Iterable[StoredDump], file: Path) -> None:
    """Each of these dumps is refused by name; the database is unchanged, and nothing ran."""
    before = database.counts()
    for made in dumps:
        with pytest.raises(RestoreFailed, match=r"is unchanged: .*damaged"):
            database.restore(made)
    assert not file.exists()
    assert database.counts() == before


def test_an_error_holds_no_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    # As the tools of MongoDB and ArangoDB say it; the stand-ins know no unique indexes.
    for database, name, said in (
        (
            MongoDB("mongodb://h/shop"),
            "mongorestore",
            'E11000 duplicate key: i dup key: { a: "secret\nsecret" }',
        ),
        (ArangoDB("arangodb://h/shop"), "arangorestore", "unique constraint violated; conflicting key: secret"),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\ncat >&2 <<'.'\n{said}\n.\nexit 1\n")
        (tmp_path / name).chmod(0o755)
        with pytest.raises(BackupFailed, match=r"failed with exit code 1: .*(duplicate|unique).* key:$") as raised:
            database._tool(name).run()
        assert "secret" not in str(raised.value)


def test_forged_dumps_of_mongodb_are_refused(mongo_port: int, tmp_path: Path) -> None:
    import pymongo

    database = MongoDB(f"mongodb://127.0.0.1:{mongo_port}/shop")
    with pymongo.MongoClient[dict[str, Any]](f"mongodb://127.0.0.1:{mongo_port}") as client:
        client["shop"]["users"].insert_one({"_id": 1})
    kept, file = take(database), tmp_path / "evil"
    settings = [
        *(b'{"database": %b}' % value for value in forged(file)),
        *forged(file),
        *(b'{"database": "shop", "more": 1}', b'{"database": "x", "database": "shop"}'),
        kept.files["database.json"] + b" " * (17 << 20),
    ]
    each_refused(database, (StoredDump({**kept.files, "database.json": one}, kept.counts) for one in settings), file)
    each_refused(database, [StoredDump({"database.archive": b""}, {})], file)
    with pytest.raises(RestoreFailed, match=r"is unchanged: .*contains the users of a server"):
        database.restore(StoredDump({**kept.files, "database.json": b'{"database": "admin"}'}, kept.counts))


def test_forged_dumps_of_arangodb_are_refused(arango: database_stand_ins.Arango, tmp_path: Path) -> None:
    database = ArangoDB(f"arangodb://us%40er@127.0.0.1:{arango.port}/my%20%40shop", password=arango.password)
    kept, file = take(database), tmp_path / "evil"
    path = next(path for path in kept.files if path.startswith("users_") and path.endswith(".structure.json"))
    structures = [
        *(b'{"parameters": {"name": %b}}' % value for value in forged(file)),
        *(b'{"parameters": %b}' % value for value in forged(file)),
        *forged(file),
        b'{"parameters": {"name": "users"}, "parameters": {"name": "_users"}}',
        b'{"parameters": {"name": "_users", "name": "users"}}',
    ]
    each_refused(database, (StoredDump({**kept.files, path: one}, kept.counts) for one in structures), file)
    for name in ("_users", "_apps", "_aqlfunctions"):
        more = {f"{name}_1.structure.json": b'{"parameters": {"name": "%b"}}' % name.encode()}
        counts = {**kept.counts, name: 1}
        each_refused(database, [StoredDump({**kept.files, **more}, counts)], file)
    others = ["sub/x.view.json", "strangers.data.json", "users.json", "arangorestore.conf", ""]
    each_refused(database, (StoredDump({**kept.files, other: b"{}"}, kept.counts) for other in others), file)
    option = "a\nserver.endpoint = x"
    with pytest.raises(InvalidArgument, match="line feed"):
        database.restore(StoredDump(kept.files, {**kept.counts, option: 1}), [option])


def test_forged_dumps_of_redis_are_refused(redis_server: Server, tmp_path: Path) -> None:
    database, file = redis_of(redis_server), tmp_path / "evil"
    kept = take(database)
    names = ["", "db", "db-1", "db1\n", "db²", "db" + "9" * 5000, "db9999999", "9", "--save", f"`touch {file}`"]
    each_refused(database, (StoredDump(kept.files, {**kept.counts, name: 1}) for name in names), file)


def test_a_forged_snapshot_of_etcd_is_refused(etcd_server: Server, tmp_path: Path) -> None:
    database = Etcd(f"etcd://127.0.0.1:{etcd_server.port}")
    kept = take(database)
    data = kept.files["snapshot.db"]
    before = etcd_state(etcd_server)
    for forgery in (b"", b"\0" * 4096, data[: len(data) // 2], data[:5000] + b"\xff" * 100 + data[5100:]):
        with pytest.raises(RestoreFailed, match="was not restored"):
            database.restore(StoredDump({"snapshot.db": forgery}, {"keys": 2**70}))
    assert etcd_state(etcd_server) == before


# --- URLs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "kind", "name"),
    [
        ("postgresql://u:s3cret@h/my%2Fdb", PostgreSQL, "postgresql://h:5432/my%2Fdb"),
        ("postgresql+asyncpg://u:s3cret@h:1/x", PostgreSQL, "postgresql://h:1/x"),
        ("mysql+pymysql://u:s3cret@[::1]/x", MariaDB, "mariadb://[::1]:3306/x"),
        ("sqlite+aiosqlite:////var/app%20x.db", SQLite, "sqlite:////var/app%20x.db"),
        ("/var/app.sqlite", SQLite, "sqlite:////var/app.sqlite"),
        ("duckdb:////var/x.duckdb", DuckDB, "duckdb:////var/x.duckdb"),
        ("redis://:s3cret@h/0", Redis, "redis://h:6379/"),
        ("etcd://h:2379", Etcd, "etcd://h:2379/"),
        ("mongodb://u:s3cret@a:1,b:2/x?replicaSet=r", MongoDB, "mongodb://a:1,b:2/x"),
        ("mongodb+srv://u:s3cret@cluster.example.com/x", MongoDB, "mongodb+srv://cluster.example.com/x"),
        ("arangodb://root:s3cret@h/x", ArangoDB, "arangodb://h:8529/x"),
        ("arangodb+unix://root:s3cret@/run/a.sock?database=x", ArangoDB, "arangodb+unix:///run/a.sock?database=x"),
    ],
)
def test_a_url_opens_its_database_whose_name_and_repr_have_no_secret(url: str, kind: type[Any], name: str) -> None:
    database = open_database(url)
    assert type(database) is kind
    assert database.name == name
    assert "s3cret" not in repr(database)
    copy = pickle.loads(pickle.dumps(database))
    assert (type(copy), copy.name) == (kind, name)
    assert b"s3cret" not in pickle.dumps(database)
    assert open_database(database.name).name == name


def test_a_url_that_lacks_a_slash_is_no_path() -> None:
    for url, right in {
        "sqlite:/var/app.db": "sqlite:////var/app.db",
        "duckdb:app.duckdb": "duckdb:///app.duckdb",
        "mysql+pymysql:/u@h/x": "mysql+pymysql://u@h/x",
    }.items():
        with pytest.raises(InvalidArgument, match=re.escape(f"did you mean {right}?")):
            open_database(url)


def test_a_forged_name_of_a_part_is_no_database_of_a_server(tmp_path: Path) -> None:
    manager = BackupManager(
        tmp_path / "repository", databases=["postgresql://127.0.0.1:1/*", "mariadb://127.0.0.1:1/*"]
    )
    parts = ["postgresql://127.0.0.1:1/a%00b", "mariadb://127.0.0.1:1/a%00b", "postgresql://127.0.0.1:1/a"]
    assert manager._by_name(parts).keys() == {parts[-1]}
    with pytest.raises(BackupFailed, match="psql could not be started"):
        open_database(f"postgresql://127.0.0.1:1/{'x' * 200_000}").check()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:s3cret@h/",
        "postgresql://u:s3cret@h/x?nonsense=1",
        "mysql://u:s3cret@h",
        "redis://:s3cret@h/3",
        "etcd://u:s3cret@h/x",
        "oracle://u:s3cret@h/x",
        "postgresql://u:s3cret/more@h/x@y",
        "postgresql://u:s3cret@h/a%00b",
        "mariadb://u:s3cret@h/x\0",
        "",
        "sqlite://",
        "sqlite:///:memory:",
        "app.txt",
        "arangodb://u:s3cret@h",
        "postgresql:/u:s3cret@h/x",
        "u:s3cret@h/x",
    ],
)
def test_a_url_that_is_none_is_refused_without_repeating_a_secret(url: str) -> None:
    with pytest.raises(SnapshotsError) as raised:
        open_database(url)
    assert isinstance(raised.value, InvalidArgument)
    assert "s3cret" not in str(raised.value)
