"""Snapshots of runs of several JAX processes: stored by all, committed once, restored onto other meshes."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
import pytest
import servers
from jax_processes import COLUMNS, ROWS, Run, jax_run

from prefect_snapshots import PyTreeSnapshotManager, Repository
from prefect_snapshots.errors import (
    CommitUnknown,
    InvalidArgument,
    ProcessFailed,
    SnapshotExists,
    StorageFull,
)
from prefect_snapshots.repository.contents import StagedPart
from prefect_snapshots.snapshots.processes import ProcessFailure, _opened, concerns_all, runtime

pytestmark = pytest.mark.xdist_group("jax-processes")

COUNT = 4
MB = 1 << 20


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    (port,) = servers.free_ports(1)
    with jax_run(COUNT, port) as started:
        yield started


@pytest.fixture(params=["local", "encrypted", "seaweedfs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Arguments of a manager for a repository that does not exist yet."""
    if request.param == "seaweedfs":
        storage = request.getfixturevalue("seaweedfs_storage")
        return {"url": storage.url, "storage": dict(storage.storage_options)}
    url = str(tmp_path / "repository")
    return {"url": url, "password": "secret words"} if request.param == "encrypted" else {"url": url}


@pytest.fixture
def local(tmp_path: Path) -> dict[str, Any]:
    return {"url": str(tmp_path / "repository")}


def here(place: dict[str, Any]) -> PyTreeSnapshotManager[Any]:
    repository = Repository(place["url"], storage_options=place.get("storage"), password=place.get("password"))
    return PyTreeSnapshotManager(repository, name="run")


def test_all_processes_save_one_snapshot(run: Run, place: dict[str, Any]) -> None:
    [first] = set(run.call("save", place=place, step=1, metadata={"loss": 0.5}, tags=["best"]))
    assert run.call("save", place=place, step=2, snapshot_id="two", background=True) == ["two"] * COUNT
    manager = here(place)
    assert [info.id for info in manager.list_snapshots()] == ["two", first]
    assert manager.get_snapshot(first).metadata == {"loss": 0.5}
    assert manager.repository is not None
    assert manager.repository.check(read_data=True).ok
    for axes in (["x", None], ["y", "x"], None):
        answers = run.call("load", place=place, snapshot_id="two", step=2, axes=axes)
        assert all(isinstance(answer, int) for answer in answers), answers
    whole = manager.load_snapshot("two")
    assert (whole["weights"].shape, whole["step"]) == ((ROWS, COLUMNS), 2)
    difference = {leaf.path for leaf in manager.diff(first, "two")}
    assert difference == {"columns", "keys", "step"}


def test_arrays_of_every_kind_on_any_devices(run: Run, local: dict[str, Any]) -> None:
    assert run.call("keep_zoo", place=local) == [None] * COUNT
    manager = here(local)
    assert manager.repository is not None
    assert manager.repository.check(read_data=True).ok


def test_a_process_reads_only_what_its_devices_need(run: Run, local: dict[str, Any]) -> None:
    run.call("save", place=local, step=1, snapshot_id="one")
    for answer in run.call("load", place=local, snapshot_id="one", step=1, axes=["x", None]):
        assert 8 * MB <= answer < 12 * MB, "a quarter of 32 MB, and small arrays"


def test_what_all_have_is_stored_once(run: Run, local: dict[str, Any]) -> None:
    run.call("save", place=local, step=1)
    once = stored(local)
    assert once < 33 * MB
    run.call("save", place=local, step=2)
    assert stored(local) - once < MB, "the large array has not changed"


def stored(place: dict[str, Any]) -> int:
    return sum(path.stat().st_size for path in Path(place["url"], "packs").rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "devices", [1, pytest.param(2, marks=pytest.mark.nightly), pytest.param(8, marks=pytest.mark.nightly)]
)
def test_another_number_of_devices_restores(run: Run, local: dict[str, Any], devices: int) -> None:
    run.call("save", place=local, step=1, snapshot_id="one")
    with jax_run(1, 0, devices) as alone:
        assert alone.call("load", place=local, snapshot_id="one", step=1, axes=[None, "y"])[0] < 36 * MB
        [again] = alone.call("save", place=local, step=2, snapshot_id="two")
        assert again == "two"
    assert all(isinstance(read, int) for read in run.call("load", place=local, snapshot_id="two", step=2, axes=["x"]))


