"""What there is, and what of it lives: contents that no event has deleted, and the chunks that these need."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import IntegrityError, MalformedContent, MissingChunk
from ..catalog import CATALOG, ROOT, UNREADABLE, Event, Root, Stream, StreamOfAll
from ..contents import Content, ContentReader
from ..index import find_rows, join_ids
from ..location import Location, ObjectInfo
from ..opened import Opened
from ..packs import PREFIX, pack_of


def stream_of(opened: Opened, kind: str, name: str) -> Stream:
    """Return a stream that nobody follows, not read yet. The root stream has neither kind nor name."""
    return Stream(lambda: opened.catalog, kind, name, lambda _: None)


def all_of_stream(opened: Opened, kind: str, name: str) -> Stream:
    """Return a stream, read to its head. An event that nobody can decode does not stop you."""
    stream = StreamOfAll(lambda: opened.catalog, kind, name, lambda _: None)
    stream.refresh()
    return stream


def every_stream(opened: Opened) -> Iterator[Stream]:
    """Return every registered stream as `all_of_stream` does."""
    for kind, name in opened.catalog.streams().values():
        yield all_of_stream(opened, kind, name)


def live_contents(stream: Stream) -> Iterator[tuple[Event, Content]]:
    """Return the contents of a stream that are still wanted, and the events that committed them."""
    deleted = {sequence for event in stream.events for sequence in event.deletes}
    for event in stream.events:
        if event.content is not None and event.sequence not in deleted:
            yield event, event.content


def version_label(stream: Stream, event: Event) -> str:
    """Return what messages call a version."""
    name = event.body.get("id")
    return f"{stream.label}:{name}" if isinstance(name, str) else f"{stream.label}#{event.sequence}"


def live_rows(opened: Opened, without: Collection[tuple[str, str, int]] = ()) -> NDArray[np.bool_]:
    """Return which rows of the index table hold a chunk that a live version needs; every copy counts.

    Args:
        without: Versions that are taken for deleted: kind and name of the stream, and the number of the event.

    Raises:
        MissingChunk: A live chunk is in no pack.
    """
    index = opened.index
    heads, table, _ = index.table()
    live = np.zeros(len(heads), bool)

    def mark(chunks: Any) -> Any:
        """Mark the rows of chunks; returns the chunks that have none."""
        which, rows = find_rows(heads, table, chunks)
        live[rows] = True
        return np.delete(chunks, which)

    late: list[tuple[Stream, Event, Any]] = []
    for stream in every_stream(opened):
        for event, content in live_contents(stream):
            if content.depth == 0 or (stream.kind, stream.name, event.sequence) in without:
                continue
            try:
                absent = mark(ContentReader(opened.reader, content).all_rows()["chunk"])
            except MalformedContent:
                continue  # nobody can ever read it, whatever is kept: it must not keep the garbage of all others
            except IntegrityError:
                if _is_unwanted(stream, event):
                    continue
                raise
            if len(absent):
                late.append((stream, event, absent))
    if late:
        while index.look_again():  # they were committed since the index was read
            pass
    if index.table()[0] is not heads:
        # It grew, now or when a table of chunks was read.
        known = join_ids(heads[live], table["tail"][live])
        heads, table, _ = index.table()
        live = np.zeros(len(heads), bool)
        mark(known)
    for stream, event, chunks in late:
        absent = mark(chunks)
        if len(absent) and not _is_unwanted(stream, event):
            raise MissingChunk(absent[0].tobytes().hex(), version_label(stream, event))
    return live


def _is_unwanted(stream: Stream, event: Event) -> bool:
    """Return whether a version may be incomplete.

    Nobody can load it, or it was deleted since the stream was read: a rival prune may have its chunks.
    """
    stream.refresh()
    return event.kind == UNREADABLE or all(other is not event for other, _ in live_contents(stream))


def list_packs(opened: Opened) -> dict[bytes, ObjectInfo]:
    """Return the packs that are there."""
    infos = ((pack_of(info.path), info) for info in opened.store.location.list(PREFIX))
    return {pack: info for pack, info in infos if pack is not None}


def paths(location: Location, prefix: str) -> set[str]:
    """Return the paths of all objects below a folder."""
    return {info.path for info in location.list(prefix)}


def unregistered(slots: Iterable[str], root: Root) -> list[str]:
    """Return the folders of streams whose registration was lost, given the paths of all slots."""
    folders = {path.split("/")[1] for path in slots}
    return [f"{CATALOG}/{folder}" for folder in sorted(folders - root.streams.keys() - {ROOT})]
