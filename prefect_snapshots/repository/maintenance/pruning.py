"""Prune: reclaim the space that no version needs. Writers may run at the same time, and may be paused for any time.

1. It deletes superseded and leftover objects: on a full disk, this makes space for the events that follow.
2. It copies live chunks out of the packs that are mostly garbage, then *condemns* these in the root stream. The number
   of that event is the new *epoch*. Without the copies, step 5 could not delete those packs; without the event, a
   writer could not know that it must not reuse their chunks.
3. It puts a *fence*, an event of that epoch, at the head of every registered stream. From then on, a writer
   with an older epoch cannot commit there: it must read root, and store again any chunks that are in condemned packs.
   Without fences, a writer that slept could commit a reference to a pack that step 5 deletes.
4. It finds from all streams which chunks are live now. This includes everything committed before the fence.
5. It deletes the condemned packs in which every live chunk, and every base of one, has a copy outside condemned packs.

If the disk is too full for the copies of step 2, packs without any live chunk are deleted first, in a separate round;
then as many of the others as there is space for. Every step can be repeated after a kill, by any process. The root
stream puts concurrent prunes in an order.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from ...errors import CommitUnknown, IntegrityError, StorageFull
from .. import index as index_module
from .. import logs
from ..catalog import CATALOG, Event, Stream, new_token
from ..contents import Piece, Writer
from ..index import is_whole
from ..location import ObjectInfo
from ..opened import Opened
from ..packs import LOCAL_LIMIT, REMOTE_LIMIT, pack_path
from ..progress import Progress, silent
from ..reserve import can_pay_for_prune, cost_of_prune, keep_reserve, with_reserve
from .liveness import all_of_stream, every_stream, list_packs, live_rows, paths, unregistered
from .rows import in_packs, one_copy, packs_at, stranded, with_bases

MAX_UNUSED = 0.1
"""Share of a pack that may be garbage before prune copies the rest elsewhere: less garbage costs more copying."""

GRACE = 24 * 3600.0
"""Seconds for which an unreferenced pack is kept, because a running save may be about to refer to it: most saves take
less than a day."""

_FEW = 32
"""Number of small packs that are not merged: with fewer, they would be copied again and again; more cost requests."""

_BATCH = 64
"""Objects that are deleted or read together: enough to keep all requests busy."""
_DAY = 24 * 3600


@dataclass(slots=True)
class PruneReport:
    """The result of `prune`: what it did or, with `dry_run`, would do."""

    dry_run: bool = False
    epoch: int = 0
    packs_deleted: int = 0
    bytes_freed: int = 0
    packs_rewritten: int = 0
    bytes_copied: int = 0
    packs_waiting: int = 0
    """Unreferenced packs that are kept until the grace time has passed."""
    bytes_waiting: int = 0
    packs_not_rewritten: int = 0
    """Packs with garbage that stay, because the disk is full: it has no space for copies of the rest, or deleting them
    would free less than the events of prune take."""
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
    """See `Repository.prune`. A dry run can treat versions as deleted: `without` is that of `live_rows`."""
    location = opened.store.location
    report = PruneReport(dry_run)
    say = progress or silent
    deleted: list[ObjectInfo] = []
    try:
        while not _round(opened.apart(writing=not dry_run), grace, report, deleted, say, without):
            pass
    except StorageFull as error:
        freed = sum(info.size for info in deleted)
        raise StorageFull(
            f"{location.url} is full: not even the events that prune writes before it can delete anything have space. "
            f"Nothing was lost, and {freed:,} bytes were freed. Free some other space on the disk, and prune again."
        ) from error
    if not dry_run:
        report.packs_deleted = len(deleted)
        report.bytes_freed = max(sum(info.size for info in deleted) - report.bytes_copied, 0)
        keep_reserve(location, len(opened.catalog.streams()))
    return report


def _round(
    opened: Opened,
    grace: float,
    report: PruneReport,
    deleted: list[ObjectInfo],
    say: Progress,
    without: Collection[tuple[str, str, int]],
) -> bool:
    """Prune once. Return False if the disk was too full to copy everything, and another round may free more."""
    attempt = 0
    tidied = False
    while True:
        say("reading", 0, 3)
        opened.catalog.root.refresh()
        opened.index.load()
        _refuse_damage(opened)
        if not (report.dry_run or tidied):
            # First what can be deleted without an event: on a full disk, this makes space for the events.
            _tidy(opened, set(opened.index.objects()[1]), grace, report)
            tidied = True
        full = not (report.dry_run or _keep_reserve(opened))
        if full:
            # Also after another prune has condemned packs: two condemnations with missing fences cost twice as much.
            _finish(opened, report, deleted)
        chosen = _choose(opened, grace, report, without if report.dry_run else (), full)
        if report.dry_run:
            return True
        say("copying", 1, 3)
        candidates = _copy_what_fits(opened, chosen, report)
        if not candidates:
            break
        body = {"packs": b"".join(sorted(candidates))}
        if _note(opened, opened.catalog.root, "condemn", body, opened.catalog.state.epoch):
            break
        attempt += 1
        opened.catalog.root.back_off(attempt)
    report.epoch = opened.catalog.state.epoch
    say("deleting", 2, 3)
    before = len(deleted)
    _finish(opened, report, deleted)
    say("done", 3, 3)
    uncopied = len(chosen) - len(candidates)
    report.packs_not_rewritten += uncopied
    return not uncopied or len(deleted) == before


def _keep_reserve(opened: Opened) -> bool:
    """Fill up the reserve. Return whether there is space for more: if not, nothing may be copied.

    Copies must not take the space of the condemnation and the fences, without which nothing can be deleted.
    """
    return keep_reserve(opened.store.location, len(opened.catalog.state.streams))


def _finish(opened: Opened, report: PruneReport, deleted: list[ObjectInfo]) -> None:
    """Put the missing fences of the last condemnation, and delete what is condemned.

    On a full disk, this comes before the next condemnation if an earlier prune was cut off: each fence costs a block.
    """
    doomed = _condemned_packs(opened)
    if doomed:
        _fence(opened, opened.catalog.state.epoch)
        _delete(opened, doomed, report, deleted)


def _copy_what_fits(opened: Opened, chosen: list[bytes], report: PruneReport) -> list[bytes]:
    """Copy the live chunks of packs, and return those that can be condemned: all that the disk has space for.

    Args:
        opened: The repository.
        chosen: The packs, ordered by their live bytes, the fewest first.
        report: Where the copied bytes are counted.
    """
    some = chosen if _keep_reserve(opened) else []
    while some:
        try:
            _copy_out(opened, set(some), report)
            break
        except StorageFull:
            some = some[: len(some) // 2]
    if len(some) == len(chosen):
        return chosen
    # Packs without any live chunk need no copy.
    alive = packs_at(opened.index, live_rows(opened))
    return [*some, *(pack for pack in chosen[len(some) :] if pack not in alive)]


def _note(opened: Opened, stream: Stream, kind: str, body: dict[str, Any], epoch: int) -> bool:
    """Append an event. Return False if another writer took the slot."""

    def append() -> Event | None:
        return stream.append(kind, body, epoch=epoch, token=new_token())

    try:
        return with_reserve(opened.store.location, append) is not None
    except CommitUnknown as error:
        # Whether it was written or not, the next prune continues from there: the token of the event is of no use.
        raise error.unavailable("prune could not finish") from error


def _condemned_packs(opened: Opened) -> dict[bytes, ObjectInfo]:
    return {pack: info for pack, info in list_packs(opened).items() if pack in opened.catalog.state.condemned}


def _choose(
    opened: Opened, grace: float, report: PruneReport, without: Collection[tuple[str, str, int]], full: bool
) -> list[bytes]:
    """Return the packs to condemn: empty of live chunks, mostly garbage, or small and many. The emptiest come first.

    Returns none on a full disk if they hold less garbage than the events of prune take. Events are never deleted:
    every prune would leave less space than before, until none could write its events. Also returns none if the reserve
    is too small for all of these events: an unfinished prune would free nothing.
    """
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
    report.packs_waiting = report.bytes_waiting = report.packs_rewritten = report.packs_not_rewritten = 0
    gain = 0
    for pack, info in packs.items():
        if pack in condemned:
            continue
        overhead = 128 + tables[pack]
        unused = info.size - used[pack] - overhead
        if pack not in used:
            if now - info.modified < grace:
                report.packs_waiting += 1
                report.bytes_waiting += info.size
            else:
                chosen.add(pack)
                gain += info.size
        elif unused > MAX_UNUSED * info.size:
            chosen.add(pack)
            gain += unused
        elif info.size < limit // 8:
            small.add(pack)
    if len(small) > _FEW:
        chosen |= small
    streams = len(opened.catalog.state.streams)
    if full and (gain < cost_of_prune(streams) or not can_pay_for_prune(opened.store.location, streams)):
        report.packs_not_rewritten = len(chosen)
        chosen, gain = set(), 0
    doomed = [info.size for pack, info in packs.items() if pack in condemned]
    report.bytes_freed = gain + sum(doomed)
    report.packs_rewritten = sum(pack in used for pack in chosen)
    report.packs_deleted = len(chosen) + len(doomed)
    return sorted(chosen, key=used.__getitem__)


def _copy_out(opened: Opened, candidates: set[bytes], report: PruneReport) -> None:
    """Give every live chunk a copy outside of candidates and condemned packs."""
    entries, avoid = _needy(opened, candidates)
    while entries:
        try:
            report.bytes_copied += _copy(opened, entries, avoid)
            return
        except IntegrityError:
            # What was live a moment ago may have been deleted, and pruned by a concurrent prune.
            wanted = {entry.chunk for entry in entries}
            entries, avoid = _needy(opened, candidates)
            if wanted <= {entry.chunk for entry in entries}:
                raise


def _needy(opened: Opened, candidates: set[bytes]) -> tuple[list[index_module.ChunkCopy], frozenset[bytes]]:
    """Return a copy of each live chunk and base that only candidates or condemned packs have, and these packs."""
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


def _copy(opened: Opened, entries: list[index_module.ChunkCopy], avoid: frozenset[bytes]) -> int:
    """Store chunks once more, outside of some packs. Return the number of bytes written."""
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
    """Put an event of this epoch at the head of every stream: writers with an older epoch can no longer commit."""
    for stream in every_stream(opened):
        attempt = 0
        while stream.epoch < epoch:
            if not _note(opened, stream, "fence", {}, epoch):
                attempt += 1
                stream.back_off(attempt)
                stream.refresh()


def _delete(opened: Opened, doomed: dict[bytes, ObjectInfo], report: PruneReport, deleted: list[ObjectInfo]) -> None:
    """Delete the condemned packs that no live chunk depends on any more, and note them in `deleted`."""
    opened.index.load()
    # Copy chunks that were committed between the copying and the fence, and are only in condemned packs. On a full
    # disk they are not copied: the code below keeps their packs for the next prune.
    with contextlib.suppress(StorageFull):
        _copy_out(opened, set(), report)
    live = live_rows(opened)
    index, location = opened.index, opened.store.location
    packs = list_packs(opened)
    condemned = opened.catalog.state.condemned
    there = in_packs(index, packs.__contains__)
    needed = packs_at(index, stranded(index, live, there, lambda pack: pack in packs and pack not in condemned))
    unneeded = {pack: info for pack, info in doomed.items() if pack not in needed}
    location.delete(pack_path(pack) for pack in unneeded)
    deleted += unneeded.values()
    # A listing may miss a pack: delete an entry only if its pack was condemned and really does not exist.
    _, _, known = index.table()
    gone = {
        pack for pack in known if pack in unneeded or (pack in condemned and location.size(pack_path(pack)) is None)
    }
    if gone:
        with_reserve(location, lambda: index.rewrite(lambda pack: pack not in gone))


def _tidy(opened: Opened, superseded: set[str], grace: float, report: PruneReport) -> None:
    """Delete index objects that were superseded before this prune began, and leftovers of killed writers."""
    location = opened.store.location
    present = paths(location, index_module.PREFIX) & superseded
    location.delete(present)
    for name in present:
        opened.index.forget(name)
    report.index_objects_deleted += len(present)
    now = time.time()
    # Younger ones are kept: a writer that still writes to one of them would have to start over.
    oldest = now - max(grace, _DAY)
    leftovers = [info.path for info in location.leftovers() if info.modified <= oldest]
    location.delete(leftovers)
    report.leftovers_deleted += len(leftovers)
    _tidy_logs(opened, now - grace, report)


def _tidy_logs(opened: Opened, before: float, report: PruneReport) -> None:
    """Delete the log segments that their stream has dropped. A dropped segment is never registered again."""
    location, streams = opened.store.location, opened.catalog.streams()
    for folder, infos in groupby(location.list(logs.PREFIX), key=lambda info: info.path.split("/")[1]):
        if folder in streams:
            gone = logs.unwanted(infos, all_of_stream(opened, *streams[folder]).events, before)
            location.delete(gone)
            report.log_objects_deleted += len(gone)


def _refuse_damage(opened: Opened) -> None:
    """Refuse to delete anything while something is damaged: an unreadable object may refer to live chunks."""
    for name, error in opened.index.damaged.items():
        raise IntegrityError(
            f"The index is damaged ({name}: {error.reason}), so nothing was deleted. Run `prefect-snapshots repair`."
        )
    root = opened.catalog.state
    for folder in unregistered(paths(opened.store.location, CATALOG), root) if root.lost else ():
        raise IntegrityError(
            f"The stream in {folder} is not registered, so nothing was deleted. Save something under its name, which "
            "registers it again, or delete the folder."
        )
