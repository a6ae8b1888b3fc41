"""Histories for as long as you like: rounds of `tests/history_rounds.py`, whose figures add up over all runs.

Each run appends its figures to a file, and the table of the docs is about all of them. A round that finds a violation
keeps its folder, and ends the run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from _measure import DOCS, ROOT, markdown_table, replace_section, revision, scratch

sys.path.insert(0, str(ROOT / "tests"))

import servers
from history_rounds import CameToNothing, Limit, on_a_disk, on_s3

FIGURES = ROOT / "benchmarks" / "histories.json"
SECTION = "histories"
PLACES = ("disk", "s3", "seaweedfs")

_COLUMNS = ("rounds", "given_up", "seconds", "kills", "stops", "hurts", "ok", "failed", "unknown", "violations")
_KINDS = ("snapshots", "artifacts", "results", "checkpoints", "backups", "staged")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place", nargs="?", choices=PLACES, help="where the repositories are; default: run nothing")
    parser.add_argument("--seconds", type=float, default=600, help="start no other round after this time")
    parser.add_argument("--kills", type=int, default=100, help="how many processes are killed in each round")
    parser.add_argument("--changes", type=int, default=0, help="how many are acknowledged in each round at least")
    parser.add_argument("--round", type=float, default=0, help="seconds that each round lasts at least")
    parser.add_argument("--operations", type=int, default=10, help="how many a process does before it is killed")
    parser.add_argument("--patience", type=float, default=3, help="seconds that others run before, on a disk")
    parser.add_argument("--workers", type=int, default=3, help="how many processes write")
    parser.add_argument("--encrypted", type=int, default=8, help="encrypt one of so many repositories")
    parser.add_argument("--directory", type=Path, default=Path("/dev/shm"), help="for what the processes note")
    parser.add_argument("--figures", type=Path, default=FIGURES, help="append the figures to this file")
    parser.add_argument("--update-docs", type=Path, nargs="?", const=DOCS, help="put the table into a page of the docs")
    return parser.parse_args()


def main() -> int:
    """Run rounds, add their figures to those of earlier runs, and print the table."""
    given = options()
    earlier: list[dict[str, Any]] = json.loads(given.figures.read_text()) if given.figures.exists() else []
    total: Counter[str] = Counter()
    if given.place:
        facts = {
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "commit": revision(),
            "place": given.place,
            "workers": given.workers,
        }
        for counts in rounds(given):
            total += counts
            # After each round: whoever stops the run keeps what was counted.
            given.figures.write_text(json.dumps([*earlier, {**facts, **total}], indent=1) + "\n")
        earlier.append({**facts, **total})
    text = table(earlier)
    print(text)
    if given.update_docs is not None:
        replace_section(given.update_docs, SECTION, text)
    return 1 if total["violations"] else 0


def rounds(given: argparse.Namespace) -> Iterator[Counter[str]]:
    """Yield what has happened in each round."""
    begun = time.monotonic()
    with scratch(given.directory) as folder, interrupted():
        os.environ["XDG_STATE_HOME"] = str(folder / "state")
        while time.monotonic() - begun < given.seconds:
            seed = random.SystemRandom().randrange(10**9)
            place = folder / "round"
            place.mkdir()
            password = "one" if seed % given.encrypted == 0 else False
            more: dict[str, Any] = {"seed": seed, "workers": given.workers, "password": password}
            more["operations_a_kill"] = given.operations
            if given.place == "disk":
                more["seconds_a_kill"] = given.patience
            counts: Counter[str] = Counter()
            try:
                with ExitStack() as stack:
                    limit = Limit(given.round, given.kills, given.changes)
                    if given.place == "disk":
                        counts = on_a_disk(place, limit, **more)
                    else:
                        s3 = servers.moto() if given.place == "s3" else servers.seaweedfs(place / "seaweedfs")
                        counts = on_s3(stack.enter_context(s3), place, limit, **more)
                if not counts["ok"]:
                    raise CameToNothing  # what has been verified then is nothing
            except CameToNothing:
                counts = Counter(given_up=1)
            except Exception:
                kept = given.directory / f"violation-{seed}"
                shutil.copytree(place, kept)
                traceback.print_exc()
                print(f"What was noted is in {kept}.", file=sys.stderr)
                counts["violations"] += 1
            yield counts + Counter({"rounds": 1})
            if counts["violations"]:
                return
            shutil.rmtree(place)


@contextmanager
def interrupted() -> Iterator[None]:
    """End at Ctrl-C, with the figures of the rounds before."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has it ignored in the background
    with suppress(KeyboardInterrupt):
        yield


def table(runs: list[dict[str, Any]]) -> str:
    """Return the sums of all runs as a table."""
    sums: dict[str, Counter[str]] = {}
    for run in runs:
        group = sums.setdefault(f"{run['place']}, {run['workers']} writers", Counter())
        group.update({name: run.get(name, 0) for name in (*_COLUMNS, *_KINDS)})
        group["runs"] += 1
    sums["all"] = sum(sums.values(), Counter())
    told = ("acknowledged", "refused", "unknown", "violations")
    head = ("where", "runs", "rounds", "given up", "seconds", "kills", "stops", "faults of the storage", *told)
    names = ("runs", *_COLUMNS)
    rows = [(where, *(f"{count[name]:,}" for name in names)) for where, count in sums.items()]
    kinds = [(kind, f"{sums['all'][kind]:,}") for kind in _KINDS]
    commits = dict.fromkeys(f"{run['commit']} ({run['date']})" for run in runs)
    return (
        "\n\n".join(
            (
                f"- {', '.join(commits) or 'not run yet'}",
                markdown_table(head, rows),
                markdown_table(("kind", "acknowledged changes"), kinds),
            )
        )
        + "\n"
    )


if __name__ == "__main__":
    sys.exit(main())
