"""The metrics of a run: of each item, and as a report for people and programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..documents import Block, Chart, Column, Document, Facts, Heading, Note, Table, markdown
from ..errors import InvalidArgument
from .batches import DONE
from .counts import RunCounts
from .frozen import Failure
from .keys import Keys
from .ledger import MISSING, outcomes_of, segments_of
from .log import Log
from .planning import JobPlan
from .slow import LEAST

_SLOW, _TIMES = 3.0, 2.0
"""An item is slow if it is this many standard deviations above the mean (1 in 740 of a normal distribution), and takes
this many times the median: where all items take nearly the same time, the slowest of them are noise."""
_SHOWN = 20
"""How many slow items a report lists: enough to see a pattern, and the page stays readable."""
_WIDEST = 48
"""Characters of an input in a table: with more, its column covers what is beside it."""
_LISTED = 10
"""The most rows of a table for people: as many as fit on a screen."""
_PARTS = 40
"""The number of bars in the chart: as many as can be distinguished at its width."""


@dataclass(frozen=True, slots=True)
class Metric:
    """The metrics of one item: its position in that run, times in seconds since 1970, and its outcome.

    `item` is the beginning of the `repr` of a failed or slow item, and `error` is `Type: message`.
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
        inputs: The beginning of the `repr` of slow items, by row.
        now: Which items were computed for the plan that you asked for, shape (n,).
    """

    positions: NDArray[np.int64]
    starts: NDArray[np.float64]
    ends: NDArray[np.float64]
    failures: dict[int, Failure]
    inputs: dict[int, str]
    now: NDArray[np.bool_]

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
            self.inputs.get(at) if failure is None else failure.item,
        )

    def only_now(self) -> Metrics:
        """Return the metrics of the items that were computed for the plan."""
        rows = np.flatnonzero(self.now)
        new = {old: at for at, old in enumerate(rows.tolist())} if self.failures or self.inputs else {}
        failures = {new[row]: why for row, why in self.failures.items() if row in new}
        inputs = {new[row]: text for row, text in self.inputs.items() if row in new}
        return Metrics(self.positions[rows], self.starts[rows], self.ends[rows], failures, inputs, self.now[rows])


def load_metrics(log: Log, plan: str = "") -> Metrics:
    """Return the metrics of all items in a log.

    Args:
        log: The log.
        plan: The id of a `JobPlan`. `Metrics.now` says which items were computed for it.
    """
    inputs = log.slow.inputs()
    heads = log.slow.heads()
    columns: list[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]] = []
    failed: dict[bytes, tuple[tuple[int, float, float, bool], Failure]] = {}
    slow: dict[int, str] = {}
    rows_before = 0
    for batch, places in log.batches():
        found = log.find(batch.keys)
        counts = (batch.outcomes == DONE) & (found == places)
        mine = bool(plan and len(places)) and log.known[int(segments_of(places[:1])[0])].start.plan == plan
        now = np.full(int(counts.sum()), mine)
        columns.append((batch.positions[counts], batch.starts[counts], batch.ends[counts], now))
        if len(heads):
            keys = batch.keys[counts]
            for row in np.flatnonzero(np.isin(keys[:, 0], heads)).tolist():
                if (key := keys[row].tobytes()) in inputs:
                    slow[rows_before + row] = inputs[key]
        rows_before += len(now)
        unsettled = (batch.outcomes != DONE) & ((found == MISSING) | (outcomes_of(found) != DONE))
        if unsettled.any():
            values = batch.values(allow_pickle=False)
            for row in np.flatnonzero(unsettled).tolist():
                when = int(batch.positions[row]), float(batch.starts[row]), float(batch.ends[row]), mine
                failed[batch.keys[row].tobytes()] = when, values[row]
    times = [one for one, _ in failed.values()]
    parts = [np.array([one[at] for one in times], kind) for at, kind in enumerate((np.int64, float, float, bool))]
    positions, starts, ends, now = (
        np.concatenate([*(column[at] for column in columns), part]) for at, part in enumerate(parts)
    )
    order = np.lexsort((starts, positions))
    done = len(positions) - len(failed)
    rows = np.flatnonzero(order >= done).tolist()
    reasons = [reason for _, reason in failed.values()]
    failures = {row: reasons[order[row] - done] for row in rows}
    slow_rows = np.flatnonzero(np.isin(order, list(slow))).tolist() if slow else []
    texts = {row: slow[int(order[row])] for row in slow_rows}
    return Metrics(positions[order], starts[order], ends[order], failures, texts, now[order])


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
    working = float(_working_time(metrics, metrics.ends.max(initial=0.0))) if count else 0.0
    mean, median = (float(durations.mean()), float(np.median(durations))) if count else (None, 0.0)
    least = max((mean or 0.0) + _SLOW * float(durations.std()), _TIMES * median, LEAST) if count else 0.0
    slow = np.flatnonzero(durations - _start_up(metrics, durations) > least)
    slowest = slow[np.argsort(-durations[slow], kind="stable")][:_SHOWN]
    return {
        "name": name,
        "total_items": count,
        "successful_items": count - len(metrics.failures),
        "failed_count": len(metrics.failures),
        "total_elapsed": elapsed,
        "working_time": working,
        "items_per_second": count / working if working else None,
        "avg_duration": mean,
        "median_duration": median if count else None,
        "p95_duration": float(np.quantile(durations, 0.95)) if count else None,
        "max_duration": float(durations.max()) if count else None,
        "slow_outliers": [_row(metrics.row(at)) for at in slowest.tolist()],
        "slow_count": len(slow),
        "failed_items": [_row(metrics.row(at)) for at in list(metrics.failures)[:1000]],
    }


def _start_up(metrics: Metrics, durations: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the seconds of each item that are not its own: what the first item of a batch usually takes longer."""
    apart = metrics.starts[1:] != metrics.ends[:-1]  # in a batch, an item starts when the one before it ends
    alone = np.array([True])
    first = np.concatenate([alone, apart]) & ~np.concatenate([apart, alone]) if len(durations) else np.zeros(0, bool)
    if first.all() or not first.any():
        return np.zeros_like(durations)
    return np.where(first, max(0.0, float(np.median(durations[first]) - np.median(durations))), 0.0)


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
    """Return a report on all items of a name as a document."""
    return Document(_title(name), (*_history(name, metrics), *_details(name, metrics)))


