"""Handle signals that end the process, so that no backup or restore is left half done.

By default SIGTERM ends a Python process at once: no `finally` runs, so plain dumps and partial restores would stay.
Within `terminable` it raises an exception instead, as Ctrl-C does. Within `deferred` both signals wait for the end of
the block. Only the main thread receives signals: in other threads both functions do nothing.
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
    """Delay SIGTERM and SIGINT until the block has ended, for steps that must not be interrupted."""
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


@contextlib.contextmanager
def closed_undisturbed() -> Iterator[contextlib.ExitStack]:
    """Yield a stack that no signal keeps from being closed, such as one of what must be deleted again."""
    stack = contextlib.ExitStack()
    try:
        yield stack
    finally:
        with deferred():
            stack.close()


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
