"""The manager of checkpoints: what it lists, loads, compares, pins and deletes, and what the counts of a run say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import Storage

from prefect_snapshots import Repository, RetentionPolicy
from prefect_snapshots.checkpoints import (
    CheckpointDiff,
    CheckpointManager,
    ItemBatch,
    RunCounts,
    Snapper,
    counts_of,
    make_job,
    open_log,
    plan,
    run_batch,
)
from prefect_snapshots.errors import (
    CheckpointNotFound,
    InvalidArgument,
    Pinned,
    RepositoryNotFound,
    TooManyFailures,
    UsageError,
)
from prefect_snapshots.repository.commits import Draft

LAST_ONE = RetentionPolicy(keep_last=1, keep_weekly_within=None)


@pytest.fixture
def repository(local_storage: Storage) -> Repository:
    return Repository(local_storage.url)


def run(items: Any, function: Callable[[Any], Any], repository: Repository, **options: Any) -> Snapper[Any, Any]:
    options = {"name": "work", "function_version": 1, "batch_size": 3, "max_retries": 0, **options}
    snapper: Snapper[Any, Any] = Snapper(items, function, repository=repository, **options)
    snapper.start()
    return snapper


def unless(*failing: int) -> Callable[[int], int]:
    def process(item: int) -> int:
        if item in failing:
            raise ValueError(item)
        return 10 * item

    return process


# --- the verbs -----------------------------------------------------------------------------------------------------


def test_the_latest_version_is_meant_unless_a_fingerprint_begins_another(repository: Repository) -> None:
    old = run([1, 2], unless(), repository)
    new = run([1, 2, 3], abs, repository, function_version=2)
    manager = CheckpointManager(repository)
    assert [info.fingerprint for info in manager.list_checkpoints()] == [new.fingerprint, old.fingerprint]
    assert manager.get_checkpoint("work").fingerprint == new.fingerprint
    assert manager.load_checkpoint("work") == [1, 2, 3]
    assert manager.load_checkpoint("work", old.fingerprint[:8]) == [10, 20]
    with pytest.raises(CheckpointNotFound, match="has no checkpoints of 'work' with the fingerprint"):
        manager.load_checkpoint("work", "")
    with pytest.raises(CheckpointNotFound, match=r"no checkpoints of 'works'\. Did you mean 'work'\?"):
        manager.load_checkpoint("works")


def test_a_comparison_counts_items(repository: Repository) -> None:
    old = run([0, 1, 2, 3, 4], unless(4), repository, skip_item_errors=True)
    new = run([0, 1, 2, 4, 5, 6], abs, repository, function_version=2)
    expected = CheckpointDiff(old.fingerprint, new.fingerprint, unchanged=1, changed=2, only_old=1, only_new=3)
    assert CheckpointManager(repository).diff("work", old.fingerprint) == expected


def test_why_says_what_changed(repository: Repository, caplog: pytest.LogCaptureFixture) -> None:
    def made(factor: int) -> Callable[[int], int]:
        return lambda x: factor * x

    manager = CheckpointManager(repository)
    for function in (made(2), made(2), made(3)):
        run([1, 2], function, repository, function_version=None)
    found = manager.why("work")
    [name] = found.changed
    assert name.endswith("<lambda>: factor")
    assert (found.added, found.removed) == ((), ())
    assert found.old != found.new == manager.get_checkpoint("work").fingerprint
    assert manager.why("work", found.new[:8], found.old[:8] if found.old else None).changed == found.changed
    [warning] = [record.getMessage() for record in caplog.records if "has changed" in record.getMessage()]
    assert "<lambda>: factor). All items are computed again" in warning
    run([1], abs, repository, name="single", function_version=None)
    single = manager.why("single")
    assert (single.old, single.unchanged) == (None, ("builtins.abs",))


@pytest.mark.parametrize("forged", [5, [1], {"a": 1}, {1: "a"}])
def test_forged_parts_are_ignored(repository: Repository, forged: Any) -> None:
    job = make_job(repository, abs, name="work")
    log = open_log(job)
    body = {"segment": "0" * 32, "fingerprint": job.fingerprint, "function": "abs", "parts": forged}
    log.commit(lambda: Draft("start", body))
    assert CheckpointManager(repository).why("work").unchanged == ()


def test_a_pinned_name_is_kept_by_retention_and_deleted_by_force_only(repository: Repository) -> None:
    old = run([1], unless(), repository)
    run([1], unless(), repository, function_version=2)
    run([1], unless(), repository, name="other")
    manager = CheckpointManager(repository)
    manager.pin("work")
    manager.pin("work")
    assert [info.pinned for info in manager.list_checkpoints()] == [False, True, True]
    report = manager.cleanup(LAST_ONE)
    assert report.deleted == ()
    assert {row.name: row.reasons for row in report.rows}[f"work@{old.fingerprint}"] == ("pinned",)
    with pytest.raises(Pinned, match="'work' is pinned"):
        manager.delete_checkpoint("work", old.fingerprint)
    manager.unpin("work")
    assert manager.cleanup(LAST_ONE, True).deleted == (f"work@{old.fingerprint}",)
    assert len(manager.list_checkpoints("work")) == 2
    assert manager.cleanup(LAST_ONE).deleted == (f"work@{old.fingerprint}",)
    manager.pin("work")
    assert manager.delete_checkpoint("work", force=True) == 1
    run([1], unless(), repository)
    assert not manager.get_checkpoint("work").pinned


def test_nothing_is_created_where_there_is_no_repository(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path / "none")
    assert not manager.list_checkpoints("work")
    assert manager.cleanup(LAST_ONE, name="work").rows == manager.cleanup(LAST_ONE, True, name="work").rows == ()
    for call in (manager.pin, manager.unpin, manager.load_checkpoint, manager.report, manager.get_checkpoint):
        with pytest.raises(RepositoryNotFound):
            call("work")
    assert not (tmp_path / "none").exists()


def test_a_dry_run_answers_in_a_repository_that_is_only_read(local_storage: Storage) -> None:
    run([1], unless(), Repository(local_storage.url))
    run([1], unless(), Repository(local_storage.url), function_version=2)
    manager = CheckpointManager(Repository(local_storage.url, read_only=True))
    assert len(manager.cleanup(LAST_ONE, dry_run=True).deleted) == 1


def test_what_makes_no_sense_is_refused() -> None:
    manager = CheckpointManager("memory://refused")
    with pytest.raises(UsageError, match="needs a policy"):
        manager.cleanup()
    for call in (manager.pin, manager.delete_checkpoint, manager.load_checkpoint):
        with pytest.raises(InvalidArgument, match="is empty"):
            call("")


# --- the counts of a run -------------------------------------------------------------------------------------------


def adds_up(counts: RunCounts) -> bool:
    parts = (counts.done, counts.done_before, counts.failed, counts.failed_before, counts.repeated, counts.skipped)
    return min(parts) >= 0 and sum(parts) == counts.total


def test_every_item_is_in_one_count(repository: Repository) -> None:
    first = run([0, 1, 2, 3, 3], unless(2), repository, skip_item_errors=True)
    assert first.counts == RunCounts(total=5, done=3, failed=1, repeated=1)
    again = run([0, 1, 2, 3, 4, 5, 4], unless(2, 5), repository, skip_item_errors=True)
    assert again.counts == RunCounts(total=7, done=1, done_before=3, failed=1, failed_before=1, repeated=1)
    assert again.counts.missing == 2
    assert str(again.counts) == (
        "7 items: 1 done now, 3 done before, 1 identical to another one, 1 failed now, 1 failed before and not retried."
    )
    retried = run([2, 5], unless(), repository, skip_item_errors=True, retry_failed_items=True)
    assert retried.counts == RunCounts(total=2, done=2)
    assert str(RunCounts(1, done_before=1)) == "1 item: 1 done before."


def test_a_run_that_stops_says_what_it_did_not_reach(repository: Repository) -> None:
    snapper: Snapper[int, int] = Snapper(
        [0, 1, 2, 3, 4], unless(2), repository=repository, name="work", batch_size=5, max_retries=0
    )
    with pytest.raises(ValueError, match="It was raised by"):
        snapper.start()
    assert (snapper.counts.done, snapper.counts.failed) == (2, 1)
    assert adds_up(snapper.counts)


def test_too_many_failures_are_counted(repository: Repository) -> None:
    snapper: Snapper[int, int] = Snapper(
        range(9),
        unless(*range(9)),
        repository=repository,
        name="work",
        batch_size=5,
        max_retries=0,
        skip_item_errors=True,
        max_consecutive_exceptions=3,
    )
    with pytest.raises(TooManyFailures):
        snapper.start()
    assert snapper.counts.failed == 3
    assert adds_up(snapper.counts)


def test_a_generator_that_fails_is_counted_as_far_as_it_came(repository: Repository) -> None:
    def items() -> Iterator[int]:
        yield from range(4)
        raise OSError("the file is gone")

    snapper: Snapper[int, int] = Snapper(items(), unless(), repository=repository, name="work")
    with pytest.raises(OSError, match="the file is gone"):
        snapper.start()
    assert snapper.counts == RunCounts(total=4, done=4)


@pytest.mark.parametrize("refresh", [False, True])
def test_the_counts_of_batches_and_of_those_that_failed_add_up(repository: Repository, refresh: bool) -> None:
    run([0, 7], unless(7), repository, skip_item_errors=True)
    job = make_job(repository, unless(3), name="work", function_version=1, batch_size=3, max_retries=0, refresh=refresh)
    planned = plan(job, [*range(8), 1])
    batches: list[ItemBatch] = list(planned)
    before = (0, 0) if refresh else (1, 1)
    assert (planned.counts.done_before, planned.counts.failed_before, planned.counts.repeated) == (*before, 1)
    counts = planned.counts
    for batch in batches:
        try:
            found = run_batch(job, batch)
        except ValueError:
            found = counts_of(job, batch)
            assert found.failed == 1
        counts = counts.after(found)
        assert adds_up(found)
    assert adds_up(counts)
    assert counts.failed == 1
    [stopped] = [batch for batch in batches if 3 in batch.items]
    assert counts.skipped == len(stopped) - 1 - list(stopped.items).index(3)
