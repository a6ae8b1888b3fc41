"""A drill: restore a backup into a scratch place, and compare what came back with what was backed up.

Files are compared byte by byte. A database is dumped again where it came back, and both dumps are compared by the
number of rows of each table and, where its kind has them, by checksums of the rows: their bytes may differ. A backup
that passes is *proven*, and says so from then on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import StorageFull
from ..repository.progress import Progress
from ..trees.scanning import Directory
from .archive import Archive, PartReader
from .interruption import terminable
from .manifest import DIRECTORY
from .origin import host
from .records import Backup
from .sources import Database, DumpFile, Expires, Noted
from .working import working_folder

_SHOWN = 10
"""Differences of one part that a report names: more would not help to find the cause."""


@dataclass(frozen=True, slots=True)
class DrillRow:
    """What a drill found about one part.

    Attributes:
        part: The name of the part.
        kind: "directory", or the kind of database.
        files: How many files were compared byte by byte.
        counts: Rows or documents that came back, per table or collection.
        problems: What differs, or why the part could not be restored. Empty if it came back identical.
        notes: What the drill left out, or how far it was confined. They do not make it fail.
    """

    part: str
    kind: str
    files: int
    counts: Mapping[str, int]
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the part came back identical."""
        return not self.problems


@dataclass(frozen=True, slots=True)
class DrillReport:
    """What a drill found.

    Attributes:
        name: The name of the backup.
        rows: A row for each part.
        duration: Seconds that the drill took.
    """

    name: str
    rows: tuple[DrillRow, ...]
    duration: float

    @property
    def ok(self) -> bool:
        """Whether everything came back identical."""
        return all(row.ok for row in self.rows)

    @property
    def problems(self) -> list[str]:
        """All problems, each with the name of its part."""
        return [f"{row.part}: {problem}" for row in self.rows for problem in row.problems]


def drill(
    backup: Backup, content: Archive, sources: Mapping[str, Database | Directory], progress: Progress
) -> DrillReport:
    """See `BackupManager.drill`. The databases in `sources`, by name, make the scratch ones beside themselves."""
    started = time.monotonic()
    rows = []
    with terminable():
        for number, part in enumerate(backup.parts):
            progress("drilling", number, len(backup.parts))
            rows.append(_try(content.part(part.name), sources.get(part.name)))
    progress("drilling", len(backup.parts), len(backup.parts))
    return DrillReport(backup.name, tuple(rows), round(time.monotonic() - started, 3))


def prover(run: Mapping[str, object] | None) -> str:
    """Return who proves a backup: the flow run, or else the machine."""
    named = " / ".join(str(run[key]) for key in ("flow", "flow_run") if run and run.get(key))
    return named or host()


def _try(part: PartReader, source: Database | Directory | None) -> DrillRow:
    files = 0
    counts: dict[str, int] = {}
    notes: Sequence[str] = ()
    try:
        if part.kind == DIRECTORY:
            files, problems = _try_directory(part)
        elif source is None or isinstance(source, Directory):
            problems = ["the manager has no database of this name, beside which a scratch one could be made"]
        else:
            counts, problems, notes = _try_database(part, source)
    except Exception as error:  # whatever stops a restore is what a drill is there to find
        problems = [f"it could not be restored: {error}"]
    return DrillRow(part.name, part.kind, files, counts, tuple(problems), tuple(notes))


def _try_directory(part: PartReader) -> tuple[int, list[str]]:
    with working_folder("drill") as folder:
        _check_space(part, folder)
        part.extract(folder)
        different = [path for path in part.paths if not _equal(part.open(path), folder / path)]
    more = [f"and {len(different) - _SHOWN} more files"] if len(different) > _SHOWN else []
    return len(part.paths), [f"{path} came back different" for path in different[:_SHOWN]] + more


def _check_space(part: PartReader, folder: Path) -> None:
    """Refuse before anything is written: a drill that fills the temporary folder harms whatever else needs it."""
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    if part.stored > free:
        raise StorageFull(
            f"A drill of {part.name} needs {part.stored:,} bytes in {folder.parent}, where {free:,} are free. Set "
            "TMPDIR to a folder with more space."
        )


def _equal(stored: Iterator[memoryview], path: Path) -> bool:
    with path.open("rb") as restored:
        return all(restored.read(len(piece)) == piece for piece in stored) and not restored.read(1)


def _try_database(part: PartReader, source: Database) -> tuple[dict[str, int], list[str], Sequence[str]]:
    stored = source.checksums(DumpFile(path, map(bytes, part.open(path))) for path in part.paths)
    restored: dict[str, str] = {}
    with source.scratch() as scratch:
        scratch.restore(part)
        found = scratch.counts()
        expected = scratch.still_expected(part.counts, found) if isinstance(scratch, Expires) else part.counts
        notes = scratch.notes if isinstance(scratch, Noted) else ()
        if stored:
            with scratch.dump() as dump:
                restored = scratch.checksums(dump.files)
    fewer = {name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)}
    other = {name for name in restored.keys() | stored.keys() if restored.get(name) != stored.get(name)}
    return (
        found,
        [
            f"{name}: {_number(found, name)} came back, and {_number(expected, name)} were backed up"
            if name in fewer
            else f"{name}: what came back is as much as was backed up, but not the same"
            for name in sorted(fewer | other)
        ],
        notes,
    )


def _number(counts: Mapping[str, int], name: str) -> str:
    return str(counts[name]) if name in counts else "none"
