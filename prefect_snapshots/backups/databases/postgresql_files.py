"""The files of a PostgreSQL server as `pg_basebackup` sends them: tar streams, the manifest, and what has changed.

An incremental base backup has a file `INCREMENTAL.<name>` in place of a relation of which an earlier base backup has a
part. It begins with a header of numbers of 32 bits: a magic number, how many blocks follow, up to which block the rest
is unchanged, and the number of each block. If there are blocks, the header is filled up to a whole block, and the
blocks follow (src/backend/backup/basebackup_incremental.c; `pg_combinebackup` reads them).
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import tarfile
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import pairwise
from typing import IO, Any

import msgspec

from ...errors import BackupFailed
from ...wal.names_and_headers import lsn_text, parse_lsn
from ..sources import ChangedFile, DumpFile, DumpNote
from .base import PIECE

MANIFEST = "backup_manifest"
LABEL = "backup_label"
ALGORITHM = "SHA256"
"""Of the checksums in the manifest. That of the server's choice is quicker, and not in Python."""

_WAL = "pg_wal/"
_PREFIX = "INCREMENTAL."
_RELATIONS = ("base/", "global/", "pg_tblspc/")
"""Folders with relations."""
_MAGIC = 0xD3AE1F0D
"""What the server begins such a file with."""
_MAP = re.compile(r"[0-9]_vm(?:\.[0-9]+)?\Z")
"""The end of the path of a visibility map."""
_HEADER = struct.Struct("=III")
_SEGMENT = 1 << 30
"""The most bytes of a file of a relation."""
_INCREMENTAL = b"INCREMENTAL FROM "
"""What lines in the label of an incremental base backup begin with."""


class ManifestFile(msgspec.Struct, frozen=True):
    """A file in a manifest."""

    size: int = msgspec.field(name="Size")
    path: str = msgspec.field(name="Path", default="")
    encoded: str = msgspec.field(name="Encoded-Path", default="")
    """The path in hexadecimal, if it is not UTF-8."""
    checksum: str = msgspec.field(name="Checksum", default="")


class WalRange(msgspec.Struct, frozen=True):
    """WAL that a base backup needs."""

    timeline: int = msgspec.field(name="Timeline")
    start: str = msgspec.field(name="Start-LSN")


class ServerManifest(msgspec.Struct, frozen=True):
    """What `backup_manifest` says: every file but those of the WAL."""

    files: list[ManifestFile] = msgspec.field(name="Files")
    ranges: list[WalRange] = msgspec.field(name="WAL-Ranges")


def read_manifest(data: bytes) -> ServerManifest:
    """Return what a manifest says.

    Raises:
        ValueError: It is not a manifest, or is damaged.
    """
    said, _, checksum = data.rpartition(b'"Manifest-Checksum"')
    if hashlib.sha256(said).hexdigest().encode() not in checksum:
        raise ValueError("its checksum does not match")
    return msgspec.json.decode(data, type=ServerManifest)


def manifest_to_upload(data: bytes) -> bytes:
    """Return a manifest without visibility maps, so that the server sends them whole.

    WAL that clears a bit of such a map does not name its block. So the server does not know that the block has changed,
    and a recovered server would take dead rows for visible ones.
    """
    manifest = json.loads(data)
    del manifest["Manifest-Checksum"]
    manifest["Files"] = [file for file in manifest["Files"] if not _MAP.search(file.get("Path", ""))]
    said = json.dumps(manifest)[:-1] + ",\n"
    return f'{said}"Manifest-Checksum": "{hashlib.sha256(said.encode()).hexdigest()}"}}\n'.encode()


