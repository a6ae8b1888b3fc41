"""The run around a call: its names and ids, its logger, and the transaction that it is part of."""

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
"""Stands for the names and ids of the flow run when there is none."""


def run_logger() -> EscapingLogger:
    """Return the logger of the current run; outside of a run, the logger of this package."""
    try:
        return EscapingLogger(get_run_logger())
    except MissingContextError:
        return logger


def run_ids() -> tuple[UUID | None, UUID | None]:
    """Return the ids of the current flow run and of the current task run."""
    flow, task = FlowRunContext.get(), TaskRunContext.get()
    return flow.flow_run.id if flow and flow.flow_run else None, task.task_run.id if task else None


def in_run() -> bool:
    """Tell whether a flow run or a task run is around the caller."""
    return any(run_ids())


def placeholders(fn: Callable[..., Any]) -> dict[str, str]:
    """Return what a template can name of the run around a call of `fn`.

    `task_name` is the name of the function when the function is not the one of the current task.
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

    Prefect itself opens one around every task run. It does not count: what a failed attempt has saved stays.
    """
    transactions = list(transactions_outwards(get_transaction()))
    # Transactions that the user opens within a task may use the task's store too: Prefect's is the outermost of them.
    outermost = {id(transaction.store): transaction for transaction in transactions}
    prefects = [outermost.get(id(context.result_store)) for context in task_runs_outwards(TaskRunContext.get())]
    return next((mine for mine in transactions if all(mine is not other for other in prefects)), None)


def _is_of(fn: Callable[..., Any], decorated: Any) -> bool:
    return inspect.unwrap(decorated.fn) is inspect.unwrap(fn)
