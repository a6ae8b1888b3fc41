"""Recovery to a point in time: what was acknowledged before it is there, nothing after it is, whatever was killed."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pwd
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import database_servers
import psutil
import pytest
from database_servers import PASSWORD, Server, until
from test_wal import COMMAND, archiver, run

from prefect_snapshots import BackupManager, Repository
from prefect_snapshots.backups import RecoveryTarget, clean_wal, list_base_backups, recover, recovery_windows
from prefect_snapshots.backups.databases import PostgreSQLCluster, postgresql_recovery
from prefect_snapshots.backups.databases.postgresql_facts import CLUSTER, read_facts
from prefect_snapshots.errors import (
    BackupNotFound,
    IntegrityError,
    InvalidArgument,
    InvalidName,
    RestoreFailed,
    WalRefused,
)
from prefect_snapshots.flows import watching
from prefect_snapshots.testing import StoredDump
from prefect_snapshots.wal import WalArchive
from prefect_snapshots.wal.answering import answering

LIKE_A_URL = "postgresql://127.0.0.1:1/a=b"
"""The name of a database, which a program would take for the address of a server."""


@dataclass
class World:
    """A server with its archive, and what its clients know of it."""

    server: Server
    repository: Repository
    folder: Path
    url: str
    written: list[tuple[int, float, float]] = field(default_factory=list)
    """Each row that was acknowledged: its number, when it was sent, and when the answer was there."""
    sent: set[int] = field(default_factory=set)
    lsn: str = ""

    @property
    def manager(self) -> BackupManager:
        return BackupManager(self.repository, databases=[self.url])

    def place(self) -> Path:
        """A directory that is free."""
        return self.folder / f"recovered-{random.getrandbits(32):x}"


@contextlib.contextmanager
def archiving(server: Server, repository: Path, *, failing: bool = False) -> Iterator[None]:
    """The server archives. With `failing`, some of the commands fail before or after they have archived."""
    fates = itertools.cycle([0, 0, "before", 0, 0, "after"] if failing else [0])
    place = server.folder / f"archiving-{random.getrandbits(32):x}"
    place.mkdir()
    status = server.folder.stat()
    os.chown(place, status.st_uid, status.st_gid)
    client = database_servers.psql(server)
    (data,) = client("SHOW data_directory;")
    (system,) = client("SELECT system_identifier FROM pg_control_system();")
    archive = WalArchive(Repository(repository), system)

    def push(arguments: list[str]) -> int:
        fate = next(fates)
        if fate == "before":
            return 1
        archive.push(Path(data) / arguments[0])
        return 2 if fate == "after" else 0

    with (
        answering(place, push, (status.st_uid, status.st_gid)) as command,
        database_servers.archiving_by(server, command),
    ):
        yield


def archived(server: Server) -> None:
    """Wait until everything that was written is archived."""
    client = database_servers.psql(server)
    (last,) = client("SELECT pg_walfile_name(pg_switch_wal());")
    until(
        lambda: client(f"SELECT last_archived_wal >= '{last}' FROM pg_stat_archiver;") == ["t"],
        lambda: time.sleep(0.05),
    )


def write(world: World, first: int, ending: threading.Event) -> None:
    client = database_servers.psql(world.server)
    for number in range(first, first + 100_000):
        if ending.is_set():
            return
        begun = time.time()
        world.sent.add(number)
        with contextlib.suppress(RuntimeError):  # the server was killed
            client(f"INSERT INTO numbers VALUES ({number});")
            world.written.append((number, begun, time.time()))


@pytest.fixture(autouse=True)
def _user_of_postgresql(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where these tests run as root, a drill needs a user, and there may be none of PostgreSQL."""
    find = pwd.getpwnam
    monkeypatch.setattr(pwd, "getpwnam", lambda name: find("nobody" if name == "postgres" else name))


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with database_servers.postgresql("archive_mode=on", "wal_level=replica", segment=1) as server:
        place = server.folder / "repository"
        url = f"postgresql+physical://postgres:{quote(PASSWORD, safe='')}@127.0.0.1:{server.port}"
        world = World(server, Repository(place), server.folder, url)
        client = database_servers.psql(server)
        client("CREATE TABLE numbers (i int);")
        client(f'CREATE DATABASE "{LIKE_A_URL}";')
        client(f"ALTER SYSTEM SET recovery_end_command = 'touch {server.folder}/was-run';")
        (spaces := server.folder / "spaces").mkdir()
        shutil.chown(spaces, server.folder.stat().st_uid, server.folder.stat().st_gid)
        with archiving(server, place, failing=True):
            world.manager.create_backup("first")
            ending = threading.Event()
            writers = [threading.Thread(target=write, args=[world, first, ending]) for first in (0, 1_000_000)]
            for writer in writers:
                writer.start()
            until(lambda: len(world.written) > 20, lambda: time.sleep(0.05))
            client("SELECT pg_switch_wal();")
            # Killing one of its processes makes a server stop all others, and recover.
            children = psutil.Process(server.process.pid).children()
            next(each for each in children if "walwriter" in " ".join(each.cmdline())).kill()
            count = len(world.written)
            until(lambda: len(world.written) > count + 20, lambda: time.sleep(0.05))
            (world.lsn,) = client("SELECT pg_create_restore_point('noon');")
            client(f"CREATE TABLESPACE disk LOCATION '{spaces}';")
            client("CREATE TABLE there (i int) TABLESPACE disk; INSERT INTO there VALUES (7);")
            world.manager.create_backup("second")
            count = len(world.written)
            until(lambda: len(world.written) > count + 20, lambda: time.sleep(0.05))
            ending.set()
            for writer in writers:
                writer.join()
            client("INSERT INTO numbers VALUES (-1);")
            archived(server)
        yield world


