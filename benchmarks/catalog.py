"""A catalog of many snapshots: opening it, asking it, committing to it.

It is built by the public API, of small dictionaries with metadata and tags. What a commit is measured against is the
same commit into an empty repository.
"""

from __future__ import annotations

import gc
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from _measure import MB, NOTHING_WRITTEN, OURS, POWER_LOSS, Report, arguments, evict, in_turns, memory, scratch, seconds

from prefect_snapshots import ByMetadata, ByTag, ByTimeRange, SnapshotManager

PACKAGES = ("blake3", "msgspec", "numpy")
EMPTY = "prefect-snapshots, an empty one"

Manager = SnapshotManager[dict[str, Any]]

TAGGED_EVERY = 100
EPOCH = 100
"""Snapshots that share a value of the metadata."""
COMMITS = 200
"""In one turn."""
QUERIES = 20
"""How often each query is asked by one process."""


def save(manager: Manager, number: int) -> None:
    """Save one snapshot, as a training step would."""
    loss = 1 / (number + 1)
    manager.save_snapshot(
        {"step": number, "loss": loss},
        f"step-{number}",
        metadata={"loss": loss, "epoch": number // EPOCH, "optimizer": {"name": "adam", "rate": 0.001}},
        tags=["train", "checked"] if number % TAGGED_EVERY == 0 else ["train"],
    )


def build(place: Path, count: int) -> float:
    """A catalog of `count` snapshots. Returns how many a second were saved."""
    manager: Manager = SnapshotManager(place)

    def work() -> None:
        for number in range(count):
            save(manager, number)

    return count / seconds(work)


@dataclass(frozen=True)
class Middle:
    """An epoch to ask for, from the middle of the catalog."""

    count: int
    """Snapshots in the whole catalog."""
    epoch: int
    start: datetime
    end: datetime
    """When its first and its last snapshot were saved."""

    @property
    def queries(self) -> dict[str, Callable[[Manager], list[str]]]:
        """What is asked."""
        tag, metadata, span = ByTag("checked"), ByMetadata("epoch", self.epoch), ByTimeRange(self.start, self.end)
        return {
            "by tag": lambda manager: manager.query.evaluate(tag),
            "by metadata": lambda manager: manager.query.evaluate(metadata),
            "by time": lambda manager: manager.query.evaluate(span),
            "by all of them": lambda manager: manager.query.evaluate(tag & metadata & span),
        }


@dataclass(frozen=True)
class Opened:
    """What a fresh process measured."""

    started: float
    """Seconds from its start until all snapshots were known."""
    opening: float
    """Seconds of that after Python had started and everything was imported."""
    held: float
    """Bytes that it then held more than before opening."""
    answers: dict[str, list[float]]
    """Seconds that each query took, one after the other."""


def open_and_ask(place: Path, middle: Middle, start: float) -> Opened:
    """Runs in a fresh process, which was started at `start`."""
    gc.collect()
    before = memory("VmRSS")
    begin = time.perf_counter()
    manager: Manager = SnapshotManager(place)
    known = len(manager)
    opening, started = time.perf_counter() - begin, time.time() - start
    held = memory("VmRSS") - before
    if known != middle.count:
        raise AssertionError(f"the catalog has {known} snapshots, not {middle.count}")
    answers: dict[str, list[float]] = {}
    for name, query in middle.queries.items():
        answers[name] = [seconds(partial(query, manager)) for _ in range(QUERIES)]
        if not query(manager):
            raise AssertionError(f"the query {name} found nothing")
    return Opened(started, opening, held, answers)


def open_cold(place: Path, middle: Middle) -> Opened:
    """Open the catalog in a fresh process, its files not in the page cache."""
    evict(place)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
        return processes.submit(open_and_ask, place, middle, time.time()).result()


def measure_open(place: Path, count: int, report: Report) -> None:
    manager: Manager = SnapshotManager(place)
    epoch = count // 2 // EPOCH
    first, last = (manager.get_snapshot(f"step-{epoch * EPOCH + at}").timestamp for at in (0, EPOCH - 1))
    middle = Middle(count, epoch, first, last)
    del manager
    found = [open_cold(place, middle) for _ in range(report.options.repeat)]
    started = [one.started for one in found]
    median = report.add("open: from the start of the process", OURS, started, "s", NOTHING_WRITTEN)
    report.add("open: without starting Python", OURS, [one.opening for one in found], "s", NOTHING_WRITTEN)
    report.add("memory of the open catalog", OURS, [one.held / MB for one in found], "MB", NOTHING_WRITTEN)
    report.at_most("open: from the start of the process", median, 2.0, "s")
    for name in middle.queries:
        taken = [1000 * each for one in found for each in one.answers[name]]
        median = report.add(f"query {name}", OURS, taken, "ms", NOTHING_WRITTEN)
        report.at_most(f"query {name}", median, 50, "ms")


def measure_commit(place: Path, count: int, report: Report) -> None:
    full: Manager = SnapshotManager(place)
    numbers = iter(range(count, sys.maxsize))

    def commits(manager: Manager) -> float:
        """The median of one turn, in milliseconds."""
        return 1000 * statistics.median(seconds(partial(save, manager, next(numbers))) for _ in range(COMMITS))

    def commits_to_empty() -> float:
        with scratch(place.parent) as folder:
            manager: Manager = SnapshotManager(folder)
            save(manager, 0)
            return commits(manager)

    turns: dict[str, Callable[[], float]] = {OURS: partial(commits, full), EMPTY: commits_to_empty}
    found = in_turns(turns, report.options.repeat)
    median = {name: report.add("commit", name, values, "ms", POWER_LOSS) for name, values in found.items()}
    # It has to be as fast; the tenth is for noise.
    report.at_most("commit: time / time in an empty one", median[OURS] / median[EMPTY], 1.1, "x")


def main() -> int:
    parser = arguments(__doc__, repeat=5)
    parser.add_argument("--count", type=int, default=100_000, help="snapshots in the catalog, at least 200")
    options = parser.parse_args()
    with scratch(options.directory) as folder:
        report = Report("catalog", options, PACKAGES, folder)
        place = folder / "full"
        rate = build(place, options.count)
        report.add(f"building a catalog of {options.count:,} snapshots", OURS, [rate], "/s", POWER_LOSS)
        measure_open(place, options.count, report)
        measure_commit(place, options.count, report)
        return report.finish()


if __name__ == "__main__":
    sys.exit(main())
