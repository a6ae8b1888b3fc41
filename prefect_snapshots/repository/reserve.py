"""A way out of a full disk: a file that is given up for the few events without which nothing can be freed.

Deleting a version and pruning write small events before anything is freed. On a disk that is full to the last byte,
both would fail for ever. So a repository in a directory keeps a reserve, which only they may use. Object stores need
none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TypeVar

from ..errors import StorageError, StorageFull
from .location import Location

RESERVE = "repository.reserve"

_SIZE = 256 * 1024
"""Bytes of the reserve: 64 blocks of a usual file system. Prune takes one for each stream, and some for the index."""
_LEAST = 16 * 1024

T = TypeVar("T")


def keep_reserve(location: Location) -> None:
    """Create the reserve if it is missing, as large as there is space for. Never fails."""
    if not location.is_local:
        return
    with contextlib.suppress(StorageError):
        size = 0 if location.size(RESERVE) is not None else _SIZE
        while size >= _LEAST:
            try:
                location.replace(RESERVE, bytes(size))
                size = 0
            except StorageFull:
                size //= 2


def with_reserve(location: Location, act: Callable[[], T]) -> T:
    """Do something that leads to free space; if the disk is full, give up the reserve for it and do it again.

    Raises:
        StorageFull: There is no reserve any more, or it was too small.
    """
    try:
        return act()
    except StorageFull:
        if not location.is_local or location.size(RESERVE) is None:
            raise
        location.delete([RESERVE])
        return act()
