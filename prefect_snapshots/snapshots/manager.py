"""SnapshotManager: save values, find them again, keep the best."""

from __future__ import annotations

import copy
import os
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, cast

from typing_extensions import TypeVar

from ..arguments import checking_types
from ..errors import InvalidArgument, Pinned, SnapshotExists, UsageError
from ..messages import hint, logger
from ..repository.catalog import Event
from ..repository.choosing import RepositoryLike, as_repository
from ..repository.commits import Draft
from ..repository.contents import ContentReader
from ..repository.descriptions import NOTHING, Description, changes_of, clean_tags
from ..repository.metadata import clean_metadata, finder
from ..repository.names import check_name
from ..repository.progress import Progress
from ..repository.provenance import made_by, note_input
from ..repository.repository import Repository
from ..retention import PINNED, CleanupReport, RetentionItem, RetentionPolicy, RetentionRow
from ..values import WHOLE, Loading
from ..values.diff import LeafDifference, diff_contents, diff_values
from ..values.proving import prove_readable
from .backends import KIND, Backend, Durable, Memory, names_with_snapshots
from .background import BackgroundSaver
from .exported_file import Exported, read_file, reading, write_file
from .handler import NAME as HANDLER
from .query import BySearch, Query, Source
from .records import Compare, Ranking, Record, Snapshot, SnapshotInfo, SnapshotRecords
from .requests import SaveRequest

T = TypeVar("T", default=Any)

_NAMED = 10
"""Pinned snapshots that a message names: what fits on a screen."""


class Registry(Protocol):
    """A store of artifacts, such as `ArtifactRegistry`."""

    def log_artifact(self, name: str, value: Any, handler: str, *, metadata: Mapping[str, Any]) -> Any:
        """Log a value as a new version of an artifact."""

    def adopt(
        self,
        name: str,
        content: ContentReader,
        *,
        handler: str,
        metadata: Mapping[str, Any],
        source: Mapping[str, str],
    ) -> Any:
        """Log content that is already stored as a new version of an artifact, for the given handler."""


