"""`@checkpointed`: items are done once, in batches that are task runs, by any task runner, whatever happens."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import flow, task, unmapped
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
)
from prefect.client.schemas.objects import TaskRun
from prefect.context import FlowRunContext
from prefect.exceptions import MappingLengthMismatch, MappingMissingIterable
from prefect.futures import wait
from prefect.settings import PREFECT_UI_URL, temporary_settings
from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner
from prefect_support import events_about, flush
from servers import Storage

from prefect_snapshots import Repository, Snapper, checkpointed, use_repository
from prefect_snapshots.checkpoints import CheckpointManager
from prefect_snapshots.errors import IncompleteResults, InvalidArgument, SnapshotsError, TooManyFailures, UnhashableItem

pytestmark = [pytest.mark.xdist_group("checkpointed"), pytest.mark.usefixtures("prefect_server")]

RUNS: list[UUID] = []


@pytest.fixture(autouse=True)
def repository(tmp_path: Path) -> Iterator[Repository]:
    with use_repository(tmp_path / "repository") as opened:
        yield opened


@pytest.fixture
def calls(tmp_path: Path) -> Callable[[], Counter[int]]:
    """How often each item was worked on, in any process."""
    file = tmp_path / "calls"
    file.touch()
    return lambda: Counter(int(line) for line in file.read_text().split())


def noting(tmp_path: Path, **options: Any) -> Any:
    """A checkpointed task that squares numbers, and notes each of them."""
    file = str(tmp_path / "calls")

    @checkpointed(function_version=1, **{"name": "squares", "batch_size": 10, **options})
    def square(x: int) -> int:
        with open(file, "a") as calls:
            calls.write(f"{x}\n")
        return x * x

    return square


def task_runs(flow_run_id: UUID, expected: int) -> list[TaskRun]:
    """Those of a flow run, once so many have arrived."""
    until = time.monotonic() + 30
    with get_client(sync_client=True) as client:
        while True:
            wanted = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
            found = [run for run in client.read_task_runs(flow_run_filter=wanted) if run.state and run.state.is_final()]
            if len(found) >= expected or time.monotonic() > until:
                return sorted(found, key=lambda run: run.expected_start_time or run.created)  # type: ignore[arg-type,return-value]
            time.sleep(0.1)


def this_run() -> UUID:
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    return context.flow_run.id


def mapped(task: Any, items: Any, runner: Any = None) -> list[int]:
    chosen: Any = runner or ThreadPoolTaskRunner(max_workers=2)

    @flow(task_runner=chosen)
    def squares() -> list[int]:
        RUNS.append(this_run())
        return list(task.map(items).result())

    return squares()


# --- what is done --------------------------------------------------------------------------------------------------


def test_batches_are_task_runs_and_what_is_done_is_one_cached_run(
    tmp_path: Path, calls: Callable[[], Counter[int]]
) -> None:
    square = noting(tmp_path)
    assert mapped(square, range(25)) == [x * x for x in range(25)]
    runs = task_runs(RUNS[-1], 3)
    assert sorted(run.name for run in runs) == ["squares[0-9]", "squares[10-19]", "squares[20-24]"]
    assert {run.state.name for run in runs if run.state} == {"Completed"}
    assert mapped(square, range(40)) == [x * x for x in range(40)]
    runs = task_runs(RUNS[-1], 3)
    assert sorted(run.name for run in runs) == ["squares[25-34]", "squares[35-39]", "squares[done: 25]"]
    assert {run.name for run in runs if run.state and run.state.name == "Cached"} == {"squares[done: 25]"}
    assert mapped(square, range(40)) == [x * x for x in range(40)]
    [run] = task_runs(RUNS[-1], 1)
    assert (run.name, run.state and run.state.name) == ("squares[done: 40]", "Cached")
    assert calls() == dict.fromkeys(range(40), 1)


def test_no_items_are_one_run_and_no_results(tmp_path: Path) -> None:
    assert mapped(noting(tmp_path), []) == []
    assert mapped(noting(tmp_path), iter([])) == []


def test_reordered_and_repeated_items_are_not_done_again(tmp_path: Path, calls: Callable[[], Counter[int]]) -> None:
    square = noting(tmp_path)
    assert mapped(square, [3, 1, 2, 1]) == [9, 1, 4, 1]
    assert mapped(square, [1, 1, 2, 4, 3]) == [1, 1, 4, 16, 9]
    assert calls() == {1: 1, 2: 1, 3: 1, 4: 1}


def test_refresh_cache_does_everything_again(tmp_path: Path, calls: Callable[[], Counter[int]]) -> None:
    square = noting(tmp_path)
    mapped(square, range(15))
    assert mapped(square.with_options(refresh_cache=True), range(15)) == [x * x for x in range(15)]
    assert calls() == dict.fromkeys(range(15), 2)


# --- arguments that do not count, methods, expiry ------------------------------------------------------------------


def test_ignored_arguments_do_not_identify_an_item() -> None:
    called = []

    @checkpointed(function_version=1, ignore="connection")
    def half(x: int, connection: object = None) -> float:
        called.append(x)
        return x / 2

    @flow
    def mapped_with(connection: object) -> list[float]:
        return half.map([2, 4], connection=unmapped(connection)).result()

    assert half(2) == 1
    assert mapped_with(threading.Lock()) == mapped_with(threading.Lock()) == [1, 2]
    assert half(4, threading.Lock()) == 2
    assert half.is_done(4, threading.Lock())
    assert half.is_done(4)
    assert not half.is_done(6)
    assert sorted(called) == [2, 4]


def test_ignored_arguments_must_be_those_of_the_function_and_exclude_a_key() -> None:
    def half(x: int, verbose: bool = False) -> float:
        return x / 2

    with pytest.raises(InvalidArgument, match=r"is not a parameter of .*\. Did you mean 'verbose'"):
        checkpointed(ignore=["verbos"])(half)
    with pytest.raises(InvalidArgument, match="is not a parameter of"):
        checkpointed(half).with_options(ignore="loud")
    with pytest.raises(InvalidArgument, match="either key or ignore"):
        checkpointed(ignore="verbose", key=lambda x: x)(half)


class Scaling:
    """A class of a user, whose methods are tasks."""

    def __init__(self, factor: int) -> None:
        self.factor = factor
        self.calls = 0

    def __len__(self) -> int:
        return 0  # an object that is false is bound, too

    def scaled(self, x: int) -> int:
        self.calls += 1
        return self.factor * x

    @checkpointed(name="scale")
    def scale(self, x: int) -> int:
        return self.scaled(x)

    @checkpointed(name="versioned", function_version=1)
    def versioned(self, x: int) -> int:
        return self.scaled(x)

    @checkpointed(name="ignoring", ignore="self")
    def ignoring(self, x: int) -> int:
        return self.scaled(x)


@pytest.mark.parametrize("method", ["scale", "versioned"])
def test_methods_are_mapped_and_their_object_counts(method: str) -> None:
    two, three = Scaling(2), Scaling(3)
    first, second = getattr(two, method), getattr(three, method)
    assert mapped(first, [1, 2]) == [2, 4]
    assert mapped(second, [1, 2]) == [3, 6]
    assert first(2) == 4  # taken before the other one: tasks of two objects are apart
    assert getattr(Scaling(2), method)(1) == 2
    if method == "scale":  # what a call changes does not count
        assert two.calls == 2
        assert mapped(two.scale, [1, 2, 3]) == [2, 4, 6]
        assert two.calls == 3


def test_an_object_of_a_method_can_be_ignored() -> None:
    two, three = Scaling(2), Scaling(3)
    assert mapped(two.ignoring, [1, 2]) == [2, 4]
    assert mapped(three.ignoring, [1, 2]) == [2, 4]
    assert three.calls == 0


def test_expired_results_of_a_map_are_computed_again(tmp_path: Path, calls: Callable[[], Counter[int]]) -> None:
    square = noting(tmp_path)
    mapped(square, range(12))
    assert mapped(square.with_options(cache_expiration=timedelta(hours=1)), range(12)) == [x * x for x in range(12)]
    assert calls() == dict.fromkeys(range(12), 1)
    expiring = square.with_options(cache_expiration=timedelta(microseconds=1))
    assert mapped(expiring, range(12)) == [x * x for x in range(12)]
    assert calls() == dict.fromkeys(range(12), 2)
    assert not expiring.is_done(1)
    assert square.is_done(1)


def test_snapper_and_the_task_share_their_results(repository: Repository) -> None:
    def triple(x: int) -> int:
        return 3 * x

    Snapper(range(5), triple, repository=repository, name="triples").start()
    assert mapped(checkpointed(name="triples")(triple), range(5)) == [0, 3, 6, 9, 12]
    [run] = task_runs(RUNS[-1], 1)
    assert run.name == "triples[done: 5]"


def test_a_generator_is_read_a_bounded_number_ahead(tmp_path: Path, calls: Callable[[], Counter[int]]) -> None:
    ahead: list[int] = []

    def numbers() -> Iterator[int]:
        for x in range(1000):
            ahead.append(x - calls().total())
            yield x

    square = noting(tmp_path, batch_size=5)
    assert mapped(square, numbers()) == [x * x for x in range(1000)]
    assert max(ahead) <= 1024 + 33 * 5
    assert min(ahead[-10:]) < 1000


def test_what_came_before_an_iterable_raised_is_kept(tmp_path: Path, calls: Callable[[], Counter[int]]) -> None:
    def numbers() -> Iterator[int]:
        yield from range(15)
        raise OSError("the source went away")

    square = noting(tmp_path)
    with pytest.raises(OSError, match="went away"):
        mapped(square, numbers())
    assert calls() == dict.fromkeys(range(15), 1)
    assert mapped(square, range(15)) == [x * x for x in range(15)]
    assert calls() == dict.fromkeys(range(15), 1)


# --- arguments -----------------------------------------------------------------------------------------------------


def test_several_arguments_and_constants(tmp_path: Path) -> None:
    count = []

    @checkpointed(name="sums", function_version=1)
    def add(x: int, y: int, *, times: int = 1, words: tuple[str, ...] = ()) -> str:
        count.append(x)
        return f"{(x + y) * times}{''.join(words)}"

    @flow
    def sums() -> list[list[str]]:
        return [
            add.map([1, 2], [3, 4]).result(),
            add.map([1, 2], y=[3, 4]).result(),
            add.map([1, 2], [3, 4], times=10).result(),
            add.map([1, 2], 3, words=unmapped(("a", "b"))).result(),
            [add(1, 3), add(1, y=3, times=10), add(2, 3, words=("a", "b"))],
        ]

    assert sums() == [["4", "6"], ["4", "6"], ["40", "60"], ["4ab", "5ab"], ["4", "40", "5ab"]]
    assert count == [1, 2, 1, 2, 1, 2]


def test_a_constant_is_part_of_the_key() -> None:
    @checkpointed(name="scaled", function_version=1)
    def scale(x: int, by: Any) -> int:
        return x * len(by)

    @flow
    def scaled() -> list[list[int]]:
        return [scale.map([1, 2], unmapped(by)).result() for by in ([1, 2], [1, 2, 3], (1, 2))]

    assert scaled() == [[2, 4], [3, 6], [2, 4]]
    assert sum(row.done for row in CheckpointManager().list_checkpoints("scaled")) == 6


def test_a_key_stands_for_the_arguments() -> None:
    opened = []

    @checkpointed(name="sizes", function_version=1, key=lambda document, encoding: document["id"])
    def size(document: dict[str, Any], encoding: str) -> int:
        opened.append(document["id"])
        return len(document["text"].encode(encoding))

    documents = [{"id": 1, "text": "a", "lock": lambda: None}, {"id": 2, "text": "é", "lock": lambda: None}]

    @flow
    def sizes() -> list[int]:
        return size.map(documents, "utf-8").result() + size.map(documents, "latin-1").result()

    assert sizes() == [1, 2, 1, 2]
    assert opened == [1, 2]


def test_futures_are_resolved_and_waited_for(tmp_path: Path) -> None:
    @task
    def numbers(count: int) -> list[int]:
        return list(range(count))

    @task
    def number(x: int) -> int:
        return x

    @task
    def total(values: list[int]) -> int:
        return sum(values)

    square = noting(tmp_path)

    @flow
    def pipeline() -> tuple[int, list[int]]:
        first = square.map(numbers.submit(5))
        second = square.map(number.map([7, 8]), wait_for=[first])
        wait([second])
        return total.submit(first).result(), second.result()

    assert pipeline() == (30, [49, 64])


def test_direct_calls_and_submit_go_through_the_checkpoints(tmp_path: Path, calls: Callable[[], Counter[int]]) -> None:
    square = noting(tmp_path)

    @flow
    def single() -> list[int]:
        return [square(3), square(3), square.submit(4).result(), square.fn(4)]

    assert single() == [9, 9, 16, 16]
    assert square(3) == 9
    assert calls() == {3: 1, 4: 1}


def test_asynchronous_functions(tmp_path: Path) -> None:
    @checkpointed(batch_size=4, function_version=1)
    async def fetch(x: int) -> int:
        await asyncio.sleep(0)
        return -x

    @flow
    async def fetched() -> tuple[list[int], int]:
        return fetch.map(range(10)).result(), await fetch(11)

    assert asyncio.run(fetched()) == ([-x for x in range(10)], -11)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda task: task.map(1), MappingMissingIterable),
        (lambda task: task.map(unmapped([1])), MappingMissingIterable),
        (lambda task: task.map(), MappingMissingIterable),
        (lambda task: task.map([1], y=[1, 2]), MappingLengthMismatch),
        (lambda task: task.map(iter([1]), y=[1, 2]), MappingLengthMismatch),
        (lambda task: task.map([1], z=2), TypeError),
        (lambda task: task.map([threading.Lock(), 1]), UnhashableItem),
    ],
)
def test_calls_that_make_no_sense(call: Callable[[Any], Any], error: type[Exception]) -> None:
    @checkpointed(function_version=1)
    def either(x: int = 0, y: int = 0) -> int:
        return x

    with pytest.raises(error):
        flow(lambda: call(either))()
    assert not CheckpointManager(Repository("memory://nothing")).list_checkpoints("either")


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"max_wait_time": 0}, {"max_retries": -1}, {"name": "../up"}, {"batch_size": "10"}]
)
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(SnapshotsError):

        @checkpointed(function_version=1, **options)
        def identity(x: int) -> int:
            return x

        flow(lambda: identity.map([1]))()


def test_decorating_what_cannot_be_decorated() -> None:
    with pytest.raises(InvalidArgument, match="Remove @task"):
        checkpointed(task(lambda x: x))
    with pytest.raises(InvalidArgument, match="Return a list"):
        checkpointed(lambda x: (yield x))
    with pytest.raises(InvalidArgument, match="Pass options by name"):
        checkpointed("name")  # type: ignore[call-overload]
    with pytest.raises(InvalidArgument, match="within one batch"):
        checkpointed(batch_size=5, max_consecutive_exceptions=6)(abs)
    with pytest.raises(InvalidArgument, match=r"no option 'retires'\. Did you mean 'retries'"):
        checkpointed(retires=3)(abs)
    with pytest.raises(RuntimeError, match="works only inside a flow"):
        checkpointed(abs, function_version=1).map([1])  # type: ignore[call-overload]


# --- failures ------------------------------------------------------------------------------------------------------


def test_a_retried_batch_does_not_do_again_what_is_written(tmp_path: Path, calls: Callable[[], Counter[int]]) -> None:
    file = tmp_path / "calls"

    @checkpointed(name="flaky", function_version=1, batch_size=10, max_retries=0, retries=2)
    def flaky(x: int) -> int:
        with open(file, "a") as noted:
            noted.write(f"{x}\n")
        if x in (3, 6) and calls()[x] == 1:
            raise ConnectionError(f"no answer for {x}")
        return x

    assert mapped(flaky, range(10)) == list(range(10))
    assert calls() == {x: 1 + (x in (3, 6)) for x in range(10)}
    [run] = task_runs(RUNS[-1], 1)
    assert run.run_count == 3


def test_a_failing_item_fails_its_batch_and_the_others_are_kept(
    tmp_path: Path, calls: Callable[[], Counter[int]]
) -> None:
    file = tmp_path / "calls"
    broken = True

    @checkpointed(name="inverse", function_version=1, batch_size=5, max_retries=1)
    def invert(x: int) -> float:
        with open(file, "a") as noted:
            noted.write(f"{x}\n")
        if broken and x == 7:
            raise ZeroDivisionError("seven")
        return -x

    with pytest.raises(ZeroDivisionError, match="seven"):
        mapped(invert, range(20))
    assert calls() == {x: 1 + (x == 7) for x in (0, 1, 2, 3, 4, 5, 6, 7, *range(10, 20))}
    broken = False
    assert mapped(invert, range(20)) == [-x for x in range(20)]
    assert calls().total() == 18 + 1 + 3


def test_skipped_items_are_told() -> None:
    @checkpointed(name="inverse", function_version=1, batch_size=4, max_retries=0, skip_item_errors=True)
    def invert(x: int) -> float:
        return 1 / x

    @flow
    def inverses() -> tuple[list[Any], dict[int, str], dict[str, Any], list[Any]]:
        results = invert.map([1, 0, 2, 4, 0.0])
        with pytest.raises(IncompleteResults, match="2 of 5"):
            results.result()
        failed = {position: f"{failure.item} {failure}" for position, failure in results.failed_items.items()}
        streamed = list(results.iter_results(missing=-1.0))
        return results.result(missing=None), failed, json.loads(results.report("json")), streamed

    found, failed, report, streamed = inverses()
    assert found == [1.0, None, 0.5, 0.25, None]
    assert streamed == [1.0, -1.0, 0.5, 0.25, -1.0]
    assert failed == {
        1: "0 ZeroDivisionError: division by zero",
        4: "0.0 ZeroDivisionError: float division by zero",
    }
    assert (report["successful_items"], report["failed_count"]) == (3, 2)


@pytest.mark.parametrize(
    ("fails", "kind", "name"), [(False, "COMPLETED", "CompletedWithFailures"), (True, "FAILED", "Failed")]
)
def test_missing_results_decide_the_state_of_the_flow(fails: bool, kind: str, name: str) -> None:
    @checkpointed(
        name=f"policy-{fails}",
        function_version=1,
        max_retries=0,
        skip_item_errors=True,
        fail_if_incomplete=fails,
    )
    def invert(x: int) -> float:
        return 1 / x

    @flow
    def inverses() -> Any:
        return invert.map([1, 0, 2])

    state: Any = inverses(return_state=True)
    assert (state.type.value, state.name) == (kind, name)
    assert state.message == "3 items: 2 done now, 1 failed now."
    if fails:
        with pytest.raises(IncompleteResults, match="1 of 3"):
            state.result()
    else:
        assert state.result() == [1.0, None, 0.5]


def test_many_failures_in_a_row_stop_a_batch() -> None:
    @checkpointed(
        name="hopeless",
        function_version=1,
        batch_size=8,
        max_retries=0,
        skip_item_errors=True,
        max_consecutive_exceptions=3,
    )
    def hopeless(x: int) -> float:
        raise OSError("no")

    with pytest.raises(TooManyFailures, match="3 consecutive items failed"):
        mapped(hopeless, range(16))


@pytest.mark.parametrize("result", [lambda: (x for x in (1,)), threading.Lock])
def test_a_result_that_cannot_be_kept_fails_the_task(result: Callable[[], Any]) -> None:
    @checkpointed(name="unkept", function_version=1, batch_size=4)
    def unkept(x: int) -> Any:
        return result() if x == 2 else x

    with pytest.raises(SnapshotsError, match="item 2"):
        mapped(unkept, range(4))
    assert sum(row.done for row in CheckpointManager().list_checkpoints("unkept")) == 2


def test_a_repository_that_is_gone_fails_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    square = noting(tmp_path, repository=tmp_path / "file" / "repository")
    with pytest.raises(SnapshotsError):
        mapped(square, range(4))


# --- what is told --------------------------------------------------------------------------------------------------


def test_progress_report_and_event(tmp_path: Path) -> None:
    square = noting(tmp_path, name="told")
    mapped(square, range(10))
    mapped(square, range(40))
    flush()
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[RUNS[-1]]))
        )
    [bar] = [one for one in found if one.type == "progress"]
    assert bar.data == 100.0
    [report] = [one for one in found if one.type == "markdown"]
    this_run, all_runs = str(report.data).split("### All runs of told")
    assert "| items in this run | 40 |\n| done now | 30 |\n| failed now | 0 |\n| done before | 10 |" in this_run
    assert "| items | 40 |" in all_runs
    first, second = events_about("prefect-snapshots.checkpoints.told", 2)
    assert first.event == second.event == "prefect-snapshots.checkpoints.completed"
    assert second.payload["items"] == 40
    assert (second.payload["done_before"], second.payload["done"], second.payload["batches"]) == (10, 30, 3)
    assert (second.payload["failed"], second.payload["failed_batches"]) == (0, 0)


def test_the_last_line_the_event_and_the_state_account_for_every_item(caplog: pytest.LogCaptureFixture) -> None:
    name = f"truth-{uuid.uuid4().hex}"

    @checkpointed(name=name, batch_size=10, max_retries=0, skip_item_errors=True, function_version=1)
    def half(x: int) -> float:
        if x % 10 == 3:
            raise ValueError("no")
        return x / 2

    states: list[Any] = []

    @flow
    def halves(items: list[int]) -> None:
        future = half.map(items)
        future.wait()
        states.append(future.state)

    halves(list(range(30)))
    halves([*range(40), 0])
    lines = [record for record in caplog.records if "Took" in record.getMessage() and half.name in record.getMessage()]
    first, second = lines
    assert "30 items: 27 done now, 3 failed now. 3 items have no result." in first.getMessage()
    assert (
        "41 items: 9 done now, 28 done before, 1 failed now, "
        "3 failed before and not retried. 4 items have no result." in second.getMessage()
    )
    assert {first.levelname, second.levelname} == {"WARNING"}
    assert [state.name for state in states] == ["CompletedWithFailures", "CompletedWithFailures"]
    assert (states[1].message or "").startswith("41 items: 9 done now")
    payload = events_about(f"prefect-snapshots.checkpoints.{name}", 2)[1].payload
    parts = ("done", "done_before", "failed", "failed_before", "repeated", "skipped")
    assert payload["items"] == sum(payload[part] for part in parts) == 41
    assert payload["missing"] == 4


def test_the_bar_begins_at_what_is_done(tmp_path: Path) -> None:
    square = noting(tmp_path)
    mapped(square, range(30))
    seen: list[Any] = []

    @checkpointed(name="squares", function_version=1, batch_size=10)
    def look(x: int) -> int:
        if x == 30:
            flush()
            with get_client(sync_client=True) as client:
                run = ArtifactFilterFlowRunId(any_=[this_run()])
                found = client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=run))
            seen.extend(one.data for one in found if one.type == "progress")
        return x * x

    assert mapped(look, range(40), ThreadPoolTaskRunner(max_workers=1)) == [x * x for x in range(40)]
    assert seen == [75.0]


# --- task runners --------------------------------------------------------------------------------------------------


def dask(workers: int = 2) -> Any:
    from prefect_dask.task_runners import DaskTaskRunner

    return DaskTaskRunner(cluster_kwargs={"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None})


def ray() -> Any:
    from prefect_ray.task_runners import RayTaskRunner

    environment = {"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}}
    return RayTaskRunner(init_kwargs={"num_cpus": 2, "include_dashboard": False, "runtime_env": environment})


RUNNERS = {"processes": lambda: ProcessPoolTaskRunner(max_workers=2), "dask": dask, "ray": ray}


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    "runner", ["processes", *(pytest.param(name, marks=pytest.mark.nightly) for name in ("dask", "ray"))]
)
def test_other_task_runners(runner: str, tmp_path: Path, calls: Callable[[], Counter[int]]) -> None:
    square = noting(tmp_path)
    assert mapped(square, range(35), RUNNERS[runner]()) == [x * x for x in range(35)]
    assert calls() == dict.fromkeys(range(35), 1)
    assert mapped(square, range(40)) == [x * x for x in range(40)]
    assert calls() == dict.fromkeys(range(40), 1)


SCRIPT = """
    import os, sys, time
    from prefect import flow
    from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner
    from prefect_snapshots import Repository, checkpointed

    url, options, calls, runner, wait = eval(sys.argv[1])

    @checkpointed(
        name="squares", function_version=1, batch_size=10, max_wait_time=wait,
        repository=Repository(url, storage_options=options),
    )
    def square(x):
        with open(calls, "a") as file:
            file.write(f"{x}\\n")
        time.sleep(0.02)
        return x * x

    @flow(task_runner={"threads": ThreadPoolTaskRunner, "processes": ProcessPoolTaskRunner}[runner](max_workers=2))
    def squares():
        return square.map(range(200)).result()

    if __name__ == "__main__":
        print(squares() == [x * x for x in range(200)])
