"""Answers, and the two forms in which they are printed: a JSON document, or lines for people.

Names and metadata may come from anybody who can write to the repository. So control characters are escaped: they cannot
move the cursor, colour the terminal or forge a line.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, TextIO

from ..documents.texts import count_text as count_text
from ..documents.texts import size_text as size_text
from ..messages import printable as printable

PIN = "📌"
"""Marks what is exempt from retention."""

BOLD, RED = "1", "1;31"
"""Styles: the parameters of the escape sequences of ECMA-48."""

_INPUTS = 5
"""Inputs of a run that are shown of a version: they fit on two lines. `artifacts lineage` lists all of them."""
_GAP, _INDENT = "  ", "    "
_SHORTEST = 8
"""Characters that a column keeps when a table is too wide for the terminal: enough to recognise a name by."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of a command.

    Args:
        document: The complete result, in plain values and datetimes.
        view: Returns the document as lines for people. It may take time, and is called only if it is needed.
        remark: The last line.
        told: Whether the view only confirms what was done. `--quiet` omits it then, and always omits the remark.
        status: The exit code.
    """

    document: dict[str, Any]
    view: Callable[[dict[str, Any]], Iterable[str]] | None = None
    remark: str = ""
    told: bool = False
    status: int = 0

    def lines(self, quiet: bool) -> Iterator[str]:
        """Yield the lines for people."""
        if self.view is not None and not (quiet and self.told):
            yield from self.view(self.document)
        if self.remark and not quiet:
            yield printable(self.remark)


class FailedWith(Exception):
    """An error, and the exit code that the command must have because of it.

    Args:
        error: The error.
        status: The exit code.
    """

    def __init__(self, error: Exception, status: int) -> None:
        super().__init__(error, status)
        self.error = error
        self.status = status


def deleted(what: str, document: dict[str, Any], dry_run: bool) -> Answer:
    """Return the result of a command that deletes versions, or would delete them."""
    done = f"Deleted {what}. Run `prefect-snapshots prune` to reclaim the space."
    remark = f"{what} would be deleted. Nothing was changed." if dry_run else done
    return Answer({**document, "dry_run": dry_run}, remark=remark)


def renamed(old: str, new: str, count: str, document: dict[str, Any]) -> Answer:
    """Return the result of a command that renames, or would rename with `dry_run`."""
    done = f"Renamed {old} to {new} ({count})."
    would = f"{old} ({count}) would be renamed to {new}. Nothing was changed."
    return Answer(document, remark=would if document["dry_run"] else done)


def view_description(document: dict[str, Any]) -> Iterator[str]:
    """Return the lines that show the description and the tags of a name or a version."""
    yield from fields({"tags": ", ".join(document["tags"]) or "(none)"})
    yield from map(printable, (document["description"] or "(no description)").splitlines())


def made_by_fields(made_by: dict[str, Any] | None) -> dict[str, str]:
    """Return what is shown of the flow run that made a version."""
    if made_by is None:
        return {}
    git, inputs = made_by["git"], made_by["inputs"]
    more = f" and {len(inputs) - _INPUTS:,} more" if len(inputs) > _INPUTS else ""
    return {
        "flow run": f"{made_by['flow_run']} of {made_by['flow']} ({made_by['flow_run_id']})",
        "commit": "" if git is None else f"{git['commit'] or 'none'}{' (changed)' if git['dirty'] else ''}",
        "made from": ", ".join(f"{one['name']}:{one['version']}" for one in inputs[:_INPUTS]) + more,
    }


def as_json(document: Any) -> str:
    """Return a document as JSON. Times are ISO 8601 in UTC; NaN and infinities, which JSON lacks, are strings.

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
    """Return a time in the local time zone, to the second or the minute."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S" if seconds else "%Y-%m-%d %H:%M")


def value_text(value: Any) -> str:
    """Return a short form of a metadata value or a leaf."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime):
        return time_text(value)
    return value if isinstance(value, str) else json.dumps(_plain(value))


