"""Putting a durable file under a new name of an open directory, exclusively: the ways that file systems know."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Callable

from .files import NEW_FILE, write_all
from .paths import temporary_name


class WayUnknown(Exception):
    """This file system does not know this way to publish a file."""


def _anonymous(directory: int, name: str, data: bytes) -> bool:
    """A file gets its name when it is whole: nothing to clean up after a kill."""
    flag = getattr(os, "O_TMPFILE", None)
    if flag is None:
        raise WayUnknown
    try:
        file = os.open(".", flag | os.O_WRONLY | os.O_CLOEXEC, 0o666, dir_fd=directory)
        try:
            write_all(file, [data])
            os.fsync(file)
            # Without a directory descriptor Python would not call linkat(AT_SYMLINK_FOLLOW), which this needs.
            os.link(f"/proc/self/fd/{file}", name, dst_dir_fd=directory, follow_symlinks=True)
        finally:
            os.close(file)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in _UNKNOWN_CALL or error.errno == errno.ENOENT:
            raise WayUnknown from error
        raise
    return True


def _linked(directory: int, name: str, data: bytes) -> bool:
    def link(temporary: str) -> None:
        os.link(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)

    return _named(directory, data, link)


def _renamed(directory: int, name: str, data: bytes) -> bool:
    def rename(temporary: str) -> None:
        _rename_exclusively(directory, temporary, name)

    return _named(directory, data, rename)


WAYS: tuple[Callable[[int, str, bytes], bool], ...] = (_anonymous, _linked, _renamed)
"""Each takes a directory, a name and the bytes, and returns False when the name is taken. The best one first."""


def _named(directory: int, data: bytes, publish: Callable[[str], None]) -> bool:
    temporary = temporary_name()
    file = os.open(temporary, NEW_FILE, 0o666, dir_fd=directory)
    try:
        write_all(file, [data])
        os.fsync(file)
        publish(temporary)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in _UNKNOWN_CALL:
            raise WayUnknown from error
        raise
    finally:
        os.close(file)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=directory)
    return True


def _rename_exclusively(directory: int, old: str, new: str) -> None:
    """renameat2(RENAME_NOREPLACE), which Python does not offer."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError as error:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from error
    if renameat2(directory, os.fsencode(old), directory, os.fsencode(new), _RENAME_NOREPLACE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), new)


_RENAME_NOREPLACE = 1
# How file systems say that they lack hard links, unnamed files or exclusive renames.
_UNKNOWN_CALL = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EMLINK, errno.EISDIR}
