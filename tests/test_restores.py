"""A restore destroys nothing before the replacement stands, and whatever ends it, it is finished or taken back.

Held here: every step of a restore at which a process is killed or told to end; what errors say of new, old and mixed
parts; parts that would claim one file; partial restores of several paths; dry runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROCESS = Path(__file__).parent / "restoring_process.py"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with a few files, to be backed up."""
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    for name in ("one", "two", "sub/three"):
        (folder / name).write_text("old")
    return folder


def write(folder: Path, text: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_text(text)


def texts(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


# --- every step ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signal", ["SIGKILL", "SIGTERM"])
def test_a_restore_that_is_ended_at_any_step_can_be_finished(tmp_path: Path, signal: str) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    (tmp_path / "place").mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary)}
    command = [sys.executable, str(PROCESS), str(tmp_path / "place"), signal]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 30, "too few steps were seen"
