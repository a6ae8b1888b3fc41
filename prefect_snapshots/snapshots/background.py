"""Save in the background while the program continues, in the order of the calls."""

from __future__ import annotations

import concurrent.futures
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from ..repository.progress import still_watched
from ..repository.threads import Lock, after_fork, before_threads_end

Save = Callable[[], str | None]


class BackgroundSaver:
    """Run the saves of one manager in a separate thread, one after the other."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._saves: list[Future[str | None]] = []
        self._thread: int | None = None
        after_fork(self._renew)

    def submit(self, save: Save) -> Future[str | None]:
        """Run a save after all earlier ones. Python does not exit before it ends."""
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, "prefect-snapshots-save", self._enter)
            future = self._pool.submit(still_watched(save))
            _unfinished.add(future)
            future.add_done_callback(_unfinished.discard)
            # Failed saves are kept until `wait` raises their errors. Successful ones are not needed any more.
            self._saves = [*(one for one in self._saves if not one.done() or _failed(one)), future]
        return future

    def settle(self) -> None:
        """Wait until all saves submitted so far have ended. Raises no errors.

        A save in the foreground waits here first, so that it does not overtake earlier saves in the background.
        """
        with self._lock:
            saves = list(self._saves)
        # Callbacks run in the thread of the saves, where waiting for the next save would be a deadlock.
        if saves and threading.get_ident() != self._thread:
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
        """Start empty in a forked child, which has neither the thread nor the saves of its parent."""
        self._pool, self._saves, self._thread = None, [], None


_unfinished: set[Future[str | None]] = set()
os.register_at_fork(after_in_child=_unfinished.clear)  # or a child would wait for its parent's saves at exit
# Python waits for the thread of the saves, but stops the thread pools that they need first.
before_threads_end(lambda: concurrent.futures.wait(_unfinished))


def _failed(future: Future[str | None]) -> bool:
    return not future.cancelled() and future.exception() is not None