def numbers(data: Path) -> set[int]:
    """The rows of a recovered server."""
    with database_servers.postgresql_at(data) as server:
        return {int(row) for row in database_servers.psql(server)("SELECT i FROM numbers;")}


def test_what_was_acknowledged_before_a_time_is_there_and_nothing_later_is(world: World) -> None:
    first, *_ = list_base_backups(world.repository)
    last = max(done for _, _, done in world.written)
    moment = random.uniform(first.finished.timestamp() + 0.01, last - 0.01)
    place = world.place()
    report = recover(world.repository, place, RecoveryTarget(datetime.fromtimestamp(moment, UTC)))
    there = numbers(place)
    assert {number for number, _, done in world.written if done < moment} <= there
    assert not {number for number, begun, _ in world.written if begun > moment} & there
    assert there <= world.sent
    assert report.timeline == 2
    assert report.databases == ("postgres", LIKE_A_URL, "template1")


def test_the_end_of_the_archive_has_everything_and_the_place_of_a_tablespace_is_a_new_one(world: World) -> None:
    place = world.place()
    report = recover(world.repository, place)
    assert report.backup == world.manager.get_backup("latest").name
    (link,) = (place / "pg_tblspc").iterdir()
    assert link.readlink() == Path(f"{place}.tablespaces") / link.name
    with database_servers.postgresql_at(place) as server:
        client = database_servers.psql(server)
        assert {number for number, _, _ in world.written} <= {int(row) for row in client("SELECT i FROM numbers;")}
        assert client("SELECT i FROM there; SELECT count(*) FROM numbers WHERE i < 0;") == ["7", "1"]
        assert client("SHOW recovery_end_command;") == [f"touch {world.folder}/was-run"]
    # What the configuration in a backup says is not run.
    assert not (world.folder / "was-run").exists()
    assert stat_of(place) == stat_of(world.server.folder / "data")
    assert not list(world.folder.glob(".*restoring*"))


def stat_of(path: Path) -> tuple[int, int]:
    return path.stat().st_uid, path.stat().st_mode & 0o777


@pytest.mark.nightly
def test_a_restore_point_and_an_lsn_are_targets_too(world: World) -> None:
    first, _ = list_base_backups(world.repository)
    found = []
    for target in (RecoveryTarget(name="noon"), RecoveryTarget(lsn=world.lsn)):
        place = world.place()
        recover(world.repository, place, target, backup=first.backup)
        found.append(numbers(place))
    assert found[0] <= found[1]
    assert len(found[1] - found[0]) <= 1  # the LSN is that of the next record, which may be a commit


def test_a_target_outside_of_the_window_is_an_error_that_says_so(world: World) -> None:
    first, second = list_base_backups(world.repository)
    place = world.place()
    with pytest.raises(BackupNotFound, match="the oldest one ended at"):
        recover(world.repository, place, RecoveryTarget(first.finished - timedelta(seconds=1)))
    with pytest.raises(RestoreFailed, match=r"archive ends before .* The last transaction in it is of 20"):
        recover(world.repository, place, RecoveryTarget(datetime.now(UTC) + timedelta(hours=1)))
    with pytest.raises(RestoreFailed, match="archive ends before the restore point 'never'"):
        recover(world.repository, place, RecoveryTarget(name="never"))
    with pytest.raises(RestoreFailed, match="is later than"):
        recover(world.repository, place, RecoveryTarget(lsn=first.facts.stop), backup=second.backup)
    with pytest.raises(InvalidArgument, match="only one of"):
        RecoveryTarget(lsn="0/0", name="noon")
    full = world.folder / "full"
    full.mkdir(exist_ok=True)
    (full / "file").touch()
    with pytest.raises(RestoreFailed, match="is not empty"):
        recover(world.repository, full)
    assert not place.exists()
    assert not list(world.folder.glob(".*restoring*"))


