"""Compare two values leaf by leaf."""

from __future__ import annotations

import math
import reprlib
import sys
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import UnserialisableLeaf
from .arrays import loaded_jax
from .decoding import BodyReader, decode_leaves
from .dtypes import dtype_node
from .encoding import encode
from .manifest import LeafInfo, describe
from .structure import iter_leaves
from .tensors import is_tensor_class

_BLOCK = 1 << 20
"""Elements compared at a time, so that the difference of large arrays needs little memory."""

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxlong = _REPR.maxother = 60


@dataclass(frozen=True, slots=True)
class LeafDifference:
    """The difference between two values at one leaf."""

    path: str
    kind: Literal["equal", "changed", "added", "removed"]
    old: str | None
    """The old leaf: dtype and shape of an array, as in `float32[3, 4]`, a short `repr` of anything else, or None if the
    leaf was added."""
    new: str | None
    """The new leaf in the same form; None if it was removed."""
    elements: int | None = None
    """The number of elements of each array, if both have the same shape."""
    changed: int | None = None
    """The number of elements that differ. NaN equals NaN."""
    max_abs: float | None = None
    """The largest absolute difference between numbers; NaN if a number changed to or from NaN."""
    mean_abs: float | None = None
    """The mean absolute difference, over all elements."""
    relative_l2: float | None = None
    """The Euclidean norm of the difference, relative to that of the old array."""


class Differences(list[LeafDifference]):
    """The leaves that differ between two values, in the order of their paths. Notebooks show it as a table."""


class Contents(BodyReader, Protocol):
    """A body that can recognise identical bytes without reading them."""

    def identity(self, offset: int, length: int) -> object:
        """Return a value that is equal only for identical bytes."""


def diff_values(a: Any, b: Any) -> Differences:
    """Return the leaves that differ between two values, in the order of their paths.

    Example:
        >>> [(d.path, d.kind, d.old, d.new) for d in diff_values({"a": 1, "b": 2}, {"b": 3, "c": 4})]
        [('a', 'removed', '1', None), ('b', 'changed', '2', '3'), ('c', 'added', None, '4')]
    """
    old, new = dict(iter_leaves(a)), dict(iter_leaves(b))
    return _differences(old, new, old.keys() & new.keys())


def diff_contents(a: tuple[bytes, Contents], b: tuple[bytes, Contents], *, allow_pickle: bool = True) -> Differences:
    """Return the leaves that differ between two encoded values, in the order of their paths.

    Leaves that share their stored bytes are not read.

    Args:
        a: The manifest and body of the old value.
        b: The manifest and body of the new value.
        allow_pickle: Whether pickled leaves that differ may be unpickled.

    Raises:
        IntegrityError: A manifest or body is damaged.
        PickleRefused: A pickled leaf differs, and `allow_pickle` is False.
    """
    (old_manifest, old_body), (new_manifest, new_body) = a, b
    before = {leaf.path: leaf for leaf in describe(old_manifest)}
    after = {leaf.path: leaf for leaf in describe(new_manifest)}
    suspect = {
        path for path in before.keys() & after.keys() if not _is_shared(before[path], old_body, after[path], new_body)
    }
    wanted = suspect | (before.keys() ^ after.keys())
    old = decode_leaves(old_manifest, old_body, wanted, allow_pickle=allow_pickle)
    new = decode_leaves(new_manifest, new_body, wanted, allow_pickle=allow_pickle)
    return _differences(old, new, suspect)


def compare(old: Any, new: Any, path: str = "") -> LeafDifference:
    """Compare two leaves.

    Args:
        old, new: Arrays, scalars or any other objects.
        path: The path of the leaf, for the result.

    Example:
        >>> difference = compare(np.array([1.0, 2.0]), np.array([1.0, 2.5]))
        >>> difference.kind, difference.changed, difference.max_abs
        ('changed', 1, 0.5)
    """
    before, after = _as_array(old), _as_array(new)
    if before is None or after is None:
        return LeafDifference(path, _kind(not _is_equal(old, new)), _text(old), _text(new))
    if before.shape != after.shape:
        return LeafDifference(path, "changed", _text(old), _text(new))
    with np.errstate(all="ignore"):
        changed, statistics = _compare_arrays(before, after)
    kind = _kind(changed > 0 or str(old.dtype) != str(new.dtype))
    return LeafDifference(path, kind, _text(old), _text(new), before.size, changed, *statistics)


# --- leaves -----------------------------------------------------------------------------------------------------------


def _differences(old: dict[str, Any], new: dict[str, Any], common: Collection[str]) -> Differences:
    found = [LeafDifference(path, "removed", _text(old[path]), None) for path in old.keys() - new.keys()]
    found += [LeafDifference(path, "added", None, _text(new[path])) for path in new.keys() - old.keys()]
    compared = (compare(old[path], new[path], path) for path in common)
    found += [difference for difference in compared if difference.kind != "equal"]
    return Differences(sorted(found, key=lambda difference: difference.path))


