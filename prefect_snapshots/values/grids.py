"""Where the elements of an array are that was stored in pieces, one after another.

JAX spreads an array over devices as a regular *grid*: each dimension is cut at the same places everywhere. Each *cell*
of the grid is stored as its elements in C order, and the cells follow one another in C order of the grid. An array that
is stored in one piece has a grid of one cell.

A process that restores a *region* of such an array reads only the bytes of that region.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Cuts = tuple[tuple[int, ...], ...]
"""For each dimension, where its cells begin."""

Box = tuple[slice, ...]
"""A region of an array: for each dimension, from where to where."""

Rows = dict[tuple[int, int], NDArray[Any]]
"""Whole rows of a cell, by their offset among the bytes of the array, and their number."""

_MOST_CELLS = 1 << 20
"""The most cells of a grid. There is no run with as many devices."""
_SHORT = 1024
"""If the bytes of a region are stored in shorter runs than this, the bytes between them are read, too: that takes less
time than describing each run."""


class Cell(NamedTuple):
    """One cell of a grid: its region, and where its bytes begin among those of the array."""

    box: Box
    offset: int


def box_of(index: Iterable[slice], shape: Sequence[int]) -> Box:
    """Return a region with numbers, from an index as JAX gives it, in which None means the end of the array."""
    return tuple(slice(*part.indices(size)[:2]) for part, size in zip(index, shape, strict=True))


def cuts_of(boxes: Iterable[Box], shape: Sequence[int]) -> Cuts:
    """Return the grid that regions form.

    Raises:
        ValueError: They do not form one.
    """
    found = {tuple((part.start, part.stop) for part in box) for box in boxes}
    cuts = tuple(tuple(sorted({box[dimension][0] for box in found})) for dimension in range(len(shape)))
    expected = {tuple((part.start, part.stop) for part in cell.box) for cell in cells(cuts, shape, 1)}
    if found != expected:
        raise ValueError("its pieces do not form a regular grid")
    return cuts


def check_cuts(cuts: Any, shape: Sequence[int]) -> Cuts:
    """Return the grid from a manifest.

    Raises:
        ValueError: It is not one of an array with this shape.
    """
    checked = tuple(tuple(starts) for starts in cuts)
    if len(checked) != len(shape) or math.prod(map(len, checked)) > _MOST_CELLS:
        raise ValueError(f"{checked!r} is no grid of an array with the shape {tuple(shape)}")
    for starts, size in zip(checked, shape, strict=True):
        if any(type(start) is not int for start in starts) or starts[:1] != (0,):
            raise ValueError(f"{starts!r} are not the beginnings of cells")
        if any(first >= second for first, second in itertools.pairwise((*starts, max(size, 1)))):
            raise ValueError(f"{starts!r} are not in order within a dimension of {size}")
    return checked


def cells(cuts: Cuts, shape: Sequence[int], itemsize: int) -> Iterator[Cell]:
    """Yield the cells in the order in which they are stored."""
    offset = 0
    ranges = [
        [slice(start, stop) for start, stop in zip(starts, (*starts[1:], size), strict=True)]
        for starts, size in zip(cuts, shape, strict=True)
    ]
    for box in itertools.product(*ranges):
        yield Cell(box, offset)
        offset += math.prod(part.stop - part.start for part in box) * itemsize


class RegionReading:
    """The memory of a region, and what to read to fill it.

    Args:
        box: The region.
        dtype: The dtype of the elements.
        cuts: The grid of the array.
        shape: The shape of the array.
        rows: The rows that are read for several regions of this array: pass the same dictionary for all of them.

    Attributes:
        array: The region, a new array. It is complete after its `targets` were filled and `finish` was called.
        targets: Pairs of an offset among the bytes of the array, and the memory to fill with what is there.
    """

    def __init__(
        self, box: Box, dtype: np.dtype[Any], cuts: Cuts, shape: Sequence[int], rows: Rows | None = None
    ) -> None:
        self._rows = {} if rows is None else rows
        self.array: NDArray[Any] = np.empty(tuple(part.stop - part.start for part in box), dtype)
        self.targets: list[tuple[int, memoryview]] = []
        self._detours: list[tuple[NDArray[Any], NDArray[Any]]] = []
        if self.array.nbytes:
            for cell in cells(cuts, shape, dtype.itemsize):
                self._plan(box, cell, dtype)

    def finish(self) -> NDArray[Any]:
        """Return the region after its bytes were read."""
        for target, source in self._detours:
            target[...] = source
        return self.array

    def _plan(self, box: Box, cell: Cell, dtype: np.dtype[Any]) -> None:
        common = [
            slice(max(wanted.start, there.start), min(wanted.stop, there.stop))
            for wanted, there in zip(box, cell.box, strict=True)
        ]
        if any(part.start >= part.stop for part in common):
            return
        target = _view(self.array, [_within(part, wanted) for part, wanted in zip(common, box, strict=True)])
        source = [_within(part, there) for part, there in zip(common, cell.box, strict=True)]
        sizes = [there.stop - there.start for there in cell.box]
        strides = [math.prod(sizes[dimension + 1 :]) * dtype.itemsize for dimension in range(len(sizes))]
        # Elements of the dimensions from `inner` on are contiguous, both where they are stored and in the region.
        inner = len(sizes)
        while (
            inner and _view(target, [0] * (inner - 1)).flags.c_contiguous and _are_whole(source[inner:], sizes[inner:])
        ):
            inner -= 1
        if _view(target, [0] * inner).nbytes < _SHORT and inner:
            # Read whole rows of the first dimension, and take from them what belongs to the region.
            place = cell.offset + source[0].start * strides[0], source[0].stop - source[0].start
            if place not in self._rows:
                self._rows[place] = np.empty((place[1], *sizes[1:]), dtype)
                self._add(place[0], self._rows[place])
            self._detours.append((target, self._rows[place][(slice(None), *source[1:])]))
            return
        first = cell.offset + sum(part.start * stride for part, stride in zip(source, strides, strict=True))
        for outer in np.ndindex(target.shape[:inner]):
            self._add(
                first + sum(place * stride for place, stride in zip(outer, strides, strict=False)),
                _view(target, outer),
            )

    def _add(self, offset: int, array: NDArray[Any]) -> None:
        # An array without dimensions has no memory that can be cast to bytes, and neither has an unusual dtype.
        self.targets.append((offset, array.reshape(-1).view(np.uint8).data))


def _view(array: NDArray[Any], index: Sequence[int | slice]) -> NDArray[Any]:
    """Return a part of an array that shares its memory, also if it has no dimensions."""
    return array[(*index, ...)]


def _within(part: slice, outer: slice) -> slice:
    return slice(part.start - outer.start, part.stop - outer.start)


def _are_whole(parts: Sequence[slice], sizes: Sequence[int]) -> bool:
    return all(part.stop - part.start == size for part, size in zip(parts, sizes, strict=True))
