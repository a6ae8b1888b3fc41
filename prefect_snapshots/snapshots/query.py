"""Finding snapshots: by tag, metadata, time, content or leaf, alone or joined with `&`, `|` and `~`.

Expressions on tags, metadata and time are answered from the catalog; the others load data, and are asked last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ..repository.metadata import clean_value
from ..repository.times import parse_time, to_nanoseconds
from .records import Record, finder

if TYPE_CHECKING:
    from .manager import SnapshotManager
    from .records import Snapshot

_ANY = object()
"""Stands for "whatever the value is": the key only has to exist."""


class Expression:
    """A condition on snapshots. Join conditions with `&`, `|` and `~`."""

    loads = False
    """Whether the condition needs the data."""

    def select(self, manager: SnapshotManager[Any], among: dict[str, Record]) -> dict[str, Record]:
        """Those of the given snapshots that meet the condition, in their order."""
        raise NotImplementedError

    def __and__(self, other: Expression) -> Expression:
        return _And(self, other)

    def __or__(self, other: Expression) -> Expression:
        return _Or(self, other)

    def __invert__(self) -> Expression:
        return _Not(self)


class ByTag(Expression):
    """Has the tags.

    Arguments:
        tags: one tag or several.
        require_all: whether all of them are needed, or one is enough.
    """

    def __init__(self, tags: str | Sequence[str], require_all: bool = True) -> None:
        self.tags = [tags] if isinstance(tags, str) else list(tags)
        self.require_all = require_all

    def select(self, manager: SnapshotManager[Any], among: dict[str, Record]) -> dict[str, Record]:
        tagged = [set(manager.records.tagged(tag)) for tag in self.tags]
        if not tagged:
            return among if self.require_all else {}
        wanted = set.intersection(*tagged) if self.require_all else set.union(*tagged)
        return _in_order(among, wanted)


class ByMetadata(Expression):
    """Has the metadata key, with this value when one is given.

    Arguments:
        key: a metadata key; dots lead into nested dictionaries.
        value: what it must be equal to. Without it, the key only has to exist.
    """

    def __init__(self, key: str, value: Any = _ANY) -> None:
        self.key = key
        self.value = value if value is _ANY else clean_value(value, key)

    def select(self, manager: SnapshotManager[Any], among: dict[str, Record]) -> dict[str, Record]:
        find, value = finder(self.key, _ANY), self.value
        if value is _ANY:
            return {name: record for name, record in among.items() if find(record.metadata) is not _ANY}
        return {name: record for name, record in among.items() if find(record.metadata) == value}


class ByTimeRange(Expression):
    """Was saved between two points in time, both included; either may be left open.

    Arguments:
        start, end: a datetime with a zone, or an ISO 8601 text (UTC when it names no zone).
    """

    def __init__(self, start: datetime | str | None = None, end: datetime | str | None = None) -> None:
        self.start = None if start is None else to_nanoseconds(parse_time(start))
        # Times are shown to the microsecond, so that the end includes all of its last one.
        self.end = None if end is None else to_nanoseconds(parse_time(end)) + 999

    def select(self, manager: SnapshotManager[Any], among: dict[str, Record]) -> dict[str, Record]:
        start = self.start if self.start is not None else -(2**63)
        end = self.end if self.end is not None else 2**63
        return {name: record for name, record in among.items() if start <= record.time <= end}


@dataclass(frozen=True)
class ByContent(Expression):
    """The data meets a condition: `fn(data)` is true. Loads every snapshot that is still in question."""

    fn: Callable[[Any], bool]
    loads = True

    def select(self, manager: SnapshotManager[Any], among: dict[str, Record]) -> dict[str, Record]:
        return {name: record for name, record in among.items() if self.fn(manager.snapshot_of(record).data)}


@dataclass(frozen=True)
class ByLeaf(Expression):
    """At least one leaf of the data meets a condition: `fn(leaf)` is true. The classes of containers are not needed."""

    fn: Callable[[Any], bool]
    loads = True

    def select(self, manager: SnapshotManager[Any], among: dict[str, Record]) -> dict[str, Record]:
        return {name: record for name, record in among.items() if any(map(self.fn, manager.leaves_of(record)))}


@dataclass(frozen=True)
class _BySnapshot(Expression):
    fn: Callable[[Snapshot[Any]], bool]
    loads = True

    def select(self, manager: SnapshotManager[Any], among: dict[str, Record]) -> dict[str, Record]:
        return {name: record for name, record in among.items() if self.fn(manager.snapshot_of(record))}


class _And(Expression):
    def __init__(self, *parts: Expression) -> None:
        # What loads data is asked last, about what the others left.
        self.parts = sorted(parts, key=lambda part: part.loads)
        self.loads = any(part.loads for part in parts)

    def select(self, manager: SnapshotManager[Any], among: dict[str, Record]) -> dict[str, Record]:
        for part in self.parts:
            among = part.select(manager, among)
        return among


class _Or(Expression):
    def __init__(self, *parts: Expression) -> None:
        self.parts = sorted(parts, key=lambda part: part.loads)
        self.loads = any(part.loads for part in parts)

    def select(self, manager: SnapshotManager[Any], among: dict[str, Record]) -> dict[str, Record]:
        found: set[str] = set()
        for part in self.parts:
            # What one part found already is not loaded again for the next.
            found.update(part.select(manager, {name: record for name, record in among.items() if name not in found}))
        return _in_order(among, found)


class _Not(Expression):
    def __init__(self, part: Expression) -> None:
        self.part = part
        self.loads = part.loads

    def select(self, manager: SnapshotManager[Any], among: dict[str, Record]) -> dict[str, Record]:
        found = self.part.select(manager, among)
        return {name: record for name, record in among.items() if name not in found}


def _in_order(among: dict[str, Record], wanted: set[str]) -> dict[str, Record]:
    return {name: record for name, record in among.items() if name in wanted}


class Query:
    """`manager.query`: every method returns ids, in the order in which the snapshots were saved."""

    def __init__(self, manager: SnapshotManager[Any]) -> None:
        self._manager = manager

    def evaluate(self, expression: Expression) -> list[str]:
        """The ids that meet an expression.

        Example:
            >>> from prefect_snapshots import SnapshotManager, ByMetadata, ByTag
            >>> manager = SnapshotManager()
            >>> manager.save_snapshot(1, "a", metadata={"lr": 0.1}, tags=["best"])
            'a'
            >>> manager.query.evaluate(ByTag("best") & ~ByMetadata("lr", 0.2))
            ['a']
        """
        # A copy, because other threads may save meanwhile.
        return list(expression.select(self._manager, dict(self._manager.current_records().by_id)))

    def by_tags(self, tags: str | Sequence[str], require_all: bool = True) -> list[str]:
        """The ids with these tags, all of them or any."""
        return self.evaluate(ByTag(tags, require_all))

    def by_metadata(self, key: str, value: Any = _ANY) -> list[str]:
        """The ids with this metadata key (dots lead into nested ones), and this value when one is given."""
        return self.evaluate(ByMetadata(key, value))

    def by_time_range(self, start: datetime | str | None = None, end: datetime | str | None = None) -> list[str]:
        """The ids saved between two points in time, both included."""
        return self.evaluate(ByTimeRange(start, end))

    def by_content(self, fn: Callable[[Any], bool]) -> list[str]:
        """The ids whose data meets a condition. Loads the data of each."""
        return self.evaluate(ByContent(fn))

    def by_cmp(self, fn: Callable[[Snapshot[Any]], bool]) -> list[str]:
        """The ids whose snapshot (id, timestamp, data, metadata, tags) meets a condition; data is loaded when used."""
        return self.evaluate(_BySnapshot(fn))

    def by_leaf_value(self, fn: Callable[[Any], bool]) -> list[str]:
        """The ids with at least one leaf that meets a condition. Loads the data of each."""
        return self.evaluate(ByLeaf(fn))
