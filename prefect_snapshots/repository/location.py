"""A URL and its options: where a repository lives, and the only file that touches fsspec.

A **location** holds **objects**: immutable byte strings under relative **paths** such as `packs/3f/3f09...`.
Every path segment begins with a letter, a digit or `_`, so that no path leads out of the location.

To **create** an object is the one exclusive operation (put-if-absent): of any number of contending creates exactly one
wins, and when it returns, the object survives a loss of power. Whatever is called durable here is meant in that sense.
A **temporary** file is an object that is still being written; one whose writer died is a **leftover**.

This file knows nothing about what the bytes mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import importlib
import io
import os
import random
import re
import secrets
import stat
import struct
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, Generic, TypeAlias, TypeVar

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
T = TypeVar("T")


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
        raise InvalidArgument(f"{_without_password(text)}: a chained URL cannot hold a repository. Give the last part.")
    protocol, separator, rest = text.partition("://")
    if not separator:
        protocol, rest = "file", text
    kind = _KINDS.get(protocol, GenericLocation)
    if not (rest if kind is LocalLocation else rest.strip("/")):
        raise InvalidArgument(f"{text!r} names no place. Give a directory, or a URL such as s3://bucket/prefix.")
    return kind(protocol, rest, MappingProxyType(dict(storage_options or {})))


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object in a listing: its path, its size in bytes, and when it was written.

    `modified` is in seconds since 1970 by the clock of the store, not of this machine.
    """

    path: str
    size: int
    modified: float


class Requests(Mapping[str, int]):
    """How many requests were made, by verb: GET, PUT, LIST, DELETE, HEAD.

    For S3 and Google Cloud Storage every request counts, retries included, except for those that aiohttp repeats by
    itself when a connection turns out to be gone; for others every call. A verb that was never used counts 0.
    """

    def __init__(self) -> None:
        # One entry for each thread, so that no lock is needed: a fork could copy one while it is held.
        self._counts: dict[tuple[int, str], int] = {}

    def __getitem__(self, verb: str) -> int:
        return self._sums()[verb]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sums())

    def __len__(self) -> int:
        return len(self._sums())

    def __repr__(self) -> str:
        return f"Requests({dict(self._sums())})"

    def add(self, verb: str, count: int = 1) -> None:
        key = threading.get_ident(), verb
        self._counts[key] = self._counts.get(key, 0) + count

    def _sums(self) -> Counter[str]:
        sums: Counter[str] = Counter()
        for (_, verb), count in list(self._counts.items()):
            sums[verb] += count
        return sums


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


class Appender(ABC):
    """Appends to one file that nobody else writes. Methods may be called from any thread."""

    @abstractmethod
    def append(self, buffers: Buffer | Sequence[Buffer]) -> None:
        """Append one buffer, or several in order: it survives the death of this process at once.

        It survives a loss of power after a second, and after `close`. When it raises, part of it may have been
        appended, and nothing can be appended any more.
        """

    @abstractmethod
    def close(self) -> None:
        """Make everything durable, and let go of the file."""

    @abstractmethod
    def abort(self) -> None:
        """Let go of the file, also after a failure. Does nothing after `close`."""


