"""`@snapshot` captures what a function returns or yields, once, and changes nothing else about it.

Whatever the function is (a method, asynchronous, a generator, a task) and however its run ends: failed, retried,
cached, rolled back, or with a save that fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import subprocess
import sys
import textwrap
import threading
import uuid
from collections.abc import AsyncIterator, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from prefect import Task, flow, task
from prefect.cache_policies import INPUTS
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed
from prefect.task_runners import ProcessPoolTaskRunner
from prefect.transactions import atransaction, transaction

from prefect_snapshots import Repository, SnapshotManager, load_latest, snapshot, use_repository, wait_for_snapshots
from prefect_snapshots.errors import InvalidArgument, InvalidName, SnapshotExists, SnapshotNotFound, UnserialisableLeaf
from prefect_snapshots.integration.blocks import current_repository

pytestmark = [pytest.mark.xdist_group("prefect"), pytest.mark.usefixtures("prefect_server")]


@pytest.fixture(autouse=True)
def repository(tmp_path: Path) -> Iterator[Repository]:
    """The repository in use, on disk."""
    with use_repository(tmp_path / "repository") as repository:
        yield repository


def saved(name: str) -> list[Any]:
    """The values under a name, in the order of saving."""
    manager = SnapshotManager(current_repository(), name=name)
    return [manager[snapshot_id].data for snapshot_id in manager]


# --- every kind of function ------------------------------------------------------------------------------------------


def test_a_function_returns_the_same_object() -> None:
    result = {"weights": np.arange(3)}

    @snapshot
    def train(rate: float) -> dict[str, Any]:
        """Train."""
        return result

    assert train(0.1) is result
    assert (train.__name__, train.__doc__) == ("train", "Train.")
    [value] = saved("local/train")
    assert value["weights"].tolist() == [0, 1, 2]


def test_methods() -> None:
    class Model:
        def __init__(self, factor: int) -> None:
            self.factor = factor

        @snapshot(metadata=lambda result, parameters: {"factor": parameters["self"].factor})
        def times(self, number: int) -> int:
            return self.factor * number

        @snapshot
        @classmethod
        def called(cls) -> str:
            return cls.__name__

        @snapshot
        @staticmethod
        def alone() -> str:
            return "alone"

        @task
        @snapshot
        def as_task(self, number: int) -> int:
            return self.factor * number

    assert Model(2).times(4) == 8
    assert (Model.called(), Model.alone()) == ("Model", "alone")
    assert Model(3).as_task(5) == 15
    assert [saved(f"local/{name}") for name in ("times", "called", "alone", "as_task")] == [
        [8],
        ["Model"],
        ["alone"],
        [15],
    ]
    times = SnapshotManager(current_repository(), name="local/times")
    assert [times.get_metadata(snapshot_id) for snapshot_id in times] == [{"factor": 2}]


def test_asynchronous_functions() -> None:
    loop = threading.get_ident()
    threads: list[int] = []

    def note_thread(result: int) -> dict[str, int]:
        threads.append(threading.get_ident())
        return {}

    @snapshot(metadata=note_thread)
    async def compute(number: int) -> int:
        await asyncio.sleep(0)
        return number + 1

    async def both() -> list[int]:
        return list(await asyncio.gather(compute(1), compute(2)))

    assert asyncio.run(both()) == [2, 3]
    assert sorted(saved("local/compute")) == [2, 3]
    assert loop not in threads, "the event loop goes on while a snapshot is saved"


def test_generators_keep_their_whole_protocol() -> None:
    closed: list[str] = []

    @snapshot
    def count(start: int) -> Generator[int, str | None, str]:
        heard = []
        try:
            for number in range(start, start + 4):
                try:
                    heard.append((yield number))
                except LookupError:
                    heard.append("raised")
        finally:
            closed.append("closed")
        return f"heard {heard}"

    generator = count(10)
    assert next(generator) == 10
    assert generator.send("hello") == 11
    assert generator.throw(LookupError()) == 12
    assert next(generator) == 13
    with pytest.raises(StopIteration, match="heard"):
        next(generator)
    assert saved("local/count") == [10, 11, 12, 13]

    abandoned = count(20)
    next(abandoned)
    abandoned.close()
    assert closed == ["closed", "closed"]
    assert saved("local/count")[4:] == [20]


def test_asynchronous_generators() -> None:
    @snapshot
    async def count(end: int) -> AsyncIterator[int]:
        for number in range(end):
            await asyncio.sleep(0)
            yield number

    async def collect() -> list[int]:
        return [number async for number in count(3)]

    assert asyncio.run(collect()) == [0, 1, 2]
    assert saved("local/count") == [0, 1, 2]


def test_what_says_how_a_run_ended_is_no_value() -> None:
    @task
    @snapshot
    def finish() -> State[Any]:
        return Completed(message="nothing to do")

    finish()
    assert saved("local/finish") == []


# --- tasks -----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["under", "over"])
def snapshot_task(request: pytest.FixtureRequest) -> Any:
    """Decorates with `@task` and `@snapshot`, in both orders."""

    def decorate(options: dict[str, Any] | None = None, **task_options: Any) -> Any:
        capture, make_task = snapshot(**(options or {})), task(**task_options)
        if request.param == "under":
            return lambda fn: make_task(capture(fn))
        return lambda fn: capture(make_task(fn))

    return decorate


def test_a_task_keeps_its_options(snapshot_task: Any) -> None:
    noted: list[str] = []

    @snapshot_task(
        name="renamed", tags=["a"], retries=2, on_completion=[lambda *_: noted.append("done")], task_run_name="run-{x}"
    )
    def double(x: int) -> int:
        return 2 * x

    assert isinstance(double, Task)
    assert (double.name, double.tags, double.retries, double.task_run_name) == ("renamed", {"a"}, 2, "run-{x}")

    @flow(name="doubles")
    def doubles() -> list[int]:
        return [double(1), double.submit(2).result(), *double.map([3, 4]).result(), double.with_options(retries=0)(5)]

    assert doubles() == [2, 4, 6, 8, 10]
    assert sorted(saved("doubles/renamed")) == [2, 4, 6, 8, 10]
    assert noted == ["done"] * 5


def test_a_task_is_not_changed_by_a_snapshot_over_it() -> None:
    @task
    def plain() -> int:
        return 1

    captured = snapshot(name="captured")(plain)
    captured.on_failure(lambda *_: None)
    assert (plain(), captured()) == (1, 1)
    assert saved("captured") == [1]
    assert plain.on_failure_hooks == []


def test_asynchronous_tasks(snapshot_task: Any) -> None:
    @snapshot_task()
    async def double(x: int) -> int:
        return 2 * x

    @flow(name="doubles")
    async def doubles() -> list[int]:
        return [await double(1), double.submit(2).result()]

    assert asyncio.run(doubles()) == [2, 4]
    assert saved("doubles/double") == [2, 4]


def test_a_failed_attempt_saves_nothing_and_a_retry_once(snapshot_task: Any) -> None:
    attempts: list[int] = []

    @snapshot_task(retries=2)
    def flaky() -> int:
        attempts.append(1)
        if len(attempts) < 3:
            raise OSError
        return len(attempts)

    assert flaky() == 3
    assert saved("local/flaky") == [3]


def test_a_retry_after_a_save_saves_no_second_time() -> None:
    attempts: list[int] = []

    def fails_once_afterwards(fn: Any) -> Any:
        @functools.wraps(fn)
        def call(*args: Any) -> Any:
            result = fn(*args)
            attempts.append(result)
            if len(attempts) == 1:
                raise OSError
            return result

        return call

    @task(retries=1)
    @fails_once_afterwards
    @snapshot
    def compute(x: int) -> int:
        return x

    @flow(name="twice")
    def twice() -> list[int]:
        return [compute(7), compute(7)]

    assert twice() == [7, 7]
    assert attempts == [7, 7, 7]
    assert saved("twice/compute") == [7, 7], "once for each of the two runs"


def test_a_cache_hit_saves_nothing(snapshot_task: Any) -> None:
    @snapshot_task(cache_policy=INPUTS, persist_result=True)
    def compute(x: object) -> str:
        return f"{x}"

    key = uuid.uuid4().hex

    @flow(name="cached")
    def cached() -> list[str]:
        return [state.name for state in (compute(key, return_state=True), compute(key, return_state=True))]

    assert cached() == ["Completed", "Cached"]
    assert saved("cached/compute") == [key]


def test_the_yields_of_a_retried_generator_are_saved_once(snapshot_task: Any) -> None:
    attempts: list[int] = []

    @snapshot_task(retries=1)
    def epochs() -> Iterator[int]:
        attempts.append(1)
        for epoch in range(3):
            if epoch == 2 and len(attempts) == 1:
                raise OSError
            yield epoch

    @flow(name="training")
    def training() -> list[int]:
        return list(epochs())

    assert training() == [0, 1, 0, 1, 2]
    assert saved("training/epochs") == [0, 1, 2]


def test_interleaved_generators_stay_with_their_runs() -> None:
    @task
    @snapshot(name="{task_name}", metadata={"run": "{task_run_id}"})
    def first() -> Iterator[int]:
        yield from (1, 2)

    @task
    @snapshot(name="{task_name}", metadata={"run": "{task_run_id}"})
    def second() -> Iterator[int]:
        yield from (3, 4)

    @snapshot(name="afterwards")
    def afterwards() -> int:
        return 5

    @flow
    def zipped() -> list[tuple[int, int]]:
        pairs = list(zip(first(), second(), strict=True))
        afterwards()
        return pairs

    # Generator tasks that take turns leave their context variables to the caller: the other tests must not get them.
    assert contextvars.copy_context().run(zipped) == [(1, 3), (2, 4)]
    runs = [
        {str(manager.get_metadata(snapshot_id)["run"]) for snapshot_id in manager}
        for manager in (SnapshotManager(current_repository(), name=name) for name in ("first", "second"))
    ]
    assert [len(run) for run in runs] == [1, 1]
    assert runs[0] != runs[1]
    assert saved("afterwards") == [5]


def test_a_value_that_cannot_be_saved_fails_the_task(snapshot_task: Any) -> None:
    @snapshot_task()
    def compute() -> dict[str, Any]:
        return {"deep": {"lock": threading.Lock()}}

    @flow(name="unserialisable")
    def run() -> None:
        compute()

    state = run(return_state=True)
    assert state.is_failed()
    with pytest.raises(UnserialisableLeaf, match="deep/lock"):
        state.result()
    assert saved("unserialisable/compute") == []


@task
@snapshot(name="processes", metadata={"flow": "{flow_name}", "number": "{parameters[number]}"})
def in_process(number: int) -> int:
    return number * 10


@flow
def over_processes(url: str) -> list[int]:
    remote = snapshot(name="remote", repository=url)(in_process)
    return remote.map(range(3)).result()  # type: ignore[no-any-return]


def test_other_processes_save_too(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_SNAPSHOTS_REPOSITORY", repository.url)
    runner: Any = ProcessPoolTaskRunner(max_workers=2)
    assert over_processes.with_options(task_runner=runner)(repository.url) == [0, 10, 20]
    assert sorted(saved("processes")) == sorted(saved("remote")) == [0, 10, 20]
    manager = SnapshotManager(repository, name="processes")
    assert sorted(manager.get_metadata(each)["number"] for each in manager) == ["0", "1", "2"]
    assert {manager.get_metadata(each)["flow"] for each in manager} == {"over-processes"}


def test_a_decorated_function_travels_by_value() -> None:
    @snapshot(name="travelled", tags=lambda result: [f"t{result}"], rank_by="loss", max_snapshots=2)
    def compute(x: int) -> int:
        return x

    assert cloudpickle.loads(cloudpickle.dumps(compute))(5) == 5
    assert saved("travelled") == [5]


# --- what is said about a snapshot -----------------------------------------------------------------------------------


def test_templates() -> None:
    @task(name="step")
    @snapshot(
        name="{flow_name}/{task_name}/{parameters[kind]}",
        snapshot_id="{parameters[kind]}-{parameters[epoch]}",
        tags=["{flow_run_name}", "static"],
        metadata={"epoch": "{parameters[epoch]}", "run": "{flow_run_id}", "rate": 0.5, "nested": ["{task_name}"]},
    )
    def train(epoch: int, kind: str = "adam") -> int:
        return epoch

    @flow(name="pipeline", flow_run_name="a-run")
    def pipeline() -> str:
        train(3)
        return str(flow_run.id)

    run_id = pipeline()
    found = SnapshotManager(current_repository(), name="pipeline/step/adam")["adam-3"]
    assert found.metadata == {"epoch": "3", "run": run_id, "rate": 0.5, "nested": ["step"]}
    assert found.tags == ["a-run", "static"]


def test_callables() -> None:
    @snapshot(
        name=lambda result, **rest: f"{result['kind']}-{rest['parameters']['size']}",
        snapshot_id=lambda result: result["kind"],
        tags=lambda result, parameters: [f"size-{parameters['size']}"],
        metadata=lambda result, parameters: {"loss": result["loss"], "size": parameters["size"]},
    )
    def measure(size: int) -> dict[str, Any]:
        return {"kind": "small", "loss": np.float32(0.5)}

    measure(7)
    found = SnapshotManager(current_repository(), name="small-7")["small"]
    assert (found.metadata, found.tags) == ({"loss": 0.5, "size": 7}, ["size-7"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "{task}"}, "has the unknown placeholder 'task'. Use one of: flow_name"),
        ({"snapshot_id": "{}"}, "unknown placeholder ''"),
        ({"tags": ["{parameters[x]"]}, "is not a valid template"),
        ({"metadata": {"config": '{"a": 1}'}}, "is not a valid template|unknown placeholder"),
        ({"every": 0}, "every must be an integer of at least 1, not 0"),
        ({"max_snapshots": "3"}, "max_snapshots must be an integer of at least 1, not '3'"),
        ({"retention": "daily"}, "policy must be a RetentionPolicy, not str"),
        ({"rank_by": "loss", "mode": "best"}, "mode must be"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        snapshot(**options)(print)


def test_what_is_no_function_is_refused() -> None:
    @flow
    def pipeline() -> None: ...

    with pytest.raises(InvalidArgument, match="Put @snapshot below @flow"):
        snapshot(pipeline)
    with pytest.raises(InvalidArgument, match="Pass options by name"):
        snapshot("pipeline/step")  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"snapshot_id": "{parameters[path]}"}, "/data/x"),
        ({"snapshot_id": "{parameters[path]}"}, ""),
        ({"name": "models/{parameters[path]}"}, "../x"),
        ({"tags": ["fit", "{parameters[path]}"]}, "\x00"),
    ],
)
def test_a_name_that_cannot_be_stored_is_said_before_the_function_runs(options: dict[str, Any], path: str) -> None:
    ran = []

    @snapshot(repository="memory://checked-before", **options)
    def work(path: str) -> int:
        ran.append(path)
        return 1

    with pytest.raises(InvalidName):
        work(path)
    assert not ran


def test_a_template_that_does_not_fit_the_call_names_it() -> None:
    @snapshot(snapshot_id="{parameters[epoch]}")
    def compute(step: int) -> int:
        return step

    with pytest.raises(InvalidArgument, match="no 'epoch'"):
        compute(1)


def test_an_id_is_given_once_and_a_taken_one_is_said_before_the_function_runs() -> None:
    ran = []

    @snapshot(snapshot_id="only")
    def compute() -> int:
        ran.append(1)
        return 1

    compute()
    with pytest.raises(SnapshotExists, match=r"already has a snapshot 'only'. The function was not called"):
        compute()
    assert len(ran) == 1


# --- which ones are kept ---------------------------------------------------------------------------------------------


@dataclass
class Result:
    loss: float


@pytest.mark.parametrize(
    ("result", "metadata"),
    [
        (lambda loss: {"loss": loss}, None),
        (lambda loss: {"metrics": {"loss": loss}}, None),
        (Result, None),
        (lambda loss: ("state", loss), lambda result: {"loss": result[1]}),
        (lambda loss: {"loss": -loss}, lambda result: {"loss": -result["loss"]}),
    ],
)
def test_the_best_are_kept(result: Any, metadata: Any) -> None:
    key = "metrics.loss" if metadata is None and "metrics" in str(result(1.0)) else "loss"

    @snapshot(name="ranked", rank_by=key, mode="min", max_snapshots=2, metadata=metadata)
    def train(loss: float) -> Any:
        return result(loss)

    for loss in (0.5, 0.1, 0.9, 0.3):
        train(loss)
    assert saved("ranked") == [result(0.1), result(0.3)]


def test_a_rank_that_is_nowhere_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    @snapshot(rank_by="los")
    def train() -> dict[str, float]:
        return {"loss": 1.0}

    train()
    assert "Neither the metadata nor the result has rank_by='los'" in caplog.text
    assert saved("local/train") == [{"loss": 1.0}]


def test_every_counts_the_calls_of_a_flow_run() -> None:
    @task
    @snapshot(every=3)
    def step(number: int) -> int:
        return number

    @flow(name="stepping")
    def stepping() -> None:
        for number in range(7):
            step(number)

    stepping()
    stepping()
    assert saved("stepping/step") == [2, 5, 2, 5]


def test_every_counts_the_values_of_a_generator() -> None:
    @snapshot(every=2)
    def numbers(end: int) -> Iterator[int]:
        yield from range(end)

    assert list(numbers(5)) + list(numbers(3)) == [0, 1, 2, 3, 4, 0, 1, 2]
    assert saved("local/numbers") == [1, 3, 1]


# --- in the background -----------------------------------------------------------------------------------------------


def test_the_background_saves_what_was_returned_and_loading_waits_for_it() -> None:
    @snapshot(name="background", background=True)
    def compute() -> dict[str, Any]:
        return {"array": np.zeros(1_000_000)}

    for number in range(3):
        result = compute()
        result["array"] += number + 1  # as training goes on
        assert load_latest("background")["array"].max() == 0
    assert len(saved("background")) == 3


def test_an_error_in_the_background_is_logged_and_raised_later(caplog: pytest.LogCaptureFixture) -> None:
    @snapshot(name="background", snapshot_id="same", background=True)
    def compute() -> int:
        return 1

    compute()
    compute()
    with pytest.raises(SnapshotExists):
        wait_for_snapshots()
    assert "could not be saved in the background" in caplog.text
    wait_for_snapshots()
    compute()
    with pytest.raises(SnapshotExists):
        compute()


def test_python_exits_after_the_background_has_saved(tmp_path: Path) -> None:
    program = f"""
    import numpy as np
    from prefect_snapshots import snapshot

    @snapshot(name="last", repository={str(tmp_path / "repository")!r}, background=True)
    def compute():
        return np.ones(10_000_000)

    compute()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)
    assert load_latest("last").sum() == 10_000_000


