"""Nothing that was committed and not deleted is ever unreadable, whoever is paused, killed, retried, or prunes.

Hypothesis plays scheduler for several processes at the level of single storage requests; then the steps of the prune
protocol are gone through one by one.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule
from interleaving import PROCESSES, Interleaving, interleavings
from stepping import DELAY, FAULTS, OVERLOOK, Process, Request, World
from toy_kind import ToyKind

from prefect_snapshots.errors import CommitUnknown, IntegrityError, StorageUnavailable
from prefect_snapshots.repository import Repository
from prefect_snapshots.repository.catalog import CATALOG, ROOT
from prefect_snapshots.repository.contents import StagedPart
from prefect_snapshots.repository.index import ChunkCopy
from prefect_snapshots.repository.location import MemoryLocation, ObjectInfo
from prefect_snapshots.repository.maintenance import CheckReport

PARTS = [bytes([65 + number]) * (10 + number) for number in range(5)]
"""Few, so that most of what is saved is there already, or was just now."""


def variants(number: int) -> list[bytes]:
    """Chunks that are much like each other, and like no other ones."""
    noise = random.Random(number).randbytes(1_200)
    return [noise[:place] + bytes(2) + noise[place:] for place in (100, 500, 900)]


VARIANTS = [variants(number) for number in range(2)]


def commits(request: Request) -> bool:
    """Whether this request is a commit."""
    return request.verb == "CREATE" and request.path.startswith(CATALOG)


class Interleavings(Interleaving):
    """Some processes, which save, copy, delete, read, check and prune, one storage request at a time."""

    def __init__(self) -> None:
        super().__init__(World(PROCESSES))
        self._items = count()
        self._prunes = 0
        self._staged: list[tuple[bytes, StagedPart, int]] = []
        """The bytes of each staged part, the part, and how many prunes had ended before it was stored."""
        self._pruning: set[int] = set()
        """The processes that prune now."""

    # --- what a process may begin; a busy one goes on instead ------------------------------------------------------

    processes = Interleaving.processes
    names = st.sampled_from(World.names)
    bodies = st.lists(st.sampled_from(PARTS), min_size=1, max_size=4).map(tuple)
    families = st.integers(0, len(VARIANTS) - 1)
    members = st.integers(0, len(VARIANTS[0]) - 1)
    steps = st.integers(1, 40)

    @rule(number=processes, name=names, parts=bodies, steps=steps)
    def save(self, number: int, name: str, parts: tuple[bytes, ...], steps: int) -> None:
        process = self.world.processes[number]
        if not process.busy:
            if process.tokens:
                self._save(process, *process.tokens.pop())
            else:
                self._save(process, name, f"item-{next(self._items)}", parts, None)
        self.advance(process, steps)

    @rule(
        number=processes,
        name=names,
        picks=st.lists(st.tuples(families, members, members), min_size=1, max_size=3),
        steps=steps,
    )
    def save_deltas(self, number: int, name: str, picks: list[tuple[int, int, int]], steps: int) -> None:
        """Each chunk is said to be like another one, which is there, is a delta, is garbage or was never stored."""
        process = self.world.processes[number]
        if not process.busy:
            parts = tuple(VARIANTS[family][member] for family, member, _ in picks)
            like = tuple(VARIANTS[family][base] for family, _, base in picks)
            self._save(process, name, f"item-{next(self._items)}", parts, None, like)
        self.advance(process, steps)

    @rule(number=processes, name=names, other=names, steps=steps)
    def copy(self, number: int, name: str, other: str, steps: int) -> None:
        process = self.world.processes[number]
        if not process.busy:
            item = f"item-{next(self._items)}"
            origin: list[str] = []

            def copy() -> object:
                source, target = process.toy(other), process.toy(name)
                source.stream.refresh()
                if not source.items:
                    return None
                origin.append(next(iter(source.items)))
                self.world.bodies[item] = self.world.bodies[origin[0]]
                return target.copy(source, origin[0], item)

            def settle(_: object, error: BaseException | None) -> None:
                gone = origin and origin[0] not in self.world.live(other)
                self.accept(process, error, *([IntegrityError] if gone else []))

            process.start(copy, settle)
        self.advance(process, steps)

    @rule(number=processes, parts=bodies, steps=steps)
    def stage(self, number: int, parts: tuple[bytes, ...], steps: int) -> None:
        process = self.world.processes[number]
        if not process.busy:
            before = self._prunes - len(self._pruning)
            # Something that no version has, so that a prune frees it.
            parts = (*parts, b"staged %d" % next(self._items))

            def settle(part: StagedPart | None, error: BaseException | None) -> None:
                if part is not None:
                    self._staged.append((b"".join(parts), part, before))
                self.accept(process, error)

            process.start(lambda: process.repository.stage(parts), settle)
        self.advance(process, steps)

    @rule(
        number=processes,
        name=names,
        picks=st.lists(st.integers(0, 20), min_size=1, max_size=2),
        steps=steps | st.just(10_000),
    )
    def join(self, number: int, name: str, picks: list[int], steps: int) -> None:
        """What others have staged, long ago or just now, becomes one version, or is said to be lost."""
        process = self.world.processes[number]
        if not process.busy and self._staged:
            chosen = [self._staged[pick % len(self._staged)] for pick in picks]
            item = f"item-{next(self._items)}"
            self.world.bodies[item] = b"".join(data for data, _, _ in chosen)

            def settle(_: object, error: BaseException | None) -> None:
                pruned = self._prunes > min(before for _, _, before in chosen)
                self.accept(process, error, *([IntegrityError] if pruned else []))

            process.start(lambda: process.toy(name).join(item, [part for _, part, _ in chosen]), settle)
        self.advance(process, steps)

    @rule(number=processes, name=names, steps=steps)
    def delete(self, number: int, name: str, steps: int) -> None:
        process = self.world.processes[number]
        if not process.busy:

            def delete() -> None:
                toy = process.toy(name)
                toy.stream.refresh()
                if toy.items:
                    toy.remove(next(iter(toy.items)))

            process.start(delete, lambda _, error: self.accept(process, error))
        self.advance(process, steps)

    @rule(number=processes, name=names, steps=steps)
    def read(self, number: int, name: str, steps: int) -> None:
        process = self.world.processes[number]
        if not process.busy:
            known = len(self.world.history[name])

            def read() -> None:
                toy = process.toy(name)
                toy.stream.refresh()
                assert len(toy.events) >= known
                assert toy.events == self.world.history[name][: len(toy.events)]
                for item in list(toy.items):
                    try:
                        assert toy.get(item) == self.world.bodies[item]
                    except IntegrityError:
                        assert item not in self.world.live(name)

            process.start(read, lambda _, error: self.accept(process, error))
        self.advance(process, steps)

    @rule(number=processes, steps=st.integers(1, 150) | st.just(10_000))
    def prune(self, number: int, steps: int) -> None:
        process = self.world.processes[number]
        if not process.busy:
            self._prunes += 1
            self._pruning.add(number)

            def settle(_: object, error: BaseException | None) -> None:
                self._pruning.discard(number)
                self.accept(process, error)

            process.start(lambda: process.repository.prune(grace=0), settle)
        self.advance(process, steps)

    @rule(number=processes, steps=st.integers(1, 150))
    def check(self, number: int, steps: int) -> None:
        process = self.world.processes[number]
        if not process.busy:

            def settle(report: CheckReport | None, error: BaseException | None) -> None:
                self.accept(process, error)
                assert report is None or report.problems == []

            process.start(lambda: process.repository.check(read_data=True), settle)
        self.advance(process, steps)

    # --- what may befall it ------------------------------------------------------------------------------------------

    @rule(number=processes)
    def come_to_commit(self, number: int) -> None:
        self.world.processes[number].run(commits)

    @rule(number=processes, fault=st.sampled_from(FAULTS), committing=st.booleans(), times=st.integers(1, 2))
    def fail(self, number: int, fault: str, committing: bool, times: int) -> None:
        process = self.world.processes[number]
        if committing:
            process.run(commits)
        for _ in range(times):
            if process.busy:
                process.step(fault)

    @rule(number=processes)
    def overlook(self, number: int) -> None:
        process = self.world.processes[number]
        if not process.overlooked and process.run(lambda request: request.verb == "LIST"):
            process.step(OVERLOOK)

    @rule(number=processes)
    def kill(self, number: int) -> None:
        super().kill(number)
        self._pruning.discard(number)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _save(
        self,
        process: Process,
        name: str,
        item: str,
        parts: tuple[bytes, ...],
        token: bytes | None,
        like: tuple[bytes, ...] = (),
    ) -> None:
        self.world.bodies[item] = b"".join(parts)

        def settle(_: object, error: BaseException | None) -> None:
            if isinstance(error, CommitUnknown):
                process.tokens.append((name, item, parts, bytes.fromhex(error.token), like))
            self.accept(process, error)
            assert error is not None or item in {event.body.get("id") for event in self.world.history[name]}

        process.start(lambda: process.toy(name).put(item, parts, chunked=True, token=token, like=like), settle)

    def come_to_rest(self) -> None:
        """When nobody does anything any more, two prunes leave just what is needed, and everything is whole."""
        self.world.verify()
        for _ in range(2):
            prune(self.world.processes[0])
        self.world.verify()
        repository = Repository(self.world.url)
        assert repository.check(read_data=True).problems == []
        assert repository.prune(dry_run=True, grace=0).packs_deleted == 0


TestInterleavings = interleavings(Interleavings, 40)
TestManyInterleavings = pytest.mark.nightly(interleavings(Interleavings, 5000))


# --- step by step --------------------------------------------------------------------------------------------------

PARTS_OF_ALL = PARTS[:3]


@pytest.fixture
def world() -> Iterator[World]:
    with prepared() as world:
        yield world


@contextmanager
def prepared(processes: int = 4) -> Iterator[World]:
    """A world with a kept item under each name, and with garbage: the chunks of an item that was deleted.

    Process 0 knows everything up to here, so that it would reuse the garbage.
    """
    with World(processes) as world:
        save(world, world.processes[0], "a", "kept", PARTS[3:4])
        save(world, world.processes[0], "a", "garbage", PARTS_OF_ALL)
        perform(world.processes[0], lambda: world.processes[0].toy("a").remove("garbage"))
        yield world


def perform(process: Process, operation: Callable[[], object]) -> None:
    """A whole operation, at once."""
    process.start(operation)
    process.run()


def begin_save(world: World, process: Process, name: str, item: str, parts: Sequence[bytes]) -> None:
    world.bodies[item] = b"".join(parts)
    process.start(lambda: process.toy(name).put(item, parts, chunked=True))


def save(world: World, process: Process, name: str, item: str, parts: Sequence[bytes]) -> None:
    begin_save(world, process, name, item, parts)
    process.run()


def begin_prune(process: Process) -> None:
    process.start(lambda: process.repository.prune(grace=0))


def prune(process: Process) -> None:
    begin_prune(process)
    process.run()


def make_garbage(world: World, process: Process) -> None:
    """So that the next prune has something to condemn."""
    item = f"garbage of {len(world.bodies)}"
    save(world, process, "a", item, [item.encode()])
    perform(process, lambda: process.toy("a").remove(item))


def condemns(request: Request) -> bool:
    return request.verb == "CREATE" and request.path.startswith(f"{CATALOG}/{ROOT}/")


def fences(request: Request) -> bool:
    return commits(request) and not condemns(request)


def deletes_pack(request: Request) -> bool:
    return request.verb == "DELETE" and request.path.startswith("packs/")


def rewrites_index(request: Request) -> bool:
    return request.verb == "CREATE" and request.path.startswith("index/9-")


def requests_of(begin: Callable[[World], Process]) -> int:
    """How many requests an operation makes, when nobody disturbs it."""
    with prepared() as world:
        process = begin(world)
        done = 0
        while process.busy:
            process.step()
            done += 1
        return done


def moments_of(begin: Callable[[World], Process], every: int = 1) -> Iterator[tuple[World, Process]]:
    """Worlds in which an operation stands before its first request, its second one, ... and is finished."""
    for moment in range(0, requests_of(begin) + 1, every):
        with prepared() as world:
            process = begin(world)
            for _ in range(moment):
                process.step()
            yield world, process


def saving(name: str) -> Callable[[World], Process]:
    """Process 0 begins to save what it knows to be there already."""

    def begin(world: World) -> Process:
        begin_save(world, world.processes[0], name, "new", PARTS_OF_ALL)
        return world.processes[0]

    return begin


def pruning(world: World) -> Process:
    """Process 1 begins to prune, while process 0 is about to commit what is being pruned."""
    saving("a")(world).run(commits)
    begin_prune(world.processes[1])
    return world.processes[1]


def give_up_commit(world: World) -> bytes:
    """Process 0 saves, and every attempt to commit is given up, to arrive late. Returns the commit's token."""
    process = saving("a")(world)
    process.run(commits)
    process.step(DELAY)
    with pytest.raises(CommitUnknown) as caught:
        process.step(DELAY)
    return bytes.fromhex(caught.value.token)


