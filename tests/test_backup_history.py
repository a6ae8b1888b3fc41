"""What is known of backups is true, and can be looked into: files, differences, proof, pins, descriptions."""

from __future__ import annotations

import dataclasses
import os
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flat_database import Flat

from prefect_snapshots import BackupManager, Repository, RetentionPolicy
from prefect_snapshots.backups import last_proven
from prefect_snapshots.backups.databases import SQLite
from prefect_snapshots.backups.directories import SourceSummary
from prefect_snapshots.backups.history import BackupHistory
from prefect_snapshots.backups.journal import PartState, RestorePart, begun
from prefect_snapshots.backups.records import failure_body, part_record, slug
from prefect_snapshots.backups.sources import Database, DumpReader
from prefect_snapshots.backups.working import clean_working_folders, folder_beside, is_held, working_folder
from prefect_snapshots.errors import (
    BackupFailed,
    BackupNotFound,
    InvalidArgument,
    InvalidName,
    NotProven,
    Pinned,
    RestoreFailed,
    SourceUnusable,
)
from prefect_snapshots.filesystem import SnapshotsFileSystem
from prefect_snapshots.repository.commits import Draft


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    (folder / "one.csv").write_text("1")
    (folder / "sub" / "two.csv").write_text("22")
    (folder / "sub" / "big").write_bytes(bytes(range(256)) * 20_000)
    (folder / "link").symlink_to("one.csv")
    return folder


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE t (v TEXT)")
        connection.execute("INSERT INTO t VALUES ('a'), ('b')")
    return path


@pytest.fixture
def manager(tmp_path: Path, folder: Path, path: Path) -> BackupManager:
    return BackupManager(tmp_path / "repository", databases=[SQLite(str(path))], directories=[folder])


# --- files and differences --------------------------------------------------------------------------------------------


def test_files_are_listed_found_and_read(manager: BackupManager, folder: Path) -> None:
    backup = manager.create_backup()
    listed = {file.path: file for file in manager.list_files("latest", "data")}
    assert sorted(listed) == ["link", "one.csv", "sub", "sub/big", "sub/two.csv"]
    assert {name: file.type for name, file in listed.items()} == {
        "link": "link",
        "one.csv": "file",
        "sub": "directory",
        "sub/big": "file",
        "sub/two.csv": "file",
    }
    assert (listed["link"].target, listed["sub/two.csv"].size) == ("one.csv", 2)
    assert [file.path for file in manager.list_files(backup.name, "data", "sub")] == ["sub", "sub/big", "sub/two.csv"]
    assert [file.path for file in manager.list_files(backup.name, pattern="*.csv")] == ["one.csv", "sub/two.csv"]
    assert [file.path for file in manager.list_files(backup.name, pattern="sub/*.csv")] == ["sub/two.csv"]
    assert b"".join(manager.open_file("latest", "data", "sub/big")) == (folder / "sub" / "big").read_bytes()
    assert b"".join(manager.open_file("latest", "data", "one.csv")) == b"1"
    for wrong in ("nope", "sub", "../app.db", "link"):
        with pytest.raises(InvalidArgument):
            b"".join(manager.open_file("latest", "data", wrong))
    with pytest.raises(InvalidArgument, match="no 'nope'"):
        manager.list_files("latest", path="nope")
    with pytest.raises(BackupNotFound, match="no part named"):
        manager.list_files("latest", "nope")


def test_two_backups_are_compared(manager: BackupManager, folder: Path, path: Path) -> None:
    first = manager.create_backup("first")
    assert manager.diff(first.name).identical
    same = manager.create_backup("same")
    assert manager.diff(first.name, same.name).identical
    (folder / "one.csv").write_text("7")
    (folder / "sub" / "two.csv").chmod(0o600)
    (folder / "new").write_text("new")
    (folder / "link").unlink()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO t VALUES ('c')")
        connection.execute("CREATE TABLE u (v TEXT)")
    manager.create_backup("second")
    found = manager.diff(first.name)
    assert {(file.path, file.change) for file in found.files} == {
        ("link", "deleted"),
        ("new", "added"),
        ("one.csv", "changed"),
        ("sub/two.csv", "changed"),
    }
    assert [(count.table, count.old, count.new) for count in found.counts] == [("t", 2, 3), ("u", None, 0)]
    assert found.databases_changed == (f"sqlite:///{path}",)
    only = manager.create_backup("databases", include_directories=False)
    assert manager.diff(first.name, only.name).parts_deleted == ("data",)
    assert manager.diff(only.name, first.name).parts_added == ("data",)


