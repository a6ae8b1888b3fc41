"""Parts of a backup that other processes have stored, and that one commit joins.

A *staged part* of a backup has the form of a whole backup, which no event names yet. It comes from one *place*, such as
a machine, and the names of its parts begin with that. It is committed as a part of a backup with others: nothing is
copied, and only the manifest is written again.

Whoever staged it may be somebody else than who commits it. So everything in it is checked like the manifest of a
backup: a place can only add parts with its own name, and sizes and counts are taken from what is stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from ..errors import UNDECODABLE, BackupFailed, IntegrityError, InvalidArgument, InvalidName
from ..repository.contents import ContentReader, Kept, StagedPart, Writer
from ..repository.metadata import clean_metadata
from ..repository.names import check_name
from ..repository.repository import Repository
from ..repository.staged_parts import open_parts
from .directories import SourceSummary
from .manifest import FORMAT, BackupPart, decode_manifest
from .records import PartRecord, limited_notes, part_record

SEPARATOR = "::"
"""Between a place and the name of a source, in the name of a part. No URL and no path begins like this."""

PlacedPart: TypeAlias = tuple[str, StagedPart]
"""The place that a part comes from, and the part."""


class _Told(msgspec.Struct, array_like=True):
    """What whoever staged a part says about it."""

    notes: list[str]
    incomplete: bool
    versions: list[str]


class _StagedManifest(msgspec.Struct, array_like=True):
    format: int
    parts: list[BackupPart]
    told: list[_Told]
    """For each part."""


@dataclass(frozen=True, slots=True)
class JoinedPart:
    """A staged part that is about to be committed.

    Attributes:
        body: The bytes of all its files, which are stored.
        parts: The parts of the backup's manifest.
        records: The records of these.
        versions: Versions of programs and servers, by the names of these.
    """

    body: Kept
    parts: Sequence[BackupPart]
    records: Sequence[PartRecord]
    versions: Mapping[str, Sequence[str]]


def prefix_of(place: str) -> str:
    """Return what the names of all parts from a place begin with. Nothing if they are from who commits them.

    Raises:
        InvalidName: The place is not a valid name, or contains a colon.
    """
    if not place:
        return ""
    if ":" in check_name(place, "place"):
        raise InvalidName(f"The name of a place must have no colon: {place!r}.")
    return place + SEPARATOR


def split_name(part: str) -> tuple[str, str]:
    """Return the place that a part comes from, which is empty for the process that committed it, and its source."""
    place, found, source = part.partition(SEPARATOR)
    return (place, source) if found and place and ":" not in place else ("", part)


def encode_staged(
    parts: Sequence[BackupPart], records: Sequence[PartRecord], versions: Mapping[str, Sequence[str]]
) -> bytes:
    """Encode the manifest of a staged part."""
    told = [_Told(list(record.notes), record.incomplete, list(versions.get(record.name, ()))) for record in records]
    return msgspec.msgpack.encode(_StagedManifest(FORMAT, list(parts), told))


def join(repository: Repository, writer: Writer, placed: Sequence[PlacedPart]) -> list[JoinedPart]:
    """Check staged parts, and look for all of their chunks.

    Raises:
        StagedPartsLost: A prune has freed some of them. The error has their numbers.
        BackupFailed: One of them is no part of a backup, or has parts of another place.
        InvalidArgument: One was staged in another repository.
        InvalidName: A place is not a valid name.
    """
    places = [(place, prefix_of(place)) for place, _ in placed]
    parts = [part for _, part in placed]
    opened = open_parts(repository, writer, parts, "stage_backup", lambda number, why: _refused(placed[number][0], why))
    found = []
    for (place, prefix), (content, body) in zip(places, opened, strict=True):
        try:
            found.append(_joined(prefix, content, body))
        except (IntegrityError, InvalidArgument, InvalidName) as error:
            raise _refused(place, str(error)) from error
    return found


def _joined(prefix: str, content: ContentReader, body: Kept) -> JoinedPart:
    parts = decode_manifest(content)
    try:
        told = msgspec.msgpack.decode(content.manifest, type=_StagedManifest).told
    except UNDECODABLE as error:
        raise IntegrityError(f"Its manifest is damaged: {error}.") from None
    if not parts or len(told) != len(parts):
        raise IntegrityError("Its manifest is damaged: it does not describe each of its parts.")
    records = []
    versions = {}
    for part, said in zip(parts, told, strict=True):
        if not part.name.startswith(prefix) or part.name == prefix:
            raise IntegrityError(f"It has a part that is not from there: {part.name!r}.")
        clean_metadata({"name of a source": part.name})  # the event holds it
        summary = SourceSummary(part.name, part.kind, counts=part.counts)
        summary.count(part.entries)
        record = part_record(summary)
        notes = limited_notes(said.notes)
        incomplete = said.incomplete or bool(part.left_out)
        records.append(msgspec.structs.replace(record, notes=notes, incomplete=incomplete))
        if said.versions:
            versions[part.name] = limited_notes(said.versions)
    return JoinedPart(body, parts, records, versions)


def _refused(place: str, why: str) -> BackupFailed:
    return BackupFailed(
        f"A part from {place!r} was refused, because what was handed over is no part of a backup: {why} Nothing was "
        "committed. Check who can write to the repository."
    )
