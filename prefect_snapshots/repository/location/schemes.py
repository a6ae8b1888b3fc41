"""Find the class of locations for a URL: one of this package or of another package, or a file system of fsspec."""

from __future__ import annotations

import functools
import os
from collections.abc import Container, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ...errors import InvalidArgument, MissingDependency
from ...messages import scheme_hint
from ...redaction import is_ambiguous, safe_url
from . import object_locks
from .interface import Location

GROUP = "prefect_snapshots.locations"
"""The entry-point group in which packages register their locations: the scheme of the URLs, and the class."""

# These are not in the group, so that no package can replace them, and because reading the group takes 30 ms.
_OURS: Mapping[str, tuple[str, str]] = {
    "file": ("local", "LocalLocation"),
    "local": ("local", "LocalLocation"),
    "memory": ("memory", "MemoryLocation"),
    "s3": ("s3", "S3Location"),
    "s3a": ("s3", "S3Location"),
    "gs": ("gcs", "GCSLocation"),
    "gcs": ("gcs", "GCSLocation"),
}


_OFTEN = frozenset({"abfs", "abfss", "adl", "az", "ftp", "hdfs", "http", "https", "sftp", "smb", "ssh", "webdav"})
"""Schemes of other file systems, which a URL that lacks a slash is recognised by."""
_KEPT = {"file": "://", "local": "://", "sqlite": ":///", "duckdb": ":///"}
"""How URLs of these schemes begin. What follows is a path, and keeps its slash."""


def open_location(url: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None) -> Location:
    """Return the location at a URL. This neither connects to it nor reads or writes anything.

    Args:
        url: A directory (`"./snapshots"`, `"/data/snapshots"`, `"file:///data/snapshots"`), `"memory://name"`,
            `"s3://bucket/prefix"`, `"gs://bucket/prefix"`, the URL of a location that another package adds, or the URL
            of any other fsspec file system.
        storage_options: Options for the store: credentials, endpoints, time-outs. Default: none.

    Returns:
        The location. You can use it from any thread and after a fork. Its pickle contains no secrets: only options that
        are known to be harmless are pickled. Credentials come from the environment of the process that loads it.

    Raises:
        MissingDependency: The package for this kind of URL is not installed, or cannot be imported.
        InvalidArgument: The URL has no path, or chains several file systems (`simplecache::s3://...`), or
            its password is not percent-encoded; or options of buckets are passed for something else.

    Example:
        >>> location = open_location("memory://example")
        >>> location.create("events/0001", b"first")
        True
        >>> location.create("events/0001", b"second")
        False
        >>> location.read("events/0001")
        b'first'
    """
    if not isinstance(storage_options, Mapping | None):
        raise InvalidArgument(f"storage_options must be a dictionary, not {type(storage_options).__name__}.")
    if not isinstance(url, str | os.PathLike):
        raise InvalidArgument(f"The URL of a repository must be a string or a path, not {type(url).__name__}.")
    given = os.fspath(url)
    if "::" in given:
        raise InvalidArgument(
            f"{safe_url(given)}: a repository cannot be at a chained URL. Pass the last part of the URL."
        )
    scheme, separator, rest = given.partition("://")
    if not separator:
        refuse_missing_slash(given, {*_OURS, *_OFTEN, *_brought()} if ":" in given else ())
    scheme, rest = (scheme.lower(), rest) if separator else ("file", given)
    local = scheme in ("file", "local")
    if not (rest if local else rest.strip("/")):
        raise InvalidArgument(
            f"{safe_url(given)!r} has no path. Pass a directory, or a URL such as s3://bucket/prefix."
        )
    if not local and is_ambiguous(given):
        raise InvalidArgument(
            f"{safe_url(given)}: it is not clear where the password ends. Write '@' as %40 and '/' as %2F in it, or "
            "pass it in storage_options. For an '@' in the path after a port, pass the port in storage_options."
        )
    _check_options(scheme, safe_url(given), storage_options or {})
    return _kind(scheme)(scheme, rest, storage_options or {})


def refuse_missing_slash(text: str, schemes: Container[str]) -> None:
    """Refuse a URL that lacks a slash, such as `s3:/bucket`. As a path, it would send the data to the disk.

    Args:
        text: What may be a path or a URL.
        schemes: The schemes of URLs that are possible here.

    Raises:
        InvalidArgument: It begins like a URL of these schemes.
    """
    scheme, separator, rest = text.partition(":")
    plain = scheme.lower().partition("+")[0]
    if separator and plain in schemes and not rest.startswith("//"):
        right = f"{scheme}{_KEPT[plain]}{rest}" if plain in _KEPT else f"{scheme}://{rest.lstrip('/')}"
        raise InvalidArgument(
            f"A URL has two slashes after the colon: did you mean {safe_url(right)}? If you mean a file or directory "
            "of this name, write ./ in front of it."
        )


def similar_scheme(scheme: str) -> str:
    """Return a question for a message about a scheme of no storage location: which usual one may be meant, if any."""
    return scheme_hint(scheme, {*_OURS, *_OFTEN, *_brought()})


def _check_options(scheme: str, url: str, options: Mapping[str, Any]) -> None:
    """Refuse options that only buckets know: users would take data for locked, or the present for the past."""
    ignored = [name for name in object_locks.OPTIONS if name in options]
    if ignored and scheme not in ("s3", "s3a", "gs", "gcs") and scheme not in _brought():
        raise InvalidArgument(
            f"{url}: only buckets of S3 and GCS have the storage options {', '.join(object_locks.OPTIONS)}. Leave "
            f"out {' and '.join(ignored)}: here, objects cannot be locked, and their older versions cannot be read."
        )


def _kind(scheme: str) -> type[Location]:
    module, name = _OURS.get(scheme, ("generic", "GenericLocation"))
    if scheme not in _OURS:
        found = _brought().get(scheme)
        if found is not None:
            return _loaded(found)
    kind: type[Location] = getattr(import_module(f".{module}", __package__), name)
    return kind


def _loaded(found: EntryPoint) -> type[Location]:
    package = found.dist.name if found.dist else found.value
    try:
        kind = found.load()
    except Exception as error:
        raise MissingDependency(
            f"The locations of {found.name}:// URLs are provided by the package {package}, which cannot be imported "
            f"({type(error).__name__}: {error}). Repair or uninstall it."
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, Location)):
        raise MissingDependency(
            f"The package {package} registers {found.value} for {found.name}:// URLs, which is not a subclass of "
            "prefect_snapshots.repository.location.Location. Update or uninstall it."
        )
    return kind


@functools.cache
def _brought() -> dict[str, EntryPoint]:
    return {found.name: found for found in entry_points(group=GROUP)}
