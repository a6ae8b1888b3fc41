"""Everything this package uses that is not a documented, public part of Prefect.

There is one function for each, so that a change in Prefect needs a change in one place only. Each has a test that fails
first. `repository.threads` does the same for private parts of Python.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import Token
from typing import Any, TypeVar, cast

from prefect._internal.compatibility.async_dispatch import async_dispatch
from prefect.blocks.core import Block
from prefect.context import TaskRunContext
from prefect.events.worker import EventsWorker
from prefect.transactions import BaseTransaction

__all__ = ["async_dispatch", "load_block", "stop_retrying_events", "task_runs_outwards", "transactions_outwards"]

B = TypeVar("B", bound=Block)


def load_block(block_type: type[B], name: str) -> B:
    """Load a saved block, also inside a running event loop, where `Block.load` would return a coroutine.

    Args:
        block_type: The class of the block, or `Block` if `name` includes the slug.
        name: The name of the block, or its slug and name, such as `"aws-credentials/team"`.

    Raises:
        ValueError: There is no such block; the cause is Prefect's `ObjectNotFound`.
    """
    return cast(B, block_type.load(name, _sync=True))  # type: ignore[call-arg]


def stop_retrying_events() -> None:
    """Make pending events fail immediately.

    Prefect tries to send each event for 7 seconds, one after another. Without a server, hundreds of events would keep
    a process alive for an hour.
    """
    workers: dict[int, Any] = EventsWorker._instances  # type: ignore[misc]
    for worker in list(workers.values()):
        client = getattr(worker, "_client", None)  # a worker that has not started yet has none
        if client is not None:
            client._reconnection_attempts = 0


def task_runs_outwards(innermost: TaskRunContext | None) -> Iterator[TaskRunContext]:
    """Yield the context of a task run, then those of the task runs that enclose it."""
    context = innermost
    while context is not None:
        yield context
        token = context._token
        context = None if token is None or token.old_value is Token.MISSING else token.old_value


def transactions_outwards(innermost: BaseTransaction | None) -> Iterator[BaseTransaction]:
    """Yield a transaction, then those that enclose it.

    Interleaved generator tasks leave ended transactions behind that are their own parents, so each is yielded once.
    """
    seen: set[int] = set()
    transaction = innermost
    while transaction is not None and id(transaction) not in seen:
        seen.add(id(transaction))
        yield transaction
        transaction = transaction.get_parent()
