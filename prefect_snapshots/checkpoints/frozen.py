"""One result as bytes: what a function returned, or why it failed.

A *frozen* result is immutable. Small plain values are frozen as they are. Everything else is converted to bytes
immediately, because a function may change and return the same list again. Strings, numbers, and lists and dicts of them
are stored as MessagePack, which is several times faster. Everything else is encoded like the values of snapshots.
Pickle is used only for objects that have no other form, and only if the repository allows it.
"""

from __future__ import annotations

import reprlib
import struct
import traceback
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from ..errors import UnserialisableLeaf
from ..values import MemoryBody, decode, encode

LIMIT = 1 << 30
"""The most bytes of one result. A record is sealed and read as a whole, so larger ones would need as much memory."""

_LONG = 4096
"""Strings and bytes of at least this length are converted, so that their size counts towards the next flush."""

SCALARS = frozenset({type(None), bool, int, float})
"""Results of these types are frozen as they are, without a call."""

_PLAIN = SCALARS | {str, bytes}
_DEEP = 16
"""How many levels of lists and dicts are searched to see if a result is plain."""

_MSGPACK, _VALUE, _FAILURE = b"m", b"v", b"f"
_LENGTH = struct.Struct("<I")

encode_plain = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class Unserialisable(Exception):
    """A result cannot be written. The message says why."""


class Frozen(bytes):
    """A result as bytes, beginning with its tag."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an item has no result.

    Attributes:
        item: The beginning of the `repr` of the item.
        kind: The class of the exception.
        message: The message of the exception.
        traceback: The end of its traceback, as a string.
    """

    item: str
    kind: str
    message: str
    traceback: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}" if self.message else self.kind


_decode_failure = msgspec.msgpack.Decoder(Failure).decode


def freeze(value: Any, limit: int = LIMIT, *, allow_pickle: bool = True) -> Any:
    """Return a result in an immutable form: the value itself if it is small and plain, otherwise a `Frozen`.

    Args:
        value: What the function returned.
        limit: The most bytes that it may take.
        allow_pickle: Whether to pickle objects that have no other form.

    Raises:
        Unserialisable: It cannot be written, or takes more than `limit` bytes.
    """
    cls = type(value)
    if cls in _PLAIN and (cls not in (str, bytes) or len(value) < _LONG):
        return value
    return _one(value, limit, allow_pickle)


def failure(item: Any, error: BaseException) -> Frozen:
    """Return a failure in the form of a result."""
    lines = traceback.format_exception(error)
    message = _text(error)
    found = Failure(_cut(_repr(item), 200), type(error).__qualname__, _cut(message, 2000), _cut("".join(lines), 8000))
    return Frozen(_FAILURE + encode_plain(found))


def to_bytes(value: Any) -> bytes:
    """Return a frozen result as bytes."""
    return value if type(value) is Frozen else _one(value, LIMIT, True)


def thaw(data: memoryview, allow_pickle: bool) -> Any:
    """Return the result that was frozen as these bytes.

    Raises:
        PickleRefused: It was pickled, and `allow_pickle` is False.
        IntegrityError, ValueError: The bytes are damaged.
    """
    tag, content = bytes(data[:1]), data[1:]
    if tag == _MSGPACK:
        return _decode(content)
    if tag == _FAILURE:
        return _decode_failure(content)
    if tag != _VALUE or len(content) < _LENGTH.size:
        raise ValueError(f"unknown result type {tag!r}")
    [size] = _LENGTH.unpack_from(content)
    end = _LENGTH.size + int(size)
    if end > len(content):
        raise ValueError("a result is truncated")
    return decode(bytes(content[_LENGTH.size : end]), MemoryBody(content[end:]), allow_pickle=allow_pickle)


def _one(value: Any, limit: int, allow_pickle: bool) -> Frozen:
    try:
        if _is_plain(value, _DEEP):
            try:
                data = encode_plain(value)
            except (OverflowError, UnicodeEncodeError):  # integers beyond 64 bits, lone surrogates
                pass
            else:
                _check_size(len(data), limit)
                return Frozen(_MSGPACK + data)
        if isinstance(value, types.GeneratorType | types.AsyncGeneratorType | types.CoroutineType):
            kind = "a coroutine" if type(value) is types.CoroutineType else "a generator"
            raise Unserialisable(f"the function returned {kind}, which can be used only once. Return a list instead.")
        encoded = encode(value, allow_pickle=allow_pickle, with_like=False)
        size = _LENGTH.size + len(encoded.manifest) + sum(map(len, encoded.buffers))
        _check_size(size, limit)
        return Frozen(b"".join((_VALUE, _LENGTH.pack(len(encoded.manifest)), encoded.manifest, *encoded.buffers)))
    except (Unserialisable, MemoryError):
        raise
    except UnserialisableLeaf as error:
        where = f", at {error.path}" if error.path else ""
        raise Unserialisable(
            f"its result, a {type(value).__qualname__}, cannot be stored{where}. {error.reason}"
        ) from error
    except Exception as error:  # runs code of any class
        raise Unserialisable(f"its result, a {type(value).__qualname__}, cannot be stored ({error})") from error


def _check_size(size: int, limit: int) -> None:
    if size >= limit:
        raise Unserialisable(
            f"its result takes {size + 1:,} bytes, more than the limit of {limit:,}. Store it in the function, for "
            "example as a snapshot, and return its id."
        )


def _is_plain(value: Any, depth: int) -> bool:
    """Return whether MessagePack preserves every type in a value. Checks only types, at the speed of C."""
    cls = type(value)
    if cls in _PLAIN:
        return True
    if not depth:
        return False
    if cls is dict:
        if not set(map(type, value)) <= {str}:
            return False
        inner: Any = value.values()
    elif cls is list:
        inner = value
    else:
        return False
    others = set(map(type, inner)) - _PLAIN
    if not others:
        return True
    return others <= {list, dict} and all(_is_plain(one, depth - 1) for one in inner if type(one) in others)


_shortened = reprlib.Repr()
_shortened.maxlevel, _shortened.maxlist, _shortened.maxtuple, _shortened.maxdict, _shortened.maxset = 4, 20, 20, 20, 20
_shortened.maxstring = _shortened.maxother = _shortened.maxlong = 200


def brief(item: Any) -> str:
    """Return the beginning of the `repr` of an item, without computing that of a long list, dict or string first."""
    return _cut(_repr(item, _shortened.repr), 200)


def _repr(item: Any, how: Callable[[Any], str] = repr) -> str:
    try:
        return how(item)
    except Exception as error:
        return f"<{type(item).__qualname__} whose repr failed: {type(error).__name__}>"


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return ""


def _cut(text: str, limit: int) -> str:
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= limit else text[: limit - 3] + "..."
