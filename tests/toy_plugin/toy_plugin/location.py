"""A location that keeps every object in one directory, under an encoded name. It uses public names alone."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from prefect_snapshots.errors import ObjectMissing
from prefect_snapshots.repository.location import Location, ObjectInfo, checked


class ToyLocation(Location):
    """A toy location: `toys:///path`."""

    def __init__(self, protocol: str, place: str, storage_options: Mapping[str, Any]) -> None:
        super().__init__(protocol, place, storage_options)
        self._folder = Path(place)

    def read(self, path: str) -> bytes:
        self.requests.add("GET")
        try:
            return self._file(path).read_bytes()
        except FileNotFoundError as error:
            raise ObjectMissing(f"{self.url}/{path}: there is no such object.") from error

    def read_range(self, path: str, start: int, length: int) -> bytes:
        return self.read(path)[start : start + length]

    def _create(self, path: str, data: bytes) -> bool:
        self.requests.add("PUT")
        with self._written(data) as new, contextlib.suppress(FileExistsError):
            os.link(new, self._file(path))
            return True
        return self._file(path).read_bytes() == data

    def replace(self, path: str, data: bytes) -> None:
        self.requests.add("PUT")
        file = self._file(path)
        with self._written(data) as new:
            os.link(new, beside := f"{new}2")
            os.replace(beside, file)

    def _objects(self, folder: str) -> Iterator[ObjectInfo]:
        self.requests.add("LIST")
        below = f"{folder}/" if folder else ""
        for file in self._folder.glob("*.object"):
            path = unquote(file.stem)
            if path.startswith(below):
                status = file.stat()
                yield ObjectInfo(path, status.st_size, status.st_mtime)

    def size(self, path: str) -> int | None:
        self.requests.add("HEAD")
        file = self._file(path)
        return file.stat().st_size if file.exists() else None

    def delete(self, paths: Iterable[str]) -> None:
        for path in paths:
            self.requests.add("DELETE")
            self._file(path).unlink(missing_ok=True)

    def _file(self, path: str) -> Path:
        return self._folder / f"{quote(checked(path), safe='')}.object"

    @contextlib.contextmanager
    def _written(self, data: bytes) -> Iterator[Path]:
        self._folder.mkdir(parents=True, exist_ok=True)
        new = self._folder / secrets.token_hex(8)
        new.write_bytes(data)
        try:
            yield new
        finally:
            new.unlink()
