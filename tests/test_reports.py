"""Reports: what they say of real repositories, and how they look in a browser, in Markdown and on a terminal."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from markdown_it import MarkdownIt
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

from prefect_snapshots import ArtifactRegistry, BackupManager, Repository, RetentionPolicy, Snapper, SnapshotManager
from prefect_snapshots.checkpoints import CheckpointManager
from prefect_snapshots.cli.documents import document_lines
from prefect_snapshots.documents import (
    Calendar,
    Chart,
    Column,
    Curves,
    Document,
    Facts,
    Graph,
    Heading,
    Link,
    Note,
    Step,
    Table,
    Timeline,
    html_page,
    markdown,
)
from prefect_snapshots.documents.charts import describe, image, sparkline
from prefect_snapshots.errors import SnapshotNotFound
from prefect_snapshots.reports import describe_repository
from prefect_snapshots.reports.backups import about_backup, about_backups
from prefect_snapshots.repository.catalog import slot_path

EVIL = (
    "<script>document.title='taken'</script><img src=x onerror=alert(1)>|`x`|[a](javascript:1)"
    "![b](https://evil.example/b.png)\"'></td>&lt;\n\n# c\x1b[2J\u202e--- | \\| \\\\| ``` $x$ **bold** _i_"
)
"""Tries to be more than text, in HTML, in Markdown, and on a terminal."""

EVERYTHING = Document(
    EVIL,
    (
        Heading(EVIL),
        Note(EVIL),
        Facts({EVIL: (EVIL, "text"), "name": (EVIL, "name")}),
        Table(EVIL, (Column(EVIL), Column("n", "name")), ((EVIL, EVIL), ("plain", "a|b"))),
        Chart(EVIL, "line", "number", (1.0, math.nan, None, math.inf, 5.0, 2.0), (EVIL,) * 6, marked=4),
        Chart(EVIL, "bars", "bytes", (3.0, 0.0, 2000.0), (EVIL,) * 3, failed=(1.0, 0.0, 100.0)),
        Curves(EVIL, EVIL, "number", {EVIL: ((0.0, 1e12), (1.0, 3e12)), "one": ((0.5, 2e12),)}),
        Calendar(EVIL, {date(2026, 1, 1): "kept", date(2026, 6, 30): "pinned", date(2025, 1, 1): "going"}),
        Timeline(EVIL, (Step(datetime(2026, 1, 1, tzinfo=UTC), EVIL, EVIL),), 7),
    ),
    "odd",
)
"""Every kind of block, with as much evil as it holds."""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """One with all that there can be, and an evil text wherever one may stand."""
    place = tmp_path_factory.mktemp("reports")
    repository = Repository(place / "repository")
    (place / "uploads").mkdir()
    manager = BackupManager(repository, name="shop", directories=[place / "uploads"])
    for number in range(4):
        (place / "uploads" / f"{number}.bin").write_bytes(os.urandom(10_000))
        manager.create_backup(EVIL if number == 1 else "nightly", permanent=number == 0)
    snapshots = SnapshotManager(repository, name="train")
    for epoch, loss in enumerate([0.9, 0.4, 0.3, 0.5]):
        value = {"weights": np.full(10, loss), "same": 1}
        snapshots.save_snapshot(value, f"epoch-{epoch}", {"epoch": epoch, "loss": loss, "note": EVIL})
    fail_now_and_then = Snapper(
        range(100), _invert, repository=repository, name="inverse", skip_item_errors=True, max_retries=0
    )
    fail_now_and_then.start()
    registry = ArtifactRegistry(repository, "models")
    for version in range(3):
        registry.log_artifact("classifier", {"size": "x" * 100 * version}, metadata={"evil": EVIL})
        registry.set_alias("classifier", version, "production", by="ada")
    registry.rollback("classifier", "production", by="grace")
    return repository


def _invert(number: int) -> float:
    if number % 40 == 3:
        raise ValueError(EVIL)
    return 1 / (number + 1)


def found(document: Document, kind: type[Any], title: str = "") -> Any:
    """The only block of a kind, or that with a title."""
    [block] = [each for each in document.blocks if isinstance(each, kind) and title in (getattr(each, "title", ""), "")]
    return block


def values_of(document: Document) -> dict[str, Any]:
    return {word: value for word, (value, _) in found(document, Facts).facts.items()}


def of(repository: Repository, name: str, **options: Any) -> Document:
    [_, document] = describe_repository(repository, [name], **options)
    return document


# --- what is said -----------------------------------------------------------------------------------------------------


def test_backups_show_their_growth_and_what_retention_keeps(repository: Repository) -> None:
    policy = RetentionPolicy(keep_last=1, keep_weekly_within=None)
    document = of(repository, "shop", retention=policy)
    backups = BackupManager(repository, name="shop").list_backups()
    sizes = found(document, Chart, "Size of each backup")
    assert sizes.values == (10_000, 20_000, 30_000, 40_000)
    written = found(document, Chart, "Written by each backup")
    assert all(10_000 <= each < 11_000 for each in written.values)
    rows = found(document, Table, "Backups, newest first").rows
    assert [row[0] for row in rows] == [each.name for each in backups]
    assert [row[-1] for row in rows] == [
        "last",
        *["not kept: the next cleanup deletes it"] * 2,
        "📌 pinned",
    ]
    assert set(found(document, Calendar).days.values()) == {"pinned"}
    assert values_of(document)["backups"] == 4


def test_a_calendar_tells_apart_what_is_kept_and_what_goes() -> None:
    assert describe(EVERYTHING.blocks[7]).endswith(  # type: ignore[arg-type]
        ": 1 day kept, 1 day pinned, 1 day will be deleted, from 2025-01-01 to 2026-06-30"
    )
    drawn = image(
        Calendar(
            "",
            {
                date(2026, 6, 1): "kept",
                date(2026, 6, 3): "pinned",
                date(2026, 6, 4): "going",
                date(2026, 6, 5): "failed",
            },
        )
    )
    days = {title.text for title in ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}title")}
    assert days == {"2026-06-01: kept", "2026-06-03: pinned", "2026-06-04: will be deleted", "2026-06-05: failed"}
    assert '<rect class="bad"' in drawn


def test_all_whole_months_of_a_calendar_have_names() -> None:
    drawn = image(Calendar("", {date(2026, 11, 28): "kept"}))
    assert [name for name in ("Aug", "Sep", "Oct", "Nov") if f">{name}</text>" in drawn] == ["Sep", "Oct", "Nov"]


def test_an_axis_of_sizes_begins_at_zero() -> None:
    assert ">0 B</text>" in image(Chart("", "line", "bytes", (4_000_000, 6_000_000), ("a", "b")))


def test_the_name_of_the_version_that_a_graph_is_about_fits_its_box() -> None:
    name = "default/a-model-with-a-long-name"
    layers = ((("one", "v1"), ("two", "v1"), ("three", "v1")), ((name, "v0"),))
    drawn = image(Graph("", layers, (), (1, 0)))
    [wide] = {float(found) for found in re.findall(r'class="node"[^>]* width="([0-9.]+)"', drawn)}
    [shown] = re.findall(r'<text class="title"[^>]*>(defa[^<]*)</text>', drawn)
    assert 7.3 * len(shown) < wide - 10, "bold characters are wide"


def test_a_failed_backup_is_red_unless_another_one_was_made_that_day(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    manager = BackupManager(tmp_path / "repository", name="shop", directories=[tmp_path / "data"])
    manager.record_failure("nobody notices")
    assert manager.list_failed_backups() == [], "a failure creates no repository"
    manager.delete_backup(manager.create_backup("gone").name, force=True)
    manager.record_failure("BackupFailed: the server is gone.", run={"flow_run": "busy-owl"})
    document = Document("", tuple(about_backups(manager, 10)))
    assert str(document.blocks[0]).count("The last backup failed at ") == 1
    [row] = found(document, Table, "Failed backups, newest first").rows
    assert row[1:3] == ("BackupFailed: the server is gone.", "busy-owl")
    manager.create_backup()
    assert set(found(Document("", tuple(about_backups(manager, 10))), Calendar).days.values()) == {"kept"}


def test_one_backup_shows_its_parts(repository: Repository) -> None:
    backup = BackupManager(repository, name="shop").list_backups()[0]
    document = Document(backup.name, tuple(about_backup(backup)))
    assert found(document, Table, "Parts").rows == (("uploads", "directory", 40_000, None),)
    assert values_of(document)["files"] == 4


def test_pages_say_when_a_backup_was_proven_and_by_whom(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    manager = BackupManager(tmp_path / "repository", name="shop", directories=[tmp_path / "data"])
    manager.create_backup("first")
    unproven = Document("", tuple(about_backups(manager, 10)))
    assert [values_of(unproven)[fact] for fact in ("last proven", "proven on (UTC)")] == ["none", None]
    backup = manager.create_backup("second", prove=True, run={"flow": "nightly", "flow_run": "fast-owl"})
    assert backup.proven_at is not None
    everything = Document("", tuple(about_backups(manager, 10)))
    shown = {fact: values_of(everything)[fact] for fact in ("last proven", "proven on (UTC)", "proven by")}
    assert shown == {
        "last proven": backup.name,
        "proven on (UTC)": backup.proven_at,
        "proven by": "nightly / fast-owl",
    }
    assert found(everything, Table, "Backups, newest first").rows[0][-1].startswith("✓ last proven, ")
    one = Document("", tuple(about_backup(backup)))
    assert (values_of(one)["proven (UTC)"], values_of(one)["proven by"]) == (backup.proven_at, "nightly / fast-owl")
    page = markdown(one)
    assert f"{backup.proven_at:%Y-%m-%d %H:%M}" in page
    assert "nightly / fast-owl" in page


def test_snapshots_show_their_metrics_and_the_best(repository: Repository) -> None:
    document = of(repository, "train", rank_by="loss", mode="min")
    drawn = [each.title for each in document.blocks if isinstance(each, Chart)]
    assert drawn == ["loss", "Written by each snapshot"], "epochs only count, and notes are no numbers"
    loss = found(document, Chart, "loss")
    assert (loss.values, loss.marked) == ((0.9, 0.4, 0.3, 0.5), 2)
    rows = found(document, Table).rows
    assert [(row[0], row[5], row[6]) for row in rows] == [
        ("epoch-3", "1 of 2", ""),
        ("epoch-2", "1 of 2", "★ best"),
        ("epoch-1", "1 of 2", ""),
        ("epoch-0", "? of 2", ""),
    ]
    assert found(of(repository, "train"), Chart, "loss").marked is None
    assert "best" not in str(of(repository, "train", rank_by="nothing")).replace("'best': (None", "")
    assert len(found(of(repository, "train", listed=2), Table).rows) == 2


def test_checkpoints_show_throughput_and_failures(repository: Repository) -> None:
    document = of(repository, "inverse")
    facts = values_of(document)
    assert (facts["items"], facts["succeeded"], facts["failed"]) == (100, 97, 3)
    rates = found(document, Chart)
    assert len(rates.values) == len(rates.failed) == 40
    assert sum(failed > 0 for failed in rates.failed) == 3
    assert all(failed <= rate for failed, rate in zip(rates.failed, rates.values, strict=True))
    assert [row[0] for row in found(document, Table, "Failed items").rows] == [3, 43, 83]


def test_an_artifact_shows_who_moved_which_stage_when(repository: Repository) -> None:
    for name in ("classifier", "models/classifier"):
        document = of(repository, name)
        assert values_of(document)["production"] == "v1"
        steps = [(step.what, step.about) for step in found(document, Timeline).steps]
        assert steps == [
            ("production rolled back to v1, was v2", "by grace"),
            ("production is now v2, was v1", "by ada"),
            ("v2 logged", ""),
            ("production is now v1, was v0", "by ada"),
            ("v1 logged", ""),
            ("production is now v0", "by ada"),
            ("v0 logged", ""),
        ]


def test_all_of_a_repository_is_told_and_damage_hides_nothing_else(repository: Repository, tmp_path: Path) -> None:
    documents = describe_repository(repository)
    told = [("backups", "shop"), ("snapshots", "train"), ("checkpoints", "inverse"), ("artifacts", "models/classifier")]
    assert [(each.kind, each.title) for each in documents[1:]] == told
    with pytest.raises(SnapshotNotFound, match=r"nothing named 'shops'\. Existing names: shop, train, "):
        describe_repository(repository, ["shops"])

    copy = tmp_path / "copy"
    shutil.copytree(Path(repository.url.removeprefix("file://")), copy)
    damaged = Repository(copy)
    slot = copy / slot_path(damaged.stream("snapshots", "train", lambda event: None).id, 1)
    *kept, last = slot.read_bytes()
    slot.write_bytes(bytes([*kept, last ^ 1]))
    others = [str(document) for document in documents if document.kind not in ("", "snapshots")]
    again = describe_repository(Repository(copy), ["shop", "train", "inverse", "classifier"])[1:]
    assert isinstance(again[1].blocks[0], Note)
    assert again[1].blocks[0].text.startswith("This cannot be read: ")
    assert [str(document) for document in again if document.kind != "snapshots"] == others


def test_runs_are_compared_by_the_numbers_they_share(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "repository")
    for name, factor in (("adam", 1.0), ("sgd", 2.0), ("lion", 4.0)):
        run = SnapshotManager(repository, name=name)
        for epoch in range(0, 6, 2):
            own = {"only": epoch + 0.5} if name == "adam" else {"huge": 10**15, "text": "x"}
            run.save_snapshot(epoch, f"{epoch}", {"epoch": epoch, "loss": factor / (epoch + 1), "flag": True, **own})
    SnapshotManager(repository, name="single").save_snapshot(1, metadata={"loss": 7.0})
    compared = describe_repository(repository)[1]
    assert (compared.title, compared.kind) == ("Compared", "snapshots")
    loss = compared.blocks[0]
    assert isinstance(loss, Curves)
    assert (loss.title, loss.across) == ("loss", "epoch")
    assert loss.curves == {
        "lion": ((0.0, 4.0), (2.0, 4 / 3), (4.0, 0.8)),
        "sgd": ((0.0, 2.0), (2.0, 2 / 3), (4.0, 0.4)),
        "adam": ((0.0, 1.0), (2.0, 1 / 3), (4.0, 0.2)),
    }
    assert {each.title for each in compared.blocks if isinstance(each, Curves)} <= {"loss", "huge"}
    # What cannot be read is told once, by its own document, and keeps nothing else from being compared.
    damaged = tmp_path / "repository" / slot_path(repository.stream("snapshots", "sgd", lambda event: None).id, 2)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    again = describe_repository(Repository(tmp_path / "repository"))[1]
    assert isinstance(again.blocks[0], Curves)
    assert again.blocks[0].curves.keys() == {"lion", "adam"}
    assert [each.title for each in describe_repository(repository, ["adam"])[1:]] == ["adam"]


def test_the_lines_of_a_comparison_are_named_in_the_drawing() -> None:
    block = Curves("loss", "epoch", "number", {"adam": ((0.0, 1.0), (9.0, 0.25)), "sgd": ((0.0, 2.0), (9.0, 1.0))})
    drawn = image(block)
    assert all(f">{word}<" in drawn for word in ("adam", "sgd", "epoch 0", "9"))
    assert len(set(re.findall(r"stroke-dasharray:[^\"]+", drawn))) == 2
    assert describe(block) == "loss by epoch: adam from 1 to 0.25; sgd from 2 to 1"
    assert "`adam`" in markdown(Document("d", (block,)), images=False)


# --- Markdown ---------------------------------------------------------------------------------------------------------


def test_markdown_holds_every_evil_text_as_text() -> None:
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    parser.validateLink = lambda url: True  # type: ignore[method-assign]
    parsed = parser.parse(markdown(EVERYTHING))
    inline = [child for token in parsed for child in token.children or ()]
    assert not {token.type for token in parsed} & {"html_block", "fence", "code_block", "hr"}
    assert not {child.type for child in inline} & {"html_inline", "link_open", "em_open", "s_open"}
    images = [str(child.attrs["src"]) for child in inline if child.type == "image"]
    assert [source.partition(",")[0] for source in images] == ["data:image/svg+xml;base64"] * 4
    rows = [token.type for token in parsed if token.type in ("tr_open", "td_open", "th_open")]
    assert rows.count("tr_open") == 3 + 3 + 2
    assert rows.count("td_open") == 2 * 2 + 2 * 2 + 3
    assert sum(token.type == "heading_open" for token in parsed) == 4
    said = [child.content for child in inline if child.type == "text"]
    assert any(text.startswith("<script>document.title='taken'</script><img src=x onerror=alert(1)>|") for text in said)
    assert all(text.isprintable() for text in said)


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("/runs/flow-run/1b-2", True),
        ("https://prefect.example:4200/v2/artifacts/key/a_b", True),
        ("javascript:alert(1)", False),
        ("//elsewhere.example/x", False),
        ('/x" onclick="alert(1)', False),
        ("/x) ![y](https://elsewhere.example/z", False),
        ("/x?y=<script>", False),
        ("/x\n", False),
    ],
)
def test_only_urls_that_run_nothing_are_linked(url: str, safe: bool) -> None:
    document = Document("d", (Facts({"at": (Link("run", url), "text")}),))
    drawn, page = markdown(document), html_page("t", [document], datetime.now(UTC))
    assert "run" in drawn
    assert (f"[run]({url})" in drawn, f'<a href="{url}">' in page) == (safe, safe)
    assert ("](" in drawn, "<a " in page) == (safe, safe)


def test_markdown_without_images_is_short_enough_for_a_terminal(repository: Repository) -> None:
    text = markdown(of(repository, "train"), images=False)
    assert "data:" not in text
    assert "loss `█▂▁▃`" in text
    assert max(map(len, text.splitlines())) < 400


@pytest.mark.parametrize("block", [block for block in EVERYTHING.blocks if isinstance(block, Chart | Calendar)])
def test_images_are_sound_and_describe_themselves(block: Chart | Calendar) -> None:
    root = ElementTree.fromstring(image(block))
    shapes = {child.tag.rpartition("}")[2] for child in root.iter()}
    assert shapes <= {"svg", "style", "rect", "text", "line", "polyline", "circle", "title"}
    assert "nan" not in image(block).lower().replace(EVIL.lower(), "")
    assert "inf" not in image(block)
    assert len(image(block)) < 20_000
    assert describe(block)


@pytest.mark.parametrize(
    "values", [(), (None, math.nan), (0.0,), (5.0, 5.0), (-1e-9, 1e-9), (1e300, -1e300), tuple(range(10_000))]
)
def test_any_values_are_drawn(values: tuple[float | None, ...]) -> None:
    for form in ("line", "bars"):
        drawn = image(Chart("any", form, "number", values[-60:] if form == "bars" else values, ("x",) * len(values)))
        ElementTree.fromstring(drawn)
        assert len(drawn) < 20_000
    assert len(sparkline(values)) <= 40


# --- HTML -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def file(repository: Repository, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report on the repository, and with it every kind of block."""
    documents = [*describe_repository(repository, rank_by="loss", mode="min"), EVERYTHING]
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html_page(f"Report on {EVIL}", documents, datetime.now(UTC)), encoding="utf-8")
    return path


