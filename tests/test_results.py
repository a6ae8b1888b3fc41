"""Results by key: what is written comes back in any process, the last write counts, and writers lose nothing."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers import Storage

from prefect_snapshots import Repository
from prefect_snapshots.errors import DamagedObject, IntegrityError, InvalidArgument
from prefect_snapshots.repository import keyed
from prefect_snapshots.repository.keyed import ELSEWHERE, VALUE, Listed, Value
from prefect_snapshots.repository.reserve import RESERVE
from prefect_snapshots.repository.sealing import Sealer
from prefect_snapshots.results import Result, ResultLog


def size_of(directory: Path) -> int:
    """Bytes of all files, but for the reserve that prune keeps for a full disk."""
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file() and file.name != RESERVE)


@pytest.fixture
def repository(storage: Storage) -> Repository:
    return Repository(storage.url, storage_options=storage.storage_options)


@pytest.mark.parametrize("size", [0, 10, 200_000])
def test_results_come_back_in_another_process(repository: Repository, storage: Storage, size: int) -> None:
    data = random.Random(size).randbytes(size)
    ResultLog(repository).write("a/key with spaces.json", data)
    elsewhere = ResultLog(Repository(storage.url, storage_options=storage.storage_options))
    assert elsewhere.read("a/key with spaces.json") == data
    assert elsewhere.exists("a/key with spaces.json")


def test_the_latest_write_of_a_key_counts(repository: Repository) -> None:
    log, rival = ResultLog(repository), ResultLog(repository)
    log.write("key", b"first")
    assert rival.read("key") == b"first"
    rival.write("key", b"second")
    assert log.read("key") == b"second"
    assert log.keys() == ["key"]


def test_a_missing_result_is_a_missing_file(repository: Repository) -> None:
    log = ResultLog(repository)
    assert not log.exists("key")
    assert log.keys() == []
    with pytest.raises(FileNotFoundError, match="There is no result 'key'"):
        log.read("key")
    assert not repository.exists(), "reading creates no repository"


def test_names_keep_equal_keys_apart(repository: Repository) -> None:
    ResultLog(repository, "values").write("key", b"value")
    ResultLog(repository, "keys").write("key", b"key")
    assert ResultLog(repository, "values").read("key") == b"value"
    assert ResultLog(repository, "values").keys() == ["key"]
    assert ResultLog(repository).keys() == []


def test_overwritten_results_are_freed(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "repository")
    log = ResultLog(repository)
    random_bytes = random.Random(0).randbytes
    for _ in range(3):
        log.write("key", random_bytes(1_000_000))
    assert size_of(tmp_path) > 3_000_000
    repository.prune(grace=0)
    assert size_of(tmp_path) < 1_100_000
    assert len(log.read("key")) == 1_000_000
    assert repository.check(read_data=True).ok


def test_expire_deletes_what_is_older(tmp_path: Path) -> None:
    log = ResultLog(Repository(tmp_path / "repository"))
    for number in range(20):
        log.write(f"old-{number}", b"old")
    between = datetime.now(UTC)
    log.write("old-0", b"new")
    assert log.expire(between - timedelta(days=1)) == []
    old = sorted(f"old-{number}" for number in range(1, 20))
    found = log.older_than(between)
    assert [(result.key, result.size) for result in found] == [(key, 3) for key in old]
    assert all(result.written_at < between for result in found)
    assert log.expire(between) == old
    assert log.keys() == ["old-0"]
    assert log.read("old-0") == b"new"
    assert ResultLog(Repository(tmp_path / "repository")).keys() == ["old-0"]


def keys_of(found: list[Result]) -> list[str]:
    return [result.key for result in found]


def test_the_oldest_go_until_the_rest_is_within_limits(tmp_path: Path) -> None:
    log = ResultLog(Repository(tmp_path / "repository"))
    for number in range(6):
        log.write(f"{number}", random.Random(number).randbytes(100_000 if number == 3 else 1000))
    log.write("0", random.Random(0).randbytes(500))
    log.delete(["5"])
    assert log.evict(max_size=103_500, max_count=5) == []
    assert keys_of(log.evict(max_size=103_499, dry_run=True)) == ["1"]
    assert log.evict(max_count=4, dry_run=True) == log.evict(max_count=4)
    assert log.keys() == ["0", "2", "3", "4"]
    log.write("2", b"new")
    assert keys_of(log.evict(max_size=1503)) == ["3"]
    log.write("6", b"new")
    assert keys_of(log.evict(max_count=1)) == ["0", "2", "4"]
    assert keys_of(log.evict(max_size=0)) == ["6"]
    assert ResultLog(Repository(tmp_path / "repository")).keys() == []
    assert ResultLog(Repository(tmp_path / "none")).evict(max_count=0) == []
    assert not (tmp_path / "none").exists()
    for size, count in ((None, None), (-1, None), (1, -1)):
        with pytest.raises(InvalidArgument, match="max_size or max_count"):
            log.evict(max_size=size, max_count=count)


def test_what_was_read_lately_is_evicted_last(tmp_path: Path) -> None:
    log = ResultLog(Repository(tmp_path / "repository"), keep_read=True)
    for key in "abcd":
        log.write(key, key.encode() * 70_000 if key == "a" else b"small")
    assert keys_of(log.evict(max_count=3)) == ["a"], "what was read is known only from now on"
    assert log.read("b") == b"small"
    assert keys_of(log.evict(max_count=2)) == ["c"]
    assert keys_of(log.evict(max_count=1)) == ["d"]
    assert log.read("b") == b"small"


def test_what_is_written_during_an_eviction_stays(tmp_path: Path) -> None:
    log, other = (ResultLog(Repository(tmp_path / "repository")) for _ in range(2))
    for key in "abc":
        log.write(key, b"result")
    log.evict(max_count=3)

    def write(doomed: Sequence[Result]) -> None:
        assert keys_of(list(doomed)) == ["a", "b"]
        other.write("a", b"result")
        other.write("new", b"result")

    assert keys_of(log.evict(max_count=1, before=write)) == ["b"]
    assert log.keys() == ["a", "c", "new"]
    assert other.read("a") == b"result"


def test_delete_deletes_what_there_is(repository: Repository) -> None:
    log = ResultLog(repository)
    for key in "abc":
        log.write(key, b"result")
    assert log.delete(["c", "a", "never written"]) == ["a", "c"]
    assert log.keys() == ["b"]


def write_many(url: str, writer: int) -> None:
    log = ResultLog(Repository(url))
    for number in range(10):
        log.write(f"own-{writer}-{number}", f"{writer}.{number}".encode())
        log.write("shared", f"{writer}.{number}".encode())


def test_concurrent_writers_lose_nothing(tmp_path: Path) -> None:
    url = str(tmp_path / "repository")
    with ProcessPoolExecutor(4, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(write_many, [url] * 4, range(4)))
    log = ResultLog(Repository(url))
    own = {f"own-{writer}-{number}": f"{writer}.{number}".encode() for writer in range(4) for number in range(10)}
    assert log.keys() == sorted([*own, "shared"])
    assert {key: log.read(key) for key in own} == own
    assert log.read("shared").endswith(b".9"), "the last write is the last one of some writer"


# --- one object for each small result ---------------------------------------------------------------------------------


def spent(repository: Repository, before: dict[str, int]) -> dict[str, int]:
    """The requests since an earlier time."""
    return {verb: count - before.get(verb, 0) for verb, count in repository.location.requests.items()}


def test_a_small_result_is_one_request_to_write_and_one_to_read(storage: Storage) -> None:
    repository = Repository(storage.url, storage_options=storage.storage_options)
    log = ResultLog(repository)
    log.write("warm", b"warm")
    before = dict(repository.location.requests)
    for number in range(20):
        log.write(f"key-{number}", b"result")
    written = spent(repository, before)
    assert written["PUT"] == 20
    # On a disk, what is looked for and is not there takes no time. Elsewhere a look is valid for some seconds.
    assert written.get("GET", 0) + (0 if repository.location.is_local else written.get("HEAD", 0)) <= 2
    before = dict(repository.location.requests)
    for number in range(20):
        assert log.read(f"key-{number}") == b"result"
    read = spent(repository, before)
    assert 20 <= read["GET"] <= 22
    assert not read.get("PUT")
    before = dict(repository.location.requests)
    for number in range(20):
        with pytest.raises(FileNotFoundError):
            log.read(f"none-{number}")
    assert spent(repository, before).get("HEAD", 0) <= 20


def test_many_results_are_listed_and_expired_in_few_requests(
    s3_storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyed, "LEASE", 0.5)
    repository = Repository(s3_storage.url, storage_options=s3_storage.storage_options)
    log = ResultLog(repository)
    log.write("warm", b"warm")
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda number: log.write(f"key-{number}", b"result"), range(1_100)))
    before = dict(repository.location.requests)
    repository.location.list(keyed.PREFIX)
    pages = spent(repository, before)["LIST"]
    before = dict(repository.location.requests)
    assert len(log.keys()) == 1_101
    assert {verb: count for verb, count in spent(repository, before).items() if count} == {"LIST": pages, "GET": 1}
    before = dict(repository.location.requests)
    assert len(log.expire(datetime.now(UTC) + timedelta(hours=1))) == 1_101
    found = spent(repository, before)
    assert found["LIST"] <= 5 * pages
    assert found["DELETE"] == 2
    assert sum(found.values()) < 5 * pages + 40
    assert log.keys() == []
    assert repository.location.list(keyed.PREFIX) == []


def test_results_that_are_read_are_kept(tmp_path: Path) -> None:
    log = ResultLog(Repository(tmp_path / "repository"), keep_read=True)
    for key in ("read", "unread", "large"):
        log.write(key, b"result" * (20_000 if key == "large" else 1))
    now = datetime.now(UTC)
    assert log.older_than(now, by="read") == []
    assert log.expire(now, by="read") == [], "what was read is known only from now on"
    assert log.read("read") == b"result"
    assert len(log.read("large")) == 120_000
    assert log.expire(datetime.now(UTC) - timedelta(hours=1), by="read") == []
    later = datetime.now(UTC)
    assert [result.key for result in log.older_than(later, by="read")] == ["unread"]
    assert log.expire(later, by="read") == ["unread"]
    assert log.keys() == ["large", "read"]
    assert len(log.read("large")) == 120_000
    with pytest.raises(InvalidArgument, match="by must be"):
        log.expire(later, by="never")  # type: ignore[arg-type]


def test_a_result_that_moves_while_it_is_looked_for_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One expiry lists the latest generation before a read copies a result there, and the former one after another."""

    def now() -> datetime:
        """A moment before whatever is written next, which gets the time of the last tick."""
        moment = datetime.now(UTC)
        tick = tmp_path / "tick"
        tick.touch()
        while tick.stat().st_mtime <= moment.timestamp():
            tick.touch()
        return moment

    url = str(tmp_path / "repository")
    first, second, reader = (ResultLog(Repository(url), keep_read=one) for one in (False, False, True))
    data = random.Random(0).randbytes(200_000)
    first.write("old", b"old")
    old_ends = now()
    first.write("wanted", data)
    assert first.expire(now(), by="read") == []
    begun = now()
    values = first._writing()

    def live() -> dict[str, Listed]:
        latest = [one for one in values.list() if one.generation == values.generation]
        assert reader.read("wanted") == data
        assert second.expire(begun, by="read") == []
        former = [one for one in values.list() if one.generation < values.generation]
        assert latest == former == []
        return {}

    monkeypatch.setattr(values, "live", live)
    assert first.expire(old_ends) == ["old"]
    assert reader.read("wanted") == data


