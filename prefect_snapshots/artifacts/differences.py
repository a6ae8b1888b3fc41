"""Compare two versions by the files of folders, the lines of text files, and the leaves of pytrees."""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from ..repository.location import Buffer
from ..trees.entries import Entry
from ..trees.stored import StoredTree

_PIECE = 8 * 1024 * 1024
"""How many bytes are compared at a time: enough to keep a network busy, with little memory for files of any size."""
_TEXT_LIMIT = 1024 * 1024
"""The largest file in bytes that is compared line by line: the time of `difflib` grows with the square of the lines,
and nobody reads a longer diff."""


class Body(Protocol):
    """The bytes of a value."""

    @property
    def body_size(self) -> int:
        """The number of bytes."""

    def read_into(self, targets: Sequence[tuple[int, memoryview]]) -> None:
        """Fill each writable buffer with the verified bytes from its offset on."""


class Bodies(Body, Protocol):
    """The bytes of a folder: its files one after another."""

    def read(self, offset: int, length: int) -> Buffer:
        """Return `length` verified bytes from an offset on."""

    def identity(self, offset: int, length: int) -> object:
        """Return a value that is equal for identical bytes of a file, without reading them."""


class Difference(Protocol):
    """One file or leaf that differs between two versions."""

    @property
    def path(self) -> str:
        """The path of the file or leaf."""

    @property
    def kind(self) -> str:
        """`added`, `removed` or `changed`."""

    @property
    def old(self) -> str | None:
        """A short description of the old value; None if it was added."""

    @property
    def new(self) -> str | None:
        """A short description of the new value; None if it was removed."""


@dataclass(frozen=True, slots=True)
class FileDifference:
    """One file that differs between two versions.

    Attributes:
        path: The path of the file.
        kind: `added`, `removed` or `changed`.
        old: The old state, such as `12 bytes`, `directory` or `link to a.txt`, with the mode if only that differs. None
            if the file was added.
        new: The new state in the same form. None if the file was removed.
        text: The lines that differ, in the format of `diff -u`. Empty for a file that is not UTF-8 text or is larger
            than 1 MB.
    """

    path: str
    kind: Literal["added", "removed", "changed"]
    old: str | None
    new: str | None
    text: str = ""


def read_body(body: Body) -> memoryview:
    """Return all bytes of a body, in writable memory."""
    view = memoryview(bytearray(body.body_size))
    body.read_into([(0, view)])
    return view


def pieces(body: Body) -> Iterator[memoryview]:
    """Yield the bytes of a body, 8 MB at a time."""
    for at in range(0, body.body_size, _PIECE):
        view = memoryview(bytearray(min(_PIECE, body.body_size - at)))
        body.read_into([(at, view)])
        yield view


def diff_files(path: str, old: Body, new: Body) -> list[FileDifference]:
    """Return the difference between two files; an empty list if they are identical."""
    if old.body_size == new.body_size and all(a == b for a, b in zip(pieces(old), pieces(new), strict=True)):
        return []
    return [FileDifference(path, "changed", _size(old), _size(new), _lines(path, old, new))]


def diff_folders(
    old: Bodies, old_entries: Sequence[Entry], new: Bodies, new_entries: Sequence[Entry]
) -> list[FileDifference]:
    """Return the files, directories and links that differ between two folders, sorted by path.

    Files that share their chunks are not read.
    """
    before = {entry.path: entry for entry in old_entries}
    after = {entry.path: entry for entry in new_entries}
    old_files = {
        entry.path: _FolderPart(old, offset, entry.size) for entry, offset in StoredTree(old, old_entries).files
    }
    new_files = {
        entry.path: _FolderPart(new, offset, entry.size) for entry, offset in StoredTree(new, new_entries).files
    }
    found: list[FileDifference] = []
    for path in sorted(before.keys() | after.keys()):
        a, b = before.get(path), after.get(path)
        if a is None or b is None:
            old_text, new_text = (None if entry is None else _describe(entry) for entry in (a, b))
            found.append(FileDifference(path, "added" if a is None else "removed", old_text, new_text))
        elif path in old_files and path in new_files and not old_files[path].shares(new_files[path]):
            found += diff_files(path, old_files[path], new_files[path]) or _mode(path, a, b)
        elif a != b:
            found += _mode(path, a, b) or [FileDifference(path, "changed", _describe(a), _describe(b))]
    return found


class _FolderPart:
    """One file within the body of a folder."""

    def __init__(self, content: Bodies, offset: int, size: int) -> None:
        self._content = content
        self._offset = offset
        self.body_size = size

    def read_into(self, targets: Sequence[tuple[int, memoryview]]) -> None:
        self._content.read_into([(self._offset + offset, view) for offset, view in targets])

    def shares(self, other: _FolderPart) -> bool:
        """Return whether both are the same stored bytes."""
        mine, others = (part._content.identity(part._offset, part.body_size) for part in (self, other))
        return self.body_size == other.body_size and mine == others


def _lines(path: str, old: Body, new: Body) -> str:
    if max(old.body_size, new.body_size) > _TEXT_LIMIT:
        return ""
    try:
        before, after = (str(read_body(body), "utf-8").splitlines() for body in (old, new))
    except UnicodeDecodeError:
        return ""
    return "\n".join(difflib.unified_diff(before, after, path, path, lineterm=""))


def _mode(path: str, old: Entry, new: Entry) -> list[FileDifference]:
    if stat.S_IFMT(old.mode) != stat.S_IFMT(new.mode) or old.mode == new.mode:
        return []
    return [FileDifference(path, "changed", *(f"{_describe(e)}, mode {stat.S_IMODE(e.mode):o}" for e in (old, new)))]


def _describe(entry: Entry) -> str:
    if stat.S_ISDIR(entry.mode):
        return "directory"
    return f"link to {os.fsdecode(entry.link)}" if entry.link else _bytes(entry.size)


def _size(body: Body) -> str:
    return _bytes(body.body_size)


def _bytes(size: int) -> str:
    return f"{size} byte{'' if size == 1 else 's'}"
