"""Starts programs in a tenth of the usual time: as forks of a process that has imported what they need.

`warm_program` puts a program into a folder. It hands its arguments, environment, directory and open files to that
process, passes on the signals that it gets, and ends as its fork ends. What a program loads, how long it takes to start
and what a kill does to it are questions for the installed one.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import marshal
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterator
from pathlib import Path

# It is read and run anew for each command, and so it imports nothing but what is built into Python.
_CLIENT = """#!{python} -ISE
import _socket, marshal, os, signal, sys
def receive():
    return int.from_bytes(connection.recv(8), "little", signed=True)
connection = _socket.socket(_socket.AF_UNIX)
connection.connect({address!r})
umask = os.umask(0)
os.umask(umask)
request = marshal.dumps((sys.argv[1:], dict(os.environb), os.getcwdb(), umask))
files = b"".join(number.to_bytes(4, sys.byteorder) for number in (0, 1, 2))
connection.sendmsg([len(request).to_bytes(8, "little")], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, files)])
sent = 0
while sent < len(request):
    sent += connection.send(request[sent:])
child = receive()
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
    signal.signal(number, lambda number, frame: os.kill(child, number))
status = receive()
if status < 0:
    signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
os._exit(status)
"""


@contextlib.contextmanager
def warm_program(folder: Path, name: str) -> Iterator[Path]:
    """The path of a program that does what `prefect-snapshots` or `prefect` does, or what `python` does with a file."""
    address, program = folder / f"{name}.socket", folder / name
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(address))
        listening.listen()
        command = [sys.executable, __file__, name, str(listening.fileno())]
        # In a session of its own, so that no fork finds the terminal of whoever runs the tests.
        process = subprocess.Popen(command, pass_fds=[listening.fileno()], start_new_session=True)
    program.write_text(_CLIENT.format(python=sys.executable, address=str(address)))
    program.chmod(0o755)
    try:
        yield program
    finally:
        process.kill()
        process.wait()


def serve(listening: socket.socket) -> None:
    """Fork for each command. Returns in the forks."""
    running: dict[int, tuple[socket.socket, int]] = {}
    with selectors.DefaultSelector() as waiting:
        waiting.register(listening, selectors.EVENT_READ)
        while True:
            for key, _ in waiting.select():
                if key.fileobj is listening:
                    connection, _ = listening.accept()
                    length, files, _, _ = socket.recv_fds(connection, 8, 3)
                    request = b""
                    while len(request) < int.from_bytes(length, "little"):
                        request += connection.recv(1 << 20)
                    child = os.fork()
                    if not child:
                        _become(request, files)
                        return
                    for file in files:
                        os.close(file)
                    connection.send(child.to_bytes(8, "little"))
                    ended = os.pidfd_open(child)
                    running[ended] = connection, child
                    waiting.register(ended, selectors.EVENT_READ)
                    waiting.register(connection, selectors.EVENT_READ, child)
                elif isinstance(key.fileobj, int):
                    connection, child = running.pop(key.fileobj)
                    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                    waiting.unregister(key.fileobj)
                    os.close(key.fileobj)
                    with contextlib.suppress(KeyError):
                        waiting.unregister(connection)
                    with connection, contextlib.suppress(BrokenPipeError):
                        connection.send(status.to_bytes(8, "little", signed=True))
                else:  # whoever started the command was killed
                    waiting.unregister(key.fileobj)
                    os.kill(key.data, signal.SIGKILL)


def _become(request: bytes, files: list[int]) -> None:
    """Make a fork what the installed program is when it starts."""
    arguments, environment, directory, umask = marshal.loads(request)
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX") if max(files) > 4096 else 4096)
    os.chdir(directory)
    os.umask(umask)
    os.environb.clear()
    os.environb.update(environment)
    time.tzset()
    sys.argv[1:] = arguments
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", 1 if os.isatty(1) else -1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, errors="backslashreplace", closefd=False)  # noqa: SIM115


def _command() -> Callable[[], None]:
    for module in ("artifacts", "backups", "checkpoints", "repository", "snapshots", "cli.program"):
        importlib.import_module(f"prefect_snapshots.{module}")
    for module in (
        "cyclopts.help",
        "docstring_parser",
        "humanize",
        "numpy",
        "rich.markdown",
        "rich._emoji_codes",
        "s3fs",
    ):
        importlib.import_module(module)
    from prefect_snapshots.cli import main

    return main


def _prefect() -> Callable[[], None]:
    for module in ("cli", "cli.automation", "cli.deploy", "cli.work_pool", "flow_engine"):
        importlib.import_module(f"prefect.{module}")
    from prefect.cli import app
    from prefect.context import refresh_global_settings_context

    def run() -> None:
        refresh_global_settings_context()  # from the environment of the fork
        app()

    return run


def _python() -> Callable[[], None]:
    for module in ("artifacts", "backups", "checkpoints", "snapshots"):
        importlib.import_module(f"prefect_snapshots.integration.{module}")
    for module in ("anyio._backends._asyncio", "numpy.ma", "prefect.flow_engine", "pydantic.v1", "rich._emoji_codes"):
        importlib.import_module(module)
    from prefect.context import refresh_global_settings_context

    def run() -> None:
        refresh_global_settings_context()  # from the environment of the fork
        del sys.argv[0]
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        main.__file__ = sys.argv[0]
        sys.path[0] = str(Path(main.__file__).parent)
        exec(compile(Path(main.__file__).read_bytes(), main.__file__, "exec"), main.__dict__)

    return run


if __name__ == "__main__":
    program = {"prefect-snapshots": _command, "prefect": _prefect, "python": _python}[sys.argv[1]]()
    # Or the first collection in each fork copies all that was imported.
    gc.collect()
    gc.freeze()
    serve(socket.socket(fileno=int(sys.argv[2])))
    status = 0
    try:
        program()
    except SystemExit as ended:
        status = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # and not by the interpreter's own way, which takes apart all that was imported: 40 ms
