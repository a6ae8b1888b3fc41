"""Locations: creating is exclusive and durable, reading and listing are exact, and every failure has a name.

Every kind of storage passes the same tests. Those of contending writers, lost replies and denied calls run against real
servers; that a server which ignores preconditions is refused, too.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import pickle
import resource
import secrets
import socket
import stat
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest
import servers
from botocore.loaders import JSONFileLoader
from fsspec.implementations.local import LocalFileSystem
from hypothesis import given
from hypothesis import strategies as st
from servers import BUCKET, Proxy, Storage

from prefect_snapshots import Repository, SnapshotManager, errors, private_files
from prefect_snapshots.repository.location import (
    LimitedLocation,
    LocalLocation,
    Location,
    files,
    limiting,
    object_store,
    open_location,
    s3,
)
from prefect_snapshots.repository.location.interface import LARGEST_READ, checked
from prefect_snapshots.testing import LocationContract, Place

EVERY_USE: list[Callable[[Location], object]] = [
    lambda location: location.read("a"),
    lambda location: location.read_range("a", 0, 1),
    lambda location: location.read_many(["a"]),
    lambda location: location.create("a", b"x"),
    lambda location: location.replace("a", b"x"),
    lambda location: location.list(""),
    lambda location: location.size("a"),
    lambda location: location.delete(["a"]),
    lambda location: location.is_empty(),
]


def opened(storage: Storage) -> Location:
    return open_location(storage.url, storage.storage_options)


@pytest.fixture
def local(local_storage: Storage) -> LocalLocation:
    found = opened(local_storage)
    assert isinstance(found, LocalLocation)
    return found


def paths(location: Location, prefix: str = "") -> list[str]:
    return [info.path for info in location.list(prefix)]


class TestEveryLocation(LocationContract):
    @pytest.fixture
    def place(self, storage: Storage, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Place:
        monkeypatch.setattr(self, "is_shared", "memory" not in request.node.name)
        return storage.url, storage.storage_options

    @pytest.fixture
    def contenders(self, request: pytest.FixtureRequest) -> int:
        # SeaweedFS makes contending creates wait for each other, a second each.
        return 4 if "seaweedfs" in request.node.name else 16

    @pytest.fixture
    def more_than_a_page(self, request: pytest.FixtureRequest) -> int:
        return 1100 if "gcs" in request.node.name else 50


class TestLimited(LocationContract):
    """A limit changes nothing but the time."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        return str(tmp_path / "location"), {}

    @pytest.fixture
    def location(self, place: Place) -> Location:
        return LimitedLocation(open_location(*place), 1e12)


def test_uploads_take_the_time_that_their_limit_says(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda seconds: now.__setitem__(0, now[0] + seconds))
    monkeypatch.setattr(limiting, "time", clock)
    repository = Repository("memory://limited", limit_upload=1_000_000)
    manager = SnapshotManager(repository)
    values = [secrets.token_bytes(5_000_000) for _ in range(4)]
    for value in values:
        manager.save_snapshot(value)
    sent = sum(info.size for info in repository.location.list("packs"))
    assert sent > 20_000_000
    # The last pack is sent without waiting for its own time.
    assert sent - 6_000_000 < now[0] * 1_000_000 < sent + 100_000
    now[0] += 3600
    manager.save_snapshot(values[0] + b"x")
    assert now[0] < 3600 + sent / 1_000_000 + 1, "what was not used is not owed"
    assert Repository("memory://limited").check(read_data=True).ok
    for wrong in (0, -1, float("nan"), "1", True):
        with pytest.raises(errors.InvalidArgument, match="limit_upload"):
            Repository("memory://limited", limit_upload=wrong)  # type: ignore[arg-type]


