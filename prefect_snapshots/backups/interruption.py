"""Signals that end a process, while a backup or a restore must not be left half done.

SIGTERM ends a Python process at once: no `finally` runs, and plain dumps and half restores stay. Within `terminable` it
is an exception like Ctrl-C instead. Within `deferred` both wait for the end of the block. Signals reach the main thread
only: in any other one, both do nothing, and the main thread ends the process as it likes.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

_SHELL = 128
"""What a shell adds to the number of the signal that ended a process, for its exit code."""


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Raise `SystemExit` on SIGTERM within the block, unless the program handles this signal itself."""
    if not _in_main_thread() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(number: int, _: FrameType | None) -> NoReturn:
        raise SystemExit(_SHELL + number)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Let SIGTERM and SIGINT wait until the block has ended: for moments that must not be cut in two."""
    if not _in_main_thread():
        yield
        return
    arrived: list[int] = []
    handled = [number for number in (signal.SIGTERM, signal.SIGINT) if callable(signal.getsignal(number))]
    before = {number: signal.signal(number, lambda got, _: arrived.append(got)) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for got in arrived[:1]:
            signal.raise_signal(got)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
