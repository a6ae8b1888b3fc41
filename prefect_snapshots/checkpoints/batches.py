"""Results <-> bytes: what a function returned, for many items at once.

A *batch* is what one flush writes: for each item its key, position, times and *outcome*, and the results in one of two
forms. Plain ones (None, numbers, text, bytes) are written together; as soon as there is another one, each is written on
its own: arrays without pickle, everything else as a pickle. A pickle of nothing but built-in containers is loaded
without importing anything, so that `allow_pickle=False` refuses only what could run code.

Results that may change later are written at once (`freeze`), because a function may well return the same list again.
"""

from __future__ import annotations

import io
import pickle
import struct
import traceback
import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle
import msgspec
import numpy as np
from numpy.typing import NDArray

from ..errors import DamagedObject, PickleRefused
from ..repository.location import Buffer
from .keys import KEY_SIZE, Keys

DONE, SKIPPED, RAISED = 0, 1, 2
"""Outcomes of an item: it has a result; it failed, and the run went on; it failed, and the run stopped there."""

LIMIT = 1 << 30
"""Most bytes that one result may take."""

RECORD_LIMIT = 1 << 16
"""Most items in one batch."""

_FORMAT = 1
_HEAD = struct.Struct("<BBxxI")  # format, form, number of items
_PLAIN, _EACH = 0, 1

_LONG = 4096
"""Text and bytes from this length on are frozen, so that their size is counted."""

SCALARS = frozenset({type(None), bool, int, float})
"""Results of these types are frozen as they are."""

_SCALARS = frozenset({type(None), bool, int, float, str, bytes})

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode
_decode_list = msgspec.msgpack.Decoder(list[Any]).decode


class Unserialisable(Exception):
    """A result cannot be written; the text says why."""


class Frozen(bytes):
    """A result as bytes, beginning with its tag."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an item has no result."""

    item: str
    """`repr` of the item, cut."""
    kind: str
    message: str
    traceback: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}" if self.message else self.kind


_decode_failure = msgspec.msgpack.Decoder(Failure).decode


def freeze(value: Any, limit: int = LIMIT) -> Any:
    """A result in a form that cannot change any more: itself, if it is a small plain one.

    Raises:
        Unserialisable: it cannot be written, or takes more than `limit` bytes.
    """
    cls = type(value)
    if cls in _SCALARS and (cls not in (str, bytes) or len(value) < _LONG):
        return value
    data = Frozen(_one(value))
    if len(data) > limit:
        raise Unserialisable(
            f"its result takes {len(data):,} bytes, and at most {limit:,} are kept. Let the function store it, for "
            "example as a snapshot, and return where it is."
        )
    return data


def failure(item: Any, error: BaseException) -> Frozen:
    """A failure in the form of a result."""
    lines = traceback.format_exception(error)
    message = _text(error)
    found = Failure(_cut(_repr(item), 200), type(error).__qualname__, _cut(message, 2000), _cut("".join(lines), 8000))
    return Frozen(_FAILURE + _encode(found))


# --- batches ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Batch:
    """What one flush writes, a row an item."""

    keys: Keys
    positions: NDArray[np.int64]
    starts: NDArray[np.float64]
    """Seconds since 1970."""
    ends: NDArray[np.float64]
    outcomes: NDArray[np.uint8]
    values: Sequence[Any]
    """Frozen results."""

    def __len__(self) -> int:
        return len(self.keys)

    def part(self, first: int, end: int) -> Batch:
        """Some of its rows."""
        rows = slice(first, end)
        return Batch(
            self.keys[rows],
            self.positions[rows],
            self.starts[rows],
            self.ends[rows],
            self.outcomes[rows],
            self.values[rows],
        )


def encode_batch(batch: Batch) -> bytes:
    """A batch as bytes."""
    form, payload = _payload(batch.values)
    return b"".join(
        (
            _HEAD.pack(_FORMAT, form, len(batch)),
            batch.keys.tobytes(),
            _differences(batch.positions),
            _differences((batch.ends * 1e9).astype(np.int64)),
            ((batch.ends - batch.starts) * 1e9).astype("<i8").tobytes(),
            batch.outcomes.tobytes(),
            payload,
        )
    )


class StoredBatch:
    """A batch as it was read. Only what is asked for is taken apart."""

    __slots__ = ("_at", "_count", "_form", "_view")

    def __init__(self, data: Buffer, where: str) -> None:
        self._view = memoryview(data)
        self._form: int
        self._count: int
        format_, self._form, self._count = _HEAD.unpack_from(self._view)
        if format_ != _FORMAT:
            raise DamagedObject(where, f"results in format {format_}; this version reads format {_FORMAT}. Upgrade")
        self._at = _HEAD.size + KEY_SIZE * self._count

    def __len__(self) -> int:
        return self._count

    @property
    def keys(self) -> Keys:
        return np.frombuffer(self._view, np.uint64, 2 * self._count, _HEAD.size).reshape(-1, 2)

    @property
    def positions(self) -> NDArray[np.int64]:
        return np.cumsum(self._column(0))

    @property
    def ends(self) -> NDArray[np.float64]:
        return np.cumsum(self._column(1)) / 1e9

    @property
    def starts(self) -> NDArray[np.float64]:
        return self.ends - self._column(2) / 1e9

    @property
    def outcomes(self) -> NDArray[np.uint8]:
        return np.frombuffer(self._view, np.uint8, self._count, self._at + 24 * self._count)

    def values(self, *, allow_pickle: bool) -> Results:
        """The results of the batch."""
        return Results(self._count, self._form, self._view[self._at + 25 * self._count :], allow_pickle)

    def _column(self, number: int) -> NDArray[np.int64]:
        return np.frombuffer(self._view, "<i8", self._count, self._at + 8 * self._count * number)


