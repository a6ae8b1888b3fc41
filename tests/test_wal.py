"""The archive of the WAL: nothing is replaced, no gap is overlooked, and a recovery ends only where it does."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import database_servers
import pytest
from database_servers import Server, until

from prefect_snapshots import Repository
from prefect_snapshots.errors import DamagedVersion, IntegrityError, InvalidArgument, WalNotFound, WalRefused
from prefect_snapshots.repository.commits import Draft
from prefect_snapshots.wal import WalArchive, WalArchiver, list_systems, waiting_wal
from prefect_snapshots.wal.answering import answering

SYSTEM = 7301234567890123456
SIZE = 1 << 20
COMMAND = [sys.executable, "-c", "from prefect_snapshots.cli import main; main()"]


def segment(
    number: int, timeline: int = 1, *, system: int = SYSTEM, fill: bytes = b"\7", start: int | None = None
) -> bytes:
    """A segment of 1 MB with the header that PostgreSQL writes."""
    at = number * SIZE if start is None else start
    head = struct.pack("=HHIQI4xQII", 0xD110, 2, timeline, at, 0, system, SIZE, 8192)
    return head + (fill * (SIZE // len(fill) + 1))[: SIZE - len(head)]


def name(number: int, timeline: int = 1) -> str:
    return f"{timeline:08X}{number // 4096:08X}{number % 4096:08X}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder pg_wal of a cluster."""
    (tmp_path / "data" / "global").mkdir(parents=True)
    (tmp_path / "data" / "global" / "pg_control").write_bytes(struct.pack("=Q", SYSTEM) + bytes(100))
    (tmp_path / "data" / "pg_wal").mkdir()
    return tmp_path / "data" / "pg_wal"


@pytest.fixture
def archive(tmp_path: Path) -> WalArchive:
    return WalArchive(Repository(tmp_path / "repository"), SYSTEM)


def push(archive: WalArchive, folder: Path, file: str, data: bytes) -> bool:
    (folder / file).write_bytes(data)
    return archive.push(folder / file)


