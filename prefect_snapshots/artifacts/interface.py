"""What every store of artifacts offers, and the plain results that it gives.

An *artifact* has a name within a *collection*. Every time something is logged under it, it gets a new *version*, which
never changes. An *alias*, such as the *stage* `production`, names one version and can be moved.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import EllipsisType
from typing import TYPE_CHECKING, Any, Protocol

from ..repository.contents import ContentReader
from .differences import Difference
from .history import Match, Move, VersionLike

if TYPE_CHECKING:
    from .downloads import Download

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many bytes of it are done, and how many there are."""


@dataclass(frozen=True, slots=True)
class ArtifactVersion:
    """One version of an artifact."""

    name: str
    collection: str
    version: str
    """As in `v3`."""

    def __str__(self) -> str:
        return f"{self.collection}/{self.name}:{self.version}"


@dataclass(frozen=True, slots=True)
class ArtifactInfo:
    """What is known of a version without reading it."""

    name: str
    collection: str
    version: str
    created_at: datetime
    """In UTC, by the clock of who logged it."""
    expiry: datetime | None
    """In UTC: from then on it is only read with `validate=False`."""
    handler: str | None
    """What reads its value; None of a folder."""
    size: int
    """Bytes, uncompressed."""
    written: int
    """Bytes that storing it took: what was there already, or was compressed away, does not count."""
    metadata: dict[str, Any]
    aliases: list[str]
    """Those that point here now."""
    environment: dict[str, str]
    """What has to be the same where it is read, with versions."""
    source: dict[str, str] | None
    """Where it was promoted from; None when it was logged here."""


@dataclass(frozen=True, slots=True)
class Release:
    """A tag over one version of each of many artifacts. It never changes."""

    tag: str
    collection: str
    created_at: datetime
    artifacts: dict[str, str]
    """Versions by name, as in `{"features": "v3"}`."""
    metadata: dict[str, Any]


class ArtifactManager(Protocol):
    """A store of artifacts.

    Where a method takes `collection`, None means the active one; `version` is a `VersionLike`, None means the latest.
    """

    @property
    def active_collection(self) -> str:
        """The collection that is meant where none is given."""

    @property
    def allow_pickle(self) -> bool:
        """Whether values stored with pickle may be loaded."""

    def list_collection_names(self) -> list[str]:
        """The collections that have artifacts, sorted."""

    def list_artifacts(self, collection: str | None = None) -> list[str]:
        """The names of the artifacts of a collection, sorted."""

    def list_versions(self, name: str, collection: str | None = None) -> list[ArtifactInfo]:
        """All versions of an artifact, the oldest first."""

    def exists(self, name: str, collection: str | None = None, version: VersionLike = None) -> bool:
        """Whether there is such an artifact, or such a version of it."""

    def get_artifact(
        self, name: str, version: VersionLike = None, match: Match = "exact", *, collection: str | None = None
    ) -> ArtifactInfo:
        """What is known of a version."""

    def get_artifact_metadata(
        self, name: str, version: VersionLike = None, match: Match = "exact", *, collection: str | None = None
    ) -> dict[str, Any]:
        """The metadata of a version."""

    def log_files(
        self,
        name: str,
        local_path: str | os.PathLike[str],
        collection: str | None = None,
        artifact_path: str | None = None,
    ) -> ArtifactVersion:
        """Log a file or a folder as a new version."""

    def log_folder(self, name: str, collection: str | None = None) -> AbstractContextManager[Path]:
        """An empty folder to write into: what it holds at the end is logged, unless there is an exception."""

    def download_artifact(
        self,
        name: str,
        collection: str | None = None,
        version: VersionLike = None,
        to: str | os.PathLike[str] | None = None,
    ) -> Download:
        """Download a version into a directory."""

    def log_artifact(
        self, name: str, value: Any, handler: str = "json", *, collection: str | None = None, **writer_options: Any
    ) -> ArtifactVersion:
        """Log a value as a new version."""

    def load_artifact(
        self,
        name: str,
        version: VersionLike = None,
        match: Match = "exact",
        validate: bool = True,
        *,
        collection: str | None = None,
        **reader_options: Any,
    ) -> Any:
        """The value of a version."""

    def adopt(
        self,
        name: str,
        content: ContentReader,
        *,
        handler: str | None,
        collection: str | None = None,
        suffix: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        expiry: datetime | None = None,
        source: Mapping[str, str] | None = None,
        progress: Progress | None = None,
    ) -> ArtifactVersion:
        """Make a version of a content that is stored in some repository."""

    def get_version_diff(
        self,
        name: str,
        old: VersionLike,
        new: VersionLike = None,
        match: Match = "exact",
        *,
        collection: str | None = None,
    ) -> Sequence[Difference]:
        """What differs between two versions."""

    def set_alias(
        self,
        name: str,
        version: VersionLike,
        alias: str,
        expected: VersionLike | EllipsisType = ...,
        *,
        collection: str | None = None,
    ) -> ArtifactVersion:
        """Have an alias point to a version."""

    def get_alias_history(self, name: str, alias: str | None = None, collection: str | None = None) -> list[Move]:
        """Every move of an alias, or of all, the oldest first."""

    def promote_artifact(
        self,
        name: str,
        version: VersionLike = None,
        *,
        to: ArtifactManager | str,
        collection: str | None = None,
    ) -> ArtifactVersion:
        """Promote a version to a stage, or into another registry."""
