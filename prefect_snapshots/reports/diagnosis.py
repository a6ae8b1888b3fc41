"""Test whether a repository and the sources of backups can be used, before anything depends on them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..backups import BackupManager
from ..backups.sources import Database
from ..documents.texts import count_text, size_text
from ..errors import SnapshotsError
from ..messages import system_error
from ..repository import Repository
from ..repository.location import open_location


@dataclass(frozen=True)
class Finding:
    """What a test found.

    Attributes:
        what: What was tested.
        ok: Whether it can be used.
        found: What was found, or the error.
    """

    what: str
    ok: bool
    found: tuple[str, ...]


def finding(what: str, look: Callable[[], Iterable[str]]) -> Finding:
    """Return what a function found. An error of it is a finding, too.

    Args:
        what: What the function tests.
        look: A function that returns what it found.
    """
    try:
        return Finding(what, True, tuple(look()))
    except SnapshotsError as error:
        return Finding(what, False, (str(error),))
    except OSError as error:
        known = error.strerror is not None and str(error.filename) in what
        return Finding(what, False, (str(error.strerror) if known else system_error(error),))


def look_at_repository(repository: Repository, *, probe: bool = False) -> Iterator[str]:
    """Yield what is found about a repository.

    Args:
        repository: The repository. It need not exist.
        probe: Also create an object there and delete it, to test that writing works and is safe for several writers.

    Raises:
        SnapshotsError: It cannot be used.
    """
    if not repository.exists():
        yield "does not exist yet: the first save creates it"
    elif repository.encrypted:
        yield "encrypted, and the password opens it"
    else:
        yield "exists, and is not encrypted"
    if probe:
        _probe(repository)
        yield "can be written by several processes at once"
    if repository.location.is_local:
        yield f"{size_text(shutil.disk_usage(_existing_folder(repository)).free)} free"


def _probe(repository: Repository) -> None:
    """Test that several processes can write. Where there is no repository, nothing is left."""
    if repository.exists() or not repository.location.is_local:
        repository.location.prove_exclusive()
        return
    # Another process may create the repository meanwhile, so no folder of it can be deleted afterwards.
    with tempfile.TemporaryDirectory(prefix=".probe-", dir=_existing_folder(repository)) as folder:
        open_location(folder).prove_exclusive()


def _existing_folder(repository: Repository) -> Path:
    place = Path(repository.url.removeprefix("file://"))
    while not place.exists():
        place = place.parent
    return place


def look_at_database(database: Database) -> list[str]:
    """Return what is found about a database.

    Raises:
        SnapshotsError: It cannot be backed up, or a backup of it could not be restored.
    """
    found = list(database.check())
    if bad := database.check_restorable():
        raise SnapshotsError(" ".join(bad))
    return found


def diagnose_sources(manager: BackupManager) -> Iterator[Finding]:
    """Yield what is found about each source of a manager."""
    for server in manager.servers:
        yield finding(f"server {server.name}", lambda one=server: (each.name for each in one.databases()))  # type: ignore[misc]
    for database in manager.databases:
        yield finding(f"database {database.name}", partial(look_at_database, database))
    for directory in manager.directories:
        yield finding(f"directory {directory.path}", partial(_entries, directory.path))
    for file in manager.files:
        yield finding(f"file {file.name}", file.check)


def _entries(directory: str | os.PathLike[str]) -> list[str]:
    return [count_text(len(os.listdir(directory)), "entry", "entries")]
