"""Keys of items: equal for equal items in every process and for every hash seed, different for different types."""

from __future__ import annotations

import copyreg
import dataclasses
import datetime as dt
import enum
import functools
import os
import pathlib
import random
import subprocess
import sys
import textwrap
import threading
import uuid
import zoneinfo
from collections import OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import networkx as nx  # type: ignore[import-untyped]
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pydantic
import pytest
import scipy.sparse  # type: ignore[import-untyped]
import scipy.stats  # type: ignore[import-untyped]
import sklearn.feature_extraction.text as sklearn_text
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from prefect_snapshots.checkpoints.keys import item_keys, stable_hash
from prefect_snapshots.errors import UnhashableItem

Pair = namedtuple("Pair", "a b")


class Colour(enum.Enum):
    RED = 1


class Number(enum.IntEnum):
    ONE = 1


@dataclasses.dataclass
class Point:
    x: float
    tags: list[str]


class Plain:
    def __init__(self, content: Any) -> None:
        self.content = content


DIFFERENT: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2**63 - 1,
        2**63,
        -(2**63),
        2**64 + 1,
        0.0,
        -0.0,
        1.0,
        float("nan"),
        1j,
        ...,
        "",
        "1",
    ),
    *(
        "a",
        "é",
        "\ud800",
        b"",
        b"1",
        bytearray(b"1"),
        memoryview(b"1"),
        "x" * 5000,
        b"x" * 5000,
        bytearray(b"x" * 5000),
    ),
    *(
        [],
        [1],
        [1, 1],
        [[1]],
        (),
        (1,),
        (1, 1),
        ([1],),
        {},
        {1: 1},
        {1: 2},
        {"1": 1},
        set(),
        {1},
        frozenset(),
        frozenset({1}),
    ),
    *(
        OrderedDict(a=1, b=2),
        OrderedDict(b=2, a=1),
        defaultdict(int, {1: 1}),
        deque([1]),
        range(1),
        range(2),
        slice(1),
    ),
    *(
        Pair(1, 2),
        (1, 2),
        Colour.RED,
        Number.ONE,
        Point(1, []),
        Point(1, [""]),
        Plain(1),
        Plain(2),
        Point,
        Plain,
        str.upper,
    ),
    *(np.int64(1), np.int32(1), np.float64(1), np.array(1), np.array([1]), np.array([1], np.int32), np.array([[1]])),
    *(np.array([1.0]), np.array(["1"]), np.array([1], object), np.array([(1, 2)], [("a", "i4"), ("b", "i4")])),
    *(jnp.array([1]), jnp.array([1.0]), jnp.array([1], jnp.bfloat16), jax.random.key(0), jax.random.key(1)),
    *(
        dt.date(2026, 1, 1),
        dt.datetime(2026, 1, 1),
        dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        dt.time(1),
        dt.timedelta(1),
    ),
    dt.datetime(2026, 1, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
    *(pathlib.PurePosixPath("a"), pathlib.PureWindowsPath("a"), pathlib.Path("a"), uuid.UUID(int=1)),
    *(np.ma.array([1, 2]), np.ma.array([1, 2], mask=[True, False]), np.ma.array([1, 2], mask=[False, True])),
    *(pd.DataFrame({"a": [1]}), pd.DataFrame({"b": [1]}), pd.DataFrame({"a": [1.0]}), pd.DataFrame({"a": [1]}, [1])),
    *(pd.DataFrame({"a": pd.array([1], "Int64")}), pd.DataFrame({"a": pd.array([None], "Int64")}), pd.DataFrame()),
    *(pd.Series([1]), pd.Series([1], name="a"), pd.Series(["1"]), pd.Series(["1"], dtype=object), pd.Index([1])),
    *(pd.Series(["a"], dtype="category"), pd.Series(["a"], dtype=pd.CategoricalDtype(["a", "b"]))),
    *(pd.to_datetime(["2026"]), pd.to_datetime(["2026"]).tz_localize("UTC"), pd.to_timedelta([1]), pd.Timestamp(0)),
    *(pa.array([1, None]), pa.array([None, 1]), pa.array([1]), pa.array([1], pa.int32()), pa.array(["1"]), pa.nulls(1)),
    *(pa.array([[1], [2]]), pa.array([[1, 2]]), pa.array([[1, 2], []]), pa.array([["1"], ["2"]]), pa.array([b"1"])),
    *(pa.array([{"a": 1}]), pa.array([{"b": 1}]), pa.array([{"a": None}]), pa.array([None], pa.struct({"a": "int64"}))),
    *(pa.table({"a": [1]}), pa.table({"b": [1]}), pa.table({"a": [1]}).replace_schema_metadata({"k": "v"})),
    *(pl.DataFrame({"a": [1]}), pl.DataFrame({"b": [1]}), pl.Series([1]), pl.Series("a", [1]), pl.Series([1.0])),
    *(pl.Series([None], dtype=pl.Int64), pl.Series(["a"]), pl.Series(["a"], dtype=pl.Categorical), pl.Series([[1]])),
    *(scipy.sparse.csr_matrix([[1, 0]]), scipy.sparse.csr_matrix([[0, 1]]), scipy.sparse.csc_matrix([[1, 0]])),
    *(torch.eye(2), torch.eye(2).to_sparse(), torch.eye(2).to_sparse_csr(), torch.zeros(2).to_sparse(), torch.zeros(2)),
    torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    torch.quantize_per_tensor(2 * torch.ones(3), 0.2, 0, torch.qint8),
    *(torch.tensor([1 + 1j]), torch.tensor([1 + 1j]).conj(), torch.nn.Parameter(torch.zeros(2))),
    # What all of a process share is not content: random generators, addresses.
    *(scipy.stats.norm(0, 1), scipy.stats.norm(0, 2), scipy.stats.multivariate_normal([0, 1]), np.random.normal),
    *(random.random, torch.default_generator, sklearn_text.TfidfVectorizer().fit(["a word", "another word"])),
    *(Decimal("1"), Decimal("1.0"), Fraction(1), sys, len, max, ValueError("a"), ValueError("b"), KeyError("a")),
]


