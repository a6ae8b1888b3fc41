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

import atexit
import contextlib
import contextvars
import functools
import hashlib
import itertools
import math
import re
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import humanize
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey
from prefect.events import emit_event
from prefect.settings import get_current_settings

from .errors import SnapshotsError
from .runs import logger, run_ids, run_logger
from .snapshots.changes import Leaves, evicted_by
from .snapshots.manager import SnapshotManager
from .snapshots.records import Record

LISTED = 10
"""Snapshots in an artifact: the latest."""

_LARGE_MANIFEST = 1024 * 1024
"""Bytes of a manifest from which on leaves are not counted: that of some ten thousand arrays."""
_INTERVAL = 1.0
"""Least seconds between two updates of an artifact."""
_AFTER_FAILURE = 60.0
"""Seconds before the server is tried again once it could not be reached."""
_TIMEOUT = 10.0
"""Seconds that the server has for an answer; then Prefect's client tries again."""
_PATIENCE = 1.0
"""Seconds that a save waits for the update of its artifact, which goes on without it."""

Manager = SnapshotManager[Any]


def report_saved(manager: Manager, record: Record) -> None:
    """Say that a snapshot was saved: to the log of the run, and to the server."""
    with _only_warn(f"Snapshot {record.id!r} of {manager.name!r} is saved, but its report is not complete"):
        previous = _previous(manager, record)
        run_logger().info("%s", _sentence(manager, record, previous))
        if any(run_ids()):
            _emit("saved", manager, record.id, _facts(manager, record, previous))
            for evicted in evicted_by(manager, record.event):
                _emit("evicted", manager, evicted, {"evicted_by": record.id})
            _artifact_of(manager).update()


def report_rolled_back(manager: Manager, snapshot_id: str, restored: Sequence[str]) -> None:
    """Say that a snapshot went with its transaction, and which ones came back."""
    with _only_warn(f"Snapshot {snapshot_id!r} of {manager.name!r} is rolled back, but its report is not complete"):
        back = f", and brought back {', '.join(restored)}" if restored else ""
        run_logger().info("Rolled back snapshot %r of %r%s.", snapshot_id, manager.name, back)
        if any(run_ids()):
            _emit("rolled-back", manager, snapshot_id, {"restored": list(restored)})
            _artifact_of(manager).update()


def artifact_key(name: str) -> str:
    """The key of the artifact for a name: readable, and different for every name.

    Example:
        >>> artifact_key("train/epoch")
        'train-epoch-1975'
    """
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return f"{slug[:200] or 'snapshots'}-{hashlib.sha256(name.encode()).hexdigest()[:4]}"


def artifact_url(name: str) -> str:
    """Where the artifact for a name is in the Prefect UI."""
    return f"{get_current_settings().ui_url or ''}/v2/artifacts/key/{artifact_key(name)}"


def flush() -> None:
    """Send the updates of artifacts that wait for their turn. Happens by itself, at the latest when Python exits."""
    for artifact in list(_artifacts.values()):
        artifact.flush()


# --- what is said --------------------------------------------------------------------------------------------------


def _sentence(manager: Manager, record: Record, previous: Record | None) -> str:
    leaves, changed = _counts(manager, previous, record)
    parts = [humanize.naturalsize(record.size), f"{humanize.naturalsize(record.written)} written"]
    if previous is not None and changed is not None:
        parts.append(f"changed leaves: {changed} of {leaves} since {previous.id!r}")
    elif leaves is not None:
        parts.append(f"leaves: {leaves}")
    where = f" {artifact_url(manager.name)}" if any(run_ids()) else ""
    return f"Saved snapshot {record.id!r} of {manager.name!r}: {', '.join(parts)}.{where}"


