"""A directory comes back from a backup as it was, in all that `rsync -aHSX` compares, or not at all.

No shortcut lies: a file is skipped only when it cannot have changed. What is hostile or damaged leaves the target as it
was, and so does a kill.
"""

from __future__ import annotations

import hashlib
import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import forks
import msgspec
import pytest

from prefect_snapshots.backups.archive import Archive, store
from prefect_snapshots.backups.directories import SourceSummary
from prefect_snapshots.backups.manifest import BackupPart, encode_manifest
from prefect_snapshots.errors import (
    BackupFailed,
    DamagedVersion,
    IntegrityError,
    InvalidArgument,
    InvalidName,
    StorageFull,
)
from prefect_snapshots.repository.catalog import Event
from prefect_snapshots.repository.commits import Draft
from prefect_snapshots.repository.contents import Stored, Writer
from prefect_snapshots.repository.repository import Repository
from prefect_snapshots.trees import file_reading
from prefect_snapshots.trees.descriptors import exists, opened
from prefect_snapshots.trees.entries import Entry
from prefect_snapshots.trees.restoring import restore_directory
from prefect_snapshots.trees.scanning import RESTORING, Directory, FileSelection, walk
from prefect_snapshots.trees.workspaces import recover, workspace


class Vault:
    """A repository with backups in it."""

    def __init__(self, url: Path, **options: Any) -> None:
        self.repository = Repository(url, **options)
        self.events: list[Event] = []
        self.stream = self.repository.stream("backups", "default", self.events.append)
        self.newest: Archive | None = None
        self.summary = SourceSummary("", "")

    def backup(self, *sources: Directory) -> Archive:
        def keep(writer: Writer) -> Stored:
            stored, [self.summary, *_] = store(writer, sources, [self.newest] if self.newest else [])
            return stored

        event = self.repository.commit(self.stream, lambda: Draft("created"), store=keep)
        assert event is not None
        self.newest = Archive(self.repository.read(self.stream, event), "the backup")
        return self.newest

    def open(self) -> Archive:
        return Archive(self.repository.read(self.stream, self.events[-1]), "the backup")


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path / "repository")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A directory with one of everything."""
    root = tmp_path / "source"
    (root / "a" / "deep" / "er").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "a" / "text").write_text("text\n" * 1000)
    (root / "a" / "nothing").touch()
    (root / "a" / "deep" / "er" / "random").write_bytes(random.Random(1).randbytes(300_000))
    (root / "a" / "large").write_bytes(random.Random(2).randbytes(9_000_000))
    (root / os.fsdecode(b"bytes-\xff\xfe")).write_text("no text")
    (root / "naïve 名 'quoted' $name").write_text("unicode")
    os.link(root / "a" / "text", root / "a" / "deep" / "other name")
    os.link(root / "a" / "text", root / "third name")
    os.symlink("a/text", root / "inside")
    os.symlink("/etc/passwd", root / "absolute")
    os.symlink("../../../..", root / "outside")
    os.symlink(b"to-\xff", os.fsencode(root / "link to bytes"))
    os.mkfifo(root / "fifo", 0o640)
    with (root / "sparse").open("wb") as file:
        file.seek(3_000_000)
        file.write(b"data" * 5000)
        file.truncate(40_000_000)
    with (root / "all hole").open("wb") as file:
        file.truncate(5_000_000)
    os.setxattr(root / "a" / "text", "user.colour", b"blue\0")
    os.setxattr(root / "empty", "user.kind", b"directory")
    (root / "program").write_text("#!/bin/sh\n")
    (root / "program").chmod(0o6755)
    (root / "empty").chmod(0o1777)
    (root / "a" / "deep").chmod(0o750)
    (root / "a" / "text").chmod(0o400)
    if os.geteuid() == 0:
        os.chown(root / "program", 1234, 5678)
        (root / "program").chmod(0o6755)
        os.chown(root / "inside", 4321, 8765, follow_symlinks=False)
    for number, path in enumerate(sorted(root.rglob("*"), reverse=True)):
        os.utime(path, ns=(1, 1_500_000_000_123_456_789 + number), follow_symlinks=False)
    os.utime(root, ns=(1, 1_400_000_000_987_654_321))
    return root


def described(root: Path) -> dict[bytes, tuple[object, ...]]:
    """Everything about everything in a directory that a backup keeps."""
    found: dict[bytes, tuple[object, ...]] = {}
    inodes: dict[int, bytes] = {}
    for path in sorted([root, *root.rglob("*")], key=os.fsencode):
        name = os.fsencode(path.relative_to(root))
        status = path.lstat()
        content: object = None
        same: object = None
        if stat.S_ISLNK(status.st_mode):
            content = os.readlink(os.fsencode(path))
        elif stat.S_ISREG(status.st_mode):
            content = hashlib.sha256(path.read_bytes()).digest(), status.st_size
            same = inodes.setdefault(status.st_ino, name), status.st_nlink
        xattrs = {
            key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)
        }
        found[name] = (status.st_mode, status.st_mtime_ns, status.st_uid, status.st_gid, content, same, xattrs)
    return found


def leftovers(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.startswith(RESTORING)]


def size_of(vault: Vault) -> int:
    return sum(info.size for info in vault.repository.location.list(""))


def settle() -> None:
    """Wait until what was written can be told from what is written next."""
    time.sleep(file_reading._SETTLED / 1e9 + 0.1)


# --- the round trip --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("password", [None, "secret"])
def test_everything_comes_back(tmp_path: Path, source: Path, password: str | None) -> None:
    vault = Vault(tmp_path / "repository", password=password)
    archive = vault.backup(Directory(source))
    archive.verify()
    target = tmp_path / "elsewhere" / "target"
    restored = restore_directory(vault.open().part("source"), target)
    assert described(target) == described(source)
    assert restored.target == target
    assert not restored.not_set
    assert (target / "sparse").stat().st_blocks * 512 < 1_000_000
    assert (target / "all hole").stat().st_blocks == 0
    assert vault.summary.files == 9
    assert vault.repository.check(read_data=True).ok
    assert not leftovers(target.parent)


def test_a_populated_target_becomes_what_the_backup_holds(tmp_path: Path, vault: Vault, source: Path) -> None:
    archive = vault.backup(Directory(source))
    target = tmp_path / "target"
    (target / "a" / "text").mkdir(parents=True)
    (target / "more").write_text("not in the backup")
    (target / "inside").mkdir()
    restore_directory(archive.part("source"), target)
    assert described(target) == described(source)
    assert sorted(os.listdir(tmp_path)) == ["repository", "source", "target"]


def test_what_is_excluded_stays_in_the_target(tmp_path: Path, vault: Vault) -> None:
    source = tmp_path / "source"
    (source / ".git").mkdir(parents=True)
    (source / ".git" / "HEAD").write_text("main")
    (source / "kept").write_text("1")
    archive = vault.backup(Directory(source))
    assert [entry.path for entry in archive.part("source").entries] == ["kept"]
    (source / "kept").write_text("2")
    (source / "new").write_text("3")
    restored = restore_directory(archive.part("source"), source)
    assert restored.carried == [".git"]
    assert sorted(os.listdir(source)) == [".git", "kept"]
    assert (source / ".git" / "HEAD").read_text() == "main"
    assert (source / "kept").read_text() == "1"


def test_what_is_not_in_the_backup_can_stay(tmp_path: Path, vault: Vault, source: Path) -> None:
    archive = vault.backup(Directory(source))
    (source / "a" / "more").mkdir()
    (source / "a" / "more" / "file").write_text("more")
    (source / "a" / "text").unlink()
    before = (source / "a" / "more" / "file").stat().st_ino
    restored = restore_directory(archive.part("source"), source, delete=False)
    assert restored.carried == ["a/more"]
    assert (source / "a" / "more" / "file").stat().st_ino == before
    assert (source / "a" / "text").read_text() == "text\n" * 1000


@pytest.mark.parametrize("only", ["a/deep", "a/deep/er/random", "a", "inside", "third name"])
def test_one_folder_or_file(tmp_path: Path, vault: Vault, source: Path, only: str) -> None:
    archive = vault.backup(Directory(source))
    before = described(source)
    target = tmp_path / "target"
    subprocess.run(["cp", "-a", source, target], check=True)
    place = target / only
    (target / "untouched").write_text("new")
    (target / "program").write_text("changed")
    shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink()
    restore_directory(archive.part("source"), target, only=only)
    after = described(target)
    for name, facts in before.items():
        if name == os.fsencode(only) or name.startswith(os.fsencode(only) + b"/"):
            assert facts[:5] == after[name][:5]
    assert (target / "untouched").read_text() == "new"
    assert (target / "program").read_text() == "changed"
    restore_directory(archive.part("source"), tmp_path / "missing", only=only)
    assert after[os.fsencode(only)][4] == described(tmp_path / "missing")[os.fsencode(only)][4]


def test_nothing_is_written_through_a_link(tmp_path: Path, vault: Vault, source: Path) -> None:
    archive = vault.backup(Directory(source))
    target, victim = tmp_path / "target", tmp_path / "victim"
    (victim / "deep").mkdir(parents=True)
    target.mkdir()
    (target / "a").symlink_to(victim)
    with pytest.raises(InvalidArgument, match="not a directory"):
        restore_directory(archive.part("source"), target, only="a/deep")
    restore_directory(archive.part("source"), target)
    assert described(target) == described(source)
    assert [path.name for path in victim.rglob("*")] == ["deep"]


def test_a_link_as_target_is_followed(tmp_path: Path, vault: Vault, source: Path) -> None:
    archive = vault.backup(Directory(source))
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert restore_directory(archive.part("source"), tmp_path / "link").target == tmp_path / "real"
    assert (tmp_path / "link").is_symlink()
    assert described(tmp_path / "real") == described(source)


def test_files_are_read_in_pieces(vault: Vault, source: Path) -> None:
    part = vault.backup(Directory(source)).part("source")
    for path in part.paths:
        assert b"".join(part.open(path)) == (source / path).read_bytes()
    with pytest.raises(InvalidArgument, match="no file 'absent'"):
        part.open("absent")


def test_two_sources_of_one_name(vault: Vault, source: Path) -> None:
    with pytest.raises(InvalidArgument, match="another name"):
        vault.backup(Directory(source), Directory(source))
    archive = vault.backup(Directory(source), Directory(source / "a", name="again"))
    assert [part.name for part in archive.parts] == ["source", "again"]


# --- what changed ----------------------------------------------------------------------------------------------------


def test_an_unchanged_file_is_not_read(vault: Vault, source: Path) -> None:
    settle()
    vault.backup(Directory(source))
    for path in source.rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.utime(path, ns=(0, path.stat().st_mtime_ns - 1))  # atime now differs, and so does ctime
    settle()
    vault.backup(Directory(source))
    assert vault.summary.kept == 0
    archive = vault.backup(Directory(source))
    assert (vault.summary.kept, vault.summary.read) == (vault.summary.files, 0)
    archive.verify()
    for name in archive.part("source").paths:
        assert b"".join(archive.part("source").open(name)) == (source / name).read_bytes()
    before = size_of(vault)
    vault.backup(Directory(source))
    assert size_of(vault) - before < 12_000


def test_a_file_that_changed_just_before_the_look_is_read_again(tmp_path: Path, vault: Vault) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("old")
    vault.backup(Directory(source))
    vault.backup(Directory(source))
    assert vault.summary.kept == 0
    settle()
    vault.backup(Directory(source))
    assert vault.summary.kept == 0  # the last look was too early
    vault.backup(Directory(source))
    assert vault.summary.kept == 1


def test_a_chunk_that_is_gone_is_read_again(tmp_path: Path, vault: Vault, source: Path) -> None:
    settle()
    vault.backup(Directory(source))
    assert vault.newest is not None
    other = Vault(tmp_path / "other")
    other.newest = vault.newest
    archive = other.backup(Directory(source))
    assert other.summary.kept < other.summary.files
    archive.verify()
    assert other.repository.check(read_data=True).ok


def test_changes_between_backups(tmp_path: Path, vault: Vault) -> None:
    source = tmp_path / "source"
    generator = random.Random(5)
    source.mkdir()
    for step in range(8):
        for _ in range(30):
            path = source / f"{generator.randrange(6)}" / f"{generator.randrange(12)}"
            path.parent.mkdir(exist_ok=True)
            action = generator.randrange(4)
            if action == 0 and path.exists():
                path.unlink()
            elif action == 1 and path.exists():
                path.rename(path.with_name(f"renamed-{step}"))
            elif action == 2 and path.exists():
                (path.parent / f"link-{step}-{generator.random()}").hardlink_to(path)
            else:
                path.write_bytes(generator.randbytes(generator.choice([0, 5, 70_000, 5_000_000])))
        if step % 3 == 2:
            settle()
        archive = vault.backup(Directory(source))
        restore_directory(archive.part("source"), tmp_path / "target")
        assert described(tmp_path / "target") == described(source)


def _append(path: str, running: Any, stop: Any) -> None:
    with open(path, "ab", buffering=0) as file:
        while not stop.is_set():
            file.write(b"x")
            running.set()


@pytest.mark.parametrize("size", [3_000_000, 12_000_000])
def test_a_file_that_changes_while_it_is_read_is_reported(tmp_path: Path, vault: Vault, size: int) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "growing").write_bytes(os.urandom(size))
    (source / "still").write_text("still")
    running, stop = forks.context().Event(), forks.context().Event()
    process = forks.context().Process(target=_append, args=(str(source / "growing"), running, stop))
    process.start()
    try:
        running.wait(30)
        while not vault.summary.changed:  # the writer need not have its turn within one look
            archive = vault.backup(Directory(source))
    finally:
        stop.set()
        process.join(30)
    assert vault.summary.changed == ["growing"]
    archive.verify()
    read = b"".join(archive.part("source").open("growing"))
    assert (source / "growing").read_bytes().startswith(read)
    settle()
    vault.backup(Directory(source))
    vault.backup(Directory(source))
    assert vault.summary.changed == []
    assert vault.summary.kept == 2


def test_sockets_are_skipped_and_reported(tmp_path: Path, vault: Vault) -> None:
    import socket

    source = tmp_path / "source"
    source.mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(source)  # names of sockets are short
        try:
            server.bind("socket")
        finally:
            os.chdir(here)
        vault.backup(Directory(source))
    assert vault.summary.skipped == ["socket"]


# --- what cannot be read ---------------------------------------------------------------------------------------------


def _as_nobody(repository: str, source: str, strict: bool, answers: Any) -> None:
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    vault = Vault(Path(repository))
    try:
        archive = vault.backup(Directory(source, strict=strict))
        answers.put((sorted(archive.part("source").paths), sorted(vault.summary.unreadable)))
    except BackupFailed as error:
        answers.put((str(error), len(vault.events)))


def test_what_cannot_be_read(tmp_path: Path) -> None:
    place = tmp_path / "public"
    source = place / "source"
    (source / "closed").mkdir(parents=True)
    (source / "closed" / "in").write_text("unseen")
    (source / "open").write_text("seen")
    (source / "secret").write_text("unseen")
    (place / "repository").mkdir()
    (place / "repository").chmod(0o777)
    for path in (source / "closed", source / "secret"):
        path.chmod(0)
    for path in (*tmp_path.parents, tmp_path):
        if path.stat().st_uid == os.geteuid() and "pytest" in str(path):
            path.chmod(0o755)
    answers = forks.context().Queue()
    try:
        for strict in (True, False):
            process = forks.context().Process(
                target=_as_nobody, args=(str(place / "repository"), str(source), strict, answers)
            )
            process.start()
            found = answers.get(timeout=60)
            process.join()
            if strict:
                message, events = found
                assert "closed" in message
                assert "Nothing was saved" in message
                assert events == 0
            else:
                assert found == (["open"], ["closed: Permission denied", "secret: Permission denied"])
    finally:
        (source / "closed").chmod(0o700)


@pytest.mark.parametrize("name", [b"Icon\r", b"new\nline", b"bell\a", b"\x1b[2J", b"\xff\xfe\x7f", b" ", b"-rf"])
def test_odd_names_come_back_as_they_were(tmp_path: Path, vault: Vault, name: bytes) -> None:
    source = tmp_path / "source"
    (source / os.fsdecode(name)).mkdir(parents=True)
    (source / os.fsdecode(name) / os.fsdecode(name)).write_text("odd")
    (source / os.fsdecode(b"link to " + name)).symlink_to(os.fsdecode(name))
    archive = vault.backup(Directory(source))
    restore_directory(archive.part("source"), tmp_path / "target")
    assert described(tmp_path / "target") == described(source)


def test_a_source_that_is_missing_or_a_file(tmp_path: Path, vault: Vault) -> None:
    with pytest.raises(BackupFailed, match="cannot be read"):
        vault.backup(Directory(tmp_path / "absent"))
    (tmp_path / "file").touch()
    with pytest.raises(BackupFailed, match="not a directory"):
        vault.backup(Directory(tmp_path / "file"))


# --- excludes --------------------------------------------------------------------------------------------------------


def unexpected(path: str, error: OSError) -> None:
    raise error


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
@pytest.mark.parametrize("seed", range(30))
def test_ignore_files_mean_what_git_takes_them_for(tmp_path: Path, seed: int) -> None:
    generator = random.Random(seed)
    names = ["a", "b", "build", "x.o", "y.o", "keep.o", "log.txt", ".hidden", "a b", "x]y", "-", "^"]

    def patterns() -> str:
        lines = []
        for _ in range(generator.randrange(1, 5)):
            parts = [
                generator.choice(
                    [
                        *names,
                        "*",
                        "*.o",
                        "?",
                        "[ab]",
                        "**",
                        "b*",
                        "*.txt",
                        "[!a-x]*",
                        "[]^-]",
                        "\\[z",
                        "a\\ b",
                        "[^]x]?y",
                        "a b ",
                        "x**",
                    ]
                )
                for _ in range(generator.choice([1, 1, 2, 3]))
            ]
            lines.append(
                generator.choice(["", "", "", "!", "#", "/"]) + "/".join(parts) + generator.choice(["", "", "/"])
            )
        return "\n".join(lines) + "\n"

    root = tmp_path / "root"
    for _ in range(40):
        path = root.joinpath(*(generator.choice([*names, "[z"]) for _ in range(generator.randrange(1, 4))))
        if not path.exists() and all(not parent.is_file() for parent in path.parents):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("x") if generator.random() < 0.7 else path.mkdir()
    for folder in (root, *[path for path in root.rglob("*") if path.is_dir()]):
        if folder == root or generator.random() < 0.3:
            (folder / ".gitignore").write_text(patterns())
    given = patterns()
    found = [
        (path, entry.is_dir(follow_symlinks=False), left_out)
        for path, entry, _, left_out in walk(
            str(root), FileSelection(tuple(given.split("\n")), (".gitignore",)), unexpected
        )
    ]
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    subprocess.run(["git", "init", "-q", root], check=True, env=environment)
    (root / ".git" / "info" / "exclude").write_text(given)
    asked = "\0".join(path for path, _, _ in found)
    done = subprocess.run(
        ["git", "-C", root, "check-ignore", "-z", "--stdin"], input=asked, capture_output=True, text=True, check=False,
        env=environment,
    )  # fmt: skip
    ignored = set(done.stdout.split("\0"))
    assert {path for path, _, left_out in found if left_out} == ignored - {""}


# --- hostile manifests -----------------------------------------------------------------------------------------------


FILE, FOLDER, LINK = 0o100644, 0o040755, 0o120777


@pytest.mark.parametrize(
    "entries",
    [
        [Entry(b"/etc/x", FILE)],
        [Entry(b"../x", FILE)],
        [Entry(b"..", FOLDER)],
        [Entry(b".", FOLDER)],
        [Entry(b"", FILE)],
        [Entry(b"a", FOLDER), Entry(b"a/../../x", FILE)],
        [Entry(b"a", FOLDER), Entry(b"a//x", FILE)],
        [Entry(b"a\0b", FILE)],
        [Entry(b"x", FILE), Entry(b"x", FILE)],
        [Entry(b"l", LINK, link=b"/etc"), Entry(b"l/x", FILE)],
        [Entry(b"f", FILE), Entry(b"f/x", FILE)],
        [Entry(b"missing/x", FILE)],
        [Entry(b"x", FILE, link=b"/etc/passwd")],
        [Entry(b"l", LINK, link=b"/etc/passwd"), Entry(b"x", FILE, link=b"l")],
        [Entry(b"device", stat.S_IFCHR | 0o666)],
        [Entry(b"l", LINK)],
        [Entry(b"s", FILE, size=10, extents=((5, 10),))],
        [Entry(b"s", FILE, size=10, extents=((5, 2), (0, 2)))],
    ],
    ids=lambda entries: repr(entries[-1].raw),
)
def test_hostile_manifests_are_refused(vault: Vault, entries: list[Entry]) -> None:
    manifest = encode_manifest([BackupPart("source", "directory", entries)])
    event = vault.repository.commit(
        vault.stream, lambda: Draft("created"), store=lambda writer: writer.store_cut(manifest, [])
    )
    assert event is not None
    with pytest.raises((InvalidName, IntegrityError)):
        Archive(vault.repository.read(vault.stream, event))


@pytest.mark.parametrize("manifest", [b"", b"\xc1", msgspec.msgpack.encode([1, "x"]), bytes(range(100))])
def test_a_manifest_that_is_none(vault: Vault, manifest: bytes) -> None:
    event = vault.repository.commit(
        vault.stream, lambda: Draft("created"), store=lambda writer: writer.store_cut(manifest, [b"body"])
    )
    assert event is not None
    with pytest.raises(IntegrityError):
        Archive(vault.repository.read(vault.stream, event))


# --- damage, kills, full disks ---------------------------------------------------------------------------------------


def test_a_flipped_bit_is_named_and_the_target_untouched(tmp_path: Path, vault: Vault, source: Path) -> None:
    vault.backup(Directory(source))
    target = tmp_path / "target"
    target.mkdir()
    (target / "mine").write_text("old")
    generator = random.Random(3)
    for pack in (path for path in (tmp_path / "repository" / "packs").rglob("*") if path.is_file()):
        data = bytearray(pack.read_bytes())
        for _ in range(5):
            at = generator.randrange(100, 9_000_000)  # within what no compression made smaller
            data[at] ^= 1
            pack.write_bytes(data)
            archive = Archive(vault.repository.read(vault.stream, vault.events[-1]), "the backup")
            with pytest.raises(DamagedVersion, match="source: file"):
                archive.verify()
            with pytest.raises(DamagedVersion, match="source: file") as raised:
                restore_directory(archive.part("source"), target)
            assert raised.value.version == "the backup"
            assert os.listdir(target) == ["mine"]
            assert not leftovers(tmp_path)
            data[at] ^= 1
            pack.write_bytes(data)
    vault.open().verify()


RESTORE = """
import sys
from prefect_snapshots.backups.archive import Archive
from prefect_snapshots.trees.restoring import restore_directory
from prefect_snapshots.repository.repository import Repository
events = []
repository = Repository(sys.argv[1])
stream = repository.stream("backups", "default", events.append)
part = Archive(repository.read(stream, events[-1])).part("source")
print("go", flush=True)
restore_directory(part, sys.argv[2], only_changed=len(sys.argv) > 3)
"""


def _restore(repository: str, target: str) -> None:
    restore_directory(Vault(Path(repository)).open().part("source"), target)


def test_a_kill_leaves_the_old_or_the_new(tmp_path: Path, vault: Vault) -> None:
    generator = random.Random(7)
    source, target = tmp_path / "source", tmp_path / "target"
    states = []
    for step in (1, 2):
        source.mkdir(exist_ok=True)
        for number in range(400 if step == 1 else 200):
            (source / f"{number}").write_bytes(generator.randbytes(2000 * step))
        states.append(described(source))
        vault.backup(Directory(source))
    first = Archive(vault.repository.read(vault.stream, vault.events[0]))
    restore_directory(first.part("source"), target)
    command = [sys.executable, "-c", RESTORE, str(tmp_path / "repository"), str(target)]
    span = 0.0
    seen = set()
    for turn in range(12):
        only_changed = turn % 2 == 1
        process = subprocess.Popen([*command, *["only changed"][:only_changed]], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        start = time.perf_counter()
        try:
            process.wait(generator.uniform(0, 1.1 * span) if turn else None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        span = span or time.perf_counter() - start
        if only_changed:  # until the killed restore is cleaned up, files that differ in neither state have two names
            recover(target)
        found = described(target)
        assert found in states
        seen.add(states.index(found))
        recover(target)
        assert not leftovers(tmp_path)
        if found == states[1]:
            restore_directory(first.part("source"), target)
    assert 1 in seen
    assert vault.repository.check().ok


def test_what_was_set_aside_is_put_back(tmp_path: Path) -> None:
    """Where two names cannot be swapped at once, a kill may come between two renames."""
    space = tmp_path / f"{RESTORING}x"
    (space / "old-0").mkdir(parents=True)
    space.chmod(0o700)
    (space / "old-0" / "file").write_text("old")
    (space / "where-0").write_text("target")
    recover(tmp_path / "target")
    assert (tmp_path / "target" / "file").read_text() == "old"
    assert not leftovers(tmp_path)


def test_a_running_restore_is_left_alone(tmp_path: Path) -> None:
    with opened(tmp_path) as folder:
        with workspace(folder, []) as space:
            recover(tmp_path / "target")
            assert exists(folder, space.name)
        assert not exists(folder, space.name)


def test_a_swap_in_two_steps(tmp_path: Path, vault: Vault, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on systems that cannot exchange two names."""
    monkeypatch.setattr("prefect_snapshots.trees.workspaces._LIBC", object())
    archive = vault.backup(Directory(source))
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "mine").write_text("old")
    restore_directory(archive.part("source"), tmp_path / "target")
    assert described(tmp_path / "target") == described(source)


