"""Packs, which store many chunks in one object.

A pack is immutable: a header with its random id, sealed chunks one after another, and a table of them from which a lost
index can be rebuilt. A pack is written once, by one writer, and becomes visible only when it is complete and durable.
Ids are random and never reused, so that a delayed delete request cannot hit another pack.
"""

from __future__ import annotations

import os
import struct

from ..errors import DamagedObject, ObjectMissing
from .index import ChunkCopy, entries_from, records_of
from .location import Buffer, Location
from .sealing import RAW, SALT_SIZE, Sealer

PREFIX = "packs"

_HEAD = struct.Struct("<4sBB2x16s")  # magic, format, flags, pack id
_TAIL = struct.Struct("<I4s")  # bytes in the sealed table, magic
_MAGIC = b"PSPK"

LARGEST = 1024**3
"""The most bytes in a pack that is read whole. Written packs have up to 128 MB, plus the last chunk and the table."""

LOCAL_LIMIT = 128 * 1024 * 1024
"""Bytes after which a pack on a local disk is closed; its fsync then overlaps with writing the next."""

REMOTE_LIMIT = 32 * 1024 * 1024
"""The same on an object store, where a pack is held in memory and sent in one request."""


_PER_FOLDER = 256
"""Packs that one writer puts into a folder before it chooses another. A new folder costs two more calls of the disk,
and a folder with far more files would be slow on some file systems."""


class PackIds:
    """Chooses the ids of new packs, and with their first byte the folders."""

    def __init__(self) -> None:
        self._folder = b""
        self._left = 0

    def new(self) -> bytes:
        """Return the id of a new pack: random, except that consecutive ones have the same first byte."""
        if self._left <= 0:
            self._folder, self._left = os.urandom(1), _PER_FOLDER
        self._left -= 1
        return self._folder + os.urandom(SALT_SIZE - 1)


def pack_path(pack: bytes) -> str:
    """Return the path of a pack."""
    name = pack.hex()
    return f"{PREFIX}/{name[:2]}/{name}"


def pack_of(path: str) -> bytes | None:
    """Return the id of the pack at `path`, or None if it is not the path of a pack."""
    name = path.rpartition("/")[2]
    try:
        pack = bytes.fromhex(name)
    except ValueError:
        return None
    return pack if len(pack) == SALT_SIZE and pack_path(pack) == path else None


class PackWriter:
    """One pack being written. Not thread-safe, except that `close` may run in another thread than `add`.

    Args:
        location: The location to write to.
        sealer: The sealer of the repository.
        pack: The id of the pack.
        read_soon: Whether its chunks will probably be read soon.
    """

    def __init__(self, location: Location, sealer: Sealer, pack: bytes, *, read_soon: bool = True) -> None:
        self.pack = pack
        self.path = pack_path(self.pack)
        self.entries: list[ChunkCopy] = []
        self._sealer = sealer
        self._cipher = sealer.cipher(self.pack)
        self._object = location.writer(self.path, read_soon=read_soon)
        self._waiting: list[Buffer] = [_HEAD.pack(_MAGIC, 1, int(sealer.encrypted), self.pack)]
        self.size = _HEAD.size

    def add(self, chunk: bytes, size: int, codec: int, data: Buffer, bases: tuple[bytes, ...] = ()) -> None:
        """Append one chunk that is already compressed if useful, or a delta with its bases.

        The data must not change before `write_out`.
        """
        if self._cipher is not None:
            data = self._sealer.lock_chunk(self._cipher, self.size, chunk, data)
        self._waiting.append(data)
        self.entries.append(ChunkCopy(chunk, self.pack, self.size, len(data), size, codec, bases))
        self.size += len(data)

    def write_out(self) -> None:
        """Write the added chunks to the location, many together, because a call takes as long as a small chunk."""
        self._object.write(self._waiting)
        self._waiting = []

    def close(self) -> list[ChunkCopy]:
        """Write the table, make the pack durable and visible, and return its entries."""
        table = self._sealer.seal(f"{self.path}#table", records_of(self.entries, {self.pack: 0}))
        self._object.write([*self._waiting, table, _TAIL.pack(len(table), _MAGIC)])
        self._object.close()
        return self.entries

    def abort(self) -> None:
        """Discard the pack. Nothing becomes visible."""
        self._object.abort()


def open_chunk(sealer: Sealer, entry: ChunkCopy, data: Buffer, prefix: bytes = b"") -> Buffer:
    """Return the verified plaintext of a chunk from its stored bytes and, for a delta, its joined bases."""
    path = pack_path(entry.pack)
    if len(data) != entry.stored:
        raise DamagedObject(path, f"it ends within chunk {entry.chunk.hex()[:16]}")
    cipher = sealer.cipher(entry.pack)
    if cipher is not None:
        data = sealer.unlock_chunk(cipher, entry.offset, entry.chunk, data, path)
    return sealer.open_chunk(entry.chunk, entry.codec, entry.size, data, path, prefix)


def is_plain(sealer: Sealer, entry: ChunkCopy) -> bool:
    """Return whether the stored bytes of a chunk are its plaintext, so that it can be read directly into a buffer."""
    return entry.codec == RAW and not sealer.encrypted


def read_table(location: Location, sealer: Sealer, pack: bytes) -> list[ChunkCopy]:
    """Return the table at the end of a pack.

    Raises:
        DamagedObject: It is damaged.
        ObjectMissing: There is no such pack.
    """
    path = pack_path(pack)
    size = location.size(path)
    if size is None:
        raise ObjectMissing(f"{path} is missing.")
    start, length = _table_range(path, location.read_range(path, max(size - _TAIL.size, 0), _TAIL.size), size)
    return _entries(sealer, pack, location.read_range(path, start, length), start)


def open_pack(sealer: Sealer, pack: bytes, data: memoryview) -> list[ChunkCopy]:
    """Return the table of a pack that was read whole. Its first and last bytes are verified, too, but not the chunks.

    Raises:
        DamagedObject: The first or last bytes or the table are damaged.
    """
    path = pack_path(pack)
    if data[: _HEAD.size] != _HEAD.pack(_MAGIC, 1, int(sealer.encrypted), pack):
        raise DamagedObject(path, "it does not begin like a pack")
    start, length = _table_range(path, data[-_TAIL.size :], len(data))
    return _entries(sealer, pack, data[start : start + length], start)


def _table_range(path: str, tail: Buffer, size: int) -> tuple[int, int]:
    """Return where the table of a pack starts, and its length."""
    if len(tail) < _TAIL.size:
        raise DamagedObject(path, "it is shorter than a pack's last bytes")
    length, magic = _TAIL.unpack(tail)
    if magic != _MAGIC or length + _TAIL.size + _HEAD.size > size:
        raise DamagedObject(path, "it does not end like a pack")
    return size - _TAIL.size - length, length


def _entries(sealer: Sealer, pack: bytes, table: Buffer, end: int) -> list[ChunkCopy]:
    path = pack_path(pack)
    try:
        entries = entries_from(sealer.open(f"{path}#table", table), [pack])
    except (ValueError, IndexError) as error:
        raise DamagedObject(path, f"its table cannot be read ({error})") from None
    if any(entry.offset + entry.stored > end for entry in entries):
        raise DamagedObject(path, "its table points outside of it")
    return entries
