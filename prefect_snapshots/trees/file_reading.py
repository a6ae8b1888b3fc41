"""Read the files of a directory, and cut them into chunks for a writer.

A file is *kept* if an earlier tree has it with the same size, mtime, ctime, inode and device, and was scanned long
enough after its last change: its chunks are used again without reading it. All others are read by several threads,
many small ones at once.
"""

from __future__ import annotations

import errno
import os
import stat
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import groupby, islice
from typing import Any, TypeVar, cast

import msgspec
import numpy as np

from ..errors import InvalidArgument
from ..repository.chunking import AVERAGE_SIZE, content_defined, content_defined_read, content_defined_stream
from ..repository.contents import TABLE, Batch, Kept, Writer
from ..repository.location import Buffer
from .descriptors import FILE, Parents, flags, open_directory
from .entries import Entry
from .scanning import Scan, entry_of, extents_of, mtime_of, state_of, xattrs_of
from .stored import StoredTree

_LARGE = 4 * 1024 * 1024
"""Files of at least this many bytes are read piece by piece. Smaller ones are read together, up to this sum."""
_PIECE = 8 * 1024 * 1024
"""Bytes of a large file to read at once."""
_LARGE_AVERAGE = 1024 * 1024
"""Average size of a chunk of a large file in bytes: larger ones compress better, smaller ones deduplicate better."""
_EACH = 4096
"""Bytes to add for each file when files are read together: opening one takes about as long as reading this much."""
_SETTLED = 2_000_000_000
"""If a file changed less than this many nanoseconds before the scan, a further change might not alter its times."""
_SHARED = AVERAGE_SIZE // 4
"""Files of fewer bytes may share chunks with their neighbours: a separate chunk would cost more than its contents."""

T = TypeVar("T")


class PreviousTree:
    """An earlier tree of a directory: which of its files are still stored, and in which chunks.

    Args:
        tree: The earlier tree.
        table: The chunks of its content.
        looked: When its scan started, in nanoseconds since 1970.
        writer: The writer, which knows which chunks can be used again.
    """

    def __init__(self, tree: StoredTree, table: Any, looked: int, writer: Writer) -> None:
        ends = np.cumsum(table["size"], dtype=np.int64)
        usable = np.concatenate([[0], np.cumsum(writer.has(table))])
        sizes = np.array([entry.stored for entry in tree.entries], np.int64)
        stops = tree.offset + np.cumsum(sizes)
        edges = np.concatenate([[0], ends])
        self.first = edges.searchsorted(stops - sizes)
        self.last = edges.searchsorted(stops)
        whole = (edges[self.first] == stops - sizes) & (edges[self.last] == stops)
        self.stored = whole & (usable[self.last] - usable[self.first] == self.last - self.first)
        self.table = table
        self.entries = tree.entries
        self._numbers = {entry.raw: number for number, entry in enumerate(tree.entries)}
        self._settled = looked - _SETTLED

    def unchanged(self, raw: bytes, found: os.stat_result) -> int:
        """Return the number of the entry of a file that did not change, or -1 if it must be read."""
        number = self._numbers.get(raw, -1)
        if number < 0:
            return -1
        entry = self.entries[number]
        same = (
            entry.mtime == mtime_of(found)
            and entry.state == (found.st_ctime_ns, found.st_ino, found.st_dev)
            and entry.size == found.st_size
            and entry.mode == found.st_mode
            and found.st_ctime_ns < self._settled
            and found.st_mtime_ns < self._settled
            and self.stored[number]
        )
        return number if same else -1


