"""Decide which items to keep: a pure function of a retention policy and the existing items.

The `cleanup` of every kind uses this module, which itself deletes nothing.

The rules and reasons are those of `restic forget` (0.14). A *bucket* is an hour, a day, an ISO week, a month or a year
in the time zone of the policy. A count such as `keep_daily=7` keeps the newest item in each of the last 7 buckets that
are not empty. A duration such as `keep_weekly_within="3m"` keeps the newest item in every bucket within that time of
the newest item, or of now. An item that several rules keep has several reasons. A *group* consists of the items of one
host, of the same sources, or with the same tags. The rules are applied to each group separately.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Protocol, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from .arguments import checking_names
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
    """The attributes of an item that a policy uses."""

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
        name: The name of its row.
        created_at: When it was created, with a time zone.
        tags: The tags, for `keep_tags` and `group_by`.
        exempt: Reasons to keep it regardless of the policy, such as "pinned", "released" or "alias production".
        host: The machine that created it, for `group_by`.
        sources: The names of its sources, for `group_by`.
        series: Items of different series are always in different groups.
        rank: Its position among all items, from the best one at 0, for `keep_best`. Only snapshots have one.
        step: Its number in a training, for `keep_every`. Only snapshots have one.
    """

    name: str
    created_at: datetime
    tags: Sequence[str] = ()
    exempt: Sequence[str] = ()
    host: str = ""
    sources: Sequence[str] = ()
    series: str = ""
    rank: int | None = None
    step: int | None = None


@dataclass(frozen=True, slots=True)
class RetentionRow:
    """The decision of a policy about one item.

    Attributes:
        name: The name of the item.
        keep: Whether to keep the item.
        reasons: Why to keep it, such as "last", "daily", "weekly within 3m" or "pinned". Empty if it is not kept.
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
        dry_run: Whether this was a dry run, which deletes nothing.
        freed: The bytes that were freed immediately. 0 if nothing was pruned.
        freed_later: The bytes that a later prune will free, after its grace time.
    """

    rows: tuple[RetentionRow, ...]
    deleted: tuple[str, ...]
    dry_run: bool
    freed: int = 0
    freed_later: int = 0


