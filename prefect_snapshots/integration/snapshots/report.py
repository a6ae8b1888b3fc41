"""What a run leaves in the Prefect UI: a line in its log, an event, and one artifact for each name.

Reporting never fails a run: a snapshot is safe before anything is said about it, and what goes wrong here is a warning.

Events, for automations; the resource is `prefect-snapshots.snapshots.<name>`, related to the run:

- `prefect-snapshots.snapshot.saved`: `repository` (URL), `name`, `snapshot_id`, `saved_at` (ISO 8601, UTC), `metadata`,
  `tags`, `size` and `written` (bytes of the value, and those newly stored), `leaves`, `changed_leaves` (since the one
  before; null for the first, and both are null where there are very many);
- `prefect-snapshots.snapshot.evicted`: `repository`, `name`, `snapshot_id`, `evicted_by`;
- `prefect-snapshots.snapshot.rolled-back`: `repository`, `name`, `snapshot_id`, `restored` (ids that it had evicted).

Names, ids, tags and metadata go to the Prefect server as they are, also those of an encrypted repository.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import humanize

from ...documents import Document, markdown
from ...reports.snapshots import about_snapshots, count_leaves
from ...snapshots.changes import evicted_by
from ...snapshots.manager import SnapshotManager
from ...snapshots.records import Record
from ..live import LiveArtifact, artifact_key, artifact_url, plain
from ..reporter import emit, only_warn
from ..run_context import run_ids, run_logger

LISTED = 10
"""Snapshots in an artifact: the latest."""

Manager = SnapshotManager[Any]


def report_saved(manager: Manager, record: Record) -> None:
    """Say that a snapshot was saved: to the log of the run, and to the server."""
    with only_warn(f"Snapshot {record.id!r} of {manager.name!r} is saved, but its report is not complete"):
        previous = _previous(manager, record)
        run_logger().info("%s", _sentence(manager, record, previous))
        if any(run_ids()):
            _emit("saved", manager, record.id, _facts(manager, record, previous))
            for evicted in evicted_by(manager, record.event):
                _emit("evicted", manager, evicted, {"evicted_by": record.id})
            _update_artifact(manager)


def report_rolled_back(manager: Manager, snapshot_id: str, restored: Sequence[str]) -> None:
    """Say that a snapshot went with its transaction, and which ones came back."""
    with only_warn(f"Snapshot {snapshot_id!r} of {manager.name!r} is rolled back, but its report is not complete"):
        back = f", and brought back {', '.join(restored)}" if restored else ""
        run_logger().info("Rolled back snapshot %r of %r%s.", snapshot_id, manager.name, back)
        if any(run_ids()):
            _emit("rolled-back", manager, snapshot_id, {"restored": list(restored)})
            _update_artifact(manager)


# --- what is said --------------------------------------------------------------------------------------------------


def _sentence(manager: Manager, record: Record, previous: Record | None) -> str:
    leaves, changed = count_leaves(manager, previous, record)
    parts = [humanize.naturalsize(record.size), f"{humanize.naturalsize(record.written)} written"]
    if previous is not None and changed is not None:
        parts.append(f"changed leaves: {changed} of {leaves} since {previous.id!r}")
    elif leaves is not None:
        parts.append(f"leaves: {leaves}")
    where = f" {artifact_url(artifact_key(manager.name))}" if any(run_ids()) else ""
    return f"Saved snapshot {record.id!r} of {manager.name!r}: {', '.join(parts)}.{where}"


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
    repository = manager.repository
    assert repository is not None
    said = {"name": manager.name, "snapshot_id": snapshot_id, **facts}
    emit(f"snapshot.{what}", repository, said, f"snapshots.{manager.name}", manager.name)


def _markdown(manager: Manager, until: int) -> str:
    return markdown(Document(f"Snapshots of {manager.name}", tuple(about_snapshots(manager, LISTED, until))))


def _previous(manager: Manager, record: Record) -> Record | None:
    older = (other for other in reversed(list(manager.records.by_id.values())) if other.order < record.order)
    return next(older, None)


# --- the artifact ----------------------------------------------------------------------------------------------------

_artifacts: dict[tuple[UUID | None, Manager], LiveArtifact] = {}
_newest: dict[tuple[UUID | None, Manager], int] = {}
"""The order of the last snapshot that a run knows of: its artifact may be sent when another one saves already."""


def _update_artifact(manager: Manager) -> None:
    key = run_ids()[0], manager
    _newest[key] = next((record.order for record in reversed(manager.records.by_id.values())), -1)
    if key not in _artifacts:
        assert manager.repository is not None
        about = f"Snapshots of `{manager.name}` in `{manager.repository.url}`"
        name = artifact_key(manager.name)
        _artifacts[key] = LiveArtifact(name, "markdown", about, lambda: _markdown(manager, _newest[key]))
    _artifacts[key].update()
