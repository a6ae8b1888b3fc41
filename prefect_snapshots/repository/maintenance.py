"""Looking after a repository: check, prune, repair, statistics.

Only `prune` and `repair` delete anything. Prune is safe beside any number of writers, however long they are paused:

1. It copies what lives out of the packs that are mostly garbage, then *condemns* these in the root stream. The number
   of that event is the new *epoch*.
2. It puts a *fence*, an event of that epoch, at the head of every registered stream. From then on no writer that
   decided by an older epoch can commit there: it has to read root, and store again what lies in condemned packs.
3. It works out from all streams what lives now. What was committed before the fence is seen here.
4. It deletes the condemned packs in which every live chunk has a copy outside condemned packs.

Every step can be repeated by anyone after a kill. Rival prunes are ordered by the root stream.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DamagedObject, IntegrityError, MissingChunk, ObjectMissing
from . import index as index_module
from . import packs as packs_module
from .catalog import (
    CATALOG,
    COMPACTED,
    Event,
    Stream,
    event_hash,
    new_token,
    slot_path,
)
from .contents import ContentReader, Piece, Writer
from .index import Index, find_rows, join_ids
from .location import ObjectInfo
from .packs import LOCAL_LIMIT, REMOTE_LIMIT, open_chunk, pack_of, pack_path, read_table

if TYPE_CHECKING:
    from .repository import Repository, _Opened

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

MAX_UNUSED = 0.1
"""Share of a pack that may be garbage before prune copies the rest of it elsewhere."""

_FEW = 32
"""Small packs that are left alone; more of them are put together."""

_BATCH = 64
_DAY = 24 * 3600


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where, what, and which versions it hits (empty when none)."""

    path: str
    what: str
    versions: tuple[str, ...] = ()


@dataclass(slots=True)
class CheckReport:
    """What `check` found."""

    streams: int = 0
    versions: int = 0
    packs: int = 0
    chunks: int = 0
    bytes_read: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Worth knowing, and harmless: unknown objects, clocks that disagree."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


@dataclass(slots=True)
class PruneReport:
    """What `prune` did, or with `dry_run` would do."""

    dry_run: bool = False
    epoch: int = 0
    packs_deleted: int = 0
    bytes_freed: int = 0
    packs_rewritten: int = 0
    bytes_copied: int = 0
    packs_waiting: int = 0
    """Packs that nothing refers to, left alone for the grace time."""
    bytes_waiting: int = 0
    index_objects_deleted: int = 0
    leftovers_deleted: int = 0


@dataclass(slots=True)
class RepairReport:
    """What `repair` did, or with `dry_run` would do."""

    dry_run: bool = False
    actions: list[str] = field(default_factory=list)
    lost: list[Problem] = field(default_factory=list)
    """What nobody can bring back, and the versions that it hits."""


@dataclass(slots=True)
class Statistics:
    """What is in a repository and what it costs."""

    objects: dict[str, int] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    streams: int = 0
    versions: int = 0
    logical_bytes: int = 0
    """Bytes that all live versions would take, each stored on its own and uncompressed."""
    requests: dict[str, int] = field(default_factory=dict)
    """Requests that this process made through this object."""

    @property
    def stored_bytes(self) -> int:
        """Bytes in all objects."""
        return sum(self.bytes.values())

    @property
    def saved_bytes(self) -> int:
        """What deduplication and compression saved."""
        return max(self.logical_bytes - self.stored_bytes, 0)


# --- what lives --------------------------------------------------------------------------------------------------


def live_events(stream: Stream) -> Iterator[Event]:
    """The events of a stream whose content is still wanted."""
    deleted = {sequence for event in stream.events for sequence in event.deletes}
    return (event for event in stream.events if event.content is not None and event.sequence not in deleted)


def version_label(stream: Stream, event: Event) -> str:
    """What messages call a version."""
    name = event.body.get("id")
    return f"{stream.label}:{name}" if isinstance(name, str) else f"{stream.label}#{event.sequence}"


