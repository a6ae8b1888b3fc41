"""Long iterables of trivial items: doing them first, passing over them when they are done, resuming a million of them.

The function doubles a number, so that what is measured is what keeping each result costs. A bare loop hashes each item,
calls the function, serialises the result and appends it; it cannot be resumed.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pickle
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import diskcache
import joblib
from _measure import (
    MB,
    NOTHING_WRITTEN,
    OURS,
    POWER_LOSS,
    PROCESS_KILL,
    Report,
    arguments,
    forget_peak,
    in_turns,
    memory,
    scratch,
    seconds,
)
from blake3 import blake3

from prefect_snapshots.checkpoints import Snapper

PACKAGES = ("blake3", "diskcache", "joblib", "msgspec", "numpy")
BATCH = 1000

Run = Callable[[Path, int], None]
"""Does the first so many items in a folder; a second time it only passes over them."""


def double(x: int) -> int:
    return 2 * x


def ours(batch_size: int, place: Path, count: int) -> None:
    Snapper(range(count), double, repository=place / "repository", batch_size=batch_size).start()


def bare(batch_size: int, place: Path, count: int) -> None:
    with open(place / "log", "wb", buffering=0) as file:
        for batch in batches(count, batch_size):
            keys = [blake3(x.to_bytes(8, "little")).digest() for x in batch]
            file.write(b"".join(keys) + pickle.dumps([double(x) for x in batch]))
        os.fsync(file.fileno())


def sqlite(batch_size: int, place: Path, count: int) -> None:
    """Asks for the items of each batch in one query."""
    with sqlite3.connect(place / "results.db", isolation_level=None) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("CREATE TABLE IF NOT EXISTS results (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")
        for batch in batches(count, batch_size):
            keys = [blake3(x.to_bytes(8, "little")).digest(16) for x in batch]
            marks = ",".join("?" * len(keys))
            done = {key for (key,) in database.execute(f"SELECT key FROM results WHERE key IN ({marks})", keys)}
            new = [(key, pickle.dumps(double(x))) for x, key in zip(batch, keys, strict=True) if key not in done]
            if new:
                database.execute("BEGIN")
                database.executemany("INSERT INTO results VALUES (?, ?)", new)
                database.execute("COMMIT")
    database.close()


def disk_cache(batch_size: int, place: Path, count: int) -> None:
    with diskcache.Cache(str(place / "cache")) as cache:
        for batch in batches(count, batch_size):
            with cache.transact():
                for x in batch:
                    if x not in cache:
                        cache[x] = double(x)


def joblib_memory(place: Path, count: int) -> None:
    cached = joblib.Memory(place / "joblib", verbose=0).cache(double)
    for x in range(count):
        cached(x)


def batches(count: int, size: int) -> Iterator[list[int]]:
    numbers = iter(range(count))
    while batch := list(itertools.islice(numbers, size)):
        yield batch


class Contender(NamedTuple):
    run: Run
    survives: str
    share: float = 1.0
    """Of the items, for those who would take minutes."""
    resumes: bool = True


CONTENDERS = {
    f"in batches of {BATCH:,}": {
        OURS: Contender(partial(ours, BATCH), POWER_LOSS),
        "bare loop": Contender(partial(bare, BATCH), POWER_LOSS, resumes=False),
        "SQLite": Contender(partial(sqlite, BATCH), POWER_LOSS),
        "diskcache": Contender(partial(disk_cache, BATCH), PROCESS_KILL, 0.2),
    },
    "one by one": {
        OURS: Contender(partial(ours, 1), PROCESS_KILL, 0.2),
        "bare loop": Contender(partial(bare, 1), PROCESS_KILL, resumes=False),
        "SQLite": Contender(partial(sqlite, 1), POWER_LOSS, 0.02),
        "diskcache": Contender(partial(disk_cache, 1), PROCESS_KILL, 0.05),
        "joblib.Memory": Contender(joblib_memory, PROCESS_KILL, 0.01),
    },
}
AT_LEAST = {
    (f"in batches of {BATCH:,}", "first"): 250_000,
    (f"in batches of {BATCH:,}", "all done"): 800_000,
    ("one by one", "first"): 10_000,
}


def measure(contender: Contender, folder: Path, count: int) -> tuple[float, float]:
    """Items a second, first and all done."""
    items = max(int(count * contender.share), BATCH)
    with scratch(folder) as place:
        contender.run(place, 2)  # imports, and creating the place
        first = items / seconds(partial(contender.run, place, items))
        again = items / seconds(partial(contender.run, place, items)) if contender.resumes else 0.0
        return first, again


def compare(folder: Path, report: Report) -> None:
    for way, contenders in CONTENDERS.items():
        turns = {
            name: partial(measure, contender, folder, report.options.count) for name, contender in contenders.items()
        }
        found = in_turns(turns, report.options.repeat)
        for at, stage in enumerate(("first", "all done")):
            medians: dict[str, float] = {}
            for name, values in found.items():
                if stage == "first" or contenders[name].resumes:
                    survives = contenders[name].survives if stage == "first" else NOTHING_WRITTEN
                    taken = [one[at] for one in values]
                    medians[name] = report.add(f"{way}: {stage}", name, taken, "items/s", survives)
            if (way, stage) in AT_LEAST:
                report.at_least(f"{way}: {stage}", medians[OURS], AT_LEAST[way, stage], "items/s")
            for name in ("diskcache", "joblib.Memory"):
                if name in medians:
                    report.at_least(f"{way}: {stage}: ours / {name}", medians[OURS] / medians[name], 1, "x")


class Resumed(NamedTuple):
    started: float
    """Seconds from the start of the process to the first new result."""
    peak: int


def resume(place: Path, count: int, asked: float) -> Resumed:
    """In a process of its own: go on where a million items are done."""
    forget_peak()
    Snapper(range(count + 1), double, repository=place, batch_size=BATCH).start()
    return Resumed(time.time() - asked, memory("VmHWM"))


def measure_resume(folder: Path, report: Report) -> None:
    count = report.options.done
    place = folder / "done"
    Snapper(range(count), double, repository=place, batch_size=BATCH).start()
    found = []
    for turn in range(report.options.repeat):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
            found.append(processes.submit(resume, place, count + turn, time.time()).result())
    what = f"resuming with {count:,} done"
    median = report.add(what, OURS, [one.started for one in found], "s", PROCESS_KILL)
    report.at_most(what, median, 3.0, "s")
    peak = report.add(f"{what}: memory of the process", OURS, [one.peak / MB for one in found], "MB", NOTHING_WRITTEN)
    report.at_most(f"{what}: memory of the process", peak, 300, "MB")


def main() -> int:
    parser = arguments(__doc__, repeat=5)
    parser.add_argument("--count", type=int, default=100_000, help="items; slower contenders do a share of them")
    parser.add_argument("--done", type=int, default=1_000_000, help="items that are done before resuming")
    options = parser.parse_args()
    with scratch(options.directory) as folder:
        report = Report("iterables", options, PACKAGES, folder)
        compare(folder, report)
        measure_resume(folder, report)
        return report.finish()


if __name__ == "__main__":
    sys.exit(main())
