"""One backup, restore or verification through the plain Python API, in a process of its own.

python _backup_worker.py REPOSITORY tree|dump PATH|-      back up a directory, or a file as the dump of a database
python _backup_worker.py REPOSITORY restore|verify PATH|-  the newest backup
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from prefect_snapshots.backups.archive import Archive, store
from prefect_snapshots.backups.sources import Database, Dump, DumpFile
from prefect_snapshots.repository.catalog import Event
from prefect_snapshots.repository.commits import Draft
from prefect_snapshots.repository.contents import Stored, Writer
from prefect_snapshots.repository.repository import Repository
from prefect_snapshots.trees.restoring import restore_directory
from prefect_snapshots.trees.scanning import Directory

PIECE = 1024 * 1024


@dataclass(frozen=True)
class FileDump:
    """A file that is what a database would say."""

    path: Path
    kind: ClassVar[str] = "sql"
    swaps: ClassVar[bool] = True
    name: str = "database"

    @contextmanager
    def dump(self) -> Iterator[Dump]:
        with self.path.open("rb", buffering=0) as file:
            yield Dump([DumpFile("dump.sql", iter(lambda: file.read(PIECE), b""))])

    def check(self) -> list[str]:
        return []

    def check_restorable(self) -> list[str]:
        return []

    def counts(self) -> dict[str, int]:
        return {}

    def restore(self, dump: object, only: object = ()) -> None:
        raise NotImplementedError

    def checksums(self, dump: Any) -> Any:
        raise NotImplementedError

    def scratch(self) -> Any:
        raise NotImplementedError


def main(url: str, what: str, path: str) -> None:
    repository = Repository(url)
    events: list[Event] = []
    stream = repository.stream("backups", "default", events.append)
    previous = Archive(repository.read(stream, events[-1])) if events else None
    source: Directory | Database = FileDump(Path(path)) if what == "dump" else Directory(path, name="source")

    def keep(writer: Writer) -> Stored:
        return store(writer, [source], [previous] if previous else [])[0]

    if what in ("tree", "dump"):
        repository.commit(stream, lambda: Draft("created"), store=keep)
        return
    assert previous is not None
    if what == "verify":
        previous.verify()
    else:
        restore_directory(previous.part("source"), path)


if __name__ == "__main__":
    main(*sys.argv[1:])
