"""Settings in pyproject.toml can name programs to run, so it matters who wrote them; and files of users stay whole."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from prefect_snapshots import Repository, SnapshotManager
from prefect_snapshots.cli.initializing import _write_settings
from prefect_snapshots.cli.project_settings import configuration, write_settings
from prefect_snapshots.cli.session import Session
from prefect_snapshots.errors import InvalidArgument
from prefect_snapshots.filesystem import SnapshotsFileSystem
from prefect_snapshots.integration.blocks import current_repository
from prefect_snapshots.integration.settings import SnapshotsSettings
from prefect_snapshots.values.proving import prove_readable

HOOK = '[tool.prefect-snapshots]\nname = "shop"\nhooks = { before_backup = [["touch", "/tmp/owned"]] }\n'
STRANGER = 4321
SETTING = "PREFECT_INTEGRATIONS_SNAPSHOTS_PASSWORD"


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that others may write to, above the working directory."""
    (tmp_path / "mine" / "deeper").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "mine" / "deeper")
    return tmp_path


def give(file: Path) -> None:
    """Give a file to somebody else."""
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    subprocess.run([*root, "chown", "--no-dereference", str(STRANGER), file], check=True)


@pytest.mark.parametrize("way", ["file", "link"])
def test_settings_of_a_stranger_above_the_working_directory_are_refused(shared: Path, way: str) -> None:
    file = shared / "pyproject.toml"
    if way == "link":
        (shared / "elsewhere").write_text(HOOK)
        file.symlink_to("elsewhere")
    else:
        file.write_text(HOOK)
    assert configuration()["name"] == "shop"
    give(file)
    with pytest.raises(InvalidArgument, match=f"belongs to the user {STRANGER}.*could run programs as you"):
        configuration()
    own = shared / "mine" / "pyproject.toml"
    own.write_text('[tool.prefect-snapshots]\nname = "mine"\n')
    assert configuration() == {"name": "mine"}
    own.chmod(0o666)
    with pytest.raises(InvalidArgument, match=r"can be written to by all users.*could run programs as you"):
        configuration()


def test_a_stranger_s_file_without_settings_stops_nobody(shared: Path) -> None:
    file = shared / "pyproject.toml"
    file.write_text("[tool.ruff]\n")
    give(file)
    assert configuration() == {}


def test_settings_in_the_working_directory_count_whoever_owns_both(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container, where root works in the directory of another user."""
    (shared / "mine" / "pyproject.toml").write_text(HOOK)
    monkeypatch.chdir(shared / "mine")
    give(shared / "mine" / "pyproject.toml")
    with pytest.raises(InvalidArgument):
        configuration()
    give(shared / "mine")
    assert configuration()["name"] == "shop"


@pytest.mark.parametrize("text", ["tool = 3\n", "a = " + "[" * 20_000 + "]" * 20_000, "\x00"])
def test_settings_that_make_no_sense_are_one_error(shared: Path, text: str) -> None:
    (shared / "pyproject.toml").write_text(text)
    with pytest.raises(InvalidArgument, match="cannot be read"):
        configuration()


@pytest.mark.parametrize("name", ["caf\u00e9", "a\x7fb", 'a"b\\', "a\nb", "\U0001f4e6"])
def test_init_writes_settings_that_can_be_read(shared: Path, name: str) -> None:
    Path("pyproject.toml").write_bytes("# caf\u00e9\r\n[project]\r\nname = 'mine'".encode())
    _write_settings({"directories": [f"/data/{name}"]})
    assert configuration() == {"directories": [f"/data/{name}"]}
    assert Path("pyproject.toml").read_bytes().startswith("# caf\u00e9\r\n[project]\r\nname = 'mine'\n".encode())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (".env", f'{SETTING}_COMMAND="touch owned; echo x"'),
        ("prefect.toml", 'integrations.snapshots.password_command = "touch owned; echo x"'),
        ("pyproject.toml", 'tool.prefect.integrations.snapshots.password_command = "touch owned; echo x"'),
    ],
)
def test_settings_of_prefect_by_a_stranger_are_refused(
    shared: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.delenv("PREFECT_UNIT_TEST_MODE", raising=False)
    monkeypatch.delenv(f"{SETTING}_COMMAND", raising=False)
    monkeypatch.chdir(shared)
    file = shared / name
    file.write_text(text)
    assert SnapshotsSettings().password_command == "touch owned; echo x"
    file.chmod(0o666)
    with pytest.raises(InvalidArgument, match=r"can be written to by all users.*could run programs as you"):
        current_repository()
    give(file)
    with pytest.raises(InvalidArgument, match=f"belongs to the user {STRANGER}.*could run programs as you"):
        current_repository()
    file.write_text("# of something else")
    if name != "prefect.toml":
        assert SnapshotsSettings().password_command is None


def test_a_repository_that_a_stranger_has_put_here_is_not_the_default(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_INTEGRATIONS_SNAPSHOTS_REPOSITORY", raising=False)
    monkeypatch.chdir(shared)
    SnapshotManager(Repository()).save_snapshot(1, "one")
    (shared / "snapshots").chmod(0o777)
    with pytest.raises(InvalidArgument, match=r"snapshots can be written to by all users.*Nothing was opened"):
        Repository()
    give(shared / "snapshots")
    ways: list[Callable[[], object]] = [
        Repository,
        current_repository,
        Session().place,
        lambda: SnapshotsFileSystem().files,
    ]
    for way in ways:
        with pytest.raises(InvalidArgument, match=f"snapshots belongs to the user {STRANGER}.*Nothing was opened"):
            way()
    assert SnapshotManager(Repository("snapshots"))["one"].data == 1


def test_a_module_in_the_working_directory_is_not_imported_to_prove_a_value(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shared)
    (shared / "json.py").write_text("raise SystemExit(3)")
    prove_readable({"a": 1})


# --- files are replaced as a whole ------------------------------------------------------------------------------------


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file can get longer than ten bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_costs_no_settings(tmp_path: Path) -> None:
    file = tmp_path / "prefect.yaml"
    file.write_text("precious")
    with pytest.raises(OSError, match="too large"):
        write_settings(file, "x" * 100)
    assert file.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [file]


def test_a_link_and_a_mode_stay(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("old")
    file.chmod(0o604)
    link.symlink_to("file")
    write_settings(link, "new")
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode), link.is_symlink()) == ("new", 0o604, True)


@pytest.mark.parametrize("what", ["link to nothing", "pipe", "directory", "missing directory"])
def test_what_is_no_file_is_not_written_to(tmp_path: Path, what: str) -> None:
    file = tmp_path / "prefect.yaml"
    if what == "link to nothing":
        file.symlink_to("elsewhere")
    elif what == "pipe":
        os.mkfifo(file)
    elif what == "directory":
        file.mkdir()
    else:
        file = tmp_path / "missing" / "prefect.yaml"
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InvalidArgument, match="Nothing was written"):
        write_settings(file, "x")
    assert sorted(tmp_path.iterdir()) == before
