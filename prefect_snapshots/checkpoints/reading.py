"""Read the results of a job by the keys of its items."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import IncompleteResults, ObjectMissing
from .batches import DONE
from .job import Job
from .keys import Keys
from .ledger import MISSING, outcomes_of
from .log import Log
from .starts import Share

READ_WINDOW = 8192
"""Items whose results are read together: large reads, and at most a few megabytes of small results in memory."""

_ATTEMPTS = 3
"""How often a reader starts again if segments are merged and pruned while it reads. Each time takes another merge and
another prune."""

RAISE: Any = object()
"""Default of `missing=`: a missing result is an error."""


def open_log(job: Job, share: Share | None = None) -> Log:
    """Open the result log of a job."""
    return Log(job.repository, job.name, job.fingerprint, share, job.parts)


def collect(job: Job, keys: Keys | Iterable[Keys], *, missing: Any = RAISE, log: Log | None = None) -> Iterator[Any]:
    """Stream the results of items in the order of their keys.

    Args:
        job: The job.
        keys: An array of shape (n, 2), or several of them.
        missing: What to yield for an item without a result. Default: raise `IncompleteResults`.
        log: The log of the job, if you have already opened it.

    Raises:
        IncompleteResults: An item has no result, and you did not pass `missing`.
    """
    return read(log or open_log(job), keys, missing)


def read(log: Log, keys: Keys | Iterable[Keys], missing: Any = RAISE) -> Iterator[Any]:
    """Stream results from an opened log: see `collect`."""
    first = 0
    for some in [keys] if isinstance(keys, np.ndarray) else keys:
        for at in range(0, len(some), READ_WINDOW):
            part = some[at : at + READ_WINDOW]
            yield from _results(log, part, missing, first)
            first += len(part)


def read_recorded(log: Log) -> Iterator[Any]:
    """Stream every result of a log, in the order of the items when they were computed."""
    return read(log, recorded_keys(log))


def recorded_keys(log: Log) -> Keys:
    """Return the keys of all results, in the order of the items when they were computed."""
    keys: list[Keys] = [np.zeros((0, 2), np.uint64)]
    positions: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    for batch, places in log.batches():
        counts = (log.find(batch.keys) == places) & (outcomes_of(places) == DONE)
        keys.append(batch.keys[counts])
        positions.append(batch.positions[counts])
    return np.asarray(np.concatenate(keys)[np.argsort(np.concatenate(positions), kind="stable")])


def check_complete(log: Log, parts: Iterable[Keys]) -> None:
    """Check that every item has a result, before any result is read.

    Raises:
        IncompleteResults: An item has no result.
    """
    total = missing = failed = 0
    first = -1
    for keys in parts:
        found = log.find(keys)
        absent = (found == MISSING) | (outcomes_of(found) != DONE)
        if absent.any():
            first = total + int(np.argmax(absent)) if first < 0 else first
            missing += int(absent.sum())
            failed += int((absent & (found != MISSING)).sum())
        total += len(keys)
    if missing:
        raise IncompleteResults(missing, failed, total, first)


def _results(log: Log, keys: Keys, missing: Any, first: int) -> list[Any]:
    for attempt in range(1, _ATTEMPTS + 1):
        found = log.find(keys)
        absent = (found == MISSING) | (outcomes_of(found) != DONE)
        if absent.any() and missing is RAISE:
            failed = int((absent & (found != MISSING)).sum())
            raise IncompleteResults(int(absent.sum()), failed, first + len(keys), first + int(np.argmax(absent)))
        try:
            if not absent.any():
                return log.values(found)
            values = iter(log.values(found[~absent]))
        except ObjectMissing:
            # Segments were merged or deleted, and pruned, since the log was read: look the keys up again.
            if attempt == _ATTEMPTS:
                raise
            log.refresh()
            continue
        return [missing if gone else next(values) for gone in absent.tolist()]
    raise AssertionError("unreachable")
