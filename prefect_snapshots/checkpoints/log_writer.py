"""Writing to a log: the results of one start, record by record, in segments that are closed when they are large."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..repository.location import Buffer
from ..repository.logs import SegmentWriter, new_segment
from .batches import RECORD_LIMIT, Batch, encode_batch
from .keys import Keys
from .log import FULL, Log
from .slow import SlowItems

_FULL_ROWS = 1 << 20
"""Items after which a segment is closed: its keys (16 MB) are read at once by whoever resumes."""
_FULL_RECORDS = 1 << 14
"""A segment that a kill leaves open is read record by record, 10 to 20 µs each: at most 0.3 s for this many."""


@dataclass(slots=True)
class SegmentSummary:
    """What the footer of a segment says: keys and outcomes of all its rows, how many of them each record has, and which
    items were slow."""

    counts: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    outcomes: list[bytes] = field(default_factory=list)
    rows: int = 0
    slow: SlowItems = field(default_factory=SlowItems)

    def add(self, keys: Keys, outcomes: NDArray[np.uint8]) -> None:
        self.counts.append(len(keys))
        self.keys.append(keys.tobytes())
        self.outcomes.append(outcomes.tobytes())
        self.rows += len(keys)

    def frames(self) -> list[Buffer]:
        slow = [self.slow.encoded()] if self.slow else []
        return [np.array(self.counts, "<u4").tobytes(), b"".join(self.keys), b"".join(self.outcomes), *slow]


class LogWriter:
    """Write the results of one start. One thread at a time may use it."""

    def __init__(self, log: Log, function: str, refresh: bool = False) -> None:
        self._log = log
        self._function = function
        self._refresh = refresh
        self._writer: SegmentWriter | None = None
        self._summary = SegmentSummary()
        self.segment = ""

    @property
    def slow(self) -> SlowItems:
        """The slow items of the open segment."""
        return self._summary.slow

    def open(self) -> None:
        """Register a segment, so that others know that somebody is at work."""
        if self._writer is None:
            self.segment = new_segment()
            # Before anybody can see it: who finds it registered and not held takes its writer for dead.
            self._log.claims.hold(self.segment)
            self._log.register(self.segment, self._function, self._refresh)
            self._refresh = False
            self._writer = self._log.writer_of(self.segment)

    def write(self, batch: Batch) -> None:
        """Append results. They survive the death of this process at once."""
        for first in range(0, len(batch), RECORD_LIMIT):
            self._write(batch if len(batch) <= RECORD_LIMIT else batch.part(first, first + RECORD_LIMIT))

    def close(self) -> None:
        """Close the segment with a footer."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            extent = writer.close(self._summary.frames())
            self._summary = SegmentSummary()
            if extent is not None:
                self._log.closed(self.segment, extent)
            self._log.claims.stop_holding(self.segment)

    def abandon(self) -> None:
        """Give the segment up after a failed write. What was written before stays."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            self._summary = SegmentSummary()
            writer.abandon()

    def _write(self, batch: Batch) -> None:
        if self._writer is not None and not self._log.is_wanted(self.segment):
            self.close()  # cleared meanwhile: what comes now belongs to a new one
        self.open()
        assert self._writer is not None
        record = self._writer.append([encode_batch(batch)])
        self._summary.add(batch.keys, batch.outcomes)
        self._log.wrote(self.segment, record, batch.keys, batch.outcomes)
        size = FULL[self._log.repository.location.appends]
        if self._writer.size >= size or self._summary.rows >= _FULL_ROWS or record >= _FULL_RECORDS:
            self.close()
