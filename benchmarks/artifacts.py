"""Artifacts: logging small values, finding versions, and folders of which little changed.

Beside lazyscribe, mxm-scaffold and MLflow, each with its store of local files. Of these only ours is durable when the
call returns; nothing is added to the others to make them so.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from _measure import (
    MB,
    NOTHING_WRITTEN,
    OURS,
    POWER_LOSS,
    PROCESS_KILL,
    Report,
    arguments,
    in_turns,
    scratch,
    seconds,
    size_of,
)

from prefect_snapshots import ArtifactRegistry

PACKAGES = ("blake3", "lazyscribe", "mlflow-skinny", "mxm-scaffold", "pyfastcdc")
NEAR = 10
"""The early version that a late one is compared with."""
WINDOW = 20
"""Versions around it whose median counts."""
VALUE = {"features": list(range(16))}

Log = Callable[[int], object]


def ours(place: Path) -> Log:
    registry = ArtifactRegistry(place)
    return lambda number: registry.log_artifact("features", {**VALUE, "number": number})


def lazyscribe(place: Path) -> Log:
    """Its repository is written when it is saved: as whole."""
    from lazyscribe import Repository

    place.mkdir()
    repository = Repository(str(place / "repository.json"), mode="w")

    def log(number: int) -> None:
        repository.log_artifact(name="features", value={**VALUE, "number": number}, handler="json")
        repository.save()

    return log


def scaffold(place: Path) -> Log:
    from scaffold.data.artifact_manager.filesystem import FileSystemArtifactManager

    place.mkdir()
    manager = FileSystemArtifactManager(url=str(place / "store"))
    file = place / "features.json"

    def log(number: int) -> None:
        file.write_text(json.dumps({**VALUE, "number": number}))
        manager.log_files("features", str(file))

    return log


def mlflow(place: Path) -> Log:
    """A version is a run with one artifact."""
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=place.as_uri())
    experiment = client.create_experiment("benchmark")

    def log(number: int) -> None:
        run = client.create_run(experiment).info.run_id
        client.log_dict(run, {**VALUE, "number": number}, "features.json")
        client.set_terminated(run)

    return log


PEERS: dict[str, Callable[[Path], Log]] = {"lazyscribe": lazyscribe, "mxm-scaffold": scaffold, "MLflow": mlflow}


def log_many(make: Callable[[Path], Log], folder: Path, late: int) -> tuple[float, float, float]:
    """Milliseconds of an early and of a late version, and versions a second over all of them."""
    with scratch(folder) as place:
        log = make(place / "store")
        taken = [seconds(partial(log, number)) for number in range(late + WINDOW // 2)]
    early = statistics.median(taken[NEAR - WINDOW // 4 : NEAR + WINDOW // 4])
    return 1000 * early, 1000 * statistics.median(taken[late - WINDOW // 2 :]), len(taken) / sum(taken)


def measure_logging(folder: Path, report: Report) -> None:
    late = report.options.versions
    turns = {name: partial(log_many, make, folder, late) for name, make in {OURS: ours, **PEERS}.items()}
    for name, found in in_turns(turns, report.options.repeat).items():
        survives = POWER_LOSS if name == OURS else PROCESS_KILL
        early_times, late_times, rates = zip(*found, strict=True)
        early = report.add(f"log version {NEAR}", name, early_times, "ms", survives)
        last = report.add(f"log version {late:,}", name, late_times, "ms", survives)
        rate = report.add(f"versions, {late:,} of them", name, rates, "/s", survives)
        if name == OURS:
            report.at_most(f"log version {late:,} / version {NEAR}", last / early, 1.2, "x")
            report.at_least("durable versions", rate, 300, "/s")


def measure_finding(folder: Path, report: Report) -> None:
    """Each kind of question, asked by a registry that knows the artifact, and looks for new versions each time."""
    count = report.options.resolve
    registry = ArtifactRegistry(folder / "many")
    for number in range(count):
        registry.log_artifact("features", number)
    registry.set_alias("features", count // 2, "production")
    middle = registry.get_artifact("features", count // 3).created_at
    for what, version in {"latest": None, "an alias": "production", "a date": middle}.items():
        ask = partial(registry.get_artifact, "features", version, "asof")
        taken = [1000 * seconds(ask) for _ in range(200)]
        median = report.add(f"find {what} of {count:,} versions", OURS, taken, "ms", NOTHING_WRITTEN)
        report.at_most(f"find {what} of {count:,} versions", median, 1.0, "ms")


def fill(folder: Path, total: int) -> list[Path]:
    """A folder of `total` bytes: nine tenths in files of 4 MB, the rest in files of 1 KB to 100 KB."""
    chance = random.Random(0)
    folder.mkdir()
    sizes = [4 * MB] * (total * 9 // 10 // (4 * MB))
    rest = total - sum(sizes)
    while rest > 0:
        sizes.append(min(chance.randrange(1_000, 100_000), rest))
        rest -= sizes[-1]
    paths = []
    for number, size in enumerate(sizes):
        (folder / f"{number % 16:02}").mkdir(exist_ok=True)
        paths.append(folder / f"{number % 16:02}" / f"file-{number:06}")
        paths[-1].write_bytes(chance.randbytes(size))
    return paths


def change(paths: list[Path], turn: int) -> int:
    """Write 1 % of the bytes anew: stretches of 100 KB in large files, and small files as a whole. Returns how many."""
    chance = random.Random(turn + 1)
    wanted, changed = sum(path.stat().st_size for path in paths) // 100, 0
    for path in chance.sample(paths, len(paths)):
        if changed >= wanted:
            break
        size = path.stat().st_size
        length = min(size, 100_000, wanted - changed)
        with path.open("r+b") as file:
            file.seek(chance.randrange(size - length + 1))
            file.write(chance.randbytes(length))
        changed += length
    return changed


def measure_folder(folder: Path, report: Report) -> None:
    source = folder / "source"
    paths = fill(source, report.options.folder_mb * MB)
    total = sum(path.stat().st_size for path in paths)
    place = folder / "folders"
    registry = ArtifactRegistry(place)
    registry.log_artifact("warm", 1)
    downloads = (folder / f"download-{number}" for number in itertools.count())

    def first(number: int) -> float:
        with scratch(folder) as fresh:
            other = ArtifactRegistry(fresh / "first")
            other.log_artifact("warm", number)
            return seconds(partial(other.log_files, "folder", source))

    numbers = itertools.count()
    found = in_turns({OURS: lambda: first(next(numbers))}, report.options.repeat)
    report.add(f"log a folder of {report.options.folder_mb:,} MB", OURS, found[OURS], "s", POWER_LOSS)
    registry.log_files("folder", source)
    written, taken = [], []
    for turn in range(report.options.repeat):
        change(paths, turn)
        before = size_of(place)
        os.sync()
        taken.append(seconds(partial(registry.log_files, "folder", source)))
        written.append(100 * (size_of(place) - before) / total)
    report.add("log it again, 1 % changed", OURS, taken, "s", POWER_LOSS)
    median = report.add("bytes written then, of all", OURS, written, "%", POWER_LOSS)
    report.at_most("bytes written when 1 % changed", median, 2.0, "%")
    found = in_turns({OURS: lambda: seconds(partial(_download, registry, next(downloads)))}, report.options.repeat)
    report.add("download it", OURS, found[OURS], "s", POWER_LOSS)


def _download(registry: ArtifactRegistry, to: Path) -> Any:
    return registry.download_artifact("folder", to=to)


def main() -> int:
    parser = arguments(__doc__, repeat=3)
    parser.add_argument("--versions", type=int, default=2_000, help="of a small value, at least 30")
    parser.add_argument("--resolve", type=int, default=10_000, help="versions among which one is found")
    parser.add_argument("--folder-mb", type=int, default=1_000, help="size of the folder")
    options = parser.parse_args()
    with scratch(options.directory) as folder:
        report = Report("artifacts", options, PACKAGES, folder)
        measure_logging(folder, report)
        measure_finding(folder, report)
        measure_folder(folder, report)
        return report.finish()


if __name__ == "__main__":
    sys.exit(main())
