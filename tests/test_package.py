"""Importing the package is nearly free, its public face is complete, and what is shipped is what users need."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import prefect_snapshots

ROOT = Path(__file__).parent.parent


def run_python(code: str) -> str:
    """What `code` prints in a fresh interpreter."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT).stdout


def modules_loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after `statement`."""
    return {name.partition(".")[0] for name in run_python(f"{statement}; import sys; print(*sys.modules)").split()}


def test_import_takes_less_than_50_ms() -> None:
    measure = "import time; start = time.perf_counter(); import prefect_snapshots; print(time.perf_counter() - start)"
    assert min(float(run_python(measure)) for _ in range(5)) < 0.050


def test_import_loads_nothing_heavy() -> None:
    assert not modules_loaded_by("import prefect_snapshots") & {"prefect", "jax", "numpy", "fsspec", "pydantic"}


@pytest.mark.parametrize("room", ["repository", "snapshots", "artifacts"])
def test_rooms_load_neither_prefect_nor_jax(room: str) -> None:
    assert not modules_loaded_by(f"import prefect_snapshots.{room}") & {"prefect", "jax", "jaxlib"}


@pytest.mark.parametrize("name", prefect_snapshots.__all__)
def test_public_name_resolves(name: str) -> None:
    assert name in dir(prefect_snapshots)
    assert getattr(prefect_snapshots, name) is not None


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Snapshoot'"):
        prefect_snapshots.Snapshoot  # type: ignore[attr-defined]  # noqa: B018


def test_prefect_finds_the_block_type_without_an_import_of_ours() -> None:
    find = "from prefect.blocks.core import Block; print(Block.get_block_class_from_key('snapshot-repository'))"
    assert "prefect_snapshots.blocks.SnapshotRepository" in run_python(find)


def test_console_script_resolves() -> None:
    [script] = entry_points(group="console_scripts", name="prefect-snapshots")
    assert callable(script.load())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel as built from the sources alone: no git metadata, no network."""
    source = tmp_path_factory.mktemp("source")
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    shutil.copytree(ROOT / "prefect_snapshots", source / "prefect_snapshots")
    target = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", target, source],
        check=True,
    )
    [path] = target.glob("prefect_snapshots-*.whl")
    return zipfile.ZipFile(path)


def test_wheel_holds_every_module_and_the_type_marker(wheel: zipfile.ZipFile) -> None:
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "prefect_snapshots").rglob("*.py")}
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert shipped == modules | {"prefect_snapshots/py.typed"}


def test_wheel_carries_the_license(wheel: zipfile.ZipFile) -> None:
    [name] = [name for name in wheel.namelist() if name.endswith("/licenses/LICENSE")]
    assert b"Apache License" in wheel.read(name)
