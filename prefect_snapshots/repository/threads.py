"""Threads and locks that all repositories of a process share, and that survive a fork.

Reading, hashing, compressing and sending release the interpreter's lock, so threads make them faster. A fork copies
only the thread that calls it, so locks of other threads would stay locked in the child forever. Therefore the storage
layer uses only locks of this module.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Literal, ParamSpec, TypeVar

_SIZES = {
    "compute": max(2, os.cpu_count() or 2),
    "network": 16,  # requests wait for the network, not for a core; 16 in flight hide its latency
    "send": 4,  # each holds a whole pack in memory
    "sync": 1,  # threads that sync at once wait for each other's journal commits, and take twice as long
}

Use = Literal["compute", "network", "send", "sync"]
T = TypeVar("T")
P = ParamSpec("P")


# --- forks -------------------------------------------------------------------------------------------------------

_renewed: set[weakref.WeakMethod[Callable[[], None]]] = set()


def after_fork(renew: Callable[[], None]) -> None:
    """Call a bound method in every forked child, before anything else runs there.

    This does not keep the object of the method alive.
    """
    _renewed.add(weakref.WeakMethod(renew, _renewed.discard))


def _renew_all() -> None:
    for reference in list(_renewed):
        renew = reference()
        if renew is not None:
            renew()


os.register_at_fork(after_in_child=_renew_all)


class Lock:
    """Exclude other threads. Reentrant, and free in a forked child unless the forking thread itself holds it.

    Args:
        forget: A bound method that discards the data that the lock protects. It is called in a child that was forked
            while another thread held the lock, because that thread may have been in the middle of a change.
    """

    def __init__(self, forget: Callable[[], None] | None = None) -> None:
        self._inner = threading.RLock()
        self._forget = None if forget is None else weakref.WeakMethod(forget)
        after_fork(self._renew)

    def __enter__(self) -> None:
        self._inner.acquire()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._inner.release()

    def _renew(self) -> None:
        if self._inner.acquire(blocking=False):
            self._inner.release()
            return
        self._inner = threading.RLock()
        forget = self._forget and self._forget()
        if forget:
            forget()


class Turns:
    """Admit one thread at a time, in the order of their calls."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        after_fork(self._renew)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for your turn. The turn of the next thread begins when the block ends."""
        mine = threading.Lock()
        with self._lock:
            if self._waiting:
                mine.acquire()
            self._waiting.append(mine)
        try:
            mine.acquire()
            yield
        finally:
            with self._lock:
                first = bool(self._waiting) and self._waiting[0] is mine
                with contextlib.suppress(ValueError):  # a child that was forked in here has its own queue
                    self._waiting.remove(mine)
                if first and self._waiting:
                    self._waiting[0].release()

    def _renew(self) -> None:
        self._lock = threading.Lock()
        self._waiting = deque()


# --- pools -------------------------------------------------------------------------------------------------------

_pools_lock = Lock()
_pools: dict[tuple[int, str], ThreadPoolExecutor] = {}


def submit(use: Use, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Run a call in a thread of a pool."""
    try:
        return pool(use).submit(call, *args, **kwargs)
    except RuntimeError:
        # Python is about to exit and starts no more threads. So that a background save still ends, run it here.
        done: Future[T] = Future()
        try:
            done.set_result(call(*args, **kwargs))
        except BaseException as error:
            done.set_exception(error)
        return done


def pool(use: Use) -> ThreadPoolExecutor:
    """Return the thread pool for one use. A forked child gets a new one, because threads do not survive a fork."""
    key = os.getpid(), use
    found = _pools.get(key)
    if found is None:
        with _pools_lock:
            found = _pools.get(key)
            if found is None:
                found = _pools[key] = ThreadPoolExecutor(_SIZES[use], f"prefect-snapshots-{use}")
    return found


def before_threads_end(call: Callable[[], object]) -> None:
    """Make Python call a function at exit before it stops the threads of all pools. `atexit` would be too late.

    The last registered function is called first. If Python is already exiting, nothing is registered.
    """
    with contextlib.suppress(RuntimeError):
        threading._register_atexit(call)  # type: ignore[attr-defined]
