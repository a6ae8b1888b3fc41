"""Store objects in Google Cloud Storage."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from datetime import datetime
from typing import Any

from ...errors import SnapshotsError
from . import object_locks
from .clients import NO_CACHES, answer_error, unreachable
from .interface import ObjectInfo
from .object_locks import ObjectLock, ObjectVersion
from .object_store import PARALLEL, ObjectStoreLocation

_OBJECT = "b/{}/o/{}"

_MODES = {"GOVERNANCE": "Unlocked", "COMPLIANCE": "Locked"}
"""Google's names of the modes of locks."""


def _retention(lock: ObjectLock) -> dict[str, Any]:
    """Return the field of an object that locks it from now on."""
    return {"retention": {"mode": _MODES[lock.mode], "retainUntilTime": lock.end.isoformat()}}


class GCSLocation(ObjectStoreLocation):
    """A prefix in a bucket of Google Cloud Storage."""

    _scheme = "gs"
    _package = "gcsfs"
    _extra = "gcs"

    def _connect(self) -> Any:
        from aiohttp import TraceConfig

        # Not gcsfs.GCSFileSystem: it requests the type of the bucket over gRPC, which takes a minute on emulators.
        from gcsfs.core import GCSFileSystem

        trace = TraceConfig()
        trace.on_request_start.append(self._count)
        options = object_locks.without(self.storage_options)
        session = dict(options.get("session_kwargs", {}))
        options["session_kwargs"] = {**session, "trace_configs": [*session.get("trace_configs", []), trace]}
        return GCSFileSystem(**{**options, **NO_CACHES})

    async def _count(self, _session: object, _context: object, request: Any) -> None:
        query = request.url.query
        if request.method == "POST":
            self.requests.add("PUT")
        elif request.method == "GET" and "prefix" in query:
            self.requests.add("LIST")
        elif request.method == "GET" and query.get("alt") != "media":
            self.requests.add("HEAD")
        else:
            self.requests.add(request.method)

    async def _get(self, client: Any, key: str, span: str | None, version: str | None) -> bytes:
        limits = {} if span is None else {"Range": f"bytes={span}"}
        of_then = {} if version is None else {"generation": version}
        _, data = await client._call("GET", _OBJECT, self._bucket, key, alt="media", headers=limits, **of_then)
        return bytes(data)

    async def _put(self, client: Any, key: str, data: bytes, exclusive: bool) -> None:
        from gcsfs.checkers import get_consistency_checker

        # Not gcsfs.core.simple_upload: it has no argument for a lock, and data may contain its boundary of the parts.
        resource = {"name": key, **({} if self._lock is None else _retention(self._lock))}
        boundary = secrets.token_hex(16)
        body = (
            f"--{boundary}\r\nContent-Type: application/json\r\n\r\n{json.dumps(resource)}\r\n"
            f"--{boundary}\r\nContent-Type: application/octet-stream\r\n\r\n"
        )
        answer = await client._call(
            "POST",
            f"{client._location}/upload/storage/v1/b/{self._bucket}/o",
            uploadType="multipart",
            headers={"Content-Type": f'multipart/related; boundary="{boundary}"'},
            data=b"".join((body.encode(), data, f"\r\n--{boundary}--".encode())),
            json_out=True,
            **({"ifGenerationMatch": "0"} if exclusive else {}),
        )
        checker = get_consistency_checker(client.consistency)
        checker.update(data)
        checker.validate_json_response(answer)

    async def _page(self, client: Any, prefix: str, token: str | None) -> tuple[list[ObjectInfo], str | None]:
        items, token = await self._list(client, prefix, token, "name,size,updated")
        infos = [self._info(item["name"], int(item["size"]), datetime.fromisoformat(item["updated"])) for item in items]
        return infos, token

    async def _list(
        self, client: Any, prefix: str, token: str | None, wanted: str, **which: str
    ) -> tuple[list[dict[str, Any]], str | None]:
        answer = await client._call(
            *("GET", "b/{}/o", self._bucket),
            prefix=prefix,
            pageToken=token,
            fields=f"nextPageToken,items({wanted})",
            json_out=True,
            **which,
        )
        return answer.get("items", []), answer.get("nextPageToken")

    async def _versions(self, client: Any, moment: datetime) -> dict[str, ObjectVersion]:
        found = {}
        token = None
        while True:
            wanted = "name,size,generation,timeCreated,timeDeleted"
            items, token = await self._list(client, self._root, token, wanted, versions="true")
            for item in items:
                created = datetime.fromisoformat(item["timeCreated"])
                hidden = item.get("timeDeleted")  # when it was deleted, or replaced by the next version
                if created <= moment and (hidden is None or moment < datetime.fromisoformat(hidden)):
                    found[item["name"]] = ObjectVersion(item["generation"], int(item["size"]), created)
            if token is None:
                return found

    async def _lock_end(self, client: Any, key: str) -> datetime | None:
        answer = await client._call("GET", _OBJECT, self._bucket, key, fields="retention", json_out=True)
        end = answer.get("retention", {}).get("retainUntilTime")
        return None if end is None else datetime.fromisoformat(end)

    async def _extend(self, client: Any, key: str, lock: ObjectLock) -> None:
        await client._call("PATCH", _OBJECT, self._bucket, key, json=_retention(lock), json_out=True)

    async def _size(self, client: Any, key: str) -> int:
        answer = await client._call("GET", _OBJECT, self._bucket, key, fields="size", json_out=True)
        return int(answer["size"])

    async def _delete(self, client: Any, keys: list[str]) -> None:
        free = asyncio.Semaphore(PARALLEL)

        async def delete(key: str) -> None:
            async with free:
                with contextlib.suppress(FileNotFoundError):
                    await client._call("DELETE", _OBJECT, self._bucket, key)

        await asyncio.gather(*map(delete, keys))

    def _meaning(self, error: Exception, where: str) -> SnapshotsError:
        from aiohttp import ClientError as HTTPError
        from google.auth.exceptions import GoogleAuthError, TransportError

        code = getattr(error, "code", None)
        if code is not None:
            return answer_error(int(code), "", error, where)
        if isinstance(error, FileExistsError):
            return answer_error(412, "", error, where)
        if isinstance(error, FileNotFoundError):
            # The message contains the requested path: that of an object, or of all objects in the bucket.
            return answer_error(404, "NoSuchBucket" if str(error).endswith("/o") else "", error, where)
        if isinstance(error, TransportError):
            return unreachable(error, where)
        if isinstance(error, GoogleAuthError) or str(error).startswith("Forbidden"):
            return answer_error(403, "", error, where)
        if isinstance(error, HTTPError | OSError):  # gcsfs fetches tokens with requests, whose errors are OSErrors
            return unreachable(error, where)
        return answer_error(None, type(error).__name__, error, where)