def test_a_killed_recovery_leaves_no_server_and_the_next_one_its_folder_clean(world: World) -> None:
    place = world.place()
    code = (
        "import os, signal, sys\n"
        "from prefect_snapshots import Repository\n"
        "from prefect_snapshots.backups import recover\n"
        "def progress(what, done, total):\n"
        "    if done > 2:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "recover(Repository(sys.argv[1]), sys.argv[2], progress=progress)\n"
    )
    url = world.repository.location.url
    done = subprocess.run([sys.executable, "-c", code, url, str(place)], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not place.exists()

    def running() -> list[psutil.Process]:
        return [each for each in psutil.process_iter(["cmdline"]) if place.name in " ".join(each.info["cmdline"] or ())]

    until(lambda: not running(), lambda: time.sleep(0.05))
    done2 = run("--json", "wal", "recover", str(place), repository=url)
    assert done2.returncode == 0, done2.stderr
    assert json.loads(done2.stdout)["directory"] == str(place)
    assert not list(world.folder.glob(".*restoring*"))


def test_a_gap_is_no_end(world: World, tmp_path: Path) -> None:
    other = Repository(tmp_path / "other")
    world.repository.copy_to(other, kinds=["backups"])
    (system,) = {base.facts.system for base in list_base_backups(world.repository)}
    archive, lacking = WalArchive(world.repository, system), WalArchive(other, system)
    first, second = list_base_backups(other)
    files = [file.name for file in archive.list_files() if len(file.name) == 24]
    gap = next(name for name in files if int(name[8:16], 16) * 4096 + int(name[16:], 16) > (first.facts.last >> 20))
    for name in files:
        if name != gap:
            archive.fetch(name, tmp_path / name)
            lacking.push(tmp_path / name)
    with pytest.raises(RestoreFailed, match=f"archive lacks {gap}"):
        recover(other, world.place(), backup=first.backup)
    with pytest.raises(RestoreFailed, match=f"archive ends before .* lacks {gap}"):
        recover(other, world.place(), RecoveryTarget(second.finished), backup=first.backup)
    (window,) = recovery_windows(other)
    assert window.missing == ((gap, gap),)
    assert run("wal", "status", repository=other.location.url).returncode == 3
    assert recover(other, "", backup=second.backup, drill=True).directory == ""


def test_wal_that_no_base_backup_needs_goes_with_the_backup(world: World, tmp_path: Path) -> None:
    other = Repository(tmp_path / "other")
    world.repository.copy_to(other)
    first, second = list_base_backups(other)
    system = first.facts.system
    BackupManager(other).delete_backup(first.backup)
    before = [file.name for file in WalArchive(other, system).list_files()]
    gone = clean_wal(other, dry_run=True)[system]
    assert clean_wal(other)[system] == gone
    assert gone
    assert all(int(name[16:24], 16) << 20 < second.facts.first for name in gone)
    assert [file.name for file in WalArchive(other, system).list_files()] == sorted({*before} - {*gone})
    other.prune(grace=0)
    assert other.check(read_data=True).ok
    assert recover(other, "", drill=True).system == system
    (window,) = recovery_windows(other)
    assert (window.ok, window.since) == (True, second.finished)


def test_timelines_are_followed_and_a_number_is_taken_by_who_archives_first(world: World, tmp_path: Path) -> None:
    other = Repository(tmp_path / "other")
    world.repository.copy_to(other)
    places = [world.place(), world.place()]
    first = list_base_backups(other)[0]
    moment = first.finished + timedelta(milliseconds=300)
    for place in places:
        assert recover(other, place, RecoveryTarget(moment)).timeline == 2
    (places[0] / "postgresql.auto.conf").write_text("")  # with the archive_command of the original
    server = database_servers.postgresql_at(places[0], "archive_mode=on")
    with server as recovered, archiving(recovered, tmp_path / "other"):
        database_servers.psql(recovered)("INSERT INTO numbers VALUES (-2);")
        archived(recovered)
    (system,) = {base.facts.system for base in list_base_backups(other)}
    assert [(each.timeline, each.missing) for each in WalArchive(other, system).list_timelines()] == [(1, ()), (2, ())]
    followed, original = world.place(), world.place()
    assert recover(other, followed).timeline == 3
    assert recover(other, original, RecoveryTarget(timeline=1)).timeline == 3
    assert (-2 in numbers(followed), -1 in numbers(followed)) == (True, False)
    assert (-2 in numbers(original), -1 in numbers(original)) == (False, True)
    history = places[1] / "pg_wal" / "00000002.history"
    history.write_text(history.read_text().replace("before", "at"))
    with pytest.raises(WalRefused, match="other bytes"):
        WalArchive(other, system).push(history)


def test_a_server_is_late_if_nothing_was_archived_since(world: World) -> None:
    (window,) = recovery_windows(world.repository)
    assert window.ok
    assert window.until is not None
    assert watching._late(world.repository, window.until) == ()
    assert watching._late(world.repository, window.until + timedelta(seconds=1)) == (window,)
    for minutes, status in ((60.0, 0), (1e-6, 3)):
        done = run("wal", "status", "--late-after", str(minutes), repository=world.repository.location.url)
        assert done.returncode == status, done.stderr


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_server_archiver_and_recovery_are_killed_at_random_moments(tmp_path: Path) -> None:
    with database_servers.postgresql("archive_mode=on", "wal_level=replica", segment=1) as server:
        url = f"postgresql+physical://postgres:{quote(PASSWORD, safe='')}@127.0.0.1:{server.port}"
        world = World(server, Repository(tmp_path / "repository"), server.folder, url)
        client = database_servers.psql(server)
        waiting = server.folder / "waiting"
        client("CREATE TABLE numbers (i int);")
        client(f"ALTER SYSTEM SET archive_command = '{waiting}/push %p';")
        client("SELECT pg_reload_conf();")
        ending = threading.Event()
        writers = [threading.Thread(target=write, args=[world, first, ending]) for first in (0, 1_000_000)]
        with archiver(server, tmp_path / "repository", waiting):
            world.manager.create_backup("first")
            for writer in writers:
                writer.start()
        for round_ in range(8):
            with archiver(server, tmp_path / "repository", waiting):
                count = len(world.written)
                until(lambda count=count: len(world.written) > count + 5, lambda: time.sleep(0.05))  # type: ignore[misc]
                with contextlib.suppress(RuntimeError):
                    client("SELECT pg_switch_wal();")
                if round_ % 3 == 1:
                    children = psutil.Process(server.process.pid).children()
                    next(each for each in children if "walwriter" in " ".join(each.cmdline())).kill()
                time.sleep(random.uniform(0, 0.5))  # it is killed while it archives, or not
        with archiver(server, tmp_path / "repository", waiting):
            ending.set()
            for writer in writers:
                writer.join()
            until(lambda: _answers(client), lambda: time.sleep(0.1))
            archived(server)
        place = world.place()
        command = [*COMMAND, "-r", str(tmp_path / "repository"), "wal", "recover", str(place)]
        for _ in range(4):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(random.uniform(0.5, 4))
            if process.poll() is None:
                process.kill()
                process.wait()
        if not place.exists():
            recover(world.repository, place)
        assert {number for number, _, _ in world.written} <= numbers(place) <= world.sent
        (first,) = list_base_backups(world.repository)
        for _ in range(3):
            last = max(done for _, _, done in world.written)
            moment = random.uniform(first.finished.timestamp() + 0.01, last - 0.01)
            place = world.place()
            recover(world.repository, place, RecoveryTarget(datetime.fromtimestamp(moment, UTC)))
            there = numbers(place)
            assert {number for number, _, done in world.written if done < moment} <= there
            assert not {number for number, begun, _ in world.written if begun > moment} & there


def _answers(client: Callable[[str], list[str]]) -> bool:
    try:
        return client("SELECT 1;") == ["1"]
    except RuntimeError:  # it recovers from a crash
        return False


def test_a_drill_proves_a_base_backup_alone(world: World, tmp_path: Path) -> None:
    other = Repository(tmp_path / "other")
    world.repository.copy_to(other, kinds=["backups"])
    report = BackupManager(other, databases=[world.url]).drill()
    assert report.problems == []
    assert BackupManager(other).get_backup("latest").proven_at is not None
    with pytest.raises(RestoreFailed, match="wal recover DIRECTORY"):
        BackupManager(other, databases=[world.url]).restore_backup("latest", confirm=True)


def test_a_base_backup_that_has_hardly_changed_takes_little_space(world: World) -> None:
    second = world.manager.list_backups()[0]
    assert second.size > 20_000_000
    assert second.written < second.size / 50


GOOD = {
    "version": 150018,
    "system": "7",
    "timeline": 1,
    "segment_size": 1 << 20,
    "superuser": "postgres",
    "prepared": 0,
    "start": "0/28",
    "stop": "0/30",
    "finished": "2026-11-20T12:00:00Z",
    "label": "x",
}


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"folders": ["../outside"]}, InvalidName),
        ({"folders": ["/etc"]}, InvalidName),
        ({"version": "15; touch x"}, IntegrityError),
        ({"system": "../7"}, IntegrityError),
        ({"start": "0/28'"}, IntegrityError),
        ({"superuser": ""}, IntegrityError),
        ({"prepared": 1 << 40}, IntegrityError),
        ({"segment_size": 0}, IntegrityError),
        ({"stop": None}, IntegrityError),
    ],
)
def test_facts_of_a_stranger_are_checked(changes: dict[str, object], error: type[Exception]) -> None:
    assert read_facts(StoredDump({CLUSTER: json.dumps(GOOD).encode()})).major == 15
    with pytest.raises(error):
        read_facts(StoredDump({CLUSTER: json.dumps(GOOD | changes).encode()}))
    with pytest.raises(IntegrityError):
        read_facts(StoredDump({}))


