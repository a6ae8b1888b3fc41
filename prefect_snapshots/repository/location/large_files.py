"""Write large files without the page cache of the operating system.

Copying data into the page cache takes a large part of the time of a backup, and evicts data that other programs read.
So the data is copied to a small buffer, from which it is written directly to the disk (`O_DIRECT`). Disks accept only
whole blocks in this way: small pieces and the last block are written normally, and so is everything on a file system
without `O_DIRECT`.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Sequence

from .files import write_all
from .interface import Buffer

try:
    import fcntl
except ImportError:  # as on Windows
    _DIRECT = 0
else:
    _DIRECT = getattr(os, "O_DIRECT", 0)  # which macOS does not have

# The size of the buffer in bytes. Larger buffers are not faster, and each open file has one.
_BUFFER = 1024 * 1024
# A size in bytes that is a multiple of the block size of every common disk (512 or 4096).
_BLOCK = 4096
# Smaller writes in bytes do not benefit. A file that begins with small writes switches at the first larger one.
_LARGE = 256 * 1024


class LargeFile:
    """Append to an open file. Call `finish` before you use the file in another way.

    Args:
        file: The descriptor of the file.
        size: The offset in bytes of the first write. Default: 0.
    """

    def __init__(self, file: int, size: int = 0) -> None:
        self._file = file
        self._size = size
        self._buffer: mmap.mmap | None = None
        self._filled = 0
        self._usual = not _DIRECT

    def write(self, buffers: Sequence[Buffer]) -> None:
        """Append buffers in order."""
        if self._buffer is None:
            size = sum(memoryview(buffer).nbytes for buffer in buffers)
            if self._usual or size < _LARGE:
                write_all(self._file, buffers)
                self._size += size
                return
            # Direct writes need memory that is aligned to a page.
            self._buffer = mmap.mmap(-1, _BUFFER, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for buffer in buffers:
            rest = memoryview(buffer).cast("B")
            while rest:
                end = _BUFFER - self._size % _BLOCK  # whole blocks from there on
                taken = min(len(rest), end - self._filled)
                self._buffer[self._filled : self._filled + taken] = rest[:taken]
                self._filled += taken
                rest = rest[taken:]
                if self._filled == end:
                    self._write_out(direct=self._size % _BLOCK == 0)

    def finish(self) -> None:
        """Write the rest of the buffer. Afterwards you can use the file normally."""
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
