"""Watch a repository from outside: report overdue backups, and a repository that grows too fast.

Everything is read from the repository itself. So a missing backup is noticed even if no run failed, because a worker is
off or a deployment is paused. Nothing is remembered between two runs: each run reports everything that is wrong.

Events for automations, in addition to those of `maintenance`:

- `prefect-snapshots.backup.overdue`; the resource is `prefect-snapshots.backups.<name>`: `repository` (URL), `name`,
  `since` (ISO 8601: a backup should have started since then), `backup` and `created_at` (the newest; null if none);
- `prefect-snapshots.backup.proof-overdue`, as described in `integration.backups`;
- `prefect-snapshots.wal.late`; the resource is `prefect-snapshots.wal.<system>`: `repository`, `system`,
  `since` (ISO 8601: a file of the WAL should have been archived since then), `until` (when the last one was; null if
  none), `missing` (the first and last name of each gap), `base_backups` (how many there are);
- `prefect-snapshots.repository.growing`; the resource is `prefect-snapshots.repositories.<URL>`: `repository`, `since`,
  `written` and `limit` (bytes), `by_kind` (`written`, by the kind of data).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from prefect import flow
from pydantic import TypeAdapter, ValidationError

from ..backups import Backup, BackupManager, FailedBackup, RecoveryWindow, last_proven, recovery_windows
from ..documents import Document, Note, code
from ..documents.texts import size_text
from ..errors import InvalidArgument
from ..integration.backups import report_proof_overdue
from ..integration.blocks import current_repository
from ..integration.reporter import Reporter, only_warn
from ..integration.run_context import run_logger
from ..reports.overview import about_repository
from ..repository.repository import Repository
from ..repository.tracking import leaving_out_damage
from .failing import fails_with_one_error
from .openmetrics import Gauge, checked_metrics_file, write_metrics

WATCH = "prefect-snapshots-watch"
"""Key of the report in the Prefect UI."""

LISTED = 50
"""Names of each kind on the page of the repository: the most that a person reads."""
_HOUR = timedelta(hours=1)
_WEEK = timedelta(days=7)
_AS_DURATION: TypeAdapter[timedelta] = TypeAdapter(timedelta)


@dataclass(frozen=True)
class BackupWatch:
    """The result for one name of backups.

    Attributes:
        name: The name of the backups.
        since: A backup should have started since then.
        newest: The backup that started last. None if there is no backup that can be read. Safety backups of restores do
            not count.
    """

    name: str
    since: datetime
    newest: Backup | None

    @property
    def overdue(self) -> bool:
        """Whether no backup has started since then."""
        return self.newest is None or self.newest.created_at < self.since


@dataclass(frozen=True)
class WatchReport:
    """The result of `watch_repository`.

    Attributes:
        backups: The result for each name.
        since: The start of the period in which growth was measured.
        written: Bytes written in this period, by the kind of data.
        limit: The number of bytes that may be written in this period. None: no limit.
        unproven: The names whose last proven backup is too old, or of which no backup was ever proven.
        late: PostgreSQL servers and SQLite databases whose WAL is late, has a gap, or lacks a base backup.
    """

    backups: tuple[BackupWatch, ...]
    since: datetime
    written: Mapping[str, int]
    limit: int | None
    unproven: tuple[str, ...] = ()
    late: tuple[RecoveryWindow, ...] = ()

    @property
    def growing(self) -> bool:
        """Whether more was written than the limit allows."""
        return self.limit is not None and sum(self.written.values()) > self.limit

    @property
    def ok(self) -> bool:
        """Whether no backup, no proof and no WAL is overdue, and the limit is not exceeded."""
        late = self.late or self.unproven or any(each.overdue for each in self.backups)
        return not self.growing and not late


@flow(name="watch-repository")
@fails_with_one_error
def watch_repository(
    backups: Mapping[str, timedelta | str] | None = None,
    margin: timedelta = _HOUR,
    limit: int | None = None,
    within: timedelta = _WEEK,
    timezone: str = "UTC",
    repository: str | None = None,
    proven: Mapping[str, timedelta | str] | None = None,
    metrics_file: str | None = None,
    wal: timedelta | None = None,
) -> WatchReport:
    """Report overdue backups and a repository that grows too fast, and show all of it on one page.

    The run completes in either case.

    Args:
        backups: How often each backup must run, by name: a duration such as `"1d"` or `"PT6H"`, or the cron
            expression of its schedule, such as `"0 2 * * *"`.
        margin: How late a backup may be complete before it is overdue.
        limit: How many bytes may be written `within` the time. Default: no limit.
        within: The period that `limit` applies to.
        timezone: The time zone of the cron expressions.
        repository: A URL or path, or a block such as `prefect-snapshots-repository/team`. Default: the repository that
            `blocks.current_repository` returns.
        proven: How old the last proven backup may be, by name: a duration such as `"40d"`, or the cron expression of
            the schedule of drills.
        metrics_file: Also write the figures to this file, whose name ends with `.prom`, for Prometheus.
        wal: How long ago the WAL of each PostgreSQL server and SQLite database may have been archived. Default: the WAL
            is not watched.

    Raises:
        InvalidArgument: A string is neither a duration nor a cron expression, the time zone is unknown, or the metrics
            file cannot be there.
        RepositoryNotFound: The repository does not exist.

    Example:
        >>> from prefect_snapshots.flows import create_backup, watch_repository
        >>> _ = create_backup(name="shop", directories=["."], repository="memory://watched")
        >>> report = watch_repository({"shop": "1d", "blog": "0 2 * * *"}, repository="memory://watched")
        >>> [each.name for each in report.backups if each.overdue]
        ['blog']
    """
    watched = current_repository(repository)
    file = None if metrics_file is None else checked_metrics_file(metrics_file)
    now = datetime.now(UTC)
    latest = _ago(now, margin, "margin")
    start = _ago(now, within, "within")
    due = {name: _before(latest, every, timezone) for name, every in (backups or {}).items()}
    drilled = {name: _before(latest, every, timezone) for name, every in (proven or {}).items()}
    report = WatchReport(
        backups=tuple(BackupWatch(name, since, _newest(watched, name, now + margin)) for name, since in due.items()),
        since=start,
        written=watched.written_since(start),
        limit=limit,
        unproven=tuple(name for name, since in drilled.items() if _is_unproven(watched, name, since)),
        late=() if wal is None else _late(watched, _ago(now, wal, "wal")),
    )
    if file is not None:
        write_metrics(file, _gauges(watched, report, sorted({*due, *drilled})))
    with only_warn(f"{watched.url} is watched"):
        _report(watched, report)
    reporter = Reporter(watched, "repositories", watched.url)
    link = reporter.leave_page(lambda: _dashboard(watched, report), f"All of {code(watched.url)}")
    run_logger().info("%s: %s.%s", watched.url, "everything is in order" if report.ok else "something is wrong", link)
    return report


def _late(watched: Repository, since: datetime) -> tuple[RecoveryWindow, ...]:
    """The servers whose window does not reach up to a time, and report them."""
    late = []
    for window in recovery_windows(watched):
        if window.ok and window.until is not None and window.until >= since:
            continue
        late.append(window)
        facts = {
            "system": window.system,
            "since": since.isoformat(),
            "until": window.until and window.until.isoformat(),
            "missing": window.missing,
            "base_backups": len(window.base_backups),
        }
        run_logger().warning("The WAL of %s is late, has a gap, or lacks a base backup.", window.system)
        Reporter(watched, "wal", window.system).emit("wal.late", facts)
    return tuple(late)


def _before(latest: datetime, every: timedelta | str, timezone: str) -> datetime:
    """The last time before `latest` at which there was something to do, in UTC."""
    try:
        duration = _AS_DURATION.validate_python(every)
    except ValidationError:
        pass
    else:
        return _ago(latest, duration, repr(every))
    try:
        return next(CronSim(str(every), latest.astimezone(ZoneInfo(timezone)), reverse=True)).astimezone(UTC)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidArgument(f"{timezone!r} is not a time zone, such as UTC or Europe/Berlin.") from None
    except CronSimError as error:
        raise InvalidArgument(
            f'{every!r} is neither a duration, such as "1d" or "PT6H", nor a cron, such as "0 2 * * *": {error}.'
        ) from None


def _ago(moment: datetime, duration: timedelta, what: str) -> datetime:
    try:
        if duration >= timedelta():
            return moment - duration
    except OverflowError:
        pass
    raise InvalidArgument(f"{what} is negative, or longer than the calendar: {duration}. Pass a duration such as '7d'.")


def _newest(repository: Repository, name: str, end: datetime) -> Backup | None:
    """The newest backup that can be read. What says that it is from after `end` was made by a clock that is wrong."""
    backups: list[Backup] = []
    with leaving_out_damage(f"The history of the backups of {name}"):  # then none of them counts, and one is overdue
        backups = BackupManager(repository, name=name).list_backups()
    sound = (backup for backup in backups if backup.regular and backup.created_at <= end)
    return max(sound, key=lambda backup: backup.created_at, default=None)


def _is_unproven(repository: Repository, name: str, since: datetime) -> bool:
    with leaving_out_damage(f"The history of the backups of {name}"):
        return report_proof_overdue(BackupManager(repository, name=name), since)
    return True


def _gauges(watched: Repository, report: WatchReport, names: Iterable[str]) -> Iterator[Gauge]:
    where = {"repository": watched.url}
    overdue = {each.name: each.overdue for each in report.backups}
    for name in names:
        backups, failures = list[Backup](), list[FailedBackup]()
        with leaving_out_damage(f"The history of the backups of {name}"):
            manager = BackupManager(watched, name=name)
            backups, failures = manager.list_backups(), manager.list_failed_backups()
        sound = max((each for each in backups if each.regular), key=lambda each: each.created_at, default=None)
        proven = last_proven(backups)
        figures: dict[str, tuple[str, float | None]] = {
            "backup_last_timestamp_seconds": (
                "Start of the latest backup.",
                sound.created_at.timestamp() if sound else None,
            ),
            "backup_size_bytes": ("Size of the latest backup.", sound.size if sound else None),
            "backup_duration_seconds": ("Duration of the latest backup.", sound.duration if sound else None),
            "backup_count": ("Number of backups.", len(backups)),
            "backup_overdue": ("1 if a backup is overdue.", int(overdue[name]) if name in overdue else None),
            "backup_proven_timestamp_seconds": (
                "Start of the last backup that was proven.",
                proven.created_at.timestamp() if proven else None,
            ),
            "backup_failed_timestamp_seconds": (
                "Time of the last failed backup.",
                failures[0].failed_at.timestamp() if failures else None,
            ),
        }
        for figure, (about, value) in figures.items():
            if value is not None:
                yield Gauge(figure, about, {**where, "name": name}, value)
    for kind, size in report.written.items():
        yield Gauge("written_bytes", "Bytes written in the watched period.", {**where, "kind": kind}, size)
    yield Gauge("watched_timestamp_seconds", "Time of these figures.", where, datetime.now(UTC).timestamp())


def _found(window: RecoveryWindow) -> str:
    found = f"until {window.until:%F %T} UTC" if window.until else "none"
    gaps = f", with gaps: {window.missing}" if window.missing else ""
    return f"{found}{gaps}{'' if window.base_backups else ', no base backup'}"


# --- what is said -----------------------------------------------------------------------------------------------------


def _report(watched: Repository, report: WatchReport) -> None:
    rows, reporter = [], Reporter(watched, "repositories", watched.url)
    for each in report.backups:
        newest, since = each.newest, f"{each.since:%F %T} UTC"
        found = f"{newest.name}, {newest.created_at:%F %T} UTC" if newest else "none"
        rows.append(_row(f"newest backup of {each.name}", found, f"since {since}", not each.overdue))
        if each.overdue:
            run_logger().warning("Backup %r is overdue since %s. The newest is %s.", each.name, since, found)
            facts = {
                "name": each.name,
                "since": each.since.isoformat(),
                "backup": newest and newest.name,
                "created_at": newest and newest.created_at.isoformat(),
            }
            Reporter(watched, "backups", each.name).emit("backup.overdue", facts)
    rows += [_row(f"last proven backup of {name}", "none, or too old", "", False) for name in report.unproven]
    rows += [_row(f"WAL of {each.system}", _found(each), "", False) for each in report.late]
    written = sum(report.written.values())
    kinds = ", ".join(f"{kind} {size_text(size)}" for kind, size in report.written.items())
    found = size_text(written) + (f" ({kinds})" if kinds else "")
    expected = f"at most {size_text(report.limit)}" if report.limit is not None else "any"
    since = f"{report.since:%F %T} UTC"
    rows.append(_row(f"written since {since}", found, expected, not report.growing))
    if report.growing:
        run_logger().warning("%s grows too fast: %s since %s, not %s.", watched.url, found, since, expected)
        sizes = {"written": written, "limit": report.limit, "by_kind": dict(report.written)}
        reporter.emit("repository.growing", {"since": report.since.isoformat(), **sizes})
    verdict = "everything is in order" if report.ok else "something is **wrong**"
    reporter.leave_table(rows, f"{verdict}.", WATCH)


def _dashboard(watched: Repository, report: WatchReport) -> Document:
    """Describe the whole repository, beginning with what is wrong."""
    overdue = [
        f"The backups of {each.name} are overdue since {each.since:%F %T} UTC."
        for each in report.backups
        if each.overdue
    ]
    unproven = [f"No recent backup of {name} is proven: run a drill." for name in report.unproven]
    written = size_text(sum(report.written.values()))
    growing = [f"The repository grows too fast: {written} since {report.since:%F %T} UTC."] if report.growing else []
    blocks = about_repository(watched, LISTED)
    late = [f"The WAL of {each.system} is not in order: {_found(each)}." for each in report.late]
    return Document(watched.url, (*map(Note, [*overdue, *unproven, *late, *growing]), *blocks))


def _row(what: str, found: str, expected: str, ok: bool) -> dict[str, str]:
    return {"what": what, "found": found, "expected": expected, "ok": "yes" if ok else "NO"}
