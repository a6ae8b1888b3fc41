"""Write a backup to a plain tar file, which any program can read: `metadata.json`, and a folder for each part."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import zstandard

from ..errors import InvalidArgument
from ..private_files import create_file
from ..trees.entries import Entry
from .archive import Archive, PartReader
from .records import Backup

METADATA = "metadata.json"

_TYPES = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}
_BLOCK = tarfile.BLOCKSIZE


def write_tar(path: Path, backup: Backup, content: Archive, passed: Callable[[int], None]) -> Path:
    """Write a backup to a tar file: see `BackupManager.export`.

    Args:
        path: The file to create. With the suffix `.zst` it is compressed.
        backup: The record of the backup.
        content: The data of the backup.
        passed: Called with the number of bytes just written.

    Returns:
        The path.
    """
    if os.path.lexists(path):
        raise InvalidArgument(f"{path} already exists, and was not changed. Choose another path.")
    folders = folder_names(backup)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with create_file(beside) as file:
            with _compressed(file) if path.suffix == ".zst" else contextlib.nullcontext(file) as out:
                _write_metadata(out, backup, folders)
                for part in content.parts:
                    _write_part(out, folders[part.name], part, passed)
                out.write(bytes(2 * _BLOCK))
            file.flush()
            os.fsync(file.fileno())
        os.rename(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return path


def folder_names(backup: Backup) -> dict[str, str]:
    """Return the name of a folder for each part: the part's name without special characters.

    A number is appended if that is not unique."""
    folders: dict[str, str] = {}
    for name in backup.part_names:
        plain = re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII).strip("._")[-100:] or "part"
        number, folder = 1, plain
        while folder in folders.values():
            number += 1
            folder = f"{plain}_{number}"
        folders[name] = folder
    return folders


@contextlib.contextmanager
def _compressed(file: IO[bytes]) -> Iterator[IO[bytes]]:
    with zstandard.ZstdCompressor(threads=-1).stream_writer(file, closefd=False) as out:
        yield out


def _write_metadata(out: IO[bytes], backup: Backup, folders: dict[str, str]) -> None:
    plain = backup.to_dict()
    plain["parts"] = [{"folder": folders[part["name"]], **part} for part in plain["parts"]]
    data = (json.dumps(plain, indent=2, ensure_ascii=False) + "\n").encode()
    info = tarfile.TarInfo(METADATA)
    info.size, info.mtime = len(data), int(backup.created_at.timestamp())
    _write_header(out, info)
    out.write(data + _padding(len(data)))


def _write_part(out: IO[bytes], folder: str, part: PartReader, passed: Callable[[int], None]) -> None:
    root = part.part.root
    if root is None:
        info = tarfile.TarInfo(folder)
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        _write_header(out, info)
    else:
        _write_header(out, _info(folder, folder, root))
    for entry in part.entries:
        info = _info(folder, f"{folder}/{entry.path}", entry)
        _write_header(out, info)
        if info.type == tarfile.REGTYPE:
            for piece in part.open(entry.path):
                out.write(piece)
                passed(len(piece))
            out.write(_padding(info.size))


def _info(folder: str, path: str, entry: Entry) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.type = _TYPES[stat.S_IFMT(entry.mode)]
    info.mode = stat.S_IMODE(entry.mode)
    info.uid, info.gid = entry.uid, entry.gid
    info.mtime = entry.mtime // 10**9
    headers = {f"SCHILY.xattr.{_text(name)}": _text(value) for name, value in (entry.xattrs or {}).items()}
    if entry.mtime % 10**9:
        # The sign is that of the whole number: half a second before 1970 is -0.5, and not -1.5.
        seconds, rest = divmod(abs(entry.mtime), 10**9)
        headers["mtime"] = f"{'-' * (entry.mtime < 0)}{seconds}.{rest:09d}"
    info.pax_headers = headers
    if entry.link:
        info.linkname = _text(entry.link)
        if entry.is_file:
            info.type, info.linkname = tarfile.LNKTYPE, f"{folder}/{info.linkname}"
    elif entry.is_file:
        info.size = entry.size
    return info


def _write_header(out: IO[bytes], info: tarfile.TarInfo) -> None:
    out.write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
