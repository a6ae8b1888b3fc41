"""What was committed is there and readable, wherever a process was killed, and however long one was stopped."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from servers import Storage
from toy_kind import ToyKind
from writers import body_of

from prefect_snapshots.repository import Repository

WRITERS = Path(__file__).parent / "writers.py"


class Writer:
    """One process of `writers.py`, whose output is kept in a file that outlives it."""

    def __init__(self, output: Path, *arguments: str) -> None:
        self._output = output
        with output.open("wb") as stream:
            self.process = subprocess.Popen([sys.executable, str(WRITERS), *arguments], stdout=stream)

    def lines(self) -> list[str]:
        """The lines that it printed whole."""
        return self._output.read_text().rpartition("\n")[0].splitlines()

    def wait_for(self, lines: int) -> None:
        """Wait until it has printed so many lines."""
        deadline = time.monotonic() + 120
        while len(self.lines()) < lines:
            assert self.process.poll() is None, "it ended by itself"
            assert time.monotonic() < deadline, "it came to nothing"
            time.sleep(0.005)

    def kill(self) -> None:
        """Kill it as the system would, when memory runs out or power fails."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def promised(*writers: Writer) -> set[str]:
    """The items that were reported committed, and not about to be removed."""
    lines = [line.split() for writer in writers for line in writer.lines()]
    return {item for verb, item in lines if verb == "put"} - {item for verb, item in lines if verb == "removing"}


def verify(repository: Repository, name: str, items: set[str]) -> None:
    """All these items are there, with the right bytes, and the repository is sound."""
    toy = ToyKind(repository, name)
    missing = items - toy.items.keys()
    assert not missing
    for item in toy.items:
        assert toy.get(item) == body_of(int(item.removeprefix("item-"))), item


def kill_again_and_again(url: str, tmp_path: Path, kills: int, seed: int) -> None:
    """Kill a writer at random moments, every third time with a prune beside it that is killed too."""
    chance = random.Random(seed)
    kept: set[str] = set()
    for round_number in range(kills):
        first = round_number * 10_000
        writer = Writer(tmp_path / f"writer-{round_number}", "commit", url, "shelf", str(first), "-1")
        writer.wait_for(chance.randrange(1, 12))
        pruner = Writer(tmp_path / f"pruner-{round_number}", "prune", url) if round_number % 3 == 0 else None
        if pruner is not None:
            time.sleep(chance.uniform(0.2, 0.8))
        time.sleep(chance.uniform(0, 0.02))
        writer.kill()
        if pruner is not None:
            pruner.kill()
        kept |= promised(writer)
        if round_number % 5 == 4 or round_number == kills - 1:
            repository = Repository(url)
            verify(repository, "shelf", kept)
            report = repository.check(read_data=True)
            assert report.ok, report.problems


@pytest.mark.timeout(280)
def test_a_process_may_be_killed_at_any_moment(tmp_path: Path) -> None:
    kill_again_and_again(str(tmp_path / "repository"), tmp_path, kills=12, seed=1)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_a_process_may_be_killed_at_any_of_200_moments(tmp_path: Path) -> None:
    kill_again_and_again(str(tmp_path / "repository"), tmp_path, kills=200, seed=int(time.time()))


def test_a_writer_may_be_stopped_for_longer_than_a_prune(tmp_path: Path) -> None:
    url = str(tmp_path / "repository")
    writers = [
        Writer(tmp_path / f"writer-{number}", "commit", url, "shelf", str(number * 10**7), "-1") for number in range(3)
    ]
    try:
        for writer in writers:
            writer.wait_for(3)
        repository = Repository(url)
        for round_number in range(6):
            stopped = writers[round_number % 3]
            stopped.process.send_signal(signal.SIGSTOP)
            repository.prune(grace=0)
            repository.prune(grace=0)
            before = len(stopped.lines())
            stopped.process.send_signal(signal.SIGCONT)
            stopped.wait_for(before + 3)
    finally:
        for writer in writers:
            writer.kill()
    verify(Repository(url), "shelf", promised(*writers))
    report = Repository(url).check(read_data=True)
    assert report.ok, report.problems


def count_versions(url: str, options: dict[str, object], tmp_path: Path, writers: int, commits: int) -> None:
    """Have processes commit to one name at once: every commit is there, once, in one gapless chain."""
    started = [
        Writer(tmp_path / f"writer-{n}", "commit", url, "one", str(n * 10_000), str(commits), json.dumps(options))
        for n in range(writers)
    ]
    for writer in started:
        assert writer.process.wait(timeout=280) == 0
    toy = ToyKind(Repository(url, storage_options=options), "one")
    puts = [event for event in toy.events if event.kind == "put"]
    assert [event.sequence for event in toy.events] == list(range(1, len(toy.events) + 1))
    assert len({event.token for event in toy.events}) == len(toy.events)
    assert len(puts) == len({event.body["id"] for event in puts}) == writers * commits
    assert promised(*started) <= toy.items.keys()


@pytest.mark.timeout(290)
@pytest.mark.parametrize("writers", [6, pytest.param(16, marks=pytest.mark.nightly)])
def test_many_processes_lose_nothing_on_a_local_disk(tmp_path: Path, writers: int) -> None:
    count_versions(str(tmp_path / "repository"), {}, tmp_path, writers=writers, commits=50)


@pytest.mark.timeout(290)
@pytest.mark.nightly
def test_sixteen_processes_lose_nothing_on_s3(s3_storage: Storage, tmp_path: Path) -> None:
    count_versions(s3_storage.url, dict(s3_storage.storage_options), tmp_path, writers=16, commits=50)


@pytest.mark.timeout(290)
@pytest.mark.xdist_group("seaweedfs")
def test_four_processes_lose_nothing_on_seaweedfs(seaweedfs_storage: Storage, tmp_path: Path) -> None:
    count_versions(seaweedfs_storage.url, dict(seaweedfs_storage.storage_options), tmp_path, writers=4, commits=10)
