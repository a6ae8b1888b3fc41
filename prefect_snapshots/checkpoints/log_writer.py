"""Write the results of one run to a log. Records are appended to a segment, which is closed when it is large."""

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
"""Items after which a segment is closed. A run that resumes reads all keys of a segment at once: 16 MB for so many."""
_FULL_RECORDS = 1 << 14
"""Records after which a segment is closed. If a kill leaves it open, each record is read on its own, in 10 to 20 µs: at
most 0.3 s for this many."""


@dataclass(slots=True)
class SegmentSummary:
    """The footer of a segment: the keys and outcomes of all its rows, the number of rows of each record, and the slow
    items."""

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
    """Write the results of one run. It is not thread-safe."""

    def __init__(self, log: Log, function: str, refresh: bool = False) -> None:
        self._log = log
        self._function = function
        self._refresh = self._overrides = refresh
        self._writer: SegmentWriter | None = None
        self._summary = SegmentSummary()
        self.segment = ""

    @property
    def slow(self) -> SlowItems:
        """The slow items of the open segment."""
        return self._summary.slow

    def open(self) -> None:
        """Register a segment, so that other processes see that this one is working."""
        if self._writer is None:
            self.segment = new_segment()
            # Hold it before others can see it. A registered segment that nobody holds means that its writer is dead.
            self._log.claims.hold(self.segment)
            self._log.register(self.segment, self._function, self._refresh)
            self._refresh = False
            self._writer = self._log.writer_of(self.segment)

    def override(self) -> None:
        """Let all results that are written from now on override earlier ones."""
        if not self._overrides:
            self.close()
            self._refresh = self._overrides = True

    def write(self, batch: Batch) -> None:
        """Append results. When this returns, they survive a kill of this process."""
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
        """Stop writing to the segment after a failed write. Records that were written before stay."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            self._summary = SegmentSummary()
            writer.abandon()

    def _write(self, batch: Batch) -> None:
        if self._writer is not None and not self._log.is_wanted(self.segment):
            self.close()  # the checkpoints were deleted during the run: continue in a new segment
        self.open()
        assert self._writer is not None
        record = self._writer.append([encode_batch(batch)])
        self._summary.add(batch.keys, batch.outcomes)
        self._log.wrote(self.segment, record, batch.keys, batch.outcomes)
        size = FULL[self._log.repository.location.appends]
        if self._writer.size >= size or self._summary.rows >= _FULL_ROWS or record >= _FULL_RECORDS:
            self.close()
