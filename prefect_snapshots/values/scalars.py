"""Plain values: small immutable values that are stored in the manifest itself, without pickle.

Keys of dicts and elements of sets must be plain. None, bool, float, short strings and bytes, and 64-bit integers are
stored as they are. All others are stored as `[code, ...]`, see the two tables below. Tuples and frozensets of plain
values are plain, too, and so are members of an enum that can be found by name.
"""

from __future__ import annotations

import datetime as dt
import zoneinfo
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import Path, PosixPath, PurePath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any
from uuid import UUID

import msgspec
import numpy as np

from .classes import Unavailable, reference
from .dtypes import dtype_node, parse_dtype

Node = Any
"""A part of a manifest: a type of msgpack, or a list of nodes."""

RAW = frozenset({type(None), bool, int, float, str, bytes})
"""The types that are stored in a manifest without a code."""

# 1 to 15 are the containers, in `structure`; 48 and above are leaves with bytes in the body, in `leaves`
TUPLE, FROZENSET = 2, 4
TEXT, INTEGER, NUMPY_SCALAR, ENUM, ELLIPSIS, COMPLEX, DATETIME, DATE, TIME, TIMEDELTA = range(16, 26)
DECIMAL, FRACTION, UNIQUE_ID, RANGE, SLICE, PATH = range(26, 32)

encode_node = msgspec.msgpack.Encoder().encode

_NESTING = 32
"""How deep tuples may nest in a key, so that a hostile manifest cannot exhaust the stack."""
_LONGEST_INTEGER = 1024
"""The most bytes of an integer in a key or a fraction. Python refuses to convert longer ones to decimal strings, and
the time to reduce a fraction grows with the square of its length: a small hostile manifest could take minutes."""
_MICROSECOND = dt.timedelta(microseconds=1)


class NotPlain(Exception):
    """The value is not a plain value."""


@dataclass(frozen=True, slots=True)
class Form:
    """How to read nodes with one code."""

    name: str
    arguments: tuple[type, ...]
    """The types of the arguments after the code. `read` checks those with the type `object`."""
    read: Callable[..., Any]


def plain_node(value: Any, nesting: int = 0) -> Node:
    """Return the manifest form of a plain value.

    Raises:
        NotPlain: The value is not plain.
    """
    cls = type(value)
    write = WRITERS.get(cls)
    if write is not None:
        return write(value)
    if nesting < _NESTING and cls is tuple:
        return [TUPLE, None, None, *(plain_node(item, nesting + 1) for item in value)]
    if nesting < _NESTING and cls is frozenset:
        return [FROZENSET, None, None, *in_order(plain_node(item, nesting + 1) for item in value)]
    if isinstance(value, Enum):
        return _enum_node(value)
    if isinstance(value, np.generic):
        return _numpy_node(value)
    raise NotPlain


def plain_value(node: Node, find: Callable[[str], type]) -> Any:
    """Return the value of a plain node.

    Args:
        node: The manifest form.
        find: A function that returns the class of an enum by its reference.

    Raises:
        Unavailable: The node names an enum, a time zone or a dtype that does not exist here.
        ValueError, TypeError, ArithmeticError: The node is damaged.
    """
    if type(node) is not list:
        return node
    code, *arguments = node
    if code in (TUPLE, FROZENSET):
        items = [plain_value(item, find) for item in arguments[2:]]
        return tuple(items) if code == TUPLE else frozenset(items)
    form = FORMS.get(code)
    if form is None or len(arguments) != len(form.arguments) or not all(map(isinstance, arguments, form.arguments)):
        raise ValueError(f"code {code!r} with {len(arguments)} arguments is not a plain value")
    return form.read(*arguments, find) if code == ENUM else form.read(*arguments)


