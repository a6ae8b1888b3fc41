"""Check that every committed object exists and, with `read_data`, that every byte is as it was written.

A *problem* is one fault and the versions that it affects. *Damage* is a fault inside a pack.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from ...errors import DamagedObject, IntegrityError, ObjectMissing
from .. import index as index_module
from .. import keyed, logs
from .. import packs as packs_module
from ..catalog import CATALOG, COMPACTED, ROOT, Root, slot_path
from ..configuration import CONFIG, CONFIG_COPY, parse_config
from ..contents import ContentReader
from ..index import ChunkCopy, Index, find_rows
from ..location import Location, ObjectInfo
from ..objects import read_each
from ..opened import Opened
from ..packs import open_chunk, open_pack, pack_path
from ..progress import Progress, silent
from ..sealing import ID_SIZE
from .liveness import list_packs, live_contents, paths, unregistered, version_label
from .rows import entries_of, groups, named_packs
from .stream_scanning import Slots, root_of, scan_stream, scan_streams

_DAY = 24 * 3600
_BATCH = 64
"""Objects that are read together: enough to keep all requests busy."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A fault in a repository.

    Attributes:
        path: The object that is damaged or missing.
        what: What is wrong with it.
        versions: The versions that it affects; empty if there are none.
    """

    path: str
    what: str
    versions: tuple[str, ...] = ()


@dataclass(slots=True)
class CheckReport:
    """The result of `check`: what was examined, and the problems found."""

    streams: int = 0
    versions: int = 0
    packs: int = 0
    chunks: int = 0
    bytes_read: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Harmless observations: unknown objects, clocks that disagree."""

    @property
    def ok(self) -> bool:
        """Return whether no problems were found."""
        return not self.problems


Damage = dict[tuple[bytes, bytes | None], str]
"""What is wrong, by pack and chunk. The chunk is None for the header or table of the pack."""


def check(opened: Opened, read_data: bool, progress: Progress | None = None) -> CheckReport:
    """See `Repository.check`."""
    location = opened.store.location
    while True:
        packs, root = paths(location, packs_module.PREFIX), paths(location, f"{CATALOG}/{ROOT}")
        report = look(opened, read_data, {}, progress or silent)
        still = packs <= paths(location, packs_module.PREFIX) and root == paths(location, f"{CATALOG}/{ROOT}")
        if report.ok or still:
            return report
        # A concurrent prune deleted something that this check had already seen: check again.


def look(opened: Opened, read_data: bool, damage: Damage, say: Progress) -> CheckReport:
    """Check everything once. `damage` is the damage to packs that is already known."""
    opened = opened.apart(writing=False)
    report = CheckReport()
    check_config(opened.store.location, report)
    scanned = list(scan_streams(opened))
    root = root_of(scanned[0])
    report.streams = len(scanned) - 1
    for number, slots in enumerate(scanned):
        say("streams", number, len(scanned))
        _check_slots(slots, report)
    for _ in opened.index.looks():
        pass
    for name, error in opened.index.damaged.items():
        report.problems.append(Problem(name, error.reason))
    packs = list_packs(opened)
    for pack in named_packs(opened.index) - packs.keys():
        size = opened.store.location.size(pack_path(pack))
        if size is not None:
            packs[pack] = ObjectInfo(pack_path(pack), size, time.time())
    report.packs = len(packs)
    if read_data:
        damage = dict(read_packs(opened, packs, report, say))
    hurt = _check_contents(opened, scanned, packs, damage, report)
    _check_logs(opened, scanned, read_data, report)
    _check_values(opened, root, read_data, report)
    for (pack, chunk), reason in damage.items():
        if chunk not in hurt and pack not in root.condemned:
            report.problems.append(Problem(pack_path(pack), reason))
    _check_unknown(opened, scanned, root, report)
    return report


def check_config(location: Location, report: CheckReport) -> None:
    configs = []
    for path in (CONFIG, CONFIG_COPY):
        try:
            configs.append(parse_config(path, location.read(path)))
        except ObjectMissing:
            report.problems.append(Problem(path, "it is missing"))
        except DamagedObject as error:
            report.problems.append(Problem(path, error.reason))
    if configs and configs[0] != configs[-1]:
        report.problems.append(Problem(CONFIG_COPY, f"it differs from {CONFIG}"))


def _check_slots(slots: Slots, report: CheckReport) -> None:
    stream = slots.stream
    for sequence, reason in sorted(slots.damaged.items()):
        event = slots.events.get(sequence) or slots.rescued.get(sequence)
        versions = (version_label(stream, event) if event else f"{stream.label}#{sequence}",)
        report.problems.append(Problem(slot_path(stream.id, sequence), reason, versions if stream.kind else ()))
    for path, reason in slots.bad_summaries.items():
        report.problems.append(Problem(path, reason))


