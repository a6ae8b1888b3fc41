"""Snapper: every item is done once, results come in the order of the items, failures and bad input are named."""

from __future__ import annotations

import asyncio
import collections
import datetime as dt
import decimal
import enum
import fractions
import functools
import json
import math
import os
import pickle
import struct
import subprocess
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import Storage

from prefect_snapshots.checkpoints import (
    CheckpointManager,
    Job,
    RunCounts,
    Snapper,
    collect,
    item_keys,
    make_job,
    open_log,
    plan,
    run_batch,
)
from prefect_snapshots.checkpoints.batches import Batch, StoredBatch, encode_batch
from prefect_snapshots.checkpoints.frozen import Frozen
from prefect_snapshots.checkpoints.ledger import MISSING, Ledger, outcomes_of, places
from prefect_snapshots.checkpoints.log_writer import LogWriter
from prefect_snapshots.checkpoints.merging import merge
from prefect_snapshots.checkpoints.metrics import Metrics, summarise
from prefect_snapshots.errors import (
    CheckpointNotFound,
    DamagedObject,
    IncompleteResults,
    InvalidArgument,
    InvalidName,
    PermissionDenied,
    PickleRefused,
    ReadOnlyRepository,
    StorageError,
    StorageFull,
    TooManyFailures,
    UnfingerprintableFunction,
    UnhashableItem,
    UnserialisableResult,
)
from prefect_snapshots.repository import Repository


@pytest.fixture
def repository(local_storage: Storage) -> Repository:
    return Repository(local_storage.url)


