"""Single files, the output of commands and standard input are backed up, and come back to files."""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from prefect_snapshots import BackupManager
from prefect_snapshots.backups import Command, Directory, File, StandardInput
from prefect_snapshots.errors import BackupFailed, InvalidArgument, RestoreFailed
from prefect_snapshots.testing import StoredDump

_LIST = [(1, 2**32 - 1), (2, 4321), (4, 2**32 - 1), (16, 2**32 - 1), (32, 2**32 - 1)]
ACL = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, 7, number) for tag, number in _LIST)
"""An access control list that gives a user all rights, as the system stores it."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "etc"
    folder.mkdir()
    file = folder / "it's a file?#%41"
    file.write_bytes(b"x" * 300_000)
    file.chmod(0o640)
    os.utime(file, ns=(1, 1_234_567_890_123_456_789))
    if os.geteuid() == 0:
        os.chown(file, 1000, 1001)
    return file


def test_a_file_comes_back_with_its_mode_owner_and_time(tmp_path: Path, file: Path) -> None:
    os.setxattr(file, "user.comment", b"mine\xff")
    manager = BackupManager(tmp_path / "repository", files=[file], directories=[file.parent])
    backup = manager.create_backup(prove=True)
    assert backup.proven_at is not None
    part, folder = backup.parts
    os.setxattr(file.parent, "system.posix_acl_default", ACL)  # a new file in it inherits this
    assert (part.kind, part.notes, folder.files) == ("file", [], 0), "no file is in two parts"
    before = file.stat()
    assert manager.restore_backup("latest", confirm=True, dry_run=True).changes[0].identical
    file.write_text("changed")
    os.setxattr(file, "user.comment", b"newer")
    (change,) = manager.restore_backup("latest", confirm=True, dry_run=True).changes[0].files
    assert (change.path, change.change, change.old_size) == (file.name, "changed", 7)
    manager.restore_backup("latest", confirm=True)
    after = file.stat()
    assert file.read_bytes() == b"x" * 300_000
    assert {name: os.getxattr(file, name) for name in os.listxattr(file)} == {"user.comment": b"mine\xff"}
    same = ("st_mode", "st_uid", "st_gid", "st_mtime_ns")
    assert [getattr(after, name) for name in same] == [getattr(before, name) for name in same]
    file.unlink()
    manager.restore_backup("latest", confirm=True, to={part.name: tmp_path / "new" / "place"}, only={part.name: []})
    assert (tmp_path / "new" / "place").read_bytes() == b"x" * 300_000
    assert sorted(path.name for path in file.parent.iterdir()) == []


def test_a_link_to_a_file_stays_a_link(tmp_path: Path, file: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(file)
    kept = StoredDump.of(File(link))
    file.write_text("changed")
    File(link).restore(kept)
    assert link.is_symlink()
    assert file.read_bytes() == b"x" * 300_000


def test_the_output_of_a_command_counts_if_the_command_succeeds(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    good = [
        Command("printf 'a  b\\n'", name="one"),
        Command([sys.executable, "-c", "print('x' * 300_000)"], name="two"),
    ]
    manager = BackupManager(tmp_path / "repository", files=good, directories=[Directory(tmp_path / "data")])
    backup = manager.create_backup(prove=True)
    assert [part.size for part in backup.parts] == [5, 300_001, 0]
    report = manager.restore_backup("latest", confirm=True)
    assert report.restored == ("data",)
    assert [warning.split(". ")[0] for warning in report.warnings] == [
        f"Part '{name}' is not a file on this machine, and was not restored" for name in ("one", "two")
    ]
    without = BackupManager(tmp_path / "repository", directories=[Directory(tmp_path / "data")])
    assert without.restore_backup("latest", confirm=True).warnings == report.warnings
    manager.restore_backup("latest", confirm=True, only={"one": []}, to={"one": tmp_path / "back"})
    assert (tmp_path / "back").read_bytes() == b"a  b\n"
    with pytest.raises(InvalidArgument, match="cat backups/NAME@BACKUP/one/one"):
        manager.restore_backup("latest", confirm=True, only={"one": []})
    failing = [Command("sh -c 'echo half; echo why >&2; exit 3'", name="one"), Command("no-such-program", name="two")]
    for command, why in zip(failing, ["exit code 3: why", "no program 'no-such-program'"], strict=True):
        with pytest.raises(BackupFailed, match=why):
            BackupManager(tmp_path / "repository", files=[command]).create_backup()
    assert len(manager.list_backups()) == 1


def test_standard_input_is_read_once_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    piped = SimpleNamespace(buffer=io.BytesIO(b"rows"), isatty=lambda: False)
    monkeypatch.setattr(sys, "stdin", piped)
    manager = BackupManager(tmp_path / "repository", files=[StandardInput("rows.sql")])
    manager.create_backup()
    assert b"".join(manager.open_file("latest", "rows.sql", "rows.sql")) == b"rows"
    assert BackupManager(tmp_path / "repository").drill().ok
    piped.isatty = lambda: True
    with pytest.raises(BackupFailed, match="is a terminal"):
        manager.create_backup()


def test_space_is_looked_at_before_anything_is_written(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = BackupManager(tmp_path / "repository", files=[file], directories=[Directory(file.parent)])
    manager.create_backup()
    file.write_text("now")
    looked = []

    def small(folder: Path) -> SimpleNamespace:
        looked.append(Path(folder))
        return SimpleNamespace(f_bavail=299_999, f_frsize=1)

    monkeypatch.setattr(os, "statvfs", small)
    with pytest.raises(RestoreFailed, match=f"bytes in {re.escape(str(file.parent))}, where 299,999 are free"):
        manager.restore_backup("latest", confirm=True)
    assert looked == [file.parent]
    assert file.read_text() == "now"
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert [row.ok for row in manager.drill().rows] == [False, True]
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=400_000, f_frsize=1))
    assert manager.drill().ok


@pytest.mark.parametrize("name", ["", "a/b", "..", ".", "a\0b", "\udcff"])
def test_a_name_is_that_of_a_file(name: str) -> None:
    with pytest.raises(InvalidArgument):
        StandardInput(name)


def test_what_is_no_file_is_refused(tmp_path: Path, file: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, why in (
        (tmp_path / "pipe", "is not a file"),
        (file.parent, "not a file"),
        (tmp_path / "none", "No such"),
    ):
        with pytest.raises(BackupFailed, match=why):
            BackupManager(tmp_path / "repository", files=[path]).create_backup()
    kept = StoredDump.of(File(file))
    for target in (file.parent, tmp_path):
        with pytest.raises(InvalidArgument, match="is a directory"):
            File(target).restore(kept)
    for wrong in ("", "'", "a 'b"):
        with pytest.raises(InvalidArgument):
            Command(wrong, name="x")


@pytest.mark.parametrize(
    "settings",
    [
        b'{"mode": 2541, "uid": 0, "gid": 0, "mtime": 0}',
        b'{"mode": 420, "uid": 0, "gid": 0, "mtime": 18446744073709551616}',
        b'{"mode": 420, "uid": -1, "gid": 0, "mtime": 0}',
        b'{"mode": 420, "mode": 448, "uid": 0, "gid": 0, "mtime": 0}',
        b'{"mode": 420, "uid": 0, "gid": 0, "mtime": 0, "path": "/etc/passwd"}',
        b"[",
    ],
)
def test_a_forged_part_changes_nothing(file: Path, settings: bytes) -> None:
    kept = StoredDump.of(File(file))
    file.write_text("now")
    forged = [StoredDump({**kept.files, "metadata/file.json": settings}, {}), StoredDump({**kept.files, "x": b""}, {})]
    for dump in (*forged, StoredDump({}, {})):
        with pytest.raises(RestoreFailed, match="is unchanged"):
            File(file).restore(dump)
    assert file.read_text() == "now"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert [path.name for path in file.parent.iterdir()] == [file.name]
