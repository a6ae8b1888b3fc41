"""The flows over backups do what the manager does, ask before they replace data, and leave a history in Prefect."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flat_database import Flat
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import StateType
from prefect.flow_runs import resume_flow_run
from prefect.settings import get_current_settings
from prefect_support import artifacts_of, events_about, flush, paused_run
from pydantic import SecretStr

from prefect_snapshots import BackupManager, RetentionPolicy
from prefect_snapshots.backups.sources import Dump, DumpNote
from prefect_snapshots.errors import (
    BackupFailed,
    CommandRefused,
    ConfirmationRequired,
    IntegrityError,
    InvalidArgument,
    SourceUnusable,
)
from prefect_snapshots.flows import (
    backup_prefect_server,
    cleanup_backups,
    create_backup,
    restore_backup,
    restore_drill,
)
from prefect_snapshots.integration.database_blocks import BackupDatabase, load_database

pytestmark = [pytest.mark.xdist_group("prefect"), pytest.mark.usefixtures("prefect_server")]


@pytest.fixture
def name() -> str:
    """A name that no other test reports on."""
    return f"tests-{uuid.uuid4().hex}"


@pytest.fixture
def place(tmp_path: Path, name: str) -> Path:
    """A directory with a database of ten rows and a folder with a file. No other test has had a repository there."""
    tmp_path = tmp_path / name
    tmp_path.mkdir()
    database = sqlite3.connect(tmp_path / "app.db")
    database.execute("CREATE TABLE users (name TEXT)")
    database.executemany("INSERT INTO users VALUES (?)", [(f"user {number}",) for number in range(10)])
    database.commit()
    database.close()
    (tmp_path / "uploads").mkdir()
    (tmp_path / "uploads" / "photo").write_bytes(bytes(100_000))
    return tmp_path


def rows(place: Path) -> int:
    database = sqlite3.connect(place / "app.db")
    count: int = database.execute("SELECT count(*) FROM users").fetchone()[0]
    database.close()
    return count


def made(place: Path, name: str, description: str = "", **options: Any) -> Any:
    databases, directories = [str(place / "app.db")], [str(place / "uploads")]
    return create_backup(description, name, databases, directories, repository=str(place / "repository"), **options)


def test_a_backup_is_made_and_told(place: Path, name: str) -> None:
    backup = made(place, name, "Before it", tags=["weekly"])
    assert (backup.description, backup.tags, backup.run["flow"]) == ("Before it", ("weekly",), "create-backup")
    permanent = made(place, name, permanent=True)
    flush()
    first, second = sorted((str(page.data) for page in artifacts_of(name, "backups")), key=len)
    assert first.startswith("## " + backup.name.replace("_", "\\_"))
    assert "| `uploads` | directory | 100.0\N{NO-BREAK SPACE}kB |" in first
    assert second.startswith("## 📌 " + permanent.name.replace("_", "\\_"))
    assert f"| `{backup.name}` |" in second
    [event, _] = events_about(f"prefect-snapshots.backups.{name}", 2)
    assert event.event == "prefect-snapshots.backup.created"
    assert (event.payload["backup"], event.payload["rows"], event.payload["files"]) == (backup.name, 10, 3)
    assert event.payload["incomplete"] is False


class Partial(Flat):
    """A database whose dump leaves something out."""

    @contextmanager
    def dump(self) -> Iterator[Dump]:
        with super().dump() as dump:
            dump.notes = [DumpNote(f"View v{number} is left out.", left_out=True) for number in range(4)]
            yield dump


def test_a_run_that_left_something_out_completes_with_warnings(
    place: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_SNAPSHOTS_ALLOW_COMMANDS", "true")
    monkeypatch.setattr("prefect_snapshots.flows.backups.named_database", lambda path: Partial(Path(path)))
    databases, repository = [str(place / "uploads" / "photo")], str(place / "repository")
    state = create_backup(name=name, databases=databases, repository=repository, after=[["false"]], return_state=True)
    backup = state.result()
    assert (state.type, state.name) == (StateType.COMPLETED, "Completed with warnings")
    part = backup.parts[0].name
    assert state.message == (
        f"{backup.name} has 5 warnings. {part}: View v0 is left out. {part}: View v1 is left out. "
        f"{part}: View v2 is left out. And 2 more warnings: see the log."
    )
    assert backup.incomplete
    flush()
    [page] = artifacts_of(name, "backups")
    assert "After the backup, the hook false failed" in str(page.data)
    assert "something was left out" in str(page.data)


def test_options_of_directories_are_parameters(place: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, text in {"a.log": "", "kept": "", "big": "x" * 200_000, ".ignore": "kept too\n", "kept too": ""}.items():
        (place / "uploads" / path).write_text(text)
    (place / "uploads" / "marked").mkdir()
    for path in (".nobackup", "inside"):
        (place / "uploads" / "marked" / path).touch()
    (place / "elsewhere.log").touch()
    (place / "uploads" / "followed").symlink_to(place / "elsewhere.log")
    (place / "uploads" / "left out").symlink_to("big")
    options: dict[str, Any] = {"excludes": ["*.log"], "ignore_files": [".ignore"], "exclude_if_present": [".nobackup"]}
    options |= {"follow_links": True}
    made(place, name, **options, exclude_caches=True, one_file_system=True, larger_than=150_000, strict=False)
    manager = BackupManager(place / "repository", name=name)
    found = {file.path for file in manager.list_files("latest", "uploads")}
    assert found - {"marked"} == {".ignore", "kept", "photo", "marked/.nobackup", "followed"}
    monkeypatch.setenv("PREFECT_INTEGRATIONS_SNAPSHOTS_ALLOW_COMMANDS", "true")
    hooks: dict[str, Any] = {"before": [["touch", str(place / "stopped")]], "after": [["rm", str(place / "stopped")]]}
    commands = {"hello.txt": f"sh -c 'cat {place / 'stopped'} && echo hello'"}
    backup = made(place, name, files=[str(place / "uploads" / "kept")], commands=commands, **hooks)
    assert not (place / "stopped").exists()
    with pytest.raises(InvalidArgument, match="limit_upload"):
        made(place, name, limit_upload=0)
    assert [part.name.rpartition("/")[2] for part in backup.parts] == ["app.db", "kept", "hello.txt", "uploads"]
    assert b"".join(manager.open_file("latest", "hello.txt", "hello.txt")) == b"hello\n"


class Flaky(Flat):
    """A database whose first dump fails."""

    dumps = 0

    @contextmanager
    def dump(self) -> Iterator[Dump]:
        type(self).dumps += 1
        if type(self).dumps == 1:
            raise BackupFailed("The first dump fails.")
        with super().dump() as dump:
            yield dump


def test_each_source_is_a_task_run_and_is_tried_again_alone(
    place: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefect_snapshots.flows.fan_out.RETRY_AFTER", 0)
    monkeypatch.setattr("prefect_snapshots.flows.backups.named_database", lambda path: Flaky(Path(path)))
    backup = create_backup(
        "", name, [str(place / "uploads" / "photo")], [str(place / "uploads")], repository=str(place / "repository")
    )
    assert Flaky.dumps == 2
    assert [part.name.rpartition("/")[2] for part in backup.parts] == ["photo", "uploads"]
    flush()
    assert backup.run is not None
    with get_client(sync_client=True) as client:
        ids = FlowRunFilterId(any_=[uuid.UUID(backup.run["flow_run_id"])])
        runs = client.read_task_runs(flow_run_filter=FlowRunFilter(id=ids))
    assert sorted((run.name.rpartition("/")[2], run.state_name, run.run_count) for run in runs) == [
        ("photo", "Completed", 2),
        ("uploads", "Completed", 1),
    ]
    with pytest.raises(InvalidArgument, match="nothing to back up"):
        create_backup(name=name, repository=str(place / "repository"))


@pytest.mark.parametrize("kind", ["databases", "directories", "files"])
def test_a_source_that_somebody_must_mend_is_not_tried_again(place: Path, name: str, kind: str) -> None:
    options: dict[str, Any] = {kind: [str(place / "missing.db")]}
    state = create_backup(name=name, repository=str(place / "repository"), **options, return_state=True)
    with pytest.raises(SourceUnusable, match=r"missing\.db"):
        state.result()
    flush()
    assert state.state_details.flow_run_id is not None
    with get_client(sync_client=True) as client:
        ids = FlowRunFilterId(any_=[state.state_details.flow_run_id])
        [run] = client.read_task_runs(flow_run_filter=FlowRunFilter(id=ids))
    assert (run.state_name, run.run_count) == ("Failed", 1)


@pytest.mark.parametrize(
    "options",
    [{"commands": {"x": "touch run"}}, {"before": [["touch", "run"]]}, {"after": [["touch", "run"]]}],
    ids=str,
)
def test_parameters_run_no_program_unless_the_worker_allows_it(
    place: Path, name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    with pytest.raises(CommandRefused, match="PREFECT_INTEGRATIONS_SNAPSHOTS_ALLOW_COMMANDS=true"):
        made(place, name, **options)
    if "commands" not in options:
        with pytest.raises(CommandRefused, match="Nothing was run"):
            restore_backup(name=name, repository=str(place / "repository"), **options)
    assert {path.name for path in place.iterdir()} == {"app.db", "uploads"}


def test_a_backup_that_fails_commits_nothing_and_is_told(
    place: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    made(place, name)
    (place / "app.db").write_bytes(b"this is no database at all, whatever its name says" * 100)
    with pytest.raises(BackupFailed) as raised:
        made(place, name, proven_within_days=30)
    inner = [str(entry.path) for entry in raised.traceback if "/prefect_snapshots/" in str(entry.path)]
    assert inner == [], "Prefect writes the traceback to the log when the process of the flow run ends"
    assert raised.value.__cause__ is None
    ours = (record for record in caplog.records if record.name.startswith("prefect.flow_runs"))
    [error] = [record for record in ours if record.levelname == "ERROR"]
    assert error.exc_info is None
    assert "SourceUnusable: " in error.getMessage()
    assert "[prefect-snapshots explain SourceUnusable]" in error.getMessage(), "nobody can open a page there"
    assert len(BackupManager(place / "repository", name=name).list_backups()) == 1
    [_, failed, overdue] = events_about(f"prefect-snapshots.backups.{name}", 3)
    assert failed.event == "prefect-snapshots.backup.failed"
    assert overdue.event == "prefect-snapshots.backup.proof-overdue", "above all where backups fail"
    assert "app.db" in failed.payload["error"]
    flush()
    [page] = [str(page.data) for page in artifacts_of(name, "backups") if "## Failed backup of" in str(page.data)]
    assert "**Note:** The last backup failed at " in page
    assert "Failed backups, newest first" in page
    [failure] = BackupManager(place / "repository", name=name).list_failed_backups()
    assert failure.error == f"SourceUnusable: {failed.payload['error']}"
    assert failure.run is not None
    assert failure.run["flow"] == "create-backup"


def test_clean_up_says_what_goes_and_why_the_rest_stays(place: Path, name: str) -> None:
    backups = [made(place, name, str(number)) for number in range(4)]
    policy = RetentionPolicy(keep_last=2, keep_weekly_within=None)
    planned = cleanup_backups(name, policy, dry_run=True, repository=str(place / "repository"))
    manager = BackupManager(place / "repository", name=name)
    assert len(manager.list_backups()) == 4
    report = cleanup_backups(name, policy, repository=str(place / "repository"))
    assert set(report.deleted) == set(planned.deleted) == {backup.name for backup in backups[:2]}
    assert [backup.name for backup in manager.list_backups()] == [backups[3].name, backups[2].name]
    flush()
    pages = [str(page.data) for page in artifacts_of(name, "backups")]
    assert any(f"| `{backups[0].name}` | not kept: deleted |" in page for page in pages)
    events = events_about(f"prefect-snapshots.backups.{name}", 5)
    assert [event.payload.get("kept") for event in events if event.event.endswith("cleaned")] == [2]


@pytest.mark.parametrize("typed", ["its name", "yes"])
def test_a_restore_waits_for_the_name_of_the_backup(
    place: Path, name: str, typed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    restored, options = BackupManager.restore_backup, {}

    def watched(*arguments: Any, **given: Any) -> Any:
        options.update(given)
        return restored(*arguments, **given)

    monkeypatch.setattr(BackupManager, "restore_backup", watched)
    backup = made(place, name)
    database = sqlite3.connect(place / "app.db")
    database.execute("DELETE FROM users")
    database.commit()
    database.close()
    shutil.rmtree(place / "uploads")
    outcome: list[Any] = []

    def restoring() -> None:
        try:
            outcome.append(
                restore_backup.with_options(flow_run_name=name)(
                    name=name,
                    databases=[str(place / "app.db")],
                    directories=[str(place / "uploads")],
                    repository=str(place / "repository"),
                    poll_interval=1,
                    allow_privileges=True,
                    keep_extra=True,
                    only_changed=True,
                    in_place=True,
                )
            )
        except Exception as error:
            outcome.append(error)

    run = threading.Thread(target=restoring, daemon=True)
    run.start()
    paused = paused_run(name, run, outcome)
    assert rows(place) == 0
    [waiting] = [page for page in artifacts_of(name, "backups") if "waits for you" in str(page.data)]
    assert f"| `uploads` | `{place / 'uploads'}` | directory |" in str(waiting.data)
    answer = backup.name if typed == "its name" else typed
    resume_flow_run(paused.id, run_input={"name_of_the_backup": answer, "your_name": "Ada"})
    run.join(60)
    [came] = outcome
    if typed == "its name":
        assert (came.name, rows(place)) == (backup.name, 10)
        assert options["allow_privileges"] is True, "the form starts with the parameter"
        assert {"keep_extra", "only_changed", "in_place"} <= {name for name, value in options.items() if value is True}
        assert (place / "uploads" / "photo").stat().st_size == 100_000
        told = {event.event: event.payload for event in events_about(f"prefect-snapshots.backups.{name}", 3)}
        asked = told["prefect-snapshots.restore.waiting"]
        assert asked["url"].endswith(f"/runs/flow-run/{paused.id}")
        assert asked["replaces"] == [backup.parts[0].name, str(place / "uploads")]
        assert told["prefect-snapshots.backup.restored"]["confirmed_by"] == "Ada"
        flush()
        [page] = [page for page in artifacts_of(name, "backups") if "## Restored" in str(page.data)]
        assert "| confirmed by | Ada |" in str(page.data)
        assert "| rows | 10 |" in str(page.data)
    else:
        assert isinstance(came, ConfirmationRequired)
        assert (rows(place), (place / "uploads").exists()) == (0, False)


def test_a_drill_passes_and_a_damaged_backup_fails_it(place: Path, name: str) -> None:
    made(place, name)
    databases, repository = [str(place / "app.db")], str(place / "repository")
    assert restore_drill(name, databases, repository=repository).ok
    assert rows(place) == 10
    for pack in (place / "repository" / "packs").rglob("*"):
        if pack.is_file():
            data = bytearray(pack.read_bytes())
            data[50] ^= 1
            pack.write_bytes(data)
    with pytest.raises(IntegrityError):
        restore_drill(name, databases, repository=repository)
    events = events_about(f"prefect-snapshots.backups.{name}", 3)
    assert [event.event.rpartition(".")[2] for event in events] == ["created", "drilled", "drill-failed"]


def test_a_backup_is_proven_at_once_and_old_proof_is_told(place: Path, name: str) -> None:
    unproven = made(place, name, proven_within_days=30)
    assert unproven.proven_at is None
    proven = made(place, name, prove=True, proven_within_days=30)
    assert proven.proven_at is not None
    assert proven.proven_by.startswith("create-backup / ")
    events = events_about(f"prefect-snapshots.backups.{name}", 4)
    told = [event.event.rpartition(".")[2] for event in events]
    assert sorted(told) == ["created", "created", "drilled", "proof-overdue"]


def test_the_database_of_the_server_is_backed_up_while_it_goes_on(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = get_current_settings().server.database.connection_url
    assert url is not None
    repository, mark = str(tmp_path / "repository"), tmp_path / "stopped"
    with pytest.raises(CommandRefused):
        backup_prefect_server(name, repository=repository, before=[["touch", str(mark)]])
    with pytest.raises(InvalidArgument, match="limit_upload"):
        backup_prefect_server(name, repository=repository, limit_upload=0)
    monkeypatch.setenv("PREFECT_INTEGRATIONS_SNAPSHOTS_ALLOW_COMMANDS", "true")
    hooks: dict[str, Any] = {"before": [["touch", str(mark)]], "after": [["mv", str(mark), f"{mark}.ended"]]}
    backup = backup_prefect_server(name, repository=repository, limit_upload=1e9, **hooks)
    [part] = backup.parts
    assert (part.kind, part.counts["flow_run"] > 0) == ("sqlite", True)
    assert Path(f"{mark}.ended").exists()


# --- blocks ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(place: Path) -> Iterator[str]:
    """The slug of a saved block."""
    name = f"block-{uuid.uuid4().hex}"
    BackupDatabase(url=str(place / "app.db")).save(name)
    yield f"prefect-snapshots-backup-database/{name}"
    BackupDatabase.delete(name)


def test_a_block_stands_for_its_database(place: Path, name: str, saved: str) -> None:
    backup = create_backup("", name, [saved], repository=str(place / "repository"))
    assert backup.counts == {f"sqlite:///{place / 'app.db'}": {"users": 10}}
    with pytest.raises(InvalidArgument, match="There is no block"):
        load_database("prefect-snapshots-backup-database/nobody-saved-this")


def test_a_password_stays_in_its_block() -> None:
    block = BackupDatabase(url="postgresql://backup@localhost/shop", password=SecretStr("quite secret"))
    database: Any = block.get_database()
    assert database.secret() == "quite secret"
    assert "quite secret" not in repr(database) + repr(block) + database.name


def test_a_backup_that_fails_on_the_command_line_is_told(place: Path, name: str) -> None:
    program = Path(sys.executable).with_name("prefect-snapshots")
    command = [str(program), "-r", str(place / "repository"), "backups", "create", "--name", name]
    base = {key: value for key, value in os.environ.items() if key != "PREFECT_API_URL"}
    for environment in ({}, {"PREFECT_API_URL": str(get_current_settings().api.url)}):
        done = subprocess.run(
            [*command, "--command", "users=false"], env={**base, **environment}, capture_output=True, text=True
        )
        assert done.returncode == 1, done.stderr
        assert "failed with exit code 1" in done.stderr
    [event] = events_about(f"prefect-snapshots.backups.{name}", 1)
    assert (event.event, "exit code 1" in str(event.payload)) == ("prefect-snapshots.backup.failed", True)
    [page] = artifacts_of(name, "backups")
    assert f"Failed backup of {name}" in str(page.data)
