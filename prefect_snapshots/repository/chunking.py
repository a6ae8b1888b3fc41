"""Split bytes into chunks.

There are two ways, both deterministic, so that equal bytes give equal chunks in every process:

- *fixed*: slices of `FIXED_SIZE`, for arrays. A weight that changes in place changes only its own slices.
- *content-defined* (FastCDC): cut points depend on the bytes, for pickles, strings and files. After an insertion, the
  cut points move with the data, so that all later chunks stay the same.

The parameters are recorded in `repository.json`, because writers with different parameters would never deduplicate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

# Import the extension itself, because without it the package silently uses pure Python, which is 500 times slower.
from pyfastcdc.cy import FastCDC

from .location import Buffer

FIXED_SIZE = 4 * 1024 * 1024
"""Bytes in a slice of an array: large enough that hashing and requests cost little, small enough that a partial change
stores little."""

SHARED_SIZE = 64 * 1024
"""Buffers smaller than this share a chunk of about this size with their neighbours: one each would cost more in the
index than they hold."""

AVERAGE_SIZE = 64 * 1024
"""Average bytes in a content-defined chunk: smaller ones find more duplicates, but need a larger index."""

_READ = 8 * 1024 * 1024
"""How many bytes are read and cut together: more than two of the largest chunks for any average in use."""

SEED = 0
"""Seed of the gear table. A constant is safe, because chunk names are hashes, with a key in encrypted repositories."""


def content_defined(data: Buffer, average: int = AVERAGE_SIZE) -> Iterator[memoryview]:
    """Split one buffer at cut points that depend on its content.

    Args:
        data: The bytes. They are not copied.
        average: Average size of a chunk in bytes. The smallest chunk is a quarter, the largest four times that.
    """
    view = memoryview(data).cast("B") if not isinstance(data, bytes) else memoryview(data)
    if len(view) <= average // 4:
        if len(view):
            yield view
        return
    cutter = FastCDC(avg_size=average, min_size=average // 4, max_size=average * 4, seed=SEED)
    for chunk in cutter.cut_buf(view):
        yield view[chunk.offset : chunk.offset + chunk.length]


def content_defined_stream(pieces: Iterable[Buffer], average: int = AVERAGE_SIZE) -> Iterator[memoryview]:
    """Split bytes that arrive in pieces into the same chunks as `content_defined` would make of all of them.

    Args:
        pieces: The pieces in order, each of any size. They are joined to some MB and split together.
        average: Average size of a chunk in bytes, as for `content_defined`.

    Example:
        >>> data = bytes(range(256)) * 4096
        >>> whole = [len(chunk) for chunk in content_defined(data)]
        >>> whole == [len(chunk) for chunk in content_defined_stream([data[:99_999], data[99_999:]])]
        True
    """
    waiting: list[Buffer] = []
    size = 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= _READ:
            *chunks, rest = content_defined(b"".join(waiting), average)
            yield from chunks
            waiting, size = [rest], 0  # only the following bytes decide where this chunk ends
    yield from content_defined(b"".join(waiting), average)


def content_defined_read(
    read: Callable[[int, int], bytes], size: int, average: int = AVERAGE_SIZE
) -> Iterator[memoryview]:
    """Split bytes with random access into the same chunks as `content_defined`, without joining them.

    Args:
        read: A function that takes a number of bytes and their offset, and returns fewer only at the end.
        size: The number of bytes. If there are fewer by now, the last chunk ends there.
        average: Average size of a chunk in bytes, as for `content_defined`.

    Example:
        >>> data = bytes(range(256)) * 65536
        >>> read = content_defined_read(lambda length, at: data[at : at + length], len(data))
        >>> [len(chunk) for chunk in read] == [len(chunk) for chunk in content_defined(data)]
        True
    """
    at = 0
    while piece := read(min(_READ, size - at), at):
        at += len(piece)
        chunks = list(content_defined(piece, average))
        if at < size and len(piece) == _READ:
            at -= len(chunks.pop())  # only the following bytes decide where this chunk ends
        yield from chunks


def fixed(data: memoryview, size: int = FIXED_SIZE) -> Iterator[memoryview]:
    """Split one buffer into slices of `size` bytes. The last one may be shorter."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


def cut(buffers: Iterable[Buffer]) -> Iterator[Buffer]:
    """Split a body, given as consecutive buffers, into chunks.

    Small buffers are joined in order to about `SHARED_SIZE`. Larger ones are split separately: a `memoryview` (an
    array) into fixed slices, and `bytes` (a pickle, a string) into content-defined chunks.
    """
    shared: list[Buffer] = []
    pending = 0
    for buffer in buffers:
        size = len(buffer)
        if size < SHARED_SIZE:
            if size:
                shared.append(buffer)
                pending += size
            if pending >= SHARED_SIZE:
                yield b"".join(shared)
                shared, pending = [], 0
            continue
        if pending:
            yield b"".join(shared)
            shared, pending = [], 0
        yield from fixed(buffer) if isinstance(buffer, memoryview) else content_defined(buffer)
    if pending:
        yield b"".join(shared)


def parameters() -> dict[str, int]:
    """Return the parameters to record in `repository.json`, so that all writers make the same chunks."""
    return {"fixed": FIXED_SIZE, "shared": SHARED_SIZE, "average": AVERAGE_SIZE, "seed": SEED}
