"""ArtifactRegistry: artifacts in a repository - logged, found, downloaded, promoted, released."""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import EllipsisType
from typing import Any

from ..errors import (
    ArtifactExpired,
    ArtifactNotFound,
    CommitConflict,
    InvalidArgument,
)
from ..repository.catalog import token_from
from ..repository.choosing import RepositoryLike, as_repository
from ..repository.commits import Draft
from ..repository.contents import ContentReader, Stored, Writer, inline
from ..repository.metadata import clean_metadata
from ..repository.names import check_name
from ..repository.repository import Repository
from ..repository.times import from_nanoseconds
from ..retention import RetentionItem, RetentionPolicy, RetentionRow
from . import folders
from .differences import Difference, diff_files, diff_folders
from .downloads import Download, check_target, download, entries_of, remove
from .handlers import check_environment, find_handler, write_value
from .history import Match, Move, Version, VersionLike, check_alias, expiry_of, is_expired, moves_of, source_of
from .interface import ArtifactInfo, ArtifactManager, ArtifactVersion, Progress, Release
from .streams import Artifact, Artifacts


class ArtifactRegistry:
    """Artifacts in a repository: immutable versions of files, folders and values, with stages and releases.

    Any number of processes may log, promote and download at once; nothing needs to be set up. What is equal is stored
    once, whatever it came from.

    Arguments:
        repository: where the artifacts live: a `Repository`, a URL, a path or the Prefect block. Default: the
            repository of the enclosing `use_repository`, else the one of the settings, else `./snapshots`.
        collection: the one that is meant where a method gets none: an experiment, a team, a kind of data.

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

    # --- which there are --------------------------------------------------------------------------------------------

    def list_collection_names(self) -> list[str]:
        """The collections that have artifacts, sorted."""
        return self._artifacts.collections()

    def list_artifacts(self, collection: str | None = None) -> list[str]:
        """The names of the artifacts of a collection, sorted. Empty where there is no such collection.

        Arguments:
            collection: default: the active one.
        """
        return self._artifacts.names(self._in(collection))

    def list_versions(self, name: str, collection: str | None = None) -> list[ArtifactInfo]:
        """All versions of an artifact, the oldest first.

        Raises:
            ArtifactNotFound: there is no such artifact.
        """
        artifact = self._artifacts.existing(name, self._in(collection))
        return [artifact.info(version) for version in list(artifact.history.versions.values())]

    def exists(
        self, name: str, collection: str | None = None, version: VersionLike = None, match: Match = "exact"
    ) -> bool:
        """Whether there is such an artifact, or such a version of it; an expired one is there, too."""
        try:
            self._artifacts.find(name, version, match, self._in(collection))
        except ArtifactNotFound:
            return False
        return True

    def get_artifact(
        self, name: str, version: VersionLike = None, match: Match = "exact", *, collection: str | None = None
    ) -> ArtifactInfo:
        """What is known of a version without reading it.

        Arguments:
            name: the artifact.
            version: a number (`3`, `"v3"`), `"latest"` (the default), an alias, or a point in time: a datetime with a
                zone, or an ISO 8601 text (UTC where it names no zone). A time without a fraction of a second stands for
                its whole second.
            match: of a point in time: "exact", or "asof" for the newest version as of then.
            collection: default: the active one.

        Raises:
            ArtifactNotFound: there is no such artifact or version; the message says what there is.
        """
        artifact, found = self._artifacts.find(name, version, match, self._in(collection))
        return artifact.info(found)

    def get_artifact_metadata(
        self, name: str, version: VersionLike = None, match: Match = "exact", *, collection: str | None = None
    ) -> dict[str, Any]:
        """The metadata of a version: a copy. The arguments are those of `get_artifact`."""
        return self.get_artifact(name, version, match, collection=collection).metadata

    def list_files(
        self, name: str, version: VersionLike = None, match: Match = "exact", *, collection: str | None = None
    ) -> list[tuple[str, int]]:
        """Path and bytes of every file that a download of a version gives. The arguments are as for `get_artifact`."""
        artifact, found = self._artifacts.find(name, version, match, self._in(collection))
        suffix = found.event.body.get("suffix")
        with self._artifacts.content(artifact, found) as content:
            return [(entry.path, entry.size) for entry in entries_of(artifact.name, suffix, content) if entry.is_file]

    # --- logging ----------------------------------------------------------------------------------------------------

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

        Arguments:
            name: the artifact.
            local_path: a file, which keeps its name, or a folder, whose entries keep theirs: files with their modes,
                directories, and links that stay inside.
            collection: default: the active one.
            artifact_path: the folder within the artifact that takes them; default: its top.
            metadata: plain values by text keys, up to 64 KB.
            expiry: when the version expires.
            token: of an earlier call that raised `CommitUnknown`: if that one landed, its version is returned.
            progress: called with "upload", bytes read and bytes in all.

        Raises:
            ObjectMissing: there is nothing at `local_path`.
            InvalidName: a path or a link that leads out of the folder.
            InvalidArgument: a file changed meanwhile. Nothing was logged.
        """
        sources = folders.scan(Path(local_path), artifact_path)
        manifest = folders.encode_manifest(sources)
        passed = _counter("upload", folders.size_of(sources), progress)
        return self._log(
            self._artifacts.artifact(name, self._in(collection)),
            _notes(metadata, expiry),
            folders.travelling(manifest, sources),
            lambda writer: folders.store(writer, manifest, sources, passed()),
            token,
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
        """An empty folder to write into; what it holds when the block ends is logged, unless it ends by an exception.

        Example:
            >>> registry = ArtifactRegistry("memory://example-folder")
            >>> logged = registry.log_folder("report")
            >>> with logged as folder:
            ...     _ = (folder / "summary.txt").write_text("all is well")
            >>> str(logged.version)
            'default/report:v0'
        """

        def log(folder: Path) -> ArtifactVersion:
            return self.log_files(name, folder, collection, metadata=metadata, expiry=expiry, progress=progress)

        self._artifacts.artifact(name, self._in(collection))  # a bad name is refused now, and not after hours of work
        _notes(metadata, expiry)
        return LoggedFolder(log)

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

        Arguments:
            name: the artifact.
            value: what the handler can write.
            handler: "json", "text", "pickle", "numpy", "pytree", "joblib", "parquet", or one of another package.
            collection, metadata, expiry, token: as for `log_files`.
            writer_options: of the handler, such as `indent=4` for JSON.

        Raises:
            HandlerNotFound: no such handler is installed.
            UnserialisableValue: it cannot write the value. Nothing was logged.
            UnserialisableLeaf: likewise, of a pytree, naming the leaf.
            PickleRefused: it uses pickle, and the repository was opened with `allow_pickle=False`.
        """
        found, (manifest, buffers) = write_value(
            handler, value, allow_pickle=self.repository.allow_pickle, options=writer_options
        )
        body = {"handler": handler, "suffix": found.suffix, "environment": found.environment(value)}
        return self._log(
            self._artifacts.artifact(name, self._in(collection)),
            {**body, **_notes(metadata, expiry)},
            inline(manifest, buffers),
            lambda writer: writer.store(manifest, buffers),
            token,
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
        """Make a version of a content that is stored already, here or in another repository.

        Only chunks that are not here are copied. Adopting the newest version's source again gives that version.

        Arguments:
            name: the artifact.
            content: of a version, or of anything else that a repository holds.
            handler: that reads the value; None for a folder.
            suffix: of the file that it becomes; default: the handler's.
            environment: what has to be the same where it is read.
            source: where it comes from, in texts.
            collection, metadata, expiry: as for `log_files`.
            progress: called with "copy", bytes that are here and bytes in all.
        """
        body = _notes(metadata, expiry)
        if handler is not None:
            body |= {"handler": handler, "suffix": suffix or find_handler(handler).suffix}
        if environment:
            body["environment"] = dict(environment)
        if source:
            body["source"] = dict(source)
        return self._adopt(self._artifacts.artifact(name, self._in(collection)), content, body, progress)

    # --- reading ----------------------------------------------------------------------------------------------------

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

        Arguments:
            name, version, match, collection: as for `get_artifact`.
            to: a directory. One that does not exist appears when all is there and durable. In one that exists a file of
                the same name is replaced, and others stay. Default: a temporary directory, removed when the result is
                left as a context manager, or is gone.
            validate: whether an expired version is refused.
            progress: called with "download", bytes written and bytes in all.

        Returns:
            An `os.PathLike`, and a context manager that gives the path.

        Raises:
            ArtifactNotFound: there is no such artifact or version.
            ArtifactExpired: the version is past its expiry.
            InvalidArgument: the target is no directory, or has one where the artifact has a file.
            DamagedVersion: naming the file that cannot be verified. The target is as it was.
        """
        artifact, found = self._artifacts.find(name, version, match, self._in(collection))
        if validate:
            _refuse_expired(artifact, found)
        target = check_target(to)
        with self._artifacts.content(artifact, found) as content:
            entries = entries_of(artifact.name, found.event.body.get("suffix"), content)
        passed = _counter("download", sum(entry.size for entry in entries), progress)()
        result = artifact.version_of(found.event)

        def write(folder: Path, durable: bool) -> None:
            folders.write(content, entries, folder, str(result), durable=durable, passed=passed)

        return download(write, entries, target, result)

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
        """The value of a version, every byte verified.

        Arguments:
            name, version, match, collection: as for `get_artifact`.
            validate: whether an expired version, and one that needs another environment than this, is refused.
            reader_options: of the handler, such as `leaves="encoder/**"` for pytrees.

        Raises:
            ArtifactNotFound: there is no such artifact or version.
            ArtifactExpired: the version is past its expiry.
            EnvironmentMismatch: it was written with another Python or package, where that matters.
            PickleRefused: reading it takes pickle, and the repository was opened with `allow_pickle=False`.
            InvalidArgument: it is a folder.
            DamagedVersion: it cannot be verified.
        """
        artifact, found = self._artifacts.find(name, version, match, self._in(collection))
        if found.handler is None:
            raise InvalidArgument(f"{artifact.label_of(found)} is a folder of files: use download_artifact")
        if validate:
            _refuse_expired(artifact, found)
            check_environment(found.event.body.get("environment", {}), artifact.label_of(found))
        handler = find_handler(found.handler)
        with self._artifacts.content(artifact, found) as content:
            return handler.read(content.manifest, content, allow_pickle=self.repository.allow_pickle, **reader_options)

    def get_version_diff(
        self,
        name: str,
        old: VersionLike,
        new: VersionLike = None,
        match: Match = "exact",
        *,
        collection: str | None = None,
    ) -> Sequence[Difference]:
        """What differs between two versions: files of folders, lines of texts, leaves of pytrees.

        Arguments:
            name, match, collection: as for `get_artifact`.
            old, new: versions; `new` is the latest by default.
        """
        artifact, before = self._artifacts.find(name, old, match, self._in(collection))
        after = artifact.history.resolve(new, match, artifact.label)
        with self._artifacts.content(artifact, before) as a, self._artifacts.content(artifact, after) as b:
            if before.handler is None and after.handler is None:
                return diff_folders(a, folders.decode_manifest(a), b, folders.decode_manifest(b))
            if before.handler == after.handler:
                allow_pickle = self.repository.allow_pickle
                handler = find_handler(str(after.handler))
                return handler.diff((a.manifest, a), (b.manifest, b), allow_pickle=allow_pickle)
            return diff_files(artifact.name, a, b)

    # --- noting -----------------------------------------------------------------------------------------------------

    def set_artifact_expiry(
        self,
        name: str,
        expiry: datetime | str | None,
        version: VersionLike = None,
        match: Match = "exact",
        *,
        collection: str | None = None,
    ) -> None:
        """Set when a version expires; None: never. From then on it is only read with `validate=False`."""
        self._annotate(name, version, match, collection, {"expiry": expiry_of(expiry)})

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
        self._annotate(name, version, match, collection, {"metadata": clean_metadata(metadata)})

    # --- stages -----------------------------------------------------------------------------------------------------

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
        """Have an alias point to a version.

        Arguments:
            name, version, collection: as for `get_artifact`.
            alias: a name that looks like no version and no date.
            expected: move it only if it points to this version now, or with None if there is none. Default: move it
                wherever it points.
            by: who moves it; default: user and host.

        Raises:
            CommitConflict: it does not point to `expected`; the message says where it points.
            InvalidName: the alias could be taken for a version.
        """
        artifact, found = self._artifacts.find(name, version, "exact", self._in(collection))
        return self._move(artifact, check_alias(alias), lambda: found, expected, by)

    def remove_alias(self, name: str, alias: str, *, collection: str | None = None, by: str | None = None) -> None:
        """Remove an alias; its history stays.

        Raises:
            ArtifactNotFound: there is no such alias.
        """
        artifact = self._artifacts.existing(name, self._in(collection))

        def draft() -> Draft:
            artifact.stack_of(alias)
            return Draft("alias", {"alias": alias, "version": None, "by": by or _who()})

        artifact.tracked.change(draft)

    def get_aliases(self, name: str, collection: str | None = None) -> dict[str, str]:
        """Where each alias of an artifact points, as in `{"production": "v3"}`."""
        history = self._artifacts.existing(name, self._in(collection)).history
        return {alias: f"v{stack[-1]}" for alias, stack in sorted(history.aliases.items())}

    def get_alias_history(self, name: str, alias: str | None = None, collection: str | None = None) -> list[Move]:
        """Every move of an alias, or of all: when, by whom, from where. The oldest first."""
        return list(moves_of(self._artifacts.existing(name, self._in(collection)).history, alias))

    def rollback(
        self, name: str, alias: str, *, collection: str | None = None, by: str | None = None
    ) -> ArtifactVersion:
        """Have an alias point to where it pointed before its last move; again, to where it pointed before that.

        Raises:
            ArtifactNotFound: there is no such alias, or it never pointed elsewhere.
        """
        artifact = self._artifacts.existing(name, self._in(collection))

        def previous() -> Version:
            stack = artifact.stack_of(alias)
            if len(stack) < 2:
                raise ArtifactNotFound(
                    f"{alias!r} of {artifact.label} has always been v{stack[0]}: nothing to go back to"
                )
            return artifact.history.versions[stack[-2]]

        return self._move(artifact, alias, previous, artifact.history.alias_target(alias), by, rollback=True)

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
        """Promote a version to a stage, or into another registry: of another collection, repository or storage.

        It happens wholly or not at all. Between repositories only chunks that the target lacks are copied, and a second
        try after a kill copies the rest; metadata, expiry and environment go along. Promoting again what is the newest
        version of the target changes nothing.

        Arguments:
            name, version, match, collection: as for `get_artifact`.
            to: a stage, such as "production", or a registry.
            expected: promote to the stage only if it is this version now. Default: what it is when the call begins, so
                that of two promotions at the same time one is told of the other.
            by: who promotes; default: user and host.
            progress: called with "copy", bytes that are in the target and bytes in all.

        Returns:
            The version: of the target, if that is a registry.

        Raises:
            CommitConflict: the stage is another version than expected; the message says which.
            ArtifactExpired: the version is past its expiry.
        """
        artifact, found = self._artifacts.find(name, version, match, self._in(collection))
        _refuse_expired(artifact, found)
        if isinstance(to, str):
            alias = check_alias(to)
            if expected is ...:
                expected = artifact.history.alias_target(alias)
            return self._move(artifact, alias, lambda: found, expected, by)
        body = found.event.body
        source = self._source(artifact, found)
        with self._artifacts.content(artifact, found) as content:
            return to.adopt(
                name,
                content,
                handler=found.handler,
                suffix=body.get("suffix"),
                metadata=found.metadata,
                environment=body.get("environment"),
                expiry=None if found.expiry is None else from_nanoseconds(found.expiry),
                source=source,
                progress=progress,
            )

    # --- releases ---------------------------------------------------------------------------------------------------

    def create_release(
        self,
        tag: str,
        artifacts: Mapping[str, VersionLike] | None = None,
        *,
        collection: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Release:
        """Put a tag over one version of each of many artifacts. It never changes.

        Arguments:
            tag: any name that no release of the collection has.
            artifacts: versions by name, as in `{"model": "production", "features": 3}`. Default: the latest of every
                artifact of the collection.
            collection: default: the active one.
            metadata: plain values by text keys.

        Raises:
            ReleaseExists: the tag is taken.
            ArtifactNotFound: there is no such artifact or version, or none at all.
        """
        chosen = dict.fromkeys(self.list_artifacts(collection)) if artifacts is None else artifacts
        if not chosen:
            raise ArtifactNotFound(f"the collection {self._in(collection)!r} has nothing to release")
        pinned = {name: self._pin(name, version, self._in(collection)) for name, version in chosen.items()}
        return self._artifacts.releases_of(self._in(collection)).create(tag, pinned, metadata)

    def list_releases(self, collection: str | None = None) -> list[Release]:
        """All releases of a collection, the oldest first."""
        return self._artifacts.releases_of(self._in(collection)).all()

    def find_release(
        self, tag: str | datetime | None = None, match: Match = "exact", *, collection: str | None = None
    ) -> Release:
        """A release by its tag, or by a point in time as for `get_artifact`. Default: the latest.

        Raises:
            ArtifactNotFound: there is none; the message says which there are.
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

        The release is there when all of it is. A second try copies the rest.

        Arguments:
            tag, match, collection: as for `find_release`.
            to: a repository, a URL or a path.

        Returns:
            A registry over the copy.

        Raises:
            CommitConflict: another version has the number of one of these already.
        """
        release = self.find_release(tag, match, collection=collection)
        target = ArtifactRegistry(to, release.collection)
        for name, version in release.artifacts.items():
            artifact, found = self._artifacts.find(name, version, "exact", release.collection)
            body = {key: value for key, value in found.event.body.items() if key not in ("id", "source")}
            body |= {"metadata": found.metadata, "expiry": found.expiry, "source": self._source(artifact, found)}
            with self._artifacts.content(artifact, found) as content:
                target._adopt(
                    target._artifacts.artifact(name, release.collection), content, body, progress, found.number
                )
            target._pin(name, found.label, release.collection)
        target._artifacts.releases_of(release.collection).create(
            release.tag, release.artifacts, release.metadata, adopt=True
        )
        return target

    # --- cleaning up ------------------------------------------------------------------------------------------------

    def cleanup(
        self, policy: RetentionPolicy, dry_run: bool = False, *, name: str | None = None, collection: str | None = None
    ) -> dict[str, list[RetentionRow]]:
        """Remove versions that a retention policy does not keep. The space is freed by the next prune.

        Whatever the policy says, the latest version stays, as does what an alias points to or would go back to by a
        rollback, and what a release names.

        Arguments:
            policy: see `RetentionPolicy`; it is asked about each artifact by itself.
            dry_run: only say what would go.
            name: one artifact; default: every one of the collection.
            collection: default: the active one.

        Returns:
            The policy's rows (name, keep, reasons) for the versions of each artifact.

        Raises:
            ArtifactNotFound: there is no such artifact.

        Example:
            >>> registry = ArtifactRegistry("memory://example-cleanup")
            >>> for value in range(4):
            ...     version = registry.log_artifact("model", value)
            >>> registry.promote_artifact("model", 0, to="production").version
            'v0'
            >>> [row.name for row in registry.cleanup(RetentionPolicy(keep_last=2))["model"] if not row.keep]
            ['v1']
        """
        names = self.list_artifacts(collection) if name is None else [name]
        return {each: self._clean(each, policy, dry_run, self._in(collection)) for each in names}

    # --- inside -----------------------------------------------------------------------------------------------------

    def _log(
        self,
        artifact: Artifact,
        body: dict[str, Any],
        content: Stored | None,
        store: Callable[[Writer], Stored],
        token: str | None,
    ) -> ArtifactVersion:
        event = artifact.tracked.store(
            lambda: Draft("version", {"id": f"v{artifact.history.next_number}", **body}),
            content,
            store,
            token=token_from(token),
        )
        return artifact.version_of(event)

    def _adopt(
        self,
        artifact: Artifact,
        content: ContentReader,
        body: dict[str, Any],
        progress: Progress | None,
        number: int | None = None,
    ) -> ArtifactVersion:
        """Commit a version with a content that is stored already, under the next number or a given one."""
        there: Version | None = None

        def draft() -> Draft | None:
            nonlocal there
            history = artifact.history
            there = history.newest if number is None else history.versions.get(number)
            if there is not None and _is_from(there, body.get("source")):
                return None
            if number is not None and number < history.next_number:
                raise CommitConflict(
                    f"{artifact.label} of {self.repository.url} is at v{history.next_number - 1} already, so that "
                    f"v{number} cannot come: copy the release into a repository of its own"
                )
            return Draft("version", {"id": f"v{history.next_number if number is None else number}", **body})

        event = artifact.tracked.adopt(draft, content, _counter("copy", content.size, progress)())
        return artifact.version_of(event or (None if there is None else there.event))

    def _pin(self, name: str, version: VersionLike, collection: str) -> str:
        """Have a version stay whatever a clean-up is told, because a release is about to name it."""
        artifact, found = self._artifacts.find(name, version, "exact", collection)

        def draft() -> Draft | None:
            history = artifact.history
            history.resolve(found.number, "exact", artifact.label)  # it may have been cleaned up just now
            return None if found.number in history.pinned else Draft("pin", {"version": found.label})

        artifact.tracked.change(draft)
        return found.label

    def _clean(self, name: str, policy: RetentionPolicy, dry_run: bool, collection: str) -> list[RetentionRow]:
        artifact = self._artifacts.existing(name, collection)
        rows: list[RetentionRow] = []

        def draft() -> Draft | None:
            history = artifact.history
            rows[:] = policy.plan(
                RetentionItem(version.label, from_nanoseconds(version.time), exempt=history.exempt(number))
                for number, version in history.versions.items()
            )
            gone = {row.name for row in rows if not row.keep}
            doomed = [version.event.sequence for version in history.versions.values() if version.label in gone]
            return Draft("cleanup", {}, doomed) if doomed else None

        artifact.tracked.change(draft, dry_run=dry_run)
        return rows

    def _annotate(
        self, name: str, version: VersionLike, match: Match, collection: str | None, changes: dict[str, Any]
    ) -> None:
        artifact, found = self._artifacts.find(name, version, match, self._in(collection))

        def draft() -> Draft:
            now = artifact.history.versions.get(found.number, found)
            clean_metadata({**now.metadata, **changes.get("metadata", {})})  # together they may be too large
            return Draft("annotate", {"version": found.label, **changes})

        artifact.tracked.change(draft)

    def _move(
        self,
        artifact: Artifact,
        alias: str,
        choose: Callable[[], Version],
        expected: VersionLike | EllipsisType,
        by: str | None,
        rollback: bool = False,
    ) -> ArtifactVersion:
        moved_by = by or _who()
        wanted = None
        if expected is not None and expected is not ...:
            wanted = artifact.history.resolve(expected, "exact", artifact.label).label

        def draft() -> Draft | None:
            history = artifact.history
            now, chosen = history.alias_target(alias), choose()
            if expected is not ... and now != wanted:
                raise CommitConflict(
                    f"{alias!r} of {artifact.label} is {now or 'not set'}, not {wanted or 'unset'} as expected: look "
                    "at it, and decide again"
                )
            if now == chosen.label:
                return None
            history.resolve(chosen.number, "exact", artifact.label)  # it may have been cleaned up just now
            body = {"alias": alias, "version": chosen.label, "by": moved_by}
            return Draft("alias", {**body, "rollback": True} if rollback else body)

        event = artifact.tracked.change(draft)
        label = choose().label if event is None else event.body["version"]
        return ArtifactVersion(artifact.name, artifact.collection, label)

    def _source(self, artifact: Artifact, version: Version) -> dict[str, str]:
        return {
            "repository": self.repository.id,
            "url": self.repository.url,
            "collection": artifact.collection,
            "name": artifact.name,
            "version": version.label,
        }

    def _in(self, collection: str | None) -> str:
        return self.active_collection if collection is None else collection

    def __repr__(self) -> str:
        return f"ArtifactRegistry({self.repository.url!r}, collection={self.active_collection!r})"

    def __reduce__(self) -> tuple[Callable[..., ArtifactRegistry], tuple[Any, ...]]:
        return ArtifactRegistry, (self.repository, self.active_collection)


class LoggedFolder(contextlib.AbstractContextManager[Path]):
    """What `log_folder` gives: a context manager over a temporary folder.

    Attributes:
        version: what was logged; None before the block has ended.
    """

    def __init__(self, log: Callable[[Path], ArtifactVersion]) -> None:
        self.version: ArtifactVersion | None = None
        self._log = log
        self._folder: Path | None = None

    def __enter__(self) -> Path:
        self._folder = Path(tempfile.mkdtemp(prefix="prefect-snapshots-"))
        return self._folder

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        assert self._folder is not None
        try:
            if kind is None:
                self.version = self._log(self._folder)
        finally:
            remove(self._folder)


# --- helpers ----------------------------------------------------------------------------------------------------------


def _notes(metadata: Mapping[str, Any] | None, expiry: datetime | str | None) -> dict[str, Any]:
    notes: dict[str, Any] = {}
    if metadata:
        notes["metadata"] = clean_metadata(metadata)
    if expiry is not None:
        notes["expiry"] = expiry_of(expiry)
    return notes


def _counter(what: str, total: int, progress: Progress | None) -> Callable[[], Callable[[int], None]]:
    """Starts counting anew whenever it is called: what is stored may have to be stored again."""

    def start() -> Callable[[int], None]:
        done = 0

        def passed(count: int) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(what, done, total)

        return passed

    return start


def _is_from(version: Version, source: Mapping[str, str] | None) -> bool:
    """Whether a version was promoted from this very source, wherever that was found then."""
    earlier = source_of(version)
    if source is None or earlier is None:
        return False
    return {**earlier, "url": ""} == {**source, "url": ""}


def _refuse_expired(artifact: Artifact, version: Version) -> None:
    if is_expired(version):
        assert version.expiry is not None
        raise ArtifactExpired(
            f"{artifact.label_of(version)} expired at {from_nanoseconds(version.expiry).isoformat()}: choose another "
            "version; validate=False reads it all the same"
        )


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
