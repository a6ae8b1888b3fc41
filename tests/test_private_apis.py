"""One test for each private API of Prefect or Python in use: a version that changes one fails here first."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import Any

import pytest
from prefect import flow, task
from prefect.context import TaskRunContext
from prefect.transactions import BaseTransaction, get_transaction, transaction

from prefect_snapshots import SnapshotRepository
from prefect_snapshots.integration.private_apis import (
    async_dispatch,
    load_block,
    task_runs_outwards,
    transactions_outwards,
)

pytestmark = pytest.mark.xdist_group("prefect")


def test_async_dispatch_returns_a_coroutine_only_inside_a_running_loop() -> None:
    async def alook() -> str:
        return "asynchronous"

    @async_dispatch(alook)
    def look() -> str:
        return "synchronous"

    async def main() -> Any:
        return await look()  # type: ignore[misc]

    assert look() == "synchronous"
    assert asyncio.run(main()) == "asynchronous"


@pytest.mark.usefixtures("prefect_server")
def test_a_block_is_loaded_inside_a_running_loop_too() -> None:
    SnapshotRepository(url="memory://private").save("private-apis", overwrite=True, _sync=True)  # type: ignore[call-arg]

    async def main() -> SnapshotRepository:
        return load_block(SnapshotRepository, "private-apis")

    assert load_block(SnapshotRepository, "private-apis").url == asyncio.run(main()).url == "memory://private"


HURRY = """
import time
from prefect.events import emit_event
from prefect.events.worker import EventsWorker
from prefect_snapshots.integration.private_apis import stop_retrying_events

for number in range(3):
    emit_event("private.api", resource={"prefect.resource.id": str(number)})
worker = EventsWorker.instance()
while not hasattr(worker, "_client"):
    time.sleep(0.01)
stop_retrying_events()
since = time.monotonic()
worker.drain()
print(time.monotonic() - since)
"""


def test_events_that_no_server_takes_are_given_up_at_once() -> None:
    environment = {**os.environ, "PREFECT_API_URL": "http://127.0.0.1:9/api"}
    done = subprocess.run([sys.executable, "-c", HURRY], env=environment, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 7, "Prefect tries to send one event for 7 s"


@pytest.mark.usefixtures("prefect_server")
def test_the_task_runs_around_a_task_run() -> None:
    @task
    def inner() -> list[str]:
        contexts = task_runs_outwards(TaskRunContext.get())
        return list(dict.fromkeys(context.task.name for context in contexts))

    @task
    def outer() -> list[str]:
        return inner()

    @flow
    def around() -> list[str]:
        return outer()

    assert around() == ["inner", "outer"]


def test_the_transactions_around_a_transaction() -> None:
    def keys() -> list[str | None]:
        found: list[BaseTransaction] = list(transactions_outwards(get_transaction()))
        return [each.key for each in found]

    with transaction(key="outer"), transaction(key="inner"):
        assert keys() == ["inner", "outer"]
    assert not keys()


BEFORE_THREADS_END = """
from concurrent.futures import ThreadPoolExecutor
from prefect_snapshots.repository.threads import before_threads_end

pool = ThreadPoolExecutor(1)
before_threads_end(lambda: pool.submit(print, "the pool still works").result())
"""


def test_a_pool_still_works_at_exit() -> None:
    done = subprocess.run([sys.executable, "-c", BEFORE_THREADS_END], capture_output=True, text=True, check=True)
    assert done.stdout == "the pool still works\n"
