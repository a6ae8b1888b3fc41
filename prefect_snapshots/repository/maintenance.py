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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DamagedObject, IntegrityError, MissingChunk, ObjectMissing
from . import index as index_module
from . import logs
from . import packs as packs_module
from .catalog import (
    CATALOG,
    COMPACTED,
    ROOT,
    Event,
    Root,
    Stream,
    event_hash,
    new_token,
    slot_path,
)
from .contents import ContentReader, Piece, Writer
from .index import Index, find_rows, join_ids
from .location import Location, ObjectInfo
from .packs import LOCAL_LIMIT, REMOTE_LIMIT, open_chunk, open_pack, pack_of, pack_path, read_table
from .sealing import ID_SIZE

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
    log_objects_deleted: int = 0


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
    late: list[tuple[Stream, Event, Any]] = []
    for stream in _every_stream(opened):
        for event in live_events(stream):
            assert event.content is not None
            if event.content.depth == 0:
                continue
            try:
                chunks = ContentReader(opened.reader, event.content).all_rows()["chunk"]
            except IntegrityError:
                if _is_deleted(stream, event):
                    continue
                raise
            which, rows = find_rows(heads, table, chunks)
            live[rows] = True
            absent = np.delete(chunks, which)
            if len(absent):
                late.append((stream, event, absent))
    if late:
        index.look_again()  # they were committed since the index was read
    if index.table()[0] is not heads:
        # It grew, now or when a table of chunks was read.
        known = join_ids(heads[live], table["tail"][live])
        heads, table, _ = index.table()
        live = np.zeros(len(heads), bool)
        live[find_rows(heads, table, known)[1]] = True
    for stream, event, chunks in late:
        which, rows = find_rows(heads, table, chunks)
        live[rows] = True
        absent = np.delete(chunks, which)
        if len(absent) and not _is_deleted(stream, event):
            raise MissingChunk(absent[0].tobytes().hex(), version_label(stream, event))
    return live


def _is_deleted(stream: Stream, event: Event) -> bool:
    """Whether a version was deleted since the stream was read, so that a rival prune may have taken its chunks."""
    stream.refresh()
    return all(other is not event for other in live_events(stream))


def _groups(heads: NDArray[np.uint64], rows: Any) -> NDArray[np.int64]:
    """For each row of an index table, the number of its chunk: copies of one chunk share it."""
    new = np.ones(len(heads), bool)
    new[1:] = (heads[1:] != heads[:-1]) | (rows["tail"][1:] != rows["tail"][:-1])
    return np.cumsum(new) - 1


def _stranded(index: Index, live: NDArray[np.bool_], kept: Callable[[bytes], bool]) -> NDArray[np.bool_]:
    """Which live rows hold a chunk that has no copy in a pack that is kept."""
    heads, rows, _ = index.table()
    groups = _groups(heads, rows)
    housed = np.zeros(len(heads), bool)
    housed[groups[_in_packs(index, kept)]] = True
    return live & ~housed[groups]


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
    opened = repository.parts(writing=not dry_run).apart(writing=not dry_run)
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
    heads, rows, numbers = index.table()
    # One copy of each chunk is enough: the first one in the table.
    _, first = np.unique(_groups(heads, rows)[kept], return_index=True)
    kept = kept[first]
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
    entries, avoid = _needy(opened, candidates)
    while entries:
        try:
            report.bytes_copied += _copy(opened, entries, avoid)
            return
        except IntegrityError:
            # What was live a moment ago may have been deleted, and pruned by a rival.
            wanted = {entry.chunk for entry in entries}
            entries, avoid = _needy(opened, candidates)
            if wanted <= {entry.chunk for entry in entries}:
                raise


