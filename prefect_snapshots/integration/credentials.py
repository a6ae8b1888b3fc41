"""Turn credential blocks of Prefect's own integrations into fsspec options for a repository.

Importing prefect-aws or prefect-gcp takes seconds, and both are optional. So a class is imported only when its
credentials are used, and `FORMS` describes it to Prefect's UI.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic import JsonValue

from ..errors import InvalidArgument, MissingDependency

if TYPE_CHECKING:
    from prefect_aws import AwsCredentials, MinIOCredentials
    from prefect_gcp import GcpCredentials

    Credentials: TypeAlias = AwsCredentials | MinIOCredentials | GcpCredentials
else:
    Credentials = Any


def _form(name: str, slug: str, *fields: str) -> JsonValue:
    """Return the JSON schema of one type of credentials, with which both UIs of Prefect offer saved blocks.

    The older UI needs `type` and `blockTypeSlug`. The newer one needs `block_type_slug`, and tells the type of a saved
    block by its fields.
    """
    properties: dict[str, JsonValue] = {field: {} for field in fields}
    return {"title": name, "type": "block", "blockTypeSlug": slug, "block_type_slug": slug, "properties": properties}


_CLIENT = ("region_name", "aws_client_parameters")
_KEYS = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token", "profile_name")

FORMS: list[JsonValue] = [
    {"type": "null"},
    _form("AwsCredentials", "aws-credentials", *_KEYS, *_CLIENT),
    _form("MinIOCredentials", "minio-credentials", "minio_root_user", "minio_root_password", *_CLIENT),
    _form("GcpCredentials", "gcp-credentials", "service_account_file", "service_account_info", "project"),
]
"""The JSON schema of the field: no credentials, or a saved block of one of these types."""


def credentials_for(url: str, given: object) -> Credentials:
    """Return the credentials of a repository, from a block or from its saved fields.

    Raises:
        InvalidArgument: The credentials do not fit this URL.
        MissingDependency: The Prefect integration with this block is not installed.
    """
    protocol = url.partition("://")[0]
    if protocol in {"s3", "s3a"}:
        package, extra, names = "prefect_aws", "aws", ["AwsCredentials", "MinIOCredentials"]
    elif protocol in {"gs", "gcs"}:
        package, extra, names = "prefect_gcp", "gcp", ["GcpCredentials"]
    else:
        raise InvalidArgument("Credential blocks work only with s3:// and gs:// URLs. Leave out the credentials.")
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        raise MissingDependency(
            f'Credentials for {protocol}:// need the package {package}. Run `pip install "prefect-snapshots[{extra}]"`.'
        ) from error
    if isinstance(given, dict):
        name = "MinIOCredentials" if "minio_root_user" in given else names[0]
        return getattr(module, name).model_validate(given)
    if isinstance(given, tuple(getattr(module, name) for name in names)):
        return given
    raise InvalidArgument(f"Credentials for {protocol}:// must be {' or '.join(names)}, not {type(given).__name__}.")


def storage_options(credentials: Credentials) -> dict[str, Any]:
    """Return the options with which s3fs or gcsfs uses these credentials."""
    return _OPTIONS[credentials.get_block_type_slug()](credentials)


def _of_aws(credentials: AwsCredentials) -> dict[str, Any]:
    if credentials.assume_role_arn:
        raise InvalidArgument(
            f"The role {credentials.assume_role_arn} would be assumed only once, and its credentials expire within "
            "hours. Set role_arn in a profile in ~/.aws/config, and pass its profile_name."
        )
    secret = credentials.aws_secret_access_key
    return _given(
        key=credentials.aws_access_key_id,
        secret=secret and secret.get_secret_value(),
        token=credentials.aws_session_token,
        profile=credentials.profile_name,
        **_of_client(credentials),
    )


def _of_minio(credentials: MinIOCredentials) -> dict[str, Any]:
    return {
        "key": credentials.minio_root_user,
        "secret": credentials.minio_root_password.get_secret_value(),
        **_of_client(credentials),
    }


def _of_client(credentials: AwsCredentials | MinIOCredentials) -> dict[str, Any]:
    client = credentials.aws_client_parameters.model_dump(mode="json", exclude_none=True)
    bundle = client.pop("verify_cert_path", None)
    return _given(
        endpoint_url=client.pop("endpoint_url", None),
        config_kwargs=client.pop("config", None),
        client_kwargs=client | _given(region_name=credentials.region_name, verify=bundle),
    )


def _of_gcp(credentials: GcpCredentials) -> dict[str, Any]:
    info, file = credentials.service_account_info, credentials.service_account_file
    return _given(
        token=info.get_secret_value() if info else file and str(file),
        project=credentials.project,
    )


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


_OPTIONS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "aws-credentials": _of_aws,
    "minio-credentials": _of_minio,
    "gcp-credentials": _of_gcp,
}
