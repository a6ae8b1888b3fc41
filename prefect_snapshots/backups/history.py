"""The backups of one name in a repository: list them, find one, and open its data."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ..errors import DamagedObject, DamagedVersion, IntegrityError
from ..messages import logger
from ..repository.catalog import Event
from ..repository.commits import Draft
from ..repository.maintenance.stream_scanning import scan_stream
from ..repository.origin import host
from ..repository.repository import Repository
from ..repository.threads import Lock
from ..repository.tracking import TrackedStream, absence, damage_of
from .archive import Archive
from .journal import Change, RestoreRecord
from .records import Backup, BackupRecords, FailedBackup, broken_record, failure_body

KIND = "backups"
"""The kind of the streams of backups."""


class BackupHistory:
    """The backups of one name in a repository.

    Args:
        repository: The repository. It need not exist yet.
        name: The name of the manager.
    """

    def __init__(self, repository: Repository, name: str) -> None:
        self.repository = repository
        self.name = name
        self._lock = Lock()
        self._tracked: TrackedStream[BackupRecords] | None = None

    @property
    def tracked(self) -> TrackedStream[BackupRecords]:
        """The stream of these backups. It is opened on first use, so creating a manager reads nothing."""
        with self._lock:
            if self._tracked is None:
                self._tracked = TrackedStream(self.repository, KIND, self.name, BackupRecords(self._absence))
            return self._tracked

    def _absence(self) -> str:
        return f" of {self.name!r}{absence(self.repository, KIND, self.name)}"

    def backups(self) -> list[Backup]:
        """Return all backups, the last committed first. Those with a damaged record are `broken`."""
        try:
            found = [backup for _, backup in self.tracked.refresh().by_name.values()]
        except DamagedObject:
            found = self._salvaged()
        return found[::-1]

    def find(self, name: str) -> tuple[Event, Backup]:
        """Return the event and the record of a backup. "latest" is the last committed regular one.

        Raises:
            BackupNotFound: There is no such backup. The message names similar ones.
        """
        with self.tracked.current() as records:
            return records.find(name)

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[tuple[Backup, Archive]]:
        """Open a backup. Damage that is found within the block is reported with the name of this backup.

        Raises:
            BackupNotFound: There is no backup with this name.
            DamagedVersion: Its record or its manifest cannot be read.
        """
        event, backup = self.find(name)
        if backup.broken is not None:
            raise DamagedVersion(self._label(backup), "", backup.broken)
        with damage_of(self._label(backup)):
            yield backup, self._archive(event, backup)

    def previous(self, sources: Iterable[str]) -> list[Archive]:
        """Return the last readable backup of each source, newest first."""
        wanted = set(sources)
        found = []
        for event, backup in reversed(self.tracked.view.by_name.values()):
            there = wanted & set(backup.part_names)
            if there:
                wanted -= there
                try:
                    found.append(self._archive(event, backup))
                except IntegrityError as error:
                    logger.warning(
                        "All files are read again, because %s cannot be read: %s", self._label(backup), error
                    )
            if not wanted:
                break
        return found

    def open_restores(self) -> list[RestoreRecord]:
        """Return the restores that have started and not ended, oldest first."""
        return list(self.tracked.refresh().restores.values())

    def failures(self) -> list[FailedBackup]:
        """Return the last failed backups, newest first."""
        return list(self.tracked.refresh().failures[::-1])

    def record_failure(self, error: str, run: Mapping[str, Any] | None) -> None:
        """Record that a backup failed, if there is a repository to record it in."""
        if not self.repository.read_only and self.repository.exists():
            self.tracked.change(lambda: Draft("failed", failure_body(error, host(), run)))

    @property
    def change(self) -> Change | None:
        """The function that commits an event without content. None if the repository is read-only."""
        return None if self.repository.read_only else self.tracked.change

    def change_backup(self, draft: Callable[[BackupRecords], Draft | None], *, dry_run: bool = False) -> None:
        """Commit the change that `draft` derives from the records. It is called again if another writer was faster."""
        self.tracked.change(lambda: draft(self.tracked.state), dry_run=dry_run)

    def _archive(self, event: Event, backup: Backup) -> Archive:
        with self.tracked.reading(event, self._label(backup)) as content:
            return Archive(content, self._label(backup))

    def _label(self, backup: Backup) -> str:
        return f"backup {backup.name!r} of {self.name!r}"

    def _salvaged(self) -> list[Backup]:
        """The backups of a stream with damaged events, oldest first; a broken one for each of those events."""
        slots = scan_stream(self.repository.parts(), KIND, self.name)
        records, broken = BackupRecords(), []
        for sequence in range(1, slots.head + 1):
            event = slots.rescued.get(sequence) or slots.events.get(sequence)
            if event is None or (sequence in slots.damaged and sequence not in slots.rescued):
                broken.append(broken_record(sequence, slots.damaged[sequence]))
            else:
                records.apply(event)
        return [*broken, *(backup for _, backup in records.by_name.values())]
