"""`prefect-snapshots deployments`: write the deployments of the flows of this package, and apply them."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ..errors import InvalidArgument, SnapshotsError
from .backup_sources import AS_CONFIGURED, SourceOptions, Sources
from .output import Answer, columns, printable, table
from .project_settings import BLOCKS, configuration, write_settings
from .session import SessionArgument

FlowName = Literal[
    "backup", "restore", "drill", "cleanup", "check", "prune", "watch", "doctor", "prefect-server", "expire", "locks"
]

NIGHTLY = "0 2 * * *"
POOL = "snapshots"
PREFECT_FILE = Path("prefect.yaml")
USUAL: tuple[FlowName, ...] = ("backup", "restore", "drill", "check", "watch", "doctor")

_PLANS: Mapping[FlowName, tuple[str, str, str]] = {
    "backup": ("create_backup", "Makes a backup, and deletes those that the retention policy does not keep.", NIGHTLY),
    "restore": ("restore_backup", "Restores a backup after a person has typed its name on the page of the run.", ""),
    "drill": ("restore_drill", "Restores the latest backup into a temporary place, and compares.", "0 6 1 * *"),
    "cleanup": ("cleanup_backups", "Deletes backups that the retention policy does not keep.", "0 4 * * 0"),
    "check": ("check_repository", "Reads and verifies every byte of the repository.", "0 5 * * 0"),
    "prune": ("prune_repository", "Reclaims the space of deleted data.", "30 4 * * 0"),
    "watch": ("watch_repository", "Reports overdue backups, and shows the whole repository on one page.", "15 * * * *"),
    "doctor": ("doctor", "Tests whether the worker can reach the repository and what is backed up.", ""),
    "prefect-server": ("backup_prefect_server", "Backs up the database of the Prefect server.", "30 */6 * * *"),
    "expire": ("expire_results", "Deletes results of tasks that are older than three months.", "0 6 2 * *"),
    "locks": ("extend_locks", "Extends the locks of all objects in the bucket before they end.", "0 3 * * *"),
}
"""The flow, what it does, and the usual schedule of each deployment."""

_BLOCK_OF = dict(zip(("SnapshotRepository", "BackupDatabase"), BLOCKS, strict=True))

_ONE_AT_A_TIME = {"concurrency_limit": {"limit": 1, "collision_strategy": "CANCEL_NEW"}}
_OF_FLOWS = (
    *("excludes", "ignore_files", "exclude_caches", "exclude_if_present", "one_file_system", "larger_than"),
    "follow_links",
)
"""Keys of pyproject.toml that are parameters of the flow that makes backups, too."""


def deployments(
    *flows: FlowName,
    work_pool: str = POOL,
    cron: str | None = None,
    timezone: str = "UTC",
    file: Path = PREFECT_FILE,
    apply: bool = False,
    sources: Sources = AS_CONFIGURED,
    session: SessionArgument,
) -> Answer:
    """Write a prefect.yaml with deployments of the flows of this package. You need no checkout and no code of your own.

    Options say what to back up, or else [tool.prefect-snapshots] in pyproject.toml. Runs use the repository that
    --repository or pyproject.toml names, or else the block `default` or the settings of the worker.

    Args:
        flows: backup, restore, drill, cleanup, check, prune, watch, doctor, prefect-server, expire or locks. Default:
            backup, restore, drill, check, watch and doctor.
        work_pool: The work pool. Default: snapshots.
        cron: When backups are made, as a cron expression. Default: 0 2 * * *, every night.
        timezone: The time zone of all schedules. Default: UTC.
        file: The file to write. Default: prefect.yaml.
        apply: Also create the work pool, a process pool, if there is none, and the deployments on the server.
    """
    place = session.url or configuration().get("repository")
    planned = plan(flows or USUAL, sources, place, cron or NIGHTLY, timezone, work_pool)
    if file.exists():
        session.confirm(f"Replace {file}?")
    if apply:
        from ..integration.deployed import require_prefect

        require_prefect("Or leave out --apply, and only write the file.")
    write(file, planned)
    if apply:
        apply_file(file, work_pool)
    return Answer(
        {"file": str(file), "applied": apply, "deployments": planned},
        view_deployments,
        _next_step(file, work_pool, apply),
        told=True,
    )


def plan(
    flows: Sequence[FlowName], sources: SourceOptions, repository: str | None, cron: str, timezone: str, work_pool: str
) -> list[dict[str, Any]]:
    """Return the deployments, as prefect.yaml has them.

    Args:
        flows: What to deploy.
        sources: What to back up. What it does not say is taken from pyproject.toml.
        repository: The URL, path or block of the repository. None: what the worker is told.
        cron: When backups are made.
        timezone: The time zone of the schedules.
        work_pool: The work pool.

    Raises:
        InvalidArgument: Backups are chosen, and there is nothing to back up; flows cannot do what is configured; the
            cron expression is invalid; or a name or path has double braces.
    """
    checked_cron(cron)
    configured = configuration()
    name = sources.name or configured.get("name", "default")
    parts = _parts(sources, configured)
    if not any(parts.values()) and {"backup", "restore"} & set(flows):
        raise InvalidArgument(
            "There is nothing to back up: pass --database, --directory, --file or --block, or configure pyproject.toml."
        )
    where = {}
    if repository is not None:
        _check_no_secret(repository, "SnapshotRepository")
        where["repository"] = _absolute(repository)
    left_out = {key: configured[key] for key in _OF_FLOWS if key in configured}
    retention = {"retention": configured["retention"]} if "retention" in configured else {}
    parameters: dict[FlowName, dict[str, Any]] = {
        "backup": {"description": "scheduled", "name": name, **parts, **left_out, **retention},
        "restore": {"name": name, **parts},
        "drill": {"name": name, **{key: value for key, value in parts.items() if key == "databases"}},
        "cleanup": {"name": name, **retention},
        "check": {"read_data": True},
        "watch": {"backups": {name: cron}, "proven": {name: "P40D"}, "margin": "PT2H", "timezone": timezone},
        "doctor": parts,
        "expire": {"older_than": "P90D"},
    }
    planned = []
    for each in dict.fromkeys(flows):
        flow, about, usual = _PLANS[each]
        when = cron if each == "backup" else usual
        planned.append(
            {
                "name": name if each in ("backup", "restore", "drill", "cleanup", "doctor") else "snapshots",
                "entrypoint": f"prefect_snapshots.flows.{flow}",
                "description": about,
                "parameters": {**parameters.get(each, {}), **where},
                "work_pool": {"name": work_pool},
                # A run that waits for a person would lose its slot, and be canceled minutes later.
                **(
                    {} if each == "restore" else {"concurrency_limit": {"limit": 1, "collision_strategy": "CANCEL_NEW"}}
                ),
                "schedules": [{"cron": when, "timezone": timezone}] if when else [],
            }
        )
    _check_no_braces(planned)
    return planned


def write(file: Path, planned: Sequence[Mapping[str, Any]]) -> None:
    """Write a file for `prefect deploy`."""
    import yaml

    head = f"# To apply this file, run `{printable(_command(file))}`.\n"
    plain = json.loads(json.dumps({"deployments": planned}))  # without values in common, which YAML would refer to
    write_settings(file, head + yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120))


def apply_file(file: Path, work_pool: str) -> None:
    """Create the work pool if there is none, and the deployments, on the Prefect server of the active profile.

    Raises:
        SnapshotsError: Prefect refuses them.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists

    with get_client(sync_client=True) as client, contextlib.suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=work_pool, type="process"))
    # As the program `prefect` does: with -P, the modules of Prefect are not looked for in the working directory.
    command = [sys.executable, "-P", "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SnapshotsError(
            f"{file} was written, but `prefect deploy` failed: {' '.join((done.stderr or done.stdout).split())} Mend "
            f"this, and run `{_command(file)}`."
        )


