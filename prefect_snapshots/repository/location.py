"""A URL and its options: where a repository lives, and the only file that touches fsspec.

A **location** holds **objects**: immutable byte strings under relative **paths** such as `packs/3f/3f09...`.
Every path segment begins with a letter, a digit or `_`, so that no path leads out of the location.

To **create** an object is the one exclusive operation (put-if-absent): of any number of contending creates exactly one
wins, and when it returns, the object survives a loss of power. Whatever is called durable here is meant in that sense.
A **temporary** file is an object that is still being written; one whose writer died is a **leftover**.

This file knows nothing about what the bytes mean.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib
import io
import os
import re
import secrets
import stat
import sys
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

from prefect_snapshots.errors import (
    InvalidArgument,
    InvalidName,
    MissingDependency,
    ObjectMissing,
    PermissionDenied,
    SnapshotsError,
    StorageError,
    StorageFull,
    StorageUnavailable,
    UnsupportedStorage,
)

Buffer: TypeAlias = bytes | bytearray | memoryview


def open_location(url: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None) -> Location:
    """The location at a URL. Nothing is read, written or connected to yet.

    Args:
        url: A directory (`"./snapshots"`, `"/data/snapshots"`, `"file:///data/snapshots"`), `"memory://name"`,
            `"s3://bucket/prefix"`, `"gs://bucket/prefix"`, or the URL of any other fsspec file system.
        storage_options: What fsspec's file system for this URL takes: credentials, endpoints, time-outs.

    Returns:
        The location. It pickles as its URL and options, and may be used from any thread and after a fork.

    Raises:
        MissingDependency: The package for this kind of URL is not installed.
        InvalidArgument: The URL names no place, or chains several file systems (`simplecache::s3://...`).

    Example:
        >>> location = open_location("memory://example")
        >>> location.create("events/0001", b"first")
        True
        >>> location.create("events/0001", b"second")
        False
        >>> location.read("events/0001")
        b'first'
    """
    text = os.fspath(url)
    if "::" in text:
        raise InvalidArgument(f"{_without_secrets(text)}: chained URLs cannot hold a repository. Give the innermost one.")
    protocol, separator, rest = text.partition("://")
    if not separator:
        protocol, rest = "file", text
    if not rest:
        raise InvalidArgument(f"{text!r} names no place. Give a directory, or a URL such as s3://bucket/prefix.")
    kind = _KINDS.get(protocol, GenericLocation)
    return kind(protocol, rest, MappingProxyType(dict(storage_options or {})))


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object in a listing: its path, its size in bytes, and when it was written.

    `modified` is in seconds since 1970 by the clock of the store, not of this machine.
    """

    path: str
    size: int
    modified: float


