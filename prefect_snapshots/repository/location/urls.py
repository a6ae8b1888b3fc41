"""Which kind of location a URL means."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ...errors import InvalidArgument
from .gcs import GCSLocation
from .generic import GenericLocation
from .interface import Location, without_password
from .local import LocalLocation
from .memory import MemoryLocation
from .s3 import S3Location

_KINDS: dict[str, type[Location]] = {
    "file": LocalLocation,
    "local": LocalLocation,
    "memory": MemoryLocation,
    "s3": S3Location,
    "s3a": S3Location,
    "gs": GCSLocation,
    "gcs": GCSLocation,
}


def open_location(url: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None) -> Location:
    """The location at a URL. Nothing is read, written or connected to yet.

    Args:
        url: A directory (`"./snapshots"`, `"/data/snapshots"`, `"file:///data/snapshots"`), `"memory://name"`,
            `"s3://bucket/prefix"`, `"gs://bucket/prefix"`, or the URL of any other fsspec file system.
        storage_options: What fsspec's file system for this URL takes: credentials, endpoints, time-outs.

    Returns:
        The location. It pickles as its URL and options, and may be used from any thread and after a fork.

    Raises:
        MissingDependency: The package for this kind of URL is not installed.
        InvalidArgument: The URL names no place, or chains several file systems (`simplecache::s3://...`).

    Example:
        >>> location = open_location("memory://example")
        >>> location.create("events/0001", b"first")
        True
        >>> location.create("events/0001", b"second")
        False
        >>> location.read("events/0001")
        b'first'
    """
    text = os.fspath(url)
    if "::" in text:
        raise InvalidArgument(f"{without_password(text)}: a chained URL cannot hold a repository. Give the last part.")
    protocol, separator, rest = text.partition("://")
    if not separator:
        protocol, rest = "file", text
    kind = _KINDS.get(protocol, GenericLocation)
    if not (rest if kind is LocalLocation else rest.strip("/")):
        raise InvalidArgument(f"{text!r} names no place. Give a directory, or a URL such as s3://bucket/prefix.")
    return kind(protocol, rest, storage_options or {})
