"""Values come back as they were: every type of leaf and container, without pickle where that is promised.

A part of a value needs only its own bytes. What cannot be stored is named by its path. A manifest that was tampered
with is a named error: it never runs code, hangs, or takes memory that its body does not have.
"""

from __future__ import annotations

import ast
import contextlib
import copyreg
import dataclasses
import datetime as dt
import enum
import functools
import itertools
import math
import os
import pathlib
import pickle
import subprocess
import sys
import textwrap
import threading
import types
import uuid
import zoneinfo
from collections import OrderedDict, UserDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import ml_dtypes
import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import prefect_snapshots
from prefect_snapshots import SnapshotManager
from prefect_snapshots.errors import (
    EnvironmentMismatch,
    IntegrityError,
    InvalidArgument,
    LeafError,
    MissingDependency,
    PickleRefused,
    SnapshotsError,
    StructureMismatch,
    UnserialisableLeaf,
    UnsupportedFormat,
)
from prefect_snapshots.values import (
    Encoded,
    MemoryBody,
    decode,
    decode_leaves,
    describe,
    encode,
    iter_leaves,
    map_leaves,
    map_leaves_with_path,
    pickling,
    validate,
)
from prefect_snapshots.values.grids import RegionReading, Rows, cells, check_cuts
from prefect_snapshots.values.paths import matcher
from prefect_snapshots.values.proving import prove_readable

# --- helpers ----------------------------------------------------------------------------------------------------------


class Body:
    """A body in memory that remembers which ranges were read, and in how many calls."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.body_size = len(data)
        self.calls: list[list[tuple[int, int]]] = []

    def read_into(self, targets: Sequence[tuple[int, memoryview]]) -> None:
        self.calls.append([(offset, len(view)) for offset, view in targets])
        for offset, view in targets:
            view[:] = self.data[offset : offset + len(view)]


def body_of(encoded: Encoded) -> Body:
    return Body(b"".join(encoded.buffers))


def restored(value: Any, *, allow_pickle: bool = False, **options: Any) -> Any:
    encoded = encode(value, allow_pickle=allow_pickle)
    return decode(encoded.manifest, body_of(encoded), allow_pickle=allow_pickle, **options)


def same(a: Any, b: Any) -> bool:
    """Equal in type, value, order and element bits; NaN equals NaN, and 0.0 is not -0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (np.ndarray, np.generic)):
        layout = a.flags.f_contiguous == b.flags.f_contiguous if a.flags.contiguous else True
        return (str(a.dtype), a.shape, a.tobytes(), True) == (str(b.dtype), b.shape, b.tobytes(), layout)
    if isinstance(a, dict):
        pairs = zip(a.items(), b.items(), strict=True) if len(a) == len(b) else [((0,), (1,))]
        return all(same(x, y) for pair in pairs for x, y in zip(*pair, strict=True))
    if isinstance(a, (list, tuple, deque)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, (set, frozenset)):
        return sorted(map(text, a)) == sorted(map(text, b))
    if isinstance(a, float):
        return math.copysign(1, a) == math.copysign(1, b) and (a == b or math.isnan(a) is math.isnan(b) is True)
    if isinstance(a, complex):
        return same((a.real, a.imag), (b.real, b.imag))
    if isinstance(a, Decimal):
        return bool(a.as_tuple() == b.as_tuple())
    if isinstance(a, (dt.datetime, dt.time)):
        return a.replace(tzinfo=None) == b.replace(tzinfo=None) and a.fold == b.fold and same_zone(a.tzinfo, b.tzinfo)
    return bool(a == b)


def text(item: Any) -> str:
    """`repr`, with the elements of sets in order."""
    if isinstance(item, (frozenset, tuple)):
        texts = list(map(text, item))
        return f"{type(item)}{texts if isinstance(item, tuple) else sorted(texts)}"
    return repr(item)


def same_zone(a: Any, b: Any) -> bool:
    return type(a) is type(b) and repr(a) == repr(b)


def run(script: str, *arguments: str, **environment: str) -> str:
    """The output of a script in another process."""
    finished = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


class Colour(enum.Enum):
    RED = 1
    GREEN = 2


class Level(enum.IntEnum):
    LOW = 1


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Pair(NamedTuple):
    left: Any
    right: Any = None


Old = namedtuple("Old", "x y")


@dataclasses.dataclass
class State:
    step: Any
    params: Any


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    a: Any
    b: Any = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.a == "boom":
            raise AssertionError("restoring must not run this")


T = TypeVar("T")


@dataclasses.dataclass
class Box(Generic[T]):
    inner: T


class Opaque:
    """Only pickle can store this."""

    def __init__(self, content: Any) -> None:
        self.content = content

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Opaque) and np.array_equal(self.content, other.content)

    __hash__ = None  # type: ignore[assignment]


@jax.tree_util.register_pytree_with_keys_class
class Custom:
    """A node that only JAX knows how to take apart."""

    def __init__(self, x: Any, y: Any, name: str) -> None:
        self.x, self.y, self.name = x, y, name

    def tree_flatten_with_keys(self) -> Any:
        key = jax.tree_util.GetAttrKey
        return ((key("x"), self.x), (key("y"), self.y)), self.name

    @classmethod
    def tree_unflatten(cls, name: str, children: Any) -> Custom:
        x, y = children
        return cls(x, y, name)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Model:
    weights: Any
    activation: Any = dataclasses.field(metadata={"static": True})


# --- scalars and containers -------------------------------------------------------------------------------------------

ZONES = st.one_of(
    st.none(),
    st.just(dt.UTC),
    st.just(zoneinfo.ZoneInfo("Europe/Berlin")),
    st.builds(dt.timezone, st.timedeltas(dt.timedelta(hours=-23), dt.timedelta(hours=23))),
    st.just(dt.timezone(dt.timedelta(hours=1), "CET")),
)
PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.complex_numbers(),
    st.text(max_size=20),
    st.text(st.characters(codec=None, categories=("Cs", "Ll")), max_size=5),
    st.binary(max_size=20),
    st.datetimes(timezones=ZONES),
    st.dates(),
    st.times(timezones=ZONES.filter(lambda zone: not isinstance(zone, zoneinfo.ZoneInfo))),
    st.timedeltas(),
    st.decimals(),
    st.fractions(),
    st.uuids(),
    st.sampled_from([Colour.RED, Colour.GREEN, Level.LOW, Access.READ, ...]),
    st.builds(range, st.integers(), st.integers(), st.integers(1, 2**70)),
    st.sampled_from([pathlib.Path("/a/b"), pathlib.PurePosixPath("c"), pathlib.PureWindowsPath("C:\\d")]),
    st.sampled_from([np.float32(1.5), np.int8(-3), np.bool_(True), np.datetime64("2024-01-01T00:00:01"), np.str_("x")]),
)
HASHABLE = PLAIN.filter(lambda value: not (isinstance(value, Decimal) and value.is_snan()))
KEYS = st.one_of(
    HASHABLE, st.tuples(HASHABLE, HASHABLE), st.frozensets(st.integers() | st.text(max_size=3), max_size=3)
)
LEAVES = st.one_of(
    PLAIN,
    st.binary(min_size=257, max_size=600),
    st.text(min_size=257, max_size=300),
    st.binary(max_size=300).map(bytearray),
    st.builds(slice, st.none() | st.integers(), st.integers(), st.none() | st.integers()),
    st.integers(2**2100, 2**2200),
)
NAMES = st.text(min_size=1, max_size=8).filter(str.isidentifier)