def assert_kept(world: World, *items: str) -> None:
    assert set(items) <= {item for name in world.names for item in world.live(name)}
    world.verify()


@pytest.mark.parametrize("prunes", [1, 2, 3])
def test_writer_sleeps_before_its_commit_over_prunes(world: World, prunes: int) -> None:
    writer = saving("a")(world)
    writer.run(commits)
    for _ in range(prunes):
        prune(world.processes[1])
        make_garbage(world, world.processes[2])
    writer.run()
    assert_kept(world, "kept", "new")


@pytest.mark.parametrize("name", World.names)
def test_prune_at_every_moment_of_a_save(name: str) -> None:
    """Under "b" nothing was saved before: its stream is empty, and registered on the way."""
    for world, writer in moments_of(saving(name)):
        prune(world.processes[1])
        writer.run()
        assert_kept(world, "kept", "new")


def test_commit_at_every_moment_of_a_prune(every: int) -> None:
    """It may take the slot that the fence wanted; a second writer sleeps on."""

    def begin(world: World) -> Process:
        begin_save(world, world.processes[3], "a", "second", PARTS_OF_ALL)
        world.processes[3].run(commits)
        return pruning(world)

    for world, process in moments_of(begin, every):
        world.processes[0].run()
        process.run()
        world.processes[3].run()
        assert_kept(world, "kept", "new", "second")