@contextlib.contextmanager
def started(*arguments: str, repository: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command of `wal` that goes on, and is killed at the end."""
    process = subprocess.Popen([*COMMAND, "-r", repository, "wal", *arguments], stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def run(*arguments: str, repository: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, "-r", repository, *arguments], capture_output=True, text=True, check=False)


def test_what_was_archived_comes_back_and_is_never_replaced(archive: WalArchive, folder: Path) -> None:
    assert push(archive, folder, name(3), segment(3))
    assert not push(archive, folder, name(3), segment(3))
    with pytest.raises(WalRefused, match="other bytes"):
        push(archive, folder, name(3), segment(3, fill=b"\6"))
    archive.fetch(name(3), folder / "RECOVERYXLOG")
    assert (folder / "RECOVERYXLOG").read_bytes() == segment(3)
    assert [file.name for file in archive.list_files()] == [name(3)]
    assert os.listdir(folder).count("RECOVERYXLOG.fetching") == 0


@pytest.mark.parametrize(
    "file",
    [
        "../x",
        "000000010000000000000003/../x",
        "00000001000000000000000",
        "0000000100000000000000ff",
        "RECOVERYXLOG",
        "",
    ],
)
def test_only_names_of_postgresql_are_archived(archive: WalArchive, folder: Path, file: str) -> None:
    with pytest.raises(InvalidArgument):
        archive.fetch(file, folder / "x")
    (folder / "x").write_bytes(segment(3))
    with pytest.raises(InvalidArgument):
        archive.push(folder / "x", file or "x")


@pytest.mark.parametrize(
    "data",
    [
        segment(3)[:-1],
        segment(3)[:20],
        b"",
        bytes(SIZE),
        segment(4),
        segment(3, timeline=2),
        segment(3, system=5),
        segment(3, start=3 * SIZE + 8192),
    ],
    ids=[
        "cut",
        "header cut",
        "empty",
        "zeros",
        "another segment",
        "a later timeline",
        "another server",
        "another place",
    ],
)
def test_a_file_that_is_not_the_segment_it_is_called_is_refused(archive: WalArchive, folder: Path, data: bytes) -> None:
    with pytest.raises(WalRefused):
        push(archive, folder, name(3), data)
    assert not archive.repository.exists()


def test_a_gap_is_seen_and_other_files_are_not_taken_for_segments(archive: WalArchive, folder: Path) -> None:
    for number in (3, 4, 6, 9):
        push(archive, folder, name(number), segment(number))
    push(archive, folder, f"{name(5)}.partial", segment(5))
    push(archive, folder, f"{name(3)}.00000028.backup", b"START WAL LOCATION: 0/300028\n")
    push(archive, folder, "00000002.history", f"1\t0/{9 * SIZE:X}\tno recovery target specified\n".encode())
    push(archive, folder, name(9, 2), segment(9))  # PostgreSQL copies the page of the timeline before
    first, second = archive.list_timelines()
    assert first.missing == ((name(5), name(5)), (name(7), name(8)))
    assert (first.start, first.end, first.segments) == (f"0/{3 * SIZE:X}", f"0/{10 * SIZE:X}", 4)
    assert second.left == ((1, f"0/{9 * SIZE:X}"),)
    done = run("--json", "wal", "list", repository=archive.repository.location.url)
    assert done.returncode == 3
    assert json.loads(done.stdout)["timelines"][0]["missing"] == [[name(5), name(5)], [name(7), name(8)]]


def test_what_names_a_small_segment_may_come_before_any_segment(archive: WalArchive, folder: Path) -> None:
    """Only segments say their size: until then, the usual one is assumed, of which there are fewer."""
    push(archive, folder, "0000000100000000000003FF.partial", b"x")
    push(archive, folder, "0000000100000000000003FF.00000028.backup", b"START WAL LOCATION: 0/3FF00028\n")
    assert len(archive.list_files()) == 2


@pytest.mark.parametrize("text", ["3\t0/300000\tx", "1\t0/3g\tx", "x", "-1\t0/3\tx", "1\t0/3\n1\t0/4"])
def test_a_history_that_cannot_be_is_refused(archive: WalArchive, folder: Path, text: str) -> None:
    with pytest.raises(WalRefused):
        push(archive, folder, "00000003.history", text.encode())


def test_only_what_ends_before_an_lsn_is_deleted_and_prune_frees_it(archive: WalArchive, folder: Path) -> None:
    for number in range(3, 7):
        push(archive, folder, name(number), segment(number, fill=os.urandom(1 << 10) + bytes([number])))
    assert archive.delete_before(5 * SIZE, dry_run=True) == [name(3), name(4)]
    assert len(archive.list_files()) == 4
    assert archive.delete_before(5 * SIZE) == [name(3), name(4)]
    archive.repository.prune(grace=0)
    assert [file.name for file in WalArchive(Repository(archive.repository.url), SYSTEM).list_files()] == [
        name(5),
        name(6),
    ]
    assert archive.repository.check(read_data=True).ok
    archive.fetch(name(5), folder / "back")
    with pytest.raises(WalNotFound):
        archive.fetch(name(4), folder / "back")


def test_damage_aborts_a_recovery_and_only_the_end_ends_it(archive: WalArchive, folder: Path, tmp_path: Path) -> None:
    push(archive, folder, name(3), segment(3, fill=os.urandom(1 << 10)))
    repository = archive.repository.location.url
    target = str(folder / "RECOVERYXLOG")
    assert run("wal", "fetch", name(3), target, repository=repository).returncode == 0
    assert run("wal", "fetch", name(4), target, repository=repository).returncode == 1
    assert run("wal", "fetch", "00000002.history", target, repository=repository).returncode == 1
    for pack in (tmp_path / "repository" / "packs").rglob("*"):
        if pack.is_file():
            pack.write_bytes(pack.read_bytes().replace(b"\x28\xb5\x2f\xfd", b"\x28\xb5\x2f\xfc"))
    for other, file in ((repository, name(3)), (str(tmp_path / "nothing"), name(4)), (repository, "nonsense")):
        done = run("wal", "fetch", file, target, repository=other)
        assert done.returncode == 126, done.stderr
        assert done.stderr.startswith("prefect-snapshots: ")
    with pytest.raises(DamagedVersion, match=name(3)):
        WalArchive(Repository(repository), SYSTEM).fetch(name(3), target)


@pytest.mark.parametrize("size", [0, -1, True, "1", 1 << 19, 3 << 20, 1 << 31])
def test_a_size_that_no_segment_has_is_damage(archive: WalArchive, folder: Path, size: object) -> None:
    push(archive, folder, name(3), segment(3))
    body = {"id": name(4), "size": size}
    with pytest.raises(IntegrityError):
        archive._tracked(1).put(lambda: Draft("put", body), b"", [b"x"])
        archive.list_timelines()


def test_a_file_that_would_fill_the_disk_is_not_fetched(
    archive: WalArchive, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = f"{name(5)}.partial"
    push(archive, folder, file, bytes((16 << 20) + 1))
    monkeypatch.setattr("prefect_snapshots.wal.archiving._LONGEST", 16 << 20)
    with pytest.raises(WalRefused, match="not a file of the WAL"):
        archive.fetch(file, folder / "back")
    assert not list(folder.glob("back*"))


@pytest.fixture
def server() -> Iterator[Server]:
    with database_servers.postgresql("archive_mode=on", "wal_level=replica", segment=1) as server:
        yield server


@contextlib.contextmanager
def archiving(server: Server, repository: Path) -> Iterator[list[subprocess.CompletedProcess[str]]]:
    """The server archives by command. The user of a server in a test can seldom read Python, so the test runs it."""
    runs: list[subprocess.CompletedProcess[str]] = []

    def push(arguments: list[str]) -> int:
        runs.append(run("wal", "push", str(server.folder / "data" / arguments[0]), repository=str(repository)))
        return runs[-1].returncode

    place = server.folder / "archiving"
    place.mkdir()
    status = server.folder.stat()
    os.chown(place, status.st_uid, status.st_gid)
    with (
        answering(place, push, (status.st_uid, status.st_gid)) as command,
        database_servers.archiving_by(server, command),
    ):
        yield runs


@contextlib.contextmanager
def archiver(server: Server, repository: Path, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that archives, which is killed at the end."""
    with started("archive", str(server.folder / "data"), str(folder), repository=str(repository)) as process:
        yield process


def test_a_server_is_told_only_what_is_true_by_an_archiver_that_is_killed(server: Server, tmp_path: Path) -> None:
    client = database_servers.psql(server)
    folder = server.folder / "waiting"
    place = tmp_path / "repository"
    data = server.folder / "data"
    client(f"ALTER SYSTEM SET archive_command = '{folder}/push %p';")
    client("SELECT pg_reload_conf();")
    (system,) = client("SELECT system_identifier FROM pg_control_system();")

    def told() -> set[str]:
        return {path.stem for path in (data / "pg_wal" / "archive_status").glob("*.done")}

    for count in range(3):
        with archiver(server, place, folder) as process:
            client(f"CREATE TABLE t{count} AS SELECT i FROM generate_series(1, 100000) i;")
            before = told()
            until(lambda before=before: len(told() - before) > 1, lambda: time.sleep(0.02))  # type: ignore[misc]
            process.kill()  # while it archives the rest
            process.wait()
            files = {file.name for file in WalArchive(Repository(place), system).list_files()}
            assert told() <= files
    with archiver(server, place, folder):
        (last,) = client("SELECT pg_walfile_name(pg_switch_wal());")
        until(lambda: client("SELECT last_archived_wal FROM pg_stat_archiver;") >= [last], lambda: time.sleep(0.05))
        assert waiting_wal(data).files == 0
    archive = WalArchive(Repository(place), system)
    (timeline,) = archive.list_timelines()
    assert (timeline.missing, timeline.last) == ((), last)
    done = run("--json", "wal", "status", "--data", str(data), repository=str(place))
    assert json.loads(done.stdout)["servers"][0]["waiting"] == 0


def test_an_acknowledgment_counts_for_no_other_bytes_and_errors_reach_the_server(
    archive: WalArchive, folder: Path, tmp_path: Path
) -> None:
    (folder / "archive_status").mkdir()
    waiting = tmp_path / "waiting"

    def ready(number: int, data: bytes) -> Path:
        path = folder / name(number)
        path.write_bytes(data)
        (folder / "archive_status" / f"{path.name}.ready").touch()
        return path

    def ask(path: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([waiting / "push", path], capture_output=True, text=True, check=False)

    archiver = WalArchiver(archive.repository, folder.parent, waiting)
    third = ready(3, segment(3))
    assert waiting_wal(folder.parent).files == 1
    assert archiver.archive_ready() == [third.name]
    assert ask(third).returncode == 0
    with pytest.raises(WalRefused, match="Another process"), archiver._prepared():
        archiver.archive_ready()
    assert archiver.archive_ready() == [third.name]
    third.write_bytes(segment(3, fill=b"\6"))  # of another server, which took its place
    os.utime(third, (time.time() + 5, time.time() + 5))
    with pytest.raises(WalRefused, match="other bytes"):
        archiver.archive_ready()
    refused = ask(third)
    assert (refused.returncode, "archived with other bytes" in refused.stderr) == (1, True)
    fourth = ready(4, segment(4))
    with pytest.raises(WalRefused, match="other bytes"):
        archiver.archive_ready()  # none is archived before one that waits: that would be a gap
    third.write_bytes(segment(3))
    assert archiver.archive_ready() == [third.name, fourth.name]
    (folder / "archive_status" / f"{third.name}.ready").rename(folder / "archive_status" / f"{third.name}.done")
    assert archiver.archive_ready() == [fourth.name]
    assert ask(fourth).returncode == 0
    assert sorted(path.name for path in waiting.iterdir()) == [f"{fourth.name}.archived", "lock", "push"]


@pytest.mark.parametrize("what", ["everybody", "stranger", "link"])
def test_a_folder_that_others_can_write_to_holds_no_script_of_the_server(
    archive: WalArchive, folder: Path, tmp_path: Path, what: str
) -> None:
    """They could acknowledge what is not archived, or lead the lock elsewhere."""
    (folder / "archive_status").mkdir()
    waiting = tmp_path / "waiting"
    waiting.mkdir()
    if what == "everybody":
        waiting.chmod(0o777)
    elif what == "link":
        (waiting / "lock").symlink_to(tmp_path / "elsewhere")
    else:
        root = [] if os.geteuid() == 0 else ["sudo", "-n"]
        subprocess.run([*root, "chown", "4321", waiting], check=True)
    with pytest.raises(OSError if what == "link" else InvalidArgument, match="waiting"):
        WalArchiver(archive.repository, folder.parent, waiting).archive_ready()
    assert not (waiting / "push").exists()
    assert not (tmp_path / "elsewhere").exists()


def test_a_server_archives_by_command(server: Server, tmp_path: Path) -> None:
    client = database_servers.psql(server)
    with archiving(server, tmp_path / "repository") as runs:
        client("CREATE TABLE numbers AS SELECT i FROM generate_series(1, 20000) i;")
        (last,) = client("SELECT pg_walfile_name(pg_switch_wal());")
        until(lambda: client("SELECT last_archived_wal FROM pg_stat_archiver;") >= [last], lambda: time.sleep(0.05))
    assert {each.returncode for each in runs} == {0}, runs
    repository = Repository(tmp_path / "repository")
    (system,) = client("SELECT system_identifier FROM pg_control_system();")
    assert list_systems(repository) == [system]
    archive = WalArchive(repository, system)
    (timeline,) = archive.list_timelines()
    assert (timeline.missing, timeline.last) == ((), last)
    archive.fetch(last, tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == (server.folder / "data" / "pg_wal" / last).read_bytes()
