"""`prefect-snapshots snapshots ...`: list, show, compare, describe, pin, delete and restore snapshots.

Ids are searched for under every name, unless you pass `--name`. Nothing is unpickled unless you pass `--allow-pickle`.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Collection, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter, Token
from cyclopts.validators import Number

from ..errors import InvalidArgument, PickleRefused, Pinned
from ..messages import hint, logger
from . import views
from .completion import completed, snapshot_ids, snapshot_names
from .naming import NAME
from .output import PIN, Answer, count_text, deleted, renamed, size_text, view_description
from .retention import NO_SNAPSHOT_RETENTION, SnapshotRetention, cleaned, required_policy
from .session import Session, SessionArgument

if TYPE_CHECKING:
    from ..repository import Repository
    from ..snapshots.query import Expression
    from ..snapshots.records import Record
    from ..values.manifest import LeafInfo
    from .finding import Found

app = App(name="snapshots", help="List, show, compare, describe, pin, delete and restore snapshots.")

_LISTED = 10
"""Snapshots that a question names: what fits on a screen with the question below them."""
_JSON_TYPES = (type(None), bool, int, float, str)


def _parse_moment(_: object, tokens: Sequence[Token]) -> datetime:
    text = tokens[0].value
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise ValueError(f'"{text}" is no date or time such as 2026-01-31 or 2026-01-31T12:00.') from None


Moment = Annotated[datetime | None, Parameter(converter=_parse_moment)]
Name = Annotated[str, completed(snapshot_names)]
Under = Annotated[str | None, NAME, completed(snapshot_names)]
Id = Annotated[str, Parameter(name="[NAME] ID"), completed(snapshot_ids)]
Ids = Annotated[str, Parameter(name="[NAME] ID..."), completed(snapshot_ids)]


# --- looking -----------------------------------------------------------------------------------------------------


@app.command(name="list")
def list_snapshots(
    name: Name | None = None,
    /,
    *,
    tag: list[str] | None = None,
    where: list[str] | None = None,
    since: Moment = None,
    until: Moment = None,
    rank_by: str | None = None,
    mode: Literal["min", "max"] | None = None,
    limit: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    session: SessionArgument,
) -> Answer:
    """List the snapshots under a name, newest first; without a name, list the names.

    Args:
        name: The name under which the snapshots were saved.
        tag: List only snapshots with this tag. Repeat it to require several tags.
        where: List only snapshots that meet a condition, such as "loss < 0.1 and epoch in (1, 2)". Dots lead into
            nested metadata. Repeat it to require several conditions.
        since: List only snapshots saved at this time or later. ISO 8601; without a zone it is local time.
        until: List only snapshots saved at this time or earlier. A date alone is its first moment.
        rank_by: The metadata key that ranks them: best first.
        mode: Whether the largest value of that key is best, or the smallest. Default: max.
        limit: List at most this many.
    """
    if name is None:
        filters = {"tag": tag, "where": where, "since": since, "until": until, "rank-by": rank_by, "limit": limit}
        for option, value in filters.items():
            if value is not None:
                raise InvalidArgument(f"--{option} needs a NAME: the name of the snapshots to list.")
        return _list_names(session.open())
    _check_mode(mode, rank_by)

    from ..snapshots import BySearch, ByTag, ByTimeRange, SnapshotManager
    from .finding import best_of, check_known

    repository = session.open()
    check_known(repository, name)
    manager: SnapshotManager[Any] = SnapshotManager(repository, name=name, rank_by=rank_by, mode=mode or "max")
    searches = [BySearch(text) for text in where or ()]
    conditions: list[Expression] = [ByTimeRange(since, until), ByTag(tag or []), *searches]
    ids = manager.query.evaluate(functools.reduce(operator.and_, conditions))
    records = [manager.records.by_id[snapshot_id] for snapshot_id in reversed(ids)]
    best = None
    if rank_by is not None and records:
        records = manager.ranking.best_first(records, manager.snapshot_of)
        best = best_of(records, rank_by)
    document = {
        "repository": repository.url,
        "name": name,
        "count": len(manager.records.by_id),
        "matching": len(records),
        "rank_by": rank_by,
        "best": best,
        "snapshots": [{"name": name, **asdict(record.info)} for record in records[:limit]],
    }
    if not records:
        every = list(manager.records.by_id.values())
        for search in searches:
            search.condition.warn_if_misspelt((record.fields, record.metadata) for record in every)
        tags = dict.fromkeys(each for record in every for each in record.tags)
        for each in tag or ():
            if each not in tags:
                logger.warning("Nothing here has the tag %r. %s", each, hint(each, tags))
    return Answer(document, views.snapshots, views.summary(document))


@app.command
def show(*snapshot_id: Id, name: Under = None, leaves: list[str] | None = None, session: SessionArgument) -> Answer:
    """Show the metadata and the leaves of a snapshot, without loading its data.

    Args:
        snapshot_id: The name, which you can leave out if no other name has such an id; then the id, the beginning of
            it, or latest.
        leaves: A pattern of the leaf paths to list, such as 'encoder/**'. Repeat it for several.
    """
    from .finding import find

    [found] = find(session.open(), snapshot_id, name, number=1)
    described = [_described_leaf(leaf) for leaf in found.leaves(leaves)]
    return Answer({**_described(found), "leaves": described}, views.snapshot)


@app.command
def diff(
    *snapshot_ids: Annotated[str, Parameter(name="[NAME] OLD NEW"), completed(snapshot_ids)],
    name: Under = None,
    allow_pickle: bool = False,
    session: SessionArgument,
) -> Answer:
    """Show which leaves differ between two snapshots, and by how much: diff NAME OLD NEW.

    Only leaves that differ are read: identical data is stored once.

    Args:
        snapshot_ids: The name, which you can leave out if no other name has these ids; then two ids, beginnings of
            ids, or latest.
        allow_pickle: Also compare pickled leaves. This runs code from the repository: use it only if you trust
            everyone who can write to it.
    """
    from ..values.diff import diff_contents
    from .finding import find

    before, after = find(session.open(), snapshot_ids, name, number=2)
    with before.naming_damage(), after.naming_damage():
        contents = before.backend.content(before.record), after.backend.content(after.record)
        try:
            differences = diff_contents(*contents, allow_pickle=allow_pickle)
        except PickleRefused as error:
            reason = "It was stored with pickle. --allow-pickle compares it, which runs code from the repository."
            raise PickleRefused(error.path, reason) from None
    document = {
        "old": before.reference,
        "new": after.reference,
        "differences": [asdict(difference) for difference in differences],
    }
    count = count_text(len(differences), "leaf differs", "leaves differ")
    return Answer(document, views.differences, f"{count}." if differences else "They are identical.")


# --- annotating --------------------------------------------------------------------------------------------------


@app.command
def describe(
    *snapshot_id: Annotated[str, Parameter(name="[NAME] [ID]"), completed(snapshot_ids)],
    description: str | None = None,
    add_tag: list[str] | None = None,
    remove_tag: list[str] | None = None,
    name: Under = None,
    session: SessionArgument,
) -> Answer:
    """Describe a snapshot, or a name: set its description, add or remove tags. Without any of these, show them.

    Args:
        snapshot_id: The name, to describe the name itself. Or the id of a snapshot, with its name in front if other
            names have such an id.
        description: The text. An empty one removes it.
        add_tag: A tag to add. Repeat it for several.
        remove_tag: A tag to remove. Repeat it for several.
    """
    from ..snapshots import SnapshotManager, list_names
    from .finding import find

    changes = description is not None or bool(add_tag) or bool(remove_tag)
    repository = session.open(writing=changes)
    if len(snapshot_id) == 1 and name is None and snapshot_id[0] in list_names(repository):
        manager: SnapshotManager[Any] = SnapshotManager(repository, name=snapshot_id[0])
        document, one = {"name": snapshot_id[0], "id": None}, None
    else:
        [found] = find(repository, snapshot_id, name, number=1)
        manager, one, document = found.manager(), found.record.id, dict(found.reference)
    if changes:
        manager.describe(one, description=description, add_tags=add_tag, remove_tags=remove_tag)
    about = manager.get_description() if one is None else manager.current_records().get(one).about
    return Answer({**document, **asdict(about)}, view_description)


@app.command
def pin(*snapshot_ids: Ids, name: Under = None, session: SessionArgument) -> Answer:
    """Exempt snapshots from eviction and retention.

    Args:
        snapshot_ids: The name, which you can leave out if no other name has these ids; then their ids, the beginnings
            of them, or latest.
    """
    return _set_pinned(session, snapshot_ids, name, True)


@app.command
def unpin(*snapshot_ids: Ids, name: Under = None, session: SessionArgument) -> Answer:
    """Allow eviction and retention to delete snapshots again.

    Args:
        snapshot_ids: The name, which you can leave out if no other name has these ids; then their ids, the beginnings
            of them, or latest.
    """
    return _set_pinned(session, snapshot_ids, name, False)


@app.command
def rename(name: Name, new_name: str, /, *, dry_run: bool = False, session: SessionArgument) -> Answer:
    """Rename a group of snapshots. They keep their ids, times, metadata, tags and pins. No data is copied.

    If it is interrupted, run it again to finish.

    Args:
        name: The name under which the snapshots were saved.
        new_name: The new name.
        dry_run: Only check whether it can be renamed.
    """
    from ..snapshots import SnapshotManager
    from .finding import check_known

    repository = session.open(writing=not dry_run)
    check_known(repository, name)
    manager: SnapshotManager[Any] = SnapshotManager(repository, name=name)
    count = len(manager)
    manager.rename(new_name, dry_run)
    document = {"name": new_name, "previous": name, "snapshots": count, "dry_run": dry_run}
    return renamed(name, new_name, count_text(count, "snapshot"), document)


@app.command
def delete(
    *snapshot_ids: Ids,
    every: Annotated[bool, Parameter(name="--all")] = False,
    force: bool = False,
    dry_run: bool = False,
    name: Under = None,
    session: SessionArgument,
) -> Answer:
    """Delete snapshots. Asks first.

    Args:
        snapshot_ids: The name, which you can leave out if no other name has these ids; then their full ids.
        every: Delete all snapshots under the name. Pass no ids.
        force: Delete snapshots even if they are pinned.
        dry_run: Only show what would be deleted.
    """
    from .finding import find, find_all

    repository = session.open(writing=not dry_run)
    if every:
        chosen = find_all(repository, snapshot_ids, name)
    else:
        chosen = find(repository, snapshot_ids, name, whole=True, otherwise="To delete all of them, pass --all.")
    pinned = [found.label for found in chosen if found.record.pinned]
    if pinned and not force:
        raise Pinned(
            f"Pinned: {', '.join(pinned[:_LISTED])}. Nothing was deleted. Run `prefect-snapshots snapshots unpin` "
            "first, or pass --force."
        )
    what = count_text(len(chosen), "snapshot")
    if every:
        what = f"{what} under {chosen[0].name} ({size_text(sum(found.record.size for found in chosen))})"
    else:
        labels = [f"{PIN} {found.label}" if found.record.pinned else found.label for found in chosen[:_LISTED]]
        if len(chosen) > _LISTED:
            labels.append(f"and {len(chosen) - _LISTED:,} more")
        what = f"{what} ({', '.join(labels)})"
    if not dry_run:
        session.confirm(f"Delete {what}?")
        if every:
            chosen[0].manager().delete_all(force)
        for found in () if every else chosen:
            found.manager().delete_snapshot(found.record.id, force)
    return deleted(what, {"deleted": [_described(found) for found in chosen]}, dry_run)


@app.command
def cleanup(
    name: Name,
    /,
    *,
    dry_run: bool = False,
    rank_by: str | None = None,
    mode: Literal["min", "max"] | None = None,
    retention: SnapshotRetention = NO_SNAPSHOT_RETENTION,
    session: SessionArgument,
) -> Answer:
    """Delete snapshots that the retention policy does not keep. Pinned ones stay.

    `prefect-snapshots prune` reclaims the space.

    Args:
        name: The name under which the snapshots were saved.
        dry_run: Only show what would be deleted, and why the rest is kept.
        rank_by: The metadata key that ranks them, for --keep-best. Default: the newest are the best.
        mode: Whether the largest value of that key is best, or the smallest. Default: max.
    """
    from ..snapshots import SnapshotManager
    from .finding import check_known

    policy = required_policy(retention)
    _check_mode(mode, rank_by)
    repository = session.open(writing=not dry_run)
    check_known(repository, name)
    manager: SnapshotManager[Any] = SnapshotManager(repository, name=name, rank_by=rank_by, mode=mode or "max")
    return cleaned(manager.cleanup(policy, dry_run), "snapshot")


@app.command
def restore(
    *snapshot_id: Id,
    to: Path,
    leaves: list[str] | None = None,
    name: Under = None,
    session: SessionArgument,
) -> Answer:
    """Write a snapshot to a file. Every byte is verified. Asks before it replaces a file.

    FILE.snapshots contains everything unchanged; read it with SnapshotManager.load_from_file.
    FILE.npz contains arrays and numbers by the paths of their leaves; read it with numpy.load. If it cannot store a
    leaf, nothing is written: choose other leaves with --leaves.

    Args:
        snapshot_id: The name, which you can leave out if no other name has such an id; then the id, the beginning of
            it, or latest.
        to: The file to write: FILE.snapshots or FILE.npz.
        leaves: A pattern of the leaf paths to write into FILE.npz, such as 'encoder/**'. Repeat it for several.
    """
    if to.suffix not in (".snapshots", ".npz"):
        raise InvalidArgument(f"The suffix of {to} must be .snapshots or .npz, because it selects the format.")
    if leaves and to.suffix != ".npz":
        raise InvalidArgument("--leaves works only with an .npz file: a .snapshots file contains everything.")
    if not to.parent.is_dir():
        raise InvalidArgument(f"There is no directory {to.parent} to write {to.name} to.")
    from .finding import find

    [found] = find(session.open(), snapshot_id, name, number=1)
    if to.exists():
        session.confirm(f"{to} exists. Replace it?")
    if to.suffix == ".npz":
        from .npz import write_npz

        chosen = found.leaves(leaves)
        with found.naming_damage():
            write_npz(to, chosen, *found.backend.content(found.record))
    else:
        from ..repository.progress import silent, watched
        from ..snapshots.exported_file import Exported, write_file
        from ..snapshots.records import Ranking

        with session.progress("byte") as progress, watched(progress or silent), found.naming_damage():
            write_file(to, Exported(found.name, None, None, Ranking()), [found.record], found.backend.encoded)
    size = to.stat().st_size
    document = {**found.reference, "to": str(to.absolute()), "bytes": size}
    return Answer(document, remark=f"Wrote {found.label} to {to}, {size_text(size)}.")


# --- documents ---------------------------------------------------------------------------------------------------


def _list_names(repository: Repository) -> Answer:
    from ..snapshots.backends import opened_names

    totals = [_totals(name, backend.view.by_id.values()) for name, backend in opened_names(repository).items()]
    return Answer({"repository": repository.url, "names": totals}, views.names)


def _totals(name: str, records: Collection[Record]) -> views.Document:
    latest = max(records, key=lambda record: record.sequence, default=None)
    return {
        "name": name,
        "snapshots": len(records),
        "size": sum(record.size for record in records),
        "written": sum(record.written for record in records),
        "latest": latest and {"id": latest.id, "created_at": latest.timestamp},
    }


def _described(found: Found) -> views.Document:
    return {"name": found.name, **asdict(found.record.info)}


def _described_leaf(leaf: LeafInfo) -> views.Document:
    document = {"path": leaf.path, "kind": leaf.kind, "dtype": leaf.dtype, "shape": leaf.shape, "bytes": leaf.nbytes}
    if leaf.inline:
        document["value"] = leaf.value if type(leaf.value) in _JSON_TYPES else repr(leaf.value)
    return document


# --- what was typed ----------------------------------------------------------------------------------------------


def _check_mode(mode: str | None, rank_by: str | None) -> None:
    if mode is not None and rank_by is None:
        raise InvalidArgument("--mode needs --rank-by, the metadata key that ranks.")


def _set_pinned(session: Session, snapshot_ids: tuple[str, ...], name: str | None, pinned: bool) -> Answer:
    repository = session.open(writing=True)
    from .finding import find

    chosen = find(repository, snapshot_ids, name)
    for found in chosen:
        manager = found.manager()
        (manager.pin if pinned else manager.unpin)(found.record.id)
    document = {"pinned": pinned, "snapshots": [found.reference for found in chosen]}
    return Answer(document, remark=f"{'Pinned' if pinned else 'Unpinned'} {count_text(len(chosen), 'snapshot')}.")
