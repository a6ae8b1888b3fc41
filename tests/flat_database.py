"""A database that is one file of lines, can only be changed in place, and may fail."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from prefect_snapshots.backups.sources import Database, Dump, DumpFile, DumpReader
from prefect_snapshots.errors import BackupFailed, RestoreFailed


class Flat:
    """See above. `fail_after` lines a dump fails; the first restore then fails, too, and leaves half of a state."""

    kind: ClassVar[str] = "flat"
    swaps: ClassVar[bool] = False

    def __init__(self, path: Path, *, fail_after: int | None = None) -> None:
        self.path = path
        self.fail_after = fail_after
        self.restores = 0

    @property
    def name(self) -> str:
        return f"flat://{self.path}"

    def check(self) -> list[str]:
        return ["flat 1"]

    @contextmanager
    def dump(self) -> Iterator[Dump]:
        def pieces() -> Iterator[bytes]:
            for number, line in enumerate(self.path.read_bytes().splitlines(keepends=True)):
                if number == self.fail_after:
                    raise BackupFailed(f"{self.name}: the server went away")
                yield line

        yield Dump([DumpFile("lines", pieces())], self.counts())

    def counts(self) -> dict[str, int]:
        return {"lines": len(self.path.read_bytes().splitlines())}

    def check_restorable(self) -> Sequence[str]:
        return []

    def checksums(self, dump: Iterable[DumpFile]) -> dict[str, str]:
        return {}

    def restore(self, dump: DumpReader, only: Sequence[str] = ()) -> None:
        self.restores += 1
        self.path.write_bytes(b"half")
        if self.restores == 1 and self.fail_after is not None:
            raise RestoreFailed(f"{self.name}: the server went away")
        self.path.write_bytes(b"".join(map(bytes, dump.open("lines"))))

    @contextmanager
    def scratch(self) -> Iterator[Database]:
        path = self.path.with_name("scratch")
        path.write_bytes(b"")
        yield Flat(path)
        path.unlink()
