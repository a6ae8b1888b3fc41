"""Where a manager keeps its snapshots: in memory, or in a repository. Both keep the same records by the same events."""

from __future__ import annotations

import contextlib
import copy
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import DamagedVersion, IntegrityError, InvalidArgument, SnapshotNotFound, UnserialisableLeaf
from ..repository.catalog import Event
from ..repository.commits import MakeDraft
from ..repository.contents import ContentReader
from ..repository.location import Buffer
from ..repository.repository import Repository
from ..repository.tracking import TrackedStream
from ..values import Encoded, MemoryBody, decode, decode_leaves, describe, encode, iter_leaves
from .records import Record, Records

KIND = "snapshots"


class Backend(Protocol):
    """What a manager asks of the place where it keeps snapshots."""

    @property
    def records(self) -> Records:
        """The records as of the last refresh. Use them inside drafts only: elsewhere other threads change them."""

    def refresh(self) -> Records:
        """Learn what other writers did, and return the records. These never change."""

    def prepare(self, value: Any, deepcopy: bool | None, *, detach: bool = False) -> Any:
        """A value in the form that `put` takes. `detach`: it may change, or its memory vanish, before that."""

    def value_of(self, prepared: Any) -> Any:
        """The value that was prepared."""

    def put(self, draft: MakeDraft, prepared: Any, token: bytes | None) -> Event | None:
        """Commit a snapshot; None when the draft is None."""

    def note(self, draft: MakeDraft, *, dry_run: bool = False) -> Event | None:
        """Commit a change that carries no value."""

    def clone(self, draft: MakeDraft, source: Record) -> Event | None:
        """Commit a snapshot with the value of another one."""

    def load(self, record: Record, deepcopy: bool | None, leaves: str | Sequence[str] | None, like: Any) -> Any:
        """The value of a snapshot."""

    def leaves(self, record: Record) -> Iterable[Any]:
        """The leaves of a snapshot in order. Its containers are not put together, so that their classes need not exist
        here."""

    def encoded(self, record: Record) -> tuple[bytes, bytes]:
        """Manifest and body of a snapshot, for a file."""


class Memory:
    """Snapshots in this process, as live references or deep copies. Nothing outlives it."""

    def __init__(self, deepcopy_on_save: bool, deepcopy_on_retrieve: bool) -> None:
        self.records = Records()
        self._on_save = deepcopy_on_save
        self._on_retrieve = deepcopy_on_retrieve
        self._values: dict[int, Any] = {}
        self._tokens: dict[bytes, Event] = {}
        self._next = 1
        self._shared = False
        self._lock = threading.RLock()

    def refresh(self) -> Records:
        """There are no other writers."""
        with self._lock:
            self._shared = True
            return self.records

    def prepare(self, value: Any, deepcopy: bool | None, *, detach: bool = False) -> Any:
        return _copied(value) if detach or (self._on_save if deepcopy is None else deepcopy) else value

    def value_of(self, prepared: Any) -> Any:
        return prepared

    def put(self, draft: MakeDraft, prepared: Any, token: bytes | None) -> Event | None:
        with self._lock:
            if token is not None and token in self._tokens:
                return self._tokens[token]
            event = self._commit(draft, token or b"")
            if event is not None:
                self._values[event.sequence] = prepared
            return event

    def note(self, draft: MakeDraft, *, dry_run: bool = False) -> Event | None:
        with self._lock:
            if dry_run:
                draft()
                return None
            return self._commit(draft, b"")

    def clone(self, draft: MakeDraft, source: Record) -> Event | None:
        return self.put(draft, _copied(self._value(source)), None)

    def load(self, record: Record, deepcopy: bool | None, leaves: str | Sequence[str] | None, like: Any) -> Any:
        value = self._value(record)
        if leaves is not None or like is not None:
            return _held(value).value(leaves, like)
        if isinstance(value, Held):
            with self._lock:
                value = self._values[record.sequence] = value.value()
        return _copied(value) if (self._on_retrieve if deepcopy is None else deepcopy) else value

    def leaves(self, record: Record) -> Iterable[Any]:
        value = self._value(record)
        if isinstance(value, Held):
            return value.leaves()
        return (leaf for _, leaf in iter_leaves(self.load(record, None, None, None)))

    def encoded(self, record: Record) -> tuple[bytes, bytes]:
        held = _held(self._value(record))
        return held.manifest, bytes(held.body)

    def _value(self, record: Record) -> Any:
        try:
            return self._values[record.sequence]
        except KeyError:
            raise SnapshotNotFound(f"snapshot {record.id!r} was removed meanwhile") from None

    def _commit(self, draft: MakeDraft, token: bytes) -> Event | None:
        plan = draft()
        if plan is None:
            return None
        event = Event(self._next, b"", 0, token, time.time_ns(), plan.kind, plan.body, None, tuple(plan.deletes))
        self._next += 1
        if self._shared:
            self.records, self._shared = self.records.copy(), False
        self.records.apply(event)
        if token:
            self._tokens[token] = event
        for sequence in plan.deletes:
            self._values.pop(sequence, None)
        return event


