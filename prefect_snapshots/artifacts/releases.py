"""Releases: fixed sets of artifact versions of a collection, each under one tag."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from ..errors import ArtifactNotFound, DamagedVersion, InvalidName, ReleaseExists
from ..messages import hint, logger
from ..repository.catalog import Event
from ..repository.commits import Draft
from ..repository.metadata import clean_metadata
from ..repository.names import check_name
from ..repository.repository import Repository
from ..repository.times import from_nanoseconds
from ..repository.tracking import TrackedStream
from .history import ArtifactHistory, Match, StoredVersion, is_time
from .infos import Release

KIND = "releases"


class _ReleaseBody(msgspec.Struct):
    """The fields of a release's event. Anyone who can write to the repository can forge them."""

    tag: str
    artifacts: dict[str, str]
    metadata: dict[str, Any]


class Tagged:
    """The state of the releases of a collection.

    Attributes:
        history: The releases as versions.
        by_tag: The releases by their tags.
        renames: The artifacts that were renamed: the number of the event, the old name and the new one.
    """

    def __init__(
        self, history: ArtifactHistory, by_tag: dict[str, StoredVersion], renames: list[tuple[int, str, str]]
    ) -> None:
        self.history = history
        self.by_tag = by_tag
        self.renames = renames

    def copy(self) -> Tagged:
        """Return a copy that is independent of later events."""
        return Tagged(self.history.copy(), dict(self.by_tag), list(self.renames))

    def names_now(self, version: StoredVersion) -> dict[str, str]:
        """Return the versions of a release by the names that its artifacts have now."""
        named = version.event.body.get("artifacts")
        artifacts = dict(named) if isinstance(named, dict) else {}
        for sequence, old, new in self.renames:
            if sequence > version.event.sequence and old in artifacts:
                artifacts[new] = artifacts.pop(old)
        return artifacts

    def apply(self, event: Event) -> None:
        """Apply one event."""
        self.history.apply(event)
        if event.kind == "version":
            found = self.history.newest
            assert found is not None
            self.by_tag[event.body["tag"]] = found
        elif event.kind == "rename":
            # A note about the name of one artifact, and so worth less than the releases of all others.
            with contextlib.suppress(KeyError, InvalidName):
                self.renames.append((event.sequence, check_name(event.body["from"]), check_name(event.body["to"])))


class Releases:
    """The releases of one collection, found by tag or by time."""

    def __init__(self, repository: Repository, collection: str) -> None:
        self._collection = collection
        self._tracked = TrackedStream(repository, KIND, collection, Tagged(ArtifactHistory(), {}, []))

    def create(
        self,
        tag: str,
        artifacts: Mapping[str, str],
        metadata: Mapping[str, Any] | None,
        *,
        adopt: bool = False,
    ) -> Release:
        """Commit a release. With `adopt`, return an existing release if it is identical."""
        body = {"tag": check_name(tag, "tag"), "artifacts": dict(artifacts), "metadata": clean_metadata(metadata)}

        def draft() -> Draft | None:
            now = self._tracked.state
            there = now.by_tag.get(tag)
            if there is None:
                return Draft("version", {"id": f"v{now.history.next_number}", **body})
            if adopt and now.names_now(there) == body["artifacts"]:
                return None
            raise ReleaseExists(
                f"The collection {self._collection!r} already has a release {tag!r}. Choose another tag."
            )

        self._tracked.change(draft)
        now = self._tracked.view
        return self._release(now.by_tag[tag], now)

    def rename(self, old: str, new: str) -> None:
        """Let the existing releases name an artifact by its new name."""

        def draft() -> Draft | None:
            now = self._tracked.state
            named = any(old in now.names_now(version) for version in now.by_tag.values())
            return Draft("rename", {"from": old, "to": new}) if named else None

        self._tracked.change(draft)

    def all(self) -> list[Release]:
        """Return all releases, newest first. A damaged one is left out with a warning."""
        found = []
        now = self._tracked.refresh()
        for version in reversed(now.history.versions.values()):
            try:
                found.append(self._release(version, now))
            except DamagedVersion as error:
                logger.warning("%s. Create the release again under another tag.", error)
        return found

    def find(self, tag: str | datetime | None, match: Match) -> Release:
        """Return a release by its tag or time."""
        with self._tracked.current() as now:
            if isinstance(tag, str) and tag in now.by_tag:
                return self._release(now.by_tag[tag], now)
            if isinstance(tag, str) and not is_time(tag):
                raise ArtifactNotFound(
                    f"The collection {self._collection!r} has no release {tag!r}. {hint(tag, now.by_tag)}"
                )
            return self._release(now.history.resolve(tag, match, f"the release of {self._collection!r}"), now)

    def _release(self, version: StoredVersion, now: Tagged) -> Release:
        try:
            body = msgspec.convert(version.event.body, _ReleaseBody)
        except msgspec.ValidationError as error:
            raise DamagedVersion(
                f"release {version.label} of {self._collection}", "", f"its event is invalid ({error})"
            ) from None
        created_at = from_nanoseconds(version.time)
        artifacts = now.names_now(version)
        return Release(body.tag, self._collection, created_at, artifacts, dict(body.metadata))
