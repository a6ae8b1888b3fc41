"""What a backup says about itself: its parts, and the entries of each.

The *body* of a backup is the bytes of all its files, end to end; its *manifest* lists the *parts* it came from, one for
each directory or database, and their *entries* (files, directories, links) in the order of their paths, which is the
order of the body. The holes of a sparse file and all names of a file but the first have no bytes in the body.

Paths are data: a manifest that names anything outside of its own tree is refused before anything is done with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ..errors import IntegrityError, UnsupportedFormat
from ..repository.contents import ContentReader
from ..trees.entries import Entry, check_entries, check_entry
from ..trees.scanning import Selection

FORMAT = 1

DIRECTORY = "directory"
"""The kind of a part that is a directory; every other kind is a database."""


class Part(msgspec.Struct, array_like=True):
    """What came from one source."""

    name: str
    kind: str
    entries: list[Entry]
    counts: dict[str, int] = {}
    """Rows or documents per table or collection, of a database."""
    root: Entry | None = None
    """Mode, times and owner of a directory itself."""
    looked: int = 0
    """When the scan began, in nanoseconds: files that changed within 2 s of it are read again next time."""
    selection: Selection = Selection()
    """What of a directory belongs to the backup."""
    left_out: list[bytes] = []
    """Paths in a directory of what belongs to the backup, but could not be read or stored."""
    sketches: bytes = b""
    """Of a database: what each chunk of the dump is made of, in the order of the body, for the next backup of it."""


class _Manifest(msgspec.Struct, array_like=True):
    format: int
    parts: list[Part]


def encode_manifest(parts: Sequence[Part]) -> bytes:
    """The manifest of a backup."""
    return msgspec.msgpack.encode(_Manifest(FORMAT, list(parts)))


def decode_manifest(content: ContentReader) -> list[Part]:
    """The parts of a backup, checked: nothing of them leads anywhere else.

    Raises:
        IntegrityError: the manifest is damaged, or the dump of a database holds something that is no file.
        UnsupportedFormat: a newer version wrote it.
        InvalidName: an entry leads out of its part.
    """
    try:
        manifest = msgspec.msgpack.decode(content.manifest, type=_Manifest)
    except msgspec.MsgspecError as error:
        raise IntegrityError(f"the manifest of this backup is damaged: {error}") from None
    if manifest.format > FORMAT:
        raise UnsupportedFormat(
            f"this backup has format {manifest.format}, and this prefect-snapshots reads up to {FORMAT}: upgrade it"
        )
    for part in manifest.parts:
        check_entries(part.entries)
        if part.kind != DIRECTORY and not all(entry.is_file or entry.is_directory for entry in part.entries):
            # The tools of a database would follow a link in a dump.
            raise IntegrityError("the dump of a database in this backup holds something that is no file")
        if part.root is not None:
            check_entry(part.root)
    if sum(entry.stored for part in manifest.parts for entry in part.entries) != content.body_size:
        raise IntegrityError("the files of this backup do not add up to its size")
    return manifest.parts
