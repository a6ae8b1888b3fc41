"""Read many objects, of which some may be no files at all."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import DamagedObject, ObjectMissing
from .location import Location


def read_each(location: Location, paths: Sequence[str]) -> list[bytes | DamagedObject | None]:
    """Return the bytes of each object in the order of `paths`, None for a missing one, or what is wrong with it.

    In a directory, somebody may have put a pipe or a device in the place of an object: that one is named, and the
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
