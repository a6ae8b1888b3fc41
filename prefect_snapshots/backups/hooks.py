"""Hooks: commands and functions that run before and after a backup or a restore.

Hooks come from the caller, never from a repository. Those after a backup run whatever happened, because they may start
a service again that those before it have stopped.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import IO, Literal, TypeAlias

from ..arguments import checking_names
from ..errors import BackupFailed, InvalidArgument, RestoreFailed
from ..messages import last_words, logger, printable
from .interruption import terminable

_MOST = 4096
"""Characters of an error in the environment of a command. Linux allows 128 KB for one variable, and less in total."""
_SHOWN = 500
"""Characters of the output of a failed command, from its end, where the reason usually is."""
_RUNS_ON = "It runs as another user, so it could not be killed. It may still be running: stop {} yourself."


@dataclass(frozen=True, slots=True)
class HookCall:
    """The argument of a hook. A command gets it as environment variables: see `environment`.

    Attributes:
        hook: The kind of the hook: "before_backup", "after_backup", "before_restore" or "after_restore".
        manager: The name of the manager.
        backup: The name of the backup. Empty as long as it has none.
        result: "succeeded", "incomplete" (something was left out) or "failed". Empty before.
        error: Why it failed, in one sentence or several.
    """

    hook: str
    manager: str
    backup: str = ""
    result: Literal["", "succeeded", "incomplete", "failed"] = ""
    error: str = ""

    def environment(self) -> dict[bytes, bytes]:
        """Return the environment of a command: that of this process, with `PREFECT_SNAPSHOTS_HOOK` and so on."""
        facts = {
            "HOOK": self.hook,
            "MANAGER": self.manager,
            "BACKUP": self.backup,
            "RESULT": self.result,
            "ERROR": self.error[:_MOST],
        }
        # Messages quote untrusted text. Characters that no environment can hold must not prevent the hook.
        ours = {
            f"PREFECT_SNAPSHOTS_{name}".encode(): value.replace("\0", "").encode(errors="backslashreplace")
            for name, value in facts.items()
        }
        return {**os.environb, **ours}


Hook: TypeAlias = Sequence[str] | Callable[[HookCall], object]
"""A program and its arguments, or a function."""


def _is_hook(hook: object) -> bool:
    if callable(hook):
        return True
    return isinstance(hook, list | tuple) and all(isinstance(word, str) for word in hook) and bool(hook and hook[0])


@checking_names
@dataclass(frozen=True, kw_only=True)
class Hooks:
    """Commands and functions to run before and after backups and restores, in order.

    A command is a list: the program and its arguments. It is not run by a shell. Its environment has
    `PREFECT_SNAPSHOTS_HOOK`, `..._MANAGER`, `..._BACKUP`, `..._RESULT` and `..._ERROR`: see `HookCall`. A function is
    called with a `HookCall`.

    Args:
        before_backup: Run before any source is read. If one fails, the rest is not run, and the backup fails.
        after_backup: Run when the backup has been made or has failed, even if a hook before it failed. If one fails,
            the rest is run, and the failure is in `failed_hooks` of the backup.
        before_restore, after_restore: The same for restores.
        timeout: Seconds that each command may take. Then it is killed, and counts as failed. Functions have no limit.

    Raises:
        InvalidArgument: A hook is neither a list of strings nor a function, or the timeout is not positive.

    Example:
        >>> import pathlib, tempfile
        >>> from prefect_snapshots import BackupManager
        >>> from prefect_snapshots.backups import Hooks
        >>> hooks = Hooks(
        ...     before_backup=[["true"], lambda call: print(call.hook)],
        ...     after_backup=[lambda call: print(call.hook, call.result)],
        ... )
        >>> folder = tempfile.mkdtemp()
        >>> manager = BackupManager("memory://example-hooks", directories=[folder], hooks=hooks)
        >>> backup = manager.create_backup()
        before_backup
        after_backup succeeded
    """

    before_backup: Sequence[Hook] = ()
    after_backup: Sequence[Hook] = ()
    before_restore: Sequence[Hook] = ()
    after_restore: Sequence[Hook] = ()
    # Long enough to stop a large database, and short enough that a nightly backup is still missed the same night.
    timeout: float = 600.0

    def __post_init__(self) -> None:
        for name in ("before_backup", "after_backup", "before_restore", "after_restore"):
            hooks = getattr(self, name)
            if isinstance(hooks, str) or not isinstance(hooks, Sequence) or not all(map(_is_hook, hooks)):
                raise InvalidArgument(
                    f"{name} must be a list of functions and commands, and each command a list of strings: "
                    '[["systemctl", "stop", "shop"]].'
                )
            object.__setattr__(self, name, tuple(hook if callable(hook) else tuple(hook) for hook in hooks))
        if not isinstance(self.timeout, int | float) or not self.timeout > 0:
            raise InvalidArgument(f"timeout must be a positive number of seconds, not {self.timeout!r}.")


NO_HOOKS = Hooks()


@dataclass(slots=True)
class Outcome:
    """The outcome of a backup or restore, which the block in `around` sets.

    Attributes:
        backup: The name of the backup.
        incomplete: Whether something was left out.
        failed_hooks: Full sentences about hooks that failed afterwards.
    """

    backup: str = ""
    incomplete: bool = False
    failed_hooks: list[str] = field(default_factory=list)


@contextlib.contextmanager
def around(hooks: Hooks, what: Literal["backup", "restore"], manager: str, backup: str = "") -> Iterator[Outcome]:
    """Run the hooks before the block, and those after it, whether it succeeds or fails.

    Args:
        hooks: The hooks.
        what: Which of them to run.
        manager: The name of the manager.
        backup: The name of the backup, if it is known already.

    Raises:
        BackupFailed: A hook before a backup failed. The block was not run.
        RestoreFailed: A hook before a restore failed. The block was not run.
    """
    before, after = (
        (hooks.before_backup, hooks.after_backup) if what == "backup" else (hooks.before_restore, hooks.after_restore)
    )
    call = HookCall(f"before_{what}", manager, backup)
    outcome = Outcome(backup)
    with terminable():
        try:
            for hook in before:
                if problem := _run(hook, call, hooks.timeout):
                    if what == "backup":
                        raise BackupFailed(f"No backup was made, because {problem}")
                    raise RestoreFailed(f"Nothing was changed, because {problem}")
            yield outcome
        except BaseException as error:
            told = str(error) or type(error).__name__
            failed = replace(call, hook=f"after_{what}", backup=outcome.backup, result="failed", error=told)
            for problem in _run_all(after, failed, hooks.timeout):
                error.add_note(problem)
            raise
        ended = replace(
            call,
            hook=f"after_{what}",
            backup=outcome.backup,
            result="incomplete" if outcome.incomplete else "succeeded",
        )
        outcome.failed_hooks += _run_all(after, ended, hooks.timeout)


def _run_all(hooks: Sequence[Hook], call: HookCall, timeout: float) -> list[str]:
    problems = []
    stopped: BaseException | None = None
    for hook in hooks:
        try:
            problem = _run(hook, call, timeout)
        except BaseException as error:  # Ctrl-C ends one hook: the next may start a service again
            stopped = stopped or error
            continue
        if problem:
            problems.append(f"After the {call.hook.removeprefix('after_')}, {problem}")
            logger.warning("%s", problems[-1])
    if stopped is not None:
        raise stopped
    return problems


def _run(hook: Hook, call: HookCall, timeout: float) -> str:
    """Run one hook. Returns the end of a sentence that says how it failed, or an empty string."""
    if callable(hook):
        name = getattr(hook, "__qualname__", hook)
        try:
            returned = hook(call)
        except Exception as error:  # a hook may be any function, and raise anything
            return f"the hook {name} raised {printable(repr(error))}."
        if not inspect.isawaitable(returned):
            return ""
        if inspect.iscoroutine(returned):
            returned.close()
        return f"the hook {name} is asynchronous and was not run. Call it with asyncio.run in a function."
    logger.info("Running the hook %s: %s.", call.hook, hook[0])
    with tempfile.TemporaryFile() as output:
        try:
            code = _exit_code(hook, call, timeout, output)
        except (OSError, ValueError) as error:
            return f"the hook {hook[0]} cannot be run: {error}."
        except subprocess.TimeoutExpired as error:
            ending = ". ".join(["", *error.__notes__]) if hasattr(error, "__notes__") else " and was killed."
            return f"the hook {hook[0]} took longer than {timeout:g} second{'s' * (timeout != 1)}{ending}"
        if not code:
            return ""
        output.seek(0, os.SEEK_END)
        output.seek(max(0, output.tell() - 4 * _SHOWN))
        words = last_words(output.read().decode(errors="replace"), _SHOWN) or "it printed nothing"
    how = f"was killed by signal {-code}" if code < 0 else f"failed with exit code {code}"
    return f"the hook {hook[0]} {how}: {words}"


def _exit_code(command: Sequence[str], call: HookCall, timeout: float, output: IO[bytes]) -> int:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=call.environment(),
        start_new_session=True,  # a separate process group, so that a timeout also ends its child processes
    )
    try:
        return process.wait(timeout)
    except BaseException as error:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except PermissionError:  # it belongs to another user by now, as with sudo: waiting could take forever
            error.add_note(_RUNS_ON.format(command[0]))
        else:
            process.wait()
        raise
