"""The result log of one name and one function: which items are done, and where their results are.

The events of the name list the segments: see `starts`. A log follows these segments, and reads results from them.
"""

from __future__ import annotations

import os
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CommitError, DamagedObject, InvalidArgument, StorageError
from ..messages import logger
from ..repository.catalog import Event, slot_path
from ..repository.commits import Draft, MakeDraft
from ..repository.location import Buffer
from ..repository.logs import Claims, Extent, SegmentReader, SegmentWriter, list_objects
from ..repository.repository import Repository
from ..repository.threads import Lock, pool
from ..repository.tracking import TrackedStream
from .batches import Results, StoredBatch
from .explaining import explain
from .frozen import LIMIT
from .keys import Keys
from .ledger import MOST_SEGMENTS, Ledger, Places, place, places, records_of, rows_of, segments_of, split_record
from .slow import SlowItems
from .starts import KIND, Share, Start, Starts

FULL = {True: 1 << 30, False: 24 << 20}
"""Bytes after which a segment is closed, and the next one begins. The key is whether files can grow. If they cannot, a
closed segment is uploaded in one request, and stores accept about 32 MB. Otherwise only the time to read it matters."""
_REMOTE_LIMIT = 24 << 20
"""The most bytes of one result if a closed segment is uploaded in one request."""
_CACHE = 16 << 20
"""Bytes of decoded results to keep in memory, because the next result is often in the same record."""
_LOOK_EVERY = 1.0
"""Seconds between two checks for results of other writers: each is a request to the object store."""
_MOST_SEEN = 64
"""The most open segments of others whose size a start records: 50 bytes each, in an event of at most 16 KB."""


@dataclass(slots=True)
class KnownSegment:
    """A segment, and how much of it has been read."""

    start: Start
    number: int
    reader: SegmentReader
    own: bool = False


_Listed = Mapping[str, Mapping[str, int]] | None


def _of(listed: _Listed, known: KnownSegment) -> Mapping[str, int] | None:
    return None if listed is None else listed.get(known.start.segment, {})


