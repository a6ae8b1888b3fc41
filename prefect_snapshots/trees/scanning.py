"""A directory on the disk -> entries. No file is read."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec

from ..errors import InvalidArgument, InvalidName
from .descriptors import DIRECTORY, FILE, open_directory, opened, path_of
from .entries import Entry, check_path
from .patterns import Rules, left_out, rules_of

RESTORING = ".prefect-snapshots-restoring-"
"""How the name of a workspace begins, in which a restore builds what it swaps in. It is never part of a tree."""
_TAG = "CACHEDIR.TAG"
_TAG_CONTENT = b"Signature: 8a477f597d28d172789f06886806bc55"
"""How a tag begins, by https://bford.info/cachedir/: other files of this name mean nothing."""


class Selection(msgspec.Struct, array_like=True, frozen=True):
    """What of a directory belongs to its tree. Everything else is left alone by backups and restores.

    Attributes:
        excludes: Patterns of what is left out, as in `.gitignore`.
        ignore_files: Names of files that hold such patterns, for the directory that they are in.
        exclude_caches: Leave out the contents of directories with a valid `CACHEDIR.TAG`, but for the tag.
        one_file_system: Leave out the contents of mount points.
        larger_than: Leave out files of more bytes. None: no limit.
        exclude_if_present: Leave out the contents of directories with a file of one of these names, but for that file.
    """

    excludes: tuple[str, ...] = ()
    ignore_files: tuple[str, ...] = ()
    exclude_caches: bool = False
    one_file_system: bool = False
    larger_than: int | None = None
    exclude_if_present: tuple[str, ...] = ()


@dataclass(frozen=True)
class Directory:
    """A directory to back up, with everything that `rsync -aHSX` keeps of it.

    Args:
        path: Where it is. A link is followed; links in it are kept as they are.
        name: What the backup calls it. Default: the last part of the path.
        excludes: Patterns of what to leave out, as in `.gitignore`.
        ignore_files: Names of files in the tree that hold such patterns, for the directory that they are in.
        exclude_caches: Whether to leave out the contents of directories that are marked as caches by a valid
            `CACHEDIR.TAG`.
        one_file_system: Whether to leave out what is mounted in the directory. The mount points are kept, empty.
        larger_than: Leave out files of more bytes than this. Default: no limit.
        exclude_if_present: Names of files that mark directories whose contents are left out. The mark itself is kept.
        strict: Whether a file that cannot be read makes the backup fail. If False, it is reported and left out.

    A restore leaves alone what was left out.

    Example:
        >>> from prefect_snapshots import Directory
        >>> Directory("/srv/app/uploads", ignore_files=(".backupignore",)).name
        'uploads'
    """

    path: str | os.PathLike[str]
    name: str = ""
    excludes: Sequence[str] = (".tmp", "__pycache__", ".git")
    ignore_files: Sequence[str] = ()
    exclude_caches: bool = False
    one_file_system: bool = False
    larger_than: int | None = None
    exclude_if_present: Sequence[str] = ()
    strict: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(os.path.abspath(self.path)))
        object.__setattr__(self, "name", self.name or Path(self.path).name)
        if not self.name:
            raise InvalidArgument(f"The directory {self.path} has no name of its own: pass name=...")
        for what in ("excludes", "ignore_files", "exclude_if_present"):
            if isinstance(getattr(self, what), str):
                raise InvalidArgument(f"{what} takes several strings, not one: write ({getattr(self, what)!r},).")
        if self.larger_than is not None and self.larger_than < 0:
            raise InvalidArgument(f"larger_than is a number of bytes, not {self.larger_than}.")

    @property
    def selection(self) -> Selection:
        """What of it belongs to the backup."""
        return Selection(
            tuple(self.excludes),
            tuple(self.ignore_files),
            self.exclude_caches,
            self.one_file_system,
            self.larger_than,
            tuple(self.exclude_if_present),
        )


Failed = Callable[[str, OSError], None]
"""Called with the path of what cannot be looked at, relative to the directory, and why."""


