"""Artifacts in Weights & Biases: the real `wandb` and `wandb-core`, against a stand-in of their server.

Held here: what is logged comes back, with its version, aliases, metadata, expiry, modes and links; what W&B cannot do
is said and not pretended; what it would refuse is refused before anything is sent.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serve_wandb import API_KEY, ENTITY, Artifact, Refused, WandbServer, wandb_server

from prefect_snapshots import ArtifactRegistry, ModelLogger, SnapshotManager, WandbArtifactRegistry
from prefect_snapshots.artifacts import ArtifactManager, FileDifference
from prefect_snapshots.errors import (
    ArtifactExpired,
    ArtifactNotFound,
    CommitConflict,
    DamagedVersion,
    EnvironmentMismatch,
    IntegrityError,
    InvalidArgument,
    InvalidName,
    NotSupported,
    PickleRefused,
    StorageError,
    UnserialisableValue,
)

PROJECT = "project"
REPOSITORY = Path(__file__).parent.parent

# One process talks to W&B through one `wandb-core`, and has one active run.
pytestmark = [
    pytest.mark.xdist_group("wandb"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),  # wandb leaves its connections to be collected
]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[WandbServer, dict[str, str]]]:
    """A server, and what of the environment leads wandb to it and to directories of its own."""
    home = tmp_path_factory.mktemp("wandb")
    with wandb_server() as server:
        yield (
            server,
            {
                "WANDB_BASE_URL": server.url,
                "WANDB_API_KEY": API_KEY,
                "WANDB_ERROR_REPORTING": "false",
                "WANDB_SILENT": "true",
                "WANDB_CONSOLE": "off",
                "WANDB_DISABLE_GIT": "true",
                "WANDB_DISABLE_CODE": "true",
                **{f"WANDB_{one}_DIR": str(home / one.lower()) for one in ("CACHE", "CONFIG", "DATA", "ARTIFACT")},
                "WANDB_DIR": str(home),
            },
        )


@pytest.fixture(scope="module")
def server(environment: tuple[WandbServer, dict[str, str]]) -> Iterator[WandbServer]:
    server, variables = environment
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        import wandb

        yield server
        wandb.teardown()
    assert server.problems == []


@pytest.fixture(scope="module")
def run(server: WandbServer) -> Iterator[None]:
    import wandb

    with wandb.init(project=PROJECT, entity=ENTITY):
        yield


@pytest.fixture
def registry(run: None, request: pytest.FixtureRequest) -> WandbArtifactRegistry:
    """A registry over the project of the active run. Every test has a collection of its own."""
    return WandbArtifactRegistry(PROJECT, request.node.name.partition("[")[0])


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Names are unique in a project, whatever their collection."""
    return "".join(char if char.isalnum() else "-" for char in request.node.name)


