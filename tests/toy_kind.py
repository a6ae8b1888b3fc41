"""The smallest kind that can be built on a repository, for its tests: items of bytes under one name."""

from __future__ import annotations

from collections.abc import Sequence

from prefect_snapshots.errors import SnapshotExists, SnapshotNotFound
from prefect_snapshots.repository.catalog import Event
from prefect_snapshots.repository.commits import Draft
from prefect_snapshots.repository.contents import Kept, Similar, StagedPart, Stored, Writer, inline
from prefect_snapshots.repository.location import Buffer
from prefect_snapshots.repository.repository import Repository

KIND = "shelf"  # the name in stored repositories, such as those of `golden.py`


class ToyKind:
    """Items by id. Small ones travel inside their event, unless they are put with `chunked`.

    Attributes:
        events: every event so far, in order.
        items: the events of the items that are there, by id.
    """

    def __init__(self, repository: Repository, name: str = "default") -> None:
        self.repository = repository
        self.events: list[Event] = []
        self.items: dict[str, Event] = {}
        self.stream = repository.stream(KIND, name, self._apply)

    def put(
        self,
        item: str,
        parts: Sequence[Buffer],
        *,
        chunked: bool = False,
        overwrite: bool = False,
        token: bytes | None = None,
        like: Sequence[Buffer] = (),
    ) -> Event:
        """Commit an item whose body is all parts end to end, and whose manifest is its id.

        With `like` each part is one chunk, which is said to be like the chunk with these bytes.
        """

        def draft() -> Draft:
            old = self.items.get(item)
            if old is not None and not overwrite:
                raise SnapshotExists(f"{item} is there already")
            return Draft("put", {"id": item}, [old.sequence] if old else [])

        def store(writer: Writer) -> Stored:
            if not like:
                return writer.store(manifest, parts)
            names = [self.repository.parts().sealer.chunk_id(other) for other in like]
            return writer.store_cut(manifest, map(Similar, parts, [(name,) for name in names]))

        manifest = item.encode()
        travelling = None if chunked else inline(manifest, parts)
        if travelling is not None:
            event = self.repository.commit(self.stream, draft, content=travelling, token=token)
        else:
            event = self.repository.commit(self.stream, draft, store=store, token=token)
        assert event is not None
        return event

    def copy(self, source: ToyKind, old: str, new: str) -> Event | None:
        """Commit an item with the content of another one; None when that is not there."""
        origin = source.items.get(old)
        if origin is None:
            return None
        content = source.repository.read(source.stream, origin)
        return self.repository.adopt(self.stream, lambda: Draft("put", {"id": new}), content)

    def join(self, item: str, parts: Sequence[StagedPart], token: bytes | None = None) -> Event | None:
        """Commit an item whose body is what was staged, by anybody."""

        def store(writer: Writer) -> Stored:
            contents = map(self.repository.staged, parts)
            return writer.store_cut(
                item.encode(),
                [
                    Kept(writer.keep(content)) if content.inline is None else content.read(0, content.size)
                    for content in contents
                ],
            )

        return self.repository.commit(self.stream, lambda: Draft("put", {"id": item}), store=store, token=token)

    def remove(self, item: str) -> Event | None:
        """Delete an item; None when it is not there."""

        def draft() -> Draft | None:
            found = self.items.get(item)
            return Draft("remove", {"id": item}, [found.sequence]) if found else None

        return self.repository.commit(self.stream, draft)

    def get(self, item: str) -> bytes:
        """The body of an item."""
        if item not in self.items:
            raise SnapshotNotFound(f"{item} is not there")
        content = self.repository.read(self.stream, self.items[item])
        return content.read(0, content.body_size)

    def __contains__(self, item: str) -> bool:
        return item in self.items

    def _apply(self, event: Event) -> None:
        self.events.append(event)
        for sequence in event.deletes:
            self.items.pop(self.events[sequence - 1].body["id"], None)
        if event.kind == "put":
            self.items[event.body["id"]] = event