class ByteLocks(ABC):
    """Locks on the bytes of a file, each held until it is released or this process is gone. Never waits."""

    @abstractmethod
    def take(self, number: int) -> bool:
        """Lock byte `number` (below 2**62). False when somebody else holds it."""

    @abstractmethod
    def release(self, number: int) -> None:
        """Unlock a byte."""

    @abstractmethod
    def is_held(self, number: int) -> bool:
        """Whether somebody else holds a byte."""

    @abstractmethod
    def close(self) -> None:
        """Release everything."""


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
        appends: Files can grow: `appender` gives one.
    """

    is_local: bool = False
    appends: bool = False

    def __init__(self, protocol: str, place: str, storage_options: Mapping[str, Any]) -> None:
        self._target = f"{protocol}://{place}"
        self.url = _without_password(self._target)
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

    def appender(self, path: str) -> Appender | None:
        """Begin a new file under `path` and append to it: readers see what is there so far. None: not possible here."""
        return None

    def locks(self, path: str) -> ByteLocks | None:
        """Locks between the processes that use this location, on a file at `path`. None: not to be had here."""
        return None

    def leftovers(self) -> list[ObjectInfo]:
        """Temporary files, of which some may still be in use. `delete` takes their paths."""
        return sorted((info for info in self._objects("") if _is_temporary(info.path)), key=_path_of)

    def list(self, prefix: str) -> list[ObjectInfo]:
        """All objects below the folder `prefix` (`""` for all there are), at any depth, sorted by path.

        Temporary files are left out. A listing is no snapshot: an object created or deleted meanwhile may or may not
        be in it.
        """
        found = self._objects(_checked(prefix) if prefix else "")
        return sorted((info for info in found if not _is_temporary(info.path)), key=_path_of)

    @abstractmethod
    def _objects(self, folder: str) -> Iterator[ObjectInfo]:
        """Everything below a folder, temporary files too, in any order and as it comes in."""

    @abstractmethod
    def size(self, path: str) -> int | None:
        """The size of an object in bytes, None when it is missing."""

    @abstractmethod
    def delete(self, paths: Iterable[str]) -> None:
        """Delete objects. One that is missing already is fine."""

    def is_empty(self) -> bool:
        """Whether there is nothing here. A missing directory is empty; probes and leftovers are nothing."""
        return all(_is_temporary(found.path) or _PROBE.fullmatch(found.path) for found in self._objects(""))

    def _read_or_none(self, path: str) -> bytes | None:
        try:
            return self.read(path)
        except ObjectMissing:
            return None

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
    appends = True

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
            if not self._publish(directory, name, data) and self._read_or_none(path) != data:
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

    def appender(self, path: str) -> Appender:
        self.requests.add("PUT")
        with self._errors(path), self._directory(_checked(path)) as directory:
            flags = _NEW_FILE | os.O_APPEND
            file = os.open(path.rpartition("/")[2], flags, 0o666, dir_fd=directory)
            try:
                self._sync_entries(directory, path)
            except BaseException:
                os.close(file)
                raise
        return _FileAppender(self, path, file)

    def locks(self, path: str) -> ByteLocks | None:
        if not hasattr(fcntl, "F_OFD_SETLK"):
            return None
        with self._errors(path), self._directory(_checked(path)) as directory:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            locks = _FileLocks(os.open(path.rpartition("/")[2], flags, 0o666, dir_fd=directory))
        try:
            locks.is_held(0)
        except OSError:  # as on a network file system without them
            locks.close()
            return None
        return locks

    def _objects(self, folder: str) -> Iterator[ObjectInfo]:
        self.requests.add("LIST")
        with self._errors(folder):
            for entry, status in _walk(self._full(folder) if folder else self._root):
                yield ObjectInfo(os.path.relpath(entry.path, self._root), status.st_size, status.st_mtime)

    def size(self, path: str) -> int | None:
        self.requests.add("HEAD")
        try:
            status = os.stat(self._full(_checked(path)))
        except FileNotFoundError:  # said often, and quickly
            return None
        except OSError as error:
            meaning = _from_os_error(error, f"{self.url}/{path}")
            if isinstance(meaning, ObjectMissing):
                return None
            raise meaning from error
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

    def _publish(self, directory: int, name: str, data: bytes) -> bool:
        """Put a durable file under a new name in an open directory, in the first way that this file system knows."""
        for publish in list(self._publishers):
            try:
                return publish(directory, name, data)
            except _WayUnknown:
                # Another thread may have dropped it already.
                with contextlib.suppress(ValueError):
                    self._publishers.remove(publish)
        raise UnsupportedStorage(
            f"{self.url} is on a file system with neither hard links nor an exclusive rename, so that writers could "
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
            descriptor = os.open(above, os.O_RDONLY | os.O_DIRECTORY)
            try:
                _sync_directory(descriptor)
            finally:
                os.close(descriptor)
        self._durable_directories.add(directory)

    def _sync_entries(self, directory: int, path: str) -> None:
        try:
            _sync_directory(directory)
        except OSError as error:
            raise StorageUnavailable(
                f"{self.url}/{path}: its directory could not be synced ({error.strerror}), so that it is not known "
                "whether it survives a loss of power. Check the disk."
            ) from error

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
        if not self._open:
            raise _closed(self._path)
        with self._location._errors(self._path):
            _write_all(self._file, [buffers] if isinstance(buffers, Buffer) else buffers)

    def close(self) -> None:
        location = self._location
        if not self._open:
            return
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
        try:
            with contextlib.suppress(FileNotFoundError), self._location._errors(self._path):
                os.unlink(self._name, dir_fd=self._directory)
        finally:
            os.close(self._file)
            os.close(self._directory)


class _FileAppender(Appender):
    """Appends to an open file, which a thread of its own syncs at most once a second."""

    def __init__(self, location: LocalLocation, path: str, file: int) -> None:
        self._location = location
        self._path = path
        self._file = file
        self._lock = threading.Lock()
        self._dirty = threading.Event()
        self._closing = threading.Event()
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    def append(self, buffers: Buffer | Sequence[Buffer]) -> None:
        with self._lock:
            self._check()
            if self._closing.is_set():
                raise _closed(self._path)
            try:
                with self._location._errors(self._path):
                    _write_all(self._file, [buffers] if isinstance(buffers, Buffer) else buffers)
            except BaseException as error:
                self._failure = error
                raise
        if not self._dirty.is_set():
            self._dirty.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._keep_synced, name="prefect-snapshots-sync", daemon=True)
                self._thread.start()

    def close(self) -> None:
        if self._closing.is_set():
            return
        self._closing.set()
        self._dirty.set()
        if self._thread is not None:
            self._thread.join()
        try:
            self._check()
            with self._location._errors(self._path):
                os.fsync(self._file)
        finally:
            os.close(self._file)

    def abort(self) -> None:
        with contextlib.suppress(StorageError):
            self.close()

    def _check(self) -> None:
        if self._failure is not None:
            where = f"{self._location.url}/{self._path}"
            raise StorageError(f"{where}: an earlier write failed, so that it is not continued") from self._failure

    def _keep_synced(self) -> None:
        while not self._closing.is_set():
            self._dirty.wait()
            if self._closing.wait(_SYNC_INTERVAL):
                return
            self._dirty.clear()
            try:
                with self._location._errors(self._path):
                    os.fsync(self._file)
            except StorageError as error:  # the next call raises it
                self._failure = error
                return


class _FileLocks(ByteLocks):
    """Locks of the open file description, so that two of these in one process keep each other out as well."""

    def __init__(self, file: int) -> None:
        self._file = file

    def take(self, number: int) -> bool:
        try:
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0))
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        return True

    def release(self, number: int) -> None:
        fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, number, 1, 0))

    def is_held(self, number: int) -> bool:
        wanted = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0)
        found: int = _FLOCK.unpack(fcntl.fcntl(self._file, fcntl.F_OFD_GETLK, wanted))[0]
        return found != fcntl.F_UNLCK

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


_SYNC_INTERVAL = 1.0
_FLOCK = struct.Struct("hhqqi4x")  # struct flock where off_t has 64 bits


class _WayUnknown(Exception):
    """This file system does not know this way to publish a file."""


def _publish_anonymous(directory: int, name: str, data: bytes) -> bool:
    """A file gets its name when it is whole: nothing to clean up after a kill."""
    flag = getattr(os, "O_TMPFILE", None)
    if flag is None:
        raise _WayUnknown
    try:
        file = os.open(".", flag | os.O_WRONLY | os.O_CLOEXEC, 0o666, dir_fd=directory)
        try:
            _write_all(file, [data])
            os.fsync(file)
            # Without a directory descriptor Python would not call linkat(AT_SYMLINK_FOLLOW), which this needs.
            os.link(f"/proc/self/fd/{file}", name, dst_dir_fd=directory, follow_symlinks=True)
        finally:
            os.close(file)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in _UNKNOWN_CALL or error.errno == errno.ENOENT:
            raise _WayUnknown from error
        raise
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


_MOST_BUFFERS = 1024  # IOV_MAX of Linux


def _pieces(file: int, start: int, length: int) -> Iterator[bytes]:
    """Up to `length` bytes from `start` on; more than one piece only beyond what one call returns (2 GiB)."""
    while length and (piece := os.pread(file, length, start)):
        yield piece
        start += len(piece)
        length -= len(piece)


def _sync_directory(directory: int) -> None:
    try:
        os.fsync(directory)
    except OSError as error:
        # Some network file systems have nothing to sync in a directory, and say so.
        if error.errno not in {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}:
            raise


def _walk(top: str) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
    """Every file below a directory. What vanishes meanwhile is left out."""
    try:
        entries = os.scandir(top)
    except (FileNotFoundError, NotADirectoryError):
        return
    with entries:
        for entry in entries:
            # Links are followed: somebody may have moved the packs to another disk.
            if entry.is_dir():
                yield from _walk(entry.path)
            else:
                with contextlib.suppress(FileNotFoundError):
                    yield entry, entry.stat()


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
    errno.EMFILE: (StorageError, "Raise the limit on open files (ulimit -n)."),
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
        self.requests.add("GET", len(paths))
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

    def _objects(self, folder: str) -> Iterator[ObjectInfo]:
        self.requests.add("LIST")
        below = f"{self._root}{folder}/" if folder else self._root
        for name, file in list(self._store.items()):
            if name.startswith(below):
                # Not of its buffer, which would copy it.
                size = len(file.getvalue())
                yield ObjectInfo(name.removeprefix(self._root), size, file.modified.timestamp())

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
            raise _closed(self._path)
        for buffer in [buffers] if isinstance(buffers, Buffer) else buffers:
            self._buffer.write(buffer)

    def close(self) -> None:
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            self._location.replace(self._path, buffer.getvalue())

    def abort(self) -> None:
        self._buffer = None


def _closed(path: str) -> InvalidArgument:
    return InvalidArgument(f"{path} is closed: nothing can be written to it any more.")


def _copy(data: bytes, target: memoryview) -> int:
    target[: len(data)] = data
    return len(data)


# --- object stores ---------------------------------------------------------------------------------------


class _Exists(StorageError):
    """The store refused an exclusive create, because the object is there already."""


class _Contended(StorageUnavailable):
    """The store refused a request, because another one on the same object was under way."""


class _BeyondEnd(StorageError):
    """A range that begins where the object has ended."""


class _PerProcess(Generic[T]):
    """Something that a forked child makes anew. It never closes the parent's, which would disturb the parent."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: dict[int, T] = {}

    def __call__(self) -> T:
        pid = os.getpid()
        found = self._made.get(pid)
        # No lock, which a fork could copy while it is held: of two made at once the second is dropped.
        return self._made.setdefault(pid, self._make()) if found is None else found


