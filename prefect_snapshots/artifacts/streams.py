"""The artifacts and releases of a repository, and their streams."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..errors import ArtifactNotFound, IntegrityError
from ..messages import hint
from ..repository.names import check_name
from ..repository.provenance import MadeBy, MadeVersions
from ..repository.renaming import rename
from ..repository.repository import Repository
from ..repository.threads import Lock, pool
from ..repository.tracking import TrackedStream, leaving_out_damage
from .artifact import Artifact
from .history import KIND, ArtifactHistory, names_of, stream_name
from .lineage import SNAPSHOTS, LineageGraph
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

    def existing(self, collection: str) -> list[str]:
        """Return the names of the artifacts of a collection that have versions, sorted.

        A damaged artifact is one of them: whoever reads it is told.
        """
        return sorted(name for _, name in self._every(collection))

    def collections(self) -> list[str]:
        """Return the collections that have artifacts, sorted."""
        return sorted({collection for collection, _ in self._every()})

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

        def history(label: str) -> ArtifactHistory:
            with leaving_out_damage(f"Artifact {label}"):
                return self._open(*labels[label])[1].refresh()
            return ArtifactHistory()

        def made(name: str) -> Mapping[str, MadeBy]:
            with leaving_out_damage(f"The history of the snapshots of {name}"):
                return self._made(name)
            return {}

        return LineageGraph(self._repository.id, labels, history, names, made)

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
        streams = stream_name(collection, old), stream_name(collection, check_name(new, "name"))
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
            tracked = TrackedStream(self._repository, KIND, stream_name(*key), ArtifactHistory())
            artifact = Artifact(name, collection, tracked, self._missing)
            with self._lock:  # two threads that open it at the same time get the same one
                found = self._opened.setdefault(key, (artifact, tracked))
        return found

    def _missing(self, artifact: Artifact) -> ArtifactNotFound:
        new = self._open(artifact.name, artifact.collection)[1].view.renamed_to
        if new is not None:
            return ArtifactNotFound(f"{artifact.collection}/{artifact.name} was renamed to {names_of(new)[1]!r}.")
        names = self.existing(artifact.collection)
        if names:
            return ArtifactNotFound(
                f"The collection {artifact.collection!r} has no artifact {artifact.name!r}. "
                f"{hint(artifact.name, names)}"
            )
        return ArtifactNotFound(
            f"{self._repository.url} has no collection {artifact.collection!r}, so no artifact {artifact.name!r}. "
            f"{hint(artifact.collection, self.collections())}"
        )

    def _every(self, collection: str | None = None) -> Iterator[tuple[str, str]]:
        """Find every artifact that has a version. If its first upload is running or has died, it has only a stream."""

        def has_some(key: tuple[str, str]) -> bool:
            try:
                return self._open(key[1], key[0])[1].refresh().newest is not None
            except IntegrityError:
                return True

        wanted = [key for key in self._names() if collection in (None, key[0])]
        found = pool("network").map(has_some, wanted) if len(wanted) > 1 else map(has_some, wanted)
        yield from (key for key, there in zip(wanted, found, strict=True) if there)
