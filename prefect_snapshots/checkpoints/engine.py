"""The engine: what is not done yet, doing it, reading it back.

A *job* says what is to be done and how. Its items are looked at in *windows*. A *cell* is the items at the positions
n * batch_size to (n + 1) * batch_size: what processes that share a name claim before they work on it. A *stretch* is
what is worked on between two flushes.

A face that has its items done elsewhere uses three functions, all of which can be called in any process:

- `plan(job, items)` gives the batches of items that are not done,
- `run_batch(job, batch)` does one and writes its results straight to the repository,
- `collect(job, plan.keys)` streams the results, in the order of the items.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import secrets
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from types import FrameType, TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import (
    IncompleteResults,
    InvalidArgument,
    ObjectMissing,
    TooManyFailures,
    UnhashableItem,
    UnserialisableResult,
)
from ..repository.repository import Repository, check_name
from .fingerprint import fingerprint, label
from .keys import Keys, item_keys
from .ledger import MISSING, Ledger, outcomes_of
from .log import Log, Share
from .results import DONE, RAISED, SCALARS, SKIPPED, Batch, Frozen, Unserialisable, failure, freeze

WINDOW = 1024
"""Items that are looked at together, unless a batch is larger."""
_MOST_AHEAD = 1 << 16
_QUICK, _SLOW = 0.01, 0.05
"""Seconds for a window: below the first the next one is larger, above the second smaller."""
READ_WINDOW = 8192

_FLUSH_BYTES = 16 << 20
"""Results of this size are written before the batch is full."""

_PATIENCE = 5.0
"""Least seconds to wait for others to finish what they claimed; else four times the longest batch seen."""

_PAUSE = 0.02
_RETRY_EVERY = 0.5

_PRIME, _OTHER_PRIME = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)


@dataclass(frozen=True)
class Job:
    """What is to be done, and how. Travels between processes as far as its function does.

    Attributes:
        repository: where the results go.
        name: of the checkpoints.
        function: what makes a result of an item.
        fingerprint: of the function.
        function_label: what reports call the function.
        key: says what stands for an item.
        batch_size: items between two flushes.
        max_wait_time: most seconds between two flushes.
        max_retries: how often an item that fails is tried again, at once.
        fatal_exceptions: failures that stop the run at once.
        max_consecutive_exceptions: failing items in a row that stop the run.
        skip_item_errors: whether to go on after an item failed.
        retry_failed_items: whether items that failed in an earlier run are tried again.
        refresh: whether to do again what is done already.
    """

    repository: Repository
    name: str
    function: Callable[[Any], Any]
    fingerprint: str
    function_label: str
    key: Callable[[Any], Any] | None = None
    batch_size: int = 1
    max_wait_time: float | None = None
    max_retries: int = 3
    fatal_exceptions: tuple[type[BaseException], ...] = ()
    max_consecutive_exceptions: int | None = None
    skip_item_errors: bool = False
    retry_failed_items: bool = False
    refresh: bool = False


def make_job(
    repository: Repository,
    function: Callable[[Any], Any],
    *,
    name: str | None = None,
    function_version: object = None,
    batch_size: int = 1,
    max_wait_time: float | None = None,
    max_retries: int = 3,
    fatal_exceptions: type[BaseException] | Iterable[type[BaseException]] = (),
    max_consecutive_exceptions: int | None = None,
    **options: Any,
) -> Job:
    """A job, with its arguments checked.

    Raises:
        InvalidArgument, InvalidName: an argument makes no sense.
        UnfingerprintableFunction: give a `function_version`.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InvalidArgument(f"batch_size is a number of items from 1 on, not {batch_size!r}")
    if max_wait_time is not None and not max_wait_time > 0:
        raise InvalidArgument(f"max_wait_time is a number of seconds above 0, or None, not {max_wait_time!r}")
    if max_retries < 0:
        raise InvalidArgument(f"max_retries is 0 or more, not {max_retries!r}")
    if max_consecutive_exceptions is not None and max_consecutive_exceptions < 1:
        raise InvalidArgument(f"max_consecutive_exceptions is 1 or more, or None, not {max_consecutive_exceptions!r}")
    if not callable(function):
        raise InvalidArgument(f"{function!r} cannot be called")
    fatal = (fatal_exceptions,) if isinstance(fatal_exceptions, type) else tuple(fatal_exceptions)
    name = label(function) if name is None else name
    return Job(
        repository,
        check_name(name),
        function,
        fingerprint(function, function_version),
        label(function),
        batch_size=batch_size,
        max_wait_time=max_wait_time,
        max_retries=max_retries,
        fatal_exceptions=fatal,
        max_consecutive_exceptions=max_consecutive_exceptions,
        **options,
    )


