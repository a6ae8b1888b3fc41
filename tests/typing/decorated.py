"""What type checkers know of decorated functions and tasks: exactly what they knew of the function.

Read by mypy, never run. An ignored error that is none is an error too, so that these hold that wrong calls are refused.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, assert_type

from prefect import task
from prefect.futures import PrefectFuture, PrefectFutureList

from prefect_snapshots import aload_snapshot, asave_snapshot, load_latest, load_snapshot, save_snapshot, snapshot


@snapshot
def plain(number: int, *, scale: float = 1.0) -> dict[str, float]:
    return {"result": number * scale}


@snapshot(name="{flow_name}/{task_name}", rank_by="result", mode="min", max_snapshots=3, tags=["a"], background=True)
def configured(number: int) -> dict[str, float]:
    return {"result": float(number)}


@snapshot
async def asynchronous(number: int) -> str:
    return str(number)


@snapshot(every=2)
def generated(number: int) -> Iterator[int]:
    yield number


@snapshot
async def generated_asynchronously(number: int) -> AsyncIterator[int]:
    yield number


class Model:
    @snapshot
    def method(self, number: int) -> int:
        return number


@task(retries=2)
@snapshot(metadata=lambda result, parameters: {"loss": result})
def under(number: int, *, scale: float = 1.0) -> float:
    return number * scale


@snapshot(metadata={"kind": "over"})
@task(retries=2)
def over(number: int, *, scale: float = 1.0) -> float:
    return number * scale


@snapshot
@task
async def over_asynchronous(number: int) -> str:
    return str(number)


def functions() -> None:
    assert_type(plain(1, scale=2.0), dict[str, float])
    assert_type(configured(1), dict[str, float])
    assert_type(generated(1), Iterator[int])
    assert_type(generated_asynchronously(1), AsyncIterator[int])
    assert_type(Model().method(1), int)
    plain("1")  # type: ignore[arg-type]
    plain(1, 2.0)  # type: ignore[call-arg]
    configured()  # type: ignore[call-arg]
    Model().method("1")  # type: ignore[arg-type]


def tasks() -> None:
    assert_type(under(1, scale=2.0), float)
    assert_type(over(1, scale=2.0), float)
    assert_type(under.submit(1), PrefectFuture[float])
    assert_type(over.submit(1), PrefectFuture[float])
    assert_type(under.map([1, 2]), PrefectFutureList[float])
    assert_type(over.map([1, 2]), PrefectFutureList[float])
    assert_type(over.with_options(retries=3)(1), float)
    over("1")  # type: ignore[call-overload]
    over.submit("1")  # type: ignore[call-overload]


async def asynchronously() -> None:
    assert_type(await asynchronous(1), str)
    assert_type(await over_asynchronous(1), str)
    assert_type(await asave_snapshot({"a": 1}), str | None)
    assert_type(await aload_snapshot("id"), Any)


def ours() -> None:
    assert_type(save_snapshot({"a": 1}, "id", name="name"), str | None)
    assert_type(save_snapshot.submit({"a": 1}), PrefectFuture[str | None])
    assert_type(load_snapshot("id"), Any)
    assert_type(load_snapshot.submit("id"), PrefectFuture[Any])
    assert_type(load_latest("name", default=None), Any)
    load_snapshot(snapshot="id")  # type: ignore[call-arg]
    snapshot(mode="best")  # type: ignore[call-overload]
    snapshot(nam="name")  # type: ignore[call-overload]
