"""Store objects in the memory of this process, for tests and examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ...errors import ObjectMissing
from .interface import Location, ObjectInfo, checked


class MemoryLocation(Location):
    """A prefix in fsspec's memory store, which all threads of this process share. It is lost when the process ends."""

    def __init__(self, protocol: str, place: str, storage_options: Mapping[str, Any]) -> None:
        place = "/".join(part for part in place.split("/") if part)
        super().__init__("memory", place, storage_options)
        from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

        self._root = f"/{place}/"
        self._store: dict[str, Any] = MemoryFileSystem.store
        self._file: Callable[..., Any] = MemoryFile

    def read(self, path: str) -> bytes:
        self.requests.add("GET")
        found = self._store.get(self._root + checked(path))
        if found is None:
            raise ObjectMissing(f"{self._where(path)}: there is no such object.")
        data: bytes = found.getvalue()
        return data

    def read_range(self, path: str, start: int, length: int) -> bytes:
        return self.read(path)[start : start + length]

    def _create(self, path: str, data: bytes) -> bool:
        self.requests.add("PUT")
        # The setdefault of a dict is atomic, but no method of fsspec's file system is.
        kept: bytes = self._store.setdefault(self._root + path, self._file(None, self._root + path, data)).getvalue()
        return kept == data

    def replace(self, path: str, data: bytes) -> None:
        self.requests.add("PUT")
        self._store[self._root + checked(path)] = self._file(None, self._root + path, data)

    def _objects(self, folder: str) -> Iterator[ObjectInfo]:
        self.requests.add("LIST")
        below = f"{self._root}{folder}/" if folder else self._root
        # To copy a dict is atomic. To list its items is not: garbage may be collected, so that other threads run.
        for name, file in self._store.copy().items():
            if name.startswith(below):
                # getvalue() returns the bytes without a copy; reading them from the file would copy them.
                size = len(file.getvalue())
                yield ObjectInfo(name.removeprefix(self._root), size, file.modified.timestamp())

    def size(self, path: str) -> int | None:
        self.requests.add("HEAD")
        found = self._store.get(self._root + checked(path))
        return None if found is None else len(found.getvalue())

    def delete(self, paths: Iterable[str]) -> None:
        for path in paths:
            self.requests.add("DELETE")
            self._store.pop(self._root + checked(path), None)
