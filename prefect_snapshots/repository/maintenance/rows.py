"""Questions about the rows of the index table: each is one *copy* of a chunk, in one pack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..index import Entry, Index


def groups(heads: NDArray[np.uint64], rows: Any) -> NDArray[np.int64]:
    """For each row of an index table, the number of its chunk: copies of one chunk share it."""
    new = np.ones(len(heads), bool)
    new[1:] = (heads[1:] != heads[:-1]) | (rows["tail"][1:] != rows["tail"][:-1])
    return np.cumsum(new) - 1


def one_copy(index: Index, copies: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Of each chunk with such copies the first one, as numbers of rows."""
    heads, rows, _ = index.table()
    numbers = np.flatnonzero(copies)
    return numbers[np.unique(groups(heads, rows)[numbers], return_index=True)[1]]


def in_packs(index: Index, wanted: Callable[[bytes], bool]) -> NDArray[np.bool_]:
    """Which rows of the table lie in packs that are asked for."""
    _, rows, packs = index.table()
    return np.array([wanted(pack) for pack in packs], bool)[rows["pack"]] if len(rows) else np.zeros(0, bool)


def packs_at(index: Index, rows: Any) -> set[bytes]:
    """The packs that some rows of the table lie in; `rows` is a mask or numbers."""
    _, table, packs = index.table()
    return {packs[number] for number in np.unique(table["pack"][rows]).tolist()}


def named_packs(index: Index) -> set[bytes]:
    """The packs that the index names."""
    return packs_at(index, slice(None))


def entries_of(index: Index, pack: bytes) -> list[Entry]:
    """What the index says is in a pack."""
    return [index.entry_at(int(row)) for row in np.flatnonzero(in_packs(index, lambda other: other == pack))]


def stranded(index: Index, live: NDArray[np.bool_], kept: Callable[[bytes], bool]) -> NDArray[np.bool_]:
    """Which live rows hold a chunk that has no copy in a pack that is kept."""
    heads, rows, _ = index.table()
    chunk = groups(heads, rows)
    housed = np.zeros(len(heads), bool)
    housed[chunk[in_packs(index, kept)]] = True
    return live & ~housed[chunk]
