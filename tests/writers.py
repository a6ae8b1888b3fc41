"""Processes for tests: each commits, prunes or reads until it is told to stop, or is killed.

    python writers.py commit URL NAME FIRST COUNT [OPTIONS]     # COUNT < 0: without end
    python writers.py prune URL [OPTIONS]

A line on standard output follows every commit: whatever was printed has to be there for ever.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator
from itertools import count

from toy_kind import ToyKind

from prefect_snapshots.repository import Repository


def body_of(number: int) -> bytes:
    """The bytes of an item: some travel inside their event, some share chunks with others, some are their own."""
    shared = random.Random(number % 5).randbytes(70_000)
    own = random.Random(number).randbytes((300, 20_000, 90_000)[number % 3])
    return own if number % 3 == 0 else shared + own


def commit(repository: Repository, name: str, first: int, numbers: Iterator[int]) -> None:
    """Commit items, and delete every other one again some commits later."""
    toy = ToyKind(repository, name)
    for number in numbers:
        toy.put(f"item-{first + number}", [body_of(first + number)])
        print(f"put item-{first + number}", flush=True)
        if number % 4 == 3:
            doomed = f"item-{first + number - 2}"
            print(f"removing {doomed}", flush=True)
            toy.remove(doomed)


def endless() -> Iterator[int]:
    """Yield numbers no faster than a disk commits: in memory, writers would make more versions than a test can read."""
    for number in count():
        yield number
        time.sleep(0.005)


def main() -> None:
    """Do what the command line says."""
    what, url, *rest = sys.argv[1:]
    options = json.loads(rest.pop()) if rest and rest[-1].startswith("{") else {}
    repository = Repository(url, storage_options=options)
    if what == "commit":
        name, first, limit = rest[0], int(rest[1]), int(rest[2])
        commit(repository, name, first, iter(range(limit)) if limit >= 0 else endless())
    else:
        while True:
            repository.prune(grace=0)
            print("pruned", flush=True)


if __name__ == "__main__":
    main()
