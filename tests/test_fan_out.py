"""Backups that workers of two work pools make together: real workers, one of whose processes is killed."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.objects import FlowRun
from prefect.flow_runs import resume_flow_run
from prefect_support import flush, paused_run

from prefect_snapshots import BackupManager
from prefect_snapshots.errors import BackupFailed, InvalidArgument
from prefect_snapshots.flows import (
    WorkerSources,
    create_backup,
    restore_backup,
    restore_drill,
    restore_parts,
    stage_backup,
)
from prefect_snapshots.repository import StagedPart

pytestmark = [pytest.mark.xdist_group("prefect"), pytest.mark.usefixtures("prefect_server")]

POOLS = ("db1", "web1")


class Fleet:
    """Two work pools with a worker each, on machines with a database and a folder of the same names.

    Attributes:
        folder: where everything is.
        killed: while this file exists, the next process of `web1` that has stored a part is killed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.killed = folder / "kill"
        self.url = str(folder / "repository")
        for pool in POOLS:
            (folder / pool / "data").mkdir(parents=True)
            (folder / pool / "data" / "large").write_bytes(os.urandom(3_000_000))
            (folder / pool / "data" / "where").write_text(pool)
            with closing(sqlite3.connect(folder / pool / "app.db")) as connection, connection:
                connection.execute("CREATE TABLE users (name TEXT)")
                connection.executemany("INSERT INTO users VALUES (?)", [(pool,)] * 10)

    def sources(self, pool: str) -> dict[str, list[str]]:
        if pool == "db1":
            return {"databases": [str(self.folder / pool / "app.db")]}
        return {"directories": [str(self.folder / pool / "data")]}

    def backup(self, name: str, **options: Any) -> Any:
        workers: Any = options.pop("workers", {"db1": self.sources("db1"), "web1": self.sources("web1")})
        return create_backup("nightly", name, workers=workers, repository=self.url, poll_interval=0.2, **options)


@pytest.fixture(scope="module")
def fleet(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path_factory.mktemp("fleet"))
    with get_client(sync_client=True) as client:
        flow = client.create_flow(stage_backup)
        for pool, module in zip(POOLS, ("prefect_snapshots.flows", "dying_worker"), strict=True):
            client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
            client.create_deployment(flow, pool, work_pool_name=pool, entrypoint=f"{module}.stage_backup")
            for other in (restore_drill, restore_parts):
                entrypoint = f"prefect_snapshots.flows.{other.fn.__name__}"
                client.create_deployment(client.create_flow(other), pool, work_pool_name=pool, entrypoint=entrypoint)
    environment = {
        **os.environ,
        "PREFECT_API_URL": prefect_server,
        "PREFECT_HOME": str(fleet.folder / "home"),
        "PREFECT_WORKER_QUERY_SECONDS": "0.5",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
        "KILLED_ONCE": str(fleet.killed),
    }
    program = [sys.executable, "-m", "prefect", "worker", "start", "--pool"]
    with open(fleet.folder / "log", "w") as log:
        workers = [
            psutil.Popen([*program, pool], env=environment, stdout=log, stderr=subprocess.STDOUT) for pool in POOLS
        ]
        try:
            yield fleet
        finally:
            for worker in workers:
                for process in [*worker.children(recursive=True), worker]:
                    process.kill()
                worker.wait()
    shutil.rmtree(fleet.folder)


@pytest.fixture
def name() -> str:
    return f"fleet-{uuid.uuid4().hex}"


def runs_of(name: str) -> list[FlowRun]:
    """The runs of workers for a backup."""
    with get_client(sync_client=True) as client:
        wanted = FlowFilter(name=FlowFilterName(any_=["stage-backup"]))
        return [run for run in client.read_flow_runs(flow_filter=wanted) if run.parameters.get("name") == name]


