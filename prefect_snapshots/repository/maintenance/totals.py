"""Count the objects, bytes and versions of a repository."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime

from .. import keyed, logs
from ..opened import Opened
from ..times import to_nanoseconds
from .liveness import every_stream, live_contents


@dataclass(slots=True)
class Statistics:
    """Objects and bytes of a repository by kind, its versions, and the requests made."""

    objects: dict[str, int] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    streams: int = 0
    versions: int = 0
    logical_bytes: int = 0
    """Bytes that all live versions would take if each were stored separately and uncompressed."""
    requests: dict[str, int] = field(default_factory=dict)
    """Requests that this process made through this `Repository` object, by kind."""

    @property
    def stored_bytes(self) -> int:
        """Return the bytes of all objects together."""
        return sum(self.bytes.values())

    @property
    def version_bytes(self) -> int:
        """Return the bytes that store versions, without results of checkpoints, events and indexes."""
        return self.bytes.get("packs", 0) + self.bytes.get(keyed.PREFIX, 0)

    @property
    def saved_bytes(self) -> int:
        """Return the bytes of versions saved by deduplication and compression."""
        return max(self.logical_bytes - self.version_bytes, 0)


def statistics(opened: Opened) -> Statistics:
    """See `Repository.stats`."""
    objects: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    infos = opened.store.location.list("")
    for info in infos:
        kind = info.path.split("/", 1)[0] if "/" in info.path else "repository"
        objects[kind] += 1
        sizes[kind] += info.size
    found = Statistics(dict(objects), dict(sizes))
    for stream in every_stream(opened):
        found.streams += 1
        for _, content in live_contents(stream):
            found.versions += 1
            found.logical_bytes += content.size
    for values in keyed.values_in(opened, infos):
        for one in values.live.values():
            # Values that are elsewhere are the content of an event.
            found.versions += not one.elsewhere
            found.logical_bytes += 0 if one.elsewhere else one.size
    found.requests = dict(opened.store.location.requests)
    return found


def written_since(opened: Opened, moment: datetime) -> dict[str, int]:
    """Return the number of bytes written to a repository since a point in time, by kind.

    Versions that were deleted since then are included. Copies made by `prune`, events and indexes are not. The results
    of checkpointed iterables are `logs`.

    Args:
        moment: The point in time, a datetime with a time zone.
    """
    since = to_nanoseconds(moment)
    written: Counter[str] = Counter()
    for stream in every_stream(opened):
        written[stream.kind] += sum(
            event.content.written for event in stream.events if event.content is not None and event.time >= since
        )
    # No event says how large a log has become: it grows after it is registered.
    logged = opened.store.location.list(logs.PREFIX)
    written[logs.PREFIX] = sum(info.size for info in logged if info.modified >= moment.timestamp())
    for values in keyed.values_in(opened, opened.store.location.list(keyed.PREFIX)):
        written[values.kind] += sum(one.info.size for one in values.objects if one.info.modified >= moment.timestamp())
    return {kind: size for kind, size in sorted(written.items()) if size}