"""


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("runner", ["threads", pytest.param("processes", marks=pytest.mark.nightly)])
@pytest.mark.parametrize("place", ["local", pytest.param("s3", marks=pytest.mark.nightly)])
def test_a_killed_flow_goes_on_where_it_stopped(
    runner: str,
    place: str,
    kills: int,
    tmp_path: Path,
    calls: Callable[[], Counter[int]],
    request: pytest.FixtureRequest,
    prefect_server: str,
) -> None:
    storage: Storage = request.getfixturevalue(f"{place}_storage")
    program = tmp_path / "squares.py"
    program.write_text(textwrap.dedent(SCRIPT))
    settings = (storage.url, dict(storage.storage_options), str(tmp_path / "calls"), runner, 0.1)
    command = [sys.executable, str(program), repr(settings)]
    environment = {**os.environ, "PREFECT_API_URL": prefect_server}
    repository = Repository(storage.url, storage_options=storage.storage_options)
    snapper = Snapper(range(200), abs, repository=repository, name="squares", function_version=1)
    moments = random.Random(kills)
    for kill in range(kills):
        before, noted = done(snapper), calls()
        enough = (180 * kill + moments.randrange(10, 180)) // kills
        with subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.PIPE) as process:
            try:
                until = time.monotonic() + 60
                while len(calls()) < enough:
                    assert process.poll() is None, process.communicate()[1].decode()
                    assert time.monotonic() < until
                    time.sleep(0.01)
            finally:
                os.killpg(process.pid, signal.SIGKILL)
        assert before <= done(snapper)
        assert all(calls()[x] == noted[x] for x in before), "what was written was done again"
        begun = {x for x in calls() if calls()[x] > noted[x]}
        assert len(begun - done(snapper)) <= 2 * 10
    before, noted = done(snapper), calls()
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert finished.stdout == "True\n", finished.stderr
    assert all(calls()[x] == noted[x] for x in before), "what was written was done again"
    assert snapper.load() == [x * x for x in range(200)]


def done(snapper: Snapper[int, int]) -> set[int]:
    """The items whose results are written."""
    return {x for x, found in enumerate(snapper.load(missing=None)) if found is not None}


@pytest.mark.timeout(120)
def test_a_terminated_flow_writes_what_is_done(
    local_storage: Storage, tmp_path: Path, calls: Callable[[], Counter[int]], prefect_server: str
) -> None:
    program = tmp_path / "squares.py"
    program.write_text(textwrap.dedent(SCRIPT))
    settings: tuple[Any, ...] = (local_storage.url, {}, str(tmp_path / "calls"), "threads", None)
    environment = {**os.environ, "PREFECT_API_URL": prefect_server}
    process = subprocess.Popen([sys.executable, str(program), repr(settings)], env=environment)
    until = time.monotonic() + 60
    while len(calls()) < 25:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    process.terminate()
    process.wait(30)
    repository = Repository(local_storage.url)
    snapper = Snapper(range(200), abs, repository=repository, name="squares", function_version=1)
    assert len(done(snapper)) >= len(calls()) - 2


# --- the corpus ----------------------------------------------------------------------------------------------------


@pytest.mark.nightly
@pytest.mark.timeout(250)
def test_the_corpus_on_s3_with_dask(s3_storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "flows")  # the workers have it too
    corpus: Any = importlib.import_module("process_corpus")
    monkeypatch.setattr(corpus, "embed", corpus.embed.with_options(batch_size=20))
    process: Any = corpus.process_corpus.with_options(task_runner=dask())
    repository = Repository(s3_storage.url, storage_options=s3_storage.storage_options)
    with use_repository(repository):
        pairs = process(pattern="json/*.py")
        more = process(pattern="[je][sm]*/*.py")
        assert process(pattern="json/*.py") == pairs
    assert len(pairs) == 5
    assert all(0.2 < pair.cosine < 1 for pair in pairs)
    assert {pair.one.partition("/")[0] for pair in more} <= {"json", "email", "ensurepip"}
    [row] = CheckpointManager(repository).list_checkpoints("corpus")
    assert row.done == len(list(corpus.documents(os.path.dirname(os.__file__), "[je][sm]*/*.py")))
    assert repository.check(read_data=True).ok


@pytest.mark.timeout(250)
@pytest.mark.nightly
def test_the_demo_of_the_corpus(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": str(tmp_path / "prefect"), "COLUMNS": "200"}
    script = str(Path(__file__).parent.parent / "flows" / "process_corpus.py")
    command = [sys.executable, script, "demo", "--pattern", "[a-h]*.py", "--kill-after", "1"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Killed it (SIGKILL)." in done.stdout
    assert "Both ended with the same embeddings." in done.stdout
    assert "http://127.0.0.1:4200/artifacts/key/prefect-snapshots-checkpoints-corpus-demo-" in done.stdout


def test_what_is_logged_when_a_batch_ends_has_the_settings_of_the_run() -> None:
    # A thread of the task runner ends the last batch. Without them the line went to another server, or started one.
    seen: list[tuple[str, str | None]] = []

    class Note(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append((record.getMessage(), PREFECT_UI_URL.value()))

    @checkpointed(name="settled", function_version=1)
    def same(item: int) -> int:
        return item

    logger, note = logging.getLogger("prefect.flow_runs"), Note()
    logger.addHandler(note)
    try:
        with temporary_settings({PREFECT_UI_URL: "http://here.example"}):
            mapped(same, range(3))
    finally:
        logger.removeHandler(note)
    assert [ui for line, ui in seen if "Took" in line] == ["http://here.example"]
