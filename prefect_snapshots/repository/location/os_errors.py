"""What the errors of the operating system mean here."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator

from ...errors import (
    ObjectMissing,
    PermissionDenied,
    SnapshotsError,
    StorageError,
    StorageFull,
    StorageUnavailable,
)

_Meaning = tuple[type[StorageError], str]

_NETWORK: _Meaning = (StorageUnavailable, "Check the network and the host.")
_NUMBERS: dict[int | None, _Meaning] = {
    errno.ENOSPC: (StorageFull, "Free some space, or prune the repository."),
    errno.EDQUOT: (StorageFull, "Free some of the quota, or prune the repository."),
    errno.EFBIG: (StorageFull, "Raise the limit on file sizes (ulimit -f)."),
    errno.EACCES: (PermissionDenied, "Check the owner and mode of the directory."),
    errno.EPERM: (PermissionDenied, "Check the owner and attributes of the directory."),
    errno.EROFS: (PermissionDenied, "Open the repository with read_only=True, or mount it writable."),
    errno.ENOENT: (ObjectMissing, "It may have been pruned since: open it again."),
    errno.ENOTDIR: (ObjectMissing, "A part of its path is a file."),
    errno.EISDIR: (ObjectMissing, "It is a directory."),
    errno.EMFILE: (StorageError, "Raise the limit on open files (ulimit -n)."),
    errno.ETIMEDOUT: (StorageUnavailable, "Check the network file system."),
    errno.ESTALE: (StorageUnavailable, "Check the network file system."),
    errno.ENETUNREACH: _NETWORK,
    errno.EHOSTUNREACH: _NETWORK,
}
# File systems that are written in Python raise these without a number, or with one of their own.
_TYPES: dict[type[OSError], _Meaning] = {
    FileNotFoundError: _NUMBERS[errno.ENOENT],
    PermissionError: (PermissionDenied, "Check the credentials, and what they are allowed to do."),
    ConnectionError: _NETWORK,
    TimeoutError: _NETWORK,
    socket.gaierror: _NETWORK,
}


def meaning(error: OSError, where: str) -> StorageError:
    """One of our errors for one of the operating system; `where` says what it happened to."""
    by_type = (found for kind, found in _TYPES.items() if isinstance(error, kind))
    kind, advice = _NUMBERS.get(error.errno) or next(by_type, (StorageError, "Check the disk."))
    return kind(f"{where}: {error.strerror or error}. {advice}")


@contextlib.contextmanager
def translated(where: str) -> Iterator[None]:
    """Turn what the operating system says into one of our errors."""
    try:
        yield
    except SnapshotsError:
        raise
    except OSError as error:
        raise meaning(error, where) from error
