"""The records of backups: name, parts, sizes, origin. They can be listed without reading the data.

A *backup* is one version. Each of its *parts* comes from one source: a directory or a database. A record that cannot be
read is listed as *broken*, with the reason, and never hides the others. `BackupRecords` is the state of one stream of
backups. It also tracks which of them are proven, and which restores have not ended.
"""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from ..documents.texts import count_text
from ..errors import BackupNotFound
from ..messages import hint
from ..repository.catalog import OMITTED, Event
from ..repository.origin import Git
from ..repository.times import from_nanoseconds, to_nanoseconds
from ..retention import PINNED
from .directories import SourceSummary
from .journal import RestoreRecord, apply_restore_event

LATEST = "latest"
"""Means the newest regular backup wherever one is read. No backup has this name, because names contain the time."""

_MAKE_ONE = "Make one with `prefect-snapshots backups create`."

SLUG_LIMIT = 60
"""Most characters of a description in a name: with the manager's name and the time it still fits one line."""

_SHOWN = 10
"""Files of a part that a note names: more would make the record large, and nobody reads them."""
_MOST_NOTES = 50
"""Notes of a database that a record keeps, for the same reason."""
_LEAST_ROOM = 10
"""Further notes that `part_record` may add."""
_MOST_FAILURES = 400
"""Failed backups that are remembered, the newest ones: a year of nightly failures, in a few hundred kilobytes."""
_LONGEST = 2000
"""Characters of an error that is stored: an event is small, and the log of the run has the rest."""
_DAY = timedelta(days=1)


class PartRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The record of one part of a backup."""

    name: str
    """The name of its source."""
    kind: str
    """"directory", or the kind of database: "postgresql", "sqlite", ..."""
    size: int
    """Bytes of its files."""
    files: int
    """How many files it has."""
    counts: dict[str, int] = {}
    """For a database: rows or documents per table or collection."""
    notes: list[str] = []
    """Full sentences about files that changed while they were read, and about what was left out, and why."""
    incomplete: bool = False
    """Whether something was left out because it could not be read, or because no restore could create it again."""


class _BackupBody(msgspec.Struct, kw_only=True):
    """The body of the event that commits a backup."""

    id: str
    description: str
    time: int
    pinned: bool
    tags: list[str]
    parts: list[PartRecord]
    duration: float
    host: str
    git: Git | None = None
    run: dict[str, Any] | None = None
    versions: dict[str, list[str]] = {}
    safety: bool = False


class _FailureBody(msgspec.Struct, kw_only=True):
    """The body of the event of a backup that failed."""

    error: str
    host: str = ""
    run: dict[str, Any] | None = None


class _Changes(msgspec.Struct, kw_only=True):
    """The body of the event that changes the record of a backup. None: unchanged."""

    id: str
    pinned: bool | None = None
    description: str | None = None
    tags: list[str] | None = None
    proven_by: str | None = None


@dataclass(frozen=True, slots=True)
class Backup:
    """The record of one backup.

    Attributes:
        name: The name, unique for its manager, such as `default_20260131_120000_before_the_migration`.
        description: Why it was made.
        created_at: When the backup started, in UTC.
        pinned: Whether it is exempt from retention, and deleting it takes `force=True`.
        tags: Labels, which `keep_tags` of a retention policy can select.
        parts: One part for each source.
        written: Bytes that were written to the repository. The rest was stored already, or saved by compression.
        duration: How long it took, in seconds.
        host: The machine on which it was made.
        git: The state of the code that was backed up, or of the working directory. None if neither is in git.
        run: The Prefect run that made it.
        versions: Versions of programs and servers, by the name of the part.
        proven_at: When a drill last restored it and found it identical, in UTC. None: never.
        proven_by: The machine or the Prefect run that proved it.
        broken: Why its record cannot be read. None if it can.
        safety: Whether it is a safety backup: a restore made it, of what it was about to change. "latest" never means
            it, and no watch or report counts it.
        failed_hooks: Full sentences about hooks that failed after it was made. Only `create_backup` returns them: they
            are not stored.
    """

    name: str
    description: str
    created_at: datetime
    pinned: bool = False
    tags: tuple[str, ...] = ()
    parts: tuple[PartRecord, ...] = ()
    written: int = 0
    duration: float = 0.0
    host: str = ""
    git: Git | None = None
    run: Mapping[str, Any] | None = None
    versions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    proven_at: datetime | None = None
    proven_by: str = ""
    broken: str | None = None
    safety: bool = False
    failed_hooks: tuple[str, ...] = ()

    @property
    def regular(self) -> bool:
        """Whether it can be the latest: it can be read, and is not a safety backup."""
        return self.broken is None and not self.safety

    @property
    def exempt(self) -> tuple[str, ...]:
        """Why retention never deletes it. Empty if it may."""
        return (PINNED,) if self.pinned else ()

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(part.size for part in self.parts)

    @property
    def files(self) -> int:
        """Files of all parts."""
        return sum(part.files for part in self.parts)

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Rows or documents per table or collection, for every database."""
        return {part.name: part.counts for part in self.parts if part.counts}

    @property
    def incomplete(self) -> bool:
        """Whether something was left out because it could not be read or restored. See the notes of the parts."""
        return any(part.incomplete for part in self.parts)

    def part(self, name: str) -> PartRecord:
        """Return the part of one source.

        Args:
            name: The name of the source, or its last component if only one part ends with it, such as `"app.db"`.

        Raises:
            BackupNotFound: There is no such part, or more than one.
        """
        found = [part for part in self.parts if part.name == name]
        found = found or [part for part in self.parts if part.name.endswith(f"/{name}")]
        if len(found) != 1:
            no = "several parts" if found else "no part"
            raise BackupNotFound(
                f"Backup {self.name!r} has {no} named {name!r}. Its parts are: {', '.join(self.part_names) or 'none'}."
            )
        return found[0]

    @property
    def part_names(self) -> list[str]:
        """The names of all parts."""
        return [part.name for part in self.parts]

    def to_dict(self) -> dict[str, Any]:
        """Return the record in plain types, for JSON."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return {**plain, "size": self.size, "files": self.files, "incomplete": self.incomplete}


@dataclass(frozen=True, slots=True)
class FailedBackup:
    """A backup that should have been made, and failed.

    Attributes:
        failed_at: When it failed, in UTC.
        error: Why, as a full sentence.
        host: The machine on which it was tried.
        run: The Prefect run that tried. None: it was no flow of this package.
    """

    failed_at: datetime
    error: str
    host: str = ""
    run: Mapping[str, Any] | None = None


class BackupRecords:
    """All backups of one stream in the order of their commits, failed ones, and restores that have not ended.

    Args:
        absence: A function that returns the end of the sentence that there is no backup yet. It is called only for that
            message.
    """

    def __init__(self, absence: Callable[[], str] = lambda: ".") -> None:
        self._absence = absence
        self.by_name: dict[str, tuple[Event, Backup]] = {}
        self.restores: dict[str, RestoreRecord] = {}
        self.failures: tuple[FailedBackup, ...] = ()
        self._names: dict[int, str] = {}
        self._given: set[str] = set()

    def copy(self) -> BackupRecords:
        """Return a copy that later events do not change."""
        other = BackupRecords(self._absence)
        other.by_name, other.restores = dict(self.by_name), dict(self.restores)
        other.failures = self.failures
        other._names, other._given = dict(self._names), set(self._given)
        return other

    def apply(self, event: Event) -> None:
        """Apply one event."""
        for sequence in event.deletes:
            name = self._names.pop(sequence, None)
            if name is not None:
                del self.by_name[name]
        if event.kind == "backup":
            backup = read_record(event)
            self.by_name[backup.name] = event, backup
            self._names[event.sequence] = backup.name
            self._given.add(backup.name)
        elif event.kind == OMITTED:
            self._given.add(str(event.body["id"]))
        elif event.kind == "annotate":
            self._annotate(event)
        elif event.kind == "failed":
            self._note_failure(event)
        else:
            apply_restore_event(self.restores, event)

    def _note_failure(self, event: Event) -> None:
        try:
            body = msgspec.convert(event.body, _FailureBody)
        except msgspec.ValidationError:
            return  # as for `_annotate`
        failed = FailedBackup(from_nanoseconds(event.time), body.error[:_LONGEST], body.host, body.run)
        self.failures = (*self.failures[1 - _MOST_FAILURES :], failed)

    def _annotate(self, event: Event) -> None:
        try:
            said = msgspec.convert(event.body, _Changes)
        except msgspec.ValidationError:
            return  # what somebody said of a backup is worth less than the backup
        if said.id not in self.by_name:
            return
        committed, backup = self.by_name[said.id]
        changes: dict[str, Any] = {
            "pinned": said.pinned,
            "description": said.description,
            "tags": None if said.tags is None else tuple(said.tags),
            "proven_by": said.proven_by,
            "proven_at": None if said.proven_by is None else from_nanoseconds(event.time),
        }
        known = {name: value for name, value in changes.items() if value is not None}
        self.by_name[said.id] = committed, dataclasses.replace(backup, **known)

    def get(self, name: str) -> tuple[Event, Backup]:
        """Return the event and the backup with a name.

        Raises:
            BackupNotFound: There is no such backup. The message names similar ones.
        """
        if not self.by_name:
            raise BackupNotFound(f"There is no backup yet{self._absence()} {_MAKE_ONE}")
        found = self.by_name.get(name) if isinstance(name, str) else None
        if found is None:
            raise BackupNotFound(f"No backup is named {name!r}. {hint(name, self.by_name)}")
        return found

    def find(self, name: str) -> tuple[Event, Backup]:
        """Do what `get` does, and also accept "latest": the last committed backup that is `regular`."""
        if name != LATEST or not self.by_name:
            return self.get(name)
        for event, backup in reversed(self.by_name.values()):
            if backup.regular:
                return event, backup
        raise BackupNotFound(f"There is no backup yet, except for those before restores. {_MAKE_ONE}")

    def free_name(self, name: str) -> str:
        """Return the name, or if it is taken, the first free one of `name_2`, `name_3`, ... No name is reused."""
        number, free = 1, name
        while free in self._given:
            number += 1
            free = f"{name}_{number}"
        return free


def last_proven(backups: Iterable[Backup]) -> Backup | None:
    """Return the newest backup of which a drill has shown that it can be restored. None if there is none.

    Safety backups do not count.
    """
    proven = (backup for backup in backups if backup.proven_at is not None and backup.regular)
    return max(proven, key=lambda backup: backup.created_at, default=None)


def read_record(event: Event) -> Backup:
    """Return the backup that an event committed. If its record cannot be read, the backup is broken."""
    try:
        body = msgspec.convert(event.body, _BackupBody)
    except msgspec.ValidationError as error:
        name = event.body.get("id")
        return broken_record(name if isinstance(name, str) else event.sequence, str(error), event.time)
    return Backup(
        name=body.id,
        description=body.description,
        created_at=from_nanoseconds(body.time),
        pinned=body.pinned,
        tags=tuple(body.tags),
        parts=tuple(body.parts),
        written=event.content.written if event.content else 0,
        duration=body.duration,
        host=body.host,
        git=body.git,
        run=body.run,
        versions=body.versions,
        safety=body.safety,
    )


def broken_record(name: str | int, reason: str, time: int = 0) -> Backup:
    """Return a placeholder for a backup whose record cannot be read. Only deleting it with `force=True` removes it.

    Args:
        name: The name of the backup, or the number of its event.
        reason: Why it cannot be read.
        time: When the event was committed, in nanoseconds since 1970. None: unknown.
    """
    known = name if isinstance(name, str) else f"event-{name}"
    return Backup(name=known, description="", created_at=from_nanoseconds(time), pinned=True, broken=reason)


def body_of(backup: Backup) -> dict[str, Any]:
    """Return the body of the event that commits a backup."""
    body = _BackupBody(
        id=backup.name,
        description=backup.description,
        time=to_nanoseconds(backup.created_at),
        pinned=backup.pinned,
        tags=list(backup.tags),
        parts=list(backup.parts),
        duration=backup.duration,
        host=backup.host,
        git=backup.git,
        run=dict(backup.run) if backup.run is not None else None,
        versions={name: list(versions) for name, versions in backup.versions.items()},
        safety=backup.safety,
    )
    plain: dict[str, Any] = msgspec.to_builtins(body)
    return plain


def failure_body(error: str, host: str, run: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the body of the event that records a failed backup."""
    body = _FailureBody(error=error[:_LONGEST], host=host, run=dict(run) if run is not None else None)
    plain: dict[str, Any] = msgspec.to_builtins(body)
    return plain


