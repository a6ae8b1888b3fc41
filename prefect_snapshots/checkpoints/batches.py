"""Batches of results as bytes. One flush writes one batch.

A batch has for each item its key, position, times and *outcome*, and the results in one of two forms. Small plain ones
(None, numbers, strings, bytes) are written together. If a batch contains any other result, each is written separately:
see `frozen`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..errors import UNDECODABLE, DamagedObject, IntegrityError, PickleRefused, SnapshotsError
from ..repository.location import Buffer
from .frozen import Frozen, encode_plain, thaw, to_bytes
from .keys import KEY_SIZE, Keys

DONE, SKIPPED, RAISED = 0, 1, 2
"""Outcomes of an item: it has a result; it failed and the run continued; it failed and the run stopped there."""

RECORD_LIMIT = 1 << 16
"""The most items in one record: a place in the ledger has 16 bits for the row."""

_FORMAT = 1
"""The version of a record of results. A reader refuses a higher one."""
_HEAD = struct.Struct("<BBxxI")  # format, form, number of items
_TOGETHER, _EACH = 0, 1
_ROW_SIZE = KEY_SIZE + 3 * 8 + 1  # key, position, end, duration, outcome

_decode_list = msgspec.msgpack.Decoder(list[Any]).decode


@dataclass(slots=True)
class Batch:
    """The content of one flush, with a row for each item."""

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
        """Return some of its rows."""
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
    """Return a batch as bytes."""
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
    """A batch as it was read. Its columns are decoded only when they are used."""

    __slots__ = ("_at", "_count", "_form", "_view", "_where")

    def __init__(self, data: Buffer, where: str) -> None:
        self._view = memoryview(data)
        self._where = where
        if len(self._view) < _HEAD.size:
            raise DamagedObject(where, "a batch of results is truncated")
        self._form: int
        self._count: int
        format_, self._form, self._count = _HEAD.unpack_from(self._view)
        if format_ != _FORMAT:
            raise DamagedObject(where, f"results in format {format_}; this version reads format {_FORMAT}. Upgrade")
        if self._form not in (_TOGETHER, _EACH) or len(self._view) < _HEAD.size + _ROW_SIZE * self._count:
            raise DamagedObject(where, f"a batch of {self._count:,} results is truncated")
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
        """Return the results of the batch.

        Raises:
            DamagedObject: They cannot be decoded.
        """
        payload = self._view[self._at + 25 * self._count :]
        return Results(self._count, self._form == _TOGETHER, payload, allow_pickle, self._where)

    def _column(self, number: int) -> NDArray[np.int64]:
        return np.frombuffer(self._view, "<i8", self._count, self._at + 8 * self._count * number)


class Results:
    """The results of one stored batch, by row."""

    def __init__(self, count: int, together: bool, payload: memoryview, allow_pickle: bool, where: str) -> None:
        self._allow_pickle = allow_pickle
        self._where = where
        self.nbytes = len(payload)
        self._plain: list[Any] | None = None
        if together:
            try:
                self._plain = _decode_list(payload)
            except UNDECODABLE as error:
                raise DamagedObject(where, f"its results cannot be read ({error})") from error
            whole = len(self._plain) == count
        else:
            sizes = np.frombuffer(payload, "<u4", min(count, len(payload) // 4)).astype(np.int64)
            self._ends = np.cumsum(sizes).tolist()
            self._body = payload[4 * count :]
            whole = len(sizes) == count and len(self._body) == int(sizes.sum())
        if not whole:
            raise DamagedObject(where, "the results of a batch are truncated")

    def __getitem__(self, row: int) -> Any:
        if self._plain is not None:
            return self._plain[row]
        try:
            return thaw(self._blob(row), self._allow_pickle)
        except PickleRefused as error:
            reason = "A result was stored with pickle, and allow_pickle is False"
            raise PickleRefused(error.path, f"{reason}. {_HOW_TO_ALLOW}") from error
        except (IntegrityError, *UNDECODABLE) as error:
            if isinstance(error, SnapshotsError) and not isinstance(error, IntegrityError):
                raise
            raise DamagedObject(self._where, f"a result cannot be read ({error})") from error

    def take(self, rows: Sequence[int]) -> list[Any]:
        """Return several results."""
        plain = self._plain
        return [plain[row] for row in rows] if plain is not None else [self[row] for row in rows]

    def stored(self, rows: Sequence[int]) -> list[bytes]:
        """Return several results as bytes."""
        plain = self._plain
        return [to_bytes(plain[row]) if plain is not None else bytes(self._blob(row)) for row in rows]

    def _blob(self, row: int) -> memoryview:
        return self._body[self._ends[row - 1] if row else 0 : self._ends[row]]


_HOW_TO_ALLOW = "If you trust everyone who can write to the repository, open it with allow_pickle=True."


def _payload(values: Sequence[Any]) -> tuple[int, bytes]:
    if Frozen not in set(map(type, values)):
        try:
            return _TOGETHER, encode_plain(values)
        except (OverflowError, UnicodeEncodeError, ValueError):  # a value that MessagePack cannot represent
            pass
    blobs = [to_bytes(value) for value in values]
    sizes = np.fromiter(map(len, blobs), "<u4", len(blobs))
    return _EACH, b"".join((sizes.tobytes(), *blobs))


def _differences(numbers: NDArray[np.int64]) -> bytes:
    """Return the differences of successive numbers, which are mostly small and compress well."""
    found = numbers.astype("<i8")
    found[1:] -= numbers[:-1]
    return found.tobytes()