# --- resuming --------------------------------------------------------------------------------------------------------


def test_load_latest() -> None:
    @snapshot(name="training/{task_name}")
    def train(epoch: int) -> dict[str, Any]:
        return {"epoch": epoch, "pair": (1, 2)}

    assert load_latest("training/train", default=None) is None
    with pytest.raises(SnapshotNotFound, match="no snapshots under the name 'training/train'"):
        load_latest("training/train")
    train(1)
    train(2)
    assert load_latest("training/train", default=None) == {"epoch": 2, "pair": (1, 2)}
    assert load_latest("training/train", like={"epoch": 0, "pair": [0, 0]}) == {"epoch": 2, "pair": [1, 2]}


def test_looking_for_the_latest_creates_no_repository(tmp_path: Path) -> None:
    assert load_latest("any", default=1, repository=tmp_path / "nowhere") == 1
    assert not (tmp_path / "nowhere").exists()


# --- transactions ----------------------------------------------------------------------------------------------------


class Undo(Exception):
    """Raised to fail a transaction."""


@contextlib.contextmanager
def undone(**options: Any) -> Iterator[None]:
    """A transaction that fails in the end."""
    with contextlib.suppress(Undo), transaction(**options):
        yield
        raise Undo


@task
@snapshot(name="transactional")
def keep(value: Any) -> Any:
    return value