def changes_body(name: str, **changes: Any) -> dict[str, Any]:
    """Return the body of the event that changes the record of a backup.

    Args:
        name: The name of the backup.
        changes: Any of `pinned`, `description`, `tags` (a list) and `proven_by`.
    """
    body = msgspec.convert({"id": name, **changes}, _Changes)
    return {key: value for key, value in msgspec.to_builtins(body).items() if value is not None}


def part_record(done: SourceSummary) -> PartRecord:
    """Return the record of a part, from the summary of reading its source."""
    kinds = (
        (done.changed, "file", "files", "changed while being read"),
        (done.unreadable, "file", "files", "could not be read"),
        (done.vanished, "file", "files", "disappeared before being read"),
        (done.skipped, "socket or device", "sockets or devices", "could not be backed up"),
    )
    notes = [
        f"{count_text(len(paths), what, plural)} {happened}: {', '.join(paths[:_SHOWN])}"
        + ", ..." * (len(paths) > _SHOWN)
        for paths, what, plural, happened in kinds
        if paths
    ]
    notes += [note.text for note in done.notes[:_MOST_NOTES]]
    if len(done.notes) > _MOST_NOTES:
        notes.append(f"Omitted: {count_text(len(done.notes) - _MOST_NOTES, 'more note')} like these.")
    return PartRecord(
        name=done.name,
        kind=done.kind,
        size=done.size,
        files=done.files,
        counts=dict(done.counts),
        notes=notes,
        incomplete=bool(done.unreadable) or any(note.left_out for note in done.notes),
    )


