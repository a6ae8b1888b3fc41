"""The command line says what is there, changes what it is told to, and meets whatever else it is given with one line.

Every test runs the program as a process of its own: the installed one where its start or end is what counts, else the
one of `warm.py`. Answers are compared in their JSON form, exit codes always; and nothing that was only asked writes to
the repository, prints a secret or runs what is stored.
"""

from __future__ import annotations

import json
import os
import pty
import re
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
from flat_database import Flat
from manual import rewritten, steady
from servers import Storage

from prefect_snapshots import ArtifactRegistry, BackupManager, Repository, Snapper, SnapshotManager
from prefect_snapshots.backups import PartState, RestorePart
from prefect_snapshots.backups.journal import begun
from prefect_snapshots.cli import output, session
from prefect_snapshots.errors import WrongPassword

INSTALLED = Path(sysconfig.get_path("scripts")) / "prefect-snapshots"
MANUAL = Path(__file__).parent.parent / "docs" / "cli.md"
PASSWORD = "PREFECT_INTEGRATIONS_SNAPSHOTS_PASSWORD"
SECRET = "correct-horse-battery"
PACIFIC = "Etc/GMT+8"
"""Eight hours behind UTC, all year."""


class Touch:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@dataclass(frozen=True)
class Program:
    """The command line, as it is run in a directory on the repository there."""

    directory: Path
    environment: Mapping[str, str]
    path: Path

    def but(self, **environment: str) -> Program:
        return replace(self, environment={**self.environment, **environment})

    def installed(self) -> Program:
        return replace(self, path=INSTALLED)

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.path, *arguments], cwd=self.directory, env=dict(self.environment), text=True, **options
        )

    def run(self, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with self.start(*arguments, **pipes) as process:
            said, complained = process.communicate()
        assert process.returncode == status, (said, complained)
        return subprocess.CompletedProcess(arguments, status, said, complained)

    def json(self, *arguments: str, status: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", status=status).stdout)

    def complaint(self, *arguments: str, status: int) -> str:
        """The one line that is said of a failure."""
        done = self.run(*arguments, status=status)
        assert done.stdout == ""
        [line] = done.stderr.splitlines()
        assert line.startswith("prefect-snapshots: ")
        return line.removeprefix("prefect-snapshots: ")

    def typing(
        self,
        *arguments: str,
        answers: Sequence[tuple[str, str]] = (),
        status: int = 0,
        piped: bool = True,
    ) -> tuple[str, str]:
        """Run on a terminal, and type an answer to each prompt. Returns what was piped, and all on the terminal."""
        ours, its = pty.openpty()
        try:
            # In a session of its own it does not find the terminal that the tests themselves may have.
            process = self.start(
                *arguments, stdin=its, stdout=subprocess.PIPE if piped else its, stderr=its, start_new_session=True
            )
        finally:
            os.close(its)
        shown = b""
        with process, open(ours, "r+b", buffering=0) as terminal:
            for prompt, answer in answers:
                seen = len(shown)
                while prompt.encode() not in shown[seen:]:
                    shown += terminal.read(1024)
                terminal.write(answer.encode() + b"\n")
            said = process.communicate()[0]
            try:
                while piece := terminal.read(1024):
                    shown += piece
            except OSError:
                pass  # this is how Linux says that the other end is closed
        assert process.returncode == status, (said, shown)
        return said or "", shown.decode()


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """The environment of these tests, without variables that would change answers."""
    ours = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "AWS_"))}
    return {**ours, "COLUMNS": "80", "TZ": PACIFIC}


