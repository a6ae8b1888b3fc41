"""The tasks over artifacts, and what they report: a page for each version and move of a stage, an asset, an event.

The pages of an artifact have one key: what `/v2/artifacts/key/<key>` shows is its timeline.

Events for automations; the resource is `prefect-snapshots.artifacts.<collection>/<name>`, related to the run:

- `prefect-snapshots.artifact.logged`: `repository` (URL), `collection`, `name`, `version`, `handler`, `size` and
  `written` (bytes of the version, and of those the newly stored), `metadata`, `source` (where it was promoted from, or
  null);
- `prefect-snapshots.artifact.promoted`: `repository`, `collection`, `name`, `version`, `stage`, `previous` (the version
  that the stage was before; null if it is new), `moved_by`, `rollback`.

And of a release, with the resource `prefect-snapshots.releases.<collection>`:

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

from ..artifacts import ArtifactInfo, ArtifactManager, ArtifactRegistry, ArtifactVersion, Release, VersionLike
from ..documents import Document, Facts, Heading, code
from ..documents.texts import Kind, Value, size_text
from ..reports.artifacts import about_artifact, about_release, about_version
from ..repository.choosing import RepositoryLike
from ..repository.repository import Repository
from .blocks import current_repository
from .live import artifact_key, artifact_url, plain
from .reporter import Reporter, only_warn
from .run_context import in_run, run_logger
from .snapshots.saving import manager_of
from .twins import asynchronous, returns_anything

LISTED = 10
"""Versions on a page, and steps of the timeline: the latest."""

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
    **writer_options: Any,
) -> ArtifactVersion:
    """Log a value as a new version of an artifact, and report it: a page of its timeline, an asset, an event.

    Arguments:
        name: the artifact.
        value: what the handler can write.
        handler: "json", "text", "pickle", "numpy", "pytree", "joblib", "parquet", or one of another package.
        collection: that the artifact belongs to.
        repository: a repository, a URL or a block; see `blocks.current_repository` for the default.
        metadata: plain values by text keys, up to 64 KB.
        expiry: when the version expires.
        writer_options: of the handler, such as `indent=4` for JSON.

    Returns:
        The version.

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
    version = registry.log_artifact(name, value, handler, metadata=metadata, expiry=expiry, **writer_options)
    report_logged(registry, version)
    return version


@task(cache_policy=NO_CACHE)
def log_files(
    name: str,
    local_path: str | os.PathLike[str],
    artifact_path: str | None = None,
    *,
    collection: str = "default",
    repository: RepositoryLike | None = None,
    metadata: Mapping[str, Any] | None = None,
    expiry: datetime | str | None = None,
) -> ArtifactVersion:
    """Log a file or a folder as a new version of an artifact, and report it as `log_artifact` does.

    Arguments:
        name: the artifact.
        local_path: a file, which keeps its name, or a folder, whose entries keep theirs.
        artifact_path: the folder within the artifact that takes them; default: its top.
        collection, repository, metadata, expiry: as for `log_artifact`.
    """
    registry = _registry(repository, collection)
    version = registry.log_files(name, local_path, None, artifact_path, metadata=metadata, expiry=expiry)
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
    """Make a new version of an artifact of a snapshot, and report it as `log_artifact` does.

    Arguments:
        snapshot_id: of the snapshot.
        artifact: the name of the artifact.
        name: the name under which the snapshot was saved.
        collection: that the artifact belongs to.
        repository: where the snapshot is; see `blocks.current_repository` for the default.
        to: another repository for the artifact: what it lacks is copied. Default: the same one, where nothing is.

    Raises:
        SnapshotNotFound: there is no such snapshot.
    """
    source = current_repository(repository)
    registry = _registry(source if to is None else to, collection)
    manager = manager_of(source, name)
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
    """Load the value of a version of an artifact, every byte verified.

    Arguments:
        name: the artifact.
        version: a number, `"latest"` (the default), an alias such as `"production"`, or a point in time.
        match: of a point in time: "exact", or "asof" for the newest version as of then.
        validate: whether an expired version, and one that needs another environment than this, is refused.
        collection, repository: as for `log_artifact`.
        reader_options: of the handler, such as `leaves="encoder/**"` for pytrees.

    Raises:
        ArtifactNotFound: there is no such artifact or version.
        ArtifactExpired: the version is past its expiry.
        EnvironmentMismatch: it was written with another Python or package, where that matters.
    """
    registry = _registry(repository, collection)
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
    """Promote a version to a stage, or into another registry, wholly or not at all, and report it.

    Arguments:
        name: the artifact.
        version: as for `load_artifact`.
        to: a stage, such as "production", or a registry of another collection, repository or storage.
        collection, repository: as for `log_artifact`.
        expected: promote to the stage only if it is this version now, with None if it is none. Default: what it is
            when the call begins.

    Returns:
        The version: of the target, if that is a registry.

    Raises:
        CommitConflict: the stage is another version than expected; the message says which.
        ArtifactExpired: the version is past its expiry.
    """
    registry = _registry(repository, collection)
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
    """Put a tag over one version of each of many artifacts, and report it. It never changes.

    Arguments:
        tag: any name that no release of the collection has.
        artifacts: versions by name, as in `{"model": "production", "features": 3}`. Default: the latest of all.
        collection, repository, metadata: as for `log_artifact`.

    Raises:
        ReleaseExists: the tag is taken.
        ArtifactNotFound: there is no such artifact or version, or none at all.
    """
    registry = _registry(repository, collection)
    release = registry.create_release(tag, artifacts, metadata=metadata)
    report_released(registry, release)
    return release


