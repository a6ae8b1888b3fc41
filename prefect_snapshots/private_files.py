"""Private files: repositories, exports, reports and restored databases; and files of strangers.

By default only their owner can read and write them, as with restic and borg. You can set a wider umask for one
repository (`storage_options={"umask": "027"}`) or for everything (`PREFECT_INTEGRATIONS_SNAPSHOTS_UMASK=027`). The
umask of the process is applied, too.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from .errors import InvalidArgument

UMASK_SETTING = "PREFECT_INTEGRATIONS_SNAPSHOTS_UMASK"

_PRIVATE = "077"


class Modes:
    """The permissions of new files and directories.

    Args:
        umask: The permissions to remove, as octal digits such as `"027"`. Default: the environment variable
            `PREFECT_INTEGRATIONS_SNAPSHOTS_UMASK`, or `"077"` if it is not set.

    Attributes:
        file: The mode of new files.
        directory: The mode of new directories.

    Raises:
        InvalidArgument: The umask is not a string of octal digits. A number is refused, because `22` is ambiguous.
    """

    def __init__(self, umask: object = None) -> None:
        if umask is None:
            umask = os.environ.get(UMASK_SETTING) or _PRIVATE
        if not (isinstance(umask, str) and umask and len(umask) <= 4 and set(umask) <= set("01234567")):
            raise InvalidArgument('umask must be a string of octal digits, such as "027".')
        bits = int(umask, 8)
        self.file = 0o666 & ~bits
        self.directory = 0o777 & ~bits


def create_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Create a private file, and return it open for writing bytes.

    Raises:
        FileExistsError: The path already exists.
    """
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, Modes().file), "wb")


def as_private(path: Path) -> None:
    """Set the permissions of a file that another library created to those of `create_file`."""
    before = os.umask(0)
    os.umask(before)
    os.chmod(path, Modes().file & ~before)


def stranger_of(path: str | os.PathLike[str], place: str | os.PathLike[str]) -> int | None:
    """Return the user who could have put a file here without your knowledge, as anybody can in `/tmp`.

    A link counts with what it leads to.

    Args:
        path: The file or directory.
        place: The directory where it is expected. What its owner puts there is no surprise: in a container, root
            works in the directory of another user.

    Returns:
        The owner of the file, if that is neither you, nor root, nor the owner of the place. Else None.

    Raises:
        OSError: One of them is missing, or cannot be looked at.
    """
    trusted = {0, os.geteuid(), os.stat(place).st_uid}
    return next((each.st_uid for each in (os.lstat(path), os.stat(path)) if each.st_uid not in trusted), None)


def why_forgeable(path: str | os.PathLike[str], place: str | os.PathLike[str]) -> str | None:
    """Return why others could have written a file, or what is in a directory, as the rest of a sentence. Else None.

    On file systems without permissions, everybody may write to everything, unless they are mounted with a umask.

    Args:
        path: The file or directory.
        place: As for `stranger_of`.

    Raises:
        OSError: One of them is missing, or cannot be looked at.
    """
    if (stranger := stranger_of(path, place)) is not None:
        return f"belongs to the user {stranger}"
    return "can be written to by all users" if os.stat(path).st_mode & stat.S_IWOTH else None
