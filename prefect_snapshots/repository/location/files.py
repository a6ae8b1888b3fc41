"""Reading, writing and syncing with file descriptors."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence

from ...errors import StorageUnavailable
from .writing import Buffer

NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_MOST_BUFFERS = 1024  # IOV_MAX of Linux


def write_all(file: int, buffers: Sequence[Buffer]) -> None:
    """Write all buffers without joining them, however many there are and however little one call takes."""
    rest = [view.cast("B") for buffer in buffers if (view := memoryview(buffer)).nbytes]
    while rest:
        written = os.writev(file, rest[:_MOST_BUFFERS])
        taken = 0
        while taken < len(rest) and written >= len(rest[taken]):
            written -= len(rest[taken])
            taken += 1
        del rest[:taken]
        if written:
            rest[0] = rest[0][written:]


def pieces(file: int, start: int, length: int) -> Iterator[bytes]:
    """Up to `length` bytes from `start` on; more than one piece only beyond what one call returns (2 GiB)."""
    while length and (piece := os.pread(file, length, start)):
        yield piece
        start += len(piece)
        length -= len(piece)


def sync_directory(directory: int) -> None:
    """Make the entries of a directory durable."""
    try:
        os.fsync(directory)
    except OSError as error:
        # Some network file systems have nothing to sync in a directory, and say so.
        if error.errno not in {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}:
            raise


def sync_entry(directory: int, where: str) -> None:
    """Make the entry of an object in its directory durable. `where` names it.

    Raises:
        StorageUnavailable: it is not known whether it is.
    """
    try:
        sync_directory(directory)
    except OSError as error:
        raise StorageUnavailable(
            f"{where}: its directory could not be synced ({error.strerror}), so that it is not known whether it "
            "survives a loss of power. Check the disk."
        ) from error


def walk(top: str) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
    """Every file below a directory. What vanishes meanwhile is left out."""
    try:
        entries = os.scandir(top)
    except (FileNotFoundError, NotADirectoryError):
        return
    with entries:
        for entry in entries:
            # Links are followed: somebody may have moved the packs to another disk.
            if entry.is_dir():
                yield from walk(entry.path)
            else:
                with contextlib.suppress(FileNotFoundError):
                    yield entry, entry.stat()
