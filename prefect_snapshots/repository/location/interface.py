"""The narrow interface of every location, and the words that it uses."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from types import MappingProxyType
from typing import Any

from ...errors import InvalidArgument, ObjectMissing
from . import proof
from .counting import Requests
from .paths import checked, is_temporary
from .writing import Buffer, BufferedWriter, ObjectWriter


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object in a listing: its path, its size in bytes, and when it was written.

    `modified` is in seconds since 1970 by the clock of the store, not of this machine.
    """

    path: str
    size: int
    modified: float


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
    `StorageError` for any other failure of the store, `InvalidArgument` when the options do not make a client, and
    `InvalidName` for a path that leads out of the location.

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
        self._protocol = protocol
        self._place = place
        self.url = without_password(f"{protocol}://{place}")
        self.storage_options = MappingProxyType(dict(storage_options))
        self.requests = Requests()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def __reduce__(self) -> tuple[type[Location], tuple[str, str, dict[str, Any]]]:
        return type(self), (self._protocol, self._place, dict(self.storage_options))

    @abstractmethod
    def read(self, path: str) -> bytes:
        """All bytes of an object. Raises `ObjectMissing`."""

    @abstractmethod
    def read_range(self, path: str, start: int, length: int) -> bytes:
        """`length` bytes from `start` on, fewer where the object ends. Raises `ObjectMissing`."""

    def read_into(self, path: str, start: int, target: memoryview) -> int:
        """Fill `target` with the bytes from `start` on.

        Returns:
            The number of bytes read, less than the size of `target` only where the object ends.

        Raises:
            ObjectMissing: There is no such object.
        """
        data = self.read_range(path, start, len(target))
        target[: len(data)] = data
        return len(data)

    def read_many(self, paths: Sequence[str]) -> list[bytes | None]:
        """All bytes of many objects in the order of `paths`; None for a missing one. Fetched side by side from afar."""
        return [self._read_or_none(path) for path in paths]

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
        return self._create(checked(path), data)

    @abstractmethod
    def _create(self, path: str, data: bytes) -> bool: ...

    @abstractmethod
    def replace(self, path: str, data: bytes) -> None:
        """Put an object, over an older one if there is one: durable and atomic. Raises `StorageFull`."""

    def writer(self, path: str, *, read_soon: bool = True) -> ObjectWriter:
        """A writer for the object under `path`, which replaces an older one when it is closed.

        On object stores it is held in memory and sent in one request on `close`: at most 64 MB.

        Arguments:
            path: of the object.
            read_soon: whether it is worth a place in the cache of the system.
        """
        return BufferedWriter(self.replace, checked(path))

    def appender(self, path: str) -> Appender | None:
        """Begin a new file under `path` and append to it: readers see what is there so far. None: not possible here."""
        return None

    def locks(self, path: str) -> ByteLocks | None:
        """Locks between the processes that use this location, on a file at `path`. None: not to be had here."""
        return None

    def leftovers(self) -> list[ObjectInfo]:
        """Temporary files, of which some may still be in use. `delete` takes their paths."""
        return []

    def list(self, prefix: str) -> list[ObjectInfo]:
        """All objects below the folder `prefix` (`""` for all there are), at any depth, sorted by path.

        Temporary files are left out. A listing is no snapshot: an object created or deleted meanwhile may or may not
        be in it.
        """
        found = self._objects(checked(prefix) if prefix else "")
        return sorted((info for info in found if not is_temporary(info.path)), key=attrgetter("path"))

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
        return all(is_temporary(found.path) or proof.is_probe(found.path) for found in self._objects(""))

    def prove_exclusive(self) -> None:
        """Prove that `create` is exclusive here, by racing for one probe object.

        Raises:
            UnsupportedStorage: It is not: two writers could overwrite each other.
        """
        proof.race(self)

    def _read_or_none(self, path: str) -> bytes | None:
        try:
            return self.read(path)
        except ObjectMissing:
            return None

    def _where(self, path: str) -> str:
        """What messages call an object, or with an empty path the location itself."""
        return f"{self.url}/{path}" if path else self.url


def without_password(url: str) -> str:
    """A URL that may be shown."""
    return re.sub(r"(?<=://)([^/@:]*):[^/@]*@", r"\1@", url)