def describe_run(log: Log, name: str, plan: JobPlan, counts: RunCounts, seconds: float) -> Document:
    """Return a report on one run, followed by the figures of all runs of its name.

    Args:
        log: The log of the job.
        name: The name of the checkpoints.
        plan: The plan of the run.
        counts: The counts of its items.
        seconds: How long it took.
    """
    metrics = load_metrics(log, plan.id)
    failures = failures_of(log, plan.keys) if counts.missing else {}
    failed = [{"index": at, "item": why.item, "error": str(why)} for at, why in sorted(failures.items())]
    blocks = (*_this_run(counts, seconds), *_details(name, metrics.only_now(), failed))
    return Document(_title(name), (*blocks, Heading(f"All runs of {name}"), *_history(name, metrics)))


def _title(name: str) -> str:
    return f"Checkpoints of {name}"


def _this_run(counts: RunCounts, seconds: float) -> Iterator[Block]:
    # Zero is worth a line for these two: a reader looks for them.
    always = {"done now": counts.done, "failed now": counts.failed}
    others = {
        "done before": counts.done_before,
        "failed before and not retried": counts.failed_before,
        "identical to another one": counts.repeated,
        "not reached": counts.skipped,
        "without a result": counts.missing,
    }
    yield Facts(
        {
            "items in this run": (counts.total, "number"),
            **{word: (number, "number") for word, number in always.items()},
            **{word: (number or None, "number") for word, number in others.items()},
            "duration": (seconds, "seconds"),
            "throughput": (counts.worked / seconds if counts.worked and seconds else None, "rate"),
        }
    )


