"""Result logs, for results that are too small and too frequent for an event or a pack each.

- A *segment* is a file `logs/<stream>/<segment>` with a random name. Only its creator appends to it. An event of the
  stream registers it before it is written, and the order of segments is the order of these events.
- A *record* contains the results of one flush: a sealed object after a head that says where it ends.
- The *footer* is the last record of a *closed* segment. It says where the other records are, and contains a summary
  that its kind defines, so that opening a closed segment reads only the footer.
- If a store cannot append, each record of an *open* segment is a separate object `<segment>/<number>`, and closing it
  writes the whole segment to one object `<segment>/whole`.

A later event records the *extent* of a segment: the number of records and bytes and, if it is closed, the hash of all
its bytes. So a missing, emptied, truncated or swapped segment is detected as damage. Each start also records what it
has read of open segments, because a killed writer cannot.

An open segment may end with a *torn* record that a kill or a full disk left half-written. A record that cannot be read
counts as torn only if no footer and no intact record follows it. Otherwise it is damage.

The events of a stream say which of its segments are needed: a body with `segment` registers one, and `drops` lists
those that are no longer needed, which `maintenance.prune` deletes. `closes`, `records`, `size` and `hash` are the
extent of a closed segment, `seen` those of open ones. This module interprets nothing else in the bodies.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from blake3 import blake3

from ..errors import DamagedObject, IntegrityError, ObjectMissing, StorageUnavailable, UnsupportedFormat
from .catalog import Event
from .location import Appender, Buffer, ByteLocks, Location, ObjectInfo
from .reserve import spare_reserve
from .sealing import Sealer

PREFIX = "logs"

WHOLE = "whole"
CLAIMS = "claims"
LOCKS = "locks"

_HEAD = struct.Struct("<8sII")  # marker, number, length of the sealed object
_MARKER = b"\x89PSLOG\r\n"
_TRAILER = struct.Struct("<Q8s")  # length of the footer with its head, marker
_END_MARKER = b"\x89PSEND\r\n"
_FOOTER = 2**32 - 1
"""The number of the footer of a segment, which no record has."""

_TRIED = 1000
"""How many possible beginnings of records are tried after a broken one. Each may require reading all later bytes."""
_TAIL = 64 * 1024
"""How many bytes are read at the end of a segment to find its footer in one request."""
_READ = 8 * 1024 * 1024
"""How many bytes of a segment are read at a time: a compromise between requests and memory."""
_GAP = 64 * 1024
"""Gaps of up to this many bytes between two needed records are read, too, because another request would cost more."""


def new_segment() -> str:
    """Return a name for a new segment."""
    return os.urandom(16).hex()


def folder(stream: str) -> str:
    """Return the folder of the segments of a stream."""
    return f"{PREFIX}/{stream}"


_SEGMENT = re.compile(r"[0-9a-f]{32}")


def drops_of(event: Event) -> list[str]:
    """Return the segments that an event drops. Invalid names are ignored."""
    drops = event.body.get("drops")
    return [one for one in drops if isinstance(one, str)] if isinstance(drops, list | tuple) else []


def dropped(events: Iterable[Event]) -> set[str]:
    """Return the segments that the events of a stream drop."""
    return {segment for event in events for segment in drops_of(event)}


# --- extents in events ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Extent:
    """The extent of a segment, as an event records it.

    Attributes:
        records: The number of records without the footer.
        size: The size in bytes. 0 if the segment was open, and had an object for each record.
        digest: The BLAKE3 hash of a closed segment. Empty if the segment was open and may have grown since.
    """

    records: int
    size: int
    digest: bytes = b""

    def body(self) -> dict[str, Any]:
        """Return the extent as part of the body of an event."""
        return {"records": self.records, "size": self.size, "hash": self.digest}


def note_extents(body: Mapping[str, Any], known: dict[str, Extent]) -> None:
    """Add the extents in the body of an event to the known ones.

    Args:
        body: The body of an event of the stream.
        known: The extents of the earlier events, by segment. It is updated.

    Raises:
        IntegrityError: The body is invalid.
    """
    drops = body.get("drops")
    for segment in drops if isinstance(drops, list | tuple) else ():
        if isinstance(segment, str):  # invalid names are ignored, as in `drops_of`
            known.pop(segment, None)
    try:
        if "records" in body:
            known[str(body.get("closes", body.get("segment")))] = _extent(body["records"], body["size"], body["hash"])
        for segment, (records, size) in dict(body.get("seen", {})).items():
            old = known.get(segment)
            if old is None or (not old.digest and old.records < records):
                known[segment] = _extent(records, size, b"")
    except (TypeError, ValueError, KeyError) as error:
        raise IntegrityError(f"An event describes an impossible log segment ({error}).") from error


def _extent(records: int, size: int, digest: bytes) -> Extent:
    sound = type(records) is type(size) is int and records >= 0 and type(digest) is bytes
    # An open segment in objects is counted, not measured, so its size is 0.
    if not sound or not (records <= size or (size == 0 and not digest)):
        raise ValueError(f"{records!r} records in {size!r} bytes")
    return Extent(records, size, digest)


def extents(events: Iterable[Event]) -> dict[str, Extent]:
    """Return the extents that the events of a stream record, by segment."""
    known: dict[str, Extent] = {}
    for event in events:
        note_extents(event.body, known)
    return known


# --- writing -------------------------------------------------------------------------------------------------------


class SegmentWriter:
    """Writes one segment, which is created with its first record.

    Args:
        location, sealer: Those of the repository.
        stream: The id of the stream that the segment is registered in.
        segment: Its name, from `new_segment`.
        at_once: Whether the segment is closed as soon as all of its records are appended. Where files cannot grow, it
            is then written in one request, and does not exist before.

    Attributes:
        size: Bytes so far.
        records: Records so far.
    """

    def __init__(self, location: Location, sealer: Sealer, stream: str, segment: str, *, at_once: bool = False) -> None:
        self.segment = segment
        self.size = 0
        self._at_once = at_once
        self._location = location
        self._sealer = sealer
        self._path = f"{folder(stream)}/{segment}"
        self._offsets: list[int] = []
        self._appender: Appender | None = None
        self._held: list[bytes] | None = None
        self._begun = False
        self._hash = blake3()

    @property
    def records(self) -> int:
        """Records so far."""
        return len(self._offsets)

    def append(self, frames: Sequence[Buffer]) -> int:
        """Append a record. It survives the death of this process immediately.

        Returns:
            The number of the record.

        Raises:
            StorageError: It could not be written. Nothing more can be appended to the segment.
        """
        if not self._begun:
            spare_reserve(self._location)
            self._appender = self._location.appender(self._path)
            self._held = [] if self._appender is None else None
            self._begun = True
        number = len(self._offsets)
        record = _seal(self._sealer, self._path, number, frames)
        if self._appender is not None:
            self._appender.append(record)
        else:
            assert self._held is not None
            if not self._at_once and not self._location.create(f"{self._path}/{number:08d}", record):
                raise StorageUnavailable(f"{self._path}/{number:08d} was written by another process.")
            self._held.append(record)
        self._offsets.append(self.size)
        self.size += len(record)
        self._hash.update(record)
        return number

    def close(self, summary: Sequence[Buffer]) -> Extent | None:
        """Append the footer, and make everything durable.

        Returns:
            The extent to record in an event. None if there is no record, and so no segment.
        """
        if not self._begun:
            return None
        table = np.array(self._offsets, "<u8").tobytes()
        footer = _seal(self._sealer, self._path, _FOOTER, [table, *summary])
        end = [footer, _TRAILER.pack(len(footer), _END_MARKER)]
        if self._appender is not None:
            self._appender.append(end)
            self._appender.close()
        else:
            assert self._held is not None
            self._location.replace(f"{self._path}/{WHOLE}", b"".join([*self._held, *end]))
        self._begun = False
        for part in end:
            self._hash.update(part)
        return Extent(self.records, self.size + sum(map(len, end)), self._hash.digest())

    def abandon(self) -> None:
        """Stop writing without a footer. Records that were appended are kept."""
        if self._appender is not None:
            self._appender.abort()
        self._begun = False


def list_objects(location: Location, stream: str) -> dict[str, dict[str, int]] | None:
    """Return the objects of each segment of a stream with their sizes, or None if segments are single files."""
    if location.appends:
        return None
    found: dict[str, dict[str, int]] = {}
    for info in location.list(folder(stream)):
        _, _, segment, *name = info.path.split("/", 3)
        if name:
            found.setdefault(segment, {})[name[0]] = info.size
    return found


# --- reading -------------------------------------------------------------------------------------------------------


class SegmentReader:
    """Reads one segment, which may be growing.

    Attributes:
        closed: Whether its footer was read.
        records: The number of known records.
        extent: The extent in an event. Read the event before you read the segment.
    """

    def __init__(
        self, location: Location, sealer: Sealer, stream: str, segment: str, extent: Extent | None = None
    ) -> None:
        self.segment = segment
        self.closed = False
        self.records = 0
        self.extent = extent
        self._location = location
        self._sealer = sealer
        self._path = f"{folder(stream)}/{segment}"
        self._appends = location.appends
        # As one whole file: where each record begins, and where the last one ends.
        self._file = self._path if self._appends else f"{self._path}/{WHOLE}"
        self._offsets: list[int] = []
        self._table = np.zeros(0, "<u8")
        self._end = 0
        self._seen = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the records known so far."""
        return self._end

    def summary(self, listed: Mapping[str, int] | None = None) -> list[Buffer] | None:
        """Return the summary in the footer if the segment is closed. If None, continue with `follow`.

        Args:
            listed: The result of `list_objects` for the segment if the store cannot append. It saves a request.
        """
        size = self._location.size(self._file) if listed is None else listed.get(WHOLE)
        self._check_size(size)
        if size is None or size < _TRAILER.size:
            return None
        tail = self._read_range(max(size - _TAIL, 0), size)
        length, marker = _TRAILER.unpack(tail[-_TRAILER.size :])
        if marker != _END_MARKER or length + _TRAILER.size > size:
            return None
        start = size - _TRAILER.size - length
        if start < size - len(tail):
            tail = self._read_range(start, size)
        try:
            number, frames = self._open(tail[-_TRAILER.size - length : -_TRAILER.size])
        except DamagedObject:
            return None  # reading it from the start will find the damage
        if number != _FOOTER or not frames:
            return None
        self._close(frames[0], start)
        self._check_extent()
        return frames[1:]

    def follow(self, listed: Mapping[str, int] | None = None) -> Iterator[tuple[int, list[Buffer]]]:
        """Yield the records since the last call, with their numbers.

        Args:
            listed: As for `summary`.

        Raises:
            DamagedObject: A record is damaged and not torn, or the segment is shorter than an event says.
        """
        if not self.closed:
            yield from self._follow(listed)
            self._check_extent()

    def _follow(self, listed: Mapping[str, int] | None) -> Iterator[tuple[int, list[Buffer]]]:
        if not self._appends and listed is None:
            names = ((info.path.rpartition("/")[2], info.size) for info in self._location.list(self._path))
            listed = dict(names)
        size = self._location.size(self._file) if listed is None else listed.get(WHOLE)
        if size is None:
            if listed:
                yield from self._follow_objects(listed)
            else:
                self._check_size(None)
        elif size != self._seen:
            known = self.records
            if not self._appends:
                self.records = 0  # they were objects until now, so find their places in the whole
            for number, frames in self._follow_file(size):
                if number >= known:
                    yield number, frames
            self._seen = size

    def read(self, numbers: Sequence[int]) -> Iterator[list[Buffer]]:
        """Yield records by number, in the order of `numbers`.

        Raises:
            ObjectMissing: The segment no longer exists.
            DamagedObject: A record is damaged.
        """
        if not self._appends and not self.closed:
            yield from self._read_objects(numbers)
            return
        for span in self._spans(numbers):
            first, last = self._bounds(span[0])[0], self._bounds(span[-1])[1]
            data = memoryview(self._read_range(first, last))
            if len(data) < last - first:
                raise DamagedObject(self._file, f"it ends within record {span[-1]}")
            for number in span:
                start, end = self._bounds(number)
                yield self._verified(data[start - first : end - first], number)

    def check_size(self, listed: Mapping[str, int] | None = None) -> None:
        """Check that the segment exists and is not shorter than an event says, without reading it.

        Args:
            listed: As for `summary`.

        Raises:
            DamagedObject: It is missing or too short.
        """
        size = self._location.size(self._file) if listed is None else listed.get(WHOLE)
        self._check_size(size)
        extent = self.extent
        if extent is not None and listed is not None and size is None:
            there = sum(name.isdigit() for name in listed)
            if there < extent.records and self._location.size(self._file) is None:
                raise DamagedObject(self._path, f"it has {there:,} of {extent.records:,} records")

    def digest(self, size: int) -> bytes:
        """Return the hash of the first bytes of a closed segment."""
        hasher = blake3()
        for start in range(0, size, _READ):
            data = self._read_range(start, min(start + _READ, size))
            hasher.update(data)
            if not data:  # the size in an event may be wrong
                break
        return hasher.digest()

    def salvage(self) -> Iterator[list[Buffer]]:
        """Yield every intact record, even between damaged ones."""
        size = self._location.size(self._file)
        if size is None:
            yield from self._salvage_objects()
            return
        at, known = 0, -1
        while at + _HEAD.size <= size:
            window = self._read_range(at, min(at + _READ, size))
            found = window.find(_MARKER)
            if found:
                at += found if found > 0 else max(len(window) - len(_MARKER) + 1, 1)
                continue
            _, number, length = _HEAD.unpack_from(window)
            end = at + _HEAD.size + int(length)
            record = window[: end - at] if end - at <= len(window) else self._read_range(at, min(end, size))
            try:
                number, frames = self._open(record)
            except DamagedObject:
                at += 1
                continue
            if known < number < _FOOTER:  # a forged repetition of an old record has no effect
                known = number
                yield frames
            at = end

    def _salvage_objects(self) -> Iterator[list[Buffer]]:
        paths = sorted(info.path for info in self._location.list(self._path))
        for path, data in zip(paths, self._location.read_many(paths), strict=True):
            try:
                if data is not None:
                    yield self._verified(data, int(path.rpartition("/")[2]))
            except (DamagedObject, ValueError):
                continue

    def _check_size(self, size: int | None) -> None:
        """Raise if the segment is shorter than an event says. Open segments in objects are counted, not measured."""
        extent = self.extent
        if extent is None or not extent.records or not (extent.digest or self._appends):
            return
        if size is None:
            size = self._location.size(self._file)  # a listing may have missed it
        if size is None:
            raise DamagedObject(self._file, f"it is missing, and had {extent.records:,} records")
        if size < extent.size or (extent.digest and size != extent.size):
            raise DamagedObject(self._file, f"it has {size:,} bytes, but {extent.size:,} were written")

    def _check_extent(self) -> None:
        extent = self.extent
        if extent is None:
            return
        if self.records < extent.records or (extent.digest and (not self.closed or self.records != extent.records)):
            raise DamagedObject(self._file, f"it has {self.records:,} of {extent.records:,} records")

    # --- as one file -----------------------------------------------------------------------------------------------

    def _follow_file(self, size: int) -> Iterator[tuple[int, list[Buffer]]]:
        data = memoryview(b"")
        read = self._end
        while True:
            length = self._complete(data)
            if length is None:
                if read >= size:
                    break
                wanted = max(_READ, self._wanted(data))
                more = self._read_range(read, min(read + wanted, size))
                read += len(more)
                data = memoryview(b"".join((data, more)))
                if not more:
                    break
                continue
            try:
                number, frames = self._open(data[:length])
                if number not in (self.records, _FOOTER) or not frames:
                    raise DamagedObject(self._file, f"record {number} follows record {self.records - 1}")
            except DamagedObject as error:
                self._refuse_damage(data, size, error.reason)
                return
            if number == _FOOTER:
                self._check_end(data[length:], read, size, length)
                self._close(frames[0], self._end)
                return
            self._offsets.append(self._end)
            self._end += length
            self.records += 1
            data = data[length:]
            yield number, frames
        if len(data):
            self._refuse_damage(data, size, "it is truncated")

    def _complete(self, data: memoryview) -> int | None:
        """Return the length of the record at the beginning of `data`, or None if more bytes are needed."""
        if len(data) < _HEAD.size:
            return None
        marker, _, length = _HEAD.unpack_from(data)
        if marker != _MARKER:
            return _HEAD.size  # which then fails to open
        whole = _HEAD.size + int(length)
        return whole if whole <= len(data) else None

    def _wanted(self, data: memoryview) -> int:
        return _HEAD.size + int(_HEAD.unpack_from(data)[2]) if len(data) >= _HEAD.size else 0

    def _refuse_damage(self, data: memoryview, size: int, reason: str) -> None:
        """Raise unless this is the torn end of an open segment, with no footer and no intact record after it."""
        where = f"record {self.records} at byte {self._end}"
        rest = bytes(data) + self._read_range(self._end + len(data), size)
        if rest.endswith(_END_MARKER):
            raise DamagedObject(self._file, f"{where}: {reason}")
        at = rest.find(_MARKER, 1)
        tried = 0
        while at >= 0:
            tried += 1
            if tried > _TRIED:
                raise DamagedObject(self._file, f"{where}: {reason}, and {_TRIED} possible records follow")
            _, number, length = _HEAD.unpack_from(rest, at) if at + _HEAD.size <= len(rest) else (b"", 0, 0)
            if number > self.records:
                try:
                    self._open(memoryview(rest)[at : at + _HEAD.size + length])
                except DamagedObject:
                    pass
                else:
                    raise DamagedObject(self._file, f"{where}: {reason}, but later records are intact")
            at = rest.find(_MARKER, at + 1)

    def _check_end(self, rest: memoryview, read: int, size: int, footer: int) -> None:
        rest = memoryview(b"".join((rest, self._read_range(read, size))))
        if bytes(rest) != _TRAILER.pack(footer, _END_MARKER):
            raise DamagedObject(self._file, "its end is not what was written")

    def _close(self, table: Buffer, end: int) -> None:
        offsets = np.frombuffer(table, "<u8") if len(table) % 8 == 0 else None
        if offsets is None or (len(offsets) and (int(offsets.max()) >= end or (offsets[1:] <= offsets[:-1]).any())):
            raise DamagedObject(self._file, "its footer does not say where its records are")
        self._table = offsets.copy()  # not a view, which would keep the summary alive
        self._offsets = []
        self._end = end
        self.records = len(self._table)
        self.closed = True

    def _bounds(self, number: int) -> tuple[int, int]:
        offsets = self._table if self.closed else self._offsets
        return int(offsets[number]), int(offsets[number + 1]) if number + 1 < self.records else self._end

    def _spans(self, numbers: Sequence[int]) -> Iterator[list[int]]:
        """Yield runs of records that are close enough to be read together."""
        span: list[int] = []
        for number in numbers:
            start, end = self._bounds(number)
            if span and not (
                0 <= start - self._bounds(span[-1])[1] <= _GAP and end - self._bounds(span[0])[0] <= _READ
            ):
                yield span
                span = []
            span.append(number)
        if span:
            yield span

    def _read_range(self, start: int, end: int) -> bytes:
        return self._location.read_range(self._file, start, end - start) if end > start else b""

    # --- as one object a record ------------------------------------------------------------------------------------

    def _follow_objects(self, listed: Mapping[str, int]) -> Iterator[tuple[int, list[Buffer]]]:
        new = sorted(int(name) for name in listed if name.isdigit() and int(name) >= self.records)
        for number, data in zip(
            new, self._location.read_many([f"{self._path}/{number:08d}" for number in new]), strict=True
        ):
            path = f"{self._path}/{number:08d}"
            if number != self.records or data is None:
                if self._location.size(self._file) is not None:
                    return  # it was closed and pruned since: the next call reads it as one object
                raise DamagedObject(f"{self._path}/{self.records:08d}", "it is missing, but a later one exists")
            try:
                frames = self._verified(data, number)
            except DamagedObject as error:
                raise DamagedObject(path, error.reason) from None
            self.records += 1
            yield number, frames

    def _read_objects(self, numbers: Sequence[int]) -> Iterator[list[Buffer]]:
        paths = [f"{self._path}/{number:08d}" for number in numbers]
        for path, number, data in zip(paths, numbers, self._location.read_many(paths), strict=True):
            if data is None:
                raise ObjectMissing(f"{path} is missing.")
            yield self._verified(data, number)

    # --- one record ------------------------------------------------------------------------------------------------

    def _verified(self, data: Buffer, number: int) -> list[Buffer]:
        found, frames = self._open(memoryview(data))
        if found != number:
            raise DamagedObject(self._file, f"record {found} is in the place of record {number}")
        return frames

    def _open(self, record: memoryview | bytes) -> tuple[int, list[Buffer]]:
        if len(record) < _HEAD.size:
            raise DamagedObject(self._file, "a record is truncated")
        marker, number, length = _HEAD.unpack_from(record)
        if marker != _MARKER or _HEAD.size + length != len(record):
            raise DamagedObject(self._file, f"record {number} has a damaged head")
        try:
            return number, self._sealer.open(f"{self._path}/{number}", record[_HEAD.size :])
        except DamagedObject as error:
            raise DamagedObject(self._file, f"record {number}: {error.reason}") from None
        except UnsupportedFormat as error:
            raise DamagedObject(self._file, f"record {number}, unless it is from a later version: {error}") from None


