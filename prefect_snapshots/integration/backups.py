"""Report backups to Prefect: a progress bar, events, and a page for each backup, restore, drill and cleanup.

All pages of a name share one key, so `/artifacts/key/<key>` shows their history.

Events for automations have the resource `prefect-snapshots.backups.<name>` and are related to the run. Each has
`repository` (URL) and `name`:

- `prefect-snapshots.backup.created`: `backup`, `description`, `pinned`, `size` and `written` (bytes), `files`, `rows`
  (rows or documents of all databases), `seconds`, `incomplete` (whether something was left out);
- `prefect-snapshots.backup.failed`: `error`;
- `prefect-snapshots.backup.cleaned`: `deleted` (names), `kept` (a number), `freed` and `freed_later` (bytes);
- `prefect-snapshots.restore.waiting`: `backup`, `replaces` (targets), `until` (ISO 8601), `url` (of the flow run);
- `prefect-snapshots.backup.restored`: `backup`, `restored` (parts), `safety_backup` (or null), `seconds`,
  `confirmed_by` (what the person typed as their name);
- `prefect-snapshots.backup.drilled` and `prefect-snapshots.backup.drill-failed`: `backup`, `problems` (strings);
- `prefect-snapshots.backup.proof-overdue`: `backup` (the last proven one, or null) and `proven_at` (ISO 8601, or null).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
)
from prefect.settings import get_current_settings

from ..backups import Backup, BackupManager, DrillReport, RestoreReport, last_proven
from ..documents import Block, Document, Heading, Note, markdown
from ..documents.texts import Unit, count_text, size_text
from ..errors import IntegrityError
from ..redaction import safe_url
from ..reports.backups import (
    PINNED,
    about_backup,
    about_backups,
    about_cleanup,
    about_drill,
    about_parts,
    about_restore,
    about_waiting,
)
from ..repository.progress import Progress
from ..retention import CleanupReport
from .deployed import require_prefect
from .live import LiveArtifact
from .reporter import Reporter, only_warn
from .run_context import in_run, run_ids, run_logger
from .terminal import progress_line

LISTED = 20
"""How many of the newest backups a page lists. A longer table would not fit on a screen."""


def progress_bar(
    manager: BackupManager, what: str, expected: int = 0, unit: Unit = "byte"
) -> AbstractContextManager[Progress]:
    """Show a progress bar in the UI and in the terminal, and yield a callback for the `progress` of the manager.

    Args:
        what: What is in progress, such as `"Backup"`.
        expected: The estimated total in bytes, such as the size of the last backup. Used if the total is unknown.
        unit: What the manager counts.
    """
    return _reporter(manager).progress_bar(what, expected, unit)


@contextlib.contextmanager
def parts_progress(
    manager: BackupManager, parts: Sequence[tuple[str, str]]
) -> Iterator[Callable[[Mapping[int, str]], None]]:
    """Show how far workers are with the parts of a backup: on a page of the run, and as a line of the log or terminal.

    Args:
        manager: The manager that makes the backup.
        parts: The work pool and the source of each part.

    Yields:
        A function to call now and then with the names of the states of some parts, by their numbers.
    """
    states = dict.fromkeys(range(len(parts)), "")
    shares: dict[tuple[str, str], float] = {}

    def page() -> Document:
        with only_warn("Workers store parts"):
            shares.update(_shares_of(manager))
        return Document(f"Parts of a backup of {manager.name}", tuple(about_parts(parts, states, shares)))

    reporter = _reporter(manager)
    artifact = LiveArtifact(f"{reporter.key}-parts", "markdown", reporter.about, lambda: markdown(page()))
    with progress_line(f"Parts of {manager.name}", "item") as line:

        def progress(changed: Mapping[int, str]) -> None:
            states.update(changed)
            done = sum(state == "Completed" for state in states.values())
            failed = sum(state in ("Failed", "Crashed") for state in states.values())
            line.update(done, len(parts), failed)
            if in_run():
                artifact.update(patience=0)

        yield progress
        if in_run():
            artifact.update()


def _shares_of(manager: BackupManager) -> dict[tuple[str, str], float]:
    """Return how many percent of each part the workers of this flow run have read, by work pool and source."""
    flow_run_id, _ = run_ids()
    key = f"{_reporter(manager).key}-progress"
    # With settings, it is a client of its own. The client of the run may be closed: this is also asked afterwards.
    with get_client(sync_client=True, httpx_settings={}) as client:
        parent = FlowRunFilterParentFlowRunId(any_=[flow_run_id] if flow_run_id else [])
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(parent_flow_run_id=parent))
        wanted = ArtifactFilter(
            key=ArtifactFilterKey(any_=[key]),
            flow_run_id=ArtifactFilterFlowRunId(any_=[run.id for run in runs]),
        )
        found = {bar.flow_run_id: bar.data for bar in client.read_artifacts(artifact_filter=wanted)} if runs else {}
    return {
        (str(run.parameters.get("place")), safe_url(str(run.parameters.get("source")))): float(share)
        for run in sorted(runs, key=lambda run: str(run.start_time or ""))
        if isinstance(share := found.get(run.id), int | float)
    }


def report_created(manager: BackupManager, backup: Backup) -> None:
    """Report that a backup was created, and what it contains."""
    with only_warn(f"Backup {backup.name} was created"):
        pin = f"{PINNED} " if backup.pinned else ""
        link = _leave_page(manager, f"{pin}{backup.name}", about_backup(backup))
        run_logger().info(
            "Created backup %s: %s in %s, %s written, in %.1f s.%s",
            *(backup.name, size_text(backup.size), count_text(backup.files, "file"), size_text(backup.written)),
            *(backup.duration, link),
        )
        for part in backup.parts:
            for note in part.notes:
                run_logger().warning("%s: %s", part.name, note)
        rows = sum(sum(counts.values()) for counts in backup.counts.values())
        facts = {"description": backup.description, "pinned": backup.pinned, "seconds": backup.duration}
        facts |= {"incomplete": backup.incomplete}
        sizes = {"size": backup.size, "written": backup.written, "files": backup.files, "rows": rows}
        _emit("created", manager, {"backup": backup.name, **facts, **sizes})


def report_failed(manager: BackupManager, error: Exception, *, outside: bool = False) -> None:
    """Report that a backup failed: an event and a page. The manager has recorded it, the caller raises the error.

    Args:
        manager: The manager.
        error: Why it failed.
        outside: Whether to report it outside of a run, too. Then the server is asked first whether it answers.
    """
    with only_warn(f"No backup of {manager.name!r} was created"):
        if outside:
            require_prefect()
        _emit("failed", manager, {"error": str(error)}, outside)
        link = _leave_page(manager, f"Failed backup of {manager.name}", [Note(str(error))], outside)
        if link:
            run_logger().info("The page about the failed backup and the ones before:%s", link)


def report_waiting(manager: BackupManager, backup: Backup, replaced: Mapping[str, str], until: datetime) -> None:
    """Report that a restore waits for a person: which backup, what is replaced, who can answer, and until when."""
    with only_warn(f"The restore of {backup.name} waits"):
        ui, (flow_run_id, _) = get_current_settings().ui_url, run_ids()
        url = f"{ui}/runs/flow-run/{flow_run_id}" if ui else ""
        facts = {"backup": backup.name, "replaces": list(replaced.values()), "until": until.isoformat(), "url": url}
        Reporter(manager.repository, "backups", manager.name).emit("restore.waiting", {"name": manager.name, **facts})
        title = f"Restore of {backup.name} waits for you"
        link = _leave_page(manager, title, about_waiting(backup, replaced, until))
        run_logger().info(
            "The restore of %s waits until %s UTC. It replaces %s. Whoever can resume this flow run can confirm it: "
            "open %s, choose Resume, and type the name of the backup.%s",
            *(backup.name, f"{until:%F %T}", ", ".join(replaced.values()), url or "the flow run in the UI", link),
        )


def report_cleaned(manager: BackupManager, report: CleanupReport) -> None:
    """Report what was deleted, and why the rest is kept."""
    with only_warn(f"The backups of {manager.name!r} were cleaned up"):
        would = "would be " if report.dry_run else ""
        told = f"{len(report.deleted)} {would}deleted", f"{size_text(report.freed)} {would}freed now"
        later = size_text(report.freed_later)
        title = f"Cleanup of {manager.name}{' (dry run)' if report.dry_run else ''}"
        link = _leave_page(manager, title, about_cleanup(report))
        run_logger().info("Backups of %r: %s; %s, %s later.%s", manager.name, *told, later, link)
        if not report.dry_run:
            kept = sum(row.keep for row in report.rows)
            sizes = {"freed": report.freed, "freed_later": report.freed_later}
            _emit("cleaned", manager, {"deleted": list(report.deleted), "kept": kept, **sizes})


def report_restored(
    manager: BackupManager, report: RestoreReport, backup: Backup, seconds: float, confirmed_by: str
) -> None:
    """Report what was restored, by whom, and which backup holds the previous contents. See `about_restore`."""
    with only_warn(f"{report.name} was restored"):
        safe = f" The previous contents are in backup {report.safety_backup}." if report.safety_backup else ""
        link = _leave_page(manager, f"Restored {report.name}", about_restore(report, backup, seconds, confirmed_by))
        parts = ", ".join(report.restored)
        run_logger().info("Restored %s from %s in %.1f s.%s%s", parts, report.name, seconds, safe, link)
        for warning in report.warnings:
            run_logger().warning("%s", warning)
        facts: dict[str, Any] = {"restored": list(report.restored), "safety_backup": report.safety_backup}
        facts |= {"seconds": round(seconds, 3), "confirmed_by": confirmed_by}
        _emit("restored", manager, {"backup": report.name, **facts})


def report_drilled(manager: BackupManager, report: DrillReport) -> None:
    """Report whether a test restore of a backup gave identical data."""
    with only_warn(f"The drill of {report.name} ended"):
        problems = [f"{row.part}: {problem}" for row in report.rows for problem in row.problems]
        outcome = "the restored data is identical" if report.ok else "the restored data DIFFERS"
        link = _leave_page(manager, f"Drill of {report.name}: {outcome}", about_drill(report))
        if report.ok:
            run_logger().info("Drill of %s: %s. Took %.1f s.%s", report.name, outcome, report.duration, link)
        else:
            run_logger().error("Drill of %s: %s: %s.%s", report.name, outcome, "; ".join(problems), link)
        _emit("drilled" if report.ok else "drill-failed", manager, {"backup": report.name, "problems": problems})


def report_drill_failed(manager: BackupManager, name: str, error: IntegrityError) -> None:
    """Report that a backup is damaged, so that nothing of it could be tried."""
    with only_warn(f"The drill of {name} ended"):
        _emit("drill-failed", manager, {"backup": name, "problems": [str(error)]})


def report_proof_overdue(manager: BackupManager, since: datetime) -> bool:
    """Report if the last proven backup was made before a time, or if there is none.

    Returns:
        Whether that is so.
    """
    proven = last_proven(manager.list_backups())
    if proven is not None and proven.created_at >= since:
        return False
    with only_warn(f"The backups of {manager.name} were read"):
        known = f"The last proven one is {proven.name}" if proven else "None was ever proven"
        begun = f"{since:%F %T} UTC"
        run_logger().warning("No backup of %s since %s is proven. %s. Run a drill.", manager.name, begun, known)
        proven_at = proven.proven_at.isoformat() if proven and proven.proven_at else None
        _emit("proof-overdue", manager, {"backup": proven.name if proven else None, "proven_at": proven_at})
    return True


# --- helpers ----------------------------------------------------------------------------------------------------------


def _leave_page(manager: BackupManager, title: str, blocks: Iterable[Block], outside: bool = False) -> str:
    """Add a page that says what happened, followed by the current list of backups. Return its link."""

    def page() -> Document:
        return Document(title, (*blocks, Heading(f"All backups of {manager.name}"), *about_backups(manager, LISTED)))

    return _reporter(manager, outside).leave_page(page)


def _emit(what: str, manager: BackupManager, facts: dict[str, Any], outside: bool = False) -> None:
    _reporter(manager, outside).emit(f"backup.{what}", {"name": manager.name, **facts})


def _reporter(manager: BackupManager, outside: bool = False) -> Reporter:
    return Reporter(manager.repository, "backups", manager.name, outside)
