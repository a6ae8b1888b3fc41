"""Store objects in S3."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Any

from ...errors import InvalidArgument, ObjectMissing, PermissionDenied, SnapshotsError
from . import s3_versions
from .clients import NO_CACHES, answer_error, blaming_options, unreachable
from .interface import ObjectInfo
from .object_store import ATTEMPTS, PARALLEL, ObjectStoreLocation, at_once

_VERBS = {"ListObjectsV2": "LIST", "DeleteObjects": "DELETE"}


_loaders: dict[str | None, Any] = {}


def _descriptions(session: Any) -> Any:
    """Return what loads botocore's descriptions of S3, the same for every client: to parse them takes 100 ms of CPU."""
    from botocore.loaders import create_loader

    places: str | None = session.get_config_variable("data_path")
    return _loaders.setdefault(places, create_loader(places))


class S3Location(ObjectStoreLocation):
    """A prefix in a bucket of S3 or of a compatible store.

    Options beside those of s3fs: `object_lock_days` and `object_lock_mode` lock new objects. `as_of`, a time, shows the
    bucket as it was then; nothing can be written. Both need a bucket with versioning.
    """

    _scheme = "s3"
    _package = "s3fs"
    _extra = "s3"

    def __init__(self, protocol: str, place: str, storage_options: Mapping[str, Any]) -> None:
        super().__init__(protocol, place, storage_options)
        self._lock = s3_versions.ObjectLock.of(storage_options)
        self._as_of = s3_versions.as_of(storage_options)
        self._past: dict[str, s3_versions.ObjectVersion] | None = None

    def extend_locks(self) -> int:
        """Extend the lock of every object whose lock may end soon, and return how many were extended.

        The time of an object does not tell that it is locked: whoever stole a key may have stored it again without a
        lock, so that the locked version behind it would be the last one.

        Raises:
            InvalidArgument: There is no option `object_lock_days`.
        """
        lock = self._lock
        if lock is None:
            raise InvalidArgument(f"{self.url} was opened without object_lock_days. Add it to storage_options.")
        infos = list(self._objects(""))

        async def extend(client: Any, info: ObjectInfo) -> bool:
            key = self._root + info.path
            try:
                if not lock.is_old(info.modified):
                    found = await self._call(client, "head_object", Key=key)
                    if not lock.ends_soon(found.get("ObjectLockRetainUntilDate")):
                        return False
                await self._call(client, "put_object_retention", Key=key, Retention=lock.retention)
            except FileNotFoundError:  # a prune has deleted it since
                return False
            return True

        async def extend_all(client: Any) -> list[bool]:
            return await at_once(extend(client, info) for info in infos)

        return sum(self._run("", extend_all))

    def _connect(self) -> Any:
        from aiobotocore.session import AioSession
        from s3fs import S3FileSystem

        options = {name: value for name, value in self.storage_options.items() if name not in s3_versions.OPTIONS}
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

    async def _get(self, client: Any, key: str, span: str | None) -> bytes:
        limits = {} if span is None else {"Range": f"bytes={span}"}
        if self._as_of is not None:
            limits["VersionId"] = (await self._version(client, key)).id
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
        self._refuse_past()
        condition: dict[str, Any] = {"IfNoneMatch": "*"} if exclusive else {}
        if self._lock is not None:
            condition |= self._lock.arguments
        await self._call(client, "put_object", Key=key, Body=data, **condition)

    async def _page(self, client: Any, prefix: str, token: str | None) -> tuple[list[ObjectInfo], str | None]:
        if self._as_of is not None:
            there = (await self._versions(client, self._as_of)).items()
            return [self._info(key, one.size, one.modified) for key, one in there if key.startswith(prefix)], None
        going_on = {} if token is None else {"ContinuationToken": token}
        answer = await self._call(client, "list_objects_v2", Prefix=prefix, **going_on)
        found = [self._info(item["Key"], item["Size"], item["LastModified"]) for item in answer.get("Contents", [])]
        return found, answer.get("NextContinuationToken") if answer.get("IsTruncated") else None

    async def _size(self, client: Any, key: str) -> int:
        if self._as_of is not None:
            return (await self._version(client, key)).size
        answer = await self._call(client, "head_object", Key=key)
        size: int = answer["ContentLength"]
        return size

    async def _delete(self, client: Any, keys: list[str]) -> None:
        self._refuse_past()
        wanted = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
        answer = await self._call(client, "delete_objects", Delete=wanted)
        for refused in answer.get("Errors", []):
            where = self._where(refused["Key"].removeprefix(self._root))
            raise answer_error(None, refused.get("Code", ""), refused.get("Message"), where)

    async def _versions(self, client: Any, moment: datetime) -> dict[str, s3_versions.ObjectVersion]:
        if self._past is None:
            self._past = await s3_versions.versions(partial(self._call, client), self._root, moment)
        return self._past

    async def _version(self, client: Any, key: str) -> s3_versions.ObjectVersion:
        assert self._as_of is not None
        found = (await self._versions(client, self._as_of)).get(key)
        if found is None:
            raise ObjectMissing(f"{self.url}: {key} did not exist at {self._as_of.isoformat()}.")
        return found

    def _refuse_past(self) -> None:
        if self._as_of is not None:
            raise PermissionDenied(
                f"{self.url} is shown as it was at {self._as_of.isoformat()}, so nothing can be written. Leave out "
                "as_of, or copy the repository to another place."
            )

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