def _every_stream(opened: _Opened) -> Iterator[Stream]:
    for kind, name in opened.catalog.streams().values():
        stream = Stream(lambda: opened.catalog, kind, name, lambda _: None)
        stream.refresh()
        yield stream


def _live_rows(opened: _Opened) -> NDArray[np.bool_]:
    """Which rows of the index table hold a chunk that a live version needs; every copy counts.

    Raises:
        MissingChunk: a live chunk is in no pack.
    """
    index = opened.index
    heads, table, _ = index.table()
    live = np.zeros(len(heads), bool)
    late: list[tuple[str, Any]] = []
    for stream in _every_stream(opened):
        for event in live_events(stream):
            assert event.content is not None
            if event.content.depth == 0:
                continue
            chunks = ContentReader(opened.reader, event.content).all_rows()["chunk"]
            which, rows = find_rows(heads, table, chunks)
            live[rows] = True
            absent = np.delete(chunks, which)
            if len(absent):
                late.append((version_label(stream, event), absent))
    if late:
        # Committed since the index was read. A listing may overlook an object: look twice.
        _ = index.load() or index.load()
    if index.table()[0] is not heads:
        # It grew, now or when a table of chunks was read.
        known = join_ids(heads[live], table["tail"][live])
        heads, table, _ = index.table()
        live = np.zeros(len(heads), bool)
        live[find_rows(heads, table, known)[1]] = True
    for label, chunks in late:
        which, rows = find_rows(heads, table, chunks)
        live[rows] = True
        absent = np.delete(chunks, which)
        if len(absent):
            raise MissingChunk(absent[0].tobytes().hex(), label)
    return live


def _groups(index: Index) -> NDArray[np.int64]:
    """For each row of the table, the number of its chunk: copies of one chunk share it."""
    heads, rows, _ = index.table()
    new = np.ones(len(heads), bool)
    new[1:] = (heads[1:] != heads[:-1]) | (rows["tail"][1:] != rows["tail"][:-1])
    return np.cumsum(new) - 1


def _list_packs(opened: _Opened) -> dict[bytes, ObjectInfo]:
    infos = ((pack_of(info.path), info) for info in opened.store.location.list(packs_module.PREFIX))
    return {pack: info for pack, info in infos if pack is not None}


def _in_packs(index: Index, packs: Callable[[bytes], bool]) -> NDArray[np.bool_]:
    """Which rows of the table lie in packs that are asked for."""
    _, rows, numbers = index.table()
    wanted = np.array([packs(pack) for pack in numbers], bool)
    return wanted[rows["pack"]] if len(rows) else np.zeros(0, bool)


# --- prune -------------------------------------------------------------------------------------------------------


def prune(repository: Repository, dry_run: bool, grace: float, progress: Progress | None = None) -> PruneReport:
    """See `Repository.prune`."""
    opened = repository.parts(writing=not dry_run).apart()
    say = progress or _silent
    report = PruneReport(dry_run)
    attempt = 0
    superseded: set[str] = set()
    while True:
        say("reading", 0, 3)
        opened.catalog.root.refresh()
        opened.index.load()
        _refuse_damage(opened)
        superseded = superseded or set(opened.index.objects()[1])
        candidates = _choose(opened, grace, report)
        if dry_run:
            return report
        say("copying", 1, 3)
        _copy_out(opened, candidates, report)
        if not candidates:
            break
        condemned = b"".join(sorted(candidates))
        event = opened.catalog.root.append(
            "condemn", {"packs": condemned}, epoch=opened.catalog.state.epoch, token=new_token()
        )
        if event is not None:
            break
        attempt += 1
        opened.catalog.root.back_off(attempt)
    report.epoch = opened.catalog.state.epoch
    say("deleting", 2, 3)
    doomed = {pack: info for pack, info in _list_packs(opened).items() if pack in opened.catalog.state.condemned}
    if doomed:
        _fence(opened, report.epoch)
        _delete(opened, doomed, report)
    _tidy(opened, superseded, grace, report)
    say("done", 3, 3)
    return report