def test_large_files_that_were_cut_anew_are_compared_by_their_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    data = bytearray(b"".join(number.to_bytes(4) for number in range(2_000_000)))
    (folder / "large").write_bytes(data)
    manager = BackupManager(tmp_path / "repository", directories=[folder])
    first = manager.create_backup("first")
    data[5_000_000] ^= 1
    (folder / "large").write_bytes(data)
    manager.create_backup("second")
    assert [file.change for file in manager.diff(first.name).files] == ["changed"]


@pytest.mark.parametrize("mtime", [-500_000_000, -1_500_000_000, -1_000_000_000, -1, 500_000_000, 0])
def test_an_export_keeps_times_before_1970(tmp_path: Path, folder: Path, mtime: int) -> None:
    os.utime(folder / "one.csv", ns=(0, mtime))
    manager = BackupManager(tmp_path / "repository", directories=[folder])
    manager.create_backup()
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["tar", "-x", "-f", manager.export("latest", tmp_path / "x.tar"), "-C", out], check=True)
    assert (out / "data" / "one.csv").stat().st_mtime_ns == mtime


# --- proof ------------------------------------------------------------------------------------------------------------


class Lossy(Flat):
    """A database whose restore loses all but the first line."""

    lossy = True

    def restore(self, dump: DumpReader, only: Sequence[str] = ()) -> None:
        super().restore(dump, only)
        if self.lossy:
            self.path.write_bytes(self.path.read_bytes().splitlines(keepends=True)[0])

    @contextmanager
    def scratch(self) -> Iterator[Database]:
        scratch = Lossy(self.path.with_name("scratch"))
        scratch.lossy = self.lossy
        scratch.path.write_bytes(b"")
        yield scratch


def test_a_backup_is_proven_by_a_restore_that_was_compared(manager: BackupManager) -> None:
    made = manager.create_backup("proven", prove=True, run={"flow": "nightly", "flow_run": "fast-owl"})
    assert made.proven_at is not None
    assert abs(made.proven_at - made.created_at) < timedelta(minutes=5)
    assert made.proven_by == "nightly / fast-owl"
    other = manager.create_backup("other")
    assert (other.proven_at, other.proven_by) == (None, "")
    assert manager.drill().ok
    assert manager.get_backup(other.name).proven_by == other.host
    assert manager.list_backups()[1] == made


def test_a_backup_that_does_not_come_back_is_made_and_not_proven(tmp_path: Path) -> None:
    flat = Lossy(tmp_path / "flat")
    flat.path.write_text("a\nb\n")
    manager = BackupManager(tmp_path / "repository", databases=[flat])
    with pytest.raises(NotProven, match="lines: 1 restored, 2 expected") as failure:
        manager.create_backup(prove=True)
    [backup] = manager.list_backups()
    assert (failure.value.backup, backup.proven_at) == (backup.name, None)
    assert not manager.drill().ok
    assert manager.get_backup("latest").proven_at is None


def test_the_last_proven_backup_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flat = Lossy(tmp_path / "flat")
    flat.lossy = False
    flat.path.write_text("a\nb\n")
    keep_one = RetentionPolicy(keep_last=1, keep_weekly_within=None)
    manager = BackupManager(tmp_path / "repository", databases=[flat], retention=keep_one)
    good = manager.create_backup("good", prove=True)
    flat.lossy = True
    for number in range(3):
        manager.create_backup(str(number))
    rows = {row.name: row.reasons for row in manager.cleanup(dry_run=True).rows}
    assert rows[good.name] == ("last proven",)
    assert len(rows) == 2
    flat.lossy = False
    manager.retention = dataclasses.replace(keep_one, group_by=("host",))
    monkeypatch.setattr("prefect_snapshots.backups.making.host", lambda: "another")
    manager.create_backup("another", prove=True)
    assert [backup.name for backup in manager.list_backups()][-1] == good.name
    assert good.name in manager.cleanup(keep_one).deleted


def test_what_could_not_be_restored_is_told_when_the_backup_is_made(tmp_path: Path) -> None:
    class Odd(Flat):
        def check_restorable(self) -> Sequence[str]:
            return ["View v uses table t, which does not exist. Drop the view."]

    flat = Odd(tmp_path / "flat")
    flat.path.write_text("a\n")
    manager = BackupManager(tmp_path / "repository", databases=[flat])
    with pytest.raises(BackupFailed, match=r"Drop the view\. Nothing was committed"):
        manager.create_backup()
    assert manager.list_backups() == []


# --- safety backups ---------------------------------------------------------------------------------------------------


