"""Importing the package is nearly free, its public face is complete, and what is shipped is what users need."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
import uuid
import zipfile
from collections.abc import Iterator
from importlib.metadata import distributions, entry_points
from pathlib import Path

import database_servers
import duckdb
import jax
import pytest
import servers
import torch
from prefect.client.orchestration import get_client
from uv import find_uv_bin

import prefect_snapshots
from prefect_snapshots import ModelLogger, SnapshotManager

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


@pytest.mark.parametrize("module", ["repository", "snapshots", "artifacts"])
def test_modules_load_neither_prefect_nor_jax(module: str) -> None:
    assert not modules_loaded_by(f"import prefect_snapshots.{module}") & {"prefect", "jax", "jaxlib"}


@pytest.mark.parametrize("name", prefect_snapshots.__all__)
def test_public_name_resolves(name: str) -> None:
    assert name in dir(prefect_snapshots)
    assert getattr(prefect_snapshots, name) is not None


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"no public name 'Snapshoot'\. Did you mean 'Snapshot'"):
        prefect_snapshots.Snapshoot  # type: ignore[attr-defined]  # noqa: B018


def test_prefect_finds_the_block_type_without_an_import_of_ours() -> None:
    find = (
        "from prefect.blocks.core import Block; print(Block.get_block_class_from_key('prefect-snapshots-repository'))"
    )
    assert "prefect_snapshots.integration.blocks.SnapshotRepository" in run_python(find)


def test_console_script_resolves() -> None:
    [script] = entry_points(group="console_scripts", name="prefect-snapshots")
    assert callable(script.load())


# --- built -----------------------------------------------------------------------------------------------------------

VERSION = "1.2.3"


def run(*command: str | Path, cwd: Path | None = None, **settings: str) -> str:
    """What a program prints, started where it finds nothing of this project but what is installed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=cwd, env={**environment, **settings}, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel that is built from it, of a clean export with a tag for its version."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    shutil.copytree(
        ROOT / "prefect_snapshots", source / "prefect_snapshots", ignore=shutil.ignore_patterns("__pycache__")
    )
    run("git", "init", "--quiet", cwd=source)
    run("git", "add", ".", cwd=source)
    author = ("-c", "user.name=x", "-c", "user.email=x")
    run("git", *author, "commit", "--quiet", "--message", "as it is", cwd=source)
    run("git", "tag", f"v{VERSION}", cwd=source)
    build(source, target)
    build(source, target / "directly", "--wheel")
    return target


def build(source: Path, target: Path, *options: str) -> None:
    tools = ("--no-build-isolation", "--python", sys.executable)
    run(find_uv_bin(), "build", "--quiet", *tools, *options, "--out-dir", target, source)


@pytest.fixture(scope="session")
def wheel(built: Path) -> Path:
    [path] = built.glob("*.whl")
    return path


def test_the_version_is_that_of_the_tag(built: Path) -> None:
    names = {path.name for path in built.iterdir() if path.is_file()}
    assert names >= {f"prefect_snapshots-{VERSION}-py3-none-any.whl", f"prefect_snapshots-{VERSION}.tar.gz"}


@pytest.mark.nightly
def test_the_sdist_builds_the_same_wheel(built: Path, wheel: Path) -> None:
    assert contents(wheel) == contents(built / "directly" / wheel.name)


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_wheel_holds_every_module_and_the_type_marker(wheel: Path) -> None:
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "prefect_snapshots").rglob("*.py")}
    shipped = {name for name in contents(wheel) if ".dist-info/" not in name}
    assert shipped == modules | {"prefect_snapshots/py.typed", "prefect_snapshots/__init__.pyi"}


def test_wheel_carries_the_license(wheel: Path) -> None:
    [license_] = [data for name, data in contents(wheel).items() if name.endswith("/licenses/LICENSE")]
    assert b"Apache License" in license_


# --- installed -------------------------------------------------------------------------------------------------------