def walk(folder: str, selection: Selection, failed: Failed) -> Iterator[tuple[str, os.DirEntry[str], int, bool]]:
    """Find everything in a folder, directories before what is in them.

    Nothing is found below what is left out. Directories are held open, and no link is followed: somebody who puts a
    link in the place of a directory meanwhile leads nobody elsewhere.

    Args:
        folder: The folder, an absolute path without a link in it.
        selection: What belongs to its tree.
        failed: Called for a directory, or an ignore file, that cannot be read.

    Yields:
        The path relative to the folder, what `os.scandir` says of it, the descriptor of the directory that it is in,
        and whether it is left out. The second and third are valid until the next one is found.
    """
    try:
        held = [open_directory(folder)]
    except OSError as error:
        failed("", error)
        return
    device = os.fstat(held[0]).st_dev
    waiting: list[tuple[str, str, int, tuple[Rules, ...]]] = [("", ".", 1, rules_of(selection.excludes, 0))]
    try:
        while waiting:
            prefix, name, depth, rules = waiting.pop()
            # What is in a directory comes before its siblings, so that those above it are the first ones held.
            while len(held) > depth:
                os.close(held.pop())
            try:
                directory = os.open(name, DIRECTORY, dir_fd=held[-1])
                held.append(directory)
                if selection.one_file_system and os.fstat(directory).st_dev != device:
                    continue
                with os.scandir(directory) as found:
                    entries = list(found)
            except OSError as error:
                failed(prefix.rstrip("/"), error)
                continue
            for entry in entries if selection.ignore_files else ():
                if entry.name in selection.ignore_files and entry.is_file(follow_symlinks=False):
                    try:
                        patterns = _read(directory, entry.name).decode("utf-8-sig", "surrogateescape")
                        lines = patterns.replace("\r\n", "\n").replace("\r", "\n").split("\n")
                        rules = (*rules_of(lines, len(prefix)), *rules)
                    except OSError as error:
                        failed(prefix + entry.name, error)
            marks = [entry.name for entry in entries if _is_mark(directory, entry, selection)]
            for entry in entries:
                path = prefix + entry.name
                is_directory = entry.is_dir(follow_symlinks=False)
                if (
                    entry.name.startswith(RESTORING)
                    or (marks and entry.name not in marks)
                    or (rules and left_out(rules, path, entry.name, is_directory))
                    or (selection.larger_than is not None and _is_larger(entry, selection.larger_than))
                ):
                    yield path, entry, directory, True
                    continue
                yield path, entry, directory, False
                if is_directory:
                    waiting.append((f"{path}/", entry.name, depth + 1, rules))
    finally:
        for directory in held:
            os.close(directory)


def _read(directory: int, name: str, length: int = -1) -> bytes:
    """Read a file in an open directory, or the beginning of it. Nothing but a file is read, and no link followed."""
    with open(os.open(name, FILE, dir_fd=directory), "rb") as file:
        return file.read(length) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""


def _is_mark(directory: int, entry: os.DirEntry[str], selection: Selection) -> bool:
    """Whether an entry says that the contents of its directory are left out."""
    if entry.name in selection.exclude_if_present:
        return entry.is_file(follow_symlinks=False)
    return selection.exclude_caches and _is_tag(directory, entry)


def _is_tag(directory: int, entry: os.DirEntry[str]) -> bool:
    if entry.name != _TAG or not entry.is_file(follow_symlinks=False):
        return False
    try:
        return _read(directory, _TAG, len(_TAG_CONTENT)) == _TAG_CONTENT
    except OSError:
        return False


def _is_larger(entry: os.DirEntry[str], limit: int) -> bool:
    try:
        return entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_size > limit
    except OSError:  # gone meanwhile, as the caller finds out next
        return False


class Known(Protocol):
    """Which files are stored already, from an earlier scan."""

    entries: Sequence[Entry]

    def unchanged(self, raw: bytes, found: os.stat_result) -> int:
        """Return the number of the entry of a file that did not change; -1 if it has to be read."""


@dataclass(slots=True)
class Scan:
    """What was found in a directory.

    Attributes:
        root: The entry of the directory itself.
        entries: What is in it, sorted by path.
        known: For each entry the number of the earlier one that still describes it, or -1.
        looked: When the scan began, in nanoseconds since 1970.
        unreadable: What could not be looked at: its path, and why.
        vanished: Paths of what was gone when it was looked at.
        skipped: Paths of what a tree cannot hold: sockets and devices.
        left_out: Paths of everything that is unreadable or skipped. A restore must not take it for deleted.
    """

    root: Entry
    looked: int
    entries: list[Entry] = field(default_factory=list)
    known: list[int] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    vanished: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    left_out: list[bytes] = field(default_factory=list)

    def failed(self, path: str, error: OSError) -> None:
        """Note what cannot be looked at or read."""
        if isinstance(error, FileNotFoundError) and path:
            self.vanished.append(path)
            return
        self.unreadable.append(f"{path or '.'}: {error.strerror}")
        self.left_out.append(os.fsencode(path))


