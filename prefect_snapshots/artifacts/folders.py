"""Folders as artifacts: check, log and list them.

A folder consists of files with their permissions, directories, and symbolic links to targets inside it. All of these
mean the same on every machine and for every user. Owners, times, attributes and holes are not stored, so that identical
folders have identical content on every machine. Anything else is refused, both when it is logged and when it is read.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ..errors import (
    UNDECODABLE,
    IntegrityError,
    InvalidArgument,
    InvalidName,
    ObjectMissing,
    PermissionDenied,
    UnsupportedFormat,
)
from ..repository.contents import INLINE_LIMIT, ContentReader, Item, StagedPart, Stored, Writer, inline
from ..repository.repository import Repository
from ..repository.staged_parts import open_parts, with_written
from ..trees.entries import Entry, check_entries, check_path
from ..trees.file_reading import Tree
from ..trees.scanning import FileSelection, Scan, entry_of, scan, state_of

FORMAT = 1
"""The format version of a folder's manifest. A reader refuses a higher one."""

_SMALL = 2 * 1024 * 1024
"""Folders with fewer bytes are stored without threads, because starting those would take longer."""
_STRANGE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


class _FolderManifest(msgspec.Struct, array_like=True):
    format: int
    entries: list[Entry]


@dataclass(frozen=True, slots=True)
class Folder:
    """A file or folder on the disk that is about to be logged.

    Attributes:
        root: The folder, or the folder of the file, with all links in its path resolved.
        scan: The result of scanning it.
        entries: The entries to store: parents first, under their paths in the artifact.
        files: The path in the artifact and the scanned entry of each file.
    """

    root: str
    scan: Scan
    entries: Sequence[Entry]
    files: Sequence[tuple[str, Entry]]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.entries)

    @property
    def manifest(self) -> bytes:
        """The encoded entries, which are stored with the bytes of the files."""
        return encode_manifest(self.entries)

    def travelling(self) -> Stored | None:
        """Return the folder in the form that is stored inside an event, or None if it is too large for that."""
        if self.size > INLINE_LIMIT:
            return None
        return inline(self.manifest, self._tree.travelling())

    def store(self, writer: Writer, passed: Callable[[int], None] = lambda _: None) -> Stored:
        """Store the folder.

        Args:
            writer: The writer of the commit.
            passed: Called with the number of bytes about to be read.

        Raises:
            InvalidArgument: A file changed since the scan.
        """
        return writer.store_cut(self.manifest, self.chunks(writer, passed), small=self.size < _SMALL)

    def chunks(self, writer: Writer, passed: Callable[[int], None] = lambda _: None) -> Iterator[Item]:
        """Yield the chunks of its files in order: see `store`."""
        return self._tree.chunks(writer, passed)

    def path_of(self, entry: Entry) -> str:
        """Return where a file is on the disk."""
        return f"{self.root}/{entry.path}"

    def check_unchanged(self, entry: Entry) -> None:
        """Raise `InvalidArgument` if a file changed since the scan."""
        if state_of(os.stat(self.path_of(entry))) != (entry.size, entry.mtime, *entry.state[:2]):
            raise InvalidArgument(
                f"{self.path_of(entry)} changed while it was read. Nothing was saved. Try again when no program writes "
                "to it."
            )

    @property
    def _tree(self) -> Tree:
        return Tree(self.root, self.scan, exact=False)


def join_folders(repository: Repository, writer: Writer, parts: Sequence[StagedPart]) -> Stored:
    """Store folders that other processes have staged as one. Nothing is copied.

    They are joined in the order of their first files, so that the same parts in any order are the same folder.

    Raises:
        StagedPartsLost: A prune has freed some of them. The error has their numbers.
        InvalidArgument: Two parts have the same file, or something is no part.
    """
    if not parts:
        raise InvalidArgument("There are no parts to log. Nothing was saved.")
    opened = open_parts(repository, writer, parts, "stage_files", _refused)
    folders = []
    for number, (content, body) in enumerate(opened):
        try:
            folders.append((decode_manifest(content), body))
        except (IntegrityError, InvalidName) as error:
            raise _refused(number, str(error)) from error
    folders.sort(key=lambda folder: min((entry.raw for entry in folder[0] if not entry.is_directory), default=b""))
    joined: dict[bytes, Entry] = {}
    for entries, _ in folders:
        for entry in entries:
            known = joined.setdefault(entry.raw, entry)
            if known is not entry and not (known.is_directory and entry.is_directory):
                raise InvalidArgument(f"Two parts have {entry.path!r}. Nothing was saved. Stage them in other folders.")
    merged = list(joined.values())
    check_entries(merged)  # one part may have a file where another has a folder
    return with_written(writer.store_cut(encode_manifest(merged), [body for _, body in folders]), parts)


def _refused(number: int, why: str) -> InvalidArgument:
    return InvalidArgument(f"Part {number} was refused, because it is no folder: {why} Nothing was saved.")


