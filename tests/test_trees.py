"""Directories that are not like the backup: in somebody's folder, with mounts, odd modes, and things left out.

Restores never reach anything outside of their directory, and what was left out of a backup is still there afterwards.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import random
import resource
import shutil
import socket
import sqlite3
import stat
import struct
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import forks
import pytest
from test_backup_trees import Vault, described, leftovers

from prefect_snapshots import ArtifactRegistry, BackupManager, Directory
from prefect_snapshots.backups.browsing import restore_changes
from prefect_snapshots.backups.databases import SQLite
from prefect_snapshots.errors import InvalidArgument, InvalidName, PermissionDenied, SnapshotsError, SourceUnusable
from prefect_snapshots.trees.entries import Entry, check_entries
from prefect_snapshots.trees.restoring import restore_directory, stage_directory
from prefect_snapshots.trees.scanning import RESTORING
from prefect_snapshots.trees.stored import StoredTree
from prefect_snapshots.trees.writing import write_entries

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user takes root")


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder that every user can reach. Other sessions of pytest make the usual one private at any time."""
    folder = Path(tempfile.mkdtemp(prefix="prefect-snapshots-tests-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path / "repository")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    (root / "a" / "deep").mkdir(parents=True)
    for number in range(40):
        (root / "a" / "deep" / f"{number}").write_text(f"new {number}")
    (root / "a" / "file").write_text("new")
    (root / "b").mkdir()
    (root / "top").write_text("new")
    (root / "link").symlink_to("a/file")
    return root


def _become_nobody(call: Callable[..., object], arguments: tuple[Any, ...], answers: Any) -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    try:
        answers.put(("", call(*arguments)))
    except BaseException:
        answers.put((traceback.format_exc(), None))


def as_nobody(call: Callable[..., object], *arguments: Any) -> Any:
    """Call a function of this module as a user who is not root."""
    answers = forks.context().Queue()
    process = forks.context().Process(target=_become_nobody, args=(call, arguments, answers))
    process.start()
    error, answer = answers.get(timeout=120)
    process.join()
    assert not error, error
    return answer


def give(path: Path) -> Path:
    """Make a directory, and what is in it, that of nobody."""
    path.mkdir(exist_ok=True)
    for each in (path, *path.rglob("*")):
        os.chown(each, NOBODY, NOBODY, follow_symlinks=False)
    return path


# --- somebody else's folder ------------------------------------------------------------------------------------------


def _race(folder: str, elsewhere: str, started: Any, ended: Any) -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    generator = random.Random(1)
    started.set()
    while not ended.is_set():
        with contextlib.suppress(OSError, IndexError):
            name = generator.choice(os.listdir(folder))
            aside = f"{folder}/moved-{generator.random()}"
            os.rename(f"{folder}/{name}", aside)
            os.symlink(elsewhere, f"{folder}/{name}")
            if generator.random() < 0.5:
                os.unlink(f"{folder}/{name}")
                os.rename(aside, f"{folder}/{name}")


@contextlib.contextmanager
def racing(folder: Path, elsewhere: Path) -> Iterator[None]:
    """Another user puts links where the directories of a folder of theirs are, as fast as they can."""
    started, ended = forks.context().Event(), forks.context().Event()
    process = forks.context().Process(target=_race, args=(str(folder), str(elsewhere), started, ended))
    process.start()
    assert started.wait(60)
    try:
        yield
    finally:
        ended.set()
        process.join()


@needs_root
def test_nobody_leads_a_backup_out_of_its_directory(tmp_path: Path, vault: Vault, elsewhere: Path) -> None:
    """Neither the names nor the bytes of what others put a link to get into the backup."""
    folder = tmp_path / "folder"
    for number in range(40):
        (folder / str(number) / "own").mkdir(parents=True)
    give(folder)
    for name in ("stranger", "own/stranger"):
        (elsewhere / name).parent.mkdir(exist_ok=True)
        (elsewhere / name).write_text("secret")
    with racing(folder, elsewhere):
        for _ in range(20):
            part = vault.backup(Directory(folder, strict=False)).part("folder")
            assert not [entry.path for entry in part.entries if "stranger" in entry.path]


def state_of(elsewhere: Path) -> dict[str, tuple[Any, ...]]:
    found = [elsewhere, *elsewhere.rglob("*")]
    return {str(path): (path.stat().st_mode, path.stat().st_uid, path.stat().st_mtime_ns) for path in found}


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """What a writer in the folder cannot reach, with the names that a restore uses."""
    place = tmp_path / "elsewhere"
    for name in ("a/deep", "new", "0", "target/a"):
        (place / name).mkdir(parents=True)
    (place / "a" / "file").write_text("old")
    return place


@needs_root
@pytest.mark.parametrize("options", [{}, {"in_place": True}, {"delete": False}, {"only": ["a/deep", "b", "top"]}])
def test_nobody_leads_a_restore_out_of_its_folder(
    tmp_path: Path, vault: Vault, source: Path, elsewhere: Path, options: dict[str, Any]
) -> None:
    part = vault.backup(Directory(source)).part("source")
    folder = tmp_path / "folder"
    shutil.copytree(source, folder / "target", symlinks=True)
    give(folder)
    before = state_of(elsewhere)
    with racing(folder, elsewhere):
        for _ in range(12):
            with contextlib.suppress(OSError, SnapshotsError):
                restore_directory(part, folder / "target", **options)
    assert state_of(elsewhere) == before


@needs_root
def test_nobody_leads_a_restore_out_of_its_directory(
    tmp_path: Path, vault: Vault, source: Path, elsewhere: Path
) -> None:
    """The same within the target, where files that stay are carried over."""
    part = vault.backup(Directory(source, excludes=["kept"])).part("source")
    target = tmp_path / "target"
    shutil.copytree(source, target, symlinks=True)
    (target / "a" / "kept").mkdir()
    give(target)
    before = state_of(elsewhere)
    with racing(target, elsewhere):
        for _ in range(12):
            with contextlib.suppress(OSError, SnapshotsError):
                restore_directory(part, target, in_place=True)
    assert state_of(elsewhere) == before


@needs_root
def test_nobody_leads_a_download_out_of_its_folder(tmp_path: Path, source: Path, elsewhere: Path) -> None:
    registry = ArtifactRegistry(tmp_path / "repository")
    registry.log_files("x", source)
    folder = tmp_path / "folder"
    shutil.copytree(source, folder / "target", symlinks=True)
    give(folder)
    before = state_of(elsewhere)
    with racing(folder, elsewhere), racing(folder / "target", elsewhere):
        for _ in range(12):
            with contextlib.suppress(OSError, SnapshotsError):
                registry.download_artifact("x", to=folder / "target")
    assert state_of(elsewhere) == before


@needs_root
def test_root_follows_no_link_of_somebody_else(tmp_path: Path, vault: Vault, source: Path, elsewhere: Path) -> None:
    part = vault.backup(Directory(source)).part("source")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(elsewhere)
    give(folder)
    before = state_of(elsewhere)
    for target in (folder / "link", folder / "link" / "a", folder / "link" / "a" / "missing"):
        with pytest.raises(PermissionDenied, match=f"belongs to the user {NOBODY}, and root does not follow it"):
            restore_directory(part, target)
    assert state_of(elsewhere) == before
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(OSError, match="symbolic links"):
        restore_directory(part, tmp_path / "circle")


@needs_root
def test_a_workspace_of_somebody_else_is_left_alone(tmp_path: Path, vault: Vault, source: Path) -> None:
    """What its notes say would be done with the rights of root."""
    part = vault.backup(Directory(source)).part("source")
    folder = give(tmp_path / "folder")
    victim = tmp_path / "victim"
    fake = folder / f"{RESTORING}fake"
    (fake / "old-0").mkdir(parents=True)
    (fake / "where-0").write_text("../victim")
    give(fake)
    fake.chmod(0o700)
    restore_directory(part, folder / "target")
    assert not victim.exists()
    assert (fake / "old-0").exists()


@needs_root
def test_root_is_told_whose_folder_it_restores_into(tmp_path: Path, vault: Vault, source: Path) -> None:
    part = vault.backup(Directory(source)).part("source")
    folder = give(tmp_path / "folder")
    [warning] = restore_directory(part, folder / "target").warnings
    assert f"{folder} belongs to the user {NOBODY}, who can rename or replace" in warning
    assert restore_directory(part, tmp_path / "own" / "target").owner in ("", warning)


def _restore(repository: str, target: str, options: dict[str, Any]) -> list[str]:
    return restore_directory(Vault(Path(repository)).open().part("source"), target, **options).warnings


@needs_root
@pytest.mark.parametrize("mode", [0o555, 0o500, 0o111, 0o000])
@pytest.mark.parametrize("only", ["", "a", "a/deep", "a/file"])
def test_directories_that_their_owner_may_not_write(tmp_path: Path, source: Path, mode: int, only: str) -> None:
    """Renaming a directory takes the right to write it, which its owner can take back at any time."""
    vault = Vault(tmp_path / "repository")
    give(source)
    for name in ("a/deep", "a", "."):
        (source / name).chmod(mode)
    vault.backup(Directory(source))
    subprocess.run(["chmod", "-R", "a+rX", tmp_path / "repository"], check=True)
    give(tmp_path / "repository")
    folder = give(tmp_path / "folder")
    options = {"only": only} if only else {}
    assert as_nobody(_restore, str(tmp_path / "repository"), str(folder / "target"), options) == []
    if mode & 0o400:  # it is there, and cannot be written
        assert as_nobody(_restore, str(tmp_path / "repository"), str(folder / "target"), options) == []
    place = folder / "target" / only
    expected, found = described(source / only), described(place)
    assert found[b"."] == expected[b"."]
    if not only:
        assert found == expected
    assert not leftovers(folder)


@needs_root
@pytest.mark.parametrize("mode", [0o444, 0o400, 0o000, 0o555])
def test_attributes_of_files_that_their_owner_may_not_write(tmp_path: Path, mode: int) -> None:
    source = tmp_path / "source"
    (source / "folder").mkdir(parents=True)
    (source / "file").write_text("text")
    for path in (source / "file", source / "folder"):
        os.setxattr(path, "user.comment", b"mine")
        path.chmod(mode)
    give(source)
    Vault(tmp_path / "repository").backup(Directory(source))
    give(tmp_path / "repository")
    folder = give(tmp_path / "folder")
    assert as_nobody(_restore, str(tmp_path / "repository"), str(folder / "target"), {}) == []
    assert described(folder / "target") == described(source)


@needs_root
def test_attributes_that_cannot_be_set_are_said(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("text")
    os.setxattr(source / "file", "trusted.secret", b"of root")
    give(source)
    Vault(tmp_path / "repository").backup(Directory(source))
    give(tmp_path / "repository")
    folder = give(tmp_path / "folder")
    [warning] = as_nobody(_restore, str(tmp_path / "repository"), str(folder / "target"), {})
    assert warning == "The extended attribute 'file: trusted.secret' could not be set."


def _restore_parts(repository: str, folder: str) -> tuple[str, ...]:
    manager = BackupManager(repository)
    to: dict[str, Any] = {
        "source": f"{folder}/target",
        manager.list_backups()[0].parts[0].name: SQLite(f"{folder}/new.db"),
    }
    return manager.restore_backup("latest", confirm=True, to=to).warnings


@needs_root
def test_the_report_says_what_is_left_of_the_old_state_and_that_a_database_has_another_owner(
    tmp_path: Path, source: Path
) -> None:
    database = tmp_path / "app.db"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE t(i)")
    os.chown(database, 4321, 4321)
    give(source)
    BackupManager(tmp_path / "repository", directories=[source], databases=[SQLite(str(database))]).create_backup()
    give(tmp_path / "repository")
    folder = give(tmp_path / "folder")
    (folder / "target" / "of root").mkdir(parents=True)
    (folder / "target" / "of root" / "file").touch()
    os.chown(folder / "target", NOBODY, NOBODY)
    warnings = as_nobody(_restore_parts, str(tmp_path / "repository"), str(folder))
    assert [each[:12] for each in warnings if "new.db could not be set" in each] == ["The owner or"], warnings
    [name] = leftovers(folder)
    assert [each for each in warnings if f"{folder}/{name} of a restore could not be deleted completely" in each]


def test_a_file_whose_size_is_a_lie_is_not_stored_as_an_empty_one(vault: Vault) -> None:
    with pytest.raises(SourceUnusable, match=r"boot_id: it has bytes but the size 0"):
        vault.backup(Directory("/proc/sys/kernel/random"))


def test_there_may_be_more_levels_than_open_files(tmp_path: Path, vault: Vault) -> None:
    """The path of the last file is longer than any call of the system takes, too."""
    root = tmp_path / "deep"
    for top in (root / "kept", root / ".tmp"):
        top.mkdir(parents=True)
        file = os.open(top, os.O_RDONLY)
        for _ in range(150):
            os.mkdir("x" * 40, dir_fd=file)
            above, file = file, os.open("x" * 40, os.O_RDONLY, dir_fd=file)
            os.close(above)
        os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=file))
        os.close(file)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 110, hard))
    try:
        part = vault.backup(Directory(root)).part("deep")
        for in_place in (False, True):
            restored = restore_directory(part, root, in_place=in_place)
            assert (restored.files, restored.carried, restored.warnings) == (1, [".tmp"], [])
        assert not restore_changes(part, Directory(root), (), keep_extra=False).files
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    found = subprocess.run(["find", root, "-type", "f"], capture_output=True, check=True, text=True).stdout
    assert len(found.split()) == 2
    assert leftovers(tmp_path) == []


