"""A flow that tests where it runs whether the repository and the sources of backups can be used."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import flow

from ..backups import BackupManager, File
from ..documents.texts import count_text
from ..errors import SetupError
from ..integration.blocks import current_repository
from ..integration.database_blocks import named_database
from ..integration.reporter import Reporter, only_warn
from ..integration.run_context import run_logger
from ..reports.diagnosis import Finding, diagnose_sources, finding, look_at_repository
from .failing import fails_with_one_error

DOCTOR = "prefect-snapshots-doctor"
"""Key of the report in the Prefect UI."""


@flow(name="doctor")
@fails_with_one_error
def doctor(
    repository: str | None = None,
    databases: Sequence[str] = (),
    directories: Sequence[str] = (),
    files: Sequence[str] = (),
) -> list[Finding]:
    """Test the repository and the sources of backups, where the flow runs. The run fails if one cannot be used.

    Start it in the UI after you have saved a block: a page shows what the worker can reach. It creates an object in the
    repository and deletes it, and changes nothing else.

    Args:
        repository: A URL or path, or a block such as `prefect-snapshots-repository/team`. Default: the repository that
            `blocks.current_repository` returns.
        databases: URLs, paths of files, or blocks such as `prefect-snapshots-backup-database/shop`.
        directories: Paths.
        files: Paths of single files.

    Returns:
        What was found.

    Raises:
        SetupError: Something cannot be used. The message names it.
    """
    tested = current_repository(repository)
    sources = BackupManager(
        tested,
        databases=[named_database(each) for each in databases],
        directories=directories,
        files=[File(each) for each in files],
    )
    findings = [
        finding(f"repository {tested.url}", lambda: look_at_repository(tested, probe=True)),
        *diagnose_sources(sources),
    ]
    for each in findings:
        level = run_logger().info if each.ok else run_logger().warning
        level("%s %s: %s", "ok " if each.ok else "BAD", each.what, "; ".join(each.found))
    bad = [each for each in findings if not each.ok]
    rows = [{"what": each.what, "ok": "yes" if each.ok else "NO", "found": "; ".join(each.found)} for each in findings]
    with only_warn("Everything is tested"):
        summary = count_text(len(bad), "problem") if bad else "everything can be used"
        Reporter(tested, "repositories", tested.url).leave_table(rows, f"{summary}.", DOCTOR)
    if bad:
        raise SetupError(
            f"{count_text(len(bad), 'problem')}. The first is with {bad[0].what}: {'; '.join(bad[0].found)} Mend "
            "it, and run this again."
        )
    return findings