def stored(server: WandbServer, name: str, version: int = -1, project: str = PROJECT) -> Artifact:
    """What the server holds of a version."""
    found = server.open_project(ENTITY, project).collections[name].members[version].artifact
    assert isinstance(found, Artifact)
    return found


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Mode and content of everything in a folder."""
    return {
        str(path.relative_to(folder)): (
            0 if path.is_symlink() else path.stat().st_mode,
            os.readlink(path).encode() if path.is_symlink() else b"" if path.is_dir() else path.read_bytes(),
        )
        for path in sorted(folder.rglob("*"))
    }


def test_the_stand_in_answers_no_query_that_it_does_not_know() -> None:
    with wandb_server() as server:
        answer = server.execute("query Q { viewer { id nickname } }", {})
        assert "Cannot query field 'nickname' on type 'User'" in answer["errors"][0]["message"]
        assert len(server.problems) == 1


# --- files and values -------------------------------------------------------------------------------------------------


def test_a_folder_comes_back_with_modes_links_and_empty_directories(
    registry: WandbArtifactRegistry, name: str, tmp_path: Path
) -> None:
    manager: ArtifactManager = registry
    with manager.log_folder(name) as folder:
        (folder / "empty").mkdir()
        (folder / "deep" / "er").mkdir(parents=True)
        (folder / "deep" / "er" / "data.bin").write_bytes(os.urandom(100_000))
        (folder / "deep" / "run.sh").write_text("echo hello")
        (folder / "deep" / "run.sh").chmod(0o755)
        (folder / "deep" / "link").symlink_to("er/data.bin")
        (folder / "nothing").touch()
        (folder / "closed").mkdir(mode=0o500)
        expected = snapshot(folder)
    download = manager.download_artifact(name, to=tmp_path / "there")
    assert str(download.version) == f"{registry.active_collection}/{name}:v0"
    assert snapshot(download.path) == expected
    with manager.download_artifact(name) as temporary:
        assert snapshot(temporary) == expected
    assert not temporary.exists()


def test_wandb_alone_reads_a_plain_folder(registry: WandbArtifactRegistry, name: str, tmp_path: Path) -> None:
    import wandb

    (tmp_path / "file.txt").write_text("Example content")
    (tmp_path / "file.txt").chmod(0o640)
    registry.log_files(name, tmp_path / "file.txt", artifact_path="below", metadata={"loss": 0.5})
    found = wandb.Api().artifact(f"{ENTITY}/{PROJECT}/{name}:latest", type=registry.active_collection)
    assert found.metadata == {"loss": 0.5, "prefect_snapshots": {"mode": 0o640}}
    assert Path(found.download(tmp_path / "there"), "below", "file.txt").read_text() == "Example content"


def test_what_wandb_alone_logged_is_a_folder(
    server: WandbServer, registry: WandbArtifactRegistry, name: str, tmp_path: Path
) -> None:
    import wandb

    (tmp_path / "file.txt").write_text("by hand")
    artifact = wandb.Artifact(name, type=registry.active_collection, metadata={"by": "hand"})
    artifact.add_file(str(tmp_path / "file.txt"))
    assert wandb.run is not None
    wandb.run.log_artifact(artifact).wait()
    info = registry.get_artifact(name)
    assert (info.handler, info.metadata, info.size) == (None, {"by": "hand"}, 7)
    with registry.download_artifact(name) as folder:
        assert snapshot(folder) == {"file.txt": (stat.S_IFREG | 0o644, b"by hand")}
    registry.update_artifact_metadata(name, {"more": 1})
    assert json.loads(stored(server, name).metadata or "") == {"by": "hand", "more": 1}


@pytest.mark.parametrize(
    ("handler", "value"),
    [
        ("json", {"a": [1, 2.5, None, "x"]}),
        ("text", ""),
        ("numpy", np.arange(6.0).reshape(2, 3)),
        ("pytree", {"weights": np.arange(100_000.0), "step": 3}),
        ("pickle", {1, 2, 3}),
    ],
)
def test_a_value_comes_back(registry: WandbArtifactRegistry, name: str, handler: str, value: Any) -> None:
    registry.log_artifact(name, value, handler)
    info = registry.get_artifact(name)
    assert info.handler == handler
    assert ("python" in info.environment) == (handler == "pickle")
    np.testing.assert_equal(registry.load_artifact(name), value)
    suffix = {"text": "txt", "numpy": "npy"}.get(handler, handler)
    with registry.download_artifact(name) as folder:
        assert {path.name for path in folder.iterdir()} - {f"{name}.{suffix}.manifest"} == {f"{name}.{suffix}"}
    with pytest.raises(PickleRefused if handler == "pickle" else ArtifactNotFound):
        WandbArtifactRegistry(PROJECT, registry.active_collection, ENTITY, allow_pickle=False).load_artifact(
            name, None if handler == "pickle" else "v1"
        )


def test_part_of_a_tree_and_writer_options(registry: WandbArtifactRegistry, name: str) -> None:
    registry.log_artifact(name, {"a": {"x": np.ones(50_000)}, "b": np.zeros(50_000)}, "pytree")
    assert set(registry.load_artifact(name, leaves="a/**")) == {"a"}
    registry.log_artifact(f"{name}-2", [1], indent=4)
    with registry.download_artifact(f"{name}-2") as folder:
        assert (folder / f"{name}-2.json").read_text() == "[\n    1\n]"


def test_values_of_another_environment(server: WandbServer, registry: WandbArtifactRegistry, name: str) -> None:
    registry.log_artifact(name, {1}, "pickle")
    found = stored(server, name)
    metadata = json.loads(found.metadata or "")
    metadata["prefect_snapshots"]["environment"]["python"] = "2.7"
    found.metadata = json.dumps(metadata)
    with pytest.raises(EnvironmentMismatch, match=r"python 2\.7"):
        registry.load_artifact(name)
    assert registry.load_artifact(name, validate=False) == {1}


def test_the_state_of_a_model(registry: WandbArtifactRegistry, name: str) -> None:
    logger = ModelLogger(artifact_manager=registry)
    logger.log_state_to_artifact(name, {"weight": np.ones(3)}, epoch=3)
    state = logger.retrieve_state_from_artifact(name)
    assert state["epoch"] == 3
    np.testing.assert_equal(state["model"], {"weight": np.ones(3)})


def test_nothing_is_logged_of_what_fails(registry: WandbArtifactRegistry, name: str) -> None:
    def log_half() -> None:
        with registry.log_folder(name) as folder:
            (folder / "half.txt").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        log_half()
    with pytest.raises(UnserialisableValue):
        registry.log_artifact(name, object())
    assert not registry.exists(name)


def test_what_the_server_does_not_take_is_an_error(
    server: WandbServer, registry: WandbArtifactRegistry, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Any, input: dict[str, Any]) -> dict[str, Any]:
        raise Refused("out of order")

    monkeypatch.setattr(server, "commitArtifact", refuse)
    with pytest.raises(StorageError, match="out of order"):
        registry.log_artifact(name, [1])
    assert not registry.exists(name)


# --- which there are --------------------------------------------------------------------------------------------------


def test_lists(registry: WandbArtifactRegistry, name: str) -> None:
    for at in range(5):
        registry.log_artifact(name, at, metadata={"at": at})
    for at in range(3):
        registry.log_artifact(f"{name}-{at}", at)
    assert registry.active_collection in registry.list_collection_names()
    assert registry.list_names() == [name, *(f"{name}-{at}" for at in range(3))]
    assert registry.list_names("none") == []
    infos = registry.list_versions(name)[::-1]
    assert [(info.version, info.metadata, info.aliases) for info in infos] == [
        (f"v{at}", {"at": at}, ["latest"] if at == 4 else []) for at in range(5)
    ]
    assert [registry.exists(name, version=version) for version in (0, "v4", "latest", 5, "production")] == [
        *(True, True, True),
        *(False, False),
    ]
    assert (
        registry.load_artifact(name, 3) == registry.load_artifact(name, "v3") == registry.load_artifact(name, "3") == 3
    )
    assert registry.get_artifact_metadata(name, 2) == {"at": 2}


def test_a_project_that_is_not_there_is_empty(run: None) -> None:
    registry = WandbArtifactRegistry("nowhere", entity=ENTITY)
    assert registry.list_collection_names() == []
    assert registry.list_names() == []
    with pytest.raises(ArtifactNotFound, match="team/nowhere has no artifact 'x'"):
        registry.load_artifact("x")


def test_what_is_missing_is_told_with_what_there_is(registry: WandbArtifactRegistry) -> None:
    registry.log_artifact("features", [1])
    registry.set_alias("features", 0, "production")
    with pytest.raises(ArtifactNotFound, match=r"no artifact 'feature'\. Existing artifacts: features\."):
        registry.get_artifact("feature")
    with pytest.raises(
        ArtifactNotFound, match=r"no version 'productoin'\. Existing versions: v0\. Aliases: production\."
    ):
        registry.get_artifact("features", "productoin")
    with pytest.raises(ArtifactNotFound, match="no artifact 'features'"):
        registry.get_artifact("features", collection="other")


def test_versions_that_were_deleted(server: WandbServer, registry: WandbArtifactRegistry, name: str) -> None:
    for at in range(3):
        registry.log_artifact(name, at)
    collection = server.open_project(ENTITY, PROJECT).collections[name]
    del collection.members[2], collection.pointers["latest"]
    assert (registry.load_artifact(name), registry.load_artifact(name, "latest")) == (1, 1)
    collection.members.clear()
    assert not registry.exists(name)
    with pytest.raises(ArtifactNotFound, match="all were deleted"):
        registry.list_versions(name)


def test_points_in_time(server: WandbServer, registry: WandbArtifactRegistry, name: str) -> None:
    for at in range(4):
        registry.log_artifact(name, at)
        stored(server, name).createdAt = f"2026-01-01T00:00:{10 * min(at, 2):02d}Z"
    assert registry.load_artifact(name, "2026-01-01T00:00:10") == 1
    assert registry.load_artifact(name, datetime(2026, 1, 1, 0, 0, 15, tzinfo=UTC), match="asof") == 1
    assert registry.load_artifact(name, "2026-01-01", match="exact") == 0
    with pytest.raises(ArtifactNotFound, match="several versions"):
        registry.load_artifact(name, "2026-01-01T00:00:20")
    with pytest.raises(ArtifactNotFound, match="Its first version is from 2026-01-01"):
        registry.load_artifact(name, "2025-01-01", match="asof")
    assert registry.get_artifact(name, 1).created_at == datetime(2026, 1, 1, 0, 0, 10, tzinfo=UTC)


# --- what is noted ----------------------------------------------------------------------------------------------------


def test_expiry_is_the_ttl(server: WandbServer, registry: WandbArtifactRegistry, name: str) -> None:
    expiry = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)
    registry.log_artifact(name, [1], expiry=expiry)
    assert registry.get_artifact(name).expiry == expiry
    assert timedelta(seconds=stored(server, name).ttlDurationSeconds) == expiry - registry.get_artifact(name).created_at
    registry.set_artifact_expiry(name, None)
    assert registry.get_artifact(name).expiry is None
    assert stored(server, name).ttlDurationSeconds == -2
    registry.set_artifact_expiry(name, "2100-01-01")
    assert registry.get_artifact(name).expiry == datetime(2100, 1, 1, tzinfo=UTC)
    stored(server, name).createdAt = "1999-01-01T00:00:00Z"
    registry.set_artifact_expiry(name, "2000-01-01")
    with pytest.raises(ArtifactExpired, match="2000-01-01"):
        registry.load_artifact(name)
    with pytest.raises(ArtifactExpired):
        registry.promote_artifact(name, to="production")
    assert registry.load_artifact(name, validate=False) == [1]
    for moment in ("1999-01-01", "1998-01-01"):
        with pytest.raises(InvalidArgument, match="not after the version was logged"):
            registry.set_artifact_expiry(name, moment)


def test_metadata_is_merged_and_keeps_our_note(registry: WandbArtifactRegistry, name: str) -> None:
    registry.log_artifact(name, {1}, "pickle", metadata={"loss": 0.9, "seed": np.int64(7)})
    registry.update_artifact_metadata(name, {"loss": 0.5, "nested": {"list": [1, None]}})
    assert registry.get_artifact_metadata(name) == {"loss": 0.5, "seed": 7, "nested": {"list": [1, None]}}
    assert registry.load_artifact(name) == {1}


@pytest.mark.parametrize(
    "metadata",
    [
        {"loss": float("nan")},
        {"loss": float("inf")},
        {"when": datetime.now(UTC)},
        {"raw": b"bytes"},
        {"prefect_snapshots": {}},
        {str(at): at for at in range(100)},
    ],
)
def test_metadata_that_w_and_b_would_change_is_refused(
    server: WandbServer, registry: WandbArtifactRegistry, metadata: dict[str, Any]
) -> None:
    before = len(server.mutations)
    with pytest.raises(InvalidArgument):
        registry.log_artifact("refused", [1], metadata=metadata)
    assert server.mutations[before:] == []


def test_the_same_files_are_the_same_version_and_take_the_new_notes(
    registry: WandbArtifactRegistry, name: str, tmp_path: Path
) -> None:
    (tmp_path / "run.sh").write_text("echo hello")
    assert registry.log_files(name, tmp_path, metadata={"a": 1, "b": 1}).version == "v0"
    assert registry.log_files(name, tmp_path, metadata={"b": 2}, expiry="2100-01-01").version == "v0"
    info = registry.get_artifact(name)
    assert (info.metadata, info.expiry) == ({"a": 1, "b": 2}, datetime(2100, 1, 1, tzinfo=UTC))
    (tmp_path / "run.sh").chmod(0o755)
    with pytest.raises(CommitConflict, match=f"takes this for .*/{name}:v0"):
        registry.log_files(name, tmp_path, metadata={"b": 3})
    assert registry.get_artifact_metadata(name) == {"a": 1, "b": 2}


# --- stages -----------------------------------------------------------------------------------------------------------


def test_stages_are_aliases(registry: WandbArtifactRegistry, name: str) -> None:
    for at in range(2):
        registry.log_artifact(name, at)
    assert registry.promote_artifact(name, 0, to="production").version == "v0"
    assert registry.load_artifact(name, "production") == 0
    assert registry.set_alias(name, "latest", "production", expected="v0").version == "v1"
    assert registry.get_aliases(name) == {"latest": "v1", "production": "v1"}
    with pytest.raises(CommitConflict, match=r"'production' of .* is v1, not v0 as expected"):
        registry.set_alias(name, 0, "production", expected=0)
    with pytest.raises(CommitConflict, match="is v1, not unset as expected"):
        registry.promote_artifact(name, 0, to="production", expected=None)
    registry.set_alias(name, 0, "staging", expected=None)
    registry.delete_alias(name, "production")
    assert registry.get_aliases(name) == {"latest": "v1", "staging": "v0"}
    with pytest.raises(ArtifactNotFound, match="no version 'production'"):
        registry.delete_alias(name, "production")
    with pytest.raises(NotSupported, match="no history of aliases"):
        registry.get_alias_history(name)


@pytest.mark.parametrize("alias", ["latest", "v3", "3", "2026-01-01", "a/b", "a:b", "", " "])
def test_aliases_that_are_refused(server: WandbServer, registry: WandbArtifactRegistry, alias: str) -> None:
    before = len(server.mutations)
    with pytest.raises(InvalidName):
        registry.set_alias("anything", 0, alias)
    assert server.mutations[before:] == []


# --- between stores ---------------------------------------------------------------------------------------------------


def test_into_a_repository_and_back(registry: WandbArtifactRegistry, name: str, tmp_path: Path) -> None:
    repository = ArtifactRegistry(tmp_path / "repository")
    with registry.log_folder(name, metadata={"loss": 0.5}, expiry="2100-01-01") as folder:
        (folder / "large.bin").write_bytes(os.urandom(1_000_000))
        (folder / "run.sh").touch(mode=0o755)
        (folder / "link").symlink_to("run.sh")
        expected = snapshot(folder)
    assert str(registry.promote_artifact(name, to=repository)) == f"default/{name}:v0"
    assert str(registry.promote_artifact(name, to=repository)) == f"default/{name}:v0"
    info = repository.get_artifact(name)
    assert (info.metadata, info.expiry) == ({"loss": 0.5}, datetime(2100, 1, 1, tzinfo=UTC))
    assert info.source == {
        "repository": f"wandb:{ENTITY}/{PROJECT}",
        "url": f"{os.environ['WANDB_BASE_URL']}/{ENTITY}/{PROJECT}",
        "collection": registry.active_collection,
        "name": name,
        "version": "v0",
        "created_at": registry.get_artifact(name).created_at.isoformat(),
    }
    with repository.download_artifact(name) as there:
        assert snapshot(there) == expected

    with repository.log_folder(name) as folder:
        (folder / "new.bin").write_bytes(os.urandom(100_000))
    progress: list[tuple[str, int, int]] = []
    back = repository.promote_artifact(name, to=registry, progress=lambda *done: progress.append(done))
    assert str(back) == f"{registry.active_collection}/{name}:v1"
    assert progress[-1][1] == progress[-1][2] > 100_000
    assert repository.promote_artifact(name, to=registry) == back
    source = registry.get_artifact(name).source
    assert source is not None
    assert (source["url"], source["version"]) == (repository.repository.url, "v1")


@pytest.mark.parametrize(
    ("handler", "value"),
    [("json", [1, 2]), ("text", ""), ("pytree", {"a": np.arange(50_000.0)}), ("pickle", {1, 2})],
)
def test_values_into_a_repository_and_back(
    registry: WandbArtifactRegistry, name: str, tmp_path: Path, handler: str, value: Any
) -> None:
    repository = ArtifactRegistry(tmp_path / "repository")
    registry.log_artifact(name, value, handler)
    registry.promote_artifact(name, to=repository)
    np.testing.assert_equal(repository.load_artifact(name), value)
    assert repository.get_artifact(name).environment == registry.get_artifact(name).environment
    repository.log_artifact(f"{name}-2", [value], "pickle")
    repository.promote_artifact(f"{name}-2", to=registry)
    np.testing.assert_equal(registry.load_artifact(f"{name}-2"), [value])


def test_a_snapshot_becomes_an_artifact(registry: WandbArtifactRegistry, name: str, tmp_path: Path) -> None:
    snapshots = SnapshotManager(tmp_path / "repository", name="training")
    snapshots.save_snapshot({"weights": np.arange(5_000.0)}, "step-1", metadata={"loss": 0.2})
    snapshots.promote("step-1", registry, name)
    np.testing.assert_equal(registry.load_artifact(name), {"weights": np.arange(5_000.0)})
    assert registry.get_artifact_metadata(name) == {"loss": 0.2}


def test_into_a_registry_of_w_and_b_it_is_linked(
    server: WandbServer, registry: WandbArtifactRegistry, name: str
) -> None:
    registry.log_artifact(name, [1])
    registry.log_artifact(name, [2])
    models = WandbArtifactRegistry("wandb-registry-model", registry.active_collection)
    assert registry.promote_artifact(name, 1, to=models).version == "v0"
    assert models.load_artifact(name) == [2]
    models.set_alias(name, 0, "production")
    assert (models.get_aliases(name), registry.get_aliases(name)) == (
        {"latest": "v0", "production": "v0"},
        {"latest": "v1"},
    )
    with pytest.raises(InvalidArgument, match="link"):
        models.set_artifact_expiry(name, "2100-01-01")
    with pytest.raises(InvalidArgument, match="keeps its type"):
        registry.promote_artifact(name, to=WandbArtifactRegistry("wandb-registry-model", "other"))


def test_a_run_of_another_project(registry: WandbArtifactRegistry, name: str) -> None:
    import wandb

    registry.log_artifact(name, [1], metadata={"loss": 1})
    other = WandbArtifactRegistry("other")
    with pytest.raises(InvalidArgument, match="The active run belongs to team/project"):
        other.log_artifact(name, [1])
    with pytest.raises(InvalidArgument, match="The active run belongs to team/project"):
        WandbArtifactRegistry(PROJECT, entity="them").log_artifact(name, [1])
    mine = wandb.run
    with wandb.init(project="other", entity=ENTITY, reinit="create_new") as run:
        wandb.run = run
        source = WandbArtifactRegistry(PROJECT, registry.active_collection, ENTITY)
        assert str(source.promote_artifact(name, to=other)) == f"default/{name}:v0"
        assert (other.load_artifact(name), other.get_artifact_metadata(name)) == ([1], {"loss": 1})
        wandb.run = mine


# --- what differs -----------------------------------------------------------------------------------------------------


def test_differences(server: WandbServer, registry: WandbArtifactRegistry, name: str, tmp_path: Path) -> None:
    for at in range(2):
        (tmp_path / "same.bin").write_bytes(bytes(1000))
        (tmp_path / "text.txt").write_text(f"line\n{at}\n")
        (tmp_path / f"only-{at}").touch()
        registry.log_files(name, tmp_path)
        (tmp_path / f"only-{at}").unlink()
    assert registry.diff(name, 0) == [
        FileDifference("only-0", "removed", "0 bytes", None),
        FileDifference("only-1", "added", None, "0 bytes"),
        FileDifference(
            "text.txt", "changed", "7 bytes", "7 bytes", "--- text.txt\n+++ text.txt\n@@ -1,2 +1,2 @@\n line\n-0\n+1"
        ),
    ]
    for version in (0, 1):
        server.storage.pop(stored(server, name, version).file("text.txt")["id"])
        assert registry.diff(name, version, version) == []
    registry.log_artifact(f"{name}-tree", {"a": 1, "b": np.zeros(5000)}, "pytree")
    registry.log_artifact(f"{name}-tree", {"a": 2, "b": np.zeros(5000)}, "pytree")
    [difference] = registry.diff(f"{name}-tree", 0, 1)
    assert (difference.path, difference.old, difference.new) == ("a", "1", "2")


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["a/b", "../a", "a:v0", "a b", "", ".", "..", "a" * 129, "ä", "a\n", "a?b"])
def test_names_that_w_and_b_refuse(
    server: WandbServer, registry: WandbArtifactRegistry, bad: str, tmp_path: Path
) -> None:
    before = len(server.mutations)
    for call in (
        lambda: registry.log_artifact(bad, [1]),
        lambda: registry.log_artifact("a", [1], collection=bad),
        lambda: registry.log_files(bad, tmp_path),
        lambda: registry.log_folder(bad),
        lambda: registry.get_artifact(bad),
        lambda: registry.list_versions("a", bad),
        lambda: WandbArtifactRegistry(PROJECT, bad),
    ):
        with pytest.raises(InvalidName):
            call()
    assert server.mutations[before:] == []


@pytest.mark.parametrize(("name", "kind"), [("a", "job"), ("a", "wandb-mine"), ("run-a", "run_table")])
def test_names_that_w_and_b_keeps_for_itself(registry: WandbArtifactRegistry, name: str, kind: str) -> None:
    with pytest.raises(InvalidName, match="reserved"):
        registry.log_artifact(name, [1], collection=kind)


@pytest.mark.parametrize("path", ["back\\slash", "\\up", "c:drive", "line\nbreak"])
def test_paths_that_do_not_come_back_are_refused(
    server: WandbServer, registry: WandbArtifactRegistry, path: str, tmp_path: Path
) -> None:
    (tmp_path / path).touch()
    before = len(server.mutations)
    with pytest.raises(InvalidName):
        registry.log_files("paths", tmp_path)
    assert server.mutations[before:] == []


def test_a_name_belongs_to_one_collection(registry: WandbArtifactRegistry, name: str) -> None:
    registry.log_artifact(name, [1])
    with pytest.raises(InvalidArgument, match="Names are unique in a project"):
        registry.log_artifact(name, [2], collection="another")
    assert not registry.exists(name, "another")


@pytest.mark.parametrize("version", [True, 1.5, b"v0"])
def test_versions_that_are_none(registry: WandbArtifactRegistry, version: Any) -> None:
    with pytest.raises(InvalidArgument, match="is not a version"):
        registry.get_artifact("anything", version)


# --- damage and malice ------------------------------------------------------------------------------------------------


def test_a_flipped_bit_is_named(
    server: WandbServer, registry: WandbArtifactRegistry, name: str, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    for file in ("good", "bad"):
        (tmp_path / "in" / file).write_bytes(os.urandom(1000))
    registry.log_files(name, tmp_path / "in")
    key = stored(server, name).file("bad")["id"]
    server.storage[key] = bytes(1000)
    with pytest.raises(DamagedVersion, match=f"{name}:v0, file bad: it does not match"):
        registry.download_artifact(name, to=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    registry.log_artifact(f"{name}-2", os.urandom(10).hex())
    del server.storage[stored(server, f"{name}-2").file(f"{name}-2.json")["id"]]
    with pytest.raises(StorageError, match=f"{name}-2:v0 could not be downloaded"):
        registry.load_artifact(f"{name}-2")


def test_a_part_is_downloaded_and_a_folder_compared(registry: WandbArtifactRegistry, name: str, tmp_path: Path) -> None:
    with registry.log_folder(name) as folder:
        for path in ("a.csv", "b.txt"):
            (folder / path).write_text(path)
    to = tmp_path / "to"
    registry.download_artifact(name, to=to, paths="*.csv")
    assert [path.name for path in to.iterdir()] == ["a.csv"]
    (to / "extra").write_text("x")
    found = registry.verify_folder(name, to)
    assert [(each.path, each.kind) for each in found] == [("b.txt", "removed"), ("extra", "added")]
    registry.download_artifact(name, to=to, clean=True)
    assert registry.verify_folder(name, to) == []


def test_downloads_at_once_do_not_mix(registry: WandbArtifactRegistry, name: str, tmp_path: Path) -> None:
    expected = []
    for _ in range(4):
        with registry.log_folder(name) as folder:
            for file in range(20):
                (folder / f"{file}").write_bytes(os.urandom(100))
            expected.append(snapshot(folder))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda at: registry.download_artifact(name, version=at, to=tmp_path / f"{at}"), range(4)))
    assert [snapshot(download.path) for download in found] == expected


@pytest.mark.parametrize("path", ["../out", "/out", "a/../../out", "line\nbreak", "a//b"])
def test_paths_of_others_that_lead_out_are_refused(
    server: WandbServer, registry: WandbArtifactRegistry, name: str, path: str, tmp_path: Path
) -> None:
    registry.log_artifact(name, [1])
    found = stored(server, name)
    manifest = json.loads(server.storage[found.manifest or ""])
    manifest["contents"] = {path: next(iter(manifest["contents"].values()))}
    server.storage["evil"] = json.dumps(manifest).encode()
    found.manifest = "evil"
    with pytest.raises((InvalidName, IntegrityError)):
        registry.download_artifact(name, to=tmp_path / "in" / "here")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "note",
    [
        {"entries": [["link", stat.S_IFLNK | 0o777, "../../out"]]},
        {"entries": [["../up", stat.S_IFDIR | 0o755, ""]]},
        {"entries": [["suid", stat.S_IFREG | 0o4755, ""]]},
        {"entries": [["file.txt/below", stat.S_IFLNK | 0o777, "x"]]},
        {"entries": [["file.txt", stat.S_IFIFO | 0o644, ""]]},
        {"mode": "0644"},
        {"handler": "json", "suffix": "json", "entries": [["x", stat.S_IFDIR | 0o755, ""]]},
        [],
    ],
)
def test_a_note_that_somebody_changed_leads_nowhere(
    server: WandbServer, registry: WandbArtifactRegistry, name: str, note: Any, tmp_path: Path
) -> None:
    (tmp_path / "file.txt").write_text("content")
    (tmp_path / "suid").touch()
    registry.log_files(name, tmp_path)
    stored(server, name).metadata = json.dumps({"prefect_snapshots": note})
    with pytest.raises((InvalidName, IntegrityError)):
        registry.download_artifact(name)


def test_references_are_not_ours(server: WandbServer, registry: WandbArtifactRegistry, name: str) -> None:
    import wandb

    artifact = wandb.Artifact(name, type=registry.active_collection)
    artifact.add_reference("https://example.org/large.bin", name="large.bin", checksum=False)
    assert wandb.run is not None
    wandb.run.log_artifact(artifact).wait()
    with pytest.raises(NotSupported, match=r"only refers to https://example\.org/large\.bin"):
        registry.download_artifact(name)


# --- runs, credentials, processes -------------------------------------------------------------------------------------


def python(code: str, variables: dict[str, str]) -> str:
    """What a program prints, in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **variables},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


