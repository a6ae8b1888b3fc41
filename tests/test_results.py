"""Results by key: what is written comes back in any process, the last write counts, and writers lose nothing."""

from __future__ import annotations

import multiprocessing
import random
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from servers import Storage

from prefect_snapshots import Repository
from prefect_snapshots.repository.reserve import RESERVE
from prefect_snapshots.results import ResultLog


def size_of(directory: Path) -> int:
    """Bytes of all files, but for the reserve that prune keeps for a full disk."""
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file() and file.name != RESERVE)


@pytest.fixture
def repository(storage: Storage) -> Repository:
    return Repository(storage.url, storage_options=storage.storage_options)


@pytest.mark.parametrize("size", [0, 10, 200_000])
def test_results_come_back_in_another_process(repository: Repository, storage: Storage, size: int) -> None:
    data = random.Random(size).randbytes(size)
    ResultLog(repository).write("a/key with spaces.json", data)
    elsewhere = ResultLog(Repository(storage.url, storage_options=storage.storage_options))
    assert elsewhere.read("a/key with spaces.json") == data
    assert elsewhere.exists("a/key with spaces.json")


def test_the_latest_write_of_a_key_counts(repository: Repository) -> None:
    log, rival = ResultLog(repository), ResultLog(repository)
    log.write("key", b"first")
    assert rival.read("key") == b"first"
    rival.write("key", b"second")
    assert log.read("key") == b"second"
    assert log.keys() == ["key"]


def test_a_missing_result_is_a_missing_file(repository: Repository) -> None:
    log = ResultLog(repository)
    assert not log.exists("key")
    assert log.keys() == []
    with pytest.raises(FileNotFoundError, match="There is no result 'key'"):
        log.read("key")
    assert not repository.exists(), "reading creates no repository"


def test_names_keep_equal_keys_apart(repository: Repository) -> None:
    ResultLog(repository, "values").write("key", b"value")
    ResultLog(repository, "keys").write("key", b"key")
    assert ResultLog(repository, "values").read("key") == b"value"
    assert ResultLog(repository, "values").keys() == ["key"]
    assert ResultLog(repository).keys() == []


def test_overwritten_results_are_freed(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "repository")
    log = ResultLog(repository)
    random_bytes = random.Random(0).randbytes
    for _ in range(3):
        log.write("key", random_bytes(1_000_000))
    assert size_of(tmp_path) > 3_000_000
    repository.prune(grace=0)
    assert size_of(tmp_path) < 1_100_000
    assert len(log.read("key")) == 1_000_000
    assert repository.check(read_data=True).ok


def test_expire_deletes_what_is_older(tmp_path: Path) -> None:
    log = ResultLog(Repository(tmp_path / "repository"))
    for number in range(20):
        log.write(f"old-{number}", b"old")
    between = datetime.now(UTC)
    log.write("old-0", b"new")
    assert log.expire(between - timedelta(days=1)) == []
    old = sorted(f"old-{number}" for number in range(1, 20))
    found = log.older_than(between)
    assert [(result.key, result.size) for result in found] == [(key, 3) for key in old]
    assert all(result.written_at < between for result in found)
    assert log.expire(between) == old
    assert log.keys() == ["old-0"]
    assert log.read("old-0") == b"new"
    assert ResultLog(Repository(tmp_path / "repository")).keys() == ["old-0"]


def test_delete_deletes_what_there_is(repository: Repository) -> None:
    log = ResultLog(repository)
    for key in "abc":
        log.write(key, b"result")
    assert log.delete(["c", "a", "never written"]) == ["a", "c"]
    assert log.keys() == ["b"]


def write_many(url: str, writer: int) -> None:
    log = ResultLog(Repository(url))
    for number in range(10):
        log.write(f"own-{writer}-{number}", f"{writer}.{number}".encode())
        log.write("shared", f"{writer}.{number}".encode())


def test_concurrent_writers_lose_nothing(tmp_path: Path) -> None:
    url = str(tmp_path / "repository")
    with ProcessPoolExecutor(4, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(write_many, [url] * 4, range(4)))
    log = ResultLog(Repository(url))
    own = {f"own-{writer}-{number}": f"{writer}.{number}".encode() for writer in range(4) for number in range(10)}
    assert log.keys() == sorted([*own, "shared"])
    assert {key: log.read(key) for key in own} == own
    assert log.read("shared").endswith(b".9"), "the last write is the last one of some writer"
