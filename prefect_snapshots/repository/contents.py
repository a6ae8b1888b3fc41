"""Store the content of a version in chunks, and read it back.

A *content* is a *body* (the bytes of leaves, files or rows, one after another) followed by a *manifest* (what is where,
in a format that its kind defines). Up to `INLINE_LIMIT` bytes are stored inside the event. A larger content is split
into chunks, and the event contains a *table* of them. A long table is itself stored in chunks, and the event contains
the table of those.

`Writer` makes chunks: several threads hash and compress while one writes and others sync closed packs. Its choice of
reused chunks is based on one `epoch`, which the commit checks (see `catalog`). `ContentReader` reads chunks and
verifies every byte.
"""

from __future__ import annotations

import base64
import contextlib
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..errors import (
    UNDECODABLE,
    DamagedObject,
    IntegrityError,
    InvalidArgument,
    MalformedContent,
    MissingChunk,
    ObjectMissing,
    StorageError,
)
from .chunking import cut
from .index import BASES, LARGEST_CHUNK, ChunkCopy, Index, find_rows, sizes_of
from .location import Buffer, Location
from .packs import LOCAL_LIMIT, REMOTE_LIMIT, PackIds, PackWriter, is_plain, open_chunk, pack_path
from .progress import Progress, counted, watching
from .recognition import ChunkNames
from .reserve import spare_reserve
from .sealing import DELTA, ID_SIZE, Sealer, shrink_delta
from .threads import Use, submit

INLINE_LIMIT = 16 * 1024
"""Up to this many bytes of body and manifest are stored inside the event, so that a small save is one request and
events stay quick to read."""

TABLE = np.dtype([("chunk", f"V{ID_SIZE}"), ("size", "<u4")])
"""One row of a chunk table."""

_TABLE_LIMIT = 8 * TABLE.itemsize
"""The largest table in bytes inside an event. A larger one goes into chunks, so that events stay small."""
_DEEPEST = 8
"""The most levels of tables. Each level has at least 400 times as many rows, so five are enough for any disk."""
_TABLES_LIMIT = 2**31
"""The most bytes in the tables of one content, which are read into memory: 60 million chunks, at least some TB."""
_AHEAD = 6
"""How many batches are hashed or compressed ahead of the one being written. This limits memory."""
_BATCH = 1024 * 1024
"""Bytes of chunks per task of a thread, because starting a task for each small chunk would take longer than hashing."""
_CLOSING = {True: 6, False: 2}
"""How many packs are made durable at the same time, on a local disk and elsewhere, where each is in memory."""
_SYNCHRONOUS = 2 * 1024 * 1024
"""Contents with fewer bytes are stored without threads, because starting those would take longer."""
_RUN = 4 * 1024 * 1024
"""The most bytes of adjacent chunks in one request: longer requests are not faster, and need memory."""
_ADOPTED = 4 * _RUN
"""How many bytes of another content are compared, and if necessary read, together."""
_DELTA_PAYS = 0.2
"""The largest useful delta, as a share of the size of the whole chunk. Deltas grow with all changes since their bases
were stored, until the chunk is stored whole and becomes a base itself."""


class Content(msgspec.Struct, array_like=True, frozen=True):
    """Where the bytes of a version are. Part of an event."""

    size: int
    manifest_size: int
    depth: int
    """0: inline in the event; 1: `table` lists the chunks; n: `table` lists chunks that hold the table of depth n-1."""
    table: bytes
    written: int
    """Bytes that were new in the repository, after compression."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A content to commit: the places of its chunks, or the bytes themselves."""

    content: Content
    inline: bytes


