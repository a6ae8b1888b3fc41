"""Create files durably and exclusively, create and list directories, and convert errors of the operating system."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType

from ...errors import (
    ObjectMissing,
    PermissionDenied,
    RepositoryChanged,
    SnapshotsError,
    StorageError,
    StorageFull,
    StorageUnavailable,
)
from .interface import Buffer, temporary_name

NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_MOST_BUFFERS = 1024  # IOV_MAX of Linux
_RENAME_NOREPLACE = 1
"""The flag of Linux's renameat2."""
_HELD = 32
"""The most directories of a location that are held open: the streams in use and the folders of the data, far below the
usual limit of 1,024 open files."""

# The errors of file systems that do not support hard links, unnamed files or exclusive renames.
_UNKNOWN_CALL = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EMLINK, errno.EISDIR}


def write_all(file: int, buffers: Sequence[Buffer]) -> None:
    """Write all buffers without joining them. One call of the system may accept only some of them."""
    rest = [view.cast("B") for buffer in buffers if (view := memoryview(buffer)).nbytes]
    while rest:
        written = os.writev(file, rest[:_MOST_BUFFERS])
        taken = 0
        while taken < len(rest) and written >= len(rest[taken]):
            written -= len(rest[taken])
            taken += 1
        del rest[:taken]
        if written:
            rest[0] = rest[0][written:]


def pieces(file: int, start: int, length: int) -> Iterator[bytes]:
    """Yield up to `length` bytes from `start` on, in several pieces only if one call cannot return all (2 GiB)."""
    while length and (piece := os.pread(file, length, start)):
        yield piece
        start += len(piece)
        length -= len(piece)


def sync_directory(directory: int) -> None:
    """Make the entries of a directory durable."""
    try:
        os.fsync(directory)
    except OSError as error:
        # Some network file systems do not need to sync directories, and return one of these errors.
        if error.errno not in {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}:
            raise


def sync_entry(directory: int, where: str) -> None:
    """Make the entry of an object in its directory durable.

    Args:
        directory: The descriptor of the directory.
        where: The name of the object in messages.

    Raises:
        StorageUnavailable: It is not known whether the entry is durable.
    """
    try:
        sync_directory(directory)
    except OSError as error:
        raise StorageUnavailable(
            f"{where}: its directory could not be synced ({error.strerror}), so it is not known whether it survives "
            "a loss of power. Check the disk."
        ) from error


# --- directories --------------------------------------------------------------------------------------------------


class Directories:
    """The directories of a location. Missing directories are created durably.

    Symbolic links inside the location are not followed, because anyone who can write to it could make you or root write
    and delete elsewhere. There is one exception, for folders on another disk: a folder directly below the root may be a
    link that belongs to you or to root.

    Args:
        root: The absolute path of the location.
        mode: The permissions of new directories.
    """

    def __init__(self, root: str, mode: int) -> None:
        self._root = root
        self._mode = mode
        # The directories whose entry in their parent is known to be durable.
        self._durable: set[str] = set()
        # The device and inode of the root, once something was written there.
        self._identity: tuple[int, int] | None = None
        self._held: dict[str, _Held] = {}

    def opened(self, folder: str, *, create: bool = True) -> _Held:
        """Open a directory of the location, as a context manager that returns its descriptor.

        Args:
            folder: Its path within the location, or `""` for the root.
            create: Whether to create a missing directory. Default: True.
        """
        directory = f"{self._root}/{folder}" if folder else self._root
        held = self._held.get(folder)
        if held is None or (create and directory not in self._durable) or not held.is_at(directory):
            held = self._open(folder, directory, create)
            if len(self._held) >= _HELD:
                self._held.clear()
            self._held[folder] = held
        return held

    def _open(self, folder: str, directory: str, create: bool) -> _Held:
        if self._identity is not None:
            self._check_root()
        if create and directory not in self._durable:
            self._make_durable(directory)
        try:
            held = _Held(self._enter(folder))
        except FileNotFoundError:
            if not create:
                raise
            # Somebody has deleted it since.
            self._durable.clear()
            self._make_durable(directory)
            held = _Held(self._enter(folder))
        if create and self._identity is None:
            self._identity = _identity_of(os.stat(self._root))
        return held

    def _check_root(self) -> None:
        """Check that nobody has removed or replaced the root since something was written there.

        What this process remembers of the repository would be wrong: it would refer to data that is gone.
        """
        try:
            if _identity_of(os.stat(self._root)) == self._identity:
                return
            what = "replaced by another one"
        except FileNotFoundError:
            what = "removed"
        raise RepositoryChanged(
            f"{self._root}: the directory of the repository was {what} while this process used it. Nothing was "
            "written. If this is right, restart the process."
        )

    def _enter(self, folder: str) -> int:
        descriptor = os.open(self._root, _DIRECTORY)
        for depth, name in enumerate(folder.split("/") if folder else ()):
            above = descriptor
            try:
                descriptor = self._enter_one(above, name, depth)
            finally:
                os.close(above)
        return descriptor

    def _enter_one(self, above: int, name: str, depth: int) -> int:
        try:
            return os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
        except OSError as error:
            # For a link, some systems return one of these errors, and some the other.
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            status = os.stat(name, dir_fd=above, follow_symlinks=False)
            if not stat.S_ISLNK(status.st_mode):
                raise
            if depth or not _is_trusted(status):
                raise PermissionDenied(_LINK.format(name=name)) from None
            return os.open(name, _DIRECTORY, dir_fd=above)

    def _make_durable(self, directory: str) -> None:
        """Create a directory and those above it, and make their entries durable.

        An existing directory is synced, too, because the process that created it may not have done this. Above the
        location, only missing directories are created and synced.
        """
        above = os.path.dirname(directory)
        inside = directory.startswith(self._root + "/")
        if above not in self._durable if inside else not os.path.isdir(above):
            self._make_durable(above)
        created = False
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory, self._mode)
            created = True
        # Some users may not open the parent directory of the location, such as /home.
        with contextlib.nullcontext() if created or inside else contextlib.suppress(PermissionError):
            descriptor = os.open(above, _DIRECTORY)
            try:
                sync_directory(descriptor)
            finally:
                os.close(descriptor)
        self._durable.add(directory)


