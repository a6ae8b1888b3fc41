"""What holds for every command: which repository, what may be asked of the user, and how progress is shown.

A password is read from the environment, from a command, or typed; it is never an argument.
"""

from __future__ import annotations

import getpass
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from ..errors import InvalidArgument, RepositoryNotFound, SnapshotsError, WrongPassword
from .output import printable

if TYPE_CHECKING:
    from ..repository import Repository

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True, slots=True)
class Session:
    """The global options.

    Arguments:
        url: of the repository; None: what the environment says, else `./snapshots`.
        storage_options: for the file system.
        password_command: a shell command that prints the password.
        quiet: show no progress.
        yes: everything is confirmed already.
    """

    url: str | None = None
    storage_options: Mapping[str, Any] = field(default_factory=dict)
    password_command: str | None = None
    quiet: bool = False
    yes: bool = False

    def open(self, *, writing: bool = False, create: bool = False) -> Repository:
        """The repository, opened; read-only unless something is to be written.

        Arguments:
            writing: something is to be written.
            create: something is to be written, and there need be no repository yet.

        Raises:
            RepositoryNotFound: there is none.
            WrongPassword: the password does not fit, or there is none and no terminal to type one on.
        """
        from ..repository.repository import PASSWORD_COMMAND_SETTING, PASSWORD_SETTING, password_from

        given = password_from(self.password_command) if self.password_command else None
        try:
            return self._open(given, writing or create, create)
        except WrongPassword:
            if given or os.environ.get(PASSWORD_SETTING) or os.environ.get(PASSWORD_COMMAND_SETTING):
                raise
        if not _at_terminal():
            raise WrongPassword(
                "the repository is encrypted, and there is no terminal to type its password on: "
                f"set {PASSWORD_SETTING}, or give --password-command"
            )
        return self._open(getpass.getpass("Password of the repository: "), writing or create, create)

    def _open(self, password: str | None, writing: bool, create: bool) -> Repository:
        from ..repository.repository import SETTING, Repository

        repository = Repository(
            self.url,
            storage_options=self.storage_options,
            password=password,
            allow_pickle=False,
            read_only=not writing,
        )
        try:
            _ = repository.id
        except RepositoryNotFound:
            if create:
                return repository
            raise RepositoryNotFound(
                f"there is no repository at {repository.url}: the first thing that is saved there creates it. "
                f"Name another place with --repository, or in {SETTING}."
            ) from None
        return repository

    def confirm(self, question: str, about: Iterable[str] = ()) -> None:
        """Go on only when the user says so.

        Arguments:
            question: asks for a yes.
            about: lines that are shown before it.

        Raises:
            InvalidArgument: there is no terminal to ask on.
            SnapshotsError: the answer was no.
        """
        if self.yes:
            return
        if not _at_terminal():
            raise InvalidArgument(f"{question} There is no terminal to ask on: confirm with --yes.")
        for line in about:
            print(printable(line), file=sys.stderr)
        print(f"{printable(question)} [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise SnapshotsError("not confirmed: nothing was changed")

    @contextmanager
    def progress(self) -> Iterator[Progress | None]:
        """A progress bar on a terminal, on standard error; elsewhere, and when it shall be quiet, None."""
        if self.quiet or not sys.stderr.isatty():
            yield None
            return
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
        with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
            bar = bars.add_task("opening", total=None)
            yield lambda what, done, total: bars.update(bar, description=what, completed=done, total=total or None)


SessionArgument = Annotated[Session, Parameter(parse=False)]
"""How a command declares that it wants the session."""


def new_password(command: str | None) -> str:
    """A password that is not in use yet: what a command prints, else typed twice.

    Raises:
        InvalidArgument: there is no terminal, or what was typed is empty or not twice the same.
    """
    if command:
        from ..repository.repository import password_from

        return password_from(command)
    if not _at_terminal():
        raise InvalidArgument("there is no terminal to type the new password on: give --new-password-command")
    typed = getpass.getpass("New password: ")
    if not typed or typed != getpass.getpass("The same again: "):
        raise InvalidArgument("the new password is empty, or was not twice the same: nothing was changed")
    return typed


def parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    """Storage options from `KEY=VALUE`. Dots in a key nest; a value is JSON where it can be, else text.

    Raises:
        InvalidArgument: without showing a value, which may be a secret.

    Example:
        >>> parse_options(["anon=true", "client_kwargs.region_name=eu-west-1"])
        {'anon': True, 'client_kwargs': {'region_name': 'eu-west-1'}}
    """
    options: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        *groups, last = key.split(".")
        if not separator or not all((*groups, last)):
            raise InvalidArgument("a storage option is KEY=VALUE, such as client_kwargs.region_name=eu-west-1")
        place = options
        for group in groups:
            place = place.setdefault(group, {})
            if not isinstance(place, dict):
                raise InvalidArgument(f"the storage option {key!r} is within {group!r}, which has a value itself")
        if last in place:
            raise InvalidArgument(f"the storage option {key!r} is given twice")
        place[last] = parse_value(value)
    return options


def parse_value(text: str) -> Any:
    """What a text means as JSON; the text itself where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _at_terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()
