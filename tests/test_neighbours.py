"""Beside Prefect's other collections: no name of ours is one of theirs, and a scan costs them nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import entry_points
from inspect import isabstract
from pathlib import Path
from typing import Any

import prefect.server
import pytest
from prefect.blocks.core import Block
from prefect.plugins import load_prefect_collections

from prefect_snapshots import BackupDatabase, SnapshotRepository
from prefect_snapshots.flows import maintenance, watching
from prefect_snapshots.integration import reporter
from prefect_snapshots.integration.live import artifact_key
from prefect_snapshots.integration.settings import SnapshotsSettings

OURS: list[Any] = [SnapshotRepository, BackupDatabase]
FIRST_PARTY = ["prefect_aws", "prefect_dask", "prefect_gcp", "prefect_ray", "prefect_redis", "prefect_sqlalchemy"]
"""The collections of the test environment."""


def blocks_of(package: str) -> list[Any]:
    """The block classes that a first-party package registers: what it defines, and is no base class of others."""
    found = vars(import_module(package)).values()
    blocks = [each for each in found if isinstance(each, type) and issubclass(each, Block) and each is not Block]
    return [each for each in blocks if each.__module__.startswith(f"{package}.") and not isabstract(each)]


def test_every_block_of_ours_is_tested_here() -> None:
    load_prefect_collections()
    modules = {point.value for point in entry_points(group="prefect.collections") if "prefect_snapshots" in point.name}
    defined = {
        value
        for module in modules
        for value in vars(import_module(module)).values()
        if isinstance(value, type) and issubclass(value, Block) and value.__module__ == module
    }
    assert defined == set(OURS)


@pytest.mark.parametrize("block", OURS, ids=lambda block: block.__name__)
def test_blocks_have_a_prefix_of_our_own(block: Any) -> None:
    assert block.get_block_type_slug().startswith("prefect-snapshots-")
    assert block.get_block_type_name().startswith("Snapshots: ")


def test_no_published_block_has_a_name_of_ours() -> None:
    listed = Path(prefect.server.__file__).parent / "collection_blocks_data.json"
    published = {
        word
        for collection in json.loads(listed.read_text())["collections"].values()
        for slug, block in collection["block_types"].items()
        for word in (slug, block["name"])
    }
    installed = {
        word
        for package in FIRST_PARTY
        for block in blocks_of(package)
        for word in (block.get_block_type_slug(), block.get_block_type_name())
    }
    assert len(published) > 50
    ours = {word for block in OURS for word in (block.get_block_type_slug(), block.get_block_type_name())}
    assert not ours & (published | installed)


@pytest.mark.parametrize("package", FIRST_PARTY)
def test_each_collection_finds_its_own_blocks_beside_us(package: str) -> None:
    load_prefect_collections()
    for block in blocks_of(package):
        assert Block.get_block_class_from_key(block.get_block_type_slug()) is block
    for ours in OURS:
        assert Block.get_block_class_from_key(ours.get_block_type_slug()) is ours


@pytest.mark.xdist_group("prefect")
@pytest.mark.usefixtures("prefect_server")
def test_blocks_of_all_collections_are_registered_and_loaded_together() -> None:
    from prefect_aws import AwsCredentials
    from prefect_redis import RedisDatabase

    blocks: list[Block] = [
        RedisDatabase(host="redis.example", port=6380),
        AwsCredentials(region_name="eu-central-1"),
        SnapshotRepository(url="memory://neighbours"),
        BackupDatabase(url="redis://backup@redis.example:6380/0"),
    ]
    for kind in [*OURS, *(block for package in FIRST_PARTY for block in blocks_of(package))]:
        kind.register_type_and_schema(_sync=True)
    for block in blocks:
        block.save("neighbour", overwrite=True, _sync=True)  # type: ignore[call-arg]
    for block in blocks:
        loaded = Block.load(f"{block.get_block_type_slug()}/neighbour", _sync=True)  # type: ignore[call-arg]
        assert type(loaded) is type(block)


def test_settings_entry_points_keys_and_the_command_have_a_prefix_of_our_own() -> None:
    assert SnapshotsSettings.model_config["env_prefix"] == "PREFECT_INTEGRATIONS_SNAPSHOTS_"
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    assert list(project["scripts"]) == ["prefect-snapshots"]
    points = project["entry-points"]
    others = {group for group in points if not group.startswith("prefect_snapshots.")}
    assert others == {"prefect.collections", "fsspec.specs"}
    assert list(points["fsspec.specs"]) == ["snapshots"], "no other file system of the registry has this name"
    assert all(name.startswith("prefect_snapshots") for name in points["prefect.collections"])
    keys = artifact_key("backups", "nightly"), maintenance.CHECK, maintenance.PRUNE, watching.WATCH
    assert all(key.startswith("prefect-snapshots-") for key in keys)


def test_events_are_emitted_in_one_place() -> None:
    package = Path(reporter.__file__).parent.parent
    users = [path.name for path in package.rglob("*.py") if "import emit_event" in path.read_text()]
    assert users == ["reporter.py"]


SCAN = """
import sys, warnings
import prefect.main, prefect.blocks.core, prefect.filesystems, prefect.events
before = set(sys.modules)
warnings.simplefilter("error")
import prefect_snapshots.integration.blocks, prefect_snapshots.integration.database_blocks
print(*{name.partition(".")[0] for name in set(sys.modules) - before})
"""


def test_a_scan_by_prefect_loads_nothing_of_others_and_warns_of_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", SCAN], capture_output=True, text=True, check=True)
    heavy = {"jax", "torch", "pandas", "pyarrow", "duckdb", "pymongo", "wandb", "boto3", "s3fs", "gcsfs", "sklearn"}
    assert not set(done.stdout.split()) & (heavy | set(FIRST_PARTY))
    assert done.stderr == ""
