"""Threads shared by every repository of a process: reading, hashing, compressing and sending release the GIL."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal, ParamSpec, TypeVar

# One thread syncs: several that do so at once wait for each other's journal commits, and take twice as long.
_SIZES = {"compute": max(2, os.cpu_count() or 2), "network": 16, "send": 4, "sync": 1}

_lock = threading.Lock()
_pools: dict[tuple[int, str], ThreadPoolExecutor] = {}


Use = Literal["compute", "network", "send", "sync"]
T = TypeVar("T")
P = ParamSpec("P")


def submit(use: Use, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Have a thread of a pool do something."""
    try:
        return pool(use).submit(call, *args, **kwargs)
    except RuntimeError:
        # Python is about to exit and starts no threads any more; a save in the background still ends, by itself.
        done: Future[T] = Future()
        try:
            done.set_result(call(*args, **kwargs))
        except BaseException as error:
            done.set_exception(error)
        return done


def pool(use: Use) -> ThreadPoolExecutor:
    """The pool for one use. A forked child gets its own, because threads do not survive a fork."""
    key = os.getpid(), use
    found = _pools.get(key)
    if found is None:
        with _lock:
            found = _pools.get(key)
            if found is None:
                found = _pools[key] = ThreadPoolExecutor(_SIZES[use], f"prefect-snapshots-{use}")
    return found


def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)
