"""The flows that look after a repository do it, and say so in the Prefect UI."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import Artifact
from prefect.deployments.runner import RunnerDeployment
from prefect.flows import load_flow_from_entrypoint

from prefect_snapshots import SnapshotManager
from prefect_snapshots.errors import IntegrityError
from prefect_snapshots.flows import check_repository, maintenance, prune_repository

pytestmark = [pytest.mark.xdist_group("prefect"), pytest.mark.usefixtures("prefect_server")]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two snapshots of their own bytes, one of which was removed."""
    manager = SnapshotManager(tmp_path / "repository")
    manager.save_snapshot(bytes(range(256)) * 1000, "kept")
    manager.save_snapshot(bytes(reversed(range(256))) * 1000, "removed")
    manager.remove_snapshot("removed")
    return tmp_path / "repository"


def report_on(repository: Path, key: str) -> Artifact:
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))
    [artifact] = [one for one in found if str(repository) in str(one.description)]
    return artifact


def test_a_sound_repository_passes(repository: Path) -> None:
    report = check_repository(str(repository), read_data=True)
    assert (report.versions, report.problems) == (1, [])
    assert "0 problems, 1 versions in 1 streams" in str(report_on(repository, maintenance.CHECK).description)


def test_a_damaged_one_fails_the_run_and_is_reported(repository: Path) -> None:
    for pack in (repository / "packs").rglob("*"):
        if pack.is_file():
            pack.write_bytes(pack.read_bytes()[:-100])
    with pytest.raises(IntegrityError, match="problems, the first in packs/"):
        check_repository(str(repository), read_data=True)
    assert "packs/" in str(report_on(repository, maintenance.CHECK).data)


def test_prune_frees_what_nobody_needs(repository: Path) -> None:
    assert prune_repository(str(repository)).packs_waiting == 1  # an upload may still be running
    two_days_ago = time.time() - 2 * 24 * 3600
    for pack in (repository / "packs").rglob("*"):
        os.utime(pack, (two_days_ago, two_days_ago))
    planned = prune_repository(str(repository), dry_run=True)
    report = prune_repository(str(repository))
    assert planned.packs_deleted == report.packs_deleted == 1
    assert report.bytes_freed > 0
    assert SnapshotManager(repository)["kept"].data == bytes(range(256)) * 1000
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[maintenance.PRUNE])))
    assert sum(str(repository) in str(artifact.description) for artifact in found) == 3


@pytest.mark.parametrize("name", ["check_repository", "prune_repository"])
def test_deployable_by_the_name_of_the_module(name: str) -> None:
    deployable: Flow[..., Any] = load_flow_from_entrypoint(f"prefect_snapshots.flows.{name}")
    deployment = deployable.to_deployment("weekly", cron="0 4 * * 0")
    assert isinstance(deployment, RunnerDeployment)
    assert deployment.schedules
