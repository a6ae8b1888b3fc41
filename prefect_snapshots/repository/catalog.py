"""The streams of events, which record what exists, under which name, and since when.

- A *stream* belongs to one kind and name. It is a chain of small immutable *events* in numbered *slots*, 1, 2, 3, ...
  A slot is created exclusively, and this creation is the commit. A writer that loses the race re-reads the stream and
  decides again.
- Every event contains the hash of its predecessor, so a missing or altered event is detected as damage and not taken
  for the end. Slots are never deleted and never reused.
- The *root* stream registers every other stream and contains the *condemnations* of packs. The number of the latest one
  is the *epoch*. Every event contains the epoch that its writer had read before it decided what to reuse, and the next
  event needs at least that epoch. `maintenance.prune` depends on this.
- *Compaction* writes fixed ranges of events into one object, so that a long stream can be opened with a few reads. It
  only adds objects, and concurrent writers write equal content. A *hint* says where the head was recently. It need not
  be correct.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import msgspec
from blake3 import blake3

from ..errors import (
    UNDECODABLE,
    CommitUnknown,
    DamagedObject,
    InvalidArgument,
    ObjectMissing,
    PermissionDenied,
    RepositoryNotFound,
    StorageError,
    StorageFull,
)
from ..messages import logger
from .contents import Content
from .location import Buffer, Location
from .sealing import Sealer
from .threads import Lock

CATALOG = "catalog"
COMPACTED = "compacted"
ROOT = "root"

OMITTED = "omitted"
"""The kind of an event that stands in a copy for a version that was deleted before it was copied, so that its number is
not given again."""

RENAMING = "renaming"
"""The kind of the event with which a name begins to be the new one of another: whatever it had before is void."""
RENAMED = "renamed"
"""The kind of the event that deletes everything under the old name."""

FIRST_RANGE = 64
"""Events in the smallest compacted range: few enough to read one by one, and each larger range takes `FAN_OUT` times as
many."""
FAN_OUT = 4
"""Ranges of one level that make one of the next. A cold start reads at most three of each level, and each event is
rewritten once per level."""
LEVELS = 12
"""Levels of ranges: 64 * 4^11 events, more than a stream will ever have."""

_HINT_EVERY = {True: 64, False: 8}
"""Commits between two hints, on a local disk and elsewhere. A cold open reads at most this many events one by one."""
_LOOK_AHEAD = 8
"""Slots to probe after the hinted head when a stream is opened: covers newer events, and detects a gap among them."""
_WINDOW = 64
"""Slots that are requested together when a stream is read: as many as the parallel requests finish quickly."""
_ATTEMPTS = 4
"""How often a create with an unknown outcome is repeated, with the same bytes in the same slot. After that, the store
is considered down."""

_REFUSED = (StorageFull, PermissionDenied)
"""Errors after which it is certain that this request created nothing."""

_UNREADABLE = (*UNDECODABLE, IndexError)
"""The exceptions of decoding for bytes that are authentic, but were not written by this package."""

_GENESIS = bytes(32)


class Event(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One entry of a stream. Its inline content is in the same slot, but not in this record."""

    sequence: int
    previous: bytes
    epoch: int
    token: bytes
    time: int
    """Nanoseconds since 1970 in UTC, by the writer's clock."""
    kind: str
    body: dict[str, Any]
    """The type of the event, as its kind defines it."""
    content: Content | None = None
    deletes: tuple[int, ...] = ()
    """Sequences of earlier events whose content is deleted."""


class _Hint(msgspec.Struct, array_like=True):
    head: int
    tail: list[Event]


_encode = msgspec.msgpack.Encoder().encode
_decode_event = msgspec.msgpack.Decoder(Event).decode
_decode_fields = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_decode_content = msgspec.msgpack.Decoder(Content).decode
_decode_events = msgspec.msgpack.Decoder(list[Event]).decode
_decode_hint = msgspec.msgpack.Decoder(_Hint).decode


def new_token() -> bytes:
    """Return a new token, which identifies one intended commit: 16 random bytes."""
    return os.urandom(16)


def token_from(token: str | None) -> bytes | None:
    """Return the `token` of a `CommitUnknown` in bytes, or None for None.

    Raises:
        InvalidArgument: It is not a token.
    """
    if token is None:
        return None
    try:
        return bytes.fromhex(token)
    except (ValueError, TypeError):
        raise InvalidArgument(
            f"{token!r} is not a token. Pass the `token` of the CommitUnknown that you caught."
        ) from None


