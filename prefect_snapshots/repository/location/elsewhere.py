"""Files that are not in a repository: their sizes, and what identifies their content."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import unquote

from ...errors import (
    InvalidArgument,
    MissingDependency,
    ObjectMissing,
    ReferenceRefused,
    SnapshotsError,
    StorageError,
)
from ...redaction import safe_url
from .clients import free_fsspec_in_children
from .scheme_names import refuse_missing_slash

_SCHEMES = ("file", "memory", "s3", "gs", "gcs", "az", "abfs", "http", "https")
_URL = re.compile(rf"(?:{'|'.join(_SCHEMES)})://[^\x00-\x1f\x7f]+")
"""The URLs that may be read. Others of fsspec read other files, or unpack archives, and are not what they seem."""
_IGNORED = re.compile(r";.*|[\x00-\x20]", re.DOTALL)
"""What some servers ignore in a part of a path, so that `..;x` is `..` for them."""
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
    text = os.fspath(url) if isinstance(url, str | os.PathLike) else url
    if not isinstance(text, str):
        raise InvalidArgument(f"A reference needs a path or a URL, not {type(url).__name__}.")
    refuse_missing_slash(text, _SCHEMES)
    text = text if "://" in text else f"file://{os.path.abspath(os.path.expanduser(text))}"
    if not _URL.fullmatch(text) or "::" in text:
        raise InvalidArgument(
            f"{safe_url(text)!r} cannot be referred to. Pass a path, or the URL of a file or folder: file, s3, gs, az, "
            "abfs, http or https."
        )
    if text.startswith("file://") and not text.startswith("file:///"):
        raise InvalidArgument(
            f"{safe_url(text)!r} names different files in different folders and for different users. Pass a path, or a "
            "URL with three slashes, such as file:///data."
        )
    if safe_url(text) != text:
        raise InvalidArgument(
            f"The URL {safe_url(text)!r} would be stored with the secret or the query in it. Pass credentials as "
            "storage_options, which are not stored."
        )
    return text.rstrip("/")


def is_within(url: str, places: Iterable[str]) -> bool:
    """Return whether a URL is one of others, or below one, for every server, proxy and file system that reads it.

    Args:
        url: The URL. Everything is compared, so that one with a user, a port or a query is below none without it.
        places: The others, as `url_of` returns them.
    """
    plain = url
    while (decoded := unquote(plain)) != plain:  # servers decode once, proxies before them once more
        plain = decoded
    if any(_IGNORED.sub("", part) == ".." for part in re.split(r"[/\\]", plain)):
        return False
    # A link below a folder that is allowed can lead out of it.
    return any(_is_below(url, one) and _is_below(_real(url), _real(one)) for one in places)


def _is_below(url: str, above: str) -> bool:
    return f"{url}/".startswith(f"{above.rstrip('/')}/")


def _real(url: str) -> str:
    path = url.removeprefix("file://")
    return url if path == url else f"file://{os.path.realpath(path)}"


def list_elsewhere(url: str, options: Mapping[str, Any], within: Sequence[str] | None = None) -> list[FileElsewhere]:
    """Return the file at a URL, or all files below it, sorted by path. No file is read.

    Args:
        url: The URL.
        options: Options of its file system.
        within: The URLs below which a server may lead requests. Default: anywhere.

    Raises:
        ObjectMissing: There is nothing.
        ReferenceRefused: A server has led to a URL that is not below one of `within`.
        StorageError: The storage cannot be read.
    """
    with _storage(url, options, within) as (files, root):
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
def open_elsewhere(url: str, options: Mapping[str, Any], within: Sequence[str] | None = None) -> Iterator[BinaryIO]:
    """Open a file for reading.

    Args:
        url, options, within: As for `list_elsewhere`.

    Raises:
        ObjectMissing: There is no such file.
        ReferenceRefused: A server has led to a URL that is not below one of `within`.
        StorageError: The storage cannot be read.
    """
    with _storage(url, options, within) as (files, path), files.open(path, "rb") as file:
        yield file


class _Guard:
    """Lets an HTTP client send requests only to some URLs, whatever a server redirects it to.

    Attributes:
        refused: The error about a request that was not sent. The client may turn it into another one.
    """

    def __init__(self, places: Sequence[str]) -> None:
        self.refused: ReferenceRefused | None = None
        self._places = places

    async def client(self, get_client: Callable[..., Any], **options: Any) -> Any:
        """Return a session of aiohttp that does so."""
        import aiohttp
        from yarl import URL

        places = [str(URL(place)) for place in self._places if place.startswith("http")]

        def check(url: URL, origin: URL) -> None:
            plain = str(url.with_query(None).with_fragment(None))
            if not is_within(plain, places):
                self.refused = ReferenceRefused(
                    f"{safe_url(str(origin))} leads to {safe_url(plain)}, which you did not allow. No request was sent "
                    f"there. If you trust it, pass it as within=, too."
                )
                raise self.refused

        async def on_start(session: Any, context: Any, sent: Any) -> None:
            check(sent.url, sent.url)

        async def on_redirect(session: Any, context: Any, sent: Any) -> None:
            headers = sent.response.headers
            check(sent.url.join(URL(headers.get("Location") or headers.get("URI") or "")), sent.url)

        trace = aiohttp.TraceConfig()
        trace.on_request_start.append(on_start)
        trace.on_request_redirect.append(on_redirect)
        trace.freeze()
        session = await get_client(**options)
        session.trace_configs.append(trace)
        return session


@contextlib.contextmanager
def _storage(url: str, options: Mapping[str, Any], within: Sequence[str] | None) -> Iterator[tuple[Any, str]]:
    import fsspec

    free_fsspec_in_children()
    guard = None
    if within is not None and url.startswith("http"):
        from fsspec.implementations.http import get_client

        guard = _Guard(within)
        client = functools.partial(guard.client, options.get("get_client", get_client))
        options = {**options, "get_client": client, "skip_instance_cache": True}
    try:
        files, root = fsspec.core.url_to_fs(url, use_listings_cache=False, **options)
        files.invalidate_cache()
        yield files, root
    except Exception as error:
        if guard is not None and guard.refused is not None:
            raise guard.refused from None
        raise _translated(error, url) from error


def _translated(error: Exception, url: str) -> Exception:
    """Return an error of any client of a storage as one of ours."""
    if isinstance(error, SnapshotsError):
        return error
    if isinstance(error, FileNotFoundError):
        # The file system for HTTP raises this for every failure: no answer, no permission, a broken server.
        cause = error.__cause__
        if cause is not None and getattr(cause, "status", 0) not in (404, 410) and url.startswith("http"):
            return StorageError(f"{url} cannot be read: {str(cause) or type(cause).__name__}")
        return ObjectMissing(f"There is nothing at {url}.")
    if isinstance(error, ImportError):
        return MissingDependency(f"{url} cannot be read, because a package is missing: {error}")
    return StorageError(f"{url} cannot be read: {error}")


def _file(path: str, info: Mapping[str, Any]) -> FileElsewhere:
    checks = {}
    for check, names in _CHECKS.items():
        value = next((info[name] for name in names if info.get(name) is not None), None)
        if value is not None:
            checks[check] = str(value).strip('"')
    return FileElsewhere(path, int(info["size"]), checks)
