"""The page about the design shows the source tree as it is."""

from __future__ import annotations

import ast
import collections
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "prefect_snapshots"
PAGE = (ROOT / "docs" / "design.md").read_text()


def drawn() -> set[str]:
    """The modules and packages of the tree on the page, relative to the package."""
    tree = re.search(r"```text\nprefect_snapshots/\n(.*?)```", PAGE, re.DOTALL)
    assert tree, "docs/design.md has no tree"
    found, folder = set(), ""
    for indent, name in re.findall(r"^( {4}| {8})([\w.]+/?)(?: .*)?$", tree[1], re.MULTILINE):
        path = name if len(indent) == 4 else folder + name
        folder = path if len(indent) == 4 and name.endswith("/") else folder
        found.add(path)
    return found


def modules(folder: Path) -> set[str]:
    """The modules and packages that lie directly in a folder."""
    return {
        f"{path.relative_to(PACKAGE)}{'/' if path.is_dir() else ''}"
        for path in folder.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }


def test_the_tree_shows_every_module_of_the_package_and_of_two_layers() -> None:
    expected = modules(PACKAGE)
    for layer in ("repository", "integration"):
        expected |= modules(PACKAGE / layer) - {f"{layer}/__init__.py"}
    assert drawn() == expected


SHARED = {
    # The same thing for another kind.
    "__init__", "artifacts", "backups", "differences", "handlers", "history", "maintenance", "manager",
    "manifest", "passwords", "records", "report", "retention", "snapshots",
}  # fmt: skip


def test_no_two_classes_have_one_name_and_modules_only_if_they_are_the_same_for_another_kind() -> None:
    paths = sorted(PACKAGE.rglob("*.py"))
    files = collections.Counter(path.stem for path in paths)
    nodes = itertools.chain.from_iterable(ast.walk(ast.parse(path.read_text())) for path in paths)
    classes = collections.Counter(node.name for node in nodes if isinstance(node, ast.ClassDef))
    assert {name for name, count in files.items() if count > 1} == SHARED
    assert {name for name, count in classes.items() if count > 1} == set()


def test_every_test_file_that_holds_a_promise_exists() -> None:
    named = set(re.findall(r"`((?:tests|benchmarks)/\w+\.py)`", PAGE))
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).exists()] == []


UNITS = re.compile(r"_?(DAY|HOUR|WEEK|SECOND|WIDTH|HEIGHT|CELL|WEEKS|SPARK|NONE|SEED|HEAP_TYPE)")
"""Constants whose names say all there is to say: units, and the sizes of a drawing."""


def tunables(path: Path) -> Iterator[tuple[str, str]]:
    """The numbers that a module names, and what it says of each: a comment or a docstring."""
    source = path.read_text()
    lines = source.splitlines()
    body = ast.parse(source).body
    for node, following in itertools.zip_longest(body, body[1:]):
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        number = re.fullmatch(r"[-\d._*+<> ()]+|timedelta\(.*\)", ast.unparse(node.value))
        if isinstance(target, ast.Name) and target.id.isupper() and number:
            docstring = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            above = lines[node.lineno - 2].startswith("#")
            yield target.id, "said" if docstring or above or "  # " in lines[node.lineno - 1] else ""


def test_every_tunable_says_why_it_has_its_value() -> None:
    found = {
        (str(path.relative_to(ROOT)), name): said
        for path in sorted((ROOT / "prefect_snapshots").rglob("*.py"))
        for name, said in tunables(path)
        if not UNITS.fullmatch(name)
    }
    assert len(found) > 100
    assert [place for place, said in found.items() if not said] == []
