"""The two storage backends of a manager: memory and a repository. Both build the same records from the same events."""

from __future__ import annotations

import contextlib
import copy
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from ..errors import DamagedVersion, IntegrityError, InvalidArgument, SnapshotNotFound, UnserialisableLeaf
from ..repository.catalog import Event
from ..repository.commits import MakeDraft
from ..repository.contents import ContentReader
from ..repository.location import Buffer
from ..repository.provenance import note_input
from ..repository.renaming import rename
from ..repository.repository import Repository
from ..repository.threads import Lock, pool
from ..repository.tracking import TrackedStream, absence, leaving_out_damage
from ..values import WHOLE, Encoded, Loading, MemoryBody, decode, decode_leaves, describe, encode, iter_leaves
from .records import Record, SnapshotRecords

KIND = "snapshots"

R = TypeVar("R")


def nothing() -> None:
    """A draft that commits nothing."""


class Backend(Protocol):
    """The storage backend that a manager needs."""

    @property
    def state(self) -> SnapshotRecords:
        """The records as of the last refresh. Use them only inside drafts, because other threads may change them."""

    @property
    def view(self) -> SnapshotRecords:
        """The records as of the last refresh. These never change."""

    def refresh(self) -> SnapshotRecords:
        """Read the events of other writers, and return records that never change."""

    def look(self, find: Callable[[SnapshotRecords], R]) -> R:
        """Read the events of other writers, and return the result of `find`, without copying the records.

        `find` must be quick and use no storage. It must return only values that later events do not change, such as
        single records.
        """

    def prepare(
        self, value: Any, deepcopy: bool | None, *, detach: bool = False, agreed: Mapping[str, Any] | None = None
    ) -> Any:
        """Return a value in the form that `put` takes.

        Args:
            value: The value.
            deepcopy: In memory, whether to store a copy. None: as the manager is set up.
            detach: Whether to make a copy anyway, for a value that may change before `put`.
            agreed: The arguments that must be equal in all processes, where several save together.
        """

    def refuse(self, error: Exception) -> None:
        """Tell other processes that save together with this one that its arguments are invalid."""

    def value_of(self, prepared: Any) -> Any:
        """Return the value that was prepared."""

    def put(self, draft: MakeDraft, prepared: Any, token: bytes | None, otherwise: MakeDraft = nothing) -> Event | None:
        """Commit a snapshot, and return its event. If the draft is None, commit the change `otherwise`, return None."""

    def note(self, draft: MakeDraft, *, dry_run: bool = False) -> Event | None:
        """Commit a change that carries no value."""

    def clone(self, draft: MakeDraft, source: Record, otherwise: MakeDraft = nothing) -> Event | None:
        """Commit a snapshot with the value of another one, as `put` does."""

    def loader(self, record: Record, deepcopy: bool | None, loading: Loading) -> Callable[[], Any]:
        """Return a function that loads the value of a snapshot later, even if it was deleted by then."""

    def leaves(self, record: Record) -> Iterable[Any]:
        """Load the leaves of a snapshot in order, without their containers, whose classes need not be importable."""

    def encoded(self, record: Record) -> tuple[bytes, bytes]:
        """Return the manifest and the body of a snapshot, for a file."""

    def rename(self, new: str, dry_run: bool) -> None:
        """Move all snapshots to another name."""


