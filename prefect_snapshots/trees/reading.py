"""A directory on the disk -> entries, and what a writer stores of them.

A *scan* looks at everything and reads no file. A file is *kept* when the previous backup saw it with the same size,
mtime, ctime, inode and device, and long enough after its last change: its chunks go on from there, unread. All others
are read by several threads, many small ones at once; each is cut into chunks on its own, so that no neighbour moves
its cuts.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TypeVar, cast

import msgspec
import numpy as np

from ..errors import BackupFailed, InvalidName
from ..repository.chunking import AVERAGE_SIZE, content_defined, content_defined_read, content_defined_stream
from ..repository.contents import TABLE, Batch, Kept, Writer
from ..repository.repository import Buffer
from .entries import Entry, check_path
from .scanning import Directory, entry_of, extents_of, state_of, walk, xattrs_of
from .stored import StoredTree

_LARGE = 4 * 1024 * 1024
"""Bytes of a file from which on it is read piece by piece; smaller ones are read together up to this."""
_PIECE = 8 * 1024 * 1024
"""Bytes of a large file that are read at once."""
_LARGE_AVERAGE = 1024 * 1024
"""Average bytes in a chunk of a large file: larger ones compress better, smaller ones find more again."""
_EACH = 4096
"""What a file counts for beyond its bytes when files are read together."""
_SETTLED = 2_000_000_000
"""Nanoseconds between a file's last change and a look at it, below which the next change might go unseen."""
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_SHOWN = 3

T = TypeVar("T")


@dataclass(slots=True)
class Summary:
    """What a backup did with one source."""

    name: str
    kind: str
    files: int = 0
    directories: int = 0
    links: int = 0
    """Symbolic links, and further names of files."""
    size: int = 0
    """Bytes of all files."""
    read: int = 0
    """Bytes that were read; the rest is as it was in the previous backup."""
    kept: int = 0
    """Files that were not read."""
    unreadable: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    """Files that changed while they were read, twice; stored as they were read the second time."""
    vanished: list[str] = field(default_factory=list)
    """Files that were gone when they should have been read."""
    skipped: list[str] = field(default_factory=list)
    """Sockets and devices."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Rows or documents per table or collection, of a database."""

    def count(self, entries: Sequence[Entry]) -> None:
        """Fill in what the entries say."""
        for entry in entries:
            if entry.is_directory:
                self.directories += 1
            elif entry.link:
                self.links += 1
            elif entry.is_file:
                self.files += 1
                self.size += entry.size


@dataclass(frozen=True, slots=True)
class Read:
    """A directory as it was read."""

    entries: list[Entry]
    root: Entry
    """The directory itself."""
    looked: int
    """When the scan began, in nanoseconds."""
    summary: Summary


class Previous:
    """What the previous backup says about a directory: which of its files are stored still, and in which chunks.

    Arguments:
        tree: of the previous backup.
        looked: when its scan began, in nanoseconds.
        writer: says which chunks can be used again.
    """

    def __init__(self, tree: StoredTree, looked: int, writer: Writer) -> None:
        table = tree.content.table
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
        """The number of the entry of a file that did not change; -1 when it has to be read."""
        number = self._numbers.get(raw, -1)
        if number < 0:
            return -1
        entry = self.entries[number]
        same = (
            entry.mtime == found.st_mtime_ns
            and entry.state == (found.st_ctime_ns, found.st_ino, found.st_dev)
            and entry.size == found.st_size
            and entry.mode == found.st_mode
            and found.st_ctime_ns < self._settled
            and found.st_mtime_ns < self._settled
            and self.stored[number]
        )
        return number if same else -1