class Results:
    """The results of one stored batch, by row."""

    def __init__(self, count: int, form: int, payload: memoryview, allow_pickle: bool) -> None:
        self._allow_pickle = allow_pickle
        self._plain: list[Any] | None = _decode_list(payload) if form == _PLAIN else None
        self.nbytes = len(payload)
        if form == _EACH:
            sizes = np.frombuffer(payload, "<u4", count)
            self._ends = np.cumsum(sizes, dtype=np.int64).tolist()
            self._body = payload[4 * count :]

    def __getitem__(self, row: int) -> Any:
        if self._plain is not None:
            return self._plain[row]
        return _load(self._blob(row), self._allow_pickle)

    def take(self, rows: Sequence[int]) -> list[Any]:
        """Several results."""
        plain = self._plain
        return [plain[row] for row in rows] if plain is not None else [self[row] for row in rows]

    def stored(self, rows: Sequence[int]) -> list[bytes]:
        """Return several results as bytes."""
        plain = self._plain
        return [_one(plain[row]) if plain is not None else bytes(self._blob(row)) for row in rows]

    def _blob(self, row: int) -> memoryview:
        return self._body[self._ends[row - 1] if row else 0 : self._ends[row]]


def _payload(values: Sequence[Any]) -> tuple[int, bytes]:
    if Frozen not in set(map(type, values)):
        try:
            return _PLAIN, _encode(values)
        except (OverflowError, UnicodeEncodeError, ValueError):
            pass
    blobs = [value if type(value) is Frozen else _one(value) for value in values]
    sizes = np.fromiter(map(len, blobs), "<u4", len(blobs))
    return _EACH, b"".join((sizes.tobytes(), *blobs))


def _differences(numbers: NDArray[np.int64]) -> bytes:
    """Each number less its predecessor: mostly small, so that they compress."""
    found = numbers.astype("<i8")
    found[1:] -= numbers[:-1]
    return found.tobytes()


# --- one result ------------------------------------------------------------------------------------------

_MSGPACK, _ARRAY, _PICKLE, _FAILURE = b"m", b"a", b"p", b"f"


def _one(value: Any) -> bytes:
    """One result as a tag and bytes."""
    cls = type(value)
    try:
        if cls in _SCALARS:
            try:
                data = _MSGPACK + _encode(value)
            except (OverflowError, UnicodeEncodeError):
                data = _PICKLE + pickle.dumps(value, 5)
        elif cls is np.ndarray and _plain_dtype(value.dtype):
            data = _ARRAY + _encode((value.dtype.str, value.shape, np.ascontiguousarray(value).tobytes()))
        elif isinstance(value, types.GeneratorType | types.AsyncGeneratorType | types.CoroutineType):
            kind = {types.CoroutineType: "a coroutine"}.get(cls, "a generator")
            raise Unserialisable(f"the function returned {kind}, which can be used only once. Let it return a list.")
        else:
            data = _PICKLE + _pickled(value)
    except Unserialisable:
        raise
    except MemoryError:
        raise
    except Exception as error:
        raise Unserialisable(f"its result, a {cls.__qualname__}, cannot be kept ({error})") from error
    return data


def _plain_dtype(dtype: np.dtype[Any]) -> bool:
    return not dtype.hasobject and dtype.names is None and dtype.subdtype is None and np.dtype(dtype.str) == dtype


def _pickled(value: Any) -> bytes:
    """By reference where another process finds the class; what belongs to the running script goes by value."""
    try:
        data = pickle.dumps(value, 5)
    except Exception:
        data = b"__main__"
    return data if b"__main__" not in data else bytes(cloudpickle.dumps(value, 5))


def _load(blob: memoryview, allow_pickle: bool) -> Any:
    tag, data = bytes(blob[:1]), blob[1:]
    if tag == _PICKLE:
        return pickle.loads(data) if allow_pickle else _Careful(io.BytesIO(data)).load()
    if tag == _MSGPACK:
        return _decode(data)
    if tag == _ARRAY:
        dtype, shape, content = _decode(data)
        return np.frombuffer(bytearray(content), np.dtype(dtype)).reshape(shape)
    return _decode_failure(data)


class _Careful(pickle.Unpickler):
    """Loads containers, values and arrays of what ships with Python and NumPy: all else could run anything."""

    def find_class(self, module: str, name: str) -> Any:
        if name in _HARMLESS.get(module, ()):
            return super().find_class(module, name)
        raise PickleRefused("", f"a {module}.{name} was stored with pickle, and allow_pickle=False")


_NUMPY = frozenset({"_frombuffer", "_reconstruct", "scalar", "ndarray", "dtype"})
_HARMLESS = {
    "builtins": frozenset({"bytearray", "complex", "frozenset", "range", "set", "slice"}),
    "collections": frozenset({"OrderedDict", "deque"}),
    "datetime": frozenset({"date", "datetime", "time", "timedelta", "timezone"}),
    "decimal": frozenset({"Decimal"}),
    "fractions": frozenset({"Fraction"}),
    "uuid": frozenset({"UUID"}),
    "numpy": _NUMPY,
    "numpy._core.multiarray": _NUMPY,
    "numpy._core.numeric": _NUMPY,
}


def _repr(item: Any) -> str:
    try:
        return repr(item)
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
