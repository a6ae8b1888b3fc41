"""Results that are lost are noticed: closed segments, merged ones, and what a kill has left."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
from servers import Storage

from prefect_snapshots.checkpoints import CheckpointManager, Snapper, open_log
from prefect_snapshots.checkpoints.merging import merge
from prefect_snapshots.errors import DamagedObject, IntegrityError
from prefect_snapshots.repository import Repository
from prefect_snapshots.repository.location import Location
from prefect_snapshots.repository.logs import Extent, note_extents

COUNT = 12


def opened(storage: Storage) -> Repository:
    """The repository, as another process would open it."""
    return Repository(storage.url, storage_options=storage.storage_options)


@pytest.fixture
def repository(storage: Storage) -> Repository:
    return opened(storage)


def snapper(items: Any, repository: Repository, calls: list[int] | None = None) -> Snapper[Any, Any]:
    def process(item: int) -> list[int]:
        if calls is not None:
            calls.append(item)
        return [item] * 40

    return Snapper(items, process, repository=repository, name="work", function_version=1, batch_size=3)


def segments(repository: Repository) -> list[str]:
    """The objects that hold the results."""
    listed = [info.path for info in repository.location.list("logs") if "/claims/" not in info.path]
    return sorted(path for path in listed if repository.location.appends or path.endswith("/whole"))


def delete(location: Location, path: str) -> None:
    location.delete([path])
    if not location.appends:  # a killed prune may have left records beside the whole
        location.delete([info.path for info in location.list(path.rpartition("/")[0])])


def rewrite(change: Callable[[bytes], bytes]) -> Callable[[Location, str], None]:
    def damage(location: Location, path: str) -> None:
        location.replace(path, change(location.read(path)))

    return damage


def at_a_record(data: bytes) -> bytes:
    """The segment as it was after its second record: nothing in it tells that there was more."""
    marker = b"\x89PSLOG\r\n"
    return data[: data.index(marker, data.index(marker, 1) + 1)]


def without_records(data: bytes) -> bytes:
    """Its footer alone."""
    return data[data.rindex(b"\x89PSLOG\r\n") :]


LOSSES: dict[str, Callable[[Location, str], None]] = {
    "deleted": delete,
    "emptied": rewrite(lambda data: b"\n"),
    "cut at a record": rewrite(at_a_record),
    "cut within a record": rewrite(lambda data: data[: len(data) // 2]),
    "cut within its footer": rewrite(lambda data: data[:-20]),
    "its footer alone": rewrite(without_records),
    "zeros": rewrite(lambda data: bytes(len(data))),
    "more at its end": rewrite(lambda data: data + data),
}


def assert_named(storage: Storage, path: str) -> None:
    """The loss is named by whoever looks, and hides nothing else."""
    fresh = opened(storage)
    where = path.removesuffix("/whole")
    for found in (fresh.check(), fresh.check(read_data=True)):
        assert not found.ok
        assert any(problem.path.startswith(where) and problem.versions for problem in found.problems), found.problems
    manager = CheckpointManager(fresh)
    looks: list[Callable[[], Any]] = [
        lambda: snapper(range(COUNT), fresh).load(),
        lambda: snapper(range(COUNT), fresh).load_all(),
        lambda: snapper(range(COUNT), fresh).start(),
        lambda: manager.load_checkpoint("work"),
        lambda: manager.report("work"),
    ]
    for look in looks:
        with pytest.raises(DamagedObject, match=where):
            look()
    [info] = manager.list_checkpoints("work")
    assert info.damage
    assert where in info.damage
    assert not any(info.damage for info in manager.list_checkpoints() if info.name == "other")


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("merged", [False, True], ids=["closed", "merged"])
def test_a_lost_segment_is_named_and_repaired(local_storage: Storage, loss: str, merged: bool) -> None:
    lose_and_repair(local_storage, loss, merged)


@pytest.mark.parametrize(
    "loss", [*(pytest.param(each, marks=pytest.mark.nightly) for each in ("deleted", "emptied")), "cut at a record"]
)
def test_a_lost_segment_is_named_and_repaired_in_every_storage(main_storage: Storage, loss: str) -> None:
    lose_and_repair(main_storage, loss, merged=False)


def lose_and_repair(storage: Storage, loss: str, merged: bool) -> None:
    repository = opened(storage)
    Snapper([1], abs, repository=repository, name="other", batch_size=10).start()
    parts = [range(COUNT)] if not merged else [range(first, first + 1) for first in range(COUNT)]
    for part in parts:
        snapper(part, repository).start()
    if merged:
        assert merge(open_log(snapper([], repository).job)) == COUNT
        repository.prune()
    paths = [path for path in segments(repository) if repository.location.size(path) is not None]
    path = max(paths, key=lambda one: repository.location.size(one) or 0)
    LOSSES[loss](repository.location, path)
    if loss == "zeros":  # the size is right: only reading tells
        assert not opened(storage).check(read_data=True).ok
    else:
        assert_named(storage, path)
    planned = repository.repair(dry_run=True)
    assert any(path.removesuffix("/whole") in problem.path for problem in planned.lost)
    assert not repository.check(read_data=True).ok
    report = repository.repair()
    assert any("work" in label for problem in report.lost for label in problem.versions)
    assert repository.check(read_data=True).ok
    calls: list[int] = []
    fresh = opened(storage)
    again = snapper(range(COUNT), fresh, calls)
    again.start()
    assert again.load() == [[item] * 40 for item in range(COUNT)]
    if loss == "more at its end":
        assert calls == []
    elif loss == "cut at a record":
        assert calls == list(range(2 if merged else 6, COUNT))
    assert Snapper([1], abs, repository=fresh, name="other").load() == [1]


KILLED = """
    import json, os, signal, sys
    from prefect_snapshots import Repository
    from prefect_snapshots.checkpoints import Snapper
    def process(item):
        if item == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        return [item] * 40
    repository = Repository(sys.argv[1], storage_options=json.loads(sys.argv[2]))
    Snapper(range(12), process, repository=repository, name="work", function_version=1, batch_size=3).start()
