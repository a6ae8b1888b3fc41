"""Write all snapshots of a manager to one file: a header, the values one after another, and a hash of everything."""

from __future__ import annotations

import os
import secrets
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3

from ..errors import DamagedObject, InvalidName, SnapshotsError, UnsupportedFormat
from ..private_files import create_file
from ..repository.descriptions import NOTHING, Description
from ..repository.names import check_name
from ..retention import RetentionPolicy
from ..values.pickling import dump, load
from .backends import Held
from .records import Ranking, Record
from .requests import SaveRequest

_MAGIC = b"PSFILE1\n"
_LENGTH = struct.Struct("<Q")
_HASH = 32
"""Length in bytes of the BLAKE3 hash at the end of a file."""


class _Saved(msgspec.Struct, array_like=True):
    body: dict[str, Any]
    manifest: int
    size: int


class _Header(msgspec.Struct):
    name: str
    max_snapshots: int | None
    rank_by: str | None
    mode: str
    cmp: bytes | None
    snapshots: list[_Saved]
    retention: dict[str, Any] | None = None
    description: str = ""
    tags: list[str] = []
    deepcopy_on_save: bool = True
    deepcopy_on_retrieve: bool = True


@dataclass(frozen=True, slots=True)
class Exported:
    """What a file says of the manager whose snapshots it has."""

    name: str
    max_snapshots: int | None
    retention: RetentionPolicy | None
    ranking: Ranking
    about: Description = NOTHING
    deepcopy_on_save: bool = True
    deepcopy_on_retrieve: bool = True


def write_file(
    path: Path,
    manager: Exported,
    records: Sequence[Record],
    encoded: Callable[[Record], tuple[bytes, bytes]],
) -> None:
    """Write a temporary file beside `path` and make it durable. Only then replace `path`."""
    contents = [encoded(record) for record in records]
    snapshots = [
        _Saved(SaveRequest.again(record).body, len(manifest), len(data))
        for record, (manifest, data) in zip(records, contents, strict=True)
    ]
    ranking, retention = manager.ranking, manager.retention
    header = msgspec.msgpack.encode(
        _Header(
            manager.name,
            manager.max_snapshots,
            ranking.rank_by,
            ranking.mode,
            b"".join(dump(ranking.cmp)) if ranking.cmp is not None else None,
            snapshots,
            None if retention is None else asdict(retention),
            manager.about.description,
            list(manager.about.tags),
            manager.deepcopy_on_save,
            manager.deepcopy_on_retrieve,
        )
    )
    parts = [_MAGIC, _LENGTH.pack(len(header)), header, *(part for content in contents for part in content)]
    hasher = blake3()
    temporary = path.with_name(f".tmp-{secrets.token_hex(8)}")
    try:
        with create_file(temporary) as stream:
            for part in parts:
                hasher.update(part)
                stream.write(part)
            stream.write(hasher.digest())
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Convert every error that a forged file may cause: its hash only shows damage.

    Raises:
        DamagedObject: The file is damaged.
    """
    try:
        yield
    except SnapshotsError:
        raise
    except Exception as error:  # the comparison function may run any code
        raise DamagedObject(str(path), f"it cannot be read ({type(error).__name__}: {error})") from error


def read_file(path: Path, allow_pickle: bool) -> tuple[Exported, Iterator[tuple[dict[str, Any], Held]]]:
    """Verify a file, and return what it says of its manager, and its snapshots (event body and value, in order).

    Call it within `reading`, and everything that uses what it returns.
    """
    data = memoryview(path.read_bytes())
    if data[: len(_MAGIC)] != _MAGIC:
        raise UnsupportedFormat(f"{path} is not a snapshot file that this version can read.")
    if len(data) < len(_MAGIC) + _LENGTH.size + _HASH or blake3(data[:-_HASH]).digest() != data[-_HASH:]:
        raise DamagedObject(str(path), "its content does not match its hash")
    start = len(_MAGIC) + _LENGTH.size
    (length,) = _LENGTH.unpack(data[len(_MAGIC) : start])
    header = msgspec.msgpack.decode(data[start : start + length], type=_Header)
    sizes = [size for saved in header.snapshots for size in (saved.manifest, saved.size)]
    if any(size < 0 for size in sizes) or start + length + sum(sizes) + _HASH != len(data):
        raise DamagedObject(str(path), "the sizes of its snapshots do not add up")
    for saved in header.snapshots:
        try:
            check_name(saved.body["id"], "snapshot id")
        except (KeyError, InvalidName) as error:
            raise DamagedObject(str(path), f"a snapshot in it has no valid id ({error})") from error
    what = f"The comparison function of {path} was"
    cmp = load(header.cmp, allow_pickle=allow_pickle, what=what, path="cmp") if header.cmp else None
    ranking = Ranking(header.rank_by, header.mode, cmp)  # type: ignore[arg-type]
    retention = None if header.retention is None else msgspec.convert(header.retention, RetentionPolicy)
    about = Description(header.description, tuple(header.tags))
    exported = Exported(
        header.name,
        header.max_snapshots,
        retention,
        ranking,
        about,
        header.deepcopy_on_save,
        header.deepcopy_on_retrieve,
    )
    return exported, _values(data, start + length, header.snapshots, allow_pickle)


def _values(
    data: memoryview, position: int, snapshots: Sequence[_Saved], allow_pickle: bool
) -> Iterator[tuple[dict[str, Any], Held]]:
    for saved in snapshots:
        body_at = position + saved.manifest
        manifest = bytes(data[position:body_at])
        position = body_at + saved.size
        yield saved.body, Held(manifest, data[body_at:position], allow_pickle)
