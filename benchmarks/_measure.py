"""What the benchmarks share: turns, tables, the description of the machine, and the page of the docs that they fill in.

A *figure* is what one contender reached, measured several times. A *limit* is what a figure, or the ratio of two, has
to keep. Contenders take turns (A B A B), so that a machine that slows down meanwhile slows down all of them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import psutil

T = TypeVar("T")

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs" / "benchmarks.md"
OURS = "prefect-snapshots"

MB = 1_000_000

POWER_LOSS = "power loss"
"""What was measured is on the disk when the call returns: files and directories are synced."""
PROCESS_KILL = "process kill"
"""What was measured is with the operating system: a power loss may take it back."""
NOTHING_WRITTEN = "-"
"""Nothing was written, or only its beginning was measured."""


# --- measuring ------------------------------------------------------------------------------------------------------


def seconds(work: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turns(contenders: Mapping[str, Callable[[], T]], repeat: int) -> dict[str, list[T]]:
    """What each contender returns, `repeat` times, in turns. Nobody writes back the pages of somebody else."""
    found: dict[str, list[T]] = {name: [] for name in contenders}
    for _ in range(repeat):
        for name, measure in contenders.items():
            os.sync()
            found[name].append(measure())
    return found


def sync(path: Path) -> None:
    """Make a file or a directory durable."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def size_of(directory: Path) -> int:
    """Bytes in all files below a directory."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def evict(directory: Path) -> None:
    """Drop the contents of all files from the page cache. Names and inodes may stay there: those need privileges."""
    os.sync()
    for path in directory.rglob("*"):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)


def memory(what: str) -> int:
    """Bytes that this process holds now (`VmRSS`), or held at most (`VmHWM`)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{what}:"))


def forget_peak() -> None:
    """Let `VmHWM` start again from now."""
    Path("/proc/self/clear_refs").write_text("5")


# --- reporting ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    """What one contender reached, measured several times."""

    what: str
    contender: str
    values: list[float]
    unit: str
    survives: str

    @property
    def median(self) -> float:
        return statistics.median(self.values)


@dataclass(frozen=True)
class Limit:
    """A bound, and what was reached."""

    what: str
    value: float
    sign: str
    bound: float
    unit: str

    @property
    def met(self) -> bool:
        return self.value <= self.bound if self.sign == "<=" else self.value >= self.bound


@dataclass
class Report:
    """All figures and limits of one run of one script.

    Args:
        section: The section of docs/benchmarks.md that the tables are written to.
        options: The options of the command line, from `arguments`.
        packages: The packages whose versions are reported.
        directory: The directory on the disk that was measured.
    """

    section: str
    options: argparse.Namespace
    packages: Sequence[str]
    directory: Path
    figures: list[Figure] = field(default_factory=list)
    limits: list[Limit] = field(default_factory=list)

    def add(self, what: str, contender: str, values: Sequence[float], unit: str, survives: str) -> float:
        """Enter a figure. Returns its median."""
        figure = Figure(what, contender, list(values), unit, survives)
        self.figures.append(figure)
        print(f"{what}, {contender}: {_number(figure.median)} {unit}", file=sys.stderr, flush=True)
        return figure.median

    def at_most(self, what: str, value: float, bound: float, unit: str) -> None:
        """Enter an upper limit."""
        self.limits.append(Limit(what, value, "<=", bound, unit))

    def at_least(self, what: str, value: float, bound: float, unit: str) -> None:
        """Enter a lower limit."""
        self.limits.append(Limit(what, value, ">=", bound, unit))

    def finish(self) -> int:
        """Print the tables, and write them to where the command line asks for them. Returns the exit status."""
        machine = _describe(self.directory, self.packages)
        text = self._markdown(machine)
        print(text)
        if self.options.json is not None:
            content = {
                "section": self.section,
                "options": {name: _plain(value) for name, value in vars(self.options).items()},
                "machine": machine,
                "figures": [{**asdict(figure), "median": figure.median} for figure in self.figures],
                "limits": [{**asdict(limit), "met": limit.met} for limit in self.limits],
            }
            self.options.json.write_text(json.dumps(content, indent=1) + "\n")
        if self.options.update_docs is not None:
            replace_section(self.options.update_docs, self.section, text)
        return 1 if self.options.check and not all(limit.met for limit in self.limits) else 0

    def _markdown(self, machine: Mapping[str, str]) -> str:
        figures = markdown_table(
            ("measured", "of", "survives", "median", "lowest", "highest", "times"),
            (
                (
                    figure.what,
                    figure.contender,
                    figure.survives,
                    f"{_number(figure.median)} {figure.unit}",
                    _number(min(figure.values)),
                    _number(max(figure.values)),
                    str(len(figure.values)),
                )
                for figure in self.figures
            ),
        )
        limits = markdown_table(
            ("limit", "reached", "required", "met"),
            (
                (
                    limit.what,
                    f"{_number(limit.value)} {limit.unit}",
                    f"{_SIGNS[limit.sign]} {_number(limit.bound)} {limit.unit}",
                    "yes" if limit.met else "**no**",
                )
                for limit in self.limits
            ),
        )
        facts = {"command": f"`{_command(self.options)}`", **machine}
        head = "\n".join(f"- {name}: {value}" for name, value in facts.items())
        return "\n\n".join([head, figures, limits]) + "\n"


