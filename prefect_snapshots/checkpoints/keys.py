"""Keys of items: 16 bytes that are identical if and only if the items are, in every process and for every hash seed.

Identical means the same type and the same content. `1`, `True`, `1.0`, `"1"`, `[1]` and `(1,)` have different keys. The
order of a dict or a set is ignored, that of an `OrderedDict` is not. Floats are compared bit by bit: `-0.0` is not
`0.0`, and a NaN is identical to itself.

The key of a 64-bit integer or a float is the number itself with a mark of its type. Everything else is converted to
`canonical` bytes, which are hashed. Keys are stored in arrays of shape (n, 2), because there may be ten million.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from ..errors import UnfingerprintableFunction, UnhashableItem
from .canonical import Canon, Unhashable, canonical
from .fingerprint import fingerprint

Keys: TypeAlias = NDArray[np.uint64]
"""Keys of items, shape (n, 2)."""

KEY_SIZE = 16
"""Bytes per key: with 128 bits, the probability that any two of 10^12 items share a key is below 10^-14."""


def item_keys(items: Sequence[Any], *, key: Callable[[Any], Any] | None = None, first: int = 0) -> Keys:
    """Return the keys of items.

    Args:
        items: Any values.
        key: A function that gets an item and returns a value that identifies it. Default: the item itself.
        first: The position of the first item, for messages. Default: 0.

    Returns:
        An array of shape (n, 2).

    Raises:
        UnhashableItem: An item cannot be compared between processes, or `key` failed.

    Example:
        >>> keys = item_keys([1, True, 1.0, "1", {"a": 1}])
        >>> len({tuple(row) for row in keys.tolist()})
        5
    """
    if key is not None:
        items = _apply(key, items, first)
    kinds = set(map(type, items))
    if len(kinds) == 1 and (quick := _QUICK.get(kinds.pop())) is not None:
        try:
            return quick(items)
        except (OverflowError, UnicodeEncodeError):
            pass
    return np.frombuffer(b"".join(_keys(items, first)), np.uint64).reshape(-1, 2)


def stable_hash(value: Any) -> bytes:
    """Return the key of one value: 16 bytes, identical in every process.

    Raises:
        UnhashableItem: The value cannot be compared between processes.
    """
    return item_keys([value]).tobytes()


# --- fast paths for many items of one type ---------------------------------------------------------------

_INTEGER_MARK, _FLOAT_MARK = 0x7073_696E_7400_0001, 0x7073_666C_7400_0002
"""The second half of a key whose first half is the number itself."""


def _integers(items: Sequence[int]) -> Keys:
    keys = np.empty((len(items), 2), np.uint64)
    keys[:, 0] = np.fromiter(items, np.int64, len(items)).view(np.uint64)
    keys[:, 1] = _INTEGER_MARK
    return keys


def _floats(items: Sequence[float]) -> Keys:
    keys = np.empty((len(items), 2), np.uint64)
    keys[:, 0] = np.fromiter(items, np.float64, len(items)).view(np.uint64)
    keys[:, 1] = _FLOAT_MARK
    return keys


def _texts(items: Sequence[str]) -> Keys:
    digests = [blake3(b"s" + item.encode()).digest(KEY_SIZE) for item in items]
    return np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)


def _byte_strings(items: Sequence[bytes]) -> Keys:
    digests = [blake3(b"b" + item).digest(KEY_SIZE) for item in items]
    return np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)


_QUICK: dict[type, Callable[[Sequence[Any]], Keys]] = {
    int: _integers,
    float: _floats,
    str: _texts,
    bytes: _byte_strings,
}


def _keys(items: Sequence[Any], first: int) -> Iterable[bytes]:
    for index, item in enumerate(items, first):
        quick = _QUICK.get(type(item))
        if quick is not None:
            try:
                yield quick((item,)).tobytes()
                continue
            except (OverflowError, UnicodeEncodeError):
                pass
        try:
            form = canonical(item, _write_function)
        except Unhashable as error:
            raise UnhashableItem(index, str(error)) from error.__cause__
        yield blake3(b"o" + form).digest(KEY_SIZE)


def _apply(key: Callable[[Any], Any], items: Sequence[Any], first: int) -> list[Any]:
    found = []
    for index, item in enumerate(items, first):
        try:
            found.append(key(item))
        except Exception as error:
            raise UnhashableItem(index, f"the function `key` failed with {type(error).__name__}: {error}") from error
    return found


def _write_function(value: Any, canon: Canon) -> bool:
    """Write a function that is part of an item as its fingerprint."""
    if not isinstance(value, types.FunctionType | types.MethodType):
        return False
    try:
        canon.data(b"Q", bytes.fromhex(fingerprint(value)))
    except UnfingerprintableFunction as error:
        raise Unhashable(f"its function {error.function} cannot be compared: {error.reason}") from error
    return True
