"""The reports on one backup, on a cleanup, a restore and a drill, and on all backups of a name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime

from ..backups import Backup, BackupManager, DrillReport, FailedBackup, PartRecord, RestoreReport, last_proven
from ..documents import Block, Calendar, Chart, Column, Day, Facts, Note, Table
from ..documents.texts import count_text
from ..retention import CleanupReport, RetentionRow

PINNED = "📌"
PROVEN = "✓"

_DRAWN = 60
"""How many of the newest backups a chart shows: more bars would be thinner than a pixel on a page of Prefect."""
_FAILED_LISTED = 10
"""How many failed backups are listed: the newest ones say what is wrong now."""
_BETTER: tuple[Day, ...] = ("failed", "going", "kept", "pinned")


def about_backup(backup: Backup) -> Iterator[Block]:
    """Describe one backup: its contents, where it was made, and from which code."""
    run = backup.run or {}
    yield Facts(
        {
            "size": (backup.size, "bytes"),
            "written": (backup.written, "bytes"),
            "files": (backup.files, "number"),
            "duration": (backup.duration, "seconds"),
            "description": (backup.description, "text"),
            "tags": (", ".join(backup.tags), "text"),
            "made on": (backup.host, "name"),
            "made by": (" / ".join(str(run[key]) for key in ("flow", "flow_run") if run.get(key)), "text"),
            "code": (str(backup.git) if backup.git else None, "name"),
            "incomplete": ("something was left out: see the notes" if backup.incomplete else None, "text"),
            "proven (UTC)": (backup.proven_at, "time"),
            "proven by": (backup.proven_by, "text"),
        }
    )
    yield Table(
        "Parts",
        (Column("part", "name"), Column("kind"), Column("size", "bytes"), Column("rows", "number")),
        tuple(
            (part.name, part.kind, part.size, sum(part.counts.values()) if part.counts else None)
            for part in backup.parts
        ),
    )
    yield from (Note(f"{part.name}: {note}") for part in backup.parts for note in part.notes)
    yield from map(Note, backup.failed_hooks)


def about_cleanup(report: CleanupReport) -> Iterator[Block]:
    """Describe a cleanup: what is deleted, and why the rest is kept."""
    would = "would be " if report.dry_run else ""
    yield Facts(
        {
            f"{would}deleted": (len(report.deleted), "number"),
            "kept": (sum(row.keep for row in report.rows), "number"),
            f"{would}freed now": (report.freed, "bytes"),
            f"{would}freed later": (report.freed_later, "bytes"),
        }
    )
    yield Table(
        "What is kept, and why",
        (Column("backup", "name"), Column("kept because")),
        tuple((row.name, _reasons(row, f"not kept: {would}deleted")) for row in report.rows),
    )


def about_waiting(backup: Backup, replaced: Mapping[str, str], until: datetime) -> Iterator[Block]:
    """Describe a restore that waits for a person: the backup, what is replaced, and how long it waits.

    Args:
        backup: The backup, which was verified.
        replaced: The targets, by the names of the parts.
        until: When it stops waiting.
    """
    yield Note("Nothing is changed until you resume the flow run and type the name of the backup. It was verified.")
    yield Facts(
        {
            "backup": (backup.name, "name"),
            "made (UTC)": (backup.created_at, "time"),
            "waits until (UTC)": (until, "time"),
        }
    )
    yield Table("Replaced", _PARTS, tuple(_part_row(backup.part(name), target) for name, target in replaced.items()))


def about_parts(
    parts: Sequence[tuple[str, str]], states: Mapping[int, str], shares: Mapping[tuple[str, str], float]
) -> Iterator[Block]:
    """Describe how far workers are with the parts of a backup.

    Args:
        parts: The work pool, which is empty for the run that makes the backup, and the source of each part.
        states: The names of the states of their task runs, by the numbers of the parts.
        shares: How many percent were read, by work pool and source.
    """
    done = sum(state == "Completed" for state in states.values())
    yield Note(f"{done} of {count_text(len(parts), 'part')} stored. The backup appears when all of them are.")
    columns = Column("work pool", "name"), Column("source", "name"), Column("state"), Column("read (%)", "number")
    rows = tuple(
        (
            part[0] or "this run",
            part[1],
            states.get(number) or "waiting",
            100 if states.get(number) == "Completed" else round(shares.get(part, 0)),
        )
        for number, part in enumerate(parts)
    )
    yield Table("Parts", columns, rows)


def about_restore(report: RestoreReport, backup: Backup, seconds: float, confirmed_by: str) -> Iterator[Block]:
    """Describe a restore: who confirmed it, how long it took, what was restored, and what holds the previous state.

    Args:
        report: The report of the manager.
        backup: The backup that was restored.
        seconds: How long it took, without the wait for the confirmation.
        confirmed_by: Who confirmed it. Empty if that is not known.
    """
    parts = [backup.part(name) for name in report.restored]
    yield Facts(
        {
            "backup made (UTC)": (backup.created_at, "time"),
            "restored (UTC)": (datetime.now(UTC), "time"),
            "confirmed by": (confirmed_by, "text"),
            "duration": (seconds, "seconds"),
            "size": (sum(part.size for part in parts), "bytes"),
            "files": (sum(part.files for part in parts), "number"),
            "unchanged files": (report.unchanged or None, "number"),
            "rows": (sum(sum(part.counts.values()) for part in parts) or None, "number"),
            "previous state": (report.safety_backup, "name"),
        }
    )
    yield Table("Restored", _PARTS, tuple(_part_row(part, "") for part in parts))
    yield from map(Note, (*report.warnings, *report.failed_hooks))


_PARTS = (
    Column("part", "name"),
    Column("target", "name"),
    Column("kind"),
    Column("size", "bytes"),
    Column("files", "number"),
    Column("rows", "number"),
)


def _part_row(part: PartRecord, target: str) -> tuple[str | int | None, ...]:
    return part.name, target, part.kind, part.size, part.files, sum(part.counts.values()) or None


def about_drill(report: DrillReport) -> Iterator[Block]:
    """Describe a drill: each part that was restored, and its problems."""
    yield Facts({"backup": (report.name, "name"), "duration": (report.duration, "seconds")})
    columns = Column("part", "name"), Column("kind"), Column("files", "number"), Column("rows", "number")
    rows = (
        (row.part, row.kind, row.files, sum(row.counts.values()), "; ".join(row.problems) or "identical")
        for row in report.rows
    )
    yield Table("Restored parts", (*columns, Column("result")), tuple(rows))


def about_backups(manager: BackupManager, listed: int) -> Iterator[Block]:
    """Describe all backups of a manager: how they grow, which days they cover, and what the retention policy keeps.

    Args:
        manager: The manager of the backups.
        listed: The most rows of the table, newest first.
    """
    backups = manager.list_backups()
    regular = [each for each in backups if not each.safety]
    failures = manager.list_failed_backups()
    if failures and (not regular or failures[0].failed_at > regular[0].created_at):
        yield Note(f"The last backup failed at {failures[0].failed_at:%F %T} UTC: {failures[0].error}")
    if not backups:
        yield Note("There are no backups.")
        yield from _about_failures(failures)
        return
    proven = last_proven(backups)
    rows = {row.name: row for row in manager.cleanup(dry_run=True, prune=False).rows}
    yield Facts(
        {
            "backups": (len(backups), "number"),
            "latest size": (regular[0].size if regular else None, "bytes"),
            "total stored": (sum(each.written for each in backups), "bytes"),
            "latest (UTC)": (regular[0].created_at if regular else None, "time"),
            "oldest (UTC)": (backups[-1].created_at, "time"),
            "last proven": (proven.name if proven else "none", "name"),
            "proven on (UTC)": (proven.proven_at if proven else None, "time"),
            "proven by": (proven.proven_by if proven else None, "text"),
        }
    )
    drawn = [each for each in reversed(regular) if each.broken is None][-_DRAWN:]
    if len(drawn) > 1:
        labels = tuple(f"{each.created_at:%Y-%m-%d %H:%M}" for each in drawn)
        yield Chart("Size of each backup", "line", "bytes", tuple(each.size for each in drawn), labels)
        yield Chart("Written by each backup", "bars", "bytes", tuple(each.written for each in drawn), labels)
        yield Chart("Duration of each backup", "bars", "seconds", tuple(each.duration for each in drawn), labels)
    yield Calendar("Days with backups", _days(regular, failures, rows))
    yield from _about_failures(failures)
    columns = (
        Column("backup", "name"),
        Column("size", "bytes"),
        Column("written", "bytes"),
        Column("duration", "seconds"),
    )
    yield Table(
        "Backups, newest first",
        (*columns, Column("kept because")),
        tuple((each.name, each.size, each.written, each.duration, _why(each, rows)) for each in backups[:listed]),
        len(backups),
    )


def _about_failures(failures: Sequence[FailedBackup]) -> Iterator[Block]:
    yield Table(
        "Failed backups, newest first",
        (Column("failed (UTC)", "time"), Column("error"), Column("run"), Column("host", "name")),
        tuple(
            (each.failed_at, each.error, str((each.run or {}).get("flow_run") or ""), each.host)
            for each in failures[:_FAILED_LISTED]
        ),
        len(failures),
    )


def _days(
    backups: Sequence[Backup], failures: Sequence[FailedBackup], rows: dict[str, RetentionRow]
) -> dict[date, Day]:
    days: dict[date, Day] = {each.failed_at.date(): "failed" for each in failures}
    for each in backups:
        row = rows.get(each.name)
        found: Day = "pinned" if each.pinned else "kept" if row is None or row.keep else "going"
        day = each.created_at.date()
        days[day] = max(found, days.get(day, found), key=_BETTER.index)
    return days


def _why(backup: Backup, rows: dict[str, RetentionRow]) -> str:
    if backup.broken is not None:
        return f"broken: {backup.broken}"
    pin = f"{PINNED} " if backup.pinned else ""
    pin += f"{PROVEN} " if backup.proven_at else ""
    pin += "incomplete; " if backup.incomplete else ""
    pin += "safety backup; " if backup.safety else ""
    return pin + (_reasons(rows[backup.name], "not kept: the next cleanup deletes it") if backup.name in rows else "")


def _reasons(row: RetentionRow, otherwise: str) -> str:
    return ", ".join(row.reasons) if row.keep else otherwise