"""


@pytest.mark.parametrize(
    "loss", [*(pytest.param(each, marks=pytest.mark.nightly) for each in ("deleted", "emptied")), "cut at a record"]
)
def test_what_a_kill_has_left_is_vouched_for_by_the_next_start(local_storage: Storage, loss: str) -> None:
    command = [sys.executable, "-c", textwrap.dedent(KILLED), local_storage.url, "{}"]
    assert subprocess.run(command, check=False).returncode == -9
    repository = Repository(local_storage.url)
    [path] = segments(repository)
    calls: list[int] = []
    snapper(range(COUNT), repository, calls).start()
    assert calls == [9, 10, 11]
    assert repository.check(read_data=True).ok
    LOSSES[loss](repository.location, path)
    assert_named(local_storage, path)
    repository.repair()
    assert repository.check(read_data=True).ok
    snapper(range(COUNT), Repository(local_storage.url), calls).start()
    assert sorted(calls[3:]) == list(range(6 if loss == "cut at a record" else 0, 9))


@pytest.mark.parametrize("kind", ["s3", "gcs"])
def test_what_a_kill_has_left_in_a_bucket_is_gone_on_with(kind: str, request: pytest.FixtureRequest) -> None:
    """There, an open segment has an object for each record."""
    storage: Storage = request.getfixturevalue(f"{kind}_storage")
    options = json.dumps(storage.storage_options)
    command = [sys.executable, "-c", textwrap.dedent(KILLED), storage.url, options]
    assert subprocess.run(command, check=False).returncode == -9
    calls: list[int] = []
    snapper(range(COUNT), opened(storage), calls).start()
    assert calls == [9, 10, 11]
    assert snapper(range(COUNT), opened(storage)).load() == [[item] * 40 for item in range(COUNT)]
    assert opened(storage).check(read_data=True).ok
    opened(storage).prune()
    assert snapper(range(COUNT), opened(storage)).load() == [[item] * 40 for item in range(COUNT)]


def test_a_segment_swapped_for_an_older_one_of_the_same_size_is_damage(local_storage: Storage) -> None:
    repository = Repository(local_storage.url)
    snapper(range(COUNT), repository).start()
    [path] = segments(repository)
    data = bytearray(repository.location.read(path))
    data[len(data) // 3] ^= 1
    repository.location.replace(path, bytes(data))
    found = Repository(local_storage.url).check(read_data=True)
    assert [problem.path for problem in found.problems] == [path]


def test_a_reader_that_was_overtaken_sees_no_damage(repository: Repository) -> None:
    for item in range(COUNT):
        snapper([item], repository).start()
    job = snapper(range(COUNT), repository).job
    late = open_log(job)
    assert merge(open_log(job)) == COUNT
    repository.prune()
    late.refresh()
    late.poll()
    assert snapper(range(COUNT), repository).load() == [[item] * 40 for item in range(COUNT)]
    assert repository.check(read_data=True).ok


@pytest.mark.parametrize(
    "body",
    [
        {"closes": "a", "records": 1},
        {"closes": "a", "records": -1, "size": 2, "hash": b""},
        {"closes": "a", "records": 2**62, "size": 2, "hash": b""},
        {"closes": "a", "records": "1", "size": 2, "hash": b""},
        {"closes": "a", "records": 1, "size": 2.0, "hash": b""},
        {"closes": "a", "records": True, "size": 2, "hash": b""},
        {"closes": "a", "records": 1, "size": 2, "hash": "text"},
        {"seen": {"a": [1]}},
        {"seen": {"a": 1}},
        {"seen": [1]},
    ],
)
def test_extents_that_make_no_sense_are_damage(body: dict[str, Any]) -> None:
    known: dict[str, Extent] = {}
    with pytest.raises(IntegrityError, match="impossible log segment"):
        note_extents(body, known)