def _acl(user: int) -> bytes:
    """Return an access control list that gives a user all rights, as the system stores it."""
    everything, nobody = 7, 2**32 - 1
    entries = [(1, nobody), (2, user), (4, nobody), (16, nobody), (32, nobody)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, everything, number) for tag, number in entries)


@pytest.mark.parametrize("in_place", [False, True])
def test_no_right_comes_from_the_place_instead_of_the_backup(
    tmp_path: Path, vault: Vault, source: Path, in_place: bool
) -> None:
    """Files inherit the list of their directory, and a directory that stays would keep its own."""
    part = vault.backup(Directory(source)).part("source")
    target = tmp_path / "folder" / "target"
    shutil.copytree(source, target, symlinks=True)
    for place in (target.parent, target):
        os.setxattr(place, "system.posix_acl_default", _acl(4321))
        os.setxattr(place, "system.posix_acl_access", _acl(4321))
    os.setxattr(target, "user.comment", b"newer than the backup")
    restore_directory(part, target, in_place=in_place)
    assert described(target) == described(source)


@needs_root
def test_owners_that_cannot_be_set_are_said(tmp_path: Path, source: Path) -> None:
    """A program that runs with the rights of its owner must not run with those of another one instead."""
    os.chown(source / "a" / "file", 4321, 4321)
    (source / "a" / "file").chmod(0o6755)
    Vault(tmp_path / "repository").backup(Directory(source))
    give(tmp_path / "repository")
    folder = give(tmp_path / "folder")
    [warning] = as_nobody(_restore, str(tmp_path / "repository"), str(folder / "target"), {"only": "a/file"})
    assert "The owner or the group of" in warning
    assert "'a/file'" in warning
    assert stat.S_IMODE((folder / "target" / "a" / "file").stat().st_mode) == 0o755


