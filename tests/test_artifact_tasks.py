"""The tasks over artifacts do what the registry does, and leave a timeline, an asset and an event in Prefect."""

from __future__ import annotations

import asyncio
import inspect
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prefect import Task, flow
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_support import artifacts_of, events_about, flush

from prefect_snapshots import (
    ArtifactRegistry,
    Repository,
    SnapshotManager,
    aload_artifact,
    alog_artifact,
    apromote_artifact,
    create_release,
    load_artifact,
    log_artifact,
    log_files,
    promote_artifact,
    promote_snapshot,
    use_repository,
)
from prefect_snapshots.errors import ArtifactNotFound, CommitConflict, ReleaseExists, SnapshotNotFound
from prefect_snapshots.integration import artifacts, live
from prefect_snapshots.integration.live import artifact_key
from prefect_snapshots.integration.snapshots import tasks

pytestmark = [pytest.mark.xdist_group("prefect"), pytest.mark.usefixtures("prefect_server")]


@pytest.fixture(autouse=True)
def repository(tmp_path: Path) -> Any:
    """The repository in use, on disk."""
    with use_repository(tmp_path / "repository") as repository:
        yield repository


@pytest.fixture
def collection() -> str:
    """A collection that no other test reports on."""
    return f"tests-{uuid.uuid4().hex}"


def test_a_version_that_was_there_is_not_said_to_be_logged(
    repository: Repository, collection: str, caplog: pytest.LogCaptureFixture
) -> None:
    snapshots: SnapshotManager[Any] = SnapshotManager(repository, name=collection)
    snapshots.save_snapshot([1], "a")

    @flow
    def twice() -> None:
        for _ in range(2):
            log_artifact("x", 1, collection=collection, if_changed=True)
            promote_snapshot("a", "y", name=collection, collection=collection)

    twice()
    flush()
    said = [record.getMessage() for record in caplog.records if collection in record.getMessage()]
    for name in "xy":
        label = f"{collection}/{name}"
        assert len([line for line in said if line.startswith(f"Logged {label}:v0")]) == 1
        assert f"No new version: {label}:v0 has the same content." in said
        assert len(artifacts_of(label, "artifacts")) == 1


def test_a_version_is_logged_promoted_and_loaded(repository: Repository, collection: str) -> None:
    @flow
    def pipeline() -> list[Any]:
        for loss in (0.9, 0.5):
            log_artifact(
                "model", {"weights": np.full(3, loss)}, "pytree", collection=collection, metadata={"loss": loss}
            )
        promote_artifact("model", 0, to="production", collection=collection)
        promoted = promote_artifact("model", "v1", to="production", collection=collection, expected="v0")
        release = create_release("2026.1", collection=collection)
        return [
            str(promoted),
            load_artifact("model", "production", collection=collection)["weights"].tolist(),
            load_artifact("model", 0, collection=collection, leaves="weights")["weights"].tolist(),
            release.artifacts,
        ]

    assert pipeline() == [f"{collection}/model:v1", [0.5] * 3, [0.9] * 3, {"model": "v1"}]
    flush()
    label = f"{collection}/model"
    pages = sorted(artifacts_of(label, "artifacts"), key=lambda page: str(page.created))
    texts = [str(page.data) for page in pages]
    assert [text.splitlines()[0] for text in texts] == [
        f"## {label}:v0",
        f"## {label}:v1",
        "## production is now v0",
        "## production is now v1, and was v0",
    ]
    assert "| metadata loss | 0.5 |" in texts[1]
    assert "| `v1` | production |" in texts[3]
    assert "| production is now v1, was v0 | by " in texts[3]
    assert f"`{repository.url}`" in str(pages[0].description)
    [release_page] = artifacts_of(collection, "releases")
    assert "| `model` | `v1` |" in str(release_page.data)

    events = events_about(f"prefect-snapshots.artifacts.{label}", 4)
    what = "prefect-snapshots.artifact"
    assert [event.event for event in events] == [f"{what}.logged"] * 2 + [f"{what}.promoted"] * 2
    assert events[1].payload["metadata"] == {"loss": 0.5}
    assert {key: events[3].payload[key] for key in ("version", "stage", "previous", "rollback")} == {
        "version": "v1",
        "stage": "production",
        "previous": "v0",
        "rollback": False,
    }
    [released] = events_about(f"prefect-snapshots.releases.{collection}", 1)
    assert released.payload["artifacts"] == {"model": "v1"}


