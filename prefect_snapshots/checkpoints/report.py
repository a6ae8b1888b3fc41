"""What a run did, item by item, and summed up for people and programs."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidArgument
from .keys import Keys
from .ledger import MISSING, outcomes_of
from .log import Log
from .results import DONE, Failure

_SLOW = 3.0
"""Standard deviations above the mean from which an item counts as slow."""
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Metric:
    """One item: its position when it was worked on, times in seconds since 1970, and how it went.

    `item` is known of failed ones only, as the beginning of its `repr`; `error` is `Type: message`.
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
    """All items that were worked on, each by the attempt that counts, in the order of their positions.

    Attributes:
        positions: shape (n,).
        starts, ends: seconds since 1970, shape (n,).
        failures: why items have no result, by row.
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
    """What a log says of its items."""
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
    """Why items have no result, by their position among the keys."""
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
    """The figures of a report."""
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
    """A report as text.

    Raises:
        InvalidArgument: there is no such form.
    """
    if form not in ("markdown", "json"):
        raise InvalidArgument(f'Unsupported report format {form!r}: there are "markdown" and "json"')
    report = summarise(name, metrics)
    return json.dumps(report, indent=2, ensure_ascii=False) if form == "json" else _markdown(report)


def _row(metric: Metric) -> dict[str, Any]:
    return {**asdict(metric), "duration": metric.duration}


def _markdown(report: dict[str, Any]) -> str:
    lines = [f"# Processing report: {_cell(report['name'])}", ""]
    if not report["total_items"]:
        return "\n".join([*lines, "No items were processed.", ""])
    rate = report["items_per_second"]
    lines += [
        "## Summary",
        "",
        "| | |",
        "|---|---|",
        f"| items | {report['total_items']:,} |",
        f"| succeeded | {report['successful_items']:,} |",
        f"| failed | {report['failed_count']:,} |",
        f"| from first to last | {_seconds(report['total_elapsed'])} |",
        f"| items a second | {'-' if rate is None else f'{rate:,.1f}'} |",
        f"| an item: mean, median, 95 %, slowest | {', '.join(_seconds(report[key]) for key in _DURATIONS)} |",
        "",
    ]
    if report["slow_outliers"]:
        lines += [f"## Slow items ({report['slow_count']:,})", "", "| item | seconds |", "|---|---|"]
        lines += [f"| {row['index']:,} | {row['duration']:,.3f} |" for row in report["slow_outliers"]]
        lines.append("")
    if report["failed_items"]:
        lines += [f"## Failed items ({report['failed_count']:,})", "", "| item | input | error |", "|---|---|---|"]
        lines += [
            f"| {row['index']:,} | {_cell(row['item'])} | {_cell(row['error'])} |"
            for row in report["failed_items"][:_SHOWN]
        ]
        if report["failed_count"] > _SHOWN:
            lines.append(f"| ... | | {report['failed_count'] - _SHOWN:,} more |")
        lines.append("")
    return "\n".join(lines)


_DURATIONS = ("avg_duration", "median_duration", "p95_duration", "max_duration")
_UNITS = ((1.0, "s", 1.0), (1e-3, "ms", 1e3), (1e-6, "µs", 1e6))


def _seconds(value: float) -> str:
    for least, unit, factor in _UNITS:
        if abs(value) >= least:
            return f"{value * factor:,.3g} {unit}" if value < 1000 else f"{value:,.0f} s"
    return f"{math.ceil(value * 1e9)} ns" if value > 0 else "0 s"


def _cell(text: str | None) -> str:
    """Text in a cell of a table, where it cannot break out."""
    text = " ".join((text or "").split())
    for char in "\\`|<>*_[]":
        text = text.replace(char, f"\\{char}")
    return text
