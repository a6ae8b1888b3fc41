"""Recover a base backup of a PostgreSQL server: build its files beside their place, let a server apply the WAL up to
the target, look whether it works, stop it, and only then move the files to their place.

The server that does this listens on no network, uses none of the configuration in the backup, and ends when this
process is killed. The commands and libraries that such a configuration may name are therefore not run.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from ...arguments import checking_types
from ...errors import BackupFailed, IntegrityError, InvalidArgument, RestoreFailed, ToolMissing
from ...messages import last_words
from ...trees.descriptors import exists, opened, path_of, resolve
from ...wal.answering import answering
from ...wal.names_and_headers import parse_lsn
from ..interruption import closed_undisturbed, deferred
from ..sources import DumpReader
from ..working import folder_beside
from .base import Tool
from .postgresql_facts import CLUSTER, ClusterFacts, conninfo
from .postgresql_files import MANIFEST

_TABLESPACES = "pg_tblspc"
_SET_ASIDE = ("postgresql.auto.conf",)
"""Files that a server reads whatever its command line says. They come back when it has stopped."""
_REMOVED = (CLUSTER, MANIFEST, "tablespace_map", "standby.signal", "recovery.signal", "postmaster.pid")
"""Files that must not be in a recovered server: it would create links that the map names, or stay a standby. What
the manifest says is true before the recovery only."""
_MOST_LOG = 1 << 20
"""Bytes of the log of the server that are read: its last words are what counts."""
_STOPPED = re.compile(r"LOG:  recovery stopping (.*)")
_LAST = re.compile(r"LOG:  last completed transaction was at log time (.*)")
_FATAL = re.compile(r"(?:FATAL|PANIC):  (.*)")
_NOT_YET = re.compile(r"FATAL:  the database system is|(?:failed|to server): (?:No such file|Connection refused)")
"""Words in the errors of clients while a server recovers, or ends because it cannot."""
_PATIENCE = 20.0
"""Seconds after which a server that runs and cannot be talked to counts as broken."""
_SHUTDOWN = 60.0
"""Seconds for a server to stop. It has to write what is in its small cache."""

Fetch = Callable[[str, Path], bool]
"""Writes a file of the WAL to a path. Returns False if the archive does not have it."""


@checking_types
@dataclass(frozen=True, slots=True)
class RecoveryTarget:
    """The point to recover to. Without a time, LSN or name, this is the end of the archive.

    Attributes:
        at: A point in time. Everything that was committed up to it is there, and nothing that was committed later.
        lsn: A position in the WAL, such as "0/3000028".
        name: The name of a restore point, as `pg_create_restore_point` made it.
        timeline: The number of a timeline. None: the latest one in the archive.
        base_only: Stop at the end of the base backup.
    """

    at: datetime | None = None
    lsn: str | None = None
    name: str | None = None
    timeline: int | None = None
    base_only: bool = False

    def __post_init__(self) -> None:
        if sum(given is not None for given in (self.at, self.lsn, self.name)) + self.base_only > 1:
            raise InvalidArgument("A recovery has one target: pass only one of at, to_lsn and to_name.")
        if self.lsn is not None:
            parse_lsn(self.lsn)
        if self.name is not None and (not self.name or len(self.name.encode()) > 63 or "\0" in self.name):
            raise InvalidArgument("The name of a restore point has 1 to 63 bytes.")

    @property
    def text(self) -> str:
        """What a message calls it."""
        if self.at is not None:
            return self.at.isoformat(sep=" ")
        if self.name is not None:
            return f"the restore point {self.name!r}"
        return self.lsn or ("the end of the base backup" if self.base_only else "the end of the archive")

    @property
    def settings(self) -> dict[str, str]:
        """The settings of PostgreSQL that say so."""
        found = {"recovery_target_timeline": "latest" if self.timeline is None else str(self.timeline)}
        if self.at is not None:
            found["recovery_target_time"] = self.at.isoformat(sep=" ")
        if self.lsn is not None:
            found["recovery_target_lsn"] = self.lsn
        if self.name is not None:
            found["recovery_target_name"] = self.name
        if self.base_only:
            found |= {"recovery_target": "immediate", "recovery_target_timeline": "current"}
        return found


@dataclass(frozen=True, slots=True)
class RecoveredCluster:
    """A server that was recovered, worked, and has stopped.

    Attributes:
        timeline: Its new timeline.
        last_commit: The time of the last transaction in it, as PostgreSQL wrote it. None: the WAL had none.
        databases: Its databases, which could all be opened.
    """

    timeline: int
    last_commit: str | None
    databases: tuple[str, ...]


def user_for(folder: Path) -> tuple[int, int] | None:
    """Return the user and group that PostgreSQL runs as, because it refuses to run as root. None: this process's own.

    Raises:
        RestoreFailed: This process is root, and no other user is known.
    """
    if os.geteuid() != 0:
        return None
    status = folder.stat()
    if status.st_uid != 0:
        return status.st_uid, status.st_gid
    try:
        known = pwd.getpwnam("postgres")
    except KeyError:
        raise RestoreFailed(
            f"PostgreSQL does not run as root, and {folder} belongs to root. Nothing was changed. Run the command as "
            "the user of PostgreSQL, or give that user the folder."
        ) from None
    return known.pw_uid, known.pw_gid


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a private folder with a path that is short enough for a socket."""
    with closed_undisturbed() as stack:
        with deferred():
            folder = Path(tempfile.mkdtemp(prefix="recovery-"))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield folder


