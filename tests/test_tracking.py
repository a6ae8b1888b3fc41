"""Readers never wait for writers, what they get never changes, and nothing is created by looking; also across forks."""

from __future__ import annotations

import multiprocessing
import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fsspec.asyn import get_lock
from servers import Storage

from prefect_snapshots import (
    ArtifactRegistry,
    BackupManager,
    Repository,
    RetentionPolicy,
    SnapshotManager,
)
from prefect_snapshots.artifacts.streams import Artifacts
from prefect_snapshots.backups.history import BackupHistory
from prefect_snapshots.checkpoints.ledger import Ledger
from prefect_snapshots.checkpoints.log import Log
from prefect_snapshots.errors import RepositoryNotFound, UsageError
from prefect_snapshots.integration.snapshots import decorator
from prefect_snapshots.repository.catalog import Event
from prefect_snapshots.repository.commits import Draft
from prefect_snapshots.repository.index import Index
from prefect_snapshots.repository.location import LocalLocation, open_location
from prefect_snapshots.repository.location.local import _FileAppender
from prefect_snapshots.repository.threads import Lock, Turns, pool
from prefect_snapshots.repository.tracking import TrackedStream
from prefect_snapshots.results import ResultLog

LARGE = np.random.default_rng(0).standard_normal(100_000)
PATIENCE = 30.0
POLICY = RetentionPolicy(keep_last=1)


class GatedLocation(LocalLocation):
    """A directory on which writing a pack waits until the test opens the gate."""

    gate: threading.Event
    reached: threading.Event

    def writer(self, path: str, *, read_soon: bool = True) -> Any:
        if path.startswith("packs/"):
            self.reached.set()
            assert self.gate.wait(PATIENCE), "the gate was never opened"
        return super().writer(path, read_soon=read_soon)


@pytest.fixture
def gated(tmp_path: Path) -> Repository:
    """A repository whose packs wait at a gate, which is open."""
    repository = Repository(tmp_path / "repository")
    location = GatedLocation("file", str(tmp_path / "repository"), {})
    location.gate, location.reached = threading.Event(), threading.Event()
    location.gate.set()
    repository.location = location
    return repository


@contextmanager
def writing(repository: Repository, write: Callable[[], Any]) -> Iterator[threading.Thread]:
    """Within the block, `write` waits in the middle of storing its content."""
    location = repository.location
    assert isinstance(location, GatedLocation)
    location.gate.clear()
    location.reached.clear()
    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert location.reached.wait(PATIENCE)
        yield thread
    finally:
        location.gate.set()
        thread.join(PATIENCE)
    assert not thread.is_alive()


