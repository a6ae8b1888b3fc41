"""Find the class of locations for a URL: one of this package or of another package, or a file system of fsspec."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import EntryPoint
from typing import Any

from ...errors import InvalidArgument, MissingDependency
from ...redaction import is_ambiguous, safe_url
from . import object_locks
from .interface import Location
from .scheme_names import OURS, brought, known_schemes, refuse_missing_slash


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
        refuse_missing_slash(given, known_schemes() if ":" in given else ())
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


def _check_options(scheme: str, url: str, options: Mapping[str, Any]) -> None:
    """Refuse options that only buckets know: users would take data for locked, or the present for the past."""
    ignored = [name for name in object_locks.OPTIONS if name in options]
    if ignored and scheme not in ("s3", "s3a", "gs", "gcs") and scheme not in brought():
        raise InvalidArgument(
            f"{url}: only buckets of S3 and GCS have the storage options {', '.join(object_locks.OPTIONS)}. Leave "
            f"out {' and '.join(ignored)}: here, objects cannot be locked, and their older versions cannot be read."
        )


def _kind(scheme: str) -> type[Location]:
    module, name = OURS.get(scheme, ("generic", "GenericLocation"))
    if scheme not in OURS:
        found = brought().get(scheme)
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