def containers(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    dicts = st.dictionaries(KEYS, children, max_size=4)
    return st.one_of(
        st.lists(children, max_size=4),
        st.lists(children, max_size=4).map(tuple),
        dicts,
        dicts.map(OrderedDict),
        dicts.map(lambda items: defaultdict(list, items)),
        dicts.map(lambda items: defaultdict(None, items)),
        st.builds(deque, st.lists(children, max_size=3), st.none() | st.integers(3, 5)),
        st.sets(KEYS, max_size=4),
        st.frozensets(KEYS, max_size=4),
        st.builds(Pair, children, children),
        st.builds(Old, children, children),
        st.builds(State, st.integers(), st.dictionaries(st.text(max_size=3), children, max_size=2)),
        st.builds(Frozen, children, b=children),
        st.builds(Box, children),
        st.dictionaries(NAMES, children, max_size=3).map(lambda names: types.SimpleNamespace(**names)),
    )


VALUES = st.recursive(LEAVES, containers, max_leaves=12)


def fields_of(value: Any) -> Any:
    """Dataclasses and namespaces as dicts, so that `same` looks into them."""
    if dataclasses.is_dataclass(value):
        return type(value), {field.name: fields_of(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, types.SimpleNamespace):
        return types.SimpleNamespace, fields_of(vars(value))
    if isinstance(value, dict):
        items: dict[Any, Any] = {key: fields_of(item) for key, item in value.items()}
        return type(value), items, getattr(value, "default_factory", None)
    if isinstance(value, (list, tuple)):
        return type(value), [fields_of(item) for item in value]
    if isinstance(value, deque):
        return deque, [fields_of(item) for item in value], value.maxlen
    return value


@settings(max_examples=300, deadline=None)
@given(VALUES)
def test_plain_values_come_back_equal_without_pickle(value: Any) -> None:
    encoded = encode(value, allow_pickle=False)
    again = decode(encoded.manifest, body_of(encoded), allow_pickle=False)
    assert same(fields_of(value), fields_of(again))
    second = encode(again, allow_pickle=False)
    assert second.manifest == encoded.manifest
    assert list(map(bytes, second.buffers)) == list(map(bytes, encoded.buffers))


@settings(max_examples=200, deadline=None)
@given(VALUES)
def test_describe_and_iter_leaves_agree_and_name_every_leaf_once(value: Any) -> None:
    encoded = encode(value)
    described = describe(encoded.manifest)
    live = list(iter_leaves(value))
    assert [leaf.path for leaf in described] == [path for path, _ in live]
    assert len({leaf.path for leaf in described}) == len(described)
    for leaf, (_, item) in zip(described, live, strict=True):
        if leaf.inline:
            assert same(leaf.value, item)
    assert sum(leaf.nbytes for leaf in described) == sum(map(len, encoded.buffers))


@settings(max_examples=100, deadline=None)
@given(VALUES, st.data())
def test_one_leaf_can_be_asked_for_by_its_own_path(value: Any, data: st.DataObject) -> None:
    leaves = list(iter_leaves(value))
    if not leaves:
        return
    path, leaf = data.draw(st.sampled_from(leaves))
    encoded = encode(value)
    body = body_of(encoded)
    part = decode(encoded.manifest, body, leaves=path)
    info = next(info for info in describe(encoded.manifest) if info.path == path)
    assert body.calls == ([[(info.offset, info.nbytes)]] if info.nbytes else [])
    found = list(decode_leaves(encoded.manifest, body, {path}).values())
    assert len(found) == 1
    assert same(found[0], leaf)
    assert any(same(item, leaf) for _, item in iter_leaves(part))


def test_values_made_of_one_leaf_have_the_empty_path() -> None:
    assert [leaf.path for leaf in describe(encode(3).manifest)] == [""]
    assert restored(3, leaves="**") == 3


def test_equal_sets_and_dicts_give_equal_bytes_whatever_the_hash_seed() -> None:
    script = """
        import datetime, pathlib
        from prefect_snapshots.values import encode
        words = [f"word{i}" for i in range(50)]
        value = {
            "set": set(words), "mixed": frozenset({1, "1", b"1", None, (2, "x"), frozenset({"a", "b"}), 2.5}),
            ("k", frozenset(words)): [datetime.date(2024, 1, 1), pathlib.PurePosixPath("a")], "long": "x" * 1000,
        }
        encoded = encode(value)
        print(encoded.manifest.hex(), b"".join(encoded.buffers).hex())
    """
    assert len({run(script, PYTHONHASHSEED=hash_seed) for hash_seed in "012"}) == 1


def test_flags_odd_zones_and_subclasses_need_pickle() -> None:
    class Text(str):
        __slots__ = ()

    for value in (Access.READ | Access.WRITE, UserDict(a=1), Text("x"), np.ma.masked_array([1], [True]), print):
        with pytest.raises(UnserialisableLeaf, match=r"^Leaf a: Only pickle could store this .*allow_pickle is False"):
            encode({"a": value}, allow_pickle=False)
        assert type(restored({"a": value}, allow_pickle=True)["a"]) is type(value)


def test_a_path_of_another_system_comes_back_pure() -> None:
    foreign = pathlib.PureWindowsPath("C:\\a") if os.name == "posix" else pathlib.PurePosixPath("/a")
    node = msgspec.msgpack.decode(encode(foreign).manifest)
    node[3][2] = True  # as if it had been concrete there
    assert decode(msgspec.msgpack.encode(node), Body(b"")) == foreign


# --- arrays -----------------------------------------------------------------------------------------------------------

DTYPES = st.one_of(
    hnp.scalar_dtypes(),
    hnp.byte_string_dtypes(min_len=1),
    hnp.unicode_string_dtypes(min_len=1),
    hnp.array_dtypes(hnp.scalar_dtypes(), min_size=1, allow_subarrays=True),
    hnp.nested_dtypes(hnp.scalar_dtypes(), max_leaves=3, max_itemsize=200).filter(lambda dtype: dtype.subdtype is None),
)
LAYOUTS: list[Callable[[Any], Any]] = [
    lambda array: array,
    np.asfortranarray,
    lambda array: array[::-1] if array.ndim else array,
    lambda array: array[..., ::2] if array.ndim else array,
    lambda array: array.T,
    lambda array: np.moveaxis(array, 0, -1) if array.ndim > 2 else array,
]


@settings(max_examples=300, deadline=None)
@given(
    DTYPES.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))),
    st.sampled_from(LAYOUTS),
)
def test_numpy_arrays_of_every_dtype_and_layout(array: Any, layout: Callable[[Any], Any]) -> None:
    array = layout(array)
    array.flags.writeable = False
    again = restored({"a": array})["a"]
    assert again.dtype == array.dtype
    assert again.dtype.isalignedstruct == array.dtype.isalignedstruct
    assert again.shape == array.shape
    assert again.tobytes() == array.tobytes()
    assert again.flags.writeable
    assert again.flags.owndata or again.base.flags.owndata
    if array.flags.f_contiguous:
        assert again.flags.f_contiguous


@pytest.mark.parametrize(
    "name",
    [name for name in dir(ml_dtypes) if isinstance(getattr(ml_dtypes, name), type) and name not in ("finfo", "iinfo")],
)
def test_numpy_arrays_and_scalars_of_ml_dtypes(name: str) -> None:
    dtype = np.dtype(getattr(ml_dtypes, name))
    array = np.array([[0, 1], [1, 0]]).astype(dtype)
    again = restored([array, array[0, 1], {array[0, 1]: 1} if "complex" not in name else {}])
    assert again[0].dtype == dtype
    assert again[0].tobytes() == array.tobytes()
    assert same(again[1], array[0, 1])


def test_dtypes_that_others_forget() -> None:
    overlapping = np.dtype({"names": ["a", "b"], "formats": ["<i4", "<i2"], "offsets": [0, 0], "itemsize": 12})
    for array in (
        np.zeros(3, np.longdouble) + 1 / np.longdouble(3),
        np.zeros((), np.clongdouble),
        np.array(["2024-01-01", "NaT"], "M8[25s]"),
        np.zeros(2, "V7"),
        np.zeros(2, overlapping),
        np.zeros(2, np.dtype([("x", "<f4", (2, 3)), ("y", [("z", ">i8")])], align=True)),
        np.array(b"\x00\xff"),
    ):
        assert same(restored(array), array)
    for array in (np.array(["a", None], object), np.zeros(3, "V0"), np.zeros(2, [("t", "O")]), np.array(["é"], "T")):
        with pytest.raises(UnserialisableLeaf):
            encode(array, allow_pickle=False)
        assert np.array_equal(restored(array, allow_pickle=True), array)


def test_a_memmap_is_stored_as_an_array(tmp_path: pathlib.Path) -> None:
    mapped = np.memmap(tmp_path / "m", np.int16, "w+", shape=(3, 4))
    mapped[:] = 7
    again = restored(mapped)
    assert type(again) is np.ndarray
    assert (again == 7).all()


@pytest.mark.parametrize("make", [np.ascontiguousarray, np.asfortranarray, jnp.asarray])
@pytest.mark.parametrize("dtype", ["float32", "complex64", "bfloat16", "bool"])
def test_contiguous_memory_is_not_copied(make: Callable[[Any], Any], dtype: str) -> None:
    array = make(np.zeros((64, 32)).astype(dtype))
    (buffer,) = encode([array]).buffers
    host = np.asarray(array)
    assert np.frombuffer(buffer, np.uint8).__array_interface__["data"][0] == host.__array_interface__["data"][0]
    assert len(buffer) == host.nbytes


def test_all_leaves_are_read_by_one_call() -> None:
    encoded = encode({"a": np.ones(3), "b": ["x" * 1000, jnp.ones(2)], "c": Opaque(np.ones(9))})
    body = body_of(encoded)
    again = decode(encoded.manifest, body)
    assert len(body.calls) == 1
    assert sum(length for _, length in body.calls[0]) == body.body_size
    assert again["b"][0] == "x" * 1000
    again["c"].content[0] = 5


# --- JAX --------------------------------------------------------------------------------------------------------------

JAX_DTYPES = [
    "bool", "int2", "int4", "int8", "int16", "int32", "uint2", "uint4", "uint8", "uint16", "uint32", "float16",
    "bfloat16", "float32", "complex64", "float8_e4m3fn", "float8_e5m2", "float8_e4m3", "float8_e3m4", "float8_e4m3fnuz",
    "float8_e5m2fnuz", "float8_e4m3b11fnuz", "float8_e8m0fnu", "float4_e2m1fn",
]  # fmt: skip


@pytest.mark.parametrize("dtype", JAX_DTYPES)
@pytest.mark.parametrize("shape", [(), (0, 2), (3, 2)])
def test_jax_arrays_of_every_dtype(dtype: str, shape: tuple[int, ...]) -> None:
    array = jnp.asarray(np.arange(math.prod(shape)).reshape(shape) % 2).astype(dtype)
    again = restored({"a": array})["a"]
    assert isinstance(again, jax.Array)
    assert again.dtype == array.dtype
    assert same(np.asarray(again), np.asarray(array))
    assert again.weak_type == array.weak_type


