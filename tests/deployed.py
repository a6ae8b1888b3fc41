"""The project as its users deploy it: a Prefect server, a worker, the deployments, and a browser to look at them with.

Each is a process of its own. What the file of the deployments says at its top is what is typed here.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import psutil
import servers
from playwright.sync_api import Locator, Page, TimeoutError, ViewportSize, expect, sync_playwright
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.states import Scheduled

T = TypeVar("T")

ROOT = Path(__file__).parent.parent
PREFECT_FILE = Path("deployments", "prefect.yaml")
NEEDED = ("deployments", "docs", "flows")
"""Folders of the project that its deployments use."""
PATIENCE = 120.0
"""Most seconds that a run takes to get where it is waited for."""
_SHOWN = 60_000.0
"""Most milliseconds until a page shows something."""
_AGAIN = 5_000.0
"""Milliseconds after which a button is pressed again: far more than a request takes that is not refused."""
SIZE = ViewportSize(width=1280, height=800)


@dataclass(frozen=True)
class Site:
    """A server with the deployments, and a worker.

    Attributes:
        client: of the server.
        project: a copy of the project, in which the worker works.
        repository: where its flows keep everything.
    """

    client: SyncPrefectClient
    url: str
    project: Path
    repository: Path

    def run(self, deployment: str, **parameters: Any) -> UUID:
        """Have the worker run a deployment (`FLOW/NAME`) now."""
        found = self.client.read_deployment_by_name(deployment)
        return self.client.create_flow_run_from_deployment(found.id, parameters=parameters).id

    def run_next_scheduled(self, deployment: str) -> UUID:
        """Bring the next run that a schedule has planned forward to now."""
        found = self.client.read_deployment_by_name(deployment)
        wanted = DeploymentFilter(id=DeploymentFilterId(any_=[found.id]))
        planned = until(lambda: self.client.read_flow_runs(deployment_filter=wanted) or None, f"runs of {deployment}")
        run = min(planned, key=lambda each: each.expected_start_time or each.created)  # type: ignore[arg-type,return-value]
        assert run.auto_scheduled
        self.client.set_flow_run_state(run.id, Scheduled(), force=True)
        return run.id

    def reached(self, run: UUID, state: str) -> FlowRun:
        """A run, once it is in a state."""

        def look() -> FlowRun | None:
            found = self.client.read_flow_run(run)
            if found.state_name == state:
                return found
            assert found.state is None or not found.state.is_final(), f"{found.name}: {found.state}"
            return None

        return until(look, f"{run} to be {state}")


@contextlib.contextmanager
def deployed(place: Path, prefect: Path) -> Iterator[Site]:
    """All of it, in a new folder.

    Args:
        place: The folder.
        prefect: The program for all but the worker.
    """
    project, repository = place / "project", place / "snapshots"
    for folder in NEEDED:
        shutil.copytree(ROOT / folder, project / folder, ignore=shutil.ignore_patterns("__pycache__"))
    commands = re.findall(r"^# +(prefect .+)$", (project / PREFECT_FILE).read_text(), re.MULTILINE)
    with servers.prefect(place / "home") as server, SyncPrefectClient(server.api_url) as client:
        environment = {**server.environment, "PREFECT_INTEGRATIONS_SNAPSHOTS_REPOSITORY": str(repository)}
        *preparing, working = commands
        sooner = {**environment, "PATH": f"{prefect.parent}{os.pathsep}{environment['PATH']}"}
        for command in preparing:
            done = subprocess.run(["bash", "-c", command], cwd=project, env=sooner, capture_output=True, text=True)
            assert done.returncode == 0, f"$ {command}\n{done.stdout}{done.stderr}"
        with open(place / "worker.log", "w") as log:
            worker = psutil.Popen(
                ["bash", "-c", working], cwd=project, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
            try:
                yield Site(client, server.url, project, repository)
            finally:
                for process in [*worker.children(recursive=True), worker]:
                    process.kill()
                worker.wait()


@contextlib.contextmanager
def browsing(url: str) -> Iterator[Page]:
    """A window of a browser that sees this machine and nothing else."""
    program = shutil.which("chromium")
    if program is None:
        raise RuntimeError("The tests need Chromium, which is not installed: `make test` installs it.")
    with sync_playwright() as playwright:
        # As root, which CI is, Chromium runs without a sandbox only.
        options = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
        chromium = playwright.chromium.launch(executable_path=program, args=options)
        context = chromium.new_context(
            base_url=url, viewport=SIZE, locale="en-GB", timezone_id="UTC", reduced_motion="reduce"
        )
        context.set_default_timeout(_SHOWN)
        expect.set_options(timeout=_SHOWN)
        yield context.new_page()
        chromium.close()


def press_until(button: Locator, done: Callable[[float], object]) -> None:
    """Press a button until it has worked, as a person does whom a busy server has refused.

    Args:
        button: It is disabled while a request is under way, and gone when that has worked.
        done: Waits for what follows, at most so many milliseconds, and raises if it does not.
    """

    def try_once() -> bool | None:
        with contextlib.suppress(TimeoutError):
            button.click(timeout=_AGAIN)
        with contextlib.suppress(TimeoutError, AssertionError):
            done(_AGAIN)
            return True
        return None

    until(try_once, f"what {button} leads to")


def until(found: Callable[[], T | None], what: str) -> T:
    """What a function finds, asked again and again until it is something."""
    deadline = time.monotonic() + PATIENCE
    while (value := found()) is None:
        assert time.monotonic() < deadline, f"waited {PATIENCE:.0f} s for {what}"
        time.sleep(0.1)
    return value
