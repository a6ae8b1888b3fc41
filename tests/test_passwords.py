"""Passwords: a configured one means encrypted, several open one repository, and another repository is noticed."""

from __future__ import annotations

import base64
import json
import os
import pickle
import pwd
import shutil
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from servers import Storage

from prefect_snapshots import Repository, SnapshotManager, SnapshotRepository
from prefect_snapshots.errors import (
    CommitConflict,
    DamagedObject,
    InvalidArgument,
    InvalidName,
    RepositoryChanged,
    RepositoryError,
    RepositoryNotFound,
    SnapshotsError,
    WrongPassword,
)
from prefect_snapshots.repository import envelopes, keyring
from prefect_snapshots.repository.configuration import config_bytes
from prefect_snapshots.repository.location.local import LocalLocation
from prefect_snapshots.repository.passwords import password_from_command, password_from_file

PREFIX = "PREFECT_INTEGRATIONS_SNAPSHOTS_"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is known of other tests."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("PASSWORD", "PASSWORD_FILE", "PASSWORD_COMMAND", "REPOSITORY"):
        monkeypatch.delenv(PREFIX + name, raising=False)


def save(url: str | Path, value: object = 1, **options: Any) -> Repository:
    repository = Repository(url, **options)
    SnapshotManager(repository, name="x").save_snapshot(value, "one")
    return repository


