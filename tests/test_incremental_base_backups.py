"""Base backups of a newer PostgreSQL than Debian's, which sends only the blocks that have changed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

import database_servers
import pytest
from database_servers import PASSWORD, until
from test_point_in_time import World, _user_of_postgresql, archived, archiving, write

from prefect_snapshots import BackupManager, Repository
from prefect_snapshots.backups import RecoveryTarget, list_base_backups, recover
from prefect_snapshots.backups.databases import PostgreSQLCluster, postgresql_files
from prefect_snapshots.backups.databases.postgresql_files import MANIFEST, ClusterFiles
from prefect_snapshots.backups.sources import ChangedFile, DumpNote
from prefect_snapshots.errors import BackupFailed, InvalidArgument

__all__ = ["_user_of_postgresql"]

BLOCK = 8192


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A server that summarizes its WAL, with a table of 10 MB that nobody changes."""
    programs = database_servers.newer_postgresql()
    settings = ("archive_mode=on", "wal_level=replica", "autovacuum=off", "wal_keep_size=1GB")
    with (
        pytest.MonkeyPatch.context() as patch,
        database_servers.postgresql(*settings, segment=1, programs=programs) as server,
    ):
        patch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
        url = f"postgresql+physical://postgres:{quote(PASSWORD, safe='')}@127.0.0.1:{server.port}"
        world = World(server, Repository(server.folder / "repository"), server.folder, url)
        client = database_servers.psql(server)
        client("ALTER SYSTEM SET summarize_wal = on;")
        client("SELECT pg_reload_conf();")
        client("CREATE TABLE numbers (i int);")
        client("CREATE TABLE still AS SELECT i, md5(i::text) FROM generate_series(1, 150000) i; VACUUM FREEZE still;")
        yield world


def rows(data: Path) -> tuple[set[int], list[str]]:
    """The rows of a recovered server, and a checksum of those that nobody changed."""
    with database_servers.postgresql_at(data, programs=database_servers.newer_postgresql()) as server:
        client = database_servers.psql(server)
        return {int(row) for row in client("SELECT i FROM numbers;")}, client(STILL)


