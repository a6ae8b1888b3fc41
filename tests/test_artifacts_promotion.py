"""Many at once, killed at any moment, from one repository to another: versions are whole, or they are not there."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import Storage

from prefect_snapshots import ArtifactRegistry, Repository
from prefect_snapshots.artifacts.folders import scan_folder
from prefect_snapshots.errors import CommitConflict, InvalidArgument, InvalidName, PermissionDenied
from prefect_snapshots.repository import chunking
from prefect_snapshots.repository.chunking import content_defined, content_defined_read, content_defined_stream
from prefect_snapshots.repository.commits import Draft
from prefect_snapshots.trees.entries import Entry

WRITERS = str(Path(__file__).parent / "artifact_writers.py")


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, WRITERS, *arguments], stdout=subprocess.PIPE, text=True)


def size_of(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def fill(folder: Path, megabytes: int) -> Path:
    """A folder of random bytes."""
    folder.mkdir()
    for number in range(megabytes // 4):
        (folder / f"part-{number}").write_bytes(random.Random(number).randbytes(4_000_000))
    return folder


# --- many writers ----------------------------------------------------------------------------------------------------


def log_at_once(url: str, options: dict[str, Any], processes: int, versions: int) -> None:
    started = [
        start("log", url, str(number * 1_000), str(versions), *([json.dumps(options)] if options else []))
        for number in range(processes)
    ]
    told: dict[str, int] = {}
    for process in started:
        lines = process.communicate(timeout=280)[0].splitlines()
        assert process.returncode == 0
        told |= {version: int(number) for version, number in map(str.split, lines)}
    total = processes * versions
    registry = ArtifactRegistry(Repository(url, storage_options=options))
    assert [info.version for info in registry.list_versions("shared")] == [f"v{number}" for number in range(total)][
        ::-1
    ]
    assert len(told) == total, "no number was given twice"
    for version, number in told.items():
        value = registry.load_artifact("shared", version)
        assert value == [number] * len(value), version
    assert sorted(told.values()) == sorted(1_000 * p + n for p in range(processes) for n in range(versions))


@pytest.mark.timeout(290)
@pytest.mark.parametrize(("processes", "versions"), [(4, 50), pytest.param(8, 100, marks=pytest.mark.nightly)])
def test_processes_log_to_one_name_on_a_local_disk(tmp_path: Path, processes: int, versions: int) -> None:
    log_at_once(str(tmp_path / "repository"), {}, processes, versions)


@pytest.mark.timeout(290)
@pytest.mark.nightly
def test_processes_log_to_one_name_on_s3(s3_storage: Storage) -> None:
    log_at_once(s3_storage.url, dict(s3_storage.storage_options), 3, 8)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_eight_processes_log_800_versions_on_s3(s3_storage: Storage) -> None:
    log_at_once(s3_storage.url, dict(s3_storage.storage_options), 8, 100)


def test_of_two_promotions_at_once_one_wins(tmp_path: Path) -> None:
    """Sixteen of them begin together, knowing the same: one gets the stage, the others are told what it is now."""
    registry = ArtifactRegistry(tmp_path / "repository")
    for number in range(16):
        registry.log_artifact("model", number)
    registry.promote_artifact("model", 0, to="production")
    with pytest.raises(InvalidArgument, match=r"not int\. Nothing was copied"):
        registry.promote_artifact("model", 0, to=3)  # type: ignore[arg-type]
    rivals = [ArtifactRegistry(Repository(registry.repository.url)) for _ in range(16)]
    for rival in rivals:
        rival.load_artifact("model")
    barrier = threading.Barrier(16)

    def promote(number: int) -> str:
        barrier.wait()
        try:
            version = rivals[number].promote_artifact("model", number, to="production", expected="v0").version
            return f"won {version}"
        except CommitConflict as error:
            return str(error)

    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(promote, range(16)))
    winners = [answer for answer in answers if answer.startswith("won")]
    now = registry.get_aliases("model")["production"]
    # Whoever asks for v0 while it is there changes nothing and is content.
    assert [winner for winner in winners if winner != "won v0"] == [f"won {now}"]
    assert now != "v0"
    losers = [answer for answer in answers if not answer.startswith("won")]
    assert all(f"is {now}, not v0 as expected" in answer for answer in losers)
    assert len(registry.get_alias_history("model")) == 2


# --- kills -----------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(280)
def test_an_upload_may_be_killed_at_any_moment(tmp_path: Path) -> None:
    url, folder = str(tmp_path / "repository"), fill(tmp_path / "folder", 12)
    chance = random.Random(3)
    kept = 0
    for _ in range(8):
        process = start("upload", url, str(folder))
        assert process.stdout is not None
        lines: list[str] = []
        for _ in range(chance.randrange(1, 12)):
            lines.append(process.stdout.readline())
        time.sleep(chance.uniform(0, 0.05))
        process.kill()
        lines += process.stdout.read().splitlines()
        process.wait()
        kept += sum(line.startswith("default/folder:v") for line in lines)
    registry = ArtifactRegistry(url)
    infos = registry.list_versions("folder") if registry.exists("folder") else []
    # A version may be there whose line was not printed any more, and never one that is not whole.
    assert kept <= len(infos) <= kept + 8
    for info in infos[-2:]:
        with registry.download_artifact("folder", version=info.version) as copy:
            for path in folder.iterdir():
                assert (copy / path.name).read_bytes() == path.read_bytes()
    assert registry.repository.check().ok


def test_an_upload_that_was_killed_shows_nothing(tmp_path: Path) -> None:
    url, folder = str(tmp_path / "repository"), fill(tmp_path / "folder", 12)
    process = start("upload", url, str(folder))
    assert process.stdout is not None
    assert process.stdout.readline() == "starting\n"
    assert process.stdout.readline().startswith("upload")
    process.kill()
    process.wait()
    registry = ArtifactRegistry(url)
    assert registry.list_names() == registry.list_collection_names() == []
    assert not registry.exists("folder")


@pytest.mark.timeout(280)
def test_a_promotion_that_was_killed_shows_nothing_and_the_second_copies_the_rest(tmp_path: Path) -> None:
    source = ArtifactRegistry(tmp_path / "source")
    source.log_files("folder", fill(tmp_path / "folder", 160))
    target = str(tmp_path / "target")
    process = start("promote", str(tmp_path / "source"), target)
    assert process.stdout is not None
    for line in process.stdout:
        _, done, total = line.split()
        if int(done) > 0.6 * int(total):
            break
    process.kill()
    process.wait()
    registry = ArtifactRegistry(target)
    assert registry.list_names() == []
    assert not registry.exists("folder")
    version = source.promote_artifact("folder", to=registry)
    assert version.version == "v0"
    info = registry.get_artifact("folder")
    assert info.written < 0.65 * info.size, "what was copied the first time was not copied again"
    with registry.download_artifact("folder") as copy:
        for path in (tmp_path / "folder").iterdir():
            assert (copy / path.name).read_bytes() == path.read_bytes()
    assert source.promote_artifact("folder", to=registry) == version, "a third try changes nothing"
    (tmp_path / "source").rename(tmp_path / "moved")
    assert ArtifactRegistry(tmp_path / "moved").promote_artifact("folder", to=registry) == version
    assert registry.repository.check().ok


# --- between repositories --------------------------------------------------------------------------------------------


def test_an_experiment_promotes_into_the_registry(tmp_path: Path) -> None:
    """The example of experiments: each of them is a collection."""
    url = str(tmp_path / "repository")
    experiment = ArtifactRegistry(url, collection="my-experiment")
    experiment.log_artifact(name="features", value=[0, 1, 2], handler="json", indent=4, metadata={"run": 1})
    registry = ArtifactRegistry(url)
    version = ArtifactRegistry(url, collection="my-experiment").promote_artifact("features", to=registry)
    assert str(version) == "default/features:v0"
    assert registry.load_artifact("features") == [0, 1, 2]
    assert registry.get_artifact_metadata("features") == {"run": 1}
    source = registry.get_artifact("features").source
    assert source is not None
    assert (source["collection"], source["version"]) == ("my-experiment", "v0")


def test_the_time_of_creation_travels_and_newer_versions_are_not_hidden(tmp_path: Path) -> None:
    experiment, registry, third = (ArtifactRegistry(tmp_path / name) for name in ("experiment", "registry", "third"))
    experiment.log_artifact("model", "old")
    created = experiment.get_artifact("model").created_at
    registry.log_artifact("model", "new")
    with pytest.raises(InvalidArgument, match=r"default/model already has a newer one.*allow_older=True"):
        experiment.promote_artifact("model", to=registry)
    assert registry.load_artifact("model") == "new"
    assert str(experiment.promote_artifact("model", to=registry, allow_older=True)) == "default/model:v1"
    assert registry.get_artifact("model").created_at == created
    assert registry.load_artifact("model", created, "asof") == "old"
    assert registry.promote_artifact("model", to=third) == third.promote_artifact("model", to="production")
    assert third.get_artifact("model").created_at == created
    assert registry.promote_artifact("model", to=third) == third.promote_artifact("model", to="production"), "again"


@pytest.mark.parametrize("forged", ["tomorrow", "9999-01-01", "0001-01-01T00:00:00+23:59", ""])
def test_a_forged_time_of_creation_changes_nothing(tmp_path: Path, forged: str) -> None:
    registry = ArtifactRegistry(tmp_path / "registry")
    registry.log_artifact("source", 1)
    artifact = registry.artifact("source")
    with artifact._content(artifact._find(None)) as content:
        registry.adopt("model", content, handler="json", source={"created_at": forged})
    assert abs(registry.get_artifact("model").created_at - datetime.now(UTC)) < timedelta(minutes=1)


def test_within_a_repository_nothing_is_copied(tmp_path: Path) -> None:
    registry = ArtifactRegistry(tmp_path / "repository", collection="staging area")
    registry.log_files("folder", fill(tmp_path / "folder", 8))
    before = size_of(tmp_path / "repository")
    registry.promote_artifact("folder", to=ArtifactRegistry(registry.repository))
    assert size_of(tmp_path / "repository") - before < 10_000
    assert ArtifactRegistry(registry.repository).get_artifact("folder").written == 0


@pytest.mark.parametrize("passwords", [(None, None), (None, "b"), ("a", None), ("a", "b")])
def test_only_what_is_missing_is_copied(tmp_path: Path, passwords: tuple[str | None, str | None]) -> None:
    source, target = (
        ArtifactRegistry(Repository(tmp_path / name, password=password))
        for name, password in zip(("source", "target"), passwords, strict=True)
    )
    folder = fill(tmp_path / "folder", 8)
    source.log_files("folder", folder)
    source.promote_artifact("folder", to=target)
    assert target.get_artifact("folder").written > 8_000_000
    (folder / "part-0").write_bytes((folder / "part-0").read_bytes()[:-1] + b"!")
    source.log_files("folder", folder, metadata={"note": "changed"}, expiry="2100-01-01")
    source.promote_artifact("folder", to=target)
    info = target.get_artifact("folder")
    assert info.version == "v1"
    assert info.written < 400_000
    assert info.metadata == {"note": "changed"}
    assert info.expiry is not None
    with target.download_artifact("folder") as copy:
        assert (copy / "part-0").read_bytes() == (folder / "part-0").read_bytes()
    assert target.repository.check(read_data=True).ok


def test_from_disk_to_s3_and_back(tmp_path: Path, s3_storage: Storage) -> None:
    local = ArtifactRegistry(tmp_path / "local")
    cloud = ArtifactRegistry(Repository(s3_storage.url, storage_options=s3_storage.storage_options))
    local.log_files("folder", fill(tmp_path / "folder", 8))
    local.promote_artifact("folder", to=cloud)
    cloud.promote_artifact("folder", to="production")
    cloud.promote_artifact("folder", "production", to=ArtifactRegistry(tmp_path / "again"))
    with ArtifactRegistry(tmp_path / "again").download_artifact("folder") as copy:
        for path in (tmp_path / "folder").iterdir():
            assert (copy / path.name).read_bytes() == path.read_bytes()


def test_what_was_promoted_outlives_its_source(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "repository")
    experiment, registry = ArtifactRegistry(repository, "experiment"), ArtifactRegistry(repository)
    experiment.log_files("folder", fill(tmp_path / "folder", 4))
    experiment.promote_artifact("folder", to=registry)
    repository.prune(grace=0)
    assert repository.check(read_data=True).ok


# --- paths that lead out ---------------------------------------------------------------------------------------------


def test_a_link_that_leads_out_is_not_logged(tmp_path: Path) -> None:
    registry = ArtifactRegistry(tmp_path / "repository")
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    for target in ("/etc/passwd", "../../outside", "../../folder/x", "x/../../.."):
        (folder / "deep" / "link").symlink_to(target)
        with pytest.raises(InvalidName, match=r"out of the folder.* pass follow_links=True"):
            registry.log_files("x", folder)
        (folder / "deep" / "link").unlink()
    (folder / "bad\nname").write_text("")
    with pytest.raises(InvalidName, match="control characters"):
        registry.log_files("x", folder)
    (folder / "bad\nname").unlink()
    os.mkfifo(folder / "pipe")
    with pytest.raises(InvalidArgument, match="not a file, a directory or a symbolic link"):
        registry.log_files("x", folder)
    for path in ("../up", "/etc", "a//b", "a/./b"):
        with pytest.raises(InvalidName):
            registry.log_files("x", folder / "deep", artifact_path=path)
    assert not registry.exists("x")


def test_links_are_followed_if_that_is_asked_for(tmp_path: Path) -> None:
    """As in the cache of a model hub: links to files and directories elsewhere, relative and absolute."""
    registry = ArtifactRegistry(tmp_path / "repository")
    hub = tmp_path / "hub"
    for folder in ("blobs/many", "snapshots/main"):
        (hub / folder).mkdir(parents=True)
    (hub / "blobs/weights").write_bytes(b"w" * 100_000)
    (hub / "blobs/weights").chmod(0o640)
    (hub / "blobs/many/part").write_bytes(b"p" * 5_000_000)
    main = hub / "snapshots" / "main"
    (main / "weights").symlink_to("../../blobs/weights")
    (main / "again").symlink_to("weights")
    (main / "many").symlink_to(hub / "blobs/many")
    expected = {"again": 0o640, "many/part": 0o644, "weights": 0o640}
    registry.log_files("files", main, follow_links=True)
    registry.log_files("parts", [registry.stage_files(main, follow_links=True)])
    with registry.log_folder("folder", follow_links=True) as written:
        for name in ("weights", "again", "many"):
            (written / name).symlink_to(main / name)
    (hub / "blobs/many/part").chmod(0o600)
    with registry.draft("folder") as draft:
        draft.add(main / "many", "many", follow_links=True)
    for artifact in ("files", "parts", "folder"):
        with registry.download_artifact(artifact, version=0) as copy:
            found = {str(path.relative_to(copy)): path for path in copy.rglob("*") if not path.is_dir()}
            assert {name: path.lstat().st_mode for name, path in found.items()} == {
                name: 0o100000 | mode for name, mode in expected.items()
            }
            assert all(path.read_bytes() == (main / name).read_bytes() for name, path in found.items())
    assert [each.path for each in registry.verify_folder("files", main, follow_links=True)] == ["many/part"]
    assert not registry.verify_folder("folder", main, follow_links=True)
    with pytest.raises(InvalidArgument, match="Pass follow_links to stage_files"):
        registry.log_files("parts", [registry.stage_files(hub / "blobs")], follow_links=True)
    for target, why in (("nothing", "it is a link to nothing"), (str(hub), "because of a link, it contains itself")):
        (main / "wrong").symlink_to(target)
        with pytest.raises(PermissionDenied, match=f"wrong: {why}"):
            registry.log_files("files", hub, follow_links=True)
        (main / "wrong").unlink()


FILE, FOLDER, LINK = 0o100644, 0o040755, 0o120777
HOSTILE = {
    "absolute": [Entry(b"/tmp/evil", FILE)],
    "up": [Entry(b"../evil", FILE)],
    "up within": [Entry(b"a/../../evil", FILE)],
    "link out": [Entry(b"a", LINK, 0, b"/tmp")],
    "link up": [Entry(b"a", LINK, 0, b"..")],
    "link up later": [Entry(b"a", LINK, 0, b"b/../..")],
    "empty link": [Entry(b"a", LINK, 0, b"")],
    "through a link": [Entry(b"a", LINK, 0, b"b"), Entry(b"a/evil", FILE), Entry(b"b", FOLDER)],
    "through a file": [Entry(b"a", FILE), Entry(b"a/b", FILE)],
    "twice": [Entry(b"a", FILE), Entry(b"a", FILE)],
    "file and folder": [Entry(b"a", FILE), Entry(b"a", FOLDER)],
    "device": [Entry(b"a", 0o020666)],
    "setuid": [Entry(b"a", 0o104755)],
    "control": [Entry(b"a\x1b[2J", FILE)],
    "dot": [Entry(b".", FOLDER)],
    "nothing": [Entry(b"", FILE)],
}


@pytest.mark.parametrize("entries", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_manifest_that_leads_out_is_refused(tmp_path: Path, entries: list[Entry]) -> None:
    """Somebody else's program wrote it: ours would have refused."""
    import msgspec

    from prefect_snapshots.repository.contents import inline

    registry = ArtifactRegistry(tmp_path / "repository")
    stream = registry.repository.stream("artifacts", "default:evil", lambda _: None)
    manifest = msgspec.msgpack.encode([1, entries])
    registry.repository.commit(stream, lambda: Draft("version", {"id": "v0"}), content=inline(manifest, []))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InvalidName):
        registry.download_artifact("evil", to=tmp_path / "to" / "here")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_that_changes_meanwhile_is_not_logged(tmp_path: Path) -> None:
    registry = ArtifactRegistry(tmp_path / "repository")
    folder = fill(tmp_path / "folder", 32)

    def change(*_: object) -> None:
        with (folder / "part-7").open("ab") as file:
            file.write(b"more")

    with pytest.raises(InvalidArgument, match=r"part-7 changed while it was read. Nothing was saved"):
        registry.log_files("x", folder, progress=change)
    assert not registry.exists("x")


def test_a_manifest_is_the_same_for_the_same_folder(tmp_path: Path) -> None:
    one, two = fill(tmp_path / "one", 4), fill(tmp_path / "two", 4)
    assert scan_folder(one).manifest == scan_folder(two).manifest


@given(st.lists(st.integers(0, 300_000), max_size=12), st.integers(0, 5))
def test_pieces_are_cut_as_one(sizes: list[int], seed: int) -> None:
    data = random.Random(seed).randbytes(sum(sizes)) if seed else bytes(sum(sizes))
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    whole = list(content_defined(data))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunking, "_READ", 600_000)  # so that there are several of them
        assert list(content_defined_stream(pieces)) == whole
        assert list(content_defined_read(lambda length, at: data[at : at + length], len(data))) == whole
        shrunk = content_defined_read(lambda length, at: data[at : at + length][: max(0, 9_000 - at)], len(data))
        assert b"".join(shrunk) == data[:9_000]
