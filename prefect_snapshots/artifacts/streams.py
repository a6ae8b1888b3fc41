"""The artifacts and releases of a repository, and their streams."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..errors import ArtifactNotFound
from ..messages import hint
from ..repository.names import check_name
from ..repository.provenance import MadeBy, MadeVersions
from ..repository.renaming import rename
from ..repository.repository import Repository
from ..repository.threads import Lock, pool
from ..repository.tracking import TrackedStream
from .artifact import Artifact
from .history import KIND, ArtifactHistory
from .lineage import SNAPSHOTS, LineageGraph, names_of
from .releases import Releases


class Artifacts:
    """The artifacts of a repository. Each is opened at its first use."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._lock = Lock()
        self._opened: dict[tuple[str, str], tuple[Artifact, TrackedStream[ArtifactHistory]]] = {}
        self._releases: dict[str, Releases] = {}
        self._snapshots: dict[str, TrackedStream[MadeVersions]] = {}

    def artifact(self, name: str, collection: str) -> Artifact:
        """Return an artifact, which need not exist yet."""
        return self._open(name, collection)[0]

    def existing(self, collection: str) -> list[Artifact]:
        """Return the artifacts of a collection that have versions, sorted by name."""
        return sorted(self._every(collection), key=lambda artifact: artifact.name)

    def collections(self) -> list[str]:
        """Return the collections that have artifacts, sorted."""
        return sorted({artifact.collection for artifact in self._every()})

    def releases_of(self, collection: str) -> Releases:
        """Return the releases of a collection."""
        key = check_name(collection, "collection")
        with self._lock:
            if key not in self._releases:
                self._releases[key] = Releases(self._repository, key)
            return self._releases[key]

    def lineage_graph(self) -> LineageGraph:
        """Return what the versions of the repository were made from."""
        labels = {f"{collection}/{name}": (name, collection) for collection, name in self._names()}
        names = self._repository.names(SNAPSHOTS) if self._repository.exists() else []
        return LineageGraph(
            self._repository.id, labels, lambda label: self._open(*labels[label])[1].refresh(), names, self._made
        )

    def _made(self, name: str) -> Mapping[str, MadeBy]:
        """Return what is recorded of the runs that saved the snapshots of a name, by id."""
        with self._lock:
            if name not in self._snapshots:
                self._snapshots[name] = TrackedStream(self._repository, SNAPSHOTS, name, MadeVersions())
        return self._snapshots[name].refresh().made

    def _names(self) -> list[tuple[str, str]]:
        """Return the collection and the name of every stream."""
        return [names_of(stream) for stream in self._repository.names(KIND)] if self._repository.exists() else []

    def rename(self, collection: str, old: str, new: str, dry_run: bool) -> None:
        """Rename an artifact: see `ArtifactRegistry.rename_artifact`."""
        self.artifact(old, collection).get()  # there must be a version
        streams = _stream_name(collection, old), _stream_name(collection, check_name(new, "name"))
        rename(
            self._repository,
            KIND,
            *streams,
            label=f"{collection}/{new}",
            finish=lambda: self.releases_of(collection).rename(old, new),
            dry_run=dry_run,
        )

    def _open(self, name: str, collection: str) -> tuple[Artifact, TrackedStream[ArtifactHistory]]:
        key = check_name(collection, "collection"), check_name(name, "name")
        found = self._opened.get(key)
        if found is None:
            tracked = TrackedStream(self._repository, KIND, _stream_name(*key), ArtifactHistory())
            artifact = Artifact(name, collection, tracked, self._missing)
            with self._lock:  # two threads that open it at the same time get the same one
                found = self._opened.setdefault(key, (artifact, tracked))
        return found

    def _missing(self, artifact: Artifact) -> ArtifactNotFound:
        new = self._open(artifact.name, artifact.collection)[1].view.renamed_to
        if new is not None:
            return ArtifactNotFound(f"{artifact.collection}/{artifact.name} was renamed to {names_of(new)[1]!r}.")
        names = [each.name for each in self.existing(artifact.collection)]
        if names:
            return ArtifactNotFound(
                f"The collection {artifact.collection!r} has no artifact {artifact.name!r}. "
                f"{hint(artifact.name, names)}"
            )
        return ArtifactNotFound(
            f"{self._repository.url} has no collection {artifact.collection!r}, so no artifact {artifact.name!r}. "
            f"{hint(artifact.collection, self.collections())}"
        )

    def _every(self, collection: str | None = None) -> Iterator[Artifact]:
        """Find every artifact that has a version. If its first upload is running or has died, it has only a stream."""

        def look(key: tuple[str, str]) -> Artifact | None:
            artifact, tracked = self._open(key[1], key[0])
            return None if tracked.refresh().newest is None else artifact

        wanted = [key for key in self._names() if collection in (None, key[0])]
        found = pool("network").map(look, wanted) if len(wanted) > 1 else map(look, wanted)
        yield from filter(None, found)


def _stream_name(collection: str, name: str) -> str:
    """Return the stream name: collection and name, separated by a colon."""
    return f"{collection.replace('%', '%25').replace(':', '%3A')}:{name}"