class Counted:
    """A function that counts its calls, by item."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function
        self.calls: list[Any] = []

    def __call__(self, item: Any) -> Any:
        self.calls.append(item)
        return self.function(item)


def double(x: Any) -> Any:
    return x * 2


def counted(function: Callable[[Any], Any] = double) -> Counted:
    return Counted(function)


def snapper(items: Any, function: Callable[[Any], Any], repository: Repository, **options: Any) -> Snapper[Any, Any]:
    """With a version, because counting calls changes the state of the function."""
    return Snapper(items, function, repository=repository, **{"name": "items", "function_version": 1, **options})


# --- what is done, and once ----------------------------------------------------------------------------------------


def test_everything_on_every_storage(storage: Storage) -> None:
    repository = Repository(storage.url, storage_options=storage.storage_options)
    function = counted()
    first = snapper(range(25), function, repository, batch_size=10)
    first.start()
    assert first.load() == [2 * x for x in range(25)]
    first.start()
    again = snapper(range(30), function, Repository(storage.url, storage_options=storage.storage_options), batch_size=7)
    again.start()
    assert list(again.iter_results()) == [2 * x for x in range(30)]
    assert function.calls == list(range(30))


@pytest.mark.parametrize("batch_size", [1, 3, 1000])
def test_a_changed_iterable_has_done_only_what_is_new(repository: Repository, batch_size: int) -> None:
    function = counted()

    def run(items: list[Any]) -> list[Any]:
        one = snapper(items, function, repository, batch_size=batch_size)
        one.start()
        return one.load()

    assert run([1, 2, 3]) == [2, 4, 6]
    assert run([3, 2, 1]) == [6, 4, 2]
    assert run([1, 2, 3, 4, 1, 5, 5]) == [2, 4, 6, 8, 2, 10, 10]
    assert run([2]) == [4]
    assert function.calls == [1, 2, 3, 4, 5]


def test_load_all_gives_everything_ever_done(repository: Repository) -> None:
    snapper([1, 2, 3, 4, 5], double, repository).start()
    some = snapper([1, 2, 3], double, repository)
    assert some.load() == [2, 4, 6]
    assert some.load_all() == [2, 4, 6, 8, 10]


def test_items_of_different_types_are_different(repository: Repository) -> None:
    items: list[Any] = [1, True, 1.0, "1", [1], (1,), {"a": 1}, np.array([1]), b"1", None]
    one = snapper(items, lambda item: type(item).__name__, repository)
    one.start()
    assert one.load() == [type(item).__name__ for item in items]


def test_a_changed_function_does_everything_again_and_keeps_the_old_results(repository: Repository) -> None:
    def make(by: int) -> Callable[[int], int]:
        return lambda x: x * by

    first = Snapper([1, 2, 3], make(2), repository=repository, name="scaled")
    first.start()
    second = Snapper([1, 2, 3], make(3), repository=repository, name="scaled")
    second.start()
    assert second.load() == [3, 6, 9]
    assert first.fingerprint != second.fingerprint
    assert second.load_all(fingerprint=first.fingerprint) == [2, 4, 6]
    assert Snapper([3], make(2), repository=repository, name="scaled").load() == [6]


def test_names_are_apart(repository: Repository) -> None:
    one, other = counted(), counted()
    snapper([1], one, repository, name="one").start()
    snapper([1], other, repository, name="One").start()
    assert (one.calls, other.calls) == ([1], [1])
    assert CheckpointManager(repository).list_names() == ["One", "one"]


def test_the_name_is_that_of_the_function() -> None:
    assert Snapper([], double, repository="memory://x").name == "test_snapper.double"
    assert Snapper([], functools.partial(max, 0), repository="memory://x").name == "max"


@settings(deadline=None, max_examples=50)
@given(
    runs=st.lists(st.lists(st.integers(0, 30) | st.text("ab", max_size=2), max_size=25), min_size=1, max_size=4),
    batch_size=st.integers(1, 8),
    refuse=st.sets(st.integers(0, 30), max_size=4),
)
def test_whatever_the_runs_every_result_is_right_and_made_once(
    tmp_path_factory: pytest.TempPathFactory, runs: list[list[Any]], batch_size: int, refuse: set[int]
) -> None:
    def process(item: Any) -> Any:
        if item in refuse:
            raise ValueError(item)
        return [item, item]

    function = counted(process)
    repository = Repository(tmp_path_factory.mktemp("runs"))
    for items in runs:
        one = snapper(items, function, repository, batch_size=batch_size, skip_item_errors=True, max_retries=0)
        one.start()
        assert one.load(missing="none") == ["none" if item in refuse else [item, item] for item in items]
    assert len(function.calls) == len(set(function.calls)) == len({item for items in runs for item in items})


# --- iterables -----------------------------------------------------------------------------------------------------


def test_a_generator_is_consumed_as_it_goes_and_never_far_ahead(repository: Repository) -> None:
    pulled = 0

    def numbers() -> Iterator[int]:
        nonlocal pulled
        for number in range(200_000):
            pulled += 1
            yield number

    ahead = 0

    def look(x: int) -> int:
        nonlocal ahead
        ahead = max(ahead, pulled - x)
        return x

    one = snapper(numbers(), look, repository, batch_size=500)
    one.start()
    assert pulled == 200_000
    assert ahead <= 2000
    assert one.load() == list(range(200_000))


def test_a_slow_generator_is_worked_on_item_by_item(repository: Repository) -> None:
    done = threading.Semaphore(0)

    def numbers() -> Iterator[int]:
        for number in range(3):
            if number:
                assert done.acquire(timeout=10), "the item before was not worked on first"
            time.sleep(0.06)
            yield number

    def process(x: int) -> int:
        done.release()
        return x

    one = snapper(numbers(), process, repository)
    one.start()
    assert one.load() == [0, 1, 2]


def test_an_exhausted_generator_loads_in_recorded_order(repository: Repository) -> None:
    items = [5, 3, 9, 1]
    source = iter(items)
    snapper(source, double, repository, batch_size=2).start()
    assert snapper(source, double, repository).load() == [10, 6, 18, 2]
    assert snapper(iter(()), double, repository).load() == [10, 6, 18, 2]


def test_a_generator_that_was_not_started_loads_too(repository: Repository) -> None:
    snapper(range(5), double, repository).start()
    assert snapper(iter([4, 2]), double, repository).load() == [8, 4]


def test_an_iterable_that_raises_keeps_what_came_before(repository: Repository) -> None:
    def numbers() -> Iterator[int]:
        yield from range(50)
        raise OSError("the source is gone")

    function = counted()
    with pytest.raises(OSError, match="the source is gone"):
        snapper(numbers(), function, repository, batch_size=7).start()
    assert snapper(range(50), function, repository).load() == [2 * x for x in range(50)]


def test_no_items_leave_no_trace(repository: Repository) -> None:
    one = snapper([], double, repository)
    one.start()
    assert one.load() == []
    assert one.load_all() == []
    assert one.load_metrics() == []
    assert not repository.exists()


def test_nothing_to_do_writes_nothing(repository: Repository) -> None:
    snapper(range(10), double, repository).start()
    before = {info.path for info in repository.location.list("")}
    snapper(range(10), double, repository).start()
    assert {info.path for info in repository.location.list("")} == before


# --- results -------------------------------------------------------------------------------------------------------


@dataclass
class Point:
    x: float


RESULTS: list[Any] = [
    *(None, True, 0, -1, 2**63, -(2**70), 1.5, math.inf, "text", "\ud800", b"bytes", "x" * 10_000, 1j),
    *([1, (2, [3])], (1,), {"a": {1: b"x"}}, {1, 2}, frozenset({"a"}), bytearray(b"x"), range(3), Point(1.0)),
]


def test_results_come_back_with_their_types(repository: Repository) -> None:
    one = snapper(range(len(RESULTS)), RESULTS.__getitem__, repository, batch_size=5)
    one.start()
    assert one.load() == RESULTS
    assert list(map(type, one.load())) == list(map(type, RESULTS))


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.ones((3, 2), np.int8)),
        np.array(["a", "bc"]),
        np.array([1, "a"], object),
        np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")]),
        np.zeros((0, 3)),
        jnp.arange(3, dtype=jnp.bfloat16),
    ],
    ids=lambda array: f"{type(array).__module__}-{array.dtype}",
)
def test_arrays_come_back(repository: Repository, array: Any) -> None:
    one = snapper([0, 1], lambda item: array if item else {"inside": array}, repository)
    one.start()
    inside, found = one.load()
    assert type(found) is type(array)
    assert found.dtype == array.dtype
    assert found.shape == array.shape
    assert np.array_equal(np.asarray(found), np.asarray(array))
    assert np.array_equal(np.asarray(inside["inside"]), np.asarray(array))


def test_an_encrypted_repository_shows_neither_results_nor_failures(local_storage: Storage) -> None:
    def process(x: int) -> str:
        if x == 1:
            raise ValueError("a secret failure")
        return "a secret result, longer than what is never compressed" * x

    repository = Repository(local_storage.url, password="open")
    snapper(range(4), process, repository, skip_item_errors=True, name="secret name").start()
    files = [path.read_bytes() for path in Path(local_storage.url).rglob("*") if path.is_file()]
    assert not any(b"secret" in data for data in files)
    found = snapper(range(4), process, Repository(local_storage.url, password="open"), name="secret name")
    assert found.load(missing=None) == [process(0), None, process(2), process(3)]
    assert "a secret failure" in found.generate_report()


def test_a_result_that_changes_later_is_kept_as_it_was(repository: Repository) -> None:
    shared: list[int] = []

    def grow(x: int) -> list[int]:
        shared.append(x)
        return shared

    one = snapper(range(3), grow, repository, batch_size=100)
    one.start()
    assert one.load() == [[0], [0, 1], [0, 1, 2]]


def test_without_pickle_containers_and_arrays_load_and_objects_do_not(local_storage: Storage) -> None:
    values = [{"a": [(1, 2), {3}, 1j]}, np.arange(3), {"inside": np.arange(3)}, Point(1.0), Counted(abs)]
    snapper(range(5), values.__getitem__, Repository(local_storage.url)).start()
    careful = Repository(local_storage.url, allow_pickle=False)
    found = snapper(range(3), values.__getitem__, careful).load()
    assert found[0] == values[0]
    assert found[1].tolist() == found[2]["inside"].tolist() == [0, 1, 2]
    with pytest.raises(PickleRefused, match="was stored with pickle"):
        snapper([4], values.__getitem__, careful).load()
    with pytest.raises(UnserialisableResult, match="allow_pickle is False"):
        snapper([5], lambda _: Counted(abs), careful, name="writing").start()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: threading.Lock(), "cannot be stored.* It cannot be pickled"),
        (lambda: (x for x in range(3)), "a generator, which can be used only once. Return a list"),
        (lambda: np.zeros((1 << 30) + 1, np.uint8), "takes 1,073,7.* bytes, more than the limit of 1,073,741,824"),
    ],
)
def test_a_result_that_cannot_be_kept_is_named_by_index(
    repository: Repository, make: Callable[[], Any], reason: str
) -> None:
    one = snapper(range(20), lambda x: make() if x == 13 else x, repository, batch_size=1000)
    with pytest.raises(UnserialisableResult, match=f"item 13: .*{reason}") as caught:
        one.start()
    assert caught.value.index == 13
    assert one.load_all() == list(range(13))


def test_an_item_without_content_is_named_by_index_and_what_came_before_is_kept(repository: Repository) -> None:
    items = [0, 1, threading.Lock(), 3]
    with pytest.raises(UnhashableItem, match=r"item 2: .* Pass key="):
        snapper(items, lambda x: 7, repository).start()
    assert snapper(items[:2], double, repository).load() == [7, 7]


def test_key_stands_for_the_items(repository: Repository) -> None:
    items = [(0, threading.Lock()), (1, threading.Lock())]
    one = snapper(items, lambda item: item[0], repository, key=lambda item: item[0])
    one.start()
    assert one.load() == [0, 1]


def test_missing_results_are_an_error_unless_a_value_stands_for_them(repository: Repository) -> None:
    snapper([1, 2, 3], double, repository).start()
    more = snapper([1, 7, 2, 8], double, repository)
    with pytest.raises(IncompleteResults, match=r"2 of 4 items have no result; the first one is item 1\. Start again"):
        more.load()
    assert more.load(missing=None) == [2, None, 4, None]
    results = more.iter_results()
    with pytest.raises(IncompleteResults):
        list(results)


# --- when it saves -------------------------------------------------------------------------------------------------


def others(repository: Repository, items: Any) -> list[Any]:
    """What somebody else sees right now."""
    return snapper(items, double, Repository(repository.url)).load(missing=None)


def test_results_are_written_when_the_batch_is_full(repository: Repository) -> None:
    seen: list[int] = []

    def look(x: int) -> int:
        seen.append(sum(found is not None for found in others(repository, range(10))))
        return x + 1

    repository.stream("snapshots", "x", lambda _: None)
    snapper([-1], double, repository).start()
    snapper(range(10), look, repository, batch_size=4).start()
    assert seen == [0, 0, 0, 0, 4, 4, 4, 4, 8, 8]


def test_the_timer_writes_while_an_item_takes_its_time(repository: Repository) -> None:
    waited: list[float] = []

    def process(x: int) -> int:
        if x == 3:
            started = time.monotonic()
            while sum(found is not None for found in others(repository, range(3))) < 3:
                assert time.monotonic() < started + 20, "the timer did not write"
                time.sleep(0.01)
            waited.append(time.monotonic() - started)
        return x + 1

    snapper([-1], double, repository).start()
    one = snapper(range(4), process, repository, batch_size=1000, max_wait_time=0.3)
    one.start()
    assert one.load() == [1, 2, 3, 4]
    assert waited[0] < 5


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_whatever_ends_a_run_what_is_done_is_kept(repository: Repository, error: type[BaseException]) -> None:
    def process(x: int) -> int:
        if x == 37:
            raise error
        return x

    one = snapper(range(100), process, repository, batch_size=1000, max_retries=0)
    with pytest.raises(error):
        one.start()
    assert one.load_all() == list(range(37))


def test_large_results_are_written_before_the_batch_is_full(repository: Repository) -> None:
    sizes: list[int] = []

    def process(x: int) -> Any:
        sizes.append(sum(info.size for info in repository.location.list("logs")))
        return os.urandom(3_000_000)

    snapper(range(20), process, repository, batch_size=1000).start()
    assert sizes[-1] > 30_000_000


def test_one_item_a_request_is_warned_about_on_an_object_store(s3_storage: Storage) -> None:
    repository = Repository(s3_storage.url, storage_options=s3_storage.storage_options)
    with pytest.warns(UserWarning, match=r"batch_size=1 makes a request to s3://.* for every item"):
        snapper(range(3), double, repository).start()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        snapper(range(9), double, repository, batch_size=100).start()


# --- failures ------------------------------------------------------------------------------------------------------


def test_a_failure_is_raised_as_it_is_with_a_note(repository: Repository) -> None:
    def process(x: int) -> int:
        return 10 // (x - 5)

    function = counted(process)
    one = snapper(range(10), function, repository, batch_size=4)
    with pytest.raises(ZeroDivisionError) as caught:
        one.start()
    assert caught.value.__notes__ == ["It was raised by test_snapper.Counted for item 5 of 'items'."]
    assert function.calls == [0, 1, 2, 3, 4, 5, 5, 5, 5]
    assert one.failed_items == []
    with pytest.raises(ZeroDivisionError):
        one.start()
    assert function.calls[9:] == [5, 5, 5, 5]


def test_retries_hide_what_passes(repository: Repository) -> None:
    attempts: collections.Counter[int] = collections.Counter()

    def process(x: int) -> int:
        attempts[x] += 1
        if x == 1 and attempts[x] < 3:
            raise OSError
        return x

    one = snapper(range(3), process, repository, max_retries=2)
    one.start()
    assert one.load() == [0, 1, 2]
    assert attempts == {0: 1, 1: 3, 2: 1}


def test_skipped_failures_are_recorded_and_left_alone_unless_asked(repository: Repository) -> None:
    broken = True

    def process(x: int) -> int:
        if broken and x in (1, 3):
            raise ValueError(f"bad {x}")
        return x

    function = counted(process)
    options: dict[str, Any] = {"skip_item_errors": True, "max_retries": 0}
    one = snapper(range(5), function, repository, **options)
    one.start()
    assert [(failed.item, str(failed.exception)) for failed in one.failed_items] == [(1, "bad 1"), (3, "bad 3")]
    with pytest.raises(IncompleteResults, match="2 of 5 items have no result, 2 of them because they failed"):
        one.load()
    assert one.load(missing=-1) == [0, -1, 2, -1, 4]
    broken = False
    one.start()
    assert one.failed_items == []
    assert function.calls == [0, 1, 2, 3, 4]
    retry = snapper(range(5), function, repository, retry_failed_items=True, **options)
    retry.start()
    assert retry.load() == [0, 1, 2, 3, 4]
    assert function.calls[5:] == [1, 3]


def test_a_fatal_exception_stops_at_once(repository: Repository) -> None:
    def process(x: int) -> int:
        if x == 2:
            raise MemoryError("no more")
        return x

    function = counted(process)
    one = snapper(range(5), function, repository, skip_item_errors=True, fatal_exceptions=(MemoryError,))
    with pytest.raises(MemoryError, match="no more"):
        one.start()
    assert function.calls == [0, 1, 2]
    assert one.failed_items == []
    assert one.load_all() == [0, 1]


def test_too_many_failures_in_a_row_stop_chained(repository: Repository) -> None:
    def process(x: int) -> int:
        if x in (1, 2, 4, 5, 6):
            raise ValueError(x)
        return x

    function = counted(process)
    one = snapper(
        range(9),
        function,
        repository,
        skip_item_errors=True,
        max_consecutive_exceptions=3,
        max_retries=0,
        batch_size=100,
    )
    with pytest.raises(TooManyFailures, match=r"3 consecutive items failed, up to item 6 \(ValueError: 6\)") as caught:
        one.start()
    assert isinstance(caught.value, RuntimeError)
    assert isinstance(caught.value.__cause__, ValueError)
    assert function.calls == list(range(7))
    assert one.load_all() == [0, 3]


def test_a_directory_that_cannot_be_written_is_an_error(small_disk: Path) -> None:
    snapper([1], double, Repository(small_disk)).start()
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    subprocess.run([*root, "mount", "-o", "remount,ro", small_disk], check=True)
    function = counted()
    one = snapper([1, 2], function, Repository(small_disk))
    with pytest.raises(PermissionDenied):
        one.start()
    assert function.calls == []
    assert one.load(missing=None) == [2, None]


def test_a_read_only_repository_reads_and_refuses_to_write(local_storage: Storage) -> None:
    snapper([1], double, Repository(local_storage.url)).start()
    repository = Repository(local_storage.url, read_only=True)
    one = snapper([1], double, repository)
    one.start()
    assert one.load() == [2]
    with pytest.raises(ReadOnlyRepository):
        snapper([1, 2], double, repository).start()


@pytest.mark.parametrize("options", [{"batch_size": 3}, {"batch_size": 10_000, "max_wait_time": 0.05}])
def test_a_full_disk_is_an_error_of_the_run(small_disk: Path, options: dict[str, Any]) -> None:
    def process(x: int) -> bytes:
        time.sleep(0.01)
        return os.urandom(50_000)

    one = snapper(range(2000), process, Repository(small_disk), **options)
    with pytest.raises(StorageError) as caught:
        one.start()
    assert isinstance(caught.value, StorageFull) or isinstance(caught.value.__cause__, StorageFull)
    found = one.load_all()
    assert 0 < len(found) < 40
    assert {len(value) for value in found} == {50_000}


def test_a_repository_that_is_gone_is_an_error(s3_storage: Storage) -> None:
    options = {**s3_storage.storage_options, "endpoint_url": "http://127.0.0.1:9"}
    options["config_kwargs"] = {"retries": {"max_attempts": 1}, "connect_timeout": 1}
    with pytest.raises(StorageError):
        snapper([1], double, Repository(s3_storage.url, storage_options=options), batch_size=10).start()


def test_damage_is_named(repository: Repository, local_storage: Storage) -> None:
    snapper(range(100), double, repository, batch_size=10).start()
    [path] = [path for path in Path(local_storage.url, "logs").glob("*/*") if path.is_file()]
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    one = snapper(range(100), double, Repository(local_storage.url))
    with pytest.raises(DamagedObject, match=path.name):
        one.load()
    assert repository.check().ok
    [problem] = repository.check(read_data=True).problems
    assert problem.path.endswith(path.name)
    assert problem.versions == ("checkpoints/items",)


# --- bad arguments -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"batch_size": 0}, InvalidArgument),
        ({"batch_size": -1}, InvalidArgument),
        ({"batch_size": True}, InvalidArgument),
        ({"batch_size": 1.5}, InvalidArgument),
        ({"max_wait_time": 0}, InvalidArgument),
        ({"max_retries": -1}, InvalidArgument),
        ({"fatal_exceptions": 3}, InvalidArgument),
        ({"fatal_exceptions": [ValueError, "KeyError"]}, InvalidArgument),
        ({"max_consecutive_exceptions": 0}, InvalidArgument),
        ({"name": "../up"}, InvalidName),
        ({"name": ""}, InvalidName),
    ],
)
def test_senseless_arguments_are_refused_at_once(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Snapper([1], double, repository="memory://never", **options)


def test_what_is_no_iterable_or_function_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="int cannot be iterated over"):
        Snapper(3, double)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="must be a function or another callable, not 3"):
        Snapper([3], 3)  # type: ignore[arg-type]


def test_generator_functions_and_functions_without_source_are_refused() -> None:
    def generate(x: int) -> Iterator[int]:
        yield x

    with pytest.raises(InvalidArgument, match="generator function"):
        Snapper([1], generate)
    scope: dict[str, Any] = {}
    exec("def made(x): return x", scope)
    with pytest.raises(UnfingerprintableFunction, match="function_version="):
        Snapper([1], scope["made"])
    one = Snapper([1], scope["made"], function_version=1, repository="memory://made")
    one.start()
    assert one.load() == [1]


# --- reports -------------------------------------------------------------------------------------------------------


def test_metrics_tell_of_each_item(repository: Repository) -> None:
    def process(x: int) -> int:
        if x == 2:
            raise ValueError("no | way")
        time.sleep(0.01)
        return x

    before = time.time()
    one = snapper(range(4), process, repository, skip_item_errors=True, batch_size=3)
    one.start()
    metrics = one.load_metrics()
    assert [(metric.index, metric.success) for metric in metrics] == [(0, True), (1, True), (2, False), (3, True)]
    assert metrics[2].error == "ValueError: no | way"
    assert metrics[2].item == "2"
    assert all(metric.duration >= 0.01 for metric in metrics if metric.success)
    assert all(before - 0.001 <= metric.start_time <= metric.end_time <= time.time() + 0.001 for metric in metrics)
    text = one.generate_report()
    assert text.startswith("## Checkpoints of items\n")
    assert "| failed | 1 |" in text
    assert r"| 2 | 2 | ValueError: no \| way |" in text
    data = json.loads(one.generate_report("json"))
    assert (data["total_items"], data["successful_items"], data["failed_count"]) == (4, 3, 1)
    assert CheckpointManager(repository).report("items") == text
    with pytest.raises(InvalidArgument, match="Unsupported report format 'csv'"):
        one.generate_report("csv")  # type: ignore[arg-type]


def test_metrics_count_the_attempt_that_counts(repository: Repository) -> None:
    broken = True

    def process(x: int) -> int:
        if broken and x == 1:
            raise ValueError
        return x

    one = snapper(range(3), process, repository, max_retries=0)
    with pytest.raises(ValueError, match="It was raised by"):
        one.start()
    assert [metric.success for metric in one.load_metrics()] == [True, False]
    broken = False
    one.start()
    assert [metric.success for metric in one.load_metrics()] == [True, True, True]


def test_slow_items_stand_out(repository: Repository) -> None:
    def process(text: str) -> None:
        time.sleep(0.2 if text == "long" else 0.001)

    texts = [f"text {number}" for number in range(50)]
    texts[17] = "long"
    one = snapper(texts, process, repository, batch_size=10, name="slow")
    one.start()
    snapper([*texts, "another"], process, repository, batch_size=10, name="slow").start()
    manager = CheckpointManager(repository)
    for merged in (0, 2):  # a merged segment still says so
        assert merge(open_log(one.job), 2 if merged else 99) == merged
        [slow] = json.loads(manager.report("slow", format="json"))["slow_outliers"]
        assert (slow["index"], slow["item"]) == (17, "'long'")
        table = "#### Slow items\n\n| item | input | duration |\n|---|---|---:|\n| 17 | 'long' | "
        assert table in one.generate_report()


def test_where_items_take_nearly_the_same_time_none_is_slow(repository: Repository) -> None:
    snapper(range(5000), double, repository, name="quick", batch_size=1000).start()
    report = json.loads(CheckpointManager(repository).report("quick", format="json"))
    assert report["max_duration"] > report["avg_duration"]
    assert report["slow_outliers"] == []


def test_what_the_first_item_of_each_batch_takes_longer_makes_it_not_slow() -> None:
    seconds = np.full((20, 20), 0.001)
    seconds[:, 0] = 0.03
    seconds[3, 0] = seconds[5, 7] = 0.08
    ends = (np.arange(20)[:, None] * 10 + seconds.cumsum(axis=1)).ravel()
    starts = np.concatenate([[0.0], ends[:-1]])
    starts[::20] = np.arange(20) * 10
    metrics = Metrics(np.arange(400), starts, ends, {}, {}, np.ones(400, bool))
    assert sorted(slow["index"] for slow in summarise("starting", metrics)["slow_outliers"]) == [60, 107]


def test_throughput_is_of_the_time_in_which_something_was_computed(repository: Repository) -> None:
    def process(x: int) -> None:
        time.sleep(0.01)

    snapper(range(10), process, repository, name="pause").start()
    time.sleep(1)
    snapper(range(20), process, repository, name="pause").start()
    report = json.loads(CheckpointManager(repository).report("pause", format="json"))
    assert report["total_elapsed"] > 1.2
    assert 0.2 <= report["working_time"] <= report["total_elapsed"] - 1
    assert report["items_per_second"] == pytest.approx(20 / report["working_time"])


def test_a_report_of_nothing_says_so(repository: Repository) -> None:
    assert "No items were processed." in snapper([], double, repository).generate_report()
    snapper([1], double, repository).start()
    with pytest.raises(CheckpointNotFound, match="has no checkpoints of 'other'"):
        CheckpointManager(repository).report("other")


# --- listing, clearing, merging ------------------------------------------------------------------------------------


def test_what_there_is_can_be_listed_and_cleared(repository: Repository) -> None:
    snapper(range(5), double, repository, name="a").start()
    snapper(range(3), double, repository, name="a", function_version=2).start()
    snapper(range(2), double, repository, name="b").start()
    manager = CheckpointManager(repository)
    rows = manager.list_checkpoints()
    assert [(row.name, row.done, row.failed, row.segments) for row in rows] == [
        ("b", 2, 0, 1),
        ("a", 3, 0, 1),
        ("a", 5, 0, 1),
    ]
    assert manager.delete_checkpoint("a", rows[2].fingerprint) == 1
    assert [row.done for row in manager.list_checkpoints("a")] == [3]
    assert snapper([1], double, repository, name="a").load(missing=None) == [None]
    assert manager.delete_checkpoint("a") == 1
    for name in ("a", "never"):
        with pytest.raises(CheckpointNotFound, match=f"no checkpoints of '{name}'. There is only 'b'."):
            manager.delete_checkpoint(name)
    assert [row.name for row in manager.list_checkpoints()] == ["b"]
    assert repository.prune().log_objects_deleted == 2
    assert snapper(range(2), double, repository, name="b").load() == [0, 2]
    with pytest.raises(InvalidArgument, match="The name of the checkpoints is empty"):
        manager.delete_checkpoint("")


def test_a_name_can_be_used_again_after_clearing(repository: Repository) -> None:
    function = counted()
    snapper([1], function, repository).start()
    CheckpointManager(repository).delete_checkpoint("items")
    repository.prune()
    one = snapper([1], function, repository)
    one.start()
    assert one.load() == [2]
    assert function.calls == [1, 1]


def test_clearing_beside_a_run_makes_it_go_on_in_a_new_segment(repository: Repository) -> None:
    def process(x: int) -> int:
        if x == 5:
            CheckpointManager(repository.url).delete_checkpoint("items")
            Repository(repository.url).prune()
        return x

    one = snapper(range(10), process, repository)
    one.start()
    assert one.load(missing=None) in ([None] * 5 + [5, 6, 7, 8, 9], [None] * 6 + [6, 7, 8, 9])


def test_small_segments_are_merged_and_the_old_ones_pruned(main_storage: Storage) -> None:
    repository = Repository(main_storage.url, storage_options=main_storage.storage_options)
    for start in range(0, 50, 5):
        snapper(range(start, start + 5), double, repository, batch_size=2).start()
    one = snapper(range(50), double, repository, batch_size=5)
    log = open_log(one.job)
    assert merge(log) == 10
    assert merge(log) == 0
    assert one.load() == [2 * x for x in range(50)]
    assert [row.segments for row in CheckpointManager(repository).list_checkpoints()] == [1]
    late = open_log(one.job)
    assert repository.prune().log_objects_deleted >= 10
    assert one.load() == [2 * x for x in range(50)]
    assert list(collect(one.job, item_keys(range(50)), log=late)) == [2 * x for x in range(50)]
    assert len(one.load_metrics()) == 50
    assert repository.check(read_data=True).ok


def test_a_reader_that_was_overtaken_by_merge_and_prune_reads_on(repository: Repository) -> None:
    for start in range(0, 50, 5):
        snapper(range(start, start + 5), double, repository).start()
    job = snapper(range(50), double, repository).job
    old = open_log(job)
    merge(open_log(job))
    repository.prune()
    assert list(collect(job, item_keys(range(50)), log=old)) == [2 * x for x in range(50)]


def test_the_result_that_was_committed_first_wins(repository: Repository) -> None:
    job = snapper([], lambda x: "unused", repository).job
    segments = [LogWriter(open_log(job), "test"), LogWriter(open_log(job), "test")]
    for writer in segments:
        writer.open()
    for writer, value in reversed(list(zip(segments, ["first", "second"], strict=True))):
        batch = Batch(item_keys([7]), np.array([0]), np.zeros(1), np.zeros(1), np.zeros(1, np.uint8), [value])
        writer.write(batch)
        writer.close()
    assert list(collect(job, item_keys([7]))) == ["first"]


def test_a_refresh_does_everything_again_and_its_results_count(repository: Repository) -> None:
    answer = "old"
    one = snapper([1, 1, 2], lambda x: f"{answer} {x}", repository)
    one.start()
    answer = "new"
    job: Job = make_job(repository, one.job.function, name="items", function_version=1, batch_size=1, refresh=True)
    batches = list(plan(job, [1, 1]))
    assert [batch.items for batch in batches] == [[1]]
    for batch in batches:
        run_batch(job, batch)
    assert one.load() == ["new 1", "new 1", "old 2"]


# --- results that expire -------------------------------------------------------------------------------------------


def test_expired_results_are_computed_again_and_the_new_ones_count(repository: Repository) -> None:
    function = counted()
    snapper(range(8), function, repository, batch_size=3).start()
    hour = snapper(range(9), function, repository, cache_expiration=dt.timedelta(hours=1))
    hour.start()
    assert sorted(function.calls) == list(range(9))
    renewed = snapper(range(9), counted(lambda x: -x), repository, cache_expiration=dt.timedelta(microseconds=1))
    renewed.start()
    assert renewed.counts == RunCounts(9, done=9)
    for reader in (hour, renewed):
        assert reader.load() == [-x for x in range(9)]
    hour.start()
    assert hour.counts == RunCounts(9, done_before=9)


@pytest.mark.parametrize("merged", [False, True])
def test_only_the_results_of_a_segment_that_are_old_enough_expire(repository: Repository, merged: bool) -> None:
    def slowly(x: int) -> int:
        time.sleep(0.002)
        return x

    one = snapper([0, 1, 2], slowly, repository, batch_size=2)
    one.start()
    ends = [metric.end_time for metric in one.load_metrics()]
    if merged:
        snapper([3], slowly, repository).start()
        assert merge(open_log(one.job), 2) == 2
    log = open_log(one.job)
    found = log.find(item_keys([2, 1, 0]))
    assert log.is_older(found, ends[1] + 0.001).tolist() == [False, True, True]
    assert log.is_older(found, ends[0] + 0.001).tolist() == [False, False, True]
    assert log.is_older(found, ends[0] - 3600).tolist() == [False] * 3


def test_expired_results_in_batches_of_a_plan(repository: Repository) -> None:
    settings: dict[str, Any] = {"name": "items", "function_version": 1, "batch_size": 2}
    functions: list[Callable[[int], int]] = [lambda x: x, lambda x: -x]
    for function in functions:
        job = make_job(repository, function, **settings, cache_expiration=dt.timedelta(microseconds=1))
        batches = list(plan(job, [1, 2, 3]))
        assert [batch.items for batch in batches] == [[1, 2], [3]]
        for batch in batches:
            assert run_batch(job, batch).done == len(batch)
        assert list(collect(job, item_keys([1, 2, 3]))) == list(map(function, [1, 2, 3]))


def test_whether_an_item_is_done_is_said_without_a_call(repository: Repository) -> None:
    function = counted(lambda x: 1 / x)
    one = snapper([2, 0], function, repository, skip_item_errors=True, max_retries=0)
    assert not one.is_done(2)
    assert not repository.exists()
    one.start()
    calls = len(function.calls)
    assert [one.is_done(item) for item in (2, 2.0, 0, 5)] == [True, False, False, False]
    assert not snapper([2], function, repository, cache_expiration=dt.timedelta(microseconds=1)).is_done(2)
    assert snapper([2], function, repository, cache_expiration=dt.timedelta(hours=1)).is_done(2)
    assert len(function.calls) == calls


@pytest.mark.parametrize("age", [0, 60, dt.timedelta(), dt.timedelta(seconds=-1)])
def test_an_expiration_is_a_positive_timedelta(repository: Repository, age: Any) -> None:
    with pytest.raises(InvalidArgument, match="cache_expiration must be a timedelta above 0"):
        snapper([1], double, repository, cache_expiration=age)


# --- two at once ---------------------------------------------------------------------------------------------------


@pytest.mark.nightly  # counts how work is shared, which a loaded machine changes
def test_threads_on_one_name_share_the_work(repository: Repository) -> None:
    def slowly(x: int) -> int:
        time.sleep(0.002)
        return x

    function = counted(slowly)

    def run(_: int) -> list[int]:
        one = snapper(range(300), function, repository, batch_size=5)
        one.start()
        return one.load()

    with ThreadPoolExecutor(3) as threads:
        for found in threads.map(run, range(3)):
            assert found == list(range(300))
    assert sorted(function.calls) == list(range(300))


# --- for faces -----------------------------------------------------------------------------------------------------


def test_a_plan_is_done_elsewhere_batch_by_batch_and_collected(storage: Storage) -> None:
    repository = Repository(storage.url, storage_options=storage.storage_options)
    snapper(range(0, 40, 2), double, repository, batch_size=50).start()
    job = snapper([], double, repository, batch_size=7).job
    planned = plan(job, iter(range(40)))
    batches = list(planned)
    assert planned.counts == RunCounts(total=40, done_before=20)
    assert planned.counts.skipped == 20
    assert [item for batch in batches for item in batch.items] == list(range(1, 40, 2))
    assert [len(batch) for batch in batches] == [7, 7, 6]
    assert batches[0].positions.tolist() == list(range(1, 14, 2))
    for batch in reversed(batches):
        assert run_batch(job, batch).worked == len(batch)
    assert run_batch(job, batches[0]) == RunCounts(total=7, done_before=7)
    assert list(collect(job, planned.keys)) == [2 * x for x in range(40)]


def test_async_functions_are_awaited(repository: Repository) -> None:
    async def process(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    one: Snapper[int, Any] = Snapper(range(3), process, repository=repository)
    one.start()
    assert one.load() == [1, 2, 3]


def test_snapper_works_as_a_context_manager_and_again_and_again(repository: Repository) -> None:
    function = counted()
    with snapper([1, 2], function, repository) as one:
        one.start()
        one.start()
        assert one.load() == [2, 4]
    one.start()
    assert function.calls == [1, 2]


# --- the ledger ----------------------------------------------------------------------------------------------------

keys = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=12)


@given(st.lists(st.tuples(keys, st.integers(0, 1)), max_size=8))
def test_the_ledger_finds_what_counts(added: list[tuple[list[tuple[int, int]], int]]) -> None:
    """Halves of keys that collide, keys added again, failures before and after results."""
    ledger = Ledger()
    expected: dict[tuple[int, int], tuple[int, int, int]] = {}
    for segment, (rows, outcome) in enumerate(added):
        batch = np.array(rows, np.uint64).reshape(-1, 2)
        ledger.add(batch, places(segment, np.array([len(rows)]), np.full(len(rows), outcome, np.uint8)))
        for row, key in enumerate(rows):
            expected[key] = min(expected.get(key, (9, 0, 0)), (outcome, segment, row))
        if segment % 2:
            ledger.find(np.zeros((1, 2), np.uint64))
    asked = [(head, tail) for head in range(6) for tail in range(4)]
    found = ledger.find(np.array(asked, np.uint64))
    for key, one in zip(asked, found, strict=True):
        if key not in expected:
            assert one == MISSING
        else:
            outcome, segment, row = expected[key]
            assert one == places(segment, np.array([row + 1]), np.full(row + 1, outcome, np.uint8))[-1]
            assert outcomes_of(np.array([one])) == outcome
    assert len(ledger) == len(expected)


def test_a_million_done_items_take_24_bytes_each() -> None:
    ledger = Ledger()
    for start in range(0, 1_000_000, 50_000):
        batch = np.random.default_rng(start).integers(0, 2**63, (50_000, 2)).astype(np.uint64)
        ledger.add(batch, places(0, np.array([50_000]), np.zeros(50_000, np.uint8)))
        ledger.find(batch[:10])
    assert len(ledger) == 1_000_000
    assert ledger.nbytes == 24_000_000


# --- results that others wrote -------------------------------------------------------------------------------------


class Planted:
    """What somebody who may write to a repository would have unpickled: it makes a directory."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def value_blob(node: Any, size: int = 0, body: bytes = b"") -> bytes:
    """A stored result of the general kind whose manifest says whatever it likes."""
    manifest = msgspec.msgpack.encode([1, size, [], node])
    return b"v" + len(manifest).to_bytes(4, "little") + manifest + body


