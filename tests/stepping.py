"""Processes whose every single storage request waits until a test lets it go on: any interleaving, and repeatable.

A `World` holds one repository in memory and some *processes*, each with a `Repository` of its own and one greenlet: a
call that stops at each request, and goes on there. A request can be performed, lost on the way, performed without its
reply coming back, or performed *late*: long after the process gave it up. Listings come in pages, as from an object
store.

The world keeps the *history*: every event that ever landed in a slot, in order. What is committed and not deleted is
read back with fresh eyes after every request that could have hurt it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from itertools import count
from types import SimpleNamespace, TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import pytest
from greenlet import GreenletExit, getcurrent, greenlet
from toy_kind import KIND, ToyKind

from prefect_snapshots.errors import IntegrityError, SnapshotsError, StorageUnavailable
from prefect_snapshots.repository import Repository, catalog, chunking, commits, contents, index
from prefect_snapshots.repository.catalog import CATALOG, Event, Stream
from prefect_snapshots.repository.location import MemoryLocation, ObjectInfo
from prefect_snapshots.repository.maintenance import pruning
from prefect_snapshots.repository.threads import Use

T = TypeVar("T")

DO = "do"
LOSE_REQUEST = "lose the request"
LOSE_REPLY = "lose the reply"
DELAY = "give up, and perform it late"
FAULTS = (LOSE_REQUEST, LOSE_REPLY, DELAY)
OVERLOOK = "leave something out of a listing"
_DIE = "die"

PAGE = 3
"""Objects in one page of a listing."""

_worlds = count()
_current = SimpleNamespace(process=None)


class Dead(BaseException):
    """The process was killed."""


class Request(NamedTuple):
    """What a process is about to ask of the storage."""

    verb: str
    path: str


class SteppedLocation(MemoryLocation):
    """A location in memory whose every request passes the gate of the process that makes it."""

    @property
    def process(self) -> Process:
        found: Process = _current.process
        return found

    def read(self, path: str) -> bytes:
        return self.process.pass_gate("GET", path, lambda: MemoryLocation.read(self, path))

    def replace(self, path: str, data: bytes) -> None:
        self.process.pass_gate("PUT", path, lambda: MemoryLocation.replace(self, path, data))

    def size(self, path: str) -> int | None:
        return self.process.pass_gate("HEAD", path, lambda: MemoryLocation.size(self, path))

    def delete(self, paths: Any) -> None:
        for path in paths:
            self.process.pass_gate("DELETE", path, partial(MemoryLocation.delete, self, [path]))

    def _create(self, path: str, data: bytes) -> bool:
        return self.process.pass_gate("CREATE", path, lambda: MemoryLocation._create(self, path, data))

    def _objects(self, folder: str) -> Iterator[ObjectInfo]:
        page = self._page(folder, "")
        while page:
            yield from page
            page = self._page(folder, page[-1].path)

    def _page(self, folder: str, last: str) -> list[ObjectInfo]:
        process = self.process

        def page() -> list[ObjectInfo]:
            found = sorted(MemoryLocation._objects(self, folder), key=lambda info: info.path)
            rest = [info for info in found if info.path > last]
            return rest[process.overlooks :][:PAGE]

        return self.process.pass_gate("LIST", folder, page)


class Process:
    """One process, which runs one operation at a time, request by request."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._greenlet: greenlet | None = None
        self._order = DO
        self._error: BaseException | None = None
        self._settle: Callable[[Any, BaseException | None], None] = _ignore
        self._result: Any = None
        self.pending: Request | None = None
        self.faults = 0
        self.overlooked = 0
        self.forget()

    def forget(self) -> None:
        """Start again with an empty memory, as after a restart."""
        self.repository = Repository(self._world.url)
        self.repository.location = SteppedLocation("memory", self._world.place, {})
        self.toys: dict[str, ToyKind] = {}
        self.tokens: list[tuple[str, str, tuple[bytes, ...], bytes, tuple[bytes, ...]]] = []

    @property
    def overlooks(self) -> int:
        """How many objects the listing that is being made leaves out."""
        return int(self._order == OVERLOOK)

    @property
    def busy(self) -> bool:
        return self._greenlet is not None

    def toy(self, name: str) -> ToyKind:
        if name not in self.toys:
            self.toys[name] = ToyKind(self.repository, name)
        return self.toys[name]

    def start(
        self, operation: Callable[[], T], settle: Callable[[T | None, BaseException | None], None] | None = None
    ) -> None:
        """Begin an operation, up to its first request. `settle` gets its result or its error in the end."""
        assert not self.busy
        self.faults = self.overlooked = 0
        self._error = self._result = None
        self._settle = settle or _ignore
        self._greenlet = greenlet(self._run)
        self._go_on(operation)

    def step(self, order: str = DO) -> None:
        """Let the request that waits go; returns at the next one, or at the end of the operation."""
        request = self.pending
        assert request is not None
        self.faults += order in FAULTS
        self.overlooked += order == OVERLOOK
        self._order = order
        self._go_on()
        if order != _DIE:
            self._world.verify_after(request)

    def run(self, until: Callable[[Request], bool] = lambda _: False) -> bool:
        """Go on to a request of a kind, which is not performed yet. False when the operation ended before."""
        while self.busy:
            assert self.pending is not None
            if until(self.pending):
                return True
            self.step()
        return False

    def kill(self) -> None:
        """SIGKILL, before the request that waits; then start again with an empty memory."""
        if self.busy:
            self._settle = _ignore
            self.step(_DIE)
        assert not self.busy
        self.forget()

    def pass_gate(self, verb: str, path: str, perform: Callable[[], T]) -> T:
        """Called by the greenlet of this process, for every request."""
        if self._order == _DIE:
            raise Dead
        self.pending = Request(verb, path)
        whoever_steps = getcurrent().parent
        assert whoever_steps is not None
        try:
            whoever_steps.switch()
        except GreenletExit:  # the test has ended, and nobody will ever let this request go
            self._order = _DIE
        if self._order == _DIE:
            raise Dead
        request = self.pending
        if self._order in (DO, OVERLOOK):
            return self._world.perform(request, perform)
        if self._order == LOSE_REPLY:
            with suppress(SnapshotsError):
                self._world.perform(request, perform)
        if self._order == DELAY:
            self._world.late.append((request, perform))
        raise StorageUnavailable(f"{path}: no answer")

    def _run(self, operation: Callable[[], Any]) -> None:
        try:
            self._result = operation()
        except BaseException as error:
            self._error = error
        self.pending = None

    def _go_on(self, *arguments: Any) -> None:
        """Until the greenlet stops at its next request, or ends."""
        assert self._greenlet is not None
        self._greenlet.parent = getcurrent()
        before, _current.process = _current.process, self
        self._greenlet.switch(*arguments)
        _current.process = before
        if self._greenlet.dead:
            self._greenlet = None
            self._order = DO
            self._settle(self._result, self._error)