def install(folder: Path, wheel: Path, extra: str = "", bare: Path | None = None) -> Path:
    """The programs of a new environment that holds the package, one extra, and nothing else.

    All versions are those of this environment: it is them that are tested, and no others have to be fetched. It begins
    as a copy of `bare`, with what Python has compiled there: to compile Prefect once more takes ten seconds.
    """
    installed = {found.name: found.version for found in distributions()}
    constraints = folder / "constraints.txt"
    del installed["prefect-snapshots"]
    constraints.write_text("".join(f"{name}=={version}\n" for name, version in sorted(installed.items())))
    programs = folder / "venv" / "bin"
    if bare:
        shutil.copytree(bare.parent, folder / "venv", symlinks=True, copy_function=os.link)
    else:
        run(find_uv_bin(), "venv", "--quiet", "--python", sys.executable, folder / "venv")
    packages = ("--quiet", "--constraint", constraints, f"prefect-snapshots[{extra}] @ {wheel.as_uri()}")
    if extra == "torch":  # by pip, which may have been told where builds for CPUs are
        run(sys.executable, "-m", "pip", "--python", programs / "python", "install", *packages)
    else:
        run(find_uv_bin(), "pip", "install", "--python", programs / "python", *packages)
    return programs


@pytest.fixture(scope="session")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment without any extra."""
    return install(tmp_path_factory.mktemp("bare"), wheel)


def test_a_bare_installation_saves_and_loads(bare: Path, tmp_path: Path) -> None:
    assert run(bare / "prefect-snapshots", "--version").strip() == VERSION
    code = """
import numpy
from prefect_snapshots import SnapshotManager
manager = SnapshotManager("there")
manager.save_snapshot({"array": numpy.arange(3), "set": {1}}, "one")
print(manager["one"].data)
"""
    assert run(bare / "python", "-c", code, cwd=tmp_path) == "{'array': array([0, 1, 2]), 'set': {1}}\n"
    assert "one" in run(bare / "prefect-snapshots", "-r", "there", "snapshots", "list", "default", cwd=tmp_path)


@pytest.mark.xdist_group("prefect")
def test_prefect_registers_every_block_without_any_extra(bare: Path, prefect_server: str, tmp_path: Path) -> None:
    registered = run(
        *(bare / "prefect", "block", "register", "--module", "prefect_snapshots"),
        cwd=tmp_path,
        PREFECT_API_URL=prefect_server,
        NO_COLOR="1",
    )
    assert "Successfully registered 2 blocks" in registered
    with get_client(sync_client=True) as client:
        assert client.read_block_type_by_slug("prefect-snapshots-repository").name == "Snapshots: Repository"


@pytest.mark.nightly  # mypy reads Prefect for half a minute
def test_a_type_checker_sees_the_types(bare: Path, tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text('from prefect_snapshots import Repository\n\nurl: int = Repository("x").url\n')
    options = ("--python-executable", str(bare / "python"), "--cache-dir", "cache")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "example.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert 'expression has type "str", variable has type "int"' in done.stdout
    assert "Found 1 error" in done.stdout


SAVE_AND_LOAD = """
    manager.save_snapshot("saved", "one")
    print(manager["one"].data)
"""
S3 = """
    options = {"endpoint_url": address, "key": "me", "secret": "secret"}
    repository = prefect_snapshots.Repository(f"s3://snapshots/{place}", storage_options=options)
    manager = prefect_snapshots.SnapshotManager(repository)
"""
AWS = """
    client = {"endpoint_url": address}
    keys = {"aws_access_key_id": "me", "aws_secret_access_key": "secret", "aws_client_parameters": client}
    block = prefect_snapshots.SnapshotRepository(url=f"s3://snapshots/{place}", credentials=keys)
    manager = prefect_snapshots.SnapshotManager(block)
"""
GCS = """
    options = {"endpoint_url": address, "token": "anon"}
    repository = prefect_snapshots.Repository(f"gs://snapshots/{place}", storage_options=options)
    manager = prefect_snapshots.SnapshotManager(repository)
