"""A drill: restore a backup where it harms nobody, and compare what came back with what was backed up.

Files are compared byte by byte. A database is dumped again where it came back, and both dumps are compared by the
number of rows of each table and, where its kind has them, by checksums of the rows: their bytes may differ.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..repository.maintenance import Progress
from ..trees.scanning import Directory
from .archive import Archive, PartReader
from .manifest import DIRECTORY
from .records import Backup
from .sources import Database, DumpFile

_SHOWN = 10
"""Differences of one part that are told."""


@dataclass(frozen=True, slots=True)
class DrillRow:
    """What was found of one part.

    Attributes:
        part: its name.
        kind: "directory", or what the database is.
        files: how many files were compared byte by byte.
        counts: rows or documents that came back, per table or collection.
        problems: what differs, or why the part could not be restored; empty when all is well.
    """

    part: str
    kind: str
    files: int
    counts: Mapping[str, int]
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether it came back as it was."""
        return not self.problems


@dataclass(frozen=True, slots=True)
class DrillReport:
    """What a drill found: of which backup, a row for each part, and the seconds that it took."""

    name: str
    rows: tuple[DrillRow, ...]
    duration: float

    @property
    def ok(self) -> bool:
        """Whether everything came back as it was."""
        return all(row.ok for row in self.rows)


def drill(
    backup: Backup, content: Archive, sources: Mapping[str, Database | Directory], progress: Progress
) -> DrillReport:
    """See `BackupManager.drill`. The databases of `sources`, by name, give the empty ones beside them."""
    started = time.monotonic()
    rows = []
    for number, part in enumerate(backup.parts):
        progress("restoring", number, len(backup.parts))
        rows.append(_try(content.part(part.name), sources.get(part.name)))
    progress("restoring", len(backup.parts), len(backup.parts))
    return DrillReport(backup.name, tuple(rows), round(time.monotonic() - started, 3))


def _try(part: PartReader, source: Database | Directory | None) -> DrillRow:
    files = 0
    counts: dict[str, int] = {}
    try:
        if part.kind == DIRECTORY:
            files, problems = _try_directory(part)
        elif source is None or isinstance(source, Directory):
            problems = ["the manager has no database of this name, beside which it could be restored"]
        else:
            counts, problems = _try_database(part, source)
    except Exception as error:  # whatever stops a restore is what a drill is there to find
        problems = [f"it could not be restored: {error}"]
    return DrillRow(part.name, part.kind, files, counts, tuple(problems))


def _try_directory(part: PartReader) -> tuple[int, list[str]]:
    with tempfile.TemporaryDirectory(prefix="prefect-snapshots-drill-") as folder:
        part.extract(Path(folder))
        different = [path for path in part.paths if not _equal(part.open(path), Path(folder, path))]
    more = [f"and {len(different) - _SHOWN} more files"] if len(different) > _SHOWN else []
    return len(part.paths), [f"{path} came back different" for path in different[:_SHOWN]] + more


def _equal(stored: Iterator[memoryview], path: Path) -> bool:
    with path.open("rb") as restored:
        return all(restored.read(len(piece)) == piece for piece in stored) and not restored.read(1)


def _try_database(part: PartReader, source: Database) -> tuple[dict[str, int], list[str]]:
    stored = source.checksums(DumpFile(path, map(bytes, part.open(path))) for path in part.paths)
    restored: dict[str, str] = {}
    with source.scratch() as scratch:
        scratch.restore(part)
        found = scratch.counts()
        if stored:
            with scratch.dump() as dump:
                restored = scratch.checksums(dump.files)
    fewer = {name for name in found.keys() | part.counts.keys() if found.get(name) != part.counts.get(name)}
    other = {name for name in restored.keys() | stored.keys() if restored.get(name) != stored.get(name)}
    return found, [
        f"{name}: {_number(found, name)} came back, and {_number(part.counts, name)} were backed up"
        if name in fewer
        else f"{name}: what came back is as much as was backed up, but not the same"
        for name in sorted(fewer | other)
    ]


def _number(counts: Mapping[str, int], name: str) -> str:
    return str(counts[name]) if name in counts else "none"