@pytest.mark.parametrize("implementation", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_jax_random_keys(implementation: str) -> None:
    keys = jax.random.split(jax.random.key(7, impl=implementation), (2, 3))
    encoded = encode(keys)
    (leaf,) = describe(encoded.manifest)
    assert (leaf.kind, leaf.dtype) == ("jax-keys", f"key<{implementation}>")
    for again in (restored(keys), restored(keys, like=keys), restored(keys, like=jax.eval_shape(lambda: keys))):
        assert again.dtype == keys.dtype
        assert (jax.random.key_data(again) == jax.random.key_data(keys)).all()
    with pytest.raises(StructureMismatch, match=r"like= has .*\[5\], but key"):
        restored(keys, like=jax.random.split(jax.random.key(0), 5))


def test_weak_types_stay_weak() -> None:
    value = {"scalar": jnp.asarray(0.1), "filled": jnp.full(3, 2.0), "strong": jnp.zeros(3)}
    again = restored(value)
    assert {name: array.weak_type for name, array in again.items()} == {"scalar": True, "filled": True, "strong": False}
    assert (again["scalar"] * jnp.ones(1, jnp.bfloat16)).dtype == jnp.bfloat16


def test_arrays_that_are_not_there_are_named() -> None:
    gone = jnp.ones(3)
    jax.jit(lambda x: x + 1, donate_argnums=0)(gone)
    with pytest.raises(UnserialisableLeaf, match=r"Leaf params/w: This array was deleted, or donated"):
        encode({"params": {"w": gone}})

    @jax.jit
    def save(x: Any) -> Any:
        encode({"x": x})

    with pytest.raises(UnserialisableLeaf, match=r"Leaf x: It is a traced value\. Save outside of jit"):
        save(jnp.ones(3))


def test_sharded_arrays_and_restoring_onto_a_sharding() -> None:
    script = """
        import jax, jax.numpy as jnp, numpy as np
        from jax.sharding import NamedSharding, PartitionSpec as P
        from prefect_snapshots.values import encode, decode
        assert len(jax.devices()) == 4
        mesh = jax.make_mesh((2, 2), ("a", "b"))
        split, column, whole = (NamedSharding(mesh, spec) for spec in (P("a", "b"), P(None, "b"), P()))
        host = np.arange(24, dtype=np.float32).reshape(4, 6)
        value = {
            "split": jax.device_put(host, split), "half": jax.device_put(host.astype(jnp.bfloat16), column),
            "whole": jax.device_put(host, whole), "keys": jax.device_put(jax.random.split(jax.random.key(0), 4), whole),
            "plain": host,
        }
        encoded = encode(value, allow_pickle=False)
        class Body:
            data = b"".join(encoded.buffers)
            body_size = len(data)
            def read_into(self, targets):
                for offset, view in targets:
                    view[:] = self.data[offset:offset + len(view)]
        default = decode(encoded.manifest, Body())
        for name in ("split", "half", "whole", "plain"):
            assert (np.asarray(default[name]) == host).all(), name
        assert len(default["split"].devices()) == 1
        like = {
            "split": jax.ShapeDtypeStruct((4, 6), jnp.float32, sharding=column),
            "half": value["half"], "whole": np.zeros((4, 6), np.float32), "keys": value["keys"],
            "plain": jax.ShapeDtypeStruct((4, 6), jnp.float32, sharding=split),
        }
        again = decode(encoded.manifest, Body(), like=like)
        assert again["split"].sharding == column and again["half"].sharding == column
        assert again["keys"].sharding == value["keys"].sharding
        assert again["plain"].sharding == split and type(again["whole"]) is np.ndarray
        for name in ("split", "half", "whole", "plain"):
            assert (np.asarray(again[name]) == host).all(), name
        assert (jax.random.key_data(again["keys"]) == jax.random.key_data(value["keys"])).all()
        assert value["split"]._npy_value is None, "the caller's array must not keep a copy on the host"
        print("ok")
    """
    assert run(script, XLA_FLAGS="--xla_force_host_platform_device_count=4") == "ok\n"


def test_a_dtype_that_jax_would_cut_is_refused() -> None:
    script = """
        import jax, jax.numpy as jnp
        jax.config.update("jax_enable_x64", True)
        from prefect_snapshots.values import encode
        encoded = encode([jnp.arange(3, dtype=jnp.float64)])
        print(encoded.manifest.hex(), b"".join(encoded.buffers).hex())
    """
    manifest, data = map(bytes.fromhex, run(script).split())
    with pytest.raises(LeafError, match=r"Leaf 0: It was stored as float64, which JAX would cut to float32 here"):
        decode(manifest, Body(data))
    (as_numpy,) = decode(manifest, Body(data), like=[np.zeros(3)])
    assert same(as_numpy, np.arange(3.0))


def test_jax_is_neither_imported_to_save_nor_needed_to_read_numpy() -> None:
    script = """
        import sys
        import numpy as np
        from prefect_snapshots.values import decode, describe, encode
        encoded = encode({"a": np.ones(3), "b": {1, 2}})
        class Body:
            data = b"".join(encoded.buffers)
            body_size = len(data)
            def read_into(self, targets):
                for offset, view in targets:
                    view[:] = self.data[offset:offset + len(view)]
        decode(encoded.manifest, Body(), like=decode(encoded.manifest, Body()))
        assert "jax" not in sys.modules
        manifest = bytes.fromhex(sys.argv[1])
        print(describe(manifest)[0].kind)
        sys.modules["jax"] = None
        try:
            Body.data = bytes(12); Body.body_size = 12
            decode(manifest, Body())
        except ImportError as error:
            print(type(error).__name__, error)
    """
    kind, error = run(script, encode([jnp.ones(3)]).manifest.hex()).splitlines()
    assert kind == "jax"
    assert error.startswith(MissingDependency.__name__)
    assert "prefect-snapshots[jax]" in error


# --- paths, parts and likenesses --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "paths"),
    [
        ({"encoder": {"layers": [{"kernel": 1}]}}, ["encoder/layers/0/kernel"]),
        ({"a/b": 1, "50%": 2, "w*": 3, "q?": 4, "x[0]": 5}, ["a%2Fb", "50%25", "w%2A", "q%3F", "x[0]"]),
        ({"": {"": 1}}, ["/"]),
        ({"a\nb": 1, "\udcff": 2}, ["a%0Ab", "%uDCFF"]),
        ({1: 1, "1": 2, 2: 3}, ["1%int", "1", "2"]),
        ({1.5: 1, Decimal("1.25"): 2, "1.25": 3}, ["1.5", "1.25%decimal", "1.25"]),
        ({float("nan"): 1, float("-nan"): 2}, ["nan%float#0", "nan%float#1"]),
        ({None: 1, True: 2, (1, "a"): 3, b"x": 4}, ["None", "True", "(1, 'a')", "b'x'"]),
        ({Colour.RED: 1, frozenset({2, 1}): 2}, ["Colour.RED", "{1, 2}"]),
        (Pair(1, State(2, {"w": 3})), ["left", "right/step", "right/params/w"]),
        ({"s": {"b", "a"}}, ["s/0", "s/1"]),
        (types.SimpleNamespace(a=Frozen(1)), ["a/a", "a/b"]),
        (Custom(1, [2], "n"), ["x", "y/0"]),
        ([[], {}, ()], []),
    ],
)
def test_paths(value: Any, paths: list[str]) -> None:
    assert [leaf.path for leaf in describe(encode(value).manifest)] == paths
    assert [path for path, _ in iter_leaves(value)] == paths
    for path in paths:
        assert list(decode_leaves(encode(value).manifest, Body(b""), [path])) == [path]


TREE: Any = {
    "encoder": {"layers": [{"kernel": np.ones((2, 2)), "bias": np.zeros(2)}, {"kernel": np.ones(3), "bias": None}]},
    "head": Pair(np.full(4, 7.0), State(3, {"bias": np.ones(1)})),
    "names": {"b", "a"},
    "empty": {},
}


@pytest.mark.parametrize(
    ("leaves", "expected"),
    [
        ("head/left", {"head": Pair(TREE["head"].left, ...)}),
        ("encoder/layers/0/*", {"encoder": {"layers": [TREE["encoder"]["layers"][0], ...]}}),
        ("**/bias", {
            "encoder": {"layers": [{"bias": TREE["encoder"]["layers"][0]["bias"]}, {"bias": None}]},
            "head": Pair(..., State(..., {"bias": np.ones(1)})),
        }),
        (["names/0", "head/right/step"], {"head": Pair(..., State(3, ...)), "names": {"a"}}),
        ("empty", {"empty": {}}),
        ("encoder/layers/?/bia?", {"encoder": {"layers": [{"bias": np.zeros(2)}, {"bias": None}]}}),
        ("**", TREE),
    ],
)  # fmt: skip
def test_a_part_reads_only_its_own_bytes(leaves: str | list[str], expected: Any) -> None:
    encoded = encode(TREE)
    body = body_of(encoded)
    part = decode(encoded.manifest, body, leaves=leaves)
    assert same(fields_of(part), fields_of(expected))
    whole = {leaf.path: leaf for leaf in describe(encoded.manifest)}
    wanted = [whole[path] for path, leaf in iter_leaves(part) if leaf is not ... and not path.startswith("names")]
    assert body.calls == ([read] if (read := [(leaf.offset, leaf.nbytes) for leaf in wanted if leaf.nbytes]) else [])


