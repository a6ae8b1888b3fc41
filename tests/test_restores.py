"""A restore destroys nothing before the replacement stands, and whatever ends it, it is finished or taken back.

Held here: every step of a restore at which a process is killed or told to end; what errors say of new, old and mixed
parts; parts that would claim one file; partial restores of several paths; dry runs.
"""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from flat_database import Flat

from prefect_snapshots import BackupManager, Directory, safe_experiment
from prefect_snapshots.backups import PartState, RestoreRecord
from prefect_snapshots.backups.databases import SQLite
from prefect_snapshots.backups.interruption import deferred, terminable
from prefect_snapshots.backups.sources import DumpReader, Switch
from prefect_snapshots.backups.working import working_path
from prefect_snapshots.errors import InvalidArgument, RestoreFailed, RestoreRunning

PROCESS = Path(__file__).parent / "restoring_process.py"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with a few files."""
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    for name in ("one", "two", "sub/three"):
        (folder / name).write_text("old")
    return folder


def write(folder: Path, text: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_text(text)


def texts(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def database(path: Path, *rows: str) -> SQLite:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE IF NOT EXISTS t (v TEXT)")
        connection.execute("DELETE FROM t")
        connection.executemany("INSERT INTO t VALUES (?)", [(row,) for row in rows])
    return SQLite(str(path))


def rows(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [row for (row,) in connection.execute("SELECT v FROM t")]


class Staged(Flat):
    """A database that builds the new state beside the old one, and may fail at the one or the other."""

    swaps: ClassVar[bool] = True

    def __init__(self, path: Path, *, fails: str = "") -> None:
        super().__init__(path)
        self.fails = fails

    @contextmanager
    def stage(self, dump: DumpReader, only: Sequence[str] = ()) -> Iterator[Switch]:
        beside = self.path.with_suffix(".new")
        beside.write_bytes(b"".join(map(bytes, dump.open("lines"))))
        try:
            if self.fails == "stage":
                raise RestoreFailed("it does not fit")

            def switch() -> Sequence[str]:
                if self.fails == "interrupt":
                    raise KeyboardInterrupt
                if self.fails == "switch":
                    raise RestoreFailed("somebody holds it")
                os.replace(beside, self.path)
                return ["The old one could not be dropped."] if self.fails == "warn" else []

            yield switch
        finally:
            beside.unlink(missing_ok=True)


# --- every step ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SIGKILL", pytest.param("SIGTERM", marks=pytest.mark.nightly)])
def test_a_restore_that_is_ended_at_any_step_can_be_finished(tmp_path: Path, name: str, every: int) -> None:
    (tmp_path / "temporary").mkdir()
    (tmp_path / "place").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    command = [sys.executable, str(PROCESS), str(tmp_path / "place"), name, str(every)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 30, "too few steps were seen"


# --- stages before switches ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", [0, 1, 2])
def test_what_cannot_be_staged_changes_nothing(tmp_path: Path, folder: Path, position: int) -> None:
    flats = [Staged(tmp_path / f"flat{number}") for number in range(3)]
    for flat in flats:
        flat.path.write_text("old\n")
    manager = BackupManager(tmp_path / "repository", databases=flats, directories=[folder])
    backup = manager.create_backup("old")
    for flat in flats:
        flat.path.write_text("new\n")
    write(folder, "new")
    flats[position].fails = "stage"
    with pytest.raises(RestoreFailed, match=r"it does not fit.*Restored: none\..*Nothing was changed"):
        manager.restore_backup(backup.name, confirm=True)
    assert {flat.path.read_text() for flat in flats} == {"new\n"}
    assert set(texts(folder).values()) == {"new"}
    assert manager.list_interrupted_restores() == []
    assert not list(tmp_path.glob("*.new"))


def test_what_cannot_be_switched_says_what_is_new_and_can_be_finished(tmp_path: Path, folder: Path) -> None:
    first, second = Staged(tmp_path / "first"), Staged(tmp_path / "second", fails="switch")
    for flat in (first, second):
        flat.path.write_text("old\n")
    manager = BackupManager(tmp_path / "repository", databases=[first, second], directories=[folder])
    backup = manager.create_backup("old")
    for flat in (first, second):
        flat.path.write_text("new\n")
    write(folder, "new")
    with pytest.raises(RestoreFailed) as failure:
        manager.restore_backup(backup.name, confirm=True)
    message = str(failure.value)
    assert f"{second.name} is unchanged. Restored: {first.name}. Unchanged: data." in message
    assert "`prefect-snapshots backups resume-restore`" in message
    [record] = manager.list_interrupted_restores()
    assert [part.found for part in record.parts] == [PartState.NEW, PartState.OLD, PartState.OLD]
    assert record.described() == f"Restored: {first.name}. Unchanged: {second.name}, {folder}."
    note = manager.create_backup("meanwhile").part(second.name).notes
    assert note == [f"This part was backed up while a restore of {backup.name} had not ended: {record.described()}"]
    with pytest.raises(RestoreFailed, match=r"cannot be undone.*Nothing was changed"):
        manager.resume_restore(undo=True)
    second.fails = ""
    other = BackupManager(tmp_path / "repository", databases=[first, second])
    with pytest.raises(InvalidArgument, match=r"'data', which is none of the sources\. Nothing was changed"):
        other.resume_restore()  # anybody could have recorded this folder
    assert (second.path.read_text(), set(texts(folder).values())) == ("new\n", {"new"})
    [report] = manager.resume_restore()
    assert report.restored == (second.name, "data")
    assert (second.path.read_text(), set(texts(folder).values())) == ("old\n", {"old"})
    assert manager.list_interrupted_restores() == []
    assert manager.create_backup("after").part(second.name).notes == []


def test_all_targets_are_found_before_the_first_interrupted_restore_goes_on(tmp_path: Path) -> None:
    flats = [Staged(tmp_path / name, fails="interrupt") for name in ("first", "second")]
    for flat in flats:
        flat.path.write_text("old\n")
    manager = BackupManager(tmp_path / "repository", databases=flats)
    manager.create_backup()
    for flat in flats:
        flat.path.write_text("new\n")
        with pytest.raises(KeyboardInterrupt):
            manager.restore_backup("latest", confirm=True, only={flat.name: []})
        flat.fails = ""
    assert len(manager.list_interrupted_restores()) == 2
    with pytest.raises(InvalidArgument, match="second', which is none of the sources"):
        BackupManager(tmp_path / "repository", databases=flats[:1]).resume_restore()
    assert [flat.path.read_text() for flat in flats] == ["new\n", "new\n"]
    assert len(manager.resume_restore()) == 2
    assert [flat.path.read_text() for flat in flats] == ["old\n", "old\n"]


def test_a_warning_after_the_switch_is_no_failure(tmp_path: Path) -> None:
    flat = Staged(tmp_path / "flat", fails="warn")
    flat.path.write_text("old\n")
    manager = BackupManager(tmp_path / "repository", databases=[flat])
    manager.create_backup()
    flat.path.write_text("new\n")
    report = manager.restore_backup("latest", confirm=True)
    assert (flat.path.read_text(), report.warnings) == ("old\n", ("The old one could not be dropped.",))


def test_whoever_is_interrupted_learns_what_there_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = Staged(tmp_path / "first"), Staged(tmp_path / "second", fails="interrupt")
    for flat in (first, second):
        flat.path.write_text("old\n")
    manager = BackupManager(tmp_path / "repository", databases=[first, second])
    manager.create_backup()
    with pytest.raises(KeyboardInterrupt) as ended:
        manager.restore_backup("latest", confirm=True)
    assert f"{second.name} is either restored or unchanged. Restored: {first.name}." in ended.value.__notes__[0]
    assert ended.value.__notes__[0] in caplog.text
    [record] = manager.list_interrupted_restores()
    assert [part.state for part in record.parts] == [PartState.NEW, PartState.SWITCHING]
    second.fails = ""
    manager.resume_restore()
    assert manager.list_interrupted_restores() == []


# --- two at once -----------------------------------------------------------------------------------------------------


class Waiting(Staged):
    """A database whose restore waits for the test when it has begun."""

    def __init__(self, path: Path, begun: int) -> None:
        super().__init__(path)
        self.begun = begun

    @contextmanager
    def stage(self, dump: DumpReader, only: Sequence[str] = ()) -> Iterator[Switch]:
        os.write(self.begun, b"x")
        signal.pause()
        yield list


def test_two_restores_of_one_target_never_run_at_once(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Locks of other restores, which run in other test processes or were killed, are none of its business.
    monkeypatch.setattr("tempfile.tempdir", str(temporary := tmp_path / "temporary"))
    temporary.mkdir()
    flat, beside = Staged(folder / "flat"), Staged(tmp_path / "beside")
    for each in (flat, beside):
        each.path.write_text("old\n")
    managers = [
        BackupManager(tmp_path / "one", databases=[flat, beside]),
        BackupManager(tmp_path / "two", name="other", databases=[flat], directories=[folder, folder / "sub"]),
    ]
    for manager in managers:
        manager.create_backup()
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        to = {flat.name: Waiting(flat.path, writing)}
        managers[0].restore_backup("latest", confirm=True, only={flat.name: []}, to=to)
        os._exit(1)
    assert os.read(reading, 1) == b"x"
    for manager, chosen in ((managers[0], flat.name), (managers[1], flat.name), (managers[1], "data")):
        with pytest.raises(RestoreRunning, match="Nothing was changed") as running:
            manager.restore_backup("latest", confirm=True, only={chosen: []})
        who = f"the restore of backup default_.* process {child} on .* since 20.* UTC"
        assert re.search(who, running.value.holder), running.value
    managers[0].restore_backup("latest", confirm=True, only={beside.name: []})
    managers[1].restore_backup("latest", confirm=True, only={"sub": []})
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    managers[1].restore_backup("latest", confirm=True)
    assert flat.path.read_text() == "old\n"
    assert not list(working_path("x").parent.glob("target-*"))


# --- changed in place -------------------------------------------------------------------------------------------------


def interrupted_in_place(tmp_path: Path) -> tuple[BackupManager, Flat, RestoreRecord]:
    """A restore that left half of a state, and could not put back what was there."""

    class Broken(Flat):
        broken = True

        def restore(self, dump: DumpReader, only: Sequence[str] = ()) -> None:
            if self.broken:
                self.path.write_bytes(b"half")
                raise RestoreFailed("the disk is broken")
            super().restore(dump, only)

    flat = Broken(tmp_path / "flat")
    flat.path.write_text("old\n")
    manager = BackupManager(tmp_path / "repository", databases=[flat])
    backup = manager.create_backup("old", permanent=True)
    flat.path.write_text("new\nnew\n")
    with pytest.raises(RestoreFailed, match=r"only partly restored.*in backup default_.*resume-restore --undo"):
        manager.restore_backup(backup.name, confirm=True)
    assert flat.path.read_bytes() == b"half"
    flat.broken = False
    [record] = manager.list_interrupted_restores()
    assert record.parts[0].found is PartState.MIXED
    return manager, flat, record


def test_a_restore_in_place_that_failed_twice_is_finished(tmp_path: Path) -> None:
    manager, flat, record = interrupted_in_place(tmp_path)
    [report] = manager.resume_restore()
    assert (flat.path.read_text(), report.safety_backup) == ("old\n", record.safety_backup)
    assert manager.list_interrupted_restores() == []


def test_a_restore_in_place_that_failed_twice_is_taken_back(tmp_path: Path) -> None:
    manager, flat, record = interrupted_in_place(tmp_path)
    [report] = manager.resume_restore(undo=True)
    assert (flat.path.read_text(), report.name) == ("new\nnew\n", record.safety_backup)
    assert manager.list_interrupted_restores() == []


def test_another_restore_ends_an_interrupted_one(tmp_path: Path) -> None:
    manager, flat, record = interrupted_in_place(tmp_path)
    assert record.safety_backup is not None
    manager.restore_backup(record.safety_backup, confirm=True, safety=False)
    assert flat.path.read_text() == "new\nnew\n"
    assert manager.list_interrupted_restores() == []


def test_an_interrupted_restore_can_be_dismissed(tmp_path: Path) -> None:
    manager, flat, _ = interrupted_in_place(tmp_path)
    with pytest.raises(InvalidArgument, match="not both"):
        manager.resume_restore(undo=True, dismiss=True)
    assert manager.resume_restore(dismiss=True) == []
    assert flat.path.read_bytes() == b"half"
    assert manager.list_interrupted_restores() == []


@pytest.mark.parametrize("ended", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interrupt_puts_back_what_is_changed_in_place(tmp_path: Path, ended: type[BaseException]) -> None:
    class Interrupted(Flat):
        def restore(self, dump: DumpReader, only: Sequence[str] = ()) -> None:
            super().restore(dump, only)
            if self.restores == 1:
                self.path.write_bytes(b"half")
                raise ended

    flat = Interrupted(tmp_path / "flat")
    flat.path.write_text("old\n")
    manager = BackupManager(tmp_path / "repository", databases=[flat])
    manager.create_backup()
    flat.path.write_text("new\nnew\n")
    with pytest.raises(ended) as failure:
        manager.restore_backup("latest", confirm=True)
    assert flat.path.read_text() == "new\nnew\n"
    assert "was put back from backup" in failure.value.__notes__[0]
    assert manager.list_interrupted_restores() == []


def test_sigterm_is_an_exception_within_the_block_and_waits_in_moments_that_must_not_be_cut() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = []
    with pytest.raises(SystemExit) as ended, terminable():
        try:
            with deferred():
                os.kill(os.getpid(), signal.SIGTERM)
                seen.append("went on")
        finally:
            seen.append("cleaned up")
    assert (seen, ended.value.code) == (["went on", "cleaned up"], 128 + signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(KeyboardInterrupt), deferred():
        os.kill(os.getpid(), signal.SIGINT)
        seen.append("went on")
    assert seen[-1] == "went on"


# --- one file, one part -----------------------------------------------------------------------------------------------


def test_a_database_in_a_directory_is_in_its_own_part_alone(tmp_path: Path, folder: Path) -> None:
    path = folder / "app.db"
    source = database(path, "old")
    other = database(folder / "sub" / "[odd] name.sqlite", "old")
    for suffix in ("-wal", "-shm", "-journal"):
        (folder / f"app.db{suffix}").write_bytes(b"")
    manager = BackupManager(tmp_path / "repository", databases=[source, other], directories=[folder])
    backup = manager.create_backup()
    assert {file.path for file in manager.list_files(backup.name, "data")} == {"one", "two", "sub", "sub/three"}
    for name in ("-wal", "-shm", "-journal"):
        (folder / f"app.db{name}").unlink()
    write(folder / "sub", "new")
    database(path, "new", "newer")
    with closing(sqlite3.connect(path)) as open_elsewhere:
        manager.restore_backup(backup.name, confirm=True, only={"data": [], "app.db": []})
        assert open_elsewhere.execute("SELECT v FROM t").fetchall() == [("old",)]
        open_elsewhere.execute("INSERT INTO t VALUES ('goes on')")
        open_elsewhere.commit()
    assert rows(path) == ["old", "goes on"]
    assert (folder / "sub" / "three").read_text() == "old"


def test_a_directory_in_a_directory_is_a_part_of_its_own(tmp_path: Path, folder: Path) -> None:
    manager = BackupManager(tmp_path / "repository", directories=[folder, folder / "sub"])
    backup = manager.create_backup()
    assert {(file.part, file.path) for file in manager.list_files(backup.name)} == {
        ("data", "one"),
        ("data", "two"),
        ("sub", "three"),
    }
    write(folder, "new")
    (folder / "sub" / "extra").write_text("new")
    manager.restore_backup(backup.name, confirm=True)
    assert texts(folder) == {"one": "old", "two": "old", "sub/three": "old"}
    with pytest.raises(InvalidArgument, match="Two directories"):
        BackupManager(tmp_path / "repository", directories=[folder, Directory(folder, name="again")])


def test_two_parts_do_not_go_to_one_target(tmp_path: Path, folder: Path) -> None:
    one, two = database(tmp_path / "one.db", "1"), database(tmp_path / "two.db", "2")
    manager = BackupManager(tmp_path / "repository", databases=[one, two])
    manager.create_backup()
    with pytest.raises(InvalidArgument, match=r"Two parts cannot be restored to .*one\.db"):
        manager.restore_backup("latest", confirm=True, to={"two.db": one})
    assert rows(tmp_path / "one.db") == ["1"]


# --- some paths -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["nope", "one/below", "no/such/folder", "../data/one"])
def test_all_paths_are_looked_at_before_the_first_is_touched(tmp_path: Path, folder: Path, wrong: str) -> None:
    manager = BackupManager(tmp_path / "repository", directories=[folder])
    manager.create_backup()
    write(folder, "new")
    with pytest.raises(InvalidArgument, match="Nothing was changed"):
        manager.restore_backup("latest", confirm=True, only={"data": ["one", wrong]})
    assert set(texts(folder).values()) == {"new"}
    manager.restore_backup("latest", confirm=True, only={"data": ["one", "sub/three", "sub"]})
    assert texts(folder) == {"one": "old", "two": "new", "sub/three": "old"}


# --- the working directory --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("below", [".", "sub"])
def test_a_process_that_stands_in_the_directory_goes_on(
    tmp_path: Path, folder: Path, below: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    manager = BackupManager(tmp_path / "repository", directories=["."])
    os.chdir(below)
    with pytest.raises(ZeroDivisionError), safe_experiment(manager):
        write(folder, "new")
        raise ZeroDivisionError
    assert texts(folder) == {"one": "old", "two": "old", "sub/three": "old"}
    Path("written").write_text("after")
    assert (folder / below / "written").read_text() == "after"
    assert manager.create_backup().files == 4


# --- dry runs, and what stays -----------------------------------------------------------------------------------------


def test_a_dry_run_says_what_a_restore_would_change(tmp_path: Path, folder: Path) -> None:
    source = database(tmp_path / "app.db", "1", "2")
    manager = BackupManager(tmp_path / "repository", databases=[source], directories=[folder])
    manager.create_backup()
    report = manager.restore_backup("latest", dry_run=True)
    assert [change.identical for change in report.changes] == [True, True]
    (folder / "one").write_text("longer than it was")
    (folder / "two").unlink()
    (folder / "extra").write_text("x")
    database(tmp_path / "app.db", "1")
    report = manager.restore_backup("latest", dry_run=True)
    counts, files = report.changes
    assert [(each.table, each.old, each.new) for each in counts.counts] == [("t", 1, 2)]
    assert {(each.path, each.change) for each in files.files} == {
        ("extra", "deleted"),
        ("one", "changed"),
        ("two", "added"),
    }
    assert report.dry_run
    assert report.restored == ()
    assert (folder / "extra").exists()
    assert rows(tmp_path / "app.db") == ["1"]
    kept = manager.restore_backup("latest", dry_run=True, keep_extra=True, only={"data": []})
    assert {each.path for each in kept.changes[0].files} == {"one", "two"}


def test_what_the_backup_lacks_stays_if_it_is_to(tmp_path: Path, folder: Path) -> None:
    manager = BackupManager(tmp_path / "repository", directories=[folder])
    manager.create_backup()
    write(folder, "new")
    (folder / "sub" / "extra").write_text("mine")
    manager.restore_backup("latest", confirm=True, keep_extra=True)
    assert texts(folder) == {"one": "old", "two": "old", "sub/three": "old", "sub/extra": "mine"}
    manager.restore_backup("latest", confirm=True)
    assert texts(folder) == {"one": "old", "two": "old", "sub/three": "old"}


def test_only_files_that_differ_are_written(tmp_path: Path, folder: Path) -> None:
    manager = BackupManager(tmp_path / "repository", directories=[folder])
    manager.create_backup()
    before = (folder / "two").stat().st_ino
    (folder / "one").write_text("new")
    report = manager.restore_backup("latest", confirm=True, only_changed=True)
    assert (set(texts(folder).values()), report.unchanged) == ({"old"}, 2)
    assert (folder / "two").stat().st_ino == before
    assert manager.restore_backup("latest", confirm=True).unchanged == 0


def test_only_bytes_that_differ_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    grown, same, sparse = folder / "grown", folder / "same", folder / "sparse"
    for file in (grown, same):
        file.write_bytes(os.urandom(3_000_000))
    with sparse.open("wb") as holes:
        holes.seek(5_000_000)
        holes.write(os.urandom(500_000))
    (folder / "small").write_text("small")
    manager = BackupManager(tmp_path / "repository", directories=[folder])
    manager.create_backup()
    packs = {path for path in (tmp_path / "repository" / "packs").rglob("*") if path.is_file()}
    with grown.open("ab") as more:
        more.write(os.urandom(1_000_000))
    (folder / "small").write_text("other")
    manager.create_backup()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for path in packs:
        path.rename(tmp_path / path.name)

    grown.write_bytes(before["grown"][:3_000_000])
    (folder / "small").unlink()
    report = manager.restore_backup("latest", confirm=True, only_changed=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert report.unchanged == 2

    same.write_bytes(bytes(3_000_000))  # no file has its bytes any more
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(RestoreFailed, match="Nothing was changed"):
        manager.restore_backup("latest", confirm=True, only_changed=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == after
    for path in packs:
        (tmp_path / path.name).rename(path)
    manager.restore_backup("latest", confirm=True, only_changed=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_journal_that_makes_no_sense_stops_nothing(tmp_path: Path, folder: Path) -> None:
    from prefect_snapshots.backups.journal import apply_restore_event
    from prefect_snapshots.repository.catalog import Event

    good = {"id": "a", "backup": "b", "host": "h", "lock": "../../etc", "parts": []}
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("restore", {}),
        ("restore", {**good, "parts": [{"name": 1}]}),
        ("restore", good),
        ("restore-step", {"id": "a", "part": "x", "state": "odd"}),
        ("restore-step", {"id": "unknown", "part": "x", "state": "new"}),
        ("restore-end", {}),
        ("something-else", {}),
    ]
    found: dict[str, RestoreRecord] = {}
    for number, (kind, body) in enumerate(bodies, 1):
        apply_restore_event(found, Event(number, b"", 0, b"", 0, kind, body))
    assert list(found) == ["a"]
    assert not found["a"].runs
    for number in range(300):
        apply_restore_event(found, Event(number, b"", 0, b"", 0, "restore", {**good, "id": str(number)}))
    assert len(found) == 100


def test_a_repository_that_is_only_read_restores_without_a_journal(tmp_path: Path, folder: Path) -> None:
    from prefect_snapshots import Repository

    BackupManager(tmp_path / "repository", directories=[folder]).create_backup()
    write(folder, "new")
    reading = BackupManager(Repository(tmp_path / "repository", read_only=True), directories=[folder])
    reading.restore_backup("latest", confirm=True)
    assert set(texts(folder).values()) == {"old"}
    assert reading.drill().ok
    assert reading.get_backup("latest").proven_at is None
