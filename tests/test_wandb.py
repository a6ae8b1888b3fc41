"""Artifacts in Weights & Biases: the real `wandb` and `wandb-core`, against a stand-in of their server.

Held here: what is logged comes back, with its name, version, aliases, metadata, expiry, modes and links; what W&B cannot
do is said and not pretended; what it would refuse is refused before anything is sent.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from serve_wandb import API_KEY, ENTITY, WandbServer, wandb_server

from prefect_snapshots import WandbArtifactRegistry
from prefect_snapshots.artifacts import ArtifactManager

PROJECT = "project"

# One process talks to W&B through one `wandb-core`, and has one active run.
pytestmark = pytest.mark.xdist_group("wandb")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WandbServer]:
    """A server, and everything that wandb reads from its environment set to it."""
    home = tmp_path_factory.mktemp("wandb")
    with wandb_server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "WANDB_BASE_URL": server.url,
            "WANDB_API_KEY": API_KEY,
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_SILENT": "true",
            "WANDB_CONSOLE": "off",
            **{f"WANDB_{one}_DIR": str(home / one.lower()) for one in ("CACHE", "CONFIG", "DATA", "ARTIFACT")},
            "WANDB_DIR": str(home),
        }.items():
            patch.setenv(name, value)
        import wandb

        yield server
        wandb.teardown()


@pytest.fixture(scope="module")
def run(server: WandbServer) -> Iterator[None]:
    import wandb

    with wandb.init(project=PROJECT, entity=ENTITY):
        yield
    assert server.problems == []


@pytest.fixture
def registry(run: None) -> WandbArtifactRegistry:
    return WandbArtifactRegistry(PROJECT)


def test_what_is_logged_comes_back(registry: WandbArtifactRegistry, tmp_path: Path) -> None:
    manager: ArtifactManager = registry
    with manager.log_folder("folder", "things") as folder:
        (folder / "empty").mkdir()
        (folder / "deep" / "er").mkdir(parents=True)
        (folder / "deep" / "er" / "data.bin").write_bytes(os.urandom(100_000))
        (folder / "deep" / "run.sh").write_text("echo hello")
        (folder / "deep" / "run.sh").chmod(0o755)
        (folder / "deep" / "link").symlink_to("er/data.bin")
        (folder / "nothing").touch()
        (folder / "closed").mkdir(mode=0o500)
        expected = snapshot(folder)
    download = manager.download_artifact("folder", "things", to=tmp_path / "there")
    assert str(download.version) == "things/folder:v0"
    assert snapshot(download.path) == expected
    with manager.download_artifact("folder", "things") as temporary:
        assert snapshot(temporary) == expected
    assert not temporary.exists()


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Mode and content of everything in a folder."""
    return {
        str(path.relative_to(folder)): (
            0 if path.is_symlink() else path.stat().st_mode,
            os.readlink(path).encode() if path.is_symlink() else b"" if path.is_dir() else path.read_bytes(),
        )
        for path in sorted(folder.rglob("*"))
    }
