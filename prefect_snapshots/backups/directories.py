"""Read directories into a backup, and report what was left out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..documents.texts import count_text
from ..errors import SourceUnusable
from ..repository.contents import Batch, Kept, Writer
from ..trees.entries import Entry
from ..trees.file_reading import PreviousTree, Tree
from ..trees.scanning import Directory, scan
from .manifest import DIRECTORY, BackupPart
from .sources import DumpNote, unreadable

_SHOWN = 3
"""Number of files that an error names. The report has all of them."""


@dataclass(slots=True)
class SourceSummary:
    """What a backup did with one source."""

    name: str
    kind: str
    files: int = 0
    directories: int = 0
    links: int = 0
    """Symbolic links, and additional hard links to files."""
    size: int = 0
    """Bytes of all files."""
    read: int = 0
    """Bytes that were read. The rest is unchanged since the previous backup."""
    kept: int = 0
    """Files that were not read."""
    unreadable: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    """Files that changed during both attempts to read them. The second attempt is stored."""
    vanished: list[str] = field(default_factory=list)
    """Files that were deleted before they could be read."""
    skipped: list[str] = field(default_factory=list)
    """Sockets and devices."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """For a database: rows or documents per table or collection."""
    notes: Sequence[DumpNote] = ()
    """What is not in the dump of a database, and what a restore creates in another form."""

    def count(self, entries: Sequence[Entry]) -> None:
        """Count the files, links and bytes of the entries."""
        for entry in entries:
            if entry.is_directory:
                self.directories += 1
            elif entry.link:
                self.links += 1
            elif entry.is_file:
                self.files += 1
                self.size += entry.size


class DirectoryReader:
    """Reads a directory into a backup: first call `chunks`, and `finish` when those are stored.

    Args:
        source: The directory.
        previous: Its part of the previous backup. None: read everything.

    Raises:
        BackupFailed: The directory cannot be read, or something in it cannot be read and the source is strict.
    """

    def __init__(self, source: Directory, previous: PreviousTree | None = None) -> None:
        self._source = source
        root = os.path.realpath(source.path)
        try:
            self._scan = scan(
                root, source.selection, previous, follow_links=source.follow_links, claimed=source.claimed
            )
            self._refuse_unreadable()
            self._tree = Tree(root, self._scan, previous)
        except NotADirectoryError:
            raise SourceUnusable(f"{source.path} is not a directory. Back up the directory that contains it.") from None
        except OSError as error:
            raise unreadable(error)(f"The directory {source.path} cannot be read: {error.strerror}.") from None

    def chunks(self, writer: Writer, passed: Callable[[int], None]) -> Iterator[Kept | Batch]:
        """Read the files in order. See `Tree.chunks`."""
        return self._tree.chunks(writer, passed)

    def finish(self) -> tuple[BackupPart, SourceSummary]:
        """Return the directory's part of the manifest, and a summary. Call it when the chunks are stored.

        Raises:
            BackupFailed: A file could not be read, and the source is strict.
        """
        self._refuse_unreadable()
        source, tree, scanned = self._source, self._tree, self._scan
        entries = tree.entries
        summary = SourceSummary(source.name, DIRECTORY)
        summary.count(entries)
        summary.read = summary.size - tree.unread
        summary.kept, summary.changed = tree.kept, tree.changed
        summary.unreadable, summary.vanished, summary.skipped = scanned.unreadable, scanned.vanished, scanned.skipped
        part = BackupPart(
            source.name,
            DIRECTORY,
            entries,
            root=scanned.root,
            looked=scanned.looked,
            selection=source.selection,
            left_out=scanned.left_out,
        )
        return part, summary

    def _refuse_unreadable(self) -> None:
        found = self._scan.unreadable
        if found and self._source.strict:
            more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            raise SourceUnusable(
                f"{count_text(len(found), 'file')} in {self._source.path} cannot be read "
                f"({'; '.join(found[:_SHOWN])}{more}). Nothing was saved. Grant access, exclude such files, or "
                "pass strict=False to leave them out."
            )
