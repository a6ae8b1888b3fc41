"""A version that a flow run makes says which run made it, and from what."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import fsspec
import pytest
from prefect import flow, task
from prefect.context import FlowRunContext
from prefect_support import artifacts_of, flush

from prefect_snapshots import ArtifactRegistry, BackupManager, SnapshotManager, load_artifact, log_artifact
from prefect_snapshots.artifacts import LineageStep
from prefect_snapshots.errors import DamagedVersion
from prefect_snapshots.repository import provenance
from prefect_snapshots.repository.commits import Draft
from prefect_snapshots.repository.contents import inline

pytestmark = [pytest.mark.xdist_group("prefect"), pytest.mark.usefixtures("prefect_server")]


def steps(found: list[LineageStep]) -> list[tuple[int, str, str, str]]:
    return [(step.distance, step.kind, step.name, step.version) for step in found]


def test_a_version_records_its_run_its_commit_and_what_the_run_had_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=b", *command], cwd=work, check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=work, check=True, capture_output=True, text=True)
    monkeypatch.chdir(work)
    registry = ArtifactRegistry(tmp_path / "r")
    other = ArtifactRegistry(tmp_path / "other", "team")
    snapshots: SnapshotManager[Any] = SnapshotManager(tmp_path / "r", name="training")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("x")
    backups = BackupManager(tmp_path / "r", name="shop", directories=[tmp_path / "data"])
    backup = backups.create_backup("first")
    for value in range(2):
        registry.log_artifact("features", value)
    other.log_artifact("labels", 1)
    snapshots.save_snapshot(1, "step-1")
    registry.load_artifact("features", 1)  # outside of a run
    ran: dict[str, str] = {}

    @task
    def read() -> None:
        registry.load_artifact("features", 0)

    @flow(name="train a model")
    def train() -> None:
        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        ran.update(id=str(context.flow_run.id), name=context.flow_run.name)
        registry.log_artifact("first", "made of nothing")
        read()
        read.submit().wait()
        other.download_artifact("labels")
        snapshots.load_snapshot("step-1")
        backups.restore_backup(backup.name, confirm=True, safety=False)
        registry.list_versions("features")  # is no reading
        registry.log_artifact("model", 1)

    @flow
    def another() -> None:
        registry.load_artifact("model")
        registry.log_artifact("report", "text", "text")

    train()
    another()
    first, model = registry.get_artifact("first").made_by, registry.get_artifact("model").made_by
    assert first is not None
    assert model is not None
    assert first.inputs == ()
    assert (model.flow, model.flow_run, model.flow_run_id) == ("train a model", ran["name"], ran["id"])
    assert model.git is not None
    assert (model.git.commit, model.git.dirty) == (commit.stdout.strip(), False)
    assert [str(one) for one in model.inputs] == [
        "default/features:v0",
        f"team/labels:v0 in {other.repository.url}",
        "training:step-1",
        f"shop:{backup.name}",
    ]
    assert [one.kind for one in model.inputs] == ["artifacts", "artifacts", "snapshots", "backups"]
    assert registry.get_artifact("features").made_by is None
    origins = [
        (-1, "backups", "shop", backup.name),
        (-1, "snapshots", "training", "step-1"),
        (-1, "artifacts", "team/labels", "v0"),
        (-1, "artifacts", "default/features", "v0"),
    ]
    assert steps(registry.get_lineage("model")) == [*origins, (1, "artifacts", "default/report", "v0")]
    below = registry.get_lineage("features", 0)
    assert steps(below) == [(1, "artifacts", "default/model", "v0"), (2, "artifacts", "default/report", "v0")]
    assert below[0].flow_run == ran["name"]
    assert registry.get_lineage("features", 1) == []
    # Names that were changed since are found, and a copy of the version still says who made it.
    registry.rename_artifact("features", "inputs")
    registry.rename_artifact("model", "classifier")
    assert steps(registry.get_lineage("classifier"))[-2:] == [
        (-1, "artifacts", "default/inputs", "v0"),
        (1, "artifacts", "default/report", "v0"),
    ]
    registry.create_release("1", {"classifier": 0})
    copied = registry.copy_release("1", tmp_path / "copy")
    made = copied.get_artifact("classifier").made_by
    assert made is not None
    assert (made.flow_run_id, made.git) == (model.flow_run_id, model.git)
    # Another version may have the name of an input there.
    assert [str(one) for one in made.inputs] == [
        f"default/features:v0 in {registry.repository.url}",
        f"team/labels:v0 in {other.repository.url}",
        f"training:step-1 in {registry.repository.url}",
        f"shop:{backup.name} in {registry.repository.url}",
    ]


def test_snapshots_and_files_are_in_the_lineage(tmp_path: Path) -> None:
    registry = ArtifactRegistry(tmp_path / "r")
    snapshots: SnapshotManager[Any] = SnapshotManager(tmp_path / "r", name="training", max_snapshots=2)
    snapshots.save_snapshot(0, "before")
    registry.log_artifact("data", "a,b", "text")
    registry.log_artifact("labels", "c,d", "text")
    registry.create_release("1", {"labels": 0})
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x").write_text("x")
    backup = BackupManager(tmp_path / "r", name="shop", directories=[tmp_path / "data"]).create_backup("first")
    files = fsspec.filesystem("snapshots", repository=registry.repository)

    @flow
    def train() -> None:
        files.ls("artifacts/labels@latest")  # is no reading
        files.cat("artifacts/data@latest/data.txt")
        snapshots.save_snapshot(1, "step-1")
        with files.open("releases/default@1/labels/labels.txt") as opened:
            opened.read()
        files.cat(files.find("snapshots/training@step-1")[0])
        files.cat("backups/shop@latest/data/x")
        snapshots.clone_snapshot("before", "clone")

    @flow
    def release() -> None:
        snapshots.load_snapshot("clone")
        registry.log_artifact("model", 1)

    train()
    release()
    infos = {info.id: info for info in snapshots.list_snapshots()}
    assert list(infos) == ["clone", "step-1"]
    first, clone = infos["step-1"].made_by, infos["clone"].made_by
    assert first is not None
    assert clone is not None
    assert first.flow == "train"
    assert [str(one) for one in first.inputs] == ["default/data:v0"]
    assert [str(one) for one in clone.inputs] == [
        *("default/data:v0", "default/labels:v0", "training:step-1", f"shop:{backup.name}", "training:before"),
    ]
    snapshots.delete_snapshot("clone")  # what it was made from is still known
    expected = [
        (-2, "snapshots", "training", "before"),
        (-2, "backups", "shop", backup.name),
        (-2, "snapshots", "training", "step-1"),
        (-2, "artifacts", "default/labels", "v0"),
        (-2, "artifacts", "default/data", "v0"),
        (-1, "snapshots", "training", "clone"),
    ]
    assert steps(registry.get_lineage("model")) == expected
    origins = registry.get_lineage("model", origins_only=True)
    assert steps(origins) == expected
    assert origins[-1].made_from == clone.inputs
    below = [(1, "snapshots", "training", "clone"), (1, "snapshots", "training", "step-1")]
    assert steps(registry.get_lineage("data")) == [*below, (2, "artifacts", "default/model", "v0")]
    snapshots.save_to_file(tmp_path / "file")
    again = SnapshotManager.load_from_file(tmp_path / "file").persist(tmp_path / "other")
    assert again.list_snapshots()[0].made_by == first
    stream = registry.repository.stream("snapshots", "training", lambda _: None)
    forged = {"id": "forged", "made_by": {"flow": 3}}
    registry.repository.commit(stream, lambda: Draft("put", forged), content=inline(b"", [b"1"]))
    assert snapshots.list_snapshots()[0].made_by is None
    assert steps(registry.get_lineage("model")) == expected


def test_a_card_says_what_a_version_records(tmp_path: Path) -> None:
    registry = ArtifactRegistry(tmp_path / "r")
    registry.log_artifact("x", 1)

    @flow(name="train")
    def run() -> None:
        registry.load_artifact("x")
        registry.log_artifact("y", 2, metadata={"metrics": {"loss": 0.5, "deep": {"er": [1]}}, "a|b": "<b>*x*</b>"})

    run()
    registry.promote_artifact("y", to="production")
    registry.describe_artifact("y", description="# Reads digits\n\n*In Markdown.*", add_tags="team=a")
    registry.describe_artifact("y", 0, description="Version of half of the data.", add_tags=["team=a", "small"])
    card = registry.get_card("y", "production")
    assert card.startswith("# y v0\n\n# Reads digits\n\n*In Markdown.*\n\nVersion of half of the data.\n\n| | |\n")
    for line in (
        "| tags | team=a, small |",
        "| stages | production |",
        "| size | 1 B |",
        "| artifacts | `default/x` | `v0` |",
        "| `metrics.loss` | 0.5 |",
        "| `metrics.deep.er` | \\[1\\] |",
        "| a\\|b | \\<b\\>\\*x\\*\\</b\\> |",
    ):
        assert line in card.splitlines(), line
    assert " of train |" in card
    assert registry.get_card("x").startswith("# x v0\n\n| | |\n")


def test_what_is_promoted_has_its_source_as_origin(tmp_path: Path) -> None:
    snapshots: SnapshotManager[Any] = SnapshotManager(tmp_path / "r", name="training")
    snapshots.save_snapshot(1, "step-1")
    registry = ArtifactRegistry(tmp_path / "r")
    snapshots.promote("step-1", registry, "model")
    registry.promote_artifact("model", to=ArtifactRegistry(tmp_path / "r", "released"))
    assert steps(registry.get_lineage("model", collection="released")) == [
        (-2, "snapshots", "training", "step-1"),
        (-1, "artifacts", "default/model", "v0"),
    ]
    assert steps(registry.get_lineage("model")) == [
        (-1, "snapshots", "training", "step-1"),
        (1, "artifacts", "released/model", "v0"),
    ]


def test_nothing_secret_is_recorded_and_not_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "s3cret-of-the-environment")
    registry = ArtifactRegistry(tmp_path / "r")
    for value in range(3):
        registry.log_artifact("x", value)
    monkeypatch.setattr(provenance, "_INPUTS", 2)

    @flow
    def run(password: str) -> None:
        for version in range(3):
            registry.load_artifact("x", version)
            registry.load_artifact("x", version)
        registry.log_artifact("y", 1)

    run("s3cret-parameter")
    made_by = registry.get_artifact("y").made_by
    assert made_by is not None
    assert [one.version for one in made_by.inputs] == ["v0", "v1"]
    assert "s3cret" not in str(asdict(made_by))


def test_the_page_of_a_version_links_to_its_origins(tmp_path: Path) -> None:
    @flow
    def run() -> None:
        log_artifact("x", 1, collection="lineage", repository=tmp_path / "r")
        load_artifact("x", collection="lineage", repository=tmp_path / "r")
        log_artifact("y", 2, collection="lineage", repository=tmp_path / "r")

    run()
    flush()
    [page] = artifacts_of("lineage/y", "artifacts")
    assert "#### Made from" in str(page.data)
    assert "![Lineage: lineage/y v0 from lineage/x v0](data:image/svg+xml;base64," in str(page.data)
    key = "prefect-snapshots-artifacts-lineage-x"
    assert re.search(rf"\[lineage/x\]\(http://[^)]*/artifacts/key/{key}-[0-9a-f]{{4}}\)", str(page.data))


def test_a_forged_record_of_a_run_is_damage(tmp_path: Path) -> None:
    registry = ArtifactRegistry(tmp_path / "r")
    registry.log_artifact("x", 1)
    stream = registry.repository.stream("artifacts", "default:x", lambda _: None)
    for number, forged in enumerate(
        [3, {"flow": 3}, {"flow": "f", "flow_run": "r", "flow_run_id": "i", "inputs": [[1]]}], 1
    ):
        body = {"id": f"v{number}", "handler": "json", "made_by": forged}
        registry.repository.commit(stream, lambda body=body: Draft("version", body), content=inline(b"", [b"1"]))  # type: ignore[misc]
    assert [info.version for info in registry.list_versions("x")] == ["v0"]
    with pytest.raises(DamagedVersion):
        registry.load_artifact("x", 1)
    assert registry.get_lineage("x", 0) == []


def test_outside_of_prefect_nothing_of_it_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from prefect_snapshots import ArtifactRegistry; r = ArtifactRegistry(sys.argv[1]);"
        "r.log_artifact('x', 1); r.load_artifact('x');"
        "assert r.get_artifact('x').made_by is None; assert 'prefect.context' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "r")], check=True)
