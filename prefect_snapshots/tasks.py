"""Prefect tasks over snapshots and artifacts, each with a twin for asynchronous flows, whose loop goes on meanwhile.

They take every option of a task through `.with_options`. Unless asked to they are not cached, because hashing what they
are given costs more than saving it.

Prefect looks through every argument of a task for the results of other tasks. Where the data is a collection of very
many Python objects that takes far longer than saving it (4 s beside 0.15 s for a list of 300,000 numbers, measured):
pass `prefect.utilities.annotations.quote(data)` then. Arrays are not looked into.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from types import EllipsisType
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, cast

from prefect import Task, task
from prefect.cache_policies import NO_CACHE

from .artifacts import ArtifactManager, ArtifactRegistry, ArtifactVersion, Release, VersionLike
from .blocks import current_repository
from .repository.repository import Repository, RepositoryLike
from .saving import load, manager_of, save
from .timeline import report_logged, report_promoted, report_read, report_released

P = ParamSpec("P")
R = TypeVar("R")

if TYPE_CHECKING:

    class TaskOfAnything(Task[P, Any]):
        """A task that returns anything. By Prefect's own types, whose first overload fits, it returned a coroutine."""

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any: ...  # type: ignore[override]


def _returns_anything(task: Task[P, Any]) -> TaskOfAnything[P]:
    return cast("TaskOfAnything[P]", task)


def _asynchronous(call: Callable[P, R]) -> Callable[P, Coroutine[Any, Any, R]]:
    """The same in a thread, so that the event loop goes on."""

    @functools.wraps(call)
    async def twin(*args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.to_thread(call, *args, **kwargs)

    twin.__name__ = twin.__qualname__ = f"a{call.__name__}"
    twin.__doc__ = f"`{call.__name__}` for asynchronous flows.\n\n{(call.__doc__ or '').partition('    Example:')[0]}"
    return twin


# --- snapshots -------------------------------------------------------------------------------------------------------


@task(cache_policy=NO_CACHE)
def save_snapshot(
    data: Any,
    snapshot_id: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    tags: str | Sequence[str] | None = None,
    overwrite: bool = False,
    *,
    name: str = "default",
    repository: RepositoryLike | None = None,
    rank_by: str | None = None,
    mode: Literal["max", "min"] = "max",
    max_snapshots: int | None = None,
) -> str | None:
    """Save a value as a snapshot, and report it in the Prefect UI.

    Arguments:
        data: any Python object or pytree.
        snapshot_id: its id; default: one made from the time and a random part.
        metadata: plain values by text keys, up to 64 KB.
        tags: one tag or several.
        overwrite: replace the snapshot with this id instead of raising.
        name: keeps snapshots apart that share a repository.
        repository: a repository, a URL or a block; see `blocks.current_repository` for the default.
        rank_by: the metadata key that ranks snapshots.
        mode: "max" when large values of `rank_by` are good, "min" when small ones are.
        max_snapshots: keep at most this many: the best, or the newest without `rank_by`.

    Returns:
        The id; None when the ranking does not admit the snapshot.

    Example:
        >>> from prefect import flow
        >>> from prefect_snapshots import load_snapshot, save_snapshot
        >>> @flow
        ... def pipeline(repository):
        ...     save_snapshot.with_options(retries=3)({"step": 7}, "seven", repository=repository)
        ...     return load_snapshot("seven", repository=repository)
        >>> pipeline("memory://example")
        {'step': 7}
    """
    manager = manager_of(current_repository(repository), name, rank_by, mode, max_snapshots)
    return save(manager, data, snapshot_id, metadata, tags, overwrite)


@_returns_anything
@task(cache_policy=NO_CACHE)
def load_snapshot(
    snapshot_id: str | None = None,
    *,
    name: str = "default",
    repository: RepositoryLike | None = None,
    leaves: str | Sequence[str] | None = None,
    like: Any = None,
) -> Any:
    """Load the value of a snapshot, every byte verified.

    Arguments:
        snapshot_id: its id; default: the latest one.
        name: the name under which it was saved.
        repository: a repository, a URL or a block; see `blocks.current_repository` for the default.
        leaves: patterns of leaf paths, such as `"encoder/**"`: only these are read.
        like: a value that gives structure, custom node types, and sharding of the result.

    Returns:
        The value.

    Raises:
        SnapshotNotFound: there is no such snapshot, or none at all.
        IntegrityError: stored bytes are damaged; the message names the leaf.
    """
    return load(current_repository(repository), name, snapshot_id, leaves, like)


# --- artifacts -------------------------------------------------------------------------------------------------------


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


@_returns_anything
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


# --- for asynchronous flows ------------------------------------------------------------------------------------------

asave_snapshot = task(cache_policy=NO_CACHE)(_asynchronous(save_snapshot.fn))
aload_snapshot = task(cache_policy=NO_CACHE)(_asynchronous(load_snapshot.fn))
alog_artifact = task(cache_policy=NO_CACHE)(_asynchronous(log_artifact.fn))
alog_files = task(cache_policy=NO_CACHE)(_asynchronous(log_files.fn))
apromote_snapshot = task(cache_policy=NO_CACHE)(_asynchronous(promote_snapshot.fn))
aload_artifact = task(cache_policy=NO_CACHE)(_asynchronous(load_artifact.fn))
apromote_artifact = task(cache_policy=NO_CACHE)(_asynchronous(promote_artifact.fn))
acreate_release = task(cache_policy=NO_CACHE)(_asynchronous(create_release.fn))