def _check_contents(
    opened: Opened, scanned: list[Slots], packs: dict[bytes, ObjectInfo], damage: Damage, report: CheckReport
) -> dict[bytes, list[str]]:
    """Look for an intact copy of every chunk that a live version needs. Return the chunks without one."""
    index = opened.index
    heads, table, numbers = index.table()
    sizes = np.array([packs[pack].size if pack in packs else -1 for pack in numbers], np.int64)
    sound_copies = table["offset"].astype(np.int64) + table["stored"] <= sizes[table["pack"]]
    for pack, chunk in damage:
        if chunk is not None:
            for row in find_rows(heads, table, np.frombuffer(chunk, f"V{ID_SIZE}"))[1]:
                sound_copies[row] &= numbers[table["pack"][row]] != pack
    sound = index.readable(np.arange(len(heads)), lambda some: sound_copies[some])
    needed = np.zeros(len(heads), bool)
    hurt: dict[bytes, list[str]] = {}
    for slots in scanned:
        stream = slots.stream
        stream.events = slots.in_order()
        for event, content in live_contents(stream):
            report.versions += 1
            label = version_label(stream, event)
            path = slot_path(stream.id, event.sequence)
            if event.sequence in slots.emptied:
                report.problems.append(Problem(path, "the data stored inside the event is lost", (label,)))
            if content.depth == 0:
                continue
            try:
                chunks = ContentReader(opened.reader, content).all_rows()["chunk"]
            except IntegrityError as error:
                report.problems.append(Problem(path, str(error), (label,)))
                continue
            which, rows = find_rows(heads, table, chunks)
            needed[rows] = True
            for chunk in {chunk.tobytes() for chunk in np.delete(chunks, which[sound[rows]])}:
                hurt.setdefault(chunk, []).append(label)
    report.chunks = len(np.unique(groups(heads, table)[needed]))

    def is_sound(entry: ChunkCopy) -> bool:
        info = packs.get(entry.pack)
        ends = entry.offset + entry.stored
        return info is not None and ends <= info.size and (entry.pack, entry.chunk) not in damage

    blamed: dict[bytes, list[str]] = {}
    for chunk, versions in hurt.items():
        for guilty in _at_fault(index, chunk, is_sound):
            blamed.setdefault(guilty, []).extend(versions)
    for chunk, versions in blamed.items():
        copies = [entry.pack for entry in index.find_all(chunk) if not is_sound(entry)]
        known = [pack for pack in copies if (pack, chunk) in damage]
        if known:
            problem = Problem(pack_path(known[0]), damage[known[0], chunk], tuple(dict.fromkeys(versions)))
        elif copies:
            problem = Problem(pack_path(copies[0]), "the pack is missing or cut short", tuple(dict.fromkeys(versions)))
        else:
            problem = Problem(f"chunk {chunk.hex()[:16]}", "it is in no pack", tuple(dict.fromkeys(versions)))
        report.problems.append(problem)
    return blamed


def _at_fault(index: Index, chunk: bytes, is_sound: Callable[[ChunkCopy], bool]) -> list[bytes]:
    """Return the chunks that make a chunk unreadable: itself, or the lost bases of an intact delta."""
    bases = {base for entry in index.find_all(chunk) if is_sound(entry) for base in entry.bases}
    lost = [base for base in bases if not any(copy.whole and is_sound(copy) for copy in index.find_all(base))]
    return lost or [chunk]


def _check_logs(opened: Opened, scanned: list[Slots], read_data: bool, report: CheckReport) -> None:
    """Check every log segment in use: its size or, with `read_data`, all of its data."""
    for slots in scanned:
        try:
            logs.extents(slots.in_order())
        except IntegrityError as wrong:
            report.problems.append(Problem(f"{CATALOG}/{slots.stream.id}", str(wrong), (slots.stream.label,)))
            continue
        for segment, error in damaged_segments(opened, slots, read_data, report):
            # A segment may have been merged and pruned since the stream was scanned: that is no problem.
            now = scan_stream(opened, slots.stream.kind, slots.stream.name)
            if segment in logs.wanted(now.in_order()):
                report.problems.append(Problem(error.path, error.reason, (slots.stream.label,)))