class Requests(Counter[str]):
    """How many requests were made, by verb: GET, PUT, LIST, DELETE, HEAD.

    Object stores count what went over the wire, retries included; the others count calls.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()

    def add(self, verb: str) -> None:
        with self._lock:
            self[verb] += 1


class ObjectWriter(ABC):
    """Writes one object piece by piece. Nothing is visible under its path before `close` returns.

    `close` and `abort` may be called from another thread than `write`.
    """

    @abstractmethod
    def write(self, buffers: Buffer | Sequence[Buffer]) -> None:
        """Append one buffer, or several in order. The caller may reuse them afterwards."""

    @abstractmethod
    def close(self) -> None:
        """Make the object durable and visible, at once and whole."""

    @abstractmethod
    def abort(self) -> None:
        """Forget what was written. Does nothing after `close`."""


class Location(ABC):
    """A place that holds objects. Every method may be called from any thread.

    Besides the errors named at each method, all of them raise `PermissionDenied` when the credentials or the file
    permissions do not allow the call, `StorageUnavailable` when the store did not answer after all retries,
    `StorageError` for any other failure of the store, and `InvalidName` for a path that leads out of the location.

    Attributes:
        url: The URL in one canonical form, without passwords: may be logged.
        storage_options: The options it was opened with. They may hold secrets.
        requests: How many requests were made so far.
        is_local: Objects are plain files: small calls are cheap, and writers stream.
    """

    is_local: bool = False

    def __init__(self, protocol: str, place: str, storage_options: Mapping[str, Any]) -> None:
        self._target = f"{protocol}://{place}"
        self.url = _without_secrets(self._target)
        self.storage_options = storage_options
        self.requests = Requests()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def __reduce__(self) -> tuple[Callable[..., Location], tuple[str, dict[str, Any]]]:
        return open_location, (self._target, dict(self.storage_options))

    @abstractmethod
    def read(self, path: str) -> bytes:
        """All bytes of an object. Raises `ObjectMissing`."""

    @abstractmethod
    def read_range(self, path: str, start: int, length: int) -> bytes:
        """`length` bytes from `start` on, fewer where the object ends. Raises `ObjectMissing`."""

    @abstractmethod
    def read_into(self, path: str, start: int, target: memoryview) -> int:
        """Fill `target` with the bytes from `start` on.

        Returns:
            The number of bytes read, less than the size of `target` only where the object ends.

        Raises:
            ObjectMissing: There is no such object.
        """

    @abstractmethod
    def read_many(self, paths: Sequence[str]) -> list[bytes | None]:
        """All bytes of many objects in the order of `paths`, fetched side by side; None for a missing one."""

    def create(self, path: str, data: bytes) -> bool:
        """Put an object where none is: durable and exclusive.

        Args:
            path: Where to put it.
            data: Its bytes. They hold something that no other writer has (a random token): whoever finds its own bytes
                under the path has won, even if the reply that said so was lost.

        Returns:
            True if the object is there with exactly these bytes; False if there is another one.

        Raises:
            StorageUnavailable: It is not known whether the object was put.
            StorageFull: It was not put, because there is no space.
        """
        if not data:
            raise InvalidArgument(f"{path}: an empty object cannot be created exclusively. Give it at least a token.")
        return self._create(_checked(path), data)

    @abstractmethod
    def _create(self, path: str, data: bytes) -> bool: ...

    @abstractmethod
    def replace(self, path: str, data: bytes) -> None:
        """Put an object, over an older one if there is one: durable and atomic. Raises `StorageFull`."""

    @abstractmethod
    def writer(self, path: str) -> ObjectWriter:
        """A writer for the object under `path`, which replaces an older one when it is closed.

        On object stores it is held in memory and sent in one request on `close`: at most 64 MB.
        """

    @abstractmethod
    def list(self, prefix: str) -> list[ObjectInfo]:
        """All objects below the folder `prefix` (`""` for all there are), at any depth, sorted by path.

        Temporary files are left out. A listing is no snapshot: an object created or deleted meanwhile may or may not
        be in it.
        """

    @abstractmethod
    def size(self, path: str) -> int | None:
        """The size of an object in bytes, None when it is missing."""

    @abstractmethod
    def delete(self, paths: Iterable[str]) -> None:
        """Delete objects. One that is missing already is fine."""

    def is_empty(self) -> bool:
        """Whether there is no object at all here. A missing directory is empty; what `prove_exclusive` left is nothing."""
        return all(_PROBE.fullmatch(found.path) for found in self.list(""))

    def leftovers(self) -> list[ObjectInfo]:
        """Temporary files, of which some may still be in use. `delete` takes their paths."""
        return []

    def prove_exclusive(self) -> None:
        """Prove that `create` is exclusive here, by racing for one probe object.

        Raises:
            UnsupportedStorage: It is not: two writers could overwrite each other.
        """
        path = f"probe/{secrets.token_hex(16)}"
        with ThreadPoolExecutor(_CONTENDERS) as contenders:
            claims = list(contenders.map(lambda _: self.create(path, secrets.token_bytes(16)), range(_CONTENDERS)))
        claims.append(self.create(path, secrets.token_bytes(16)))
        # Whoever may write but not delete leaves the probe behind.
        with contextlib.suppress(PermissionDenied):
            self.delete([path])
        if claims.count(True) != 1 or claims[-1]:
            raise UnsupportedStorage(
                f"{self.url} let {claims.count(True)} of {len(claims)} writers create the same object, so that writers "
                "could overwrite each other. Use a store that supports conditional writes, or pass single_writer=True "
                "if never more than one process writes at a time."
            )


# --- directories -----------------------------------------------------------------------------------------


class LocalLocation(Location):
    """A directory."""

    is_local = True

    def __init__(self, protocol: str, place: str, storage_options: Mapping[str, Any]) -> None:
        self._root = os.path.abspath(os.path.expanduser(place))
        super().__init__("file", self._root, storage_options)
        self._publishers = list(_PUBLISHERS)
        # Directories whose entry in their parent is known to be durable.
        self._durable_directories: set[str] = set()

    def read(self, path: str) -> bytes:
        with self._errors(path), self._open(path) as file:
            return file.read()

    def read_range(self, path: str, start: int, length: int) -> bytes:
        with self._errors(path), self._open(path) as file:
            return b"".join(_pieces(file.fileno(), start, length))

    def read_into(self, path: str, start: int, target: memoryview) -> int:
        done = 0
        with self._errors(path), self._open(path) as file:
            while done < len(target) and (count := os.preadv(file.fileno(), [target[done:]], start + done)):
                done += count
        return done

    def read_many(self, paths: Sequence[str]) -> list[bytes | None]:
        return [self._read_or_none(path) for path in paths]

    def _create(self, path: str, data: bytes) -> bool:
        self.requests.add("PUT")
        with self._errors(path), self._directory(path) as directory:
            name = path.rpartition("/")[2]
            if not self._publish(directory, name, data) and not self._holds(path, data):
                return False
            self._sync_entries(directory, path)
        return True

    def replace(self, path: str, data: bytes) -> None:
        writer = self.writer(path)
        try:
            writer.write(data)
            writer.close()
        finally:
            writer.abort()

    def writer(self, path: str) -> ObjectWriter:
        _checked(path)
        with self._errors(path), self._directory(path) as directory:
            return _FileWriter(self, path, os.dup(directory))

    def list(self, prefix: str) -> list[ObjectInfo]:
        return [info for info in self._files(prefix) if not _is_temporary(info.path)]

    def leftovers(self) -> list[ObjectInfo]:
        return [info for info in self._files("") if _is_temporary(info.path)]

    def size(self, path: str) -> int | None:
        self.requests.add("HEAD")
        try:
            with self._errors(path):
                status = os.stat(self._full(_checked(path)))
        except ObjectMissing:
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def delete(self, paths: Iterable[str]) -> None:
        for path in paths:
            self.requests.add("DELETE")
            with contextlib.suppress(ObjectMissing), self._errors(path):
                os.unlink(self._full(_checked(path, temporary=True)))

    def _full(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _open(self, path: str) -> io.FileIO:
        self.requests.add("GET")
        return io.FileIO(self._full(_checked(path)))

    def _read_or_none(self, path: str) -> bytes | None:
        try:
            return self.read(path)
        except ObjectMissing:
            return None

    def _holds(self, path: str, data: bytes) -> bool:
        return self._read_or_none(path) == data

    def _publish(self, directory: int, name: str, data: bytes) -> bool:
        """Put a durable file under a new name in an open directory, in the first way that this file system knows."""
        while self._publishers:
            publish = self._publishers[0]
            try:
                return publish(directory, name, data)
            except _WayUnknown:
                # Another thread may have dropped it already.
                with contextlib.suppress(ValueError):
                    self._publishers.remove(publish)
        raise UnsupportedStorage(
            f"{self.url} is on a file system with neither hard links nor an exclusive rename, so that two writers could "
            "overwrite each other. Use another directory, or pass single_writer=True if never more than one process "
            "writes at a time."
        )

    @contextlib.contextmanager
    def _directory(self, path: str) -> Iterator[int]:
        """The open directory of an object, created durably where it is missing."""
        parent = os.path.dirname(self._full(path))
        if parent not in self._durable_directories:
            self._make_durable(parent)
        try:
            descriptor = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            # Somebody removed it since.
            self._durable_directories.clear()
            self._make_durable(parent)
            descriptor = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _make_durable(self, directory: str) -> None:
        """Create a directory and those above it, and make their entries durable.

        One that exists already is synced as well: whoever created it may have died, or not have come to that yet.
        Above the location only what is missing is touched.
        """
        above = os.path.dirname(directory)
        inside = directory.startswith(self._root + "/")
        if above not in self._durable_directories if inside else not os.path.isdir(above):
            self._make_durable(above)
        created = False
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory)
            created = True
        # The directory that holds the location may be one that we cannot open, as /home is for some.
        with contextlib.nullcontext() if created or inside else contextlib.suppress(PermissionError):
            _sync_directory(above)
        self._durable_directories.add(directory)

    def _sync_entries(self, directory: int, path: str) -> None:
        try:
            os.fsync(directory)
        except OSError as error:
            raise StorageUnavailable(
                f"{self.url}/{path}: its directory could not be synced ({error.strerror}), so that it is not known "
                "whether it survives a loss of power. Check the disk."
            ) from error

    def _files(self, prefix: str) -> list[ObjectInfo]:
        self.requests.add("LIST")
        top = self._full(_checked(prefix)) if prefix else self._root
        with self._errors(prefix):
            found = [
                ObjectInfo(os.path.relpath(entry.path, self._root), status.st_size, status.st_mtime)
                for entry, status in _walk(top)
            ]
        return sorted(found, key=lambda info: info.path)

    @contextlib.contextmanager
    def _errors(self, path: str) -> Iterator[None]:
        """Turn what the operating system says into one of our errors."""
        try:
            yield
        except SnapshotsError:
            raise
        except OSError as error:
            raise _from_os_error(error, f"{self.url}/{path}") from error


class _FileWriter(ObjectWriter):
    """Streams into a temporary file beside its final name."""

    def __init__(self, location: LocalLocation, path: str, directory: int) -> None:
        self._location = location
        self._path = path
        self._directory = directory
        self._name = _temporary_name()
        try:
            self._file = os.open(self._name, _NEW_FILE, 0o666, dir_fd=directory)
        except BaseException:
            os.close(directory)
            raise
        self._open = True

    def write(self, buffers: Buffer | Sequence[Buffer]) -> None:
        with self._location._errors(self._path):
            _write_all(self._file, [buffers] if isinstance(buffers, Buffer) else buffers)

    def close(self) -> None:
        location = self._location
        location.requests.add("PUT")
        try:
            with location._errors(self._path):
                os.fsync(self._file)
                name = self._path.rpartition("/")[2]
                os.rename(self._name, name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
                location._sync_entries(self._directory, self._path)
        finally:
            self.abort()

    def abort(self) -> None:
        if not self._open:
            return
        self._open = False
        with contextlib.suppress(FileNotFoundError), self._location._errors(self._path):
            os.unlink(self._name, dir_fd=self._directory)
        os.close(self._file)
        os.close(self._directory)


class _WayUnknown(Exception):
    """This file system does not know this way to publish a file."""


def _publish_anonymous(directory: int, name: str, data: bytes) -> bool:
    """A file without a name gets one when it is whole: nothing to clean up after a kill."""
    try:
        file = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o666, dir_fd=directory)
    except (AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _UNKNOWN_CALL:
            raise
        raise _WayUnknown from error
    try:
        _write_all(file, [data])
        os.fsync(file)
        # With a directory descriptor Python calls linkat(AT_SYMLINK_FOLLOW), which follows the link in /proc to the file.
        os.link(f"/proc/self/fd/{file}", name, dst_dir_fd=directory, follow_symlinks=True)
    except FileExistsError:
        return False
    except FileNotFoundError as error:
        raise _WayUnknown from error
    finally:
        os.close(file)
    return True


def _publish_linked(directory: int, name: str, data: bytes) -> bool:
    def link(temporary: str) -> None:
        os.link(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)

    return _publish_named(directory, data, link)


def _publish_renamed(directory: int, name: str, data: bytes) -> bool:
    def rename(temporary: str) -> None:
        _rename_exclusively(directory, temporary, name)

    return _publish_named(directory, data, rename)


def _publish_named(directory: int, data: bytes, publish: Callable[[str], None]) -> bool:
    temporary = _temporary_name()
    file = os.open(temporary, _NEW_FILE, 0o666, dir_fd=directory)
    try:
        _write_all(file, [data])
        os.fsync(file)
        publish(temporary)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in _UNKNOWN_CALL:
            raise _WayUnknown from error
        raise
    finally:
        os.close(file)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=directory)
    return True


def _rename_exclusively(directory: int, old: str, new: str) -> None:
    """renameat2(RENAME_NOREPLACE), which Python does not offer."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError as error:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from error
    if renameat2(directory, os.fsencode(old), directory, os.fsencode(new), _RENAME_NOREPLACE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), new)


