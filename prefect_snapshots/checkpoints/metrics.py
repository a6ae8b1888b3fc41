"""The metrics of a run: of each item, and as a report for people and programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..documents import Chart, Column, Document, Facts, Note, Table, markdown
from ..errors import InvalidArgument
from .batches import DONE
from .frozen import Failure
from .keys import Keys
from .ledger import MISSING, outcomes_of
from .log import Log

_SLOW = 3.0
"""An item this many standard deviations above the mean is slow: 1 in 740 of a normal distribution."""
_SHOWN = 20
"""How many slow items a report lists: enough to see a pattern, and the page stays readable."""
_LISTED = 10
"""The most rows of a table for people: as many as fit on a screen."""
_PARTS = 40
"""The number of bars in the chart: as many as can be distinguished at its width."""


@dataclass(frozen=True, slots=True)
class Metric:
    """The metrics of one item: its position in that run, times in seconds since 1970, and its outcome.

    `item` is the beginning of the `repr` of a failed item, and `error` is `Type: message`.
    """

    index: int
    start_time: float
    end_time: float
    success: bool
    error: str | None = None
    item: str | None = None

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.end_time - self.start_time


@dataclass(frozen=True, slots=True)
class Metrics:
    """The metrics of all items, each with its last relevant attempt, in the order of their positions.

    Attributes:
        positions: The positions of the items, shape (n,).
        starts, ends: Seconds since 1970, shape (n,).
        failures: Why items have no result, by row.
    """

    positions: NDArray[np.int64]
    starts: NDArray[np.float64]
    ends: NDArray[np.float64]
    failures: dict[int, Failure]

    def __len__(self) -> int:
        return len(self.positions)

    def row(self, at: int) -> Metric:
        failure = self.failures.get(at)
        return Metric(
            int(self.positions[at]),
            float(self.starts[at]),
            float(self.ends[at]),
            failure is None,
            None if failure is None else str(failure),
            None if failure is None else failure.item,
        )


def load_metrics(log: Log) -> Metrics:
    """Return the metrics of all items in a log."""
    columns: list[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]] = []
    failed: dict[bytes, tuple[tuple[int, float, float], Failure]] = {}
    for batch, places in log.batches():
        found = log.find(batch.keys)
        counts = (batch.outcomes == DONE) & (found == places)
        columns.append((batch.positions[counts], batch.starts[counts], batch.ends[counts]))
        unsettled = (batch.outcomes != DONE) & ((found == MISSING) | (outcomes_of(found) != DONE))
        if unsettled.any():
            values = batch.values(allow_pickle=False)
            for row in np.flatnonzero(unsettled).tolist():
                when = int(batch.positions[row]), float(batch.starts[row]), float(batch.ends[row])
                failed[batch.keys[row].tobytes()] = when, values[row]
    times = [one for one, _ in failed.values()]
    parts = [np.array([one[at] for one in times], kind) for at, kind in enumerate((np.int64, float, float))]
    positions, starts, ends = (
        np.concatenate([*(column[at] for column in columns), part]) for at, part in enumerate(parts)
    )
    order = np.lexsort((starts, positions))
    done = len(positions) - len(failed)
    rows = np.flatnonzero(order >= done).tolist()
    reasons = [reason for _, reason in failed.values()]
    return Metrics(positions[order], starts[order], ends[order], {row: reasons[order[row] - done] for row in rows})


def failures_of(log: Log, keys: Keys) -> dict[int, Failure]:
    """Return why items have no result, by their position among the keys."""
    found: dict[bytes, Failure] = {}
    for batch, _ in log.batches():
        rows = np.flatnonzero(batch.outcomes != DONE)
        places = log.find(batch.keys[rows])
        rows = rows[(places == MISSING) | (outcomes_of(places) != DONE)]
        values = batch.values(allow_pickle=False) if len(rows) else None
        found.update((batch.keys[row].tobytes(), values[row]) for row in rows.tolist() if values is not None)
    places = log.find(keys)
    absent = np.flatnonzero((places == MISSING) | (outcomes_of(places) != DONE)).tolist()
    return {at: found[key] for at in absent if (key := keys[at].tobytes()) in found}


def summarise(name: str, metrics: Metrics) -> dict[str, Any]:
    """Return the figures of a report."""
    count = len(metrics)
    durations = metrics.ends - metrics.starts
    elapsed = float(metrics.ends.max() - metrics.starts.min()) if count else 0.0
    mean, spread = (float(durations.mean()), float(durations.std())) if count else (None, 0.0)
    slow = np.flatnonzero(durations > mean + _SLOW * spread) if mean is not None else np.zeros(0, np.int64)
    slowest = slow[np.argsort(-durations[slow], kind="stable")][:_SHOWN]
    return {
        "name": name,
        "total_items": count,
        "successful_items": count - len(metrics.failures),
        "failed_count": len(metrics.failures),
        "total_elapsed": elapsed,
        "items_per_second": count / elapsed if elapsed else None,
        "avg_duration": mean,
        "median_duration": float(np.median(durations)) if count else None,
        "p95_duration": float(np.quantile(durations, 0.95)) if count else None,
        "max_duration": float(durations.max()) if count else None,
        "slow_outliers": [_row(metrics.row(at)) for at in slowest.tolist()],
        "slow_count": len(slow),
        "failed_items": [_row(metrics.row(at)) for at in list(metrics.failures)[:1000]],
    }


def render(name: str, metrics: Metrics, form: Literal["markdown", "json"]) -> str:
    """Return a report as a string.

    Raises:
        InvalidArgument: The format is unknown.
    """
    if form not in ("markdown", "json"):
        raise InvalidArgument(f'Unsupported report format {form!r}. Choose "markdown" or "json".')
    if form == "json":
        return json.dumps(summarise(name, metrics), indent=2, ensure_ascii=False)
    return markdown(describe(name, metrics), images=False)


def describe(name: str, metrics: Metrics) -> Document:
    """Return a report as a document."""
    title = f"Checkpoints of {name}"
    if not len(metrics):
        return Document(title, (Note("No items were processed."),))
    report = summarise(name, metrics)
    facts = Facts(
        {
            "items": (report["total_items"], "number"),
            "succeeded": (report["successful_items"], "number"),
            "failed": (report["failed_count"], "number"),
            "from first to last": (report["total_elapsed"], "seconds"),
            "items a second": (report["items_per_second"], "number"),
            "mean of an item": (report["avg_duration"], "seconds"),
            "median": (report["median_duration"], "seconds"),
            "95 % are below": (report["p95_duration"], "seconds"),
            "slowest": (report["max_duration"], "seconds"),
        }
    )
    slow = Table(
        "Slow items",
        (Column("item"), Column("took", "seconds")),
        tuple((row["index"], row["duration"]) for row in report["slow_outliers"][:_LISTED]),
        report["slow_count"],
    )
    failed = Table(
        "Failed items",
        (Column("item"), Column("input"), Column("error")),
        tuple((row["index"], row["item"], row["error"]) for row in report["failed_items"][:_LISTED]),
        report["failed_count"],
    )
    return Document(title, (facts, *_throughput(metrics), slow, failed))


def _throughput(metrics: Metrics) -> Iterator[Chart]:
    """Chart the items per second in parts with equal numbers of items, so that a pause affects only one part."""
    count = len(metrics)
    parts = min(_PARTS, count // 2)
    if parts < 2:
        return
    order = np.argsort(metrics.ends, kind="stable")
    bounds = np.linspace(0, count, parts + 1).astype(int)
    failed = np.zeros(count)
    failed[list(metrics.failures)] = 1
    ends = metrics.ends[order][bounds[1:] - 1]
    seconds = np.maximum(np.diff(ends, prepend=metrics.starts.min()), 1e-9)
    bad = np.add.reduceat(failed[order], bounds[:-1]) / seconds
    labels = tuple(f"item {end:,}" for end in bounds[1:].tolist())
    rates = tuple((np.diff(bounds) / seconds).tolist())
    yield Chart("Items a second, as they were done", "bars", "number", rates, labels, failed=tuple(bad.tolist()))


def _row(metric: Metric) -> dict[str, Any]:
    return {**asdict(metric), "duration": metric.duration}
