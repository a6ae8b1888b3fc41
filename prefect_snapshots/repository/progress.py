"""How long operations report their progress."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with the step, how much of it is done, and its total, such as `("packs", 3, 12)`."""


def silent(what: str, done: int, total: int) -> None:
    """Report nothing."""