class StagedPart(msgspec.Struct, array_like=True, frozen=True):
    """Content that is stored, and that no version needs yet. `Repository.stage` returns it.

    It is small, contains no secret, and can be sent to another process with pickle or msgpack. Prune frees the content
    of a part that is never committed.
    """

    repository: str
    """The id of the repository."""
    content: Content
    inline: bytes
    """The bytes themselves, if there are few."""

    def to_text(self) -> str:
        """Return it as a string of letters, digits, `-` and `_`."""
        return base64.urlsafe_b64encode(msgspec.msgpack.encode(self)).decode().rstrip("=")

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Return the part that `to_text` has turned into a string.

        Raises:
            InvalidArgument: It is no such string.
        """
        if not isinstance(text, str):
            raise InvalidArgument(f"This is no staged part, but {type(text).__name__}. Pass what to_text returned.")
        try:
            return msgspec.msgpack.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=cls)
        except UNDECODABLE as error:
            raise InvalidArgument(f"This is no staged part: {error}. Stage it again.") from None


@dataclass(frozen=True, slots=True)
class Store:
    """The parts of a repository that read and write chunks."""

    location: Location
    sealer: Sealer
    index: Index
    condemned: Callable[[], Collection[bytes]]
    names: ChunkNames
    pack_ids: PackIds


@dataclass(frozen=True, slots=True)
class Kept:
    """A part of a body that is already stored: the rows of its chunks, from the table of another content.

    Check with `Writer.has` before whether they still exist.
    """

    rows: Any
    """An array of `TABLE`."""


@dataclass(frozen=True, slots=True)
class Similar:
    """A chunk that is probably similar to others that are already stored.

    It is stored as a *delta*, its difference from them, if that is much smaller. Otherwise it is stored whole.
    """

    data: Buffer
    chunks: tuple[bytes, ...]
    """The names of the similar chunks. If one is itself a delta, its bases are used instead."""


Packed: TypeAlias = tuple[int, Buffer, tuple[bytes, ...]]
"""The stored form of a chunk: codec, bytes, and the chunks that are needed to read it."""

Prepared: TypeAlias = tuple[bytes, int, Packed | None]
"""A chunk's name, its size, and its stored form, or None if it is already stored."""

Batch: TypeAlias = Callable[[], Sequence[Buffer | Similar]]
"""A function that returns chunks, some MB together. A thread calls it before hashing, so that it also reads them."""

Translate: TypeAlias = Callable[[list[bytes]], list[bytes | None]]
"""A function that returns the names in this repository of chunks of another one, or None for unknown ones."""

Item: TypeAlias = Buffer | Similar | Kept | Batch
"""A part of a body that is split into chunks."""


def inline(manifest: bytes, buffers: Sequence[Buffer]) -> Stored | None:
    """Return the content in the form that is stored inside an event, or None if it is too large for that."""
    size = sum(map(len, buffers)) + len(manifest)
    if size > INLINE_LIMIT:
        return None
    data = b"".join((*buffers, manifest))
    return Stored(Content(size, len(manifest), 0, b"", size), data)


# --- writing -------------------------------------------------------------------------------------------------


