"""Planning: find the items without a result, and make batches that any process can compute."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ..errors import ObjectMissing
from .batches import DONE
from .counts import RunCounts
from .job import Job
from .keys import Keys
from .ledger import MISSING, Ledger, Places, outcomes_of
from .log import Log
from .merging import tidy
from .reading import open_log
from .selection import WINDOW, ItemSelection, windows
from .starts import Share


@dataclass(frozen=True, slots=True)
class Pending:
    """The items that have to be computed.

    Attributes:
        rows: Their indices, each key once.
        counts: The counts of the other items.
        renews: Whether some have a result that has expired.
    """

    rows: NDArray[np.int64]
    counts: RunCounts
    renews: bool = False


def find_pending(job: Job, log: Log, keys: Keys, fresh: Ledger | None = None) -> Pending:
    """Find the items that have to be computed.

    Args:
        job: The job.
        log: Its log.
        keys: The keys of the items, shape (n, 2).
        fresh: What this run has computed already, if the job ignores the results of earlier runs.
    """
    found, expired = (fresh.find(keys), None) if fresh is not None else find_expired(job, log, keys)
    wanted = found == MISSING
    if expired is not None:
        wanted |= expired
    done_before = failed_before = 0
    missing = np.count_nonzero(wanted)  # on truth values ten times as fast as `sum` and `any`
    if fresh is None and missing < len(keys):
        known = found[~wanted] if missing else found
        done = outcomes_of(known) == DONE
        earlier = ~log.is_own(known)
        done_before = int(np.count_nonzero(done & earlier))
        if job.retry_failed_items:
            wanted[~wanted] = ~done
        else:
            failed_before = int(np.count_nonzero(earlier)) - done_before
    rows = np.flatnonzero(wanted)
    if len(rows) > 1:
        rows = rows[_firsts(keys[rows])]
    repeated = len(keys) - len(rows) - done_before - failed_before
    counts = RunCounts(len(keys), 0, done_before, 0, failed_before, repeated)
    return Pending(rows, counts, expired is not None and bool(expired.any()))


def find_expired(job: Job, log: Log, keys: Keys) -> tuple[Places, NDArray[np.bool_] | None]:
    """Return the places of items, and which of them have expired: None if none can."""
    if job.cache_expiration is None:
        return log.find(keys), None
    moment = time.time() - job.cache_expiration.total_seconds()
    try:
        return _older(log, keys, moment)
    except ObjectMissing:  # segments were merged and pruned since the log was read
        log.refresh()
        return _older(log, keys, moment)


def _older(log: Log, keys: Keys, moment: float) -> tuple[Places, NDArray[np.bool_]]:
    found = log.find(keys)
    expired: NDArray[np.bool_] = found != MISSING
    expired[expired] = log.is_older(found[expired], moment)
    return found, expired


def find_done(job: Job, keys: Keys) -> NDArray[np.bool_]:
    """Return which items have a result that has not expired."""
    found, expired = find_expired(job, open_log(job), keys)
    done: NDArray[np.bool_] = found != MISSING
    done[done] = outcomes_of(found[done]) == DONE
    if expired is not None:
        done &= ~expired
    return done


def _firsts(keys: Keys) -> NDArray[np.int64] | slice:
    """Return the index of the first occurrence of each key."""
    heads = np.sort(keys[:, 0])
    if (heads[1:] != heads[:-1]).all():
        return slice(None)
    return np.sort(np.unique(keys, axis=0, return_index=True)[1])


@dataclass(slots=True)
class ItemBatch(ItemSelection):
    """Items to compute together, in any process.

    Attributes:
        share: The number of this batch in its plan.
    """

    share: Share | None = None


@dataclass
class JobPlan:
    """The items without a result, in batches. You can iterate over it once. After that, the counts are final.

    If the iterable of items raises an exception, you get the items before it as a batch, and then the exception.

    Attributes:
        job: The job.
        items: The items.
        counts: The counts of the items read so far. Items in batches count as skipped. Add the counts of a batch with
            `RunCounts.after`.
        id: Identifies what is written for this plan.
    """

    job: Job
    items: Iterable[object]
    counts: RunCounts = field(default_factory=RunCounts)
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    _keys: list[Keys] = field(default_factory=list)
    _renews: bool = False

    @property
    def keys(self) -> Keys:
        """The keys of all items read so far, for `collect`."""
        return np.concatenate(self._keys) if self._keys else np.zeros((0, 2), np.uint64)

    def __iter__(self) -> Iterator[ItemBatch]:
        log = open_log(self.job)
        tidy(log)
        size = self.job.batch_size
        share = Share(self.id, 0, log.settled_segments())
        parts: list[ItemSelection] = []
        trouble: Exception | None = None
        selections = self._select(log)
        while True:
            try:
                selection = next(selections, None)
            except Exception as error:  # yield the items before it first
                trouble = error
                selection = None
            if selection is None:
                break
            parts.append(selection)
            if sum(map(len, parts)) < size:
                continue
            whole = ItemSelection.join(parts)
            end = len(whole) - len(whole) % size
            for first in range(0, end, size):
                yield self._batch(whole.part(first, first + size), share)
                share = replace(share, batch=share.batch + 1)
            parts = [whole.part(end, len(whole))] if end < len(whole) else []
        if parts:
            yield self._batch(ItemSelection.join(parts), share)
        if trouble is not None:
            raise trouble

    def _select(self, log: Log) -> Iterator[ItemSelection]:
        """Yield the items to compute, window by window, each key once."""
        job, planned = self.job, Ledger()
        for window in windows(self.items, job.key, max(job.batch_size, WINDOW), keep=True):
            pending = find_pending(job, log, window.keys, planned if job.refresh else None)
            rows = pending.rows[planned.find(window.keys[pending.rows]) == MISSING]
            planned.add(window.keys[rows], rows.astype(np.uint64))
            self._keys.append(window.keys)
            self._renews |= pending.renews
            counts = replace(pending.counts, repeated=pending.counts.repeated + len(pending.rows) - len(rows))
            self.counts += counts
            if len(rows):
                yield window.take(rows)

    def _batch(self, selection: ItemSelection, share: Share) -> ItemBatch:
        return ItemBatch(selection.items, selection.keys, selection.positions, replace(share, renews=self._renews))


def plan(job: Job, items: Iterable[object]) -> JobPlan:
    """Plan the items without a result in batches of the job's size, lazily and with a bounded look-ahead.

    Example:
        >>> from prefect_snapshots import Repository
        >>> from prefect_snapshots.checkpoints import make_job
        >>> job = make_job(Repository("memory://example-plan"), str.upper, batch_size=2)
        >>> planned = plan(job, ["a", "b", "c", "a"])
        >>> [batch.items for batch in planned]
        [['a', 'b'], ['c']]
        >>> print(planned.counts)
        4 items: 1 identical to another one, 3 not reached.
    """
    return JobPlan(job, items)
