"""The state of a name: which process wrote which segment, and which result of an item is valid.

Each run registers a *start* in the stream of the name: its segment, and the fingerprint of the function. If several
segments contain a result of an item, the result in the segment that was registered first is valid. A *refresh* is a
start whose results override all earlier ones. When a segment is closed, another event records its size, so that its
loss is noticed.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    """The sequence number of the event that decides the order. For a merged segment, it is that of its first source."""
    generation: int
    function: str
    time: int
    """Nanoseconds since 1970 in UTC, by the clock of the writer."""
    plan: str = ""
    batch: int = 0
    """The number of the batch in the plan."""
    oldest: int = 0
    """No result in it is older than this, in nanoseconds since 1970."""


@dataclass(frozen=True)
class Share:
    """The batch of a plan that a run computes. Segments that cannot contain results for it are not read.

    Attributes:
        plan: The id of the plan. Its batches have no item in common.
        batch: The number of the batch.
        settled: The segments that had been read to their end when the plan was made.
        renews: Whether items of the plan have results that have expired, so that new ones have to override those.
    """

    plan: str
    batch: int
    settled: frozenset[str]
    renews: bool = False

    def concerns(self, start: Start) -> bool:
        """Return whether a segment may contain results for the batch."""
        return start.segment not in self.settled and (start.plan != self.plan or start.batch == self.batch)

    def wrote(self, start: Start) -> bool:
        """Return whether a segment was written for this batch."""
        return (start.plan, start.batch) == (self.plan, self.batch)


class Starts:
    """The state that the events of a name describe: the segments, and their order."""

    def __init__(self) -> None:
        self.segments: dict[str, Start] = {}
        self.merging: dict[str, str] = {}
        """The segments of unfinished merges, each with its fingerprint."""
        self.changes = 0
        """A counter that increases when a segment is dropped."""
        self.pinned = False
        """Whether the name is exempt from retention."""
        self.parts: dict[str, Mapping[str, str]] = {}
        """What each fingerprint includes: names and digests."""
        self.extents: dict[str, Extent] = {}
        """The recorded size of each segment: less than that is a loss."""

    def copy(self) -> Starts:
        """Return a copy that later events do not change."""
        other = Starts()
        other.segments, other.merging = dict(self.segments), dict(self.merging)
        other.changes, other.pinned, other.extents = self.changes, self.pinned, dict(self.extents)
        other.parts = dict(self.parts)
        return other

    def latest(self) -> str | None:
        """Return the fingerprint that was started last, or None."""
        return max(self.segments.values(), key=lambda start: start.time).fingerprint if self.segments else None

    def apply(self, event: Event) -> None:
        body = event.body
        if not isinstance(body.get("fingerprint", ""), str):
            raise TypeError("a fingerprint that is no string")
        self.pinned = bool(body.get("pinned", self.pinned))
        note_extents(body, self.extents)
        replaced = [self.segments[old] for old in body.get("drops", ()) if old in self.segments]
        first = min((old.rank for old in replaced), default=0)
        generation = max((old.generation for old in replaced), default=0)
        oldest = min((old.oldest for old in replaced), default=0)
        for old in body.get("drops", ()):
            self.changes += self.segments.pop(old, None) is not None
            self.merging.pop(old, None)
        if event.kind == "start":
            known = [start.generation for start in self.segments.values() if start.fingerprint == body["fingerprint"]]
            generation = max(known, default=0) + bool(body.get("refresh"))
            self._enter(event, event.sequence, generation, event.time)
            parts = body.get("parts")
            # Anyone who can write to the repository can forge it, and it is only shown.
            if isinstance(parts, dict) and all(isinstance(part, str) for pair in parts.items() for part in pair):
                self.parts.setdefault(body["fingerprint"], parts)
        elif event.kind == "merging":
            self.merging[body["building"]] = body["fingerprint"]
        elif event.kind == "merged":
            self.merging.pop(body["segment"], None)
            self._enter(event, first, generation, oldest)

    def of(self, fingerprint: str | None) -> list[Start]:
        """Return the segments of one function, or of all. The results of earlier ones override those of later ones."""
        wanted = [start for start in self.segments.values() if fingerprint in (None, start.fingerprint)]
        return sorted(wanted, key=lambda start: (-start.generation, start.rank))

    def _enter(self, event: Event, rank: int, generation: int, oldest: int) -> None:
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
            oldest,
        )
