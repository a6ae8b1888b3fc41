"""A way out of a full disk: a file that is given up, piece by piece, for the events without which nothing can be freed.

Deleting a version and pruning write small events before anything is freed. On a disk that is full to the last byte,
both would fail for ever. So a repository in a directory keeps a reserve that only they may use. Everybody else fills it
up before they write: what prune has given up would otherwise go to the next save. Object stores need none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TypeVar

from ..errors import StorageError, StorageFull
from .location import Location

RESERVE = "repository.reserve"

_BLOCK = 4096
"""Bytes that a small event takes on a usual file system. Given up at once: another program that fills the disk, or a
kill, takes no more."""
_OWN = 16 * _BLOCK
"""Bytes for what prune writes beside one event for each stream: a condemnation and the index."""
_DELETES = 48 * _BLOCK
"""Bytes for deletes. They leave the rest to prune: only prune turns what they delete into free space."""

T = TypeVar("T")


def keep_reserve(location: Location, streams: int = 0) -> bool:
    """Fill up the reserve as far as there is space. Never fails.

    Args:
        location: The place of the repository.
        streams: How many streams there are, as far as you know. A larger reserve is left as it is. Default: 0.

    Returns:
        Whether the disk has space for more.
    """
    if not location.is_local:
        return True
    size = for_prune(streams) + _DELETES
    try:
        if (location.size(RESERVE) or 0) < size:
            location.resize(RESERVE, size)
    except StorageFull:
        return False
    except StorageError:
        pass  # such as a folder in which only others may create files
    return True


def spare_reserve(location: Location, streams: int = 0) -> None:
    """Fill up the reserve before anything is written that frees nothing.

    Args:
        location: The place of the repository.
        streams: As for `keep_reserve`.

    Raises:
        StorageFull: The disk is full, and what is left belongs to the reserve.
    """
    if not keep_reserve(location, streams):
        raise StorageFull(f"{location.url} is full: what is left of the disk is kept for deletes and prune.")


def can_pay_for_prune(location: Location, streams: int) -> bool:
    """Return whether the reserve has space for all events of one prune. Call it when the disk is full."""
    return (location.size(RESERVE) or 0) >= cost_of_prune(streams)


def with_reserve(location: Location, act: Callable[[], T], *, leave_for: int | None = None) -> T:
    """Do something that leads to free space. While the disk is full, give up a block of the reserve and do it again.

    Args:
        location: The place of the repository.
        act: What to do.
        leave_for: Leave what prune needs for this many streams. Default: use all of the reserve.

    Raises:
        StorageFull: There is no reserve any more, or it was too small.
    """
    least = 0 if leave_for is None else for_prune(leave_for)
    while True:
        try:
            return act()
        except StorageFull:
            size = location.size(RESERVE) if location.is_local else None
            if size is None or size <= least:
                raise
            with contextlib.suppress(StorageFull):
                location.resize(RESERVE, max(size - _BLOCK, least))


def for_prune(streams: int) -> int:
    """Return the bytes that prune may write before it can delete anything."""
    return _OWN + streams * _BLOCK


def cost_of_prune(streams: int) -> int:
    """Return the bytes that the events of one prune take for ever: a condemnation, and a fence in each stream."""
    return (1 + streams) * _BLOCK