def limited_notes(notes: Sequence[str]) -> list[str]:
    """Return notes that somebody else wrote, no more and no longer than those that `part_record` writes."""
    return [note[:_LONGEST] for note in notes[: _MOST_NOTES + _LEAST_ROOM]]


def clocks_behind(events: Iterable[Event], now: datetime) -> dict[int, str]:
    """Return the events of machines whose clock was a day or more behind that of an earlier event, and why.

    Args:
        events: All events of one stream, oldest first.
        now: The current time in nanoseconds since 1970. Events that are a day or more ahead of it are ignored.

    Returns:
        Reasons, by the number of the event.
    """
    found: dict[int, str] = {}
    latest = datetime.min.replace(tzinfo=UTC)
    for event in events:
        time = from_nanoseconds(event.time)
        if latest - time >= _DAY:
            found[event.sequence] = f"its clock was {count_text(round((latest - time) / _DAY), 'day')} behind"
        elif time - now < _DAY:
            latest = max(latest, time)
    return found


# --- names -------------------------------------------------------------------------------------------------------


def backup_name(name: str, created_at: datetime, description: str) -> str:
    """Return the name of a backup: the name of its manager, the time in UTC, and a slug of its description, if any.

    Example:
        >>> backup_name("metis", datetime(2025, 10, 7, 14, 30, 22, tzinfo=UTC), "Before CF validation Phase 4")
        'metis_20251007_143022_before_cf_validation_phase_4'
    """
    return "_".join(filter(None, [name, f"{created_at.astimezone(UTC):%Y%m%d_%H%M%S}", slug(description)]))


def slug(description: str) -> str:
    """Return a description in the form that is used in names.

    Lower case. Latin letters lose their accents; the letters of all other scripts stay as they are. Everything but
    letters, their marks and digits becomes `_`, with none at the ends. At most 60 characters.

    Example:
        >>> slug("Before CF validation, Phase 4 - clean baseline!")
        'before_cf_validation_phase_4_clean_baseline'
        >>> slug("Größe: naïve Übersicht"), slug("../../etc/passwd"), slug(" \\n")
        ('grosse_naive_ubersicht', 'etc_passwd', '')
        >>> slug("バックアップ"), slug("Чистый файл"), slug("हिन्दी")
        ('バックアップ', 'чистый_файл', 'हिन्दी')
    """
    bare: list[str] = []
    base = ""
    for char in unicodedata.normalize("NFKD", description.casefold()):
        if _is_mark(char):
            # An accent of Latin is decoration; the marks of other scripts are vowels, voicing, or other letters.
            bare += [char] if base and not unicodedata.name(base, "").startswith("LATIN") else []
        else:
            base = char if char.isalnum() else ""
            bare.append(base or "_")
    words = re.sub("_+", "_", unicodedata.normalize("NFC", "".join(bare))).strip("_")
    end = SLUG_LIMIT
    while _is_mark(words[end : end + 1]):  # no letter without its marks: it would be another one
        end -= 1
    return words[:end].rstrip("_")


def _is_mark(char: str) -> bool:
    return bool(char) and unicodedata.category(char).startswith("M")