_PUBLISHERS = (_publish_anonymous, _publish_linked, _publish_renamed)
_RENAME_NOREPLACE = 1
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
# How file systems say that they lack hard links, unnamed files or exclusive renames.
_UNKNOWN_CALL = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EMLINK, errno.EISDIR}
_TEMPORARY = ".tmp-"


def _temporary_name() -> str:
    return _TEMPORARY + secrets.token_hex(8)


def _is_temporary(path: str) -> bool:
    return path.rpartition("/")[2].startswith(_TEMPORARY)


def _write_all(file: int, buffers: Sequence[Buffer]) -> None:
    """Write all buffers without joining them, however many there are and however little one call takes."""
    rest = [view for buffer in buffers if (view := memoryview(buffer).cast("B"))]
    while rest:
        written = os.writev(file, rest[:_MOST_BUFFERS])
        taken = 0
        while taken < len(rest) and written >= len(rest[taken]):
            written -= len(rest[taken])
            taken += 1
        del rest[:taken]
        if written:
            rest[0] = rest[0][written:]


_MOST_BUFFERS = 1024  # IOV_MAX of Linux


def _pieces(file: int, start: int, length: int) -> Iterator[bytes]:
    """Up to `length` bytes from `start` on; more than one piece only beyond what one call returns (2 GiB)."""
    while length and (piece := os.pread(file, length, start)):
        yield piece
        start += len(piece)
        length -= len(piece)


