"""Progress callbacks of operations that may take long."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""A function that takes a label of the current step, how much of it is done, and the total: `("packs", 3, 12)`."""


def silent(what: str, done: int, total: int) -> None:
    """Report nothing."""
