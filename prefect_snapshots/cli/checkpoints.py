"""`prefect-snapshots checkpoints ...`: the results that Snapper and @checkpointed keep of long iterables."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from ..errors import CheckpointNotFound, Pinned
from .completion import checkpoint_names, completed, fingerprints
from .naming import choose
from .output import PIN, Answer, columns, count_text, deleted, table, time_text
from .retention import NO_RETENTION, Retention, cleaned, required_policy
from .session import Session, SessionArgument

if TYPE_CHECKING:
    from ..checkpoints import CheckpointInfo, CheckpointManager

app = App(name="checkpoints", help="List, inspect, compare and delete the results of resumable iterations.")

Name = Annotated[str, completed(checkpoint_names)]
OfFunction = Annotated[str, completed(fingerprints)]
Fingerprint = Annotated[
    OfFunction | None,
    Parameter(help="The version of the function, as in the list, or the beginning of it. Default: the latest."),
]


@app.command(name="list")
def list_all(name: Name | None = None, /, *, session: SessionArgument) -> Answer:
    """List the checkpoints: a row for each version of a function, newest first.

    Args:
        name: List only the checkpoints of this name.
    """
    manager = _manager(session)
    chosen = _name(manager, name) if name is not None else None
    rows = manager.list_checkpoints(chosen)
    document = {"repository": manager.repository.url, "checkpoints": [asdict(row) for row in rows]}
    return Answer(document, _view_list, "" if rows else "There are no checkpoints.")


@app.command
def show(name: Name, /, *, fingerprint: Fingerprint = None, session: SessionArgument) -> Answer:
    """Show how processing went: throughput, slow items, failures.

    Args:
        name: The name of the checkpoints, or the beginning of it.
    """
    from .documents import document_lines

    manager = _manager(session)
    name = _name(manager, name)
    document = json.loads(manager.report(name, fingerprint, format="json"))
    described = manager.describe(name, fingerprint)
    info = asdict(manager.get_checkpoint(name, fingerprint))
    return Answer({"repository": manager.repository.url, **info, **document}, lambda _: document_lines(described))


@app.command
def diff(name: Name, old: OfFunction, new: OfFunction | None = None, /, *, session: SessionArgument) -> Answer:
    """Compare the results of two versions of a function, item by item. Nothing is unpickled.

    Args:
        name: The name of the checkpoints, or the beginning of it.
        old: The fingerprint of one version, or the beginning of it.
        new: The fingerprint of the other version. Default: the one that was started last.
    """
    manager = _manager(session)
    name = _name(manager, name)
    found = manager.diff(name, old, new)
    return Answer({"name": name, **asdict(found)}, _view_diff)


@app.command
def why(
    name: Name, old: OfFunction | None = None, new: OfFunction | None = None, /, *, session: SessionArgument
) -> Answer:
    """Explain why items were computed again: which code, values and versions of the function have changed.

    Args:
        name: The name of the checkpoints, or the beginning of it.
        old: The fingerprint of one version, or the beginning of it. Default: the one that was started before.
        new: The fingerprint of the other version. Default: the one that was started last.
    """
    manager = _manager(session)
    name = _name(manager, name)
    found = asdict(manager.why(name, old, new))
    return Answer({"name": name, **found}, _view_why, _remark_why(found))


@app.command
def delete(
    name: Name,
    /,
    *,
    fingerprint: Fingerprint = None,
    force: bool = False,
    dry_run: bool = False,
    session: SessionArgument,
) -> Answer:
    """Delete the results of a name, so that its items are computed again. Asks first.

    Args:
        name: The whole name of the checkpoints.
        fingerprint: Delete only the results of this version of the function. Default: those of all versions.
        force: Delete them even if the name is pinned.
        dry_run: Only show what would be deleted.
    """
    manager = _manager(session, writing=not dry_run)
    rows = manager.list_checkpoints(_name(manager, name, whole=True))
    if fingerprint is not None:
        chosen = manager.get_checkpoint(name, fingerprint).fingerprint
        rows = [row for row in rows if row.fingerprint == chosen]
    if any(row.pinned for row in rows) and not force:
        raise Pinned(
            f"{name} is pinned. Nothing was deleted. Run `prefect-snapshots checkpoints unpin {shlex.quote(name)}` "
            "first, or pass --force."
        )
    results = count_text(sum(row.done for row in rows), "result")
    segments = sum(row.segments for row in rows)
    if not dry_run:
        session.confirm(f"Delete {results} of {name}?")
        segments = manager.delete_checkpoint(name, fingerprint, force=force)
    document = {"name": name, "segments": segments, "deleted": [asdict(row) for row in rows]}
    return deleted(f"{results} of {name}", document, dry_run)


@app.command
def pin(name: Name, /, *, session: SessionArgument) -> Answer:
    """Exempt the results of a name from retention.

    Args:
        name: The name of the checkpoints, or the beginning of it.
    """
    return _set_pinned(session, name, True)


@app.command
def unpin(name: Name, /, *, session: SessionArgument) -> Answer:
    """Allow retention to delete results of a name again.

    Args:
        name: The name of the checkpoints, or the beginning of it.
    """
    return _set_pinned(session, name, False)


@app.command
def cleanup(
    name: Name | None = None,
    /,
    *,
    dry_run: bool = False,
    retention: Retention = NO_RETENTION,
    session: SessionArgument,
) -> Answer:
    """Delete the results of versions of functions that the retention policy does not keep.

    The version that was started last always stays. `prefect-snapshots prune` reclaims the space.

    Args:
        name: Clean up only this name. Default: all names.
        dry_run: Only show what would be deleted, and why the rest is kept.
    """
    policy = required_policy(retention)
    manager = _manager(session, writing=not dry_run)
    chosen = _name(manager, name) if name is not None else None
    return cleaned(manager.cleanup(policy, dry_run, name=chosen), "checkpoint")


# --- helpers ----------------------------------------------------------------------------------------------------------


def _manager(session: Session, *, writing: bool = False) -> CheckpointManager:
    from ..checkpoints import CheckpointManager

    return CheckpointManager(session.open(writing=writing))


def _name(manager: CheckpointManager, name: str, *, whole: bool = False) -> str:
    from ..repository.names import check_name

    infos: list[CheckpointInfo] = manager.list_checkpoints()
    if not any(info.name.startswith(name) for info in infos):
        check_name(name)
    known = list(dict.fromkeys(info.name for info in infos))
    return choose(name, known, "checkpoint", CheckpointNotFound, whole=whole)


def _set_pinned(session: Session, name: str, pinned: bool) -> Answer:
    manager = _manager(session, writing=True)
    name = _name(manager, name)
    (manager.pin if pinned else manager.unpin)(name)
    rows = [asdict(row) for row in manager.list_checkpoints(name)]
    remark = f"{'Pinned' if pinned else 'Unpinned'} {name}."
    return Answer({"name": name, "pinned": pinned, "checkpoints": rows}, remark=remark)


def _view_list(document: dict[str, Any]) -> Iterator[str]:
    rows = [
        (
            PIN if row["pinned"] else "",
            row["name"],
            row["function"],
            row["fingerprint"],
            *(f"{row[count]:,}" for count in ("done", "failed", "segments")),
            time_text(row["started_at"]),
        )
        for row in document["checkpoints"]
    ]
    return table(
        columns("", "name…", "function…", "fingerprint", ">done", ">failed", ">segments", "started (local)"), rows
    )


_CHANGES = ("changed", "added", "removed")


def _view_why(document: dict[str, Any]) -> Iterator[str]:
    rows = [(change, part) for change in _CHANGES for part in document[change]]
    if document["old"] is None:
        rows = [("included", part) for part in document["unchanged"]]
    yield f"{document['old']} -> {document['new']}" if document["old"] else document["new"]
    yield from table(columns("", "part…"), rows)


def _remark_why(document: dict[str, Any]) -> str:
    if any(document[change] for change in _CHANGES) or (document["old"] is None and document["unchanged"]):
        return ""
    return "What these versions include was not recorded."


def _view_diff(document: dict[str, Any]) -> Iterator[str]:
    yield f"{document['old']} -> {document['new']}"
    counts = [(key.replace("_", " "), f"{document[key]:,}") for key in ("unchanged", "changed", "only_old", "only_new")]
    yield from table(columns("results", ">items"), counts)
