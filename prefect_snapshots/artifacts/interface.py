"""The methods that every store of artifacts has.

An *artifact* has a name in a *collection*. Every time you log something under it, it gets a new *version*, which never
changes. An *alias*, such as the *stage* `production`, names one version and can be moved.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from types import EllipsisType
from typing import Any, Protocol

from ..errors import InvalidArgument
from ..repository.contents import ContentReader
from ..repository.progress import Progress
from ..retention import CleanupReport, RetentionPolicy
from .differences import Difference
from .downloads import Download
from .history import Match, Move, VersionLike
from .infos import ArtifactInfo, ArtifactVersion


class ArtifactManager(Protocol):
    """A store of artifacts.

    In every method, `collection` None means the active one; `version` is a `VersionLike`, and None means the latest.
    """

    @property
    def active_collection(self) -> str:
        """The collection that methods use if they get none."""

    @property
    def allow_pickle(self) -> bool:
        """Whether values stored with pickle may be loaded."""

    def list_collection_names(self) -> list[str]:
        """List the collections that have artifacts, sorted."""

    def list_names(self, collection: str | None = None) -> list[str]:
        """List the names of the artifacts of a collection, sorted."""

    def list_artifacts(self, collection: str | None = None) -> list[ArtifactInfo]:
        """List the latest version of each artifact, newest first."""

    def list_versions(self, name: str, collection: str | None = None) -> list[ArtifactInfo]:
        """List all versions of an artifact, newest first."""

    def exists(self, name: str, collection: str | None = None, version: VersionLike = None) -> bool:
        """Return whether there is such an artifact, or such a version of it."""

    def get_artifact(
        self, name: str, version: VersionLike = None, match: Match = "exact", *, collection: str | None = None
    ) -> ArtifactInfo:
        """Return the metadata of a version without reading it."""

    def get_artifact_metadata(
        self, name: str, version: VersionLike = None, match: Match = "exact", *, collection: str | None = None
    ) -> dict[str, Any]:
        """Return the metadata that you gave a version."""

    def log_files(
        self,
        name: str,
        local_path: str | os.PathLike[str],
        collection: str | None = None,
        artifact_path: str | None = None,
    ) -> ArtifactVersion:
        """Log a file or a folder as a new version."""

    def log_folder(self, name: str, collection: str | None = None) -> AbstractContextManager[Path]:
        """Give an empty folder to write into, and log it when the block ends without an exception."""

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
        """Return the value of a version."""

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
        """Make a version from content that is stored in any repository."""

    def diff(
        self,
        name: str,
        old: VersionLike,
        new: VersionLike = None,
        match: Match = "exact",
        *,
        collection: str | None = None,
    ) -> Sequence[Difference]:
        """Compare two versions."""

    def delete_version(
        self, name: str, version: VersionLike, *, force: bool = False, collection: str | None = None
    ) -> None:
        """Delete one version. Refuses one that is pinned, released or has an alias, unless `force` is True."""

    def delete_artifact(self, name: str, *, force: bool = False, collection: str | None = None) -> None:
        """Delete all versions of an artifact. Refuses as `delete_version` does."""

    def pin(self, name: str, version: VersionLike = None, *, collection: str | None = None) -> None:
        """Exempt a version from retention."""

    def unpin(self, name: str, version: VersionLike = None, *, collection: str | None = None) -> None:
        """Let retention delete a version again."""

    def cleanup(
        self,
        policy: RetentionPolicy | None = None,
        dry_run: bool = False,
        *,
        name: str | None = None,
        collection: str | None = None,
    ) -> CleanupReport:
        """Delete versions that a retention policy does not keep."""

    def set_alias(
        self,
        name: str,
        version: VersionLike,
        alias: str,
        expected: VersionLike | EllipsisType = ...,
        *,
        collection: str | None = None,
    ) -> ArtifactVersion:
        """Point an alias to a version."""

    def get_alias_history(self, name: str, alias: str | None = None, collection: str | None = None) -> list[Move]:
        """Return every move of an alias, or of all, oldest first."""

    def set_stage(
        self,
        name: str,
        version: VersionLike,
        stage: str,
        *,
        expected: VersionLike | EllipsisType = ...,
        collection: str | None = None,
    ) -> ArtifactVersion:
        """Promote a version to a stage."""

    def copy_to(
        self, name: str, version: VersionLike, to: ArtifactManager, *, collection: str | None = None
    ) -> ArtifactVersion:
        """Copy a version into another registry."""

    def promote_artifact(
        self,
        name: str,
        version: VersionLike = None,
        *,
        to: ArtifactManager | str,
        collection: str | None = None,
    ) -> ArtifactVersion:
        """Promote a version to a stage, or into another registry."""


def require_store(to: object) -> None:
    """Check that a version can be copied to `to`.

    Raises:
        InvalidArgument: It is no store of artifacts.
    """
    if not hasattr(to, "adopt"):
        raise InvalidArgument(
            f"A version is copied to an ArtifactRegistry, not to {type(to).__name__}. Nothing was copied."
        )
