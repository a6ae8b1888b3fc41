"""SQLite databases that are followed: every state has its time, whoever is killed, and no time is answered wrongly."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from database_servers import until
from test_wal import run, started

from prefect_snapshots import Repository
from prefect_snapshots.backups import SQLiteRestoreReport, recovery_windows, restore_sqlite
from prefect_snapshots.errors import (
    DamagedVersion,
    IntegrityError,
    InvalidArgument,
    RepositoryNotFound,
    RestoreFailed,
    WalNotFound,
    WalRefused,
)
from prefect_snapshots.wal import SQLiteArchive, SQLiteFollower, sqlite_following
from prefect_snapshots.wal.sqlite_archive import Mark, Position

WRITER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
number = int(sys.argv[2])
while True:
    begun = time.time()
    connection.execute("INSERT INTO numbers VALUES (?, randomblob(700))", [number])
    print(number, begun, time.time(), flush=True)
    number += 1
"""


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "app.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE numbers (number INTEGER PRIMARY KEY, filling BLOB)")
    return path


@contextlib.contextmanager
def following(database: Path, repository: Path, base_every: timedelta = timedelta(days=1)) -> Iterator[SQLiteFollower]:
    """A follower in a thread. What it raises is raised at the end."""
    follower = SQLiteFollower(Repository(repository), database, base_every=base_every)
    ending = threading.Event()
    errors: list[Exception] = []

    def follow() -> None:
        try:
            follower.run(ending)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield follower
    finally:
        ending.set()
        thread.join()
    if errors:
        raise errors[0]


@contextlib.contextmanager
def followed_by_process(database: Path, repository: Path) -> Iterator[subprocess.Popen[bytes]]:
    with started("follow", str(database), repository=str(repository)) as process:
        yield process


def known(archive: SQLiteArchive, moment: float, database: Path | None = None) -> None:
    """Wait until the archive knows the state at a time.

    If nothing changes any more, a follower says so only after minutes. So something else is changed in the database.
    """
    asked = time.monotonic()

    def reached() -> bool:
        last = archive.window().until
        return last is not None and last.timestamp() >= moment

    def wait() -> None:
        nonlocal asked
        time.sleep(0.05)
        if database is not None and time.monotonic() - asked > 2:
            asked = time.monotonic()
            with contextlib.closing(sqlite3.connect(database, isolation_level=None, timeout=60)) as connection:
                connection.execute(f"PRAGMA user_version = {int(asked)}")

    until(reached, wait)


def numbers(path: str | Path) -> set[int]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return {number for (number,) in connection.execute("SELECT number FROM numbers")}


def write(database: Path, *values: int) -> None:
    with contextlib.closing(sqlite3.connect(database, isolation_level=None, timeout=60)) as connection:
        for value in values:
            connection.execute("INSERT INTO numbers VALUES (?, randomblob(700))", [value])


