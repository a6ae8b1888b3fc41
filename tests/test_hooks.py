"""Hooks run before and after, are told how it went, and undo nothing that is done."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from flat_database import Flat

from prefect_snapshots import BackupManager
from prefect_snapshots.backups import HookCall, Hooks
from prefect_snapshots.errors import BackupFailed, InvalidArgument, RestoreFailed

FAILS = ["sh", "-c", r"printf 'no\ndisk\033[2J\n'; exit 7"]


@pytest.fixture
def flat(tmp_path: Path) -> Flat:
    flat = Flat(tmp_path / "flat")
    flat.path.write_text("a\nb\n")
    return flat


def managed(flat: Flat, **hooks: Any) -> BackupManager:
    return BackupManager(flat.path.parent / "repository", name="shop", databases=[flat], hooks=Hooks(**hooks))


def test_hooks_are_told_what_happens(flat: Flat) -> None:
    log = flat.path.with_name("log")
    tell = 'echo "$PREFECT_SNAPSHOTS_HOOK,$PREFECT_SNAPSHOTS_MANAGER,$PREFECT_SNAPSHOTS_BACKUP,'
    tell += f'$PREFECT_SNAPSHOTS_RESULT,$PREFECT_SNAPSHOTS_ERROR" >> {log}'
    calls: list[HookCall] = []
    names = "before_backup", "after_backup", "before_restore", "after_restore"
    manager = managed(flat, **{name: [["sh", "-c", tell], calls.append] for name in names})
    manager.create_backup(dry_run=True)
    backup = manager.create_backup("x")
    manager.restore_backup(backup.name, dry_run=True)
    assert manager.restore_backup(backup.name, confirm=True, safety=False).failed_hooks == ()
    flat.fail_after = 0
    with pytest.raises(BackupFailed, match="went away"):
        manager.create_backup()
    error = f"{flat.name}: the server went away"
    assert calls == [
        HookCall("before_backup", "shop"),
        HookCall("after_backup", "shop", backup.name, "succeeded"),
        HookCall("before_restore", "shop", backup.name),
        HookCall("after_restore", "shop", backup.name, "succeeded"),
        HookCall("before_backup", "shop"),
        HookCall("after_backup", "shop", result="failed", error=error),
    ]
    told = [f"{each.hook},{each.manager},{each.backup},{each.result},{each.error}" for each in calls]
    assert log.read_text().splitlines() == told


@pytest.mark.parametrize("error", ["quoted \0 \ud800 " + "x" * 200_000, ""], ids=["long", "empty"])
def test_any_error_can_be_told(flat: Flat, error: str) -> None:
    def fail(_: HookCall) -> None:
        raise KeyboardInterrupt(error)

    seen = flat.path.with_name("seen")
    manager = managed(flat, before_backup=[fail], after_backup=[["sh", "-c", f"env > {seen}"]])
    with pytest.raises(KeyboardInterrupt):
        manager.create_backup()
    assert f"PREFECT_SNAPSHOTS_ERROR={'quoted  ' if error else 'KeyboardInterrupt'}" in seen.read_text()


def test_a_hook_before_stops_everything_but_the_hooks_after(flat: Flat) -> None:
    calls: list[HookCall] = []
    after = {"after_backup": [calls.append, FAILS, calls.append], "after_restore": [calls.append]}
    manager = managed(flat, before_backup=[FAILS, calls.append], before_restore=[["no-such-program"]], **after)
    with pytest.raises(BackupFailed, match="because the hook sh failed with exit code 7: no disk") as failure:
        manager.create_backup()
    assert failure.value.__notes__ == [r"After the backup, the hook sh failed with exit code 7: no disk\x1b[2J"]
    assert [call.result for call in calls] == ["failed", "failed"]
    assert manager.list_backups() == []
    manager.hooks = Hooks()
    backup = manager.create_backup()
    manager.hooks = Hooks(before_restore=[["no-such-program"]], after_restore=[calls.append])
    flat.path.write_text("c\n")
    with pytest.raises(RestoreFailed, match="Nothing was changed, because the hook no-such-program cannot be run"):
        manager.restore_backup(backup.name, confirm=True)
    assert (flat.path.read_text(), flat.restores, calls[-1].hook) == ("c\n", 0, "after_restore")


def test_a_hook_after_is_reported(flat: Flat) -> None:
    def fail(_: HookCall) -> None:
        raise ValueError("is away")

    manager = managed(flat, after_backup=[FAILS, fail], after_restore=[fail])
    backup = manager.create_backup()
    assert [each.partition(", ")[2] for each in backup.failed_hooks] == [
        r"the hook sh failed with exit code 7: no disk\x1b[2J",
        f"the hook {fail.__qualname__} raised ValueError('is away').",
    ]
    assert len(manager.restore_backup("latest", confirm=True, safety=False).failed_hooks) == 1
    assert manager.get_backup(backup.name) == manager.get_backup("latest")


def test_a_hook_that_takes_too_long_is_killed_with_its_children(flat: Flat) -> None:
    child = flat.path.with_name("child")
    hook = ["sh", "-c", f"sleep 600 & echo $! > {child}; wait"]
    with pytest.raises(BackupFailed, match=r"took longer than 0\.5 seconds and was killed"):
        managed(flat, before_backup=[hook], timeout=0.5).create_backup()
    status = Path(f"/proc/{child.read_text().strip()}/stat")
    deadline = time.monotonic() + 30
    while status.exists() and status.read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_hook_of_another_user_goes_on_and_this_is_said() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    nobody, setpriv = 65534, shutil.which("setpriv")
    assert setpriv is not None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        sudo, running = folder / "sudo", folder / "running"
        shutil.copy(setpriv, sudo)
        sudo.chmod(0o4755)
        hook = [
            str(sudo),
            "--reuid",
            "0",
            "sh",
            "-c",
            f"echo $$ > {running}.new; mv {running}.new {running}; sleep 600",
        ]
        manager = BackupManager("memory://sudo", directories=[folder], hooks=Hooks(before_backup=[hook]))

        def waiting() -> bool:
            """Whether the hook runs and is waited for: before that, an interrupt would hit `Popen` itself."""
            frame = sys._current_frames()[threading.main_thread().ident or 0]
            while frame.f_back and frame.f_code is not subprocess.Popen.wait.__code__:
                frame = frame.f_back
            return running.exists() and frame.f_back is not None

        def interrupt() -> None:
            while not waiting():
                time.sleep(0.01)
            signal.raise_signal(signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        os.setresuid(nobody, nobody, 0)
        try:
            thread.start()
            with pytest.raises(KeyboardInterrupt) as stopped:
                manager.create_backup()
        finally:
            os.setresuid(0, 0, 0)
        thread.join()
        os.killpg(int(running.read_text()), signal.SIGKILL)
        assert "It may still be running" in stopped.value.__notes__[0]


def test_ctrl_c_in_a_hook_ends_no_other(flat: Flat) -> None:
    def stop(_: HookCall) -> None:
        raise KeyboardInterrupt

    calls: list[HookCall] = []
    with pytest.raises(KeyboardInterrupt):
        managed(flat, after_backup=[stop, calls.append]).create_backup()
    assert [call.result for call in calls] == ["succeeded"]


def test_an_asynchronous_hook_is_not_taken_for_one_that_ran(flat: Flat) -> None:
    async def stop_service(_: HookCall) -> None: ...

    with pytest.raises(BackupFailed, match="stop_service is asynchronous and was not run"):
        managed(flat, before_backup=[stop_service]).create_backup()


def test_hooks_after_learn_that_a_server_cannot_be_listed(tmp_path: Path) -> None:
    calls: list[HookCall] = []
    url = f"postgresql://nobody@localhost/*?host={tmp_path}"
    manager = BackupManager("memory://listed", databases=[url], hooks=Hooks(after_backup=[calls.append]))
    with pytest.raises(BackupFailed):
        manager.create_backup()
    assert [call.result for call in calls] == ["failed"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"before_backup": ["systemctl", "stop", "shop"]},
        {"after_backup": "stop"},
        {"before_restore": [[]]},
        {"after_restore": [["stop", 1]]},
        {"timeout": 0},
        {"timeout": "10"},
    ],
    ids=str,
)
def test_hooks_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        Hooks(**wrong)


def test_hooks_are_an_object() -> None:
    with pytest.raises(InvalidArgument, match=r"Hooks\(before_backup="):
        BackupManager("memory://wrong", directories=["."], hooks={"before_backup": [["true"]]})  # type: ignore[arg-type]