def test_assets_are_made_of_assets(repository: Repository, collection: str) -> None:
    @flow
    def pipeline() -> None:
        log_artifact("features", [1, 2], collection=collection)
        features = load_artifact.submit("features", collection=collection)
        log_artifact("model", features, collection=collection, wait_for=[features], metadata={"loss": 0.5})

    pipeline()
    key = f"snapshots://{repository.id}/"
    model, features = (f"{key}{artifact_key('artifacts', f'{collection}/{name}')}" for name in ("model", "features"))
    [materialized] = events_about(model, 1)
    assert materialized.event == "prefect.asset.materialization.succeeded"
    assert materialized.payload["version"] == "v0"
    assert materialized.payload["loss"] == 0.5
    assert features in {related.id for related in materialized.related if related.role == "asset"}
    assert {event.event for event in events_about(features, 2)} >= {"prefect.asset.materialization.succeeded"}


def test_files_and_snapshots_become_versions(repository: Repository, collection: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(bytes(1000))
    (folder / "run.sh").write_text("exit 0")
    (folder / "run.sh").chmod(0o755)
    manager = SnapshotManager(repository, name="training")
    manager.save_snapshot({"weights": np.arange(50_000)}, "best", metadata={"loss": 0.25})
    registry = ArtifactRegistry(repository, collection)

    @flow
    def pipeline() -> None:
        log_files("files", folder, collection=collection)
        promote_snapshot("best", "model", name="training", collection=collection)
        promote_artifact("model", collection=collection, to=ArtifactRegistry(repository, f"{collection}-prod"))

    pipeline()
    with registry.download_artifact("files") as files:
        assert (files / "run.sh").stat().st_mode & 0o777 == 0o755
    info = registry.get_artifact("model")
    assert (info.metadata, info.source and info.source["snapshot"]) == ({"loss": 0.25}, "best")
    assert info.written < 2000
    flush()
    [page] = artifacts_of(f"{collection}/model", "artifacts")
    assert "| from | `best of training in " in str(page.data)
    [copied] = artifacts_of(f"{collection}-prod/model", "artifacts")
    assert f"`v0 of model in {repository.url}`" in str(copied.data)
    with pytest.raises(SnapshotNotFound, match="none"):
        promote_snapshot("none", "model", name="training", collection=collection)


def test_what_fails_reports_nothing(collection: str) -> None:
    log_artifact("model", 1, collection=collection)
    promote_artifact("model", to="production", collection=collection)
    with pytest.raises(CommitConflict, match="is v0, not unset as expected"):
        promote_artifact("model", to="production", collection=collection, expected=None)
    with pytest.raises(ArtifactNotFound, match="Did you mean 'model'"):
        load_artifact("modle", collection=collection)
    create_release("1", collection=collection)
    with pytest.raises(ReleaseExists):
        create_release("1", collection=collection)
    flush()
    assert len(artifacts_of(f"{collection}/model", "artifacts")) == 2
    assert len(artifacts_of(collection, "releases")) == 1


def test_a_server_that_is_gone_is_a_warning(
    repository: Repository, collection: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_FAILURES", 1)  # or it would be tried again beside other tests

    @flow
    def pipeline() -> None:
        with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
            for value in range(3):
                log_artifact.fn("model", value, collection=collection)
            live.flush()

    pipeline()
    assert len(ArtifactRegistry(repository, collection).list_versions("model")) == 3
    assert any("is not up to date" in record.getMessage() for record in caplog.records)


def test_their_asynchronous_twins(collection: str) -> None:
    @flow
    async def pipeline() -> Any:
        logged = await alog_artifact("model", [1, 2, 3], collection=collection)
        promoted = await apromote_artifact("model", to="production", collection=collection)
        return logged == promoted, await aload_artifact("model", "production", collection=collection)

    assert asyncio.run(pipeline()) == (True, [1, 2, 3])
    both = {name: task for name, task in (vars(artifacts) | vars(tasks)).items() if isinstance(task, Task)}
    synchronous = {name for name in both if f"a{name}" in both}
    assert set(both) == synchronous | {f"a{name}" for name in synchronous}
    for name in synchronous:
        assert inspect.signature(both[name]).parameters == inspect.signature(both[f"a{name}"]).parameters
        assert (both[f"a{name}"].name, both[f"a{name}"].isasync) == (f"a{name}", True)