def _facts(manager: Manager, record: Record, previous: Record | None) -> dict[str, Any]:
    leaves, changed = _counts(manager, previous, record)
    return {
        "saved_at": record.timestamp.isoformat(),
        "metadata": _plain(record.metadata),
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
            ", ".join(f"{key}={_short(value)}" for key, value in record.metadata.items()),
            humanize.naturalsize(record.size),
            humanize.naturalsize(record.written),
            "" if leaves is None else f"{leaves} in all" if changed is None else f"{changed} of {leaves}",
        ]
        lines.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def _short(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _plain(value: Any) -> Any:
    """Metadata as JSON can hold it."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return value.hex() if isinstance(value, bytes) else value


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


class _Artifact:
    """The artifact of one name in one flow run, updated about once a second at most, and always for the last time."""

    def __init__(self, manager: Manager, flow_run_id: UUID | None, task_run_id: UUID | None) -> None:
        self._manager = manager
        self._key = artifact_key(manager.name)
        self._flow_run_id = flow_run_id
        self._task_run_id = task_run_id
        self._id: UUID | None = None
        self._due = 0.0
        self._context: contextvars.Context | None = None
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()
        self._sending = threading.Lock()

    def update(self) -> None:
        """Send the present state now, or as soon as the last update is long enough ago."""
        with self._lock:
            self._context = contextvars.copy_context()
            if self._timer is not None:
                return
            now = time.monotonic()
            timer = self._timer = threading.Timer(max(0.0, self._due - now), self.flush)
            timer.daemon = True
            with contextlib.suppress(RuntimeError):  # Python is about to exit, and will flush
                timer.start()
            at_once = now >= self._due
        if at_once:
            timer.join(_PATIENCE)

    def flush(self) -> None:
        """Send the present state now, unless it was sent already."""
        with self._sending:
            with self._lock:
                context, self._context = self._context, None
                timer, self._timer = self._timer, None
                self._due = time.monotonic() + _INTERVAL
            if timer is not None:
                timer.cancel()
            if context is not None:
                context.run(self._send)

    def _send(self) -> None:
        try:
            self._put(_markdown(self._manager))
        except Exception as error:
            self._due = time.monotonic() + _AFTER_FAILURE
            _client.cache_clear()
            # Not to the log of the run: that goes to the same server, and the run may be over.
            logger.warning("The artifact for snapshots of %r is not up to date: %r", self._manager.name, error)

    def _put(self, markdown: str) -> None:
        client = _client(get_current_settings().api.url)
        if self._id is None and self._flow_run_id is not None:
            # Another process of the same flow run may have made it.
            wanted = ArtifactFilter(
                key=ArtifactFilterKey(any_=[self._key]),
                flow_run_id=ArtifactFilterFlowRunId(any_=[self._flow_run_id]),
            )
            self._id = next((found.id for found in client.read_artifacts(artifact_filter=wanted, limit=1)), None)
        if self._id is not None:
            client.update_artifact(self._id, ArtifactUpdate(data=markdown))
            return
        created = client.create_artifact(
            ArtifactCreate(
                key=self._key,
                type="markdown",
                description=f"Snapshots of `{self._manager.name}`",
                data=markdown,
                flow_run_id=self._flow_run_id,
                task_run_id=self._task_run_id,
            )
        )
        self._id = created.id


@functools.lru_cache(maxsize=4)
def _client(api_url: str | None) -> SyncPrefectClient:
    """A client of our own: that of the run may be closed when the last update is sent, and waits longer."""
    return get_client(httpx_settings={"timeout": _TIMEOUT}, sync_client=True)


_artifacts: dict[tuple[UUID | None, Manager], _Artifact] = {}


def _artifact_of(manager: Manager) -> _Artifact:
    _flush_at_exit()
    flow_run_id, task_run_id = run_ids()
    return _artifacts.setdefault((flow_run_id, manager), _Artifact(manager, flow_run_id, task_run_id))


@functools.cache
def _flush_at_exit() -> None:
    """Registered in a run, not on import: the last one comes first, and the run's own server ends at exit too."""
    # While Prefect still sends the event that goes with an update; and for what background saves add after that.
    with contextlib.suppress(RuntimeError):
        threading._register_atexit(flush)  # type: ignore[attr-defined]
    atexit.register(flush)


@contextlib.contextmanager
def _only_warn(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        run_logger().warning("%s: %r", what, error)
