"""A directory on the disk -> entries. No file is read."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InvalidArgument
from .entries import Entry
from .patterns import Rules, left_out, rules_of

RESTORING = ".prefect-snapshots-restoring-"
"""How the name of a folder begins in which a restore builds what it swaps in; never part of a backup."""


@dataclass(frozen=True)
class Directory:
    """A directory to back up, with all that `rsync -aHSX` keeps of it.

    Arguments:
        path: where it is. A link is followed; links in it are kept as they are.
        name: what the backup calls it. Default: the last part of the path.
        excludes: patterns of what is left out, as in `.gitignore`.
        ignore_files: names of files in the tree that hold such patterns, for the directory they lie in.
        strict: whether a file that cannot be read makes the backup fail. Otherwise it is reported and left out.

    Example:
        >>> from prefect_snapshots.trees.scanning import Directory
        >>> Directory("/srv/app/uploads", ignore_files=(".backupignore",)).name
        'uploads'
    """

    path: str | os.PathLike[str]
    name: str = ""
    excludes: Sequence[str] = (".tmp", "__pycache__", ".git")
    ignore_files: Sequence[str] = ()
    strict: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(os.path.abspath(self.path)))
        object.__setattr__(self, "name", self.name or Path(self.path).name)
        if not self.name:
            raise InvalidArgument(f"give the directory {self.path} a name")
        for what in ("excludes", "ignore_files"):
            if isinstance(getattr(self, what), str):
                raise InvalidArgument(f"{what} is several texts, not one: write ({getattr(self, what)!r},)")


def walk(
    folder: str,
    excludes: Sequence[str],
    ignore_files: Sequence[str],
    failed: Callable[[str, OSError], None],
) -> Iterator[tuple[str, os.DirEntry[str], bool]]:
    """Everything in a folder, directories before what is in them.

    Arguments:
        folder: where.
        excludes: patterns.
        ignore_files: names of files with patterns for the directory they lie in.
        failed: called with the path of a directory, or an ignore file, that cannot be read.

    Yields:
        The path relative to the folder, what `os.scandir` says of it, and whether it is left out.
    """
    waiting: list[tuple[str, str, tuple[Rules, ...]]] = [("", folder, rules_of(excludes, 0))]
    while waiting:
        prefix, at, rules = waiting.pop()
        try:
            with os.scandir(at) as found:
                entries = list(found)
        except OSError as error:
            failed(prefix.rstrip("/"), error)
            continue
        for entry in entries if ignore_files else ():
            if entry.name in ignore_files and entry.is_file(follow_symlinks=False):
                try:
                    with open(entry.path, encoding="utf-8-sig", errors="surrogateescape") as file:
                        rules = (*rules_of(file.read().split("\n"), len(prefix)), *rules)
                except OSError as error:
                    failed(prefix + entry.name, error)
        for entry in entries:
            path = prefix + entry.name
            is_directory = entry.is_dir(follow_symlinks=False)
            if entry.name.startswith(RESTORING) or (rules and left_out(rules, path, entry.name, is_directory)):
                yield path, entry, True
                continue
            yield path, entry, False
            if is_directory:
                waiting.append((f"{path}/", entry.path, rules))


def entry_of(
    raw: bytes,
    status: os.stat_result,
    link: bytes = b"",
    xattrs: dict[str, bytes] | None = None,
    extents: tuple[tuple[int, int], ...] | None = None,
) -> Entry:
    return Entry(
        raw,
        status.st_mode,
        status.st_size if stat.S_ISREG(status.st_mode) else 0,
        link,
        status.st_mtime_ns,
        status.st_uid,
        status.st_gid,
        (status.st_ctime_ns, status.st_ino, status.st_dev),
        extents,
        xattrs,
    )


def state_of(status: os.stat_result) -> tuple[int, ...]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def extents_of(file: int, status: os.stat_result) -> tuple[tuple[int, int], ...] | None:
    """Where the data of a sparse file lies; None when it has no holes."""
    size = status.st_size
    if status.st_blocks * 512 >= size or not hasattr(os, "SEEK_DATA"):
        return None
    extents = []
    end = 0
    while end < size:
        try:
            begin = os.lseek(file, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole up to the end
                break
            return None
        end = min(os.lseek(file, begin, os.SEEK_HOLE), size)
        extents.append((begin, end - begin))
    return None if extents == [(0, size)] else tuple(extents)


def xattrs_of(where: str | int) -> dict[str, bytes] | None:
    """Extended attributes, of a link itself; None where there are none."""
    if not hasattr(os, "listxattr"):
        return None
    follow = isinstance(where, int)
    try:
        names = os.listxattr(where, follow_symlinks=follow)
        return {name: os.getxattr(where, name, follow_symlinks=follow) for name in names} or None
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENODATA):
            return None
        raise
