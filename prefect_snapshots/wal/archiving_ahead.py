"""Archive the WAL of a server in a running process, so that its archive_command is only a small shell script.

PostgreSQL is the spool: it keeps each segment, durably and across crashes, until archive_command has succeeded, and
names those that wait in `pg_wal/archive_status`. The process archives them ahead, in their order. For each one that the
archive has, it leaves an acknowledgment in a folder, and the script only looks whether that is there. So a success
always means that the segment is in the repository, and a segment is never copied on the same disk.

An acknowledgment is for one file: its time of modification is a second after that of the segment. The script takes it
only if it is newer than the segment, so one that was left behind by a kill does not count for other bytes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ..errors import InvalidArgument, WalRefused
from ..messages import logger
from ..private_files import create_file, why_forgeable
from ..repository.repository import Repository
from ..repository.times import from_nanoseconds
from .archiving import WalArchive
from .names_and_headers import system_of

_SCRIPT = """#!/bin/sh
# archive_command of PostgreSQL: succeeds when the segment is in the repository.
name={folder}/${{1##*/}}
tries=0
until [ "$name.archived" -nt "$1" ]; do
    if [ -e "$name.failed" ]; then
        cat "$name.failed" >&2
        exit 1
    fi
    tries=$((tries + 1))
    if [ $tries -gt {tries} ]; then
        echo "$1 is not archived yet. Is 'prefect-snapshots wal archive' running? PostgreSQL tries again." >&2
        exit 1
    fi
    sleep {pause}
done
"""
_TRIES, _PAUSE = 600, 0.05
"""How often the script looks, and the seconds between two looks. A server that stops waits for the script."""
_LEFT = re.compile(r"[0-9A-F]{8}[0-9A-F.a-z]{0,60}\.(archived|failed)(\.new)?")
_IDLE = 0.05
"""Seconds between two looks for new segments."""
_SLOWEST = 30.0
"""The most seconds between two attempts after errors."""
_SHOWN = 2000
"""Characters of an error in the log of the server."""


@dataclass(frozen=True, slots=True)
class WaitingWal:
    """The files of a server that wait to be archived.

    Attributes:
        system: The system identifier of the server.
        files: How many there are.
        oldest: When the first of them was complete. None if none waits.
    """

    system: str
    files: int
    oldest: datetime | None


def waiting_wal(data: str | os.PathLike[str]) -> WaitingWal:
    """Return the files of a server that wait to be archived, whichever way it archives them.

    Args:
        data: The data directory of the server.

    Raises:
        InvalidArgument: It is not a data directory, or cannot be read.
    """
    place = Path(data)
    system = system_of(place / "pg_wal" / "x")
    if system is None:
        raise InvalidArgument(
            f"{place} is not a data directory of PostgreSQL that you can read: it has no global/pg_control."
        )
    times = [time for _, time in _ready(place)]
    return WaitingWal(str(system), len(times), from_nanoseconds(min(times)) if times else None)


class WalArchiver:
    """Archive what a server has ready, and acknowledge it to the script that is its archive_command.

    Args:
        repository: Where the WAL is stored.
        data: The data directory of the server.
        folder: A folder for the script and the acknowledgments, which the user of the server can read. It is created.
            Nobody else may be able to write to it: they could acknowledge what is not archived.

    Example:
        >>> from prefect_snapshots import Repository
        >>> from prefect_snapshots.wal import WalArchiver
        >>> WalArchiver(Repository("memory://example-archiver"), "/var/lib/postgresql/15/main", "/var/lib/wal").command
        '/var/lib/wal/push %p'
    """

    def __init__(self, repository: Repository, data: str | os.PathLike[str], folder: str | os.PathLike[str]) -> None:
        self.repository = repository
        self.data = Path(data).absolute()
        self.folder = Path(folder).absolute()
        self._archive: WalArchive | None = None

    @property
    def command(self) -> str:
        """The archive_command of the server."""
        return f"{shlex.quote(str(self.folder / 'push'))} %p"

    def run(self, ending: threading.Event | None = None) -> None:
        """Archive until `ending` is set, or forever. Errors are logged, shown to the server, and tried again.

        Args:
            ending: Ends it, after the segment that is being archived.

        Raises:
            WalRefused: Another process archives with the same folder.
            InvalidArgument: The data directory is none, or others can write to the folder.
        """
        ending = ending or threading.Event()
        pause = _IDLE
        with self._prepared():
            while not ending.wait(pause):
                try:
                    self._archive_ready(ending)
                    pause = _IDLE
                except Exception as error:
                    logger.warning("The WAL could not be archived, and will be tried again: %s", error)
                    pause = min(_SLOWEST, max(1.0, pause * 2))

    def archive_ready(self) -> list[str]:
        """Archive what the server has ready now.

        Returns:
            The names of the files, sorted.

        Raises:
            WalRefused: Another process archives with the same folder, or a file is not what its name says.
            StorageError: The storage failed. The server keeps the rest, and tries again.
        """
        with self._prepared():
            return self._archive_ready(threading.Event())

    @contextlib.contextmanager
    def _prepared(self) -> Iterator[None]:
        waiting_wal(self.data)
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        if (why := why_forgeable(self.folder, self.data)) is not None:
            raise InvalidArgument(
                f"{self.folder} {why}: the server would run their program, and delete WAL that is not archived. "
                "Nothing was changed. Name another folder, or correct its owner and permissions."
            )
        # The owner of the data may write here, too, and must not lead this process elsewhere by a link.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(self.folder / "lock", flags, 0o600), "r+b") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise WalRefused(f"Another process archives with {self.folder}. End it first.") from None
            for name in os.listdir(self.folder):
                if _LEFT.fullmatch(name):
                    (self.folder / name).unlink()
            script = _SCRIPT.format(folder=shlex.quote(str(self.folder)), tries=_TRIES, pause=_PAUSE)
            self._leave("push", script.encode(), 0o755)
            yield

    def _archive_ready(self, ending: threading.Event) -> list[str]:
        ready = [name for name, _ in _ready(self.data)]
        done = {name.removesuffix(".archived") for name in os.listdir(self.folder) if name.endswith(".archived")}
        for name in done.difference(ready):  # the server knows that it is archived
            (self.folder / f"{name}.archived").unlink()
        archived = []
        for name in ready:
            if name not in done and not ending.is_set():
                self._push(name)
                archived.append(name)
        return archived

    def _push(self, name: str) -> None:
        path = self.data / "pg_wal" / name
        try:
            written = path.stat().st_mtime_ns
            if self._archive is None:
                self._archive = WalArchive.of(self.repository, path)
            self._archive.push(path)
        except Exception as error:
            self._archive = None  # the server may be another one now
            self._leave(f"{name}.failed", f"{error}\n"[:_SHOWN].encode(errors="replace"))
            raise
        self._leave(f"{name}.archived", b"", written=written + 1_000_000_000)
        (self.folder / f"{name}.failed").unlink(missing_ok=True)

    def _leave(self, name: str, content: bytes, mode: int = 0o644, *, written: int | None = None) -> None:
        """Write a file that appears with all that it has."""
        part = self.folder / f"{name}.new"
        part.unlink(missing_ok=True)
        with create_file(part) as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            if written is not None:
                os.utime(file.fileno(), ns=(time.time_ns(), written))
        part.replace(self.folder / name)


def _ready(data: Path) -> list[tuple[str, int]]:
    """Return the files that wait, each with the time since when: histories first, then in the order of the WAL."""
    found = []
    with os.scandir(data / "pg_wal" / "archive_status") as entries:
        for entry in entries:
            if entry.name.endswith(".ready"):
                with contextlib.suppress(FileNotFoundError):  # it was archived meanwhile
                    found.append((entry.name.removesuffix(".ready"), entry.stat(follow_symlinks=False).st_mtime_ns))
    return sorted(found, key=lambda each: (not each[0].endswith(".history"), each[0]))