def _needy(opened: _Opened, candidates: set[bytes]) -> tuple[list[index_module.Entry], frozenset[bytes]]:
    """One copy of each live chunk that lies in candidates and condemned packs only, and these packs."""
    live = _live_rows(opened)
    avoid = frozenset(opened.catalog.state.condemned | candidates)
    packs = _list_packs(opened)
    needy = np.flatnonzero(_stranded(opened.index, live, lambda pack: pack in packs and pack not in avoid))
    heads, rows, _ = opened.index.table()
    _, first = np.unique(_groups(heads, rows)[needy], return_index=True)
    needy = needy[first]
    # In the order in which they lie, so that reads are long.
    needy = needy[np.lexsort((rows["offset"][needy], rows["pack"][needy]))]
    return [opened.index.entry_at(int(row)) for row in needy], avoid


def _copy(opened: _Opened, entries: list[index_module.Entry], avoid: frozenset[bytes]) -> int:
    """Store chunks once more, outside of some packs. Returns the bytes written."""
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
        return writer.written


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
    packs = _list_packs(opened)
    condemned = opened.catalog.state.condemned
    stranded = _stranded(index, live, lambda pack: pack in packs and pack not in condemned)
    _, rows, numbers = index.table()
    needed = {numbers[number] for number in np.unique(rows["pack"][stranded]).tolist()}
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
    # A writer that still writes to one of them would have to begin again.
    oldest = now - max(grace, _DAY)
    leftovers = [info.path for info in location.leftovers() if info.modified <= oldest]
    location.delete(leftovers)
    report.leftovers_deleted = len(leftovers)
    _tidy_logs(opened, now - grace, report)


def _tidy_logs(opened: _Opened, before: float, report: PruneReport) -> None:
    """Delete the log segments that their stream has dropped. A dropped segment is never registered again."""
    location, streams = opened.store.location, opened.catalog.streams()
    for folder, infos in groupby(location.list(logs.PREFIX), key=lambda info: info.path.split("/")[1]):
        if folder in streams:
            stream = Stream(lambda: opened.catalog, *streams[folder], lambda _: None)
            stream.refresh()
            gone = logs.unwanted(infos, stream.events, before)
            location.delete(gone)
            report.log_objects_deleted += len(gone)


def _refuse_damage(opened: _Opened) -> None:
    """What cannot be read may name what lives."""
    for name, error in opened.index.damaged.items():
        raise IntegrityError(f"nothing is deleted while the index is damaged ({name}: {error.reason}): repair it first")
    root = opened.catalog.state
    for folder in _unregistered(_paths(opened.store.location, CATALOG), root) if root.lost else ():
        raise IntegrityError(
            f"nothing is deleted while the stream in {folder} is not registered: save something under its name, which "
            "registers it again, or delete the folder"
        )


def _silent(what: str, done: int, total: int) -> None:
    """No progress is wanted."""


# --- check -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Slots:
    """A stream as its raw slots tell it, and what its summaries add."""

    stream: Stream
    head: int = 0
    events: dict[int, Event] = field(default_factory=dict)
    damaged: dict[int, str] = field(default_factory=dict)
    rescued: dict[int, Event] = field(default_factory=dict)
    """Events of damaged slots that a summary still has."""
    bad_summaries: dict[str, str] = field(default_factory=dict)
    emptied: set[int] = field(default_factory=set)
    """Events put back from a summary, which does not have the data that travelled with them."""


Damage = dict[tuple[bytes, bytes | None], str]
"""Pack and chunk (None: the pack's own header or table) -> what is wrong with them."""


def check(repository: Repository, read_data: bool, progress: Progress | None = None) -> CheckReport:
    """See `Repository.check`."""
    location = repository.parts().store.location
    while True:
        packs, root = _paths(location, packs_module.PREFIX), _paths(location, f"{CATALOG}/{ROOT}")
        report = _look(repository, read_data, {}, progress or _silent)
        still = packs <= _paths(location, packs_module.PREFIX) and root == _paths(location, f"{CATALOG}/{ROOT}")
        if report.ok or still:
            return report
        # A prune ran beside it, and took what had been seen before.


def _paths(location: Location, prefix: str) -> set[str]:
    return {info.path for info in location.list(prefix)}


