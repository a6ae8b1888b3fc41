"""Workspaces: folders in which a new state is built beside the old one, and then swapped in.

A *workspace* is a new private folder with a recognisable name on the file system of the target. So a rename can put its
contents in place, and nobody else can reach them before. The process holds a lock on its workspace until it ends. If
the process is killed, the next restore or backup of the same target finds the workspace without a lock, puts back what
was set aside, and deletes it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..messages import logger
from .descriptors import DIRECTORY, Parents, exists, opened, path_of
from .scanning import RESTORING

_ASIDE = b"old-"
"""The prefix of the name of an old state in a workspace, if it cannot be exchanged with the new one in one step."""
_WHERE = b"where-"
"""The prefix of the name of the file that contains the original path of an old state."""
_PATH_LIMIT = 1 << 20
"""The most bytes to read from such a file: no path is longer."""
_LIBC = ctypes.CDLL(None, use_errno=True)
_EXCHANGE = 2
"""The flag of Linux's renameat2 that exchanges two names."""
_PATH_ONLY = getattr(os, "O_PATH", 0)


@dataclass(frozen=True, slots=True)
class Workspace:
    """An open workspace.

    Attributes:
        folder: The descriptor of the folder that contains it.
        name: Its name in that folder.
        file: Its descriptor.
    """

    folder: int
    name: bytes
    file: int


@contextmanager
def workspace(folder: int, leftovers: list[str]) -> Iterator[Workspace]:
    """Make a workspace in an open folder, and delete it when the block ends.

    Args:
        folder: The descriptor of the folder.
        leftovers: Takes a sentence about what could not be deleted.
    """
    while True:
        name = os.fsencode(RESTORING) + secrets.token_hex(8).encode()
        os.mkdir(name, 0o700, dir_fd=folder)
        file = os.open(name, DIRECTORY, dir_fd=folder)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Another process may have renamed it, and put an older directory of ours in its place; or treated it as a
            # leftover before it was locked, and deleted it.
            if not _is_private(file) or os.listdir(file) or not exists(folder, name):
                continue
            try:
                yield Workspace(folder, name, file)
            finally:
                try:
                    delete_tree(folder, name)
                except OSError as error:  # the next restore tries again
                    place = os.fsdecode(os.path.join(os.path.realpath(path_of(folder)), name))
                    leftovers.append(
                        f"The folder {place} of a restore could not be deleted completely: {error.strerror}. What is "
                        "left in it may be an old state of the restored directory. Delete it as root. If a file may "
                        "not be changed (lsattr), allow that first (chattr -i -a)."
                    )
                    logger.warning("%s", leftovers[-1])  # a restore that failed has no report
            return
        finally:
            os.close(file)


def recover(target: str | os.PathLike[str]) -> None:
    """Clean up after a killed restore beside a target or in it. Old states that it had set aside are put back first."""
    place = Path(target)
    for path in (place.parent, place):
        try:
            names = [name for name in os.listdir(path) if name.startswith(RESTORING)]
        except OSError:
            continue
        for name in map(os.fsencode, names):
            with suppress(OSError), opened(os.path.realpath(path)) as folder:
                _recover(folder, name)


def _recover(folder: int, name: bytes) -> None:
    file = os.open(name, DIRECTORY, dir_fd=folder)
    try:
        # Ignore workspaces of other users: paths in them would be changed with the rights of this user.
        if not _is_private(file):
            return
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for each in os.listdir(file):
            if os.fsencode(each).startswith(_WHERE):
                _put_back(folder, file, os.fsencode(each))
        delete_tree(folder, name)
    finally:
        os.close(file)


def _put_back(folder: int, file: int, note: bytes) -> None:
    """Put back an old state that was set aside, unless a new state is in its place."""
    descriptor = os.open(note, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=file)
    try:
        raw = os.read(descriptor, _PATH_LIMIT)
    finally:
        os.close(descriptor)
    aside = _ASIDE + note.removeprefix(_WHERE)
    if not exists(file, aside):
        return
    with Parents(folder) as parents:
        parent, name = parents.find(raw)
        if not exists(parent, name):
            os.rename(aside, name, src_dir_fd=file, dst_dir_fd=parent)
            os.fsync(parent)


