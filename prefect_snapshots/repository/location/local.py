"""Store objects as files in a directory, with writers, appenders and locks for them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import stat
import struct
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

from ...errors import DamagedObject, InvalidArgument, ObjectMissing, StorageError, StorageFull, UnsupportedStorage
from ...private_files import Modes
from ..threads import Lock, after_fork
from . import files
from .files import NEW_FILE, Directories, Translated, pieces, sync_entry, walk, write_all
from .interface import (
    LARGEST_READ,
    Appender,
    Buffer,
    ByteLocks,
    Location,
    ObjectInfo,
    ObjectWriter,
    Requests,
    checked,
    closed,
    is_temporary,
    several,
    temporary_name,
    too_large,
)
from .large_files import LargeFile

# The most seconds of appended data that a loss of power may destroy. With more frequent syncs, small results would wait
# for the disk.
_SYNC_INTERVAL = 1.0

# Whether this operating system supports locks of an open file description.
_LOCKS_AVAILABLE = hasattr(fcntl, "F_OFD_SETLK")
_FLOCK = struct.Struct("hhqqi4x")  # struct flock where off_t has 64 bits

# Without O_NONBLOCK, opening a pipe in the place of an object would wait forever for a writer.
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


class LocalLocation(Location):
    """A directory.

    By default, only their owner can read the files. The option `umask`, a string of octal digits, gives others access.
    """

    is_local = True
    appends = True

    def __init__(self, protocol: str, place: str, storage_options: Mapping[str, Any]) -> None:
        self._root = os.path.abspath(os.path.expanduser(place))
        super().__init__("file", self._root, storage_options)
        self._modes = Modes(storage_options.get("umask"))
        self._directories = Directories(self._root, self._modes.directory)
        self._ways = list(files.WAYS)

    def read(self, path: str) -> bytes:
        with self._errors(path), self._open(path) as file:
            return _whole(path, file)

    def _read_or_none(self, path: str) -> bytes | None:
        with self._errors(path):
            try:
                file = self._open(path)
            except FileNotFoundError:  # readers that poll for new events get this most often, so it must be fast
                return None
            with file:
                return _whole(path, file)

    def read_range(self, path: str, start: int, length: int) -> bytes:
        with self._errors(path), self._open(path) as file:
            return b"".join(pieces(file.fileno(), start, length))

    def read_into(self, path: str, start: int, target: memoryview) -> int:
        done = 0
        with self._errors(path), self._open(path) as file:
            while done < len(target) and (count := os.preadv(file.fileno(), [target[done:]], start + done)):
                done += count
        return done

    def _create(self, path: str, data: bytes) -> bool:
        self.requests.add("PUT")
        with self._errors(path), self._folder(path) as directory:
            if not self._publish(directory, _name(path), data) and self._read_or_none(path) != data:
                return False
            sync_entry(directory, self._where(path))
        return True

    def replace(self, path: str, data: bytes) -> None:
        writer = self.writer(path)
        try:
            writer.write(data)
            writer.close()
        finally:
            writer.abort()

    def put(self, path: str, data: bytes, *, durable: bool = True) -> None:
        self.requests.add("PUT")
        with self._errors(path), self._folder(checked(path)) as directory:
            files.put(directory, _name(path), data, self._modes.file, durable)
            if durable:
                sync_entry(directory, self._where(path))

    def writer(self, path: str, *, read_soon: bool = True) -> ObjectWriter:
        with self._errors(path), self._folder(checked(path)) as directory:
            return _FileWriter(
                self._where(path), _name(path), os.dup(directory), self._modes.file, self.requests, read_soon
            )

    def appender(self, path: str) -> Appender:
        self.requests.add("PUT")
        with self._errors(path), self._folder(checked(path)) as directory:
            file = os.open(_name(path), NEW_FILE | os.O_APPEND, self._modes.file, dir_fd=directory)
            try:
                sync_entry(directory, self._where(path))
            except BaseException:
                os.close(file)
                raise
        return _FileAppender(self._where(path), file)

    def resize(self, path: str, size: int) -> None:
        self.requests.add("PUT")
        with self._errors(path), self._folder(checked(path)) as directory:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            file = os.open(_name(path), flags, self._modes.file, dir_fd=directory)
            try:
                there = os.fstat(file).st_size
                os.ftruncate(file, min(there, size))
                os.lseek(
                    file, there, os.SEEK_SET
                )  # not to the end, because another process may resize it at the same time
                # Random bytes, because a file system with compression would allocate no space for zeros.
                write_all(file, [os.urandom(max(size - there, 0))])
            finally:
                os.close(file)

    def locks(self, path: str) -> ByteLocks | None:
        if not _LOCKS_AVAILABLE:
            return None
        with self._errors(path), self._folder(checked(path)) as directory:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            locks = _FileLocks(os.open(_name(path), flags, self._modes.file, dir_fd=directory))
        try:
            locks.is_held(0)
        except OSError:  # as on a network file system without them
            locks.close()
            return None
        return locks

    def leftovers(self) -> list[ObjectInfo]:
        return sorted((info for info in self._objects("") if is_temporary(info.path)), key=attrgetter("path"))

    def _objects(self, folder: str) -> Iterator[ObjectInfo]:
        self.requests.add("LIST")
        depth = len(folder.split("/")) if folder else 0
        with self._errors(folder):
            for entry, status in walk(self._full(folder) if folder else self._root, depth):
                yield ObjectInfo(os.path.relpath(entry.path, self._root), status.st_size, status.st_mtime)

    def size(self, path: str) -> int | None:
        self.requests.add("HEAD")
        try:
            status = os.stat(self._full(checked(path)))
        except FileNotFoundError:  # readers that poll for new events get this most often, so it must be fast
            return None
        except OSError:
            with contextlib.suppress(ObjectMissing), self._errors(path):
                raise
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def delete(self, paths: Iterable[str]) -> None:
        for path in paths:
            self.requests.add("DELETE")
            folder = os.path.dirname(checked(path, temporary=True))
            with (
                contextlib.suppress(ObjectMissing),
                self._errors(path),
                self._directories.opened(folder, create=False) as directory,
            ):
                os.unlink(_name(path), dir_fd=directory)

    def _full(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _open(self, path: str) -> io.FileIO:
        self.requests.add("GET")
        file = io.FileIO(os.open(self._full(checked(path)), _READ))
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            file.close()
            raise DamagedObject(path, "it is a device, a pipe or a socket, and not a file")
        return file

    def _folder(self, path: str) -> contextlib.AbstractContextManager[int]:
        """Open the directory of an object, and create it if it does not exist."""
        return self._directories.opened(os.path.dirname(path))

    def _publish(self, directory: int, name: str, data: bytes) -> bool:
        """Create a durable file in an open directory, in the first way that this file system supports."""
        for publish in list(self._ways):
            try:
                return publish(directory, name, data, self._modes.file)
            except files.WayUnknown:
                # Another thread may have removed it already.
                with contextlib.suppress(ValueError):
                    self._ways.remove(publish)
        raise UnsupportedStorage(
            f"{self.url} is on a file system with neither hard links nor an exclusive rename, so that writers could "
            "overwrite each other. Use another directory, or pass single_writer=True if at most one "
            "process writes at a time."
        )

    def _errors(self, path: str) -> Translated:
        return Translated(self._where(path), self._explained)

    def _explained(self, error: OSError) -> InvalidArgument | None:
        if isinstance(error, NotADirectoryError):
            place = Path(self._root)  # not earlier: readers that poll for new events come here at every look
            for each in (place, *place.parents):
                if each.exists() and not each.is_dir():
                    return InvalidArgument(
                        f"{each} is a file, so no repository can be at {place}. Pass the path of a directory."
                    )
        return None


def _whole(path: str, file: io.FileIO) -> bytes:
    if os.fstat(file.fileno()).st_size > LARGEST_READ:
        raise too_large(path, LARGEST_READ)
    return file.read()


class _FileWriter(ObjectWriter):
    """Write to a temporary file in the directory of the final file."""

    def __init__(self, where: str, name: str, directory: int, mode: int, requests: Requests, read_soon: bool) -> None:
        self._where = where
        self._name = name
        self._directory = directory
        self._requests = requests
        self._temporary = temporary_name()
        try:
            self._file = os.open(self._temporary, NEW_FILE, mode, dir_fd=directory)
        except BaseException:
            os.close(directory)
            raise
        self._large = None if read_soon else LargeFile(self._file)
        self._open = True

    def write(self, buffers: Buffer | Sequence[Buffer]) -> None:
        if not self._open:
            raise closed(self._where)
        with Translated(self._where):
            if self._large is None:
                write_all(self._file, several(buffers))
            else:
                self._large.write(several(buffers))

    def close(self) -> None:
        if not self._open:
            return
        self._requests.add("PUT")
        try:
            with Translated(self._where):
                if self._large is not None:
                    self._large.finish()
                # Sync the data before the rename: otherwise a loss of power could leave the name without its data.
                os.fsync(self._file)
                os.rename(self._temporary, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
                sync_entry(self._directory, self._where)
        finally:
            self.abort()

    def abort(self) -> None:
        if not self._open:
            return
        self._open = False
        try:
            with contextlib.suppress(FileNotFoundError), Translated(self._where):
                os.unlink(self._temporary, dir_fd=self._directory)
        finally:
            os.close(self._file)
            os.close(self._directory)


class _FileAppender(Appender):
    """Append to an open file. A separate thread syncs it at most once a second.

    Args:
        where: The name of the file in messages.
        file: Its descriptor.
    """

    def __init__(self, where: str, file: int) -> None:
        self._where = where
        self._file = file
        self._lock = Lock()
        self._dirty = threading.Event()
        self._closing = threading.Event()
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None
        after_fork(self._forget_thread)

    def append(self, buffers: Buffer | Sequence[Buffer]) -> None:
        with self._lock:
            self._check()
            if self._closing.is_set():
                raise closed(self._where)
            try:
                with Translated(self._where):
                    write_all(self._file, several(buffers))
            except BaseException as error:
                # The file may contain a part of a record, and later records could not be distinguished from it.
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
            with Translated(self._where):
                os.fsync(self._file)
        finally:
            os.close(self._file)

    def abort(self) -> None:
        with contextlib.suppress(StorageError):
            self.close()

    def _forget_thread(self) -> None:
        # A forked child does not have the thread that syncs. The next append starts a new one.
        self._thread = None
        self._dirty = threading.Event()
        self._closing = threading.Event() if not self._closing.is_set() else self._closing

    def _check(self) -> None:
        if self._failure is not None:
            # Keep the type of the error: callers that catch StorageFull can free space.
            kind = StorageFull if isinstance(self._failure, StorageFull) else StorageError
            raise kind(
                f"{self._where}: an earlier write failed, so nothing can be appended any more ({self._failure}) "
                "Start a new run."
            ) from self._failure

    def _keep_synced(self) -> None:
        while not self._closing.is_set():
            self._dirty.wait()
            if self._closing.wait(_SYNC_INTERVAL):
                return
            self._dirty.clear()
            try:
                with Translated(self._where):
                    os.fsync(self._file)
            except StorageError as error:  # the next call raises it
                self._failure = error
                return


class _FileLocks(ByteLocks):
    """Locks of an open file description, so that two instances in one process exclude each other, too.

    The kernel releases them when the process ends, even if it is killed.
    """

    def __init__(self, file: int) -> None:
        self._file = file

    def take(self, number: int) -> bool:
        try:
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, _lock(fcntl.F_WRLCK, number))
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        return True

    def release(self, number: int) -> None:
        fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, _lock(fcntl.F_UNLCK, number))

    def is_held(self, number: int) -> bool:
        found: int = _FLOCK.unpack(fcntl.fcntl(self._file, fcntl.F_OFD_GETLK, _lock(fcntl.F_WRLCK, number)))[0]
        return found != fcntl.F_UNLCK

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _lock(kind: int, number: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, number, 1, 0)


def _name(path: str) -> str:
    return path.rpartition("/")[2]