def _choose(opened: _Opened, grace: float, report: PruneReport) -> set[bytes]:
    """The packs to condemn: empty of live chunks, mostly garbage, or small and many."""
    index, condemned = opened.index, opened.catalog.state.condemned
    live = _live_rows(opened)
    packs = _list_packs(opened)
    good = _in_packs(index, lambda pack: pack in packs and pack not in condemned)
    kept = np.flatnonzero(live & good)
    # One copy of each chunk is enough: the first one in the table.
    _, first = np.unique(_groups(index)[kept], return_index=True)
    kept = kept[first]
    _, rows, numbers = index.table()
    used: dict[bytes, int] = {}
    chunks: dict[bytes, int] = {}
    for number, size in zip(rows["pack"][kept].tolist(), rows["stored"][kept].tolist(), strict=True):
        pack = numbers[number]
        used[pack] = used.get(pack, 0) + size
        chunks[pack] = chunks.get(pack, 0) + 1
    limit = LOCAL_LIMIT if opened.store.location.is_local else REMOTE_LIMIT
    now = time.time()
    chosen: set[bytes] = set()
    small: set[bytes] = set()
    report.packs_waiting = report.bytes_waiting = report.bytes_freed = report.packs_rewritten = 0
    for pack, info in packs.items():
        if pack in condemned:
            report.bytes_freed += info.size
            continue
        overhead = 128 + chunks.get(pack, 0) * index_module.RECORD.itemsize
        unused = info.size - used.get(pack, 0) - overhead
        if pack not in used:
            if now - info.modified < grace:
                report.packs_waiting += 1
                report.bytes_waiting += info.size
            else:
                chosen.add(pack)
                report.bytes_freed += info.size
        elif unused > MAX_UNUSED * info.size:
            chosen.add(pack)
            report.bytes_freed += unused
        elif info.size < limit // 8:
            small.add(pack)
    if len(small) > _FEW:
        chosen |= small
    report.packs_rewritten = sum(pack in used for pack in chosen)
    report.packs_deleted = len(chosen) + sum(pack in condemned for pack in packs)
    return chosen


def _copy_out(opened: _Opened, candidates: set[bytes], report: PruneReport) -> None:
    """Give every live chunk a copy outside of candidates and condemned packs."""
    avoid = frozenset(opened.catalog.state.condemned | candidates)
    live = _live_rows(opened)
    groups = _groups(opened.index)
    packs = _list_packs(opened)
    safe = _in_packs(opened.index, lambda pack: pack in packs and pack not in avoid)
    has_safe = np.zeros(int(groups[-1]) + 1 if len(groups) else 0, bool)
    has_safe[groups[safe]] = True
    needy = np.flatnonzero(live & ~has_safe[groups]) if len(groups) else np.empty(0, np.int64)
    _, first = np.unique(groups[needy], return_index=True)
    needy = needy[first]
    # In the order in which they lie, so that reads are long.
    rows = opened.index.table()[1]
    needy = needy[np.lexsort((rows["offset"][needy], rows["pack"][needy]))]
    entries = [opened.index.entry_at(int(row)) for row in needy]
    with Writer(opened.store, opened.catalog.state.epoch, avoid) as writer:
        for start in range(0, len(entries), _BATCH):
            pieces = []
            for entry in entries[start : start + _BATCH]:
                target = bytearray(entry.size)
                pieces.append(Piece(entry.chunk, entry.size, [(0, memoryview(target))]))
            opened.reader.fetch(pieces)
            for piece in pieces:
                writer.copy(piece.chunk, piece.parts[0][1])
        writer.flush()
        report.bytes_copied += writer.written


def _fence(opened: _Opened, epoch: int) -> None:
    """Put an event of this epoch at the head of every stream: writers that are behind cannot commit any more."""
    for stream in _every_stream(opened):
        attempt = 0
        while stream.epoch < epoch:
            if stream.append("fence", {}, epoch=epoch, token=new_token()) is None:
                attempt += 1
                stream.back_off(attempt)
                stream.refresh()


