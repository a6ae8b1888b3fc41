"""SnapshotManager and PyTreeSnapshotManager: save values, find them again, keep the best."""

from __future__ import annotations

import concurrent.futures
import copy
import os
import secrets
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, cast

from typing_extensions import TypeVar

from ..errors import InvalidArgument, SnapshotExists
from ..repository.catalog import Event, token_from
from ..repository.choosing import RepositoryLike, as_repository
from ..repository.commits import Draft
from ..repository.contents import ContentReader
from ..repository.metadata import clean_metadata
from ..repository.names import check_name
from ..repository.repository import Repository
from ..repository.threads import before_threads_end
from ..repository.times import to_nanoseconds
from ..retention import PINNED, RetentionItem, RetentionPolicy, RetentionRow
from ..values import map_leaves, map_leaves_with_path, validate
from ..values.diff import LeafDifference, diff_contents, diff_values
from ..values.paths import matcher
from .backends import KIND, Backend, Durable, Memory
from .files import read_file, write_file
from .handler import NAME as HANDLER
from .query import Query
from .records import Compare, Ranking, Record, Records, Snapshot, clean_tags

T = TypeVar("T", default=Any)


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
        """Make a version of an artifact of what is stored already, to be read by a handler."""


class SnapshotManager(Generic[T]):
    """Captures Python objects, with metadata and tags, in memory or in a repository.

    Arguments:
        repository: where snapshots live: a `Repository`, a URL or a path. Without one they live in this process, and
            may be live references.
        name: keeps managers apart that share a repository: ids, ranking and eviction never cross a name.
        deepcopy_on_save: in memory, whether to store a copy (default) or a live reference.
        deepcopy_on_retrieve: in memory, whether to hand out a copy (default) or what is stored.
        max_snapshots: keep at most this many: the best by the ranking, or the newest when there is none. Pinned ones
            are never evicted.
        rank_by: the metadata key that ranks snapshots; dots lead into nested dictionaries.
        mode: "max" when large values of `rank_by` are good, "min" when small ones are.
        cmp: ranks instead of `rank_by`: `cmp(a, b) > 0` means that snapshot a is better.

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
        rank_by: str | None = None,
        mode: Literal["max", "min"] = "max",
        cmp: Compare | None = None,
    ) -> None:
        if max_snapshots is not None and max_snapshots < 1:
            raise InvalidArgument(f"max_snapshots is at least 1, not {max_snapshots}")
        if repository is not None and not (deepcopy_on_save and deepcopy_on_retrieve):
            raise InvalidArgument("live references need a manager in memory: leave out the repository")
        self.name = check_name(name)
        self.max_snapshots = max_snapshots
        self.ranking = Ranking(rank_by, mode, cmp)
        self.repository = None if repository is None else as_repository(repository)
        self._lock = threading.RLock()
        self._queue_lock = threading.Lock()
        self._saver: ThreadPoolExecutor | None = None
        self._saving: list[Future[str | None]] = []
        self._backend: Backend
        if self.repository is None:
            _warn_inside_a_run()
            self._backend = Memory(deepcopy_on_save, deepcopy_on_retrieve)
        else:
            self._backend = Durable(self.repository, name)

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
    ) -> str | None:
        """Save a value.

        Arguments:
            data: any Python object or pytree. Arrays and plain containers are stored without pickle.
            snapshot_id: its id; default: one made from the time and a random part.
            metadata: plain values by text keys, up to 64 KB.
            tags: one tag or several.
            overwrite: replace the snapshot with this id instead of raising.
            deepcopy: in memory, overrides `deepcopy_on_save`.
            token: of an earlier save that raised `CommitUnknown`: if that one landed, its id is returned.

        Returns:
            The id; None when the ranking does not admit the snapshot among the best `max_snapshots`.

        Raises:
            SnapshotExists: the id is taken.
            UnserialisableLeaf: naming the path of the leaf.
            CommitUnknown: the storage did not say whether the save landed.
        """
        self._check_value(data)
        draft = self._put_draft(lambda: data, snapshot_id, metadata, tags, overwrite)
        prepared = self._backend.prepare(data, deepcopy)
        with self._lock:  # saves of one manager land in order; who only looks does not wait for it
            return _id_of(self._backend.put(draft, prepared, token_from(token)))

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
        """Copy a value, return at once, and save it in the background while training goes on.

        The value may be changed, donated or deleted as soon as this returns. Saves of one manager happen in order.

        Returns:
            A future of what `save_snapshot` returns. `wait` waits for all of them, and raises what went wrong.
        """
        self._check_value(data)
        known = token_from(token)
        prepared = self._backend.prepare(data, None, detach=True)
        draft = self._put_draft(lambda: self._backend.value_of(prepared), snapshot_id, metadata, tags, overwrite)

        def save() -> str | None:
            with self._lock:
                return _id_of(self._backend.put(draft, prepared, known))

        with self._queue_lock:
            if self._saver is None:
                self._saver = ThreadPoolExecutor(1, "prefect-snapshots-save")
            future = self._saver.submit(save)
            _unfinished.add(future)
            future.add_done_callback(_unfinished.discard)
            self._saving = [*(one for one in self._saving if not one.done() or _failed(one)), future]
        return future

    def wait(self) -> None:
        """Wait for every `save_async`, and raise the first error among them; the next call raises the next one."""
        with self._queue_lock:
            saving, self._saving = self._saving, []
        concurrent.futures.wait(saving)
        failed = [future for future in saving if _failed(future)]
        with self._queue_lock:
            self._saving = failed[1:] + self._saving
        if failed:
            failed[0].result()

    def clone_snapshot(
        self,
        snapshot_id: str,
        new_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        tags: str | Sequence[str] | None = None,
    ) -> str | None:
        """Save the value of a snapshot under another id, without storing its bytes again.

        Arguments:
            metadata: added to that of the original.
            tags: instead of those of the original.
        """
        with self._lock:
            source = self.current_records().get(snapshot_id)
            draft = self._put_draft(
                lambda: self.snapshot_of(source).data,
                new_id,
                {**source.metadata, **(metadata or {})},
                list(source.tags) if tags is None else tags,
            )
            return _id_of(self._backend.clone(draft, source))

    def promote(self, snapshot_id: str, registry: Registry, name: str) -> Any:
        """Make a version of an artifact of a snapshot. Its metadata goes along.

        Within one repository nothing is copied; into another one, only what is not there yet.

        Arguments:
            snapshot_id: of the snapshot.
            registry: an `ArtifactRegistry`.
            name: of the artifact.

        Returns:
            The version, as the registry gives it.

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
        record = self.current_records().get(snapshot_id)
        if not isinstance(self._backend, Durable):
            return registry.log_artifact(name, self.snapshot_of(record).data, HANDLER, metadata=record.metadata)
        _, content = self._backend.content(record)
        repository = self._backend.repository
        source = {"repository": repository.id, "url": repository.url, "name": self.name, "snapshot": snapshot_id}
        return registry.adopt(name, content, handler=HANDLER, metadata=record.metadata, source=source)

    def remove_snapshot(self, snapshot_id: str) -> None:
        """Remove a snapshot, also a pinned one. Its space is freed by the next prune."""

        def draft() -> Draft:
            return Draft("remove", {"id": snapshot_id}, [self.records.get(snapshot_id).sequence])

        self._note(draft)

    # --- reading ----------------------------------------------------------------------------------------------

    def get_snapshot(
        self,
        snapshot_id: str,
        deepcopy: bool | None = None,
        *,
        leaves: str | Sequence[str] | None = None,
        like: Any = None,
    ) -> Snapshot[T]:
        """Load a snapshot, every byte verified.

        Arguments:
            snapshot_id: its id.
            deepcopy: in memory, overrides `deepcopy_on_retrieve`.
            leaves: patterns of leaf paths, such as `"encoder/**"`: only these are read.
            like: a value that gives structure, custom node types, and sharding of the result.

        Raises:
            SnapshotNotFound: there is no such id.
            IntegrityError: stored bytes are damaged; the message names the leaf.
            PickleRefused: a leaf needs pickle and the repository was opened with `allow_pickle=False`.
        """
        record = self.current_records().get(snapshot_id)
        snapshot = self.snapshot_of(record, deepcopy, leaves, like)
        _ = snapshot.data
        return snapshot

    def __getitem__(self, snapshot_id: str) -> Snapshot[T]:
        return self.get_snapshot(snapshot_id)

    def __contains__(self, snapshot_id: object) -> bool:
        return snapshot_id in self.current_records().by_id

    def __len__(self) -> int:
        return len(self.current_records().by_id)

    def __iter__(self) -> Iterator[str]:
        return iter(self.list_snapshots())

    def get_latest_snapshot(self) -> Snapshot[T] | None:
        """The snapshot that was saved last, whatever the clocks of its writers said; None when there is none."""
        return self._first(reversed(self.current_records().by_id.values()))

    def get_oldest_snapshot(self) -> Snapshot[T] | None:
        """The snapshot that was saved first; None when there is none."""
        return self._first(self.current_records().by_id.values())

    def get_best_snapshot(self) -> Snapshot[T] | None:
        """The best snapshot by the ranking; None when there is none."""
        return self._first(self._ranked())

    def list_snapshots(self) -> list[str]:
        """All ids, in the order in which they were saved."""
        return list(self.current_records().by_id)

    def list_snapshots_by_age(self, ascending: bool = True) -> list[str]:
        """All ids by the time of saving: oldest first, or with `ascending=False` newest first."""
        records = self.current_records().by_id.values()
        ids = [record.id for record in sorted(records, key=lambda record: (record.time, record.sequence))]
        return ids if ascending else ids[::-1]

    def get_ids_by_insertion_order(self) -> list[str]:
        """All ids, in the order in which they were saved."""
        return self.list_snapshots()

    def get_ids_by_rank(self) -> list[str]:
        """All ids, best first."""
        return [record.id for record in self._ranked()]

    @property
    def query(self) -> Query:
        """Find snapshots by tag, metadata, time or content."""
        return Query(self)

    def get_metadata(self, snapshot_id: str) -> dict[str, Any]:
        """A copy of the metadata."""
        return copy.deepcopy(self.current_records().get(snapshot_id).metadata)

    def get_tags(self, snapshot_id: str) -> list[str]:
        """A copy of the tags."""
        return list(self.current_records().get(snapshot_id).tags)

    def diff(self, a: str, b: str) -> list[LeafDifference]:
        """What changed between two snapshots, leaf by leaf in path order; equal leaves are left out.

        In a repository only leaves that differ are read: what is equal shares its chunks.
        """
        records = self.current_records()
        first, second = records.get(a), records.get(b)
        if isinstance(self._backend, Durable):
            a_content, b_content = self._backend.content(first), self._backend.content(second)
            return diff_contents(a_content, b_content, allow_pickle=self._backend.repository.allow_pickle)
        return diff_values(self.snapshot_of(first).data, self.snapshot_of(second).data)

    # --- annotating ---------------------------------------------------------------------------------------------

    def update_metadata(self, snapshot_id: str, metadata: Mapping[str, Any]) -> None:
        """Merge into the metadata: given keys are set, others stay."""
        added = clean_metadata(metadata)

        def draft() -> Draft:
            clean_metadata({**self.records.get(snapshot_id).metadata, **added})  # together they may be too large
            return Draft("annotate", {"id": snapshot_id, "metadata": added})

        self._note(draft)

    def add_tags(self, snapshot_id: str, tags: str | Sequence[str]) -> None:
        """Add tags; those it has already stay where they are."""
        self._annotate(snapshot_id, add_tags=clean_tags(tags))

    def remove_tags(self, snapshot_id: str, tags: str | Sequence[str]) -> None:
        """Remove tags; those it does not have are ignored."""
        self._annotate(snapshot_id, remove_tags=clean_tags(tags))

    def pin(self, snapshot_id: str, pinned: bool = True) -> None:
        """Protect a snapshot from eviction and cleanup, or stop protecting it."""
        self._annotate(snapshot_id, pinned=pinned)

    def cleanup(self, policy: RetentionPolicy, dry_run: bool = False) -> list[RetentionRow]:
        """Remove what a retention policy does not keep. Pinned snapshots stay, whatever the policy says.

        Returns:
            The policy's rows (name, keep, reasons), for all snapshots.
        """
        rows: list[RetentionRow] = []

        def draft() -> Draft | None:
            items = [
                RetentionItem(record.id, record.timestamp, tuple(record.tags), (PINNED,) if record.pinned else ())
                for record in self.records.by_id.values()
            ]
            rows[:] = policy.plan(items)
            doomed = [self.records.get(row.name).sequence for row in rows if not row.keep]
            return Draft("cleanup", {}, doomed) if doomed else None

        self._note(draft, dry_run=dry_run)
        return rows

    # --- moving -----------------------------------------------------------------------------------------------

    def save_to_file(self, path: str | os.PathLike[str]) -> None:
        """Write all snapshots, with their times, tags, order and ranking, into one file, atomically."""
        records = list(self.current_records().by_id.values())
        write_file(Path(path), self.name, self.max_snapshots, self.ranking, records, self._backend.encoded)

    @classmethod
    def load_from_file(cls, path: str | os.PathLike[str], *, allow_pickle: bool = True) -> SnapshotManager[T]:
        """A manager in memory with what `save_to_file` wrote.

        Arguments:
            allow_pickle: whether objects stored with pickle may be loaded. Say False for a file from elsewhere.
        """
        name, max_snapshots, ranking, saved = read_file(Path(path), allow_pickle)
        manager = cls(
            name=name, max_snapshots=max_snapshots, rank_by=ranking.rank_by, mode=ranking.mode, cmp=ranking.cmp
        )
        for body, held in saved:
            manager._backend.put(lambda body=body: Draft("put", body), held, None)  # type: ignore[misc]
        return manager

    def persist(self, repository: RepositoryLike) -> SnapshotManager[T]:
        """Save all snapshots into a repository under the same name. Times, tags, pins and order survive.

        Returns:
            A manager over that repository. Ids that exist there already raise `SnapshotExists`.
        """
        target = type(self)(
            as_repository(repository),
            name=self.name,
            max_snapshots=self.max_snapshots,
            rank_by=self.ranking.rank_by,
            mode=self.ranking.mode,
            cmp=self.ranking.cmp,
        )
        for record in list(self.current_records().by_id.values()):
            data = self.snapshot_of(record).data
            draft = target._put_draft(
                lambda data=data: data,  # type: ignore[misc]
                record.id,
                record.metadata,
                list(record.tags),
                time=record.timestamp,
                pinned=record.pinned,
            )
            target._backend.put(draft, target._backend.prepare(data, None), None)
        return target

    # --- for query and reports ---------------------------------------------------------------------------------

    @property
    def records(self) -> Records:
        """What is known of the snapshots, as of the last look."""
        return self._backend.records

    def current_records(self) -> Records:
        """What is known of the snapshots, other writers' included."""
        return self._backend.refresh()

    def snapshot_of(
        self,
        record: Record,
        deepcopy: bool | None = None,
        leaves: str | Sequence[str] | None = None,
        like: Any = None,
    ) -> Snapshot[T]:
        """The snapshot of a record; its data is loaded when it is first used."""

        def load() -> T:
            return cast(T, self._backend.load(record, deepcopy, leaves, like))

        return Snapshot(record.id, record.timestamp, copy.deepcopy(record.metadata), list(record.tags), load)

    def leaves_of(self, record: Record) -> Iterable[Any]:
        """The leaves of a record's snapshot, whatever containers they are in."""
        return self._backend.leaves(record)

    # --- inside ------------------------------------------------------------------------------------------------

    def _check_value(self, data: Any) -> None:
        """Refuse a value before anything is written; any value will do here."""

    def _put_draft(
        self,
        load: Callable[[], Any],
        snapshot_id: str | None,
        metadata: Mapping[str, Any] | None,
        tags: str | Sequence[str] | None,
        overwrite: bool = False,
        time: datetime | None = None,
        pinned: bool = False,
    ) -> Callable[[], Draft | None]:
        """What to commit, whenever it is asked; `load` gives the value to a comparison that wants it."""
        body: dict[str, Any] = {
            "id": check_name(snapshot_id, "snapshot id") if snapshot_id is not None else _new_id(),
            "metadata": clean_metadata(metadata),
            "tags": clean_tags(tags),
        }
        if time is not None:
            body["time"] = to_nanoseconds(time)
        if pinned:
            body["pinned"] = True

        def draft() -> Draft | None:
            existing = self.records.by_id.get(body["id"])
            if existing is not None and not overwrite:
                raise SnapshotExists(f"snapshot {body['id']!r} exists already: choose another id, or overwrite=True")
            evicted = self._evicted(body, existing, load)
            if evicted is None:
                return None
            return Draft("put", body, [record.sequence for record in (existing, *evicted) if record is not None])

        return draft

    def _evicted(self, body: dict[str, Any], existing: Record | None, load: Callable[[], Any]) -> list[Record] | None:
        """What has to go when a snapshot comes; None when the snapshot itself is not good enough to come."""
        if self.max_snapshots is None:
            return []
        others = [record for record in self.records.by_id.values() if record is not existing]
        excess = len(others) + 1 - self.max_snapshots
        if excess <= 0:
            return []
        event = Event(sys.maxsize, b"", 0, b"", 0, "put", body)
        new = Record(body["id"], event, 0, body["metadata"], dict.fromkeys(body["tags"]), body.get("pinned", False))

        def snapshot(record: Record) -> Snapshot[Any]:
            if record is not new:
                return self.snapshot_of(record)
            return Snapshot(new.id, datetime.now(UTC), new.metadata, list(new.tags), load)

        evictable = [record for record in (*others, new) if not record.pinned]
        worst = self.ranking.best_first(evictable, snapshot)[-excess:] if evictable else []
        if new in worst:
            # Without a ranking the newest is the best: it comes even when all others are pinned.
            return None if self.ranking else [record for record in worst if record is not new]
        return worst

    def _annotate(self, snapshot_id: str, **changes: Any) -> None:
        def draft() -> Draft:
            return Draft("annotate", {"id": self.records.get(snapshot_id).id, **changes})

        self._note(draft)

    def _note(self, draft: Callable[[], Draft | None], *, dry_run: bool = False) -> None:
        self._backend.note(draft, dry_run=dry_run)

    def _ranked(self) -> list[Record]:
        return self.ranking.best_first(self.current_records().by_id.values(), self.snapshot_of)

    def _first(self, records: Iterable[Record]) -> Snapshot[T] | None:
        record = next(iter(records), None)
        if record is None:
            return None
        snapshot = self.snapshot_of(record)
        _ = snapshot.data
        return snapshot

    def __repr__(self) -> str:
        where = "in memory" if self.repository is None else self.repository.url
        return f"{type(self).__name__}({where}, name={self.name!r})"

    def __reduce__(self) -> tuple[Callable[..., SnapshotManager[Any]], tuple[Any, ...]]:
        if self.repository is None:
            raise InvalidArgument("a manager in memory cannot be pickled: give it a repository, or use save_to_file")
        options = {
            "name": self.name,
            "max_snapshots": self.max_snapshots,
            "rank_by": self.ranking.rank_by,
            "mode": self.ranking.mode,
            "cmp": self.ranking.cmp,
        }
        return _restore, (type(self), self.repository, options)