def test_changes_are_made_once(run: Run, local: dict[str, Any]) -> None:
    place = {**local, "max_snapshots": 2, "rank_by": "loss", "mode": "min"}
    for step, loss in enumerate([3.0, 1.0, 2.0]):
        answers = run.call("save", place=place, step=step, snapshot_id=f"s{step}", metadata={"loss": loss})
        assert answers == [f"s{step}"] * COUNT
    assert run.call("save", place=place, step=9, snapshot_id="s9", metadata={"loss": 9.0}) == [None] * COUNT
    assert run.call("ask", place=place, method="get_ids_by_rank") == [["s1", "s2"]] * COUNT
    assert run.call("ask", place=place, method="pin", snapshot_id="s1") == [None] * COUNT
    refused = run.call("ask", place=place, method="delete_snapshot", snapshot_id="s1")
    assert [answer["error"] for answer in refused] == ["Pinned"] * COUNT
    assert run.call("ask", place=place, method="delete_snapshot", snapshot_id="s2") == [None] * COUNT
    cloned = run.call("ask", place=place, method="clone_snapshot", snapshot_id="s1", new_id="s3")
    assert cloned == ["s3"] * COUNT
    manager = here(local)
    assert manager.get_ids_by_insertion_order() == ["s1", "s3"]
    assert len(manager._backend.events) == 6, "three saves (with one eviction), a pin, a deletion and a clone"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("own", "named"),
    [
        ({"2": {"metadata": {"loss": 1.0, "epoch": 2}}}, "metadata['loss']: it is 0.5 in process 0, and 1.0"),
        ({"1": {"snapshot_id": "other"}}, "snapshot_id: it is 'one' in process 0, and 'other' in process 1"),
        ({"3": {"tags": ["best"]}}, "tags"),
        ({"3": {"value": 7}}, "leaf step: it is '1' in process 0, and '7' in process 3"),
    ],
)
def test_processes_that_disagree_save_nothing(run: Run, local: dict[str, Any], own: dict[str, Any], named: str) -> None:
    metadata = {"loss": 0.5, "epoch": 2}
    answers = run.call("save", place=local, step=1, snapshot_id="one", metadata=metadata, own=own)
    assert {answer["error"] for answer in answers} == {"ProcessesDisagree"}
    assert all(named in answer["message"] for answer in answers), answers
    assert not Path(local["url"], "catalog").exists() or len(here(local)) == 0
    assert run.call("save", place=local, step=1, snapshot_id="one") == ["one"] * COUNT


def test_an_invalid_argument_of_one_process_is_an_error_of_all(run: Run, local: dict[str, Any]) -> None:
    for process in ("2", "0"):
        answers = run.call("save", place=local, step=1, own={process: {"snapshot_id": "a/../b"}})
        assert {answer["error"] for answer in answers} == {"InvalidName"}
    assert run.call("save", place=local, step=1, snapshot_id="one") == ["one"] * COUNT


def test_a_full_disk_of_one_process_is_an_error_of_all(run: Run, local: dict[str, Any]) -> None:
    answers = run.call("save", place=local, step=1, snapshot_id="one", fault="2 has a full disk")
    assert [answer["error"] for answer in answers] == ["StorageFull"] * COUNT
    assert "Process 2 of the run failed" in answers[0]["message"]
    assert run.call("save", place=local, step=1, snapshot_id="one") == ["one"] * COUNT


def test_an_interrupt_of_one_process_is_an_error_of_all(run: Run, local: dict[str, Any]) -> None:
    answers = run.call("save", place=local, step=1, snapshot_id="one", fault="1 is interrupted before it reports")
    assert [answer["error"] for answer in answers] == ["ProcessFailed", "KeyboardInterrupt", *["ProcessFailed"] * 2]
    assert all("Nothing was saved" in answers[process]["message"] for process in (0, 2, 3))
    answers = run.call("save", place=local, step=1, snapshot_id="one", fault="0 is interrupted before it answers")
    assert [answer["error"] for answer in answers] == ["KeyboardInterrupt", *["ProcessFailed"] * 3]
    assert all("Look whether it was done" in answer["message"] for answer in answers[1:]), "it was"
    assert run.call("ask", place=local, method="get_ids_by_insertion_order") == [["one"]] * COUNT


