"""Compare this checkout with another commit: is anything slower than it was?

    python benchmarks/commits.py --commit HEAD~20
    python benchmarks/commits.py --commit 856175d --cases pytree "small results" --scale 0.2 --repeat 5

Each case of `_cases.py` runs in a new process, in turns with the package of the other commit and with this one, in the
same environment. Nothing is installed. What a case computes (CPU) hardly depends on what else the machine does; what
the clock shows does, and on the disk as well.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from _cases import CASES
from _measure import NOTHING_WRITTEN, ROOT, Report, arguments, in_turns, scratch

THIS = "this checkout"
UNITS = {"CPU": "cpu", "clock": "wall"}


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """A work tree of a commit, removed at the end."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(tree), commit], cwd=ROOT, check=True)
        try:
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)


def measure(tree: Path, case: str, options: argparse.Namespace, home: Path) -> dict[str, float]:
    """Run a case with the package of a tree. Returns seconds of a call."""
    with scratch(options.directory) as folder:
        command = [sys.executable, str(Path(__file__).parent / "_cases.py"), case, str(folder), str(options.scale)]
        environment = {**os.environ, "PYTHONPATH": str(tree), "PREFECT_HOME": str(home)}
        done = subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def compare(report: Report, case: str, trees: Mapping[str, Path], home: Path) -> None:
    """Enter what a case takes in both trees, and the ratio: above 1 means that this checkout is slower."""
    options = report.options
    turns = in_turns(
        {name: partial(measure, tree, case, options, home) for name, tree in trees.items()}, options.repeat
    )
    for unit, key in UNITS.items():
        medians = {
            name: report.add(f"{case} ({unit})", name, [1000 * turn[key] for turn in found], "ms", NOTHING_WRITTEN)
            for name, found in turns.items()
        }
        if key == "cpu":
            ratio = medians[THIS] / medians[options.commit]
            report.at_most(f"{case}: {THIS} / {options.commit}", ratio, options.allowed, "x")


def main() -> int:
    parser = arguments(__doc__ or "", repeat=5)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--commit", required=True, help="what to compare with, from commit 856175d on")
    parser.add_argument("--cases", nargs="+", metavar="WORDS", help="only those with these words in their name")
    parser.add_argument("--scale", type=float, default=1.0, help="measure this share of each case")
    parser.add_argument("--allowed", type=float, default=1.05, help="limit of new / old")
    options = parser.parse_args()
    chosen = [case for case in CASES if not options.cases or any(words in case for words in options.cases)]
    if not chosen:
        parser.error(f"no case has these words in its name. There are: {', '.join(CASES)}")
    report = Report("commits", options, ("numpy", "prefect"), options.directory)
    options.directory.mkdir(parents=True, exist_ok=True)
    with checkout(options.commit) as tree, tempfile.TemporaryDirectory() as home:
        for case in chosen:
            compare(report, case, {options.commit: tree, THIS: ROOT}, Path(home))
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
