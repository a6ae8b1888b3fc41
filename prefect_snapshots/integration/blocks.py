"""The block that configures a repository, and the rules that decide which repository a run uses.

The block is also a file system for Prefect's results, which the module `results` stores.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
from typing import Any, Literal, Self

import httpx
from prefect import runtime
from prefect.blocks.core import schema_extra
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.filesystems import WritableFileSystem
from prefect.settings import get_current_settings
from prefect.types import SecretDict
from pydantic import ConfigDict, Field, HttpUrl, SecretStr, ValidationInfo, field_validator, model_validator

from ..errors import EphemeralRepositoryError, InvalidArgument, RepositoryError
from ..reports.diagnosis import look_at_repository
from ..repository.choosing import RepositoryLike, selected_repository
from ..repository.passwords import (
    PASSWORD_SETTING,
    Password,
    PasswordFrom,
    password_from_command,
    password_from_file,
)
from ..repository.repository import DEFAULT_URL, SETTING, Repository, unnamed_place
from ..repository.sealing import Compression
from ..results import ResultLog
from .credentials import FORMS, Credentials, credentials_for, storage_options
from .private_apis import async_dispatch, load_block
from .result_gate import check_result
from .settings import SnapshotsSettings

DEFAULT_BLOCK = "default"
_BLOCK = "prefect-snapshots-repository/"
DEFAULT_SLUG = f"{_BLOCK}{DEFAULT_BLOCK}"


def _with_secret_credentials(schema: dict[str, Any], model: type[SnapshotRepository]) -> None:
    """Make Prefect hide credentials in this block. By default it hides only those in nested blocks."""
    schema_extra(schema, model)
    schema["secret_fields"].append("credentials.*")


class SnapshotRepository(WritableFileSystem):
    """
    Where prefect-snapshots keeps snapshots, checkpoints, artifacts and backups: a directory or a bucket.

    Save it under the name "default" to make it the repository of every flow that names no other. As result_storage or
    key_storage it keeps the persisted results of any task. Test it with the flow "doctor". This block is part of the
    package prefect-snapshots: pip install prefect-snapshots.

    Example:
        Load a repository and use it in plain Python:
        ```python
        from prefect_snapshots import SnapshotRepository, SnapshotManager

        repository = SnapshotRepository.load("BLOCK_NAME").get_repository()
        manager = SnapshotManager(repository, name="experiment")
        ```
    """

    _block_type_name = "Snapshots: Repository"
    _block_type_slug = "prefect-snapshots-repository"
    _logo_url = HttpUrl(
        "https://raw.githubusercontent.com/PrefectHQ/prefect/420d0d6a78bb6df1fc18bcf188fdad43c1d22ea9/assets/block-logos/filesystem.png"
    )
    _documentation_url = HttpUrl("https://docs.prefect.io/v3/advanced/results")

    # An invalid value may be a secret in the wrong field, so errors must not show it.
    model_config = ConfigDict(json_schema_extra=_with_secret_credentials, hide_input_in_errors=True)

    # The form shows the fields in this order.

    # Where it is.
    url: str = Field(
        title="URL",
        description="Where the repository is: a directory, or any fsspec URL such as s3://bucket/prefix.",
        examples=["s3://bucket/snapshots", "gs://bucket/snapshots", "/mnt/shared/snapshots"],
    )
    credentials: Credentials | None = Field(
        default=None,
        json_schema_extra={"anyOf": FORMS},
        description="AwsCredentials or MinIOCredentials for s3://, GcpCredentials for gs://.",
    )
    storage_options: SecretDict = Field(
        default_factory=lambda: SecretDict({}),
        title="Storage Options",
        description="Options of the fsspec file system, such as endpoint and keys. They override the credentials.",
    )
    repository_id: str | None = Field(
        default=None,
        title="Repository ID",
        description="The id that the repository must have. prefect-snapshots stats shows it.",
    )

    # Encryption.
    password: SecretStr | None = Field(
        default=None,
        description=(
            "Encrypts a new repository, or opens an encrypted one. Default: the setting "
            "PREFECT_INTEGRATIONS_SNAPSHOTS_PASSWORD. If you lose it, you lose the data."
        ),
    )
    no_password: bool = Field(
        default=False,
        title="No Password",
        description="Open or create a repository without encryption, even if a password is set elsewhere.",
    )

    # What may be done with it.
    read_only: bool = Field(default=False, title="Read Only", description="Refuse every write.")
    allow_pickle: bool = Field(
        default=True,
        title="Allow Pickle",
        description="Load data that was stored with pickle. Turn this off if people you do not trust can write.",
    )
    compression: Literal["auto", "high", "none"] = Field(
        default="auto",
        description="How to compress new data. auto uses zstd if it saves space, high takes longer.",
    )

    # As the storage of results.
    results: str = Field(
        default="default",
        description=(
            "Results: the namespace of those that this block stores. Prefect uses the same keys in result_storage "
            "and key_storage. If both use one repository, use different names in their blocks."
        ),
    )
    durable_results: bool = Field(
        default=True,
        title="Durable Results",
        description=(
            "Results: in a directory, wait until one of up to 64 KB survives a loss of power. Turn this off for faster "
            "writes: a crash of the machine can then lose or damage the last results."
        ),
    )
    keep_read_results: bool = Field(
        default=False,
        title="Keep Read Results",
        description="Results: those that are read count as new for the flow expire_results with by='read'.",
    )

    def get_repository(self) -> Repository:
        """Return the repository, without reading or writing anything yet. Equal blocks in a process share it."""
        said = storage_options(self.credentials) if self.credentials else {}
        options = json.dumps(said | self.storage_options.get_secret_value(), sort_keys=True)
        password = self.password.get_secret_value() if self.password else None
        return _open(
            os.getcwd(),
            self.url,
            options,
            False if self.no_password else password,
            self.repository_id,
            self.compression,
            self.allow_pickle,
            self.read_only,
        )

    def check(self) -> list[str]:
        """Test whether the repository can be opened and written from here.

        It creates an object and deletes it. `Repository.check` verifies the data.

        Returns:
            What was found.

        Raises:
            SnapshotsError: It cannot be used.
        """
        return [*look_at_repository(self.get_repository(), probe=not self.read_only)]

    async def aread_path(self, path: str) -> bytes:
        """Return the result with this key. Every byte is verified.

        Args:
            path: The key of the result.

        Raises:
            ObjectMissing: There is no such result. It is a `FileNotFoundError`, too.
            PickleRefused: Reading it could run code, and the block does not allow pickle.
        """
        data = await asyncio.to_thread(self._log.read, path)
        return check_result(path, data, allow_pickle=self.allow_pickle)

    @async_dispatch(aread_path)
    def read_path(self, path: str) -> bytes:  # type: ignore[override]  # async if called in an event loop
        """Return the result with this key. Every byte is verified.

        Args:
            path: The key of the result.

        Raises:
            ObjectMissing: There is no such result. It is a `FileNotFoundError`, too.
            PickleRefused: Reading it could run code, and the block does not allow pickle.
        """
        return check_result(path, self._log.read(path), allow_pickle=self.allow_pickle)

    async def awrite_path(self, path: str, content: bytes) -> None:
        """Store a result durably under this key. It replaces an older one.

        Args:
            path: The key of the result.
            content: The result, as Prefect has serialised it.
        """
        check_result(path, content, allow_pickle=self.allow_pickle)
        await asyncio.to_thread(self._log.write, path, content)

    @async_dispatch(awrite_path)
    def write_path(self, path: str, content: bytes) -> None:  # type: ignore[override]
        """Store a result durably under this key. It replaces an older one.

        Args:
            path: The key of the result.
            content: The result, as Prefect has serialised it.
        """
        self._log.write(path, check_result(path, content, allow_pickle=self.allow_pickle))

    @model_validator(mode="after")
    def _check_password(self) -> Self:
        if self.no_password and self.password is not None:
            raise ValueError("Set either a password or no_password, not both.")
        return self

    @field_validator("credentials", mode="before")
    @classmethod
    def _check_credentials(cls, given: object, info: ValidationInfo) -> object:
        # If the URL itself is invalid, the error about the URL is enough.
        return credentials_for(info.data["url"], given) if given is not None and "url" in info.data else given

    @property
    def _log(self) -> ResultLog:
        return _result_log(self.get_repository(), self.results, self.durable_results, self.keep_read_results)

    def _resolve_path(self, path: str) -> None:
        """Make Prefect keep keys as they are, instead of as paths below the working directory, in an unsaved block."""


def current_repository(explicit: RepositoryLike | None = None) -> Repository:
    """Return the repository to use here.

    The first of these that is given:

    1. the argument `explicit`;
    2. the repository of the enclosing `use_repository`;
    3. the setting `PREFECT_INTEGRATIONS_SNAPSHOTS_REPOSITORY`;
    4. the block `prefect-snapshots-repository/default`, inside a run or if `PREFECT_API_URL` is set;
    5. the directory `./snapshots`.

    The choice between the last two is made once per flow run.

    Args:
        explicit: A repository, a URL or path, a block, or the slug and name of a saved block, such as
            `"prefect-snapshots-repository/team"`. Default: follow the list above.

    Raises:
        InvalidArgument: There is no block with this name.
        EphemeralRepositoryError: Only the directory is left, and the run is deployed: its working directory is
            deleted when it ends.
        RepositoryError: The Prefect server did not answer whether there is a default block.

    Example:
        >>> current_repository("memory://example").url
        'memory://example'
    """
    if isinstance(explicit, str | os.PathLike):
        place = os.fspath(explicit)
        return _of_block(place.removeprefix(_BLOCK)) if place.startswith(_BLOCK) else _opened(place)
    if explicit is not None:
        return explicit if isinstance(explicit, Repository) else explicit.get_repository()
    selected = selected_repository()
    if selected is not None:
        return selected
    configured = SnapshotsSettings().repository
    if configured:
        return _opened(configured)
    context = FlowRunContext.get()
    if context is not None and context.flow_run is not None:
        return _unsaid_in(str(context.flow_run.id), get_current_settings().api.url)
    return _unsaid()


def _of_block(name: str) -> Repository:
    try:
        return load_block(SnapshotRepository, name).get_repository()
    except ValueError as error:
        if not isinstance(error.__cause__, ObjectNotFound):
            raise
        raise InvalidArgument(f"There is no block {_BLOCK + name!r}. Save it first, or check the name.") from error


def _unsaid() -> Repository:
    """Return the repository to use if you name none."""
    block = _default_block()
    if block is not None:
        return block.get_repository()
    if runtime.deployment.id is not None:
        raise EphemeralRepositoryError(
            f"This deployed run would write to {os.path.abspath(DEFAULT_URL)}, which is deleted when the run ends. "
            f"Nothing was written. Set {SETTING} in the environment of the worker, or save a block: "
            f"SnapshotRepository(url=...).save({DEFAULT_BLOCK!r})."
        )
    return _opened(unnamed_place())


@functools.lru_cache(maxsize=32)
def _unsaid_in(flow_run_id: str, api_url: str | None) -> Repository:
    return _unsaid()


def _default_block() -> SnapshotRepository | None:
    inside = FlowRunContext.get() is not None or TaskRunContext.get() is not None
    api_url = get_current_settings().api.url
    if not inside and not api_url:
        return None
    try:
        return load_block(SnapshotRepository, DEFAULT_BLOCK)
    except ValueError as error:
        if isinstance(error.__cause__, ObjectNotFound):
            return None
        raise
    except (httpx.HTTPError, PrefectHTTPStatusError) as error:
        raise RepositoryError(
            f"The Prefect server did not answer whether the block {DEFAULT_SLUG} exists ({error!r}). Nothing was read "
            f"or written. Set {SETTING}, or pass a repository."
        ) from error


def _default_password() -> str | None:
    settings = SnapshotsSettings()
    if settings.password is not None:
        return settings.password.get_secret_value()
    if settings.password_file:
        return password_from_file(settings.password_file)
    return password_from_command(settings.password_command) if settings.password_command else None


def _opened(url: str) -> Repository:
    return _open(os.getcwd(), url)


def _named(password: str | Literal[False] | None) -> Password:
    """Return the password of a block, or else of the settings, with what a message says about where it came from."""
    if password is None:
        return PasswordFrom(
            _default_password, f"{PASSWORD_SETTING}, _FILE or _COMMAND, in the environment, .env or a Prefect profile"
        )
    return password and PasswordFrom(lambda: password, "the block SnapshotRepository")


@functools.lru_cache(maxsize=32)
def _open(
    directory: str,  # part of the cache key: in another directory, a relative path is another repository
    url: str,
    storage_options: str = "{}",
    password: str | Literal[False] | None = None,
    repository_id: str | None = None,
    compression: Compression = "auto",
    allow_pickle: bool = True,
    read_only: bool = False,
) -> Repository:
    return Repository(
        url,
        storage_options=json.loads(storage_options),
        password=_named(password),
        id=repository_id,
        compression=compression,
        allow_pickle=allow_pickle,
        read_only=read_only,
    )


@functools.lru_cache(maxsize=32)
def _result_log(repository: Repository, name: str, durable: bool, keep_read: bool) -> ResultLog:
    return ResultLog(repository, name, durable=durable, keep_read=keep_read)
