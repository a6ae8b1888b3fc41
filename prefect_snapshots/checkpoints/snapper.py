"""Snapper: process a long iterable, keep every result, and go on where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar

from ..errors import InvalidArgument
from ..repository.choosing import RepositoryLike, as_repository
from .counts import RunCounts
from .job import make_job
from .keys import Keys
from .log import Log
from .metrics import Metric, load_metrics, render
from .reading import RAISE, READ_WINDOW, check_complete, open_log, read, read_recorded, recorded_keys
from .running import Run
from .selection import WINDOW, MetItems, windows

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class FailedItem(Generic[T]):
    """An item that failed in the last run, and what its function raised."""

    item: T
    exception: Exception


class Snapper(Generic[T, R]):
    """Calls a function for every item of an iterable, and keeps the results in a repository.

    Items are recognised by their value: a grown, shrunk, reordered or repeated iterable only has done what is new. A
    changed function does everything again; the earlier results stay for `load_all`.

    Any number of processes may work on one name at once, and share the work.

    Arguments:
        iterable: the items. A generator is consumed as it goes.
        fn: what makes a result of an item. An async function is awaited, one item at a time.
        repository: a `Repository`, a URL, a path or a block; see `Repository` for the default.
        name: what the checkpoints are called. Default: the function's module and name.
        batch_size: how many results are written together. What is written survives the death of the process at once,
            and a loss of power within a second.
        max_wait_time: seconds after which results are written although there are fewer of them, also while one item
            takes its time.
        key: a function that says what stands for an item, where items have no content of their own (connections), or
            too much of it.
        function_version: stands for the code of the function, where that cannot be told (extension modules). Say
            another one whenever what the function does has changed.
        max_retries: how often an item that fails is tried again at once.
        fatal_exceptions: exceptions that stop the run at once, without trying again.
        max_consecutive_exceptions: how many items that fail in a row stop the run. None: any number goes.
        skip_item_errors: go on after an item failed. Else its exception is raised, and the next start tries it again.
        retry_failed_items: try items again that an earlier run has skipped.

    Attributes:
        counts: What became of the items in the last `start`, a `RunCounts`.
        failed_items: The items that failed in the last `start`, if it was told to skip them.

    Raises:
        InvalidArgument, InvalidName: an argument makes no sense.

    Example:
        >>> def double(number):
        ...     return 2 * number
        >>> snapper = Snapper(range(5), double, repository="memory://snapper-example")
        >>> snapper.start()
        >>> snapper.load()
        [0, 2, 4, 6, 8]
    """

    def __init__(
        self,
        iterable: Iterable[T],
        fn: Callable[[T], R],
        *,
        repository: RepositoryLike | None = None,
        name: str | None = None,
        batch_size: int = 1,
        max_wait_time: float | None = None,
        key: Callable[[T], Any] | None = None,
        function_version: object = None,
        max_retries: int = 3,
        fatal_exceptions: type[BaseException] | Iterable[type[BaseException]] = (),
        max_consecutive_exceptions: int | None = None,
        skip_item_errors: bool = False,
        retry_failed_items: bool = False,
    ) -> None:
        if not isinstance(iterable, Iterable):
            raise InvalidArgument(f"a {type(iterable).__name__} cannot be iterated over")
        self.job = make_job(
            as_repository(repository),
            fn,
            name=name,
            key=key,
            function_version=function_version,
            batch_size=batch_size,
            max_wait_time=max_wait_time,
            max_retries=max_retries,
            fatal_exceptions=fatal_exceptions,
            max_consecutive_exceptions=max_consecutive_exceptions,
            skip_item_errors=skip_item_errors,
            retry_failed_items=retry_failed_items,
        )
        self.counts = RunCounts()
        self.failed_items: list[FailedItem[T]] = []
        self._iterable = iterable
        # An iterator gives its items once only: their keys are kept, for `load`.
        self._once = isinstance(iterable, Iterator)
        self._seen: list[Keys] = []
        self._met = MetItems() if isinstance(iterable, list | tuple) else None

    @property
    def name(self) -> str:
        """What the checkpoints are called."""
        return self.job.name

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the function, for `load_all`."""
        return self.job.fingerprint

    def start(self) -> None:
        """Do all items that are not done. May be called again and again.

        An exception, Ctrl-C and SIGTERM write what is done before they go on.

        Raises:
            Exception: what the function raised, unless `skip_item_errors`; with a note that says for which item.
            TooManyFailures: `max_consecutive_exceptions` items in a row failed.
            UnhashableItem: an item has no content to recognise it by.
            UnserialisableResult: a result cannot be kept.
            SnapshotsError: results could not be written.
        """
        self.failed_items = []
        self.counts = RunCounts()
        with Run(self.job) as run:
            try:
                for window in windows(self._iterable, self.job.key, max(self.job.batch_size, WINDOW)):
                    if self._once:
                        self._seen.append(window.keys)
                    if self._met is not None:
                        self._met.add(window)
                    run.work(window)
                run.finish()
            finally:
                self.counts = run.counts
                self.failed_items = [FailedItem(item, error) for item, error in run.failures]

    def load(self, missing: Any = RAISE) -> list[R]:
        """The results of the items, in the order of the iterable.

        A generator that was consumed before this process saw it has no order of its own: its results come in the order
        in which they were recorded.

        Arguments:
            missing: stands for results that are not there.

        Raises:
            IncompleteResults: results are not there, and `missing` was not given.
            PickleRefused: a result was stored with pickle, and the repository was opened with `allow_pickle=False`.
        """
        log = open_log(self.job)
        keys = list(self._keys(log))
        if missing is RAISE:
            check_complete(log, keys)
        return list(read(log, keys, missing))

    def iter_results(self, missing: Any = RAISE) -> Iterator[R]:
        """The same one by one, in flat memory.

        Raises:
            IncompleteResults: when it comes to an item without a result.
        """
        log = open_log(self.job)
        return read(log, self._keys(log), missing)

    def load_all(self, fingerprint: str | None = None) -> list[R]:
        """Every result that is stored, whatever the iterable is now, in the order of the iterables of then.

        Arguments:
            fingerprint: of another version of the function. `list_checkpoints` tells which there are.
        """
        log = open_log(self.job) if fingerprint is None else Log(self.job.repository, self.job.name, fingerprint)
        return list(read_recorded(log))

    def load_metrics(self) -> list[Metric]:
        """One metric for each item that was worked on, whatever the iterable is now."""
        metrics = load_metrics(open_log(self.job))
        return [metrics.row(at) for at in range(len(metrics))]

    def generate_report(self, format: Literal["markdown", "json"] = "markdown") -> str:
        """How it went: throughput, slow items, failures.

        Raises:
            InvalidArgument: there is no such format.
        """
        return render(self.name, load_metrics(open_log(self.job)), format)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is open between two starts."""

    def _keys(self, log: Log) -> Iterable[Keys]:
        """The keys of the items, part by part."""
        known = None if self._met is None else self._met.keys_of
        rest = (window.keys for window in windows(self._iterable, self.job.key, READ_WINDOW, known))
        if not self._once:
            return rest
        self._seen += rest
        return self._seen or [recorded_keys(log)]