def _look(repository: Repository, read_data: bool, damage: Damage, say: Progress) -> CheckReport:
    """Look at everything once. `damage` in packs may be known already."""
    opened = repository.parts().apart(writing=False)
    report = CheckReport()
    _check_config(repository, report)
    scanned = list(_scan_streams(opened))
    root = _root_of(scanned[0])
    report.streams = len(scanned) - 1
    for number, slots in enumerate(scanned):
        say("streams", number, len(scanned))
        _check_slots(slots, report)
    while opened.index.look_again():
        pass
    for name, error in opened.index.damaged.items():
        report.problems.append(Problem(name, error.reason))
    packs = _list_packs(opened)
    for pack in _named(opened.index) - packs.keys():
        size = opened.store.location.size(pack_path(pack))
        if size is not None:
            packs[pack] = ObjectInfo(pack_path(pack), size, time.time())
    report.packs = len(packs)
    if read_data:
        damage = dict(_read_packs(opened, packs, report, say))
    hurt = _check_contents(opened, scanned, packs, damage, report)
    if read_data:
        _check_logs(opened, scanned, report)
    for (pack, chunk), reason in damage.items():
        if chunk not in hurt and pack not in root.condemned:
            report.problems.append(Problem(pack_path(pack), reason))
    _check_unknown(opened, scanned, root, report)
    return report


def _check_config(repository: Repository, report: CheckReport) -> None:
    from .repository import CONFIG, CONFIG_COPY, _parse_config

    configs = []
    for path in (CONFIG, CONFIG_COPY):
        try:
            configs.append(_parse_config(path, repository.location.read(path)))
        except ObjectMissing:
            report.problems.append(Problem(path, "it is missing"))
        except DamagedObject as error:
            report.problems.append(Problem(path, error.reason))
    if configs and configs[0] != configs[-1]:
        report.problems.append(Problem(CONFIG_COPY, f"it differs from {CONFIG}"))


def _scan_streams(opened: _Opened) -> Iterator[_Slots]:
    """Every stream, the root first, read slot by slot, whatever is damaged."""
    root = _scan(opened, Stream(lambda: opened.catalog, "", "", lambda _: None))
    yield root
    for kind, name in _root_of(root).streams.values():
        yield _scan(opened, Stream(lambda: opened.catalog, kind, name, lambda _: None))


def _root_of(slots: _Slots) -> Root:
    """What the root stream says, as far as it can be read."""
    root = Root()
    for sequence in sorted(slots.events):
        root.apply(slots.events[sequence])
    return root


def _scan(opened: _Opened, stream: Stream) -> _Slots:
    location = opened.store.location
    names = (path.rpartition("/")[2] for path in _paths(location, f"{CATALOG}/{stream.id}"))
    slots = _Slots(stream, max((int(name) for name in names if name.isdigit()), default=0))
    _scan_slots(slots, opened, list(range(1, slots.head + 1)))
    # What the listing overlooked, or what came since.
    while location.size(slot_path(stream.id, slots.head + 1)) is not None:
        slots.head += 1
        _scan_slots(slots, opened, [slots.head])
    for path in sorted(_paths(location, f"{COMPACTED}/{stream.id}")):
        try:
            _scan_summary(slots, path, stream.parse_compacted(path, location.read(path)))
        except ObjectMissing:
            continue
        except DamagedObject as error:
            slots.bad_summaries[path] = error.reason
    # Where a summary knows more than the listing: slots that were created since, or are gone.
    absent = [
        number for number in range(1, slots.head + 1) if number not in slots.events and number not in slots.damaged
    ]
    _scan_slots(slots, opened, absent)
    for sequence in absent:
        if sequence not in slots.events:
            slots.damaged.setdefault(sequence, "it is missing, and a later one was there")
    for sequence, event in slots.events.items():
        before = slots.events.get(sequence - 1)
        expected = event_hash(before) if before else bytes(32) if sequence == 1 else None
        if expected is not None and event.previous != expected:
            slots.damaged[sequence] = "it does not follow its predecessor"
    return slots