def build(dump: DumpReader, facts: ClusterFacts, data: Path) -> None:
    """Write the files of a base backup into a new folder. Tablespaces become folders beside it.

    Raises:
        DamagedVersion: A file cannot be verified.
        IntegrityError: There is a link in it, or another special file.
    """
    data.mkdir(mode=0o700)
    dump.extract(data)
    for at, folders, files in os.walk(data):
        for name in (*folders, *files):
            # A link that a stranger has put into the backup could lead anywhere, and root may run this.
            if stat.S_IFMT(os.lstat(os.path.join(at, name)).st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
                raise IntegrityError(
                    f"The base backup is damaged: {os.path.relpath(os.path.join(at, name), data)!r} is neither a file "
                    "nor a folder. Nothing was changed. Use another backup."
                )
    for name in _REMOVED:
        (data / name).unlink(missing_ok=True)
    for name in facts.folders:
        (data / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    spaces = data / _TABLESPACES
    beside = tablespaces_of(data)
    for space in sorted(spaces.iterdir()) if spaces.is_dir() else ():
        beside.mkdir(mode=0o700, exist_ok=True)
        space.rename(beside / space.name)
        space.symlink_to(beside / space.name)


def tablespaces_of(data: Path) -> Path:
    """Return the folder of the tablespaces of a recovered server."""
    return data.with_name(f"{data.name}.tablespaces")


def move(data: Path, directory: Path) -> None:
    """Move a recovered server that has stopped to its place, which does not exist or is empty."""
    beside = tablespaces_of(data)
    if beside.exists():
        with opened(resolve(data) / _TABLESPACES) as folder:
            for name in os.listdir(folder):
                owner = os.lstat(name, dir_fd=folder)
                os.unlink(name, dir_fd=folder)
                os.symlink(tablespaces_of(directory) / name, name, dir_fd=folder)
                os.chown(name, owner.st_uid, owner.st_gid, dir_fd=folder, follow_symlinks=False)
    # Held, these are what they were when they were looked at, whoever renames what is above them. An empty directory is
    # replaced, and a link that is there instead is not.
    with opened(resolve(data.parent)) as source, opened(resolve(directory.parent)) as target:
        for old, new in ((beside, tablespaces_of(directory)), (data, directory)):
            if exists(source, os.fsencode(old.name)):
                os.rename(old.name, new.name, src_dir_fd=source, dst_dir_fd=target)


def run_recovery(
    data: Path, facts: ClusterFacts, target: RecoveryTarget, fetch: Fetch | None, user: tuple[int, int] | None
) -> RecoveredCluster:
    """Let a server recover the files in a folder, promote it, look whether it works, and stop it.

    Args:
        data: The folder, as `build` makes it.
        facts: What the base backup says.
        target: Where to stop.
        fetch: Fetches a file of the WAL. None: only the WAL in the base backup is used.
        user: The user and group of the server, as from `user_for`. They get the files.

    Raises:
        RestoreFailed: The target cannot be reached, or the server does not work.
        ToolMissing: The programs of this version of PostgreSQL are not installed.
    """
    postgres, psql = (_program(name, facts.major) for name in ("postgres", "psql"))
    aside = {name: (data / name).read_bytes() for name in _SET_ASIDE if (data / name).is_file()}
    for name in aside:
        (data / name).unlink()
    (data / "recovery.signal").touch()
    with temporary_folder() as folder, contextlib.ExitStack() as stack:
        command = "false"
        if fetch is not None:
            pipes = folder / "wal"
            pipes.mkdir(mode=0o700)
            answer = _answering(data, fetch, user)
            command = f"{stack.enter_context(answering(pipes, answer, user))} %f %p"
        (folder / "hba").write_text("local all all trust\n")
        (folder / "ident").touch()
        (folder / "settings").write_text(_settings(folder, facts, command, target))
        log = stack.enter_context((folder / "log").open("xb"))
        # From here on, the user of PostgreSQL can put links everywhere in them.
        for each in (folder, data, tablespaces_of(data)):
            _give(each, user)
        if user is not None:
            os.chown(data.parent, *user)
        with _running(postgres, data, folder, log, user) as process:
            found = _wait_and_look(process, psql, folder, facts, user, target)
    for name, content in aside.items():
        _put(data, name, content, user)
    # When it is started to stay, it archives this first. Until then, the number of the timeline is not taken, and a
    # recovery to look at is no part of the history of the server.
    _put(data, f"pg_wal/archive_status/{found['timeline']:08X}.history.ready", b"", user)
    return RecoveredCluster(found["timeline"], found["last"], tuple(found["databases"]))


def _settings(folder: Path, facts: ClusterFacts, command: str, target: RecoveryTarget) -> str:
    settings: Mapping[str, str] = {
        "listen_addresses": "",
        "unix_socket_directories": str(folder),
        "unix_socket_permissions": "0700",
        "hba_file": str(folder / "hba"),
        "ident_file": str(folder / "ident"),
        "hot_standby": "off",
        "archive_mode": "off",
        "autovacuum": "off",
        "max_prepared_transactions": str(max(facts.prepared, 100)),
        "dynamic_shared_memory_type": "mmap",
        "lc_messages": "C",
        "log_timezone": "UTC",
        "timezone": "UTC",
        "restore_command": command,
        "recovery_target_action": "promote",
        "recovery_target_inclusive": "on",
        **target.settings,
    }
    return "".join(f"{name} = '{_quoted(value)}'\n" for name, value in settings.items())


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "''")


def _answering(data: Path, fetch: Fetch, user: tuple[int, int] | None) -> Callable[[list[str]], int]:
    def answer(arguments: list[str]) -> int:
        file, path = arguments
        # The server names a place in its own folder. Nothing else is written to.
        name = os.path.basename(path)
        if user is None:
            return 0 if fetch(file, data / "pg_wal" / name) else 1
        with opened(resolve(data) / "pg_wal") as folder:
            if not fetch(file, Path(os.fsdecode(path_of(folder, os.fsencode(name))))):
                return 1
            os.chown(name, *user, dir_fd=folder, follow_symlinks=False)
        return 0

    return answer


@contextlib.contextmanager
def _running(
    postgres: str, data: Path, folder: Path, log: IO[bytes], user: tuple[int, int] | None
) -> Iterator[subprocess.Popen[bytes]]:
    arguments = [postgres, "-D", str(data), f"--config-file={folder}/settings"]
    if (setpriv := shutil.which("setpriv")) is not None:
        # Linux stops the server if this process is killed.
        arguments = [setpriv, "--pdeathsig", "INT", *arguments]
        if user is not None:
            arguments[1:1] = ["--reuid", str(user[0]), "--regid", str(user[1]), "--clear-groups"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    as_user: dict[str, Any] = {}
    if user is not None and setpriv is None:
        as_user = {"user": user[0], "group": user[1], "extra_groups": []}
    with closed_undisturbed() as stack:
        with deferred():
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                env={**environment, "LC_ALL": "C"},
                **as_user,
            )
            stack.callback(_stop, process)
        yield process


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_SHUTDOWN)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGQUIT)
            process.wait()


