"""A process that will be stopped saves first, and then ends as it would have."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefect_snapshots import PreemptionWatch, SnapshotManager
from prefect_snapshots.errors import InvalidArgument

PROGRAM = """
    import sys
    from prefect_snapshots import PreemptionWatch, SnapshotManager

    manager = SnapshotManager(sys.argv[1], name="train")
    with PreemptionWatch() as watch:
        print("training", flush=True)
        for line in sys.stdin:
            if watch.reached(int(line)):
                manager.save_snapshot({"step": int(line)}, "last")
                break
            print("step", flush=True)
    print("survived", flush=True)
"""


@pytest.fixture
def stopped() -> Iterator[list[int]]:
    """The signals that the handler of before has got, as that of Prefect does."""
    got: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: got.append(number))
    yield got
    signal.signal(signal.SIGTERM, before)


def test_the_signal_is_kept_until_the_block_ends(stopped: list[int]) -> None:
    with PreemptionWatch() as watch:
        assert not watch.reached(0)
        os.kill(os.getpid(), signal.SIGTERM)
        assert watch.reached(1)
        assert stopped == []
    assert stopped == [signal.SIGTERM]
    os.kill(os.getpid(), signal.SIGTERM)
    assert len(stopped) == 2


def test_without_a_signal_nothing_happens(stopped: list[int]) -> None:
    for _ in range(2):
        with PreemptionWatch() as watch:
            assert not watch.reached(0)
    assert stopped == []


def test_an_error_in_the_block_keeps_its_place(stopped: list[int]) -> None:
    with pytest.raises(ZeroDivisionError), PreemptionWatch():
        os.kill(os.getpid(), signal.SIGTERM)
        raise ZeroDivisionError
    assert stopped == [signal.SIGTERM]


def test_a_second_signal_is_not_kept(stopped: list[int]) -> None:
    with PreemptionWatch():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopped == [signal.SIGTERM]


def test_only_the_main_thread_gets_signals() -> None:
    errors = []

    def enter() -> None:
        try:
            PreemptionWatch().__enter__()
        except InvalidArgument as error:
            errors.append(str(error))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert len(errors) == 1
    assert "main thread" in errors[0]


def test_a_program_saves_and_then_ends_by_the_signal(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "training\n"
        print(1, file=process.stdin)
        assert process.stdout.readline() == "step\n"
        process.send_signal(signal.SIGTERM)
        print(2, file=process.stdin)
        assert process.stdout.read() == ""
        assert process.wait() == -signal.SIGTERM
    assert SnapshotManager(tmp_path, name="train").load_snapshot("last") == {"step": 2}
