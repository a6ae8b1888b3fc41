"""The interface of every location: what it does, what it raises, and the helpers that every backend uses."""

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

from ...errors import InvalidArgument, InvalidName, ObjectMissing, PermissionDenied, UnsupportedStorage
from ...redaction import harmless_options, hider, safe_url

Buffer: TypeAlias = bytes | bytearray | memoryview
E = TypeVar("E", bound=Exception)

# Four threads find a store without the condition in practice always, and cost one round trip.
_CONTENDERS = 4
_PROBE = re.compile(r"probe/[0-9a-f]{32}")

_SEGMENT = r"[0-9A-Za-z_][0-9A-Za-z._-]*"
_PATH = re.compile(rf"{_SEGMENT}(/{_SEGMENT})*")
_TEMPORARY_PATH = re.compile(rf"({_SEGMENT}/)*\.tmp-[0-9a-f]+")


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
    """Write one object piece by piece. Nothing is visible under its path before `close` returns.

    `close` and `abort` may be called from another thread than `write`.
    """

    @abstractmethod
    def write(self, buffers: Buffer | Sequence[Buffer]) -> None:
        """Append one buffer, or several in order. You may reuse them afterwards."""

    @abstractmethod
    def close(self) -> None:
        """Make the whole object durable and visible in one step."""

    @abstractmethod
    def abort(self) -> None:
        """Discard what was written. Does nothing after `close`."""


class Appender(ABC):
    """Append to one file that nobody else writes. Methods may be called from any thread."""

    @abstractmethod
    def append(self, buffers: Buffer | Sequence[Buffer]) -> None:
        """Append one buffer, or several in order.

        The data survives the death of this process at once, and a loss of power after a second and after `close`.
        After an error a part of it may be in the file, and nothing can be appended any more.
        """

    @abstractmethod
    def close(self) -> None:
        """Make everything durable and close the file."""

    @abstractmethod
    def abort(self) -> None:
        """Close the file, also after a failure. Does nothing after `close`."""


class ByteLocks(ABC):
    """Locks on the bytes of a file, each held until it is released or this process ends. Never waits."""

    @abstractmethod
    def take(self, number: int) -> bool:
        """Lock byte `number` (below 2**62). Returns False if somebody else holds it."""

    @abstractmethod
    def release(self, number: int) -> None:
        """Unlock a byte."""

    @abstractmethod
    def is_held(self, number: int) -> bool:
        """Return whether somebody else holds a byte."""

    @abstractmethod
    def close(self) -> None:
        """Release everything."""


