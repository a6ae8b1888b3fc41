"""Snapper: process a long iterable, save every result, and continue after an interruption."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar

from ..arguments import checking_types
from ..errors import InvalidArgument
from ..repository.choosing import RepositoryLike, as_repository
from .counts import RunCounts
from .job import make_job
from .keys import Keys, item_keys
from .log import Log
from .metrics import Metric, load_metrics, render
from .planning import find_done
from .reading import RAISE, READ_WINDOW, check_complete, open_log, read, read_recorded, recorded_keys
from .running import Run
from .selection import WINDOW, MetItems, windows

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class FailedItem(Generic[T]):
    """An item that failed in the last run, and the exception that the function raised."""

    item: T
    exception: Exception


@checking_types
class Snapper(Generic[T, R]):
    """Call a function for each item of an iterable, and save every result in a repository.

    Items are recognised by value: if the iterable grows, shrinks, repeats items or changes its order, only new items
    are computed. If the function changes, everything is computed again; `load_all` still returns the earlier results.

    Any number of processes can share the work on one name.

    Args:
        iterable: The items. A generator is read only a little ahead.
        fn: The function to call with each item. Async functions are awaited one at a time.
        repository: A `Repository`, a URL, a path or a block; see `Repository` for the default.
        name: The name of the checkpoints. Default: module and name of the function.
        batch_size: How many results are saved together. Default: 1. A saved result survives the death of the process
            immediately, and a loss of power after a second.
        max_wait_time: Save results after this many seconds even if the batch is not full, also while a single item
            takes a long time. Default: None, wait until the batch is full.
        key: A function that gets an item and returns a value that identifies it. Use it for items that cannot be
            compared (connections) or are very large. Default: the item itself.
        function_version: Identifies the code of the function, for functions without source. Pass another value
            whenever the results would change. Default: a fingerprint of the source.
        max_retries: How often a failing item is retried, immediately. Default: 3.
        fatal_exceptions: Exceptions that stop the run immediately, without a retry. Default: none.
        max_consecutive_exceptions: How many failing items in a row stop the run. Default: None, no limit.
        skip_item_errors: Continue after an item fails. Default: False, raise its exception; the next start retries
            the item.
        retry_failed_items: Retry items that failed in an earlier run. Default: False.
        cache_expiration: Compute items again in `start` if their results are older than this. Default: never.

    Attributes:
        counts: The `RunCounts` of the last `start`.
        failed_items: The items that failed in the last `start`, if `skip_item_errors` is True.

    Raises:
        InvalidArgument: An argument is invalid.
        InvalidName: The name is invalid.
        UnfingerprintableFunction: The function has no fingerprint. Pass `function_version`.

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
        cache_expiration: timedelta | None = None,
    ) -> None:
        if not isinstance(iterable, Iterable):
            raise InvalidArgument(f"Snapper needs an iterable: {type(iterable).__name__} cannot be iterated over.")
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
            cache_expiration=cache_expiration,
        )
        self.counts = RunCounts()
        self.failed_items: list[FailedItem[T]] = []
        self._iterable = iterable
        # An iterator yields its items only once, so their keys are kept for `load`.
        self._once = isinstance(iterable, Iterator)
        self._seen: list[Keys] = []
        self._met = MetItems() if isinstance(iterable, list | tuple) else None

    @property
    def name(self) -> str:
        """The name of the checkpoints."""
        return self.job.name

    @property
    def fingerprint(self) -> str:
        """The fingerprint of this version of the function, for `load_all`."""
        return self.job.fingerprint

    def start(self) -> None:
        """Compute all items without a result. You can call it any number of times.

        On an exception, Ctrl-C or SIGTERM, finished results are saved first.

        Raises:
            Exception: The error of the function, with a note that names the item, unless `skip_item_errors` is True.
            TooManyFailures: `max_consecutive_exceptions` items in a row failed.
            UnhashableItem: An item cannot be compared between processes. Pass `key`.
            UnserialisableResult: A result cannot be stored.
            SnapshotsError: Results could not be written.
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

    def is_done(self, item: T) -> bool:
        """Return whether an item has a result that has not expired. The function is not called.

        Args:
            item: An item. It need not be in the iterable.

        Raises:
            UnhashableItem: The item cannot be compared between processes. Pass `key`.

        Example:
            >>> snapper = Snapper([1, 2], abs, repository="memory://example-is-done")
            >>> snapper.start()
            >>> snapper.is_done(2), snapper.is_done(3)
            (True, False)
        """
        return bool(find_done(self.job, item_keys([item], key=self.job.key))[0])

    def load(self, missing: Any = RAISE) -> list[R]:
        """Return the results in the order of the iterable.

        If the iterable is a generator that was consumed elsewhere, you get all results in the order in which they were
        recorded.

        Args:
            missing: What to return for an item without a result. Default: raise `IncompleteResults`.

        Raises:
            IncompleteResults: An item has no result, and you did not pass `missing`.
            PickleRefused: A result was stored with pickle, and the repository was opened with `allow_pickle=False`.
            DamagedObject: Stored results are damaged or lost.
        """
        log = open_log(self.job)
        keys = list(self._keys(log))
        if missing is RAISE:
            check_complete(log, keys)
        return list(read(log, keys, missing))

    def iter_results(self, missing: Any = RAISE) -> Iterator[R]:
        """Stream the results in the order of the iterable, without keeping all of them in memory.

        Args:
            missing: As for `load`.

        Returns:
            An iterator that reads the results as you consume it.

        Raises:
            IncompleteResults: The next item has no result, and you did not pass `missing`.
        """
        log = open_log(self.job)
        return read(log, self._keys(log), missing)

    def load_all(self, fingerprint: str | None = None) -> list[R]:
        """Return every stored result, even of items that are no longer in the iterable.

        The order is that of the items when they were computed.

        Args:
            fingerprint: The version of the function. Default: the current one. `CheckpointManager.list_checkpoints`
                lists the others.
        """
        log = open_log(self.job) if fingerprint is None else Log(self.job.repository, self.job.name, fingerprint)
        return list(read_recorded(log))

    def load_metrics(self) -> list[Metric]:
        """Return the metrics of every stored item, even of items that are no longer in the iterable."""
        metrics = load_metrics(open_log(self.job))
        return [metrics.row(at) for at in range(len(metrics))]

    def generate_report(self, format: Literal["markdown", "json"] = "markdown") -> str:
        """Report throughput, slow items and failures.

        Args:
            format: "markdown", for people, or "json", for programs.

        Returns:
            The report, as a string.

        Raises:
            InvalidArgument: The format is unknown.
        """
        return render(self.name, load_metrics(open_log(self.job)), format)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing: between two starts, nothing is open."""

    def _keys(self, log: Log) -> Iterable[Keys]:
        """Yield the keys of the items, part by part."""
        known = None if self._met is None else self._met.keys_of
        rest = (window.keys for window in windows(self._iterable, self.job.key, READ_WINDOW, known))
        if not self._once:
            return rest
        self._seen += rest
        return self._seen or [recorded_keys(log)]
