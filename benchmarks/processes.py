"""Pytrees of runs of several JAX processes: saving, restoring onto another mesh, and saving what changed, beside Orbax.

All contenders run in the same processes, which take turns with them. Every array is spread over the devices of all
processes, one row of cells for each device. A time is that of the slowest process.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from _measure import (
    MB,
    NOTHING_WRITTEN,
    OURS,
    POWER_LOSS,
    PROCESS_KILL,
    Report,
    arguments,
    forget_peak,
    in_turns,
    memory,
    scratch,
    seconds,
    size_of,
)

ORBAX = "Orbax Standard"
PACKAGES = ("jax", "numpy", "blake3", "zstandard", "orbax-checkpoint", "tensorstore")

DEVICES = 4
"""Of each process."""
COLUMNS = 1024
BIG_SHARE = 0.05
SURVIVES = {OURS: POWER_LOSS, ORBAX: PROCESS_KILL}
"""What a save has survived when it returns. Orbax syncs its data, but neither its metadata nor the name of the step."""


# --- one process ----------------------------------------------------------------------------------------------------


class Ours:
    def __init__(self, folder: Path) -> None:
        from prefect_snapshots import PyTreeSnapshotManager

        self._folder = folder
        self._manager: Any = PyTreeSnapshotManager(folder)

    def start(self, step: str, tree: Any) -> None:
        self._manager.save_async(tree, step)

    def save(self, step: str, tree: Any) -> None:
        self._manager.save_snapshot(tree, step)

    def wait(self) -> None:
        self._manager.wait()

    def restore(self, step: str, like: Any) -> Any:
        from prefect_snapshots import PyTreeSnapshotManager, Repository

        # A repository opened anew remembers nothing.
        manager: Any = PyTreeSnapshotManager(Repository(self._folder, read_only=True))
        return manager.load_snapshot(step, like=like)


class Orbax:
    def __init__(self, folder: Path) -> None:
        import orbax.checkpoint as ocp

        self._folder = folder
        self._checkpointer = ocp.StandardCheckpointer()

    def start(self, step: str, tree: Any) -> None:
        self._checkpointer.save(self._folder / step, tree)

    def save(self, step: str, tree: Any) -> None:
        self.start(step, tree)
        self.wait()

    def wait(self) -> None:
        self._checkpointer.wait_until_finished()

    def restore(self, step: str, like: Any) -> Any:
        return self._checkpointer.restore(self._folder / step, like)


KINDS: dict[str, type[Ours | Orbax]] = {OURS: Ours, ORBAX: Orbax}


class Process:
    """What each process of the run does when it is asked to."""

    def __init__(self, size: int, leaves: int) -> None:
        import jax

        self._jax: Any = jax  # its shardings and shapes have no types
        self._mesh = jax.sharding.Mesh(np.array(jax.devices()), ("x",))
        self._contenders: dict[tuple[str, Path], Ours | Orbax] = {}
        self._tree: Any = {}
        elements, step = size // 4, COLUMNS * len(jax.devices())
        big = max(round(elements * BIG_SHARE) // step, 1) * step
        self._rows = [
            each // COLUMNS for each in (big, *[(elements - big) // (leaves - 1) // step * step] * (leaves - 1))
        ]
        for number in range(leaves):
            self.change(number, 0)

    def change(self, leaf: int, turn: int) -> None:
        """Give a leaf other values in every turn."""
        host = np.random.default_rng((leaf, turn, 1)).standard_normal((self._rows[leaf], COLUMNS), np.float32)
        self._tree[f"{leaf:04}"] = self._jax.make_array_from_callback(
            host.shape, self._sharding("x", None), lambda index: host[index]
        )

    def save(self, kind: str, folder: Path, step: str) -> float:
        """How long a save takes."""
        contender = self._contender(kind, folder)
        return seconds(lambda: contender.save(step, self._tree))

    def start(self, kind: str, folder: Path, step: str) -> float:
        """How long the process waits when it saves in the background."""
        contender = self._contender(kind, folder)
        waited = seconds(lambda: contender.start(step, self._tree))
        contender.wait()
        return waited

    def restore(self, kind: str, folder: Path, step: str) -> float:
        """How long it takes until all arrays are on devices of which each has some columns. They are compared then."""
        sharding = self._sharding(None, "x")
        like = {
            name: self._jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
            for name, leaf in self._tree.items()
        }
        restored: dict[str, Any] = {}
        contender = self._contender(kind, folder)
        taken = seconds(lambda: restored.update(self._jax.block_until_ready(contender.restore(step, like))))
        for name, leaf in self._tree.items():
            if restored[name].sharding != sharding or not bool(self._jax.numpy.array_equal(restored[name], leaf)):
                raise AssertionError(f"{kind} restored another leaf {name} than it saved")
        return taken

    def peak(self, kind: str, folder: Path, step: str) -> float:
        """How many MB more the process holds at most during a save than before it."""
        gc.collect()
        forget_peak()
        before = memory("VmRSS")
        self.save(kind, folder, step)
        return (memory("VmHWM") - before) / MB

    def _contender(self, kind: str, folder: Path) -> Ours | Orbax:
        if (kind, folder) not in self._contenders:
            self._contenders[kind, folder] = KINDS[kind](folder)
        return self._contenders[kind, folder]

    def _sharding(self, *axes: Any) -> Any:
        return self._jax.sharding.NamedSharding(self._mesh, self._jax.sharding.PartitionSpec(*axes))


def _work(calls: Connection, port: int, count: int, index: int, size: int, leaves: int) -> None:
    import absl.logging
    import jax

    absl.logging.set_verbosity(absl.logging.ERROR)
    configuration: Any = jax.config
    configuration.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=count, process_id=index)
    process = Process(size, leaves)
    with suppress(EOFError):
        while True:
            method, given = calls.recv()
            try:
                calls.send(getattr(process, method)(*given))
            except Exception as error:
                calls.send(error)
                raise


# --- all of them ----------------------------------------------------------------------------------------------------


class Run:
    """The processes of a run."""

    def __init__(self, connections: Sequence[Connection], folder: Path) -> None:
        self._connections = connections
        self.folder = folder

    def __call__(self, method: str, *given: Any) -> float:
        """Let all processes do the same. Returns the highest of their results."""
        for connection in self._connections:
            connection.send((method, given))
        results = [connection.recv() for connection in self._connections]
        for result in results:
            if isinstance(result, Exception):
                raise result
        return max(result or 0.0 for result in results)


@contextmanager
def running(options: Any, folder: Path) -> Any:
    """The processes of a run, on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(JAX_PLATFORMS="cpu", XLA_FLAGS=f"--xla_force_host_platform_device_count={DEVICES}")
    spawn = multiprocessing.get_context("spawn")
    pipes = [spawn.Pipe() for _ in range(options.processes)]
    size, leaves = options.size_mb * MB, options.leaves
    processes = [
        spawn.Process(target=_work, args=(theirs, port, options.processes, index, size, leaves))
        for index, (_, theirs) in enumerate(pipes)
    ]
    for process in processes:
        process.start()
    try:
        yield Run([ours for ours, _ in pipes], folder)
    finally:
        for process in reversed(processes):  # the first one last: JAX in the others complains when it is gone
            process.kill()
            process.join()


