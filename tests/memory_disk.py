"""Lets the tests work in memory where there is enough of it: they sync thousands of times, for which a disk is slow.

What a process has written outlives its kill there as it does on a disk. What a loss of power destroys, no test can try.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
from pathlib import Path

_DISK = Path("/dev/shm")
_PREFIX = "pss-"  # short, because the sockets of database servers lie below it, whose paths have 107 bytes at most
_NEEDED = 10 << 30  # three times what a run of all tests uses, of which the databases' files are most


def work_in_memory() -> None:
    """Put temporary files there, of this process and those that it starts, unless `TMPDIR` says where."""
    if "TMPDIR" in os.environ or not _has_room():
        return
    _remove_leftovers()
    folder = _DISK / f"{_PREFIX}{os.getpid()}"
    with contextlib.suppress(OSError):  # /dev/shm may be read-only
        folder.mkdir()
        folder.chmod(0o1777)  # as /tmp, because some tests act as another user
        atexit.register(_remove, folder, os.getpid())
        if _does_what_a_disk_does(folder):
            os.environ["TMPDIR"] = str(folder)
            tempfile.tempdir = None


def _has_room() -> bool:
    try:
        memory = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        available = int(memory["MemAvailable"].split()[0]) << 10
        return min(available, shutil.disk_usage(_DISK).free) > _NEEDED
    except (OSError, KeyError):
        return False


def _does_what_a_disk_does(folder: Path) -> bool:
    """Extended attributes and direct writes came to memory with Linux 6.6."""
    file = folder / "tried"
    try:
        file.touch()
        os.setxattr(file, "user.tried", b"")
        os.close(os.open(file, os.O_WRONLY | os.O_DIRECT))
    except OSError:
        return False
    finally:
        file.unlink(missing_ok=True)
    return True


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # and not a fork of it
        shutil.rmtree(folder, ignore_errors=True)


def _remove_leftovers() -> None:
    """Remove the folders of test runs that were killed."""
    for folder in _DISK.glob(f"{_PREFIX}*"):
        if not Path("/proc", folder.name.removeprefix(_PREFIX)).exists() and folder.stat().st_uid == os.getuid():
            shutil.rmtree(folder, ignore_errors=True)
