"""What people met who restored SQLite, DuckDB and Redis: what counts can be restored, and no dump does harm."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import database_servers
import duckdb
import pytest
from database_servers import PASSWORD, Server, killed_at_each_step, killed_in_a_drill, until

from prefect_snapshots import BackupManager
from prefect_snapshots.backups.databases import DuckDB, Redis, SQLite, etcd, open_database, redis
from prefect_snapshots.errors import BackupFailed, RestoreFailed
from prefect_snapshots.testing import StoredDump

# --- SQLite ----------------------------------------------------------------------------------------------------------


def sqlite(path: Path, sql: str) -> SQLite:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for name in ("unicase", 'it\'s "odd"'):
            connection.create_collation(name, lambda a, b: (a.lower() < b.lower()) - (a.lower() > b.lower()))
        connection.create_function("double", 1, lambda value: value * 2, deterministic=True)
        connection.executescript(sql)
    return SQLite(str(path))


def pages(database: SQLite) -> list[str]:
    """Everything, by SQLite's own dump, where no collation is needed."""
    with contextlib.closing(sqlite3.connect(database.path)) as connection:
        return list(connection.iterdump())


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE t (name TEXT COLLATE unicase UNIQUE); INSERT INTO t VALUES ('a'), ('B'), ('c');",
        'CREATE TABLE t (a, b); CREATE INDEX i ON t (a COLLATE "it\'s ""odd"""); INSERT INTO t VALUES (1, 2);',
        "CREATE TABLE t (a TEXT COLLATE unicase PRIMARY KEY) WITHOUT ROWID; INSERT INTO t VALUES ('a'), ('B');",
        "CREATE TABLE t (a INT); CREATE INDEX i ON t (double(a)); INSERT INTO t VALUES (1), (2);",
        "CREATE TABLE t (a INT, b INT GENERATED ALWAYS AS (double(a))); INSERT INTO t (a) VALUES (1);",
        "CREATE TABLE t (a INT CHECK (double(a) > 1)); INSERT INTO t VALUES (1);",
        "CREATE TABLE t (a INT); CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT double(NEW.a); END; "
        "INSERT INTO t VALUES (1);",
        "CREATE TABLE t (a INT); CREATE VIEW v AS SELECT nowhere FROM t; CREATE VIEW w AS SELECT * FROM gone;",
        # A schema may call what SQLite does not count as innocuous.
        "CREATE TABLE t (a); CREATE INDEX i ON t (json_extract(a, '$.b')); INSERT INTO t VALUES ('{}');",
        "CREATE TABLE t (a, b GENERATED ALWAYS AS (json_extract(a, '$.b'))); INSERT INTO t VALUES ('{}');",
        "CREATE TABLE t (a CHECK (json_valid(a))); INSERT INTO t VALUES ('{}');",
        # Rows that break rules which came later.
        "CREATE TABLE t (a INT, b INT); INSERT INTO t VALUES (NULL, 1); PRAGMA writable_schema = 1; "
        "UPDATE sqlite_master SET sql = 'CREATE TABLE t (a INT NOT NULL, b INT)' WHERE name = 't';",
        "CREATE TABLE t (a INT, b INT); INSERT INTO t VALUES (1, 1); PRAGMA writable_schema = 1; "
        "UPDATE sqlite_master SET sql = 'CREATE TABLE t (a INT, b INT CHECK (b > 1))' WHERE name = 't';",
        "CREATE TABLE t (a, b INT); INSERT INTO t VALUES ('x', 1); PRAGMA writable_schema = 1; "
        "UPDATE sqlite_master SET sql = 'CREATE TABLE t (a INT, b INT) STRICT' WHERE name = 't';",
        # Indexes that lack rows, and that have too many.
        "CREATE TABLE t (a INT, b INT); INSERT INTO t VALUES (1, 1), (9, 9); CREATE INDEX i ON t (a) WHERE a > 5; "
        "PRAGMA writable_schema = 1; UPDATE sqlite_master SET sql = 'CREATE INDEX i ON t (a)' WHERE name = 'i';",
        "CREATE TABLE t (a TEXT COLLATE unicase); INSERT INTO t VALUES ('a'), ('b'); CREATE UNIQUE INDEX i ON t (a) "
        "WHERE a > 'a'; PRAGMA writable_schema = 1; "
        "UPDATE sqlite_master SET sql = 'CREATE UNIQUE INDEX i ON t (a)' WHERE name = 'i';",
        "CREATE TABLE t (a INT, b INT); INSERT INTO t VALUES (1, 1), (9, 9); CREATE INDEX i ON t (a); "
        "PRAGMA writable_schema = 1; UPDATE sqlite_master SET sql = 'CREATE INDEX i ON t (a) WHERE a > 5' "
        "WHERE name = 'i';",
        "PRAGMA page_size = 1024; PRAGMA auto_vacuum = FULL; PRAGMA encoding = 'UTF-16le'; CREATE TABLE t (a); "
        "INSERT INTO t VALUES ('ü'); PRAGMA user_version = 7; PRAGMA application_id = 9;",
        "CREATE VIRTUAL TABLE f USING fts5(body); INSERT INTO f VALUES ('a b'); CREATE TABLE t AS SELECT 1 AS a;",
    ],
)
def test_whatever_sqlite_holds_can_be_restored(tmp_path: Path, sql: str) -> None:
    database = sqlite(tmp_path / "app.db", sql)
    before, kept = Path(database.path).read_bytes(), StoredDump.of(database)
    assert database.check()
    with database.dump() as dump:
        told = " ".join(note.text for note in dump.notes)
        assert ("Rows that break rules" in told) == ("INT NOT NULL" in sql or "b INT) STRICT" in sql)
        assert ("Indexes that lack rows" in told) == bool(
            re.search("= '?CREATE (UNIQUE )?INDEX [^\n;]* ON t \\(a\\)'", sql)
        )
        assert not any(note.left_out for note in dump.notes)
    with database.scratch() as scratch:
        scratch.restore(kept)
        assert scratch.counts() == kept.counts
    Path(database.path).unlink()
    database.restore(kept)
    assert len(Path(database.path).read_bytes()) == len(before)
    assert database.counts() == kept.counts
    sqlite(Path(database.path), "CREATE TABLE later (x)")
    database.restore(kept)
    assert StoredDump.of(database).files["database.sqlite"][100:] == kept.files["database.sqlite"][100:]


