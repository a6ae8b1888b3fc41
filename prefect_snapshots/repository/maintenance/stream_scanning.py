"""Read streams slot by slot, including streams that are damaged.

A *slot* is the object of one event. A *summary* holds a second copy of a range of events, which can replace damaged
slots.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from ...errors import DamagedObject, ObjectMissing
from ..catalog import CATALOG, COMPACTED, Event, Root, Stream, event_hash, slot_path
from ..objects import read_each
from ..opened import Opened
from .liveness import paths, stream_of

_BATCH = 64
"""Number of objects to read together: enough to keep all connections busy, few enough to need little memory."""
_SLOT = re.compile(r"[0-9]{12,15}")
_FARTHEST = 1_000_000
"""Largest number of slots that may be missing in a row. A listing may miss a few; no writer leaves larger gaps."""


@dataclass(slots=True)
class Slots:
    """The events in the slots of a stream, the damage found, and what its summaries add."""

    stream: Stream
    head: int = 0
    events: dict[int, Event] = field(default_factory=dict)
    damaged: dict[int, str] = field(default_factory=dict)
    rescued: dict[int, Event] = field(default_factory=dict)
    """Events of damaged slots that a summary still has."""
    bad_summaries: dict[str, str] = field(default_factory=dict)
    emptied: set[int] = field(default_factory=set)
    """Events restored from a summary, which does not include the data stored inside them."""

    def in_order(self) -> list[Event]:
        """Return the events that can be read, in order."""
        return [self.events[sequence] for sequence in sorted(self.events)]


def scan_streams(opened: Opened) -> Iterator[Slots]:
    """Yield every stream, the root first, including those that are damaged."""
    root = _scan(opened, stream_of(opened, "", ""))
    yield root
    for kind, name in root_of(root).streams.values():
        yield scan_stream(opened, kind, name)


def scan_stream(opened: Opened, kind: str, name: str) -> Slots:
    """Return one stream, even if it is damaged."""
    return _scan(opened, stream_of(opened, kind, name))


def root_of(slots: Slots) -> Root:
    """Return the state of the root stream, as far as it can be read."""
    root = Root()
    for event in slots.in_order():
        root.apply(event)
    return root


def _scan(opened: Opened, stream: Stream) -> Slots:
    location = opened.store.location
    names = (path.rpartition("/")[2] for path in paths(location, f"{CATALOG}/{stream.id}"))
    slots = Slots(stream)
    for number in sorted(int(name) for name in names if _SLOT.fullmatch(name)):
        if number - slots.head > _FARTHEST:
            # No writer put it there. A list of all slots missing before it could fill the memory.
            slots.damaged[number] = f"it comes {number - slots.head:,} places after the previous event"
        else:
            slots.head = number
    _scan_slots(slots, opened, list(range(1, slots.head + 1)))
    # Slots that the listing missed, or that were created since.
    while location.size(slot_path(stream.id, slots.head + 1)) is not None:
        slots.head += 1
        _scan_slots(slots, opened, [slots.head])
    for path in sorted(paths(location, f"{COMPACTED}/{stream.id}")):
        try:
            _scan_summary(slots, path, stream.parse_compacted(path, location.read(path)))
        except ObjectMissing:
            continue
        except DamagedObject as error:
            slots.bad_summaries[path] = error.reason
    # Slots that only a summary knows: they were created after the listing, or are missing.
    absent = [
        number for number in range(1, slots.head + 1) if number not in slots.events and number not in slots.damaged
    ]
    _scan_slots(slots, opened, absent)
    for sequence in absent:
        if sequence not in slots.events:
            slots.damaged.setdefault(sequence, "it is missing, but a later event exists")
    for sequence, event in slots.events.items():
        before = slots.events.get(sequence - 1)
        expected = event_hash(before) if before else bytes(32) if sequence == 1 else None
        if expected is not None and event.previous != expected:
            slots.damaged[sequence] = "its hash of the previous event is wrong"
    return slots


def _scan_slots(slots: Slots, opened: Opened, sequences: list[int]) -> None:
    """Read some slots, and record the events of those that exist."""
    for start in range(0, len(sequences), _BATCH):
        part = sequences[start : start + _BATCH]
        found = read_each(opened.store.location, [slot_path(slots.stream.id, sequence) for sequence in part])
        for sequence, data in zip(part, found, strict=True):
            if isinstance(data, DamagedObject):
                slots.damaged[sequence] = data.reason
            elif data is not None:
                _scan_slot(slots, sequence, data)


def _scan_slot(slots: Slots, sequence: int, data: bytes) -> None:
    path = slot_path(slots.stream.id, sequence)
    try:
        event, _, inline = slots.stream.parse(path, data)
    except DamagedObject as error:
        slots.damaged[sequence] = error.reason
        return
    slots.events[sequence] = event
    if event.sequence != sequence:
        slots.damaged[sequence] = "it holds an event with a different number"
    if event.content is not None and event.content.depth == 0 and len(inline) != event.content.size:
        slots.emptied.add(sequence)


def _scan_summary(slots: Slots, path: str, events: list[Event]) -> None:
    for event in events:
        if event.sequence - slots.head > _FARTHEST:
            slots.bad_summaries[path] = "it has events with numbers far beyond the last slot"
            return
        slots.head = max(slots.head, event.sequence)
        found = slots.events.get(event.sequence)
        if found is None or event.sequence in slots.damaged:
            slots.rescued[event.sequence] = event
        elif event_hash(found) != event_hash(event):
            slots.bad_summaries[path] = "it differs from the events in the slots"
