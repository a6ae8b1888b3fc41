"""Restore a SQLite database to any time: build the file beside its place, check it, then link it there."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from ..arguments import checking_types
from ..errors import RestoreFailed
from ..private_files import create_file
from ..repository.progress import Progress, silent
from ..repository.repository import Repository
from ..wal import SQLiteArchive
from .databases.base import restoring
from .databases.sqlite import check_integrity
from .interruption import terminable
from .working import check_space, folder_beside, working_folder


@dataclass(frozen=True, slots=True)
class SQLiteRestoreReport:
    """The result of a restore.

    Attributes:
        path: The restored file. Empty after a drill.
        name: The name of the database in the archive.
        at: The time of its state: nothing that was committed later is in it.
        complete_until: Everything that was acknowledged before this time is in it.
        size: Bytes of the file.
        problems: What SQLite finds wrong in rows or indexes. It was so in the database.
    """

    path: str
    name: str
    at: datetime
    complete_until: datetime
    size: int
    problems: str


@checking_types
def restore_sqlite(
    repository: Repository,
    name: str,
    path: str | os.PathLike[str],
    at: datetime | None = None,
    *,
    drill: bool = False,
    progress: Progress | None = None,
) -> SQLiteRestoreReport:
    """Write a database that `SQLiteFollower` follows to a new file, as it was at a time.

    Args:
        repository: Where the archive is.
        name: The name of the database in the archive.
        path: The new file. It must not exist.
        at: The time. Default: the latest state in the archive.
        drill: Delete the result, and only return the report. The path is not used then. Without a time, a random one is
            chosen.
        progress: Called with the bytes that were read from the archive, and how many there are.

    Returns:
        What was restored.

    Raises:
        WalNotFound: The time is not in the archive. Nothing was written.
        RestoreFailed: The file exists, or SQLite cannot read the result. Nothing was written.
        IntegrityError: The archive is damaged. Nothing was written.

    Example:
        >>> from prefect_snapshots import Repository
        >>> from prefect_snapshots.backups import restore_sqlite
        >>> restore_sqlite(Repository("memory://r"), "app.db", "restored.db")
        Traceback (most recent call last):
        prefect_snapshots.errors.WalNotFound: The archive in memory://r has no SQLite database 'app.db'. There are none.
    """
    archive = SQLiteArchive(repository, name)
    if drill and at is None:
        at = _random_time(archive)
    state = archive.state_at(at)
    target = Path(path).absolute()
    for taken in () if drill else (target, *(Path(f"{target}{end}") for end in ("-wal", "-shm", "-journal"))):
        if os.path.lexists(taken):
            raise RestoreFailed(f"{taken} exists. Nothing was written. Choose another path, or move it away.")
    with terminable(), working_folder("sqlite") if drill else folder_beside(target) as folder:
        check_space(state.size, folder, f"The restore of {name}")
        beside = folder / "database.sqlite"
        with create_file(beside) as file:
            archive.write(state, file, progress or silent)
            file.flush()
            os.fsync(file.fileno())
        with restoring(name, "and nothing was written"):
            problems = check_integrity(beside)
        written = beside.stat().st_size
        if not drill:
            _place(beside, target)
    return SQLiteRestoreReport("" if drill else str(target), name, state.at, state.complete_until, written, problems)


def _random_time(archive: SQLiteArchive) -> datetime | None:
    """Return a random time that the archive knows, each one with the same probability."""
    ranges = archive.window().ranges
    chosen = random.uniform(0, sum((end - begin).total_seconds() for begin, end in ranges))
    for begin, end in ranges:
        length = (end - begin).total_seconds()
        if chosen <= length:
            return begin + timedelta(seconds=chosen)
        chosen -= length
    return None


def _place(beside: Path, target: Path) -> None:
    """Give a file its name, durably, without replacing anything."""
    try:
        os.link(beside, target)
    except FileExistsError:
        raise RestoreFailed(f"{target} exists by now. It was not changed.") from None
    directory = os.open(target.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
