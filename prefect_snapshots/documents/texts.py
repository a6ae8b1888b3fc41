"""Format values as short strings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from ..messages import printable


class Link(str):
    """A string that leads somewhere on a page. Everywhere else it is only a string.

    Args:
        text: The string.
        url: Where it leads: a URL of this server, without a scheme.
    """

    url: str

    def __new__(cls, text: str, url: str) -> Link:
        link = super().__new__(cls, text)
        link.url = url
        return link


Value = str | int | float | datetime | None
Kind = Literal["text", "name", "number", "bytes", "seconds", "rate", "time"]
"""How a value is formatted. A "name" is a value that people copy."""

_UNITS = ((1.0, "s", 1.0), (1e-3, "ms", 1e3), (1e-6, "µs", 1e6))


def text_of(value: Value, kind: Kind) -> str:
    """Format a value in one line of visible characters. A rate is the number of something per second.

    Example:
        >>> text_of(1_500_000, "bytes"), text_of(0.0125, "seconds"), text_of(1797, "number"), text_of(None, "text")
        ('1.5 MB', '12.5 ms', '1,797', '')
    """
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M}"
    if isinstance(value, str):
        return printable(" ".join(value.split()))
    if kind == "bytes":
        return size_text(value)
    if kind == "seconds":
        return duration_text(value)
    if kind == "rate":
        return f"{_plain_number(value)}/s"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}" if abs(value) < 1e5 else _plain_number(value)


def is_numeric(kind: Kind) -> bool:
    """Return whether values of this kind are numbers, which are aligned on the right."""
    return kind in ("number", "bytes", "seconds", "rate")


def size_text(count: float) -> str:
    """Format a number of bytes, as in `1.5 MB`."""
    import humanize

    return humanize.naturalsize(count).replace("Bytes", "B").replace("Byte", "B")


def count_text(count: int, what: str, plural: str = "") -> str:
    """Format a number of things, as in `1 leaf` or `2,000 leaves`."""
    return f"{count:,} {what if count == 1 else plural or what + 's'}"


def metadata_text(metadata: Mapping[str, Any]) -> str:
    """Format metadata in one line. Long values are truncated.

    Example:
        >>> metadata_text({"loss": 0.38, "data": "digits"})
        'loss=0.38, data=digits'
    """
    return ", ".join(f"{key}={_shortened(value)}" for key, value in metadata.items())


def shown_text(shown: int, of: int) -> str:
    """Return a string such as `20 of 35`, or "" if all are shown."""
    return f"{shown:,} of {of:,}" if of > shown else ""


def _shortened(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def _plain_number(value: float) -> str:
    """Format a number with three digits or, if it has more before the point, with all of those and no others."""
    return f"{value:,.0f}" if 100 <= abs(value) < 1e15 else f"{value:,.3g}"


def duration_text(seconds: float) -> str:
    """Format seconds, as in `12.5 ms` or `2 min 10 s`."""
    if seconds >= 120:
        minutes, rest = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"
    for least, unit, factor in _UNITS:
        if abs(seconds) >= least:
            return f"{seconds * factor:,.3g} {unit}"
    return f"{math.ceil(seconds * 1e9)} ns" if seconds > 0 else "0 s"
