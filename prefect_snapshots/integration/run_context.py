"""The run in which a call is made: its names and ids, its logger, and its transaction."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any
from uuid import UUID

from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger
from prefect.transactions import BaseTransaction, get_transaction

from ..messages import EscapingLogger, logger
from .private_apis import task_runs_outwards, transactions_outwards

OUTSIDE = "local"
"""Replaces the names and ids of the flow run outside of a run."""


def run_logger() -> EscapingLogger:
    """Return the logger of the current run or, outside of a run, of this package."""
    try:
        return EscapingLogger(get_run_logger())
    except MissingContextError:
        return logger


def run_ids() -> tuple[UUID | None, UUID | None]:
    """Return the ids of the current flow run and of the current task run."""
    flow, task = FlowRunContext.get(), TaskRunContext.get()
    return flow.flow_run.id if flow and flow.flow_run else None, task.task_run.id if task else None


def in_run() -> bool:
    """Return whether the caller is inside a flow run or a task run."""
    return any(run_ids())


def placeholders(fn: Callable[..., Any]) -> dict[str, str]:
    """Return the values that a template can use in a call of `fn`.

    If `fn` is not the function of the current task, `task_name` is the name of `fn`.
    """
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
    """Return the id of the current task run or flow run if `fn` is its function. Retries have the same id."""
    flow, task = FlowRunContext.get(), TaskRunContext.get()
    if task is not None:
        return task.task_run.id if _is_of(fn, task.task) else None
    return flow.flow_run.id if flow and flow.flow_run and flow.flow and _is_of(fn, flow.flow) else None


def user_transaction() -> BaseTransaction | None:
    """Return the innermost transaction that the user opened.

    The transaction that Prefect opens for every task run is ignored, so that a failed attempt keeps its snapshots.
    """
    transactions = list(transactions_outwards(get_transaction()))
    # A transaction that the user opens in a task may use the task's store, too. Prefect's is the outermost of these.
    outermost = {id(transaction.store): transaction for transaction in transactions}
    prefects = [outermost.get(id(context.result_store)) for context in task_runs_outwards(TaskRunContext.get())]
    return next((mine for mine in transactions if all(mine is not other for other in prefects)), None)


def _is_of(fn: Callable[..., Any], decorated: Any) -> bool:
    return inspect.unwrap(decorated.fn) is inspect.unwrap(fn)