def test_many_results_are_deleted_together(tmp_path: Path) -> None:
    log = ResultLog(Repository(tmp_path / "repository"))
    for number in range(120):
        log.write(f"key-{number}", b"result")
    doomed = [f"key-{number}" for number in range(1, 110)]
    assert log.delete([*doomed, "never written"]) == sorted(doomed)
    assert sorted(log.keys()) == sorted(f"key-{number}" for number in (0, *range(110, 120)))
    # The former generation is not empty now, so that the rest is replaced by notes.
    for key in doomed:
        log.write(key, b"again")
    assert log.delete(doomed) == sorted(doomed)
    assert len(log.keys()) == 11
    assert log.expire("2100-01-01") == sorted(f"key-{number}" for number in (0, *range(110, 120)))
    assert not [path for path in (tmp_path / "repository" / keyed.PREFIX).rglob("*") if path.is_file()]


def test_without_durability_nothing_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = ResultLog(Repository(tmp_path / "repository"), durable=False)
    log.write("warm", b"warm")
    monkeypatch.setattr(os, "fsync", None)
    log.write("key", b"result")
    assert log.read("key") == b"result"


def test_maintenance_covers_small_results(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "repository", password="a secret")
    copy = Repository(tmp_path / "copy")
    log = ResultLog(repository)
    for number in range(5):
        log.write(f"key-{number}", b"result %d" % number)
    log.write("large", random.Random(0).randbytes(100_000))
    log.write("long" * 100, b"result")
    log.delete(["key-4"])
    assert repository.stats().versions == 6
    assert repository.stats().logical_bytes > 100_000
    assert repository.written_since(datetime.now(UTC) - timedelta(hours=1))["results"] > 100_000
    assert repository.check(read_data=True).versions == 6
    assert repository.copy_to(copy, unencrypted=True).versions == 6
    assert ResultLog(copy).keys() == log.keys()
    assert ResultLog(copy).read("key-3") == b"result 3"
    assert len(ResultLog(copy).read("large")) == 100_000
    log.write("key-3", b"changed")
    assert repository.copy_to(copy, unencrypted=True).problems == []
    assert ResultLog(copy).read("key-3") == b"changed"

    paths = sorted((tmp_path / "repository" / keyed.PREFIX).rglob("*"), key=lambda path: path.stat().st_mtime_ns)
    for path in [path for path in paths if path.is_file()][:2]:
        *kept, last = path.read_bytes()
        path.write_bytes(bytes([*kept, last ^ 1]))
    with pytest.raises(IntegrityError):
        log.read("key-0")
    assert repository.check().ok
    assert sorted(problem.versions for problem in repository.check(read_data=True).problems) == [
        ("results/default:key-0",),
        ("results/default:key-1",),
    ]
    assert repository.repair(copy=copy, unencrypted=True).lost == []
    assert log.read("key-0") == b"result 0"
    paths[-1].write_bytes(b"garbage")
    assert len(repository.repair().lost) == 1
    assert repository.check(read_data=True).ok
    (paths[-1].parent / "0123").write_bytes(b"x")
    assert any("0123 does not belong" in note for note in repository.check().notes)


