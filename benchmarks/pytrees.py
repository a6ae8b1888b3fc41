"""Pytrees: saving, restoring, and saving again what changed, beside raw writes, safetensors and Orbax.

A contender keeps its steps in a folder of its own, and is warmed up with a small tree. All save the same values: random
float32, of which one leaf holds 5 % of the bytes and the others share the rest.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import multiprocessing
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import absl.logging
import jax
import numpy as np
import orbax.checkpoint as ocp
import safetensors.flax
import safetensors.numpy
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
    sync,
)
from numpy.typing import NDArray

from prefect_snapshots import PyTreeSnapshotManager, Repository, SnapshotManager

RAW = "raw write + fsync"
SAFETENSORS = "safetensors"
ORBAX = "Orbax Standard"
FLOOR = "write, fsync, link, fsync of the directory"
PACKAGES = ("jax", "numpy", "blake3", "zstandard", "safetensors", "orbax-checkpoint", "tensorstore")

BIG_SHARE = 0.05
STEPS = 10
STEP_SHARE = 0.10
SMALL_LEAVES = 1000
SMALL_LEAF = 256
"""Elements in a leaf of 1 KB."""

Tree = dict[str, Any]
Host = NDArray[np.float32]


# --- contenders -----------------------------------------------------------------------------------------------------


class Contender(ABC):
    """Keeps trees in a folder, each under the name of a step."""

    survives = POWER_LOSS
    """What a save has survived when it returns."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def save(self, step: str, tree: Tree) -> None:
        """Save, and return when it is done."""

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Let go of threads and files."""


class Ours(Contender):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._manager: PyTreeSnapshotManager[Tree] = PyTreeSnapshotManager(folder)

    def save(self, step: str, tree: Tree) -> None:
        self._manager.save_snapshot(tree, step)

    def start(self, step: str, tree: Tree) -> None:
        self._manager.save_async(tree, step)

    def restore(self, step: str, like: Tree) -> Tree:
        # A repository opened anew remembers nothing. `like` is for those that need it.
        manager: PyTreeSnapshotManager[Tree] = PyTreeSnapshotManager(Repository(self.folder, read_only=True))
        return manager.get_snapshot(step).data

    def close(self) -> None:
        self._manager.wait()


class Raw(Contender):
    """The bytes in one file, without names, types or checksums: what the disk can do."""

    def save(self, step: str, tree: Tree) -> None:
        with (self.folder / step).open("wb", buffering=0) as file:
            for leaf in jax.tree.leaves(tree):
                rest = np.asarray(leaf).data.cast("B")
                while rest:
                    rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        sync(self.folder)


class Safetensors(Contender):
    def save(self, step: str, tree: Tree) -> None:
        path = self.folder / step
        save_file = safetensors.flax.save_file if _on_jax(tree) else safetensors.numpy.save_file
        save_file(dict(zip(_names(tree), jax.tree.leaves(tree), strict=True)), path)
        sync(path)
        sync(self.folder)

    def restore(self, step: str, like: Tree) -> Tree:
        load_file = safetensors.flax.load_file if _on_jax(like) else safetensors.numpy.load_file
        loaded = load_file(self.folder / step)
        restored: Tree = jax.tree.unflatten(jax.tree.structure(like), [loaded[name] for name in _names(like)])
        return restored


class Orbax(Contender):
    """`StandardCheckpointer` as it comes: it syncs its data, but neither its metadata nor the name of the step."""

    survives = PROCESS_KILL

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._checkpointer = ocp.StandardCheckpointer()

    def save(self, step: str, tree: Tree) -> None:
        self.start(step, tree)
        self._checkpointer.wait_until_finished()

    def start(self, step: str, tree: Tree) -> None:
        self._checkpointer.save(self.folder / step, tree)

    def restore(self, step: str, like: Tree) -> Tree:
        restored: Tree = self._checkpointer.restore(self.folder / step, like)
        return restored

    def close(self) -> None:
        self._checkpointer.close()


def _names(tree: Tree) -> list[str]:
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(tree)]


def _on_jax(tree: Tree) -> bool:
    return isinstance(jax.tree.leaves(tree)[0], jax.Array)


WRITERS: dict[str, type[Contender]] = {OURS: Ours, RAW: Raw, SAFETENSORS: Safetensors, ORBAX: Orbax}
FULL: dict[str, type[Ours | Safetensors | Orbax]] = {OURS: Ours, SAFETENSORS: Safetensors, ORBAX: Orbax}
"""Those that give back what they saved."""


# --- trees ----------------------------------------------------------------------------------------------------------

PLACES: dict[str, Callable[[Host], Any]] = {"numpy": lambda host: host, "jax": jax.numpy.array}
"""What makes a leaf of a host array."""


@dataclass(frozen=True)
class Setting:
    """What is measured, and where."""

    size: int
    """Bytes of the large tree."""
    leaves: int
    arrays: str
    repeat: int
    folder: Path

    @property
    def big(self) -> int:
        """Elements of the big leaf."""
        return round(self.size // 4 * BIG_SHARE)

    @property
    def other(self) -> int:
        """Elements of each other leaf."""
        return (self.size // 4 - self.big) // (self.leaves - 1)

    def leaf(self, elements: int, *number: int) -> Any:
        """Random values, other ones for each number."""
        # The last number keeps (3,) and (3, 0) apart, which are one seed to NumPy.
        return PLACES[self.arrays](np.random.default_rng((*number, 1)).standard_normal(elements, np.float32))

    def tree(self) -> Tree:
        """The large tree."""
        layers = {f"{number:05}": self.leaf(self.other, number) for number in range(1, self.leaves)}
        return {"embedding": self.leaf(self.big, 0), "layers": layers}

    def small_tree(self, number: int) -> Tree:
        """1,000 leaves of 1 KB, other ones for each number."""
        rows = np.random.default_rng(number).standard_normal((SMALL_LEAVES, SMALL_LEAF), np.float32)
        return {f"{name:04}": PLACES[self.arrays](row) for name, row in enumerate(rows)}

    def training(self, tree: Tree, turn: int) -> Iterator[Tree]:
        """Ten trees, each with 10 % of the bytes other than in the one before."""
        count = max(1, round(self.size * STEP_SHARE / 4 / self.other))
        names = itertools.cycle(tree["layers"])
        for step in range(STEPS):
            changed = {name: self.leaf(self.other, int(name), turn, step) for name in itertools.islice(names, count)}
            tree = {**tree, "layers": {**tree["layers"], **changed}}
            yield tree


C = TypeVar("C", bound=Contender)


@contextmanager
def opened(kind: type[C], setting: Setting) -> Iterator[C]:
    """A contender with an empty folder, warmed up."""
    with scratch(setting.folder) as folder:
        contender = kind(folder)
        try:
            contender.save("warm-up", {"leaf": setting.leaf(SMALL_LEAF)})
            yield contender
        finally:
            contender.close()


@contextmanager
def all_opened(kinds: Mapping[str, type[C]], setting: Setting) -> Iterator[dict[str, C]]:
    """Several contenders, by name."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(opened(kind, setting)) for name, kind in kinds.items()}


