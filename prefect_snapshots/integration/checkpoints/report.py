"""What a run tells of a checkpointed map: lines in its log, a progress bar, a report, an event.

Events, for automations; the resource is `prefect-snapshots.checkpoints.<name>`, related to the run:

- `prefect-snapshots.checkpoints.completed` and `prefect-snapshots.checkpoints.failed`: `repository` (URL), `name`,
  `function`, `fingerprint`, `items`, `done_before`, `done`, `failed`, `batches`, `failed_batches`, `seconds`.
"""

from __future__ import annotations

import contextvars
import threading
import time
from concurrent.futures import CancelledError
from typing import Any

from prefect.futures import PrefectFuture

from ...checkpoints import CheckpointManager, Job, Plan, RunCounts
from ...documents import Document, code
from ..reporter import Reporter
from ..run_context import run_logger


class Processing:
    """One map at work. Told by callbacks, in any thread, what becomes of its batches.

    Arguments:
        job: what is done.
        label: what people call it.
    """

    def __init__(self, job: Job, label: str) -> None:
        self._job = job
        self._label = label
        self._context = contextvars.copy_context()
        self._logger = run_logger()
        self._since = time.monotonic()
        self._lock = threading.Lock()
        self._plan: Plan | None = None
        self._known: int | None = None
        """Items to be done altogether, if that is known."""
        self._before = 0
        self._done = 0
        self._failed = 0
        self._batches = self._running = self._failed_batches = 0
        self._finished = False
        self._reporter = Reporter(job.repository, "checkpoints", job.name)
        self._bar = self._reporter.live_progress(f"Progress of {code(label)}", self._percentage)
        self._page = self._reporter.live_page(self._document)

    def begin(self, before: int, planned: int, batches: int) -> None:
        """Say what is done, and what is to be done."""
        self._before, self._known = before, planned
        self._logger.info(
            "%s: %s items are done in %s, %s are to be done, in %s batches.",
            *(self._label, f"{before:,}", self._job.repository.url, f"{planned:,}", f"{batches:,}"),
        )
        self._bar.update(self._context)

    def submitted(self, future: PrefectFuture[Any], size: int) -> None:
        """A batch is on its way."""
        with self._lock:
            self._batches += 1
            self._running += 1
        future.add_done_callback(lambda ended: self._ended(ended, size))

    def all_submitted(self, plan: Plan) -> None:
        """No more batches come."""
        with self._lock:
            self._plan = plan
            self._before = plan.counts.done_before
            last = not self._running
        if last:
            self.finish()

    def finish(self) -> None:
        """Say how it went, once. Called when no batch is left."""
        with self._lock:
            if self._finished or self._plan is None or self._running:
                return
            self._finished = True
            self._known = self._done + self._failed if not self._failed_batches else self._known
        facts = self._facts(self._plan)
        self._logger.info(
            "%s: %s items done in %.1f s, %s were done before, %s failed.%s",
            *(
                self._label,
                f"{self._done:,}",
                facts["seconds"],
                f"{self._before:,}",
                f"{self._failed:,}",
                self._reporter.link,
            ),
        )
        self._bar.update(self._context, patience=0)
        self._page.update(self._context)
        self._bar.flush()
        self._context.copy().run(self._emit, facts)

    def _ended(self, future: PrefectFuture[Any], size: int) -> None:
        outcome = self._context.copy().run(_outcome_of, future)
        with self._lock:
            self._running -= 1
            if outcome is None:
                self._failed_batches += 1
            else:
                self._done += size - outcome.failed
                self._failed += outcome.failed
        if self._known is not None:
            self._bar.update(self._context, patience=0)
        self.finish()

    def _percentage(self) -> float:
        whole = self._before + (self._known or 0)
        return 100.0 * (self._before + self._done + self._failed) / whole if whole else 100.0

    def _document(self) -> Document:
        job = self._job
        return CheckpointManager(job.repository).describe(job.name, job.fingerprint)

    def _facts(self, plan: Plan) -> dict[str, Any]:
        job = self._job
        return {
            "name": job.name,
            "function": job.function_label,
            "fingerprint": job.fingerprint,
            "items": plan.counts.total,
            "done_before": plan.counts.done_before,
            "done": self._done,
            "failed": self._failed,
            "batches": self._batches,
            "failed_batches": self._failed_batches,
            "seconds": round(time.monotonic() - self._since, 3),
        }

    def _emit(self, facts: dict[str, Any]) -> None:
        self._reporter.emit(f"checkpoints.{'failed' if self._failed_batches else 'completed'}", facts)


def _outcome_of(future: PrefectFuture[Any]) -> RunCounts | None:
    """None when the batch failed: who asks for the results is told why."""
    try:
        outcome = future.result(raise_on_failure=False)
    except (CancelledError, Exception):
        return None
    return outcome if isinstance(outcome, RunCounts) else None