def _is_shared(old: LeafInfo, old_body: Contents, new: LeafInfo, new_body: Contents) -> bool:
    """Return whether two leaves have the same stored bytes and the same type."""
    if not old.nbytes or replace(old, offset=new.offset) != new:
        return False
    return old_body.identity(old.offset, old.nbytes) == new_body.identity(new.offset, new.nbytes)


def _is_equal(old: Any, new: Any) -> bool:
    """Return whether two objects are stored as the same bytes, or compare as equal."""
    if type(old) is not type(new):
        return False
    try:
        before, after = encode(old), encode(new)
        if before.manifest == after.manifest and before.buffers == after.buffers:
            return True
    except UnserialisableLeaf:
        pass  # values that were never stored may have leaves that cannot be encoded
    try:
        return bool(old == new)
    except Exception:  # code of arbitrary objects runs here, and a comparison of tables has no single truth value
        return False


def _kind(differs: bool) -> Literal["equal", "changed"]:
    return "changed" if differs else "equal"


def _text(leaf: Any) -> str:
    if isinstance(leaf, np.generic) or _as_array(leaf) is None:
        return _REPR.repr(leaf)
    return f"{leaf.dtype}[{', '.join(map(str, leaf.shape))}]"


# --- arrays -----------------------------------------------------------------------------------------------------------


def _as_array(leaf: Any) -> NDArray[Any] | None:
    """Return the elements of an array or NumPy scalar, in host memory, or None for anything else and for arrays of
    objects."""
    if isinstance(leaf, (np.ndarray, np.generic)):
        return np.asarray(leaf) if dtype_node(leaf.dtype) is not None else None
    if is_tensor_class(type(leaf)):
        return _elements_of(leaf)
    jax = loaded_jax()
    if jax is None or not isinstance(leaf, jax.Array):
        return None
    return np.asarray(leaf if isinstance(leaf.dtype, np.dtype) else jax.random.key_data(leaf))


def _elements_of(tensor: Any) -> NDArray[Any] | None:
    """Return the elements of a dense tensor, or None. NumPy lacks some dtypes of PyTorch, whose values fit float32."""
    torch = sys.modules["torch"]
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_nested:
        return None
    plain = tensor.detach().cpu().resolve_conj().resolve_neg()
    try:
        return np.asarray((plain.float() if plain.is_floating_point() and plain.itemsize < 4 else plain).numpy())
    except (RuntimeError, TypeError, NotImplementedError):  # a rare dtype
        return None


def _compare_arrays(old: NDArray[Any], new: NDArray[Any]) -> tuple[int, tuple[float, ...]]:
    """Return the number of elements that differ and, for numbers, the largest, mean and relative difference."""
    if old.flags.f_contiguous and new.flags.f_contiguous:
        old, new = old.T, new.T
    old, new = old.reshape(-1), new.reshape(-1)
    blocks = ((old[start : start + _BLOCK], new[start : start + _BLOCK]) for start in range(0, old.size, _BLOCK))
    if not old.size or not (_is_numeric(old.dtype) and _is_numeric(new.dtype)):
        return sum(int(np.count_nonzero(_differ(*block))) for block in blocks), ()
    changed = 0
    largest = total = squares = norm = 0.0
    for before, after in blocks:
        differs = _differ(before, after)
        wide = _wide(before)
        distance = _distance(before, after)
        distance[~differs] = 0
        changed += int(np.count_nonzero(differs))
        largest = float(np.maximum(largest, float(distance.max())))
        distance = distance.astype(np.float64)
        total += float(distance.sum())
        squares += float(np.square(distance).sum())
        norm += float(np.square(np.abs(wide)).sum())
    relative = math.sqrt(squares / norm) if norm else math.inf if squares else 0.0
    return changed, (largest, total / old.size, relative)


def _distance(old: NDArray[Any], new: NDArray[Any]) -> NDArray[Any]:
    """Return the absolute difference of numbers: of integers exactly, because float64 has only 53 bits."""
    if not (old.dtype.kind == new.dtype.kind and old.dtype.kind in "iu"):
        return np.asarray(np.abs(_wide(new) - _wide(old)))
    less, more = np.minimum(old, new), np.maximum(old, new)
    # The difference of two signed integers always fits into the unsigned type.
    wide = np.int64 if old.dtype.kind == "i" else np.uint64
    return np.asarray(more.astype(wide).view(np.uint64) - less.astype(wide).view(np.uint64))


def _differ(old: NDArray[Any], new: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which elements differ. NaN equals NaN, and NaT equals NaT."""
    if old.dtype == new.dtype and old.dtype.kind in "biuSUmMV" and old.dtype.type.__module__ == "numpy":
        raw = np.dtype(f"V{old.dtype.itemsize}")
        return np.asarray(old.view(raw) != new.view(raw))
    if not (_is_numeric(old.dtype) and _is_numeric(new.dtype)):
        return np.asarray(old != new) if old.dtype.kind == new.dtype.kind else np.ones(old.shape, np.bool_)
    before, after = _wide(old), _wide(new)
    return np.asarray((before != after) & ~(np.isnan(before) & np.isnan(after)))


def _is_numeric(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "biufc" or dtype.type.__module__ == "ml_dtypes"


def _wide(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.complex128 if "complex" in array.dtype.name else np.float64)
