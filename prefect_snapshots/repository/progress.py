"""Progress callbacks of operations that may take long."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import TypeVar

from .location import Buffer

B = TypeVar("B", bound=Buffer)
R = TypeVar("R")

Progress = Callable[[str, int, int], None]
"""A function that takes a label of the current step, how much of it is done, and the total: `("packs", 3, 12)`."""


def silent(what: str, done: int, total: int) -> None:
    """Report nothing."""


_watching: ContextVar[Progress] = ContextVar("_watching", default=silent)


@contextlib.contextmanager
def watched(progress: Progress) -> Iterator[None]:
    """Report how many bytes of a value are stored or read in the `with` block, whatever calls are in between."""
    before = _watching.set(progress)
    try:
        yield
    finally:
        _watching.reset(before)


def watching() -> Progress | None:
    """Return what reports the bytes of values now, if anything does."""
    progress = _watching.get()
    return None if progress is silent else progress


def still_watched(call: Callable[[], R]) -> Callable[[], R]:
    """Return a function that is watched by who watches now, whichever thread calls it."""
    progress = watching()
    if progress is None:
        return call

    def called() -> R:
        with watched(progress):
            return call()

    return called


def counted(what: str, pieces: Iterable[B], total: int) -> Iterable[B]:
    """Return the pieces, and report each to who watches after it was taken."""
    progress = watching()
    return pieces if progress is None else _counted(progress, what, pieces, total)


def _counted(progress: Progress, what: str, pieces: Iterable[B], total: int) -> Iterator[B]:
    done = 0
    for piece in pieces:
        yield piece
        done += len(piece)
        progress(what, done, total)
