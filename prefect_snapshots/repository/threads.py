"""Threads shared by every repository of a process: reading, hashing, compressing and sending release the GIL."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

# One thread syncs: several that do so at once wait for each other's journal commits, and take twice as long.
_SIZES = {"compute": max(2, os.cpu_count() or 2), "network": 16, "send": 4, "sync": 1}

_lock = threading.Lock()
_pools: dict[tuple[int, str], ThreadPoolExecutor] = {}


def pool(use: Literal["compute", "network", "send", "sync"]) -> ThreadPoolExecutor:
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
