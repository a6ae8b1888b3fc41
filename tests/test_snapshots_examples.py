"""Managers keep what they are given, and give it back: in this process, in a directory and in a bucket alike.

Everything that the guide shows works as shown. What is saved is a copy, and so is what is retrieved. The best
snapshots stay, the worst go, pinned ones never. Times, tags, order and ranking survive files and repositories. What
cannot be stored, named or compared is a clear error, and leaves nothing half-done behind.
"""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import math
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import unicodedata
import uuid
from collections import namedtuple
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path, PurePosixPath
from typing import Any, assert_type

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pandas as pd
import pytest
import torch
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

import prefect_snapshots
from prefect_snapshots import (
    ArtifactRegistry,
    ByContent,
    ByLeaf,
    ByMetadata,
    ByTag,
    ByTimeRange,
    Directory,
    PyTreeSnapshotManager,
    Repository,
    RetentionPolicy,
    Snapshot,
    SnapshotManager,
    load_latest,
)
from prefect_snapshots.errors import (
    DamagedObject,
    DamagedVersion,
    InvalidArgument,
    InvalidName,
    LeafError,
    PickleRefused,
    Pinned,
    SnapshotExists,
    SnapshotNotFound,
    SnapshotsError,
    StructureMismatch,
    UnserialisableLeaf,
    UnsupportedFormat,
    UsageError,
)

# --- where managers keep their snapshots ------------------------------------------------------------------------------


@pytest.fixture(params=["process", "local", "memory"])
def home(request: pytest.FixtureRequest) -> str | None:
    """What a manager is given: nothing, a directory, or a bucket in memory."""
    return None if request.param == "process" else _url(request)


@pytest.fixture(params=["local", "memory"])
def durable(request: pytest.FixtureRequest) -> str:
    """Somewhere that outlives the manager."""
    return _url(request)


def _url(request: pytest.FixtureRequest) -> str:
    storage = request.getfixturevalue(f"{request.param}_storage")
    return str(storage.url)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[datetime], None]:
    """Sets the clock of this machine, for whoever asks it what to write into an event."""
    return lambda now: monkeypatch.setattr(time, "time_ns", lambda: int(now.timestamp()) * 10**9)


@dataclass
class Node:
    """A container of our own: JAX learns about it below."""

    weight: Any
    bias: Any
    label: str = "node"


class Pair:
    """A container that only JAX can take apart."""

    def __init__(self, first: Any, second: Any) -> None:
        self.first, self.second = first, second


jax.tree_util.register_pytree_node(Pair, lambda pair: ((pair.first, pair.second), None), lambda _, pair: Pair(*pair))

Point = namedtuple("Point", "x y")


