"""Find what is live: contents that no event has deleted, and the chunks that they need."""

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
    """Return a stream that has not been read yet, without listeners. The root stream has an empty kind and name."""
    return Stream(lambda: opened.catalog, kind, name, lambda _: None)


def all_of_stream(opened: Opened, kind: str, name: str) -> Stream:
    """Return a stream, read to its head. Events that cannot be decoded are skipped over."""
    stream = StreamOfAll(lambda: opened.catalog, kind, name, lambda _: None)
    stream.refresh()
    return stream


def every_stream(opened: Opened) -> Iterator[Stream]:
    """Yield every registered stream, read to its head."""
    for kind, name in opened.catalog.streams().values():
        yield all_of_stream(opened, kind, name)


def live_contents(stream: Stream) -> Iterator[tuple[Event, Content]]:
    """Yield the contents of a stream that were not deleted, with the events that committed them."""
    deleted = {sequence for event in stream.events for sequence in event.deletes}
    for event in stream.events:
        if event.content is not None and event.sequence not in deleted:
            yield event, event.content


def version_label(stream: Stream, event: Event) -> str:
    """Return the name of a version for messages."""
    name = event.body.get("id")
    return f"{stream.label}:{name}" if isinstance(name, str) else f"{stream.label}#{event.sequence}"


def live_rows(opened: Opened, without: Collection[tuple[str, str, int]] = ()) -> NDArray[np.bool_]:
    """Return which rows of the index table hold a chunk that a live version needs; every copy counts.

    Args:
        without: Versions to treat as deleted, each as kind and name of the stream and number of the event.

    Raises:
        MissingChunk: A live chunk is in no pack.
    """
    index = opened.index
    heads, table, _ = index.table()
    live = np.zeros(len(heads), bool)

    def mark(chunks: Any) -> Any:
        """Mark the rows of chunks, and return the chunks without a row."""
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
                continue  # it can never be read: it must not stop prune from deleting other garbage
            except IntegrityError:
                if _is_unwanted(stream, event):
                    continue
                raise
            if len(absent):
                late.append((stream, event, absent))

    def all_found() -> bool:
        now = index.table()
        return all(len(np.unique(find_rows(now[0], now[1], absent)[0])) == len(absent) for *_, absent in late)

    index.look_until(all_found)  # they were committed since the index was read
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
    """Return whether chunks of a version may be missing.

    They may if it cannot be loaded anyway, or was deleted since the stream was read: then a concurrent prune may have
    deleted its chunks.
    """
    stream.refresh()
    return event.kind == UNREADABLE or all(other is not event for other, _ in live_contents(stream))


def list_packs(opened: Opened) -> dict[bytes, ObjectInfo]:
    """Return the packs in storage, by id."""
    infos = ((pack_of(info.path), info) for info in opened.store.location.list(PREFIX))
    return {pack: info for pack, info in infos if pack is not None}


def paths(location: Location, prefix: str) -> set[str]:
    """Return the paths of all objects below a folder."""
    return {info.path for info in location.list(prefix)}


def unregistered(slots: Iterable[str], root: Root) -> list[str]:
    """Return the folders of streams whose registration was lost, given the paths of all slots."""
    folders = {path.split("/")[1] for path in slots}
    return [f"{CATALOG}/{folder}" for folder in sorted(folders - root.streams.keys() - {ROOT})]
