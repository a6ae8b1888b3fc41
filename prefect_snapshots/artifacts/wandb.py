"""WandbArtifactRegistry: the artifacts of a Weights & Biases project, with the methods of every other store.

A collection is an artifact *type* of W&B; versions, aliases and the TTL are those of W&B. `wandb` is imported when a
registry is created. If W&B cannot keep a promise of `ArtifactRegistry`, the method says so.
"""

from __future__ import annotations

import math
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path, PureWindowsPath
from types import EllipsisType
from typing import TYPE_CHECKING, Any

import msgspec

from ..errors import (
    ArtifactExpired,
    ArtifactNotFound,
    CommitConflict,
    InvalidArgument,
    InvalidName,
    NoActiveRun,
    NotSupported,
    StorageError,
)
from ..repository.contents import ContentReader
from ..repository.names import check_name
from ..repository.progress import Progress
from ..repository.times import parse_time, to_nanoseconds
from ..repository.tracking import close_names
from ..retention import CleanupReport, RetentionPolicy
from ..trees.restoring import write_tree
from .differences import Difference, diff_files, diff_folders
from .downloads import Download, LoggedFolder, download, tree_of
from .folders import Folder, scan_folder
from .handlers import check_environment, find_handler, write_value
from .history import (
    LATEST,
    NO_VERSION,
    NUMBER,
    Match,
    Move,
    VersionLike,
    at_time,
    check_alias,
    is_time,
    no_such_version,
)
from .infos import ArtifactInfo, ArtifactVersion
from .interface import ArtifactManager, require_store
from .wandb_versions import Files, Note, Version, asking, is_absence, load_wandb, plain_metadata

if TYPE_CHECKING:
    import wandb

OFFLINE = "offline"
"""The version that an offline run returns: W&B assigns the number when the run is synchronised."""

_NAME = re.compile(r"(?=[^A-Za-z0-9]*[A-Za-z0-9])[A-Za-z0-9_.-]{1,128}")
_REGISTRY = "wandb-registry-"

_Metadata = Mapping[str, Any] | None
_Expiry = datetime | str | None


