"""Have workers of several work pools store parts of one backup, each next to its database or directory.

Each source is a task run. It starts a run of the flow `stage-backup` on the work pool that the source names, waits for
it, and takes what it hands over: a value of a few hundred characters in the message of its final state. That needs no
storage for results which all machines can reach, and the Prefect server sees no data: the value says only which chunks
of the repository make up the part. A source that fails is tried again alone.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName, WorkPoolFilter, WorkPoolFilterName
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.deployments import run_deployment
from prefect.futures import PrefectFuture, wait
from prefect.states import Cancelling
from pydantic import BaseModel, Field

from ..backups import BackupManager
from ..errors import BackupFailed, InvalidArgument
from ..integration.backups import parts_progress
from ..redaction import safe_url
from ..repository import StagedPart

FLOW = "stage-backup"
"""The name of the flow that workers run."""

_HANDED_OVER = re.compile(r"\bpart ([A-Za-z0-9_-]+)\Z")
_EVERY = 1.0
"""Seconds between two looks at the task runs."""


class WorkerSources(BaseModel):
    """Sources that the workers of one work pool read. The parameters `databases`, `directories` and `files` of a flow.

    Example:
        >>> WorkerSources(databases=["sqlite:////var/lib/app.db"], directories=["/srv/uploads"]).listed()
        ['sqlite:////var/lib/app.db', '/srv/uploads']
    """

    databases: list[str] = Field(default=[], description="URLs, paths of files, or blocks.")
    directories: list[str] = Field(default=[], description="Paths on the machine of the worker.")
    files: list[str] = Field(default=[], description="Paths of single files on the machine of the worker.")

    def listed(self) -> list[str]:
        """Return all sources in order."""
        return [*self.databases, *self.directories, *self.files]


@dataclass(frozen=True, slots=True)
class WorkerJob:
    """One source, and how a worker is asked to store it.

    Attributes:
        pool: The name of the work pool, which is also the place of the part.
        source: The source, as in the parameters of the flow.
        deployment: The deployment of `stage-backup` on this work pool.
        parameters: The parameters of its run.
    """

    pool: str
    source: str
    deployment: UUID
    parameters: Mapping[str, Any]

    @property
    def title(self) -> str:
        """Its name for people, without secrets."""
        return f"{safe_url(self.source)} on {self.pool}"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for workers, and how often to try.

    Attributes:
        retries: How often a source that failed is tried again.
        timeout: Seconds that a worker may take for one source, the wait for a free worker included.
        poll_interval: Seconds between two looks at the run of a worker.
    """

    retries: int
    timeout: float
    poll_interval: float


@dataclass(slots=True)
class PartsOfWorkers:
    """Has workers stage parts of a backup: a function for the argument `parts` of `create_backup`.

    Attributes:
        manager: The manager that makes the backup.
        jobs: What to stage.
        patience: How long to wait.
    """

    manager: BackupManager
    jobs: Sequence[WorkerJob]
    patience: Patience

    def __call__(self, numbers: Sequence[int] | None) -> list[tuple[str, StagedPart]]:
        """Return the parts with these numbers, or all of them, newly staged.

        Raises:
            BackupFailed: A source could not be stored, after all retries. All others were, and are freed by a prune.
        """
        chosen = [*range(len(self.jobs))] if numbers is None else list(numbers)
        staging = stage_on_worker.with_options(retries=self.patience.retries, retry_delay_seconds=1)
        with parts_progress(self.manager, [(job.pool, safe_url(job.source)) for job in self.jobs]) as progress:
            futures = {number: staging.submit(self.jobs[number], self.patience) for number in chosen}
            ended: set[PrefectFuture[StagedPart]] = set()
            while len(ended) < len(futures):
                ended = wait(list(futures.values()), timeout=_EVERY).done
                progress({number: future.state.name or "" for number, future in futures.items()})
            staged = {number: future.result(raise_on_failure=False) for number, future in futures.items()}
            progress({number: future.state.name or "" for number, future in futures.items()})
        failed = [(self.jobs[number], error) for number, error in staged.items() if not isinstance(error, StagedPart)]
        if failed:
            told = " ".join(f"{job.title}: {error}" for job, error in failed)
            raise BackupFailed(
                f"{len(failed)} of {len(self.jobs)} sources on workers could not be stored, and nothing was committed. "
                f"{told}"
            )
        return [(self.jobs[number].pool, staged[number]) for number in chosen]


@task(name="stage", task_run_name="{job.title}", cache_policy=NO_CACHE, persist_result=False)
def stage_on_worker(job: WorkerJob, patience: Patience) -> StagedPart:
    """Have a worker stage one source, and wait for it.

    Raises:
        BackupFailed: The run of the worker did not complete. The message quotes its state.
    """
    run = cast(
        FlowRun,
        run_deployment(
            job.deployment,
            parameters=dict(job.parameters),
            flow_run_name=job.title,
            timeout=patience.timeout,
            poll_interval=patience.poll_interval,
        ),
    )
    state = run.state
    if state is None or not state.is_final():
        with contextlib.suppress(Exception), get_client(sync_client=True) as client:  # it may be gone for good
            client.set_flow_run_state(run.id, Cancelling(), force=True)
        raise BackupFailed(
            f"The run {run.name} did not end within {patience.timeout:g} seconds. Check that a worker of the work pool "
            f"{job.pool!r} is running."
        )
    found = _HANDED_OVER.search(state.message or "") if state.type == StateType.COMPLETED else None
    if found is None:
        raise BackupFailed(f"The run {run.name} ended as {state.name}: {state.message or 'it left no message'}")
    return StagedPart.from_text(found[1])


def handed_over(part: StagedPart, what: str) -> str:
    """Return the message of the final state of a worker's run, from which `stage_on_worker` takes the part."""
    return f"Stored {what}. It is in no backup yet: part {part.to_text()}"


def jobs_of(workers: Mapping[str, WorkerSources], common: Mapping[str, Any]) -> list[WorkerJob]:
    """Return what to stage on which work pool.

    Args:
        workers: Sources by the names of work pools.
        common: Parameters of `stage-backup` that are the same for all.

    Raises:
        InvalidArgument: A work pool has no deployment of the flow `stage-backup`, or several.
    """
    jobs = []
    for pool, sources in workers.items():
        deployment = _deployment_on(pool)
        for source in sources.listed():
            parameters = {**common, "place": pool, "source": source, **sources.model_dump()}
            jobs.append(WorkerJob(pool, source, deployment, parameters))
    return jobs


def _deployment_on(pool: str) -> UUID:
    with get_client(sync_client=True) as client:
        found = client.read_deployments(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[FLOW])),
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool])),
        )
    if len(found) != 1:
        names = ", ".join(deployment.name for deployment in found) or "none"
        raise InvalidArgument(
            f"The work pool {pool!r} must have one deployment of the flow {FLOW}, and it has {names}. Nothing was "
            "backed up. Deploy prefect_snapshots.flows.stage_backup there, and start a worker of this pool next to the "
            "data."
        )
    return found[0].id
