"""Compare this checkout with another commit: run benchmark scripts of both in turns, and print the ratios.

    python benchmarks/commits.py --commit HEAD~20 --script pytrees.py --size-mb 200 --only save restore
    python benchmarks/commits.py --commit HEAD~1 --script iterables.py --repeat 5

Each commit runs its own copy of the script on its own package, in the same environment, so that an API that changed
between them does not matter. Only figures that both have are compared. Options that this script does not know go to the
other one. Peers run as well, and are left out here.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from _measure import OURS, ROOT, Report, arguments, in_turns

Figures = dict[str, dict[str, Any]]


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


def measure(tree: Path, script: str, options: list[str]) -> Figures:
    """Our figures of one run of a script, by what was measured."""
    with tempfile.TemporaryDirectory() as folder:
        answers = Path(folder) / "figures.json"
        command = [sys.executable, str(tree / "benchmarks" / script), "--repeat", "1", "--json", str(answers), *options]
        environment = {**os.environ, "PYTHONPATH": str(tree)}
        subprocess.run(command, cwd=tree, env=environment, check=True, stdout=subprocess.DEVNULL)
        figures = json.loads(answers.read_text())["figures"]
    return {
        figure["what"] + figure["contender"].removeprefix(OURS): figure
        for figure in figures
        if figure["contender"].startswith(OURS)
    }


def compare(report: Report, old: list[Figures], new: list[Figures], allowed: float) -> None:
    """Enter the figures of both, and for each the ratio of the medians: above 1 means that this checkout is slower."""
    for what, first in new[0].items():
        if not all(what in turn for turn in old):
            continue
        medians = [
            report.add(what, name, [turn[what]["median"] for turn in turns], first["unit"], first["survives"])
            for name, turns in ((report.options.commit, old), ("this checkout", new))
        ]
        slower = medians[0] / medians[1] if first["unit"].endswith("/s") else medians[1] / (medians[0] or 1)
        report.at_most(f"{what}: this checkout / {report.options.commit}", slower, allowed, "x")


def main() -> int:
    parser = arguments(__doc__ or "", repeat=3)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--commit", required=True, help="what to compare with")
    parser.add_argument("--allowed", type=float, default=1.1, help="limit of new / old: noise is a few percent")
    parser.add_argument("--script", required=True, help="a script of this folder")
    options, rest = parser.parse_known_args()
    for words in " ".join(rest).split("--")[1:]:  # so that the report names them in its command
        name, *values = words.split()
        setattr(options, name.replace("-", "_"), values)
    options.directory.mkdir(parents=True, exist_ok=True)
    report = Report(f"commits {options.script}", options, ("numpy",), options.directory)
    with checkout(options.commit) as tree:
        extra = ["--directory", str(options.directory), *rest]
        turns = in_turns(
            {
                "old": lambda: measure(tree, options.script, extra),
                "new": lambda: measure(ROOT, options.script, extra),
            },
            options.repeat,
        )
    compare(report, turns["old"], turns["new"], options.allowed)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