class Memory:
    """Snapshots in memory, as live references or deep copies. They are lost when the process ends."""

    def __init__(self, name: str, deepcopy_on_save: bool, deepcopy_on_retrieve: bool) -> None:
        self.state = SnapshotRecords(name)
        self._on_save = deepcopy_on_save
        self._on_retrieve = deepcopy_on_retrieve
        self._values: dict[int, _Kept] = {}
        self._tokens: dict[bytes, Event] = {}
        self._next = 1
        self._shared = False
        self._lock = Lock()

    @property
    def view(self) -> SnapshotRecords:
        with self._lock:
            self._shared = True
            return self.state

    def refresh(self) -> SnapshotRecords:
        return self.view  # there are no other writers

    def look(self, find: Callable[[SnapshotRecords], R]) -> R:
        with self._lock:
            return find(self.state)

    def prepare(
        self, value: Any, deepcopy: bool | None, *, detach: bool = False, agreed: Mapping[str, Any] | None = None
    ) -> Any:
        return _copied(value) if detach or (self._on_save if deepcopy is None else deepcopy) else value

    def refuse(self, error: Exception) -> None:
        pass

    def value_of(self, prepared: Any) -> Any:
        return prepared

    def put(self, draft: MakeDraft, prepared: Any, token: bytes | None, otherwise: MakeDraft = nothing) -> Event | None:
        with self._lock:
            if token is not None and token in self._tokens:
                return self._tokens[token]
            event = self._commit(draft, token or b"")
            if event is not None:
                self._values[event.sequence] = _Kept(prepared)
            else:
                self._commit(otherwise, b"")
            return event

    def note(self, draft: MakeDraft, *, dry_run: bool = False) -> Event | None:
        with self._lock:
            if dry_run:
                draft()
                return None
            return self._commit(draft, b"")

    def clone(self, draft: MakeDraft, source: Record, otherwise: MakeDraft = nothing) -> Event | None:
        return self.put(draft, _copied(self._kept(source).value), None, otherwise)

    def loader(self, record: Record, deepcopy: bool | None, loading: Loading) -> Callable[[], Any]:
        return functools.partial(self._load, self._kept(record), deepcopy, loading)

    def leaves(self, record: Record) -> Iterable[Any]:
        kept = self._kept(record)
        if isinstance(kept.value, Held):
            return kept.value.leaves()
        return (leaf for _, leaf in iter_leaves(self._load(kept, None, WHOLE)))

    def encoded(self, record: Record) -> tuple[bytes, bytes]:
        held = _held(self._kept(record).value)
        return held.manifest, bytes(held.body)

    def rename(self, new: str, dry_run: bool) -> None:
        if not dry_run:
            with self._lock:
                self.state = self.state.copy()
                self.state.name = new

    def _load(self, kept: _Kept, deepcopy: bool | None, loading: Loading) -> Any:
        if not loading.is_whole:
            return _held(kept.value).value(loading)
        with self._lock:
            if isinstance(kept.value, Held):
                kept.value = kept.value.value()
        return _copied(kept.value) if (self._on_retrieve if deepcopy is None else deepcopy) else kept.value

    def _kept(self, record: Record) -> _Kept:
        try:
            return self._values[record.sequence]
        except KeyError:
            raise SnapshotNotFound(f"Snapshot {record.id!r} was deleted before it was loaded.") from None

    def _commit(self, draft: MakeDraft, token: bytes) -> Event | None:
        plan = draft()
        if plan is None:
            return None
        event = Event(self._next, b"", 0, token, time.time_ns(), plan.kind, plan.body, None, tuple(plan.deletes))
        self._next += 1
        if self._shared:
            self.state, self._shared = self.state.copy(), False
        self.state.apply(event)
        if token:
            self._tokens[token] = event
        for sequence in plan.deletes:
            self._values.pop(sequence, None)
        return event


@dataclass(slots=True)
class _Kept:
    """The value of a snapshot in memory; a `Held` until it is first used."""

    value: Any


class Durable:
    """Snapshots in a repository. Once a save has returned, it survives a power loss."""

    def __init__(self, repository: Repository, name: str) -> None:
        self.repository = repository
        self._tracked = _followed(repository, name)

    @property
    def name(self) -> str:
        """The name of the snapshots."""
        return self._tracked.name

    @property
    def events(self) -> Sequence[Event]:
        """All events of this name, as of the last refresh."""
        return self._tracked.events

    @property
    def state(self) -> SnapshotRecords:
        return self._tracked.state

    @property
    def view(self) -> SnapshotRecords:
        return self._tracked.view

    def refresh(self) -> SnapshotRecords:
        return self._tracked.refresh()

    def look(self, find: Callable[[SnapshotRecords], R]) -> R:
        with self._tracked.current() as records:
            return find(records)

    def prepare(
        self, value: Any, deepcopy: bool | None, *, detach: bool = False, agreed: Mapping[str, Any] | None = None
    ) -> Any:
        _refuse_references(deepcopy)
        encoded = encode(value, allow_pickle=self.repository.allow_pickle)
        return Encoded(encoded.manifest, detached(encoded.buffers)) if detach else encoded

    def refuse(self, error: Exception) -> None:
        pass

    def value_of(self, prepared: Encoded) -> Any:
        body = b"".join(prepared.buffers)
        return Held(prepared.manifest, body, self.repository.allow_pickle).value()

    def put(
        self, draft: MakeDraft, prepared: Encoded, token: bytes | None, otherwise: MakeDraft = nothing
    ) -> Event | None:
        event = self._tracked.put(draft, prepared.manifest, prepared.buffers, token=token)
        if event is None:
            self._tracked.change(otherwise)
        return event

    def note(self, draft: MakeDraft, *, dry_run: bool = False) -> Event | None:
        return self._tracked.change(draft, dry_run=dry_run)

    def clone(self, draft: MakeDraft, source: Record, otherwise: MakeDraft = nothing) -> Event | None:
        with self._tracked.reading(source.event, self.label(source)) as content:
            event = self._tracked.adopt(draft, content)
        if event is None:
            self._tracked.change(otherwise)
        return event

    def loader(self, record: Record, deepcopy: bool | None, loading: Loading) -> Callable[[], Any]:
        _refuse_references(deepcopy)
        return functools.partial(self._load, record, loading)

    def leaves(self, record: Record) -> Iterable[Any]:
        with self._reading(record) as (manifest, body):
            return decode_leaves(manifest, body, allow_pickle=self.repository.allow_pickle).values()

    def encoded(self, record: Record) -> tuple[bytes, bytes]:
        with self._reading(record) as (manifest, body):
            return manifest, body.read(0, body.body_size)

    def rename(self, new: str, dry_run: bool) -> None:
        old = self._tracked.name
        rename(self.repository, KIND, old, new, label=repr(new), dry_run=dry_run)
        if not dry_run:
            self._tracked = _followed(self.repository, new)

    def content(self, record: Record) -> tuple[bytes, ContentReader]:
        """Return the manifest and the body of a snapshot, for a comparison that reads only differing parts."""
        with self._tracked.reading(record.event, self.label(record)) as body:
            return body.manifest, body

    def _load(self, record: Record, loading: Loading) -> Any:
        with self._reading(record) as (manifest, body):
            note_input(self.repository, KIND, self._tracked.name, record.id)
            return decode(manifest, body, **loading._asdict(), allow_pickle=self.repository.allow_pickle)

    @contextlib.contextmanager
    def _reading(self, record: Record) -> Iterator[tuple[bytes, ContentReader]]:
        """Open a snapshot. An error about damage names the snapshot and the leaf."""
        manifest, body = self.content(record)
        try:
            yield manifest, body
        except IntegrityError as error:
            raise DamagedVersion(self.label(record), _damaged_leaf(manifest, body), str(error)) from error

    def label(self, record: Record) -> str:
        """Return the name of a snapshot in error messages."""
        return f"snapshot {record.id!r} of {self._tracked.name!r}"