"""
GCP = """
    import json, pathlib
    key = {"service_account_info": json.loads(pathlib.Path("key.json").read_text())}
    options = {"endpoint_url": address, "token": "anon"}  # nobody gives a token for this key
    url = f"gs://snapshots/{place}"
    block = prefect_snapshots.SnapshotRepository(url=url, credentials=key, storage_options=options)
    manager = prefect_snapshots.SnapshotManager(block)
"""
JAX = """
    print(type(prefect_snapshots.SnapshotManager("repository")["from JAX"].data).__name__)
"""
TORCH = """
    registry = prefect_snapshots.ArtifactRegistry("repository")
    state = prefect_snapshots.ModelLogger(artifact_manager=registry).retrieve_state_from_artifact("model", device="cpu")
    print(type(state["model"]["weight"]).__name__)
"""
DUCKDB = """
    print(prefect_snapshots.BackupDatabase(url="app.duckdb").get_database().counts())
"""
MONGODB = """
    print(prefect_snapshots.BackupDatabase(url=f"mongodb://{address}/shop").get_database().counts())
"""
WANDB = """
    print(prefect_snapshots.WandbArtifactRegistry(project="project").project)
"""
MOUNT = """
    from prefect_snapshots.filesystem.mounting import load_fuse
    print(load_fuse().__name__)
"""
USES = {
    "jax": (JAX, "ArrayImpl"),
    "s3": (S3 + SAVE_AND_LOAD, "saved"),
    "aws": (AWS + SAVE_AND_LOAD, "saved"),
    "gcs": (GCS + SAVE_AND_LOAD, "saved"),
    "gcp": (GCP + SAVE_AND_LOAD, "saved"),
    "torch": (TORCH, "Tensor"),
    "duckdb": (DUCKDB, "{'orders': 1}"),
    "mongodb": (MONGODB, "{}"),
    "wandb": (WANDB, "project"),
    "mount": (MOUNT, "FUSE"),
}
"""For each extra what takes it, and what that prints."""


def test_every_extra_is_tried() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"].keys() == {*USES, "all"}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with what the other packages would have left there."""
    SnapshotManager(tmp_path / "repository").save_snapshot(jax.numpy.arange(3), "from JAX")
    with duckdb.connect(tmp_path / "app.duckdb") as connection:
        connection.execute("CREATE TABLE orders AS SELECT 1 AS number")
    (tmp_path / "key.json").write_text(json.dumps(servers.service_account("http://127.0.0.1:9/token")))
    return tmp_path


@pytest.fixture
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where the server is that an extra talks to, if it does."""
    extra = request.node.callspec.params["extra"]
    endpoints = {"s3": "moto_endpoint", "aws": "moto_endpoint", "gcs": "gcs_endpoint", "gcp": "gcs_endpoint"}
    if extra in endpoints:
        yield request.getfixturevalue(endpoints[extra])
    elif extra == "mongodb":
        with database_servers.mongodb(tmp_path / "mongodb") as port:
            yield f"127.0.0.1:{port}"
    else:
        yield ""


@pytest.mark.parametrize(
    # Each takes an environment of its own; and pip fetches hundreds of megabytes for torch, which is not in uv's cache.
    "extra",
    [extra if extra == "s3" else pytest.param(extra, marks=pytest.mark.nightly) for extra in USES],
)
def test_an_extra_alone_is_enough_and_is_asked_for(
    extra: str, place: Path, address: str, bare: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if extra == "torch":
        registry = prefect_snapshots.ArtifactRegistry(place / "repository")
        ModelLogger(artifact_manager=registry).log_state_to_artifact("model", torch.nn.Linear(2, 2))
    use, prints = USES[extra]
    code = f"""
import prefect_snapshots

address, place = {address!r}, {uuid.uuid4().hex!r}
try:{use}
except prefect_snapshots.errors.MissingDependency as error:
    print(error)
"""
    assert f'pip install "prefect-snapshots[{extra}]"' in run(bare / "python", "-c", code, cwd=place)
    programs = install(tmp_path_factory.mktemp(extra), wheel, extra, bare)
    assert run(programs / "python", "-c", code, cwd=place).splitlines()[-1] == prints
