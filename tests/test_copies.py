"""A copy of a repository has the same versions, numbers, times, stages and results, and both can go on meanwhile."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import shutil
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from itertools import count as count_from
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from histories import Client, snapper_of
from servers import Storage

from prefect_snapshots import ArtifactRegistry, BackupManager, Repository, RetentionPolicy, SnapshotManager
from prefect_snapshots.checkpoints import CheckpointManager, Snapper
from prefect_snapshots.errors import InvalidArgument
from prefect_snapshots.repository.catalog import slot_path
from prefect_snapshots.repository.contents import inline
from prefect_snapshots.repository.location import MemoryLocation
from prefect_snapshots.results import ResultLog
from prefect_snapshots.values import encode

T = TypeVar("T")


def double(item: int) -> int:
    return item * 2


def noise(seed: int, size: int = 300_000) -> bytes:
    return np.random.default_rng(seed).bytes(size)


class Everything:
    """Some names of every kind in one repository."""

    def __init__(self, repository: Repository, folder: Path) -> None:
        self.repository = repository
        self.folder = folder
        self.snapshots = SnapshotManager(repository, name="run", max_snapshots=4)
        self.artifacts = ArtifactRegistry(repository)
        self.backups = BackupManager(repository, name="project", directories=[folder])
        self.checkpoints = CheckpointManager(repository)
        self.results = ResultLog(repository)

    def fill(self) -> None:
        """Commit, replace, evict, delete, pin, promote and release."""
        for number in range(6):
            self.snapshots.save_snapshot({"a": noise(number), "n": number}, f"s{number}", {"loss": number}, ["x"])
        self.snapshots.save_snapshot(b"small", "s5", overwrite=True)
        self.snapshots.pin("s4")
        self.snapshots.add_tags("s4", ["best"])
        for number in range(5):
            self.artifacts.log_artifact("model", noise(number % 3).hex(), "json", metadata={"number": number})
        for version in ("v1", "v3", "v2"):
            self.artifacts.set_alias("model", version, "production")
        self.artifacts.rollback("model", "production")
        self.artifacts.delete_version("model", "v2", force=True)
        self.artifacts.pin("model", "v0")
        self.artifacts.create_release("1.0", {"model": "v1"})
        self.artifacts.delete_version("model", "v4", force=True)
        (self.folder / "one").write_bytes(noise(7))
        self.backups.create_backup("first")
        (self.folder / "two").write_bytes(noise(8))
        self.backups.pin(self.backups.create_backup("second").name)
        Snapper(range(500), double, repository=self.repository, name="job", function_version="1").start()
        Snapper(range(700), double, repository=self.repository, name="job", function_version="1").start()
        self.results.write("key", noise(9))
        self.results.write("key", noise(10))

    def change(self) -> None:
        """Go on with everything, and delete what has been copied."""
        self.snapshots.save_snapshot(b"new", "s6")
        self.snapshots.delete_snapshot("s3")
        self.artifacts.log_artifact("model", "new", "json")
        self.artifacts.set_alias("model", "latest", "staging")
        self.artifacts.delete_version("model", "v0", force=True)
        self.artifacts.create_release("2.0", {"model": "v5"})
        (self.folder / "one").write_bytes(noise(11))
        self.backups.create_backup("third")
        Snapper(range(900), double, repository=self.repository, name="job", function_version="1").start()
        Snapper(range(5), double, repository=self.repository, name="job", function_version="2").start()
        self.results.write("key", noise(12))
        self.results.write("other", b"small")
        self.repository.prune(grace=0)

    def seen(self) -> dict[str, Any]:
        """What a reader finds."""
        versions = self.artifacts.list_versions("model")
        infos = self.snapshots.list_snapshots()
        return {
            "snapshots": [dataclasses.replace(info, written=0) for info in infos],
            "values": [self.snapshots.load_snapshot(info.id) for info in infos],
            "versions": [dataclasses.replace(info, written=0) for info in versions],
            "artifacts": [self.artifacts.load_artifact("model", info.version) for info in versions],
            "aliases": self.artifacts.get_aliases("model"),
            "releases": self.artifacts.list_releases(),
            "backups": [dataclasses.replace(backup, written=0) for backup in self.backups.list_backups()],
            "files": [
                b"".join(self.backups.open_file(backup.name, backup.part_names[0], "one"))
                for backup in self.backups.list_backups()
            ],
            "checkpoints": self.checkpoints.list_checkpoints("job"),
            "computed": [
                self.checkpoints.load_checkpoint("job", info.fingerprint)
                for info in self.checkpoints.list_checkpoints("job")
            ],
            "results": [
                (result.key, result.size, self.results.read(result.key))
                for result in self.results.older_than("2100-01-01")
            ],
        }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


def assert_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for what in wanted:
        assert found[what] == wanted[what], what


@pytest.mark.parametrize(
    ("to", "passwords"),
    [
        ("local", (None, None)),
        ("local", (None, "two")),
        pytest.param("s3", ("one", "two"), marks=pytest.mark.nightly),
    ],
)
def test_a_copy_has_everything(
    request: pytest.FixtureRequest, tmp_path: Path, folder: Path, to: str, passwords: Sequence[str | None]
) -> None:
    place: Storage = request.getfixturevalue(f"{to}_storage")
    source = Repository(tmp_path / "source", password=passwords[0])
    target = Repository(place.url, storage_options=place.storage_options, password=passwords[1], compression="none")
    original, copied = Everything(source, folder), Everything(target, folder)
    original.fill()
    would = source.copy_to(target, dry_run=True)
    assert not target.exists()
    report = source.copy_to(target)
    assert (report.problems, report.versions, report.size) == ([], would.versions, would.size)
    assert_same(copied.seen(), original.seen())
    assert target.check(read_data=True).problems == []
    again = source.copy_to(target)
    assert (again.versions, again.events, again.segments, again.problems) == (0, 0, 0, [])
    original.change()
    report = source.copy_to(target)
    assert report.problems == []
    seen, wanted = copied.seen(), original.seen()
    # Deletes do not travel.
    assert [info.id for info in seen["snapshots"]] == ["s6", "s5", "s4", "s3", "s2"]
    assert [info.version for info in seen["versions"]] == ["v5", "v3", "v1", "v0"]
    for what in ("snapshots", "versions"):
        assert [info for info in seen[what] if info in wanted[what]] == wanted[what]
    assert_same(
        seen, {what: wanted[what] for what in ("aliases", "releases", "backups", "files", "checkpoints", "computed")}
    )
    assert seen["results"] == wanted["results"]
    target.prune(grace=0)
    assert target.check(read_data=True).problems == []
    assert_same(copied.seen(), seen)


# --- kills -----------------------------------------------------------------------------------------------------------


class Dead(BaseException):
    """The process was killed."""


class Mortal(MemoryLocation):
    """A location in memory whose process is killed at one of its writes: before it, or before the reply."""

    writes = 0
    dies_at = 0
    last_succeeds = False

    def _die_or(self, write: Callable[[], T]) -> T:
        self.writes += 1
        if self.dies_at and self.writes >= self.dies_at:
            if self.writes == self.dies_at and self.last_succeeds:
                write()
            raise Dead
        return write()

    def _create(self, path: str, data: bytes) -> bool:
        return self._die_or(lambda: MemoryLocation._create(self, path, data))

    def replace(self, path: str, data: bytes) -> None:
        self._die_or(lambda: MemoryLocation.replace(self, path, data))

    def delete(self, paths: Iterable[str]) -> None:
        for path in paths:
            self._die_or(partial(MemoryLocation.delete, self, [path]))


def mortal(url: str, dies_at: int, last_succeeds: bool, password: str | None = None) -> Repository:
    repository = Repository(url, password=password)
    place = Mortal("memory", url.removeprefix("memory://"), {})
    place.dies_at, place.last_succeeds = dies_at, last_succeeds
    repository.location = place
    return repository


def test_renames_and_descriptions_are_copied_and_a_rename_in_the_copy_is_told(tmp_path: Path) -> None:
    source, target = Repository(tmp_path / "source"), Repository(tmp_path / "target", password="two")
    snapshots, registry = SnapshotManager(source, name="train"), ArtifactRegistry(source)
    for number in range(3):
        snapshots.save_snapshot(noise(number), f"s{number}")
    snapshots.pin("s1")
    registry.log_artifact("data", noise(5).hex(), "json")
    registry.describe_artifact("data", description="of the harbour", add_tags="raw")
    registry.log_artifact("model", 1, "json")
    registry.set_alias("model", "v0", "production")
    assert source.copy_to(target).ok
    size = sum(info.size for info in target.location.list("packs"))
    snapshots.rename("trained")
    registry.rename_artifact("model", "net")
    assert source.copy_to(target).ok
    assert sum(info.size for info in target.location.list("packs")) == size, "the data is there under the old name"
    renamed = SnapshotManager(source, name="trained")
    renamed.save_snapshot(b"more", "s3")
    assert source.copy_to(target).ok
    copied, there = SnapshotManager(target, name="trained"), ArtifactRegistry(target)
    assert [(info.id, info.pinned, info.created_at) for info in copied.list_snapshots()] == [
        (info.id, info.pinned, info.created_at) for info in renamed.list_snapshots()
    ]
    assert copied.load_snapshot("s1") == noise(1)
    assert [info.id for info in SnapshotManager(target, name="train").list_snapshots()] == ["s2", "s1", "s0"]
    assert there.get_description("data") == registry.get_description("data")
    assert there.get_aliases("net") == registry.get_aliases("net")
    assert source.check(against=target).problems == []
    copied.rename("there")
    renamed.save_snapshot(b"after", "s4")
    assert source.copy_to(target).ok
    assert [info.id for info in SnapshotManager(target, name="trained").list_snapshots()] == ["s4"]
    assert len(SnapshotManager(target, name="there").list_snapshots()) == 4
    (problem,) = source.check(against=target).problems
    assert problem.path == "snapshots/there"
    assert "unless it got this name in the copy" in problem.what
    assert target.check(read_data=True).problems == []


def test_a_copy_that_is_killed_at_any_write_can_be_continued(tmp_path: Path, memory_storage: Storage) -> None:
    source = Repository(tmp_path / "source")
    snapshots, registry = SnapshotManager(source), ArtifactRegistry(source)
    for number in range(3):
        snapshots.save_snapshot(noise(number, 30_000 * number + 100), f"s{number}")
    snapshots.save_snapshot(noise(3, 50_000), "s0", overwrite=True)
    registry.log_artifact("model", noise(4, 50_000).hex(), "json")
    registry.create_release("1.0")
    for count in (3, 5):
        Snapper(range(count), double, repository=source, name="job", function_version="1").start()
    snapshots.delete_snapshot("s1")
    wanted = {info.id: snapshots.load_snapshot(info.id) for info in snapshots.list_snapshots()}
    for step in count_from(2):
        url = f"{memory_storage.url}/{step}"
        Repository(url).parts(writing=True)
        try:
            source.copy_to(mortal(url, step // 2, bool(step % 2)))
        except Dead:
            pass
        else:
            break
        repository = Repository(url)
        # What a reader finds is complete, wherever the copy was killed.
        assert repository.check(read_data=True).problems == []
        if ArtifactRegistry(repository).list_releases():
            assert ArtifactRegistry(repository).list_versions("model")
        assert source.copy_to(repository).problems == []
        copied = SnapshotManager(repository)
        assert {info.id: copied.load_snapshot(info.id) for info in copied.list_snapshots()} == wanted
        assert ArtifactRegistry(repository).load_artifact("model") == noise(4, 50_000).hex()
        assert CheckpointManager(repository).load_checkpoint("job") == [double(item) for item in range(5)]
        again = source.copy_to(repository)
        assert (again.versions, again.events, again.segments) == (0, 0, 0)
        assert repository.check(read_data=True).problems == []
    assert step > 50, "too few writes were seen"


# --- others that write meanwhile -------------------------------------------------------------------------------------


Contents = dict[tuple[str, str], Any]


def contents(repository: Repository) -> Contents:
    """Everything that a client has written, with its times."""
    if not repository.exists():
        return {}
    found: Contents = {}
    snapshots, registry = SnapshotManager(repository, name="shared"), ArtifactRegistry(repository)
    checkpoints, results = CheckpointManager(repository), ResultLog(repository, "shared")
    for info in snapshots.list_snapshots():
        found["snapshot", info.id] = info.created_at, snapshots.load_snapshot(info.id)
    for version in registry.list_versions("shared") if registry.list_names() else ():
        value = registry.load_artifact("shared", version.version)
        found["artifact", version.version] = version.created_at, version.metadata, value
    for result in results.older_than("2100-01-01"):
        found["result", result.key] = result.written_at, results.read(result.key)
    for name in repository.names("backups"):
        manager = BackupManager(repository, name=name)
        for backup in manager.list_backups():
            found["backup", backup.name] = backup.created_at, b"".join(manager.open_file(backup.name, "data", "number"))
    for name in {info.name for info in checkpoints.list_checkpoints()}:
        found["checkpoint", name] = checkpoints.load_checkpoint(name)
    return found


class World:
    """A repository in which everything happens, its copy, and what the copy must have."""

    def __init__(self, url: str, folder: Path, seed: int, passwords: tuple[str | None, str | None]) -> None:
        self.chance = random.Random(seed)
        self.password = passwords[1]
        self.client = Client(f"{url}/source", folder, seed, {})
        self.client.repository = self.source = Repository(f"{url}/source", password=passwords[0])
        self.url = f"{url}/target"
        self.target = Repository(self.url, password=passwords[1])
        self.copied: Contents = {}
        self.cleaned: Contents = {}

    def step(self) -> None:
        acts = self.write, self.prune, self.copy, self.copy_and_die, self.clean_up, self.clear
        self.chance.choices(acts, (15, 2, 3, 4, 1, 1))[0]()

    def write(self) -> None:
        kind = self.chance.choices(("snapshots", "artifacts", "results", "checkpoints", "backups"), (6, 4, 6, 1, 1))[0]
        getattr(self.client, f"_{kind}")()

    def prune(self) -> None:
        for repository in (self.source, self.target):
            if repository.exists():
                repository.prune(grace=0)

    def copy(self) -> None:
        if self.source.exists():
            assert self.source.copy_to(self.target).problems == []
            self.copied |= contents(self.source)

    def copy_and_die(self) -> None:
        if self.target.exists():
            with contextlib.suppress(Dead):
                self.source.copy_to(
                    mortal(self.url, self.chance.randint(1, 15), self.chance.random() < 0.5, self.password)
                )

    def clean_up(self) -> None:
        """The retention of the copy decides there, and artifacts are deleted in the source."""
        before = contents(self.target)
        if before:
            SnapshotManager(self.target, name="shared").cleanup(RetentionPolicy(keep_last=3))
            ArtifactRegistry(self.target).cleanup(RetentionPolicy(keep_last=3))
            after = contents(self.target)
            self.cleaned |= {what: data for what, data in before.items() if what not in after}
        ArtifactRegistry(self.source).cleanup(RetentionPolicy(keep_last=4))

    def clear(self) -> None:
        """Checkpoints are cleared, and perhaps begun again."""
        manager = CheckpointManager(self.source)
        for name in [info.name for info in manager.list_checkpoints()[:2]] if self.source.exists() else ():
            manager.delete_checkpoint(name)
            if self.chance.random() < 0.5:
                snapper_of(self.source, name, int(name.rpartition("-")[2])).start()

    def verify(self) -> None:
        """The copy has all that its source has, and all that it had before, except for what it has cleaned up."""
        self.copy()
        found, original = contents(self.target), contents(self.source)
        for what, data in self.copied.items():
            if what not in found:
                assert self.cleaned[what][0] >= data[0]
            elif what in original:
                # The age of a result in the copy counts from when it was copied.
                assert found[what] == data or (what[0] == "result" and found[what][1] == data[1]), what
            else:  # a run that was killed may have copied a later one that was deleted since
                assert found[what] == data or found[what][0] > data[0], what
        for repository in (self.source, self.target):
            assert repository.check(read_data=True).problems == []


@pytest.mark.parametrize(("seed", "passwords"), [(31, (None, None)), (2, (None, "two"))])
def test_copies_are_complete_beside_writers_deletes_prunes_and_kills(
    tmp_path: Path, memory_storage: Storage, seed: int, passwords: tuple[str | None, str | None]
) -> None:
    (tmp_path / "client").mkdir()
    world = World(memory_storage.url, tmp_path / "client", seed, passwords)
    for number in range(120):
        world.step()
        if number % 20 == 19:
            world.verify()
    # The next version would have the same number in both.
    numbers = {str(ArtifactRegistry(each).log_artifact("shared", 1, "json")) for each in (world.source, world.target)}
    assert len(numbers) == 1


@pytest.mark.parametrize("password", [None, "two"])
def test_copies_run_beside_writers_and_prunes_of_both_sides(tmp_path: Path, password: str | None) -> None:
    (tmp_path / "client").mkdir()
    world = World(str(tmp_path), tmp_path / "client", 5, (None, password))
    world.write()
    world.copy()
    busy = threading.Event()

    def prune(url: str, secret: str | None) -> None:
        while not busy.is_set():
            Repository(url, password=secret).prune(grace=0)

    def copy() -> None:
        while not busy.is_set():
            report = Repository(world.source.url).copy_to(Repository(world.url, password=password))
            assert report.problems == []

    with ThreadPoolExecutor() as threads:
        others = [threads.submit(copy) for _ in range(2)]
        others += [threads.submit(prune, world.source.url, None), threads.submit(prune, world.url, password)]
        try:
            for _ in range(60):
                world.write()
        finally:
            busy.set()
        for other in others:
            other.result()
    world.verify()


def test_two_copies_of_one_source_at_the_same_time_copy_everything_once(memory_storage: Storage) -> None:
    url = memory_storage.url
    source, target = Repository(f"{url}/source"), Repository(f"{url}/target", password="two")
    for number in range(12):
        SnapshotManager(source, name="run").save_snapshot(noise(number, 20_000), str(number))
        Snapper(range(number), double, repository=source, name="job", function_version="1").start()
    target.parts(writing=True)
    with ThreadPoolExecutor() as threads:
        copies = [
            threads.submit(Repository(f"{url}/source").copy_to, Repository(f"{url}/target", password="two"))
            for _ in range(3)
        ]
        assert all(each.result().problems == [] for each in copies)
    assert len(SnapshotManager(target, name="run").list_snapshots()) == 12
    assert CheckpointManager(target).load_checkpoint("job") == [double(item) for item in range(11)]
    assert target.check(read_data=True).problems == []


# --- what is refused -------------------------------------------------------------------------------------------------


def test_a_name_that_was_written_in_the_copy_is_an_error_for_this_name_alone(memory_storage: Storage) -> None:
    url = memory_storage.url
    source, target = Repository(f"{url}/source"), Repository(f"{url}/target")
    for name in ("a", "b", "c"):
        SnapshotManager(source, name=name).save_snapshot(1, "first")
    assert source.copy_to(target).ok
    SnapshotManager(target, name="b").save_snapshot(2, "own")
    # What the retention of the copy and drills do is no such thing.
    SnapshotManager(target, name="c").delete_snapshot("first")
    for name in ("a", "b", "c"):
        SnapshotManager(source, name=name).save_snapshot(3, "second")
    report = source.copy_to(target)
    assert [problem.path for problem in report.problems] == ["snapshots/b"]
    assert "number 2, that the original does not have" in report.problems[0].what
    assert [info.id for info in SnapshotManager(target, name="a").list_snapshots()] == ["second", "first"]
    assert [info.id for info in SnapshotManager(target, name="b").list_snapshots()] == ["own", "first"]
    assert [info.id for info in SnapshotManager(target, name="c").list_snapshots()] == ["second"]


def test_a_source_without_its_newest_events_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    source, target = Repository(tmp_path / "source"), Repository(tmp_path / "target")
    manager = SnapshotManager(source, name="a")
    for number in range(3):
        manager.save_snapshot(number, str(number))
    assert source.copy_to(target).ok
    for slot in (tmp_path / "source" / "catalog").glob("*/000000000003"):
        if slot.parent.name != "root":
            slot.unlink()
    [problem] = Repository(tmp_path / "source").copy_to(target).problems
    assert "the newest events of the original were taken away" in problem.what
    assert len(SnapshotManager(target, name="a").list_snapshots()) == 3


def test_a_damaged_version_is_reported_and_the_others_are_copied(tmp_path: Path) -> None:
    source, target = Repository(tmp_path / "source"), Repository(tmp_path / "target", password="two")
    manager = SnapshotManager(source, name="a")
    manager.save_snapshot({"a": noise(1)}, "lost")
    for pack in (tmp_path / "source" / "packs").glob("*/*"):
        pack.write_bytes(pack.read_bytes()[:-1000])
    manager.save_snapshot(noise(2), "kept")
    report = Repository(tmp_path / "source").copy_to(target)
    assert (report.versions, [problem.path for problem in report.problems]) == (1, ["snapshots/a:lost"])
    copied = SnapshotManager(target, name="a")
    assert [info.id for info in copied.list_snapshots()] == ["kept"]
    assert copied.load_snapshot("kept") == noise(2)


def test_an_encrypted_repository_is_copied_in_plain_only_on_request(tmp_path: Path) -> None:
    source = Repository(tmp_path / "source", password="one")
    SnapshotManager(source).save_snapshot("a secret", "first")
    plain = Repository(tmp_path / "plain", password=False)
    with pytest.raises(InvalidArgument, match="pass unencrypted=True"):
        source.copy_to(plain)
    assert not plain.exists()
    assert source.copy_to(plain, unencrypted=True).versions == 1
    with pytest.raises(InvalidArgument, match="the same repository"):
        source.copy_to(Repository(tmp_path / "source", password="one"))


def test_a_selection_copies_only_what_it_names(tmp_path: Path) -> None:
    source = Repository(tmp_path / "source")
    for name in ("train-1", "train-2", "other"):
        SnapshotManager(source, name=name).save_snapshot(1, "old")
    moment = datetime.now(UTC)
    SnapshotManager(source, name="other").save_snapshot(2, "new")
    registry = ArtifactRegistry(source)
    registry.log_artifact("model", 1, "json")
    registry.create_release("1.0")

    def copied(**selection: Any) -> list[tuple[str, str]]:
        target = Repository(tmp_path / str(len(list(tmp_path.iterdir()))))
        assert source.copy_to(target, **selection).ok
        return sorted(target.parts().catalog.streams().values())

    assert copied(kinds=["artifacts"]) == [("artifacts", "default:model"), ("releases", "default")]
    assert copied(names=["train-*"]) == [("snapshots", "train-1"), ("snapshots", "train-2")]
    assert copied(kinds=["snapshots"], since=moment) == [("snapshots", "other")]
    assert copied(kinds="snapshots", names="train-1") == [("snapshots", "train-1")]


def test_a_selection_that_can_never_be_copied_is_no_success(tmp_path: Path) -> None:
    source, target = Repository(tmp_path / "source"), Repository(tmp_path / "target")
    SnapshotManager(source, name="train").save_snapshot(1, "one")
    SnapshotManager(source, name="other").save_snapshot(1, "one")
    with pytest.raises(InvalidArgument, match=r"no kind 'snapshot'.*mean 'snapshots'"):
        source.copy_to(target, kinds=["snapshot"])
    assert not target.exists()
    report = source.copy_to(target, names=["trian", "other"])
    assert (report.versions, report.ok) == (1, False)
    assert [(one.path, one.what) for one in report.problems] == [
        ("trian", "nothing to copy has this name (Did you mean 'train'?)")
    ]
    assert not source.copy_to(target, kinds=["backups"], names=["train"]).ok
    assert source.copy_to(target, names=["tra*"], since="2100-01-01").ok  # there is such a name, and nothing new


# --- what neither can show alone -------------------------------------------------------------------------------------


def copied_pair(tmp_path: Path, folder: Path, password: str | None) -> tuple[Everything, Repository]:
    source, target = Repository(tmp_path / "source"), Repository(tmp_path / "target", password=password)
    everything = Everything(source, folder)
    everything.fill()
    assert source.copy_to(target).ok
    return everything, target


def test_a_copy_shows_what_was_taken_away_replaced_or_is_not_copied_yet(tmp_path: Path, folder: Path) -> None:
    everything, target = copied_pair(tmp_path, folder, "two")
    report = everything.repository.check(True, against=target)
    assert (report.problems, report.notes) == ([], [])
    SnapshotManager(everything.repository, name="run").save_snapshot(1, "later")
    SnapshotManager(everything.repository, name="new").save_snapshot(1, "later")
    [copied, new] = sorted(everything.repository.check(against=target).notes)
    assert (copied, new) == ("snapshots/new is not copied yet", "snapshots/run has 1 newer version than the copy")
    assert everything.repository.copy_to(target).ok
    source = tmp_path / "source"
    # The newest events are taken away, and one version is replaced by another one in the same place.
    catalog = Repository(source).parts().catalog
    run = next(folder for folder, name in catalog.streams().items() if name == ("snapshots", "run"))
    newest = max((source / "catalog" / run).iterdir())
    newest.unlink()
    for summary in (source / "compacted").glob(f"{run}/*"):
        summary.unlink()
    [problem] = Repository(source).check(against=target).problems
    assert problem.path == "snapshots/run"
    assert "newer events than there are here" in problem.what
    SnapshotManager(Repository(source), name="run").save_snapshot(2, "forged")
    [problem] = Repository(source).check(against=target).problems
    assert "the copy has other events" in problem.what


def test_what_was_left_out_of_a_copy_is_named(tmp_path: Path) -> None:
    source, target = Repository(tmp_path / "source"), Repository(tmp_path / "target")
    manager = SnapshotManager(source, name="run")
    manager.save_snapshot(noise(1), "damaged")
    [pack] = (tmp_path / "source" / "packs").rglob("*/*")
    data = pack.read_bytes()
    pack.write_bytes(data[:1000] + bytes([data[1000] ^ 1]) + data[1001:])
    manager.save_snapshot(noise(2), "good")
    assert [problem.path for problem in source.copy_to(target).problems] == ["snapshots/run:damaged"]
    pack.write_bytes(data)
    source = Repository(tmp_path / "source")
    assert source.copy_to(target).ok
    [note] = source.check(True, against=target).notes
    assert "1 version of snapshots/run will never be in the copy" in note


def test_a_lost_event_comes_back_exactly_as_it_was(tmp_path: Path) -> None:
    source, target = Repository(tmp_path / "source"), Repository(tmp_path / "target", password="two")
    manager = SnapshotManager(source, name="run")
    for number in range(4):
        manager.save_snapshot({"n": number}, str(number), {"loss": 0.5})
        manager.add_tags(str(number), ["x"])
    assert source.copy_to(target).ok
    events = list(source.stream("snapshots", "run", lambda _: None).events)
    [slots] = [place for place in (tmp_path / "source" / "catalog").iterdir() if place.name != "root"]
    (slots / "000000000001").unlink()
    (slots / "000000000003").write_bytes(b"damaged")
    (slots / "000000000006").unlink()
    report = Repository(tmp_path / "source").repair(copy=target)
    assert (len(report.actions), report.lost) == (3, [])
    source = Repository(tmp_path / "source")
    assert source.stream("snapshots", "run", lambda _: None).events == events
    assert source.check(True, against=target).problems == []
    assert SnapshotManager(source, name="run").load_snapshot("1") == {"n": 1}


@pytest.mark.parametrize("password", [pytest.param(None, marks=pytest.mark.nightly), "two"])
def test_damaged_objects_come_back_from_a_copy(tmp_path: Path, folder: Path, password: str | None) -> None:
    everything, target = copied_pair(tmp_path, folder, password)
    wanted = everything.seen()
    source = tmp_path / "source"
    kept = tmp_path / "kept"
    shutil.copytree(source, kept)
    damaged = 0
    for path in sorted([*(kept / "packs").glob("*/*"), *(kept / "logs").glob("*/" + "[0-9a-f]" * 32)]):
        place = source / path.relative_to(kept)
        data = bytearray(place.read_bytes())
        data[len(data) // 2] ^= 1
        place.write_bytes(data)
        repository = Repository(source)
        if repository.check(True).ok:
            continue  # another copy is used
        damaged += 1
        assert repository.repair(copy=target).lost == []
        repository = Repository(source)
        report = repository.check(True, against=target)
        assert report.problems == [], path
        assert_same(Everything(repository, folder).seen(), wanted)
        shutil.rmtree(source)
        shutil.copytree(kept, source)
    assert damaged >= 5


def test_a_large_result_comes_back_from_a_copy_in_which_its_event_has_another_number(tmp_path: Path) -> None:
    source, target = Repository(tmp_path / "source"), Repository(tmp_path / "target")
    for number in range(2):
        ResultLog(source).write("key", noise(number))
    assert source.copy_to(target).ok
    [place] = (path for path in (tmp_path / "source" / "keyed").rglob("*") if path.is_file())
    place.write_bytes(b"")
    assert Repository(tmp_path / "source").repair(copy=target).lost == []
    assert ResultLog(Repository(tmp_path / "source")).read("key") == noise(1)


def test_a_copy_without_encryption_repairs_nothing_encrypted_unless_it_is_trusted(tmp_path: Path) -> None:
    """Small data has no hash of its own: whoever can write to the copy would choose it."""
    source = Repository(tmp_path / "source", password="one")
    manager = SnapshotManager(source, name="run")
    manager.save_snapshot("mine", "small")
    manager.save_snapshot("later", "last")
    target = Repository(tmp_path / "target")
    assert source.copy_to(target, unencrypted=True).ok
    stream = target.stream("snapshots", "run", lambda _: None)
    stream.refresh()
    event = stream.events[0]
    forged = inline(encode("evil").manifest, [])
    assert forged is not None
    assert event.content is not None
    assert forged.content.size == event.content.size
    path = slot_path(stream.id, 1)
    target.parts().store.location.replace(path, stream.slot_bytes(event, forged.inline))
    [slots] = [place for place in (tmp_path / "source" / "catalog").iterdir() if place.name != "root"]
    (slots / "000000000001").unlink()
    source = Repository(tmp_path / "source", password="one")
    with pytest.raises(InvalidArgument, match=r"Nothing was repaired\. Whoever can write"):
        source.repair(copy=target)
    assert not (slots / "000000000001").exists()
    assert source.repair(copy=target, unencrypted=True).lost == []
    assert SnapshotManager(Repository(tmp_path / "source", password="one"), name="run").load_snapshot("small") == "evil"


def test_the_other_repository_may_be_a_path(tmp_path: Path) -> None:
    first = Repository(tmp_path / "first")
    SnapshotManager(first).save_snapshot({"a": 1}, "one")
    assert first.copy_to(tmp_path / "second").versions == 1
    assert first.check(against=str(tmp_path / "second")).ok
    assert not first.repair(copy=tmp_path / "second").lost
    wrong: Any = 5
    for call in (first.copy_to, lambda other: first.check(against=other), lambda other: first.repair(copy=other)):
        with pytest.raises(InvalidArgument, match="a Repository, a URL or a path, not int"):
            call(wrong)