class _ObjectStoreLocation(Location):
    """What object stores have in common: a bucket, keys below a prefix, and an asynchronous client from fsspec.

    Only the client's own calls are used, one request each, because fsspec's file operations look things up before
    they act: that costs requests, and looks into caches.
    """

    _protocol: str
    _package: str
    _extra: str

    def __init__(self, protocol: str, place: str, storage_options: Mapping[str, Any]) -> None:
        place = place.strip("/")
        super().__init__(self._protocol, place, storage_options)
        self._bucket, _, folder = place.partition("/")
        self._root = f"{folder}/" if folder else ""
        try:
            importlib.import_module(self._package)
        except ImportError as error:
            raise MissingDependency(
                f'{self.url} needs the package {self._package}: pip install "prefect-snapshots[{self._extra}]"'
            ) from error
        self._client = _PerProcess(self._connect)

    @abstractmethod
    def _connect(self) -> Any:
        """A new client."""

    @abstractmethod
    async def _get(self, client: Any, key: str, span: str | None) -> bytes:
        """The bytes of an object, or of a span `first-last` (both included)."""

    @abstractmethod
    async def _put(self, client: Any, key: str, data: bytes, exclusive: bool) -> None: ...

    @abstractmethod
    async def _page(self, client: Any, prefix: str, token: str | None) -> tuple[list[ObjectInfo], str | None]:
        """Some of the objects whose keys start with `prefix`, and a token to go on with."""

    @abstractmethod
    async def _size(self, client: Any, key: str) -> int: ...

    @abstractmethod
    async def _delete(self, client: Any, keys: list[str]) -> None: ...

    @abstractmethod
    def _translated(self, error: Exception, path: str) -> SnapshotsError:
        """What an error of the client means."""

    def read(self, path: str) -> bytes:
        return self._run(path, self._get, self._key(path), None)

    def read_range(self, path: str, start: int, length: int) -> bytes:
        key = self._key(path)
        if not length:
            return b""
        try:
            return self._run(path, self._get, key, f"{start}-{start + length - 1}")
        except _BeyondEnd:
            return b""

    def read_into(self, path: str, start: int, target: memoryview) -> int:
        return _copy(self.read_range(path, start, len(target)), target)

    def read_many(self, paths: Sequence[str]) -> list[bytes | None]:
        keys = [self._key(path) for path in paths]

        async def gather(client: Any) -> list[bytes | None]:
            free = asyncio.Semaphore(_PARALLEL)

            async def get(path: str, key: str) -> bytes | None:
                async with free:
                    try:
                        return await self._get(client, key, None)
                    except Exception as error:
                        meaning = self._translated(error, path)
                        if isinstance(meaning, ObjectMissing):
                            return None
                        raise meaning from error

            return await asyncio.gather(*map(get, paths, keys))

        return self._run("", gather)

    def _create(self, path: str, data: bytes) -> bool:
        key = self._key(path)
        for attempt in range(_ATTEMPTS):
            try:
                self._run(path, self._put, key, data, True)
                return True
            except _Exists:
                # Perhaps by us: a retry of a request whose reply was lost looks like a lost race.
                found = self._read_or_none(path)
            except _Contended:
                found = None
            except StorageUnavailable:
                found = self._read_or_none(path)
                if found is None:
                    raise
            if found is not None:
                return found == data
            time.sleep(random.uniform(0.5, 1) * min(0.05 * 2**attempt, 2))
        raise StorageUnavailable(f"{self.url}/{path}: other writers were in the way {_ATTEMPTS} times. Try again.")

    def replace(self, path: str, data: bytes) -> None:
        self._run(path, self._put, self._key(path), data, False)

    def writer(self, path: str) -> ObjectWriter:
        return _BufferedWriter(self, _checked(path))

    def leftovers(self) -> list[ObjectInfo]:
        return []

    def size(self, path: str) -> int | None:
        try:
            return self._run(path, self._size, self._key(path))
        except ObjectMissing:
            return None

    def delete(self, paths: Iterable[str]) -> None:
        keys = [self._key(path) for path in paths]
        for first in range(0, len(keys), _BATCH):
            self._run("", self._delete, keys[first : first + _BATCH])

    def _objects(self, folder: str) -> Iterator[ObjectInfo]:
        prefix = self._key(folder) + "/" if folder else self._root
        token = None
        while True:
            page, token = self._run(folder, self._page, prefix, token)
            # Some consoles, and SeaweedFS after a deletion, keep empty objects that stand for folders.
            yield from (info for info in page if not info.path.endswith("/"))
            if token is None:
                return

    def _key(self, path: str) -> str:
        return self._root + _checked(path)

    def _info(self, key: str, size: int, modified: datetime) -> ObjectInfo:
        return ObjectInfo(key.removeprefix(self._root), size, modified.timestamp())

    def _run(self, path: str, operation: Callable[..., Coroutine[Any, Any, T]], *arguments: Any) -> T:
        """Run a coroutine on fsspec's event loop, and wait for it."""
        from fsspec.asyn import sync

        client = self._client()
        try:
            result: T = sync(client.loop, operation, client, *arguments)
        except SnapshotsError:
            raise
        except Exception as error:
            raise self._translated(error, path) from error
        return result

    def _meaning(self, status: int | None, code: str, detail: object, path: str) -> SnapshotsError:
        kind, advice = _CODES.get(code) or _STATUSES.get(status) or (StorageError, "Check the URL and storage_options.")
        where = f"{self.url}/{path}" if path else self.url
        said = str(detail or kind.__doc__).rstrip(".")
        return kind(f"{where}: {said} ({code or status}). {advice}")

    def _unreachable(self, error: Exception, path: str) -> StorageUnavailable:
        where = f"{self.url}/{path}" if path else self.url
        reason = str(error) or type(error).__name__
        return StorageUnavailable(f"{where}: no answer ({reason}). Check the network and the endpoint.")


