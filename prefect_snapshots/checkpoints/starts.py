"""What the events of a name say: who wrote which segment, and in which order the results count.

Each start registers its segment in the stream of the name, with the fingerprint of the function. The order of these
events decides which result of an item counts: that of the segment registered first. A *refresh* is a start whose
results count before all earlier ones. When a segment is closed, another event vouches for it, so that its loss is
noticed.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..repository.catalog import Event
from ..repository.logs import Extent, note_extents

KIND = "checkpoints"


@dataclass(frozen=True, slots=True)
class Start:
    """A segment that was registered."""

    segment: str
    fingerprint: str
    rank: int
    """Sequence of the event by which it counts."""
    generation: int
    function: str
    time: int
    """Nanoseconds since 1970 in UTC, by the writer's clock."""
    plan: str = ""
    batch: int = 0
    """Which batch of a plan it was written for."""


@dataclass(frozen=True)
class Share:
    """The batch of a plan that a run computes. Segments that cannot hold results for it are not read.

    Attributes:
        plan: id of the plan. Its batches have no item in common.
        batch: number of the batch.
        settled: segments that were read to their end when the plan was made.
    """

    plan: str
    batch: int
    settled: frozenset[str]

    def concerns(self, start: Start) -> bool:
        """Whether a segment may hold results for the batch."""
        return start.segment not in self.settled and (start.plan != self.plan or start.batch == self.batch)

    def wrote(self, start: Start) -> bool:
        """Whether a segment was written for this batch."""
        return (start.plan, start.batch) == (self.plan, self.batch)


class Starts:
    """What the events of a name say: the segments that count, in their order."""

    def __init__(self) -> None:
        self.segments: dict[str, Start] = {}
        self.merging: dict[str, str] = {}
        """Segments of mergers that have not finished, each with its fingerprint."""
        self.changes = 0
        """How often something was dropped."""
        self.pinned = False
        """Whether the name is exempt from retention."""
        self.extents: dict[str, Extent] = {}
        """How much of each segment there has to be."""

    def copy(self) -> Starts:
        """Return a copy that later events do not change."""
        other = Starts()
        other.segments, other.merging = dict(self.segments), dict(self.merging)
        other.changes, other.pinned, other.extents = self.changes, self.pinned, dict(self.extents)
        return other

    def apply(self, event: Event) -> None:
        body = event.body
        if not isinstance(body.get("fingerprint", ""), str):
            raise TypeError("a fingerprint that is no string")
        self.pinned = bool(body.get("pinned", self.pinned))
        note_extents(body, self.extents)
        first = min((self.segments[old].rank for old in body.get("drops", ()) if old in self.segments), default=0)
        generation = max(
            (self.segments[old].generation for old in body.get("drops", ()) if old in self.segments), default=0
        )
        for old in body.get("drops", ()):
            self.changes += self.segments.pop(old, None) is not None
            self.merging.pop(old, None)
        if event.kind == "start":
            known = [start.generation for start in self.segments.values() if start.fingerprint == body["fingerprint"]]
            generation = max(known, default=0) + bool(body.get("refresh"))
            self._enter(event, event.sequence, generation)
        elif event.kind == "merging":
            self.merging[body["building"]] = body["fingerprint"]
        elif event.kind == "merged":
            self.merging.pop(body["segment"], None)
            self._enter(event, first, generation)

    def of(self, fingerprint: str | None) -> list[Start]:
        """The segments of one function, or of all, in the order in which they count."""
        wanted = [start for start in self.segments.values() if fingerprint in (None, start.fingerprint)]
        return sorted(wanted, key=lambda start: (-start.generation, start.rank))

    def _enter(self, event: Event, rank: int, generation: int) -> None:
        body = event.body
        self.segments[body["segment"]] = Start(
            body["segment"],
            body["fingerprint"],
            rank,
            generation,
            body["function"],
            event.time,
            body.get("plan", ""),
            body.get("batch", 0),
        )
