"""The program behind `prefect-snapshots`.

Every command opens the repository that the global options name, and returns an *answer*: a document, and a function
that shows it to people. This module reads the options, and prints the answer in either form. Exit codes: 0 success, 1
an error, 2 an invalid command line, 3 damage or loss found, 130 interrupted.

Starting the program loads neither Prefect nor the repository: commands import what they need.
"""

from __future__ import annotations

import difflib
import itertools
import os
import re
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

from cyclopts import App, Group, Parameter
from cyclopts.exceptions import (
    CycloptsError,
    MissingArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from ..errors import InvalidArgument, InvalidName, SnapshotsError
from ..messages import hide_logs, system_error
from ..redaction import hider
from . import (
    artifacts,
    backups,
    checkpoints,
    copies,
    deployments,
    filesystem,
    importing,
    initializing,
    maintenance,
    notifications,
    passwords,
    report,
    serving,
    snapshots,
    wal,
)
from .output import RED, Answer, FailedWith, as_json, printable, styled
from .session import Session, parse_options

FAILED, MISUSED = 1, 2

_MEANT = {
    "search": "list --where CONDITION",
    "find": "list --where CONDITION",
    "query": "list --where CONDITION",
    "ls": "list",
    "info": "show",
    "get": "download",
    "rm": "delete",
    "remove": "delete",
    "clear": "delete",
    "tag": "describe --add-tag TAG",
    "move": "rename",
    "mv": "rename",
    "add": "log",
    "save": "create",
    "backup": "create",
    "run": "create",
}
"""Commands that people look for, and what does the same here, if a group has such a command."""

_MEANT_OPTIONS = {"no-bulk": "no-directories"}
"""Options of the tools that people come from, and what does the same here."""


def run() -> int:
    """Run the command line of this process, and return its exit code."""
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a text file, unless Python is embedded
    hide_logs("gcsfs")  # what it logs with a traceback, our error says
    flags = *_app.help_flags, *_app.version_flags
    commands = [word for word in _app.parse_commands(sys.argv[1:])[0] if word not in flags]
    if commands:  # the help of the program itself lists them: a command's own options would be lost among them
        places = itertools.accumulate(commands, lambda place, word: place[word], initial=_app)
        for place in (_app.meta, *places):  # as an option of a command, somebody means its argument VERSION
            place.version_flags = ()
        _app.meta.group_parameters = Group("Global options", show=False)
        _app.help_epilogue = "For the global options, such as --repository and --json, see `prefect-snapshots --help`."
    try:
        status: int = _app.meta(print_error=False, exit_on_error=False, result_action="return_value")
    except CycloptsError as error:
        help_line = " ".join(["prefect-snapshots", *commands, "--help"])
        status = _complain(f"{_understandable(error)} See `{help_line}`.", MISUSED)
    return status


def _version() -> str:
    from importlib.metadata import version

    return version("prefect-snapshots")


_app = App(
    name="prefect-snapshots",
    help="Inspect and maintain a repository of snapshots, checkpoints, artifacts and backups.",
    help_format="markdown",
    version=_version,
    default_parameter=Parameter(negative=(), show_default=False),
)
_app.command(initializing.init)
_app.command(snapshots.app)
_app.command(checkpoints.app)
_app.command(artifacts.app)
_app.command(backups.app)
_app.command(deployments.deployments)
_app.command(notifications.notifications)
_app.command(wal.app)
_app.command(maintenance.doctor)
_app.command(maintenance.explain)
_app.command(filesystem.ls)
_app.command(filesystem.cat)
_app.command(filesystem.mount)
_app.command(serving.serve)
_app.command(report.report)
_app.command(copies.copy)
_app.command(importing.app)
_app.command(maintenance.check)
_app.command(maintenance.prune)
_app.command(maintenance.extend_locks)
_app.command(maintenance.repair)
_app.command(maintenance.stats)
_app.command(passwords.app)
_app.register_install_completion_command(help="Install completion for your shell.")
_app.meta.suppress_keyboard_interrupt = False
_app.meta.group_parameters = Group("Global options", sort_key=99)


@_app.meta.default
def _launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    repository: Annotated[str | None, Parameter(alias="-r")] = None,
    storage_option: list[str] | None = None,
    password_command: str | None = None,
    password_file: str | None = None,
    no_password: bool = False,
    limit_upload: float | None = None,
    json: bool = False,
    quiet: Annotated[bool, Parameter(alias="-q")] = False,
    yes: Annotated[bool, Parameter(alias="-y")] = False,
    debug: bool = False,
) -> int:
    """
    Args:
        repository: The URL or path of the repository. Default: $PREFECT_INTEGRATIONS_SNAPSHOTS_REPOSITORY, else
            ./snapshots.
        storage_option: KEY=VALUE for the file system, such as anon=true or client_kwargs.region_name=eu-west-1. Repeat
            it for more. Other users of this machine can read a command line: leave credentials in the environment.
        password_command: A shell command that prints the password of the repository. Default:
            $PREFECT_INTEGRATIONS_SNAPSHOTS_PASSWORD, else the content of the file in
            $PREFECT_INTEGRATIONS_SNAPSHOTS_PASSWORD_FILE, else the output of
            $PREFECT_INTEGRATIONS_SNAPSHOTS_PASSWORD_COMMAND, else you are asked for it.
        password_file: A file with the password of the repository.
        no_password: The repository is not encrypted, whatever the environment says. Otherwise a configured password
            means that it is, and one without encryption is refused.
        limit_upload: Write at most this many bytes a second. Default: no limit.
        json: Print one JSON document. Its keys are documented in reference/json.
        quiet: Show no progress, and do not print what was done.
        yes: Do not ask before something is deleted, repaired or replaced.
        debug: Show the traceback of an error.
    """
    command, bound, ignored = _app.parse_args(tokens, print_error=False, exit_on_error=False)
    options: dict[str, Any] = {}
    try:
        options = parse_options(storage_option or ())
        session = Session(repository, options, password_command, password_file, no_password, quiet, yes, limit_upload)
        answer: Answer | None = command(*bound.args, **bound.kwargs, **dict.fromkeys(ignored, session))
        if answer is None:  # help was asked for, and shown
            return 0
        _write(answer, as_document=json, quiet=quiet)
    except Exception as error:
        hide = hider(repository, options)
        if debug:
            print(*map(printable, hide(traceback.format_exc()).split("\n")), sep="\n", end="", file=sys.stderr)
        if isinstance(error, FailedWith):
            return _complain(hide(_message(error.error)), error.status)
        return _complain(hide(_message(error)), MISUSED if isinstance(error, InvalidArgument | InvalidName) else FAILED)
    return answer.status