@pytest.mark.nightly  # half a minute, with random kills
def test_every_acknowledged_transaction_before_a_time_is_there_and_none_after_it(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_following, "_LOG", 200_000)
    monkeypatch.setattr(sqlite_following, "_PAUSE", 0.2)
    written: list[tuple[int, float, float]] = []
    killed = 0
    with following(database, tmp_path / "r", base_every=timedelta(seconds=1.5)) as follower:
        known(follower.archive, 0)
        watched = SQLiteArchive(Repository(tmp_path / "r"), "app.db")
        begun_at = time.time()

        def enough() -> bool:
            ran = time.time() - begun_at
            logs = {event.body["last"][0] for event in watched._tracked.refresh().logs}
            return ran > 60 or (ran > 4 and len(watched.window().base_copies) > 1 and len(logs) > 1)

        while not enough():
            command = [sys.executable, "-c", WRITER, str(database), str(1_000_000 * killed)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
                assert writer.stdout is not None
                first = writer.stdout.readline()
                threading.Timer(random.uniform(0.1, 0.8), writer.kill).start()
                for line in itertools.chain([first], writer.stdout):
                    if line.endswith("\n"):
                        number, begun, done = line.split()
                        written.append((int(number), float(begun), float(done)))
            killed += 1
    archive = SQLiteArchive(Repository(tmp_path / "r"), "app.db")
    ((since, last),) = archive.window().ranges
    assert len(archive.window().base_copies) > 1
    assert len({event.body["last"][0] for event in archive._tracked.refresh().logs}) > 1, "the log never began anew"
    for at in range(8):
        moment = datetime.fromtimestamp(random.uniform(since.timestamp(), last.timestamp()), UTC)
        report = restore_sqlite(archive.repository, "app.db", tmp_path / f"restored-{at}", moment)
        there = numbers(report.path)
        assert {number for number, _, done in written if done < report.complete_until.timestamp()} <= there
        assert not {number for number, begun, _ in written if begun > moment.timestamp()} & there
        assert report.complete_until <= moment
    assert run("wal", "restore", "app.db", "--drill", repository=str(tmp_path / "r")).returncode == 0
    assert {number for number, _, _ in written} <= numbers(
        restore_sqlite(archive.repository, "app.db", tmp_path / "latest").path
    )
    assert archive.repository.check(read_data=True).ok


def test_a_killed_follower_continues_or_says_which_times_nobody_knows(database: Path, tmp_path: Path) -> None:
    place = tmp_path / "r"
    archive = SQLiteArchive(Repository(place), "app.db")
    with contextlib.closing(sqlite3.connect(database)) as other:
        other.execute("SELECT * FROM numbers").fetchall()  # otherwise the last connection deletes the log
        with followed_by_process(database, place):
            known(archive, 0)
            write(database, 1)
            known(archive, time.time(), database)
        write(database, 2)
        with followed_by_process(database, place):
            write(database, 3)
            known(archive, time.time(), database)
        assert len(archive.window().ranges) == len(archive.window().base_copies) == 1
    between = datetime.now(UTC)
    write(database, 4)  # its connection is the last one, and deletes the log
    assert not Path(f"{database}-wal").exists()
    with followed_by_process(database, place) as process:
        known(archive, time.time(), database)
        write(database, 5)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0  # what was committed before is archived
    (first, second) = archive.window().ranges
    assert first[1] < between < second[0]
    with pytest.raises(WalNotFound, match="nobody followed"):
        restore_sqlite(archive.repository, "app.db", tmp_path / "hole", between)
    assert numbers(restore_sqlite(archive.repository, "app.db", tmp_path / "one", first[1]).path) == {1, 2, 3}
    assert numbers(restore_sqlite(archive.repository, "app.db", tmp_path / "two").path) == {1, 2, 3, 4, 5}
    assert not (tmp_path / "hole").exists()
    (window,) = recovery_windows(archive.repository)
    assert (window.system, len(window.missing), window.ok) == ("sqlite/app.db", 1, False)
    done = run("--json", "wal", "status", repository=str(place))
    assert (done.returncode, json.loads(done.stdout)["servers"][0]["system"]) == (3, "sqlite/app.db")


def test_old_times_go_and_the_rest_stays(database: Path, tmp_path: Path) -> None:
    with following(database, tmp_path / "r", base_every=timedelta(seconds=0.3)) as follower:
        for value in range(3):
            write(database, value)
            count = len(follower.archive.window().base_copies)
            until(lambda count=count: len(follower.archive.window().base_copies) > count, lambda: time.sleep(0.05))  # type: ignore[misc]
    archive = follower.archive
    (_, second, *_) = archive.window().base_copies
    assert archive.expire(second) > 0
    assert archive.expire(second) == 0
    archive.repository.prune(grace=0)
    assert archive.repository.check(read_data=True).ok
    assert archive.window().since == second
    assert restore_sqlite(archive.repository, "app.db", "", second, drill=True).at == second
    assert numbers(restore_sqlite(archive.repository, "app.db", tmp_path / "now").path) == {0, 1, 2}
    with pytest.raises(WalNotFound, match="It begins at"):
        archive.state_at(second - timedelta(seconds=1))


def test_what_cannot_be_followed_or_restored_is_said(database: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.db"
    with contextlib.closing(sqlite3.connect(plain)) as connection:
        connection.execute("CREATE TABLE t (i)")
    repository = Repository(tmp_path / "r")
    for path, message in ((plain, "not in WAL mode"), (tmp_path / "none", "not a file"), (Path(__file__), "cannot be")):
        with pytest.raises(InvalidArgument, match=message):
            SQLiteFollower(repository, path).run(begun=pytest.fail)
    ending = threading.Event()
    follower = threading.Thread(target=SQLiteFollower(Repository(tmp_path / "r"), database).run, args=[ending])
    follower.start()

    def is_archived() -> bool:
        try:
            restore_sqlite(Repository(tmp_path / "r"), "app.db", tmp_path / "first")
        except (WalNotFound, RepositoryNotFound):
            return False
        return True

    count = itertools.count()
    until(is_archived, lambda: write(database, next(count)))
    ending.set()
    follower.join()
    steps: list[tuple[str, int, int]] = []
    report = restore_sqlite(repository, "app.db", tmp_path / "restored", progress=lambda *step: steps.append(step))
    assert steps[-1][1] == steps[-1][2] >= report.size
    assert isinstance(report, SQLiteRestoreReport)
    with pytest.raises(RestoreFailed, match="exists"):
        restore_sqlite(repository, "app.db", tmp_path / "restored")
    with pytest.raises(WalNotFound, match=r"no SQLite database 'ap\.db'\. Did you mean 'app\.db'\?"):
        restore_sqlite(repository, "ap.db", tmp_path / "other")
    for pack in (tmp_path / "r" / "packs").rglob("*"):
        if pack.is_file():
            pack.write_bytes(os.urandom(pack.stat().st_size))
    with pytest.raises(DamagedVersion, match=r"sqlite/app\.db"):
        restore_sqlite(Repository(tmp_path / "r"), "app.db", tmp_path / "damaged")
    assert not (tmp_path / "damaged").exists()


def put_base(archive: SQLiteArchive, page: int = 512, frame: int = 0, at: int = 1) -> None:
    archive.put_base(Position(b"s" * 8, frame, b"c" * 8), True, page, at, [bytes(512)])


def put_log(archive: SQLiteArchive, last: int = 1, number: int = 1, size: int = 512, looked: int = 2) -> None:
    """A base copy and one frame."""
    put_base(archive)
    after, then = (Position(b"s" * 8, frame, b"c" * 8) for frame in (0, last))
    frame = struct.pack(">II16x", number, 1) + b"x" * size
    archive.put_log(after, then, 512, looked, [Mark(2, 1, 1)], [frame])


@pytest.mark.parametrize(
    "forged",
    [
        *(partial(put_base, page=page) for page in (0, -24, 1000, 1 << 40)),
        *(partial(put_base, frame=frame) for frame in (-1, 1 << 63)),
        *(partial(put_base, at=at) for at in (-1, 1 << 63)),
        *(partial(put_log, last=last) for last in (-1, 2, 1 << 62)),
        *(partial(put_log, size=size) for size in (0, 511, 513)),
        *(partial(put_log, number=0), partial(put_log, looked=-1)),
    ],
)
def test_what_somebody_else_wrote_into_an_archive_is_damage(
    tmp_path: Path, forged: Callable[[SQLiteArchive], None]
) -> None:
    put_log(SQLiteArchive(Repository(tmp_path / "good"), "app.db"))
    with pytest.raises(RestoreFailed, match="not a database"):  # but it is read
        restore_sqlite(Repository(tmp_path / "good"), "app.db", tmp_path / "restored")
    archive = SQLiteArchive(Repository(tmp_path / "r"), "app.db")
    with pytest.raises(IntegrityError):
        forged(archive)
        restore_sqlite(archive.repository, "app.db", tmp_path / "restored")


def test_two_followers_of_one_database_are_refused(database: Path, tmp_path: Path) -> None:
    refused: list[WalRefused] = []
    ending = threading.Event()

    def follow() -> None:
        try:
            SQLiteFollower(Repository(tmp_path / "r"), database).run(ending)
        except WalRefused as error:
            refused.append(error)

    threads = [threading.Thread(target=follow) for _ in range(2)]
    for thread in threads:
        thread.start()
    count = itertools.count()
    until(lambda: len(refused) > 0, lambda: write(database, next(count)))
    ending.set()
    for thread in threads:
        thread.join()
    assert "Another process, or another thread" in str(refused[0])


def inserting(database: Path, seconds: float) -> None:
    """Write from another process, which closes its connection at the end."""
    program = f"""if True:
        import sqlite3, time
        connection = sqlite3.connect({str(database)!r}, isolation_level=None, timeout=60)
        until = time.monotonic() + {seconds}
        while True:
            connection.execute("INSERT INTO numbers (filling) VALUES (randomblob(700))")
            if time.monotonic() >= until:
                break
        connection.close()
        """
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_refused_follower_in_the_same_process_leaves_the_log_to_the_other_one(database: Path, tmp_path: Path) -> None:
    with following(database, tmp_path / "r") as follower:
        known(follower.archive, 0)
        with pytest.raises(WalRefused, match="another thread"):
            SQLiteFollower(Repository(tmp_path / "other"), database).run()
        inserting(database, 0)  # deletes the log if it believes that nobody else uses it
        assert Path(f"{database}-wal").exists()
        known(follower.archive, time.time(), database)
    assert len(numbers(restore_sqlite(follower.archive.repository, "app.db", tmp_path / "restored").path)) == 1


def test_an_application_keeps_its_locks_when_a_follower_in_its_process_ends(database: Path, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as application:
        application.execute("INSERT INTO numbers VALUES (1, NULL)")
        with following(database, tmp_path / "r") as follower:
            known(follower.archive, 0)
        inserting(database, 0)
        assert Path(f"{database}-wal").exists()


def test_the_log_begins_anew_beside_a_program_that_never_pauses(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_following, "_LOG", 200_000)
    monkeypatch.setattr(sqlite_following, "_REST", 0)  # there is always something to archive, as on a fast disk
    monkeypatch.setattr(sqlite_following, "_PAUSE", 0.1)
    with following(database, tmp_path / "r") as follower:
        known(follower.archive, 0)
        inserting(database, 1.5)
        known(follower.archive, time.time(), database)
    logs = {event.body["last"][0] for event in follower.archive._tracked.refresh().logs}
    assert len(logs) > 1
    assert len(follower.archive.window().ranges) == len(follower.archive.window().base_copies) == 1
    restored = restore_sqlite(follower.archive.repository, "app.db", tmp_path / "restored")
    assert numbers(restored.path) == numbers(database)


@pytest.mark.parametrize("mode", ["RESTART", "TRUNCATE"])
def test_a_checkpoint_of_the_application_ends_while_a_follower_runs(database: Path, tmp_path: Path, mode: str) -> None:
    with (
        following(database, tmp_path / "r") as follower,
        contextlib.closing(sqlite3.connect(database, isolation_level=None, timeout=60)) as application,
    ):
        known(follower.archive, 0)
        for number in range(4):
            application.execute("INSERT INTO numbers VALUES (?, randomblob(700))", [number])
            # The answer 1 is that somebody hindered it, after the timeout.
            assert application.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()[0] == 0
        write(database, 10, 11)
        known(follower.archive, time.time(), database)
    assert len({event.body["last"][0] for event in follower.archive._tracked.refresh().logs}) > 1
    assert len(follower.archive.window().ranges) == 1
    restored = restore_sqlite(follower.archive.repository, "app.db", tmp_path / "restored")
    assert numbers(restored.path) == {0, 1, 2, 3, 10, 11}


@pytest.mark.parametrize("ending", ["", "-wal", "-shm"])
@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_file_that_is_deleted_or_replaced_ends_the_follower(
    database: Path, tmp_path: Path, ending: str, is_replaced: bool
) -> None:
    file, other = Path(f"{database}{ending}"), tmp_path / "other"
    follower = SQLiteFollower(Repository(tmp_path / "r"), database)
    ending_anyway = threading.Event()

    def delete() -> None:
        known(follower.archive, 0)
        if is_replaced:
            shutil.copy(file, other)
            other.replace(file)
        else:
            file.unlink()

    # Without the error, the follower would go on for ever.
    patience = threading.Timer(20, ending_anyway.set)
    deleting = threading.Thread(target=delete)
    patience.start()
    deleting.start()
    with pytest.raises(WalRefused, match=f"{file.name} was deleted or replaced"):
        follower.run(ending_anyway)
    patience.cancel()
    deleting.join()


def test_a_writer_that_was_killed_while_it_committed_does_not_stop_the_follower(database: Path, tmp_path: Path) -> None:
    with following(database, tmp_path / "r") as follower:
        known(follower.archive, 0)
        # The first copy of the header of the shared memory is written last. In this process, closing the file would
        # release the locks of the follower.
        shared = f"{database}-shm"
        program = f"file = open({shared!r}, 'r+b', 0); file.seek(8); file.write(b'????')"
        subprocess.run([sys.executable, "-c", program], check=True)
        memory = follower_memory(database)

        def is_repaired() -> bool:
            head = os.pread(memory, 96, 0)
            return head[:48] == head[48:]

        until(is_repaired, lambda: time.sleep(0.01))


def follower_memory(database: Path) -> int:
    found = os.stat(f"{database}-shm")
    return sqlite_following._opened[found.st_dev, found.st_ino]
