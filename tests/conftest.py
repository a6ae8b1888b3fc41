"""Fixtures for all tests: the storages that a repository may live on, each of them a real one."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import hypothesis
import memory_disk
import pytest
import servers
from servers import BUCKET, Storage
from warm import warm_program

from prefect_snapshots.repository import envelopes
from prefect_snapshots.repository.location import open_location

memory_disk.work_in_memory()

# Which repositories were opened before is remembered in the state folder of the user, which is not the tester's own.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="prefect-snapshots-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)

# Most of the time of a process that a test starts went into compiling Prefect, JAX and our own modules once more.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A guess at a password of a user takes 0.2 s of CPU, and each opening of an encrypted repository as much.
envelopes.COST = 2

# What a shell starts in the background ignores SIGINT, and so would every process that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


# How long an example takes says more about the other processes of a machine than about the example.
hypothesis.settings.register_profile("any load", deadline=None)
hypothesis.settings.load_profile("any load")

# Collecting makes a million objects that stay: looking through them again and again took a fifth of its time.
gc.disable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest begin first, after the groups: one that began last would keep one core busy while others wait."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", metavar="DIRECTORY", help="put pictures of the pages there that are looked at")


@pytest.fixture(params=[pytest.param(3, id="every third"), pytest.param(1, id="every", marks=pytest.mark.nightly)])
def every(request: pytest.FixtureRequest) -> int:
    """Of the moments that a long search goes through: every third one, and at night every single one."""
    found: int = request.param
    return found


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`prefect-snapshots`, as a program that starts sooner than the installed one."""
    with warm_program(tmp_path_factory.mktemp("warm"), "prefect-snapshots") as program:
        yield program


@pytest.fixture(scope="session")
def warm_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A program that runs a file as `python` does, and has imported Prefect and us already."""
    with warm_program(tmp_path_factory.mktemp("warm-python"), "python") as program:
        yield program


@pytest.fixture(scope="session")
def warm_prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`prefect`, as a program that starts sooner than the installed one."""
    with warm_program(tmp_path_factory.mktemp("warm-prefect"), "prefect") as program:
        yield program


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    with servers.moto() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def seaweedfs_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with servers.seaweedfs(tmp_path_factory.mktemp("seaweedfs") / "data") as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def gcs_endpoint() -> Iterator[str]:
    with servers.fake_gcs() as endpoint:
        yield endpoint


@pytest.fixture
def local_storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "repository"))


@pytest.fixture
def memory_storage() -> Iterator[Storage]:
    storage = Storage(f"memory://{uuid.uuid4().hex}")
    yield storage
    location = open_location(storage.url)
    location.delete(info.path for info in location.list(""))


@pytest.fixture
def s3_storage(moto_endpoint: str) -> Storage:
    return Storage(f"s3://{BUCKET}/{uuid.uuid4().hex}", servers.s3_options(moto_endpoint))


@pytest.fixture
def seaweedfs_storage(seaweedfs_endpoint: str) -> Storage:
    return Storage(f"s3://{BUCKET}/{uuid.uuid4().hex}", servers.s3_options(seaweedfs_endpoint))


@pytest.fixture
def gcs_storage(gcs_endpoint: str) -> Storage:
    return Storage(f"gs://{BUCKET}/{uuid.uuid4().hex}", servers.gcs_options(gcs_endpoint))


# SeaweedFS takes seconds to start: with several test processes only one of them does.
@pytest.fixture(
    params=["local", "memory", "s3", pytest.param("seaweedfs", marks=pytest.mark.xdist_group("seaweedfs")), "gcs"]
)
def storage(request: pytest.FixtureRequest) -> Storage:
    """Every kind of storage in turn, empty."""
    found: Storage = request.getfixturevalue(f"{request.param}_storage")
    return found


@pytest.fixture(
    params=["local", "s3", *(pytest.param(kind, marks=pytest.mark.nightly) for kind in ("memory", "seaweedfs", "gcs"))]
)
def main_storage(request: pytest.FixtureRequest) -> Storage:
    """A directory and a bucket in turn, empty, for tests that take long. At night also the other kinds of storage."""
    found: Storage = request.getfixturevalue(f"{request.param}_storage")
    return found


@pytest.fixture(params=["s3", "gcs"])
def behind_proxy(request: pytest.FixtureRequest) -> Iterator[tuple[Storage, servers.Proxy]]:
    """Both kinds of object store in turn, empty and behind a proxy that can misbehave."""
    kind: str = request.param
    endpoint = request.getfixturevalue({"s3": "moto_endpoint", "gcs": "gcs_endpoint"}[kind])
    url = {"s3": f"s3://{BUCKET}/{uuid.uuid4().hex}", "gcs": f"gs://{BUCKET}/{uuid.uuid4().hex}"}[kind]
    options = {"s3": servers.s3_options, "gcs": servers.gcs_options}[kind]
    with servers.dropping_proxy(endpoint) as proxy:
        yield Storage(url, options(proxy.endpoint)), proxy


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory on a file system of its own, with room for 1 MB, or for what the test's parameter says."""
    size = getattr(request, "param", "1m")
    root = [] if os.geteuid() == 0 else [shutil.which("sudo") or pytest.fail("mounting needs root or sudo"), "-n"]
    disk = tmp_path / "small-disk"
    disk.mkdir()
    subprocess.run([*root, "mount", "-t", "tmpfs", "-o", f"size={size},mode=777", "none", disk], check=True)
    yield disk
    subprocess.run([*root, "umount", "--lazy", disk], check=True)


# Starting it takes ten seconds: the tests that use it share one test process, by the mark `xdist_group("prefect")`.
@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API URL of a Prefect server with an empty database.

    It takes no logs and runs no automations, which would be a third of its work. Flows have no heartbeat, which costs
    each of them 1 s.
    """
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        PREFECT_LOGGING_TO_API_ENABLED,
        PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED,
        temporary_settings,
    )
    from prefect.testing.utilities import prefect_test_harness

    from prefect_snapshots.integration import live

    folder = tmp_path_factory.mktemp("prefect")
    database = folder / "prefect-test.db"  # where the harness puts it
    servers.take_database(database)
    with (
        patch("prefect.testing.utilities.mkdtemp", return_value=str(folder)),
        temporary_settings({PREFECT_LOGGING_TO_API_ENABLED: False, PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED: False}),
        prefect_test_harness(server_startup_timeout=120),
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
    ):
        servers.leave_database(database)
        yield PREFECT_API_URL.value()
        live.flush()
