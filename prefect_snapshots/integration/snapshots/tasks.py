"""Prefect tasks that save and load snapshots, each with an asynchronous twin that does not block the event loop.

Set task options with `.with_options`. By default the tasks are not cached, because hashing their arguments costs more
than saving them.

Prefect searches every argument of a task for the results of other tasks. For a collection of many Python objects, this
takes much longer than saving (measured: 4 s instead of 0.15 s for a list of 300,000 numbers). Pass
`prefect.utilities.annotations.quote(data)` to skip the search. Prefect does not search arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from prefect import task
from prefect.cache_policies import NO_CACHE

from ...repository.choosing import RepositoryLike
from ...retention import RetentionPolicy
from ...snapshots.requests import SaveRequest
from ...values import Loading
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
    retention: RetentionPolicy | None = None,
) -> str | None:
    """Save a value as a snapshot, and report it in the Prefect UI.

    Args:
        data: Any Python object or pytree.
        snapshot_id: The id. Default: the time and a random part.
        metadata: JSON-like values with string keys, up to 64 KB.
        tags: One tag or several.
        overwrite: Replace the snapshot with this id instead of raising an error.
        name: The name to save under. It separates groups of snapshots in one repository.
        repository: A repository, a URL or a block. Default: the one that `blocks.current_repository` returns.
        rank_by: The metadata key that ranks snapshots. Default: no ranking.
        mode: "max" if large values of `rank_by` are good, "min" if small ones are.
        max_snapshots: Keep at most this many: the best, or the newest without `rank_by`. Default: keep all.
        retention: Instead of `max_snapshots`, the policy that decides what to keep. See `SnapshotManager`.

    Returns:
        The id, or None if the snapshot ranks too low to be kept.

    Raises:
        SnapshotExists: The id is taken and `overwrite` is False.

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
    manager = manager_of(current_repository(repository), name, rank_by, mode, max_snapshots, retention)
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
    cast: bool = False,
    strict: bool = True,
) -> Any:
    """Load the value of a snapshot. Every byte is verified.

    Args:
        snapshot_id: The id. Default: the latest snapshot.
        name: The name under which it was saved.
        repository: A repository, a URL or a block. Default: the one that `blocks.current_repository` returns.
        leaves: Patterns of leaf paths to load, such as `"encoder/**"`. Default: all leaves.
        like: A value whose structure, custom node types and sharding the result gets. `...` in it skips a leaf.
        cast, strict: As for `SnapshotManager.get_snapshot`.

    Returns:
        The value.

    Raises:
        SnapshotNotFound: There is no such snapshot. The message names similar ids.
        IntegrityError: Stored bytes are damaged. The message names the leaf.
    """
    return load(current_repository(repository), name, snapshot_id, Loading(leaves, like, None, cast, strict))


asave_snapshot = task(cache_policy=NO_CACHE)(asynchronous(save_snapshot.fn))
aload_snapshot = task(cache_policy=NO_CACHE)(asynchronous(load_snapshot.fn))
