"""Test whether Prefect can run what is deployed: the server, the workers, and the last run of each deployment."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from datetime import UTC

import httpx
from prefect import __version__
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType, WorkerStatus
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import get_current_settings

from ..errors import SetupError
from ..reports.diagnosis import Finding

_OURS = "prefect_snapshots.flows."
_ENDED = [StateType.COMPLETED, StateType.FAILED, StateType.CRASHED]


def diagnose_prefect() -> Iterator[Finding]:
    """Yield what is found about the Prefect server of the active profile, and about deployments of our flows on it."""
    api = get_current_settings().api.url
    if not api:
        found = "none is configured: runs start a temporary one. Keep one with `prefect server start`"
        yield Finding("Prefect server", True, (found,))
        return
    try:
        with get_client(sync_client=True) as client:
            version = client.api_version()
            yield Finding(f"Prefect server {api}", True, (f"version {version}, here {__version__}",))
            deployments = [each for each in client.read_deployments() if str(each.entrypoint).startswith(_OURS)]
            for pool in sorted({each.work_pool_name for each in deployments if each.work_pool_name}):
                yield _of_pool(client, pool)
            for each in deployments:
                yield _of_deployment(client, each)
    except httpx.HTTPError as error:
        found = f"it does not answer ({type(error).__name__}). Start it, or check PREFECT_API_URL"
        yield Finding(f"Prefect server {api}", False, (found,))


def require_prefect(otherwise: str = "") -> None:
    """Test that the Prefect server of the active profile answers, before anything is changed.

    Args:
        otherwise: What else the user can do, as a sentence.

    Raises:
        SetupError: It does not answer.
    """
    try:
        with get_client(sync_client=True) as client:
            client.api_version()
    except httpx.HTTPError as error:
        raise SetupError(
            f"The Prefect server {get_current_settings().api.url} does not answer ({type(error).__name__}). Nothing "
            f"was changed. Start it, or check PREFECT_API_URL.{otherwise and f' {otherwise}'}"
        ) from error


def _of_pool(client: SyncPrefectClient, pool: str) -> Finding:
    workers = client.read_workers_for_work_pool(pool)
    online = [each.name for each in workers if each.status == WorkerStatus.ONLINE]
    none = f"no worker is online, so that nothing runs. Start one: prefect worker start --pool {shlex.quote(pool)}"
    return Finding(f"work pool {pool}", bool(online), (", ".join(online) or none,))


def _of_deployment(client: SyncPrefectClient, deployment: DeploymentResponse) -> Finding:
    name = f"{str(deployment.entrypoint).removeprefix(_OURS).replace('_', '-')}/{deployment.name}"
    ended = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_ENDED)))
    of_it = DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id]))
    latest = FlowRunSort.EXPECTED_START_TIME_DESC
    runs = client.read_flow_runs(flow_run_filter=ended, deployment_filter=of_it, sort=latest, limit=1)
    found = ["paused: no schedule starts it"] if deployment.paused else []
    bad = deployment.paused
    for run in runs:
        state = run.state
        assert state is not None
        message = f": {state.message}" if state.message and state.type != StateType.COMPLETED else ""
        found.append(f"last run {run.name} {state.name} at {state.timestamp.astimezone(UTC):%F %T} UTC{message}")
        bad = bad or state.type != StateType.COMPLETED
    return Finding(f"deployment {name}", not bad, tuple(found or ["has not run yet"]))