CONTRASTS = """() => {
    const channel = value => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4
    const parse = text => text.match(/[\\d.]+/g).map(Number)
    const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b)
    const behind = element => {
        for (; element; element = element.parentElement) {
            const colour = parse(getComputedStyle(element).backgroundColor)
            if (colour.length == 3 || colour[3] == 1) return colour
        }
        throw 'nothing is behind it'
    }
    const contrast = (colour, element) => {
        const [a, b] = [light(parse(colour)), light(behind(element))].sort((a, b) => b - a)
        return (a + 0.05) / (b + 0.05)
    }
    const found = []
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement
        if (!walker.currentNode.data.trim() || ['STYLE', 'title'].includes(element.tagName)) continue
        const style = getComputedStyle(element)
        found.push([contrast(element.closest('svg') ? style.fill : style.color, element), walker.currentNode.data])
    }
    for (const element of document.querySelectorAll('td')) {
        found.push([contrast(getComputedStyle(element, '::before').color, element), element.dataset.title])
    }
    return found
}"""


@pytest.fixture(params=["light", "dark"])
def page(request: pytest.FixtureRequest, browser: Browser, file: Path) -> Iterator[Page]:
    """The page on a phone; it may neither ask for anything nor complain."""
    page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=request.param)
    asked: list[Request] = []
    complaints: list[ConsoleMessage] = []
    page.on("request", lambda request: asked.append(request))
    page.on("console", lambda complaint: complaints.append(complaint))
    page.goto(file.as_uri())
    yield page
    assert [each.url for each in asked] == [file.as_uri()]
    assert [each.text for each in complaints] == []
    page.close()


