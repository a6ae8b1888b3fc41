"""Working folders for the temporary plain files of backups, restores and drills. None of them is left behind.

All working folders of a user are in `prefect-snapshots-UID` in the temporary folder of the system, which only this user
can open. A process holds a lock on its working folder until it ends, in whatever way. Creating a working folder first
deletes those that nobody has locked: they belong to processes that were killed.

A working folder can also stand for something that only one process may do at a time: see `exclusively`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import PermissionDenied, StorageFull
from ..repository.origin import host
from ..trees.descriptors import opened
from ..trees.workspaces import delete_tree
from .interruption import deferred

_LIMIT = 1000
"""The most folders that one call deletes. A backup must not wait until the leftovers of years are deleted."""
_NAME = 50
"""Characters of a file's name in the name of a folder beside it. A name has at most 255 bytes, a character up to 4."""
_NAMES = 100
"""Names to try for the folder of a user. If all are taken, another user blocks them on purpose."""
_MOMENT = 1.0
"""Seconds to wait for a process that is deleting the folder of a killed process. Usually that takes milliseconds."""


class AlreadyHeld(Exception):
    """Other processes hold a name. `notes` are their notes."""

    def __init__(self, notes: Sequence[str]) -> None:
        super().__init__(*notes)
        self.notes = tuple(notes)


@contextlib.contextmanager
def working_folder(purpose: str) -> Iterator[Path]:
    """Make a folder that only this user can open, and delete it when the block ends.

    A process that is killed leaves the folder behind. The next working folder of the same user deletes it.

    Args:
        purpose: The first part of its name, such as "dump".
    """
    parent = _parent()
    _clean(parent)
    with _held(parent, f"{purpose}-") as folder:
        yield folder


@contextlib.contextmanager
def folder_beside(place: Path) -> Iterator[Path]:
    """Make a working folder beside a file that will be replaced, and delete it when the block ends.

    Args:
        place: The file. Folders that killed processes left beside it are deleted first.
    """
    prefix = f".{place.name[:_NAME]}.restoring-"
    place.parent.mkdir(parents=True, exist_ok=True)
    _clean(place.parent, prefix)
    with _held(place.parent, prefix) as folder:
        yield folder


@contextlib.contextmanager
def exclusively(name: str, note: str, *, shared: bool = False) -> Iterator[None]:
    """Hold a name among all processes of this user on this machine. The name is free again when the process ends.

    Args:
        name: The name: letters, digits and `-`.
        note: A note for other processes that want the same name.
        shared: Whether other processes that also pass True may hold the name at the same time.

    Raises:
        AlreadyHeld: Another process holds it.
    """
    folder = _parent() / name
    with contextlib.ExitStack() as stack:
        # A signal between two of these steps would leave a folder that nobody deletes.
        with deferred():
            file = _lock_of(folder, shared, stack)
            stack.callback(_leave, file, folder)
            own = folder / f"{os.getpid()}-{os.urandom(4).hex()}"
            own.write_text(note)
            stack.callback(own.unlink)
        yield


def check_space(size: int, folder: Path, what: str) -> None:
    """Refuse to write more than fits, before anything is written. A full file system would stop other programs, too.

    Args:
        size: The number of bytes to write.
        folder: A folder on the file system to write to.
        what: The thing that needs the space, as the beginning of a sentence.

    Raises:
        StorageFull: There is less space.
    """
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    if size > free:
        raise StorageFull(
            f"{what} needs {size:,} bytes in {folder}, where {free:,} are free. Nothing was changed. Make space, "
            "or set TMPDIR to another folder if this is the one for temporary files."
        )


def clean_working_folders() -> None:
    """Delete the working folders of killed processes of this user."""
    _clean(_parent())


def place_id() -> str:
    """Return 8 hexadecimal digits that stand for the working folders of this user on this machine.

    They change if the temporary folder is deleted.
    """
    status = _parent().stat()
    place = f"{host()} {status.st_uid} {status.st_dev} {status.st_ino}"
    return hashlib.blake2b(place.encode(), digest_size=4).hexdigest()


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
    """Return the path of this user's working folder with a name, whether it exists or not."""
    return _parent() / name


def _parent() -> Path:
    """Return the folder that contains all working folders of this user.

    Every user can create names in the temporary folder. A name that another user has taken is skipped.
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
        f"Other users have taken {name} and all names like it in {tempfile.gettempdir()}. Set TMPDIR to a folder that "
        "only you can write to."
    )


def _clean(parent: Path, prefix: str = "") -> None:
    with os.scandir(parent) as entries:
        ours = (entry for entry in entries if entry.name.startswith(prefix))
        folders = [Path(entry.path) for entry, _ in zip(ours, range(_LIMIT), strict=False)]
    for folder in folders:
        # A lock that cannot be taken is held by a living process. A name that is not a folder is not ours.
        with contextlib.suppress(OSError), _locked(folder):
            _delete(folder)


def _delete(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError), opened(os.path.realpath(folder.parent)) as parent:
        delete_tree(parent, os.fsencode(folder.name))


@contextlib.contextmanager
def _held(parent: Path, prefix: str) -> Iterator[Path]:
    """Make a folder whose lock this process holds, and delete it when the block ends."""
    with contextlib.ExitStack() as stack:
        # A signal between two of these steps would leave a folder that nobody deletes.
        with deferred():
            while True:
                folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
                with contextlib.suppress(FileNotFoundError, BlockingIOError), contextlib.ExitStack() as trying:
                    file = trying.enter_context(_locked(folder))
                    # Without this check, a cleanup by another process before the lock is held would delete our folder.
                    if _is_at(file, folder):
                        stack.push(trying.pop_all())
                        stack.callback(_delete_undisturbed, folder)
                        break
        yield folder


def _lock_of(folder: Path, shared: bool, stack: contextlib.ExitStack) -> int:
    """Make a folder unless it is there, and lock it until the stack is closed. Returns its descriptor."""
    deadline = time.monotonic() + _MOMENT
    while True:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as trying:
            try:
                file = trying.enter_context(_locked(folder, shared))
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise AlreadyHeld(_notes_in(folder)) from None
                time.sleep(_MOMENT / 50)
                continue
            # Without this check, a cleanup by another process before the lock is held would delete our folder.
            if _is_at(file, folder):
                stack.push(trying.pop_all())
                return file


def _leave(file: int, folder: Path) -> None:
    """Delete the folder of a lock, unless other processes share it."""
    # Otherwise, the last process that shares it deletes it.
    with deferred(), contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _delete(folder)


def _notes_in(folder: Path) -> list[str]:
    """Return the notes of living processes."""
    notes = []
    for path in sorted(folder.glob("*-*")):
        with contextlib.suppress(OSError, ValueError):
            note = path.read_text()
            with contextlib.suppress(PermissionError):  # it is alive, and belongs to another user
                os.kill(int(path.name.partition("-")[0]), 0)
            notes.append(note)
    return notes


def _delete_undisturbed(folder: Path) -> None:
    with deferred():
        _delete(folder)


@contextlib.contextmanager
def _locked(folder: Path, shared: bool = False) -> Iterator[int]:
    """Hold the lock of a folder. Raises `BlockingIOError` if another process holds it."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        yield file
    finally:
        os.close(file)


def _is_at(file: int, folder: Path) -> bool:
    try:
        found = os.lstat(folder)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(file))
