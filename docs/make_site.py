"""Makes a site of pages that are written to be read on a Git host: `mkdocs.yml` names it as a hook.

The README is the home page. What pages link to outside of this folder becomes a page of the site, too: Markdown as it
is, everything else as code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from typing import Any

from griffe import Extension, Object
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
HOME = "README.md"
LINK = re.compile(r"(?<=\]\()([^)#\s]+)")
BOOSTS = {
    # In other tools a checkpoint is a saved model, and people search for that.
    "snapshots.md": 6,
    "checkpoints.md": 0.7,
    "tutorials/checkpoints.md": 0.7,
    "tutorials/": 2,
    # Whoever searches for a restore has a backup, and only some have an archive beside it.
    "howto/point-in-time.md": 1,
    "howto/sqlite-point-in-time.md": 1,
    "howto/": 2,
    "databases.md": 3,
    "backups.md": 3,
    "automations.md": 3,
    "upgrading.md": 4,
    "reference/": 0.3,
    "format.md": 0.3,
    "design.md": 0.3,
    "CHANGELOG.md": 0.3,
    "CONTRIBUTING.md": 0.3,
    "benchmarks.md": 0.3,
    "source/": 0.1,
}
"""How much more a hit on a page counts, by the beginning of its path: guides come before the reference."""
LANGUAGES = {".py": "python", ".toml": "toml", ".yaml": "yaml"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of what lies outside of the folder."""
    pages = {f"docs/{file.src_uri}" for file in files.documentation_pages()} | {HOME}
    linked = {target for page in pages for target in _targets(page, (ROOT / page).read_text())}
    for path in sorted({HOME, *(target for target in linked if not target.startswith("docs/"))}):
        content = (ROOT / path).read_text()
        if not path.endswith(".md"):
            language = LANGUAGES.get(Path(path).suffix, "text")
            content = f"# {path}\n\n````{language}\n{content}````\n"
        files.append(File.generated(config, _place_of(path), content=content))
    return files


def on_page_markdown(markdown: str, page: Page, files: Files, **_: Any) -> str:
    """Have links lead to the pages of the site."""
    here = page.file.src_uri
    if here.startswith("source/"):
        return markdown
    if here == _place_of(HOME):
        page.meta["hide"] = ["navigation"]  # the list beside it would have this one page
    page.meta["search"] = {"boost": next((boost for begin, boost in BOOSTS.items() if here.startswith(begin)), 1)}
    path = f"docs/{here}" if page.file.generated_by is None else {_place_of(HOME): HOME}.get(here, here)

    def inside(link: re.Match[str]) -> str:
        target = normpath(join(dirname(path), link[1]))
        return relpath(_place_of(target), dirname(here) or ".") if (ROOT / target).exists() else link[1]

    return LINK.sub(inside, markdown)


class Examples(Extension):
    """What our docstrings call `Example:` is what the reference knows as `Examples:`, a section with code in it."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^(\s*)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)


def _targets(path: str, markdown: str) -> Iterator[str]:
    """The files that a page links to, from the top of the project."""
    for link in LINK.findall(markdown):
        target = normpath(join(dirname(path), link))
        if (ROOT / target).is_file():
            yield target


def _place_of(path: str) -> str:
    """Where the site has a file of the project."""
    if path == HOME:
        return "index.md"
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return path if path.endswith(".md") else f"source/{path}.md"
