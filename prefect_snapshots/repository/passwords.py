"""Where the password of a repository comes from: an argument, a function, or the environment."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from ..errors import InvalidArgument, WrongPassword

PASSWORD_SETTING = "PREFECT_INTEGRATIONS_SNAPSHOTS_PASSWORD"
PASSWORD_FILE_SETTING = "PREFECT_INTEGRATIONS_SNAPSHOTS_PASSWORD_FILE"
PASSWORD_COMMAND_SETTING = "PREFECT_INTEGRATIONS_SNAPSHOTS_PASSWORD_COMMAND"

Password: TypeAlias = str | Callable[[], str | None] | Literal[False] | None
"""A password, a function that returns it, False for a repository without encryption, or None for the environment."""


@dataclass(frozen=True, slots=True)
class PasswordFrom:
    """A function that returns a password, and says in messages where it came from.

    Args:
        read: Returns the password, or None if none is configured there.
        source: The end of the sentence "The password came from ...".
    """

    read: Callable[[], str | None] = field(repr=False)
    source: str

    def __call__(self) -> str | None:
        return self.read()


# A key file contains one line. The limit catches the wrong file, such as a disk image.
_MOST_BYTES = 64 * 1024


class PasswordSource:
    """The configured password of a repository. It is read once, when it is first needed.

    Args:
        given: The argument of the user.

    Raises:
        InvalidArgument: The password is empty, or True.
    """

    def __init__(self, given: Password) -> None:
        if given == "" or (isinstance(given, bool) and given):
            raise InvalidArgument(
                "password must be a non-empty string, a function, False or None. "
                "Pass password=False for a repository without encryption."
            )
        self._given = given
        self._found: str | None = None

    @property
    def is_refused(self) -> bool:
        """Whether the user explicitly wants no encryption: `password=False`."""
        return self._given is False

    def __call__(self) -> str | None:
        """Return the password, or None if none is configured or wanted.

        Raises:
            WrongPassword: The configured password is empty or cannot be read.
        """
        if self._found is None and self._given is not False:
            if isinstance(self._given, str):
                self._found = self._given
            else:
                self._found = (self._given or configured_password)()
                if self._found == "":
                    raise WrongPassword(
                        "The configured password is empty. Configure one, or pass password=False for a repository "
                        "without encryption."
                    )
        return self._found

    @property
    def origin(self) -> str:
        """A sentence for messages that says what the password came from. Empty if it was passed as it is."""
        given = self._given
        source = given.source if isinstance(given, PasswordFrom) else None if given else password_setting()
        return f" The password came from {source}." if source else ""

    def use(self, password: str) -> None:
        """Use another password from now on."""
        self._given = self._found = password


def password_setting() -> str | None:
    """Return the name of the environment variable that configures the password, or None."""
    if PASSWORD_SETTING in os.environ:
        return PASSWORD_SETTING
    return next((each for each in (PASSWORD_FILE_SETTING, PASSWORD_COMMAND_SETTING) if os.environ.get(each)), None)


def configured_password() -> str | None:
    """Return the password that is configured in the environment, or None.

    Raises:
        WrongPassword: It is empty or cannot be read. A missing secret must not mean that data is not encrypted.
    """
    setting = password_setting()
    if setting is None:
        return None
    found = os.environ[setting]
    if setting == PASSWORD_FILE_SETTING:
        return password_from_file(found)
    if setting == PASSWORD_COMMAND_SETTING:
        return password_from_command(found)
    if not found:
        raise WrongPassword(
            f"{PASSWORD_SETTING} is set, but empty. Set it to the password, or unset it. For a repository without "
            "encryption, pass password=False or --no-password."
        )
    return found


def password_from_command(command: str) -> str:
    """Return the output of a shell command, without the line break at its end.

    Raises:
        WrongPassword: The command failed, or printed nothing.
    """
    done = subprocess.run(command, shell=True, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise WrongPassword(f"The password command failed (exit {done.returncode}). Run it yourself to see why.")
    return _line(done.stdout, "The password command")


def password_from_file(path: str | os.PathLike[str]) -> str:
    """Return the content of a key file, without the line break at its end.

    Raises:
        WrongPassword: The file cannot be read, is empty, or is not a key file.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise WrongPassword(
            f"The password file {os.fspath(path)} cannot be read ({error.strerror}). The repository "
            "was not opened. Check the path."
        ) from None
    return _line(data, f"The password file {os.fspath(path)}")


def _line(data: bytes, source: str) -> str:
    if len(data) > _MOST_BYTES:
        raise WrongPassword(f"{source} gave more than {_MOST_BYTES // 1024} KiB, which cannot be a password.")
    try:
        password = data.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise WrongPassword(
            f"{source} gave bytes that are not UTF-8. Encode a binary key, for example in base64."
        ) from None
    if not password:
        raise WrongPassword(f"{source} gave an empty password.")
    return password
