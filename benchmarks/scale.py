"""How the cost of opening, asking, committing, checking and pruning grows with what a repository contains.

A repository with each kind of content grows to several sizes, each twice as large as the one before. Every operation
runs in a fresh process, which measures its own CPU time and memory: what other programs do at the same time hardly
changes these. The chunks of the index are made up: their entries are stored, but no data.
"""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from _measure import MB, NOTHING_WRITTEN, OURS, Report, arguments, forget_peak, memory, scratch

from prefect_snapshots import ArtifactRegistry, BackupManager, ByTag, Repository, Snapper, SnapshotManager
from prefect_snapshots.repository.index import RECORD

PACKAGES = ("blake3", "msgspec", "numpy")
DOUBLINGS = 2
"""How often each size is doubled."""
NAMES = 1_000
"""Snapshots share this many names."""
WRITERS = 4
"""Processes that save them at the same time."""
BATCH = 1_000
"""Items that are stored together."""
PACK = 500
"""Made-up chunks in a pack."""
CHUNK = 65_536
"""Bytes of a made-up chunk: that of a file. Then 1 TB is 15 million chunks."""
ENTRIES = 500_000
"""Made-up chunks in an object of the index."""
MOST_OF_CHUNK = 60
"""Bytes that a chunk of the index takes at most, while its objects are read and sorted. Afterwards it takes 48."""
MOST = 2.5
"""How much CPU time may grow if the size doubles. Twice is linear; the rest is for noise."""

Operation = Callable[[Path, int], object]


def doubled(number: int) -> int:
    return 2 * number


# --- contents ---------------------------------------------------------------------------------------------------------


def save_snapshots(place: Path, names: range, start: int, stop: int) -> None:
    repository = Repository(place)
    for name in names:
        manager: SnapshotManager[Any] = SnapshotManager(repository, name=f"run-{name}")
        for number in range(start, stop):
            tags = ["rare"] if number % 100 == 0 else []
            manager.save_snapshot({"step": number}, f"step-{number}", metadata={"loss": 1 / (number + 1)}, tags=tags)