@checking_names
@dataclass(frozen=True)
class RetentionPolicy:
    """Choose which backups, snapshots, checkpoints or versions to keep.

    Args:
        keep_last: How many of the newest items to keep. In all counts, -1 means all.
        keep_weekly_within: Keep the newest item of each week within this duration, such as `"3m"` or `"2y5m7d3h"`
            (years, months, days, hours). In all durations, None turns off the rule. See `count_from`.
        keep_hourly, keep_daily, keep_weekly, keep_monthly, keep_yearly: For how many hours, days, ISO weeks, months
            or years to keep the newest item. Empty ones do not count.
        keep_within: Keep everything within this duration.
        keep_hourly_within, keep_daily_within, keep_monthly_within, keep_yearly_within: As `keep_weekly_within`.
        keep_interval: Keep the oldest item, and each one that is at least this duration younger than the one that this
            rule has kept before it.
        keep_best: How many of the best snapshots to keep, by the ranking of their manager.
        keep_every: Keep every snapshot whose metadata has a `step` that is a multiple of this number. Default: 0, which
            turns off the rule.
        keep_tags: Keep everything with any of these tags. `"a,b"` means both tags together.
        timezone: The time zone of hours, days, weeks, months and years, such as `"Europe/Berlin"`.
        count_from: Where durations begin: at the `"newest"` item (default), so that nothing expires while no items are
            added, or `"now"`.
        group_by: Apply the policy to each group separately: any of `"host"`, `"sources"` and `"tags"`. At least one
            item of each group is kept. Only backups have hosts and sources. Default: all items are one group.

    Raises:
        InvalidArgument: An argument or the time zone is unknown, the policy keeps nothing, a count is below -1, a
            duration is malformed, or another value is not one of those above.

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
    keep_interval: str | None = None
    keep_best: int = 0
    keep_every: int = 0
    keep_tags: tuple[str, ...] = ()
    timezone: str = "UTC"
    count_from: Literal["newest", "now"] = "newest"
    group_by: tuple[Grouping, ...] = ()

    def __post_init__(self) -> None:
        for name, count in self._counts():
            if type(count) is not int or count < -1:
                raise InvalidArgument(f"{name} must be a count of at least 0, or -1 to keep all, not {count!r}.")
        if type(self.keep_every) is not int or self.keep_every < 0:
            raise InvalidArgument(f"keep_every must be a number of steps of at least 0, not {self.keep_every!r}.")
        for text in (*(text for _, text in self._durations()), self.keep_interval or "0h"):
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
        others = (self.keep_tags, self.keep_every, any(_parse_duration(self.keep_interval or "0h")))
        if not any(others) and not any(count for _, count in self._counts()) and not any(self._windows()):
            raise InvalidArgument("This retention policy keeps nothing. Set at least one of its keep_ arguments.")

    @staticmethod
    def checked(policy: RetentionPolicy | None) -> RetentionPolicy:
        """Return the policy of a call after checking it, for the kinds without a default policy: all but backups.

        Args:
            policy: The policy that the caller passed.

        Raises:
            InvalidArgument: It is None or not a policy, or it groups by a property that only backups have.
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
            items: `RetentionItem`s, or any objects with the same attributes. Of two items with the same time, the later
                one in this list counts as newer.
            now: The current time. Default: the clock of this machine. An item that is a day or more in the future comes
                from a machine with a wrong clock. It is kept, and does not replace another item.

        Returns:
            A row for each item, newest first.

        Raises:
            InvalidArgument: The policy would keep none of the items, or has rules that are only for snapshots.
        """
        rows = self.decide(items, now)
        if rows and not any(row.keep for row in rows):
            raise InvalidArgument(
                "This retention policy would keep none of the existing items, so nothing was deleted. "
                "Raise one of its keep_ arguments, or pin what you need."
            )
        return rows

    def decide(self, items: Iterable[Item], now: datetime | None = None) -> list[RetentionRow]:
        """Return which items to keep, and why, as `plan` does, but even if it is none of them.

        Args:
            items, now: As for `plan`.
        """
        now = now or datetime.now(UTC)
        # Python compares two times of one zone by the wall clock, which is set back in autumn. UTC is not.
        timed = [(item.created_at.astimezone(UTC), item) for item in items][::-1]
        newest_first = sorted(timed, key=lambda pair: pair[0], reverse=True)
        groups: dict[Hashable, list[tuple[int, datetime, Item]]] = {}
        for number, (time, item) in enumerate(newest_first):
            groups.setdefault(self.group_of(item), []).append((number, time, item))
        decided = {number: row for group in groups.values() for number, row in self._decide(group, now).items()}
        return [decided[number] for number in range(len(decided))]

    def group_of(self, item: Item) -> Hashable:
        """Return the key of an item's group. It is equal for all items of a group.

        Args:
            item: The item.
        """
        facts = (getattr(item, each, "") for each in ("series", *self.group_by))
        return tuple(fact if isinstance(fact, str) else tuple(sorted(set(fact))) for fact in facts)

    def _decide(self, group: Sequence[tuple[int, datetime, Item]], now: datetime) -> dict[int, RetentionRow]:
        """Decide about one group, newest first. Returns rows by the numbers of the items."""
        zone = _zone(self.timezone)
        latest = next((time for _, time, _ in group if time < now), None)
        start = now if self.count_from == "now" else latest
        chosen = self._chosen_of_group(group)
        rules = [*self._count_rules(), *(self._window_rules(start.astimezone(zone)) if start else ())]
        rows: dict[int, RetentionRow] = {}
        for number, time, item in group:
            local = time.astimezone(zone)
            if time - now >= _DAY:
                reasons = [f"its time is {_days((time - now) // _DAY)} ahead"]
            else:
                reasons = [
                    *self._fixed_reasons(item),
                    *(reason for reason, numbers in chosen.items() if number in numbers),
                    *(rule.reason for rule in rules if rule.keeps(local)),
                ]
            rows[number] = RetentionRow(item.name, bool(reasons), tuple(reasons))
        if self.group_by and not any(row.keep for row in rows.values()):
            # A machine that no longer makes backups must not lose its last one because other machines continue.
            rows[group[0][0]] = RetentionRow(group[0][2].name, True, ("last of its group",))
        return rows

    def _chosen_of_group(self, group: Sequence[tuple[int, datetime, Item]]) -> dict[str, set[int]]:
        """Return the numbers of the items that rules choose by something else than their position, by the reason."""
        chosen: dict[str, set[int]] = {}
        if self.keep_best or self.keep_every:
            ranks: dict[int, Any] = {number: getattr(item, "rank", None) for number, _, item in group}
            if None in ranks.values():
                raise InvalidArgument("keep_best and keep_every are rules for snapshots only. Nothing was deleted.")
            best_first = sorted(ranks, key=ranks.__getitem__)
            chosen["best"] = set(best_first if self.keep_best < 0 else best_first[: self.keep_best])
        if self.keep_every:
            steps = {number: getattr(item, "step", None) for number, _, item in group}
            reason = f"step is a multiple of {self.keep_every}"
            chosen[reason] = {n for n, step in steps.items() if step is not None and step % self.keep_every == 0}
        if self.keep_interval is not None and any(duration := _parse_duration(self.keep_interval)):
            zone = _zone(self.timezone)
            reason = f"interval {_shown(duration)}"
            chosen[reason] = set()
            kept: datetime | None = None
            for number, time, _ in reversed(group):  # from the oldest, so that later items change nothing
                if kept is None or _before(time.astimezone(zone), duration) >= kept:
                    kept = time
                    chosen[reason].add(number)
        return chosen

    def _fixed_reasons(self, item: Item) -> Iterator[str]:
        yield from item.exempt
        for wanted in self.keep_tags:
            if set(wanted.split(",")) <= set(item.tags):
                yield f"has tags [{', '.join(wanted.split(','))}]"

    def _count_rules(self) -> Iterator[_Rule]:
        for name, count in self._counts():
            if count and name != "keep_best":
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
        names = ["keep_last", *(f"keep_{kind}" for kind in _BUCKETS), "keep_best"]
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
    """Return the time `duration` before `local`: subtract years, months and days on the wall clock, then hours.

    The 31st of a month with 30 days is the 1st of the next one. A wall time that is skipped or repeated gets the offset
    that is valid when it is read as UTC.
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
