"""The project as a person meets it: deployed on a server, run by a worker, watched and answered in a browser.

With `--screenshots DIRECTORY` the pages that are looked at are photographed: `make screenshots` fills `docs/images`.
"""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from deployed import SIZE, Site, browsing, deployed, press_until, until
from playwright.sync_api import Page, expect
from prefect import flow, runtime
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey
from prefect.client.schemas.objects import Artifact
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, PREFECT_UI_URL, temporary_settings

from prefect_snapshots import (
    ArtifactRegistry,
    BackupManager,
    Directory,
    Repository,
    checkpointed,
    save_snapshot,
    use_repository,
)
from prefect_snapshots.checkpoints import CheckpointManager
from prefect_snapshots.documents import code, html_page
from prefect_snapshots.integration import live
from prefect_snapshots.integration.artifacts import log_artifact
from prefect_snapshots.integration.backups import report_created
from prefect_snapshots.integration.live import artifact_key
from prefect_snapshots.integration.reporter import Reporter
from prefect_snapshots.reports import describe_repository

# One site for all of them. They follow one another as a person would, and the runs go on meanwhile.
pytestmark = [pytest.mark.xdist_group("end-to-end"), pytest.mark.timeout(400)]

Shoot = Callable[..., None]
LONG = 1400
"""Pixels, for the picture of a page that is longer than the window."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, warm_prefect: Path) -> Iterator[Site]:
    with deployed(tmp_path_factory.mktemp("site"), warm_prefect) as site:
        folders = site.project / "docs", site.project / "flows"
        manager = BackupManager(site.repository, name="project", directories=folders)
        for chapter in range(1, 5):  # a history, for the reports to tell
            (site.project / "docs" / f"chapter-{chapter}.md").write_text(f"{random.Random(chapter).random()} " * 9000)
            manager.create_backup(f"chapter {chapter}")
        yield site


@pytest.fixture(scope="module")
def runs(site: Site) -> dict[str, UUID]:
    """Runs at work: what a schedule has planned, brought forward, and what a person starts."""
    return {
        "corpus": site.run("process-corpus/corpus", pattern="*/*.py"),
        "backup": site.run_next_scheduled("create-backup/nightly"),
        "training": site.run("train-digits/training", epochs=4),
    }


@pytest.fixture(scope="module")
def later_runs(site: Site, runs: dict[str, UUID]) -> dict[str, UUID]:
    """Runs that need what those have done."""
    site.reached(runs["backup"], "Completed")
    restore = site.run("restore-backup/restore", poll_interval=1)
    site.reached(runs["training"], "Completed")
    return {"restore": restore, "promotion": site.run("promote-digits/promotion")}


@pytest.fixture(scope="module")
def page(site: Site) -> Iterator[Page]:
    with browsing(site.url) as page:
        yield page


@pytest.fixture
def shoot(page: Page, request: pytest.FixtureRequest) -> Shoot:
    """Takes a picture of what is in the window, if pictures are asked for."""
    directory = request.config.getoption("--screenshots")

    def take(name: str, height: int = SIZE["height"]) -> None:
        if directory is not None:
            page.set_viewport_size({**SIZE, "height": height})
            page.wait_for_load_state("networkidle")
            page.add_style_tag(content="img[src^='https:'] { visibility: hidden }")  # logos, from elsewhere
            expect(page.locator("[data-slot=skeleton]")).to_have_count(0)
            page.screenshot(path=Path(directory, f"{name}.png"), animations="disabled")
            page.set_viewport_size(SIZE)

    return take


def artifacts(site: Site, name: str) -> list[Artifact]:
    """Those about a name, the latest first."""
    wanted = ArtifactFilter(key=ArtifactFilterKey(any_=[name]))
    found = site.client.read_artifacts(artifact_filter=wanted)
    return sorted(found, key=lambda artifact: str(artifact.created), reverse=True)


def test_the_progress_bar_of_the_corpus_moves(site: Site, runs: dict[str, UUID], page: Page, shoot: Shoot) -> None:
    key = f"{artifact_key('checkpoints', 'corpus')}-progress"
    [bar, *_] = until(lambda: artifacts(site, key) or None, "the progress bar")
    assert float(str(bar.data)) < 100, "it was full at once"
    site.reached(runs["corpus"], "Completed")
    page.goto(f"/v2/artifacts/artifact/{bar.id}")
    expect(page.get_by_text("Progress: 100%", exact=True)).to_be_visible()
    page.goto(f"/v2/artifacts/artifact/{artifacts(site, artifact_key('checkpoints', 'corpus'))[0].id}")
    [row] = CheckpointManager(site.repository).list_checkpoints("corpus")
    expect(page.get_by_role("heading", name="Checkpoints of corpus")).to_be_visible()
    expect(page.locator("main")).to_contain_text(f"{row.done:,}")
    shoot("checkpoints", LONG)


def test_the_forms_of_the_blocks_can_be_filled_in(site: Site, page: Page, shoot: Shoot) -> None:
    page.goto("/v2/blocks/catalog")
    for kind in ("Snapshots: Repository", "Snapshots: Backup Database"):
        expect(page.get_by_text(kind, exact=True).first).to_be_visible()
    page.goto("/v2/blocks/catalog/prefect-snapshots-backup-database/create")
    expect(page.get_by_text("The URL of the database.")).to_be_visible()
    page.goto("/v2/blocks/catalog/prefect-snapshots-repository/create")
    page.get_by_label("Name").fill("research")
    page.get_by_label("URL").fill("s3://bucket/snapshots")
    expect(page.get_by_text("Encrypts a new repository, or opens an encrypted one.")).to_be_visible()
    shoot("block")
    press_until(
        page.get_by_role("button", name="Save"), lambda wait: page.wait_for_url("**/blocks/block/*", timeout=wait)
    )
    saved = site.client.read_block_document_by_name("research", "prefect-snapshots-repository")
    assert saved.data["url"] == "s3://bucket/snapshots"


def test_a_scheduled_backup_is_in_the_tab_of_its_run(
    site: Site, runs: dict[str, UUID], page: Page, shoot: Shoot
) -> None:
    run = site.reached(runs["backup"], "Completed")
    assert run.auto_scheduled
    backup, *_ = BackupManager(site.repository, name="project").list_backups()
    assert backup.run is not None
    assert (backup.run["deployment"], backup.run["flow_run_id"]) == ("nightly", str(run.id))
    key = artifact_key("backups", "project")
    page.goto(f"/v2/runs/flow-run/{run.id}?tab=Artifacts")
    for what in (key, f"{key}-progress"):
        expect(page.get_by_role("heading", name=what, exact=True)).to_be_visible()
    shoot("artifacts")
    page.goto(f"/v2/artifacts/artifact/{artifacts(site, key)[0].id}")
    expect(page.get_by_role("heading", name=backup.name)).to_be_visible()
    shoot("backup", LONG)


def test_a_model_has_a_timeline(site: Site, later_runs: dict[str, UUID], page: Page, shoot: Shoot) -> None:
    site.reached(later_runs["promotion"], "Completed")
    registry = ArtifactRegistry(site.repository)
    assert registry.get_artifact("digits-model", "production").version == "v0"
    key = artifact_key("artifacts", "default/digits-model")
    steps = artifacts(site, key)
    assert len(steps) == 2
    page.goto(f"/v2/artifacts/key/{key}")
    for step in steps:
        expect(page.get_by_role("link", name=str(step.id)[:8])).to_be_visible()
    shoot("timeline")
    page.get_by_role("link", name=str(steps[0].id)[:8]).click()
    expect(page.get_by_role("heading", name="production is now v0")).to_be_visible()
    shoot("model", LONG)


def test_a_restore_is_confirmed_in_the_browser(
    site: Site, later_runs: dict[str, UUID], page: Page, shoot: Shoot
) -> None:
    site.reached(later_runs["restore"], "Paused")
    whole = {path: path.read_bytes() for path in site.project.glob("docs/*") if path.is_file()}
    shutil.rmtree(site.project / "docs")
    backups = BackupManager(site.repository, name="project").list_backups()
    page.goto(f"/v2/runs/flow-run/{later_runs['restore']}")
    expect(page.get_by_text("Paused")).to_be_visible()
    page.get_by_role("button", name="Open menu").click()
    page.get_by_role("menuitem", name="Resume").click()
    form = page.get_by_role("dialog")
    expect(form).to_contain_text("This replaces the current data with backup project_")
    (backup,) = (each for each in backups if each.name in form.inner_text())
    form.get_by_label("Name of the backup").fill(backup.name)
    shoot("restore")
    assert not (site.project / "docs").exists()
    press_until(form.get_by_role("button", name="Resume"), lambda wait: expect(form).to_have_count(0, timeout=wait))
    site.reached(later_runs["restore"], "Completed")
    assert {path: path.read_bytes() for path in whole} == whole
    page.goto(f"/v2/artifacts/artifact/{artifacts(site, artifact_key('backups', 'project'))[0].id}")
    expect(page.get_by_role("heading", name=f"Restored {backup.name}")).to_be_visible()


def test_a_watch_shows_the_whole_repository(site: Site, later_runs: dict[str, UUID], page: Page, shoot: Shoot) -> None:
    site.reached(later_runs["promotion"], "Completed")
    site.reached(site.run("watch-repository/hourly-watch"), "Completed")
    key = artifact_key("repositories", Repository(site.repository).url)
    page.goto(f"/v2/artifacts/artifact/{artifacts(site, key)[0].id}")
    for name in ("project", "digits-model", "corpus"):
        expect(page.locator("main")).to_contain_text(name)
    expect(page.locator("main")).to_contain_text("The backups of prefect-server are overdue")
    shoot("repository", LONG)


def test_the_report_of_the_command_line_is_one_page(
    site: Site, later_runs: dict[str, UUID], page: Page, shoot: Shoot, tmp_path: Path
) -> None:
    site.reached(later_runs["promotion"], "Completed")
    file = tmp_path / "report.html"
    documents = list(describe_repository(Repository(site.repository)))
    file.write_text(html_page(f"Report on {Repository(site.repository).url}", documents, datetime.now(UTC)))
    page.goto(file.as_uri())
    for name in ("project", "default/digits-model", "corpus"):
        expect(page.get_by_role("heading", name=name, exact=True)).to_be_visible()
    shoot("report", LONG)


def test_what_is_scheduled_runs_once_at_a_time_and_what_waits_for_a_person_has_no_limit(site: Site) -> None:
    # Prefect takes back the slot of a paused run, and ends the run some minutes later for having lost it.
    deployments = {each.name: each for each in site.client.read_deployments()}
    assert {"nightly", "restore"} <= deployments.keys()
    for name, deployment in deployments.items():
        limit = deployment.global_concurrency_limit
        assert bool(deployment.schedules) == (name != "restore")
        assert (limit is not None and limit.limit == 1) == (name not in ("restore", "promotion"))


TEXT = (
    "taken<script>window.taken=1</script><img src=https://evil.example/a.png onerror=window.taken=1>|`c`|**d**"
    "[e](javascript:window.taken=1)![f](https://evil.example/f.png)\x1b[2J\u202e\n# g\n\n<iframe src=//evil.example>"
)
NAME = "taken<img src=x onerror=window.taken=1>|`c`|[e](javascript:window.taken=1)![f](evil.png)"
"""As hostile as a name can be. It begins with what pages are searched for, as `TEXT` does."""


@flow
def hostile(folder: str) -> str:
    """Report strings that try to be more than strings, of every kind."""
    with use_repository(Path(folder, TEXT.replace("/", "|"))) as repository:
        save_snapshot({"x": 1}, NAME, name=NAME, metadata={TEXT: TEXT}, tags=[NAME])
        log_artifact(NAME, {TEXT: TEXT}, metadata={TEXT: TEXT})
        (Path(folder, "files") / NAME.replace("/", "|")).mkdir(parents=True)
        Path(folder, "files", TEXT.replace("/", "|")).touch()
        manager = BackupManager(repository, name=NAME, directories=[Directory(Path(folder, "files"), name=NAME)])
        report_created(manager, manager.create_backup(TEXT))

        @checkpointed(name=NAME, function_version=1, skip_item_errors=True, max_retries=0)
        def fail(item: str) -> None:
            raise ValueError(TEXT)

        fail.map([TEXT])
        Reporter(manager.repository, "repositories", NAME).leave_table([{TEXT: TEXT}], code(TEXT), "hostile-table")
    return str(runtime.flow_run.id)


def test_hostile_strings_stay_strings_on_every_page(site: Site, page: Page, tmp_path: Path) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    # Logs are sent by a thread that knows no temporary settings.
    ours: dict[Any, Any] = {PREFECT_API_URL: f"{site.url}/api", PREFECT_UI_URL: site.url}
    with temporary_settings({**ours, PREFECT_LOGGING_TO_API_ENABLED: False}):
        run = hostile(str(tmp_path))
        live.flush()
    wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(run)]))
    found = site.client.read_artifacts(artifact_filter=wanted)
    keys = " ".join(each.key or "" for each in found)
    assert all(kind in keys for kind in ("snapshots", "artifacts", "backups", "checkpoints", "hostile")), keys
    for place in (f"/v2/runs/flow-run/{run}?tab=Artifacts", *(f"/v2/artifacts/artifact/{each.id}" for each in found)):
        page.goto(place)
        expect(page.get_by_text("taken").first).to_be_visible()
        page.wait_for_load_state("networkidle")
        assert page.evaluate("window.taken") is None, place
        dangerous = "main :is(script, iframe, [onerror], a[href^='javascript'], img:not([src^='data:']))"
        assert page.locator(dangerous).count() == 0, place
    assert [url for url in asked if "evil" in url] == []


def test_the_event_feed_has_our_events(runs: dict[str, UUID], page: Page, shoot: Shoot) -> None:
    def find_our_filter() -> bool | None:
        # The page asks once, for the events before the minute that has begun.
        page.goto("/v2/events")
        page.get_by_label("Filter by event type").click()
        expect(page.get_by_text("prefect.*", exact=True)).to_be_visible()
        return page.get_by_text("prefect-snapshots.*", exact=True).is_visible() or None

    until(find_our_filter, "our events in the filter")
    page.get_by_text("prefect-snapshots.*", exact=True).click()
    page.keyboard.press("Escape")
    expect(page.get_by_text(re.compile(r"^prefect-snapshots\.backup\.")).first).to_be_visible()
    expect(page.get_by_text("prefect.flow-run.Completed", exact=True)).to_have_count(0)
    shoot("events")