# --- the bytes of one object ------------------------------------------------------------------------------------------

SEALERS = {"plain": Sealer(bytes(16)), "encrypted": Sealer(bytes(16), bytes(32))}
PATH = f"{keyed.PREFIX}/{'0' * 32}/000000/name"

values = st.builds(
    Value,
    key=st.text(st.characters(codec="utf-8"), max_size=200),
    form=st.sampled_from([VALUE, ELSEWHERE]),
    number=st.integers(0, 2**60),
    data=st.binary(max_size=2_000),
)


@pytest.mark.parametrize("sealer", SEALERS.values(), ids=SEALERS)
@given(value=values, at=st.integers(0, 10_000), flip=st.integers(1, 255), cut=st.booleans())
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_changed_object_is_damage(sealer: Sealer, value: Value, at: int, flip: int, cut: bool) -> None:
    data = keyed.seal_value(sealer, PATH, value)
    found = keyed.open_value(sealer, PATH, data, value.key)
    assert (found.key, found.form, found.number) == (value.key, value.form, value.number)
    assert bytes(found.data) == (value.data if value.form == VALUE else b"")
    changed = bytearray(data)
    changed[at % len(data)] ^= flip
    for wrong in [bytes(data[: at % len(data)])] if cut else [bytes(changed)]:
        with pytest.raises(DamagedObject):
            keyed.open_value(sealer, PATH, wrong, value.key)
    with pytest.raises(DamagedObject):
        keyed.open_value(sealer, PATH + "x", data, value.key)
    with pytest.raises(DamagedObject, match="another key"):
        keyed.open_value(sealer, PATH, data, value.key + "x")


