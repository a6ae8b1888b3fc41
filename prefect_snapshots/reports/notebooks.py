"""Show managers, records, diffs and reports as tables in a notebook.

The classes themselves are below this layer and know nothing of reports, so this module gives each of them the method
`_repr_html_`, which notebooks look for. The package imports it when it is imported in a notebook, and nowhere else.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, cast

from ..artifacts import ArtifactInfo, ArtifactRegistry, Release
from ..backups import Backup, BackupDiff, BackupManager, DrillReport, RestoreReport
from ..checkpoints import CheckpointDiff, CheckpointInfo, CheckpointManager
from ..documents import Block, Column, Document, Facts, Note, Table, html_fragment
from ..documents.texts import Kind, Value, metadata_text
from ..errors import SnapshotsError
from ..repository import Repository
from ..repository.maintenance import CheckReport, PruneReport, Statistics
from ..retention import CleanupReport
from ..snapshots import Snapshot, SnapshotInfo, SnapshotManager
from ..values.diff import Differences
from .artifacts import about_release, about_version
from .backups import about_backup, about_backups, about_cleanup, about_drill
from .overview import about_repository
from .snapshots import about_snapshots

_LISTED = 20
"""Rows of a table in a notebook: a longer one would hide the cells around it."""

_SIZES = frozenset({"size", "old_size", "new_size", "written", "freed", "freed_later", "bytes_read", "bytes_freed"})
"""Attributes that are numbers of bytes."""


def attach() -> None:
    """Give every class that people look at in a notebook the method `_repr_html_`."""
    for cls, (title, describe) in _SHOWN.items():
        cls._repr_html_ = _shower(title, describe)
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        formatter = shell.display_formatter.formatters["text/html"]
        if list not in formatter.type_printers:  # nobody else decides how lists look
            formatter.for_type(list, listed)


def listed(values: list[Any]) -> str | None:
    """Return a list of our records as a table, and None for any other list. Lists that can do it show themselves."""
    if show := getattr(values, "_repr_html_", None):
        return cast(str, show())
    kinds = {type(value) for value in values[:_LISTED]}
    if len(kinds) != 1 or not dataclasses.is_dataclass(kind := kinds.pop()) or not _is_ours(kind):
        return None
    return html_fragment(Document(f"{kind.__name__}: {len(values):,}", (_list("", values),)))


def _is_ours(kind: type[Any]) -> bool:
    return kind.__module__.startswith(f"{__package__.partition('.')[0]}.")


def _shower(title: Callable[[Any], str], describe: Callable[[Any], Iterable[Block]]) -> Callable[[Any], str]:
    def show(value: Any) -> str:
        try:
            blocks = tuple(describe(value))
        except SnapshotsError as error:  # the repository is gone, or damaged: looking at an object must not fail a cell
            blocks = (Note(f"This cannot be read: {error}"),)
        return html_fragment(Document(title(value), blocks))

    return show


# --- what is shown ------------------------------------------------------------------------------------------------


def _fields(value: Any) -> Iterator[Block]:
    """Describe a record by its attributes: plain ones as facts, and each sequence of records as a table."""
    facts: dict[str, tuple[Value, Kind]] = {}
    tables = []
    for name in _attributes(value):
        found = getattr(value, name)
        rows = list(found) if isinstance(found, Sequence) and not isinstance(found, str) else []
        if rows and dataclasses.is_dataclass(rows[0]):
            tables.append(_table(_words(name), rows))
        else:
            facts[_words(name)] = _plain(name, found), _kind_of(name, found)
    yield Facts(facts)
    yield from tables


def _table(title: str, rows: Sequence[Any]) -> Table:
    names = _attributes(rows[0]) if rows else []
    columns = tuple(Column(_words(name), _kind_of(name, getattr(rows[0], name))) for name in names)
    cells = tuple(tuple(_plain(name, getattr(row, name)) for name in names) for row in rows[:_LISTED])
    return Table(title, columns, cells, len(rows))


def _list(title: str, rows: Sequence[Any]) -> Table:
    """Describe records by those of their attributes that fit into a cell, and are not empty in all of them."""
    shown = rows[:_LISTED]
    names = [
        name
        for name in _attributes(shown[0])
        if any(getattr(row, name) for row in shown) and all(_fits(getattr(row, name)) for row in shown)
    ]
    columns = tuple(
        Column(_words(name), _kind_of(name, next(filter(None, (getattr(row, name) for row in shown)))))
        for name in names
    )
    return Table(
        title, columns, tuple(tuple(_plain(name, getattr(row, name)) for name in names) for row in shown), len(rows)
    )


def _fits(value: Any) -> bool:
    if isinstance(value, Mapping | Sequence) and not isinstance(value, str):
        return all(
            isinstance(one, str | int | float) for one in (value.values() if isinstance(value, Mapping) else value)
        )
    return value is None or isinstance(value, str | int | float | datetime)


def _attributes(value: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(value)]


def _plain(name: str, value: Any) -> Value:
    if name == "mode":
        return f"{value:o}"
    if value is None or isinstance(value, str | int | float | datetime):
        return "yes" if value is True else "" if value is False else value
    if isinstance(value, Mapping):
        return metadata_text(value)
    return ", ".join(map(str, value)) if isinstance(value, Iterable) else str(value)


def _kind_of(name: str, value: Any) -> Kind:
    if isinstance(value, bool) or value is None or name == "mode":
        return "text"
    if isinstance(value, datetime):
        return "time"
    if isinstance(value, int | float):
        return "bytes" if name in _SIZES else "seconds" if name == "duration" else "number"
    return "name" if name in ("name", "version", "path", "fingerprint") else "text"


def _words(name: str) -> str:
    return name.removesuffix("_at").replace("_", " ")


def _snapshot(snapshot: Snapshot[Any]) -> Iterator[Block]:
    yield Facts(
        {
            "saved (UTC)": (snapshot.timestamp, "time"),
            "metadata": (metadata_text(snapshot.metadata), "text"),
            "tags": (", ".join(snapshot.tags), "text"),
        }
    )


def _managed_checkpoints(manager: CheckpointManager) -> Iterator[Block]:
    yield _table("Checkpoints, most recently started first", manager.list_checkpoints())


def _registry(registry: ArtifactRegistry) -> Iterator[Block]:
    infos = registry.list_artifacts()
    columns = Column("artifact", "name"), Column("version", "name"), Column("aliases"), Column("size", "bytes")
    rows = ((one.name, one.version, ", ".join(one.aliases), one.size, one.created_at) for one in infos[:_LISTED])
    yield Table("Latest versions, newest first", (*columns, Column("logged (UTC)", "time")), tuple(rows), len(infos))


def _repository(repository: Repository) -> Iterator[Block]:
    yield from about_repository(repository, _LISTED)


def _statistics(statistics: Statistics) -> Iterator[Block]:
    yield Facts(
        {
            "versions": (statistics.versions, "number"),
            "names": (statistics.streams, "number"),
            "without deduplication": (statistics.logical_bytes, "bytes"),
            "with deduplication": (statistics.version_bytes, "bytes"),
            "saved by deduplication": (statistics.saved_bytes, "bytes"),
            "total stored": (statistics.stored_bytes, "bytes"),
        }
    )
    rows = tuple((kind, count, statistics.bytes.get(kind, 0)) for kind, count in sorted(statistics.objects.items()))
    yield Table("Objects", (Column("kind"), Column("objects", "number"), Column("size", "bytes")), rows, len(rows))
    asked = tuple(sorted(statistics.requests.items()))
    yield Table("Requests of this process", (Column("request"), Column("number", "number")), asked, len(asked))


def _differing(differences: Differences) -> Iterator[Block]:
    yield _table("Leaves that differ", differences) if differences else Note("The values are identical.")


_SHOWN: dict[Any, tuple[Callable[[Any], str], Callable[[Any], Iterable[Block]]]] = {
    SnapshotManager: (lambda it: f"Snapshots of {it.name}", lambda it: about_snapshots(it, _LISTED)),
    Snapshot: (lambda it: f"Snapshot {it.id}", _snapshot),
    SnapshotInfo: (lambda it: f"Snapshot {it.id}", _fields),
    Differences: (lambda it: f"Differences: {len(it):,}", _differing),
    CheckpointManager: (lambda it: f"Checkpoints in {it.repository.url}", _managed_checkpoints),
    CheckpointInfo: (lambda it: f"Checkpoints of {it.name}", _fields),
    CheckpointDiff: (lambda it: f"Differences of {it.old[:12]} and {it.new[:12]}", _fields),
    ArtifactRegistry: (lambda it: f"Artifacts in {it.repository.url}", _registry),
    ArtifactInfo: (lambda it: f"{it.collection}/{it.name} {it.version}", lambda it: [Facts(about_version(it))]),
    Release: (lambda it: f"Release {it.tag}", about_release),
    BackupManager: (lambda it: f"Backups of {it.name}", lambda it: about_backups(it, _LISTED)),
    Backup: (lambda it: it.name, about_backup),
    BackupDiff: (lambda it: f"Differences of {it.old} and {it.new}", _fields),
    RestoreReport: (lambda it: f"Restore of {it.name}", _fields),
    DrillReport: (lambda it: f"Drill of {it.name}", about_drill),
    CleanupReport: (lambda _: "Cleanup", about_cleanup),
    CheckReport: (lambda it: "Check: no problems" if it.ok else "Check: problems", _fields),
    PruneReport: (lambda _: "Prune", _fields),
    Repository: (lambda it: f"Repository {it.url}", _repository),
    Statistics: (lambda _: "Statistics", _statistics),
}