class Opaque:
    """Only pickle can store it."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Opaque) and other.value == self.value

    def __reduce__(self) -> tuple[type[Opaque], tuple[int]]:
        return Opaque, (self.value,)

    __hash__ = None  # type: ignore[assignment]


# --- what the guide shows ---------------------------------------------------------------------------------------------


def test_example_save_and_retrieve(home: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    manager = SnapshotManager(home)

    dic1 = {"a": 1, "b": 2}
    snapshot_id = manager.save_snapshot(dic1, metadata={"project": "example"})
    assert snapshot_id is not None

    retrieved_snapshot = manager.get_snapshot(snapshot_id)

    print("Data of retrieved snapshot:", retrieved_snapshot.data)
    print("Metadata:", retrieved_snapshot.metadata)
    assert capsys.readouterr().out.splitlines() == [
        "Data of retrieved snapshot: {'a': 1, 'b': 2}",
        "Metadata: {'project': 'example'}",
    ]


def test_example_transform_pytrees(home: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    manager = PyTreeSnapshotManager(home)

    sid = manager.save_snapshot(
        {
            "txt": "hello pytorch",
            "x": 42,
        }
    )

    nsid = manager.tree_map(
        lambda x: x.replace("pytorch", "jax") if isinstance(x, str) else x,
        snapshot_id=sid,
    )
    assert nsid is not None

    print(manager.get_snapshot(nsid).data)
    assert capsys.readouterr().out == "{'txt': 'hello jax', 'x': 42}\n"


def test_example_persistence(
    home: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    manager = SnapshotManager(home)

    snapshot_id1 = manager.save_snapshot({"a": 1, "b": 2}, metadata={"project": "example1"})
    snapshot_id2 = manager.save_snapshot({"x": 10, "y": 20}, metadata={"project": "example2"})
    assert snapshot_id1 is not None
    assert snapshot_id2 is not None

    manager.save_to_file("snapshots.pkl")
    print("Snapshots saved to file.")

    new_manager = SnapshotManager.load_from_file("snapshots.pkl")
    print("Snapshots reloaded from file.")

    retrieved_snapshot = new_manager.get_snapshot(snapshot_id1)
    print("Reloaded Data:", retrieved_snapshot.data)
    assert capsys.readouterr().out.splitlines() == [
        "Snapshots saved to file.",
        "Snapshots reloaded from file.",
        "Reloaded Data: {'a': 1, 'b': 2}",
    ]
    assert new_manager[snapshot_id2].metadata == {"project": "example2"}


def test_example_query_by_tags(home: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    manager = SnapshotManager(home)

    manager.save_snapshot({"a": 1, "b": 2}, snapshot_id="snap1", tags=["experiment", "baseline"])
    manager.save_snapshot({"a": 3, "b": 4}, snapshot_id="snap2", tags=["experiment", "variant"])
    manager.save_snapshot({"x": 10, "y": 20}, snapshot_id="snap3", tags=["control"])

    experiment_snapshots = manager.query.by_tags("experiment")

    print("Experiment Snapshots:", experiment_snapshots)
    assert capsys.readouterr().out == "Experiment Snapshots: ['snap1', 'snap2']\n"


def test_example_live_references_for_all_operations() -> None:
    manager = SnapshotManager(deepcopy_on_save=False, deepcopy_on_retrieve=False)
    data = [1]
    manager.save_snapshot(data, "snap1")
    data.append(2)
    assert manager.get_snapshot("snap1").data is data


def test_example_live_reference_for_one_retrieval() -> None:
    manager = SnapshotManager()
    manager.save_snapshot([1], "snap1")
    manager.get_snapshot("snap1", deepcopy=False).data.append(2)
    assert manager["snap1"].data == [1, 2]
    assert manager["snap1"].data is not manager["snap1"].data


def test_example_live_reference_for_one_save() -> None:
    manager = SnapshotManager()
    data = [1]
    manager.save_snapshot(data, "snap1", deepcopy=False)
    data.append(2)
    assert manager["snap1"].data == [1, 2]


def test_example_indexed_access(home: str | None) -> None:
    manager = SnapshotManager(home)
    manager.save_snapshot({"a": 1}, "snap1")
    assert manager["snap1"].data == manager.get_snapshot("snap1").data == {"a": 1}


# --- capture ----------------------------------------------------------------------------------------------------------


def test_saved_data_is_isolated_from_the_original_and_from_what_was_retrieved(home: str | None) -> None:
    manager = SnapshotManager(home)
    data = {"list": [1, 2], "array": np.arange(3)}
    manager.save_snapshot(data, "one")
    data["list"].append(3)  # type: ignore[attr-defined]
    data["array"][0] = 99  # type: ignore[index]
    first = manager["one"].data
    first["list"].append(4)
    first["array"][1] = 99
    second = manager["one"].data
    assert second["list"] == [1, 2]
    assert second["array"].tolist() == [0, 1, 2]


def test_trees_of_every_kind_of_leaf_and_container_come_back_as_they_were(home: str | None) -> None:
    tree: dict[str, Any] = {
        "float32": jnp.linspace(0, 1, 7),
        "bfloat16": jnp.ones((2, 3), jnp.bfloat16),
        "fp8": jnp.asarray([0.5, -2.0], jnp.float8_e4m3fn),
        "bool": jnp.asarray([True, False]),
        "key": jax.random.key(7),
        "numpy": np.arange(6, dtype=np.int16).reshape(2, 3),
        "scalars": (1, 2.5, True, None, "text", 1 + 2j, b"bytes"),
        "point": Point(np.float64(1.5), [2]),
        "node": Node(jnp.zeros(3), -1),
        "empty": {"list": [], "dict": {}, "tuple": ()},
        "object": Opaque(3),
    }
    manager = PyTreeSnapshotManager(home)
    manager.save_snapshot(tree, "tree")
    found = manager["tree"].data
    for name in ("float32", "bfloat16", "fp8", "bool", "numpy"):
        assert type(found[name]) is type(tree[name])
        assert found[name].dtype == tree[name].dtype
        np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(tree[name]))
    assert jax.random.key_data(found["key"]).tolist() == jax.random.key_data(tree["key"]).tolist()
    assert found["scalars"] == tree["scalars"]
    assert found["point"] == tree["point"]
    assert type(found["point"]) is Point
    assert type(found["node"]) is Node
    assert found["node"].weight.tolist() == [0, 0, 0]
    assert found["empty"] == tree["empty"]
    assert found["object"] == Opaque(3)


def test_custom_nodes_are_restored_with_like(home: str | None) -> None:
    manager = PyTreeSnapshotManager(home)
    manager.save_snapshot({"pair": Pair(jnp.ones(2), jnp.zeros(3))}, "one")
    like = {"pair": Pair(np.empty(2, np.float32), np.empty(3, np.float32))}
    found = manager.get_snapshot("one", like=like).data["pair"]
    assert type(found) is Pair
    assert (found.first.tolist(), found.second.tolist()) == ([1, 1], [0, 0, 0])


def test_restores_onto_a_sharding(home: str | None) -> None:
    manager = SnapshotManager(home)
    manager.save_snapshot({"w": np.arange(4.0, dtype=np.float32)}, "one")
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[-1])
    like = {"w": jax.device_put(jnp.zeros(4), sharding)}
    found = manager.get_snapshot("one", like=like).data["w"]
    assert found.sharding == sharding
    assert found.tolist() == [0, 1, 2, 3]


def test_like_names_the_leaf_that_differs(home: str | None) -> None:
    manager = SnapshotManager(home)
    manager.save_snapshot({"encoder": {"w": np.zeros(4)}}, "one")
    with pytest.raises(StructureMismatch, match=r"encoder/w.*float64\[5\].*float64\[4\]"):
        manager.load_snapshot("one", like={"encoder": {"w": np.zeros(5)}})


def test_partial_restore(home: str | None) -> None:
    manager = SnapshotManager(home)
    manager.save_snapshot({"encoder": {"w": np.ones(3), "b": np.zeros(3)}, "head": {"w": np.ones(2)}}, "one")
    found = manager.get_snapshot("one", leaves="encoder/**").data
    assert list(found) == ["encoder"]
    assert sorted(found["encoder"]) == ["b", "w"]
    assert list(manager.get_snapshot("one", leaves=["*/b"]).data) == ["encoder"]
    with pytest.raises(LeafError, match="Did you mean 'encoder/"):
        manager.load_snapshot("one", leaves="encodr/*")


def test_a_partial_restore_reads_only_its_leaves(tmp_path: Path) -> None:
    manager = SnapshotManager(tmp_path / "repository")
    generator = np.random.default_rng(0)
    manager.save_snapshot({name: generator.random(500_000) for name in "abcdefgh"}, "one")
    fresh = SnapshotManager(tmp_path / "repository")
    [pack] = (path for path in (tmp_path / "repository" / "packs").rglob("*") if path.is_file())
    with pack.open("r+b") as file:  # damage all but the first two leaves
        file.seek(9_000_000)
        file.write(b"damage" * 3_000_000)
    assert fresh.get_snapshot("one", leaves="a").data["a"].shape == (500_000,)
    with pytest.raises(DamagedVersion, match=r"'one'.*leaf c"):
        fresh.load_snapshot("one")


def test_a_file_of_a_damaged_snapshot_is_not_written(tmp_path: Path) -> None:
    manager = SnapshotManager(tmp_path / "repository")
    manager.save_snapshot({"a": 1, "b": np.random.default_rng(0).random(50_000)}, "one")
    [pack] = (path for path in (tmp_path / "repository" / "packs").rglob("*") if path.is_file())
    content = bytearray(pack.read_bytes())
    content[100_000] ^= 1
    pack.write_bytes(content)
    with pytest.raises(DamagedVersion, match="snapshot 'one' of 'default', leaf b"):
        SnapshotManager(tmp_path / "repository").save_to_file(tmp_path / "file")
    assert not (tmp_path / "file").exists()


def test_a_wrong_call_says_what_it_should_be() -> None:
    public: Any = prefect_snapshots
    manager = public.SnapshotManager(name="train")
    wrong: list[tuple[Callable[[], Any], str]] = [
        (lambda: manager["first"], "There are no snapshots under the name 'train'."),
        (lambda: manager.query.evaluate("best"), "A query needs a condition, such as ByTag('best'), not str."),
        (lambda: manager.query.by_tags(3), "tags must be a string or a sequence of strings, not int."),
        (lambda: public.SnapshotManager(max_snapshots="3"), "max_snapshots must be an integer of at least 1, not '3'."),
        (lambda: public.Repository("a", storage_options="x"), "storage_options must be a dictionary, not str."),
    ]
    for call, words in wrong:
        with pytest.raises(UsageError, match=re.escape(words)):
            call()


def test_live_references_need_a_manager_in_memory(durable: str) -> None:
    with pytest.raises(ValueError, match=r"deepcopy_on_save=False .* only in memory"):
        SnapshotManager(durable, deepcopy_on_save=False)
    with pytest.raises(ValueError, match=r"deepcopy_on_save=False .* only in memory"):
        SnapshotManager(durable, deepcopy_on_retrieve=False)
    manager = SnapshotManager(durable)
    with pytest.raises(ValueError, match="always a copy"):
        manager.save_snapshot(1, "one", deepcopy=False)
    manager.save_snapshot(1, "one")
    with pytest.raises(ValueError, match="always a copy"):
        manager.get_snapshot("one", deepcopy=False)


def test_what_cannot_be_copied_can_be_kept_as_a_live_reference() -> None:
    manager = SnapshotManager()
    lock = threading.Lock()
    with pytest.raises(UnserialisableLeaf, match="deepcopy=False"):
        manager.save_snapshot(lock, "lock")
    assert "lock" not in manager
    manager.save_snapshot(lock, "lock", deepcopy=False)
    assert manager.get_snapshot("lock", deepcopy=False).data is lock
    with pytest.raises(UnserialisableLeaf, match="deepcopy=False"):
        manager.clone_snapshot("lock")


def test_types_are_kept() -> None:
    manager: SnapshotManager[dict[str, int]] = SnapshotManager()
    manager.save_snapshot({"a": 1}, "one")
    assert_type(manager["one"], Snapshot[dict[str, int]])
    assert_type(manager.get_snapshot("one").data, dict[str, int])
    assert_type(SnapshotManager(), SnapshotManager[Any])
    assert manager["one"].data == {"a": 1}


# --- save and get -----------------------------------------------------------------------------------------------------


def test_ids_are_made_or_given(home: str | None) -> None:
    manager = SnapshotManager(home)
    made = [manager.save_snapshot(number) for number in range(5)]
    assert len(set(made)) == 5
    assert manager.save_snapshot("given", "experiments/one") == "experiments/one"
    assert list(manager) == [*made, "experiments/one"]


def test_a_manager_is_a_collection_of_ids(home: str | None) -> None:
    manager = SnapshotManager(home)
    assert len(manager) == 0
    assert list(manager) == []
    manager.save_snapshot(1, "one")
    manager.save_snapshot(2, "two")
    assert len(manager) == 2
    assert list(manager) == ["one", "two"]
    assert "one" in manager
    assert "three" not in manager


def test_an_empty_manager_has_no_latest_oldest_or_best(home: str | None) -> None:
    manager = SnapshotManager(home)
    assert manager.get_latest_snapshot() is None
    assert manager.get_oldest_snapshot() is None
    assert manager.get_best_snapshot() is None
    with pytest.raises(InvalidArgument, match=r"no snapshot of .* yet"):
        PyTreeSnapshotManager(home).tree_map(lambda leaf: leaf)


def test_a_taken_id_needs_overwrite(home: str | None) -> None:
    manager = SnapshotManager(home)
    manager.save_snapshot("old", "one", {"a": 1}, "tag")
    manager.save_snapshot("other", "two")
    with pytest.raises(SnapshotExists, match="'one' of 'default' exists already"):
        manager.save_snapshot("new", "one")
    assert manager["one"].data == "old"
    manager.save_snapshot("new", "one", overwrite=True)
    assert (manager["one"].data, manager["one"].metadata, manager["one"].tags) == ("new", {}, [])
    assert list(manager) == ["two", "one"]
    assert manager.query.by_tags("tag") == []


def test_an_unknown_id_is_a_key_error_with_a_hint(home: str | None) -> None:
    manager = SnapshotManager(home)
    manager.save_snapshot(1, "epoch-0001")
    with pytest.raises(KeyError, match=r"has no snapshot 'epoch-001'\. Did you mean 'epoch-0001'\?"):
        manager["epoch-001"]
    for call in (manager.get_metadata, manager.get_tags, manager.remove_snapshot, manager.clone_snapshot):
        with pytest.raises(SnapshotNotFound):
            call("nothing")
    with pytest.raises(SnapshotNotFound):
        manager.add_tags("nothing", "tag")


def test_remove(home: str | None) -> None:
    manager = SnapshotManager(home)
    manager.save_snapshot(1, "one", tags="tag")
    manager.pin("one")
    manager.remove_snapshot("one")
    assert len(manager) == 0
    assert manager.query.by_tags("tag") == []
    manager.save_snapshot(2, "one")
    assert manager["one"].data == 2


def test_latest_and_oldest(home: str | None) -> None:
    manager = SnapshotManager(home)
    for name in ("first", "second", "third"):
        manager.save_snapshot(name, name)
    latest, oldest = manager.get_latest_snapshot(), manager.get_oldest_snapshot()
    assert latest is not None
    assert oldest is not None
    assert (latest.data, oldest.data) == ("third", "first")
    assert manager.list_snapshots_by_age() == ["first", "second", "third"]
    assert manager.list_snapshots_by_age(ascending=False) == ["third", "second", "first"]
    assert manager.get_ids_by_insertion_order() == ["first", "second", "third"]


def test_the_latest_is_what_was_saved_last_whatever_the_clocks_say(
    home: str | None, clock: Callable[[datetime], None]
) -> None:
    manager = SnapshotManager(home)
    for year, name in ((2030, "by a clock that is ahead"), (2026, "by one that is right")):
        clock(datetime(year, 1, 1, tzinfo=UTC))
        manager.save_snapshot(name, name)
    latest, oldest = manager.get_latest_snapshot(), manager.get_oldest_snapshot()
    assert latest is not None
    assert oldest is not None
    assert (latest.id, oldest.id) == ("by one that is right", "by a clock that is ahead")
    assert manager.list_snapshots_by_age() == ["by one that is right", "by a clock that is ahead"]


def test_timestamps_are_of_the_save_and_in_utc(home: str | None) -> None:
    manager = SnapshotManager(home)
    before = datetime.now(UTC)
    manager.save_snapshot(1, "one")
    after = datetime.now(UTC)
    first = manager["one"].timestamp
    assert first.tzinfo is UTC
    assert before <= first <= after
    assert manager["one"].timestamp == first
    manager.add_tags("one", "tag")
    assert manager["one"].timestamp == first


def test_names_keep_managers_apart(durable: str) -> None:
    repository = Repository(durable)
    a = SnapshotManager(repository, name="team/a", max_snapshots=1)
    b = SnapshotManager(repository, name="team/A", max_snapshots=1)
    a.save_snapshot("a", "one")
    b.save_snapshot("b", "one")
    assert (a["one"].data, b["one"].data) == ("a", "b")
    b.save_snapshot("c", "two")
    assert list(a) == ["one"]
    assert list(b) == ["two"]


def test_what_is_saved_is_there_for_others(durable: str) -> None:
    writer, reader = SnapshotManager(durable), SnapshotManager(durable)
    writer.save_snapshot([1, 2], "one", {"loss": 0.5}, ["tag"])
    assert reader["one"].data == [1, 2]
    writer.update_metadata("one", {"loss": 0.25})
    assert reader.get_metadata("one") == {"loss": 0.25}
    writer.remove_snapshot("one")
    assert "one" not in reader


def test_managers_work_inside_a_running_event_loop(home: str | None) -> None:
    async def main() -> Any:
        manager = SnapshotManager(home)
        manager.save_snapshot({"a": np.ones(100_000)}, "one")
        await asyncio.to_thread(manager.save_snapshot, 2, "two")
        return manager["one"].data["a"].sum() + manager["two"].data

    assert asyncio.run(main()) == 100_002


def test_threads_may_share_a_manager(home: str | None) -> None:
    manager = SnapshotManager(home)
    with ThreadPoolExecutor(8) as threads:
        saved = list(threads.map(lambda n: manager.save_snapshot({"n": n}, f"s{n}", {"n": n}), range(80)))
        assert None not in saved
        queried = threads.map(lambda n: manager.query.by_metadata("n", n), range(80))
        assert list(queried) == [[f"s{n}"] for n in range(80)]
    assert sorted(manager, key=lambda name: int(name[1:])) == [f"s{n}" for n in range(80)]
    assert all(manager[f"s{n}"].data == {"n": n} for n in range(80))


def test_queries_run_beside_saves(home: str | None) -> None:
    manager = SnapshotManager(home)
    done = threading.Event()
    errors: list[BaseException] = []

    def look() -> None:
        try:
            while not done.is_set():
                manager.query.by_metadata("n")
                manager.query.evaluate(ByTag("t") & ~ByMetadata("n", 3))
                manager.get_ids_by_rank()
                manager.list_snapshots_by_age()
        except BaseException as error:
            errors.append(error)

    with ThreadPoolExecutor(2) as threads:
        looking = [threads.submit(look) for _ in range(2)]
        for number in range(150):
            manager.save_snapshot(number, f"s{number}", {"n": number}, "t")
        done.set()
        for future in looking:
            future.result()
    assert errors == []


# --- annotate ---------------------------------------------------------------------------------------------------------


def test_metadata_merges_and_tags_are_a_set_in_order(home: str | None) -> None:
    manager = SnapshotManager(home)
    manager.save_snapshot(1, "one", {"a": 1, "b": {"c": 2}}, ["x", "y", "x"])
    manager.update_metadata("one", {"a": 10, "d": [1]})
    manager.add_tags("one", ["z", "x"])
    manager.remove_tags("one", ["y", "never there"])
    assert manager.get_metadata("one") == {"a": 10, "b": {"c": 2}, "d": [1]}
    assert manager.get_tags("one") == ["x", "z"]
    assert manager.query.by_tags("y") == []
    assert manager.query.by_tags("z") == ["one"]


def test_retrieved_metadata_and_tags_are_copies(home: str | None) -> None:
    manager = SnapshotManager(home)
    given: dict[str, Any] = {"nested": {"list": [1]}}
    manager.save_snapshot(1, "one", given, ["tag"])
    given["nested"]["list"].append(2)
    for metadata in (manager.get_metadata("one"), manager["one"].metadata):
        metadata["nested"]["list"].append(3)
    manager.get_tags("one").append("other")
    manager["one"].tags.append("other")
    assert manager.get_metadata("one") == {"nested": {"list": [1]}}
    assert manager.get_tags("one") == ["tag"]


def test_metadata_of_plain_values(home: str | None) -> None:
    manager = SnapshotManager(home)
    moment = datetime(2026, 1, 31, 12, tzinfo=timezone(timedelta(hours=2)))
    metadata = {
        "none": None,
        "bool": True,
        "int": -(2**63),
        "float": 0.1,
        "nan": math.nan,
        "inf": -math.inf,
        "text": "ä\n",
        "bytes": b"\0\xff",
        "when": moment,
        "list": [1, [2]],
        "tuple": (1, 2),
        "numpy": np.float32(0.5),
        "jax": jnp.asarray(3),
    }
    manager.save_snapshot(1, "one", metadata)
    found = manager.get_metadata("one")
    assert math.isnan(found.pop("nan"))
    del metadata["nan"]
    assert found == {**metadata, "tuple": [1, 2], "numpy": 0.5, "jax": 3}
    assert type(found["numpy"]) is float
    assert type(found["jax"]) is int


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"model": object()}, "'model' is of type object"),
        ({"a": {"b": [0, object()]}}, r"'a\.b\[1\]'"),
        ({"w": np.zeros(3)}, "'w' is of type ndarray"),
        ({1: "one"}, "keys must be strings"),
        ({"a": {2: "two"}}, "keys that are not strings"),
        ({"when": datetime(2026, 1, 1)}, "'when' is a datetime without a time zone"),
        ({"huge": 2**64}, "cannot be stored"),
        ({"text": "\ud800"}, "cannot be stored"),
        ({"long": "x" * 70_000}, "limit of 65536"),
    ],
)
def test_other_metadata_is_refused(home: str | None, metadata: dict[str, Any], message: str) -> None:
    manager = SnapshotManager(home)
    with pytest.raises(InvalidArgument, match=message):
        manager.save_snapshot(1, "one", metadata)
    manager.save_snapshot(1, "one")
    with pytest.raises(InvalidArgument, match=message):
        manager.update_metadata("one", metadata)
    assert manager.get_metadata("one") == {}


def test_metadata_cannot_outgrow_its_limit_by_updates(home: str | None) -> None:
    manager = SnapshotManager(home)
    manager.save_snapshot(1, "one", {"a": "x" * 40_000})
    with pytest.raises(InvalidArgument, match="limit of 65536"):
        manager.update_metadata("one", {"b": "x" * 40_000})
    assert list(manager.get_metadata("one")) == ["a"]


# --- query ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def filled(home: str | None) -> PyTreeSnapshotManager[Any]:
    manager: PyTreeSnapshotManager[Any] = PyTreeSnapshotManager(home)
    manager.save_snapshot({"w": 1.0}, "a", {"lr": 0.1, "model": {"name": "mlp", "depth": 2}}, ["run", "good"])
    manager.save_snapshot({"w": 2.0}, "b", {"lr": 0.2, "model": {"name": "cnn"}, "note": None}, ["run"])
    manager.save_snapshot({"w": 3.0}, "c", {"shape": (3, 4), "a.b": "dotted"}, ["good", "final"])
    return manager


def test_by_tags(filled: SnapshotManager[Any]) -> None:
    by_tags = filled.query.by_tags
    assert by_tags("run") == ["a", "b"]
    assert by_tags(["run", "good"]) == ["a"]
    assert by_tags(["run", "final"], require_all=False) == ["a", "b", "c"]
    assert by_tags("unknown") == by_tags(["run", "unknown"]) == []


def test_by_metadata(filled: SnapshotManager[Any]) -> None:
    by_metadata = filled.query.by_metadata
    assert by_metadata("lr") == ["a", "b"]
    assert by_metadata("lr", 0.2) == ["b"]
    assert by_metadata("lr", np.float64(0.2)) == ["b"]
    assert by_metadata("model.name", "mlp") == ["a"]
    assert by_metadata("model.depth") == ["a"]
    assert by_metadata("note") == by_metadata("note", None) == ["b"]
    assert by_metadata("shape", (3, 4)) == by_metadata("shape", [3, 4]) == ["c"]
    assert by_metadata("a.b", "dotted") == ["c"]
    assert by_metadata("nothing") == by_metadata("model.name.more") == []


def test_by_time_range(home: str | None, clock: Callable[[datetime], None]) -> None:
    manager = SnapshotManager(home)
    for day in (1, 2, 3):
        clock(datetime(2026, 1, day, 12, tzinfo=UTC))
        manager.save_snapshot(day, f"day-{day}")
    between = manager.query.by_time_range
    assert between() == ["day-1", "day-2", "day-3"]
    assert between(start="2026-01-02") == ["day-2", "day-3"]
    assert between(end="2026-01-02T12:00") == ["day-1", "day-2"]
    assert between("2026-01-02T12:00:00Z", datetime(2026, 1, 2, 13, tzinfo=timezone(timedelta(hours=1)))) == ["day-2"]
    assert between(manager["day-3"].timestamp, manager["day-3"].timestamp) == ["day-3"]
    assert between(start="2027-01-01") == []


def test_naive_datetimes_are_refused(home: str | None) -> None:
    manager = SnapshotManager(home)
    with pytest.raises(ValueError, match="has no time zone"):
        manager.query.by_time_range(start=datetime(2026, 1, 1))
    with pytest.raises(ValueError, match="is not an ISO 8601 date"):
        manager.query.by_time_range(end="yesterday")


@pytest.mark.parametrize("time", ["0001-01-01T00:00+14:00", "9999-12-31T23:00-12:00"])
def test_times_that_utc_does_not_reach_are_refused(time: str) -> None:
    for value in (time, datetime.fromisoformat(time)):
        with pytest.raises(InvalidArgument, match="years 1 to 9999"):
            SnapshotManager().query.by_time_range(start=value)


def test_by_content_comparison_and_leaf(filled: PyTreeSnapshotManager[Any]) -> None:
    assert filled.query.by_content(lambda data: data["w"] > 1.5) == ["b", "c"]
    assert filled.query.by_cmp(lambda snapshot: "good" in snapshot.tags and snapshot.data["w"] > 1.5) == ["c"]
    assert filled.query.by_leaf_value(lambda leaf: leaf == 2.0) == ["b"]


def test_leaves_are_found_inside_of_what_only_jax_can_put_together(home: str | None, tmp_path: Path) -> None:
    manager = SnapshotManager(home)
    manager.save_snapshot({"pair": Pair(1, 2), "rest": [3]}, "one")
    manager.save_snapshot(Pair(2, Pair(4, 5)), "two")
    manager.save_to_file(tmp_path / "file")
    for each in (manager, SnapshotManager.load_from_file(tmp_path / "file")):
        assert each.query.by_leaf_value(lambda leaf: leaf == 2) == ["one", "two"]
        assert each.query.evaluate(ByLeaf(lambda leaf: leaf == 5)) == ["two"]
        assert each.query.by_leaf_value(lambda leaf: isinstance(leaf, Pair)) == []


def test_expressions(filled: SnapshotManager[Any]) -> None:
    evaluate = filled.query.evaluate
    assert evaluate(ByTag("run") & ByTag("good")) == ["a"]
    assert evaluate(ByTag("run") | ByTag("final")) == ["a", "b", "c"]
    assert evaluate(~ByTag("run")) == ["c"]
    assert evaluate(ByTag("run") & ~ByMetadata("lr", 0.1)) == ["b"]
    assert evaluate(~(ByTag("run") | ByMetadata("shape"))) == []
    assert evaluate((ByTag("good") & ByContent(lambda data: data["w"] == 3)) | ByMetadata("lr", 0.2)) == ["b", "c"]
    assert evaluate(ByLeaf(lambda leaf: leaf == 1.0) | ByTimeRange(start="2999-01-01")) == ["a"]


def test_expressions_load_only_what_is_still_in_question(filled: SnapshotManager[Any]) -> None:
    seen: list[float] = []

    def watch(data: dict[str, float]) -> bool:
        seen.append(data["w"])
        return True

    assert filled.query.evaluate(ByContent(watch) & ByTag("final")) == ["c"]
    assert filled.query.evaluate(ByContent(watch) | ByTag("run")) == ["a", "b", "c"]
    assert seen == [3.0, 3.0]


def test_the_catalog_answers_without_the_data(tmp_path: Path) -> None:
    manager = SnapshotManager(tmp_path / "repository", rank_by="loss", mode="min")
    for number in range(3):
        manager.save_snapshot(np.random.default_rng(number).random(50_000), f"s{number}", {"loss": number}, "tag")
    shutil.rmtree(tmp_path / "repository" / "packs")
    fresh = SnapshotManager(tmp_path / "repository", rank_by="loss", mode="min")
    assert fresh.query.evaluate(ByTag("tag") & ByMetadata("loss", 1) & ByTimeRange(end="2999-01-01")) == ["s1"]
    assert fresh.get_ids_by_rank() == ["s0", "s1", "s2"]
    with pytest.raises(DamagedVersion, match="snapshot 's1' of 'default'"):
        fresh.load_snapshot("s1")


# --- ranking ----------------------------------------------------------------------------------------------------------


def test_the_worst_is_evicted_not_the_oldest(home: str | None, caplog: pytest.LogCaptureFixture) -> None:
    manager = SnapshotManager(home, rank_by="loss", mode="min", max_snapshots=2)
    for name, loss in (("best", 0.1), ("worst", 0.9), ("middle", 0.5)):
        manager.save_snapshot(name, name, {"loss": loss})
    assert manager.get_ids_by_rank() == ["best", "middle"]
    assert manager.save_snapshot("bad", "bad", {"loss": 0.7}) is None
    assert not caplog.messages
    assert manager.save_snapshot("typo", "typo", {"los": 0.0}) is None
    assert caplog.messages == [
        "Snapshot 'typo' of 'default' was not saved: snapshots are ranked by 'loss', which its metadata lacks. "
        "Did you mean 'los'?"
    ]
    assert manager.get_ids_by_rank() == ["best", "middle"]
    best = manager.get_best_snapshot()
    assert best is not None
    assert best.data == "best"


def test_without_a_ranking_the_newest_stay(home: str | None) -> None:
    manager = SnapshotManager(home, max_snapshots=2)
    for name in "abcd":
        manager.save_snapshot(name, name)
    assert list(manager) == ["c", "d"]
    assert manager.get_ids_by_rank() == ["d", "c"]


def test_a_comparison_ranks_by_anything(home: str | None) -> None:
    manager = SnapshotManager(home, max_snapshots=2, cmp=lambda a, b: a.data["reward"] - b.data["reward"])
    for reward in (3, 1, 2, 5):
        manager.save_snapshot({"reward": reward}, f"r{reward}")
    assert manager.get_ids_by_rank() == ["r5", "r3"]
    manager.save_async({"reward": 4}, "r4").result()
    assert manager.get_ids_by_rank() == ["r5", "r4"]
    assert manager.clone_snapshot("r5", "r5 again") == "r5 again"
    assert manager.get_ids_by_rank() == ["r5 again", "r5"]


@pytest.mark.parametrize("rank_by", ["score", None])
def test_the_limit_holds_after_every_save(tmp_path: Path, rank_by: str | None) -> None:
    unlimited = SnapshotManager(tmp_path)
    for score in range(5):
        unlimited.save_snapshot(score, f"s{score}", {"score": score})
    unlimited.pin("s0")
    limited = SnapshotManager(tmp_path, rank_by=rank_by, max_snapshots=2)
    assert (limited.save_snapshot(-1, "bad", {"score": -1}) is None) == (rank_by is not None)
    assert sorted(limited) == (["s0", "s4"] if rank_by else ["bad", "s0"])


def test_ties_are_newest_first(home: str | None) -> None:
    manager = SnapshotManager(home, rank_by="score", max_snapshots=2)
    for name in "abc":
        manager.save_snapshot(name, name, {"score": 1})
    assert manager.get_ids_by_rank() == ["c", "b"]


@pytest.mark.parametrize("mode", ["max", "min"])
def test_nan_inf_and_missing_rank_worst(home: str | None, mode: Any) -> None:
    manager = SnapshotManager(home, rank_by="score", mode=mode)
    for name, score in (("nan", math.nan), ("good", 1.0), ("inf", math.inf), ("-inf", -math.inf), ("text", "high")):
        manager.save_snapshot(name, name, {"score": score})
    manager.save_snapshot("none", "none")
    assert manager.get_ids_by_rank()[0] == "good"
    limited = SnapshotManager(home, name="limited", rank_by="score", mode=mode, max_snapshots=1)
    limited.save_snapshot(1, "diverged", {"score": math.nan})
    limited.save_snapshot(2, "sound", {"score": 7.0})
    assert limited.save_snapshot(3, "diverged again", {"score": math.inf}) is None
    assert list(limited) == ["sound"]


def test_pinned_snapshots_are_never_evicted(home: str | None) -> None:
    manager = SnapshotManager(home, rank_by="score", max_snapshots=2)
    manager.save_snapshot(1, "pinned", {"score": -1})
    manager.pin("pinned")
    for score in range(5):
        manager.save_snapshot(score, f"s{score}", {"score": score})
    assert sorted(manager) == ["pinned", "s4"]
    manager.unpin("pinned")
    manager.save_snapshot(5, "s5", {"score": 5})
    assert manager.get_ids_by_rank() == ["s5", "s4"]


def test_when_all_are_pinned_only_an_unranked_newcomer_comes(home: str | None) -> None:
    for rank_by, admitted in ((None, "new"), ("score", None)):
        manager = SnapshotManager(home, name=str(rank_by), rank_by=rank_by, max_snapshots=1)
        manager.save_snapshot(1, "pinned", {"score": 0})
        manager.pin("pinned")
        assert manager.save_snapshot(2, "new", {"score": 9}) == admitted
        assert "pinned" in manager


def test_ranking_follows_later_metadata(home: str | None) -> None:
    manager = SnapshotManager(home, rank_by="eval.accuracy")
    manager.save_snapshot(1, "a", {"eval": {"accuracy": 0.5}})
    manager.save_snapshot(2, "b")
    assert manager.get_ids_by_rank() == ["a", "b"]
    manager.update_metadata("b", {"eval": {"accuracy": 0.9}})
    assert manager.get_ids_by_rank() == ["b", "a"]


def test_senseless_rankings_are_refused(home: str | None) -> None:
    with pytest.raises(InvalidArgument, match="at least 1"):
        SnapshotManager(home, max_snapshots=0)
    with pytest.raises(InvalidArgument, match='"max" or "min"'):
        SnapshotManager(home, mode="best")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="not both"):
        SnapshotManager(home, rank_by="loss", cmp=lambda a, b: 0)


scores = st.one_of(st.none(), st.integers(-3, 3), st.floats(allow_nan=True, allow_infinity=True), st.just("text"))
steps = st.one_of(
    st.tuples(st.just("save"), scores),
    st.tuples(st.just("pin"), st.integers(0, 20)),
    st.tuples(st.just("unpin"), st.integers(0, 20)),
    st.tuples(st.just("remove"), st.integers(0, 20)),
)


def quality(mode: str, score: Any) -> float:
    finite = isinstance(score, int | float) and math.isfinite(score)
    return (score if mode == "max" else -score) if finite else -math.inf


@settings(max_examples=200, deadline=None)
@given(st.lists(steps, max_size=25), st.integers(1, 4), st.sampled_from(["max", "min"]), st.booleans())
def test_after_any_history_the_best_remain(
    history: Sequence[tuple[str, Any]], limit: int, mode: Any, in_repository: bool
) -> None:
    where = f"memory://{uuid.uuid4().hex}" if in_repository else None
    manager = SnapshotManager(where, rank_by="score", mode=mode, max_snapshots=limit)
    expected: dict[str, tuple[float, int]] = {}  # id: quality, number; more is better
    pinned: set[str] = set()
    for number, (action, argument) in enumerate(history):
        chosen = list(expected)[argument % len(expected)] if action != "save" and expected else None
        if action == "save":
            name = f"s{number}"
            saved = manager.save_snapshot(number, name, {"score": argument})
            rivals = {**expected, name: (quality(mode, argument), number)}
            evictable = sorted(rivals.keys() - pinned, key=lambda one: rivals[one])
            evicted = evictable[: max(len(rivals) - limit, 0)]
            assert saved == (None if name in evicted else name)
            if saved is not None:
                expected = {one: rank for one, rank in rivals.items() if one not in evicted}
        elif chosen is not None and action == "remove":
            manager.remove_snapshot(chosen)
            del expected[chosen]
            pinned.discard(chosen)
        elif chosen is not None:
            (manager.pin if action == "pin" else manager.unpin)(chosen)
            (pinned.add if action == "pin" else pinned.discard)(chosen)
        assert pinned <= set(manager)
        assert manager.get_ids_by_rank() == sorted(expected, key=lambda one: expected[one], reverse=True)
        assert list(manager) == list(expected)


# --- saving in the background -----------------------------------------------------------------------------------------


def test_save_async_keeps_the_value_of_the_call(home: str | None) -> None:
    manager = SnapshotManager(home)
    array = np.zeros(300_000)
    for step in range(5):
        array[:] = step
        manager.save_async({"array": array, "step": step}, f"step-{step}")
    array[:] = -1
    manager.wait()
    assert list(manager) == [f"step-{step}" for step in range(5)]
    assert [float(manager[f"step-{step}"].data["array"].mean()) for step in range(5)] == [0, 1, 2, 3, 4]


def test_save_async_survives_donation(home: str | None) -> None:
    manager = SnapshotManager(home)
    train = jax.jit(lambda state: state + 1, donate_argnums=0)
    state = jnp.zeros(300_000)
    for step in range(4):
        manager.save_async(state, f"step-{step}")
        donated, state = state, train(state)
        assert donated.is_deleted()
    manager.wait()
    assert [float(manager[f"step-{step}"].data[0]) for step in range(4)] == [0, 1, 2, 3]


def test_save_async_refuses_at_once_what_cannot_be_stored(durable: str) -> None:
    manager = SnapshotManager(durable)
    with pytest.raises(UnserialisableLeaf, match="Leaf lock"):
        manager.save_async({"lock": threading.Lock()})


def test_wait_raises_what_went_wrong_after_everything_is_done(home: str | None) -> None:
    manager = SnapshotManager(home)
    manager.save_snapshot(0, "taken")
    failed = [manager.save_async(1, "taken"), manager.save_async(2, "taken")]
    fine = manager.save_async(3, "free")
    with pytest.raises(SnapshotExists, match="'taken' of 'default' exists"):
        manager.wait()
    assert fine.done()
    assert manager["free"].data == 3
    assert all(isinstance(future.exception(), SnapshotExists) for future in failed)
    with pytest.raises(SnapshotExists):
        manager.wait()
    manager.wait()


def test_an_error_is_not_lost_when_nobody_looks_at_the_future(home: str | None) -> None:
    manager = SnapshotManager(home)
    manager.save_snapshot(0, "taken")
    manager.save_async(1, "taken")
    for number in range(20):
        manager.save_async(number)
    with pytest.raises(SnapshotExists):
        manager.wait()


# --- clone, persist, files --------------------------------------------------------------------------------------------


def test_clone_takes_the_value_and_no_space(durable: str) -> None:
    manager = SnapshotManager(durable)
    manager.save_snapshot(np.random.default_rng(0).random(50_000), "one", {"a": 1}, ["x"])
    assert manager.clone_snapshot("one", "two", {"b": 2}) == "two"
    assert manager.clone_snapshot("one", "three", tags="y") == "three"
    assert np.array_equal(manager["two"].data, manager["one"].data)
    assert (manager.get_metadata("two"), manager.get_tags("two")) == ({"a": 1, "b": 2}, ["x"])
    assert manager.get_tags("three") == ["y"]
    assert manager.current_records().get("two").written == 0
    manager.remove_snapshot("one")
    assert manager["two"].data.shape == (50_000,)


def test_clones_in_memory_are_independent() -> None:
    manager = SnapshotManager()
    manager.save_snapshot([1], "one")
    manager.clone_snapshot("one", "two")
    manager.get_snapshot("one", deepcopy=False).data.append(2)
    assert manager["two"].data == [1]
    with pytest.raises(SnapshotExists):
        manager.clone_snapshot("one", "two")


def test_unchanged_leaves_are_stored_once(durable: str) -> None:
    manager = SnapshotManager(durable)
    generator = np.random.default_rng(0)
    tree = {f"layer{number}": generator.random(50_000) for number in range(10)}
    manager.save_snapshot(tree, "one")
    manager.save_snapshot({**tree, "layer3": generator.random(50_000)}, "two")
    manager.save_snapshot(tree, "three")
    written = [manager.current_records().get(name).written for name in ("one", "two", "three")]
    assert written[0] > 3_000_000
    assert 100_000 < written[1] < 450_000
    assert written[2] == 0


def fill(home: str | None, clock: Callable[[datetime], None]) -> SnapshotManager[Any]:
    manager = SnapshotManager(home, name="kept", rank_by="score", max_snapshots=3)
    for day, name in ((1, "a"), (2, "b"), (3, "c")):
        clock(datetime(2026, 1, day, tzinfo=UTC))
        manager.save_snapshot({"name": name, "array": np.arange(day)}, name, {"score": -day}, [f"tag-{name}"])
    manager.pin("c")
    clock(datetime(2026, 2, 1, tzinfo=UTC))
    return manager


def assert_filled(manager: SnapshotManager[Any]) -> None:
    assert manager.name == "kept"
    assert list(manager) == ["a", "b", "c"]
    assert manager.get_ids_by_rank() == ["a", "b", "c"]
    for day, name in ((1, "a"), (2, "b"), (3, "c")):
        found = manager[name]
        assert found.timestamp == datetime(2026, 1, day, tzinfo=UTC)
        assert found.data["array"].tolist() == list(range(day))
        assert (found.metadata, found.tags) == ({"score": -day}, [f"tag-{name}"])
    manager.save_snapshot({}, "d", {"score": 0})
    assert sorted(manager) == ["a", "c", "d"]  # the limit holds, the worst goes, the pinned one stays


def test_a_file_keeps_times_tags_order_pins_and_ranking(
    home: str | None, tmp_path: Path, clock: Callable[[datetime], None]
) -> None:
    manager = fill(home, clock)
    manager.save_to_file(tmp_path / "snapshots.file")
    assert_filled(SnapshotManager.load_from_file(str(tmp_path / "snapshots.file")))


def test_persist_keeps_times_tags_order_pins_and_ranking(
    home: str | None, tmp_path: Path, clock: Callable[[datetime], None]
) -> None:
    manager = fill(home, clock)
    assert_filled(manager.persist(tmp_path / "other"))
    with pytest.raises(SnapshotExists):
        manager.persist(tmp_path / "other")


def test_a_comparison_survives_files_and_persist(home: str | None, tmp_path: Path) -> None:
    manager = SnapshotManager(home, max_snapshots=2, cmp=lambda a, b: a.data - b.data)
    for value in (3, 1, 2):
        manager.save_snapshot(value, f"v{value}")
    manager.save_to_file(tmp_path / "file")
    for kept in (SnapshotManager.load_from_file(tmp_path / "file"), manager.persist(tmp_path / "other")):
        assert kept.get_ids_by_rank() == ["v3", "v2"]
        assert kept.save_snapshot(0, "v0") is None
        assert kept.save_snapshot(9, "v9") == "v9"
        assert kept.get_ids_by_rank() == ["v9", "v3"]


def test_a_file_keeps_whether_values_are_copied(tmp_path: Path) -> None:
    for on_save, on_retrieve in ((True, True), (False, True), (True, False), (False, False)):
        manager = SnapshotManager(deepcopy_on_save=on_save, deepcopy_on_retrieve=on_retrieve)
        manager.save_snapshot([1], "one")
        manager.save_to_file(tmp_path / "file")
        again = SnapshotManager.load_from_file(tmp_path / "file")
        again.save_snapshot(live := [2], "two")
        live.append(3)
        assert again["two"].data == ([2] if on_save else [2, 3])
        assert (again["one"].data is again["one"].data) is not on_retrieve
        assert list(again.persist(tmp_path / f"{on_save}{on_retrieve}")) == ["one", "two"]


def test_subclasses_of_strings_are_names_and_keys(tmp_path: Path) -> None:
    manager: SnapshotManager[Any] = SnapshotManager(tmp_path, name=np.str_("name"))
    assert manager.save_snapshot(1, np.str_("one"), {np.str_("a"): {np.str_("b"): 1}}, [np.str_("tag")]) == "one"
    metadata = manager.get_metadata("one")
    assert (metadata, manager.get_tags("one")) == ({"a": {"b": 1}}, ["tag"])
    assert {*map(type, (*metadata, *metadata["a"], *manager.get_tags("one")))} == {str}
    around: list[Any] = []
    around.append(around)
    with pytest.raises(InvalidArgument, match="contains itself"):
        manager.save_snapshot(1, metadata={"a": around})


def test_a_pytree_manager_stays_one(tmp_path: Path) -> None:
    manager: PyTreeSnapshotManager[Any] = PyTreeSnapshotManager()
    manager.save_snapshot({"w": 1.0}, "one")
    manager.save_to_file(tmp_path / "file")
    for kept in (PyTreeSnapshotManager.load_from_file(tmp_path / "file"), manager.persist(tmp_path / "other")):
        assert isinstance(kept, PyTreeSnapshotManager)
        assert kept.tree_map(lambda w: w + 1, "one", "two") == "two"
        assert kept["two"].data == {"w": 2.0}


def test_custom_nodes_survive_a_file(tmp_path: Path) -> None:
    manager = PyTreeSnapshotManager()
    manager.save_snapshot({"pair": Pair(np.ones(2), 1), "w": 2}, "one")
    manager.save_to_file(tmp_path / "file")
    again = PyTreeSnapshotManager.load_from_file(tmp_path / "file")
    with pytest.raises(LeafError, match=r"Leaf pair.*like="):
        again.load_snapshot("one")
    assert again.get_snapshot("one", leaves="w").data == {"w": 2}
    assert type(again.get_snapshot("one", like={"pair": Pair(np.ones(2), 0), "w": 0}).data["pair"]) is Pair
    again.save_to_file(tmp_path / "file")
    assert (tmp_path / "file").stat().st_size > 0


def test_a_failed_write_leaves_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "snapshots.file"
    manager = SnapshotManager(deepcopy_on_save=False)
    manager.save_snapshot("sound", "one")
    manager.save_to_file(path)
    manager.save_snapshot({"lock": threading.Lock()}, "two")
    with pytest.raises(UnserialisableLeaf, match="Leaf lock"):
        manager.save_to_file(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["snapshots.file"]
    assert SnapshotManager.load_from_file(path)["one"].data == "sound"


def test_a_file_is_readable_by_whom_the_umask_lets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = SnapshotManager()
    manager.save_to_file(tmp_path / "private")
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("PREFECT_INTEGRATIONS_SNAPSHOTS_UMASK", "000")  # so that the umask of the process decides
    manager.save_to_file(tmp_path / "file")
    (tmp_path / "plain").touch()
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_kill_while_writing_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "snapshots.file"
    script = f"""
        import numpy as np
        from prefect_snapshots import SnapshotManager
        for number in range(1, 1000):
            manager = SnapshotManager()
            manager.save_snapshot(np.full(400_000, number), "array")
            manager.save_to_file({str(path)!r})
            print(number, flush=True)
    """
    for wait in (0.0, 0.003, 0.007, 0.011):
        command = [sys.executable, "-c", textwrap.dedent(script)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(wait)  # somewhere within one of the next writes
            writer.send_signal(signal.SIGKILL)
        array = SnapshotManager.load_from_file(path)["array"].data
        assert array.min() == array.max() >= 1


def test_a_damaged_file_is_never_read_as_something_else(tmp_path: Path) -> None:
    path = tmp_path / "snapshots.file"
    manager = SnapshotManager(rank_by="loss")
    manager.save_snapshot({"array": np.arange(100), "text": "x" * 1000}, "one", {"loss": 1}, ["tag"])
    manager.save_to_file(path)
    sound = path.read_bytes()

    @settings(max_examples=150, deadline=None)
    @given(st.integers(0, len(sound) - 1), st.integers(0, 7), st.booleans())
    def check(position: int, bit: int, cut: bool) -> None:
        damaged = bytearray(sound)
        damaged[position] ^= 1 << bit
        path.write_bytes(sound[:position] if cut else damaged)
        with pytest.raises((DamagedObject, UnsupportedFormat), match=r"snapshots\.file"):
            SnapshotManager.load_from_file(path)

    check()


def test_a_file_from_elsewhere_loads_without_pickle(tmp_path: Path) -> None:
    path = tmp_path / "snapshots.file"
    plain = SnapshotManager(rank_by="loss")
    plain.save_snapshot({"array": np.arange(3)}, "one")
    plain.save_to_file(path)
    assert SnapshotManager.load_from_file(path, allow_pickle=False)["one"].data["array"].tolist() == [0, 1, 2]
    plain.save_snapshot({"array": Opaque(1), "b": 2}, "two")
    plain.save_to_file(path)
    distrustful = SnapshotManager.load_from_file(path, allow_pickle=False)
    assert distrustful["one"].data["array"].tolist() == [0, 1, 2]
    assert distrustful.get_snapshot("two", leaves="b").data == {"b": 2}
    with pytest.raises(PickleRefused, match="Leaf array"):
        distrustful.load_snapshot("two")
    compared = SnapshotManager(cmp=lambda a, b: 0)
    compared.save_to_file(path)
    with pytest.raises(PickleRefused, match="comparison"):
        SnapshotManager.load_from_file(path, allow_pickle=False)


FILE_HEADER: dict[str, Any] = {
    "name": "n",
    "max_snapshots": None,
    "rank_by": None,
    "mode": "min",
    "cmp": None,
    "snapshots": [],
}


@pytest.mark.parametrize(
    "forged",
    [
        pytest.param(b"\x91" * 100_000, id="deep"),
        pytest.param({"description": msgspec.Raw(b"\xa3\xed\xa0\x80")}, id="half of a surrogate pair"),
        pytest.param({"cmp": b"x"}, id="no function"),
        pytest.param({"retention": {"keep_within": "x"}}, id="no duration"),
        pytest.param({"snapshots": [[{"deep": msgspec.Raw(b"\x91" * 100_000)}, 0, 0]]}, id="deep within"),
        pytest.param({"snapshots": [[{}, 0, 0]]}, id="no id"),
        pytest.param({"snapshots": [[{"id": "a", "tags": 1, "metadata": 1, "time": "x"}, 0, 0]]}, id="other types"),
        pytest.param({"snapshots": [[{"id": "../a"}, 0, 0]]}, id="an id that leads out"),
        pytest.param({"snapshots": [[{"id": "a\u202e"}, 0, 0]]}, id="an id that is not visible"),
        pytest.param({"snapshots": [[{"id": "a"}, -1, 1]]}, id="a size below 0"),
        pytest.param({"snapshots": [[{"id": "a"}, 0, 2**62]]}, id="a size beyond the end"),
    ],
)
def test_a_forged_file_is_damage(tmp_path: Path, forged: Any) -> None:
    """Its hash shows damage only: whoever writes a file can calculate it."""
    header = forged if isinstance(forged, bytes) else msgspec.msgpack.encode(FILE_HEADER | forged)
    data = b"PSFILE1\n" + len(header).to_bytes(8, "little") + header
    (tmp_path / "file").write_bytes(data + blake3(data).digest())
    with pytest.raises(DamagedObject, match="file"):
        SnapshotManager.load_from_file(tmp_path / "file")


# --- cleanup ----------------------------------------------------------------------------------------------------------


def test_cleanup_removes_what_a_policy_does_not_keep_but_nothing_pinned(home: str | None) -> None:
    manager = SnapshotManager(home)
    for name, tags in (("a", ["keep"]), ("b", []), ("c", []), ("d", ["keep"])):
        manager.save_snapshot(name, name, tags=tags)
    manager.pin("c")
    policy = RetentionPolicy(keep_last=0, keep_weekly_within=None, keep_tags=("keep",))
    planned = manager.cleanup(policy, dry_run=True)
    assert list(manager) == ["a", "b", "c", "d"]
    done = manager.cleanup(policy)
    assert (done.rows, done.deleted) == (planned.rows, planned.deleted)
    assert done.deleted == ("b",)
    assert [(row.name, row.keep) for row in done.rows] == [("d", True), ("c", True), ("b", False), ("a", True)]
    assert list(manager) == ["a", "c", "d"]
    manager.cleanup(policy)
    assert list(manager) == ["a", "c", "d"]


# --- pickled managers -------------------------------------------------------------------------------------------------


def test_a_pickled_manager_is_a_reference_without_secrets(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "repository", password="correct horse", storage_options={"token": "hidden"})
    manager = SnapshotManager(repository, name="shared", rank_by="loss", mode="min", max_snapshots=5)
    manager.save_snapshot({"secret value": 1}, "one", {"loss": 1})
    pickled = pickle.dumps(manager)
    for secret in (b"correct horse", b"hidden", b"secret value"):
        assert secret not in pickled
    here = pickle.loads(pickled)
    assert (here.name, here.max_snapshots, here.ranking) == ("shared", 5, manager.ranking)
    assert here["one"].data == {"secret value": 1}
    script = f"import pickle; print(pickle.loads({pickled!r})['one'].data)"
    environment = {**os.environ, "PREFECT_INTEGRATIONS_SNAPSHOTS_PASSWORD": "correct horse"}
    elsewhere = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert elsewhere.stdout == "{'secret value': 1}\n"


def test_a_manager_in_memory_cannot_be_pickled() -> None:
    with pytest.raises(InvalidArgument, match="save_to_file"):
        pickle.dumps(SnapshotManager())


# --- pytrees ----------------------------------------------------------------------------------------------------------


def test_validation_names_the_bad_leaf(home: str | None) -> None:
    manager = PyTreeSnapshotManager(home)
    with pytest.raises(UnserialisableLeaf, match="Leaf encoder/layers/1/lock"):
        manager.save_snapshot({"encoder": {"layers": [1, {"lock": threading.Lock()}]}})
    with pytest.raises(UnserialisableLeaf, match="Leaf encoder/layers/1/lock"):
        manager.save_async({"encoder": {"layers": [1, {"lock": threading.Lock()}]}})
    donated = jnp.ones(3)
    donated.delete()
    with pytest.raises(UnserialisableLeaf, match=r"Leaf w.*donated"):
        manager.save_snapshot({"w": donated})
    assert len(manager) == 0


def test_a_traced_value_is_refused(home: str | None) -> None:
    manager = PyTreeSnapshotManager(home)

    @jax.jit
    def step(x: jax.Array) -> jax.Array:
        manager.save_snapshot({"x": x})
        return x

    with pytest.raises(UnserialisableLeaf, match=r"Leaf x.*outside of jit"):
        step(jnp.ones(2))
    assert len(manager) == 0


def test_tree_map_defaults_to_the_latest_and_says_where_it_came_from(home: str | None) -> None:
    manager = PyTreeSnapshotManager(home)
    manager.save_snapshot({"w": jnp.ones(2)}, "one")
    manager.save_snapshot({"w": jnp.ones(2) * 3, "none": None}, "two", {"epoch": 2}, ["tag"])
    assert manager.tree_map(lambda leaf: leaf * 2, new_id="three") == "three"
    found = manager["three"]
    assert found.data["w"].tolist() == [6, 6]
    assert found.data["none"] is None
    assert found.metadata == {"epoch": 2, "derived_from": ["two"]}
    assert found.tags == ["tag"]
    assert manager["two"].data["w"].tolist() == [3, 3]


def test_tree_replace(home: str | None) -> None:
    manager = PyTreeSnapshotManager(home)
    tree = {"a": None, "decoder": [{"bias": 1.0, "w": 2.0}, {"bias": 3.0, "w": 4.0}], "head": {"bias": 5.0}}
    manager.save_snapshot(tree, "one")
    manager.tree_replace({"decoder/**/bias": 0.0, "head/bias": -1.0}, "one", "two")
    assert manager["two"].data == {
        "a": None,
        "decoder": [{"bias": 0.0, "w": 2.0}, {"bias": 0.0, "w": 4.0}],
        "head": {"bias": -1.0},
    }
    with pytest.raises(InvalidArgument, match=r"No leaf of snapshot 'one' matches encoder/\*"):
        manager.tree_replace({"head/bias": 0.0, "encoder/*": 0.0}, "one")
    assert list(manager) == ["one", "two"]


def test_tree_combine_averages_weights(home: str | None) -> None:
    manager = PyTreeSnapshotManager(home)
    for number in (1, 2, 3):
        manager.save_snapshot({"w": jnp.full(2, float(number)), "n": number}, f"m{number}")
    manager.tree_combine(["m1", "m2", "m3"], lambda *leaves: sum(leaves) / len(leaves), "mean")
    mean = manager["mean"]
    assert mean.data["w"].tolist() == [2, 2]
    assert mean.data["n"] == 2
    assert mean.metadata == {"derived_from": ["m1", "m2", "m3"]}
    manager.save_snapshot({"w": 1.0, "other": 2}, "odd")
    with pytest.raises(StructureMismatch):
        manager.tree_combine(["m1", "odd"], lambda a, b: a)
    with pytest.raises(InvalidArgument, match="at least one"):
        manager.tree_combine([], lambda: 0)


def test_diff_names_changed_leaves(home: str | None) -> None:
    manager = SnapshotManager(home)
    weights = np.ones(50_000)
    changed = weights.copy()
    changed[7] += 0.5
    manager.save_snapshot({"same": weights, "w": weights, "gone": 1, "name": "a"}, "one")
    manager.save_snapshot({"same": weights, "w": changed, "new": 2, "name": "b"}, "two")
    differences = {difference.path: difference for difference in manager.diff("one", "two")}
    assert {path: one.kind for path, one in differences.items()} == {
        "gone": "removed",
        "name": "changed",
        "new": "added",
        "w": "changed",
    }
    assert (differences["w"].changed, differences["w"].max_abs) == (1, 0.5)
    assert manager.diff("one", "one") == []


# --- bad input --------------------------------------------------------------------------------------------------------

BAD_NAMES = [
    "",
    " spaced",
    "../escape",
    "a/../b",
    "/absolute",
    "a//b",
    "back\\slash",
    "new\nline",
    "null\0byte",
    "zero\u200bwidth",
    "right\u202eleft",
    "lone\ud800surrogate",
    "x" * 5_000,
    unicodedata.normalize("NFD", "café"),
]


@pytest.mark.parametrize("bad", BAD_NAMES, ids=lambda bad: ascii(bad[:20]))
def test_bad_names_ids_and_tags_are_refused(home: str | None, bad: str) -> None:
    with pytest.raises(InvalidName):
        SnapshotManager(home, name=bad)
    manager = SnapshotManager(home)
    manager.save_snapshot(1, "one")
    calls: list[Callable[[], object]] = [
        lambda: manager.save_snapshot(1, bad),
        lambda: manager.save_snapshot(1, tags=[bad]),
        lambda: manager.clone_snapshot("one", bad),
        lambda: manager.add_tags("one", bad),
    ]
    for call in calls:
        with pytest.raises(InvalidName) as caught:
            call()
        assert len(str(caught.value)) < 300
    assert list(manager) == ["one"]
    assert manager.get_tags("one") == []


def test_unicode_twins_cannot_both_exist(home: str | None) -> None:
    manager = SnapshotManager(home)
    manager.save_snapshot(1, unicodedata.normalize("NFC", "café"))
    with pytest.raises(InvalidName, match="normal form C"):
        manager.save_snapshot(2, unicodedata.normalize("NFD", "café"))


def test_names_in_any_script_are_fine(home: str | None) -> None:
    for name in ("größe/Übung", "日本語", "مرحبا", "🚀 run", "a" * 512):
        manager = SnapshotManager(home, name=name)
        manager.save_snapshot(1, name, tags=[name])
        assert manager.query.by_tags(name) == [name]


def test_names_that_are_no_text_are_refused(home: str | None) -> None:
    manager = SnapshotManager(home)
    with pytest.raises(InvalidName, match="must be a string, not int"):
        manager.save_snapshot(1, 7)  # type: ignore[arg-type]
    with pytest.raises(InvalidName, match="must be a string, not int"):
        manager.save_snapshot(1, tags=[7])  # type: ignore[list-item]


def test_without_pickle_plain_values_are_saved_and_others_refused(durable: str) -> None:
    repository = Repository(durable, allow_pickle=False)
    manager = SnapshotManager(repository)
    tree = {"w": np.arange(3), "nested": [(1, 2.0), {"x", "y"}], "point": Point(1, 2)}
    manager.save_snapshot(tree, "plain")
    assert manager["plain"].data["nested"] == tree["nested"]
    with pytest.raises(UnserialisableLeaf, match=r"Leaf layers/0.*allow_pickle is False"):
        manager.save_snapshot({"layers": [Opaque(1)]}, "object")
    SnapshotManager(durable).save_snapshot({"layers": [Opaque(1)], "w": 1}, "object")
    with pytest.raises(PickleRefused, match="Leaf layers/0"):
        manager.load_snapshot("object")
    assert manager.get_snapshot("object", leaves="w").data == {"w": 1}


def test_a_failed_save_leaves_nothing_behind(tmp_path: Path) -> None:
    manager = SnapshotManager(tmp_path / "repository")
    with pytest.raises(SnapshotsError):
        manager.save_snapshot({"big": np.ones(10_000_000), "lock": threading.Lock()})
    assert not (tmp_path / "repository").exists()
    with pytest.raises(InvalidArgument, match="is not a token"):
        manager.save_snapshot(1, token="no token")
    assert len(manager) == 0


def test_saving_again_with_a_token_saves_once(home: str | None) -> None:
    manager = SnapshotManager(home)
    token = uuid.uuid4().hex
    assert manager.save_snapshot(1, token=token) == manager.save_snapshot(1, token=token)
    assert manager.save_async(1, token=token).result() == next(iter(manager))
    assert len(manager) == 1
    with pytest.raises(InvalidArgument, match="is not a token"):
        manager.save_async(1, token="no token")


# --- the verbs --------------------------------------------------------------------------------------------------------


def test_snapshots_are_listed_newest_first_without_their_data(home: str | None) -> None:
    manager = SnapshotManager(home)
    manager.save_snapshot(Opaque(1), "old", {"loss": 0.5, "nested": {"list": [1]}}, ["a", "b"])
    manager.save_snapshot(np.zeros(50_000), "new")
    manager.pin("old")
    new, old = manager.list_snapshots()
    assert (new.id, old.id, old.tags, old.pinned, new.pinned) == ("new", "old", ("a", "b"), True, False)
    assert old.metadata == {"loss": 0.5, "nested": {"list": [1]}}
    assert old.created_at.tzinfo is not None
    assert old.created_at <= new.created_at
    assert [info.id for info in manager.list_snapshots()] == list(reversed(list(manager)))
    assert (new.size > 400_000) == (new.written > 0) == (home is not None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        old.pinned = False  # type: ignore[misc]
    old.metadata["nested"]["list"].append(2)
    assert manager.list_snapshots()[1].metadata == {"loss": 0.5, "nested": {"list": [1]}}


def test_a_snapshot_is_loaded_when_its_data_is_used(tmp_path: Path) -> None:
    manager = SnapshotManager(tmp_path / "repository")
    manager.save_snapshot(np.random.default_rng(0).random(50_000), "one", {"loss": 1})
    found = SnapshotManager(tmp_path / "repository").get_snapshot("one")
    latest = SnapshotManager(tmp_path / "repository").get_latest_snapshot()
    shutil.rmtree(tmp_path / "repository" / "packs")
    assert (found.id, found.metadata, latest and latest.id) == ("one", {"loss": 1}, "one")
    with pytest.raises(DamagedVersion, match="snapshot 'one' of 'default'"):
        _ = found.data


def test_a_snapshot_that_was_got_outlives_its_deletion(home: str | None) -> None:
    manager = SnapshotManager(home)
    manager.save_snapshot([1, 2], "one")
    found = manager.get_snapshot("one")
    manager.delete_snapshot("one")
    assert found.data == [1, 2]
    with pytest.raises(SnapshotNotFound):
        manager.load_snapshot("one")


def test_what_is_pinned_is_deleted_only_by_force(home: str | None) -> None:
    manager = SnapshotManager(home)
    for name in ("one", "two", "three"):
        manager.save_snapshot(name, name)
        manager.pin(name)
        manager.pin(name)
    with pytest.raises(Pinned, match="'one' of 'default' is pinned, so it was not deleted"):
        manager.delete_snapshot("one")
    assert list(manager) == ["one", "two", "three"]
    manager.delete_snapshot("one", force=True)
    manager.unpin("two")
    manager.unpin("two")
    manager.delete_snapshot("two")
    manager.remove_snapshot("three")
    assert list(manager) == []
    for verb in (manager.pin, manager.unpin, manager.delete_snapshot, manager.get_snapshot, manager.load_snapshot):
        with pytest.raises(SnapshotNotFound):
            verb("one")


def test_a_difference_is_one_to_the_latest_unless_another_is_named(home: str | None) -> None:
    manager = SnapshotManager(home)
    for step in range(3):
        manager.save_snapshot({"step": step, "same": 0}, f"step-{step}")
    assert [(leaf.path, leaf.old, leaf.new) for leaf in manager.diff("step-0")] == [("step", "0", "2")]
    assert [(leaf.path, leaf.old, leaf.new) for leaf in manager.diff("step-0", "step-1")] == [("step", "0", "1")]
    assert manager.diff("step-2") == []


def test_a_cleanup_needs_a_policy_and_tells_what_it_deletes(home: str | None) -> None:
    manager = SnapshotManager(home)
    for number in range(3):
        manager.save_snapshot(number, str(number))
    with pytest.raises(InvalidArgument, match="needs a policy"):
        manager.cleanup()
    manager.pin("0")
    policy = RetentionPolicy(keep_last=1, keep_weekly_within=None)
    report = manager.cleanup(policy, dry_run=True)
    assert [(row.name, row.reasons) for row in report.rows] == [("2", ("last",)), ("1", ()), ("0", ("pinned",))]
    assert (report.deleted, report.dry_run, list(manager)) == (("1",), True, ["0", "1", "2"])
    assert (manager.cleanup(policy).deleted, list(manager)) == (("1",), ["0", "2"])


def test_saves_land_in_the_order_of_the_calls(home: str | None) -> None:
    """Whether they run in the background or not, and from within the callback of another one."""
    manager = SnapshotManager(home)
    large = np.random.default_rng(0).random(300_000)
    expected: list[str] = []
    for number in range(12):
        name = f"{number}"
        expected.append(name)
        if number % 3 == 2:
            manager.save_snapshot(number, name)
        else:
            manager.save_async(large if number % 3 == 0 else number, name)
    manager.wait()
    assert list(manager) == expected
    done = threading.Event()

    def save_another(_: Any) -> None:
        manager.save_snapshot(1, "from a callback")
        done.set()

    manager.save_async(large, "slow").add_done_callback(save_another)
    manager.save_async(2, "behind")
    assert done.wait(60)
    manager.wait()
    assert set(manager) == {*expected, "slow", "behind", "from a callback"}


def test_what_was_looked_at_never_changes(home: str | None) -> None:
    manager = SnapshotManager(home)
    manager.save_snapshot(1, "one", tags=["a"])
    records, listed, ids = manager.current_records(), manager.list_snapshots(), iter(manager)
    manager.save_snapshot(2, "two", tags=["a"])
    manager.add_tags("one", "b")
    manager.delete_snapshot("one")
    assert (list(records.by_id), list(records.tagged("a")), list(ids)) == (["one"], ["one"], ["one"])
    assert (list(records.by_id["one"].tags), listed[0].tags) == (["a"], ("a",))
    assert list(manager.records.by_id) == ["two"]


def test_a_child_saves_in_the_background_after_a_fork(tmp_path: Path) -> None:
    script = """
        import os, sys
        from prefect_snapshots import SnapshotManager
        manager = SnapshotManager(sys.argv[1])
        manager.save_async([0] * 100_000, "parent")
        child = os.fork()
        if child == 0:
            manager.save_async(1, "child")
            manager.wait()
            sys.exit(0)  # which waits for saves in the background
        assert os.waitpid(child, 0)[1] == 0
        manager.wait()
        assert set(manager) == {"parent", "child"}
    """
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script), str(tmp_path / "r")], check=True, timeout=60
    )


# --- what other libraries bring -------------------------------------------------------------------------------------


class Stage(str, enum.Enum):  # noqa: UP042 - many programs have such classes
    TRAIN = "train"


class Loss(float):
    """A float of a program's own."""


