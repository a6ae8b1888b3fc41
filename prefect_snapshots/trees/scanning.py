"""Scan a directory on the disk into entries, without reading its files."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec

from ..arguments import checking_types
from ..errors import InvalidArgument, InvalidName
from .descriptors import DIRECTORY, FILE, flags, open_below, open_directory, opened, path_of
from .entries import FIRST, LAST, Entry, check_path
from .patterns import Rules, left_out, rules_of

RESTORING = ".prefect-snapshots-restoring-"
"""The prefix of the names of workspaces, in which restores build new states. They are never part of a tree."""
_HELD = 64
"""The most directories to keep open at once. A process may often have only about 1,000 open files in all."""
_TAG = "CACHEDIR.TAG"
_TAG_CONTENT = b"Signature: 8a477f597d28d172789f06886806bc55"
"""The first bytes of a valid tag, see https://bford.info/cachedir/. Other files of this name have no meaning."""


class FileSelection(msgspec.Struct, array_like=True, frozen=True):
    """Which files in a directory belong to its tree. Backups exclude all others, and restores do not change them.

    Attributes:
        excludes: Patterns of what to exclude, as in `.gitignore`.
        ignore_files: Names of files that contain such patterns for their directory.
        exclude_caches: Exclude the contents of directories with a valid `CACHEDIR.TAG`, except for the tag.
        one_file_system: Exclude the contents of mount points.
        larger_than: Exclude files of more bytes. None: no limit.
        exclude_if_present: Exclude the contents of directories with a file of one of these names, except for that file.
    """

    excludes: tuple[str, ...] = ()
    ignore_files: tuple[str, ...] = ()
    exclude_caches: bool = False
    one_file_system: bool = False
    larger_than: int | None = None
    exclude_if_present: tuple[str, ...] = ()


