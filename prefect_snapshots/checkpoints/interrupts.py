"""Signals during a run: they never interrupt a write, and SIGTERM ends a run like an exception."""

from __future__ import annotations

import contextlib
import signal
import threading
from types import FrameType
from typing import Any, Self


class Interrupts:
    """Delays SIGINT and SIGTERM while results are written. Works in the main thread only, as signals do."""

    def __init__(self) -> None:
        self._old: dict[int, Any] = {}
        self._depth = 0
        self._waiting: list[tuple[int, FrameType | None]] = []
        self._terminated = False
        self._delay = _Delay(self)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                old = signal.getsignal(number)
                if callable(old) or (number == signal.SIGTERM and old == signal.SIG_DFL):
                    self._old[number] = old
                    signal.signal(number, self._arrived)
        return self

    def __exit__(self, *_: object) -> None:
        for number, old in self._old.items():
            if signal.getsignal(number) == self._arrived:
                signal.signal(number, old)
        self._old.clear()
        if self._terminated:
            # SIGTERM had its default handler before, so end the process with it, now that the results are written.
            signal.raise_signal(signal.SIGTERM)

    def delayed(self) -> contextlib.AbstractContextManager[None]:
        """Return a context manager that delays signals until its end."""
        return self._delay if self._old and threading.current_thread() is threading.main_thread() else _NOTHING

    def hold(self) -> None:
        """Delay signals until `release`."""
        self._depth += 1

    def release(self) -> None:
        """Deliver the signals that arrived since the outermost `hold`."""
        self._depth -= 1
        if not self._depth and self._waiting:
            waiting, self._waiting = self._waiting, []
            for number, frame in waiting:
                self._deliver(number, frame)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if self._depth:
            self._waiting.append((number, frame))
        else:
            self._deliver(number, frame)

    def _deliver(self, number: int, frame: FrameType | None) -> None:
        old = self._old.get(number)
        if callable(old):
            old(number, frame)
        elif number == signal.SIGTERM:
            self._terminated = True
            raise SystemExit(128 + number)


class _Delay(contextlib.AbstractContextManager[None]):
    """The context manager of `Interrupts.delayed`, reused because a new one would cost more than a small write."""

    def __init__(self, interrupts: Interrupts) -> None:
        self._interrupts = interrupts

    def __enter__(self) -> None:
        self._interrupts.hold()

    def __exit__(self, *_: object) -> None:
        self._interrupts.release()


_NOTHING = contextlib.nullcontext()
