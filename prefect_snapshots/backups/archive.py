"""Sources -> one content, and a content -> its parts.

`store` is what a commit calls to store a backup; `Archive` reads one. Every byte is verified before it is handed out.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from ..errors import BackupFailed, DamagedVersion, IntegrityError, InvalidArgument
from ..repository import deltas
from ..repository.contents import Batch, ContentReader, Item, Stored, Writer
from .manifest import DIRECTORY, Entry, Part, check_path, decode_manifest, encode_manifest
from .restoring import write
from .sources import Database
from .trees import Directory, Previous, Summary, Tree

_READ = 4 * 1024 * 1024
"""Bytes that a reader is given at once."""
_VERIFIED = 16 * 1024 * 1024
"""Bytes that are verified at once."""


def store(
    writer: Writer,
    sources: Sequence[Directory | Database],
    previous: Sequence[Archive] = (),
    passed: Callable[[int], None] = lambda _: None,
) -> tuple[Stored, list[Summary]]:
    """Store a backup.

    Arguments:
        writer: of the commit.
        sources: directories and databases, whose names differ.
        previous: the last backups of them, the newest first: what did not change since is not read or not stored again.
        passed: called with bytes that are dealt with.

    Returns:
        What to commit, and what was done with each source.

    Raises:
        BackupFailed: a source cannot be read whole.
        InvalidArgument: two sources have the same name.
    """
    names = [source.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise InvalidArgument(f"two sources are called {name!r}: give one of them another name")
    finishing: list[Callable[[], tuple[Part, Summary]]] = []
    summaries: list[Summary] = []

    def chunks() -> Generator[Item, None, None]:
        for source in sources:
            if isinstance(source, Directory):
                before = (archive._of_directory(source.name, writer) for archive in previous)
                tree = Tree(source, next(filter(None, before), None))
                finishing.append(tree.finish)
                yield from tree.chunks(writer, passed)
            else:
                part = Part(source.name, source.kind, [])
                sketches: list[deltas.Sketch] = []
                finishing.append(partial(_finish, part, sketches))
                known = (archive._of_database(part) for archive in previous)
                yield from _dumped(source, part, sketches, next(filter(None, known), None), passed)

    def manifest() -> bytes:
        parts = []
        for finish in finishing:
            part, summary = finish()
            parts.append(part)
            summaries.append(summary)
        return encode_manifest(parts)

    writer.read_soon = False
    with closing(chunks()) as given:
        return writer.store_cut(manifest, given), summaries


def _dumped(
    source: Database,
    part: Part,
    sketches: list[deltas.Sketch],
    previous: deltas.Previous | None,
    passed: Callable[[int], None],
) -> Iterator[Batch]:
    """The chunks of a dump, each with those of the previous one that it is like. Its files are entered in the part."""
    folders: set[bytes] = set()
    with source.dump() as dump:
        for file in dump.files:
            raw = check_path(file.path.encode())
            steps = raw.split(b"/")
            for depth in range(1, len(steps)):
                folder = b"/".join(steps[:depth])
                if folder not in folders:
                    folders.add(folder)
                    part.entries.append(Entry(folder, 0o40700))
            size = 0
            for length, batch in deltas.similar_stream(file.pieces, previous, sketches):
                size += length
                passed(length)
                yield batch
            part.entries.append(Entry(raw, 0o100600, size))
    part.counts = dict(dump.counts)
    if not part.entries:
        raise BackupFailed(f"{source.kind} {source.name}: the dump is empty")


def _finish(part: Part, sketches: Iterable[deltas.Sketch]) -> tuple[Part, Summary]:
    part.sketches = b"".join(sketch.tobytes() for sketch in sketches)
    summary = Summary(part.name, part.kind)
    summary.count(part.entries)
    summary.counts = part.counts
    summary.read = summary.size
    return part, summary


class Archive:
    """One backup.

    Arguments:
        content: of the backup's event.
        label: what errors call the backup.

    Raises:
        IntegrityError: the manifest is damaged.
        InvalidName: it leads out of its parts.
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
        """The part of one name.

        Raises:
            InvalidArgument: there is none.
        """
        for part in self.parts:
            if part.name == name:
                return part
        names = ", ".join(repr(part.name) for part in self.parts) or "nothing"
        raise InvalidArgument(f"{self.label} holds no {name!r}: it holds {names}")

    def verify(self, passed: Callable[[int], None] = lambda _: None) -> None:
        """Read every byte once, and verify it.

        Arguments:
            passed: called with bytes that are sound.

        Raises:
            DamagedVersion: naming the first file that is damaged.
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

    def _of_directory(self, name: str, writer: Writer) -> Previous | None:
        for part in self.parts:
            if part.name == name and part.kind == DIRECTORY and self._content.inline is None:
                return Previous(part.part, self._content, part.offset, writer)
        return None

    def _of_database(self, wanted: Part) -> deltas.Previous | None:
        for part in self.parts:
            if (part.name, part.kind) == (wanted.name, wanted.kind) and self._content.inline is None:
                return part.previous_chunks()
        return None


class PartReader:
    """One part of a backup: a directory, or a database."""

    def __init__(self, content: ContentReader, part: Part, offset: int, label: str) -> None:
        self.content = content
        self.part = part
        self.offset = offset
        self.label = label

    @property
    def name(self) -> str:
        return self.part.name

    @property
    def kind(self) -> str:
        return self.part.kind

    @property
    def entries(self) -> Sequence[Entry]:
        return self.part.entries

    @property
    def counts(self) -> Mapping[str, int]:
        """Rows or documents per table or collection, of a database."""
        return self.part.counts

    @property
    def paths(self) -> Sequence[str]:
        """Of all files."""
        return [entry.path for entry in self.part.entries if entry.is_file]

    @cached_property
    def stored(self) -> int:
        """Bytes in the body."""
        return sum(entry.stored for entry in self.part.entries)

    @cached_property
    def by_path(self) -> Mapping[str, tuple[Entry, int]]:
        """Every entry, and where in the body its bytes begin."""
        found = {}
        offset = self.offset
        for entry in self.part.entries:
            found[entry.path] = entry, offset
            offset += entry.stored
        return found

    def open(self, path: str) -> Iterator[memoryview]:
        """The bytes of one file, in pieces of up to some MB, each of them verified.

        Raises:
            InvalidArgument: there is no such file.
            DamagedVersion: it cannot be verified from there on.
        """
        found = self.by_path.get(path)
        if found is None or not found[0].is_file:
            raise InvalidArgument(f"{self.label}, {self.name}: there is no file {path!r}")
        entry, offset = self.by_path[found[0].link.decode("utf-8", "surrogateescape")] if found[0].link else found
        return self._pieces(entry, offset)

    def _pieces(self, entry: Entry, offset: int) -> Iterator[memoryview]:
        at = 0
        for begin, length in (*(((0, entry.size),) if entry.extents is None else entry.extents), (entry.size, 0)):
            while at < begin:
                hole = min(begin - at, _READ)
                yield memoryview(bytes(hole))
                at += hole
            end = begin + length
            while at < end:
                try:
                    piece = memoryview(self.content.read(offset, min(end - at, _READ)))
                except IntegrityError as error:
                    raise DamagedVersion(self.label, f"{self.name}: file {entry.path!r}", str(error)) from error
                yield piece
                at += len(piece)
                offset += len(piece)

    def previous_chunks(self) -> deltas.Previous | None:
        """The chunks of a dump, for the next one to be compared with."""
        sketches = np.frombuffer(self.part.sketches, "<u8").reshape(-1, deltas.FEATURES)
        ends = np.cumsum(self.content.table["size"], dtype=np.int64)
        first, last = ends.searchsorted([self.offset, self.offset + self.stored], "right")
        chunks = self.content.table["chunk"][first:last]
        return deltas.Previous(chunks, sketches) if len(chunks) == len(sketches) else None

    def extract(self, folder: Path) -> None:
        """Write everything into an empty folder.

        Raises:
            DamagedVersion: naming the first file that cannot be verified.
        """
        write(self, folder)

    def damaged(self) -> str:
        """The first file that cannot be verified; empty when all can."""
        files = (found for found in self.by_path.values() if not self.is_sound(*found))
        return next((f"file {entry.path!r}" for entry, _ in files), "")

    def is_sound(self, entry: Entry, offset: int) -> bool:
        """Whether all bytes of a file, which begin there in the body, can be verified."""
        try:
            for at in range(0, entry.stored, _READ):
                self.content.read(offset + at, min(_READ, entry.stored - at))
        except IntegrityError:
            return False
        return True
