"""What a new user runs first: `init`, `deployments` and `notifications`, on a real Prefect server."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolCreate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort
from prefect.flows import load_flow_from_entrypoint
from prefect.server.utilities.user_templates import render_user_template_sync, validate_user_template
from prefect.states import Failed
from test_cli import Program

from prefect_snapshots import BackupDatabase, BackupManager, SnapshotRepository
from prefect_snapshots.backups import Backup
from prefect_snapshots.cli.deployments import write as write_deployments
from prefect_snapshots.cli.notifications import _automations
from prefect_snapshots.errors import InvalidArgument, SetupError
from prefect_snapshots.flows import doctor
from prefect_snapshots.integration.private_apis import load_block

pytestmark = pytest.mark.xdist_group("prefect")

PASSWORD = "PREFECT_INTEGRATIONS_SNAPSHOTS_PASSWORD"
HOSTILE = "<img src=https://evil.example/x>"


@pytest.fixture
def shop(tmp_path: Path, prefect_server: str, warm: Path) -> Program:
    """In a folder with a database and uploads, and beside a Prefect server."""
    (tmp_path / "uploads").mkdir()
    (tmp_path / "uploads" / "photo").write_bytes(bytes(10_000))
    database = sqlite3.connect(tmp_path / "app.db")
    database.execute("CREATE TABLE users (name TEXT)")
    database.commit()
    database.close()
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "AWS_"))}
    home = {"PREFECT_HOME": str(tmp_path / "home"), "PREFECT_API_URL": prefect_server, "COLUMNS": "200"}
    return Program(tmp_path, {**kept, **home}, warm)


@pytest.fixture
def client(prefect_server: str) -> Iterator[SyncPrefectClient]:
    """Of the server, which has nothing of other tests, and is as before when a test ends."""
    with get_client(sync_client=True) as client:
        clear(client)
        yield client
        clear(client)


def clear(client: SyncPrefectClient) -> None:
    for deployment in client.read_deployments():
        client.delete_deployment(deployment.id)
    for slug in ("prefect-snapshots-repository", "slack-webhook", "webhook"):
        for document in client.read_block_documents_by_type(slug):
            client.delete_block_document(document.id)
    for automation in client.read_automations():
        client.delete_automation(automation.id)


def test_three_answers_are_enough(shop: Program, client: SyncPrefectClient) -> None:
    answers = [("separated by spaces: ", "uploads app.db"), ("[./snapshots]: ", "kept"), ("[0 2 * * *]: ", "")]
    # What makes no sense is asked for again, and what was answered before stays.
    wrong = [(answers[0][0], "uplods 'app.db"), (answers[0][0], "uplods"), (answers[0][0], "")]
    answers = [*wrong, *answers[:2], (answers[2][0], "every day"), (answers[2][0], "24:00"), (answers[2][0], "2:30")]
    said, shown = shop.typing("init", "--name", "shop", answers=answers)
    assert "quotation marks" in shown
    assert "There is no directory, file or database 'uplods'." in shown
    assert "'every day' is not a cron expression" in shown
    assert "'0 24 * * *' is not a cron expression" in shown
    assert "Backups are made every day at 02:30 (30 2 * * *)." in shown
    manager = BackupManager(shop.directory / "kept", name="shop")
    [first] = manager.list_backups()
    assert first.name in said
    assert [part.kind for part in first.parts] == ["sqlite", "directory"]

    # The settings are those of every other command.
    assert shop.json("backups", "list")["backups"][0]["name"] == first.name
    assert shop.json("stats")["repository"] == (shop.directory / "kept").as_uri()
    assert "A backup can be made." in shop.run("backups", "doctor").stdout

    assert {each.entrypoint for each in client.read_deployments()} == {
        f"prefect_snapshots.flows.{each}"
        for each in (
            "create_backup",
            "restore_backup",
            "restore_drill",
            "check_repository",
            "watch_repository",
            "doctor",
        )
    }
    [nightly] = [each for each in client.read_deployments() if str(each.entrypoint).endswith("create_backup")]
    assert nightly.work_pool_name == "snapshots"
    assert [schedule.schedule.cron for schedule in nightly.schedules] == ["30 2 * * *"]  # type: ignore[union-attr]

    # What is deployed works: the flow finds the repository by the block.
    made: Backup = load_flow_from_entrypoint(str(nightly.entrypoint))(**nightly.parameters)
    assert [each.name for each in manager.list_backups()] == [made.name, first.name]
    for each in client.read_deployments():
        load_flow_from_entrypoint(str(each.entrypoint)).validate_parameters(each.parameters)

    before = {path.name: path.read_text() for path in shop.directory.glob("p*.*ml")}
    assert "prefect.yaml already" in shop.complaint("init", "--yes", status=2)
    assert before == {path.name: path.read_text() for path in shop.directory.glob("p*.*ml")}


@pytest.mark.nightly
def test_options_answer_too_and_the_password_is_in_the_block(shop: Program, client: SyncPrefectClient) -> None:
    SnapshotRepository(url="memory://elsewhere").save("default")
    encrypted = shop.but(**{PASSWORD: "correct-horse"})
    document = encrypted.json("init", "--name", "shop", "--directory", "uploads", "--yes")
    assert document["block"] == "prefect-snapshots-repository/shop"
    block = load_block(SnapshotRepository, "shop")
    assert block.password is not None
    assert block.password.get_secret_value() == "correct-horse"
    assert [each.name for each in BackupManager(block, name="shop").list_backups()] == [document["backup"]]
    assert load_block(SnapshotRepository, "default").url == "memory://elsewhere"
    assert "correct-horse" not in "".join(path.read_text() for path in shop.directory.glob("p*.*ml"))


def test_the_doctor_tells_what_is_missing(shop: Program, client: SyncPrefectClient) -> None:
    shop.run("deployments", "check", "--apply", "-r", "kept")
    before = sorted(path for path in shop.directory.rglob("*") if path.is_file())
    arguments = ["--database", "app.db", "--directory", "nowhere", "-r", "kept"]
    found = shop.json("doctor", *arguments, status=1)["findings"]
    assert {each["what"].split()[0]: each["ok"] for each in found} == {
        "repository": True,
        "database": True,
        "directory": False,
        "Prefect": True,
        "work": False,
        "deployment": True,
    }
    assert "several processes at once" in found[0]["found"][1]
    assert "no worker is online" in found[4]["found"][0]
    assert found[5]["found"] == ["has not run yet"]
    assert sorted(path for path in shop.directory.rglob("*") if path.is_file()) == before

    [deployment] = client.read_deployments()
    run = client.create_flow_run_from_deployment(deployment.id)
    client.set_flow_run_state(run.id, Failed(message="the disk is gone"), force=True)
    client.create_work_pool(WorkPoolCreate(name="with a worker", type="process"))
    client.send_worker_heartbeat("with a worker", "one", heartbeat_interval_seconds=30)
    client.update_deployment(deployment.id, DeploymentUpdate(work_pool_name="with a worker", paused=True))
    *_, pool, last = shop.json("doctor", *arguments, status=1)["findings"]
    assert (pool["ok"], pool["found"]) == (True, ["one"])
    assert last["found"][0].startswith("paused")
    assert last["found"][1].startswith(f"last run {run.name} Failed at ")
    assert last["found"][1].endswith("the disk is gone")

    silent = shop.but(PREFECT_API_URL="http://127.0.0.1:9/api")
    assert "does not answer" in silent.run("doctor", "-r", "kept", status=1).stdout


def test_a_block_is_tested_where_the_flow_runs(shop: Program, client: SyncPrefectClient) -> None:
    SnapshotRepository(url=str(shop.directory / "kept")).save("team")
    BackupDatabase(url=str(shop.directory / "app.db")).save("users", overwrite=True)
    assert "several processes" in load_block(SnapshotRepository, "team").check()[1]
    assert "SQLite" in load_block(BackupDatabase, "users").check()[0]
    slugs = "prefect-snapshots-repository/team", ["prefect-snapshots-backup-database/users"]
    assert [each.ok for each in doctor(*slugs, directories=[str(shop.directory / "uploads")])] == [True, True, True]
    with pytest.raises(SetupError, match="No such file or directory"):
        doctor(*slugs, directories=[str(shop.directory / "nowhere")])
    with pytest.raises(InvalidArgument, match="There is no block"):
        doctor("prefect-snapshots-repository/nowhere")
    key = ArtifactFilter(key=ArtifactFilterKey(any_=["prefect-snapshots-doctor"]))
    page, *_ = client.read_artifacts(artifact_filter=key, sort=ArtifactSort.CREATED_DESC)
    assert [row["ok"] for row in json.loads(str(page.data))] == ["yes", "yes", "NO"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--yes"], "There is no terminal to ask on"),
        (["--directory", "uploads", "--cron", "every day", "--yes"], "is not a cron expression"),
        (["--database", "postgresql://me:secret@db/shop", "--yes"], "contains a secret"),
        (["--stdin", "x", "--directory", "uploads", "--yes"], "commands and hooks"),
    ],
)
def test_an_answer_that_makes_no_sense_changes_nothing(shop: Program, arguments: list[str], complaint: str) -> None:
    before = sorted(shop.directory.iterdir())
    said = shop.complaint("init", *arguments, status=2)
    assert complaint in said
    assert "secret@" not in said
    assert sorted(shop.directory.iterdir()) == before


def test_without_a_server_there_are_a_backup_and_settings(shop: Program) -> None:
    (shop.directory / "pyproject.toml").write_text("[project]\nname = 'shop'\n")
    offline = shop.but(PREFECT_API_URL="http://127.0.0.1:9/api")
    document = offline.json("init", "--directory", "uploads", "--no-deployments", "--yes")
    assert (document["block"], document["deployments"]) == (None, [])
    assert (
        (shop.directory / "pyproject.toml")
        .read_text()
        .startswith("[project]\nname = 'shop'\n\n[tool.prefect-snapshots]\n")
    )
    assert len(offline.json("backups", "list")["backups"]) == 1


def test_flows_are_deployed_without_a_checkout(shop: Program, client: SyncPrefectClient) -> None:
    chosen = [
        "backup",
        "prune",
        "expire",
        "locks",
        "prefect-server",
        "cleanup",
        "--cron",
        "30 1 * * *",
        "--directory",
        "uploads",
    ]
    document = shop.json("deployments", *chosen, "-r", "kept")
    written = yaml.safe_load((shop.directory / "prefect.yaml").read_text())["deployments"]
    assert written == document["deployments"]
    assert [each["schedules"][0]["cron"] for each in written][:2] == ["30 1 * * *", "30 4 * * 0"]
    assert {each["parameters"]["repository"] for each in written} == {str(shop.directory / "kept")}
    for each in written:
        load_flow_from_entrypoint(each["entrypoint"]).validate_parameters(each["parameters"])
    assert client.read_deployments() == []
    assert "confirm with --yes" in shop.complaint("deployments", *chosen, status=2)
    said = shop.run("deployments", "prune", "--apply", "--work-pool", "others", "--yes").stdout
    assert "prefect worker start --pool others" in said
    assert [each.work_pool_name for each in client.read_deployments()] == ["others"]


def test_a_path_adds_nothing_to_what_it_is_written_into(tmp_path: Path) -> None:
    file = tmp_path / "a\nbuild: [run]\n# `b;c`.yaml"
    write_deployments(file, [])
    head, rest = file.read_text().split("\n", 1)
    assert rest == "deployments: []\n"
    assert "`b;c`.yaml'`" in head


def test_what_cannot_be_deployed_is_refused(shop: Program) -> None:
    assert "nothing to back up" in shop.complaint("deployments", status=2)
    assert "contains a secret" in shop.complaint("deployments", "check", "-r", "sftp://me:hidden@host/x", status=2)
    assert "double braces" in shop.complaint("deployments", "backup", "--directory", "a/{{name}}/b", status=2)
    assert not (shop.directory / "prefect.yaml").exists()


@pytest.mark.parametrize(
    "command",
    [
        ["init", "--directory", "uploads", "--yes"],
        ["deployments", "--directory", "uploads", "--apply"],
        ["notifications", "slack", "--secret-command", "echo https://hooks.slack.com/services/x"],
    ],
)
def test_a_server_that_does_not_answer_is_named_before_anything_is_changed(shop: Program, command: list[str]) -> None:
    before = sorted(shop.directory.iterdir())
    said = shop.but(PREFECT_API_URL="http://127.0.0.1:9/api").complaint(*command, status=1)
    assert "The Prefect server http://127.0.0.1:9/api does not answer (ConnectError). Nothing was changed." in said
    assert {*shop.directory.iterdir()} <= {*before, shop.directory / "home"}


def test_notifications_are_made_once(shop: Program, client: SyncPrefectClient) -> None:
    url = "https://hooks.slack.com/services/T1DC2JH3J/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7F"
    for _ in range(2):
        made = shop.json("notifications", "slack", "--secret-command", f"echo {url}")
        assert made["block"] == "slack-webhook/prefect-snapshots-alerts"
        assert sorted(each.name for each in client.read_automations()) == sorted(
            each["name"] for each in made["automations"]
        )
    assert url not in json.dumps([each.model_dump(mode="json") for each in client.read_automations()])
    again = shop.json("notifications", "--block", made["block"])
    assert again["automations"] == made["automations"]


def test_names_of_others_are_text_in_a_mail() -> None:
    """SendGrid sends HTML, whatever a notification is."""
    event = {"event": "x", "resource": {"name": "r"}, "payload": {"backup": HOSTILE, HOSTILE: "a\nb"}}
    bodies = [each["actions"][0]["body"] for each in _automations(uuid4(), "sendgrid-email")]
    assert len(bodies) == 5
    for body in bodies:
        validate_user_template(body)
        shown = render_user_template_sync(body, {"event": event, "flow_run": None})
        assert shown.startswith("<pre>")
        assert "<img" not in shown
        assert ("&lt;img" in shown) == ("payload" in body)


@pytest.mark.parametrize("slug", ["slack-webhook", "ms-teams-webhook", "discord-webhook", "webhook"])
def test_names_of_others_call_and_link_nobody_in_a_chat(slug: str) -> None:
    evil = "<!channel> <@U1> <https://evil|x> [x](https://evil) ![x](//evil) @everyone"
    event = {"event": "x", "resource": {"name": f"r {evil}\nBcc: x"}, "payload": {"backup": evil, evil: "a\nb"}}
    state = {"name": "Failed", "message": f"{evil}\n{evil}"}
    run = {"event": event, "flow": {"name": "f"}, "flow_run": {"state": state}}
    for each in _automations(uuid4(), slug):
        action = each["actions"][0]
        bodies = {key: action[key].replace(" | ui_url", "") for key in ("subject", "body", "payload") if key in action}
        for key, body in bodies.items():
            validate_user_template(body)
            shown = render_user_template_sync(body, run)
            text = json.loads(shown)["text"] if key == "payload" else shown
            assert "evil" in text or key == "body"
            assert not re.search(r"[<>]|\]\(|@\w", text)
            assert key != "subject" or "\n" not in text


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "Pass slack, teams, mail or webhook"),
        (["slack", "--block", "slack-webhook/x"], "Pass slack, teams, mail or webhook"),
        (["mail", "--secret-command", "echo x"], "--sender and --to"),
        (["slack"], "no terminal"),
        (["webhook", "--secret-command", "echo not-a-url"], "not a valid URL to call"),
        (["--block", "slack-webhook/nowhere"], "There is no block"),
    ],
)
def test_notifications_that_make_no_sense(
    shop: Program, client: SyncPrefectClient, arguments: list[str], complaint: str
) -> None:
    assert complaint in shop.complaint("notifications", *arguments, status=2)
    assert client.read_automations() == []
