"""Running: compute items and write their results."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
import warnings
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import UnserialisableResult
from .batches import DONE
from .counts import RunCounts
from .flushing import Flusher
from .frozen import SCALARS
from .interrupts import Interrupts
from .job import Job
from .keys import Keys
from .ledger import MISSING, Ledger, outcomes_of
from .log import Log
from .merging import tidy
from .planning import ItemBatch, Pending, find_pending
from .reading import open_log
from .retries import GivenUp, Retries
from .selection import ItemSelection
from .sharing import WorkSharing, WorkUnit
from .slow import LEAST

_PATIENCE = 5.0
"""The least seconds to wait for other processes to finish what they have claimed; the limit is four times the longest
batch of this run. A shorter wait would compute what another process is about to write, and a longer one would wait for
a process that has stopped."""


class Stopped(Exception):
    """The run was asked to stop before an item."""


class Run:
    """Computes items and writes their results. As a context manager, it always writes finished results at its end.

    Args:
        job: The job to run.
        log: The log of the job, if you have already opened it.
        on_flush: Called with the number of results of each write.
        stopping: The run raises `Stopped` before the next item as soon as this is not empty.
    """

    def __init__(
        self,
        job: Job,
        log: Log | None = None,
        *,
        on_flush: Callable[[int], None] | None = None,
        stopping: Sequence[object] = (),
    ) -> None:
        self.job = job
        self._stopping = stopping
        self.log = log or open_log(job)
        self._call: Callable[[Any], Any] = job.function
        self._seen = RunCounts()
        self._worked = 0
        self._longest = 0.0
        self._interrupts = Interrupts()
        self._retries = Retries(job)
        self._flusher = Flusher(job, self.log, self._interrupts, on_flush)
        self._sharing = WorkSharing(job, self.log, self._still_pending, lambda: self._flusher.segment)
        self._begun = False
        self._leaving = contextlib.ExitStack()

    @property
    def counts(self) -> RunCounts:
        """The counts of the items so far."""
        failed = self._retries.failed
        return self._seen.after(RunCounts(done=self._worked - failed, failed=failed))

    @property
    def failures(self) -> list[tuple[Any, Exception]]:
        """The item and exception of each failure that did not stop the run."""
        return self._retries.failures

    def __enter__(self) -> Self:
        self._leaving.__enter__()
        self._leaving.enter_context(self._interrupts)
        if inspect.iscoroutinefunction(self.job.function):
            runner = self._leaving.enter_context(asyncio.Runner())
            function = self.job.function
            self._call = lambda item: runner.run(function(item))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            try:
                self._flusher.close()
            finally:
                self.log.close()
            if self._begun and kind is None:
                tidy(self.log)
        finally:
            self._leaving.__exit__(kind, error, trace)

    def work(self, window: ItemSelection) -> None:
        """Compute the items of a window that have no result."""
        self._sharing.note()
        pending = self._pending(window.keys)
        self._seen += pending.counts
        if not len(pending.rows):
            return
        rows = pending.rows[self._not_begun(window.keys[pending.rows])]
        if len(rows) < len(pending.rows):
            self._seen = self._seen.after(RunCounts(repeated=len(pending.rows) - len(rows)))
        if not len(rows):
            return
        if pending.renews:
            self._flusher.override()
        if not self._begun:
            self._begun = True
            _warn_of_requests(self.job)
            self._flusher.open()
        for unit in self._sharing.claimed(window, rows):
            self._compute(unit)
        if self._sharing.is_due:
            self._retry()

    def finish(self) -> None:
        """Compute items that other processes claimed but did not finish, after waiting some time for them."""
        since = time.monotonic()
        while self._sharing.deferred:
            before = len(self._sharing.deferred)
            self._retry()
            if len(self._sharing.deferred) < before:
                since = time.monotonic()
            elif time.monotonic() - since > max(_PATIENCE, 4 * self._longest):
                for unit in self._sharing.taken_over():
                    self._compute(unit)
            else:
                self._flusher.flush()
                self._sharing.release()
                time.sleep(self._sharing.pause)

    def _retry(self) -> None:
        for unit in self._sharing.retried():
            self._compute(unit)

    def _pending(self, keys: Keys) -> Pending:
        return find_pending(self.job, self.log, keys, self._flusher.fresh)

    def _still_pending(self, keys: Keys) -> NDArray[np.int64]:
        """Return which items still have to be computed. Count those that another process has done since."""
        pending = self._pending(keys)
        if len(pending.rows) < len(keys):
            self._seen = self._seen.after(pending.counts)
        return pending.rows

    def _not_begun(self, keys: Keys) -> NDArray[np.bool_]:
        """Return which items are neither being computed, nor waiting to be written, nor deferred."""
        begun = [*self._flusher.begun(), *(unit.work.keys for unit in self._sharing.deferred)]
        ledger = Ledger()
        for some in begun:
            ledger.add(some, np.zeros(len(some), np.uint64))
        return ledger.find(keys) == MISSING if begun else np.ones(len(keys), bool)

    def _compute(self, unit: WorkUnit) -> None:
        """Compute the items of a claimed unit."""
        size, flusher = self.job.batch_size, self._flusher
        first, count = 0, len(unit.work)
        while first < count:
            end = min(first + size - flusher.rows, count)
            self._call_for(unit.work if end - first == count else unit.work.part(first, end))
            first = end
            if flusher.rows >= size:
                flusher.flush()
                self._sharing.release(keep=unit.claim if first < count else None)

    def _call_for(self, work: ItemSelection) -> None:
        """Call the function for each item."""
        call, now, flusher, retries = self._call, time.perf_counter, self._flusher, self._retries
        begun = flusher.begin(work)
        stopping = self._stopping
        stops: Exception | None = None
        values, ends = begun.values, begun.ends
        try:
            for item in work.items:
                if stopping:
                    raise Stopped
                try:
                    value = call(item)
                except Exception as error:
                    value = given_up = retries.again(call, item, error, begun.position)
                    if type(given_up) is GivenUp:
                        begun.outcomes[len(ends)] = given_up.outcome
                        value, stops = given_up.stored, given_up.stops
                else:
                    retries.in_a_row = 0
                plain = type(value) in SCALARS
                values.append(value if plain else flusher.freeze(value, begun.position))
                ends.append(now())
                if not plain and flusher.is_large:
                    flusher.flush()
                if stops is not None:
                    raise stops
        except UnserialisableResult:
            # Nothing is recorded for this item, but it was started and has no result.
            self._worked += 1
            retries.failed += 1
            raise
        finally:
            self._worked += len(ends)
            flusher.rows += len(ends)
            took = now() - begun.start
            self._longest = max(self._longest, took)
            if took >= LEAST:
                flusher.note_slow(begun, work.items)


def run_batch(job: Job, batch: ItemBatch, *, stopping: Sequence[object] = ()) -> RunCounts:
    """Compute the items of a batch that have no result yet, and write the results to the repository.

    Args:
        job: The job.
        batch: A batch of a `JobPlan`.
        stopping: A list. As soon as it has an element, the batch ends before its next item.

    Returns:
        The counts of the items. If the batch ended early, the others count as skipped.

    Raises:
        Exception: The error of the function, if the job does not skip failing items. Earlier results are saved, and
            `counts_of` returns how many.
        SnapshotsError: The results could not be written.
    """
    run = Run(job, open_log(job, batch.share), stopping=stopping)
    with contextlib.suppress(Stopped), run:
        run.work(batch)
        run.finish()
    return run.counts


def counts_of(job: Job, batch: ItemBatch) -> RunCounts:
    """Return the counts of a batch from its log, for a batch whose run raised an exception.

    Args:
        job: The job.
        batch: A batch of a `JobPlan`.
    """
    log = open_log(job)
    ours, failures = Ledger(), Ledger()
    for stored, _ in log.batches(batch.share):
        done = stored.outcomes == DONE
        ours.add(stored.keys[done], np.zeros(int(done.sum()), np.uint64))
        failures.add(stored.keys[~done], np.zeros(int((~done).sum()), np.uint64))
    found = log.find(batch.keys)
    known = found != MISSING
    done = known & (outcomes_of(found) == DONE)
    by_us = ours.find(batch.keys) != MISSING
    failed_now = ~by_us & ~done & (failures.find(batch.keys) != MISSING)
    failed_before = ~by_us & known & ~done & ~failed_now & (not job.retry_failed_items)
    again = job.refresh or job.cache_expiration is not None
    return RunCounts(
        len(batch),
        done=int(by_us.sum()),
        done_before=int((done & ~by_us).sum()) if not again else 0,
        failed=int(failed_now.sum()),
        failed_before=int(failed_before.sum()) if not again else 0,
    )


def _warn_of_requests(job: Job) -> None:
    location = job.repository.location
    if job.batch_size > 1 or location.appends or location.url.startswith("memory://"):
        return
    warnings.warn(
        f"{job.name}: batch_size=1 makes a request to {location.url} for every item, which takes 20 to 100 ms. Pass "
        "batch_size=100 or more, and max_wait_time= with the seconds of work that you can afford to lose.",
        stacklevel=2,
    )
