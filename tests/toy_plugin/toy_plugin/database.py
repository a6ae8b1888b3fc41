"""A database that is one JSON file: `{"table": [row, ...]}`. It uses public names of prefect-snapshots alone."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import quote, unquote

from prefect_snapshots.backups.sources import Database, DatabaseDescription, Dump, DumpFile, DumpReader, Password
from prefect_snapshots.errors import BackupFailed, InvalidArgument, RestoreFailed


@dataclass(frozen=True)
class ToyDatabase:
    """A toy database."""

    path: str

    schemes: ClassVar[tuple[str, ...]] = ("toy",)
    suffixes: ClassVar[tuple[str, ...]] = (".toy",)
    kind: ClassVar[str] = "toy"
    swaps: ClassVar[bool] = True
    description: ClassVar[DatabaseDescription] = DatabaseDescription(
        "Toy", "`toy:///path`", "nothing", "one moment", "renamed into place", "nothing"
    )

    @classmethod
    def from_url(cls, url: str, password: Password = None) -> Self:
        return cls(os.path.abspath(unquote(url.removeprefix("toy:///").partition("?")[0])))

    @property
    def name(self) -> str:
        return f"toy:///{quote(self.path)}"

    def check(self) -> list[str]:
        return [f"{len(self._read())} tables"]

    @contextlib.contextmanager
    def dump(self) -> Iterator[Dump]:
        tables = self._read()
        files = [DumpFile(name, iter([json.dumps(rows).encode()])) for name, rows in tables.items()]
        yield Dump(files, {name: len(rows) for name, rows in tables.items()})

    def counts(self) -> dict[str, int]:
        return {name: len(rows) for name, rows in self._read().items()}

    def check_restorable(self) -> Sequence[str]:
        return []

    def checksums(self, dump: Iterable[DumpFile]) -> dict[str, str]:
        return {file.path: hashlib.sha256(b"".join(file.pieces)).hexdigest() for file in dump}

    def restore(self, dump: DumpReader, only: Sequence[str] = ()) -> None:
        if unknown := set(only) - set(dump.paths):
            raise InvalidArgument(f"The backup holds no table {', '.join(sorted(unknown))}.")
        try:
            stored = {name: json.loads(b"".join(dump.open(name))) for name in only or dump.paths}
        except BackupFailed as error:
            raise RestoreFailed(f"{self.name} was not restored and is unchanged: {error}") from error
        self.write({**self._read(), **stored} if only else stored)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Database]:
        with tempfile.TemporaryDirectory() as folder:
            other = ToyDatabase(f"{folder}/scratch.toy")
            other.write({})
            yield other

    def write(self, tables: dict[str, list[Any]]) -> None:
        """Replace everything."""
        beside = Path(f"{self.path}.new")
        beside.write_text(json.dumps(tables))
        beside.replace(self.path)

    def _read(self) -> dict[str, list[Any]]:
        try:
            found: dict[str, list[Any]] = json.loads(Path(self.path).read_bytes())
        except OSError as error:
            raise BackupFailed(f"{self.path} cannot be read: {error}") from error
        return found
