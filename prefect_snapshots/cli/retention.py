"""The options and answers of `cleanup`, which are the same for every kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from ..errors import InvalidArgument
from .output import Answer, columns, count_text, size_text, table

if TYPE_CHECKING:
    from ..retention import CleanupReport, RetentionPolicy


@dataclass(frozen=True)
class RetentionOptions:
    """What to keep. If you pass any of these, they are the whole policy.

    Args:
        keep_last: Keep this many of the newest. -1 keeps all, here and in the other counts.
        keep_hourly: Keep the newest of each of this many hours.
        keep_daily: Keep the newest of each of this many days.
        keep_weekly: Keep the newest of each of this many ISO weeks.
        keep_monthly: Keep the newest of each of this many months.
        keep_yearly: Keep the newest of each of this many years.
        keep_within: Keep everything within this period before the newest, such as 2y5m7d3h. See --count-from.
        keep_hourly_within: Keep the newest of every hour within this period.
        keep_daily_within: Keep the newest of every day within this period.
        keep_weekly_within: Keep the newest of every week within this period.
        keep_monthly_within: Keep the newest of every month within this period.
        keep_yearly_within: Keep the newest of every year within this period.
        keep_interval: Keep the oldest, and each one that is at least this period younger than the one kept before.
        keep_tag: Keep everything with this tag. Repeat it for several.
        timezone: The time zone of the hours, days, weeks, months and years. Default: UTC.
        count_from: Where periods begin: at the newest item, or now. Default: newest.
        group_by: Apply the policy to each host, sources or tags on their own. Only backups have hosts and sources.
            Repeat it for several.
    """

    keep_last: int | None = None
    keep_hourly: int | None = None
    keep_daily: int | None = None
    keep_weekly: int | None = None
    keep_monthly: int | None = None
    keep_yearly: int | None = None
    keep_within: str | None = None
    keep_hourly_within: str | None = None
    keep_daily_within: str | None = None
    keep_weekly_within: str | None = None
    keep_monthly_within: str | None = None
    keep_yearly_within: str | None = None
    keep_interval: str | None = None
    keep_tag: list[str] = field(default_factory=list)
    timezone: str | None = None
    count_from: Literal["newest", "now"] | None = None
    group_by: list[Literal["host", "sources", "tags"]] = field(default_factory=list)


@dataclass(frozen=True)
class SnapshotRetentionOptions(RetentionOptions):
    """The same for snapshots.

    Args:
        keep_best: Keep this many of the best, by --rank-by.
        keep_every: Keep every snapshot whose metadata has a step that is a multiple of this number.
    """

    keep_best: int | None = None
    keep_every: int | None = None


_HOW = {"timezone", "count_from", "group_by"}
"""Options that do not say what to keep: with these alone, the policy is still the configured one."""


NO_RETENTION = RetentionOptions()
NO_SNAPSHOT_RETENTION = SnapshotRetentionOptions()

Retention = Annotated[RetentionOptions, Parameter(name="*")]
SnapshotRetention = Annotated[SnapshotRetentionOptions, Parameter(name="*")]


def policy_of(options: RetentionOptions | None, configured: Mapping[str, Any]) -> RetentionPolicy:
    """Return the policy from the options, or else the configured one.

    Args:
        options: The options that the user passed.
        configured: The policy in pyproject.toml.

    Raises:
        InvalidArgument: The policy in pyproject.toml is invalid.
    """
    from ..retention import RetentionPolicy

    given = _given(options)
    if set(given) - _HOW:
        return RetentionPolicy(**{"keep_last": 0, "keep_weekly_within": None, **given})
    try:
        policy = RetentionPolicy(**configured)
    except InvalidArgument as error:
        raise InvalidArgument(f"The retention in pyproject.toml is not valid: {error}") from None
    return dataclasses.replace(policy, **given)


def required_policy(options: RetentionOptions) -> RetentionPolicy:
    """Return the policy from the options.

    Raises:
        InvalidArgument: No option was passed, and this kind has no default policy.
    """
    if not set(_given(options)) - _HOW:
        raise InvalidArgument("Say what to keep, such as --keep-last 10 or --keep-daily 7. Nothing was deleted.")
    return policy_of(options, {})


def cleaned(report: CleanupReport, what: str) -> Answer:
    """Return the answer of a cleanup.

    Args:
        report: The report of the cleanup.
        what: The kind of the rows, such as "backup".
    """
    would = "would be " if report.dry_run else ""
    remark = f"{count_text(len(report.deleted), what)} {would}deleted"
    if report.freed or report.freed_later:
        freed, later = size_text(report.freed), size_text(report.freed_later)
        remark += f"; {freed} {would}freed now, {later} later"
    elif report.deleted and not report.dry_run:
        remark += ". Run `prefect-snapshots prune` to reclaim their space"
    return Answer(dataclasses.asdict(report), _view, f"{remark}.")


def _given(options: RetentionOptions | None) -> dict[str, Any]:
    given = dataclasses.asdict(options) if options else {}
    given = {key: value for key, value in given.items() if value not in (None, [])}
    if "keep_tag" in given:
        given["keep_tags"] = given.pop("keep_tag")
    return given


def _view(document: dict[str, Any]) -> Iterator[str]:
    rows = [(row["name"], "keep" if row["keep"] else "delete", ", ".join(row["reasons"])) for row in document["rows"]]
    yield from table(columns("name", "", "reasons↓"), rows)