def fields(texts: Mapping[str, str]) -> Iterator[str]:
    """Yield aligned lines of a label and a value. Empty values are left out."""
    said = {printable(key): printable(text) for key, text in texts.items() if text}
    width = max(map(width_of, said), default=0)
    return (f"{key}{' ' * (width - width_of(key))}{_GAP}{text}" for key, text in said.items())


class OutputColumn(NamedTuple):
    """A column of a table.

    Args:
        title: The heading.
        right: Whether cells are aligned to the right.
        cut: Whether cells may be shortened with an ellipsis if the terminal is too narrow.
        whole: Whether cells are moved below their rows if the terminal is too narrow, such as reasons, which are
            useless when shortened. The widest column is moved first.
    """

    title: str
    right: bool = False
    cut: bool = False
    whole: bool = False


def columns(*titles: str) -> list[OutputColumn]:
    """Return columns. `>` before a title aligns it to the right; `…` after it means cut, and `↓` means whole."""
    return [OutputColumn(each.strip(">…↓"), each[:1] == ">", each[-1:] == "…", each[-1:] == "↓") for each in titles]


def table(columns: Sequence[OutputColumn], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """Yield lines of aligned columns. They are as wide as needed, unless the terminal is narrower.

    The headings are bold on a terminal with colors. Columns without any text are left out.
    """
    texts = [[printable(cell) for cell in row] for row in rows]
    used = [at for at, _ in enumerate(columns) if any(row[at] for row in texts)]
    if not used:
        return
    columns = [columns[at] for at in used]
    cells = [[column.title for column in columns], *([row[at] for at in used] for row in texts)]
    widths = [max(map(width_of, column)) for column in zip(*cells, strict=True)]
    excess = sum(widths) + len(_GAP) * (len(widths) - 1) - terminal_width()
    below: set[int] = set()
    while excess > 0 and (movable := [at for at, each in enumerate(columns) if each.whole and at not in below]):
        widest = max(movable, key=widths.__getitem__)
        below.add(widest)
        excess -= widths[widest] + len(_GAP)
    beside = [at for at, _ in enumerate(columns) if at not in below]
    cuttable = [at for at in beside if columns[at].cut]
    while excess > 0 and cuttable:
        widest = max(cuttable, key=widths.__getitem__)
        if widths[widest] <= _SHORTEST:
            break
        widths[widest] -= 1
        excess -= 1
    for number, row in enumerate(cells):
        lines = [_GAP.join(_fit(row[at], widths[at], columns[at].right) for at in beside).rstrip()]
        lines += [
            f"{_INDENT}{line}"
            for at in sorted(below)
            for line in textwrap.wrap(row[at], terminal_width() - len(_INDENT))
        ]
        yield from (styled(line, BOLD) if number == 0 else line for line in lines)


def styled(text: str, style: str, stream: TextIO | None = None) -> str:
    """Return a string with the escape sequences of a style if the stream is a terminal with colors.

    Args:
        text: A string, without escape sequences.
        style: The parameters of the escape sequence.
        stream: Where the string is printed. Default: standard output.
    """
    stream = stream or sys.stdout
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty()
    return text if plain else f"\x1b[{style}m{text}\x1b[0m"


def width_of(text: str) -> int:
    """Return the number of terminal columns that a string occupies."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def terminal_width() -> int:
    """Return the number of columns of the terminal, or a large number if there is none."""
    return shutil.get_terminal_size((sys.maxsize, 0)).columns


def shortened(text: str, width: int) -> str:
    """Return a string, shortened with an ellipsis if it occupies more columns."""
    if width_of(text) <= width:
        return text
    from rich.cells import set_cell_size

    return set_cell_size(text, width - 1).rstrip() + "…"


def _fit(text: str, width: int, right: bool) -> str:
    text = shortened(text, width)
    padding = " " * (width - width_of(text))
    return padding + text if right else text + padding