def _delete(opened: _Opened, doomed: dict[bytes, ObjectInfo], report: PruneReport) -> None:
    """Delete the condemned packs that no live chunk depends on any more."""
    opened.index.load()
    # What was committed between the copying and the fence, and lives in condemned packs only.
    _copy_out(opened, set(), report)
    live = _live_rows(opened)
    index = opened.index
    groups = _groups(index)
    packs = _list_packs(opened)
    condemned = opened.catalog.state.condemned
    good = _in_packs(index, lambda pack: pack in packs and pack not in condemned)
    has_good = np.zeros(int(groups[-1]) + 1 if len(groups) else 0, bool)
    has_good[groups[good]] = True
    _, rows, numbers = index.table()
    needed = {numbers[number] for number in np.unique(rows["pack"][live & ~has_good[groups]]).tolist()}
    deleted = {pack: info for pack, info in doomed.items() if pack not in needed}
    opened.store.location.delete(pack_path(pack) for pack in deleted)
    report.packs_deleted = len(deleted)
    report.bytes_freed = max(sum(info.size for info in deleted.values()) - report.bytes_copied, 0)
    # A listing may overlook a pack: an entry goes only when its pack was condemned and is really gone.
    location = opened.store.location
    gone = {
        pack for pack in numbers if pack in deleted or (pack in condemned and location.size(pack_path(pack)) is None)
    }
    if gone:
        index.rewrite(lambda pack: pack not in gone)


def _tidy(opened: _Opened, superseded: set[str], grace: float, report: PruneReport) -> None:
    """Delete index objects that were superseded before this prune began, and what killed writers left behind."""
    location = opened.store.location
    present = {info.path for info in location.list(index_module.PREFIX)} & superseded
    location.delete(present)
    for name in present:
        opened.index.forget(name)
    report.index_objects_deleted = len(present)
    now = time.time()
    leftovers = [info.path for info in location.leftovers() if now - info.modified >= grace]
    location.delete(leftovers)
    report.leftovers_deleted = len(leftovers)


def _refuse_damage(opened: _Opened) -> None:
    if opened.index.damaged:
        name, error = next(iter(opened.index.damaged.items()))
        raise IntegrityError(f"nothing is deleted while the index is damaged ({name}: {error.reason}): repair it first")


def _silent(what: str, done: int, total: int) -> None:
    """No progress is wanted."""


# --- check -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Slots:
    """A stream as its raw slots tell it."""

    stream: Stream
    events: dict[int, Event]
    damaged: dict[int, str]
    head: int


def check(repository: Repository, read_data: bool, progress: Progress | None = None) -> CheckReport:
    """See `Repository.check`."""
    opened = repository.parts()
    say = progress or _silent
    report = CheckReport()
    _check_config(repository, report)
    needed: dict[bytes, list[str]] = {}
    sizes: dict[bytes, int] = {}
    scanned = list(_scan_streams(opened))
    report.streams = len(scanned) - 1
    for number, slots in enumerate(scanned):
        say("streams", number, len(scanned))
        _check_slots(opened, slots, report)
    index = Index(opened.store.location, opened.sealer, read_only=True)
    index.load()
    for name, error in index.damaged.items():
        report.problems.append(Problem(name, error.reason))
    for slots in scanned:
        _check_contents(opened, slots, report, needed, sizes)
    condemned = opened.catalog.state.condemned
    packs = _list_packs(opened)
    report.packs, report.chunks = len(packs), len(needed)
    for chunk, versions in needed.items():
        entries = index.find_all(chunk)
        if not any(_fits(entry, packs) for entry in entries):
            where = pack_path(entries[0].pack) if entries else f"chunk {chunk.hex()[:16]}"
            what = "the pack is missing or cut short" if entries else "the chunk is in no pack"
            report.problems.append(Problem(where, what, tuple(versions)))
    if read_data:
        bad = dict(_read_packs(opened, index, packs, report, say))
        for chunk, problem in bad.items():
            sound = any(
                _fits(entry, packs) and pack_path(entry.pack) != problem.path for entry in index.find_all(chunk)
            )
            hit = () if sound else tuple(needed.get(chunk, ()))
            if hit or pack_of(problem.path) not in condemned:
                report.problems.append(Problem(problem.path, problem.what, hit))
    _note_unknown(opened, report)
    return report


