"""Format values as short strings."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from ..messages import printable

_SAFE_URL = re.compile(r"(?:https?://[\w.:-]+)?/(?!/)[\w./~%-]*")


class Link(str):
    """A string that leads somewhere on a page. Everywhere else it is only a string.

    Args:
        text: The string.
        url: Where it leads: a path of this server, or a page of Prefect's UI.
    """

    url: str

    def __new__(cls, text: str, url: str) -> Link:
        link = super().__new__(cls, text)
        link.url = url
        return link

    @property
    def is_safe(self) -> bool:
        """Whether the URL runs nothing, and consists of characters that no markup knows. Others are not linked."""
        return _SAFE_URL.fullmatch(self.url) is not None


Value = str | int | float | datetime | None
Kind = Literal["text", "name", "number", "bytes", "seconds", "rate", "time"]
"""How a value is formatted. A "name" is a value that people copy."""

_UNITS = ((1.0, "s", 1.0), (1e-3, "ms", 1e3), (1e-6, "µs", 1e6))


Unit = Literal["item", "byte", "step"]
"""What an operation counts."""

_RATE_AFTER = 1.0
"""Seconds of work before a rate and a time are worth showing."""


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


class Pace:
    """Says how far an operation is, how fast, and how long the rest takes, as in `2.1 MB of 4 MB, 1 MB/s, 2 s left`.

    Args:
        unit: What is counted. Steps are shown as a percentage, because they take different times.
    """

    def __init__(self, unit: Unit) -> None:
        self._unit = unit
        self._since = time.monotonic()
        self._first: int | None = None

    def text(self, done: int, total: int | None = None, failed: int = 0) -> str:
        """Return what to show.

        Args:
            done: What is done.
            total: How much there is to do. None if that is not known.
            failed: How many items failed.
        """
        if self._first is None:
            self._first = done  # what earlier runs did says nothing about the rate of this one
        parts = [self._amount(done, total)]
        worked, seconds = done - self._first, time.monotonic() - self._since
        if worked > 0 and seconds >= _RATE_AFTER:
            rate = worked / seconds
            if self._unit == "byte":
                parts.append(f"{size_text(rate)}/s")
            elif self._unit == "item":
                parts.append(f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s")
            if total is not None and total > done:
                parts.append(f"{duration_text(max(1.0, round((total - done) / rate)))} left")
        if failed:
            parts.append(f"{failed:,} failed")
        return ", ".join(parts)

    def _amount(self, done: int, total: int | None) -> str:
        if self._unit == "byte":
            return size_text(done) if total is None else f"{size_text(done)} of {size_text(total)}"
        if self._unit == "step":
            return count_text(done, "step") if not total else f"{100 * done // total} %"
        return count_text(done, "item") if total is None else f"{done:,} of {count_text(total, 'item')}"
