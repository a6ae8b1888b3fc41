"""A repository opened with the credentials of Prefect's own integrations, and without them where they are missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
import servers
from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import BlockDocumentCreate
from prefect.types import SecretDict
from prefect_aws import AwsCredentials, MinIOCredentials
from prefect_gcp import GcpCredentials
from prefect_sqlalchemy import ConnectionComponents, SqlAlchemyConnector, SyncDriver
from pydantic import ValidationError
from servers import BUCKET

from prefect_snapshots import BackupDatabase, SnapshotManager, SnapshotRepository
from prefect_snapshots.errors import InvalidArgument, MissingDependency

pytestmark = pytest.mark.xdist_group("prefect")

LOAD = """
import sys
from prefect_snapshots import SnapshotManager, SnapshotRepository

for name in sys.argv[1:]:
    print(SnapshotManager(SnapshotRepository.load(name))["one"].data)
"""


def save(block: Block) -> str:
    """The name under which a block is saved."""
    name = f"test-{uuid.uuid4().hex}"
    block.save(name)
    return name


# --- for real --------------------------------------------------------------------------------------------------------


def test_credentials_open_repositories_in_a_process_that_has_none(
    prefect_server: str,
    moto_endpoint: str,
    gcs_endpoint: str,
    tmp_path: Path,
) -> None:
    with servers.google_tokens() as (token_uri, assertions):
        client: Any = {"endpoint_url": moto_endpoint}
        keys: dict[str, Any] = {"aws_access_key_id": "S3RVER", "aws_secret_access_key": "S3RVER"}
        minio: dict[str, Any] = {"minio_root_user": "S3RVER", "minio_root_password": "S3RVER"}
        account: Any = servers.service_account(token_uri)
        key_file = tmp_path / "key.json"
        key_file.write_text(json.dumps(account))
        kinds: list[tuple[str, Any]] = [
            ("s3", AwsCredentials(**keys, region_name="us-east-1", aws_client_parameters=client)),
            ("s3", MinIOCredentials(**minio, aws_client_parameters=client)),
            ("gs", GcpCredentials(service_account_info=account)),
            ("gs", GcpCredentials(service_account_file=key_file)),
        ]
        names = []
        for protocol, credentials in kinds:
            save(credentials)
            names.append(save_with_a_snapshot(protocol, credentials, gcs_endpoint))
        # Credentials that are saved nowhere else are a part of the block.
        names.append(save_with_a_snapshot("s3", AwsCredentials(**keys, aws_client_parameters=client), gcs_endpoint))
        tokens_given_here = len(assertions)
        alien = ("AWS_", "GOOGLE_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(alien)}
        done = subprocess.run(
            [sys.executable, "-c", LOAD, *names],
            env={**environment, "PREFECT_API_URL": prefect_server},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        assert done.stdout.split() == ["AwsCredentials", "MinIOCredentials", *["GcpCredentials"] * 2, "AwsCredentials"]
        assert len(assertions) >= tokens_given_here + 2 > 2


def save_with_a_snapshot(protocol: str, credentials: Any, gcs_endpoint: str) -> str:
    options: Any = {"endpoint_url": gcs_endpoint} if protocol == "gs" else {}
    url = f"{protocol}://{BUCKET}/{uuid.uuid4().hex}"
    block = SnapshotRepository(url=url, credentials=credentials, storage_options=options)
    SnapshotManager(block).save_snapshot(type(credentials).__name__, "one")
    return save(block)


@pytest.mark.parametrize(
    ("slug", "data", "url"),
    [
        ("aws-credentials", {"aws_access_key_id": "me"}, "s3://bucket"),
        ("minio-credentials", {"minio_root_user": "me", "minio_root_password": "hidden"}, "s3://bucket"),
    ],
    ids=["AwsCredentials", "MinIOCredentials"],
)
def test_what_the_form_of_the_ui_saves_is_loaded(
    prefect_server: str, slug: str, data: dict[str, Any], url: str
) -> None:
    for block in (AwsCredentials, MinIOCredentials, SnapshotRepository):
        block.register_type_and_schema()
    with get_client(sync_client=True) as client:

        def create(slug: str, data: dict[str, Any]) -> Any:
            block_type = client.read_block_type_by_slug(slug)
            schema = client.get_most_recent_block_schema_for_block_type(block_type.id)
            assert schema is not None
            return client.create_block_document(
                BlockDocumentCreate(
                    name=f"test-{uuid.uuid4().hex}", block_type_id=block_type.id, block_schema_id=schema.id, data=data
                )
            )

        reference = {"$ref": {"block_document_id": str(create(slug, data).id)}}
        document = create("prefect-snapshots-repository", {"url": url, "credentials": reference})
    loaded = SnapshotRepository.load(document.name)
    assert isinstance(loaded, SnapshotRepository)
    assert loaded.credentials is not None
    assert loaded.credentials.get_block_type_slug() == slug
    assert loaded.get_repository().location.storage_options["key"] == "me"


# --- what they mean --------------------------------------------------------------------------------------------------


def options_of(url: str, credentials: Any, **explicit: Any) -> dict[str, Any]:
    block = SnapshotRepository(url=url, credentials=credentials, storage_options=SecretDict(explicit))
    return dict(block.get_repository().location.storage_options)


def test_everything_that_s3fs_can_be_told() -> None:
    credentials: dict[str, Any] = {
        "aws_access_key_id": "me",
        "aws_secret_access_key": "secret",
        "aws_session_token": "token",
        "profile_name": "work",
        "region_name": "eu-west-1",
        "aws_client_parameters": {
            "endpoint_url": "https://minio:9000",
            "verify_cert_path": __file__,
            "config": {"s3": {"addressing_style": "path"}},
        },
    }
    assert options_of("s3://bucket", AwsCredentials(**credentials)) == {
        "key": "me",
        "secret": "secret",
        "token": "token",
        "profile": "work",
        "endpoint_url": "https://minio:9000",
        "config_kwargs": {"s3": {"addressing_style": "path"}},
        "client_kwargs": {"use_ssl": True, "region_name": "eu-west-1", "verify": __file__},
    }


def test_minio_has_another_name_for_each() -> None:
    parameters: Any = {"endpoint_url": "https://minio:9000", "verify": False}
    password: Any = "secret"
    credentials = MinIOCredentials(minio_root_user="me", minio_root_password=password, aws_client_parameters=parameters)
    assert options_of("s3://bucket", credentials) == {
        "key": "me",
        "secret": "secret",
        "endpoint_url": "https://minio:9000",
        "client_kwargs": {"use_ssl": True, "verify": False},
    }


def test_storage_options_win() -> None:
    credentials = AwsCredentials(aws_access_key_id="me", region_name="eu-west-1")
    options = options_of("s3://bucket", credentials, key="you", anon=False)
    assert options == {"key": "you", "anon": False, "client_kwargs": {"use_ssl": True, "region_name": "eu-west-1"}}


def test_a_role_is_assumed_by_a_profile() -> None:
    credentials = AwsCredentials(assume_role_arn="arn:aws:iam::1:role/backup")
    with pytest.raises(InvalidArgument, match="profile_name"):
        SnapshotRepository(url="s3://bucket", credentials=credentials).get_repository()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("gs://bucket", "Credentials for gs:// must be GcpCredentials, not AwsCredentials"),
        ("./directory", "work only with s3:// and gs:// URLs"),
    ],
    ids=["gs", "directory"],
)
def test_credentials_for_another_store_are_refused(url: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SnapshotRepository(url=url, credentials=AwsCredentials())


@pytest.mark.parametrize(
    ("package", "extra", "url"),
    [("prefect_aws", "aws", "s3://bucket"), ("prefect_gcp", "gcp", "gs://bucket")],
    ids=["aws", "gcp"],
)
def test_a_missing_integration_is_named(monkeypatch: pytest.MonkeyPatch, package: str, extra: str, url: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # what Python itself understands as: not to be imported
    with pytest.raises(MissingDependency, match=rf'pip install "prefect-snapshots\[{extra}\]"'):
        SnapshotRepository(url=url, credentials={"project": "test"})
    assert SnapshotRepository(url=url).credentials is None


# --- what the form offers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [AwsCredentials, MinIOCredentials, GcpCredentials], ids=lambda block: block.__name__)
def test_the_form_knows_each_kind_as_the_integration_does(block: type[Block]) -> None:
    [form] = [
        form
        for form in SnapshotRepository.model_json_schema()["properties"]["credentials"]["anyOf"]
        if form.get("title") == block.__name__
    ]
    assert form["block_type_slug"] == block.get_block_type_slug()
    assert form["properties"].keys() <= block.model_fields.keys()


# --- databases -------------------------------------------------------------------------------------------------------


def test_a_connector_of_sqlalchemy_becomes_a_database() -> None:
    components = ConnectionComponents(
        driver=SyncDriver.POSTGRESQL_PSYCOPG2,
        username="backup",
        password="hidden p@ss",
        host="db",
        port=5433,
        database="shop",
        query={"sslmode": "require"},
    )
    for info in (components, "postgresql+psycopg2://backup:hidden%20p%40ss@db:5433/shop?sslmode=require"):
        block = BackupDatabase.from_block(SqlAlchemyConnector(connection_info=info))
        assert block.url == "postgresql://backup@db:5433/shop?sslmode=require"
        assert block.password is not None
        assert block.password.get_secret_value() == "hidden p@ss"
