"""Read a tree that is stored in a content of a repository."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Protocol

from ..errors import DamagedVersion, IntegrityError, InvalidArgument
from ..repository.location import Buffer
from .entries import Entry
from .scanning import FileSelection

_READ = 4 * 1024 * 1024
"""Bytes to read at once: enough to need few calls, and few enough for the caches of a processor."""


class VerifiedContent(Protocol):
    """Bytes that are verified when they are read."""

    def read(self, offset: int, length: int) -> Buffer:
        """Return a number of bytes, starting at an offset."""

    def read_into(self, targets: Sequence[tuple[int, memoryview]]) -> None:
        """Fill each writable buffer with the bytes that start at its offset."""


class StoredTree:
    """The entries of a tree, and their bytes.

    Args:
        content: The content with the bytes.
        entries: The checked entries, in the order of their bytes.
        offset: The offset of the first byte in the content.
        label: The name of the version or backup in error messages.
        name: The name of this tree within it. Empty if the tree is everything in it.
        root: The entry of the directory itself. None: only permissions are stored, no owners, times and attributes.
        selection: Which files belong to the tree.
        left_out: Paths that belong to the tree, but could not be stored.
    """

    def __init__(
        self,
        content: VerifiedContent,
        entries: Sequence[Entry],
        offset: int = 0,
        label: str = "",
        name: str = "",
        *,
        root: Entry | None = None,
        selection: FileSelection = FileSelection(),  # noqa: B008  it cannot change
        left_out: Iterable[bytes] = (),
    ) -> None:
        self.content = content
        self.entries = entries
        self.offset = offset
        self.label = label
        self.name = name
        self.root = root
        self.selection = selection
        self.left_out = frozenset(left_out)

    @cached_property
    def stored(self) -> int:
        """Size of the body in bytes."""
        return sum(entry.stored for entry in self.entries)

    @cached_property
    def by_path(self) -> Mapping[str, tuple[Entry, int]]:
        """Every entry, and the offset of its bytes in the content."""
        found = {}
        offset = self.offset
        for entry in self.entries:
            found[entry.path] = entry, offset
            offset += entry.stored
        return found

    def selected(self, chosen: Callable[[Entry], bool]) -> StoredTree:
        """Return the tree with only some of its entries, and the directories above them."""
        above: set[bytes] = set()
        entries = []
        for entry in reversed(self.entries):  # a directory comes before what is in it
            if entry.raw in above or chosen(entry):
                entries.append(entry)
                above.add(entry.raw.rpartition(b"/")[0])
        entries.reverse()
        part = StoredTree(self.content, entries, self.offset, self.label, self.name, root=self.root)
        vars(part)["by_path"] = {entry.path: self.by_path[entry.path] for entry in entries}
        return part

    @property
    def files(self) -> Iterator[tuple[Entry, int]]:
        """All files, and the offsets of their bytes in the content."""
        return (found for found in self.by_path.values() if found[0].is_file)

    def open(self, path: str) -> Iterator[memoryview]:
        """Yield the bytes of one file, in verified pieces of up to 4 MB.

        Raises:
            InvalidArgument: There is no such file.
            DamagedVersion: The next piece cannot be verified.
        """
        return self._pieces(*self._file(path))

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Return some bytes of one file, verified. Fewer at its end.

        Args:
            path: The path of the file.
            offset: The first byte to read.
            length: How many bytes to read.

        Raises:
            InvalidArgument: There is no such file.
            DamagedVersion: The bytes cannot be verified.
        """
        entry, at = self._file(path)
        end = min(offset + length, entry.size)
        target = bytearray(max(0, end - offset))
        view = memoryview(target)
        wanted = []
        for begin, size in entry.spans:
            first, last = max(begin, offset), min(begin + size, end)
            if first < last:
                wanted.append((at + first - begin, view[first - offset : last - offset]))
            at += size
        try:
            self.content.read_into(wanted)
        except IntegrityError as error:
            raise DamagedVersion(
                self.label, ": ".join(filter(None, (self.name, f"file {path!r}"))), str(error)
            ) from error
        return bytes(target)

    def damaged(self, files: Iterable[tuple[Entry, int]] | None = None) -> str:
        """Return the name of the first file that cannot be verified. Empty if all can.

        Args:
            files: The files to check. Default: all.
        """
        for entry, offset in self.files if files is None else files:
            if not self.is_sound(entry, offset):
                return f"file {entry.path!r}"
        return ""

    def damage(self, files: Iterable[tuple[Entry, int]], error: IntegrityError) -> DamagedVersion:
        """Return the error that names the first damaged one of these files."""
        where = ": ".join(filter(None, (self.name, self.damaged(files))))
        return DamagedVersion(self.label, where, str(error))

    def is_sound(self, entry: Entry, offset: int) -> bool:
        """Return whether all bytes of a file can be verified. They start at an offset in the content."""
        try:
            for at in range(0, entry.stored, _READ):
                self.content.read(offset + at, min(_READ, entry.stored - at))
        except IntegrityError:
            return False
        return True

    @property
    def title(self) -> str:
        """Its name in error messages: the version or backup, and its name within that."""
        return f"{self.label}, {self.name}" if self.name else self.label

    def _file(self, path: str) -> tuple[Entry, int]:
        """Return the entry with the bytes of a file, and their offset in the content."""
        found = self.by_path.get(path)
        if found is None or not found[0].is_file:
            raise InvalidArgument(f"There is no file {path!r} in {self.title}.")
        return self.by_path[found[0].link.decode("utf-8", "surrogateescape")] if found[0].link else found

    def _pieces(self, entry: Entry, offset: int) -> Iterator[memoryview]:
        at = 0
        for begin, length in (*entry.spans, (entry.size, 0)):
            while at < begin:
                hole = min(begin - at, _READ)
                yield memoryview(bytes(hole))
                at += hole
            end = begin + length
            while at < end:
                try:
                    piece = memoryview(self.content.read(offset, min(end - at, _READ)))
                except IntegrityError as error:
                    raise self.damage([(entry, offset)], error) from error
                yield piece
                at += len(piece)
                offset += len(piece)