def make_snapshots(place: Path, start: int, stop: int) -> None:
    Repository(place)
    with ProcessPoolExecutor(WRITERS, multiprocessing.get_context("spawn")) as writers:
        parts = [range(first, NAMES, WRITERS) for first in range(WRITERS)]
        work = [writers.submit(save_snapshots, place, names, start // NAMES, stop // NAMES) for names in parts]
    for part in work:
        part.result()


def make_items(place: Path, _: int, stop: int) -> None:
    job(place, stop).start()


def job(place: Path, count: int) -> Snapper[int, int]:
    return Snapper(range(count), doubled, repository=place, name="job", function_version="1", batch_size=BATCH)


def make_versions(place: Path, start: int, stop: int) -> None:
    registry = ArtifactRegistry(Repository(place))
    for number in range(start, stop):
        registry.log_artifact("table", number, "json")


def make_files(place: Path, start: int, stop: int) -> None:
    folder = files_of(place)
    for number in range(start, stop):
        part = folder / f"{number // 1000}"
        part.mkdir(parents=True, exist_ok=True)
        (part / f"{number}").write_bytes(b"%d" % number)
    backups_of(place).create_backup("first")


def make_chunks(place: Path, first: int, stop: int) -> None:
    index = Repository(place).parts(writing=True).index
    for start in range(first, stop, ENTRIES):
        size = min(ENTRIES, stop - start)
        records = np.zeros(size, RECORD)
        records["chunk"] = np.frombuffer(os.urandom(32 * size), "V32")
        records["pack"], records["offset"] = np.divmod(np.arange(size), PACK)
        records["offset"] *= 4_000
        records["stored"], records["size"] = 4_000, CHUNK
        packs = [os.urandom(16) for _ in range(0, size, PACK)]
        index._write(0, packs, [], records.tobytes())


def files_of(place: Path) -> Path:
    return place.with_name(f"{place.name}-backed-up") / "files"


def backups_of(place: Path) -> BackupManager:
    return BackupManager(Repository(place), name="files", directories=[files_of(place)])


# --- operations, each in a fresh process ------------------------------------------------------------------------------


def open_snapshots(place: Path, _: int) -> object:
    repository = Repository(place)
    return [len(SnapshotManager(repository, name=f"run-{name}")) for name in range(NAMES)]


def ask_snapshots(place: Path, _: int) -> object:
    repository = Repository(place)
    managers: list[SnapshotManager[Any]] = [SnapshotManager(repository, name=f"run-{name}") for name in range(NAMES)]
    return [manager.query.evaluate(ByTag("rare")) for manager in managers]


def save_one(place: Path, _: int) -> object:
    return SnapshotManager(Repository(place), name="run-0").save_snapshot({"step": -1})


def load_items(place: Path, count: int) -> object:
    return job(place, count).load()


def list_versions(place: Path, _: int) -> object:
    return ArtifactRegistry(Repository(place)).list_versions("table")


def log_one(place: Path, count: int) -> object:
    return ArtifactRegistry(Repository(place)).log_artifact("table", -count, "json")


def back_up_again(place: Path, _: int) -> object:
    return backups_of(place).create_backup()


def list_files(place: Path, _: int) -> object:
    return list(backups_of(place).list_files("latest", "files"))


def load_index(place: Path, count: int) -> object:
    index = Repository(place).parts().index
    index.load()
    if len(index) != count:
        raise AssertionError(f"the index has {len(index)} chunks, not {count}")
    return index


def check(place: Path, _: int) -> object:
    report = Repository(place).check()
    if not report.ok:
        raise AssertionError(report.problems)
    return report


def prune(place: Path, _: int) -> object:
    return Repository(place).prune(grace=0)


CASES: dict[str, tuple[Callable[[Path, int, int], None], dict[str, Operation]]] = {
    "snapshots": (
        make_snapshots,
        {"open": open_snapshots, "query": ask_snapshots, "save one": save_one, "check": check, "prune": prune},
    ),
    "items": (make_items, {"load": load_items, "check": check, "prune": prune}),
    "versions": (make_versions, {"list": list_versions, "log one": log_one, "check": check, "prune": prune}),
    "files": (make_files, {"list": list_files, "backup again": back_up_again, "check": check, "prune": prune}),
    "chunks": (make_chunks, {"load": load_index}),
}


def cost(operation: Operation, place: Path, count: int) -> tuple[float, float]:
    """Return the CPU seconds and the additional bytes at the peak of an operation. Runs in a fresh process."""
    gc.collect()
    before = memory("VmRSS")
    forget_peak()
    begin = time.process_time()
    kept = operation(place, count)
    taken = time.process_time() - begin
    del kept
    return taken, max(memory("VmHWM") - before, 0)


def measure(kind: str, smallest: int, folder: Path, report: Report) -> None:
    """Enter the cost of each operation for each size, and how much it grows."""
    make, operations = CASES[kind]
    sizes = [smallest * 2**doubling for doubling in range(DOUBLINGS + 1)]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in operations}
    place = folder / kind
    for earlier, size in zip([0, *sizes], sizes, strict=False):
        make(place, earlier, size)
        for name, operation in operations.items():
            costs = []
            for _ in range(1 if name == "prune" else report.options.repeat):
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
                    costs.append(processes.submit(cost, operation, place, size).result())
            taken, held = [one[0] for one in costs], [one[1] / MB for one in costs]
            what = f"{size:,} {kind}: {name}"
            median = report.add(f"{what}: CPU time", OURS, taken, "s", NOTHING_WRITTEN)
            peak = report.add(f"{what}: memory", OURS, held, "MB", NOTHING_WRITTEN)
            found[name].append((median, peak))
    for name, each in found.items():
        # An operation whose cost does not depend on the size begins with a fixed one, which must not hide growth.
        growth = statistics.mean(later[0] / earlier[0] for earlier, later in itertools.pairwise(each))
        report.at_most(f"{kind}: {name}: CPU time per doubling", growth, MOST, "x")
        report.at_most(f"{kind}: {name}: memory", each[-1][1], 1_000, "MB")
    if kind == "chunks":
        each_chunk = (found["load"][-1][1] - found["load"][0][1]) * MB / (sizes[-1] - sizes[0])
        report.at_most("chunks: memory of each at the peak of loading", each_chunk, MOST_OF_CHUNK, "B")


SMALLEST = {"snapshots": 10_000, "items": 100_000, "versions": 2_000, "files": 10_000, "chunks": 1_000_000}


def main() -> int:
    parser = arguments(__doc__, repeat=3)
    parser.add_argument("--kind", choices=[*CASES], help="only this kind of content; all of them when none is given")
    parser.add_argument("--smallest", type=int, help="the smallest size; the default depends on the kind")
    options = parser.parse_args()
    if options.kind is None and not (options.json is options.smallest is None):
        parser.error("--json and --smallest need a --kind")
    failed = 0
    for kind in [options.kind] if options.kind else CASES:
        with scratch(options.directory) as folder:
            report = Report(f"scale of {kind}", options, PACKAGES, folder)
            measure(kind, options.smallest or SMALLEST[kind], folder, report)
            failed |= report.finish()
    return failed


if __name__ == "__main__":
    sys.exit(main())
