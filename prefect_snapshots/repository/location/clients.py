"""Create the clients of other libraries once per process, and convert their errors to ours."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from ...errors import (
    InvalidArgument,
    ObjectMissing,
    PermissionDenied,
    SnapshotsError,
    StorageError,
    StorageFull,
    StorageUnavailable,
    UnsupportedStorage,
)

T = TypeVar("T")

NO_CACHES = {"use_listings_cache": False, "skip_instance_cache": True}
"""Options for every file system of fsspec, so that changes by other writers are visible immediately."""


@functools.cache
def free_fsspec_in_children() -> None:
    """Give every forked child a lock of its own for the event loop of fsspec. Call this before you use fsspec.

    A child that was forked while another thread held the lock, for its first request, would wait for ever. fsspec means
    to do this itself, but until now it sets a variable that nothing reads.
    """
    from fsspec.asyn import reset_lock

    os.register_at_fork(after_in_child=reset_lock)


class PerProcess(Generic[T]):
    """An object that each forked child creates again. It never closes that of its parent, which is still in use."""

    def __init__(self, make: Callable[[], T]) -> None:
        free_fsspec_in_children()
        self._make = make
        self._made: dict[int, T] = {}

    def __call__(self) -> T:
        pid = os.getpid()
        found = self._made.get(pid)
        # There is no lock, because a fork could copy it while it is held. If two threads create one, one is dropped.
        return self._made.setdefault(pid, self._make()) if found is None else found


@contextlib.contextmanager
def blaming_options(url: str, hide: Callable[[str], str]) -> Iterator[None]:
    """Convert Python's errors about the arguments of a client to an error about the options of the user."""
    try:
        yield
    except (TypeError, AttributeError, LookupError, ValueError, FileNotFoundError) as error:
        reason = hide(f"{type(error).__name__}: {error}".rstrip(".: "))
        raise InvalidArgument(f"{url}: the URL or storage_options do not fit ({reason}). Correct them.") from error


class Exists(StorageError):
    """The store refused an exclusive create, because the object already exists."""


class Contended(StorageUnavailable):
    """The store refused a request, because it conflicted with another request for the same object."""


class BeyondEnd(StorageError):
    """The requested range begins after the end of the object."""


_Meaning = tuple[type[SnapshotsError], str]

_DENIED: _Meaning = (PermissionDenied, "Check the credentials, and what they are allowed to do.")
_PASSING: _Meaning = (StorageUnavailable, "Try again later.")
_OTHER: _Meaning = (StorageError, "Check the URL and storage_options.")

_CODES: dict[str, _Meaning] = {
    "NoSuchBucket": (StorageError, "Create the bucket first, or correct the URL."),
    "PreconditionFailed": (Exists, ""),
    "AccessDenied": _DENIED,
    "ExpiredToken": _DENIED,
    "InvalidToken": _DENIED,
    "TokenRefreshRequired": _DENIED,
    "InternalError": _PASSING,
    "SlowDown": _PASSING,
    "RequestTimeout": _PASSING,
    "QuotaExceeded": (StorageFull, "Raise the quota, or run `prefect-snapshots prune`."),
}
_STATUSES: dict[int | None, _Meaning] = {
    401: _DENIED,
    403: _DENIED,
    404: (ObjectMissing, "If it is part of a version, the version may have been deleted: open it again."),
    408: _PASSING,
    409: (Contended, "Try again later."),
    412: (Exists, ""),
    416: (BeyondEnd, ""),
    429: _PASSING,
    500: _PASSING,
    501: (UnsupportedStorage, "Use a store that supports conditional writes, or pass single_writer=True."),
    502: _PASSING,
    503: _PASSING,
    504: _PASSING,
    507: (StorageFull, "Free some space, or run `prefect-snapshots prune`."),
}

# Google's library checks tokens with a request whose URL contains them. This includes tokens from files and from the
# environment, which are not in the list of secrets to hide.
_TOKEN = re.compile(r"(?<=access_token=)[^&\s)]+")


def answer_error(status: int | None, code: str, detail: object, where: str) -> SnapshotsError:
    """Return our error for the answer of a store.

    Args:
        status: The HTTP status.
        code: The error code of the store, such as `"SlowDown"`, or `""`.
        detail: The message of the store.
        where: The name of the object in messages.
    """
    kind, advice = _CODES.get(code) or _STATUSES.get(status) or _OTHER
    said = str(detail or (kind.__doc__ or "").partition("\n")[0]).rstrip(".")
    return kind(f"{where}: {said} ({code or status}). {advice}")


def unreachable(error: Exception, where: str) -> StorageUnavailable:
    """Return our error for a store that does not answer."""
    reason = _TOKEN.sub("...", str(error)) or type(error).__name__
    return StorageUnavailable(f"{where}: no answer ({reason}). Check the network and the endpoint.")
