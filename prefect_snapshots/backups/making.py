"""Make a backup: read all sources, store their data, and commit it as one version."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from ..errors import InvalidArgument, SourceUnusable
from ..messages import logger
from ..repository.catalog import token_from
from ..repository.commits import Draft
from ..repository.contents import StagedPart, Stored, Writer
from ..repository.metadata import clean_metadata
from ..repository.names import check_name
from ..repository.origin import Git, git_state, host
from ..repository.staged_parts import Parts, commit_parts, with_written
from ..trees.scanning import Directory
from ..trees.workspaces import recover
from . import archive
from .claims import Source
from .directories import DirectoryReader, SourceSummary
from .history import BackupHistory
from .interruption import terminable
from .journal import RestoreRecord
from .manifest import BackupPart
from .records import Backup, PartRecord, backup_name, body_of, part_record, read_record
from .staging import PlacedPart, encode_staged, join, prefix_of
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
        parts: Parts that other processes have staged, with the places that they come from. Or a function that has them
            staged.
        safety: Whether a restore makes it, of what it is about to change.
        name: The name that it has in another program, if it is imported from there. "": one of time and description.
        created_at: When another program made it, if it is imported from there. None: now.
        git: The state of the code that the other program recorded.
    """

    sources: Sequence[Source]
    description: str = ""
    pinned: bool = False
    tags: Sequence[str] = ()
    run: Mapping[str, Any] | None = None
    token: str | None = None
    parts: Parts[PlacedPart] = ()
    safety: bool = False
    name: str = ""
    created_at: datetime | None = None
    git: Git | None = None


@dataclass(frozen=True, slots=True)
class _Started:
    """A backup whose sources were checked, and not read yet.

    Attributes:
        made: Its record, without parts.
        notes: Notes about its parts, by their names.
    """

    made: Backup
    notes: Mapping[str, str]

    def records(self, summaries: Iterable[SourceSummary]) -> list[PartRecord]:
        """Return the records of parts that were read, and log what was left out of them."""
        records = []
        for summary in summaries:
            for said in summary.notes:
                logger.warning("%s: %s", summary.name, said.text)
            records.append(_with_note(part_record(summary), self.notes.get(summary.name)))
        return records


def make(history: BackupHistory, request: BackupRequest, passed: Callable[[int], None]) -> Backup:
    """Back up all sources. If one of them fails, nothing is committed.

    Args:
        history: The stream to which the backup is committed.
        request: What to back up.
        passed: Called with the number of bytes just read or skipped.

    Raises:
        StagedPartsLost: A prune has freed parts that others have staged, and `parts` is no function.
        BackupFailed: A source cannot be read completely, or could not be restored. The message names it.
        CommitUnknown: The storage did not say whether the backup was committed.
    """
    since = time.monotonic()
    clean_working_folders()  # a killed backup may have left a plain copy of a database
    known = token_from(request.token)
    described = _described(request)
    with terminable():
        started = _started(history, described, request.sources)
        body = body_of(started.made)

        def draft() -> Draft:
            records = history.tracked.state
            made_up = backup_name(history.name, started.made.created_at, request.description)
            body["id"] = records.free_name(request.name or made_up)
            return Draft("backup", body)

        def store(parts: Sequence[PlacedPart], writer: Writer) -> Stored:
            joined = join(history.repository, writer, parts)
            previous = history.previous(source.name for source in request.sources)
            stored, summaries = archive.store(
                writer, request.sources, previous, passed, joined=[(each.body, each.parts) for each in joined]
            )
            records = [*started.records(summaries), *(record for each in joined for record in each.records)]
            body["parts"] = msgspec.to_builtins(records)
            body["versions"] = dict(started.made.versions) | {
                name: list(versions) for each in joined for name, versions in each.versions.items()
            }
            body["duration"] = round(time.monotonic() - since, 3)
            return with_written(stored, [part for _, part in parts])

        event = commit_parts(
            request.parts, lambda parts: history.tracked.store(draft, None, partial(store, parts), token=known)
        )
    assert event is not None
    return read_record(event)


def stage(history: BackupHistory, request: BackupRequest, place: str, passed: Callable[[int], None]) -> StagedPart:
    """Store all sources for a backup that another process commits.

    Args:
        history: The stream of the backup.
        request: What to back up. Only its sources count.
        place: Where they are.
        passed: Called with the number of bytes just read or skipped.

    Returns:
        What the process that commits needs.

    Raises:
        BackupFailed: As for `make`.
    """
    clean_working_folders()
    prefix = prefix_of(place)
    with terminable():
        history.tracked.refresh()
        started = _started(history, _described(request), request.sources, prefix)

        def encode(parts: list[BackupPart], summaries: list[SourceSummary]) -> bytes:
            return encode_staged(parts, started.records(summaries), started.made.versions)

        def store(writer: Writer) -> Stored:
            previous = history.previous(prefix + source.name for source in request.sources)
            return archive.store(writer, request.sources, previous, passed, prefix=prefix, encode=encode)[0]

        return history.repository.stage(store)


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


def check_request(request: BackupRequest) -> None:
    """Check what the request says about the backup, before anything begins: its sources do not count.

    Raises:
        InvalidArgument: Something in it has another type, or cannot be stored.
    """
    _described(request)
    token_from(request.token)
    if not callable(request.parts) and not isinstance(request.parts, Sequence):
        raise InvalidArgument(f"parts must be a list of places and parts, not {type(request.parts).__name__}.")


def _described(request: BackupRequest) -> Backup:
    """Return the parts of the record that the request determines. Errors in the request are found here."""
    return Backup(
        name="",
        description=checked_string(request.description, "description"),
        created_at=request.created_at or datetime.now(UTC),
        git=request.git,
        pinned=bool(request.pinned),
        tags=checked_tags(request.tags),
        host=host(),
        run=None if request.run is None else clean_metadata(request.run),
        safety=request.safety,
    )


def _started(history: BackupHistory, described: Backup, sources: Sequence[Source], prefix: str = "") -> _Started:
    """Check the sources, and prepare them to be read."""
    made = _looked_at(described, sources)
    notes = _interrupted_notes(history.open_restores(), sources)
    for source in sources:
        if isinstance(source, Directory):
            recover(source.path)  # a killed restore may have moved away files that belong into the backup
    versions = {prefix + name: found for name, found in made.versions.items()}
    return _Started(dataclasses.replace(made, versions=versions), {prefix + name: note for name, note in notes.items()})


def _looked_at(described: Backup, sources: Sequence[Source]) -> Backup:
    """Return the record with the result of checking the sources, before their data is read."""
    databases = [source for source in sources if not isinstance(source, Directory)]
    versions = {database.name: database.check() for database in databases}
    for database in databases:
        # Report data that no restore could bring back now, and not on the day when the backup is needed.
        if found := database.check_restorable():
            raise SourceUnusable(
                f"{database.name} was not backed up, because a restore would fail or be incomplete: {' '.join(found)} "
                "Nothing was committed."
            )
    folders = (Path(source.path) for source in sources if isinstance(source, Directory))
    return dataclasses.replace(described, versions=versions, git=described.git or git_state(folders))


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