class Tree:
    """Reads a scanned directory into a content: first call `chunks`, and `entries` when those are stored.

    Args:
        root: The directory, without links in its path.
        scan: The scan of it.
        previous: An earlier tree of it, whose chunks are used again.
        exact: True stores attributes and holes. A file that changes while it is read is read again, and then stored in
            any case; one that cannot be read is noted. False stores exactly what the scan found, or fails; consecutive
            small files share chunks.

    Raises:
        OSError: The directory cannot be opened.
    """

    def __init__(self, root: str, scan: Scan, previous: PreviousTree | None = None, *, exact: bool = True) -> None:
        self.scan = scan
        self.kept = 0
        self.unread = 0
        self.changed: list[str] = []
        self._label = root
        self._previous = previous
        self._exact = exact
        self._entries: list[Entry | None] = list(scan.entries)
        self._root = open_directory(root)
        weakref.finalize(self, os.close, self._root)

    @property
    def entries(self) -> list[Entry]:
        """The entries of the files that were read. Unreadable files and their hard links are missing."""
        found: dict[bytes, Entry] = {}
        for scanned, entry in zip(self.scan.entries, self._entries, strict=True):
            if entry is None:
                continue
            if entry.is_file and entry.link and entry.link not in found:
                self.scan.left_out.append(scanned.raw)
                continue
            found[entry.raw] = entry
        return list(found.values())

    def chunks(self, writer: Writer, passed: Callable[[int], None]) -> Iterator[Kept | Batch]:
        """Yield the chunks of the files in order, for a writer.

        Args:
            writer: Stores large files while they are read, before it is known whether they changed meanwhile.
            passed: Called with the number of bytes just read or skipped, or about to be.

        Raises:
            InvalidArgument: A file changed since the scan, and the tree is not exact.
        """
        previous = self._previous
        batch: list[int] = []
        size = 0
        first = last = 0
        for at, (entry, number) in enumerate(zip(self._entries, self.scan.known, strict=True)):
            if entry is None or entry.link or not entry.is_file:
                continue
            large = entry.size > _LARGE
            known = previous is not None and number >= 0
            if known or not large:
                passed(entry.size)
            if previous is not None and known:
                self.kept += 1
                self.unread += entry.size
                if batch:
                    yield partial(self._read_all, batch)
                    batch, size = [], 0
                if (begin := int(previous.first[number])) != last:
                    yield Kept(previous.table[first:last])
                    first = begin
                last = int(previous.last[number])
                continue
            if last > first and previous is not None:
                yield Kept(previous.table[first:last])
                first = last = 0
            if batch and (large or size + entry.size > _LARGE):
                yield partial(self._read_all, batch)
                batch, size = [], 0
            if large:
                yield self._read_large(at, writer, passed)
                continue
            batch.append(at)
            size += entry.size + _EACH
        if batch:
            yield partial(self._read_all, batch)
        if last > first and previous is not None:
            yield Kept(previous.table[first:last])

    def travelling(self) -> list[Buffer]:
        """Read all files at once, for a tree that is small enough to be stored inside an event."""
        return self._read_all([at for at, entry in enumerate(self.scan.entries) if entry.stored])

    def _read_all(self, batch: list[int]) -> list[Buffer]:
        with Parents(self._root, follow_links=self.scan.follow_links) as parents:
            if self._exact:
                return [chunk for at in batch for chunk in self._read(at, _read_small, parents)]
            chunks: list[Buffer] = []
            for small, group in groupby(batch, lambda at: self.scan.entries[at].size < _SHARED):
                if small:
                    pieces = [piece for at in group for piece in self._read(at, _read_small, parents)]
                    chunks += content_defined(b"".join(pieces), _SHARED)
                else:
                    chunks += [chunk for at in group for chunk in self._read(at, _read_small, parents)]
            return chunks

    def _read_large(self, at: int, writer: Writer, passed: Callable[[int], None]) -> Kept:
        average = _LARGE_AVERAGE if self._exact else AVERAGE_SIZE
        left = self.scan.entries[at].size

        def told(chunks: Iterable[memoryview]) -> Iterator[memoryview]:
            nonlocal left
            for chunk in chunks:
                yield chunk
                size = min(len(chunk), left)  # less is left if the file is read a second time
                left -= size
                passed(size)

        def read(file: int, entry: Entry) -> tuple[list[Kept], int]:
            if entry.extents is None:
                chunks = content_defined_read(partial(os.pread, file), entry.size, average)
            else:
                chunks = content_defined_stream(_pieces(file, entry), average)
            kept = writer.put(told(chunks))
            return [kept], int(kept.rows["size"].sum(dtype=np.int64))

        with Parents(self._root, follow_links=self.scan.follow_links) as parents:
            kept = next(iter(self._read(at, read, parents)), Kept(np.empty(0, TABLE)))
        passed(left)
        return kept

    def _read(self, at: int, read: Callable[[int, Entry], tuple[list[T], int]], parents: Parents) -> list[T]:
        """Read a file, and read it again if it changed during that. Records the result: empty if the file is gone.

        Args:
            at: Its number.
            read: Reads an open file. Returns its result, and the number of bytes.
            parents: Finds its directory.
        """
        scanned = cast(Entry, self._entries[at])
        try:
            for _ in range(2):
                parent, name = parents.find(scanned.raw)
                file = os.open(name, flags(FILE, self.scan.follow_links), dir_fd=parent)
                try:
                    before = os.fstat(file)
                    if not stat.S_ISREG(before.st_mode):
                        raise FileNotFoundError
                    entry = self._look(file, scanned, before)
                    result, size = read(file, entry)
                    settled = size == entry.stored and state_of(os.fstat(file)) == state_of(before)
                    if settled and not entry.size and os.pread(file, 1, 0) and not os.fstat(file).st_size:
                        raise OSError(errno.EINVAL, "it has bytes but the size 0, as files of /proc; use files= for it")
                finally:
                    os.close(file)
                if settled:
                    break
                self._refuse_change(scanned)
            else:
                self.changed.append(scanned.path)
                entry = _shortened(msgspec.structs.replace(entry, state=(0, 0, 0)), size)
        except OSError as error:
            if not self._exact:
                raise
            self.scan.failed(scanned.path, error)
            self._entries[at] = None
            return []
        self._entries[at] = entry
        return result

    def _look(self, file: int, scanned: Entry, found: os.stat_result) -> Entry:
        if self._exact:
            return entry_of(scanned.raw, found, xattrs=xattrs_of(file), extents=extents_of(file, found))
        if state_of(found) != (scanned.size, scanned.mtime, *scanned.state[:2]):
            self._refuse_change(scanned)
        return scanned

    def _refuse_change(self, scanned: Entry) -> None:
        if not self._exact:
            raise InvalidArgument(
                f"{self._label}/{scanned.path} changed while it was read. Nothing was saved. Log it when nothing "
                "writes to it."
            )


def _read_small(file: int, entry: Entry) -> tuple[list[Buffer], int]:
    # A file that has grown since the scan is cut off here. The checks before and after detect the change.
    data = b"".join(islice(_pieces(file, entry), 2))
    if len(data) <= AVERAGE_SIZE:
        return [data] if data else [], len(data)
    return list(content_defined(data)), len(data)


def _pieces(file: int, entry: Entry) -> Iterator[bytes]:
    for offset, length in entry.spans:
        end = offset + length
        while offset < end and (piece := os.pread(file, min(end - offset, _PIECE), offset)):
            offset += len(piece)
            yield piece


def _shortened(entry: Entry, stored: int) -> Entry:
    """Return an entry with at most this many bytes in the body."""
    if entry.extents is None:
        return msgspec.structs.replace(entry, size=stored)
    extents = []
    for offset, length in entry.extents:
        if stored:
            extents.append((offset, min(length, stored)))
            stored -= extents[-1][1]
    return msgspec.structs.replace(entry, extents=tuple(extents))