def _history(name: str, metrics: Metrics) -> Iterator[Block]:
    """Say what there is under the name, whichever run computed it."""
    if not len(metrics):
        yield Note("No items were processed.")
        return
    report = summarise(name, metrics)
    yield Facts(
        {
            "items": (report["total_items"], "number"),
            "succeeded": (report["successful_items"], "number"),
            "failed": (report["failed_count"], "number"),
            "working time": (report["working_time"], "seconds"),
            "throughput": (report["items_per_second"], "rate"),
            "mean per item": (report["avg_duration"], "seconds"),
            "median per item": (report["median_duration"], "seconds"),
            "p95 per item": (report["p95_duration"], "seconds"),
            "slowest item": (report["max_duration"], "seconds"),
        }
    )


def _details(name: str, metrics: Metrics, failed: list[dict[str, Any]] | None = None) -> Iterator[Block]:
    """Show the throughput, the slow items and the failed ones. Default of `failed`: those in the metrics."""
    report = summarise(name, metrics)
    count = report["failed_count"] if failed is None else len(failed)
    yield from _throughput(metrics)
    yield Table(
        "Slow items",
        (Column("item"), Column("input"), Column("duration", "seconds")),
        tuple((row["index"], _brief(row["item"]), row["duration"]) for row in report["slow_outliers"][:_LISTED]),
        report["slow_count"],
    )
    yield Table(
        "Failed items",
        (Column("item"), Column("input"), Column("error")),
        tuple(
            (row["index"], _brief(row["item"]), row["error"])
            for row in (report["failed_items"] if failed is None else failed)[:_LISTED]
        ),
        count,
    )


def _throughput(metrics: Metrics) -> Iterator[Chart]:
    """Chart the throughput in parts with equal numbers of items, so that a pause affects only one part."""
    count = len(metrics)
    parts = min(_PARTS, count // 2)
    if parts < 2:
        return
    order = np.argsort(metrics.ends, kind="stable")
    bounds = np.linspace(0, count, parts + 1).astype(int)
    failed = np.zeros(count)
    failed[list(metrics.failures)] = 1
    worked = _working_time(metrics, metrics.ends[order][bounds[1:] - 1])
    seconds = np.maximum(np.diff(worked, prepend=0.0), 1e-9)
    bad = np.add.reduceat(failed[order], bounds[:-1]) / seconds
    labels = tuple(f"item {end:,}" for end in bounds[1:].tolist())
    rates = tuple((np.diff(bounds) / seconds).tolist())
    yield Chart("Throughput while the function is computing", "bars", "rate", rates, labels, failed=tuple(bad.tolist()))


def _working_time(metrics: Metrics, until: Any) -> Any:
    """Return the seconds, until some moments at which an item ended, in which at least one process was computing.

    The time between two runs does not count, or the throughput would say nothing about the function.
    """
    order = np.argsort(metrics.starts, kind="stable")
    starts, ends = metrics.starts[order], np.maximum.accumulate(metrics.ends[order])
    idle = np.maximum(starts[1:] - ends[:-1], 0.0).cumsum()
    before = np.searchsorted(starts[1:], until, side="left")
    return until - starts[0] - np.concatenate(([0.0], idle))[before]


def _row(metric: Metric) -> dict[str, Any]:
    return {**asdict(metric), "duration": metric.duration}


def _brief(text: str | None) -> str | None:
    """Shorten an input in the middle: a page of Prefect breaks no words, and the ends of paths tell them apart."""
    if text is None or len(text) <= _WIDEST:
        return text
    return f"{text[: _WIDEST // 3]}…{text[-(2 * _WIDEST // 3) :]}"
