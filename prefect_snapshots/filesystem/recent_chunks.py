"""A reader of chunks that remembers those that were read last, so that many small reads cost one request."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from ..repository.contents import ChunkReader, Piece, Store
from ..repository.progress import Progress
from ..repository.threads import Lock

_LIMIT = 64 * 1024 * 1024
"""Bytes of chunks to remember: the columns of some row groups, and less than what reading a table takes anyway."""
_STREAMED = 24 * 1024 * 1024
"""Reads of more bytes at once are not remembered: they would displace everything else, and are not repeated.

What is read ahead (8 MB, and up to two chunks of 4 MB at its ends) has to be remembered, or it would be read twice."""


class RecentChunks(ChunkReader):
    """Reads chunks by name, and remembers the last ones.

    Args:
        store: The parts of the repository that read chunks.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._lock = Lock(self.forget)
        self._recent: OrderedDict[bytes, bytes] = OrderedDict()
        self._size = 0

    def fetch(self, pieces: Sequence[Piece], progress: Progress | None = None) -> None:
        """Fill the targets of chunks. Those that are not remembered are read and verified together."""
        if sum(piece.size for piece in pieces) > _STREAMED:
            super().fetch(pieces, progress)
            return
        missing: list[tuple[Piece, bytearray]] = []
        for piece in pieces:
            plain = self._find_recent(piece.chunk, piece.size)
            if plain is None:
                missing.append((piece, bytearray(piece.size)))
            else:
                piece.give(plain)
        if missing:
            super().fetch([Piece(piece.chunk, piece.size, [(0, memoryview(whole))]) for piece, whole in missing])
        for piece, whole in missing:
            piece.give(whole)
            self._remember(piece.chunk, bytes(whole))

    def forget(self) -> None:
        """Forget all chunks."""
        self._recent, self._size = OrderedDict(), 0

    def _find_recent(self, chunk: bytes, size: int) -> bytes | None:
        with self._lock:
            plain = self._recent.get(chunk)
            if plain is None or len(plain) != size:  # another size is an error, which the real read reports
                return None
            self._recent.move_to_end(chunk)
            return plain

    def _remember(self, chunk: bytes, plain: bytes) -> None:
        with self._lock:
            before = self._recent.pop(chunk, b"")
            self._recent[chunk] = plain
            self._size += len(plain) - len(before)
            while self._size > _LIMIT:
                _, oldest = self._recent.popitem(last=False)
                self._size -= len(oldest)