def write_blobs(repository: Repository, *blobs: bytes) -> Job:
    """Store results as they are, for the items 0, 1, ..."""
    job = snapper([], double, repository).job
    writer = LogWriter(open_log(job), "test")
    count = len(blobs)
    times, outcomes = np.zeros(count), np.zeros(count, np.uint8)
    writer.write(Batch(item_keys(range(count)), np.arange(count), times, times, outcomes, [*map(Frozen, blobs)]))
    writer.close()
    return job


HOSTILE = {
    "a pickle of before": b"p" + pickle.dumps(range(1 << 32), 5),
    "a pickled pointer": b"p" + pickle.dumps([1], 5),
    "an unknown tag": b"?",
    "nothing": b"",
    "a length beyond the end": b"v" + (2**32 - 1).to_bytes(4, "little"),
    "a fraction that hangs": value_blob([27, "1e300000000", 1]),
    "a range that fills the memory": value_blob([29, 1, 2]),
    "an array larger than its bytes": value_blob([52, 1 << 40, "<f8", 0, 1 << 37], 1 << 40),
    "a body that is not there": value_blob([49, 3 << 30], 3 << 30),
    "an array of objects": value_blob([52, 8, "|O", 0, 1], 8),
    "lists without end": value_blob([]),
    "MessagePack that is cut": b"m\xdd\xff\xff\xff\xff",
    "MessagePack that nests": b"m" + b"\x91" * 100_000,
    "a failure that is none": b"f\x01",
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("allow_pickle", [False, True])
def test_hostile_results_are_named_errors(local_storage: Storage, name: str, allow_pickle: bool) -> None:
    repository = Repository(local_storage.url, allow_pickle=allow_pickle)
    job = write_blobs(repository, HOSTILE[name], b"m\x0e")
    with pytest.raises((DamagedObject, PickleRefused)):
        list(collect(job, item_keys([0])))
    assert list(collect(job, item_keys([1]))) == [14]


@pytest.mark.parametrize("cut", range(0, 120, 7))
def test_a_batch_that_is_cut_is_damage(cut: int) -> None:
    for values in ([1, 2.0], [Frozen(b"m\x01"), Frozen(b"m\x02")]):
        batch = Batch(item_keys([1, 7]), np.arange(2), np.zeros(2), np.zeros(2), np.zeros(2, np.uint8), values)
        data = encode_batch(batch)
        with pytest.raises(DamagedObject, match="here is damaged"):
            StoredBatch(data[: min(cut, len(data) - 1)], "here").values(allow_pickle=False)


def test_without_permission_nothing_is_unpickled(local_storage: Storage, tmp_path: Path) -> None:
    pickled = pickle.dumps(Planted(str(tmp_path / "planted")))
    blob = value_blob([55, [len(pickled)]], len(pickled), pickled)
    job = write_blobs(Repository(local_storage.url, allow_pickle=False), blob)
    with pytest.raises(PickleRefused, match="allow_pickle=True"):
        list(collect(job, item_keys([0])))
    assert not (tmp_path / "planted").exists()
    trusting = snapper([0], double, Repository(local_storage.url)).job
    assert list(collect(trusting, item_keys([0]))) == [None]
    assert (tmp_path / "planted").exists()


class Tagged(NamedTuple):
    name: str
    at: tuple[int, ...]


class Colour(enum.Enum):
    RED = "red"


def nested(depth: int, wrap: Callable[[Any], Any]) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = wrap(value)
    return value


EXACT = [
    *[[], {}, (), [[]], [{}], {"a": [1, {"b": None}]}, ["x", 1.5, None, True], [b"bytes"], {"": ""}],
    *[(1, 2), [(1,)], {"a": (1,)}, {1: "x"}, {True: 1}, {"a": {2: 3}}, {1.5: 2}, {None: 0}, {(1, 2): 3}],
    *[1 << 64, -(1 << 70), [1 << 64], "\ud800", ["\ud800"], {"\ud800": 1}, "x" * 5000, b"y" * 5000, -0.0],
    *[{1, 2}, frozenset({1}), 1j, bytearray(b"x"), range(3), slice(1, 2), ..., dt.date(2020, 1, 2), dt.timedelta(1)],
    *[fractions.Fraction(1, 3), decimal.Decimal("1.50"), uuid.UUID(int=7), collections.OrderedDict(b=1, a=2)],
    *[collections.deque([1], 3), Tagged("a", (1, 2)), [Tagged("b", ())], Colour.RED, {"c": Colour.RED}, Point(2.5)],
    *[np.float32(1.5), np.int64(3), [np.bool_(True)], np.str_("text"), Path("a/b"), dt.datetime(2020, 1, 1, fold=1)],
    *[nested(40, lambda inner: [inner]), nested(40, lambda inner: {"a": inner})],
]


@pytest.mark.parametrize("together", [True, False])
def test_plain_values_come_back_with_their_types_and_without_pickle(local_storage: Storage, together: bool) -> None:
    repository = Repository(local_storage.url, allow_pickle=False)
    values = EXACT if together else EXACT[::-1]
    one = snapper(range(len(values)), values.__getitem__, repository, batch_size=100 if together else 1)
    one.start()
    for expected, found in zip(values, one.load(), strict=True):
        assert (type(found), repr(found)) == (type(expected), repr(expected))
        assert found == expected


def test_dictionaries_keep_their_order_and_nan_its_bits(repository: Repository) -> None:
    nan = struct.unpack("<d", b"\x01\x00\x00\x00\x00\x00\xf8\x7f")[0]
    one = snapper([0, 1], [{"b": 1, "a": 2}, [nan]].__getitem__, repository)
    one.start()
    ordered, [found] = one.load()
    assert list(ordered) == ["b", "a"]
    assert struct.pack("<d", found) == b"\x01\x00\x00\x00\x00\x00\xf8\x7f"


# --- keys are taken when an item is met ----------------------------------------------------------------------------


class Lazy:
    def __init__(self, number: int) -> None:
        self.number = number

    @functools.cached_property
    def twice(self) -> int:
        return 2 * self.number


def grown(item: list[int]) -> int:
    item.append(0)
    return len(item)


def labelled(item: dict[str, int]) -> int:
    item["seen"] = 1
    return item["x"]


CHANGED_BY_USE: dict[str, tuple[Callable[[], list[Any]], Callable[[Any], int], list[int]]] = {
    "a cached property": (lambda: [Lazy(1), Lazy(2)], lambda item: item.twice, [2, 4]),
    "a list that grows": (lambda: [[1], [1, 2]], grown, [2, 3]),
    "a dict that gets a key": (lambda: [{"x": 5}, {"x": 6}], labelled, [5, 6]),
    "an array that is filled": (lambda: [np.zeros(2), np.ones(2)], lambda item: int(item.fill(7) or item[0]), [7, 7]),
}


@pytest.mark.parametrize("name", CHANGED_BY_USE)
@pytest.mark.parametrize("kind", [list, tuple])
def test_what_the_function_does_to_an_item_does_not_change_its_key(
    repository: Repository, name: str, kind: type[Any]
) -> None:
    make, function, expected = CHANGED_BY_USE[name]
    one = snapper(kind(make()), function, repository, batch_size=10)
    one.start()
    assert one.load() == list(one.iter_results()) == expected
    assert snapper(make(), function, repository).load() == expected


@pytest.mark.parametrize("layout", ["meta", "nested"])
def test_tensors_without_content_of_their_own_are_named(repository: Repository, layout: str) -> None:
    import torch

    made = {
        "meta": lambda: torch.ones(2, device="meta"),
        "nested": lambda: torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]),
    }
    with pytest.raises(UnhashableItem, match=r"item 1: a .*torch tensor .* Pass key="):
        snapper([torch.ones(1), made[layout]()], double, repository).start()


