"""Save and load in a run: save durably, then report, and undo a save if the user's transaction is rolled back.

Only the process that opened a transaction rolls it back. What a worker in another process saved within it stays, and if
the process is killed, everything stays.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import secrets
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Literal

from prefect.transactions import BaseTransaction

from ...errors import SnapshotExists, SnapshotNotFound
from ...repository.catalog import Event, token_from
from ...repository.progress import watched
from ...repository.repository import Repository
from ...retention import RetentionPolicy
from ...snapshots.changes import saved_with, undo
from ...snapshots.manager import SnapshotManager
from ...snapshots.pytrees import PyTreeSnapshotManager
from ...snapshots.requests import SaveRequest
from ...values import WHOLE, Loading
from ..run_context import run_logger, user_transaction
from .report import long_work, progress_of_save, report_rolled_back, report_saved


@functools.lru_cache(maxsize=64)
def manager_of(
    repository: Repository,
    name: str,
    rank_by: str | None = None,
    mode: Literal["max", "min"] = "max",
    max_snapshots: int | None = None,
    retention: RetentionPolicy | None = None,
    all_processes: bool = False,
) -> SnapshotManager[Any]:
    """Return the manager of a name. It is cached so that events are read only once.

    Args:
        all_processes: Whether all processes of a run of JAX save together.
    """
    kind = PyTreeSnapshotManager if all_processes else SnapshotManager
    return kind(repository, name=name, rank_by=rank_by, mode=mode, max_snapshots=max_snapshots, retention=retention)


def save(manager: SnapshotManager[Any], data: Any, request: SaveRequest) -> str | None:
    """Save a value, report it, and let the transaction of the user undo it.

    If an earlier save had the token of the request, nothing is saved again, unless that snapshot was deleted since.
    """
    request, known = _known(manager, request)
    if known is not None:
        return known
    with long_work(manager, "Save"):
        saved = manager.save(data, request)
    if saved is None:
        _say_not_admitted(manager)
        return None
    record = manager.records.by_id.get(saved)
    if record is not None:  # else another process has evicted it already
        _undo_with_transaction(manager, lambda: record.event)
        report_saved(manager, record)
    return saved


def save_in_background(manager: SnapshotManager[Any], data: Any, request: SaveRequest) -> None:
    """Copy a value and return. The copy is saved while the run continues.

    The next save of this name waits for this one, so that there is at most one copy, and raises its error. So do loads
    of this name and `wait_for_snapshots`. An error is also logged immediately. Python does not exit before the save.
    """
    wait_for_snapshots(manager.repository, manager.name)
    request, known = _known(manager, request)
    if known is not None:
        return
    token = request.token or secrets.token_bytes(16)
    with contextlib.ExitStack() as stack:
        with watched(stack.enter_context(progress_of_save(manager))):
            future = manager.start_save(data, dataclasses.replace(request, token=token))
        work = stack.pop_all()
    reported = _in_background[manager] = Future[None]()
    context = contextvars.copy_context()

    def report(_: Future[str | None]) -> None:
        try:
            context.run(work.close)
            context.run(_say_outcome, manager, future)
        finally:
            reported.set_result(None)

    future.add_done_callback(report)
    _undo_with_transaction(manager, lambda: saved_with(manager, token) if future.result() else None)


def wait_for_snapshots(repository: Repository | None = None, name: str | None = None) -> None:
    """Wait for the background saves of this process. Call it last in a flow, so that the run fails if a save failed.

    Args:
        repository: Wait only for saves into this repository. Default: all repositories.
        name: Wait only for saves under this name. Default: all names.

    Raises:
        SnapshotsError: A save failed.
    """
    for manager, reported in list(_in_background.items()):
        if repository in (None, manager.repository) and name in (None, manager.name):
            reported.result()
            _in_background.pop(manager, None)
            manager.wait()


def load(
    repository: Repository,
    name: str,
    snapshot_id: str | None = None,
    loading: Loading = WHOLE,
) -> Any:
    """Load the value of a snapshot, or of the latest one.

    Raises:
        SnapshotNotFound: There is no such snapshot. The message names similar ids, or names.
    """
    wait_for_snapshots(repository, name)
    manager = manager_of(repository, name)
    records = manager.current_records()
    records.refuse_empty()
    record = next(reversed(records.by_id.values())) if snapshot_id is None else records.get(snapshot_id)
    with long_work(manager, "Load"):
        return manager.snapshot_of(record, loading=loading).data


_in_background: dict[SnapshotManager[Any], Future[None]] = {}
"""Managers with a save in the background, each with a future that is done when the save is reported, too."""


def check_free(manager: SnapshotManager[Any], snapshot_id: str, token: str | None) -> None:
    """Check that a save with this id can succeed, unless an earlier attempt with this token made it.

    Raises:
        SnapshotExists: There is a snapshot with this id.
    """
    record = manager.current_records().by_id.get(snapshot_id)
    if record is None:
        return
    given = token_from(token)
    earlier = saved_with(manager, given) if given is not None else None
    if earlier is None or record.event is not earlier:
        raise SnapshotExists(
            f"{manager.name!r} already has a snapshot {snapshot_id!r}. The function was not called. Choose another id."
        )


def _known(manager: SnapshotManager[Any], request: SaveRequest) -> tuple[SaveRequest, str | None]:
    """Return the request to carry out, and the id that an earlier attempt saved if nothing is left to do."""
    # Where several processes save together, each has a token, and only that of the process that commits is stored.
    alone = not isinstance(manager, PyTreeSnapshotManager)
    earlier = saved_with(manager, request.token) if alone and request.token is not None else None
    if earlier is None:
        return request, None
    record = manager.records.by_id.get(earlier.body["id"])
    # If that snapshot was rolled back, evicted or deleted, its token is used up, and the next save needs a new one.
    again = dataclasses.replace(request, token=None)
    return again, record.id if record is not None and record.event is earlier else None


def _undo_with_transaction(manager: SnapshotManager[Any], saved: Callable[[], Event | None]) -> None:
    """Make the transaction that the user opened, if any, undo a save when it is rolled back."""

    def undo_snapshot(_: BaseTransaction) -> None:
        event = saved()
        if event is not None:
            with contextlib.suppress(SnapshotNotFound):  # another process deleted it
                report_rolled_back(manager, event.body["id"], undo(manager, event))

    transaction = user_transaction()
    if transaction is not None:
        transaction.on_rollback_hooks.append(undo_snapshot)


def _say_outcome(manager: SnapshotManager[Any], future: Future[str | None]) -> None:
    error = future.exception()
    if error is not None:
        run_logger().error("A snapshot of %r could not be saved in the background: %s", manager.name, error)
        return
    saved = future.result()
    record = manager.records.by_id.get(saved) if saved is not None else None
    if record is not None:
        report_saved(manager, record)
    elif saved is None:
        _say_not_admitted(manager)


def _say_not_admitted(manager: SnapshotManager[Any]) -> None:
    why = "retention does not keep it" if manager.retention else f"it is not among the best {manager.max_snapshots}"
    run_logger().info("Dropped a snapshot of %r: %s.", manager.name, why)
