"""One dialect: the pages about verbs and JSON say what Python and the command line really have."""

from __future__ import annotations

import ast
import functools
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import prefect_snapshots
from prefect_snapshots import ArtifactRegistry, BackupManager, RetentionPolicy, SnapshotManager, errors
from prefect_snapshots.checkpoints import CheckpointManager, Snapper
from prefect_snapshots.cli.output import Answer
from prefect_snapshots.cli.session import Session
from prefect_snapshots.errors import SnapshotsError
from prefect_snapshots.retention import CleanupReport

DOCS = Path(__file__).parent.parent / "docs" / "reference"
KINDS: dict[str, Any] = {
    "snapshots": SnapshotManager,
    "checkpoints": CheckpointManager,
    "artifacts": ArtifactRegistry,
    "backups": BackupManager,
}


def rows_of(page: str, first: str) -> Iterator[list[str]]:
    """The cells of the rows of the table that has a row `first`."""
    tables = re.findall(r"(?:^\|.*\n)+", (DOCS / page).read_text(), re.MULTILINE)
    table = next(each for each in tables if f"| {first} |" in each)
    return ([cell.strip() for cell in row.strip("|\n").split("|")] for row in table.splitlines()[2:])


@pytest.mark.parametrize(
    ("verb", "cells"), [(verb, cells) for verb, _, *cells in rows_of("verbs.md", "class") if verb != "class"]
)
def test_every_verb_is_a_method(verb: str, cells: list[str]) -> None:
    for manager, cell in zip(KINDS.values(), cells, strict=True):
        for method in re.findall(r"`(\w+)`", cell):
            assert callable(getattr(manager, method)), (manager, verb)
            assert inspect.getdoc(getattr(manager, method)), method


def test_every_verb_is_a_command_of_every_kind_and_takes_names_as_the_page_says() -> None:
    for verb, *cells in rows_of("verbs.md", "show"):
        usages = []
        for kind in KINDS:
            arguments = import_module(f"prefect_snapshots.cli.{kind}").app[verb].assemble_argument_collection()
            taken = [each for each in arguments if each.index is not None]
            names = [(each.name.lstrip("-").upper(), each.required) for each in taken]
            words = [name if required or name.startswith("[") else f"[{name}]" for name, required in names]
            usages.append(f"`{' '.join((kind, verb, *words))}`")
            by_name = kind == "backups" or (kind == "snapshots" and verb not in ("list", "cleanup"))
            assert any("--name" in each.names for each in arguments) == by_name, (kind, verb)
        assert cells == usages


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """With something of each kind."""
    place = tmp_path / "repository"
    snapshots: SnapshotManager[Any] = SnapshotManager(place, name="train")
    for step in range(2):
        snapshots.save_snapshot({"step": step}, f"step-{step}", {"loss": 1 - step}, tags=["kept"])
    Snapper([1, 2], abs, repository=place, name="numbers").start()
    for value in range(2):
        ArtifactRegistry(place).log_artifact("model", value)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("content")
    manager = BackupManager(place, name="files", directories=[tmp_path / "folder"])
    manager.create_backup("first")
    manager.create_backup("second")
    return place


def test_lists_are_newest_first_and_cleanup_reports_alike(repository: Path) -> None:
    listed = {
        "snapshots": [info.id for info in SnapshotManager(repository, name="train").list_snapshots()],
        "artifacts": [info.version for info in ArtifactRegistry(repository).list_versions("model")],
        "backups": [backup.description for backup in BackupManager(repository, name="files").list_backups()],
    }
    assert listed == {"snapshots": ["step-1", "step-0"], "artifacts": ["v1", "v0"], "backups": ["second", "first"]}
    policy = RetentionPolicy(keep_last=1, keep_weekly_within=None)
    for manager in (
        SnapshotManager(repository, name="train"),
        CheckpointManager(repository),
        ArtifactRegistry(repository),
        BackupManager(repository, name="files"),
    ):
        report = manager.cleanup(policy, dry_run=True)
        assert isinstance(report, CleanupReport)
        assert report.dry_run
        assert {row.name for row in report.rows if not row.keep} == set(report.deleted)


