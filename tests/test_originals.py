"""What the pages on the packages that this one follows say is true: each of their public calls, one after another.

A call is the same here, or a row of the page says what to write instead; both are run here with the arguments of their
documentation. No public name of theirs is left out.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lazyscribe
import pytest
from scaffold.data.artifact_manager.filesystem import FileSystemArtifactManager

import prefect_snapshots
from prefect_snapshots import ArtifactRegistry, PyTreeSnapshotManager, Repository, Snapper
from prefect_snapshots.artifacts.differences import FileDifference

PAGES = Path(__file__).parent.parent / "docs" / "howto"

SNAPSHOT_MANAGER = """
    add_tags get_ids_by_insertion_order get_ids_by_rank get_latest_snapshot get_metadata get_oldest_snapshot
    get_snapshot get_snapshot_by_index get_snapshot_count get_tags list_snapshots list_snapshots_by_age load_from_file
    remove_cmp remove_snapshot remove_tags resort save_snapshot save_to_file update_cmp update_max_snapshots
    update_metadata tree_combine tree_map tree_replace by_cmp by_content by_leaf_value by_metadata by_tags by_time_range
    evaluate AndQuery ByContentQuery ByLeafQuery ByMetadataQuery ByTagQuery ByTimeRangeQuery NotQuery OrQuery
    query_class get_data get_id to_dict clone has_tag set_metadata set_timestamp get_timestamp from_dict
"""
SNAPPER = """
    failed_items generate_report load load_all load_metrics start snapshot_storage batch_size max_wait_time max_retries
    skip_item_errors retry_failed_items max_consecutive_exceptions fatal_exceptions