def test_a_save_whose_reply_was_lost_is_not_repeated(run: Run, local: dict[str, Any]) -> None:
    answers = run.call("save", place=local, step=1, fault="0 loses the reply")
    assert {answer["error"] for answer in answers} == {"CommitUnknown"}
    [token] = {answer["token"] for answer in answers}
    [saved] = set(run.call("save", place=local, step=1, token=token))
    assert here(local).get_ids_by_insertion_order() == [saved]


def test_saves_in_the_background_of_two_managers_and_a_pin(run: Run, local: dict[str, Any]) -> None:
    place = {**local, "max_snapshots": 1, "rank_by": "loss", "mode": "max"}
    expected = ["many0", "many0", *[None] * 7, "many4"]  # the first manager keeps the pinned one
    assert run.call("save_many", place=place, losses=[5.0, 1.0, 2.0, 3.0, 9.0]) == [expected] * COUNT
    assert here(local).get_ids_by_insertion_order() == ["many0"]


def test_what_is_derived_is_made_once(run: Run, local: dict[str, Any]) -> None:
    assert run.call("ask", place=local, method="save_snapshot", data={"x": 1}, snapshot_id="one") == ["one"] * COUNT
    arguments: dict[str, Any] = {"replacements": {"x": 2}, "snapshot_id": "one", "new_id": "two"}
    assert run.call("ask", place=local, method="tree_replace", **arguments) == ["two"] * COUNT
    assert run.call("promote", place=local) == ["default/model:v0"] * COUNT
    again: dict[str, Any] = {"data": {"x": 3}, "snapshot_id": "one", "overwrite": True}
    assert run.call("ask", place=local, method="save_snapshot", **again) == ["one"] * COUNT
    manager = here(local)
    assert [manager.load_snapshot(one) for one in manager.get_ids_by_insertion_order()] == [{"x": 2}, {"x": 3}]
    answers = run.call("ask", place=local, method="pin", snapshot_id="one", own={"2": {"snapshot_id": "two"}})
    assert {answer["error"] for answer in answers} == {"ProcessesDisagree"}
    assert all("about id: it is 'one' in process 0, and 'two'" in answer["message"] for answer in answers)


@pytest.mark.nightly  # the libraries take seconds to import in each process
def test_states_of_libraries_are_saved_with_the_decorator(run: Run, local: dict[str, Any]) -> None:
    assert run.call("train", place=local) == [["step-0"]] * COUNT


def test_parts_that_a_prune_has_freed_are_staged_again(run: Run, local: dict[str, Any]) -> None:
    assert run.call("save", place=local, step=1, snapshot_id="one", fault="0 prunes") == ["one"] * COUNT
    assert here(local).load_snapshot("one")["step"] == 1
    repository = here(local).repository
    assert repository is not None
    assert repository.check(read_data=True).ok


def test_one_process_alone_may_use_a_manager(run: Run, local: dict[str, Any]) -> None:
    place = {**local, "all_processes": False}
    assert run.call("ask", place=place, method="save_snapshot", data={"x": 1}, snapshot_id="log", only=[2]) == ["log"]
    [refused] = run.call("save", place=place, step=1, only=[1])
    assert refused["error"] == "UnserialisableLeaf"
    assert "spread over several processes" in refused["message"]