def scan(root: str, selection: Selection, known: Known | None = None, *, hard_links: bool = True) -> Scan:
    """Look at everything in a directory, and read no file.

    Args:
        root: The directory, without a link in its path.
        selection: What belongs to its tree.
        known: An earlier scan, whose unchanged entries are taken over.
        hard_links: Whether further names of a file become links to the first one. If False, each is a file.

    Raises:
        OSError: The directory itself cannot be looked at.
        NotADirectoryError: It is none.
    """
    looked = time.time_ns()
    with opened(root) as folder:
        done = Scan(entry_of(b"", os.fstat(folder), xattrs=xattrs_of(folder)), looked)
    found: list[tuple[bytes, Entry, int, tuple[int, int] | None]] = []
    for path, item, directory, is_left_out in walk(root, selection, done.failed):
        if is_left_out:
            continue
        try:
            raw = check_path(os.fsencode(path))
            status = item.stat(follow_symlinks=False)
            number, inode = -1, None
            if stat.S_ISREG(status.st_mode):
                inode = (status.st_ino, status.st_dev) if status.st_nlink > 1 and hard_links else None
                number = -1 if known is None else known.unchanged(raw, status)
                entry = entry_of(raw, status) if known is None or number < 0 else known.entries[number]
            elif stat.S_ISLNK(status.st_mode):
                entry = entry_of(
                    raw, status, os.readlink(os.fsencode(item.name), dir_fd=directory), _xattrs(directory, item)
                )
            elif stat.S_ISDIR(status.st_mode) or stat.S_ISFIFO(status.st_mode):
                entry = entry_of(raw, status, xattrs=_xattrs(directory, item))
            else:
                done.skipped.append(path)
                done.left_out.append(raw)
                continue
        except InvalidName as error:
            done.unreadable.append(str(error))
            done.left_out.append(os.fsencode(path))
            continue
        except OSError as error:
            done.failed(path, error)
            continue
        found.append((raw, entry, number, inode))
    found.sort(key=_path)
    _enter(done, found)
    return done


def _enter(done: Scan, found: Sequence[tuple[bytes, Entry, int, tuple[int, int] | None]]) -> None:
    """Enter what was found, with all names of a file but the first as links to that."""
    names: dict[tuple[int, int], bytes] = {}
    directories = {b""}
    for raw, entry, number, inode in found:
        if raw.rpartition(b"/")[0] not in directories:
            # Somebody moved or replaced the directory between two looks at it: no tree could hold what was in it.
            done.vanished.append(entry.path)
            continue
        if entry.is_directory:
            directories.add(raw)
        if inode is not None and (first := names.setdefault(inode, raw)) != raw:
            entry, number = msgspec.structs.replace(entry, link=first, extents=None), -1
        elif entry.link and entry.is_file:  # its first name is gone, so that now it is the one with the bytes
            entry, number = msgspec.structs.replace(entry, link=b""), -1
        done.entries.append(entry)
        done.known.append(number)


def _path(found: tuple[bytes, Entry, int, object]) -> bytes:
    return found[0]


# --- what the system says ----------------------------------------------------------------------------------------


def entry_of(
    raw: bytes,
    status: os.stat_result,
    link: bytes = b"",
    xattrs: dict[bytes, bytes] | None = None,
    extents: tuple[tuple[int, int], ...] | None = None,
) -> Entry:
    """Make the entry of something that was looked at."""
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
    """Return what differs after a file was changed."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def extents_of(file: int, status: os.stat_result) -> tuple[tuple[int, int], ...] | None:
    """Find where the data of a sparse file is; None if it has no holes."""
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


def _xattrs(directory: int, item: os.DirEntry[str]) -> dict[bytes, bytes] | None:
    return xattrs_of(path_of(directory, os.fsencode(item.name)))


def xattrs_of(where: bytes | int) -> dict[bytes, bytes] | None:
    """Read the extended attributes of a file, or of a link itself; None if it has none."""
    if not hasattr(os, "listxattr"):
        return None
    follow = isinstance(where, int)
    try:
        names = os.listxattr(where, follow_symlinks=follow)
        return {os.fsencode(name): os.getxattr(where, name, follow_symlinks=follow) for name in names} or None
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENODATA):
            return None
        raise
