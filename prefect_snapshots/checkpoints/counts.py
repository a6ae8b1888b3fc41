"""Counts of the items of a run by outcome. They add up to the number of items."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace


@dataclass(frozen=True, slots=True)
class RunCounts:
    """The outcomes of all items that a run has read.

    Every item is counted exactly once, so `total` is the sum of the other attributes and `skipped`.

    Attributes:
        total: Items that the run has read.
        done: Items that the run computed.
        done_before: Items that already had a result, from an earlier or a concurrent run.
        failed: Items that failed in this run.
        failed_before: Items that failed in an earlier run and were not retried.
        repeated: Items identical to an earlier item of the same run. They are not computed again.

    Example:
        >>> counts = RunCounts(total=10, done=4, done_before=5, failed=1)
        >>> counts.skipped, counts.missing
        (0, 1)
        >>> print(counts)
        10 items: 4 done now, 5 done before, 1 failed now.
    """

    total: int = 0
    done: int = 0
    done_before: int = 0
    failed: int = 0
    failed_before: int = 0
    repeated: int = 0

    @property
    def worked(self) -> int:
        """Items for which the function was called."""
        return self.done + self.failed

    @property
    def skipped(self) -> int:
        """Items that the run did not reach before it stopped."""
        return self.total - self.done - self.done_before - self.failed - self.failed_before - self.repeated

    @property
    def missing(self) -> int:
        """Distinct items without a result: failed now, failed before, or skipped."""
        return self.failed + self.failed_before + self.skipped

    def after(self, batch: RunCounts) -> RunCounts:
        """Return these counts updated with those of a batch, whose items counted as skipped until now."""
        return replace(self + batch, total=self.total)

    def __add__(self, others: RunCounts) -> RunCounts:
        """Return these counts with those of other items."""
        return RunCounts(
            self.total + others.total,
            self.done + others.done,
            self.done_before + others.done_before,
            self.failed + others.failed,
            self.failed_before + others.failed_before,
            self.repeated + others.repeated,
        )

    def as_dict(self) -> dict[str, int]:
        """Return all numbers by name, `skipped` and `missing` included."""
        stored = {one.name: getattr(self, one.name) for one in fields(self)}
        return {**stored, "skipped": self.skipped, "missing": self.missing}

    def __str__(self) -> str:
        parts = ", ".join(self._parts())
        return f"{self.total:,} item{'' if self.total == 1 else 's'}{f': {parts}' if parts else ''}."

    def _parts(self) -> Iterator[str]:
        for name, words in _WORDS.items():
            number = getattr(self, name)
            if number:
                yield f"{number:,} {words}"


_WORDS = {
    "done": "done now",
    "done_before": "done before",
    "repeated": "identical to another one",
    "failed": "failed now",
    "failed_before": "failed before and not retried",
    "skipped": "not reached",
}