def test_a_pattern_without_a_match_names_near_ones() -> None:
    encoded = encode(TREE)
    with pytest.raises(
        LeafError, match=r"Leaf encodr/layers/0/kernel: No leaf has such a path\. Did you mean 'encoder/layers/0/ker"
    ):
        decode(encoded.manifest, body_of(encoded), leaves="encodr/layers/0/kernel")
    with pytest.raises(LeafError, match=r"Did you mean 'encoder/\*\*'"):
        decode(encoded.manifest, body_of(encoded), leaves=["encoder"])
    with pytest.raises(LeafError, match="No leaf has such a path"):
        decode(encoded.manifest, body_of(encoded), leaves=[])


@pytest.mark.parametrize(
    ("pattern", "matching"),
    [
        ("**", ["a", "a/b", "a/b/c", "b/c", "abc"]),
        ("a/**", ["a", "a/b", "a/b/c"]),
        ("**/c", ["a/b/c", "b/c"]),
        ("a/**/c", ["a/b/c"]),
        ("a/**/b", ["a/b"]),
        ("*/?", ["a/b", "b/c"]),
        ("a*", ["a", "abc"]),
        ("a**", ["a", "a/b", "a/b/c", "abc"]),
        ("a.c", []),
    ],
)
def test_patterns(pattern: str, matching: list[str]) -> None:
    matches = matcher(pattern)
    assert [path for path in ["a", "a/b", "a/b/c", "b/c", "abc"] if matches(path)] == matching


def test_like_gives_containers_and_the_kind_of_arrays() -> None:
    stored: Any = {"step": 5, "params": {"w": jnp.ones((2, 3)), "b": np.zeros(2), "t": (np.float32(1), None)}}
    like = State(0, OrderedDict(t=[jnp.float32(0), None], b=jnp.zeros(2, jnp.float32), w=np.empty((2, 3), np.float32)))
    stored["params"]["b"] = stored["params"]["b"].astype(np.float32)
    again = restored(stored, like=like)
    assert type(again) is State
    assert again.step == 5
    assert list(again.params) == ["t", "b", "w"]
    assert type(again.params["w"]) is np.ndarray
    assert isinstance(again.params["b"], jax.Array)
    assert isinstance(again.params["t"][0], jax.Array)
    assert again.params["t"][1] is None


def test_a_python_number_fits_what_eval_shape_makes_of_it() -> None:
    value = State(7, {"rate": 0.5, "on": True, "w": jnp.ones(2)})
    again = restored(value, like=jax.eval_shape(lambda tree: tree, {"step": 7, "params": value.params}))
    assert (again["step"], again["params"]["rate"], again["params"]["on"]) == (7, 0.5, True)
    assert type(again["step"]) is int
    with pytest.raises(StructureMismatch, match=r"Leaf n: like= has int32\[\], but float"):
        restored({"n": 0.5}, like={"n": jnp.int32(1)})


def test_like_takes_a_part_too() -> None:
    value: Any = {"encoder": [np.ones(2), np.zeros(1)], "head": Pair(np.ones(3), 2)}
    like = {"encoder": [jnp.ones(2, jnp.float32), None], "head": Pair(0, 0), "other": 1}
    value["encoder"][0] = value["encoder"][0].astype(np.float32)
    encoded = encode(value)
    body = body_of(encoded)
    again = decode(encoded.manifest, body, leaves="encoder/0", like=like)
    assert again.keys() == {"encoder"}
    assert isinstance(again["encoder"][0], jax.Array)
    assert again["encoder"][1] is None  # as in like=
    assert body.calls == [[(0, 8)]]


@dataclasses.dataclass
class Grown:
    """A class that got two fields after a value was saved."""

    step: Any
    params: Any
    added: Any = 5
    also: Any = dataclasses.field(default_factory=lambda: {"k": [1, 2]})


def test_fields_that_were_added_since_keep_the_values_of_like() -> None:
    encoded = encode({"state": State(3, {"w": np.ones(2)}), "other": 1})
    like = {"state": Grown(0, {"w": np.zeros(2)}), "other": 0}
    for leaves in (None, "**"):
        with pytest.raises(StructureMismatch, match=r"Leaf state/added: .*not in the stored value.* pass strict=False"):
            decode(encoded.manifest, body_of(encoded), like=like, leaves=leaves)
    found = decode(encoded.manifest, body_of(encoded), like=like, strict=False)
    assert (found["state"].step, found["state"].added, found["state"].also) == (3, 5, {"k": [1, 2]})
    assert same(found["state"].params["w"], np.ones(2))


Abstract: Any = jax.ShapeDtypeStruct


def test_a_changed_tree_is_restored_as_far_as_it_fits() -> None:
    stored = {"encoder": {"w": np.arange(4.0), "b": np.ones(9)}, "old": np.zeros(7), "moved": {"x": 1}}
    like = {"encoder": {"w": np.zeros(4), "scale": np.full(2, 0.5)}, "new": [None, 3], "moved": 0}
    encoded = encode(stored)
    body = body_of(encoded)
    found = decode(encoded.manifest, body, like=like, strict=False)
    assert same(found["encoder"], {"w": np.arange(4.0), "scale": np.full(2, 0.5)})
    assert (found["new"], found["moved"], "old" in found) == ([None, 3], 0, False)
    assert body.calls == [[(0, 32)]]  # nothing else was read
    with pytest.raises(StructureMismatch, match=r"Leaf new: It is not stored, and like= has only its shape"):
        restored({"a": 1}, like={"a": 0, "new": Abstract((2,), np.float32)}, strict=False)
    with pytest.raises(StructureMismatch, match=r"Leaf a: like= has float64\[3\], but float64\[2\]"):
        restored({"a": np.ones(2)}, like={"a": np.ones(3)}, strict=False)


def test_a_placeholder_skips_a_leaf_or_what_is_below() -> None:
    encoded = encode({"model": {"w": np.arange(4.0)}, "optimizer": {"m": np.ones(9), "v": [np.ones(5)]}, "step": 7})
    body = body_of(encoded)
    found = decode(encoded.manifest, body, like={"model": {"w": np.zeros(4)}, "optimizer": ..., "step": ...})
    assert same(found, {"model": {"w": np.arange(4.0)}, "optimizer": ..., "step": ...})
    assert body.calls == [[(0, 32)]]
    with pytest.raises(StructureMismatch, match=r"Leaf step: It is in the stored value, but not in like="):
        decode(encoded.manifest, body, like={"model": {"w": ...}, "optimizer": ...})


@pytest.mark.parametrize(
    ("stored", "like"),
    [
        (np.arange(4.0), np.zeros(4, np.float16)),
        (np.arange(4), np.zeros(4, np.complex64)),
        (np.arange(4), np.zeros(4, np.int8)),
        (np.array([True, False]), np.zeros(2)),
        (np.arange(4.0).reshape(2, 2).T, np.zeros((2, 2), np.float32)),
        (np.arange(4, dtype=ml_dtypes.int4), np.zeros(4, np.uint8)),
        (np.float64(5), np.zeros((), ml_dtypes.bfloat16)),
        (jnp.arange(4.0), np.zeros(4)),
        (np.arange(4.0), jnp.zeros(4, jnp.bfloat16)),
        (jnp.arange(4), Abstract((4,), jnp.float8_e4m3fn)),
    ],
)
def test_arrays_are_cast_to_the_dtypes_of_like(stored: Any, like: Any) -> None:
    value: Any = {"a": stored}
    with pytest.raises(StructureMismatch, match="Leaf a: like= has"):
        restored(value, like={"a": like})
    found = restored(value, like={"a": like}, cast=True)["a"]
    assert found.dtype == like.dtype
    assert isinstance(found, np.ndarray) is isinstance(like, np.ndarray)
    assert (np.asarray(found).astype(complex) == np.asarray(stored).astype(complex)).all()


@pytest.mark.parametrize(
    ("stored", "like", "error", "message"),
    [
        (np.ones(2), np.zeros(2, int), StructureMismatch, r"like= has int64\[2\], but float64\[2\]"),
        (np.ones(2, complex), np.zeros(2), StructureMismatch, "but complex128"),
        (np.ones(2, ml_dtypes.bfloat16), np.zeros(2, ml_dtypes.int4), StructureMismatch, "but bfloat16"),
        (np.array(["a"]), np.zeros(1), StructureMismatch, "but <U1"),
        (np.array([1], "M8[ns]"), np.array([1], "M8[us]"), StructureMismatch, "but datetime64"),
        (np.zeros(2, [("a", "f4")]), np.zeros(2), StructureMismatch, "is stored"),
        (jax.random.key(0), jnp.zeros((), np.uint32), StructureMismatch, "but key<"),
        (np.ones(2), np.zeros(3, np.float32), StructureMismatch, r"float32\[3\], but float64\[2\]"),
        (np.array([-1, 300]), np.zeros(2, np.int8), LeafError, "Not all of its numbers fit into int8"),
        (np.array([-1, 3]), jnp.zeros(2, np.uint8), LeafError, "Not all of its numbers fit into uint8"),
    ],
)  # fmt: skip
def test_a_cast_that_would_change_numbers_is_refused(
    stored: Any, like: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"Leaf a: .*{message}"):
        restored({"a": stored}, like={"a": like}, cast=True)


