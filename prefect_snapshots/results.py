"""Results of task runs: bytes by key, which can be overwritten.

A small result is one object, which one request writes and one request reads: see the module `repository.keyed`. A large
one is split into chunks, so that equal data is stored only once, and committed as an event, which the object of its
key names. All large results of a log share `STREAMS` streams, chosen by a hash of the key, because with a stream
per key the catalog would grow with every task run.

This module uses the repository, but not Prefect. It does not interpret the bytes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from blake3 import blake3

from .errors import DamagedObject, InvalidArgument, ObjectMissing, RepositoryNotFound
from .repository.catalog import Event
from .repository.commits import Draft
from .repository.contents import ContentReader
from .repository.keyed import DELETED, ELSEWHERE, VALUE, KeyedValues, Listed, Value, bytes_of_key, live
from .repository.names import check_name
from .repository.repository import Repository
from .repository.reserve import with_reserve
from .repository.threads import Lock
from .repository.times import parse_time
from .repository.tracking import TrackedStream

KIND = "results"
STREAMS = 64
"""The number of streams that share the large results of a log. As many writers can append at the same time."""

SMALL = 64 * 1024
"""Up to this many bytes are one object: shorter data is not split, so that nothing of it would be found again."""

By = Literal["written", "read"]

_FEW = 100
"""How many results are deleted one by one. More are deleted together, for which all of them are listed."""


@dataclass(frozen=True, slots=True)
class Result:
    """Information about a result, available without reading it.

    Attributes:
        key: The key of the result.
        written_at: When it was written, in UTC by the clock of the storage.
        size: Its size in bytes. If a result of up to 64 KB is compressed, this is its compressed size.
    """

    key: str
    written_at: datetime
    size: int


class ResultLog:
    """Store and read results by key. Any number of processes can write; the last one to write a key wins.

    Args:
        repository: Where the results are stored.
        name: The name of the log. Logs of different names in one repository do not share keys.
        durable: Whether a result of up to 64 KB must survive a loss of power as soon as it is written, in a directory.
            Without, writing is faster, and a crash of the machine can lose or damage the last results. Default: True.
        keep_read: Whether a result that is read counts as new for `expire` with `by="read"`. Default: False.

    Example:
        >>> from prefect_snapshots import Repository
        >>> results = ResultLog(Repository("memory://example-results"))
        >>> results.write("a/key", b"some bytes")
        >>> results.read("a/key")
        b'some bytes'
        >>> results.keys()
        ['a/key']
    """

    def __init__(
        self, repository: Repository, name: str = "default", *, durable: bool = True, keep_read: bool = False
    ) -> None:
        self._repository = repository
        self._name = name
        self._durable = durable
        self._keep_read = keep_read
        self._values: KeyedValues | None = None
        self._streams: dict[int, TrackedStream[_Contents]] = {}
        self._lock = Lock()

    def write(self, key: str, data: bytes) -> None:
        """Store a result durably. It replaces an older result of this key.

        Args:
            key: Any string of valid Unicode.
            data: The bytes. Of more than 64 KB, only data that is not stored yet takes space.

        Raises:
            InvalidName: The key contains half of a surrogate pair.
        """
        values = self._writing()
        if len(data) <= SMALL:
            values.put(Value(key, VALUE, data, time.time_ns()), durable=self._durable)
            return
        tracked = self._tracked(_number(key))
        old = _intact(values, key)
        while True:
            generation = values.writable()
            body = {"key": key, "generation": generation}
            event = tracked.put(lambda body=body: Draft("put", body), b"", [data])  # type: ignore[misc]
            assert event is not None
            # An event of a former generation can be deleted before the object of its key refers to it.
            if values.put(Value(key, ELSEWHERE, number=event.sequence)) == generation:
                break
        self._drop_replaced(old)

    def read(self, key: str) -> bytes:
        """Return the latest result of a key. Every byte is verified.

        Raises:
            ObjectMissing: The key has no result.
            IntegrityError: The result is damaged.
        """
        found = self._find(key)
        if found is None:
            raise ObjectMissing(
                f"There is no result {key!r} in {self._repository.url}. It was never stored, or was deleted: run the "
                "task again."
            )
        return found if isinstance(found, bytes) else found.read(0, found.body_size)

    def exists(self, key: str) -> bool:
        """Return whether a key has a result."""
        return self._find(key) is not None

    def keys(self) -> list[str]:
        """Return the keys of all results, sorted."""
        return sorted(self._live())

    def older_than(self, moment: datetime | str, *, by: By = "written") -> list[Result]:
        """Return the results that were written before a point in time, sorted by key.

        Args:
            moment: A datetime with a time zone, or an ISO 8601 string (UTC if it names no zone).
            by: "written", or "read": only those that `expire` would delete now. Default: "written".
        """
        values = self._reading()
        if values is None:
            return []
        doomed = _doomed(values, _seconds(moment), by)
        found = [
            (key, one)
            for key, one in self._live().items()
            if doomed(one) and (by == "written" or one.generation < values.generation)
        ]
        for number in {_number(key) for key, one in found if one.elsewhere}:
            self._tracked(number).refresh()
        return [self._result(key, one) for key, one in sorted(found, key=lambda pair: pair[0])]

    def expire(self, older_than: datetime | str, *, by: By = "written") -> list[str]:
        """Delete every result that was written before a point in time. The next prune frees the space of large ones.

        On remote storage, this can take some seconds longer, because other writers must first know of it.

        Args:
            older_than: A datetime with a time zone, or an ISO 8601 string (UTC if it names no zone).
            by: "written", or "read": also keep results that were read since then. All processes that read must pass
                `keep_read=True`. A result is then kept at least that long after its last read, and at most twice as
                long if you call this regularly. Default: "written".

        Returns:
            The keys of the deleted results, sorted.
        """
        values = self._reading()
        if values is None:
            return []
        end = _seconds(older_than)
        doomed = _doomed(values, end, by)
        values.look()
        return self._sweep(values, doomed, may_begin=values.begun / 1e9 + values.lease < end)

    def evict(
        self,
        *,
        max_size: int | None = None,
        max_count: int | None = None,
        dry_run: bool = False,
        before: Callable[[Sequence[Result]], object] | None = None,
    ) -> list[Result]:
        """Delete the oldest results until the rest is within limits, as caches do.

        The oldest are those that were written longest ago, or, if all processes that read pass `keep_read=True`, those
        that were read longest ago, as far as that is known: to the last expiry or eviction. What was written in the
        last second can stay, and on remote storage a call can take some seconds longer, as for `expire`.

        Args:
            max_size: The largest total size in bytes, as `Result.size` counts. Default: no limit.
            max_count: The largest number of results. Default: no limit.
            dry_run: Only return what would be deleted. Default: False.
            before: Called with what is about to be deleted. What is written meanwhile under these keys stays.

        Returns:
            The deleted results, sorted by key.

        Raises:
            InvalidArgument: No limit was given, or one is negative.

        Example:
            >>> from prefect_snapshots import Repository
            >>> results = ResultLog(Repository("memory://example-evict"))
            >>> for key in ["first", "second", "third"]:
            ...     results.write(key, b"some bytes")
            >>> [result.key for result in results.evict(max_size=25)]
            ['first']
            >>> results.keys()
            ['second', 'third']
        """
        limits = [limit for limit in (max_size, max_count) if limit is not None]
        if not limits or min(limits) < 0:
            raise InvalidArgument("Pass max_size or max_count, neither below 0.")
        values = self._reading()
        if values is None:
            return []
        values.look()
        objects = values.list()
        found = self._beyond(values, objects, max_size, max_count)
        chosen = sorted(found.values(), key=lambda result: result.key)
        if dry_run or not chosen:
            return chosen
        if before is not None:
            before(chosen)
        kept = {one.info.path for one in live(objects, values.generation - 1).values() if one.name not in found}
        latest, listed = values.generation, {one.info.path: one.info for one in objects}

        def doomed(one: Listed) -> bool:
            # Whoever wrote since the listing made another object.
            if listed.get(one.info.path) != one.info:
                return False
            # What was replaced or deleted goes too, because only an empty former generation ends. But in the latest
            # one, a note hides what the former one has.
            return one.name in found or (one.generation < latest and one.info.path not in kept)

        gone = set(self._sweep(values, doomed, may_begin=True))
        return [result for result in chosen if result.key in gone]

    def _beyond(
        self, values: KeyedValues, objects: Collection[Listed], max_size: int | None, max_count: int | None
    ) -> dict[str, Result]:
        """Return the results that are beyond limits, by the names of their objects."""
        there = values.read_keys(live(objects, values.generation - 1).values())
        for number in {_number(key) for key, one in there.items() if one.elsewhere}:
            self._tracked(number).refresh()
        # What was written after the listing is never as old as this, on storage that omits fractions, too.
        now = max((one.info.modified for one in objects), default=0)
        found: dict[str, Result] = {}
        size = count = 0
        for key, one in sorted(
            there.items(), key=lambda pair: (pair[1].generation, pair[1].info.modified), reverse=True
        ):
            result = self._result(key, one)
            size, count = size + result.size, count + 1
            beyond = (max_size is not None and size > max_size) or (max_count is not None and count > max_count)
            if beyond and one.is_older(now):
                found[one.name] = result
        return found

    def delete(self, keys: Iterable[str]) -> list[str]:
        """Delete the results of some keys. Return the sorted keys that had a result.

        If there are more than 100, this can take some seconds longer on remote storage, as for `expire`.
        """
        doomed = set(keys)
        values = self._reading()
        if values is None:
            return []
        values.look()
        gone: list[str] = []
        if len(doomed) > _FEW:
            names = {values.name_of(key) for key in doomed}
            gone = self._sweep(values, lambda one: one.name in names, may_begin=True)
        found = [key for key in doomed.difference(gone) if self._can_delete(key)]
        for key in found:
            self._delete_one(key)
        return sorted({*gone, *found})

    def _can_delete(self, key: str) -> bool:
        try:
            return self.exists(key)
        except DamagedObject:
            return True

    def _delete_one(self, key: str) -> None:
        """Replace a result by a note that it is deleted."""
        values = self._writing()
        old = _intact(values, key)
        note = Value(key, DELETED)
        with_reserve(self._repository.location, lambda: values.put(note, durable=self._durable, urgent=True))
        self._drop_replaced(old)

    def _sweep(self, values: KeyedValues, doomed: Callable[[Listed], bool], *, may_begin: bool) -> list[str]:
        """Delete results of the former generation, and of the latest one if that can become the former one.

        Returns:
            The keys that have no result any more.
        """
        objects = values.list()
        if not any(map(doomed, objects)):
            return []
        before = live(objects, values.generation - 1)
        self._writing()
        keys = values.read_keys(one for one in before.values() if doomed(one))
        self._sweep_former(values, doomed)
        rest = values.list()
        latest = values.generation
        if may_begin and all(one.generation == latest for one in rest) and any(map(doomed, rest)):
            values.begin(latest)
            self._sweep_former(values, doomed)
        after = values.live()
        self._drop_unnamed(values, after)
        return sorted(key for key, one in keys.items() if one.name not in after)

    def _sweep_former(self, values: KeyedValues, doomed: Callable[[Listed], bool]) -> None:
        """Delete results where nobody writes any more. What is older than the former generation is read by nobody."""
        latest = values.settle()
        objects = values.list()
        values.delete(
            one for one in objects if one.generation < latest - 1 or (one.generation < latest and doomed(one))
        )

    def _drop_unnamed(self, values: KeyedValues, named: dict[str, Listed]) -> None:
        """Delete the events of former generations that no object refers to."""
        generation = values.generation
        names = set(self._repository.names(KIND))
        for number in range(STREAMS):
            if f"{self._name}/{number}" not in names:
                continue
            tracked = self._tracked(number)
            events = tracked.refresh().events
            counts = Counter(event.body["key"] for event in events.values())
            gone = set()
            for sequence, event in events.items():
                key = event.body["key"]
                one = named.get(values.name_of(key))
                # An event of the latest generation may have been committed a moment ago. A listing may miss an object.
                if event.body.get("generation") == generation or (one is None and values.exists(key)):
                    continue
                if one is None or self._is_unnamed(values, key, sequence, one, counts[key]):
                    gone.add(sequence)
            # If another generation has begun meanwhile, objects there can refer to these events. Its expiry sees them.
            if gone and values.look() != generation:
                return
            self._drop(tracked, gone)

    def _is_unnamed(self, values: KeyedValues, key: str, sequence: int, one: Listed, count: int) -> bool:
        """Return whether the object of a key, which was listed, refers to something else than an event."""
        if one.key is not None and (not one.elsewhere or count == 1):
            return not one.elsewhere
        value = _intact(values, key)
        return value is not None and (value.form, value.number) != (ELSEWHERE, sequence)

    def _drop_replaced(self, old: Value | None) -> None:
        """Delete the event that the object of a key referred to before it was replaced."""
        if old is not None and old.form == ELSEWHERE:
            self._drop(self._tracked(_number(old.key)), {old.number})

    def _drop(self, tracked: TrackedStream[_Contents], sequences: Collection[int]) -> None:
        def draft() -> Draft | None:
            there = sorted(tracked.state.events.keys() & sequences)
            return Draft("expire", {}, there) if there else None

        if sequences:
            tracked.change(draft)

    # --- reading ------------------------------------------------------------------------------------------------------

    def _find(self, key: str) -> bytes | ContentReader | None:
        values = self._reading()
        last: Value | None = None
        while values is not None:
            value = values.get(key, keep=self._keep_read)
            if value is None or value.form != ELSEWHERE:
                return None if value is None else bytes(value.data)
            tracked = self._tracked(_number(key))
            with tracked.current() as contents:
                event = contents.events.get(value.number)
            if event is not None:
                return self._repository.read(tracked.stream, event)
            # The result was replaced or deleted after its object was read. If the object is still the same, its event
            # has expired since.
            if last == value:
                return None
            last = value
        return None

    def _live(self) -> dict[str, Listed]:
        values = self._reading()
        return {} if values is None else values.read_keys(values.live().values())

    def _result(self, key: str, one: Listed) -> Result:
        return Result(key, datetime.fromtimestamp(one.info.modified, UTC), self._size(key, one))

    def _size(self, key: str, one: Listed) -> int:
        events = self._tracked(_number(key)).view.events.values() if one.elsewhere else ()
        sizes = [event.content.size for event in events if event.content and event.body["key"] == key]
        return sizes[-1] if sizes else one.size

    # --- opening ------------------------------------------------------------------------------------------------------

    def _reading(self) -> KeyedValues | None:
        """Return the values, or None if there is no repository."""
        if self._values is None:
            try:
                opened = self._repository.parts()
            except RepositoryNotFound:
                if self._repository.read_only:
                    raise
                return None
            self._values = KeyedValues(opened, KIND, check_name(self._name))
        return self._values

    def _writing(self) -> KeyedValues:
        self._repository.parts(writing=True)
        values = self._reading()
        assert values is not None
        return values

    def _tracked(self, number: int) -> TrackedStream[_Contents]:
        with self._lock:
            if number not in self._streams:
                self._streams[number] = TrackedStream(self._repository, KIND, f"{self._name}/{number}", _Contents())
            return self._streams[number]


class _Contents:
    """The large results of one stream, by the numbers of their events."""

    def __init__(self) -> None:
        self.events: dict[int, Event] = {}

    def copy(self) -> _Contents:
        other = _Contents()
        other.events = dict(self.events)
        return other

    def apply(self, event: Event) -> None:
        if event.kind == "put":
            if not isinstance(event.body["key"], str):
                raise TypeError("the key is not a string")
            self.events[event.sequence] = event
        for sequence in event.deletes:
            self.events.pop(sequence, None)


def _number(key: str) -> int:
    return blake3(bytes_of_key(key)).digest()[0] % STREAMS


def _intact(values: KeyedValues, key: str) -> Value | None:
    """Return the value of a key, or None if it is damaged: damage must not stop what replaces or deletes it."""
    try:
        return values.get(key)
    except DamagedObject:
        return None


def _doomed(values: KeyedValues, end: float, by: By) -> Callable[[Listed], bool]:
    """Return the function that says whether a result expires at a time, given in seconds since 1970."""
    if by not in ("written", "read"):
        raise InvalidArgument(f'by must be "written" or "read", not {by!r}.')

    def doomed(one: Listed) -> bool:
        # A result that was read when all knew of the latest generation is in that generation.
        kept = by == "read" and one.generation < values.generation and values.begun / 1e9 + values.lease >= end
        return not kept and one.is_older(end)

    return doomed


def _seconds(moment: datetime | str) -> float:
    return parse_time(moment).timestamp()
