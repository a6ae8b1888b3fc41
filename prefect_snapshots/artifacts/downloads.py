"""Downloads: the files of a version, put where somebody wants them."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from ..errors import InvalidArgument
from ..repository.contents import ContentReader
from .folders import Entry, check_path, decode_manifest, set_directory_modes, sync
from .interface import ArtifactVersion


class Download(os.PathLike[str]):
    """The directory that an artifact was downloaded to.

    As a context manager it gives the path, and afterwards removes the directory if it is a temporary one. Without
    `with`, that happens when this object is gone, at the latest when Python ends.

    Attributes:
        path: the directory.
        version: what was downloaded.
    """

    def __init__(self, path: Path, version: ArtifactVersion, *, temporary: bool = False) -> None:
        self.path = path
        self.version = version
        self._finalizer = weakref.finalize(self, remove, path) if temporary else None

    def remove(self) -> None:
        """Remove the directory if it is a temporary one."""
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


def entries_of(name: str, suffix: str | None, content: ContentReader) -> list[Entry]:
    """The files of a version: those of a folder, or the one that a value is, named after the artifact.

    Arguments:
        suffix: of the file that a value is; None of a folder.
    """
    if suffix is None:
        return decode_manifest(content)
    file = check_path(f"{name.rpartition('/')[2]}.{suffix}")
    mode = stat.S_IFREG | 0o644
    entries = [Entry(file, mode, content.body_size)]
    if content.size > content.body_size:
        entries.append(Entry(f"{file}.manifest", mode, content.size - content.body_size))
    return entries


def check_target(to: str | os.PathLike[str] | None) -> Path | None:
    """Where a download shall go; None means a temporary directory.

    Raises:
        InvalidArgument: something that is no directory is there.
    """
    target = None if to is None else Path(os.path.abspath(to))
    if target is not None and os.path.lexists(target) and not target.is_dir():
        raise InvalidArgument(f"{target} is not a directory: say where the files shall go")
    return target


def download(
    write: Callable[[Path, bool], None], entries: Sequence[Entry], target: Path | None, version: ArtifactVersion
) -> Download:
    """Write a version into a temporary place, and move it into its own when it is verified and durable.

    Arguments:
        write: writes the entries into an empty directory; is told whether they have to be durable.
        entries: of the version.
        target: from `check_target`.
    """
    if target is None:
        result = Download(Path(tempfile.mkdtemp(prefix="prefect-snapshots-")), version, temporary=True)
        try:
            write(result.path, False)
        except BaseException:
            result.remove()
            raise
        return result
    exists = target.exists()
    beside = target if exists else target.parent
    beside.mkdir(parents=True, exist_ok=True)
    part = beside / f".{target.name}.{secrets.token_hex(8)}.part"
    part.mkdir()
    try:
        write(part, True)
        if exists:
            _put_in_place(part, entries, target)
        else:
            os.rename(part, target)
            sync(beside)
    finally:
        remove(part)
    return Download(target, version)


def remove(folder: Path) -> None:
    """Remove a folder if it is there, also one with directories that nobody may write to."""
    for at, names, _ in os.walk(folder):
        for name in names:
            if not os.path.islink(path := os.path.join(at, name)):
                os.chmod(path, 0o700)
    shutil.rmtree(folder, ignore_errors=True)


def _put_in_place(folder: Path, entries: Sequence[Entry], target: Path) -> None:
    """Move what `write` wrote into a directory that exists: a file of the same name is replaced, others stay.

    Raises:
        InvalidArgument: where a directory is needed there is a file or a link, or the reverse. Nothing was moved.
    """
    for entry in entries:
        parents = [target / parent for parent in PurePosixPath(entry.path).parents][:-1]
        if stat.S_ISDIR(entry.mode):
            parents.append(target / entry.path)
        elif (target / entry.path).is_dir() and not (target / entry.path).is_symlink():
            raise InvalidArgument(f"{target / entry.path} is a directory, and the artifact has a file there")
        for parent in parents:
            if os.path.lexists(parent) and (parent.is_symlink() or not parent.is_dir()):
                raise InvalidArgument(f"{parent} is no directory, and the artifact has one there")
    touched = {target}
    for entry in entries:
        place = target / entry.path
        place.parent.mkdir(parents=True, exist_ok=True)
        touched.add(place.parent)
        if stat.S_ISDIR(entry.mode):
            place.mkdir(exist_ok=True)
        else:
            os.replace(folder / entry.path, place)
    set_directory_modes(entries, target)
    for directory in touched:
        sync(directory)
