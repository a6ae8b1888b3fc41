"""One case of `commits.py`, in a process of its own: `python _cases.py CASE FOLDER SCALE` prints seconds, as JSON.

The same file measures two commits: which package it imports is what PYTHONPATH says. So it uses only what both have. A
case yields calls. It prepares each before it yields it, and only the calls are measured. The first one does not count:
it imports, opens, and creates what is missing.
"""

from __future__ import annotations

import itertools
import json
import random
import resource
import shutil
import sqlite3
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

Call = Callable[[], object]
Calls = Iterator[Call]


@dataclass(frozen=True)
class Case:
    """What is measured, and how many of its calls count."""

    make: Callable[[Path, float], Calls]
    calls: int


# --- pytrees --------------------------------------------------------------------------------------------------------

LEAVES, BIG = 100, 5
"""Leaves of a tree, and the share of the first one, as parts of a hundred."""


def numbers(elements: int, seed: int) -> Any:
    return np.random.default_rng(seed).standard_normal(max(elements, 1), np.float32)


def tree(scale: float, seed: int = 0) -> dict[str, Any]:
    """Random numbers, of 200 MB at full scale."""
    elements = int(50_000_000 * scale)
    first, rest = elements * BIG // 100, elements * (100 - BIG) // 100 // (LEAVES - 1)
    return {f"{leaf:03}": numbers(rest if leaf else first, seed * LEAVES + leaf) for leaf in range(LEAVES)}


def on_device(values: dict[str, Any]) -> dict[str, Any]:
    import jax

    return {name: jax.numpy.array(value) for name, value in values.items()}


def managers(folder: Path) -> Iterator[Any]:
    """Managers of new repositories, each warmed up; the earlier ones are deleted."""
    from prefect_snapshots import PyTreeSnapshotManager

    for number in itertools.count():
        place = folder / f"repository-{number}"
        manager: Any = PyTreeSnapshotManager(place)
        manager.save_snapshot({"warm": np.zeros(8)}, "warm")
        yield manager
        shutil.rmtree(place)


def save(folder: Path, scale: float, place: Callable[[Any], Any] = lambda values: values) -> Calls:
    values = place(tree(scale))
    for manager in managers(folder):
        yield partial(manager.save_snapshot, values, "step")


def save_async(folder: Path, scale: float, *, waited: bool) -> Calls:
    """Only what the caller waits for, or all of it."""
    values = tree(scale)
    for manager in managers(folder):

        def work(manager: Any = manager) -> None:
            manager.save_async(values, "step")
            manager.wait()

        yield work if waited else partial(manager.save_async, values, "step")
        manager.wait()


def changed_leaf(folder: Path, scale: float) -> Calls:
    manager, values = next(managers(folder)), tree(scale)
    manager.save_snapshot(values, "first")
    for turn in itertools.count(1):
        values["000"] = numbers(len(values["000"]), -turn & 0xFFFFFFFF)
        yield partial(manager.save_snapshot, values, f"step-{turn}")


def unchanged(folder: Path, scale: float) -> Calls:
    manager, values = next(managers(folder)), tree(scale)
    for turn in itertools.count():
        yield partial(manager.save_snapshot, values, f"step-{turn}")


def load(
    folder: Path, scale: float, leaves: str | None = None, place: Callable[[Any], Any] = lambda values: values
) -> Calls:
    from prefect_snapshots import PyTreeSnapshotManager, Repository

    next(managers(folder)).save_snapshot(place(tree(scale)), "step")
    if place is on_device:
        import jax

    def restore() -> None:
        manager: Any = PyTreeSnapshotManager(Repository(folder / "repository-0", read_only=True))
        found = manager.get_snapshot("step", leaves=leaves).data
        if place is on_device:
            jax.block_until_ready(found)  # type: ignore[no-untyped-call]

    return itertools.repeat(restore)


def small_leaves(folder: Path, scale: float) -> Calls:
    manager = next(managers(folder))
    for turn in itertools.count():
        values = np.random.default_rng(turn).standard_normal((int(1000 * scale) + 1, 256), np.float32)
        yield partial(manager.save_snapshot, {f"{name:04}": row for name, row in enumerate(values)}, str(turn))


# --- small values ---------------------------------------------------------------------------------------------------


