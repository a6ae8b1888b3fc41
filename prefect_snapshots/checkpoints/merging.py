"""Merging: many small closed segments become one, which replaces them.

A merger registers its segment before it writes it. A later merger drops what an earlier one has not finished, and so
prevents it from finishing: otherwise both would replace the same segments.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import IntegrityError, StorageError
from ..messages import logger
from ..repository.commits import Draft
from ..repository.logs import Extent, new_segment
from .batches import StoredBatch
from .log import FULL, KnownSegment, Log
from .log_writer import SegmentSummary

_SMALL = 4 << 20
"""Bytes of a segment up to which it is merged with others."""
_FEW = 8
"""Small segments that are left alone: merging them would write more than their requests cost a reader."""
_MANY = 64
"""How many small segments a run merges on its way. Each costs a later reader one request."""
_MOST_MERGED = 256
"""Segments that are merged at once: a bound on what one step reads, writes and holds in memory."""


def merge(log: Log, fewest: int = _FEW) -> int:
    """Merge small closed segments that follow one another.

    Args:
        log: The log.
        fewest: Runs of fewer segments are left as they are.

    Returns:
        The number of segments that were merged.
    """
    with log.lock:
        return sum(_merge(log, run) for run in list(_small_runs(log, fewest)))


def tidy(log: Log) -> None:
    """Merge if there are many small segments. A log of one share knows too few of them, and leaves it to others."""
    if len(log.known) < _MANY or log.share is not None:
        return
    try:
        merge(log, _MANY)
    except (StorageError, IntegrityError) as error:  # it only spares later readers some requests
        logger.warning("Could not merge the segments of %s: %s", log.label, error)


def _small_runs(log: Log, fewest: int) -> Iterator[list[KnownSegment]]:
    order = {start.segment: at for at, start in enumerate(log.starts.of(log.fingerprint))}
    run: list[KnownSegment] = []
    size = 0
    limit = FULL[log.repository.location.appends] // 2
    for known in sorted(log.known, key=lambda one: order.get(one.start.segment, -1)):
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


def _merge(log: Log, run: list[KnownSegment]) -> int:
    segment = new_segment()
    function = run[0].start.function
    body = {"fingerprint": log.fingerprint, "function": function}
    sources = [known.start.segment for known in run]

    def announce() -> Draft | None:
        if any(source not in log.starts.segments for source in sources):
            return None  # somebody else was faster
        unfinished = [one for one, owner in log.starts.merging.items() if owner == log.fingerprint]
        return Draft("merging", {**body, "building": segment, "drops": unfinished})

    def finish() -> Draft | None:
        if segment not in log.starts.merging or any(one not in log.starts.segments for one in sources):
            return None
        vouched = {} if extent is None else extent.body()
        return Draft("merged", {**body, **vouched, "segment": segment, "drops": sources})

    extent: Extent | None = None
    if log.commit(announce) is None:
        return 0
    writer = log.writer_of(segment)
    summary = SegmentSummary()
    for known in run:
        for frames in known.reader.read(range(known.reader.records)):
            batch = StoredBatch(frames[0], known.start.segment)
            writer.append(frames)
            summary.add(batch.keys, batch.outcomes)
            if log.slow:
                summary.slow.take(log.slow, batch.keys)
    extent = writer.close(summary.frames())
    if log.commit(finish) is None:
        return 0
    log.take_in()
    return len(run)
