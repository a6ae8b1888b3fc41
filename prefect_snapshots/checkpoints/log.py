"""The result log of one name and one function: who wrote which segment, which items are done, and where.

Each start registers its segment in the stream of the name, with the fingerprint of the function. The order of these
events decides which result of an item counts: that of the segment registered first. A *refresh* is a start whose
results count before all earlier ones. When a segment is closed, another event vouches for it, so that its loss is
noticed.

Many small closed segments are *merged* into one that replaces them. A merger registers its segment before it writes it.
A later merger drops what an earlier one has not finished, and so prevents it from finishing: otherwise both would
replace the same segments.
"""

from __future__ import annotations

import os
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CommitError, DamagedObject, IntegrityError, InvalidArgument, StorageError
from ..messages import logger
from ..repository.catalog import Event, slot_path
from ..repository.commits import Draft
from ..repository.location import Buffer
from ..repository.logs import Claims, Extent, SegmentReader, SegmentWriter, list_objects, new_segment, note_extents
from ..repository.repository import Repository
from ..repository.threads import Lock, pool
from .batches import RECORD_LIMIT, Batch, Results, StoredBatch, encode_batch
from .frozen import LIMIT
from .keys import Keys
from .ledger import MOST_SEGMENTS, Ledger, Places, place, places, records_of, rows_of, segments_of, split_record

KIND = "checkpoints"

_FULL = {True: 1 << 30, False: 24 << 20}
"""Bytes after which a segment is closed and another one begun. Where files cannot grow, a closed segment is put in one
request, which stores accept up to about 32 MB; elsewhere only the time to read it matters."""
_FULL_ROWS = 1 << 20
"""Items after which a segment is closed: its keys (16 MB) are read at once by whoever resumes."""
_FULL_RECORDS = 1 << 14
"""A segment that a kill leaves open is read record by record, 10 to 20 µs each: at most 0.3 s for this many."""
_REMOTE_LIMIT = 24 << 20
"""Most bytes of one result where a segment is put in one request when it is closed."""
_CACHE = 16 << 20
"""Bytes of decoded results in memory: neighbours often lie in the same record."""
_LOOK_EVERY = 1.0
"""Seconds between two looks at what others have written: each is a request on an object store."""
_SMALL = 4 << 20
"""Bytes of a segment up to which it is merged with others."""
_FEW = 8
"""Small segments that are left alone: merging them would write more than their requests cost a reader."""
_MANY = 64
"""How many small segments a run merges on its way. Each costs a later reader one request."""
_MOST_MERGED = 256
"""Segments that are merged at once: a bound on what one step reads, writes and holds in memory."""
_MOST_SEEN = 64
"""Open segments of others that a start vouches for: 50 bytes each, in an event of at most 16 KB."""


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


class Registry:
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

    def copy(self) -> Registry:
        """Return a copy that later events do not change."""
        other = Registry()
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


@dataclass(slots=True)
class _Known:
    """A segment as far as it was read."""

    start: Start
    number: int
    reader: SegmentReader
    own: bool = False


_Listed = Mapping[str, Mapping[str, int]] | None


def _of(listed: _Listed, known: _Known) -> Mapping[str, int] | None:
    return None if listed is None else listed.get(known.start.segment, {})


