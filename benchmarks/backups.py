"""Backups of a directory and of a SQL dump, beside restic and borg.

A tree of small text files and eight large ones is backed up for the first time, unchanged, and after 1 % of it
changed; then it is restored and verified. A SQL dump is backed up for the first time, and after 1 % of its rows
changed: scattered, scattered and moved to the end, in 60 clusters, appended. Every measurement is a process of its own:
ours includes Python's start and all imports. Needs 10 GB, and 6 GB for each repetition. restic encrypts what it
stores, and cannot be told not to.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from _measure import MB, NOTHING_WRITTEN, OURS, POWER_LOSS, PROCESS_KILL, Report, arguments, in_turns, scratch, size_of

PACKAGES = ("blake3", "zstandard", "pyfastcdc")

RESTIC = "restic"
LZ4 = "borg lz4"
ZSTD = "borg zstd,3"

FILES = 20_000
BIG = 8
CHANGED = 0.01
SETTLED = 2.2
"""Seconds after which a file that was not touched is known to be unchanged."""

WORKER = Path(__file__).with_name("_backup_worker.py")


# --- contenders -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """What one process took."""

    seconds: float
    cpu: float
    """Seconds of all processors, which other work on the machine changes little."""
    peak: float
    """MB of memory held at most."""
    added: float
    """MB that the repository grew."""


@dataclass
class Contender:
    """One program and its repository."""

    folder: Path

    survives = POWER_LOSS

    @property
    def repository(self) -> Path:
        return self.folder / "repository"

    def create(self) -> None:
        """Make an empty repository."""

    def backup(self, source: Path) -> Cost:
        raise NotImplementedError

    def restore(self, target: Path) -> Cost:
        raise NotImplementedError

    def verify(self) -> Cost:
        raise NotImplementedError

    def run(self, command: Sequence[str | Path], cwd: Path | None = None, **variables: str) -> Cost:
        """Run a command, and measure it."""
        before = size_of(self.repository)
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=cwd or self.folder,
            env={**os.environ, **variables},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        taken = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{command} failed: {said.decode(errors='replace')}")
        cpu = usage.ru_utime + usage.ru_stime
        return Cost(taken, cpu, usage.ru_maxrss * 1024 / MB, (size_of(self.repository) - before) / MB)


class Ours(Contender):
    def backup(self, source: Path) -> Cost:
        return self._work("tree" if source.is_dir() else "dump", source)

    def restore(self, target: Path) -> Cost:
        return self._work("restore", target)

    def verify(self) -> Cost:
        return self._work("verify", "-")

    def _work(self, what: str, path: Path | str) -> Cost:
        return self.run([sys.executable, WORKER, self.repository, what, path])


class Restic(Contender):
    survives = PROCESS_KILL  # nothing syncs the directories

    def create(self) -> None:
        self._restic("init")

    def backup(self, source: Path) -> Cost:
        return self._restic("backup", source)

    def restore(self, target: Path) -> Cost:
        return self._restic("restore", "latest", "--target", target)

    def verify(self) -> Cost:
        return self._restic("check", "--read-data")

    def _restic(self, *words: str | Path) -> Cost:
        cache = str(self.folder / "cache")
        command = ["restic", "--quiet", "--repo", self.repository, *words]
        return self.run(command, RESTIC_PASSWORD="benchmark", RESTIC_CACHE_DIR=cache)


@dataclass
class Borg(Contender):
    compression: str

    def create(self) -> None:
        self._borg(["init", "--encryption", "none", self.repository])

    def backup(self, source: Path) -> Cost:
        name = f"{self.repository}::{time.time_ns()}"
        return self._borg(["create", "--compression", self.compression, name, source])

    def restore(self, target: Path) -> Cost:
        target.mkdir(parents=True, exist_ok=True)
        listed = self._listed()
        return self._borg(["extract", f"{self.repository}::{listed[-1]}"], target)

    def verify(self) -> Cost:
        return self._borg(["check", "--verify-data", self.repository])

    def _listed(self) -> list[str]:
        command = ["borg", "list", "--short", str(self.repository)]
        done = subprocess.run(command, env=self._environment(), capture_output=True, text=True, check=True)
        return done.stdout.split()

    def _borg(self, words: Sequence[str | Path], cwd: Path | None = None) -> Cost:
        return self.run(["borg", *words], cwd, **self._environment())

    def _environment(self) -> dict[str, str]:
        accept = {"BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes", "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes"}
        return {**os.environ, **accept, "BORG_BASE_DIR": str(self.folder / "base")}


def contenders(folder: Path) -> dict[str, Contender]:
    """Those that are installed, each with an empty repository."""
    kinds: dict[str, Callable[[Path], Contender]] = {
        OURS: Ours,
        RESTIC: Restic,
        LZ4: partial(Borg, compression="lz4"),
        ZSTD: partial(Borg, compression="zstd,3"),
    }
    found = {}
    for name, kind in kinds.items():
        program = name.split()[0]
        if name != OURS and shutil.which(program) is None:
            print(f"{name} is skipped: there is no {program} on this machine", file=sys.stderr)
            continue
        place = folder / name.replace(" ", "-")
        place.mkdir(parents=True)
        (place / "repository").mkdir()
        found[name] = kind(place)
        found[name].create()
    return found


# --- what is backed up ----------------------------------------------------------------------------------------------


class Words:
    """Lines of text that compress like text."""

    def __init__(self) -> None:
        random = np.random.default_rng(1)
        letters = np.frombuffer(b"eeeeetttaaaooiinnsshhrrdlucmfwypvbgkqjxz", np.uint8)
        words = [random.choice(letters, 2 + int(size)).tobytes() for size in random.poisson(4, 6000)]
        numbers = np.minimum(random.zipf(1.15, 12 * 40_000) - 1, len(words) - 1).reshape(-1, 12)
        self._lines = [b" ".join([words[number] for number in row]) + b"\n" for row in numbers]

    def text(self, size: int, *number: int) -> bytes:
        """So many bytes, other ones for each number."""
        random = np.random.default_rng((*number, 1))
        chosen = random.integers(len(self._lines), size=size // 40 + 8)
        return b"".join([self._lines[line] for line in chosen])[:size]


class Tree:
    """A directory of a size, and its changes."""

    def __init__(self, folder: Path, scale: float) -> None:
        self.folder = folder
        self._words = Words()
        self._count = max(40, round(FILES * scale))
        self._big = max(200_000, round(70 * MB * scale))
        random = np.random.default_rng(2)
        self._sizes = np.clip(random.lognormal(9.4, 1.0, self._count), 200, 400_000).astype(int)

    def create(self) -> None:
        """Write all files."""
        for number, size in enumerate(self._sizes):
            self._write(self._path(number), self._words.text(int(size), 1, number))
        for number in range(BIG):
            self._write(self.folder / "big" / f"{number}.bin", b"".join(self._large(number)))

    def change(self, turn: int) -> None:
        """1 % of the files anew, as many of them removed, renamed and added; four large ones in part."""
        random = np.random.default_rng((3, turn))
        there = sorted(path for path in self.folder.rglob("*.txt"))
        count = max(1, round(self._count * CHANGED))
        half = max(1, count // 2)
        chosen = [there[number] for number in random.choice(len(there), count + 2 * half, replace=False)]
        for number, path in enumerate(chosen[:count]):
            path.write_bytes(self._words.text(path.stat().st_size, 4, turn, number))
        for path in chosen[count : count + half]:
            path.unlink()
        for path in chosen[count + half :]:
            path.rename(path.with_name(f"renamed-{turn}-{path.name}"))
        for number in range(half):
            size = int(self._sizes[number])
            self._write(self.folder / f"added-{turn}" / f"{number}.txt", self._words.text(size, 5, turn, number))
        with (self.folder / "big" / "0.bin").open("r+b") as database:
            pages = self._big // 4096
            for page in random.choice(pages, min(20, pages), replace=False):
                database.seek(int(page) * 4096)
                database.write(random.bytes(4096))
        with (self.folder / "big" / "1.bin").open("ab") as log:
            log.write(self._words.text(max(1000, self._big // 70), 6, turn))
        inserted = self.folder / "big" / "2.bin"
        data = inserted.read_bytes()
        inserted.write_bytes(data[:5000] + random.bytes(1000) + data[5000:])

    def _path(self, number: int) -> Path:
        return self.folder / f"{number % 40:02}" / f"{number // 40 % 25:02}" / f"{number:06}.txt"

    def _large(self, number: int) -> Iterator[bytes]:
        """Random bytes, text, and pages that are half of each."""
        random = np.random.default_rng((7, number))
        for at in range(0, self._big, MB):
            size = min(MB, self._big - at)
            if number in (2, 3, 4):
                yield random.bytes(size)
            elif number in (1, 5):
                yield self._words.text(size, 8, number, at)
            else:
                text = self._words.text(size, 9, number, at)
                yield b"".join([text[page : page + 2048] + random.bytes(2048) for page in range(0, size, 4096)])

    def _write(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


class Table:
    """The dump of a table of a size, and of its changes."""

    def __init__(self, scale: float) -> None:
        self._words = Words()
        self._rows = max(10_000, round(3_300_000 * scale))
        self._block = 50_000

    def write(self, path: Path, change: str = "") -> None:
        """Write the dump, as the table is after a change."""
        random = np.random.default_rng(11)
        count = round(self._rows * CHANGED)
        hit = np.zeros(self._rows, bool)
        if change in ("scattered", "moved"):
            hit[random.choice(self._rows, count, replace=False)] = True
        elif change == "clustered":
            for start in random.choice(self._rows - count // 60, 60, replace=False):
                hit[start : start + count // 60] = True
        moved: list[bytes] = []
        with path.open("wb") as file:
            file.write(b"COPY public.orders (id, customer, total, rating, changed_at, note) FROM stdin;\n")
            for start in range(0, self._rows, self._block):
                stop = min(start + self._block, self._rows)
                rows = self._some(start, stop)
                anew = self._some(start, stop, 1) if hit[start:stop].any() else rows
                for number in np.flatnonzero(hit[start:stop]):
                    rows[number] = b"" if change == "moved" else anew[number]
                    moved.append(anew[number])
                file.write(b"".join(rows))
            if change == "moved":
                file.write(b"".join(moved))
            if change == "appended":
                file.write(b"".join(self._some(self._rows, self._rows + count)))
            file.write(b"\\.\n")

    def _some(self, start: int, stop: int, version: int = 0) -> list[bytes]:
        random = np.random.default_rng((12, start, version))
        count = stop - start
        notes = self._words.text(80 * count + 200, 13, start, version).split(b"\n")
        customers = random.integers(10**6, size=count).tolist()
        totals = random.integers(10**7, size=count).tolist()
        ratings = random.random(count).tolist()
        seconds = (1_700_000_000 + np.arange(start, stop) * 7 + random.integers(7, size=count)).tolist()
        return [
            b"%d\tcustomer-%d\t%d.%02d\t%.6f\t%d\t%b\n"
            % (start + at, customers[at], totals[at] // 100, totals[at] % 100, ratings[at], seconds[at],
               notes[at % len(notes)][:90])
            for at in range(count)
        ]  # fmt: skip


# --- what is measured -----------------------------------------------------------------------------------------------


class Found:
    """What was measured of each step and contender, and where it is reported."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._costs: dict[tuple[str, str], list[Cost]] = {}
        self.survives: dict[str, str] = {}

    def measure(self, what: str, turns: Mapping[str, Callable[[], Cost]]) -> None:
        """Give each contender one turn."""
        for name, [cost] in in_turns(turns, 1).items():
            self._costs.setdefault((what, name), []).append(cost)

    def enter(self, what: str, *, added: bool, writes: bool = True) -> None:
        """Report what was measured of a step."""
        for (step, name), costs in self._costs.items():
            if step == what:
                survives = self.survives[name] if writes else NOTHING_WRITTEN
                self._report.add(what, name, [cost.seconds for cost in costs], "s", survives)
                self._report.add(f"{what}: CPU time", name, [cost.cpu for cost in costs], "s", NOTHING_WRITTEN)
                self._report.add(f"{what}: peak memory", name, [cost.peak for cost in costs], "MB", NOTHING_WRITTEN)
                if added:
                    self._report.add(f"{what}: added", name, [cost.added for cost in costs], "MB", survives)

    def faster(self, what: str, peer: str, bound: float) -> None:
        """Require to take `bound` times less time than a peer."""
        if (what, peer) in self._costs:
            ratio = self._median(what, peer, "seconds") / self._median(what, OURS, "seconds")
            self._report.at_least(f"{what}: {peer} / our time", ratio, bound, "x")

    def smaller(self, what: str, peer: str) -> None:
        """Require to add no more than a peer."""
        if (what, peer) in self._costs:
            ratio = self._median(what, OURS, "added") / self._median(what, peer, "added")
            self._report.at_most(f"{what}: our bytes / {peer}", ratio, 1.0, "x")

    def at_most(self, what: str, column: str, bound: float) -> None:
        """Require a value of our own."""
        self._report.at_most(f"{what}: {column}", self._median(what, OURS, column), bound, "MB")

    def _median(self, what: str, name: str, column: str) -> float:
        return float(np.median([getattr(cost, column) for cost in self._costs[what, name]]))


