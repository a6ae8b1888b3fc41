"""Results of runs: bytes by key, written again and again, deduplicated like everything else.

A *result* has a key and no stream of its own: the results of one log share `STREAMS` streams, chosen by a hash of the
key, so that the catalog does not grow with every task run. Writing a key deletes its older result in the same event.

This room knows the repository and no Prefect: what the bytes mean is not its business.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from blake3 import blake3

from .errors import ObjectMissing
from .repository.catalog import Event
from .repository.commits import Draft
from .repository.repository import Repository
from .repository.times import from_nanoseconds, parse_time, to_nanoseconds
from .repository.tracking import TrackedStream

KIND = "results"
STREAMS = 64


@dataclass(frozen=True, slots=True)
class Result:
    """What is known of a result without reading it."""

    key: str
    written_at: datetime
    """In UTC, by the clock of whoever wrote it."""
    size: int
    """Bytes; equal ones are stored once."""


class ResultLog:
    """The results of one name. Any number of processes may write at once: the last one to commit a key wins.

    Arguments:
        repository: where the results live.
        name: keeps logs apart that share a repository: the same key in two of them is two results.

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
        self._lock = threading.Lock()

    def write(self, key: str, data: bytes) -> None:
        """Store a result, durably. An older one with the same key is deleted; `prune` frees its space.

        Arguments:
            key: any text.
            data: cut into chunks where the content says, so that a change costs about its own size.
        """
        tracked = self._tracked(_number(key))

        def draft() -> Draft:
            old = tracked.state.results.get(key)
            return Draft("put", {"key": key}, [old.sequence] if old else [])

        tracked.put(draft, b"", [data])

    def read(self, key: str) -> bytes:
        """The latest result of a key, every byte verified.

        Raises:
            ObjectMissing: there is none.
            IntegrityError: it is damaged.
        """
        tracked = self._tracked(_number(key))
        event = tracked.refresh().results.get(key)
        if event is None:
            raise ObjectMissing(f"there is no result {key!r} in {self._repository.url}")
        content = self._repository.read(tracked.stream, event)
        return content.read(0, content.body_size)

    def exists(self, key: str) -> bool:
        """Whether there is a result of this key. Reads no data."""
        return key in self._tracked(_number(key)).refresh().results

    def keys(self) -> list[str]:
        """The keys of all results, sorted."""
        return sorted(key for tracked in self._every_stream() for key in tracked.refresh().results)

    def older_than(self, moment: datetime | str) -> list[Result]:
        """The results that were written before a point in time, sorted by key.

        Arguments:
            moment: a datetime with a zone, or an ISO 8601 text (UTC when it names no zone).
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
        """Delete every result that was written before a point in time; `prune` frees their space.

        Arguments:
            older_than: a datetime with a zone, or an ISO 8601 text (UTC when it names no zone).

        Returns:
            The keys of what was deleted, sorted.
        """
        end = to_nanoseconds(parse_time(older_than))
        return self._delete(lambda _, event: event.time < end)

    def delete(self, keys: Iterable[str]) -> list[str]:
        """Delete the results of these keys. Returns those that there were, sorted."""
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
    """The latest result of every key of a bucket."""

    def __init__(self) -> None:
        self.results: dict[str, Event] = {}

    def copy(self) -> _Latest:
        other = _Latest()
        other.results = dict(self.results)
        return other

    def apply(self, event: Event) -> None:
        if event.kind == "put":
            self.results[event.body["key"]] = event
        elif event.kind == "expire":
            gone = set(event.deletes)
            self.results = {key: result for key, result in self.results.items() if result.sequence not in gone}


def _number(key: str) -> int:
    return blake3(key.encode()).digest()[0] % STREAMS
