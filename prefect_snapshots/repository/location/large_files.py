"""Writing large files past the page cache.

The system copies what is written into its cache page by page, which takes a good part of the time of a backup, and
displaces there what other programs read. Here it goes through a small buffer from which the disk takes it
itself (`O_DIRECT`). Disks take whole blocks only: what comes in small pieces, and the last block, go the usual way. So
does everything where a file system does not offer the other one.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Sequence

from .files import write_all
from .writing import Buffer

try:
    import fcntl
except ImportError:  # as on Windows
    _DIRECT = 0
else:
    _DIRECT = getattr(os, "O_DIRECT", 0)  # which macOS does not have

_BUFFER = 1024 * 1024
_BLOCK = 4096
"""Bytes of a block, or a multiple of them: some disks have 512."""
_LARGE = 256 * 1024
"""Bytes from which on it pays; fewer at once go the usual way, until there were more."""


class LargeFile:
    """Appends to an open file; call `finish` before anything else is done with it.

    Arguments:
        file: its descriptor.
        size: where in the file it begins.
    """

    def __init__(self, file: int, size: int = 0) -> None:
        self._file = file
        self._size = size
        self._buffer: mmap.mmap | None = None
        self._filled = 0
        self._usual = not _DIRECT

    def write(self, buffers: Sequence[Buffer]) -> None:
        """Append them in order."""
        if self._buffer is None:
            size = sum(memoryview(buffer).nbytes for buffer in buffers)
            if self._usual or size < _LARGE:
                write_all(self._file, buffers)
                self._size += size
                return
            # It begins where a page does, as disks want it.
            self._buffer = mmap.mmap(-1, _BUFFER, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for buffer in buffers:
            rest = memoryview(buffer).cast("B")
            while rest:
                end = _BUFFER - self._size % _BLOCK  # so that it is whole blocks from there on
                taken = min(len(rest), end - self._filled)
                self._buffer[self._filled : self._filled + taken] = rest[:taken]
                self._filled += taken
                rest = rest[taken:]
                if self._filled == end:
                    self._write_out(direct=self._size % _BLOCK == 0)

    def finish(self) -> None:
        """Hand the rest to the file, which then takes anything again: also when there is no rest."""
        if self._buffer is not None:
            self._write_out(direct=False)

    def _write_out(self, *, direct: bool) -> None:
        assert self._buffer is not None
        rest = memoryview(self._buffer)[: self._filled]
        self._size += self._filled
        self._filled = 0
        if not self._usual:
            self._switch(direct=direct)
        while rest:
            try:
                rest = rest[os.write(self._file, rest) :]
            except OSError as error:
                if error.errno != errno.EINVAL or self._usual:
                    raise
                self._switch(direct=False)
                self._usual = True

    def _switch(self, *, direct: bool) -> None:
        flags = fcntl.fcntl(self._file, fcntl.F_GETFL)
        try:
            fcntl.fcntl(self._file, fcntl.F_SETFL, flags | _DIRECT if direct else flags & ~_DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._usual = True
