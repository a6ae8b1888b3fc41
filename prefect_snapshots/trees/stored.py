"""A tree as a content of a repository holds it: which entries, and where their bytes are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from ..errors import DamagedVersion, IntegrityError, InvalidArgument
from ..repository.contents import ContentReader
from .entries import Entry

_READ = 4 * 1024 * 1024
"""Bytes that a reader is given at once."""


class StoredTree:
    """The entries of a tree, and their bytes.

    Args:
        content: A content that holds the bytes.
        entries: The entries in the order of their bytes, checked.
        offset: Where the first byte is in the content.
        label: What errors call the version or backup.
        name: What errors call this tree; empty if the version is nothing else.
        root: The directory itself. None: owners, times and permissions are not restored.
        excludes, ignore_files: What was left out when it was read, as in `Directory`.
    """

    def __init__(
        self,
        content: ContentReader,
        entries: Sequence[Entry],
        offset: int = 0,
        label: str = "",
        name: str = "",
        *,
        root: Entry | None = None,
        excludes: Sequence[str] = (),
        ignore_files: Sequence[str] = (),
    ) -> None:
        self.content = content
        self.entries = entries
        self.offset = offset
        self.label = label
        self.name = name
        self.root = root
        self.excludes = excludes
        self.ignore_files = ignore_files

    @cached_property
    def stored(self) -> int:
        """Bytes in the body."""
        return sum(entry.stored for entry in self.entries)

    @cached_property
    def by_path(self) -> Mapping[str, tuple[Entry, int]]:
        """Every entry, and where in the body its bytes begin."""
        found = {}
        offset = self.offset
        for entry in self.entries:
            found[entry.path] = entry, offset
            offset += entry.stored
        return found

    def open(self, path: str) -> Iterator[memoryview]:
        """The bytes of one file, in pieces of up to some MB, each of them verified.

        Raises:
            InvalidArgument: there is no such file.
            DamagedVersion: it cannot be verified from there on.
        """
        found = self.by_path.get(path)
        if found is None or not found[0].is_file:
            raise InvalidArgument(f"{self.label}, {self.name}: there is no file {path!r}")
        entry, offset = self.by_path[found[0].link.decode("utf-8", "surrogateescape")] if found[0].link else found
        return self._pieces(entry, offset)

    def _pieces(self, entry: Entry, offset: int) -> Iterator[memoryview]:
        at = 0
        for begin, length in (*(((0, entry.size),) if entry.extents is None else entry.extents), (entry.size, 0)):
            while at < begin:
                hole = min(begin - at, _READ)
                yield memoryview(bytes(hole))
                at += hole
            end = begin + length
            while at < end:
                try:
                    piece = memoryview(self.content.read(offset, min(end - at, _READ)))
                except IntegrityError as error:
                    raise DamagedVersion(self.label, f"{self.name}: file {entry.path!r}", str(error)) from error
                yield piece
                at += len(piece)
                offset += len(piece)

    def damaged(self) -> str:
        """The first file that cannot be verified; empty when all can."""
        files = (found for found in self.by_path.values() if not self.is_sound(*found))
        return next((f"file {entry.path!r}" for entry, _ in files), "")

    def is_sound(self, entry: Entry, offset: int) -> bool:
        """Whether all bytes of a file, which begin there in the body, can be verified."""
        try:
            for at in range(0, entry.stored, _READ):
                self.content.read(offset + at, min(_READ, entry.stored - at))
        except IntegrityError:
            return False
        return True