def test_a_cast_makes_a_weak_type_strong_and_needs_like() -> None:
    weak = jnp.asarray(2.0)
    assert weak.weak_type
    found = restored({"a": weak}, like={"a": jnp.bfloat16(0)}, cast=True)["a"]
    assert (found.dtype, found.weak_type) == (jnp.bfloat16, False)
    for options in ({"cast": True}, {"strict": False}):
        with pytest.raises(InvalidArgument, match=f"{next(iter(options))}=.* needs like="):
            restored(1, **options)


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"a": jnp.ones((2, 3), jnp.bfloat16), "n": 1}, r"Leaf a: like= has bfloat16\[2, 3\], but float32\["),
        ({"a": np.ones((3, 2), np.float32), "n": 1}, r"Leaf a: like= has float32\[3, 2\], but float32"),
        ({"a": jax.random.key(0), "n": 1}, r"Leaf a: like= has key<fry>\[\], but float32"),
        ({"a": np.ones((2, 3), np.float32), "n": np.ones(())}, r"Leaf n: like= has float64\[\], but int"),
        ({"a": None, "n": 1}, r"Leaf a: like= has None, but float32\[2, 3\]"),
        ({"a": [1], "n": 1}, r"Leaf a: It is in the stored value, but not in like=, which has 'a/0'"),
        ({"a": 1}, r"Leaf n: It is in the stored value, but not in like="),
        ({"a": 1, "n": 1, "m": 2}, r"Leaf m: It is in like=, but not in the stored value"),
    ],
)  # fmt: skip
def test_like_that_does_not_fit_names_the_path(like: Any, message: str) -> None:
    with pytest.raises(StructureMismatch, match=message):
        restored({"a": np.ones((2, 3), np.float32), "n": 1}, like=like)


def test_registered_nodes_come_back_with_like_only() -> None:
    value = {"node": Custom(jnp.ones(2), {"k": 3}, "stored"), "other": 1}
    with pytest.raises(LeafError, match=r"Leaf node: .*Custom.*\. Pass like="):
        restored(value)
    assert restored(value, leaves="other") == {"other": 1}
    again = restored(value, like={"node": Custom(jnp.zeros(2), {"k": 0}, "mine"), "other": 0})
    assert (again["node"].x == 1).all()
    assert (again["node"].y, again["node"].name) == ({"k": 3}, "mine")


def test_static_fields_come_from_like_and_need_no_pickle() -> None:
    encoded = encode(Model(jnp.ones(2), lambda x: x))
    with pytest.raises(PickleRefused, match=r"Leaf activation: It was stored with pickle"):
        decode(encoded.manifest, body_of(encoded), allow_pickle=False)
    like = Model(jax.eval_shape(lambda: jnp.ones(2)), jnp.tanh)
    again = decode(encoded.manifest, body_of(encoded), like=like, allow_pickle=False)
    assert again.activation is jnp.tanh
    assert (again.weights == 1).all()


# --- mapping ----------------------------------------------------------------------------------------------------------


def test_map_leaves_combines_values_of_one_structure() -> None:
    first = Model({"w": jnp.ones(2), "n": None}, "relu")
    second = Model({"n": None, "w": jnp.full(2, 3.0)}, "tanh")
    mean = map_leaves(lambda *rows: sum(rows) / len(rows), first, second)
    assert type(mean) is Model
    assert mean.activation == "relu"
    assert (mean.weights["w"] == 2).all()
    assert mean.weights["n"] is None
    nested = map_leaves(lambda x: x * 2, {"a": (1, deque([2], 3)), "c": Custom(1, 2, "n"), "p": Pair(3, "x")})
    assert nested["a"] == (2, deque([4]))
    assert (nested["c"].x, nested["c"].name, nested["p"]) == (2, "n", Pair(6, "xx"))
    assert map_leaves_with_path(lambda path, leaf: path, {"a": [1, 2]}) == {"a": ["a/0", "a/1"]}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"a": 1}, "Leaf b/0: It is in value 1, but not in value 2"),
        ({"a": 1, "b": [2, 3]}, "Leaf b/1: It is in value 2, but not in value 1"),
        ({"a": None, "b": [2]}, "Leaf a: It is None in one value"),
    ],
)
def test_map_leaves_names_where_structures_differ(other: Any, message: str) -> None:
    with pytest.raises(StructureMismatch, match=message):
        map_leaves(lambda x, y: x, {"a": 1, "b": [2]}, other)


# --- classes ----------------------------------------------------------------------------------------------------------


def test_dataclasses_are_restored_without_running_their_code() -> None:
    unmade = object.__new__(Frozen)
    object.__setattr__(unmade, "a", "boom")
    object.__setattr__(unmade, "b", [1])
    again = restored(unmade)
    assert (again.a, again.b) == ("boom", [1])


def test_dataclasses_that_hold_more_than_their_fields_are_pickled_whole() -> None:
    state = State(1, {})
    state.extra = 2  # type: ignore[attr-defined]
    again = restored([state], allow_pickle=True)[0]
    assert again.extra == 2
    assert [leaf.kind for leaf in describe(encode([state]).manifest)] == ["pickle"]
    unset = object.__new__(State)
    assert [leaf.kind for leaf in describe(encode(unset).manifest)] == ["pickle"]


def test_local_classes_are_stored_by_field_with_the_class_beside() -> None:
    @dataclasses.dataclass
    class Local:
        x: Any

        def double(self) -> Any:
            return self.x * 2

    value = [Local(np.ones(100)), Local(3)]
    encoded = encode(value)
    assert [leaf.path for leaf in describe(encoded.manifest)] == ["0/x", "1/x"]
    again = decode(encoded.manifest, body_of(encoded))
    assert again[1].double() == 6
    with pytest.raises(PickleRefused, match=r"Leaf 0: Its class .*Local' was stored with pickle"):
        decode(encoded.manifest, body_of(encoded), allow_pickle=False)
    with pytest.raises(UnserialisableLeaf, match=r"Leaf 0: Only pickle could store"):
        encode(value, allow_pickle=False)
    assert decode_leaves(encoded.manifest, body_of(encoded), {"1/x"}, allow_pickle=False) == {"1/x": 3}


def test_classes_of_a_script_are_found_in_another_process() -> None:
    script = """
        import dataclasses, enum
        from prefect_snapshots.values import encode
        @dataclasses.dataclass
        class Run:
            loss: float
        class Mode(enum.Enum):
            FAST = 1
        encoded = encode({"run": Run(0.5), "mode": Mode.FAST})
        print(encoded.manifest.hex(), b"".join(encoded.buffers).hex())
    """
    manifest, data = map(bytes.fromhex, run(script).split())
    again = decode(manifest, Body(data))
    assert type(again["run"]).__name__ == "Run"
    assert again["run"].loss == 0.5
    assert again["mode"].name == "FAST"
    assert (
        decode(manifest, Body(data), leaves="run/loss", like={"run": types.SimpleNamespace(loss=0)})["run"].loss == 0.5
    )


