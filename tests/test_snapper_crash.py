"""Runs that are killed, interrupted, or not alone: nothing written is lost, and nothing written is done again.

Every run is a process of its own, which notes each call of its function in a file.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from servers import Storage

from prefect_snapshots.checkpoints import CheckpointManager, Snapper
from prefect_snapshots.repository import Repository

SCRIPT = """
import json, os, sys, time
from prefect_snapshots.checkpoints import Snapper
from prefect_snapshots.repository import Repository

settings = json.loads(sys.argv[1])
calls = os.open(settings["calls"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def process(x):
    os.write(calls, b"%d\\n" % x)
    time.sleep(settings["seconds"] if x != settings["stuck_at"] else 60)
    return x * x

snapper = Snapper(
    range(settings["count"]), process, repository=Repository(settings["url"], storage_options=settings["options"]),
    name="squares", function_version=1, batch_size=settings["batch_size"], max_wait_time=settings["max_wait_time"],
)
print("ready", flush=True)
sys.stdin.readline()
snapper.start()
"""


class Runs:
    """Processes that work on one name."""

    def __init__(self, storage: Storage, directory: Path, **settings: Any) -> None:
        self.repository = Repository(storage.url, storage_options=storage.storage_options)
        self.calls_file = directory / "calls"
        self.settings = {
            "url": storage.url,
            "options": storage.storage_options,
            "calls": str(self.calls_file),
            "count": 300,
            "batch_size": 7,
            "max_wait_time": None,
            "seconds": 0.001,
            "stuck_at": -1,
            **settings,
        }
        self.calls_file.touch()

    @contextmanager
    def one(self) -> Iterator[subprocess.Popen[bytes]]:
        """A process that is ready, and begins when it is told to."""
        command = [sys.executable, "-c", SCRIPT, json.dumps(self.settings)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n", process.communicate()[1].decode()
            try:
                yield process
            finally:
                process.kill()

    def go(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()

    def wait(self, process: subprocess.Popen[bytes]) -> None:
        assert process.wait(120) == 0, process.communicate()[1].decode()

    @property
    def calls(self) -> list[int]:
        return [int(line) for line in self.calls_file.read_text().splitlines()]

    def wait_for_call(self, item: int) -> None:
        until = time.monotonic() + 60
        while item not in self.calls:
            assert time.monotonic() < until
            time.sleep(0.005)

    def snapper(self) -> Snapper[int, int]:
        items = range(self.settings["count"])
        return Snapper(items, abs, repository=self.repository, name="squares", function_version=1)

    def done(self) -> list[int]:
        """The items whose results anybody can see."""
        return [item for item, found in enumerate(self.snapper().load(missing=None)) if found is not None]

    def check(self) -> None:
        """Every item has exactly one result, and it is the right one."""
        expected = [item * item for item in range(self.settings["count"])]
        assert self.snapper().load() == expected
        assert sorted(self.snapper().load_all()) == expected
        assert self.repository.check(read_data=True).ok


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest) -> Storage:
    found: Storage = request.getfixturevalue(f"{request.param}_storage")
    return found


@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=pytest.mark.nightly), 7])
@pytest.mark.parametrize("kills", [5, pytest.param(20, marks=pytest.mark.nightly)])
def test_killed_at_any_moment_nothing_written_is_lost_or_done_again(
    place: Storage, tmp_path: Path, batch_size: int, kills: int
) -> None:
    moments = random.Random(batch_size)
    runs = Runs(place, tmp_path, batch_size=batch_size, seconds=0.002, count=400)
    for _ in range(kills):
        before, calls = runs.done(), len(runs.calls)
        with runs.one() as process:
            runs.go(process)
            time.sleep(moments.uniform(0.001, 0.15))
            process.kill()
        assert not set(runs.calls[calls:]) & set(before)
        assert set(before) <= set(runs.done())
        lost = Counter(runs.calls[calls:]).keys() - set(runs.done())
        assert len(lost) <= batch_size
    before, calls = runs.done(), len(runs.calls)
    with runs.one() as process:
        runs.go(process)
        runs.wait(process)
    assert not set(runs.calls[calls:]) & set(before)
    runs.check()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_writes_what_is_done_even_while_an_item_takes_long(
    place: Storage, tmp_path: Path, number: signal.Signals
) -> None:
    runs = Runs(place, tmp_path, batch_size=1000, stuck_at=50)
    with runs.one() as process:
        runs.go(process)
        runs.wait_for_call(50)
        asked = time.monotonic()
        process.send_signal(number)
        code = process.wait(60)
    assert time.monotonic() - asked < 10
    assert code == -number
    assert runs.done() == list(range(50))


def test_a_kill_loses_no_more_than_the_time_says(local_storage: Storage, tmp_path: Path) -> None:
    runs = Runs(local_storage, tmp_path, batch_size=1000, max_wait_time=0.2, stuck_at=50)
    with runs.one() as process:
        runs.go(process)
        runs.wait_for_call(50)
        time.sleep(1)
        process.kill()
    assert runs.done() == list(range(50))


def test_two_processes_share_the_work(place: Storage, tmp_path: Path) -> None:
    runs = Runs(place, tmp_path, count=2000, batch_size=20)
    with runs.one() as first, runs.one() as second:
        runs.go(first)
        runs.go(second)
        runs.wait(first)
        runs.wait(second)
    runs.check()
    twice = len(runs.calls) - 2000
    # Where files can be locked nothing is done twice; elsewhere a process claims nothing before it knows of the other.
    assert twice <= (0 if runs.repository.location.is_local else 2 * 20)
    [row] = CheckpointManager(runs.repository).list_checkpoints()
    assert row.segments == 2, "one of the two did everything"


def test_a_crash_of_one_does_not_stop_the_other(place: Storage, tmp_path: Path) -> None:
    runs = Runs(place, tmp_path, count=600, batch_size=10)
    with runs.one() as first, runs.one() as second:
        runs.go(first)
        runs.go(second)
        runs.wait_for_call(100)
        second.kill()
        runs.wait(first)
    runs.check()


def test_a_paused_process_does_not_stop_the_other(local_storage: Storage, tmp_path: Path) -> None:
    runs = Runs(local_storage, tmp_path, count=200, batch_size=10, seconds=0.005)
    with runs.one() as first, runs.one() as second:
        runs.go(first)
        runs.wait_for_call(15)
        first.send_signal(signal.SIGSTOP)
        runs.go(second)
        runs.wait(second)
        runs.check()
        first.send_signal(signal.SIGCONT)
        runs.wait(first)
    runs.check()
    assert len(runs.calls) <= 200 + 2 * 10


def test_a_forked_child_does_not_disturb_the_parent(local_storage: Storage) -> None:
    code = f"""
        import os
        from prefect_snapshots.checkpoints import Snapper
        def process(x):
            if x == 5 and os.fork() == 0:
                os._exit(0)
            return x
        snapper = Snapper(range(20), process, repository={local_storage.url!r}, name="squares", function_version=1)
        snapper.start()
        assert snapper.load() == list(range(20))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, env={**os.environ}, timeout=60)
