"""Compare the history of a name in a repository with that of its copy.

The copy of an event has the token of the original, which identifies it. Each history also has *own* events, which the
other one does not get: fences of prune, deletes, journals of restores. So the copied events are those of the source in
their order, without those whose content had been deleted before it was copied. A copy with any other event has been
written to, or the source has lost its newest events: then nobody can say which of the two is right.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import Any

from ...errors import CopyDiverged
from ..catalog import OMITTED, Event, Stream

_OWN = frozenset(
    {"fence", "lost", "merging", "closed", "restore", "restore-step", "restore-end", "failed", "begin", "ready"}
)
"""Kinds of events that describe the repository that they are in, and not what it contains."""


def travels(event: Event) -> bool:
    """Return whether a copy gets an event. Deletes do not travel: the retention of the copy decides there."""
    only_deletes = event.content is None and "segment" not in event.body and (event.deletes or "drops" in event.body)
    return event.kind not in _OWN and not only_deletes


def _is_own(event: Event) -> bool:
    """Return whether an event of a copy may have no original."""
    proof = event.kind == "annotate" and event.body.keys() == {"id", "proven_by"}  # a drill has restored the copy
    return not travels(event) or proof or event.kind == "merged"


def name_of(event: Event) -> str | bytes:
    """Return the name of what an event commits or changes within its stream: a later one of this name replaces it."""
    name = event.body.get("id")
    return name if isinstance(name, str) else event.token  # whatever a hostile writer wrote replaces nothing


class Histories:
    """The history of one name in the source, and of its copy.

    Args:
        source: The stream in the source, which has been read.
        kind, name: Its kind and name.

    Attributes:
        live: The numbers of the events in the copy whose content exists, by name.
        last: The place in the source of the last event that was copied. -1: none was.
        foreign: The first event of the copy that is neither a copied nor an own one.
    """

    def __init__(self, source: Stream) -> None:
        self.source = source
        self._forget_source()
        self.forget()

    def _forget_source(self) -> None:
        self._places: dict[bytes, int] = {}
        self._lost: list[int] = []

    def _learn(self) -> None:
        for place in range(len(self._places) + len(self._lost), len(self.source.events)):
            event = self.source.events[place]
            if event.kind == "lost":
                self._lost.append(place)
            else:
                self._places[event.token] = place

    def forget(self) -> None:
        """Forget the copy, before its events are applied again."""
        self._learn()
        self.live: dict[str | bytes, int] = {}
        self._names: dict[int, str | bytes] = {}
        self.last = -1
        self._copied: list[int] = []
        self._numbers: list[int] = []
        self.foreign: Event | None = None

    def apply(self, event: Event) -> None:
        """Apply one event of the copy."""
        for sequence in event.deletes:
            name = self._names.pop(sequence, None)
            if name is not None and self.live.get(name) == sequence:
                del self.live[name]
        if event.content is not None:
            self.live[name_of(event)] = event.sequence
            self._names[event.sequence] = name_of(event)
        place = self._places.get(event.token)
        if place is None and not _is_own(event):
            # Repair may have replaced the original.
            place = next((lost for lost in self._lost if lost > self.last), None)
        if place is not None and place > self.last:
            self.last = place
            if event.kind != OMITTED:
                self._copied.append(place)
                self._numbers.append(event.sequence)
        elif place is not None or not _is_own(event):
            self.foreign = self.foreign or event

    def check(self) -> None:
        """Check that the copy contains nothing but copied and own events.

        Raises:
            CopyDiverged: It does.
        """
        if self.foreign is not None:
            raise CopyDiverged(self.source.label, self.foreign.sequence)

    def original(self, event: Event) -> Event | None:
        """Return the event of the source that an event of the copy is the copy of."""
        place = self._places.get(event.token)
        return None if place is None else self.source.events[place]

    def is_copied(self, place: int) -> bool:
        """Return whether the event at a place of the source was copied."""
        at = bisect_right(self._copied, place)
        return at > 0 and self._copied[at - 1] == place

    def body_of(self, event: Event) -> dict[str, Any]:
        """Return the body for the copy of an event: numbers of events are replaced by those of their copies."""
        order = event.body.get("order")
        if type(order) is not int:
            return event.body
        at = bisect_right(self._copied, order - 1)
        return {**event.body, "order": self._numbers[at - 1] if at else 0}


def deleted(events: Iterable[Event]) -> set[int]:
    """Return the numbers of the events whose content is deleted."""
    return {sequence for event in events for sequence in event.deletes}
