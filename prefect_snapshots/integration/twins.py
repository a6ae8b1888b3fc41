"""Shared by the tasks of all kinds: asynchronous versions, and types for tasks that return any value."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from prefect import Task

P = ParamSpec("P")
R = TypeVar("R")

if TYPE_CHECKING:

    class TaskOfAnything(Task[P, Any]):
        """A task that returns any value. With Prefect's own types, calls would seem to return a coroutine."""

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any: ...  # type: ignore[override]


def returns_anything(task: Task[P, Any]) -> TaskOfAnything[P]:
    return cast("TaskOfAnything[P]", task)


def asynchronous(call: Callable[P, R]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Return an asynchronous version that runs in a thread, so that the event loop is not blocked."""

    @functools.wraps(call)
    async def twin(*args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.to_thread(call, *args, **kwargs)

    twin.__name__ = twin.__qualname__ = f"a{call.__name__}"
    # Leave out the example, which calls the synchronous version.
    said = inspect.cleandoc(call.__doc__ or "").partition("Example:")[0].rstrip()
    twin.__doc__ = f"`{call.__name__}` for asynchronous flows.\n\n{said}"
    return twin