class _Held:
    """An open directory, so that the next write need not go through all directories above it again.

    It is closed when nobody refers to it. Until then, no other directory can get its inode.
    """

    __slots__ = ("_identity", "descriptor")

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._identity = _identity_of(os.fstat(descriptor))

    def __enter__(self) -> int:
        return self.descriptor

    def __exit__(self, *error: object) -> None:
        pass

    def is_at(self, path: str) -> bool:
        """Return whether a path still leads to this directory, and not to one or a link that has taken its place."""
        try:
            return _identity_of(os.stat(path, follow_symlinks=False)) == self._identity
        except OSError:
            return False

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.descriptor)


def _identity_of(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


_LINK = (
    "{name} is a symbolic link. Links are followed only directly below the repository, and only if they belong to you "
    "or to root. Replace it with the file or directory that it points to."
)


def _is_trusted(link: os.stat_result) -> bool:
    return link.st_uid in (0, os.geteuid())


def walk(top: str, depth: int = 0) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
    """Yield every entry below a directory except directories, with its status.

    Entries that are deleted at the same time are left out. Links, pipes and devices are yielded, but not followed. The
    exception are links to folders directly below the location: see `Directories`.

    Args:
        top: The directory.
        depth: Its number of levels below the location. Default: 0, the location itself.
    """
    try:
        entries = os.scandir(top)
    except (FileNotFoundError, NotADirectoryError):
        return
    with entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                if entry.is_dir(follow_symlinks=False):
                    yield from walk(entry.path, depth + 1)
                    continue
                status = entry.stat(follow_symlinks=False)
                if entry.is_symlink() and depth == 0 and entry.is_dir():
                    if not _is_trusted(status):
                        raise PermissionDenied(_LINK.format(name=entry.path))
                    yield from walk(entry.path, depth + 1)
                    continue
                yield entry, status


# --- creating a file exclusively ----------------------------------------------------------------------------------


class WayUnknown(Exception):
    """This file system does not support this way to publish a file."""


def _anonymous(directory: int, name: str, data: bytes, mode: int) -> bool:
    """Name a file only after it is complete, so that a kill leaves no file to clean up."""
    flag = getattr(os, "O_TMPFILE", None)
    if flag is None:
        raise WayUnknown
    try:
        file = os.open(".", flag | os.O_WRONLY | os.O_CLOEXEC, mode, dir_fd=directory)
        try:
            write_all(file, [data])
            os.fsync(file)
            # This needs linkat(AT_SYMLINK_FOLLOW), which Python calls only with a directory descriptor.
            os.link(f"/proc/self/fd/{file}", name, dst_dir_fd=directory, follow_symlinks=True)
        finally:
            os.close(file)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in _UNKNOWN_CALL or error.errno == errno.ENOENT:
            raise WayUnknown from error
        raise
    return True


def _linked(directory: int, name: str, data: bytes, mode: int) -> bool:
    def link(temporary: str) -> None:
        os.link(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)

    return _named(directory, data, mode, link)


def _renamed(directory: int, name: str, data: bytes, mode: int) -> bool:
    def rename(temporary: str) -> None:
        _rename_exclusively(directory, temporary, name)

    return _named(directory, data, mode, rename)


WAYS: tuple[Callable[[int, str, bytes, int], bool], ...] = (_anonymous, _linked, _renamed)
"""The ways to create a durable file exclusively, the best first.

Each takes the descriptor of a directory, a name, the bytes and the permissions, and returns False if the name exists.
"""


def _named(directory: int, data: bytes, mode: int, publish: Callable[[str], None]) -> bool:
    temporary = temporary_name()
    file = os.open(temporary, NEW_FILE, mode, dir_fd=directory)
    try:
        write_all(file, [data])
        os.fsync(file)
        publish(temporary)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in _UNKNOWN_CALL:
            raise WayUnknown from error
        raise
    finally:
        os.close(file)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=directory)
    return True


