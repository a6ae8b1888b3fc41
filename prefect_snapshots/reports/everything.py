"""The report on a whole repository."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from typing import Any, Literal

from ..artifacts import ArtifactRegistry
from ..backups import BackupManager
from ..backups.manager import list_names as list_backup_names
from ..checkpoints import CheckpointManager
from ..documents import Block, Document, Note
from ..errors import SnapshotNotFound, SnapshotsError
from ..repository import Repository
from ..retention import RetentionPolicy
from ..snapshots import SnapshotManager
from ..snapshots import list_names as list_snapshot_names
from .artifacts import about_artifact
from .backups import about_backups
from .comparison import about_runs
from .overview import about_repository
from .snapshots import about_snapshots

_Part = tuple[str, str, Callable[[], Iterable[Block]]]
"""A kind, a name, and a function that returns the blocks of its document."""


def describe_repository(
    repository: Repository,
    names: Sequence[str] = (),
    *,
    listed: int = 50,
    retention: RetentionPolicy | None = None,
    rank_by: str | None = None,
    mode: Literal["min", "max"] = "max",
) -> list[Document]:
    """Return one document about the whole repository, one that compares the snapshots, and one about each name.

    Snapshots of several names are compared: numbers that they share are drawn in one chart. If a name cannot be read,
    its document says so, and all others are complete.

    Args:
        repository: The repository to describe.
        names: Only these names of backups, snapshots, checkpoints and artifacts (`name` or `collection/name`). Default:
            all.
        listed: The most rows of a table. Default: 50.
        retention: The policy that says which backups a cleanup would keep. Default: `RetentionPolicy()`.
        rank_by: The metadata key by which the best snapshot is marked. Default: none is marked.
        mode: Whether the largest ("max") or the smallest ("min") value of it is best.

    Returns:
        The documents: that of the repository first.

    Raises:
        SnapshotNotFound: The repository has nothing under one of the names.

    Example:
        >>> from prefect_snapshots import Repository, SnapshotManager
        >>> from prefect_snapshots.reports import describe_repository
        >>> repository = Repository("memory://report")
        >>> _ = SnapshotManager(repository, name="train").save_snapshot({"step": 1})
        >>> [document.title for document in describe_repository(repository)]
        ['memory://report', 'train']
    """
    registry = ArtifactRegistry(repository)

    def backups(name: str) -> Iterable[Block]:
        return about_backups(BackupManager(repository, name=name, retention=retention or RetentionPolicy()), listed)

    @cache  # the comparison and the document of a name read the same events
    def manager(name: str) -> SnapshotManager[Any]:
        return SnapshotManager(repository, name=name, rank_by=rank_by, mode=mode)

    def snapshots(name: str) -> Iterable[Block]:
        return about_snapshots(manager(name), listed)

    def checkpoints(name: str) -> Iterable[Block]:
        return CheckpointManager(repository).describe(name).blocks

    parts: list[_Part] = [
        *(("backups", name, partial(backups, name)) for name in list_backup_names(repository)),
        *(("snapshots", name, partial(snapshots, name)) for name in list_snapshot_names(repository)),
        *(("checkpoints", name, partial(checkpoints, name)) for name in CheckpointManager(repository).list_names()),
        *(
            ("artifacts", f"{collection}/{name}", partial(about_artifact, registry, name, collection, listed))
            for collection in registry.list_collection_names()
            for name in registry.list_names(collection)
        ),
    ]
    for name in names:
        if not any(_is_called(part, name) for part in parts):
            known = ", ".join(dict.fromkeys(part[1] for part in parts))
            existing = f"Existing names: {known}." if known else "The repository is empty."
            raise SnapshotNotFound(f"{repository.url} has nothing named {name!r}. {existing}")
    chosen = [part for part in parts if not names or any(_is_called(part, name) for name in names)]
    whole: _Part = "", repository.url, partial(about_repository, repository, listed)
    compared: _Part = (
        "snapshots",
        "Compared",
        partial(_compare, manager, [part[1] for part in chosen if part[0] == "snapshots"]),
    )
    documents = [_document(part) for part in (whole, compared, *chosen)]
    return [document for document in documents if document.blocks]


def _compare(manager: Callable[[str], SnapshotManager[Any]], names: Sequence[str]) -> Iterable[Block]:
    runs = {}
    for name in names:
        with contextlib.suppress(SnapshotsError):  # its own document says that it cannot be read
            runs[name] = list(manager(name).records.by_id.values())
    return about_runs(runs)


def _document(part: _Part) -> Document:
    kind, name, blocks = part
    try:
        return Document(name, tuple(blocks()), kind)
    except SnapshotsError as error:
        return Document(name, (Note(f"This cannot be read: {error}"),), kind)


def _is_called(part: _Part, name: str) -> bool:
    kind, called, _ = part
    return name == called or (kind == "artifacts" and called.endswith(f"/{name}"))
