"""Find snapshots by tag, metadata, time, content or leaf. Join conditions with `&`, `|` and `~`.

Conditions on tags, metadata and time need no stored data. The others load data, so they are evaluated last, and only on
the snapshots that match the cheap conditions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ..arguments import checking_types
from ..errors import InvalidArgument
from ..repository.conditions import Condition
from ..repository.descriptions import clean_tags
from ..repository.metadata import clean_value, finder
from ..repository.times import parse_time, to_nanoseconds
from .records import Record, Snapshot, SnapshotRecords

_ANY = object()
"""Matches any value: the key only has to exist."""


@dataclass(frozen=True, slots=True)
class Source:
    """The snapshots to search.

    Attributes:
        records: The records of all snapshots. They do not change during the evaluation.
        snapshot_of: A function that returns the snapshot of a record. Its data is loaded when it is first used.
        leaves_of: A function that loads the leaves of a record.
    """

    records: SnapshotRecords
    snapshot_of: Callable[[Record], Snapshot[Any]]
    leaves_of: Callable[[Record], Iterable[Any]]


class Expression:
    """A condition on snapshots. Join conditions with `&`, `|` and `~`."""

    loads = False
    """Whether the condition needs the data."""

    def select(self, source: Source, among: dict[str, Record]) -> dict[str, Record]:
        """Return the records that meet the condition, in the same order.

        Args:
            source: All snapshots, and how to load their data.
            among: The records to choose from, by id.
        """
        raise NotImplementedError

    def __and__(self, other: Expression) -> Expression:
        return _And(self, other)

    def __or__(self, other: Expression) -> Expression:
        return _Or(self, other)

    def __invert__(self) -> Expression:
        return _Not(self)


@checking_types
class ByTag(Expression):
    """Match snapshots with these tags.

    Args:
        tags: One tag or several.
        require_all: Whether a snapshot needs all of the tags (default), or at least one.
    """

    def __init__(self, tags: str | Sequence[str], require_all: bool = True) -> None:
        self.tags = clean_tags(tags)
        self.require_all = require_all

    def select(self, source: Source, among: dict[str, Record]) -> dict[str, Record]:
        tagged = [set(source.records.tagged(tag)) for tag in self.tags]
        if not tagged:
            return among if self.require_all else {}
        wanted = set.intersection(*tagged) if self.require_all else set.union(*tagged)
        return _in_order(among, wanted)


class ByMetadata(Expression):
    """Match snapshots whose metadata has a key, optionally with a certain value.

    Args:
        key: A metadata key. Dots lead into nested dictionaries, as in `"optimizer.lr"`.
        value: The value that it must equal. Default: any value.
    """

    def __init__(self, key: str, value: Any = _ANY) -> None:
        self.key = key
        self.value = value if value is _ANY else clean_value(value, key)

    def select(self, source: Source, among: dict[str, Record]) -> dict[str, Record]:
        find, value = finder(self.key, _ANY), self.value
        if value is _ANY:
            return {name: record for name, record in among.items() if find(record.metadata) is not _ANY}
        return {name: record for name, record in among.items() if find(record.metadata) == value}


class BySearch(Expression):
    """Match snapshots that meet a condition, written as text: `"metrics.loss < 0.1 and tags = 'best'"`.

    Args:
        condition: See `SnapshotManager.search`.
    """

    def __init__(self, condition: str) -> None:
        self.condition = Condition(condition)

    def select(self, source: Source, among: dict[str, Record]) -> dict[str, Record]:
        matches = self.condition.matches
        return {name: record for name, record in among.items() if matches(record.fields, record.metadata)}


class ByTimeRange(Expression):
    """Match snapshots that were saved between two points in time, both included.

    Args:
        start: A datetime with a time zone, or an ISO 8601 string (UTC if it has no zone). Default: no limit.
        end: The same for the end.
    """

    def __init__(self, start: datetime | str | None = None, end: datetime | str | None = None) -> None:
        self.start = None if start is None else to_nanoseconds(parse_time(start))
        # Times are stored in nanoseconds but shown in microseconds, so the last microsecond is included completely.
        self.end = None if end is None else to_nanoseconds(parse_time(end)) + 999

    def select(self, source: Source, among: dict[str, Record]) -> dict[str, Record]:
        start = self.start if self.start is not None else -(2**63)
        end = self.end if self.end is not None else 2**63
        return {name: record for name, record in among.items() if start <= record.time <= end}


@dataclass(frozen=True)
class ByContent(Expression):
    """Match snapshots whose data meets a condition. Loads the data of all snapshots that match the other conditions.

    Args:
        fn: A function that takes the data and returns whether the snapshot matches.
    """

    fn: Callable[[Any], bool]
    loads = True

    def select(self, source: Source, among: dict[str, Record]) -> dict[str, Record]:
        return {name: record for name, record in among.items() if self.fn(source.snapshot_of(record).data)}


@dataclass(frozen=True)
class ByLeaf(Expression):
    """Match snapshots with at least one leaf that meets a condition. Container classes need not be importable.

    Args:
        fn: A function that takes one leaf and returns whether it matches.
    """

    fn: Callable[[Any], bool]
    loads = True

    def select(self, source: Source, among: dict[str, Record]) -> dict[str, Record]:
        return {name: record for name, record in among.items() if any(map(self.fn, source.leaves_of(record)))}


@dataclass(frozen=True)
class _BySnapshot(Expression):
    fn: Callable[[Snapshot[Any]], bool]
    loads = True

    def select(self, source: Source, among: dict[str, Record]) -> dict[str, Record]:
        return {name: record for name, record in among.items() if self.fn(source.snapshot_of(record))}


class _And(Expression):
    def __init__(self, *parts: Expression) -> None:
        # Conditions that load data come last, and get only the snapshots that match the others.
        self.parts = sorted(parts, key=lambda part: part.loads)
        self.loads = any(part.loads for part in parts)

    def select(self, source: Source, among: dict[str, Record]) -> dict[str, Record]:
        for part in self.parts:
            among = part.select(source, among)
        return among


class _Or(Expression):
    def __init__(self, *parts: Expression) -> None:
        self.parts = sorted(parts, key=lambda part: part.loads)
        self.loads = any(part.loads for part in parts)

    def select(self, source: Source, among: dict[str, Record]) -> dict[str, Record]:
        found: set[str] = set()
        for part in self.parts:
            # Snapshots that one part has found are not loaded again for the next.
            found.update(part.select(source, {name: record for name, record in among.items() if name not in found}))
        return _in_order(among, found)


class _Not(Expression):
    def __init__(self, part: Expression) -> None:
        self.part = part
        self.loads = part.loads

    def select(self, source: Source, among: dict[str, Record]) -> dict[str, Record]:
        found = self.part.select(source, among)
        return {name: record for name, record in among.items() if name not in found}


def _in_order(among: dict[str, Record], wanted: set[str]) -> dict[str, Record]:
    return {name: record for name, record in among.items() if name in wanted}


class Query:
    """Find snapshots of one manager: `manager.query`.

    Every method returns ids, in the order in which the snapshots were saved.
    """

    def __init__(self, source: Callable[[], Source]) -> None:
        self._source = source

    def evaluate(self, expression: Expression) -> list[str]:
        """Return the ids of the snapshots that match an expression.

        Example:
            >>> from prefect_snapshots import SnapshotManager, ByMetadata, ByTag
            >>> manager = SnapshotManager()
            >>> manager.save_snapshot(1, "a", metadata={"lr": 0.1}, tags=["best"])
            'a'
            >>> manager.query.evaluate(ByTag("best") & ~ByMetadata("lr", 0.2))
            ['a']
        """
        if not isinstance(expression, Expression):
            raise InvalidArgument(f"A query needs a condition, such as ByTag('best'), not {type(expression).__name__}.")
        source = self._source()
        return list(expression.select(source, source.records.by_id))

    def by_tags(self, tags: str | Sequence[str], require_all: bool = True) -> list[str]:
        """Return the ids of the snapshots with all (default) or any of these tags."""
        return self.evaluate(ByTag(tags, require_all))

    def by_metadata(self, key: str, value: Any = _ANY) -> list[str]:
        """Return the ids of the snapshots with this metadata key, and with this value if you pass one."""
        return self.evaluate(ByMetadata(key, value))

    def by_time_range(self, start: datetime | str | None = None, end: datetime | str | None = None) -> list[str]:
        """Return the ids of the snapshots that were saved between two points in time, both included."""
        return self.evaluate(ByTimeRange(start, end))

    def by_content(self, fn: Callable[[Any], bool]) -> list[str]:
        """Return the ids of the snapshots whose data meets a condition. Loads the data of every snapshot."""
        return self.evaluate(ByContent(fn))

    def by_cmp(self, fn: Callable[[Snapshot[Any]], bool]) -> list[str]:
        """Return the ids of the snapshots that meet a condition. Data is loaded only if the condition uses it."""
        return self.evaluate(_BySnapshot(fn))

    def by_leaf_value(self, fn: Callable[[Any], bool]) -> list[str]:
        """Return the ids of the snapshots with at least one leaf that meets a condition. Loads all data."""
        return self.evaluate(ByLeaf(fn))