def _scan_slots(slots: _Slots, opened: _Opened, sequences: list[int]) -> None:
    """Read some slots, and take note of what is in those that are there."""
    for start in range(0, len(sequences), _BATCH):
        part = sequences[start : start + _BATCH]
        found = opened.store.location.read_many([slot_path(slots.stream.id, sequence) for sequence in part])
        for sequence, data in zip(part, found, strict=True):
            if data is not None:
                _scan_slot(slots, sequence, data)


def _scan_slot(slots: _Slots, sequence: int, data: bytes) -> None:
    path = slot_path(slots.stream.id, sequence)
    try:
        event, _, inline = slots.stream.parse(path, data)
    except DamagedObject as error:
        slots.damaged[sequence] = error.reason
        return
    slots.events[sequence] = event
    if event.sequence != sequence:
        slots.damaged[sequence] = "it holds another event than its place says"
    if event.content is not None and event.content.depth == 0 and len(inline) != event.content.size:
        slots.emptied.add(sequence)


def _scan_summary(slots: _Slots, path: str, events: list[Event]) -> None:
    for event in events:
        slots.head = max(slots.head, event.sequence)
        found = slots.events.get(event.sequence)
        if found is None or event.sequence in slots.damaged:
            slots.rescued[event.sequence] = event
        elif event_hash(found) != event_hash(event):
            slots.bad_summaries[path] = "it differs from the events that it sums up"


def _check_slots(slots: _Slots, report: CheckReport) -> None:
    stream = slots.stream
    for sequence, reason in sorted(slots.damaged.items()):
        event = slots.events.get(sequence) or slots.rescued.get(sequence)
        versions = (version_label(stream, event) if event else f"{stream.label}#{sequence}",)
        report.problems.append(Problem(slot_path(stream.id, sequence), reason, versions if stream.kind else ()))
    for path, reason in slots.bad_summaries.items():
        report.problems.append(Problem(path, reason))


def _check_contents(
    opened: _Opened, scanned: list[_Slots], packs: dict[bytes, ObjectInfo], damage: Damage, report: CheckReport
) -> dict[bytes, list[str]]:
    """Look for a sound copy of everything that a live version needs. Returns the chunks without one."""
    index = opened.index
    heads, table, numbers = index.table()
    sizes = np.array([packs[pack].size if pack in packs else -1 for pack in numbers], np.int64)
    sound = table["offset"].astype(np.int64) + table["stored"] <= sizes[table["pack"]]
    for pack, chunk in damage:
        if chunk is not None:
            for row in find_rows(heads, table, np.frombuffer(chunk, f"V{ID_SIZE}"))[1]:
                sound[row] &= numbers[table["pack"][row]] != pack
    needed = np.zeros(len(heads), bool)
    hurt: dict[bytes, list[str]] = {}
    for slots in scanned:
        stream = slots.stream
        stream.events = [slots.events[sequence] for sequence in sorted(slots.events)]
        for event in live_events(stream):
            assert event.content is not None
            report.versions += 1
            label = version_label(stream, event)
            path = slot_path(stream.id, event.sequence)
            if event.sequence in slots.emptied:
                report.problems.append(Problem(path, "the data that travelled inside the event is gone", (label,)))
            if event.content.depth == 0:
                continue
            try:
                chunks = ContentReader(opened.reader, event.content).all_rows()["chunk"]
            except IntegrityError as error:
                report.problems.append(Problem(path, str(error), (label,)))
                continue
            which, rows = find_rows(heads, table, chunks)
            needed[rows] = True
            for chunk in {chunk.tobytes() for chunk in np.delete(chunks, which[sound[rows]])}:
                hurt.setdefault(chunk, []).append(label)
    report.chunks = len(np.unique(_groups(heads, table)[needed]))
    for chunk, versions in hurt.items():
        copies = [entry.pack for entry in index.find_all(chunk)]
        known = [pack for pack in copies if (pack, chunk) in damage]
        if known:
            problem = Problem(pack_path(known[0]), damage[known[0], chunk], tuple(versions))
        elif copies:
            problem = Problem(pack_path(copies[0]), "the pack is missing or cut short", tuple(versions))
        else:
            problem = Problem(f"chunk {chunk.hex()[:16]}", "it is in no pack", tuple(versions))
        report.problems.append(problem)
    return hurt