# --- what is measured -----------------------------------------------------------------------------------------------


def measure_save(setting: Setting, report: Report) -> None:
    """The whole tree, into an empty folder."""
    tree = setting.tree()

    def save(kind: type[Contender]) -> float:
        with opened(kind, setting) as contender:
            os.sync()
            return seconds(lambda: contender.save("step", tree))

    found = in_turns({name: partial(save, kind) for name, kind in WRITERS.items()}, setting.repeat)
    median = _add(report, "save of the tree", "s", found)
    report.at_most(f"save of the tree: time / {RAW}", median[OURS] / median[RAW], 1.0, "x")
    report.at_least(f"save of the tree: {ORBAX} / our time", median[ORBAX] / median[OURS], 3.0, "x")


def measure_async(setting: Setting, report: Report) -> None:
    """How long training waits when the tree is saved in the background."""
    tree = setting.tree()

    def start(kind: type[Ours | Orbax]) -> float:
        with opened(kind, setting) as contender:
            os.sync()
            return seconds(lambda: contender.start("step", tree))

    found = in_turns({OURS: partial(start, Ours), ORBAX: partial(start, Orbax)}, setting.repeat)
    for name, values in found.items():
        report.add("save in the background: until training goes on", name, values, "s", NOTHING_WRITTEN)


