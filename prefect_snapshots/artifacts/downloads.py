"""Folders to download artifacts to, or to log them from."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ..errors import InvalidArgument
from ..messages import hint, logger
from ..repository.contents import ContentReader
from ..trees.descriptors import opened
from ..trees.entries import Entry
from ..trees.patterns import left_out, rules_of
from ..trees.restoring import stage_directory, write_tree
from ..trees.stored import StoredTree
from ..trees.workspaces import delete_tree
from .differences import FileDifference
from .folders import check_portable, decode_manifest, scan_folder
from .infos import ArtifactVersion


class Download(os.PathLike[str]):
    """The directory that an artifact was downloaded to.

    Use it as a path, or in a `with` statement to get the path. A temporary directory is deleted at the end of the
    `with` block, when this object is garbage collected, or when Python exits.

    Attributes:
        path: The directory.
        version: The version that was downloaded.
    """

    def __init__(self, path: Path, version: ArtifactVersion, *, temporary: bool = False) -> None:
        self.path = path
        self.version = version
        self._finalizer = weakref.finalize(self, delete_folder, path) if temporary else None

    def remove(self) -> None:
        """Delete the directory if it is temporary."""
        if self._finalizer is not None:
            self._finalizer()

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"Download({str(self.path)!r}, {self.version})"

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.remove()


class LoggedFolder(contextlib.AbstractContextManager[Path]):
    """A context manager with a temporary folder that is logged when the block ends. `log_folder` returns one.

    Attributes:
        version: The version that was logged. None until the block has ended, and if it wrote no file.
    """

    def __init__(self, log: Callable[[Path], ArtifactVersion]) -> None:
        self.version: ArtifactVersion | None = None
        self._log = log
        self._folder: Path | None = None

    def __enter__(self) -> Path:
        self._folder = Path(tempfile.mkdtemp(prefix="prefect-snapshots-"))
        return self._folder

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        assert self._folder is not None
        try:
            if kind is None and not any(self._folder.iterdir()):
                logger.warning("The folder is empty, so no version was logged.")
            elif kind is None:
                self.version = self._log(self._folder)
        finally:
            delete_folder(self._folder)


def tree_of(content: ContentReader, name: str, suffix: str | None, label: str) -> StoredTree:
    """Return the files of a version: those of a folder, or the one file of a value, named after the artifact.

    Args:
        content: The content of the version.
        name: The name of the artifact.
        suffix: The suffix of the file of a value; None for a folder.
        label: The name of the version in error messages.
    """
    if suffix is None:
        return StoredTree(content, decode_manifest(content), label=label)
    file = f"{name.rpartition('/')[2]}.{suffix}".encode()
    mode = stat.S_IFREG | 0o644
    entries = [Entry(file, mode, content.body_size)]
    if content.size > content.body_size:
        entries.append(Entry(file + b".manifest", mode, content.size - content.body_size))
    check_portable(entries)
    return StoredTree(content, entries, label=label)


def download(
    tree: StoredTree,
    to: str | os.PathLike[str] | None,
    version: ArtifactVersion,
    passed: Callable[[int], None] = lambda _: None,
    *,
    clean: bool = False,
) -> Download:
    """Write the files of a version to a directory. Every byte is verified.

    Args:
        tree: The files.
        to: A directory; see `ArtifactRegistry.download_artifact`. None means a temporary directory.
        version: The version that is downloaded.
        passed: Called with the number of bytes just written.
        clean: Delete everything else in the directory.

    Raises:
        InvalidArgument: The target is not a directory, or has a directory where the version has a file or the reverse.
        DamagedVersion: A file is damaged. The message names it. The target is unchanged.
    """
    if to is None:
        result = Download(Path(tempfile.mkdtemp(prefix="prefect-snapshots-")), version, temporary=True)
        try:
            write_tree(tree, result.path, passed)
        except BaseException:
            result.remove()
            raise
        return result
    target = Path(os.path.abspath(os.path.expanduser(to)))
    with stage_directory(tree, target, delete=clean, merge=not clean, passed=passed) as switch:
        switch()
    return Download(target, version)


def part_of(tree: StoredTree, patterns: str | Iterable[str] | None) -> StoredTree:
    """Return the files of a tree that match patterns as in `.gitignore`. All of them for None.

    Raises:
        InvalidArgument: No file matches.
    """
    if patterns is None:
        return tree
    texts = [patterns] if isinstance(patterns, str) else [str(pattern) for pattern in patterns]
    rules = rules_of(texts, 0)
    inside: set[str] = set()

    def chosen(entry: Entry) -> bool:
        above, _, name = entry.path.rpartition("/")
        found = above in inside or left_out(rules, entry.path, name, entry.is_directory)
        if found and entry.is_directory:
            inside.add(entry.path)
        return found

    wanted = {entry.raw for entry in tree.entries if chosen(entry)}
    if not wanted:
        close = hint("".join(texts[:1]), [entry.path for entry in tree.entries if entry.is_file])
        what = " or ".join(map(repr, texts)) or "no pattern"
        raise InvalidArgument(f"No file of {tree.label} matches {what}. Nothing was changed. {close}")
    return tree.selected(lambda entry: entry.raw in wanted)


def verify_folder(
    tree: StoredTree, local_path: str | os.PathLike[str], follow_links: bool = False
) -> list[FileDifference]:
    """Compare a folder on the disk with the files of a version, byte by byte: see `ArtifactManager.verify_folder`."""
    folder = scan_folder(Path(os.path.expanduser(local_path)), follow_links=follow_links)
    here = {entry.path: entry for entry in folder.entries}
    return sorted(_changes(tree, folder.root, here), key=lambda found: found.path)


def _changes(tree: StoredTree, root: str, here: dict[str, Entry]) -> Iterator[FileDifference]:
    for path, (entry, _) in tree.by_path.items():
        local = here.pop(path, None)
        if local is None:
            yield FileDifference(path, "removed", _described(entry), None)
        elif _described(entry) != _described(local) or (entry.is_file and not _is_same(tree, path, f"{root}/{path}")):
            yield FileDifference(path, "changed", _described(entry), _described(local))
    yield from (FileDifference(path, "added", None, _described(entry)) for path, entry in here.items())


def _described(entry: Entry) -> str:
    """Return the kind, the size and the permissions of an entry."""
    if entry.is_symlink:
        return f"link to {os.fsdecode(entry.link)}"
    return f"{'directory' if entry.is_directory else f'{entry.size:,} bytes'}, mode {entry.mode & 0o777:o}"


def _is_same(tree: StoredTree, path: str, local: str) -> bool:
    with open(local, "rb") as file:
        return all(file.read(len(piece)) == piece for piece in tree.open(path)) and not file.read(1)


def delete_folder(folder: Path) -> None:
    """Delete a temporary folder if it exists, even if its directories are not writable."""
    with contextlib.suppress(OSError), opened(os.path.realpath(folder.parent)) as parent:
        delete_tree(parent, os.fsencode(folder.name))
