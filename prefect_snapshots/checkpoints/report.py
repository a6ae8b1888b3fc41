"""What a run did, item by item, and summed up for people and programs."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

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


def load_metrics(log: Log) -> list[Metric]:
    """One metric for each item that was worked on, in the order of their positions: of the attempt that counts."""
    metrics: list[Metric] = []
    stopped: dict[bytes, Metric] = {}
    for batch, places in log.batches():
        found = log.find(batch.keys)
        columns = zip(
            batch.positions.tolist(), batch.starts.tolist(), batch.ends.tolist(), batch.outcomes.tolist(), strict=True
        )
        counts = (found == places).tolist()
        unsettled = ((found == MISSING) | (outcomes_of(found) != DONE)).tolist()
        values = batch.values(allow_pickle=False) if any(batch.outcomes.tolist()) else None
        for row, (position, start, end, outcome) in enumerate(columns):
            if outcome == DONE:
                if counts[row]:
                    metrics.append(Metric(position, start, end, True))
            elif unsettled[row] and values is not None:
                failure: Failure = values[row]
                stopped[batch.keys[row].tobytes()] = Metric(position, start, end, False, str(failure), failure.item)
    return sorted([*metrics, *stopped.values()], key=lambda metric: (metric.index, metric.start_time))


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


def summarise(name: str, metrics: Sequence[Metric]) -> dict[str, Any]:
    """The figures of a report."""
    durations = [metric.duration for metric in metrics]
    elapsed = max(m.end_time for m in metrics) - min(m.start_time for m in metrics) if metrics else 0.0
    failed = [metric for metric in metrics if not metric.success]
    mean = statistics.fmean(durations) if durations else None
    spread = float(np.std(durations)) if durations else 0.0
    slow = [metric for metric in metrics if mean is not None and metric.duration > mean + _SLOW * spread]
    slow.sort(key=lambda metric: -metric.duration)
    return {
        "name": name,
        "total_items": len(metrics),
        "successful_items": len(metrics) - len(failed),
        "failed_count": len(failed),
        "total_elapsed": elapsed,
        "items_per_second": len(metrics) / elapsed if elapsed else None,
        "avg_duration": mean,
        "median_duration": statistics.median(durations) if durations else None,
        "p95_duration": float(np.quantile(durations, 0.95)) if durations else None,
        "max_duration": max(durations, default=None),
        "slow_outliers": [_row(metric) for metric in slow[:_SHOWN]],
        "slow_count": len(slow),
        "failed_items": [_row(metric) for metric in failed[:1000]],
    }


def render(name: str, metrics: Sequence[Metric], form: Literal["markdown", "json"]) -> str:
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
