"""Import the folder of a `FileSystemArtifactManager` of scaffold: collection, artifact, version, files."""

from __future__ import annotations

import os
import re
from datetime import datetime
from functools import partial
from pathlib import Path

from ..artifacts import Artifact, ArtifactRegistry, ArtifactVersion
from ..repository.choosing import RepositoryLike, as_repository
from ..repository.progress import Progress
from .reports import ImportReport, existing, moment
from .versions import ForeignVersion, import_versions

_VERSION = re.compile(r"v(0|[1-9][0-9]*)")


def import_scaffold(
    path: str | os.PathLike[str],
    repository: RepositoryLike | None = None,
    *,
    collection: str | None = None,
    progress: Progress | None = None,
) -> ImportReport:
    """Import all versions of the artifacts in a folder of scaffold's `FileSystemArtifactManager`.

    Collections, names and the order of versions are kept. The time of a version is that of its newest file, because
    scaffold stores no other.

    Args:
        path: The folder. If it is in a bucket, download it first.
        repository: Where to store the artifacts. A `Repository`, a URL, a path or a block.
        collection: Import only this collection. Default: all.
        progress: Called with a label, how many versions were looked at, and how many there are.

    Returns:
        The versions, such as "models/classifier:v0".

    Raises:
        InvalidArgument: There is no such folder.

    Example:
        >>> import tempfile, pathlib
        >>> old = pathlib.Path(tempfile.mkdtemp())
        >>> (old / "models/classifier/v0").mkdir(parents=True)
        >>> _ = (old / "models/classifier/v0/weights.txt").write_text("one")
        >>> import_scaffold(old, "memory://example-scaffold").imported
        ['models/classifier:v0']
    """
    root = existing(path, "folder of scaffold")
    versions = [
        ForeignVersion(each.name, artifact.name, version.name, _time(version), partial(_log, folder=version))
        for each in _folders(root)
        if collection in (None, each.name)
        for artifact in _folders(each)
        for version in sorted(filter(_is_version, _folders(artifact)), key=lambda folder: int(folder.name[1:]))
    ]
    return import_versions(ArtifactRegistry(as_repository(repository)), versions, "scaffold", progress)


def _log(artifact: Artifact, folder: Path) -> ArtifactVersion:
    return artifact.log_files(folder)


def _folders(root: Path) -> list[Path]:
    return sorted(each for each in root.iterdir() if each.is_dir() and not each.is_symlink())


def _is_version(folder: Path) -> bool:
    return _VERSION.fullmatch(folder.name) is not None


def _time(folder: Path) -> datetime | None:
    times = [each.lstat().st_mtime for each in folder.rglob("*") if not each.is_dir()]
    return moment(max(times)) if times else None
