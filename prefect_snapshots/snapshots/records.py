"""The records of snapshots (everything but their data), computed from the events of one stream, and their ranking."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Generic, Literal, cast

import msgspec
from typing_extensions import TypeVar

from ..errors import InvalidArgument, SnapshotNotFound
from ..messages import hint
from ..repository.catalog import RENAMED, RENAMING, Event
from ..repository.descriptions import NOTHING, Description
from ..repository.metadata import finder
from ..repository.names import check_name
from ..repository.provenance import MadeBy, read_made_by
from ..repository.times import from_nanoseconds

T = TypeVar("T", default=Any)


class Snapshot(Generic[T]):
    """One saved value. It is loaded when you first use `data`.

    `metadata` and `tags` are copies. So is `data`, unless you asked for a live reference.

    Attributes:
        id: The id of the snapshot, unique under the name of its manager.
        timestamp: When it was saved, in UTC.
        metadata: Its metadata.
        tags: Its tags, in the order in which they were added.
    """

    __slots__ = ("_data", "_load", "id", "metadata", "tags", "timestamp")

    def __init__(
        self, id: str, timestamp: datetime, metadata: dict[str, Any], tags: list[str], load: Callable[[], T]
    ) -> None:
        self.id = id
        self.timestamp = timestamp
        self.metadata = metadata
        self.tags = tags
        self._load: Callable[[], T] | None = load
        self._data: T | None = None

    @property
    def data(self) -> T:
        """The value. The first use loads it and verifies every byte.

        Raises:
            IntegrityError: Stored bytes are damaged. The message names the leaf.
            PickleRefused: A leaf needs pickle, and the repository was opened with `allow_pickle=False`.
        """
        if self._load is not None:
            self._data, self._load = self._load(), None
        return cast(T, self._data)

    def __repr__(self) -> str:
        return f"Snapshot({self.id!r}, {self.timestamp.isoformat()}, metadata={self.metadata!r}, tags={self.tags!r})"


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """Everything about one snapshot except its data.

    Attributes:
        id: The id of the snapshot, unique under the name of its manager.
        created_at: When it was saved, in UTC.
        metadata: A copy of its metadata.
        tags: Its tags, in the order in which they were added.
        pinned: Whether it is exempt from eviction and retention.
        size: The uncompressed size of the value in bytes. 0 in memory.
        written: The compressed size in bytes of the data that was new in the repository. 0 in memory.
        description: The text that describes it. Empty if there is none.
        made_by: The flow run that saved it, the commit of its code, and what it had read before. None if it was saved
            outside of a flow run, or in memory.
    """

    id: str
    created_at: datetime
    metadata: dict[str, Any]
    tags: tuple[str, ...]
    pinned: bool
    size: int
    written: int
    description: str = ""
    made_by: MadeBy | None = None


@dataclass(slots=True, eq=False)
class Record:
    """The record of a snapshot in the catalog. It is immutable: a change makes a new record."""

    id: str
    event: Event
    time: int
    metadata: dict[str, Any]
    tags: dict[str, None]
    """An ordered set."""
    pinned: bool = False
    description: str = ""

    @property
    def sequence(self) -> int:
        """The position among all events of the stream."""
        return self.event.sequence

    @property
    def order(self) -> int:
        """The position in the order of saving. A snapshot that a rollback restored keeps its old position."""
        return int(self.event.body.get("order", self.sequence))

    @property
    def step(self) -> int | None:
        """The number of the snapshot in a training, if its metadata says it."""
        found = self.metadata.get("step")
        return found if type(found) is int else None

    @property
    def timestamp(self) -> datetime:
        """When the snapshot was saved, in UTC."""
        return from_nanoseconds(self.time)

    @property
    def size(self) -> int:
        """The uncompressed size of the value in bytes."""
        return self.event.content.size if self.event.content else 0

    @property
    def written(self) -> int:
        """The compressed size in bytes of the data that was new in the repository."""
        return self.event.content.written if self.event.content else 0

    @property
    def made_by(self) -> MadeBy | None:
        """The flow run that saved it, as it was recorded."""
        try:
            return read_made_by(self.event.body)
        except msgspec.ValidationError:  # whoever can forge a record could also leave it out
            return None

    @property
    def info(self) -> SnapshotInfo:
        """The public form of this record."""
        return SnapshotInfo(
            self.id,
            self.timestamp,
            copy.deepcopy(self.metadata),
            tuple(self.tags),
            self.pinned,
            self.size,
            self.written,
            self.description,
            self.made_by,
        )

    @property
    def about(self) -> Description:
        """Its description and its tags."""
        return Description(self.description, tuple(self.tags))

    @property
    def fields(self) -> dict[str, Any]:
        """The fields that a condition can use, beside the metadata."""
        return {
            "id": self.id,
            "created_at": self.timestamp,
            "tags": list(self.tags),
            "pinned": self.pinned,
            "size": self.size,
            "written": self.written,
            "description": self.description,
        }


class SnapshotRecords:
    """All snapshots of one name, in the order in which they were saved.

    Args:
        name: The name.
        absence: A function that returns the end of the sentence that there are none under this name. It is called only
            for that message.
    """

    def __init__(self, name: str, absence: Callable[[], str] = lambda: ".") -> None:
        self.name = name
        self._absence = absence
        self.by_id: dict[str, Record] = {}
        self.by_tag: dict[str, dict[str, None]] = {}
        self.renamed_to: str | None = None
        self.about = NOTHING
        self._ids: dict[int, str] = {}

    def copy(self) -> SnapshotRecords:
        """Return a copy that is independent of later events."""
        other = SnapshotRecords(self.name, self._absence)
        other.by_id = dict(self.by_id)
        other.by_tag = {tag: dict(ids) for tag, ids in self.by_tag.items()}
        other.renamed_to = self.renamed_to
        other.about = self.about
        other._ids = dict(self._ids)
        return other

    def apply(self, event: Event) -> None:
        """Apply one event."""
        for sequence in event.deletes:
            self._drop(sequence)
        body = event.body
        if event.kind == "put":
            record = Record(
                body["id"],
                event,
                body.get("time", event.time),
                body.get("metadata") or {},
                dict.fromkeys(body.get("tags") or ()),
                body.get("pinned", False),
                str(body.get("description", "")),
            )
            self.by_id[record.id] = record
            if "order" in body:
                self.by_id = dict(sorted(self.by_id.items(), key=lambda item: item[1].order))
            self._ids[event.sequence] = record.id
            for tag in record.tags:
                self.by_tag.setdefault(tag, {})[record.id] = None
        elif event.kind == "annotate" and (found := self.by_id.get(body["id"])) is not None:
            self._annotate(found, body)
        elif event.kind == RENAMING:
            self.__init__(self.name, self._absence)  # type: ignore[misc]
        elif event.kind == "describe":
            self.about = self.about.changed_by(body)
        elif event.kind == RENAMED:
            self.about = NOTHING
            self.renamed_to = check_name(body["to"])

    def get(self, snapshot_id: str) -> Record:
        """Return the record of an id.

        Raises:
            SnapshotNotFound: There is no such snapshot. The message names similar ids.
        """
        record = self.by_id.get(snapshot_id)
        if record is None:
            self.refuse_empty()
            raise SnapshotNotFound(f"{self.name!r} has no snapshot {snapshot_id!r}. {hint(snapshot_id, self.by_id)}")
        return record

    def refuse_empty(self) -> None:
        """Raise `SnapshotNotFound` if there is no snapshot."""
        if not self.by_id:
            moved = None if self.renamed_to is None else f". It was renamed to {self.renamed_to!r}."
            raise SnapshotNotFound(f"There are no snapshots under the name {self.name!r}{moved or self._absence()}")

    def tagged(self, tag: str) -> Iterable[str]:
        """Return the ids of the snapshots with a tag."""
        return self.by_tag.get(tag, ())

    def _annotate(self, record: Record, body: dict[str, Any]) -> None:
        tags = dict(record.tags)
        for tag in body.get("add_tags", ()):
            tags[tag] = None
            self.by_tag.setdefault(tag, {})[record.id] = None
        for tag in body.get("remove_tags", ()):
            tags.pop(tag, None)
            self.by_tag.get(tag, {}).pop(record.id, None)
        metadata = {**record.metadata, **body.get("metadata", {})}
        pinned = body.get("pinned", record.pinned)
        description = str(body.get("description", record.description))
        self.by_id[record.id] = replace(record, metadata=metadata, tags=tags, pinned=pinned, description=description)

    def _drop(self, sequence: int) -> None:
        snapshot_id = self._ids.pop(sequence, None)
        if snapshot_id is None or self.by_id[snapshot_id].sequence != sequence:
            return
        for tag in self.by_id.pop(snapshot_id).tags:
            self.by_tag[tag].pop(snapshot_id, None)


# --- ranking -----------------------------------------------------------------------------------------------------

Compare = Callable[["Snapshot[Any]", "Snapshot[Any]"], float]
"""`cmp(a, b) > 0` means that a is better."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """The rule that says which of two snapshots is better. Of two equal ones, the newer is better.

    Args:
        rank_by: A metadata key. Dots lead into nested dictionaries. Values that are missing, not numbers, NaN or
            infinite rank last.
        mode: Whether the largest ("max", default) or the smallest ("min") value is best.
        cmp: A function to use instead: `cmp(a, b) > 0` means that a is better.

    Raises:
        InvalidArgument: The mode is unknown, or both `rank_by` and `cmp` are given.
    """

    rank_by: str | None = None
    mode: Literal["max", "min"] = "max"
    cmp: Compare | None = None

    def __post_init__(self) -> None:
        if self.mode not in ("max", "min"):
            raise InvalidArgument(f'mode must be "max" or "min", not {self.mode!r}.')
        if self.rank_by is not None and not isinstance(self.rank_by, str):
            raise InvalidArgument(f"rank_by must be a metadata key, as a string, not {self.rank_by!r}.")
        if self.cmp is not None and not callable(self.cmp):
            raise InvalidArgument(f"cmp must be a function of two snapshots, not {self.cmp!r}.")
        if self.cmp is not None and self.rank_by is not None:
            raise InvalidArgument("Pass rank_by or cmp, not both.")

    def __bool__(self) -> bool:
        return self.rank_by is not None or self.cmp is not None

    def best_first(self, records: Iterable[Record], snapshot: Callable[[Record], Snapshot[Any]]) -> list[Record]:
        """Sort records, best first. Without `rank_by` or `cmp` the newest is best."""
        newest_first = sorted(records, key=lambda record: record.order, reverse=True)
        if self.cmp is not None:
            compare = self.cmp
            snapshots = {record.sequence: snapshot(record) for record in newest_first}

            def order(a: Record, b: Record) -> int:
                return _sign(compare(snapshots[b.sequence], snapshots[a.sequence]))

            newest_first.sort(key=functools.cmp_to_key(order))
        if self.rank_by is not None:
            find, sign = finder(self.rank_by, None), -1 if self.mode == "max" else 1

            def key(record: Record) -> tuple[bool, float]:
                value = find(record.metadata)
                if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                    return True, 0.0
                return False, sign * value

            newest_first.sort(key=key)
        return newest_first


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
