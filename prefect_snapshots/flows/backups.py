"""Flows that make backups, delete old ones, restore them, and prove that they can be restored.

All parameters that name what to back up are strings, so that a deployment can store them: a database is named by its
URL, by the path of its file, or by the block with its URL and password, such as
`prefect-snapshots-backup-database/shop`; a directory is named by its path. Never write a password into a parameter: the
Prefect server stores parameters and shows them.

Whoever may start runs of a deployment chooses its parameters. So commands in parameters are refused, unless the setting
`PREFECT_INTEGRATIONS_SNAPSHOTS_ALLOW_COMMANDS` allows them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar, cast

import humanize
from prefect import flow
from prefect.flow_runs import pause_flow_run
from prefect.futures import wait
from prefect.input import RunInput
from prefect.settings import get_current_settings
from prefect.states import Completed
from pydantic import Field

from ..backups import Backup, BackupManager, Command, Directory, DrillReport, File, Hooks, RestoreReport
from ..backups.databases import open_database
from ..backups.hooks import NO_HOOKS
from ..backups.sources import Database, DatabaseServer
from ..backups.staging import SEPARATOR
from ..documents import code, escape
from ..documents.texts import count_text, size_text
from ..errors import CommandRefused, ConfirmationRequired, IntegrityError, InvalidArgument, NotProven, RestoreFailed
from ..integration.backups import (
    progress_bar,
    report_cleaned,
    report_created,
    report_drill_failed,
    report_drilled,
    report_failed,
    report_proof_overdue,
    report_restored,
    report_waiting,
)
from ..integration.blocks import current_repository
from ..integration.database_blocks import named_database
from ..integration.reporter import only_warn, this_run
from ..integration.run_context import run_logger
from ..integration.settings import SnapshotsSettings
from ..messages import printable
from ..redaction import safe_url
from ..repository import StagedPart
from ..repository.handing_over import limited
from ..repository.progress import Progress
from ..retention import CleanupReport, RetentionPolicy
from .failing import fails_with_one_error
from .fan_out import (
    FLOW,
    PartsOfRuns,
    Patience,
    WorkerJob,
    WorkerSources,
    drilled_on_workers,
    handed_over,
    jobs_of,
    jobs_of_parts,
    own_jobs,
    restore_on_worker,
)

WORKER_PATIENCE = 24 * 3600.0
"""Seconds that a worker may take for one source: a day, after which a worker that is gone for good is noticed."""

PATIENCE = 3600
"""Seconds that a person has to confirm a restore: an hour, after which the run fails and nothing was changed."""

DEFAULT_RETENTION = RetentionPolicy()

DRILL = "restore-drill"
"""The name of the flow that a worker runs to try its parts: that of a drill of all of them."""
RESTORE = "restore-parts"
"""The name of the flow that a worker runs to restore its parts."""

WITH_WARNINGS = "Completed with warnings"
"""The name of the state of a run that did its work and left something out. Its type is that of a completed run."""
_SHOWN = 3
"""Warnings that the message of a state quotes. The log and the page of the run have all of them."""

R = TypeVar("R")


class RestoreConfirmation(RunInput):
    """What a person must type before data is replaced."""

    name_of_the_backup: str = Field(
        title="Name of the backup", description="Type the whole name of the backup to restore it."
    )
    your_name: str = Field("", title="Your name", description="It is shown on the page of the finished restore.")
    allow_privileges: bool = Field(
        False,
        title="Allow privileges",
        description="Create roles and users of a server even if they have privileges, such as SUPERUSER.",
    )


@flow(name="create-backup")
@fails_with_one_error
def create_backup(
    description: str = "",
    name: str = "default",
    databases: Sequence[str] = (),
    directories: Sequence[str] = (),
    permanent: bool = False,
    tags: Sequence[str] = (),
    retention: RetentionPolicy = DEFAULT_RETENTION,
    repository: str | None = None,
    prove: bool = False,
    proven_within_days: float | None = None,
    excludes: Sequence[str] = (),
    ignore_files: Sequence[str] = (),
    exclude_caches: bool = False,
    exclude_if_present: Sequence[str] = (),
    one_file_system: bool = False,
    larger_than: int | None = None,
    follow_links: bool = False,
    strict: bool = True,
    files: Sequence[str] = (),
    commands: Mapping[str, str] | None = None,
    before: Sequence[Sequence[str]] = (),
    after: Sequence[Sequence[str]] = (),
    hook_timeout: float = Hooks.timeout,
    limit_upload: float | None = None,
    workers: Mapping[str, WorkerSources] | None = None,
    source_retries: int = 2,
    worker_timeout: float = WORKER_PATIENCE,
    poll_interval: float = 5,
) -> Backup:
    """Back up databases and directories, then delete backups that the retention policy does not keep.

    If one source fails, nothing is committed. If something was left out, or a command afterwards failed, the run ends
    in a state named `Completed with warnings`.

    Args:
        description: Why you make the backup. It becomes part of its name.
        name: The name of this set of backups. Sets with different names can share a repository.
        databases: URLs, paths of files, or blocks such as `prefect-snapshots-backup-database/shop`.
        directories: Paths.
        permanent: Pin the backup, so that retention never deletes it.
        tags: Labels, which `keep_tags` of a retention policy can select.
        retention: Which backups to keep.
        repository: A URL or path, or a block such as `prefect-snapshots-repository/team`. Default: the repository that
            `blocks.current_repository` returns.
        prove: Also restore the backup into a temporary place, and compare. The run fails if something differs.
        proven_within_days: Emit the event `backup.proof-overdue` if the last proven backup is older than this.
        excludes: Patterns of what to exclude from all directories, as in `.gitignore`, in addition to the default ones.
        ignore_files, exclude_caches, exclude_if_present, one_file_system, larger_than, follow_links: As for
            `Directory`.
        strict: Whether a file that cannot be read makes the backup fail. If False, it is left out and noted.
        files: Paths of single files.
        commands: Commands whose output is backed up, by the name of the output. If a command fails, the backup fails.
        before: Commands to run before the backup: lists of a program and its arguments. If one fails, so does the
            backup.
        after: Commands to run at the end, whether there is a backup or not.
        hook_timeout: Seconds that each command before and after the backup may take.
        limit_upload: The most bytes a second to write, for this flow and for each worker. Default: no limit.
        workers: Sources that workers on other machines read, by the names of their work pools: for each pool
            `databases`, `directories` and `files`. It needs a deployment of the flow `stage_backup`. The names of the
            parts begin with the name of the pool.
        source_retries: How often a source is tried again if it fails. Each source is a task run.
        worker_timeout: Seconds that a worker may take for one source, the wait for a free worker included.
        poll_interval: Seconds between two looks at the runs of workers.

    Raises:
        BackupFailed: A source could not be read completely, or a command before the backup failed. The message names
            it. Nothing was committed.
        CommandRefused: There are commands, and the settings where the flow runs do not allow them.
        InvalidArgument: A work pool has no deployment of the flow `stage_backup`.
        NotProven: The backup was made, but the restored data is not identical.
    """
    hooks = _allowed_hooks(before, after, hook_timeout, list((commands or {}).values()))
    options: dict[str, Any] = {
        "excludes": excludes,
        "ignore_files": ignore_files,
        "exclude_caches": exclude_caches,
        "exclude_if_present": exclude_if_present,
        "one_file_system": one_file_system,
        "larger_than": larger_than,
        "follow_links": follow_links,
        "strict": strict,
    }
    chosen = _directories(directories, **options)
    common = {**options, "name": name, "repository": repository, "limit_upload": limit_upload}
    jobs = jobs_of(workers or {}, common)
    streams: list[File | Command] = [
        *map(File, files),
        *(Command(command, name=each) for each, command in (commands or {}).items()),
    ]
    manager = _manager(name, databases, chosen, repository, retention, streams, hooks, limit_upload)
    try:
        fan_out = partial(
            PartsOfRuns,
            manager,
            [*own_jobs(manager), *jobs],
            Patience(source_retries, worker_timeout, poll_interval),
        )
        committing = _manager(name, (), (), repository, retention, (), hooks, limit_upload)
        return _ended(_created(manager, committing, description, permanent, tags, prove, fan_out))
    finally:  # a proof is overdue above all where backups fail
        if proven_within_days is not None:
            with only_warn(f"The backups of {name} are made"):
                report_proof_overdue(manager, datetime.now(UTC) - timedelta(days=proven_within_days))


@flow(name=FLOW)
@fails_with_one_error
def stage_backup(
    place: str,
    source: str,
    name: str = "default",
    databases: Sequence[str] = (),
    directories: Sequence[str] = (),
    files: Sequence[str] = (),
    repository: str | None = None,
    excludes: Sequence[str] = (),
    ignore_files: Sequence[str] = (),
    exclude_caches: bool = False,
    exclude_if_present: Sequence[str] = (),
    one_file_system: bool = False,
    larger_than: int | None = None,
    follow_links: bool = False,
    strict: bool = True,
    limit_upload: float | None = None,
) -> StagedPart:
    """Store one source for a backup that a run of `create_backup` makes. Deploy it on a work pool next to the data.

    `create_backup` starts its runs, with all of these parameters.

    Args:
        place: The name of the work pool, with which the name of the part begins.
        source: The database, directory or file to store.
        databases, directories, files: All sources of the work pool: what one contains is not stored with another.
        name, repository, limit_upload: As for `create_backup`.
        excludes, ignore_files, exclude_caches, exclude_if_present, one_file_system, larger_than, follow_links, strict:
            As for `create_backup`.

    Raises:
        BackupFailed: The source could not be read completely. The run that waits for it tries it again.
    """
    options = {"exclude_caches": exclude_caches, "one_file_system": one_file_system, "strict": strict}
    chosen = _directories(
        directories,
        excludes=excludes,
        ignore_files=ignore_files,
        exclude_if_present=exclude_if_present,
        larger_than=larger_than,
        follow_links=follow_links,
        **options,
    )
    opened = [named_database(each) for each in databases]
    single = [File(path) for path in files]
    names = (each.name for each in (*opened, *chosen, *single))
    named = dict(zip((*databases, *directories, *files), names, strict=True))
    if source not in named:
        raise InvalidArgument(f"{source!r} is none of the databases, directories and files of this run.")
    manager = _manager(name, opened, chosen, repository, files=single, limit_upload=limit_upload)
    last = _last_size(manager, f"{place}{SEPARATOR}{named[source]}")
    with progress_bar(manager, f"Part {safe_url(source)}", last) as progress:
        part = manager.stage_backup(place, [named[source]], progress)
    sizes = f"{size_text(part.content.size)}, {size_text(part.content.written)} written"
    message = handed_over(part, f"{safe_url(source)} ({sizes})")
    return cast(StagedPart, Completed(message=message, data=part))


def _last_size(manager: BackupManager, part: str) -> int:
    sizes = (each.size for backup in manager.list_backups() for each in backup.parts if each.name == part)
    return next(sizes, 0)


def _directories(paths: Sequence[str], *, excludes: Sequence[str], **options: Any) -> list[Directory]:
    return [Directory(path, excludes=(*Directory.excludes, *excludes), **options) for path in paths]


def _created(
    manager: BackupManager,
    committing: BackupManager,
    description: str,
    permanent: bool,
    tags: Sequence[str],
    prove: bool,
    fan_out: Callable[[Progress], PartsOfRuns],
) -> Backup:
    last = next((backup.size for backup in manager.list_backups() if backup.regular), 0)
    try:
        with progress_bar(manager, "Backup", last) as progress:
            backup = committing.create_backup(
                description, permanent, tags=tags, run=this_run(), progress=progress, parts=fan_out(progress)
            )
    except Exception as error:
        report_failed(manager, error)
        raise
    report_created(manager, backup)
    if prove:
        report = _drilled(manager, backup.name)
        if not report.ok:
            raise NotProven(backup.name, report.problems)
        backup = dataclasses.replace(manager.get_backup(backup.name), failed_hooks=backup.failed_hooks)
    return backup


@flow(name="cleanup-backups")
@fails_with_one_error
def cleanup_backups(
    name: str = "default",
    retention: RetentionPolicy = DEFAULT_RETENTION,
    dry_run: bool = False,
    prune: bool = True,
    repository: str | None = None,
) -> CleanupReport:
    """Delete backups that the retention policy does not keep, and reclaim their space.

    The credentials must allow deletes.

    Args:
        name, retention, repository: As for `create_backup`.
        dry_run: Only report what would be deleted.
        prune: Also reclaim the space.
    """
    manager = _manager(name, (), (), repository, retention)
    with progress_bar(manager, "Cleanup", unit="step") as progress:
        report = manager.cleanup(None, dry_run, prune, progress)
    report_cleaned(manager, report)
    return report


@flow(name="restore-backup")
@fails_with_one_error
def restore_backup(
    backup: str | None = None,
    name: str = "default",
    databases: Sequence[str] = (),
    directories: Sequence[str] = (),
    to: dict[str, str] | None = None,
    only: dict[str, list[str]] | None = None,
    repository: str | None = None,
    patience: int = PATIENCE,
    poll_interval: int = 10,
    files: Sequence[str] = (),
    before: Sequence[Sequence[str]] = (),
    after: Sequence[Sequence[str]] = (),
    hook_timeout: float = Hooks.timeout,
    allow_privileges: bool = False,
    keep_extra: bool = False,
    only_changed: bool = False,
    in_place: bool = False,
    place: str = "",
    workers: Mapping[str, WorkerSources] | None = None,
    worker_timeout: float = WORKER_PATIENCE,
) -> RestoreReport:
    """Restore databases and directories after a person has confirmed it on the page of the flow run.

    The person must type the name of the backup. Everything is verified and built before anything changes. Anything that
    is not in the backup is deleted, unless you pass `keep_extra`.

    Args:
        backup: The name of the backup. Default: the latest.
        name, databases, directories, files, repository: As for `create_backup`.
        to: Other targets, by the names of the parts.
        only: Restore only these parts, and of each only these tables, collections or paths. An empty list means all of
            them.
        patience: How many seconds to wait for the confirmation.
        poll_interval: Seconds between two checks for the confirmation, and of the runs of workers.
        before, after, hook_timeout: As for `create_backup`. They run after the confirmation.
        allow_privileges: Create roles and users of a server even if they have privileges, such as SUPERUSER. The form
            of the confirmation starts with this value, and decides.
        keep_extra, only_changed, in_place: As for `BackupManager.restore_backup`.
        place: Restore only the parts that this work pool has stored, to the sources of this run. Default: all parts.
        workers: Sources by the names of the work pools that restore the parts which they have stored. It needs a
            deployment of the flow `restore_parts` on each. The run itself restores all other parts. Each of them
            switches its own parts when these are ready, whatever happens elsewhere. Not together with `only`.
        worker_timeout: As for `create_backup`.

    Raises:
        CommandRefused: There are commands, and the settings where the flow runs do not allow them.
        ConfirmationRequired: Something else was typed. Nothing was changed.
        DamagedVersion: Stored data is damaged. Nothing was changed.
        PrivilegesRefused: The backup has roles with privileges, and nobody allowed that. Nothing was changed.
        RestoreFailed: A part could not be restored. The message says which targets are restored, unchanged or only
            partly restored, and which command to run.
    """
    hooks = _allowed_hooks(before, after, hook_timeout)
    manager = _manager(name, databases, directories, repository, files=[File(path) for path in files], hooks=hooks)
    found = manager.get_backup(backup or "latest")
    if workers and (only or place):
        raise InvalidArgument("A restore by workers restores all parts: leave out only and place. Nothing was changed.")
    common = {"name": name, "repository": repository, "keep_extra": keep_extra, "only_changed": only_changed}
    common |= {"in_place": in_place}
    jobs = jobs_of_parts(RESTORE, workers or {}, found, common, [*WorkerSources.model_fields])
    theirs = tuple(f"{job.pool}{SEPARATOR}" for job in jobs)
    own = [part for part in found.part_names if not part.startswith(theirs)] if jobs else []
    with progress_bar(manager, "Verification", found.size) as progress:
        manager.verify_backup(found.name, progress)
    report_waiting(
        manager, found, _replaced(manager, found, to, only, place), datetime.now(UTC) + timedelta(seconds=patience)
    )
    form = RestoreConfirmation.with_initial_data(description=_question(found), allow_privileges=allow_privileges)
    typed = pause_flow_run(wait_for_input=form, timeout=patience, poll_interval=poll_interval)
    if typed is None or typed.name_of_the_backup.strip() != found.name:
        raise ConfirmationRequired(f"What you typed is not {found.name!r}. Nothing was changed.")
    since = time.monotonic()
    with _restored_on_workers(
        jobs, found, typed.allow_privileges, Patience(0, worker_timeout, poll_interval)
    ) as restored_there:
        report = RestoreReport(found.name, ())
        if own or not jobs:
            with progress_bar(manager, "Restore", found.size) as progress:
                report = manager.restore_backup(
                    found.name,
                    confirm=True,
                    to=to,
                    only=dict.fromkeys(own, ()) if jobs else only,
                    in_place=in_place,
                    progress=progress,
                    keep_extra=keep_extra,
                    only_changed=only_changed,
                    allow_privileges=typed.allow_privileges,
                    place=place,
                )
    report = dataclasses.replace(report, restored=(*report.restored, *restored_there))
    report_restored(manager, report, found, time.monotonic() - since, typed.your_name.strip())
    return _with_warnings(report, report.name, [*report.warnings, *report.failed_hooks])


@contextlib.contextmanager
def _restored_on_workers(
    jobs: Sequence[WorkerJob], backup: Backup, allow_privileges: bool, patience: Patience
) -> Iterator[list[str]]:
    """Have workers restore their parts meanwhile. The list has the names of these parts at the end.

    Raises:
        RestoreFailed: Some workers have not restored theirs.
    """
    restored: list[str] = []
    parameters = {"confirmed": backup.name, "allow_privileges": allow_privileges}
    futures = [
        restore_on_worker.submit(dataclasses.replace(job, parameters={**job.parameters, **parameters}), patience)
        for job in jobs
    ]
    try:
        yield restored
    finally:  # also after a failure here, nobody may believe that all others stand still
        wait(futures)
    results = {job.pool: future.result(raise_on_failure=False) for job, future in zip(jobs, futures, strict=True)}
    failed = {pool: error for pool, error in results.items() if isinstance(error, BaseException)}
    for job in jobs:
        if job.pool not in failed:
            restored += [part for part in backup.part_names if part.startswith(f"{job.pool}{SEPARATOR}")]
    if failed:
        told = " ".join(f"{pool}: {error}" for pool, error in failed.items())
        raise RestoreFailed(
            f"{count_text(len(failed), 'work pool')} of {len(jobs)} could not restore the parts of {backup.name}. All "
            f"other parts are restored. {told} Look at the runs of these workers, which say what to do."
        )


@flow(name=RESTORE)
@fails_with_one_error
def restore_parts(
    place: str,
    backup: str,
    confirmed: str,
    name: str = "default",
    databases: Sequence[str] = (),
    directories: Sequence[str] = (),
    files: Sequence[str] = (),
    repository: str | None = None,
    keep_extra: bool = False,
    only_changed: bool = False,
    in_place: bool = False,
    allow_privileges: bool = False,
) -> RestoreReport:
    """Restore the parts that a work pool has stored. Deploy it on the work pool next to the data.

    A run of `restore_backup` starts its runs, after a person has typed the name of the backup there.

    Args:
        place: The name of the work pool.
        backup: The name of the backup.
        confirmed: What the person has typed.
        name, databases, directories, files, repository: As for `create_backup`.
        keep_extra, only_changed, in_place, allow_privileges: As for `restore_backup`.

    Raises:
        ConfirmationRequired: Something else was typed. Nothing was changed.
        RestoreFailed: A part could not be restored. The message says which targets are restored, unchanged or only
            partly restored, and which command to run.
    """
    if confirmed != backup:
        raise ConfirmationRequired(f"What you typed is not {backup!r}. Nothing was changed.")
    manager = _manager(name, databases, directories, repository, files=[File(path) for path in files])
    found = manager.get_backup(backup)
    with progress_bar(manager, "Restore", found.size) as progress:
        report = manager.restore_backup(
            found.name,
            confirm=True,
            place=place,
            progress=progress,
            keep_extra=keep_extra,
            only_changed=only_changed,
            in_place=in_place,
            allow_privileges=allow_privileges,
        )
    return _with_warnings(report, report.name, report.warnings)


@flow(name=DRILL)
@fails_with_one_error
def restore_drill(
    name: str = "default",
    databases: Sequence[str] = (),
    backup: str | None = None,
    repository: str | None = None,
    place: str = "",
    workers: Mapping[str, WorkerSources] | None = None,
    worker_timeout: float = WORKER_PATIENCE,
    poll_interval: float = 5,
) -> DrillReport:
    """Prove a backup: restore it into a temporary place, and compare. The run fails if something differs.

    If everything is identical, the backup is marked as proven.

    Args:
        name, databases, repository: As for `create_backup`. Scratch databases are created beside these, and dropped.
        backup: The name of the backup. Default: the latest.
        place: Only try the parts that this work pool has stored. Then a backup that has others is not marked as proven.
        workers: Databases by the names of the work pools that try the parts which they have stored. It needs a
            deployment of this flow on each. The run itself tries all other parts.
        worker_timeout, poll_interval: As for `create_backup`.

    Raises:
        IntegrityError: The restored data is not identical. The report says what differs.
        InvalidArgument: A work pool has no deployment of this flow, or no part of the backup.
    """
    manager = _manager(name, databases, (), repository)
    tried, elsewhere = backup or "latest", None
    if workers:
        found = manager.get_backup(tried)
        common = {"name": name, "repository": repository}
        jobs = jobs_of_parts(DRILL, workers, found, common, ["databases"])
        tried, elsewhere = found.name, drilled_on_workers(found, jobs, Patience(0, worker_timeout, poll_interval))
    report = _drilled(manager, tried, place, elsewhere)
    if not report.ok:
        raise IntegrityError(f"The data restored from {report.name} is not identical. See the report of the drill.")
    return report


@flow(name="backup-prefect-server")
@fails_with_one_error
def backup_prefect_server(
    name: str = "prefect-server",
    retention: RetentionPolicy = DEFAULT_RETENTION,
    repository: str | None = None,
    before: Sequence[Sequence[str]] = (),
    after: Sequence[Sequence[str]] = (),
    hook_timeout: float = Hooks.timeout,
    limit_upload: float | None = None,
) -> Backup:
    """Back up the database of the Prefect server while it runs. The settings of this flow run must name the database.

    Args:
        name, retention, repository, before, after, hook_timeout, limit_upload: As for `create_backup`.

    Raises:
        CommandRefused: There are commands, and the settings where the flow runs do not allow them.
        InvalidArgument: The settings name no database.
    """
    hooks = _allowed_hooks(before, after, hook_timeout)
    manager = _manager(name, [_server_database()], (), repository, retention, hooks=hooks, limit_upload=limit_upload)
    try:
        with progress_bar(manager, "Backup") as progress:
            backup = manager.create_backup("prefect server", run=this_run(), progress=progress)
    except Exception as error:
        report_failed(manager, error)
        raise
    report_created(manager, backup)
    return _ended(backup)


# --- helpers ----------------------------------------------------------------------------------------------------------


def _ended(backup: Backup) -> Backup:
    left_out = [f"{part.name}: {note}" for part in backup.parts if part.incomplete for note in part.notes]
    return _with_warnings(backup, backup.name, [*left_out, *backup.failed_hooks])


def _with_warnings(result: R, name: str, warnings: Sequence[str]) -> R:
    """Return the result of a flow, or a state that contains it and shows the warnings, if there are some."""
    if not warnings:
        return result
    more = len(warnings) - _SHOWN
    told = [*warnings[:_SHOWN], *([f"And {count_text(more, 'more warning')}: see the log."] if more > 0 else [])]
    message = f"{name} has {count_text(len(warnings), 'warning')}. {' '.join(told)}"
    return cast(R, Completed(name=WITH_WARNINGS, message=printable(message), data=result))


def _drilled(manager: BackupManager, name: str, place: str = "", elsewhere: DrillReport | None = None) -> DrillReport:
    try:
        with progress_bar(manager, "Drill", unit="step") as progress:
            report = manager.drill(
                name, progress, run=this_run(), place=place, elsewhere=[] if elsewhere is None else [elsewhere]
            )
    except IntegrityError as error:
        report_drill_failed(manager, name, error)
        raise
    report_drilled(manager, report)
    return report


def _allowed_hooks(
    before: Sequence[Sequence[str]], after: Sequence[Sequence[str]], timeout: float, sources: Sequence[str] = ()
) -> Hooks:
    """Return the hooks, unless they or other commands are in the parameters of a run that may name none."""
    if (before or after or sources) and not SnapshotsSettings().allow_commands:
        raise CommandRefused(
            "The parameters of this run name commands, and the settings where it runs do not allow that. Nothing was "
            "run. Set PREFECT_INTEGRATIONS_SNAPSHOTS_ALLOW_COMMANDS=true there, if everybody who may start runs of "
            "this deployment may run any program. Otherwise write a flow with the commands in its code."
        )
    return Hooks(before_backup=before, before_restore=before, after_backup=after, after_restore=after, timeout=timeout)


def _manager(
    name: str,
    databases: Sequence[str | Database | DatabaseServer],
    directories: Sequence[str | Directory],
    repository: str | None,
    retention: RetentionPolicy = DEFAULT_RETENTION,
    files: Sequence[File | Command] = (),
    hooks: Hooks = NO_HOOKS,
    limit_upload: float | None = None,
) -> BackupManager:
    opened = [named_database(each) if isinstance(each, str) else each for each in databases]
    place = current_repository(repository)
    return BackupManager(
        place if limit_upload is None else limited(place, limit_upload),
        name=name,
        databases=opened,
        directories=directories,
        files=files,
        retention=retention,
        hooks=hooks,
    )


def _replaced(
    manager: BackupManager,
    backup: Backup,
    to: Mapping[str, str] | None,
    only: Mapping[str, Sequence[str]] | None,
    place: str = "",
) -> dict[str, str]:
    """Return what a restore replaces: the targets, by the names of the parts."""
    # The name of a directory is the last component of its path; that of a database is its URL without secrets.
    prefix = f"{place}{SEPARATOR}" if place else ""
    targets = {prefix + directory.name: str(directory.path) for directory in manager.directories}
    targets |= {backup.part(name).name: safe_url(target) for name, target in (to or {}).items()}
    names = [backup.part(name).name for name in only] if only else backup.part_names
    names = [name for name in names if name.startswith(prefix)]
    return {name: targets.get(name, name) for name in names}


def _question(backup: Backup) -> str:
    parts = "\n".join(
        f"- {escape(part.name)}: {humanize.naturalsize(part.size)}"
        + (
            f", {count_text(sum(part.counts.values()), 'row')} in {count_text(len(part.counts), 'table')}"
            if part.counts
            else ""
        )
        for part in backup.parts
    )
    return (
        f"This **replaces** the current data with backup {code(backup.name)}"
        f" ({escape(backup.description) or 'no description'}), made {backup.created_at:%F %T} UTC on"
        f" {escape(backup.host)}{f', code {escape(str(backup.git))}' if backup.git else ''}:\n\n{parts}\n\n"
        "It is verified: every byte can be restored."
    )


def _server_database() -> Database:
    url = get_current_settings().server.database.connection_url
    if url is None:
        raise InvalidArgument(
            "The settings of this run name no database of a Prefect server. Set PREFECT_API_DATABASE_CONNECTION_URL."
        )
    text = url.get_secret_value()
    if ":memory:" in text:
        raise InvalidArgument("The database of this Prefect server is in memory, so there is nothing to back up.")
    database = open_database(text.partition("?")[0])
    run_logger().info("The database of the Prefect server is %s.", database.name)
    return database
