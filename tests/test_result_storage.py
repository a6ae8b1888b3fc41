"""The block as a result storage: what is persisted is found in any process, encrypted, and costs its changes only."""

from __future__ import annotations

import asyncio
import base64
import json
import pickle
import random
import sys
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, task
from prefect.cache_policies import INPUTS, CachePolicy
from prefect.client.schemas.objects import State
from prefect.results import ResultStore
from prefect.serializers import JSONSerializer
from prefect.task_runners import ProcessPoolTaskRunner
from pydantic import SecretStr

from prefect_snapshots import Repository, SnapshotRepository
from prefect_snapshots.errors import (
    InvalidArgument,
    InvalidName,
    ObjectMissing,
    PickleRefused,
    ReadOnlyRepository,
    RepositoryNotFound,
)
from prefect_snapshots.flows import expire_results
from prefect_snapshots.repository.reserve import RESERVE
from prefect_snapshots.results import ResultLog

pytestmark = pytest.mark.xdist_group("prefect")

MARKER = "the marker of plain text"


def size_of(directory: Path) -> int:
    """Bytes of all files, but for the reserve that prune keeps for a full disk."""
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file() and file.name != RESERVE)


@pytest.fixture
def block(prefect_server: str, tmp_path: Path) -> Iterator[SnapshotRepository]:
    """A saved block over an encrypted repository."""
    name = f"results-{uuid.uuid4().hex}"
    block = SnapshotRepository(url=str(tmp_path / "repository"), password=SecretStr("a secret"))
    block.save(name)
    yield block
    SnapshotRepository.delete(name)


@pytest.fixture(params=["records", "key storage"])
def by_inputs(request: pytest.FixtureRequest, block: SnapshotRepository) -> Iterator[CachePolicy]:
    """A cache policy that keeps the keys with the results, or by themselves in the same repository."""
    if request.param == "records":
        yield INPUTS
        return
    name = f"keys-{uuid.uuid4().hex}"
    keys = SnapshotRepository(url=block.url, password=block.password, results="keys")
    keys.save(name)
    yield INPUTS.configure(key_storage=keys)
    SnapshotRepository.delete(name)


def test_reads_and_writes_in_both_worlds(block: SnapshotRepository) -> None:
    async def asynchronously() -> tuple[Any, bytes]:
        written: Any = block.write_path("b", b"async")
        return await written, await block.aread_path("a")

    block.write_path("a", b"sync")
    assert asyncio.run(asynchronously()) == (None, b"sync")
    assert block.read_path("b") == b"async"
    with pytest.raises(ObjectMissing):
        block.read_path("c")


def test_a_block_that_is_not_saved_serves_a_result_store(tmp_path: Path) -> None:
    block = SnapshotRepository(url=str(tmp_path / "repository"))
    ResultStore(result_storage=block).write(key="some/key", obj={"a": [1, 2]})
    store = ResultStore(result_storage=block)
    assert store.exists("some/key")
    assert not store.exists("another/key")
    assert store.read("some/key").result == {"a": [1, 2]}


def test_read_only_writes_nothing(tmp_path: Path) -> None:
    block = SnapshotRepository(url=str(tmp_path / "repository"), read_only=True)
    with pytest.raises(RepositoryNotFound):
        block.read_path("a")
    SnapshotRepository(url=block.url).write_path("a", b"a")
    assert block.read_path("a") == b"a"
    with pytest.raises(ReadOnlyRepository):
        block.write_path("a", b"b")


runs: list[int] = []


def squares(block: SnapshotRepository, by_inputs: CachePolicy) -> Any:
    """A flow of a cached task: returns the states of its runs."""

    @task(cache_policy=by_inputs, result_storage=block)
    def square(number: int) -> dict[str, int]:
        runs.append(number)
        return {MARKER: number * number}

    @flow
    def squares() -> list[State[Any]]:
        return [square(number, return_state=True) for number in (1, 2, 1)]

    return squares