class S3Location(_ObjectStoreLocation):
    """A prefix in a bucket of S3, or of a store that speaks its protocol."""

    _protocol = "s3"
    _package = "s3fs"
    _extra = "s3"

    def _connect(self) -> Any:
        from s3fs import S3FileSystem

        options = dict(self.storage_options)
        options["config_kwargs"] = {"max_pool_connections": 2 * _PARALLEL, **options.get("config_kwargs", {})}
        return S3FileSystem(**{**options, **_NO_CACHES})

    async def _call(self, client: Any, operation: str, **arguments: Any) -> dict[str, Any]:
        await client.set_session()
        connection = await client.get_s3(self._bucket)
        # Once only, thanks to the id, and for every attempt that goes over the wire.
        connection.meta.events.register("before-send.s3", self._count, unique_id="prefect-snapshots")
        answer: dict[str, Any] = await client._call_s3(operation, Bucket=self._bucket, **arguments)
        return answer

    def _count(self, request: Any, event_name: str, **_: Any) -> None:
        self.requests.add(_S3_VERBS.get(event_name.rpartition(".")[2], request.method))

    async def _get(self, client: Any, key: str, span: str | None) -> bytes:
        limits = {} if span is None else {"Range": f"bytes={span}"}
        failures = 0
        while True:
            answer = await self._call(client, "get_object", Key=key, **limits)
            async with answer["Body"] as body:
                try:
                    return bytes(await body.read())
                except Exception:
                    # The connection broke while the object came in: the one thing that s3fs does not retry.
                    failures += 1
                    if failures == _ATTEMPTS:
                        raise

    async def _put(self, client: Any, key: str, data: bytes, exclusive: bool) -> None:
        condition = {"IfNoneMatch": "*"} if exclusive else {}
        await self._call(client, "put_object", Key=key, Body=data, **condition)

    async def _page(self, client: Any, prefix: str, token: str | None) -> tuple[list[ObjectInfo], str | None]:
        going_on = {} if token is None else {"ContinuationToken": token}
        answer = await self._call(client, "list_objects_v2", Prefix=prefix, **going_on)
        found = [self._info(item["Key"], item["Size"], item["LastModified"]) for item in answer.get("Contents", [])]
        return found, answer.get("NextContinuationToken") if answer.get("IsTruncated") else None

    async def _size(self, client: Any, key: str) -> int:
        answer = await self._call(client, "head_object", Key=key)
        size: int = answer["ContentLength"]
        return size

    async def _delete(self, client: Any, keys: list[str]) -> None:
        wanted = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
        answer = await self._call(client, "delete_objects", Delete=wanted)
        for refused in answer.get("Errors", []):
            path = refused["Key"].removeprefix(self._root)
            raise self._meaning(None, refused.get("Code", ""), refused.get("Message"), path)

    def _translated(self, error: Exception, path: str) -> SnapshotsError:
        from aiohttp import ClientError as HTTPError
        from botocore.exceptions import (
            BotoCoreError,
            ConnectionError,
            HTTPClientError,
            NoCredentialsError,
            PartialCredentialsError,
        )

        # s3fs puts an OSError of its own in front of what the server said, and not always the same one.
        response = getattr(error.__cause__ or error, "response", None)
        if response:
            said = response.get("Error", {})
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return self._meaning(status, said.get("Code", ""), said.get("Message"), path)
        if isinstance(error, NoCredentialsError | PartialCredentialsError):
            return PermissionDenied(f"{self.url}: {error}. Give key and secret in storage_options, or a profile.")
        if isinstance(error, ConnectionError | HTTPClientError | HTTPError | OSError):
            return self._unreachable(error, path)
        if isinstance(error, BotoCoreError | ValueError):
            return self._meaning(None, type(error).__name__, error, path)
        raise error


