"""Reading the results of a job by the keys of its items."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ..errors import IncompleteResults, ObjectMissing
from .batches import DONE
from .job import Job
from .keys import Keys
from .ledger import MISSING, outcomes_of
from .log import Log, Share

READ_WINDOW = 8192
"""Items whose results are read together: large reads, and at most a few megabytes of small results in memory."""

_ATTEMPTS = 3
"""How often a reader starts again because segments were merged and pruned while it read. Each time needs another merge
and another prune in between."""

RAISE: Any = object()
"""Default of `missing=`: a missing result is an error."""


def open_log(job: Job, share: Share | None = None) -> Log:
    """Open the result log of a job."""
    return Log(job.repository, job.name, job.fingerprint, share)


def collect(job: Job, keys: Keys | Iterable[Keys], *, missing: Any = RAISE, log: Log | None = None) -> Iterator[Any]:
    """Stream the results of items in the order of their keys.

    Args:
        job: The job.
        keys: An array of shape (n, 2), or several of them.
        missing: Returned for each item without a result. Default: an item without a result is an error.
        log: The log of the job, if you have opened it before.

    Raises:
        IncompleteResults: An item has no result, and `missing` was not given.
    """
    log = log or open_log(job)
    first = 0
    for some in [keys] if isinstance(keys, np.ndarray) else keys:
        for at in range(0, len(some), READ_WINDOW):
            part = some[at : at + READ_WINDOW]
            yield from _results(log, part, missing, first)
            first += len(part)


def check_complete(log: Log, parts: Iterable[Keys]) -> None:
    """Check that every item has a result, before any result is read.

    Raises:
        IncompleteResults: Some have none.
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
