"""Report a checkpointed map to Prefect: log lines, a progress bar, a page and an event.

Events for automations have the resource `prefect-snapshots.checkpoints.<name>` and are related to the run:

- `prefect-snapshots.checkpoints.completed` and `prefect-snapshots.checkpoints.failed`: `repository` (URL), `name`,
  `function`, `fingerprint`, `items` (the sum of the next six), `done`, `done_before`, `failed`, `failed_before` (failed
  in an earlier run and not retried), `repeated` (identical to another item), `skipped` (not reached), `missing` (items
  without a result), `batches`, `failed_batches`, `seconds`.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Iterable
from concurrent.futures import CancelledError
from dataclasses import replace
from typing import Any

from prefect.futures import PrefectConcurrentFuture, PrefectFuture

from ...checkpoints import Job, JobPlan, RunCounts, describe_run, open_log
from ...documents import Document, code
from ...documents.texts import count_text
from ...repository.threads import Lock
from ..reporter import Reporter
from ..run_context import run_logger
from ..terminal import ProgressLine


class Processing:
    """Follow one map and report it. Its callbacks run in any thread.

    Args:
        job: The function, its checkpoints and their repository.
        label: The name of the task, as shown in logs and pages.
    """

    def __init__(self, job: Job, label: str) -> None:
        self._job = job
        self._label = label
        self._context = contextvars.copy_context()
        self._logger = run_logger()
        self._since = time.monotonic()
        self._lock = Lock()
        self._plan: JobPlan | None = None
        self._planned: int | None = None
        """Items in all batches; None while an iterable without a length is read."""
        self._before = 0
        self._outcomes = RunCounts()
        """The counts of the items in batches that have ended."""
        self._batches = self._running = self._failed_batches = 0
        self._finished = False
        self._idle = threading.Event()
        """Set while no batch is running or waiting."""
        self._idle.set()
        self._counts = RunCounts()
        self._seconds = 0.0
        self._reporter = Reporter(job.repository, "checkpoints", job.name)
        self._bar = self._reporter.live_progress(f"Progress of {code(label)}", self._percentage)
        self._page = self._reporter.live_page(self._document)
        self._line = ProgressLine(label, "item", hidden=f"{label}[")

    def begin(self, counts: RunCounts, planned: int, batches: int) -> None:
        """Report how many items are done already, and how many are left to compute.

        Args:
            counts: The counts of the plan, in which the items to compute count as skipped.
            planned: How many items are to be computed.
            batches: In how many batches.
        """
        self._before, self._planned = counts.done_before, planned
        known = str(replace(counts, total=counts.total - planned)).partition(": ")[2].rstrip(".")
        self._logger.info(
            "%s: %s, %s, in %s.%s",
            *(self._label, count_text(counts.total, "item")),
            f"{planned:,} to compute in {count_text(batches, 'batch', 'batches')}" if planned else "none to compute",
            *(
                self._job.repository.url,
                f" The others: {known}." if known and planned else f" {known}." if known else "",
            ),
        )
        self._bar.update(self._context)
        self._show()

    def submitted(self, future: PrefectFuture[Any]) -> None:
        """Follow a batch that was submitted."""
        with self._lock:
            self._batches += 1
            self._running += 1
            self._idle.clear()
        # The callback may run in any thread, but must log and send with the context and settings of this run.
        context = self._context.copy()
        future.add_done_callback(lambda ended: context.run(self._ended, ended))

    def all_submitted(self, plan: JobPlan) -> None:
        """Take the counts of the whole plan. Call it after the last `submitted`."""
        with self._lock:
            self._plan = plan
            self._before = plan.counts.done_before
            last = not self._running
        if last:
            self.finish()

    def finish(self) -> None:
        """Report the outcome once, after the last batch."""
        with self._lock:
            if self._finished or self._plan is None or self._running:
                return
            self._finished = True
            self._line.close()
            if not self._failed_batches:
                self._planned = self._outcomes.worked
            counts = self._plan.counts.after(self._outcomes)
        seconds = time.monotonic() - self._since
        self._counts, self._seconds = counts, seconds
        # A reader who looks only at the log level must not mistake missing results for success.
        level = logging.WARNING if counts.missing else logging.INFO
        said = f"{counts} {_remedy(counts)}".rstrip()
        self._bar.update(self._context, patience=0)
        self._page.update(self._context)
        self._logger.log(level, "%s: %s Took %.1f s.%s", self._label, said, seconds, self._page.link)
        self._bar.flush()
        self._emit(counts, seconds)

    def _ended(self, future: PrefectFuture[Any]) -> None:
        outcome = outcome_of(future)
        with self._lock:
            self._running -= 1
            if outcome is None:
                self._failed_batches += 1
            else:
                self._outcomes = self._outcomes.after(outcome)
            if not self._running:
                self._idle.set()
        if self._planned is not None:
            self._bar.update(self._context, patience=0)
        self._show()
        self.finish()

    def interrupted(self, patience: float) -> None:
        """Say once what an interrupted map has kept, and how to continue.

        Args:
            patience: The most seconds to wait for the batches to end, so that what they have done is counted.
        """
        with self._lock:
            if self._finished:
                return
            self._finished = True  # the last batch must not report a map that ended
        self._line.close()
        self._idle.wait(patience)
        done = (self._plan.counts.done_before if self._plan else self._before) + self._outcomes.done
        self._logger.warning(
            "%s was interrupted. %s stored in %s. Run it again to compute only the others.",
            *(self._label, count_text(done, "result is", "results are"), self._job.repository.url),
        )

    def _show(self) -> None:
        whole = None if self._planned is None else self._before + self._planned
        self._line.update(self._before + self._outcomes.worked, whole, self._outcomes.failed)

    def _percentage(self) -> float:
        whole = self._before + (self._planned or 0)
        return min(100.0, 100.0 * (self._before + self._outcomes.worked) / whole) if whole else 100.0

    def _document(self) -> Document:
        assert self._plan is not None  # only a finished map has a page
        return describe_run(open_log(self._job), self._job.name, self._plan, self._counts, self._seconds)

    def _emit(self, counts: RunCounts, seconds: float) -> None:
        job, numbers = self._job, counts.as_dict()
        facts = {"name": job.name, "function": job.function_label, "fingerprint": job.fingerprint}
        batches = {"batches": self._batches, "failed_batches": self._failed_batches, "seconds": round(seconds, 3)}
        what = "failed" if self._failed_batches else "completed"
        self._reporter.emit(f"checkpoints.{what}", {**facts, "items": numbers.pop("total"), **numbers, **batches})


def _remedy(counts: RunCounts) -> str:
    """Return what to do about items without a result, or "" if every item has one."""
    if not counts.missing:
        return ""
    retry = " Pass retry_failed_items=True to try them again." if counts.failed or counts.failed_before else ""
    return f"{count_text(counts.missing, 'item has', 'items have')} no result.{retry}"


def outcome_of(future: PrefectFuture[Any]) -> RunCounts | None:
    """Return the counts of a batch, or None if it failed. Its error is raised when the results are requested."""
    try:
        outcome = future.result(raise_on_failure=False)
    except (CancelledError, Exception):
        return None
    return outcome if isinstance(outcome, RunCounts) else None


def cancel_waiting(futures: Iterable[PrefectFuture[Any]]) -> None:
    """Cancel the batches that wait for a thread. Batches of other task runners are stopped by these."""
    for future in futures:
        if isinstance(future, PrefectConcurrentFuture):
            future.wrapped_future.cancel()