def document(repository: Path, kind: str, verb: str, *arguments: Any, **options: Any) -> dict[str, Any]:
    """What a command prints with --json, before it is printed."""
    app = import_module(f"prefect_snapshots.cli.{kind}").app
    answer: Answer = app[verb].default_command(*arguments, session=Session(str(repository)), **options)
    return answer.document


def said(section: str) -> set[str]:
    """The keys that a section of the page names."""
    text = (DOCS / "json.md").read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"`([a-z_0-9]+)`", text))


FREE = {"metadata", "environment", "counts", "run", "git"}
"""Keys whose values have keys that users choose."""


def keys_in(value: Any) -> set[str]:
    """The keys of a document and of what is in it, but for those that users choose."""
    if isinstance(value, dict):
        return set(value).union(*(keys_in(item) for key, item in value.items() if key not in FREE))
    return set().union(*map(keys_in, value)) if isinstance(value, list | tuple) else set()


def test_the_page_has_every_key_of_snapshots(repository: Path) -> None:
    documents = [
        document(repository, "snapshots", "list"),
        document(repository, "snapshots", "list", "train"),
        document(repository, "snapshots", "show", "step-0"),
        document(repository, "snapshots", "diff", "step-0", "step-1"),
        document(repository, "snapshots", "pin", "step-0"),
    ]
    assert keys_in(documents) <= said("Snapshots")


def test_the_page_has_every_key_of_checkpoints(repository: Path) -> None:
    [fingerprint] = [each["fingerprint"] for each in document(repository, "checkpoints", "list")["checkpoints"]]
    documents = [
        document(repository, "checkpoints", "list", "numbers"),
        document(repository, "checkpoints", "diff", "numbers", fingerprint),
        document(repository, "checkpoints", "why", "numbers"),
    ]
    assert keys_in(documents) <= said("Checkpoints")


def test_the_page_has_every_key_of_artifacts(repository: Path) -> None:
    listed = document(repository, "artifacts", "list")
    for row in listed["artifacts"]:
        del row["aliases"]
    documents = [
        listed,
        document(repository, "artifacts", "list", "model"),
        document(repository, "artifacts", "show", "model"),
    ]
    assert keys_in(documents) <= said("Artifacts")


def test_the_page_has_the_keys_of_cleanup(repository: Path) -> None:
    from prefect_snapshots.cli.retention import RetentionOptions

    found = document(repository, "snapshots", "cleanup", "train", dry_run=True, retention=RetentionOptions(keep_last=1))
    assert keys_in(found) == said("Cleanup") - {"cleanup"}


def test_the_page_has_the_keys_of_backups(repository: Path) -> None:
    listed = document(repository, "backups", "list")["backups"][0]
    assert said("Backups") & {"manager", "name", "description", "created_at", "pinned", "parts"} <= set(listed)
    [second, first] = [each["name"] for each in document(repository, "backups", "list")["backups"]]
    assert set(document(repository, "backups", "diff", first, second)) <= said("Backups")


# --- docstrings ---------------------------------------------------------------------------------------------------


def public_functions() -> Iterator[tuple[str, Any, str]]:
    """Each public function and method: its name, itself, and the docstrings of its class and the bases of that."""
    for name in dir(prefect_snapshots):
        public = getattr(prefect_snapshots, name)
        if name.startswith("_") or inspect.ismodule(public) or not callable(public):
            continue
        if not inspect.isclass(public):
            yield name, getattr(public, "fn", public), ""
            continue
        ours = [each for each in public.__mro__ if each.__module__.startswith("prefect_snapshots.")]
        shared = "\n".join(inspect.getdoc(each) or "" for each in ours)
        for method in sorted({method for each in ours for method in vars(each) if not method.startswith("_")}):
            function = getattr(public, method)
            function = getattr(function, "__func__", function)
            if inspect.isfunction(function):
                yield f"{name}.{method}", function, shared