def test_a_class_that_is_gone_or_changed_is_named(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "module_that_changes.py"
    module.write_text(
        "import dataclasses\n@dataclasses.dataclass\nclass Thing:\n    a: int\n    class Inner(tuple): _fields = ()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import module_that_changes  # type: ignore[import-not-found]

    encoded = encode({"t": module_that_changes.Thing(1), "u": 2})
    body = body_of(encoded)
    monkeypatch.delitem(sys.modules, "module_that_changes")
    with pytest.raises(LeafError, match=r"Leaf t: The module of its class .* is not imported .*\. Pass like="):
        decode(encoded.manifest, body, allow_pickle=False)
    assert decode(encoded.manifest, body, leaves="u", allow_pickle=False) == {"u": 2}
    assert decode(encoded.manifest, body)["t"].a == 1
    monkeypatch.delitem(sys.modules, "module_that_changes")
    module.write_text("import dataclasses\n@dataclasses.dataclass\nclass Thing:\n    a: int\n    new: int = 0\n")
    with pytest.raises(
        LeafError, match=r"Leaf t: .*Thing' is not a dataclass with the fields a in this process\. Pass like="
    ):
        decode(encoded.manifest, body)
    assert decode(encoded.manifest, body, like={"t": {"a": 0}, "u": 0}) == {"t": {"a": 1}, "u": 2}
    monkeypatch.delitem(sys.modules, "module_that_changes")
    module.unlink()
    with pytest.raises(LeafError, match=r"Leaf t: Its module 'module_that_changes' cannot be imported"):
        decode(encoded.manifest, body)


def test_names_of_classes_are_looked_up_and_never_run(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "module_with_effects.py").write_text("import pathlib; pathlib.Path(__file__).with_name('ran').touch()")
    monkeypatch.syspath_prepend(tmp_path)

    def manifest(name: str) -> bytes:
        return msgspec.msgpack.encode([1, 0, [name], [11, 0, ["x"], 1]])

    for name in (
        "module_with_effects:Thing",
        "os:system",
        "builtins:exec",
        "os:path.join",
        "subprocess:Popen",
        "x:",
        "",
    ):
        with pytest.raises(LeafError):
            decode(manifest(name), Body(b""), allow_pickle=False)
    assert not (tmp_path / "ran").exists()
    for name in ("os:system", "..a:b", "a b:c", "/etc:d"):
        with pytest.raises(LeafError):
            decode(manifest(name), Body(b""))


# --- pickle -----------------------------------------------------------------------------------------------------------


def test_large_buffers_of_pickled_objects_stay_out_of_the_stream() -> None:
    content = np.arange(10_000.0)
    encoded = encode({"o": Opaque(content)})
    assert [len(buffer) for buffer in encoded.buffers][1] == content.nbytes
    assert np.shares_memory(np.frombuffer(encoded.buffers[1]), content)
    assert restored({"o": Opaque(content)}, allow_pickle=True) == {"o": Opaque(content)}


def test_pickled_leaves_are_refused_and_others_still_load() -> None:
    encoded = encode({"f": [Opaque(1)], "a": np.ones(3)})
    with pytest.raises(PickleRefused, match=r"Leaf f/0: It was stored with pickle, and allow_pickle is False"):
        decode(encoded.manifest, body_of(encoded), allow_pickle=False)
    part = decode(encoded.manifest, body_of(encoded), leaves="a", allow_pickle=False)
    assert same(part, {"a": np.ones(3)})


def test_what_cannot_be_stored_is_named() -> None:
    value = {"model": State(1, {"lock": [1, threading.Lock()]})}
    for attempt in (encode, validate):
        with pytest.raises(
            UnserialisableLeaf, match=r"^Leaf model/params/lock/1: It cannot be pickled \(.*lock"
        ) as caught:
            attempt(value)
        assert caught.value.path == "model/params/lock/1"


class Ungrateful:
    """Can be pickled; whether it can be unpickled is a matter of the world."""

    works = True

    def __reduce__(self) -> Any:
        return Ungrateful.make, ()

    @staticmethod
    def make() -> Ungrateful:
        if not Ungrateful.works:
            raise ValueError("no")
        return Ungrateful()


def test_what_cannot_be_unpickled_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = encode({"a": [Ungrateful()]})
    monkeypatch.setattr(Ungrateful, "works", False)
    with pytest.raises(LeafError, match=r"Leaf a/0: It cannot be unpickled \(ValueError"):
        decode(encoded.manifest, body_of(encoded), allow_pickle=True)


class WithoutArguments(Exception):
    """Exceptions are made again of their `args`, which are not those of the constructor here."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")


class Slots:
    """Its state names a slot that it does not have."""

    __slots__ = ("x",)

    def __reduce__(self) -> Any:
        return Slots, (), (None, {"y": 1})


@pytest.mark.parametrize("make", [WithoutArguments(1, "x").with_traceback, lambda _: Slots(), lambda _: Ungrateful()])
def test_what_could_never_be_read_again_is_refused_when_it_is_saved(
    make: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ungrateful, "works", False)
    # Dask, once imported, has all exceptions of the process pickled in a way that does not call their class.
    monkeypatch.delitem(copyreg.dispatch_table, WithoutArguments, raising=False)
    with pytest.raises(UnserialisableLeaf, match=r"Leaf layers/0: It can be pickled, but not unpickled"):
        encode({"layers": [make(None)]})


def test_a_fresh_process_proves_that_a_value_can_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    phantom = types.ModuleType("phantom")
    exec("class Opaque:\n    def __init__(self): self.x = 1\n", vars(phantom))
    monkeypatch.setitem(sys.modules, "phantom", phantom)
    value = {"layers": [np.ones(3), phantom.Opaque()]}
    assert encode(value)  # this process can load it
    with pytest.raises(UnserialisableLeaf, match=r"^Leaf layers/1: A fresh process cannot load it: .*phantom"):
        prove_readable(value)
    manager: SnapshotManager[Any] = SnapshotManager(f"memory://{uuid.uuid4().hex}")
    with pytest.raises(UnserialisableLeaf, match="A fresh process cannot load it"):
        manager.save_snapshot(value, prove=True)
    assert not list(manager)
    assert manager.save_snapshot({"layers": [np.ones(3), Opaque(2), Custom(1, 2, "n")]}, "fine", prove=True) == "fine"


def test_a_worker_of_multiprocessing_stores_classes_of_the_script_by_value(tmp_path: pathlib.Path) -> None:
    """What it calls `__mp_main__` exists in no other program."""
    (tmp_path / "script.py").write_text(
        textwrap.dedent("""
        import multiprocessing, pathlib, sys
        from dataclasses import dataclass
        from prefect_snapshots.values import encode

        class Plain:
            def __init__(self, x): self.x = x
            def double(self): return 2 * self.x

        @dataclass
        class Fields:
            x: int
            def double(self): return 2 * self.x

        def triple(x): return 3 * x

        def work(folder):
            encoded = encode([Plain(3), Fields(4), triple])
            (pathlib.Path(folder) / "manifest").write_bytes(encoded.manifest)
            (pathlib.Path(folder) / "body").write_bytes(b"".join(encoded.buffers))

        if __name__ == "__main__":
            process = multiprocessing.get_context("spawn").Process(target=work, args=(sys.argv[1],))
            process.start()
            process.join()
            sys.exit(process.exitcode)
        """)
    )
    subprocess.run([sys.executable, str(tmp_path / "script.py"), str(tmp_path)], check=True, timeout=120)
    manifest, body = (tmp_path / "manifest").read_bytes(), (tmp_path / "body").read_bytes()
    plain, fields, triple = decode(manifest, Body(body), allow_pickle=True)
    assert (plain.double(), fields.double(), triple(5)) == (6, 8, 15)


def test_loading_an_old_value_leaves_the_class_of_the_program_alone() -> None:
    """As dataclasses do: the class that is there is used, with the methods that it has now."""
    script = """
        from enum import Enum
        from prefect_snapshots.values import MemoryBody, decode, encode

        class Plain:
            scale = 2
            def scaled(self): return self.scale * self.x

        class Child(Plain):
            def scaled(self): return -super().scaled()

        class Colour(Enum):
            RED = 1

        plain, child = Plain(), Child()
        plain.x = child.x = 5
        encoded = encode([plain, child, Plain, Colour.RED])
        body = b"".join(encoded.buffers)
        Plain.scaled = lambda self: "patched"
        Plain.scale = 3
        again, other, kind, red = decode(encoded.manifest, MemoryBody(body), allow_pickle=True)
        assert type(again) is Plain and type(other) is Child and kind is Plain, type(again)
        assert again.scaled() == "patched" and Plain.scale == 3 and red is Colour.RED
        old = Plain
        class Plain:
            def scaled(self): return "new"
        again = decode(encoded.manifest, MemoryBody(body), allow_pickle=True)[0]
        assert type(again) is old or again.scaled() == "new"
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=120)


# --- cycles and depth -------------------------------------------------------------------------------------------------


def test_cycles_are_named_and_shared_containers_are_not_cycles() -> None:
    shared = [1]
    assert restored({"a": shared, "b": [shared, shared]}) == {"a": [1], "b": [[1], [1]]}
    loop: dict[str, Any] = {"x": {"y": []}}
    loop["x"]["y"].append(loop["x"])
    for attempt in (
        lambda value: encode(value, allow_pickle=False),
        lambda value: list(iter_leaves(value)),
        lambda value: map_leaves(abs, value),
    ):
        with pytest.raises(UnserialisableLeaf, match=r"Leaf x/y/0: This container contains itself"):
            attempt(loop)


def test_what_contains_itself_or_nests_deeply_is_stored_as_one_pickle() -> None:
    loop: dict[str, Any] = {"x": {"y": [], "w": np.arange(3)}}
    loop["x"]["y"].append(loop["x"])
    again = restored(loop, allow_pickle=True)
    assert again["x"]["y"][0] is again["x"]
    assert again["x"]["w"].tolist() == [0, 1, 2]
    box: Box[Any] = Box(None)
    box.inner = [box]
    assert (found := restored(box, allow_pickle=True)).inner[0] is found
    deep: Any = np.arange(3)
    for _ in range(201):
        deep = [deep]
    again = restored(deep, allow_pickle=True)
    for _ in range(201):
        again = again[0]
    assert again.tolist() == [0, 1, 2]


def test_attributes_of_an_ordered_dict_come_back() -> None:
    state = torch.nn.BatchNorm1d(2).state_dict()
    again = restored({"model": state})["model"]
    assert type(again) is OrderedDict
    assert again._metadata == state._metadata  # type: ignore[attr-defined]
    assert type(vars(again)["_metadata"]) is OrderedDict
    encoded = encode({"model": state}, allow_pickle=False)
    leaves = decode_leaves(encoded.manifest, body_of(encoded), {"model/weight"}, allow_pickle=False)
    assert list(leaves) == ["model/weight"], "it is no pickle"
    odd: Any = OrderedDict(a=1)
    odd.lock = object
    assert restored(odd, allow_pickle=True).lock is object
    assert not vars(restored(OrderedDict(a=1)))


@pytest.mark.parametrize("form", [5, [2, None, None, 9], [2, None, None, 1, "a"], [2, None, None, 1, 2, 3]])
def test_forged_attributes_are_damage(form: Any) -> None:
    manifest = msgspec.msgpack.encode([1, 0, [], [7, form, []]])
    with pytest.raises(IntegrityError):
        decode(manifest, MemoryBody(b""), allow_pickle=True)


def test_code_of_another_python_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    value = {"model": {"act": lambda x: x + 1}, "weights": np.arange(3), "name": pathlib.Path}
    encoded = encode(value)
    assert decode(encoded.manifest, body_of(encoded), allow_pickle=True)["model"]["act"](1) == 2
    monkeypatch.setattr(pickling, "_VERSION", "3.99")
    with pytest.raises(
        EnvironmentMismatch, match=r"Leaf model/act: It contains .* code of Python 3\.1\d, which Python 3\.99"
    ):
        decode(encoded.manifest, body_of(encoded), allow_pickle=True)
    rest = decode(encoded.manifest, body_of(encoded), leaves=["weights", "name"], allow_pickle=True)
    assert rest["name"] is pathlib.Path, "only code depends on the version"
    assert rest["weights"].tolist() == [0, 1, 2]


def test_a_pickle_with_code_is_a_pickle_for_every_program() -> None:
    [stream, *_] = pickling.dump({"f": lambda: 5}, out_of_band=False)
    assert pickle.loads(stream)["f"]() == 5
    assert pickle._loads(stream)["f"]() == 5  # type: ignore[attr-defined]


def test_a_dataclass_with_a_cached_property_is_stored_by_value() -> None:
    @dataclasses.dataclass
    class Local:
        x: int

        @functools.cached_property
        def double(self) -> int:
            return 2 * self.x

    again = restored(Local(2), allow_pickle=True)
    assert (again.x, again.double) == (2, 4)


@pytest.mark.parametrize("wrap", [lambda x: [x], lambda x: {"k": x}, lambda x: (x,), Box])
def test_deep_values_come_back_and_too_deep_ones_are_refused(wrap: Callable[[Any], Any]) -> None:
    value: Any = "leaf"
    for _ in range(200):
        value = wrap(value)
    again = restored(value)
    for _ in range(200):
        again = again[0] if isinstance(again, (list, tuple)) else again["k"] if isinstance(again, dict) else again.inner
    assert again == "leaf"
    for attempt in (lambda value: encode(value, allow_pickle=False), lambda value: list(iter_leaves(value))):
        with pytest.raises(UnserialisableLeaf, match="Containers nest more than 200 levels deep"):
            attempt(wrap(value))


def test_keys_nested_too_deeply_are_pickled() -> None:
    key: Any = 1
    for _ in range(40):
        key = (key,)
    assert restored({key: 1}, allow_pickle=True) == {key: 1}
    with pytest.raises(UnserialisableLeaf):
        encode({key: 1}, allow_pickle=False)


# --- hostile manifests ------------------------------------------------------------------------------------------------

VICTIM = encode(
    {
        "array": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.ones((2, 2), np.int16)),
        "struct": np.zeros(2, [("a", "<i4"), ("b", "<f8", (2,))]),
        "jax": jnp.ones(2, jnp.bfloat16),
        "key": jax.random.key(1),
        "long": "x" * 300,
        "blob": b"y" * 300,
        "int": 2**3000,
        "when": dt.datetime(2024, 1, 2, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
        "plain": [Decimal("1.5"), Fraction(1, 3), uuid.UUID(int=5), 2**80, 1j, ..., range(3), np.float64(2)],
        ("t", 1): {1, 2, (3, frozenset({4}))},
        "rec": Pair(State(1, {"a": Colour.RED}), Frozen(1)),
        "more": [defaultdict(int, a=1), deque([1], 4), types.SimpleNamespace(a=1), Box({"pickle": Opaque(1)})],
    }
)
VICTIM_BODY = b"".join(VICTIM.buffers)


def attack(manifest: bytes) -> None:
    """Read it in every way. Only named errors may come."""
    for read in (
        lambda: decode(manifest, Body(VICTIM_BODY), allow_pickle=False),
        lambda: decode(manifest, Body(VICTIM_BODY), leaves=["array", "**/a", "plain/*", "?/*"], allow_pickle=False),
        lambda: decode(manifest, Body(VICTIM_BODY), leaves="*", like={"array": np.zeros((2, 3), np.float32)}),
        lambda: describe(manifest),
        lambda: decode_leaves(
            manifest, Body(VICTIM_BODY), {leaf.path for leaf in describe(manifest)}, allow_pickle=False
        ),
    ):
        with contextlib.suppress(SnapshotsError):
            read()


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_flipped_and_lost_bytes_of_a_manifest_are_named_errors(data: st.DataObject) -> None:
    manifest = bytearray(VICTIM.manifest)
    for _ in range(data.draw(st.integers(1, 3))):
        manifest[data.draw(st.integers(0, len(manifest) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    attack(bytes(manifest[: data.draw(st.just(len(manifest)) | st.integers(0, len(manifest)))]))


TEXTS = ["<f4", "|O", "O", "bfloat16", "<U9999999999", "test_values:State", "builtins:list"]
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 60) | st.integers(0, 2**64 - 1) | st.floats() | st.text(max_size=4)
    | st.binary(max_size=4) | st.sampled_from(TEXTS),
    lambda children: st.lists(children, max_size=6) | st.dictionaries(st.text(max_size=2), children, max_size=2),
    max_leaves=15,
)  # fmt: skip
CODED = st.builds(lambda code, rest: [code, *rest], st.integers(1, 58), st.lists(JUNK, max_size=6))


@settings(max_examples=400, deadline=None)
@given(
    JUNK | CODED | st.lists(CODED, max_size=3).map(lambda nodes: [1, None, None, *nodes]), st.lists(JUNK, max_size=2)
)
def test_well_formed_nonsense_is_a_named_error(root: Any, classes: list[Any]) -> None:
    for nbytes in (0, len(VICTIM_BODY)):
        attack(msgspec.msgpack.encode([1, nbytes, classes, root]))


@pytest.mark.parametrize(
    "root",
    [
        [52, 2**62, "|u1", 0, 2**62],
        [52, 0, "|V0", 0, 2**40],
        [52, 0, "<f8", 0, 2**62, 2**62, 0],
        [52, 8, "<f8", 0, -1, -1],
        [52, 8, "|O", 0, 1],
        [52, 8, "<f8,<f8", 0, 1],
        [52, 8, [["a"], ["<f8"], [2**40], [None], 8, False], 0, 1],
        [52, 8, [["a", "a"], ["<f4", "<f4"], [0, 4], [None, None], 8, False], 0, 1],
        [48, 2**61],
        [55, []],
        [55, [2**63, 2**63]],
        [16, 10**15],
        [18, 10**15, "|u1"],
        [5, -4, None, 1],
        [3, None, None, [1, None, None]],
        [6, None, [[16, b"\xff"]], 1],
        [6, None, [[1, None, None]], 1],
        [1, None, ["a"], 1],
        [27, 1, 0],
        [26, "1e" + "9" * 30],
        [27, "1e300000000"],
        [27, "1e300000000", 1],
        [27, [26, "1e300000000"], 1],
        [27, 1.5, 1],
        [27, [17, b"\x03" * 5000], [17, b"\x05" * 5000]],
        [29, 0, [26, "1e300000000"], 1],
        [29, 0, "9", 1],
        [29, 0, [27, 1, 3], 1],
        [17, b"\x01" * 5000],
        [6, None, [[17, b"\x01" * 5000]], 1],
        {"a": 1},
    ],
)
def test_lies_of_a_manifest_are_found_before_memory_is_taken(root: Any) -> None:
    with pytest.raises(IntegrityError, match="manifest of this value is damaged"):
        decode(msgspec.msgpack.encode([1, 0, [], root]), Body(b""))


SPREAD = [58, 24, "<f4", 0, None, [2, 3], [[0, 1], [0, 2]]]
"""An array of two rows and three columns, of which four processes have stored cells of 2, 1, 2 and 1 elements."""
SPREAD_KEYS = [58, 16, "<u4", 0, "threefry2x32", [2, 2], [[0, 1], [0]]]


@pytest.mark.parametrize(
    ("place", "lie"),
    [
        *((6, lie) for lie in ([], [[0, 1]], [[0, 1], []], [[0, 1], [1]], [[0, 1], [0, 0]], [[0, 1], [0, 3]])),
        *(
            (6, lie)
            for lie in ([[1, 0], [0]], [[0, 2**63], [0]], [[0, -1], [0]], [[0, True], [0]], ["01", [0]], [0, 1])
        ),
        *((6, lie) for lie in (None, 1, "ab", {"a": 1}, [[0, 1], [0], [0]], [[0, 1.0], [0]], [[0, None], [0]])),
        *((5, lie) for lie in ([3, 3], [2, -3], [2**62, 2**62, 0], [-2, -3], [6], [], None, 6, [2, "3"], [2, 3, 1])),
        *((4, lie) for lie in ("threefry2x32", b"rbg", 1, ["rbg"])),
        *((3, lie) for lie in (1, 3, -1, None)),
        *((2, lie) for lie in ("<f8", "|O", "|V0", None, [["a"], ["<f4"], [0], [None], 8, False])),
        *((1, lie) for lie in (20, 28, 0, 2**62, -24, [24], None)),
    ],
)
def test_lies_about_an_array_in_pieces_are_found(place: int, lie: Any) -> None:
    """The body has as many bytes as the manifest says."""
    node = [*SPREAD[:place], lie, *SPREAD[place + 1 :]]
    size = node[1] if type(node[1]) is int and 0 <= node[1] < 100 else 24
    manifest = msgspec.msgpack.encode([1, size, [], node])
    for sharding in (None, jax.sharding.SingleDeviceSharding(jax.devices()[0])):
        with pytest.raises((IntegrityError, LeafError)):
            decode(manifest, Body(bytes(size)), sharding=sharding)


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sampled_from([SPREAD, SPREAD_KEYS]))
def test_flipped_bytes_of_an_array_in_pieces_are_named_errors(data: st.DataObject, node: list[Any]) -> None:
    manifest = bytearray(msgspec.msgpack.encode([1, node[1], [], [1, None, None, node]]))
    for _ in range(data.draw(st.integers(1, 2))):
        manifest[data.draw(st.integers(0, len(manifest) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    body = Body(bytes(range(node[1])))
    for read in (
        lambda: decode(bytes(manifest), body, allow_pickle=False),
        lambda: decode(bytes(manifest), body, like=[np.zeros((2, 3), np.float32)]),
        lambda: describe(bytes(manifest)),
    ):
        with contextlib.suppress(SnapshotsError):
            read()


@settings(max_examples=300, deadline=None)
@given(st.data(), st.lists(st.integers(0, 9), max_size=4), st.sampled_from([1, 4, 300]))
def test_a_region_is_read_completely_or_refused(data: st.DataObject, shape: list[int], itemsize: int) -> None:
    """No memory that was not read is returned, whatever the grid is."""
    starts = st.lists(st.integers(-1, 9), max_size=3) | st.sets(st.integers(1, 8)).map(
        lambda found: [0, *sorted(found)]
    )
    try:
        cuts = check_cuts([data.draw(starts) for _ in shape], shape)
    except ValueError:
        return
    dtype = np.dtype((np.void, itemsize))
    body = np.random.default_rng(1).bytes(math.prod(shape) * itemsize)
    whole = np.empty(shape, dtype)
    filled = 0
    for box, offset in cells(cuts, shape, itemsize):
        index: Any = (*box, ...)
        cell = whole[index]
        filled += cell.size
        cell[...] = np.frombuffer(body, dtype, cell.size, offset).reshape(cell.shape) if cell.size else cell
    assert filled == whole.size
    bounds = [sorted(data.draw(st.tuples(*[st.integers(0, size)] * 2))) for size in shape]
    wanted: Any = tuple(itertools.starmap(slice, bounds))
    region = RegionReading(wanted, dtype, cuts, shape)
    Body(body).read_into(region.targets)
    assert region.finish().tobytes() == whole[wanted].tobytes()


def test_rows_that_several_regions_need_are_read_once() -> None:
    whole = np.arange(8 * 64, dtype=np.float32).reshape(8, 64)
    rows: Rows = {}
    cuts = check_cuts([[0, 4], [0]], whole.shape)
    regions = [
        RegionReading((slice(0, 8), slice(start, start + 16)), whole.dtype, cuts, whole.shape, rows)
        for start in range(0, 64, 16)
    ]
    targets = [target for region in regions for target in region.targets]
    assert sum(len(view) for _, view in targets) == whole.nbytes
    Body(whole.tobytes()).read_into(targets)
    assert np.array_equal(np.hstack([region.finish() for region in regions]), whole)


@pytest.mark.parametrize(
    "value",
    [2**9000, {2**9000: 1}, Fraction(2**9000, 3**9000), range(2**9000), (2**9000,), {2**9000}],
    ids=["integer", "key", "fraction", "range", "tuple", "set"],
)
def test_long_integers_come_back_wherever_they_are(value: Any) -> None:
    assert same(restored(value, allow_pickle=True), value)


def test_nesting_bombs_are_refused() -> None:
    for depth, node in ((201, b"\x94\x01\xc0\xc0"), (100_000, b"\x94\x01\xc0\xc0"), (100_000, b"\x91")):
        with pytest.raises(IntegrityError):
            decode(b"\x94\x01\x00\x90" + node * depth + b"\x01", Body(b""))


def test_a_body_of_another_length_is_refused() -> None:
    with pytest.raises(IntegrityError, match="describes a body of"):
        decode(VICTIM.manifest, Body(VICTIM_BODY + b"x"))


def test_a_newer_format_says_so() -> None:
    with pytest.raises(UnsupportedFormat, match="format 2"):
        describe(msgspec.msgpack.encode([2, 0, [], 1]))


def test_an_unknown_time_zone_is_named_by_its_leaf() -> None:
    manifest = encode({"when": dt.datetime(2024, 1, 2, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))}).manifest
    lost = manifest.replace(b"Europe/Berlin", b"Europe/Atlant")
    with pytest.raises(LeafError, match=r"Leaf when: Its time zone 'Europe/Atlant' is not known here"):
        decode(lost, Body(b""))
    with pytest.raises(LeafError, match="Leaf when"):
        describe(lost)


def leaves_of_every_kind() -> Iterator[Any]:
    yield from (1, "x" * 999, np.ones(2), jnp.ones(2), jax.random.key(0), Opaque(1), Colour.RED, np.float32(1), None)


def test_describe_says_what_each_leaf_is() -> None:
    described = describe(encode(list(leaves_of_every_kind())).manifest)
    assert [(leaf.kind, leaf.dtype, leaf.shape, leaf.inline) for leaf in described] == [
        ("int", None, None, True),
        ("str", None, None, False),
        ("numpy", "float64", (2,), False),
        ("jax", "float32", (2,), False),
        ("jax-keys", "key<threefry2x32>", (2,), False),
        ("pickle", None, None, False),
        ("enum", None, None, False),
        ("numpy-scalar", "float32", (), True),
        ("none", None, None, True),
    ]


# --- the gate --------------------------------------------------------------------------------------------------------

PICKLING = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "pickletools"}
LOADING = {("torch", "load"), ("np", "load"), ("numpy", "load"), ("jnp", "load")}


def _pickles(path: pathlib.Path) -> Iterator[str]:
    """Every place of a module at which something could be unpickled. Contract classes for tests pickle their own."""
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
            if (owner, node.func.attr) in LOADING or node.func.attr in ("read_pickle", "to_pickle", "Unpickler"):
                yield f"{path.name}:{node.lineno} calls {owner}.{node.func.attr}"
        elif isinstance(node, ast.Constant) and node.value in PICKLING - {"pickle", "joblib"}:
            yield f"{path.name}:{node.lineno} names {node.value}"
        yield from (f"{path.name} imports {name}" for name in names if name.partition(".")[0] in PICKLING)


def test_nothing_is_unpickled_but_by_the_gate() -> None:
    package = pathlib.Path(prefect_snapshots.__file__).parent
    gate = package / "values" / "pickling.py"
    assert list(_pickles(gate))
    ours = [path for path in package.rglob("*.py") if path != gate and path.parent.name != "testing"]
    assert [found for path in ours for found in _pickles(path)] == []
    assert [found for path in (package.parent / "flows").glob("*.py") for found in _pickles(path)] == []


def test_a_class_of_a_script_that_got_a_field_is_no_damage(tmp_path: pathlib.Path) -> None:
    script = tmp_path / "script.py"
    for fields, wanted in (("a: int", "one"), ("a: int; b: int = 2", "is not a dataclass with the fields a in this")):
        script.write_text(
            textwrap.dedent(f"""
            import dataclasses, sys
            from prefect_snapshots import SnapshotManager
            from prefect_snapshots.errors import LeafError

            @dataclasses.dataclass
            class State:
                {fields}

            manager = SnapshotManager(sys.argv[1])
            if not len(manager):
                print(manager.save_snapshot(State(1), "one"))
            else:
                try:
                    manager["one"].data
                except LeafError as error:
                    print(error)
                print(manager.load_snapshot("one", like=State(3, 4), strict=False))
            """)
        )
        done = subprocess.run([sys.executable, script, tmp_path / "r"], capture_output=True, text=True, check=True)
        assert wanted in done.stdout
    assert done.stdout.endswith("Pass like=, or choose other leaves with leaves=.\nState(a=1, b=4)\n")


def test_loading_leaves_an_enum_of_the_program_as_it_is() -> None:
    class Colour(enum.Enum):
        RED = 1

        def shade(self) -> str:
            return "old"

    kept = encode({"c": [Colour.RED], "opaque": Opaque(Colour.RED)})
    Colour.shade = lambda self: "new"  # type: ignore[method-assign]
    decode(kept.manifest, MemoryBody(b"".join(kept.buffers)), allow_pickle=True)
    assert Colour.RED.shade() == "new"
