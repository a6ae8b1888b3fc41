"""A draft: the next version of a folder, made from an existing one by adding, replacing and removing files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from ..arguments import checking_types
from ..errors import InvalidArgument
from ..repository.chunking import cut
from ..repository.contents import ContentReader, Item, Kept, Stored, Writer
from ..trees.entries import Entry, check_entries
from ..trees.stored import StoredTree
from .downloads import part_of
from .folders import Folder, encode_manifest, scan_folder
from .infos import ArtifactVersion


@checking_types
class FolderDraft(contextlib.AbstractContextManager["FolderDraft"]):
    """A context manager that collects changes of files, and logs one version with all of them when the block ends.

    `ArtifactRegistry.draft` returns one, for one `with` block. Files that stay are neither read nor copied.

    Attributes:
        version: The version that was logged. None until the block has ended, and if nothing was changed.
    """

    def __init__(
        self, content: ContentReader, tree: StoredTree, log: Callable[[Callable[[Writer], Stored]], ArtifactVersion]
    ) -> None:
        self.version: ArtifactVersion | None = None
        self._content = content
        self._tree = tree
        self._log = log
        self._ended = False
        self._kept = {entry.path: entry for entry in tree.entries}
        self._added: dict[str, Entry] = {}
        self._folders: list[Folder] = []

    def list_files(self) -> list[tuple[str, int]]:
        """List the path and size in bytes of each file that the version would have now."""
        entries = (*self._kept.values(), *self._added.values())
        return sorted((entry.path, entry.size) for entry in entries if entry.is_file)

    def add(
        self, local_path: str | os.PathLike[str], artifact_path: str | None = None, *, follow_links: bool = False
    ) -> None:
        """Add a file or a folder. Files that are in the version already are replaced. It is read when the block ends.

        Args:
            local_path: A file, which keeps its name, or a folder.
            artifact_path: The folder in the artifact to put them into. Default: the top.
            follow_links: Add what links in the folder lead to, instead of the links.

        Raises:
            ObjectMissing: There is nothing at `local_path`.
            InvalidName: A path or a link leads out of the folder.
            InvalidArgument: A file was already added to this draft, or its block has ended.
        """
        self._refuse_if_ended()
        folder = scan_folder(Path(os.path.expanduser(local_path)), artifact_path, follow_links=follow_links)
        for entry in folder.entries:
            if entry.path in self._added and not entry.is_directory:
                raise InvalidArgument(f"{entry.path!r} was already added to this draft. Add it once.")
        self._folders.append(folder)
        for entry in folder.entries:
            known = self._kept.get(entry.path)
            if known is None or not (known.is_directory and entry.is_directory):
                self._kept.pop(entry.path, None)
                self._added.setdefault(entry.path, entry)

    def remove(self, paths: str | Iterable[str]) -> None:
        """Remove files of the existing version.

        Args:
            paths: Patterns as in `.gitignore`: "plots/", "*.csv".

        Raises:
            InvalidArgument: No file matches, or the block of this draft has ended.
        """
        self._refuse_if_ended()
        gone = part_of(StoredTree(self._content, list(self._kept.values()), label=self._tree.label), paths)
        files = {entry.path for entry in gone.entries if not entry.is_directory}
        for path in files:
            self._kept.pop(path, None)
        # A directory that was left empty by this is not a directory that somebody has logged empty.
        for path in [entry.path for entry in gone.entries if entry.is_directory]:
            if not any(each.startswith(f"{path}/") for each in (*self._kept, *self._added)):
                self._kept.pop(path, None)

    def __enter__(self) -> FolderDraft:
        self._refuse_if_ended()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._ended = True
        unchanged = not self._added and len(self._kept) == len(self._tree.entries)
        if kind is None and not unchanged:
            self.version = self._log(self._store)

    def _refuse_if_ended(self) -> None:
        if self._ended:
            logged = f"was logged as {self.version}" if self.version is not None else "has ended, and was not logged"
            raise InvalidArgument(f"This draft {logged}. Nothing was changed. Begin a new draft.")

    def _store(self, writer: Writer) -> Stored:
        entries = [*self._kept.values(), *self._added.values()]
        check_entries(entries)  # one may be a file where another is a directory
        return writer.store_cut(encode_manifest(entries), self._chunks(writer))

    def _chunks(self, writer: Writer) -> Iterator[Item]:
        yield from _kept_chunks(writer, self._content, self._ranges())
        for folder in self._folders:
            yield from folder.chunks(writer)

    def _ranges(self) -> list[tuple[int, int]]:
        """Return the parts of the body that stay: first byte, and the first one behind."""
        found: list[tuple[int, int]] = []
        for path, entry in self._kept.items():
            begin = self._tree.by_path[path][1]
            if found and found[-1][1] == begin:
                found[-1] = found[-1][0], begin + entry.stored
            elif entry.stored:
                found.append((begin, begin + entry.stored))
        return found


def _kept_chunks(writer: Writer, content: ContentReader, ranges: list[tuple[int, int]]) -> Iterator[Item]:
    """Yield parts of a stored body. Only chunks of which a part goes are read, as small files share them."""
    if content.inline is not None:
        for begin, end in ranges:
            yield from cut([content.read(begin, end - begin)])
        return
    rows = writer.keep(content)
    ends = np.cumsum(rows["size"], dtype=np.int64)
    starts = ends - rows["size"]
    for begin, end in ranges:
        first, last = int(starts.searchsorted(begin)), int(ends.searchsorted(end, "right"))
        if first >= last:
            yield from cut([content.read(begin, end - begin)])
            continue
        if (until := int(starts[first])) > begin:
            yield from cut([content.read(begin, until - begin)])
        yield Kept(rows[first:last])
        if (since := int(ends[last - 1])) < end:
            yield from cut([content.read(since, end - since)])