def test_the_latest_backup_is_never_a_safety_backup(tmp_path: Path) -> None:
    path, url = tmp_path / "flat", str(tmp_path / "repository")
    path.write_text("old\n")
    flat = Flat(path)
    manager = BackupManager(url, name="shop", databases=[flat])
    first = manager.create_backup("first", prove=True)
    path.write_text("new\nnew\n")
    safety = manager.restore_backup("latest", confirm=True).safety_backup or ""
    assert [(each.name, each.safety) for each in manager.list_backups()] == [(safety, True), (first.name, False)]
    assert manager.drill(safety).ok  # it can be named, and proves nothing about the regular ones

    assert manager.get_backup("latest").name == first.name
    assert manager.verify_backup("latest").name == first.name
    assert [file.size for file in manager.list_files("latest")] == [4]
    assert b"".join(manager.open_file("latest", flat.name, "lines")) == b"old\n"
    assert manager.diff(safety).new == first.name
    assert manager.edit_backup("latest", tags=["nightly"]).name == first.name
    assert manager.pin("latest").name == first.name
    manager.unpin("latest")
    assert manager.drill().name == first.name
    assert manager.export("latest", tmp_path / "latest.tar").exists()
    assert last_proven(manager.list_backups()).name == first.name  # type: ignore[union-attr]
    path.write_text("newer\n")
    assert manager.restore_backup("latest", confirm=True).name == first.name
    assert path.read_text() == "old\n"

    files = SnapshotsFileSystem(url)
    moment = datetime.now(UTC).isoformat()
    for version in ("latest", moment):
        part = f"backups/shop@{version}/flat"
        assert files.cat(f"{part}/lines") == b"old\n"
    assert files.cat(f"backups/shop@{safety}/flat/lines") == b"new\nnew\n"
    only_safety = BackupManager(url, name="shop", databases=[flat])
    only_safety.delete_backup(first.name)
    with pytest.raises(BackupNotFound, match="There is no backup yet"):
        only_safety.restore_backup("latest", confirm=True)


def test_a_failed_restore_is_tried_again_with_the_same_backup(tmp_path: Path) -> None:
    path = tmp_path / "flat"
    path.write_text("old\n")
    flat = Flat(path, fail_after=10)
    manager = BackupManager(tmp_path / "repository", databases=[flat])
    first = manager.create_backup("first")
    path.write_text("new\n")
    with pytest.raises(RestoreFailed, match="was put back from backup"):
        manager.restore_backup("latest", confirm=True)
    assert path.read_text() == "new\n"
    assert manager.restore_backup("latest", confirm=True).name == first.name
    assert path.read_text() == "old\n"


def test_retention_treats_safety_backups_separately(tmp_path: Path) -> None:
    path = tmp_path / "flat"
    path.write_text("old\n")
    folder = tmp_path / "folder"
    folder.mkdir()
    keep_two = RetentionPolicy(keep_last=2, keep_weekly_within=None)
    manager = BackupManager(tmp_path / "repository", databases=[Flat(path)], directories=[folder], retention=keep_two)
    first = manager.create_backup("first")
    safety = [manager.restore_backup(first.name, confirm=True).safety_backup or "" for _ in range(4)]
    part = RestorePart("flat", Flat(path).name, (), True, PartState.OLD)
    change = manager._history.change
    with begun(change, first.name, [part], keep_extra=False, safety_backup=safety[0]) as journal:
        journal.step("flat", PartState.SWITCHING)  # the block ends without the end of the journal, as after a kill
    report = manager.cleanup()
    kept = {row.name: row.reasons for row in report.rows if row.keep}
    assert kept == {
        safety[3]: ("last",),
        safety[2]: ("last",),
        safety[0]: ("undoes a restore",),
        first.name: ("last",),
    }
    assert [row.name for row in report.rows] == [*reversed(safety), first.name]
    by_tag = RetentionPolicy(keep_last=0, keep_weekly_within=None, keep_tags=("release",))
    manager.edit_backup(first.name, tags=["release"])
    manager.resume_restore(dismiss=True)
    assert [row.name for row in manager.cleanup(by_tag).rows if row.keep] == [first.name]


# --- what is said of a backup -----------------------------------------------------------------------------------------


