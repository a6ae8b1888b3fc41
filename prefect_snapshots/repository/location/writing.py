"""Writing one object piece by piece, and the writer for stores that take an object in one request only."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeAlias

from ...errors import InvalidArgument

Buffer: TypeAlias = bytes | bytearray | memoryview


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


class BufferedWriter(ObjectWriter):
    """Collects an object in memory, and hands it to `put` as a whole."""

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
    """One buffer, or several, as several."""
    return [buffers] if isinstance(buffers, Buffer) else buffers


def closed(path: str) -> InvalidArgument:
    """What to raise when something is written after the end."""
    return InvalidArgument(f"{path} is closed: nothing can be written to it any more.")
