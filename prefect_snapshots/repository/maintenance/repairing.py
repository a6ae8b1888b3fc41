"""Repair: restore damaged objects from other copies, keep what is still intact, and report what is lost.

A lost event is replaced by a *stand-in*, an event without content, so that the chain of its stream is whole again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from ...errors import DamagedObject, DamagedVersion, IntegrityError, ObjectMissing
from .. import keyed, logs
from ..catalog import CATALOG, Event, Root, Stream, event_hash, new_token, slot_path
from ..commits import Draft, commit
from ..configuration import config_bytes
from ..contents import ContentReader, Writer
from ..location import Buffer
from ..opened import Opened
from ..packs import pack_path, read_table
from ..progress import Progress, silent
from .checking import CheckReport, Problem, check_config, damaged_segments, damaged_values, look, read_packs
from .liveness import all_of_stream, list_packs, live_contents, stream_of, version_label
from .rows import entries_of, named_packs
from .stream_scanning import Slots, root_of, scan_streams

Act = Callable[[str, Callable[[], Any]], None]
"""Called with the description of an action and the function that performs it."""


@dataclass(slots=True)
class RepairReport:
    """The result of `repair`: what it did or, with `dry_run`, would do."""

    dry_run: bool = False
    actions: list[str] = field(default_factory=list)
    lost: list[Problem] = field(default_factory=list)
    """What cannot be restored, and the versions that this affects."""


class Elsewhere(Protocol):
    """Another repository that may have what is damaged here."""

    def content(self, kind: str, name: str, event: Event) -> ContentReader | None:
        """Return the content of a version, or None if it is not there."""

    def between(self, kind: str, name: str, before: bytes | None, after: bytes) -> list[tuple[Event, Buffer]]:
        """Return the small events between two others, given by their tokens, with the data inside them."""

    def records(self, damaged: Stream, segment: str, records: int) -> Iterator[list[Buffer]] | None:
        """Return the records of a log segment, or None if there are fewer than the given number."""

    def value(self, damaged: Opened, values: keyed.ValuesOfName, key: str) -> keyed.Value | None:
        """Return the value of a key that has its own object, or None if it is not there."""


def repair(
    opened: Opened, dry_run: bool, progress: Progress | None = None, elsewhere: Elsewhere | None = None
) -> RepairReport:
    """See `Repository.repair`. Stop other writers first: it replaces damaged objects in place."""
    opened = opened.apart(writing=not dry_run)
    say = progress or silent
    report = RepairReport(dry_run)

    def act(what: str, do: Callable[[], Any]) -> None:
        report.actions.append(what)
        if not dry_run:
            do()

    _repair_config(opened, act)
    root = Root()
    for slots in scan_streams(opened):
        _repair_stream(opened, slots, root.epoch, report, act, elsewhere)
        if elsewhere is not None:
            _restore_inline(opened, slots, elsewhere, act)
        _repair_logs(opened, slots, report, act, elsewhere)
        if not slots.stream.kind:
            root = root_of(slots)
    _repair_index(opened, root.condemned, act)
    damage = dict(read_packs(opened, list_packs(opened), CheckReport(), say))
    _repair_packs(opened, {pack for pack, _ in damage}, root, act)
    if elsewhere is not None:
        _restore_contents(opened, {pack for pack, _ in damage}, elsewhere, act)
    _repair_values(opened, report, act, elsewhere)
    if not dry_run:
        report.lost += [problem for problem in look(opened, False, damage, say).problems if problem.versions]
    return report


def _repair_config(opened: Opened, act: Act) -> None:
    found = CheckReport()
    check_config(opened.store.location, found)
    for problem in found.problems:
        path = problem.path
        act(f"rewrite {path}", partial(opened.store.location.replace, path, config_bytes(opened.config)))


def _repair_stream(
    opened: Opened, slots: Slots, epoch: int, report: RepairReport, act: Act, elsewhere: Elsewhere | None
) -> None:
    """Restore damaged slots from summaries. Without a summary, a stand-in keeps the chain whole."""
    stream, location = slots.stream, opened.store.location
    for path in slots.bad_summaries:
        act(f"delete the damaged summary {path}", partial(location.delete, [path]))
    for sequence in sorted(slots.damaged):
        path = slot_path(stream.id, sequence)
        event = slots.rescued.get(sequence)
        found = _recovered(slots, sequence, elsewhere) if event is None and elsewhere is not None else None
        if found is not None:
            event, data = found
            restore = partial(location.replace, path, stream.slot_bytes(event, data))
            act(f"restore {path} from the other repository", restore)
        elif event is not None:
            act(f"restore {path} from a summary", partial(location.replace, path, stream.slot_bytes(event)))
        else:
            event = _stand_in(sequence, slots.events.get(sequence - 1), slots.events.get(sequence + 1), epoch)
            act(
                f"replace the lost {path} with a placeholder", partial(location.replace, path, stream.slot_bytes(event))
            )
            hit = (f"{stream.label}#{sequence}",)
            report.lost.append(Problem(path, "the event is lost", hit))
        slots.events[sequence] = event


def _recovered(slots: Slots, sequence: int, elsewhere: Elsewhere) -> tuple[Event, Buffer] | None:
    """Return a lost event with the data inside it from another repository, where it has another number and predecessor.

    The hash in the next event proves that it is exactly the lost one. An event that deletes something, or whose content
    is in chunks, says something of its own repository, and cannot be restored in this way.
    """
    before, after = slots.events.get(sequence - 1), slots.events.get(sequence + 1)
    if after is None or (before is None and sequence > 1):
        return None
    previous = event_hash(before) if before else bytes(32)
    token = before.token if before else None
    for other, data in elsewhere.between(slots.stream.kind, slots.stream.name, token, after.token):
        for epoch in {before.epoch if before else 0, after.epoch}:
            event = Event(sequence, previous, epoch, other.token, other.time, other.kind, other.body, other.content)
            if event_hash(event) == after.previous:
                return event, data
    return None


def _restore_inline(opened: Opened, slots: Slots, elsewhere: Elsewhere, act: Act) -> None:
    """Restore the data inside events that were restored from a summary, or whose data is damaged."""
    stream, location = slots.stream, opened.store.location
    deletes = {sequence for event in slots.events.values() for sequence in event.deletes}
    for sequence, event in slots.events.items():
        content = event.content
        if content is None or content.depth or sequence in deletes:
            continue
        if sequence in slots.emptied or (sequence in slots.damaged and sequence in slots.rescued):
            found = elsewhere.content(stream.kind, stream.name, event)
            if found is not None and found.inline is not None and len(found.inline.inline) == content.size:
                path = slot_path(stream.id, sequence)
                act(
                    f"restore the data in {path} from the other repository",
                    partial(location.replace, path, stream.slot_bytes(event, found.inline.inline)),
                )


def _restore_contents(opened: Opened, hurt: set[bytes], elsewhere: Elsewhere, act: Act) -> None:
    """Store again what live versions need and no intact pack has."""
    opened.catalog.root.refresh()
    opened.index.load()
    avoid = frozenset(opened.catalog.state.condemned | hurt)
    missing = named_packs(opened.index) - list_packs(opened).keys()
    avoid |= {pack for pack in missing if opened.store.location.size(pack_path(pack)) is None}

    def restore(event: Event, found: ContentReader, label: str) -> None:
        with Writer(opened.store, opened.catalog.state.epoch, avoid) as writer:
            # The same bytes in the same pieces have the same names, so that the event needs no change.
            stored = writer.adopt(found).content
            wanted = event.content
            if wanted is None or (stored.depth, stored.table) != (wanted.depth, wanted.table):
                raise DamagedVersion(label, "", "the other repository has other data under this version")
            writer.flush()

    for kind, name in opened.catalog.streams().values():
        try:
            stream = all_of_stream(opened, kind, name)
        except IntegrityError:
            continue  # the final check reports it
        for event, content in live_contents(stream):
            if content.depth == 0:
                continue
            try:
                rows = ContentReader(opened.reader, content).all_rows()
                whole = bool(Writer(opened.store, 0, avoid).has(rows).all())
            except IntegrityError:
                whole = False
            found = None if whole else elsewhere.content(kind, name, event)
            if found is not None:
                label = version_label(stream, event)
                act(f"restore {label} from the other repository", partial(restore, event, found, label))


def _repair_logs(
    opened: Opened, slots: Slots, report: RepairReport, act: Act, elsewhere: Elsewhere | None = None
) -> None:
    """Copy the intact records out of damaged log segments, and drop these. Lost items are then computed again."""
    location, stream = opened.store.location, slots.stream
    begun = {event.body["segment"]: event for event in slots.in_order() if isinstance(event.body.get("segment"), str)}
    try:
        damaged = list(damaged_segments(opened, slots, True, CheckReport()))
    except IntegrityError as wrong:  # an invalid event: `check` reports it, and the other segments are repaired
        report.lost.append(Problem(f"{CATALOG}/{stream.id}", str(wrong), (stream.label,)))
        return
    known = logs.extents(slots.in_order())
    stream.events = slots.in_order()
    for segment, error in damaged:
        records = known[segment].records if segment in known else 0
        saved = elsewhere.records(stream, segment, records) if elsewhere is not None and records else None
        if saved is None:
            report.lost.append(Problem(error.path, error.reason, (stream.label,)))

        def replace(segment: str = segment, saved: Iterator[list[Buffer]] | None = saved) -> None:
            writer = logs.SegmentWriter(location, opened.sealer, stream.id, logs.new_segment())
            for frames in saved or logs.salvage(location, opened.sealer, stream.id, segment):
                writer.append(frames)
            extent = logs.Extent(writer.records, writer.size)
            # Only the kind can write a footer. Without one, the next reader reads record by record.
            writer.abandon()
            body = {
                **{name: value for name, value in begun[segment].body.items() if name not in _OF_THE_OLD},
                **extent.body(),
                "segment": writer.segment,
                "drops": [segment],
            }
            # One event drops the old segment and registers the new one, so that exactly one of them is always in use.
            current = stream_of(opened, stream.kind, stream.name)
            current.refresh()
            commit(opened.catalog, opened.store, current, lambda: Draft("merged", body, time=begun[segment].time))

        place = "out of" if saved is None else "from the other repository in place of"
        act(f"copy intact data {place} {error.path}, and delete it", replace)


_OF_THE_OLD = frozenset({"seen", "drops", "records", "size", "hash", "plan", "batch"})
"""What an event says of the segment that it registered, and of no other one."""


def _stand_in(sequence: int, before: Event | None, after: Event | None, epoch: int) -> Event:
    """Return an event without content. It has the newest epoch, because the lost one may have been a fence."""
    previous = event_hash(before) if before else bytes(32)
    body = {"hash": after.previous if after else bytes(32)}
    return Event(sequence, previous, epoch, new_token(), time.time_ns(), "lost", body)


def _repair_values(opened: Opened, report: RepairReport, act: Act, elsewhere: Elsewhere | None) -> None:
    """Restore damaged values that have an object each, or delete them: whoever needs one computes it again."""
    location = opened.store.location
    for values in keyed.values_in(opened, location.list(keyed.PREFIX)):
        for one, error in damaged_values(opened, values, CheckReport()):
            path = one.info.path
            found = None if elsewhere is None or one.key is None else elsewhere.value(opened, values, one.key)
            if found is not None:
                data = keyed.seal_value(opened.sealer, path, found)
                act(f"restore {path} from the other repository", partial(location.put, path, data))
            else:
                report.lost.append(Problem(path, error.reason, (values.label(one),)))
                act(f"delete the damaged {path}", partial(location.delete, [path]))


def _repair_index(opened: Opened, condemned: set[bytes], act: Act) -> None:
    """Add to the index what no intact index object says of packs, from their own tables.

    An object that names a pack need not have all of its entries: others may be in one that is damaged or lost.
    """
    index = opened.index
    index.load()
    for pack in sorted(list_packs(opened).keys() - condemned):
        try:
            entries = read_table(opened.store.location, opened.sealer, pack)
        except (DamagedObject, ObjectMissing):
            continue
        absent = [entry for entry in entries if entry not in index.find_all(entry.chunk)]
        if absent:
            act(f"add {pack_path(pack)} to the index", partial(index.publish, absent))
    for name in list(index.damaged):
        act(f"delete the damaged {name}", partial(opened.store.location.delete, [name]))
        act(f"remove {name} from the index", partial(index.forget, name))


def _repair_packs(opened: Opened, damaged: set[bytes], root: Root, act: Act) -> None:
    """Copy the intact chunks out of damaged or missing packs, and condemn these. The rest can then be saved again."""
    location, catalog = opened.store.location, opened.catalog
    absent = named_packs(opened.index) - list_packs(opened).keys() - root.condemned
    hurt = damaged - root.condemned | {pack for pack in absent if location.size(pack_path(pack)) is None}
    if not hurt:
        return

    def condemn() -> None:
        catalog.root.refresh()
        with Writer(opened.store, catalog.state.epoch, frozenset(catalog.state.condemned | hurt)) as writer:
            for pack in hurt:
                for entry in entries_of(opened.index, pack):
                    try:
                        data = location.read_range(pack_path(pack), entry.offset, entry.stored)
                        writer.copy(entry.chunk, opened.reader.open(entry, data), entry.bases)
                    except (IntegrityError, ObjectMissing):
                        continue  # this chunk is lost; the final check reports the versions that need it
            writer.flush()
        body = {"packs": b"".join(sorted(hurt))}
        attempt = 0
        while catalog.root.append("condemn", body, epoch=catalog.state.epoch, token=new_token()) is None:
            attempt += 1
            catalog.root.back_off(attempt)
            catalog.root.refresh()

    packs = "1 damaged pack" if len(hurt) == 1 else f"{len(hurt):,} damaged packs"
    act(f"copy the intact data of {packs}; a later prune deletes the rest", condemn)