def _in_new_folders(run: Run, method: str, repeat: int) -> dict[str, list[float]]:
    """What each contender reaches in an empty folder, in which it has saved nothing."""

    def measure(name: str) -> float:
        with scratch(run.folder) as folder:
            return run(method, name, folder, "step")

    return in_turns({name: partial(measure, name) for name in KINDS}, repeat)


def measure_save(run: Run, repeat: int, report: Report) -> None:
    """The whole tree, into an empty folder."""
    median = _add(report, "save of the tree", "s", _in_new_folders(run, "save", repeat), SURVIVES)
    report.at_least(f"save of the tree: {ORBAX} / our time", median[ORBAX] / median[OURS], 3.0, "x")


def measure_async(run: Run, repeat: int, report: Report) -> None:
    """How long training waits when the tree is saved in the background."""
    what = "save in the background: until training goes on"
    median = _add(report, what, "s", _in_new_folders(run, "start", repeat))
    report.at_most(f"{what}: time / {ORBAX}", median[OURS] / median[ORBAX], 1.0, "x")


def measure_memory(run: Run, repeat: int, report: Report) -> None:
    """How much more memory than before a process holds while the tree is saved."""
    _add(report, "save of the tree: peak memory of a process", "MB", _in_new_folders(run, "peak", repeat))