@needs_root
def test_the_group_is_that_of_the_backup_and_not_that_of_the_place(tmp_path: Path, source: Path) -> None:
    give(source)
    Vault(tmp_path / "repository").backup(Directory(source))
    give(tmp_path / "repository")
    folder = give(tmp_path / "folder")
    os.chown(folder, NOBODY, 4321)
    folder.chmod(0o2777)
    assert as_nobody(_restore, str(tmp_path / "repository"), str(folder / "target"), {}) == []
    assert described(folder / "target") == described(source)


def _logged(*arguments: Any) -> list[str]:
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("prefect_snapshots").addHandler(handler)
    _restore(*arguments)
    return messages


@needs_root
def test_an_old_state_that_cannot_be_deleted_is_said(tmp_path: Path, source: Path) -> None:
    give(source)
    Vault(tmp_path / "repository").backup(Directory(source))
    give(tmp_path / "repository")
    folder = give(tmp_path / "folder")
    shutil.copytree(source, folder / "target", symlinks=True)
    give(folder)
    os.chown(folder / "target" / "a", 0, 0)
    messages = as_nobody(_logged, str(tmp_path / "repository"), str(folder / "target"), {})
    assert described(folder / "target") == described(source)
    [left] = leftovers(folder)
    assert any(str(folder / left) in message and "deleted" in message for message in messages)