def slot_path(stream: str, sequence: int) -> str:
    """Return the path of an event."""
    return f"{CATALOG}/{stream}/{sequence:012d}"


def range_path(stream: str, level: int, number: int) -> str:
    """Return the path of the `number`-th compacted range of a level, counted from 0."""
    return f"{COMPACTED}/{stream}/{level}-{number}"


def range_size(level: int) -> int:
    """Return the number of events in a compacted range of this level."""
    return FIRST_RANGE * int(FAN_OUT**level)


def event_hash(event: Event, encoded: Buffer | None = None) -> bytes:
    """Return the hash that the next event contains as `previous`."""
    if event.kind == "lost":  # replaces an event that repair could not save; see `maintenance.repair`
        stated = event.body.get("hash")
        if isinstance(stated, bytes) and len(stated) == len(_GENESIS):
            return stated
    return blake3(_encode(event) if encoded is None else encoded).digest()


class Stream:
    """A reader and writer of one stream. It knows every event up to the last refresh.

    Args:
        open: A function that returns the catalog of the stream, or None while the repository does not exist and the
            stream is empty.
        kind, name: The kind and name of the stream. Both are "" for the root stream.
        apply: Called once with each event, in order, to build the state of a kind.
        forget: Called before all events are applied again, to reset the state.
    """

    def __init__(
        self,
        open: Callable[[], Catalog | None],
        kind: str,
        name: str,
        apply: Callable[[Event], None],
        forget: Callable[[], None] = lambda: None,
    ) -> None:
        self.kind = kind
        self.name = name
        self.events: list[Event] = []
        self.lock = Lock(self._start_over)
        self._open = open
        self._apply = apply
        self._forget = forget
        self._hash = _GENESIS
        self._loaded = False
        self._pause = 0.001

    @property
    def label(self) -> str:
        """The name of the stream in messages."""
        return f"{self.kind}/{self.name}" if self.kind else "the root stream"

    @cached_property
    def id(self) -> str:
        """The directory of the stream."""
        return self._sealer.stream_id(self.kind, self.name) if self.kind else ROOT

    @cached_property
    def _catalog(self) -> Catalog:
        catalog = self._open()
        if catalog is None:
            raise RepositoryNotFound(f"The repository of {self.label} does not exist yet.")
        return catalog

    @property
    def _location(self) -> Location:
        return self._catalog.location

    @property
    def _sealer(self) -> Sealer:
        return self._catalog.sealer

    @property
    def head(self) -> int:
        """The sequence of the last known event, or 0 if there is none."""
        return len(self.events)

    @property
    def next_path(self) -> str:
        """The path of the next event."""
        return slot_path(self.id, self.head + 1)

    @property
    def epoch(self) -> int:
        """Epoch of the last known event."""
        return self.events[-1].epoch if self.events else 0

    @property
    def loaded(self) -> bool:
        """Whether the stream was read at least once."""
        return self._loaded

    def refresh(self) -> None:
        """Read the events since the last refresh."""
        with self.lock:
            if self._loaded:
                self._follow(1)
            elif self._open() is not None:
                self._load()
                self._follow(_LOOK_AHEAD)
                self._loaded = True

    def append(
        self,
        kind: str,
        body: dict[str, Any],
        *,
        epoch: int,
        token: bytes,
        at: int | None = None,
        content: Content | None = None,
        inline: bytes = b"",
        deletes: Sequence[int] = (),
    ) -> Event | None:
        """Try to commit an event in the next slot.

        `at` is the time of the event in nanoseconds since 1970, for a copy of an older one. Default: now.

        Returns:
            The event, or None if another writer took the slot. Then `refresh` and decide again.

        Raises:
            CommitUnknown: The storage did not say whether the commit succeeded.
        """
        with self.lock:
            at = time.time_ns() if at is None else at
            event = Event(self.head + 1, self._hash, epoch, token, at, kind, body, content, tuple(deletes))
            encoded = _encode(event)
            path = slot_path(self.id, event.sequence)
            data = self._sealer.seal(path, [encoded, inline])
            started = time.monotonic()
            if not self._create(path, data, token):
                self._pause = min(max(time.monotonic() - started, 0.0005), 2.0)
                return None
            self._take(event, encoded)
            self._compact()
            return event

    def back_off(self, attempt: int) -> None:
        """Wait a random time after a lost slot, up to twice as long after each attempt."""
        time.sleep(random.uniform(0, min(self._pause * 2**attempt, 5.0)))

    def inline(self, sequence: int) -> Buffer:
        """Return the inline content of an event."""
        path = slot_path(self.id, sequence)
        event, encoded, data = self.parse(path, self._location.read(path))
        # Compare hashes, because a NaN in the body is not equal to itself.
        if event_hash(event, encoded) != event_hash(self.events[sequence - 1]):
            raise DamagedObject(path, "its event is not the one that was read before")
        return data

    def find(self, token: bytes, since: int = 0) -> Event | None:
        """Return the event after `since` that was committed with this token."""
        return next((event for event in self.events[since:] if event.token == token), None)

    # --- reading -------------------------------------------------------------------------------------------

    def _start_over(self) -> None:
        """Forget all events in a child process that was forked while another thread was reading."""
        self.events = []
        self._hash = _GENESIS
        self._loaded = False
        self._forget()

    def _load(self) -> None:
        hint = self._read_hint()
        try:
            self._load_as(hint)
        except DamagedObject:
            if hint is None or self._location.size(slot_path(self.id, hint.head)) is not None:
                raise
            # The hint names events that do not exist. It is not needed, so continue without it.
            self._start_over()
            self._load_as(None)

    def _load_as(self, hint: _Hint | None) -> None:
        """Read the events from as few objects as possible, given where the head was recently."""
        covered = hint.head // FIRST_RANGE * FIRST_RANGE if hint else 0
        missing = [(level, number) for level, number in _cover(covered) if not self._load_range(level, number)]
        if hint:
            for event in hint.tail:
                if event.sequence == self.head + 1:
                    self._take(event)
        if missing and not self._catalog.read_only:
            self._helpfully(lambda: self._write_ranges(missing))

    def _load_range(self, level: int, number: int) -> bool:
        """Read the events of one range from as few objects as possible. Return whether one was enough."""
        size = range_size(level)
        if self.head >= (number + 1) * size:
            return True  # an earlier load that failed has read it already
        events = self._read_range(level, number)
        if events is not None:
            self._take_range(events[self.head - number * size :])
            return True
        if level:
            for part in range(FAN_OUT):
                self._load_range(level - 1, number * FAN_OUT + part)
            return False
        paths = [slot_path(self.id, sequence) for sequence in range(self.head + 1, (number + 1) * size + 1)]
        for path, data in zip(paths, self._location.read_many(paths), strict=True):
            if data is None:
                raise DamagedObject(path, f"this event of {self.label} is missing, but later ones exist")
            event, encoded, _ = self.parse(path, data)
            self._take(event, encoded)
        return False

    def _read_range(self, level: int, number: int) -> list[Event] | None:
        path = range_path(self.id, level, number)
        try:
            data = self._location.read(path)
        except ObjectMissing:
            return None
        try:
            events = self.parse_compacted(path, data)
        except DamagedObject as error:
            # The events themselves still exist, so a damaged summary costs reads, but no data. `check` reports it.
            logger.warning("Ignored a damaged summary: %s", error)
            return None
        return events if len(events) == range_size(level) else None

    def parse_compacted(self, path: str, data: Buffer) -> list[Event]:
        """Return the events in a compacted range or a hint. Raises `DamagedObject`."""
        frames = self._sealer.open(path, data)
        try:
            frame = frames[0]
            return _decode_hint(frame).tail if path.endswith("/hint") else _decode_events(frame)
        except _UNREADABLE as error:
            raise DamagedObject(path, f"it cannot be read as events ({error})") from None

    def slot_bytes(self, event: Event, inline: Buffer = b"") -> bytes:
        """Return the object of an event, for repair."""
        return self._sealer.seal(slot_path(self.id, event.sequence), [_encode(event), inline])

    def _read_hint(self) -> _Hint | None:
        path = self._hint_path
        try:
            return _decode_hint(self._sealer.open(path, self._location.read(path))[0])
        except ObjectMissing:
            return None
        except (DamagedObject, *_UNREADABLE) as error:
            logger.warning("Ignored a damaged hint: %s (%s)", path, error)
            return None

    @property
    def _hint_path(self) -> str:
        return f"{COMPACTED}/{self.id}/hint"

    def _follow(self, window: int) -> None:
        while True:
            paths = [slot_path(self.id, self.head + 1 + at) for at in range(window)]
            for at, data in enumerate(found := self._location.read_many(paths)):
                if data is None:
                    if not any(found[at:]):
                        return
                    # Slots are read one after the other, so this one may have been created since.
                    data = self._location.read_many([paths[at]])[0]
                    if data is None:
                        raise DamagedObject(paths[at], f"this event of {self.label} is missing, but a later one exists")
                event, encoded, _ = self.parse(paths[at], data)
                self._take(event, encoded)
            window = min(window * 2, _WINDOW)

    def parse(self, path: str, data: Buffer) -> tuple[Event, Buffer, Buffer]:
        """Return a slot's event, its encoded form, and its inline content. Raises `DamagedObject`."""
        frames = self._sealer.open(path, data)
        try:
            encoded, inline = frames
            return _decode_event(encoded), encoded, inline
        except _UNREADABLE as error:
            raise DamagedObject(path, f"it cannot be read as an event ({error})") from None

    def _take(self, event: Event, encoded: Buffer | None = None) -> None:
        self._expect(event)
        self._hash = event_hash(event, encoded)
        self.events.append(event)
        self._let_apply([event])

    def _let_apply(self, events: list[Event]) -> None:
        """Let the kind apply events, and treat any failure as damage: a hostile writer may have written the body."""
        try:
            for event in events:
                self._apply(event)
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError, msgspec.MsgspecError) as error:
            self._start_over()  # it may be partly applied: the next refresh starts again, and fails here again
            reason = f"it is not a valid event of {self.label} ({type(error).__name__})"
            raise DamagedObject(slot_path(self.id, event.sequence), reason) from error

    def _take_range(self, events: list[Event]) -> None:
        """Take the events of one object. It was verified as a whole, so only the link of its first event is checked."""
        self._expect(events[0])
        self._hash = event_hash(events[-1])
        self.events += events
        self._let_apply(events)

    def _expect(self, event: Event) -> None:
        if event.sequence != self.head + 1 or event.previous != self._hash:
            raise DamagedObject(
                slot_path(self.id, self.head + 1), f"this event of {self.label} does not follow its predecessor"
            )

    # --- writing --------------------------------------------------------------------------------------------

    def _create(self, path: str, data: bytes, token: bytes) -> bool:
        """Create a slot, even if requests or replies are lost.

        Raises:
            StorageError: Nothing was created, and nothing will be.
            CommitUnknown: A request may have succeeded, or may still do so.
        """
        unknown: StorageError | None = None
        for attempt in range(_ATTEMPTS):
            try:
                # If the object has these bytes, `create` returns True, which settles earlier attempts, too.
                return self._location.create(path, data)
            except _REFUSED as error:
                if unknown is None:
                    raise
                # This request did nothing, but an earlier one may have succeeded. If the slot is taken, it stays so.
                # If it is free, the earlier request may still arrive.
                with contextlib.suppress(StorageError):
                    return self._location.read(path) == data
                raise CommitUnknown(token.hex(), str(error)) from error
            except StorageError as error:
                unknown = error  # also a disk error, which may come after the file got its name
                if attempt < _ATTEMPTS - 1:
                    time.sleep(random.uniform(0, 0.1 * 2**attempt))
        raise CommitUnknown(token.hex(), str(unknown)) from unknown

    def _compact(self) -> None:
        """Write the ranges that a commit has completed, and sometimes a hint.

        The root stream gets a hint every time, so that it can be read from two objects.
        """
        if self.head % FIRST_RANGE == 0:
            self._helpfully(lambda: self._write_ranges(_completed(self.head)))
        if not self.kind or self.head % _HINT_EVERY[self._location.is_local] == 0:
            self._helpfully(self.write_hint)

    def _helpfully(self, write: Callable[[], None]) -> None:
        """Write an object that only saves requests of later readers, so that a failure is logged and not raised."""
        try:
            write()
        except StorageError as error:
            logger.warning("Could not compact %s: %s", self.label, error)

    def _write_ranges(self, ranges: Iterable[tuple[int, int]]) -> None:
        for level, number in ranges:
            size = range_size(level)
            path = range_path(self.id, level, number)
            events = self.events[number * size : (number + 1) * size]
            self._location.create(path, self._sealer.seal(path, [_encode(events)]))

    def write_hint(self) -> None:
        """Write a hint: the position of the head, and the events since the last full range."""
        path = self._hint_path
        hint = _Hint(self.head, self.events[self.head // FIRST_RANGE * FIRST_RANGE :])
        self._location.replace(path, self._sealer.seal(path, [_encode(hint)]))


UNREADABLE = "unreadable"
"""The kind that `StreamOfAll` gives to an event that cannot be decoded."""


class StreamOfAll(Stream):
    """A stream that tolerates undecodable events, for maintenance, which needs only their place in the chain.

    The bytes of such an event are authentic, so it is not damaged: another program wrote it. If the content that it
    names can be decoded, that content is kept. No compacted range is written, because it could not contain the event.
    """

    _is_complete = True

    def parse(self, path: str, data: Buffer) -> tuple[Event, Buffer, Buffer]:
        try:
            return super().parse(path, data)
        except DamagedObject:
            frames = self._sealer.open(path, data)
            if len(frames) != 2:
                raise
        self._is_complete = False
        encoded, inline = frames
        content = _content_of(encoded)
        return Event(self.head + 1, self._hash, self.epoch, b"", 0, UNREADABLE, {}, content), encoded, inline

    def _helpfully(self, write: Callable[[], None]) -> None:
        if self._is_complete:
            super()._helpfully(write)


def _content_of(encoded: Buffer) -> Content | None:
    """Return the content that an undecodable event names, or None if that part of it cannot be decoded either."""
    try:
        return _decode_content(_decode_fields(encoded)[7])
    except _UNREADABLE:
        return None


class Root:
    """The state of the root stream."""

    def __init__(self) -> None:
        self.streams: dict[str, tuple[str, str]] = {}
        """Stream id -> kind and name."""
        self.condemned: set[bytes] = set()
        self.epoch = 0
        self.lost = False
        """Whether an event was lost that may have registered a stream."""

    def apply(self, event: Event) -> None:
        if event.kind == "stream":
            match event.body:
                case {"id": str(folder), "kind": str(kind), "name": str(name)}:
                    self.streams[folder] = kind, name
                case _:
                    self.lost = True
        elif event.kind == "condemn":
            match event.body:
                case {"packs": bytes(packs)}:
                    # Before the epoch: a reader without the lock must never see the epoch without its packs.
                    self.condemned.update(packs[at : at + 16] for at in range(0, len(packs), 16))
                    self.epoch = event.sequence
                case _:
                    self.lost = True
        elif event.kind == "lost":
            self.lost = True


class Catalog:
    """All streams of one repository."""

    def __init__(self, location: Location, sealer: Sealer, *, read_only: bool = False) -> None:
        self.location = location
        self.sealer = sealer
        self.read_only = read_only
        self.state = Root()
        self.root = Stream(lambda: self, "", "", self._apply, self._forget)

    def _apply(self, event: Event) -> None:
        self.state.apply(event)

    def _forget(self) -> None:
        self.state = Root()

    def register(self, stream: Stream) -> None:
        """Read the root stream, and register a stream in it if necessary."""
        attempt = 0
        while True:
            self.root.refresh()
            if stream.id in self.state.streams:
                return
            body = {"id": stream.id, "kind": stream.kind, "name": stream.name}
            if self.root.append("stream", body, epoch=self.state.epoch, token=new_token()) is None:
                attempt += 1
                self.root.back_off(attempt)

    def knows(self, stream: Stream) -> bool:
        """Return whether a stream is registered, as of the last refresh of the root stream."""
        return not self.root.loaded or stream.id in self.state.streams

    def streams(self) -> dict[str, tuple[str, str]]:
        """Return the kind and name of every registered stream, by id."""
        self.root.refresh()
        return dict(self.state.streams)


def _cover(end: int) -> Iterator[tuple[int, int]]:
    """Return the fewest ranges, in order, that contain events 1 to `end` (a multiple of `FIRST_RANGE`)."""
    start = 0
    while start < end:
        level = max(
            level for level in range(LEVELS) if start % range_size(level) == 0 and start + range_size(level) <= end
        )
        yield level, start // range_size(level)
        start += range_size(level)


def _completed(head: int) -> Iterator[tuple[int, int]]:
    """Return the ranges whose last event is `head`."""
    for level in range(LEVELS):
        if head % range_size(level):
            return
        yield level, head // range_size(level) - 1
