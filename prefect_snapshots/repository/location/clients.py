"""Making the clients of the libraries below, of which every process needs its own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from ...errors import InvalidArgument

T = TypeVar("T")

NO_CACHES = {"use_listings_cache": False, "skip_instance_cache": True}
"""Options for every file system of fsspec: other writers are seen at once."""


class PerProcess(Generic[T]):
    """Something that a forked child makes anew. It never closes the parent's, which would disturb the parent."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: dict[int, T] = {}

    def __call__(self) -> T:
        pid = os.getpid()
        found = self._made.get(pid)
        # No lock, which a fork could copy while it is held: of two made at once the second is dropped.
        return self._made.setdefault(pid, self._make()) if found is None else found


@contextlib.contextmanager
def blaming_options(url: str) -> Iterator[None]:
    """Around the making of a client: what Python says about its arguments is about what the user gave."""
    try:
        yield
    except (TypeError, AttributeError, LookupError, ValueError, FileNotFoundError) as error:
        reason = f"{type(error).__name__}: {error}".rstrip(".: ")
        raise InvalidArgument(f"{url}: the URL or storage_options do not fit ({reason}). Correct them.") from error
