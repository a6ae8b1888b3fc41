"""The manifest of a backup: its parts, and the entries of each.

The *body* of a backup is the concatenated bytes of all its files. Its *manifest* lists the *parts*, one for each
directory or database, and their *entries* (files, directories, links) sorted by path, which is also the order of the
body. Holes of sparse files, and all hard links to a file but the first, have no bytes in the body.

Paths are untrusted: a manifest with a path that leads out of its tree is refused before anything else happens.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ..errors import UNDECODABLE, IntegrityError, UnsupportedFormat
from ..repository.contents import ContentReader
from ..trees.entries import Entry, check_entries, check_entry
from ..trees.scanning import FileSelection

FORMAT = 1
"""The version of a backup's manifest. A reader refuses a higher one."""

DIRECTORY = "directory"
"""The kind of a part that is a directory; every other kind is a database."""


class BackupPart(msgspec.Struct, array_like=True):
    """The part of a backup that came from one source."""

    name: str
    kind: str
    entries: list[Entry]
    counts: dict[str, int] = {}
    """For a database: the number of rows or documents of each table or collection."""
    root: Entry | None = None
    """Mode, times and owner of the directory itself."""
    looked: int = 0
    """When the scan started, in nanoseconds. Files that changed within 2 s of it are read again by the next backup."""
    selection: FileSelection = FileSelection()
    """Which entries of a directory belong to the backup."""
    left_out: list[bytes] = []
    """Paths that belong to the backup of a directory, but could not be read or stored."""
    sketches: bytes = b""
    """For a database: a sketch of each chunk of the dump, in the order of the body, for deltas of the next backup."""


class _BackupManifest(msgspec.Struct, array_like=True):
    format: int
    parts: list[BackupPart]


def encode_manifest(parts: Sequence[BackupPart]) -> bytes:
    """Encode the manifest of a backup."""
    return msgspec.msgpack.encode(_BackupManifest(FORMAT, list(parts)))


def decode_manifest(content: ContentReader) -> list[BackupPart]:
    """Decode the parts of a backup, after checking that no entry leads out of its part.

    Raises:
        IntegrityError: The manifest is damaged, or the dump of a database has an entry that is not a file.
        UnsupportedFormat: A newer version wrote it.
        InvalidName: An entry leads out of its part.
    """
    try:
        manifest = msgspec.msgpack.decode(content.manifest, type=_BackupManifest)
    except UNDECODABLE as error:
        raise IntegrityError(
            f"The manifest of this backup is damaged: {error}. Nothing was changed. Use another backup."
        ) from None
    if manifest.format > FORMAT:
        raise UnsupportedFormat(
            f"This backup has format {manifest.format}, and this version of prefect-snapshots reads up to {FORMAT}. "
            "Upgrade prefect-snapshots."
        )
    size = 0
    for part in manifest.parts:
        size += check_entries(part.entries)
        if part.kind != DIRECTORY and not all(entry.is_file or entry.is_directory for entry in part.entries):
            # The tools of a database would follow a link in a dump.
            raise IntegrityError(
                "The manifest of this backup is damaged: the dump of a database has an entry that is not a file. "
                "Nothing was changed. Use another backup."
            )
        if part.root is not None:
            check_entry(part.root)
    if size != content.body_size:
        raise IntegrityError(
            "The manifest of this backup is damaged: the sizes of its files do not add up. Nothing was changed. Use "
            "another backup."
        )
    return manifest.parts
