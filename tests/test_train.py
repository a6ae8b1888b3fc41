"""The main job keeps its promise: killed anywhere, it ends with the weights of a run that nobody disturbed.

The demo works from nothing, and again; it leaves its report behind, and no process. The flow can be deployed.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.exceptions import ParameterTypeError
from prefect.flows import Flow, load_flow_from_entrypoint

from prefect_snapshots import Repository, SnapshotManager, load_latest

ROOT = Path(__file__).parent.parent
TRAIN = ROOT / "flows" / "train.py"

# The server is started once for all tests that need one; the demo starts its own.
pytestmark = pytest.mark.xdist_group("prefect")


@pytest.fixture(scope="module")
def training() -> Any:
    """The module `flows/train.py`."""
    spec = importlib.util.spec_from_file_location("train", TRAIN)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["train"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def undisturbed(training: Any, prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A repository in which four epochs were trained in one go."""
    repository = str(tmp_path_factory.mktemp("undisturbed"))
    report = training.train(4, repository=repository)
    assert report.resumed_from == 0
    return repository


def best_of(repository: str) -> list[tuple[str, float]]:
    """The ids of the snapshots that were kept as the best, and their losses."""
    manager = SnapshotManager(repository, name="digits/best", rank_by="loss", mode="min")
    return [(snapshot_id, manager.get_metadata(snapshot_id)["loss"]) for snapshot_id in manager.get_ids_by_rank()]


def assert_same(training: Any, repository: str, other: str) -> None:
    states = [load_latest("digits/latest", repository=where) for where in (repository, other)]
    assert training.bits_of(states[0]) == training.bits_of(states[1])
    assert states[0]["epoch"] == states[1]["epoch"]
    assert best_of(repository) == best_of(other)


@pytest.mark.parametrize("stops", [(2,), pytest.param((1, 2, 3), marks=pytest.mark.nightly)], ids=["one", "every"])
def test_stopping_after_every_epoch_changes_no_bit(
    training: Any, undisturbed: str, tmp_path: Path, stops: tuple[int, ...]
) -> None:
    repository = str(tmp_path / "repository")
    for before, epochs in itertools.pairwise((0, *stops, 4)):
        assert training.train(epochs, repository=repository).resumed_from == before
    assert_same(training, repository, undisturbed)
    assert len(best_of(repository)) == 3


def test_a_kill_between_the_two_saves_of_an_epoch_changes_no_bit(
    training: Any, undisturbed: str, tmp_path: Path
) -> None:
    repository = str(tmp_path / "repository")
    training.train(2, repository=repository)
    latest = load_latest("digits/latest", repository=repository)
    training.train(3, repository=repository)
    # As if the process had been killed when epoch 3 was among the best, and not yet the latest.
    manager = SnapshotManager(repository, name="digits/latest", max_snapshots=1)
    manager.save_snapshot(latest, "epoch-0002")
    assert training.train(4, repository=repository).resumed_from == 2
    assert_same(training, repository, undisturbed)


def test_a_finished_training_only_reports_again(training: Any, undisturbed: str) -> None:
    before = best_of(undisturbed)
    report = training.train(4, repository=undisturbed)
    assert report.resumed_from == 4
    assert best_of(undisturbed) == before
    assert [(f"epoch-{row['epoch']:04}", row["loss"]) for row in report.best] == before
    assert report.test_accuracy > 0.9


def test_it_learns(training: Any, undisturbed: str) -> None:
    state = load_latest("digits/latest", repository=undisturbed)
    loss, accuracy = training.measure(state["params"], *training.digits()["validation"])
    assert loss < 0.5
    assert accuracy > 0.9


def test_the_report_is_in_the_prefect_ui(training: Any, undisturbed: str) -> None:
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[training.REPORT])))
    assert any("Trained in one go." in (artifact.description or "") for artifact in found)
    assert all(artifact.flow_run_id is not None for artifact in found)
    assert all("loss" in str(artifact.data) for artifact in found)


@pytest.mark.parametrize("load", [load_flow_from_entrypoint, lambda entrypoint: Flow.from_source(ROOT, entrypoint)])
def test_the_flow_can_be_deployed(load: Callable[[str], Any], prefect_server: str, tmp_path: Path) -> None:
    deployable = load("flows/train.py:train")
    deployment = deployable.to_deployment("nightly", parameters={"epochs": 1, "repository": str(tmp_path / "r")})
    assert deployment.entrypoint == "flows/train.py:train"
    assert deployable(**deployment.parameters).resumed_from == 0


def test_a_manager_in_memory_warns_inside_a_run(prefect_server: str) -> None:
    @flow
    def forgetful() -> None:
        SnapshotManager()

    with pytest.warns(UserWarning, match="are lost when the run ends"):
        forgetful()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SnapshotManager()


def test_no_epoch_is_no_training(training: Any, prefect_server: str, tmp_path: Path) -> None:
    with pytest.raises(ParameterTypeError, match="greater than 0"):
        training.train(0, repository=str(tmp_path / "repository"))
    assert not (tmp_path / "repository").exists()


@pytest.mark.long
@pytest.mark.xdist_group("demo")  # it starts servers itself, and need not wait for those that share one
@pytest.mark.parametrize("times", [1, pytest.param(2, marks=pytest.mark.nightly)])
def test_the_demo_works_from_nothing_and_again(tmp_path: Path, times: int) -> None:
    home = tmp_path / "prefect"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment.update(PREFECT_HOME=str(home), DO_NOT_TRACK="1")
    # Each of the six processes would compile the same programs.
    environment.update(JAX_COMPILATION_CACHE_DIR=str(tmp_path / "jax"), JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
    packs = []
    for _ in range(times):
        command = [sys.executable, str(TRAIN), "demo", "--epochs", "4", "--kill-after", "2"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr
        assert "Killed it (SIGKILL). The last snapshot is epoch-000" in done.stdout
        assert "the same weights, moments and random key, bit for bit" in done.stdout
        assert "/artifacts/key/digits-training" in done.stdout
        assert "prefect_snapshots" not in done.stderr  # Prefect itself may complain of a slow machine
        assert not [one.cmdline() for one in psutil.process_iter(["environ"]) if of_home(one, home)]
        packs.append(sum(path.stat().st_size for path in (tmp_path / "snapshots" / "packs").rglob("*")))
    assert Repository(tmp_path / "snapshots").check(read_data=True).problems == []
    # What the second demo computed, it found stored already.
    assert len(set(packs)) == 1
    with sqlite3.connect(home / "prefect.db") as database:
        [(reports,)] = database.execute("select count(*) from artifact where key = 'digits-training'")
    assert reports == 2 * times


def of_home(process: psutil.Process, home: Path) -> bool:
    """Whether a process works for this home of Prefect."""
    return bool(process.info["environ"]) and process.info["environ"].get("PREFECT_HOME") == str(home)
