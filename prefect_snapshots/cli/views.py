"""Show the results of the snapshot commands to people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .output import (
    PIN,
    OutputColumn,
    count_text,
    fields,
    made_by_fields,
    printable,
    shortened,
    size_text,
    table,
    terminal_width,
    time_text,
    value_text,
    width_of,
)

Document = dict[str, Any]

BEST = "★"

_METADATA_COLUMNS = 8
"""Columns of metadata in a table: with the others, what a wide terminal shows."""
_METADATA_WIDTH = 16
"""Characters of a value in a table: a number in full, the beginning of a string."""
_TAGS_WIDTH = 16
"""Characters of the tags in a table: two short ones in full."""

Cells = tuple[OutputColumn, list[str]]
"""A column of a table with its values."""


def names(document: Document) -> Iterator[str]:
    """Yield the lines for the names in a repository."""
    found = document["names"]
    if not found:
        yield "There are no snapshots in this repository."
        return
    yield from _table(
        (OutputColumn("name"), [each["name"] for each in found]),
        (OutputColumn("snapshots", right=True), [f"{each['snapshots']:,}" for each in found]),
        (OutputColumn("size", right=True), [size_text(each["size"]) for each in found]),
        (OutputColumn("written", right=True), [size_text(each["written"]) for each in found]),
        (
            OutputColumn("latest (local)"),
            [time_text(each["latest"]["created_at"]) if each["latest"] else "" for each in found],
        ),
    )


def snapshots(document: Document) -> Iterator[str]:
    """Yield the lines for the snapshots under a name, with as many columns of metadata as fit."""
    shown = document["snapshots"]
    marks = ["".join((PIN * each["pinned"], BEST * (each["id"] == document["best"]))) for each in shown]
    tags = [", ".join(each["tags"]) for each in shown]
    first: list[Cells] = [
        (OutputColumn("id"), [each["id"] for each in shown]),
        (OutputColumn("saved (local)"), [time_text(each["created_at"], seconds=False) for each in shown]),
    ]
    if any(marks):
        first.insert(0, (OutputColumn(""), marks))
    if any(tags):
        first.append((OutputColumn("tags"), [shortened(printable(text), _TAGS_WIDTH) for text in tags]))
    last: list[Cells] = [
        (OutputColumn("size", right=True), [size_text(each["size"]) for each in shown]),
        (OutputColumn("written", right=True), [size_text(each["written"]) for each in shown]),
    ]
    metadata = [_flattened(each["metadata"]) for each in shown]
    keys = list(dict.fromkeys(key for each in metadata for key in each))
    keys.sort(key=lambda key: key != document["rank_by"])
    room = terminal_width() - sum(_width(cells) for cells in first + last)
    between: list[Cells] = []
    for key in keys[:_METADATA_COLUMNS]:
        numeric = all(isinstance(each.get(key, 0), int | float) for each in metadata)
        texts = [value_text(each[key]) if key in each else "" for each in metadata]
        cells = OutputColumn(_short(key), right=numeric), [_short(text) for text in texts]
        room -= _width(cells)
        if room < 0:
            break
        between.append(cells)
    yield from _table(*first, *between, *last)
    hidden = [printable(key) for key in keys[len(between) :]]
    if hidden:
        yield f"More metadata (see `show` or --json): {', '.join(hidden)}"


def summary(document: Document) -> str:
    """Return how many snapshots there are, and how many of them are listed."""
    shown = document["snapshots"]
    total = count_text(document["count"], "snapshot")
    part = "" if len(shown) == document["count"] else f"{len(shown):,} of "
    size, written = (size_text(sum(each[key] for each in shown)) for key in ("size", "written"))
    return f"{part}{total} under {document['name']}: {size}, {written} of it written"


def snapshot(document: Document) -> Iterator[str]:
    """Yield the lines for one snapshot and its leaves."""
    leaves = document["leaves"]
    metadata = _flattened(document["metadata"])
    yield from fields(
        {
            "id": f"{PIN} {document['id']} (pinned)" if document["pinned"] else document["id"],
            "name": document["name"],
            "saved": f"{time_text(document['created_at'])} (local)",
            "tags": ", ".join(document["tags"]),
            "size": f"{size_text(document['size'])}, {size_text(document['written'])} of it written",
            **made_by_fields(document["made_by"]),
        }
    )
    if metadata:
        yield "metadata"
        yield from fields({f"  {key}": value_text(value) for key, value in metadata.items()})
    if document["description"]:
        yield ""
        yield from map(printable, document["description"].splitlines())
    yield ""
    yield from _table(
        (OutputColumn("path"), [leaf["path"] or "(the value itself)" for leaf in leaves]),
        (OutputColumn("kind"), [leaf["kind"] for leaf in leaves]),
        (OutputColumn("dtype"), [leaf["dtype"] or "" for leaf in leaves]),
        (OutputColumn("shape"), ["" if leaf["shape"] is None else str(list(leaf["shape"])) for leaf in leaves]),
        (OutputColumn("bytes", right=True), [size_text(leaf["bytes"]) if leaf["bytes"] else "" for leaf in leaves]),
        (OutputColumn("value", cut=True), [value_text(leaf["value"]) if "value" in leaf else "" for leaf in leaves]),
    )


def differences(document: Document) -> Iterator[str]:
    """Yield the lines for the leaves that differ between two snapshots."""
    found = document["differences"]
    yield from _table(
        (OutputColumn("path"), [each["path"] or "(the value itself)" for each in found]),
        (OutputColumn("is"), [each["kind"] for each in found]),
        (OutputColumn("value", cut=True), [_change(each) for each in found]),
        (OutputColumn("elements", right=True), [_share(each) for each in found]),
        (OutputColumn("largest", right=True), [_number(each["max_abs"]) for each in found]),
        (OutputColumn("relative", right=True), [_number(each["relative_l2"]) for each in found]),
    )


def _table(*columns: Cells) -> Iterator[str]:
    return table([column for column, _ in columns], zip(*(cells for _, cells in columns), strict=True))


def _width(cells: Cells) -> int:
    column, texts = cells
    return max(map(width_of, (column.title, *texts))) + 2


def _short(text: str) -> str:
    return shortened(printable(text), _METADATA_WIDTH)


def _flattened(metadata: Document, prefix: str = "") -> Document:
    """Nested metadata by dotted keys."""
    flat: Document = {}
    for key, value in metadata.items():
        if isinstance(value, dict) and value:
            flat.update(_flattened(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _change(difference: Document) -> str:
    old, new = difference["old"], difference["new"]
    return f"{old} → {new}" if old and new and old != new else old or new


def _share(difference: Document) -> str:
    return "" if difference["changed"] is None else f"{difference['changed']:,} of {difference['elements']:,}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