def measure_tree(scale: float, repeat: int, folder: Path, report: Report) -> None:
    """A directory: first, unchanged, changed, restored, verified.

    Nothing is removed on the way: for minutes after 20,000 files went, ext4 takes several times as long to create one,
    because it passes over inodes that were freed lately.
    """
    source = folder / "source"
    _apart(_create_tree, source, scale)
    found = Found(report)
    first, unchanged, changed = "first backup of the tree", "backup of the unchanged tree", "backup of the changed tree"
    restore, verify = "restore of the tree", "verification of all data"
    for turn in range(repeat):
        time.sleep(SETTLED)
        running = contenders(folder / f"tree-{turn}")
        found.survives = {name: one.survives for name, one in running.items()}
        found.measure(first, {name: partial(one.backup, source) for name, one in running.items()})
        found.measure(unchanged, {name: partial(one.backup, source) for name, one in running.items()})
        _apart(_change_tree, source, scale, turn)
        time.sleep(SETTLED)
        found.measure(changed, {name: partial(one.backup, source) for name, one in running.items()})
        targets = {name: folder / f"restored-{turn}" / name.replace(" ", "-") for name in running}
        found.measure(restore, {name: partial(one.restore, targets[name]) for name, one in running.items()})
        _apart(_require_equal, source, targets[OURS])
        found.measure(verify, {name: partial(one.verify) for name, one in running.items()})
    for what in (first, unchanged, changed):
        found.enter(what, added=True)
    for what in (restore, verify):
        found.enter(what, added=False, writes=what == restore)
    found.faster(first, LZ4, 1.7)
    found.faster(first, RESTIC, 3.0)
    found.smaller(first, RESTIC)
    found.faster(unchanged, LZ4, 1.5)
    found.faster(changed, LZ4, 1.0)
    found.smaller(changed, RESTIC)
    found.faster(restore, LZ4, 1.7)
    found.faster(restore, RESTIC, 1.7)
    found.faster(verify, RESTIC, 1.0)
    for what in (first, unchanged, changed, restore, verify):
        found.at_most(what, "peak", 300)