@checking_types
@dataclass(frozen=True)
class Directory:
    """A directory to back up, with all attributes that `rsync -aHSX` copies.

    Args:
        path: The path of the directory. If it is a link, it is followed. Links in the directory are backed up as links,
            unless you pass `follow_links=True`.
        name: The name of the directory in backups. Default: the last part of the path.
        excludes: Patterns of what to exclude, as in `.gitignore`.
        ignore_files: Names of files in the tree that contain such patterns for their directory.
        exclude_caches: Whether to exclude the contents of directories that a valid `CACHEDIR.TAG` marks as caches.
        one_file_system: Whether to exclude file systems that are mounted in the directory. Their mount points are
            backed up as empty directories.
        larger_than: Exclude files of more bytes than this. Default: no limit.
        exclude_if_present: Names of marker files. The contents of directories with a marker are excluded, except for
            the marker.
        strict: Whether a file that cannot be read makes the backup fail. If False, it is reported and excluded.
        follow_links: Back up what links lead to instead of the links, also outside the directory. A restore writes
            files and directories where the links were, and does not change what they lead to. A link to nothing, or to
            a directory above it, counts as a file that cannot be read.
        claimed: Places that other sources of the same backup contain, which no link is followed to. Set by
            `BackupManager`.

    A restore does not change excluded files.

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
    follow_links: bool = False
    claimed: Sequence[Path] = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(os.path.abspath(os.path.expanduser(self.path))))
        object.__setattr__(self, "name", self.name or Path(self.path).name)
        if not self.name:
            raise InvalidArgument(f"The directory {self.path} has no name. Pass name=...")
        for what in ("excludes", "ignore_files", "exclude_if_present"):
            if isinstance(getattr(self, what), str):
                value = getattr(self, what)
                raise InvalidArgument(f"{what} must be a sequence of strings, not one string. Write ({value!r},).")
        if self.larger_than is not None and self.larger_than < 0:
            raise InvalidArgument(f"larger_than must be a number of bytes, not {self.larger_than}.")

    @property
    def selection(self) -> FileSelection:
        """The files that belong to the backup."""
        return FileSelection(
            tuple(self.excludes),
            tuple(self.ignore_files),
            self.exclude_caches,
            self.one_file_system,
            self.larger_than,
            tuple(self.exclude_if_present),
        )


Failed = Callable[[str, OSError], None]
"""Called with a path that cannot be read, relative to the directory, and the reason."""


def walk(
    folder: str,
    selection: FileSelection,
    failed: Failed,
    *,
    follow_links: bool = False,
    claimed: Collection[Path] = (),
) -> Iterator[tuple[str, os.DirEntry[str], int, bool]]:
    """Find everything in a folder, directories before their contents.

    The contents of excluded directories are skipped. Directories are kept open, and no link is followed, so replacing a
    directory with a link during the scan leads nowhere else.

    Args:
        folder: The folder, an absolute path without links.
        selection: Which files belong to its tree.
        failed: Called for a directory, or an ignore file, that cannot be read.
        follow_links: Whether to follow links in the folder after all. A link to a directory above it is a failure.
        claimed: Files and directories to exclude, wherever a link leads to them.

    Yields:
        The path relative to the folder, its entry from `os.scandir`, the descriptor of the directory that contains it,
        and whether it is excluded. The second and third are valid until the next item.
    """
    try:
        held = _WalkFolders(open_directory(folder), follow_links)
    except OSError as error:
        failed("", error)
        return
    device = os.fstat(held.root).st_dev
    inodes = {(found.st_dev, found.st_ino) for found in map(_status, claimed) if found is not None}
    waiting: list[tuple[str, str, int, tuple[Rules, ...]]] = [("", ".", 1, rules_of(selection.excludes, 0))]
    try:
        while waiting:
            prefix, name, depth, rules = waiting.pop()
            try:
                directory = held.open(prefix, name, depth)
                if selection.one_file_system and os.fstat(directory).st_dev != device:
                    continue
                with os.scandir(directory) as found:
                    entries = list(found)
            except OSError as error:
                failed(prefix.rstrip("/"), error)
                continue
            for entry in entries if selection.ignore_files else ():
                if entry.name in selection.ignore_files and entry.is_file(follow_symlinks=follow_links):
                    try:
                        patterns = _read(directory, entry.name, follow_links=follow_links).decode(
                            "utf-8-sig", "surrogateescape"
                        )
                        lines = patterns.replace("\r\n", "\n").replace("\r", "\n").split("\n")
                        rules = (*rules_of(lines, len(prefix)), *rules)
                    except OSError as error:
                        failed(prefix + entry.name, error)
            marks = [entry.name for entry in entries if _is_mark(directory, entry, selection, follow_links)]
            for entry in entries:
                path = prefix + entry.name
                is_directory = entry.is_dir(follow_symlinks=follow_links)
                if (
                    entry.name.startswith(RESTORING)
                    or (marks and entry.name not in marks)
                    or (rules and left_out(rules, path, entry.name, is_directory))
                    or (selection.larger_than is not None and _is_larger(entry, selection.larger_than, follow_links))
                    or (inodes and _is_one_of(entry, inodes))
                ):
                    yield path, entry, directory, True
                    continue
                yield path, entry, directory, False
                if is_directory:
                    waiting.append((f"{path}/", entry.name, depth + 1, rules))
    finally:
        held.close()


class _WalkFolders:
    """Keeps the directory of a walk and those above it open, up to `_HELD`. The others are opened again when needed.

    The contents of a directory must come before its siblings.

    Args:
        root: The descriptor of the folder. It is closed by `close`.
        follow_links: Whether links are followed.
    """

    def __init__(self, root: int, follow_links: bool) -> None:
        self.root = root
        self._follow = follow_links
        self._files = [root]  # from the root to the current directory; -1: closed
        self._inodes: list[tuple[int, int]] = []

    def open(self, prefix: str, name: str, depth: int) -> int:
        """Open a directory. Those that are not above it are closed.

        Args:
            prefix: Its path relative to the root, with a slash at the end. Empty: the root itself.
            name: Its name.
            depth: How many directories are above it, with the root twice.

        Raises:
            OSError: It cannot be opened, or contains itself because of a link.
        """
        while len(self._files) > depth:
            _close(self._files.pop())
        del self._inodes[depth - 1 :]
        if self._files[-1] < 0:
            above = os.fsencode(prefix).rstrip(b"/").rpartition(b"/")[0]
            self._files[-1] = open_below(self.root, above, follow_links=self._follow)
        directory = os.open(name, flags(DIRECTORY, self._follow), dir_fd=self._files[-1])
        if self._follow:
            status = os.fstat(directory)
            if (inode := (status.st_dev, status.st_ino)) in self._inodes:
                os.close(directory)
                raise OSError(errno.ELOOP, "because of a link, it contains itself")
            self._inodes.append(inode)
        self._files.append(directory)
        if len(self._files) > _HELD:
            _close(self._files[-_HELD])
            self._files[-_HELD] = -1
        return directory

    def close(self) -> None:
        """Close all of them."""
        for file in self._files:
            _close(file)


def _close(file: int) -> None:
    if file >= 0:
        os.close(file)


def _status(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:  # there is nothing yet, or it cannot be reached
        return None


def _is_one_of(entry: os.DirEntry[str], inodes: Collection[tuple[int, int]]) -> bool:
    try:
        found = entry.stat()
    except OSError:  # a link to nothing, which the caller notices next
        return False
    return (found.st_dev, found.st_ino) in inodes


def _read(directory: int, name: str, length: int = -1, *, follow_links: bool) -> bytes:
    """Read a file in an open directory, or its beginning. Only regular files are read."""
    with open(os.open(name, flags(FILE, follow_links), dir_fd=directory), "rb") as file:
        return file.read(length) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""


def _is_mark(directory: int, entry: os.DirEntry[str], selection: FileSelection, follow_links: bool) -> bool:
    """Return whether an entry means that the contents of its directory are excluded."""
    if entry.name in selection.exclude_if_present:
        return entry.is_file(follow_symlinks=follow_links)
    return selection.exclude_caches and _is_tag(directory, entry, follow_links)


def _is_tag(directory: int, entry: os.DirEntry[str], follow_links: bool) -> bool:
    if entry.name != _TAG or not entry.is_file(follow_symlinks=follow_links):
        return False
    try:
        return _read(directory, _TAG, len(_TAG_CONTENT), follow_links=follow_links) == _TAG_CONTENT
    except OSError:
        return False


def _is_larger(entry: os.DirEntry[str], limit: int, follow_links: bool) -> bool:
    try:
        return entry.is_file(follow_symlinks=follow_links) and entry.stat(follow_symlinks=follow_links).st_size > limit
    except OSError:  # it was deleted, which the caller notices next
        return False


class KnownFiles(Protocol):
    """The files of an earlier scan that are already stored."""

    entries: Sequence[Entry]

    def unchanged(self, raw: bytes, found: os.stat_result) -> int:
        """Return the number of the entry of a file that did not change, or -1 if it must be read."""


@dataclass(slots=True)
class Scan:
    """The result of scanning a directory.

    Attributes:
        root: The entry of the directory itself.
        entries: Its contents, sorted by path.
        known: For each entry the number of the earlier entry that still describes it, or -1.
        looked: When the scan started, in nanoseconds since 1970.
        unreadable: What could not be read: its path, and why.
        vanished: Paths that were deleted during the scan.
        skipped: Paths of sockets and devices, which a tree cannot contain.
        left_out: Paths of everything that is unreadable or skipped. A restore must not treat it as deleted.
        follow_links: Whether links in the directory were followed.
    """

    root: Entry
    looked: int
    entries: list[Entry] = field(default_factory=list)
    known: list[int] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    vanished: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    left_out: list[bytes] = field(default_factory=list)
    follow_links: bool = False

    def failed(self, path: str, error: OSError) -> None:
        """Record a path that cannot be read."""
        if isinstance(error, FileNotFoundError) and path:
            self.vanished.append(path)
            return
        self.unreadable.append(f"{path or '.'}: {error.strerror}")
        self.left_out.append(os.fsencode(path))


def scan(
    root: str,
    selection: FileSelection,
    known: KnownFiles | None = None,
    *,
    hard_links: bool = True,
    follow_links: bool = False,
    claimed: Collection[Path] = (),
) -> Scan:
    """Scan a directory without reading its files.

    Args:
        root: The directory, without links in its path.
        selection: Which files belong to its tree.
        known: An earlier scan, whose entries of unchanged files are used again.
        hard_links: Whether to record hard links as links to the first name of a file. If False, each is a file.
        follow_links: Whether to record what links in the directory lead to, instead of the links.
        claimed: With `follow_links`, the files and directories to leave out, wherever a link leads to them.

    Raises:
        OSError: The directory itself cannot be read.
        NotADirectoryError: It is not a directory.
    """
    looked = time.time_ns()
    with opened(root) as folder:
        done = Scan(entry_of(b"", os.fstat(folder), xattrs=xattrs_of(folder)), looked, follow_links=follow_links)
    found: list[tuple[bytes, Entry, int, tuple[int, int] | None]] = []
    found_here = walk(root, selection, done.failed, follow_links=follow_links, claimed=claimed if follow_links else ())
    for path, item, directory, is_left_out in found_here:
        if is_left_out:
            continue
        try:
            raw = check_path(os.fsencode(path))
            status = item.stat(follow_symlinks=follow_links)
            number, inode = -1, None
            if stat.S_ISREG(status.st_mode):
                inode = (status.st_ino, status.st_dev) if status.st_nlink > 1 and hard_links else None
                number = -1 if known is None else known.unchanged(raw, status)
                entry = entry_of(raw, status) if known is None or number < 0 else known.entries[number]
            elif stat.S_ISLNK(status.st_mode):
                entry = entry_of(
                    raw, status, os.readlink(os.fsencode(item.name), dir_fd=directory), _xattrs(directory, item, False)
                )
            elif stat.S_ISDIR(status.st_mode) or stat.S_ISFIFO(status.st_mode):
                entry = entry_of(raw, status, xattrs=_xattrs(directory, item, follow_links))
            else:
                done.skipped.append(path)
                done.left_out.append(raw)
                continue
        except InvalidName as error:
            done.unreadable.append(str(error))
            done.left_out.append(os.fsencode(path))
            continue
        except OSError as error:
            if follow_links and item.is_symlink():
                done.unreadable.append(f"{path}: it is a link to nothing")
                done.left_out.append(os.fsencode(path))
            else:
                done.failed(path, error)
            continue
        found.append((raw, entry, number, inode))
    found.sort(key=_path)
    _enter(done, found)
    return done


def _enter(done: Scan, found: Sequence[tuple[bytes, Entry, int, tuple[int, int] | None]]) -> None:
    """Add the entries that were found. All names of a file but the first become links to the first."""
    names: dict[tuple[int, int], bytes] = {}
    directories = {b""}
    for raw, entry, number, inode in found:
        if raw.rpartition(b"/")[0] not in directories:
            # The directory was moved or replaced during the scan, so its contents cannot be in this tree.
            done.vanished.append(entry.path)
            continue
        if entry.is_directory:
            directories.add(raw)
        if inode is not None and (first := names.setdefault(inode, raw)) != raw:
            entry, number = msgspec.structs.replace(entry, link=first, extents=None), -1
        elif entry.link and entry.is_file:  # its first name was deleted, so this name gets the bytes
            entry, number = msgspec.structs.replace(entry, link=b""), -1
        done.entries.append(entry)
        done.known.append(number)


def _path(found: tuple[bytes, Entry, int, object]) -> bytes:
    return found[0]


# --- metadata from the system ------------------------------------------------------------------------------------


def entry_of(
    raw: bytes,
    status: os.stat_result,
    link: bytes = b"",
    xattrs: dict[bytes, bytes] | None = None,
    extents: tuple[tuple[int, int], ...] | None = None,
) -> Entry:
    """Return the entry for a path, from its `stat`."""
    return Entry(
        raw,
        status.st_mode,
        status.st_size if stat.S_ISREG(status.st_mode) else 0,
        link,
        mtime_of(status),
        status.st_uid,
        status.st_gid,
        (status.st_ctime_ns, status.st_ino, status.st_dev),
        extents,
        xattrs,
    )


def state_of(status: os.stat_result) -> tuple[int, ...]:
    """Return the values that differ after a file was changed."""
    return status.st_size, mtime_of(status), status.st_ctime_ns, status.st_ino


def mtime_of(status: os.stat_result) -> int:
    """Return the time of the last change as an entry has it: file systems have times that no entry can have."""
    return min(max(status.st_mtime_ns, FIRST), LAST)


def extents_of(file: int, status: os.stat_result) -> tuple[tuple[int, int], ...] | None:
    """Return where a sparse file has data. None if it has no holes."""
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


def _xattrs(directory: int, item: os.DirEntry[str], follow_links: bool) -> dict[bytes, bytes] | None:
    return xattrs_of(path_of(directory, os.fsencode(item.name)), follow_links)


def xattrs_of(where: bytes | int, follow_links: bool = False) -> dict[bytes, bytes] | None:
    """Return the extended attributes of a file, or of a link itself. None if it has none."""
    if not hasattr(os, "listxattr"):
        return None
    follow = follow_links or isinstance(where, int)
    try:
        names = os.listxattr(where, follow_symlinks=follow)
        return {os.fsencode(name): os.getxattr(where, name, follow_symlinks=follow) for name in names} or None
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENODATA):
            return None
        raise