def test_a_damaged_sqlite_gives_no_backup(tmp_path: Path) -> None:
    database = sqlite(
        tmp_path / "app.db",
        "CREATE TABLE t (a); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 9999) "
        "INSERT INTO t SELECT i FROM n;",
    )
    data = bytearray(Path(database.path).read_bytes())
    data[8192:12288] = bytes(4096)
    Path(database.path).write_bytes(data)
    with pytest.raises(BackupFailed, match=r"damaged|malformed"):
        StoredDump.of(database)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444])
def test_a_lost_sqlite_gets_its_mode_and_owner_back(tmp_path: Path, mode: int) -> None:
    database = sqlite(tmp_path / "app.db", "CREATE TABLE t (a)")
    os.chmod(database.path, mode)
    if os.geteuid() == 0:
        os.chown(database.path, 1000, 1001)
    before, kept = os.stat(database.path), StoredDump.of(database)
    Path(database.path).unlink()
    database.restore(kept)
    after = os.stat(database.path)
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


@pytest.mark.parametrize(
    "settings", [b"", b"[]", b'{"mode": 2541, "uid": 0, "gid": 0}', b'{"mode": 420, "uid": -1, "gid": 0}']
)
def test_a_hostile_mode_is_refused(tmp_path: Path, settings: bytes) -> None:
    database = sqlite(tmp_path / "app.db", "CREATE TABLE t (a)")
    kept, before = StoredDump.of(database), Path(database.path).read_bytes()
    with pytest.raises(RestoreFailed, match="is unchanged"):
        database.restore(StoredDump({**kept.files, "database.json": settings}, kept.counts))
    assert Path(database.path).read_bytes() == before


def test_a_full_temporary_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], check=False, capture_output=True
    ).returncode:
        pytest.fail("This test mounts a file system: run it as root.")
    try:
        monkeypatch.setenv("TMPDIR", str(small))
        monkeypatch.setattr("tempfile.tempdir", None)
        database = sqlite(tmp_path / "app.db", "CREATE TABLE t (a); INSERT INTO t VALUES (zeroblob(1000000));")
        with pytest.raises(BackupFailed, match=f"temporary folder {small}.* is full"):
            StoredDump.of(database)
    finally:
        subprocess.run(["umount", small], check=True)