class TestObjectStores:
    def test_counts_what_goes_over_the_wire(self, behind_proxy: tuple[Storage, Proxy]) -> None:
        storage, proxy = behind_proxy
        location = opened(storage)
        location.create("a", b"1")
        location.create("b", b"2")
        assert proxy.requests == {"PUT": 2}, "creating looks nothing up"
        with pytest.raises(errors.ObjectMissing):
            location.read("nothing")
        assert proxy.requests == {"PUT": 2, "GET": 1}, "neither does reading"
        location.read_range("a", 0, 1)
        location.list("")
        location.delete(["a", "b"])
        proxy.answers = [(503, "SlowDown")]
        location.create("c", b"3")
        assert dict(location.requests) == proxy.requests

    def test_a_winner_whose_reply_is_lost_has_won(self, behind_proxy: tuple[Storage, Proxy]) -> None:
        storage, proxy = behind_proxy
        location = opened(storage)
        proxy.lost_replies = 1
        assert location.create("slot", b"ours")
        assert proxy.lost_replies == 0
        assert location.read("slot") == b"ours"

    def test_a_loser_whose_rival_lost_the_reply_has_lost(self, behind_proxy: tuple[Storage, Proxy]) -> None:
        storage, proxy = behind_proxy
        proxy.lost_replies = 1
        rival = opened(storage)
        assert rival.create("slot", b"theirs")
        assert not opened(storage).create("slot", b"ours")

    def test_whoever_may_not_delete_can_write(self, behind_proxy: tuple[Storage, Proxy]) -> None:
        storage, proxy = behind_proxy
        proxy.denied = frozenset({"DELETE"})
        location = opened(storage)
        location.prove_exclusive()
        assert location.is_empty(), "the probe that stays behind is nothing"
        assert location.create("object", b"data")
        with pytest.raises(errors.PermissionDenied, match=r"credentials"):
            location.delete(["object"])
        assert location.read("object") == b"data"

    def test_whoever_may_not_write_can_read(self, behind_proxy: tuple[Storage, Proxy]) -> None:
        storage, proxy = behind_proxy
        location = opened(storage)
        location.create("object", b"data")
        proxy.denied = frozenset({"PUT", "DELETE"})
        for write in (lambda: location.create("another", b"x"), lambda: location.replace("object", b"x")):
            with pytest.raises(errors.PermissionDenied, match=r"object|another"):
                write()
        writer = location.writer("object")
        writer.write(b"x")
        with pytest.raises(errors.PermissionDenied):
            writer.close()
        assert location.read("object") == b"data"
        assert paths(location) == ["object"]

    def test_whoever_may_not_read_is_told_so(self, behind_proxy: tuple[Storage, Proxy]) -> None:
        storage, proxy = behind_proxy
        proxy.denied = frozenset({"GET", "LIST", "HEAD"})
        location = opened(storage)
        for read in (
            lambda: location.read("a"),
            lambda: location.read_many(["a"]),
            lambda: location.size("a"),
            lambda: location.list(""),
        ):
            with pytest.raises(errors.PermissionDenied):
                read()

    def test_a_reply_that_breaks_off_is_asked_for_again(self, behind_proxy: tuple[Storage, Proxy]) -> None:
        storage, proxy = behind_proxy
        location = opened(storage)
        data = secrets.token_bytes(200_000)
        location.create("object", data)
        proxy.cut_replies = 1
        assert location.read("object") == data
        assert proxy.requests["GET"] == 2

    def test_a_missing_bucket_is_named(self, behind_proxy: tuple[Storage, Proxy]) -> None:
        storage, _ = behind_proxy
        location = opened(Storage(storage.url.replace(BUCKET, "no-such-bucket"), storage.storage_options))
        for use in (lambda: location.list(""), lambda: location.create("object", b"x")):
            with pytest.raises(errors.StorageError, match=r"Create the bucket") as caught:
                use()
            assert type(caught.value) is errors.StorageError

    def test_markers_of_folders_are_no_objects(self, s3_storage: Storage) -> None:
        location = opened(s3_storage)
        files, root = fsspec.core.url_to_fs(s3_storage.url, **s3_storage.storage_options, skip_instance_cache=True)
        files.pipe_file(f"{root}/folder/", b"")
        assert location.is_empty()
        assert location.list("") == []

    @pytest.mark.parametrize("server", [servers.rclone, servers.s3rver])
    def test_a_server_that_ignores_preconditions_is_refused(
        self, server: Callable[[Path], contextlib.AbstractContextManager[str]], tmp_path: Path
    ) -> None:
        with server(tmp_path / "server") as endpoint:
            location = opened(Storage(f"s3://{BUCKET}/somewhere", servers.s3_options(endpoint)))
            with pytest.raises(errors.UnsupportedStorage, match="single_writer=True"):
                location.prove_exclusive()
            assert location.is_empty()


