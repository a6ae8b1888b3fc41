"""The documented automations, created as documented on a real server: what goes wrong is told, and a flow is run."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import servers
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.settings import PREFECT_API_URL, temporary_settings
from test_docs import Block, blocks_of

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "automations.md"

Told = queue.Queue[str]


@pytest.fixture
def webhook() -> Iterator[tuple[str, Told]]:
    """The URL of a chat on loopback, and what it is told."""
    told: Told = queue.Queue()

    class Chat(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            told.put(json.loads(body)["text"])
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Chat) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", told
        server.shutdown()
        thread.join()


@pytest.fixture
def environment(tmp_path: Path, webhook: tuple[str, Told], warm_prefect: Path, warm: Path) -> Iterator[dict[str, str]]:
    """Of a shell beside a Prefect server with nothing in it."""
    with servers.prefect(tmp_path / "server") as server:
        path = f"{warm_prefect.parent}{os.pathsep}{warm.parent}{os.pathsep}{server.environment['PATH']}"
        yield {**server.environment, "ALERTS_URL": webhook[0], "PATH": path}


def excused(language: str) -> Block:
    """The block of the page that is run here."""
    (block,) = (block for block in blocks_of(PAGE) if block.language == language and block.excused)
    return block


def run(environment: dict[str, str], cwd: Path, *command: str) -> None:
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.long
def test_the_documented_automations(tmp_path: Path, environment: dict[str, str], webhook: tuple[str, Told]) -> None:
    commands = excused("console").text.replace("$ ", "", 1)
    run(environment, tmp_path, "bash", "-euc", commands)
    run(environment, tmp_path, sys.executable, "-c", excused("python").text.replace("hours=26", "seconds=10"))
    run(environment, ROOT, "prefect", "work-pool", "create", "--type", "process", "snapshots")
    deploy = ["deploy", "--name", "nightly", "--prefect-file", "deployments/prefect.yaml"]
    run(environment, ROOT, "prefect", "--no-prompt", *deploy)
    run(environment, ROOT, sys.executable, str(ROOT / "tests" / "mishaps.py"), str(tmp_path))

    heard = sorted(webhook[1].get(timeout=40) for _ in range(7))
    beginnings = [
        "check-repository Failed: IntegrityError: ",
        "no new backup of project for 26 hours",
        "prefect-snapshots.backup.drill-failed: ",
        "prefect-snapshots.backup.overdue: ",
        "prefect-snapshots.repository.damaged: ",
        "prefect-snapshots.repository.growing: ",
        "restore-drill Failed: DamagedVersion: ",
    ]
    assert [text[: len(begin)] for text, begin in zip(heard, beginnings, strict=True)] == beginnings
    assert webhook[1].empty()

    with temporary_settings({PREFECT_API_URL: environment["PREFECT_API_URL"]}), get_client(sync_client=True) as client:
        nightly = client.read_deployment_by_name("create-backup/nightly")
        of_nightly = DeploymentFilter(id=DeploymentFilterId(any_=[nightly.id]))
        deadline = time.monotonic() + 20
        # The server schedules the coming nights, too.
        while not (
            asked := [one for one in client.read_flow_runs(deployment_filter=of_nightly) if not one.auto_scheduled]
        ):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert len(asked) == 1
