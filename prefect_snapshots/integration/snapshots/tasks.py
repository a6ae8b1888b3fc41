"""Prefect tasks over snapshots and artifacts, each with a twin for asynchronous flows, whose loop goes on meanwhile.

They take every option of a task through `.with_options`. Unless asked to they are not cached, because hashing what they
are given costs more than saving it.

Prefect looks through every argument of a task for the results of other tasks. Where the data is a collection of very
many Python objects that takes far longer than saving it (4 s beside 0.15 s for a list of 300,000 numbers, measured):
pass `prefect.utilities.annotations.quote(data)` then. Arrays are not looked into.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from prefect import task
from prefect.cache_policies import NO_CACHE

from ...repository.choosing import RepositoryLike
from ...snapshots.requests import SaveRequest
from ..blocks import current_repository
from ..twins import asynchronous, returns_anything
from .saving import load, manager_of, save


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

    Args:
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
    return save(manager, data, SaveRequest.of(snapshot_id, metadata, tags, overwrite))


@returns_anything
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

    Args:
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


asave_snapshot = task(cache_policy=NO_CACHE)(asynchronous(save_snapshot.fn))
aload_snapshot = task(cache_policy=NO_CACHE)(asynchronous(load_snapshot.fn))
