"""Store what has changed in a dump, and name the rest by the chunks of an earlier backup.

The result is the same as if everything had been read again: whole files in their own chunks. A chunk in which something
has changed is read from the repository, changed, and stored again, as a delta if that is small. All others are used
again without reading them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np

from ..errors import BackupFailed, IntegrityError
from ..repository import deltas
from ..repository.contents import Batch, ContentReader, Kept, Similar, Writer
from ..trees.stored import StoredTree
from .sources import ChangedFile

_PIECE = 1024 * 1024
"""Bytes of unchanged data to read at once, where chunks are cut again."""


class EarlierDamaged(Exception):
    """A chunk of an earlier backup, in which something has changed, cannot be read."""


class EarlierChunks:
    """The chunks of a dump in an earlier backup.

    Args:
        dump: The dump.
        sketches: The sketch of each of its chunks, in their order.
        content: The content of the backup. It is stored in chunks.
        writer: The writer, which knows which chunks can be used again.
    """

    def __init__(self, dump: StoredTree, sketches: bytes, content: ContentReader, writer: Writer) -> None:
        self._dump = dump
        self._content = content
        self._edges = np.concatenate([[0], np.cumsum(content.table["size"], dtype=np.int64)])
        self._first = int(self._edges.searchsorted(dump.offset))
        self._usable = writer.has(content.table)
        self._sketches = np.frombuffer(sketches, "<u8").reshape(-1, deltas.FEATURES)

    def chunks(
        self, file: ChangedFile, previous: deltas.PreviousChunks, sketches: list[deltas.Sketch]
    ) -> Iterator[tuple[int, Kept | Batch]]:
        """Yield the chunks of a file, each with its size in bytes.

        Args:
            file: What has changed in it.
            previous: The same chunks, to search them by their sketches.
            sketches: A list that gets the sketches of the chunks, as by `deltas.similar_stream`.

        Raises:
            BackupFailed: The earlier backup does not have the file.
            EarlierDamaged: A chunk of it cannot be read.
        """
        entry, start = self._dump.by_path.get(file.path, (None, 0))
        if entry is None or not entry.is_file:
            raise BackupFailed(f"There are changes of {file.path!r}, which the last backup does not have.")
        whole = min(file.kept, file.size, entry.size)
        first, last = (int(at) - 1 for at in self._edges.searchsorted([start, start + whole], "right"))
        if self._edges[first] != start:  # its first chunk has bytes of another file, too: all of them are cut again
            first = last = 0
        elif last > first and entry.size == whole < file.size:
            last -= 1  # it ends where the file ended. What follows now decides where its last chunk ends.
        done = int(self._edges[last]) - start if last else 0
        changes = _ChangesInOrder(file.changes)
        kept = first
        for row in range(first, last):
            mine = changes.before(int(self._edges[row + 1]) - start)
            if not mine and self._usable[row]:
                continue
            yield from self._kept(kept, row, sketches)
            kept = row + 1
            sketches.append(deltas.UNKNOWN)
            yield (
                int(self._content.table["size"][row]),
                partial(self._changed, row, start, mine, sketches, len(sketches) - 1),
            )
        yield from self._kept(kept, last, sketches)
        yield from deltas.similar_stream(self._rest(done, start, whole, changes.up_to(file.size)), previous, sketches)

    def _kept(self, first: int, last: int, sketches: list[deltas.Sketch]) -> Iterator[tuple[int, Kept]]:
        if last > first:
            sketches.append(self._sketches[first - self._first : last - self._first])
            yield int(self._edges[last] - self._edges[first]), Kept(self._content.table[first:last])

    def _changed(
        self, row: int, start: int, changes: list[tuple[int, bytes]], sketches: list[deltas.Sketch], at: int
    ) -> list[Similar]:
        """Return a chunk in which something has changed. Runs in any thread."""
        begin = int(self._edges[row])
        data = self._read(begin, int(self._content.table["size"][row]))
        for position, new in changes:
            offset = position + start - begin
            data[offset : offset + len(new)] = new
        sketches[at] = deltas.sketch(data)
        return [Similar(data, (self._content.table["chunk"][row].tobytes(),))]

    def _rest(
        self, at: int, start: int, whole: int, changes: Iterable[tuple[int, bytes]]
    ) -> Iterator[bytes | bytearray]:
        """Yield the bytes of a file from a position to that of the last change."""
        for position, new in changes:
            while at < position:
                end = min(position, at + _PIECE, whole if at < whole else position)
                yield self._read(start + at, end - at) if at < whole else bytes(end - at)
                at = end
            yield new
            at += len(new)

    def _read(self, offset: int, length: int) -> bytearray:
        target = bytearray(length)
        try:
            self._content.read_into([(offset, memoryview(target))])
        except IntegrityError as error:
            raise EarlierDamaged(str(error)) from error
        return target


class _ChangesInOrder:
    """The changes of a file, taken from its beginning."""

    def __init__(self, changes: Iterator[tuple[int, bytes]]) -> None:
        self._changes = changes
        self._next = next(changes, None)

    def before(self, end: int) -> list[tuple[int, bytes]]:
        """Take what is before a position. A change across it is cut."""
        found = []
        while self._next is not None and self._next[0] < end:
            position, new = self._next
            fits = end - position
            found.append((position, new[:fits]))
            self._next = (end, new[fits:]) if len(new) > fits else next(self._changes, None)
        return found

    def up_to(self, size: int) -> Iterator[tuple[int, bytes]]:
        """Take the rest. Another change, which is empty, ends it."""
        while self._next is not None:
            yield self._next
            self._next = next(self._changes, None)
        yield size, b""
