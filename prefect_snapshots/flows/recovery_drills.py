"""A flow that proves recoveries: to a random point in time, of each server and database whose WAL is archived.

It emits `prefect-snapshots.wal.drilled` or `prefect-snapshots.wal.drill-failed` for each of them, with the resource
`prefect-snapshots.wal.<system>`: `repository`, `system`, `target` (the point in time; empty after a failure), `error`
(null after a success) and `seconds`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from prefect import flow

from ..backups import recover, recovery_windows, restore_sqlite
from ..documents.texts import count_text
from ..errors import BackupNotFound, RestoreFailed, SnapshotsError
from ..integration.blocks import current_repository
from ..integration.reporter import Reporter, only_warn
from ..integration.run_context import run_logger
from ..repository.repository import Repository
from .failing import fails_with_one_error

DRILLS = "prefect-snapshots-recovery-drill"
"""Key of the report in the Prefect UI."""
_SQLITE = "sqlite/"


@dataclass(frozen=True)
class RecoveryDrill:
    """The result for one server or database.

    Attributes:
        system: The system identifier of the server, or `sqlite/` and the name of the database.
        target: The point in time to which it was recovered. Empty after a failure.
        error: Why it failed, or None.
        seconds: How long it took.
    """

    system: str
    target: str
    error: str | None
    seconds: float


@flow(name="recovery-drill")
@fails_with_one_error
def recovery_drill(system: str | None = None, repository: str | None = None) -> list[RecoveryDrill]:
    """Recover to a random point in time, into a temporary place, look whether the result works, and delete it.

    PostgreSQL must be installed where the flow runs, with the major version of the servers.

    Args:
        system: Only this server or database, as `prefect-snapshots wal status` names it. Default: all of them.
        repository: A URL or path, or a block such as `prefect-snapshots-repository/team`. Default: the repository that
            `blocks.current_repository` returns.

    Raises:
        BackupNotFound: The repository contains no WAL, or none of this system.
        RestoreFailed: At least one recovery failed. The report says why. The others were tried, too.
    """
    place = current_repository(repository)
    systems = [window.system for window in recovery_windows(place) if system in (None, window.system)]
    if not systems:
        raise BackupNotFound(f"{place.url} contains no WAL{f' of {system}' if system else ''}. Nothing was drilled.")
    drills = [_drilled(place, each) for each in systems]
    with only_warn(f"the recoveries of {place.url} are drilled"):
        rows = [
            {
                "system": each.system,
                "recovered to": each.target,
                "seconds": f"{each.seconds:.1f}",
                "problem": each.error or "",
            }
            for each in drills
        ]
        failed = sum(each.error is not None for each in drills)
        text = f"{count_text(len(drills), 'recovery', 'recoveries')} to a random point in time, {failed} failed."
        Reporter(place, "repositories", place.url).leave_table(rows, text, DRILLS)
    for each in drills:
        if each.error is not None:
            raise RestoreFailed(f"{each.system} could not be recovered: {each.error}")
    return drills


def _drilled(place: Repository, system: str) -> RecoveryDrill:
    begun = time.monotonic()
    try:
        if system.startswith(_SQLITE):
            target = f"{restore_sqlite(place, system.removeprefix(_SQLITE), '', drill=True).at:%F %T.%f} UTC"
        else:
            target = recover(place, "", system=system, drill=True).target
        error = None
    except (SnapshotsError, OSError) as caught:
        target, error = "", str(caught)
    drill = RecoveryDrill(system, target, error, time.monotonic() - begun)
    if error is None:
        run_logger().info("%s was recovered to %s in %.1f s, and works.", system, target, drill.seconds)
    else:
        run_logger().warning("%s could not be recovered: %s", system, error)
    facts = {"system": system, "target": target, "error": error, "seconds": drill.seconds}
    with only_warn(f"the recovery of {system} is drilled"):
        Reporter(place, "wal", system).emit("wal.drilled" if error is None else "wal.drill-failed", facts)
    return drill