class WandbArtifactRegistry:
    """Keep artifacts in a Weights & Biases project, with the methods of `ArtifactRegistry`.

    To log, you need an active run of this project (`wandb.init`). All other methods use the credentials of `wandb
    login` or `WANDB_API_KEY`. The name of an artifact is unique in a project, also across collections.

    Most methods take these arguments:

    - `name`: the name of the artifact.
    - `version`: a number (`3`, `"v3"`), `"latest"` or None, an alias such as `"production"`, or a point in time.
    - `match`: for a point in time: `"exact"`, or `"asof"` for the newest version at that time.
    - `collection`: the collection of the artifact. Default: the active one.

    Args:
        project: The W&B project. A project named `wandb-registry-...` is a W&B registry, which only takes links.
        collection: The collection that methods use if they get none: an artifact type of W&B, such as "model".
        entity: The team or user. Default: that of the active run if it belongs to this project, else the one in the
            settings of wandb.
        allow_pickle: Whether values stored with pickle may be loaded. Pass False if others can write to the project.

    Raises:
        MissingDependency: wandb is not installed.

    See docs/artifacts.md for an example that runs.
    """

    def __init__(
        self, project: str, collection: str = "default", entity: str | None = None, *, allow_pickle: bool = True
    ) -> None:
        self.project = _check_place(project, "project")
        self.entity = None if entity is None else _check_place(entity, "entity")
        self.active_collection = _check(collection, "collection")
        self.allow_pickle = allow_pickle
        load_wandb()

    # --- looking ----------------------------------------------------------------------------------------------------

    def list_collection_names(self) -> list[str]:
        """List the collections that have artifacts, sorted, without the internal ones of W&B."""
        with asking(f"the collections of {self._place}"):
            return sorted(name for name, kind in self._types().items() if any(True for _ in kind.collections()))

    def list_names(self, collection: str | None = None) -> list[str]:
        """List the names of the artifacts of a collection, sorted. Empty if there is no such collection or project.

        W&B also lists artifacts whose versions were all deleted, or whose first version is still being uploaded.
        """
        kind = self._in(collection)
        with asking(f"the artifacts of {self._place}"):
            found = self._types().get(kind)
            return [] if found is None else sorted(one.name for one in found.collections())

    def list_artifacts(self, collection: str | None = None) -> list[ArtifactInfo]:
        """List the latest version of each artifact of a collection, newest first."""
        kind = self._in(collection)
        found = [self._get(name, LATEST, kind) for name in self.list_names(kind)]
        infos = [version.info for version in found if version is not None]
        return sorted(infos, key=lambda info: info.created_at, reverse=True)

    def list_versions(self, name: str, collection: str | None = None) -> list[ArtifactInfo]:
        """List all versions of an artifact, newest first.

        Raises:
            ArtifactNotFound: There is no such artifact.
        """
        return [version.info for version in reversed(self._every(name, self._in(collection)))]

    def exists(
        self, name: str, collection: str | None = None, version: VersionLike = None, match: Match = "exact"
    ) -> bool:
        """Return whether an artifact, or a version of it, exists. An expired version exists until W&B deletes it."""
        try:
            self._find(name, version, match, collection)
        except ArtifactNotFound:
            return False
        return True

    def get_artifact(
        self, name: str, version: VersionLike = None, match: Match = "exact", *, collection: str | None = None
    ) -> ArtifactInfo:
        """Return the metadata of a version without downloading it. See `ArtifactRegistry.get_artifact`.

        W&B keeps times to the second. `written` is the size, because W&B does not report what it had stored already.
        """
        return self._find(name, version, match, collection).info

    def get_artifact_metadata(
        self, name: str, version: VersionLike = None, match: Match = "exact", *, collection: str | None = None
    ) -> dict[str, Any]:
        """Return the metadata that you gave a version."""
        return self.get_artifact(name, version, match, collection=collection).metadata

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
    ) -> ArtifactVersion:
        """Log a file or a folder as a new version, and wait until the server has it.

        If the files are identical to those of the latest version, W&B creates no new version: the latest one is
        returned, and gets the new metadata and expiry.

        Args:
            name: The name of the artifact: up to 128 letters, digits, `_`, `-` and `.`.
            local_path, collection, artifact_path: As for `ArtifactRegistry.log_files`.
            metadata: Values that JSON can hold, by up to 99 string keys.
            expiry: When W&B deletes the version: its TTL.

        Returns:
            The version; if the run is offline, its number is `"offline"`.

        Raises:
            NoActiveRun: There is no active run.
            InvalidName: W&B does not accept the name, the collection, or a path.
            InvalidArgument: The run belongs to another project, or another collection has an artifact of this name.
            CommitConflict: Only modes, links or the handler differ from the latest version, and W&B cannot see that.
            StorageError: The server did not confirm the version.
        """
        folder = scan_folder(Path(local_path), artifact_path)
        return self._log(name, collection, folder, Note().with_entries(folder.entries), metadata, expiry)

    def log_folder(
        self,
        name: str,
        collection: str | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        expiry: datetime | str | None = None,
    ) -> LoggedFolder:
        """Give an empty folder to write into, and log it when the block ends without an exception.

        Args:
            metadata, expiry: As for `log_files`.

        Returns:
            A context manager that gives the path of the folder. After the block, its `version` is what was logged.
        """
        self._draft(name, collection, Note(), metadata, expiry)  # refused now, and not after hours of work
        return LoggedFolder(lambda folder: self.log_files(name, folder, collection, metadata=metadata, expiry=expiry))

    def log_artifact(
        self,
        name: str,
        value: Any,
        handler: str = "json",
        *,
        collection: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        expiry: datetime | str | None = None,
        **writer_options: Any,
    ) -> ArtifactVersion:
        """Log a value as a new version: one file, named after the artifact.

        See `log_files`, and `ArtifactRegistry.log_artifact` for the handlers.

        Args:
            value, handler, metadata, expiry: As for `ArtifactRegistry.log_artifact`.
            writer_options: Options of the handler.

        Returns:
            The version that was logged. While the run is offline, its `version` is "offline".
        """
        self._draft(name, collection, Note(), metadata, expiry)
        found, (manifest, buffers) = write_value(handler, value, allow_pickle=self.allow_pickle, options=writer_options)
        note = Note(handler=handler, suffix=found.suffix, environment=found.environment(value))
        with tempfile.TemporaryDirectory(prefix="prefect-snapshots-") as folder:
            path = Path(folder, f"{name}.{found.suffix}")
            with path.open("wb") as file:
                file.writelines(buffers)
            if manifest:
                path.with_name(f"{path.name}.manifest").write_bytes(manifest)
            return self._log(name, collection, scan_folder(Path(folder)), note, metadata, expiry)

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
        """Make a version from content that is stored in a repository: write its files out, and log them.

        If the newest version came from the same source, it is returned. See `ArtifactRegistry.adopt`.

        Args:
            name, content, handler, collection, suffix, metadata, environment, expiry, source, progress: As for
                `ArtifactRegistry.adopt`.

        Returns:
            The version, with its name and number.
        """
        if handler is not None:
            suffix = suffix or find_handler(handler).suffix
        origin = dict(source) if source else None
        note = Note(handler=handler, suffix=suffix, environment=dict(environment or {}), source=origin)
        run, _ = self._draft(name, collection, note, metadata, expiry)
        there = None if run.offline else self._get(name, LATEST, self._in(collection))
        if there is not None and origin and there.note.source == origin:
            return there.label
        with tempfile.TemporaryDirectory(prefix="prefect-snapshots-") as folder:
            tree = tree_of(content, name, suffix, f"{self._in(collection)}/{name}")
            write_tree(tree, Path(folder))
            note = note if handler is not None else note.with_entries(tree.entries)
            version = self._log(name, collection, scan_folder(Path(folder)), note, metadata, expiry)
        if progress is not None:
            progress("copy", content.size, content.size)
        return version

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
    ) -> Download:
        """Download a version, and verify each file against the digest that W&B has of it.

        See `ArtifactRegistry.download_artifact`.

        Args:
            to: A directory. Default: a temporary one.
            validate: Whether to refuse an expired version.

        Returns:
            An `os.PathLike`, and a context manager that gives the path.

        Raises:
            NotSupported: The artifact only refers to files elsewhere.
            DamagedVersion: A file does not match its digest; the message names it. The target is unchanged.
        """
        found = self._find(name, version, match, collection)
        _refuse_expired(found, validate)
        with Files(found) as files:
            return download(files.fetch(), to, found.label)

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
        """Return the value of a version. See `ArtifactRegistry.load_artifact`."""
        found = self._find(name, version, match, collection)
        if found.note.handler is None:
            raise InvalidArgument(f"{found.label} is a folder of files. Use download_artifact.")
        _refuse_expired(found, validate)
        if validate:
            check_environment(found.note.environment, str(found.label))
        handler = find_handler(found.note.handler)
        with Files(found) as files:
            return handler.read(files.manifest, files, allow_pickle=self.allow_pickle, **reader_options)

    def diff(
        self,
        name: str,
        old: VersionLike,
        new: VersionLike = None,
        match: Match = "exact",
        *,
        collection: str | None = None,
    ) -> Sequence[Difference]:
        """Compare two versions. If no file differs, nothing is downloaded. See `ArtifactRegistry.diff`."""
        before, after = (self._find(name, version, match, collection) for version in (old, new))
        with Files(before) as a, Files(after) as b:
            if before.note.handler is None and after.note.handler is None:
                return diff_folders(a, a.entries, b, b.entries)
            if before.note.handler == after.note.handler:
                handler = find_handler(str(after.note.handler))
                return handler.diff((a.manifest, a), (b.manifest, b), allow_pickle=self.allow_pickle)
            return diff_files(name, a, b)

    # --- changing ---------------------------------------------------------------------------------------------------

    def set_artifact_expiry(
        self,
        name: str,
        expiry: datetime | str | None,
        version: VersionLike = None,
        match: Match = "exact",
        *,
        collection: str | None = None,
    ) -> None:
        """Set when W&B deletes a version: its TTL. None: never.

        Args:
            expiry: A datetime with a zone, or an ISO 8601 string. None: never.

        Raises:
            InvalidArgument: The expiry is before the version was logged, or the version is a link to another project.
        """
        self._change(self._find(name, version, match, collection), {}, expiry)

    def update_artifact_metadata(
        self,
        name: str,
        metadata: Mapping[str, Any],
        version: VersionLike = None,
        match: Match = "exact",
        *,
        collection: str | None = None,
    ) -> None:
        """Update the metadata of a version: the given keys are set, all others stay.

        W&B always replaces the whole metadata: if two processes update it at the same time, one update may be lost.

        Args:
            metadata: Plain values by string keys.
        """
        self._change(self._find(name, version, match, collection), plain_metadata(metadata), ...)

    def delete_version(
        self, name: str, version: VersionLike, *, force: bool = False, collection: str | None = None
    ) -> None:
        """Delete one version.

        Args:
            name, version, collection: As for `get_artifact`.
            force: Whether to delete a version that has an alias other than `latest`, and its aliases with it.

        Raises:
            InvalidArgument: It has an alias, and `force` is False.
        """
        self._delete([self._find(name, version, "exact", collection)], force)

    def delete_artifact(self, name: str, *, force: bool = False, collection: str | None = None) -> None:
        """Delete all versions of an artifact. See `delete_version`."""
        self._delete(self._every(name, self._in(collection)), force)

    def pin(self, name: str, version: VersionLike = None, *, collection: str | None = None) -> None:
        """Raise `NotSupported`: W&B has no pins. Use `set_artifact_expiry(name, None, version)`, or an alias."""
        raise NotSupported("W&B has no pins. Call set_artifact_expiry(name, None, version), so that it never expires.")

    def unpin(self, name: str, version: VersionLike = None, *, collection: str | None = None) -> None:
        """Raise `NotSupported`: see `pin`."""
        raise NotSupported("W&B has no pins. Call set_artifact_expiry to say when a version expires.")

    def cleanup(
        self,
        policy: RetentionPolicy | None = None,
        dry_run: bool = False,
        *,
        name: str | None = None,
        collection: str | None = None,
    ) -> CleanupReport:
        """Raise `NotSupported`: W&B deletes versions by their TTL. Use `set_artifact_expiry`.

        Args:
            policy, dry_run, name, collection: Ignored.
        """
        raise NotSupported("W&B deletes versions by their TTL. Call set_artifact_expiry, or delete_version.")

    # --- stages -----------------------------------------------------------------------------------------------------

    def set_alias(
        self,
        name: str,
        version: VersionLike,
        alias: str,
        expected: VersionLike | EllipsisType = ...,
        *,
        collection: str | None = None,
    ) -> ArtifactVersion:
        """Point an alias to a version.

        wandb sends the whole metadata with the alias: a metadata update of another process at the same time may be
            lost.

        Args:
            name, version, collection: As for `get_artifact`.
            alias: A name without `/` and `:` that does not look like a version or a date.
            expected: Move the alias only if it points to this version now; None: only if it does not exist. W&B has no
                conditional moves, so this is checked just before: if two processes move it at the same moment, both
                succeed, and the last one wins.

        Returns:
            The version that the alias points to now.

        Raises:
            CommitConflict: It does not point to `expected`; the message says where it points.
            InvalidName: The alias looks like a version, or W&B does not accept it.
        """
        _check_alias(alias)
        found = self._find(name, version, "exact", collection)
        if expected is not ...:
            wanted = None if expected is None else self._find(name, expected, "exact", collection).label.version
            there = self._get(name, alias, self._in(collection))
            now = None if there is None else there.label.version
            if now != wanted:
                raise CommitConflict(
                    f"{alias!r} of {found.label.collection}/{name} is {now or 'not set'}, not {wanted or 'unset'} as "
                    "expected: somebody moved it. Nothing was changed. Check which version it should be, and try again."
                )
        if alias not in found.artifact.aliases:
            with asking(f"moving {alias!r} to {found.label}"):
                found.artifact.aliases = [*found.artifact.aliases, alias]
                found.artifact.save()
        return found.label

    def delete_alias(self, name: str, alias: str, *, collection: str | None = None) -> None:
        """Delete an alias.

        Args:
            alias: The alias, such as "production".

        Raises:
            ArtifactNotFound: There is no such alias.
        """
        found = self._find(name, _check_alias(alias), "exact", collection)
        with asking(f"removing {alias!r} from {found.label}"):
            found.artifact.aliases = [other for other in found.artifact.aliases if other != alias]
            found.artifact.save()

    def get_aliases(self, name: str, collection: str | None = None) -> dict[str, str]:
        """Return where each alias points, as in `{"latest": "v5", "production": "v3"}`."""
        every = self.list_versions(name, collection)
        return dict(sorted((alias, info.version) for info in every for alias in info.aliases))

    def get_alias_history(self, name: str, alias: str | None = None, collection: str | None = None) -> list[Move]:
        """Raise `NotSupported`: W&B does not record who moved an alias, when, and from where. Use `get_aliases`.

        Args:
            alias: Ignored.
        """
        raise NotSupported("W&B keeps no history of aliases. Call get_aliases to see where they point now.")

    def promote_artifact(
        self,
        name: str,
        version: VersionLike = None,
        match: Match = "exact",
        *,
        to: ArtifactManager | str,
        collection: str | None = None,
        expected: VersionLike | EllipsisType = ...,
        progress: Progress | None = None,
    ) -> ArtifactVersion:
        """Promote a version to a stage, or into another store of artifacts.

        Args:
            name, version, match, collection: As for `get_artifact`.
            to: A stage, such as "production"; or a W&B registry (a project `wandb-registry-...`), which gets a link; or
                any other store, which gets a copy. To copy into another W&B project, its run must be the active one.
            expected: For a stage: see `set_alias`.
            progress: Called with "copy", the bytes that are in the target and the bytes in total.

        Returns:
            The version that has the stage now, or the one in the other store.

        Raises:
            CommitConflict: The stage is another version than expected.
            ArtifactExpired: The version is past its expiry.
            InvalidArgument: The collection of the target registry has another type.
        """
        if isinstance(to, str):
            return self.set_stage(name, version, to, match, expected=expected, collection=collection)
        return self.copy_to(name, version, to, match, collection=collection, progress=progress)

    def set_stage(
        self,
        name: str,
        version: VersionLike,
        stage: str,
        match: Match = "exact",
        *,
        expected: VersionLike | EllipsisType = ...,
        collection: str | None = None,
    ) -> ArtifactVersion:
        """Promote a version to a stage. See `set_alias`.

        Raises:
            ArtifactExpired: The version is past its expiry.
        """
        found = self._find(name, version, match, collection)
        _refuse_expired(found, True)
        return self.set_alias(name, found.label.version, stage, expected, collection=collection)

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
        """Copy a version into another store of artifacts, or link it into a registry of W&B. See `promote_artifact`."""
        require_store(to)
        found = self._find(name, version, match, collection)
        _refuse_expired(found, True)
        if isinstance(to, WandbArtifactRegistry) and to.project.startswith(_REGISTRY):
            return to._link(name, found)
        with tempfile.TemporaryDirectory(prefix="prefect-snapshots-") as folder, Files(found) as files:
            return to.adopt(
                name,
                files.content(Path(folder)),
                handler=found.note.handler,
                suffix=found.note.suffix,
                metadata=found.metadata,
                environment=found.note.environment,
                expiry=found.expiry,
                source=self._source(found),
                progress=progress,
            )

    # --- inside -----------------------------------------------------------------------------------------------------

    @cached_property
    def _api(self) -> wandb.Api:
        with asking("logging in"):
            api: wandb.Api = load_wandb().Api()
        return api

    @property
    def _place(self) -> str:
        run = load_wandb().run
        entity = self.entity or (run.entity if run is not None and run.project == self.project else None)
        return f"{entity}/{self.project}" if entity else self.project

    def _types(self) -> dict[str, Any]:
        """Return the artifact types of the project by name; empty if there is no such project."""
        try:
            found = list(self._api.artifact_types(self._place))
        except ValueError as error:
            if not is_absence(error):
                raise
            return {}
        return {one.name: one for one in found if one.name != "job" and not one.name.startswith("wandb-")}

    def _every(self, name: str, collection: str) -> list[Version]:
        """Return all versions of an artifact, oldest first."""
        label = f"{collection}/{_check(name)}"
        names = self.list_names(collection)
        if name not in names:
            existing = (
                f"Existing artifacts: {', '.join(close_names(name, names))}."
                if names
                else "The collection is empty, or you have no access to it."
            )
            raise ArtifactNotFound(
                f"The collection {collection!r} of the W&B project {self._place} has no artifact {name!r}. {existing}"
            )
        with asking(f"the versions of {label}"):
            found = list(self._api.artifacts(collection, f"{self._place}/{name}"))
        # A link has its own number, which only its name has.
        versions = [Version.of(one, name, collection, one.name.rpartition(":")[2]) for one in found]
        if not versions:
            raise ArtifactNotFound(
                f"{label} has no version: all were deleted, or the first one is still being uploaded."
            )
        return sorted(versions, key=lambda version: version.number)

    def _get(self, name: str, alias: str, collection: str) -> Version | None:
        """Return the version with a number such as `v3`, or with an alias; None if there is none."""
        wandb = load_wandb()
        with asking(f"{collection}/{name}:{alias}"):
            try:
                found = self._api.artifact(f"{self._place}/{name}:{alias}", type=collection)
            except wandb.errors.CommError as error:
                if not is_absence(error.exc):
                    raise
                return None
        return Version.of(found, name, collection, str(found.version)) if found.state == "COMMITTED" else None

    def _find(self, name: str, version: VersionLike, match: Match, collection: str | None) -> Version:
        """Return a version, or raise `ArtifactNotFound`, which lists the existing ones."""
        if match not in ("exact", "asof"):
            raise InvalidArgument(f'match must be "exact" or "asof", not {match!r}.')
        if isinstance(version, bool) or not isinstance(version, int | str | datetime | None):
            raise InvalidArgument(NO_VERSION.format(version))
        kind = self._in(collection)
        label = f"{kind}/{_check(name)}"
        if not isinstance(version, datetime):
            wanted = LATEST if version is None else str(version)
            number = NUMBER.fullmatch(wanted)
            alias = f"v{int(number[1])}" if number else wanted
            if alias and not set(alias) & set("/:") and (found := self._get(name, alias, kind)) is not None:
                return found
        every = self._every(name, kind)
        numbers = {one.number: one for one in every}
        if isinstance(version, datetime) or (isinstance(version, str) and is_time(version)):
            times = sorted((to_nanoseconds(one.created_at), number) for number, one in numbers.items())
            return numbers[at_time(times, parse_time(version), match, label)]
        if version is None or version == LATEST:  # deleting the latest version deletes the alias `latest`, too
            return every[-1]
        aliases = close_names(str(version), {alias for one in every for alias in one.artifact.aliases})
        raise ArtifactNotFound(no_such_version(label, version, list(numbers), aliases))

    def _draft(
        self, name: str, collection: str | None, note: Note, metadata: _Metadata, expiry: _Expiry
    ) -> tuple[wandb.Run, wandb.Artifact]:
        """Return the active run and an artifact without files, after checking all that W&B would refuse.

        Nothing is sent.
        """
        wandb, kind = load_wandb(), self._in(collection)
        try:
            artifact = wandb.Artifact(_check(name), type=kind)
        except ValueError as error:
            raise InvalidName(
                f"W&B does not accept the artifact {name!r} of the collection {kind!r}: {error}"
            ) from None
        artifact.metadata = note.within(plain_metadata(metadata))
        if expiry is not None:
            artifact.ttl = _ttl(datetime.now(UTC), expiry)
        run = wandb.run
        if run is None or run.disabled:
            raise NoActiveRun(
                f"Logging to W&B needs an active run. Call wandb.init(project={self.project!r}) first, in a mode other "
                "than disabled."
            )
        if run.project != self.project or (self.entity and not run.offline and run.entity != self.entity):
            raise InvalidArgument(
                f"The active run belongs to {run.entity}/{run.project}, and W&B logs into the project of the run. "
                f"Start one with wandb.init(project={self.project!r}, entity={self.entity!r})."
            )
        return run, artifact

    def _log(
        self,
        name: str,
        collection: str | None,
        folder: Folder,
        note: Note,
        metadata: _Metadata,
        expiry: _Expiry,
    ) -> ArtifactVersion:
        run, artifact = self._draft(name, collection, note, metadata, expiry)
        label = ArtifactVersion(name, artifact.type, OFFLINE)
        for path, entry in folder.files:
            artifact.add_file(folder.path_of(entry), name=_check_path(path), skip_cache=True)
            folder.check_unchanged(entry)
        wanted = artifact.metadata
        with asking(f"logging {label.collection}/{name}"):
            try:
                run.log_artifact(artifact)
            except ValueError as error:
                raise InvalidArgument(
                    f"W&B does not accept {label.collection}/{name}: {error}. Names are unique in a project, also "
                    "across collections."
                ) from None
            if run.offline:
                return label
            try:
                artifact.wait()
            except ValueError as error:
                raise StorageError(
                    f"W&B did not confirm {label.collection}/{name}: {error}. Check on the page of the run whether it "
                    "was logged before you try again."
                ) from None
        found = Version.of(artifact, name, label.collection, str(artifact.version))
        if artifact.metadata != wanted:
            changeable = {"environment": note.environment, "source": note.source}
            if msgspec.structs.replace(found.note, **changeable) != note:
                raise CommitConflict(
                    f"W&B takes this for {found.label}, which has the same files and differs only in its handler, "
                    "modes, links or empty directories. Change a file, or log it under another name."
                )
        if artifact.metadata != wanted or (expiry is not None and artifact.ttl != _ttl(found.created_at, expiry)):
            self._change(found, wanted, ... if expiry is None else expiry)
        return found.label

    def _change(self, found: Version, metadata: Mapping[str, Any], expiry: _Expiry | EllipsisType) -> None:
        artifact = found.artifact
        ttl = None if expiry is None or expiry is ... else _ttl(found.created_at, expiry)
        try:
            artifact.metadata = {**artifact.metadata, **metadata}
            if expiry is not ...:
                artifact.ttl = ttl
        except ValueError as error:
            raise InvalidArgument(f"W&B does not accept this change of {found.label}: {error}") from None
        with asking(f"changing {found.label}"):
            artifact.save()

    def _delete(self, versions: Sequence[Version], force: bool) -> None:
        for version in () if force else versions:
            if aliases := [alias for alias in version.artifact.aliases if alias != LATEST]:
                raise InvalidArgument(
                    f"{version.label} was not deleted: it has the aliases {', '.join(aliases)}. Nothing was changed. "
                    "Pass force=True to delete it with its aliases."
                )
        for version in versions:
            with asking(f"deleting {version.label}"):
                version.artifact.delete(delete_aliases=True)

    def _link(self, name: str, found: Version) -> ArtifactVersion:
        kind = found.artifact.type
        if kind != self.active_collection:
            raise InvalidArgument(
                f"A link keeps its type. Create the target registry with collection={kind!r}, not "
                f"{self.active_collection!r}."
            )
        with asking(f"linking {found.label} to {self._place}"):
            linked = found.artifact.link(f"{self._place}/{name}")
        return ArtifactVersion(name, kind, str(linked.version))

    def _source(self, found: Version) -> dict[str, str]:
        label, place = found.label, f"{found.artifact.entity}/{found.artifact.project}"
        where = {"repository": f"wandb:{place}", "url": f"{self._api.settings['base_url']}/{place}"}
        return {**where, "collection": label.collection, "name": label.name, "version": label.version}

    def _in(self, collection: str | None) -> str:
        return self.active_collection if collection is None else _check(collection, "collection")

    def __repr__(self) -> str:
        return f"WandbArtifactRegistry({self._place!r}, collection={self.active_collection!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_api"}