def in_time(call: Callable[[], Any]) -> Any:
    """What a call returns in another thread, which must not wait for anything."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(call()), daemon=True)
    thread.start()
    thread.join(PATIENCE / 3)
    assert found, "it waits for the writer"
    return found[0]


# --- looking beside writing ---------------------------------------------------------------------------------------


def test_snapshots_are_listed_beside_a_save(gated: Repository) -> None:
    manager = SnapshotManager(gated)
    manager.save_snapshot(1, "first")
    with writing(gated, lambda: manager.save_async(LARGE, "second").result()):
        assert len(in_time(manager.list_snapshots)) == 1
        assert in_time(lambda: manager["first"].data) == 1
        in_time(lambda: manager.pin("first"))
    assert len(manager) == 2


def test_an_artifact_is_looked_at_beside_a_log_of_it(gated: Repository) -> None:
    registry = ArtifactRegistry(gated)
    registry.log_artifact("model", b"small", handler="pytree")
    with writing(gated, lambda: registry.log_artifact("model", LARGE.tobytes(), handler="pytree")):
        assert in_time(lambda: registry.get_artifact("model")).version == "v0"
        in_time(lambda: registry.set_alias("model", "v0", "good"))
    assert registry.get_artifact("model").version == "v1"


def test_backups_are_listed_beside_a_backup(gated: Repository, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_bytes(LARGE.tobytes())
    manager = BackupManager(
        gated, name="project", directories=[tmp_path / "data"], retention=RetentionPolicy(keep_last=50)
    )
    manager.create_backup()
    np.random.default_rng(1).standard_normal(100_000).tofile(tmp_path / "data" / "file")
    stop = threading.Event()
    errors: list[BaseException] = []

    def look() -> None:
        try:
            while not stop.is_set():
                manager.list_backups()
        except BaseException as error:
            errors.append(error)

    with writing(gated, manager.create_backup):
        assert len(in_time(manager.list_backups)) == 1
        lookers = [threading.Thread(target=look) for _ in range(2)]
        for looker in lookers:
            looker.start()
    for _ in range(10):
        manager.create_backup()
    stop.set()
    for looker in lookers:
        looker.join(PATIENCE)
    assert not errors
    assert len(manager.list_backups()) == 12


def test_a_result_is_read_beside_a_write_of_it(gated: Repository) -> None:
    results = ResultLog(gated)
    results.write("key", b"old")
    with writing(gated, lambda: results.write("key", LARGE.tobytes())):
        assert in_time(lambda: results.read("key")) == b"old"
        assert in_time(results.keys) == ["key"]
    assert results.read("key") == LARGE.tobytes()


# --- states and their order ---------------------------------------------------------------------------------------


class Words:
    """The words that were committed, by the number of their event."""

    def __init__(self) -> None:
        self.words: dict[int, str] = {}

    def copy(self) -> Words:
        other = Words()
        other.words = dict(self.words)
        return other

    def apply(self, event: Event) -> None:
        self.words[event.sequence] = event.body["word"]


def track(repository: Repository) -> TrackedStream[Words]:
    return TrackedStream(repository, "words", "all", Words())


def say(tracked: TrackedStream[Words], word: str, data: bytes = b"") -> None:
    tracked.put(lambda: Draft("say", {"word": word}), b"", [data])


def test_a_state_never_changes(tmp_path: Path) -> None:
    tracked, rival = track(Repository(tmp_path / "r")), track(Repository(tmp_path / "r"))
    say(tracked, "one")
    before, viewed = tracked.refresh(), tracked.view
    say(rival, "two")
    after = tracked.refresh()
    say(tracked, "three")
    assert list(before.words.values()) == list(viewed.words.values()) == ["one"]
    assert list(after.words.values()) == ["one", "two"]
    assert list(tracked.refresh().words.values()) == ["one", "two", "three"]


def test_nothing_is_copied_unless_somebody_looks(tmp_path: Path) -> None:
    tracked = track(Repository(tmp_path / "r"))
    state = tracked.state
    for number in range(5):
        say(tracked, str(number))
    assert tracked.state is state


def test_reading_one_version_between_writes_copies_no_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a write would take longer with each version that exists."""
    repository = Repository(tmp_path / "repository")
    registry, results = ArtifactRegistry(repository), ResultLog(repository)
    snapshots = SnapshotManager(repository, name="model")
    copies: list[object] = []
    apply = TrackedStream._apply

    def counted(tracked: TrackedStream[Any], event: Event) -> None:
        before = tracked.state
        apply(tracked, event)
        if tracked.state is not before:
            copies.append(event)

    monkeypatch.setattr(TrackedStream, "_apply", counted)
    for number in range(3):
        registry.log_artifact("features", {"x": number}, handler="json")
        assert registry.get_artifact("features").version == f"v{number}"
        registry.set_stage("features", f"v{number}", "production")
        results.write("key", b"%d" % number)
        assert results.exists("key")
        assert results.read("key") == b"%d" % number
        snapshots.save_snapshot(number, snapshot_id=f"s{number}")
        assert snapshots.get_snapshot(f"s{number}").data == number
    assert copies == []


def test_saves_land_in_the_order_of_the_calls(gated: Repository) -> None:
    tracked = track(gated)
    with writing(gated, lambda: say(tracked, "long", LARGE.tobytes())):
        later = [threading.Thread(target=say, args=(tracked, word)) for word in ("short", "shorter")]
        for number, thread in enumerate(later):
            thread.start()
            while len(tracked._turns._waiting) < number + 2:
                pass
        assert tracked.refresh().words == {}
    for thread in later:
        thread.join(PATIENCE)
    assert list(tracked.refresh().words.values()) == ["long", "short", "shorter"]


def test_a_turn_is_passed_on_by_a_call_that_fails() -> None:
    turns = Turns()
    with pytest.raises(ZeroDivisionError), turns.turn():
        raise ZeroDivisionError
    with turns.turn():
        pass


# --- nothing is created --------------------------------------------------------------------------------------------

