"""What a repository gives away to whoever sees its names, its bytes, or the files on the disk of a shared machine."""

from __future__ import annotations

import ast
import os
import re
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from servers import Storage

import prefect_snapshots
from prefect_snapshots import ArtifactRegistry, BackupManager, Repository, Snapper, SnapshotManager
from prefect_snapshots.errors import StorageUnavailable
from prefect_snapshots.integration.run_context import run_logger
from prefect_snapshots.repository.location import open_location
from prefect_snapshots.results import ResultLog

# Every name, key, item and content below has this in it, so that it can be searched for.
TELLING = "telltale"

FIXED = {
    *("catalog", "root", "packs", "index", "logs", "keyed", "compacted", "hint", "head", "claims", "whole", "level"),
    *("repository.json", "repository.copy.json", "reserve"),
}
"""Parts of names that are the same in every repository."""

COMMAND = "from prefect_snapshots.cli import main; main()"


def use_every_kind(repository: Repository, folder: Path) -> BackupManager:
    """Store something of every kind, with telling names and contents."""
    snapshots = SnapshotManager(repository, name=f"{TELLING}-snapshots")
    for number in range(3):
        value = {f"{TELLING}-key": np.arange(300_000), f"{TELLING}-small": f"{TELLING}-value"}
        snapshots.save_snapshot(value, f"{TELLING}-{number}", {f"{TELLING}-m": TELLING}, tags=[f"{TELLING}-tag"])
    results = ResultLog(repository, f"{TELLING}-results")
    results.write(f"{TELLING}-result", TELLING.encode() * 10_000)
    results.write(f"{TELLING}-small", TELLING.encode())
    results.delete([f"{TELLING}-result"])
    for items in range(100), [f"{TELLING}-{number}" for number in range(100)]:
        name = f"{TELLING}-{type(items).__name__}"
        Snapper(
            items, f"{{}}-{TELLING}".format, repository=repository, name=name, function_version=1, batch_size=10
        ).start()
    registry = ArtifactRegistry(repository, f"{TELLING}-collection")
    registry.log_artifact(f"{TELLING}-artifact", {"text": TELLING}, metadata={TELLING: TELLING})
    registry.set_alias(f"{TELLING}-artifact", 0, f"{TELLING}-alias", by=TELLING)
    registry.create_release(f"{TELLING}-release")
    source = folder / f"{TELLING}-source"
    source.mkdir(exist_ok=True)
    (source / f"{TELLING}.txt").write_text(TELLING)
    with closing(sqlite3.connect(folder / f"{TELLING}.db")) as database:
        database.execute(f"CREATE TABLE IF NOT EXISTS {TELLING} (x)")
    (folder / f"{TELLING}.db").chmod(0o600)  # what is restored gets the mode that it had
    places = {"directories": [source], "databases": [str(folder / f"{TELLING}.db")]}
    backups = BackupManager(repository, name=f"{TELLING}-backups", **places)  # type: ignore[arg-type]
    backups.create_backup(f"{TELLING} description", tags=[f"{TELLING}-tag"])
    repository.prune()
    return backups