def load(url: str | Path, **options: Any) -> object:
    return SnapshotManager(Repository(url, **options), name="x").get_snapshot("one").data


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def command(warm: Path) -> Command:
    """Runs the command line on a repository, with variables added to the environment."""

    def run(url: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [warm, "-r", str(url), *arguments],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    return run


Opener = Callable[[Path, pytest.MonkeyPatch], Repository]


def by_argument(url: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    return Repository(url, password="right")


def by_function(url: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    return Repository(url, password=lambda: "right")


def by_environment(url: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.setenv(PREFIX + "PASSWORD", "right")
    return Repository(url)


def by_file(url: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    (url.parent / "key").write_text("right\n")
    monkeypatch.setenv(PREFIX + "PASSWORD_FILE", str(url.parent / "key"))
    return Repository(url)


def by_command(url: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.setenv(PREFIX + "PASSWORD_COMMAND", "echo right")
    return Repository(url)


def by_block(url: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    return SnapshotRepository(url=str(url), password="right").get_repository()  # type: ignore[arg-type]


def by_default_of_the_block(url: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.setenv(PREFIX + "PASSWORD", "right")
    return SnapshotRepository(url=str(url)).get_repository()


def by_file_of_the_block(url: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    (url.parent / "key").write_text("right\n")
    monkeypatch.setenv(PREFIX + "PASSWORD_FILE", str(url.parent / "key"))
    return SnapshotRepository(url=str(url)).get_repository()


def by_command_of_the_block(url: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.setenv(PREFIX + "PASSWORD_COMMAND", "echo right")
    return SnapshotRepository(url=str(url)).get_repository()


EVERY_WAY: list[Opener] = [
    by_argument,
    by_function,
    by_environment,
    by_file,
    by_command,
    by_block,
    by_default_of_the_block,
    by_file_of_the_block,
    by_command_of_the_block,
]


class TestConfiguredMeansEncrypted:
    @pytest.mark.parametrize("opener", EVERY_WAY)
    def test_a_new_repository_is_encrypted(self, tmp_path: Path, monkeypatch: Any, opener: Opener) -> None:
        repository = opener(tmp_path / "r", monkeypatch)
        SnapshotManager(repository, name="x").save_snapshot(1, "one")
        assert repository.encrypted

    @pytest.mark.parametrize("opener", EVERY_WAY)
    def test_a_plain_repository_in_its_place_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opener: Opener
    ) -> None:
        """Whoever can write to the bucket could plant pickles, and read what is saved next."""
        save(tmp_path / "r", password=False)
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "r").rglob("*")}
        repository = opener(tmp_path / "r", monkeypatch)
        uses: list[Callable[[], object]] = [
            lambda: SnapshotManager(repository, name="x").get_snapshot("one"),
            lambda: SnapshotManager(repository, name="x").save_snapshot(2, "two"),
            repository.check,
            repository.stats,
            lambda: repository.id,
        ]
        for use in uses:
            with pytest.raises(WrongPassword, match=r"is not encrypted.*password=False"):
                use()
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "r").rglob("*")} == before

    def test_only_an_explicit_false_opens_a_plain_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(PREFIX + "PASSWORD", "right")
        repository = save(tmp_path / "r", password=False)
        assert not repository.encrypted
        assert load(tmp_path / "r", password=False) == 1
        assert not pickle.loads(pickle.dumps(Repository(tmp_path / "r", password=False))).encrypted
        block = SnapshotRepository(url=str(tmp_path / "r"), no_password=True)
        assert SnapshotManager(block, name="x").get_snapshot("one").data == 1
        with pytest.raises(ValueError, match="Set either a password or no_password"):
            SnapshotRepository(url="x", password="right", no_password=True)  # type: ignore[arg-type]

    def test_false_does_not_open_an_encrypted_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(PREFIX + "PASSWORD", "right")
        save(tmp_path / "r")
        with pytest.raises(WrongPassword, match="is encrypted"):
            load(tmp_path / "r", password=False)

    @pytest.mark.parametrize("empty", ["argument", "function", "environment", "file", "command", "True"])
    def test_an_empty_password_is_no_reason_to_go_on_without(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty: str
    ) -> None:
        given: Any = {"argument": "", "function": lambda: "", "True": True}.get(empty)
        if empty == "environment":
            monkeypatch.setenv(PREFIX + "PASSWORD", "")
        if empty == "file":
            (tmp_path / "key").write_text("\n")
            monkeypatch.setenv(PREFIX + "PASSWORD_FILE", str(tmp_path / "key"))
        if empty == "command":
            monkeypatch.setenv(PREFIX + "PASSWORD_COMMAND", "true")
        with pytest.raises((WrongPassword, InvalidArgument), match=r"empty"):
            save(tmp_path / "r", password=given)
        assert not (tmp_path / "r").exists()

    def test_on_the_command_line(self, tmp_path: Path, command: Command) -> None:
        save(tmp_path / "r")
        (tmp_path / "key").write_text("right\n")
        cases: list[tuple[list[str], dict[str, str]]] = [
            ([], {PREFIX + "PASSWORD": "right"}),
            (["--password-command", "echo right"], {}),
            (["--password-file", str(tmp_path / "key")], {}),
        ]
        for arguments, environment in cases:
            done = command(tmp_path / "r", *arguments, "stats", **environment)
            assert done.returncode == 1
            assert "is not encrypted" in done.stderr
            assert "--no-password" in done.stderr
        done = command(tmp_path / "r", "--no-password", "stats", **{PREFIX + "PASSWORD": "right"})
        assert done.returncode == 0, done.stderr
        done = command(tmp_path / "r", "--no-password", "--password-command", "echo right", "stats")
        assert "only one of" in done.stderr


class TestIdentity:
    def test_another_repository_of_the_same_owner_is_noticed(self, tmp_path: Path) -> None:
        """Whoever can write to the bucket could put another vault there, which the same password opens."""
        first = save(tmp_path / "r", password="right").id
        save(tmp_path / "other", "another", password="right")
        os.rename(tmp_path / "r", tmp_path / "aside")
        shutil.copytree(tmp_path / "other", tmp_path / "r")
        uses: list[Callable[[], object]] = [
            lambda: load(tmp_path / "r", password="right"),
            lambda: save(tmp_path / "r", password="right"),
            lambda: Repository(tmp_path / "r", password="right", read_only=True).check(),
        ]
        for use in uses:
            with pytest.raises(RepositoryChanged, match=rf"{first}.*password trust"):
                use()
        shutil.rmtree(tmp_path / "r")
        os.rename(tmp_path / "aside", tmp_path / "r")
        assert load(tmp_path / "r", password="right") == 1

    def test_a_plain_one_with_the_same_id_is_noticed(self, tmp_path: Path) -> None:
        repository = save(tmp_path / "r", password="right")
        shutil.rmtree(tmp_path / "r")
        save(tmp_path / "other")
        shutil.copytree(tmp_path / "other", tmp_path / "r")
        for name in ("repository.json", "repository.copy.json"):
            config = json.loads((tmp_path / "r" / name).read_bytes())
            del config["checksum"]
            (tmp_path / "r" / name).write_bytes(config_bytes({**config, "id": repository.id}))
        for password in (None, False):
            with pytest.raises(RepositoryChanged, match="not encrypted"):
                load(tmp_path / "r", password=password)

    def test_another_plain_one_is_noticed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
    ) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
        first = save(tmp_path / "r").id
        new = save(tmp_path / "other", 2).id
        shutil.rmtree(tmp_path / "r")
        shutil.copytree(tmp_path / "other", tmp_path / "r")
        for use in (load, save):
            with pytest.raises(RepositoryChanged, match=rf"{first}, which is not encrypted.*{new}.*password trust"):
                use(tmp_path / "r")
        assert new in command(tmp_path / "r", "--yes", "password", "trust").stdout
        assert load(tmp_path / "r") == 2
        shutil.rmtree(tmp_path / "r")
        assert save(tmp_path / "r").id == Repository(tmp_path / "r").id, "your own new one is no surprise"

    def test_an_encrypted_one_that_is_gone_is_not_replaced_by_a_plain_one(self, tmp_path: Path) -> None:
        save(tmp_path / "r", password="right")
        shutil.rmtree(tmp_path / "r")
        with pytest.raises(WrongPassword, match="would not be encrypted"):
            save(tmp_path / "r")
        assert not (tmp_path / "r").exists()
        first = save(tmp_path / "r", password="right").id
        assert load(tmp_path / "r", password="right") == 1
        shutil.rmtree(tmp_path / "r")
        save(tmp_path / "r", password=False)
        assert load(tmp_path / "r") == 1
        assert first != Repository(tmp_path / "r").id

    def test_a_user_without_a_home_remembers_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As in a container that runs as a user who is not in /etc/passwd."""
        monkeypatch.delenv("XDG_STATE_HOME")
        monkeypatch.delenv("HOME")
        users: dict[int, object] = {}
        monkeypatch.setattr(pwd, "getpwuid", users.__getitem__)
        save(tmp_path / "r", password="right")
        assert load(tmp_path / "r", password="right") == 1

    @pytest.mark.parametrize("what", ["pipe", "folder"])
    def test_what_is_no_file_is_named_and_never_waited_for(self, tmp_path: Path, what: str) -> None:
        save(tmp_path / "r", password="right")
        [file] = (tmp_path / "state").rglob("*.json")
        file.unlink()
        os.mkfifo(file) if what == "pipe" else file.mkdir()
        for use in (load, save):
            with pytest.raises(RepositoryError, match=rf"{file} .* is not a regular file.*Delete it"):
                use(tmp_path / "r", password="right")
        assert list(file.parent.iterdir()) == [file]

    @pytest.mark.parametrize("what", ["file", "folder", "owner"])
    def test_what_others_could_forge_is_refused(self, tmp_path: Path, what: str) -> None:
        save(tmp_path / "r", password="right")
        [file] = (tmp_path / "state").rglob("*.json")
        place = file.parent.parent if what == "folder" else file
        root = [] if os.geteuid() == 0 else ["sudo", "-n"]
        subprocess.run([*root, *(["chown", "4321"] if what == "owner" else ["chmod", "o+w"]), place], check=True)
        for use in (load, save):
            with pytest.raises(RepositoryError, match=f"{place} (can be|belongs).* forged. Nothing was opened"):
                use(tmp_path / "r", password="right")

    def test_a_saved_id_that_would_fill_the_memory_is_not_read(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        save(tmp_path / "r", password="right")
        [file] = (tmp_path / "state").rglob("*.json")
        file.write_text(" " * 20_000 + file.read_text())
        assert load(tmp_path / "r", password="right") == 1
        assert "could not be read" in caplog.text

    def test_processes_that_open_at_once_remember_all(self, tmp_path: Path) -> None:
        for number in range(6):
            save(tmp_path / f"r{number}", password="right")
        shutil.rmtree(tmp_path / "state")
        children = []
        for first in range(6):
            if (child := os.fork()) == 0:
                for number in range(6):
                    load(tmp_path / f"r{(first + number) % 6}", password="right")
                os._exit(0)
            children.append(child)
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * 6
        files = list((tmp_path / "state").rglob("*.json"))
        assert len({json.loads(file.read_text())["id"] for file in files}) == len(files) == 6
        assert len(list(files[0].parent.iterdir())) == 6

    def test_is_pinned_by_an_argument(self, tmp_path: Path) -> None:
        for password in (None, "right"):
            repository = save(tmp_path / f"{password}", password=password)
            again = Repository(tmp_path / f"{password}", password=password, id=repository.id)
            assert again.exists()
            assert pickle.loads(pickle.dumps(again)).id == repository.id
            with pytest.raises(RepositoryChanged, match=repository.id):
                _ = Repository(tmp_path / f"{password}", password=password, id="0" * 32).id
        with pytest.raises(RepositoryNotFound, match="none was created"):
            save(tmp_path / "new", id="0" * 32)
        assert not (tmp_path / "new").exists()

    def test_an_argument_accepts_what_is_there(self, tmp_path: Path) -> None:
        save(tmp_path / "r", password="right")
        shutil.rmtree(tmp_path / "r")
        save(tmp_path / "other", 2, password="right")
        os.rename(tmp_path / "other", tmp_path / "r")
        new = json.loads((tmp_path / "r/repository.json").read_bytes())["id"]
        with pytest.raises(RepositoryChanged):
            load(tmp_path / "r", password="right")
        assert load(tmp_path / "r", password="right", id=new) == 2
        assert load(tmp_path / "r", password="right") == 2, "it is remembered"

    def test_is_accepted_on_the_command_line(self, tmp_path: Path, command: Command) -> None:
        save(tmp_path / "r", password="right")
        shutil.rmtree(tmp_path / "r")
        new = save(tmp_path / "other", 2, password="right").id
        os.rename(tmp_path / "other", tmp_path / "r")
        right = {PREFIX + "PASSWORD": "right"}
        assert "password trust" in command(tmp_path / "r", "stats", **right).stderr
        assert "--yes" in command(tmp_path / "r", "password", "trust").stderr
        done = command(tmp_path / "r", "--yes", "password", "trust")
        assert new in done.stdout, done.stderr
        shown = json.loads(command(tmp_path / "r", "--json", "stats", **right).stdout)
        assert shown["id"] == new

    def test_what_is_remembered_is_private_and_says_no_secret(self, tmp_path: Path) -> None:
        options = {"key": "a-secret-key", "client_kwargs": {"region_name": "here"}}
        repository = Repository(tmp_path / "r", password="right", storage_options=options)
        SnapshotManager(repository).save_snapshot(1)
        (file,) = (tmp_path / "state").rglob("*.json")
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        assert json.loads(file.read_text()) == {"url": repository.url, "id": repository.id, "encrypted": True}

    @pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"id": 5}', b"[" * 100_000, b"\xff"])
    def test_what_is_remembered_may_be_damaged(
        self, tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        save(tmp_path / "r", password="right")
        (file,) = (tmp_path / "state").rglob("*.json")
        file.write_bytes(content)
        assert load(tmp_path / "r", password="right") == 1
        assert json.loads(file.read_text())["url"].endswith("/r")
        [warning] = caplog.messages
        assert f"{file} is damaged" in warning

    def test_what_cannot_be_read_is_a_warning(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        save(tmp_path / "r", password="right")
        [file] = (tmp_path / "state").rglob("*.json")
        shutil.rmtree(file.parent)
        file.parent.write_text("")  # so root cannot read it either
        assert load(tmp_path / "r", password="right") == 1
        [warning] = caplog.messages
        assert "could not be read ([Errno 20] Not a directory" in warning
        assert "you would not notice" in warning

    def test_nothing_is_remembered_of_temporary_plain_ones_and_without_a_state_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save(tmp_path / "plain")
        assert not (tmp_path / "state").exists()
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
        save(tmp_path / "r", password="right")
        assert load(tmp_path / "r", password="right") == 1


class TestSeveralPasswords:
    def test_each_opens_the_repository_until_it_is_removed(self, tmp_path: Path) -> None:
        repository = save(tmp_path / "r", {"secret": 1}, password="first")
        assert [info.name for info in repository.list_passwords()] == ["default"]
        repository.add_password("ci", "second")
        repository.add_password("laptop of Ada", "third")
        objects = {path for path in (tmp_path / "r").rglob("*") if path.is_file()}
        for password in ("first", "second", "third"):
            assert load(tmp_path / "r", password=password) == {"secret": 1}
        assert {info.name for info in repository.list_passwords()} == {"default", "ci", "laptop of Ada"}
        Repository(tmp_path / "r", password="second").remove_password("default")
        with pytest.raises(WrongPassword):
            load(tmp_path / "r", password="first")
        assert SnapshotManager(repository, name="x").get_snapshot("one").data == {"secret": 1}, "it was open already"
        Repository(tmp_path / "r", password="third").change_password("fourth", "ci")
        with pytest.raises(WrongPassword):
            load(tmp_path / "r", password="second")
        for password in ("third", "fourth"):
            assert load(tmp_path / "r", password=password) == {"secret": 1}
        assert {path for path in (tmp_path / "r").rglob("*") if path.is_file()} == objects, "nothing is written anew"
        assert Repository(tmp_path / "r", password="third").check(read_data=True).ok

    def test_changes_are_made_to_what_is_there_now(self, tmp_path: Path) -> None:
        early = save(tmp_path / "r", password="first")
        Repository(tmp_path / "r", password="first").add_password("other", "second")
        early.add_password("third", "third")
        early.change_password("new")
        for password in ("second", "third", "new"):
            assert load(tmp_path / "r", password=password) == 1

    @pytest.mark.parametrize("where", ["local", "s3"])
    def test_of_two_changes_at_once_none_is_lost(
        self, where: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        storage = Storage(str(tmp_path / "r"), {}) if where == "local" else request.getfixturevalue("s3_storage")
        options: dict[str, Any] = {"storage_options": storage.storage_options, "password": "first"}
        save(storage.url, **options).add_password("leaked", "leaked")
        derive, both = keyring._envelope, threading.Barrier(3)

        def slowly(*arguments: Any) -> envelopes.Envelope:
            time.sleep(0.3)  # as long as a real key takes: the other change falls into it
            return derive(*arguments)

        monkeypatch.setattr(keyring, "_envelope", slowly)

        def change(edit: Callable[[Repository], None]) -> None:
            repository = Repository(storage.url, **options)
            repository.list_passwords()
            both.wait(60)
            edit(repository)

        edits: list[Callable[[Repository], None]] = [
            lambda one: one.add_password("left", "left"),
            lambda one: one.add_password("right", "right"),
            lambda one: one.remove_password("leaked"),
        ]
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(change, edits))
        assert {one.name for one in Repository(storage.url, **options).list_passwords()} == {"default", "left", "right"}

    def test_a_change_that_was_killed_does_not_keep_others_from_theirs(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        repository = save(tmp_path / "r", password="first")
        (tmp_path / "r" / keyring.EDIT_CLAIM).write_bytes(b"of a killed process")
        monkeypatch.setattr(keyring, "_PATIENCE", 0.2)
        repository.add_password("other", "second")
        assert not (tmp_path / "r" / keyring.EDIT_CLAIM).exists()
        assert load(tmp_path / "r", password="second") == 1

    def test_somebody_who_seems_to_change_passwords_for_ever_keeps_nobody_waiting(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        repository = save(tmp_path / "r", password="first")
        monkeypatch.setattr(keyring, "_LONGEST_WAIT", 0.2)
        claims = count()
        read = LocalLocation.read

        def always_another(location: LocalLocation, path: str) -> bytes:
            if path == keyring.EDIT_CLAIM:
                (tmp_path / "r" / path).write_bytes(b"claim %d" % next(claims))
            return read(location, path)

        (tmp_path / "r" / keyring.EDIT_CLAIM).write_bytes(b"first")
        monkeypatch.setattr(LocalLocation, "read", always_another)
        with pytest.raises(CommitConflict, match=r"could not begin\. Nothing was changed"):
            repository.add_password("other", "second")
        assert [one.name for one in repository.list_passwords()] == ["default"]

    def test_a_change_that_was_stopped_for_too_long_changes_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        repository = save(tmp_path / "r", password="first")
        derive = keyring._envelope

        def taken_over(*arguments: Any) -> envelopes.Envelope:
            (tmp_path / "r" / keyring.EDIT_CLAIM).write_bytes(b"of somebody else")
            return derive(*arguments)

        monkeypatch.setattr(keyring, "_envelope", taken_over)
        with pytest.raises(CommitConflict, match=r"Nothing was changed\. Run the command again"):
            repository.add_password("other", "second")
        assert [one.name for one in repository.list_passwords()] == ["default"]
        assert (tmp_path / "r" / keyring.EDIT_CLAIM).read_bytes() == b"of somebody else"

    def test_a_change_that_another_process_may_have_undone_is_not_acknowledged(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It was stopped just before it wrote. The other one has read the old passwords by then."""
        repository = save(tmp_path / "r", password="first")
        replace = LocalLocation.replace

        def taken_over(location: LocalLocation, path: str, data: bytes) -> None:
            (tmp_path / "r" / keyring.EDIT_CLAIM).write_bytes(b"of somebody else")
            replace(location, path, data)

        monkeypatch.setattr(LocalLocation, "replace", taken_over)
        with pytest.raises(CommitConflict, match="Either change may be missing"):
            repository.add_password("other", "second")
        assert (tmp_path / "r" / keyring.EDIT_CLAIM).read_bytes() == b"of somebody else"

    @pytest.mark.parametrize(
        ("change", "error", "why"),
        [
            (lambda r: r.add_password("default", "x"), InvalidName, "already"),
            (lambda r: r.add_password("", "x"), InvalidName, "1 to 64"),
            (lambda r: r.add_password("a\nb", "x"), InvalidName, "1 to 64"),
            (lambda r: r.add_password("x" * 65, "x"), InvalidName, "1 to 64"),
            (lambda r: r.add_password("empty", ""), InvalidArgument, "empty"),
            (lambda r: r.change_password(""), InvalidArgument, "empty"),
            (lambda r: r.change_password("new", "nobody"), InvalidName, "It has: ci, default"),
            (lambda r: r.remove_password("nobody"), InvalidName, "It has: ci, default"),
            (lambda r: r.remove_password("default"), InvalidArgument, "another one"),
        ],
    )
    def test_what_makes_no_sense_changes_nothing(
        self, tmp_path: Path, change: Callable[[Repository], None], error: type[Exception], why: str
    ) -> None:
        repository = save(tmp_path / "r", password="first")
        repository.add_password("ci", "second")
        before = (tmp_path / "r/repository.json").read_bytes()
        with pytest.raises(error, match=why):
            change(repository)
        assert (tmp_path / "r/repository.json").read_bytes() == before

    def test_there_is_a_limit(self, tmp_path: Path) -> None:
        repository = save(tmp_path / "r", password="first")
        for number in range(15):
            repository.add_password(f"p{number}", f"{number}")
        with pytest.raises(InvalidArgument, match="16"):
            repository.add_password("more", "x")
        assert load(tmp_path / "r", password="14") == 1

    def test_a_plain_repository_has_none(self, tmp_path: Path) -> None:
        repository = save(tmp_path / "r")
        assert repository.list_passwords() == []
        with pytest.raises(WrongPassword, match="is not encrypted"):
            repository.add_password("x", "y")

    def test_on_the_command_line(self, tmp_path: Path, command: Command) -> None:
        save(tmp_path / "r", password="first")
        (tmp_path / "key").write_text("second\n")
        first, second = {PREFIX + "PASSWORD": "first"}, {PREFIX + "PASSWORD_FILE": str(tmp_path / "key")}
        add = ("password", "add", "ci", "--new-password-file", str(tmp_path / "key"))
        assert command(tmp_path / "r", *add, **first).returncode == 0
        listed = json.loads(command(tmp_path / "r", "--json", "password", "list", **second).stdout)
        assert {found["name"] for found in listed["passwords"]} == {"default", "ci"}
        assert "ci" in command(tmp_path / "r", "password", "list", **first).stdout
        changed = command(tmp_path / "r", "password", "change", "--new-password-command", "echo third", **first)
        assert changed.returncode == 0, changed.stderr
        assert command(tmp_path / "r", "stats", **first).returncode == 1
        removed = command(tmp_path / "r", "--yes", "--json", "password", "remove", "default", **second)
        assert json.loads(removed.stdout)["removed"] is True
        assert command(tmp_path / "r", "stats", **{PREFIX + "PASSWORD": "third"}).returncode == 1
        assert command(tmp_path / "r", "stats", **second).returncode == 0


class TestKeyFilesAndCommands:
    @pytest.mark.parametrize("content", [b"right", b"right\n", b"right\r\n", "größer ü".encode()])
    def test_give_their_line(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "key").write_bytes(content)
        expected = content.decode().strip("\r\n")
        assert password_from_file(tmp_path / "key") == expected
        assert password_from_command(f"cat {tmp_path / 'key'}") == expected

    @pytest.mark.parametrize(
        ("content", "why"), [(b"", "empty"), (b"\n", "empty"), (b"\xff\xfe", "base64"), (b"x" * 70_000, "64 KiB")]
    )
    def test_that_hold_no_password_are_refused(self, tmp_path: Path, content: bytes, why: str) -> None:
        (tmp_path / "key").write_bytes(content)
        asks: list[Callable[[], str]] = [
            lambda: password_from_file(tmp_path / "key"),
            lambda: password_from_command(f"cat {tmp_path}/key"),
        ]
        for ask in asks:
            with pytest.raises(WrongPassword, match=why) as caught:
                ask()
            assert "xxx" not in str(caught.value)

    def test_that_are_missing_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(WrongPassword, match=r"none.*No such file"):
            password_from_file(tmp_path / "none")


def _altered(envelope: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {key: value for key, value in {**envelope, **changes}.items() if value is not ...}


_TOO_LONG = base64.b64encode(bytes(1000)).decode()


@pytest.mark.parametrize(
    "hostile",
    [
        lambda good: [_altered(good, cost=2**19)],  # within the sum of all costs
        lambda good: [_altered(good, cost=2**22)],
        lambda good: [_altered(good, cost=2**62)],
        lambda good: [_altered(good, cost=0)],
        lambda good: [_altered(good, cost=3)],
        lambda good: [_altered(good, cost=-2)],
        lambda good: [_altered(good, cost=True)],
        lambda good: [_altered(good, cost="2")],
        lambda good: [_altered(good, cost=2.0)],
        lambda good: [_altered(good, cost=None)],
        lambda good: [_altered(good, cost=2**18, name=f"{number}") for number in range(16)],
        lambda good: [_altered(good, name=f"{number}") for number in range(17)],
        lambda good: [good, good],
        lambda good: [_altered(good, kdf="none")],
        lambda good: [_altered(good, salt=...)],
        lambda good: [_altered(good, salt="")],
        lambda good: [_altered(good, salt=_TOO_LONG)],
        lambda good: [_altered(good, salt="!")],
        lambda good: [_altered(good, salt=5)],
        lambda good: [_altered(good, nonce=...)],
        lambda good: [_altered(good, nonce="AAAA")],
        lambda good: [_altered(good, wrapped=...)],
        lambda good: [_altered(good, wrapped=_TOO_LONG)],
        lambda good: [_altered(good, wrapped=[])],
        lambda good: [_altered(good, name=...)],
        lambda good: [_altered(good, name="a\x1b[2J")],
        lambda good: [_altered(good, name="x" * 1000)],
        lambda good: [_altered(good, name={})],
        lambda good: [_altered(good, created="never")],
        lambda good: [_altered(good, created=0)],
        lambda good: [_altered(good, more=1)],
        lambda good: [[]],
        lambda good: [None],
        lambda good: good,
        lambda good: "scrypt",
        lambda good: 5,
        lambda good: None,
    ],
)
def test_hostile_envelopes_are_damage_and_cost_nothing(
    memory_storage: Storage, monkeypatch: pytest.MonkeyPatch, hostile: Callable[[dict[str, Any]], object]
) -> None:
    repository = save(memory_storage.url, password="right")
    location = repository.location
    config = json.loads(location.read("repository.json"))
    del config["checksum"]
    data = config_bytes({**config, "passwords": hostile(config["passwords"][0])})
    for name in ("repository.json", "repository.copy.json"):
        location.replace(name, data)

    def derive(*_: object) -> bytes:
        raise AssertionError("something was derived before all was checked")

    monkeypatch.setattr(envelopes, "_key", derive)
    with pytest.raises(DamagedObject, match=r"repository\.json"):
        load(memory_storage.url, password="right")


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[" * 60_000, b"null", b"5", b'{"format": 1}', b'{"format": []}', b"x" * (1 << 20), b"\xff" * 100],
)
def test_a_hostile_configuration_is_damage(memory_storage: Storage, content: bytes) -> None:
    location = save(memory_storage.url, password="right").location
    for name in ("repository.json", "repository.copy.json"):
        location.replace(name, content or b" ")
    with pytest.raises(DamagedObject, match=r"repository\.json"):
        load(memory_storage.url, password="right")


def test_an_envelope_opens_nothing_elsewhere(memory_storage: Storage) -> None:
    """It is bound to the id of its repository and to its name."""
    repository = save(memory_storage.url, password="right")
    config = json.loads(repository.location.read("repository.json"))
    del config["checksum"]
    (good,) = config["passwords"]
    for altered in (
        {**config, "id": "0" * 32},
        {**config, "passwords": [{**good, "name": "other"}]},
    ):
        for name in ("repository.json", "repository.copy.json"):
            repository.location.replace(name, config_bytes(altered))
        with pytest.raises(SnapshotsError):
            load(memory_storage.url, password="right")
