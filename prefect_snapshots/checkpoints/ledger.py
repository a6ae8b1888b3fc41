"""The ledger: which items are done, and where their results are stored, in 24 bytes per item.

A *place* is one 64-bit number: outcome, segment, record and row. Keys and places are kept in sorted *runs*. Older runs
are larger, so that adding a batch moves few rows and a look-up searches few runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..repository.threads import Lock
from .batches import RAISED
from .keys import Keys

Places = NDArray[np.uint64]

MISSING = np.uint64(2**64 - 1)
"""The place of an item that is not done."""

_ROW_BITS, _RECORD_BITS, _SEGMENT_BITS = 16, 26, 20
_SEGMENT_AT = _ROW_BITS + _RECORD_BITS
_OUTCOME_AT = _SEGMENT_AT + _SEGMENT_BITS

MOST_RECORDS = (1 << _RECORD_BITS) - 1
MOST_SEGMENTS = (1 << _SEGMENT_BITS) - 1

_GROWTH = 4
"""How many times longer a run is than the next one: higher means more merges, lower means more runs to search."""


def place(segment: int, record: int) -> int:
    """Return the place of the first row of a record, for an item with a result."""
    return segment << _SEGMENT_AT | record << _ROW_BITS


def places(segment: int, counts: NDArray[np.int64], outcomes: NDArray[np.uint8], first: int = 0) -> Places:
    """Return the places of all rows in consecutive records of a segment, which have `counts` rows each."""
    bases = place(segment, first) + (np.arange(len(counts), dtype=np.uint64) << np.uint64(_ROW_BITS))
    return _places(bases, counts, outcomes)


def _places(bases: NDArray[np.uint64], counts: NDArray[np.int64], outcomes: NDArray[np.uint8]) -> Places:
    rows = np.arange(len(outcomes)) - np.repeat(np.cumsum(counts) - counts, counts)
    result = np.repeat(bases, counts)
    result |= rows.astype(np.uint64)
    result |= outcomes.astype(np.uint64) << np.uint64(_OUTCOME_AT)
    return result


def outcomes_of(found: Places) -> NDArray[np.uint8]:
    """Return the outcomes of places that are not `MISSING`."""
    return (found >> np.uint64(_OUTCOME_AT)).astype(np.uint8)


def records_of(found: Places) -> NDArray[np.int64]:
    """Return the segment and record of each place as one number."""
    return ((found >> np.uint64(_ROW_BITS)) & np.uint64((1 << (_RECORD_BITS + _SEGMENT_BITS)) - 1)).astype(np.int64)


def segments_of(found: Places) -> NDArray[np.int64]:
    """Return the segment of each place."""
    return ((found >> np.uint64(_SEGMENT_AT)) & np.uint64(MOST_SEGMENTS)).astype(np.int64)


def rows_of(found: Places) -> NDArray[np.int64]:
    """Return the row of each place in its record."""
    return (found & np.uint64((1 << _ROW_BITS) - 1)).astype(np.int64)


def split_record(number: int) -> tuple[int, int]:
    """Return the segment and record of a number from `records_of`."""
    return number >> _RECORD_BITS, number & MOST_RECORDS


@dataclass(frozen=True, slots=True)
class _Run:
    heads: NDArray[np.uint64]
    tails: NDArray[np.uint64]
    places: Places


class Ledger:
    """Keys and places.

    If a key was added twice, a result wins over a failure, then the segment with higher precedence, then the item that
    was written first.
    """

    def __init__(self) -> None:
        self._runs: list[_Run] = []
        self._new: list[tuple[Keys, Places]] = []
        self._records: list[tuple[Keys, int, NDArray[np.uint8]]] = []
        self._precedence = np.zeros(0, np.int64)
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self.contents()[1])

    @property
    def nbytes(self) -> int:
        """Its size in memory, in bytes."""
        return sum(part.nbytes for run in self._runs for part in (run.heads, run.tails, run.places))

    def prefer(self, precedence: NDArray[np.int64]) -> None:
        """Set the precedence of each segment, by number: lower is better. Call this before you add their rows."""
        self._precedence = precedence

    def add(self, keys: Keys, found: Places) -> None:
        """Add items. The arrays must not change afterwards. Items that stopped a run are left out, to be retried."""
        kept = outcomes_of(found) != RAISED
        if not kept.all():
            keys, found = keys[kept], found[kept]
        if len(keys):
            with self._lock:
                self._new.append((keys, found))

    def add_record(self, keys: Keys, first: int, outcomes: NDArray[np.uint8]) -> None:
        """Add the items of one record, whose first row has the `place` `first`."""
        with self._lock:
            self._records.append((keys, first, outcomes))

    def find(self, keys: Keys) -> Places:
        """Return the places of items, with `MISSING` for unknown items."""
        self._settle()
        heads, tails = keys[:, 0], keys[:, 1]
        result = np.full(len(keys), MISSING)
        for run in self._runs:
            at = np.searchsorted(run.heads, heads)
            rows = np.flatnonzero(at < len(run.heads))
            rows = rows[run.heads[at[rows]] == heads[rows]]
            while len(rows):
                same = run.tails[at[rows]] == tails[rows]
                hits = rows[same]
                result[hits] = self._better(result[hits], run.places[at[hits]])
                # Another key may have the same first half, such as 1 and the float with the same bits.
                rows = rows[~same]
                at[rows] += 1
                rows = rows[at[rows] < len(run.heads)]
                rows = rows[run.heads[at[rows]] == heads[rows]]
        return result

    def contents(self) -> tuple[Keys, Places]:
        """Return all keys and places, in the order of the keys."""
        self._settle()
        self._merge(len(self._runs))
        if not self._runs:
            return np.zeros((0, 2), np.uint64), np.zeros(0, np.uint64)
        run = self._runs[0]
        return np.column_stack((run.heads, run.tails)), run.places

    def _better(self, left: Places, right: Places) -> Places:
        return np.where(self._rank(right) < self._rank(left), right, left)

    def _rank(self, found: Places) -> Places:
        """Return places with the number of the segment replaced by its precedence: lower is better."""
        if not len(self._precedence):
            return found
        segment = (found >> np.uint64(_SEGMENT_AT)) & np.uint64(MOST_SEGMENTS)
        rank = self._precedence[np.minimum(segment, len(self._precedence) - 1).astype(np.int64)].astype(np.uint64)
        ranked = found - (segment << np.uint64(_SEGMENT_AT)) + (rank << np.uint64(_SEGMENT_AT))
        return np.where(found == MISSING, found, ranked)

    def _settle(self) -> None:
        if not self._new and not self._records:
            return
        with self._lock:
            new, self._new = self._new, []
            records, self._records = self._records, []
        if records:
            counts = np.fromiter((len(keys) for keys, _, _ in records), np.int64, len(records))
            bases = np.fromiter((first for _, first, _ in records), np.uint64, len(records))
            found = _places(bases, counts, np.concatenate([outcomes for _, _, outcomes in records]))
            keys = np.concatenate([keys for keys, _, _ in records])
            kept = outcomes_of(found) != RAISED
            new.append((keys, found) if kept.all() else (keys[kept], found[kept]))
        keys = np.concatenate([keys for keys, _ in new]) if len(new) > 1 else new[0][0]
        found = np.concatenate([found for _, found in new]) if len(new) > 1 else new[0][1]
        new.clear()
        self._runs.append(self._sorted(keys[:, 0], keys[:, 1], found))
        count = 1
        while count < len(self._runs) and len(self._runs[-1 - count].heads) < _GROWTH * sum(
            len(run.heads) for run in self._runs[-count:]
        ):
            count += 1
        self._merge(count)

    def _merge(self, count: int) -> None:
        if count < 2:
            return
        runs = self._runs[-count:]
        del self._runs[-count:]
        columns = [np.concatenate([getattr(run, name) for run in runs]) for name in ("heads", "tails", "places")]
        runs.clear()
        self._runs.append(self._sorted(*columns))

    def _sorted(self, heads: NDArray[np.uint64], tails: NDArray[np.uint64], found: Places) -> _Run:
        # Sorting is fast, because merged runs are already sorted in parts.
        order = np.argsort(heads, kind="stable")
        heads, tails, found = heads[order], tails[order], found[order]
        same = heads[1:] == heads[:-1]
        if same.any():
            tied = np.zeros(len(heads), bool)
            tied[1:] |= same
            tied[:-1] |= same
            rows = np.flatnonzero(tied)
            order = np.lexsort((self._rank(found[rows]), tails[rows], heads[rows]))
            tails[rows], found[rows] = tails[rows][order], found[rows][order]
            keep = np.ones(len(heads), bool)
            keep[1:] = ~(same & (tails[1:] == tails[:-1]))
            heads, tails, found = heads[keep], tails[keep], found[keep]
        return _Run(heads, tails, found)