class GCSLocation(_ObjectStoreLocation):
    """A prefix in a bucket of Google Cloud Storage."""

    _protocol = "gs"
    _package = "gcsfs"
    _extra = "gcs"

    def _connect(self) -> Any:
        from aiohttp import TraceConfig

        # Not gcsfs.GCSFileSystem, which asks over gRPC for the kind of the bucket, and waits a minute on emulators.
        from gcsfs.core import GCSFileSystem

        trace = TraceConfig()
        trace.on_request_start.append(self._count)
        options = dict(self.storage_options)
        session = dict(options.get("session_kwargs", {}))
        options["session_kwargs"] = {**session, "trace_configs": [*session.get("trace_configs", []), trace]}
        return GCSFileSystem(**{**options, **_NO_CACHES})

    async def _count(self, _session: object, _context: object, request: Any) -> None:
        query = request.url.query
        if request.method == "POST":
            self.requests.add("PUT")
        elif request.method == "GET" and "prefix" in query:
            self.requests.add("LIST")
        elif request.method == "GET" and query.get("alt") != "media":
            self.requests.add("HEAD")
        else:
            self.requests.add(request.method)

    async def _get(self, client: Any, key: str, span: str | None) -> bytes:
        limits = {} if span is None else {"Range": f"bytes={span}"}
        _, data = await client._call("GET", _GCS_OBJECT, self._bucket, key, alt="media", headers=limits)
        return bytes(data)

    async def _put(self, client: Any, key: str, data: bytes, exclusive: bool) -> None:
        from gcsfs.core import simple_upload

        mode = "create" if exclusive else "overwrite"
        await simple_upload(client, self._bucket, key, data, consistency=client.consistency, mode=mode)

    async def _page(self, client: Any, prefix: str, token: str | None) -> tuple[list[ObjectInfo], str | None]:
        fields = "nextPageToken,items(name,size,updated)"
        answer = await client._call(
            "GET", "b/{}/o", self._bucket, prefix=prefix, pageToken=token, fields=fields, json_out=True
        )
        found = [
            self._info(item["name"], int(item["size"]), datetime.fromisoformat(item["updated"]))
            for item in answer.get("items", [])
        ]
        return found, answer.get("nextPageToken")

    async def _size(self, client: Any, key: str) -> int:
        answer = await client._call("GET", _GCS_OBJECT, self._bucket, key, fields="size", json_out=True)
        return int(answer["size"])

    async def _delete(self, client: Any, keys: list[str]) -> None:
        free = asyncio.Semaphore(_PARALLEL)

        async def delete(key: str) -> None:
            async with free:
                with contextlib.suppress(FileNotFoundError):
                    await client._call("DELETE", _GCS_OBJECT, self._bucket, key)

        await asyncio.gather(*map(delete, keys))

    def _translated(self, error: Exception, path: str) -> SnapshotsError:
        from aiohttp import ClientError as HTTPError
        from google.auth.exceptions import GoogleAuthError

        code = getattr(error, "code", None)
        if code is not None:
            return self._meaning(int(code), "", error, path)
        if isinstance(error, FileExistsError):
            return self._meaning(412, "", error, path)
        if isinstance(error, FileNotFoundError):
            # It holds the path of what was asked for: of an object, or of all objects in the bucket.
            return self._meaning(404, "NoSuchBucket" if str(error).endswith("/o") else "", error, path)
        if isinstance(error, GoogleAuthError) or str(error).startswith("Forbidden"):
            return self._meaning(403, "", error, path)
        if isinstance(error, HTTPError | OSError):
            return self._unreachable(error, path)
        if isinstance(error, ValueError):
            return self._meaning(400, "", error, path)
        raise error


