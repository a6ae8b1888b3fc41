"""Keep directories open, so that nothing below them is ever reached through a link.

Anybody who may write to a directory can replace its contents with a link between any two system calls. If each call
resolved a path again, this person could redirect it; if root runs the program, to any place. Everything here is
relative to a descriptor instead, and follows no link on the way.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from ..errors import PermissionDenied

_STEPS = 10_000
"""Maximal number of links and parts to follow in a path before it is considered a loop."""
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags to open a directory, and fail if it is a link."""

FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Flags to open a file, fail if it is a link, and not block if it has become a pipe."""


def flags(kind: int, follow_links: bool) -> int:
    """Return `DIRECTORY` or `FILE`, or the same flags without the failure if the user wants links to be followed."""
    return kind & ~os.O_NOFOLLOW if follow_links else kind


def resolve(path: str | os.PathLike[str]) -> Path:
    """Return an absolute path without links, like `os.path.realpath`.

    Raises:
        PermissionDenied: The user is root, and a link on the way belongs to another user, who could point it anywhere.
    """
    if os.geteuid():
        return Path(os.path.realpath(path))
    current = Path("/")
    steps = [*reversed(Path(os.path.abspath(path)).parts[1:])]
    for _ in range(_STEPS):
        if not steps:
            return current
        step = steps.pop()
        place = current / step if step != ".." else current.parent
        try:
            status = os.lstat(place)
        except (FileNotFoundError, NotADirectoryError):
            status = None
        if status is None or not stat.S_ISLNK(status.st_mode):
            current = place
            continue
        if status.st_uid:
            raise PermissionDenied(
                f"{place} is a link that belongs to the user {status.st_uid}, and root does not follow it: it could "
                "lead anywhere. Name the directory that it leads to."
            )
        target = Path(os.readlink(place))
        current = Path("/") if target.is_absolute() else current
        steps += [part for part in reversed(target.parts) if part != "/"]
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))


def open_directory(path: str | os.PathLike[str], *, create: bool = False) -> int:
    """Open a directory step by step from the root, following no link.

    Args:
        path: An absolute path without links, as from `os.path.realpath`.
        create: Whether to create missing directories.

    Raises:
        OSError: Something on the way is a link, or is not a directory.
    """
    top = os.open("/", DIRECTORY)
    try:
        return open_below(top, os.fsencode(path).strip(b"/"), create=create)
    finally:
        os.close(top)


def open_below(folder: int, raw: bytes, *, create: bool = False, follow_links: bool = False) -> int:
    """Open a directory below another one, following no link.

    Args:
        folder: The descriptor of the other one.
        raw: The path relative to it. Empty: the directory itself.
        create: Whether to create missing directories.
        follow_links: Whether to follow links after all.
    """
    current = os.open(".", DIRECTORY, dir_fd=folder)
    for step in raw.split(b"/") if raw else ():
        try:
            if create:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(step, dir_fd=current)
            following = os.open(step, flags(DIRECTORY, follow_links), dir_fd=current)
        finally:
            os.close(current)
        current = following
    return current


@contextlib.contextmanager
def opened(path: str | os.PathLike[str], *, create: bool = False) -> Iterator[int]:
    """Keep a directory open while the block runs. See `open_directory`."""
    file = open_directory(path, create=create)
    try:
        yield file
    finally:
        os.close(file)


@contextlib.contextmanager
def opened_below(folder: int, raw: bytes) -> Iterator[int]:
    """Keep a directory below another one open while the block runs. See `open_below`."""
    file = open_below(folder, raw)
    try:
        yield file
    finally:
        os.close(file)


class Parents:
    """Opens the directories of many paths below a folder, and keeps the last one open.

    Consecutive paths are mostly in the same directory, which is opened only once. Not safe for several threads.

    Args:
        folder: The descriptor of the folder, which must stay open.
        follow_links: Whether to follow links on the way.
    """

    def __init__(self, folder: int, *, follow_links: bool = False) -> None:
        self._folder = folder
        self._follow = follow_links
        self._raw = b""
        self._file = -1

    def find(self, raw: bytes) -> tuple[int, bytes]:
        """Return the descriptor of the directory of a path, and the last part of the path.

        The descriptor is valid until the next call.

        Raises:
            OSError: Something on the way is a link, or is not a directory.
        """
        directory, _, name = raw.rpartition(b"/")
        if not directory:
            return self._folder, name
        if directory != self._raw:
            deeper = self._raw and directory.startswith(self._raw + b"/")
            start, rest = (self._file, directory[len(self._raw) + 1 :]) if deeper else (self._folder, directory)
            file = open_below(start, rest, follow_links=self._follow)
            self.close()
            self._raw, self._file = directory, file
        return self._file, name

    def close(self) -> None:
        """Close the open directory."""
        if self._file >= 0:
            os.close(self._file)
        self._raw, self._file = b"", -1

    def __enter__(self) -> Parents:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def path_of(folder: int, raw: bytes = b"") -> bytes:
    """Return a path that goes through a descriptor, for system calls that take no descriptor of a directory.

    Only the last part of the path is resolved again: tell the call not to follow links.
    """
    return b"/proc/self/fd/%d/%s" % (folder, raw)


def exists(folder: int, raw: bytes) -> bool:
    """Return whether a name exists in a directory. A broken link exists."""
    try:
        os.stat(raw, dir_fd=folder, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def give(where: int | bytes | Path, uid: int, gid: int, folder: int | None = None) -> bool:
    """Set the owner and the group of a file, as far as this user may. No link is followed.

    Only root may set the owner, and not always: containers take this right away, or do not have every user. Then only
    the group is set, if this user is a member of it.

    Args:
        where: A descriptor, a path, or a name in `folder`.
        uid: The owner.
        gid: The group.
        folder: The descriptor of the directory that contains the name.

    Returns:
        Whether both are right now.
    """
    found = os.fstat(where) if isinstance(where, int) else os.stat(where, dir_fd=folder, follow_symlinks=False)
    for owner in (uid, -1):
        if (found.st_uid if owner == -1 else owner, gid) == (found.st_uid, found.st_gid):
            return uid == found.st_uid  # changing it would take setuid and capabilities away
        try:
            if isinstance(where, int):
                os.chown(where, owner, gid)
            else:
                os.chown(where, owner, gid, dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EINVAL):  # the second: this container does not have the user
                raise
        else:
            return owner != -1 or uid == found.st_uid
    return False


def not_owned(path: Path) -> str:
    """Return the sentence about a file for which `give` returned False."""
    return f"The owner or the group of {path} could not be set. Restore as root to set them."


def owned_by_others(path: Path) -> str:
    """Return a sentence about another user who can rename the contents of a directory, or a directory above it.

    Empty if only this user and root can.
    """
    for each in (path, *path.parents):
        status = os.stat(each)
        if status.st_uid not in (0, os.geteuid()):
            return f"{each} belongs to the user {status.st_uid}"
        if status.st_mode & 0o022 and not status.st_mode & 0o1000:
            return f"{each} can be written by other users"
    return ""
