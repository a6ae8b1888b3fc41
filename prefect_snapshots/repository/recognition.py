"""Find the names of chunks, faster for those that were found unchanged before.

A chunk is named by its hash. Most saves of a large tree contain what the one before contained, and then hashing it is
most of the work. So for large chunks that were already stored when they were hashed, a *code* is remembered with the
name: GMAC, the part of AES-GCM that authenticates. Processors compute it several times as fast as a hash.

Two chunks have the same code with a probability of less than 2^-100, whoever chose them, because the key is random and
never leaves this object. The code is not stored.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from .location import Buffer
from .sealing import Sealer

_LEAST = 256 * 1024
"""The smallest chunk in bytes whose code is remembered. Slices of arrays have 4 MB. To remember much smaller chunks
would take more memory than it is worth."""
_MOST = 100_000
"""The most codes that are remembered: 20 MB of memory, for 400 GB of arrays."""
_PAYS = 1.5
"""How many times as fast as the hash a code must be. Without support by the processor, it is slower."""
_NONCE = bytes(12)  # the codes are secret, so that they need not differ from process to process


class ChunkNames:
    """The names of chunks.

    Args:
        sealer: The sealer of the repository.
    """

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer
        self._cipher = AESGCM(os.urandom(32))
        self._names: dict[bytes, bytes] = {}
        self._pays: bool | None = None

    def find(self, data: Buffer) -> tuple[bytes, bytes]:
        """Return the name of a chunk, and its code if that was computed, or else `b""`. Runs in any thread."""
        code = self._code(data) if self._names and len(data) >= _LEAST else b""
        return self._names.get(code) or self._sealer.chunk_id(data), code

    def remember(self, data: Buffer, name: bytes, code: bytes) -> None:
        """Remember the name of a chunk that is already stored, and so may come again. Runs in any thread.

        Args:
            data: The chunk.
            name, code: What `find` has returned.
        """
        if len(data) < _LEAST or code in self._names:
            return
        if self._pays is None:
            self._pays = self._measure(data)
        if not self._pays:
            return
        if len(self._names) >= _MOST:
            self._names.clear()
        again = self._code(data)
        # If the data were changed in between, by another thread, the code must not stand for the name of other data.
        if again == code if code else self._sealer.chunk_id(data) == name:
            self._names[again] = name

    def _code(self, data: Buffer) -> bytes:
        return self._cipher.encrypt(_NONCE, b"", data)

    def _measure(self, data: Buffer) -> bool:
        """Return whether codes pay on this processor."""
        part = memoryview(data)[:_LEAST]
        return _PAYS * _least_time(lambda: self._code(part)) <= _least_time(lambda: self._sealer.chunk_id(part))


def _least_time(call: Callable[[], object]) -> float:
    """Return the least of several times of a call, because the first one may load code, and others may be disturbed."""
    taken = []
    for _ in range(5):
        start = time.thread_time()
        call()
        taken.append(time.thread_time() - start)
    return min(taken)
