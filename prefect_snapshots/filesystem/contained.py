"""The files of a repository by their paths: see `segments` for what a path is."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from ..errors import (
    ArtifactExpired,
    ArtifactNotFound,
    BackupNotFound,
    IntegrityError,
    InvalidArgument,
    InvalidName,
    PathNotFound,
    SnapshotNotFound,
)
from ..messages import hint, logger
from ..repository.repository import Repository
from ..repository.threads import Lock, pool
from .kinds import ArtifactFiles, BackupFiles, KindFiles, ReleaseFiles, SnapshotFiles, Version
from .nodes import FileTree, Node, NodeType, Read, missing_hint
from .recent_chunks import RecentChunks
from .segments import Reference, decoded, parse_path

_NOT_FOUND = (ArtifactNotFound, BackupNotFound, SnapshotNotFound, InvalidArgument, InvalidName)
"""What the kinds raise for a name or a version that does not exist, or that nothing can have."""
_OPEN = 16
"""Versions whose lists of files are kept: one dataset reads from few, and a list can have millions of files."""


@dataclass(frozen=True, slots=True)
class Contained:
    """What is at one path of a repository.

    Attributes:
        path: The path.
        type: "file", "directory", "link" or "other".
        size: The size of a file in bytes, else 0.
        modified: When a file was last changed, or a version committed, in seconds since 1970. None: unknown.
        exact: The same path with the exact version: without "latest", an alias or a time.
        version: The version that it belongs to.
        link: What a symbolic link points to.
        mode: The permissions of a file or directory. None: unknown.
        read: A function that returns verified bytes of a file, from an offset on. None for everything else.
    """

    path: str
    type: NodeType
    size: int = 0
    modified: float | None = None
    exact: str = ""
    version: Version | None = None
    link: str | None = None
    mode: int | None = None
    read: Read | None = None


class RepositoryFiles:
    """Find the files of a repository by their paths, and read parts of them.

    Args:
        repository: The repository. Nothing is written to it.
    """

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self._chunks = RecentChunks(repository.parts().store)
        artifacts = ArtifactFiles(repository, lambda content: content.through(self._chunks))
        self.kinds: dict[str, KindFiles] = {
            "artifacts": artifacts,
            "backups": BackupFiles(repository, lambda content: content.through(self._chunks)),
            "releases": ReleaseFiles(repository, artifacts),
            "snapshots": SnapshotFiles(repository, lambda content: content.through(self._chunks)),
        }
        self._lock = Lock(self.forget)
        self._fixed: dict[str, tuple[Version, str]] = {}
        self._trees: OrderedDict[str, FileTree] = OrderedDict()

    def find(self, path: str) -> Contained:
        """Return what is at a path.

        Raises:
            PathNotFound: There is nothing. The message names similar paths.
        """
        reference = parse_path(path)
        if reference is None:
            return self._above(path)
        version, exact = self._version(reference)
        if not reference.inside:
            return _of_version(reference.top, version, exact)
        tree = self._tree(version, exact)
        node = tree.find(reference.inside)
        if node is None:
            raise PathNotFound(
                f"There is no {reference.inside!r} in {reference.top}. {missing_hint(tree, reference.inside)}"
            )
        return self._of_node(reference, node, version, exact)

    def children(self, path: str) -> list[Contained]:
        """Return what a directory contains: kinds, names, versions (newest first) or files.

        The versions of a damaged name are left out of a list of names, with a warning.

        Raises:
            PathNotFound: There is nothing at this path.
            IntegrityError: The version at this path is damaged.
        """
        reference = parse_path(path)
        if reference is None:
            self._above(path)
            return self._names(path)
        version, exact = self._version(reference, listing=True)
        tree = self._tree(version, exact)
        if reference.inside and tree.find(reference.inside) is None:
            self.find(path)
        return [self._of_node(reference, node, version, exact) for node in tree.children(reference.inside)]

    def forget(self) -> None:
        """Forget which versions were listed, and their lists of files."""
        self._fixed = {}
        self._trees = OrderedDict()

    def _version(self, reference: Reference, *, listing: bool = False) -> tuple[Version, str]:
        """Return a version, and its exact path.

        A version that was found by its exact path never changes. What another path leads to is fixed by listing it:
        the files of one listing belong to one version, whoever commits the next one meanwhile.
        """
        with self._lock:
            fixed = self._fixed.get(reference.top)
        if fixed is not None and (fixed[1] == reference.top or reference.inside or not listing):
            return fixed
        kind = self._kind(reference.kind)
        try:
            version = kind.find(reference.name, reference.version)
        except _NOT_FOUND as error:
            raise PathNotFound(f"There is no {reference.top}: {error}") from error
        exact = f"{reference.kind}/{reference.name}@{version.key}"
        if listing or exact == reference.top:
            with self._lock:
                self._fixed[reference.top] = version, exact
        return version, exact

    def _tree(self, version: Version, exact: str) -> FileTree:
        with self._lock:
            tree = self._trees.get(exact)
        if tree is None:
            tree = self._open(version, exact)
        with self._lock:
            self._trees[exact] = tree
            self._trees.move_to_end(exact)
            while len(self._trees) > _OPEN:
                self._trees.popitem(last=False)
        return tree

    def _open(self, version: Version, exact: str) -> FileTree:
        try:
            return version.open()
        except _NOT_FOUND as error:  # it was deleted after it was found
            raise PathNotFound(f"There is no {exact}: {error}") from error

    def _of_node(self, reference: Reference, node: Node, version: Version, exact: str) -> Contained:
        modified = _seconds(version.created_at) if node.modified is None else node.modified
        path, exact = (f"{top}/{node.path}" for top in (reference.top, exact))
        read = None if node.read is None else partial(self._read, reference, version, exact, node.read)
        return Contained(path, node.type, node.size, modified, exact, version, node.link, node.mode, read)

    def _read(self, reference: Reference, version: Version, exact: str, read: Read, offset: int, length: int) -> bytes:
        """Read a file. If its data is gone because its version was deleted, say so."""
        try:
            return read(offset, length)
        except IntegrityError as error:
            if self._is_there(reference, version):
                raise
            self.forget()
            raise PathNotFound(
                f"{exact} was deleted while it was read, and its data was pruned. Read another version."
            ) from error

    def _is_there(self, reference: Reference, version: Version) -> bool:
        try:
            found = self._kind(reference.kind).find(reference.name, decoded(version.key))
        except _NOT_FOUND:
            return False
        return found.created_at == version.created_at  # another snapshot may have the id now

    def _kind(self, name: str) -> KindFiles:
        if name not in self.kinds:
            raise PathNotFound(f"There is no {name!r} in a repository. {hint(name, self.kinds)}")
        return self.kinds[name]

    def _above(self, path: str) -> Contained:
        """Return the directory at a path that names no version."""
        kind, _, prefix = path.partition("/")
        if path:
            names = self._kind(kind).names()
            if prefix in names:
                raise PathNotFound(
                    f"There is no {path} without a version. Add one, as in {path}@latest, or list {kind}."
                )
            if prefix and not any(name.startswith(f"{prefix}/") for name in names):
                raise PathNotFound(f"There is no {path}. {hint(prefix, names)}")
        return Contained(path, "directory", exact=path)

    def _names(self, path: str) -> list[Contained]:
        if not path:
            return [Contained(kind, "directory", exact=kind) for kind in self.kinds]
        name, _, prefix = path.partition("/")
        kind = self.kinds[name]
        prefix += "/" * bool(prefix)
        below = [each for each in kind.names() if each.startswith(prefix)]
        folders = dict.fromkeys(each[len(prefix) :].split("/")[0] for each in below if "/" in each[len(prefix) :])
        found = [Contained(f"{path}/{folder}", "directory", exact=f"{path}/{folder}") for folder in folders]
        here = [each for each in below if "/" not in each[len(prefix) :]]

        def versions(each: str) -> Sequence[Version]:
            try:
                return kind.versions(each)
            except IntegrityError as error:
                leave_out(f"{name}/{each}", error)
                return []

        for each, listed in zip(here, pool("network").map(versions, here), strict=True):
            found += _all_of(f"{name}/{each}", listed)
        return found


def leave_out(path: str, error: IntegrityError) -> None:
    """Say that something damaged is left out of a listing: everything else is listed."""
    logger.warning("%s is left out of the list, because it is damaged: %s", path, error)


def reader_of(found: Contained) -> Read:
    """Return the function that reads a file.

    Raises:
        PathNotFound: It is not a file.
        ArtifactExpired: Its version has expired.
    """
    if found.read is None:
        raise PathNotFound(f"{found.path} cannot be opened, because it is {described(found)}.")
    if found.version is not None and found.version.refusal is not None:
        raise ArtifactExpired(found.version.refusal)
    return found.read


def described(found: Contained) -> str:
    """Return a description of what is not a file, for messages."""
    if found.type == "link":
        return f"a link to {found.link!r}, which is not a file of this version"
    return "a directory" if found.type == "directory" else "neither a file nor a directory"


def _all_of(name: str, versions: Sequence[Version]) -> Iterator[Contained]:
    for version in versions:
        exact = f"{name}@{version.key}"
        yield _of_version(exact, version, exact)


def _of_version(path: str, version: Version, exact: str) -> Contained:
    return Contained(path, "directory", 0, _seconds(version.created_at), exact, version)


def _seconds(moment: datetime) -> float:
    return moment.timestamp()