REFUSED = """
import os, sys
from prefect_snapshots import WandbArtifactRegistry
from prefect_snapshots.errors import SnapshotsError
assert "wandb" not in sys.modules

def refused(call):
    try:
        call()
    except SnapshotsError as error:
        print(type(error).__name__, error)

def log():
    WandbArtifactRegistry("project").log_artifact("x", [1])

refused(log)
import wandb
wandb.init(project="project", mode="disabled")
refused(log)
os.environ["WANDB_API_KEY"] = "f" * 40
refused(WandbArtifactRegistry("project", entity="team").list_collection_names)
sys.modules["wandb"] = None
refused(log)
"""


def test_what_is_missing_is_said(environment: tuple[WandbServer, dict[str, str]]) -> None:
    server, variables = environment
    before = len(server.mutations)
    no_run, disabled, no_credentials, no_wandb = python(REFUSED, variables).splitlines()
    assert no_run.startswith("NoActiveRun Logging to W&B needs an active run. Call wandb.init(project='project')")
    assert disabled == no_run
    assert no_credentials.startswith("PermissionDenied W&B failed at")
    assert no_wandb == (
        'MissingDependency Weights & Biases needs the package wandb. Run `pip install "prefect-snapshots[wandb]"`.'
    )
    assert server.mutations[before:] == []