@pytest.mark.parametrize(
    ("name", "function", "shared"), [pytest.param(*each, id=each[0]) for each in public_functions()]
)
def test_docstrings_name_every_argument_and_say_what_is_returned(name: str, function: Any, shared: str) -> None:
    text = inspect.getdoc(function) or ""
    summary = text.partition("\n\n")[0]
    assert summary.endswith((".", "?")), f"{name} has no line that says what it is for"
    told = set(re.findall(r"^- `(\w+)`: ", shared, re.MULTILINE))
    for arguments in re.findall(r"^ +((?:\w+, )*\w+): ", text, re.MULTILINE):
        told.update(arguments.split(", "))
    if not re.search(r"See `[\w.]+`\.$", summary):
        assert set(inspect.signature(function).parameters) - {"self", "cls"} <= told, name
    if inspect.signature(function).return_annotation not in ("None", None):
        assert re.search(r"^(Returns|Yields):$|\A(Return|List|Yield|Raise)\b|See `", text, re.MULTILINE), name


# --- messages ----------------------------------------------------------------------------------------------------

FRAGMENTS = {
    "MalformedContent": "completed by whoever knows which content it is",
    "UnserialisableLeaf": "takes the path of the leaf, and makes the sentence itself",
    "PickleRefused": "takes what is refused, and makes the sentence itself",
    "DamagedVersion": "takes what is damaged, and makes the sentence itself",
}
"""Errors that are raised with a part of a sentence, and why."""


@functools.cache
def nodes() -> list[tuple[str, ast.Raise | ast.JoinedStr]]:
    """The name of each module with what it raises and with its f-strings."""
    return [
        (path.name, node)
        for path in sorted(Path(errors.__file__).parent.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Raise | ast.JoinedStr)
    ]


def raised() -> Iterator[tuple[str, str, str]]:
    """Each error of ours that a module raises, and its message with NUL for whatever is filled in."""
    for module, node in nodes():
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            kind, message = ast.unparse(node.exc.func).rpartition(".")[2], node.exc.args[0]
            if isinstance(message, ast.Constant | ast.JoinedStr) and issubclass(
                getattr(errors, kind, Exception), SnapshotsError
            ):
                parts = message.values if isinstance(message, ast.JoinedStr) else [message]
                yield (
                    module,
                    kind,
                    "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in parts),
                )


def test_messages_of_errors_are_sentences() -> None:
    """They begin with a capital letter or with code, such as the name of an argument, and end with a full stop."""
    form = re.compile(r"(?:[^a-z]|v\0|[a-z_]+(?:[_(=]| (?:must|needs|counts|is)\b)).*(?:[.!?]|\0)", re.DOTALL)
    messages = [*raised()]
    assert len(messages) > 300
    wrong = [each for each in messages if each[1] not in FRAGMENTS and not form.fullmatch(each[2])]
    assert not wrong, "\n".join(map(str, wrong))


def test_commands_in_messages_quote_what_is_filled_in() -> None:
    """A name may have spaces: pasted into a shell, the command would do something else."""
    filled = re.compile(r"`(?:prefect|prefect-snapshots|sqlite3) [^`]*`|\(--[a-z-]+ \0[^\0]*\0")
    found = 0
    for module, node in nodes():
        if isinstance(node, ast.JoinedStr):
            parts = [
                str(each.value) if isinstance(each, ast.Constant) else f"\0{unparsed(each)}\0" for each in node.values
            ]
            for command in filled.findall("".join(parts)):
                for code in re.findall(r"\0(.*?)\0", command):
                    found += 1
                    assert code.startswith("shlex.quote("), f"{module}: {command}"
    assert found > 5


def unparsed(part: ast.expr) -> str:
    assert isinstance(part, ast.FormattedValue)
    return ast.unparse(part.value)