def _ttl(created_at: datetime, expiry: datetime | str) -> timedelta:
    seconds = math.ceil((parse_time(expiry) - created_at).total_seconds())
    if seconds <= 0:
        raise InvalidArgument(
            f"The expiry {expiry} is not after the version was logged: W&B would delete it at once. Pass a later time."
        )
    return timedelta(seconds=seconds)


def _refuse_expired(found: Version, validate: bool) -> None:
    if validate and found.expiry is not None and found.expiry <= datetime.now(UTC):
        raise ArtifactExpired(
            f"{found.label} expired at {found.expiry.isoformat()}, and W&B will delete it. Choose another version, or "
            "pass validate=False to read it while it still exists."
        )


def _check(name: str, what: str = "name") -> str:
    if not _NAME.fullmatch(check_name(name, what)):
        raise InvalidName(f"W&B does not accept the {what} {name!r}. Use up to 128 letters, digits, '_', '-' and '.'.")
    return name


def _check_place(name: str, what: str) -> str:
    if len(check_name(name, what)) > 128 or set(name) & set("/#?%:"):
        raise InvalidName(f"W&B does not accept the {what} {name!r}. Use up to 128 characters without / # ? % and :.")
    return name


def _check_alias(alias: str) -> str:
    if set(check_alias(alias)) & set("/:"):
        raise InvalidName(f"W&B does not accept the alias {alias!r}. Use one without '/' and ':'.")
    return alias


def _check_path(path: str) -> str:
    """Refuse a path that W&B would mistake for a Windows path, and not return as it was."""
    if "\\" in path or PureWindowsPath(path).anchor:
        raise InvalidName(f"The path {path!r} looks like a Windows path, which W&B refuses. Rename the file.")
    return path