def measure_dump(scale: float, repeat: int, folder: Path, report: Report) -> None:
    """A SQL dump: first, and after 1 % of it changed in one of four ways."""
    bounds = {"scattered": 5.0, "moved": 5.0, "clustered": 4.0, "appended": 1.8}
    found = Found(report)
    dumps = folder / "dumps"
    dumps.mkdir()
    _apart(_write_dumps, dumps, scale, list(bounds))
    first = "first backup of the dump"
    for turn in range(repeat):
        for change in bounds:
            running = contenders(folder / f"dump-{turn}-{change}")
            found.survives = {name: one.survives for name, one in running.items()}
            source = folder / "dump.sql"
            shutil.copy(dumps / "dump.sql", source)
            what = first if change == "scattered" else f"first backup of the dump, before {change}"
            found.measure(what, {name: partial(one.backup, source) for name, one in running.items()})
            shutil.copy(dumps / change, source)
            turns = {name: partial(one.backup, source) for name, one in running.items()}
            found.measure(f"dump with 1 % {change}", turns)
            shutil.rmtree(folder / f"dump-{turn}-{change}")
    shutil.rmtree(dumps)
    found.enter(first, added=True)
    found.faster(first, ZSTD, 1.3)
    found.smaller(first, ZSTD)
    found.at_most(first, "peak", 300)
    for change, bound in bounds.items():
        what = f"dump with 1 % {change}"
        found.enter(what, added=True)
        found.at_most(what, "added", bound * scale)
        found.faster(what, RESTIC, 1.0)
        found.at_most(what, "peak", 300)


