"""What a flow run adds: checkpointed items, snapshots and artifact versions in a flow, beside the same in plain Python.

The items are done by task runs of 500 each; one task yields every state to be captured; each version is logged by a
task. The flow's time is that of the whole call, from before the run is created until it is reported as completed, in a
process of its own. The server is another one on the same machine; its log says how often an artifact was changed.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

from _measure import OURS, POWER_LOSS, ROOT, Report, arguments, in_turns, scratch, seconds
from prefect import flow, runtime, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.settings import PREFECT_API_URL, temporary_settings

sys.path.insert(0, str(ROOT / "tests"))

import numpy as np
import servers

from prefect_snapshots import (
    ArtifactRegistry,
    Snapper,
    SnapshotManager,
    checkpointed,
    log_artifact,
    snapshot,
    use_repository,
)

PACKAGES = ("prefect",)
BATCH = 500
IN_A_FLOW = "--in-a-flow"
"""The first argument of the process of a flow."""
LOGGED = 0.5
"""Seconds after which a change is in the log of the server."""
ARRIVAL, QUIET = 60.0, 5.0
"""Seconds without another task run, after which the server has all of them: before the expected ones, and after."""


def square(x: int) -> int:
    return x * x


def states(count: int) -> Iterator[dict[str, Any]]:
    """What a training would capture, step by step."""
    weights = np.zeros(10_000, np.float32)
    for step in range(count):
        weights[step] = step
        yield {"step": step, "weights": weights}


def in_plain_python(place: Path, items: int, snapshots: int, versions: int) -> None:
    Snapper(range(items), square, repository=place, name="squares", batch_size=BATCH).start()
    manager = SnapshotManager[Any](place, name="states")
    for state in states(snapshots):
        manager.save_snapshot(state)
    registry = ArtifactRegistry(place)
    for number in range(versions):
        registry.log_artifact("model", {"number": number})


@flow(name="run-overhead")
def in_a_flow(items: int, snapshots: int, versions: int) -> UUID:
    task_of_square = checkpointed(name="squares", batch_size=BATCH)(square)
    task_of_states = task(snapshot(name="states")(states))
    squares = task_of_square.map(range(items))
    for _ in task_of_states(snapshots):
        pass
    for number in range(versions):
        log_artifact("model", {"number": number})
    squares.wait()
    return UUID(runtime.flow_run.id)


def measure_flow(items: int, snapshots: int, versions: int, place: str) -> None:
    """What the process of a flow does: print the seconds it took, and which run it was."""
    runs: list[UUID] = []
    with use_repository(place):
        took = seconds(lambda: runs.append(in_a_flow(items, snapshots, versions)))
    print(json.dumps([took, str(runs[0])]))


def task_runs(flow_run_id: UUID, least: int) -> int:
    """How many task runs the server has of a flow run that has ended, once it has those at least and no more arrive."""
    wanted = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
    with get_client(sync_client=True) as client:
        known, since = 0, time.monotonic()
        while time.monotonic() < since + (QUIET if known >= least else ARRIVAL):
            time.sleep(0.2)
            found = len(client.read_task_runs(flow_run_filter=wanted))
            if found != known:
                known, since = found, time.monotonic()
    return known


def measure(folder: Path, server: servers.PrefectServer, report: Report) -> None:
    options = report.options
    sizes = options.items, options.snapshots, options.versions
    runs: list[UUID] = []
    updates: list[float] = []
    command = [sys.executable, __file__, IN_A_FLOW, *map(str, sizes)]

    def plain() -> float:
        with scratch(folder) as place:
            return seconds(lambda: in_plain_python(place / "repository", *sizes))

    def within_prefect() -> float:
        with scratch(folder) as place:
            before = changes(server)
            said = subprocess.check_output([*command, place / "repository"], env=server.environment)
            took, run = json.loads(said.splitlines()[-1])
            time.sleep(LOGGED)
            runs.append(UUID(run))
            updates.append(max((changes(server) - before).values()) / took)
        return float(took)

    expected = math.ceil(options.items / BATCH) + 1 + options.versions
    what = f"{sizes[0]:,} items, {sizes[1]:,} snapshots, {sizes[2]:,} versions"
    found = in_turns({"plain Python": plain, "a flow": within_prefect}, options.repeat)
    medians = {how: report.add(f"{what}: {how}", OURS, times, "s", POWER_LOSS) for how, times in found.items()}
    report.at_most(f"{what}: a flow, beyond plain Python", medians["a flow"] - medians["plain Python"], 10, "s")
    report.at_most(f"{what}: task runs", max(task_runs(run, expected) for run in runs), 100, "task runs")
    report.at_most(f"{what}: changes of one artifact", max(updates), 2, "/s")


def changes(server: servers.PrefectServer) -> Counter[str]:
    """How often each artifact was changed so far, after it was made."""
    return Counter(found[1] for line in list(server.said) if (found := re.search(r'"PATCH /api/artifacts/(\S+)', line)))


def main() -> int:
    if sys.argv[1:2] == [IN_A_FLOW]:
        items, snapshots, versions, place = sys.argv[2:]
        measure_flow(int(items), int(snapshots), int(versions), place)
        return 0
    parser = arguments(__doc__, repeat=3)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--snapshots", type=int, default=200)
    parser.add_argument("--versions", type=int, default=50)
    options = parser.parse_args()
    with scratch(options.directory) as folder, servers.prefect(folder / "prefect") as server:
        report = Report("run overhead", options, PACKAGES, folder)
        with temporary_settings({PREFECT_API_URL: server.api_url}):
            measure(folder, server, report)
        return report.finish()


if __name__ == "__main__":
    sys.exit(main())