def test_original_is_deleted_and_pruned_at_every_moment_of_a_copy() -> None:
    """The copy is whole, or it is refused."""

    def begin(world: World) -> Process:
        process = world.processes[0]
        save(world, process, "a", "original", PARTS_OF_ALL)
        world.bodies["copy"] = world.bodies["original"]
        process.start(lambda: process.toy("b").copy(process.toy("a"), "original", "copy"))
        return process

    refused = 0
    for world, process in moments_of(begin):
        perform(world.processes[2], partial(lambda other: other.toy("a").remove("original"), world.processes[2]))
        prune(world.processes[1])
        try:
            process.run()
        except IntegrityError:
            refused += 1
        else:
            assert_kept(world, "kept", "copy")
        world.verify()
    assert refused


def test_prune_at_every_moment_of_a_commit_of_staged_parts() -> None:
    """What two processes have staged, one of them garbage to the other, is one version or is said to be lost."""

    def begin(world: World) -> Process:
        staged: list[Any] = []
        for number in (0, 3):
            process = world.processes[number]
            part = PARTS_OF_ALL[number and 1 :]
            process.start(partial(process.repository.stage, part), lambda found, _: staged.append(found))
            process.run()
        world.bodies["joined"] = b"".join((*PARTS_OF_ALL, *PARTS_OF_ALL[1:]))
        joining = world.processes[2]
        joining.start(lambda: joining.toy("b").join("joined", staged))
        return joining

    lost = 0
    for world, process in moments_of(begin):
        prune(world.processes[1])
        try:
            process.run()
        except IntegrityError:
            lost += 1
        else:
            assert_kept(world, "kept", "joined")
        world.verify()
    assert lost