MEASURES: dict[str, Callable[[float, int, Path, Report], None]] = {"tree": measure_tree, "dump": measure_dump}


def _apart(work: Callable[..., None], *words: object) -> None:
    """Do something in a process of its own: what a child is said to have held at most begins with what we hold."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
        processes.submit(work, *words).result()


def _create_tree(folder: Path, scale: float) -> None:
    Tree(folder, scale).create()


def _change_tree(folder: Path, scale: float, turn: int) -> None:
    Tree(folder, scale).change(turn)


def _write_dumps(folder: Path, scale: float, changes: list[str]) -> None:
    table = Table(scale)
    table.write(folder / "dump.sql")
    for change in changes:
        table.write(folder / change, change)


def _require_equal(source: Path, restored: Path) -> None:
    def listed(folder: Path) -> Iterable[tuple[str, int, int]]:
        paths = sorted(folder.rglob("*"))
        return [(str(path.relative_to(folder)), path.lstat().st_mode, path.lstat().st_mtime_ns) for path in paths]

    if listed(source) != listed(restored):
        raise AssertionError("what was restored is not what was backed up")
    for path in source.rglob("*"):
        if path.is_file() and path.read_bytes() != (restored / path.relative_to(source)).read_bytes():
            raise AssertionError(f"{path} was restored with other bytes")


def main() -> int:
    parser = arguments(__doc__, repeat=3)
    parser.add_argument("--scale", type=float, default=1.0, help="1: a tree of 1 GB and a dump of 500 MB")
    parser.add_argument("--only", choices=MEASURES, nargs="+", help="measure nothing else")
    options = parser.parse_args()
    with scratch(options.directory) as folder:
        report = Report("backups", options, PACKAGES, folder)
        for name in options.only or MEASURES:
            MEASURES[name](options.scale, options.repeat, folder, report)
        return report.finish()


if __name__ == "__main__":
    sys.exit(main())
