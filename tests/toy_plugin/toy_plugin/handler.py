"""A handler of rows of text, as a CSV file. It uses public names of prefect-snapshots alone."""

from __future__ import annotations

from prefect_snapshots.artifacts import FileHandler


def _dump(rows: list[list[str]], allow_pickle: bool, separator: str = ",") -> list[bytes]:
    return ["\n".join(separator.join(row) for row in rows).encode()]


def _load(data: memoryview, allow_pickle: bool, separator: str = ",") -> list[list[str]]:
    return [line.split(separator) for line in str(data, "utf-8").splitlines()]


ROWS = FileHandler("csv", _dump, _load)
