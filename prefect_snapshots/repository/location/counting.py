"""How many requests a location has made."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping


class Requests(Mapping[str, int]):
    """How many requests were made, by verb: GET, PUT, LIST, DELETE, HEAD.

    For S3 and Google Cloud Storage every request counts, retries included, except for those that aiohttp repeats by
    itself when a connection turns out to be gone; for others every call. A verb that was never used counts 0.
    """

    def __init__(self) -> None:
        # One entry for each thread, so that no lock is needed: a fork could copy one while it is held.
        self._counts: dict[tuple[int, str], int] = {}

    def __getitem__(self, verb: str) -> int:
        return self._sums()[verb]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sums())

    def __len__(self) -> int:
        return len(self._sums())

    def __repr__(self) -> str:
        return f"Requests({dict(self._sums())})"

    def add(self, verb: str) -> None:
        """Count one request."""
        key = threading.get_ident(), verb
        self._counts[key] = self._counts.get(key, 0) + 1

    def _sums(self) -> Counter[str]:
        sums: Counter[str] = Counter()
        for (_, verb), count in list(self._counts.items()):
            sums[verb] += count
        return sums
