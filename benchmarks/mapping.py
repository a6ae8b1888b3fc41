"""Items mapped inside a Prefect flow: `@checkpointed` beside Prefect's own `.map`, and two Dask workers beside one.

Prefect's tasks are cached by their inputs, and their results persisted, so that both can resume. The function doubles a
number; on Dask it computes for some milliseconds. The clock runs inside the flow: starting it, its server and the
workers is not counted.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _measure import NOTHING_WRITTEN, OURS, PROCESS_KILL, Report, arguments, in_turns, scratch, seconds
from prefect import flow, task
from prefect.cache_policies import INPUTS
from prefect.settings import PREFECT_LOGGING_LEVEL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings
from prefect.testing.utilities import prefect_test_harness
from prefect_dask.task_runners import DaskTaskRunner

from prefect_snapshots import checkpointed

PACKAGES = ("prefect", "prefect-dask", "distributed")
PREFECT = "Prefect .map"
BATCH = 1000


def within_flow(work: Callable[[], Any], runner: Any = None) -> float:
    """Seconds that some work takes inside a flow."""

    @flow(task_runner=runner)
    def measured() -> float:
        return seconds(work)

    return measured()


def ours(place: Path, count: int) -> tuple[float, float]:
    """Items a second, first and all done."""

    @checkpointed(repository=place / "repository", batch_size=BATCH)
    def double(x: int) -> int:
        return 2 * x

    def work() -> None:
        assert double.map(range(count)).result()[-1] == 2 * (count - 1)

    return count / within_flow(work), count / within_flow(work)


def prefects(place: Path, count: int) -> tuple[float, float]:
    """Likewise, of Prefect's own tasks."""

    @task(cache_policy=INPUTS, persist_result=True)
    def double(x: int, place: str) -> int:
        return 2 * x

    def work() -> None:
        assert double.map(range(count), str(place)).result()[-1] == 2 * (count - 1)

    return count / within_flow(work), count / within_flow(work)


def measure_flows(folder: Path, report: Report) -> None:
    options = report.options

    def turn(run: Callable[[Path, int], tuple[float, float]], count: int) -> tuple[float, float]:
        with scratch(folder) as place:
            return run(place, count)

    turns = {OURS: lambda: turn(ours, options.count), PREFECT: lambda: turn(prefects, options.tasks)}
    found = in_turns(turns, options.repeat)
    for at, stage in enumerate(("first run", "cached rerun")):
        survives = NOTHING_WRITTEN if at else PROCESS_KILL
        medians = {
            name: report.add(f"items in a flow: {stage}", name, [one[at] for one in values], "items/s", survives)
            for name, values in found.items()
        }
        report.at_least(f"items in a flow: {stage}: ours / {PREFECT}", medians[OURS] / medians[PREFECT], 20, "x")


def on_dask(folder: Path, workers: int, items: int, loops: int) -> float:
    """Items a second, of workers that have started."""
    with scratch(folder) as place:

        @checkpointed(repository=place / "repository", batch_size=max(items // 20, 1))
        def compute(x: int) -> int:
            total = 0
            for number in range(loops):
                total += number * x % 7
            return total

        took: list[float] = []

        def work() -> None:
            compute.map(range(-2 * workers, 0)).result()
            took.append(seconds(lambda: compute.map(range(items)).result()))

        cluster = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None, "silence_logs": 50}
        within_flow(work, DaskTaskRunner(cluster_kwargs=cluster))
        return items / took[0]


def measure_dask(folder: Path, report: Report) -> None:
    options = report.options
    turns = {
        f"{workers} worker{'s' * (workers > 1)}": lambda workers=workers: on_dask(
            folder, workers, options.items, options.loops
        )
        for workers in (1, 2)
    }
    found = in_turns(turns, options.repeat)
    what = f"items of {options.loops:,} loops on Dask"
    medians = [report.add(what, f"{OURS}, {name}", values, "items/s", PROCESS_KILL) for name, values in found.items()]
    report.at_least(f"{what}: 2 workers / 1 worker", medians[1] / medians[0], 1.7, "x")


def main() -> int:
    parser = arguments(__doc__, repeat=3)
    parser.add_argument("--count", type=int, default=20_000, help="items of ours")
    parser.add_argument("--tasks", type=int, default=300, help="items of Prefect's, which takes minutes for all")
    parser.add_argument("--items", type=int, default=400, help="items on Dask")
    parser.add_argument("--loops", type=int, default=1_000_000, help="of each item on Dask")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    quiet = {PREFECT_LOGGING_LEVEL: "ERROR", PREFECT_LOGGING_TO_API_ENABLED: False}
    with (
        scratch(options.directory) as folder,
        temporary_settings(quiet),
        prefect_test_harness(server_startup_timeout=120),
    ):
        report = Report("mapping", options, PACKAGES, folder)
        measure_flows(folder, report)
        measure_dask(folder, report)
        return report.finish()


if __name__ == "__main__":
    sys.exit(main())
