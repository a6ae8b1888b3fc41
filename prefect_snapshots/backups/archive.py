"""Store the sources of a backup as one content, and read that content back part by part.

A commit calls `store` to store a backup; `Archive` reads one. Every byte is verified before it is returned.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from functools import partial
from pathlib import Path

import numpy as np

from ..errors import BackupFailed, DamagedVersion, IntegrityError, InvalidArgument
from ..messages import logger
from ..repository import deltas
from ..repository.contents import Batch, ContentReader, Item, Kept, Stored, Writer
from ..trees.entries import Entry, check_path
from ..trees.file_reading import PreviousTree
from ..trees.restoring import write_tree
from ..trees.scanning import Directory
from ..trees.stored import StoredTree
from .changed_files import EarlierChunks, EarlierDamaged
from .directories import DirectoryReader, SourceSummary
from .manifest import DIRECTORY, BackupPart, decode_manifest, encode_manifest
from .sources import ChangedFile, Database, Dump, DumpNote, DumpsChanges, DumpSince

_VERIFIED = 16 * 1024 * 1024
"""Bytes to verify at once: enough to read many chunks together, and little memory."""


def store(
    writer: Writer,
    sources: Sequence[Directory | Database],
    previous: Sequence[Archive] = (),
    passed: Callable[[int], None] = lambda _: None,
    *,
    prefix: str = "",
    joined: Sequence[tuple[Kept, Sequence[BackupPart]]] = (),
    encode: Callable[[list[BackupPart], list[SourceSummary]], bytes] = lambda parts, _: encode_manifest(parts),
) -> tuple[Stored, list[SourceSummary]]:
    """Store a backup.

    Args:
        writer: The writer of the commit.
        sources: Directories and databases with different names.
        previous: Earlier backups of them, newest first. Data that has not changed since is not read or stored again.
        passed: Called with the number of bytes just read or skipped.
        prefix: What the names of the parts begin with, before those of the sources.
        joined: Bodies that are stored already, and the parts that are in each. They come last.
        encode: Returns the manifest of some parts, with a summary of each that was read here.

    Returns:
        The content to commit, and a summary of each source.

    Raises:
        BackupFailed: A source cannot be read completely.
        InvalidArgument: Two sources have the same name.
    """
    others = [part for _, parts in joined for part in parts]
    names = [*(prefix + source.name for source in sources), *(part.name for part in others)]
    for name in names:
        if names.count(name) > 1:
            raise InvalidArgument(f"Two sources are named {name!r}. Give one of them another name.")
    finishing: list[Callable[[], tuple[BackupPart, SourceSummary]]] = []
    summaries: list[SourceSummary] = []

    def chunks() -> Generator[Item, None, None]:
        for source in sources:
            name = prefix + source.name
            if isinstance(source, Directory):
                before = (archive._of_directory(name, writer) for archive in previous)
                reader = DirectoryReader(source, next(filter(None, before), None))
                finishing.append(reader.finish)
                yield from reader.chunks(writer, passed)
            else:
                part = BackupPart(name, source.kind, [])
                sketches: list[deltas.Sketch] = []
                notes: list[DumpNote] = []
                finishing.append(partial(_finish, part, sketches, notes))
                known = (archive._of_database(part) for archive in previous)
                yield from _dumped(source, part, sketches, notes, next(filter(None, known), None), writer, passed)
        for body, _ in joined:
            yield body

    def manifest() -> bytes:
        own = []
        for name, finish in zip(names, finishing, strict=False):
            part, summary = finish()
            part.name = summary.name = name
            own.append(part)
            summaries.append(summary)
        return encode([*own, *others], summaries)

    writer.read_soon = False
    try:
        with closing(chunks()) as given:
            return writer.store_cut(manifest, given), summaries
    except EarlierDamaged as error:
        logger.warning("Everything is read again, because the last backup cannot be read: %s", error)
        return store(writer, sources, (), passed, prefix=prefix, joined=joined, encode=encode)


def _dumped(
    source: Database,
    part: BackupPart,
    sketches: list[deltas.Sketch],
    notes: list[DumpNote],
    earlier: PartReader | None,
    writer: Writer,
    passed: Callable[[int], None],
) -> Iterator[Kept | Batch]:
    """Yield the chunks of a dump, each with similar chunks of the previous dump. Adds the files to the part."""
    folders: set[bytes] = set()
    previous = earlier.previous_chunks() if earlier else None
    unchanged = None
    dumping: AbstractContextManager[Dump | DumpSince]
    if earlier is not None and previous is not None and isinstance(source, DumpsChanges):
        unchanged = EarlierChunks(earlier, earlier.part.sketches, earlier.reader, writer)
        dumping = source.dump_since(earlier)
    else:
        dumping = source.dump()
    with dumping as dump:
        for file in dump.files:
            raw = check_path(file.path.encode())
            steps = raw.split(b"/")
            for depth in range(1, len(steps)):
                folder = b"/".join(steps[:depth])
                if folder not in folders:
                    folders.add(folder)
                    part.entries.append(Entry(folder, 0o40700))
            size = 0
            cut: Iterator[tuple[int, Kept | Batch]]
            if isinstance(file, ChangedFile):
                assert unchanged is not None
                assert previous is not None
                cut = unchanged.chunks(file, previous, sketches)
            else:
                cut = deltas.similar_stream(file.pieces, previous, sketches)
            for length, batch in cut:
                size += length
                passed(length)
                yield batch
            part.entries.append(Entry(raw, 0o100600, size))
    part.counts = dict(dump.counts)
    notes.extend(dump.notes)
    if not part.entries:
        raise BackupFailed(f"{source.kind} {source.name}: The dump is empty. Nothing was saved.")


def _finish(
    part: BackupPart, sketches: Iterable[deltas.Sketch], notes: Sequence[DumpNote]
) -> tuple[BackupPart, SourceSummary]:
    part.sketches = b"".join(sketch.tobytes() for sketch in sketches)
    summary = SourceSummary(part.name, part.kind)
    summary.count(part.entries)
    summary.counts, summary.notes = part.counts, notes
    summary.read = summary.size
    return part, summary


class Archive:
    """Reads one backup.

    Args:
        content: The content of the backup's event.
        label: The name of the backup in error messages.

    Raises:
        IntegrityError: The manifest is damaged.
        InvalidName: A path in the manifest leads out of its part.
    """

    def __init__(self, content: ContentReader, label: str = "the backup") -> None:
        self._content = content
        self.label = label
        self.parts: list[PartReader] = []
        offset = 0
        for part in decode_manifest(content):
            self.parts.append(PartReader(content, part, offset, label))
            offset += self.parts[-1].stored

    def part(self, name: str) -> PartReader:
        """Return the part with a name.

        Raises:
            InvalidArgument: There is no such part.
        """
        for part in self.parts:
            if part.name == name:
                return part
        names = ", ".join(repr(part.name) for part in self.parts) or "none"
        raise InvalidArgument(f"There is no part named {name!r} in {self.label}. Its parts are: {names}.")

    def verify(self, passed: Callable[[int], None] = lambda _: None) -> None:
        """Read and verify every byte once.

        Args:
            passed: Called with the number of bytes just verified.

        Raises:
            DamagedVersion: A file is damaged. The message names the first one.
        """
        if self._content.inline is not None:
            return
        table = self._content.table
        _, first = np.unique(table["chunk"], return_index=True)
        rows = table[np.sort(first)]
        ends = np.cumsum(rows["size"], dtype=np.int64)
        cuts = ends.searchsorted(np.arange(_VERIFIED, int(ends[-1]), _VERIFIED))
        for some in np.split(rows, np.unique(cuts)):
            try:
                self._content.chunks(some)
            except IntegrityError as error:
                raise DamagedVersion(self.label, self._damaged(), str(error)) from error
            passed(int(some["size"].sum(dtype=np.int64)))

    def _damaged(self) -> str:
        for part in self.parts:
            if found := part.damaged():
                return f"{part.name}: {found}"
        return "its manifest"

    def _of_directory(self, name: str, writer: Writer) -> PreviousTree | None:
        for part in self.parts:
            if part.name == name and part.kind == DIRECTORY and self._content.inline is None:
                return PreviousTree(part, self._content.table, part.part.looked, writer)
        return None

    def _of_database(self, wanted: BackupPart) -> PartReader | None:
        for part in self.parts:
            if (part.name, part.kind) == (wanted.name, wanted.kind) and self._content.inline is None:
                return part
        return None


class PartReader(StoredTree):
    """One part of a backup: a directory, or a database."""

    def __init__(self, content: ContentReader, part: BackupPart, offset: int, label: str) -> None:
        super().__init__(
            content,
            part.entries,
            offset,
            label,
            part.name,
            root=part.root,
            selection=part.selection,
            left_out=part.left_out,
        )
        self.part = part
        self.reader = content

    @property
    def kind(self) -> str:
        return self.part.kind

    @property
    def counts(self) -> Mapping[str, int]:
        """For a database: rows or documents per table or collection."""
        return self.part.counts

    @property
    def paths(self) -> Sequence[str]:
        """The paths of all files."""
        return [entry.path for entry in self.entries if entry.is_file]

    def previous_chunks(self) -> deltas.PreviousChunks | None:
        """Return the chunks of a dump, to compare the next one with them."""
        sketches = np.frombuffer(self.part.sketches, "<u8").reshape(-1, deltas.FEATURES)
        ends = np.cumsum(self.reader.table["size"], dtype=np.int64)
        first, last = ends.searchsorted([self.offset, self.offset + self.stored], "right")
        chunks = self.reader.table["chunk"][first:last]
        return deltas.PreviousChunks(chunks, sketches) if len(chunks) == len(sketches) else None

    def extract(self, folder: Path) -> None:
        """Write everything into an empty folder.

        Raises:
            DamagedVersion: A file cannot be verified. The message names the first one.
        """
        write_tree(self, folder)