STILL = "SELECT count(*), md5(string_agg(md5, '' ORDER BY i)) FROM still;"


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes of relations the server sends."""
    found: list[int] = []
    read = postgresql_files._Checked.read

    def counted(self: postgresql_files._Checked, size: int) -> bytes:
        piece = read(self, size)
        found.append(len(piece))
        return piece

    monkeypatch.setattr(postgresql_files._Checked, "read", counted)
    return found


def test_any_time_after_an_incremental_base_backup_is_reached(world: World, sent: list[int]) -> None:
    with archiving(world.server, world.folder / "repository", failing=True):
        first = world.manager.create_backup("first")
        whole = sum(sent)
        ending = threading.Event()
        writers = [threading.Thread(target=write, args=[world, first, ending]) for first in (0, 1_000_000)]
        for writer in writers:
            writer.start()
        until(lambda: len(world.written) > 10, lambda: time.sleep(0.05))
        sent.clear()
        second = world.manager.create_backup("second")
        assert whole > 20_000_000
        assert second.size > 20_000_000
        third = world.manager.create_backup("third")
        assert sum(sent) < whole / 3
        count = len(world.written)
        until(lambda: len(world.written) > count + 20, lambda: time.sleep(0.05))
        ending.set()
        for writer in writers:
            writer.join()
        database_servers.psql(world.server)("INSERT INTO numbers VALUES (-1);")
        archived(world.server)
    assert [part.notes for backup in (second, third) for part in backup.parts] == [[], []]
    for name in (first.name, second.name):
        world.manager.delete_backup(name)
    world.repository.prune(grace=0)
    assert world.repository.check(read_data=True).ok
    (base,) = list_base_backups(world.repository)
    last = max(done for _, _, done in world.written)
    moment = random.uniform(base.finished.timestamp() + 0.01, last - 0.01)
    place = world.place()
    recover(world.repository, place, RecoveryTarget(datetime.fromtimestamp(moment, UTC)))
    there, still = rows(place)
    assert {number for number, _, done in world.written if done < moment} <= there
    assert not {number for number, begun, _ in world.written if begun > moment} & there
    assert still == database_servers.psql(world.server)(STILL)


def relations(manager: BackupManager, name: str) -> dict[str, str]:
    found = {}
    with manager._history.opened(name) as (_, content):
        (part,) = content.parts
        for path in part.paths:
            if path.startswith(("base/", "global/", "pg_tblspc/")) and not path.endswith("pg_control"):
                found[path] = hashlib.sha256(b"".join(part.open(path))).hexdigest()
    return found


@pytest.mark.nightly
def test_an_incremental_base_backup_has_the_bytes_of_a_full_one(world: World) -> None:
    client = database_servers.psql(world.server)
    (spaces := world.server.folder / "spaces").mkdir()
    shutil.chown(spaces, world.server.folder.stat().st_uid, world.server.folder.stat().st_gid)
    for number, change in enumerate(
        [
            "CREATE TABLE grows AS SELECT i FROM generate_series(1, 50000) i; CREATE TABLE shrinks AS TABLE grows;",
            "INSERT INTO grows SELECT i FROM generate_series(1, 100000) i; DELETE FROM shrinks WHERE i > 10;"
            "VACUUM shrinks; UPDATE still SET md5 = md5 WHERE i = 7; CREATE TABLE comes AS TABLE grows;",
            "DROP TABLE comes; TRUNCATE grows; CREATE INDEX ON still (md5); CREATE DATABASE other;",
            f"CREATE TABLESPACE disk LOCATION '{spaces}';",
            "CREATE TABLE there TABLESPACE disk AS SELECT i FROM generate_series(1, 9000) i;",
            "UPDATE there SET i = 0 WHERE i = 1; DROP DATABASE other;",
        ]
    ):
        for statement in change.split(";"):
            client(f"{statement};")
        client("CHECKPOINT;")
        changed = world.manager.create_backup(f"changed {number}")
        # Looking at a table sets bits in it, of which the WAL knows nothing.
        whole = BackupManager(world.repository, databases=[f"{world.url}?incremental=false"]).create_backup("whole")
        assert changed.parts[0].notes == []
        assert relations(world.manager, changed.name) == relations(world.manager, whole.name)


@pytest.mark.nightly
def test_a_server_that_does_not_know_what_has_changed_sends_everything(world: World, sent: list[int]) -> None:
    world.manager.create_backup("before")
    client = database_servers.psql(world.server)
    try:
        client("ALTER SYSTEM SET summarize_wal = off;")
        client("SELECT pg_reload_conf();")
        until(lambda: client("SHOW summarize_wal;") == ["off"], lambda: time.sleep(0.05))
        client("INSERT INTO numbers VALUES (-2); SELECT pg_switch_wal();")
        sent.clear()
        assert world.manager.create_backup("off").parts[0].notes == []
        assert sum(sent) > 20_000_000
    finally:
        client("ALTER SYSTEM SET summarize_wal = on;")
        client("SELECT pg_reload_conf();")
    until(lambda: client("SHOW summarize_wal;") == ["on"], lambda: time.sleep(0.05))
    summaries = world.server.folder / "data" / "pg_wal" / "summaries"
    client("CHECKPOINT; SELECT pg_switch_wal();")
    until(lambda: any(summaries.iterdir()), lambda: time.sleep(0.05))
    for summary in summaries.iterdir():
        summary.unlink()
    (note,) = world.manager.create_backup("lost").parts[0].notes
    assert note.startswith("All files were read, because an incremental base backup was not possible: pg_basebackup")
    assert "summaries" in note
    assert PASSWORD not in note
    assert world.manager.create_backup("again").parts[0].notes == []


class Moved(PostgreSQLCluster):
    """A server that is at the address of another one now."""

    names: ClassVar[list[str]] = []

    @property
    def name(self) -> str:
        return self.names[0]


@pytest.mark.nightly
def test_a_base_backup_of_another_server_is_no_base(world: World) -> None:
    settings = ("wal_level=replica", "summarize_wal=on")
    programs = database_servers.newer_postgresql()
    world.manager.create_backup("one")
    Moved.names[:] = [PostgreSQLCluster(world.url).name]
    with database_servers.postgresql(*settings, segment=1, programs=programs) as other:
        moved = Moved(world.url.rpartition(":")[0] + f":{other.port}")
        (note,) = BackupManager(world.repository, databases=[moved]).create_backup("two").parts[0].notes
    assert "is of another server" in note


@pytest.mark.nightly
def test_a_killed_incremental_base_backup_leaves_nothing(world: World) -> None:
    world.manager.create_backup("before")
    database_servers.psql(world.server)("CREATE TABLE more AS SELECT i FROM generate_series(1, 500000) i;")
    count = len(world.manager.list_backups())
    code = (
        "import os, signal, sys\n"
        "from prefect_snapshots import BackupManager, Repository\n"
        "done = 0\n"
        "def progress(what, done, total):\n"
        "    if done > 9_000_000:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "BackupManager(Repository(sys.argv[1]), databases=[sys.argv[2]]).create_backup('killed', progress=progress)\n"
    )
    command = [sys.executable, "-c", code, world.repository.location.url, world.url]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -signal.SIGKILL
    assert len(world.manager.list_backups()) == count
    after = world.manager.create_backup("after")
    assert after.parts[0].notes == []
    assert world.repository.check(read_data=True).ok


# --- what comes from a server is checked ------------------------------------------------------------------------------


def tar_of(files: dict[str, bytes]) -> io.BytesIO:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w|") as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    stream.seek(0)
    return stream


def with_manifest(files: dict[str, bytes]) -> dict[str, bytes]:
    listed = [
        {"Path": path, "Size": len(content), "Checksum-Algorithm": "SHA256", "Checksum": _digest(content)}
        for path, content in files.items()
    ]
    ranges = [{"Timeline": 1, "Start-LSN": "0/2000028", "End-LSN": "0/2000100"}]
    said = json.dumps({"PostgreSQL-Backup-Manifest-Version": 2, "Files": listed, "WAL-Ranges": ranges})[:-1] + ",\n"
    return {**files, MANIFEST: f'{said}"Manifest-Checksum": "{_digest(said.encode())}"}}\n'.encode()}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


LABEL = b"START WAL LOCATION: 0/2000028 (file 1)\nINCREMENTAL FROM LSN: 0/1000028\nSTART TIMELINE: 1\n"


def received(
    files: dict[str, bytes],
) -> tuple[ClusterFiles, dict[str, bytes | tuple[int, int, list[tuple[int, bytes]]]]]:
    notes: list[DumpNote] = []
    reader = ClusterFiles(notes, BLOCK)
    found: dict[str, bytes | tuple[int, int, list[tuple[int, bytes]]]] = {}
    for file in reader.read("", tar_of(files)):
        if isinstance(file, ChangedFile):
            found[file.path] = (file.size, file.kept, list(file.changes))
        else:
            found[file.path] = b"".join(file.pieces)
    return reader, found


def header(count: int, kept: int, *numbers: int, magic: int = 0xD3AE1F0D) -> bytes:
    data = struct.pack(f"=III{len(numbers)}I", magic, count, kept, *numbers)
    return data + bytes(-len(data) % BLOCK) if numbers else data


def test_files_that_the_manifest_names_are_whole() -> None:
    files = {
        "backup_label": LABEL,
        "base/1/INCREMENTAL.2": header(2, 1, 0, 3) + b"a" * BLOCK + b"b" * BLOCK,
        "global/INCREMENTAL.1260": header(0, 5),
        "base/1/3": b"content",
        "INCREMENTAL.x": b"of somebody",
    }
    reader, found = received({**with_manifest(files), "pg_wal/000000010000000000000002": b"wal"})
    reader.check()
    assert found["base/1/2"] == (4 * BLOCK, BLOCK, [(0, b"a" * BLOCK), (3 * BLOCK, b"b" * BLOCK)])
    assert found["global/1260"] == (5 * BLOCK, 5 * BLOCK, [])
    assert found["INCREMENTAL.x"] == b"of somebody"
    assert b"INCREMENTAL" not in bytes(found["backup_label"])  # type: ignore[arg-type]
    assert reader.started() == {"start": "0/2000028", "timeline": 1}


@pytest.mark.parametrize("change", ["other bytes", "missing", "more", "no manifest", "another manifest"])
def test_what_the_manifest_does_not_say_is_refused(change: str) -> None:
    files = with_manifest({"backup_label": LABEL, "base/1/2": b"content"})
    if change == "other bytes":
        files["base/1/2"] = b"Content"
    elif change == "missing":
        del files["base/1/2"]
    elif change == "more":
        files["base/1/4"] = b""
    elif change == "no manifest":
        del files[MANIFEST]
    else:
        files[MANIFEST] = files[MANIFEST].replace(b"base/1/2", b"base/1/3")
    reader, _ = received(files)
    with pytest.raises(BackupFailed, match=r"manifest of the server.*Nothing was saved"):
        reader.check()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        header(0, 5, magic=7),
        header(0, 1 << 31),
        header(1 << 31, 0),
        header(1, 0, 0),
        header(2, 0, 1, 1) + bytes(2 * BLOCK),
        header(2, 0, 1, 0) + bytes(2 * BLOCK),
        header(1, 0, 1 << 20) + bytes(BLOCK),
        header(0, 0) + b"more",
    ],
)
def test_changes_that_are_not_understood_are_refused(content: bytes) -> None:
    with pytest.raises(BackupFailed, match=r"What has changed in 'base/1/2' is not understood\. Nothing was saved"):
        received({"base/1/INCREMENTAL.2": content})


def test_the_option_is_true_or_false() -> None:
    with pytest.raises(InvalidArgument, match="must be true or false"):
        PostgreSQLCluster("postgresql+physical://host?incremental=no")
