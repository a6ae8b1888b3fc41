"""All that is in a repository."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal

from ..artifacts import ArtifactRegistry
from ..backups import BackupManager
from ..backups.manager import list_names as list_backup_names
from ..checkpoints import CheckpointManager
from ..documents import Block, Document, Facts, Note
from ..errors import SnapshotNotFound, SnapshotsError
from ..repository import Repository
from ..retention import RetentionPolicy
from ..snapshots import SnapshotManager
from ..snapshots import list_names as list_snapshot_names
from .artifacts import about_artifact
from .backups import about_backups
from .snapshots import about_snapshots

_Part = tuple[str, str, Callable[[], Iterable[Block]]]
"""A room, a name, and what there is to say of it."""


def describe_repository(
    repository: Repository,
    names: Sequence[str] = (),
    *,
    listed: int = 50,
    retention: RetentionPolicy | None = None,
    rank_by: str | None = None,
    mode: Literal["min", "max"] = "max",
) -> list[Document]:
    """A document on the whole repository, and one on every name in it.

    What cannot be read says so, and hides nothing else.

    Arguments:
        names: only these: of backups, snapshots and checkpoints, and of artifacts with or without the collection.
        listed: most rows of a table.
        retention: what the backups are held against. Default: the default policy.
        rank_by: the metadata key by which the best snapshot is marked.
        mode: whether the largest value of it is best, or the smallest.

    Raises:
        SnapshotNotFound: there is nothing of one of the names.

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

    def snapshots(name: str) -> Iterable[Block]:
        manager: SnapshotManager[Any] = SnapshotManager(repository, name=name, rank_by=rank_by, mode=mode)
        return about_snapshots(manager, listed)

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
            known = ", ".join(dict.fromkeys(part[1] for part in parts)) or "nothing at all"
            raise SnapshotNotFound(f"{repository.url} has nothing of the name {name!r} (there is: {known})")
    chosen = [part for part in parts if not names or any(_is_called(part, name) for name in names)]
    whole: _Part = "", repository.url, partial(_about_repository, repository)
    return [*map(_document, [whole, *chosen])]


def _about_repository(repository: Repository) -> Iterable[Block]:
    found = repository.stats()
    yield Facts(
        {
            "versions": (found.versions, "number"),
            "each on its own": (found.logical_bytes, "bytes"),
            "stored": (found.stored_bytes, "bytes"),
            "saved": (found.saved_bytes, "bytes"),
        }
    )


def _document(part: _Part) -> Document:
    room, name, blocks = part
    try:
        return Document(name, tuple(blocks()), room)
    except SnapshotsError as error:
        return Document(name, (Note(f"This cannot be read: {error}"),), room)


def _is_called(part: _Part, name: str) -> bool:
    room, called, _ = part
    return name == called or (room == "artifacts" and called.endswith(f"/{name}"))
