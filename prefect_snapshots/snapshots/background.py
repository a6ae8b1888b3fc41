"""Save in the background while the program goes on, in the order of the calls."""

from __future__ import annotations

import concurrent.futures
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from ..repository.threads import Lock, after_fork, before_threads_end

Save = Callable[[], str | None]


class BackgroundSaver:
    """Runs the saves of one manager, one after the other, in a thread of its own."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._saves: list[Future[str | None]] = []
        self._thread: int | None = None
        after_fork(self._renew)

    def submit(self, save: Save) -> Future[str | None]:
        """Run a save after those that were submitted before. Python does not exit before it ends."""
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, "prefect-snapshots-save", self._enter)
            future = self._pool.submit(save)
            _unfinished.add(future)
            future.add_done_callback(_unfinished.discard)
            # Failures stay until `wait` raised them; what succeeded is of no more interest.
            self._saves = [*(one for one in self._saves if not one.done() or _failed(one)), future]
        return future

    def settle(self) -> None:
        """Wait until everything submitted so far has ended, whatever came of it. Raises nothing.

        A save that does not run in the background waits here first: it would overtake those that were called before.
        """
        with self._lock:
            saves = list(self._saves)
        # A callback of a save runs in the thread of the saves: waiting there for the next one would take for ever.
        if threading.get_ident() != self._thread:
            concurrent.futures.wait(saves)

    def wait(self) -> None:
        """Wait for every save, and raise the first error among them. The next call raises the next one."""
        with self._lock:
            saves, self._saves = self._saves, []
        concurrent.futures.wait(saves)
        failed = [save for save in saves if _failed(save)]
        with self._lock:
            self._saves = failed[1:] + self._saves
        if failed:
            failed[0].result()

    def _enter(self) -> None:
        self._thread = threading.get_ident()

    def _renew(self) -> None:
        """Start empty in a forked child: it has neither the thread nor the saves of its parent."""
        self._pool, self._saves, self._thread = None, [], None


_unfinished: set[Future[str | None]] = set()
os.register_at_fork(after_in_child=_unfinished.clear)  # a child would wait at its exit for saves of its parent
# Python waits for the thread of the saves itself, but first it stops the thread pools that they need.
before_threads_end(lambda: concurrent.futures.wait(_unfinished))


def _failed(future: Future[str | None]) -> bool:
    return not future.cancelled() and future.exception() is not None