def _check_values(opened: Opened, root: Root, read_data: bool, report: CheckReport) -> None:
    """Count the values that have an object each and, with `read_data`, read them. Nothing says which must exist."""
    infos = opened.store.location.list(keyed.PREFIX)
    unread = {info.path.split("/")[1] for info in infos}
    for values in keyed.values_in(opened, infos):
        unread.remove(values.stream)
        report.versions += sum(not one.elsewhere for one in values.live.values())
        report.notes += [f"{path} does not belong to a repository" for path in values.foreign]
        if read_data:
            report.problems += [
                Problem(one.info.path, error.reason, (values.label(one),))
                for one, error in damaged_values(opened, values, report)
            ]
    for folder in sorted(unread):
        kind, name = root.streams.get(folder, (keyed.PREFIX, folder))
        what = "their events are damaged" if folder in root.streams else "their stream is not registered"
        label = f"{kind}/{name}"
        report.problems.append(Problem(f"{keyed.PREFIX}/{folder}", f"these values cannot be read: {what}", (label,)))


def damaged_values(
    opened: Opened, values: keyed.ValuesOfName, report: CheckReport
) -> Iterator[tuple[keyed.Listed, DamagedObject]]:
    """Read the values of a name, and yield those that are damaged."""
    every = list(values.live.values())
    for start in range(0, len(every), _BATCH):
        some = every[start : start + _BATCH]
        data = read_each(opened.store.location, [one.info.path for one in some])
        for one, found in zip(some, data, strict=True):
            try:
                if isinstance(found, DamagedObject):
                    raise found
                if found is not None:  # otherwise it was deleted meanwhile
                    keyed.open_value(opened.sealer, one.info.path, found, one.key)
                    report.bytes_read += len(found)
            except DamagedObject as error:
                yield one, error


def damaged_segments(
    opened: Opened, slots: Slots, read_data: bool, report: CheckReport
) -> Iterator[tuple[str, DamagedObject]]:
    """Find the log segments of a stream that differ from what its events recorded."""
    location, stream = opened.store.location, slots.stream.id
    events = slots.in_order()
    known = logs.extents(events)
    listed = logs.list_objects(location, stream) if known and not read_data else None
    for segment in logs.wanted(events):
        try:
            if read_data:
                report.bytes_read += logs.verify(location, opened.sealer, stream, segment, known.get(segment))
            elif segment in known:
                reader = logs.SegmentReader(location, opened.sealer, stream, segment, known[segment])
                reader.check_size(None if listed is None else listed.get(segment, {}))
        except DamagedObject as error:
            yield segment, error


def read_packs(
    opened: Opened, packs: dict[bytes, ObjectInfo], report: CheckReport, say: Progress
) -> Iterator[tuple[tuple[bytes, bytes | None], str]]:
    """Read and verify every byte of every pack, and yield the damage."""
    total = sum(info.size for info in packs.values())
    done = 0
    for pack, info in packs.items():
        say("reading", done, total)
        done += info.size
        if info.size > packs_module.LARGEST:
            yield (pack, None), f"it has {info.size:,} bytes, more than the largest possible pack"
            continue
        try:
            data = memoryview(opened.store.location.read(info.path))
        except ObjectMissing:
            continue  # pruned meanwhile
        except DamagedObject as error:
            yield (pack, None), error.reason
            continue
        try:
            entries = open_pack(opened.sealer, pack, data)
        except DamagedObject as error:
            yield (pack, None), error.reason
            entries = entries_of(opened.index, pack)
        for entry in entries:
            try:
                prefix = opened.reader.read_bases(entry.bases)
            except IntegrityError:
                # Reported for the pack of the bases. Prune leaves deltas without bases only if no version needs them.
                continue
            try:
                open_chunk(opened.sealer, entry, data[entry.offset : entry.offset + entry.stored], prefix)
            except DamagedObject as error:
                yield (pack, entry.chunk), error.reason
        report.bytes_read += len(data)
    say("reading", total, total)


def _check_unknown(opened: Opened, scanned: list[Slots], root: Root, report: CheckReport) -> None:
    """Note objects that do not belong to a repository, and implausible times."""
    folders = (packs_module.PREFIX, index_module.PREFIX, CATALOG, COMPACTED, logs.PREFIX, keyed.PREFIX, "probe")
    known = (*(f"{folder}/" for folder in folders), "repository.")
    stamps: dict[str, float] = {}
    for info in opened.store.location.list(""):
        if not info.path.startswith(known):
            report.notes.append(f"{info.path} does not belong to a repository")
        elif info.path.startswith(CATALOG):
            stamps[info.path] = info.modified
    for folder in unregistered(stamps, root):
        report.problems.append(Problem(folder, "these events belong to a stream that is not registered", (folder,)))
    for slots in scanned:
        for sequence, event in slots.events.items():
            stored = stamps.get(slot_path(slots.stream.id, sequence))
            if stored is not None and abs(event.time / 1e9 - stored) > _DAY:
                report.notes.append(
                    f"{version_label(slots.stream, event)} says it was written "
                    f"{(event.time / 1e9 - stored) / _DAY:+.1f} days from when the storage received it"
                )
