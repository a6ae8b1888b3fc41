"""What no writer of ours stores: hostile values, and how one field of a value is replaced by them."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from prefect_snapshots.backups.sources import Database
from prefect_snapshots.errors import SnapshotsError
from prefect_snapshots.testing import StoredDump

Field = tuple[str | int, ...]
MISSING = object()


def deep(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


VALUES: list[Any] = [
    *(MISSING, None, True, -1, 0, 2**31, 2**62, 2**64 - 1, 1e308, float("nan"), float("inf")),
    *("", "x\ny", "a\0b", "../../../etc/passwd", "/", "\u202e\x1b[2J", "x" * 10_000_000),
    *(b"", b"\0\xff", b"\xff" * 1000, [], {}, ["x"], {"x": 1}, [None], {"": None}, [[]], deep(300), deep(900)),
    msgspec.Raw(b"\xa3\xed\xa0\x80"),  # half of a pair of surrogates, which is no UTF-8
]


def fields_of(value: Any, at: Field = ()) -> Iterator[Field]:
    """Yield the place of every field, those of fields as well."""
    if at:
        yield at
    if isinstance(value, dict):
        for key in value:
            yield from fields_of(value[key], (*at, key))
    elif isinstance(value, list | tuple):
        for number in range(len(value)):
            yield from fields_of(value[number], (*at, number))


def replaced(value: Any, at: Field, new: Any) -> Any:
    """Return a copy of a value with one field replaced, or without it."""
    first, *rest = at
    items = value.items() if isinstance(value, dict) else enumerate(value)
    changed = [
        (key, replaced(each, tuple(rest), new) if rest and key == first else new if key == first else each)
        for key, each in items
        if not (key == first and not rest and new is MISSING)
    ]
    return dict(changed) if isinstance(value, dict) else [each for _, each in changed]


def assert_forged_dumps_harm_nobody(
    database: Database, kept: StoredDump, others: Callable[[], object], folder: Path, *, every: bool
) -> None:
    """Restore dumps that are forged in one field each: it works, or ends in an error of this package.

    Args:
        database: It is restored, and has the contents of its own dump afterwards.
        kept: Its dump.
        others: Returns all that is on its server and does not belong to it.
        folder: An empty folder. Programs in the forged values would write there.
        every: Whether every field gets every value, or one each.
    """
    before, found, count = others(), [], 0
    for what, forged in _forged(kept, folder / "evil", every):
        count += 1
        started = time.process_time()
        try:
            database.restore(forged)
        except SnapshotsError:
            pass
        except Exception as error:
            found.append(f"{what}: {error!r:.300}")
        if others() != before or list(folder.iterdir()):
            found.append(f"{what}: others were changed")
            before = others()
        if time.process_time() - started > _MOST_SECONDS:
            found.append(f"{what}: took too long")
    assert not found, "\n".join(found)
    assert count >= len(kept.files)
    database.restore(kept)
    assert database.counts() == kept.counts


_MOST_FIELDS = 12
"""Fields of one file that are forged, unless all are: those of lists are alike."""
_MOST_SECONDS = 5.0
"""CPU of this process for one restore of a few rows."""


def _forged(kept: StoredDump, file: Path, every: bool) -> Iterator[tuple[str, StoredDump]]:
    plain = [value for value in VALUES if not isinstance(value, bytes | msgspec.Raw) and value != "x" * 10_000_000]
    run = f"touch {file}"
    values = [
        *plain,
        "x" * 100_000,
        f"'\"; \\! {run}\n--",
        f"x\n\\! {run}\n",
        f"`{run}`$({run})",
        "a" * 64,
        "pg_x",
        "ü" * 33,
    ]
    turn = itertools.cycle(values)
    for path, data in kept.files.items():
        try:
            parsed = json.loads(data)
        except ValueError:
            cut = [
                MISSING,
                b"",
                b"\0\xff" * 1000,
                data[: len(data) // 2],
                data + b"x",
                data.replace(b"users", b"us/rs"),
            ]
            for number, replacing in enumerate(cut):
                files = {name: each for name, each in kept.files.items() if name != path}
                if isinstance(replacing, bytes):
                    files[path] = replacing
                yield f"{path}-{number}", StoredDump(files, kept.counts)
            continue
        fields = list(fields_of(parsed))
        for at in fields if every else fields[:: -(-len(fields) // _MOST_FIELDS)]:
            for value in values if every else [next(turn)]:
                text = json.dumps(replaced(parsed, at, value)).encode()
                yield f"{path} {at} {value!r:.60}", StoredDump({**kept.files, path: text}, kept.counts)
    wrong: list[Mapping[str, Any]] = [{}, {**kept.counts, "x": 1}]
    wrong += [{**kept.counts, name: number} for name in kept.counts for number in (-1, 2**62)]
    for counts in wrong if every else wrong[:1]:
        yield f"counts {counts}", StoredDump(kept.files, counts)