def put(directory: int, name: str, data: bytes, mode: int, durable: bool) -> None:
    """Create a file, or replace the one with this name. Its time is exact, and not that of the last tick of a clock.

    Args:
        directory: The descriptor of its directory.
        name: Its name.
        data: Its bytes.
        mode: Its permissions.
        durable: Whether the bytes must be durable before the file gets its name.
    """
    temporary = temporary_name()
    file = os.open(temporary, NEW_FILE, mode, dir_fd=directory)
    try:
        write_all(file, [data])
        now = time.time_ns()
        os.utime(file, ns=(now, now))
        if durable:
            os.fsync(file)
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=directory)
        raise
    finally:
        os.close(file)


def _rename_exclusively(directory: int, old: str, new: str) -> None:
    """Call renameat2(RENAME_NOREPLACE), for which Python has no function."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError as error:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from error
    if renameat2(directory, os.fsencode(old), directory, os.fsencode(new), _RENAME_NOREPLACE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), new)


# --- errors of the operating system -------------------------------------------------------------------------------

_Meaning = tuple[type[StorageError], str]

_NETWORK: _Meaning = (StorageUnavailable, "Check the network and the host.")
_NUMBERS: dict[int | None, _Meaning] = {
    errno.ENOSPC: (StorageFull, "Free some space on the disk."),
    errno.EDQUOT: (StorageFull, "Free some of the quota."),
    errno.EFBIG: (StorageFull, "Raise the limit on file sizes (ulimit -f)."),
    errno.EACCES: (PermissionDenied, "Check the owner and mode of the directory."),
    errno.EPERM: (PermissionDenied, "Check the owner and attributes of the directory."),
    errno.EROFS: (PermissionDenied, "Open the repository with read_only=True, or mount it writable."),
    errno.ENOENT: (
        ObjectMissing,
        "To save, choose a directory that exists and that you can write to. If you were reading a version, it may have "
        "been deleted: open it again.",
    ),
    errno.ENOTDIR: (ObjectMissing, "A part of its path is a file."),
    errno.EISDIR: (ObjectMissing, "It is a directory."),
    errno.EMFILE: (StorageError, "Raise the limit on open files (ulimit -n)."),
    errno.ETIMEDOUT: (StorageUnavailable, "Check the network file system."),
    errno.ESTALE: (StorageUnavailable, "Check the network file system."),
    errno.ENETUNREACH: _NETWORK,
    errno.EHOSTUNREACH: _NETWORK,
}
# File systems in Python raise these without an error number, or with their own numbers.
_TYPES: dict[type[OSError], _Meaning] = {
    FileNotFoundError: _NUMBERS[errno.ENOENT],
    PermissionError: (PermissionDenied, "Check the credentials, and what they are allowed to do."),
    ConnectionError: _NETWORK,
    TimeoutError: _NETWORK,
    socket.gaierror: _NETWORK,
}


def os_error(error: OSError, where: str) -> StorageError:
    """Convert an error of the operating system to one of our errors.

    Args:
        error: The error.
        where: The name of the file or object in messages.
    """
    by_type = (found for kind, found in _TYPES.items() if isinstance(error, kind))
    kind, advice = _NUMBERS.get(error.errno) or next(by_type, (StorageError, "Check the storage."))
    return kind(f"{where}: {error.strerror or error}. {advice}")


class Translated(contextlib.AbstractContextManager[None]):
    """Convert errors of the operating system to our errors.

    This is a class, because `contextlib.contextmanager` takes longer than a small write.

    Args:
        where: The name of the file or object in messages.
        explain: A function that returns a more specific error of ours for an error, or None.
    """

    __slots__ = ("_explain", "_where")

    def __init__(self, where: str, explain: Callable[[OSError], SnapshotsError | None] | None = None) -> None:
        self._where = where
        self._explain = explain

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if isinstance(error, OSError) and not isinstance(error, SnapshotsError):
            raise (self._explain and self._explain(error)) or os_error(error, self._where) from error
