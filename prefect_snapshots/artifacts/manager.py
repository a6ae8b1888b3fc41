"""ArtifactManager: the methods of every artifact store, called with the name of an artifact or through its handle.

An *artifact* has a name in a *collection*. Every time you log something under this name, a new *version* is created,
which never changes. An *alias*, such as the *stage* `production`, points to one version and can be moved.
"""

from __future__ import annotations

import contextlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from types import EllipsisType
from typing import Any, Protocol

from ..arguments import checking_types
from ..errors import ArtifactNotFound, InvalidArgument
from ..repository.conditions import Condition
from ..repository.contents import ContentReader, StagedPart
from ..repository.descriptions import Description
from ..repository.progress import Progress
from ..repository.staged_parts import Parts
from ..repository.tracking import leaving_out_damage
from ..retention import CleanupReport, RetentionPolicy
from .differences import Difference, FileDifference
from .downloads import Download, LoggedFolder
from .history import Match, Move, VersionLike
from .infos import ArtifactInfo, ArtifactVersion
from .references import refer


class ArtifactHandle(Protocol):
    """One artifact of a store: the methods of `ArtifactManager`, which describes them, without the name.

    Attributes:
        name: The name of the artifact.
        collection: The collection that it belongs to.
    """

    name: str
    collection: str

    def list_versions(self) -> list[ArtifactInfo]: ...
    def exists(self, version: VersionLike = None, match: Match = "exact") -> bool: ...
    def get(self, version: VersionLike = None, match: Match = "exact") -> ArtifactInfo: ...
    def list_files(self, version: VersionLike = None, match: Match = "exact") -> list[tuple[str, int]]: ...
    def log_files(
        self,
        local_path: str | os.PathLike[str] | Parts[StagedPart],
        artifact_path: str | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        expiry: datetime | str | None = None,
        if_changed: bool = False,
        follow_links: bool = False,
        token: str | None = None,
        progress: Progress | None = None,
    ) -> ArtifactVersion: ...
    def log_folder(
        self,
        *,
        metadata: Mapping[str, Any] | None = None,
        expiry: datetime | str | None = None,
        follow_links: bool = False,
        progress: Progress | None = None,
    ) -> LoggedFolder: ...
    def log(
        self,
        value: Any,
        handler: str = "json",
        *,
        metadata: Mapping[str, Any] | None = None,
        expiry: datetime | str | None = None,
        if_changed: bool = False,
        token: str | None = None,
        **writer_options: Any,
    ) -> ArtifactVersion: ...
    def adopt(
        self,
        content: ContentReader,
        *,
        handler: str | None,
        suffix: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        expiry: datetime | str | None = None,
        source: Mapping[str, str] | None = None,
        allow_older: bool = False,
        progress: Progress | None = None,
    ) -> ArtifactVersion: ...
    def download(
        self,
        version: VersionLike = None,
        to: str | os.PathLike[str] | None = None,
        *,
        paths: str | Iterable[str] | None = None,
        clean: bool = False,
        match: Match = "exact",
        validate: bool = True,
        progress: Progress | None = None,
    ) -> Download: ...
    def verify_folder(
        self,
        local_path: str | os.PathLike[str],
        version: VersionLike = None,
        match: Match = "exact",
        *,
        follow_links: bool = False,
    ) -> list[FileDifference]: ...
    def load(
        self, version: VersionLike = None, match: Match = "exact", validate: bool = True, **reader_options: Any
    ) -> Any: ...
    def diff(self, old: VersionLike, new: VersionLike = None, match: Match = "exact") -> Sequence[Difference]: ...
    def set_expiry(
        self, expiry: datetime | str | None, version: VersionLike = None, match: Match = "exact"
    ) -> None: ...
    def update_metadata(
        self, metadata: Mapping[str, Any], version: VersionLike = None, match: Match = "exact"
    ) -> None: ...
    def describe(
        self,
        version: VersionLike | EllipsisType = ...,
        *,
        description: str | None = None,
        add_tags: str | Sequence[str] | None = None,
        remove_tags: str | Sequence[str] | None = None,
    ) -> None: ...
    def get_description(self) -> Description: ...
    def pin(self, version: VersionLike = None) -> None: ...
    def unpin(self, version: VersionLike = None) -> None: ...
    def delete_version(self, version: VersionLike, *, force: bool = False, dry_run: bool = False) -> None: ...
    def delete(self, *, force: bool = False, dry_run: bool = False) -> None: ...
    def cleanup(self, policy: RetentionPolicy | None = None, dry_run: bool = False) -> CleanupReport: ...
    def set_alias(
        self, alias: str, version: VersionLike, expected: VersionLike | EllipsisType = ..., *, by: str | None = None
    ) -> ArtifactVersion: ...
    def delete_alias(self, alias: str, *, by: str | None = None) -> None: ...
    def get_aliases(self) -> dict[str, str]: ...
    def get_alias_history(self, alias: str | None = None) -> list[Move]: ...
    def rollback(self, alias: str, *, by: str | None = None) -> ArtifactVersion: ...
    def set_stage(
        self,
        stage: str,
        version: VersionLike = None,
        match: Match = "exact",
        *,
        expected: VersionLike | EllipsisType = ...,
        by: str | None = None,
    ) -> ArtifactVersion: ...
    def copy_to(
        self,
        to: ArtifactManager,
        version: VersionLike = None,
        match: Match = "exact",
        *,
        allow_older: bool = False,
        progress: Progress | None = None,
    ) -> ArtifactVersion: ...


