"""One name that cannot be read hides no other one: listings, searches, reports and clean-ups go on without it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forging import deep
from test_hostile import forge

from prefect_snapshots import ArtifactRegistry, BackupManager, Repository, RetentionPolicy, Snapper, SnapshotManager
from prefect_snapshots.backups import list_base_backups, recovery_windows
from prefect_snapshots.checkpoints import CheckpointManager
from prefect_snapshots.cli.program import _app
from prefect_snapshots.errors import IntegrityError
from prefect_snapshots.reports import describe_repository
from prefect_snapshots.repository.metadata import DEPTH_LIMIT
from prefect_snapshots.snapshots import list_names

DEEP = deep(DEPTH_LIMIT + 2)
"""One more than in a dictionary of metadata."""
LOOKS: dict[str, Callable[[Repository], Any]] = {
    "snapshots": lambda repository: SnapshotManager(repository, name="bad").list_snapshots(),
    "artifacts": lambda repository: ArtifactRegistry(repository).list_versions("bad"),
    "releases": lambda repository: ArtifactRegistry(repository).list_releases("bad"),
    "checkpoints": lambda repository: CheckpointManager(repository).list_checkpoints("bad"),
}
STREAMS = {"artifacts": "default:bad"}


def double(number: int) -> int:
    return 2 * number


@pytest.mark.parametrize(
    ("kind", "what", "body"),
    [
        *((kind, "describe", {"add_tags": 5}) for kind in ("snapshots", "artifacts")),
        *((kind, "describe", {"add_tags": [["x"]]}) for kind in ("snapshots", "artifacts")),
        *((kind, "renamed", {"to": to}) for kind in ("snapshots", "artifacts") for to in ("\x1b[2J", 7, "", "../x")),
        ("artifacts", "renamed", {"to": "no colon"}),
        *((kind, "unknown", {"metadata": DEEP}) for kind in LOOKS),
    ],
)
def test_what_no_writer_of_ours_says_of_a_name_is_damage(
    tmp_path: Path, kind: str, what: str, body: dict[str, Any]
) -> None:
    SnapshotManager(tmp_path, name="own").save_snapshot(1, "one")
    forge(tmp_path, kind, STREAMS.get(kind, "bad"), what, body)
    with pytest.raises(IntegrityError):
        LOOKS[kind](Repository(tmp_path))


def test_a_release_outlives_what_is_said_of_names(tmp_path: Path) -> None:
    registry = ArtifactRegistry(tmp_path)
    registry.log_artifact("model", 1)
    registry.create_release("1.0")
    for body in ({"from": "model", "to": "\x1b[2J"}, {"from": 5, "to": "x"}, {"to": "x"}, {"from": "model", "to": [1]}):
        forge(tmp_path, "releases", "default", "rename", body)
    registry = ArtifactRegistry(Repository(tmp_path))
    assert registry.find_release("1.0").artifacts == {"model": "v0"}
    registry.rename_artifact("model", "classifier")
    assert registry.find_release("1.0").artifacts == {"classifier": "v0"}


def test_listings_go_on(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("x")
    place = tmp_path / "r"
    repository = Repository(place)
    for name in ("bad", "good"):
        SnapshotManager(repository, name=name).save_snapshot(1, f"{name}-one")
        ArtifactRegistry(repository).log_artifact(name, 1)
        BackupManager(repository, name=name, directories=[tmp_path / "data"]).create_backup(name)
        Snapper(range(3), double, repository=repository, name=name, function_version="1").start()
    for kind in ("snapshots", "artifacts", "backups", "checkpoints"):
        forge(place, kind, STREAMS.get(kind, "bad"), "unknown", {"metadata": DEEP})
    forge(place, "wal", "sqlite/bad", "unknown", {"metadata": DEEP})
    forge(place, "wal", "7/00000001", "put", {"id": "../../x"})

    repository = Repository(place)
    registry, checkpoints, keep_all = ArtifactRegistry(repository), CheckpointManager(repository), RetentionPolicy()
    # A name that is damaged is listed, and whoever reads it is told.
    assert list_names(repository) == registry.list_names() == checkpoints.list_names() == ["bad", "good"]
    with caplog.at_level(logging.WARNING):
        assert [info.name for info in registry.list_artifacts()] == ["good"]
    assert "Artifact bad cannot be read" in caplog.text
    assert [info.name for info in registry.search("size > 0")] == ["good"]
    assert registry.get_lineage("good") == []
    assert registry.list_collection_names() == ["default"]
    assert [row.name for row in registry.cleanup(keep_all).rows] == ["good:v0"]
    assert [info.name for info in checkpoints.list_checkpoints()] == ["good"]
    assert len(checkpoints.cleanup(keep_all).rows) == 1
    assert list_base_backups(repository) == []
    assert {window.system: window.ok for window in recovery_windows(repository)} == {"7": False, "sqlite/bad": False}
    assert {"good", "default/good"} <= {document.title for document in describe_repository(repository)}

    def listed(*command: str) -> Any:
        capsys.readouterr()
        done = _app.meta([*command, "--json", "--repository", str(place)], result_action="return_value")
        answer = capsys.readouterr()
        assert done == 0, answer.err
        return json.loads(answer.out)

    assert [row["name"] for row in listed("snapshots", "list")["names"]] == ["good"]
    assert listed("snapshots", "show", "good-one")["id"] == "good-one"
    assert [row["name"] for row in listed("artifacts", "list")["artifacts"]] == ["good"]
    [backup] = listed("backups", "list")["backups"]
    assert backup["manager"] == "good"
    assert listed("backups", "show", backup["name"])["name"] == backup["name"]
    assert [row["name"] for row in listed("checkpoints", "list")["checkpoints"]] == ["good"]
