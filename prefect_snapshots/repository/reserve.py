"""The reserve: a file that is shortened on a full disk to make space for the events that free more space.

Deleting a version and pruning write small events before they free anything. On a full disk, both would always fail. So
a repository in a directory has a reserve that only they may use. All other writers fill it up before they write,
because otherwise the next save would take the space that prune has released. Object stores need no reserve.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TypeVar

from ..errors import StorageError, StorageFull
from .location import Location

RESERVE = "repository.reserve"

_BLOCK = 4096
"""The bytes of a small event on a common file system. The reserve is released in such blocks, so that a kill, or
another program that fills the disk, can take no more than one."""
_OWN = 16 * _BLOCK
"""Bytes for the writes of prune other than one event for each stream: a condemnation and the index."""
_DELETES = 48 * _BLOCK
"""Bytes for deletes. The rest is for prune, because only prune turns deleted data into free space."""

T = TypeVar("T")


def keep_reserve(location: Location, streams: int = 0) -> bool:
    """Fill up the reserve as far as there is space. Never fails.

    Args:
        location: The location of the repository.
        streams: The known number of streams: each needs a block. Default: as many as an earlier call of this process
            knew of.

    Returns:
        Whether the disk has space for more.
    """
    if not location.is_local:
        return True
    size = location.reserve = max(location.reserve, for_prune(streams) + _DELETES)
    try:
        if (location.size(RESERVE) or 0) < size:
            location.resize(RESERVE, size)
    except StorageFull:
        return False
    except StorageError:
        pass  # for example in a directory where only others may create files
    return True


def spare_reserve(location: Location, streams: int = 0) -> None:
    """Fill up the reserve before a write that frees no space.

    Args:
        location: The location of the repository.
        streams: As for `keep_reserve`.

    Raises:
        StorageFull: The disk is full except for the reserve.
    """
    if not keep_reserve(location, streams):
        raise StorageFull(
            f"{location.url} is full: the rest of the disk is reserved for deletes and prune. Nothing was committed. "
            "Delete what you do not need, and run `prefect-snapshots prune`."
        )


def can_pay_for_prune(location: Location, streams: int) -> bool:
    """Return whether the reserve has space for all events of one prune. Call it when the disk is full."""
    return (location.size(RESERVE) or 0) >= cost_of_prune(streams)


def with_reserve(location: Location, act: Callable[[], T], *, leave_for: int | None = None) -> T:
    """Do something that leads to free space. While the disk is full, release a block of the reserve and retry.

    Args:
        location: The location of the repository.
        act: The function to call.
        leave_for: Leave the blocks that prune needs for this many streams. Default: use the whole reserve.

    Raises:
        StorageFull: The reserve is used up.
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
