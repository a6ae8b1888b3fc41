"""The index, which maps the id of a chunk to its pack, offset and length.

Every writer publishes the chunks that it packed as one immutable *index object*. Merging many of them only adds a
larger object, which names those that it *supersedes*. A later prune deletes these. In memory the whole index is one
sorted table of 48 bytes per chunk, a smaller one of newer entries, and a small dictionary of the newest.

A chunk may be in several packs (after two concurrent writers, or a copy by prune). Any copy can be read, but a copy in
a condemned pack must not be reused. A copy may be a *delta*: the difference of the chunk from one or two others, its
*bases*, which are needed to read it. Bases are always read from *whole* copies, so there is never a chain of deltas.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from functools import wraps
from itertools import accumulate, chain
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeAlias, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..errors import UNDECODABLE, DamagedObject, StorageError
from ..messages import logger
from .location import Buffer, Location
from .objects import read_each
from .sealing import DELTA, ID_SIZE, SALT_SIZE, Sealer
from .threads import Lock

PREFIX = "index"

Array = NDArray[Any]

ROW = np.dtype([("tail", "V24"), ("pack", "<u4"), ("offset", "<u4"), ("stored", "<u4"), ("size", "<u4")])
"""A chunk in memory, without the first 8 bytes of its id, which are kept in a separate array of sorted integers."""

RECORD = np.dtype([("chunk", f"V{ID_SIZE}"), ("pack", "<u4"), ("offset", "<u4"), ("stored", "<u4"), ("size", "<u4")])
"""A chunk in an index object. The upper 4 bits of `size` are the codec."""

BASES = 2
"""The most bases of a delta. One is enough for equal cut points. If a cut point moved, both of its sides are needed."""

BASES_SIZE = BASES * ID_SIZE
"""Bytes for the bases of one delta in an index object. A single base is named twice."""

LARGEST_CHUNK = 65 * 1024 * 1024
"""The largest size of a chunk, stored or plain, in a valid record. Written chunks have up to 4 MB, and a little more if
encrypted. A larger size is refused before memory is allocated for it."""

_SIZE_BITS = 28
"""Bits of a size in a packed entry: 256 MB, above the largest chunk."""
_SIZE_MASK = (1 << _SIZE_BITS) - 1
_FOLD = 50_000
"""Recent entries kept in a dictionary before they are sorted into the table: sorting more often costs more than looking
up."""

_MERGE = 64
"""Index objects of one level that are merged into one of the next. A cold start reads few objects, and each entry is
rewritten once per level."""

_SMALL = 8 * 1024
"""The largest index object in bytes that is kept in memory until it is merged."""

_LOOKS = 10
"""Listings in a row after which something that none of them showed is missing. Two suffice unless others write."""
_LARGEST = 500_000
"""Entries in one index object (24 MB), so that it is always a single request."""

_FULL = _LARGEST // 2
"""Entries of an index object from which on it is not merged: that would rewrite much and save few requests."""

_AT_ONCE = 64 * 1024 * 1024
"""Bytes of index objects that are read at the same time."""
_MOST_AT_ONCE = 256
"""Index objects that are read at the same time."""

_SLICE = 200_000
"""Entries that are sorted at the same time. What that takes is in addition to the table."""

_SPARED = 8
"""New entries go into a table of their own until they are more than this fraction of the large one. So a writer does
not copy the whole table each time that it has some new entries, which takes time and twice the memory."""

_OWN_MEMORY = 1024 * 1024
"""Bytes of a table that is given back to the system in pieces. Smaller ones are not worth it."""


_Rows: TypeAlias = tuple[NDArray[np.uint64], Array]
"""Sorted heads and their rows."""

_NO_ROWS: _Rows = (np.empty(0, "<u8"), np.empty(0, ROW))

P = ParamSpec("P")
R = TypeVar("R")

_OBJECT = re.compile(rf"{PREFIX}/(\d)-[0-9a-f]{{32}}")


def _locked(method: Callable[Concatenate[Index, P], R]) -> Callable[Concatenate[Index, P], R]:
    @wraps(method)
    def call(index: Index, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with index._lock:
            return method(index, *args, **kwargs)

    return call


class ChunkCopy(NamedTuple):
    """Where one copy of a chunk lies."""

    chunk: bytes
    pack: bytes
    offset: int
    stored: int
    size: int
    codec: int
    bases: tuple[bytes, ...] = ()
    """The chunks that are needed to read a delta, in this order."""

    @property
    def whole(self) -> bool:
        """Whether this copy is not a delta."""
        return self.codec != DELTA


class _Head(msgspec.Struct, array_like=True):
    packs: list[bytes]
    supersedes: list[str]


class Index:
    """The index of one repository, loaded on first use and only ever added to."""

    def __init__(self, location: Location, sealer: Sealer, *, read_only: bool = False) -> None:
        self._location = location
        self._sealer = sealer
        self._read_only = read_only
        self._lock = Lock(self._forget)
        self._forget()

    def _forget(self) -> None:
        """Forget everything, as before the first load."""
        self._packs: list[bytes] = []
        self._pack_numbers: dict[bytes, int] = {}
        # Heads and rows are replaced together, so that other threads may look up while one sorts.
        self._tables: tuple[_Rows, _Rows] = (_NO_ROWS, _NO_ROWS)
        """The large table, and that of newer entries."""
        self._bases: tuple[NDArray[np.uint64], Array] = (np.empty(0, "<u8"), _no_bases())
        """Sorted places of the deltas in the tables, and their bases. It is set before the table that needs it."""
        self._recent: dict[bytes, list[ChunkCopy]] = {}
        self._new: list[_Passing] = []
        """Entries that are in no table yet."""
        self._new_bases: list[tuple[NDArray[np.uint64], Array]] = []
        """The places of the deltas among them, and their bases."""
        self._known: set[str] = set()
        self._superseded: set[str] = set()
        self._mergeable: dict[int, dict[str, int]] = {}
        """By level, the known objects that are worth merging, and how many entries they have."""
        self._held: dict[str, bytes] = {}
        """Small objects in their stored form, so that merging need not read them again."""
        self.damaged: dict[str, DamagedObject] = {}
        self.loaded = False

    # --- looking up ---------------------------------------------------------------------------------------

    def find(self, chunk: bytes, avoid: Container[bytes] = ()) -> ChunkCopy | None:
        """Return one copy of a chunk that can be read without the packs in `avoid`, or None."""
        for entry in self._copies(chunk):
            if entry.pack not in avoid and all(self.find_whole(base, avoid) for base in entry.bases):
                return entry
        return None

    def find_whole(self, chunk: bytes, avoid: Container[bytes] = ()) -> ChunkCopy | None:
        """Return one copy of a chunk outside the packs in `avoid` that is not a delta, or None."""
        return next((entry for entry in self._copies(chunk) if entry.whole and entry.pack not in avoid), None)

    def find_all(self, chunk: bytes) -> list[ChunkCopy]:
        """Return every known copy of a chunk."""
        return list(self._copies(chunk))

    def _copies(self, chunk: bytes) -> Iterable[ChunkCopy]:
        return chain(self._recent.get(chunk, ()), *(self._in_table(table, chunk) for table in self._tables))

    def _in_table(self, table: _Rows, chunk: bytes) -> Iterable[ChunkCopy]:
        heads, rows = table
        head = np.uint64(int.from_bytes(chunk[:8], "big"))
        at = int(heads.searchsorted(head))
        while at < len(heads) and heads[at] == head:
            row = rows[at]
            if row["tail"].tobytes() == chunk[8:]:
                yield self._entry(chunk, row)
            at += 1

    def _entry(self, chunk: bytes, row: Any) -> ChunkCopy:
        size, codec = int(row["size"]) & _SIZE_MASK, int(row["size"]) >> _SIZE_BITS
        bases = _bases_of(self._bases, row)[0] if codec == DELTA else ()
        return ChunkCopy(
            chunk, self._packs[int(row["pack"])], int(row["offset"]), int(row["stored"]), size, codec, _names(bases)
        )

    def __len__(self) -> int:
        return sum(len(heads) for heads, _ in self._tables) + sum(map(len, self._recent.values()))

    # --- the table as a whole, for maintenance -------------------------------------------------------------

    def table(self) -> tuple[NDArray[np.uint64], Array, list[bytes]]:
        """Return the sorted heads, the rows, and the pack ids to which the `pack` numbers of the rows refer."""
        self._fold(whole=True)
        return *self._tables[0], self._packs

    def entry_at(self, row: int) -> ChunkCopy:
        """Return the entry at one row of `table()`."""
        heads, rows = self._tables[0]
        return self._entry(int(heads[row]).to_bytes(8, "big") + rows[row]["tail"].tobytes(), rows[row])

    def bases_at(self, rows: NDArray[np.int64]) -> Array:
        """Return the bases of the deltas in some rows of `table()`: an array of shape (rows, 2) of ids."""
        return _bases_of(self._bases, self._tables[0][1][rows])

    def readable(
        self, rows: NDArray[np.int64], good: Callable[[NDArray[np.int64]], NDArray[np.bool_]]
    ) -> NDArray[np.bool_]:
        """Return which rows of `table()` can be read: they are good, and each of their bases has a good whole copy.

        Args:
            rows: The numbers of the rows.
            good: A function that returns which of some rows are good.
        """
        heads, table = self._tables[0]
        found = good(rows)
        deltas = np.flatnonzero(found & ~is_whole(table[rows]))
        if len(deltas):
            for bases in self.bases_at(rows[deltas]).T:
                which, copies = find_rows(heads, table, bases)
                has = np.zeros(len(deltas), bool)
                has[which[is_whole(table[copies]) & good(copies)]] = True
                found[deltas] &= has
        return found

    # --- loading and publishing ------------------------------------------------------------------------------

    @_locked
    def load(self) -> bool:
        """Read new index objects. Return whether there were any.

        If an object disappears between the listing and the read, it was superseded, and the listing is repeated. A
        damaged object is recorded in `damaged`. It matters only for chunks that no other object names.
        """
        added = False
        for _ in range(5):
            sizes = {info.path: info.size for info in self._location.list(PREFIX) if _OBJECT.fullmatch(info.path)}
            unread = sorted(sizes.keys() - self._known - self._superseded, reverse=True)  # larger levels first
            vanished = False
            for level in sorted({_level(name) for name in unread}, reverse=True):
                batch = [name for name in unread if _level(name) == level and name not in self._superseded]
                for part in _lots(batch, sizes):
                    found = read_each(self._location, part)[::-1]
                    for name in part:
                        data = found.pop()  # not kept until the last one is taken
                        if data is None:
                            vanished = True
                        elif isinstance(data, DamagedObject):
                            self._known.add(name)
                            self.damaged[name] = data
                        else:
                            self._take(name, data)
                            added = True
            if not vanished:
                break
        self.loaded = True
        self._fold()
        if added:
            self._merge()
        return added

    def look_again(self) -> bool:
        """Read new objects before reporting something as missing. One listing may miss an object, but two do not."""
        return self.load() or self.load()

    def looks(self) -> Iterator[None]:
        """Read new objects before something is reported as missing. Yields after each time.

        As long as a listing shows new objects, it may still have missed the wanted one. While others write without a
        pause, every listing shows new objects: hence the limit. It also yields after a listing that shows none, because
        another thread may have read the wanted one since the caller has looked.
        """
        for _ in range(_LOOKS):
            shows_new = self.look_again()
            yield
            if not shows_new:
                return

    def look_until(self, done: Callable[[], bool]) -> bool:
        """Read new objects until `done` returns True, and return whether it did. See `looks`."""
        return done() or any(done() for _ in self.looks())

    @_locked
    def publish(self, entries: Sequence[ChunkCopy]) -> None:
        """Store the entries of packs that are already durable, as new index objects."""
        for start in range(0, len(entries), _LARGEST):
            part = entries[start : start + _LARGEST]
            packs = sorted({entry.pack for entry in part})
            numbers = {pack: number for number, pack in enumerate(packs)}
            self._enter(self._write(0, packs, [], *records_of(part, numbers)), len(part))
        for entry in entries:
            self._recent.setdefault(entry.chunk, []).append(entry)
        if len(self._recent) > _FOLD:
            self._fold()
        self._merge()

    @_locked
    def rewrite(self, keep: Callable[[bytes], bool]) -> list[str]:
        """Rewrite the whole index with the entries of the packs for which `keep` returns True.

        Returns the index objects that it supersedes.
        """
        heads, table, _ = self.table()
        wanted = np.array([keep(pack) for pack in self._packs], bool)
        rows = np.flatnonzero(wanted[table["pack"]]) if len(self._packs) else np.empty(0, np.int64)
        old = sorted(self._known - self._superseded)
        written = []
        for start in range(0, max(len(rows), 1), _LARGEST):
            part = rows[start : start + _LARGEST]
            used, numbers = np.unique(table["pack"][part], return_inverse=True)
            records = np.empty(len(part), RECORD)
            records["chunk"] = join_ids(heads[part], table["tail"][part])
            records["pack"] = numbers
            for column in ("offset", "stored", "size"):
                records[column] = table[column][part]
            bases = self.bases_at(part[~is_whole(records)])
            # Only the last part supersedes the old objects, so these count until it is written.
            last = start + _LARGEST >= len(rows)
            packs = [self._packs[number] for number in used]
            written.append(self._write(9, packs, old if last else [], *_frames(records, bases)))
        for name in written:
            self._enter(name, _FULL)
        self._supersede(old)
        return old

    def objects(self) -> tuple[set[str], set[str]]:
        """Return the index objects that were read or written so far, and which of them are superseded."""
        return set(self._known), set(self._superseded)

    def forget(self, name: str) -> None:
        """Forget a superseded or damaged index object that was deleted."""
        self._known.discard(name)
        self._mergeable.get(_level(name), {}).pop(name, None)
        self.damaged.pop(name, None)

    # --- inside ----------------------------------------------------------------------------------------------

    def _take(self, name: str, data: bytes) -> None:
        try:
            head, records, bases = self._parse(name, data)
        except DamagedObject as error:
            self._known.add(name)
            self.damaged[name] = error
            return
        self._enter(name, len(records))
        self._hold(name, data)
        self._supersede(head.supersedes)
        numbers = np.array([self._number(pack) for pack in head.packs], np.uint32)
        heads, tails = split_ids(records["chunk"])
        order = np.argsort(heads, kind="stable")
        sorted_heads, rows, memory = _own_memory(len(records))
        sorted_heads[:] = heads[order]
        rows["tail"] = tails[order]
        rows["pack"] = numbers[records["pack"][order]]
        for column in ("offset", "stored", "size"):
            rows[column] = records[column][order]
        deltas = records[~is_whole(records)]
        self._new.append(_Passing(sorted_heads, rows, memory))
        self._new_bases.append((_places(numbers[deltas["pack"]], deltas["offset"]), bases))

    def _parse(self, name: str, data: bytes) -> tuple[_Head, Array, Array]:
        frames = self._sealer.open(name, data)
        try:
            head = msgspec.msgpack.decode(frames[0], type=_Head)
            records, bases = _parse_records(frames[1:])
            if len(records) and int(records["pack"].max()) >= len(head.packs):
                raise DamagedObject(name, "it names packs that it does not list")
            if any(len(pack) != SALT_SIZE for pack in head.packs):
                raise DamagedObject(name, "it names a pack that is none")
        except (*UNDECODABLE, IndexError) as error:
            raise DamagedObject(name, f"its records cannot be read ({error})") from None
        return head, records, bases

    def _number(self, pack: bytes) -> int:
        number = self._pack_numbers.get(pack)
        if number is None:
            number = self._pack_numbers[pack] = len(self._packs)
            self._packs.append(pack)
        return number

    @_locked
    def _fold(self, *, whole: bool = False) -> None:
        """Sort new entries into a table.

        Args:
            whole: Put all entries into one table.
        """
        recent = [entry for entries in self._recent.values() for entry in entries]
        if recent:
            rows = np.array(
                [(e.chunk[8:], self._number(e.pack), e.offset, e.stored, pack_size(e.size, e.codec)) for e in recent],
                ROW,
            )
            heads = np.array([int.from_bytes(e.chunk[:8], "big") for e in recent], "<u8")
            deltas = rows[~is_whole(rows)]
            order = np.argsort(heads, kind="stable")
            self._new.append(_Passing(heads[order], rows[order]))
            self._new_bases.append((_places(deltas["pack"], deltas["offset"]), _pairs(recent)))
        large, small = self._tables
        if not self._new and not (whole and len(small[0])):
            return
        places, first = np.unique(
            np.concatenate([self._bases[0], *(places for places, _ in self._new_bases)]), return_index=True
        )
        self._bases = places, np.concatenate([self._bases[1], *(bases for _, bases in self._new_bases)])[first]
        # Other threads may still look up in the old tables, so that these are not freed on the way.
        count = len(small[0]) + sum(len(new.heads) for new in self._new)
        if whole or _SPARED * count > len(large[0]):
            self._tables = _merged([_Passing(*large), _Passing(*small), *self._new]), _NO_ROWS
        else:
            self._tables = large, _merged([_Passing(*small), *self._new])
        self._new.clear()
        self._new_bases.clear()
        self._recent = {}

    def _write(self, level: int, packs: list[bytes], supersedes: list[str], *frames: Buffer) -> str:
        name = f"{PREFIX}/{level}-{os.urandom(16).hex()}"
        head = msgspec.msgpack.encode(_Head(packs, supersedes))
        data = self._sealer.seal(name, [head, *frames])
        self._location.create(name, data)
        self._hold(name, data)
        return name

    def _hold(self, name: str, data: bytes) -> None:
        if not self._read_only and _level(name) == 0 and len(data) <= _SMALL:
            self._held[name] = data

    def _merge(self) -> None:
        """Merge many small index objects into a larger one.

        This only saves requests of later readers, so a failure is logged and not raised.
        """
        if self._read_only:
            return
        try:
            self._merge_levels()
        except StorageError as error:
            logger.warning("Could not merge the index: %s", error)

    def _enter(self, name: str, entries: int) -> None:
        self._known.add(name)
        if name not in self._superseded and entries < _FULL:
            self._mergeable.setdefault(_level(name), {})[name] = entries

    def _supersede(self, names: Iterable[str]) -> None:
        for name in names:
            self._superseded.add(name)
            self._mergeable.get(_level(name), {}).pop(name, None)
            self._held.pop(name, None)

    def _merge_levels(self) -> None:
        for level in range(3):
            mergeable = self._mergeable.get(level, {})
            if len(mergeable) < _MERGE:
                continue
            total = accumulate(mergeable[name] for name in sorted(mergeable))
            names = [name for name, so_far in zip(sorted(mergeable), total, strict=True) if so_far <= _LARGEST]
            packs: dict[bytes, int] = {}
            parts = []
            deltas = []
            read = []
            absent = [name for name in names if name not in self._held]
            found = self._held | dict(zip(absent, self._location.read_many(absent), strict=True))
            for name in names:
                data = found[name]
                if data is None:
                    continue
                head, records, bases = self._parse(name, data)
                renumbered = records.copy()
                if len(records):
                    renumbered["pack"] = np.array([packs.setdefault(pack, len(packs)) for pack in head.packs])[
                        records["pack"]
                    ]
                parts.append(renumbered)
                deltas.append(bases)
                read.append(name)
            if len(read) < 2:
                continue
            frames = _frames(np.concatenate(parts), np.concatenate(deltas))
            self._enter(self._write(level + 1, list(packs), read, *frames), sum(map(len, parts)))
            self._supersede(read)


class _Passing:
    """Sorted entries that are read once, from the first to the last.

    Args:
        heads: The sorted heads.
        rows: The rows.
        memory: The memory of each, if it belongs to nobody else. It goes back to the system as the entries are read.
    """

    def __init__(self, heads: NDArray[np.uint64], rows: Array, memory: Sequence[mmap.mmap] = ()) -> None:
        self.heads = heads
        self._rows = rows
        self._memory = memory
        self._at = 0

    def until(self, bound: int | None) -> _Rows:
        """Return the entries that were not read yet and whose heads are below a bound."""
        start = self._at
        self._at = len(self.heads)
        if bound is not None:
            self._at = start + int(self.heads[start:].searchsorted(np.uint64(bound)))
        return self.heads[start : self._at], self._rows[start : self._at]

    def free(self) -> None:
        """Give back the memory of what was read."""
        for memory, values in zip(self._memory, (self.heads, self._rows), strict=False):
            memory.madvise(mmap.MADV_DONTNEED, 0, self._at * values.itemsize // mmap.PAGESIZE * mmap.PAGESIZE)


def _own_memory(count: int) -> tuple[NDArray[np.uint64], Array, list[mmap.mmap]]:
    """Return arrays for heads and rows, and their memory if it can be given back in pieces."""
    if count * ROW.itemsize < _OWN_MEMORY:
        return np.empty(count, "<u8"), np.empty(count, ROW), []
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    heads, rows = (mmap.mmap(-1, count * size, private) for size in (8, ROW.itemsize))
    return np.frombuffer(heads, "<u8"), np.frombuffer(rows, ROW), [heads, rows]


def _merged(tables: Sequence[_Passing]) -> _Rows:
    """Return all entries in one sorted table, without those that are there twice.

    Each table is freed while the new one grows, so that both together take hardly more memory than one.
    """
    count = sum(len(table.heads) for table in tables)
    all_heads, all_rows = np.empty(count, "<u8"), np.empty(count, ROW)
    slices = 1 + count // _SLICE
    done = 0
    for number in range(1, slices + 1):
        parts = [table.until(number * 2**64 // slices if number < slices else None) for table in tables]
        heads = np.concatenate([part for part, _ in parts])
        rows = np.concatenate([part for _, part in parts])
        del parts
        order = np.argsort(heads, kind="stable")
        heads, rows = heads[order], rows[order]
        once = np.ones(len(heads), bool)
        once[1:] = (heads[1:] != heads[:-1]) | (rows[1:] != rows[:-1])
        end = done + int(np.count_nonzero(once))
        all_heads[done:end], all_rows[done:end] = heads[once], rows[once]
        done = end
        for table in tables:
            table.free()
    return all_heads[:done], all_rows[:done]


def _lots(names: Iterable[str], sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Split objects into lists of objects that are read at the same time."""
    lot: list[str] = []
    total = 0
    for name in names:
        if lot and (len(lot) == _MOST_AT_ONCE or total + sizes[name] > _AT_ONCE):
            yield lot
            lot, total = [], 0
        lot.append(name)
        total += sizes[name]
    if lot:
        yield lot