def _wait_and_look(
    process: subprocess.Popen[bytes],
    psql: str,
    folder: Path,
    facts: ClusterFacts,
    user: tuple[int, int] | None,
    target: RecoveryTarget,
) -> dict[str, Any]:
    environment = {"PGHOST": str(folder), "PGUSER": facts.superuser, "LC_ALL": "C", "PGCONNECT_TIMEOUT": "15"}
    # Libraries that the roles and databases in the backup name are not loaded.
    environment["PGOPTIONS"] = "-c session_preload_libraries= -c local_preload_libraries= -c event_triggers=off"
    if facts.major < 17:
        environment["PGOPTIONS"] = environment["PGOPTIONS"].replace(" -c event_triggers=off", "")
    tool = Tool(psql, environment)

    def ask(database: str, query: str) -> Any:
        arguments = ["--no-psqlrc", "--no-password", "--quiet", "--no-align", "--tuples-only"]
        return json.loads(tool.run(*arguments, f"--dbname={conninfo(database)}", f"--command={query}"))

    query = """SELECT jsonb_build_object('recovering', pg_is_in_recovery(),
      'timeline', (SELECT timeline_id FROM pg_control_checkpoint()),
      'databases', (SELECT jsonb_agg(datname ORDER BY datname) FROM pg_database WHERE datallowconn))"""
    pause, broken_since = 0.02, None
    while True:
        try:
            found: dict[str, Any] = ask("template1", query)
            break
        except BackupFailed as error:
            if process.poll() is not None:
                raise _failure(folder, facts, target) from None
            # A server that ends closes its connections first.
            if _NOT_YET.search(str(error)):
                broken_since = None
            else:
                broken_since = broken_since or time.monotonic()
                if time.monotonic() - broken_since > _PATIENCE:
                    raise RestoreFailed(f"The recovered server does not work: {error}") from None
        time.sleep(pause)
        pause = min(pause * 1.2, 0.5)
    for database in found["databases"]:
        try:
            ask(database, "SELECT count(*) FROM pg_class")
        except BackupFailed as error:
            raise RestoreFailed(f"The recovered server does not work: database {database!r}: {error}") from None
    # The checkpoint of the promotion may still be under way, and with it the number in the control file.
    log = _log(folder)
    if new := re.findall(r"LOG:  selected new timeline ID: (\d+)", log):
        found["timeline"] = int(new[-1])
    found["last"] = (_LAST.findall(log) or [None])[-1]
    return found


