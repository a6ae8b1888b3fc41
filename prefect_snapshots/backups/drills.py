"""Drills: restore a backup into a temporary place, and compare the result with what was backed up.

Files are compared byte by byte. A restored database is dumped again. Because the bytes of two dumps may differ, they
are compared by the number of rows of each table and, if the kind of database supports it, by checksums of the rows. A
backup that passes is marked as *proven*.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..documents.texts import count_text
from ..errors import SnapshotsError
from ..repository.origin import host
from ..repository.progress import Progress
from ..trees.descriptors import FILE as OPEN_FILE
from ..trees.descriptors import Parents, opened
from ..trees.scanning import Directory
from .archive import Archive, PartReader
from .claims import data_folder, files_of
from .databases import open_database
from .interruption import closed_undisturbed, terminable
from .manifest import DIRECTORY
from .records import Backup
from .single_files import FILE, File
from .sources import Database, DumpFile, Expires, Noted
from .staging import split_name
from .working import check_space, working_folder

_SHOWN = 10
"""Number of differences of one part that a report names: more would not help to find the cause."""


@dataclass(frozen=True, slots=True)
class DrillRow:
    """The result of a drill for one part.

    Attributes:
        part: The name of the part.
        kind: "directory", or the kind of database.
        files: How many files were compared, byte by byte or by a checksum of all bytes.
        counts: Restored rows or documents per table or collection.
        problems: What differs, or why the part could not be restored. Empty if the restored part is identical.
        notes: What the drill left out or could not check. Notes do not make it fail.
        tried: False if the drill could not begin with this part, because it needs the server of its database.
    """

    part: str
    kind: str
    files: int
    counts: Mapping[str, int]
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()
    tried: bool = True

    @property
    def ok(self) -> bool:
        """Whether the restored part is identical."""
        return not self.problems


@dataclass(frozen=True, slots=True)
class DrillReport:
    """The result of a drill.

    Attributes:
        name: The name of the backup.
        rows: A row for each part.
        duration: How long the drill took, in seconds.
    """

    name: str
    rows: tuple[DrillRow, ...]
    duration: float

    @property
    def ok(self) -> bool:
        """Whether everything that was restored is identical."""
        return all(row.ok for row in self.rows)

    @property
    def problems(self) -> list[str]:
        """All problems, each with the name of its part."""
        return [f"{row.part}: {problem}" for row in self.rows for problem in row.problems]


def drill(
    backup: Backup, content: Archive, sources: Mapping[str, Database | Directory], progress: Progress
) -> DrillReport:
    """See `BackupManager.drill`. Each database in `sources`, by name, creates its scratch database."""
    started = time.monotonic()
    rows = []
    with terminable():
        for number, part in enumerate(backup.parts):
            progress("drilling", number, len(backup.parts))
            rows.append(_try(content.part(part.name), sources.get(part.name)))
    progress("drilling", len(backup.parts), len(backup.parts))
    return DrillReport(backup.name, tuple(rows), round(time.monotonic() - started, 3))


def prover(run: Mapping[str, object] | None) -> str:
    """Return who runs the drill: the flow run, or else the machine."""
    named = " / ".join(str(run[key]) for key in ("flow", "flow_run") if run and run.get(key))
    return named or host()


def _try(part: PartReader, source: Database | Directory | None) -> DrillRow:
    files = 0
    counts: dict[str, int] = {}
    notes: Sequence[str] = ()
    tried = True
    try:
        if part.kind == DIRECTORY:
            files, problems = _try_directory(part)
        elif part.kind == FILE:
            _, problems, _ = _try_database(part, source if isinstance(source, File) else File(split_name(part.name)[1]))
            files = 1
        elif (database := _database_of(part, source)) is None:
            tried = False
            problems = [
                "it was not tried, because that needs its server: add a database with this name (--database URL)"
            ]
        else:
            counts, problems, notes = _try_database(part, database)
    except Exception as error:  # whatever stops a restore is what a drill is there to find
        problems = [f"the restore failed: {error}"]
    return DrillRow(part.name, part.kind, files, counts, tuple(problems), tuple(notes), tried)


def _database_of(part: PartReader, source: Database | Directory | None) -> Database | None:
    """Return what creates the scratch database. A database that is a file needs no source, because it needs no server.

    A server is never taken from the name of a part: whoever wrote the backup could choose who gets our password.
    """
    if source is not None and not isinstance(source, Directory):
        return source
    try:
        database = open_database(split_name(part.name)[1])
    except SnapshotsError:
        return None
    return database if files_of(database) else None


def _try_directory(part: PartReader) -> tuple[int, list[str]]:
    with working_folder("drill") as folder:
        check_space(part.stored, folder.parent, f"A drill of {part.name}")
        part.extract(folder)
        with opened(os.path.realpath(folder)) as top, Parents(top) as parents:
            different = [path for path in part.paths if not _equal(part.open(path), *parents.find(os.fsencode(path)))]
    problems = [f"{path} differs from the backup" for path in different[:_SHOWN]]
    if more := len(different) - len(problems):
        problems.append(count_text(more, "more file differs", "more files differ"))
    return len(part.paths), problems


def _equal(stored: Iterator[memoryview], directory: int, name: bytes) -> bool:
    with open(os.open(name, OPEN_FILE, dir_fd=directory), "rb") as restored:
        return all(restored.read(len(piece)) == piece for piece in stored) and not restored.read(1)


def _try_database(part: PartReader, source: Database) -> tuple[dict[str, int], list[str], Sequence[str]]:
    if files_of(source):
        with working_folder("drill") as folder:
            check_space(part.stored, folder.parent, f"A drill of {part.name}")
    elif (place := data_folder(source)) is not None:
        check_space(part.stored, place, f"A drill of {part.name}")
    stored = source.checksums(DumpFile(path, map(bytes, part.open(path))) for path in part.paths)
    restored: dict[str, str] = {}
    with closed_undisturbed() as stack:
        scratch = stack.enter_context(source.scratch())
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
            f"{name}: {_number(found, name)} restored, {_number(expected, name)} expected"
            if name in fewer
            else f"{name}: the counts are equal, but the contents differ"
            for name in sorted(fewer | other)
        ],
        notes,
    )


def _number(counts: Mapping[str, int], name: str) -> str:
    return str(counts[name]) if name in counts else "none"