class ClusterFiles:
    """Reads the tar streams of a server, and checks them against its manifest.

    Args:
        notes: A list that gets what is left out.
        block: Bytes in a block of the server.
    """

    def __init__(self, notes: list[DumpNote], block: int) -> None:
        self._notes = notes
        self._block = block
        self._label = b""
        self._manifest: bytes | None = None
        self._folders: set[str] = set()
        self._filled: set[str] = set()
        self._received: dict[str, _Checked] = {}

    def read(self, folder: str, stream: IO[bytes]) -> Iterator[DumpFile | ChangedFile]:
        """Yield the files of a stream that belong into a folder.

        Args:
            folder: The folder, with a slash at its end. If this is the name of the manifest, the stream is its content.
            stream: The stream.
        """
        if folder == MANIFEST:
            yield self._file(MANIFEST, stream, 0)
            return
        try:
            with tarfile.open(fileobj=stream, mode="r|", bufsize=PIECE) as archive:
                for member in archive:
                    path = folder + member.name.removeprefix("./").rstrip("/")
                    if member.isdir():
                        self._folders.add(path)
                    elif member.isreg():
                        content = archive.extractfile(member)
                        assert content is not None
                        self._filled.update(_parents(path))
                        yield self._file(path, content, member.size)
                    elif not path.startswith("pg_tblspc/"):
                        self._notes.append(DumpNote(f"File {path!r} is left out, because it is a link.", left_out=True))
        except tarfile.TarError as error:
            raise BackupFailed(f"The files of the server could not be read: {error}. Nothing was saved.") from None
        while stream.read(PIECE):
            pass  # what follows the end of an archive: the program would fail if nobody read it

    def _file(self, path: str, content: IO[bytes], size: int) -> DumpFile | ChangedFile:
        if path == MANIFEST:
            self._manifest = content.read()
            return DumpFile(path, iter([self._manifest]))
        checked = self._received[path] = _Checked(content)
        if path == LABEL:
            # With these lines, no server starts: most files of an incremental base backup are not whole.
            lines = checked.read(size).splitlines(keepends=True)
            self._label = b"".join(line for line in lines if not line.startswith(_INCREMENTAL))
            return DumpFile(path, iter([self._label]))
        parent, _, name = path.rpartition("/")
        if name.startswith(_PREFIX) and path.startswith(_RELATIONS):
            return _changed_file(f"{parent}/{name.removeprefix(_PREFIX)}", checked, size, self._block)
        return DumpFile(path, iter(partial(checked.read, PIECE), b""))

    def check(self) -> None:
        """Compare everything that was read with the manifest.

        Raises:
            BackupFailed: A file is missing, or has other bytes.
        """
        try:
            listed = read_manifest(self._manifest or b"").files
        except ValueError as error:
            raise BackupFailed(f"The manifest of the server could not be read: {error}. Nothing was saved.") from None
        for file in listed:
            path = file.path or bytes.fromhex(file.encoded).decode("utf-8", "surrogateescape")
            received = self._received.pop(path, None)
            if received is None or not received.matches(file):
                raise BackupFailed(
                    f"{path!r} is not what the manifest of the server says. Nothing was saved. Make the base backup "
                    "again, and check the network and the memory of both machines if it fails again."
                )
        if more := [path for path in self._received if not path.startswith(_WAL)]:
            raise BackupFailed(f"{more[0]!r} is not in the manifest of the server. Nothing was saved.")

    def started(self) -> dict[str, Any]:
        """Return what `backup_label` says: where the WAL begins, and on which timeline."""
        lines = self._label.decode("utf-8", "replace").splitlines()
        said = dict(line.split(": ", 1) for line in lines if ": " in line)
        try:
            start = said["START WAL LOCATION"].split()[0]
            return {"start": lsn_text(parse_lsn(start)), "timeline": int(said["START TIMELINE"])}
        except (LookupError, ValueError):
            raise BackupFailed("The backup_label of the server is not understood. Nothing was saved.") from None

    def empty(self) -> list[str]:
        """Return the empty folders."""
        return sorted(self._folders - self._filled - {"", "."})


class _Checked:
    """A file that computes its checksum while it is read."""

    def __init__(self, content: IO[bytes]) -> None:
        self._content = content
        self._hash = hashlib.sha256()
        self._size = 0

    def read(self, size: int) -> bytes:
        piece = self._content.read(size)
        self._hash.update(piece)
        self._size += len(piece)
        return piece

    def matches(self, file: ManifestFile) -> bool:
        """Return whether a manifest says the same of what was read."""
        return (self._size, self._hash.hexdigest()) == (file.size, file.checksum)


def _changed_file(path: str, content: _Checked, size: int, block: int) -> ChangedFile:
    """Return a relation of which some blocks are there."""
    magic, count, kept = _HEADER.unpack(content.read(_HEADER.size).ljust(_HEADER.size, b"\0"))
    most = _SEGMENT // block
    length = _HEADER.size + 4 * count
    if count:
        length += -length % block
    if magic != _MAGIC or max(count, kept) > most or size != length + count * block:
        raise BackupFailed(f"What has changed in {path!r} is not understood. Nothing was saved.")
    numbers = struct.unpack(f"={count}I", content.read(length - _HEADER.size)[: 4 * count])
    if any(second <= first for first, second in pairwise(numbers)) or (count and numbers[-1] >= most):
        raise BackupFailed(f"What has changed in {path!r} is not understood. Nothing was saved.")
    changes = ((number * block, content.read(block)) for number in numbers)
    return ChangedFile(path, max(kept, *(number + 1 for number in numbers[-1:]), 0) * block, kept * block, changes)


def _parents(path: str) -> Iterable[str]:
    steps = path.split("/")
    return ("/".join(steps[:depth]) for depth in range(1, len(steps)))