def _check_logs(opened: _Opened, scanned: list[_Slots], report: CheckReport) -> None:
    """Read every log segment that counts."""
    for slots in scanned:
        stream = slots.stream
        for segment in logs.wanted(slots.events[sequence] for sequence in sorted(slots.events)):
            try:
                report.bytes_read += logs.verify(opened.store.location, opened.sealer, stream.id, segment)
            except DamagedObject as error:
                report.problems.append(Problem(error.path, error.reason, (stream.label,)))


def _read_packs(
    opened: _Opened, packs: dict[bytes, ObjectInfo], report: CheckReport, say: Progress
) -> Iterator[tuple[tuple[bytes, bytes | None], str]]:
    """Read and verify every byte of every pack; yields what is damaged."""
    total = sum(info.size for info in packs.values())
    for pack, info in packs.items():
        say("reading", report.bytes_read, total)
        try:
            data = memoryview(opened.store.location.read(info.path))
        except ObjectMissing:
            continue  # pruned meanwhile
        try:
            entries = open_pack(opened.sealer, pack, data)
        except DamagedObject as error:
            yield (pack, None), error.reason
            entries = _entries_of(opened.index, pack)
        for entry in entries:
            try:
                open_chunk(opened.sealer, entry, data[entry.offset : entry.offset + entry.stored])
            except DamagedObject as error:
                yield (pack, entry.chunk), error.reason
        report.bytes_read += len(data)


def _entries_of(index: Index, pack: bytes) -> list[index_module.Entry]:
    return [index.entry_at(int(row)) for row in np.flatnonzero(_in_packs(index, lambda other: other == pack))]


def _check_unknown(opened: _Opened, scanned: list[_Slots], root: Root, report: CheckReport) -> None:
    """Note what is no part of a repository, and times that cannot be right."""
    known = ("packs/", "index/", f"{CATALOG}/", f"{COMPACTED}/", "logs/", "probe/", "repository.")
    stamps: dict[str, float] = {}
    for info in opened.store.location.list(""):
        if not info.path.startswith(known):
            report.notes.append(f"{info.path} does not belong to a repository")
        elif info.path.startswith(CATALOG):
            stamps[info.path] = info.modified
    for folder in _unregistered(stamps, root):
        report.problems.append(Problem(folder, "these events belong to a stream that is not registered", (folder,)))
    for slots in scanned:
        for sequence, event in slots.events.items():
            stored = stamps.get(slot_path(slots.stream.id, sequence))
            if stored is not None and abs(event.time / 1e9 - stored) > _DAY:
                report.notes.append(
                    f"{version_label(slots.stream, event)} says it was written "
                    f"{(event.time / 1e9 - stored) / _DAY:+.1f} days from when the storage received it"
                )


def _unregistered(paths: Iterable[str], root: Root) -> list[str]:
    """The folders of streams whose registration was lost."""
    folders = {path.split("/")[1] for path in paths}
    return [f"{CATALOG}/{folder}" for folder in sorted(folders - root.streams.keys() - {ROOT})]


# --- repair ------------------------------------------------------------------------------------------------------


def repair(repository: Repository, dry_run: bool, progress: Progress | None = None) -> RepairReport:
    """See `Repository.repair`. Stop other writers first: it puts back damaged objects in place."""
    opened = repository.parts(writing=not dry_run).apart(writing=not dry_run)
    say = progress or _silent
    report = RepairReport(dry_run)

    def act(what: str, do: Callable[[], Any]) -> None:
        report.actions.append(what)
        if not dry_run:
            do()

    _repair_config(repository, opened, act)
    root = Root()
    for slots in _scan_streams(opened):
        _repair_stream(opened, slots, root.epoch, report, act)
        if not slots.stream.kind:
            root = _root_of(slots)
    _repair_index(opened, root.condemned, act)
    damage = dict(_read_packs(opened, _list_packs(opened), CheckReport(), say))
    _repair_packs(opened, {pack for pack, _ in damage}, root, act)
    if not dry_run:
        report.lost += [problem for problem in _look(repository, False, damage, say).problems if problem.versions]
    return report


