"""Nothing that was committed and not deleted is ever unreadable, whoever is paused, killed, retried, or prunes.

Hypothesis plays scheduler for several processes at the level of single storage requests; then the steps of the prune
protocol are gone through one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from stepping import FAULTS, Process, World

from prefect_snapshots.errors import CommitUnknown, IntegrityError, StorageUnavailable
from prefect_snapshots.repository.maintenance import CheckReport

PARTS = [bytes([65 + number]) * (10 + number) for number in range(5)]
"""Few, so that most of what is saved is there already, or was just now."""

PROCESSES = 4


class Interleavings(RuleBasedStateMachine):
    """Some processes, which save, copy, delete, read, check and prune, one storage request at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(PROCESSES)
        self._items = count()

    @initialize()
    def begin(self) -> None:
        self.world.__enter__()

    def teardown(self) -> None:
        if not hasattr(self.world, "processes"):
            return
        try:
            for process in self.world.processes:
                process.run()
            while self.world.late:
                self.world.land(0)
            self.world.verify()
            self._come_to_rest()
        finally:
            self.world.__exit__(None, None, None)

    # --- what a process may begin; a busy one goes on instead ------------------------------------------------------

    processes = st.integers(0, PROCESSES - 1)
    names = st.sampled_from(World.names)
    bodies = st.lists(st.sampled_from(PARTS), min_size=1, max_size=4).map(tuple)
    steps = st.integers(1, 40)

    @rule(number=processes, name=names, parts=bodies, steps=steps)
    def save(self, number: int, name: str, parts: tuple[bytes, ...], steps: int) -> None:
        process = self.world.processes[number]
        if not process.busy:
            if process.tokens:
                self._save(process, *process.tokens.pop())
            else:
                self._save(process, name, f"item-{next(self._items)}", parts, None)
        self._advance(process, steps)

    @rule(number=processes, name=names, other=names, steps=steps)
    def copy(self, number: int, name: str, other: str, steps: int) -> None:
        process = self.world.processes[number]
        if not process.busy:
            item = f"item-{next(self._items)}"
            origin: list[str] = []

            def copy() -> object:
                source, target = process.shelf(other), process.shelf(name)
                source.stream.refresh()
                if not source.items:
                    return None
                origin.append(next(iter(source.items)))
                self.world.bodies[item] = self.world.bodies[origin[0]]
                return target.copy(source, origin[0], item)

            def settle(_: object, error: BaseException | None) -> None:
                gone = origin and origin[0] not in self.world.live(other)
                self._accept(process, error, IntegrityError if gone else ())

            process.start(copy, settle)
        self._advance(process, steps)

    @rule(number=processes, name=names, steps=steps)
    def delete(self, number: int, name: str, steps: int) -> None:
        process = self.world.processes[number]
        if not process.busy:

            def delete() -> None:
                shelf = process.shelf(name)
                shelf.stream.refresh()
                if shelf.items:
                    shelf.remove(next(iter(shelf.items)))

            process.start(delete, lambda _, error: self._accept(process, error))
        self._advance(process, steps)

    @rule(number=processes, name=names, steps=steps)
    def read(self, number: int, name: str, steps: int) -> None:
        process = self.world.processes[number]
        if not process.busy:
            known = len(self.world.history[name])

            def read() -> None:
                shelf = process.shelf(name)
                shelf.stream.refresh()
                assert len(shelf.events) >= known
                assert shelf.events == self.world.history[name][: len(shelf.events)]
                for item in list(shelf.items):
                    try:
                        assert shelf.get(item) == self.world.bodies[item]
                    except IntegrityError:
                        assert item not in self.world.live(name)

            process.start(read, lambda _, error: self._accept(process, error))
        self._advance(process, steps)

    @rule(number=processes, steps=st.integers(1, 150))
    def prune(self, number: int, steps: int) -> None:
        process = self.world.processes[number]
        if not process.busy:
            process.start(lambda: process.repository.prune(grace=0), lambda _, error: self._accept(process, error))
        self._advance(process, steps)

    @rule(number=processes, steps=st.integers(1, 150))
    def check(self, number: int, steps: int) -> None:
        process = self.world.processes[number]
        if not process.busy:

            def settle(report: CheckReport | None, error: BaseException | None) -> None:
                self._accept(process, error)
                assert report is None or report.problems == []

            process.start(lambda: process.repository.check(read_data=True), settle)
        self._advance(process, steps)

    # --- what may befall it ------------------------------------------------------------------------------------------

    @rule(number=processes)
    def finish(self, number: int) -> None:
        self.world.processes[number].run()

    @rule(number=processes, fault=st.sampled_from(FAULTS))
    def fail(self, number: int, fault: str) -> None:
        process = self.world.processes[number]
        if process.busy:
            process.step(fault)

    @rule(number=processes)
    def kill(self, number: int) -> None:
        self.world.processes[number].kill()

    @rule(number=st.integers(0, 5))
    def land(self, number: int) -> None:
        if number < len(self.world.late):
            self.world.land(number)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _save(self, process: Process, name: str, item: str, parts: tuple[bytes, ...], token: bytes | None) -> None:
        self.world.bodies[item] = b"".join(parts)

        def settle(_: object, error: BaseException | None) -> None:
            if isinstance(error, CommitUnknown):
                process.tokens.append((name, item, parts, bytes.fromhex(error.token)))
            self._accept(process, error)
            assert error is not None or item in {event.body.get("id") for event in self.world.history[name]}

        process.start(lambda: process.shelf(name).put(item, parts, chunked=True, token=token), settle)

    def _advance(self, process: Process, steps: int) -> None:
        for _ in range(steps):
            if not process.busy:
                break
            process.step()

    def _accept(self, process: Process, error: BaseException | None, also: type[Exception] | tuple[()] = ()) -> None:
        """Only a fault of the storage is a reason to fail."""
        passing = (StorageUnavailable, CommitUnknown) if process.faults else ()
        if error is not None and not isinstance(error, (*passing, *([also] if also else []))):
            raise error

    def _come_to_rest(self) -> None:
        """When nobody does anything any more, two prunes leave just what is needed, and everything is whole."""
        process = self.world.processes[0]
        process.forget()
        for _ in range(2):
            process.start(lambda: process.repository.prune(grace=0))
            process.run()
        self.world.verify()
        results: list[CheckReport | None] = []
        process.start(lambda: process.repository.check(read_data=True), lambda report, _: results.append(report))
        process.run()
        [report] = results
        assert report is not None
        assert report.problems == []


Interleavings.TestCase.settings = settings(
    max_examples=3000,
    stateful_step_count=40,
    deadline=None,
    report_multiple_bugs=False,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
TestInterleavings = Interleavings.TestCase

Stop = Callable[[], bool]
