"""Buckets with Object Lock: whoever steals a writer's key can destroy nothing that was stored before."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import servers
from gcsfs.core import GCSFileSystem
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from s3fs import S3FileSystem

from prefect_snapshots import ArtifactRegistry, BackupManager, Repository, SnapshotManager, use_repository
from prefect_snapshots.errors import InvalidArgument, PermissionDenied, RepositoryNotFound, UnsupportedStorage
from prefect_snapshots.flows import extend_locks
from prefect_snapshots.flows.maintenance import LOCKS
from prefect_snapshots.repository.location import object_locks, open_location

DAYS = 30


class Thief:
    """Somebody with the key of a writer, who may do whatever the store lets a key do, but not bypass a lock.

    Attributes:
        url: Of a bucket of its own, whose objects can be locked.
        options: Storage options for it, without a lock.
    """

    url: str
    options: dict[str, Any]

    def versions(self) -> list[tuple[str, str]]:
        """Return the key and the id of each version of each object."""
        raise NotImplementedError

    def lock_of(self, key: str) -> tuple[str, datetime]:
        """Return the mode of the lock of an object, and when it ends."""
        raise NotImplementedError

    def tries(self, key: str, version: str) -> list[Callable[[], object]]:
        """Return what would destroy a version, or end its lock."""
        raise NotImplementedError

    def overwrite(self, key: str, data: bytes) -> None:
        raise NotImplementedError

    def hide(self, key: str) -> None:
        raise NotImplementedError


class ThiefOnS3(Thief):
    def __init__(self, endpoint: str) -> None:
        self._bucket = f"locked-{uuid.uuid4().hex}"
        self.url = f"s3://{self._bucket}/r"
        self.options = servers.s3_options(endpoint)
        self._store = S3FileSystem(**self.options, use_listings_cache=False, skip_instance_cache=True)
        self._call("create_bucket", ObjectLockEnabledForBucket=True)

    def versions(self) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        marker: dict[str, str] = {}
        while True:
            page = self._call("list_object_versions", **marker)
            found += [(version["Key"], version["VersionId"]) for version in page.get("Versions", [])]
            if not page.get("IsTruncated"):
                return found
            marker = {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page["NextVersionIdMarker"]}

    def lock_of(self, key: str) -> tuple[str, datetime]:
        found = self._call("head_object", Key=key)
        return found["ObjectLockMode"], found["ObjectLockRetainUntilDate"]

    def tries(self, key: str, version: str) -> list[Callable[[], object]]:
        return [partial(self._call, "delete_object", Key=key, VersionId=version)]

    def overwrite(self, key: str, data: bytes) -> None:
        self._call("put_object", Key=key, Body=data)

    def hide(self, key: str) -> None:
        self._call("delete_objects", Delete={"Objects": [{"Key": key}]})

    def _call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._store.call_s3(operation, Bucket=self._bucket, **arguments)
        return answer


class ThiefOnGCS(Thief):
    def __init__(self, endpoint: str) -> None:
        self._bucket = f"locked-{uuid.uuid4().hex}"
        self.url = f"gs://{self._bucket}/r"
        self.options = servers.gcs_options(endpoint)
        self._store = GCSFileSystem(**self.options, use_listings_cache=False, skip_instance_cache=True)
        bucket = {"name": self._bucket, "versioning": {"enabled": True}}
        self._store.call("POST", "b", project="test", enableObjectRetention="true", json=bucket)

    def versions(self) -> list[tuple[str, str]]:
        answer = self._store.call("GET", "b/{}/o", self._bucket, versions="true", json_out=True)
        return [(item["name"], item["generation"]) for item in answer["items"]]

    def lock_of(self, key: str) -> tuple[str, datetime]:
        found = self._call("GET", key, json_out=True)["retention"]
        mode = {"Unlocked": "GOVERNANCE", "Locked": "COMPLIANCE"}[found["mode"]]
        return mode, datetime.fromisoformat(found["retainUntilTime"])

    def tries(self, key: str, version: str) -> list[Callable[[], object]]:
        soon = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
        shorter = {"retention": {"mode": "Unlocked", "retainUntilTime": soon}}
        return [
            partial(self._call, "DELETE", key, generation=version),
            partial(self._call, "PATCH", key, generation=version, json={"retention": None}),
            partial(self._call, "PATCH", key, generation=version, json=shorter),
            partial(self._call, "PATCH", key, generation=version, json=shorter, overrideUnlockedRetention="true"),
            partial(self._store.call, "PATCH", "b/{}", self._bucket, json={"versioning": {"enabled": False}}),
        ]

    def overwrite(self, key: str, data: bytes) -> None:
        self._store.pipe_file(f"{self._bucket}/{key}", data)

    def hide(self, key: str) -> None:
        with suppress(FileNotFoundError):  # it is hidden already
            self._call("DELETE", key)

    def _call(self, method: str, key: str, **arguments: Any) -> Any:
        return self._store.call(method, "b/{}/o/{}", self._bucket, key, **arguments)


@pytest.fixture(scope="module")
def locking_gcs_endpoint() -> Iterator[str]:
    with servers.locking_gcs() as endpoint:
        yield endpoint


@pytest.fixture(params=[ThiefOnS3, ThiefOnGCS])
def thief(request: pytest.FixtureRequest) -> Thief:
    endpoints = {ThiefOnS3: "moto_endpoint", ThiefOnGCS: "locking_gcs_endpoint"}
    found: Thief = request.param(request.getfixturevalue(endpoints[request.param]))
    return found


@pytest.fixture
def options(thief: Thief) -> dict[str, Any]:
    return {**thief.options, "object_lock_days": DAYS}


def moment_between() -> datetime:
    """Return a time after all that was stored, and before what will be: S3 has our clock, and counts seconds."""
    second = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=1)
    while datetime.now(UTC) < second:
        time.sleep(0.01)
    return second - timedelta(milliseconds=1)


def test_every_object_is_locked(thief: Thief, options: dict[str, Any]) -> None:
    manager = SnapshotManager(Repository(thief.url, storage_options=options), name="m")
    for number in range(3):
        manager.save_snapshot(bytes(100_000 + number), f"s{number}")
    objects = {key for key, _ in thief.versions() if "/probe/" not in key}
    assert {key.split("/")[1] for key in objects} >= {"packs", "index", "catalog", "repository.json"}
    for key in objects:
        mode, end = thief.lock_of(key)
        assert mode == "GOVERNANCE"
        assert timedelta(days=DAYS - 1) < end - datetime.now(UTC) <= timedelta(days=DAYS)


def test_what_a_thief_destroys_comes_back(thief: Thief, options: dict[str, Any], tmp_path: Path) -> None:
    url = thief.url
    repository = Repository(url, storage_options=options, password="secret words")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(b"only copy" * 10_000)
    backups = BackupManager(repository, name="b", directories=[tree])
    backup = backups.create_backup()
    SnapshotManager(repository, name="m").save_snapshot({"w": bytes(300_000)}, "kept")
    ArtifactRegistry(repository).log_artifact("features", {"x": 1}, handler="json")
    before = moment_between()

    locked = thief.versions()
    for key, version in locked:
        for attempt in thief.tries(key, version):
            with pytest.raises(OSError, match=r"Forbidden|Access Denied"):
                attempt()
    for number, key in enumerate({key for key, _ in locked}):
        if number % 2:
            thief.overwrite(key, b"garbage")
        else:
            thief.hide(key)
    with pytest.raises(Exception, match=r".") as damage:
        SnapshotManager(Repository(url, storage_options=options, password="secret words"), name="m").load_snapshot(
            "kept"
        )
    assert damage.type.__module__ == "prefect_snapshots.errors"

    past = Repository(url, storage_options={**options, "as_of": before.isoformat()}, password="secret words")
    assert past.check(read_data=True).ok
    assert SnapshotManager(past, name="m").load_snapshot("kept") == {"w": bytes(300_000)}
    assert ArtifactRegistry(past).load_artifact("features") == {"x": 1}
    with pytest.raises(PermissionDenied, match="shown as it was"):
        SnapshotManager(past, name="m").save_snapshot(1, "new")
    saved = Repository(tmp_path / "saved", password="another")
    assert past.copy_to(saved).ok
    restored = tmp_path / "restored"
    BackupManager(saved, name="b", directories=[tree]).restore_backup(backup.name, to={"tree": restored}, confirm=True)
    assert (restored / "file").read_bytes() == (tree / "file").read_bytes()


def test_as_of_shows_every_moment(thief: Thief, options: dict[str, Any]) -> None:
    url = thief.url
    beginning = datetime.now(UTC) - timedelta(days=1)
    manager = SnapshotManager(Repository(url, storage_options=options), name="m")
    moments = []
    for number in range(3):
        manager.save_snapshot(number, f"s{number}")
        moments.append(moment_between())
    manager.delete_snapshot("s0")
    manager.repository.prune(grace=0)  # type: ignore[union-attr]
    for number, moment in enumerate(moments):
        past = SnapshotManager(Repository(url, storage_options={**options, "as_of": moment.isoformat()}), name="m")
        assert [info.id for info in past.list_snapshots()] == [f"s{one}" for one in range(number, -1, -1)]
        assert past.load_snapshot("s0") == 0
    with pytest.raises(RepositoryNotFound):
        Repository(url, storage_options={**options, "as_of": beginning.isoformat()}).check()


def test_locks_are_extended_before_they_end(thief: Thief, options: dict[str, Any]) -> None:
    repository = Repository(thief.url, storage_options=options)
    SnapshotManager(repository, name="m").save_snapshot(bytes(100_000), "one")
    assert repository.extend_locks() == 0, "all of them are new"
    later = datetime.now(UTC) + timedelta(days=DAYS / 2 + 1)
    with patch.object(object_locks, "datetime", wraps=datetime) as clock:
        clock.now.return_value = later
        extended = repository.extend_locks()
    listed = repository.location.list("")
    assert extended == len(listed) > 3
    for info in listed:
        assert thief.lock_of(f"r/{info.path}")[1] - later >= timedelta(days=DAYS) - timedelta(seconds=1)


@pytest.mark.xdist_group("prefect")
@pytest.mark.usefixtures("prefect_server")
def test_a_flow_extends_locks(thief: Thief, options: dict[str, Any]) -> None:
    repository = Repository(thief.url, storage_options=options)
    SnapshotManager(repository, name="m").save_snapshot(1, "one")
    later = datetime.now(UTC) + timedelta(days=DAYS / 2 + 1)
    with patch.object(object_locks, "datetime", wraps=datetime) as clock, use_repository(repository):
        clock.now.return_value = later
        count = extend_locks()
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[LOCKS])))
    assert count > 2
    [page] = [one for one in found if thief.url in str(one.description)]
    assert f"The locks of {count} objects were extended" in str(page.description)


def test_a_thief_who_stores_the_same_again_without_a_lock_and_waits_destroys_nothing(
    thief: Thief, options: dict[str, Any]
) -> None:
    """The locks of the versions behind end some day: until then, what is there now gets locks."""
    repository = Repository(thief.url, storage_options=options)
    SnapshotManager(repository, name="m").save_snapshot(bytes(100_000), "one")
    infos = repository.location.list("")
    for info in infos:
        again = repository.location.read(info.path)
        thief.overwrite(f"r/{info.path}", again)
    assert repository.check(read_data=True).ok, "nobody notices"
    assert repository.extend_locks() == len(infos) > 3
    for info in infos:
        assert thief.lock_of(f"r/{info.path}")[1] - datetime.now(UTC) > timedelta(days=DAYS - 1)
    assert repository.extend_locks() == 0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"object_lock_days": 0}, "whole number from 1"),
        ({"object_lock_days": "30 days"}, "whole number from 1"),
        ({"object_lock_days": 30, "object_lock_mode": "strict"}, "GOVERNANCE, COMPLIANCE"),
        ({"object_lock_days": None, "object_lock_mode": "COMPLIANCE"}, "needs object_lock_days"),
        ({"as_of": "yesterday"}, "yesterday"),
    ],
)
def test_wrong_options_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        open_location("s3://bucket/r", wrong)


@pytest.mark.parametrize("option", ["object_lock_days", "object_lock_mode", "as_of"])
@pytest.mark.parametrize("scheme", ["", "file://", "memory://", "ftp://host"])
def test_options_are_refused_where_nothing_can_be_locked(scheme: str, option: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=f"only buckets of S3 and GCS .* Leave out {option}: here"):
        Repository(f"{scheme}{tmp_path}", storage_options={option: 1})


def test_what_cannot_be_locked_says_so(tmp_path: Path, thief: Thief) -> None:
    directory = Repository(tmp_path / "repository")
    SnapshotManager(directory).save_snapshot(1)
    with pytest.raises(UnsupportedStorage, match="cannot be locked"):
        directory.extend_locks()
    unlocked = Repository(thief.url, storage_options=thief.options)
    SnapshotManager(unlocked).save_snapshot(1)
    with pytest.raises(InvalidArgument, match="object_lock_days"):
        unlocked.extend_locks()
