"""What the repositories in `data/golden-1.tar.xz` hold, which every later version has to read.

python tests/golden.py tests/data/golden-2.tar.xz     # makes new ones; keep the old, too
"""

from __future__ import annotations

import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

from toy_kind import ToyKind

from prefect_snapshots.repository import Repository

PASSWORD = "correct horse battery staple"
PASSWORDS = {"plain": None, "encrypted": PASSWORD}
COUNT = 66
"""Items under the first name: enough for a compacted range and a hint."""


def body(number: int) -> bytes:
    """What every item holds: the first ones, and the last, are too long to travel in an event."""
    line = b"item %d of a repository in format 1\n" % number
    return line * (2_000 if number < 3 or number == COUNT - 1 else 2)


def make(place: Path, password: str | None) -> None:
    repository = Repository(place, password=password)
    toy, other = ToyKind(repository, "golden"), ToyKind(repository, "others/Größe")
    for number in range(COUNT):
        toy.put(f"item-{number}", [body(number)])
    toy.remove("item-1")
    other.copy(toy, "item-2", "copy")
    repository.prune(grace=0)


if __name__ == "__main__":
    with TemporaryDirectory() as directory, tarfile.open(sys.argv[1], "w:xz") as archive:
        for name, password in PASSWORDS.items():
            make(Path(directory) / name, password)
            archive.add(Path(directory) / name, name)
