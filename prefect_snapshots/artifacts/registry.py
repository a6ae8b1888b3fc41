"""ArtifactRegistry: artifacts in a repository - logged, found, downloaded, promoted, released."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from types import EllipsisType
from typing import Any

from ..errors import ArtifactNotFound, InvalidArgument
from ..repository.choosing import RepositoryLike, as_repository
from ..repository.contents import ContentReader
from ..repository.names import check_name
from ..repository.progress import Progress
from ..repository.repository import Repository
from ..retention import CleanupReport, RetentionPolicy
from .artifact import Artifact, notes_of
from .differences import Difference
from .downloads import Download, LoggedFolder
from .handlers import find_handler
from .history import Match, Move, VersionLike
from .interface import ArtifactInfo, ArtifactManager, ArtifactVersion, Release
from .streams import Artifacts


class ArtifactRegistry:
    """Keep artifacts in a repository: immutable versions of files, folders and values, with stages and releases.

    Any number of processes may log, promote and download at once; nothing needs to be set up. Identical data is stored
    only once, whatever it came from.

    Args:
        repository: Where the artifacts are: a `Repository`, a URL, a path or the Prefect block. Default: the
            repository of the enclosing `use_repository`, else the one of the settings, else `./snapshots`.
        collection: The collection that is meant if a method gets none: an experiment, a team, a kind of data.

    Most methods take these arguments:

    - `name`: the name of the artifact.
    - `version`: a number (`3`, `"v3"`), `"latest"` or None, an alias such as `"production"`, or a point in time: a
      datetime with a zone, or an ISO 8601 string (UTC if it names no zone). A time without a fraction of a second
      stands for its whole second.
    - `match`: for a point in time: `"exact"`, or `"asof"` for the newest version at that time.
    - `collection`: default: the active one.

    Methods that read raise `ArtifactNotFound` if there is no such artifact or version. The message names what there is.

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
        """Return the handle of one artifact, which has the same methods without the name. It need not exist yet."""
        return self._artifacts.artifact(name, self._in(collection))

    # --- looking -----------------------------------------------------------------------------------------------------

    def list_collection_names(self) -> list[str]:
        """List the collections that have artifacts, sorted."""
        return self._artifacts.collections()

    def list_names(self, collection: str | None = None) -> list[str]:
        """List the names of the artifacts of a collection, sorted. Empty if there is no such collection."""
        return [artifact.name for artifact in self._artifacts.existing(self._in(collection))]

    def list_artifacts(self, collection: str | None = None) -> list[ArtifactInfo]:
        """List the latest version of each artifact of a collection, newest first. Empty if there is no such collection.

        Example:
            >>> registry = ArtifactRegistry("memory://example-list-artifacts")
            >>> for value in range(3):
            ...     version = registry.log_artifact("model", value)
            >>> [(info.name, info.version) for info in registry.list_artifacts()]
            [('model', 'v2')]
        """
        infos = [artifact.get() for artifact in self._artifacts.existing(self._in(collection))]
        return sorted(infos, key=lambda info: info.created_at, reverse=True)

    def list_versions(self, name: str, collection: str | None = None) -> list[ArtifactInfo]:
        """List all versions of an artifact, newest first. No data is read."""
        return self.artifact(name, collection).list_versions()

    def exists(
        self, name: str, collection: str | None = None, version: VersionLike = None, match: Match = "exact"
    ) -> bool:
        """Return whether there is such an artifact, or such a version of it; an expired one exists, too."""
        return self.artifact(name, collection).exists(version, match)

    def get_artifact(
        self, name: str, version: VersionLike = None, match: Match = "exact", *, collection: str | None = None
    ) -> ArtifactInfo:
        """Return the metadata of a version without reading it."""
        return self.artifact(name, collection).get(version, match)

    def get_artifact_metadata(
        self, name: str, version: VersionLike = None, match: Match = "exact", *, collection: str | None = None
    ) -> dict[str, Any]:
        """Return a copy of what you noted of a version."""
        return self.get_artifact(name, version, match, collection=collection).metadata

    def list_files(
        self, name: str, version: VersionLike = None, match: Match = "exact", *, collection: str | None = None
    ) -> list[tuple[str, int]]:
        """List path and bytes of every file that a download of a version gives."""
        return self.artifact(name, collection).list_files(version, match)

    # --- logging -----------------------------------------------------------------------------------------------------

    def log_files(
        self,
        name: str,
        local_path: str | os.PathLike[str],
        collection: str | None = None,
        artifact_path: str | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        expiry: datetime | str | None = None,
        token: str | None = None,
        progress: Progress | None = None,
    ) -> ArtifactVersion:
        """Log a file or a folder as a new version. When this returns, it survives a loss of power.

        Args:
            name: The artifact.
            local_path: A file, which keeps its name, or a folder, whose entries keep theirs: files with their
                permissions, directories, and links that stay inside.
            collection: Default: the active one.
            artifact_path: The folder in the artifact that takes them. Default: its top.
            metadata: Plain values by string keys, up to 64 KB.
            expiry: When the version expires. Default: never.
            token: Of an earlier call that raised `CommitUnknown`: if that one succeeded, its version is returned.
            progress: Called with "upload", bytes read and bytes in all.

        Raises:
            ObjectMissing: There is nothing at `local_path`.
            InvalidName: A path or a link leads out of the folder.
            InvalidArgument: A file changed meanwhile. Nothing was saved.
        """
        return self.artifact(name, collection).log_files(
            local_path, artifact_path, metadata=metadata, expiry=expiry, token=token, progress=progress
        )

    def log_folder(
        self,
        name: str,
        collection: str | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        expiry: datetime | str | None = None,
        progress: Progress | None = None,
    ) -> LoggedFolder:
        """Give an empty folder to write into. It is logged when the block ends, unless that is by an exception.

        The arguments are those of `log_files`.

        Example:
            >>> registry = ArtifactRegistry("memory://example-folder")
            >>> logged = registry.log_folder("report")
            >>> with logged as folder:
            ...     _ = (folder / "summary.txt").write_text("all is well")
            >>> str(logged.version)
            'default/report:v0'
        """
        return self.artifact(name, collection).log_folder(metadata=metadata, expiry=expiry, progress=progress)

    def log_artifact(
        self,
        name: str,
        value: Any,
        handler: str = "json",
        *,
        collection: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        expiry: datetime | str | None = None,
        token: str | None = None,
        **writer_options: Any,
    ) -> ArtifactVersion:
        """Log a value as a new version.

        Args:
            name: The artifact.
            value: What the handler can write.
            handler: "json", "text", "pickle", "numpy", "pytree", "joblib", "parquet", or one of another package.
            collection, metadata, expiry, token: As for `log_files`.
            writer_options: Of the handler, such as `indent=4` for JSON.

        Raises:
            HandlerNotFound: No such handler is installed.
            UnserialisableValue: The handler cannot write the value. Nothing was saved.
            UnserialisableLeaf: The same, for a pytree: the error names the leaf.
            PickleRefused: The handler uses pickle, and the repository was opened with `allow_pickle=False`.
        """
        return self.artifact(name, collection).log(
            value, handler, metadata=metadata, expiry=expiry, token=token, **writer_options
        )

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
        expiry: datetime | str | None = None,
        source: Mapping[str, str] | None = None,
        progress: Progress | None = None,
    ) -> ArtifactVersion:
        """Make a version of a content that is stored already, in this or another repository.

        Only chunks that are missing here are copied. If the newest version came from the same source, it is returned.

        Args:
            name: The artifact.
            content: Of a version, or of anything else that a repository holds.
            handler: Reads the value; None for a folder.
            suffix: Of the file that it becomes. Default: that of the handler.
            environment: Packages that must have the same version where it is loaded.
            source: Where it comes from, as strings by string keys.
            collection, metadata, expiry: As for `log_files`.
            progress: Called with "copy", bytes that are here and bytes in all.
        """
        body = notes_of(metadata, expiry)
        if handler is not None:
            body |= {"handler": handler, "suffix": suffix or find_handler(handler).suffix}
        if environment:
            body["environment"] = dict(environment)
        if source:
            body["source"] = dict(source)
        return self.artifact(name, collection).adopt(content, body, progress)

    # --- reading -----------------------------------------------------------------------------------------------------

    def download_artifact(
        self,
        name: str,
        collection: str | None = None,
        version: VersionLike = None,
        to: str | os.PathLike[str] | None = None,
        *,
        match: Match = "exact",
        validate: bool = True,
        progress: Progress | None = None,
    ) -> Download:
        """Download a version, every byte verified.

        Args:
            name, version, match, collection: See the class.
            to: A directory. One that does not exist appears when everything is there and durable. In one that exists a
                file of the same name is replaced, and others stay. Default: a temporary directory, deleted when the
                result is left as a context manager, or is gone.
            validate: Whether an expired version is refused.
            progress: Called with "download", bytes written and bytes in all.

        Returns:
            An `os.PathLike`, and a context manager that gives the path.

        Raises:
            ArtifactExpired: The version is past its expiry.
            InvalidArgument: The target is no directory, or has one where the artifact has a file.
            DamagedVersion: Naming the file that cannot be verified. The target is as it was.
        """
        return self.artifact(name, collection).download(version, to, match=match, validate=validate, progress=progress)

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
        """Return the value of a version, every byte verified.

        Args:
            name, version, match, collection: See the class.
            validate: Whether an expired version, and one that needs another environment than this, is refused.
            reader_options: Of the handler, such as `leaves="encoder/**"` for pytrees.

        Raises:
            ArtifactExpired: The version is past its expiry.
            EnvironmentMismatch: It was written with another Python or package, and that matters for its handler.
            PickleRefused: It is stored with pickle, and the repository was opened with `allow_pickle=False`.
            InvalidArgument: It is a folder of files: use `download_artifact`.
            DamagedVersion: It cannot be verified.
        """
        return self.artifact(name, collection).load(version, match, validate, **reader_options)

    def diff(
        self,
        name: str,
        old: VersionLike,
        new: VersionLike = None,
        match: Match = "exact",
        *,
        collection: str | None = None,
    ) -> Sequence[Difference]:
        """Compare two versions: files of folders, lines of text, leaves of pytrees. Nothing is unpickled.

        Args:
            name, match, collection: See the class.
            old: A version.
            new: Another one. Default: the latest.

        Returns:
            A difference for each file or leaf that differs, sorted by path.
        """
        return self.artifact(name, collection).diff(old, new, match)

    # --- changing ----------------------------------------------------------------------------------------------------

    def set_artifact_expiry(
        self,
        name: str,
        expiry: datetime | str | None,
        version: VersionLike = None,
        match: Match = "exact",
        *,
        collection: str | None = None,
    ) -> None:
        """Set when a version expires; None: never. From then on it is only loaded with `validate=False`."""
        self.artifact(name, collection).set_expiry(expiry, version, match)

    def update_artifact_metadata(
        self,
        name: str,
        metadata: Mapping[str, Any],
        version: VersionLike = None,
        match: Match = "exact",
        *,
        collection: str | None = None,
    ) -> None:
        """Merge into the metadata of a version: given keys are set, others stay."""
        self.artifact(name, collection).update_metadata(metadata, version, match)

    def pin(self, name: str, version: VersionLike = None, *, collection: str | None = None) -> None:
        """Exempt a version from retention. Pinning it again changes nothing."""
        self.artifact(name, collection).pin(version)

    def unpin(self, name: str, version: VersionLike = None, *, collection: str | None = None) -> None:
        """Let retention delete a version again. Unpinning it again changes nothing."""
        self.artifact(name, collection).unpin(version)

    def delete_version(
        self, name: str, version: VersionLike, *, force: bool = False, collection: str | None = None
    ) -> None:
        """Delete one version. Its number is never given again; the space is freed by the next prune.

        Args:
            name, version, collection: See the class.
            force: Whether to delete a version that is pinned, released, or has an alias. Its aliases are deleted with
                it.

        Raises:
            InvalidArgument: It is pinned, released, or has an alias, and `force` is False.
        """
        self.artifact(name, collection).delete_version(version, force=force)

    def delete_artifact(self, name: str, *, force: bool = False, collection: str | None = None) -> None:
        """Delete all versions of an artifact, or none. See `delete_version`."""
        self.artifact(name, collection).delete(force=force)

    def cleanup(
        self,
        policy: RetentionPolicy | None = None,
        dry_run: bool = False,
        *,
        name: str | None = None,
        collection: str | None = None,
    ) -> CleanupReport:
        """Delete versions that a retention policy does not keep. The space is freed by the next prune.

        Whatever the policy says, the latest version stays, as does what is pinned, what an alias points to or would go
        back to by a rollback, and what a release names.

        Args:
            policy: Decides for each artifact on its own. A registry has no policy of its own: pass one.
            dry_run: Whether to only report what would be deleted.
            name: One artifact. Default: every one of the collection.
            collection: Default: the active one.

        Returns:
            A report with a row for each version, named as in `model:v3`.

        Raises:
            InvalidArgument: There is no policy, or it would keep nothing.

        Example:
            >>> from prefect_snapshots import RetentionPolicy
            >>> registry = ArtifactRegistry("memory://example-cleanup")
            >>> for value in range(4):
            ...     version = registry.log_artifact("model", value)
            >>> registry.promote_artifact("model", 0, to="production").version
            'v0'
            >>> registry.cleanup(RetentionPolicy(keep_last=2)).deleted
            ('model:v1',)
        """
        if policy is None:
            raise InvalidArgument("A registry has no retention policy of its own: pass a RetentionPolicy.")
        if name is None:
            artifacts = self._artifacts.existing(self._in(collection))
        else:
            artifacts = [self.artifact(name, collection)]
        reports = [(artifact.name, artifact.cleanup(policy, dry_run)) for artifact in artifacts]
        return CleanupReport(
            tuple(replace(row, name=f"{each}:{row.name}") for each, report in reports for row in report.rows),
            tuple(f"{each}:{deleted}" for each, report in reports for deleted in report.deleted),
            dry_run,
        )

    # --- stages ------------------------------------------------------------------------------------------------------

    def set_alias(
        self,
        name: str,
        version: VersionLike,
        alias: str,
        expected: VersionLike | EllipsisType = ...,
        *,
        collection: str | None = None,
        by: str | None = None,
    ) -> ArtifactVersion:
        """Point an alias to a version.

        Args:
            name, version, collection: See the class.
            alias: A name that looks like no version and no date.
            expected: Move it only if it points to this version now, or with None if it does not exist. Default: move
                it wherever it points.
            by: Who moves it. Default: user and host.

        Raises:
            CommitConflict: It does not point to `expected`; the message says where it points.
            InvalidName: The alias could be taken for a version.
        """
        return self.artifact(name, collection).set_alias(alias, version, expected, by=by)

    def delete_alias(self, name: str, alias: str, *, collection: str | None = None, by: str | None = None) -> None:
        """Delete an alias; its history stays.

        Raises:
            ArtifactNotFound: There is no such alias.
        """
        self.artifact(name, collection).delete_alias(alias, by=by)

    def get_aliases(self, name: str, collection: str | None = None) -> dict[str, str]:
        """Return where each alias of an artifact points, as in `{"production": "v3"}`."""
        return self.artifact(name, collection).get_aliases()

    def get_alias_history(self, name: str, alias: str | None = None, collection: str | None = None) -> list[Move]:
        """Return every move of an alias, or of all: when, by whom, from where. The oldest first."""
        return self.artifact(name, collection).get_alias_history(alias)

    def rollback(
        self, name: str, alias: str, *, collection: str | None = None, by: str | None = None
    ) -> ArtifactVersion:
        """Move an alias back to its previous version; called again, to the one before that.

        Raises:
            ArtifactNotFound: There is no such alias, or it never pointed elsewhere.
        """
        return self.artifact(name, collection).rollback(alias, by=by)

    def set_stage(
        self,
        name: str,
        version: VersionLike,
        stage: str,
        match: Match = "exact",
        *,
        expected: VersionLike | EllipsisType = ...,
        collection: str | None = None,
        by: str | None = None,
    ) -> ArtifactVersion:
        """Promote a version to a stage: an alias that is only moved if nobody else moved it meanwhile.

        Args:
            name, version, match, collection: See the class.
            stage: Such as "production".
            expected: Promote it only if the stage is this version now. Default: what it is when the call begins.
            by: Who promotes. Default: user and host.

        Raises:
            CommitConflict: The stage is another version than expected; the message says which.
            ArtifactExpired: The version is past its expiry.
        """
        return self.artifact(name, collection).set_stage(stage, version, match, expected=expected, by=by)

    def copy_to(
        self,
        name: str,
        version: VersionLike,
        to: ArtifactManager,
        match: Match = "exact",
        *,
        collection: str | None = None,
        progress: Progress | None = None,
    ) -> ArtifactVersion:
        """Copy a version into another registry: of another collection, repository or storage.

        It succeeds wholly or not at all. Only chunks that the target lacks are copied, and a second try after a kill
        copies the rest; metadata, expiry and environment go along. Copying the newest version of the target again
        changes nothing.

        Args:
            name, version, match, collection: See the class.
            to: The other registry.
            progress: Called with "copy", bytes that are in the target and bytes in all.

        Returns:
            The version in the target.

        Raises:
            ArtifactExpired: The version is past its expiry.
        """
        return self.artifact(name, collection).copy_to(to, version, match, progress=progress)

    def promote_artifact(
        self,
        name: str,
        version: VersionLike = None,
        match: Match = "exact",
        *,
        to: ArtifactManager | str,
        collection: str | None = None,
        expected: VersionLike | EllipsisType = ...,
        by: str | None = None,
        progress: Progress | None = None,
    ) -> ArtifactVersion:
        """Promote a version to a stage, or into another registry. See `set_stage` and `copy_to`.

        Args:
            name, version, match, collection: See the class.
            to: A stage, such as "production", or a registry.
            expected, by: As for `set_stage`.
            progress: As for `copy_to`.

        Returns:
            The version: of the target, if that is a registry.
        """
        if isinstance(to, str):
            return self.set_stage(name, version, to, match, expected=expected, collection=collection, by=by)
        return self.copy_to(name, version, to, match, collection=collection, progress=progress)

    # --- releases ----------------------------------------------------------------------------------------------------

    def create_release(
        self,
        tag: str,
        artifacts: Mapping[str, VersionLike] | None = None,
        *,
        collection: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Release:
        """Tag one version of each of many artifacts. A release never changes.

        Args:
            tag: Any name that no release of the collection has.
            artifacts: Versions by name, as in `{"model": "production", "features": 3}`. Default: the latest of every
                artifact of the collection.
            collection: Default: the active one.
            metadata: Plain values by string keys.

        Raises:
            ReleaseExists: The tag is taken.
            ArtifactNotFound: There is no such artifact or version, or none at all.
        """
        chosen = dict.fromkeys(self.list_names(collection)) if artifacts is None else artifacts
        if not chosen:
            raise ArtifactNotFound(f"The collection {self._in(collection)!r} has nothing to release.")
        released = {name: self.artifact(name, collection).release(version) for name, version in chosen.items()}
        return self._artifacts.releases_of(self._in(collection)).create(tag, released, metadata)

    def list_releases(self, collection: str | None = None) -> list[Release]:
        """List all releases of a collection, newest first."""
        return self._artifacts.releases_of(self._in(collection)).all()

    def find_release(
        self, tag: str | datetime | None = None, match: Match = "exact", *, collection: str | None = None
    ) -> Release:
        """Return a release by its tag, or by a point in time. Default: the latest.

        Raises:
            ArtifactNotFound: There is none; the message says which there are.
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
        """Copy a release into another repository: its versions under the same numbers, and nothing else.

        The release appears when all of it is there. A second try copies the rest.

        Args:
            tag, match, collection: As for `find_release`.
            to: A repository, a URL or a path.
            progress: Called with "copy", bytes that are in the target and bytes in all, for each version.

        Returns:
            A registry over the copy.

        Raises:
            CommitConflict: Another version has the number of one of these already.
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
