"""Jobs: the function to call for each item of an iterable, and the options to do so."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from ..errors import InvalidArgument
from ..repository.names import check_name
from ..repository.repository import Repository
from .fingerprint import label, parts_of

_MOST_PARTS, _LONGEST = 300, 120
"""How many parts of a fingerprint are stored, and characters of their names: about 40 KB in the first event of a
version, which is read whenever the checkpoints are opened."""


@dataclass(frozen=True)
class Job:
    """The function to call for each item, and the options to do so. It can be pickled if its function can.

    Attributes:
        repository: Where the results are stored.
        name: The name of the checkpoints.
        function: Called with each item. Its return value is the result of the item.
        fingerprint: The fingerprint of the function.
        function_label: The name of the function in reports.
        key: A function that gets an item and returns a value that identifies it.
        batch_size: The number of items between two writes.
        max_wait_time: The most seconds between two writes. None: no limit.
        max_retries: How often a failing item is retried, immediately.
        fatal_exceptions: Exceptions that stop the run immediately.
        max_consecutive_exceptions: How many failing items in a row stop the run. None: no limit.
        skip_item_errors: Whether the run continues after an item fails.
        retry_failed_items: Whether items that failed in an earlier run are retried.
        refresh: Whether items that have results are computed again.
        cache_expiration: How old a result may be. Items with an older one are computed again. None: no limit.
        parts: What the fingerprint includes: names and digests.
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
    cache_expiration: timedelta | None = None
    parts: Mapping[str, str] = field(default_factory=dict)


def check_batches(batch_size: int, max_wait_time: float | None) -> None:
    """Check the size and the waiting time of batches.

    Raises:
        InvalidArgument: One of them is not a positive number.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InvalidArgument(f"batch_size must be an integer of at least 1, not {batch_size!r}.")
    if max_wait_time is not None and not max_wait_time > 0:
        raise InvalidArgument(f"max_wait_time must be a number of seconds above 0, or None, not {max_wait_time!r}.")


def exception_classes(given: object) -> tuple[type[BaseException], ...]:
    """Return the classes of `fatal_exceptions`, which is one class or several.

    Raises:
        InvalidArgument: It is something else.
    """
    classes = tuple(given) if isinstance(given, Iterable) else (given,)
    for item in classes:
        if not (isinstance(item, type) and issubclass(item, BaseException)):
            raise InvalidArgument(f"fatal_exceptions must be one or more exception classes, not {item!r}.")
    return classes


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
    cache_expiration: timedelta | None = None,
    identity: Callable[..., Any] | None = None,
    **options: Any,
) -> Job:
    """Check the arguments and return a job.

    Args:
        identity: The function whose fingerprint identifies the results. Default: the function that is called.

    Raises:
        InvalidArgument: An argument is invalid.
        InvalidName: The name is invalid.
        UnfingerprintableFunction: The function has no fingerprint. Pass `function_version`.
    """
    check_batches(batch_size, max_wait_time)
    if max_retries < 0:
        raise InvalidArgument(f"max_retries must be at least 0, not {max_retries!r}.")
    if max_consecutive_exceptions is not None and max_consecutive_exceptions < 1:
        raise InvalidArgument(
            f"max_consecutive_exceptions must be at least 1, or None, not {max_consecutive_exceptions!r}."
        )
    if not callable(function):
        raise InvalidArgument(f"fn must be a function or another callable, not {function!r}.")
    if cache_expiration is not None and not (
        isinstance(cache_expiration, timedelta) and cache_expiration > timedelta()
    ):
        raise InvalidArgument(f"cache_expiration must be a timedelta above 0, or None, not {cache_expiration!r}.")
    digest, parts = parts_of(function if identity is None else identity, function_version)
    return Job(
        repository,
        check_name(label(function) if name is None else name),
        function,
        digest,
        label(function),
        parts={part.name[:_LONGEST]: part.digest for part in parts[:_MOST_PARTS]},
        batch_size=batch_size,
        max_wait_time=max_wait_time,
        max_retries=max_retries,
        fatal_exceptions=exception_classes(fatal_exceptions),
        max_consecutive_exceptions=max_consecutive_exceptions,
        cache_expiration=cache_expiration,
        **options,
    )
