"""Failing items: retry them, count them, and decide which failure stops a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import TooManyFailures
from .batches import RAISED, SKIPPED
from .frozen import Frozen, failure
from .job import Job


@dataclass(frozen=True, slots=True)
class GivenUp:
    """An item that failed finally.

    Attributes:
        stored: The failure in the form of a result.
        outcome: `SKIPPED` or `RAISED`.
        stops: The exception that stops the run. None: the run continues.
    """

    stored: Frozen
    outcome: int
    stops: Exception | None


class Retries:
    """Retries failing items as the job says.

    Attributes:
        in_a_row: Items that have failed since the last success. The caller sets it to 0 when an item succeeds.
        failed: Items that have failed.
        failures: Item and exception of each failure that did not stop the run.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self.in_a_row = 0
        self.failed = 0
        self.failures: list[tuple[Any, Exception]] = []

    def again(self, call: Callable[[Any], Any], item: Any, error: Exception, position: int) -> Any:
        """Retry an item that failed with `error`. Return its result or a `GivenUp`."""
        job = self._job
        for _ in range(job.max_retries):
            if isinstance(error, job.fatal_exceptions):
                break
            try:
                value = call(item)
            except Exception as another:
                error = another
            else:
                self.in_a_row = 0
                return value
        self.in_a_row += 1
        self.failed += 1
        stored = failure(item, error)
        if not job.skip_item_errors or isinstance(error, job.fatal_exceptions):
            error.add_note(f"It was raised by {job.function_label} for item {position} of {job.name!r}.")
            return GivenUp(stored, RAISED, error)
        self.failures.append((item, error))
        if job.max_consecutive_exceptions is not None and self.in_a_row >= job.max_consecutive_exceptions:
            stop = TooManyFailures(
                f"{job.name}: {self.in_a_row} consecutive items failed, up to item {position} "
                f"({type(error).__name__}: {error}). Earlier results are saved. Fix the cause, and start again."
            )
            stop.__cause__ = error
            return GivenUp(stored, SKIPPED, stop)
        return GivenUp(stored, SKIPPED, None)