@pytest.mark.parametrize("place", ["memory_storage", pytest.param("s3_storage", marks=pytest.mark.nightly)])
def test_an_encrypted_repository_tells_nothing(place: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """No name and no byte shows what is stored, and no name follows from it: two secrets have no name in common."""
    storage: Storage = request.getfixturevalue(place)
    names = []
    for number in range(2):
        location = open_location(f"{storage.url}/{number}", storage.storage_options)
        repository = Repository(location.url, storage_options=storage.storage_options, password="the same password")
        use_every_kind(repository, tmp_path)
        found = [info.path for info in location.list("")]
        assert {path.partition("/")[0] for path in found} >= {"catalog", "packs", "index", "logs"}
        for path in found:
            assert TELLING not in path
            assert TELLING.encode() not in location.read(path)
        # Numbers count events and levels, and packs lie in folders with the first two letters of their random names.
        parts = {part for path in found for part in path.split("/") if len(part) > 2}
        names.append({part for part in parts if len(part.partition("-")[0]) >= 16 or any(map(str.isalpha, part))})
    assert names[0] & names[1] <= FIXED, sorted((names[0] & names[1]) - FIXED)


@pytest.fixture
def open_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A process that opens everything that it creates to everybody, unless it is told otherwise."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    before = os.umask(0)
    yield
    os.umask(before)


def test_nobody_else_can_read_what_is_written(open_process: None, tmp_path: Path) -> None:
    for name in ("state", "sources", "written"):
        (tmp_path / name).mkdir(mode=0o700)
    written = tmp_path / "written"
    repository = Repository(written / "repository", password="a password")
    backups = use_every_kind(repository, tmp_path / "sources")
    backups.export("latest", written / "export.tar")
    SnapshotManager(repository, name=f"{TELLING}-snapshots").save_to_file(written / "saved")
    plain = Repository(written / "plain", password=False)
    SnapshotManager(plain, name="arrays").save_snapshot({"x": np.arange(3)}, "one")
    for arguments in (
        ["report", "--html", written / "report.html"],
        ["snapshots", "restore", "latest", "--name", "arrays", "--to", written / "arrays.npz"],
    ):
        place = ["--repository", written / "plain", "--no-password"]
        subprocess.run([sys.executable, "-c", COMMAND, *map(str, [*place, *arguments])], check=True)
    [database] = [part.name for part in backups.get_backup("latest").parts if part.name.startswith("sqlite")]
    restored = f"sqlite:///{written}/restored.db"
    backups.restore_backup("latest", confirm=True, to={database: restored}, only={database: []})
    files = [path for folder in (written, tmp_path / "state") for path in folder.rglob("*")]
    expected = {"export.tar", "saved", "report.html", "arrays.npz", "restored.db", "repository.json"}
    assert expected <= {path.name for path in files}
    assert any(path.is_relative_to(tmp_path / "state") and path.is_file() for path in files)
    open_to_others = [path for path in files if stat.S_IMODE(path.stat().st_mode) & 0o077]
    assert [path.relative_to(tmp_path) for path in open_to_others] == []


def test_no_name_forges_a_line_in_a_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", "prefect_snapshots"):
        run_logger().warning("Saved %s: %s, %d times.", "a\x1b[2J", ValueError("b\nERROR: c\u202e"), 3)
    [record] = caplog.records
    assert record.getMessage() == r"Saved a\x1b[2J: b\nERROR: c\u202e, 3 times."
    assert Path(record.pathname) == Path(__file__)


def test_an_error_of_a_hostile_storage_is_logged_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stream = Repository(tmp_path / "r").stream("snapshots", "a", lambda _: None)

    def fail() -> None:
        raise StorageUnavailable("no\nERROR: forged\u202e")

    stream._helpfully(fail)
    [record] = caplog.records
    assert "\\nERROR: forged\\u202e" in record.getMessage()
    assert record.getMessage().isprintable()


def test_every_line_is_logged_by_the_logger_that_escapes() -> None:
    """Other loggers are not made, messages are constants, and no traceback is logged: it would not be escaped.

    `terminal.py` only looks for the handler of Prefect.
    """
    package = Path(prefect_snapshots.__file__).parent
    calls = 0
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if called.endswith(("getLogger", "get_run_logger", "get_logger")):
                assert file.name in ("messages.py", "run_context.py", "terminal.py"), file
            elif re.fullmatch(
                r"(.*\W|self\._)?(run_)?logger(\(\))?\.(debug|info|warning|error|critical|exception)", called
            ):
                assert isinstance(node.args[0], ast.Constant), (file, node.lineno)
                assert not called.endswith("exception"), (file, node.lineno)
                assert not [each for each in node.keywords if each.arg == "exc_info"], (file, node.lineno)
                calls += 1
    assert calls > 50


def test_every_row_of_the_threat_model_names_a_test_that_is_there() -> None:
    folder = Path(__file__).parent
    page = (folder.parent / "docs" / "threat-model.md").read_text()
    rows = [line.strip("| ").split(" | ")[-1] for line in page.splitlines() if line.startswith("| ")]
    shown = [cell for cell in rows if cell not in ("test", "not protected")]
    assert len(shown) >= 25
    for cell in shown:
        files = re.findall(r"`(test_\w+\.py)`", cell)
        assert files, cell
        code = "".join((folder / file).read_text() for file in files)
        for name in re.findall(r"`([Tt]est\w+)`", cell):
            assert re.search(rf"(def|class) {name}\b", code), name