def _understandable(error: CycloptsError) -> str:
    """Return what is wrong with a command line, in the words of the user."""
    if isinstance(error, UnusedCliTokensError):
        tokens = error.unused_tokens or []
        return f"Unexpected {'argument' if len(tokens) == 1 else 'arguments'}: {' '.join(map(repr, tokens))}."
    if isinstance(error, UnknownOptionError):
        option = (error.token.keyword or error.token.value).partition("=")[0]
        known = [
            *error.argument_collection,
            *_app.meta.assemble_argument_collection(default_parameter=_app.default_parameter),
        ]
        names = {name.lstrip("-") for each in known if each.show for name in each.names if name.startswith("-")}
        word = option.lstrip("-")
        positional = [
            each.name for each in error.argument_collection if word.upper() in re.findall("[A-Z]+", each.name)
        ]
        if positional:
            return f"Unknown option: {option}. {word.upper()} is an argument: write it without {option}."
        meant = _MEANT_OPTIONS.get(word, "")
        near = [meant] if meant in names else difflib.get_close_matches(word, [*names, "help"], 1)
        return f"Unknown option: {option}." + "".join(f" Did you mean --{name}?" for name in near)
    if isinstance(error, UnknownCommandError) and error.unused_tokens:
        chain, word = [*(error.command_chain or ())], error.unused_tokens[0]
        kinds = snapshots.app, checkpoints.app, artifacts.app, backups.app
        groups = [chain] if chain else [[*kind.name] for kind in kinds]
        uses = [use for group in groups if (use := _same(group, word))]
        if uses:
            return f"Unknown command: {' '.join([*chain, word])}. Use {' or '.join(uses)}."
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        name = error.argument.name
        return f"{'Option' if name.startswith('-') else 'Argument'} {name} is missing, or has no value."
    return str(error)


def _same(group: Sequence[str], word: str) -> str:
    """Return the command of a group that does what a word seems to mean. Empty if there is none."""
    verb, *options = _MEANT.get(word, word).split()
    place = _app
    for each in group:
        place = place[each]
    if verb not in place:
        return ""
    known = [name for argument in place[verb].assemble_argument_collection() for name in argument.names]
    return f"`{' '.join(['prefect-snapshots', *group, verb, *(options if {*options[:1]} <= {*known} else ())])}`"


def _message(error: Exception) -> str:
    if isinstance(error, SnapshotsError):
        more = f" [prefect-snapshots explain {error.public_name()}]" if type(error) is not SnapshotsError else ""
        return f"{error}{more}"
    if isinstance(error, OSError):
        return system_error(error)
    return f"{error!r}. This is unexpected: run the command again with --debug, which shows the traceback."


def _write(answer: Answer, *, as_document: bool, quiet: bool) -> None:
    try:
        if as_document:
            print(as_json(answer.document))
        else:
            sys.stdout.writelines(f"{line}\n" for line in answer.lines(quiet))
        sys.stdout.flush()
    except OSError as error:
        # What is left in the buffer cannot be written either: the interpreter shall not try it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # whoever read this has seen enough
            raise


def _complain(message: str, status: int) -> int:
    print(styled("prefect-snapshots:", RED, sys.stderr), printable(message), file=sys.stderr)
    return status