def test_prune_killed_at_every_moment_is_resumed_by_another(every: int) -> None:
    for world, process in moments_of(pruning, every):
        process.kill()
        prune(world.processes[2])
        world.processes[0].run()
        assert_kept(world, "kept", "new")


def test_prune_at_every_moment_of_a_rival_prune(every: int) -> None:
    for world, process in moments_of(pruning, every):
        make_garbage(world, world.processes[3])
        prune(world.processes[2])
        world.processes[0].run()
        process.run()
        assert_kept(world, "kept", "new")


def test_read_at_every_moment_of_a_prune(every: int) -> None:
    """By one who knows the index from before, and by one who does not."""

    def begin(world: World) -> Process:
        read(world.processes[2])
        return pruning(world)

    def read(reader: Process) -> None:
        perform(reader, lambda: reader.toy("a").get("kept"))

    for world, process in moments_of(begin, every):
        world.processes[0].run()
        read(world.processes[2])
        read(world.processes[3])
        process.run()
        read(world.processes[2])
        assert_kept(world, "kept", "new")


@pytest.mark.parametrize(
    ("moment", "passed"),
    [(condemns, 1), (fences, 1), (deletes_pack, 0), (rewrites_index, 0)],
    ids=["condemned", "half of the fences", "nothing deleted yet", "deleted, index not rewritten yet"],
)
def test_killed_prune_is_resumed(world: World, moment: Callable[[Request], bool], passed: int) -> None:
    """Two names, and a writer under each of them that sleeps before its commit."""
    writers = world.processes[0], world.processes[3]
    save(world, writers[1], "b", "other", PARTS_OF_ALL[:1])
    for writer, name in zip(writers, world.names, strict=True):
        begin_save(world, writer, name, f"new {name}", PARTS_OF_ALL)
        writer.run(commits)
    begin_prune(world.processes[1])
    assert world.processes[1].run(moment)
    for _ in range(passed):
        world.processes[1].step()
    world.processes[1].kill()
    writers[0].run()
    prune(world.processes[2])
    writers[1].run()
    assert_kept(world, "kept", "other", "new a", "new b")