class TestWrongOptions:
    @pytest.mark.parametrize(
        ("url", "options"),
        [
            ("s3://bucket", {"client_kwargs": {"no_such": 1}}),
            ("s3://bucket", {"client_kwargs": "eu-west-1"}),
            ("s3://bucket", {"config_kwargs": {"no_such": 1}}),
            ("s3://bucket", {"config_kwargs": 5}),
            ("s3://bucket", {"endpoint_url": "no url", "key": "a", "secret": "b"}),
            ("gs://bucket", {"token": {"no_such": 1}}),
            ("gs://bucket", {"token": 5}),
            ("gs://bucket", {"token": "anon", "session_kwargs": 5}),
            ("ftp://host/folder", {"no_such": 1, "port": "x"}),
        ],
    )
    def test_are_refused_by_the_first_request(self, url: str, options: dict[str, Any]) -> None:
        location = open_location(url, options)
        for use in EVERY_USE:
            with pytest.raises(errors.InvalidArgument, match=rf"{url}: the URL or storage_options do not fit"):
                use(location)

    def test_that_only_show_later_have_a_name_too(self, s3_storage: Storage) -> None:
        location = opened(Storage(s3_storage.url, s3_storage.storage_options | {"s3_additional_kwargs": "none"}))
        with pytest.raises(errors.StorageError, match="storage_options"):
            location.read("a")

    def test_google_that_cannot_be_asked_about_a_token_is_unavailable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("HTTPS_PROXY", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{servers.free_ports(1)[0]}")
        location = open_location("gs://bucket", {"token": "ya29.secret"})
        with pytest.raises(errors.StorageUnavailable, match="Check the network") as caught:
            location.read("a")
        assert "ya29.secret" not in str(caught.value)


def test_a_list_in_memory_is_one_of_a_moment() -> None:
    """Garbage may be collected at any time, and let other threads run, which store something."""
    location = open_location(f"memory://{uuid.uuid4().hex}")
    for number in range(3_000):
        location.create(f"a/{number}", b"x")
    more = iter(range(1_000))

    class Garbage:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            for number in more:
                location.create(f"b/{number}", b"y")
                Garbage()
                break

    threshold = gc.get_threshold()
    Garbage()
    gc.set_threshold(1, 1_000_000)
    try:
        assert len(location.list("a")) == 3_000
    finally:
        gc.set_threshold(*threshold)


def test_nothing_in_the_data_ends_an_upload(gcs_storage: Storage) -> None:
    """To Google, an object is sent as a part of a message, and gcsfs always separates the parts by the same line."""
    location = open_location(gcs_storage.url, gcs_storage.storage_options)
    data = b"before\r\n--==0==--\r\nbehind\n--==0==--\nand more"
    assert location.create("a", data)
    assert location.read("a") == data


def test_an_answer_of_s3_that_never_ends_fills_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "LARGEST_READ", 100_000)
    with servers.endless_s3() as endpoint:
        location = open_location(f"s3://{BUCKET}/endless", servers.s3_options(endpoint))
        for read in (location.read, lambda path: location.read_range(path, 0, 100)):
            with pytest.raises(errors.DamagedObject, match="object is damaged: it has more than 100"):
                read("object")


