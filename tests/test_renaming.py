"""A name gets another one: everything is there afterwards, whatever happens on the way."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from servers import Storage
from test_copies import Dead, mortal

from prefect_snapshots import ArtifactRegistry, Repository, RetentionPolicy, SnapshotManager
from prefect_snapshots.errors import (
    ArtifactNotFound,
    CommitConflict,
    InvalidArgument,
    InvalidName,
    Pinned,
    SnapshotNotFound,
)
from prefect_snapshots.repository.renaming import rename
from prefect_snapshots.snapshots import list_names

LARGE = "x" * 50_000
"""Data that does not fit into an event."""


def lived(repository: Repository) -> ArtifactRegistry:
    """An artifact with a history: deleted versions, moved stages, changed metadata, a pin and a release."""
    registry = ArtifactRegistry(repository)
    for value in range(6):
        registry.log_artifact("old", {"value": value, "large": LARGE}, metadata={"n": value})
    registry.update_artifact_metadata("old", {"checked": True}, 2)
    registry.set_artifact_expiry("old", "2100-01-01", 3)
    registry.pin("old", 1)
    for version in (0, 2, 3):
        registry.promote_artifact("old", version, to="production", by="ada")
    registry.delete_version("old", 4)
    registry.create_release("1.0", {"old": 2})
    registry.delete_version("old", 5)
    return registry


def state_of(registry: ArtifactRegistry, name: str) -> Any:
    """All that can be seen of an artifact, without its name."""
    infos = [(info.version, info.created_at, info.metadata, info.expiry, info.pinned, info.aliases)
             for info in registry.list_versions(name)]  # fmt: skip
    values = [registry.load_artifact(name, version)["value"] for version, *_ in infos]
    return infos, values, registry.get_alias_history(name), registry.find_release("1.0").artifacts.get(name)


def test_a_renamed_artifact_keeps_all_but_its_name(memory_storage: Storage) -> None:
    registry = lived(Repository(memory_storage.url))
    before = state_of(registry, "old")
    written = [info.written for info in registry.list_versions("old")]
    stored = registry.repository.stats().stored_bytes
    registry.rename_artifact("old", "new", dry_run=True)
    assert registry.list_names() == ["old"]
    registry.rename_artifact("old", "new")
    assert registry.repository.stats().stored_bytes - stored < len(LARGE), "data was copied"
    for seen in (registry, ArtifactRegistry(Repository(memory_storage.url))):
        assert seen.list_names() == ["new"]
        assert state_of(seen, "new") == before
        assert [info.written for info in seen.list_versions("new")] == written
        with pytest.raises(ArtifactNotFound, match="default/old was renamed to 'new'"):
            seen.load_artifact("old")
    with pytest.raises(InvalidArgument, match="released"):
        registry.delete_version("new", 2)
    assert registry.log_artifact("new", 1).version == "v6"
    registry.delete_version("new", 6)
    assert registry.repository.prune(grace=0) is not None
    assert state_of(registry, "new") == before
    # And back again, as often as one likes.
    for _ in range(2):
        registry.rename_artifact("new", "old")
        assert registry.log_artifact("old", 1).version in ("v7", "v8")
        registry.delete_version("old", "latest")
        assert state_of(registry, "old") == before
        registry.rename_artifact("old", "new")
    assert state_of(registry, "new") == before
    assert registry.repository.check(read_data=True).ok


def test_a_name_that_is_taken_is_refused(memory_storage: Storage) -> None:
    registry = lived(Repository(memory_storage.url))
    before = state_of(registry, "old")
    registry.log_artifact("taken", 1)
    for dry_run in (True, False):
        with pytest.raises(InvalidArgument, match=r"default/taken exists already\. Nothing was changed"):
            registry.rename_artifact("old", "taken", dry_run=dry_run)
        with pytest.raises(InvalidArgument, match="default/old has this name already"):
            registry.rename_artifact("old", "old", dry_run=dry_run)
        with pytest.raises(ArtifactNotFound):
            registry.rename_artifact("nothing", "new", dry_run=dry_run)
    assert state_of(registry, "old") == before
    registry.delete_artifact("taken")
    registry.rename_artifact("old", "taken")
    assert state_of(registry, "taken") == before
    # The old name is free, and a new artifact there has nothing to do with the one that was renamed.
    registry.log_artifact("old", "another")
    with pytest.raises(InvalidArgument, match="exists already"):
        registry.rename_artifact("old", "taken")
    registry.rename_artifact("old", "third")
    assert registry.load_artifact("third") == "another"
    assert [len(registry.list_versions("third")), registry.get_aliases("third")] == [1, {}]


def test_artifacts_survive_a_kill_at_every_write(memory_storage: Storage) -> None:
    ended = 0
    for step in itertools.count(2):
        url = f"{memory_storage.url}/{step}"
        registry = lived(Repository(url))
        before = state_of(registry, "old")
        try:
            ArtifactRegistry(mortal(url, step // 2, bool(step % 2))).rename_artifact("old", "new")
        except Dead:
            ended += 1
        else:
            break
        registry = ArtifactRegistry(Repository(url))
        names = registry.list_names()
        if "old" in names:
            # The release may have its new name already: then everything stands there.
            assert state_of(registry, "old")[:3] == before[:3]
            registry.repository.prune(grace=0)
            registry.rename_artifact("old", "new")
        assert registry.list_names() == ["new"]
        assert state_of(registry, "new") == before
        assert registry.repository.check(read_data=True).ok
    assert ended > 20


def test_snapshots_survive_a_kill_at_every_write(memory_storage: Storage) -> None:
    def fill(repository: Repository) -> SnapshotManager[Any]:
        manager: SnapshotManager[Any] = SnapshotManager(repository, name="old")
        for number in range(4):
            manager.save_snapshot(
                {"n": number, "large": LARGE}, f"s{number}", {"n": number}, tags=["kept", f"t{number}"]
            )
        manager.save_snapshot({"n": 9, "large": LARGE}, "s0", overwrite=True)
        manager.add_tags("s1", "more")
        manager.remove_tags("s1", "kept")
        manager.update_metadata("s1", {"loss": 0.5})
        manager.pin("s3")
        manager.delete_snapshot("s2")
        return manager

    def state(repository: Repository, name: str) -> Any:
        manager: SnapshotManager[Any] = SnapshotManager(repository, name=name)
        return [(info, manager.load_snapshot(info.id)["n"]) for info in manager.list_snapshots()]

    ended = 0
    for step in itertools.count(2):
        url = f"{memory_storage.url}/{step}"
        fill(Repository(url))
        before = state(Repository(url), "old")
        try:
            manager: SnapshotManager[Any] = SnapshotManager(mortal(url, step // 2, bool(step % 2)), name="old")
            manager.rename("new")
        except Dead:
            ended += 1
        else:
            break
        if "old" in list_names(url):
            assert state(Repository(url), "old") == before
            SnapshotManager(url, name="old").rename("new")
        assert list_names(url) == ["new"]
        assert state(Repository(url), "new") == before
        with pytest.raises(SnapshotNotFound, match="renamed to 'new'"):
            SnapshotManager(url, name="old").load_snapshot("s1")
    assert ended > 15
    assert manager.name == "new"
    manager = SnapshotManager(url, name="new")
    assert manager.save_snapshot({"n": 5}, "s5") == "s5"
    assert [info.id for info in manager.list_snapshots()] == ["s5", "s0", "s3", "s1"]
    assert manager.query.by_tags("more") == ["s1"]


def test_what_others_log_meanwhile_is_renamed_too(memory_storage: Storage) -> None:
    registry = lived(Repository(memory_storage.url))
    writer = ArtifactRegistry(Repository(memory_storage.url))
    late = iter(["late", "later"])

    def finish() -> None:
        value = next(late, None)
        if value is not None:
            writer.log_artifact("old", value)
            writer.delete_version("old", 0 if value == "late" else 1, force=True)

    rename(registry.repository, "artifacts", "default:old", "default:new", label="new", finish=finish)
    assert registry.list_names() == ["new"]
    assert [info.version for info in registry.list_versions("new")] == ["v7", "v6", "v3", "v2"]
    assert registry.load_artifact("new") == "later"


def test_what_others_log_under_the_new_name_meanwhile_is_not_lost(memory_storage: Storage) -> None:
    registry = lived(Repository(memory_storage.url))
    before = state_of(registry, "old")

    def finish() -> None:
        ArtifactRegistry(Repository(memory_storage.url)).log_artifact("new", "of another")
        ArtifactRegistry(Repository(memory_storage.url)).log_artifact("old", "late")

    with pytest.raises(CommitConflict, match="Everything is still under the old name"):
        rename(registry.repository, "artifacts", "default:old", "default:new", label="New", finish=finish)
    registry.delete_version("old", "latest")
    assert state_of(registry, "old") == before
    assert registry.load_artifact("new") == "of another"
    with pytest.raises(CommitConflict):
        registry.rename_artifact("old", "new")
    registry.delete_artifact("new", force=True)
    registry.rename_artifact("old", "new")
    assert state_of(registry, "new") == before


def test_restored_snapshots_keep_their_place(memory_storage: Storage) -> None:
    from prefect_snapshots.snapshots.changes import saved_with, undo

    manager: SnapshotManager[Any] = SnapshotManager(memory_storage.url, name="old", max_snapshots=3)
    for number in range(3):
        manager.save_snapshot(number, f"s{number}")
    token = "ab" * 16
    manager.save_snapshot(3, "s3", token=token)
    event = saved_with(manager, bytes.fromhex(token))
    assert event is not None
    undo(manager, event)
    assert list(manager) == ["s0", "s1", "s2"]
    manager.rename("new")
    assert list(manager) == ["s0", "s1", "s2"]


def test_a_copy_gets_both_names(memory_storage: Storage) -> None:
    source, second = Repository(f"{memory_storage.url}/a"), Repository(f"{memory_storage.url}/b")
    registry = lived(source)
    source.copy_to(second)
    before = state_of(registry, "old")
    registry.rename_artifact("old", "new")
    for names in (["new", "old"], ["new"]):
        assert source.copy_to(second).ok
        copy = ArtifactRegistry(second)
        assert copy.list_names() == names
        assert state_of(copy, "new") == before
        registry.rename_artifact("new", "old")
        registry.rename_artifact("old", "new")
    assert source.check(against=second).ok


def test_a_manager_in_memory_is_renamed() -> None:
    manager: SnapshotManager[int] = SnapshotManager(name="old")
    with pytest.raises(SnapshotNotFound, match="no snapshots under the name 'old'"):
        manager.rename("new")
    manager.save_snapshot(1, "a")
    manager.rename("new", dry_run=True)
    assert manager.name == "old"
    manager.rename("new")
    with pytest.raises(SnapshotNotFound, match="'new' has no snapshot 'b'"):
        manager.load_snapshot("b")
    assert manager.load_snapshot("a") == 1


@pytest.mark.parametrize("durable", [True, False])
def test_all_snapshots_are_deleted_and_the_name_with_them(memory_storage: Storage, durable: bool) -> None:
    manager: SnapshotManager[int] = SnapshotManager(memory_storage.url if durable else None, name="x")
    for number in range(3):
        manager.save_snapshot(number, f"s{number}")
    manager.pin("s1")
    for dry_run in (True, False):
        with pytest.raises(Pinned, match=r"Pinned: s1 of 'x'\. Nothing was deleted"):
            manager.delete_all(dry_run=dry_run)
    assert manager.delete_all(force=True, dry_run=True) == ["s0", "s1", "s2"]
    assert len(manager) == 3
    assert manager.delete_all(force=True) == ["s0", "s1", "s2"]
    assert manager.delete_all() == []
    assert len(manager) == 0
    if durable:
        assert list_names(memory_storage.url) == []
        assert manager.cleanup(RetentionPolicy(keep_last=1)).deleted == ()


def test_the_longest_names(memory_storage: Storage) -> None:
    """The name of the stream is longer: it has the collection, too."""
    longest, collection = "n" * 512, "%:" * 256
    registry = ArtifactRegistry(Repository(memory_storage.url), collection)
    registry.log_artifact(longest, 1)
    for new in ("short", "m" * 512):
        registry.rename_artifact(longest, new)
        with pytest.raises(ArtifactNotFound, match=f"was renamed to '{new}'"):
            ArtifactRegistry(Repository(memory_storage.url), collection).load_artifact(longest)
        longest = new
    assert ArtifactRegistry(Repository(memory_storage.url), collection).load_artifact(longest) == 1
    with pytest.raises(InvalidName, match="must have 1 to 512 characters, not 513"):
        registry.rename_artifact(longest, "n" * 513)
    manager: SnapshotManager[int] = SnapshotManager(Repository(memory_storage.url), name="s")
    manager.save_snapshot(1, "one")
    manager.rename("s" * 512)
    assert manager.load_snapshot("one") == 1
    with pytest.raises(InvalidName, match="not 513"):
        manager.rename("s" * 513)


def test_one_of_two_renames_at_once_is_told(memory_storage: Storage) -> None:
    registry = ArtifactRegistry(Repository(memory_storage.url))
    registry.log_artifact("old", 1)
    other = ArtifactRegistry(Repository(memory_storage.url))

    def finish() -> None:
        other.rename_artifact("old", "theirs")

    with pytest.raises(CommitConflict, match="Somebody else has renamed"):
        rename(registry.repository, "artifacts", "default:old", "default:ours", label="ours", finish=finish)
    assert registry.load_artifact("theirs") == 1
    with pytest.raises(ArtifactNotFound, match="renamed to 'theirs'"):
        registry.load_artifact("old")
