"""WandbArtifact: the handle of one artifact in Weights & Biases, and what W&B does differently."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import EllipsisType
from typing import Any

import msgspec

from ..arguments import checking_types
from ..errors import ArtifactExpired, ArtifactNotFound, CommitConflict, InvalidArgument, NotSupported, StorageError
from ..messages import close_names
from ..repository.contents import ContentReader, StagedPart
from ..repository.descriptions import Description
from ..repository.progress import Progress
from ..repository.staged_parts import Parts
from ..repository.times import parse_time, to_nanoseconds
from ..retention import CleanupReport, RetentionPolicy
from ..trees.restoring import write_tree
from .differences import Difference, FileDifference, diff_files, diff_folders
from .downloads import Download, LoggedFolder, download, part_of, tree_of, verify_folder
from .folders import Folder, scan_folder
from .handlers import check_environment, find_handler, reading, write_value
from .history import (
    LATEST,
    NUMBER,
    Match,
    Move,
    VersionLike,
    at_time,
    created_at,
    is_time,
    no_such_version,
    plain_version,
    refuse_older,
)
from .infos import ArtifactInfo, ArtifactVersion
from .manager import ArtifactManager, require_store
from .wandb_project import WandbProject, check_wandb_alias, check_wandb_path, ttl_of
from .wandb_versions import Files, VersionNote, WandbVersion, asking, is_absence, load_wandb, plain_metadata

OFFLINE = "offline"
"""The version that an offline run returns: W&B assigns the number when the run is synchronised."""

_Metadata = Mapping[str, Any] | None
_Expiry = datetime | str | None


@checking_types
class WandbArtifact:
    """One artifact of a W&B project: the methods of `WandbArtifactRegistry`, without the name.

    Get it from `WandbArtifactRegistry.artifact`. Each method says what differs from `ArtifactRegistry`.

    Args:
        project: The project.
        name: The name of the artifact: up to 128 letters, digits, `_`, `-` and `.`.
        collection: The collection that it belongs to: an artifact type of W&B.
        allow_pickle: Whether values stored with pickle may be loaded.
    """

    def __init__(self, project: WandbProject, name: str, collection: str, allow_pickle: bool) -> None:
        self.name = name
        self.collection = collection
        self._project = project
        self._allow_pickle = allow_pickle

    # --- looking ----------------------------------------------------------------------------------------------------

    def list_versions(self) -> list[ArtifactInfo]:
        """List all versions, newest first.

        Raises:
            ArtifactNotFound: There is no such artifact.
        """
        return [version.info for version in reversed(self._every())]

    def newest(self) -> ArtifactInfo | None:
        """Return the metadata of the latest version; None if W&B has none."""
        found = self._get(LATEST)
        return None if found is None else found.info

    def get(self, version: VersionLike = None, match: Match = "exact") -> ArtifactInfo:
        """Return the metadata of a version without downloading it.

        W&B keeps times to the second. `written` is the size, because W&B does not report what it had stored already.
        """
        return self._find(version, match).info

    def exists(self, version: VersionLike = None, match: Match = "exact") -> bool:
        """Return whether there is such a version. An expired version exists until W&B deletes it."""
        try:
            self._find(version, match)
        except ArtifactNotFound:
            return False
        return True

    def list_files(self, version: VersionLike = None, match: Match = "exact") -> list[tuple[str, int]]:
        """List path and size in bytes of each file of a version, without downloading it."""
        with Files(self._find(version, match)) as files:
            return [(entry.path, entry.size) for entry, _ in files.tree.files]

    # --- logging ----------------------------------------------------------------------------------------------------

    def log_files(
        self,
        local_path: str | os.PathLike[str] | Parts[StagedPart],
        artifact_path: str | None = None,
        *,
        metadata: _Metadata = None,
        expiry: _Expiry = None,
        if_changed: bool = True,
        follow_links: bool = False,
        token: str | None = None,
        progress: Progress | None = None,
    ) -> ArtifactVersion:
        """Log a file or a folder as a new version, and wait until the server has it.

        If the files are identical to those of the latest version, W&B creates no new version: the latest one is
        returned, and gets the new metadata and expiry.

        Args:
            local_path, artifact_path, follow_links: As for `ArtifactRegistry.log_files`.
            metadata: Values that JSON can hold, by up to 99 string keys.
            expiry: When W&B deletes the version: its TTL.
            if_changed: Has no effect, because W&B never creates a version of identical files.
            token: Not supported.
            progress: Called with "upload", the bytes that the server has and the bytes in total: at the end.

        Returns:
            The version; if the run is offline, its number is `"offline"`.

        Raises:
            NoActiveRun: There is no active run.
            InvalidName: W&B does not accept the name, the collection, or a path.
            InvalidArgument: The run belongs to another project, or another collection has an artifact of this name.
            CommitConflict: Only modes, links or the handler differ from the latest version, and W&B cannot see that.
            StorageError: The server did not confirm the version.
            NotSupported: You passed a token, or parts that other processes have staged.
        """
        _refuse_token(token)
        if not isinstance(local_path, str | os.PathLike):
            raise NotSupported("W&B has no parts that other processes have staged. Log a folder that has all files.")
        folder = scan_folder(Path(os.path.expanduser(local_path)), artifact_path, follow_links=follow_links)
        version = self._log(folder, VersionNote().with_entries(folder.entries), metadata, expiry)
        _report(progress, "upload", folder.size)
        return version

    def log_folder(
        self,
        *,
        metadata: _Metadata = None,
        expiry: _Expiry = None,
        follow_links: bool = False,
        progress: Progress | None = None,
    ) -> LoggedFolder:
        """Give an empty folder to write into, and log it when the block ends without an exception. See `log_files`."""
        self._draft(VersionNote(), metadata, expiry)  # refused now, and not after hours of work
        return LoggedFolder(
            lambda path: self.log_files(
                path, metadata=metadata, expiry=expiry, follow_links=follow_links, progress=progress
            )
        )

    def log(
        self,
        value: Any,
        handler: str = "json",
        *,
        metadata: _Metadata = None,
        expiry: _Expiry = None,
        if_changed: bool = True,
        token: str | None = None,
        **writer_options: Any,
    ) -> ArtifactVersion:
        """Log a value as a new version: one file, named after the artifact.

        See `log_files`, and `ArtifactRegistry.log_artifact` for the handlers.

        Returns:
            The version that was logged. While the run is offline, its `version` is "offline".
        """
        _refuse_token(token)
        self._draft(VersionNote(), metadata, expiry)
        found, (manifest, buffers) = write_value(
            handler, value, allow_pickle=self._allow_pickle, options=writer_options
        )
        note = VersionNote(handler=handler, suffix=found.suffix, environment=found.environment(value))
        with tempfile.TemporaryDirectory(prefix="prefect-snapshots-") as folder:
            path = Path(folder, f"{self.name}.{found.suffix}")
            with path.open("wb") as file:
                file.writelines(buffers)
            if manifest:
                path.with_name(f"{path.name}.manifest").write_bytes(manifest)
            return self._log(scan_folder(Path(folder)), note, metadata, expiry)

    def adopt(
        self,
        content: ContentReader,
        *,
        handler: str | None,
        suffix: str | None = None,
        metadata: _Metadata = None,
        environment: Mapping[str, str] | None = None,
        expiry: _Expiry = None,
        source: Mapping[str, str] | None = None,
        allow_older: bool = False,
        progress: Progress | None = None,
    ) -> ArtifactVersion:
        """Make a version from content that is stored in a repository: write its files out, and log them.

        If the newest version came from the same source, it is returned. See `ArtifactRegistry.adopt`.
        """
        if handler is not None:
            suffix = suffix or find_handler(handler).suffix
        origin = dict(source) if source else None
        note = VersionNote(handler=handler, suffix=suffix, environment=dict(environment or {}), source=origin)
        run, _ = self._draft(note, metadata, expiry)
        there = None if run.offline else self._get(LATEST)
        if there is not None and origin and there.note.source == origin:
            return there.label
        if there is not None and not allow_older:
            refuse_older(origin, created_at(there.note.source) or there.created_at, self._label)
        with tempfile.TemporaryDirectory(prefix="prefect-snapshots-") as folder:
            tree = tree_of(content, self.name, suffix, self._label)
            write_tree(tree, Path(folder))
            note = note if handler is not None else note.with_entries(tree.entries)
            version = self._log(scan_folder(Path(folder)), note, metadata, expiry)
        _report(progress, "copy", content.size)
        return version

    # --- reading ----------------------------------------------------------------------------------------------------

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
    ) -> Download:
        """Download a version, and verify each file against the digest that W&B has of it.

        Raises:
            NotSupported: The artifact only refers to files elsewhere.
            DamagedVersion: A file does not match its digest; the message names it. The target is unchanged.
        """
        found = self._find(version, match)
        _refuse_expired(found, validate)
        with Files(found) as files:
            done = download(part_of(files.fetch(), paths), to, found.label, clean=clean)
            _report(progress, "download", files.size)
            return done

    def verify_folder(
        self,
        local_path: str | os.PathLike[str],
        version: VersionLike = None,
        match: Match = "exact",
        *,
        follow_links: bool = False,
    ) -> list[FileDifference]:
        """Compare a folder on the disk with a version, whose files are downloaded for it."""
        with Files(self._find(version, match)) as files:
            return verify_folder(files.fetch(), local_path, follow_links)

    def load(
        self, version: VersionLike = None, match: Match = "exact", validate: bool = True, **reader_options: Any
    ) -> Any:
        """Return the value of a version."""
        found = self._find(version, match)
        if found.note.handler is None:
            raise InvalidArgument(f"{found.label} is a folder of files. Use download_artifact.")
        _refuse_expired(found, validate)
        if validate:
            check_environment(found.note.environment, str(found.label))
        handler = find_handler(found.note.handler)
        with Files(found) as files, reading(found.note.handler, found.label, reader_options):
            return handler.read(files.manifest, files, allow_pickle=self._allow_pickle, **reader_options)

    def diff(self, old: VersionLike, new: VersionLike = None, match: Match = "exact") -> Sequence[Difference]:
        """Compare two versions. If no file differs, nothing is downloaded."""
        before, after = (self._find(version, match) for version in (old, new))
        with Files(before) as a, Files(after) as b:
            if before.note.handler is None and after.note.handler is None:
                return diff_folders(a, a.entries, b, b.entries)
            if before.note.handler == after.note.handler:
                handler = find_handler(str(after.note.handler))
                return handler.diff((a.manifest, a), (b.manifest, b), allow_pickle=self._allow_pickle)
            return diff_files(self.name, a, b)

    # --- changing ---------------------------------------------------------------------------------------------------

    def set_expiry(self, expiry: _Expiry, version: VersionLike = None, match: Match = "exact") -> None:
        """Set when W&B deletes a version: its TTL. None: never.

        Raises:
            InvalidArgument: The expiry is before the version was logged, or the version is a link to another project.
        """
        self._change(self._find(version, match), {}, expiry)

    def update_metadata(self, metadata: Mapping[str, Any], version: VersionLike = None, match: Match = "exact") -> None:
        """Update the metadata of a version: the given keys are set, all others stay.

        W&B always replaces the whole metadata: if two processes update it at the same time, one update may be lost.
        """
        self._change(self._find(version, match), plain_metadata(metadata), ...)

    def describe(
        self,
        version: VersionLike | EllipsisType = ...,
        *,
        description: str | None = None,
        add_tags: str | Sequence[str] | None = None,
        remove_tags: str | Sequence[str] | None = None,
    ) -> None:
        """Raise `NotSupported`: describe artifacts on the page of W&B."""
        raise NotSupported("Descriptions and tags of W&B are changed on its page. Use update_artifact_metadata here.")

    def get_description(self) -> Description:
        """Raise `NotSupported`: see `describe`."""
        raise NotSupported("Descriptions and tags of W&B are shown on its page.")

    def pin(self, version: VersionLike = None) -> None:
        """Raise `NotSupported`: W&B has no pins. Use `set_expiry(None, version)`, or an alias."""
        raise NotSupported("W&B has no pins. Call set_artifact_expiry(name, None, version), so that it never expires.")

    def unpin(self, version: VersionLike = None) -> None:
        """Raise `NotSupported`: see `pin`."""
        raise NotSupported("W&B has no pins. Call set_artifact_expiry to say when a version expires.")

    def delete_version(self, version: VersionLike, *, force: bool = False, dry_run: bool = False) -> None:
        """Delete one version.

        Args:
            version: Which one.
            force: Whether to delete a version that has an alias other than `latest`, and its aliases with it.
            dry_run: Whether to delete nothing, and only raise what would be raised.

        Raises:
            InvalidArgument: It has an alias, and `force` is False.
        """
        self._delete([self._find(version, "exact")], force, dry_run)

    def delete(self, *, force: bool = False, dry_run: bool = False) -> None:
        """Delete all versions. See `delete_version`."""
        self._delete(self._every(), force, dry_run)

    def cleanup(self, policy: RetentionPolicy | None = None, dry_run: bool = False) -> CleanupReport:
        """Raise `NotSupported`: W&B deletes versions by their TTL. Use `set_expiry`."""
        raise NotSupported("W&B deletes versions by their TTL. Call set_artifact_expiry, or delete_version.")

    # --- stages -----------------------------------------------------------------------------------------------------

    def set_alias(
        self, alias: str, version: VersionLike, expected: VersionLike | EllipsisType = ..., *, by: str | None = None
    ) -> ArtifactVersion:
        """Point an alias to a version.

        wandb sends the whole metadata with the alias: a metadata update of another process at the same time may be
        lost.

        Args:
            alias: A name without `/` and `:` that does not look like a version or a date.
            version: Where it should point.
            expected: Move the alias only if it points to this version now; None: only if it does not exist. W&B has no
                conditional moves, so this is checked just before: if two processes move it at the same moment, both
                succeed, and the last one wins.
            by: Not supported: W&B does not record who moves an alias.

        Returns:
            The version that the alias points to now.

        Raises:
            CommitConflict: It does not point to `expected`; the message says where it points.
            InvalidName: The alias looks like a version, or W&B does not accept it.
            NotSupported: You passed `by`.
        """
        _refuse_by(by)
        check_wandb_alias(alias)
        found = self._find(version, "exact")
        if expected is not ...:
            wanted = None if expected is None else self._find(expected, "exact").label.version
            there = self._get(alias)
            now = None if there is None else there.label.version
            if now != wanted:
                raise CommitConflict(
                    f"{alias!r} of {self._label} is {now or 'not set'}, not {wanted or 'unset'} as expected: somebody "
                    "moved it. Nothing was changed. Check which version it should be, and try again."
                )
        if alias not in found.artifact.aliases:
            with asking(f"moving {alias!r} to {found.label}"):
                found.artifact.aliases = [*found.artifact.aliases, alias]
                found.artifact.save()
        return found.label

    def delete_alias(self, alias: str, *, by: str | None = None) -> None:
        """Delete an alias.

        Raises:
            ArtifactNotFound: There is no such alias.
            NotSupported: You passed `by`.
        """
        _refuse_by(by)
        found = self._find(check_wandb_alias(alias), "exact")
        with asking(f"removing {alias!r} from {found.label}"):
            found.artifact.aliases = [other for other in found.artifact.aliases if other != alias]
            found.artifact.save()

    def get_aliases(self) -> dict[str, str]:
        """Return where each alias points, as in `{"latest": "v5", "production": "v3"}`."""
        return dict(sorted((alias, info.version) for info in self.list_versions() for alias in info.aliases))

    def get_alias_history(self, alias: str | None = None) -> list[Move]:
        """Raise `NotSupported`: W&B does not record who moved an alias, when, and from where. Use `get_aliases`."""
        raise NotSupported(_NO_HISTORY)

    def rollback(self, alias: str, *, by: str | None = None) -> ArtifactVersion:
        """Raise `NotSupported`: W&B does not record where an alias pointed before. Use `set_alias`."""
        raise NotSupported(_NO_HISTORY)

    def set_stage(
        self,
        stage: str,
        version: VersionLike = None,
        match: Match = "exact",
        *,
        expected: VersionLike | EllipsisType = ...,
        by: str | None = None,
    ) -> ArtifactVersion:
        """Promote a version to a stage. See `set_alias`.

        Raises:
            ArtifactExpired: The version is past its expiry.
        """
        found = self._find(version, match)
        _refuse_expired(found, True)
        return self.set_alias(stage, found.label.version, expected, by=by)

    def copy_to(
        self,
        to: ArtifactManager,
        version: VersionLike = None,
        match: Match = "exact",
        *,
        allow_older: bool = False,
        progress: Progress | None = None,
    ) -> ArtifactVersion:
        """Copy a version into another store of artifacts, or link it into a registry of W&B.

        A W&B registry (a project `wandb-registry-...`) gets a link. To copy into another W&B project, its run must be
        the active one.

        Raises:
            ArtifactExpired: The version is past its expiry.
            InvalidArgument: The collection of the target registry has another type.
        """
        require_store(to)
        found = self._find(version, match)
        _refuse_expired(found, True)
        target = to.artifact(self.name)
        if isinstance(target, WandbArtifact) and target._project.is_registry:
            return target._link(found)
        with tempfile.TemporaryDirectory(prefix="prefect-snapshots-") as folder, Files(found) as files:
            return target.adopt(
                files.content(Path(folder)),
                handler=found.note.handler,
                suffix=found.note.suffix,
                metadata=found.metadata,
                environment=found.note.environment,
                expiry=found.expiry,
                source=self._source(found),
                allow_older=allow_older,
                progress=progress,
            )

    # --- inside -----------------------------------------------------------------------------------------------------

    @property
    def _label(self) -> str:
        return f"{self.collection}/{self.name}"

    @property
    def _path(self) -> str:
        return f"{self._project.path}/{self.name}"

    def _every(self) -> list[WandbVersion]:
        """Return all versions, oldest first."""
        names = self._project.names(self.collection)
        if self.name not in names:
            existing = (
                f"Existing artifacts: {', '.join(close_names(self.name, names))}."
                if names
                else "The collection is empty, or you have no access to it."
            )
            raise ArtifactNotFound(
                f"The collection {self.collection!r} of the W&B project {self._project.path} has no artifact "
                f"{self.name!r}. {existing}"
            )
        with asking(f"the versions of {self._label}"):
            found = list(self._project.api.artifacts(self.collection, self._path))
        # A link has its own number, which only its name has.
        versions = [WandbVersion.of(one, self.name, self.collection, one.name.rpartition(":")[2]) for one in found]
        if not versions:
            raise ArtifactNotFound(
                f"{self._label} has no version: all were deleted, or the first one is still being uploaded."
            )
        return sorted(versions, key=lambda version: version.number)

    def _get(self, alias: str) -> WandbVersion | None:
        """Return the version with a number such as `v3`, or with an alias; None if there is none."""
        wandb = load_wandb()
        with asking(f"{self._label}:{alias}"):
            try:
                found = self._project.api.artifact(f"{self._path}:{alias}", type=self.collection)
            except wandb.errors.CommError as error:
                if not is_absence(error.exc):
                    raise
                return None
        if found.state != "COMMITTED":
            return None
        return WandbVersion.of(found, self.name, self.collection, str(found.version))

    def _find(self, version: VersionLike, match: Match) -> WandbVersion:
        """Return a version, or raise `ArtifactNotFound`, which lists the existing ones."""
        if match not in ("exact", "asof"):
            raise InvalidArgument(f'match must be "exact" or "asof", not {match!r}.')
        version = plain_version(version)
        if not isinstance(version, datetime):
            wanted = LATEST if version is None else str(version)
            number = NUMBER.fullmatch(wanted)
            alias = f"v{int(number[1])}" if number else wanted
            if alias and not set(alias) & set("/:") and (found := self._get(alias)) is not None:
                return found
        every = self._every()
        numbers = {one.number: one for one in every}
        if isinstance(version, datetime) or (isinstance(version, str) and is_time(version)):
            times = sorted((to_nanoseconds(one.created_at), number) for number, one in numbers.items())
            return numbers[at_time(times, parse_time(version), match, self._label)]
        if version is None or version == LATEST:  # deleting the latest version deletes the alias `latest`, too
            return every[-1]
        aliases = close_names(str(version), {alias for one in every for alias in one.artifact.aliases})
        raise ArtifactNotFound(no_such_version(self._label, version, list(numbers), aliases))

    def _draft(self, note: VersionNote, metadata: _Metadata, expiry: _Expiry) -> tuple[Any, Any]:
        return self._project.draft(self.name, self.collection, note, metadata, expiry)

    def _log(self, folder: Folder, note: VersionNote, metadata: _Metadata, expiry: _Expiry) -> ArtifactVersion:
        run, artifact = self._draft(note, metadata, expiry)
        for path, entry in folder.files:
            artifact.add_file(folder.path_of(entry), name=check_wandb_path(path), skip_cache=True)
            folder.check_unchanged(entry)
        wanted = artifact.metadata
        with asking(f"logging {self._label}"):
            try:
                run.log_artifact(artifact)
            except ValueError as error:
                raise InvalidArgument(
                    f"W&B does not accept {self._label}: {error}. Names are unique in a project, also across "
                    "collections."
                ) from None
            if run.offline:
                return ArtifactVersion(self.name, self.collection, OFFLINE)
            try:
                artifact.wait()
            except ValueError as error:
                raise StorageError(
                    f"W&B did not confirm {self._label}: {error}. Check on the page of the run whether it was logged "
                    "before you try again."
                ) from None
        found = WandbVersion.of(artifact, self.name, self.collection, str(artifact.version))
        if artifact.metadata != wanted:
            changeable = {"environment": note.environment, "source": note.source}
            if msgspec.structs.replace(found.note, **changeable) != note:
                raise CommitConflict(
                    f"W&B takes this for {found.label}, which has the same files and differs only in its handler, "
                    "modes, links or empty directories. Change a file, or log it under another name."
                )
        if artifact.metadata != wanted or (expiry is not None and artifact.ttl != ttl_of(found.created_at, expiry)):
            self._change(found, wanted, ... if expiry is None else expiry)
        return found.label

    def _change(self, found: WandbVersion, metadata: Mapping[str, Any], expiry: _Expiry | EllipsisType) -> None:
        artifact = found.artifact
        ttl = None if expiry is None or expiry is ... else ttl_of(found.created_at, expiry)
        try:
            artifact.metadata = {**artifact.metadata, **metadata}
            if expiry is not ...:
                artifact.ttl = ttl
        except ValueError as error:
            raise InvalidArgument(f"W&B does not accept this change of {found.label}: {error}") from None
        with asking(f"changing {found.label}"):
            artifact.save()

    def _delete(self, versions: Sequence[WandbVersion], force: bool, dry_run: bool) -> None:
        for version in () if force else versions:
            if aliases := [alias for alias in version.artifact.aliases if alias != LATEST]:
                raise InvalidArgument(
                    f"{version.label} was not deleted: it has the aliases {', '.join(aliases)}. Nothing was changed. "
                    "Pass force=True to delete it with its aliases."
                )
        for version in () if dry_run else versions:
            with asking(f"deleting {version.label}"):
                version.artifact.delete(delete_aliases=True)

    def _link(self, found: WandbVersion) -> ArtifactVersion:
        kind = found.artifact.type
        if kind != self.collection:
            raise InvalidArgument(
                f"A link keeps its type. Create the target registry with collection={kind!r}, not {self.collection!r}."
            )
        with asking(f"linking {found.label} to {self._project.path}"):
            linked = found.artifact.link(self._path)
        return ArtifactVersion(self.name, kind, str(linked.version))

    def _source(self, found: WandbVersion) -> dict[str, str]:
        place = f"{found.artifact.entity}/{found.artifact.project}"
        where = {"repository": f"wandb:{place}", "url": f"{self._project.api.settings['base_url']}/{place}"}
        made = {"created_at": found.created_at.isoformat()}
        return {**where, "collection": self.collection, "name": self.name, "version": found.label.version, **made}

    def __repr__(self) -> str:
        return f"WandbArtifact({self._label!r}, {self._project.path!r})"


_NO_HISTORY = "W&B keeps no history of aliases. Call get_aliases to see where they point, and set_alias to move one."


def _refuse_token(token: str | None) -> None:
    if token is not None:
        raise NotSupported(
            "W&B cannot tell whether an earlier upload succeeded. Check on the page of the run, and log again without "
            "a token."
        )


def _refuse_by(by: str | None) -> None:
    if by is not None:
        raise NotSupported("W&B does not record who moves an alias. Leave out `by`.")


def _refuse_expired(found: WandbVersion, validate: bool) -> None:
    if validate and found.expiry is not None and found.expiry <= datetime.now(UTC):
        raise ArtifactExpired(
            f"{found.label} expired at {found.expiry.isoformat()}, and W&B will delete it. Choose another version, or "
            "pass validate=False to read it while it still exists."
        )


def _report(progress: Progress | None, what: str, size: int) -> None:
    if progress is not None:
        progress(what, size, size)