class Durable:
    """Snapshots in a repository. A save has survived a power loss when it returns."""

    def __init__(self, repository: Repository, name: str) -> None:
        self.repository = repository
        self._tracked = TrackedStream(repository, KIND, name, Records())

    @property
    def events(self) -> Sequence[Event]:
        """Everything that ever happened under this name, as of the last look."""
        return self._tracked.events

    @property
    def records(self) -> Records:
        return self._tracked.state

    def refresh(self) -> Records:
        return self._tracked.refresh()

    def prepare(self, value: Any, deepcopy: bool | None, *, detach: bool = False) -> Encoded:
        _refuse_references(deepcopy)
        encoded = encode(value, allow_pickle=self.repository.allow_pickle)
        return Encoded(encoded.manifest, [_detached(part) for part in encoded.buffers]) if detach else encoded

    def value_of(self, prepared: Encoded) -> Any:
        return Held(prepared.manifest, b"".join(prepared.buffers)).value()

    def put(self, draft: MakeDraft, prepared: Encoded, token: bytes | None) -> Event | None:
        return self._tracked.put(draft, prepared.manifest, prepared.buffers, token=token)

    def note(self, draft: MakeDraft, *, dry_run: bool = False) -> Event | None:
        return self._tracked.change(draft, dry_run=dry_run)

    def clone(self, draft: MakeDraft, source: Record) -> Event | None:
        with self._tracked.reading(source.event, self._label(source)) as content:
            return self._tracked.adopt(draft, content)

    def load(self, record: Record, deepcopy: bool | None, leaves: str | Sequence[str] | None, like: Any) -> Any:
        _refuse_references(deepcopy)
        with self._reading(record) as (manifest, body):
            return decode(manifest, body, leaves=leaves, like=like, allow_pickle=self.repository.allow_pickle)

    def leaves(self, record: Record) -> Iterable[Any]:
        with self._reading(record) as (manifest, body):
            return decode_leaves(manifest, body, allow_pickle=self.repository.allow_pickle).values()

    def encoded(self, record: Record) -> tuple[bytes, bytes]:
        with self._reading(record) as (manifest, body):
            return manifest, body.read(0, body.body_size)

    def content(self, record: Record) -> tuple[bytes, ContentReader]:
        """Manifest and body of a snapshot, for a comparison that reads only what differs."""
        return self._open(record)

    @contextlib.contextmanager
    def _reading(self, record: Record) -> Iterator[tuple[bytes, ContentReader]]:
        """Manifest and body of a snapshot. What is damaged in them is said of the snapshot and the leaf."""
        manifest, body = self._open(record)
        try:
            yield manifest, body
        except IntegrityError as error:
            raise DamagedVersion(self._label(record), _damaged_leaf(manifest, body), str(error)) from error

    def _open(self, record: Record) -> tuple[bytes, ContentReader]:
        with self._tracked.reading(record.event, self._label(record)) as body:
            return body.manifest, body

    def _label(self, record: Record) -> str:
        return f"snapshot {record.id!r} of {self._tracked.name!r}"


@dataclass(frozen=True, slots=True)
class Held:
    """A value that was read from a file, and is put together when it is first asked for: that may take `like`."""

    manifest: bytes
    body: Buffer
    allow_pickle: bool = True

    def value(self, leaves: str | Sequence[str] | None = None, like: Any = None) -> Any:
        """The value, or a part of it."""
        return decode(self.manifest, MemoryBody(self.body), leaves=leaves, like=like, allow_pickle=self.allow_pickle)

    def leaves(self) -> Iterable[Any]:
        """Its leaves in order."""
        return decode_leaves(self.manifest, MemoryBody(self.body), allow_pickle=self.allow_pickle).values()


def _held(value: Any) -> Held:
    if isinstance(value, Held):
        return value
    encoded = encode(value)
    return Held(encoded.manifest, b"".join(encoded.buffers))


def _copied(value: Any) -> Any:
    try:
        return copy.deepcopy(value)
    except (TypeError, copy.Error) as error:
        raise UnserialisableLeaf(
            "", f"it cannot be copied ({error}): keep a live reference with deepcopy=False"
        ) from error


def _detached(part: Buffer) -> memoryview | bytes:
    """A copy of the same type, because the type says how the bytes are cut into chunks."""
    return memoryview(bytes(part)) if isinstance(part, memoryview) else bytes(part)


def _refuse_references(deepcopy: bool | None) -> None:
    if deepcopy is False:
        raise InvalidArgument("a snapshot in a repository is always a copy: leave out deepcopy=False")


def _damaged_leaf(manifest: bytes, body: ContentReader) -> str:
    """The first leaf that cannot be read."""
    for leaf in describe(manifest):
        try:
            body.read(leaf.offset, leaf.nbytes)
        except IntegrityError:
            return f"leaf {leaf.path or '(the value itself)'}"
    return ""