def _sync_directory(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _walk(top: str) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
    """Every file below a directory. What vanishes meanwhile is left out."""
    try:
        entries = os.scandir(top)
    except (FileNotFoundError, NotADirectoryError):
        return
    with entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path)
            else:
                with contextlib.suppress(FileNotFoundError):
                    yield entry, entry.stat(follow_symlinks=False)


_OS_ERRORS: dict[int | None, tuple[type[StorageError], str]] = {
    errno.ENOSPC: (StorageFull, "Free some space, or prune the repository."),
    errno.EDQUOT: (StorageFull, "Free some of the quota, or prune the repository."),
    errno.EFBIG: (StorageFull, "Raise the limit on file sizes (ulimit -f)."),
    errno.EACCES: (PermissionDenied, "Check the owner and mode of the directory."),
    errno.EPERM: (PermissionDenied, "Check the owner and attributes of the directory."),
    errno.EROFS: (PermissionDenied, "Open the repository with read_only=True, or mount it writable."),
    errno.ENOENT: (ObjectMissing, "It may have been pruned since: open it again."),
    errno.ENOTDIR: (ObjectMissing, "A part of its path is a file."),
    errno.EISDIR: (ObjectMissing, "It is a directory."),
    errno.ETIMEDOUT: (StorageUnavailable, "Check the network file system."),
    errno.ESTALE: (StorageUnavailable, "Check the network file system."),
}