def _followed(repository: Repository, name: str) -> TrackedStream[SnapshotRecords]:
    records = SnapshotRecords(name, functools.partial(absence, repository, KIND, name))
    return TrackedStream(repository, KIND, name, records)


def opened_names(repository: Repository) -> dict[str, Durable]:
    """Return the names that have snapshots, sorted, each with its storage. Damaged ones are left out with a warning."""
    opened = {}
    for name in names_with_snapshots(repository):
        with leaving_out_damage(f"The name {name}"):
            opened[name] = Durable(repository, name)
    return opened


def names_with_snapshots(repository: Repository) -> list[str]:
    """Return the names that have snapshots, sorted. A name that is damaged is one of them: whoever reads it is told."""

    def look(name: str) -> bool:
        try:
            return bool(Durable(repository, name).view.by_id)
        except IntegrityError:
            return True

    names = repository.names(KIND)
    found = pool("network").map(look, names) if len(names) > 1 else map(look, names)
    return [name for name, has_some in zip(names, found, strict=True) if has_some]


@dataclass(frozen=True, slots=True)
class Held:
    """A value read from a file. It is decoded at the first use, because that may need `like` or `allow_pickle`."""

    manifest: bytes
    body: Buffer
    allow_pickle: bool

    def value(self, loading: Loading = WHOLE) -> Any:
        """Return the value, or a part of it."""
        return decode(self.manifest, MemoryBody(self.body), **loading._asdict(), allow_pickle=self.allow_pickle)

    def leaves(self) -> Iterable[Any]:
        """Return its leaves in order."""
        return decode_leaves(self.manifest, MemoryBody(self.body), allow_pickle=self.allow_pickle).values()


def _held(value: Any) -> Held:
    if isinstance(value, Held):
        return value
    encoded = encode(value)
    # This process has just pickled it, so unpickling is safe.
    return Held(encoded.manifest, b"".join(encoded.buffers), allow_pickle=True)


def _copied(value: Any) -> Any:
    try:
        return copy.deepcopy(value)
    except Exception as error:  # runs code of any class
        with contextlib.suppress(UnserialisableLeaf):
            # Some objects cannot be copied, but stored, such as results of computations of PyTorch.
            encoded = encode(value)
            return Held(encoded.manifest, b"".join(encoded.buffers), True).value()
        raise UnserialisableLeaf(
            "", f"It cannot be copied ({error}). Pass deepcopy=False to keep a live reference."
        ) from error


def detached(parts: Sequence[Buffer]) -> list[Buffer]:
    """Return copies of the same types, which determine how the bytes are split into chunks.

    They share one block of memory: the system provides a large one several times as fast as many small ones, and
    the caller of `save_async` waits for this.
    """
    block = np.empty(sum(len(part) for part in parts if isinstance(part, memoryview)), np.uint8).data
    copies: list[Buffer] = []
    for part in parts:
        if isinstance(part, memoryview):
            own, block = block[: len(part)], block[len(part) :]
            own[:] = part
            copies.append(own)
        else:
            copies.append(bytes(part))
    return copies


def _refuse_references(deepcopy: bool | None) -> None:
    if deepcopy is False:
        raise InvalidArgument("A snapshot in a repository is always a copy. Leave out deepcopy=False.")


def _damaged_leaf(manifest: bytes, body: ContentReader) -> str:
    """Return the first leaf that cannot be read."""
    for leaf in describe(manifest):
        try:
            body.read(leaf.offset, leaf.nbytes)
        except IntegrityError:
            return f"leaf {leaf.path or '(the value itself)'}"
    return ""
