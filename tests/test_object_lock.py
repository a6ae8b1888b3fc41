"""Buckets with Object Lock: whoever steals a writer's key can destroy nothing that was stored before."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import servers
from s3fs import S3FileSystem

from prefect_snapshots import ArtifactRegistry, BackupManager, Repository, SnapshotManager
from prefect_snapshots.errors import InvalidArgument, PermissionDenied, RepositoryNotFound, UnsupportedStorage
from prefect_snapshots.repository.location import open_location, s3_versions

DAYS = 30


class Thief:
    """Somebody with the key of a writer, who may do whatever S3 lets a key do, but not bypass a lock."""

    def __init__(self, endpoint: str, bucket: str) -> None:
        self.bucket = bucket
        self._store = S3FileSystem(**servers.s3_options(endpoint), use_listings_cache=False, skip_instance_cache=True)

    def call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._store.call_s3(operation, Bucket=self.bucket, **arguments)
        return answer

    def versions(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        marker: dict[str, str] = {}
        while True:
            page = self.call("list_object_versions", **marker)
            found += page.get("Versions", [])
            if not page.get("IsTruncated"):
                return found
            marker = {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page["NextVersionIdMarker"]}


@pytest.fixture
def thief(moto_endpoint: str) -> Thief:
    """With a bucket of its own, whose objects can be locked."""
    found = Thief(moto_endpoint, f"locked-{uuid.uuid4().hex}")
    found.call("create_bucket", ObjectLockEnabledForBucket=True)
    return found


@pytest.fixture
def options(moto_endpoint: str) -> dict[str, Any]:
    return {**servers.s3_options(moto_endpoint), "object_lock_days": DAYS}


def retention_of(thief: Thief, key: str) -> tuple[str, datetime]:
    found = thief.call("head_object", Key=key)
    return found["ObjectLockMode"], found["ObjectLockRetainUntilDate"]


def moment_between() -> datetime:
    """Return a time after all that was stored, and before what will be: S3 has our clock, and counts seconds."""
    second = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=1)
    while datetime.now(UTC) < second:
        time.sleep(0.01)
    return second - timedelta(milliseconds=1)


def test_every_object_is_locked(thief: Thief, options: dict[str, Any]) -> None:
    manager = SnapshotManager(Repository(f"s3://{thief.bucket}/r", storage_options=options), name="m")
    for number in range(3):
        manager.save_snapshot(bytes(100_000 + number), f"s{number}")
    objects = {version["Key"] for version in thief.versions() if "/probe/" not in version["Key"]}
    assert {key.split("/")[1] for key in objects} >= {"packs", "index", "catalog", "repository.json"}
    for key in objects:
        mode, end = retention_of(thief, key)
        assert mode == "GOVERNANCE"
        assert timedelta(days=DAYS - 1) < end - datetime.now(UTC) <= timedelta(days=DAYS)


def test_what_a_thief_destroys_comes_back(thief: Thief, options: dict[str, Any], tmp_path: Path) -> None:
    url = f"s3://{thief.bucket}/r"
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
    for version in locked:
        with pytest.raises(PermissionError):
            thief.call("delete_object", Key=version["Key"], VersionId=version["VersionId"])
    for number, key in enumerate({version["Key"] for version in locked}):
        if number % 2:
            thief.call("put_object", Key=key, Body=b"garbage")
        else:
            thief.call("delete_objects", Delete={"Objects": [{"Key": key}]})
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
    url = f"s3://{thief.bucket}/r"
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
    repository = Repository(f"s3://{thief.bucket}/r", storage_options=options)
    SnapshotManager(repository, name="m").save_snapshot(bytes(100_000), "one")
    assert repository.extend_locks() == 0, "all of them are new"
    later = datetime.now(UTC) + timedelta(days=DAYS / 2 + 1)
    with patch.object(s3_versions, "datetime", wraps=datetime) as clock:
        clock.now.return_value = later
        extended = repository.extend_locks()
    listed = repository.location.list("")
    assert extended == len(listed) > 3
    for info in listed:
        assert retention_of(thief, f"r/{info.path}")[1] - later >= timedelta(days=DAYS) - timedelta(seconds=1)


def test_a_thief_who_stores_the_same_again_without_a_lock_and_waits_destroys_nothing(
    thief: Thief, options: dict[str, Any]
) -> None:
    """The locks of the versions behind end some day: until then, what is there now gets locks."""
    repository = Repository(f"s3://{thief.bucket}/r", storage_options=options)
    SnapshotManager(repository, name="m").save_snapshot(bytes(100_000), "one")
    infos = repository.location.list("")
    for info in infos:
        again = repository.location.read(info.path)
        thief.call("put_object", Key=f"r/{info.path}", Body=again)
    assert repository.check(read_data=True).ok, "nobody notices"
    assert repository.extend_locks() == len(infos) > 3
    for info in infos:
        assert retention_of(thief, f"r/{info.path}")[1] - datetime.now(UTC) > timedelta(days=DAYS - 1)
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
@pytest.mark.parametrize("scheme", ["", "file://", "memory://", "gs://", "ftp://host"])
def test_options_are_refused_where_nothing_can_be_locked(scheme: str, option: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=f"only buckets of S3 .* Leave out {option}: here"):
        Repository(f"{scheme}{tmp_path}", storage_options={option: 1})


def test_what_cannot_be_locked_says_so(tmp_path: Path, moto_endpoint: str, thief: Thief) -> None:
    directory = Repository(tmp_path / "repository")
    SnapshotManager(directory).save_snapshot(1)
    with pytest.raises(UnsupportedStorage, match="cannot be locked"):
        directory.extend_locks()
    unlocked = Repository(f"s3://{thief.bucket}/r", storage_options=servers.s3_options(moto_endpoint))
    SnapshotManager(unlocked).save_snapshot(1)
    with pytest.raises(InvalidArgument, match="object_lock_days"):
        unlocked.extend_locks()