def _with_little_room(repository: str, target: str, answers: Any) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    try:
        _restore(repository, target)
    except StorageFull as error:
        answers.put(str(error))


def test_a_full_disk_leaves_the_target(tmp_path: Path, vault: Vault, source: Path) -> None:
    vault.backup(Directory(source))
    target = tmp_path / "target"
    target.mkdir()
    (target / "mine").write_text("old")
    answers = forks.context().Queue()
    process = forks.context().Process(
        target=_with_little_room, args=(str(tmp_path / "repository"), str(target), answers)
    )
    process.start()
    assert "not enough space" in answers.get(timeout=60)
    process.join()
    assert os.listdir(target) == ["mine"]
    assert not leftovers(tmp_path)


@pytest.fixture
def mounted(tmp_path: Path) -> Any:
    place = tmp_path / "mounted"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("this user cannot mount")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_mount_point_is_restored_in_place_when_asked(tmp_path: Path, vault: Vault, mounted: Path) -> None:
    source = tmp_path / "source"
    (source / "folder").mkdir(parents=True)
    (source / "folder" / "file").write_text("new")
    archive = vault.backup(Directory(source))
    (mounted / "folder").mkdir()
    (mounted / "gone").write_text("old")
    with pytest.raises(InvalidArgument, match="mount point"):
        restore_directory(archive.part("source"), mounted)
    with pytest.raises(InvalidArgument, match="is a mount point in"):
        restore_directory(archive.part("source"), tmp_path)
    restore_directory(archive.part("source"), mounted, in_place=True)
    assert described(mounted) == described(source)
    (source / "large").write_bytes(os.urandom(3_000_000))
    archive = vault.backup(Directory(source))
    with pytest.raises(StorageFull):
        restore_directory(archive.part("source"), mounted, in_place=True)
    assert sorted(os.listdir(mounted)) == ["folder"]