CHANGES: dict[str, Callable[[Repository], Any]] = {
    "cleanup of snapshots": lambda r: SnapshotManager(r).cleanup(POLICY, dry_run=True),
    "pin of a snapshot": lambda r: SnapshotManager(r).pin("x"),
    "delete of a snapshot": lambda r: SnapshotManager(r).remove_snapshot("x"),
    "list of snapshots": lambda r: SnapshotManager(r).list_snapshots(),
    "cleanup of artifacts": lambda r: ArtifactRegistry(r).cleanup(POLICY, dry_run=True),
    "alias of an artifact": lambda r: ArtifactRegistry(r).set_alias("x", "v0", "good"),
    "list of artifacts": lambda r: ArtifactRegistry(r).list_artifacts(),
    "cleanup of backups": lambda r: BackupManager(r, name="x").cleanup(dry_run=True),
    "delete of a backup": lambda r: BackupManager(r, name="x").delete_backup("x"),
    "list of backups": lambda r: BackupManager(r, name="x").list_backups(),
    "delete of a result": lambda r: ResultLog(r).delete(["x"]),
    "a change without content": lambda r: track(r).change(lambda: Draft("say", {"word": "x"})),
    "a dry run": lambda r: track(r).change(lambda: Draft("say", {"word": "x"}), dry_run=True),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("read_only", [False, True])
def test_nothing_is_created_where_nothing_is(
    change: Callable[[Repository], Any], read_only: bool, tmp_path: Path
) -> None:
    with suppress(UsageError, RepositoryNotFound):
        change(Repository(tmp_path / "none", read_only=read_only))
    assert not (tmp_path / "none").exists()


def test_a_refused_change_registers_nothing(tmp_path: Path) -> None:
    say(track(Repository(tmp_path / "r")), "one")
    with pytest.raises(UsageError):
        SnapshotManager(Repository(tmp_path / "r")).pin("x")
    assert Repository(tmp_path / "r").names("snapshots") == []


def test_dry_runs_answer_on_a_repository_that_is_only_read(tmp_path: Path) -> None:
    place = tmp_path / "r"
    (tmp_path / "data").mkdir()
    for number in range(2):
        SnapshotManager(place).save_snapshot(number)
        ArtifactRegistry(place).log_artifact("model", b"%d" % number, handler="pytree")
        BackupManager(place, name="x", directories=[tmp_path / "data"]).create_backup()
    before = sorted(path for path in place.rglob("*"))
    only_read = Repository(place, read_only=True)
    assert SnapshotManager(only_read).cleanup(POLICY, dry_run=True)
    assert ArtifactRegistry(only_read).cleanup(POLICY, dry_run=True)
    assert BackupManager(only_read, name="x").cleanup(dry_run=True)
    assert sorted(path for path in place.rglob("*")) == before


# --- forks ---------------------------------------------------------------------------------------------------------


@contextmanager
def held(lock: AbstractContextManager[Any]) -> Iterator[None]:
    """Another thread holds the lock within the block."""
    taken, done = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            taken.set()
            done.wait(PATIENCE)

    thread = threading.Thread(target=hold)
    thread.start()
    assert taken.wait(PATIENCE)
    yield
    done.set()
    thread.join()


def in_child(call: Callable[[], bool]) -> bool:
    """Whether a call succeeds in a forked child, which an alarm kills when it hangs."""
    import signal

    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(int(PATIENCE / 3))
            status = 0 if call() else 2
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_forked_child_reads_while_a_thread_saves(gated: Repository) -> None:
    manager = SnapshotManager(gated)
    manager.save_snapshot(LARGE, "first")
    with writing(gated, lambda: manager.save_snapshot(-LARGE, "second")):
        assert in_child(lambda: bool((manager["first"].data == LARGE).all()))


def saved_by(manager: SnapshotManager[Any], name: str) -> bool:
    return manager.save_snapshot(LARGE, name) == name


def test_a_forked_child_appends_before_and_after_its_parent(tmp_path: Path) -> None:
    """Each knows the stream as of the fork, and lands behind the other one."""
    repository = Repository(tmp_path / "repository")
    manager = SnapshotManager(repository, name="shared")
    manager.save_snapshot(-LARGE, "first")
    parent_saves, goes_on = os.pipe()
    forks, forked = os.pipe()

    def after_the_parent() -> bool:
        os.write(forked, b"x")
        assert os.read(parent_saves, 1) == b"x"
        return saved_by(manager, "third")

    with ThreadPoolExecutor(1) as threads:
        child = threads.submit(in_child, after_the_parent)
        assert os.read(forks, 1) == b"x"
        assert saved_by(manager, "second")
        os.write(goes_on, b"x")
        assert child.result(PATIENCE)
    assert in_child(lambda: saved_by(manager, "fourth"))
    assert saved_by(manager, "fifth")
    assert [info.id for info in manager.list_snapshots()] == ["fifth", "fourth", "third", "second", "first"]
    assert repository.check(read_data=True).ok


def test_a_spawned_child_appends_what_its_parent_reads(tmp_path: Path) -> None:
    manager = SnapshotManager(tmp_path / "repository", name="shared")
    manager.save_snapshot(-LARGE, "first")
    child = multiprocessing.get_context("spawn").Process(target=saved_by, args=(manager, "second"))
    child.start()
    assert saved_by(manager, "third")
    child.join(PATIENCE)
    assert child.exitcode == 0
    assert {info.id for info in manager.list_snapshots()} == {"first", "second", "third"}


def locks_of(tracked: TrackedStream[Words]) -> dict[str, Lock]:
    """Every lock of the storage layer, by the class that has it."""
    opened = tracked.repository.parts()
    return {
        "Stream": tracked.stream.lock,
        "Catalog": opened.catalog.root.lock,
        "Index": opened.index._lock,
        "Repository": tracked.repository._opener.lock,
    }


@pytest.mark.parametrize("which", ["Stream", "Catalog", "Index", "Repository"])
def test_a_lock_that_another_thread_holds_is_free_in_a_child(which: str, tmp_path: Path) -> None:
    tracked = track(Repository(tmp_path / "r"))
    say(tracked, "one", LARGE.tobytes())
    say(tracked, "two")

    def works() -> bool:
        say(tracked, "three", (-LARGE).tobytes())
        words = list(tracked.refresh().words.values())
        content = tracked.repository.read(tracked.stream, tracked.events[0])
        return words == ["one", "two", "three"] and content.read(0, content.body_size) == LARGE.tobytes()

    with held(locks_of(tracked)[which]):
        assert in_child(works)
    assert list(tracked.refresh().words.values()) == ["one", "two", "three"]


def test_the_first_request_of_another_thread_hangs_no_child(s3_storage: Storage) -> None:
    location = open_location(s3_storage.url, s3_storage.storage_options)
    with held(get_lock()):  # as while a thread starts the loop in which all requests run
        assert in_child(lambda: location.size("nothing") is None)


def test_what_a_thread_was_changing_is_read_anew_in_a_child(tmp_path: Path) -> None:
    tracked = track(Repository(tmp_path / "r"))
    say(tracked, "one", LARGE.tobytes())
    index: Index = tracked.repository.parts().index
    with held(tracked.stream.lock), held(index._lock):
        tracked.state.words.clear()  # as if the thread were about to fill it
        assert in_child(lambda: tracked.refresh().words == {1: "one"})
        assert in_child(lambda: not index.loaded and index.load() and len(index) > 0)


def test_a_fork_within_a_draft_keeps_the_lock(tmp_path: Path) -> None:
    tracked = track(Repository(tmp_path / "r"))
    say(tracked, "one")
    with tracked.stream.lock:
        assert in_child(lambda: tracked.refresh().words == {1: "one"})


def test_turns_begin_anew_in_a_child() -> None:
    turns = Turns()

    def has_turn() -> bool:
        with turns.turn():
            return True

    with turns.turn():
        assert in_child(has_turn)


def test_pools_begin_anew_in_a_child() -> None:
    assert pool("compute").submit(int).result() == 0
    assert in_child(lambda: pool("compute").submit(int).result() == 0)


def owners_of_locks(tmp_path: Path) -> dict[str, tuple[Any, Callable[[], object]]]:
    """What holds a lock above the storage layer: its lock, and a use of it that takes the lock."""
    repository = Repository(tmp_path / "r")
    SnapshotManager(repository).save_snapshot(1, "one")
    artifacts, history = Artifacts(repository), BackupHistory(repository, "b")
    ledger, log, results = Ledger(), Log(repository, "job", "f"), ResultLog(repository, "shared")
    file = os.open(tmp_path / "file", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    appender = _FileAppender("file", file)
    return {
        "Artifacts": (artifacts._lock, lambda: artifacts.artifact("name", "default")),
        "History": (history._lock, history.backups),
        "Ledger": (ledger._lock, ledger._lock.__enter__),
        "Log": (log.lock, log.refresh),
        "ResultLog": (results._lock, lambda: results.write("key", b"value")),
        "_FileAppender": (appender._lock, lambda: appender.append(b"x")),
        "decorator": (decorator._counting, decorator._counting.__enter__),
    }


@pytest.mark.parametrize("which", ["Artifacts", "History", "Ledger", "Log", "ResultLog", "_FileAppender", "decorator"])
def test_what_another_thread_uses_can_be_used_in_a_child(which: str, tmp_path: Path) -> None:
    lock, use = owners_of_locks(tmp_path)[which]
    with held(lock):
        assert in_child(lambda: (use(), True)[1])


def test_every_lock_is_one_that_a_fork_renews() -> None:
    allowed = {
        "repository/threads.py",  # makes them
        "checkpoints/fingerprint.py",  # asks whether a value is a lock
        "testing/locations.py",  # has two writers begin at once
        "values/encoding.py",  # an example of a value that cannot be stored
    }
    package = Path(__file__).parent.parent / "prefect_snapshots"
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"threading\.(R?Lock|Condition|Semaphore|BoundedSemaphore|Barrier)\(", path.read_text())
    }
    assert found == allowed
