"""A difference names every leaf that changed, says by how much, and reads no bytes that two values share."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from prefect_snapshots.errors import PickleRefused
from prefect_snapshots.values import Encoded, encode
from prefect_snapshots.values.diff import LeafDifference, compare, diff_contents, diff_values


class Contents:
    """A body in memory that can tell equal bytes, and remembers which ranges were read."""

    def __init__(self, encoded: Encoded) -> None:
        self.data = b"".join(encoded.buffers)
        self.body_size = len(self.data)
        self.read: list[tuple[int, int]] = []

    def read_into(self, targets: Sequence[tuple[int, memoryview]]) -> None:
        for offset, view in targets:
            self.read.append((offset, len(view)))
            view[:] = self.data[offset : offset + len(view)]

    def identity(self, offset: int, length: int) -> object:
        return self.data[offset : offset + length]


def stored(value: Any) -> tuple[bytes, Contents]:
    encoded = encode(value)
    return encoded.manifest, Contents(encoded)


def test_arrays_are_compared_by_element() -> None:
    old = np.array([[1.0, 2.0], [0.0, 2.0]], np.float32)
    new = np.array([[1.0, 2.5], [0.0, 0.0]], np.float32)
    assert compare(old, new, "w") == LeafDifference(
        "w", "changed", "float32[2, 2]", "float32[2, 2]", 4, 2, 2.0, 0.625, (4.25 / 9) ** 0.5
    )
    assert compare(np.zeros(2), np.ones(2)).relative_l2 == np.inf
    assert compare(old, old.copy()).kind == "equal"
    assert compare(old, jnp.asarray(old)).kind == "equal"


@pytest.mark.parametrize(
    ("old", "new", "kind", "changed"),
    [
        (np.array([np.nan, 1.0]), np.array([np.nan, 1.0]), "equal", 0),
        (np.array([np.nan, 1.0]), np.array([1.0, 1.0]), "changed", 1),
        (np.array([np.inf]), np.array([np.inf]), "equal", 0),
        (np.array([0.0]), np.array([-0.0]), "equal", 0),
        (np.array([2**62], np.int64), np.array([2**62 + 1], np.int64), "changed", 1),
        (np.array([0], np.uint8), np.array([255], np.uint8), "changed", 1),
        (np.array([True, False]), np.array([True, True]), "changed", 1),
        (np.array([1 + 1j]), np.array([1 - 1j]), "changed", 1),
        (np.array([1, 2], np.int32), np.array([1, 2], np.int64), "changed", 0),
        (np.array(["2024", "NaT"], "M8[s]"), np.array(["2024", "NaT"], "M8[s]"), "equal", 0),
        (np.array(["a", "b"]), np.array(["a", "c"]), "changed", 1),
        (np.zeros(3, [("x", "<i4")]), np.array([(0,), (1,), (2,)], [("x", "<i4")]), "changed", 2),
        (np.array([1.5, 2], jnp.bfloat16), np.array([1.5, 3], jnp.bfloat16), "changed", 1),
        (jax.random.key(0), jax.random.key(1), "changed", 1),
        (np.zeros((0, 3)), np.zeros((0, 3)), "equal", 0),
        (np.float32(1), np.float32(2), "changed", 1),
        (np.zeros(2), np.zeros(3), "changed", None),
        (torch.ones(3), torch.ones(3), "equal", 0),
        (torch.ones(3, dtype=torch.bfloat16), torch.zeros(3, dtype=torch.bfloat16), "changed", 3),
        (torch.ones(3), torch.ones(3, dtype=torch.float64), "changed", 0),
        (torch.tensor([1 + 1j]).conj(), torch.tensor([1 - 1j]), "equal", 0),
        (torch.eye(2).to_sparse(), torch.eye(2).to_sparse(), "equal", None),
        (np.asfortranarray(np.arange(6).reshape(2, 3)), np.arange(6).reshape(2, 3)[::-1], "changed", 6),
    ],
)
def test_every_sort_of_element(old: Any, new: Any, kind: str, changed: int | None) -> None:
    difference = compare(old, new)
    assert (difference.kind, difference.changed) == (kind, changed)


@pytest.mark.parametrize(
    ("old", "new", "distance"),
    [
        (np.array([2**53]), np.array([2**53 + 1]), 1),
        (np.int64(2**60), np.int64(2**60 + 1), 1),
        (np.array([-(2**63)]), np.array([2**63 - 1]), 2.0**64),
        (np.array([0], np.uint64), np.array([2**64 - 1], np.uint64), 2.0**64),
        (np.array([200], np.uint8), np.array([0], np.uint8), 200),
        (np.array([-128], np.int8), np.array([127], np.int8), 255),
        (torch.tensor([2**60]), torch.tensor([2**60 - 1]), 1),
    ],
)
def test_distances_of_integers_are_exact(old: Any, new: Any, distance: float) -> None:
    assert compare(old, new).max_abs == distance


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(np.float64, 20), st.sets(st.integers(0, 19)), st.floats(0.5, 2))
def test_counts_and_distances_are_those_of_numpy(old: Any, where: set[int], by: float) -> None:
    old = np.nan_to_num(old, posinf=0, neginf=0) % 1000
    new = old.copy()
    new[list(where)] += by
    difference = compare(old, new)
    assert difference.changed == len(where)
    assert difference.max_abs == pytest.approx(by if where else 0)
    assert difference.mean_abs == pytest.approx(np.abs(new - old).mean())


def test_what_became_nan_shows() -> None:
    assert np.isnan(compare(np.ones(2), np.array([1, np.nan])).max_abs or 0)


class Refusing:
    """Like a table, it has no truth value when compared."""

    def __eq__(self, other: object) -> Any:
        return np.array([True, True])

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        (1, 1.0, "changed"),
        (1, True, "changed"),
        ("x", "x", "equal"),
        (float("nan"), float("nan"), "equal"),
        (Refusing(), Refusing(), "equal"),
        (np.array([1, None], object), np.array([1, None], object), "equal"),
        (np.array([1, None], object), np.array([2, None], object), "changed"),
        (np.ones(2), "ones", "changed"),
        (threading.Lock(), threading.Lock(), "changed"),
    ],
)
def test_other_leaves_are_equal_when_they_are_stored_alike_or_say_so(old: Any, new: Any, kind: str) -> None:
    assert compare(old, new).kind == kind


def test_long_values_are_shortened() -> None:
    difference = compare("a" * 10_000, "b" * 10_000)
    assert len(difference.old or "") < 100


OLD = {"w": [np.zeros(1000), np.ones(1000), np.full(500, 2.0)], "step": 1, "gone": "x", "f": np.zeros((2, 3))}
NEW = {
    "w": [np.zeros(1000), np.ones(1000) + 1, np.full(500, 2.0)],
    "step": 2,
    "new": jnp.ones(2),
    "f": np.asfortranarray(np.zeros((2, 3))),
}


def test_leaves_are_named_in_path_order() -> None:
    expected = [("gone", "removed"), ("new", "added"), ("step", "changed"), ("w/1", "changed")]
    assert [(found.path, found.kind) for found in diff_values(OLD, NEW)] == expected
    assert [(found.path, found.kind) for found in diff_contents(stored(OLD), stored(NEW))] == expected
    assert diff_values(OLD, NEW) == diff_contents(stored(OLD), stored(NEW))


def test_shared_bytes_are_not_read() -> None:
    old, new = stored(OLD), stored(NEW)
    diff_contents(old, new)
    assert (8000, 8000) in old[1].read
    assert (0, 8000) not in old[1].read + new[1].read
    assert (16000, 4000) not in old[1].read + new[1].read


def test_equal_bytes_in_another_order_are_another_array() -> None:
    array = np.arange(6.0).reshape(2, 3)
    other = np.arange(6.0).reshape(2, 3, order="F")
    old, new = stored({"a": array}), stored({"a": other})
    assert old[1].data == new[1].data
    assert diff_contents(old, new)[0].changed == 4


def test_pickled_leaves_that_did_not_change_need_no_pickle() -> None:
    old, new = {"f": range, "a": 1}, {"f": range, "a": 2}
    assert [found.path for found in diff_contents(stored(old), stored(new), allow_pickle=False)] == ["a"]
    with pytest.raises(PickleRefused):
        diff_contents(stored(old), stored({**new, "f": list}), allow_pickle=False)
