"""A dump of what has changed becomes a whole backup: its other bytes are those of chunks that were stored before."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pytest
from flat_database import Flat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefect_snapshots import BackupManager, Repository
from prefect_snapshots.backups.sources import ChangedFile, Dump, DumpFile, DumpReader, DumpSince
from prefect_snapshots.errors import BackupFailed

BLOCK = 8192
NOISE = random.Random(0).randbytes(12 << 20)


class Blocks(Flat):
    """A database of files of blocks, which remembers those that have changed since its last dump."""

    kind: ClassVar[str] = "blocks"

    def __init__(self) -> None:
        super().__init__(Path("/blocks"))
        self.files: dict[str, bytearray] = {}
        self.changed: dict[str, set[int]] = {}
        self.kept: dict[str, int] = {}
        self.replaced: set[str] = set()
        self.sent = 0

    def write(self, path: str, position: int, data: bytes) -> None:
        file = self.files[path]
        file.extend(bytes(max(0, position + len(data) - len(file))))
        file[position : position + len(data)] = data
        self.changed.setdefault(path, set()).update(
            range(position // BLOCK, (position + len(data) + BLOCK - 1) // BLOCK)
        )

    def truncate(self, path: str, size: int) -> None:
        del self.files[path][size:]
        self.kept[path] = min(size, self.kept.get(path, size))

    def counts(self) -> dict[str, int]:
        return {}

    @contextmanager
    def dump(self) -> Iterator[Dump]:
        self.changed, self.kept = {path: set() for path in self.files}, {}
        yield Dump([DumpFile(path, iter([bytes(data)])) for path, data in sorted(self.files.items())])

    @contextmanager
    def dump_since(self, earlier: DumpReader) -> Iterator[DumpSince]:
        changed, kept, self.changed, self.kept = self.changed, self.kept, {path: set() for path in self.files}, {}
        replaced, self.replaced = self.replaced, set()

        def blocks(path: str) -> Iterator[tuple[int, bytes]]:
            data = self.files[path]
            for number in sorted(changed[path]):
                if number * BLOCK < len(data):
                    new = bytes(data[number * BLOCK : (number + 1) * BLOCK])
                    self.sent += len(new)
                    yield number * BLOCK, new

        def files() -> Iterator[DumpFile | ChangedFile]:
            for path, data in sorted(self.files.items()):
                if path in replaced or path not in changed or path not in earlier.paths:
                    yield DumpFile(path, iter([bytes(data)]))
                else:
                    yield ChangedFile(path, len(data), kept.get(path, len(data)), blocks(path))

        yield DumpSince(files())


def stored(manager: BackupManager, name: str = "latest") -> dict[str, bytes]:
    (part,) = manager.get_backup(name).parts
    files = [file.path for file in manager.list_files(name) if not file.path.endswith("folder")]
    return {path: b"".join(manager.open_file(name, part.name, path)) for path in files}


CHANGE = st.tuples(
    st.sampled_from(["a", "folder/b", "c"]),
    st.sampled_from(["write", "truncate", "grow", "new"]),
    st.integers(0, (6 << 20) - 1),
    st.integers(1, 3 << 20),
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(rounds=st.lists(st.lists(CHANGE, max_size=4), min_size=1, max_size=3))
def test_whatever_changes_a_backup_has_all_bytes(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[list[tuple[str, str, int, int]]]
) -> None:
    database = Blocks()
    database.files = {"a": bytearray(NOISE[: 5 << 20]), "folder/b": bytearray(NOISE[:100_000]), "c": bytearray()}
    manager = BackupManager(Repository(tmp_path_factory.mktemp("changes")), databases=[database])
    manager.create_backup()
    for number, changes in enumerate(rounds):
        for path, what, position, size in changes:
            if what == "new":
                database.files[path] = bytearray(NOISE[size : size + position])
                database.replaced.add(path)
            elif what == "truncate":
                database.truncate(path, min(position, len(database.files[path])) // BLOCK * BLOCK)
            elif what == "grow":
                database.write(path, len(database.files[path]) + size // 9 // BLOCK * BLOCK, NOISE[:position][:BLOCK])
            else:
                data = random.Random(position + number).randbytes(size // 10)
                database.write(path, min(position, len(database.files[path])), data)
        backup = manager.create_backup()
        assert stored(manager) == {path: bytes(data) for path, data in database.files.items()}
        part = manager.get_backup(backup.name).parts[0]
        assert part.size == sum(map(len, database.files.values()))


def test_only_what_has_changed_is_read_and_no_backup_needs_another(tmp_path: Path) -> None:
    database = Blocks()
    database.files = {"a": bytearray(NOISE), "b": bytearray(NOISE[::-1])}
    repository = Repository(tmp_path)
    manager = BackupManager(repository, databases=[database])
    first = manager.create_backup()
    for number in range(10):
        database.write("a", number * BLOCK, NOISE[:BLOCK])
    second = manager.create_backup()
    assert database.sent == 10 * BLOCK
    assert second.written < 20 * BLOCK
    database.write("b", 0, b"changed")
    third = manager.create_backup()
    expected = {path: bytes(data) for path, data in database.files.items()}
    for name in (first.name, second.name):
        manager.delete_backup(name)
    repository.prune(grace=0)
    assert repository.check(read_data=True).ok
    assert stored(manager, third.name) == expected


def test_a_damaged_chunk_makes_the_next_backup_read_everything(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = Blocks()
    database.files = {"a": bytearray(NOISE)}
    manager = BackupManager(Repository(tmp_path), databases=[database])
    manager.create_backup()
    database.write("a", 3 << 20, b"changed")
    for pack in tmp_path.glob("packs/**/*"):
        if pack.is_file():
            pack.chmod(0o600)
            data = bytearray(pack.read_bytes())
            data[len(data) // 4 : len(data) // 4 + (6 << 20)] = bytes(6 << 20)
            pack.write_bytes(data[: pack.stat().st_size])
    other = BackupManager(Repository(tmp_path), databases=[database])
    other.create_backup()
    assert "Everything is read again" in caplog.text
    assert database.changed == {"a": set()}


def test_changes_of_an_unknown_file_are_refused(tmp_path: Path) -> None:
    class Forgetful(Blocks):
        @contextmanager
        def dump_since(self, earlier: DumpReader) -> Iterator[DumpSince]:
            yield DumpSince([ChangedFile("x", BLOCK, BLOCK, iter([]))])

    database = Forgetful()
    database.files = {"a": bytearray(NOISE[:100_000])}
    manager = BackupManager(Repository(tmp_path), databases=[database])
    manager.create_backup()
    with pytest.raises(BackupFailed, match="'x', which the last backup does not have"):
        manager.create_backup()
    assert len(manager.list_backups()) == 1