def _failure(folder: Path, facts: ClusterFacts, target: RecoveryTarget) -> RestoreFailed:
    """Return the error for a server that has ended."""
    log = _log(folder)
    last = (_LAST.findall(log) or [None])[-1]
    if "recovery ended before configured recovery target was reached" in log:
        until = f"The last transaction in it is of {last}. " if last else ""
        return RestoreFailed(
            f"The archive ends before {target.text}. {until}Nothing was changed. Choose an earlier target, or recover "
            "to the end of the archive, without a target."
        )
    if "before consistent recovery point" in log:
        return RestoreFailed(
            f"The base backup, which ended at {facts.finished}, is later than {target.text}. Nothing was changed. "
            "Choose an earlier base backup with --backup, or a later target."
        )
    if "is not a child of this server's history" in log:
        return RestoreFailed(
            "The base backup does not belong to this timeline. Nothing was changed. Choose another one with --backup, "
            "or another timeline with --timeline."
        )
    said = (_FATAL.findall(log) or [last_words(log, 1000)])[-1]
    return RestoreFailed(f"The recovery to {target.text} failed: {said}. Nothing was changed.")


def _log(folder: Path) -> str:
    with (folder / "log").open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _MOST_LOG))
        return file.read().decode("utf-8", "replace")


def _program(name: str, major: int) -> str:
    """Return the path of a program of one version of PostgreSQL."""
    candidates = glob.glob(f"/usr/lib/postgresql/{major}/bin/{name}")
    candidates += [path for path in [shutil.which(name)] if path is not None]
    for path in candidates:
        with contextlib.suppress(BackupFailed):
            if re.search(rf"\) {major}[.\w]", Tool(path).run("--version").decode()):
                return path
    raise ToolMissing(
        f"The base backup is of PostgreSQL {major}, and {name} of this version is not installed. Install the package "
        f"postgresql-{major}."
    )


def _give(path: Path, user: tuple[int, int] | None) -> None:
    if user is None or not path.exists():
        return
    with opened(resolve(path)) as top:
        # What is inside first: so long as root has the outermost folder, nobody else can change anything in it.
        for _, folders, files, at in os.fwalk(".", topdown=False, dir_fd=top):
            for name in (*folders, *files):
                os.chown(name, *user, dir_fd=at, follow_symlinks=False)
        os.fchown(top, *user)


def _put(data: Path, path: str, content: bytes, user: tuple[int, int] | None) -> None:
    """Write a new private file where the user of PostgreSQL may have put links, following none."""
    parent, _, name = path.rpartition("/")
    with opened(resolve(data) / parent) as folder:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(os.open(name, flags, 0o600, dir_fd=folder), "wb") as file:
            if user is not None:
                os.fchown(file.fileno(), *user)
            file.write(content)


def place_for(directory: Path) -> contextlib.AbstractContextManager[Path]:
    """Return a working folder beside the directory of a recovered server, after checking that the directory is free.

    Raises:
        RestoreFailed: The directory is not empty.
    """
    for place in (directory, tablespaces_of(directory)):
        if place.is_symlink() or (place.exists() and (not place.is_dir() or any(place.iterdir()))):
            raise RestoreFailed(
                f"{place} is not empty. Nothing was changed. Recover into a new directory, and switch to it when you "
                "have looked at it."
            )
    return folder_beside(directory)