def open_log(job: Job, share: Share | None = None) -> Log:
    """The result log of a job."""
    return Log(job.repository, job.name, job.fingerprint, share)


# --- windows ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Window:
    """Some consecutive items, with their keys. `first` is the position of the first one."""

    items: Sequence[Any]
    keys: Keys
    first: int


def windows(items: Iterable[Any], key: Callable[[Any], Any] | None, most: int) -> Iterator[Window]:
    """The items in windows: one at first, more as long as they come quickly, never more than `most` ahead.

    When the iterable raises, or an item has no key, what came before is a window of its own before that is raised.
    """
    iterator = iter(items)
    first, count = 0, 1
    while True:
        started = time.perf_counter()
        found: list[Any] = []
        trouble: Exception | None = None
        try:
            found.extend(islice(iterator, count))
        except Exception as error:
            trouble = error
        ended = len(found) < count
        try:
            keys = item_keys(found, key=key, first=first)
        except UnhashableItem as error:
            trouble = error
            del found[error.index - first :]
            keys = item_keys(found, key=key, first=first)
        took = time.perf_counter() - started
        if found:
            yield Window(found, keys, first)
        if trouble is not None:
            raise trouble
        if ended:
            return
        first += len(found)
        if took < _QUICK:
            count = min(4 * count, most)
        elif took > _SLOW:
            count = max(count // 4, 1)


def pending(job: Job, log: Log, keys: Keys, done: Ledger | None = None) -> NDArray[np.int64]:
    """Which of some items are to be done: their indices, each key once."""
    ledger = log if done is None else done
    found = ledger.find(keys)
    wanted = found == MISSING
    if job.retry_failed_items and done is None:
        wanted |= ~wanted & (outcomes_of(found) != DONE)
    rows = np.flatnonzero(wanted)
    return rows[_firsts(keys[rows])] if len(rows) > 1 else rows


def _firsts(keys: Keys) -> NDArray[np.int64] | slice:
    """Where each key occurs for the first time."""
    heads = np.sort(keys[:, 0])
    if (heads[1:] != heads[:-1]).all():
        return slice(None)
    return np.sort(np.unique(keys, axis=0, return_index=True)[1])


# --- what a face calls -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ItemBatch:
    """Items to be done together. `positions` are those in the iterable."""

    items: list[Any]
    keys: Keys
    positions: NDArray[np.int64]
    share: Share | None = None

    def __len__(self) -> int:
        return len(self.items)


@dataclass
class Plan:
    """What is not done. Iterate over it once, to get the batches; the counts are final afterwards.

    When the items raise, what came before is a batch before that is raised.

    Attributes:
        total: items seen so far.
        done: of these, how many have a result already.
        failed: how many failed earlier, and are left alone.
        keys: the keys of all items seen so far, for `collect`.
    """

    job: Job
    items: Iterable[Any]
    total: int = 0
    done: int = 0
    failed: int = 0
    _keys: list[Keys] = field(default_factory=list)

    @property
    def keys(self) -> Keys:
        return np.concatenate(self._keys) if self._keys else np.zeros((0, 2), np.uint64)

    def __iter__(self) -> Iterator[ItemBatch]:
        job = self.job
        log = open_log(job)
        log.tidy()
        share = Share(secrets.token_hex(8), 0, log.settled_segments())
        planned = Ledger()
        rest: list[ItemBatch] = []
        trouble: Exception | None = None
        source = windows(self.items, job.key, max(job.batch_size, WINDOW))
        while True:
            try:
                window = next(source, None)
            except Exception as error:
                trouble = error
                window = None
            if window is None:
                break
            self._keys.append(window.keys)
            found = log.find(window.keys)
            self.total += len(window.keys)
            if job.refresh:
                rows = pending(job, log, window.keys, planned)
            else:
                known = found != MISSING
                self.done += int((outcomes_of(found[known]) == DONE).sum())
                if not job.retry_failed_items:
                    self.failed += int((outcomes_of(found[known]) == SKIPPED).sum())
                rows = pending(job, log, window.keys)
                rows = rows[planned.find(window.keys[rows]) == MISSING]
            planned.add(window.keys[rows], rows.astype(np.uint64))
            if len(rows):
                rest.append(_pick(window, rows))
            while sum(map(len, rest)) >= job.batch_size:
                batch, rest = _cut(rest, job.batch_size)
                yield replace(batch, share=share)
                share = replace(share, batch=share.batch + 1)
        if rest:
            yield replace(_cut(rest, job.batch_size)[0], share=share)
        if trouble is not None:
            raise trouble


def plan(job: Job, items: Iterable[Any]) -> Plan:
    """What of some items is not done, in batches of the job's size; lazily, with a bounded look ahead."""
    return Plan(job, items)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run did: how many items it worked on, how many of them failed, and how many others had done meanwhile."""

    worked: int
    failed: int
    found_done: int


def run_batch(job: Job, batch: ItemBatch) -> Outcome:
    """Do a batch of items, whatever of it is not done meanwhile, and write the results to the repository.

    Raises:
        Exception: what the function raised, as the job's way with failures says. What was done before is kept.
        SnapshotsError: the results could not be written.
    """
    with Run(job, open_log(job, batch.share)) as run:
        run.work(Window(batch.items, batch.keys, -1), batch.positions)
        run.finish()
    return Outcome(run.worked, run.failed, len(batch) - run.worked)


RAISE: Any = object()
"""Stands for: a missing result is an error."""


def collect(job: Job, keys: Keys | Iterable[Keys], *, missing: Any = RAISE, log: Log | None = None) -> Iterator[Any]:
    """The results of items by their keys, in the order of these, streamed.

    Arguments:
        job: the job.
        keys: an array of shape (n, 2), or several one after the other.
        missing: stands for a result that is not there.
        log: of the job, if it was opened before.

    Raises:
        IncompleteResults: when it comes to an item without a result, and `missing` was not given.
    """
    log = log or open_log(job)
    first = 0
    for some in [keys] if isinstance(keys, np.ndarray) else keys:
        for at in range(0, len(some), READ_WINDOW):
            part = some[at : at + READ_WINDOW]
            yield from _results(log, part, missing, first)
            first += len(part)


def check_complete(log: Log, parts: Iterable[Keys]) -> None:
    """Raise `IncompleteResults` unless every item has a result."""
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
    for attempt in range(3):
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
            # Merged or cleared, and pruned, since the log was read.
            if attempt == 2:
                raise
            log.refresh()
            continue
        return [missing if gone else next(values) for gone in absent.tolist()]
    raise AssertionError("unreachable")


def _pick(window: Window, rows: NDArray[np.int64]) -> ItemBatch:
    return ItemBatch([window.items[row] for row in rows.tolist()], window.keys[rows], rows + window.first)


def _cut(parts: list[ItemBatch], size: int) -> tuple[ItemBatch, list[ItemBatch]]:
    whole = ItemBatch(
        [item for part in parts for item in part.items],
        np.concatenate([part.keys for part in parts]),
        np.concatenate([part.positions for part in parts]),
    )
    rest = ItemBatch(whole.items[size:], whole.keys[size:], whole.positions[size:])
    return ItemBatch(whole.items[:size], whole.keys[:size], whole.positions[:size]), [rest] if len(rest) else []


# --- running ---------------------------------------------------------------------------------------------


class _Stretch:
    """Items at work: what is done of them, and what of that is written.

    Its times are those of a clock that nobody sets; `epoch` is when that began.
    """

    __slots__ = ("ends", "epoch", "failures", "keys", "positions", "start", "values", "written")

    def __init__(self, keys: Keys, positions: NDArray[np.int64]) -> None:
        self.keys = keys
        self.positions = positions
        self.start = time.perf_counter()
        self.epoch = time.time() - self.start
        self.values: list[Any] = []
        self.ends: list[float] = []
        self.failures: dict[int, int] = {}
        self.written = 0

    def take(self) -> Batch | None:
        """What is done and not written. `ends` is the last to grow."""
        first, end = self.written, len(self.ends)
        if end == first:
            return None
        ends = np.array(self.ends[first:end])
        starts = np.empty_like(ends)
        starts[0] = self.ends[first - 1] if first else self.start
        starts[1:] = ends[:-1]
        outcomes = np.zeros(end - first, np.uint8)
        for row, outcome in list(self.failures.items()):
            if first <= row < end:
                outcomes[row - first] = outcome
        rows = slice(first, end)
        times = starts + self.epoch, ends + self.epoch
        return Batch(self.keys[rows], self.positions[rows], *times, outcomes, self.values[rows])

    def wrote(self, count: int) -> None:
        """Forget the results that were written."""
        self.values[self.written : self.written + count] = [None] * count
        self.written += count


@dataclass(slots=True)
class _Cell:
    """Items of one cell that somebody else claimed."""

    number: int
    items: list[Any]
    keys: Keys
    positions: NDArray[np.int64]


class Run:
    """Does items and writes their results. A context manager: leaving it writes what is done, whatever happens.

    Attributes:
        worked: items that the function was called for.
        failed: those of them that failed.
        failures: item and exception of each.
    """

    def __init__(
        self,
        job: Job,
        log: Log | None = None,
        *,
        on_flush: Callable[[int], None] | None = None,
    ) -> None:
        self.job = job
        self.log = log or open_log(job)
        self.worked = 0
        self.failed = 0
        self.failures: list[tuple[Any, Exception]] = []
        self._call: Callable[[Any], Any] = job.function
        self._writer = self.log.begin(job.function_label, refresh=job.refresh)
        self._fresh: Ledger | None = Ledger() if job.refresh else None
        self._limit = self.log.result_limit
        self._lock = threading.RLock()
        self._stretches: list[_Stretch] = []
        self._rows = 0
        self._bytes = 0
        self._in_a_row = 0
        self._held: list[int] = []
        self._deferred: list[_Cell] = []
        self._cell = (-1, 0)
        self._longest = 0.0
        self._last_flush = time.monotonic()
        self._trouble: BaseException | None = None
        self._stop = threading.Event()
        self._timer: threading.Thread | None = None
        self._signals = _Signals()
        self._leaving = contextlib.ExitStack()
        self._on_flush = on_flush
        self._begun = False
        self._known_news = -1
        self._retried = 0.0

    def __enter__(self) -> Self:
        self._leaving.__enter__()
        self._leaving.enter_context(self._signals)
        if inspect.iscoroutinefunction(self.job.function):
            runner = self._leaving.enter_context(asyncio.Runner())
            function = self.job.function
            self._call = lambda item: runner.run(function(item))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        try:
            with self._signals.held():
                try:
                    if self._timer is not None:
                        self._timer.join()
                    self.flush()
                    self._writer.close()
                except BaseException:
                    self._writer.abandon()
                    raise
                finally:
                    self.log.close()
            if self._begun and kind is None:
                self.log.tidy()
        finally:
            self._leaving.__exit__(kind, error, trace)

    # --- what to work on -------------------------------------------------------------------------------------------

    def work(self, window: Window, positions: NDArray[np.int64] | None = None) -> None:
        """Do what is to be done of a window. `positions`: those of its items, if they do not follow one another."""
        self._known_news = self.log.news
        rows = self._pending(window.keys)
        rows = rows[self._not_begun(window.keys[rows])]
        if not len(rows):
            return
        self._begin()
        where = window.first + np.arange(len(window.keys)) if positions is None else positions
        for number, part in self._cells(window, where, rows):
            self._work_on(number, window, where, part)
        if self._deferred and time.monotonic() > self._retried + _RETRY_EVERY:
            self._retry()

    def finish(self) -> None:
        """Do what others had claimed and have not done. They get some time for it."""
        since = time.monotonic()
        while self._deferred:
            before = len(self._deferred)
            self._retry()
            if len(self._deferred) < before:
                since = time.monotonic()
                continue
            if time.monotonic() - since > max(_PATIENCE, 4 * self._longest):
                for cell in self._deferred:
                    self._execute(cell.number, cell.items, cell.keys, cell.positions)
                self._deferred.clear()
                return
            self.flush()
            self._let_go()
            time.sleep(_PAUSE if self.log.claims.exact else _RETRY_EVERY)

    def _begin(self) -> None:
        if self._begun:
            return
        self._begun = True
        _warn_of_requests(self.job)
        self._writer.open()
        if self.job.max_wait_time is not None:
            self._timer = threading.Thread(target=self._keep_flushing, name="prefect-snapshots-flush", daemon=True)
            self._timer.start()

    def _pending(self, keys: Keys) -> NDArray[np.int64]:
        return pending(self.job, self.log, keys, self._fresh)

    def _not_begun(self, keys: Keys) -> NDArray[np.bool_]:
        """Which items are not done already, but unwritten, nor put off."""
        with self._lock:
            begun = [stretch.keys for stretch in self._stretches] + [cell.keys for cell in self._deferred]
        ledger = Ledger()
        for some in begun:
            ledger.add(some, np.zeros(len(some), np.uint64))
        return ledger.find(keys) == MISSING if begun else np.ones(len(keys), bool)

    def _cells(
        self, window: Window, where: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """The rows to be done, cell by cell, each with the number by which it is claimed."""
        size = self.job.batch_size
        cells = where // size
        # Processes that look at the same items see the same first key in a cell, however they cut their windows.
        begins = np.flatnonzero(np.diff(cells, prepend=-1))
        keys = window.keys[begins]
        numbers = keys[:, 0] * _PRIME ^ keys[:, 1] ^ (cells[begins].astype(np.uint64) * _OTHER_PRIME)
        numbers ^= np.uint64(int(self.job.fingerprint[:16], 16))
        claims = (numbers >> np.uint64(2)).tolist()
        if self._cell[0] == int(cells[0]):
            claims[0] = self._cell[1]
        self._cell = int(cells[-1]), claims[-1]
        which = np.searchsorted(begins, rows, side="right") - 1
        if size == 1:
            return ((claims[cell], rows[at : at + 1]) for at, cell in enumerate(which.tolist()))
        cuts = np.flatnonzero(np.diff(which)) + 1
        return (
            (claims[int(which[0 if not at else cuts[at - 1]])], part) for at, part in enumerate(np.split(rows, cuts))
        )

    def _work_on(self, number: int, window: Window, where: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        mine = self._claim_freshly(number)
        if mine and self.log.news == self._known_news:
            items = [window.items[row] for row in rows.tolist()]
            self._execute(number, items, window.keys[rows], where[rows])
            return
        rows = rows[self._pending(window.keys[rows])]
        items = [window.items[row] for row in rows.tolist()]
        if not items:
            if mine:
                self._release(number)
        elif mine:
            self._execute(number, items, window.keys[rows], where[rows])
        else:
            self._deferred.append(_Cell(number, items, window.keys[rows], where[rows]))

    def _retry(self) -> None:
        """Look again at what others had claimed."""
        self.log.poll()
        self._retried = time.monotonic()
        deferred, self._deferred = self._deferred, []
        for cell in deferred:
            mine = self._claim(cell.number)
            if mine:
                self.log.poll()
            rows = self._pending(cell.keys)
            if not len(rows):
                if mine:
                    self._release(cell.number)
            elif mine:
                self._execute(
                    cell.number, [cell.items[row] for row in rows.tolist()], cell.keys[rows], cell.positions[rows]
                )
            else:
                self._deferred.append(cell)

    def _claim_freshly(self, number: int) -> bool:
        """Claim a cell, and know what others have done of it before."""
        if self.log.claims.exact:
            mine = self._claim(number)
            self.log.poll()
            return mine
        # Here nobody claims anything while alone: who came meanwhile has to be known first. One cell may be done twice.
        self.log.poll(thorough=False)
        return self._claim(number)

    def _claim(self, number: int) -> bool:
        return number in self._held or self.log.claims.take(number, self._writer.segment, self.log.open_segments())

    def _release(self, number: int) -> None:
        if number not in self._held:
            self.log.claims.release(number)

    # --- doing it --------------------------------------------------------------------------------------------------

    def _execute(self, number: int, items: list[Any], keys: Keys, positions: NDArray[np.int64]) -> None:
        """Do the items of one cell, which is claimed."""
        if number not in self._held:
            self._held.append(number)
        first = 0
        while first < len(items):
            end = first + self.job.batch_size - self._rows
            self._do(items[first:end], keys[first:end], positions[first:end])
            first = end
            if self._rows >= self.job.batch_size:
                self.flush()
                self._let_go(keep=number if first < len(items) else None)

    def _let_go(self, keep: int | None = None) -> None:
        """Give back the claims on what is written."""
        for number in self._held:
            if number != keep:
                self.log.claims.release(number)
        self._held = [] if keep is None else [keep]

    def _do(self, items: list[Any], keys: Keys, positions: NDArray[np.int64]) -> None:
        call, now = self._call, time.perf_counter
        stretch = _Stretch(keys, positions)
        values, ends = stretch.values, stretch.ends
        with self._lock:
            self._stretches.append(stretch)
        if self._trouble is not None:
            raise self._trouble
        try:
            for item in items:
                try:
                    value = call(item)
                except Exception as error:
                    value = self._failed(stretch, item, error)
                else:
                    self._in_a_row = 0
                if type(value) not in SCALARS:
                    value = self._freeze(value, stretch)
                values.append(value)
                ends.append(now())
                if self._bytes > _FLUSH_BYTES:
                    self.flush()
        finally:
            self.worked += len(ends)
            self._rows += len(ends)
            self._longest = max(self._longest, now() - stretch.start)

    def _freeze(self, value: Any, stretch: _Stretch) -> Any:
        if type(value) is not Frozen:
            try:
                value = freeze(value, self._limit)
            except Unserialisable as error:
                raise UnserialisableResult(self._position(stretch), str(error)) from error.__cause__
        if type(value) is Frozen:
            self._bytes += len(value)
        return value

    def _position(self, stretch: _Stretch) -> int:
        return int(stretch.positions[len(stretch.ends)])

    def _failed(self, stretch: _Stretch, item: Any, error: Exception) -> Any:
        """Try an item again that failed. Returns its result, or its failure."""
        job = self.job
        for _ in range(job.max_retries):
            if isinstance(error, job.fatal_exceptions):
                break
            try:
                value = self._call(item)
            except Exception as again:
                error = again
            else:
                self._in_a_row = 0
                return value
        position = self._position(stretch)
        self._in_a_row += 1
        self.failed += 1
        stops = not job.skip_item_errors or isinstance(error, job.fatal_exceptions)
        too_many = job.max_consecutive_exceptions is not None and self._in_a_row >= job.max_consecutive_exceptions
        stretch.failures[len(stretch.ends)] = RAISED if stops else SKIPPED
        if stops or too_many:
            stretch.values.append(failure(item, error))
            stretch.ends.append(time.perf_counter())
        if stops:
            error.add_note(f"It was raised by {job.function_label} for item {position} of {job.name!r}.")
            raise error
        self.failures.append((item, error))
        if too_many:
            raise TooManyFailures(
                f"{job.name}: {self._in_a_row} consecutive items failed, up to item {position} "
                f"({type(error).__name__}: {error})"
            ) from error
        return failure(item, error)

    # --- writing it ------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what is done."""
        with self._lock, self._signals.held():
            parts = [(stretch, batch) for stretch in self._stretches if (batch := stretch.take()) is not None]
            if parts:
                batch = parts[0][1] if len(parts) == 1 else _joined([part for _, part in parts])
                self._writer.write(batch)
                for stretch, part in parts:
                    stretch.wrote(len(part))
                if self._fresh is not None:
                    self._fresh.add(batch.keys, np.zeros(len(batch), np.uint64))
                if self._on_flush is not None:
                    self._on_flush(len(batch))
            # The last one may be at work.
            self._stretches = [stretch for stretch in self._stretches if stretch.written < len(stretch.positions)][-1:]
            self._rows = 0
            self._bytes = 0
            self._last_flush = time.monotonic()

    def _keep_flushing(self) -> None:
        most = self.job.max_wait_time
        assert most is not None
        while not self._stop.wait(max(self._last_flush + most - time.monotonic(), 0.001)):
            if time.monotonic() - self._last_flush < most:
                continue
            try:
                self.flush()
            except BaseException as error:
                self._trouble = error
                return


def _joined(parts: Sequence[Batch]) -> Batch:
    return Batch(
        np.concatenate([part.keys for part in parts]),
        np.concatenate([part.positions for part in parts]),
        np.concatenate([part.starts for part in parts]),
        np.concatenate([part.ends for part in parts]),
        np.concatenate([part.outcomes for part in parts]),
        [value for part in parts for value in part.values],
    )


def _warn_of_requests(job: Job) -> None:
    location = job.repository.location
    if job.batch_size > 1 or location.appends or location.url.startswith("memory://"):
        return
    warnings.warn(
        f"{job.name}: batch_size=1 makes a request to {location.url} for every item, some 20 to 100 ms each. Say "
        "batch_size=100 or more, and max_wait_time= for how many seconds of work you would do again.",
        stacklevel=2,
    )


class _Held(contextlib.AbstractContextManager[None]):
    """See `_Signals.held`."""

    def __init__(self, signals: _Signals) -> None:
        self._signals = signals

    def __enter__(self) -> None:
        self._signals.hold()

    def __exit__(self, *_: object) -> None:
        self._signals.let_go()


_NOTHING = contextlib.nullcontext()


class _Signals:
    """Lets no signal interrupt a write, and makes SIGTERM end a run as an exception does.

    Works in the main thread only, as signals do.
    """

    def __init__(self) -> None:
        self._old: dict[int, Any] = {}
        self._depth = 0
        self._waiting: list[tuple[int, FrameType | None]] = []
        self._terminated = False
        self._held = _Held(self)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                old = signal.getsignal(number)
                if callable(old) or (number == signal.SIGTERM and old == signal.SIG_DFL):
                    self._old[number] = old
                    signal.signal(number, self._arrived)
        return self

    def __exit__(self, *_: object) -> None:
        for number, old in self._old.items():
            if signal.getsignal(number) == self._arrived:
                signal.signal(number, old)
        self._old.clear()
        if self._terminated:
            signal.raise_signal(signal.SIGTERM)

    def held(self) -> contextlib.AbstractContextManager[None]:
        """Signals wait for the end of the block."""
        return self._held if self._old and threading.current_thread() is threading.main_thread() else _NOTHING

    def hold(self) -> None:
        self._depth += 1

    def let_go(self) -> None:
        self._depth -= 1
        if not self._depth and self._waiting:
            waiting, self._waiting = self._waiting, []
            for number, frame in waiting:
                self._deliver(number, frame)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if self._depth:
            self._waiting.append((number, frame))
        else:
            self._deliver(number, frame)

    def _deliver(self, number: int, frame: FrameType | None) -> None:
        old = self._old.get(number)
        if callable(old):
            old(number, frame)
        elif number == signal.SIGTERM:
            self._terminated = True
            raise SystemExit(128 + number)
