"""What each kind has in the file system: its names, their versions, and the files of a version."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Protocol, TypeVar

from ..artifacts import ArtifactRegistry
from ..artifacts.history import KIND as ARTIFACTS
from ..artifacts.history import is_time, names_of
from ..artifacts.infos import ArtifactInfo, Release
from ..artifacts.releases import KIND as RELEASES
from ..backups.history import KIND as BACKUPS
from ..backups.history import BackupHistory
from ..backups.records import Backup
from ..errors import ArtifactNotFound, BackupNotFound, InvalidName, PathNotFound, SnapshotNotFound
from ..messages import hint
from ..repository.contents import ContentReader
from ..repository.repository import Repository
from ..repository.times import parse_time
from ..repository.tracking import damage_of
from ..snapshots.backends import KIND as SNAPSHOTS
from ..snapshots.backends import Durable
from ..snapshots.records import Record
from ..trees.stored import StoredTree
from .leaves import LeafFiles
from .nodes import FileTree, JoinedTrees, StoredFiles
from .segments import component, decoded, encoded

LATEST = "latest"
_SECOND = timedelta(seconds=1)
_DEFAULT = "default"
"""The collection whose name is left out in paths."""

T = TypeVar("T")
Through = Callable[[ContentReader], ContentReader]
"""Makes a content remember the chunks that were read last."""


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a name.

    Attributes:
        key: The version as it is written in paths.
        created_at: When it was committed, in UTC.
        size: Its size in bytes, uncompressed.
        open: A function that opens its files.
        aliases: Other names of it that may move to another version.
        refusal: Why its files must not be read. None: they may.
        origin: A function that returns the kind, the name and the version that a file belongs to, from its path within
            this version. They are what flow runs record.
    """

    key: str
    created_at: datetime
    size: int
    open: Callable[[], FileTree]
    aliases: tuple[str, ...] = ()
    refusal: str | None = None
    origin: Callable[[str], tuple[str, str, str]] | None = None


class KindFiles(Protocol):
    """One kind in the file system."""

    def names(self) -> Sequence[str]:
        """Return all names, as they are written in paths."""

    def versions(self, name: str) -> Sequence[Version]:
        """Return all versions of a name, newest first."""

    def find(self, name: str, version: str) -> Version:
        """Return a version by its key, as "latest", by an alias, or by a point in time: the newest at that time.

        Raises:
            SnapshotsError: There is no such version. The message names similar ones.
        """


class SnapshotFiles:
    """Snapshots: their leaves are files."""

    def __init__(self, repository: Repository, through: Through) -> None:
        self._repository = repository
        self._through = through
        self._opened: dict[str, Durable] = {}

    def names(self) -> Sequence[str]:
        """Return all names."""
        return [encoded(name) for name in self._repository.names(SNAPSHOTS)]

    def versions(self, name: str) -> Sequence[Version]:
        """Return all snapshots, newest first."""
        backend = self._backend(name)
        return [self._version(backend, record) for record in reversed(backend.refresh().by_id.values())]

    def find(self, name: str, version: str) -> Version:
        """Return a snapshot by its id, as "latest", or by a point in time."""
        backend = self._backend(name)
        records = backend.refresh()
        if version in records.by_id or not (version == LATEST or is_time(version)):
            return self._version(backend, records.get(version))
        record = _newest(list(records.by_id.values()), version, lambda record: record.timestamp)
        if record is None:
            raise SnapshotNotFound(f"{decoded(name)!r} has no snapshot for {version!r}.")
        return self._version(backend, record)

    def _backend(self, name: str) -> Durable:
        if name not in self._opened:
            known = self._repository.names(SNAPSHOTS)
            if decoded(name) not in known:
                raise SnapshotNotFound(
                    f"There are no snapshots under the name {decoded(name)!r}. {hint(decoded(name), known)}"
                )
            self._opened[name] = Durable(self._repository, decoded(name))
        return self._opened[name]

    def _version(self, backend: Durable, record: Record) -> Version:
        return Version(
            component(record.id),
            record.timestamp,
            record.size,
            partial(self._open, backend, record),
            origin=lambda _: (SNAPSHOTS, backend.name, record.id),
        )

    def _open(self, backend: Durable, record: Record) -> FileTree:
        with damage_of(backend.label(record)):
            return LeafFiles(self._through(backend.content(record)[1]), backend.label(record))


class ArtifactFiles:
    """Artifacts: `NAME` in the default collection, `COLLECTION:NAME` in others."""

    def __init__(self, repository: Repository, through: Through) -> None:
        self._registry = ArtifactRegistry(repository)
        self._repository = repository
        self._through = through

    def names(self) -> Sequence[str]:
        """Return all names."""
        return sorted(_artifact(*names_of(stream)) for stream in self._repository.names(ARTIFACTS))

    def versions(self, name: str) -> Sequence[Version]:
        """Return all versions of an artifact, newest first."""
        collection, name = _collection_of(name)
        try:
            return [self._version(info) for info in self._registry.artifact(name, collection).list_versions()]
        except ArtifactNotFound:  # all are deleted, or the first one has not been logged completely
            return []

    def find(self, name: str, version: str) -> Version:
        """Return a version by its number, as "latest", by an alias, or by a point in time."""
        collection, name = _collection_of(name)
        return self._version(self._registry.artifact(name, collection).get(version, "asof"))

    def _version(self, info: ArtifactInfo) -> Version:
        refusal = None
        if info.expiry is not None and info.expiry <= datetime.now(UTC):
            refusal = (
                f"{info.collection}/{info.name}:{info.version} expired at {info.expiry.isoformat()}. Choose another "
                "version."
            )
        return Version(
            info.version,
            info.created_at,
            info.size,
            partial(self._open, info),
            tuple(info.aliases),
            refusal,
            lambda _: (ARTIFACTS, f"{info.collection}/{info.name}", info.version),
        )

    def _open(self, info: ArtifactInfo) -> FileTree:
        artifact = self._registry.artifact(info.name, info.collection)
        return _files(artifact.stored_files(info.version), self._through)