class Requests(Mapping[str, int]):
    """The number of requests that a location has made, by verb: GET, PUT, LIST, DELETE, HEAD.

    For S3 and Google Cloud Storage every request counts, retries included, except for those that aiohttp repeats by
    itself when a connection turns out to be closed. For others every call counts. A verb that was never used counts 0.
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
    """A place that holds objects. Every method may be called from any thread.

    To bring a backend, subclass this, implement the abstract methods, and name the class in the entry-point group
    `prefect_snapshots.locations` under the scheme of its URLs. `prefect_snapshots.testing.LocationContract` tests it.

    Besides the errors named at each method, all of them raise:

    - `PermissionDenied` if the credentials or the file permissions do not allow the call,
    - `StorageUnavailable` if the store did not answer after all retries,
    - `StorageError` for any other failure of the store,
    - `InvalidArgument` if the options do not make a client,
    - `InvalidName` for a path that leads out of the location.

    Args:
        protocol: The scheme of the URL, such as `"s3"`.
        place: What follows `://` in the URL.
        storage_options: Options for the store. They may hold secrets.

    Attributes:
        url: The URL in one canonical form and without secrets: it may be logged.
        storage_options: The options it was opened with. They may hold secrets.
        requests: The number of requests made so far.
        is_local: Objects are plain files: small calls are cheap, and writers stream.
        appends: Files can grow: `appender` returns one.
        reserve: Bytes that the reserve of the repository must have, as far as this process knows: see the module
            `reserve`.
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
        """The URL as it was given, with the password that it may hold. Never show, log or store it."""
        return f"{self._protocol}://{self._place}"

    @abstractmethod
    def read(self, path: str) -> bytes:
        """Return all bytes of an object. Raises `ObjectMissing`."""

    @abstractmethod
    def read_range(self, path: str, start: int, length: int) -> bytes:
        """Return `length` bytes from `start` on, fewer if the object ends before. Raises `ObjectMissing`."""

    def read_into(self, path: str, start: int, target: memoryview) -> int:
        """Fill `target` with the bytes from `start` on.

        Returns:
            The number of bytes read, less than the size of `target` only if the object ends before.

        Raises:
            ObjectMissing: There is no such object.
        """
        data = self.read_range(path, start, len(target))
        target[: len(data)] = data
        return len(data)

    def read_many(self, paths: Sequence[str]) -> list[bytes | None]:
        """Return all bytes of many objects in the order of `paths`, and None for a missing one.

        Remote stores fetch them in parallel.
        """
        return [self._read_or_none(path) for path in paths]

    def create(self, path: str, data: bytes) -> bool:
        """Put an object where none is: durable and exclusive.

        Args:
            path: Where to put it.
            data: Its bytes. They hold something that no other writer has (a random token): a writer that finds its own
                bytes under the path has won, even if the reply that said so was lost.

        Returns:
            True if the object is there with exactly these bytes, False if there is another one.

        Raises:
            StorageUnavailable: It is not known whether the object was put.
            StorageFull: It was not put, because there is no space.
        """
        if not data:
            raise InvalidArgument(f"{path}: an empty object cannot be created exclusively. Give it at least a token.")
        return self._create(checked(path), data)

    @abstractmethod
    def _create(self, path: str, data: bytes) -> bool: ...

    @abstractmethod
    def replace(self, path: str, data: bytes) -> None:
        """Put an object, over an older one if there is one: durable and atomic. Raises `StorageFull`."""

    def writer(self, path: str, *, read_soon: bool = True) -> ObjectWriter:
        """Return a writer for the object at `path`, which replaces an older one when it is closed.

        Object stores hold the object in memory and send it in one request on `close`: at most 64 MB.

        Args:
            path: The path of the object.
            read_soon: Whether the object is worth a place in the cache of the operating system. Default: True.
        """
        return BufferedWriter(self.replace, checked(path))

    def appender(self, path: str) -> Appender | None:
        """Create a file at `path` and return an appender to it. Readers see what was appended so far.

        Returns:
            The appender; None if files of this location cannot grow.
        """
        return None

    def resize(self, path: str, size: int) -> None:
        """Make a file of this many arbitrary bytes, which take space on the disk, out of the one that may be there.

        It is not durable. Only locations with `is_local` can do this.

        Raises:
            StorageFull: There is no space for so many. The file has as many as there is space for.
        """
        raise UnsupportedStorage(f"{self.url}: objects cannot be resized here.")

    def locks(self, path: str) -> ByteLocks | None:
        """Return locks between the processes that use this location, on a file at `path`; None if there are none."""
        return None

    def leftovers(self) -> list[ObjectInfo]:
        """Return the temporary files, of which some may still be in use. `delete` takes their paths."""
        return []

    def list(self, prefix: str) -> list[ObjectInfo]:
        """Return all objects below the folder `prefix`, at any depth, sorted by path.

        A listing is no snapshot: an object created or deleted meanwhile may or may not be in it.

        Args:
            prefix: The folder, or `""` for everything. Temporary files are left out.
        """
        found = self._objects(checked(prefix) if prefix else "")
        return sorted((info for info in found if not is_temporary(info.path)), key=attrgetter("path"))

    @abstractmethod
    def _objects(self, folder: str) -> Iterator[ObjectInfo]:
        """Yield everything below a folder, temporary files too, in any order."""

    @abstractmethod
    def size(self, path: str) -> int | None:
        """Return the size of an object in bytes, None if it is missing."""

    @abstractmethod
    def delete(self, paths: Iterable[str]) -> None:
        """Delete objects. One that is missing already is fine."""

    def is_empty(self) -> bool:
        """Return whether nothing is here. A missing directory is empty; probes and leftovers do not count."""
        return all(is_temporary(found.path) or _PROBE.fullmatch(found.path) for found in self._objects(""))

    def prove_exclusive(self) -> None:
        """Prove that `create` is exclusive here: several threads race for one probe object.

        Raises:
            UnsupportedStorage: It is not: two writers could overwrite each other.
        """
        path = f"probe/{secrets.token_hex(16)}"

        def claim(_: object) -> bool:
            return self.create(path, secrets.token_bytes(16))

        with ThreadPoolExecutor(_CONTENDERS) as contenders:
            # One more afterwards: a store may be exclusive only among requests that overlap.
            claims = [*contenders.map(claim, range(_CONTENDERS)), claim(None)]
        # A writer without the right to delete leaves the probe behind.
        with contextlib.suppress(PermissionDenied):
            self.delete([path])
        if claims.count(True) != 1 or claims[-1]:
            raise UnsupportedStorage(
                f"{self.url} let {claims.count(True)} of {len(claims)} writers create the same object, so that writers "
                "could overwrite each other. Use a store that supports conditional writes, or pass single_writer=True "
                "if never more than one process writes at a time."
            )

    def _read_or_none(self, path: str) -> bytes | None:
        try:
            return self.read(path)
        except ObjectMissing:
            return None

    def _where(self, path: str) -> str:
        """Return what messages call an object, or with an empty path the location itself."""
        return f"{self.url}/{path}" if path else self.url

    def _without_secrets(self, error: E) -> E:
        """Mask secrets in the message of an error."""
        error.args = tuple(self._hide(arg) if isinstance(arg, str) else arg for arg in error.args)
        return error

    def _harmless(self, error: BaseException) -> BaseException | None:
        """Return an error to name as a cause, or None if it or one of its own causes shows a secret."""
        seen: BaseException | None = error
        while seen is not None:
            if self._hide(said := f"{seen} {seen!r}") != said:
                return None
            seen = seen.__cause__ or seen.__context__
        return error


class BufferedWriter(ObjectWriter):
    """Collect an object in memory, and hand it to `put` as a whole."""

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
    """Return one buffer, or several, as a sequence."""
    return [buffers] if isinstance(buffers, Buffer) else buffers


def closed(path: str) -> InvalidArgument:
    """Return the error for a write after `close`."""
    return InvalidArgument(f"{path} is closed: nothing can be written to it any more.")


def checked(path: str, temporary: bool = False) -> str:
    """Return a path that stays inside the location.

    Args:
        path: The path. Every segment begins with a letter, a digit or `_`.
        temporary: Whether the path of a temporary file is fine, too. Default: False.

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
    """Return whether a path is that of a temporary file."""
    return path.rpartition("/")[2].startswith(".tmp-")
