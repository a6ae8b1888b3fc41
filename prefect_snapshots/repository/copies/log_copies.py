"""Copy the log segments of a name: the results of checkpoints.

A copied start registers its segment first. Then a new segment with the records of the source replaces it, by an event
`merged`, as `repair` and merges do. A segment that has grown since is replaced in the same way. So a reader of the copy
sees the records of one run or of the next, and a kill leaves a segment that the next run drops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .. import logs
from ..catalog import Event
from ..commits import Draft
from ..opened import Opened
from .histories import Histories

_ONE_REQUEST = 24 << 20
"""The most bytes of a closed segment on storage without appending, where it is put in one request. A larger one stays
open there: each record is an object."""

_OF_THE_OLD = frozenset({"seen", "drops", "records", "size", "hash"})
"""What an event says of the segments of its own repository."""


class Copied:
    """The log segments in the copy of one name, computed from its events.

    Attributes:
        held: The segments of the copy that contain the records of a segment of the source.
        building: Segments that a copy has announced and not finished, with the fingerprints of their functions.
        extents: The known extents of the segments of the copy.
    """

    def __init__(self, histories: Histories) -> None:
        self._histories = histories
        self.held: dict[str, set[str]] = {}
        self.building: dict[str, object] = {}
        self.extents: dict[str, logs.Extent] = {}

    def apply(self, event: Event) -> None:
        """Apply one event of the copy, after `Histories`."""
        body = event.body
        drops, new = set(logs.drops_of(event)), body.get("segment")
        logs.note_extents(body, self.extents)
        for old in drops:
            self.building.pop(old, None)
        for held in self.held.values():
            if held & drops:
                held -= drops
                if event.kind == "merged":
                    held.add(str(new))
        if event.kind == "merging":
            self.building[str(body.get("building"))] = body.get("fingerprint")
        if new is not None:
            self.building.pop(str(new), None)
            original = self._histories.original(event)
            if original is not None:
                self.held[str(original.body.get("segment"))] = {str(new)}


class Originals:
    """The log segments of one name in the source, computed from its events.

    Attributes:
        wanted: The segments that are in use.
        events: The events that registered segments.
        extents: The known extents.
    """

    def __init__(self, events: Iterable[Event]) -> None:
        events = list(events)
        self.wanted = logs.wanted(events)
        self.extents = logs.extents(events)
        self.events = {str(event.body["segment"]): event for event in events if "segment" in event.body}

    def holders(self, segment: str, copied: Copied) -> set[str]:
        """Return the segments of the copy with the records of a segment: its own, or those of what it replaced."""
        found: set[str] = set()
        waiting, seen = [segment], {segment}
        while waiting:
            one = waiting.pop()
            if one in copied.held:
                found |= copied.held[one]
                continue
            older = set(logs.drops_of(self.events[one])) if one in self.events else set()
            waiting += older - seen
            seen |= older
        return found


def body_of_start(start: Event) -> dict[str, Any]:
    """Return the body for the copy of a start."""
    return {name: value for name, value in start.body.items() if name not in _OF_THE_OLD}


def clearing(events: Sequence[Event], copied: Copied) -> dict[str, Any] | None:
    """Return the body of the event that clears in the copy what was cleared in the source, or None.

    Cleared results stay in the copy until there are new ones of the same function: otherwise the old ones would count
    instead of the new ones.
    """
    originals = Originals(events)
    renewed = {
        (event.body.get("fingerprint"), event.sequence)
        for segment, event in originals.events.items()
        if segment in originals.wanted and any(one in copied.extents for one in originals.holders(segment, copied))
    }
    drops: set[str] = set()
    body: dict[str, Any] = {}
    for event in events:
        if event.kind in ("pin", "unpin"):
            body.pop("pinned", None)
        elif event.kind == "clear":
            for old in logs.drops_of(event):
                owner = originals.events[old].body.get("fingerprint") if old in originals.events else None
                if any(fingerprint == owner and number > event.sequence for fingerprint, number in renewed):
                    drops |= originals.holders(old, copied)
                    if event.body.get("pinned") is False:
                        body["pinned"] = False
    return {**body, "drops": sorted(drops)} if drops else None


def reader_of(source: Opened, stream: str, segment: str, extent: logs.Extent | None) -> logs.SegmentReader:
    """Return a reader of a segment of the source."""
    return logs.SegmentReader(source.store.location, source.sealer, stream, segment, extent)


def count_records(reader: logs.SegmentReader) -> tuple[int, bool]:
    """Return how many records a segment has, and whether it is closed."""
    if reader.summary() is None:
        for _ in reader.follow():
            pass
    return reader.records, reader.closed


def write_copy(reader: logs.SegmentReader, target: Opened, stream: str, segment: str) -> logs.Extent:
    """Write all records of a segment to a new segment of another repository, and return its extent."""
    summary = reader.summary()
    closes = summary is not None and (target.store.location.appends or reader.nbytes <= _ONE_REQUEST)
    writer = logs.SegmentWriter(target.store.location, target.sealer, stream, segment, at_once=closes)
    for frames in (one for _, one in reader.follow()) if summary is None else reader.read(range(reader.records)):
        writer.append(frames)
    closed = writer.close(summary) if summary is not None and closes else None
    if closed is not None:
        return closed
    extent = logs.Extent(writer.records, writer.size)
    writer.abandon()
    return extent


def merging(event: Event, segment: str, copied: Copied) -> Draft:
    """Return the event that announces a segment. It drops what an earlier copy has not finished."""
    fingerprint = event.body.get("fingerprint")
    unfinished = [one for one, owner in copied.building.items() if owner == fingerprint]
    body = {"fingerprint": fingerprint, "function": event.body.get("function"), "building": segment}
    return Draft("merging", {**body, "drops": unfinished})


def merged(
    event: Event, segment: str, extent: logs.Extent, drops: set[str], copied: Copied, is_original: Callable[[], bool]
) -> Draft | None:
    """Return the event by which a segment replaces others, or None if they were dropped meanwhile."""
    held = set[str]().union(*copied.held.values())
    if segment not in copied.building or not drops <= held:
        return None
    body = {name: value for name, value in event.body.items() if name not in _OF_THE_OLD}
    body |= {**extent.body(), "segment": segment, "drops": sorted(drops)}
    token = event.token if is_original() else None
    return Draft("merged", body, time=event.time, token=token)