@checking_types
class ArtifactManager(ABC):
    """An artifact store: the common methods of `ArtifactRegistry` and `WandbArtifactRegistry`.

    Most methods take these arguments:

    - `name`: the name of the artifact.
    - `version`: a number (`3`, `"v3"`), `"latest"` or None, an alias such as `"production"`, or a point in time: a
      datetime with a time zone, or an ISO 8601 string (UTC if it has no zone). A time without a fraction of a second
      means any time within that second.
      `get_artifact`, `load_artifact` and `download_artifact` also take it as part of the name, as in
      `"model:production"`.
    - `match`: for a point in time: `"exact"`, or `"asof"` for the newest version at that time.
    - `collection`: the collection of the artifact. Default: the active one.

    Methods that read raise `ArtifactNotFound` if there is no such artifact or version. The message lists existing ones.

    Attributes:
        active_collection: The collection that methods use by default.
        allow_pickle: Whether values stored with pickle can be loaded.
    """

    active_collection: str
    allow_pickle: bool

    @abstractmethod
    def artifact(self, name: str, collection: str | None = None) -> ArtifactHandle:
        """Return the handle of one artifact, with the same methods, but without `name`. It need not exist yet.

        Args:
            name, collection: See the class.
        """

    # --- looking -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def list_collection_names(self) -> list[str]:
        """List the collections that have artifacts, sorted."""

    @abstractmethod
    def list_names(self, collection: str | None = None) -> list[str]:
        """List the names of the artifacts of a collection, sorted. Empty if there is no such collection."""

    @abstractmethod
    def list_artifacts(self, collection: str | None = None) -> list[ArtifactInfo]:
        """List the latest version of each artifact of a collection, newest first. Empty if there is no such collection.

        Example:
            >>> from prefect_snapshots import ArtifactRegistry
            >>> registry = ArtifactRegistry("memory://example-list-artifacts")
            >>> for value in range(3):
            ...     version = registry.log_artifact("model", value)
            >>> [(info.name, info.version) for info in registry.list_artifacts()]
            [('model', 'v2')]
        """

    def list_versions(self, name: str | None = None, collection: str | None = None) -> list[ArtifactInfo]:
        """List all versions of an artifact, newest first, without loading data.

        A version with a damaged record is left out. A warning in the log names it.

        Args:
            name: The artifact. Default: all artifacts of the collection, without those that are damaged or are deleted
                meanwhile.
            collection: The collection. Default: the active one.
        """
        if name is not None:
            return self.artifact(name, collection).list_versions()
        infos: list[ArtifactInfo] = []
        for each in self.list_names(collection):
            with contextlib.suppress(ArtifactNotFound), leaving_out_damage(f"Artifact {each}"):
                infos += self.artifact(each, collection).list_versions()
        return sorted(infos, key=lambda info: info.created_at, reverse=True)

    def search(self, condition: str, name: str | None = None, *, collection: str | None = None) -> list[ArtifactInfo]:
        """Return the versions that meet a condition, newest first, without loading data.

        Args:
            condition: A text such as `"metrics.loss < 0.1 and tags = 'best'"`. `name`, `collection`, `version`,
                `created_at`, `expiry`, `handler`, `size`, `written`, `aliases`, `pinned`, `description` and `tags` are
                what they are in `ArtifactInfo`. Every other field is a key of the metadata. To join conditions: `and`,
                `or`, `not` and parentheses. To compare: `=`, `!=`, `<`, `<=`, `>`, `>=`, `in ('a', 'b')`, and `like` or
                `ilike` with `%` for any string.
            name: Look only at the versions of this artifact. Default: all artifacts of the collection.
            collection: The collection. Default: the active one.

        Returns:
            The infos, newest first. If there are none, a warning in the log names each field of the condition that no
            version has.

        Raises:
            InvalidArgument: The condition cannot be parsed. The message says where.

        Example:
            >>> from prefect_snapshots import ArtifactRegistry
            >>> registry = ArtifactRegistry("memory://example-search")
            >>> for loss in (0.5, 0.05):
            ...     version = registry.log_artifact("model", loss, metadata={"metrics": {"loss": loss}})
            >>> [str(info.version) for info in registry.search("metrics.loss < 0.1 and name like 'mod%'")]
            ['v1']
        """
        wanted = Condition(condition)
        infos = self.list_versions(name, collection)
        found = [info for info in infos if wanted.matches(info.fields, info.metadata)]
        if not found:
            wanted.warn_if_misspelt((info.fields, info.metadata) for info in infos)
        return found

    def exists(
        self, name: str, collection: str | None = None, version: VersionLike = None, match: Match = "exact"
    ) -> bool:
        """Return whether an artifact, or a version of it, exists. An expired version exists, too."""
        return self.artifact(name, collection).exists(version, match)

    def get_artifact(
        self, name: str, version: VersionLike = None, match: Match = "exact", *, collection: str | None = None
    ) -> ArtifactInfo:
        """Return the metadata of a version without downloading it.

        Args:
            name, version, match, collection: See the class.

        Raises:
            ArtifactNotFound: There is no such artifact or version.
        """
        artifact, version = self._named(name, version, collection)
        return artifact.get(version, match)

    def get_artifact_metadata(
        self, name: str, version: VersionLike = None, match: Match = "exact", *, collection: str | None = None
    ) -> dict[str, Any]:
        """Return a copy of the metadata that you gave a version."""
        return self.get_artifact(name, version, match, collection=collection).metadata

    def list_files(
        self, name: str, version: VersionLike = None, match: Match = "exact", *, collection: str | None = None
    ) -> list[tuple[str, int]]:
        """List the path and size in bytes of each file of a version, without downloading it."""
        return self.artifact(name, collection).list_files(version, match)

    # --- logging -----------------------------------------------------------------------------------------------------

    def log_files(
        self,
        name: str,
        local_path: str | os.PathLike[str] | Parts[StagedPart],
        collection: str | None = None,
        artifact_path: str | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        expiry: datetime | str | None = None,
        if_changed: bool = False,
        follow_links: bool = False,
        token: str | None = None,
        progress: Progress | None = None,
    ) -> ArtifactVersion:
        """Log a file, a folder or parts of one as a new version. When this returns, the version is durable.

        Args:
            name: The name of the artifact.
            local_path: A file, which keeps its name, or a folder. Files with their permissions, directories, and
                symbolic links to targets inside the folder are logged. Or parts of a folder that other processes have
                stored with `ArtifactRegistry.stage_files`: a list of them, or a function that returns them. It is
                called with None for all parts, and with the numbers of some that have to be stored again.
            collection: The collection of the artifact. Default: the active one.
            artifact_path: The folder in the artifact to put them into, as in "data/raw". Default: the top.
            metadata: JSON-like values with string keys, up to 64 KB.
            expiry: When the version expires: a datetime with a time zone, or an ISO 8601 string. Default: never.
            if_changed: If the latest version has the same content, return it instead of creating a new one. It gets the
                new metadata and expiry.
            follow_links: Log what links in the folder lead to, instead of the links. Links may then lead anywhere, as
                in the cache of a model hub.
            token: The `token` of a `CommitUnknown` that an earlier call raised. If that call succeeded after all, its
                version is returned, and nothing is logged twice.
            progress: Called with "upload", the number of bytes read so far, and the total.

        Returns:
            The version that was logged, with its name and number.

        Raises:
            ObjectMissing: There is nothing at `local_path`.
            InvalidName: A path or a link leads out of the folder.
            InvalidArgument: A file changed while it was read, or two parts have the same file. Nothing was saved.
            StagedPartsLost: A prune has freed some of the parts. The error has their numbers. Nothing was saved.
        """
        return self.artifact(name, collection).log_files(
            local_path,
            artifact_path,
            metadata=metadata,
            expiry=expiry,
            if_changed=if_changed,
            follow_links=follow_links,
            token=token,
            progress=progress,
        )

    def log_folder(
        self,
        name: str,
        collection: str | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        expiry: datetime | str | None = None,
        follow_links: bool = False,
        progress: Progress | None = None,
    ) -> LoggedFolder:
        """Return an empty folder to write to. It is logged when the `with` block ends without an exception.

        Args:
            name, collection, metadata, expiry, follow_links, progress: As for `log_files`.

        Returns:
            A context manager that returns the path of the folder. After the block, its `version` is the logged version,
            or None if the folder was empty: then nothing is logged.

        Example:
            >>> from prefect_snapshots import ArtifactRegistry
            >>> registry = ArtifactRegistry("memory://example-folder")
            >>> logged = registry.log_folder("report")
            >>> with logged as folder:
            ...     _ = (folder / "summary.txt").write_text("all is well")
            >>> str(logged.version)
            'default/report:v0'
        """
        return self.artifact(name, collection).log_folder(
            metadata=metadata, expiry=expiry, follow_links=follow_links, progress=progress
        )

    def log_artifact(
        self,
        name: str,
        value: Any,
        handler: str = "json",
        *,
        collection: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        expiry: datetime | str | None = None,
        if_changed: bool = False,
        token: str | None = None,
        **writer_options: Any,
    ) -> ArtifactVersion:
        """Log a value as a new version.

        Args:
            name: The name of the artifact.
            value: A value that the handler can write.
            handler: "json", "text", "pickle", "numpy", "pytree", "joblib", "parquet", "arrow", "safetensors", or one
                that another package installs.
            collection, metadata, expiry, if_changed, token: As for `log_files`.
            writer_options: Options of the handler, such as `indent=4` for JSON.

        Returns:
            The version that was logged, with its name and number.

        Raises:
            HandlerNotFound: No such handler is installed.
            UnserialisableValue: The handler cannot write the value. Nothing was saved.
            UnserialisableLeaf: A leaf of a pytree cannot be written. The message names the leaf. Nothing was saved.
            PickleRefused: The handler uses pickle, and the repository was opened with `allow_pickle=False`.
        """
        return self.artifact(name, collection).log(
            value, handler, metadata=metadata, expiry=expiry, if_changed=if_changed, token=token, **writer_options
        )

    def log_reference(
        self,
        name: str,
        url: str | os.PathLike[str],
        *,
        storage_options: Mapping[str, Any] | None = None,
        checksum: bool = False,
        collection: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        expiry: datetime | str | None = None,
        if_changed: bool = False,
    ) -> ArtifactVersion:
        """Log files that stay where they are. The version records their sizes and what identifies their content.

        `load_artifact` returns a `FileReference` after it has verified that no file has changed. Pass it `within`, a
        URL or several, to refuse references to anywhere else (`ReferenceRefused`). It is required if the repository was
        opened with `allow_pickle=False`, because whoever logs a reference chooses where loading it sends requests.

        Args:
            name: The name of the artifact.
            url: A path, or the URL of a file or a folder, such as "s3://bucket/data". It is stored, so it must contain
                no secret.
            storage_options: Options of the file system, such as credentials. They are not stored: pass them to
                `load_artifact`, too.
            checksum: Also read the files, and record a checksum of each. Default: trust the version, the ETag or the
                time of modification that the storage returns.
            collection, metadata, expiry, if_changed: As for `log_files`.

        Returns:
            The version that was logged, with its name and number.

        Raises:
            ObjectMissing: There are no files at the URL.
            InvalidArgument: The URL contains a secret, or is not one of files.
            StorageError: The storage cannot be read.

        Example:
            >>> import pathlib, tempfile
            >>> from prefect_snapshots import ArtifactRegistry
            >>> folder = pathlib.Path(tempfile.mkdtemp())
            >>> _ = (folder / "large.csv").write_text("a,b")
            >>> registry = ArtifactRegistry("memory://example-reference")
            >>> version = registry.log_reference("raw", folder)
            >>> reference = registry.load_artifact("raw")
            >>> with reference.open("large.csv") as file:
            ...     file.read()
            b'a,b'
        """
        return self.log_artifact(
            name,
            refer(url, storage_options, checksum),
            "reference",
            collection=collection,
            metadata=metadata,
            expiry=expiry,
            if_changed=if_changed,
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
        allow_older: bool = False,
        progress: Progress | None = None,
    ) -> ArtifactVersion:
        """Create a version from content that is already stored in this or another repository.

        Only chunks that this repository lacks are copied. If the newest version has the same source, it is returned.

        Args:
            name: The name of the artifact.
            content: The content of a version, or any other content of a repository.
            handler: The handler that reads the value. None for a folder.
            suffix: The suffix of the downloaded file. Default: that of the handler.
            environment: The versions of `python` and of packages, by name, that are required to load the value.
            source: Where the content comes from, as strings with string keys. `created_at` is when it was first logged.
            allow_older: Create the version even if the artifact has one that was logged after `created_at`.
            collection, metadata, expiry: As for `log_files`.
            progress: Called with "copy", the number of bytes copied or already here, and the total.

        Returns:
            The version, with its name and number.
        """
        return self.artifact(name, collection).adopt(
            content,
            handler=handler,
            suffix=suffix,
            metadata=metadata,
            environment=environment,
            expiry=expiry,
            source=source,
            allow_older=allow_older,
            progress=progress,
        )

    # --- reading -----------------------------------------------------------------------------------------------------

    def download_artifact(
        self,
        name: str,
        collection: str | None = None,
        version: VersionLike = None,
        to: str | os.PathLike[str] | None = None,
        *,
        paths: str | Iterable[str] | None = None,
        clean: bool = False,
        match: Match = "exact",
        validate: bool = True,
        progress: Progress | None = None,
    ) -> Download:
        """Download a version. Every byte is verified.

        Args:
            name, version, match, collection: See the class.
            to: A directory. If it does not exist, it appears when the download is complete and durable. If it exists,
                files of the same name are replaced, and all others are kept. Default: a temporary directory, which is
                deleted at the end of the `with` block, or when the result is garbage collected.
            paths: Download only the files that match these patterns, as in `.gitignore`: "plots/", "*.csv".
                Default: all files.
            clean: Delete everything in `to` that is not downloaded.
            validate: Refuse an expired version.
            progress: Called with "download", the number of bytes written so far, and the total.

        Returns:
            A `Download`: use it as a path, or in a `with` statement to get the path.

        Raises:
            ArtifactExpired: The version has expired.
            InvalidArgument: The target is not a directory, or has a directory where the artifact has a file. Or no file
                matches `paths`.
            DamagedVersion: A file is damaged. The message names it. The target is unchanged.
        """
        artifact, version = self._named(name, version, collection)
        return artifact.download(
            version, to, paths=paths, clean=clean, match=match, validate=validate, progress=progress
        )

    def verify_folder(
        self,
        name: str,
        local_path: str | os.PathLike[str],
        version: VersionLike = None,
        match: Match = "exact",
        *,
        follow_links: bool = False,
        collection: str | None = None,
    ) -> list[FileDifference]:
        """Compare a folder on the disk, such as a download, with a version, byte by byte. Nothing is changed.

        Args:
            name, version, match, collection: See the class.
            local_path: The folder.
            follow_links: Compare what links in the folder lead to, as `log_files` does.

        Returns:
            A `FileDifference` for each file that is missing in the folder ("removed"), that is only there ("added"), or
            whose bytes or permissions differ ("changed"), sorted by path. Empty if the folder is identical.

        Raises:
            ObjectMissing: There is nothing at `local_path`.

        Example:
            >>> import pathlib, tempfile
            >>> from prefect_snapshots import ArtifactRegistry
            >>> registry = ArtifactRegistry("memory://example-verify")
            >>> version = registry.log_artifact("notes", "one", "text")
            >>> with registry.download_artifact("notes") as folder:
            ...     _ = (folder / "more.txt").write_text("two")
            ...     [(each.path, each.kind) for each in registry.verify_folder("notes", folder)]
            [('more.txt', 'added')]
        """
        return self.artifact(name, collection).verify_folder(local_path, version, match, follow_links=follow_links)

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
        """Return the value of a version. Every byte is verified.

        Args:
            name, version, match, collection: See the class.
            validate: Refuse a version that has expired, or that needs another environment than this one.
            reader_options: Options of the handler, such as `leaves="encoder/**"` for pytrees.

        Raises:
            ArtifactExpired: The version has expired.
            EnvironmentMismatch: It needs another version of Python or of a package.
            PickleRefused: It was stored with pickle, and the repository was opened with `allow_pickle=False`.
            UnreadableValue: The handler cannot read it: a package is missing, or the handler did not write it.
            InvalidArgument: It is a folder of files (use `download_artifact`), or the handler has no such option.
            DamagedVersion: Stored data is damaged.

        Example:
            >>> from prefect_snapshots import ArtifactRegistry
            >>> registry = ArtifactRegistry("memory://example-load-artifact")
            >>> version = registry.log_artifact("model", {"encoder": [1.0], "head": [2.0]}, "pytree")
            >>> registry.load_artifact("model", leaves="head/**")["head"]
            [2.0]
        """
        artifact, version = self._named(name, version, collection)
        return artifact.load(version, match, validate, **reader_options)

    def diff(
        self,
        name: str,
        old: VersionLike,
        new: VersionLike = None,
        match: Match = "exact",
        *,
        collection: str | None = None,
    ) -> Sequence[Difference]:
        """Compare two versions by files, lines of text, or leaves of pytrees. Nothing is unpickled.

        Args:
            name, match, collection: See the class.
            old: The version to compare with.
            new: The version to compare. Default: the latest.

        Returns:
            One `Difference` for each file or leaf that differs, sorted by path.

        Example:
            >>> from prefect_snapshots import ArtifactRegistry
            >>> registry = ArtifactRegistry("memory://example-diff-artifact")
            >>> for value in ("one", "two"):
            ...     version = registry.log_artifact("notes", value, "text")
            >>> [(each.path, each.kind) for each in registry.diff("notes", 0)]
            [('value.txt', 'changed')]
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
        """Set when a version expires. After that, it is loaded only with `validate=False`.

        Args:
            name, version, match, collection: See the class.
            expiry: A datetime with a time zone, or an ISO 8601 string. None means never.
        """
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
        """Add or replace values in the metadata of a version. Other keys keep their values.

        Args:
            name, version, match, collection: See the class.
            metadata: JSON-like values with string keys. Together with the existing values, up to 64 KB.
        """
        self.artifact(name, collection).update_metadata(metadata, version, match)

    def describe_artifact(
        self,
        name: str,
        version: VersionLike | EllipsisType = ...,
        *,
        description: str | None = None,
        add_tags: str | Sequence[str] | None = None,
        remove_tags: str | Sequence[str] | None = None,
        collection: str | None = None,
    ) -> None:
        """Describe an artifact, or one of its versions. What you leave out stays as it is.

        Args:
            name, collection: See the class.
            version: See the class. None is the latest version. Default: describe the artifact, and not a version.
            description: A text of up to 10,000 characters, such as Markdown. An empty one removes it.
            add_tags: Tags to add: one or several.
            remove_tags: Tags to remove. Tags that it does not have are ignored.

        Example:
            >>> from prefect_snapshots import ArtifactRegistry
            >>> registry = ArtifactRegistry("memory://example-describe")
            >>> version = registry.log_artifact("model", [1.0])
            >>> registry.describe_artifact("model", description="Reads digits.", add_tags=["team=vision", "small"])
            >>> registry.describe_artifact("model", "latest", description="Trained on half of the data.")
            >>> registry.get_description("model").tags, registry.get_artifact("model").description
            (('team=vision', 'small'), 'Trained on half of the data.')
        """
        self.artifact(name, collection).describe(
            version, description=description, add_tags=add_tags, remove_tags=remove_tags
        )

    def get_description(self, name: str, collection: str | None = None) -> Description:
        """Return the description and the tags of an artifact. Those of a version are in its `ArtifactInfo`."""
        return self.artifact(name, collection).get_description()

    def pin(self, name: str, version: VersionLike = None, *, collection: str | None = None) -> None:
        """Exempt a version from retention. Pinning twice changes nothing."""
        self.artifact(name, collection).pin(version)

    def unpin(self, name: str, version: VersionLike = None, *, collection: str | None = None) -> None:
        """Allow retention to delete a version again. Unpinning twice changes nothing."""
        self.artifact(name, collection).unpin(version)

    def delete_version(
        self,
        name: str,
        version: VersionLike,
        *,
        force: bool = False,
        dry_run: bool = False,
        collection: str | None = None,
    ) -> None:
        """Delete one version. Its number is never used again. The next prune reclaims the space.

        Args:
            name, version, collection: See the class.
            force: Delete it even if it is pinned, released, or has an alias. Its aliases are deleted, too.
            dry_run: Delete nothing, and only raise the error that would be raised.

        Raises:
            InvalidArgument: It is pinned, released, or has an alias, and `force` is False.
        """
        self.artifact(name, collection).delete_version(version, force=force, dry_run=dry_run)

    def delete_artifact(
        self, name: str, *, force: bool = False, dry_run: bool = False, collection: str | None = None
    ) -> None:
        """Delete all versions of an artifact, or none if one of them needs `force=True`. See `delete_version`."""
        self.artifact(name, collection).delete(force=force, dry_run=dry_run)

    def cleanup(
        self,
        policy: RetentionPolicy | None = None,
        dry_run: bool = False,
        *,
        name: str | None = None,
        collection: str | None = None,
    ) -> CleanupReport:
        """Delete versions that a retention policy does not keep. The next prune reclaims the space.

        Some versions are always kept: the latest, pinned ones, those of a release, and those that an alias points to or
        would return to by a rollback.

        Args:
            policy: The retention policy, applied to each artifact separately. Required, because a registry has no
                default policy.
            dry_run: Only report what would be deleted.
            name: Clean up only this artifact. Default: every artifact of the collection.
            collection: The collection. Default: the active one.

        Returns:
            A report with a row for each version, such as `model:v3`.

        Raises:
            InvalidArgument: You passed no policy, or one that would keep nothing.

        Example:
            >>> from prefect_snapshots import ArtifactRegistry, RetentionPolicy
            >>> registry = ArtifactRegistry("memory://example-cleanup")
            >>> for value in range(4):
            ...     version = registry.log_artifact("model", value)
            >>> registry.promote_artifact("model", 0, to="production").version
            'v0'
            >>> registry.cleanup(RetentionPolicy(keep_last=2)).deleted
            ('model:v1',)
        """
        policy = RetentionPolicy.checked(policy)
        names = self.list_names(collection) if name is None else [name]
        reports = []
        for each in names:
            with leaving_out_damage(f"Artifact {each}", when=name is None):
                reports.append((each, self.artifact(each, collection).cleanup(policy, dry_run)))
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
            alias: A name that does not look like a version or a date.
            expected: Move it only if it points to this version now. None means that it must not exist yet. Default:
                always move it.
            by: Who moves it, for the history. Default: user and host.

        Returns:
            The version that the alias points to now.

        Raises:
            CommitConflict: It does not point to `expected`. The message says where it points.
            InvalidName: The alias looks like a version or a date.
        """
        return self.artifact(name, collection).set_alias(alias, version, expected, by=by)

    def delete_alias(self, name: str, alias: str, *, collection: str | None = None, by: str | None = None) -> None:
        """Delete an alias, but keep its history.

        Args:
            name, collection: See the class.
            alias: The alias, such as "production".
            by: Who deletes it, for the history. Default: user and host.

        Raises:
            ArtifactNotFound: There is no such alias.
        """
        self.artifact(name, collection).delete_alias(alias, by=by)

    def get_aliases(self, name: str, collection: str | None = None) -> dict[str, str]:
        """Return the version of each alias of an artifact, as in `{"production": "v3"}`."""
        return self.artifact(name, collection).get_aliases()

    def get_alias_history(self, name: str, alias: str | None = None, collection: str | None = None) -> list[Move]:
        """Return every move of one alias, or of all aliases, oldest first.

        Args:
            name, collection: See the class.
            alias: The alias. Default: all aliases.
        """
        return self.artifact(name, collection).get_alias_history(alias)

    def rollback(
        self, name: str, alias: str, *, collection: str | None = None, by: str | None = None
    ) -> ArtifactVersion:
        """Move an alias back to its previous version. A second call moves it to the version before that.

        Args:
            name, collection: See the class.
            alias: The alias, such as "production".
            by: Who moves it, for the history. Default: user and host.

        Returns:
            The version that the alias points to now.

        Raises:
            ArtifactNotFound: There is no such alias, or it has no previous version.
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
        """Promote a version to a stage. A stage is an alias that is moved only if nobody else has moved it meanwhile.

        Args:
            name, version, match, collection: See the class.
            stage: The name of the stage, such as "production".
            expected: Promote only if the stage has this version now. None means that the stage must not exist yet.
                Default: the version of the stage when the call begins.
            by: Who promotes it, for the history. Default: user and host.

        Returns:
            The version that the stage has now.

        Raises:
            CommitConflict: The stage has another version than expected. The message says which.
            ArtifactExpired: The version has expired.
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
        allow_older: bool = False,
        progress: Progress | None = None,
    ) -> ArtifactVersion:
        """Copy a version into another registry: another collection, repository or storage.

        The copy appears only when it is complete, with its metadata, expiry, environment and time of creation. Only
        chunks that the target lacks are copied. If the copy is interrupted, call it again to copy the rest. If the
        newest version of the target is already a copy of this one, nothing changes.

        Args:
            name, version, match, collection: See the class.
            to: The other registry.
            allow_older: Copy the version even if the target has one that was logged later. The copy becomes its latest.
            progress: Called with "copy", the number of bytes already in the target, and the total.

        Returns:
            The version in the target.

        Raises:
            ArtifactExpired: The version has expired.
            InvalidArgument: The target has a newer version, and `allow_older` is False.
        """
        return self.artifact(name, collection).copy_to(to, version, match, allow_older=allow_older, progress=progress)

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
        allow_older: bool = False,
        progress: Progress | None = None,
    ) -> ArtifactVersion:
        """Promote a version to a stage, or copy it into another registry. See `set_stage` and `copy_to`.

        Args:
            name, version, match, collection: See the class.
            to: A stage, such as "production", or a registry.
            expected, by: As for `set_stage`.
            allow_older, progress: As for `copy_to`.

        Returns:
            The version. If `to` is a registry, the version in that registry.

        Example:
            >>> from prefect_snapshots import ArtifactRegistry
            >>> registry = ArtifactRegistry("memory://example-promote-artifact")
            >>> for value in (0.91, 0.88):
            ...     version = registry.log_artifact("model", value)
            >>> registry.promote_artifact("model", "v0", to="production").version
            'v0'
            >>> archive = ArtifactRegistry("memory://example-archive")
            >>> str(registry.promote_artifact("model", "production", to=archive))
            'default/model:v0'
        """
        if isinstance(to, str):
            return self.set_stage(name, version, to, match, expected=expected, collection=collection, by=by)
        return self.copy_to(name, version, to, match, collection=collection, allow_older=allow_older, progress=progress)

    def _named(self, name: str, version: VersionLike, collection: str | None) -> tuple[ArtifactHandle, VersionLike]:
        """Return the artifact and the version of a name such as `model:production` or `snapshots:/model@production`."""
        if version is None and ":" in name and not self.artifact(name, collection).exists():
            if uri := _URI.fullmatch(name):
                name, version = uri["name"], uri["alias"] or uri["version"]
            else:
                name, _, version = name.rpartition(":")
        return self.artifact(name, collection), version


_URI = re.compile(r"(?:snapshots|models):/(?P<name>[^/@][^@]*?)(?:@(?P<alias>[^@/]+)|/(?P<version>v?[0-9]+|latest))?")
"""A version as MLflow writes it, with its scheme or ours."""


def require_store(to: object) -> None:
    """Check that a version can be copied to `to`.

    Raises:
        InvalidArgument: It is not an artifact store.
    """
    if not isinstance(to, ArtifactManager):
        raise InvalidArgument(
            f"The target of a copy must be an ArtifactRegistry, not {type(to).__name__}. Nothing was copied."
        )
