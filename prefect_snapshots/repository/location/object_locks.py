"""Locks of objects, and the bucket as it was: what S3 and Google Cloud Storage have in common.

In a bucket with versioning, an overwrite or a delete only hides the older version of an object. If that version is
locked, nobody can remove it before its lock ends. So what a thief of credentials overwrites or deletes can be read as
it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from ...errors import InvalidArgument
from ..times import parse_time

_LONGEST = 36_500
"""Days. Nobody can shorten a lock in compliance mode, so that a typing error would be paid for."""

_MODES = ("GOVERNANCE", "COMPLIANCE")

OPTIONS = ("object_lock_days", "object_lock_mode", "as_of")
"""The storage options of this module, which the clients of the stores do not know."""


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
    def end(self) -> datetime:
        """When a lock that begins now ends."""
        return datetime.now(UTC) + timedelta(days=self.days)

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


def without(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the storage options for the client of a store."""
    return {name: value for name, value in options.items() if name not in OPTIONS}