def test_every_text_can_be_read(page: Page) -> None:
    for width in (390, 1100):
        page.set_viewport_size({"width": width, "height": 844})
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) > 200
        assert min(contrasts)[0] >= 4.5, min(contrasts)


def test_nothing_is_wider_than_a_phone(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    sizes = page.evaluate(
        "[...document.querySelectorAll('svg text')].map(e => e.getBoundingClientRect().height).sort((a, b) => a - b)"
    )
    assert sizes[0] >= 9, "letters in a chart"


def test_tables_and_charts_are_there_for_everybody(page: Page) -> None:
    for width in (390, 1100):
        page.set_viewport_size({"width": width, "height": 844})
        table = page.get_by_role("table", name="Versions, newest first")
        assert table.get_by_role("row").count() == 4
        assert table.get_by_role("columnheader").all_inner_texts()[0].lower() == "version"
        assert table.get_by_role("cell").first.inner_text() == "v2"
        assert page.get_by_role("img", name="loss: 4 values, first 0.9, last 0.5").count() == 1
        drawings = page.locator("svg").count()
        assert page.get_by_role("img").count() == drawings > 8
        assert page.get_by_role("navigation", name="Contents").get_by_role("link").count() == 5


def test_evil_texts_stay_texts(page: Page) -> None:
    assert page.title().startswith("Report on <script>document.title='taken'</script>")
    assert page.locator("script, img, iframe, body meta, body link").count() == 0
    assert page.locator("section").count() == 5
    last = page.locator("section").last
    assert last.locator("h2").inner_text().startswith("<script>document.title='taken'</script><img src=x onerror")
    assert "\\x1b[2J\\u202e" in last.locator("h2").inner_text()


def test_paper_is_white(page: Page) -> None:
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.get_by_role("navigation").is_visible()
    assert min(page.evaluate(CONTRASTS))[0] >= 4.5
    assert page.pdf().startswith(b"%PDF")


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(warm: Path) -> Callable[..., str]:
    """Runs the command line, and returns what it says."""

    def run(*arguments: str, status: int = 0) -> str:
        done = subprocess.run([warm, *arguments], capture_output=True, text=True, env={**os.environ, "COLUMNS": "120"})
        assert done.returncode == status, done.stderr
        return done.stdout or done.stderr

    return run


def test_the_command_shows_everything_on_a_terminal(repository: Repository, run: Callable[..., str]) -> None:
    text = run("report", "-r", repository.url)
    for line in ("shop (backups)", "train (snapshots)", "inverse (checkpoints)", "models/classifier (artifacts)"):
        assert line in text.splitlines()
    assert "Size of each backup      ▁▃▆█" in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    said = json.loads(run("report", "-r", repository.url, "--name", "train", "--rank-by", "loss", "--json"))
    [_, told] = said["reports"]
    chart = next(block for block in told["blocks"] if block["block"] == "chart")
    assert (chart["title"], chart["values"], chart["marked"]) == ("loss", [0.9, 0.4, 0.3, 0.5], 0)
    assert "nothing named" in run("report", "-r", repository.url, "--name", "absent", status=1)
    assert "--rank-by" in run("report", "-r", repository.url, "--mode", "min", status=2)


def test_the_command_writes_a_file_or_leaves_the_old_one(
    repository: Repository, tmp_path: Path, run: Callable[..., str]
) -> None:
    target = tmp_path / "report.html"
    target.write_text("old")
    assert run("report", "-r", repository.url, "--html", str(target)) == f"Wrote {target}.\n"
    assert target.read_text().startswith("<!DOCTYPE html>")
    target.chmod(0o600)
    run("report", "-r", f"{tmp_path}/nowhere", "--html", str(target), status=1)
    assert target.read_text().startswith("<!DOCTYPE html>")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_reports_need_no_prefect(repository: Repository) -> None:
    script = (
        "import sys, prefect_snapshots.reports; from prefect_snapshots import Repository; "
        f"prefect_snapshots.reports.describe_repository(Repository({repository.url!r})); "
        "sys.exit('prefect' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_long_inputs_are_shortened_in_the_middle(tmp_path: Path) -> None:
    long = "/srv/documents/" + "x" * 60 + "/report-7.txt"
    Snapper([long], lambda text: 1 / 0, repository=tmp_path, name="long", skip_item_errors=True, max_retries=0).start()
    page = markdown(CheckpointManager(tmp_path).describe("long"))
    assert "/srv/" in page
    assert "/report-7.txt" in page
    assert "x" * 40 not in page


def test_a_narrow_terminal_cuts_nothing_of_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    columns = Column("snapshot", "name"), Column("metadata"), Column("size", "bytes"), Column("changed leaves")
    row = "epoch-000000001", "loss=0.25, accuracy=0.8, sample=1234567", 11, "1 of 1"
    [_, _, *lines] = document_lines(Document("train", (Table("All", columns, (row,), 1),)))
    assert lines[1:] == [
        "snapshot         size  changed leaves",
        "    metadata",
        "epoch-000000001  11 B  1 of 1",
        "    loss=0.25, accuracy=0.8, sample=1234567",
    ]
