"""Read many objects, even if some of them are not regular files."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import DamagedObject, ObjectMissing
from .location import Location


def read_each(location: Location, paths: Sequence[str]) -> list[bytes | DamagedObject | None]:
    """Return the bytes of each object in the order of `paths`, None for a missing one, or an error for a damaged one.

    In a directory, somebody may have replaced an object by a pipe or a device. Such an object is reported, and the
    others are read.
    """
    try:
        return list(location.read_many(paths))
    except DamagedObject:
        return [_read(location, path) for path in paths]


def _read(location: Location, path: str) -> bytes | DamagedObject | None:
    try:
        return location.read(path)
    except ObjectMissing:
        return None
    except DamagedObject as error:
        return error
