"""When the Prefect server goes away in the middle of a run, nothing that the run does is lost, and nothing hangs.

What could not be reported is in the log of the run, and in the repository.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import servers

from prefect_snapshots import ArtifactRegistry, Repository, SnapshotManager
from prefect_snapshots.checkpoints import CheckpointManager

PROGRAM = """
import sys
import time

from prefect import flow, task
from prefect_snapshots import checkpointed, log_artifact, snapshot, wait_for_snapshots


@checkpointed(batch_size=20, function_version=1)
def square(x):
    time.sleep(0.005)
    return x * x


@task
@snapshot(name="states", background=True)
def states(count):
    for number in range(count):
        yield {"number": number}


@flow
def pipeline():
    squares = square.map(range(400))
    for state in states(40):
        if state["number"] == 10:
            log_artifact("model", "before")
            print("midway", flush=True)
            sys.stdin.readline()  # the server is gone
    log_artifact("model", "after")
    wait_for_snapshots()
    print("sum", sum(squares.result()), flush=True)


pipeline()
"""


@pytest.mark.long
def test_what_a_run_does_without_its_server_is_kept(tmp_path: Path) -> None:
    program, log, repository = tmp_path / "pipeline.py", tmp_path / "run.log", tmp_path / "repository"
    program.write_text(PROGRAM)
    with servers.prefect(tmp_path / "home") as server, log.open("w") as stderr:
        environment = {
            **server.environment,
            "PREFECT_INTEGRATIONS_SNAPSHOTS_REPOSITORY": str(repository),
            "PREFECT_CLIENT_MAX_RETRIES": "0",  # or Prefect itself takes minutes to end a run without its server
        }
        run = subprocess.Popen(
            [sys.executable, str(program)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        assert run.stdout is not None
        assert run.stdout.readline() == "midway\n", log.read_text()
    assert run.poll() is None
    gone = time.monotonic()
    said, _ = run.communicate("go on\n", timeout=120)
    took = time.monotonic() - gone
    print(took, run.returncode, log.read_text())
    assert said == f"sum {sum(x * x for x in range(400))}\n"
    assert [row.done for row in CheckpointManager(repository).list_checkpoints()] == [400]
    states = SnapshotManager[dict[str, int]](repository, name="states")
    assert [states[snapshot_id].data["number"] for snapshot_id in states] == list(range(40))
    registry = ArtifactRegistry(repository)
    assert [registry.load_artifact("model", version) for version in (0, 1)] == ["before", "after"]
    assert Repository(repository).check(read_data=True).ok
    assert re.search(r"The artifact 'prefect-snapshots-snapshots-states-\w+' .* is not up to date", log.read_text())
    assert took < 30
