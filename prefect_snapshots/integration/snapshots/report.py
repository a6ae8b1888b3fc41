"""Report snapshots to Prefect: a log line, an event, and one page for each name.

Events for automations have the resource `prefect-snapshots.snapshots.<name>` and are related to the run:

- `prefect-snapshots.snapshot.saved`: `repository` (URL), `name`, `snapshot_id`, `saved_at` (ISO 8601, UTC), `metadata`,
  `tags`, `size` and `written` (the bytes of the value, and how many of them were new in the repository), `leaves`,
  `changed_leaves` (since the previous snapshot; null for the first one, and both are null if there are very many);
- `prefect-snapshots.snapshot.evicted`: `repository`, `name`, `snapshot_id`, `evicted_by`;
- `prefect-snapshots.snapshot.rolled-back`: `repository`, `name`, `snapshot_id`, `restored` (ids that it had evicted).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any
from uuid import UUID

from ...documents import Document
from ...documents.texts import metadata_text, size_text
from ...reports.snapshots import about_snapshots, count_leaves
from ...repository.progress import Progress
from ...snapshots.changes import evicted_by
from ...snapshots.manager import SnapshotManager
from ...snapshots.records import Record
from ..live import LiveArtifact, plain
from ..reporter import LONG, Reporter, only_warn
from ..run_context import in_run, run_ids, run_logger

LISTED = 10
"""How many of the latest snapshots a page lists: enough to see the trend, and the page stays short in the UI."""

Manager = SnapshotManager[Any]


def long_work(manager: Manager, what: str) -> AbstractContextManager[Progress]:
    """Show how far a save or a load is, if it takes long."""
    return _reporter(manager).long_work(what)


def progress_of_save(manager: Manager) -> AbstractContextManager[Progress]:
    """Show how far a save in the background is, if it takes long. Yields a callback for its bytes."""
    return _reporter(manager).progress_bar("Save", after=LONG)


def report_saved(manager: Manager, record: Record) -> None:
    """Report that a snapshot was saved: in the log of the run, as an event, and on the page."""
    with only_warn(f"Snapshot {record.id!r} of {manager.name!r} was saved"):
        previous = _previous(manager, record)
        first = (run_ids()[0], manager) not in _pages
        link = _update_page(manager) if in_run() else ""
        # The link is the same for every save of a run, so one is enough.
        run_logger().info("%s%s", _sentence(manager, record, previous), link if first else "")
        if in_run():
            _emit("saved", manager, record.id, _facts(manager, record, previous))
            for evicted in evicted_by(manager, record.event):
                _emit("evicted", manager, evicted, {"evicted_by": record.id})


def report_rolled_back(manager: Manager, snapshot_id: str, restored: Sequence[str]) -> None:
    """Report that a snapshot was rolled back with its transaction, and which evicted snapshots were restored."""
    with only_warn(f"Snapshot {snapshot_id!r} of {manager.name!r} was rolled back"):
        back = f", and restored {', '.join(restored)}" if restored else ""
        run_logger().info("Rolled back snapshot %r of %r%s.", snapshot_id, manager.name, back)
        if in_run():
            _emit("rolled-back", manager, snapshot_id, {"restored": list(restored)})
            _update_page(manager)


# --- what is said --------------------------------------------------------------------------------------------------


def _sentence(manager: Manager, record: Record, previous: Record | None) -> str:
    leaves, changed = count_leaves(manager, previous, record)
    parts = [metadata_text(record.metadata)] if record.metadata else []
    parts += [size_text(record.size), f"{size_text(record.written)} written"]
    if previous is not None and changed is not None:
        parts.append(f"changed leaves: {changed} of {leaves} since {previous.id!r}")
    elif leaves is not None:
        parts.append(f"leaves: {leaves}")
    return f"Saved snapshot {record.id!r} of {manager.name!r}: {', '.join(parts)}."


def _facts(manager: Manager, record: Record, previous: Record | None) -> dict[str, Any]:
    leaves, changed = count_leaves(manager, previous, record)
    return {
        "saved_at": record.timestamp.isoformat(),
        "metadata": plain(record.metadata),
        "tags": list(record.tags),
        "size": record.size,
        "written": record.written,
        "leaves": leaves,
        "changed_leaves": changed,
    }


def _emit(what: str, manager: Manager, snapshot_id: str, facts: dict[str, Any]) -> None:
    _reporter(manager).emit(f"snapshot.{what}", {"name": manager.name, "snapshot_id": snapshot_id, **facts})


def _reporter(manager: Manager) -> Reporter:
    assert manager.repository is not None
    return Reporter(manager.repository, "snapshots", manager.name)


def _page(manager: Manager, until: int) -> Document:
    return Document(f"Snapshots of {manager.name}", tuple(about_snapshots(manager, LISTED, until)))


def _previous(manager: Manager, record: Record) -> Record | None:
    older = (other for other in reversed(list(manager.records.by_id.values())) if other.order < record.order)
    return next(older, None)


# --- the page -------------------------------------------------------------------------------------------------------

_pages: dict[tuple[UUID | None, Manager], LiveArtifact] = {}
_newest: dict[tuple[UUID | None, Manager], int] = {}
"""The order of the last snapshot of a run, by page: a page may be sent while another run is already saving."""


def _update_page(manager: Manager) -> str:
    """Update the page of this run, and return its link."""
    key = run_ids()[0], manager
    _newest[key] = next((record.order for record in reversed(manager.records.by_id.values())), -1)
    if key not in _pages:
        _pages[key] = _reporter(manager).live_page(lambda: _page(manager, _newest[key]))
    _pages[key].update()
    return _pages[key].link