def _fits(entry: index_module.Entry, packs: dict[bytes, ObjectInfo]) -> bool:
    info = packs.get(entry.pack)
    return info is not None and entry.offset + entry.stored <= info.size


def _check_config(repository: Repository, report: CheckReport) -> None:
    from .repository import CONFIG, CONFIG_COPY, _parse_config

    for path in (CONFIG, CONFIG_COPY):
        try:
            _parse_config(path, repository.location.read(path))
        except ObjectMissing:
            report.problems.append(Problem(path, "it is missing"))
        except DamagedObject as error:
            report.problems.append(Problem(path, error.reason))


def _scan_streams(opened: _Opened) -> Iterator[_Slots]:
    """Every stream, the root first, read slot by slot without summaries, whatever is damaged."""
    root = _scan(opened, Stream(lambda: opened.catalog, "", "", lambda _: None))
    yield root
    names = {
        event.body["id"]: (event.body["kind"], event.body["name"])
        for event in root.events.values()
        if event.kind == "stream"
    }
    for kind, name in names.values():
        yield _scan(opened, Stream(lambda: opened.catalog, kind, name, lambda _: None))


def _scan(opened: _Opened, stream: Stream) -> _Slots:
    location = opened.store.location
    listed = {
        int(name)
        for info in location.list(f"{CATALOG}/{stream.id}")
        if (name := info.path.rpartition("/")[2]).isdigit()
    }
    head = max(listed, default=0)
    slots = _Slots(stream, {}, {}, head)
    for start in range(1, head + 1, _BATCH):
        paths = [slot_path(stream.id, sequence) for sequence in range(start, min(start + _BATCH, head + 1))]
        for sequence, data in enumerate(location.read_many(paths), start):
            if data is None:
                slots.damaged[sequence] = "it is missing, and a later one is there"
                continue
            try:
                event, _, _ = stream.parse(slot_path(stream.id, sequence), data)
                slots.events[sequence] = event
                if event.sequence != sequence:
                    slots.damaged[sequence] = "it holds another event than its place says"
            except DamagedObject as error:
                slots.damaged[sequence] = error.reason
    for sequence, event in slots.events.items():
        before = slots.events.get(sequence - 1)
        expected = event_hash(before) if before else bytes(32) if sequence == 1 else None
        if expected is not None and event.previous != expected:
            slots.damaged[sequence] = "it does not follow its predecessor"
    return slots


def _check_slots(opened: _Opened, slots: _Slots, report: CheckReport) -> None:
    stream = slots.stream
    for sequence, reason in sorted(slots.damaged.items()):
        event = slots.events.get(sequence)
        versions = (version_label(stream, event) if event else f"{stream.label}#{sequence}",)
        report.problems.append(Problem(slot_path(stream.id, sequence), reason, versions if stream.kind else ()))
    for info in opened.store.location.list(f"{COMPACTED}/{stream.id}"):
        try:
            events = stream.parse_compacted(info.path, opened.store.location.read(info.path))
        except (ObjectMissing, DamagedObject) as error:
            report.problems.append(Problem(info.path, getattr(error, "reason", str(error))))
            continue
        if any(slots.events.get(event.sequence, event) != event for event in events):
            report.problems.append(Problem(info.path, "it differs from the events that it sums up"))


def _check_contents(
    opened: _Opened, slots: _Slots, report: CheckReport, needed: dict[bytes, list[str]], sizes: dict[bytes, int]
) -> None:
    stream = slots.stream
    stream.events = [slots.events[sequence] for sequence in sorted(slots.events)]
    for event in live_events(stream):
        report.versions += 1
        assert event.content is not None
        label = version_label(stream, event)
        if event.content.depth == 0:
            continue
        try:
            rows = ContentReader(opened.reader, event.content).all_rows()
        except IntegrityError as error:
            report.problems.append(Problem(slot_path(stream.id, event.sequence), str(error), (label,)))
            continue
        for row in rows:
            needed.setdefault(row["chunk"].tobytes(), []).append(label)
            sizes[row["chunk"].tobytes()] = int(row["size"])