def test_metadata_of_other_libraries_is_converted(home: str | None) -> None:
    manager = SnapshotManager(home)
    moment = datetime(2026, 1, 2, 3, tzinfo=UTC)
    given = {
        "time": pd.Timestamp(moment),
        "stage": Stage.TRAIN,
        "loss": Loss(0.5),
        "path": PurePosixPath("a/b"),
        "day": date(2026, 1, 2),
    }
    manager.save_snapshot(1, "a", given)
    found = manager["a"].metadata
    assert found == {"time": moment, "stage": "train", "loss": 0.5, "path": "a/b", "day": "2026-01-02"}
    assert {type(value) for value in found.values()} == {datetime, str, float}
    for wrong in (pd.Timestamp("2026"), pd.NaT, np.ones(2), pd.Timedelta(1)):
        with pytest.raises(InvalidArgument, match="Metadata 'x' is"):
            manager.save_snapshot(1, "b", {"x": wrong})


def test_wrong_arguments_are_named(home: str | None) -> None:
    manager = SnapshotManager(home)
    for save in (manager.save, manager.start_save):
        with pytest.raises(InvalidArgument, match=r"take a SaveRequest, not str\. To pass an id"):
            save(1, "a")  # type: ignore[arg-type]
    for options, words in (({"rank_by": 5}, "rank_by must be a metadata key"), ({"cmp": 5}, "cmp must be a function")):
        with pytest.raises(InvalidArgument, match=words):
            SnapshotManager(home, **options)  # type: ignore[arg-type]