HOSTILE: list[Any] = [
    *([], [0], [0, 1], [0, 1, "k", 1], ["0", 1, "k"], [3, 1, "k"], [-1, 1, "k"], [True, 1, "k"], {"form": 0}),
    *([0, None, "k"], [0, 1.5, "k"], [0, 1, b"k"], [2, 1], None, 7),
]


@pytest.mark.parametrize("head", HOSTILE, ids=str)
@pytest.mark.parametrize("frames", [0, 1, 2, 3])
def test_an_object_that_no_writer_makes_is_damage(head: Any, frames: int) -> None:
    sealer = SEALERS["plain"]
    sealed = sealer.seal(PATH, [keyed._encode(head), b"data", b"more"][:frames])
    with pytest.raises(DamagedObject):
        keyed.open_value(sealer, PATH, sealed)


@pytest.mark.parametrize("size", [10, 200_000])
def test_a_damaged_result_can_be_replaced_and_deleted(tmp_path: Path, size: int) -> None:
    log = ResultLog(Repository(tmp_path))
    for key in ("replaced by small", "replaced by large", "deleted"):
        log.write(key, bytes(size))
    for file in tmp_path.glob("keyed/*/*/*"):
        file.write_bytes(file.read_bytes()[:-1])
    log = ResultLog(Repository(tmp_path))
    with pytest.raises(DamagedObject):
        log.read("deleted")
    log.write("replaced by small", b"small")
    log.write("replaced by large", bytes(100_000))
    assert log.delete(["deleted", "never stored"]) == ["deleted"]
    assert log.read("replaced by small") == b"small"
    assert log.read("replaced by large") == bytes(100_000)
    assert not log.exists("deleted")


