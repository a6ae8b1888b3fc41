"""Decide which items to keep: a pure function of a retention policy and of what exists.

Every kind has a `cleanup` that asks this module. It deletes nothing itself.

The rules, and the words of the reasons, are those of `restic forget` (0.14). A *bucket* is an hour, a day, an ISO week,
a month or a year in the time zone of the policy. A count such as `keep_daily=7` keeps the newest item of each of the
last 7 buckets that hold any. A duration such as `keep_weekly_within="3m"` keeps the newest item of every bucket, as far
back from the newest item of all, or from now. An item that several rules keep has several reasons. A *group* is the
items of one host, of the same sources, or with the same tags: each has the rules to itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from .errors import InvalidArgument

Bucket = tuple[int, ...]

_BUCKETS: dict[str, Callable[[datetime], Bucket]] = {
    "hourly": lambda local: (local.year, local.month, local.day, local.hour),
    "daily": lambda local: (local.year, local.month, local.day),
    "weekly": lambda local: local.isocalendar()[:2],
    "monthly": lambda local: (local.year, local.month),
    "yearly": lambda local: (local.year,),
}

PINNED = "pinned"
"""The reason for an item that a user exempted from retention."""

Grouping = Literal["host", "sources", "tags"]
"""What items of one group have in common."""

_DURATION = re.compile(r"(?=.)(?:(\d+)y)?(?:(\d+)m)?(?:(\d+)d)?(?:(\d+)h)?")
_DAY = timedelta(days=1)


class Item(Protocol):
    """What a policy reads of an item."""

    @property
    def name(self) -> str: ...

    @property
    def created_at(self) -> datetime: ...

    @property
    def tags(self) -> Sequence[str]: ...

    @property
    def exempt(self) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True)
class RetentionItem:
    """One item that a policy decides on.

    Attributes:
        name: The name that its row gets.
        created_at: When it was made, with a time zone.
        tags: What `keep_tags` looks at.
        exempt: Reasons to keep it whatever the policy says, such as "pinned", "released" or "alias production".
        host: The machine that made it, for `group_by`.
        sources: What it was made from, for `group_by`.
    """

    name: str
    created_at: datetime
    tags: Sequence[str] = ()
    exempt: Sequence[str] = ()
    host: str = ""
    sources: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class RetentionRow:
    """What a policy decides about one item.

    Attributes:
        name: The name of the item.
        keep: Whether the item stays.
        reasons: Why it stays, such as "last", "daily", "weekly within 3m" or "pinned". Empty if it does not.
    """

    name: str
    keep: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CleanupReport:
    """What `cleanup` deleted, or with `dry_run=True` would delete.

    Attributes:
        rows: One row for each item, newest first.
        deleted: The names of the items that were, or would be, deleted.
        dry_run: Whether nothing was really deleted.
        freed: Bytes that the storage got back at once. 0 if nothing was pruned.
        freed_later: Bytes that a later prune frees, after its grace time.
    """

    rows: tuple[RetentionRow, ...]
    deleted: tuple[str, ...]
    dry_run: bool
    freed: int = 0
    freed_later: int = 0


@dataclass(frozen=True)
class RetentionPolicy:
    """Choose which backups, snapshots, checkpoints or versions to keep.

    Args:
        keep_last: How many of the newest to keep; -1 keeps all, here and in the other counts.
        keep_weekly_within: Keep the newest of each week, as far back from the newest of all as this duration, such as
            `"3m"` or `"2y5m7d3h"` (years, months, days, hours). None turns the rule off, here and in the others.
            See `count_from`.
        keep_hourly, keep_daily, keep_weekly, keep_monthly, keep_yearly: For how many hours, days, ISO weeks, months
            or years to keep the newest. Those that hold nothing do not count.
        keep_within: Keep everything within this duration.
        keep_hourly_within, keep_daily_within, keep_monthly_within, keep_yearly_within: As `keep_weekly_within`.
        keep_tags: Keep everything with any of these tags. `"a,b"` means both tags at once.
        timezone: The time zone of hours, days, weeks, months and years, such as `"Europe/Berlin"`.
        count_from: Where durations begin: at the `"newest"` item, so that nothing expires while nothing is made, or
            `"now"`.
        group_by: Apply the policy to each group on its own: any of `"host"`, `"sources"` and `"tags"`. At least one
            item of each group is kept. Only backups have hosts and sources. Default: all items are one group.

    Raises:
        InvalidArgument: The policy keeps nothing, a count is below -1, a duration cannot be read, the time zone is
            unknown, or another value is not one of those above.

    Example:
        >>> from datetime import UTC, datetime
        >>> from prefect_snapshots import RetentionPolicy
        >>> from prefect_snapshots.retention import RetentionItem
        >>> days = [
        ...     RetentionItem(str(day), datetime(2026, 1, day, tzinfo=UTC), exempt=["pinned"] if day == 2 else [])
        ...     for day in range(1, 8)
        ... ]
        >>> for row in RetentionPolicy(keep_last=2, keep_weekly_within="1m").plan(days):
        ...     print(row.name, *row.reasons, sep=", ")
        7, last, weekly within 1m
        6, last
        5
        4, weekly within 1m
        3
        2, pinned
        1
    """

    keep_last: int = 10
    keep_weekly_within: str | None = "3m"
    keep_hourly: int = 0
    keep_daily: int = 0
    keep_weekly: int = 0
    keep_monthly: int = 0
    keep_yearly: int = 0
    keep_within: str | None = None
    keep_hourly_within: str | None = None
    keep_daily_within: str | None = None
    keep_monthly_within: str | None = None
    keep_yearly_within: str | None = None
    keep_tags: tuple[str, ...] = ()
    timezone: str = "UTC"
    count_from: Literal["newest", "now"] = "newest"
    group_by: tuple[Grouping, ...] = ()

    def __post_init__(self) -> None:
        for name, count in self._counts():
            if type(count) is not int or count < -1:
                raise InvalidArgument(f"{name} must be a count from 0 on, or -1 to keep all, not {count!r}.")
        for _, text in self._durations():
            _parse_duration(text)
        if isinstance(self.keep_tags, str) or not all(tag and all(tag.split(",")) for tag in self.keep_tags):
            raise InvalidArgument(f"keep_tags must be a sequence of tags, not {self.keep_tags!r}.")
        object.__setattr__(self, "keep_tags", tuple(self.keep_tags))
        if self.count_from not in ("newest", "now"):
            raise InvalidArgument(f'count_from must be "newest" or "now", not {self.count_from!r}.')
        if isinstance(self.group_by, str) or not set(self.group_by) <= set(get_args(Grouping)):
            raise InvalidArgument(
                f'group_by must be a sequence of "host", "sources" and "tags", not {self.group_by!r}.'
            )
        object.__setattr__(self, "group_by", tuple(self.group_by))
        _zone(self.timezone)
        if not (self.keep_tags or any(count for _, count in self._counts()) or any(self._windows())):
            raise InvalidArgument("This retention policy keeps nothing. Set at least one of its keep_ arguments.")

    @staticmethod
    def checked(policy: RetentionPolicy | None) -> RetentionPolicy:
        """Return a policy that was passed, for the kinds that have no default policy: all but backups.

        Args:
            policy: What the caller passed.

        Raises:
            InvalidArgument: None was passed, or something else, or the policy groups by what only backups have.
        """
        if policy is None:
            raise InvalidArgument("A cleanup needs a policy. Pass one, such as RetentionPolicy(keep_last=10).")
        if not isinstance(policy, RetentionPolicy):
            raise InvalidArgument(f"policy must be a RetentionPolicy, not {type(policy).__name__}.")
        if unknown := set(policy.group_by) - {"tags"}:
            what = " and ".join(sorted(unknown))
            raise InvalidArgument(f"Only backups can be grouped by {what}. Nothing was deleted.")
        return policy

    def plan(self, items: Iterable[Item], now: datetime | None = None) -> list[RetentionRow]:
        """Return which items to keep, and why. Deletes nothing.

        Args:
            items: `RetentionItem`s, or any objects with the same attributes. If two have the same time, the one given
                later counts as newer.
            now: The current time. Default: the clock of this machine. An item whose time is a day or more ahead of it
                was made by a machine with a wrong clock: it is kept, and takes no other item's place.

        Returns:
            A row for each item, newest first.

        Raises:
            InvalidArgument: The policy would keep none of the items.
        """
        now = now or datetime.now(UTC)
        # Python compares two times of one zone by the wall clock, which goes back in autumn. UTC has no such hour.
        timed = [(item.created_at.astimezone(UTC), item) for item in items][::-1]
        newest_first = sorted(timed, key=lambda pair: pair[0], reverse=True)
        groups: dict[Hashable, list[tuple[int, datetime, Item]]] = {}
        for number, (time, item) in enumerate(newest_first):
            groups.setdefault(self.group_of(item), []).append((number, time, item))
        decided = {number: row for group in groups.values() for number, row in self._decide(group, now).items()}
        rows = [decided[number] for number in range(len(decided))]
        if rows and not any(row.keep for row in rows):
            raise InvalidArgument(
                "This retention policy would keep none of the existing items, so nothing was deleted. "
                "Raise one of its keep_ arguments, or pin what you need."
            )
        return rows

    def group_of(self, item: Item) -> Hashable:
        """Return the group of an item. Items of one group have equal ones.

        Args:
            item: The item.
        """
        facts = (getattr(item, each, "") for each in self.group_by)
        return tuple(fact if isinstance(fact, str) else tuple(sorted(set(fact))) for fact in facts)

    def _decide(self, group: Sequence[tuple[int, datetime, Item]], now: datetime) -> dict[int, RetentionRow]:
        """Decide about one group, newest first. Returns rows by the numbers of the items."""
        zone = _zone(self.timezone)
        latest = next((time for _, time, _ in group if time < now), None)
        start = now if self.count_from == "now" else latest
        rules = [*self._count_rules(), *(self._window_rules(start.astimezone(zone)) if start else ())]
        rows: dict[int, RetentionRow] = {}
        for number, time, item in group:
            local = time.astimezone(zone)
            if time - now >= _DAY:
                reasons = [f"its time is {_days((time - now) // _DAY)} ahead"]
            else:
                reasons = [*self._fixed_reasons(item), *(rule.reason for rule in rules if rule.keeps(local))]
            rows[number] = RetentionRow(item.name, bool(reasons), tuple(reasons))
        if self.group_by and not any(row.keep for row in rows.values()):
            # A machine that makes backups no more must not lose its last one because the others go on.
            rows[group[0][0]] = RetentionRow(group[0][2].name, True, ("last of its group",))
        return rows

    def _fixed_reasons(self, item: Item) -> Iterator[str]:
        yield from item.exempt
        for wanted in self.keep_tags:
            if set(wanted.split(",")) <= set(item.tags):
                yield f"has tags [{', '.join(wanted.split(','))}]"

    def _count_rules(self) -> Iterator[_Rule]:
        for name, count in self._counts():
            if count:
                kind = name.removeprefix("keep_")
                yield _Rule(kind, _BUCKETS.get(kind), count)

    def _window_rules(self, latest: datetime) -> Iterator[_Rule]:
        for name, text in self._durations():
            duration = _parse_duration(text)
            if any(duration):
                kind = name.removeprefix("keep_").removesuffix("within").rstrip("_")
                reason = f"{kind} within {_shown(duration)}".lstrip()
                yield _Rule(reason, _BUCKETS.get(kind), -1, after=_before(latest, duration))

    def _counts(self) -> list[tuple[str, int]]:
        names = ["keep_last", *(f"keep_{kind}" for kind in _BUCKETS)]
        return [(name, getattr(self, name)) for name in names]

    def _durations(self) -> list[tuple[str, str]]:
        names = ["keep_within", *(f"keep_{kind}_within" for kind in _BUCKETS)]
        return [(name, text) for name in names if (text := getattr(self, name)) is not None]

    def _windows(self) -> Iterator[bool]:
        return (any(_parse_duration(text)) for _, text in self._durations())


@dataclass(slots=True)
class _Rule:
    """One rule, applied to the items from the newest to the oldest."""

    reason: str
    bucket_of: Callable[[datetime], Bucket] | None
    """None if every item is a bucket of its own."""
    left: int
    after: datetime | None = None
    last: Bucket | None = None

    def keeps(self, local: datetime) -> bool:
        if self.left == 0 or (self.after is not None and local <= self.after):
            return False
        bucket = self.bucket_of(local) if self.bucket_of else None
        if bucket is not None and bucket == self.last:
            return False
        self.last = bucket
        self.left -= self.left > 0
        return True


def _parse_duration(text: str) -> tuple[int, ...]:
    """Return years, months, days and hours."""
    found = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise InvalidArgument(
            f"{text!r} is not a duration. Write years, months, days and hours in this order, "
            'such as "2y5m7d3h" or "12h".'
        )
    return tuple(int(number or 0) for number in found.groups())


def _shown(duration: tuple[int, ...]) -> str:
    return "".join(f"{number}{unit}" for number, unit in zip(duration, "ymdh", strict=True) if number)


def _before(local: datetime, duration: tuple[int, ...]) -> datetime:
    """Return the time that lies `duration` before `local`: first by the calendar and the wall clock, then by hours.

    The 31st of a month that has 30 days is the 1st of the next one. A time that the clocks skip or repeat is found from
    the offset that holds when the wall time is read as UTC.
    """
    years, months, days, hours = duration
    month = local.year * 12 + local.month - 1 - years * 12 - months
    if month < 12:
        return datetime.min.replace(tzinfo=UTC)
    first = local.replace(year=month // 12, month=month % 12 + 1, day=1, tzinfo=None)
    try:
        wall = first + timedelta(days=local.day - 1 - days)
        zone = local.tzinfo

        def at_offset_of(moment: datetime) -> datetime:
            return wall.replace(tzinfo=UTC) - (moment.astimezone(zone).utcoffset() or timedelta())

        return at_offset_of(at_offset_of(wall.replace(tzinfo=UTC))) - timedelta(hours=hours)
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidArgument(f"{name!r} is not a known time zone. Use a name such as UTC or Europe/Berlin.") from None


def _days(number: int) -> str:
    return "1 day" if number == 1 else f"{number} days"