_NO_CACHES = {"use_listings_cache": False, "skip_instance_cache": True}
_PARALLEL = 16
_ATTEMPTS = 8
_BATCH = 1000  # the most that S3 deletes in one request
_S3_VERBS = {"ListObjectsV2": "LIST", "DeleteObjects": "DELETE"}
_GCS_OBJECT = "b/{}/o/{}"

_CREDENTIALS = "Check the credentials, and what they are allowed to do."
_PASSING = "Try again later."
_CODES: dict[str, tuple[type[SnapshotsError], str]] = {
    "NoSuchBucket": (StorageError, "Create the bucket first, or correct the URL."),
    "PreconditionFailed": (_Exists, ""),
    "AccessDenied": (PermissionDenied, _CREDENTIALS),
    "ExpiredToken": (PermissionDenied, _CREDENTIALS),
    "InvalidToken": (PermissionDenied, _CREDENTIALS),
    "TokenRefreshRequired": (PermissionDenied, _CREDENTIALS),
    "InternalError": (StorageUnavailable, _PASSING),
    "SlowDown": (StorageUnavailable, _PASSING),
    "RequestTimeout": (StorageUnavailable, _PASSING),
    "QuotaExceeded": (StorageFull, "Raise the quota, or prune the repository."),
}
_STATUSES: dict[int | None, tuple[type[SnapshotsError], str]] = {
    401: (PermissionDenied, _CREDENTIALS),
    403: (PermissionDenied, _CREDENTIALS),
    404: (ObjectMissing, "It may have been pruned since: open it again."),
    408: (StorageUnavailable, _PASSING),
    409: (_Contended, _PASSING),
    412: (_Exists, ""),
    416: (_BeyondEnd, ""),
    429: (StorageUnavailable, _PASSING),
    500: (StorageUnavailable, _PASSING),
    501: (UnsupportedStorage, "Use a store that supports conditional writes, or pass single_writer=True."),
    502: (StorageUnavailable, _PASSING),
    503: (StorageUnavailable, _PASSING),
    504: (StorageUnavailable, _PASSING),
    507: (StorageFull, "Free some space, or prune the repository."),
}


