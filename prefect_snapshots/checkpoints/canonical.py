"""Convert values to canonical bytes: identical values have identical bytes in every process and for every hash seed.

Identical means the same type and the same content. The order of a dict or a set is ignored, that of an `OrderedDict`
is not. Floats are compared bit by bit, and objects by their pickled form. Functions have no form here: `keys` and
`fingerprint` define one, as the `special` of a `Canon`.
"""

from __future__ import annotations

import copyreg
import datetime as dt
import functools
import random
import struct
import sys
import types
import zoneinfo
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import PurePath
from typing import Any, TypeAlias
from uuid import UUID

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from ..values.classes import module_of as named_module
from ..values.tensors import loaded_torch
from .foreign import NoContent, write_foreign


class Unhashable(Exception):
    """Part of a value cannot be compared between processes. The message says which part, and why."""


Special: TypeAlias = "Callable[[Any, Canon], bool]"
"""A function that writes a value and returns True, or returns False to leave it to the `Canon`."""


def canonical(value: Any, special: Special | None = None) -> bytes:
    """Return the canonical bytes of a value.

    Args:
        value: Any value.
        special: Called first for every object that is not a plain value.

    Raises:
        Unhashable: Part of the value cannot be compared between processes.
    """
    canon = Canon(special)
    canon.write(value)
    return bytes(canon.out)


_LENGTH = struct.Struct("<Q")
_DOUBLE = struct.Struct("<d")
_EXTENDED = np.finfo(np.longdouble).nmant == 63 and np.dtype(np.longdouble).itemsize == 16
"""Whether a `longdouble` has 80 bits in 16 bytes, as on x86-64."""
_LARGE = 4096
"""Content of at least this many bytes is represented by its hash, so that a large argument is not copied."""


