"""Checking and pruning a repository, with a report in the Prefect UI.

Prune is safe beside running writers and beside itself, so that neither flow needs a lock or a limit.
"""

from __future__ import annotations

import humanize
from prefect import flow
from prefect.artifacts import create_table_artifact

from ..blocks import current_repository
from ..errors import IntegrityError
from ..repository.maintenance import CheckReport, PruneReport
from ..runs import run_logger

CHECK = "snapshots-check"
PRUNE = "snapshots-prune"
"""Keys of the reports in the Prefect UI."""


@flow(name="check-repository")
def check_repository(repository: str | None = None, read_data: bool = False) -> CheckReport:
    """Verify that everything committed is there. The run fails when it is not.

    Arguments:
        repository: a URL or path; see `blocks.current_repository` for the default.
        read_data: read and verify every byte, too.

    Raises:
        IntegrityError: something is damaged. The report lists all of it, and the snapshots that it hits.
    """
    checked = current_repository(repository)
    report = checked.check(read_data)
    create_table_artifact(
        key=CHECK,
        table=[{"where": one.path, "what": one.what, "hits": ", ".join(one.versions)} for one in report.problems],
        description=f"`{checked.url}`: {len(report.problems)} problems, {report.versions} versions in "
        f"{report.streams} streams, {humanize.naturalsize(report.bytes_read)} read.",
    )
    for note in report.notes:
        run_logger().warning("%s", note)
    if report.problems:
        first = report.problems[0]
        raise IntegrityError(
            f"{checked.url} has {len(report.problems)} problems, the first in {first.path}: {first.what}. "
            "Stop all writers, then run `prefect-snapshots repair`."
        )
    return report


@flow(name="prune-repository")
def prune_repository(repository: str | None = None, dry_run: bool = False) -> PruneReport:
    """Free the space of what no snapshot needs any more. Takes credentials that may delete.

    Arguments:
        repository: a URL or path; see `blocks.current_repository` for the default.
        dry_run: only report what would be freed.

    Raises:
        IntegrityError: something is damaged, so that nothing was deleted.
    """
    pruned = current_repository(repository)
    report = pruned.prune(dry_run)
    freed, waiting = humanize.naturalsize(report.bytes_freed), humanize.naturalsize(report.bytes_waiting)
    would = "would be " if dry_run else ""
    run_logger().info("%s of %s %sfreed, %s waiting.", freed, pruned.url, would, waiting)
    create_table_artifact(
        key=PRUNE,
        table=[
            {"what": "packs deleted", "number": report.packs_deleted, "bytes": freed},
            {
                "what": "packs copied",
                "number": report.packs_rewritten,
                "bytes": humanize.naturalsize(report.bytes_copied),
            },
            {"what": "packs too young to delete", "number": report.packs_waiting, "bytes": waiting},
        ],
        description=f"`{pruned.url}`: {freed} {would}freed.",
    )
    return report