def test_stream_that_is_registered_after_the_condemnation(world: World) -> None:
    """It gets no fence: that its writer reads root first is what saves it."""
    writer = saving("b")(world)
    assert writer.run(condemns)  # where it registers
    begin_prune(world.processes[1])
    world.processes[1].run(condemns)
    world.processes[1].step()
    writer.run()
    world.processes[1].run()
    assert_kept(world, "kept", "new")


def test_writer_that_meets_an_empty_stream(world: World) -> None:
    """It registers its stream and is about to fill the first slot; the prune's fence comes first."""
    writer = saving("b")(world)
    writer.run(fences)  # its first slot
    prune(world.processes[1])
    writer.run()
    assert [event.kind for event in world.history["b"]] == ["fence", "put"]
    assert_kept(world, "kept", "new")


def test_writer_in_a_thread_beside_a_prune(world: World) -> None:
    """What it reads of a rival's condemnation does not count for the prune, whose fences are older."""
    pruner, rival, sleeper, thread = world.processes[1], world.processes[2], world.processes[3], world.processes[0]
    begin_prune(pruner)
    pruner.run(condemns)
    pruner.step()
    save(world, rival, "a", "more garbage", PARTS[4:])
    perform(rival, lambda: rival.toy("a").remove("more garbage"))
    begin_save(world, sleeper, "a", "new", PARTS[4:])
    sleeper.run(commits)
    begin_prune(rival)
    rival.run(condemns)
    rival.step()
    thread.repository = pruner.repository
    thread.toys.clear()
    save(world, thread, "b", "other", PARTS_OF_ALL)
    pruner.run()
    sleeper.run()
    assert_kept(world, "kept", "new", "other")


def test_late_commit_loses_its_slot(world: World) -> None:
    """A commit is given up, prune deletes what it would have needed, and then it arrives."""
    token = give_up_commit(world)
    prune(world.processes[1])
    while world.late:
        world.land(0)
    assert "new" not in world.live("a")
    process = world.processes[0]
    perform(process, lambda: process.toy("a").put("new", PARTS_OF_ALL, chunked=True, token=token))
    assert_kept(world, "kept", "new")


