"""Object Lock and the versions of objects in a bucket of S3.

In a bucket with versioning, an overwrite or a delete only hides the older version of an object. With Object Lock,
nobody can remove that version before its lock ends. So what a thief of credentials overwrites or deletes can be read as
it was.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from ...errors import InvalidArgument
from ..times import parse_time

_LONGEST = 36_500
"""Days. Nobody can shorten a lock in compliance mode, so that a typing error would be paid for."""

_MODES = ("GOVERNANCE", "COMPLIANCE")

OPTIONS = ("object_lock_days", "object_lock_mode", "as_of")
"""The storage options of this module, which s3fs does not know."""

Call = Callable[..., Awaitable[dict[str, Any]]]
"""Sends a request to S3: the name of the operation, and its arguments."""


@dataclass(frozen=True, slots=True)
class ObjectLock:
    """For how long new objects are locked.

    Attributes:
        days: How many days.
        mode: "GOVERNANCE": a role with a special permission can still delete. "COMPLIANCE": nobody can.
    """

    days: int
    mode: str

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> ObjectLock | None:
        """Return the lock that storage options ask for, or None."""
        days, mode = options.get("object_lock_days"), options.get("object_lock_mode", "GOVERNANCE")
        if days is None:
            if "object_lock_mode" in options:
                raise InvalidArgument("object_lock_mode needs object_lock_days, the number of days.")
            return None
        if type(days) is not int or not 1 <= days <= _LONGEST:
            raise InvalidArgument(f"object_lock_days must be a whole number from 1 to {_LONGEST:,}, not {days!r}.")
        if mode not in _MODES:
            raise InvalidArgument(f"object_lock_mode must be one of {', '.join(_MODES)}, not {mode!r}.")
        return cls(days, mode)

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of a PUT."""
        return {"ObjectLockMode": self.mode, "ObjectLockRetainUntilDate": self.end}

    @property
    def retention(self) -> dict[str, Any]:
        """The lock of an object that exists."""
        return {"Mode": self.mode, "RetainUntilDate": self.end}

    @property
    def end(self) -> datetime:
        """When a lock that begins now ends."""
        return datetime.now(UTC) + timedelta(days=self.days)

    def is_old(self, modified: float) -> bool:
        """Return whether the lock of an object ends within half of its time, if it got one when it was stored."""
        return datetime.now(UTC).timestamp() - modified > self.days * 86_400 / 2

    def ends_soon(self, end: datetime | None) -> bool:
        """Return whether a lock ends within half of its time. None: there is no lock."""
        return end is None or end - datetime.now(UTC) < timedelta(days=self.days / 2)


@dataclass(frozen=True, slots=True)
class ObjectVersion:
    """The version of an object at some time."""

    id: str
    size: int
    modified: datetime


def as_of(options: Mapping[str, Any]) -> datetime | None:
    """Return the time at which storage options want to see a bucket, or None for now."""
    moment = options.get("as_of")
    return None if moment is None else parse_time(moment)


async def versions(call: Call, prefix: str, moment: datetime) -> dict[str, ObjectVersion]:
    """Return the versions of all objects at some time, by their keys."""
    found: dict[str, ObjectVersion | None] = {}
    async for key, modified, version in _history(call, prefix):
        # The newest version of a key comes first. Of a version and a deletion in the same second, the version counts:
        # S3 tells times in seconds, and too much is better than too little.
        if modified <= moment and (
            key not in found or (found[key] is None and version and version.modified == modified)
        ):
            found[key] = version
    return {key: version for key, version in found.items() if version is not None}


async def _history(call: Call, prefix: str) -> AsyncIterator[tuple[str, datetime, ObjectVersion | None]]:
    """Yield every version of every object, and every deletion (None), the newest of a key first."""
    marker: dict[str, str] = {}
    while True:
        page = await call("list_object_versions", Prefix=prefix, **marker)
        entries: list[tuple[str, datetime, ObjectVersion | None]] = [
            (item["Key"], item["LastModified"], None) for item in page.get("DeleteMarkers", [])
        ]
        for item in page.get("Versions", []):
            version = ObjectVersion(item["VersionId"], item["Size"], item["LastModified"])
            entries.append((item["Key"], version.modified, version))
        for entry in sorted(entries, key=lambda entry: entry[1], reverse=True):
            yield entry
        if not page.get("IsTruncated"):
            return
        marker = {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page["NextVersionIdMarker"]}
