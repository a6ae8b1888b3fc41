"""Items with their keys, read from an iterable with a bounded look-ahead."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from itertools import islice
from pathlib import PosixPath, PurePosixPath
from typing import Any, Self
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidArgument, UnhashableItem
from ..values.arrays import loaded_jax
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


def windows(
    items: Iterable[Any],
    key: Callable[[Any], Any] | None,
    most: int,
    make_keys: MakeKeys | None = None,
    *,
    keep: bool = False,
) -> Iterator[ItemSelection]:
    """Read the items in windows: one item at first, then more as long as they come quickly.

    If the iterable raises an exception, or an item has no key, you get the items before it, and then the exception.
    Items that the iterable changes after it has yielded them, such as an array that a generator fills again, are what
    they were when they were yielded.

    Args:
        items: Any iterable. A generator is read at most `most` items ahead.
        key: A function that gets an item and returns a value that identifies it.
        most: The most items in one window.
        make_keys: A function to use instead of `item_keys`.
        keep: Whether items of a window are still used when the next window is read.
    """
    make_keys = make_keys or item_keys
    iterator = iter(items)
    first, count = 0, 1
    met = None if isinstance(items, _STABLE) else _ItemsAsMet(key, keep)
    while True:
        started = time.perf_counter()
        found: list[Any] = []
        trouble: Exception | None = None
        drawn = islice(iterator, count)
        try:
            if met is None or (count == 1 and not keep):  # nothing is read ahead of its use
                found.extend(drawn)
            else:
                found.extend(item if type(item) in _UNCHANGING else met.taken(item) for item in drawn)
        except Exception as error:
            trouble = error
        ended = len(found) < count
        try:
            keys = make_keys(found, key=key, first=first)
        except UnhashableItem as error:
            trouble = error
            del found[error.index - first :]
            keys = make_keys(found, key=key, first=first)
        if met is not None:
            met.check(found, keys, first)
        took = time.perf_counter() - started
        if found:
            yield ItemSelection(found, keys, np.arange(first, first + len(found)))
        if trouble is not None:
            raise trouble
        if ended:
            return
        first += len(found)
        if took < _QUICK:
            if met is None or count > 1 or met.can_look_ahead(found[-1]):
                count = min(4 * count, most)
        elif took > _SLOW:
            count = max(count // 4, 1)


# --- items that the iterable may still change ----------------------------------------------------------------------

_STABLE = (list, tuple, range, np.ndarray)
"""Iterables that do not change their items while you iterate over them."""

_UNCHANGING = frozenset(
    {
        *(int, float, str, bytes, bool, type(None), complex, range, Decimal, Fraction, UUID),
        *(dt.datetime, dt.date, dt.time, dt.timedelta, PurePosixPath, PosixPath),
    }
)


class _Opaque(Exception):
    """It is not known how to copy an object cheaply."""


class _ItemsAsMet:
    """Keeps items as they were when an iterable yielded them.

    Plain containers and arrays are copied, which takes less time than to compute their keys. Other objects are not
    copied, because that may be slow or impossible. For them, a changed key reveals that the iterable changes them.
    """

    def __init__(self, key: Callable[[Any], Any] | None, keep: bool) -> None:
        self._key = key
        self._keep = keep
        self._opaque: list[tuple[Any, bytes | None]] = []
        self._last: tuple[Any, bytes | None] = (self, None)
        self._before: Any = self

    def taken(self, item: Any) -> Any:
        """Return an item, or a copy of it if the iterable could change it."""
        try:
            return _copy(item)
        except (_Opaque, RecursionError):
            self._opaque.append((item, self._key_of(item)))
            return item

    def check(self, items: Sequence[Any], keys: Keys, first: int) -> None:
        """Raise `InvalidArgument` if the iterable has changed an item of a window since it yielded it."""
        if not self._opaque:
            return
        known = iter(self._opaque)
        wanted, then = next(known)
        for position, (item, now) in enumerate(zip(items, keys, strict=True), first):
            if item is not wanted:
                continue
            changed = then is not None and now.tobytes() != then
            if changed or (self._keep and item is self._last[0] and then != self._last[1]):
                raise InvalidArgument(
                    f"The iterable changes the {type(item).__name__} at position {position} after it yields it. "
                    "Yield a new object for each item, for example a copy."
                )
            self._last = (item, then)
            wanted, then = next(known, (self, None))
        self._opaque.clear()

    def can_look_ahead(self, item: Any) -> bool:
        """Return whether to read more than one item at a time. Call it after each window of one item.

        An iterable that yields one object again and again, of a kind that cannot be copied, works without look-ahead.
        The second item shows whether it does.
        """
        before, self._before = self._before, item
        if self._keep or (before is not item and before is not self):
            return True
        try:
            _copy(item)
        except (_Opaque, RecursionError):
            return False
        return True

    def _key_of(self, item: Any) -> bytes | None:
        try:
            return item_keys([item], key=self._key).tobytes()
        except UnhashableItem:
            return None  # the item will be refused with its position


def _copy(item: Any) -> Any:
    """Return a copy that shares nothing with an item that could change, or the item itself if it cannot change.

    Raises:
        _Opaque: It is or contains an object of another kind.
    """
    cls = type(item)
    if cls in _UNCHANGING:
        return item
    if cls is dict:
        if _UNCHANGING.issuperset(map(type, item.values())):
            return item.copy()
        return {name: _copy(part) for name, part in item.items()}
    if cls is list or cls is tuple:
        return cls(item) if _UNCHANGING.issuperset(map(type, item)) else cls(map(_copy, item))
    if cls is set or cls is bytearray:
        return cls(item)  # the members of a set cannot change
    if cls is np.ndarray and not item.dtype.hasobject:
        return item.copy(order="K")
    jax = loaded_jax()
    if isinstance(item, frozenset | np.generic | Enum | type) or (jax is not None and isinstance(item, jax.Array)):
        return item
    raise _Opaque
