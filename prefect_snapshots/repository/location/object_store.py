"""What object stores have in common: a bucket, keys below a prefix, and an asynchronous client from fsspec.

Only the client's own calls are used, one request each, because fsspec's file operations look things up before they
act: that costs requests, and looks into caches.
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

from ...errors import MissingDependency, ObjectMissing, SnapshotsError, StorageUnavailable
from .answers import BeyondEnd, Contended, Exists
from .clients import PerProcess, blaming_options
from .interface import Location, ObjectInfo
from .paths import checked

T = TypeVar("T")

PARALLEL = 16
ATTEMPTS = 8
_BATCH = 1000  # the most that S3 deletes in one request


class ObjectStoreLocation(Location):
    """A prefix in a bucket. What follows is asked of each kind of store."""

    _scheme: str
    _package: str
    _extra: str

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
    def _translated(self, error: Exception, where: str) -> SnapshotsError:
        """What an error of the client means."""

    # --- the rest is common to all of them

    def __init__(self, protocol: str, place: str, storage_options: Mapping[str, Any]) -> None:
        place = place.strip("/")
        super().__init__(self._scheme, place, storage_options)
        self._bucket, _, folder = place.partition("/")
        self._root = f"{folder}/" if folder else ""
        try:
            importlib.import_module(self._package)
        except ImportError as error:
            raise MissingDependency(
                f'{self.url} needs the package {self._package}: pip install "prefect-snapshots[{self._extra}]"'
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
            free = asyncio.Semaphore(PARALLEL)

            async def get(path: str, key: str) -> bytes | None:
                async with free:
                    try:
                        with self._errors(path):
                            return await self._get(client, key, None)
                    except ObjectMissing:
                        return None

            return await asyncio.gather(*map(get, paths, keys))

        return self._run("", gather)

    def _create(self, path: str, data: bytes) -> bool:
        key = self._key(path)
        for attempt in range(ATTEMPTS):
            try:
                self._run(path, self._put, key, data, True)
                return True
            except Exists:
                # Perhaps by us: a retry of a request whose reply was lost looks like a lost race.
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
        raise StorageUnavailable(f"{self._where(path)}: other writers were in the way {ATTEMPTS} times. Try again.")

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
            # Some consoles, and SeaweedFS after a deletion, keep empty objects that stand for folders.
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
            with blaming_options(self.url):
                client = self._client()
            result: T = sync(client.loop, operation, client, *arguments)
        return result

    @contextlib.contextmanager
    def _errors(self, path: str) -> Iterator[None]:
        """Turn what the client says into one of our errors."""
        try:
            yield
        except SnapshotsError:
            raise
        except Exception as error:
            raise self._translated(error, self._where(path)) from error