@checking_types
class SnapshotManager(Generic[T]):
    """Save Python objects with metadata and tags, in memory or in a repository, and find them again.

    Args:
        repository: Where to store snapshots: a `Repository`, a URL or a path. Default: in memory, where a snapshot may
            be a live reference, and is lost when the process ends.
        name: Separates groups of snapshots in one repository. Each name has its own ids, ranking and eviction.
        deepcopy_on_save: In memory, whether to store a copy (default) or a live reference.
        deepcopy_on_retrieve: In memory, whether to return a copy (default) or what is stored.
        max_snapshots: Keep at most this many: the best by the ranking, or the newest if there is none. Pinned
            snapshots are never evicted. Default: no limit.
        retention: Instead of `max_snapshots`, the policy that decides at every save what to keep, such as the latest
            and the best together. A snapshot that it does not keep is not saved. Default: keep everything.
        rank_by: The metadata key that ranks snapshots. Dots lead into nested dictionaries. Default: no ranking.
        mode: "max" (default) if large values of `rank_by` are good, "min" if small ones are.
        cmp: A function that ranks snapshots instead of `rank_by`: `cmp(a, b) > 0` means that snapshot a is better.

    Raises:
        InvalidArgument: The arguments contradict each other.

    Example:
        >>> from prefect_snapshots import SnapshotManager
        >>> manager = SnapshotManager("memory://docs", name="demo", rank_by="loss", mode="min", max_snapshots=2)
        >>> for step, loss in enumerate([0.9, 0.5, 0.7]):
        ...     _ = manager.save_snapshot({"step": step}, f"step-{step}", metadata={"loss": loss})
        >>> manager.get_ids_by_rank()
        ['step-1', 'step-2']
        >>> manager["step-1"].data
        {'step': 1}
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
    ) -> None:
        if max_snapshots is not None and (not isinstance(max_snapshots, int) or max_snapshots < 1):
            raise InvalidArgument(f"max_snapshots must be an integer of at least 1, not {max_snapshots!r}.")
        if repository is not None and not (deepcopy_on_save and deepcopy_on_retrieve):
            raise InvalidArgument(
                "deepcopy_on_save=False and deepcopy_on_retrieve=False work only in memory. Leave out the repository."
            )
        if retention is not None and max_snapshots is not None:
            raise InvalidArgument(
                "Pass either max_snapshots or retention. A policy with keep_best or keep_last also limits the number."
            )
        self.name = check_name(name)
        self.max_snapshots = max_snapshots
        self.retention = None if retention is None else RetentionPolicy.checked(retention)
        self.ranking = Ranking(rank_by, mode, cmp)
        self.deepcopy_on_save, self.deepcopy_on_retrieve = deepcopy_on_save, deepcopy_on_retrieve
        self.repository = None if repository is None else as_repository(repository)
        self._background = BackgroundSaver()
        self._backend: Backend
        if self.repository is None:
            _warn_inside_a_run()
            self._backend = Memory(name, deepcopy_on_save, deepcopy_on_retrieve)
        else:
            self._backend = self._open_backend(self.repository)

    # --- saving -----------------------------------------------------------------------------------------------

    def save_snapshot(
        self,
        data: T,
        snapshot_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        tags: str | Sequence[str] | None = None,
        overwrite: bool = False,
        deepcopy: bool | None = None,
        *,
        token: str | None = None,
        prove: bool = False,
    ) -> str | None:
        """Save a value, and return when it is safe.

        Args:
            data: Any Python object or pytree. Arrays and plain containers are stored without pickle.
            snapshot_id: The id. Default: the time and a random part.
            metadata: JSON-like values with string keys, up to 64 KB.
            tags: One tag or several.
            overwrite: Replace the snapshot with this id instead of raising an error.
            deepcopy: In memory, overrides `deepcopy_on_save`.
            token: The token of an earlier attempt that raised `CommitUnknown`. If that attempt was saved after all,
                nothing is saved again and its id is returned.
            prove: Before the value is saved, start another process that loads it. Takes as long as starting Python and
                importing what the value needs.

        Returns:
            The id, or None if the snapshot ranks too low to be kept.

        Raises:
            SnapshotExists: The id is taken and `overwrite` is False.
            UnserialisableLeaf: A leaf cannot be stored, or could not be loaded again. The message names its path.
            CommitUnknown: The storage did not say whether the snapshot was saved.
        """
        request = self._request(snapshot_id, metadata, tags, overwrite, token=token)
        if prove:
            prove_readable(data)
        return self.save(data, request, deepcopy)

    def save_async(
        self,
        data: T,
        snapshot_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        tags: str | Sequence[str] | None = None,
        overwrite: bool = False,
        *,
        token: str | None = None,
    ) -> Future[str | None]:
        """Copy a value, return immediately, and save the copy in the background.

        You may change, donate or delete the value as soon as this returns. The saves of one manager are committed in
        the order of the calls. Reading never waits for them.

        Args:
            data, snapshot_id, metadata, tags, overwrite, token: As for `save_snapshot`.

        Returns:
            A future with the result of `save_snapshot`. `wait` waits for all saves, and raises their errors.
        """
        return self.start_save(data, self._request(snapshot_id, metadata, tags, overwrite, token=token))

    def save(self, data: T, request: SaveRequest, deepcopy: bool | None = None) -> str | None:
        """Save a value, as `save_snapshot` does, with arguments that are already checked.

        Args:
            data: The value.
            request: The id, metadata, tags and other options.
            deepcopy: In memory, whether to store a copy. Default: the manager's `deepcopy_on_save`.

        Returns:
            The id, or None if the snapshot ranks too low to be kept.
        """
        _check_request(request)
        self._check_value(data)
        draft = self._put_draft(lambda: data, request)
        self._background.settle()
        # Nothing may come between these two: other processes wait from the first on for what the second does.
        prepared = self._backend.prepare(data, deepcopy, agreed=self._agreed(request))
        return _id_of(self._backend.put(draft, prepared, request.token, self._excess_draft))

    def start_save(self, data: T, request: SaveRequest) -> Future[str | None]:
        """Save a value in the background, as `save_async` does, with arguments that are already checked.

        Args:
            data: The value. It is copied before this returns.
            request: The id, metadata, tags and other options.

        Returns:
            A future with the result of `save`.
        """
        _check_request(request)
        self._check_value(data)
        prepared = self._backend.prepare(data, None, detach=True, agreed=self._agreed(request))
        draft = self._put_draft(lambda: self._backend.value_of(prepared), request)
        return self._background.submit(
            lambda: _id_of(self._backend.put(draft, prepared, request.token, self._excess_draft))
        )

    def wait(self) -> None:
        """Wait for every `save_async`, and raise the first error among them. The next call raises the next one."""
        self._background.wait()

    def clone_snapshot(
        self,
        snapshot_id: str,
        new_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        tags: str | Sequence[str] | None = None,
    ) -> str | None:
        """Save the value of a snapshot under another id, without storing its bytes again.

        Args:
            snapshot_id: The id of the snapshot to clone.
            new_id: The id of the clone. Default: the time and a random part.
            metadata: Values to add to the metadata of the original.
            tags: The tags of the clone. Default: the tags of the original.

        Returns:
            The id of the clone, or None if it ranks too low to be kept.

        Raises:
            SnapshotNotFound: There is no such snapshot.
            SnapshotExists: The new id is taken.
        """
        source = self._record(snapshot_id)
        if self.repository is not None:
            note_input(self.repository, KIND, self.name, snapshot_id)
        merged = {**source.metadata, **(metadata or {})}
        request = SaveRequest.of(new_id, merged, list(source.tags) if tags is None else tags)
        draft = self._put_draft(lambda: self.snapshot_of(source).data, request)
        self._background.settle()
        return _id_of(self._backend.clone(draft, source, self._excess_draft))

    def promote(self, snapshot_id: str, registry: Registry, name: str) -> Any:
        """Log a snapshot and its metadata as a new version of an artifact.

        In the same repository no data is copied. For another repository, only data that it lacks is copied.

        Args:
            snapshot_id: The id of the snapshot.
            registry: The `ArtifactRegistry` to log it in.
            name: The name of the artifact.

        Returns:
            The version, as the registry returns it.

        Raises:
            SnapshotNotFound: There is no such snapshot.

        Example:
            >>> from prefect_snapshots import ArtifactRegistry, SnapshotManager
            >>> manager = SnapshotManager("memory://example-promote", name="training")
            >>> _ = manager.save_snapshot({"weights": [0.5, 1.5]}, "step-7", metadata={"loss": 0.25})
            >>> registry = ArtifactRegistry("memory://example-promote")
            >>> str(manager.promote("step-7", registry, "model"))
            'default/model:v0'
            >>> registry.load_artifact("model"), registry.get_artifact_metadata("model")
            ({'weights': [0.5, 1.5]}, {'loss': 0.25})
        """
        record = self._record(snapshot_id)
        if not isinstance(self._backend, Durable):
            return registry.log_artifact(name, self.snapshot_of(record).data, HANDLER, metadata=record.metadata)
        _, content = self._backend.content(record)
        repository = self._backend.repository
        source = {"repository": repository.id, "url": repository.url, "name": self.name, "snapshot": snapshot_id}
        return registry.adopt(name, content, handler=HANDLER, metadata=record.metadata, source=source)

    # --- reading ----------------------------------------------------------------------------------------------

    def list_snapshots(self) -> list[SnapshotInfo]:
        """Return the info of every snapshot, newest first, without loading data.

        The order is the order of saving. It does not depend on the clocks of the writers.

        Example:
            >>> from prefect_snapshots import SnapshotManager
            >>> manager = SnapshotManager()
            >>> _ = manager.save_snapshot([1], "first"), manager.save_snapshot([2], "second", tags=["best"])
            >>> [(info.id, info.tags) for info in manager.list_snapshots()]
            [('second', ('best',)), ('first', ())]
        """
        return [record.info for record in reversed(self.current_records().by_id.values())]

    def get_snapshot(
        self,
        snapshot_id: str,
        deepcopy: bool | None = None,
        *,
        leaves: str | Sequence[str] | None = None,
        like: Any = None,
        sharding: Any = None,
        cast: bool = False,
        strict: bool = True,
    ) -> Snapshot[T]:
        """Return a snapshot. Its `data` is loaded and verified when you first use it.

        Args:
            snapshot_id: The id.
            deepcopy: In memory, overrides `deepcopy_on_retrieve`.
            leaves: Patterns of leaf paths to load, such as `"encoder/**"`. Default: all leaves.
            like: A value whose structure, custom node types and sharding the result gets. `...` in it skips a leaf, or
                everything below.
            sharding: Instead of `like`, the sharding of its JAX arrays: one for all of them, or a dict with one for
                each pattern of leaf paths. On devices of several processes, each reads only the bytes that it needs.
            cast: Whether to convert arrays to the dtypes in `like`. Default: other dtypes raise `StructureMismatch`.
            strict: Whether the snapshot and `like` must have the same paths. If not, stored leaves that `like` lacks
                are not read, and leaves that are not stored keep the values of `like`.

        Raises:
            SnapshotNotFound: There is no such snapshot.

        Example:
            >>> import numpy as np
            >>> from prefect_snapshots import SnapshotManager
            >>> manager = SnapshotManager()
            >>> _ = manager.save_snapshot({"w": np.ones(2), "old": np.zeros(3)}, "one")
            >>> like = {"w": np.zeros(2, np.float16), "new": 0.5}
            >>> manager.get_snapshot("one", like=like, cast=True, strict=False).data
            {'w': array([1., 1.], dtype=float16), 'new': 0.5}
        """
        return self.snapshot_of(self._record(snapshot_id), deepcopy, Loading(leaves, like, sharding, cast, strict))

    def load_snapshot(
        self,
        snapshot_id: str,
        deepcopy: bool | None = None,
        *,
        leaves: str | Sequence[str] | None = None,
        like: Any = None,
        sharding: Any = None,
        cast: bool = False,
        strict: bool = True,
    ) -> T:
        """Load the value of a snapshot. Every byte is verified.

        Args:
            snapshot_id: The id of the snapshot.
            deepcopy, leaves, like, sharding, cast, strict: As for `get_snapshot`.

        Returns:
            The value that was saved.

        Raises:
            SnapshotNotFound: There is no such snapshot.
            IntegrityError: Stored bytes are damaged. The message names the leaf.
            PickleRefused: A leaf needs pickle, and the repository was opened with `allow_pickle=False`.
            StructureMismatch: What is stored does not match `like`. The message names the path.
        """
        loading = Loading(leaves, like, sharding, cast, strict)
        return self.snapshot_of(self._record(snapshot_id), deepcopy, loading).data

    def __getitem__(self, snapshot_id: str) -> Snapshot[T]:
        return self.get_snapshot(snapshot_id)

    def __contains__(self, snapshot_id: object) -> bool:
        return self._backend.look(lambda records: snapshot_id in records.by_id)

    def __len__(self) -> int:
        return self._backend.look(lambda records: len(records.by_id))

    def __iter__(self) -> Iterator[str]:
        return iter(self.get_ids_by_insertion_order())

    def get_latest_snapshot(self) -> Snapshot[T] | None:
        """Return the snapshot that was saved last, or None if there is none."""
        return self._maybe(self._backend.look(lambda records: next(reversed(records.by_id.values()), None)))

    def get_oldest_snapshot(self) -> Snapshot[T] | None:
        """Return the snapshot that was saved first, or None if there is none."""
        return self._maybe(self._backend.look(lambda records: next(iter(records.by_id.values()), None)))

    def get_best_snapshot(self) -> Snapshot[T] | None:
        """Return the best snapshot by the ranking, or None if there is none."""
        return self._maybe(next(iter(self._ranked()), None))

    def list_snapshots_by_age(self, ascending: bool = True) -> list[str]:
        """Return all ids, sorted by the time of saving.

        Args:
            ascending: True (default) for oldest first, False for newest first.
        """
        records = self.current_records().by_id.values()
        ids = [record.id for record in sorted(records, key=lambda record: (record.time, record.sequence))]
        return ids if ascending else ids[::-1]

    def get_ids_by_insertion_order(self) -> list[str]:
        """Return all ids in the order in which they were saved, oldest first."""
        return self._backend.look(lambda records: list(records.by_id))

    def get_ids_by_rank(self) -> list[str]:
        """Return all ids, best first."""
        return [record.id for record in self._ranked()]

    @property
    def query(self) -> Query:
        """Find snapshots by tag, metadata, time or content."""
        return Query(lambda: Source(self.current_records(), self.snapshot_of, self.leaves_of))

    def search(self, condition: str) -> list[SnapshotInfo]:
        """Return the info of every snapshot that meets a condition, newest first, without loading data.

        Args:
            condition: A text such as `"metrics.loss < 0.1 and tags = 'best'"`. `id`, `created_at`, `tags`, `pinned`,
                `size`, `written` and `description` are what they are in `SnapshotInfo`. Every other field is a key of
                the metadata. To join conditions: `and`, `or`, `not` and parentheses. To compare: `=`, `!=`, `<`, `<=`,
                `>`, `>=`, `in ('a', 'b')`, and `like` or `ilike` with `%` for any string.

        Returns:
            The infos. If there are none, a warning in the log names each field of the condition that no snapshot has.

        Raises:
            InvalidArgument: The condition cannot be parsed. The message says where.

        Example:
            >>> from prefect_snapshots import SnapshotManager
            >>> manager = SnapshotManager()
            >>> for step, loss in enumerate([0.9, 0.5, 0.7]):
            ...     _ = manager.save_snapshot(step, f"step-{step}", metadata={"metrics": {"loss": loss}})
            >>> [info.id for info in manager.search("metrics.loss < 0.8 and id != 'step-2'")]
            ['step-1']
        """
        wanted = BySearch(condition)
        found, records = self.query.evaluate(wanted), self.records
        if not found:
            wanted.condition.warn_if_misspelt((each.fields, each.metadata) for each in records.by_id.values())
        return [records.by_id[each].info for each in reversed(found)]

    def get_metadata(self, snapshot_id: str) -> dict[str, Any]:
        """Return a copy of the metadata of a snapshot.

        Args:
            snapshot_id: The id of the snapshot.
        """
        return copy.deepcopy(self._record(snapshot_id).metadata)

    def get_tags(self, snapshot_id: str) -> list[str]:
        """Return a copy of the tags of a snapshot.

        Args:
            snapshot_id: The id of the snapshot.
        """
        return list(self._record(snapshot_id).tags)

    def diff(self, old: str, new: str | None = None) -> list[LeafDifference]:
        """Return the leaves that changed between two snapshots, in path order.

        In a repository, only leaves that differ are read.

        Args:
            old: The id of the older snapshot.
            new: The id of the newer one. Default: the latest snapshot.

        Raises:
            SnapshotNotFound: There is no such snapshot.
            PickleRefused: A pickled leaf differs, and the repository was opened with `allow_pickle=False`.

        Example:
            >>> from prefect_snapshots import SnapshotManager
            >>> manager = SnapshotManager()
            >>> _ = manager.save_snapshot({"a": 1, "b": 2}, "old"), manager.save_snapshot({"a": 1, "b": 3}, "new")
            >>> [(leaf.path, leaf.old, leaf.new) for leaf in manager.diff("old")]
            [('b', '2', '3')]
        """
        records = self.current_records()
        first = records.get(old)
        second = next(reversed(records.by_id.values())) if new is None else records.get(new)
        if isinstance(self._backend, Durable):
            contents = self._backend.content(first), self._backend.content(second)
            return diff_contents(*contents, allow_pickle=self._backend.repository.allow_pickle)
        return diff_values(self.snapshot_of(first).data, self.snapshot_of(second).data)

    # --- annotating, deleting -----------------------------------------------------------------------------------

    def update_metadata(self, snapshot_id: str, metadata: Mapping[str, Any]) -> None:
        """Add or replace values in the metadata of a snapshot. Other keys keep their values.

        Args:
            snapshot_id: The id of the snapshot.
            metadata: JSON-like values with string keys. Together with the existing values, up to 64 KB.

        Raises:
            SnapshotNotFound: There is no such snapshot.
            InvalidArgument: The metadata cannot be stored, or becomes too large.
        """
        added = clean_metadata(metadata)

        def draft() -> Draft:
            clean_metadata({**self._backend.state.get(snapshot_id).metadata, **added})  # the sum may be too large
            return Draft("annotate", {"id": snapshot_id, "metadata": added})

        self._note(draft)

    def add_tags(self, snapshot_id: str, tags: str | Sequence[str]) -> None:
        """Add tags to a snapshot. Tags that it already has keep their position.

        Args:
            snapshot_id: The id of the snapshot.
            tags: One tag or several.
        """
        self._annotate(snapshot_id, add_tags=clean_tags(tags))

    def remove_tags(self, snapshot_id: str, tags: str | Sequence[str]) -> None:
        """Remove tags from a snapshot. Tags that it does not have are ignored.

        Args:
            snapshot_id: The id of the snapshot.
            tags: One tag or several.
        """
        self._annotate(snapshot_id, remove_tags=clean_tags(tags))

    def describe(
        self,
        snapshot_id: str | None = None,
        *,
        description: str | None = None,
        add_tags: str | Sequence[str] | None = None,
        remove_tags: str | Sequence[str] | None = None,
    ) -> None:
        """Describe a snapshot, or the name of this manager. What you leave out stays as it is.

        Args:
            snapshot_id: The id of the snapshot. Default: describe the name.
            description: A text of up to 10,000 characters, such as Markdown. An empty one removes it.
            add_tags: Tags to add: one or several.
            remove_tags: Tags to remove. Tags that it does not have are ignored.

        Raises:
            SnapshotNotFound: There is no such snapshot, or none under this name.

        Example:
            >>> from prefect_snapshots import SnapshotManager
            >>> manager = SnapshotManager(name="trial")
            >>> _ = manager.save_snapshot([1], "first")
            >>> manager.describe("first", description="Before the new data.")
            >>> manager.describe(description="Trials of the tutorial.", add_tags="team=vision")
            >>> manager.search("description like '%new data%'")[0].id, manager.get_description().tags
            ('first', ('team=vision',))
        """
        changes = changes_of(description, add_tags, remove_tags)
        if snapshot_id is not None:
            self._annotate(snapshot_id, **changes)
            return

        def draft() -> Draft:
            self._backend.state.refuse_empty()
            return Draft("describe", changes)

        self._note(draft)

    def get_description(self) -> Description:
        """Return the description and the tags of the name of this manager."""
        return self.current_records().about

    def pin(self, snapshot_id: str) -> None:
        """Exempt a snapshot from eviction, cleanup and deletion. Pinning twice changes nothing.

        Args:
            snapshot_id: The id of the snapshot.
        """
        self._annotate(snapshot_id, pinned=True)

    def unpin(self, snapshot_id: str) -> None:
        """Allow eviction, cleanup and deletion of a snapshot again.

        Args:
            snapshot_id: The id of the snapshot.
        """
        self._annotate(snapshot_id, pinned=False)

    def delete_snapshot(self, snapshot_id: str, force: bool = False) -> None:
        """Delete a snapshot. The next prune frees its space.

        Args:
            snapshot_id: The id.
            force: Delete it even if it is pinned.

        Raises:
            SnapshotNotFound: There is no such snapshot.
            Pinned: The snapshot is pinned, and `force` is False.
        """

        def draft() -> Draft:
            record = self._backend.state.get(snapshot_id)
            if record.pinned and not force:
                raise Pinned(
                    f"Snapshot {snapshot_id!r} of {self.name!r} is pinned, so it was not deleted. "
                    "Unpin it first, or pass force=True."
                )
            return Draft("remove", {"id": snapshot_id}, [record.sequence])

        self._note(draft)

    def remove_snapshot(self, snapshot_id: str) -> None:
        """Delete a snapshot, even if it is pinned: `delete_snapshot(snapshot_id, force=True)`.

        Args:
            snapshot_id: The id of the snapshot.
        """
        self.delete_snapshot(snapshot_id, force=True)

    def delete_all(self, force: bool = False, dry_run: bool = False) -> list[str]:
        """Delete all snapshots, and with them the name. The next prune frees their space.

        Args:
            force: Delete them even if some are pinned.
            dry_run: Only return what would be deleted.

        Returns:
            The ids, oldest first.

        Raises:
            Pinned: A snapshot is pinned, and `force` is False. Nothing was deleted.
        """
        gone: list[str] = []

        def draft() -> Draft | None:
            records = self._backend.state.by_id.values()
            pinned = [record.id for record in records if record.pinned]
            if pinned and not force:
                raise Pinned(
                    f"Pinned: {', '.join(pinned[:_NAMED])} of {self.name!r}. Nothing was deleted. Unpin them first, or "
                    "pass force=True."
                )
            gone[:] = [record.id for record in records]
            return Draft("cleanup", {}, [record.sequence for record in records]) if gone else None

        self._note(draft, dry_run=dry_run)
        return gone

    def rename(self, new_name: str, dry_run: bool = False) -> None:
        """Rename the group of snapshots, and use the new name from now on.

        The snapshots keep their ids, times, metadata, tags, pins and order. No data is copied. Everything is under the
        new name before anything is deleted under the old one. If the call is interrupted, call it again to finish.

        Args:
            new_name: A name that has no snapshots.
            dry_run: Change nothing, and only raise the error that would be raised.

        Raises:
            SnapshotNotFound: There is no snapshot under the name of this manager.
            InvalidArgument: There are already snapshots under the new name.
            CommitConflict: Others wrote to the old or to the new name meanwhile. Call it again.

        Example:
            >>> from prefect_snapshots import SnapshotManager
            >>> manager = SnapshotManager("memory://example-rename", name="trial")
            >>> _ = manager.save_snapshot([1], "first", tags=["kept"])
            >>> manager.rename("final")
            >>> manager.name, manager.get_tags("first")
            ('final', ['kept'])
        """
        check_name(new_name)
        self._background.settle()
        self._backend.look(lambda records: records.refuse_empty())
        self._backend.rename(new_name, dry_run)
        if not dry_run:
            self.name = new_name

    def cleanup(self, policy: RetentionPolicy | None = None, dry_run: bool = False) -> CleanupReport:
        """Delete snapshots that a retention policy does not keep. Pinned snapshots are always kept.

        The next prune frees their space.

        Args:
            policy: The retention policy. Required, because a snapshot manager has no default policy.
            dry_run: Only report what would be deleted.

        Returns:
            A report with a row for each snapshot and why it is kept, and with the ids of the deleted ones.

        Raises:
            InvalidArgument: You passed no policy, or one that would keep nothing.
        """
        policy = RetentionPolicy.checked(policy)
        rows: list[RetentionRow] = []

        def draft() -> Draft | None:
            records = self._backend.state
            rows[:] = policy.plan(self._retention_items(records.by_id.values(), policy, self.snapshot_of))
            doomed = [records.get(row.name).sequence for row in rows if not row.keep]
            return Draft("cleanup", {}, doomed) if doomed else None

        self._note(draft, dry_run=dry_run)
        return CleanupReport(tuple(rows), tuple(row.name for row in rows if not row.keep), dry_run)

    # --- moving -----------------------------------------------------------------------------------------------

    def save_to_file(self, path: str | os.PathLike[str]) -> None:
        """Write all snapshots, with their times, tags and order, and the arguments of this manager, to one file.

        Args:
            path: The file. An existing file is replaced atomically when the new one is complete.
        """
        records = list(self.current_records().by_id.values())
        write_file(
            Path(os.path.expanduser(path)),
            Exported(
                self.name,
                self.max_snapshots,
                self.retention,
                self.ranking,
                self.get_description(),
                self.deepcopy_on_save,
                self.deepcopy_on_retrieve,
            ),
            records,
            self._backend.encoded,
        )

    @classmethod
    def load_from_file(cls, path: str | os.PathLike[str], *, allow_pickle: bool = True) -> SnapshotManager[T]:
        """Return a manager in memory with the snapshots in a file that `save_to_file` wrote.

        Args:
            path: The file.
            allow_pickle: Whether to load objects stored with pickle. Pass False for files that you do not trust.

        Raises:
            IntegrityError: The file is damaged.
            PickleRefused: The file holds a comparison function, and `allow_pickle` is False.
        """
        file = Path(os.path.expanduser(path))
        with reading(file):
            exported, saved = read_file(file, allow_pickle)
            ranking = exported.ranking
            manager = cls(
                name=exported.name,
                deepcopy_on_save=exported.deepcopy_on_save,
                deepcopy_on_retrieve=exported.deepcopy_on_retrieve,
                max_snapshots=exported.max_snapshots,
                retention=exported.retention,
                rank_by=ranking.rank_by,
                mode=ranking.mode,
                cmp=ranking.cmp,
            )
            for body, held in saved:
                manager._backend.put(lambda body=body: Draft("put", body), held, None)  # type: ignore[misc]
            if len(manager) and exported.about != NOTHING:
                manager.describe(description=exported.about.description, add_tags=exported.about.tags)
        return manager

    def persist(self, repository: RepositoryLike, progress: Progress | None = None) -> SnapshotManager[T]:
        """Save all snapshots to a repository under the same name, with their times, tags, pins and order.

        Args:
            repository: A `Repository`, a URL or a path.
            progress: Called with a label of the current step, the number of saved snapshots, and the total.

        Returns:
            A manager with that repository.

        Raises:
            SnapshotExists: The repository already has a snapshot with one of the ids. Snapshots that were saved
                before it stay.
        """
        target = type(self)(as_repository(repository), **self._options())
        about = self.get_description()
        records = list(self.current_records().by_id.values())
        for done, record in enumerate(records, start=1):
            target.save(self.snapshot_of(record).data, SaveRequest.again(record))
            if progress is not None:
                progress(f"saving snapshots of {self.name}", done, len(records))
        if records and about != NOTHING:
            target.describe(description=about.description, add_tags=about.tags)
        return target

    # --- for queries and reports -------------------------------------------------------------------------------

    @property
    def records(self) -> SnapshotRecords:
        """The records of all snapshots, as of the last call that read the repository. They never change."""
        return self._backend.view

    def current_records(self) -> SnapshotRecords:
        """Return the current records of all snapshots, including those of other writers. They never change."""
        return self._backend.refresh()

    def snapshot_of(
        self,
        record: Record,
        deepcopy: bool | None = None,
        loading: Loading = WHOLE,
    ) -> Snapshot[T]:
        """Return the snapshot of a record. Its data is loaded when you first use it.

        Args:
            record: The record of the snapshot.
            deepcopy: As for `get_snapshot`.
            loading: Which part of its value to load, and in which form. Default: all of it, as it was stored.
        """
        load = self._backend.loader(record, deepcopy, loading)
        metadata = copy.deepcopy(record.metadata)
        return Snapshot(record.id, record.timestamp, metadata, list(record.tags), lambda: cast(T, load()))

    def leaves_of(self, record: Record) -> Iterable[Any]:
        """Load the leaves of a record's snapshot, without their containers.

        Args:
            record: The record of the snapshot.

        Returns:
            The leaves, in the order of the tree.
        """
        return self._backend.leaves(record)

    # --- inside ------------------------------------------------------------------------------------------------

    def _options(self) -> dict[str, Any]:
        """Return the arguments of this manager for a copy with a repository."""
        return {
            "name": self.name,
            "max_snapshots": self.max_snapshots,
            "retention": self.retention,
            "rank_by": self.ranking.rank_by,
            "mode": self.ranking.mode,
            "cmp": self.ranking.cmp,
        }

    def _open_backend(self, repository: Repository) -> Backend:
        return Durable(repository, self.name)

    def _request(self, *arguments: Any, token: str | None) -> SaveRequest:
        try:
            return SaveRequest.of(*arguments, token=token)
        except UsageError as error:
            self._backend.refuse(error)
            raise

    def _agreed(self, request: SaveRequest) -> dict[str, Any]:
        """Return what must be equal in all processes if several save together, by the names that users know."""
        return {
            "snapshot_id": request.id if request.named else None,
            "metadata": dict(request.metadata),
            "tags": list(request.tags),
            "overwrite": request.overwrite,
            "max_snapshots": self.max_snapshots,
            "retention": None if self.retention is None else str(self.retention),
            "rank_by": self.ranking.rank_by,
            "mode": self.ranking.mode,
        }

    def _check_value(self, data: Any) -> None:
        """Raise an error if a value cannot be saved, before anything is written. This class accepts any value."""

    def _put_draft(self, load: Callable[[], Any], request: SaveRequest) -> Callable[[], Draft | None]:
        """Return a function that decides what to commit, called for each attempt. `load` is for the comparison."""
        body = request.body
        if self.repository is not None and request.time is None:
            body |= made_by(self.repository)

        def draft() -> Draft | None:
            existing = self._backend.state.by_id.get(request.id)
            if existing is not None and not request.overwrite:
                raise SnapshotExists(
                    f"Snapshot {request.id!r} of {self.name!r} exists already. "
                    "Choose another id, or pass overwrite=True to replace it."
                )
            evicted = self._evicted(request, existing, load)
            if evicted is None:
                return None
            # One event saves the new snapshot and deletes those it replaces, so that no reader sees both or neither.
            return Draft("put", body, [record.sequence for record in (existing, *evicted) if record is not None])

        return draft

    def _evicted(self, request: SaveRequest, existing: Record | None, load: Callable[[], Any]) -> list[Record] | None:
        """Return the snapshots to delete when one is saved, or None if the new one ranks too low to be kept."""
        if self.max_snapshots is None and self.retention is None:
            return []
        others = [record for record in self._backend.state.by_id.values() if record is not existing]
        excess = 0 if self.max_snapshots is None else len(others) + 1 - self.max_snapshots
        if excess <= 0 and self.retention is None:
            return []
        # The candidate gets the highest number, because it will be the newest.
        event = Event(sys.maxsize, b"", 0, b"", 0, "put", request.body)
        saved_at = time.time_ns() if request.time is None else request.time
        new = Record(request.id, event, saved_at, dict(request.metadata), dict.fromkeys(request.tags), request.pinned)

        def snapshot(record: Record) -> Snapshot[Any]:
            if record is not new:
                return self.snapshot_of(record)
            return Snapshot(new.id, datetime.now(UTC), new.metadata, list(new.tags), load)

        if self.retention is not None:
            doomed = self._not_kept(self.retention, [*others, new], snapshot)
            if new in doomed:
                self._warn_of_missing_key(request)
                return None
            return doomed
        evictable = [record for record in (*others, new) if not record.pinned]
        worst = self.ranking.best_first(evictable, snapshot)[-excess:] if evictable else []
        if new in worst:
            self._warn_of_missing_key(request)
            # Without a ranking the newest is the best, so it is saved even if all others are pinned.
            return None if self.ranking else [record for record in worst if record is not new]
        return worst

    def _warn_of_missing_key(self, request: SaveRequest) -> None:
        """Say so if a snapshot is not kept because its metadata lacks what ranks it: a typo would lose a training."""
        key = self.ranking.rank_by
        if key is not None and finder(key, None)(dict(request.metadata)) is None:
            logger.warning(
                "Snapshot %r of %r was not saved: snapshots are ranked by %r, which its metadata lacks. %s",
                request.id,
                self.name,
                key,
                hint(key, request.metadata),
            )

    def _excess_draft(self) -> Draft | None:
        """Return the change to commit if a new snapshot ranks too low to be kept.

        A manager without this limit may have saved more snapshots.
        """
        records = self._backend.state.by_id.values()
        if self.retention is not None:
            doomed = self._not_kept(self.retention, records, self.snapshot_of)
            return Draft("cleanup", {}, [record.sequence for record in doomed]) if doomed else None
        excess = len(records) - (self.max_snapshots or len(records))
        ranked = self.ranking.best_first([one for one in records if not one.pinned], self.snapshot_of)
        worst = ranked[-excess:] if excess > 0 else []
        return Draft("cleanup", {}, [record.sequence for record in worst]) if worst else None

    def _not_kept(
        self, policy: RetentionPolicy, records: Collection[Record], snapshot: Callable[[Record], Snapshot[Any]]
    ) -> list[Record]:
        kept = {row.name for row in policy.decide(self._retention_items(records, policy, snapshot)) if row.keep}
        return [record for record in records if record.id not in kept]

    def _retention_items(
        self, records: Collection[Record], policy: RetentionPolicy, snapshot: Callable[[Record], Snapshot[Any]]
    ) -> list[RetentionItem]:
        """Return what a policy needs to know of records. `snapshot` returns their snapshots for the comparison."""
        ranked = self.ranking.best_first(records, snapshot) if policy.keep_best else records
        ranks = {record.id: rank for rank, record in enumerate(ranked)}
        return [
            RetentionItem(
                record.id,
                record.timestamp,
                tuple(record.tags),
                (PINNED,) if record.pinned else (),
                rank=ranks[record.id],
                step=record.step,
            )
            for record in records
        ]

    def _annotate(self, snapshot_id: str, **changes: Any) -> None:
        def draft() -> Draft:
            return Draft("annotate", {"id": self._backend.state.get(snapshot_id).id, **changes})

        self._note(draft)

    def _note(self, draft: Callable[[], Draft | None], *, dry_run: bool = False) -> None:
        self._backend.note(draft, dry_run=dry_run)

    def _record(self, snapshot_id: str) -> Record:
        return self._backend.look(lambda records: records.get(snapshot_id))

    def _ranked(self) -> list[Record]:
        return self.ranking.best_first(self.current_records().by_id.values(), self.snapshot_of)

    def _maybe(self, record: Record | None) -> Snapshot[T] | None:
        return None if record is None else self.snapshot_of(record)

    def __repr__(self) -> str:
        where = "in memory" if self.repository is None else self.repository.url
        return f"{type(self).__name__}({where}, name={self.name!r})"

    def __reduce__(self) -> tuple[Callable[..., SnapshotManager[Any]], tuple[Any, ...]]:
        if self.repository is None:
            raise InvalidArgument(
                "A manager in memory cannot be pickled. Pass a repository to it, or write a file with save_to_file."
            )
        return _restore, (type(self), self.repository, self._options())


def list_names(repository: RepositoryLike) -> list[str]:
    """Return the sorted names under which a repository has snapshots."""
    return names_with_snapshots(as_repository(repository))


def _check_request(request: object) -> None:
    if not isinstance(request, SaveRequest):
        raise InvalidArgument(
            f"The methods save and start_save take a SaveRequest, not {type(request).__name__}. To pass an id "
            "or metadata, call save_snapshot or save_async."
        )


def _id_of(event: Event | None) -> str | None:
    """Return the id of a saved snapshot, or None if it ranks too low to be kept."""
    return None if event is None else str(event.body["id"])


def _warn_inside_a_run() -> None:
    """Warn if a manager in memory is created in a flow run, because that is probably a mistake."""
    context = sys.modules.get("prefect.context")
    if context is not None and context.FlowRunContext.get() is not None:
        warnings.warn(
            "This SnapshotManager keeps its snapshots in memory, and they are lost when the run ends. "
            "Pass a repository to keep them.",
            stacklevel=4,  # the caller of the checked `__init__`
        )


def _restore(kind: type[SnapshotManager[Any]], repository: Repository, options: dict[str, Any]) -> SnapshotManager[Any]:
    return kind(repository, **options)
