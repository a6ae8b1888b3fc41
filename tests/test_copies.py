"""A copy of a repository has the same versions, numbers, times, stages and results, and both can go on meanwhile."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from servers import Storage

from prefect_snapshots import ArtifactRegistry, BackupManager, Repository, SnapshotManager
from prefect_snapshots.checkpoints import CheckpointManager, Snapper
from prefect_snapshots.results import ResultLog


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
            "results": [(result, self.results.read(result.key)) for result in self.results.older_than("2100-01-01")],
        }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


def assert_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for what in wanted:
        assert found[what] == wanted[what], what


@pytest.mark.parametrize(
    ("to", "passwords"), [("local", (None, None)), ("local", (None, "two")), ("s3", ("one", "two"))]
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