@functools.lru_cache(maxsize=64)
def _known_registry(repository: Repository, collection: str) -> ArtifactRegistry:
    return ArtifactRegistry(repository, collection)


def _registry(repository: RepositoryLike | None, collection: str) -> ArtifactRegistry:
    """The registry of a collection, the same one each time: it knows what happened so far."""
    return _known_registry(current_repository(repository), collection)


alog_artifact = task(cache_policy=NO_CACHE)(asynchronous(log_artifact.fn))
alog_files = task(cache_policy=NO_CACHE)(asynchronous(log_files.fn))
apromote_snapshot = task(cache_policy=NO_CACHE)(asynchronous(promote_snapshot.fn))
aload_artifact = task(cache_policy=NO_CACHE)(asynchronous(load_artifact.fn))
apromote_artifact = task(cache_policy=NO_CACHE)(asynchronous(promote_artifact.fn))
acreate_release = task(cache_policy=NO_CACHE)(asynchronous(create_release.fn))


# --- what is reported -------------------------------------------------------------------------------------------------


def report_logged(registry: ArtifactRegistry, version: ArtifactVersion) -> None:
    """Report that a version was logged, or came from another registry by a promotion."""
    with only_warn(f"{version} is logged"):
        info = registry.get_artifact(version.name, version.version, collection=version.collection)
        reporter, size, written = _reporter(registry, version), size_text(info.size), size_text(info.written)
        run_logger().info("Logged %s: %s, %s written.%s", version, size, written, reporter.link)
        if in_run():
            facts = {"handler": info.handler, "size": info.size, "written": info.written, "source": info.source}
            _emit("artifact.logged", registry, version, {**facts, "metadata": plain(info.metadata)})
            _materialize(registry, info)
            _leave_page(registry, version, str(version), about_version(info))


def report_promoted(registry: ArtifactRegistry, version: ArtifactVersion, stage: str) -> None:
    """Report that a stage was moved to a version."""
    with only_warn(f"{version} is {stage} now"):
        history = registry.get_alias_history(version.name, stage, version.collection)
        move = next((move for move in reversed(history) if move.version == version.version), None)
        if move is None or move is not history[-1]:
            return  # another process moved it on meanwhile, and reports that itself
        back = "went back to" if move.rollback else "is now"
        was = f", and was {move.previous}" if move.previous else ""
        reporter = _reporter(registry, version)
        run_logger().info("%s of %s %s %s%s.%s", stage, reporter.name, back, version.version, was, reporter.link)
        if in_run():
            facts = {"previous": move.previous, "moved_by": move.moved_by, "rollback": move.rollback}
            _emit("artifact.promoted", registry, version, {"stage": stage, **facts})
            title = f"{stage} {back} {version.version}{was}"
            said: Said = {"moved by": (move.moved_by, "text"), "moved (UTC)": (move.moved_at, "time")}
            _leave_page(registry, version, title, said)


def report_released(registry: ArtifactRegistry, release: Release) -> None:
    """Report that a release was created."""
    with only_warn(f"Release {release.tag!r} is created"):
        versions = ", ".join(f"{name} {version}" for name, version in release.artifacts.items())
        run_logger().info("Released %s:%s: %s.", release.collection, release.tag, versions)
        facts = {"tag": release.tag, "artifacts": release.artifacts, "metadata": plain(release.metadata)}
        reporter = Reporter(registry.repository, "releases", release.collection)
        reporter.emit("release.created", {"collection": release.collection, **facts})
        reporter.leave_page(Document(f"Release {release.tag}", tuple(about_release(release))))


def report_read(registry: ArtifactRegistry, name: str, collection: str) -> None:
    """Tell Prefect that the run depends on an artifact."""
    with only_warn(f"{collection}/{name} is read"):
        context = AssetContext.get()
        if context is not None:
            context.direct_asset_dependencies.add(_asset(registry, name, collection))
            context.update_tracked_assets()


def _leave_page(registry: ArtifactRegistry, version: ArtifactVersion, title: str, facts: Said) -> None:
    """Add a page to the timeline: what happened, then the versions as they are now."""
    reporter = _reporter(registry, version)
    versions = about_artifact(registry, version.name, version.collection, LISTED)
    about = f"Artifact {code(reporter.name)}: {version.version}, in {code(registry.repository.url)}"
    blocks = Facts(facts), Heading(f"All versions of {reporter.name}"), *versions
    reporter.leave_page(Document(title, blocks), about)


def _emit(what: str, registry: ArtifactRegistry, version: ArtifactVersion, facts: dict[str, Any]) -> None:
    said = {"collection": version.collection, "name": version.name, "version": version.version, **facts}
    _reporter(registry, version).emit(what, said)


def _reporter(registry: ArtifactRegistry, version: ArtifactVersion) -> Reporter:
    return Reporter(registry.repository, "artifacts", f"{version.collection}/{version.name}")


def _materialize(registry: ArtifactRegistry, info: ArtifactInfo) -> None:
    """Have Prefect record, when the task ends well, that it made the asset, and from which other assets."""
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
    about = AssetProperties(name=label, url=artifact_url(key), description=f"In {code(registry.repository.url)}")
    return Asset(key=f"snapshots://{registry.repository.id}/{key}", properties=about)
