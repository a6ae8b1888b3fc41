"""Merge many small closed segments into one that replaces them.

Each merge registers its segment before it writes it. A later merge drops the registration of an unfinished one, which
then cannot finish. Otherwise both would replace the same segments.
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
"""A segment of up to this many bytes is small, and can be merged with others."""
_FEW = 8
"""Merge at least this many small segments. For fewer, the merge costs more than the requests that it saves."""
_MANY = 64
"""The number of segments at which a run merges the small ones. Each costs a later reader one request."""
_MOST_MERGED = 256
"""The most segments in one merge. This limits what it reads, writes and keeps in memory."""


def merge(log: Log, fewest: int = _FEW) -> int:
    """Merge small closed segments that are neighbors.

    Args:
        log: The log.
        fewest: The smallest number of neighbors to merge. Default: 8.

    Returns:
        The number of segments that were merged.
    """
    with log.lock:
        return sum(_merge(log, run) for run in list(_small_runs(log, fewest)))


def tidy(log: Log) -> None:
    """Merge if there are many small segments. The log of one share knows only some segments, and merges none."""
    if len(log.known) < _MANY or log.share is not None:
        return
    try:
        merge(log, _MANY)
    except (StorageError, IntegrityError) as error:  # a merge only saves later readers some requests
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
            return None  # another process has merged or deleted them
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