class PyTreeSnapshotManager(SnapshotManager[T]):
    """A `SnapshotManager` for pytrees: it validates what it saves, and works on leaves.

    Example:
        >>> from prefect_snapshots import PyTreeSnapshotManager
        >>> manager = PyTreeSnapshotManager()
        >>> sid = manager.save_snapshot({"txt": "hello pytorch", "x": 42})
        >>> nsid = manager.tree_map(lambda x: x.replace("pytorch", "jax") if isinstance(x, str) else x, sid)
        >>> manager.get_snapshot(nsid).data
        {'txt': 'hello jax', 'x': 42}
    """

    def _check_value(self, data: Any) -> None:
        validate(data)

    def tree_map(
        self, fn: Callable[[Any], Any], snapshot_id: str | None = None, new_id: str | None = None
    ) -> str | None:
        """Apply a function to every leaf of a snapshot (default: the latest), and save the result as a new one.

        The metadata and tags go along; the metadata says from which snapshot the new one came (`derived_from`).
        """
        source = self._source(snapshot_id)
        return self._derive(cast(T, map_leaves(fn, source.data)), [source], new_id)

    def tree_replace(
        self, replacements: Mapping[str, Any], snapshot_id: str | None = None, new_id: str | None = None
    ) -> str | None:
        """Replace leaves of a snapshot (default: the latest), and save the result as a new one.

        Arguments:
            replacements: new leaves by path pattern, as in `{"decoder/**/bias": 0.0}`.

        Raises:
            InvalidArgument: a pattern that matches no leaf.
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
            raise InvalidArgument(f"no leaf of snapshot {source.id!r} matches {', '.join(sorted(unused))}")
        return self._derive(cast(T, data), [source], new_id)

    def tree_combine(
        self, snapshot_ids: Sequence[str], fn: Callable[..., Any], new_id: str | None = None
    ) -> str | None:
        """Combine snapshots leaf by leaf, for example to average weights, and save the result as a new one.

        Arguments:
            snapshot_ids: at least one id; all of the same structure.
            fn: called with the leaves at one path, one of each snapshot.

        Raises:
            StructureMismatch: naming the first path at which the structures differ.
        """
        if not snapshot_ids:
            raise InvalidArgument("tree_combine needs at least one snapshot id")
        sources = [self.get_snapshot(snapshot_id) for snapshot_id in snapshot_ids]
        combined = map_leaves(fn, *(source.data for source in sources))
        return self._derive(cast(T, combined), sources, new_id)

    def _source(self, snapshot_id: str | None) -> Snapshot[T]:
        source = self.get_latest_snapshot() if snapshot_id is None else self.get_snapshot(snapshot_id)
        if source is None:
            raise InvalidArgument(f"there is no snapshot yet under {self.name!r}")
        return source

    def _derive(self, data: T, sources: Sequence[Snapshot[T]], new_id: str | None) -> str | None:
        first = sources[0]
        metadata = {**first.metadata, "derived_from": [source.id for source in sources]}
        return self.save_snapshot(data, new_id, metadata, first.tags)


def list_names(repository: RepositoryLike) -> list[str]:
    """The names under which a repository keeps snapshots, sorted."""
    return as_repository(repository).names(KIND)


def _new_id() -> str:
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"


_unfinished: set[Future[str | None]] = set()
# Python waits for the saves themselves, but first it stops the thread pools that they need.
before_threads_end(lambda: concurrent.futures.wait(_unfinished))


def _failed(future: Future[str | None]) -> bool:
    return not future.cancelled() and future.exception() is not None


def _id_of(event: Event | None) -> str | None:
    return None if event is None else str(event.body["id"])


def _warn_inside_a_run() -> None:
    """Say so when a manager in memory is made inside a flow run, if Prefect is there at all."""
    context = sys.modules.get("prefect.context")
    if context is not None and context.FlowRunContext.get() is not None:
        warnings.warn(
            "this SnapshotManager keeps its snapshots in memory: nothing outlives the run. Give it a repository.",
            stacklevel=3,
        )


def _restore(kind: type[SnapshotManager[Any]], repository: Repository, options: dict[str, Any]) -> SnapshotManager[Any]:
    return kind(repository, **options)