class ReleaseFiles:
    """Releases: `COLLECTION@TAG`, with a directory for each artifact."""

    def __init__(self, repository: Repository, artifacts: ArtifactFiles) -> None:
        self._repository = repository
        self._registry = ArtifactRegistry(repository)
        self._artifacts = artifacts

    def names(self) -> Sequence[str]:
        """Return all collections that have releases."""
        return [encoded(name) for name in self._repository.names(RELEASES)]

    def versions(self, name: str) -> Sequence[Version]:
        """Return all releases of a collection, newest first."""
        return [self._version(release) for release in self._registry.list_releases(decoded(name))]

    def find(self, name: str, version: str) -> Version:
        """Return a release by its tag, as "latest", or by a point in time."""
        tag = None if version == LATEST else version
        return self._version(self._registry.find_release(tag, "asof", collection=decoded(name)))

    def _version(self, release: Release) -> Version:
        names = {component(name): name for name in release.artifacts}

        def origin(path: str) -> tuple[str, str, str]:
            name = names[path.partition("/")[0]]
            return ARTIFACTS, f"{release.collection}/{name}", release.artifacts[name]

        return Version(component(release.tag), release.created_at, 0, partial(self._open, release), origin=origin)

    def _open(self, release: Release) -> FileTree:
        def opened(name: str, version: str) -> FileTree:
            try:
                return self._artifacts.find(_artifact(release.collection, name), version).open()
            except (ArtifactNotFound, InvalidName) as error:
                raise PathNotFound(f"Release {release.tag!r} has no {name!r} any more: {error}") from error

        return JoinedTrees(
            {component(name): partial(opened, name, version) for name, version in release.artifacts.items()}
        )


class BackupFiles:
    """Backups: `NAME@TIME_DESCRIPTION`, with a directory for each part."""

    def __init__(self, repository: Repository, through: Through) -> None:
        self._repository = repository
        self._through = through
        self._opened: dict[str, BackupHistory] = {}

    def names(self) -> Sequence[str]:
        """Return all names of managers."""
        return [encoded(name) for name in self._repository.names(BACKUPS)]

    def versions(self, name: str) -> Sequence[Version]:
        """Return all backups of a manager, newest first."""
        history = self._history(name)
        return [self._version(history, backup) for backup in history.backups()]

    def find(self, name: str, version: str) -> Version:
        """Return a backup by its name, with or without that of its manager, as "latest", or by a point in time."""
        history = self._history(name)
        backups = [backup for backup in reversed(history.backups()) if backup.broken is None]
        exact = [each for each in backups if version in (each.name, _key(history.name, each.name))]
        if exact:
            return self._version(history, exact[0])
        if version == LATEST or is_time(version):
            regular = [backup for backup in backups if backup.regular]
            found = _newest(regular, version, lambda backup: backup.created_at)
            if found is None:
                raise BackupNotFound(f"{history.name!r} has no backup for {version!r}.")
            return self._version(history, found)
        return self._version(history, history.find(version)[1])  # raises the error, with similar names

    def _history(self, name: str) -> BackupHistory:
        if name not in self._opened:
            known = self._repository.names(BACKUPS)
            if decoded(name) not in known:
                raise BackupNotFound(
                    f"There are no backups under the name {decoded(name)!r}. {hint(decoded(name), known)}"
                )
            self._opened[name] = BackupHistory(self._repository, decoded(name))
        return self._opened[name]

    def _version(self, history: BackupHistory, backup: Backup) -> Version:
        key = component(_key(history.name, backup.name))
        return Version(
            key,
            backup.created_at,
            backup.size,
            partial(self._open, history, backup),
            origin=lambda _: (BACKUPS, history.name, backup.name),
        )

    def _open(self, history: BackupHistory, backup: Backup) -> FileTree:
        with history.opened(backup.name) as (_, archive):
            parts: dict[str, StoredTree] = {part.name: part for part in archive.parts}
        last = [name.rpartition("/")[2] for name in parts]
        shown = {name: each if last.count(each) == 1 else name for name, each in zip(parts, last, strict=True)}
        trees = {component(shown[name]): partial(_files, part, self._through) for name, part in parts.items()}
        return JoinedTrees(trees, {component(name): component(shown[name]) for name in parts})


def _files(tree: StoredTree, through: Through) -> FileTree:
    if isinstance(tree.content, ContentReader):
        tree.content = through(tree.content)
    return StoredFiles(tree)


def _newest(found: Sequence[T], version: str, time: Callable[[T], datetime]) -> T | None:
    """Return the last of some versions, oldest first: of all, or of those at a point in time."""
    if version == LATEST:
        return found[-1] if found else None
    moment = parse_time(version)
    end = moment + (timedelta(microseconds=1) if moment.microsecond else _SECOND)
    return max((each for each in reversed(found) if time(each) < end), key=time, default=None)


def _artifact(collection: str, name: str) -> str:
    """Return an artifact as it is written in paths."""
    name = encoded(name).replace(":", "%3A")
    return name if collection == _DEFAULT else f"{component(collection).replace(':', '%3A')}:{name}"


def _collection_of(name: str) -> tuple[str, str]:
    collection, _, rest = name.rpartition(":")
    return decoded(collection) or _DEFAULT, decoded(rest)


def _key(manager: str, backup: str) -> str:
    return backup.removeprefix(f"{manager}_")
