"""Artifacts: what is logged comes back byte for byte, in versions that never change, found by number, alias and date.

Also what is refused, and with which words.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import stat
import threading
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from servers import Storage

from prefect_snapshots import ArtifactRegistry, Repository, RetentionPolicy, use_repository
from prefect_snapshots.artifacts import ArtifactInfo, ArtifactManager, ArtifactVersion, Download
from prefect_snapshots.errors import (
    ArtifactExpired,
    ArtifactNotFound,
    CommitConflict,
    DamagedVersion,
    InvalidArgument,
    InvalidName,
    ObjectMissing,
    ReadOnlyRepository,
)


@pytest.fixture
def registry(tmp_path: Path) -> ArtifactRegistry:
    return ArtifactRegistry(tmp_path / "repository")


@pytest.mark.timeout(30)
def test_an_artifact_without_versions_is_not_found_beside_others(registry: ArtifactRegistry) -> None:
    for name in ("gone", "other", "third"):
        registry.log_artifact(name, 1)
    registry.delete_artifact("gone")
    with pytest.raises(ArtifactNotFound, match=r"no artifact 'gone'\. There are: other, third"):
        registry.get_artifact("gone")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with everything that one may hold."""
    top = tmp_path / "folder"
    (top / "empty").mkdir(parents=True)
    (top / "deep" / "er").mkdir(parents=True)
    (top / "tool.sh").write_text("#!/bin/sh\necho hello\n")
    (top / "tool.sh").chmod(0o755)
    (top / "secret").write_bytes(b"")
    (top / "secret").chmod(0o600)
    (top / "deep" / "er" / "weights.bin").write_bytes(random.Random(0).randbytes(3_000_000))
    (top / "deep" / "ünïcode name").write_bytes(random.Random(1).randbytes(40_000))
    (top / "deep" / "link").symlink_to("../tool.sh")
    (top / "deep").chmod(0o750)
    return top


# --- parts, and folders on the disk ----------------------------------------------------------------------------------


def found_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_part_is_downloaded_by_patterns(registry: ArtifactRegistry, tmp_path: Path) -> None:
    with registry.log_folder("x") as logged:
        for path in ("a.csv", "plots/b.csv", "plots/deep/c.txt", "rest/d.txt"):
            (logged / path).parent.mkdir(parents=True, exist_ok=True)
            (logged / path).write_text(path)
        (logged / "empty").mkdir()
    wanted: dict[Any, list[str]] = {
        "*.csv": ["a.csv", "plots", "plots/b.csv"],
        ("plots/", "!b.csv"): ["plots", "plots/b.csv", "plots/deep", "plots/deep/c.txt"],
        "/rest/d.txt": ["rest", "rest/d.txt"],
        ("empty/",): ["empty"],
        "deep": ["plots", "plots/deep", "plots/deep/c.txt"],
    }
    for number, (patterns, files) in enumerate(wanted.items()):
        with registry.download_artifact("x", paths=patterns) as folder:
            assert found_in(folder) == files
        to = tmp_path / str(number)
        registry.download_artifact("x", to=to, paths=patterns)
        assert found_in(to) == files
        assert all(path.read_text() == str(path.relative_to(to)) for path in to.rglob("*") if path.is_file())
    with pytest.raises(InvalidArgument, match=r"No file of default/x:v0 matches '\*.zip'\. Nothing was changed"):
        registry.download_artifact("x", to=tmp_path / "none", paths="*.zip")
    assert not (tmp_path / "none").exists()


def test_a_part_reads_only_its_own_bytes(registry: ArtifactRegistry, tmp_path: Path) -> None:
    with registry.log_folder("x") as logged:
        for name in ("a", "b", "c"):
            (logged / name).write_bytes(random.Random(name).randbytes(3_000_000))
    seen: list[int] = []
    registry.download_artifact("x", to=tmp_path / "b", paths="b", progress=lambda what, done, total: seen.append(total))
    assert set(seen) == {3_000_000}
    assert (tmp_path / "b" / "b").read_bytes() == random.Random("b").randbytes(3_000_000)


def test_a_folder_is_compared_with_a_version_and_cleaned(registry: ArtifactRegistry, tmp_path: Path) -> None:
    with registry.log_folder("x") as logged:
        for name in ("same", "bytes", "longer", "mode", "gone", "kind"):
            (logged / name).write_text(name)
        (logged / "link").symlink_to("same")
        (logged / "sub").mkdir()
    to = tmp_path / "to"
    registry.download_artifact("x", to=to)
    assert registry.verify_folder("x", to) == []
    (to / "bytes").write_text("BYTES")
    (to / "longer").write_text("longer than before")
    (to / "mode").chmod(0o700)
    (to / "gone").unlink()
    (to / "kind").unlink()
    (to / "kind").mkdir()
    (to / "link").unlink()
    (to / "link").symlink_to("bytes")
    (to / "extra").write_text("x")
    found = {each.path: (each.kind, each.old, each.new) for each in registry.verify_folder("x", to)}
    assert {path: kind for path, (kind, _, _) in found.items()} == {
        "bytes": "changed",
        "extra": "added",
        "gone": "removed",
        "kind": "changed",
        "link": "changed",
        "longer": "changed",
        "mode": "changed",
    }
    assert found["link"][1:] == ("link to same", "link to bytes")
    assert found["mode"][1:] == ("4 bytes, mode 644", "4 bytes, mode 700")
    registry.download_artifact("x", to=to, clean=True)
    assert registry.verify_folder("x", to) == []
    with pytest.raises(ObjectMissing):
        registry.verify_folder("x", tmp_path / "nowhere")