# --- iterables that use one object for all items ---------------------------------------------------------------------


@dataclass
class Buffer:
    """An object that no container or array is."""

    number: int = 0


def _one_array() -> Iterator[Any]:
    array = np.zeros(1, int)
    for number in range(9):
        array[0] = number
        yield array


def _views() -> Iterator[Any]:
    array = np.zeros(4, int)
    for number in range(9):
        array[:] = number
        yield array[:1]


def _two_arrays() -> Iterator[Any]:
    arrays = [np.zeros(1, int), np.zeros(1, int)]
    for number in range(9):
        arrays[number % 2][0] = number
        yield arrays[number % 2]


def _one_dict() -> Iterator[Any]:
    item: dict[str, Any] = {"list": [0]}
    for number in range(9):
        item["list"][0] = number
        yield item


def _one_object() -> Iterator[Any]:
    item = Buffer()
    for number in range(9):
        item.number = number
        yield item


def _changed_afterwards() -> Iterator[Any]:
    for number in range(9):
        item = [number]
        yield item
        item.append(1)


def _number_of(item: Any) -> int:
    if isinstance(item, Buffer):
        return item.number
    if isinstance(item, dict):
        return int(item["list"][0])
    return int(sum(item))


@pytest.mark.parametrize("items", [_one_array, _views, _two_arrays, _one_dict, _one_object, _changed_afterwards])
def test_an_iterable_that_reuses_its_objects_gives_what_a_loop_gives(
    repository: Repository, items: Callable[[], Iterator[Any]]
) -> None:
    expected = [_number_of(item) for item in items()]
    one = snapper(items(), _number_of, repository, batch_size=2)
    one.start()
    assert one.load() == expected
    assert snapper(items(), _number_of, repository).load() == expected
    if items is not _one_object:
        job = make_job(repository, _number_of, name="planned", batch_size=9)
        assert [_number_of(item) for batch in plan(job, items()) for item in batch.items] == expected


def test_an_object_that_changes_ahead_of_its_use_is_refused(repository: Repository) -> None:
    with pytest.raises(InvalidArgument, match="changes the Buffer at position 1 after it yields it"):
        list(plan(make_job(repository, _number_of, batch_size=3), _one_object()))

    def pairs() -> Iterator[Any]:
        item = Buffer()
        for number in range(9):
            item.number = number
            yield Buffer(number), item

    with pytest.raises(InvalidArgument, match="changes the tuple at position 2"):
        snapper(pairs(), lambda pair: pair[1].number, repository).start()
