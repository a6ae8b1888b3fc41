"""What one save did: the leaves it changed, the snapshots it evicted, and how to undo it. For durable managers only."""

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
from .records import Record, Records


class Leaves:
    """The leaves of one snapshot, so described that comparing two snapshots reads no large leaf.

    A leaf whose bytes are a chunk of their own is the same where it names the same chunks. Small ones share a chunk
    with their neighbours: those are read where that chunk is another one.
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
        """The leaves of a snapshot, by its manifest alone."""
        return cls(*_durable(manager).content(record))

    def __len__(self) -> int:
        return len(self._forms)

    def changed_since(self, older: Leaves) -> int:
        """How many leaves differ, were added or were removed."""
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


def saved_with(manager: SnapshotManager[Any], token: str) -> Event | None:
    """The event of a save that was made with this token, if it landed; the snapshot itself may be gone since."""
    wanted = bytes.fromhex(token)
    manager.current_records()
    return next((event for event in reversed(_durable(manager).events) if event.token == wanted), None)


def evicted_by(manager: SnapshotManager[Any], save: Event) -> list[str]:
    """The ids of the snapshots that had to go when this one came, or that it replaced."""
    events = _durable(manager).events
    return [events[sequence - 1].body["id"] for sequence in save.deletes]


def undo(manager: SnapshotManager[Any], save: Event) -> list[str]:
    """Remove what a save brought, and bring back what it evicted or replaced. Undo the last of several first.

    Returns:
        The ids of those that are back.

    Raises:
        SnapshotNotFound: what it brought is gone already.
        IntegrityError: a prune freed the data of one to bring back. If it is the first, nothing has changed.
    """
    backend = _durable(manager)
    with manager._lock:
        brought = manager.current_records().get(save.body["id"])
        before = Records()
        for event in backend.events[: save.sequence - 1] if save.deletes else ():
            before.apply(event)
        evicted = [old for old in before.by_id.values() if old.sequence in save.deletes]
        gone = [brought.sequence]
        for old in evicted:
            # The first event also removes: at no moment are both there, or neither.
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
    }
    return lambda: Draft("put", body, gone)


def _durable(manager: SnapshotManager[Any]) -> Durable:
    backend = manager._backend
    assert isinstance(backend, Durable)
    return backend
