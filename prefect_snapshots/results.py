"""Results of task runs: bytes by key, which can be overwritten and are deduplicated.

All results of a log share `STREAMS` streams, chosen by a hash of the key, because with a stream per key the catalog
would grow with every task run. Writing a key deletes its older result in the same event.

This module uses the repository, but not Prefect. It does not interpret the bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from blake3 import blake3

from .errors import ObjectMissing
from .repository.catalog import Event
from .repository.commits import Draft
from .repository.repository import Repository
from .repository.threads import Lock
from .repository.times import from_nanoseconds, parse_time, to_nanoseconds
from .repository.tracking import TrackedStream

KIND = "results"
STREAMS = 64
"""The number of streams that share the results of a log. As many writers can append at the same time."""


@dataclass(frozen=True, slots=True)
class Result:
    """Information about a result, available without reading it.

    Attributes:
        key: The key of the result.
        written_at: When it was written, in UTC by the clock of the writer.
        size: Its size in bytes. Identical bytes are stored only once.
    """

    key: str
    written_at: datetime
    size: int


class ResultLog:
    """Store and read results by key. Any number of processes can write; the last one to commit a key wins.

    Args:
        repository: Where the results are stored.
        name: The name of the log. Logs of different names in one repository do not share keys.

    Example:
        >>> from prefect_snapshots import Repository
        >>> results = ResultLog(Repository("memory://example-results"))
        >>> results.write("a/key", b"some bytes")
        >>> results.read("a/key")
        b'some bytes'
        >>> results.keys()
        ['a/key']
    """

    def __init__(self, repository: Repository, name: str = "default") -> None:
        self._repository = repository
        self._name = name
        self._streams: dict[int, TrackedStream[_Latest]] = {}
        self._lock = Lock()

    def write(self, key: str, data: bytes) -> None:
        """Store a result durably. An older result of this key is deleted; the next prune frees its space.

        Args:
            key: Any string.
            data: The bytes. Only data that is not stored yet takes space.
        """
        tracked = self._tracked(_number(key))

        def draft() -> Draft:
            old = tracked.state.results.get(key)
            return Draft("put", {"key": key}, [old.sequence] if old else [])

        tracked.put(draft, b"", [data])

    def read(self, key: str) -> bytes:
        """Return the latest result of a key. Every byte is verified.

        Raises:
            ObjectMissing: The key has no result.
            IntegrityError: The result is damaged.
        """
        tracked = self._tracked(_number(key))
        with tracked.current() as latest:
            event = latest.results.get(key)
        if event is None:
            raise ObjectMissing(
                f"There is no result {key!r} in {self._repository.url}. It was never stored, or was deleted: run the "
                "task again."
            )
        content = self._repository.read(tracked.stream, event)
        return content.read(0, content.body_size)

    def exists(self, key: str) -> bool:
        """Return whether a key has a result, without reading it."""
        with self._tracked(_number(key)).current() as latest:
            return key in latest.results

    def keys(self) -> list[str]:
        """Return the keys of all results, sorted."""
        return sorted(key for tracked in self._every_stream() for key in tracked.refresh().results)

    def older_than(self, moment: datetime | str) -> list[Result]:
        """Return the results that were written before a point in time, sorted by key.

        Args:
            moment: A datetime with a time zone, or an ISO 8601 string (UTC if it names no zone).
        """
        end = to_nanoseconds(parse_time(moment))
        found = [
            Result(key, from_nanoseconds(event.time), event.content.size if event.content else 0)
            for tracked in self._every_stream()
            for key, event in tracked.refresh().results.items()
            if event.time < end
        ]
        return sorted(found, key=lambda result: result.key)

    def expire(self, older_than: datetime | str) -> list[str]:
        """Delete every result that was written before a point in time. The next prune frees their space.

        Args:
            older_than: A datetime with a time zone, or an ISO 8601 string (UTC if it names no zone).

        Returns:
            The keys of the deleted results, sorted.
        """
        end = to_nanoseconds(parse_time(older_than))
        return self._delete(lambda _, event: event.time < end)

    def delete(self, keys: Iterable[str]) -> list[str]:
        """Delete the results of some keys. Return the sorted keys that had a result."""
        doomed = set(keys)
        return self._delete(lambda key, _: key in doomed)

    def _delete(self, doomed: Callable[[str, Event], bool]) -> list[str]:
        return sorted(key for tracked in self._every_stream() for key in self._delete_from(tracked, doomed))

    def _delete_from(self, tracked: TrackedStream[_Latest], doomed: Callable[[str, Event], bool]) -> list[str]:
        gone: dict[str, int] = {}

        def draft() -> Draft | None:
            nonlocal gone
            gone = {key: event.sequence for key, event in tracked.state.results.items() if doomed(key, event)}
            return Draft("expire", {}, list(gone.values())) if gone else None

        tracked.change(draft)
        return list(gone)

    def _tracked(self, number: int) -> TrackedStream[_Latest]:
        with self._lock:
            if number not in self._streams:
                self._streams[number] = TrackedStream(self._repository, KIND, f"{self._name}/{number}", _Latest())
            return self._streams[number]

    def _every_stream(self) -> Iterator[TrackedStream[_Latest]]:
        names = self._repository.names(KIND) if self._repository.exists() else ()
        for number in range(STREAMS):
            if f"{self._name}/{number}" in names:
                yield self._tracked(number)


class _Latest:
    """The latest result of every key of one stream."""

    def __init__(self) -> None:
        self.results: dict[str, Event] = {}

    def copy(self) -> _Latest:
        other = _Latest()
        other.results = dict(self.results)
        return other

    def apply(self, event: Event) -> None:
        if event.kind == "put":
            if not isinstance(event.body["key"], str):
                raise TypeError("the key is not a string")
            self.results[event.body["key"]] = event
        elif event.kind == "expire":
            gone = set(event.deletes)
            self.results = {key: result for key, result in self.results.items() if result.sequence not in gone}


def _number(key: str) -> int:
    return blake3(key.encode()).digest()[0] % STREAMS