def key_text(node: Node) -> str:
    """Return a key as a string for a path: its `str`, or `Colour.RED` for a member of an enum.

    Raises:
        ValueError, TypeError, ArithmeticError: The node is damaged.
    """
    if type(node) is not list:
        return node if type(node) is str else str(node)
    code, *arguments = node
    if code in (TUPLE, FROZENSET):
        inner = ", ".join(repr(item) if type(item) is str else key_text(item) for item in arguments[2:])
        return f"({inner})" if code == TUPLE else f"{{{inner}}}"
    if code == ENUM:
        name, member = arguments
        return f"{name.rpartition(':')[2].rpartition('.')[2]}.{member}"
    return str(_value(node))


def kind_of(node: Node) -> str:
    """Return the name of the type of a plain node."""
    if type(node) is list:
        return FORMS[node[0]].name
    return "none" if node is None else type(node).__name__


def in_order(nodes: Iterable[Node]) -> list[Node]:
    """Return the nodes of a set in an order that does not depend on hashes, so that equal sets give equal bytes."""
    return sorted(nodes, key=encode_node)


def text_bytes(value: str) -> bytes:
    """Encode a string as UTF-8. Lone surrogates, as in file names that are not UTF-8, are kept."""
    return value.encode("utf-8", "surrogatepass")


def text_of(data: bytes | bytearray) -> str:
    return data.decode("utf-8", "surrogatepass")


def integer_bytes(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)


def integer_of(data: bytes | bytearray) -> int:
    return int.from_bytes(data, "little", signed=True)


def _short_integer_of(data: bytes) -> int:
    if len(data) > _LONGEST_INTEGER:
        raise ValueError(f"an integer of {len(data)} bytes is too long to be plain")
    return integer_of(data)


def no_class(name: str) -> type:
    """Find no class. For callers that need values of other types only."""
    raise Unavailable(f"The class {name!r} is not needed here.")


# --- how types are written -----------------------------------------------------------------------------------------


def _itself(value: Any) -> Node:
    return value


def _text_node(value: str) -> Node:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:  # msgpack cannot store lone surrogates in strings
            return [TEXT, text_bytes(value)]
    return value


def _integer_node(value: int) -> Node:
    if -(2**63) <= value < 2**64:
        return value
    data = integer_bytes(value)
    if len(data) > _LONGEST_INTEGER:
        raise NotPlain
    return [INTEGER, data]


def _numpy_node(value: np.generic) -> Node:
    array = np.asarray(value)
    dtype = dtype_node(array.dtype)
    if dtype is None or type(value) is not array.dtype.type:
        raise NotPlain
    return [NUMPY_SCALAR, array.tobytes(), dtype]


def _enum_node(member: Enum) -> Node:
    cls = type(member)
    name = reference(cls)
    # a combination of flags is not a member
    if name is None or cls.__members__.get(member.name) is not member:
        raise NotPlain
    return [ENUM, name, member.name]