class Tree:
    """One directory on its way into a backup: `chunks`, and when those are stored, `finish`.

    Arguments:
        source: the directory.
        previous: what the previous backup says about it, if there is one.

    Raises:
        BackupFailed: it cannot be read, or something in it cannot and the source is strict.
    """

    def __init__(self, source: Directory, previous: Previous | None = None) -> None:
        self.summary = Summary(source.name, "directory")
        self._source = source
        self._previous = previous
        self._looked = time.time_ns()
        self._root = os.path.realpath(source.path)
        self._entries: list[Entry | None] = []
        self._kept: list[int] = []
        """For each entry the number of the previous one whose chunks it keeps, or -1."""
        self._unread = 0
        self._scan()

    # --- looking ---------------------------------------------------------------------------------------------

    def _scan(self) -> None:
        try:
            status = os.stat(self._root)
        except OSError as error:
            raise BackupFailed(f"the directory {self._source.path} cannot be read: {error.strerror}") from None
        if not stat.S_ISDIR(status.st_mode):
            raise BackupFailed(f"{self._source.path} is not a directory: back up the one it lies in")
        self._status = entry_of(b"", status, xattrs=xattrs_of(self._root))
        previous = self._previous
        found: list[tuple[bytes, Entry, int, tuple[int, int] | None]] = []
        for path, item, left_out in walk(self._root, self._source.excludes, self._source.ignore_files, self._failed):
            if left_out:
                continue
            try:
                raw = check_path(os.fsencode(path))
                status = item.stat(follow_symlinks=False)
                inode = None
                number = -1
                if stat.S_ISREG(status.st_mode):
                    inode = (status.st_ino, status.st_dev) if status.st_nlink > 1 else None
                    if previous is not None:
                        number = previous.unchanged(raw, status)
                    entry = previous.entries[number] if previous is not None and number >= 0 else entry_of(raw, status)
                elif stat.S_ISLNK(status.st_mode):
                    entry = entry_of(raw, status, os.fsencode(os.readlink(item.path)), xattrs_of(item.path))
                elif stat.S_ISDIR(status.st_mode) or stat.S_ISFIFO(status.st_mode):
                    entry = entry_of(raw, status, xattrs=xattrs_of(item.path))
                else:
                    self.summary.skipped.append(path)
                    continue
            except InvalidName as error:
                self.summary.unreadable.append(str(error))
                continue
            except OSError as error:
                self._failed(path, error)
                continue
            found.append((raw, entry, number, inode))
        found.sort(key=_raw)
        names: dict[tuple[int, int], bytes] = {}
        for raw, entry, number, inode in found:
            if inode is not None:
                first = names.setdefault(inode, raw)
                if first != raw:
                    entry, number = msgspec.structs.replace(entry, link=first, extents=None), -1
                elif entry.link:  # its first name is gone, so that now it is the one with the bytes
                    entry, number = msgspec.structs.replace(entry, link=b""), -1
            self._entries.append(entry)
            self._kept.append(number)
        self._refuse_unreadable()

    def _failed(self, path: str, error: OSError) -> None:
        if isinstance(error, FileNotFoundError) and path:
            self.summary.vanished.append(path)
        else:
            self.summary.unreadable.append(f"{path or self._source.path}: {error.strerror}")

    def _refuse_unreadable(self) -> None:
        found = self.summary.unreadable
        if found and self._source.strict:
            more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            raise BackupFailed(
                f"{len(found)} of the files in {self._source.path} cannot be read ({'; '.join(found[:_SHOWN])}{more}): "
                "nothing was committed. Grant access, exclude them, or pass strict=False to leave them out"
            )

    # --- reading ---------------------------------------------------------------------------------------------

    def chunks(self, writer: Writer, passed: Callable[[int], None]) -> Iterator[Kept | Batch]:
        """The bytes of the files in order, as a writer takes them.

        Arguments:
            writer: stores large files before it is clear whether they changed meanwhile.
            passed: called with bytes that are dealt with, or about to be.
        """
        previous = self._previous
        batch: list[int] = []
        size = 0
        first = last = 0
        for at, (entry, number) in enumerate(zip(self._entries, self._kept, strict=True)):
            if entry is None or entry.link or not entry.is_file:
                continue
            passed(entry.size)
            if previous is not None and number >= 0:
                self.summary.kept += 1
                self._unread += entry.size
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
            large = entry.size > _LARGE
            if batch and (large or size + entry.size > _LARGE):
                yield partial(self._read_all, batch)
                batch, size = [], 0
            if large:
                yield self._read_large(at, writer)
                continue
            batch.append(at)
            size += entry.size + _EACH
        if batch:
            yield partial(self._read_all, batch)
        if last > first and previous is not None:
            yield Kept(previous.table[first:last])

    def finish(self) -> Read:
        """What was read of the directory, once its chunks are stored.

        Raises:
            BackupFailed: a file could not be read, and the source is strict.
        """
        self._refuse_unreadable()
        there = {entry.raw for entry in self._entries if entry is not None}
        entries = [
            entry
            for entry in self._entries
            if entry is not None and (entry.is_symlink or not entry.link or entry.link in there)
        ]
        self.summary.count(entries)
        self.summary.read = self.summary.size - self._unread
        return Read(entries, self._status, self._looked, self.summary)

    def _read_all(self, batch: list[int]) -> list[Buffer]:
        return [chunk for at in batch for chunk in self._read_twice(at, _read_small)]

    def _read_large(self, at: int, writer: Writer) -> Kept:
        def read(file: int, entry: Entry) -> tuple[list[Kept], int]:
            if entry.extents is None:
                chunks = content_defined_read(partial(os.pread, file), entry.size, _LARGE_AVERAGE)
            else:
                chunks = content_defined_stream(_pieces(file, entry), _LARGE_AVERAGE)
            kept = writer.put(chunks)
            return [kept], int(kept.rows["size"].sum(dtype=np.int64))

        return next(iter(self._read_twice(at, read)), Kept(np.empty(0, TABLE)))

    def _read_twice(self, at: int, read: Callable[[int, Entry], tuple[list[T], int]]) -> list[T]:
        """Read a file, and once more when it changed meanwhile. Enters what was found; empty when there is no file.

        Arguments:
            at: its number.
            read: returns what it made of an open file, and how many bytes that are.
        """
        scanned = cast(Entry, self._entries[at])
        try:
            for _ in range(2):
                file = os.open(f"{self._root}/{os.fsdecode(scanned.raw)}", _OPEN)
                try:
                    before = os.fstat(file)
                    if not stat.S_ISREG(before.st_mode):
                        raise FileNotFoundError
                    entry = entry_of(scanned.raw, before, xattrs=xattrs_of(file), extents=extents_of(file, before))
                    result, size = read(file, entry)
                    settled = size == entry.stored and state_of(os.fstat(file)) == state_of(before)
                finally:
                    os.close(file)
                if settled:
                    break
            else:
                self.summary.changed.append(scanned.path)
                entry = _shortened(msgspec.structs.replace(entry, state=(0, 0, 0)), size)
        except OSError as error:
            self._failed(scanned.path, error)
            self._entries[at] = None
            return []
        self._entries[at] = entry
        return result


def _read_small(file: int, entry: Entry) -> tuple[list[Buffer], int]:
    # What has outgrown this since the scan ends here: both looks find it changed.
    data = b"".join(islice(_pieces(file, entry), 2))
    if len(data) <= AVERAGE_SIZE:
        return [data] if data else [], len(data)
    return list(content_defined(data)), len(data)


def _pieces(file: int, entry: Entry) -> Iterator[bytes]:
    for offset, length in ((0, entry.size),) if entry.extents is None else entry.extents:
        end = offset + length
        while offset < end and (piece := os.pread(file, min(end - offset, _PIECE), offset)):
            offset += len(piece)
            yield piece


def _shortened(entry: Entry, stored: int) -> Entry:
    """An entry that has no more than so many bytes in the body."""
    if entry.extents is None:
        return msgspec.structs.replace(entry, size=stored)
    extents = []
    for offset, length in entry.extents:
        if stored:
            extents.append((offset, min(length, stored)))
            stored -= extents[-1][1]
    return msgspec.structs.replace(entry, extents=tuple(extents))


def _raw(found: tuple[bytes, Entry, int, object]) -> bytes:
    return found[0]
