"""Requests that S3 gets, counted by a proxy before it: of a small save, of opening a large catalog, of many writers.

The servers are those of the tests. One lists 20 objects a page, where S3 lists 1,000: the count may be higher than on
S3, and is never lower.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from _measure import NOTHING_WRITTEN, OURS, POWER_LOSS, ROOT, Report, arguments, scratch

sys.path.insert(0, str(ROOT / "tests"))

import catalog
import servers

from prefect_snapshots import Repository, SnapshotManager

PACKAGES = ("s3fs", "aiobotocore", "moto")

SIZES = {"3 KB": 3_000, "100 KB": 100_000}
"""Of small saves: one travels inside the event, one does not."""
VERBS = ("PUT", "GET", "LIST")
"""Those with limits; others are reported when they occur."""

_processes = multiprocessing.get_context("spawn")


def manager_at(endpoint: str, place: str) -> SnapshotManager[Any]:
    """A manager of a repository behind a proxy."""
    url = f"s3://{servers.BUCKET}/{place}"
    return SnapshotManager(Repository(url, storage_options=servers.s3_options(endpoint)))


def counted(proxy: servers.Proxy, work: Callable[[], object]) -> Counter[str]:
    """The requests that came in meanwhile."""
    before = Counter(proxy.requests)
    work()
    return Counter(proxy.requests) - before


def add(report: Report, what: str, counts: list[Counter[str]], survives: str) -> None:
    """Enter a figure for each verb."""
    for verb in dict.fromkeys((*VERBS, *(verb for count in counts for verb in count))):
        report.add(f"{what}: {verb}", OURS, [count[verb] for count in counts], "requests", survives)


def measure_save(proxy: servers.Proxy, report: Report) -> None:
    """Small saves, once the manager is warm."""
    manager = manager_at(proxy.endpoint, "saves")
    for size in SIZES.values():
        manager.save_snapshot(os.urandom(size))
    for name, size in SIZES.items():

        def save(size: int = size) -> None:
            manager.save_snapshot(os.urandom(size))

        what = f"save of {name}"
        counts = [counted(proxy, save) for _ in range(report.options.saves)]
        add(report, what, counts, POWER_LOSS)
        for verb, bound in {"PUT": 3, "GET": 0}.items():
            # Now and then a save also writes summaries, for those who open the repository later: see the mean.
            each = [count[verb] for count in counts]
            report.at_most(f"{what}: {verb}, median", statistics.median(each), bound, "requests")
            report.at_most(f"{what}: {verb}, mean", statistics.mean(each), bound, "requests")
        report.at_most(f"{what}: LIST, highest", max(count["LIST"] for count in counts), 0, "requests")


def measure_writers(proxy: servers.Proxy, report: Report) -> None:
    """Many processes that commit to one name at once."""
    writers, commits = report.options.writers, report.options.commits
    manager = manager_at(proxy.endpoint, "writers")
    manager.save_snapshot(0)
    barrier = _processes.Barrier(writers + 1)
    processes = [_processes.Process(target=_write, args=(proxy.endpoint, commits, barrier)) for _ in range(writers)]
    for process in processes:
        process.start()

    def work() -> None:
        barrier.wait()
        for process in processes:
            process.join()

    counts = counted(proxy, work)
    total = writers * commits
    if len(manager) != total + 1:
        raise AssertionError(f"there are {len(manager)} snapshots, not {total + 1}")
    what = f"commit, {writers} writers on one name"
    for verb in dict.fromkeys((*VERBS, *counts)):
        report.add(f"{what}, mean: {verb}", OURS, [counts[verb] / total], "requests", POWER_LOSS)
    report.at_most(f"{what}, mean: PUT", counts["PUT"] / total, 6, "requests")


def measure_open(folder: Path, report: Report) -> None:
    """A large catalog, opened by a fresh process.

    It is built on the disk, which takes a minute instead of ten, and served from there. The last commits go over S3,
    and it is opened after each of them, because how far the head is from the last summary differs.
    """
    count = report.options.count
    with servers.rclone(folder) as upstream, servers.dropping_proxy(upstream) as proxy:
        catalog.build(folder / servers.BUCKET / "catalog", count)
        manager = manager_at(proxy.endpoint, "catalog")
        numbers = range(count, count + _SUMMARY + report.options.repeat)
        for number in numbers[:_SUMMARY]:
            catalog.save(manager, number)
        counts = []
        for number in numbers[_SUMMARY:]:
            catalog.save(manager, number)
            counts.append(counted(proxy, partial(_open, proxy.endpoint, number + 1)))
    what = f"open {count:,} snapshots"
    add(report, what, counts, NOTHING_WRITTEN)
    report.at_most(f"{what}: all requests, highest", max(map(Counter.total, counts)), 20, "requests")


_SUMMARY = 8
"""Commits until there is a summary of where the head is, as there always is on S3."""


def _open(endpoint: str, expected: int) -> None:
    with ProcessPoolExecutor(1, _processes) as processes:
        known = processes.submit(_count, endpoint).result()
    if known != expected:
        raise AssertionError(f"the catalog has {known} snapshots, not {expected}")


def _count(endpoint: str) -> int:
    return len(manager_at(endpoint, "catalog"))


def _write(endpoint: str, commits: int, barrier: Barrier) -> None:
    manager = manager_at(endpoint, "writers")
    barrier.wait()
    for number in range(commits):
        manager.save_snapshot(number)


def main() -> int:
    parser = arguments(__doc__, repeat=8)
    parser.add_argument("--saves", type=int, default=128, help="small saves of each size")
    parser.add_argument("--writers", type=int, default=16, help="processes that commit to one name")
    parser.add_argument("--commits", type=int, default=50, help="commits of each of them")
    parser.add_argument("--count", type=int, default=100_000, help="snapshots in the catalog that is opened")
    options = parser.parse_args()
    with scratch(options.directory) as folder:
        report = Report("requests on S3", options, PACKAGES, folder)
        with servers.moto() as upstream, servers.dropping_proxy(upstream) as proxy:
            measure_save(proxy, report)
            measure_writers(proxy, report)
        measure_open(folder, report)
        return report.finish()


if __name__ == "__main__":
    sys.exit(main())