# --- everything else -------------------------------------------------------------------------------------


class GenericLocation(Location):
    """Any other file system of fsspec. None of them can create exclusively, so only a single writer may use it.

    How durable and atomic a write is depends on that file system.
    """

    def __init__(self, protocol: str, place: str, storage_options: Mapping[str, Any]) -> None:
        super().__init__(protocol, place.rstrip("/"), storage_options)
        # A query may hold a token.
        self.url = self.url.partition("?")[0]
        import fsspec

        try:
            fsspec.get_filesystem_class(protocol)
        except ImportError as error:
            raise MissingDependency(f"{self.url}: {error}") from error
        except ValueError as error:
            raise InvalidArgument(f"{self.url}: {error}. See fsspec.available_protocols().") from error
        self._files = _PerProcess(self._connect)

    def read(self, path: str) -> bytes:
        self.requests.add("GET")
        with self._file(path) as (files, name):
            return bytes(files.cat_file(name))

    def read_range(self, path: str, start: int, length: int) -> bytes:
        self.requests.add("GET")
        with self._file(path) as (files, name):
            return bytes(files.cat_file(name, start=start, end=start + length))

    def read_into(self, path: str, start: int, target: memoryview) -> int:
        return _copy(self.read_range(path, start, len(target)), target)

    def read_many(self, paths: Sequence[str]) -> list[bytes | None]:
        return [self._read_or_none(path) for path in paths]

    def _create(self, path: str, data: bytes) -> bool:
        found = self._read_or_none(path)
        if found is None:
            self.replace(path, data)
        return found is None or found == data

    def replace(self, path: str, data: bytes) -> None:
        self.requests.add("PUT")
        with self._file(path) as (files, name):
            files.makedirs(name.rpartition("/")[0], exist_ok=True)
            files.pipe_file(name, data)

    def writer(self, path: str) -> ObjectWriter:
        return _BufferedWriter(self, _checked(path))

    def size(self, path: str) -> int | None:
        self.requests.add("HEAD")
        try:
            with self._file(path) as (files, name):
                found = files.info(name)
        except ObjectMissing:
            return None
        return int(found["size"]) if found["type"] == "file" else None

    def delete(self, paths: Iterable[str]) -> None:
        for path in paths:
            self.requests.add("DELETE")
            with contextlib.suppress(ObjectMissing), self._file(path) as (files, name):
                files.rm_file(name)

    def prove_exclusive(self) -> None:
        raise UnsupportedStorage(
            f"{self.url}: this kind of storage cannot create an object exclusively, so that writers could overwrite "
            "each other. Use a directory, S3 or Google Cloud Storage, or pass single_writer=True if never more than "
            "one process writes at a time."
        )

    def _objects(self, folder: str) -> Iterator[ObjectInfo]:
        self.requests.add("LIST")
        files, root = self._files()
        try:
            found = files.find(f"{root}/{folder}" if folder else root, detail=True)
        except FileNotFoundError:
            return
        for name, info in found.items():
            modified = info.get("mtime") or info.get("LastModified") or info.get("created") or 0.0
            seconds = modified.timestamp() if isinstance(modified, datetime) else float(modified)
            yield ObjectInfo(name.removeprefix(f"{root}/"), info["size"], seconds)

    @contextlib.contextmanager
    def _file(self, path: str) -> Iterator[tuple[Any, str]]:
        """The file system, and what it calls an object."""
        _checked(path)
        files, root = self._files()
        try:
            yield files, f"{root}/{path}"
        except OSError as error:
            raise _from_os_error(error, f"{self.url}/{path}") from error

    def _connect(self) -> tuple[Any, str]:
        """The file system, and what it calls this location."""
        import fsspec

        files, root = fsspec.core.url_to_fs(self._target, **{**self.storage_options, **_NO_CACHES})
        return files, root.rstrip("/")


# --- names -----------------------------------------------------------------------------------------------

_KINDS: dict[str, type[Location]] = {
    "file": LocalLocation,
    "local": LocalLocation,
    "memory": MemoryLocation,
    "s3": S3Location,
    "s3a": S3Location,
    "gs": GCSLocation,
    "gcs": GCSLocation,
}
_CONTENDERS = 4
_SEGMENT = r"[0-9A-Za-z_][0-9A-Za-z._-]*"
_PATH = re.compile(rf"{_SEGMENT}(/{_SEGMENT})*")
_TEMPORARY_PATH = re.compile(rf"({_SEGMENT}/)*\.tmp-[0-9a-f]+")
_PROBE = re.compile(r"probe/[0-9a-f]{32}")


def _checked(path: str, temporary: bool = False) -> str:
    if _PATH.fullmatch(path) or (temporary and _TEMPORARY_PATH.fullmatch(path)):
        return path
    raise InvalidName(f"{path!r} is no path inside a repository: letters, digits, '.', '_', '-' between single '/'.")


def _path_of(info: ObjectInfo) -> str:
    return info.path


def _without_password(url: str) -> str:
    return re.sub(r"(?<=://)([^/@:]*):[^/@]*@", r"\1@", url)
