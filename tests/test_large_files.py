"""What is written past the cache is what was given, wherever it begins, and where a file system does not offer it."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefect_snapshots import BackupManager
from prefect_snapshots.repository.location import LargeFile, large_files

KB, MB = 1024, 1024 * 1024
DIRECT = os.O_DIRECT


def offers_direct_writes(folder: Path) -> bool:
    """Whether the file system of the tests does: not all that `/tmp` may be on do."""
    with mmap.mmap(-1, 4096) as block:
        try:
            file = os.open(folder / "probe", os.O_WRONLY | os.O_CREAT | DIRECT)
        except OSError:
            return False
        try:
            return os.write(file, block) == 4096
        except OSError:
            return False
        finally:
            os.close(file)


class Disk:
    """What is written to files, and how. Some file systems refuse to switch, others to write.

    Attributes:
        direct: bytes of each write that went past the cache.
        usual: bytes of each other one.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, refuses: str = "") -> None:
        self.direct: list[int] = []
        self.usual: list[int] = []
        self._refuses = refuses
        self._switch, self._write, self._writev = fcntl.fcntl, os.write, os.writev
        monkeypatch.setattr(fcntl, "fcntl", self.switch)
        monkeypatch.setattr(os, "write", self.write)
        monkeypatch.setattr(os, "writev", self.writev)

    def switch(self, file: int, command: int, flags: int = 0) -> int:
        if command == fcntl.F_SETFL and flags & DIRECT and self._refuses == "switch":
            raise OSError(errno.EINVAL, "Invalid argument")
        return self._switch(file, command, flags)

    def write(self, file: int, data: memoryview) -> int:
        direct = bool(self._switch(file, fcntl.F_GETFL) & DIRECT)
        if direct and self._refuses == "write":
            raise OSError(errno.EINVAL, "Invalid argument")
        if direct and self._refuses == "half":
            self._refuses = ""
            data = data[: len(data) // 2]
        (self.direct if direct else self.usual).append(len(data))
        return self._write(file, data)

    def writev(self, file: int, buffers: list[memoryview]) -> int:
        assert not self._switch(file, fcntl.F_GETFL) & DIRECT
        written = self._writev(file, buffers)
        self.usual.append(written)
        return written


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


def opened(path: Path, size: int = 0) -> int:
    path.write_bytes(b"x" * size)
    file = os.open(path, os.O_WRONLY)
    os.lseek(file, size, os.SEEK_SET)
    return file


def parts(data: bytes, chance: random.Random, most: int) -> Iterator[list[bytes]]:
    at = 0
    while at < len(data):
        sizes = [chance.randrange(most) for _ in range(chance.randrange(1, 4))]
        yield [data[at + sum(sizes[:i]) : at + sum(sizes[: i + 1])] for i in range(len(sizes))]
        at += sum(sizes)


@pytest.mark.parametrize("refuses", ["", "switch", "write", "half"])
@pytest.mark.parametrize("start", [0, 1, 4096, 100_001])
@pytest.mark.parametrize("most", [400_000, 1_000_000, 5_000_000])
def test_what_is_written_is_what_was_given(
    path: Path, monkeypatch: pytest.MonkeyPatch, start: int, most: int, refuses: str
) -> None:
    chance = random.Random(f"{start} {most}")
    data = chance.randbytes(9 * MB + 12_345)
    file = opened(path, start)
    disk = Disk(monkeypatch, refuses)
    large = LargeFile(file, start)
    for buffers in parts(data, chance, most):
        large.write(buffers)
    large.finish()
    assert not fcntl.fcntl(file, fcntl.F_GETFL) & DIRECT
    os.close(file)
    assert path.read_bytes() == b"x" * start + data
    assert sum(disk.direct) + sum(disk.usual) == len(data)
    assert bool(disk.direct) == (refuses not in ("switch", "write") and offers_direct_writes(path.parent))
    if disk.direct:
        assert sum(disk.direct) > 6 * MB
        assert all(size % 4096 == 0 for size in disk.direct)


def test_what_is_written_next_goes_the_usual_way_also_after_whole_blocks(path: Path) -> None:
    file = opened(path)
    for size in (2 * MB, 10, 3 * MB, 300 * KB + 1):
        large = LargeFile(file, os.lseek(file, 0, os.SEEK_CUR))
        large.write([bytes([size % 251]) * size])
        large.finish()
        assert not fcntl.fcntl(file, fcntl.F_GETFL) & DIRECT
    os.close(file)
    assert path.read_bytes() == b"".join(bytes([size % 251]) * size for size in (2 * MB, 10, 3 * MB, 300 * KB + 1))


def test_what_comes_in_small_pieces_goes_the_usual_way(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = opened(path)
    disk = Disk(monkeypatch)
    large = LargeFile(file)
    for _ in range(100):
        large.write([b"a" * KB, memoryview(b"b" * KB)])
    large.finish()
    os.close(file)
    assert path.read_bytes() == (b"a" * KB + b"b" * KB) * 100
    assert disk.direct == []


def test_a_full_disk_is_an_error_as_ever(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    file = opened(path)
    large = LargeFile(file)
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        large.write([bytes(2 * MB)])
    os.close(file)


def test_a_system_without_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_files, "_DIRECT", 0)
    file = opened(path)
    disk = Disk(monkeypatch)
    large = LargeFile(file)
    large.write([b"a" * 3 * MB])
    large.finish()
    os.close(file)
    assert (path.read_bytes(), disk.direct) == (b"a" * 3 * MB, [])


def test_backups_and_restores_of_large_files_pass_the_cache_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = random.Random(1).randbytes(9 * MB + 1)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "large").write_bytes(data)
    manager = BackupManager(tmp_path / "repository", directories=[tmp_path / "source"])
    disk = Disk(monkeypatch)
    backup = manager.create_backup()
    offered = offers_direct_writes(tmp_path)
    assert sum(disk.direct) >= (8 * MB if offered else 0)
    disk.direct.clear()
    manager.restore_backup(backup.name, confirm=True)
    assert sum(disk.direct) == (9 * MB if offered else 0)
    assert (tmp_path / "source" / "large").read_bytes() == data


def test_a_large_file_with_holes_comes_back(tmp_path: Path) -> None:
    place = tmp_path / "source" / "sparse"
    place.parent.mkdir()
    with place.open("wb") as file:
        for at, size in ((0, 8 * MB), (20 * MB, 4096), (30 * MB, 5 * MB + 7)):
            file.seek(at)
            file.write(random.Random(at).randbytes(size))
    data, blocks = place.read_bytes(), place.stat().st_blocks
    manager = BackupManager(tmp_path / "repository", directories=[place.parent])
    backup = manager.create_backup()
    place.unlink()
    manager.restore_backup(backup.name, confirm=True)
    assert place.read_bytes() == data
    assert place.stat().st_blocks <= blocks + 64
