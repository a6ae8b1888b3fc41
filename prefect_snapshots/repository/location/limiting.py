"""Limit the rate of writes to a location, so that uploads leave bandwidth for others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from ...errors import InvalidArgument
from ..threads import Lock
from .interface import Appender, Buffer, ByteLocks, Location, ObjectInfo, ObjectWriter, several


class Rate:
    """Limits how fast all threads of a process together send bytes. Unused time does not allow a later burst.

    Args:
        limit: Bytes per second.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._free_at = 0.0
        self._lock = Lock()

    def count(self, size: int) -> float:
        """Count bytes, and return how many seconds the sender must wait for bytes that were counted earlier."""
        with self._lock:
            now = time.monotonic()
            free_at = max(self._free_at, now)
            self._free_at = free_at + size / self.limit
            return free_at - now

    def wait(self, buffers: Buffer | Sequence[Buffer]) -> None:
        """Wait until the buffers may be sent."""
        time.sleep(self.count(sum(len(memoryview(buffer).cast("B")) for buffer in several(buffers))))


class LimitedLocation(Location):
    """A location that writes packs and logs at a limited rate.

    Small objects, such as events and locks, are counted but do not wait, because other processes may wait for them.

    Args:
        inner: The location that is written to.
        limit: Bytes per second, for all threads of this process together.
    """

    def __init__(self, inner: Location, limit: float) -> None:
        if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit >= 1:
            raise InvalidArgument(
                f"limit_upload must be a positive number of bytes a second, at least 1, not {limit!r}."
            )
        super().__init__(inner._protocol, inner._place, inner.storage_options)
        self.url = inner.url
        self.requests = inner.requests
        self.is_local, self.appends = inner.is_local, inner.appends
        self._inner = inner
        self._rate = Rate(limit)

    def __reduce__(self) -> tuple[Callable[..., Location], tuple[Location, float]]:  # type: ignore[override]
        return LimitedLocation, (self._inner, self._rate.limit)

    @property
    def limit(self) -> float:
        """The rate in bytes per second."""
        return self._rate.limit

    # --- writing ------------------------------------------------------------------------------------------------

    def create(self, path: str, data: bytes) -> bool:
        self._rate.count(len(data))
        return self._inner.create(path, data)

    def _create(self, path: str, data: bytes) -> bool:
        return self._inner._create(path, data)

    def replace(self, path: str, data: bytes) -> None:
        self._rate.count(len(data))
        self._inner.replace(path, data)

    def put(self, path: str, data: bytes, *, durable: bool = True) -> None:
        self._rate.count(len(data))
        self._inner.put(path, data, durable=durable)

    def writer(self, path: str, *, read_soon: bool = True) -> ObjectWriter:
        return _LimitedWriter(self._inner.writer(path, read_soon=read_soon), self._rate)

    def appender(self, path: str) -> Appender | None:
        appender = self._inner.appender(path)
        return None if appender is None else _LimitedAppender(appender, self._rate)

    # --- everything else ----------------------------------------------------------------------------------------

    def read(self, path: str) -> bytes:
        return self._inner.read(path)

    def read_range(self, path: str, start: int, length: int) -> bytes:
        return self._inner.read_range(path, start, length)

    def read_into(self, path: str, start: int, target: memoryview) -> int:
        return self._inner.read_into(path, start, target)

    def read_many(self, paths: Sequence[str]) -> list[bytes | None]:
        return self._inner.read_many(paths)

    def resize(self, path: str, size: int) -> None:
        self._inner.resize(path, size)

    def locks(self, path: str) -> ByteLocks | None:
        return self._inner.locks(path)

    def leftovers(self) -> list[ObjectInfo]:
        return self._inner.leftovers()

    def _objects(self, folder: str) -> Iterator[ObjectInfo]:
        return self._inner._objects(folder)

    def size(self, path: str) -> int | None:
        return self._inner.size(path)

    def delete(self, paths: Iterable[str]) -> None:
        self._inner.delete(paths)

    def extend_locks(self) -> int:
        return self._inner.extend_locks()

    def is_empty(self) -> bool:
        return self._inner.is_empty()

    def prove_exclusive(self) -> None:
        self._inner.prove_exclusive()


class _LimitedWriter(ObjectWriter):
    def __init__(self, inner: ObjectWriter, rate: Rate) -> None:
        self._inner, self._rate = inner, rate

    def write(self, buffers: Buffer | Sequence[Buffer]) -> None:
        self._rate.wait(buffers)
        self._inner.write(buffers)

    def close(self) -> None:
        self._inner.close()

    def abort(self) -> None:
        self._inner.abort()


class _LimitedAppender(Appender):
    def __init__(self, inner: Appender, rate: Rate) -> None:
        self._inner, self._rate = inner, rate

    def append(self, buffers: Buffer | Sequence[Buffer]) -> None:
        self._rate.wait(buffers)
        self._inner.append(buffers)

    def close(self) -> None:
        self._inner.close()

    def abort(self) -> None:
        self._inner.abort()