def _seal(sealer: Sealer, path: str, number: int, frames: Sequence[Buffer]) -> bytes:
    sealed = sealer.seal(f"{path}/{number}", frames)
    return _HEAD.pack(_MARKER, number, len(sealed)) + sealed


# --- who works on what ---------------------------------------------------------------------------------------------


class Claims:
    """Prevents processes that share a stream from doing the same work at the same time.

    A failure only means that work is done twice. If files can be locked, a claim ends with its process, and open
    segments show which processes are alive. Otherwise a claim is an object, which is valid while the segment of its
    owner is open.
    """

    def __init__(self, location: Location, stream: str, sealer: Sealer) -> None:
        self._location = location
        self._stream = stream
        self._sealer = sealer
        self._folder = f"{folder(stream)}/{CLAIMS}"
        self._locks: ByteLocks | None = location.locks(f"{self._folder}/{LOCKS}")
        self._locked: dict[int, int] = {}
        """The number of the lock on each piece of work."""

    @property
    def exact(self) -> bool:
        """Whether claims end with their process."""
        return self._locks is not None

    def hold(self, segment: str) -> None:
        """Show that a segment is being written by this process."""
        if self._locks is not None:
            self._locks.take(_number(segment))

    def stop_holding(self, segment: str) -> None:
        """Show that a segment is no longer being written."""
        if self._locks is not None:
            self._locks.release(_number(segment))

    def is_live(self, segment: str) -> bool:
        """Return whether an open segment may still grow. If this is unknown, return True."""
        return self._locks is None or self._locks.is_held(_number(segment))

    def take(self, unit: int, segment: str, open_segments: frozenset[str]) -> bool:
        """Claim a unit of work for this process's segment. Return False if another process has it."""
        if self._locks is not None:
            number = self._hidden(unit)
            taken = self._locks.take(number)
            if taken:
                self._locked[unit] = number
            return taken
        return not open_segments or self._create(unit, segment, open_segments)

    def release(self, unit: int) -> None:
        """Release a claim."""
        if self._locks is not None and unit in self._locked:
            self._locks.release(self._locked.pop(unit))

    def close(self) -> None:
        """Release all claims."""
        if self._locks is not None:
            self._locks.close()

    def _create(self, unit: int, segment: str, open_segments: frozenset[str]) -> bool:
        turn = 0
        while True:
            path = f"{self._folder}/{self._hidden(unit):016x}-{turn}"
            if self._location.create(path, segment.encode()):
                return True
            owner = self._location.read(path).decode("ascii", "replace")
            if owner in open_segments:
                return False
            turn += 1  # its owner has closed its segment, or is cleared

    def _hidden(self, unit: int) -> int:
        """Return the number to use in the visible claim of a unit of work.

        Names of objects and locks are visible, and the number of a unit could reveal its items. So it is hashed with
        the secret of the repository.
        """
        return self._sealer.hidden_number(self._stream, unit)