class Writer:
    """Stores contents for one commit. Use as a context manager; `flush` before committing.

    Args:
        store: The repository's parts, its index loaded.
        epoch: The epoch that was current when `avoid` was read.
        avoid: Condemned packs, whose chunks are stored again instead of reused.

    Attributes:
        read_soon: Whether the data will probably be read soon, like a snapshot. If not, it is written without the cache
            of the operating system, where that is possible.
    """

    read_soon = True

    def __init__(self, store: Store, epoch: int, avoid: Collection[bytes]) -> None:
        self.epoch = epoch
        self._store = store
        self._avoid = avoid
        self._limit = LOCAL_LIMIT if store.location.is_local else REMOTE_LIMIT
        self._pack: PackWriter | None = None
        self._closing: deque[Future[list[ChunkCopy]]] = deque()
        self._entries: list[ChunkCopy] = []
        self._new: set[bytes] = set()
        self._written = 0
        self._publishing = False

    def store(self, manifest: bytes, buffers: Iterable[Buffer]) -> Stored:
        """Store a body and its manifest. The buffers must not change until this returns."""
        if not isinstance(buffers, Sequence):
            return self.store_cut(manifest, cut(buffers))
        size = sum(map(len, buffers))
        if size < _SYNCHRONOUS:
            return self.store_cut(manifest, cut(buffers), small=True)
        return self.store_cut(manifest, counted("save", cut(buffers), size))

    def store_cut(
        self, manifest: bytes | Callable[[], bytes], chunks: Iterable[Item], *, small: bool = False
    ) -> Stored:
        """Store a body that is already split into chunks, and its manifest.

        Args:
            manifest: The manifest, not split yet, or a function that returns it and is called after the body is stored.
            chunks: The chunks of the body in order. They must not change until this returns. If there are functions
                among them, several threads call them at the same time.
            small: Store without threads, because starting those would take longer.
        """
        written = self._written
        body = self._ingest(chunks, small)
        manifest = manifest if isinstance(manifest, bytes) else manifest()
        table = body + self._ingest(cut([manifest]), small)
        size = int(np.frombuffer(body, TABLE)["size"].sum(dtype=np.int64)) + len(manifest)
        return self._stored(size, len(manifest), table, written)

    def put(self, chunks: Iterable[Item]) -> Kept:
        """Store a part of a body before it is known whether a content will contain it."""
        return Kept(np.frombuffer(self._ingest(chunks, small=False), TABLE))

    def has(self, rows: Any) -> NDArray[np.bool_]:
        """Return which of these rows of a table name a chunk that can be read without the packs to avoid.

        In this commit, these can be `Kept`.
        """
        index = self._store.index
        heads, table, packs = index.table()
        which, found = find_rows(heads, table, rows["chunk"])
        same = sizes_of(table["size"][found]) == rows["size"][which]  # a forged table may state others
        which, found = which[same], found[same]
        usable = np.array([pack not in self._avoid for pack in packs], bool)
        has = np.zeros(len(rows), bool)
        has[which[index.readable(found, lambda rows: usable[table["pack"][rows]])]] = True
        return has

    def keep(self, part: ContentReader) -> Any:
        """Return the rows of a content of this repository that no version needs yet, to commit it as a part of another.

        Whoever stored it decided which chunks to reuse under an epoch that may have passed. So every chunk is looked
        for again, under the epoch of this commit.

        Returns:
            An array of `TABLE`. Parts of it can be `Kept`.

        Raises:
            IntegrityError: A chunk has no copy outside the packs to avoid.
        """
        rows = part.table
        # Another process may have published the index of its chunks since this one has read the index.
        if not self._store.index.look_until(lambda: bool(self.has(rows).all())):
            raise MissingChunk(rows["chunk"][~self.has(rows)][0].tobytes().hex())
        return rows

    def keep_body(self, part: ContentReader) -> Kept:
        """Return the body of such a content, without its manifest, to commit it as a part of another one.

        Raises:
            IntegrityError: As for `keep`.
            MalformedContent: A chunk has bytes of the body and of the manifest, or the content has no chunks.
        """
        rows = self.keep(part)
        ends = np.concatenate([[0], np.cumsum(rows["size"], dtype=np.int64)])
        count = int(ends.searchsorted(part.body_size))
        if int(ends[count]) != part.body_size:
            raise MalformedContent("the body of a staged part does not end where a chunk does")
        return Kept(rows[:count])

    def adopt(
        self,
        source: ContentReader,
        passed: Callable[[int], None] = lambda _: None,
        translate: Translate | None = None,
    ) -> Stored:
        """Refer to a content that is already stored in this or another repository.

        Missing chunks and chunks in condemned packs are copied. Copies are added to the index from time to time, so
        that another attempt after a kill continues from there.

        Args:
            source: The content.
            passed: Called with the number of bytes that were copied or are already here.
            translate: Returns the names that some chunks of the source have here, None for unknown ones. They are read
                again. Default: if both repositories have the same keys, the names are equal, else none is known.
        """
        if source.inline is not None:
            return source.inline
        written = entered = self._written
        translate = translate or (list if source.names_like(self._store.sealer) else lambda names: [None] * len(names))
        table: list[bytes] = []
        progress, done = watching(), 0
        for rows in source.batches(_ADOPTED):
            names = translate([row["chunk"].tobytes() for row in rows])
            absent = [at for at, name in enumerate(names) if name is None or not self._has(name)]
            items = self._as_stored(source, rows[absent], translate)
            stored = np.frombuffer(self._ingest(items, small=False), TABLE)
            for at, row in zip(absent, stored, strict=True):
                names[at] = row["chunk"].tobytes()
            table += [
                name + int(row["size"]).to_bytes(4, "little") for name, row in zip(names, rows, strict=True) if name
            ]
            if self._written - entered >= REMOTE_LIMIT:
                self.flush()
                entered = self._written
            count = int(rows["size"].sum(dtype=np.int64))
            passed(count)
            if progress is not None:
                done += count
                progress("copy", done, source.size)
        return self._stored(source.size, source.size - source.body_size, b"".join(table), written)

    def _as_stored(self, source: ContentReader, rows: Any, translate: Translate) -> Iterator[Buffer | Similar]:
        """Yield chunks of another content, those that are deltas there as similar to their bases, if these are here."""
        for data, bases in zip(source.chunks(rows), source.bases(rows), strict=True):
            known = tuple(name for name in translate(bases) if name is not None)
            yield Similar(data, known) if known else data

    def copy(self, chunk: bytes, plain: Buffer, bases: tuple[bytes, ...] = ()) -> None:
        """Store another copy of a chunk, unless there is one outside the packs to avoid. A delta stays a delta."""
        if not self._has(chunk):
            self._add(chunk, len(plain), self._pack_chunk(plain, bases))
            if self._pack is not None:
                self._pack.write_out()

    @property
    def written(self) -> int:
        """Bytes stored so far, after compression."""
        return self._written

    def flush(self) -> None:
        """Make every pack durable, then the index that names them."""
        self._close_pack()
        while self._closing:
            self._entries += self._closing.popleft().result()
        if self._entries:
            self._publishing = True
            self._store.index.publish(self._entries)
            self._publishing = False
            self._entries = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._pack is not None:
            self._pack.abort()
            self._pack = None
        while self._closing:
            with contextlib.suppress(Exception):  # the first error is raised
                self._entries += self._closing.popleft().result()
        if self._entries and not self._publishing:
            # No index names these packs yet, and a full disk needs their space. As soon as an index object may name
            # them, others may use their chunks, and only prune may delete them.
            with contextlib.suppress(StorageError):
                self._store.location.delete({pack_path(entry.pack) for entry in self._entries})

    def _stored(self, size: int, manifest_size: int, table: bytes, written: int) -> Stored:
        """Return the content to commit, with its table shortened until it fits into the event."""
        depth = 1
        while len(table) > _TABLE_LIMIT:
            table = self._ingest(cut([table]), small=True)
            depth += 1
        return Stored(Content(size, manifest_size, depth, table, self._written - written), b"")

    def _has(self, chunk: bytes) -> bool:
        return chunk in self._new or self._store.index.find(chunk, self._avoid) is not None

    def _ingest(self, chunks: Iterable[Item], small: bool) -> bytes:
        rows: list[bytes] = []
        for part in self._prepared(chunks, small):
            if isinstance(part, Kept):
                rows.append(part.rows.tobytes())
                continue
            for chunk, size, packed in part:
                self._add(chunk, size, packed)
                rows.append(chunk + size.to_bytes(4, "little"))
            if self._pack is not None:
                self._pack.write_out()
        return b"".join(rows)

    def _prepared(self, chunks: Iterable[Item], small: bool) -> Iterator[Kept | list[Prepared]]:
        parts = _batches(chunks)
        if small:
            yield from (part if isinstance(part, Kept) else self._prepare_all(part) for part in parts)
            return
        ahead: deque[Kept | Future[list[Prepared]]] = deque()
        try:
            for part in parts:
                ahead.append(part if isinstance(part, Kept) else submit("compute", self._prepare_all, part))
                if len(ahead) >= _AHEAD:
                    yield _done(ahead.popleft())
            while ahead:
                yield _done(ahead.popleft())
        finally:
            for waiting in ahead:
                if not isinstance(waiting, Kept):
                    waiting.cancel()

    def _prepare_all(self, batch: Batch) -> list[Prepared]:
        return [self._prepare(item) for item in batch()]

    def _prepare(self, item: Buffer | Similar) -> Prepared:
        """Name a chunk, and compress it unless it is already stored. Runs in any thread."""
        data, like = (item.data, item.chunks) if isinstance(item, Similar) else (item, ())
        names = self._store.names
        chunk, code = names.find(data)
        if self._has(chunk):
            names.remember(data, chunk, code)
            return chunk, len(data), None
        return chunk, len(data), self._pack_chunk(data, like)

    def _pack_chunk(self, data: Buffer, like: tuple[bytes, ...]) -> Packed:
        """Return the stored form of a chunk: a delta from similar chunks if they exist and it is much smaller."""
        found = [entry for chunk in like if (entry := self._store.index.find(chunk, self._avoid))]
        names = dict.fromkeys(base for entry in found for base in entry.bases or (entry.chunk,))
        bases = [
            entry
            for base in [*names][:BASES]
            if (entry := self._store.index.find_whole(base, self._avoid)) and entry.size
        ]
        if bases:
            try:
                prefix = ChunkReader(self._store).read_bases(entry.chunk for entry in bases)
            except IntegrityError:
                pass  # A damaged chunk cannot be a base. The new chunk is stored whole, and `check` reports the damage.
            else:
                delta = shrink_delta(data, prefix)
                whole = len(data) * min(entry.stored / entry.size for entry in bases)
                if len(delta) <= _DELTA_PAYS * whole:
                    return DELTA, delta, tuple(entry.chunk for entry in bases)
        return *self._store.sealer.shrink(data), ()

    def _add(self, chunk: bytes, size: int, packed: Packed | None) -> None:
        if packed is None or chunk in self._new:
            return
        if self._pack is None:
            # The reserve must be full again before an upload of many packs uses the space that prune frees.
            spare_reserve(self._store.location)
            self._pack = PackWriter(
                self._store.location, self._store.sealer, self._store.pack_ids.new(), read_soon=self.read_soon
            )
        self._pack.add(chunk, size, *packed)
        self._new.add(chunk)
        self._written += len(packed[1])
        if self._pack.size >= self._limit:
            self._close_pack()

    def _close_pack(self) -> None:
        if self._pack is None:
            return
        pack, self._pack = self._pack, None
        if not self._closing and pack.size < _SYNCHRONOUS:
            self._entries += pack.close()
            return
        while len(self._closing) >= _CLOSING[self._store.location.is_local]:
            self._entries += self._closing.popleft().result()
        self._closing.append(submit("sync" if self._store.location.is_local else "send", pack.close))


