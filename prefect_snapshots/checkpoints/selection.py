"""Items with their keys, read from an iterable with a bounded look-ahead."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import UnhashableItem
from .keys import Keys, item_keys

WINDOW = 1024
"""How many items are read together, unless a batch is larger: enough that NumPy looks up their keys quickly, and few
enough that their keys and results fit in a processor's cache."""

_QUICK, _SLOW = 0.01, 0.05
"""The target time to read one window, in seconds. The next window is larger after a faster one and smaller after a
slower one. So a slow generator yields its first items soon, and a fast one needs few look-ups."""


@dataclass(slots=True)
class ItemSelection:
    """Some items of an iterable. Treat it as immutable. (It is not frozen, because a batch of 1 creates many of them.)

    Attributes:
        items: The items.
        keys: Their keys, shape (n, 2).
        positions: Their positions in the iterable, shape (n,).
    """

    items: Sequence[Any]
    keys: Keys
    positions: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.items)

    def take(self, rows: NDArray[np.int64]) -> ItemSelection:
        """Return the items at these indices."""
        return ItemSelection([self.items[row] for row in rows.tolist()], self.keys[rows], self.positions[rows])

    def part(self, first: int, end: int) -> ItemSelection:
        """Return the items from one index to another."""
        rows = slice(first, end)
        return ItemSelection(self.items[rows], self.keys[rows], self.positions[rows])

    @classmethod
    def join(cls, parts: Sequence[ItemSelection]) -> Self:
        """Return several selections as one."""
        return cls(
            [item for part in parts for item in part.items],
            np.concatenate([part.keys for part in parts]),
            np.concatenate([part.positions for part in parts]),
        )


MakeKeys = Callable[..., Keys]


class MetItems:
    """The keys that objects had when a run read them, even if the function has changed the objects since.

    For lists and tuples only: they keep their items alive, so that an id always means the same object.
    """

    def __init__(self) -> None:
        self._keys: dict[int, bytes] = {}
        self._alive: list[Any] = []

    def add(self, window: ItemSelection) -> None:
        """Remember the keys of the items that can change."""
        for item, key in zip(window.items, window.keys, strict=True):
            if type(item) not in _UNCHANGING:
                self._keys[id(item)] = key.tobytes()
                self._alive.append(item)

    def keys_of(self, items: Sequence[Any], *, key: Callable[[Any], Any] | None = None, first: int = 0) -> Keys:
        """Return the keys of items, as `item_keys` does, but for known items the keys that they had when read."""
        if not self._keys:
            return item_keys(items, key=key, first=first)
        found = [self._keys.get(id(item)) for item in items]
        if any(one is None for one in found):
            for at, item in enumerate(items):
                found[at] = found[at] or item_keys([item], key=key, first=first + at).tobytes()
        return np.frombuffer(b"".join(one or b"" for one in found), np.uint64).reshape(-1, 2)


_UNCHANGING = frozenset({int, float, str, bytes, bool, type(None), complex})


def windows(
    items: Iterable[Any], key: Callable[[Any], Any] | None, most: int, make_keys: MakeKeys | None = None
) -> Iterator[ItemSelection]:
    """Read the items in windows: one item at first, then more as long as they come quickly.

    If the iterable raises an exception, or an item has no key, you get the items before it, and then the exception.

    Args:
        items: Any iterable. A generator is read at most `most` items ahead.
        key: A function that gets an item and returns a value that identifies it.
        most: The most items in one window.
        make_keys: A function to use instead of `item_keys`.
    """
    make_keys = make_keys or item_keys
    iterator = iter(items)
    first, count = 0, 1
    while True:
        started = time.perf_counter()
        found: list[Any] = []
        trouble: Exception | None = None
        try:
            found.extend(islice(iterator, count))
        except Exception as error:
            trouble = error
        ended = len(found) < count
        try:
            keys = make_keys(found, key=key, first=first)
        except UnhashableItem as error:
            trouble = error
            del found[error.index - first :]
            keys = make_keys(found, key=key, first=first)
        took = time.perf_counter() - started
        if found:
            yield ItemSelection(found, keys, np.arange(first, first + len(found)))
        if trouble is not None:
            raise trouble
        if ended:
            return
        first += len(found)
        if took < _QUICK:
            count = min(4 * count, most)
        elif took > _SLOW:
            count = max(count // 4, 1)
