"""Change and delete backups: pins, descriptions, tags, and the retention policy."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from ..errors import BackupNotFound, InvalidArgument, Pinned
from ..messages import whole_name_needed
from ..repository.commits import Draft
from ..repository.progress import Progress
from ..retention import CleanupReport, RetentionItem, RetentionPolicy, RetentionRow
from .history import KIND, BackupHistory
from .making import checked_string, checked_tags
from .records import LATEST, Backup, BackupRecords, changes_body, clocks_behind

LAST_PROVEN = "last proven"
"""The reason why retention keeps the last backup that a drill has proven."""
NEEDED = "undoes a restore"
"""The reason why retention keeps the safety backup of a restore that has not ended."""


def annotate(history: BackupHistory, name: str, **changes: Any) -> Backup:
    """Change the record of a backup. Its data never changes.

    Args:
        history: The backups of one name.
        name: The name of the backup.
        changes: Any of `pinned`, `description`, `tags` and `proven_by`.

    Raises:
        BackupNotFound: There is no such backup. Nothing was changed.
    """
    body = changes_body(name, **changes)

    def draft(records: BackupRecords) -> Draft:
        records.get(name)
        return Draft("annotate", body)

    history.change_backup(draft)
    return history.find(name)[1]


def edit(history: BackupHistory, name: str, description: str | None, tags: Sequence[str] | None) -> Backup:
    """See `BackupManager.edit_backup`."""
    changes: dict[str, Any] = {}
    if description is not None:
        changes["description"] = checked_string(description, "description")
    if tags is not None:
        changes["tags"] = list(checked_tags(tags))
    if not changes:
        raise InvalidArgument("There is nothing to change. Pass description= or tags=.")
    return annotate(history, history.find(name)[1].name, **changes)


def delete(history: BackupHistory, name: str, force: bool) -> None:
    """See `BackupManager.delete_backup`."""

    def draft(records: BackupRecords) -> Draft:
        if name == LATEST and records.by_name and name not in records.by_name:
            raise BackupNotFound(whole_name_needed("backup", name, [records.find(name)[1].name]))
        event, backup = records.get(name)
        if backup.pinned and not force:
            why = "is pinned" if backup.broken is None else "has a record that cannot be read"
            raise Pinned(f"Backup {name!r} {why}. It was not deleted. Pass force=True to delete it anyway.")
        return Draft("remove", {"id": name}, [event.sequence])

    history.change_backup(draft)


def clean_up(
    history: BackupHistory, policy: RetentionPolicy, *, dry_run: bool, prune: bool, progress: Progress | None = None
) -> CleanupReport:
    """See `BackupManager.cleanup`."""
    rows, sequences = expire(history, policy, dry_run=dry_run)
    deleted = tuple(row.name for row in rows if not row.keep)
    if not prune or not history.repository.exists():
        return CleanupReport(rows, deleted, dry_run)
    without = [(KIND, history.name, sequence) for sequence in sequences]
    report = history.repository.prune(dry_run, progress=progress, without=without)
    return CleanupReport(rows, deleted, dry_run, report.bytes_freed, report.bytes_waiting)


def expire(
    history: BackupHistory, policy: RetentionPolicy, *, dry_run: bool = False
) -> tuple[tuple[RetentionRow, ...], list[int]]:
    """Delete the backups that a policy does not keep. A prune frees their space.

    Returns:
        A row for each backup, newest first, and the numbers of the events that were deleted.
    """
    rows: tuple[RetentionRow, ...] = ()
    doomed: list[int] = []

    def draft(records: BackupRecords) -> Draft | None:
        nonlocal rows
        rows = _plan(history, policy, records)
        doomed[:] = [records.get(row.name)[0].sequence for row in rows if not row.keep]
        return Draft("cleanup", {}, doomed) if doomed else None

    history.change_backup(draft, dry_run=dry_run)
    return rows, doomed


def _plan(history: BackupHistory, policy: RetentionPolicy, records: BackupRecords) -> tuple[RetentionRow, ...]:
    now = datetime.now(UTC)
    behind = clocks_behind(history.tracked.events, now)
    committed = list(records.by_name.values())
    # Ignore these: a wrong time would push valid backups out of the days and weeks of the policy.
    spared = {backup.name: behind[event.sequence] for event, backup in committed if event.sequence in behind}
    spared |= {backup.name: "its record is broken" for _, backup in committed if backup.broken is not None}
    counted = [backup for _, backup in committed if backup.name not in spared]
    # Backups that were never restored may all be useless, so the last proven one stays until there is a newer one.
    oldest_first = sorted(counted, key=lambda each: each.created_at)
    last_proven = {policy.group_of(_item(each)): each.name for each in oldest_first if each.proven_at and each.regular}
    needed = {record.safety_backup for record in records.restores.values()}
    reasons = dict.fromkeys(last_proven.values(), LAST_PROVEN) | {name: NEEDED for name in needed if name}
    items = [_item(each, *filter(None, [reasons.get(each.name)])) for each in counted]
    latest = next((backup.name for _, backup in reversed(committed) if backup.regular), None)
    return (
        *(
            RetentionRow(row.name, True, ("latest",)) if row.name == latest and not row.keep else row
            for row in policy.plan(items, now)
        ),
        *(RetentionRow(name, True, (reason,)) for name, reason in spared.items()),
    )


def _item(backup: Backup, *exempt: str) -> RetentionItem:
    return RetentionItem(
        backup.name,
        backup.created_at,
        backup.tags,
        (*backup.exempt, *exempt),
        backup.host,
        backup.part_names,
        # A safety backup of one database must not push a backup of everything out of its day or week.
        "safety" if backup.safety else "",
    )