def test_cached_results_are_found_and_encrypted(
    block: SnapshotRepository, by_inputs: CachePolicy, tmp_path: Path
) -> None:
    runs.clear()
    cached = squares(block, by_inputs)
    for expected in (["Completed", "Completed", "Cached"], ["Cached", "Cached", "Cached"]):
        states = cached()
        assert [state.name for state in states] == expected
        assert [state.result() for state in states] == [{MARKER: square} for square in (1, 4, 1)]
    assert runs == [1, 2]
    assert not plain_texts(tmp_path / "repository")
    ResultStore(result_storage=SnapshotRepository(url=str(tmp_path / "open"))).write(key="square", obj=[MARKER])
    assert plain_texts(tmp_path / "open")


def plain_texts(directory: Path) -> list[bytes]:
    """What can be read of results in the files of a repository."""
    files = [file.read_bytes() for file in directory.rglob("*") if file.is_file()]
    # In base64 a text reads differently at each of the three places where it may start in a group of three bytes.
    markers = (MARKER.encode(), b"bWFya2Vy", b"hcmtlci", b"YXJrZX", b"square")
    return [marker for marker in markers if any(marker in file for file in files)]


@task(persist_result=True)
def doubled(number: int) -> int:
    return 2 * number


@flow
def in_processes(storage: str) -> list[Any]:
    futures = doubled.with_options(result_storage=storage).map(range(3))
    futures.wait()
    return [future.state for future in futures]


def test_results_of_other_processes_are_read(block: SnapshotRepository) -> None:
    storage = f"prefect-snapshots-repository/{block._block_document_name}"
    runner: Any = ProcessPoolTaskRunner(max_workers=1)
    run = in_processes.with_options(task_runner=runner)
    assert [state.result() for state in run(storage)] == [0, 2, 4]
    assert len(ResultLog(block.get_repository()).keys()) == 3


def test_a_small_change_of_a_large_result_costs_little(
    block: SnapshotRepository, by_inputs: CachePolicy, tmp_path: Path
) -> None:
    data = bytearray(random.Random(0).randbytes(30_000_000))

    @task(cache_policy=by_inputs, result_storage=block, cache_result_in_memory=False)
    def large(version: int) -> bytes:
        return bytes(data)

    large(1)
    first = size_of(tmp_path / "repository")
    data[15_000_000:16_000_000] = random.Random(1).randbytes(1_000_000)
    large(2)
    assert first > 30_000_000
    assert size_of(tmp_path / "repository") - first < 5_000_000
    assert large(2) == data


def test_expired_results_are_computed_again(
    block: SnapshotRepository, by_inputs: CachePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_SNAPSHOTS_PASSWORD", "a secret")
    computed: list[int] = []

    @task(cache_policy=by_inputs, result_storage=block, cache_result_in_memory=False)
    def noise(number: int) -> bytes:
        computed.append(number)
        return random.Random(number).randbytes(100_000)

    @flow
    def use(*numbers: int) -> list[str | None]:
        return [noise(number, return_state=True).name for number in numbers]

    real = time.time_ns
    with monkeypatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: real() - 90 * 86_400 * 10**9)
        use(1, 2)
    use(3)
    month = timedelta(days=30)
    planned = expire_results(month, keys="keys", dry_run=True, repository=block.url)
    assert use(1, 2, 3) == ["Cached"] * 3
    report = expire_results(month, keys="keys", repository=block.url)
    assert report.expired == planned.expired
    assert (len(report.expired), report.kept, planned.kept) == (2, 1, 1)
    assert report.size > 200_000
    assert report.pruned is not None
    assert planned.pruned is None
    assert use(3, 1, 2) == ["Cached", "Completed", "Completed"]
    assert computed == [1, 2, 3, 1, 2]
    planned = expire_results(keys="keys", max_size=300_000, max_count=9, dry_run=True, repository=block.url)
    assert expire_results(keys="keys", max_size=300_000, repository=block.url).expired == planned.expired
    assert use(1, 2) == ["Cached"] * 2
    assert use(3) == ["Completed"]
    with pytest.raises(InvalidArgument, match="pass older_than, max_size or max_count"):
        expire_results(repository=block.url)


# --- results that others write ------------------------------------------------------------------------------------


class Planted:
    """Leaves a trace if it is unpickled, or made by Prefect's decoder."""

    def __reduce__(self) -> Any:
        return setattr, (Planted, "ran", True)

    ran = False


