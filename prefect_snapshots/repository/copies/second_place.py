"""Find in a copy of a repository, or in its original, what `repair` cannot find in the damaged repository itself."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import IntegrityError, ObjectMissing
from ..catalog import Event, Stream
from ..contents import ContentReader
from ..keyed import ELSEWHERE, KeyedValues, Value, ValuesOfName
from ..location import Buffer
from ..opened import Opened
from .comparing import content_of
from .histories import Histories
from .log_copies import Copied, Originals, reader_of
from .value_copies import EventsOfValues


class SecondPlace:
    """A copy of a damaged repository, or its original.

    Args:
        other: The other repository.
    """

    def __init__(self, other: Opened) -> None:
        self._other = other
        self._streams: dict[tuple[str, str], Stream | None] = {}

    def content(self, kind: str, name: str, event: Event) -> ContentReader | None:
        """Return the content of a version, or None if it is not there."""
        stream = self._stream(kind, name)
        found = stream.find(event.token) if stream is not None else None
        if stream is None or found is None or found.content is None:
            return None
        try:
            return content_of(self._other, stream, found)
        except (IntegrityError, ObjectMissing):
            return None

    def between(self, kind: str, name: str, before: bytes | None, after: bytes) -> list[tuple[Event, Buffer]]:
        """Return the events between two others, which are given by their tokens, with the data inside them."""
        stream = self._stream(kind, name)
        if stream is None:
            return []
        tokens = [event.token for event in stream.events]
        if after not in tokens or (before is not None and before not in tokens):
            return []
        found = stream.events[0 if before is None else tokens.index(before) + 1 : tokens.index(after)]
        small = [event for event in found if event.content is None or event.content.depth == 0]
        try:
            return [(event, stream.inline(event.sequence)) for event in small]
        except (IntegrityError, ObjectMissing):
            return []

    def records(self, damaged: Stream, segment: str, records: int) -> Iterator[list[Buffer]] | None:
        """Return the records of a log segment in a copy, or None if it has fewer than the given number."""
        stream = self._stream(damaged.kind, damaged.name)
        if stream is None:
            return None
        histories = Histories(damaged)
        copied = Copied(histories)
        for event in stream.events:
            histories.apply(event)
            copied.apply(event)
        held = Originals(damaged.events).holders(segment, copied)
        for one in held if len(held) == 1 else ():
            extent = copied.extents.get(one)
            reader = reader_of(self._other, stream.id, one, extent)
            if extent is not None and extent.records >= records:
                return (frames for _, frames in reader.follow())
        return None

    def value(self, damaged: Opened, values: ValuesOfName, key: str) -> Value | None:
        """Return the value of a key that has its own object, or None if it is not there."""
        try:
            found = KeyedValues(self._other, values.kind, values.name).get(key)
            if found is None or found.form != ELSEWHERE:
                return found
            # The events of a copy have other numbers.
            token = EventsOfValues(self._other, values).token(found)
            number = EventsOfValues(damaged, values).numbers.get(token or b"")
        except IntegrityError:
            return None
        return None if number is None else Value(key, ELSEWHERE, number=number)

    def _stream(self, kind: str, name: str) -> Stream | None:
        key = kind, name
        if key not in self._streams:
            stream = Stream(lambda: self._other.catalog, kind, name, lambda _: None)
            try:
                stream.refresh()
                self._streams[key] = stream
            except IntegrityError:
                self._streams[key] = None  # damaged there, too: what needs it is reported as lost
        return self._streams[key]