def test_results_of_computations_of_pytorch_are_kept_in_memory() -> None:
    manager = SnapshotManager()
    manager.save_snapshot({"loss": torch.ones(2, requires_grad=True) * 2}, "a")
    assert manager["a"].data["loss"].tolist() == [2, 2]


def test_a_tilde_is_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    manager = SnapshotManager("~/repository")
    manager.save_snapshot(1, "a")
    manager.save_to_file("~/file")
    assert list(SnapshotManager.load_from_file("~/file")) == ["a"]
    registry = ArtifactRegistry("~/repository")
    registry.log_files("f", "~/file")
    registry.download_artifact("f", to="~/copy")
    assert sorted(os.listdir(tmp_path / "home")) == ["copy", "file", "repository"]
    assert Directory("~/copy").path == tmp_path / "home" / "copy"
    assert os.listdir() == []


def test_a_file_keeps_the_retention_policy(tmp_path: Path) -> None:
    policy = RetentionPolicy(keep_last=2, keep_weekly_within=None, keep_tags=("kept",))
    manager: SnapshotManager[int] = SnapshotManager(tmp_path / "r", retention=policy)
    for number in range(4):
        manager.save_snapshot(number, f"s{number}", tags=["kept"] if number == 0 else [])
    manager.save_to_file(tmp_path / "x.snapshots")
    copy: SnapshotManager[int] = SnapshotManager.load_from_file(tmp_path / "x.snapshots")
    assert copy.retention == policy
    copy.save_snapshot(4, "s4")
    assert list(copy) == ["s0", "s3", "s4"]


def test_a_misspelt_name_or_url_is_told_from_snapshots_that_are_not_there_yet(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "right")
    SnapshotManager(repository, name="train").save_snapshot(1, "one")
    ArtifactRegistry(repository).log_artifact("trains", 1)
    misspelt = SnapshotManager(repository, name="trian")
    reads: list[Callable[[], Any]] = [
        lambda: misspelt.get_snapshot("one"),
        lambda: misspelt.delete_snapshot("one"),
        lambda: misspelt.pin("one"),
        lambda: misspelt.describe(description="best"),
        lambda: misspelt.rename("other"),
        lambda: load_latest("trian", repository=repository),
    ]
    for read in reads:
        with pytest.raises(SnapshotNotFound, match=r"name 'trian' in file://.*/right\. Did you mean 'train'\?"):
            read()
    assert load_latest("trian", 0, repository) == 0
    elsewhere = SnapshotManager(tmp_path / "typo", name="train")
    with pytest.raises(SnapshotNotFound, match=r"'train': there is no repository at file://.*/typo\. Check the URL\."):
        elsewhere.get_snapshot("one")
    assert not (tmp_path / "typo").exists()