def _records() -> Iterator[tuple[str, bytes]]:
    """Records that run code when Prefect reads them, or would with another reader's serializer."""
    planted = base64.b64encode(pickle.dumps(Planted())).decode()
    plain: dict[str, Any] = {"metadata": {"serializer": {"type": "json"}}, "result": "1"}
    decoder = {"type": "json", "object_decoder": "builtins.setattr"}
    yield "a pickle", json.dumps({**plain, "metadata": {"serializer": {"type": "pickle"}}, "result": planted}).encode()
    compressed = {"type": "compressed/pickle"}
    yield "a compressed pickle", json.dumps({**plain, "metadata": {"serializer": compressed}}).encode()
    yield "a decoder by name", json.dumps({**plain, "metadata": {"serializer": decoder}}).encode()
    library = {"type": "json", "jsonlib": "pickle"}
    yield "a library by name", json.dumps({**plain, "metadata": {"serializer": library}}).encode()
    yield "a class by name", json.dumps({**plain, "result": '[{"__class__": "builtins.dict", "data": 1}]'}).encode()
    raised = '{"__exc_type__": "builtins.SystemExit", "message": "x"}'
    yield "an exception by name", json.dumps({**plain, "result": raised}).encode()
    yield "a raw pickle", planted.encode()
    yield "a pickle in JSON that is no record", json.dumps(planted).encode()
    yield "a pickle in a record that Prefect refuses", json.dumps({planted: 0, **plain, "metadata": 1}).encode()
    old = {"data": planted, "serializer": {"type": "pickle"}, "prefect_version": "2.0"}
    yield "an old record", json.dumps(old).encode()
    module = {"type": "pickle", "picklelib": "this"}
    yield "a module by name", json.dumps({**plain, "metadata": {"serializer": module}}).encode()
    yield "a module in metadata", json.dumps({"serializer": module}).encode()
    twice = json.dumps({"type": "pickle"}) + ', "serializer": ' + json.dumps({"type": "json"})
    yield "two serializers", f'{{"metadata": {{"serializer": {twice}}}, "result": "1"}}'.encode()
    yield "metadata of a pickle", json.dumps({"serializer": {"type": "pickle"}}).encode()


@pytest.mark.parametrize("record", [data for _, data in _records()], ids=[name for name, _ in _records()])
def test_no_result_runs_code_without_permission(tmp_path: Path, record: bytes) -> None:
    url = str(tmp_path / "repository")
    trusting = SnapshotRepository(url=url, no_password=True)
    trusting.write_path("key", record)
    careful = SnapshotRepository(url=url, no_password=True, allow_pickle=False)
    with pytest.raises(PickleRefused, match="result 'key' is not plain JSON"):
        careful.read_path("key")
    with pytest.raises(PickleRefused):
        asyncio.run(careful.aread_path("key"))
    with pytest.raises(PickleRefused):
        careful.write_path("other", record)
    with pytest.raises(PickleRefused):
        ResultStore(result_storage=careful, serializer=JSONSerializer()).read("key")
    assert not Planted.ran
    assert "this" not in sys.modules
    assert trusting.read_path("key") == record


def test_plain_json_needs_no_permission(tmp_path: Path) -> None:
    block = SnapshotRepository(url=str(tmp_path / "repository"), no_password=True, allow_pickle=False)
    store = ResultStore(result_storage=block, serializer=JSONSerializer())
    store.write(key="plain", obj={"a": [1, 2.5, None, "x"]})
    assert ResultStore(result_storage=block, serializer=JSONSerializer()).read("plain").result == {
        "a": [1, 2.5, None, "x"]
    }
    with pytest.raises(PickleRefused, match="result_serializer"):
        ResultStore(result_storage=block).write(key="pickled", obj=1)


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_key_that_is_no_unicode_is_refused(tmp_path: Path, size: int) -> None:
    log = ResultLog(Repository(tmp_path))
    for attempt in (lambda: log.write("\ud800", bytes(size)), lambda: log.exists("a\udc80")):
        with pytest.raises(InvalidName, match="half of a surrogate pair"):
            attempt()
    log.write("\U0001f600", bytes(size))
    assert log.read("\U0001f600") == bytes(size)
