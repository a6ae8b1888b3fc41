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

import functools
import itertools
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import humanize
from prefect.events import emit_event

from .errors import SnapshotsError
from .live import LiveArtifact, artifact_key, artifact_url, cell, plain, short
from .runs import logger, only_warn, run_ids, run_logger
from .snapshots.changes import Leaves, evicted_by
from .snapshots.manager import SnapshotManager
from .snapshots.records import Record

LISTED = 10
"""Snapshots in an artifact: the latest."""

_LARGE_MANIFEST = 1024 * 1024
"""Bytes of a manifest from which on leaves are not counted: that of some ten thousand arrays."""

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
            _artifact_of(manager).update()


def report_rolled_back(manager: Manager, snapshot_id: str, restored: Sequence[str]) -> None:
    """Say that a snapshot went with its transaction, and which ones came back."""
    with only_warn(f"Snapshot {snapshot_id!r} of {manager.name!r} is rolled back, but its report is not complete"):
        back = f", and brought back {', '.join(restored)}" if restored else ""
        run_logger().info("Rolled back snapshot %r of %r%s.", snapshot_id, manager.name, back)
        if any(run_ids()):
            _emit("rolled-back", manager, snapshot_id, {"restored": list(restored)})
            _artifact_of(manager).update()


# --- what is said --------------------------------------------------------------------------------------------------


def _sentence(manager: Manager, record: Record, previous: Record | None) -> str:
    leaves, changed = _counts(manager, previous, record)
    parts = [humanize.naturalsize(record.size), f"{humanize.naturalsize(record.written)} written"]
    if previous is not None and changed is not None:
        parts.append(f"changed leaves: {changed} of {leaves} since {previous.id!r}")
    elif leaves is not None:
        parts.append(f"leaves: {leaves}")
    where = f" {artifact_url(artifact_key(manager.name))}" if any(run_ids()) else ""
    return f"Saved snapshot {record.id!r} of {manager.name!r}: {', '.join(parts)}.{where}"


def _facts(manager: Manager, record: Record, previous: Record | None) -> dict[str, Any]:
    leaves, changed = _counts(manager, previous, record)
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
    emit_event(
        f"prefect-snapshots.snapshot.{what}",
        resource={
            "prefect.resource.id": f"prefect-snapshots.snapshots.{manager.name}",
            "prefect.resource.name": manager.name,
            "prefect-snapshots.repository": repository.url,
        },
        payload={"repository": repository.url, "name": manager.name, "snapshot_id": snapshot_id, **facts},
    )


def _markdown(manager: Manager) -> str:
    """The latest snapshots of a manager as a table, newest first."""
    records = list(manager.records.by_id.values())
    best = next(iter(manager.ranking.best_first(records, manager.snapshot_of)), None) if manager.ranking else None
    older = {new: old for old, new in itertools.pairwise(records[-LISTED - 1 :])}
    assert manager.repository is not None
    lines = [
        f"### Snapshots of `{manager.name}`",
        "",
        f"{len(records)} in `{manager.repository.url}`" + (f", the latest {LISTED}:" if len(records) > LISTED else ":"),
        "",
        "| | id | saved (UTC) | metadata | size | written | changed leaves |",
        "|---|---|---|---|---:|---:|---:|",
    ]
    for record in reversed(records[-LISTED:]):
        leaves, changed = _counts(manager, older.get(record), record)
        cells = [
            "**best**" if record is best else "",
            record.id,
            f"{record.timestamp:%Y-%m-%d %H:%M:%S}",
            ", ".join(f"{key}={short(value)}" for key, value in record.metadata.items()),
            humanize.naturalsize(record.size),
            humanize.naturalsize(record.written),
            "" if leaves is None else f"{leaves} in all" if changed is None else f"{changed} of {leaves}",
        ]
        lines.append(f"| {' | '.join(map(cell, cells))} |")
    return "\n".join(lines)


def _previous(manager: Manager, record: Record) -> Record | None:
    older = (other for other in reversed(list(manager.records.by_id.values())) if other.order < record.order)
    return next(older, None)


@functools.lru_cache(maxsize=1024)
def _counts(manager: Manager, old: Record | None, new: Record) -> tuple[int | None, int | None]:
    """How many leaves a snapshot has, and how many changed since an older one; None for what is not known."""
    try:
        leaves = _leaves(manager, new)
        before = _leaves(manager, old) if old is not None else None
        if leaves is None:
            return None, None
        return len(leaves), None if before is None else leaves.changed_since(before)
    except SnapshotsError as error:
        logger.warning("The leaves of snapshot %r of %r cannot be counted: %s", new.id, manager.name, error)
        return None, None


@functools.lru_cache(maxsize=8)
def _leaves(manager: Manager, record: Record) -> Leaves | None:
    """The leaves of a snapshot; None where counting them would take longer than saving did."""
    if record.event.content is None or record.event.content.manifest_size > _LARGE_MANIFEST:
        return None
    return Leaves.of(manager, record)


# --- the artifact ----------------------------------------------------------------------------------------------------

_artifacts: dict[tuple[UUID | None, Manager], LiveArtifact] = {}


def _artifact_of(manager: Manager) -> LiveArtifact:
    key = run_ids()[0], manager
    if key not in _artifacts:
        about = f"Snapshots of `{manager.name}`"
        _artifacts[key] = LiveArtifact(artifact_key(manager.name), "markdown", about, lambda: _markdown(manager))
    return _artifacts[key]
