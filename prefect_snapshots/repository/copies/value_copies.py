"""Copy the values that have an object each: small results of tasks.

Nothing but its time says whether an object has changed. So a value is copied again if it was written after its copy, or
shortly before it, because the clocks of the two storages can differ.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from ...errors import DamagedObject
from ..catalog import Stream
from ..commits import Draft, commit
from ..keyed import DELETED, ELSEWHERE, KeyedValues, Listed, Value, ValuesOfName, open_value
from ..maintenance.checking import Problem
from ..maintenance.liveness import all_of_stream, live_contents
from ..objects import read_each
from ..opened import Opened

_CLOCKS = 3600.0
"""The most seconds by which the clocks of two storages are expected to differ."""

_AT_ONCE = 16
"""How many values are read or written at the same time, if the storage is remote."""


def missing(values: ValuesOfName, target: Opened | None, since: int | None) -> list[Listed]:
    """Return the values that the copy has not, or may have in an older state.

    Args:
        values: The values of one name in the source.
        target: The repository with the copy. None: it does not exist yet.
        since: Only those that were written from this time on, in nanoseconds since 1970. None: all.
    """
    copied: dict[str, Listed] = {}
    if target is not None:
        there = KeyedValues(target, values.kind, values.name)
        copied = there.read_keys(there.live().values())
    return [
        one
        for one in values.live.values()
        if (since is None or one.info.modified * 1e9 >= since)
        and (one.key not in copied or one.info.modified > copied[one.key].info.modified - _CLOCKS)
    ]


class EventsOfValues:
    """The events whose content is a value that has only a reference in its object.

    Args:
        opened: The repository.
        values: The values. Their events are in streams of the same kind, whose names begin with their name.
    """

    def __init__(self, opened: Opened, values: ValuesOfName) -> None:
        self._tokens: dict[tuple[str, int], bytes] = {}
        self.streams: dict[bytes, Stream] = {}
        self.numbers: dict[bytes, int] = {}
        for kind, name in opened.catalog.streams().values():
            if kind == values.kind and name.startswith(f"{values.name}/"):
                stream = all_of_stream(opened, kind, name)
                for event, _ in live_contents(stream):
                    self._tokens[str(event.body.get("key")), event.sequence] = event.token
                    self.streams[event.token] = stream
                    self.numbers[event.token] = event.sequence

    def token(self, value: Value) -> bytes | None:
        """Return what identifies the event of a value in both repositories, or None if it was deleted."""
        return self._tokens.get((value.key, value.number))


class ValueCopier:
    """Copies the values of one name, after the events that some of them refer to.

    Args:
        source: The repository that is copied.
        target: The repository that contains the copy.
        values: The values in the source.
    """

    def __init__(self, source: Opened, target: Opened, values: ValuesOfName) -> None:
        self._source = source
        self._target = target
        self._values = values
        self._copy = KeyedValues(target, values.kind, values.name)
        self._originals = EventsOfValues(source, values)
        self._events = EventsOfValues(target, values)

    def run(self, wanted: list[Listed]) -> Iterator[tuple[Listed, Problem | None]]:
        """Copy some values, and yield each that was copied, or that could not be copied, with the reason."""
        is_local = self._source.store.location.is_local and self._target.store.location.is_local
        with ThreadPoolExecutor(1 if is_local else _AT_ONCE, "prefect-snapshots-copy") as threads:
            for start in range(0, len(wanted), _AT_ONCE):
                some = wanted[start : start + _AT_ONCE]
                found: list[tuple[Listed, Value]] = []
                data = read_each(self._source.store.location, [one.info.path for one in some])
                for one, read in zip(some, data, strict=True):
                    try:
                        value = self._value(one, read)
                        if value is not None:
                            found.append((one, value))
                    except DamagedObject as error:
                        label = self._values.label(one)
                        yield one, Problem(label, f"it cannot be read, and was left out ({error})", (label,))
                done = threads.map(self._put, [value for _, value in found])
                for (one, _), _ in zip(found, done, strict=True):
                    yield one, None

    def _value(self, one: Listed, data: bytes | DamagedObject | None) -> Value | None:
        """Return what the copy gets, or None if the value was deleted since it was listed: deletes are not copied."""
        if isinstance(data, DamagedObject):
            raise data
        if data is None:
            return None
        value = open_value(self._source.sealer, one.info.path, data, one.key)
        if value.form != ELSEWHERE:
            return None if value.form == DELETED else value
        number = self._events.numbers.get(self._originals.token(value) or b"")
        return None if number is None else Value(value.key, ELSEWHERE, number=number)

    def _put(self, value: Value) -> None:
        """Write a value, and delete the event of an older one."""
        old: Value | None = None
        with contextlib.suppress(DamagedObject):  # then it is replaced
            old = self._copy.get(value.key)
        self._copy.put(value)
        token = None if old is None or old.form != ELSEWHERE or old == value else self._events.token(old)
        if token is not None:
            numbers = [self._events.numbers[token]]
            stream = self._events.streams[token]
            commit(self._target.catalog, self._target.store, stream, lambda: Draft("expire", {}, numbers))