def _read_packs(
    opened: _Opened, index: Index, packs: dict[bytes, ObjectInfo], report: CheckReport, say: Progress
) -> Iterator[tuple[bytes, Problem]]:
    """Read and verify every chunk in every pack; yields the damaged ones."""
    location = opened.store.location
    total = sum(info.size for info in packs.values())
    for pack, info in packs.items():
        say("reading", report.bytes_read, total)
        try:
            entries = read_table(location, opened.sealer, pack)
        except ObjectMissing:
            continue  # pruned meanwhile
        except DamagedObject as error:
            report.problems.append(Problem(info.path, error.reason))
            entries = _entries_of(index, pack)
        for entry in entries:
            try:
                data = location.read_range(info.path, entry.offset, entry.stored)
                open_chunk(opened.sealer, entry, data)
            except ObjectMissing:
                break
            except DamagedObject as error:
                yield entry.chunk, Problem(info.path, error.reason)
            report.bytes_read += entry.stored


def _entries_of(index: Index, pack: bytes) -> list[index_module.Entry]:
    return [index.entry_at(int(row)) for row in np.flatnonzero(_in_packs(index, lambda other: other == pack))]


def _note_unknown(opened: _Opened, report: CheckReport) -> None:
    known = ("packs/", "index/", f"{CATALOG}/", f"{COMPACTED}/", "logs/", "probe/", "repository.")
    for info in opened.store.location.list(""):
        if not info.path.startswith(known):
            report.notes.append(f"{info.path} does not belong to a repository")
    for slots in _scan_streams(opened):
        stamps = {info.path: info.modified for info in opened.store.location.list(f"{CATALOG}/{slots.stream.id}")}
        for sequence, event in slots.events.items():
            stored = stamps.get(slot_path(slots.stream.id, sequence))
            if stored is not None and abs(event.time / 1e9 - stored) > _DAY:
                report.notes.append(
                    f"{version_label(slots.stream, event)} says it was written "
                    f"{(event.time / 1e9 - stored) / _DAY:+.1f} days from when the storage received it"
                )


# --- repair ------------------------------------------------------------------------------------------------------


def repair(repository: Repository, dry_run: bool, progress: Progress | None = None) -> RepairReport:
    """See `Repository.repair`. Stop other writers first: it puts back damaged objects in place."""
    opened = repository.parts(writing=not dry_run)
    say = progress or _silent
    report = RepairReport(dry_run)

    def act(what: str, do: Callable[[], Any]) -> None:
        report.actions.append(what)
        if not dry_run:
            do()

    _repair_config(repository, opened, act)
    for slots in _scan_streams(opened):
        _repair_stream(opened, slots, report, act)
    _repair_index(opened, act)
    _repair_packs(opened, report, act, say)
    final = check(repository, read_data=False)
    report.lost += [problem for problem in final.problems if problem.versions and not dry_run]
    return report


Act = Callable[[str, Callable[[], Any]], None]


def _repair_config(repository: Repository, opened: _Opened, act: Act) -> None:
    from .repository import _config_bytes

    found = CheckReport()
    _check_config(repository, found)
    for problem in found.problems:
        path = problem.path
        act(f"write {path} anew", partial(repository.location.replace, path, _config_bytes(opened.config)))


