"""The interface of all locations, the errors that they raise, and helpers for backends."""

from __future__ import annotations

import contextlib
import io
import re
import secrets
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from operator import attrgetter
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar

from ...errors import DamagedObject, InvalidArgument, InvalidName, ObjectMissing, PermissionDenied, UnsupportedStorage
from ...redaction import harmless_options, hider, safe_url

Buffer: TypeAlias = bytes | bytearray | memoryview
E = TypeVar("E", bound=Exception)

# In practice, four threads always detect a store that ignores the condition, and take one round trip.
_CONTENDERS = 4
_PROBE = re.compile(r"probe/[0-9a-f]{32}")

LARGEST_READ = 2**30
"""The most bytes of an object that is read as a whole. We write less: more could only fill the memory of a reader."""

_SEGMENT = r"[0-9A-Za-z_][0-9A-Za-z._-]*"
_PATH = re.compile(rf"{_SEGMENT}(/{_SEGMENT})*")
_TEMPORARY_PATH = re.compile(rf"({_SEGMENT}/)*\.tmp-[0-9a-f]+")


def too_large(path: str, most: int) -> DamagedObject:
    """Return the error for an object that has more bytes than it can have."""
    return DamagedObject(path, f"it has more than {most:,} bytes, which is more than anything that we write")


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object in a listing.

    Attributes:
        path: The path within the location.
        size: The size in bytes.
        modified: When it was written, in seconds since 1970, by the clock of the store and not of this machine.
    """

    path: str
    size: int
    modified: float


class ObjectWriter(ABC):
    """Write one object in pieces. Nothing is visible under its path before `close` returns.

    `close` and `abort` may be called from another thread than `write`.
    """

    @abstractmethod
    def write(self, buffers: Buffer | Sequence[Buffer]) -> None:
        """Append one buffer, or several in order. You may reuse the buffers afterwards."""

    @abstractmethod
    def close(self) -> None:
        """Make the whole object durable and visible in one step."""

    @abstractmethod
    def abort(self) -> None:
        """Discard the written data. Does nothing after `close`."""


class Appender(ABC):
    """Append to one file that nobody else writes to. Methods may be called from any thread."""

    @abstractmethod
    def append(self, buffers: Buffer | Sequence[Buffer]) -> None:
        """Append one buffer, or several in order.

        When this returns, the data survives the end of this process. It survives a loss of power after about a second,
        and after `close`. After an error, the file may contain a part of the data, and every later append fails.
        """

    @abstractmethod
    def close(self) -> None:
        """Make everything durable and close the file."""

    @abstractmethod
    def abort(self) -> None:
        """Close the file, also after a failure. Does nothing after `close`."""


class ByteLocks(ABC):
    """Locks on the bytes of a file. A lock is held until it is released or this process ends. No method waits."""

    @abstractmethod
    def take(self, number: int) -> bool:
        """Lock the byte at offset `number` (below 2**62). Return False if somebody else holds the lock."""

    @abstractmethod
    def release(self, number: int) -> None:
        """Unlock a byte."""

    @abstractmethod
    def is_held(self, number: int) -> bool:
        """Return whether somebody else holds the lock of a byte."""

    @abstractmethod
    def close(self) -> None:
        """Release all locks."""


class Requests(Mapping[str, int]):
    """The number of requests that a location has made, by verb: GET, PUT, LIST, DELETE, HEAD.

    For S3 and Google Cloud Storage, this is the number of requests including retries, except for requests that aiohttp
    repeats because a connection was closed. For other locations, it is the number of calls. An unused verb has 0.
    """

    def __init__(self) -> None:
        # Each thread has its own entries, so no lock is needed, which a fork could copy while it is held.
        self._counts: dict[tuple[int, str], int] = {}

    def __getitem__(self, verb: str) -> int:
        return self._sums()[verb]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sums())

    def __len__(self) -> int:
        return len(self._sums())

    def __repr__(self) -> str:
        return f"Requests({dict(self._sums())})"

    def add(self, verb: str) -> None:
        """Count one request."""
        key = threading.get_ident(), verb
        self._counts[key] = self._counts.get(key, 0) + 1

    def _sums(self) -> Counter[str]:
        sums: Counter[str] = Counter()
        for (_, verb), count in list(self._counts.items()):
            sums[verb] += count
        return sums


class Location(ABC):
    """A directory, bucket or other place for objects. Every method may be called from any thread.

    To add a backend, subclass this, implement the abstract methods, and register the class in the entry-point group
    `prefect_snapshots.locations` under the scheme of its URLs. `prefect_snapshots.testing.LocationContract` tests it.

    In addition to the errors that their docstrings list, all methods raise:

    - `PermissionDenied` if the credentials or the file permissions do not allow the call,
    - `StorageUnavailable` if the store did not answer after all retries,
    - `StorageError` for any other failure of the store,
    - `InvalidArgument` if no client can be created with the options,
    - `InvalidName` for a path that leads out of the location.

    Args:
        protocol: The scheme of the URL, such as `"s3"`.
        place: The part of the URL after `://`.
        storage_options: Options for the store. They may contain secrets.

    Attributes:
        url: The URL in canonical form and without secrets, so that you can log it.
        storage_options: The options that it was opened with. They may contain secrets.
        requests: The number of requests made so far.
        is_local: Whether objects are plain files. If so, small calls are cheap, and writers do not collect the object
            in memory.
        appends: Whether files can grow. If so, `appender` returns an appender.
        reserve: The size in bytes that the reserve of the repository must have, as far as this process knows. See the
            module `reserve`.
    """

    is_local: bool = False
    appends: bool = False
    reserve: int = 0

    def __init__(self, protocol: str, place: str, storage_options: Mapping[str, Any]) -> None:
        self._protocol = protocol
        self._place = place
        self.url = safe_url(f"{protocol}://{place}")
        self.storage_options = MappingProxyType(dict(storage_options))
        self.requests = Requests()
        self._hide = hider(f"{protocol}://{place}", storage_options)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def __reduce__(self) -> tuple[type[Location], tuple[str, str, dict[str, Any]]]:
        scheme, _, place = self.url.partition("://")
        return type(self), (scheme, place, harmless_options(self.storage_options))

    @property
    def url_with_secrets(self) -> str:
        """The URL as it was passed, which may contain a password. Never show, log or store it."""
        return f"{self._protocol}://{self._place}"

    @abstractmethod
    def read(self, path: str) -> bytes:
        """Return all bytes of an object. Raises `ObjectMissing`, or `DamagedObject` if it is too large to be ours."""

    @abstractmethod
    def read_range(self, path: str, start: int, length: int) -> bytes:
        """Return `length` bytes from `start` on, or fewer if the object is shorter. Raises `ObjectMissing`."""

    def read_into(self, path: str, start: int, target: memoryview) -> int:
        """Fill `target` with the bytes from `start` on.

        Returns:
            The number of bytes read. It is less than the size of `target` only if the object is shorter.

        Raises:
            ObjectMissing: There is no such object.
        """
        data = self.read_range(path, start, len(target))
        target[: len(data)] = data
        return len(data)

    def read_many(self, paths: Sequence[str]) -> list[bytes | None]:
        """Return all bytes of many objects in the order of `paths`, with None for each missing object.

        Remote stores fetch them in parallel.
        """
        return [self._read_or_none(path) for path in paths]

    def create(self, path: str, data: bytes) -> bool:
        """Create an object durably and exclusively: only if there is none with this path.

        Args:
            path: The path of the object.
            data: Its bytes. They must contain something that no other writer has, such as a random token. So a writer
                that finds its own bytes under the path has succeeded, even if the reply was lost.

        Returns:
            True if the object now exists with exactly these bytes, False if there is another object.

        Raises:
            StorageUnavailable: It is not known whether the object was created.
            StorageFull: It was not created, because there is no space.
        """
        if not data:
            raise InvalidArgument(
                f"{path}: an empty object cannot be created exclusively. It must contain at least a token."
            )
        return self._create(checked(path), data)

    @abstractmethod
    def _create(self, path: str, data: bytes) -> bool: ...

    @abstractmethod
    def replace(self, path: str, data: bytes) -> None:
        """Write an object durably and atomically, and replace an older one. Raises `StorageFull`."""

    def put(self, path: str, data: bytes, *, durable: bool = True) -> None:
        """Write a small object atomically, and replace an older one. Raises `StorageFull`.

        Args:
            path: The path of the object.
            data: Its bytes.
            durable: Whether it must survive a loss of power when this returns. Object stores ignore False.
                Default: True.
        """
        self.replace(path, data)

    def writer(self, path: str, *, read_soon: bool = True) -> ObjectWriter:
        """Return a writer for an object. When it is closed, the object replaces an older one.

        For object stores, it collects the object in memory and sends it in one request on `close`, so write at most
        64 MB.

        Args:
            path: The path of the object.
            read_soon: Whether to write through the cache of the operating system, for an object that will probably be
                read soon. Default: True.
        """
        return BufferedWriter(self.replace, checked(path))

    def appender(self, path: str) -> Appender | None:
        """Create a file at `path`, and return an appender for it. Readers see the data that was appended so far.

        Returns:
            The appender, or None if files of this location cannot grow.
        """
        return None

    def resize(self, path: str, size: int) -> None:
        """Set the size of a file, and create it if it does not exist. Its contents are arbitrary, but take disk space.

        The change is not durable. Only locations with `is_local` support this.

        Raises:
            StorageFull: There is not enough space. The file is as large as the space allows.
        """
        raise UnsupportedStorage(f"{self.url}: this location cannot resize objects.")

    def locks(self, path: str) -> ByteLocks | None:
        """Return locks between the processes that use this location, on a file at `path`, or None if not supported."""
        return None

    def leftovers(self) -> list[ObjectInfo]:
        """Return the temporary files. Some may still be in use. `delete` accepts their paths."""
        return []

    def list(self, prefix: str) -> list[ObjectInfo]:
        """Return all objects below the folder `prefix`, at any depth, sorted by path.

        A listing is not a snapshot: an object that is created or deleted at the same time may or may not be in it.

        Args:
            prefix: The folder, or `""` for everything. Temporary files are not returned.
        """
        found = self._objects(checked(prefix) if prefix else "")
        return sorted((info for info in found if not is_temporary(info.path)), key=attrgetter("path"))

    @abstractmethod
    def _objects(self, folder: str) -> Iterator[ObjectInfo]:
        """Yield everything below a folder, including temporary files, in any order."""

    @abstractmethod
    def size(self, path: str) -> int | None:
        """Return the size of an object in bytes, or None if it does not exist."""

    @abstractmethod
    def delete(self, paths: Iterable[str]) -> None:
        """Delete objects. Objects that do not exist are ignored."""

    def extend_locks(self) -> int:
        """Extend the locks that keep objects from being deleted, where they may end soon. Return how many."""
        raise UnsupportedStorage(f"{self.url}: objects of this location cannot be locked. Use a bucket of S3 or GCS.")

    def is_empty(self) -> bool:
        """Return whether there are no objects. A missing directory is empty. Probes and leftovers are ignored."""
        return all(is_temporary(found.path) or _PROBE.fullmatch(found.path) for found in self._objects(""))

    def prove_exclusive(self) -> None:
        """Test that `create` is exclusive: several threads try to create one probe object.

        Raises:
            UnsupportedStorage: It is not exclusive, so that two writers could overwrite each other.
        """
        path = f"probe/{secrets.token_hex(16)}"

        def claim(_: object) -> bool:
            return self.create(path, secrets.token_bytes(16))

        with ThreadPoolExecutor(_CONTENDERS) as contenders:
            # Try once more afterwards, because a store may be exclusive only for requests that overlap.
            claims = [*contenders.map(claim, range(_CONTENDERS)), claim(None)]
        # A writer that may not delete leaves the probe.
        with contextlib.suppress(PermissionDenied):
            self.delete([path])
        if claims.count(True) != 1 or claims[-1]:
            raise UnsupportedStorage(
                f"{self.url} let {claims.count(True)} of {len(claims)} writers create the same object, so that writers "
                "could overwrite each other. Use a store that supports conditional writes, or pass single_writer=True "
                "if at most one process writes at a time."
            )

    def _read_or_none(self, path: str) -> bytes | None:
        try:
            return self.read(path)
        except ObjectMissing:
            return None

    def _where(self, path: str) -> str:
        """Return the name of an object for messages. For an empty path, that of the location."""
        return f"{self.url}/{path}" if path else self.url

    def _without_secrets(self, error: E) -> E:
        """Mask secrets in the message of an error."""
        error.args = tuple(self._hide(arg) if isinstance(arg, str) else arg for arg in error.args)
        return error

    def _harmless(self, error: BaseException) -> BaseException | None:
        """Return an error to use as a cause, or None if it or one of its own causes contains a secret."""
        seen: BaseException | None = error
        while seen is not None:
            if self._hide(said := f"{seen} {seen!r}") != said:
                return None
            seen = seen.__cause__ or seen.__context__
        return error


class BufferedWriter(ObjectWriter):
    """Collect an object in memory, and pass it to `put` on `close`."""

    def __init__(self, put: Callable[[str, bytes], None], path: str) -> None:
        self._put = put
        self._path = path
        self._buffer: io.BytesIO | None = io.BytesIO()

    def write(self, buffers: Buffer | Sequence[Buffer]) -> None:
        if self._buffer is None:
            raise closed(self._path)
        for buffer in several(buffers):
            self._buffer.write(buffer)

    def close(self) -> None:
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            self._put(self._path, buffer.getvalue())

    def abort(self) -> None:
        self._buffer = None


def several(buffers: Buffer | Sequence[Buffer]) -> Sequence[Buffer]:
    """Return one buffer or several buffers as a sequence."""
    return [buffers] if isinstance(buffers, Buffer) else buffers


def closed(path: str) -> InvalidArgument:
    """Return the error for a write after `close`."""
    return InvalidArgument(f"{path} is closed, so you cannot write to it. Open a new writer.")


def checked(path: str, temporary: bool = False) -> str:
    """Return a path that stays inside the location.

    Args:
        path: The path. Every segment begins with a letter, a digit or `_`.
        temporary: Whether to accept the path of a temporary file, too. Default: False.

    Raises:
        InvalidName: The path could lead out of the location.
    """
    if _PATH.fullmatch(path) or (temporary and _TEMPORARY_PATH.fullmatch(path)):
        return path
    raise InvalidName(
        f"{path!r} is not a path inside a repository. Use letters, digits, '.', '_' and '-' between single '/'."
    )


def temporary_name() -> str:
    """Return a new name for a temporary file."""
    return f".tmp-{secrets.token_hex(8)}"


def is_temporary(path: str) -> bool:
    """Return whether a path is the path of a temporary file."""
    return path.rpartition("/")[2].startswith(".tmp-")