def test_different_content_or_type_has_different_keys() -> None:
    keys = [stable_hash(value) for value in DIFFERENT]
    assert len(set(keys)) == len(DIFFERENT)
    assert all(len(key) == 16 for key in keys)


def test_a_key_does_not_depend_on_the_other_items() -> None:
    together = item_keys(DIFFERENT)
    assert together.shape == (len(DIFFERENT), 2)
    assert [row.tobytes() for row in together] == [stable_hash(value) for value in DIFFERENT]


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.dates() | st.uuids(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
        | st.frozensets(st.text() | st.integers(), max_size=6)
    ),
    max_leaves=12,
)


def form(value: Any) -> Any:
    """A value in which equal means: of the same types, and the same bit by bit."""
    match value:
        case float():
            return "float", value.hex()
        case list() | tuple():
            return type(value).__name__, tuple(map(form, value))
        case dict():
            return "dict", frozenset((form(key), form(item)) for key, item in value.items())
        case frozenset():
            return "frozenset", frozenset(map(form, value))
        case _:
            return type(value).__name__, value


@given(plain, plain)
def test_keys_are_equal_exactly_when_type_and_content_are(left: Any, right: Any) -> None:
    assert (stable_hash(left) == stable_hash(right)) == (form(left) == form(right))


@given(st.lists(st.tuples(st.text(), plain), max_size=8, unique_by=lambda pair: pair[0]), st.randoms())
def test_the_order_of_a_dict_or_set_does_not_count(pairs: list[tuple[str, Any]], random: Any) -> None:
    shuffled = random.sample(pairs, len(pairs))
    assert stable_hash(dict(pairs)) == stable_hash(dict(shuffled))
    assert stable_hash({key for key, _ in pairs}) == stable_hash({key for key, _ in shuffled})


