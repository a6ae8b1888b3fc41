"""Store each source of a backup in a task run of its own: here, or on workers of several work pools.

A source that fails is tried again alone. A flow reads its own sources itself, one after the other. For a source of a
worker, the task run starts a run of the flow `stage-backup` on the work pool that the source names, waits for
it, and takes what it hands over: a value of a few hundred characters in the message of its final state. That needs no
storage for results which all machines can reach, and the Prefect server sees no data: the value says only which chunks
of the repository make up the part.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName, WorkPoolFilter, WorkPoolFilterName
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.deployments import run_deployment
from prefect.futures import PrefectFuture, wait
from prefect.states import Cancelling, Failed
from pydantic import BaseModel, Field

from ..backups import Backup, BackupManager, DrillReport
from ..backups.drills import DrillRow
from ..backups.staging import prefix_of
from ..errors import (
    BackupFailed,
    InvalidArgument,
    MissingDependency,
    PermissionDenied,
    RepositoryError,
    SnapshotsError,
    SourceUnusable,
    ToolMissing,
    UsageError,
    error_classes,
)
from ..integration.backups import parts_progress
from ..redaction import safe_url
from ..repository import StagedPart
from ..repository.progress import Progress

FLOW = "stage-backup"
"""The name of the flow that workers run."""

_HANDED_OVER = re.compile(r"\bpart ([A-Za-z0-9_-]+)\Z")
_EVERY = 1.0
"""Seconds between two looks at the task runs."""

RETRY_AFTER = 1
"""Seconds before a source that failed is tried again."""
_FINAL = (UsageError, MissingDependency, PermissionDenied, RepositoryError, SourceUnusable, ToolMissing)
"""Errors that another try does not change: somebody must change something first."""


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
class OwnJob:
    """Sources that the run of the flow reads itself.

    Attributes:
        sources: The names of the sources, or of the patterns, of the manager. All patterns are one job, because the
            first of those that match a database counts.
    """

    sources: Sequence[str]
    pool = ""

    @property
    def source(self) -> str:
        """All of them, for people."""
        return ", ".join(self.sources)

    @property
    def title(self) -> str:
        """Its name for people, without secrets."""
        return safe_url(self.source)


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
class PartsOfRuns:
    """Has all sources of a backup staged by task runs: a function for the argument `parts` of `create_backup`.

    Attributes:
        manager: The manager with the sources that are staged here.
        jobs: What to stage.
        patience: How long to wait.
        progress: Called as the `progress` of a backup, with what is read here.
    """

    manager: BackupManager
    jobs: Sequence[OwnJob | WorkerJob]
    patience: Patience
    progress: Progress

    def __len__(self) -> int:
        """Return how many parts there are: without any, there is nothing to back up."""
        return len(self.jobs)

    def __call__(self, numbers: Sequence[int] | None) -> list[tuple[str, StagedPart]]:
        """Return the parts with these numbers, or all of them, newly staged.

        Raises:
            BackupFailed: A source could not be stored, after all retries. What others have stored is freed by a prune.
        """
        chosen = [*range(len(self.jobs))] if numbers is None else list(numbers)
        staging = stage_on_worker.with_options(retries=self.patience.retries, retry_delay_seconds=RETRY_AFTER)
        states: dict[int, State[StagedPart]] = {}
        with self._told() as tell:
            futures: dict[int, PrefectFuture[StagedPart]] = {}
            for number in chosen:
                job = self.jobs[number]
                if isinstance(job, WorkerJob):
                    futures[number] = staging.submit(job, self.patience)
            read = 0
            for number in chosen:
                job = self.jobs[number]
                if isinstance(job, OwnJob) and not any(state.is_failed() for state in states.values()):
                    tell({number: "Running", **_names(futures)})
                    state = states[number] = self._staged_here(job, read)
                    tell({number: state.name or ""})
                    read += 0 if state.is_failed() else state.result().content.size
            ended: set[PrefectFuture[StagedPart]] = set()
            while len(ended) < len(futures):
                ended = wait(list(futures.values()), timeout=_EVERY).done
                tell(_names(futures))
            tell(_names(futures))
        # The states of futures may have come from the server, which has no results. Only the futures have these.
        results: dict[int, Any] = {number: state.result(raise_on_failure=False) for number, state in states.items()}
        results |= {number: future.result(raise_on_failure=False) for number, future in futures.items()}
        found = {number: part for number, part in results.items() if isinstance(part, StagedPart)}
        failed = {number: error for number, error in results.items() if not isinstance(error, StagedPart)}
        for number, error in failed.items():
            if isinstance(self.jobs[number], OwnJob):
                raise error
        if failed:
            told = " ".join(f"{self.jobs[number].title}: {error}" for number, error in failed.items())
            raise BackupFailed(
                f"{len(failed)} of {len(futures)} sources on workers could not be stored, and nothing was committed. "
                f"{told}"
            )
        return [(self.jobs[number].pool, found[number]) for number in chosen]

    def _told(self) -> contextlib.AbstractContextManager[Callable[[Mapping[int, str]], None]]:
        if len(self.jobs) == 1 and isinstance(self.jobs[0], OwnJob):
            return contextlib.nullcontext(lambda _: None)  # the progress of the backup says the same
        return parts_progress(self.manager, [(job.pool, safe_url(job.source)) for job in self.jobs])

    def _staged_here(self, job: OwnJob, before: int) -> State[StagedPart]:
        here = stage_here.with_options(retries=self.patience.retries, retry_delay_seconds=RETRY_AFTER)

        def progress(label: str, done: int, total: int) -> None:
            self.progress(label, before + done, total)

        return here(job.title, self.manager, job.sources, progress, return_state=True)


def _names(futures: Mapping[int, PrefectFuture[StagedPart]]) -> dict[int, str]:
    return {number: future.state.name or "" for number, future in futures.items()}


def _may_help(task: object, run: object, state: State[StagedPart]) -> bool:
    """Return whether a task run that failed is worth another try."""
    return not isinstance(state.result(raise_on_failure=False), _FINAL)


@task(
    name="stage-here",
    task_run_name="{title}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retry_condition_fn=_may_help,
)
def stage_here(title: str, manager: BackupManager, sources: Sequence[str], progress: Progress) -> StagedPart:
    """Stage sources that the run of the flow reads itself. An error of ours is the result of a failed state."""
    try:
        return manager.stage_backup("", sources, progress)
    except SnapshotsError as error:
        return _failed(error)


@task(
    name="stage",
    task_run_name="{job.title}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retry_condition_fn=_may_help,
)
def stage_on_worker(job: WorkerJob, patience: Patience) -> StagedPart:
    """Have a worker stage one source, and wait for it. An error of ours is the result of a failed state."""
    try:
        message = _completed(job, patience)
        found = _HANDED_OVER.search(message)
        if found is None:
            raise BackupFailed(f"The run on {job.pool} has handed over no part: {message or 'it left no message'}")
        return StagedPart.from_text(found[1])
    except BackupFailed as error:
        return _failed(error)


def _failed(error: SnapshotsError) -> StagedPart:
    """Return a failed state, and no exception: the flow that waits for it says what failed, in one line."""
    return cast(StagedPart, Failed(message=f"{type(error).__name__}: {error}", data=error))


@task(name="drill", task_run_name="{job.title}", cache_policy=NO_CACHE, persist_result=False)
def drill_on_worker(job: WorkerJob, patience: Patience) -> None:
    """Have a worker try the parts that its work pool has stored, and wait for it.

    Raises:
        BackupFailed: The run of the worker did not complete: something differs, or it could not be tried.
    """
    _completed(job, patience)


@task(name="restore", task_run_name="{job.title}", cache_policy=NO_CACHE, persist_result=False)
def restore_on_worker(job: WorkerJob, patience: Patience) -> None:
    """Have a worker restore the parts that its work pool has stored, and wait for it.

    Raises:
        BackupFailed: The run of the worker did not complete. The message quotes its state.
    """
    _completed(job, patience)


def drilled_on_workers(backup: Backup, jobs: Sequence[WorkerJob], patience: Patience) -> DrillReport:
    """Have workers try the parts that they have stored. Returns the result for each of these parts."""
    since = time.monotonic()
    futures = [drill_on_worker.submit(job, patience) for job in jobs]
    wait(futures)
    rows = []
    for job, future in zip(jobs, futures, strict=True):
        error = future.result(raise_on_failure=False)
        problems = (f"On {job.pool}: {error}",) if isinstance(error, BaseException) else ()
        for part in backup.parts:
            if part.name.startswith(prefix_of(job.pool)):
                rows.append(
                    DrillRow(
                        part.name, part.kind, part.files, {} if problems else part.counts, problems, (), not problems
                    )
                )
    return DrillReport(backup.name, tuple(rows), time.monotonic() - since)


def _completed(job: WorkerJob, patience: Patience) -> str:
    """Start the run of a worker, wait for it, and return the message of its final state.

    Raises:
        BackupFailed: It did not complete. The message quotes its state.
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
    if state.type != StateType.COMPLETED:
        message = state.message or "it left no message"
        final = message.partition(":")[0] in _names_of_final_errors()
        kind = SourceUnusable if final else BackupFailed
        raise kind(f"The run {run.name} ended as {state.name}: {message}")
    return state.message or ""


