"""ArtifactRegistry: log, find, download, promote and release artifacts in a repository."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from ..arguments import checking_types
from ..errors import ArtifactNotFound
from ..repository.choosing import RepositoryLike, as_repository
from ..repository.contents import StagedPart
from ..repository.names import check_name
from ..repository.progress import Progress
from ..repository.repository import Repository
from ..repository.tracking import leaving_out_damage
from .artifact import Artifact, counter
from .cards import card_of
from .drafts import FolderDraft
from .folders import scan_folder
from .history import Match, VersionLike
from .infos import ArtifactInfo, Release
from .lineage import LineageStep
from .manager import ArtifactManager
from .streams import Artifacts


@checking_types
class ArtifactRegistry(ArtifactManager):
    """Store artifacts in a repository: immutable versions of files, folders and values, with stages and releases.

    Any number of processes can log, promote and download at the same time, without a server. Identical data is stored
    only once, even if it comes from different artifacts.

    Args:
        repository: A `Repository`, a URL, a path or the Prefect block. Default: the repository of the enclosing
            `use_repository`, then the one in the settings, then `./snapshots`.
        collection: The default collection of all methods, for example for an experiment or a team.

    All methods that take the name of an artifact are those of `ArtifactManager`.

    Example:
        >>> from prefect_snapshots import ArtifactRegistry
        >>> registry = ArtifactRegistry("memory://example-artifacts")
        >>> for value in ([0, 1, 2], [0, 1, 2, 3]):
        ...     version = registry.log_artifact("features", value)
        >>> registry.promote_artifact("features", 0, to="production").version
        'v0'
        >>> registry.load_artifact("features"), registry.load_artifact("features", "production")
        ([0, 1, 2, 3], [0, 1, 2])
    """

    def __init__(self, repository: RepositoryLike | None = None, collection: str = "default") -> None:
        self.repository: Repository = as_repository(repository)
        self.allow_pickle = self.repository.allow_pickle
        self.active_collection = check_name(collection, "collection")
        self._artifacts = Artifacts(self.repository)

    def artifact(self, name: str, collection: str | None = None) -> Artifact:
        return self._artifacts.artifact(name, self._in(collection))

    def stage_files(
        self,
        local_path: str | os.PathLike[str],
        artifact_path: str | None = None,
        *,
        follow_links: bool = False,
        progress: Progress | None = None,
    ) -> StagedPart:
        """Store a file or a folder as a part of a version that another process logs. No version appears yet.

        Call it in each worker that has some of the files. What it returns is small and contains no data: return it to
        the process that calls `log_files` with all parts. Parts that are never logged are freed by `prune`.

        Args:
            local_path, artifact_path, follow_links, progress: As for `log_files`.

        Returns:
            A value that says where the files are.

        Raises:
            ObjectMissing: There is nothing at `local_path`.
            InvalidName: A path or a link leads out of the folder.
            InvalidArgument: A file changed while it was read.

        Example:
            >>> import pathlib, tempfile
            >>> from prefect_snapshots import ArtifactRegistry
            >>> registry = ArtifactRegistry("memory://example-staged")
            >>> folder = pathlib.Path(tempfile.mkdtemp())
            >>> parts = []
            >>> for number in range(2):  # on any machine
            ...     _ = (folder / f"{number}.csv").write_text("a,b")
            ...     parts.append(registry.stage_files(folder / f"{number}.csv", "table"))
            >>> str(registry.log_files("dataset", parts)), registry.list_files("dataset")
            ('default/dataset:v0', [('table/0.csv', 3), ('table/1.csv', 3)])
        """
        folder = scan_folder(Path(os.path.expanduser(local_path)), artifact_path, follow_links=follow_links)
        passed = counter("upload", folder.size, progress)
        return self.repository.stage(lambda writer: folder.store(writer, passed()))

    def draft(
        self,
        name: str,
        version: VersionLike = None,
        *,
        collection: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        expiry: datetime | str | None = None,
    ) -> FolderDraft:
        """Make the next version of a folder from an existing one: add, replace and remove some of its files.

        Files that stay are neither read nor copied.

        Args:
            name: The name of the artifact.
            version: The version to begin with. Default: the latest.
            collection: The collection. Default: the active one.
            metadata, expiry: As for `log_files`. The metadata of the existing version is not taken over.

        Returns:
            A context manager with `add` and `remove`. When its block ends without an exception, one version is logged,
            and its `version` says which. If nothing was changed, nothing is logged.

        Raises:
            ArtifactNotFound: There is no such artifact or version.
            InvalidArgument: The version is a value, and not a folder.
            CommitConflict: Somebody else has logged a version meanwhile. Raised when the block ends: nothing was saved.

        Example:
            >>> import pathlib, tempfile
            >>> from prefect_snapshots import ArtifactRegistry
            >>> registry = ArtifactRegistry("memory://example-draft")
            >>> with registry.log_folder("dataset") as folder:
            ...     for name in ("a.csv", "b.csv"):
            ...         _ = (folder / name).write_text(name)
            >>> new = pathlib.Path(tempfile.mkdtemp()) / "c.csv"
            >>> _ = new.write_text("c.csv")
            >>> with registry.draft("dataset") as draft:
            ...     draft.add(new)
            ...     draft.remove("a.csv")
            >>> str(draft.version), registry.list_files("dataset")
            ('default/dataset:v1', [('b.csv', 5), ('c.csv', 5)])
        """
        return self.artifact(name, collection).draft(version, metadata=metadata, expiry=expiry)

    # --- looking -----------------------------------------------------------------------------------------------------

    def list_collection_names(self) -> list[str]:
        return self._artifacts.collections()

    def list_names(self, collection: str | None = None) -> list[str]:
        return self._artifacts.existing(self._in(collection))

    def list_artifacts(self, collection: str | None = None) -> list[ArtifactInfo]:
        infos = []
        for name in self.list_names(collection):
            with contextlib.suppress(ArtifactNotFound), leaving_out_damage(f"Artifact {name}"):
                infos.append(self.artifact(name, collection).get())
        return sorted(infos, key=lambda info: info.created_at, reverse=True)

    def get_lineage(
        self,
        name: str,
        version: VersionLike = None,
        match: Match = "exact",
        *,
        collection: str | None = None,
        origins_only: bool = False,
    ) -> list[LineageStep]:
        """Return what a version was made from, and what was made from it, in this repository.

        Versions that are logged in a flow run, and snapshots that are saved in one, record what this run has read
        before: artifacts, snapshots, files of `snapshots://` and restored backups. A version that was promoted records
        its source.

        Args:
            name, version, match, collection: See `ArtifactManager`.
            origins_only: Only return what the version was made from. This does not read all names of the repository.

        Returns:
            The steps, from the farthest origin (a negative distance) to what was made last (a positive one).

        Raises:
            ArtifactNotFound: There is no such artifact or version.

        Example:
            >>> from prefect_snapshots import ArtifactRegistry, SnapshotManager
            >>> manager = SnapshotManager("memory://example-lineage", name="training")
            >>> _ = manager.save_snapshot([0.5], "step-7")
            >>> registry = ArtifactRegistry("memory://example-lineage")
            >>> version = manager.promote("step-7", registry, "model")
            >>> [(step.distance, step.kind, step.version) for step in registry.get_lineage("model")]
            [(-1, 'snapshots', 'step-7')]
        """
        info = self.get_artifact(name, version, match, collection=collection)
        graph, label = self._artifacts.lineage_graph(), f"{info.collection}/{info.name}"
        return graph.above(label, info.version) if origins_only else graph.around(label, info.version)

    def get_card(
        self, name: str, version: VersionLike = None, match: Match = "exact", *, collection: str | None = None
    ) -> str:
        """Return the card of a version: Markdown that says what it is, for a model hub, a review or a release.

        It has the descriptions of the artifact and of the version, which `describe_artifact` sets, as they are. Below
        them is what the version records: tags, stages, size, the flow run and the commit that made it, what it was made
        from, and its metadata.

        Args:
            name, version, match, collection: See `ArtifactManager`.

        Returns:
            The card. It shows the state of now: stages, tags and descriptions can change.

        Raises:
            ArtifactNotFound: There is no such artifact or version.

        Example:
            >>> from prefect_snapshots import ArtifactRegistry
            >>> registry = ArtifactRegistry("memory://example-card")
            >>> version = registry.log_artifact("model", [1.0], metadata={"metrics": {"loss": 0.05}})
            >>> registry.describe_artifact("model", 0, description="Reads **digits**.")
            >>> for line in registry.get_card("model").splitlines():
            ...     if line.startswith(("#", "Reads", "| `metrics")):
            ...         print(line)
            # model v0
            Reads **digits**.
            #### Metrics and other metadata
            | `metrics.loss` | 0.05 |
        """
        info = self.get_artifact(name, version, match, collection=collection)
        return card_of(info, self.get_description(info.name, info.collection))

    # --- names -------------------------------------------------------------------------------------------------------

    def rename_artifact(
        self, name: str, new_name: str, *, dry_run: bool = False, collection: str | None = None
    ) -> None:
        """Rename an artifact. Its versions keep their numbers, times, metadata, tags, stages, pins and releases.

        No data is copied. Everything is under the new name before anything is deleted under the old one. If the call is
        interrupted, call it again to finish.

        Args:
            name: The name of the artifact.
            new_name: A name that no artifact of the collection has.
            dry_run: Change nothing, and only raise the error that would be raised.
            collection: The collection. Default: the active one.

        Raises:
            ArtifactNotFound: There is no such artifact.
            InvalidArgument: There is already an artifact with the new name.
            CommitConflict: Others wrote to the old or to the new name meanwhile. Call it again.

        Example:
            >>> from prefect_snapshots import ArtifactRegistry
            >>> registry = ArtifactRegistry("memory://example-rename-artifact")
            >>> for value in (0.5, 0.25):
            ...     version = registry.log_artifact("modle", value)
            >>> registry.promote_artifact("modle", 0, to="production").version
            'v0'
            >>> registry.rename_artifact("modle", "model")
            >>> registry.list_names(), registry.load_artifact("model", "production")
            (['model'], 0.5)
        """
        self._artifacts.rename(self._in(collection), name, new_name, dry_run)

    # --- releases ----------------------------------------------------------------------------------------------------

    def create_release(
        self,
        tag: str,
        artifacts: Mapping[str, VersionLike] | None = None,
        *,
        collection: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Release:
        """Create a release: a fixed set of artifact versions under one tag. A release never changes.

        Args:
            tag: The name of the release. It must be new in the collection.
            artifacts: Versions by artifact name, such as `{"model": "production", "features": 3}`. Default: the latest
                version of every artifact of the collection.
            collection: The collection. Default: the active one.
            metadata: JSON-like values with string keys, up to 64 KB.

        Returns:
            The release.

        Raises:
            ReleaseExists: The collection already has a release with this tag.
            ArtifactNotFound: An artifact or version does not exist, or the collection is empty.

        Example:
            >>> registry = ArtifactRegistry("memory://example-release")
            >>> version = registry.log_artifact("model", [1.0])
            >>> registry.create_release("2026.1").artifacts
            {'model': 'v0'}
        """
        chosen = dict.fromkeys(self.list_names(collection)) if artifacts is None else artifacts
        if not chosen:
            raise ArtifactNotFound(f"The collection {self._in(collection)!r} has no artifacts to release.")
        released = {name: self.artifact(name, collection).release(version) for name, version in chosen.items()}
        return self._artifacts.releases_of(self._in(collection)).create(tag, released, metadata)

    def list_releases(self, collection: str | None = None) -> list[Release]:
        """List all releases of a collection, newest first."""
        return self._artifacts.releases_of(self._in(collection)).all()

    def find_release(
        self, tag: str | datetime | None = None, match: Match = "exact", *, collection: str | None = None
    ) -> Release:
        """Return a release by its tag or by a point in time.

        Args:
            tag: The name of the release, or a point in time. Default: the latest release.
            match: For a point in time: "exact", or "asof" for the newest release at that time.
            collection: The collection. Default: the active one.

        Raises:
            ArtifactNotFound: There is no such release. The message lists the existing ones.
        """
        return self._artifacts.releases_of(self._in(collection)).find(tag, match)

    def copy_release(
        self,
        tag: str | datetime | None,
        to: RepositoryLike,
        match: Match = "exact",
        *,
        collection: str | None = None,
        progress: Progress | None = None,
    ) -> ArtifactRegistry:
        """Copy a release into another repository: only its versions, with the same numbers.

        The release appears in the target when all versions are copied. If the copy is interrupted, call it again to
        copy the rest.

        Args:
            tag, match, collection: As for `find_release`.
            to: A repository, a URL or a path.
            progress: Called for each version with "copy", the number of bytes already in the target, and the total.

        Returns:
            A registry for the target repository.

        Raises:
            CommitConflict: The target already has another version with one of these numbers.
        """
        release = self.find_release(tag, match, collection=collection)
        target = ArtifactRegistry(to, release.collection)
        for name, version in release.artifacts.items():
            self.artifact(name, release.collection).copy_numbered(version, target.artifact(name), progress)
        target._artifacts.releases_of(release.collection).create(
            release.tag, release.artifacts, release.metadata, adopt=True
        )
        return target

    def _in(self, collection: str | None) -> str:
        return self.active_collection if collection is None else collection

    def __repr__(self) -> str:
        return f"ArtifactRegistry({self.repository.url!r}, collection={self.active_collection!r})"

    def __reduce__(self) -> tuple[Callable[..., ArtifactRegistry], tuple[Any, ...]]:
        return ArtifactRegistry, (self.repository, self.active_collection)
