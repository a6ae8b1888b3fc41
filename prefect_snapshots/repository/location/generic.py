"""Store objects in any other file system of fsspec, for a single writer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from ...errors import (
    InvalidArgument,
    MissingDependency,
    ObjectMissing,
    SnapshotsError,
    StorageError,
    UnsupportedStorage,
)
from .clients import NO_CACHES, PerProcess, blaming_options
from .files import os_error
from .interface import Location, ObjectInfo, checked
from .scheme_names import similar_scheme


class GenericLocation(Location):
    """Any other file system of fsspec. These cannot create objects exclusively, so only a single writer may use them.

    Whether writes are durable and atomic depends on the file system.
    """

    def __init__(self, protocol: str, place: str, storage_options: Mapping[str, Any]) -> None:
        super().__init__(protocol, place.rstrip("/"), storage_options)
        import fsspec

        try:
            fsspec.get_filesystem_class(protocol)
        except ImportError as error:
            raise MissingDependency(
                f"No file system for {protocol}:// URLs can be imported ({error}). Install the package, then try again."
            ) from error
        except ValueError as error:
            raise InvalidArgument(
                f"No storage is known for {protocol}:// URLs.{similar_scheme(protocol)} Pass a directory, an s3://, "
                "gs:// or memory:// URL, or the URL of another file system of fsspec, whose package has to be "
                "installed."
            ) from error
        self._files = PerProcess(self._connect)

    def read(self, path: str) -> bytes:
        self.requests.add("GET")
        with self._named(path) as (files, name):
            return bytes(files.cat_file(name))

    def read_range(self, path: str, start: int, length: int) -> bytes:
        self.requests.add("GET")
        with self._named(path) as (files, name):
            return bytes(files.cat_file(name, start=start, end=start + length))

    def _create(self, path: str, data: bytes) -> bool:
        found = self._read_or_none(path)
        if found is None:
            self.replace(path, data)
        return found is None or found == data

    def replace(self, path: str, data: bytes) -> None:
        self.requests.add("PUT")
        with self._named(path) as (files, name):
            files.makedirs(name.rpartition("/")[0], exist_ok=True)
            files.pipe_file(name, data)

    def size(self, path: str) -> int | None:
        self.requests.add("HEAD")
        try:
            with self._named(path) as (files, name):
                found = files.info(name)
        except ObjectMissing:
            return None
        return int(found["size"]) if found["type"] == "file" else None

    def delete(self, paths: Iterable[str]) -> None:
        for path in paths:
            self.requests.add("DELETE")
            with contextlib.suppress(ObjectMissing), self._named(path) as (files, name):
                files.rm_file(name)

    def prove_exclusive(self) -> None:
        raise UnsupportedStorage(
            f"{self.url}: this kind of storage cannot create an object exclusively, so that writers could overwrite "
            "each other. Use a directory, S3 or Google Cloud Storage, or pass single_writer=True if at most "
            "one process writes at a time."
        )

    def _objects(self, folder: str) -> Iterator[ObjectInfo]:
        self.requests.add("LIST")
        try:
            with self._named(folder) as (files, name):
                found = files.find(name, detail=True)
        except ObjectMissing:
            return
        _, root = self._files()
        for name, info in found.items():
            modified = info.get("mtime") or info.get("LastModified") or info.get("created") or 0.0
            seconds = modified.timestamp() if isinstance(modified, datetime) else float(modified)
            yield ObjectInfo(name.removeprefix(f"{root}/"), info["size"], seconds)

    @contextlib.contextmanager
    def _named(self, path: str) -> Iterator[tuple[Any, str]]:
        """Yield the file system and its own path of an object. For an empty path, that of the location."""
        where = self._where(checked(path) if path else "")
        try:
            files, root = self._files()
            yield files, f"{root}/{path}" if path else root
        except SnapshotsError:
            raise
        except OSError as error:
            meant: StorageError = os_error(error, where)
            raise self._without_secrets(meant) from self._harmless(error)
        except Exception as error:
            # Some file systems, such as FTP, raise their own types of errors.
            reason = f"{type(error).__name__}: {error}".rstrip(".: ")
            meant = StorageError(f"{where}: {reason}. Check the URL and storage_options.")
            raise self._without_secrets(meant) from self._harmless(error)

    def _connect(self) -> tuple[Any, str]:
        """Return the file system and its own path of this location."""
        import fsspec

        target = f"{self._protocol}://{self._place}"
        with blaming_options(self.url, self._hide):
            files, root = fsspec.core.url_to_fs(target, **{**self.storage_options, **NO_CACHES})
        return files, root.rstrip("/")