def _from_os_error(error: OSError, where: str) -> StorageError:
    kind, advice = _OS_ERRORS.get(error.errno, (StorageError, "Check the disk."))
    return kind(f"{where}: {error.strerror or error}. {advice}")


# --- memory ----------------------------------------------------------------------------------------------


class MemoryLocation(Location):
    """A name in fsspec's memory store, shared by the threads of this process and gone with it."""

    def __init__(self, protocol: str, place: str, storage_options: Mapping[str, Any]) -> None:
        place = "/".join(part for part in place.split("/") if part)
        super().__init__("memory", place, storage_options)
        from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

        self._root = f"/{place}/"
        self._store: dict[str, Any] = MemoryFileSystem.store
        self._file: Callable[..., Any] = MemoryFile

    def read(self, path: str) -> bytes:
        self.requests.add("GET")
        found = self._store.get(self._root + _checked(path))
        if found is None:
            raise ObjectMissing(f"{self.url}/{path}: there is no such object.")
        data: bytes = found.getvalue()
        return data

    def read_range(self, path: str, start: int, length: int) -> bytes:
        return self.read(path)[start : start + length]

    def read_into(self, path: str, start: int, target: memoryview) -> int:
        return _copy(self.read_range(path, start, len(target)), target)

    def read_many(self, paths: Sequence[str]) -> list[bytes | None]:
        self.requests.update(GET=len(paths))
        found = [self._store.get(self._root + _checked(path)) for path in paths]
        return [None if file is None else file.getvalue() for file in found]

    def _create(self, path: str, data: bytes) -> bool:
        self.requests.add("PUT")
        # A dict's setdefault is atomic, which none of the methods of fsspec's file system is.
        kept: bytes = self._store.setdefault(self._root + path, self._file(None, self._root + path, data)).getvalue()
        return kept == data

    def replace(self, path: str, data: bytes) -> None:
        self.requests.add("PUT")
        self._store[self._root + _checked(path)] = self._file(None, self._root + path, data)

    def writer(self, path: str) -> ObjectWriter:
        return _BufferedWriter(self, _checked(path))

    def list(self, prefix: str) -> list[ObjectInfo]:
        self.requests.add("LIST")
        below = self._root + (_checked(prefix) + "/" if prefix else "")
        return sorted(
            (
                ObjectInfo(name.removeprefix(self._root), file.size, file.modified.timestamp())
                for name, file in list(self._store.items())
                if name.startswith(below)
            ),
            key=lambda info: info.path,
        )

    def size(self, path: str) -> int | None:
        self.requests.add("HEAD")
        found = self._store.get(self._root + _checked(path))
        return None if found is None else len(found.getvalue())

    def delete(self, paths: Iterable[str]) -> None:
        for path in paths:
            self.requests.add("DELETE")
            self._store.pop(self._root + _checked(path), None)


