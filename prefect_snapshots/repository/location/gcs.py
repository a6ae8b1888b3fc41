"""Store objects in Google Cloud Storage."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import datetime
from typing import Any

from ...errors import SnapshotsError
from .clients import NO_CACHES, answer_error, unreachable
from .interface import ObjectInfo
from .object_store import PARALLEL, ObjectStoreLocation

_OBJECT = "b/{}/o/{}"


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
        options = dict(self.storage_options)
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

    async def _get(self, client: Any, key: str, span: str | None) -> bytes:
        limits = {} if span is None else {"Range": f"bytes={span}"}
        _, data = await client._call("GET", _OBJECT, self._bucket, key, alt="media", headers=limits)
        return bytes(data)

    async def _put(self, client: Any, key: str, data: bytes, exclusive: bool) -> None:
        from gcsfs.core import simple_upload

        mode = "create" if exclusive else "overwrite"
        await simple_upload(client, self._bucket, key, data, consistency=client.consistency, mode=mode)

    async def _page(self, client: Any, prefix: str, token: str | None) -> tuple[list[ObjectInfo], str | None]:
        fields = "nextPageToken,items(name,size,updated)"
        answer = await client._call(
            "GET", "b/{}/o", self._bucket, prefix=prefix, pageToken=token, fields=fields, json_out=True
        )
        found = [
            self._info(item["name"], int(item["size"]), datetime.fromisoformat(item["updated"]))
            for item in answer.get("items", [])
        ]
        return found, answer.get("nextPageToken")

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
