"""The run around a call: what it is called, who logs for it, and the transaction that it is part of."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from contextvars import Token
from typing import Any
from uuid import UUID

from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger
from prefect.transactions import BaseTransaction, get_transaction

OUTSIDE = "local"
"""What stands for the flow, or the run, where there is none."""

Logger = logging.Logger | logging.LoggerAdapter[logging.Logger]

logger = logging.getLogger("prefect_snapshots")


def run_logger() -> Logger:
    """The logger of the current run; outside of one, that of this package."""
    try:
        return get_run_logger()
    except MissingContextError:
        return logger


def run_ids() -> tuple[UUID | None, UUID | None]:
    """The ids of the current flow run and task run."""
    flow, task = FlowRunContext.get(), TaskRunContext.get()
    return flow.flow_run.id if flow and flow.flow_run else None, task.task_run.id if task else None


def placeholders(fn: Callable[..., Any]) -> dict[str, str]:
    """What a template may name of the run around a call of `fn`. `task_name` is the function's where it is no task."""
    flow, task = FlowRunContext.get(), TaskRunContext.get()
    flow_run = flow.flow_run if flow else None
    return {
        "flow_name": flow.flow.name if flow and flow.flow else OUTSIDE,
        "flow_run_name": flow_run.name if flow_run else OUTSIDE,
        "flow_run_id": str(flow_run.id) if flow_run else OUTSIDE,
        "task_name": task.task.name if task and _is_of(fn, task.task) else getattr(fn, "__name__", type(fn).__name__),
        "task_run_id": str(task.task_run.id) if task else OUTSIDE,
    }


def own_run_id(fn: Callable[..., Any]) -> UUID | None:
    """The id of the current task run or flow run when `fn` is the function of that task or flow, in every attempt."""
    flow, task = FlowRunContext.get(), TaskRunContext.get()
    if task is not None:
        return task.task_run.id if _is_of(fn, task.task) else None
    return flow.flow_run.id if flow and flow.flow_run and flow.flow and _is_of(fn, flow.flow) else None


def user_transaction() -> BaseTransaction | None:
    """The innermost transaction that was opened by the user.

    Prefect itself opens one around every task run, which does not count: what a failed attempt has saved stays.
    """
    transactions: list[BaseTransaction] = list(_outwards(get_transaction(), lambda inner: inner.get_parent()))
    # The user's own transactions within a task may use the task's store too: Prefect's is the outermost of them.
    outermost = {id(transaction.store): transaction for transaction in transactions}
    prefects = [outermost.get(id(context.result_store)) for context in _outwards(TaskRunContext.get(), _around)]
    return next((mine for mine in transactions if all(mine is not other for other in prefects)), None)


def _is_of(fn: Callable[..., Any], decorated: Any) -> bool:
    return inspect.unwrap(decorated.fn) is inspect.unwrap(fn)


def _around(context: TaskRunContext) -> TaskRunContext | None:
    token = context._token
    return None if token is None or token.old_value is Token.MISSING else token.old_value


def _outwards(innermost: Any, outer: Callable[[Any], Any]) -> Iterator[Any]:
    seen: set[int] = set()
    # Generator tasks that take turns leave transactions behind that have ended, and call themselves their parent.
    while innermost is not None and id(innermost) not in seen:
        seen.add(id(innermost))
        yield innermost
        innermost = outer(innermost)