def test_pins_and_descriptions_change_later(manager: BackupManager) -> None:
    backup = manager.create_backup("typo", tags=["a"])
    assert manager.pin("latest").pinned
    events = len(manager._history.tracked.events)
    assert manager.pin(backup.name).pinned
    assert len(manager._history.tracked.events) == events
    with pytest.raises(Pinned, match="force=True"):
        manager.delete_backup(backup.name)
    changed = manager.edit_backup(backup.name, "Before it", ["b", "c", "b"])
    assert (changed.name, changed.description, changed.tags) == (backup.name, "Before it", ("b", "c"))
    assert manager.edit_backup(backup.name, tags=[]).tags == ()
    assert manager.edit_backup(backup.name, description="").description == ""
    assert not manager.unpin(backup.name).pinned
    wrong: list[dict[str, Any]] = [{}, {"description": 7}, {"tags": "b"}]
    for changes in wrong:
        with pytest.raises(InvalidArgument):
            manager.edit_backup(backup.name, **changes)
    with pytest.raises(InvalidName):
        manager.edit_backup(backup.name, tags=["../x"])
    for act in (manager.pin, manager.unpin, lambda name: manager.edit_backup(name, "x")):
        with pytest.raises(BackupNotFound):
            act("nothing")


def test_nothing_is_created_by_looking_at_a_repository_that_does_not_exist(tmp_path: Path, folder: Path) -> None:
    manager = BackupManager(tmp_path / "none", directories=[folder])
    assert [*manager.list_backups(), *manager.list_interrupted_restores(), *manager.resume_restore()] == []
    for act in (manager.pin, manager.delete_backup, manager.diff, manager.list_files, manager.drill):
        with pytest.raises(BackupNotFound):
            act("latest" if act != manager.delete_backup else "x")
    planned = manager.create_backup("x", dry_run=True)
    assert (planned.files, planned.size, planned.name.endswith("_x")) == (3, 3 + 256 * 20_000, True)
    assert not (tmp_path / "none").exists()


def test_what_could_not_be_read_makes_a_backup_incomplete(manager: BackupManager) -> None:
    assert not manager.create_backup().incomplete
    part = part_record(SourceSummary("data", "directory", unreadable=["closed: Permission denied"]))
    backup = dataclasses.replace(manager.get_backup("latest"), parts=(part,))
    assert backup.incomplete
    assert backup.to_dict()["incomplete"]
    assert part_record(SourceSummary("data", "directory", skipped=["socket"])).incomplete is False


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ("バックアップ", "バックアップ"),
        ("ガギグゲゴ が ぱ", "ガギグゲゴ_が_ぱ"),
        ("Чистый файл, ёлка", "чистый_файл_ёлка"),
        ("हिन्दी बैकअप", "हिन्दी_बैकअप"),
        ("தமிழ்", "தமிழ்"),
        ("ไทย นี้", "ไทย_นี้"),
        ("नि" * 40, ("नि" * 30)),
        ("العَرَبِيَّة", "العَرَبِيَّة"),
        ("Ελληνικά", "ελληνικά"),
        ("한국어 백업", "한국어_백업"),
        ("Ĥ ṩ é ž", "h_s_e_z"),
    ],
)
def test_descriptions_of_any_script_keep_their_letters(description: str, expected: str) -> None:
    assert slug(description) == expected


# --- beside writers ---------------------------------------------------------------------------------------------------


def test_errors_that_somebody_else_wrote_are_cut(tmp_path: Path) -> None:
    assert len(failure_body("x" * 3000, "host", None)["error"]) == 2000
    history = BackupHistory(Repository(tmp_path / "r"), "all")
    history.tracked.put(lambda: Draft("failed", {"error": "y" * 3000}), b"", [])
    assert [failed.error for failed in history.failures()] == ["y" * 2000]


