"""Flows that check and prune a repository and delete old task results, with reports in Prefect.

Prune is safe while writers or another prune run, so no flow here needs a lock or a concurrency limit.

Events for automations have the resource `prefect-snapshots.repositories.<URL>` and are related to the run. All have
`repository` (URL):

- `prefect-snapshots.repository.checked` and `prefect-snapshots.repository.damaged`: `read_data`, `versions`,
  `bytes_read`, `count` (of problems), `problems` (strings, the first of them), `hits` (the versions that these damage);
- `prefect-snapshots.repository.locked`: `extended` (a number of objects);
- `prefect-snapshots.repository.pruned`: `freed` and `freed_later` (bytes), `packs_deleted`;
- `prefect-snapshots.results.expired`: `name`, `expired` and `kept` (numbers), `size` (bytes of what expired), `freed`
  and `freed_later` (bytes; null if nothing was pruned).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from prefect import flow

from ..documents import code
from ..documents.texts import count_text, size_text
from ..errors import IntegrityError, InvalidArgument
from ..integration.blocks import current_repository
from ..integration.reporter import Reporter, only_warn
from ..integration.run_context import run_logger
from ..repository.maintenance import CheckReport, PruneReport
from ..repository.repository import Repository
from ..results import Result, ResultLog
from .failing import fails_with_one_error

CHECK = "prefect-snapshots-check"
PRUNE = "prefect-snapshots-prune"
LOCKS = "prefect-snapshots-locks"
"""Keys of the reports in the Prefect UI."""

LISTED = 20
"""Problems in an event, and results in a report: enough to see a pattern, and far below the limit of an event."""


@flow(name="check-repository")
@fails_with_one_error
def check_repository(repository: str | None = None, read_data: bool = False) -> CheckReport:
    """Verify that all committed data exists. The run fails if data is missing or damaged.

    Args:
        repository: A URL or path, or a block such as `prefect-snapshots-repository/team`. Default: the repository that
            `blocks.current_repository` returns.
        read_data: Also read and verify every byte.

    Raises:
        IntegrityError: Data is damaged. The report lists every problem and the versions that it affects.
    """
    checked = current_repository(repository)
    with _reporter(checked).progress_bar("Check", unit="step") as progress:
        report = checked.check(read_data, progress=progress)
    with only_warn(f"{checked.url} is checked"):
        _emit_checked(checked, report, read_data)
        _reporter(checked).leave_table(
            [{"where": one.path, "what": one.what, "hits": ", ".join(one.versions)} for one in report.problems],
            f"{count_text(len(report.problems), 'problem')}, {count_text(report.versions, 'version')} in "
            f"{count_text(report.streams, 'stream')}, {size_text(report.bytes_read)} read.",
            CHECK,
        )
    for note in report.notes:
        run_logger().warning("%s", note)
    if report.problems:
        first = report.problems[0]
        raise IntegrityError(
            f"{checked.url} has {count_text(len(report.problems), 'problem')}. The first is in {first.path}: "
            f"{first.what}. Stop all writers, then run `prefect-snapshots repair`."
        )
    return report


@flow(name="prune-repository")
@fails_with_one_error
def prune_repository(repository: str | None = None, dry_run: bool = False) -> PruneReport:
    """Reclaim the space of data that no version uses. The credentials must allow deletes.

    Args:
        repository: A URL or path, or a block such as `prefect-snapshots-repository/team`. Default: the repository that
            `blocks.current_repository` returns.
        dry_run: Only report what would be freed.

    Raises:
        IntegrityError: Data is damaged. Nothing was deleted.
    """
    pruned = current_repository(repository)
    with _reporter(pruned).progress_bar("Prune", unit="step") as progress:
        report = pruned.prune(dry_run, progress=progress)
    freed, waiting = size_text(report.bytes_freed), size_text(report.bytes_waiting)
    would = "would be " if dry_run else ""
    run_logger().info("%s of %s %sfreed, %s waiting.", freed, pruned.url, would, waiting)
    if report.packs_not_rewritten:
        run_logger().warning(
            "%s: %s with some garbage stayed, because the disk is too full to free them. Free some other space, or "
            "delete more versions, and prune again.",
            pruned.url,
            count_text(report.packs_not_rewritten, "pack"),
        )
    with only_warn(f"{pruned.url} is pruned"):
        if not dry_run:
            sizes = {"freed": report.bytes_freed, "freed_later": report.bytes_waiting}
            _reporter(pruned).emit("repository.pruned", {**sizes, "packs_deleted": report.packs_deleted})
        copied = size_text(report.bytes_copied)
        _reporter(pruned).leave_table(
            [
                {"what": "packs deleted", "number": report.packs_deleted, "bytes": freed},
                {"what": "packs copied", "number": report.packs_rewritten, "bytes": copied},
                {"what": "packs too young to delete", "number": report.packs_waiting, "bytes": waiting},
            ],
            f"{freed} {would}freed.",
            PRUNE,
        )
    return report


@flow(name="extend-locks")
@fails_with_one_error
def extend_locks(repository: str | None = None) -> int:
    """Extend the Object Lock of everything in a bucket, so that it never ends while the data is needed.

    Args:
        repository: A URL or path, or a block such as `prefect-snapshots-repository/team`. Default: the repository that
            `blocks.current_repository` returns. It needs the storage option `object_lock_days`, which the block has a
            field for.

    Returns:
        The number of objects that are locked for longer now.
    """
    extended = current_repository(repository)
    count = extended.extend_locks()
    told = f"The locks of {count_text(count, 'object')} were extended."
    run_logger().info("%s: %s", extended.url, told)
    with only_warn(f"The locks of {extended.url} are extended"):
        _reporter(extended).emit("repository.locked", {"extended": count})
        _reporter(extended).leave_table([{"what": "objects with a longer lock", "number": count}], told, LOCKS)
    return count


@dataclass(frozen=True)
class ExpiryReport:
    """What `expire_results` deleted, or with `dry_run` would delete.

    Attributes:
        expired: The deleted results, sorted by key.
        kept: How many results were kept.
        pruned: What the prune freed. None if nothing was pruned.
    """

    expired: tuple[Result, ...]
    kept: int
    dry_run: bool
    pruned: PruneReport | None = None

    @property
    def size(self) -> int:
        """Total size of the deleted results in bytes. Data that they share with others is not freed."""
        return sum(result.size for result in self.expired)


@flow(name="expire-results")
@fails_with_one_error
def expire_results(
    older_than: timedelta | None = None,
    name: str = "default",
    keys: str | None = None,
    dry_run: bool = False,
    prune: bool = True,
    by: Literal["written", "read"] = "written",
    max_size: int | None = None,
    max_count: int | None = None,
    repository: str | None = None,
) -> ExpiryReport:
    """Delete old persisted task results. A task whose result was deleted computes it again on its next run.

    Args:
        older_than: Delete the results that were written longer ago than this. Default: all ages are kept.
        name: The name of the results in the repository: the field `results` of the block used as `result_storage`.
        keys: The name of the keys, if a block in the same repository is used as `key_storage`.
        dry_run: Only report what would be deleted.
        prune: Also reclaim the space. The credentials must allow deletes.
        by: "written", or "read": also keep the results that were read since then. Turn on "Keep Read Results" in the
            block. A result is then deleted between one and two times `older_than` after its last read.
        max_size: Of the rest, delete the oldest until all together have at most this many bytes. With "Keep Read
            Results" in the block, those that were read longest ago go first. Default: no limit.
        max_count: Of the rest, delete the oldest until there are at most this many. Default: no limit.
        repository: A URL or path, or a block such as `prefect-snapshots-repository/team`. Default: the repository that
            `blocks.current_repository` returns.

    Raises:
        InvalidArgument: Neither an age nor a limit was given.
    """
    if older_than is None and max_size is None and max_count is None:
        raise InvalidArgument("Nothing was deleted: pass older_than, max_size or max_count.")
    place = current_repository(repository)
    log = ResultLog(place, name)

    def delete_keys(doomed: Sequence[Result]) -> None:
        """First: a key without its result fails the task that finds it."""
        if keys is not None:
            ResultLog(place, keys).delete(result.key for result in doomed)

    found: list[Result] = []
    if older_than is not None:
        end = datetime.now(UTC) - older_than
        found = log.older_than(end, by=by)
        if not dry_run:
            delete_keys(found)
            gone = set(log.expire(end, by=by))
            found = [result for result in found if result.key in gone]
    if max_size is not None or max_count is not None:
        more = log.evict(max_size=max_size, max_count=max_count, dry_run=dry_run, before=delete_keys)
        found = sorted({*found, *more}, key=lambda result: result.key)
    kept = len(log.keys()) - len(found) * dry_run
    pruned = place.prune() if prune and not dry_run and place.exists() else None
    report = ExpiryReport(tuple(found), kept, dry_run, pruned)
    with only_warn(f"The results of {place.url} are deleted"):
        _report_expired(place, name, report)
    return report


# --- what is said -----------------------------------------------------------------------------------------------------


def _emit_checked(checked: Repository, report: CheckReport, read_data: bool) -> None:
    first = report.problems[:LISTED]
    hits = dict.fromkeys(version for problem in first for version in problem.versions)
    facts = {
        "read_data": read_data,
        "versions": report.versions,
        "bytes_read": report.bytes_read,
        "count": len(report.problems),
        "problems": [f"{problem.path}: {problem.what}" for problem in first],
        "hits": list(hits)[:LISTED],
    }
    _reporter(checked).emit("repository.checked" if report.ok else "repository.damaged", facts)


def _report_expired(place: Repository, name: str, report: ExpiryReport) -> None:
    pruned, reporter = report.pruned, Reporter(place, "results", name)
    would = "would be deleted" if report.dry_run else "deleted"
    told = f"{len(report.expired):,} {would}, {size_text(report.size)}; {report.kept:,} kept"
    run_logger().info("Results %r of %s: %s.", name, place.url, told)
    if not report.dry_run:
        counts = {"name": name, "expired": len(report.expired), "kept": report.kept, "size": report.size}
        freed = {"freed": pruned and pruned.bytes_freed, "freed_later": pruned and pruned.bytes_waiting}
        reporter.emit("results.expired", {**counts, **freed})
    largest = sorted(report.expired, key=lambda result: result.size, reverse=True)[:LISTED]
    reporter.leave_table(
        [
            {"key": result.key, "written (UTC)": f"{result.written_at:%F %T}", "size": size_text(result.size)}
            for result in largest
        ],
        f"results {code(name)}: {told}."
        + (f" {size_text(pruned.bytes_freed)} freed." if pruned else "")
        + (f" The {LISTED} largest:" if len(report.expired) > LISTED else ""),
    )


def _reporter(repository: Repository) -> Reporter:
    return Reporter(repository, "repositories", repository.url)
