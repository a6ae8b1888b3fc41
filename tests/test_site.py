"""The documentation as a site: it builds without a warning, fetches nothing, and leaves no public name out."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from deployed import browsing
from mkdocstrings import Inventory
from playwright.sync_api import Page, expect

ROOT = Path(__file__).parent.parent
PUBLIC = [
    "prefect_snapshots",
    "prefect_snapshots.artifacts",
    "prefect_snapshots.backups",
    "prefect_snapshots.backups.databases",
    "prefect_snapshots.flows",
    "prefect_snapshots.repository",
    "prefect_snapshots.snapshots",
]
"""Modules whose `__all__` is for users. Of the checkpoints some of it is for other modules of ours."""

# One process builds it, and all tests look at that.
pytestmark = pytest.mark.xdist_group("site")


class Requests(HTMLParser):
    """What a browser fetches for a page, and where its links lead."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: set[str] = set()
        self.linked: set[str] = set()
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.anchors.update(filter(None, [given.get("id"), given.get("name") if tag == "a" else None]))
        target = given.get("src") or given.get("href") or given.get("data")
        if target:
            (self.linked if tag == "a" else self.fetched).add(target)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(target)]
    # Material for MkDocs advertises its successor on every build.
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return target


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Requests]:
    found = {}
    for path in site.rglob("*.html"):
        found[path] = Requests()
        found[path].feed(path.read_text())
    assert site / "index.html" in found
    return found


def test_nothing_is_fetched_from_elsewhere(site: Path, pages: dict[Path, Requests]) -> None:
    for path, page in pages.items():
        foreign = [target for target in page.fetched if re.match(r"(https?:)?//", target)]
        assert not foreign, f"{path.name} fetches {foreign}"
        # For diagrams the theme would load a program from elsewhere.
        assert 'class="mermaid"' not in path.read_text()
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(.?(https?:)?//|@import", sheet.read_text()), sheet


def test_links_lead_somewhere(site: Path, pages: dict[Path, Requests]) -> None:
    lost = []
    for path, page in pages.items():
        for target in page.linked:
            if path.name == "404.html" or re.match(r"https?:", target):
                continue
            file, _, anchor = target.partition("#")
            linked = (path.parent / file).resolve() if file else path
            linked = linked / "index.html" if linked.is_dir() else linked
            if not linked.exists() or (anchor and anchor != "__top" and anchor not in pages[linked].anchors):
                lost.append(f"{path.relative_to(site)} -> {target}")
    assert not lost


@pytest.fixture(scope="module")
def browser(site: Path) -> Iterator[Page]:
    """A browser that reads the site from its directory."""
    with browsing(site.as_uri()) as page:
        yield page


@pytest.mark.parametrize(
    ("words", "guide"),
    [
        ("best checkpoint", "snapshots"),
        ("postgres restore", "backups databases interrupted-restore"),
        ("upgrade", "upgrading"),
        ("slack", "automations"),
        ("orbax", "from-orbax"),
    ],
)
def test_search_works_from_a_directory_and_finds_the_guide_first(
    words: str, guide: str, site: Path, browser: Page
) -> None:
    browser.goto((site / "design.html").as_uri())
    browser.get_by_role("textbox", name="Search").click()
    browser.keyboard.type(words)
    first = browser.locator(".md-search-result__link").first
    expect(first).to_be_visible()
    expect(first).to_have_attribute("href", re.compile(rf"/({guide.replace(' ', '|')})\.html"))


def test_no_page_is_wider_than_a_phone(pages: dict[Path, Requests], browser: Page, every: int) -> None:
    browser.set_viewport_size({"width": 390, "height": 800})
    for path in sorted(pages)[::every]:
        browser.goto(path.as_uri(), wait_until="domcontentloaded")
        assert browser.evaluate("document.documentElement.scrollWidth") <= 390, path


@pytest.mark.parametrize("module", PUBLIC)
def test_the_reference_has_every_public_name(module: str, site: Path) -> None:
    with (site / "objects.inv").open("rb") as file:
        described = set(Inventory.parse_sphinx(file))
    shown = {name.rpartition(".")[2] for name in described}
    twins = {name for name in importlib.import_module(module).__all__ if name.startswith("a") and name[1:] in shown}
    assert set(importlib.import_module(module).__all__) - twins - {"errors"} <= shown
