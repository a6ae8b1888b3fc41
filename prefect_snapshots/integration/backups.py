"""What a run leaves in the Prefect UI about backups: a progress bar, a page for each backup, events.

The pages of a name of backups have one key, so that `/v2/artifacts/key/<key>` is their history. Reporting never fails a
run: a backup is safe before anything is said about it, and what goes wrong here is a warning.

Events, for automations; the resource is `prefect-snapshots.backups.<name>`, related to the run. All have `repository`
(URL) and `name`:

- `prefect-snapshots.backup.created`: `backup`, `description`, `pinned`, `size` and `written` (bytes), `files`,
  `rows` (rows or documents of all databases), `seconds`;
- `prefect-snapshots.backup.failed`: `error`;
- `prefect-snapshots.backup.cleaned`: `removed` (names), `kept` (a number), `freed` and `freed_later` (bytes);
- `prefect-snapshots.backup.restored`: `backup`, `restored` (parts), `safety_backup` (or null);
- `prefect-snapshots.backup.drilled` and `prefect-snapshots.backup.drill-failed`: `backup`, `problems` (texts).
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import humanize

from ..backups import Backup, BackupManager, DrillReport, RestoreReport
from ..documents import Block, Document, Heading, markdown
from ..reports.backups import PINNED, about_backup, about_backups, about_cleanup, about_drill, about_restore
from ..retention import CleanupReport
from .live import LiveArtifact, artifact_key, artifact_url
from .reporter import emit, only_warn
from .run_context import run_ids, run_logger

LISTED = 20
"""Backups on a page: the newest."""

Progress = Callable[[str, int, int], None]


@contextlib.contextmanager
def progress_bar(manager: BackupManager, what: str, expected: int = 0) -> Iterator[Progress]:
    """A progress bar in the UI, for `progress=` of a manager.

    Arguments:
        what: is in progress.
        expected: how much there may be, where nobody knows: what the last backup held.
    """
    share, ended, context = 0.0, False, contextvars.copy_context()
    about = f"{what} of `{manager.name}`"
    bar = LiveArtifact(f"{_key(manager)}-progress", "progress", about, lambda: 100.0 if ended else share)

    def progress(_: str, done: int, total: int) -> None:
        nonlocal share
        share = min(99.0, 100 * done / max(total or expected or done, 1))
        bar.update(context, patience=0)

    yield progress
    ended = True
    if any(run_ids()):
        bar.update()


def report_created(manager: BackupManager, backup: Backup) -> None:
    """Say that a backup was made, and what it holds."""
    with only_warn(f"Backup {backup.name} is made, but its report is not complete"):
        size, written = humanize.naturalsize(backup.size), humanize.naturalsize(backup.written)
        run_logger().info(
            "Made backup %s: %s in %s files, %s written, in %.1f s.%s",
            *(backup.name, size, f"{backup.files:,}", written, backup.duration, _link(manager)),
        )
        for part in backup.parts:
            for note in part.notes:
                run_logger().warning("%s: %s", part.name, note)
        rows = sum(sum(counts.values()) for counts in backup.counts.values())
        facts = {"description": backup.description, "pinned": backup.pinned, "seconds": backup.duration}
        sizes = {"size": backup.size, "written": backup.written, "files": backup.files, "rows": rows}
        _emit("created", manager, {"backup": backup.name, **facts, **sizes})
        pin = f"{PINNED} " if backup.pinned else ""
        _leave_page(manager, f"{pin}{backup.name}", about_backup(backup))


def report_failed(manager: BackupManager, error: Exception) -> None:
    """Say that no backup was made. The error itself goes on."""
    with only_warn(f"No backup of {manager.name!r} was made, and that is not reported"):
        _emit("failed", manager, {"error": str(error)})


def report_cleaned(manager: BackupManager, report: CleanupReport) -> None:
    """Say what went, and why the rest stays."""
    with only_warn(f"The backups of {manager.name!r} are cleaned up, but the report is not complete"):
        freed, later = humanize.naturalsize(report.freed), humanize.naturalsize(report.freed_later)
        would = "would be " if report.dry_run else ""
        told = f"{len(report.deleted)} {would}removed", f"{freed} {would}freed now, {later} later"
        run_logger().info("Backups of %r: %s; %s.", manager.name, *told)
        kept = sum(row.keep for row in report.rows)
        if not report.dry_run:
            sizes = {"freed": report.freed, "freed_later": report.freed_later}
            _emit("cleaned", manager, {"removed": list(report.deleted), "kept": kept, **sizes})
        title = f"Clean-up of {manager.name}{' (dry run)' if report.dry_run else ''}"
        _leave_page(manager, title, about_cleanup(report))


def report_restored(manager: BackupManager, report: RestoreReport) -> None:
    """Say what is restored, and where that is which was there before."""
    with only_warn(f"{report.name} is restored, but the report is not complete"):
        safe = f" What was there before is in {report.safety_backup}." if report.safety_backup else ""
        run_logger().info("Restored %s from %s.%s", ", ".join(report.restored), report.name, safe)
        parts = {"restored": list(report.restored), "safety_backup": report.safety_backup}
        _emit("restored", manager, {"backup": report.name, **parts})
        _leave_page(manager, f"Restored {report.name}", about_restore(report))


def report_drilled(manager: BackupManager, report: DrillReport) -> None:
    """Say whether a backup came back as it was."""
    with only_warn(f"{report.name} was drilled, but the report is not complete"):
        problems = [f"{row.part}: {problem}" for row in report.rows for problem in row.problems]
        if report.ok:
            run_logger().info("%s came back as it was, in %.1f s.", report.name, report.duration)
        else:
            run_logger().error("%s did NOT come back as it was: %s.", report.name, "; ".join(problems))
        _emit("drilled" if report.ok else "drill-failed", manager, {"backup": report.name, "problems": problems})
        came = "came back as it was" if report.ok else "did NOT come back as it was"
        _leave_page(manager, f"Drill: {report.name} {came}", about_drill(report))


# --- what is said -----------------------------------------------------------------------------------------------------


def _leave_page(manager: BackupManager, title: str, blocks: Iterable[Block]) -> None:
    """What happened, then the backups as they are now."""
    if not any(run_ids()):
        return
    backups = Heading(f"All backups of {manager.name}"), *about_backups(manager, LISTED)
    text = markdown(Document(title, (*blocks, *backups)))
    LiveArtifact(
        _key(manager),
        "markdown",
        f"Backups of `{manager.name}` in `{manager.repository.url}`",
        lambda: text,
        shared=False,
    ).update()


def _emit(what: str, manager: BackupManager, facts: dict[str, Any]) -> None:
    if any(run_ids()):
        said = {"name": manager.name, **facts}
        emit(f"backup.{what}", manager.repository, said, f"backups.{manager.name}", manager.name)


def _key(manager: BackupManager) -> str:
    return artifact_key(f"backups/{manager.name}")


def _link(manager: BackupManager) -> str:
    return f" {artifact_url(_key(manager))}" if any(run_ids()) else ""