def _ignore(_result: object, error: BaseException | None) -> None:
    if error is not None and not isinstance(error, Dead):
        raise error


class World:
    """One repository, and what really happened to it.

    Use as a context manager: within it, chunks, ranges and merges are small enough that all of them occur at once.
    """

    names = ("a", "b")

    def __init__(self, processes: int) -> None:
        self.place = f"stepping-{next(_worlds)}"
        self.url = f"memory://{self.place}"
        self.history: dict[str, list[Event]] = {name: [] for name in self.names}
        self.bodies: dict[str, bytes] = {}
        self.late: list[tuple[Request, Callable[[], object]]] = []
        self._patch = pytest.MonkeyPatch()
        self._number = processes

    def __enter__(self) -> Self:
        patch = self._patch
        patch.setattr(chunking, "SHARED_SIZE", 1)
        patch.setattr(contents, "_TABLE_LIMIT", 3 * contents.TABLE.itemsize)
        patch.setattr(contents, "submit", _at_once)
        patch.setattr(commits, "inline", lambda manifest, buffers: None)  # what is staged lies in chunks
        patch.setattr(catalog, "FIRST_RANGE", 2)
        patch.setattr(catalog, "FAN_OUT", 2)
        patch.setattr(catalog, "_HINT_EVERY", {True: 3, False: 3})
        patch.setattr(catalog, "_ATTEMPTS", 2)
        patch.setattr(catalog, "time", SimpleNamespace(**{**vars(time), "sleep": lambda _: None}))
        patch.setattr(Stream, "back_off", lambda _, attempt: None)
        patch.setattr(index, "_MERGE", 3)
        patch.setattr(pruning, "_FEW", 2)
        patch.setattr("os.urandom", random.Random(0).randbytes)
        repository = Repository(self.url)
        repository.stream(KIND, "a", lambda _: None)
        self._known = repository.parts(writing=True)
        self._streams = {self._known.sealer.stream_id(KIND, name): name for name in self.names}
        self.processes = [Process(self) for _ in range(self._number)]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for process in self.processes:
            process.kill()
        self._patch.undo()
        store = MemoryLocation("memory", self.place, {})
        store.delete([info.path for info in store.list("")])

    def perform(self, request: Request, perform: Callable[[], T]) -> T:
        """Let a request happen, and take note of the event that may have landed."""
        result = perform()
        folder, _, slot = request.path.rpartition("/")
        if request.verb == "CREATE" and folder.startswith(CATALOG):
            self._landed(folder.rpartition("/")[2], int(slot))
        return result

    def verify_after(self, request: Request) -> None:
        """Look whether everything is still there, if this request could have changed that."""
        if request.verb == "DELETE" or (request.verb == "CREATE" and request.path.startswith(CATALOG)):
            self.verify()

    def land(self, number: int) -> None:
        """Perform a late request."""
        request, perform = self.late.pop(number)
        with suppress(SnapshotsError):
            self.perform(request, perform)
        self.verify_after(request)

    def live(self, name: str) -> dict[str, Event]:
        """What is committed under a name, and not deleted."""
        events = self.history[name]
        deleted = {sequence for event in events for sequence in event.deletes}
        return {event.body["id"]: event for event in events if event.content and event.sequence not in deleted}

    def verify(self) -> None:
        """With fresh eyes: the history is what really happened, and every live item has the bytes that it should."""
        repository = Repository(self.url)
        for name in self.names:
            toy = ToyKind(repository, name)
            assert toy.events == self.history[name]
            assert toy.items.keys() == self.live(name).keys()
            for item in toy.items:
                try:
                    assert toy.get(item) == self.bodies[item]
                except IntegrityError as error:
                    raise AssertionError(f"{item} was committed, and is unreadable") from error

    def _landed(self, stream: str, sequence: int) -> None:
        name = self._streams.get(stream)
        if name is None or sequence <= len(self.history[name]):
            return
        path = catalog.slot_path(stream, sequence)
        frames = self._known.sealer.open(path, MemoryLocation("memory", self.place, {}).read(path))
        event = catalog._decode_event(frames[0])
        events = self.history[name]
        assert event.sequence == len(events) + 1
        assert not events or event.epoch >= events[-1].epoch
        assert event.token not in {other.token for other in events}, "one commit landed twice"
        events.append(event)


def _at_once(use: Use, call: Callable[..., T], *arguments: Any) -> Future[T]:
    future: Future[T] = Future()
    try:
        future.set_result(call(*arguments))
    except Exception as error:
        future.set_exception(error)
    return future
