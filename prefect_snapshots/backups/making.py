"""Make a backup: read all sources, store their data, and commit it as one version."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from ..errors import BackupFailed, InvalidArgument
from ..messages import logger
from ..repository.catalog import token_from
from ..repository.commits import Draft
from ..repository.contents import Stored, Writer
from ..repository.metadata import clean_metadata
from ..repository.names import check_name
from ..trees.scanning import Directory
from ..trees.workspaces import recover
from . import archive
from .claims import Source
from .directories import DirectoryReader
from .history import BackupHistory
from .interruption import terminable
from .journal import RestoreRecord
from .origin import git_state, host
from .records import Backup, PartRecord, backup_name, body_of, part_record, read_record
from .working import clean_working_folders


@dataclass(frozen=True, kw_only=True)
class BackupRequest:
    """What to back up, and how to describe the backup.

    Attributes:
        sources: Databases and directories. No file belongs to two of them.
        description: Why the backup is made. It becomes part of the name.
        pinned: Whether the backup is exempt from retention.
        tags: Labels, which `keep_tags` of a retention policy can select.
        run: Facts about the run that makes it, as plain values.
        token: The token of an earlier backup that raised `CommitUnknown`.
    """

    sources: Sequence[Source]
    description: str = ""
    pinned: bool = False
    tags: Sequence[str] = ()
    run: Mapping[str, Any] | None = None
    token: str | None = None


def make(history: BackupHistory, request: BackupRequest, passed: Callable[[int], None]) -> Backup:
    """Back up all sources. If one of them fails, nothing is committed.

    Args:
        history: The stream to which the backup is committed.
        request: What to back up.
        passed: Called with the number of bytes just read or skipped.

    Raises:
        BackupFailed: A source cannot be read completely, or could not be restored. The message names it.
        CommitUnknown: The storage did not say whether the backup was committed.
    """
    started = time.monotonic()
    clean_working_folders()  # a killed backup may have left a plain copy of a database
    known = token_from(request.token)
    described = _described(request)
    with terminable():
        made = _looked_at(described, request.sources)
        notes = _interrupted_notes(history.open_restores(), request.sources)
        for source in request.sources:
            if isinstance(source, Directory):
                recover(source.path)  # a killed restore may have moved away files that belong into the backup
        body = body_of(made)

        def draft() -> Draft:
            records = history.tracked.state
            body["id"] = records.free_name(backup_name(history.name, made.created_at, request.description))
            return Draft("backup", body)

        def store(writer: Writer) -> Stored:
            previous = history.previous(source.name for source in request.sources)
            stored, summaries = archive.store(writer, request.sources, previous, passed)
            for summary in summaries:
                for said in summary.notes:
                    logger.warning("%s: %s", summary.name, said.text)
            parts = [_with_note(part_record(summary), notes.get(summary.name)) for summary in summaries]
            body["parts"] = msgspec.to_builtins(parts)
            body["duration"] = round(time.monotonic() - started, 3)
            return stored

        event = history.tracked.store(draft, None, store, token=known)
    assert event is not None
    return read_record(event)


def preview(history: BackupHistory, request: BackupRequest) -> Backup:
    """Return the backup that `make` would make, and store nothing. Directories are scanned, databases only checked.

    Returns:
        The backup, with the name that it would get now. The parts of databases have no sizes and no counts.
    """
    made = _looked_at(_described(request), request.sources)
    parts = [
        part_record(DirectoryReader(source).finish()[1])
        if isinstance(source, Directory)
        else PartRecord(name=source.name, kind=source.kind, size=0, files=0)
        for source in request.sources
    ]
    return dataclasses.replace(
        made, name=backup_name(history.name, made.created_at, request.description), parts=tuple(parts)
    )


def checked_string(value: str, what: str) -> str:
    """Return a string that can be stored.

    Raises:
        InvalidArgument: It is not a string, or cannot be stored.
    """
    if not isinstance(value, str):
        raise InvalidArgument(f"The {what} must be a string, not {type(value).__name__}.")
    clean_metadata({what: value})
    return value


def checked_tags(tags: Sequence[str]) -> tuple[str, ...]:
    """Return tags without duplicates.

    Raises:
        InvalidName: A tag is not a valid name.
    """
    if isinstance(tags, str):
        raise InvalidArgument(f"The tags must be a sequence of strings, not one string. Write [{tags!r}].")
    return tuple(check_name(tag, "tag") for tag in dict.fromkeys(tags))


def _described(request: BackupRequest) -> Backup:
    """Return the parts of the record that the request determines. Errors in the request are found here."""
    return Backup(
        name="",
        description=checked_string(request.description, "description"),
        created_at=datetime.now(UTC),
        pinned=bool(request.pinned),
        tags=checked_tags(request.tags),
        host=host(),
        run=None if request.run is None else clean_metadata(request.run),
    )


def _looked_at(described: Backup, sources: Sequence[Source]) -> Backup:
    """Return the record with the result of checking the sources, before their data is read."""
    databases = [source for source in sources if not isinstance(source, Directory)]
    versions = {database.name: database.check() for database in databases}
    for database in databases:
        # Report data that no restore could bring back now, and not on the day when the backup is needed.
        if found := database.check_restorable():
            raise BackupFailed(
                f"{database.name} was not backed up, because a restore would fail or be incomplete: {' '.join(found)} "
                "Nothing was committed."
            )
    folders = (Path(source.path) for source in sources if isinstance(source, Directory))
    return dataclasses.replace(described, versions=versions, git=git_state(folders))


def _interrupted_notes(restores: Sequence[RestoreRecord], sources: Sequence[Source]) -> dict[str, str]:
    """Return notes about a part whose source is in an interrupted restore. It is backed up in its current state."""
    notes = {}
    for source in sources:
        target = str(source.path) if isinstance(source, Directory) else source.name
        for record in restores:
            if record.changed and any(part.target == target for part in record.parts):
                notes[source.name] = (
                    f"This part was backed up while a restore of {record.backup} had not ended: {record.described()}"
                )
    return notes


def _with_note(part: PartRecord, note: str | None) -> PartRecord:
    if note is None:
        return part
    logger.warning("%s: %s", part.name, note)
    return msgspec.structs.replace(part, notes=[*part.notes, note])
