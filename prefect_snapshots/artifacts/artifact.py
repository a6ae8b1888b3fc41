"""Artifact: the handle of one artifact, with the methods for its versions and aliases."""

from __future__ import annotations

import contextlib
import copy
import getpass
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import EllipsisType
from typing import Any

from ..arguments import checking_types
from ..errors import ArtifactNotFound, CommitConflict, DamagedVersion, InvalidArgument, NotSupported
from ..messages import hint, logger
from ..repository.catalog import Event, token_from
from ..repository.commits import Draft
from ..repository.contents import ContentReader, StagedPart, Stored, Writer, inline
from ..repository.descriptions import NOTHING, Description, changes_of
from ..repository.metadata import clean_metadata
from ..repository.progress import Progress
from ..repository.provenance import made_by, made_by_elsewhere, note_input
from ..repository.staged_parts import Parts, commit_parts
from ..repository.times import from_nanoseconds
from ..repository.tracking import TrackedStream
from ..retention import CleanupReport, RetentionItem, RetentionPolicy, RetentionRow
from ..trees.stored import StoredTree
from .differences import Difference, FileDifference, diff_files, diff_folders
from .downloads import Download, LoggedFolder, download, part_of, tree_of, verify_folder
from .drafts import FolderDraft
from .folders import decode_manifest, join_folders, scan_folder
from .handlers import check_environment, find_handler, reading, write_value
from .history import (
    KIND,
    ArtifactHistory,
    Match,
    Move,
    StoredVersion,
    VersionLike,
    check_alias,
    created,
    expiry_of,
    moves_of,
    refuse_older,
    source_of,
)
from .infos import ArtifactInfo, ArtifactVersion
from .manager import ArtifactManager, require_store


