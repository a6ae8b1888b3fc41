"""The report on the snapshots of a name: their metrics, the best one, and what each of them changed."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

from ..documents import Block, Chart, Column, Facts, Note, Table
from ..documents.texts import metadata_text
from ..errors import SnapshotsError
from ..messages import logger
from ..repository.metadata import finder
from ..snapshots import SnapshotManager
from ..snapshots.changes import Leaves
from ..snapshots.records import Record

Manager = SnapshotManager[Any]

_METRICS = 4
"""The most charts of metadata: a page with more of them is not read."""
_DRAWN = 60
"""How many of the latest snapshots a bar chart shows: more bars would be thinner than a pixel on a page of Prefect."""
_LARGE_MANIFEST = 1024 * 1024
"""Bytes of a manifest above which leaves are not counted, about ten thousand arrays: to count them, the manifest is
read and decoded, which must not take longer than saving the snapshot did."""


def about_snapshots(manager: Manager, listed: int, until: int | None = None) -> Iterator[Block]:
    """Describe the snapshots of a manager, and the numbers in their metadata over time.

    Args:
        manager: The manager of the snapshots; its ranking decides which one is best.
        listed: The most rows of the table, newest first.
        until: The order of the last snapshot to include. Default: all.
    """
    records = [record for record in manager.records.by_id.values() if until is None or record.order <= until]
    if not records:
        yield Note("There are no snapshots.")
        return
    best = _best(manager, records)
    yield Facts(
        {
            "snapshots": (len(records), "number"),
            "latest size": (records[-1].size, "bytes"),
            "total stored": (sum(record.written for record in records), "bytes"),
            "best": (best.id if best else None, "name"),
            "latest": (records[-1].id, "name"),
            "saved (UTC)": (records[-1].timestamp, "time"),
        }
    )
    labels = tuple(record.id for record in records)
    for key, values in _metrics(records, manager.ranking.rank_by):
        marked = records.index(best) if best and key == manager.ranking.rank_by else None
        yield Chart(key, "line", "number", values, labels, marked=marked)
    if len(records) > 1:
        drawn = records[-_DRAWN:]
        written = tuple(record.written for record in drawn)
        yield Chart("Written by each snapshot", "bars", "bytes", written, tuple(record.id for record in drawn))
    older = {new: old for old, new in itertools.pairwise(records[-listed - 1 :])}
    columns = Column("snapshot", "name"), Column("saved (UTC)", "time"), Column("metadata"), Column("size", "bytes")
    yield Table(
        "Snapshots, newest first",
        (*columns, Column("written", "bytes"), Column("changed leaves"), Column("marks")),
        tuple(
            (
                record.id,
                record.timestamp,
                metadata_text(record.metadata),
                record.size,
                record.written,
                _change(manager, older.get(record), record),
                ", ".join(["★ best"] * (record is best) + ["📌 pinned"] * record.pinned + list(record.tags)),
            )
            for record in reversed(records[-listed:])
        ),
        len(records),
    )


def _best(manager: Manager, records: Sequence[Record]) -> Record | None:
    """Return the best snapshot; None if the manager has no ranking, or no snapshot has a value for it."""
    if not manager.ranking:
        return None
    best, key = manager.ranking.best_first(records, manager.snapshot_of)[0], manager.ranking.rank_by
    return best if key is None or number(finder(key, None)(best.metadata)) is not None else None


@functools.lru_cache(maxsize=1024)
def count_leaves(manager: Manager, old: Record | None, new: Record) -> tuple[int | None, int | None]:
    """Return how many leaves a snapshot has, and how many changed since an older one; None if that is not known."""
    try:
        leaves = _leaves(manager, new)
        before = _leaves(manager, old) if old is not None else None
        if leaves is None:
            return None, None
        return len(leaves), None if before is None else leaves.changed_since(before)
    except SnapshotsError as error:
        logger.warning("The leaves of snapshot %r of %r cannot be counted: %s", new.id, manager.name, error)
        return None, None


@functools.lru_cache(maxsize=8)
def _leaves(manager: Manager, record: Record) -> Leaves | None:
    """Return the leaves of a snapshot; None if counting them would take longer than saving did."""
    if record.event.content is None or record.event.content.manifest_size > _LARGE_MANIFEST:
        return None
    return Leaves.of(manager, record)


def _change(manager: Manager, old: Record | None, new: Record) -> str:
    leaves, changed = count_leaves(manager, old, new)
    return "" if leaves is None else f"? of {leaves:,}" if changed is None else f"{changed:,} of {leaves:,}"


def _metrics(records: Sequence[Record], first: str | None) -> Iterator[tuple[str, tuple[float | None, ...]]]:
    """Yield the metadata keys that are worth a chart, with their values; that of the ranking first."""
    keys = dict.fromkeys([first] if first else [])
    keys.update(dict.fromkeys(key for record in records for key in record.metadata))
    found = 0
    for key in keys:
        values = tuple(map(number, map(finder(key, None), (record.metadata for record in records))))
        there = [value for value in values if value is not None]
        if len(there) > 1 and not counts_up(there) and found < _METRICS:
            found += 1
            yield key, values


def number(value: Any) -> float | None:
    """Return a value of metadata that can be drawn, or None."""
    drawn = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if drawn else None


def counts_up(values: Sequence[float]) -> bool:
    """Return whether values only number the snapshots, as steps and epochs do."""
    return all(value.is_integer() for value in values) and all(old < new for old, new in itertools.pairwise(values))