def test_facts_that_would_fill_the_memory_are_not_read() -> None:
    with pytest.raises(IntegrityError, match="too large"):
        read_facts(StoredDump({CLUSTER: json.dumps(GOOD).encode() + b" " * (64 << 20)}))


class ForeignFiles(StoredDump):
    """A base backup into which a stranger has put a link."""

    def extract(self, folder: Path) -> None:
        (folder / "pg_wal").symlink_to(folder.parent / "elsewhere")


def test_a_link_in_a_base_backup_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "postmaster.pid").touch()
    facts = read_facts(StoredDump({CLUSTER: json.dumps(GOOD | {"folders": ["pg_wal/made"]}).encode()}))
    with pytest.raises(IntegrityError, match="'pg_wal' is neither a file nor a folder"):
        postgresql_recovery.build(ForeignFiles({}), facts, tmp_path / "data")
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["postmaster.pid"]


def test_root_follows_no_link_of_the_user_of_postgresql(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("needs root")
    user = (12345, 12345)
    secret, outside = tmp_path / "secret", tmp_path / "outside"
    outside.mkdir()
    secret.write_text("secret")
    data = tmp_path / "data"
    (data / "inside" / "deep").mkdir(parents=True)
    (data / "inside" / "link").symlink_to(secret)
    (data / "pg_wal").symlink_to(outside)
    (data / "postgresql.auto.conf").symlink_to(secret)
    postgresql_recovery._give(data, user)
    assert (data / "inside" / "deep").stat().st_uid == data.stat().st_uid == user[0]
    postgresql_recovery._put(data, "postgresql.auto.conf", b"mine", user)
    assert (data / "postgresql.auto.conf").read_bytes() == b"mine"
    with pytest.raises(OSError, match=r"pg_wal|Not a directory|symbolic"):
        postgresql_recovery._put(data, "pg_wal/ready", b"", user)
    (tmp_path / "data.tablespaces").mkdir()
    (data / "pg_tblspc").symlink_to(outside)
    with pytest.raises(OSError, match=r"pg_tblspc|Not a directory|symbolic|belongs to"):
        postgresql_recovery.move(data, tmp_path / "recovered")
    answer = postgresql_recovery._answering(data, lambda name, path: path.write_bytes(b"") == 0, user)
    with pytest.raises(OSError, match=r"pg_wal|Not a directory|symbolic"):
        answer(["00000002.history", "pg_wal/RECOVERYHISTORY"])
    assert secret.read_text() == "secret"
    assert secret.stat().st_uid == outside.stat().st_uid == 0
    assert not [*outside.iterdir()]


def test_a_url_names_a_server_and_no_database() -> None:
    with pytest.raises(InvalidArgument, match="ends with the host"):
        PostgreSQLCluster("postgresql+physical://host/shop")
    assert PostgreSQLCluster("postgresql+physical://u:p@host").name == "postgresql+physical://host:5432/"
    assert COMMAND
