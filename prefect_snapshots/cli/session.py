"""The options of every command: which repository to open and with which password, confirmation, and progress.

A password comes from the environment, a file, a command or the keyboard. It is never an argument, because other users
of the machine can read command lines.
"""

from __future__ import annotations

import getpass
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from ..errors import UNDECODABLE, InvalidArgument, RepositoryNotFound, SnapshotsError, WrongPassword
from .output import printable
from .project_settings import configuration

if TYPE_CHECKING:
    from ..documents.texts import Unit
    from ..repository import Repository
    from ..repository.location import Location
    from ..repository.progress import Progress


@dataclass(frozen=True, slots=True)
class Session:
    """The global options of a command.

    Args:
        url: The URL of the repository. Default: what the environment says, else pyproject.toml, else `./snapshots`.
        storage_options: Options for the file system.
        password_command: A shell command that prints the password.
        password_file: A file with the password.
        no_password: The repository is not encrypted, whatever the environment says.
        quiet: Show no progress.
        yes: Do not ask for confirmation.
        limit_upload: The most bytes a second to write. None: what pyproject.toml says, else no limit.
    """

    url: str | None = None
    storage_options: Mapping[str, Any] = field(default_factory=dict)
    password_command: str | None = None
    password_file: str | None = None
    no_password: bool = False
    quiet: bool = False
    yes: bool = False
    limit_upload: float | None = None

    def open(
        self, *, writing: bool = False, create: bool = False, allow_pickle: bool = False, ask: bool = True
    ) -> Repository:
        """Open the repository. It is read-only by default.

        Args:
            writing: Whether to write. Default: False.
            create: Whether to write, and to create the repository if there is none. Default: False.
            allow_pickle: Whether values may be pickled and unpickled. Default: False.
            ask: Whether to ask for the password if it is needed. Default: True.

        Raises:
            RepositoryNotFound: There is no repository.
            WrongPassword: The password is wrong, or there is none and no terminal to type one.
        """
        from ..repository.passwords import PASSWORD_SETTING, password_setting

        given = self.password()
        try:
            return self._open(given, writing or create, create, allow_pickle)
        except WrongPassword as error:
            if given:
                option = "--password-file" if self.password_file else "--password-command"
                raise WrongPassword(f"{error} The password came from {option}.") from None
            if given is False or password_setting() or not ask:
                raise
        if not at_terminal():
            raise WrongPassword(
                "The repository is encrypted, and there is no terminal to type its password on. "
                f"Set {PASSWORD_SETTING}, or pass --password-file or --password-command."
            )
        return self._open(getpass.getpass("Password of the repository: "), writing or create, create, allow_pickle)

    def at(self, url: str, storage_options: Mapping[str, Any]) -> Session:
        """Return a session of the same options, for another repository."""
        return replace(self, url=url, storage_options=storage_options)

    def location(self) -> Location:
        """Return the location of the repository, without opening it."""
        from ..repository.location import open_location

        return open_location(self.place(), self.storage_options)

    def place(self) -> str:
        """Return the URL or path of the repository: of the options, the environment, pyproject.toml, or the default.

        Raises:
            InvalidArgument: pyproject.toml is needed, and is invalid.
        """
        from ..repository.repository import SETTING, unnamed_place

        return self.url or os.environ.get(SETTING) or configuration().get("repository") or unnamed_place()

    def password(self) -> str | Literal[False] | None:
        """Return the password of the options, False for `--no-password`, or None if they name none.

        Raises:
            InvalidArgument: Several options name one.
            WrongPassword: The file or the command gives none.
        """
        from ..repository.passwords import password_from_command, password_from_file

        if sum(map(bool, (self.password_command, self.password_file, self.no_password))) > 1:
            raise InvalidArgument("Pass only one of --password-command, --password-file and --no-password.")
        if self.no_password:
            return False
        if self.password_file:
            return password_from_file(self.password_file)
        return password_from_command(self.password_command) if self.password_command else None

    def _open(
        self, password: str | Literal[False] | None, writing: bool, create: bool, allow_pickle: bool
    ) -> Repository:
        from ..repository.repository import SETTING, Repository

        limit = self.limit_upload
        repository = Repository(
            self.place(),
            storage_options=self.storage_options,
            password=password,
            allow_pickle=allow_pickle,
            read_only=not writing,
            limit_upload=configuration().get("limit_upload") if limit is None and writing else limit,
        )
        try:
            _ = repository.id
        except RepositoryNotFound:
            if create:
                return repository
            raise RepositoryNotFound(
                f"There is no repository at {repository.url}. The first save creates one; check the URL if you "
                f"expected data here, or name another place with --repository or in {SETTING}."
            ) from None
        return repository

    def confirm(self, question: str, about: Iterable[str] = ()) -> None:
        """Ask the user to confirm. Returns only after a yes.

        Args:
            question: A yes-or-no question.
            about: Lines to show before it.

        Raises:
            InvalidArgument: There is no terminal to ask on.
            SnapshotsError: The answer was no.
        """
        if self.yes:
            return
        if not at_terminal():
            raise InvalidArgument(f"{question} There is no terminal to ask on: confirm with --yes.")
        for line in about:
            print(printable(line), file=sys.stderr)
        print(f"{printable(question)} [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise SnapshotsError("Not confirmed: nothing was changed.")

    @contextmanager
    def progress(self, unit: Unit = "step", expected: int = 0) -> Iterator[Progress | None]:
        """Show a progress bar on standard error if that is a terminal. Yields None otherwise, and with `--quiet`.

        Args:
            unit: What the operation counts.
            expected: The estimated total, used where the operation does not know it.
        """
        if self.quiet or not sys.stderr.isatty():
            yield None
            return
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bars

        from ..documents.texts import Pace

        columns = TextColumn("{task.description}", markup=False), BarColumn(20), TextColumn("{task.fields[text]}")
        with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
            bar = bars.add_task("opening", total=None, text="")
            step, pace = "", Pace(unit)

            def progress(what: str, done: int, total: int) -> None:
                nonlocal step, pace
                if what != step:
                    step, pace = what, Pace(unit)
                shown = total or (max(expected, done) if expected else None)
                bars.update(bar, description=printable(what), completed=done, total=shown, text=pace.text(done, shown))

            yield progress


SessionArgument = Annotated[Session, Parameter(parse=False)]
"""The annotation of a parameter that receives the session."""


def new_password(command: str | None, file: str | None) -> str:
    """Return a new password: the output of a command, the content of a file, or what the user types twice.

    Raises:
        InvalidArgument: There is no terminal, or the typed passwords are empty or differ.
    """
    from ..repository.passwords import password_from_command, password_from_file

    if command and file:
        raise InvalidArgument("Pass only one of --new-password-command and --new-password-file.")
    if command:
        return password_from_command(command)
    if file:
        return password_from_file(file)
    if not at_terminal():
        raise InvalidArgument(
            "There is no terminal to type the new password on. Pass --new-password-file or --new-password-command."
        )
    typed = getpass.getpass("New password: ")
    if not typed or typed != getpass.getpass("The same again: "):
        raise InvalidArgument("The new password is empty, or the two inputs differ. Nothing was changed.")
    return typed


def parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    """Parse storage options of the form `KEY=VALUE`. Dots in a key nest. A value is JSON if possible, else a string.

    Raises:
        InvalidArgument: A pair is invalid. The message does not show the value, which may be a secret.

    Example:
        >>> parse_options(["anon=true", "client_kwargs.region_name=eu-west-1"])
        {'anon': True, 'client_kwargs': {'region_name': 'eu-west-1'}}
    """
    options: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        *groups, last = key.split(".")
        if not separator or not all((*groups, last)):
            raise InvalidArgument("A storage option must be KEY=VALUE, such as client_kwargs.region_name=eu-west-1.")
        place = options
        for group in groups:
            place = place.setdefault(group, {})
            if not isinstance(place, dict):
                raise InvalidArgument(f"The storage option {key!r} is inside {group!r}, which already has a value.")
        if last in place:
            raise InvalidArgument(f"The storage option {key!r} is given twice.")
        place[last] = parse_value(value)
    return options


def parse_value(text: str) -> Any:
    """Parse a string as JSON. Return the string itself if it is not valid JSON."""
    try:
        return json.loads(text)
    except UNDECODABLE:
        return text


def at_terminal() -> bool:
    """Return whether a person can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()