def find_rows(heads: NDArray[np.uint64], table: Array, chunks: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return all rows of an `Index.table()` with one of the given chunks (an array of 32-byte ids).

    Returns:
        Two arrays: for each match, the position in `chunks` and the row in the table.
    """
    wanted, tails = split_ids(chunks)
    first = heads.searchsorted(wanted, "left")
    counts = heads.searchsorted(wanted, "right") - first
    which = np.repeat(np.arange(len(chunks)), counts)
    rows = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
    same = table["tail"][rows] == tails[which]
    return which[same], rows[same]


def records_of(entries: Sequence[ChunkCopy], numbers: Mapping[bytes, int]) -> list[Buffer]:
    """Return entries as frames of an index object or of a pack's table. `numbers` maps packs to their numbers."""
    records = np.array(
        [(e.chunk, numbers[e.pack], e.offset, e.stored, pack_size(e.size, e.codec)) for e in entries], RECORD
    )
    return _frames(records, _pairs(entries))


def entries_from(frames: Sequence[Buffer], packs: Sequence[bytes]) -> list[ChunkCopy]:
    """Undo `records_of`. Raises `ValueError` for invalid frames."""
    records, bases = _parse_records(frames)
    found = iter(bases)
    return [
        ChunkCopy(
            record["chunk"].tobytes(),
            packs[int(record["pack"])],
            int(record["offset"]),
            int(record["stored"]),
            int(record["size"]) & _SIZE_MASK,
            int(record["size"]) >> _SIZE_BITS,
            () if whole else _names(next(found)),
        )
        for record, whole in zip(records, is_whole(records).tolist(), strict=True)
    ]


def pack_size(size: int, codec: int) -> int:
    """Return the plain size and the codec as one 32-bit number."""
    return size | codec << _SIZE_BITS


def is_whole(rows: Array) -> NDArray[np.bool_]:
    """Return which rows of a table, or records, are not deltas."""
    found: NDArray[np.bool_] = rows["size"] >> _SIZE_BITS != DELTA
    return found


def sizes_of(sizes: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return the sizes of chunks from the field `size` of rows of a table, or of records."""
    return sizes & np.uint32(_SIZE_MASK)


def split_ids(chunks: Array) -> tuple[NDArray[np.uint64], Array]:
    """Return the first 8 bytes of 32-byte ids as integers, and the other 24."""
    flat = np.ascontiguousarray(chunks).view(np.uint8).reshape(-1, ID_SIZE)
    heads = np.ascontiguousarray(flat[:, :8]).view(">u8").reshape(-1).astype("<u8")
    tails = np.ascontiguousarray(flat[:, 8:]).view("V24").reshape(-1)
    return heads, tails


def join_ids(heads: NDArray[np.uint64], tails: Array) -> Array:
    """Undo `split_ids`."""
    flat = np.empty((len(heads), ID_SIZE), np.uint8)
    flat[:, :8] = heads.astype(">u8").view(np.uint8).reshape(-1, 8)
    flat[:, 8:] = np.ascontiguousarray(tails).view(np.uint8).reshape(-1, 24)
    return flat.reshape(-1).view(f"V{ID_SIZE}")


def _frames(records: Array, bases: Array) -> list[Buffer]:
    return [records.tobytes(), bases.tobytes()] if len(bases) else [records.tobytes()]


def _parse_records(frames: Sequence[Buffer]) -> tuple[Array, Array]:
    records = np.frombuffer(frames[0], RECORD)
    bases = np.frombuffer(frames[1], f"V{ID_SIZE}").reshape(-1, BASES) if len(frames) > 1 else _no_bases()
    if len(bases) != np.count_nonzero(~is_whole(records)):
        raise ValueError("bases are missing or too many")
    if len(records) and max(int(records["stored"].max()), int((records["size"] & _SIZE_MASK).max())) > LARGEST_CHUNK:
        raise ValueError("it states a larger chunk than there are")
    return records, bases


def _no_bases() -> Array:
    return np.empty((0, BASES), f"V{ID_SIZE}")


def _pairs(entries: Iterable[ChunkCopy]) -> Array:
    """Return the bases of the deltas among these entries, in order. A single base is repeated."""
    pairs = [(entry.bases * BASES)[:BASES] for entry in entries if not entry.whole]
    return np.frombuffer(b"".join(chain.from_iterable(pairs)), f"V{ID_SIZE}").reshape(-1, BASES)


def _names(pair: Iterable[Any]) -> tuple[bytes, ...]:
    return tuple(dict.fromkeys(base.tobytes() for base in pair))


def _places(packs: Array, offsets: Array) -> NDArray[np.uint64]:
    """Return packs and offsets as one number each, which is unique to a copy."""
    places: NDArray[np.uint64] = packs.astype("<u8") << np.uint64(32) | offsets
    return places


def _bases_of(bases: tuple[NDArray[np.uint64], Array], rows: Array) -> Array:
    places, pairs = bases
    rows = np.atleast_1d(rows)
    return pairs[places.searchsorted(_places(rows["pack"], rows["offset"]))]


def _level(name: str) -> int:
    return int(name[len(PREFIX) + 1])