def test_somebody_who_may_only_read_backs_up_a_database_in_wal_mode(tmp_path: Path) -> None:
    database = sqlite(tmp_path / "app.db", "PRAGMA journal_mode = WAL; CREATE TABLE t (a); INSERT INTO t VALUES (1);")
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(folder.stat().st_mode | stat.S_IXOTH | stat.S_IROTH)
    program = (
        "import os, sys, tempfile; from prefect_snapshots.backups.databases import SQLite; "
        "from prefect_snapshots.testing import StoredDump; import prefect_snapshots.backups.databases; "
        "os.setgroups([]); os.setgid(65534); os.setuid(65534); print(StoredDump.of(SQLite(sys.argv[1])).counts)"
    )
    done = subprocess.run([sys.executable, "-c", program, database.path], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "{'t': 1}", done.stderr


def test_what_a_killed_restore_left_is_removed_by_the_next(tmp_path: Path) -> None:
    database = sqlite(tmp_path / "app.db", "CREATE TABLE t (a)")
    kept = StoredDump.of(database)
    left = tmp_path / ".app.db.restoring-killed"
    left.mkdir()
    (left / "database.sqlite").write_bytes(b"plain")
    with database.stage(kept):
        assert not left.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["app.db"]


# --- DuckDB ----------------------------------------------------------------------------------------------------------


def duck(path: Path, sql: str) -> DuckDB:
    with duckdb.connect(str(path)) as connection:
        connection.execute(sql)
    return DuckDB(str(path))


def schema(database: DuckDB) -> list[object]:
    with duckdb.connect(database.path) as connection:
        return [
            connection.execute(f"SELECT {columns} FROM {source} WHERE NOT internal ORDER BY ALL").fetchall()
            for source, columns in {
                "duckdb_tables()": "schema_name, sql",
                "duckdb_views()": "schema_name, view_name, sql",
                "duckdb_functions()": "schema_name, function_name, macro_definition",
                "duckdb_types()": "schema_name, type_name, labels",
            }.items()
        ] + [connection.execute("SELECT schema_name, sql FROM duckdb_indexes() ORDER BY ALL").fetchall()]


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE t (i INT); CREATE VIEW b AS SELECT i FROM t; CREATE VIEW a AS SELECT i FROM b",
        "CREATE TABLE t (i INT); CREATE VIEW z AS SELECT * FROM t; "
        "CREATE MACRO a(x) AS TABLE SELECT * FROM z WHERE i = x",
        "CREATE TABLE t (i INT); CREATE SCHEMA s; CREATE VIEW s.v AS SELECT i FROM t; "
        "CREATE VIEW v AS SELECT i FROM s.v",
        "CREATE TABLE t (i INT); CREATE MACRO m(x) AS x * 2; CREATE VIEW a AS SELECT m(i) AS i FROM t; "
        "CREATE MACRO b() AS TABLE SELECT * FROM a",
        "CREATE TABLE t (id INT PRIMARY KEY, parent INT, FOREIGN KEY (parent) REFERENCES t (id)); "
        "INSERT INTO t VALUES (1, NULL); "
        "INSERT INTO t VALUES (2, 1)",
        "CREATE TABLE a (i INT PRIMARY KEY); CREATE TABLE b (i INT REFERENCES a (i)); "
        "INSERT INTO a VALUES (1); INSERT INTO b VALUES (1)",
        "CREATE TYPE mood AS ENUM ('x', 'it''s'); CREATE SEQUENCE q START 5; "
        "CREATE TABLE t (m mood, n INT DEFAULT nextval('q'), "
        "l INT[], s STRUCT(a INT, b VARCHAR), p MAP(VARCHAR, INT), d DECIMAL(9, 2), g INT GENERATED "
        "ALWAYS AS (n * 2)); "
        "INSERT INTO t (m, l, s, p, d) VALUES ('x', [1, NULL], {'a': 1, 'b': 'y'}, MAP {'k': 1}, 1.25)",
        "CREATE TABLE t (i INT); CREATE UNIQUE INDEX x ON t (i); COMMENT ON TABLE t IS 'it''s'; "
        "INSERT INTO t VALUES (1)",
    ],
)
def test_whatever_duckdb_holds_can_be_restored(tmp_path: Path, sql: str) -> None:
    database = duck(tmp_path / "app.duckdb", sql)
    before, kept = schema(database), StoredDump.of(database)
    with database.scratch() as scratch:
        scratch.restore(kept)
        assert scratch.counts() == kept.counts
    Path(database.path).unlink()
    database.restore(kept)
    assert schema(database) == before
    assert StoredDump.of(database).counts == kept.counts