def state_of(folder: Path) -> dict[str, Any]:
    """Everything below a folder: types, modes and bytes."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(folder))] = (stat.filemode(mode), content)
    return found


def tick() -> datetime:
    """A moment that lies between what was logged before and what is logged after."""
    time.sleep(0.002)
    now = datetime.now(UTC)
    time.sleep(0.002)
    return now


# --- files -----------------------------------------------------------------------------------------------------------


def test_the_first_example_of_the_artifact_manager(storage: Storage, tmp_path: Path) -> None:
    """A file goes up and comes down, on every storage."""
    file = tmp_path / "file.txt"
    file.write_text("Example content")
    manager = ArtifactRegistry(Repository(storage.url, storage_options=storage.storage_options))
    assert manager.log_files("my_artifact", file) == ArtifactVersion("my_artifact", "default", "v0")
    local_path = manager.download_artifact("my_artifact", to=tmp_path / "download")
    assert f"Artifact downloaded to: {local_path}".endswith("/download")
    assert (Path(local_path) / "file.txt").read_text() == "Example content"
    with (
        manager.download_artifact("my_artifact") as directory,
        open(f"{directory}/file.txt") as stream,
    ):
        assert stream.read() == "Example content"
    assert not directory.exists()


def test_the_example_of_a_logged_folder(registry: ArtifactRegistry, tmp_path: Path) -> None:
    with registry.log_folder("my_awesome_artifact", "my_collection") as directory, open(f"{directory}/e.txt", "w") as f:
        f.write("Example content")
    download = registry.download_artifact("my_awesome_artifact", "my_collection", to=tmp_path / "download")
    assert (tmp_path / "download" / "e.txt").read_text() == "Example content"
    assert download.version == ArtifactVersion("my_awesome_artifact", "my_collection", "v0")
    assert not directory.exists()
    assert registry.list_collection_names() == ["my_collection"]


def test_folders_come_back_as_they_were(storage: Storage, folder: Path, tmp_path: Path) -> None:
    registry = ArtifactRegistry(Repository(storage.url, storage_options=storage.storage_options))
    registry.log_files("folder", folder)
    elsewhere = ArtifactRegistry(Repository(storage.url, storage_options=storage.storage_options))
    elsewhere.download_artifact("folder", to=tmp_path / "new" / "place")
    assert state_of(tmp_path / "new" / "place") == state_of(folder)
    assert registry.repository.check(read_data=True).ok


def test_artifact_path_is_the_folder_within(registry: ArtifactRegistry, folder: Path) -> None:
    registry.log_files("sub", folder / "tool.sh", artifact_path="bin/x")
    with registry.download_artifact("sub") as directory:
        assert state_of(directory) == {
            "bin": ("drwxr-xr-x", None),
            "bin/x": ("drwxr-xr-x", None),
            "bin/x/tool.sh": ("-rwxr-xr-x", b"#!/bin/sh\necho hello\n"),
        }


def test_a_download_into_a_directory_leaves_other_files_alone(registry: ArtifactRegistry, tmp_path: Path) -> None:
    target = tmp_path / "target"
    (target / "sub").mkdir(parents=True)
    (target / "mine.txt").write_text("mine")
    (target / "sub" / "old.txt").write_text("old")
    with registry.log_folder("x") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "old.txt").write_text("new")
    for _ in range(2):
        registry.download_artifact("x", to=target)
        assert {path: content for path, (_, content) in state_of(target).items()} == {
            "mine.txt": b"mine",
            "sub": None,
            "sub/old.txt": b"new",
        }


def test_a_target_that_is_in_the_way(registry: ArtifactRegistry, tmp_path: Path) -> None:
    with registry.log_folder("x") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a.txt").write_text("a")
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidArgument, match="is not a directory"):
        registry.download_artifact("x", to=tmp_path / "file")
    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.mkdir()
    target.mkdir()
    (target / "sub").symlink_to(outside)
    with pytest.raises(InvalidArgument, match="is no directory"):
        registry.download_artifact("x", to=target)
    assert list(outside.iterdir()) == []
    assert [path.name for path in target.iterdir()] == ["sub"], "nothing else is left"


def test_temporary_downloads_go_with_their_object(registry: ArtifactRegistry) -> None:
    with registry.log_folder("x") as folder:
        (folder / "locked").mkdir()
        (folder / "locked" / "a").write_text("a")
        (folder / "locked").chmod(0o500)
    download: Download | None = registry.download_artifact("x")
    assert download is not None
    path = download.path
    assert (path / "locked" / "a").read_text() == "a"
    del download
    assert not path.exists()


def test_an_exception_in_the_folder_logs_nothing(registry: ArtifactRegistry) -> None:
    with pytest.raises(ZeroDivisionError), registry.log_folder("x") as folder:
        (folder / "half").write_text("half")
        raise ZeroDivisionError
    assert not folder.exists()
    assert not registry.exists("x")
    assert registry.list_artifacts() == []


def test_a_bad_name_is_refused_before_the_work(registry: ArtifactRegistry) -> None:
    with pytest.raises(InvalidName, match=r"'\.\.' part"):
        registry.log_folder("../escape")
    with pytest.raises(InvalidName):
        registry.log_artifact("ok", 1, collection="/etc")


def test_a_file_that_is_not_there(registry: ArtifactRegistry, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no file or folder"):
        registry.log_files("x", tmp_path / "missing")
    assert issubclass(ObjectMissing, FileNotFoundError)


def test_progress_is_told(registry: ArtifactRegistry, folder: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []

    def progress(*what: Any) -> None:
        told.append(what)

    registry.log_files("x", folder, progress=progress)
    registry.download_artifact("x", to=tmp_path / "to", progress=progress)
    size = 3_000_000 + 40_000 + 21
    assert ("upload", size, size) in told
    assert told[-1] == ("download", size, size)


def test_what_is_equal_is_stored_once(registry: ArtifactRegistry, tmp_path: Path) -> None:
    data = bytearray(random.Random(5).randbytes(20_000_000))
    file = tmp_path / "data.bin"
    small = [random.Random(n).randbytes(20_000) for n in range(200)]

    def log(extra: int) -> int:
        with registry.log_folder("data") as folder:
            (folder / "data.bin").write_bytes(data)
            for number, content in enumerate(small):
                (folder / f"small-{number}").write_bytes(content)
            for number in range(extra):
                (folder / f"a-{number}").write_bytes(b"new")
        return registry.get_artifact("data").written

    assert log(0) > 24_000_000
    assert log(0) < 20_000, "nothing changed"
    data[10_000_000:10_000_000] = b"an insertion moves everything behind it"
    small[70] = random.Random(999).randbytes(20_000)
    assert log(1) < 500_000
    file.write_bytes(data)
    registry.log_files("alone", file)
    assert registry.get_artifact("alone").written < 20_000, "in another artifact, too"


# --- versions --------------------------------------------------------------------------------------------------------


@pytest.fixture
def features(registry: ArtifactRegistry) -> tuple[ArtifactRegistry, list[datetime]]:
    """Three versions, and moments before, between and behind them."""
    moments = [tick()]
    for number in range(3):
        registry.log_artifact("features", list(range(number)), handler="json", indent=4)
        moments.append(tick())
    return registry, moments


def test_versions_by_number_and_date(features: tuple[ArtifactRegistry, list[datetime]]) -> None:
    registry, moments = features
    assert registry.load_artifact("features") == [0, 1]
    assert registry.load_artifact("features", version="latest") == [0, 1]
    assert registry.load_artifact("features", version=0) == []
    assert registry.load_artifact("features", version="v1") == [0]
    assert registry.load_artifact("features", version="1") == [0]
    infos = registry.list_versions("features")[::-1]
    assert [info.version for info in infos] == ["v0", "v1", "v2"]
    for number, info in enumerate(infos):
        assert info.created_at.tzinfo is UTC
        assert registry.load_artifact("features", version=info.created_at) == list(range(number))
        assert registry.load_artifact("features", version=info.created_at.isoformat()) == list(range(number))
        asof = moments[number + 1]
        assert registry.load_artifact("features", version=asof, match="asof") == list(range(number))
        assert registry.load_artifact("features", version=asof.isoformat(), match="asof") == list(range(number))
    with pytest.raises(ArtifactNotFound, match=r"had no version yet at .* Its first version is from"):
        registry.load_artifact("features", version=moments[0], match="asof")
    with pytest.raises(ArtifactNotFound, match=r'from exactly .* The nearest are v0 from .* v1 from .*match="asof"'):
        registry.load_artifact("features", version=moments[1])


def test_a_second_stands_for_all_of_it(registry: ArtifactRegistry) -> None:
    registry.log_artifact("x", 1)
    second = registry.get_artifact("x").created_at.replace(microsecond=0)
    text = f"{second:%Y-%m-%dT%H:%M:%S}"
    assert registry.load_artifact("x", version=text) == 1
    assert registry.load_artifact("x", version=text, match="asof") == 1
    assert not registry.exists("x", version=second - timedelta(seconds=1))


def test_two_versions_of_one_second_are_told_apart(registry: ArtifactRegistry) -> None:
    while True:
        registry.log_artifact("x", 1)
        b, a, *_ = [*registry.list_versions("x"), None]
        assert b is not None
        if a is not None and a.created_at.replace(microsecond=0) == b.created_at.replace(microsecond=0):
            break
    with pytest.raises(ArtifactNotFound, match=rf"several versions from .*{a.version}, {b.version}"):
        registry.load_artifact("x", version=b.created_at.replace(microsecond=0))


def test_what_is_not_there_is_told_with_what_is(features: tuple[ArtifactRegistry, list[datetime]]) -> None:
    registry, _ = features
    registry.set_alias("features", 1, "production")
    for version, words in {
        "v7": r"no version 'v7'\. Existing versions: v0 to v2\. Aliases: production\.",
        "-1": "no version '-1'",
        "prodction": r"no version 'prodction'\. Existing versions: v0 to v2\. Aliases: production\.",
    }.items():
        with pytest.raises(ArtifactNotFound, match=words):
            registry.load_artifact("features", version=version)
    with pytest.raises(KeyError, match=r"no artifact 'feature'\. Did you mean 'features'\?"):
        registry.load_artifact("feature")
    with pytest.raises(ArtifactNotFound, match=r"no collection 'defualt', .*Did you mean 'default'\?"):
        registry.load_artifact("features", collection="defualt")
    with pytest.raises(InvalidArgument, match="has no time zone"):
        registry.load_artifact("features", version=datetime(2026, 1, 1))
    with pytest.raises(InvalidArgument, match='match must be "exact" or "asof"'):
        registry.load_artifact("features", match="nearest")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="True is not a version"):
        registry.load_artifact("features", version=True)


def test_nothing_is_there_yet(tmp_path: Path) -> None:
    registry = ArtifactRegistry(tmp_path / "none")
    assert registry.list_names() == registry.list_collection_names() == []
    assert registry.list_artifacts() == []
    assert registry.list_releases() == []
    assert not registry.exists("x")
    with pytest.raises(ArtifactNotFound, match="There are none"):
        registry.load_artifact("x")
    assert not (tmp_path / "none").exists(), "reading creates nothing"


def test_a_read_only_registry_writes_nothing(features: tuple[ArtifactRegistry, list[datetime]]) -> None:
    registry, _ = features
    reader = ArtifactRegistry(Repository(registry.repository.url, read_only=True))
    assert reader.load_artifact("features") == [0, 1]
    for write in (
        lambda: reader.log_artifact("features", 1),
        lambda: reader.set_alias("features", 0, "production"),
        lambda: reader.create_release("first"),
    ):
        with pytest.raises(ReadOnlyRepository):
            write()


def test_collections_are_apart(registry: ArtifactRegistry) -> None:
    other = ArtifactRegistry(registry.repository, collection="odd: 100%/of it")
    registry.log_artifact("same", "here")
    other.log_artifact("same", "there")
    assert (registry.load_artifact("same"), other.load_artifact("same")) == ("here", "there")
    assert registry.list_collection_names() == ["default", "odd: 100%/of it"]
    assert registry.list_names("odd: 100%/of it") == ["same"]
    assert registry.load_artifact("same", collection="odd: 100%/of it") == "there"


def test_the_repository_is_the_default_one(tmp_path: Path) -> None:
    with use_repository(tmp_path / "chosen") as repository:
        assert ArtifactRegistry().repository is repository


def test_a_registry_travels(features: tuple[ArtifactRegistry, list[datetime]]) -> None:
    registry, _ = features
    copy = pickle.loads(pickle.dumps(ArtifactRegistry(registry.repository, "other")))
    assert copy.active_collection == "other"
    assert copy.load_artifact("features", collection="default") == [0, 1]


def test_a_registry_is_an_artifact_manager(registry: ArtifactRegistry) -> None:
    manager: ArtifactManager = registry
    assert manager.active_collection == "default"


# --- metadata and expiry ---------------------------------------------------------------------------------------------


def test_metadata_can_be_noted_and_completed(registry: ArtifactRegistry) -> None:
    version = registry.log_artifact("x", 1, metadata={"loss": 0.5})
    registry.update_artifact_metadata("x", {"checked": True})
    assert registry.get_artifact_metadata("x") == {"loss": 0.5, "checked": True}
    fresh = ArtifactRegistry(registry.repository.url)
    assert fresh.get_artifact_metadata("x", version.version) == {"loss": 0.5, "checked": True}
    info = fresh.get_artifact("x")
    assert isinstance(info, ArtifactInfo)
    assert abs(info.created_at - datetime.now(UTC)) < timedelta(minutes=1)
    info.metadata["loss"] = 0
    assert fresh.get_artifact_metadata("x")["loss"] == 0.5, "it was a copy"
    with pytest.raises(InvalidArgument, match="Store it as data"):
        registry.update_artifact_metadata("x", {"bad": object()})


def test_expired_versions_are_refused_and_can_be_read_all_the_same(registry: ArtifactRegistry, tmp_path: Path) -> None:
    registry.log_artifact("x", 1, expiry=datetime.now(UTC) + timedelta(days=1))
    assert registry.load_artifact("x") == 1
    registry.set_artifact_expiry("x", "2026-01-01")
    for read in (
        lambda: registry.load_artifact("x"),
        lambda: registry.download_artifact("x", to=tmp_path / "to"),
        lambda: registry.promote_artifact("x", to="production"),
    ):
        with pytest.raises(ArtifactExpired, match=r"default/x:v0 expired at 2026-01-01T00:00:00.*validate=False"):
            read()
    assert registry.load_artifact("x", validate=False) == 1
    assert registry.exists("x")
    registry.set_artifact_expiry("x", None)
    assert registry.load_artifact("x") == 1


def test_the_latest_version_is_the_newest_that_has_not_expired(registry: ArtifactRegistry) -> None:
    for value in ("zero", "one", "two"):
        registry.log_artifact("x", value)
    before = datetime.now(UTC)
    time.sleep(0.001)
    registry.set_artifact_expiry("x", datetime.now(UTC), 2)
    assert registry.load_artifact("x") == registry.load_artifact("x", "latest") == "one"
    assert registry.get_artifact("x").version == "v1"
    assert registry.load_artifact("x", before, "asof") == "two", "it had not expired then"
    assert registry.load_artifact("x", datetime.now(UTC), "asof") == "one"
    assert registry.create_release("r1").artifacts == {"x": "v1"}
    assert registry.promote_artifact("x", to="production").version == "v1"
    for refused in (
        lambda: registry.load_artifact("x", 2),
        lambda: registry.create_release("r2", {"x": 2}),
        lambda: registry.promote_artifact("x", 2, to="production"),
    ):
        with pytest.raises(ArtifactExpired, match="default/x:v2 expired at"):
            refused()
    rows = registry.cleanup(RetentionPolicy(keep_last=1), dry_run=True)
    assert "v1" not in str(rows.deleted), "both the newest and the latest valid version stay"


def test_a_version_can_be_a_number_or_time_of_another_library(registry: ArtifactRegistry) -> None:
    for value in range(2):
        registry.log_artifact("x", value)
    assert registry.load_artifact("x", np.int64(0)) == 0  # type: ignore[arg-type]
    assert registry.load_artifact("x", pd.Timestamp.now("UTC"), "asof") == 1
    assert registry.load_artifact("x", np.datetime64("2200-01-01"), "asof") == 1  # type: ignore[arg-type]
    registry.set_artifact_expiry("x", pd.Timestamp("2100-01-01", tz="Europe/Berlin"))
    assert registry.get_artifact("x").expiry == datetime(2099, 12, 31, 23, tzinfo=UTC)
    registry.set_artifact_expiry("x", date(2100, 1, 1))  # type: ignore[arg-type]
    assert registry.get_artifact("x").expiry == datetime(2100, 1, 1, tzinfo=UTC)
    for wrong in (5, 1.5, np.datetime64("NaT"), pd.NaT, [2]):
        with pytest.raises(InvalidArgument):
            registry.set_artifact_expiry("x", wrong)  # type: ignore[arg-type]
    for nothing in (True, np.True_, 1.0, [1], np.ones(2)):
        with pytest.raises(InvalidArgument, match="is not a version"):
            registry.load_artifact("x", nothing)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [3, 300_000])
def test_what_did_not_change_gets_no_new_version(registry: ArtifactRegistry, tmp_path: Path, size: int) -> None:
    values = [list(range(size)), list(range(1, size + 1))]
    first = registry.log_artifact("x", values[0], if_changed=True)
    again = registry.log_artifact("x", values[0], if_changed=True, metadata={"again": True})
    assert (again, again.new, first.new) == (first, False, True)
    assert registry.get_artifact_metadata("x") == {"again": True}
    other = ArtifactRegistry(registry.repository.url)
    assert other.log_artifact("x", values[1], if_changed=True).version == "v1"
    assert registry.log_artifact("x", values[0], if_changed=True).version == "v2", "the latest one is another"
    assert registry.log_artifact("x", values[0], "pickle", if_changed=True).version == "v3"
    (tmp_path / "file").write_bytes(bytes(size))
    versions = [registry.log_files("f", tmp_path / "file", if_changed=True).version for _ in range(2)]
    (tmp_path / "file").write_bytes(bytes(size - 1) + b"1")
    assert [*versions, registry.log_files("f", tmp_path / "file", if_changed=True).version] == ["v0", "v0", "v1"]


def test_a_version_may_stand_in_the_name(registry: ArtifactRegistry) -> None:
    for value in range(2):
        registry.log_artifact("model", value)
    registry.promote_artifact("model", 0, to="production")
    assert registry.load_artifact("model:production") == registry.load_artifact("model:v0") == 0
    assert registry.get_artifact("model:latest").version == "v1"
    for uri in ("snapshots:/model@production", "models:/model@production", "models:/model/0", "snapshots:/model/v0"):
        assert registry.load_artifact(uri) == 0
    assert registry.load_artifact("models:/model") == registry.load_artifact("snapshots:/model/latest") == 1
    registry.log_artifact("team/net", 7)
    assert registry.load_artifact("models:/team/net/0") == registry.load_artifact("models:/team/net") == 7
    for other in ("models:/nowhere@production", "other:/model@production", "snapshots://model", "models:/"):
        with pytest.raises((ArtifactNotFound, InvalidName)):
            registry.load_artifact(other)
    with pytest.raises(ArtifactNotFound, match="has no version 'nowhere'"):
        registry.load_artifact("model:nowhere")
    registry.log_artifact("model:production", "another artifact")
    assert registry.load_artifact("model:production") == "another artifact"


def test_an_empty_folder_logs_nothing(registry: ArtifactRegistry) -> None:
    logged = registry.log_folder("x")
    with logged:
        pass
    assert logged.version is None
    assert not registry.exists("x")


# --- differences -----------------------------------------------------------------------------------------------------


def test_differences_of_folders(registry: ArtifactRegistry, folder: Path) -> None:
    registry.log_files("x", folder)
    (folder / "tool.sh").write_text("#!/bin/sh\necho goodbye\n")
    (folder / "deep" / "er" / "weights.bin").write_bytes(random.Random(7).randbytes(3_000_000))
    (folder / "secret").chmod(0o640)
    (folder / "empty").rmdir()
    (folder / "added").write_text("1")
    registry.log_files("x", folder)
    found = {difference.path: difference for difference in registry.diff("x", 0)}
    assert {path: (one.kind, one.old, one.new) for path, one in found.items()} == {
        "added": ("added", None, "1 byte"),
        "deep/er/weights.bin": ("changed", "3000000 bytes", "3000000 bytes"),
        "empty": ("removed", "directory", None),
        "secret": ("changed", "0 bytes, mode 600", "0 bytes, mode 640"),
        "tool.sh": ("changed", "21 bytes", "23 bytes"),
    }
    assert "-echo hello\n+echo goodbye" in found["tool.sh"].text  # type: ignore[attr-defined]
    assert list(registry.diff("x", 1, 1)) == []


def test_differences_of_values(registry: ArtifactRegistry) -> None:
    for value in ([0, 1, 2], [0, 1, 3]):
        registry.log_artifact("json", value, indent=1)
        registry.log_artifact("tree", {"w": {"a": value, "b": 1}}, handler="pytree")
    [text] = registry.diff("json", 0)
    assert "- 2\n+ 3" in text.text  # type: ignore[attr-defined]
    [leaf] = registry.diff("tree", 0, 1)
    assert (leaf.path, leaf.kind, leaf.old, leaf.new) == ("w/a/2", "changed", "2", "3")


# --- stages ----------------------------------------------------------------------------------------------------------


def test_promotion_through_stages_and_back(features: tuple[ArtifactRegistry, list[datetime]]) -> None:
    registry, _ = features
    for version in ("v0", "v2", "v1"):
        assert registry.promote_artifact("features", version, to="production", by="anna").version == version
    assert registry.load_artifact("features", "production") == [0]
    assert registry.get_aliases("features") == {"production": "v1"}
    assert registry.get_artifact("features", 1).aliases == ["production"]
    assert registry.rollback("features", "production").version == "v2"
    assert registry.rollback("features", "production").version == "v0"
    with pytest.raises(ArtifactNotFound, match="there is nothing before v0"):
        registry.rollback("features", "production")
    moves = registry.get_alias_history("features", "production")
    assert [(move.previous, move.version, move.rollback) for move in moves] == [
        (None, "v0", False),
        ("v0", "v2", False),
        ("v2", "v1", False),
        ("v1", "v2", True),
        ("v2", "v0", True),
    ]
    assert moves[0].moved_by == "anna"
    assert "@" in moves[-1].moved_by
    assert moves[0].moved_at <= moves[-1].moved_at
    assert ArtifactRegistry(registry.repository.url).get_alias_history("features") == moves


def test_aliases_are_compared_and_set(features: tuple[ArtifactRegistry, list[datetime]]) -> None:
    registry, _ = features
    rival = ArtifactRegistry(registry.repository.url)
    registry.set_alias("features", 0, "production", expected=None)
    with pytest.raises(CommitConflict, match="'production' of default/features is v0, not unset"):
        rival.set_alias("features", 1, "production", expected=None)
    rival.set_alias("features", 1, "production", expected="v0")
    with pytest.raises(CommitConflict, match="is v1, not v0 as expected"):
        registry.set_alias("features", 2, "production", expected=0)
    registry.set_alias("features", 2, "production")
    before = len(registry.get_alias_history("features"))
    registry.set_alias("features", 2, "production")
    assert len(registry.get_alias_history("features")) == before, "it points there already"
    registry.delete_alias("features", "production")
    assert registry.get_aliases("features") == {}
    with pytest.raises(ArtifactNotFound, match="no alias 'production'"):
        registry.delete_alias("features", "production")


@pytest.mark.parametrize("stage", ["v3", "3", "latest", "2026-01-01", "V3", "-1", "", "a/../b", "x\n"])
def test_a_stage_that_looks_like_something_else(features: tuple[ArtifactRegistry, list[datetime]], stage: str) -> None:
    with pytest.raises(InvalidName):
        features[0].promote_artifact("features", to=stage)


# --- releases --------------------------------------------------------------------------------------------------------


def test_releases_pin_versions(registry: ArtifactRegistry, tmp_path: Path) -> None:
    registry.log_artifact("model", {"w": list(range(10_000))})
    registry.log_artifact("model", {"w": [1]})
    registry.log_artifact("model", {"w": [2]})
    registry.log_artifact("features", [0])
    registry.log_artifact("left out", "x" * 100_000, handler="text")
    registry.set_alias("model", 1, "production")
    before = tick()
    first = registry.create_release("v1.0", {"model": "production", "features": None}, metadata={"by": "anna"})
    between = tick()
    registry.log_artifact("features", [1])
    second = registry.create_release("v1.1")
    assert first.artifacts == {"model": "v1", "features": "v0"}
    assert second.artifacts == {"model": "v2", "features": "v1", "left out": "v0"}
    fresh = ArtifactRegistry(registry.repository.url)
    assert fresh.list_releases() == [second, first]
    assert fresh.find_release("v1.0") == first
    assert fresh.find_release() == second
    assert fresh.find_release(between, match="asof") == first
    with pytest.raises(ArtifactNotFound, match=r"no release 'v1.2'\. Did you mean 'v1"):
        fresh.find_release("v1.2")
    with pytest.raises(ArtifactNotFound, match="had no version yet at"):
        fresh.find_release(before, match="asof")
    with pytest.raises(ValueError, match=r"already has a release 'v1\.0'\. Choose another tag"):
        fresh.create_release("v1.0")
    copy = registry.copy_release("v1.0", tmp_path / "copy")
    assert copy.list_names() == ["features", "model"]
    assert [info.version for info in copy.list_versions("model")] == ["v1"]
    assert copy.load_artifact("model", copy.find_release("v1.0").artifacts["model"]) == {"w": [1]}
    assert registry.copy_release("v1.0", tmp_path / "copy").find_release().artifacts == first.artifacts
    assert copy.log_artifact("model", 3).version == "v2"
    with pytest.raises(CommitConflict, match=r"v2 of default/model cannot be copied: .* already has v2\."):
        registry.copy_release("v1.1", tmp_path / "copy")


def test_nothing_to_release(registry: ArtifactRegistry) -> None:
    with pytest.raises(ArtifactNotFound, match="has no artifacts to release"):
        registry.create_release("first")


# --- damage ----------------------------------------------------------------------------------------------------------


def test_a_flipped_bit_is_named_and_nothing_arrives(registry: ArtifactRegistry, folder: Path, tmp_path: Path) -> None:
    registry.log_files("x", folder)
    largest = max((tmp_path / "repository" / "packs").rglob("*"), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.chmod(0o644)
    largest.write_bytes(data)
    fresh = ArtifactRegistry(registry.repository.url)
    with pytest.raises(DamagedVersion, match=r"default/x:v0, file 'deep/er/weights.bin': "):
        fresh.download_artifact("x", to=tmp_path / "to")
    assert not (tmp_path / "to").exists()
    assert not list(tmp_path.glob(".to*"))
    report = fresh.repository.check(read_data=True)
    assert "artifacts/default:x:v0" in report.problems[0].versions


def test_json_is_what_it_says(registry: ArtifactRegistry) -> None:
    """A value that is downloaded is a file that others read."""
    registry.log_artifact("team/features", {"a": [1, 2]}, indent=4)
    with registry.download_artifact("team/features") as directory:
        assert json.loads((directory / "features.json").read_text()) == {"a": [1, 2]}


# --- the handle, pins, and what is deleted ---------------------------------------------------------------------------


def test_the_handle_has_the_methods_without_the_name(registry: ArtifactRegistry, tmp_path: Path) -> None:
    model = registry.artifact("model")
    assert not model.exists()
    with pytest.raises(ArtifactNotFound):
        model.get()
    assert [model.log(value).version for value in (1, 2)] == ["v0", "v1"]
    assert (model.load(), model.load(0), model.get(0)) == (2, 1, registry.get_artifact("model", 0))
    assert model.list_versions() == registry.list_versions("model")
    model.update_metadata({"loss": 1}, 0)
    model.set_expiry("2199-01-01", 0)
    with pytest.raises(InvalidArgument, match="too far away"):
        model.set_expiry("2999-01-01")
    assert model.get(0).metadata == {"loss": 1}
    assert model.set_stage("production", 0).version == "v0"
    assert model.set_alias("best", 1).version == "v1"
    assert model.get_aliases() == {"best": "v1", "production": "v0"}
    model.set_stage("production", 1)
    assert model.rollback("production").version == "v0"
    model.delete_alias("best")
    assert [move.version for move in model.get_alias_history("best")] == ["v1", None]
    assert model.list_files() == [("model.json", 1)]
    with model.download(0) as folder:
        assert (folder / "model.json").read_text() == "1"
    with model.log_folder() as folder:
        (folder / "file").write_text("text")
    model.log_files(tmp_path / "repository" / "repository.json")
    assert [difference.path for difference in model.diff(2, 3)] == ["file", "repository.json"]
    assert model.copy_to(ArtifactRegistry(tmp_path / "other"), 0).version == "v0"
    assert "default/model" in repr(model)


def test_the_latest_of_each_artifact_is_listed_newest_first(registry: ArtifactRegistry) -> None:
    for name in ("b", "a", "b", "c"):
        registry.log_artifact(name, name)
    assert [(info.name, info.version) for info in registry.list_artifacts()] == [("c", "v0"), ("b", "v1"), ("a", "v0")]
    assert registry.list_artifacts("none") == []


def protect(registry: ArtifactRegistry, how: str) -> None:
    if how == "pinned":
        registry.pin("x", 0)
        registry.pin("x", "v0")
    elif how == "alias production":
        registry.set_alias("x", 0, "production")
    else:
        registry.create_release("r", {"x": 0})


@pytest.mark.parametrize("how", ["pinned", "alias production", "released"])
def test_what_is_protected_is_deleted_by_force_only(registry: ArtifactRegistry, how: str) -> None:
    for value in range(3):
        registry.log_artifact("x", value)
    protect(registry, how)
    with pytest.raises(InvalidArgument, match=rf"x:v0 was not deleted: {how}\. Nothing was changed"):
        registry.delete_version("x", 0)
    with pytest.raises(InvalidArgument, match=rf"x:v0 was not deleted: {how}\. Nothing was changed"):
        registry.delete_artifact("x")
    assert len(registry.list_versions("x")) == 3
    policy = RetentionPolicy(keep_last=1, keep_weekly_within=None)
    report = registry.cleanup(policy, dry_run=True, name="x")
    assert (report.dry_run, report.deleted) == (True, ("x:v1",))
    assert {row.name: row.reasons for row in report.rows}["x:v0"] == (how,)
    registry.delete_version("x", 0, force=True)
    for each in (registry, ArtifactRegistry(registry.repository.url)):
        assert [info.version for info in each.list_versions("x")] == ["v2", "v1"]
        assert each.get_aliases("x") == {}
        with pytest.raises(ArtifactNotFound):
            each.load_artifact("x", 0)


def test_an_alias_does_not_fall_back_when_its_version_is_deleted(registry: ArtifactRegistry) -> None:
    for value in range(2):
        registry.log_artifact("x", value)
        registry.promote_artifact("x", to="production")
    registry.delete_version("x", 1, force=True)
    assert registry.get_aliases("x") == {}
    with pytest.raises(ArtifactNotFound, match="no version 'production', and no stage or other alias yet"):
        registry.load_artifact("x", "production")
    assert registry.load_artifact("x") == 0


def test_numbers_are_never_given_twice(registry: ArtifactRegistry) -> None:
    for value in range(3):
        registry.log_artifact("x", value)
    registry.delete_version("x", 2)
    assert registry.get_artifact("x").version == "v1"
    assert registry.log_artifact("x", 3).version == "v3"
    registry.delete_artifact("x")
    assert not registry.exists("x")
    assert registry.list_artifacts() == []
    with pytest.raises(ArtifactNotFound):
        registry.delete_artifact("x")
    assert registry.log_artifact("x", 4).version == "v4"
    assert registry.repository.check(read_data=True).ok


def test_a_pin_can_be_taken_away(registry: ArtifactRegistry) -> None:
    for value in range(3):
        registry.log_artifact("x", value)
    registry.pin("x", 0)
    assert [info.pinned for info in registry.list_versions("x")] == [False, False, True]
    registry.unpin("x", 0)
    registry.unpin("x", 0)
    policy = RetentionPolicy(keep_last=1, keep_weekly_within=None)
    assert registry.cleanup(policy).deleted == ("x:v1", "x:v0")
    with pytest.raises(InvalidArgument, match="needs a policy"):
        registry.cleanup()


def test_looking_does_not_wait_for_an_upload(registry: ArtifactRegistry, tmp_path: Path) -> None:
    registry.log_artifact("x", 0)
    (tmp_path / "large").write_bytes(random.Random(1).randbytes(1_000_000))
    looked = threading.Event()
    found: list[str] = []

    def look() -> None:
        found.extend(info.version for info in registry.list_versions("x"))
        found.append(registry.get_artifact("x").version)
        found.append(registry.list_artifacts()[0].version)
        looked.set()

    def progress(*_: object) -> None:
        if not found:
            threading.Thread(target=look).start()
            assert looked.wait(30)

    registry.log_files("x", tmp_path / "large", progress=progress)
    assert found == ["v0", "v0", "v0"]
    assert registry.get_artifact("x").version == "v1"


class AsOfBefore(ArtifactRegistry):
    """Lists the names as they were before an artifact was deleted, as a slow listing does."""

    def list_names(self, collection: str | None = None) -> list[str]:
        return [*super().list_names(collection), "deleted"]


def test_an_artifact_that_is_deleted_meanwhile_is_left_out(tmp_path: Path) -> None:
    registry = AsOfBefore(tmp_path)
    for name in ("a", "b"):
        registry.log_artifact(name, 1, metadata={"loss": 0.5})
    assert [info.name for info in registry.list_versions()] == ["b", "a"]
    assert [info.name for info in registry.search("loss < 1")] == ["b", "a"]