def small_values(folder: Path, scale: float) -> Calls:
    from prefect_snapshots import SnapshotManager

    manager: Any = SnapshotManager(folder / "repository")
    turns = itertools.count()

    def work() -> None:
        for turn in itertools.islice(turns, int(500 * scale) + 1):
            manager.save_snapshot({"step": turn, "loss": turn / 7, "name": "digits"}, str(turn), metadata={"n": turn})

    return itertools.repeat(work)


def load_small(folder: Path, scale: float) -> Calls:
    from prefect_snapshots import SnapshotManager

    manager: Any = SnapshotManager(folder / "repository")
    for turn in range(100):
        manager.save_snapshot({"step": turn, "name": "digits"}, str(turn))

    def work() -> None:
        for turn in range(int(500 * scale) + 1):
            _ = manager.get_snapshot(str(turn % 100)).data

    return itertools.repeat(work)


def open_many(folder: Path, scale: float) -> Calls:
    from prefect_snapshots import ByMetadata, Repository, SnapshotManager

    manager: Any = SnapshotManager(folder / "repository")
    count = int(3000 * scale) + 1
    for turn in range(count):
        manager.save_snapshot(turn, str(turn), metadata={"epoch": turn // 100}, tags=["train"])

    def work() -> None:
        opened: Any = SnapshotManager(Repository(folder / "repository", read_only=True))
        opened.query.evaluate(ByMetadata("epoch", 1))

    return itertools.repeat(work)


def query(folder: Path, scale: float) -> Calls:
    from prefect_snapshots import ByMetadata, ByTag, SnapshotManager

    manager: Any = SnapshotManager(folder / "repository")
    for turn in range(int(3000 * scale) + 1):
        manager.save_snapshot(turn, str(turn), metadata={"epoch": turn // 100}, tags=["train"])

    def work() -> None:
        for epoch in range(20):
            manager.query.evaluate(ByMetadata("epoch", epoch) & ByTag("train"))

    return itertools.repeat(work)


# --- iterables ------------------------------------------------------------------------------------------------------


def double(x: int) -> int:
    return 2 * x


def snapper(place: Path, count: int, batch: int) -> Any:
    from prefect_snapshots.checkpoints import Snapper

    return Snapper(range(count), double, repository=place, batch_size=batch)


def first(folder: Path, scale: float, *, count: int, batch: int) -> Calls:
    for turn in itertools.count():
        yield snapper(folder / str(turn), int(count * scale) + 1, batch).start


def done(folder: Path, scale: float) -> Calls:
    count = int(500_000 * scale) + 1
    snapper(folder / "repository", count, 1000).start()
    return iter(lambda: snapper(folder / "repository", count, 1000).start, None)


def results_of_items(folder: Path, scale: float) -> Calls:
    count = int(200_000 * scale) + 1
    snapper(folder / "repository", count, 1000).start()
    return iter(lambda: snapper(folder / "repository", count, 1000).load, None)


def metrics_of_items(folder: Path, scale: float) -> Calls:
    count = int(20_000 * scale) + 1
    snapper(folder / "repository", count, 1000).start()
    return iter(lambda: snapper(folder / "repository", count, 1000).load_metrics, None)


# --- artifacts ------------------------------------------------------------------------------------------------------


def fill(folder: Path, files: int, size: int, seed: int = 0) -> Path:
    """A folder of random files of about this many bytes."""
    chance = random.Random(seed)
    for number in range(files):
        path = folder / f"{number % 16:02}" / f"file-{number:06}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(chance.randbytes(chance.randrange(size // 2, size * 3 // 2)))
    return folder


def log_files(folder: Path, scale: float, files: int, size: int) -> Calls:
    from prefect_snapshots import ArtifactRegistry

    source = fill(folder / "source", int(files * scale) + 1, size)
    for turn in itertools.count():
        registry: Any = ArtifactRegistry(folder / str(turn))
        registry.log_artifact("warm", 1)
        yield partial(registry.log_files, "folder", source)


def log_again(folder: Path, scale: float) -> Calls:
    from prefect_snapshots import ArtifactRegistry

    source = fill(folder / "source", int(2000 * scale) + 1, 10_000)
    registry: Any = ArtifactRegistry(folder / "repository")
    for turn in itertools.count():
        fill(source, int(20 * scale) + 1, 10_000, turn)
        yield partial(registry.log_files, "folder", source)


def log_folder(folder: Path, scale: float, files: int, size: int) -> Calls:
    """Writing the files is measured as well: it is the same work for both."""
    from prefect_snapshots import ArtifactRegistry

    content = random.Random(0).randbytes(size)
    for turn in itertools.count():
        registry: Any = ArtifactRegistry(folder / str(turn))
        registry.log_artifact("warm", 1)

        def work(registry: Any = registry) -> None:
            with registry.log_folder("folder") as place:
                for number in range(int(files * scale) + 1):
                    (place / str(number)).write_bytes(number.to_bytes(8, "little") + content)

        yield work


def download(folder: Path, scale: float) -> Calls:
    from prefect_snapshots import ArtifactRegistry

    registry: Any = ArtifactRegistry(folder / "repository")
    registry.log_files("folder", fill(folder / "source", int(2000 * scale) + 1, 10_000))
    for turn in itertools.count():
        yield partial(registry.download_artifact, "folder", to=folder / f"download-{turn}")


def versions(folder: Path, scale: float, *, after: int) -> Calls:
    """Ten versions, after so many others."""
    from prefect_snapshots import ArtifactRegistry

    registry: Any = ArtifactRegistry(folder / "repository")
    turns = itertools.count()

    def log(count: int) -> None:
        for turn in itertools.islice(turns, count):
            registry.log_artifact("features", {"features": list(range(16)), "number": turn})

    log(int(after * scale) + 1)
    return itertools.repeat(partial(log, 10))


def find_version(folder: Path, scale: float) -> Calls:
    from prefect_snapshots import ArtifactRegistry

    registry: Any = ArtifactRegistry(folder / "repository")
    for turn in range(int(1000 * scale) + 1):
        registry.log_artifact("features", turn)
    registry.set_alias("features", 0, "production")

    def work() -> None:
        for _ in range(100):
            registry.get_artifact("features", "production")
            registry.get_artifact("features")

    return itertools.repeat(work)


# --- backups --------------------------------------------------------------------------------------------------------


def backup_manager(folder: Path, name: str) -> Any:
    from prefect_snapshots import BackupManager

    return BackupManager(folder / name, directories=[folder / "source"])


def backup(folder: Path, scale: float) -> Calls:
    fill(folder / "source", int(4000 * scale) + 1, 10_000)
    for turn in itertools.count():
        yield backup_manager(folder, str(turn)).create_backup


def backup_again(folder: Path, scale: float) -> Calls:
    fill(folder / "source", int(4000 * scale) + 1, 10_000)
    for turn in itertools.count():
        fill(folder / "source", int(40 * scale) + 1, 10_000, turn)
        yield backup_manager(folder, "repository").create_backup


def restore(folder: Path, scale: float) -> Calls:
    fill(folder / "source", int(4000 * scale) + 1, 10_000)
    manager = backup_manager(folder, "repository")
    name = manager.create_backup().name
    for turn in itertools.count():
        target = folder / f"target-{turn}"
        yield partial(manager.restore_backup, name, confirm=True, to={"source": target})


def dump(folder: Path, scale: float) -> Calls:
    from prefect_snapshots import BackupManager

    with sqlite3.connect(folder / "shop.db") as database:
        database.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT, price REAL)")
        chance = random.Random(0)
        rows = ((f"customer {chance.randrange(1000)}", chance.random()) for _ in range(int(200_000 * scale) + 1))
        database.executemany("INSERT INTO orders (customer, price) VALUES (?, ?)", rows)
    database.close()
    for turn in itertools.count():
        manager: Any = BackupManager(folder / str(turn), databases=[f"sqlite:///{folder / 'shop.db'}"])
        yield manager.create_backup


# --- results of tasks -----------------------------------------------------------------------------------------------


def results(folder: Path) -> Any:
    from prefect_snapshots import SnapshotRepository

    return SnapshotRepository(url=str(folder / "repository"))


def write_results(folder: Path, scale: float, *, size: int, equal: bool = False) -> Calls:
    block, turns = results(folder), itertools.count()
    content = random.Random(0).randbytes(size)

    def work() -> None:
        for turn in itertools.islice(turns, int(100 * scale) + 1):
            block.write_path(f"key-{turn}", content if equal else turn.to_bytes(8, "little") + content)

    return itertools.repeat(work)


def read_results(folder: Path, scale: float, *, size: int, missing: bool = False) -> Calls:
    block, count = results(folder), int(100 * scale) + 1
    for turn in range(count):
        block.write_path(f"key-{turn}", bytes(size))

    def work() -> None:
        for turn in range(count):
            if missing:
                try:
                    block.read_path(f"none-{turn}")
                except (OSError, ValueError):
                    continue
            block.read_path(f"key-{turn}")

    return itertools.repeat(work)


CASES = {
    "pytree of 200 MB: save": Case(save, 5),
    "pytree of 200 MB: save of JAX arrays": Case(partial(save, place=on_device), 5),
    "pytree of 200 MB: save_async, the caller waits": Case(partial(save_async, waited=False), 5),
    "pytree of 200 MB: save_async, in all": Case(partial(save_async, waited=True), 5),
    "pytree of 200 MB: one leaf of 5 % changed": Case(changed_leaf, 7),
    "pytree of 200 MB: nothing changed": Case(unchanged, 7),
    "pytree of 200 MB: load": Case(load, 5),
    "pytree of 200 MB: load of JAX arrays": Case(partial(load, place=on_device), 5),
    "pytree of 200 MB: load one leaf": Case(partial(load, leaves="050"), 9),
    "1,000 leaves of 1 KB: save": Case(small_leaves, 20),
    "500 small values: save": Case(small_values, 5),
    "500 small values: load": Case(load_small, 5),
    "3,000 snapshots: open": Case(open_many, 7),
    "3,000 snapshots: query": Case(query, 7),
    "500,000 items in batches: first": Case(partial(first, count=500_000, batch=1000), 3),
    "500,000 items in batches: all done": Case(done, 5),
    "200,000 items: load results": Case(results_of_items, 5),
    "20,000 items: load metrics": Case(metrics_of_items, 5),
    "20,000 items one by one: first": Case(partial(first, count=20_000, batch=1), 3),
    "folder of 2,000 files: log_files": Case(partial(log_files, files=2000, size=10_000), 5),
    "folder of 2,000 files: log_files, 1 % changed": Case(log_again, 7),
    "folder of 2,000 files: log_folder": Case(partial(log_folder, files=2000, size=10_000), 5),
    "folder of 3 files: log_folder": Case(partial(log_folder, files=3, size=20), 20),
    "folder of 20 files of 5 MB: log_files": Case(partial(log_files, files=20, size=5_000_000), 5),
    "folder of 2,000 files: download": Case(download, 5),
    "10 artifacts: log, version 10": Case(partial(versions, after=10), 5),
    "10 artifacts: log, version 2,000": Case(partial(versions, after=2000), 5),
    "100 artifacts: find": Case(find_version, 7),
    "backup of 4,000 files: first": Case(backup, 5),
    "backup of 4,000 files: 1 % changed": Case(backup_again, 7),
    "backup of 4,000 files: restore": Case(restore, 5),
    "backup of an SQLite database": Case(dump, 5),
    "100 small results: write": Case(partial(write_results, size=100), 7),
    "100 small results: read": Case(partial(read_results, size=100), 7),
    "100 small results: miss and read": Case(partial(read_results, size=100, missing=True), 7),
    "100 results of 100 KB: write": Case(partial(write_results, size=100_000), 5),
    "100 equal results of 100 KB: write": Case(partial(write_results, size=100_000, equal=True), 5),
    "100 results of 100 KB: read": Case(partial(read_results, size=100_000), 5),
}
"""By their names. The numbers in those are what is measured at full scale."""


def cpu() -> float:
    """Seconds that this process, its threads and the processes that it waited for have computed."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def measure(call: Call) -> tuple[float, float]:
    """Seconds that a call takes of all processors, and of the clock."""
    begin, start = cpu(), time.perf_counter()
    call()
    return cpu() - begin, time.perf_counter() - start


def main(name: str, folder: str, scale: str) -> None:
    case = CASES[name]
    calls = case.make(Path(folder), float(scale))
    found = [measure(call) for call in itertools.islice(calls, case.calls + 1)][1:]
    used, taken = (statistics.median(values) for values in zip(*found, strict=True))
    print(json.dumps({"cpu": used, "wall": taken}))


if __name__ == "__main__":
    main(*sys.argv[1:])
