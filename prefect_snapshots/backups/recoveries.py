"""Point-in-time recovery: base backups of PostgreSQL servers together with their archived WAL.

A base backup is a part of a backup like any other. The WAL is in the same repository, under the system identifier of
the server. This module brings both together: which base backup a target needs, how far the WAL reaches, and which WAL
no kept base backup needs any more.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ..arguments import checking_types
from ..errors import BackupNotFound, RestoreFailed, WalNotFound
from ..repository.progress import Progress, silent
from ..repository.repository import Repository
from ..repository.times import parse_time
from ..repository.tracking import leaving_out_damage
from ..wal import SQLiteArchive, WalArchive, WalTimeline, list_followed, list_systems
from ..wal.names_and_headers import lsn_text, parse_lsn
from .databases.postgresql_facts import ClusterFacts, read_facts
from .databases.postgresql_physical import PostgreSQLCluster
from .databases.postgresql_recovery import (
    RecoveryTarget,
    build,
    move,
    place_for,
    run_recovery,
    temporary_folder,
    user_for,
)
from .history import KIND, BackupHistory
from .interruption import terminable
from .records import Backup
from .working import check_space


@dataclass(frozen=True, slots=True)
class BaseBackup:
    """A base backup of a PostgreSQL server.

    Attributes:
        manager: The name of the manager that made it.
        backup: The name of the backup.
        part: The name of the part.
        size: Bytes of its files.
        facts: What a recovery must know about it.
    """

    manager: str
    backup: str
    part: str
    size: int
    facts: ClusterFacts

    @property
    def finished(self) -> datetime:
        """When it ended, by the clock of the server. A recovery can reach any later time."""
        return parse_time(self.facts.finished)


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """The result of a recovery.

    Attributes:
        directory: The new data directory.
        backup: The base backup.
        system: The system identifier of the server.
        target: The point to which it was recovered.
        timeline: The new timeline of the recovered server.
        last_commit: The time of the last transaction in it, as PostgreSQL shows it. None: no transaction was applied.
        databases: Its databases.
        fetched: How many files of the WAL were read from the archive.
    """

    directory: str
    backup: str
    system: str
    target: str
    timeline: int
    last_commit: str | None
    databases: tuple[str, ...]
    fetched: int


@dataclass(frozen=True, slots=True)
class RecoveryWindow:
    """What can be recovered of one PostgreSQL server, or restored of one SQLite database that is followed.

    Attributes:
        system: The system identifier of the server, or `sqlite/` and the name of the database.
        base_backups: The names of the base backups, the oldest first. Of SQLite, the times of the base copies.
        since: The earliest time that can be recovered: the end of the oldest base backup. None: there is none.
        until: When the last file of the WAL was archived. Transactions up to shortly before it can be recovered.
        missing: Gaps in the WAL that kept base backups need. No recovery can pass them. Of SQLite, times that cannot be
            restored, because nobody followed the database.
        size: Bytes of the archived WAL.
        written: Bytes that it takes in the repository.
    """

    system: str
    base_backups: tuple[str, ...]
    since: datetime | None
    until: datetime | None
    missing: tuple[tuple[str, str], ...]
    size: int
    written: int

    @property
    def ok(self) -> bool:
        """Whether there is a base backup, and no gap after it."""
        return bool(self.base_backups) and self.until is not None and not self.missing


def list_base_backups(repository: Repository, *, strict: bool = False) -> list[BaseBackup]:
    """Return the base backups in a repository, the oldest first.

    Args:
        repository: Where they are.
        strict: Whether one that cannot be read is an error. Default: it is left out, with a warning.
    """
    found = []
    for name in repository.names(KIND) if repository.exists() else ():
        with leaving_out_damage(f"The history of the backups of {name}", when=not strict):
            history = BackupHistory(repository, name)
            for backup in history.backups():
                with leaving_out_damage(f"The base backup in {backup.name}", when=not strict):
                    found += list(_bases_in(history, backup))
    return sorted(found, key=lambda base: base.facts.last)


def _bases_in(history: BackupHistory, backup: Backup) -> Iterator[BaseBackup]:
    parts = [part for part in backup.parts if part.kind == PostgreSQLCluster.kind]
    if backup.broken is None and not parts:
        return
    with history.opened(backup.name) as (_, archive):
        for part in parts:
            facts = read_facts(archive.part(part.name))
            yield BaseBackup(history.name, backup.name, part.name, part.size, facts)


@checking_types
def recover(
    repository: Repository,
    directory: str | os.PathLike[str],
    target: RecoveryTarget = RecoveryTarget(),  # noqa: B008  it cannot change
    *,
    backup: str | None = None,
    system: str | None = None,
    drill: bool = False,
    progress: Progress | None = None,
) -> RecoveryReport:
    """Recover a PostgreSQL server to a point in time, into a new data directory.

    The files of a base backup are written beside the directory. A server applies the archived WAL to them, is promoted
    and looked at, and stops. Only then the files move to their place. The running server is not touched.

    Args:
        repository: Where the base backups and the WAL are.
        directory: The new data directory. It must not exist, or be empty.
        target: The point to recover to. Default: the end of the archive.
        backup: The name of the base backup. Default: the last one before the target.
        system: The system identifier of the server, if there are base backups of several.
        drill: Delete the result, and only return the report. The directory is not used then. Without a target, a random
            one is chosen between the end of the base backup and the end of the archive.
        progress: Called with a label, the number of files of the WAL that were read, and 0.

    Returns:
        What was recovered.

    Raises:
        BackupNotFound: No base backup is before the target.
        RestoreFailed: The target cannot be reached, or the recovered server does not work. Nothing was changed.
        IntegrityError: The base backup or the WAL is damaged. Nothing was changed.
    """
    progress = progress or silent
    base = _chosen(repository, target, backup, system)
    archive = WalArchive(repository, base.facts.system)
    if drill and target == RecoveryTarget():
        target = _random_target(archive, base)
    gaps = [gap for each in archive.list_timelines() for gap in _gaps(each, [base], base.facts.first)]
    if gaps and target == RecoveryTarget(timeline=target.timeline):
        raise RestoreFailed(
            f"{_gaps_text(gaps)} No recovery can pass it. Nothing was changed. Choose a target before it, or a newer "
            "base backup with --backup."
        )
    damage: list[Exception] = []
    fetched = 0

    def fetch(file: str, path: Path) -> bool:
        nonlocal fetched
        try:
            archive.fetch(file, path)
        except WalNotFound:
            return False
        except Exception as error:
            damage.append(error)
            raise
        fetched += 1
        progress(f"applying {file}", fetched, 0)
        return True

    place = Path(directory).absolute()
    with terminable():
        if not drill:
            place.parent.mkdir(parents=True, exist_ok=True)
        user = user_for(place.parent if not drill else Path(place.anchor))
        with temporary_folder() if drill else place_for(place) as folder:
            check_space(base.size, folder, f"The recovery of {base.backup}")
            history = BackupHistory(repository, base.manager)
            progress(f"writing {base.backup}", 0, 0)
            with history.opened(base.backup) as (_, stored):
                build(stored.part(base.part), base.facts, folder / "data")
            try:
                done = run_recovery(folder / "data", base.facts, target, fetch, user)
            except RestoreFailed as error:
                if damage:
                    raise damage[0] from None
                if gaps:
                    raise RestoreFailed(f"{error} {_gaps_text(gaps)}") from None
                raise
            if not drill:
                move(folder / "data", place)
    return RecoveryReport(
        "" if drill else str(place),
        base.backup,
        base.facts.system,
        target.text,
        done.timeline,
        done.last_commit,
        done.databases,
        fetched,
    )


def _chosen(repository: Repository, target: RecoveryTarget, backup: str | None, system: str | None) -> BaseBackup:
    bases = [
        base
        for base in list_base_backups(repository)
        if (backup is None or base.backup == backup) and (system is None or base.facts.system == system)
    ]
    if not bases:
        named = f" named {backup!r}" if backup is not None else ""
        raise BackupNotFound(
            f"There is no base backup{named} in {repository.url}. Make one with `prefect-snapshots backups create "
            "--database postgresql+physical://user@host`."
        )
    systems = sorted({base.facts.system for base in bases})
    if len(systems) > 1:
        raise BackupNotFound(
            f"There are base backups of several servers: {', '.join(systems)}. Choose one with --system or --backup."
        )
    if backup is not None:
        return bases[-1]
    reaching = [base for base in bases if _is_before(base, target)]
    ancestors = _ancestors(WalArchive(repository, systems[0]), target)
    possible = [base for base in reaching if base.facts.last <= ancestors.get(base.facts.timeline, 0)]
    if not possible:
        raise BackupNotFound(
            f"No base backup of server {systems[0]} is before {target.text}: the oldest one ended at "
            f"{bases[0].facts.finished}. Nothing was changed. Choose a later target, or another timeline."
        )
    return possible[-1]


def _random_target(archive: WalArchive, base: BaseBackup) -> RecoveryTarget:
    """Return a random position that a recovery can reach. In the last segment there may be no WAL behind it."""
    ends = (parse_lsn(each.end) for each in archive.list_timelines() if each.timeline == base.facts.timeline)
    end = max(ends, default=0) - base.facts.segment_size
    if end <= base.facts.last:
        return RecoveryTarget()
    lsn = random.randrange(base.facts.last, end)
    return RecoveryTarget(lsn=lsn_text(lsn), timeline=base.facts.timeline)


def _is_before(base: BaseBackup, target: RecoveryTarget) -> bool:
    if target.at is not None:
        return base.finished <= target.at
    return target.lsn is None or base.facts.last <= parse_lsn(target.lsn)


def _ancestors(archive: WalArchive, target: RecoveryTarget) -> dict[int, int]:
    """Return the timelines on the way to that of the target, each with the LSN at which it was left."""
    latest = target.timeline
    if latest is None:
        latest = max((int(file.name[:8], 16) for file in archive.list_files()), default=1)
    return {latest: 1 << 64, **{switch.timeline: switch.lsn for switch in archive.history(latest)}}


def recovery_windows(repository: Repository) -> list[RecoveryWindow]:
    """Return what can be recovered of each server and SQLite database whose WAL or base backups are in a repository.

    Of one whose WAL is damaged, nothing can be recovered. A warning in the log says why.
    """
    bases = list_base_backups(repository)
    windows = []
    for system in sorted({*list_systems(repository), *(base.facts.system for base in bases)}):
        window = _nothing(system)
        with leaving_out_damage(f"The WAL of {system}"):
            window = _window(repository, system, [base for base in bases if base.facts.system == system])
        windows.append(window)
    for name in list_followed(repository):
        window = _nothing(f"sqlite/{name}")
        with leaving_out_damage(f"The WAL of {window.system}"):
            window = _sqlite_window(repository, name)
        windows.append(window)
    return windows


def _nothing(system: str) -> RecoveryWindow:
    return RecoveryWindow(system, (), None, None, (), 0, 0)


def _sqlite_window(repository: Repository, name: str) -> RecoveryWindow:
    window = SQLiteArchive(repository, name).window()
    holes = ((before[1], after[0]) for before, after in itertools.pairwise(window.ranges))
    return RecoveryWindow(
        system=f"sqlite/{window.name}",
        base_backups=tuple(each.isoformat() for each in window.base_copies),
        since=window.since,
        until=window.until,
        missing=tuple((begin.isoformat(), end.isoformat()) for begin, end in holes),
        size=window.size,
        written=window.written,
    )


def _window(repository: Repository, system: str, bases: list[BaseBackup]) -> RecoveryWindow:
    timelines = WalArchive(repository, system).list_timelines() if repository.exists() else []
    needed = min((base.facts.first for base in bases), default=0)
    return RecoveryWindow(
        system=system,
        base_backups=tuple(base.backup for base in bases),
        since=min((base.finished for base in bases), default=None),
        until=max((each.archived_at for each in timelines), default=None),
        missing=tuple(gap for each in timelines for gap in _gaps(each, bases, needed)),
        size=sum(each.size for each in timelines),
        written=sum(each.written for each in timelines),
    )


def _gaps_text(gaps: list[tuple[str, str]]) -> str:
    first, last = gaps[0]
    return f"The archive lacks {first}{f' to {last}' if last != first else ''}."


def _gaps(timeline: WalTimeline, bases: list[BaseBackup], needed: int) -> Iterator[tuple[str, str]]:
    segment = bases[0].facts.segment_size if bases else 1 << 24
    for first, last in timeline.missing:
        per_log = (1 << 32) // segment
        end = (int(last[8:16], 16) * per_log + int(last[16:], 16) + 1) * segment
        if end > needed:
            yield first, last


@checking_types
def clean_wal(repository: Repository, *, dry_run: bool = False) -> dict[str, list[str]]:
    """Delete WAL that no base backup needs. Servers without a base backup keep all of their WAL.

    Args:
        repository: Where the base backups and the WAL are.
        dry_run: Only return what would be deleted.

    Returns:
        The names of the deleted files for each system identifier. The next prune frees their space.
    """
    needed: dict[str, int] = {}
    # Without one that cannot be read now, WAL would be deleted that it needs when it is repaired.
    for base in list_base_backups(repository, strict=True):
        needed[base.facts.system] = min(base.facts.first, needed.get(base.facts.system, base.facts.first))
    return {
        system: WalArchive(repository, system).delete_before(needed[system], dry_run=dry_run)
        for system in list_systems(repository)
        if system in needed
    }
