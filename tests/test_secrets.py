"""No secret is in anything that a run leaves: logs, parameters, states, events, artifacts, errors, the repository."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import database_servers
import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL
from prefect.types import SecretDict
from prefect_aws import AwsCredentials
from prefect_support import events_about
from pydantic import SecretStr
from servers import BUCKET

from prefect_snapshots import BackupDatabase, SnapshotRepository
from prefect_snapshots.repository.location import open_location

pytestmark = pytest.mark.xdist_group("prefect")

RUN = """
import sys
from prefect import flow, get_run_logger
from prefect_snapshots import BackupDatabase, BackupManager, SnapshotManager, SnapshotRepository, save_snapshot
from prefect_snapshots import use_repository
from prefect_snapshots.flows import create_backup

mark, place = sys.argv[1:]

@flow
def everything(repository: SnapshotRepository, database: BackupDatabase, mark: str):
    get_run_logger().info("%s %r %s", mark, repository, database)
    with use_repository(repository):
        save_snapshot({"value": 1}, "one", name=mark)
    backup = BackupManager(repository, name=mark, databases=[database.get_database()]).create_backup("nightly")
    get_run_logger().info("%s %r", backup, database.get_database())
    create_backup("nightly", mark, ["prefect-snapshots-backup-database/" + mark], repository=place)
    same = {"storage_options": repository.storage_options, "credentials": repository.credentials}
    closed = SnapshotRepository(url=repository.url, **same, password="not it")
    nowhere = SnapshotRepository(url="s3://no-such-bucket", **same, password=repository.password)
    unreachable = BackupDatabase(url="redis://127.0.0.1:9", password=database.password)
    for wrong in (
        lambda: SnapshotManager(closed)["one"],
        lambda: SnapshotManager(nowhere)["one"],
        lambda: BackupManager(repository, databases=[unreachable.get_database()]).create_backup("x"),
        lambda: SnapshotRepository(url="gs://bucket", credentials=repository.credentials),
        lambda: SnapshotRepository(url="s3://bucket", storage_options=[repository.storage_options.get_secret_value()]),
    ):
        try:
            wrong()
        except Exception:
            get_run_logger().exception("as it has to be")
        else:
            raise AssertionError
    raise RuntimeError(mark)

everything(SnapshotRepository.load(mark), BackupDatabase.load(mark), mark)
"""


def test_no_secret_shows_in_anything_that_a_run_leaves(prefect_server: str, moto_endpoint: str, tmp_path: Path) -> None:
    hidden = {
        what: f"{what}-{secrets.token_hex(16)}" for what in ("password", "storage-option", "credentials", "inline")
    }
    mark, home = f"mark-{uuid.uuid4().hex}", tmp_path / "home"
    client: Any = {"endpoint_url": moto_endpoint}
    credentials = AwsCredentials(
        aws_access_key_id="S3RVER", aws_secret_access_key=SecretStr(hidden["credentials"]), aws_client_parameters=client
    )
    credentials.save(mark)
    url = f"s3://{BUCKET}/{mark}"
    with database_servers.redis() as redis:
        BackupDatabase(url=f"redis://127.0.0.1:{redis.port}", password=SecretStr(database_servers.PASSWORD)).save(mark)
        SnapshotRepository(
            url=url,
            credentials=credentials,
            storage_options=SecretDict({"secret": hidden["storage-option"]}),
            password=SecretStr(hidden["password"]),
        ).save(mark)
        # Credentials that are saved with the block, and not by themselves.
        inline = credentials.model_copy(update={"aws_secret_access_key": SecretStr(hidden["inline"])})
        inline._block_document_id = None
        SnapshotRepository(url=url, credentials=inline).save(f"{mark}-inline")
        done = subprocess.run(
            [sys.executable, "-c", RUN, mark, str(tmp_path / "repository")],
            cwd=tmp_path,
            env={**os.environ, "PREFECT_API_URL": prefect_server, "PREFECT_HOME": str(home)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    assert done.stdout.count("as it has to be") == 5, done.stdout
    assert f"RuntimeError: {mark}" in done.stdout
    events_about(f"prefect-snapshots.backups.{mark}", expected=1)

    database = Path(str(PREFECT_API_DATABASE_CONNECTION_URL.value()).partition("///")[2])
    left = {
        "the output": done.stdout.encode(),
        "the answers of the server": shown_by_the_server(mark),
        "the database of the server": b"".join(path.read_bytes() for path in database.parent.glob(f"{database.name}*")),
        "files": b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()),
        "the bucket": bucket(url, moto_endpoint),
    }
    for where in ("the output", "the answers of the server", "the database of the server"):
        assert mark.encode() in left[where], f"the run did not reach {where}"
    assert all(left.values())
    shown = [
        f"{what} in {where}"
        for what, secret in {**hidden, "database password": database_servers.PASSWORD}.items()
        for where, data in left.items()
        if any(form in data for form in forms(secret))
    ]
    assert shown == []


def forms(secret: str) -> Iterable[bytes]:
    """What a secret looks like as it is, in JSON of both kinds, in JSON within JSON, and in a representation."""
    once = [json.dumps(secret, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False)]
    twice = [json.dumps(form, ensure_ascii=False)[1:-1] for form in once]
    return {form.encode() for form in (secret, *once, *twice, repr(secret)[1:-1])}


def shown_by_the_server(mark: str) -> bytes:
    """The blocks as the forms of the UI get them."""
    slugs = {
        "aws-credentials": [mark],
        "prefect-snapshots-backup-database": [mark],
        "prefect-snapshots-repository": [mark, f"{mark}-inline"],
    }
    with get_client(sync_client=True) as client:
        return "\n".join(
            client.read_block_document_by_name(name, slug, include_secrets=False).model_dump_json()
            for slug, names in slugs.items()
            for name in names
        ).encode()


def bucket(url: str, endpoint: str) -> bytes:
    location = open_location(url, {"endpoint_url": endpoint, "key": "S3RVER", "secret": "S3RVER"})
    return b"".join(location.read(info.path) for info in location.list(""))