def _names_of_final_errors() -> set[str]:
    """Return the names with which the message of a worker's run begins if another run would fail in the same way."""
    return {kind.__name__ for kind in error_classes() if issubclass(kind, _FINAL)}


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
        deployment = _deployment_on(pool, FLOW)
        for source in sources.listed():
            parameters = {**common, "place": pool, "source": source, **sources.model_dump()}
            jobs.append(WorkerJob(pool, source, deployment, parameters))
    return jobs


def jobs_of_parts(
    flow: str, workers: Mapping[str, WorkerSources], backup: Backup, common: Mapping[str, Any], taken: Sequence[str]
) -> list[WorkerJob]:
    """Return what each work pool does with the parts that it has stored.

    Args:
        flow: The name of the flow that workers run.
        workers: Sources by the names of work pools.
        backup: The backup with the parts.
        common: Parameters of the flow that are the same for all.
        taken: The parameters of the flow that name sources.

    Raises:
        InvalidArgument: A work pool has no deployment of the flow, or several, or has no part of the backup.
    """
    jobs = []
    for pool, sources in workers.items():
        if not any(name.startswith(prefix_of(pool)) for name in backup.part_names):
            raise InvalidArgument(f"Backup {backup.name!r} has no part from {pool!r}. Nothing was done.")
        given = {name: value for name, value in sources.model_dump().items() if name in taken}
        parameters = {**common, **given, "place": pool, "backup": backup.name}
        jobs.append(WorkerJob(pool, backup.name, _deployment_on(pool, flow), parameters))
    return jobs


def own_jobs(manager: BackupManager) -> list[OwnJob]:
    """Return what the run of the flow itself stages: all sources of its manager."""
    servers = [OwnJob(tuple(server.name for server in manager.servers))] if manager.servers else []
    return [
        *servers,
        *(OwnJob((each.name,)) for each in manager.databases),
        *(OwnJob((each.name,)) for each in manager.files),
        *(OwnJob((each.name,)) for each in manager.directories),
    ]


def _deployment_on(pool: str, flow: str) -> UUID:
    with get_client(sync_client=True) as client:
        found = client.read_deployments(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])),
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool])),
        )
    if len(found) != 1:
        names = ", ".join(deployment.name for deployment in found) or "none"
        raise InvalidArgument(
            f"The work pool {pool!r} must have one deployment of the flow {flow}, and it has {names}. Nothing was "
            f"done. Deploy prefect_snapshots.flows.{flow.replace('-', '_')} there, and start a worker of this pool "
            "next to the data."
        )
    return found[0].id
