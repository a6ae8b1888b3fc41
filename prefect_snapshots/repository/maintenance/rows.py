"""Query the rows of the index table. Each row is one *copy* of a chunk, in one pack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..index import ChunkCopy, Index, find_rows, is_whole


def groups(heads: NDArray[np.uint64], rows: Any) -> NDArray[np.int64]:
    """Return the number of the chunk of each row of an index table. Copies of one chunk share a number."""
    new = np.ones(len(heads), bool)
    new[1:] = (heads[1:] != heads[:-1]) | (rows["tail"][1:] != rows["tail"][:-1])
    return np.cumsum(new) - 1


def one_copy(index: Index, copies: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return one of these copies for each chunk, as row numbers; a whole one if there is one."""
    heads, rows, _ = index.table()
    numbers = np.flatnonzero(copies)
    numbers = numbers[np.argsort(~is_whole(rows[numbers]), kind="stable")]
    return numbers[np.unique(groups(heads, rows)[numbers], return_index=True)[1]]


def with_bases(index: Index, copies: NDArray[np.int64], good: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return some rows of the table, and one whole and good copy of each base that they need."""
    heads, rows, _ = index.table()
    wanted = np.zeros(len(heads), bool)
    wanted[copies] = True
    deltas = copies[~is_whole(rows[copies])]
    _, found = find_rows(heads, rows, index.bases_at(deltas).reshape(-1))
    bases = np.zeros(len(heads), bool)
    bases[found] = True
    return one_copy(index, wanted | (bases & good & is_whole(rows)))


def in_packs(index: Index, wanted: Callable[[bytes], bool]) -> NDArray[np.bool_]:
    """Return which rows of the table are in the wanted packs."""
    _, rows, packs = index.table()
    return np.array([wanted(pack) for pack in packs], bool)[rows["pack"]] if len(rows) else np.zeros(0, bool)


def packs_at(index: Index, rows: Any) -> set[bytes]:
    """Return the packs of some rows of the table. `rows` is a mask, a slice or row numbers."""
    _, table, packs = index.table()
    return {packs[number] for number in np.unique(table["pack"][rows]).tolist()}


def named_packs(index: Index) -> set[bytes]:
    """Return all packs in the index."""
    return packs_at(index, slice(None))


def entries_of(index: Index, pack: bytes) -> list[ChunkCopy]:
    """Return the entries of a pack in the index."""
    return [index.entry_at(int(row)) for row in np.flatnonzero(in_packs(index, lambda other: other == pack))]


def stranded(
    index: Index, live: NDArray[np.bool_], there: NDArray[np.bool_], kept: Callable[[bytes], bool]
) -> NDArray[np.bool_]:
    """Return which rows hold a live chunk, or a base of one, that cannot be read from the kept packs alone.

    Args:
        live: The rows of live chunks.
        there: The rows of packs that exist.
        kept: Returns whether a pack is kept.
    """
    heads, rows, _ = index.table()
    chunk = groups(heads, rows)
    good, whole = in_packs(index, kept), is_whole(rows)

    def chunks_of(copies: Any) -> NDArray[np.bool_]:
        """Return which rows hold a chunk that has such a copy."""
        has = np.zeros(len(heads), bool)
        has[chunk[copies]] = True
        return has[chunk]

    lost = live & ~chunks_of(index.readable(np.arange(len(heads)), lambda some: good[some]))
    needy = np.flatnonzero(lost & there & ~whole & ~chunks_of(there & whole))
    _, bases = find_rows(heads, rows, index.bases_at(needy).reshape(-1))
    return lost | (chunks_of(bases) & ~chunks_of(good & whole) & there & whole)