def _batches(items: Iterable[Item]) -> Iterator[Kept | Batch]:
    """Yield the items in order, with successive chunks joined into batches."""
    waiting: list[Buffer | Similar] = []
    size = 0
    for item in items:
        if isinstance(item, Kept) or callable(item):
            if waiting:
                yield partial(list[Buffer | Similar], waiting)
                waiting, size = [], 0
            yield item
            continue
        waiting.append(item)
        size += len(item.data) if isinstance(item, Similar) else len(item)
        if size >= _BATCH:
            yield partial(list[Buffer | Similar], waiting)
            waiting, size = [], 0
    if waiting:
        yield partial(list[Buffer | Similar], waiting)


def _rows(table: Buffer) -> Any:
    """Return a table of chunks from its bytes."""
    if len(table) % TABLE.itemsize:
        raise MalformedContent("its table of chunks ends within a row")
    rows = np.frombuffer(table, TABLE)
    if len(rows) and int(rows["size"].max()) > LARGEST_CHUNK:
        raise MalformedContent("its table states a larger chunk than there are")
    return rows


def _done(part: Kept | Future[list[Prepared]]) -> Kept | list[Prepared]:
    return part if isinstance(part, Kept) else part.result()


# --- reading -------------------------------------------------------------------------------------------------


class ContentReader:
    """Reads one content. Every byte is verified before it is returned.

    Args:
        chunks: The reader of chunks.
        content: The content in the event.
        data: The bytes inside the event, for a content of depth 0.
    """

    def __init__(self, chunks: ChunkReader, content: Content, data: Buffer = b"") -> None:
        self._chunks = chunks
        self._content = content
        self._data = memoryview(data)
        self._table: Any = None
        self._ends: NDArray[np.int64] = np.empty(0, np.int64)
        if not (0 <= content.depth <= _DEEPEST and 0 <= content.manifest_size <= content.size < 2**62):
            raise MalformedContent("the event states sizes or levels that no content has")
        if content.depth and len(content.table) > _TABLE_LIMIT:
            raise MalformedContent("the event has a longer table of chunks than events have")
        if content.depth == 0 and len(data) != content.size:
            raise MalformedContent(f"the event contains {len(data)} bytes of content instead of {content.size}")

    @property
    def inline(self) -> Stored | None:
        """The content in the form that is stored inside an event, or None if it is stored in chunks."""
        return Stored(self._content, bytes(self._data)) if self._content.depth == 0 else None

    @property
    def size(self) -> int:
        """Bytes of body and manifest."""
        return self._content.size

    @property
    def body_size(self) -> int:
        """Bytes of the body, without the manifest."""
        return self._content.size - self._content.manifest_size

    @property
    def manifest(self) -> bytes:
        return self.read(self.body_size, self._content.manifest_size)

    @property
    def table(self) -> Any:
        """All chunks in order, as an array of `TABLE` rows."""
        if self._table is None:
            *_, table = self._levels()
            self._ends = np.cumsum(table["size"], dtype=np.int64)
            self._table = table
        return self._table

    def all_rows(self) -> Any:
        """Return all chunks that the content needs: first those of the tables, then those of the body and manifest."""
        return np.concatenate(list(self._levels()))

    def _levels(self) -> Iterator[Any]:
        """Yield the tables, from the one in the event to the one of the body. Each is read with the one before."""
        table = _rows(self._content.table)
        yield table
        for _ in range(self._content.depth - 1):
            table = _rows(self._chunks.read_table(table))
            yield table
        if int(table["size"].sum(dtype=np.int64)) != self._content.size:
            raise MalformedContent("the table of chunks does not add up to the size of the content")

    def through(self, chunks: ChunkReader) -> ContentReader:
        """Return a reader of the same content that uses another reader of chunks, such as one that remembers them."""
        return ContentReader(chunks, self._content, self._data)

    def names_like(self, sealer: Sealer) -> bool:
        """Return whether equal chunks have the same names here as in the repository of another sealer."""
        return self._chunks.names_like(sealer)

    def name_of(self, data: Buffer) -> bytes:
        """Return the name that these bytes have as a chunk. It is equal for equal bytes only."""
        return self._chunks.name_of(data)

    def batches(self, limit: int) -> Iterator[Any]:
        """Return the rows of the table in order, about `limit` bytes of chunks at a time."""
        table = self.table
        starts = np.searchsorted(self._ends, np.arange(limit, self._content.size, limit))
        return (rows for rows in np.split(table, np.unique(starts)) if len(rows))

    def chunks(self, rows: Any) -> list[bytearray]:
        """Return the chunks in these rows of the table."""
        targets = [bytearray(int(row["size"])) for row in rows]
        self._chunks.fetch(
            [
                Piece(row["chunk"].tobytes(), len(target), [(0, memoryview(target))])
                for row, target in zip(rows, targets, strict=True)
            ]
        )
        return targets

    def bases(self, rows: Any) -> list[list[bytes]]:
        """Return the bases of the chunks in these rows of the table, as they are stored; empty for whole chunks."""
        return [self._chunks.bases(row["chunk"].tobytes()) for row in rows]

    def identity(self, offset: int, length: int) -> object:
        """Return a value that is equal for equal stored bytes, without reading those that are stored in chunks.

        It may differ for equal bytes that were split in another way. Then only reading them can tell.
        """
        if self._content.depth == 0:
            return bytes(self._data[offset : offset + length])
        table = self.table
        first = int(self._ends.searchsorted(offset, "right"))
        last = int(self._ends.searchsorted(offset + length, "left"))
        start = int(self._ends[first - 1]) if first else 0
        return table["chunk"][first : last + 1].tobytes(), offset - start, length

    def read(self, offset: int, length: int) -> bytes:
        """Return some bytes of the content."""
        if self._content.depth and not 0 < length <= _RUN:
            self._locate(offset, length)  # before much memory is allocated for bytes that may not exist
        target = bytearray(length)
        self.read_into([(offset, memoryview(target))])
        return bytes(target)

    def _locate(self, offset: int, length: int) -> None:
        """Find the chunks of some bytes. Raises `IntegrityError` if one is not in the index or has another size."""
        table = self.table
        if offset < 0 or length < 0 or offset + length > self._content.size:
            raise MalformedContent("the manifest points outside of the content")
        first = int(self._ends.searchsorted(offset, "right"))
        last = int(self._ends.searchsorted(offset + length, "left"))
        self._chunks.locate(table[first : last + 1])

    def read_into(self, targets: Sequence[tuple[int, memoryview]]) -> None:
        """Fill each buffer with the bytes from its offset on, in parallel.

        Raises:
            IntegrityError: Some bytes are damaged. The contents of the buffers are then undefined.
        """
        wanted = sorted(((offset, view) for offset, view in targets if len(view)), key=lambda target: target[0])
        if wanted and (wanted[0][0] < 0 or max(offset + len(view) for offset, view in wanted) > self._content.size):
            raise MalformedContent("the manifest points outside of the content")
        if self._content.depth == 0:
            for offset, view in wanted:
                view[:] = self._data[offset : offset + len(view)]
            return
        table = self.table
        pieces: dict[int, Piece] = {}
        for offset, view in wanted:
            at = int(self._ends.searchsorted(offset, "right"))
            done = 0
            while done < len(view):
                size = int(table["size"][at])
                start = offset + done - (int(self._ends[at]) - size)
                length = min(size - start, len(view) - done)
                piece = pieces.get(at)
                if piece is None:
                    piece = pieces[at] = Piece(table["chunk"][at].tobytes(), size)
                piece.parts.append((start, view[done : done + length]))
                done += length
                at += 1
        self._chunks.fetch([pieces[at] for at in sorted(pieces)], watching())


