"""Escape untrusted strings in messages: `printable`, and what uses it: errors, the logger, and output of programs."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any


def printable(text: str) -> str:
    """Return a string in one line, with all invisible characters escaped.

    Example:
        >>> printable("a\\x1b[2Jb")
        'a\\\\x1b[2Jb'
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def last_words(output: str, most: int) -> str:
    """Return the end of what a program printed, in one line of visible characters.

    Example:
        >>> last_words("starting\\n\\x1b[1mno disk\\n", 14)
        '\\\\x1b[1mno disk'
    """
    return printable(" ".join(output.split()))[-most:]


class EscapingLogger(logging.LoggerAdapter[Any]):
    """Escape the arguments of messages, but not the messages, which are part of this package.

    Anyone who can write to the repository can choose the arguments, and they are shown on terminals. A name must not be
    able to forge a line or move the cursor.
    """

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return msg, kwargs

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        # Report the line of the caller, not this one.
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
        super().log(level, msg, *map(_shown, args), **kwargs)


logger = EscapingLogger(logging.getLogger("prefect_snapshots"))
"""The only logger of this package outside of runs."""


class _Printable:
    """Shows any object in printable characters, also for `%r`."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __str__(self) -> str:
        return printable(str(self._value))

    def __repr__(self) -> str:
        return printable(repr(self._value))


def _shown(value: object) -> object:
    if isinstance(value, str):
        return printable(value)
    return value if isinstance(value, int | float) else _Printable(value)
