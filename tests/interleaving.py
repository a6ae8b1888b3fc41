"""What the models have in common in which Hypothesis plays scheduler for several processes."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from stepping import World

from prefect_snapshots.errors import CommitUnknown, StorageUnavailable

PROCESSES = 4


class Interleaving(RuleBasedStateMachine):
    """Some processes of a world, one storage request at a time. A busy process goes on instead of beginning more.

    Args:
        world: The world. It is entered when an example begins, and left when it ends.
    """

    processes = st.integers(0, PROCESSES - 1)

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world: Any = world

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
            self.come_to_rest()
        finally:
            self.world.__exit__(None, None, None)

    def come_to_rest(self) -> None:
        """Check what must be true when nobody does anything any more."""
        raise NotImplementedError

    @rule(number=processes)
    def finish(self, number: int) -> None:
        self.world.processes[number].run()

    @rule(number=processes)
    def kill(self, number: int) -> None:
        self.world.processes[number].kill()

    @rule(number=st.integers(0, 5))
    def land(self, number: int) -> None:
        if number < len(self.world.late):
            self.world.land(number)

    def advance(self, process: Any, steps: int) -> None:
        for _ in range(steps):
            if not process.busy:
                break
            process.step()

    def accept(self, process: Any, error: BaseException | None, *also: type[Exception]) -> None:
        """Only a fault of the storage is a reason to fail, or what `also` names."""
        passing = (StorageUnavailable, CommitUnknown) if process.faults else ()
        if error is not None and not isinstance(error, (*passing, *also)):
            raise error


def interleavings(machine: type[Interleaving], examples: int) -> Any:
    """Return the test of a model."""
    case: Any = type("TestInterleavings", (machine.TestCase,), {})
    case.settings = settings(
        max_examples=examples,
        stateful_step_count=40,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    return case