@dataclass(slots=True)
class Piece:
    """One chunk to read, and the targets of its parts: (offset in the chunk, buffer)."""

    chunk: bytes
    size: int
    parts: list[tuple[int, memoryview]] = field(default_factory=list)

    @property
    def whole(self) -> memoryview | None:
        """The buffer, if a single one takes the whole chunk."""
        return self.parts[0][1] if len(self.parts) == 1 and len(self.parts[0][1]) == self.size else None

    def give(self, plain: Buffer) -> None:
        view = memoryview(plain)
        for start, target in self.parts:
            target[:] = view[start : start + len(target)]


class ChunkReader:
    """Reads chunks by name, from any undamaged copy."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def names_like(self, sealer: Sealer) -> bool:
        """Return whether equal chunks have the same names here as in the repository of another sealer."""
        return self._store.sealer.names_like(sealer)

    def name_of(self, data: Buffer) -> bytes:
        """Return the name that these bytes have as a chunk."""
        return self._store.sealer.chunk_id(data)

    def read(self, chunk: bytes, size: int) -> bytes:
        """Return one chunk, verified."""
        target = bytearray(size)
        self.fetch([Piece(chunk, size, [(0, memoryview(target))])])
        return bytes(target)

    def bases(self, chunk: bytes) -> list[bytes]:
        """Return the bases of a chunk that is stored as a delta. Empty if it is stored whole."""
        found = self._store.index.find(chunk)
        return list(found.bases) if found else []

    def locate(self, rows: Any) -> None:
        """Find the chunks in these table rows. Raises `IntegrityError` if one is missing or has another size."""
        for row in rows:
            self._locate(Piece(row["chunk"].tobytes(), int(row["size"])))

    def read_table(self, rows: Any) -> bytes:
        """Return the chunks in these table rows, joined."""
        size = int(rows["size"].sum(dtype=np.int64))
        if size > _TABLES_LIMIT:
            raise MalformedContent(f"its tables of chunks would take {size} bytes")
        if size > _RUN:
            self.locate(rows)  # as in `ContentReader.read`
        target = bytearray(size)
        view = memoryview(target)
        pieces = []
        start = 0
        for row in rows:
            size = int(row["size"])
            pieces.append(Piece(row["chunk"].tobytes(), size, [(0, view[start : start + size])]))
            start += size
        self.fetch(pieces)
        return bytes(target)

    def fetch(self, pieces: Sequence[Piece], progress: Progress | None = None) -> None:
        """Read and verify many chunks, and fill their targets. Adjacent chunks are read in one request."""
        jobs = self._jobs([(piece, self._locate(piece)) for piece in pieces])
        if len(jobs) == 1:
            jobs[0]()
            return
        use: Use = "compute" if self._store.location.is_local else "network"
        futures = [submit(use, job) for job in jobs]
        size = 0 if progress is None else sum(piece.size for piece in pieces)
        try:
            for done, future in enumerate(futures, 1):
                future.result()
                if progress is not None:
                    progress("load", size * done // len(futures), size)
        finally:
            for future in futures:
                future.cancel()
            # A target must not be written to after the caller has it back.
            for future in futures:
                if not future.cancelled():
                    future.exception()

    def read_bases(self, chunks: Iterable[bytes]) -> bytes:
        """Return some verified chunks from whole copies, joined. Runs in any thread."""
        located = [self._find(chunk, self._store.index.find_whole) for chunk in chunks]
        target = bytearray(sum(entry.size for entry in located))
        pieces = []
        start = 0
        for entry in located:
            pieces.append(
                (Piece(entry.chunk, entry.size, [(0, memoryview(target)[start : start + entry.size])]), entry)
            )
            start += entry.size
        for job in self._jobs(pieces):
            job()
        return bytes(target)

    def open(self, entry: ChunkCopy, data: Buffer) -> Buffer:
        """Return the verified plaintext of one copy of a chunk from its stored bytes."""
        return open_chunk(self._store.sealer, entry, data, self.read_bases(entry.bases))

    def _jobs(self, located: Iterable[tuple[Piece, ChunkCopy]]) -> list[Callable[[], None]]:
        """Return the reads for these pieces. Adjacent ones are joined, up to a few MB stored or in memory."""
        jobs: list[Callable[[], None]] = []
        run: list[tuple[Piece, ChunkCopy]] = []
        length = 0
        for piece, entry in located:
            cost = entry.stored if entry.whole else entry.size
            direct = piece.whole is not None and is_plain(self._store.sealer, entry) and piece.size >= _RUN // 8
            follows = run and entry.pack == run[-1][1].pack and entry.offset == run[-1][1].offset + run[-1][1].stored
            if run and (direct or not follows or length + cost > _RUN):
                jobs.append(self._job(run))
                run, length = [], 0
            if direct:
                jobs.append(self._direct_job(piece, entry))
            else:
                run.append((piece, entry))
                length += cost
        if run:
            jobs.append(self._job(run))
        return jobs

    def _job(self, run: list[tuple[Piece, ChunkCopy]]) -> Callable[[], None]:
        def job() -> None:
            first, last = run[0][1], run[-1][1]
            path = pack_path(first.pack)
            length = last.offset + last.stored - first.offset
            try:
                data = memoryview(self._store.location.read_range(path, first.offset, length))
            except (ObjectMissing, DamagedObject) as error:
                lost = error if isinstance(error, DamagedObject) else DamagedObject(path, "the pack is missing")
                for piece, entry in run:
                    piece.give(self._elsewhere(piece, entry, lost))
                return
            for piece, entry in run:
                start = entry.offset - first.offset
                try:
                    plain = self.open(entry, data[start : start + entry.stored])
                except IntegrityError as error:
                    plain = self._elsewhere(piece, entry, error)
                piece.give(plain)

        return job

    def _direct_job(self, piece: Piece, entry: ChunkCopy) -> Callable[[], None]:
        target = piece.parts[0][1]

        def job() -> None:
            path = pack_path(entry.pack)
            reason = f"chunk {piece.chunk.hex()[:16]} does not match its hash"
            try:
                got = self._store.location.read_into(path, entry.offset, target)
                if got == piece.size and self._store.sealer.chunk_id(target) == piece.chunk:
                    return
            except ObjectMissing:
                reason = "the pack is missing"
            except DamagedObject as error:
                reason = error.reason
            piece.give(self._elsewhere(piece, entry, DamagedObject(path, reason)))

        return job

    def _locate(self, piece: Piece) -> ChunkCopy:
        entry = self._find(piece.chunk, self._store.index.find)
        if entry.size != piece.size:
            raise DamagedObject(pack_path(entry.pack), f"the index gives chunk {piece.chunk.hex()[:16]} another size")
        return entry

    def _find(self, chunk: bytes, find: Callable[[bytes, Collection[bytes]], ChunkCopy | None]) -> ChunkCopy:
        index = self._store.index
        if not index.loaded:
            index.load()
        condemned = self._store.condemned()
        entry = find(chunk, condemned)
        if entry is None:
            entry = next((found for _ in index.looks() if (found := find(chunk, condemned))), None)
        entry = entry or find(chunk, ())  # condemned, but perhaps not deleted yet
        if entry is None:
            raise next(iter(index.damaged.values()), None) or MissingChunk(chunk.hex())
        return entry

    def _elsewhere(self, piece: Piece, tried: ChunkCopy, error: IntegrityError) -> Buffer:
        """Return another copy of a chunk, after its pack was pruned or this copy turned out to be damaged."""
        index = self._store.index
        gone = {tried}
        is_last = False
        while True:
            for entry in index.find_all(piece.chunk):
                if entry in gone or entry.size != piece.size:
                    continue
                gone.add(entry)
                try:
                    data = self._store.location.read_range(pack_path(entry.pack), entry.offset, entry.stored)
                    return self.open(entry, data)
                except (IntegrityError, ObjectMissing):
                    continue
            if is_last:
                raise error
            # If nothing is new, another thread may have read it since this one has looked for copies.
            is_last = not index.look_again()
