"""Sharing work: which items this process computes while other processes work on the same name."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .job import Job
from .keys import Keys
from .log import Log
from .selection import ItemSelection

RETRY_EVERY = 0.5
"""Seconds between two checks of work that others have claimed. Each check is a request if files cannot be locked."""

_PRIME, _OTHER_PRIME = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)


@dataclass(slots=True)
class WorkUnit:
    """The items that one claim covers: those at the positions n * batch_size to (n + 1) * batch_size.

    Attributes:
        claim: The number by which they are claimed.
        work: The items among them that have to be computed.
    """

    claim: int
    work: ItemSelection


class WorkSharing:
    """Claims units of work, and defers those that another process has claimed.

    Args:
        job: The job.
        log: Its log.
        pending: A function that gets keys and returns the indices of those that still have to be computed.
        segment: A function that returns the segment that this process writes.

    Attributes:
        deferred: The units that another process has claimed.
    """

    def __init__(
        self, job: Job, log: Log, pending: Callable[[Keys], NDArray[np.int64]], segment: Callable[[], str]
    ) -> None:
        self.deferred: list[WorkUnit] = []
        self._job = job
        self._log = log
        self._pending = pending
        self._segment = segment
        self._held: list[int] = []
        self._last = (-1, 0)
        self._known_news = -1
        self._retried = 0.0

    @property
    def is_due(self) -> bool:
        """Whether it is time to check again what others have claimed."""
        return bool(self.deferred) and time.monotonic() > self._retried + RETRY_EVERY

    @property
    def pause(self) -> float:
        """The seconds to wait before the next check, when nothing else is left to do."""
        return 0.02 if self._log.claims.exact else RETRY_EVERY

    def note(self) -> None:
        """Remember the current state of the log. Call this before you look up which items are pending."""
        self._known_news = self._log.news

    def claimed(self, window: ItemSelection, rows: NDArray[np.int64]) -> Iterator[WorkUnit]:
        """Claim the pending items of a window. Yields the units to compute now, and defers the others.

        Args:
            window: Consecutive items.
            rows: The indices of those to compute.
        """
        for claim, part in self._units(window, rows):
            unit = WorkUnit(claim, window.take(part))
            mine = self._claim_freshly(claim)
            if not mine or self._log.news != self._known_news:
                # Others have written since the items were looked up, so some of these may be done.
                remaining = self._remaining(unit, mine)
                if remaining is None:
                    continue
                unit = remaining
            if mine:
                self._hold(claim)
                yield unit
            else:
                self.deferred.append(unit)

    def retried(self) -> Iterator[WorkUnit]:
        """Check the deferred units again. Yields those to compute now."""
        self._log.poll()
        self._retried = time.monotonic()
        deferred, self.deferred = self.deferred, []
        for unit in deferred:
            mine = self._claim(unit.claim)
            if mine:
                self._log.poll()
            remaining = self._remaining(unit, mine)
            if remaining is not None and mine:
                self._hold(unit.claim)
                yield remaining
            elif remaining is not None:
                self.deferred.append(remaining)

    def taken_over(self) -> Iterator[WorkUnit]:
        """Stop waiting for others. Yields the deferred units."""
        deferred, self.deferred = self.deferred, []
        for unit in deferred:
            self._hold(unit.claim)
            yield unit

    def release(self, keep: int | None = None) -> None:
        """Release the claims on all written units, except for a unit that is half done."""
        for claim in self._held:
            if claim != keep:
                self._log.claims.release(claim)
        self._held = [] if keep is None else [keep]

    def _remaining(self, unit: WorkUnit, mine: bool) -> WorkUnit | None:
        """Return what still has to be computed of a unit. If that is nothing, release its claim."""
        rows = self._pending(unit.work.keys)
        if len(rows) == len(unit.work):
            return unit
        if len(rows):
            return WorkUnit(unit.claim, unit.work.take(rows))
        if mine and unit.claim not in self._held:
            self._log.claims.release(unit.claim)
        return None

    def _units(self, window: ItemSelection, rows: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield the rows to compute of each unit, with the number of its claim."""
        size = self._job.batch_size
        units = window.positions // size
        # Processes with the same items see the same first key in a unit, even if their windows differ.
        begins = np.flatnonzero(np.diff(units, prepend=-1))
        keys = window.keys[begins]
        numbers = keys[:, 0] * _PRIME ^ keys[:, 1] ^ (units[begins].astype(np.uint64) * _OTHER_PRIME)
        numbers ^= np.uint64(int(self._job.fingerprint[:16], 16))
        claims = (numbers >> np.uint64(2)).tolist()
        if self._last[0] == int(units[0]):
            claims[0] = self._last[1]
        self._last = int(units[-1]), claims[-1]
        which = np.searchsorted(begins, rows, side="right") - 1
        if size == 1:
            return ((claims[unit], rows[at : at + 1]) for at, unit in enumerate(which.tolist()))
        cuts = np.flatnonzero(np.diff(which)) + 1
        return (
            (claims[int(which[0 if not at else cuts[at - 1]])], part) for at, part in enumerate(np.split(rows, cuts))
        )

    def _claim_freshly(self, claim: int) -> bool:
        """Claim a unit, and read what others have done of it before."""
        if self._log.claims.exact:
            mine = self._claim(claim)
            self._log.poll()
            return mine
        # Here a process that works alone claims nothing, so check first whether another one has started. At most the
        # current unit is computed twice.
        self._log.poll(thorough=False)
        return self._claim(claim)

    def _claim(self, claim: int) -> bool:
        return claim in self._held or self._log.claims.take(claim, self._segment(), self._log.open_segments())

    def _hold(self, claim: int) -> None:
        if claim not in self._held:
            self._held.append(claim)