def test_an_error_of_duckdb_holds_no_data(tmp_path: Path) -> None:
    rows = "(1, 'it''s', '2026-01-01', 'x'), (2, 'x', '2026-01-02', 'y')"
    database = duck(
        tmp_path / "app.duckdb",
        "CREATE TABLE t (i INT PRIMARY KEY, s VARCHAR UNIQUE, d DATE, e ENUM ('x', 'y'), CHECK (i < 100)); "
        f"CREATE TABLE u (s VARCHAR REFERENCES t (s)); INSERT INTO t VALUES {rows}; INSERT INTO u VALUES ('x')",
    )
    kept, before = StoredDump.of(database), schema(database)
    for path, old, new in (
        ("t.csv", b"2,x", b"2,it's"),
        ("t.csv", b"2,x", b"secret,x"),
        ("t.csv", b"2,x", b"99999999999999,secret"),
        ("t.csv", b"2,x", b"200,secret"),
        ("t.csv", b"2,x", b"2,secret,secret,secret"),
        ("t.csv", b"2026-01-02", b"secret"),
        ("t.csv", b",y", b",secret"),
        ("u.csv", b"x", b"secret"),
    ):
        assert old in kept.files[path]
        made = {**kept.files, path: kept.files[path].replace(old, new)}
        with pytest.raises(RestoreFailed, match=r"is unchanged: .*DuckDB says: .*Error") as raised:
            database.restore(StoredDump(made, kept.counts))
        for data in ("secret", "it's", "99999", "2026"):
            assert data not in str(raised.value)
    assert schema(database) == before


