"""The documentation is true: every block of code on every page runs, and prints what the page says it prints.

The Python blocks of one page are one program, run in order in an empty directory. What a block prints is compared with
its own comments `# Output: ...`, or with the `text` block behind it, where `...` stands for anything; a block that
prints something unannounced fails. In `console` blocks the lines that begin with `$` are run, and the others are what
they print. A comment `<!-- not run: REASON -->` in front of a block excuses it. Every doctest runs, too.
"""

from __future__ import annotations

import doctest
import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

import prefect_snapshots

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
MANUAL = ROOT / "docs" / "cli.md"
"""Its examples are one session at a terminal: `tests/test_cli.py` holds it to every byte."""

SHOWN = {"text", "json", "toml", "yaml", "mermaid"}
"""Languages of blocks that are looked at and not run."""

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXCUSE = re.compile(r"<!-- not run: \S.*-->\n+\Z")
OUTPUT = re.compile(r"# Output: ?(.*)")

WITHOUT_HEARTBEATS = (
    "import prefect.settings as _settings; "
    "_without = _settings.temporary_settings({_settings.PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}); _without.__enter__()"
)
"""A heartbeat lets every flow end a second later. No variable of the environment says that there be none."""

# Pages with flows share one Prefect server, another than the other tests: in one group, they would be the last to end.
pytestmark = pytest.mark.xdist_group("docs")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    line: int
    """Of its first line of text, counted from 1."""
    language: str
    text: str
    excused: bool
    output: str | None
    """The `text` block right behind it."""


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page in order."""
    content = page.read_text()
    found = list(FENCE.finditer(content))
    assert content.count("\n```") + content.startswith("```") == 2 * len(found), f"{page}: a block does not end"
    blocks = []
    for number, match in enumerate(found):
        behind = found[number + 1] if number + 1 < len(found) else None
        follows = behind is not None and not content[match.end() : behind.start()].strip() and behind[1] == "text"
        blocks.append(
            Block(
                line=content.count("\n", 0, match.start()) + 2,
                language=match[1],
                text=match[2],
                excused=EXCUSE.search(content[: match.start()]) is not None,
                output=behind[2] if behind is not None and follows else None,
            )
        )
    return blocks


def expected_output(block: Block) -> str:
    """What a Python block prints."""
    comments = "".join(f"{line}\n" for line in OUTPUT.findall(block.text))
    assert not (comments and block.output), f"line {block.line}: the output is announced twice"
    return comments or block.output or ""


def program_of(blocks: list[Block], end: str) -> str:
    """The Python blocks as one program, each at its line on the page; it prints `end` behind each of them."""
    flows = any("from prefect import" in block.text for block in blocks)
    lines = [WITHOUT_HEARTBEATS] if flows else []  # in the place of the title of the page
    for block in blocks:
        lines += [""] * (block.line - 1 - len(lines))
        lines += block.text.splitlines()
        lines.append(f"print({end!r})")  # where the page has its closing fence
    return "\n".join(lines) + "\n"


def assert_output(expected: str, got: str, where: str) -> None:
    wanted, found = (text.rstrip() + "\n" for text in (expected, got))
    if not doctest.OutputChecker().check_output(wanted, found, doctest.ELLIPSIS):
        pytest.fail(f"{where} prints\n{got}\nand the page says\n{expected}", pytrace=False)


@pytest.fixture
def environment(
    prefect_server: str, moto_endpoint: str, gcs_endpoint: str, warm: Path, tmp_path: Path
) -> dict[str, str]:
    """As on a fresh machine with the package installed, a Prefect server running, and buckets on S3 and GCS."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return {
        **kept,
        "AWS_ENDPOINT_URL": moto_endpoint,
        "AWS_ACCESS_KEY_ID": "S3RVER",
        "AWS_SECRET_ACCESS_KEY": "S3RVER",
        "S3_SERVER": moto_endpoint,
        "STORAGE_EMULATOR_HOST": gcs_endpoint,
        "PATH": os.pathsep.join([str(warm.parent), str(Path(sys.executable).parent), kept["PATH"]]),
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": prefect_server,
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "JAX_PLATFORMS": "cpu",
        "COLUMNS": "120",
        "NO_COLOR": "1",
    }


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page != MANUAL], ids=lambda page: str(page.relative_to(ROOT))
)
def test_page(page: Path, environment: dict[str, str], warm_python: Path, tmp_path: Path) -> None:
    directory = tmp_path / "empty"
    directory.mkdir()
    blocks = [block for block in blocks_of(page) if not block.excused]
    strange = {block.language for block in blocks} - SHOWN - {"python", "console", ""}
    assert not strange, f"{page.name}: blocks of {', '.join(strange)} are neither run nor excused"
    assert all(block.language for block in blocks), f"{page.name}: a block does not say its language"
    run_python(warm_python, [block for block in blocks if block.language == "python"], page, environment, directory)
    for block in blocks:
        if block.language == "console":
            run_console(block, page, environment, directory)


