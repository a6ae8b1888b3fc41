"""The entries of a tree: what is kept of each file, directory, link and fifo.

Paths are data. A list of entries that names anything outside of its own tree is refused before anything is done with
it.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable

import msgspec

from ..errors import InvalidName

_REFUSED = re.compile(rb"[\x00-\x1f\x7f]|(?:^|/)\.{0,2}(?:/|$)")


class Entry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One file, directory, link or fifo."""

    raw: bytes
    """The path relative to the part, with `/`: bytes, because not every name on a disk is text."""
    mode: int
    """Type and permissions, as in `stat`."""
    size: int = 0
    """Bytes of a file, its holes included."""
    link: bytes = b""
    """What a symbolic link names. Of a file: the path of the entry that it is another name of."""
    mtime: int = 0
    """In nanoseconds."""
    uid: int = 0
    gid: int = 0
    state: tuple[int, int, int] = (0, 0, 0)
    """What else changes when the file does: ctime in nanoseconds, inode, device. Zeros: not to be relied on."""
    extents: tuple[tuple[int, int], ...] | None = None
    """Of a sparse file: where its data lies, as (offset, length). The rest is holes."""
    xattrs: dict[str, bytes] | None = None

    @property
    def path(self) -> str:
        """The path as text; bytes that are none come out as `os.fsdecode` has them."""
        return self.raw.decode("utf-8", "surrogateescape")

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self.mode)

    @property
    def stored(self) -> int:
        """Bytes in the body."""
        if self.link or not stat.S_ISREG(self.mode):
            return 0
        return self.size if self.extents is None else sum(length for _, length in self.extents)


def check_path(raw: bytes) -> bytes:
    """Refuse a path that leads out of its part, or has control characters. Returns the path.

    Raises:
        InvalidName: why.
    """
    if found := _REFUSED.search(raw):
        path = raw.decode("utf-8", "surrogateescape")
        if found[0].strip(b"./"):
            raise InvalidName(f"the path {path!r} has control characters: rename the file, or exclude it")
        raise InvalidName(f"the path {path!r} leads out of its folder, or has an empty part: refused")
    return raw


def check_entries(entries: Iterable[Entry]) -> None:
    seen: dict[bytes, Entry] = {}
    for entry in entries:
        raw = check_path(entry.raw)
        if raw in seen:
            raise InvalidName(f"two entries of this backup claim the path {entry.path!r}: refused")
        seen[raw] = entry
        # Parents sort before what is in them.
        parent = seen.get(raw.rpartition(b"/")[0])
        if not (parent.is_directory if parent else b"/" not in raw):
            raise InvalidName(f"{entry.path!r} lies below something that is no directory of this backup: refused")
        _check_entry(entry, seen)


def _check_entry(entry: Entry, seen: dict[bytes, Entry]) -> None:
    kind = stat.S_IFMT(entry.mode)
    if kind not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO) or entry.mode >> 16 or entry.size < 0:
        raise InvalidName(f"{entry.path!r} is neither a file nor a directory, link or fifo: refused")
    if kind == stat.S_IFREG and entry.link:
        first = seen.get(entry.link)
        if first is None or not first.is_file or first.link:
            raise InvalidName(f"{entry.path!r} is another name of {entry.link!r}, which is no file here: refused")
    if kind == stat.S_IFLNK and (not entry.link or b"\0" in entry.link):
        raise InvalidName(f"the link {entry.path!r} names nothing: refused")
    end = 0
    for offset, length in entry.extents or ():
        if offset < end or length <= 0:
            raise InvalidName(f"the parts of {entry.path!r} overlap: refused")
        end = offset + length
    if end > entry.size:
        raise InvalidName(f"the parts of {entry.path!r} lie beyond its end: refused")
