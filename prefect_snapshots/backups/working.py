"""Working folders: where a backup, restore or drill keeps plain files for a while, so that none of them stays behind.

All working folders of a user lie in `prefect-snapshots-UID` in the temporary folder of the system, which only this user
can open. A process holds a lock on its working folder as long as it lives, however it ends. Whoever makes the next
working folder deletes those on which no lock is held: they belong to processes that were killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..errors import PermissionDenied

_LIMIT = 1000
"""Folders that one call cleans at most: a backup must not wait for the leftovers of years."""
_NAMES = 100
"""Names that are tried for the folder of a user, before it is clear that somebody keeps us from having one."""


@contextlib.contextmanager
def working_folder(purpose: str) -> Iterator[Path]:
    """Make a folder that only this user can open, and delete it when the block ends.

    A process that is killed leaves the folder behind. The next working folder of the same user deletes it.

    Args:
        purpose: what it is for, such as "dump": the beginning of its name.
    """
    parent = _parent()
    _clean(parent)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{purpose}-", dir=parent))
        with contextlib.suppress(FileNotFoundError, BlockingIOError), _locked(folder) as file:
            # Without this look, somebody who cleans between `mkdtemp` and the lock would delete it under us.
            if not _is_at(file, folder):
                continue
            try:
                yield folder
            finally:
                _delete(folder)
            return


def clean_working_folders() -> None:
    """Delete the working folders of this user's processes that were killed."""
    _clean(_parent())


def is_held(folder: Path) -> bool:
    """Return whether a living process holds the lock of a working folder. False if there is no such folder."""
    try:
        with _locked(folder):
            return False
    except BlockingIOError:
        return True
    except OSError:
        return False


def working_path(name: str) -> Path:
    """Return where this user's working folder of a name lies, whether it exists or not."""
    return _parent() / name


def _parent() -> Path:
    """The folder that has all working folders of this user.

    Everybody may make names in the temporary folder: one that somebody else has taken is passed over.
    """
    name = f"prefect-snapshots-{os.geteuid()}"
    for taken in ("", *(f"-{number}" for number in range(2, _NAMES))):
        folder = Path(tempfile.gettempdir(), name + taken)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status = folder.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
            if stat.S_IMODE(status.st_mode) & 0o077:
                folder.chmod(0o700)
            return folder
    raise PermissionDenied(
        f"Somebody else has made {name} and all names like it in {tempfile.gettempdir()}. Set TMPDIR to a folder that "
        "only you can write."
    )


def _clean(parent: Path) -> None:
    with os.scandir(parent) as entries:
        folders = [Path(entry.path) for entry, _ in zip(entries, range(_LIMIT), strict=False)]
    for folder in folders:
        # A lock that cannot be taken is held by its living owner; a name that is no folder is none of ours.
        with contextlib.suppress(OSError), _locked(folder):
            _delete(folder)


def _delete(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        try:
            shutil.rmtree(folder)
        except PermissionError:
            # What was restored into it may have folders that their owner cannot write.
            for at, _, _ in os.walk(folder):
                os.chmod(at, 0o700)
            shutil.rmtree(folder)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """Hold the lock of a folder. Raises `BlockingIOError` when another process does."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield file
    finally:
        os.close(file)


def _is_at(file: int, folder: Path) -> bool:
    try:
        found = os.lstat(folder)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(file))
