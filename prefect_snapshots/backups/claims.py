"""Decide which source a file belongs to: no file is in two parts of a backup, and the repository is in none.

A database file in a backed-up directory belongs to the database. If the directory copied it while it is written, the
copy would be inconsistent, and a restore would put it over the consistent dump. So the directory excludes it, together
with the files that the database keeps beside it. A directory within another one is a separate part. The repository is
excluded because a backup that contains its own repository would never end.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias, TypeVar

from ..errors import InvalidArgument
from ..repository.repository import Repository
from ..trees.scanning import Directory
from .sources import Database, StoredHere

Source: TypeAlias = Database | Directory

_BESIDE = ("", "-wal", "-shm", "-journal", ".wal", ".tmp")
"""Suffixes of the files that a database in one file keeps beside it."""

T = TypeVar("T")


def without_claimed(
    directories: Sequence[Directory], databases: Iterable[Database], repository: Repository
) -> list[Directory]:
    """Exclude from directories what belongs to a database, to another directory, or to the repository.

    Args:
        directories: The directories to back up.
        databases: The databases in the same backup.
        repository: The repository that stores the backup.

    Returns:
        The directories with these excludes.

    Raises:
        InvalidArgument: Two sources are the same directory, or have the same name.
    """
    files = [place for database in databases for place in files_of(database)]
    folders = [Path(os.path.realpath(directory.path)) for directory in directories]
    claimed = [*files, *folders, *repository_place(repository)]
    for number, folder in enumerate(folders):
        if folder in folders[:number]:
            raise InvalidArgument(f"Two directories of this backup are {folder}. Remove one of them.")
    return [_without(directory, claimed) for directory in directories]


def files_of(database: Database) -> list[Path]:
    """Return the files of a database that is stored in a file, whether they exist or not. A server has none."""
    path = getattr(database, "path", None)
    if not isinstance(path, str | os.PathLike):
        return []
    place = os.path.realpath(path)
    return [Path(place + suffix) for suffix in _BESIDE]


def data_folder(database: Database) -> Path | None:
    """Return a folder on the file system to which a restore writes a database. None: it is on another machine."""
    for file in files_of(database)[:1]:
        return next(folder for folder in file.parents if folder.is_dir())
    return database.data_folder() if isinstance(database, StoredHere) else None


def repository_place(repository: Repository) -> Iterator[Path]:
    """Yield the path of the repository, if it is on this machine."""
    if repository.location.is_local:
        yield Path(os.path.realpath(repository.url.removeprefix("file://")))


def refuse_own_repository(directory: Directory, repository: Repository) -> None:
    """Refuse to replace a directory that contains the repository: it would be read and moved at the same time.

    Raises:
        InvalidArgument: The directory contains the repository.
    """
    if holds_repository(directory, repository):
        raise InvalidArgument(
            f"The directory {directory.path} contains the repository {repository.url}, so it cannot be replaced as "
            "a whole. Restore to another place, restore only some paths, or pass in_place=True."
        )


def holds_repository(directory: Directory, repository: Repository) -> bool:
    """Return whether a directory contains the repository."""
    root = Path(os.path.realpath(directory.path))
    return any(is_within(place, root) for place in repository_place(repository))


def is_within(place: Path, folder: Path) -> bool:
    """Return whether a path is below a folder. The folder itself is not."""
    return place.is_relative_to(folder) and place != folder


def outer_first(items: Sequence[T], place_of: dict[int, Path | None]) -> list[list[T]]:
    """Sort restores into rounds: what is inside a directory comes in a later round than the directory.

    Args:
        items: What to restore, in order.
        place_of: Returns the path of the item with a number. None: it is not on this machine.
    """
    depths: list[int] = []
    for number in range(len(items)):
        place = place_of[number]
        above = [other for other, folder in place_of.items() if folder and place and is_within(place, folder)]
        depths.append(len(above))
    return [[item for item, at in zip(items, depths, strict=True) if at == depth] for depth in sorted(set(depths))]


def _without(directory: Directory, claimed: Sequence[Path]) -> Directory:
    root = Path(os.path.realpath(directory.path))
    if directory.follow_links:
        directory = dataclasses.replace(directory, claimed=[place for place in claimed if place != root])
    inside = sorted({place.relative_to(root).as_posix() for place in claimed if is_within(place, root)})
    if not inside:
        return directory
    patterns = ["/" + re.sub(r"([\\*?\[!#\s])", r"\\\1", path) for path in inside]
    return dataclasses.replace(directory, excludes=(*directory.excludes, *patterns))
