"""What the tasks of every kind have in common: a twin for asynchronous flows, and types that say what is returned."""

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
        """A task that returns anything. By Prefect's own types, whose first overload fits, it returned a coroutine."""

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any: ...  # type: ignore[override]


def returns_anything(task: Task[P, Any]) -> TaskOfAnything[P]:
    return cast("TaskOfAnything[P]", task)


def asynchronous(call: Callable[P, R]) -> Callable[P, Coroutine[Any, Any, R]]:
    """The same in a thread, so that the event loop goes on."""

    @functools.wraps(call)
    async def twin(*args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.to_thread(call, *args, **kwargs)

    twin.__name__ = twin.__qualname__ = f"a{call.__name__}"
    # Without the example, which calls the other one.
    said = inspect.cleandoc(call.__doc__ or "").partition("Example:")[0].rstrip()
    twin.__doc__ = f"`{call.__name__}` for asynchronous flows.\n\n{said}"
    return twin