def test_late_commit_arrives_at_every_moment_of_saving_again() -> None:
    """One version, whether it is the late one or the new one."""

    def begin(world: World) -> Process:
        process = world.processes[0]
        token = give_up_commit(world)
        process = world.processes[0]
        process.start(lambda: process.toy("a").put("new", PARTS_OF_ALL, chunked=True, token=token))
        return process

    for world, process in moments_of(begin):
        world.land(0)
        process.run()
        assert [event.body.get("id") for event in world.history["a"]].count("new") == 1
        assert_kept(world, "kept", "new")


def test_late_delete_hits_a_dead_id(world: World) -> None:
    """The prune gives up its deletes; what they are about is saved again, and then they arrive."""
    begin_prune(world.processes[1])
    world.processes[1].run(deletes_pack)
    with pytest.raises(StorageUnavailable):
        world.processes[1].step(DELAY)
    save(world, world.processes[0], "a", "new", PARTS_OF_ALL)
    save(world, world.processes[2], "b", "other", PARTS_OF_ALL)
    while world.late:
        world.land(0)
    assert_kept(world, "kept", "new", "other")


def test_late_pack_is_garbage(world: World) -> None:
    writer = world.processes[0]
    begin_save(world, writer, "a", "failed", [b"of its own"])
    assert writer.run(lambda request: request.verb == "PUT" and request.path.startswith("packs/"))
    with pytest.raises(StorageUnavailable):
        writer.step(DELAY)
    world.land(0)
    prune(world.processes[1])
    assert_kept(world, "kept")
    assert sum(info.path.startswith("packs/") for info in MemoryLocation("memory", world.place, {}).list("")) == 1


# --- deltas, whose bases may be all that is left of what was deleted ------------------------------------------------

BASE, NEAR, NEARER = VARIANTS[0]


@contextmanager
def prepared_deltas() -> Iterator[World]:
    """A world with a base that nothing refers to any more but a delta, and with a base and a delta that are garbage.

    Process 0 knows everything up to here.
    """
    with prepared() as world:
        process = world.processes[0]
        other_base, other_near, _ = VARIANTS[1]
        for item, body, like in (
            ("base", BASE, BASE),
            ("delta", NEAR, BASE),
            ("other base", other_base, other_base),
            ("other delta", other_near, other_base),
        ):
            begin_save_like(world, process, item, body, like)
            process.run()
        for item in ("base", "other base", "other delta"):
            perform(process, partial(process.toy("a").remove, item))
        yield world


def begin_save_like(world: World, process: Process, item: str, body: bytes, like: bytes, name: str = "a") -> None:
    world.bodies[item] = body
    process.start(lambda: process.toy(name).put(item, [body], chunked=True, like=[like]))


def entries_of(world: World, body: bytes) -> list[ChunkCopy]:
    """The copies of a chunk, to fresh eyes."""
    opened = Repository(world.url).parts()
    opened.index.load()
    return opened.index.find_all(opened.sealer.chunk_id(body))


def moments_with_deltas(begin: Callable[[World], Process], every: int) -> Iterator[tuple[World, Process]]:
    """As `moments_of`, among deltas, at every so many of the moments."""
    moment = 0
    while True:
        with prepared_deltas() as world:
            process = begin(world)
            for _ in range(moment):
                if not process.busy:
                    return
                process.step()
            yield world, process
        moment += every


def reusing_deltas(world: World) -> Process:
    """Process 0 begins to save a new delta against a base that is garbage, and one that is there already."""
    _, near, nearer = VARIANTS[1]
    process = world.processes[0]
    world.bodies["new"] = nearer + near
    process.start(lambda: process.toy("b").put("new", [nearer, near], chunked=True, like=[near, near]))
    return process


def test_base_lives_as_long_as_its_delta() -> None:
    with prepared_deltas() as world:
        [delta] = entries_of(world, NEAR)
        assert not delta.whole
        for _ in range(3):
            make_garbage(world, world.processes[2])
            prune(world.processes[1])
            assert_kept(world, "kept", "delta")
        assert [entry.whole for entry in entries_of(world, NEAR)] == [False]
        assert [entry.whole for entry in entries_of(world, BASE)] == [True]
        assert not any(entries_of(world, body) for body in VARIANTS[1])
        perform(world.processes[2], lambda: world.processes[2].toy("a").remove("delta"))
        prune(world.processes[1])
        prune(world.processes[1])
        assert not any(entries_of(world, body) for body in (BASE, NEAR))