def _is_private(file: int) -> bool:
    status = os.fstat(file)
    return status.st_uid == os.geteuid() and not stat.S_IMODE(status.st_mode) & 0o077


def swap(space: Workspace, new: bytes, parent: int, name: bytes, where: bytes) -> None:
    """Replace an old state with a new one. The old state, if any, gets the new one's name in the workspace.

    Args:
        space: The workspace.
        new: The name of the new state in the workspace.
        parent: The descriptor of the directory that contains the old state.
        name: The name of the old state in that directory.
        where: The path of the old state, relative to the folder that contains the workspace.
    """
    if not exists(parent, name):
        os.rename(new, name, src_dir_fd=space.file, dst_dir_fd=parent)
    elif not _exchange(space.file, new, parent, name):
        note, aside = _WHERE + new, _ASIDE + new
        descriptor = os.open(note, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=space.file)
        try:
            # A kill between the next two renames leaves nothing in the place. Without the note, the old state
            # would be deleted with the workspace.
            os.write(descriptor, where)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(name, aside, src_dir_fd=parent, dst_dir_fd=space.file)
        try:
            os.rename(new, name, src_dir_fd=space.file, dst_dir_fd=parent)
        except BaseException:
            os.rename(aside, name, src_dir_fd=space.file, dst_dir_fd=parent)
            raise
        os.rename(aside, new, src_dir_fd=space.file, dst_dir_fd=space.file)


def _exchange(one_folder: int, one: bytes, other_folder: int, other: bytes) -> bool:
    """Swap two names atomically. Returns False if the system cannot."""
    call = getattr(_LIBC, "renameat2", None)
    if call is None:
        return False
    if call(one_folder, one, other_folder, other, _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), os.fsdecode(other))


def delete_tree(folder: int, name: bytes) -> None:
    """Delete a directory below an open folder, with all its contents. No link is followed.

    Directories that their owner may not write to are made writable first. Any depth can be deleted.
    """
    try:
        shutil.rmtree(name, dir_fd=folder)
    except (OSError, RecursionError) as error:
        # It is recursive, or keeps a directory of each level open, depending on the version of Python.
        if isinstance(error, OSError) and error.errno not in (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE):
            raise
        _flatten(folder, name)
        shutil.rmtree(name, dir_fd=folder)


def _flatten(folder: int, name: bytes) -> None:
    """Make all directories in a directory writable, and move them to its top: there may be too many in each other."""
    top = _open_writable(folder, name)
    moved = b".flat-" + secrets.token_hex(8).encode() + b"-"
    try:
        pending = _directories_in(top)
        number = 0
        while pending:
            file = _open_writable(top, pending.pop())
            try:
                for each in _directories_in(file):
                    os.close(_open_writable(file, each))  # to move a directory, you need the right to write to it
                    number += 1
                    pending.append(moved + b"%d" % number)
                    os.rename(each, pending[-1], src_dir_fd=file, dst_dir_fd=top)
            finally:
                os.close(file)
    finally:
        os.close(top)


def _directories_in(file: int) -> list[bytes]:
    with os.scandir(file) as found:
        return [os.fsencode(entry.name) for entry in found if entry.is_dir(follow_symlinks=False)]


def _open_writable(folder: int, name: bytes) -> int:
    file = os.open(name, _PATH_ONLY | DIRECTORY, dir_fd=folder)
    try:
        if _PATH_ONLY:
            os.chmod(path_of(file), 0o700)
        else:
            os.fchmod(file, 0o700)
    finally:
        os.close(file)
    return os.open(name, DIRECTORY, dir_fd=folder)


def sync_all(file: int) -> None:
    """Flush the whole file system of a directory to disk: flushing 20,000 files one by one takes ten times as long.

    Args:
        file: The descriptor of the directory.
    """
    call = getattr(_LIBC, "syncfs", None)
    if call is None:
        os.sync()
    elif call(file) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
