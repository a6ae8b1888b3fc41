"""Objects as files in a directory."""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any

from ...errors import ObjectMissing, UnsupportedStorage
from . import locking, publishing
from .appending import FileAppender
from .counting import Requests
from .directories import Directories
from .files import NEW_FILE, pieces, sync_entry, walk, write_all
from .interface import Appender, ByteLocks, Location, ObjectInfo
from .large_files import LargeFile
from .os_errors import translated
from .paths import checked, is_temporary, temporary_name
from .writing import Buffer, ObjectWriter, closed, several


class LocalLocation(Location):
    """A directory."""

    is_local = True
    appends = True

    def __init__(self, protocol: str, place: str, storage_options: Mapping[str, Any]) -> None:
        self._root = os.path.abspath(os.path.expanduser(place))
        super().__init__("file", self._root, storage_options)
        self._directories = Directories(self._root)
        self._ways = list(publishing.WAYS)

    def read(self, path: str) -> bytes:
        with self._errors(path), self._open(path) as file:
            return file.read()

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
        with self._errors(path), self._directory(path) as directory:
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

    def writer(self, path: str, *, read_soon: bool = True) -> ObjectWriter:
        with self._errors(path), self._directory(checked(path)) as directory:
            return _FileWriter(self._where(path), _name(path), os.dup(directory), self.requests, read_soon)

    def appender(self, path: str) -> Appender:
        self.requests.add("PUT")
        with self._errors(path), self._directory(checked(path)) as directory:
            file = os.open(_name(path), NEW_FILE | os.O_APPEND, 0o666, dir_fd=directory)
            try:
                sync_entry(directory, self._where(path))
            except BaseException:
                os.close(file)
                raise
        return FileAppender(self._where(path), file)

    def locks(self, path: str) -> ByteLocks | None:
        if not locking.AVAILABLE:
            return None
        with self._errors(path), self._directory(checked(path)) as directory:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            locks = locking.FileLocks(os.open(_name(path), flags, 0o666, dir_fd=directory))
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
        with self._errors(folder):
            for entry, status in walk(self._full(folder) if folder else self._root):
                yield ObjectInfo(os.path.relpath(entry.path, self._root), status.st_size, status.st_mtime)

    def size(self, path: str) -> int | None:
        self.requests.add("HEAD")
        try:
            with self._errors(path):
                status = os.stat(self._full(checked(path)))
        except ObjectMissing:
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def delete(self, paths: Iterable[str]) -> None:
        for path in paths:
            self.requests.add("DELETE")
            with contextlib.suppress(ObjectMissing), self._errors(path):
                os.unlink(self._full(checked(path, temporary=True)))

    def _full(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _open(self, path: str) -> io.FileIO:
        self.requests.add("GET")
        return io.FileIO(self._full(checked(path)))

    def _directory(self, path: str) -> contextlib.AbstractContextManager[int]:
        """The open directory of an object."""
        return self._directories.opened(os.path.dirname(self._full(path)))

    def _publish(self, directory: int, name: str, data: bytes) -> bool:
        """Put a durable file under a new name in an open directory, in the first way that this file system knows."""
        for publish in list(self._ways):
            try:
                return publish(directory, name, data)
            except publishing.WayUnknown:
                # Another thread may have dropped it already.
                with contextlib.suppress(ValueError):
                    self._ways.remove(publish)
        raise UnsupportedStorage(
            f"{self.url} is on a file system with neither hard links nor an exclusive rename, so that writers could "
            "overwrite each other. Use another directory, or pass single_writer=True if never more than one process "
            "writes at a time."
        )

    def _errors(self, path: str) -> contextlib.AbstractContextManager[None]:
        return translated(self._where(path))


class _FileWriter(ObjectWriter):
    """Streams into a temporary file in the directory of its final name."""

    def __init__(self, where: str, name: str, directory: int, requests: Requests, read_soon: bool) -> None:
        self._where = where
        self._name = name
        self._directory = directory
        self._requests = requests
        self._temporary = temporary_name()
        try:
            self._file = os.open(self._temporary, NEW_FILE, 0o666, dir_fd=directory)
        except BaseException:
            os.close(directory)
            raise
        self._large = None if read_soon else LargeFile(self._file)
        self._open = True

    def write(self, buffers: Buffer | Sequence[Buffer]) -> None:
        if not self._open:
            raise closed(self._where)
        with translated(self._where):
            if self._large is None:
                write_all(self._file, several(buffers))
            else:
                self._large.write(several(buffers))

    def close(self) -> None:
        if not self._open:
            return
        self._requests.add("PUT")
        try:
            with translated(self._where):
                if self._large is not None:
                    self._large.finish()
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
            with contextlib.suppress(FileNotFoundError), translated(self._where):
                os.unlink(self._temporary, dir_fd=self._directory)
        finally:
            os.close(self._file)
            os.close(self._directory)


def _name(path: str) -> str:
    return path.rpartition("/")[2]
