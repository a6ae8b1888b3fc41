"""Releases: a tag over one version of each of many artifacts of a collection."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ..errors import ArtifactNotFound, ReleaseExists
from ..repository.catalog import Event
from ..repository.metadata import clean_metadata
from ..repository.repository import Draft, Repository, check_name
from ..repository.times import from_nanoseconds
from ..repository.tracking import TrackedStream, hint
from .history import History, Match, Version, is_time
from .interface import Release

KIND = "releases"


class Releases:
    """The releases of one collection. They are found by time as versions are."""

    def __init__(self, repository: Repository, collection: str) -> None:
        self._collection = collection
        self._history = History()
        self._by_tag: dict[str, Version] = {}
        self._tracked = TrackedStream(repository, KIND, collection, self)

    def create(
        self,
        tag: str,
        artifacts: Mapping[str, str],
        metadata: Mapping[str, Any] | None,
        *,
        adopt: bool = False,
    ) -> Release:
        """Commit a release. With `adopt` one that is there and says the same will do."""
        body = {"tag": check_name(tag, "tag"), "artifacts": dict(artifacts), "metadata": clean_metadata(metadata)}

        def draft() -> Draft | None:
            there = self._by_tag.get(tag)
            if there is None:
                return Draft("version", {"id": f"v{self._history.next_number}", **body})
            if adopt and there.event.body["artifacts"] == body["artifacts"]:
                return None
            raise ReleaseExists(f"the collection {self._collection!r} has a release {tag!r}: choose another tag")

        self._tracked.change(draft)
        return self._release(self._by_tag[tag])

    def all(self) -> list[Release]:
        """All of them, the oldest first."""
        self._tracked.refresh()
        return [self._release(version) for version in self._history.versions.values()]

    def find(self, tag: str | datetime | None, match: Match) -> Release:
        """By tag or time."""
        self._tracked.refresh()
        if isinstance(tag, str) and tag in self._by_tag:
            return self._release(self._by_tag[tag])
        if isinstance(tag, str) and not is_time(tag):
            raise ArtifactNotFound(
                f"the collection {self._collection!r} has no release {tag!r} {hint(tag, self._by_tag)}"
            )
        return self._release(self._history.resolve(tag, match, f"the release of {self._collection!r}"))

    def apply(self, event: Event) -> None:
        """Take one event into account."""
        self._history.apply(event)
        if event.kind == "version":
            found = self._history.newest
            assert found is not None
            self._by_tag[event.body["tag"]] = found

    def _release(self, version: Version) -> Release:
        body = version.event.body
        created_at = from_nanoseconds(version.time)
        return Release(body["tag"], self._collection, created_at, dict(body["artifacts"]), dict(body["metadata"]))
