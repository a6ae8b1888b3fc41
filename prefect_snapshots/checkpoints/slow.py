"""Slow items: what they were, so that a report can show their input and not only their position.

The footer of a segment has its slowest items. The report, which knows the durations of all items, decides which of them
count as slow.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..errors import UNDECODABLE, DamagedObject
from ..repository.location import Buffer
from .frozen import brief
from .keys import Keys

LEAST = 0.01
"""Seconds below which no item is slow: threads take turns every 5 ms, and a garbage collection can take as long."""
_KEPT = 10
"""Slow items in the footer of a segment: as many as a report lists."""
_LONGEST = 200
"""Characters of the input that a reader uses, whatever a footer says."""

_encode = msgspec.msgpack.Encoder().encode


class SlowItems:
    """The slowest items of a segment: seconds, key and the beginning of the `repr` of each."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, bytes, str]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def note(self, items: Sequence[Any], keys: Keys, start: float, ends: Sequence[float]) -> None:
        """Add the items that took long, if they are among the slowest.

        Args:
            items: Items that were computed one after the other.
            keys: Their keys, shape (n, 2).
            start: When the first one was started, in seconds.
            ends: When each of them ended. There may be fewer ends than items.
        """
        seconds = np.diff(np.array(ends, float), prepend=start)
        for row in np.flatnonzero(seconds >= LEAST).tolist():
            took = float(seconds[row])
            if len(self._heap) < _KEPT or took > self._heap[0][0]:
                self._add((took, keys[row].tobytes(), brief(items[row])))

    def take(self, other: SlowItems, keys: Keys) -> None:
        """Add those of another segment that are among these keys."""
        known = {key.tobytes() for key in keys[np.isin(keys[:, 0], other.heads())]}
        for one in other._heap:
            if one[1] in known:
                self._add(one)

    def heads(self) -> NDArray[np.uint64]:
        """Return the first half of each key."""
        return np.array([np.frombuffer(key, np.uint64)[0] for _, key, _ in self._heap], np.uint64)

    def encoded(self) -> bytes:
        """Return them as a frame of a footer."""
        return _encode(self._heap)

    def read(self, frame: Buffer, where: str) -> None:
        """Add those in a frame of a footer.

        Raises:
            DamagedObject: The frame cannot be read.
        """
        try:
            found = _decode(frame)
        except UNDECODABLE as error:
            raise DamagedObject(where, f"its slow items cannot be read ({error})") from error
        if len(found) > _KEPT or any(len(key) != 16 for _, key, _ in found):
            raise DamagedObject(where, "its slow items are not what a writer writes")
        self._heap += [(took, key, text[:_LONGEST]) for took, key, text in found]

    def inputs(self) -> dict[bytes, str]:
        """Return the beginning of the `repr` of each item, by its key."""
        return {key: text for _, key, text in self._heap}

    def _add(self, one: tuple[float, bytes, str]) -> None:
        (heapq.heappush if len(self._heap) < _KEPT else heapq.heappushpop)(self._heap, one)


_decode = msgspec.msgpack.Decoder(list[tuple[float, bytes, str]]).decode
