"""PyTreeSnapshotManager: work on the leaves of snapshots."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

from ..arguments import checking_types
from ..errors import InvalidArgument
from ..repository.choosing import RepositoryLike
from ..repository.repository import Repository
from ..retention import RetentionPolicy
from ..values import map_leaves, map_leaves_with_path, validate
from ..values.paths import matcher
from .backends import Backend
from .manager import SnapshotManager, T
from .records import Compare, Snapshot
from .shared import Shared


@checking_types
class PyTreeSnapshotManager(SnapshotManager[T]):
    """A `SnapshotManager` for pytrees that checks values before it saves them, and transforms leaves.

    In a run of several JAX processes (`jax.distributed.initialize`), call each method in all of them, with the same
    arguments. Each process stores only what it alone has, and one commits: a snapshot appears as a whole or not at all,
    and all processes return the same id or raise the same error.

    Args:
        repository, name, deepcopy_on_save, deepcopy_on_retrieve: As for `SnapshotManager`.
        max_snapshots, retention, rank_by, mode, cmp: As for `SnapshotManager`.
        all_processes: Whether all processes of a run save, annotate and delete together. Pass False to use the manager
            in one of them only. Default: True.
        process_timeout: How many seconds one process may be later than another one before `ProcessFailed` is raised.
            Default: 600.

    Example:
        >>> from prefect_snapshots import PyTreeSnapshotManager
        >>> manager = PyTreeSnapshotManager()
        >>> sid = manager.save_snapshot({"txt": "hello pytorch", "x": 42})
        >>> nsid = manager.tree_map(lambda x: x.replace("pytorch", "jax") if isinstance(x, str) else x, sid)
        >>> manager.get_snapshot(nsid).data
        {'txt': 'hello jax', 'x': 42}
    """

    def __init__(
        self,
        repository: RepositoryLike | None = None,
        *,
        name: str = "default",
        deepcopy_on_save: bool = True,
        deepcopy_on_retrieve: bool = True,
        max_snapshots: int | None = None,
        retention: RetentionPolicy | None = None,
        rank_by: str | None = None,
        mode: Literal["max", "min"] = "max",
        cmp: Compare | None = None,
        all_processes: bool = True,
        process_timeout: float = 600.0,
    ) -> None:
        self.all_processes = all_processes
        self.process_timeout = process_timeout
        super().__init__(
            repository,
            name=name,
            deepcopy_on_save=deepcopy_on_save,
            deepcopy_on_retrieve=deepcopy_on_retrieve,
            max_snapshots=max_snapshots,
            retention=retention,
            rank_by=rank_by,
            mode=mode,
            cmp=cmp,
        )

    def _options(self) -> dict[str, Any]:
        return {
            **super()._options(),
            "all_processes": self.all_processes,
            "process_timeout": self.process_timeout,
        }

    def _open_backend(self, repository: Repository) -> Backend:
        if not self.all_processes:
            return super()._open_backend(repository)
        return Shared(repository, self.name, self.process_timeout)

    def _check_value(self, data: Any) -> None:
        if self.repository is None:
            validate(data)  # a repository encodes the value anyway, before it writes anything

    def tree_map(
        self, fn: Callable[[Any], Any], snapshot_id: str | None = None, new_id: str | None = None
    ) -> str | None:
        """Apply a function to every leaf of a snapshot, and save the result as a new one.

        The new snapshot gets the metadata and tags of the old one. Its metadata names the old one (`derived_from`).

        Args:
            fn: A function that takes a leaf and returns the new leaf.
            snapshot_id: The id of the snapshot. Default: the latest.
            new_id: The id of the result. Default: the time and a random part.

        Returns:
            The id of the result, or None if it ranks too low to be kept.
        """
        source = self._source(snapshot_id)
        return self._derive(cast(T, map_leaves(fn, source.data)), [source], new_id)

    def tree_replace(
        self, replacements: Mapping[str, Any], snapshot_id: str | None = None, new_id: str | None = None
    ) -> str | None:
        """Replace leaves of a snapshot, and save the result as a new one.

        Args:
            replacements: New leaves by path pattern, as in `{"decoder/**/bias": 0.0}`.
            snapshot_id: The id of the snapshot. Default: the latest.
            new_id: The id of the result. Default: the time and a random part.

        Returns:
            The id of the result, or None if it ranks too low to be kept.

        Raises:
            InvalidArgument: A pattern matches no leaf.
        """
        source = self._source(snapshot_id)
        tests = {pattern: matcher(pattern) for pattern in replacements}
        unused = set(replacements)

        def replace(path: str, leaf: Any) -> Any:
            for pattern, new in replacements.items():
                if tests[pattern](path):
                    unused.discard(pattern)
                    return new
            return leaf

        data = map_leaves_with_path(replace, source.data)
        if unused:
            raise InvalidArgument(
                f"No leaf of snapshot {source.id!r} matches {', '.join(sorted(unused))}. Nothing was saved."
            )
        return self._derive(cast(T, data), [source], new_id)

    def tree_combine(
        self, snapshot_ids: Sequence[str], fn: Callable[..., Any], new_id: str | None = None
    ) -> str | None:
        """Combine snapshots leaf by leaf, for example to average weights, and save the result as a new one.

        Args:
            snapshot_ids: At least one id. All snapshots must have the same structure.
            fn: A function that takes the leaves at one path, one from each snapshot, and returns the new leaf.
            new_id: The id of the result. Default: the time and a random part.

        Returns:
            The id of the result, or None if it ranks too low to be kept.

        Raises:
            StructureMismatch: The structures differ. The message names the first path where they do.
        """
        if not snapshot_ids:
            raise InvalidArgument("tree_combine needs at least one snapshot id.")
        sources = [self.get_snapshot(snapshot_id) for snapshot_id in snapshot_ids]
        combined = map_leaves(fn, *(source.data for source in sources))
        return self._derive(cast(T, combined), sources, new_id)

    def _source(self, snapshot_id: str | None) -> Snapshot[T]:
        source = self.get_latest_snapshot() if snapshot_id is None else self.get_snapshot(snapshot_id)
        if source is None:
            raise InvalidArgument(f"There is no snapshot of {self.name!r} yet. Save one first.")
        return source

    def _derive(self, data: T, sources: Sequence[Snapshot[T]], new_id: str | None) -> str | None:
        first = sources[0]
        metadata = {**first.metadata, "derived_from": [source.id for source in sources]}
        return self.save_snapshot(data, new_id, metadata, first.tags)
