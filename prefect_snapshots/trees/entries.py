"""The entries of a tree: the stored attributes of each file, directory, link and fifo.

A list of entries comes from storage, where an attacker may have written it. `check_entries` refuses it before it is
used if it names anything outside its tree or contains a number that no file system accepts.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable, Sequence

import msgspec

from ..errors import IntegrityError, InvalidName

_LEADS_OUT = re.compile(rb"\0|(?:^|/)\.{0,2}(?:/|$)")
_NAME_LIMIT = 255
"""Maximal length of a name in bytes, on Linux and macOS."""
_LINK_LIMIT = 4095
"""Maximal length of the target of a symbolic link in bytes, on Linux."""
_SIGNED = 2**63
"""Above the largest signed number of 64 bits, which the sizes of file systems are."""
FIRST, LAST = -(2**63), 2**64 - 1
"""The bounds of times in nanoseconds, which are also those of a number in the format: the years 1677 and 2554."""
_KINDS = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO)


class Entry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One file, directory, link or fifo.

    Attributes:
        raw: The path relative to the tree, with `/`. Bytes, because not every name on a disk is valid UTF-8.
        mode: Type and permissions, as in `stat`.
        size: Size of a file in bytes, including holes.
        link: The target of a symbolic link. For a hard link to a file: the path of the first entry of this file.
        mtime: Time of the last change, in nanoseconds since 1970.
        uid: Owner.
        gid: Group.
        state: Other values that change with the file: ctime in nanoseconds, inode, device. Zeros: unknown.
        extents: For a sparse file: where its data is, as (offset, length). The rest is holes.
        xattrs: Extended attributes.
    """

    raw: bytes
    mode: int
    size: int = 0
    link: bytes = b""
    mtime: int = 0
    uid: int = 0
    gid: int = 0
    state: tuple[int, int, int] = (0, 0, 0)
    extents: tuple[tuple[int, int], ...] | None = None
    xattrs: dict[bytes, bytes] | None = None

    @property
    def path(self) -> str:
        """The path as a string. Bytes that are not valid UTF-8 are decoded like `os.fsdecode` does."""
        return self.raw.decode("utf-8", "surrogateescape")

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file, or a hard link to one."""
        return stat.S_ISREG(self.mode)

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_symlink(self) -> bool:
        """Whether it is a symbolic link."""
        return stat.S_ISLNK(self.mode)

    @property
    def stored(self) -> int:
        """Number of its bytes in the body: 0 for holes and for all hard links but the first."""
        if self.link or not stat.S_ISREG(self.mode):
            return 0
        return self.size if self.extents is None else sum(length for _, length in self.extents)

    @property
    def spans(self) -> Sequence[tuple[int, int]]:
        """Where the data of the file is, as (offset, length): all of it, unless the file is sparse."""
        return ((0, self.size),) if self.extents is None else self.extents


def check_path(raw: bytes) -> bytes:
    """Refuse a path that leads out of its tree, or that no file system accepts.

    Returns:
        The path.

    Raises:
        InvalidName: The path is absolute, has an empty part, `.` or `..`, a NUL byte, or a name of over 255 bytes.
    """
    if _LEADS_OUT.search(raw):
        path = raw.decode("utf-8", "surrogateescape")
        raise InvalidName(f"The path {path!r} leads out of its folder, or has an empty part. It was not used.")
    if len(raw) > _NAME_LIMIT and max(map(len, raw.split(b"/"))) > _NAME_LIMIT:
        path = raw[:80].decode("utf-8", "surrogateescape")
        raise InvalidName(f"The path {path!r}... has a name of over {_NAME_LIMIT} bytes. It was not used.")
    return raw


def check_entries(entries: Iterable[Entry], size: int | None = None) -> int:
    """Refuse the entries of a tree if one of them leads out of it, or cannot exist in a file system.

    Args:
        entries: The entries. Directories must come before their contents.
        size: The size of the body in bytes, to which all files must add up. None: do not check it.

    Returns:
        The size of the body to which all files add up.

    Raises:
        InvalidName: An entry leads out of the tree, or contradicts another one.
        IntegrityError: The files do not add up to `size`.
    """
    seen: dict[bytes, Entry] = {}
    stored = 0
    for entry in entries:
        raw = check_path(entry.raw)
        if raw in seen:
            raise InvalidName(f"Two entries have the path {entry.path!r}. They were not used.")
        seen[raw] = entry
        parent = seen.get(raw.rpartition(b"/")[0])
        if not (parent.is_directory if parent else b"/" not in raw):
            raise InvalidName(f"{entry.path!r} is below something that is not a directory of this tree.")
        check_entry(entry)
        if entry.is_file and entry.link:
            first = seen.get(entry.link)
            if first is None or not first.is_file or first.link:
                raise InvalidName(f"{entry.path!r} is a hard link to something that is not a file of this tree.")
        stored += entry.stored
    if size is not None and stored != size:
        raise IntegrityError("The files do not add up to the size of their content: its manifest is damaged.")
    return stored


def check_entry(entry: Entry) -> None:
    """Refuse an entry with values that no file system accepts.

    Raises:
        InvalidName: A value is invalid. The message names the entry and the value.
    """
    kind = stat.S_IFMT(entry.mode) if 0 <= entry.mode < 1 << 16 else None  # which fails for huge numbers
    if kind not in _KINDS:
        raise InvalidName(f"{entry.path!r} is neither a file, a directory, a link nor a fifo.")
    if not (0 <= entry.size < _SIGNED and FIRST <= entry.mtime <= LAST):
        raise InvalidName(f"{entry.path!r} has an impossible size or time.")
    if not (0 <= entry.uid < 2**32 - 1 and 0 <= entry.gid < 2**32 - 1):  # the last number means "leave it" to chown
        raise InvalidName(f"{entry.path!r} has an impossible owner.")
    if kind == stat.S_IFLNK and not (0 < len(entry.link) <= _LINK_LIMIT and b"\0" not in entry.link):
        raise InvalidName(f"The link {entry.path!r} has an impossible target.")
    if entry.xattrs and any(not name or b"\0" in name for name in entry.xattrs):
        raise InvalidName(f"{entry.path!r} has an attribute with an impossible name.")
    end = 0
    for offset, length in entry.extents or ():
        if offset < end or length <= 0:
            raise InvalidName(f"The parts of {entry.path!r} overlap.")
        end = offset + length
    if end > entry.size:
        raise InvalidName(f"The parts of {entry.path!r} are beyond its end.")
