"""Store objects in S3."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any

from ...errors import DamagedObject, PermissionDenied, SnapshotsError
from . import object_locks, s3_versions
from .clients import NO_CACHES, answer_error, blaming_options, unreachable
from .interface import LARGEST_READ, ObjectInfo, too_large
from .object_locks import ObjectLock, ObjectVersion
from .object_store import ATTEMPTS, PARALLEL, ObjectStoreLocation

_VERBS = {"ListObjectsV2": "LIST", "DeleteObjects": "DELETE"}


async def _read(body: Any, path: str, most: int) -> bytes:
    """Return all bytes of an answer. It may claim any length or none, and never end."""
    parts, size = [], 0
    while part := await body.read(most + 1 - size):
        parts.append(part)
        size += len(part)
        if size > most:
            raise too_large(path, most)
    return b"".join(parts)


_loaders: dict[str | None, Any] = {}


def _descriptions(session: Any) -> Any:
    """Return what loads botocore's descriptions of S3, the same for every client: to parse them takes 100 ms of CPU."""
    from botocore.loaders import create_loader

    places: str | None = session.get_config_variable("data_path")
    return _loaders.setdefault(places, create_loader(places))


class S3Location(ObjectStoreLocation):
    """A prefix in a bucket of S3 or of a compatible store."""

    _scheme = "s3"
    _package = "s3fs"
    _extra = "s3"

    def _connect(self) -> Any:
        from aiobotocore.session import AioSession
        from s3fs import S3FileSystem

        options = object_locks.without(self.storage_options)
        options["config_kwargs"] = {"max_pool_connections": 2 * PARALLEL, **options.get("config_kwargs", {})}
        client = S3FileSystem(**{**options, **NO_CACHES})
        if client.session is None:
            client.session = AioSession(**client.kwargs)
            client.session.register_component("data_loader", _descriptions(client.session))
        return client

    async def _call(self, client: Any, operation: str, **arguments: Any) -> dict[str, Any]:
        with blaming_options(self.url, self._hide):
            await client.set_session()
        connection = await client.get_s3(self._bucket)
        # The id prevents a second registration. The event occurs for every attempt that is sent.
        connection.meta.events.register("before-send.s3", self._count, unique_id="prefect-snapshots")
        answer: dict[str, Any] = await client._call_s3(operation, Bucket=self._bucket, **arguments)
        return answer

    def _count(self, request: Any, event_name: str, **_: Any) -> None:
        self.requests.add(_VERBS.get(event_name.rpartition(".")[2], request.method))

    async def _get(self, client: Any, key: str, span: str | None, version: str | None) -> bytes:
        limits = {} if span is None else {"Range": f"bytes={span}"}
        if version is not None:
            limits["VersionId"] = version
        first, _, last = (span or f"0-{LARGEST_READ - 1}").partition("-")
        most = int(last) - int(first) + 1
        failures = 0
        while True:
            answer = await self._call(client, "get_object", Key=key, **limits)
            async with answer["Body"] as body:
                try:
                    return await _read(body, key.removeprefix(self._root), most)
                except DamagedObject:
                    raise
                except Exception:
                    # The connection broke during the download of the object, which s3fs does not retry.
                    failures += 1
                    if failures == ATTEMPTS:
                        raise

    async def _put(self, client: Any, key: str, data: bytes, exclusive: bool) -> None:
        condition: dict[str, Any] = {"IfNoneMatch": "*"} if exclusive else {}
        if self._lock is not None:
            condition |= {"ObjectLockMode": self._lock.mode, "ObjectLockRetainUntilDate": self._lock.end}
        await self._call(client, "put_object", Key=key, Body=data, **condition)

    async def _page(self, client: Any, prefix: str, token: str | None) -> tuple[list[ObjectInfo], str | None]:
        going_on = {} if token is None else {"ContinuationToken": token}
        answer = await self._call(client, "list_objects_v2", Prefix=prefix, **going_on)
        found = [self._info(item["Key"], item["Size"], item["LastModified"]) for item in answer.get("Contents", [])]
        return found, answer.get("NextContinuationToken") if answer.get("IsTruncated") else None

    async def _size(self, client: Any, key: str) -> int:
        answer = await self._call(client, "head_object", Key=key)
        size: int = answer["ContentLength"]
        return size

    async def _delete(self, client: Any, keys: list[str]) -> None:
        wanted = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
        answer = await self._call(client, "delete_objects", Delete=wanted)
        for refused in answer.get("Errors", []):
            where = self._where(refused["Key"].removeprefix(self._root))
            raise answer_error(None, refused.get("Code", ""), refused.get("Message"), where)

    async def _versions(self, client: Any, moment: datetime) -> dict[str, ObjectVersion]:
        return await s3_versions.versions(partial(self._call, client), self._root, moment)

    async def _lock_end(self, client: Any, key: str) -> datetime | None:
        found = await self._call(client, "head_object", Key=key)
        end: datetime | None = found.get("ObjectLockRetainUntilDate")
        return end

    async def _extend(self, client: Any, key: str, lock: ObjectLock) -> None:
        retention = {"Mode": lock.mode, "RetainUntilDate": lock.end}
        await self._call(client, "put_object_retention", Key=key, Retention=retention)

    def _meaning(self, error: Exception, where: str) -> SnapshotsError:
        from aiohttp import ClientError as HTTPError
        from botocore.exceptions import ConnectionError, HTTPClientError, NoCredentialsError, PartialCredentialsError

        # s3fs wraps the server's error in different kinds of OSError.
        response = getattr(error.__cause__ or error, "response", None)
        if response:
            said = response.get("Error", {})
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return answer_error(status, said.get("Code", ""), said.get("Message"), where)
        if isinstance(error, NoCredentialsError | PartialCredentialsError):
            return PermissionDenied(f"{self.url}: {error}. Pass key and secret, or a profile, in storage_options.")
        if isinstance(error, ConnectionError | HTTPClientError | HTTPError | OSError):
            return unreachable(error, where)
        return answer_error(None, type(error).__name__, error, where)
