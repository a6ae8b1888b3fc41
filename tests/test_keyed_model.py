"""No write of a result that was acknowledged is lost, whoever writes, reads, deletes, expires, prunes, pauses or dies.

Hypothesis plays scheduler for several processes at the level of single storage requests. Time passes with each request,
so that a process that is not scheduled sleeps for longer than a look at the latest generation is valid.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from types import SimpleNamespace
from typing import Any, Self

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule
from interleaving import PROCESSES, Interleaving, interleavings
from stepping import FAULTS, Process, Request, SteppedLocation, World

from prefect_snapshots import results
from prefect_snapshots.errors import ObjectMissing
from prefect_snapshots.repository import Repository, catalog, keyed
from prefect_snapshots.repository.location import MemoryLocation
from prefect_snapshots.results import ResultLog

KEYS = ("a", "b")
NEVER = float("inf")
LARGE = 40
"""Bytes of a result that is stored in chunks here."""


@dataclass
class Done:
    """A write, a delete or an expiry: when it began and ended, and what it may have changed.

    Attributes:
        value: What was written. None: what was there was deleted.
        before: An expiry deletes only what was written before this.
        spares_read: An expiry also spares what was read since then, by a process that lets reads count.
        end: When it was acknowledged. Never, if it failed: it can then have its effect at any time.
    """

    key: str | None
    value: bytes | None
    begin: float
    end: float = NEVER
    before: float = NEVER
    spares_read: bool = False

    def may_delete(self, write: Done) -> bool:
        """Return whether it may have deleted what another one wrote."""
        return self.value is None and self.end > write.begin and self.before > write.begin


class ResultProcess(Process):
    """A process with a log of results."""

    def forget(self) -> None:
        super().forget()
        world: Any = self._world
        self.repository.location = TimedLocation("memory", world.place, {})
        self.keeps = world.keeps()
        self.log = ResultLog(self.repository, keep_read=self.keeps)


class TimedLocation(SteppedLocation):
    """A location whose objects have the time of the world."""

    def replace(self, path: str, data: bytes) -> None:
        world: Any = self.process._world

        def replace() -> None:
            MemoryLocation.replace(self, path, data)
            self._store[self._root + path].modified = datetime.fromtimestamp(world.now, UTC)

        self.process.pass_gate("PUT", path, replace)

    def _create(self, path: str, data: bytes) -> bool:
        world: Any = self.process._world

        def create() -> bool:
            created = MemoryLocation._create(self, path, data)
            if created:
                self._store[self._root + path].modified = datetime.fromtimestamp(world.now, UTC)
            return created

        return self.process.pass_gate("CREATE", path, create)

    def wait(self) -> None:
        self.process.pass_gate("WAIT", "", lambda: None)


class ResultWorld(World):
    """A world in which every request takes a second.

    Args:
        lease: For how many seconds a look at the latest generation is valid.
    """

    def __init__(self, lease: float) -> None:
        super().__init__(PROCESSES)
        self._lease = lease
        self._born = count()
        self.now = 1_000_000.5

    def __enter__(self) -> Self:
        super().__enter__()
        stepped: Any = SteppedLocation("memory", self.place, {})

        def wait(_: float) -> None:
            stepped.process.pass_gate("WAIT", "", lambda: None)

        nanoseconds = SimpleNamespace(**{**vars(time), "sleep": lambda _: None, "time_ns": lambda: int(self.now * 1e9)})
        self._patch.setattr(catalog, "time", nanoseconds)
        self._patch.setattr(keyed, "LEASE", self._lease)
        self._patch.setattr(keyed, "clock", lambda: self.now)
        self._patch.setattr(keyed, "wait", wait)
        self._patch.setattr(results, "SMALL", LARGE - 1)
        self._patch.setattr(results, "STREAMS", 1)
        self.processes: list[Any] = [ResultProcess(self) for _ in range(PROCESSES)]
        return self

    def keeps(self) -> bool:
        """Whether the next process lets what it reads count as new: every second one does."""
        return next(self._born) % 2 == 1

    def perform(self, request: Request, perform: Callable[[], Any]) -> Any:
        self.now += 1
        return super().perform(request, perform)

    def verify_after(self, request: Request) -> None:
        """What was acknowledged is looked for by reads."""


class Interleavings(Interleaving):
    """Some processes with results of the same keys, which also expire."""

    lease = 25.0

    def __init__(self) -> None:
        super().__init__(ResultWorld(self.lease))
        self._values = count()
        self._done: list[Done] = []
        self._kept: list[Done] = []
        """Reads that may have written once more what they read."""
        self._counted: list[Done] = []
        """Reads after which an expiry spares what was read."""

    processes = Interleaving.processes
    keys = st.sampled_from(KEYS)
    steps = st.integers(0, 40)

    @rule(number=processes, key=keys, large=st.booleans(), steps=steps)
    def write(self, number: int, key: str, large: bool, steps: int) -> None:
        process = self.world.processes[number]
        if not process.busy:
            value = b"%d" % next(self._values)
            if large:
                value = value.ljust(LARGE, b"-")
            self._change(process, Done(key, value, self._begin()), lambda: process.log.write(key, value))
        self.advance(process, steps)

    @rule(number=processes, key=keys, steps=steps)
    def delete(self, number: int, key: str, steps: int) -> None:
        process = self.world.processes[number]
        if not process.busy:
            self._change(process, Done(key, None, self._begin()), lambda: process.log.delete([key]))
        self.advance(process, steps)

    @rule(number=processes, age=st.sampled_from([0, 30, 100]), by=st.sampled_from(["written", "read"]), steps=steps)
    def expire(self, number: int, age: int, by: Any, steps: int) -> None:
        self._expire(number, self.world.now - age, by, steps)

    @rule(number=processes, key=keys, steps=steps)
    def read(self, number: int, key: str, steps: int) -> None:
        process = self.world.processes[number]
        if not process.busy:
            self._read(process, key)
        self.advance(process, steps)

    @rule(number=processes, steps=st.integers(1, 100))
    def prune(self, number: int, steps: int) -> None:
        process = self.world.processes[number]
        if not process.busy:
            process.start(lambda: process.repository.prune(grace=0), lambda _, error: self.accept(process, error))
        self.advance(process, steps)

    @rule(number=processes, verb=st.sampled_from(["PUT", "CREATE", "DELETE"]))
    def come_to(self, number: int, verb: str) -> None:
        self.world.processes[number].run(lambda request: request.verb == verb)

    pairs = st.sampled_from([(0, 1), (1, 0), (2, 1), (3, 2)])

    @rule(
        pair=pairs,
        key=keys,
        large=st.booleans(),
        verb=st.sampled_from(["PUT", "PUT", "CREATE", "GET"]),
        until=st.sampled_from(["DELETE", "end", "again"]),
    )
    def expire_beside_a_write(self, pair: tuple[int, int], key: str, large: bool, verb: str, until: str) -> None:
        """A writer is stopped, its results expire, or are about to, and perhaps another one writes again."""
        writer, other = pair
        for number in pair:
            self.finish(number)
        self.write(other, key, large=not large, steps=1000)
        self.read(writer, key, steps=1000)
        self.write(writer, key, large=large, steps=0)
        self.come_to(writer, verb)
        self.expire(other, 0, "written", steps=0)
        self.come_to(other, until)
        if until == "again":
            self.write(other, key, large=False, steps=1000)
        self.finish(writer)
        self.finish(other)
        self.read(other, key, steps=1000)

    @rule(
        pair=pairs,
        key=keys,
        large=st.booleans(),
        verb=st.sampled_from(["LIST", "CREATE", "WAIT", "DELETE", "HEAD"]),
        looks=st.booleans(),
    )
    def write_beside_an_expiry(self, pair: tuple[int, int], key: str, large: bool, verb: str, looks: bool) -> None:
        """An expiry is stopped, and what it is about to delete is written again, perhaps by who looked a moment ago."""
        writer, other = pair
        for number in pair:
            self.finish(number)
        self.write(writer, key, large=large, steps=1000)
        self.expire(other, 0, "written", steps=0)
        if looks:
            self.come_to(other, "CREATE")
            self.read(writer, key, steps=1000)
        self.come_to(other, verb)
        self.write(writer, key, large=large, steps=1000)
        self.read(writer, key, steps=1000)
        self.finish(other)
        self.read(other, key, steps=1000)

    @rule(pair=pairs, key=keys, large=st.booleans(), verb=st.sampled_from(["CREATE", "WAIT", "end"]))
    def expire_what_was_read(self, pair: tuple[int, int], key: str, large: bool, verb: str) -> None:
        """A result is read after a generation has begun, or meanwhile, and what was not read since then expires."""
        reader, other = pair
        for number in pair:
            self.finish(number)
        self.write(other, key, large=large, steps=1000)
        moment = self.world.now
        self.read(reader, key, steps=1000)
        self._expire(other, moment, "read", 0)
        self.come_to(other, verb)
        self.advance(self.world.processes[other], 1)
        moment = self.world.now
        self.read(reader, key, steps=1000)
        self.finish(other)
        self.read(other, key, steps=1000)
        self.world.now += self.lease
        self._expire(other, moment, "read", 1000)
        self.read(other, key, steps=1000)

    @rule(pair=pairs, key=keys, large=st.booleans())
    def read_beside_a_move(self, pair: tuple[int, int], key: str, large: bool) -> None:
        """A reader is stopped, and what it is about to read is written to the next generation, and expires."""
        reader, other = pair
        for number in pair:
            self.finish(number)
        self.write(other, key, large=large, steps=1000)
        self.read(reader, key, steps=0)
        self.world.processes[reader].run(lambda request: request.path.startswith(keyed.PREFIX))
        self.expire(other, 0, "read", steps=1000)
        self.read(other, key, steps=1000)
        moment = self.world.now
        self.write(other, key, large=large, steps=1000)
        self._expire(other, moment, "written", 1000)
        self.finish(reader)

    @rule(number=processes, fault=st.sampled_from(FAULTS))
    def fail(self, number: int, fault: str) -> None:
        process = self.world.processes[number]
        if process.busy and process.pending is not None and process.pending.verb != "WAIT":
            # What an object store performs late could undo a later write of another process, as with any storage of
            # Prefect: what is known of such a write is only that it failed.
            process.step(fault)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _begin(self) -> float:
        """Return when an operation begins, which is later than when the last one ended."""
        self.world.now += 1
        begin: float = self.world.now
        return begin

    def _expire(self, number: int, before: float, by: Any, steps: int) -> None:
        process = self.world.processes[number]
        if not process.busy:
            moment = datetime.fromtimestamp(before, UTC)
            done = Done(None, None, self._begin(), before=before, spares_read=by == "read")
            self._change(process, done, lambda: process.log.expire(moment, by=by))
        self.advance(process, steps)

    def _change(self, process: Any, done: Done, operation: Callable[[], object]) -> None:
        self._done.append(done)

        def settle(_: object, error: BaseException | None) -> None:
            self.accept(process, error)
            if error is None:
                done.end = self.world.now

        process.start(operation, settle)

    def _read(self, process: Any, key: str) -> None:
        begin = self._begin()

        def read() -> bytes | None:
            try:
                found: bytes = process.log.read(key)
            except ObjectMissing:
                return None
            return found

        def settle(found: bytes | None, error: BaseException | None) -> None:
            self.accept(process, error)
            if error is None:
                self._verify(key, found, begin)
                kept = Done(key, found, begin, self.world.now)
                self._kept.append(kept)
                if process.keeps and not process.faults:
                    self._counted.append(kept)

        process.start(read, settle)

    def _verify(self, key: str, found: bytes | None, begin: float) -> None:
        """Check what a read that began at some time has found."""
        concerned = [done for done in self._done if done.key in (key, None)]
        writes = [done for done in concerned if done.value is not None]
        over = [done for done in writes if done.end < begin]
        if found is None:
            for write in over:
                assert any(
                    (done.may_delete(write) and not self._spares(done, write, writes))
                    # What is performed late can name an event that was deleted since.
                    or (done.value and len(done.value) >= LARGE and done.end == NEVER)
                    for done in concerned
                ), f"{write} is lost"
            return
        (write,) = [done for done in writes if done.value == found]
        assert not any(write.end < later.begin for later in over), f"{write} was replaced"
        deletes = [done for done in concerned if done.value is None and done.key and done.end < begin]
        again = [kept for kept in self._kept if kept.value == found]
        assert not any(
            write.end < later.begin and not any(kept.end > later.begin for kept in again) for later in deletes
        ), f"{write} was deleted"

    def _spares(self, done: Done, write: Done, writes: list[Done]) -> bool:
        """Return whether a delete has certainly not deleted a result.

        It was read afterwards, or had been replaced before, or a read before an expiry counts.
        """
        return (
            any(kept.value == write.value and done.end < kept.begin for kept in self._kept)
            or any(
                write.end < later.begin and later.end < done.begin and not done.may_delete(later) for later in writes
            )
            or any(
                done.spares_read and kept.value == write.value and done.before <= kept.begin and kept.end < done.begin
                for kept in self._counted
            )
        )

    def come_to_rest(self) -> None:
        """When nobody writes any more, two expiries and prunes leave no result and no object of one."""
        for key in KEYS:
            self._read(self.world.processes[0], key)
            self.finish(0)
        log = ResultLog(Repository(self.world.url))
        store = MemoryLocation("memory", self.world.place, {})
        assert Repository(self.world.url).check(read_data=True).problems == []
        for key in log.keys():  # noqa: SIM118
            with suppress(ObjectMissing):  # what a large write that failed has left behind
                assert log.read(key)
        process = self.world.processes[0]
        for _ in range(3):
            self.world.now += 1000
            moment = datetime.fromtimestamp(self.world.now, UTC)
            process.start(lambda moment=moment: process.log.expire(moment))
            process.run()
        assert store.list(keyed.PREFIX) == []
        process.start(lambda: process.repository.prune(grace=0))
        process.run()
        assert store.list("packs") == []


class WithoutLease(Interleavings):
    """As on a local disk, where every operation looks for the latest generation."""

    lease = 0.0


TestWithLease = interleavings(Interleavings, 40)
TestWithoutLease = interleavings(WithoutLease, 40)
TestManyWithLease = pytest.mark.nightly(interleavings(Interleavings, 3000))
TestManyWithoutLease = pytest.mark.nightly(interleavings(WithoutLease, 3000))


def test_an_expiry_that_paused_drops_nothing_of_a_later_generation() -> None:
    state = Interleavings()
    state.begin()
    state.kill(number=1)
    state.write_beside_an_expiry(pair=(0, 1), key="a", large=False, verb="CREATE", looks=False)
    state.expire(number=0, age=0, by="written", steps=12)
    state.expire_beside_a_write(pair=(2, 1), key="a", large=True, verb="PUT", until="again")
    assert state.world.processes[0].busy
    state.teardown()


def test_an_expiry_deletes_nothing_while_a_writer_may_not_know_of_its_generation() -> None:
    state = Interleavings()
    state.begin()
    state.write_beside_an_expiry(pair=(1, 0), key="a", large=False, verb="DELETE", looks=True)
    state.teardown()
