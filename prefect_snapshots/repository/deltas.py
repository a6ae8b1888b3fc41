"""Find stored chunks that are probably similar to a new one.

If one row in a hundred has changed, every chunk of a dump has changed, so none is found by its name. A *sketch*
describes a chunk by the smallest hashes of its *pieces*. Pieces are content-defined, too, but so small that most of
them are unchanged. Chunks that share some of these *features* are similar. How similar they are is decided by the
writer, which stores a `Similar` chunk as a delta if that is much smaller.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from .chunking import content_defined, content_defined_stream
from .contents import Batch, Similar
from .index import BASES
from .location import Buffer

AVERAGE_SIZE = 1024 * 1024
"""Average bytes in a chunk of a long stream. Larger chunks compress better, smaller ones make smaller deltas."""

FEATURES = 16
"""Features in a sketch: more of them find less similar chunks, but make the index larger."""

_PIECE = 4 * 1024
"""Average bytes in a piece: some dozens of rows. Smaller ones take longer to hash, larger ones change too often."""

_COMMON = 16
"""A feature of more chunks than this is ignored, because it is a page of zeros or a repeated header."""

_NONE = np.uint64(2**64 - 1)

Sketch = NDArray[np.uint64]
"""`FEATURES` numbers in ascending order. A chunk with fewer pieces has 2**64 - 1 in the remaining positions. Lists of
sketches may also have those of several chunks as one array."""

UNKNOWN: Sketch = np.full(FEATURES, _NONE)
"""The sketch of a chunk that is similar to no other one, or that is not known yet."""


def sketch(chunk: Buffer) -> Sketch:
    """Return the sketch of a chunk.

    Example:
        >>> import random
        >>> chunk = random.Random(0).randbytes(200_000)
        >>> changed = chunk[:50_000] + b"inserted" + chunk[50_000:]
        >>> len(set(sketch(chunk).tolist()) & set(sketch(changed).tolist())) > FEATURES // 2
        True
    """
    names = b"".join(blake3(piece).digest(8) for piece in content_defined(chunk, _PIECE))
    found = np.unique(np.frombuffer(names, "<u8"))[:FEATURES]
    return np.concatenate((found, np.full(FEATURES - len(found), _NONE)))


class PreviousChunks:
    """The chunks of the previous version of a stream, which can be searched by their sketches.

    Args:
        chunks: Their names in order, as an array of 32-byte ids like the column `chunk` of a table of contents.
        sketches: Their sketches, as an array of shape (chunks, `FEATURES`).
    """

    def __init__(self, chunks: Any, sketches: NDArray[np.uint64]) -> None:
        self._chunks = chunks
        features = np.asarray(sketches, "<u8").reshape(-1)
        order = np.argsort(features, kind="stable")
        self._features, self._rows = features[order], order // FEATURES

    def like(self, sketch: Sketch) -> tuple[bytes, ...]:
        """Return the names of the chunks that together share most features with this one, the best first."""
        return tuple(self._chunks[row].tobytes() for row in self.best(sketch))

    def best(self, sketch: Sketch) -> list[int]:
        """Return the same as `like`, but as the numbers of the chunks. Of several equally good ones, the first wins."""
        features = sketch[sketch != _NONE]
        first = self._features.searchsorted(features, "left")
        counts = self._features.searchsorted(features, "right") - first
        counts[counts > _COMMON] = 0
        which = np.repeat(np.arange(len(features)), counts)
        rows = self._rows[np.arange(counts.sum()) + np.repeat(first - (np.cumsum(counts) - counts), counts)]
        found: list[int] = []
        while len(rows) and len(found) < BASES:
            numbers, shared = np.unique(rows, return_counts=True)
            found.append(int(numbers[shared.argmax()]))
            left = ~np.isin(which, which[rows == found[-1]])  # the next chunk should add features that this one lacks
            which, rows = which[left], rows[left]
        return found


def similar_stream(
    pieces: Iterable[Buffer], previous: PreviousChunks | None, sketches: list[Sketch], average: int = AVERAGE_SIZE
) -> Iterator[tuple[int, Batch]]:
    """Split a stream into chunks, and let threads find similar chunks in its previous version.

    Args:
        pieces: The stream in order, in pieces of any size.
        previous: The chunks of the previous version, or None if there is none.
        sketches: A list that gets the sketch of each chunk. It is complete when the chunks are stored. Put the sketches
            into the manifest, for the next version.
        average: Average size of a chunk in bytes.

    Returns:
        The size in bytes of each chunk, and an item for `Writer.store_cut`.

    Example:
        >>> sketches = []
        >>> [(size, batch()[0].chunks) for size, batch in similar_stream([b"a dump"], None, sketches)]
        [(6, ())]
        >>> len(sketches[0])
        16
    """
    for chunk in content_defined_stream(pieces, average):
        sketches.append(UNKNOWN)
        yield len(chunk), partial(_compared, chunk, previous, sketches, len(sketches) - 1)


def _compared(chunk: Buffer, previous: PreviousChunks | None, sketches: list[Sketch], at: int) -> list[Similar]:
    sketches[at] = sketch(chunk)
    return [Similar(chunk, previous.like(sketches[at]) if previous else ())]
