"""Locks on the bytes of a file, which the kernel releases when their holder is gone."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from .interface import ByteLocks

AVAILABLE = hasattr(fcntl, "F_OFD_SETLK")
"""Whether this operating system knows locks of an open file description."""

_FLOCK = struct.Struct("hhqqi4x")  # struct flock where off_t has 64 bits


class FileLocks(ByteLocks):
    """Locks of the open file description, so that two of these in one process keep each other out as well."""

    def __init__(self, file: int) -> None:
        self._file = file

    def take(self, number: int) -> bool:
        try:
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, _lock(fcntl.F_WRLCK, number))
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        return True

    def release(self, number: int) -> None:
        fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, _lock(fcntl.F_UNLCK, number))

    def is_held(self, number: int) -> bool:
        found: int = _FLOCK.unpack(fcntl.fcntl(self._file, fcntl.F_OFD_GETLK, _lock(fcntl.F_WRLCK, number)))[0]
        return found != fcntl.F_UNLCK

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _lock(kind: int, number: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, number, 1, 0)
