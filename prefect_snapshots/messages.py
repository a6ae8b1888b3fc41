"""Help for messages: escape untrusted strings (`printable`: errors, the logger and the output of programs use it), and
suggest similar names (`hint`)."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Iterable, MutableMapping, Sequence
from typing import Any

_SEARCHED = 2_000
"""The most names that are searched for similar ones. More would make an error message take seconds."""

_SHOWN = 3
"""How many names a message lists: enough to choose from, and the message stays on one line."""


def printable(text: str) -> str:
    """Return a string in one line, with all invisible characters escaped.

    Example:
        >>> printable("a\\x1b[2Jb")
        'a\\\\x1b[2Jb'
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def system_error(error: OSError) -> str:
    """Return an error of the operating system in words, as in `data.csv: No such file or directory`.

    Example:
        >>> system_error(FileNotFoundError(2, "No such file or directory", "data.csv"))
        'data.csv: No such file or directory'
    """
    if error.strerror is None:
        return str(error) or repr(error)
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    return ": ".join([" and ".join(names), error.strerror] if names else [error.strerror])


def last_words(output: str, most: int) -> str:
    """Return the end of what a program printed, in one line of visible characters.

    Example:
        >>> last_words("starting\\n\\x1b[1mno disk\\n", 14)
        '\\\\x1b[1mno disk'
    """
    return printable(" ".join(output.split()))[-most:]


def close_names(wanted: object, existing: Iterable[str]) -> list[str]:
    """Return up to three existing names that are similar to `wanted`, or the last three if there are none."""
    names = list(existing)
    return _similar(wanted, names) or names[-_SHOWN:]


def hint(wanted: object, existing: Iterable[str]) -> str:
    """Return a hint for a message about an unknown name: similar names, or the last three if there are none.

    Example:
        >>> hint("trian", ["train", "test"]), hint("x", ["train", "test"]), hint("x", ["train"]), hint("x", [])
        ("Did you mean 'train'?", 'There are: train, test.', "There is only 'train'.", 'There are none.')
    """
    names = list(existing)
    if close := _similar(wanted, names):
        *others, last = map(repr, close)
        return f"Did you mean {', '.join(others)} or {last}?" if others else f"Did you mean {last}?"
    if len(names) < 2:
        return f"There is only {names[0]!r}." if names else "There are none."
    return f"There are: {some_names([*names[-_SHOWN:], *names[:-_SHOWN]])}."


def whole_name_needed(what: str, wanted: str, meant: Sequence[str]) -> str:
    """Return the message of a deletion that would take part of a name, or `latest`, for a version.

    Example:
        >>> whole_name_needed("backup", "latest", ["shop_2026"])
        "There is no backup 'latest'. Did you mean shop_2026? Nothing was changed: this command needs the whole name."
    """
    return (
        f"There is no {what} {wanted!r}. Did you mean {some_names(meant)}? Nothing was changed: this command needs the "
        "whole name."
    )


def some_names(names: Sequence[str]) -> str:
    """Return the first names of many, as in `a, b, c and 1,000 more`: enough to choose from, and short."""
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else "")


def scheme_hint(scheme: str, known: Iterable[str]) -> str:
    """Return a question for a message about an unknown scheme of a URL, or nothing if no known one is similar.

    Example:
        >>> scheme_hint("postgrsql", ["postgresql", "sqlite"]), scheme_hint("oracle", ["postgresql", "sqlite"])
        (' Did you mean postgresql://?', '')
    """
    close = _similar(scheme.lower(), sorted(known))
    return f" Did you mean {close[0]}://?" if close else ""


def _similar(wanted: object, names: Sequence[str]) -> list[str]:
    return difflib.get_close_matches(str(wanted), names[:_SEARCHED], _SHOWN, 0.5)


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


def hide_logs(library: str) -> None:
    """Do not print what a library logs, unless somebody has set up logging."""
    logging.getLogger(library).addHandler(logging.NullHandler())


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
