"""Artifacts <-> streams of a repository: which there are, and what each of them says now."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from urllib.parse import unquote

from ..errors import ArtifactNotFound
from ..repository.catalog import Event
from ..repository.contents import ContentReader
from ..repository.names import check_name
from ..repository.repository import Repository
from ..repository.threads import pool
from ..repository.times import from_nanoseconds
from ..repository.tracking import TrackedStream, hint
from .history import History, Match, Version, VersionLike
from .interface import ArtifactInfo, ArtifactVersion
from .releases import Releases

KIND = "artifacts"


@dataclass(frozen=True, slots=True)
class Artifact:
    """An artifact as far as it was read."""

    collection: str
    name: str
    tracked: TrackedStream[History]

    @property
    def history(self) -> History:
        """What its events say, as of the last look. It never changes: ask again inside a draft."""
        return self.tracked.view

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"{self.collection}/{self.name}"

    def label_of(self, version: Version) -> str:
        """What messages call a version."""
        return f"{self.label}:{version.label}"

    def version_of(self, event: Event | None) -> ArtifactVersion:
        """The version that an event committed."""
        assert event is not None
        return ArtifactVersion(self.name, self.collection, event.body["id"])

    def info(self, version: Version) -> ArtifactInfo:
        """What is known of a version."""
        body, content = version.event.body, version.event.content
        assert content is not None
        return ArtifactInfo(
            self.name,
            self.collection,
            version.label,
            from_nanoseconds(version.time),
            None if version.expiry is None else from_nanoseconds(version.expiry),
            version.handler,
            content.size,
            content.written,
            copy.deepcopy(version.metadata),
            self.history.aliases_of(version.number),
            dict(body.get("environment", {})),
            body.get("source") and dict(body["source"]),
        )

    def stack_of(self, alias: str) -> list[int]:
        """Where an alias points, and pointed; or `ArtifactNotFound`."""
        stack = self.history.aliases.get(alias)
        if not stack:
            raise ArtifactNotFound(f"{self.label} has no alias {alias!r} {hint(alias, self.history.aliases)}")
        return stack


class Artifacts:
    """The artifacts of a repository, each opened when it is first asked for."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._lock = threading.Lock()
        self._opened: dict[tuple[str, str], Artifact] = {}
        self._releases: dict[str, Releases] = {}

    def artifact(self, name: str, collection: str) -> Artifact:
        """An artifact, which need not exist, as of the last look."""
        key = check_name(collection, "collection"), check_name(name, "name")
        found = self._opened.get(key)
        if found is None:
            tracked = TrackedStream(self._repository, KIND, _stream_name(*key), History())
            with self._lock:  # of two threads that opened it at once, both get the same one
                found = self._opened.setdefault(key, Artifact(*key, tracked))
        return found

    def existing(self, name: str, collection: str) -> Artifact:
        """An artifact that exists, as of now; or `ArtifactNotFound`, which says what there is."""
        artifact = self.artifact(name, collection)
        if artifact.tracked.refresh().newest is None:
            names = self.names(artifact.collection)
            if names:
                raise ArtifactNotFound(
                    f"the collection {artifact.collection!r} has no artifact {name!r} {hint(name, names)}"
                )
            raise ArtifactNotFound(
                f"{self._repository.url} has no collection {artifact.collection!r}, hence no artifact {name!r} "
                f"{hint(artifact.collection, self.collections())}"
            )
        return artifact

    def find(self, name: str, version: VersionLike, match: Match, collection: str) -> tuple[Artifact, Version]:
        """An artifact and the version that is meant, as of now."""
        artifact = self.existing(name, collection)
        return artifact, artifact.history.resolve(version, match, artifact.label)

    def collections(self) -> list[str]:
        """The collections that have artifacts, sorted."""
        return sorted({artifact.collection for artifact in self._every()})

    def names(self, collection: str) -> list[str]:
        """The names of the artifacts of a collection, sorted."""
        return sorted(artifact.name for artifact in self._every(collection))

    def content(self, artifact: Artifact, version: Version) -> AbstractContextManager[ContentReader]:
        """The content of a version. What is damaged in it is named as part of this version."""
        return artifact.tracked.reading(version.event, artifact.label_of(version))

    def releases_of(self, collection: str) -> Releases:
        """The releases of a collection."""
        key = check_name(collection, "collection")
        with self._lock:
            if key not in self._releases:
                self._releases[key] = Releases(self._repository, key)
            return self._releases[key]

    def _every(self, collection: str | None = None) -> Iterator[Artifact]:
        """Every artifact that has a version. One whose first upload is under way, or died, has a stream and none."""
        if not self._repository.exists():
            return
        names = [_names(stream) for stream in self._repository.names(KIND)]

        def look(key: tuple[str, str]) -> Artifact:
            artifact = self.artifact(key[1], key[0])
            if artifact.history.newest is None:
                artifact.tracked.refresh()
            return artifact

        wanted = [key for key in names if collection in (None, key[0])]
        found = pool("network").map(look, wanted) if len(wanted) > 1 else map(look, wanted)
        yield from (artifact for artifact in found if artifact.history.newest is not None)


def _stream_name(collection: str, name: str) -> str:
    """Collection and name in one: the first colon parts them."""
    return f"{collection.replace('%', '%25').replace(':', '%3A')}:{name}"


def _names(stream: str) -> tuple[str, str]:
    collection, _, name = stream.partition(":")
    return unquote(collection), name