def test_a_view_of_what_is_gone_costs_no_database(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("i\n1\n")
    database = duck(
        tmp_path / "app.duckdb",
        "CREATE TABLE t (i INT); CREATE TABLE gone (i INT); CREATE VIEW broken AS SELECT * FROM gone; "
        "CREATE MACRO broken_too(x) AS TABLE SELECT * FROM gone WHERE i = x; "
        "DROP TABLE gone; CREATE MACRO sound(a, b := 2) AS a + b; "
        f"CREATE VIEW over_file AS SELECT * FROM read_csv('{file}')",
    )
    found = database.check_restorable()
    assert [said.split(" refers")[0] for said in found] == ["View broken", "Macro broken_too"]
    assert all("strict=false" in said for said in found)
    lenient = open_database(f"duckdb:///{database.path}?strict=false")
    assert lenient.check_restorable() == []
    backup = BackupManager(tmp_path / "backups", databases=[lenient]).create_backup()
    assert backup.incomplete
    assert [note.split(" refers")[0] for note in backup.parts[0].notes] == ["View broken", "Macro broken_too"]
    database.restore(StoredDump.of(lenient))
    assert "broken" in caplog.text
    assert database.check_restorable() == []
    with duckdb.connect(database.path) as connection:
        assert connection.execute("SELECT * FROM over_file").fetchall() == [(1,)]


SWITCHED = """
import os, signal, sys
from functools import partial
from pathlib import Path
from restoring_process import STEPS, in_child
from prefect_snapshots.backups.databases import DuckDB
from prefect_snapshots.testing import StoredDump

place = DuckDB(sys.argv[1])

def run(sql):
    import duckdb
    with duckdb.connect(place.path) as connection:
        return connection.execute(sql).fetchall()

def make(path):
    run("CREATE OR REPLACE TABLE t AS SELECT 'new' AS state")
    with place.dump() as dump:
        for file in dump.files:
            Path(path, file.path).write_bytes(b"".join(file.pieces))

def kept():
    return StoredDump({path.name: path.read_bytes() for path in Path(sys.argv[2]).iterdir()}, {"t": 1})

def killed(step):
    count = 0
    def watch(event, arguments):
        nonlocal count
        if event in STEPS and event != "open":
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
    run("CREATE OR REPLACE TABLE t AS SELECT 'old' AS state")
    with place.stage(kept()) as switch:
        sys.addaudithook(watch)
        switch()

def mended():
    assert run("SELECT state FROM t") in ([("old",)], [("new",)])
    place.restore(kept())
    assert run("SELECT state FROM t") == [("new",)]
    assert sorted(os.listdir(os.path.dirname(place.path))) == ["app.duckdb"]

assert in_child(partial(make, sys.argv[2])) == 0
step, status = 0, 1
while status:
    step += 1
    status = in_child(partial(killed, step))
    assert status in (0, signal.SIGKILL), (step, status)
    assert in_child(mended) == 0, step
print(step)
"""


def test_a_duckdb_restore_that_is_killed_at_any_step_of_its_switch_is_old_or_new(tmp_path: Path) -> None:
    for name in ("kept", "place"):
        (tmp_path / name).mkdir()
    command = [sys.executable, "-c", SWITCHED, str(tmp_path / "place" / "app.duckdb"), str(tmp_path / "kept")]
    here = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=here, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 3, "too few steps were seen"


@pytest.mark.parametrize(
    "hostile",
    [
        "COPY (SELECT 1) TO '{file}';",
        "CREATE TABLE e AS SELECT * FROM read_text('/etc/passwd');",
        "CREATE TABLE e AS SELECT * FROM read_csv('/etc/passwd', auto_detect = true);",
        "ATTACH '{file}' AS other;",
        "EXPORT DATABASE '{file}';",
        "SET enable_external_access = true;",
        "INSTALL httpfs; LOAD httpfs;",
        "PRAGMA profiling_output = '{file}';",
        "DROP TABLE t;",
        "INSERT INTO t VALUES (1);",
        "CREATE PERSISTENT SECRET e (TYPE http, BEARER_TOKEN 'x');",
        "CALL pragma_version();",
    ],
)
@pytest.mark.parametrize("where", ["schema.sql", "load.sql"])
def test_a_hostile_duckdb_dump_reaches_no_file(tmp_path: Path, hostile: str, where: str) -> None:
    database = duck(tmp_path / "app.duckdb", "CREATE TABLE t (i INT); INSERT INTO t VALUES (7)")
    kept, file = StoredDump.of(database), tmp_path / "evil"
    sql = kept.files[where] + hostile.format(file=file).encode()
    made = StoredDump({**kept.files, where: sql}, kept.counts)
    for target in (database, DuckDB(str(tmp_path / "other.duckdb"))):
        with pytest.raises(RestoreFailed):
            target.restore(made)
    with database.scratch() as scratch, pytest.raises(RestoreFailed):
        scratch.restore(made)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["app.duckdb"]
    assert database.counts() == {"t": 1}


def test_a_hostile_duckdb_dump_reads_no_file(tmp_path: Path) -> None:
    """Its row counts are forged, too, so that nothing else is wrong."""
    database = duck(tmp_path / "app.duckdb", "CREATE TABLE t (i INT); INSERT INTO t VALUES (7)")
    kept, secret = StoredDump.of(database), tmp_path / "secret"
    secret.write_text("secret")
    sql = kept.files["schema.sql"] + f"CREATE TABLE e AS SELECT * FROM read_text('{secret}');".encode()
    made = StoredDump({**kept.files, "schema.sql": sql}, {**kept.counts, "e": 1})
    with pytest.raises(RestoreFailed, match="disabled by configuration"):
        database.restore(made)
    assert database.counts() == {"t": 1}


# --- Redis, etcd -----------------------------------------------------------------------------------------------------


@pytest.fixture
def cache() -> Iterator[Server]:
    with database_servers.redis() as server:
        yield server


def test_a_redis_without_room_for_a_restore_is_told_when_it_is_backed_up(tmp_path: Path) -> None:
    with database_servers.redis("--databases", "4") as server:
        database = Redis(f"redis://127.0.0.1:{server.port}", PASSWORD)
        manager = BackupManager(tmp_path / "repository", databases=[database])
        client = database_servers.redis_client(server)
        for number, told in ((0, False), (1, False), (2, True)):
            client(f"SELECT {number}\nSET a 1\n")
            [part] = manager.create_backup().parts
            assert [note.startswith("The server has fewer than 6 databases") for note in part.notes] == [True] * told


def test_what_expires_by_itself_is_no_difference(cache: Server) -> None:
    client, database = database_servers.redis_client(cache), Redis(f"redis://127.0.0.1:{cache.port}", PASSWORD)
    client("".join(f"SET key{n} 1\n" for n in range(5)) + "".join(f"SET short{n} 1 PX 1500\n" for n in range(20)))
    client("SELECT 3\nSET only 1 PX 1500\nSELECT 4\nSET long 1 EX 1000\n")
    kept = StoredDump.of(database)
    assert kept.counts == {"db0": 25, "db3": 1, "db4": 1}
    gone = threading.Event()
    while len(client("KEYS short*\n")) > 0 and client("EXISTS short0\n") != ["0"]:
        gone.wait(0.05)
    from prefect_snapshots.backups.sources import Expires

    with database.scratch() as scratch:
        scratch.restore(kept)
        assert isinstance(scratch, Expires)
        found = scratch.counts()
        assert found["db0"] < 25
        assert scratch.still_expected(kept.counts, found) == found
        assert scratch.still_expected(kept.counts, {"db0": 4, "db4": 1}) == {"db0": 25, "db4": 1}


def test_a_redis_restore_that_is_killed_at_any_step_of_its_switch_is_old_or_new(cache: Server) -> None:
    client, database = database_servers.redis_client(cache), Redis(f"redis://127.0.0.1:{cache.port}", PASSWORD)
    client("SET state new\nSELECT 3\nSET state new\n")
    kept, states = StoredDump.of(database), "GET state\nSELECT 3\nGET state\n"

    def look() -> None:
        assert client(states) in (["old", "OK", "old"], ["new", "OK", "new"])
        database.restore(kept)
        assert client(states) == ["new", "OK", "new"]
        assert database.counts() == kept.counts  # nothing is left in another database

    begin = functools.partial(client, "SET state old\nSELECT 3\nSET state old\n")
    assert killed_at_each_step(database, kept, redis._Connection, "all_of", begin, look) > 6


def test_an_etcd_restore_that_is_killed_at_any_step_of_its_switch_is_mended_by_the_next() -> None:
    with database_servers.etcd() as server:
        ctl = database_servers.etcdctl(server)

        def put(value: str) -> None:
            operations = "".join(f"put {number:03} {value}\n" for number in range(100))
            for start in ("a", "b", "c"):
                database_servers.Client([*ctl, "txn"], {})(f"\n{operations.replace('put ', f'put {start}')}\n\n")

        def states() -> list[str]:
            return database_servers.Client([*ctl, "get", "", "--from-key", "--print-value-only"], {})("")

        put("new")
        database = open_database(f"etcd://127.0.0.1:{server.port}")
        kept = StoredDump.of(database)

        def look() -> None:
            assert len(states()) == 300  # each key is old or new, and none is lost
            database.restore(kept)
            assert set(states()) == {"new"}

        begin = functools.partial(put, "old")
        assert killed_at_each_step(database, kept, etcd._Gateway, "call", begin, look) > 3


@pytest.mark.parametrize("kind", ["redis", "etcd"])
def test_the_server_of_a_killed_drill_ends(kind: str) -> None:
    with database_servers.redis() if kind == "redis" else database_servers.etcd() as server:
        url = f"{kind}://127.0.0.1:{server.port}"
        database = open_database(url, PASSWORD if kind == "redis" else None)
        place = parse_qs(urlsplit(killed_in_a_drill(database, PASSWORD if kind == "redis" else "")).query)

    def answers() -> bool:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
            client.connect(place["unix_socket"][0])
            return True
        return False

    until(lambda: not answers(), lambda: None)


@pytest.mark.parametrize("flush", ["FLUSHDB", "hidden"])
def test_a_restore_without_memory_leaves_none_of_it(flush: str) -> None:
    options = ["--rename-command", "FLUSHDB", flush] if flush != "FLUSHDB" else []
    with database_servers.redis(*options) as server:
        client, database = database_servers.redis_client(server), Redis(f"redis://127.0.0.1:{server.port}", PASSWORD)
        client("".join(f"SET key{n} {'x' * 1000}\n" for n in range(10000)))
        kept = StoredDump.of(database)
        client("CONFIG SET maxmemory-policy noeviction\nCONFIG SET maxmemory 18mb\n")
        with pytest.raises(RestoreFailed, match="is unchanged"):
            database.restore(kept)
        assert database.counts() == kept.counts
        client("CONFIG SET maxmemory 0\nSET later 1\n")