class Log:
    """Follow the results of one name and function.

    Args:
        repository: The repository that contains them.
        name: The name of the checkpoints.
        fingerprint: The fingerprint of the function.
        share: The batch to compute. Segments that cannot contain results for it are not read. Default: None, which
            reads all segments.
        parts: What the fingerprint includes, to record it with the first start. Default: not known.

    Attributes:
        ledger: The items that this log knows to be done.
        share: The batch to compute, or None to read all segments.
        known: The segments, and how much of each has been read.
        slow: The slow items that the footers of segments name.
        lock: Held while the log changes.
        news: A counter that increases when this log reads results of other writers.

    Raises:
        DamagedObject: A segment is missing, short or damaged.
    """

    def __init__(
        self,
        repository: Repository,
        name: str,
        fingerprint: str,
        share: Share | None = None,
        parts: Mapping[str, str] | None = None,
    ) -> None:
        self.repository = repository
        self._parts = parts or {}
        self.fingerprint = fingerprint
        self.share = share
        self._tracked = TrackedStream(repository, KIND, name, Starts())
        self._stream = self._tracked.stream
        self._claims: Claims | None = None
        self.news = 0
        self._own: set[str] = set()
        self.lock = Lock()
        self._forget()
        self.take_in()

    def _forget(self) -> None:
        self.ledger = Ledger()
        self.known: list[KnownSegment] = []
        self.slow = SlowItems()
        self._by_segment: dict[str, KnownSegment] = {}
        self._own_numbers: list[int] = []
        self._growing: list[KnownSegment] = []
        self._changes = self.starts.changes
        self._looked = 0.0
        self._ends: dict[int, NDArray[np.float64]] = {}
        self._cache: OrderedDict[int, Results] = OrderedDict()
        self._cached = 0

    @property
    def starts(self) -> Starts:
        """The state that the events of the name describe."""
        return self._tracked.state

    @property
    def label(self) -> str:
        """The name of the stream in messages."""
        return self._stream.label

    # --- reading the list of segments ------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Read the results that other writers have added."""
        with self.lock:
            self._stream.refresh()
            self.take_in()

    def poll(self, *, thorough: bool = True) -> None:
        """Read the results that other writers have added. If there are none, this costs one or two requests.

        Args:
            thorough: If false, check segments that can only be checked by a listing at most once a second.
        """
        with self.lock:
            if self._location.size(slot_path(self._stream.id, self._stream.head + 1)) is not None:
                self.refresh()
            elif self._growing and (
                thorough or self._location.appends or time.monotonic() > self._looked + _LOOK_EVERY
            ):
                self._unless_dropped(self._follow)

    def take_in(self) -> None:
        """Read the segments that the stream lists and that this log does not know yet.

        Raises:
            DamagedObject: A segment is missing, short or damaged.
        """
        self._unless_dropped(self._take_in_segments)

    def _unless_dropped(self, look: Callable[[], None]) -> None:
        """Read segments. Report damage only if no segment was dropped since the stream was read.

        If one was dropped, a segment may be missing because it was merged or deleted, and then pruned.
        """
        try:
            look()
        except DamagedObject:
            changes = self.starts.changes
            self._stream.refresh()
            if changes == self.starts.changes:
                raise
            self._forget()
            self._take_in_segments()

    def _take_in_segments(self) -> None:
        if self._changes != self.starts.changes:
            dropped = any(known.start.segment not in self.starts.segments for known in self.known)
            self._changes = self.starts.changes
            if dropped:
                self._forget()
        new = [start for start in self._starts() if start.segment not in self._by_segment]
        if len(self.known) + len(new) > MOST_SEGMENTS:
            raise InvalidArgument(f"{self._stream.label} has more than {MOST_SEGMENTS} segments. Merge them.")
        fresh = [
            KnownSegment(start, len(self.known) + at, self._reader(start.segment), start.segment in self._own)
            for at, start in enumerate(new)
        ]
        self.known += fresh
        self._by_segment.update((known.start.segment, known) for known in fresh)
        self._own_numbers += [known.number for known in fresh if known.own]
        if fresh:
            order = {start.segment: at for at, start in enumerate(self.starts.of(self.fingerprint))}
            self.ledger.prefer(np.array([order[known.start.segment] for known in self.known], np.int64))
        listed = list_objects(self._location, self._stream.id) if fresh else None
        for known, summary in zip(fresh, self._summaries(fresh, listed), strict=True):
            if summary is not None:
                self._add_summary(known, summary)
            elif known.own:
                self._read_on(known)  # the records that it has now; `wrote` adds later ones
            else:
                self._growing.append(known)
        self._follow(listed)

    def _starts(self) -> list[Start]:
        starts = self.starts.of(self.fingerprint)
        return starts if self.share is None else [start for start in starts if self.share.concerns(start)]

    def _summaries(self, known: list[KnownSegment], listed: _Listed) -> Iterable[list[Buffer] | None]:
        def summary(one: KnownSegment) -> list[Buffer] | None:
            return one.reader.summary(_of(listed, one))

        return map(summary, known) if self._location.is_local else pool("network").map(summary, known)

    def _follow(self, listed: _Listed = None) -> None:
        """Read new records of the segments that may have grown."""
        if self._growing and listed is None:
            listed = list_objects(self._location, self._stream.id)
        self._looked = time.monotonic()
        for known in list(self._growing):
            known.reader.extent = self.starts.extents.get(known.start.segment)
            # Check this before reading: if the writer is dead now, this read sees its last record.
            live = self._claims is None or self._claims.is_live(known.start.segment)
            self._read_on(known, _of(listed, known))
            if known.reader.closed or not live:
                self._growing.remove(known)

    def _read_on(self, known: KnownSegment, listed: Mapping[str, int] | None = None) -> None:
        for number, frames in known.reader.follow(listed):
            batch = StoredBatch(frames[0], known.start.segment)
            self.ledger.add_record(batch.keys, place(known.number, number), batch.outcomes)
            self.news += 1

    def _add_summary(self, known: KnownSegment, frames: Sequence[Buffer]) -> None:
        counts = np.frombuffer(frames[0], "<u4").astype(np.int64)
        keys = np.frombuffer(frames[1], np.uint64).reshape(-1, 2)
        self.ledger.add(keys, places(known.number, counts, np.frombuffer(frames[2], np.uint8)))
        if len(frames) > 3:
            self.slow.read(frames[3], known.start.segment)
        self.news += 1

    # --- reading results -------------------------------------------------------------------------------------------

    def find(self, keys: Keys) -> Places:
        """Return the places of the results of items. The place of an item that is not done is `MISSING`."""
        with self.lock:
            return self.ledger.find(keys)

    def is_own(self, found: Places) -> NDArray[np.bool_]:
        """Return, for each place, whether it is in a segment that this process writes."""
        with self.lock:
            if not self._own_numbers:
                return np.zeros(len(found), bool)
            return np.isin(segments_of(found), self._own_numbers)

    def is_older(self, found: Places, moment: float) -> NDArray[np.bool_]:
        """Return, for each place, whether its item was computed before a time. Those of this process are not.

        Only the records of segments that began before this time are read.

        Args:
            found: Places of known items.
            moment: Seconds since 1970.

        Raises:
            ObjectMissing: As for `values`.
        """
        result = np.zeros(len(found), bool)
        young = [known.own or known.start.oldest >= moment * 1e9 for known in self.known]
        rows = np.flatnonzero(~np.array(young, bool)[segments_of(found)])
        numbers = records_of(found[rows])
        for number in np.unique(numbers).tolist():
            if number not in self._ends:
                segment, record = split_record(number)
                [batch] = self._read(segment, [record])
                self._ends[number] = batch.ends
            mine = rows[numbers == number]
            result[mine] = self._ends[number][rows_of(found[mine])] < moment
        return result

    def values(self, found: Places) -> list[Any]:
        """Return results by place, in the order of `found`. A failed item gives a `Failure`.

        Raises:
            ObjectMissing: The segments were merged or deleted. Call `refresh`, and look up the keys again.
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
        """Yield the results in records. `wanted` is in ascending order."""
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
        known = self.known[segment]
        self._catch_up(known)
        for frames in known.reader.read(records):
            yield StoredBatch(frames[0], known.start.segment)

    def batches(self, share: Share | None = None) -> Iterator[tuple[StoredBatch, Places]]:
        """Yield every batch in the log, or those that were written for one share, with the places of their rows."""
        chosen = [known for known in self.known if share is None or share.wrote(known.start)]
        for known in sorted(chosen, key=lambda one: (one.start.generation, one.start.rank)):
            self._catch_up(known)
            for record in range(0, known.reader.records, 256):
                numbers = range(record, min(record + 256, known.reader.records))
                for number, batch in zip(numbers, self._read(known.number, numbers), strict=True):
                    yield batch, places(known.number, np.array([len(batch)]), batch.outcomes, number)

    def _catch_up(self, known: KnownSegment) -> None:
        """Read the offsets of records in a segment of this process. The ledger already has their items."""
        if known.own and not known.reader.closed and known.reader.summary() is None:
            for _ in known.reader.follow():
                pass

    # --- writing ---------------------------------------------------------------------------------------------------

    @property
    def claims(self) -> Claims:
        """The claims of processes: which items and segments each one works on."""
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
        """Register a segment that this process is going to write."""
        body = {
            "segment": segment,
            "fingerprint": self.fingerprint,
            "function": function,
            "refresh": refresh,
            "host": socket.gethostname(),
            "process": os.getpid(),
        }
        if self._parts and self.fingerprint not in self.starts.parts:
            body["parts"] = dict(self._parts)
            self._report_change()
        seen = self._seen()
        if seen:
            body["seen"] = seen
        if self.share is not None:
            body |= {"plan": self.share.plan, "batch": self.share.batch}
        with self.lock:
            self._own.add(segment)
            self.commit(lambda: Draft("start", body))
            self.take_in()

    def _report_change(self) -> None:
        """Warn that the function has changed, so that nothing is computed again unnoticed."""
        before = self.starts.latest()
        if before is None or self.starts.of(self.fingerprint):
            return  # it is new, or an earlier release started this version without recording its parts
        changed = explain(self.starts.parts.get(before), self._parts)
        names = ", ".join([*changed.changed, *changed.added, *changed.removed][:3]) or "not recorded"
        logger.warning(
            "The function of %s has changed since its last start (%s). All items are computed again; the earlier "
            "results are kept. Run `prefect-snapshots checkpoints why` to see all that changed.",
            self._tracked.name,
            names,
        )

    def _seen(self) -> dict[str, list[int]]:
        """What this process has read of segments whose writers have not vouched for them: maybe they were killed."""
        found = {}
        for known in self.known:
            segment, reader = known.start.segment, known.reader
            vouched = self.starts.extents.get(segment)
            if not known.own and reader.records and (vouched is None or not vouched.digest):
                if vouched is None or vouched.records < reader.records:
                    found[segment] = [reader.records, reader.nbytes]
                if len(found) == _MOST_SEEN:
                    break
        return found

    def closed(self, segment: str, extent: Extent) -> None:
        """Record the size of a closed segment of this process, so that its loss is noticed."""

        def draft() -> Draft | None:
            return Draft("closed", {"closes": segment, **extent.body()}) if self.is_wanted(segment) else None

        try:
            self.commit(draft)
        except (StorageError, CommitError) as error:
            # The results are durable. But without this event, a later loss of the segment may go unnoticed.
            logger.warning("Could not record that a segment of %s is complete: %s", self._stream.label, error)

    def wrote(self, segment: str, record: int, keys: Keys, outcomes: NDArray[np.uint8]) -> None:
        """Add the results that this process has just written."""
        with self.lock:
            known = self._by_segment.get(segment)
            if known is not None:
                self.ledger.add_record(keys, place(known.number, record), outcomes)

    def commit(self, draft: MakeDraft) -> Event | None:
        """Commit an event of this name."""
        return self.repository.commit(self._stream, draft)

    def writer_of(self, segment: str) -> SegmentWriter:
        opened = self.repository.parts(writing=True)
        return SegmentWriter(self._location, opened.sealer, self._stream.id, segment)

    # --- helpers ---------------------------------------------------------------------------------------------------

    @property
    def _location(self) -> Any:
        return self.repository.location

    @property
    def result_limit(self) -> int:
        """The most bytes of one result at this location."""
        return LIMIT if self._location.appends else _REMOTE_LIMIT

    def is_wanted(self, segment: str) -> bool:
        """Return whether a registered segment is still part of the log."""
        return segment in self.starts.segments

    def _reader(self, segment: str) -> SegmentReader:
        sealer = self.repository.parts().sealer
        # Segments of this process grow while it reads the events, so a recorded size may already be outdated.
        extent = None if segment in self._own else self.starts.extents.get(segment)
        return SegmentReader(self._location, sealer, self._stream.id, segment, extent)
