"""Prune: free the space of what nobody needs, beside any number of writers, however long they are paused.

1. It copies what lives out of the packs that are mostly garbage, then *condemns* these in the root stream. The number
   of that event is the new *epoch*.
2. It puts a *fence*, an event of that epoch, at the head of every registered stream. From then on no writer that
   decided by an older epoch can commit there: it has to read root, and store again what lies in condemned packs.
3. It works out from all streams what lives now. What was committed before the fence is seen here.
4. It deletes the condemned packs in which every live chunk, and every base of one, has a copy outside condemned packs.

Every step can be repeated by anyone after a kill. Rival prunes are ordered by the root stream.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from ...errors import IntegrityError
from .. import index as index_module
from .. import logs
from ..catalog import CATALOG, new_token
from ..contents import Piece, Writer
from ..index import is_whole
from ..location import ObjectInfo
from ..opened import Opened
from ..packs import LOCAL_LIMIT, REMOTE_LIMIT, pack_path
from ..progress import Progress, silent
from .liveness import every_stream, list_packs, live_rows, paths, stream_of, unregistered
from .rows import in_packs, one_copy, packs_at, stranded, with_bases

MAX_UNUSED = 0.1
"""Share of a pack that may be garbage before prune copies the rest of it elsewhere."""

GRACE = 24 * 3600.0
"""Seconds during which a pack that nothing refers to yet is left to the upload it may belong to."""

_FEW = 32
"""Small packs that are left alone; more of them are put together."""

_BATCH = 64
_DAY = 24 * 3600


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


def prune(
    opened: Opened,
    dry_run: bool,
    grace: float = GRACE,
    progress: Progress | None = None,
    without: Collection[tuple[str, str, int]] = (),
) -> PruneReport:
    """See `Repository.prune`. A dry run can ask what it would be without some versions, as `live_rows` takes them."""
    opened = opened.apart(writing=not dry_run)
    say = progress or silent
    report = PruneReport(dry_run)
    attempt = 0
    superseded: set[str] = set()
    while True:
        say("reading", 0, 3)
        opened.catalog.root.refresh()
        opened.index.load()
        _refuse_damage(opened)
        superseded = superseded or set(opened.index.objects()[1])
        candidates = _choose(opened, grace, report, without if dry_run else ())
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
    doomed = {pack: info for pack, info in list_packs(opened).items() if pack in opened.catalog.state.condemned}
    if doomed:
        _fence(opened, report.epoch)
        _delete(opened, doomed, report)
    _tidy(opened, superseded, grace, report)
    say("done", 3, 3)
    return report


def _choose(opened: Opened, grace: float, report: PruneReport, without: Collection[tuple[str, str, int]]) -> set[bytes]:
    """The packs to condemn: empty of live chunks, mostly garbage, or small and many."""
    index, condemned = opened.index, opened.catalog.state.condemned
    live = live_rows(opened, without)
    packs = list_packs(opened)
    good = in_packs(index, lambda pack: pack in packs and pack not in condemned)
    readable = index.readable(np.arange(len(live)), lambda some: good[some])
    kept = with_bases(index, one_copy(index, live & readable), good)
    _, rows, numbers = index.table()
    used: Counter[bytes] = Counter()
    tables: Counter[bytes] = Counter()
    for number, size, whole in zip(
        rows["pack"][kept].tolist(), rows["stored"][kept].tolist(), is_whole(rows[kept]).tolist(), strict=True
    ):
        used[numbers[number]] += size
        tables[numbers[number]] += index_module.RECORD.itemsize + (0 if whole else index_module.BASES_SIZE)
    limit = LOCAL_LIMIT if opened.store.location.is_local else REMOTE_LIMIT
    now = time.time()
    chosen: set[bytes] = set()
    small: set[bytes] = set()
    report.packs_waiting = report.bytes_waiting = report.bytes_freed = report.packs_rewritten = 0
    for pack, info in packs.items():
        if pack in condemned:
            report.bytes_freed += info.size
            continue
        overhead = 128 + tables[pack]
        unused = info.size - used[pack] - overhead
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


def _copy_out(opened: Opened, candidates: set[bytes], report: PruneReport) -> None:
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


def _needy(opened: Opened, candidates: set[bytes]) -> tuple[list[index_module.Entry], frozenset[bytes]]:
    """One copy of each live chunk that needs candidates or condemned packs, and of their bases; and these packs."""
    live = live_rows(opened)
    avoid = frozenset(opened.catalog.state.condemned | candidates)
    packs = list_packs(opened)
    there = in_packs(opened.index, packs.__contains__)
    alone = stranded(opened.index, live, there, lambda pack: pack in packs and pack not in avoid)
    needy = one_copy(opened.index, alone)
    _, rows, _ = opened.index.table()
    # Bases before deltas, and in the order in which they lie, so that reads are long.
    needy = needy[np.lexsort((rows["offset"][needy], rows["pack"][needy], ~is_whole(rows[needy])))]
    return [opened.index.entry_at(int(row)) for row in needy], avoid


def _copy(opened: Opened, entries: list[index_module.Entry], avoid: frozenset[bytes]) -> int:
    """Store chunks once more, outside of some packs. Returns the bytes written."""
    with Writer(opened.store, opened.catalog.state.epoch, avoid) as writer:
        for whole, group in groupby(entries, lambda entry: entry.whole):
            if not whole:
                writer.flush()  # so that the copies of their bases are found
            some = list(group)
            for start in range(0, len(some), _BATCH):
                part = some[start : start + _BATCH]
                pieces = [Piece(entry.chunk, entry.size, [(0, memoryview(bytearray(entry.size)))]) for entry in part]
                opened.reader.fetch(pieces)
                for piece, entry in zip(pieces, part, strict=True):
                    writer.copy(piece.chunk, piece.parts[0][1], entry.bases)
        writer.flush()
        return writer.written


def _fence(opened: Opened, epoch: int) -> None:
    """Put an event of this epoch at the head of every stream: writers that are behind cannot commit any more."""
    for stream in every_stream(opened):
        attempt = 0
        while stream.epoch < epoch:
            if stream.append("fence", {}, epoch=epoch, token=new_token()) is None:
                attempt += 1
                stream.back_off(attempt)
                stream.refresh()


def _delete(opened: Opened, doomed: dict[bytes, ObjectInfo], report: PruneReport) -> None:
    """Delete the condemned packs that no live chunk depends on any more."""
    opened.index.load()
    # What was committed between the copying and the fence, and lives in condemned packs only.
    _copy_out(opened, set(), report)
    live = live_rows(opened)
    index, location = opened.index, opened.store.location
    packs = list_packs(opened)
    condemned = opened.catalog.state.condemned
    there = in_packs(index, packs.__contains__)
    needed = packs_at(index, stranded(index, live, there, lambda pack: pack in packs and pack not in condemned))
    deleted = {pack: info for pack, info in doomed.items() if pack not in needed}
    location.delete(pack_path(pack) for pack in deleted)
    report.packs_deleted = len(deleted)
    report.bytes_freed = max(sum(info.size for info in deleted.values()) - report.bytes_copied, 0)
    # A listing may overlook a pack: an entry goes only when its pack was condemned and is really gone.
    _, _, known = index.table()
    gone = {pack for pack in known if pack in deleted or (pack in condemned and location.size(pack_path(pack)) is None)}
    if gone:
        index.rewrite(lambda pack: pack not in gone)


def _tidy(opened: Opened, superseded: set[str], grace: float, report: PruneReport) -> None:
    """Delete index objects that were superseded before this prune began, and what killed writers left behind."""
    location = opened.store.location
    present = paths(location, index_module.PREFIX) & superseded
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


def _tidy_logs(opened: Opened, before: float, report: PruneReport) -> None:
    """Delete the log segments that their stream has dropped. A dropped segment is never registered again."""
    location, streams = opened.store.location, opened.catalog.streams()
    for folder, infos in groupby(location.list(logs.PREFIX), key=lambda info: info.path.split("/")[1]):
        if folder in streams:
            stream = stream_of(opened, *streams[folder])
            stream.refresh()
            gone = logs.unwanted(infos, stream.events, before)
            location.delete(gone)
            report.log_objects_deleted += len(gone)


def _refuse_damage(opened: Opened) -> None:
    """What cannot be read may name what lives."""
    for name, error in opened.index.damaged.items():
        raise IntegrityError(f"nothing is deleted while the index is damaged ({name}: {error.reason}): repair it first")
    root = opened.catalog.state
    for folder in unregistered(paths(opened.store.location, CATALOG), root) if root.lost else ():
        raise IntegrityError(
            f"nothing is deleted while the stream in {folder} is not registered: save something under its name, which "
            "registers it again, or delete the folder"
        )