def _zone_node(zone: dt.tzinfo | None) -> Node:
    """Return None, the key of a time zone, or `[microseconds, name?]` for a fixed offset."""
    if zone is None:
        return None
    if type(zone) is zoneinfo.ZoneInfo and zone.key is not None:
        return zone.key
    if type(zone) is dt.timezone:
        offset, *name = zone.__getinitargs__()  # type: ignore[attr-defined]
        return [offset // _MICROSECOND, *name]
    raise NotPlain


def _path_node(path: PurePath) -> Node:
    return [PATH, isinstance(path, PureWindowsPath), isinstance(path, Path), _text_node(str(path))]


WRITERS: dict[type, Callable[[Any], Node]] = {
    type(None): _itself,
    bool: _itself,
    float: _itself,
    bytes: _itself,
    str: _text_node,
    int: _integer_node,
    type(...): lambda _: [ELLIPSIS],
    complex: lambda number: [COMPLEX, number.real, number.imag],
    dt.datetime: lambda moment: [
        DATETIME,
        moment.replace(tzinfo=None).isoformat(),
        moment.fold,
        _zone_node(moment.tzinfo),
    ],
    dt.date: lambda day: [DATE, day.isoformat()],
    dt.time: lambda time: [TIME, time.replace(tzinfo=None).isoformat(), time.fold, _zone_node(time.tzinfo)],
    dt.timedelta: lambda span: [TIMEDELTA, span.days, span.seconds, span.microseconds],
    Decimal: lambda number: [DECIMAL, str(number)],
    Fraction: lambda number: [FRACTION, _integer_node(number.numerator), _integer_node(number.denominator)],
    UUID: lambda unique: [UNIQUE_ID, unique.bytes],
    range: lambda numbers: [RANGE, *map(plain_node, (numbers.start, numbers.stop, numbers.step))],
    slice: lambda part: [SLICE, *map(plain_node, (part.start, part.stop, part.step))],
    PosixPath: _path_node,
    WindowsPath: _path_node,
    PurePosixPath: _path_node,
    PureWindowsPath: _path_node,
}


# --- how codes are read --------------------------------------------------------------------------------------------


def _value(node: Node) -> Any:
    return plain_value(node, no_class)


def _integer(node: Node) -> int:
    """Read an integer. `Fraction` accepts strings, too, but "1e300000000" would take hours."""
    if type(node) is not int and not (type(node) is list and node[0] == INTEGER):
        raise ValueError("a fraction or a range must consist of integers")
    return int(_value(node))


def _enum_member(name: str, member: str, find: Callable[[str], type]) -> Enum:
    cls = find(name)
    found = cls.__members__.get(member) if issubclass(cls, Enum) else None
    if found is None:
        raise Unavailable(f"Its class {name!r} is not an enum with a member {member!r} in this process.")
    return found


def _zone(node: Node) -> dt.tzinfo | None:
    if node is None:
        return None
    if type(node) is str:
        try:
            return zoneinfo.ZoneInfo(node)
        except (zoneinfo.ZoneInfoNotFoundError, OSError) as error:
            raise Unavailable(f"Its time zone {node!r} is not known here. Run `pip install tzdata`.") from error
    offset, *name = node
    return dt.timezone(dt.timedelta(microseconds=offset), *name)


def _path(windows: bool, concrete: bool, text: Node) -> PurePath:
    """Read a path. A concrete path of another operating system becomes a pure one."""
    pure = PureWindowsPath if windows else PurePosixPath
    return (Path if concrete and issubclass(type(Path()), pure) else pure)(_value(text))


FORMS: dict[int, Form] = {
    TUPLE: Form("tuple", (), tuple),
    FROZENSET: Form("frozenset", (), frozenset),
    TEXT: Form("str", (bytes,), text_of),
    INTEGER: Form("int", (bytes,), _short_integer_of),
    NUMPY_SCALAR: Form(
        "numpy-scalar",
        (bytes, object),
        lambda data, dtype: np.ndarray((), parse_dtype(dtype), bytearray(data))[()],
    ),
    ENUM: Form("enum", (str, str), _enum_member),
    ELLIPSIS: Form("ellipsis", (), lambda: ...),
    COMPLEX: Form("complex", (float, float), complex),
    DATETIME: Form(
        "datetime",
        (str, int, object),
        lambda text, fold, zone: dt.datetime.fromisoformat(text).replace(fold=fold, tzinfo=_zone(zone)),
    ),
    DATE: Form("date", (str,), dt.date.fromisoformat),
    TIME: Form(
        "time",
        (str, int, object),
        lambda text, fold, zone: dt.time.fromisoformat(text).replace(fold=fold, tzinfo=_zone(zone)),
    ),
    TIMEDELTA: Form("timedelta", (int, int, int), dt.timedelta),
    DECIMAL: Form("decimal", (str,), Decimal),
    FRACTION: Form("fraction", (object, object), lambda *parts: Fraction(*map(_integer, parts))),
    UNIQUE_ID: Form("uuid", (bytes,), lambda data: UUID(bytes=data)),
    RANGE: Form("range", (object, object, object), lambda *numbers: range(*map(_integer, numbers))),
    SLICE: Form("slice", (object, object, object), lambda *part: slice(*map(_value, part))),
    PATH: Form("path", (bool, bool, object), _path),
}
