"""The base class of locations in object stores: a bucket, keys below a prefix, and an asynchronous client from fsspec.

It uses only the calls of the client, with one request each. The file operations of fsspec make additional requests, and
use caches, which may be out of date.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import random
import time
from abc import abstractmethod
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from ...errors import InvalidArgument, MissingDependency, ObjectMissing, SnapshotsError, StorageUnavailable
from .clients import BeyondEnd, Contended, Exists, PerProcess, blaming_options
from .interface import Location, ObjectInfo, checked

T = TypeVar("T")

PARALLEL = 16
"""The most requests at the same time. More do not read small objects faster."""
ATTEMPTS = 8
"""The most attempts of a request that may succeed later, with pauses of up to 2 s. They take about 8 s in total, which
is enough for a short outage."""
_BATCH = 1000  # the most that S3 deletes in one request


async def at_once(requests: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return the answers to many requests in order. At most `PARALLEL` are sent at the same time."""
    free = asyncio.Semaphore(PARALLEL)

    async def one(request: Coroutine[Any, Any, T]) -> T:
        async with free:
            return await request

    return await asyncio.gather(*map(one, requests))


class ObjectStoreLocation(Location):
    """A prefix in a bucket. Each kind of store implements the abstract methods."""

    _scheme: str
    _package: str
    _extra: str

    @abstractmethod
    def _connect(self) -> Any:
        """Return a new client."""

    @abstractmethod
    async def _get(self, client: Any, key: str, span: str | None) -> bytes:
        """Return the bytes of an object, or of a span `first-last` (both included)."""

    @abstractmethod
    async def _put(self, client: Any, key: str, data: bytes, exclusive: bool) -> None: ...

    @abstractmethod
    async def _page(self, client: Any, prefix: str, token: str | None) -> tuple[list[ObjectInfo], str | None]:
        """Return some of the objects whose keys start with `prefix`, and a token for the next page."""

    @abstractmethod
    async def _size(self, client: Any, key: str) -> int: ...

    @abstractmethod
    async def _delete(self, client: Any, keys: list[str]) -> None: ...

    @abstractmethod
    def _meaning(self, error: Exception, where: str) -> SnapshotsError:
        """Convert an error of the client to one of our errors."""

    # --- common to all of them

    def __init__(self, protocol: str, place: str, storage_options: Mapping[str, Any]) -> None:
        place = place.strip("/")
        super().__init__(self._scheme, place, storage_options)
        if "?" in place or "#" in place:
            raise InvalidArgument(
                f"{self.url}: the URL of a bucket cannot have options after '?' or '#'. Pass them as storage_options."
            )
        self._bucket, _, folder = place.partition("/")
        self._root = f"{folder}/" if folder else ""
        try:
            importlib.import_module(self._package)
        except ImportError as error:
            raise MissingDependency(
                f'{self.url} needs the package {self._package}. Run `pip install "prefect-snapshots[{self._extra}]"`.'
            ) from error
        self._client = PerProcess(self._connect)

    def read(self, path: str) -> bytes:
        return self._run(path, self._get, self._key(path), None)

    def read_range(self, path: str, start: int, length: int) -> bytes:
        key = self._key(path)
        if not length:
            return b""
        try:
            return self._run(path, self._get, key, f"{start}-{start + length - 1}")
        except BeyondEnd:
            return b""

    def read_many(self, paths: Sequence[str]) -> list[bytes | None]:
        keys = [self._key(path) for path in paths]

        async def gather(client: Any) -> list[bytes | None]:
            async def get(path: str, key: str) -> bytes | None:
                try:
                    with self._errors(path):
                        return await self._get(client, key, None)
                except ObjectMissing:
                    return None

            return await at_once(map(get, paths, keys))

        return self._run("", gather)

    def _create(self, path: str, data: bytes) -> bool:
        key = self._key(path)
        for attempt in range(ATTEMPTS):
            try:
                self._run(path, self._put, key, data, True)
                return True
            except Exists:
                # It may be our own object: if the reply to a request was lost, its retry looks like a lost race.
                found = self._read_or_none(path)
            except Contended:
                found = None
            except StorageUnavailable:
                found = self._read_or_none(path)
                if found is None:
                    raise
            if found is not None:
                return found == data
            time.sleep(random.uniform(0.5, 1) * min(0.05 * 2**attempt, 2))
        raise StorageUnavailable(f"{self._where(path)}: {ATTEMPTS} attempts conflicted with other writers. Try again.")

    def replace(self, path: str, data: bytes) -> None:
        self._run(path, self._put, self._key(path), data, False)

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
            # Some consoles create empty objects for folders, and so does SeaweedFS after a deletion.
            yield from (info for info in page if not info.path.endswith("/"))
            if token is None:
                return

    def _key(self, path: str) -> str:
        return self._root + checked(path)

    def _info(self, key: str, size: int, modified: datetime) -> ObjectInfo:
        return ObjectInfo(key.removeprefix(self._root), size, modified.timestamp())

    def _run(self, path: str, operation: Callable[..., Coroutine[Any, Any, T]], *arguments: Any) -> T:
        """Run a coroutine on fsspec's event loop, and wait for it."""
        from fsspec.asyn import sync

        with self._errors(path):
            with blaming_options(self.url, self._hide):
                client = self._client()
            result: T = sync(client.loop, operation, client, *arguments)
        return result

    @contextlib.contextmanager
    def _errors(self, path: str) -> Iterator[None]:
        """Convert errors of the client to our errors, without the secrets that clients include in their messages."""
        try:
            yield
        except SnapshotsError:
            raise
        except Exception as error:
            meant = self._meaning(error, self._where(path))
            raise self._without_secrets(meant) from self._harmless(error)
