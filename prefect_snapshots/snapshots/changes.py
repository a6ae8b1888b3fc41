"""Find what a save changed, and undo it. For managers with a repository only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

from ..repository.catalog import Event
from ..repository.chunking import SHARED_SIZE
from ..repository.commits import Draft
from ..repository.contents import ContentReader
from ..values.manifest import StoredLeaf, parse
from ..values.scalars import encode_node
from ..values.structure import leaf_paths
from .backends import Durable
from .manager import SnapshotManager
from .records import Record, SnapshotRecords


class Leaves:
    """The leaves of one snapshot, in a form that compares two snapshots without reading large leaves.

    A leaf that has its own chunk is identical if the chunk is the same. Small leaves share a chunk with their
    neighbours, so they are read if the chunk differs.
    """

    def __init__(self, manifest: bytes, body: ContentReader) -> None:
        self._body = body
        self._forms: dict[str, bytes] = {}
        self._places: dict[str, tuple[int, int]] = {}
        for path, leaf in leaf_paths(parse(manifest).root):
            stored = leaf if isinstance(leaf, StoredLeaf) else StoredLeaf(leaf)
            self._forms[path] = encode_node(stored.node)
            if stored.sizes:
                self._places[path] = stored.offset, sum(stored.sizes)

    @classmethod
    def of(cls, manager: SnapshotManager[Any], record: Record) -> Self:
        """Return the leaves of a snapshot. Reads only its manifest."""
        return cls(*_durable(manager).content(record))

    def __len__(self) -> int:
        return len(self._forms)

    def changed_since(self, older: Leaves) -> int:
        """Return how many leaves differ, were added or were removed."""
        same = {path for path, form in self._forms.items() if older._forms.get(path) == form}
        moved = [path for path in self._places if path in same and self._identity(path) != older._identity(path)]
        small = [path for path in moved if self._places[path][1] < SHARED_SIZE]
        equal = sum(new == old for new, old in zip(self._read(small), older._read(small), strict=True))
        return len(self._forms.keys() | older._forms.keys()) - len(same) + len(moved) - equal

    def _identity(self, path: str) -> object:
        return self._body.identity(*self._places[path])

    def _read(self, paths: Sequence[str]) -> list[bytearray]:
        places = [self._places[path] for path in paths]
        found = [bytearray(size) for _, size in places]
        self._body.read_into([(offset, memoryview(data)) for (offset, _), data in zip(places, found, strict=True)])
        return found


def saved_with(manager: SnapshotManager[Any], token: bytes) -> Event | None:
    """Return the event of the save with this token, or None. The snapshot itself may have been deleted since."""
    manager.current_records()
    return next((event for event in reversed(_durable(manager).events) if event.token == token), None)


def evicted_by(manager: SnapshotManager[Any], save: Event) -> list[str]:
    """Return the ids of the snapshots that a save evicted or replaced."""
    events = _durable(manager).events
    return [events[sequence - 1].body["id"] for sequence in save.deletes]


def undo(manager: SnapshotManager[Any], save: Event) -> list[str]:
    """Delete the snapshot of a save, and restore those that it evicted or replaced. Undo the latest save first.

    Returns:
        The ids of the restored snapshots.

    Raises:
        SnapshotNotFound: The snapshot of the save was already deleted.
        IntegrityError: A prune has removed the data of an evicted snapshot. Those restored before it stay restored;
            if there are none, nothing has changed.
    """
    backend = _durable(manager)
    brought = manager.current_records().get(save.body["id"])
    before = SnapshotRecords(manager.name)
    for event in backend.events[: save.sequence - 1] if save.deletes else ():
        before.apply(event)
    evicted = [old for old in before.by_id.values() if old.sequence in save.deletes]
    gone = [brought.sequence]
    for old in evicted:
        # The first event also deletes the snapshot of the save, so that no reader sees both or neither.
        backend.clone(_returning(old, gone), old)
        gone = []
    if gone:
        backend.note(lambda: Draft("remove", {"id": brought.id}, gone))
    return [old.id for old in evicted]


def _returning(old: Record, gone: Sequence[int]) -> Callable[[], Draft]:
    body = {
        "id": old.id,
        "time": old.time,
        "order": old.order,
        "metadata": old.metadata,
        "tags": list(old.tags),
        "pinned": old.pinned,
        "description": old.description,
    }
    return lambda: Draft("put", body, gone)


def _durable(manager: SnapshotManager[Any]) -> Durable:
    backend = manager._backend
    assert isinstance(backend, Durable)
    return backend