def run_python(python: Path, blocks: list[Block], page: Path, environment: dict[str, str], directory: Path) -> None:
    if not blocks:
        return
    end = f"--- {uuid.uuid4().hex} ---"
    program = directory.parent / "page.py"
    program.write_text(program_of(blocks, end))
    done = subprocess.run(
        [python, program], cwd=directory, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, f"{page.name}: line numbers are those of the page\n{done.stdout}\n{done.stderr}"
    *printed, rest = done.stdout.split(f"{end}\n")
    assert not rest, f"{page.name} prints at exit: {rest}"
    for block, got in zip(blocks, printed, strict=True):
        assert_output(expected_output(block), got, f"{page.name}:{block.line}")


def run_console(block: Block, page: Path, environment: dict[str, str], directory: Path) -> None:
    parts = re.split(r"^\$ (.*)\n", block.text, flags=re.MULTILINE)
    assert not parts[0].strip(), f"{page.name}:{block.line}: a line belongs to no command"
    for command, expected in zip(parts[1::2], parts[2::2], strict=True):
        done = subprocess.run(
            ["bash", "-uc", command],
            cwd=directory,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{page.name}: $ {command}\n{done.stdout}"
        assert_output(expected, done.stdout, f"{page.name}: $ {command}")


@pytest.mark.parametrize("page", ["README.md", "docs/examples.md"])
def test_examples_that_are_copied_alone_import_all_that_they_use(page: str) -> None:
    undefined = [sys.executable, "-m", "ruff", "check", "--isolated", "--quiet", "--select", "F821", "-"]
    for block in blocks_of(ROOT / page):
        if block.language == "python":
            found = subprocess.run(undefined, input=block.text, capture_output=True, text=True, check=False)
            assert not found.returncode, f"{page}:{block.line}: {found.stdout}{found.stderr}"


TASKS = {
    "keep the best models (checkpoints) of a training": "docs/snapshots.md#keep-the-best",
    "resume a long loop": "docs/checkpoints.md#in-a-flow",
    "log a data set or a model, promote it": "docs/artifacts.md#promote-to-a-stage-and-roll-back",
    "back up databases and directories every night": "docs/tutorials/backups.md#schedule-backups",
    "restore a backup": "docs/backups.md#restore",
    "encrypt a repository": "docs/howto/encryption.md",
    "use a bucket on S3": "docs/howto/s3.md",
    "clean up old versions": "docs/backups.md#retention",
    "see it in the Prefect UI": "docs/prefect.md#in-the-ui",
    "write a driver for another database": "CONTRIBUTING.md#add-a-database",
}
"""What a newcomer wants to do, as the table in the README says it, and where it is described."""


@pytest.mark.parametrize(("task", "target"), TASKS.items())
def test_two_clicks_lead_from_the_readme_to_each_task(task: str, target: str) -> None:
    readme = ROOT / "README.md"
    [row] = [line for line in readme.read_text().splitlines() if line.startswith(f"| {task}")]
    first = links_in(row, readme)
    pages = [ROOT / link.partition("#")[0] for link in first]
    second = {link for page in pages if page.suffix == ".md" for link in links_in(page.read_text(), page)}
    assert target in first | second


def links_in(text: str, page: Path) -> set[str]:
    """The targets of links to pages of this project, from its root."""
    links = [link for link in re.findall(r"\]\(([^)]+)\)", FENCE.sub("", text)) if not link.startswith("https:")]
    return {os.path.relpath(page.parent / link, ROOT) for link in links}


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        text = FENCE.sub("", page.read_text())
        anchors = {anchor_of(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}
        for target in re.findall(r"\]\(([^)]+)\)", text):
            if target.startswith("https://"):
                continue
            path, _, anchor = target.partition("#")
            linked = (page.parent / path).resolve() if path else page
            assert linked.exists(), f"{page.name} links to {target}"
            if anchor and linked.suffix == ".md":
                found = anchors if linked == page else set(anchors_of(linked))
                assert anchor in found, f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_data_can_be_read(page: Path) -> None:
    parsers: dict[str, Callable[[str], object]] = {"json": json.loads, "toml": tomllib.loads, "yaml": yaml.safe_load}
    for block in blocks_of(page):
        if block.language in parsers:
            parsers[block.language](block.text)


def test_targets_of_make_that_are_named_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"(?:`|^\$ )make ([a-z]+)", page.read_text(), re.MULTILINE)}
    assert {"demo", "test", "docs"} <= named <= targets


def test_files_that_are_named_exist() -> None:
    named = re.compile(r"`((?:tests|benchmarks|flows|prefect_snapshots)/[\w/.-]+\.\w+)")
    for page in PAGES:
        for path in named.findall(page.read_text()):
            assert (ROOT / path).exists(), f"{page.name} names {path}"


def anchors_of(page: Path) -> Iterator[str]:
    text = FENCE.sub("", page.read_text())
    return map(anchor_of, re.findall(r"^#+ (.*)$", text, re.MULTILINE))


def anchor_of(heading: str) -> str:
    """As GitHub makes them."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


# --- doctests ---------------------------------------------------------------------------------------------------------

MODULES = [
    module.name
    for module in pkgutil.walk_packages(prefect_snapshots.__path__, "prefect_snapshots.")
    if not module.name.endswith("__main__")
]


@pytest.mark.parametrize("name", ["prefect_snapshots", *MODULES])
def test_doctests(name: str, prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    for test in doctest.DocTestFinder(exclude_empty=True).find(module):
        report: list[str] = []
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        runner.run(test, out=report.append)
        if runner.failures:
            pytest.fail("".join(report), pytrace=False)


def test_no_doctest_is_skipped() -> None:
    assert [path for path in (ROOT / "prefect_snapshots").rglob("*.py") if "+SKIP" in path.read_text()] == []
