"""What a run has left on the Prefect server of the tests."""

from __future__ import annotations

import threading
import time
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey, FlowRunFilter, FlowRunFilterName
from prefect.client.schemas.objects import Artifact, FlowRun
from prefect.events import Event
from prefect.events.filters import EventFilter, EventResourceFilter

from prefect_snapshots.integration import live
from prefect_snapshots.integration.live import artifact_key


def flush() -> None:
    """Has every artifact say what it should, also where a busy server does not answer at once."""
    deadline = time.monotonic() + 120
    while not live.flush():
        assert time.monotonic() < deadline, "the server did not take the artifacts for two minutes"


def artifacts_of(name: str, kind: str = "snapshots") -> list[Artifact]:
    """The artifacts for a name of a kind. Of snapshots: one for each flow run that saved some."""
    with get_client(sync_client=True) as client:
        return client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[artifact_key(kind, name)]))
        )


def artifact_text(name: str) -> str:
    """What the only artifact for a name says."""
    [artifact] = artifacts_of(name)
    return str(artifact.data)


def paused_run(name: str, thread: threading.Thread, outcome: list[Any]) -> FlowRun:
    """The flow run of a name, once it is paused.

    Args:
        name: The name of the flow run.
        thread: Runs it.
        outcome: What the thread leaves when it ends too early.
    """
    deadline = time.monotonic() + 60
    with get_client(sync_client=True) as client:
        wanted = FlowRunFilter(name=FlowRunFilterName(any_=[name]))
        while not (found := client.read_flow_runs(flow_run_filter=wanted)) or found[0].state_name != "Paused":
            assert thread.is_alive(), outcome
            assert time.monotonic() < deadline
            time.sleep(0.1)
    return found[0]


def events_of(name: str, expected: int) -> list[Event]:
    """The events about a name of snapshots in order, once that many have arrived: the server takes some seconds."""
    return events_about(f"prefect-snapshots.snapshots.{name}", expected)


def events_about(resource: str, expected: int) -> list[Event]:
    """Likewise for any resource."""
    deadline = time.monotonic() + 60
    with get_client(sync_client=True) as client:
        while True:
            wanted = EventFilter(resource=EventResourceFilter(id=[resource]))
            found: list[Any] = client.read_events(wanted, limit=50).events
            if len(found) >= expected:
                return sorted(found, key=lambda event: event.occurred)
            assert time.monotonic() < deadline, f"{len(found)} of {expected} events after a minute"
            time.sleep(0.2)
