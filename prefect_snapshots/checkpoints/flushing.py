"""Flushing: keep results in memory, and write them in time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import UnserialisableResult
from ..repository.threads import Lock
from .batches import Batch
from .frozen import Frozen, Unserialisable, freeze
from .interrupts import Interrupts
from .job import Job
from .keys import Keys
from .ledger import Ledger
from .log import Log
from .log_writer import LogWriter
from .selection import ItemSelection

_FLUSH_BYTES = 16 << 20
"""Results of this total size are written before the batch is full. This limits memory, and is so large that the fixed
cost of a write does not matter."""


class WorkInProgress:
    """Items being computed: which of them are done, and which of those are written.

    Times are measured with a monotonic clock; `epoch` is the time of day at which that clock was 0.
    """

    __slots__ = ("ends", "epoch", "keys", "outcomes", "positions", "start", "values", "written")

    def __init__(self, work: ItemSelection) -> None:
        self.keys = work.keys
        self.positions = work.positions
        self.start = time.perf_counter()
        self.epoch = time.time() - self.start
        self.values: list[Any] = []
        self.ends: list[float] = []
        self.outcomes: dict[int, int] = {}
        """Outcomes other than `DONE`, by row."""
        self.written = 0

    @property
    def position(self) -> int:
        """The position of the item that is being computed."""
        return int(self.positions[len(self.ends)])

    def take(self) -> Batch | None:
        """Return the results that are done but not written. Another thread may add results: `ends` grows last."""
        first, end = self.written, len(self.ends)
        if end == first:
            return None
        ends = np.array(self.ends[first:end])
        starts = np.empty_like(ends)
        starts[0] = self.ends[first - 1] if first else self.start
        starts[1:] = ends[:-1]
        outcomes = np.zeros(end - first, np.uint8)
        for row, outcome in list(self.outcomes.items()):
            if first <= row < end:
                outcomes[row - first] = outcome
        rows = slice(first, end)
        times = starts + self.epoch, ends + self.epoch
        return Batch(self.keys[rows], self.positions[rows], *times, outcomes, self.values[rows])

    def wrote(self, count: int) -> None:
        """Forget the results that were written."""
        self.values[self.written : self.written + count] = [None] * count
        self.written += count


class Flusher:
    """Writes results to the log: on request, and whenever `max_wait_time` is over.

    Args:
        job: The job.
        log: Its log.
        interrupts: Delays signals while results are written.
        on_flush: Called with the number of results of each write.

    Attributes:
        rows: Results since the last write.
        fresh: What this run has written, if the job ignores the results of earlier runs.
    """

    def __init__(self, job: Job, log: Log, interrupts: Interrupts, on_flush: Callable[[int], None] | None) -> None:
        self.rows = 0
        self.fresh: Ledger | None = Ledger() if job.refresh else None
        self._job = job
        self._log = log
        self._interrupts = interrupts
        self._on_flush = on_flush
        renews = log.share is not None and log.share.renews
        self._writer = LogWriter(log, job.function_label, job.refresh or renews)
        self._lock = Lock()
        self._works: list[WorkInProgress] = []
        self._bytes = 0
        self._last = time.monotonic()
        self._trouble: BaseException | None = None
        self._stop = threading.Event()
        self._timer: threading.Thread | None = None

    @property
    def segment(self) -> str:
        """The segment that this run writes."""
        return self._writer.segment

    @property
    def is_large(self) -> bool:
        """Whether the results since the last write are so large that they should be written at once."""
        return self._bytes > _FLUSH_BYTES

    def open(self) -> None:
        """Register a segment, which tells other processes that this one is working, and start the timer."""
        self._writer.open()
        if self._job.max_wait_time is not None and self._timer is None:
            self._timer = threading.Thread(
                target=self._keep_flushing, args=(self._job.max_wait_time,), name="prefect-snapshots-flush", daemon=True
            )
            self._timer.start()

    def override(self) -> None:
        """Let all results that are written from now on override earlier ones."""
        with self._lock, self._interrupts.delayed():
            self._writer.override()

    def begin(self, work: ItemSelection) -> WorkInProgress:
        """Start items: from now on, their results are written.

        Raises:
            SnapshotsError: The timer could not write earlier results.
        """
        begun = WorkInProgress(work)
        with self._lock:
            self._works.append(begun)
        if self._trouble is not None:
            raise self._trouble
        return begun

    def begun(self) -> list[Keys]:
        """Return the keys of the items that are being computed, or are done but not written."""
        with self._lock:
            return [work.keys for work in self._works]

    def note_slow(self, work: WorkInProgress, items: Sequence[Any]) -> None:
        """Note which of the items that are done took long, for the report."""
        with self._lock:
            self._writer.slow.note(items, work.keys, work.start, work.ends)

    def freeze(self, value: Any, position: int) -> Any:
        """Return a result in an immutable form.

        Raises:
            UnserialisableResult: It cannot be stored.
        """
        if type(value) is not Frozen:
            try:
                value = freeze(value, self._log.result_limit, allow_pickle=self._job.repository.allow_pickle)
            except Unserialisable as error:
                raise UnserialisableResult(position, str(error)) from error.__cause__
        if type(value) is Frozen:
            self._bytes += len(value)
        return value

    def flush(self) -> None:
        """Write finished results."""
        with self._lock, self._interrupts.delayed():
            parts = [(work, batch) for work in self._works if (batch := work.take()) is not None]
            if parts:
                batch = parts[0][1] if len(parts) == 1 else _joined([part for _, part in parts])
                self._writer.write(batch)
                for work, part in parts:
                    work.wrote(len(part))
                if self.fresh is not None:
                    self.fresh.add(batch.keys, np.zeros(len(batch), np.uint64))
                if self._on_flush is not None:
                    self._on_flush(len(batch))
            # The last item may not be done yet.
            self._works = [work for work in self._works if work.written < len(work.positions)][-1:]
            self.rows = 0
            self._bytes = 0
            self._last = time.monotonic()

    def close(self) -> None:
        """Write finished results, and close the segment. If this fails, results that were written before are safe."""
        self._stop.set()
        with self._interrupts.delayed():
            try:
                if self._timer is not None:
                    self._timer.join()
                self.flush()
                self._writer.close()
            except BaseException:
                self._writer.abandon()
                raise

    def _keep_flushing(self, most: float) -> None:
        while not self._stop.wait(max(self._last + most - time.monotonic(), 0.001)):
            if time.monotonic() - self._last < most:
                continue
            try:
                self.flush()
            except BaseException as error:  # raised in the thread of the run, by the next `begin` or by `close`
                self._trouble = error
                return


def _joined(parts: Sequence[Batch]) -> Batch:
    return Batch(
        np.concatenate([part.keys for part in parts]),
        np.concatenate([part.positions for part in parts]),
        np.concatenate([part.starts for part in parts]),
        np.concatenate([part.ends for part in parts]),
        np.concatenate([part.outcomes for part in parts]),
        [value for part in parts for value in part.values],
    )
