"""The next version of a folder is made from an existing one: what stays is neither read nor stored again."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers import Storage

from prefect_snapshots import ArtifactRegistry
from prefect_snapshots.errors import (
    ArtifactNotFound,
    CommitConflict,
    IntegrityError,
    InvalidArgument,
    InvalidName,
    ObjectMissing,
)


def fill(folder: Path, sizes: dict[str, int], seed: int = 0) -> dict[str, bytes]:
    """Files of random bytes, and their content by path."""
    found = {}
    for number, (path, size) in enumerate(sizes.items()):
        found[path] = random.Random(f"{seed}.{number}").randbytes(size)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(found[path])
    return found


def files_of(registry: ArtifactRegistry, version: object = None) -> dict[str, bytes]:
    with registry.download_artifact("x", version=version) as folder:  # type: ignore[arg-type]
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_some_files_are_changed_and_the_others_are_neither_read_nor_stored(tmp_path: Path) -> None:
    registry = ArtifactRegistry(tmp_path / "r")
    sizes = {
        **{f"small/{number:03}": 500 for number in range(200)},
        "large/a": 3_000_000,
        "large/b": 2_000_000,
        "z": 10,
    }
    before = fill(tmp_path / "old", sizes)
    registry.log_files("x", tmp_path / "old", metadata={"n": 1})
    added = fill(tmp_path / "new", {"large/b": 1_000, "more/c": 50_000}, seed=1)
    with registry.draft("x", metadata={"n": 2}) as draft:
        draft.remove("small/00*")
        draft.add(tmp_path / "new")
        draft.add(tmp_path / "new" / "large" / "b", "copies")
        assert len(draft.list_files()) == len(sizes) - 10 + 2
    assert str(draft.version) == "default/x:v1"
    wanted = {path: data for path, data in before.items() if not path.startswith("small/00")}
    wanted |= added | {"copies/b": added["large/b"]}
    assert files_of(registry) == wanted
    assert files_of(registry, 0) == before
    info = registry.get_artifact("x")
    assert info.metadata == {"n": 2}
    assert info.written < 200_000, "what stayed was stored again"
    registry.repository.prune(grace=0)
    assert registry.repository.check(read_data=True).ok
    assert files_of(registry) == wanted
    # And once more, from a version that is itself made so.
    with registry.draft("x", 1) as draft:
        draft.remove(["large/", "copies/"])
    assert files_of(registry) == {path: data for path, data in wanted.items() if path[:5] not in ("large", "copie")}
    assert "more/c" in [change.path for change in registry.diff("x", 0, 2) if change.kind == "added"]


def test_large_files_that_stay_are_not_read(tmp_path: Path) -> None:
    registry = ArtifactRegistry(tmp_path / "r")
    fill(tmp_path / "old", {"large": 3_000_000, "small": 10})
    registry.log_files("x", tmp_path / "old")
    with registry.draft("x") as draft:
        # Whoever reads them finds that they are damaged.
        for pack in (tmp_path / "r" / "packs").rglob("*"):
            if pack.is_file():
                pack.chmod(0o600)
                data = bytearray(pack.read_bytes())
                data[1000:2000] = bytes(1000)
                pack.write_bytes(data)
        (tmp_path / "added").write_text("new")
        draft.add(tmp_path / "added")
    assert registry.list_files("x") == [("large", 3_000_000), ("small", 10), ("added", 3)]
    with pytest.raises(IntegrityError):
        files_of(registry)


def test_what_cannot_be_a_draft_is_refused_and_nothing_is_lost(memory_storage: Storage, tmp_path: Path) -> None:
    registry = ArtifactRegistry(memory_storage.url)
    with pytest.raises(ArtifactNotFound):
        registry.draft("x")
    registry.log_artifact("value", 1)
    with pytest.raises(InvalidArgument, match="is a value"):
        registry.draft("value")
    before = fill(tmp_path / "old", {"a": 10, "b/c": 20})
    registry.log_files("x", tmp_path / "old")
    with registry.draft("x") as draft:
        pass
    assert draft.version is None
    again: list[Callable[[], object]] = [draft.__enter__, lambda: draft.remove("a"), lambda: draft.add(tmp_path)]
    for use in again:
        with pytest.raises(InvalidArgument, match="has ended, and was not logged"):
            use()
    with pytest.raises(ZeroDivisionError), registry.draft("x") as draft:
        draft.remove("a")
        _ = 1 / 0
    with registry.draft("x") as draft:
        with pytest.raises(InvalidArgument, match=r"No file of default/x:v0 matches 'nothing'\. Nothing was changed\."):
            draft.remove("nothing")
        with pytest.raises(ObjectMissing):
            draft.add(tmp_path / "nothing")
    (tmp_path / "b").write_text("a file where a folder is")
    with pytest.raises(InvalidArgument), registry.draft("x") as draft:
        draft.add(tmp_path / "old" / "a")
        draft.add(tmp_path / "old" / "a")
    assert [info.version for info in registry.list_versions("x")] == ["v0"]
    with pytest.raises(InvalidName, match="is not a directory"), registry.draft("x") as draft:
        draft.add(tmp_path / "b")
    assert files_of(registry) == before
    rival = ArtifactRegistry(memory_storage.url)
    with pytest.raises(CommitConflict, match="Nothing was saved"), registry.draft("x") as draft:
        draft.remove("a")
        rival.log_files("x", tmp_path / "old" / "a")
    assert files_of(registry) == {"a": before["a"]}
    with registry.draft("x") as draft:
        draft.add(tmp_path / "b")
    with pytest.raises(InvalidArgument, match="This draft was logged as default/x:v2"), draft:
        pass


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.sampled_from([0, 1, 900, 20_000, 70_000, 300_000]), min_size=1, max_size=8),
    st.data(),
)
def test_any_part_of_a_folder_can_stay(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], data: st.DataObject
) -> None:
    place = tmp_path_factory.mktemp("draft")
    registry = ArtifactRegistry(place / "r")
    before = fill(place / "old", {f"f{number}": size for number, size in enumerate(sizes)})
    registry.log_files("x", place / "old")
    gone = data.draw(st.sets(st.sampled_from(sorted(before))))
    again = data.draw(st.sets(st.sampled_from(sorted(before))))
    (place / "new").mkdir()
    added = fill(place / "new", dict.fromkeys(sorted(again), 5000) | {"new": 100}, seed=1)
    with registry.draft("x") as draft:
        if gone:
            draft.remove(sorted(gone))
        draft.add(place / "new")
    assert files_of(registry) == {path: kept for path, kept in before.items() if path not in gone} | added
    assert registry.repository.check(read_data=True).ok