@pytest.mark.timeout(250)
def test_workers_make_one_backup_and_the_source_of_a_killed_one_is_tried_again(fleet: Fleet, name: str) -> None:
    fleet.killed.touch()
    own = fleet.folder / "own"
    shutil.copytree(fleet.folder / "web1" / "data", own)
    backup = fleet.backup(name, directories=[str(own)])
    assert not fleet.killed.exists()
    assert backup.part_names == ["own", f"db1::sqlite:///{fleet.folder / 'db1' / 'app.db'}", "web1::data"]
    manager = BackupManager(fleet.url, name=name)
    assert manager.list_backups() == [backup]
    assert b"".join(manager.open_file("latest", "web1::data", "where")) == b"web1"
    runs = runs_of(name)
    assert sorted(run.state_name for run in runs if run.state_name) == ["Completed"] * 2 + ["Crashed"]
    assert {run.parameters["place"] for run in runs if run.state_name == "Crashed"} == {"web1"}
    for run in runs:
        assert run.state is not None
        if run.state_name == "Completed":
            assert StagedPart.from_text((run.state.message or "").rpartition(" ")[2]).content.size > 3
    flush()
    with get_client(sync_client=True) as client:
        [page] = [page for page in client.read_artifacts() if name[:20] in str(page.key) and "-parts" in str(page.key)]
    assert "3 of 3 parts stored" in str(page.data)
    assert str(page.data).count("Completed") == 3


@pytest.mark.nightly
@pytest.mark.timeout(400)
def test_workers_try_and_restore_their_parts(fleet: Fleet, name: str) -> None:
    own = fleet.folder / "mine"
    shutil.copytree(fleet.folder / "db1" / "data", own)
    workers: Any = {pool: fleet.sources(pool) for pool in POOLS}
    backup = fleet.backup(name, directories=[str(own)], workers=workers)
    options: dict[str, Any] = {"name": name, "repository": fleet.url, "workers": workers}
    report = restore_drill(**options, poll_interval=0.2)
    assert [(row.part, row.tried, row.problems) for row in report.rows] == [
        (part, True, ()) for part in backup.part_names
    ]
    assert BackupManager(fleet.url, name=name).get_backup(backup.name).proven_at is not None
    for place in (own, fleet.folder / "web1" / "data"):
        (place / "where").write_text("changed")
    for pool in POOLS:
        with closing(sqlite3.connect(fleet.folder / pool / "app.db")) as connection, connection:
            connection.execute("DELETE FROM users")
    outcome: list[Any] = []

    def restoring() -> None:
        try:
            flow = restore_backup.with_options(flow_run_name=name)
            outcome.append(flow(**options, directories=[str(own)], poll_interval=1))
        except Exception as error:
            outcome.append(error)

    run = threading.Thread(target=restoring, daemon=True)
    run.start()
    paused = paused_run(name, run, outcome)
    assert (own / "where").read_text() == "changed"
    resume_flow_run(paused.id, run_input={"name_of_the_backup": backup.name})
    run.join()
    [came] = outcome
    assert sorted(came.restored) == sorted(backup.part_names), came
    assert [(fleet.folder / "web1" / "data" / "where").read_text(), (own / "where").read_text()] == ["web1", "db1"]
    users = []
    for pool in POOLS:
        with closing(sqlite3.connect(fleet.folder / pool / "app.db")) as connection:
            users += connection.execute("SELECT count(*) FROM users").fetchone()
    assert users == [10, 0], "the one of web1 was in no backup"


@pytest.mark.nightly
def test_a_source_that_fails_for_good_leaves_no_backup(fleet: Fleet, name: str) -> None:
    missing = str(fleet.folder / "web1" / "missing")
    workers: Any = {"db1": fleet.sources("db1"), "web1": {"directories": [missing]}}
    with pytest.raises(BackupFailed, match="1 of 2 sources on workers could not be stored") as failed:
        fleet.backup(name, workers=workers, source_retries=1)
    assert f"{missing} on web1" in str(failed.value)
    assert "No such file or directory" in str(failed.value)
    assert BackupManager(fleet.url, name=name).list_backups() == []
    assert len(runs_of(name)) == 2, "what a person must mend is not tried again"


@pytest.mark.nightly
def test_a_worker_that_is_gone_is_noticed(fleet: Fleet, name: str) -> None:
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="gone", type="process"))
        client.create_deployment(client.create_flow(stage_backup), "gone", work_pool_name="gone", entrypoint="x.y")
    with pytest.raises(BackupFailed, match="did not end within 1 seconds"):
        fleet.backup(name, workers={"gone": fleet.sources("db1")}, source_retries=0, worker_timeout=1)


def test_a_pool_without_the_deployment_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidArgument, match="must have one deployment of the flow stage-backup, and it has none"):
        create_backup(name=name, workers={"nowhere": WorkerSources(files=["/srv/a"])}, repository=str(tmp_path))
    assert list(tmp_path.iterdir()) == []
