"""Artifacts whose files other processes have stored, on Dask and Ray as well: one commit joins them."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas
import pytest

from prefect_snapshots import ArtifactRegistry, Repository
from prefect_snapshots.errors import InvalidArgument, InvalidName, StagedPartsLost
from prefect_snapshots.repository import StagedPart
from prefect_snapshots.trees.entries import Entry

WORKERS = 8


@pytest.fixture(params=[None, "secret words"], ids=["plain", "encrypted"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactRegistry:
    return ArtifactRegistry(Repository(tmp_path / "repository", password=request.param))


def partition(folder: Path, number: int) -> Path:
    """Write a partition of a data set as a worker does, and return its file."""
    path = folder / f"part={number}" / "data.parquet"
    path.parent.mkdir(parents=True)
    values = np.random.default_rng(number).normal(size=20_000)
    pandas.DataFrame({"number": number, "value": values}).to_parquet(path)
    return path


def staged(registry: ArtifactRegistry, folder: Path, number: int) -> StagedPart:
    path = partition(folder / str(number), number)
    return registry.stage_files(path, f"table/{path.parent.name}")


def test_a_data_set_of_many_workers_is_one_version(registry: ArtifactRegistry, tmp_path: Path) -> None:
    parts = [staged(registry, tmp_path, number) for number in range(WORKERS)]
    assert registry.list_artifacts() == []
    info = registry.get_artifact("data", registry.log_files("data", parts, metadata={"rows": 160_000}).version)
    assert (info.version, info.metadata) == ("v0", {"rows": 160_000})
    assert info.written > 0.9 * info.size > 1_000_000
    found = registry.download_artifact("data", to=tmp_path / "found")
    table = pandas.read_parquet(Path(found) / "table")
    assert len(table) == WORKERS * 20_000
    assert sorted(table["number"].unique()) == [*range(WORKERS)]
    random.Random(1).shuffle(parts)
    assert registry.log_files("data", parts, if_changed=True).version == "v0"
    assert registry.repository.check(read_data=True).ok


def test_parts_are_what_one_folder_would_be(registry: ArtifactRegistry, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for path, size in {"a/large": 3_000_000, "a/small": 10, "b/empty": 0, "b/c/deep": 100, "top": 5}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(random.Random(path).randbytes(size))
    (folder / "b" / "link").symlink_to("c/deep")
    (folder / "none").mkdir()
    parts = [registry.stage_files(folder / name, name) for name in ("none", "b", "a")]
    parts.append(registry.stage_files(folder / "top"))
    registry.log_files("data", folder)
    registry.log_files("data", parts)
    assert registry.diff("data", 0, 1) == []
    assert sorted(registry.list_files("data", 0)) == sorted(registry.list_files("data", 1))
    with pytest.raises(InvalidArgument, match="Two parts have 'b/"):
        registry.log_files("data", [*parts, parts[1]])
    with pytest.raises((InvalidArgument, InvalidName)):
        registry.log_files("data", [registry.stage_files(folder / "top", "x"), registry.stage_files(folder, "x/top")])
    with pytest.raises(InvalidArgument, match="no parts"):
        registry.log_files("data", [])
    with pytest.raises(InvalidArgument, match="artifact_path"):
        registry.log_files("data", parts, artifact_path="below")
    assert len(registry.list_versions("data")) == 2


def test_parts_that_a_prune_has_freed_are_staged_again(registry: ArtifactRegistry, tmp_path: Path) -> None:
    parts = [staged(registry, tmp_path, number) for number in range(3)]
    registry.log_files("other", parts[1:2])
    registry.repository.prune(grace=0)
    again = ArtifactRegistry(Repository(tmp_path / "repository", password=registry.repository._password))
    with pytest.raises(StagedPartsLost) as lost:
        again.log_files("data", parts)
    assert {0, 2} <= {*lost.value.parts}
    assert not again.exists("data")
    asked: list[Any] = []

    def stage(numbers: Sequence[int] | None) -> list[StagedPart]:
        asked.append(numbers)
        return parts if numbers is None else [staged(again, tmp_path / "again", number) for number in numbers]

    again.log_files("data", stage)
    assert asked == [None, lost.value.parts]
    assert len(again.list_files("data")) == 3
    assert again.repository.check(read_data=True).ok


def test_a_part_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    registry = ArtifactRegistry(tmp_path / "repository")
    good = registry.stage_files(partition(tmp_path, 1))

    def forged(*entries: Entry) -> StagedPart:
        encoded = msgspec.msgpack.encode([1, list(entries)])
        return registry.repository.stage(lambda writer: writer.store(encoded, [b"abc"]))

    for bad in (
        forged(Entry(b"../a", 0o100600, 3)),
        forged(Entry(b"/a", 0o100600, 3)),
        forged(Entry(b"a", 0o100600, 2)),
        forged(Entry(b"a", 0o104755, 3)),
        forged(Entry(b"a", 0o120777, 0, b"/etc"), Entry(b"b", 0o100600, 3)),
        registry.repository.stage(lambda writer: writer.store(b"no manifest", [b"abc"])),
        registry.repository.stage([b"abc"]),
        msgspec.structs.replace(good, content=msgspec.structs.replace(good.content, manifest_size=2**60)),
    ):
        with pytest.raises(InvalidArgument, match="Part 1 was refused"):
            registry.log_files("data", [good, bad])
    for strange in (b"path", 1, None):
        with pytest.raises((InvalidArgument, TypeError)):
            registry.log_files("data", [strange])  # type: ignore[list-item]
    assert not registry.exists("data")


# --- on other task runners --------------------------------------------------------------------------------------------


def from_tasks(runner: Any, url: str, folder: Path) -> int:
    """Have the tasks of a flow write and stage a partition each, and log them. Returns the rows of the data set.

    The worker that stages one of them is killed after that, so another one does it again.
    """
    from prefect import flow, task
    from prefect.cache_policies import NO_CACHE

    from prefect_snapshots import log_files

    @task(cache_policy=NO_CACHE, retries=2)
    def write(number: int) -> StagedPart:
        path = partition(folder / f"{number}-{os.getpid()}", number)
        part = ArtifactRegistry(url).stage_files(path, f"table/{path.parent.name}")
        if number == 3 and not (folder / "killed").exists():
            (folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return part

    @flow(task_runner=runner)
    def dataset() -> str:
        return str(log_files("data", write.map([*range(WORKERS)]).result(), repository=url))

    assert dataset() == "default/data:v0"
    registry = ArtifactRegistry(url)
    assert len(registry.list_files("data")) == WORKERS
    return len(pandas.read_parquet(Path(registry.download_artifact("data", to=folder / "found")) / "table"))


@pytest.mark.xdist_group("prefect")
@pytest.mark.usefixtures("prefect_server")
class TestTaskRunners:
    def test_dask(self, tmp_path: Path) -> None:
        from prefect_dask.task_runners import DaskTaskRunner

        runner = DaskTaskRunner(cluster_kwargs={"n_workers": 2, "threads_per_worker": 2, "dashboard_address": None})
        assert from_tasks(runner, str(tmp_path / "repository"), tmp_path) == WORKERS * 20_000

    @pytest.mark.nightly
    def test_ray(self, tmp_path: Path) -> None:
        from prefect_ray.task_runners import RayTaskRunner

        environment = {"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}}
        runner = RayTaskRunner(init_kwargs={"num_cpus": 2, "include_dashboard": False, "runtime_env": environment})
        assert from_tasks(runner, str(tmp_path / "repository"), tmp_path) == WORKERS * 20_000