@pytest.mark.parametrize("sealer", SEALERS.values(), ids=SEALERS)
@given(key=st.text(st.characters(codec="utf-8"), max_size=200), other=st.text("0123456789abcdefghijklmnopqrstuvx"))
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_key_is_found_in_its_name_and_in_no_other(sealer: Sealer, key: str, other: str) -> None:
    name = keyed.name_of(sealer, "s", key)
    assert len(name) <= 255
    long = len(key.encode()) > 127
    assert keyed.key_of(sealer, "s", name) == (None if long else key)
    if not long and sealer.encrypted:
        with pytest.raises(ValueError, match=r".*"):
            keyed.key_of(sealer, "another stream", name)
    if other != name and not other.startswith("x"):
        with pytest.raises(ValueError, match=r".*"):
            keyed.key_of(sealer, "s", other)


# --- processes that are stopped ---------------------------------------------------------------------------------------


def write_and_tell(url: str, writer: int, acknowledged: Any, end: Any) -> None:
    log, number = ResultLog(Repository(url)), 0
    while not end.is_set():
        number += 1
        begin = time.time()
        log.write(f"key-{writer}-{number % 5}", b"%d" % number * (70_000 if number % 7 == 0 else 1))
        acknowledged.put((f"key-{writer}-{number % 5}", number, begin))


def test_no_acknowledged_result_is_lost_beside_expiries(tmp_path: Path) -> None:
    """Writers are stopped at any moment, also between their write and their look for a new generation."""
    spawn = multiprocessing.get_context("spawn")
    url, chance = str(tmp_path / "repository"), random.Random(0)
    repository = Repository(url)
    log = ResultLog(repository)
    log.write("warm", b"warm")
    told, end = spawn.SimpleQueue(), spawn.Event()
    writers = [spawn.Process(target=write_and_tell, args=(url, number, told, end)) for number in range(3)]
    for process in writers:
        process.start()
    last: dict[str, tuple[int, float]] = {}

    def listen() -> None:
        while not told.empty():
            key, number, begin = told.get()
            last[key] = number, begin

    while len(last) < 15:
        listen()
    limit = 0.0
    for _ in range(40):
        stopped = [process for process in writers if chance.random() < 0.7]
        for process in stopped:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGSTOP)
        limit = time.time()
        log.expire(datetime.fromtimestamp(limit, UTC))
        for process in stopped:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGCONT)
        seen = {key: number for key, (number, _) in last.items()}
        while sum(last[key][0] > number for key, number in seen.items()) < 3:
            listen()
    end.set()
    for process in writers:
        while process.is_alive():
            listen()
    listen()
    for key, (number, begin) in last.items():
        if begin > limit:
            assert int(log.read(key)[: len(str(number))]) == number, key
    assert repository.check(read_data=True).ok