def _number(segment: str) -> int:
    return int(segment[:15], 16)


# --- maintenance ---------------------------------------------------------------------------------------------------


def unwanted(segments: Iterable[ObjectInfo], events: Iterable[Event], before: float) -> list[str]:
    """Return objects in the logs of one stream that can be deleted.

    These are dropped segments, single records of segments that are stored whole, and claims older than `before`, in
    seconds since 1970. If such a claim is still in use, its work may be done twice.
    """
    infos = list(segments)
    drops = dropped(events)
    wholes = {info.path.rpartition("/")[0] for info in infos if info.path.endswith(f"/{WHOLE}")}
    found = []
    for info in infos:
        _, _, *inner = info.path.split("/")
        if not inner:
            continue  # a stray object that is not a segment
        segment, *rest = inner
        parent = info.path.rpartition("/")[0]
        if segment == CLAIMS:
            unneeded = rest != [LOCKS] and info.modified < before
        else:
            unneeded = segment in drops or (parent in wholes and rest != [WHOLE])
        if unneeded:
            found.append(info.path)
    return found


def wanted(events: Iterable[Event]) -> list[str]:
    """Return the segments that are needed according to the events of a stream."""
    segments: dict[str, None] = {}
    for event in events:
        for segment in drops_of(event):
            segments.pop(segment, None)
        begun = event.body.get("segment")
        if isinstance(begun, str) and _SEGMENT.fullmatch(begun):  # it becomes part of a path
            segments[begun] = None
    return list(segments)


def verify(location: Location, sealer: Sealer, stream: str, segment: str, extent: Extent | None = None) -> int:
    """Read and verify a whole segment. Return its size in bytes.

    Raises:
        DamagedObject: It is damaged or incomplete.
    """
    reader = SegmentReader(location, sealer, stream, segment, extent)
    for _ in reader.follow():
        pass
    if extent is not None and extent.digest and reader.digest(extent.size) != extent.digest:
        raise DamagedObject(f"{folder(stream)}/{segment}", "its content does not match its hash")
    return reader.nbytes


def salvage(location: Location, sealer: Sealer, stream: str, segment: str) -> Iterator[list[Buffer]]:
    """Yield the intact records of a damaged segment, in order."""
    return SegmentReader(location, sealer, stream, segment).salvage()