_SIGNS = {"<=": "at most", ">=": "at least"}


def arguments(description: str, *, repeat: int) -> argparse.ArgumentParser:
    """The options that every script has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--repeat", type=int, default=repeat, help="how often each contender has its turn")
    parser.add_argument(
        "--directory",
        type=Path,
        default=ROOT / "build" / "benchmarks",
        help="where to write, in a folder that is removed at the end; its file system is what is measured",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every value there, too")
    parser.add_argument(
        "--update-docs",
        type=Path,
        nargs="?",
        const=DOCS,
        metavar="FILE",
        help=f"put the tables into a page of the docs ({DOCS.relative_to(ROOT)} when no FILE is given)",
    )
    parser.add_argument("--check", action="store_true", help="exit with status 1 when a limit is missed")
    return parser


@contextmanager
def scratch(directory: Path) -> Iterator[Path]:
    """A new folder, removed at the end."""
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory) as path:
        yield Path(path)


def _describe(directory: Path, packages: Sequence[str]) -> dict[str, str]:
    """The machine and the versions that a figure was reached with."""
    kind = _file_system(directory)
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        OURS: revision(),
        "machine": f"{_processor()}, {len(os.sched_getaffinity(0))} CPUs, "
        f"{psutil.virtual_memory().total / 1e9:.0f} GB memory",
        "file system": kind + (" (in memory: nothing here survives a power loss)" if kind in _IN_MEMORY else ""),
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "versions": ", ".join(f"{package} {version(package)}" for package in packages),
    }


def replace_section(page: Path, section: str, text: str) -> None:
    """Put a text between the two marks of a section of a page.

    Raises:
        ValueError: the page has no such section.
    """
    begin, end = f"<!-- {section}: begin -->", f"<!-- {section}: end -->"
    before, found_begin, rest = page.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise ValueError(f"{page} has no section between {begin} and {end}")
    page.write_text(f"{before}{begin}\n{text}{end}{after}")


_IN_MEMORY = ("tmpfs", "ramfs")


def _file_system(directory: Path) -> str:
    place = directory.resolve()
    mounts = {Path(mount.mountpoint): mount.fstype for mount in psutil.disk_partitions(all=True)}
    return next(mounts[parent] for parent in (place, *place.parents) if parent in mounts)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def revision() -> str:
    """The version, and in a checkout the commit, and whether the package differs from it."""
    commit = _git("rev-parse", "--short", "HEAD")
    if not commit:
        return version(OURS)
    return f"commit {commit}" + (", changed" if _git("status", "--porcelain", "--", "prefect_snapshots") else "")


def _git(*arguments: str) -> str:
    """What git says; nothing where there is no checkout."""
    return subprocess.run(["git", *arguments], cwd=ROOT, check=False, capture_output=True, text=True).stdout.strip()


def _command(options: argparse.Namespace) -> str:
    """The command line that measures the same again."""
    chosen = {name: value for name, value in vars(options).items() if name not in _ELSEWHERE and value is not None}
    words = (f"--{name.replace('_', '-')} {_words(value)}" for name, value in chosen.items())
    return " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words])


_ELSEWHERE = ("directory", "json", "update_docs", "check")
"""Options that change nothing of what is measured, or that the tables say in other words."""


def _words(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def _number(value: float) -> str:
    """Three digits that count, and no exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