def view_deployments(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield a table of deployments."""
    rows = [
        (
            f"{each['entrypoint'].rpartition('.')[2].replace('_', '-')}/{each['name']}",
            each["schedules"][0]["cron"] if each["schedules"] else "",
            each["description"],
        )
        for each in document["deployments"]
    ]
    yield from table(columns("deployment", "schedule", "what it does↓"), rows)


def how_to_run(work_pool: str) -> str:
    """Return the commands that run what is deployed."""
    from prefect.settings import get_current_settings

    worker = _worker(work_pool)
    return worker if get_current_settings().api.url else f"prefect server start, and {worker}"


def _next_step(file: Path, work_pool: str, applied: bool) -> str:
    if applied:
        return f"Wrote {file}, and created the deployments. To run them: {how_to_run(work_pool)}"
    pool = f"prefect work-pool create --type process {shlex.quote(work_pool)}"
    return f"Wrote {file}. Next: {pool}; {_command(file)}; {_worker(work_pool)}"


def _command(file: Path) -> str:
    return f"prefect --no-prompt deploy --all --prefect-file {shlex.quote(str(file))}"


def _worker(work_pool: str) -> str:
    return f"prefect worker start --pool {shlex.quote(work_pool)}"


def _parts(sources: SourceOptions, configured: Mapping[str, Any]) -> dict[str, list[str]]:
    if sources.command or sources.stdin or configured.get("commands") or configured.get("hooks"):
        raise InvalidArgument(
            "Deployments of this command back up databases, directories and files. For commands and hooks, write their "
            "parameters into prefect.yaml yourself: docs/prefect.md."
        )
    given = {
        "databases": [*sources.database, *sources.block],
        "directories": [os.path.abspath(each) for each in sources.directory],
        "files": [os.path.abspath(each) for each in sources.file],
    }
    if not any(given.values()):
        given = {key: [*configured.get(key, ())] for key in given}
    for url in given["databases"]:
        _check_no_secret(url, "BackupDatabase")
    given["databases"] = [_absolute(each) for each in given["databases"]]
    return {key: value for key, value in given.items() if value}


def _check_no_secret(url: str, block: str) -> None:
    from ..redaction import safe_url

    if safe_url(url) != url:
        raise InvalidArgument(
            f"The URL of {safe_url(url)} contains a secret, and the Prefect server stores and shows the parameters of "
            f"deployments. Save it in a block of the type {block}, and pass {_BLOCK_OF[block]}NAME in its place."
        )


def _check_no_braces(planned: Sequence[Mapping[str, Any]]) -> None:
    """Refuse what Prefect would replace: a folder of templates, `{{name}}`, would silently be left out of backups."""
    from prefect.utilities.templating import find_placeholders

    if found := sorted(each.full_match for each in find_placeholders(list(planned))):
        raise InvalidArgument(
            f"Prefect replaces what is in double braces in a deployment, and here are {', '.join(found)}. Nothing was "
            "written. Rename it, or back up the folder that it is in."
        )


def _absolute(place: str) -> str:
    return place if "://" in place or place.startswith(BLOCKS) else os.path.abspath(place)


def checked_cron(cron: str) -> str:
    """Return a cron expression, if it is one."""
    from datetime import UTC, datetime

    from cronsim import CronSim, CronSimError

    try:
        CronSim(cron, datetime.now(UTC))
    except CronSimError as error:
        raise InvalidArgument(
            f"{cron!r} is not a cron expression such as '0 2 * * *': {error}. Nothing was written."
        ) from None
    return cron
