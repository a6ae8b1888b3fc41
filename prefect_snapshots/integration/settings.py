"""The settings of this integration. Prefect reads them from the environment, TOML files and the active profile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect.settings.base import PrefectBaseSettings, build_settings_config
from pydantic import Field, SecretStr

from ..errors import InvalidArgument
from ..private_files import why_forgeable

_FILES = (".env", "prefect.toml", "pyproject.toml")
"""Where Prefect looks for settings in the working directory."""


class SnapshotsSettings(PrefectBaseSettings):
    """The default repository, its password, and what flow runs may do: the settings `PREFECT_INTEGRATIONS_SNAPSHOTS_*`.

    Raises:
        InvalidArgument: Settings in the working directory could run programs, and belong to somebody else or can be
            written to by all users.

    Example:
        >>> SnapshotsSettings(repository="memory://example").repository
        'memory://example'
    """

    model_config = build_settings_config(("integrations", "snapshots"))

    repository: str | None = Field(default=None, description="The URL of the default repository.")
    password: SecretStr | None = Field(default=None, description="The password of encrypted repositories.")
    password_file: str | None = Field(
        default=None, description="A file that holds the password, read if no password is set."
    )
    password_command: str | None = Field(
        default=None, description="A command that prints the password, run if no password and no file is set."
    )
    allow_commands: bool = Field(
        default=False,
        description="Whether the parameters of a flow run may name commands, which run as the user of the worker.",
    )

    def __init__(self, **values: Any) -> None:
        for name in _FILES:
            _refuse_forgeable(Path(name))
        super().__init__(**values)


def _refuse_forgeable(file: Path) -> None:
    try:
        why = why_forgeable(file, ".")
        if why is None or (file.is_file() and b"prefect" not in file.name.encode() + file.read_bytes().lower()):
            return
    except OSError:  # there is none, and what cannot be read has no effect
        return
    raise InvalidArgument(
        f"{file.absolute()} {why}, and settings of Prefect in it could run programs as you. Nothing was done. If you "
        "trust it, correct its owner or permissions. Otherwise work in a directory of your own."
    )
