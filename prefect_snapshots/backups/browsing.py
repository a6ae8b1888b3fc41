"""Look into backups without restoring them: list their files, and compare two backups."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import numpy as np

from ..errors import InvalidArgument
from ..repository.times import from_nanoseconds
from ..trees.descriptors import Parents, opened
from ..trees.entries import Entry
from ..trees.scanning import Directory, mtime_of, walk
from .archive import Archive, PartReader
from .manifest import DIRECTORY
from .single_files import File
from .sources import Database

FileType = Literal["file", "directory", "link", "fifo"]
Change = Literal["added", "deleted", "changed"]


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One entry of a backup.

    Attributes:
        part: The name of the part that contains it.
        path: Its path within the part.
        type: "file", "directory", "link" or "fifo".
        size: Size of a file in bytes; 0 for anything else.
        mode: Permissions, as in `stat`.
        modified_at: When it was last changed, in UTC.
        target: What a symbolic link points to, else None.
    """

    part: str
    path: str
    type: FileType
    size: int
    mode: int
    modified_at: datetime
    target: str | None = None


@dataclass(frozen=True, slots=True)
class FileChange:
    """One path that differs.

    Attributes:
        part: The name of the part.
        path: The path within the part.
        change: "added": only the new one has it; "deleted": only the old one has it; "changed": content, type,
            permissions or owner differ.
        old_size, new_size: Sizes in bytes; 0 on the side that does not have it.
    """

    part: str
    path: str
    change: Change
    old_size: int
    new_size: int


@dataclass(frozen=True, slots=True)
class CountChange:
    """A table or collection whose number of rows or documents differs. None: that side does not have it."""

    part: str
    table: str
    old: int | None
    new: int | None


@dataclass(frozen=True, slots=True)
class BackupDiff:
    """What differs between two backups, or between a target and a backup.

    Attributes:
        old, new: The names of what was compared.
        parts_added, parts_deleted: The names of parts that only one of them has.
        files: Paths of directories that differ, sorted.
        counts: Tables and collections whose number of rows or documents differs.
        databases_changed: Databases whose dumps are not identical. Their rows may still be identical.
    """

    old: str
    new: str
    parts_added: tuple[str, ...] = ()
    parts_deleted: tuple[str, ...] = ()
    files: tuple[FileChange, ...] = ()
    counts: tuple[CountChange, ...] = ()
    databases_changed: tuple[str, ...] = ()

    @property
    def identical(self) -> bool:
        """Whether nothing differs."""
        return not any((self.parts_added, self.parts_deleted, self.files, self.counts, self.databases_changed))


def list_files(content: Archive, part: str | None, path: str, pattern: str | None) -> list[FileInfo]:
    """See `BackupManager.list_files`."""
    parts = content.parts if part is None else [content.part(part)]
    found = [
        _info(each.name, entry)
        for each in parts
        for entry in each.entries
        if _is_below(entry.path, path) and (pattern is None or _matches(entry.path, pattern))
    ]
    if path and not found and pattern is None:
        raise InvalidArgument(f"There is no {path!r} in {content.label}. List its files with `prefect-snapshots ls`.")
    return found


def compare(old: Archive, new: Archive, names: tuple[str, str]) -> BackupDiff:
    """See `BackupManager.diff`."""
    before, after = ({part.name: part for part in each.parts} for each in (old, new))
    both = [name for name in after if name in before and before[name].kind == after[name].kind]
    files: list[FileChange] = []
    counts: list[CountChange] = []
    changed = []
    for name in both:
        if after[name].kind == DIRECTORY:
            files += _changes(name, before[name], after[name])
        else:
            counts += _count_changes(name, before[name].counts, after[name].counts)
            changed += [name] if any(_changes(name, before[name], after[name])) else []
    return BackupDiff(
        *names,
        tuple(name for name in after if name not in both),
        tuple(name for name in before if name not in both),
        tuple(files),
        tuple(counts),
        tuple(changed),
    )


def restore_changes(
    part: PartReader, target: Database | Directory, only: Sequence[str], keep_extra: bool
) -> BackupDiff:
    """Return what a restore would change in a target. Files count as changed if size, type, mode or time differ.

    Args:
        part: The part that would be restored.
        target: Where it would go.
        only: The paths, tables or collections that would be restored; empty: all.
        keep_extra: Whether files that are not in the backup would stay.
    """
    if isinstance(target, File):
        if target.holds(part):
            return BackupDiff(target.name, part.label)
        path = Path(target.path)
        size = path.stat().st_size if path.exists() else None
        change = FileChange(part.name, path.name, "added" if size is None else "changed", size or 0, part.stored)
        return BackupDiff(target.name, part.label, files=(change,))
    if not isinstance(target, Directory):
        try:
            now = target.counts()
        except Exception:  # it is gone, or does not answer: a restore makes it
            now = {}
        wanted = {name: count for name, count in part.counts.items() if not only or name in only}
        there = {name: count for name, count in now.items() if not only or name in only}
        return BackupDiff(target.name, part.label, counts=tuple(_count_changes(part.name, there, wanted)))
    root = Path(os.path.realpath(target.path))
    files = []
    with contextlib.ExitStack() as closing:
        # By descriptors: a path below it may be longer than the system takes.
        parents = None
        if root.is_dir():
            parents = closing.enter_context(Parents(closing.enter_context(opened(root))))
        for entry in part.entries:
            if only and not any(_is_below(entry.path, path) for path in only):
                continue
            status = None
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                if parents is not None:
                    parent, name = parents.find(entry.raw)
                    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if status is None:
                files.append(FileChange(part.name, entry.path, "added", 0, _size(entry)))
            elif not _like(entry, status):
                files.append(FileChange(part.name, entry.path, "changed", status.st_size, _size(entry)))
    if not keep_extra:
        files += _extra(part, root, only)
    return BackupDiff(str(target.path), part.label, files=tuple(sorted(files, key=lambda change: change.path)))


