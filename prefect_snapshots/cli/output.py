"""Answers, and the two forms in which they are printed: a JSON document, or lines for people.

What is printed may come from anybody who may write to the repository. So control characters are shown as escapes: no
name or metadata moves the cursor, colours the terminal or forges a line.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from ..documents.texts import count_text as count_text
from ..documents.texts import printable as printable
from ..documents.texts import size_text as size_text

PIN = "📌"
"""Marks what is exempt from retention."""

_GAP = "  "
_SHORTEST = 8


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command found or did.

    Args:
        document: Everything, in plain values and datetimes.
        view: Returns the document in lines for people. It may take time, and is called only if it is needed.
        remark: A last line.
        told: Whether the view only tells what was done: `--quiet` leaves it out, as it does the remark.
        status: The exit code.
    """

    document: dict[str, Any]
    view: Callable[[dict[str, Any]], Iterable[str]] | None = None
    remark: str = ""
    told: bool = False
    status: int = 0

    def lines(self, quiet: bool) -> Iterator[str]:
        """The lines for people."""
        if self.view is not None and not (quiet and self.told):
            yield from self.view(self.document)
        if self.remark and not quiet:
            yield printable(self.remark)


def as_json(document: Any) -> str:
    """One JSON document. Times are ISO 8601 in UTC; NaN and infinities, which JSON lacks, are strings.

    Example:
        >>> print(as_json({"loss": float("nan")}))
        {
          "loss": "NaN"
        }
    """
    return json.dumps(_plain(document), indent=2)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value.hex() if isinstance(value, bytes) else value


def time_text(moment: datetime, *, seconds: bool = True) -> str:
    """A point in time on the clock of this place, to the second or the minute."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S" if seconds else "%Y-%m-%d %H:%M")


def value_text(value: Any) -> str:
    """A value of metadata, or a leaf, in a few characters."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime):
        return time_text(value)
    return value if isinstance(value, str) else json.dumps(_plain(value))


def fields(texts: Mapping[str, str]) -> Iterator[str]:
    """Lines of a word and what there is to say of it; a text that is empty is left out."""
    said = {printable(key): printable(text) for key, text in texts.items() if text}
    width = max(map(width_of, said), default=0)
    return (f"{key}{' ' * (width - width_of(key))}{_GAP}{text}" for key, text in said.items())


class Column(NamedTuple):
    """A column of a table. One that may be `cut` gives way, with an ellipsis, where the terminal is too narrow."""

    title: str
    right: bool = False
    cut: bool = False


def table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Lines of aligned columns. They are as wide as they need to be, unless a terminal is narrower."""
    cells = [[column.title for column in columns], *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(width_of, column)) for column in zip(*cells, strict=True)]
    excess = sum(widths) + len(_GAP) * (len(widths) - 1) - terminal_width()
    cuttable = [at for at, column in enumerate(columns) if column.cut]
    while excess > 0 and cuttable:
        widest = max(cuttable, key=widths.__getitem__)
        if widths[widest] <= _SHORTEST:
            break
        widths[widest] -= 1
        excess -= 1
    for row in cells:
        fitted = (_fit(cell, width, column.right) for cell, width, column in zip(row, widths, columns, strict=True))
        yield _GAP.join(fitted).rstrip()


def width_of(text: str) -> int:
    """How many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def terminal_width() -> int:
    """How many columns there are: those of the terminal, or any number where there is none."""
    return shutil.get_terminal_size((sys.maxsize, 0)).columns


def shortened(text: str, width: int) -> str:
    """The text, cut with an ellipsis where it takes more columns."""
    if width_of(text) <= width:
        return text
    from rich.cells import set_cell_size

    return set_cell_size(text, width - 1).rstrip() + "…"


def _fit(text: str, width: int, right: bool) -> str:
    text = shortened(text, width)
    padding = " " * (width - width_of(text))
    return padding + text if right else text + padding
