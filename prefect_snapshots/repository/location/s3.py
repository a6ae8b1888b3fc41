"""Store objects in S3."""

from __future__ import annotations

from typing import Any

from ...errors import PermissionDenied, SnapshotsError
from .clients import NO_CACHES, answer_error, blaming_options, unreachable
from .interface import ObjectInfo
from .object_store import ATTEMPTS, PARALLEL, ObjectStoreLocation

_VERBS = {"ListObjectsV2": "LIST", "DeleteObjects": "DELETE"}


class S3Location(ObjectStoreLocation):
    """A prefix in a bucket of S3 or of a compatible store."""

    _scheme = "s3"
    _package = "s3fs"
    _extra = "s3"

    def _connect(self) -> Any:
        from s3fs import S3FileSystem

        options = dict(self.storage_options)
        options["config_kwargs"] = {"max_pool_connections": 2 * PARALLEL, **options.get("config_kwargs", {})}
        return S3FileSystem(**{**options, **NO_CACHES})

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

    async def _get(self, client: Any, key: str, span: str | None) -> bytes:
        limits = {} if span is None else {"Range": f"bytes={span}"}
        failures = 0
        while True:
            answer = await self._call(client, "get_object", Key=key, **limits)
            async with answer["Body"] as body:
                try:
                    return bytes(await body.read())
                except Exception:
                    # The connection broke during the download of the object, which s3fs does not retry.
                    failures += 1
                    if failures == ATTEMPTS:
                        raise

    async def _put(self, client: Any, key: str, data: bytes, exclusive: bool) -> None:
        condition = {"IfNoneMatch": "*"} if exclusive else {}
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
