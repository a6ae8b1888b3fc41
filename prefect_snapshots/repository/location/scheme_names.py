"""Know the schemes of locations: which there are, and what to say of a URL that has none or another one."""

from __future__ import annotations

import functools
from collections.abc import Container, Mapping
from importlib.metadata import EntryPoint, entry_points

from ...errors import InvalidArgument
from ...messages import scheme_hint
from ...redaction import safe_url

GROUP = "prefect_snapshots.locations"
"""The entry-point group in which packages register their locations: the scheme of the URLs, and the class."""

# These are not in the group, so that no package can replace them, and because reading the group takes 30 ms.
OURS: Mapping[str, tuple[str, str]] = {
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


@functools.cache
def brought() -> dict[str, EntryPoint]:
    """Return the locations that other packages register, by scheme."""
    return {found.name: found for found in entry_points(group=GROUP)}


def known_schemes() -> set[str]:
    """Return the schemes of this package, of other packages, and of usual file systems of fsspec."""
    return {*OURS, *_OFTEN, *brought()}


def similar_scheme(scheme: str) -> str:
    """Return a question for a message about a scheme of no storage location: which usual one may be meant, if any."""
    return scheme_hint(scheme, known_schemes())


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