class Log:
    """Follow the results of one name and function.

    Args:
        repository: Where they are.
        name: The name of the checkpoints.
        fingerprint: The fingerprint of the function.
        share: The batch that you want to compute: segments that do not concern it are not read. Default: None, read all
            segments.

    Attributes:
        ledger: Which items are done, as far as this log knows.
        registry: What the events say.
        news: Grows whenever this log learns of results of other writers.

    Raises:
        DamagedObject: A segment is missing, short or damaged.
    """

    def __init__(self, repository: Repository, name: str, fingerprint: str, share: Share | None = None) -> None:
        self.repository = repository
        self.fingerprint = fingerprint
        self._share = share
        self.registry = Registry()
        self._stream = repository.stream(KIND, name, self.registry.apply)
        self._claims: Claims | None = None
        self.news = 0
        self._own: set[str] = set()
        self._lock = Lock()
        self._forget()
        self._take_in()

    def _forget(self) -> None:
        self.ledger = Ledger()
        self._known: list[_Known] = []
        self._by_segment: dict[str, _Known] = {}
        self._own_numbers: list[int] = []
        self._growing: list[_Known] = []
        self._changes = self.registry.changes
        self._looked = 0.0
        self._cache: OrderedDict[int, Results] = OrderedDict()
        self._cached = 0

    # --- learning what there is ------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Read what other writers have written since."""
        with self._lock:
            self._stream.refresh()
            self._take_in()

    def poll(self, *, thorough: bool = True) -> None:
        """Read what other writers have written, at the cost of one or two requests if there is nothing.

        Args:
            thorough: False: look at most once a second at segments whose growth costs a listing.
        """
        with self._lock:
            if self._location.size(slot_path(self._stream.id, self._stream.head + 1)) is not None:
                self.refresh()
            elif self._growing and (
                thorough or self._location.appends or time.monotonic() > self._looked + _LOOK_EVERY
            ):
                self._unless_dropped(self._follow)

    def _take_in(self) -> None:
        """Take in the segments that the stream names.

        Raises:
            DamagedObject: A segment is missing, short or damaged.
        """
        self._unless_dropped(self._take_in_segments)

    def _unless_dropped(self, look: Callable[[], None]) -> None:
        """Look at segments. Damage counts only if nothing was dropped since the stream was read.

        Otherwise a segment may be missing because it was merged or deleted, and pruned.
        """
        try:
            look()
        except DamagedObject:
            changes = self.registry.changes
            self._stream.refresh()
            if changes == self.registry.changes:
                raise
            self._forget()
            self._take_in_segments()

    def _take_in_segments(self) -> None:
        if self._changes != self.registry.changes:
            dropped = any(known.start.segment not in self.registry.segments for known in self._known)
            self._changes = self.registry.changes
            if dropped:
                self._forget()
        new = [start for start in self._starts() if start.segment not in self._by_segment]
        if len(self._known) + len(new) > MOST_SEGMENTS:
            raise InvalidArgument(f"{self._stream.label} has more than {MOST_SEGMENTS} segments. Merge them.")
        fresh = [
            _Known(start, len(self._known) + at, self._reader(start.segment), start.segment in self._own)
            for at, start in enumerate(new)
        ]
        self._known += fresh
        self._by_segment.update((known.start.segment, known) for known in fresh)
        self._own_numbers += [known.number for known in fresh if known.own]
        if fresh:
            order = {start.segment: at for at, start in enumerate(self.registry.of(self.fingerprint))}
            self.ledger.prefer(np.array([order[known.start.segment] for known in self._known], np.int64))
        listed = list_objects(self._location, self._stream.id) if fresh else None
        for known, summary in zip(fresh, self._summaries(fresh, listed), strict=True):
            if summary is not None:
                self._add_summary(known, summary)
            elif known.own:
                self._read_on(known)  # what it has so far; `wrote` adds the rest
            else:
                self._growing.append(known)
        self._follow(listed)

    def _starts(self) -> list[Start]:
        starts = self.registry.of(self.fingerprint)
        return starts if self._share is None else [start for start in starts if self._share.concerns(start)]

    def _summaries(self, known: list[_Known], listed: _Listed) -> Iterable[list[Buffer] | None]:
        def summary(one: _Known) -> list[Buffer] | None:
            return one.reader.summary(_of(listed, one))

        return map(summary, known) if self._location.is_local else pool("network").map(summary, known)

    def _follow(self, listed: _Listed = None) -> None:
        """Read on in the segments that may have grown."""
        if self._growing and listed is None:
            listed = list_objects(self._location, self._stream.id)
        self._looked = time.monotonic()
        for known in list(self._growing):
            known.reader.extent = self.registry.extents.get(known.start.segment)
            # Asked before reading: what comes after the last look at a dead writer does not exist.
            live = self._claims is None or self._claims.is_live(known.start.segment)
            self._read_on(known, _of(listed, known))
            if known.reader.closed or not live:
                self._growing.remove(known)

    def _read_on(self, known: _Known, listed: Mapping[str, int] | None = None) -> None:
        for number, frames in known.reader.follow(listed):
            batch = StoredBatch(frames[0], known.start.segment)
            self.ledger.add_record(batch.keys, place(known.number, number), batch.outcomes)
            self.news += 1

    def _add_summary(self, known: _Known, frames: Sequence[Buffer]) -> None:
        counts = np.frombuffer(frames[0], "<u4").astype(np.int64)
        keys = np.frombuffer(frames[1], np.uint64).reshape(-1, 2)
        self.ledger.add(keys, places(known.number, counts, np.frombuffer(frames[2], np.uint8)))
        self.news += 1

    # --- reading results -------------------------------------------------------------------------------------------

    def find(self, keys: Keys) -> Places:
        """Where items lie, `MISSING` for those that are not done."""
        with self._lock:
            return self.ledger.find(keys)

    def is_own(self, found: Places) -> NDArray[np.bool_]:
        """Tell which places lie in segments that this process writes."""
        with self._lock:
            if not self._own_numbers:
                return np.zeros(len(found), bool)
            return np.isin(segments_of(found), self._own_numbers)

    def values(self, found: Places) -> list[Any]:
        """Return results by place, in the order of `found`. A failed item gives a `Failure`.

        Raises:
            ObjectMissing: The segments were merged or deleted meanwhile. Call `refresh`, and look the keys up again.
        """
        return self._taken(found, Results.take)

    def stored(self, found: Places) -> list[bytes]:
        """Return results by place as they are stored: two are identical if and only if their bytes are."""
        return self._taken(found, Results.stored)

    def _taken(self, found: Places, take: Callable[[Results, Sequence[int]], list[Any]]) -> list[Any]:
        result: list[Any] = [None] * len(found)
        numbers, rows = records_of(found), rows_of(found)
        order = np.argsort(numbers, kind="stable")
        starts = np.flatnonzero(np.diff(numbers[order], prepend=-1))
        groups = np.split(order, starts[1:]) if len(order) else []
        wanted = [int(numbers[group[0]]) for group in groups]
        for group, batch in zip(groups, self._results(wanted), strict=True):
            for at, value in zip(group.tolist(), take(batch, rows[group].tolist()), strict=True):
                result[at] = value
        return result

    def _results(self, wanted: list[int]) -> Iterator[Results]:
        """The results in records, which are given in ascending order."""
        absent = [number for number in wanted if number not in self._cache]
        by_segment: dict[int, list[int]] = {}
        for number in absent:
            segment, record = split_record(number)
            by_segment.setdefault(segment, []).append(record)
        reading = {segment: self._read(segment, records) for segment, records in by_segment.items()}
        missing = set(absent)
        for number in wanted:
            cached = self._cache.get(number)
            if cached is not None:
                yield cached
                continue
            segment, record = split_record(number)
            batches = reading[segment] if number in missing else self._read(segment, [record])
            yield self._keep(number, next(batches).values(allow_pickle=self.repository.allow_pickle))

    def _keep(self, number: int, results: Results) -> Results:
        self._cache[number] = results
        self._cached += results.nbytes
        while self._cached > _CACHE and len(self._cache) > 1:
            self._cached -= self._cache.popitem(last=False)[1].nbytes
        return results

    def _read(self, segment: int, records: Sequence[int]) -> Iterator[StoredBatch]:
        known = self._known[segment]
        self._catch_up(known)
        for frames in known.reader.read(records):
            yield StoredBatch(frames[0], known.start.segment)

    def batches(self, share: Share | None = None) -> Iterator[tuple[StoredBatch, Places]]:
        """Read every batch in the log, or those that were written for one share, with the places of its rows."""
        chosen = [known for known in self._known if share is None or share.wrote(known.start)]
        for known in sorted(chosen, key=lambda one: (one.start.generation, one.start.rank)):
            self._catch_up(known)
            for record in range(0, known.reader.records, 256):
                numbers = range(record, min(record + 256, known.reader.records))
                for number, batch in zip(numbers, self._read(known.number, numbers), strict=True):
                    yield batch, places(known.number, np.array([len(batch)]), batch.outcomes, number)

    def _catch_up(self, known: _Known) -> None:
        """Learn where our own records lie. The ledger has them already."""
        if known.own and not known.reader.closed and known.reader.summary() is None:
            for _ in known.reader.follow():
                pass

    # --- writing ---------------------------------------------------------------------------------------------------

    def begin(self, function: str, *, refresh: bool = False) -> LogWriter:
        """Get ready to write. A segment is registered with the first results."""
        return LogWriter(self, function, refresh)

    @property
    def claims(self) -> Claims:
        """Who works on what."""
        if self._claims is None:
            opened = self.repository.parts(writing=True)
            self._claims = Claims(self._location, self._stream.id, opened.sealer)
        return self._claims

    def open_segments(self) -> frozenset[str]:
        """Segments of others that may still grow."""
        return frozenset(known.start.segment for known in self._growing)

    def settled_segments(self) -> frozenset[str]:
        """Segments that were read to their end."""
        return frozenset(self._by_segment) - self.open_segments()

    def close(self) -> None:
        """Release every claim."""
        if self._claims is not None:
            self._claims.close()
            self._claims = None

    def register(self, segment: str, function: str, refresh: bool) -> None:
        """Register a segment of our own."""
        body = {
            "segment": segment,
            "fingerprint": self.fingerprint,
            "function": function,
            "refresh": refresh,
            "host": socket.gethostname(),
            "process": os.getpid(),
        }
        seen = self._seen()
        if seen:
            body["seen"] = seen
        if self._share is not None:
            body |= {"plan": self._share.plan, "batch": self._share.batch}
        with self._lock:
            self._own.add(segment)
            self.repository.commit(self._stream, lambda: Draft("start", body))
            self._take_in()

    def _seen(self) -> dict[str, list[int]]:
        """What this process has read of segments whose writers have not vouched for them: maybe they were killed."""
        found = {}
        for known in self._known:
            segment, reader = known.start.segment, known.reader
            vouched = self.registry.extents.get(segment)
            if not known.own and reader.records and (vouched is None or not vouched.digest):
                if vouched is None or vouched.records < reader.records:
                    found[segment] = [reader.records, reader.nbytes]
                if len(found) == _MOST_SEEN:
                    break
        return found

    def closed(self, segment: str, extent: Extent) -> None:
        """Vouch for a segment of our own that was closed."""

        def draft() -> Draft | None:
            return Draft("closed", {"closes": segment, **extent.body()}) if self.is_wanted(segment) else None

        try:
            self.repository.commit(self._stream, draft)
        except (StorageError, CommitError) as error:
            # The results are written and durable. Without this event a later loss of the segment may go unnoticed.
            logger.warning("Could not record that a segment of %s is complete: %s", self._stream.label, error)

    def wrote(self, segment: str, record: int, keys: Keys, outcomes: NDArray[np.uint8]) -> None:
        """Take in what was just written by ourselves."""
        with self._lock:
            known = self._by_segment.get(segment)
            if known is not None:
                self.ledger.add_record(keys, place(known.number, record), outcomes)

    def writer_of(self, segment: str) -> SegmentWriter:
        opened = self.repository.parts(writing=True)
        return SegmentWriter(self._location, opened.sealer, self._stream.id, segment)

    # --- merging ---------------------------------------------------------------------------------------------------

    def merge(self, fewest: int = _FEW) -> int:
        """Merge small closed segments that follow one another.

        Args:
            fewest: Runs of fewer segments are left as they are.

        Returns:
            The number of segments that were merged.
        """
        with self._lock:
            return sum(map(self._merge, list(self._small_runs(fewest))))

    def tidy(self) -> None:
        """Merge if there are many small segments. A log of one share knows too few of them, and leaves it to others."""
        if len(self._known) < _MANY or self._share is not None:
            return
        try:
            self.merge(_MANY)
        except (StorageError, IntegrityError) as error:  # it only spares later readers some requests
            logger.warning("Could not merge the segments of %s: %s", self._stream.label, error)

    def _small_runs(self, fewest: int) -> Iterator[list[_Known]]:
        order = {start.segment: at for at, start in enumerate(self.registry.of(self.fingerprint))}
        run: list[_Known] = []
        size = 0
        limit = _FULL[self._location.appends] // 2
        for known in sorted(self._known, key=lambda one: order.get(one.start.segment, -1)):
            small = known.reader.closed and known.reader.nbytes <= _SMALL
            fits = len(run) < _MOST_MERGED and size + known.reader.nbytes <= limit
            if run and not (small and fits and known.start.generation == run[-1].start.generation):
                if len(run) >= fewest:
                    yield run
                run, size = [], 0
            if small:
                run.append(known)
                size += known.reader.nbytes
        if len(run) >= fewest:
            yield run

    def _merge(self, run: list[_Known]) -> int:
        segment = new_segment()
        function = run[0].start.function
        body = {"fingerprint": self.fingerprint, "function": function}
        sources = [known.start.segment for known in run]

        def announce() -> Draft | None:
            if any(source not in self.registry.segments for source in sources):
                return None  # somebody else was faster
            unfinished = [one for one, owner in self.registry.merging.items() if owner == self.fingerprint]
            return Draft("merging", {**body, "building": segment, "drops": unfinished})

        def finish() -> Draft | None:
            if segment not in self.registry.merging or any(one not in self.registry.segments for one in sources):
                return None
            vouched = {} if extent is None else extent.body()
            return Draft("merged", {**body, **vouched, "segment": segment, "drops": sources})

        extent: Extent | None = None
        if self.repository.commit(self._stream, announce) is None:
            return 0
        writer = self.writer_of(segment)
        summary = Summary()
        for known in run:
            for frames in known.reader.read(range(known.reader.records)):
                batch = StoredBatch(frames[0], known.start.segment)
                writer.append(frames)
                summary.add(batch.keys, batch.outcomes)
        extent = writer.close(summary.frames())
        if self.repository.commit(self._stream, finish) is None:
            return 0
        self._take_in()
        return len(run)

    # --- small pieces ----------------------------------------------------------------------------------------------

    @property
    def _location(self) -> Any:
        return self.repository.location

    @property
    def result_limit(self) -> int:
        """Most bytes that one result may take here."""
        return LIMIT if self._location.appends else _REMOTE_LIMIT

    def is_wanted(self, segment: str) -> bool:
        """Whether a registered segment still counts."""
        return segment in self.registry.segments

    def _reader(self, segment: str) -> SegmentReader:
        sealer = self.repository.parts().sealer
        # Our own segments grow while we read the events: what we write, we know.
        extent = None if segment in self._own else self.registry.extents.get(segment)
        return SegmentReader(self._location, sealer, self._stream.id, segment, extent)


