"""Bytes -> chunks.

Two ways to cut, both deterministic, so that equal bytes give equal chunks in every process:

- *fixed*: slices of `FIXED_SIZE`, for arrays. A weight that changed in place changes the slices it lies in.
- *content-defined* (FastCDC): cut points follow the bytes, for pickles, strings and files. An insertion near the
  front moves the cut points with it, and the rest is found again.

The parameters are recorded in `repository.json`: two writers that cut differently would never deduplicate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

# The extension itself: the package falls back to pure Python, 500 times slower, when it is missing.
from pyfastcdc.cy import FastCDC

from .location import Buffer

FIXED_SIZE = 4 * 1024 * 1024
"""Bytes in a slice of an array: large enough that hashing and requests cost little, small enough that a partial change
stores little."""

SHARED_SIZE = 64 * 1024
"""Buffers smaller than this share a chunk of about this size with their neighbours: one each would cost more in the
index than they hold."""

AVERAGE_SIZE = 64 * 1024
"""Average bytes in a content-defined chunk: smaller ones find more duplicates, and need a larger index."""

_READ = 8 * 1024 * 1024
"""Bytes that are read to be cut at once. More than two of the largest chunks of any average in use."""

SEED = 0
"""Seed of the gear table. A constant: chunk names are hashes anyway, and keyed where the repository is encrypted."""


def content_defined(data: Buffer, average: int = AVERAGE_SIZE) -> Iterator[memoryview]:
    """Cut one buffer at places that its content decides.

    Args:
        data: The bytes; they are not copied.
        average: Average size of a chunk in bytes; the smallest is a quarter, the largest four times that.
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
    """Cut bytes that arrive in pieces just as `content_defined` cuts them in one, wherever one piece ends.

    Args:
        pieces: In order, each of any size. They are joined to some MB, which are cut at once.
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
            waiting, size = [rest], 0  # whether it ends here, only what follows can tell
    yield from content_defined(b"".join(waiting), average)


def content_defined_read(
    read: Callable[[int, int], bytes], size: int, average: int = AVERAGE_SIZE
) -> Iterator[memoryview]:
    """Cut what can be read at any place just as `content_defined` cuts it in one, without joining any of it.

    Args:
        read: Called with a number of bytes and where they begin; returns fewer only where the end is.
        size: How many bytes there are. If there are fewer by now, it ends there.
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
            at -= len(chunks.pop())  # whether it ends here, only what follows can tell
        yield from chunks


def fixed(data: memoryview, size: int = FIXED_SIZE) -> Iterator[memoryview]:
    """Cut one buffer into slices of `size` bytes, the last one shorter."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


def cut(buffers: Iterable[Buffer]) -> Iterator[Buffer]:
    """Cut a body, given as consecutive buffers, into chunks.

    Small buffers are joined in order to about `SHARED_SIZE`; larger ones are cut on their own, a `memoryview` (an
    array) by fixed slices and `bytes` (a pickle, a string) where the content says.
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
    """Return what `repository.json` records, so that every writer cuts alike."""
    return {"fixed": FIXED_SIZE, "shared": SHARED_SIZE, "average": AVERAGE_SIZE, "seed": SEED}