class Canon:
    """Writes values in the canonical form.

    Every value begins with a mark of its type, and content of variable length with its length. So values of different
    type or content never have the same form.
    """

    def __init__(self, special: Special | None = None) -> None:
        self.out = bytearray()
        self._special = special
        self._above: dict[int, int] = {}

    def write(self, value: Any) -> None:
        """Append the canonical form of a value."""
        writer = _WRITERS.get(type(value))
        if writer is not None:
            writer(self, value)
        else:
            self._nested(value, self._write_other)

    def data(self, mark: bytes, content: bytes | bytearray | memoryview) -> None:
        """Append bytes after a mark and their length."""
        size = len(content)
        self.out += mark
        self.out += _LENGTH.pack(size)
        self.out += content if size < _LARGE else blake3(content).digest()

    def text(self, mark: bytes, content: str) -> None:
        self.data(mark, content.encode("utf-8", "surrogatepass"))

    def sequence(self, mark: bytes, items: Sequence[Any]) -> None:
        def write(_: Any) -> None:
            self.out += mark + _LENGTH.pack(len(items))
            for item in items:
                self.write(item)

        self._nested(items, write)

    def unordered(self, mark: bytes, groups: Iterable[Sequence[Any]], owner: Any) -> None:
        """Append groups of values in a canonical order, whatever their own order is."""

        def write(_: Any) -> None:
            outer, forms = self.out, []
            for group in groups:
                self.out = bytearray()
                for item in group:
                    self.write(item)
                forms.append(bytes(self.out))
            self.out = outer
            self.out += mark + _LENGTH.pack(len(forms))
            self.out += b"".join(sorted(forms))

        self._nested(owner, write)

    def array(self, value: NDArray[Any], mark: bytes = b"A") -> None:
        dtype = value.dtype
        self.text(mark, f"{dtype.str}|{dtype.name}|{dtype.descr if dtype.names else ''}|{value.shape}")
        if dtype.hasobject:
            self.sequence(b"E", value.tolist() if value.ndim else [value.item()])
        else:
            content = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
            if dtype.char in "gG" and _EXTENDED:
                content = content.copy()
                content.reshape(-1, 16)[:, 10:] = 0  # padding
            self.data(b"D", content.data)

    def _nested(self, value: Any, write: Callable[[Any], None]) -> None:
        depth = self._above.get(id(value))
        if depth is not None:
            self.out += b"^" + _LENGTH.pack(len(self._above) - depth)
            return
        self._above[id(value)] = len(self._above)
        try:
            write(value)
        except RecursionError:
            raise Unhashable("it nests too deeply") from None
        finally:
            del self._above[id(value)]

    def _write_other(self, value: Any) -> None:
        cls = type(value)
        if self._special is not None and self._special(value, self):
            return
        if (generator := _global_generator(value)) is not None:
            self.text(b"C", generator)
        elif isinstance(value, Enum):
            self.sequence(b"M", [_reference(cls), value.name])
        elif isinstance(value, type):
            self.text(b"C", _reference(value))
        elif isinstance(value, types.ModuleType):
            self.text(b"m", value.__name__)
        elif isinstance(value, types.FunctionType | types.MethodType):
            raise Unhashable("a function has no content")
        elif isinstance(value, types.BuiltinFunctionType) and not _bound_to(value):
            self.text(b"C", _reference(value))
        elif isinstance(value, types.MappingProxyType):
            self.text(b"C", _reference(cls))
            self.write(dict(value))
        elif isinstance(value, np.generic):
            self.array(np.asarray(value), b"g")
        elif isinstance(value, struct.Struct):
            self.text(b"C", f"struct:Struct {value.format}")
        elif isinstance(value, np.ufunc) and "(vectorized)" in value.__name__:
            raise Unhashable("a function that `np.frompyfunc` has made does not say what it calls")
        elif isinstance(value, PurePath):
            self.sequence(b"P", [_reference(cls), str(value)])
        elif isinstance(value, tuple) and hasattr(cls, "_fields"):
            self.text(b"C", _reference(cls))
            self.sequence(b"t", tuple(value))
        elif hasattr(cls, "__dataclass_fields__") and "__reduce__" not in vars(cls):
            fields = [name for name in cls.__dataclass_fields__ if hasattr(value, name)]
            self.text(b"C", _reference(cls))
            self.sequence(b"F", [part for name in fields for part in (name, getattr(value, name))])
        elif not self._write_foreign(value):
            self._write_reduced(value)

    def _write_foreign(self, value: Any) -> bool:
        try:
            return write_foreign(self, value)
        except NoContent as error:
            raise Unhashable(str(error)) from error.__cause__

    def _write_reduced(self, value: Any) -> None:
        """Append the pickled form of an object: its constructor, the arguments of that, and its state."""
        cls = type(value)
        # Distributed and Ray register picklers of exceptions that include the traceback, which is not content.
        reducer = None if issubclass(cls, BaseException) else copyreg.dispatch_table.get(cls)
        try:
            reduced = reducer(value) if reducer else value.__reduce_ex__(4)
        except Exception as error:
            raise Unhashable(f"a {_reference(cls)} has no content that could be compared ({error})") from error
        if isinstance(reduced, str):
            self.text(b"G", f"{named_module(value)}:{reduced}")
            return
        make, arguments, state, items, pairs = (*reduced, *(None,) * 5)[:5]
        self.text(b"R", _reference(make))
        self.write(arguments)
        if type(state) is dict:
            kept = {
                name: part
                for name, part in state.items()
                if type(part) is not types.BuiltinMethodType and not _is_cached(cls, name) and name not in _ADDRESSES
            }
            self.write(kept or None)  # an exception has an empty state once somebody asked for it
        else:
            self.write(state)
        self.sequence(b"I", [] if items is None else list(items))
        self.unordered(b"K", [] if pairs is None else list(pairs), object())


def module_of(value: Any) -> str:
    """Return the module of a class or function. Empty if it names none."""
    found = named_module(value)
    # In some versions of Python, its classes are in a private submodule.
    return "pathlib" if found.startswith("pathlib.") else found