@checking_types
class Artifact:
    """One artifact of a registry: the methods of `ArtifactRegistry`, without the name.

    Get it from `ArtifactRegistry.artifact`. It need not exist yet: the first version creates it.

    Args:
        name: The name of the artifact.
        collection: The collection that it belongs to.
        tracked: The stream of its events.
        missing: A function that returns the error to raise if the artifact does not exist.

    Example:
        >>> from prefect_snapshots import ArtifactRegistry
        >>> model = ArtifactRegistry("memory://example-artifact").artifact("model")
        >>> for weights in ([1.0], [2.0]):
        ...     version = model.log(weights)
        >>> model.set_stage("production", 0).version
        'v0'
        >>> model.load(), model.load("production")
        ([2.0], [1.0])
    """

    def __init__(
        self,
        name: str,
        collection: str,
        tracked: TrackedStream[ArtifactHistory],
        missing: Callable[[Artifact], Exception],
    ) -> None:
        self.name = name
        self.collection = collection
        self.repository = tracked.repository
        self._tracked = tracked
        self._missing = missing
        self._origin: dict[str, str] = {}

    # --- looking -----------------------------------------------------------------------------------------------------

    def list_versions(self) -> list[ArtifactInfo]:
        """List all versions, newest first. See `ArtifactRegistry.list_versions`."""
        history = self._look()
        found = []
        for version in reversed(history.versions.values()):
            try:
                found.append(self._info(version, history))
            except DamagedVersion as error:
                logger.warning("%s. Delete this version.", error)
        return found

    def get(self, version: VersionLike = None, match: Match = "exact") -> ArtifactInfo:
        """Return the metadata of a version without reading it. See `ArtifactRegistry.get_artifact`."""
        with self._current() as history:
            return self._info(history.resolve(version, match, self._label), history)

    def exists(self, version: VersionLike = None, match: Match = "exact") -> bool:
        """Return whether there is such a version, expired or not."""
        try:
            self._resolve(version, match)
        except ArtifactNotFound:
            return False
        return True

    def list_files(self, version: VersionLike = None, match: Match = "exact") -> list[tuple[str, int]]:
        """List the path and size in bytes of each file of a version. See `ArtifactRegistry.list_files`."""
        return [(entry.path, entry.size) for entry, _ in self.stored_files(version, match).files]

    def stored_files(self, version: VersionLike = None, match: Match = "exact") -> StoredTree:
        """Return the files of a version, to read parts of them without downloading it."""
        found = self._find(version, match)
        with self._content(found) as content:
            return tree_of(content, self.name, *self._files_of(found))

    # --- logging -----------------------------------------------------------------------------------------------------

    def logged_from(self, source: Mapping[str, str]) -> Artifact:
        """Return this handle, whose new versions say where they come from.

        Args:
            source: Strings with string keys. `created_at` is when the version was first logged elsewhere, and becomes
                its time.
        """
        handle = Artifact(self.name, self.collection, self._tracked, self._missing)
        handle._origin = dict(source)
        return handle

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
    ) -> ArtifactVersion:
        """Log a file, a folder or parts of one as a new version. See `ArtifactRegistry.log_files`."""
        body = notes_of(metadata, expiry)
        if not isinstance(local_path, str | os.PathLike):
            if artifact_path is not None:
                raise InvalidArgument("Pass artifact_path to stage_files: each part has its own.")
            if follow_links:
                raise InvalidArgument("Pass follow_links to stage_files, which reads the folders.")
            return commit_parts(
                local_path,
                lambda parts: self._log(
                    body, None, lambda writer: join_folders(self.repository, writer, parts), token, if_changed
                ),
            )
        folder = scan_folder(Path(os.path.expanduser(local_path)), artifact_path, follow_links=follow_links)
        passed = counter("upload", folder.size, progress)
        return self._log(body, folder.travelling(), lambda writer: folder.store(writer, passed()), token, if_changed)

    def log_folder(
        self,
        *,
        metadata: Mapping[str, Any] | None = None,
        expiry: datetime | str | None = None,
        follow_links: bool = False,
        progress: Progress | None = None,
    ) -> LoggedFolder:
        """Return a folder that is logged when the `with` block ends. See `ArtifactRegistry.log_folder`."""
        notes_of(metadata, expiry)  # raises an error now, not after hours of work
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
        metadata: Mapping[str, Any] | None = None,
        expiry: datetime | str | None = None,
        if_changed: bool = False,
        token: str | None = None,
        **writer_options: Any,
    ) -> ArtifactVersion:
        """Log a value as a new version. See `ArtifactRegistry.log_artifact`."""
        allow_pickle = self.repository.allow_pickle
        found, (manifest, buffers) = write_value(handler, value, allow_pickle=allow_pickle, options=writer_options)
        body = {"handler": handler, "suffix": found.suffix, "environment": found.environment(value)}
        return self._log(
            {**body, **notes_of(metadata, expiry)},
            inline(manifest, buffers),
            lambda writer: writer.store(manifest, buffers),
            token,
            if_changed,
        )

    def draft(
        self,
        version: VersionLike = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        expiry: datetime | str | None = None,
    ) -> FolderDraft:
        """Return a draft of the next version that begins with the files of this one. See `ArtifactRegistry.draft`."""
        body = notes_of(metadata, expiry)
        with self._current() as history:
            assert history.newest is not None
            found, newest = history.resolve(version, "exact", self._label), history.newest.number
        if self._sound(found).handler is not None:
            raise InvalidArgument(f"{self._label_of(found)} is a value, and has no files to change. Log it again.")
        self._note(found)
        with self._content(found) as content:
            tree = tree_of(content, self.name, *self._files_of(found))
            return FolderDraft(content, tree, lambda store: self._log(body, None, store, None, False, newest))

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
    ) -> ArtifactVersion:
        """Create a version from content that is already stored. See `ArtifactRegistry.adopt`."""
        body = notes_of(metadata, expiry)
        if handler is not None:
            body |= {"handler": handler, "suffix": suffix or find_handler(handler).suffix}
        if environment:
            body["environment"] = dict(environment)
        if source:
            body["source"] = dict(source)
        body |= made_by(self.repository)
        return self._adopt(content, body, progress, allow_older=allow_older)

    def _adopt(
        self,
        content: ContentReader,
        body: dict[str, Any],
        progress: Progress | None,
        number: int | None = None,
        *,
        allow_older: bool = True,
    ) -> ArtifactVersion:
        """Create a version from content and the fields of its event. The number is by default the next one."""
        there: StoredVersion | None = None

        def draft() -> Draft | None:
            nonlocal there
            history = self._tracked.state
            there = history.newest if number is None else history.versions.get(number)
            if there is not None and _is_from(there, body.get("source")):
                return None
            if not allow_older and history.newest is not None:
                refuse_older(body.get("source"), from_nanoseconds(history.newest.time), self._label)
            if number is not None and number < history.next_number:
                raise CommitConflict(
                    f"v{number} of {self._label} cannot be copied: {self.repository.url} already has "
                    f"v{history.next_number - 1}. Copy the release into an empty repository."
                )
            return Draft("version", {"id": f"v{history.next_number if number is None else number}", **body})

        event = self._tracked.adopt(draft, content, counter("copy", content.size, progress)())
        version = self._version_of(event or (None if there is None else there.event))
        return version if event is not None else replace(version, new=False)

    # --- reading -----------------------------------------------------------------------------------------------------

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
        """Download a version. Every byte is verified. See `ArtifactRegistry.download_artifact`."""
        found = self._find(version, match, valid=validate)
        with self._content(found) as content:
            self._note(found)
            tree = part_of(tree_of(content, self.name, *self._files_of(found)), paths)
            passed = counter("download", tree.stored, progress)()
            return download(tree, to, self._version_of(found.event), passed, clean=clean)

    def verify_folder(
        self,
        local_path: str | os.PathLike[str],
        version: VersionLike = None,
        match: Match = "exact",
        *,
        follow_links: bool = False,
    ) -> list[FileDifference]:
        """Compare a folder on the disk with a version. See `ArtifactRegistry.verify_folder`."""
        found = self._find(version, match)
        with self._content(found) as content:
            return verify_folder(tree_of(content, self.name, *self._files_of(found)), local_path, follow_links)

    def load(
        self, version: VersionLike = None, match: Match = "exact", validate: bool = True, **reader_options: Any
    ) -> Any:
        """Return the value of a version. Every byte is verified. See `ArtifactRegistry.load_artifact`."""
        found = self._find(version, match, valid=validate)
        if found.handler is None:
            raise InvalidArgument(f"{self._label_of(found)} is a folder of files. Use download_artifact.")
        if validate:
            check_environment(found.event.body.get("environment", {}), self._label_of(found))
        handler = find_handler(found.handler)
        with self._content(found) as content, reading(found.handler, self._label_of(found), reader_options):
            self._note(found)
            return handler.read(content.manifest, content, allow_pickle=self.repository.allow_pickle, **reader_options)

    def diff(self, old: VersionLike, new: VersionLike = None, match: Match = "exact") -> Sequence[Difference]:
        """Compare two versions. See `ArtifactRegistry.diff`."""
        history = self._look()
        before, after = (self._sound(history.resolve(version, match, self._label)) for version in (old, new))
        with self._content(before) as a, self._content(after) as b:
            if before.handler is None and after.handler is None:
                return diff_folders(a, decode_manifest(a), b, decode_manifest(b))
            if before.handler == after.handler:
                handler = find_handler(str(after.handler))
                return handler.diff((a.manifest, a), (b.manifest, b), allow_pickle=self.repository.allow_pickle)
            return diff_files(self.name, a, b)

    # --- changing ----------------------------------------------------------------------------------------------------

    def set_expiry(self, expiry: datetime | str | None, version: VersionLike = None, match: Match = "exact") -> None:
        """Set when a version expires. None means never. See `ArtifactRegistry.set_artifact_expiry`."""
        self._annotate(version, match, {"expiry": expiry_of(expiry)})

    def update_metadata(self, metadata: Mapping[str, Any], version: VersionLike = None, match: Match = "exact") -> None:
        """Add or replace values in the metadata of a version. See `ArtifactRegistry.update_artifact_metadata`."""
        self._annotate(version, match, {"metadata": clean_metadata(metadata)})

    def describe(
        self,
        version: VersionLike | EllipsisType = ...,
        *,
        description: str | None = None,
        add_tags: str | Sequence[str] | None = None,
        remove_tags: str | Sequence[str] | None = None,
    ) -> None:
        """Describe the artifact, or one of its versions. See `ArtifactRegistry.describe_artifact`."""
        changes = changes_of(description, add_tags, remove_tags)
        if not isinstance(version, EllipsisType):
            self._annotate(version, "exact", changes)
            return
        self._look()
        self._tracked.change(lambda: Draft("describe", changes))

    def get_description(self) -> Description:
        """Return the description and the tags of the artifact."""
        return self._look().about

    def pin(self, version: VersionLike = None) -> None:
        """Exempt a version from retention. See `ArtifactRegistry.pin`."""
        self._pin(version, "pin", "pinned")

    def unpin(self, version: VersionLike = None) -> None:
        """Allow retention to delete a version again. See `ArtifactRegistry.unpin`."""
        found = self._find(version)

        def draft() -> Draft | None:
            return Draft("unpin", {"version": found.label}) if found.number in self._tracked.state.pinned else None

        self._tracked.change(draft)

    def release(self, version: VersionLike) -> str:
        """Protect a version because a release is about to include it, and return its label."""
        return self._pin(self._find(version, valid=True).number, "release", "released").label

    def delete_version(self, version: VersionLike, *, force: bool = False, dry_run: bool = False) -> None:
        """Delete one version. See `ArtifactRegistry.delete_version`."""
        found = self._resolve(version)
        self._delete(lambda history: [found] if found.number in history.versions else [], force, dry_run)

    def delete(self, *, force: bool = False, dry_run: bool = False) -> None:
        """Delete all versions. See `ArtifactRegistry.delete_artifact`."""
        self._look()
        self._delete(lambda history: list(history.versions.values()), force, dry_run)

    def cleanup(self, policy: RetentionPolicy | None = None, dry_run: bool = False) -> CleanupReport:
        """Delete versions that a retention policy does not keep. See `ArtifactRegistry.cleanup`."""
        policy = RetentionPolicy.checked(policy)
        self._look()
        rows: list[RetentionRow] = []
        gone: list[str] = []

        def draft() -> Draft | None:
            history = self._tracked.state
            rows[:] = policy.plan(
                RetentionItem(version.label, from_nanoseconds(version.event.time), exempt=history.exempt(number))
                for number, version in history.versions.items()
            )
            gone[:] = [row.name for row in rows if not row.keep]
            doomed = [version.event.sequence for version in history.versions.values() if version.label in gone]
            return Draft("cleanup", {}, doomed) if doomed else None

        self._tracked.change(draft, dry_run=dry_run)
        return CleanupReport(tuple(rows), tuple(gone), dry_run)

    # --- stages ------------------------------------------------------------------------------------------------------

    def set_alias(
        self,
        alias: str,
        version: VersionLike,
        expected: VersionLike | EllipsisType = ...,
        *,
        by: str | None = None,
    ) -> ArtifactVersion:
        """Point an alias to a version. See `ArtifactRegistry.set_alias`."""
        found = self._find(version)
        return self._move(check_alias(alias), lambda _: found, expected, by)

    def set_stage(
        self,
        stage: str,
        version: VersionLike = None,
        match: Match = "exact",
        *,
        expected: VersionLike | EllipsisType = ...,
        by: str | None = None,
    ) -> ArtifactVersion:
        """Promote a version to a stage. See `ArtifactRegistry.set_stage`."""
        alias = check_alias(stage)
        with self._current() as history:
            found = history.resolve(version, match, self._label, valid=True)
            now = history.alias_target(alias)
        return self._move(alias, lambda _: found, now if expected is ... else expected, by)

    def delete_alias(self, alias: str, *, by: str | None = None) -> None:
        """Delete an alias, but keep its history. See `ArtifactRegistry.delete_alias`."""
        self._look()

        def draft() -> Draft:
            self._stack_of(alias, self._tracked.state)
            return Draft("alias", {"alias": alias, "version": None, "by": by or _who()})

        self._tracked.change(draft)

    def get_aliases(self) -> dict[str, str]:
        """Return the version of each alias, as in `{"production": "v3"}`."""
        return {alias: f"v{stack[-1]}" for alias, stack in sorted(self._look().aliases.items())}

    def get_alias_history(self, alias: str | None = None) -> list[Move]:
        """Return every move of one alias, or of all aliases, oldest first."""
        return list(moves_of(self._look(), alias))

    def rollback(self, alias: str, *, by: str | None = None) -> ArtifactVersion:
        """Move an alias back to its previous version. See `ArtifactRegistry.rollback`."""

        def previous(history: ArtifactHistory) -> StoredVersion:
            stack = self._stack_of(alias, history)
            if len(stack) < 2:
                raise ArtifactNotFound(
                    f"{alias!r} of {self._label} has no previous version: there is nothing before v{stack[0]}. Nothing "
                    "was changed."
                )
            return history.versions[stack[-2]]

        history = self._look()
        previous(history)
        return self._move(alias, previous, history.alias_target(alias), by, rollback=True)

    def copy_to(
        self,
        to: ArtifactManager,
        version: VersionLike = None,
        match: Match = "exact",
        *,
        allow_older: bool = False,
        progress: Progress | None = None,
    ) -> ArtifactVersion:
        """Copy a version into another registry. See `ArtifactRegistry.copy_to`."""
        require_store(to)
        found = self._find(version, match, valid=True)
        body = found.event.body
        with self._content(found) as content:
            copied = to.adopt(
                self.name,
                content,
                handler=found.handler,
                suffix=body.get("suffix"),
                metadata=found.metadata,
                environment=body.get("environment"),
                expiry=None if found.expiry is None else from_nanoseconds(found.expiry),
                source=self._source(found),
                allow_older=allow_older,
                progress=progress,
            )
        if found.about != NOTHING:
            with contextlib.suppress(NotSupported):  # W&B
                to.describe_artifact(
                    self.name,
                    copied.version,
                    description=found.about.description,
                    add_tags=found.about.tags,
                    collection=copied.collection,
                )
        return copied

    def copy_numbered(self, version: VersionLike, to: Artifact, progress: Progress | None) -> None:
        """Copy a version under the same number: see `ArtifactRegistry.copy_release`."""
        found = self._find(version)
        body = {key: value for key, value in found.event.body.items() if key not in ("id", "source")}
        body |= {"metadata": found.metadata, "expiry": found.expiry, "source": self._source(found)}
        if found.about != NOTHING:
            body |= {"description": found.about.description, "tags": list(found.about.tags)}
        if found.made_by is not None:
            body |= made_by_elsewhere(found.made_by, self.repository.url)
        with self._content(found) as content:
            to._adopt(content, body, progress, found.number)
        to._pin(found.number, "release", "released")  # even if it has expired since

    # --- inside ------------------------------------------------------------------------------------------------------

    @property
    def _label(self) -> str:
        return f"{self.collection}/{self.name}"

    def _label_of(self, version: StoredVersion) -> str:
        return f"{self._label}:{version.label}"

    def _version_of(self, event: Event | None) -> ArtifactVersion:
        assert event is not None
        return ArtifactVersion(self.name, self.collection, event.body["id"])

    def _files_of(self, version: StoredVersion) -> tuple[str | None, str]:
        return version.event.body.get("suffix"), self._label_of(version)

    def _look(self) -> ArtifactHistory:
        """Return the current state. Raise `ArtifactNotFound` if there is no version."""
        with self._current():
            return self._tracked.view

    @contextlib.contextmanager
    def _current(self) -> Iterator[ArtifactHistory]:
        """Lend the current state, or raise `ArtifactNotFound` if there is no version."""
        with self._tracked.current() as history:
            if history.newest is not None:
                yield history
                return
        # Not within the block, which holds a lock: the hint of the error reads this and all other artifacts in other
        # threads, which would wait for it forever.
        raise self._missing(self)

    def _resolve(self, version: VersionLike = None, match: Match = "exact", valid: bool = False) -> StoredVersion:
        with self._current() as history:
            return history.resolve(version, match, self._label, valid=valid)

    def _find(self, version: VersionLike, match: Match = "exact", *, valid: bool = False) -> StoredVersion:
        return self._sound(self._resolve(version, match, valid))

    def _sound(self, version: StoredVersion) -> StoredVersion:
        if version.damage is not None:
            raise DamagedVersion(self._label_of(version), "", version.damage)
        return version

    def _note(self, version: StoredVersion) -> None:
        """Note that the current flow run reads a version, so that what it makes records this."""
        note_input(self.repository, KIND, self._label, version.label)

    def _content(self, version: StoredVersion) -> AbstractContextManager[ContentReader]:
        return self._tracked.reading(version.event, self._label_of(version))

    def _info(self, version: StoredVersion, history: ArtifactHistory) -> ArtifactInfo:
        body, content = self._sound(version).event.body, version.event.content
        assert content is not None
        return ArtifactInfo(
            self.name,
            self.collection,
            version.label,
            from_nanoseconds(version.time),
            None if version.expiry is None else from_nanoseconds(version.expiry),
            version.handler,
            content.size,
            content.written,
            copy.deepcopy(version.metadata),
            history.aliases_of(version.number),
            dict(body.get("environment", {})),
            body.get("source") and dict(body["source"]),
            version.number in history.pinned,
            version.about.description,
            version.about.tags,
            version.made_by,
        )

    def _log(
        self,
        body: dict[str, Any],
        content: Stored | None,
        store: Callable[[Writer], Stored],
        token: str | None,
        if_changed: bool,
        expected: int | None = None,
    ) -> ArtifactVersion:
        stored, unchanged = content, None
        body = {**body, **made_by(self.repository)}
        if self._origin:
            body["source"] = self._origin

        def storing(writer: Writer) -> Stored:
            nonlocal stored
            stored = store(writer)
            return stored

        def draft() -> Draft | None:
            nonlocal unchanged
            newest = self._tracked.state.latest()
            if expected is not None and self._tracked.state.newest_number != expected:
                raise CommitConflict(
                    f"Somebody else has logged or deleted a version of {self._label} since the draft began. Nothing "
                    "was saved. Begin a new draft."
                )
            if if_changed and newest is not None and stored is not None and self._holds(newest, stored, body):
                unchanged = newest
                return None
            return Draft("version", {"id": f"v{self._tracked.state.next_number}", **body})

        if if_changed:
            self._tracked.refresh()  # otherwise, a version that is no longer the latest could look unchanged
        event = self._tracked.store(draft, content, storing, token=token_from(token))
        if unchanged is None:
            return self._version_of(event)
        notes: dict[str, Any] = {key: body[key] for key in ("metadata", "expiry") if key in body}
        if notes:
            self._annotate(unchanged.number, "exact", notes)
        return replace(self._version_of(unchanged.event), new=False)

    def _holds(self, version: StoredVersion, stored: Stored, body: Mapping[str, Any]) -> bool:
        """Return whether a version has the same content as a new one would have."""
        old, new = version.event.content, stored.content
        if old is None or (old.size, old.manifest_size, old.depth, old.table) != (
            new.size,
            new.manifest_size,
            new.depth,
            new.table,
        ):
            return False
        if any(version.event.body.get(key) != body.get(key) for key in ("handler", "suffix", "environment")):
            return False
        if new.depth:
            return True
        with self._content(version) as content:
            return content.inline is not None and content.inline.inline == stored.inline

    def _annotate(self, version: VersionLike, match: Match, changes: dict[str, Any]) -> None:
        found = self._find(version, match)

        def draft() -> Draft:
            now = self._tracked.state.versions.get(found.number, found)
            clean_metadata({**now.metadata, **changes.get("metadata", {})})  # the sum may be too large
            return Draft("annotate", {"version": found.label, **changes})

        self._tracked.change(draft)

    def _pin(self, version: VersionLike, kind: str, what: str) -> StoredVersion:
        found = self._find(version)

        def draft() -> Draft | None:
            history = self._tracked.state
            # Another writer may have deleted it since, and a pin of a deleted version would be a false promise.
            history.resolve(found.number, "exact", self._label)
            return None if found.number in getattr(history, what) else Draft(kind, {"version": found.label})

        self._tracked.change(draft)
        return found

    def _delete(self, choose: Callable[[ArtifactHistory], list[StoredVersion]], force: bool, dry_run: bool) -> None:
        def draft() -> Draft | None:
            history = self._tracked.state
            chosen = choose(history)
            for version in () if force else chosen:
                if reasons := history.protection(version.number):
                    raise InvalidArgument(
                        f"{self._label_of(version)} was not deleted: {', '.join(reasons)}. Nothing was changed. Pass "
                        "force=True, or --force on the command line, to delete it anyway."
                    )
            return Draft("delete", {}, [version.event.sequence for version in chosen]) if chosen else None

        self._tracked.change(draft, dry_run=dry_run)

    def _stack_of(self, alias: str, history: ArtifactHistory) -> list[int]:
        stack = history.aliases.get(alias)
        if not stack:
            raise ArtifactNotFound(f"{self._label} has no alias {alias!r}. {hint(alias, history.aliases)}")
        return stack

    def _move(
        self,
        alias: str,
        choose: Callable[[ArtifactHistory], StoredVersion],
        expected: VersionLike | EllipsisType,
        by: str | None,
        rollback: bool = False,
    ) -> ArtifactVersion:
        moved_by = by or _who()
        wanted = None
        if expected is not None and expected is not ...:
            wanted = self._resolve(expected).label

        def draft() -> Draft | None:
            history = self._tracked.state
            now, chosen = history.alias_target(alias), choose(history)
            if expected is not ... and now != wanted:
                raise CommitConflict(
                    f"{alias!r} of {self._label} is {now or 'not set'}, not {wanted or 'unset'} as expected: somebody "
                    "else moved it. Nothing was changed. Check which version it should be, and try again."
                )
            if now == chosen.label:
                return None
            # Another writer may have deleted it since, and an alias of a deleted version could not be loaded.
            history.resolve(chosen.number, "exact", self._label)
            body = {"alias": alias, "version": chosen.label, "by": moved_by}
            return Draft("alias", {**body, "rollback": True} if rollback else body)

        event = self._tracked.change(draft)
        label = choose(self._tracked.view).label if event is None else event.body["version"]
        return ArtifactVersion(self.name, self.collection, label)

    def _source(self, version: StoredVersion) -> dict[str, str]:
        return {
            "repository": self.repository.id,
            "url": self.repository.url,
            "collection": self.collection,
            "name": self.name,
            "version": version.label,
            **created(version),
        }

    def __repr__(self) -> str:
        return f"Artifact({self._label!r}, {self.repository.url!r})"


# --- helpers ---------------------------------------------------------------------------------------------------------


def notes_of(metadata: Mapping[str, Any] | None, expiry: datetime | str | None) -> dict[str, Any]:
    """Check metadata and expiry, and return them as fields of an event."""
    notes: dict[str, Any] = {}
    if metadata:
        notes["metadata"] = clean_metadata(metadata)
    if expiry is not None:
        notes["expiry"] = expiry_of(expiry)
    return notes


def counter(what: str, total: int, progress: Progress | None) -> Callable[[], Callable[[int], None]]:
    """Return a function that starts a new count, because content may have to be stored a second time."""

    def start() -> Callable[[int], None]:
        done = 0

        def passed(count: int) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(what, done, total)

        return passed

    return start


def _is_from(version: StoredVersion, source: Mapping[str, str] | None) -> bool:
    """Return whether a version was copied from this source, whose URL may have changed since."""
    earlier = source_of(version)
    if source is None or earlier is None:
        return False
    ours = ("repository", "collection", "name", "version", "snapshot")
    return all(earlier.get(key) == source.get(key) for key in ours)


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