def measure_restore(setting: Setting, report: Report) -> None:
    """The whole tree from a warm page cache, as both kinds of arrays."""
    for arrays in PLACES:
        chosen = replace(setting, arrays=arrays)
        tree = chosen.tree()
        with all_opened(FULL, chosen) as contenders:
            for contender in contenders.values():
                contender.save("step", tree)
            turns = {name: partial(_restore, contender, tree) for name, contender in contenders.items()}
            found = in_turns(turns, setting.repeat)
        what = f"restore of the tree as {arrays} arrays"
        median = {name: report.add(what, name, values, "s", NOTHING_WRITTEN) for name, values in found.items()}
        report.at_most(f"{what}: time / safetensors", median[OURS] / median[SAFETENSORS], 1.5, "x")


def measure_changed_leaf(setting: Setting, report: Report) -> None:
    """The tree again, after its big leaf changed."""
    tree = setting.tree()
    trees = ({**tree, "embedding": setting.leaf(setting.big, 0, turn)} for turn in range(setting.repeat))
    taken, written = _follow(FULL, setting, tree, trees)
    what = f"save after one leaf of {BIG_SHARE * 100:.0f} % changed"
    median = _add(report, what, "s", taken)
    size = _add(report, f"{what}: bytes written", "MB", written)
    report.at_most(f"{what}: bytes / tree", size[OURS] * MB / setting.size, 0.06, "x")
    report.at_least(f"{what}: {SAFETENSORS} / our time", median[SAFETENSORS] / median[OURS], 3.0, "x")


def measure_steps(setting: Setting, report: Report) -> None:
    """Ten more saves, before each of which 10 % of the bytes change."""
    kinds: dict[str, type[Contender]] = {OURS: Ours, ORBAX: Orbax}
    tree = setting.tree()
    taken: dict[str, list[float]] = {name: [] for name in kinds}
    written: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(setting.repeat):
        each_taken, each_written = _follow(kinds, setting, tree, setting.training(tree, turn))
        for name in kinds:
            taken[name].append(sum(each_taken[name]))
            written[name].append(sum(each_written[name]))
    what = f"{STEPS} saves, {STEP_SHARE * 100:.0f} % changing each"
    median = _add(report, f"{what}: in sum", "s", taken)
    beyond = _add(report, f"{what}: bytes beyond the first save", "MB", written)
    report.at_most(f"{what}: bytes / tree", beyond[OURS] * MB / setting.size, 1.05, "x")
    report.at_least(f"{what}: {ORBAX} / our time", median[ORBAX] / median[OURS], 7.0, "x")


def measure_small_leaves(setting: Setting, report: Report) -> None:
    """Trees of many small leaves, with other values in every save."""
    saves = {OURS: 50, SAFETENSORS: 50, ORBAX: 2}
    numbers = itertools.count()

    def rate(contender: Contender, count: int) -> float:
        trees = ((number, setting.small_tree(number)) for number in itertools.islice(numbers, count))
        return count / sum(seconds(partial(contender.save, str(number), tree)) for number, tree in trees)

    with all_opened(FULL, setting) as contenders:
        turns = {name: partial(rate, contender, saves[name]) for name, contender in contenders.items()}
        found = in_turns(turns, setting.repeat)
    what = f"saves of {SMALL_LEAVES:,} leaves of 1 KB"
    median = _add(report, what, "/s", found)
    report.at_least(what, median[OURS], 200, "/s")


def measure_small_dictionaries(setting: Setting, report: Report) -> None:
    """Dictionaries that travel inside the event, beside the least that a durable commit of as many bytes takes."""
    saves = 500
    numbers = itertools.count()
    with scratch(setting.folder) as folder:
        repository, files = folder / "repository", folder / "files"
        manager: SnapshotManager[dict[str, Any]] = SnapshotManager(repository)
        files.mkdir()

        def save(number: int) -> None:
            manager.save_snapshot({"step": number, "loss": number / 7, "name": "digits"}, str(number))

        save(next(numbers))
        before = size_of(repository)
        save(next(numbers))
        content = os.urandom(size_of(repository) - before)

        def link(number: int) -> None:
            temporary = files / "temporary"
            with temporary.open("wb", buffering=0) as file:
                file.write(content)
                os.fsync(file.fileno())
            os.link(temporary, files / str(number))
            temporary.unlink()
            sync(files)

        def rate(commit: Callable[[int], None]) -> float:
            def work() -> None:
                for number in itertools.islice(numbers, saves):
                    commit(number)

            return saves / seconds(work)

        found = in_turns({OURS: partial(rate, save), FLOOR: partial(rate, link)}, setting.repeat)
    what = "saves of a small dictionary"
    median = {name: report.add(what, name, values, "/s", POWER_LOSS) for name, values in found.items()}
    report.at_least(what, median[OURS], 1500, "/s")