def _repair_stream(opened: _Opened, slots: _Slots, report: RepairReport, act: Act) -> None:
    """Put damaged slots back from summaries; where there is none, a stand-in keeps the chain whole."""
    stream, location = slots.stream, opened.store.location
    summaries: dict[int, Event] = {}
    for info in location.list(f"{COMPACTED}/{stream.id}"):
        try:
            events = stream.parse_compacted(info.path, location.read(info.path))
        except (ObjectMissing, DamagedObject):
            act(f"delete the damaged summary {info.path}", partial(location.delete, [info.path]))
            continue
        summaries.update((event.sequence, event) for event in events)
    for sequence in sorted(slots.damaged):
        path = slot_path(stream.id, sequence)
        event = summaries.get(sequence)
        if event is not None:
            act(f"put back {path} from a summary", partial(location.replace, path, stream.slot_bytes(event)))
            slots.events[sequence] = event
            if event.content is not None and event.content.depth == 0:
                label = version_label(stream, event)
                report.lost.append(Problem(path, "the data that travelled inside the event is gone", (label,)))
            continue
        before, after = slots.events.get(sequence - 1), slots.events.get(sequence + 1)
        stand_in = Event(
            sequence,
            event_hash(before) if before else bytes(32),
            before.epoch if before else 0,
            new_token(),
            time.time_ns(),
            "lost",
            {"hash": after.previous if after else bytes(32)},
        )
        slots.events[sequence] = stand_in
        act(f"stand in for the lost {path}", partial(location.replace, path, stream.slot_bytes(stand_in)))
        report.lost.append(
            Problem(path, "the event is gone, and with it what it said", (f"{stream.label}#{sequence}",))
        )


def _repair_index(opened: _Opened, act: Act) -> None:
    """Enter packs that no sound index object names, from their own tables."""
    index = opened.index
    index.load()
    _, rows, numbers = index.table()
    named = {numbers[number] for number in np.unique(rows["pack"]).tolist()}
    for pack in _list_packs(opened).keys() - named - opened.catalog.state.condemned:
        try:
            entries = read_table(opened.store.location, opened.sealer, pack)
        except (DamagedObject, ObjectMissing):
            continue
        act(f"enter {pack_path(pack)} into the index", partial(index.publish, entries))
    for name in list(index.damaged):
        act(f"delete the damaged {name}", partial(opened.store.location.delete, [name]))
        act(f"forget {name}", partial(index.forget, name))


def _repair_packs(opened: _Opened, report: RepairReport, act: Act, say: Progress) -> None:
    """Condemn packs with damaged chunks: what is sound in them is copied, and what is saved again is stored again."""
    packs = _list_packs(opened)
    scratch = CheckReport()
    bad = {pack_of(problem.path) for _, problem in _read_packs(opened, opened.index, packs, scratch, say)}
    bad |= {pack_of(problem.path) for problem in scratch.problems}
    hurt = {pack for pack in bad if pack is not None} - opened.catalog.state.condemned
    if not hurt:
        return

    def condemn() -> None:
        avoid = frozenset(opened.catalog.state.condemned | hurt)
        with Writer(opened.store, opened.catalog.state.epoch, avoid) as writer:
            for pack in hurt:
                for entry in _entries_of(opened.index, pack):
                    try:
                        data = opened.store.location.read_range(pack_path(pack), entry.offset, entry.stored)
                        writer.copy(entry.chunk, open_chunk(opened.sealer, entry, data))
                    except (DamagedObject, ObjectMissing):
                        continue  # this is the damage; `check` names the versions that it hits
            writer.flush()
        attempt = 0
        while (
            opened.catalog.root.append(
                "condemn", {"packs": b"".join(sorted(hurt))}, epoch=opened.catalog.state.epoch, token=new_token()
            )
            is None
        ):
            attempt += 1
            opened.catalog.root.back_off(attempt)
            opened.catalog.root.refresh()

    act(f"copy what is sound out of {len(hurt)} damaged packs and condemn these", condemn)


# --- statistics ----------------------------------------------------------------------------------------------------


def statistics(repository: Repository) -> Statistics:
    """See `Repository.stats`."""
    opened = repository.parts()
    found = Statistics()
    for info in opened.store.location.list(""):
        kind = info.path.split("/", 1)[0] if "/" in info.path else "repository"
        found.objects[kind] = found.objects.get(kind, 0) + 1
        found.bytes[kind] = found.bytes.get(kind, 0) + info.size
    for stream in _every_stream(opened):
        found.streams += 1
        for event in live_events(stream):
            assert event.content is not None
            found.versions += 1
            found.logical_bytes += event.content.size
    found.requests = dict(opened.store.location.requests)
    return found