@task
def fail() -> None:
    raise Undo


@pytest.mark.parametrize("options", [{}, {"persist_result": True}], ids=["plain", "persisted"])
def test_a_failed_transaction_undoes_its_snapshots(options: dict[str, Any]) -> None:
    captured = keep.with_options(**options) if options else keep

    @flow
    def pipeline() -> None:
        captured("before")
        with transaction():
            captured("kept")
        with undone():
            captured("undone 1")
            captured.submit("undone 2").wait()
            with transaction(key="inner"):
                captured("undone 3")
        with undone(key="outer"):
            captured("undone 4")
            fail()
        captured("after")

    pipeline()
    assert saved("transactional") == ["before", "kept", "after"]


def test_asynchronous_transactions() -> None:
    @task
    @snapshot(name="transactional")
    async def keep_async(value: Any) -> Any:
        return value

    @flow
    async def pipeline() -> None:
        async with atransaction():
            await keep_async("kept")
        with contextlib.suppress(Undo):
            async with atransaction():
                await keep_async("undone")
                raise Undo

    asyncio.run(pipeline())
    assert saved("transactional") == ["kept"]


@pytest.mark.parametrize("options", [{}, {"persist_result": True}], ids=["plain", "persisted"])
def test_a_failed_task_keeps_what_it_saved(options: dict[str, Any]) -> None:
    """To resume from it: the transaction that Prefect opens around every task run is none of the user's."""

    @task(**options)
    @snapshot(name="transactional")
    def epochs() -> Iterator[int]:
        yield 1
        raise Undo

    @task(**options)
    def outer() -> None:
        keep("nested")
        with transaction():
            keep("in a transaction of the task")
        raise Undo

    @flow
    def pipeline() -> None:
        with pytest.raises(Undo):
            list(epochs())
        with pytest.raises(Undo):
            outer()

    pipeline()
    assert saved("transactional") == [1, "nested"]


