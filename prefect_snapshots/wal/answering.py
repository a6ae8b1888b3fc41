"""Answer the archive_command or restore_command of a server in a running process, without starting a program each time.

The command is a small shell script, which writes a request to a pipe and waits for the exit code. So it needs neither
Python nor the password of the repository, and runs as any user.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

from ..messages import logger

ABORT = 126
"""Exit code of a command: above 125, PostgreSQL ends a recovery with an error. It takes a smaller one for the end of
the archive, and would open a database that lacks the rest."""

Answering: TypeAlias = Callable[[list[str]], int]
"""Called with the arguments of the command. Returns its exit code."""

_SCRIPT = """#!/bin/sh
answer={folder}/answer-$$
mkfifo -m 600 "$answer" || exit 126
exec 3<>"$answer"
printf '%s\\t%s\\t%s\\t%s\\n' "$$" "$1" "$2" "$3" > {folder}/requests
read -r status <&3
rm -f "$answer"
exit "${{status:-126}}"
"""


@contextlib.contextmanager
def answering(folder: Path, answer: Answering, owner: tuple[int, int] | None = None) -> Iterator[str]:
    """Answer a command of a server while the block runs.

    Args:
        folder: An empty folder that only the user of the server can open.
        answer: Called in another thread for each call of the command. An exception becomes the exit code 126.
        owner: The user and group of the server. Default: those of this process.

    Returns:
        The beginning of the command. Append up to three arguments, such as " %f %p", without tabs and line feeds.
    """
    requests, script = folder / "requests", folder / "ask"
    os.mkfifo(requests, 0o600)
    script.write_text(_SCRIPT.format(folder=shlex.quote(str(folder))))
    script.chmod(0o700)
    if owner is not None:
        for path in (requests, script):
            os.chown(path, *owner)
    # Opened for both, a pipe has no end: neither side waits for the other.
    with open(os.open(requests, os.O_RDWR | os.O_CLOEXEC), "r+b", buffering=0) as pipe:
        thread = threading.Thread(target=_answer_all, args=[folder, pipe.fileno(), answer], daemon=True)
        thread.start()
        try:
            yield shlex.quote(str(script))
        finally:
            pipe.write(b"\n")
            thread.join()


def _answer_all(folder: Path, pipe: int, answer: Answering) -> None:
    waiting = b""
    while True:
        line, separator, rest = waiting.partition(b"\n")
        if not separator:
            waiting += os.read(pipe, 4096)
            continue
        if not line:
            return
        waiting = rest
        caller, *arguments = os.fsdecode(line).rstrip("\t").split("\t")
        try:
            status = answer(arguments)
        except Exception as error:
            logger.warning("The WAL could not be archived or fetched: %s", error)
            status = ABORT
        # If the server was ended meanwhile, nobody reads the answer, and it cannot be opened.
        with contextlib.suppress(OSError, ValueError):
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
            reply = os.open(folder / f"answer-{int(caller)}", flags)
            try:
                if stat.S_ISFIFO(os.fstat(reply).st_mode):  # not a file or a link that is there instead
                    os.write(reply, f"{status}\n".encode())
            finally:
                os.close(reply)