def test_times_of_any_year_come_back(tmp_path: Path, vault: Vault, source: Path) -> None:
    """Those that no entry can have are the nearest that it can."""
    seconds = 10**9
    times = {"top": 2**63, "b": 2**64 - 1, "a/file": -(2**63), "a": 2**65, "a/deep": -(2**65)}
    for name, time in times.items():
        os.utime(source / name, ns=(1, time))
    set_to = {name: (source / name).stat().st_mtime_ns for name in times}  # not all file systems have all years
    restore_directory(vault.backup(Directory(source)).part("source"), tmp_path / "target")
    for name, time in set_to.items():
        nearest = min(max(time, -(2**63)), 2**64 - 1)
        assert abs((tmp_path / "target" / name).stat().st_mtime_ns - nearest) < seconds


# --- only what differs -----------------------------------------------------------------------------------------------


def inodes(root: Path) -> dict[str, int]:
    files = (path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    return {str(path.relative_to(root)): path.stat().st_ino for path in files}


@pytest.mark.parametrize("in_place", [False, True])
def test_only_files_that_differ_are_written(tmp_path: Path, vault: Vault, source: Path, in_place: bool) -> None:
    for name in ("bytes", "time", "mode", "attribute", "linked", "apart", "apart too", "gone", "same", "same too"):
        (source / "a" / name).write_text("before")
    os.unlink(source / "a" / "same too")
    os.link(source / "a" / "same", source / "a" / "same too")
    os.unlink(source / "a" / "apart too")
    os.link(source / "a" / "apart", source / "a" / "apart too")
    (source / "large").write_bytes(bytes(9_000_000))
    (source / "large too").write_bytes(bytes(9_000_000))
    part = vault.backup(Directory(source)).part("source")
    expected, before = described(source), inodes(source)

    def change(name: str, data: bytes, at: int) -> None:
        """Change bytes, and nothing else that can be seen."""
        status = (source / name).stat()
        with (source / name).open("r+b") as file:
            file.seek(at)
            file.write(data)
        os.utime(source / name, ns=(status.st_atime_ns, status.st_mtime_ns))

    change("a/bytes", b"BEFORE", 0)
    change("large too", b"x", 8_999_999)
    os.utime(source / "a" / "time", ns=(1, 1))
    (source / "a" / "mode").chmod(0o600)
    os.setxattr(source / "a" / "attribute", "user.a", b"new")
    os.link(source / "a" / "linked", tmp_path / "another name")
    data = (source / "a" / "apart too").read_bytes()
    (source / "a" / "apart too").unlink()
    (source / "a" / "apart too").write_bytes(data)
    (source / "a" / "gone").unlink()
    (source / "extra").write_text("extra")
    restored = restore_directory(part, source, in_place=in_place, only_changed=True)
    assert described(source) == expected
    now = inodes(source)
    written = {name for name in now if now[name] != before.get(name)}
    differing = ("bytes", "time", "mode", "attribute", "linked", "apart", "apart too", "gone")
    assert written == {"large too", *(f"a/{name}" for name in differing)}
    assert (restored.files, restored.unchanged) == (len(written), len(now) - len(written))
    assert (tmp_path / "another name").stat().st_nlink == 1
    assert not leftovers(tmp_path)
    assert not leftovers(source)
    again = restore_directory(part, source, in_place=in_place, only_changed=True)
    assert (again.files, again.size, again.unchanged) == (0, 0, len(now))
    assert described(source) == expected


@pytest.mark.parametrize("in_place", [False, True])
def test_unchanged_files_that_change_during_the_build_are_written(
    tmp_path: Path, vault: Vault, source: Path, in_place: bool
) -> None:
    for name in ("appended", "replaced", "deleted", "made private", "renamed", "same"):
        (source / "a" / name).write_text("before")
    os.link(source / "a" / "appended", source / "second name")
    part = vault.backup(Directory(source)).part("source")
    expected = described(source)
    with stage_directory(part, source, in_place=in_place, only_changed=True) as switch:
        with (source / "a" / "appended").open("a") as file:
            file.write(", after")
        (source / "new").write_text("after")
        (source / "new").replace(source / "a" / "replaced")
        (source / "a" / "deleted").unlink()
        (source / "a" / "made private").chmod(0o600)
        (source / "a" / "renamed").rename(source / "a" / "elsewhere")
        restored = switch()
    assert described(source) == expected
    assert restored.files == 6
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_failed_restore_of_what_differs_leaves_the_old_state(
    tmp_path: Path, vault: Vault, source: Path, in_place: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = vault.backup(Directory(source)).part("source")
    (source / "top").write_text("after")
    before = described(source)
    with pytest.raises(KeyboardInterrupt), stage_directory(part, source, in_place=in_place, only_changed=True):
        raise KeyboardInterrupt
    assert described(source) == before

    def fail(self: object) -> None:
        raise OSError(5, "no luck")

    monkeypatch.setattr("prefect_snapshots.trees.restoring.StagedDirectory._finish", fail)
    with pytest.raises(OSError, match="no luck"):
        restore_directory(part, source, in_place=in_place, only_changed=True)
    now = described(source)
    if in_place:  # swapping there and back sets its time
        del now[b"."], before[b"."]
    assert now == before
    assert not leftovers(tmp_path)


@needs_root
@pytest.mark.parametrize("in_place", [False, True])
def test_a_normal_user_writes_only_what_differs(tmp_path: Path, source: Path, in_place: bool) -> None:
    """Some of the files belong to others, who let no one link them."""
    vault = Vault(tmp_path / "repository")
    give(source)
    os.chown(source / "a" / "file", 0, 0)
    (source / "a" / "deep").chmod(0o555)
    vault.backup(Directory(source))
    subprocess.run(["chmod", "-R", "a+rX", tmp_path / "repository"], check=True)
    give(tmp_path / "repository")
    give(tmp_path)
    before = inodes(source)
    (source / "top").write_text("after")
    options = {"in_place": in_place, "only_changed": True}
    [warning] = as_nobody(_restore, str(tmp_path / "repository"), str(source), options)
    assert "owner or the group of 1 file" in warning
    now = inodes(source)
    assert "top" in {name for name in now if now[name] != before[name]}
    assert {name for name in now if now[name] == before[name]} >= {f"a/deep/{each}" for each in range(3)}
    assert (source / "top").read_text() != "after"


# --- what was left out -----------------------------------------------------------------------------------------------


def _backup(repository: str, source: str) -> list[str]:
    vault = Vault(Path(repository))
    vault.backup(Directory(source, strict=False))
    return [*vault.summary.unreadable, *vault.summary.skipped]


@needs_root
@pytest.mark.parametrize("in_place", [False, True])
def test_what_could_not_be_stored_stays(tmp_path: Path, source: Path, in_place: bool) -> None:
    """Files and directories that could not be read, all names of such a file, sockets and devices."""
    (source / "a" / "secret").write_text("secret")
    os.link(source / "a" / "secret", source / "second name")
    (source / "closed" / "deep").mkdir(parents=True)
    (source / "closed" / "deep" / "file").write_text("in it")
    os.mknod(source / "device", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(source / "socket"))
        give(source)
        for path in (source / "a" / "secret", source / "closed"):
            os.chown(path, 0, 0)
            path.chmod(0o600)
        give(tmp_path / "repository")
        assert len(as_nobody(_backup, str(tmp_path / "repository"), str(source))) >= 4
        (source / "top").write_text("changed")
        (source / "extra").write_text("extra")
        restored = restore_directory(Vault(tmp_path / "repository").open().part("source"), source, in_place=in_place)
        assert (source / "a" / "secret").read_text() == (source / "second name").read_text() == "secret"
        assert (source / "closed" / "deep" / "file").read_text() == "in it"
        assert stat.S_ISCHR((source / "device").stat().st_mode)
        assert stat.S_ISSOCK((source / "socket").stat().st_mode)
        assert (source / "top").read_text() == "new"
        assert not (source / "extra").exists()
        assert sorted(restored.carried) == ["a/secret", "closed/deep", "device", "second name", "socket"]


@pytest.fixture
def cluttered(source: Path) -> Path:
    cache = source / "cache"
    cache.mkdir()
    (cache / "CACHEDIR.TAG").write_bytes(b"Signature: 8a477f597d28d172789f06886806bc55\n# a cache\n")
    (cache / "huge").write_text("cached")
    (source / "b" / "CACHEDIR.TAG").write_text("no signature")
    (source / "b" / "kept").write_text("kept")
    (source / "large").write_bytes(bytes(5000))
    return source


@pytest.mark.parametrize("in_place", [False, True])
def test_caches_and_large_files_can_be_left_out(vault: Vault, cluttered: Path, in_place: bool) -> None:
    (cluttered / "marked" / "deep").mkdir(parents=True)
    (cluttered / "marked" / ".nobackup").touch()
    (cluttered / "marked" / "deep" / "file").touch()
    directory = Directory(cluttered, exclude_caches=True, larger_than=4999, exclude_if_present=[".nobackup", ".other"])
    part = vault.backup(directory).part("source")
    assert {"cache/CACHEDIR.TAG", "b/kept", "b/CACHEDIR.TAG", "top", "marked/.nobackup"} < set(part.paths)
    assert not {"cache/huge", "large", "marked/deep/file"} & set(part.paths)
    (cluttered / "extra").write_text("extra")
    (cluttered / "cache" / "more").write_text("cached later")
    restored = restore_directory(part, cluttered, in_place=in_place)
    assert sorted(restored.carried) == ["cache/huge", "cache/more", "large", "marked/deep"]
    assert (cluttered / "cache" / "more").read_text() == "cached later"
    assert not (cluttered / "extra").exists()
    with pytest.raises(InvalidArgument, match="number of bytes"):
        Directory(cluttered, larger_than=-1)


@pytest.mark.parametrize("in_place", [False, True])
def test_links_are_followed_if_that_is_asked_for(tmp_path: Path, vault: Vault, cluttered: Path, in_place: bool) -> None:
    """A restore replaces them, and does not touch what they lead to. No link leads into another source."""
    elsewhere, claimed = tmp_path / "elsewhere", tmp_path / "claimed"
    shutil.copytree(cluttered, elsewhere)
    claimed.mkdir()
    (claimed / "app.db").write_text("of another source")
    (elsewhere / "claimed").symlink_to(claimed)
    (elsewhere / "above").symlink_to(tmp_path)
    (cluttered / "all").symlink_to(elsewhere)
    (cluttered / "large too").symlink_to(elsewhere / "large")
    (cluttered / "broken").symlink_to("nothing")
    directory = Directory(cluttered, exclude_caches=True, larger_than=4999, follow_links=True, strict=False)
    part = vault.backup(dataclasses.replace(directory, claimed=[claimed, tmp_path])).part("source")
    assert {"link", "all/link", "all/a/deep/0", "all/cache/CACHEDIR.TAG"} < set(part.paths)
    assert not {"all/cache/huge", "all/large", "large too", "all/claimed", "broken"} & set(part.paths)
    assert vault.summary.unreadable == ["broken: it is a link to nothing"]
    restore_directory(part, cluttered, in_place=in_place)
    assert (cluttered / "link").read_text() == "new"
    assert not any((cluttered / name).is_symlink() for name in ("link", "all", "all/link"))
    assert sorted(os.listdir(elsewhere)) == ["a", "above", "b", "cache", "claimed", "large", "link", "top"]


def test_no_link_leads_into_the_repository_or_another_source(tmp_path: Path, source: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "app.db")) as database:
        database.execute("CREATE TABLE t (x)")
    directory = Directory(source, follow_links=True, strict=False)
    manager = BackupManager(tmp_path / "repository", databases=[str(tmp_path / "app.db")], directories=[directory])
    manager.create_backup()
    (source / "everything").symlink_to(tmp_path)
    (source / "database").symlink_to(tmp_path / "app.db")
    backup = manager.create_backup()
    assert backup.incomplete  # a directory would contain itself
    paths = {file.path for file in manager.list_files("latest", "source")}
    assert paths >= {"link", "everything"}
    assert not {path for path in paths if "app.db" in path or "repository" in path or path == "database"}


def test_what_stays_keeps_the_directories_above_it(vault: Vault, source: Path) -> None:
    """They are not in the backup, but above something that was excluded."""
    part = vault.backup(Directory(source, excludes=["*.log"])).part("source")
    (source / "b" / "logs" / "old").mkdir(parents=True)
    (source / "b" / "logs" / "old" / "x.log").write_text("log")
    (source / "b" / "logs" / "other").write_text("extra")
    (source / "b" / "logs").chmod(0o750)
    os.utime(source / "b" / "logs" / "old", ns=(1, 1_000_000_000))
    restored = restore_directory(part, source)
    assert restored.carried == ["b/logs/old/x.log"]
    assert stat.S_IMODE((source / "b" / "logs").stat().st_mode) == 0o750
    assert (source / "b" / "logs" / "old").stat().st_mtime_ns == 1_000_000_000
    assert not (source / "b" / "logs" / "other").exists()


def test_what_stays_is_as_it_is_at_the_switch_not_as_it_was_before(vault: Vault, source: Path) -> None:
    """Building may take hours. Files are appended to, replaced, deleted and made meanwhile by programs that go on."""
    (source / "logs").mkdir()
    directory = Directory(source, excludes=["*.log", "app.db*", "/cache/"])
    part = vault.backup(directory).part("source")
    for name in ("appended.log", "replaced.log", "deleted.log"):
        (source / name).write_text("before")
    (source / "cache" / "deep").mkdir(parents=True)
    (source / "cache" / "deep" / "old").write_text("old")
    with contextlib.closing(sqlite3.connect(source / "app.db", isolation_level=None)) as database:
        database.execute("CREATE TABLE rows (number)")
        with stage_directory(part, source) as switch:
            database.execute("PRAGMA journal_mode = wal")
            database.execute("INSERT INTO rows VALUES (1)")
            with (source / "appended.log").open("a") as file:
                file.write(", after")
            (source / "new").write_text("after")
            (source / "new").replace(source / "replaced.log")
            (source / "deleted.log").unlink()
            (source / "logs" / "later.log").write_text("later")
            (source / "cache" / "deep" / "old").unlink()
            (source / "cache" / "deep" / "new").write_text("new")
            (source / "extra").write_text("extra")
            time = (source / "logs").stat().st_mtime_ns
            restored = switch()
        with contextlib.closing(sqlite3.connect(source / "app.db")) as other:
            assert other.execute("SELECT number FROM rows").fetchall() == [(1,)]
    assert (source / "appended.log").read_text() == "before, after"
    assert (source / "replaced.log").read_text() == "after"
    assert not (source / "deleted.log").exists()
    assert (source / "logs" / "later.log").read_text() == "later"
    assert [path.name for path in (source / "cache" / "deep").iterdir()] == ["new"]
    assert not (source / "extra").exists()
    assert (source / "logs").stat().st_mtime_ns <= time
    assert "logs/later.log" in restored.carried


@pytest.mark.parametrize("options", [{}, {"in_place": True}, {"delete": False}], ids=str)
def test_what_stays_is_not_deleted_for_a_file_in_the_place_of_its_directory(
    vault: Vault, source: Path, options: dict[str, Any]
) -> None:
    part = vault.backup(Directory(source, excludes=["*.log"])).part("source")
    (source / "top").unlink()
    (source / "top").mkdir()
    (source / "top" / "x.log").write_text("in no backup")
    before = described(source)
    with pytest.raises(InvalidArgument, match=r"'top/x\.log' in .* no directory 'top' to keep it in\. Nothing"):
        restore_directory(part, source, **options)
    assert described(source) == before


# --- in place --------------------------------------------------------------------------------------------------------


def test_in_place_keeps_the_directory_itself(tmp_path: Path, vault: Vault, source: Path) -> None:
    part = vault.backup(Directory(source)).part("source")
    expected = described(source)
    (source / "top").write_text("changed")
    (source / "extra").mkdir()
    shutil.rmtree(source / "a")
    inode = source.stat().st_ino
    standing = os.open(source, os.O_RDONLY | os.O_DIRECTORY)
    try:
        restore_directory(part, source, in_place=True)
        assert sorted(os.listdir(standing)) == ["a", "b", "link", "top"]
    finally:
        os.close(standing)
    assert source.stat().st_ino == inode
    assert described(source) == expected
    assert not leftovers(tmp_path)
    assert not leftovers(source)


@pytest.fixture
def mounted(source: Path) -> Iterator[Path]:
    """A file system that is mounted deep in the source."""
    place = source / "b" / "mounted"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("this user cannot mount")
    (place / "inside").write_text("new")
    (place / "folder").mkdir()
    (place / "folder" / "file").write_text("new")
    yield place
    subprocess.run(["umount", place], check=True)


def test_mount_points_are_restored_in_place(vault: Vault, source: Path, mounted: Path) -> None:
    part = vault.backup(Directory(source)).part("source")
    expected = described(source)
    for path in (mounted / "inside", mounted / "folder" / "file", source / "top", source / "a" / "file"):
        path.write_text("changed")
    for path in (mounted / "extra", source / "extra"):
        path.write_text("extra")
    with pytest.raises(InvalidArgument, match=r"is a mount point in .*Nothing was changed.*in_place=True"):
        restore_directory(part, source)
    restore_directory(part, source, in_place=True)
    assert os.path.ismount(mounted)
    found = described(source)
    assert found.keys() == expected.keys()
    # The inodes of two file systems may be equal by chance: `described` then takes one file for a name of the other.
    assert all(found[name][:5] == expected[name][:5] for name in expected)
    assert not leftovers(mounted)
    (mounted / "inside").write_text("changed")
    restore_directory(part, source, only="b/mounted/inside")
    assert (mounted / "inside").read_text() == "new"


def test_a_mount_point_that_the_backup_does_not_hold(tmp_path: Path, vault: Vault, source: Path, mounted: Path) -> None:
    other = tmp_path / "other" / "source"
    (other / "a").mkdir(parents=True)
    part = vault.backup(Directory(other)).part("source")
    with pytest.raises(InvalidArgument, match=r"is a mount point that is not in .*\. Nothing was changed"):
        restore_directory(part, source, in_place=True)
    assert (mounted / "inside").read_text() == (source / "top").read_text() == "new"


def test_one_file_system_leaves_out_what_is_mounted(vault: Vault, source: Path, mounted: Path) -> None:
    part = vault.backup(Directory(source, one_file_system=True)).part("source")
    assert not any(path.startswith("b/mounted/") for path in part.paths)
    assert any(entry.path == "b/mounted" for entry in part.entries)
    (mounted / "later").write_text("later")
    (source / "top").write_text("changed")
    restore_directory(part, source, in_place=True)
    assert ((source / "top").read_text(), (mounted / "later").read_text()) == ("new", "later")
    whole = vault.backup(Directory(source)).part("source")
    assert "b/mounted/later" in whole.paths


# --- several paths at once -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["nope", "top/below", "a/file/x", "../up"])
def test_all_paths_are_looked_at_before_the_first_is_touched(vault: Vault, source: Path, wrong: str) -> None:
    part = vault.backup(Directory(source)).part("source")
    (source / "a" / "file").write_text("changed")
    before = described(source)
    with pytest.raises((InvalidArgument, InvalidName)):
        restore_directory(part, source, only=["a", wrong])
    assert described(source) == before


def test_several_paths_are_switched_together(tmp_path: Path, vault: Vault, source: Path) -> None:
    part = vault.backup(Directory(source)).part("source")
    expected = described(source)
    shutil.rmtree(source / "a" / "deep")
    (source / "top").write_text("changed")
    (source / "a" / "file").unlink()
    changed = described(source)
    with stage_directory(part, source, only=["a/deep/3", "a/deep/4", "a/file", "a", "top"]) as switch:
        assert described(source) == changed, "nothing changes before the switch"
        switch()
    assert {name: state[4] for name, state in described(source).items()} == {
        name: state[4] for name, state in expected.items()
    }
    assert not leftovers(tmp_path)


def test_a_switch_that_fails_is_taken_back(tmp_path: Path, vault: Vault, source: Path) -> None:
    part = vault.backup(Directory(source)).part("source")
    for name in ("a/file", "top"):
        (source / name).write_text("changed")
    before = described(source)
    with stage_directory(part, source, only=["a", "b", "top"]) as switch:
        shutil.move(source / "b", tmp_path / "moved")
        (source / "b").write_text("")
        (source / "b").unlink()
        os.rename(source, tmp_path / "elsewhere")
        with pytest.raises(FileNotFoundError):
            switch()
        os.rename(tmp_path / "elsewhere", source)
        shutil.move(tmp_path / "moved", source / "b")
    assert described(source).keys() == before.keys()
    assert (source / "top").read_text() == (source / "a" / "file").read_text() == "changed"


def test_what_is_not_taken_is_deleted(tmp_path: Path, vault: Vault, source: Path) -> None:
    part = vault.backup(Directory(source)).part("source")
    with pytest.raises(KeyboardInterrupt), stage_directory(part, tmp_path / "target"):
        raise KeyboardInterrupt
    assert not (tmp_path / "target").exists()
    assert not leftovers(tmp_path)


# --- hostile entries -------------------------------------------------------------------------------------------------

FILE, FOLDER, LINK = 0o100644, 0o040755, 0o120777


@pytest.mark.parametrize(
    "entries",
    [
        [Entry(b"a" * 256, FILE)],
        [Entry(b"a", FOLDER), Entry(b"a/" + b"b" * 300, FILE)],
        [Entry(b"l", LINK, link=b"x" * 5000)],
        [Entry(b"l", LINK, link=b"a\0b")],
        [Entry(b"x", FILE, size=-1)],
        [Entry(b"x", FILE, size=2**63)],
        [Entry(b"x", FILE, mtime=2**64)],
        [Entry(b"x", FILE, mtime=-(2**63) - 1)],
        [Entry(b"x", FILE, uid=2**32 - 1)],
        [Entry(b"x", FILE, gid=-1)],
        [Entry(b"x", FILE, xattrs={b"": b""})],
        [Entry(b"x", FILE, xattrs={b"user.a\0b": b""})],
        [Entry(b"x", FILE | 1 << 20)],
        [Entry(b"s", 0o140644)],
        [Entry(b"s", FILE, size=10, extents=((0, 0),))],
        [Entry(b"s", FILE, size=10, extents=((-1, 5),))],
        [Entry(b"a", FOLDER), Entry(b"a/.", FOLDER)],
        [Entry(b"a/", FOLDER)],
        [Entry(b"later/x", FILE), Entry(b"later", FOLDER)],
    ],
    ids=lambda entries: repr(entries[-1])[:60],
)
def test_entries_that_no_file_system_takes_are_refused(entries: list[Entry]) -> None:
    with pytest.raises(InvalidName):
        check_entries(entries)


def test_a_directory_in_a_place_that_cannot_be_written_is_said(tmp_path: Path, vault: Vault, source: Path) -> None:
    part = vault.backup(Directory(source)).part("source")
    with pytest.raises((PermissionDenied, InvalidArgument, OSError)):
        restore_directory(part, Path("/proc/self/target"))


# --- writing ----------------------------------------------------------------------------------------------------------


class Watched:
    """Bytes of a tree. While they are read, it notes who may read the files and directories that are being written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.modes: set[int] = set()

    def read(self, offset: int, length: int) -> bytes:
        return bytes(length)

    def read_into(self, targets: Sequence[tuple[int, memoryview]]) -> None:
        self.modes |= {stat.S_IMODE(path.stat().st_mode) for path in self.folder.rglob("*")}


def written(folder: Path, entries: list[Entry], places: list[bytes]) -> Watched:
    content = Watched(folder)
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    before = os.umask(0)
    try:
        write_entries(StoredTree(content, entries), file, list(zip(entries, places, strict=True)))
    finally:
        os.umask(before)
        os.close(file)
    return content


def test_what_is_being_written_is_private_until_it_is_complete(tmp_path: Path) -> None:
    large = Entry(b"d/large", 0o100644, 9 << 20)
    content = written(tmp_path, [Entry(b"d", 0o040755), large], [b"d", b"d/large"])
    assert content.modes == {0o700, 0o600}
    assert stat.S_IMODE((tmp_path / "d/large").stat().st_mode) == 0o644


@pytest.mark.parametrize("link", [True, False])
def test_no_file_is_written_through_what_is_in_its_place(tmp_path: Path, link: bool) -> None:
    """A file system that ignores case takes two names for one, and a link could lead anywhere."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "elsewhere").write_text("mine")
    if link:
        (tmp_path / "folder/a").symlink_to("../elsewhere")
    entries = [Entry(b"a", 0o100644, 1), Entry(b"A", 0o100644, 1)]
    with pytest.raises(InvalidName, match="as the same name"):
        written(tmp_path / "folder", entries, [b"a", b"a"])
    assert (tmp_path / "elsewhere").read_text() == "mine"