@dataclass(slots=True)
class Summary:
    """What the footer of a segment says: keys and outcomes of all its rows, and how many of them each record has."""

    counts: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    outcomes: list[bytes] = field(default_factory=list)
    rows: int = 0

    def add(self, keys: Keys, outcomes: NDArray[np.uint8]) -> None:
        self.counts.append(len(keys))
        self.keys.append(keys.tobytes())
        self.outcomes.append(outcomes.tobytes())
        self.rows += len(keys)

    def frames(self) -> list[Buffer]:
        return [np.array(self.counts, "<u4").tobytes(), b"".join(self.keys), b"".join(self.outcomes)]


class LogWriter:
    """Write the results of one start. One thread at a time may use it."""

    def __init__(self, log: Log, function: str, refresh: bool) -> None:
        self._log = log
        self._function = function
        self._refresh = refresh
        self._writer: SegmentWriter | None = None
        self._summary = Summary()
        self.segment = ""

    def open(self) -> None:
        """Register a segment, so that others know that somebody is at work."""
        if self._writer is None:
            self.segment = new_segment()
            # Before anybody can see it: who finds it registered and not held takes its writer for dead.
            self._log.claims.hold(self.segment)
            self._log.register(self.segment, self._function, self._refresh)
            self._refresh = False
            self._writer = self._log.writer_of(self.segment)
            self._summary = Summary()

    def write(self, batch: Batch) -> None:
        """Append results. They survive the death of this process at once."""
        for first in range(0, len(batch), RECORD_LIMIT):
            self._write(batch if len(batch) <= RECORD_LIMIT else batch.part(first, first + RECORD_LIMIT))

    def close(self) -> None:
        """Close the segment with a footer."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            extent = writer.close(self._summary.frames())
            if extent is not None:
                self._log.closed(self.segment, extent)
            self._log.claims.stop_holding(self.segment)

    def abandon(self) -> None:
        """Give the segment up after a failed write. What was written before stays."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.abandon()

    def _write(self, batch: Batch) -> None:
        if self._writer is not None and not self._log.is_wanted(self.segment):
            self.close()  # cleared meanwhile: what comes now belongs to a new one
        self.open()
        assert self._writer is not None
        record = self._writer.append([encode_batch(batch)])
        self._summary.add(batch.keys, batch.outcomes)
        self._log.wrote(self.segment, record, batch.keys, batch.outcomes)
        size = _FULL[self._log.repository.location.appends]
        if self._writer.size >= size or self._summary.rows >= _FULL_ROWS or record >= _FULL_RECORDS:
            self.close()
