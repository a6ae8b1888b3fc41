"""The report on all names of a repository at once: what is there, how old it is, and what needs a person."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from ..artifacts import ArtifactRegistry
from ..backups import BackupManager, last_proven, recovery_windows
from ..backups.manager import list_names as list_backup_names
from ..checkpoints import CheckpointManager
from ..documents import Block, Column, Facts, Note, Table
from ..documents.texts import count_text
from ..errors import SnapshotsError
from ..repository import Repository
from ..snapshots import SnapshotManager
from ..snapshots import list_names as list_snapshot_names

_PRODUCTION = "production"
_TIME = Column("latest (UTC)", "time")

_Rows = list[tuple[str | int | datetime | None, ...]]


def about_repository(repository: Repository, listed: int) -> Iterator[Block]:
    """Describe a repository: its size, what needs a person, and each name with its latest version.

    Args:
        repository: The repository.
        listed: The most names of each kind.
    """
    found = repository.stats()
    needs: list[str] = []
    tables = [
        _backups(repository, listed, needs),
        _windows(repository, listed, needs),
        _snapshots(repository, listed, needs),
        _checkpoints(repository, listed, needs),
        _artifacts(repository, listed, needs),
    ]
    yield from map(Note, needs)
    yield Facts(
        {
            "versions": (found.versions, "number"),
            "without deduplication": (found.logical_bytes, "bytes"),
            "with deduplication": (found.version_bytes, "bytes"),
            "saved by deduplication": (found.saved_bytes, "bytes"),
            "total stored": (found.stored_bytes, "bytes"),
        }
    )
    yield from (table for table in tables if table.rows)


def _backups(repository: Repository, listed: int, needs: list[str]) -> Table:
    names, rows = list_backup_names(repository), _Rows()
    for name in names[:listed]:
        manager = BackupManager(repository, name=name)
        try:
            backups, failures = manager.list_backups(), manager.list_failed_backups()
        except SnapshotsError as error:
            needs.append(f"The backups of {name} cannot be read: {error}")
            continue
        sound = [each for each in backups if each.broken is None and not each.safety]
        latest, proven = sound[0] if sound else None, last_proven(backups)
        if failures and (latest is None or failures[0].failed_at > latest.created_at):
            needs.append(f"The last backup of {name} failed at {failures[0].failed_at:%F %T} UTC: {failures[0].error}")
        needs += [f"Backup {each.name} is broken: {each.broken}" for each in backups if each.broken is not None]
        rows.append(
            (
                name,
                len(backups),
                latest.created_at if latest else None,
                latest.size if latest else None,
                sum(each.written for each in backups),
                proven.proven_at if proven else None,
                failures[0].failed_at if failures else None,
            )
        )
    columns = Column("name", "name"), Column("backups", "number"), _TIME, Column("size", "bytes")
    more = Column("stored", "bytes"), Column("proven (UTC)", "time"), Column("last failure (UTC)", "time")
    return Table("Backups", (*columns, *more), tuple(rows), len(names))


def _windows(repository: Repository, listed: int, needs: list[str]) -> Table:
    try:
        windows = recovery_windows(repository)
    except SnapshotsError as error:
        needs.append(f"The WAL cannot be read: {error}")
        windows = []
    for each in windows[:listed]:
        if each.missing:
            first, last = each.missing[0]
            needs.append(
                f"{count_text(len(each.missing), 'gap')} in the WAL of {each.system}, the first from {first} to {last}."
            )
    rows = [
        (each.system, each.since, each.until, len(each.base_backups), len(each.missing), each.size, each.written)
        for each in windows[:listed]
    ]
    columns = Column("server or database", "name"), Column("from (UTC)", "time"), Column("to (UTC)", "time")
    more = Column("base backups", "number"), Column("gaps", "number"), Column("WAL", "bytes"), Column("stored", "bytes")
    return Table("Any point in time", (*columns, *more), tuple(rows), len(windows))


def _snapshots(repository: Repository, listed: int, needs: list[str]) -> Table:
    names, rows = list_snapshot_names(repository), _Rows()
    for name in names[:listed]:
        manager: SnapshotManager[Any] = SnapshotManager(repository, name=name)
        try:
            found = manager.list_snapshots()
        except SnapshotsError as error:
            needs.append(f"The snapshots of {name} cannot be read: {error}")
            continue
        latest = found[0] if found else None
        when, size = (latest.created_at, latest.size) if latest else (None, None)
        rows.append((name, len(found), when, size, sum(each.written for each in found)))
    columns = Column("name", "name"), Column("snapshots", "number"), _TIME, Column("size", "bytes")
    return Table("Snapshots", (*columns, Column("stored", "bytes")), tuple(rows), len(names))


def _checkpoints(repository: Repository, listed: int, needs: list[str]) -> Table:
    manager, rows, latest = CheckpointManager(repository), _Rows(), list[Any]()
    for name in manager.list_names():
        try:
            latest += manager.list_checkpoints(name)[:1]  # the version that was started last comes first
        except SnapshotsError as error:
            needs.append(f"The checkpoints of {name} cannot be read: {error}")
    latest.sort(key=lambda each: each.started_at, reverse=True)
    for each in latest[:listed]:
        if each.damage is not None:
            needs.append(f"The checkpoints of {each.name} cannot be read: {each.damage}")
        elif each.failed:
            needs.append(
                f"{each.failed:,} of {each.done + each.failed:,} items of {each.name} failed and have no result."
            )
        rows.append((each.name, each.function, each.done, each.failed, each.started_at))
    columns = Column("name", "name"), Column("function", "name"), Column("done", "number"), Column("failed", "number")
    return Table("Checkpoints", (*columns, Column("started (UTC)", "time")), tuple(rows), len(latest))


def _artifacts(repository: Repository, listed: int, needs: list[str]) -> Table:
    registry, rows = ArtifactRegistry(repository), _Rows()
    names = [(name, each) for each in registry.list_collection_names() for name in registry.list_names(each)]
    for name, collection in names[:listed]:
        try:
            versions, aliases = registry.list_versions(name, collection), registry.get_aliases(name, collection)
        except SnapshotsError as error:
            needs.append(f"The artifact {collection}/{name} cannot be read: {error}")
            continue
        if versions:
            production = str(aliases.get(_PRODUCTION, ""))
            latest = versions[0]
            rows.append((f"{collection}/{name}", len(versions), latest.version, latest.created_at, production))
    columns = (
        Column("name", "name"),
        Column("versions", "number"),
        Column("latest", "name"),
        Column("logged (UTC)", "time"),
    )
    return Table("Artifacts", (*columns, Column(_PRODUCTION, "name")), tuple(rows), len(names))