def measure_memory(setting: Setting, report: Report) -> None:
    """How much more memory than the tree the process holds while the tree is saved."""

    def peak(kind: type[Contender]) -> float:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
            return processes.submit(_peak, kind, setting).result() / MB

    found = in_turns({name: partial(peak, kind) for name, kind in FULL.items()}, setting.repeat)
    what = "save of the tree: peak memory beyond it"
    median = {name: report.add(what, name, values, "MB", NOTHING_WRITTEN) for name, values in found.items()}
    report.at_most(what, median[OURS], 100, "MB")


MEASURES: dict[str, Callable[[Setting, Report], None]] = {
    "save": measure_save,
    "async": measure_async,
    "restore": measure_restore,
    "changed-leaf": measure_changed_leaf,
    "steps": measure_steps,
    "small-leaves": measure_small_leaves,
    "small-dictionaries": measure_small_dictionaries,
    "memory": measure_memory,
}


# --- how ------------------------------------------------------------------------------------------------------------


def _add(report: Report, what: str, unit: str, found: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Enter a figure of what each contender wrote. Returns the medians."""
    return {name: report.add(what, name, values, unit, WRITERS[name].survives) for name, values in found.items()}


def _restore(contender: Ours | Safetensors | Orbax, tree: Tree) -> float:
    """How long it takes until all leaves are there. They are compared afterwards."""
    # Memory that an earlier tree has left would be there already: nobody who resumes has that.
    ctypes.CDLL(None).malloc_trim(0)
    restored: list[Tree] = []
    restore = partial(contender.restore, "step", tree)
    taken = seconds(lambda: restored.append(jax.block_until_ready(restore())))  # type: ignore[no-untyped-call]
    if not jax.tree.all(jax.tree.map(lambda a, b: type(a) is type(b) and np.array_equal(a, b), tree, restored[0])):
        raise AssertionError(f"{type(contender).__name__} restored another tree than it saved")
    return taken


def _follow(
    kinds: Mapping[str, type[Contender]], setting: Setting, first: Tree, others: Iterable[Tree]
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Save a tree, and then others, each by all contenders in turn. Returns seconds and MB of each of the others."""
    taken: dict[str, list[float]] = {name: [] for name in kinds}
    written: dict[str, list[float]] = {name: [] for name in kinds}

    def save(contender: Contender, step: str, tree: Tree) -> tuple[float, float]:
        before = size_of(contender.folder)
        return seconds(lambda: contender.save(step, tree)), (size_of(contender.folder) - before) / MB

    with all_opened(kinds, setting) as contenders:
        for contender in contenders.values():
            contender.save("first", first)
        for number, tree in enumerate(others):
            turns = {name: partial(save, contender, str(number), tree) for name, contender in contenders.items()}
            for name, [result] in in_turns(turns, 1).items():
                taken[name].append(result[0])
                written[name].append(result[1])
    return taken, written


def _peak(kind: type[Contender], setting: Setting) -> int:
    """In a process of its own: the most memory held during a save, beyond what was held before it."""
    tree = setting.tree()
    with opened(kind, setting) as contender:
        gc.collect()
        os.sync()
        forget_peak()
        before = memory("VmRSS")
        contender.save("step", tree)
        return memory("VmHWM") - before


def main() -> int:
    parser = arguments(__doc__, repeat=5)
    parser.add_argument("--size-mb", type=int, default=1000, help="size of the tree, in millions of bytes")
    parser.add_argument("--leaves", type=int, default=200, help="how many leaves it has")
    parser.add_argument("--arrays", choices=PLACES, default="numpy", help="what the leaves are")
    parser.add_argument("--only", choices=MEASURES, nargs="+", help="measure nothing else")
    options = parser.parse_args()
    absl.logging.set_verbosity(absl.logging.ERROR)
    section = f"pytrees of {options.arrays} arrays"
    with scratch(options.directory) as folder:
        report = Report(section, options, PACKAGES, folder)
        setting = Setting(options.size_mb * MB, options.leaves, options.arrays, options.repeat, folder)
        for name in options.only or MEASURES:
            MEASURES[name](setting, report)
        return report.finish()


if __name__ == "__main__":
    sys.exit(main())