"""


class Original:
    """One page, with the names that are defined where its examples run."""

    def __init__(self, page: str, **names: Any) -> None:
        self.text = (PAGES / page).read_text()
        self.names = {**vars(prefect_snapshots.errors), "ps": prefect_snapshots, "pytest": pytest, **names}
        self.calls: list[str] = []

    def same(self, call: str, expected: Any) -> None:
        """Their call is ours, positional arguments included, and has this result."""
        self.calls.append(call)
        assert self.run(call) == expected, call

    def instead(self, theirs: str, ours: str, expected: Any) -> None:
        """A row of the page has both, and ours has this result."""
        self.calls.append(theirs)
        rows = [line for line in self.text.splitlines() if line.startswith("|") and theirs in line.split(" | ")[0]]
        assert rows, f"the page does not name {theirs}"
        assert any(ours in row for row in rows), f"no row of {theirs} says {ours}"
        found = self.run(ours)
        assert getattr(found, "id", found) == expected, ours

    def gone(self, *theirs: str) -> None:
        """A row of the page says that there is nothing like this."""
        self.calls += theirs
        for each in theirs:
            assert any(line.startswith("|") and each in line for line in self.text.splitlines()), each

    def run(self, code: str) -> Any:
        if "=" in re.sub(r"\(.*\)|==", "", code) or code.startswith("del "):
            exec(code, self.names)
            return None
        return eval(code, self.names)

    def check_all(self, names: str) -> None:
        missing = [name for name in names.split() if not any(re.search(rf"\b{name}\b", call) for call in self.calls)]
        assert not missing, f"no test runs {missing}"


def public(cls: type) -> str:
    return " ".join(name for name, _ in inspect.getmembers(cls, callable) if not name.startswith("_"))


def raises(error: type[Exception], call: Callable[[], Any]) -> bool:
    with pytest.raises(error):
        call()
    return True


def test_snapshot_manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    manager: PyTreeSnapshotManager[Any] = PyTreeSnapshotManager(max_snapshots=9)
    o = Original("from-snapshot-manager.md", manager=manager, ByTag=prefect_snapshots.ByTag, datetime=datetime, UTC=UTC)
    o.same('manager.save_snapshot({"a": 1, "b": 2}, "first", {"loss": 0.5}, ["baseline", "old"], False, True)', "first")
    o.same('manager.save_snapshot({"a": 3, "b": 4}, snapshot_id="second", metadata={"loss": 0.25})', "second")
    o.same('manager.get_snapshot("first", False).data', {"a": 1, "b": 2})
    o.same('manager["first"].metadata', {"loss": 0.5})
    o.same('"first" in manager', True)
    o.same("manager.get_latest_snapshot().id", "second")
    o.same("manager.get_oldest_snapshot().id", "first")
    o.same("manager.get_ids_by_insertion_order()", ["first", "second"])
    o.instead("get_ids_by_rank()", "manager.get_ids_by_insertion_order()", ["first", "second"])
    o.same("manager.list_snapshots_by_age(True)", ["first", "second"])
    o.same('manager.get_tags("first")', ["baseline", "old"])
    o.same('manager.add_tags("second", ["new"])', None)
    o.same('manager.remove_tags("first", ["old"])', None)
    o.same('manager.get_metadata("second")', {"loss": 0.25})
    o.same('manager.update_metadata("second", {"epoch": 3})', None)
    o.same('manager.query.by_tags(["baseline", "new"], False)', ["first", "second"])
    o.same('manager.query.by_metadata("epoch", 3)', ["second"])
    o.same('manager.query.by_content(lambda data: data["a"] == 3)', ["second"])
    o.same("manager.query.by_leaf_value(lambda leaf: leaf == 4)", ["second"])
    o.instead(
        "query.by_time_range(0.0, end)",
        "manager.query.by_time_range(datetime.fromtimestamp(0.0, UTC))",
        ["first", "second"],
    )
    o.same('manager.query.evaluate(ByTag("new") & ~ByTag("old"))', ["second"])
    o.instead("list_snapshots()", "list(manager)", ["first", "second"])
    o.instead("get_snapshot_count()", "len(manager)", 2)
    o.instead("get_snapshot_by_index(0)", "manager[list(manager)[0]]", "first")
    o.instead(
        "get_latest_snapshot(deepcopy=False)",
        "manager.get_snapshot(list(manager)[-1], deepcopy=False)",
        "second",
    )
    o.instead("query.by_cmp(cmp)", 'min(manager, key=lambda id: manager.get_metadata(id)["loss"])', "second")
    o.names.update(fn=lambda leaf: leaf * 10, ids=["first"], mean=lambda *leaves: sum(leaves) / len(leaves))
    o.instead("tree_map(fn, ids)", 'manager.tree_map(fn, "first", new_id="mapped")', "mapped")
    assert manager["mapped"].data == {"a": 10, "b": 20}
    o.instead("tree_combine(ids, fn)", 'manager.tree_combine(["first", "second"], mean, new_id="mean")', "mean")
    o.instead("tree_replace(fn)", 'manager.tree_replace({"a": 7}, "first", new_id="replaced")', "replaced")
    assert manager["replaced"].data == {"a": 7, "b": 2}
    o.same('manager.save_to_file("all.psnap")', None)
    o.same('len(ps.SnapshotManager.load_from_file("all.psnap"))', 5)
    o.instead("save_to_file(path, compress=False)", 'manager.save_to_file("all.psnap")', None)
    o.instead("remove_snapshot(id)", 'manager.remove_snapshot("mapped")', None)
    assert raises(prefect_snapshots.errors.SnapshotNotFound, lambda: manager.remove_snapshot("mapped"))
    o.instead("update_max_snapshots(2)", "manager.max_snapshots = 2", None)
    manager.save_snapshot({"a": 0, "b": 0}, "last")
    assert len(manager) == 2
    o.gone("update_cmp", "remove_cmp", "resort", "query_class", "set_timestamp")
    o.names["snapshot"] = manager["last"]
    o.instead("snapshot.get_data()", "snapshot.data", {"a": 0, "b": 0})
    o.instead("snapshot.get_id()", "snapshot.id", "last")
    o.instead("snapshot.has_tag(tag)", '"new" in snapshot.tags', False)
    o.gone("get_timestamp", "to_dict", "from_dict", "clone", "set_metadata")
    o.gone(
        "ByTagQuery",
        "ByMetadataQuery",
        "ByTimeRangeQuery",
        "ByContentQuery",
        "ByLeafQuery",
        "AndQuery",
        "OrQuery",
        "NotQuery",
    )
    o.check_all(SNAPSHOT_MANAGER)


def test_snapperable(tmp_path: Path) -> None:
    calls: list[int] = []

    def process(item: int) -> int:
        calls.append(item)
        return 1 // item

    o = Original("from-snapperable.md", Snapper=Snapper, fn=process, P=tmp_path, data=[1, 2])
    ours = "Snapper(data, fn, batch_size=100, max_wait_time=30.0)"
    o.run(ours)
    o.gone("Snapper(data, fn, 100, 30.0)", ours)
    o.names["s"] = Snapper([1, 2], process, repository=tmp_path, function_version=1)
    o.same("s.start()", None)
    o.same("s.load()", [1, 0])
    o.same("sorted(s.load_all())", [0, 1])
    o.same("len(s.load_metrics())", 2)
    o.same('s.generate_report("json")[0]', "{")
    o.gone("snapshot_storage", "max_retries", "input_item")
    o.names["failing"] = Snapper(
        [0], process, repository=tmp_path, function_version=1, skip_item_errors=True, max_retries=0
    )
    calls.clear()
    o.same("failing.start()", None)
    o.same("[failed.item for failed in failing.failed_items]", [0])
    assert calls == [0]
    calls.clear()
    assert raises(ZeroDivisionError, lambda: Snapper([0], process, repository=tmp_path / "retried").start())
    assert len(calls) == 4  # as the page says
    for option in ("skip_item_errors", "retry_failed_items", "max_consecutive_exceptions", "fatal_exceptions"):
        assert option in inspect.signature(Snapper).parameters
    o.calls += ["skip_item_errors retry_failed_items max_consecutive_exceptions fatal_exceptions"]
    o.check_all(SNAPPER)


def test_lazyscribe(tmp_path: Path) -> None:
    registry = ArtifactRegistry(tmp_path)
    o = Original("from-lazyscribe.md", repository=registry, registry=registry, URL=tmp_path, Repository=Repository)
    o.same('repository.log_artifact("features", [0, 1], "json", indent=4).version', "v0")
    o.same('repository.log_artifact("features", [0, 1, 2], handler="json").version', "v1")
    o.same('repository.load_artifact(name="features", validate=True, version=0, match="exact")', [0, 1])
    o.instead('load_artifact("features", True, 0)', 'registry.load_artifact("features", 0, validate=True)', [0, 1])
    o.instead(
        'set_artifact_expiry("features", 0, "exact", "2020-01-01T00:00:00")',
        'registry.set_artifact_expiry("features", "2020-01-01T00:00:00", 0)',
        None,
    )
    assert raises(prefect_snapshots.errors.ArtifactExpired, lambda: registry.load_artifact("features", 0))
    o.instead('get_artifact_metadata("features")', 'registry.get_artifact("features").version', "v1")
    [difference] = registry.diff("features", 0, 1)
    assert isinstance(difference, FileDifference)
    o.instead('get_version_diff("features", (0, 1))', 'registry.diff("features", 0, 1)[0].text', difference.text)
    assert raises(TypeError, lambda: registry.log_artifact("x", 1, "json", "name.json"))  # type: ignore[call-arg]
    o.gone("fname", "filter(version)", "save()", "load()", "Project", "release")
    o.check_all(public(lazyscribe.Repository))


def test_scaffold(tmp_path: Path) -> None:
    file = tmp_path / "weights.txt"
    file.write_text("one")
    registry = ArtifactRegistry(tmp_path / "repository", collection="models")
    o = Original("from-scaffold.md", manager=registry, registry=registry, file=file, tmp=tmp_path)
    o.same('manager.log_files("net", str(file), "models", "sub/w.txt").version', "v0")
    o.same('manager.log_files("net", file).version', "v1")
    o.same("manager.list_collection_names()", ["models"])
    o.same("manager.active_collection", "models")
    o.same('manager.download_artifact("net", "models", "v1", str(tmp / "to")).version.version', "v1")
    assert (tmp_path / "to/weights.txt").read_text() == "one"
    o.same('hasattr(manager.log_folder("net", "models"), "__enter__")', True)
    o.instead('list_artifacts("models")', 'registry.list_names("models")', ["net"])
    o.instead('list_versions("net")', '[info.version for info in registry.list_versions("net")]', ["v1", "v0"])
    o.instead('exists("net")', 'registry.exists("net", "models")', True)
    o.instead('exists_in_collection("net", "models")', 'registry.exists("net", "models")', True)
    o.instead('resolve("net")', 'registry.get_artifact("net").version', "v1")
    o.instead('remove_version("net", "v0")', 'registry.delete_version("net", "v0")', None)
    o.gone("reserve_version", "artifact_url", "write_metafile", "read_metafile", "set_agentsmd", "read_agentsmd")
    o.check_all(public(FileSystemArtifactManager))
