"""Files that are not in a repository: their sizes, and what identifies their content."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

from ...errors import InvalidArgument, MissingDependency, ObjectMissing, SnapshotsError, StorageError
from ...redaction import safe_url
from .clients import free_fsspec_in_children
from .schemes import refuse_missing_slash

_SCHEMES = ("file", "memory", "s3", "gs", "gcs", "az", "abfs", "http", "https")
_URL = re.compile(rf"(?:{'|'.join(_SCHEMES)})://[^\x00-\x1f\x7f]+")
"""The URLs that may be read. Others of fsspec read other files, or unpack archives, and are not what they seem."""
_CHECKS = {
    "version": ("VersionId", "version_id", "generation"),
    "etag": ("ETag", "etag", "md5Hash", "content_md5"),
    "modified": ("mtime", "LastModified", "last_modified", "updated", "modified", "created"),
}
"""What identifies the content of a file, the best first, and under which names file systems return it."""


class FileElsewhere(NamedTuple):
    """A file.

    Attributes:
        path: Its path below the URL. Empty if it is the URL itself.
        size: Its size in bytes.
        checks: What identifies its content: "version", "etag" and "modified", as strings, if the storage knows them.
    """

    path: str
    size: int
    checks: dict[str, str]


def url_of(url: str | os.PathLike[str]) -> str:
    """Return the URL of a path or URL after checking that it names files and contains no secret.

    Raises:
        InvalidArgument: It does not.
    """
    text = os.fspath(url)
    refuse_missing_slash(text, _SCHEMES)
    text = text if "://" in text else f"file://{os.path.abspath(os.path.expanduser(text))}"
    if not _URL.fullmatch(text) or "::" in text:
        raise InvalidArgument(
            f"{safe_url(text)!r} cannot be referred to. Pass a path, or the URL of a file or folder: file, s3, gs, az, "
            "abfs, http or https."
        )
    if safe_url(text) != text:
        raise InvalidArgument(
            f"The URL {safe_url(text)!r} would be stored with the secret or the query in it. Pass credentials as "
            "storage_options, which are not stored."
        )
    return text.rstrip("/")


def list_elsewhere(url: str, options: Mapping[str, Any]) -> list[FileElsewhere]:
    """Return the file at a URL, or all files below it, sorted by path. No file is read.

    Raises:
        ObjectMissing: There is nothing.
        StorageError: The storage cannot be read.
    """
    with _storage(url, options) as (files, root):
        found = files.info(root)
        if found["type"] == "file":
            return [_file("", found)]
        below = files.find(root, detail=True)
        prefix = root.rstrip("/") + "/"
        listed = [_file(path.removeprefix(prefix), info) for path, info in below.items() if info["type"] == "file"]
    if not listed:
        raise ObjectMissing(f"There are no files at {url}.")
    return sorted(listed)


@contextlib.contextmanager
def open_elsewhere(url: str, options: Mapping[str, Any]) -> Iterator[BinaryIO]:
    """Open a file for reading.

    Raises:
        ObjectMissing: There is no such file.
        StorageError: The storage cannot be read.
    """
    with _storage(url, options) as (files, path), files.open(path, "rb") as file:
        yield file


@contextlib.contextmanager
def _storage(url: str, options: Mapping[str, Any]) -> Iterator[tuple[Any, str]]:
    import fsspec

    free_fsspec_in_children()
    try:
        files, root = fsspec.core.url_to_fs(url, use_listings_cache=False, **options)
        files.invalidate_cache()
        yield files, root
    except FileNotFoundError as error:
        # The file system for HTTP raises this for every failure: no answer, no permission, a broken server.
        cause = error.__cause__
        if cause is not None and getattr(cause, "status", 0) not in (404, 410) and url.startswith("http"):
            raise StorageError(f"{url} cannot be read: {str(cause) or type(cause).__name__}") from error
        raise ObjectMissing(f"There is nothing at {url}.") from error
    except ImportError as error:
        raise MissingDependency(f"{url} cannot be read, because a package is missing: {error}") from error
    except SnapshotsError:
        raise
    except Exception as error:  # of any client of a storage
        raise StorageError(f"{url} cannot be read: {error}") from error


def _file(path: str, info: Mapping[str, Any]) -> FileElsewhere:
    checks = {}
    for check, names in _CHECKS.items():
        value = next((info[name] for name in names if info.get(name) is not None), None)
        if value is not None:
            checks[check] = str(value).strip('"')
    return FileElsewhere(path, int(info["size"]), checks)