def measure_changed_leaf(run: Run, repeat: int, report: Report) -> None:
    """The tree again, after its big leaf changed."""
    taken: dict[str, list[float]] = {name: [] for name in KINDS}
    written: dict[str, list[float]] = {name: [] for name in KINDS}
    with scratch(run.folder) as ours, scratch(run.folder) as orbax:
        folders = {OURS: ours, ORBAX: orbax}
        for turn in range(repeat + 1):
            run("change", 0, turn)
            for name, folder in folders.items():
                before = size_of(folder)
                os.sync()
                time = run("save", name, folder, str(turn))
                if turn:
                    taken[name].append(time)
                    written[name].append((size_of(folder) - before) / MB)
    what = f"save after one leaf of {BIG_SHARE * 100:.0f} % changed"
    median = _add(report, what, "s", taken, SURVIVES)
    size = _add(report, f"{what}: bytes written", "MB", written, SURVIVES)
    report.at_least(f"{what}: {ORBAX} / our time", median[ORBAX] / median[OURS], 3.0, "x")
    report.at_most(f"{what}: bytes / tree", size[OURS] / report.options.size_mb, 0.06, "x")


def measure_restore(run: Run, repeat: int, report: Report) -> None:
    """The whole tree from a warm page cache, onto a mesh that spreads columns instead of rows."""
    with scratch(run.folder) as ours, scratch(run.folder) as orbax:
        folders = {OURS: ours, ORBAX: orbax}
        for name, folder in folders.items():
            run("save", name, folder, "step")
        turns = {name: partial(run, "restore", name, folder, "step") for name, folder in folders.items()}
        median = _add(report, "restore onto another mesh", "s", in_turns(turns, repeat))
    report.at_least(f"restore onto another mesh: {ORBAX} / our time", median[ORBAX] / median[OURS], 2.0, "x")


MEASURES: dict[str, Callable[[Run, int, Report], None]] = {
    "save": measure_save,
    "async": measure_async,
    "restore": measure_restore,
    "changed-leaf": measure_changed_leaf,
    "memory": measure_memory,
}


def _add(
    report: Report,
    what: str,
    unit: str,
    found: Mapping[str, Sequence[float]],
    survives: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """Enter a figure of each contender. Returns the medians."""
    outlives = survives or dict.fromkeys(KINDS, NOTHING_WRITTEN)
    return {name: report.add(what, name, values, unit, outlives[name]) for name, values in found.items()}


def main() -> int:
    parser = arguments(__doc__, repeat=5)
    parser.add_argument("--processes", type=int, default=2, help="how many processes the run has")
    parser.add_argument("--size-mb", type=int, default=1000, help="size of the tree, in millions of bytes")
    parser.add_argument("--leaves", type=int, default=50, help="how many leaves it has")
    parser.add_argument("--only", choices=MEASURES, nargs="+", help="measure nothing else")
    options = parser.parse_args()
    with scratch(options.directory) as folder:
        report = Report("pytrees of several jax processes", options, PACKAGES, folder)
        with running(options, folder) as run:
            _in_new_folders(run, "save", 1)  # the first save of each contender imports and compiles
            for name in options.only or MEASURES:
                MEASURES[name](run, options.repeat, report)
        return report.finish()


if __name__ == "__main__":
    sys.exit(main())
