"""Which repository a run uses, and the block that says so: a first-party block in every respect."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.testing.standard_test_suites.blocks import BlockStandardTestSuite
from prefect.types import SecretDict
from pydantic import SecretStr

from prefect_snapshots import (
    BackupDatabase,
    Repository,
    SnapshotManager,
    SnapshotRepository,
    use_repository,
)
from prefect_snapshots.errors import EphemeralRepositoryError, InvalidArgument, RepositoryError, WrongPassword
from prefect_snapshots.integration.blocks import current_repository

pytestmark = pytest.mark.xdist_group("prefect")

PREFIX = "PREFECT_INTEGRATIONS_SNAPSHOTS_"


BLOCKS: list[type[Block]] = [
    SnapshotRepository,
    BackupDatabase,
]


class TestStandards(BlockStandardTestSuite):
    @pytest.fixture(params=BLOCKS, ids=lambda block: block.__name__)
    def block(self, request: pytest.FixtureRequest) -> type[Block]:
        found: type[Block] = request.param
        return found

    def test_the_form_shows_no_marks_and_says_whose_block_it_is(self, block: type[Block]) -> None:
        assert "`" not in "".join(str(field.description) for field in block.model_fields.values())
        assert "`" not in str(block.get_description())
        assert "pip install prefect-snapshots" in str(block.get_description())

    def test_the_form_shows_in_groups_what_belongs_together(self) -> None:
        where, encryption = ["url", "credentials", "storage_options", "repository_id"], ["password", "no_password"]
        use, results = ["read_only", "allow_pickle", "compression"], ["results", "durable_results", "keep_read_results"]
        properties = SnapshotRepository.model_json_schema()["properties"]
        assert [*properties] == where + encryption + use + results
        assert {name for name in properties if properties[name]["description"].startswith("Results:")} == {*results}

    def test_has_a_valid_image(self, block: type[Block]) -> None:
        assert str(block._logo_url).endswith(".png")  # the suite would fetch it from the network


@pytest.fixture
def saved(prefect_server: str) -> Iterator[Callable[..., SnapshotRepository]]:
    """Saves blocks, by name, and removes them."""
    names: list[str] = []

    def save(name: str, **fields: Any) -> SnapshotRepository:
        block = SnapshotRepository(**fields)
        block.save(name)
        names.append(name)
        return block

    yield save
    for name in names:
        SnapshotRepository.delete(name)


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, in an environment without settings of ours."""
    monkeypatch.chdir(tmp_path)
    for name in ("REPOSITORY", "PASSWORD", "PASSWORD_COMMAND"):
        monkeypatch.delenv(PREFIX + name, raising=False)
    return tmp_path


# --- the block -------------------------------------------------------------------------------------------------------


def test_a_saved_block_opens_the_same_repository(saved: Callable[..., SnapshotRepository], directory: Path) -> None:
    name = f"block-{uuid.uuid4().hex}"
    options = SecretDict({"auto_mkdir": True})
    saved(name, url=str(directory / "there"), storage_options=options, password=SecretStr("a secret"))
    loaded = SnapshotRepository.load(name)
    assert isinstance(loaded, SnapshotRepository)
    repository = loaded.get_repository()
    SnapshotManager(repository).save_snapshot("value", "id")
    assert repository.encrypted
    assert repository.location.storage_options["auto_mkdir"] is True
    assert SnapshotManager(Repository(directory / "there", password="a secret"))["id"].data == "value"


def test_secrets_are_not_shown() -> None:
    options = SecretDict({"key": "access", "secret": "hidden-option"})
    block = SnapshotRepository(url="s3://bucket", storage_options=options, password=SecretStr("hidden-password"))
    for shown in (repr(block), str(block), str(block.model_dump()), block.model_dump_json()):
        assert "hidden" not in shown


def test_equal_blocks_share_a_repository(directory: Path) -> None:
    assert SnapshotRepository(url="a").get_repository() is SnapshotRepository(url="a").get_repository()
    assert SnapshotRepository(url="a").get_repository() is not SnapshotRepository(url="b").get_repository()
    assert SnapshotRepository(url="a", read_only=True).get_repository().read_only


def test_managers_take_a_block(directory: Path) -> None:
    SnapshotManager(SnapshotRepository(url="there")).save_snapshot(1, "one")
    assert SnapshotManager(directory / "there")["one"].data == 1
    with use_repository(SnapshotRepository(url="there")) as repository:
        assert repository.url.endswith("/there")


# --- which repository ------------------------------------------------------------------------------------------------