def weights(step: int) -> dict[str, Any]:
    kernel = np.random.default_rng(0).normal(size=(160, 160)).astype(np.float32)
    return {"encoder": {"kernel": kernel, "bias": np.full(3, step, np.int32)}, "step": step, "note": "same"}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a repository: five snapshots under `train`, one each under two other names."""
    directory = tmp_path_factory.mktemp("filled")
    repository = Repository(directory / "snapshots")
    train: SnapshotManager[Any] = SnapshotManager(repository, name="train")
    for epoch, loss in enumerate([0.9, 0.25, 0.5, float("nan")]):
        metadata = {"epoch": epoch, "loss": loss, "optimiser": {"name": "adam", "rate": "0.1"}}
        tags = ["fit", "even"] if epoch % 2 == 0 else ["fit"]
        train.save_snapshot(weights(epoch), f"epoch-{epoch}", metadata, tags)
    train.save_snapshot([1], "best")
    train.pin("epoch-1")
    SnapshotManager(repository, name="best/ever").save_snapshot([2], "best")
    SnapshotManager(repository, name="forged").save_snapshot([3], "red", {"note": "\x1b[31m\nroot:", "why": "\u202ex"})
    return directory


@pytest.fixture
def program(filled: Path, environment: dict[str, str], warm: Path) -> Program:
    """On a repository that must stay as it is."""
    return Program(filled, environment, warm)


@pytest.fixture
def own(filled: Path, environment: dict[str, str], tmp_path: Path, warm: Path) -> Program:
    """On a repository that may be changed."""
    shutil.copytree(filled, tmp_path / "own")
    return Program(tmp_path / "own", environment, warm)


@pytest.fixture
def encrypted(environment: dict[str, str], tmp_path: Path, warm: Path) -> Program:
    SnapshotManager(Repository(tmp_path / "snapshots", password=SECRET)).save_snapshot([1], "only")
    return Program(tmp_path, environment, warm)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def largest_pack(directory: Path) -> Path:
    return max((directory / "snapshots" / "packs").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())


# --- starting ----------------------------------------------------------------------------------------------------


def test_help_takes_little_longer_than_its_parser(program: Program) -> None:
    """Of a processor, beside what it is made with: neither what else this machine does matters, nor which it is."""

    def least(*command: str | Path) -> float:
        taken = []
        for _ in range(3):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            taken.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
        return min(taken)

    parser = least(sys.executable, "-c", "import cyclopts, rich.console, rich.table")
    assert least(program.installed().path, "--help") < 5 * parser


def test_starting_loads_neither_prefect_nor_the_repository() -> None:
    code = "import prefect_snapshots.cli.program, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"prefect", "numpy", "fsspec", "rich.progress", "prefect_snapshots.repository"} & set(loaded)


def test_version(program: Program) -> None:
    assert re.fullmatch(r"\d+\.\d+\S*\n", program.installed().run("--version").stdout)


def test_completion_knows_commands_and_options(program: Program, tmp_path: Path) -> None:
    script = tmp_path / "completion"
    at_home = program.but(HOME=str(tmp_path))
    at_home.run("--install-completion", "--shell", "bash", "--output", str(script))
    assert {"restore", "--repository", "--keep-extra"} <= set(re.findall(r"[\w-]+", script.read_text()))


def completions(program: Program, *words: str, **environment: str) -> list[str]:
    """What the installed script asks the program for, without descriptions."""
    begin, _, said = program.but(**environment).run("__complete", *words).stdout.partition("\x1fbegin\n")
    assert begin.strip() == ""
    return [line.partition("\t")[0] for line in said.splitlines()]


def test_the_shell_completes_what_the_repository_contains(program: Program) -> None:
    names, ids = ["best/ever", "forged", "train"], ["latest", "best", "epoch-3", "epoch-2", "epoch-1", "epoch-0"]
    assert completions(program, "snapshots", "list", "") == names
    assert completions(program, "snapshots", "show", "")[:4] == [*names, "latest"]
    assert completions(program, "snapshots", "diff", "train", "best", "") == ids
    assert completions(program, "snapshots", "pin", "--name", "train", "") == ids
    assert completions(program, "snapshots", "pin", "--name=") == names
    assert "snapshots/" in completions(program, "ls", "")
    assert "snapshots/train@epoch-0/" in completions(program, "cat", "snapshots/")
    assert completions(program, "-r", "elsewhere", "snapshots", "list", "") == []
    assert completions(program, "snapshots", "list", "", "-r", "elsewhere", "--name") == []
    assert completions(program, "-r", str(program.directory / "snapshots"), "snapshots", "list", "") == names


def test_the_shell_completes_no_name_as_an_option(program: Program, tmp_path: Path) -> None:
    manager = SnapshotManager(tmp_path / "r", name="train")
    for name in ("--yes", "-y", "good"):
        manager.save_snapshot(1, name)
    assert completions(program, "-r", str(tmp_path / "r"), "snapshots", "show", "train", "") == ["latest", "good"]


def test_the_shell_completes_artifacts_backups_and_checkpoints(
    tmp_path: Path, environment: dict[str, str], warm: Path
) -> None:
    program, repository = Program(tmp_path, environment, warm), Repository(tmp_path / "snapshots")
    registry = ArtifactRegistry(repository, "vision")
    for number in range(2):
        registry.log_artifact("mlp", number)
    registry.promote_artifact("mlp", "v0", to="production")
    registry.create_release("1.0")
    (tmp_path / "data").mkdir()
    backup = BackupManager(repository, directories=[tmp_path / "data"], name="shop").create_backup()
    assert completions(program, "artifacts", "list", "-c", "") == ["vision"]
    assert completions(program, "artifacts", "show", "-c", "vision", "") == ["mlp"]
    assert completions(program, "artifacts", "show", "-c", "vision", "mlp", "") == ["latest", "production", "v1", "v0"]
    assert completions(program, "artifacts", "rollback", "--collection=vision", "mlp", "") == ["production"]
    assert completions(program, "artifacts", "copy-release", "-c", "vision", "") == ["1.0"]
    assert completions(program, "backups", "list", "") == ["shop"]
    assert completions(program, "backups", "diff", "--name", "shop", "latest", "") == ["latest", backup.name]
    assert completions(program, "backups", "show", "--name", "other", "") == ["latest"]


def test_completing_asks_for_no_password_and_runs_no_command(encrypted: Program, tmp_path: Path) -> None:
    assert completions(encrypted, "snapshots", "show", "") == []
    assert "only" in completions(encrypted, "snapshots", "show", "", **{PASSWORD: SECRET})
    file, ran = tmp_path / "key", tmp_path / "ran"
    file.write_text(SECRET)
    assert "only" in completions(encrypted, "--password-file", str(file), "snapshots", "show", "")
    command = f"touch {ran}; echo {SECRET}"
    assert completions(encrypted, "--password-command", command, "snapshots", "show", "") == []
    assert completions(encrypted, "snapshots", "show", "", **{f"{PASSWORD}_COMMAND": command}) == []
    assert not ran.exists()


def test_bash_completes_with_the_installed_script(program: Program, tmp_path: Path) -> None:
    script = tmp_path / "completion"
    program.but(HOME=str(tmp_path)).run("--install-completion", "--shell", "bash", "--output", str(script))
    typed = """
        source "$1"
        COMP_WORDS=(prefect-snapshots snapshots diff train epoch-); COMP_CWORD=4
        "$(complete -p prefect-snapshots | sed -E 's/.*-F ([^ ]+).*/\\1/')" prefect-snapshots
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    search = f"{INSTALLED.parent}:{program.environment['PATH']}"
    done = subprocess.run(
        ["bash", "-c", typed, "bash", script],
        cwd=program.directory,
        env={**program.environment, "PATH": search},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["epoch-3", "epoch-2", "epoch-1", "epoch-0"]


# --- which repository --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [["-r", "snapshots", "snapshots", "list"], ["snapshots", "list", "-r", "snapshots"]])
def test_repository_is_named_before_or_after_the_command(own: Program, place: list[str]) -> None:
    own = own.but(PREFECT_INTEGRATIONS_SNAPSHOTS_REPOSITORY="elsewhere")
    assert len(own.json(*place)["names"]) == 3


def test_repository_comes_from_the_environment(own: Program) -> None:
    (own.directory / "snapshots").rename(own.directory / "other")
    own.complaint("snapshots", "list", status=1)
    assert own.but(PREFECT_INTEGRATIONS_SNAPSHOTS_REPOSITORY="other").json("snapshots", "list")["names"]


@pytest.mark.parametrize(
    "command",
    [
        *(["snapshots", "list"], ["snapshots", "delete", "x"], ["check"], ["prune"], ["repair", "--yes"]),
    ],
    ids=" ".join,
)
def test_missing_repository_is_an_error_and_not_created(
    environment: dict[str, str], warm: Path, tmp_path: Path, command: list[str]
) -> None:
    complaint = Program(tmp_path, environment, warm).complaint(*command, status=1)
    assert "There is no repository at" in complaint
    assert "The first save creates one" in complaint
    assert not list(tmp_path.iterdir())


def test_directory_that_is_no_repository_is_left_alone(environment: dict[str, str], warm: Path, tmp_path: Path) -> None:
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots" / "thesis.txt").write_text("x")
    assert "does not contain a repository" in Program(tmp_path, environment, warm).complaint("prune", status=1)
    assert len(list((tmp_path / "snapshots").iterdir())) == 1


def test_storage_options_nest_and_take_json() -> None:
    options = session.parse_options(["anon=true", "a.b.c=1", "a.b.d=x=y", 'key="1"', "token=0x1"])
    assert options == {"anon": True, "a": {"b": {"c": 1, "d": "x=y"}}, "key": "1", "token": "0x1"}


@pytest.mark.parametrize("options", [["hunter2"], ["=hunter2"], ["a..b=hunter2"], ["a=1", "a.b=hunter2"], ["a=1"] * 2])
def test_bad_storage_options_are_refused_without_showing_them(program: Program, options: list[str]) -> None:
    arguments = [argument for option in options for argument in ("--storage-option", option)]
    assert "hunter2" not in program.complaint("check", *arguments, status=2)


def test_everything_works_on_s3(s3_storage: Storage, environment: dict[str, str], tmp_path: Path) -> None:
    SnapshotManager(Repository(s3_storage.url, storage_options=s3_storage.storage_options), name="train").save_snapshot(
        weights(0), "epoch-0", {"loss": 0.5}
    )
    options = s3_storage.storage_options
    program = Program(tmp_path, environment, INSTALLED).but(
        AWS_ACCESS_KEY_ID=options["key"],
        AWS_SECRET_ACCESS_KEY=options["secret"],
        PREFECT_INTEGRATIONS_SNAPSHOTS_REPOSITORY=s3_storage.url,
    )
    where = [
        *("--storage-option", f"client_kwargs.endpoint_url={options['endpoint_url']}"),
        *("--storage-option", "config_kwargs.connect_timeout=5"),
    ]
    assert program.json("snapshots", "list", "train", *where)["snapshots"][0]["metadata"] == {"loss": 0.5}
    assert program.json("snapshots", "describe", "epoch-0", "--add-tag", "kept", *where)["tags"] == ["kept"]
    assert program.json("check", "--read-data", *where)["ok"]
    endpoint = ("--url-option", f"client_kwargs.endpoint_url={options['endpoint_url']}")
    referred = program.json("artifacts", "refer", "raw", f"{s3_storage.url}/repository.json", *endpoint, *where)
    assert [file["path"] for file in referred["files"]] == [""]
    program.run("snapshots", "delete", "epoch-0", "--yes", *where)
    assert program.json("prune", "--grace", "0s", *where)["bytes_freed"] > 0


# --- looking -----------------------------------------------------------------------------------------------------


def test_list_of_names(program: Program, filled: Path) -> None:
    document = program.json("snapshots", "list")
    assert document["repository"] == f"file://{filled}/snapshots"
    by_name = {each["name"]: each for each in document["names"]}
    assert {name: each["snapshots"] for name, each in by_name.items()} == {"train": 5, "best/ever": 1, "forged": 1}
    records = SnapshotManager(filled / "snapshots", name="train").records.by_id
    assert by_name["train"]["size"] == sum(record.size for record in records.values())
    assert by_name["train"]["written"] < by_name["train"]["size"] / 2
    assert by_name["train"]["latest"] == {"id": "best", "created_at": records["best"].timestamp.isoformat()}


def test_list_of_snapshots_is_newest_first_and_complete(program: Program, filled: Path) -> None:
    document = program.json("snapshots", "list", "train")
    assert [each["id"] for each in document["snapshots"]] == ["best", "epoch-3", "epoch-2", "epoch-1", "epoch-0"]
    record = SnapshotManager(filled / "snapshots", name="train").records.by_id["epoch-1"]
    assert document["snapshots"][3] == {
        "id": "epoch-1",
        "name": "train",
        "created_at": record.timestamp.isoformat(),
        "description": "",
        "tags": ["fit"],
        "metadata": {"epoch": 1, "loss": 0.25, "optimiser": {"name": "adam", "rate": "0.1"}},
        "size": record.size,
        "written": record.written,
        "pinned": True,
        "made_by": None,
    }
    assert document["snapshots"][1]["metadata"]["loss"] == "NaN"


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        (["--tag", "even"], [2, 0]),
        (["--tag", "even", "--tag", "fit", "--limit", "1"], [2]),
        (["--tag", "nope"], []),
        (["--where", "epoch=1"], [1]),
        (["--where", "loss=0.50"], [2]),
        (["--where", "optimiser.rate=0.1", "--where", "epoch"], [3, 2, 1, 0]),
        (["--where", "optimiser.rate=0.10"], []),
        (["--where", "nope"], []),
        (["--where", "epoch in (1, 2) and tags = even or id = epoch-3"], [3, 2]),
        (["--rank-by", "loss", "--where", "loss"], [0, 2, 1, 3]),
        (["--rank-by", "loss", "--mode", "min", "--where", "loss", "--limit", "2"], [1, 2]),
        (["--where", "epoch", "--limit", "99999999999999999999999999"], [3, 2, 1, 0]),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_list_filters_ranks_and_limits(program: Program, options: list[str], ids: list[int]) -> None:
    document = program.json("snapshots", "list", "train", *options)
    assert [each["id"] for each in document["snapshots"]] == [f"epoch-{epoch}" for epoch in ids]


def test_best_is_marked(program: Program) -> None:
    options = ["--rank-by", "loss", "--mode", "min", "--where", "loss"]
    assert program.json("snapshots", "list", "train", *options)["best"] == "epoch-1"
    rows = program.run("snapshots", "list", "train", *options).stdout.splitlines()[1:5]
    assert [row[:2].strip() for row in rows] == ["📌★", "", "", ""]


def test_times_are_local_in_text_and_utc_in_json(program: Program) -> None:
    saved = {each["id"]: each["created_at"] for each in program.json("snapshots", "list", "train")["snapshots"]}
    here = (datetime.fromisoformat(saved["epoch-2"]) - timedelta(hours=8)).replace(tzinfo=None)
    assert f"{here:%Y-%m-%d %H:%M:%S} (local)" in program.run("snapshots", "show", "epoch-2").stdout
    assert f"{here:%Y-%m-%d %H:%M} " in program.run("snapshots", "list", "train").stdout

    since = program.json("snapshots", "list", "train", "--since", here.isoformat())["snapshots"]
    assert [each["id"] for each in since] == ["best", "epoch-3", "epoch-2"]
    until = program.json("snapshots", "list", "train", "--until", saved["epoch-2"])["snapshots"]
    assert [each["id"] for each in until] == ["epoch-2", "epoch-1", "epoch-0"]


def test_tables_fit_80_columns(program: Program) -> None:
    for command in (["list"], ["list", "train"], ["show", "epoch-0"], ["diff", "epoch-0", "epoch-1"]):
        lines = program.run("snapshots", *command).stdout.splitlines()
        assert len(lines) > 1
        assert max(map(output.width_of, lines)) <= 80
    wide = program.but(COLUMNS="200").run("snapshots", "list", "train").stdout
    assert "optimiser.rate" in wide
    assert "More metadata" not in wide


def test_reasons_are_not_cut_on_a_narrow_terminal(own: Program) -> None:
    tags = ["--keep-tag", "fit", "--keep-tag", "even", "--keep-daily", "1", "--keep-weekly-within", "3m"]
    narrow = own.but(COLUMNS="40").run("snapshots", "cleanup", "train", "--dry-run", *tags).stdout.splitlines()
    assert max(map(output.width_of, narrow[:-1])) <= 40
    wide = own.but(COLUMNS="200").run("snapshots", "cleanup", "train", "--dry-run", *tags).stdout.splitlines()
    assert " ".join(narrow).split() == " ".join(wide).split()
    assert len(narrow) > len(wide)


def test_headings_and_errors_stand_out_on_a_terminal(program: Program) -> None:
    _, shown = program.typing("snapshots", "list", piped=False)
    assert shown.startswith("\x1b[1mname")
    _, shown = program.typing("snapshots", "show", "nope", piped=False, status=1)
    assert shown.startswith("\x1b[1;31mprefect-snapshots:\x1b[0m ")
    _, shown = program.but(NO_COLOR="1").typing("snapshots", "list", piped=False)
    assert "\x1b" not in shown


def test_text_of_a_list(program: Program) -> None:
    lines = program.run("snapshots", "list", "train").stdout.splitlines()
    assert lines[0].split() == ["id", "saved", "(local)", "tags", "epoch", "loss", "size", "written"]
    assert [line.split()[0] for line in lines[1:6]] == ["best", "epoch-3", "epoch-2", "📌", "epoch-0"]
    assert lines[6].endswith("optimiser.name, optimiser.rate")
    assert lines[7].startswith("5 snapshots under train: ")
    quiet = program.run("snapshots", "list", "train", "--quiet").stdout.splitlines()
    assert quiet == lines[:7]


def test_show_tells_the_leaves(program: Program, filled: Path) -> None:
    document = program.json("snapshots", "show", "epoch-3")
    listed = program.json("snapshots", "list", "train")["snapshots"][1]
    assert {key: document[key] for key in listed} == listed
    assert document["name"] == "train"
    assert document["leaves"] == [
        {"path": "encoder/kernel", "kind": "numpy", "dtype": "float32", "shape": [160, 160], "bytes": 102400},
        {"path": "encoder/bias", "kind": "numpy", "dtype": "int32", "shape": [3], "bytes": 12},
        {"path": "step", "kind": "int", "dtype": None, "shape": None, "bytes": 0, "value": 3},
        {"path": "note", "kind": "str", "dtype": None, "shape": None, "bytes": 0, "value": "same"},
    ]
    some = program.json("snapshots", "show", "epoch-3", "--leaves", "*/bias", "--leaves", "step")
    assert [leaf["path"] for leaf in some["leaves"]] == ["encoder/bias", "step"]


def test_show_does_not_load_the_data(own: Program) -> None:
    for pack in (own.directory / "snapshots" / "packs").rglob("*"):
        if pack.is_file():
            pack.write_bytes(pack.read_bytes()[: pack.stat().st_size // 2])
    shown = own.run("snapshots", "list", "train").stdout
    assert "epoch-3" in shown


def test_diff_tells_how_much_changed(program: Program) -> None:
    document = program.json("snapshots", "diff", "epoch-1", "epoch-3")
    assert document["old"] == {"name": "train", "id": "epoch-1"}
    bias, step = document["differences"]
    assert (bias["path"], bias["kind"], bias["elements"], bias["changed"], bias["max_abs"]) == (
        *("encoder/bias", "changed", 3, 3),
        2.0,
    )
    assert (step["path"], step["old"], step["new"]) == ("step", "1", "3")
    text = program.run("snapshots", "diff", "epoch-1", "epoch-3").stdout
    assert "1 → 3" in text
    assert text.endswith("2 leaves differ.\n")
    assert program.run("snapshots", "diff", "epoch-1", "epoch-1").stdout == "They are identical.\n"


def test_ids_are_found_under_any_name_or_the_one_that_is_given(program: Program) -> None:
    assert program.json("snapshots", "show", "red")["name"] == "forged"
    assert (
        "Several names have a snapshot 'best': best/ever, train. Put its name in front of the id."
        in program.complaint("snapshots", "show", "best", status=2)
    )
    assert program.json("snapshots", "show", "best", "--name", "best/ever")["name"] == "best/ever"
    assert "no snapshot 'red'" in program.complaint("snapshots", "show", "red", "--name", "train", status=1)


@pytest.mark.parametrize(
    ("command", "near"),
    [
        (["show", "epoch-9"], "epoch-3"),
        (["diff", "epoch-1", "epok-2"], "epoch-2"),
        (["list", "trian"], "train"),
        (["show", "best", "--name", "best/eve"], "best/ever"),
        (["delete", "epoch-1", "epoch-11", "--yes"], "epoch-1"),
        (["show", "epoch-1", "--leaves", "encoder/kernal"], "encoder/kernel"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_unknown_names_get_those_that_come_near(program: Program, command: list[str], near: str) -> None:
    status = 2 if "--leaves" in command else 1
    assert near in program.complaint("snapshots", *command, status=status).partition("Did you mean")[2]


# --- annotating and removing -------------------------------------------------------------------------------------


def test_describe(own: Program) -> None:
    tags = ["--add-tag", "a b", "--add-tag", "c", "--remove-tag", "even", "--remove-tag", "zzz"]
    added = own.json("snapshots", "describe", "epoch-0", *tags, "--description", "The\nfirst.")
    assert added == {"name": "train", "id": "epoch-0", "tags": ["fit", "a b", "c"], "description": "The\nfirst."}
    assert own.json("snapshots", "describe", "train", "epoch-0") == added
    assert own.json("snapshots", "show", "epoch-0")["tags"] == ["fit", "a b", "c"]
    assert own.run("snapshots", "describe", "epoch-0").stdout == "tags  fit, a b, c\nThe\nfirst.\n"
    named = own.json("snapshots", "describe", "train", "--add-tag", "team=a")
    assert named == {"name": "train", "id": None, "tags": ["team=a"], "description": ""}


def test_rename_and_delete_a_name(own: Program) -> None:
    ids = [each["id"] for each in own.json("snapshots", "list", "train")["snapshots"]]
    assert own.json("snapshots", "rename", "train", "trial", "--dry-run")["dry_run"]
    assert own.json("snapshots", "rename", "train", "trial")["snapshots"] == len(ids)
    assert [each["id"] for each in own.json("snapshots", "list", "trial")["snapshots"]] == ids
    own.complaint("snapshots", "rename", "train", "trial", status=1)
    own.complaint("snapshots", "delete", "trial", "epoch-0", "--all", "--yes", status=2)
    kept = own.json("snapshots", "delete", "trial", "--all", "--dry-run", "--force")
    assert len(kept["deleted"]) == len(ids)
    own.run("snapshots", "delete", "trial", "--all", "--force", "--yes")
    assert "trial" not in [each["name"] for each in own.json("snapshots", "list")["names"]]


def test_bad_tag_changes_nothing(own: Program) -> None:
    before = contents(own.directory)
    own.complaint("snapshots", "describe", "epoch-0", "--add-tag", "good", "--remove-tag", "../bad", status=2)
    own.run("snapshots", "describe", "epoch-0")
    assert contents(own.directory) == before


def test_pin_and_unpin(own: Program) -> None:
    own.run("snapshots", "pin", "epoch-0", "red")
    assert own.json("snapshots", "show", "red")["pinned"]
    own.run("snapshots", "unpin", "epoch-0", "epoch-1")
    pinned = {each["id"]: each["pinned"] for each in own.json("snapshots", "list", "train")["snapshots"]}
    assert not any(pinned.values())


def test_a_name_may_stand_in_front_of_ids(own: Program) -> None:
    show = own.json("snapshots", "show", "epoch-0")
    assert own.json("snapshots", "show", "train", "epoch-0") == show
    assert own.json("snapshots", "diff", "train", "epoch-0", "epoch-0")["differences"] == []
    own.run("snapshots", "pin", "train", "epoch-0", "epoch-2")
    assert own.json("snapshots", "show", "train", "epoch-2")["pinned"]
    SnapshotManager(own.directory / "snapshots", name="best/ever").save_snapshot({}, "forged-2")
    assert own.json("snapshots", "show", "forged")["id"] == "forged-2", "a name, and the beginning of one id"
    assert "it is a name" in own.complaint("snapshots", "delete", "forged", "--yes", status=1)
    said = own.complaint("snapshots", "show", "train", status=1)
    assert "There is no snapshot 'train': it is a name. Put an id behind it: train ID." in said
    assert "Pass NAME ID." in own.complaint("snapshots", "show", "train", "epoch-0", "epoch-1", status=2)
    assert "Did you mean 'train'" in own.complaint("snapshots", "show", "trian", "epoch-0", status=1)
    SnapshotManager(own.directory / "snapshots", name="epoch-0").save_snapshot({}, "epoch-1")
    unclear = own.complaint("snapshots", "delete", "epoch-0", "epoch-1", "--yes", status=2)
    assert "is a name, and also the id of a snapshot of 'train'" in unclear
    own.run("snapshots", "delete", "epoch-1", "--name", "epoch-0", "--yes")


def test_delete_asks_first(own: Program) -> None:
    before = contents(own.directory)
    planned = own.json("snapshots", "delete", "train", "epoch-0", "--dry-run")
    assert ([each["id"] for each in planned["deleted"]], planned["dry_run"]) == (["epoch-0"], True)
    assert (
        "epoch-1 of train) would be deleted" in own.run("snapshots", "delete", "epoch-1", "--force", "--dry-run").stdout
    )
    assert "Pinned: epoch-1" in own.complaint("snapshots", "delete", "epoch-1", "--dry-run", status=1)
    complaint = own.complaint("snapshots", "delete", "epoch-0", "epoch-1", "--force", status=2)
    assert "epoch-0 of train, 📌 epoch-1 of train" in complaint
    told = own.complaint("snapshots", "delete", "train", "--yes", status=1)
    assert "it is a name" in told
    assert "--all" in told
    question = own.complaint("snapshots", "delete", "train", "--all", "--force", status=2)
    assert re.match(r"Delete 5 snapshots under train \([\d.]+ kB\)\? ", question)
    assert "--yes" in complaint
    _, shown = own.typing("snapshots", "delete", "epoch-0", answers=[("[y/N]", "n")], status=1)
    assert "nothing was changed" in shown
    own.complaint("snapshots", "delete", "epoch-0", "epoch-9", "--yes", status=1)
    assert "Pinned: epoch-1 of train" in own.complaint("snapshots", "delete", "epoch-1", "--yes", status=1)
    said = own.complaint("snapshots", "delete", "epoch-", "--yes", status=1)
    assert "this command needs the whole name" in said
    assert contents(own.directory) == before

    own.typing("snapshots", "delete", "epoch-0", "epoch-0", answers=[("[y/N]", "y")])
    assert [each["id"] for each in own.json("snapshots", "delete", "epoch-1", "--yes", "--force")["deleted"]] == [
        "epoch-1"
    ]
    left = [each["id"] for each in own.json("snapshots", "list", "train")["snapshots"]]
    assert left == ["best", "epoch-3", "epoch-2"]


def test_cleanup_keeps_what_the_retention_and_pins_say(own: Program) -> None:
    planned = own.json("snapshots", "cleanup", "train", "--keep-last", "1", "--dry-run")
    assert {row["name"]: row["keep"] for row in planned["rows"]}["best"]
    before = contents(own.directory)
    assert planned["deleted"]
    assert planned["dry_run"]
    assert contents(own.directory) == before
    assert "Say what to keep" in own.complaint("snapshots", "cleanup", "train", status=2)
    done = own.json("snapshots", "cleanup", "train", "--keep-last", "1")
    assert done["deleted"] == planned["deleted"]
    left = {each["id"] for each in own.json("snapshots", "list", "train")["snapshots"]}
    assert left == {row["name"] for row in done["rows"] if row["keep"]}


def test_latest_and_beginnings_of_ids_are_enough(program: Program) -> None:
    assert program.json("snapshots", "show", "latest", "--name", "train")["id"] == "best"
    assert program.json("snapshots", "show", "bes", "--name", "best/ever")["id"] == "best"
    assert "'epoch-' may be" in program.complaint("snapshots", "show", "epoch-", status=2)
    assert "in front of the id" in program.complaint("snapshots", "show", "latest", status=2)
    named = program.json("snapshots", "diff", "train", "epoch-1", "epoch-3")
    assert named == program.json("snapshots", "diff", "epoch-1", "epoch-3", "--name", "train")


# --- restoring ---------------------------------------------------------------------------------------------------


def test_restore_to_a_snapshot_file_keeps_everything(own: Program) -> None:
    document = own.json("snapshots", "restore", "epoch-1", "--to", "one.snapshots")
    restored: SnapshotManager[Any] = SnapshotManager.load_from_file(own.directory / "one.snapshots")
    assert document["bytes"] == (own.directory / "one.snapshots").stat().st_size
    assert list(restored) == ["epoch-1"]
    value = restored["epoch-1"].data
    np.testing.assert_array_equal(value["encoder"]["kernel"], weights(1)["encoder"]["kernel"])
    assert value["note"] == "same"
    assert restored.get_metadata("epoch-1")["loss"] == 0.25
    assert restored["epoch-1"].timestamp.isoformat() == own.json("snapshots", "show", "epoch-1")["created_at"]


def test_restore_to_npz_holds_arrays_by_path(own: Program) -> None:
    own.run("snapshots", "restore", "epoch-1", "--to", "w.npz", "--leaves", "encoder/**", "--leaves", "step")
    with np.load(own.directory / "w.npz", allow_pickle=False) as arrays:
        assert sorted(arrays) == ["encoder/bias", "encoder/kernel", "step"]
        np.testing.assert_array_equal(arrays["encoder/kernel"], weights(1)["encoder"]["kernel"])
        assert arrays["step"] == 1
        assert arrays["encoder/bias"].dtype == np.int32


@pytest.mark.parametrize(
    ("value", "leaf"),
    [
        ({"a": 1, "note": "text"}, "Leaf note: "),
        ({"a": {"..": np.ones(2)}}, "Leaf a/..: "),
        ({"": {"etc": 1}}, "Leaf /etc: "),
        ({"big": 2**100}, "Leaf big: "),
        ([None], "Leaf 0: "),
    ],
)
def test_npz_refuses_what_it_cannot_hold(own: Program, value: Any, leaf: str) -> None:
    SnapshotManager(own.directory / "snapshots", name="odd").save_snapshot(value, "odd")
    complaint = own.complaint("snapshots", "restore", "odd", "--to", "odd.npz", status=1)
    assert complaint.startswith(leaf)
    assert ".snapshots" in complaint
    assert [path.name for path in own.directory.iterdir()] == ["snapshots"]


def test_npz_of_a_single_array(own: Program) -> None:
    value = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    SnapshotManager(own.directory / "snapshots", name="odd").save_snapshot(value, "odd")
    own.run("snapshots", "restore", "odd", "--to", "odd.npz")
    np.testing.assert_array_equal(np.load(own.directory / "odd.npz")["arr_0"], value)


def test_restore_replaces_a_file_only_when_confirmed(own: Program) -> None:
    target = own.directory / "w.npz"
    target.write_text("precious")
    restore = ["snapshots", "restore", "epoch-1", "--to", "w.npz", "--leaves", "step"]
    assert "w.npz exists" in own.complaint(*restore, status=2)
    assert target.read_text() == "precious"
    own.run(*restore, "--yes")
    assert zipfile.is_zipfile(target)


def test_restore_of_damaged_data_names_the_snapshot_and_writes_nothing(own: Program) -> None:
    pack = largest_pack(own.directory)
    pack.write_bytes(pack.read_bytes()[:-4000])
    for target in ("w.npz", "w.snapshots"):
        leaves = ["--leaves", "encoder/**"] if target == "w.npz" else []
        complaint = own.complaint("snapshots", "restore", "epoch-0", "--to", target, *leaves, status=1)
        assert "'epoch-0' of 'train'" in complaint
    assert [path.name for path in own.directory.iterdir()] == ["snapshots"]


def test_nothing_is_unpickled_unless_asked_for(own: Program, tmp_path: Path) -> None:
    manager: SnapshotManager[Any] = SnapshotManager(own.directory / "snapshots", name="evil")
    for name in ("one", "two"):
        manager.save_snapshot({"w": np.ones(2), "bad": Touch(tmp_path / name)}, name)
        (tmp_path / name).unlink(missing_ok=True)  # a save reads back what it pickles
    own.run("snapshots", "show", "one")
    own.run("check", "--read-data")
    own.run("snapshots", "restore", "one", "--to", "one.snapshots")
    own.run("snapshots", "restore", "one", "--to", "one.npz", "--leaves", "w")
    assert "Leaf bad: It was stored with pickle. --allow-pickle" in own.complaint(
        "snapshots", "diff", "one", "two", status=1
    )
    assert not (tmp_path / "one").exists()
    own.run("snapshots", "diff", "one", "two", "--allow-pickle")
    assert (tmp_path / "one").exists()


# --- looking after it --------------------------------------------------------------------------------------------


def test_asking_writes_nothing(own: Program) -> None:
    before = contents(own.directory)
    for command in (
        "snapshots list",
        "snapshots list train",
        "snapshots show epoch-1",
        "snapshots diff epoch-0 epoch-1",
    ):
        own.run(*command.split())
    for command in ("check --read-data", "prune --dry-run --grace 0s", "repair --dry-run", "stats"):
        own.run(*command.split())
    assert contents(own.directory) == before


def test_check_of_a_sound_repository(program: Program) -> None:
    document = program.json("check", "--read-data")
    assert document["ok"]
    assert document["problems"] == []
    assert (document["streams"], document["versions"]) == (3, 7)
    assert document["bytes_read"] > 0
    assert "no problems (7 versions" in program.run("check").stdout
    assert program.run("check", "--quiet").stdout == ""


def test_check_finds_a_flipped_bit_and_repair_says_what_is_lost(own: Program) -> None:
    pack = largest_pack(own.directory)
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.write_bytes(data)

    document = own.json("check", "--read-data", status=3)
    assert not document["ok"]
    hit = {version for problem in document["problems"] for version in problem["versions"]}
    assert hit == {f"snapshots/train:epoch-{epoch}" for epoch in range(4)}
    text = own.run("check", "--read-data", status=3).stdout
    assert str(pack.relative_to(own.directory / "snapshots")) in text
    assert "  hits snapshots/train:epoch-2\n" in text

    planned = own.json("repair", "--dry-run")
    assert planned["dry_run"]
    assert planned["actions"]
    assert "--yes" in own.complaint("repair", status=2)
    repaired = own.json("repair", "--yes", status=3)
    assert {version for problem in repaired["lost"] for version in problem["versions"]} == hit
    own.run("snapshots", "delete", *(f"epoch-{epoch}" for epoch in range(4)), "--yes", "--force")
    own.run("check", "--read-data")


def test_prune_tells_what_it_frees_now_and_later(own: Program) -> None:
    def stored() -> int:
        return sum(map(len, contents(own.directory).values()))

    own.run("snapshots", "delete", *(f"epoch-{epoch}" for epoch in range(4)), "--yes", "--force")
    later = own.json("prune", "--dry-run")
    assert later["bytes_freed"] == 0
    assert later["bytes_waiting"] > 90_000
    assert "after the grace time of 1 day: " in own.run("prune", "--dry-run").stdout
    now = own.json("prune", "--dry-run", "--grace", "0s")
    assert now["bytes_waiting"] == 0
    assert now["bytes_freed"] == later["bytes_waiting"]

    before = stored()
    done = own.json("prune", "--grace", "0s")
    assert done["bytes_freed"] == now["bytes_freed"]
    assert before - stored() > 90_000
    assert own.json("check", "--read-data")["ok"]
    assert own.run("prune", "--quiet").stdout == ""


def test_stats(program: Program, filled: Path) -> None:
    document = program.json("stats")
    assert document["id"] == Repository(filled / "snapshots").id
    assert not document["encrypted"]
    assert document["stored_bytes"] == sum(map(len, contents(filled / "snapshots").values()))
    assert document["saved_bytes"] == document["logical_bytes"] - document["bytes"]["packs"], "logs are no versions"
    assert "7 in 3 streams" in program.run("stats").stdout


def test_progress_is_shown_on_a_terminal_only(own: Program) -> None:
    said, shown = own.typing("check", "--read-data", "--json")
    assert json.loads(said)["ok"]
    assert "100 %" in shown
    assert own.typing("check", "--read-data", "--quiet") == ("", "")
    assert own.run("check", "--read-data").stderr == ""


# --- passwords ---------------------------------------------------------------------------------------------------


def test_password_from_the_environment_a_command_or_the_terminal(encrypted: Program) -> None:
    listing = ["snapshots", "list", "default"]
    assert "--password-command" in encrypted.complaint(*listing, status=1)
    assert encrypted.but(**{PASSWORD: SECRET}).json(*listing)["count"] == 1
    assert encrypted.json(*listing, "--password-command", f"echo {SECRET}")["count"] == 1
    wrong = ["--password-command", "echo guess"]
    assert "The password came from --password-command." in encrypted.complaint(*listing, *wrong, status=1)
    said, shown = encrypted.typing(*listing, answers=[("Password of the repository: ", SECRET)])
    assert "only" in said
    assert SECRET not in shown
    _, shown = encrypted.typing(*listing, answers=[("Password of the repository: ", "guess")], status=1)
    assert "does not open" in shown


def test_secrets_are_never_printed(encrypted: Program) -> None:
    wrong = encrypted.but(**{PASSWORD: "wrong-horse-battery"})
    right = encrypted.but(**{PASSWORD: SECRET})
    token = ["--storage-option", f"token={SECRET}"]
    broken = ["--storage-option", "client_kwargs=3"]
    spoken = [
        wrong.run("check", status=1),
        wrong.run("check", "--debug", status=1),
        encrypted.run("check", "--password-command", "echo wrong-horse-battery; false", status=1),
        right.run("stats"),
        right.run("stats", "--json"),
        right.run("check", *token, "--debug"),
        right.run("check", *token, *token, "--debug", status=2),
        right.run("check", "-r", "s3://x/y", "--storage-option", f"config_kwargs.token={SECRET}", "--debug", status=2),
        right.run(
            "check", "-r", f"s3://{SECRET}", "--storage-option", f"secret={SECRET}", "--debug", *broken, status=2
        ),
        right.run("check", "-r", f"ftp://user:{SECRET}@127.0.0.1:1/x", status=1),
    ]
    for done in spoken:
        assert "horse-battery" not in done.stdout + done.stderr


def test_debug_shows_where_an_error_comes_from(encrypted: Program) -> None:
    lines = encrypted.run("check", "--debug", status=1).stderr.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-1].startswith("prefect-snapshots: ")


def test_options_that_do_not_fit_are_one_line(program: Program) -> None:
    complaint = program.complaint("check", "-r", "s3://x/y", "--storage-option", "client_kwargs=3", status=2)
    assert "storage_options do not fit" in complaint


def test_password_change(encrypted: Program) -> None:
    change = ["password", "change"]
    right = encrypted.but(**{PASSWORD: SECRET})
    assert "--new-password-command" in right.complaint(*change, status=2)
    right.run(*change, "--new-password-command", "echo second")
    complaint = right.complaint("check", status=1)
    assert "/snapshots. Nothing was read or changed. Check it, and the URL." in complaint
    assert f"The password came from {PASSWORD}." in complaint

    second = encrypted.but(**{PASSWORD: "second"})
    prompts = "New password: ", "The same again: "
    second.typing(*change, answers=list(zip(prompts, ("third", "thrid"), strict=True)), status=2)
    _, shown = second.typing(*change, answers=list(zip(prompts, ("third", "third"), strict=True)))
    assert "third" not in shown
    with pytest.raises(WrongPassword):
        _ = Repository(encrypted.directory / "snapshots", password="second").id
    assert Repository(encrypted.directory / "snapshots", password="third").encrypted
    # The tests themselves derive keys cheaply: see conftest.py.
    [envelope] = json.loads((encrypted.directory / "snapshots" / "repository.json").read_bytes())["passwords"]
    assert envelope["cost"] == 2**16


def test_password_of_a_repository_without_one(program: Program) -> None:
    assert "is not encrypted" in program.complaint("password", "change", status=1)
    assert "is not encrypted" in program.complaint("check", "--password-command", "echo x", status=1)


# --- the manual --------------------------------------------------------------------------------------------------


def test_examples_of_the_manual_print_what_it_says(environment: dict[str, str], tmp_path: Path, warm: Path) -> None:
    """If not: `python tests/manual.py docs/cli.md`, and read what has changed."""
    manual = MANUAL.read_text()
    assert steady(rewritten(manual, tmp_path, environment, warm.parent)) == steady(manual)


def test_manual_covers_every_command_and_option(program: Program) -> None:
    manual = MANUAL.read_text()
    for command in re.findall(r"^## (.*)$", manual, re.MULTILINE)[1:]:
        section = manual.partition(f"\n## {command}\n")[2].partition("\n## ")[0]
        own, _, common = program.run(*command.split(), "--help").stdout.partition("For the global options")
        assert set(re.findall(r"--[a-z][a-z-]+", own)) <= set(re.findall(r"--[a-z][a-z-]+", section)), command
        assert "prefect-snapshots --help" in " ".join(common.split())
    everywhere = program.run("--help").stdout.partition("Global options")[2]
    assert set(re.findall(r"--[a-z][a-z-]+", everywhere)) <= set(re.findall(r"--[a-z][a-z-]+", manual))
    for group in (
        (),
        ("snapshots",),
        ("checkpoints",),
        ("artifacts",),
        ("backups",),
        ("wal",),
        ("import",),
        ("password",),
    ):
        listed = program.run(*group, "--help").stdout.partition("Commands")[2].partition("Global options")[0]
        for name in re.findall(r"^│ ([a-z][a-z-]*) ", listed, re.MULTILINE):
            assert re.search(rf"^## {' '.join((*group, name))}\b", manual, re.MULTILINE), name


# --- checkpoints -------------------------------------------------------------------------------------------------


@pytest.fixture
def worked(own: Program) -> Program:
    """On a repository with checkpoints of two versions of a function, under a name that leads astray."""
    for version, items in ((1, range(-2, 10)), (2, range(1, 6))):
        Snapper(
            items,
            lambda x: 1 / x,
            repository=own.directory / "snapshots",
            name="inverse\u00a0|",
            function_version=version,
            skip_item_errors=True,
            max_retries=0,
        ).start()
    return own


def test_checkpoints_are_listed_shown_and_deleted(worked: Program) -> None:
    name = "inverse\u00a0|"
    second, first = worked.json("checkpoints", "list", name)["checkpoints"]
    assert worked.json("checkpoints", "list")["checkpoints"] == [second, first]
    assert [(row["name"], row["done"], row["failed"]) for row in (first, second)] == [(name, 11, 1), (name, 5, 0)]
    assert worked.json("checkpoints", "show", name)["successful_items"] == 5
    explained = worked.json("checkpoints", "why", name)
    assert (explained["old"], explained["new"]) == (first["fingerprint"], second["fingerprint"])
    [part] = explained["changed"]
    assert f"changed  {part}" in worked.run("checkpoints", "why", name).stdout
    report = worked.json("checkpoints", "show", name, "--fingerprint", first["fingerprint"])
    assert (report["successful_items"], report["failed_count"]) == (11, 1)
    text = worked.run("checkpoints", "show", name, "--fingerprint", first["fingerprint"]).stdout
    assert "ZeroDivisionError: division by zero" in text
    before = contents(worked.directory)
    worked.complaint("checkpoints", "delete", name, status=2)  # there is no terminal to ask on
    assert "would be deleted" in worked.run("checkpoints", "delete", name, "--dry-run").stdout
    assert contents(worked.directory) == before
    cleared = worked.json("checkpoints", "delete", name, "--fingerprint", first["fingerprint"], "--yes")
    assert [row["fingerprint"] for row in cleared["deleted"]] == [first["fingerprint"]]
    assert worked.json("checkpoints", "list", name)["checkpoints"] == [second]
    _, shown = worked.typing("checkpoints", "delete", name, answers=[("Delete 5 results of", "yes")])
    assert "[y/N]" in shown
    assert worked.json("checkpoints", "list")["checkpoints"] == []


def test_checkpoints_that_are_not_there(worked: Program) -> None:
    assert "no checkpoint 'train'" in worked.complaint("checkpoints", "list", "train", status=1)
    assert "no checkpoint 'train'" in worked.complaint("checkpoints", "show", "train", status=1)
    assert "abc" in worked.complaint("checkpoints", "delete", "inverse\u00a0|", "--fingerprint", "abc", status=1)
    worked.complaint("checkpoints", "delete", "../up", status=2)


# --- artifacts ---------------------------------------------------------------------------------------------------


@pytest.fixture
def models(own: Program) -> Program:
    """On a repository without artifacts, beside a folder and a file."""
    folder = own.directory / "model"
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "run.sh").write_text("exit 0\n")
    (folder / "code" / "run.sh").chmod(0o755)
    (folder / "weights.bin").write_bytes(bytes(range(256)) * 1000)
    (own.directory / "notes.txt").write_text("one\n")
    return own


def test_artifacts_are_logged_listed_shown_and_downloaded(models: Program) -> None:
    logged = models.json("artifacts", "log", "model", "model", "--metadata", "loss=0.5", "--metadata", "by=ada")
    assert (logged["version"], logged["metadata"]) == ("v0", {"loss": 0.5, "by": "ada"})
    (models.directory / "model" / "code" / "run.sh").write_text("exit 1\n")
    assert "Logged default/model:v1" in models.run("artifacts", "log", "model", "model").stdout
    models.run("artifacts", "log", "notes", "notes.txt", "-c", "texts", "--expiry", "2020-01-01")
    rows = models.json("artifacts", "list")["artifacts"]
    assert [(row["collection"], row["name"], row["versions"]) for row in rows] == [
        ("default", "model", 2),
        ("texts", "notes", 1),
    ]
    assert [row["version"] for row in models.json("artifacts", "list", "model")["versions"]] == ["v1", "v0"]
    files = models.json("artifacts", "show", "model", "0")["files"]
    assert files == [{"path": "code/run.sh", "size": 7}, {"path": "weights.bin", "size": 256_000}]
    [difference] = models.json("artifacts", "diff", "model", "v0")["differences"]
    assert (difference["path"], difference["kind"]) == ("code/run.sh", "changed")
    assert "+exit 1" in models.run("artifacts", "diff", "model", "v0", "v1").stdout

    models.run("artifacts", "download", "model", "v0", "--to", "there/it/is")
    there = models.directory / "there" / "it" / "is"
    assert ((there / "code" / "run.sh").read_text(), (there / "code" / "run.sh").stat().st_mode & 0o777) == (
        "exit 0\n",
        0o755,
    )
    complaint = models.complaint("artifacts", "download", "model", "--to", "there/it/is", status=2)
    assert "There is no terminal to ask on" in complaint
    assert (there / "code" / "run.sh").read_text() == "exit 0\n"
    models.run("artifacts", "download", "model", "--to", "there/it/is", "--yes")
    assert (there / "code" / "run.sh").read_text() == "exit 1\n"
    assert models.json("artifacts", "verify", "model", "--folder", "there/it/is")["ok"]
    (there / "code" / "run.sh").write_text("exit 2\n")
    (there / "more").write_text("more")
    shown = models.run("artifacts", "verify", "model", "--folder", "there/it/is", status=1)
    assert "there/it/is differs from default/model:v1." in shown.stdout
    models.run("artifacts", "download", "model", "--to", "there/it/is", "--only", "code/", "--clean", "--yes")
    assert sorted(path.name for path in there.rglob("*")) == ["code", "run.sh"]
    assert "expired" in models.complaint("artifacts", "download", "notes", "-c", "texts", "--to", "t", status=1)
    models.run("artifacts", "download", "notes", "-c", "texts", "--to", "t", "--expired")
    assert (models.directory / "t" / "notes.txt").read_text() == "one\n"
    assert "is not a directory" in models.complaint("artifacts", "download", "model", "--to", "notes.txt", status=2)
    created = models.json("artifacts", "show", "model", "0")["created_at"]
    assert models.json("artifacts", "show", "model", created)["version"] == "v0"
    assert models.json("artifacts", "show", "model", "2999-01-01", "--asof")["version"] == "v1"
    assert "Its first version is from" in models.complaint(
        "artifacts", "show", "model", "2001-01-01", "--asof", status=1
    )


def test_what_did_not_change_is_not_said_to_be_logged(models: Program) -> None:
    for new, said in ((True, "Logged default/notes:v0"), (False, "No new version: default/notes:v0 has the same")):
        assert models.json("artifacts", "log", "notes", "notes.txt", "--if-changed")["new"] == new
        assert said in models.run("artifacts", "log", "notes", "notes.txt", "--if-changed").stdout or new
        assert models.json("artifacts", "refer", "raw", "model", "--if-changed")["new"] == new
    unchanged = models.run("artifacts", "refer", "raw", "model", "--if-changed").stdout
    assert "No new version: default/raw:v0" in unchanged
    promoted = ["artifacts", "promote", "notes", "--to-collection", "other"]
    assert "Promoted to other/notes:v0" in models.run(*promoted).stdout
    assert "Nothing to copy: other/notes:v0" in models.run(*promoted).stdout


def test_a_reference_shows_where_its_files_are(models: Program) -> None:
    models.run("artifacts", "refer", "raw", "model")
    shown = models.json("artifacts", "show", "raw")
    assert shown["url"] == f"file://{models.directory}/model"
    assert [file["path"] for file in shown["files"]] == ["code/run.sh", "weights.bin"]
    assert re.search(r"refers to +file://.*/model\n", models.run("artifacts", "show", "raw").stdout)
    models.run("artifacts", "refer", "one", "notes.txt")
    assert models.json("artifacts", "show", "one")["files"] == [
        {"path": f"file://{models.directory}/notes.txt", "size": 4}
    ]


def test_a_search_that_finds_nothing_says_what_may_be_misspelt(models: Program) -> None:
    models.run("artifacts", "log", "notes", "notes.txt", "--metadata", "loss=0.5")
    for command, said in {
        "artifacts list notes --where los<1": "Nothing here has 'los'. Did you mean 'loss'?",
        "artifacts list --where los<1": "Nothing here has 'los'. Did you mean 'loss'?",
        "snapshots list train --where optimiser.nam=adam": "Did you mean 'optimiser.name'",
        "snapshots list train --tag evn": "Nothing here has the tag 'evn'. Did you mean 'even'",
    }.items():
        done = models.run(*command.split())
        assert said in done.stderr, "scripts read the other one"
        assert "Nothing here" not in done.stdout
    assert "Nothing here" not in models.run("artifacts", "list", "notes", "--where", "loss>1").stdout


def test_commands_that_people_look_for_lead_to_those_that_do_the_same(program: Program) -> None:
    for command, meant in {
        "artifacts search x": "artifacts list --where CONDITION",
        "snapshots rm x": "snapshots delete",
        "backups run": "backups create",
        "checkpoints ls": "checkpoints list",
        "backups search x": "backups list",
    }.items():
        assert f"Use `prefect-snapshots {meant}`." in program.complaint(*command.split(), status=2)
    searched = program.complaint("search", "x", status=2)
    assert searched.count("list --where CONDITION`") == 2, "of snapshots and artifacts"
    restore = program.complaint("restore", "x", status=2)
    assert "Use `prefect-snapshots snapshots restore` or `prefect-snapshots backups restore`." in restore
    assert 'Did you mean "check"?' in program.complaint("chek", status=2)


def test_artifacts_are_promoted_rolled_back_and_released(models: Program) -> None:
    for text in ("one", "two"):
        (models.directory / "notes.txt").write_text(text)
        models.run("artifacts", "log", "notes", "notes.txt")
    models.run("artifacts", "promote", "notes", "v0", "--to", "production", "--expected", "none")
    models.run("artifacts", "promote", "notes", "--to", "production", "--expected", "v0")
    assert "is v1, not v0 as expected" in models.complaint(
        *("artifacts", "promote", "notes", "v0", "--to", "production", "--expected", "v0"), status=1
    )
    assert "no terminal" in models.complaint("artifacts", "rollback", "notes", "production", status=2)
    assert models.json("artifacts", "rollback", "notes", "production", "--yes")["version"] == "v0"
    moves = models.json("artifacts", "history", "notes", "production")["moves"]
    assert [(move["previous"], move["version"], move["rollback"]) for move in moves] == [
        ("v1", "v0", True),
        ("v0", "v1", False),
        (None, "v0", False),
    ]
    models.run("artifacts", "release", "1", "--artifact", "notes=production", "--metadata", "for=all")
    assert "1" in models.complaint("artifacts", "release", "1", status=1)
    [release] = models.json("artifacts", "releases")["releases"]
    assert (release["tag"], release["artifacts"], release["metadata"]) == ("1", {"notes": "v0"}, {"for": "all"})

    promoted = models.json("artifacts", "promote", "notes", "v1", "--to-repository", "other", "--to-collection", "prod")
    assert (promoted["collection"], promoted["version"]) == ("prod", "v0")
    assert models.json("artifacts", "promote", "notes", "--to-collection", "prod")["version"] == "v0"
    assert models.json("artifacts", "copy-release", "1", "--to", "released")["artifacts"] == {"notes": "v0"}
    [copied] = models.json("artifacts", "list", "--repository", "released")["artifacts"]
    assert (copied["name"], copied["versions"]) == ("notes", 1)


def test_versions_are_pinned_cleaned_up_and_deleted(models: Program) -> None:
    for _ in range(4):
        models.run("artifacts", "log", "notes", "notes.txt")
    assert models.json("artifacts", "pin", "not", "v0")["pinned"]
    planned = models.json("artifacts", "cleanup", "notes", "--keep-last", "1", "--dry-run")
    assert sorted(planned["deleted"]) == ["notes:v1", "notes:v2"]
    assert len(models.json("artifacts", "list", "notes")["versions"]) == 4
    assert models.json("artifacts", "cleanup", "--keep-last", "1")["deleted"] == planned["deleted"]
    assert not models.json("artifacts", "unpin", "notes", "v0")["pinned"]
    models.complaint("artifacts", "delete", "notes", "v0", status=2)  # there is no terminal to ask on
    assert (
        "1 version of default/notes would be deleted"
        in models.run("artifacts", "delete", "notes", "v0", "--dry-run").stdout
    )
    assert "no artifact" in models.complaint("artifacts", "delete", "note", "--yes", status=1)
    gone = models.json("artifacts", "delete", "notes", "v0", "--yes")["deleted"]
    assert [info["version"] for info in gone] == ["v0"]
    models.run("artifacts", "delete", "notes", "--yes")
    assert models.json("artifacts", "list")["artifacts"] == []


def test_artifacts_that_are_not_there(models: Program) -> None:
    models.run("artifacts", "log", "notes", "notes.txt")
    for command, near in {
        "artifacts list nites": "Did you mean 'notes'?",
        "artifacts show notes v7": "Existing versions: v0.",
        "artifacts show notes staging": "Existing versions: v0.",
        "artifacts list notes -c prod": "There is only 'default'.",
        "artifacts list -c prod": "There is only 'default'.",
        "artifacts list -c prod --where size>1": "There is only 'default'.",
        "artifacts releases -c prod": "There is only 'default'.",
        "wal list 123": "no WAL of a server '123'",
        "artifacts rollback notes production --yes": "Existing versions: v0.",
        "artifacts log other nothing": "no file or folder",
        "artifacts copy-release 1 --to else": "no release",
    }.items():
        assert near in models.complaint(*command.split(), status=1)
    before = contents(models.directory)
    for command in (
        "artifacts promote notes",
        "artifacts promote notes --to v1",
        "artifacts promote notes --to 2020-01-01",
        "artifacts promote notes --to a --to-collection b",
        "artifacts promote notes --to-collection b --expected v0",
        "artifacts log ../up notes.txt",
        "artifacts log a notes.txt --metadata loss",
        "artifacts log a notes.txt --expiry soon",
    ):
        models.complaint(*command.split(), status=2)
    assert contents(models.directory) == before


# --- backups -----------------------------------------------------------------------------------------------------


@pytest.fixture
def shop(own: Program) -> Program:
    """In a directory with a database, a folder, and a pyproject.toml that says to back them up."""
    (own.directory / "pyproject.toml").write_text(
        """[tool.prefect-snapshots]
name = "shop"
repository = "backups"
databases = ["app.db"]
directories = ["uploads"]
retention = { keep_last = 2, keep_weekly_within = "3m" }
"""
    )
    with sqlite3.connect(own.directory / "app.db") as database:
        database.execute("CREATE TABLE users (name TEXT)")
        database.executemany("INSERT INTO users VALUES (?)", [(f"user {number}",) for number in range(100)])
    database.close()
    (own.directory / "uploads").mkdir()
    (own.directory / "uploads" / "photo").write_bytes(bytes(10_000))
    return own


def users(program: Program) -> int:
    database = sqlite3.connect(program.directory / "app.db")
    count: int = database.execute("SELECT count(*) FROM users").fetchone()[0]
    database.close()
    return count


def test_backups_are_made_listed_shown_verified_and_exported(shop: Program) -> None:
    made = shop.json("backups", "create", "Before: the migration!", "--tag", "weekly")
    assert re.fullmatch(r"shop_\d{8}_\d{6}_before_the_migration", made["name"])
    assert [(part["kind"], part["counts"]) for part in made["parts"]] == [("sqlite", {"users": 100}), ("directory", {})]
    assert f"Backup created: shop_{datetime.now(tz=UTC):%Y%m%d}_" in shop.run("backups", "create", "x").stdout
    other = shop.json("backups", "create", "--name", "app", "--database", "app.db", "--permanent", "--no-directories")
    assert (other["pinned"], len(other["parts"])) == (True, 1)
    listed = shop.json("backups", "list")["backups"]
    assert [backup["description"] for backup in listed] == ["x", "Before: the migration!"]
    assert "📌" in shop.run("backups", "list", "app").stdout
    assert shop.run("backups", "list", "--name", "app").stdout == shop.run("backups", "list", "app").stdout
    assert "the name 'ap'. Did you mean 'app'?" in shop.complaint("backups", "list", "ap", status=1)
    assert "users  100" in shop.run("backups", "list", "--verbose").stdout
    assert shop.json("backups", "show", made["name"]) == {key: listed[1][key] for key in made}
    assert "is undamaged" in shop.run("backups", "verify", made["name"]).stdout
    shop.run("backups", "export", made["name"], "out.tar")
    with tarfile.open(shop.directory / "out.tar") as archive:
        assert {"metadata.json", "uploads/photo"} <= set(archive.getnames())
    shop.complaint("backups", "export", made["name"], "out.tar", status=2)


def test_sources_of_several_machines_become_one_backup(shop: Program) -> None:
    (shop.directory / "web1" / "data").mkdir(parents=True)
    (shop.directory / "web1" / "data" / "page").write_text("first")
    (shop.directory / "web1" / "logs").mkdir()
    sources = ("--directory", "web1/data", "--directory", "web1/logs")
    staged = shop.json("backups", "stage", "web1", *sources, "--only", "data")
    assert staged["place"] == "web1"
    assert staged["size"] > 5
    printed = shop.run("backups", "stage", "web1", *sources, "--only", "logs", "--quiet").stdout.strip()
    assert shop.json("backups", "list")["backups"] == []
    parts = [f"--part=web1={part}" for part in (staged["part"], printed)]
    made = shop.json("backups", "create", "all", *parts, "--database", "app.db")
    database = f"sqlite:///{shop.directory / 'app.db'}"
    assert [part["name"] for part in made["parts"]] == [database, "web1::data", "web1::logs"]
    (shop.directory / "web1" / "data" / "page").write_text("changed")
    there = ("--place", "web1", *sources)
    assert [row["part"] for row in shop.json("backups", "drill", *there)["rows"]] == ["web1::data", "web1::logs"]
    shop.run("backups", "restore", "--name", "shop", *there, "--yes")
    assert (shop.directory / "web1" / "data" / "page").read_text() == "first"
    assert "must be PLACE=PART" in shop.complaint("backups", "create", "--part", printed, status=2)
    assert "no staged part" in shop.complaint("backups", "create", "--part", "web1=what", status=2)
    assert len(shop.json("backups", "list")["backups"]) == 1


def test_a_backup_is_restored_when_that_is_confirmed(shop: Program) -> None:
    name = shop.json("backups", "create", "all of it")["name"]
    with sqlite3.connect(shop.directory / "app.db") as database:
        database.execute("DELETE FROM users")
    database.close()
    (shop.directory / "uploads" / "photo").unlink()
    assert "no terminal" in shop.complaint("backups", "restore", name, status=2)
    _, shown = shop.typing("backups", "restore", name, answers=[("Restore it?", "no")], status=1)
    assert "not confirmed: nothing was changed" in shown.lower()
    assert users(shop) == 0
    _, shown = shop.typing("backups", "restore", name, "--no-directories", answers=[("Restore it?", "yes")])
    assert all(word in shown for word in ("all of it", "100 in 1 table", "REPLACES", "uploads"))
    assert (users(shop), (shop.directory / "uploads" / "photo").exists()) == (100, False)
    shop.run("backups", "restore", name, "--only", "uploads", "--to", "uploads=elsewhere", "--yes")
    assert (shop.directory / "elsewhere" / "photo").stat().st_size == 10_000
    assert not (shop.directory / "uploads" / "photo").exists()
    shop.run("backups", "restore", name, "--only", "uploads::photo", "--yes")
    assert (shop.directory / "uploads" / "photo").stat().st_size == 10_000
    assert "proven" not in shop.run("backups", "list").stdout + shop.run("backups", "show", name).stdout
    assert "was restored and is identical" in shop.run("backups", "drill").stdout
    by = re.escape(socket.gethostname())
    assert re.search(rf"✓ +{name} .*\n +proven 20\d\d-\S+ \S+ by {by}", shop.run("backups", "list").stdout)
    assert re.search(rf"proven +20\d\d-\S+ \S+ \(local\), by {by}", shop.run("backups", "show", name).stdout)
    (shop.directory / "pyproject.toml").write_text('[tool.prefect-snapshots]\nrepository = "backups"\n')
    missing = shop.complaint("backups", "restore", name, status=2)
    assert "No target for the parts 'sqlite://" in missing, "nobody is asked about what cannot be done"
    assert "'uploads'" in missing
    assert "(--to " in missing
    assert "is identical" in shop.run("backups", "drill").stdout, "files need no source"
    (shop.directory / "lines").write_text("one\ntwo\n")
    BackupManager(shop.directory / "backups", name="other", databases=[Flat(shop.directory / "lines")]).create_backup()
    said = shop.run("backups", "drill", "--name", "other", status=2).stdout
    assert "it was not tried, because that needs its server" in said
    assert "was not proven, because a part of it could not be tried" in said


def test_restores_of_all_names_are_resumed_or_none_is(shop: Program) -> None:
    shop.run("backups", "create")
    other = BackupManager(shop.directory / "backups", name="the-last", directories=[shop.directory / "uploads"])
    other.create_backup()
    managers = [BackupManager(shop.directory / "backups", name=name) for name in ("shop", "the-last")]
    for manager in managers:
        backup = manager.get_backup("latest")
        part = RestorePart(backup.part_names[0], backup.part_names[0], (), False, PartState.OLD)
        with begun(manager._history.change, backup.name, [part], keep_extra=False, safety_backup=None) as journal:
            journal.step(part.name, PartState.SWITCHING)
    above = replace(shop, directory=shop.directory.parent)  # no name is configured there
    resume = ("backups", "resume-restore", "-r", "own/backups", "--database", "own/app.db", "--yes")
    said = above.complaint(*resume, status=2)
    assert "'uploads' as the target" in said
    assert [len(manager.list_interrupted_restores()) for manager in managers] == [1, 1]
    target = f"uploads={shop.directory / 'elsewhere'}"
    above.run(*resume, "--to", target)
    assert [len(manager.list_interrupted_restores()) for manager in managers] == [0, 0]


def test_latest_is_that_of_the_name_that_is_given(shop: Program) -> None:
    older = shop.json("backups", "create", "older")["name"]
    newer = shop.json("backups", "create", "--name", "app", "--database", "app.db", "--no-directories")["name"]
    assert shop.json("backups", "drill", "--name", "app")["name"] == newer
    assert shop.json("backups", "drill", "--name", "shop")["name"] == older
    with sqlite3.connect(shop.directory / "app.db") as database:
        database.execute("DELETE FROM users")
    database.close()
    (shop.directory / "uploads" / "photo").unlink()
    above = replace(shop, directory=shop.directory.parent)
    assert "under several names: app, shop" in above.complaint(
        "backups", "restore", "-r", "own/backups", "--yes", status=2
    )
    assert "under the name 'ap'. Did you mean 'app'" in shop.complaint("backups", "drill", "--name", "ap", status=1)
    assert shop.json("backups", "show", "latest", "--name", "app")["name"] == newer
    shop.run("backups", "restore", "--name", "shop", "--yes")
    assert (users(shop), (shop.directory / "uploads" / "photo").exists()) == (100, True)
    assert f"There is no backup {newer!r}" in shop.complaint(
        "backups", "restore", newer, "--name", "shop", "--yes", status=1
    )
    shop.run("backups", "restore", newer, "--yes")
    assert "no backups under the name 'ap'" in shop.complaint("backups", "list", "ap", status=1)
    shop.run("backups", "delete", newer, "--yes")
    gone = shop.complaint("backups", "list", "app", status=1)
    assert "no backups under the name 'app'. There is only 'shop'" in gone
    shop.run("backups", "delete", older, "--force", "--yes")
    for backup in shop.json("backups", "list")["backups"]:
        shop.run("backups", "delete", backup["name"], "--force", "--yes")
    (shop.directory / "pyproject.toml").write_text('[tool.prefect-snapshots]\nrepository = "backups"\n')
    assert "There are no backups." in shop.run("backups", "list").stdout


def test_what_is_left_out_of_a_backup_is_said_by_options_and_by_the_exit_code(shop: Program) -> None:
    uploads = shop.directory / "uploads"
    for path in ("a.log", "closed", "marked/.nobackup", "marked/inside", "ignored"):
        (uploads / path).parent.mkdir(exist_ok=True)
        (uploads / path).touch()
    (uploads / "large").write_bytes(bytes(20_000))
    (uploads / ".ignore").write_text("ignored\n")
    (uploads / "closed").chmod(0)
    weak, prefix = shop, list[str]()
    if os.geteuid() == 0:  # root reads everything, unless it gives that right up
        weak = replace(shop, path=Path("/usr/bin/setpriv"))
        prefix = ["--bounding-set=-dac_override,-dac_read_search", str(shop.installed().path)]
    options = [*("--exclude", "*.log", "--ignore-file", ".ignore", "--exclude-if-present", ".nobackup")]
    options += ["--larger-than", "15000", "--one-file-system", "--exclude-caches"]
    assert "closed" in weak.complaint(*prefix, "backups", "create", *options, status=1)
    made = weak.json(*prefix, "backups", "create", *options, "--skip-unreadable", status=3)
    assert made["incomplete"]
    assert "closed" in json.dumps(made["parts"])
    assert "incomplete" in shop.run("backups", "list").stdout
    assert "incomplete  something was left out" in shop.run("backups", "show", "latest").stdout
    found = shop.json("ls", "backups/shop@latest/uploads", "--recursive")["entries"]
    paths = {each["path"].removeprefix("backups/shop@latest/uploads/") for each in found}
    assert paths - {"marked"} == {".ignore", "photo", "marked/.nobackup"}
    assert "closed" in weak.complaint(*prefix, "backups", "create", status=1)
    failure, _ = shop.json("backups", "list")["failed"]
    assert failure["error"].startswith("SourceUnusable: ")
    assert re.search(
        r"The last backup of shop failed, 2.*: SourceUnusable: .*closed", shop.run("backups", "list").stdout
    )
    assert "closed" in shop.run("report").stdout
    assert not shop.json("backups", "create")["incomplete"]
    assert "failed" not in shop.run("backups", "list").stdout


def test_files_commands_and_standard_input_are_backed_up(shop: Program) -> None:
    with (shop.directory / "pyproject.toml").open("a") as configuration:
        configuration.write("files = ['settings.json']\ncommands = { 'greeting.txt' = \"sh -c 'echo hello'\" }\n")
    settings = shop.directory / "settings.json"
    settings.write_text("{}")
    assert "settings.json" in shop.run("backups", "doctor").stdout
    made = shop.json("backups", "create")
    assert [part["kind"] for part in made["parts"]] == ["sqlite", "file", "file", "directory"]
    settings.write_text("changed")
    said = shop.run("backups", "restore", "latest", "--yes").stdout
    assert "'greeting.txt' is not a file on this machine" in said
    assert settings.read_text() == "{}"
    assert shop.run("cat", "backups/shop@latest/greeting.txt/greeting.txt").stdout == "hello\n"
    shop.run("backups", "restore", "latest", "--only", "greeting.txt", "--to", "greeting.txt=back", "--yes")
    assert (shop.directory / "back").read_text() == "hello\n"
    assert "was restored and is identical" in shop.run("backups", "drill").stdout
    failing = ("--command", "x.sql=sh -c 'echo half; echo why >&2; exit 3'", "--file", "settings.json")
    assert "exit code 3: why" in shop.complaint("backups", "create", *failing, status=1)
    assert "NAME=COMMAND" in shop.complaint("backups", "create", "--command", "x.sql", status=2)
    piped = [*("backups", "create", "--stdin", "rows.sql", "--name", "piped", "--json")]
    with shop.start(*piped, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        document = json.loads(process.communicate("1\n2\n")[0])
    assert [(part["name"], part["kind"], part["size"]) for part in document["parts"]] == [("rows.sql", "file", 4)]
    assert shop.run("cat", f"backups/piped@{document['name']}/rows.sql/rows.sql").stdout == "1\n2\n"


def test_files_of_all_kinds_are_listed_printed_and_served(shop: Program) -> None:
    shop.run("backups", "create", "first", "--quiet")
    assert shop.run("ls", "--quiet").stdout.split() == [
        *("mode", "path", "d", "artifacts", "d", "backups", "d", "releases", "d", "snapshots")
    ]
    [entry] = shop.json("ls", "backups/shop@latest/**/ph*")["entries"]
    assert entry == {
        "path": "backups/shop@latest/uploads/photo",
        "type": "file",
        "size": 10_000,
        "mode": 0o644,
        "link": None,
        "modified_at": entry["modified_at"],
        "version": entry["version"],
        "aliases": [],
    }
    assert "1 entry." in shop.run("ls", "backups/shop@latest/uploads").stdout
    assert shop.run("cat", entry["path"]).stdout == "\0" * 10_000
    assert "Did you mean 'uploads'" in shop.complaint("cat", "backups/shop@latest/upload/photo", status=1)
    assert "Nothing matches" in shop.complaint("ls", "backups/shop@latest/*.csv", status=1)
    assert "65535" in shop.complaint("serve", "--port", "65536", status=2)
    with shop.start("serve", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        [url] = re.findall(r" is at (http://\S+/) until ", process.stdout.readline())
        with urlopen(f"{url}download/{entry['path']}") as reply:
            assert reply.read() == bytes(10_000)
        process.send_signal(signal.SIGINT)
        assert process.communicate() == ("Stopped.\n", "")
    assert process.returncode == 0


def test_backups_go_when_they_are_told_to(shop: Program) -> None:
    names = [shop.json("backups", "create", str(number))["name"] for number in range(4)]
    assert [backup["name"] for backup in shop.json("backups", "list")["backups"]] == [names[3], names[2]]
    planned = shop.json("backups", "cleanup", "--keep-last", "1", "--dry-run")
    assert [(row["name"], row["keep"]) for row in planned["rows"]] == [(names[3], True), (names[2], False)]
    shop.run("backups", "pin", names[2])
    how = "--group-by", "host", "--group-by", "sources", "--count-from", "now"
    assert shop.json("backups", "cleanup", "--keep-last", "1", *how)["deleted"] == []
    assert "pinned" in shop.complaint("backups", "delete", names[2], "--dry-run", status=1)
    assert shop.json("backups", "delete", names[2], "--force", "--dry-run") == {"deleted": names[2], "dry_run": True}
    shop.run("backups", "delete", names[2], "--force", "--yes")
    shop.complaint("backups", "delete", names[3], status=2)  # there is no terminal to ask on
    assert "limit_upload" in shop.complaint("backups", "list", "--limit-upload", "0", status=2)
    for wrong in ("", "..", "/", "shop", "shop\n", "*", "$(touch x)", names[3][:-1]):
        assert "no backup" in shop.complaint("backups", "delete", wrong, "--yes", status=1)
    assert [backup["name"] for backup in shop.json("backups", "list")["backups"]] == [names[3]]
    assert "keeps nothing" in shop.complaint("backups", "cleanup", "--keep-last", "0", "--timezone", "UTC", status=2)


def test_an_error_is_explained_by_the_command_that_its_message_ends_with(program: Program) -> None:
    message = program.complaint("backups", "show", "nightly", status=1)
    [command] = re.findall(r"\[prefect-snapshots (explain \w+)\]$", message.strip())
    assert "List the backups with `prefect-snapshots backups list`" in program.run(*command.split()).stdout
    assert program.json("explain", "pinned") == {
        "error": "Pinned",
        "what_happened": "What you want to delete is pinned. Nothing was deleted.",
        "what_to_do": "Unpin it, or pass `force=True`.",
        "inherits": ["UsageError"],
    }
    assert "least privilege." in program.run("explain", "PermissionDenied").stdout, "no link that nobody can open"
    assert "Did you mean 'Pinned'" in program.complaint("explain", "pined", status=2)


def test_doctor_leaves_nothing_where_there_is_no_repository(program: Program, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place in ("empty", "parent/none"):
        found = program.json("doctor", "-r", str(tmp_path / place))["findings"]
        assert "can be written by several processes at once" in found[0]["found"]
    assert [*tmp_path.rglob("*")] == [tmp_path / "empty"]


def test_doctor_says_whether_a_backup_could_be_made(shop: Program) -> None:
    before = contents(shop.directory)
    assert "A backup can be made." in shop.run("backups", "doctor").stdout
    found = shop.json("backups", "doctor", "--database", "app.db", "--directory", "nowhere", status=1)["findings"]
    assert [finding["ok"] for finding in found] == [True, True, False]
    assert found[2]["found"] == ["No such file or directory"]
    assert contents(shop.directory) == before
    (shop.directory / "pyproject.toml").unlink()
    assert "nothing to back up" in shop.run("backups", "doctor", "-r", "backups", status=1).stdout
    assert "nothing to back up" in shop.complaint("backups", "create", status=2)


def test_hooks_are_run_by_backups_and_restores(shop: Program) -> None:
    with (shop.directory / "pyproject.toml").open("a") as file:
        file.write(
            '[tool.prefect-snapshots.hooks]\nbefore_backup = [["touch", "stopped"]]\nafter_backup = [["false"]]\n'
        )
    made = shop.json("backups", "create", status=3)
    assert made["failed_hooks"] == ["After the backup, the hook false failed with exit code 1: it printed nothing"]
    assert (shop.directory / "stopped").exists()
    hooks = (
        "--before",
        "touch 'a b'",
        "--after",
        "rm 'a b'",
        "--after",
        "sh -c 'echo sad; exit 1'",
        "--hook-timeout",
        "60",
    )
    done = shop.run("backups", "restore", made["name"], *hooks, "--yes", status=3)
    assert "After the restore, the hook sh failed with exit code 1: sad" in done.stdout + done.stderr
    assert not (shop.directory / "a b").exists()


def test_only_what_differs_is_restored_if_the_project_says_so(shop: Program) -> None:
    shop.run("backups", "create", "--quiet")
    restore = ("backups", "restore", "--only", "uploads", "--yes")
    assert "Identical" not in shop.run(*restore).stdout
    assert "Identical, and not written: 1 file." in shop.run(*restore, "--only-changed").stdout
    with (shop.directory / "pyproject.toml").open("a") as file:
        file.write("only_changed = true\n")
    assert "Identical, and not written: 1 file." in shop.run(*restore).stdout


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("only_changed = 1", "value of only_changed"),
        ("databases = 'app.db'", "value of databases"),
        ("directories = [1]", "value of directories"),
        ("folders = []", "unknown key 'folders'"),
        ("retention = { keep_lst = 1 }", "RetentionPolicy has no option 'keep_lst'. Did you mean 'keep_last'"),
        ("hooks = { before = [] }", "hooks in pyproject.toml are not valid: Hooks has no option 'before'"),
        ("limit_upload = 0", "limit_upload must be a positive number"),
        ("= 1", "cannot be read"),
    ],
)
def test_a_pyproject_that_makes_no_sense(shop: Program, text: str, complaint: str) -> None:
    (shop.directory / "pyproject.toml").write_text(f"[tool.prefect-snapshots]\n{text}\n")
    assert complaint in shop.complaint("backups", "create", "--directory", "uploads", status=2)


# --- whatever else -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        *("chek", "check --read-dat", "snapshots", "snapshots list a b", "snapshots list --tag x", "snapshots delete"),
        *("snapshots list train --since yesterday", "snapshots list train --until 2026-13-01"),
        *("snapshots list train --since 0001-01-01", "snapshots list train --mode min", "snapshots list ../train"),
        *("snapshots list train --limit 0", "snapshots list train --limit -1", "snapshots list train --limit 1e9"),
        *("snapshots list train --rank-by nope", "snapshots list train --rank-by loss --mode best"),
        *(
            "snapshots restore epoch-1",
            "snapshots restore epoch-1 --to x.txt",
            "snapshots restore epoch-1 --to nowhere/x.npz",
            "snapshots diff epoch-1",
        ),
        *(
            "snapshots restore epoch-1 --to x.snapshots --leaves step",
            "prune --grace soon",
            "prune --grace=-1h",
            "prune --grace 999999d",
        ),
        *("prune --grace 99999999999y", "check -r", "check -r s3://", "check -r a -r b"),
    ],
)
def test_misuse_is_one_line_and_exits_with_2(program: Program, command: str) -> None:
    if command == "snapshots":
        assert "Usage" in program.run(command).stdout
    else:
        program.complaint(*command.split(), status=2)


def test_unknown_options_get_those_that_come_near(program: Program) -> None:
    for command, said in {
        "check --repsitory x": "Unknown option: --repsitory. Did you mean --repository? See `prefect-snapshots check",
        "snapshots list --hepl": "Unknown option: --hepl. Did you mean --help? See `prefect-snapshots snapshots list",
        "backups create --no-bulk": "Unknown option: --no-bulk. Did you mean --no-directories? "
        "See `prefect-snapshots backups create",
        "check --no-bulk": "Unknown option: --no-bulk. See `prefect-snapshots check",
        "artifacts show m --version v1": "Unknown option: --version. VERSION is an argument: "
        "write it without --version. See `prefect-snapshots artifacts show",
        "stats --version": "Unknown option: --version. See `prefect-snapshots stats",
        "artifacts show --name x": "Unknown option: --name. NAME is an argument: write it without --name. "
        "See `prefect-snapshots artifacts show",
        "snapshots pin --id x": "Unknown option: --id. ID is an argument: write it without --id. "
        "See `prefect-snapshots snapshots pin",
    }.items():
        assert program.complaint(*command.split(), status=2) == f"{said} --help`."


@pytest.mark.parametrize("name", ["/etc/passwd", "a/../b", "\x1b[2J", "x" * 5000, "cafe\u0301", "a\\b", ""])
def test_hostile_names_are_refused(program: Program, name: str) -> None:
    for complaint in (
        program.complaint("snapshots", "list", name, status=2),
        program.complaint("snapshots", "show", "epoch-1", "--name", name, status=2),
    ):
        assert "\x1b" not in complaint
        assert len(complaint) < 200


def test_hostile_ids_are_not_found(program: Program) -> None:
    for snapshot_id in ("../../etc/passwd", "\x1b[2J", "--"):
        assert "\x1b" not in program.complaint("snapshots", "show", "--", snapshot_id, status=1)


def test_control_characters_from_the_repository_are_escaped(program: Program) -> None:
    for command in (["list", "forged"], ["show", "red"]):
        text = program.but(COLUMNS="200").run("snapshots", *command).stdout
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert r"\x1b[31m\nroot:" in text
    assert program.json("snapshots", "show", "red")["metadata"]["note"] == "\x1b[31m\nroot:"


def test_output_that_cannot_take_unicode(program: Program) -> None:
    text = program.installed().but(PYTHONIOENCODING="ascii").run("snapshots", "list", "train").stdout
    assert r"\U0001f4cc" in text
    assert text.isascii()


def test_closed_pipe_is_quiet(program: Program) -> None:
    with program.installed().start(
        "snapshots", "list", "train", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        complained = process.stderr.read()
    assert (process.returncode, complained) == (0, "")


def test_full_output_is_an_error(program: Program) -> None:
    with (
        open("/dev/full", "w") as full,
        program.installed().start("stats", stdout=full, stderr=subprocess.PIPE) as process,
    ):
        assert process.stderr is not None
        complained = process.stderr.read()
    assert process.returncode == 1
    assert "No space left" in complained
    assert len(complained.splitlines()) == 1


def test_an_interrupt_while_the_program_starts_is_one_line(program: Program) -> None:
    code = """
import sys
class Interrupted:
    def find_spec(self, name, *_):
        if name == "cyclopts":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
from prefect_snapshots.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code, "stats"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "prefect-snapshots: Interrupted.\n")


def test_interrupt_exits_with_130(encrypted: Program) -> None:
    waiting = encrypted.directory / "waiting"
    os.mkfifo(waiting)
    # The command does not hold the pipe that is read to its end below: one that was just starting outlives a signal.
    command = f"echo > {waiting}; exec sleep 60 2>/dev/null"
    with encrypted.installed().start("check", "--password-command", command, stderr=subprocess.PIPE) as process:
        waiting.read_text()
        process.send_signal(signal.SIGINT)
        complained = process.communicate()[1]
    assert process.returncode == 130
    assert complained == "prefect-snapshots: Interrupted.\n"