@given(st.lists(plain, max_size=5))
def test_one_object_twice_is_two_equal_objects(items: list[Any]) -> None:
    import copy

    shared = [items, items]
    assert stable_hash(shared) == stable_hash([items, copy.deepcopy(items)])


PRINT = """
import sys
sys.path.insert(0, sys.argv[1])
import test_keys
from prefect_snapshots.checkpoints.keys import item_keys
print(item_keys(test_keys.DIFFERENT).tobytes().hex())
"""


def test_keys_are_the_same_in_other_processes_and_with_other_hash_seeds() -> None:
    command = [sys.executable, "-c", PRINT, str(pathlib.Path(__file__).parent)]

    def keys(seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    # Not compared with those in this process, where other tests may have noted something on the exceptions.
    found = keys("0")
    assert found == keys("random")
    assert len(bytes.fromhex(found)) == 16 * len(DIFFERENT)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (7, "0700000000000000010000746e697370"),
        (0.5, "000000000000e03f020000746c667370"),
        ("text", "8c712ed9d99ac506bcaf264e3958b068"),
        ({"b": [1, 2.5], "a": None}, "ccd52d3babb5062a89168857298098ff"),
        (np.arange(3, dtype=np.float32), "b8c807c774da796814833bd3b4f1f8e1"),
        (torch.arange(3.0), "dfd91ccc280fff64a442725be9422dd1"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_keys_stay_what_they_were(value: Any, expected: str) -> None:
    """Another key here means that every repository would have to do everything again."""
    assert stable_hash(value).hex() == expected


def test_arrays_count_by_content_and_not_by_layout() -> None:
    array = np.arange(12.0).reshape(3, 4)
    assert stable_hash(array) == stable_hash(np.asfortranarray(array))
    assert stable_hash(array[:, ::2]) == stable_hash(array[:, ::2].copy())
    assert stable_hash(array) != stable_hash(array.T)


def _mutated(value: Any, use: Callable[[Any], Any]) -> Any:
    use(value)
    return value


class Model(pydantic.BaseModel):
    number: int = 1


FRAME = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
BEHIND_NULL = pa.Array.from_buffers(
    pa.int64(), 3, [pa.py_buffer(b"\x05"), pa.py_buffer(np.array([1, 77, 3]).tobytes())]
)
LISTS = pa.array([[1], [2, 3], None, []])
STRUCTS = pa.array([{"a": 1, "b": "x"}, {"a": None, "b": "y"}, None])
PADDED = np.dtype({"names": ["a", "b"], "formats": ["i1", "i4"], "offsets": [0, 4], "itemsize": 8})
PADDING = np.frombuffer(b"\xff" * 16, PADDED).copy()
PADDING["a"] = PADDING["b"] = 0
DUPLICATES = torch.sparse_coo_tensor(torch.tensor([[0, 0]]), torch.ones(2), (2,))

SAME = {
    "masked array": (np.ma.array([1.0, 5.0], mask=[False, True]), np.ma.array([1.0, 9.0], mask=[False, True])),
    "no mask": (np.ma.array([1.0, 5.0]), np.ma.array([1.0, 5.0], mask=[False, False])),
    "padding": (np.zeros(2, PADDED), PADDING),
    "long double": (
        np.zeros(1, np.longdouble),
        _mutated(np.frombuffer(b"\xff" * 16, np.longdouble).copy(), lambda array: array.__setitem__(0, 0)),
    ),
    "frame by column": (FRAME, _mutated(pd.DataFrame({"a": [1, 2]}), lambda frame: frame.insert(1, "b", ["x", "y"]))),
    "filtered frame": (FRAME, pd.DataFrame({"a": [1, 2, 9], "b": ["x", "y", "z"]}).query("a < 5")),
    "used frame": (FRAME, _mutated(FRAME.copy(), lambda frame: (frame["a"].mean(), frame.index.is_unique))),
    "strings": (pd.Series(["b", "c"]), pd.Series(["a", "b", "c"])[1:].reset_index(drop=True)),
    "nullable integers": (
        pd.Series(pd.arrays.IntegerArray(np.array([1, 5]), np.array([False, True]))),
        pd.Series(pd.arrays.IntegerArray(np.array([1, 9]), np.array([False, True]))),
    ),
    "levels": (
        pd.MultiIndex.from_tuples([(1, "a")]),
        pd.MultiIndex.from_tuples([(1, "a"), (2, "b")])[:1],
    ),
    "arrow slice": (pa.array(["b", "c"]), pa.array(["a", "b", "c"])[1:]),
    "arrow chunks": (pa.chunked_array([[1], [2]]), pa.chunked_array([[1, 2]])),
    "arrow table": (pa.table({"a": pa.chunked_array([["x"], ["y"]])}), pa.table({"a": ["x", "y"]})),
    "arrow nulls": (BEHIND_NULL, pa.array([1, None, 3])),
    "arrow lists": (LISTS[1:], pa.array([[2, 3], None, []])),
    "arrow structs": (STRUCTS[1:], pa.array([{"a": None, "b": "y"}, None], STRUCTS.type)),
    "arrow booleans": (pa.array([True, None, False])[1:], pa.array([None, False])),
    "arrow decimals": (pa.array([Decimal("1.5"), Decimal("2.5")])[1:], pa.array([Decimal("2.5")])),
    "arrow dictionary": (pa.array(["a", "b"]).dictionary_encode()[1:], pa.array(["b"]).dictionary_encode()),
    "arrow batch": (pa.record_batch({"a": [1, 2]}).slice(1), pa.record_batch({"a": [2]})),
    "polars chunks": (
        pl.concat([pl.DataFrame({"a": [[1]]}), pl.DataFrame({"a": [[2, None]]})], rechunk=False),
        pl.DataFrame({"a": [[1], [2, None]]}),
    ),
    "polars large integers": (
        pl.Series([1, 2**100], dtype=pl.Int128)[1:],
        pl.Series([2**100], dtype=pl.Int128),
    ),
    "arrow views": (pa.array(["a", None], pa.string_view())[1:], pa.array([None], pa.string_view())),
    "polars slice": (pl.Series(["a", "b"], dtype=pl.Categorical)[1:], pl.Series(["b"], dtype=pl.Categorical)),
    "default given": (Model(), Model(number=1)),
    "used matrix": (
        scipy.sparse.csr_matrix([[1, 0], [0, 2]]),
        _mutated(scipy.sparse.csr_matrix([[1, 0], [0, 2]]), lambda matrix: matrix.has_canonical_format),
    ),
    "sparse tensor": (torch.sparse_coo_tensor(torch.tensor([[0]]), torch.tensor([2.0]), (2,)), DUPLICATES),
    "conjugated": (torch.tensor([1 + 1j]).conj(), torch.tensor([1 - 1j])),
    "trees of xarray": (
        xr.DataTree.from_dict({"/a": xr.Dataset({"x": ("d", [1])})}),
        xr.DataTree.from_dict({"/a": xr.Dataset({"x": ("d", [1])})}),
    ),
    "polars objects": (pl.Series([Fraction(1, 2)], dtype=pl.Object), pl.Series([Fraction(2, 4)], dtype=pl.Object)),
    "view": (torch.arange(4.0)[::2], torch.tensor([0.0, 2.0])),
}


@pytest.mark.parametrize("name", SAME)
def test_keys_go_by_content(name: str) -> None:
    one, other = SAME[name]
    assert stable_hash(one) == stable_hash(other)


def test_what_contains_itself_has_a_key() -> None:
    def loop() -> list[Any]:
        inside: list[Any] = [1]
        inside.append(inside)
        return inside

    assert stable_hash(loop()) == stable_hash(loop())
    assert stable_hash(loop()) != stable_hash([1, [1]])


def test_large_content_counts_to_the_last_byte() -> None:
    large = np.zeros(10_000_000, np.uint8)
    before = stable_hash(large)
    large[-1] = 1
    assert stable_hash(large) != before


@pytest.mark.parametrize(
    "item",
    [torch.empty(2, device="meta"), threading.Lock(), (number for number in range(3)), open(os.devnull)],  # noqa: SIM115
)
def test_what_has_no_content_is_refused_by_index(item: Any) -> None:
    with pytest.raises(UnhashableItem, match=r"item 12: .* Pass key=") as caught:
        item_keys([1, [item]], first=11)
    assert caught.value.index == 12


def test_key_says_what_stands_for_an_item() -> None:
    items: Sequence[Any] = [(7, threading.Lock()), (8, threading.Lock())]
    assert item_keys(items, key=lambda item: item[0]).tolist() == item_keys([7, 8]).tolist()


def test_a_failing_key_names_the_item() -> None:
    with pytest.raises(UnhashableItem, match="item 1: the function `key` failed with ZeroDivisionError"):
        item_keys([1, 0], key=lambda item: 1 / item)


def test_what_nests_too_deeply_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(UnhashableItem, match="item 0: it nests too deeply"):
        item_keys([deep])
    while deep:  # so that taking it apart does not nest either
        deep = deep[0]


def test_a_pickler_of_exceptions_that_another_package_registers_changes_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ValueError("a")
    before = stable_hash(error)
    monkeypatch.setitem(copyreg.dispatch_table, ValueError, lambda value: (ValueError, (str(object()),)))
    assert stable_hash(error) == before


def test_a_worker_of_multiprocessing_has_the_names_and_keys_of_its_script(tmp_path: pathlib.Path) -> None:
    """There, the module of the script has another name."""
    (tmp_path / "script.py").write_text(
        textwrap.dedent("""
        import dataclasses, enum, multiprocessing, sys, typing
        import attrs, numpy, pydantic
        from prefect_snapshots.checkpoints import fingerprint, stable_hash
        from prefect_snapshots.checkpoints.fingerprint import label

        class Plain:
            def __init__(self, x): self.x = x

        @dataclasses.dataclass
        class Fields:
            x: int

        class Colour(enum.Enum):
            RED = 1

        class Pair(typing.NamedTuple):
            x: int

        class Model(pydantic.BaseModel):
            x: int

        @attrs.define
        class Attrs:
            x: int

        class Own(numpy.ndarray):
            pass

        class Text(str):
            pass

        SCRIPT = sys.modules[__name__]

        def helper(x): return Plain(x).x

        def work(x): return helper(x), Fields(x), SCRIPT.helper(x)

        def found():
            items = [Plain(1), Fields(1), Colour.RED, Pair(1), Model(x=1), Attrs(1), numpy.ones(2).view(Own)]
            items += [Text("x"), Plain, work]
            return label(work), fingerprint(work), *(stable_hash(item).hex() for item in items)

        if __name__ == "__main__":
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print(found() == pool.apply(found), len(set(found())))
        """)
    )
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("True 12\n", "")


class Cached:
    def __init__(self, x: int) -> None:
        self.x = x

    @functools.cached_property
    def double(self) -> int:
        return 2 * self.x


def test_a_cached_property_that_was_used_changes_no_key() -> None:
    used, graph = Cached(1), nx.path_graph(3)
    assert (used.double, len(graph.adj), len(graph.nodes)) == (2, 3, 3)
    assert stable_hash(used) == stable_hash(Cached(1)) != stable_hash(Cached(2))
    assert stable_hash(graph) == stable_hash(nx.path_graph(3)) != stable_hash(nx.path_graph(4))


@pytest.mark.parametrize(
    "make",
    [
        torch.nn.UninitializedParameter,
        lambda: torch.masked.masked_tensor(torch.ones(2), torch.tensor([True, False])),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_tensor_that_cannot_be_read_has_no_key(make: Callable[[], Any]) -> None:
    with pytest.raises(UnhashableItem, match="item 0: the elements of a torch tensor cannot be read"):
        stable_hash(make())