class TestUncertainCreates:
    """On S3, where a retry costs no second of waiting."""

    @pytest.fixture
    def proxy(self, moto_endpoint: str) -> Iterator[Proxy]:
        with servers.dropping_proxy(moto_endpoint) as proxy:
            yield proxy

    @pytest.fixture
    def location(self, proxy: Proxy, s3_storage: Storage) -> Location:
        options = servers.s3_options(proxy.endpoint) | {"config_kwargs": {"retries": {"total_max_attempts": 1}}}
        return open_location(s3_storage.url, options)

    def test_it_is_unknown_whether_a_request_without_an_answer_landed(self, proxy: Proxy, location: Location) -> None:
        proxy.dead = frozenset({"PUT"})
        with pytest.raises(errors.StorageUnavailable, match="slot"):
            location.create("slot", b"ours")
        proxy.dead = frozenset()
        assert location.create("slot", b"ours")

    def test_reading_back_settles_it(self, proxy: Proxy, location: Location) -> None:
        location.create("landed", b"ours")
        location.create("lost", b"theirs")
        proxy.dead = frozenset({"PUT"})
        assert location.create("landed", b"ours")
        assert not location.create("lost", b"ours")

    def test_a_conflict_is_no_loss_and_tried_again(self, proxy: Proxy, location: Location) -> None:
        proxy.answers = [(409, "ConditionalRequestConflict"), (409, "ConditionalRequestConflict")]
        assert location.create("slot", b"ours")
        assert proxy.requests["PUT"] == 3

    def test_a_conflict_without_end_is_unknown(
        self, proxy: Proxy, location: Location, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(object_store, "ATTEMPTS", 3)
        proxy.answers = [(409, "ConditionalRequestConflict")] * 100
        with pytest.raises(errors.StorageUnavailable, match="other writers"):
            location.create("slot", b"ours")

    @pytest.mark.parametrize(
        ("status", "code", "expected"),
        [
            (501, "NotImplemented", errors.UnsupportedStorage),
            (507, "XMinioStorageFull", errors.StorageFull),
            (400, "ExpiredToken", errors.PermissionDenied),
            (403, "SignatureDoesNotMatch", errors.PermissionDenied),
            (503, "ServiceUnavailable", errors.StorageUnavailable),
            (400, "InvalidRequest", errors.StorageError),
        ],
    )
    def test_names_what_the_server_says(
        self, proxy: Proxy, location: Location, status: int, code: str, expected: type[Exception]
    ) -> None:
        proxy.answers = [(status, code)] * 10
        with pytest.raises(expected, match=code) as caught:
            location.create("slot", b"ours")
        assert type(caught.value) is expected

    def test_a_dead_server_is_unavailable(self, s3_storage: Storage) -> None:
        options = servers.s3_options(f"http://127.0.0.1:{servers.free_ports(1)[0]}")
        location = open_location(s3_storage.url, options | {"config_kwargs": {"retries": {"total_max_attempts": 1}}})
        for use in (lambda: location.read("a"), lambda: location.create("a", b"x"), lambda: location.list("")):
            with pytest.raises(errors.StorageUnavailable, match="Check the network"):
                use()


def write_past_the_cache(local: LocalLocation, path: str, data: bytes) -> None:
    writer = local.writer(path, read_soon=False)
    writer.write(data)
    writer.close()


class TestDirectories:
    @pytest.mark.parametrize("publish", files.WAYS)
    def test_every_way_to_publish_is_exclusive(self, local: LocalLocation, publish: Any) -> None:
        local._ways[:] = [publish]
        local.prove_exclusive()
        assert local.create("folder/object", b"first")
        assert not local.create("folder/object", b"second")
        assert local.read("folder/object") == b"first"
        assert local.leftovers() == []
        assert local._ways == [publish]

    def test_what_a_file_system_lacks_is_tried_once(self, local: LocalLocation) -> None:
        def lacking(directory: int, name: str, data: bytes, mode: int) -> bool:
            raise files.WayUnknown

        local._ways[:] = [lacking, *files.WAYS]
        assert local.create("object", b"x")
        assert local._ways == list(files.WAYS)

    def test_a_file_system_without_any_exclusive_call_is_refused(self, local: LocalLocation) -> None:
        local._ways.clear()
        with pytest.raises(errors.UnsupportedStorage, match="single_writer=True"):
            local.prove_exclusive()

    @pytest.mark.parametrize("write", [LocalLocation.create, LocalLocation.replace, write_past_the_cache])
    def test_the_file_and_all_new_directories_are_synced(
        self, local: LocalLocation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any
    ) -> None:
        synced = []
        sizes = {}
        sync = os.fsync

        def record(descriptor: int) -> None:
            sync(descriptor)
            synced.append(os.fstat(descriptor).st_ino)
            sizes[synced[-1]] = os.fstat(descriptor).st_size

        monkeypatch.setattr(os, "fsync", record)
        data = b"data" * 400_001
        write(local, "packs/ab/0001", data)
        root = tmp_path / "repository"
        file, *directories = [
            path.stat().st_ino for path in (root / "packs/ab/0001", root / "packs/ab", root / "packs", root, tmp_path)
        ]
        assert set(directories) <= set(synced)
        assert synced[-2:] == [file, directories[0]], "the data before the name"
        assert sizes[file] == len(data), "all of it"
        synced.clear()
        write(local, "packs/ab/0002", b"data")
        assert len(synced) == 2

    def test_after_a_failed_sync_nothing_is_published(
        self, local: LocalLocation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        local.create("there", b"x")
        writer = local.writer("written")
        writer.write(b"data")

        def fail(descriptor: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", fail)
            with pytest.raises(errors.StorageError, match="created"):
                local.create("created", b"data")
            with pytest.raises(errors.StorageError, match="replaced"):
                local.replace("replaced", b"data")
            with pytest.raises(errors.StorageError, match="written"):
                writer.close()
        assert paths(local) == ["there"]
        assert local.leftovers() == []

    def test_it_is_unknown_what_a_directory_that_cannot_be_synced_keeps(
        self, local: LocalLocation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        local.create("there", b"x")
        sync = os.fsync

        def fail(descriptor: int) -> None:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(errno.EIO, "Input/output error")
            sync(descriptor)

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", fail)
            with pytest.raises(errors.StorageUnavailable, match="not known"):
                local.create("object", b"data")
            with pytest.raises(errors.StorageUnavailable, match="not known"):
                local.create("object", b"data")
        assert local.create("object", b"data")

    def test_a_full_disk_publishes_nothing(self, small_disk: Path) -> None:
        local = open_location(small_disk / "repository")
        local.create("small", b"x")
        big = secrets.token_bytes(2 << 20)
        with pytest.raises(errors.StorageFull, match=r"big.*Free some space"):
            local.create("big", big)
        with pytest.raises(errors.StorageFull, match="big"):
            local.replace("big", big)
        writer = local.writer("big")
        with pytest.raises(errors.StorageFull, match="big"):
            writer.write([big])
        writer.abort()
        assert paths(local) == ["small"]
        assert local.leftovers() == []
        assert local.create("another", big[:1000]), "what failed takes no space"

    def test_a_limit_on_file_sizes_counts_as_full(self, local: LocalLocation) -> None:
        local.create("small", b"x")
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            with pytest.raises(errors.StorageFull, match="ulimit"):
                local.create("big", bytes(2000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert paths(local) == ["small"]

    def test_a_directory_of_somebody_else_is_denied(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            os.chmod(directory, 0o755)
            local = open_location(directory, {"umask": "022"})
            local.create("folder/object", b"data")
            os.chmod(f"{directory}/folder", 0o555)
            uses: list[Callable[[], object]] = [
                lambda: local.create("folder/another", b"x"),
                lambda: local.replace("folder/object", b"x"),
                lambda: local.writer("folder/another"),
                lambda: local.create("new/object", b"x"),
                lambda: local.delete(["folder/object"]),
            ]
            with _without_privileges():
                assert local.read("folder/object") == b"data"
                for use in uses:
                    with pytest.raises(errors.PermissionDenied, match="owner"):
                        use()
            os.chmod(f"{directory}/folder", 0o755)
            assert paths(local) == ["folder/object"]

    def test_what_a_killed_writer_left_is_hidden_and_can_be_removed(self, local: LocalLocation) -> None:
        script = (
            "import os, sys\n"
            "from prefect_snapshots.repository.location import open_location\n"
            "open_location(sys.argv[1]).writer('packs/ab/0001').write(b'half of it')\n"
            "os.kill(os.getpid(), 9)\n"
        )
        killed = subprocess.run([sys.executable, "-c", script, local.url], check=False)
        assert killed.returncode == -9
        assert local.list("") == []
        assert local.is_empty()
        (leftover,) = local.leftovers()
        assert leftover.size == len(b"half of it")
        local.delete([leftover.path])
        assert local.leftovers() == []

    def test_creates_again_in_a_directory_that_was_removed(self, local: LocalLocation, tmp_path: Path) -> None:
        local.create("packs/ab/0001", b"x")
        local.delete(["packs/ab/0001"])
        (tmp_path / "repository/packs/ab").rmdir()
        (tmp_path / "repository/packs").rmdir()
        assert local.create("packs/ab/0001", b"again")

    @pytest.mark.parametrize(
        ("options", "process", "file", "folder"),
        [
            ({}, 0o022, 0o600, 0o700),
            ({}, 0o000, 0o600, 0o700),
            ({"umask": "027"}, 0o022, 0o640, 0o750),
            ({"umask": "027"}, 0o077, 0o600, 0o700),
            ({"umask": "0002"}, 0o000, 0o664, 0o775),
        ],
    )
    def test_nobody_else_can_read_a_repository_unless_the_user_says_so(
        self, tmp_path: Path, options: dict[str, Any], process: int, file: int, folder: int
    ) -> None:
        local = open_location(tmp_path / "above" / "repository", options)
        before = os.umask(process)
        try:
            local.create("packs/created", b"x")
            local.replace("packs/replaced", b"x")
            for read_soon in (True, False):
                writer = local.writer(f"packs/written-{read_soon}", read_soon=read_soon)
                writer.write(b"x")
                writer.close()
            appender, locks = local.appender("logs/appended"), local.locks("logs/locks")
            assert appender is not None
            assert locks is not None
            appender.close()
            locks.close()
        finally:
            os.umask(before)
        found = {path: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
        assert len(found) == 10
        for path, mode in found.items():
            assert mode == (folder if path.is_dir() else file), path

    @pytest.mark.parametrize("way", files.WAYS)
    def test_every_way_to_publish_hides_the_file(self, local: LocalLocation, tmp_path: Path, way: Any) -> None:
        local._ways[:] = [way]
        before = os.umask(0)
        try:
            local.create("object", b"x")
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "repository/object").stat().st_mode) == 0o600

    def test_one_setting_is_for_everything(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PREFECT_INTEGRATIONS_SNAPSHOTS_UMASK", "027")
        before = os.umask(0)
        try:
            open_location(tmp_path / "r").create("object", b"x")
            with private_files.create_file(tmp_path / "export") as file:
                file.write(b"x")
            (tmp_path / "other").touch()
            private_files.as_private(tmp_path / "other")
            monkeypatch.delenv("PREFECT_INTEGRATIONS_SNAPSHOTS_UMASK")
            SnapshotManager().save_to_file(tmp_path / "saved")
        finally:
            os.umask(before)
        modes = {
            name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("r/object", "export", "other", "saved")
        }
        assert modes == {"r/object": 0o640, "export": 0o640, "other": 0o640, "saved": 0o600}

    @pytest.mark.parametrize("umask", [22, 0o22, "8", "", "01234", "0x1", ["077"]])
    def test_an_umask_is_octal_digits(self, tmp_path: Path, umask: object) -> None:
        with pytest.raises(errors.InvalidArgument, match="octal"):
            open_location(tmp_path, {"umask": umask})

    def test_a_folder_may_lie_on_another_disk(self, local: LocalLocation, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "repository").mkdir()
        (tmp_path / "repository/packs").symlink_to(tmp_path / "elsewhere")
        local.create("packs/ab/0001", b"x")
        assert (tmp_path / "elsewhere/ab/0001").exists()
        assert paths(local) == ["packs/ab/0001"]

    @pytest.mark.parametrize("depth", ["packs/ab", "packs/ab/cd"])
    def test_links_within_a_folder_are_not_followed(self, local: LocalLocation, tmp_path: Path, depth: str) -> None:
        """Whoever may write to a repository could make somebody else write and delete elsewhere."""
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "0001").write_bytes(b"precious")
        link = tmp_path / "repository" / depth
        link.parent.mkdir(parents=True)
        link.symlink_to(elsewhere)
        uses: list[Callable[[], object]] = [
            lambda: local.delete([f"{depth}/0001"]),
            lambda: local.create(f"{depth}/0002", b"x"),
            lambda: local.replace(f"{depth}/0001", b"x"),
            lambda: local.writer(f"{depth}/0002"),
            lambda: local.appender(f"{depth}/0002"),
            lambda: local.locks(f"{depth}/0002"),
        ]
        for use in uses:
            with pytest.raises(errors.PermissionDenied, match="symbolic link"):
                use()
        assert paths(local) == [depth], "the link itself is found"
        local.delete([depth])
        assert [path.name for path in elsewhere.iterdir()] == ["0001"]
        assert (elsewhere / "0001").read_bytes() == b"precious"
        assert not link.is_symlink()

    @pytest.mark.parametrize("by_a_link", [False, True], ids=["a directory", "a link"])
    def test_a_directory_that_was_exchanged_after_its_use(
        self, local: LocalLocation, tmp_path: Path, by_a_link: bool
    ) -> None:
        """It is still open, but what is at its path now counts."""
        folder = tmp_path / "repository/packs/ab"
        local.create("packs/ab/0001", b"x")
        folder.rename(tmp_path / "elsewhere")
        if by_a_link:
            folder.symlink_to(tmp_path / "elsewhere")
            with pytest.raises(errors.PermissionDenied, match="symbolic link"):
                local.create("packs/ab/0002", b"x")
        else:
            folder.mkdir()
            local.create("packs/ab/0002", b"x")
            assert [path.name for path in folder.iterdir()] == ["0002"]
        assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["0001"]

    def test_few_directories_are_held_open(self, local: LocalLocation) -> None:
        before = len(os.listdir("/proc/self/fd"))
        for number in range(100):
            local.create(f"packs/{number:02}/0001", b"x")
        assert 0 < len(os.listdir("/proc/self/fd")) - before <= 32

    def test_a_link_of_somebody_else_is_not_followed(self, local: LocalLocation, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere/0001").write_bytes(b"precious")
        (tmp_path / "repository").mkdir()
        (tmp_path / "repository/packs").symlink_to(tmp_path / "elsewhere")
        root = [] if os.geteuid() == 0 else ["sudo", "-n"]
        subprocess.run([*root, "chown", "-h", "65534:65534", tmp_path / "repository/packs"], check=True)
        uses: list[Callable[[], object]] = [
            lambda: local.list(""),
            lambda: local.delete(["packs/0001"]),
            lambda: local.create("packs/0002", b"x"),
        ]
        for use in uses:
            with pytest.raises(errors.PermissionDenied, match="belong to you"):
                use()
        assert (tmp_path / "elsewhere/0001").read_bytes() == b"precious"

    @pytest.mark.parametrize("what", ["pipe", "socket"])
    def test_what_is_no_file_is_damage_and_never_waited_for(
        self, local: LocalLocation, tmp_path: Path, what: str
    ) -> None:
        local.create("folder/object", b"x")
        place = tmp_path / "repository/folder/special"
        if what == "pipe":
            os.mkfifo(place)
        else:
            with socket.socket(socket.AF_UNIX) as listening, contextlib.chdir(place.parent):
                listening.bind(place.name)
        uses: list[Callable[[], object]] = [
            lambda: local.read("folder/special"),
            lambda: local.read_range("folder/special", 0, 1),
            lambda: local.read_into("folder/special", 0, memoryview(bytearray(1))),
            lambda: local.read_many(["folder/special"]),
        ]
        for use in uses:
            with pytest.raises((errors.DamagedObject, errors.StorageError), match="special"):
                use()
        assert local.size("folder/special") is None
        assert paths(local) == ["folder/object", "folder/special"]

    def test_a_file_that_is_too_large_to_be_ours_is_not_read(self, local: LocalLocation, tmp_path: Path) -> None:
        local.create("huge", b"x")
        os.truncate(tmp_path / "repository/huge", LARGEST_READ + 1)
        for read in (local.read, lambda path: local.read_many([path])):
            with pytest.raises(errors.DamagedObject, match="more than 1,073,741,824 bytes"):
                read("huge")
        assert local.read_range("huge", 0, 2) == b"x\0"
        assert local.size("huge") == LARGEST_READ + 1

    @given(st.text(max_size=30) | st.lists(st.sampled_from(["..", ".", "", "a", "/", "\0", "~"])).map("/".join))
    def test_no_path_leads_out(self, path: str) -> None:
        root = "/nowhere/repository"
        local = open_location(root)
        try:
            full = local._full(checked(path))  # type: ignore[attr-defined]
        except errors.InvalidName:
            return
        assert os.path.normpath(full) == full
        assert full.startswith(f"{root}/")


@contextlib.contextmanager
def _without_privileges() -> Iterator[None]:
    """As a user to whom permissions apply, which is not so for root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


class _Plain(LocalFileSystem):  # type: ignore[misc]
    """A file system that is none of those that we know."""

    protocol = "plain"


class TestOtherFileSystems:
    @pytest.fixture
    def location(self, tmp_path: Path) -> Location:
        fsspec.register_implementation("plain", _Plain, clobber=True)
        return open_location(f"plain://{tmp_path}/repository")

    def test_holds_a_repository_of_a_single_writer(self, location: Location) -> None:
        assert location.is_empty()
        assert location.create("a/1", b"first")
        assert not location.create("a/1", b"second")
        location.replace("a/2", b"0123456789")
        assert location.read_many(["a/2", "a/3", "a/1"]) == [b"0123456789", None, b"first"]
        assert location.read_range("a/2", 8, 10) == b"89"
        target = bytearray(4)
        assert location.read_into("a/2", 2, memoryview(target)) == 4
        assert target == b"2345"
        writer = location.writer("packs/ab/1")
        writer.write([b"pa", b"ck"])
        writer.close()
        assert [(info.path, info.size) for info in location.list("")] == [("a/1", 5), ("a/2", 10), ("packs/ab/1", 4)]
        assert paths(location, "packs") == ["packs/ab/1"]
        assert (location.size("a/1"), location.size("a"), location.size("a/3")) == (5, None, None)
        with pytest.raises(errors.ObjectMissing):
            location.read("a/3")
        location.delete(["a/1", "a/3"])
        assert paths(location) == ["a/2", "packs/ab/1"]
        assert pickle.loads(pickle.dumps(location)).read("packs/ab/1") == b"pack"

    def test_is_refused_to_several_writers(self, location: Location) -> None:
        with pytest.raises(errors.UnsupportedStorage, match="single_writer=True"):
            location.prove_exclusive()

    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            (FileNotFoundError("a/1"), errors.ObjectMissing),
            (PermissionError("a/1"), errors.PermissionDenied),
            (TimeoutError(), errors.StorageUnavailable),
            (EOFError(), errors.StorageError),
        ],
    )
    def test_what_it_raises_has_a_name(
        self, location: Location, monkeypatch: pytest.MonkeyPatch, error: Exception, expected: type[Exception]
    ) -> None:
        """File systems that are written in Python raise errors without a number, and some of their own."""

        def fail(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(_Plain, "cat_file", fail)
        with pytest.raises(errors.StorageError, match="a/1") as caught:
            location.read("a/1")
        assert type(caught.value) is expected
        assert caught.value.__cause__ is error

    def test_a_dead_server_is_unavailable(self) -> None:
        location = open_location(f"ftp://127.0.0.1:{servers.free_ports(1)[0]}/folder")
        for use in EVERY_USE:
            with pytest.raises(errors.StorageUnavailable, match="Check the network"):
                use(location)

    def test_a_server_that_refuses_is_quoted(self) -> None:
        with servers.refusing_ftp() as port:
            location = open_location(f"ftp://somebody:secret@127.0.0.1:{port}/folder")
            for use in EVERY_USE:
                with pytest.raises(errors.StorageError, match="530 Not you") as caught:
                    use(location)
                assert "secret" not in str(caught.value)

    @pytest.mark.parametrize("url", ["ftp://host:port/folder", "ftp://[1/folder", "ftp:///folder"])
    def test_a_url_that_is_none_is_refused(self, url: str) -> None:
        location = open_location(url)
        for use in EVERY_USE:
            with pytest.raises(errors.InvalidArgument, match="Correct them"):
                use(location)


class TestURLs:
    @pytest.mark.parametrize(
        ("url", "canonical"),
        [
            ("data", "file://{cwd}/data"),
            ("./data/../data/", "file://{cwd}/data"),
            ("/data/a b@c:d", "file:///data/a b@c:d"),
            ("file:///data", "file:///data"),
            (Path("/data/snapshots"), "file:///data/snapshots"),
            ("~/data", "file://{home}/data"),
            ("memory://name/below/", "memory://name/below"),
            ("s3://bucket/prefix/", "s3://bucket/prefix"),
            ("s3a://bucket", "s3://bucket"),
            ("gcs://bucket/a/b", "gs://bucket/a/b"),
            ("ftp://user:secret@host/folder", "ftp://user@host/folder"),
            ("https://host/folder?token=secret", "https://host/folder"),
        ],
    )
    def test_have_one_form_without_secrets(
        self, url: str | Path, canonical: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        location = open_location(url, {"key": "secret"})
        assert location.url == canonical.format(cwd=tmp_path, home=Path.home())
        assert "secret" not in repr(location)
        assert pickle.loads(pickle.dumps(location)).url == location.url

    @pytest.mark.parametrize(
        ("url", "why"),
        [
            ("", "has no path"),
            ("s3://", "has no path"),
            ("s3:///", "has no path"),
            ("memory://", "has no path"),
            ("simplecache::s3://bucket", "chained"),
            ("nonsense://place", "nonsense"),
            ("s3:/bucket/x", r"did you mean s3://bucket/x\?"),
            ("GS:bucket", r"did you mean GS://bucket\?"),
            ("sftp:/user:secret@host/x", r"did you mean sftp://user@host/x\?"),
            ("file:/data", r"did you mean file:///data\?"),
        ],
    )
    def test_that_name_no_place_are_refused(self, url: str, why: str) -> None:
        with pytest.raises(errors.InvalidArgument, match=why):
            open_location(url)

    @pytest.mark.parametrize(
        ("url", "package", "extra"), [("s3://bucket", "s3fs", "s3"), ("gs://bucket", "gcsfs", "gcs")]
    )
    def test_name_the_extra_that_is_missing(
        self, url: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(errors.MissingDependency, match=rf'pip install "prefect-snapshots\[{extra}\]"'):
            open_location(url)

    def test_opening_touches_nothing(self, tmp_path: Path) -> None:
        location = open_location(tmp_path / "a" / "b")
        assert location.is_empty()
        assert location.list("") == []
        assert location.read_many(["x"]) == [None]
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("replaced", [False, True])
def test_a_directory_that_was_removed_meanwhile_is_not_written_to(tmp_path: Path, replaced: bool) -> None:
    """What was saved would refer to data that is gone."""
    place = tmp_path / "repository"
    manager = SnapshotManager(Repository(place), name="m")
    manager.save_snapshot(bytes(100_000), "one")
    place.rename(tmp_path / "elsewhere")
    if replaced:
        place.mkdir()
    with pytest.raises(errors.RepositoryChanged, match="replaced by another one" if replaced else "removed"):
        manager.save_snapshot(bytes(100_000), "two")
    assert list(tmp_path.glob("repository/*")) == []
    fresh = SnapshotManager(Repository(place), name="m")
    fresh.save_snapshot(bytes(100_000), "two")
    assert fresh.repository is not None
    assert fresh.repository.check(read_data=True).ok


def test_a_second_client_of_s3_parses_nothing_again(moto_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options, parsed, parse = servers.s3_options(moto_endpoint), [], JSONFileLoader.load_file
    assert open_location(f"s3://{BUCKET}/one", options).size("missing") is None

    def noted(loader: JSONFileLoader, path: str) -> Any:
        parsed.append(path)
        return parse(loader, path)

    monkeypatch.setattr(JSONFileLoader, "load_file", noted)
    assert open_location(f"s3://{BUCKET}/two", options).size("missing") is None
    assert parsed == []


@pytest.mark.parametrize(("url", "meant"), [("s4://bucket", "s3"), ("GSS://bucket", "gs"), ("stfp://host/a", "sftp")])
def test_a_misspelt_scheme_is_hinted(url: str, meant: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=rf":// URLs\. Did you mean {meant}://\? Pass"):
        open_location(url)
    with pytest.raises(errors.InvalidArgument, match=r"xyzzy:// URLs\. Pass"):
        open_location("xyzzy://bucket")