# --- helpers -------------------------------------------------------------------------------------------------------


def _info(part: str, entry: Entry) -> FileInfo:
    kind: FileType = (
        "directory" if entry.is_directory else "link" if entry.is_symlink else "file" if entry.is_file else "fifo"
    )
    target = entry.link.decode("utf-8", "surrogateescape") if entry.is_symlink else None
    mode = stat.S_IMODE(entry.mode)
    return FileInfo(part, entry.path, kind, _size(entry), mode, from_nanoseconds(entry.mtime), target)


def _size(entry: Entry) -> int:
    return entry.size if entry.is_file else 0


def _is_below(path: str, folder: str) -> bool:
    folder = folder.strip("/")
    return not folder or path == folder or path.startswith(f"{folder}/")


def _matches(path: str, pattern: str) -> bool:
    """A pattern without a slash is for the name, and one with a slash for the whole path."""
    return fnmatch.fnmatchcase(path if "/" in pattern else path.rpartition("/")[2], pattern)


def _changes(name: str, old: PartReader, new: PartReader) -> Iterator[FileChange]:
    before, after = _chunks_of(old), _chunks_of(new)
    for path in sorted(before.keys() | after.keys()):
        was, now = before.get(path), after.get(path)
        if was is None and now is not None:
            yield FileChange(name, path, "added", 0, _size(now[0]))
        elif was is not None and now is None:
            yield FileChange(name, path, "deleted", _size(was[0]), 0)
        elif was is not None and now is not None and not _same(old, new, was, now):
            yield FileChange(name, path, "changed", _size(was[0]), _size(now[0]))


_Located = tuple[Entry, bytes | None]
"""An entry, and the ids of its chunks end to end; None if others share them, so that the bytes have to be compared."""


def _chunks_of(part: PartReader) -> Mapping[str, _Located]:
    if part.reader.inline is not None:
        return {path: (entry, None) for path, (entry, _) in part.by_path.items()}
    table = part.reader.table
    edges = np.concatenate([[0], np.cumsum(table["size"], dtype=np.int64)])
    found: dict[str, _Located] = {}
    for path, (entry, offset) in part.by_path.items():
        begin, end = edges.searchsorted([offset, offset + entry.stored])
        whole = edges[begin] == offset and edges[end] == offset + entry.stored
        found[path] = entry, table["chunk"][begin:end].tobytes() if whole else None
    return found


def _same(old: PartReader, new: PartReader, was: _Located, now: _Located) -> bool:
    one, other = was[0], now[0]
    if (one.mode, one.size, one.link, one.uid, one.gid, one.extents) != (
        *(other.mode, other.size, other.link, other.uid, other.gid, other.extents),
    ):
        return False
    if was[1] is not None and was[1] == now[1]:
        return True
    # Equal bytes can be cut in different ways: only the bytes decide.
    return _bytes_equal(old.open(one.path), new.open(other.path))


def _bytes_equal(one: Iterator[memoryview], other: Iterator[memoryview]) -> bool:
    left, right = memoryview(b""), memoryview(b"")
    while True:
        left = left or next(one, memoryview(b""))
        right = right or next(other, memoryview(b""))
        if not left or not right:
            return not left and not right
        size = min(len(left), len(right))
        if left[:size] != right[:size]:
            return False
        left, right = left[size:], right[size:]


def _count_changes(part: str, old: Mapping[str, int], new: Mapping[str, int]) -> Iterator[CountChange]:
    for table in sorted(old.keys() | new.keys()):
        if old.get(table) != new.get(table):
            yield CountChange(part, table, old.get(table), new.get(table))


def _like(entry: Entry, status: os.stat_result) -> bool:
    """Whether what is on the disk looks like an entry: the times of directories and links are not looked at."""
    if entry.mode != status.st_mode:
        return False
    return not entry.is_file or (entry.size == status.st_size and entry.mtime == mtime_of(status))


def _extra(part: PartReader, root: Path, only: Sequence[str]) -> Iterator[FileChange]:
    """What is on the disk and not in the backup, without what its patterns exclude."""
    if not root.is_dir():
        return
    there = {entry.path for entry in part.entries}
    stays = [os.fsdecode(path) for path in part.left_out]
    for path, item, _, left_out in walk(os.path.realpath(root), part.selection, lambda *_: None):
        if left_out or path in there or any(_is_below(path, each) for each in stays):
            continue
        if only and not any(_is_below(path, each) for each in only):
            continue
        yield FileChange(part.name, path, "deleted", item.stat(follow_symlinks=False).st_size, 0)
