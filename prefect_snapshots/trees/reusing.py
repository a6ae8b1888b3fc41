"""Read stored bytes from the files of a directory where these have them, and else from the repository.

A chunk is named by its hash. If the bytes that files have where a chunk belongs have this name, they are the chunk, and
it need not be read. So a restore of a directory that is nearly the same reads little.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from ..repository.contents import ContentReader
from .descriptors import FILE, Parents
from .stored import StoredTree


class LocalFirst:
    """The bytes of a tree. Several threads may use it.

    Args:
        tree: The tree.
        content: Its content, which is stored in chunks.
        folder: The descriptor of a folder.
        root: The path, relative to it, of a directory that may have the same files as the tree.
    """

    def __init__(self, tree: StoredTree, content: ContentReader, folder: int, root: bytes) -> None:
        self._content, self._folder, self._root = content, folder, root
        self._names = content.table["chunk"]
        self._ends = np.cumsum(content.table["size"], dtype=np.int64)
        # Where the bytes of files are in the content, and where in which file.
        self._begins: list[int] = []
        self._spans: list[tuple[int, bytes, int]] = []
        for entry, offset in tree.files:
            lengths = [length for _, length in entry.spans]
            for (at, length), start in zip(entry.spans, accumulate(lengths, initial=offset), strict=False):
                if length and not entry.link:
                    self._begins.append(start)
                    self._spans.append((length, entry.raw, at))

    def read(self, offset: int, length: int) -> bytes:
        """See `VerifiedContent`."""
        target = bytearray(length)
        self.read_into([(offset, memoryview(target))])
        return bytes(target)

    def read_into(self, targets: Sequence[tuple[int, memoryview]]) -> None:
        """See `VerifiedContent`."""
        absent: list[tuple[int, memoryview]] = []
        with Parents(self._folder) as parents:
            for offset, view in targets:
                done = 0
                while done < len(view):
                    at = int(self._ends.searchsorted(offset + done, "right"))
                    if at == len(self._ends):  # the content says what is wrong
                        absent.append((offset + done, view[done:]))
                        break
                    end = int(self._ends[at])
                    start = int(self._ends[at - 1]) if at else 0
                    part = view[done : done + end - offset - done]
                    chunk = self._chunk(parents, start, end)
                    if chunk is not None and self._content.name_of(chunk) == self._names[at].tobytes():
                        first = offset + done - start
                        part[:] = memoryview(chunk)[first : first + len(part)]
                    else:
                        absent.append((offset + done, part))
                    done += len(part)
        if absent:
            self._content.read_into(absent)

    def _chunk(self, parents: Parents, start: int, end: int) -> bytearray | None:
        """Return what files have where these bytes belong, or None if they have not so many."""
        chunk = bytearray(end - start)
        done = start
        for number in range(max(0, bisect_right(self._begins, start) - 1), len(self._begins)):
            begin = self._begins[number]
            length, raw, at = self._spans[number]
            if begin + length <= done:
                continue
            if begin > done or done >= end:
                break
            size = min(begin + length, end) - done
            try:
                parent, name = parents.find(self._root + b"/" + raw)
                file = os.open(name, FILE, dir_fd=parent)
                try:
                    read = os.preadv(file, [memoryview(chunk)[done - start : done - start + size]], at + done - begin)
                finally:
                    os.close(file)
            except OSError:  # it is not there, is none, or may not be read
                return None
            if read < size:
                return None
            done += size
        return chunk if done == end else None