def test_prune_at_every_moment_of_a_save_of_deltas(every: int) -> None:
    """Their base is garbage, and condemned between the look at it and the commit."""
    for world, writer in moments_with_deltas(reusing_deltas, every):
        prune(world.processes[1])
        writer.run()
        assert_kept(world, "kept", "delta", "new")
        prune(world.processes[2])
        assert_kept(world, "kept", "delta", "new")


def test_save_of_deltas_at_every_moment_of_a_prune(every: int) -> None:
    def begin(world: World) -> Process:
        reusing_deltas(world).run(commits)
        begin_prune(world.processes[1])
        return world.processes[1]

    for world, pruner in moments_with_deltas(begin, every):
        world.processes[0].run()
        begin_save_like(world, world.processes[3], "one more", NEARER, NEAR)
        world.processes[3].run()
        pruner.run()
        assert_kept(world, "kept", "delta", "new", "one more")


def test_prune_among_deltas_killed_at_every_moment_and_rivalled(every: int) -> None:
    def begin(world: World) -> Process:
        reusing_deltas(world).run(commits)
        begin_prune(world.processes[1])
        return world.processes[1]

    for world, pruner in moments_with_deltas(begin, every):
        make_garbage(world, world.processes[3])
        prune(world.processes[2])
        world.processes[0].run()
        pruner.kill()
        prune(world.processes[2])
        assert_kept(world, "kept", "delta", "new")


def test_read_of_a_delta_at_every_moment_of_a_prune(every: int) -> None:
    """By one who knows from before where the base was."""

    def begin(world: World) -> Process:
        read(world.processes[2])
        make_garbage(world, world.processes[3])
        begin_prune(world.processes[1])
        return world.processes[1]

    def read(reader: Process) -> None:
        perform(reader, lambda: reader.toy("a").get("delta"))

    for world, pruner in moments_with_deltas(begin, every):
        read(world.processes[2])
        pruner.run()
        read(world.processes[2])
        assert_kept(world, "kept", "delta")


def test_an_index_object_that_a_listing_overlooks_is_found_although_another_is_new(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A reader that has found something new looks once more before it says that a chunk is missing."""
    url = f"memory://{uuid.uuid4().hex}"
    writer, other, reader = (ToyKind(Repository(url), name) for name in ("one", "two", "one"))
    writer.put("first", [b"1" * 1000], chunked=True)
    reader.stream.refresh()
    assert reader.get("first") == b"1" * 1000
    location = reader.repository.location
    before = {info.path for info in location.list("index")}
    writer.put("wanted", [b"2" * 1000], chunked=True)
    overlooked = {info.path for info in location.list("index")} - before
    other.put("new", [b"3" * 1000], chunked=True)
    complete, listings = location.list, count()

    def overlooking(folder: str) -> Iterator[ObjectInfo]:
        first = folder == "index" and next(listings) == 0
        return (info for info in complete(folder) if not (first and info.path in overlooked))

    monkeypatch.setattr(location, "list", overlooking)
    reader.stream.refresh()
    assert reader.get("wanted") == b"2" * 1000
    assert next(listings) >= 2


def test_what_another_thread_has_just_read_of_the_index_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread finds no copy of a chunk, another one reads the new index objects, and only then the first one does."""
    url = f"memory://{uuid.uuid4().hex}"
    writer, reader = (ToyKind(Repository(url), "one") for _ in range(2))
    wanted, garbage = random.Random(0).randbytes(1_000), random.Random(1).randbytes(3_000)
    writer.put("garbage", [wanted, garbage], chunked=True, like=[wanted, garbage])
    writer.put("wanted", [wanted], chunked=True, like=[wanted])
    index = reader.repository.parts().index
    index.load()
    reader.stream.refresh()
    writer.remove("garbage")
    assert writer.repository.prune(grace=0).packs_rewritten == 1
    look_again = index.look_again

    def after_another_thread() -> bool:
        index.load()
        return look_again()

    monkeypatch.setattr(index, "look_again", after_another_thread)
    assert reader.get("wanted") == wanted
