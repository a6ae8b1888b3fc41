"""Import the snapshots of Metis's backup tool: folders with `metadata.json`, or archives of such folders."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from ..backups.history import BackupHistory
from ..backups.making import BackupRequest, make
from ..errors import UNDECODABLE, SnapshotsError
from ..messages import printable
from ..repository.choosing import RepositoryLike, as_repository
from ..repository.names import check_name
from ..repository.origin import Git
from ..repository.progress import Progress
from ..trees.scanning import Directory
from .reports import UNREADABLE, ImportReport, NotImported, existing, moment, reason, watched_items

_METADATA, _ARCHIVE = "metadata.json", ".tar.gz"
_PIECE = 1 << 20
"""Bytes that are read together: more are not faster."""
_MOST_METADATA = 1 << 24
"""Bytes of a `metadata.json` that are read: a count for each of a hundred thousand collections fits in."""
_SMALL, _MOST_RATIO = 1 << 30, 100
"""Bytes that any archive may unpack to, and how many times its size a larger one. Dumps shrink to a tenth."""
_MOST_MEMBERS = 1_000_000
"""Files in an archive: each takes an inode, however small it is."""


def import_metis(
    path: str | os.PathLike[str],
    repository: RepositoryLike | None = None,
    *,
    name: str = "metis",
    progress: Progress | None = None,
) -> ImportReport:
    """Import the snapshots of Metis's backup tool as backups.

    Names, times, descriptions, permanence and the state of git are kept. A time without a zone is one of this machine.
    Each folder of a snapshot, `database` and `bulk_store`, becomes a part with the files that it has.
    `restore_backup` with `to={"database": FOLDER}` brings back the dump of ArangoDB for `arangorestore`.

    Args:
        path: The folder with the snapshots, or one snapshot. Archives (`.tar.gz`) are unpacked on the way.
        repository: Where to store the backups. A `Repository`, a URL, a path or a block.
        name: The name of the backups.
        progress: Called with a label, how many snapshots were looked at, and how many there are.

    Returns:
        The names of the snapshots.

    Raises:
        InvalidArgument: There is no such folder.

    Example:
        >>> import json, tempfile, pathlib
        >>> old = pathlib.Path(tempfile.mkdtemp()) / "metis_20251007_143022_baseline"
        >>> (old / "database").mkdir(parents=True)
        >>> _ = (old / "database/papers.data.json").write_text("{}")
        >>> _ = (old / "metadata.json").write_text(json.dumps({
        ...     "snapshot_name": old.name, "timestamp": "2025-10-07T14:30:22", "description": "Baseline",
        ...     "permanent": True,
        ... }))
        >>> import_metis(old.parent, "memory://example-metis").imported
        ['metis_20251007_143022_baseline']
    """
    root = existing(path, "folder of Metis")
    folders = (
        [root] if (root / _METADATA).is_file() else [each for each in root.iterdir() if (each / _METADATA).is_file()]
    )
    history = BackupHistory(as_repository(repository), name)
    report = ImportReport()
    found = sorted(((_read(each), each) for each in folders), key=lambda pair: _order(*pair))
    for metadata, folder in watched_items("importing", found, progress):
        label = str(metadata.get("snapshot_name") or folder.name)
        try:
            if any((each.run or {}).get("snapshot") == label for each in history.backups()):
                report.present.append(label)
                continue
            with _unpacked(folder) as files:
                made = make(history, _request(label, metadata, files), lambda _: None)
        except (SnapshotsError, NotImported, OSError, tarfile.TarError, *UNREADABLE) as error:
            report.left_out.append(printable(f"{label} was not imported: {reason(error)}."))
            continue
        report.imported.append(label)
        if made.name != label:
            report.left_out.append(f"{label} is called {made.name} here.")
    return report


def _read(folder: Path) -> Mapping[str, Any]:
    """Return the metadata of a snapshot. Empty if it cannot be read."""
    try:
        with (folder / _METADATA).open("rb") as stream:
            found = json.loads(stream.read(_MOST_METADATA))
    except (*UNDECODABLE, OSError):
        return {}
    return found if isinstance(found, dict) else {}


def _order(metadata: Mapping[str, Any], folder: Path) -> tuple[str, str]:
    return str(metadata.get("timestamp")), folder.name


def _request(label: str, metadata: Mapping[str, Any], files: Path) -> BackupRequest:
    created = moment(metadata.get("timestamp"), local=True)
    if created is None:
        raise NotImported(f"its {_METADATA} cannot be read, or has no time")
    parts = sorted(each for each in files.iterdir() if each.is_dir() and not each.is_symlink())
    if not parts:
        raise NotImported("it has no files")
    commit, branch = metadata.get("git_commit"), metadata.get("git_branch")
    counts = metadata.get("collections")
    return BackupRequest(
        sources=[Directory(each, name=each.name, excludes=()) for each in parts],
        name=check_name(label, "backup name"),
        description=str(metadata.get("description") or ""),
        pinned=metadata.get("permanent") is True,
        run={"imported_from": "metis", "snapshot": label, "collections": counts if isinstance(counts, dict) else {}},
        created_at=created,
        git=Git(commit=str(commit), branch=None if branch is None else str(branch), dirty=False) if commit else None,
    )


@contextmanager
def _unpacked(folder: Path) -> Iterator[Path]:
    """Yield the folder with the files of a snapshot, which are in an archive beside it after a week."""
    archive = folder.with_name(folder.name + _ARCHIVE)
    if not archive.is_file() or any(each.is_dir() for each in folder.iterdir()):
        yield folder
        return
    with tempfile.TemporaryDirectory() as place:
        with _BoundedArchive(archive, Path(place)) as unzipped, tarfile.open(fileobj=unzipped, mode="r:") as packed:
            _unpack(packed, unzipped, Path(place))
            while unzipped.read(_PIECE):
                pass  # the checksum is at the end
        inside = Path(place)
        [only, *others] = sorted(inside.iterdir()) or [inside]
        yield only if not others and (only / _METADATA).is_file() else inside


def _unpack(packed: tarfile.TarFile, unzipped: _BoundedArchive, place: Path) -> None:
    """Unpack files and folders, and nothing that leads out of a place.

    By hand, because the filters of `tarfile` are not in Python 3.11.2.
    """
    for member in packed:
        unzipped.count(member)
        inside = PurePosixPath(member.name)
        content = packed.extractfile(member) if member.isfile() else None
        if inside.is_absolute() or ".." in inside.parts or not (content or member.isdir()):
            raise NotImported(
                f"its archive holds {printable(member.name)}, which leads out of it or is neither a file nor a folder. "
                "Unpack it yourself, look at it, and delete the archive"
            )
        target = place / inside
        if content is None:
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        # "x": no member is written twice, or over anything.
        with target.open("xb") as written, content:
            shutil.copyfileobj(content, written, _PIECE)
        target.chmod(0o600 | (member.mode & 0o755))
        os.utime(target, (member.mtime, member.mtime))


class _BoundedArchive(gzip.GzipFile):
    """An archive that may be a bomb: small, and huge when it is unpacked."""

    def __init__(self, archive: Path, place: Path) -> None:
        super().__init__(archive)
        self._members = 0
        self._left = min(shutil.disk_usage(place).free // 2, max(_SMALL, _MOST_RATIO * archive.stat().st_size))

    def read(self, size: int | None = -1) -> bytes:
        """Read bytes. The headers of a member are read at once, and may claim any size."""
        if size is None or not 0 <= size <= _PIECE:
            raise NotImported("its archive has a header that is too large")
        data = super().read(size)
        self._take(len(data))
        return data

    def count(self, member: tarfile.TarInfo) -> None:
        """Count a member of the archive."""
        self._members += 1
        if self._members > _MOST_MEMBERS:
            raise NotImported(f"its archive has more than {_MOST_MEMBERS:,} files")
        # A sparse file is larger than its bytes in the archive.
        if member.sparse is not None:
            self._take(member.size)

    def _take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise NotImported(
                "its archive is too large when it is unpacked: for the disk, or for an archive of its size. Unpack it "
                "yourself, and delete it"
            )
