"""The report that compares the snapshots of several names: the same number of each in one chart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ..documents import Block, Curves, Note
from ..documents.charts import MOST_CURVES
from ..snapshots.records import Record
from .snapshots import counts_up, number

_METRICS = 4
"""The most charts: a page with more of them is not read."""
_POSITION = "snapshot"

_Points = tuple[tuple[float, float], ...]


def about_runs(runs: Mapping[str, Sequence[Record]]) -> Iterator[Block]:
    """Compare runs: draw each number that several of them have in their metadata.

    The horizontal axis is the first metadata key that counts up in each run, such as a step or an epoch, else the
    position of a snapshot in its run.

    Args:
        runs: The snapshots of each name, oldest first.
    """
    runs = {name: records for name, records in runs.items() if len(records) > 1}
    numbers = {name: _numbers(records) for name, records in runs.items()}
    shared = [key for key in dict.fromkeys(key for keys in numbers.values() for key in keys) if _holders(numbers, key)]
    counters = [key for key in shared if all(key in each and counts_up(each[key]) for each in numbers.values())]
    across = counters[0] if counters else _POSITION
    drawn = 0
    for key in shared:
        names = _holders(numbers, key)
        if drawn == _METRICS or all(counts_up(numbers[name][key]) for name in names):
            continue
        names.sort(key=lambda name: runs[name][-1].time, reverse=True)
        points = {name: _points(runs[name], key, across) for name in names[:MOST_CURVES]}
        drawn += 1
        yield Curves(key, across, "number", points)
        if len(names) > MOST_CURVES:
            yield Note(f"These are the {MOST_CURVES} latest of {len(names):,} names with {key!r}.")


def _holders(numbers: Mapping[str, Mapping[str, list[float]]], key: str) -> list[str]:
    """Return the names whose snapshots have a number under a key, if there are several."""
    names = [name for name, keys in numbers.items() if key in keys]
    return names if len(names) > 1 else []


def _numbers(records: Sequence[Record]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for record in records:
        for key, value in record.metadata.items():
            if (drawn := number(value)) is not None:
                found.setdefault(key, []).append(drawn)
    return {key: values for key, values in found.items() if len(values) > 1}


def _points(records: Sequence[Record], key: str, across: str) -> _Points:
    pairs = [
        (float(at) if across == _POSITION else number(record.metadata.get(across)), number(record.metadata.get(key)))
        for at, record in enumerate(records)
    ]
    return tuple(sorted((x, y) for x, y in pairs if x is not None and y is not None))
