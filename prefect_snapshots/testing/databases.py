"""The tests that every database for backups must pass."""

from __future__ import annotations

import contextlib
import pickle
import shutil
import tempfile
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ..backups.databases import drivers, open_database
from ..backups.sources import Database, DatabaseDriver, DumpFile
from ..errors import BackupFailed, InvalidArgument, RestoreFailed

_PIECE = 1 << 16
"""Size of a piece of a dump in bytes: small, so that dumps have several pieces."""


@dataclass
class StoredDump:
    """A dump in memory, which can be read like a dump in a backup.

    Attributes:
        files: The content of each file, by its path in the dump.
        counts: Rows or documents per table or collection.
        torn: Files with this suffix fail in the middle when they are read, as with a damaged repository.
    """

    files: dict[str, bytes]
    counts: Mapping[str, int] = field(default_factory=dict)
    torn: str | None = None

    @classmethod
    def of(cls, database: Database) -> StoredDump:
        """Dump a database."""
        with database.dump() as dump:
            files = {file.path: b"".join(file.pieces) for file in dump.files}
            return cls(files, dict(dump.counts))

    @property
    def paths(self) -> Sequence[str]:
        """See `DumpReader.paths`."""
        return list(self.files)

    def open(self, path: str) -> Iterator[memoryview]:
        """See `DumpReader.open`."""
        if path not in self.files:
            raise InvalidArgument(f"There is no file {path!r} in the dump.")
        data = memoryview(self.files[path])
        torn = self.torn is not None and path.endswith(self.torn)
        for start in range(0, len(data) // 2 if torn else len(data), _PIECE):
            yield data[start : start + _PIECE]
        if torn:
            raise BackupFailed("A chunk is missing.")

    def extract(self, folder: Path) -> None:
        """See `DumpReader.extract`."""
        for path in self.files:
            (folder / path).write_bytes(b"".join(self.open(path)))


class DatabaseContract:
    """Tests that every kind of database must pass. Inherit this class, and provide a database of your kind.

    Example:
        ```python
        class TestMyDatabase(DatabaseContract):
            @pytest.fixture
            def database(self, tmp_path):
                ...  # create it, with a table that has rows
                return MyDatabase(url)

            def change(self, database):
                ...  # change one value; the number of rows stays

            def grow(self, database):
                ...  # add a row to one table
        ```
    """

    partial = True
    """Whether single tables can be restored."""

    @pytest.fixture
    @abstractmethod
    def database(self) -> DatabaseDriver:
        """A database with at least one table that has rows."""

    @abstractmethod
    def change(self, database: DatabaseDriver) -> None:
        """Change one value without changing the number of rows."""

    @abstractmethod
    def grow(self, database: DatabaseDriver) -> None:
        """Add a row to a table."""

    @pytest.fixture(autouse=True)
    def temporary(self, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
        """The folder for temporary files. Its path is short enough for sockets."""
        tmp_path_factory.getbasetemp()  # pytest's own folders stay where they are
        folder = Path(tempfile.mkdtemp(prefix="contract-"))
        folder.chmod(0o711)  # servers of other users may have theirs in it
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        yield folder
        shutil.rmtree(folder)

    def test_it_is_found_by_its_name(self, database: DatabaseDriver) -> None:
        again = open_database(database.name)
        assert type(again) is type(database)
        assert again.name == database.name
        assert type(database) in drivers()
        assert pickle.loads(pickle.dumps(database)).name == database.name

    def test_no_other_database_has_its_scheme(self, database: DatabaseDriver) -> None:
        others = [driver for driver in drivers() if driver is not type(database)]
        assert database.schemes
        assert set(database.schemes).isdisjoint(scheme for other in others for scheme in other.schemes)
        assert set(database.suffixes).isdisjoint(suffix for other in others for suffix in other.suffixes)
        assert database.kind not in {other.kind for other in others}

    def test_it_says_what_it_found(self, database: DatabaseDriver) -> None:
        assert all(database.check())

    def test_a_dump_counts_what_is_there(self, database: DatabaseDriver) -> None:
        kept = StoredDump.of(database)
        assert kept.counts == database.counts()
        assert any(kept.counts.values())

    def test_a_restore_brings_back_what_was_dumped(self, database: DatabaseDriver) -> None:
        kept, before = StoredDump.of(database), _checksums(database)
        self.change(database)
        self.grow(database)
        assert database.counts() != kept.counts
        database.restore(kept)
        assert database.counts() == kept.counts
        assert _checksums(database) == before

    def test_a_changed_value_has_another_checksum(self, database: DatabaseDriver) -> None:
        before, counts = _checksums(database), database.counts()
        self.change(database)
        assert database.counts() == counts
        assert not before or _checksums(database) != before

    def test_a_scratch_database_is_another_one_and_gone_afterwards(self, database: DatabaseDriver) -> None:
        kept = StoredDump.of(database)
        self.grow(database)
        after = database.counts()
        with database.scratch() as scratch:
            assert scratch.name != database.name
            scratch.restore(kept)
            assert scratch.counts() == kept.counts
            if before := database.checksums(_files(kept)):
                assert _checksums(scratch) == before
        assert database.counts() == after
        with contextlib.suppress(BackupFailed):
            assert scratch.counts() == {}  # some servers have every database, those that were never made as empty ones

    def test_a_restore_that_fails_keeps_what_it_promises(self, database: DatabaseDriver) -> None:
        kept = StoredDump.of(database)
        self.grow(database)
        before = database.counts(), _checksums(database)
        last = max(kept.files, key=lambda path: len(kept.files[path]))
        with pytest.raises(RestoreFailed, match="is unchanged" if database.swaps else "not restored"):
            database.restore(StoredDump(kept.files, kept.counts, torn=last))
        if database.swaps:
            assert (database.counts(), _checksums(database)) == before
        # Whatever the failed restore left never stands in the way.
        database.restore(kept)
        assert database.counts() == kept.counts

    def test_a_table_that_is_not_in_the_backup_is_refused(self, database: DatabaseDriver) -> None:
        kept, before = StoredDump.of(database), database.counts()
        with pytest.raises(InvalidArgument):
            database.restore(kept, only=["no such table"])
        assert database.counts() == before

    def test_a_table_comes_back_alone(self, database: DatabaseDriver) -> None:
        kept = StoredDump.of(database)
        self.grow(database)
        (table,) = [name for name, rows in database.counts().items() if rows != kept.counts.get(name)]
        if self.partial:
            database.restore(kept, only=[table])
            assert database.counts() == kept.counts
        else:
            with pytest.raises(InvalidArgument):
                database.restore(kept, only=[table])

    def test_a_dump_that_is_not_taken_leaves_nothing(self, database: DatabaseDriver, temporary: Path) -> None:
        before = _files_in(temporary)
        with database.dump() as dump:
            for file in dump.files:
                next(iter(file.pieces), b"")
                break
        assert _files_in(temporary) == before

    def test_nothing_stays_in_the_temporary_folder(self, database: DatabaseDriver, temporary: Path) -> None:
        before = _files_in(temporary)
        kept = StoredDump.of(database)
        with database.scratch() as scratch:
            scratch.restore(kept)
        database.restore(kept)
        assert _files_in(temporary) == before


def _files(kept: StoredDump) -> Iterator[DumpFile]:
    return (DumpFile(path, map(bytes, kept.open(path))) for path in kept.paths)


def _checksums(database: Database) -> dict[str, str]:
    with database.dump() as dump:
        return database.checksums(dump.files)


def _files_in(folder: Path) -> set[Path]:
    """What lies in a folder, without what servers keep in theirs."""
    return {path for path in folder.glob("prefect-snapshots*/**/*") if not path.is_dir()}