@pytest.mark.parametrize(
    ("victim", "moment", "saved"),
    [
        pytest.param(1, "is killed before it stores", False, marks=pytest.mark.nightly),
        (1, "is killed before it reports", False),
        pytest.param(1, "is killed while it waits", True, marks=pytest.mark.nightly),
        pytest.param(0, "is killed before it stores", False, marks=pytest.mark.nightly),
        pytest.param(0, "is killed before it commits", False, marks=pytest.mark.nightly),
        (0, "is killed before it answers", True),
    ],
)
def test_nobody_hangs_when_a_process_is_killed(local: dict[str, Any], victim: int, moment: str, saved: bool) -> None:
    (port,) = servers.free_ports(1)
    with jax_run(2, port) as pair:
        place = {**local, "process_timeout": 3}
        assert pair.call("save", place=place, step=1, snapshot_id="one") == ["one"] * 2
        answers = pair.call("save", place=place, step=2, snapshot_id="two", fault=f"{victim} {moment}")
        assert answers[victim] == {"error": "Ended", "message": "exit status -9"}
        other = answers[1 - victim]
        # JAX itself ends the other processes of a run whose process 0 is gone.
        assert other == "two" if saved and victim else other["error"] in ("ProcessFailed", "Ended"), other
    manager = here(local)
    assert manager.get_ids_by_insertion_order() == (["one", "two"] if saved else ["one"])
    manager.load_snapshot("one")
    assert manager.repository is not None
    assert manager.repository.check(read_data=True).ok


def test_a_copy_of_a_manager_has_its_options(tmp_path: Path) -> None:
    manager = PyTreeSnapshotManager[Any](tmp_path / "one", all_processes=False, process_timeout=5.0)
    copies: list[Any] = [pickle.loads(pickle.dumps(manager)), manager.persist(tmp_path / "two")]
    for copy in copies:
        assert (copy.all_processes, copy.process_timeout) == (False, 5.0)


def test_the_runtime_of_jax_is_where_it_is_expected() -> None:
    """It is private."""
    assert runtime() == (None, 0, 1)


# --- without JAX ------------------------------------------------------------------------------------------------------


class Numbers:
    """A state that knows nothing."""

    def copy(self) -> Numbers:
        return self

    def apply(self, event: Any) -> None:
        pass


@pytest.mark.parametrize("size", [10, 100_000, 20_000_000])
def test_a_staged_part_travels_and_is_committed_elsewhere(tmp_path: Path, size: int) -> None:
    part = Repository(tmp_path / "repository", password="words").stage([bytes(size), b"short"])
    travelled = msgspec.msgpack.decode(msgspec.msgpack.encode(pickle.loads(pickle.dumps(part))), type=StagedPart)
    assert len(pickle.dumps(part)) < 1000
    repository = Repository(tmp_path / "repository", password="words")
    assert repository.staged(travelled).read(size, 5) == b"short"
    with pytest.raises(InvalidArgument, match="staged in repository"):
        Repository(tmp_path / "other", password="words").stage([b""]) and Repository(
            tmp_path / "other", password="words"
        ).staged(part)


def test_a_failure_of_another_process_has_its_class_and_details() -> None:
    for error in (
        SnapshotExists("s1 exists"),
        CommitUnknown("ab12", "no answer"),
        StorageFull("full"),
        OSError("gone"),
    ):
        failure = msgspec.msgpack.decode(msgspec.msgpack.encode(ProcessFailure.of(3, error)), type=ProcessFailure)
        again = pickle.loads(pickle.dumps(failure.error()))
        assert isinstance(again, type(error) if type(error) is not OSError else ProcessFailed)
        assert "Process 3 of the run failed" in str(again)
        assert getattr(again, "token", None) == getattr(error, "token", None)


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", b"\x91\xc2", b"\x92\xc3\x07", b"\x92\xc2\xa1x", b"\x92\xc2" + b"\x91" * 99_999]
)
def test_a_message_that_is_not_understood_is_a_named_error(data: bytes) -> None:
    with pytest.raises(ProcessFailed, match="not understood"):
        _opened(data, int)


def test_a_value_that_contains_itself_is_saved_by_each_process() -> None:
    endless: list[Any] = [1]
    endless.append(endless)
    with patch("prefect_snapshots.snapshots.processes.runtime", lambda: (None, 0, 2)):
        assert not concerns_all(endless)


def test_all_processes_stop_at_one_step_if_one_is_preempted(run: Run) -> None:
    answers = run.call("preempted_at", who=2)
    assert answers == [answers[0]] * COUNT
    assert answers[0] >= 2