def test_the_page_about_it_is_true(environment: tuple[WandbServer, dict[str, str]], tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "artifacts.md").read_text()
    section = page[page.index("## Weights & Biases") :]
    [block] = re.findall(r"```python\n(.*?)```", section[: section.index("\n## What it costs")], re.DOTALL)
    expected = re.findall(r"# Output: (.*)", block)
    assert python(f"import os; os.chdir({str(tmp_path)!r})\n{block}", environment[1]).splitlines() == expected


def test_a_registry_travels_between_processes(registry: WandbArtifactRegistry, name: str) -> None:
    registry.log_artifact(name, [1])
    copy = pickle.loads(pickle.dumps(registry))
    assert copy.load_artifact(name) == [1]
    assert repr(copy) == f"WandbArtifactRegistry('team/project', collection={registry.active_collection!r})"


@pytest.mark.nightly
def test_an_offline_run_logs_and_is_synchronised_later(
    environment: tuple[WandbServer, dict[str, str]], run: None, tmp_path: Path
) -> None:
    server, variables = environment
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "run.sh").write_text("echo hello")
    (tmp_path / "folder" / "run.sh").chmod(0o755)
    code = f"""
import wandb
from prefect_snapshots import WandbArtifactRegistry
with wandb.init(project="project", entity="team", mode="offline"):
    registry = WandbArtifactRegistry("project", "offline")
    print(registry.log_artifact("later", [1, 2], metadata={{"loss": 0.5}}))
    print(registry.log_files("later-files", {str(tmp_path / "folder")!r}, expiry="2100-01-01"))
"""
    before = len(server.mutations)
    variables = {**variables, "WANDB_DIR": str(tmp_path / "runs"), "WANDB_DATA_DIR": str(tmp_path / "data")}
    (tmp_path / "runs").mkdir()
    assert python(code, variables).splitlines() == ["offline/later:offline", "offline/later-files:offline"]
    assert server.mutations[before:] == []
    [offline] = (tmp_path / "runs" / "wandb").glob("offline-run-*")
    python(f"from wandb.cli.cli import cli; cli(['sync', {str(offline)!r}])", variables)
    registry = WandbArtifactRegistry(PROJECT, "offline", ENTITY)
    assert (registry.load_artifact("later"), registry.get_artifact_metadata("later")) == ([1, 2], {"loss": 0.5})
    with registry.download_artifact("later-files") as folder:
        assert snapshot(folder) == {"run.sh": (stat.S_IFREG | 0o755, b"echo hello")}


