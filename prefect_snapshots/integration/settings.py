"""The settings of this integration. Prefect reads them from the environment, TOML files and the active profile."""

from __future__ import annotations

from prefect.settings.base import PrefectBaseSettings, build_settings_config
from pydantic import Field, SecretStr


class SnapshotsSettings(PrefectBaseSettings):
    """The default repository, its password, and what flow runs may do: the settings `PREFECT_INTEGRATIONS_SNAPSHOTS_*`.

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