def scan_folder(local: Path, below: str | None = None, *, follow_links: bool = False) -> Folder:
    """Scan a file or folder that is about to be logged. No file is read.

    Args:
        local: A file or a folder.
        below: The folder in the artifact to put them into. Default: the top.
        follow_links: Whether to log what links lead to, instead of the links.

    Raises:
        ObjectMissing: There is nothing at `local`.
        InvalidName: A path or a link cannot be stored in an artifact.
        InvalidArgument: Something is neither a file, a directory nor a link.
    """
    try:
        status = os.stat(local)
    except FileNotFoundError:
        raise ObjectMissing(f"There is no file or folder at {local}. Nothing was saved.") from None
    prefix = b"" if below is None else check_path(os.fsencode(below.rstrip("/"))) + b"/"
    root = os.path.realpath(local)
    if stat.S_ISDIR(status.st_mode):
        found = _scan(root, follow_links)
        names = [prefix + entry.raw for entry in found.entries]
    else:
        root, _, name = root.rpartition("/")
        found = Scan(Entry(b"", stat.S_IFDIR), time.time_ns(), [entry_of(os.fsencode(name), status)], [-1])
        names = [prefix + os.fsencode(local.name)]
    steps = prefix.split(b"/")
    above = [Entry(b"/".join(steps[:depth]), stat.S_IFDIR | 0o755) for depth in range(1, len(steps))]
    stored = [_plain(entry, name, root) for entry, name in zip(found.entries, names, strict=True)]
    check_portable(above)
    check_portable(stored)
    files = [(kept.path, entry) for kept, entry in zip(stored, found.entries, strict=True) if entry.is_file]
    return Folder(root or "/", found, above + stored, files)


def _scan(root: str, follow_links: bool) -> Scan:
    found = scan(root, FileSelection(), hard_links=False, follow_links=follow_links)
    if found.skipped:
        raise _unfit(f"{root}/{found.skipped[0]}")
    if found.unreadable:
        raise PermissionDenied(f"{root} cannot be logged, and nothing was saved: {found.unreadable[0]}.")
    if found.vanished:
        raise InvalidArgument(f"{root}/{found.vanished[0]} was deleted while {root} was logged. Nothing was saved.")
    return found


def _plain(entry: Entry, raw: bytes, root: str) -> Entry:
    """Return an entry with only the properties that artifacts store."""
    if not (entry.is_file or entry.is_directory or entry.is_symlink):
        raise _unfit(f"{root}/{entry.path}")
    mode = stat.S_IFLNK | 0o777 if entry.is_symlink else stat.S_IFMT(entry.mode) | entry.mode & 0o777
    return Entry(raw, mode, entry.size, entry.link)


def _unfit(path: str) -> InvalidArgument:
    return InvalidArgument(
        f"{path!r} is not a file, a directory or a symbolic link, and cannot be logged. Nothing was saved."
    )


def encode_manifest(entries: Sequence[Entry]) -> bytes:
    """Encode the manifest of a folder."""
    return msgspec.msgpack.encode(_FolderManifest(FORMAT, list(entries)))


def decode_manifest(content: ContentReader) -> list[Entry]:
    """Decode the entries of a folder, and check that no path or link leads out of it.

    Raises:
        IntegrityError: The manifest is damaged.
        UnsupportedFormat: A newer version wrote it.
        InvalidName: It has a path or a link that is not allowed in an artifact.
    """
    try:
        manifest = msgspec.msgpack.decode(content.manifest, type=_FolderManifest)
    except UNDECODABLE as error:
        raise IntegrityError(f"The manifest of this folder is damaged: {error}") from None
    if manifest.format > FORMAT:
        raise UnsupportedFormat(
            f"This folder has format {manifest.format}, and this version of prefect-snapshots reads up to {FORMAT}. "
            "Upgrade prefect-snapshots."
        )
    check_entries(manifest.entries, content.body_size)
    check_portable(manifest.entries)
    return manifest.entries


def check_portable(entries: Iterable[Entry]) -> None:
    """Refuse entries that do not have the same meaning on every machine.

    Raises:
        InvalidName: A path has control characters or is not UTF-8, a link could lead out, or an entry is not a file, a
            directory or a link.
    """
    for entry in entries:
        path = entry.path
        check_path(entry.raw)
        if _STRANGE.search(path):
            raise InvalidName(f"The path {path!r} has control characters, or is not valid UTF-8. Rename the file.")
        if entry.is_symlink:
            _check_link(entry)
        elif not (entry.is_file or entry.is_directory) or entry.mode & 0o7000 or entry.link:
            raise InvalidName(f"{path!r} is not a file, a directory or a link that an artifact can hold.")
        if entry.extents is not None or entry.xattrs is not None:
            raise InvalidName(f"{path!r} has holes or attributes, which an artifact cannot hold.")


def _check_link(entry: Entry) -> None:
    """Refuse a link that could lead out.

    `..` is allowed only at the beginning: after a name that is itself a link, it could lead anywhere.
    """
    link = entry.link.decode("utf-8", "surrogateescape")
    parts = link.split("/")
    ups = next((at for at, part in enumerate(parts) if part != ".."), len(parts))
    if not parts[0] or _STRANGE.search(link) or ".." in parts[ups:] or ups > entry.path.count("/"):
        raise InvalidName(
            f"The link {entry.path!r} leads to {link!r}, out of the folder. To log what links lead to, as in the cache "
            "of a model hub, pass follow_links=True or --follow-links."
        )