def test_a_retry_saves_again_what_was_rolled_back() -> None:
    attempts: list[int] = []

    @task(retries=1)
    @snapshot(name="transactional")
    def epochs() -> Iterator[str]:
        attempts.append(1)
        yield f"attempt {len(attempts)}"
        if len(attempts) == 1:
            raise Undo

    @flow
    def pipeline() -> None:
        with transaction():
            list(epochs())

    pipeline()
    assert len(attempts) == 2
    assert saved("transactional") == ["attempt 2"]


def test_a_rollback_brings_back_what_was_evicted_or_replaced() -> None:
    @snapshot(
        name="transactional", snapshot_id=lambda result: result["id"], rank_by="loss", mode="min", max_snapshots=2
    )
    def best(id: str, loss: float) -> dict[str, Any]:
        return {"id": id, "loss": loss, "data": np.arange(100_000)}

    best("a", 0.4)
    best("b", 0.3)
    manager = SnapshotManager(current_repository(), name="transactional")
    manager.add_tags("a", "precious")
    before = [manager["a"], manager["b"]]
    with undone():
        best("c", 0.2)
        best("d", 0.1)
        assert list(manager) == ["c", "d"]
    assert list(manager) == ["a", "b"]
    assert [(each.id, each.timestamp, each.tags, each.metadata) for each in map(manager.get_snapshot, manager)] == [
        (each.id, each.timestamp, each.tags, each.metadata) for each in before
    ]
    assert (manager["a"].data["data"] == before[0].data["data"]).all()
    latest = SnapshotManager(current_repository(), name="transactional").get_latest_snapshot()
    assert latest is not None
    assert latest.id == "b"


def test_the_background_is_rolled_back_too() -> None:
    @snapshot(name="transactional", background=True)
    def keep_later(value: int) -> int:
        return value

    with undone():
        keep_later(1)
        keep_later(2)
    wait_for_snapshots()
    assert saved("transactional") == []
