"""What the answers of object stores mean, by their code or HTTP status."""

from __future__ import annotations

import re

from ...errors import (
    ObjectMissing,
    PermissionDenied,
    SnapshotsError,
    StorageError,
    StorageFull,
    StorageUnavailable,
    UnsupportedStorage,
)


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
    "QuotaExceeded": (StorageFull, "Raise the quota, or prune the repository."),
}
_STATUSES: dict[int | None, _Meaning] = {
    401: _DENIED,
    403: _DENIED,
    404: (ObjectMissing, "It may have been pruned since: open it again."),
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
    507: (StorageFull, "Free some space, or prune the repository."),
}


# Google's tokens are checked by a request whose URL holds them.
_TOKEN = re.compile(r"(?<=access_token=)[^&\s)]+")


def meaning(status: int | None, code: str, detail: object, where: str) -> SnapshotsError:
    """The error for an answer; `detail` is what the store said, and `where` what it happened to."""
    kind, advice = _CODES.get(code) or _STATUSES.get(status) or _OTHER
    said = str(detail or kind.__doc__).rstrip(".")
    return kind(f"{where}: {said} ({code or status}). {advice}")


def unreachable(error: Exception, where: str) -> StorageUnavailable:
    """The error for no answer at all."""
    reason = _TOKEN.sub("...", str(error)) or type(error).__name__
    return StorageUnavailable(f"{where}: no answer ({reason}). Check the network and the endpoint.")
