"""Clients of the libraries below: made once for each process, and their answers translated into our errors."""

from __future__ import annotations

import contextlib
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
"""Options for every file system of fsspec: what other writers do is seen at once."""


class PerProcess(Generic[T]):
    """Something that a forked child makes anew. It never closes the parent's, which would disturb the parent."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: dict[int, T] = {}

    def __call__(self) -> T:
        pid = os.getpid()
        found = self._made.get(pid)
        # No lock, which a fork could copy while it is held: of two made at once the second is dropped.
        return self._made.setdefault(pid, self._make()) if found is None else found


@contextlib.contextmanager
def blaming_options(url: str, hide: Callable[[str], str]) -> Iterator[None]:
    """Turn what Python says about the arguments of a client into an error about the options that the user gave."""
    try:
        yield
    except (TypeError, AttributeError, LookupError, ValueError, FileNotFoundError) as error:
        reason = hide(f"{type(error).__name__}: {error}".rstrip(".: "))
        raise InvalidArgument(f"{url}: the URL or storage_options do not fit ({reason}). Correct them.") from error


class Exists(StorageError):
    """The store refused an exclusive create, because the object is there already."""


class Contended(StorageUnavailable):
    """The store refused a request, because another one on the same object was under way."""


class BeyondEnd(StorageError):
    """A range that begins where the object has ended."""


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

# Google's tokens are checked by a request whose URL holds them: those that come from a file or from the environment,
# too, which no list of given secrets has.
_TOKEN = re.compile(r"(?<=access_token=)[^&\s)]+")


def answer_error(status: int | None, code: str, detail: object, where: str) -> SnapshotsError:
    """Return the error for what a store answered.

    Args:
        status: The HTTP status.
        code: The code of the store, such as `"SlowDown"`, or `""`.
        detail: What the store said.
        where: What messages call the object.
    """
    kind, advice = _CODES.get(code) or _STATUSES.get(status) or _OTHER
    said = str(detail or (kind.__doc__ or "").partition("\n")[0]).rstrip(".")
    return kind(f"{where}: {said} ({code or status}). {advice}")


def unreachable(error: Exception, where: str) -> StorageUnavailable:
    """Return the error for no answer at all."""
    reason = _TOKEN.sub("...", str(error)) or type(error).__name__
    return StorageUnavailable(f"{where}: no answer ({reason}). Check the network and the endpoint.")