def test_the_order_in_which_everything_is_asked(
    saved: Callable[..., SnapshotRepository], directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert current_repository().url == f"file://{directory}/snapshots"
    saved("default", url=str(directory / "block"))
    assert current_repository().url == f"file://{directory}/block"
    monkeypatch.setenv(PREFIX + "REPOSITORY", str(directory / "setting"))
    assert current_repository().url == f"file://{directory}/setting"
    with use_repository(directory / "used"):
        assert current_repository().url == f"file://{directory}/used"
        assert current_repository("memory://url").url == "memory://url"
        assert current_repository(directory / "path").url == f"file://{directory}/path"
        assert current_repository(SnapshotRepository(url="memory://block")).url == "memory://block"
        explicit = Repository("memory://repository")
        assert current_repository(explicit) is explicit


def test_a_relative_path_follows_the_working_directory(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (directory / "elsewhere").mkdir()
    first = current_repository("here")
    assert current_repository("here") is first
    monkeypatch.chdir(directory / "elsewhere")
    assert current_repository("here").url == f"file://{directory}/elsewhere/here"


def test_settings_come_from_a_profile(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (directory / "profiles.toml").write_text(
        f'active = "mine"\n[profiles.mine]\n{PREFIX}REPOSITORY = "{directory}/profile"\n{PREFIX}PASSWORD = "secret"\n'
    )
    monkeypatch.setenv("PREFECT_PROFILES_PATH", str(directory / "profiles.toml"))
    monkeypatch.delenv("PREFECT_PROFILE", raising=False)
    SnapshotManager(current_repository()).save_snapshot(1, "one")
    assert SnapshotManager(Repository(directory / "profile", password="secret"))["one"].data == 1


def test_settings_come_from_the_file_of_a_project(directory: Path) -> None:
    (directory / "prefect.toml").write_text(f'[integrations.snapshots]\nrepository = "{directory}/project"\n')
    assert current_repository().url == f"file://{directory}/project"


def test_a_wrong_password_says_where_it_came_from(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = str(directory / "encrypted")
    SnapshotManager(Repository(url, password="right"), name="train").save_snapshot(1)
    block = SnapshotRepository(url=url, password=SecretStr("not this"))
    with pytest.raises(WrongPassword, match=r"Nothing was read .* The password came from the block") as caught:
        block.get_repository().stats()
    assert "not this" not in str(caught.value)
    with pytest.raises(WrongPassword, match="says that it is not"):
        SnapshotRepository(url=url, no_password=True).get_repository().stats()
    monkeypatch.setenv("PREFECT_INTEGRATIONS_SNAPSHOTS_PASSWORD", "wrong")
    with pytest.raises(WrongPassword, match="came from PREFECT_INTEGRATIONS_SNAPSHOTS_PASSWORD"):
        SnapshotRepository(url=url).get_repository().stats()
    with pytest.raises(InvalidArgument, match="must be a string or a path, not int"):
        Repository(5)  # type: ignore[arg-type]


def test_the_password_comes_from_a_command_when_it_is_needed(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SnapshotManager(current_repository("open")).save_snapshot(1, "one")
    monkeypatch.setenv(PREFIX + "PASSWORD_COMMAND", "echo asked >> asked; echo a secret")
    for _ in range(3):
        SnapshotManager(current_repository("encrypted")).save_snapshot(1)
    assert len(SnapshotManager(Repository("encrypted", password="a secret"))) == 3
    assert SnapshotManager(SnapshotRepository(url="open", no_password=True))["one"].data == 1
    assert (directory / "asked").read_text() == "asked\n"
    monkeypatch.setenv(PREFIX + "PASSWORD_COMMAND", "exit 3")
    with pytest.raises(WrongPassword, match="exit 3"):
        SnapshotManager(current_repository("another")).save_snapshot(1)


def test_a_default_that_the_server_does_not_tell_is_not_guessed(directory: Path) -> None:
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        pytest.raises(RepositoryError, match="Set PREFECT_INTEGRATIONS_SNAPSHOTS_REPOSITORY"),
    ):
        current_repository()


# --- deployed --------------------------------------------------------------------------------------------------------


@flow(name="tells its repository")
def tell_repository(explicit: str | None = None) -> str:
    return current_repository(explicit).url


def run_deployed(**parameters: Any) -> Any:
    """Run the flow as a worker would: a flow run of a deployment, created on the server."""
    deployment: Any = tell_repository.to_deployment("deployed")
    deployment_id = deployment.apply()
    with get_client(sync_client=True) as client:
        flow_run = client.create_flow_run_from_deployment(deployment_id)
    return run_flow(tell_repository, flow_run=flow_run, parameters=parameters)


def test_a_deployed_run_keeps_nothing_in_its_own_directory(prefect_server: str, directory: Path) -> None:
    assert tell_repository() == f"file://{directory}/snapshots"
    with pytest.raises(
        EphemeralRepositoryError,
        match=r"Set PREFECT_INTEGRATIONS_SNAPSHOTS_REPOSITORY in the environment of the worker",
    ):
        run_deployed()
    assert run_deployed(explicit="./snapshots") == f"file://{directory}/snapshots"


def test_a_deployed_run_uses_what_was_said(
    saved: Callable[..., SnapshotRepository], directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved("default", url=str(directory / "block"))
    assert run_deployed() == f"file://{directory}/block"
    monkeypatch.setenv(PREFIX + "REPOSITORY", str(directory / "setting"))
    assert run_deployed() == f"file://{directory}/setting"
