"""Import what lazyscribe wrote: `repository.json` or `project.json`, and the files beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..artifacts import Artifact, ArtifactRegistry, ArtifactVersion
from ..artifacts.handlers import find_handler
from ..errors import HandlerNotFound, InvalidArgument, SnapshotsError
from ..repository.choosing import RepositoryLike, as_repository
from ..repository.progress import Progress
from ..values import MemoryBody
from ..values.pickling import require_pickle
from .reports import UNREADABLE, ImportReport, NotImported, existing, moment, reason, within
from .versions import ForeignVersion, import_versions

_PICKLES = ("pickle", "joblib")


def import_lazyscribe(
    path: str | os.PathLike[str],
    repository: RepositoryLike | None = None,
    *,
    collection: str = "default",
    allow_pickle: bool = False,
    progress: Progress | None = None,
) -> ImportReport:
    """Import all artifacts of a repository or project of lazyscribe.

    Versions keep their order, times and expiry. The artifacts of an experiment go into a collection that is called like
    it, with its parameters, metrics and tags as metadata. A file of a handler that is not installed is logged as a
    file.

    Args:
        path: The file `repository.json` or `project.json`.
        repository: Where to store the artifacts. A `Repository`, a URL, a path or a block.
        collection: The collection for the artifacts of a `repository.json`.
        allow_pickle: Whether to import artifacts of the handlers "pickle" and "joblib". Reading them runs code of
            whoever wrote them. Without it, they are left out.
        progress: Called with a label, how many versions were looked at, and how many there are.

    Returns:
        The versions, such as "default/features:v0".

    Raises:
        InvalidArgument: There is no such file, or it is no file of lazyscribe.

    Example:
        >>> import json, tempfile, pathlib
        >>> old = pathlib.Path(tempfile.mkdtemp())
        >>> row = {"name": "x", "fname": "x.json", "handler": "json", "version": 0, "created_at": "2026-01-31T12:00:00"}
        >>> _ = (old / "repository.json").write_text(json.dumps([row]))
        >>> (old / "x").mkdir()
        >>> _ = (old / "x" / "x.json").write_text("[1, 2]")
        >>> import_lazyscribe(old / "repository.json", "memory://example-lazyscribe").imported
        ['default/x:v0']
        >>> ArtifactRegistry("memory://example-lazyscribe").get_artifact("x").source["created_at"]
        '2026-01-31T12:00:00+00:00'
    """
    file = existing(path, "file of lazyscribe")
    try:
        rows = json.loads(file.read_bytes())
        versions = [version for row in rows for version in _versions(row, file.parent, collection, allow_pickle)]
        versions.sort(key=lambda version: (version.collection, version.name, int(version.number[1:])))
    except UNREADABLE as error:
        raise InvalidArgument(
            f"{file} is no repository.json or project.json of lazyscribe ({type(error).__name__}: {error}). "
            "Nothing was imported."
        ) from error
    return import_versions(ArtifactRegistry(as_repository(repository)), versions, "lazyscribe", progress)


def _versions(row: Mapping[str, Any], folder: Path, collection: str, allow_pickle: bool) -> list[ForeignVersion]:
    """Return the version of a row of a repository, or those of an experiment of a project."""
    if "artifacts" not in row:
        return [_version(row, folder, row["name"], collection, {}, allow_pickle)]
    noted = {key: row[key] for key in ("name", "author", "parameters", "metrics", "tags") if row.get(key)}
    found = row.get("short_slug") or row["slug"]
    return [_version(each, folder, row["slug"], found, noted, allow_pickle) for each in row["artifacts"]]


def _version(
    row: Mapping[str, Any], root: Path, folder: str, collection: str, metadata: dict[str, Any], allow_pickle: bool
) -> ForeignVersion:
    handler, file, expiry = str(row["handler"]), f"{folder}/{row['fname']}", moment(row.get("expiry"))
    notes = {"metadata": metadata, "expiry": expiry}
    log = partial(_log, root=root, path=file, handler=handler, notes=notes, allow_pickle=allow_pickle)
    return ForeignVersion(collection, row["name"], f"v{int(row['version'])}", moment(row.get("created_at")), log)


def _log(
    artifact: Artifact, root: Path, path: str, handler: str, notes: dict[str, Any], allow_pickle: bool
) -> ArtifactVersion:
    file = within(root, path)
    if handler in _PICKLES:
        require_pickle(allow_pickle, f"{file} was")
    try:
        reader = find_handler(handler)
    except HandlerNotFound:
        return artifact.log_files(file, **notes)
    try:
        value = reader.read(b"", MemoryBody(file.read_bytes()), allow_pickle=allow_pickle)
    except SnapshotsError:
        raise
    except Exception as error:  # runs code of any class
        raise NotImported(f"the handler {handler!r} cannot read {file}: {reason(error)}") from error
    return artifact.log(value, handler, **notes)
