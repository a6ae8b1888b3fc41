"""Tasks that log, load and promote artifacts, and report each step to Prefect as a page, an asset and an event.

All pages of an artifact share one key, so `/v2/artifacts/key/<key>` shows its timeline.

Events for automations have the resource `prefect-snapshots.artifacts.<collection>/<name>` and are related to the run:

- `prefect-snapshots.artifact.logged`: `repository` (URL), `collection`, `name`, `version`, `handler`, `size` and
  `written` (the bytes of the version, and how many of them were new in the repository), `metadata`, `source` (the
  version that it was copied from, or null);
- `prefect-snapshots.artifact.promoted`: `repository`, `collection`, `name`, `version`, `stage`, `previous` (the
  version that the stage had before; null if the stage is new), `moved_by`, `rollback`.

Events of releases have the resource `prefect-snapshots.releases.<collection>`:

- `prefect-snapshots.release.created`: `repository`, `collection`, `tag`, `artifacts` (versions by name), `metadata`.

The asset of an artifact has the key `snapshots://<id of the repository>/<key of the pages>`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from datetime import datetime
from types import EllipsisType
from typing import Any, Literal

from prefect import task
from prefect.assets import Asset, AssetProperties
from prefect.cache_policies import NO_CACHE
from prefect.context import AssetContext

from ..artifacts import (
    ArtifactInfo,
    ArtifactManager,
    ArtifactRegistry,
    ArtifactVersion,
    LineageStep,
    Release,
    VersionLike,
)
from ..documents import Document, Facts, Heading, code
from ..documents.texts import Kind, Value, size_text
from ..reports.artifacts import about_artifact, about_lineage, about_release, about_version
from ..repository.choosing import RepositoryLike
from ..repository.contents import StagedPart
from ..repository.repository import Repository
from ..repository.staged_parts import Parts
from .blocks import current_repository
from .live import artifact_key, history_url, plain
from .reporter import Reporter, only_warn
from .run_context import in_run, run_logger
from .snapshots.saving import manager_of
from .twins import asynchronous, returns_anything

LISTED = 10
"""How many of the latest versions a page lists: enough to see the trend, and the page stays short in the UI."""

Said = Mapping[str, tuple[Value, Kind]]


@task(cache_policy=NO_CACHE)
def log_artifact(
    name: str,
    value: Any,
    handler: str = "json",
    *,
    collection: str = "default",
    repository: RepositoryLike | None = None,
    metadata: Mapping[str, Any] | None = None,
    expiry: datetime | str | None = None,
    if_changed: bool = False,
    **writer_options: Any,
) -> ArtifactVersion:
    """Log a value as a new version of an artifact, and report it to Prefect as a page, an asset and an event.

    Args:
        name: The name of the artifact.
        value: A value that the handler can write.
        handler: The name of the handler: "json", "text", "pickle", "numpy", "pytree", "joblib",
            "parquet", or one that another package installs.
        collection: The collection of the artifact.
        repository: A repository, a URL or a block. Default: the one that `blocks.current_repository` returns.
        metadata: JSON-like values with string keys, up to 64 KB.
        expiry: When the version expires. Default: never.
        if_changed: If the latest version has the same content, return it instead of creating a new one.
        writer_options: Options of the handler, such as `indent=4` for JSON.

    Returns:
        The new version.

    Raises:
        HandlerNotFound: No installed handler has this name.

    Example:
        >>> from prefect import flow
        >>> from prefect_snapshots import load_artifact, log_artifact, promote_artifact
        >>> @flow
        ... def pipeline(repository):
        ...     version = log_artifact("features", [0, 1, 2], repository=repository, metadata={"rows": 3})
        ...     promote_artifact("features", version.version, to="production", repository=repository)
        ...     return load_artifact("features", "production", repository=repository)
        >>> pipeline("memory://example-tasks")
        [0, 1, 2]
    """
    registry = _registry(repository, collection)
    with _reporter(registry, collection, name).long_work("Save"):
        version = registry.log_artifact(
            name, value, handler, metadata=metadata, expiry=expiry, if_changed=if_changed, **writer_options
        )
    report_logged(registry, version)
    return version


@task(cache_policy=NO_CACHE)
def log_files(
    name: str,
    local_path: str | os.PathLike[str] | Parts[StagedPart],
    artifact_path: str | None = None,
    *,
    collection: str = "default",
    repository: RepositoryLike | None = None,
    metadata: Mapping[str, Any] | None = None,
    expiry: datetime | str | None = None,
    if_changed: bool = False,
    follow_links: bool = False,
) -> ArtifactVersion:
    """Log a file or a folder as a new version of an artifact, and report it as `log_artifact` does.

    Args:
        name: The name of the artifact.
        local_path: A file, or a folder whose entries are logged. Names stay the same. Or parts, as for
            `ArtifactRegistry.log_files`.
        artifact_path: The folder inside the artifact to put them into. Default: the top folder.
        collection: The collection of the artifact.
        repository: As for `log_artifact`.
        metadata: As for `log_artifact`.
        expiry: When the version expires. Default: never.
        if_changed: If the latest version has the same content, return it instead of creating a new one.
        follow_links: Log what links in the folder lead to, instead of the links.

    Returns:
        The new version.
    """
    registry = _registry(repository, collection)
    with _reporter(registry, collection, name).long_work("Save") as progress:
        version = registry.log_files(
            name,
            local_path,
            None,
            artifact_path,
            metadata=metadata,
            expiry=expiry,
            if_changed=if_changed,
            follow_links=follow_links,
            progress=progress,
        )
    report_logged(registry, version)
    return version


@task(cache_policy=NO_CACHE)
def promote_snapshot(
    snapshot_id: str,
    artifact: str,
    *,
    name: str = "default",
    collection: str = "default",
    repository: RepositoryLike | None = None,
    to: RepositoryLike | None = None,
) -> ArtifactVersion:
    """Log a snapshot as a new version of an artifact, and report it as `log_artifact` does.

    Args:
        snapshot_id: The id of the snapshot.
        artifact: The name of the artifact.
        name: The name under which the snapshot was saved.
        collection: The collection of the artifact.
        repository: The repository of the snapshot. Default: the one that `blocks.current_repository` returns.
        to: Another repository for the artifact; only data that it lacks is copied. Default: the same repository,
            where no data is copied.

    Returns:
        The new version of the artifact.

    Raises:
        SnapshotNotFound: There is no such snapshot. The message names similar ids.
    """
    source = current_repository(repository)
    registry = _registry(source if to is None else to, collection)
    manager = manager_of(source, name)
    with _reporter(registry, collection, artifact).long_work("Copy"):
        version: ArtifactVersion = manager.promote(snapshot_id, registry, artifact)
    report_logged(registry, version)
    return version


@returns_anything
@task(cache_policy=NO_CACHE)
def load_artifact(
    name: str,
    version: VersionLike = None,
    match: Literal["exact", "asof"] = "exact",
    validate: bool = True,
    *,
    collection: str = "default",
    repository: RepositoryLike | None = None,
    **reader_options: Any,
) -> Any:
    """Load the value of a version of an artifact. Every byte is verified.

    Args:
        name: The name of the artifact.
        version: A number, `"latest"` (the default), an alias such as `"production"`, or a point in time.
        match: How to choose by a point in time: "exact", or "asof" for the newest version at that time.
        validate: Refuse a version that has expired, or that needs another environment than this one.
        collection: The collection of the artifact.
        repository: As for `log_artifact`.
        reader_options: Options of the handler, such as `leaves="encoder/**"` for pytrees.

    Returns:
        The value.

    Raises:
        ArtifactNotFound: There is no such artifact or version. The message names similar ones.
        ArtifactExpired: The version has expired.
        EnvironmentMismatch: The version needs another version of Python or of a package.
    """
    registry = _registry(repository, collection)
    with _reporter(registry, collection, name).long_work("Load"):
        value = registry.load_artifact(name, version, match, validate, **reader_options)
    report_read(registry, name, collection)
    return value


@task(cache_policy=NO_CACHE)
def promote_artifact(
    name: str,
    version: VersionLike = None,
    *,
    to: ArtifactManager | str,
    collection: str = "default",
    repository: RepositoryLike | None = None,
    expected: VersionLike | EllipsisType = ...,
) -> ArtifactVersion:
    """Promote a version to a stage or copy it into another registry, atomically, and report it to Prefect.

    Args:
        name: The name of the artifact.
        version: As for `load_artifact`.
        to: A stage, such as "production", or a registry of another collection or repository.
        collection: The collection of the artifact.
        repository: As for `log_artifact`.
        expected: Promote only if the stage has this version now; None means that the stage must not exist yet.
            Default: the version of the stage when the call begins.

    Returns:
        The version. If `to` is a registry, the version in that registry.

    Raises:
        ArtifactNotFound: There is no such artifact or version. The message names similar ones.
        CommitConflict: The stage has another version than expected. The message says which.
        ArtifactExpired: The version has expired.
    """
    registry = _registry(repository, collection)
    with _reporter(registry, collection, name).long_work("Copy"):
        promoted = registry.promote_artifact(name, version, to=to, expected=expected)
    if isinstance(to, str):
        report_promoted(registry, promoted, to)
    elif isinstance(to, ArtifactRegistry):
        report_logged(to, promoted)
    return promoted


@task(cache_policy=NO_CACHE)
def create_release(
    tag: str,
    artifacts: Mapping[str, VersionLike] | None = None,
    *,
    collection: str = "default",
    repository: RepositoryLike | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Release:
    """Create a release, a fixed set of artifact versions under one tag, and report it to Prefect.

    Args:
        tag: The name of the release. It must be new in the collection.
        artifacts: Versions by artifact name, such as `{"model": "production", "features": 3}`. Default: the latest
            version of every artifact of the collection.
        collection: The collection of the artifacts.
        repository: As for `log_artifact`.
        metadata: As for `log_artifact`.

    Returns:
        The release.

    Raises:
        ReleaseExists: The collection already has a release with this tag.
        ArtifactNotFound: An artifact or version does not exist, or the collection is empty.
    """
    registry = _registry(repository, collection)
    release = registry.create_release(tag, artifacts, metadata=metadata)
    report_released(registry, release)
    return release


@functools.lru_cache(maxsize=64)
def _known_registry(repository: Repository, collection: str) -> ArtifactRegistry:
    return ArtifactRegistry(repository, collection)


def _registry(repository: RepositoryLike | None, collection: str) -> ArtifactRegistry:
    """Return the registry of a collection. It is cached so that events are read only once."""
    return _known_registry(current_repository(repository), collection)


alog_artifact = task(cache_policy=NO_CACHE)(asynchronous(log_artifact.fn))
alog_files = task(cache_policy=NO_CACHE)(asynchronous(log_files.fn))
apromote_snapshot = task(cache_policy=NO_CACHE)(asynchronous(promote_snapshot.fn))
aload_artifact = task(cache_policy=NO_CACHE)(asynchronous(load_artifact.fn))
apromote_artifact = task(cache_policy=NO_CACHE)(asynchronous(promote_artifact.fn))
acreate_release = task(cache_policy=NO_CACHE)(asynchronous(create_release.fn))


# --- reports to Prefect ---------------------------------------------------------------------------------------------


def report_logged(registry: ArtifactRegistry, version: ArtifactVersion) -> None:
    """Report that a version was logged or copied from another registry, or that it was there already."""
    with only_warn(f"{version} was logged"):
        if not version.new:
            run_logger().info("No new version: %s has the same content.", version)
            return
        info = registry.get_artifact(version.name, version.version, collection=version.collection)
        size, written = size_text(info.size), size_text(info.written)
        link = _leave_page(registry, version, str(version), about_version(info))
        run_logger().info("Logged %s: %s, %s written.%s", version, size, written, link)
        if in_run():
            facts = {"handler": info.handler, "size": info.size, "written": info.written, "source": info.source}
            _emit("artifact.logged", registry, version, {**facts, "metadata": plain(info.metadata)})
            _materialize(registry, info)


def report_promoted(registry: ArtifactRegistry, version: ArtifactVersion, stage: str) -> None:
    """Report that a stage was moved to a version."""
    with only_warn(f"{version} is now {stage}"):
        history = registry.get_alias_history(version.name, stage, version.collection)
        move = next((move for move in reversed(history) if move.version == version.version), None)
        if move is None or move is not history[-1]:
            return  # another process has moved the stage again and reports its own move
        back = "went back to" if move.rollback else "is now"
        was = f", and was {move.previous}" if move.previous else ""
        title = f"{stage} {back} {version.version}{was}"
        said: Said = {"moved by": (move.moved_by, "text"), "moved (UTC)": (move.moved_at, "time")}
        link = _leave_page(registry, version, title, said)
        name = _reporter(registry, version.collection, version.name).name
        run_logger().info("%s of %s %s %s%s.%s", stage, name, back, version.version, was, link)
        if in_run():
            facts = {"previous": move.previous, "moved_by": move.moved_by, "rollback": move.rollback}
            _emit("artifact.promoted", registry, version, {"stage": stage, **facts})


def report_released(registry: ArtifactRegistry, release: Release) -> None:
    """Report that a release was created."""
    with only_warn(f"Release {release.tag!r} was created"):
        versions = ", ".join(f"{name} {version}" for name, version in release.artifacts.items())
        reporter = Reporter(registry.repository, "releases", release.collection)
        link = reporter.leave_page(lambda: Document(f"Release {release.tag}", tuple(about_release(release))))
        run_logger().info("Released %s:%s: %s.%s", release.collection, release.tag, versions, link)
        facts = {"tag": release.tag, "artifacts": release.artifacts, "metadata": plain(release.metadata)}
        reporter.emit("release.created", {"collection": release.collection, **facts})


def report_read(registry: ArtifactRegistry, name: str, collection: str) -> None:
    """Tell Prefect that the run depends on an artifact."""
    with only_warn(f"{collection}/{name} was read"):
        context = AssetContext.get()
        if context is not None:
            context.direct_asset_dependencies.add(_asset(registry, name, collection))
            context.update_tracked_assets()


def _leave_page(registry: ArtifactRegistry, version: ArtifactVersion, title: str, facts: Said) -> str:
    """Add a page to the timeline: this step, followed by the current list of versions. Return its link."""
    reporter = _reporter(registry, version.collection, version.name)
    about = f"Artifact {code(reporter.name)}: {version.version}, in {code(registry.repository.url)}"

    def page() -> Document:
        versions = about_artifact(registry, version.name, version.collection, LISTED)
        info = registry.get_artifact(version.name, version.version, collection=version.collection)
        lineage = registry.get_lineage(info.name, info.version, collection=info.collection, origins_only=True)
        steps = about_lineage(info, lineage, _page_of, LISTED)
        return Document(title, (Facts(facts), *steps, Heading(f"All versions of {reporter.name}"), *versions))

    return reporter.leave_page(page, about)


def _page_of(step: LineageStep) -> str | None:
    """Return where the page about a step of a lineage is, if it is in this repository."""
    return history_url(artifact_key(step.kind, step.name)) if step.repository is None else None


def _emit(what: str, registry: ArtifactRegistry, version: ArtifactVersion, facts: dict[str, Any]) -> None:
    said = {"collection": version.collection, "name": version.name, "version": version.version, **facts}
    _reporter(registry, version.collection, version.name).emit(what, said)


def _reporter(registry: ArtifactRegistry, collection: str, name: str) -> Reporter:
    return Reporter(registry.repository, "artifacts", f"{collection}/{name}")


def _materialize(registry: ArtifactRegistry, info: ArtifactInfo) -> None:
    """Make Prefect record, if the task succeeds, that it created the asset and which assets it used."""
    context = AssetContext.get()
    if context is None:
        return
    asset = _asset(registry, info.name, info.collection)
    context.downstream_assets.add(asset)
    context.update_tracked_assets()
    context.add_asset_metadata(asset.key, {"version": info.version, "size": info.size, **plain(info.metadata)})


def _asset(registry: ArtifactRegistry, name: str, collection: str) -> Asset:
    label = f"{collection}/{name}"
    key = artifact_key("artifacts", label)
    about = AssetProperties(name=label, url=history_url(key), description=f"In {code(registry.repository.url)}")
    return Asset(key=f"snapshots://{registry.repository.id}/{key}", properties=about)
