"""Mount a repository as a read-only file system, through FUSE. Any program can then look into backups and artifacts."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

from ..errors import InvalidArgument, MissingDependency, PathNotFound, SnapshotsError, ToolMissing
from ..messages import logger
from .contained import Contained
from .fsspec_files import SnapshotsFileSystem, VerifiedFile

_DEVICE = "/dev/fuse"
_READABLE = 0o555
"""The permissions that stay: nothing can be written, and no program of a stranger gets the rights of its owner."""


def mount(files: SnapshotsFileSystem, directory: str | os.PathLike[str], path: str = "") -> None:
    """Mount files of a repository, until the directory is unmounted or the process is interrupted.

    A file that is damaged cannot be read (`EIO`), and the log says why.

    Args:
        files: The file system of the repository.
        directory: An empty directory.
        path: Mount only what is below this path. Default: everything.

    Raises:
        ToolMissing: There is no FUSE here, or you may not use it.
        MissingDependency: The package or the library of FUSE is not installed.
        InvalidArgument: The directory is not an empty directory.
        PathNotFound: There is no directory at this path.

    Example:
        >>> from prefect_snapshots.filesystem import SnapshotsFileSystem
        >>> from prefect_snapshots.filesystem.mounting import mount
        >>> mount(SnapshotsFileSystem("memory://example-mount"), "missing")
        Traceback (most recent call last):
        prefect_snapshots.errors.InvalidArgument: missing is not an empty directory. Nothing was mounted.
    """
    place = Path(directory)
    if not place.is_dir() or any(place.iterdir()):
        raise InvalidArgument(f"{directory} is not an empty directory. Nothing was mounted.")
    root = files.resolve(path) if path else ""
    if files.info(root)["type"] != "directory":
        raise PathNotFound(f"{path!r} is not a directory. Nothing was mounted.")
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        raise ToolMissing(
            f"{_DEVICE} is missing, or you may not use it. Nothing was mounted. Use `ls`, `cat` or `serve`."
        )
    fuse = load_fuse()
    options = {"ro": True, "nosuid": True, "nodev": True, "noexec": True, "fsname": "prefect-snapshots"}
    fuse(_Operations(files, root), str(place), foreground=True, nothreads=True, **options)


def load_fuse() -> Any:
    """Return the class that mounts.

    Raises:
        MissingDependency: The package or the library of FUSE is not installed.

    Example:
        >>> from prefect_snapshots.errors import MissingDependency
        >>> from prefect_snapshots.filesystem.mounting import load_fuse
        >>> try:
        ...     name = load_fuse().__name__
        ... except MissingDependency:
        ...     name = "FUSE"
        >>> name
        'FUSE'
    """
    try:
        from fuse import FUSE
    except (ImportError, OSError) as error:  # an OSError: there is no libfuse
        raise MissingDependency(
            f'FUSE is not installed ({error}). Nothing was mounted. Run `pip install "prefect-snapshots[mount]"` and '
            "`apt install libfuse2`, or use `ls`, `cat` or `serve`."
        ) from None
    return FUSE


class _Operations:
    """What FUSE asks for. All other requests are refused."""

    def __init__(self, files: SnapshotsFileSystem, root: str) -> None:
        self._files = files
        self._root = root
        self._open: dict[int, VerifiedFile] = {}
        self._next = 0

    def __call__(self, operation: str, *arguments: Any) -> Any:
        if not hasattr(self, operation):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        try:
            return getattr(self, operation)(*arguments)
        except FileNotFoundError:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT)) from None
        except SnapshotsError as error:
            logger.warning("%s of %s failed: %s", operation, arguments[0], error)
            raise OSError(errno.EIO, os.strerror(errno.EIO)) from None

    def init(self, path: str) -> None:
        """Begin."""

    def destroy(self, path: str) -> None:
        """End."""

    def access(self, path: str, mode: int) -> int:
        """Allow to read."""
        if mode & os.W_OK:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return 0

    def getattr(self, path: str, handle: int | None = None) -> dict[str, Any]:
        """Return the type, size and times of what is at a path."""
        found = self._find(path)
        # What is found at a link is what it leads to. For the kernel it is the link, which it follows itself.
        kind = stat.S_IFDIR if found.type == "directory" else stat.S_IFREG if found.link is None else stat.S_IFLNK
        mode = _READABLE if found.mode is None else found.mode & _READABLE
        created = found.version.created_at.timestamp() if found.version is not None else 0.0
        at = created if found.modified is None else found.modified
        return {
            "st_mode": kind | mode,
            "st_size": found.size if found.link is None else len(os.fsencode(found.link)),
            "st_nlink": 1,
            "st_uid": os.getuid(),
            "st_gid": os.getgid(),
            "st_atime": at,
            "st_mtime": at,
            "st_ctime": at,
        }

    def readdir(self, path: str, handle: int) -> list[str]:
        """Return the names in a directory."""
        found = self._files.files.children(self._below(path))
        return [".", "..", *(each.path.rpartition("/")[2] for each in found if each.type != "other")]

    def readlink(self, path: str) -> str:
        """Return what a symbolic link points to."""
        found = self._find(path)
        if found.link is None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return found.link

    def open(self, path: str, flags: int) -> int:
        """Open a file to read it."""
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        self._next += 1
        self._open[self._next] = self._files.open(self._below(path), "rb")
        return self._next

    def read(self, path: str, size: int, offset: int, handle: int) -> bytes:
        """Return verified bytes of an open file."""
        file = self._open[handle]
        file.seek(offset)
        found: bytes = file.read(size)
        return found

    def release(self, path: str, handle: int) -> int:
        """Close a file."""
        self._open.pop(handle).close()
        return 0

    def _find(self, path: str) -> Contained:
        return self._files.files.find(self._below(path))

    def _below(self, path: str) -> str:
        return f"{self._root}/{path.strip('/')}".strip("/")