def test_listing_never_fails_and_never_waits_beside_a_backup(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(Flat):
        @contextmanager
        def dump(self) -> Iterator[Any]:
            with super().dump() as dump:
                begun.set()
                assert go_on.wait(60)
                yield dump

    flat = Slow(tmp_path / "flat")
    flat.path.write_text("a\n")
    manager = BackupManager(tmp_path / "repository", databases=[flat])
    for number in range(3):
        go_on.set()
        manager.create_backup(str(number))
    go_on.clear()
    begun.clear()
    errors: list[BaseException] = []
    ended = threading.Event()

    def listing() -> None:
        try:
            while not ended.is_set():
                assert len(manager.list_backups()) >= 3
        except BaseException as error:
            errors.append(error)

    making = threading.Thread(target=lambda: manager.create_backup("slow"))
    making.start()
    assert begun.wait(60)
    lookers = [threading.Thread(target=listing) for _ in range(2)]
    for looker in lookers:
        looker.start()
    assert len(manager.list_backups()) == 3  # while the backup waits
    go_on.set()
    making.join()
    for number in range(20):
        manager.pin("latest") if number % 2 else manager.unpin("latest")
    ended.set()
    for looker in lookers:
        looker.join()
    assert errors == []
    assert len(manager.list_backups()) == 4


def test_the_next_backup_of_anything_deletes_what_a_killed_one_has_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain copy of a database must not wait for the next backup of a database."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "files").mkdir()
    script = textwrap.dedent("""
        import os, pathlib, signal, sys, tempfile
        from prefect_snapshots.backups.working import working_folder
        tempfile.tempdir = sys.argv[1]
        with working_folder("dump") as folder:
            (folder / "database.sqlite").write_bytes(b"plain")
            print(folder, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    killed = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=False)
    left = Path(killed.stdout.strip(), "database.sqlite")
    assert left.exists()
    BackupManager(tmp_path / "r", directories=[tmp_path / "files"]).create_backup()
    assert not left.exists()


# --- working folders --------------------------------------------------------------------------------------------------


def test_folders_of_any_depth_are_drilled_and_deleted(tmp_path: Path) -> None:
    def nested(top: Path, name: bytes, levels: int, mode: int = 0o700) -> None:
        top.mkdir()
        here = os.open(top, os.O_RDONLY)
        for _ in range(levels):
            os.mkdir(name, dir_fd=here)
            deeper = os.open(name, os.O_RDONLY, dir_fd=here)
            os.fchmod(here, mode)
            os.close(here)
            here = deeper
        os.close(os.open("leaf", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        os.close(here)

    folder = tmp_path / "folder"
    nested(folder, b"x" * 250, 20)  # longer than any path of a system call
    manager = BackupManager(tmp_path / "repository", directories=[folder])
    manager.create_backup()
    assert manager.drill().problems == []

    with working_folder("deep") as working:
        # More than Python's functions go down. Whoever is not root could not move what is in it.
        nested(working / "deeper", b"d", 1200, 0o500)
    assert not working.exists()


def test_working_folders_are_private_and_those_of_the_dead_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with working_folder("dump") as living:
        assert (living.stat().st_mode & 0o777, living.parent.stat().st_mode & 0o777) == (0o700, 0o700)
        assert is_held(living)
        dead = living.parent / "dump-dead"
        (dead / "closed").mkdir(parents=True)
        (dead / "closed" / "plain").write_text("secret")
        (dead / "closed").chmod(0o500)
        stranger = living.parent / "a file"
        stranger.write_text("x")
        clean_working_folders()
        assert not dead.exists()
        assert living.exists()
        assert stranger.exists()
    assert not living.exists()
    beside = tmp_path / "app.db"
    leftover = tmp_path / ".app.db.restoring-1"
    leftover.mkdir()
    other = tmp_path / ".other.db.restoring-1"
    other.mkdir()
    with folder_beside(beside) as folder:
        assert not leftover.exists()
        assert other.exists()
        assert folder.parent == tmp_path
    if os.geteuid() == 0:
        taken = tmp_path / f"prefect-snapshots-{os.geteuid()}"
        taken.rename(tmp_path / "moved")
        taken.mkdir()
        os.chown(taken, 65534, 65534)
        with working_folder("dump") as elsewhere:
            assert elsewhere.parent != taken
        assert list(taken.iterdir()) == []


def test_a_misspelt_name_or_url_is_told_from_backups_that_are_not_there_yet(tmp_path: Path) -> None:
    with pytest.raises(BackupNotFound, match=r"of 'shop': there is no repository at file://.*/typo\. Check the URL\."):
        BackupManager(tmp_path / "typo", name="shop").get_backup("latest")
    (tmp_path / "data").mkdir()
    BackupManager(tmp_path / "right", name="shop", directories=[tmp_path / "data"]).create_backup()
    with pytest.raises(BackupNotFound, match=r"of 'shpo' in file://.*/right\. Did you mean 'shop'\?"):
        BackupManager(tmp_path / "right", name="shpo").get_backup("latest")
    with pytest.raises(BackupNotFound, match=r"Did you mean 'shop'\?"):
        BackupManager(tmp_path / "right", name="shpo").delete_backup("latest")


@pytest.mark.parametrize("path", ["misspelt.db", "nowhere/app.db", "file/app.db"])
def test_a_database_file_that_does_not_exist_is_named_before_anything_is_stored(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").touch()
    manager = BackupManager(tmp_path / "repository", databases=[SQLite(str(tmp_path / path))])
    with pytest.raises(SourceUnusable, match=rf"^{tmp_path / path} does not exist\.$"):
        manager.create_backup()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file"]
