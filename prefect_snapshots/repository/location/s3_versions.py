"""The versions of objects in a bucket of S3."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import Any

from .object_locks import ObjectVersion

Call = Callable[..., Awaitable[dict[str, Any]]]
"""Sends a request to S3: the name of the operation, and its arguments."""


async def versions(call: Call, prefix: str, moment: datetime) -> dict[str, ObjectVersion]:
    """Return the versions of all objects at some time, by their keys."""
    found: dict[str, ObjectVersion | None] = {}
    async for key, modified, version in _history(call, prefix):
        # The newest version of a key comes first. Of a version and a deletion in the same second, the version counts:
        # S3 tells times in seconds, and too much is better than too little.
        if modified <= moment and (
            key not in found or (found[key] is None and version and version.modified == modified)
        ):
            found[key] = version
    return {key: version for key, version in found.items() if version is not None}


async def _history(call: Call, prefix: str) -> AsyncIterator[tuple[str, datetime, ObjectVersion | None]]:
    """Yield every version of every object, and every deletion (None), the newest of a key first."""
    marker: dict[str, str] = {}
    while True:
        page = await call("list_object_versions", Prefix=prefix, **marker)
        entries: list[tuple[str, datetime, ObjectVersion | None]] = [
            (item["Key"], item["LastModified"], None) for item in page.get("DeleteMarkers", [])
        ]
        for item in page.get("Versions", []):
            version = ObjectVersion(item["VersionId"], item["Size"], item["LastModified"])
            entries.append((item["Key"], version.modified, version))
        for entry in sorted(entries, key=lambda entry: entry[1], reverse=True):
            yield entry
        if not page.get("IsTruncated"):
            return
        marker = {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page["NextVersionIdMarker"]}