def _reference(value: Any) -> str:
    return f"{module_of(value)}:{getattr(value, '__qualname__', type(value).__qualname__)}"


def _is_cached(cls: type, name: Any) -> bool:
    """Return whether an attribute is a cached property, which follows from the others and appears by use."""
    found = next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None)
    return isinstance(found, functools.cached_property)


_ADDRESSES = frozenset(["_stop_words_id"])
"""Attributes that hold the address of another one: `_stop_words_id` of the vectorizers of scikit-learn."""


def _global_generator(value: Any) -> str | None:
    """Return the name of a random generator that all of a process shares. Its state is not content.

    Objects refer to it until they get one of their own, such as the distributions of SciPy.
    """
    if value is getattr(random.random, "__self__", None):
        return "random"
    numpy_random: Any = sys.modules.get("numpy.random")
    if numpy_random is not None and value is numpy_random.get_state.__self__:
        return "numpy.random"
    torch = loaded_torch()
    return "torch" if torch is not None and value is torch.default_generator else None


def _bound_to(value: Any) -> bool:
    owner = getattr(value, "__self__", None)
    return owner is not None and not isinstance(owner, types.ModuleType)


def _integer(canon: Canon, value: int) -> None:
    canon.data(b"i", value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True))


def _moment(canon: Canon, value: dt.datetime | dt.time) -> None:
    canon.sequence(b"d", [type(value).__name__, value.replace(tzinfo=None).isoformat(), value.fold, value.tzinfo])


_WRITERS: dict[type, Callable[[Canon, Any], None]] = {
    type(None): lambda canon, _: canon.out.extend(b"N"),
    bool: lambda canon, value: canon.out.extend(b"1" if value else b"0"),
    type(...): lambda canon, _: canon.out.extend(b"."),
    type(NotImplemented): lambda canon, _: canon.out.extend(b"!"),
    int: _integer,
    float: lambda canon, value: canon.out.extend(b"f" + _DOUBLE.pack(value)),
    complex: lambda canon, value: canon.out.extend(b"c" + _DOUBLE.pack(value.real) + _DOUBLE.pack(value.imag)),
    str: lambda canon, value: canon.text(b"s", value),
    bytes: lambda canon, value: canon.data(b"b", value),
    bytearray: lambda canon, value: canon.data(b"B", value),
    memoryview: lambda canon, value: canon.sequence(b"v", [value.format, value.shape, value.tobytes()]),
    array: lambda canon, value: canon.sequence(b"y", [value.typecode, value.tobytes()]),
    list: lambda canon, value: canon.sequence(b"l", value),
    tuple: lambda canon, value: canon.sequence(b"t", value),
    dict: lambda canon, value: canon.unordered(b"h", value.items(), value),
    OrderedDict: lambda canon, value: canon.sequence(b"H", [part for pair in value.items() for part in pair]),
    set: lambda canon, value: canon.unordered(b"e", ((item,) for item in value), value),
    frozenset: lambda canon, value: canon.unordered(b"z", ((item,) for item in value), value),
    range: lambda canon, value: canon.sequence(b"r", [value.start, value.stop, value.step]),
    slice: lambda canon, value: canon.sequence(b"|", [value.start, value.stop, value.step]),
    np.ndarray: Canon.array,
    dt.datetime: _moment,
    dt.time: _moment,
    dt.date: lambda canon, value: canon.text(b"a", value.isoformat()),
    dt.timedelta: lambda canon, value: canon.sequence(b"~", [value.days, value.seconds, value.microseconds]),
    zoneinfo.ZoneInfo: lambda canon, value: canon.text(b"Z", str(value.key)),
    Decimal: lambda canon, value: canon.text(b"n", str(value)),
    Fraction: lambda canon, value: canon.sequence(b"/", [value.numerator, value.denominator]),
    UUID: lambda canon, value: canon.data(b"u", value.bytes),
}
