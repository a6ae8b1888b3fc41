"""What a person sees in a terminal while a flow runs, and what a pipe gets instead."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL

pytestmark = pytest.mark.xdist_group("prefect")

CORPUS = """
import os, sys, time
from prefect import flow
from prefect_snapshots import checkpointed

@checkpointed(batch_size=20, skip_item_errors=True, max_retries=0, function_version=1)
def tokenise(number):
    time.sleep(float(sys.argv[2]))
    while number == int(sys.argv[1]) - 1 and len(sys.argv) > 3 and not os.path.exists(sys.argv[3]):
        time.sleep(0.05)
    if number % 70 == 5:
        raise ValueError("bad")
    return number

@flow
def corpus():
    return tokenise.map(range(int(sys.argv[1])))

if __name__ == "__main__":
    corpus()
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.py"
    path.write_text(CORPUS)
    return path


def environment(tmp_path: Path) -> dict[str, str]:
    """Those of a person who has a server, and a terminal."""
    wanted = {"PREFECT_API_URL": str(PREFECT_API_URL.value()), "PREFECT_UI_URL": str(PREFECT_UI_URL.value())}
    wanted |= {"TERM": "xterm-256color", "PREFECT_INTEGRATIONS_SNAPSHOTS_REPOSITORY": str(tmp_path / "repository")}
    return {**{key: value for key, value in os.environ.items() if key != "CI"}, **wanted}


def in_terminal(tmp_path: Path, *command: str, until: str = "", then: Path | int = 0) -> tuple[int, str]:
    """Run a command in a terminal, and return its status and its output.

    When it shows `until`, it gets the signal `then`, or the file `then` is made, for which it waits.
    """
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
    process = subprocess.Popen(
        [sys.executable, *command], stdin=follower, stdout=follower, stderr=follower, env=environment(tmp_path)
    )
    os.close(follower)
    shown = b""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        if select.select([leader], [], [], 1)[0]:
            try:
                shown += os.read(leader, 1 << 16)
            except OSError:  # the terminal is closed: the process has ended
                break
            if until and re.search(until, plain(shown)):
                then.touch() if isinstance(then, Path) else os.kill(process.pid, then)
                until = ""
    os.close(leader)
    try:
        return process.wait(30), plain(shown)
    finally:
        process.kill()  # whatever still runs did not end as the test expects


def plain(shown: bytes) -> str:
    """Return what a terminal shows, without control codes."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode(errors="replace"))


def test_a_terminal_shows_a_live_line_and_no_line_for_each_batch(
    tmp_path: Path, script: Path, prefect_server: str
) -> None:
    # The last item ends when the line has shown everything, so that neither a fast nor a busy machine misses it.
    line = r"tokenise [━╸╺]+ [\d,]+ of 1,600 items, [\d,.]+/s, \d+ s left, \d+ failed"
    seen = tmp_path / "seen"
    status, shown = in_terminal(tmp_path, str(script), "1600", "0.05", str(seen), until=line, then=seen)
    assert status == 0
    assert re.search(line, shown)
    assert "tokenise[" not in shown, "the line has counted them"
    assert "1,577 done now, 23 failed now." in shown


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.nightly)])
def test_an_interrupt_says_what_is_kept_and_shows_no_traceback(
    tmp_path: Path, script: Path, prefect_server: str, number: int
) -> None:
    status, shown = in_terminal(tmp_path, str(script), "9000", "0.05", until=r"[1-9]\d* of 9,000 items", then=number)
    assert status == -number
    kept = re.search(r"tokenise was interrupted\. ([\d,]+) results are stored in \S+ Run it again", shown)
    assert kept
    assert "Traceback" not in shown
    assert shown.count("was interrupted") == 1
    count = subprocess.run(
        [sys.executable, "-c", COUNT], env=environment(tmp_path), capture_output=True, text=True, check=True
    ).stdout
    assert int(count) >= int(kept[1].replace(",", ""))


COUNT = """
from prefect_snapshots.checkpoints import CheckpointManager
import os
print(CheckpointManager(os.environ["PREFECT_INTEGRATIONS_SNAPSHOTS_REPOSITORY"]).list_checkpoints()[0].done)
"""


def test_a_pipe_gets_no_control_codes(tmp_path: Path, script: Path, prefect_server: str) -> None:
    command = [sys.executable, str(script), "60", "0"]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stderr + done.stdout
    assert "━" not in done.stderr
    assert "tokenise[0-19]" in done.stderr


def test_an_interrupted_backup_is_one_line(
    tmp_path: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_SNAPSHOTS_ALLOW_COMMANDS", "true")
    (tmp_path / "backup.py").write_text(
        "from prefect_snapshots.flows import create_backup\n"
        "create_backup(directories=['.'], before=[['sh', '-c', 'sleep 60']])\n"
    )
    status, shown = in_terminal(tmp_path, str(tmp_path / "backup.py"), until="Backup of default", then=signal.SIGINT)
    assert status == -signal.SIGINT
    assert "The run was interrupted. What was complete is stored, and nothing is stored in part." in shown
    assert "Traceback" not in shown


SAVING = """
import sys
import numpy
from prefect import flow
from prefect_snapshots import Repository, save_snapshot
from prefect_snapshots.integration import reporter
from prefect_snapshots.repository.handing_over import limited

reporter.LONG = 0.1

@flow
def train():
    slow = limited(Repository(sys.argv[1]), 8_000_000)
    save_snapshot(numpy.random.default_rng(0).bytes(24_000_000), "large", repository=slow)

train()
"""


def test_a_large_save_shows_how_far_it_is(tmp_path: Path, prefect_server: str) -> None:
    (tmp_path / "train.py").write_text(SAVING)
    status, shown = in_terminal(tmp_path, str(tmp_path / "train.py"), str(tmp_path / "r"))
    assert status == 0
    assert re.search(r"Save of default [━╸╺]+ [\d.]+ MB of 24\.0 MB, [\d.]+ MB/s, \d+ s left", shown)


COMMANDS = """
import sys
from prefect_snapshots.cli.program import run

for words in sys.argv[1:]:
    sys.argv = ["prefect-snapshots", "-r", "repository", *words.split()]
    print(f"$ {words}", flush=True)
    assert run() == 0
"""


def test_commands_show_how_far_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "commands.py").write_text(COMMANDS)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_bytes(bytes(100_000))
    wanted = {
        "backups create --directory data": r"backing up [━╸╺]+ 100\.0 kB",
        "backups restore latest --directory data --yes": r"restoring [━╸╺]+ 100 %",
        "backups drill --directory data": r"drilling [━╸╺]+ 100 %",
        "copy repository copied": r"copying [━╸╺]+ 100 %",
        "check --read-data": r"reading [━╸╺]+ 100 %",
        "prune": r"done [━╸╺]+ 100 %",
    }
    status, shown = in_terminal(tmp_path, "commands.py", *wanted)
    assert status == 0, shown
    _, *parts = shown.split("$ ")
    for (command, line), part in zip(wanted.items(), parts, strict=True):
        assert part.startswith(command)
        assert re.search(line, part), part