class _BufferedWriter(ObjectWriter):
    """Collects an object in memory and puts it in one request."""

    def __init__(self, location: Location, path: str) -> None:
        self._location = location
        self._path = path
        self._buffer: io.BytesIO | None = io.BytesIO()

    def write(self, buffers: Buffer | Sequence[Buffer]) -> None:
        if self._buffer is None:
            raise InvalidArgument(f"{self._path} is closed: nothing can be written to it any more.")
        for buffer in [buffers] if isinstance(buffers, Buffer) else buffers:
            self._buffer.write(buffer)

    def close(self) -> None:
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            self._location.replace(self._path, buffer.getvalue())

    def abort(self) -> None:
        self._buffer = None


def _copy(data: bytes, target: memoryview) -> int:
    target[: len(data)] = data
    return len(data)


class GenericLocation(Location):
    pass


# --- names -----------------------------------------------------------------------------------------------

_KINDS: dict[str, type[Location]] = {"file": LocalLocation, "local": LocalLocation, "memory": MemoryLocation}
_CONTENDERS = 4
_SEGMENT = r"[0-9A-Za-z_][0-9A-Za-z._-]*"
_PATH = re.compile(rf"{_SEGMENT}(/{_SEGMENT})*")
_TEMPORARY_PATH = re.compile(rf"({_SEGMENT}/)*\.tmp-[0-9a-f]+")
_PROBE = re.compile(r"probe/[0-9a-f]{32}")


def _checked(path: str, temporary: bool = False) -> str:
    if _PATH.fullmatch(path) or (temporary and _TEMPORARY_PATH.fullmatch(path)):
        return path
    raise InvalidName(f"{path!r} is no path inside a repository: letters, digits, '.', '_', '-' between single '/'.")


def _without_secrets(url: str) -> str:
    """A URL without user, password and query, which may hold tokens."""
    scheme, separator, rest = url.rpartition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"