Act = Callable[[str, Callable[[], Any]], None]


def _repair_config(repository: Repository, opened: _Opened, act: Act) -> None:
    from .repository import _config_bytes

    found = CheckReport()
    _check_config(repository, found)
    for problem in found.problems:
        path = problem.path
        act(f"write {path} anew", partial(repository.location.replace, path, _config_bytes(opened.config)))


def _repair_stream(opened: _Opened, slots: _Slots, epoch: int, report: RepairReport, act: Act) -> None:
    """Put damaged slots back from summaries; where there is none, a stand-in keeps the chain whole."""
    stream, location = slots.stream, opened.store.location
    for path in slots.bad_summaries:
        act(f"delete the damaged summary {path}", partial(location.delete, [path]))
    for sequence in sorted(slots.damaged):
        path = slot_path(stream.id, sequence)
        event = slots.rescued.get(sequence)
        if event is not None:
            act(f"put back {path} from a summary", partial(location.replace, path, stream.slot_bytes(event)))
        else:
            event = _stand_in(sequence, slots.events.get(sequence - 1), slots.events.get(sequence + 1), epoch)
            act(f"stand in for the lost {path}", partial(location.replace, path, stream.slot_bytes(event)))
            hit = (f"{stream.label}#{sequence}",)
            report.lost.append(Problem(path, "the event is gone, and with it what it said", hit))
        slots.events[sequence] = event


def _stand_in(sequence: int, before: Event | None, after: Event | None, epoch: int) -> Event:
    """An event that says nothing. It has the newest epoch, because the lost one may have been a fence."""
    previous = event_hash(before) if before else bytes(32)
    body = {"hash": after.previous if after else bytes(32)}
    return Event(sequence, previous, epoch, new_token(), time.time_ns(), "lost", body)


def _repair_index(opened: _Opened, condemned: set[bytes], act: Act) -> None:
    """Enter packs that no sound index object names, from their own tables."""
    index = opened.index
    index.load()
    for pack in _list_packs(opened).keys() - _named(index) - condemned:
        try:
            entries = read_table(opened.store.location, opened.sealer, pack)
        except (DamagedObject, ObjectMissing):
            continue
        act(f"enter {pack_path(pack)} into the index", partial(index.publish, entries))
    for name in list(index.damaged):
        act(f"delete the damaged {name}", partial(opened.store.location.delete, [name]))
        act(f"forget {name}", partial(index.forget, name))


def _named(index: Index) -> set[bytes]:
    """The packs that the index names."""
    _, rows, numbers = index.table()
    return {numbers[number] for number in np.unique(rows["pack"]).tolist()}


def _repair_packs(opened: _Opened, damaged: set[bytes], root: Root, act: Act) -> None:
    """Copy what is sound out of packs that are damaged or gone, and condemn them: the rest can then be saved again."""
    location, catalog = opened.store.location, opened.catalog
    absent = _named(opened.index) - _list_packs(opened).keys() - root.condemned
    hurt = damaged - root.condemned | {pack for pack in absent if location.size(pack_path(pack)) is None}
    if not hurt:
        return

    def condemn() -> None:
        catalog.root.refresh()
        with Writer(opened.store, catalog.state.epoch, frozenset(catalog.state.condemned | hurt)) as writer:
            for pack in hurt:
                for entry in _entries_of(opened.index, pack):
                    try:
                        data = location.read_range(pack_path(pack), entry.offset, entry.stored)
                        writer.copy(entry.chunk, open_chunk(opened.sealer, entry, data))
                    except (DamagedObject, ObjectMissing):
                        continue  # this is the damage; the last look names the versions that it hits
            writer.flush()
        body = {"packs": b"".join(sorted(hurt))}
        attempt = 0
        while catalog.root.append("condemn", body, epoch=catalog.state.epoch, token=new_token()) is None:
            attempt += 1
            catalog.root.back_off(attempt)
            catalog.root.refresh()

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