def test_the_handle_of_an_artifact_has_the_methods_without_the_name(
    registry: WandbArtifactRegistry, name: str, tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text("1,2\n")
    handle = registry.artifact(name)
    passed: list[tuple[str, int, int]] = []
    version = handle.log_files(tmp_path / "rows.csv", progress=lambda *each: passed.append(each))
    assert passed == [("upload", 4, 4)]
    assert handle.list_files(version.version) == registry.list_files(name) == [("rows.csv", 4)]
    assert handle.set_stage("production").version == version.version == handle.get("production").version
    with handle.download(to=tmp_path / "copy", progress=lambda *each: passed.append(each)) as folder:
        assert (folder / "rows.csv").read_text() == "1,2\n"
    assert passed[1:] == [("download", 4, 4)]


def test_what_wandb_cannot_do_is_refused(registry: WandbArtifactRegistry, name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    registry.log_files(name, tmp_path / "file")
    with pytest.raises(NotSupported, match="whether an earlier upload succeeded"):
        registry.log_files(name, tmp_path / "file", token="an earlier one")
    with pytest.raises(NotSupported, match="whether an earlier upload succeeded"):
        registry.log_artifact(name, 1, token="an earlier one")
    with pytest.raises(NotSupported, match="does not record who"):
        registry.set_alias(name, 0, "best", by="me")
    with pytest.raises(NotSupported, match="no history of aliases"):
        registry.rollback(name, "best")
    assert [info.version for info in registry.list_versions(name)] == ["v0"]
