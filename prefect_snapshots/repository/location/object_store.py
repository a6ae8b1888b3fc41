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

from ...errors import (
    InvalidArgument,
    MissingDependency,
    ObjectMissing,
    PermissionDenied,
    SnapshotsError,
    StorageUnavailable,
)
from . import object_locks
from .clients import BeyondEnd, Contended, Exists, PerProcess, blaming_options
from .interface import Location, ObjectInfo, checked
from .object_locks import ObjectLock, ObjectVersion

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
    """A prefix in a bucket. Each kind of store implements the abstract methods.

    Options beside those of the client: `object_lock_days` and `object_lock_mode` lock new objects. `as_of`, a time,
    shows the bucket as it was then; nothing can be written. Both need a bucket with versioning.
    """

    _scheme: str
    _package: str
    _extra: str

    @abstractmethod
    def _connect(self) -> Any:
        """Return a new client."""

    @abstractmethod
    async def _get(self, client: Any, key: str, span: str | None, version: str | None) -> bytes:
        """Return the bytes of an object, or of a span `first-last` (both included).

        `version` is None, or the id of an older version.
        """

    @abstractmethod
    async def _put(self, client: Any, key: str, data: bytes, exclusive: bool) -> None:
        """Store an object, with the lock `self._lock` if there is one."""

    @abstractmethod
    async def _page(self, client: Any, prefix: str, token: str | None) -> tuple[list[ObjectInfo], str | None]:
        """Return some of the objects whose keys start with `prefix`, and a token for the next page."""

    @abstractmethod
    async def _size(self, client: Any, key: str) -> int: ...

    @abstractmethod
    async def _delete(self, client: Any, keys: list[str]) -> None: ...

    @abstractmethod
    async def _versions(self, client: Any, moment: datetime) -> dict[str, ObjectVersion]:
        """Return the versions of all objects at some time, by their keys."""

    @abstractmethod
    async def _lock_end(self, client: Any, key: str) -> datetime | None:
        """Return when the lock of an object ends, or None if it has none."""

    @abstractmethod
    async def _extend(self, client: Any, key: str, lock: ObjectLock) -> None:
        """Give an object a lock that begins now."""

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
        self._lock = ObjectLock.of(storage_options)
        self._as_of = object_locks.as_of(storage_options)
        self._past: dict[str, ObjectVersion] | None = None

    def read(self, path: str) -> bytes:
        key = self._key(path)
        return self._run(path, self._get, key, None, self._version(key))

    def read_range(self, path: str, start: int, length: int) -> bytes:
        key = self._key(path)
        if not length:
            return b""
        try:
            return self._run(path, self._get, key, f"{start}-{start + length - 1}", self._version(key))
        except BeyondEnd:
            return b""

    def read_many(self, paths: Sequence[str]) -> list[bytes | None]:
        keys = [self._key(path) for path in paths]
        self._then()  # now, because the event loop cannot wait for itself

        async def gather(client: Any) -> list[bytes | None]:
            async def get(path: str, key: str) -> bytes | None:
                try:
                    with self._errors(path):
                        return await self._get(client, key, None, self._version(key))
                except ObjectMissing:
                    return None

            return await at_once(map(get, paths, keys))

        return self._run("", gather)

    def _create(self, path: str, data: bytes) -> bool:
        key = self._key(path)
        self._refuse_past()
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
        self._refuse_past()
        self._run(path, self._put, self._key(path), data, False)

    def size(self, path: str) -> int | None:
        key = self._key(path)
        if self._as_of is not None:
            found = self._then().get(key)
            return None if found is None else found.size
        try:
            return self._run(path, self._size, key)
        except ObjectMissing:
            return None

    def delete(self, paths: Iterable[str]) -> None:
        self._refuse_past()
        keys = [self._key(path) for path in paths]
        for first in range(0, len(keys), _BATCH):
            self._run("", self._delete, keys[first : first + _BATCH])

    def extend_locks(self) -> int:
        """Extend the lock of every object whose lock may end soon, and return how many were extended.

        The lock of each object is looked up. Its time does not tell that it is locked: whoever stole a key may have
        stored it again without a lock, so that the locked version behind it would be the last one.

        Raises:
            InvalidArgument: There is no option `object_lock_days`.
        """
        lock = self._lock
        if lock is None:
            raise InvalidArgument(f"{self.url} was opened without object_lock_days. Add it to storage_options.")
        self._refuse_past()
        keys = [self._root + info.path for info in self._objects("")]

        async def extend(client: Any, key: str) -> bool:
            with contextlib.suppress(FileNotFoundError):  # a prune has deleted it since
                if lock.ends_soon(await self._lock_end(client, key)):
                    await self._extend(client, key, lock)
                    return True
            return False

        async def extend_all(client: Any) -> list[bool]:
            return await at_once(extend(client, key) for key in keys)

        return sum(self._run("", extend_all))

    def _then(self) -> dict[str, ObjectVersion]:
        """Return the versions at the time `as_of`. Without it, there are none."""
        if self._past is None:
            self._past = {} if self._as_of is None else self._run("", self._versions, self._as_of)
        return self._past

    def _version(self, key: str) -> str | None:
        """Return the id of the version to read, or None for the current one."""
        if self._as_of is None:
            return None
        found = self._then().get(key)
        if found is None:
            raise ObjectMissing(f"{self.url}: {key} did not exist at {self._as_of.isoformat()}.")
        return found.id

    def _refuse_past(self) -> None:
        if self._as_of is not None:
            raise PermissionDenied(
                f"{self.url} is shown as it was at {self._as_of.isoformat()}, so nothing can be written. Leave out "
                "as_of, or copy the repository to another place."
            )

    def _objects(self, folder: str) -> Iterator[ObjectInfo]:
        prefix = self._key(folder) + "/" if folder else self._root
        token = None
        while True:
            if self._as_of is None:
                page, token = self._run(folder, self._page, prefix, token)
            else:
                there = self._then().items()
                page = [self._info(key, one.size, one.modified) for key, one in there if key.startswith(prefix)]
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
