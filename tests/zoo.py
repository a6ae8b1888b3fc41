"""The zoo: values of every kind that people keep, as functions that make them anew in any process.

`same` compares two of them in type and content, to the last bit.
"""

# mypy: disable-error-code="arg-type, comparison-overlap, import-untyped, misc, no-untyped-call"

from __future__ import annotations

import ast
import collections
import collections.abc
import ctypes
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import functools
import ipaddress
import math
import operator
import os
import pathlib
import random
import re
import socket
import sqlite3
import sys
import threading
import types
import uuid
import weakref
import zoneinfo
from collections.abc import Callable
from typing import Any, ClassVar, Generic, NamedTuple, TypedDict, TypeVar

import attrs
import equinox as eqx
import flax.core
import flax.linen
import flax.struct
import jax
import jax.experimental.sparse
import jax.numpy as jnp
import ml_dtypes
import msgspec
import networkx as nx
import numpy as np
import optax
import pandas as pd
import polars as pl
import pyarrow as pa
import pydantic
import scipy.sparse
import sklearn.linear_model
import sklearn.pipeline
import sklearn.preprocessing
import sympy
import torch
import xarray as xr
from flax import nnx

# --- classes ----------------------------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = 1
    GREEN = "g"


class Word(enum.StrEnum):
    YES = "yes"


class Level(enum.IntEnum):
    LOW = 1


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Rights(enum.IntFlag):
    READ = 1
    WRITE = 2


class Pair(NamedTuple):
    left: Any
    right: Any = None


Old = collections.namedtuple("Old", "x y")


class Typed(TypedDict):
    a: int


@dataclasses.dataclass
class State:
    step: Any
    params: Any = None


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    a: Any
    b: Any = dataclasses.field(default=None, kw_only=True)


@dataclasses.dataclass
class Cached:
    x: int

    @functools.cached_property
    def double(self) -> int:
        return 2 * self.x


@dataclasses.dataclass
class Parent:
    name: str
    child: Any = None
    parent: Any = None


class Size(float, enum.Enum):
    HALF = 0.5


class Interval(tuple[int, int], enum.Enum):
    UNIT = (0, 1)


class Marked(enum.Enum):
    ONE = (1, "one")

    def __init__(self, number: int, word: str) -> None:
        self.number = number
        self.word = word


class Colours(enum.Enum):
    UPPER = enum.auto()
    UPPER_TOO = UPPER


T = TypeVar("T")


class Cell(NamedTuple, Generic[T]):
    content: T


@dataclasses.dataclass
class Initialised:
    a: int
    scale: dataclasses.InitVar[int] = 2
    b: int = dataclasses.field(init=False)

    def __post_init__(self, scale: int) -> None:
        self.b = self.a * scale


@dataclasses.dataclass(kw_only=True, order=True, slots=True, weakref_slot=True)
class Keyword:
    a: int
    hidden: list[int] = dataclasses.field(default_factory=list, repr=False, compare=False)


@dataclasses.dataclass
class Base:
    a: int


@dataclasses.dataclass
class Derived(Base):
    b: Any = None
    counter: ClassVar[int] = 0


@dataclasses.dataclass
class WithMore:
    """A dataclass whose objects have attributes that are no fields."""

    a: int


class FrozenModel(pydantic.BaseModel, frozen=True, extra="allow"):
    number: int
    _private: list[int] = pydantic.PrivateAttr(default_factory=list)


class Container(pydantic.BaseModel, Generic[T]):
    content: T


@attrs.frozen
class FrozenAttrs:
    a: int = attrs.field(alias="given")
    b: list[int] = attrs.field(factory=list, eq=False)


class SlotsBase:
    __slots__ = ("a",)


class SlotsBelow(SlotsBase):
    __slots__ = ("__dict__", "b")


class Weights(torch.nn.Parameter):
    pass


@dataclasses.dataclass
class Box(Generic[T]):
    inner: T


class Plain:
    def __init__(self, content: Any) -> None:
        self.content = content


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self, a: Any) -> None:
        self.a = a


class StateOfItsOwn:
    def __init__(self, content: Any) -> None:
        self.content = content

    def __getstate__(self) -> Any:
        return {"kept": self.content}

    def __setstate__(self, state: Any) -> None:
        self.content = state["kept"]


class OwnInt(int):
    pass


class OwnFloat(float):
    pass


class OwnStr(str):
    note: str


class OwnDict(dict[str, Any]):
    note = ""


class OwnList(list[Any]):
    pass


class OwnArray(np.ndarray[Any, Any]):
    pass


class OwnError(ValueError):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Model(pydantic.BaseModel):
    number: int = 1
    inner: dict[str, list[float]] = {}


class Schema(msgspec.Struct):
    a: int
    b: list[str] = []


@attrs.define
class Attrs:
    a: int
    b: Any = None


@flax.struct.dataclass
class FlaxState:
    step: Any
    params: Any


class Dense(eqx.Module):
    weight: Any
    act: Any = eqx.field(static=True)


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(2, 2)
        self.second = torch.nn.Linear(2, 2)
        self.second.weight = self.first.weight


class WrongState:
    __slots__ = ("x",)

    def __reduce__(self) -> Any:
        return WrongState, (), (None, {"y": 1})


async def _later() -> None: ...


async def _endless() -> Any:
    yield 1


def triple(x: int) -> int:
    return 3 * x


# --- helpers that make values -----------------------------------------------------------------------------------------


def _with(value: Any, **attributes: Any) -> Any:
    for name, content in attributes.items():
        setattr(value, name, content)
    return value


def _cached() -> Any:
    made = Cached(3)
    assert made.double == 6
    return made


def _linked() -> Any:
    parent = Parent("p", None)
    parent.child = Parent("c", None, parent)
    return parent


def _in_itself() -> Any:
    inner: list[Any] = [1]
    inner.append(inner)
    return inner


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def _net() -> Any:
    torch.manual_seed(0)
    return Net()


def _adam() -> Any:
    net = _net()
    optimizer = torch.optim.Adam(net.parameters())
    net.second(net.first(torch.ones(1, 2))).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


def _optax() -> Any:
    return optax.adam(1e-3).init({"w": jnp.ones((2, 3)), "b": jnp.zeros(3)})


def _flax_params() -> Any:
    return flax.linen.Dense(2).init(jax.random.key(0), jnp.ones((1, 3)))


def _nnx_state() -> Any:
    return nnx.to_pure_dict(nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0))))


def _frame() -> pd.DataFrame:
    return pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": [1.5, math.nan]}, index=pd.Index([5, 6], name="i"))


def _fitted() -> Any:
    return sklearn.linear_model.LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0])


def _pipeline() -> Any:
    steps = [("scale", sklearn.preprocessing.StandardScaler()), ("model", sklearn.linear_model.Ridge())]
    return sklearn.pipeline.Pipeline(steps).fit([[0.0], [1.0], [3.0]], [0.0, 2.0, 5.0])


def _masked() -> Any:
    return np.ma.array([1.0, -999.0, 3.0], mask=[0, 1, 0], fill_value=7.0)


def _used_rng() -> Any:
    rng = np.random.default_rng(3)
    rng.normal()
    return rng


def _used_random() -> Any:
    made = random.Random(5)
    made.random()
    return made


def _torch_rng() -> Any:
    return torch.Generator().manual_seed(3).get_state()


def _tied() -> Any:
    weight = torch.nn.Parameter(torch.arange(4.0).reshape(2, 2))
    return {"encoder": weight, "decoder": weight}


def _memory_shared() -> Any:
    base = torch.arange(6.0)
    return [base[:4], base[2:]]


def _categorical() -> Any:
    return pd.Series(pd.Categorical(["b", "a", None], categories=["a", "b", "c"], ordered=True))


def _graph() -> Any:
    graph = nx.DiGraph(name="g")
    graph.add_edge("a", "b", weight=2.0)
    return graph


def _noted() -> Any:
    error = ValueError("a")
    error.add_note("a note")
    return error


def _caused() -> Any:
    try:
        try:
            raise KeyError("inner")
        except KeyError as inner:
            raise OwnError(5) from inner
    except OwnError as outer:
        return outer.with_traceback(None)


def _in_context() -> Any:
    try:
        try:
            raise KeyError("inner")
        except KeyError:
            raise OwnError(5)  # noqa: B904
    except OwnError as outer:
        return outer.with_traceback(None)


def _slots_below() -> Any:
    return _with(SlotsBelow(), a=1, b=[2], c="in the dict")


def _shared_within() -> Any:
    inner = [1, 2]
    return Plain({"one": inner, "other": inner})


def _graph_of_dicts() -> Any:
    one: dict[str, Any] = {"name": "one"}
    two: dict[str, Any] = {"name": "two", "before": one}
    one["after"] = two
    return [one, two]


def _unlabelled() -> Any:
    return pd.DataFrame({"a": [1]}).set_flags(allows_duplicate_labels=False)


BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
STRUCT = [("a", "i4"), ("b", "f8", (2,)), ("c", "U3")]
PADDED = np.dtype({"names": ["a", "b"], "formats": ["i1", "i4"], "offsets": [0, 4], "itemsize": 8})

DENSE = torch.contiguous_format

Made = Callable[[], Any]

# --- what comes back --------------------------------------------------------------------------------------------------

_PLAIN: dict[str, Made] = {
    "none": lambda: None,
    "true": lambda: True,
    "zero": lambda: 0,
    "negative": lambda: -7,
    "64 bits": lambda: 2**64 + 1,
    "long integer": lambda: -(10**700),
    "float": lambda: 0.1,
    "negative zero": lambda: -0.0,
    "nan": lambda: math.nan,
    "infinity": lambda: -math.inf,
    "subnormal": lambda: 5e-324,
    "complex": lambda: complex(-0.0, math.nan),
    "ellipsis": lambda: ...,
    "not implemented": lambda: NotImplemented,
    "empty string": lambda: "",
    "text": lambda: "ünï\x00\r\n\U0001f600",
    "surrogate": lambda: "\ud800",
    "long text": lambda: "é" * 5000,
    "bytes": lambda: b"\x00\xff",
    "long bytes": lambda: bytes(range(256)) * 100,
    "bytearray": lambda: bytearray(b"abc" * 200),
    "memory view": lambda: memoryview(b"abc"),
    "memory view of numbers": lambda: memoryview(np.arange(6.0).reshape(2, 3)),
    "range": lambda: range(5, -7, -2),
    "slice": lambda: slice(1, None, 2),
    "date": lambda: dt.date(2026, 2, 28),
    "naive datetime": lambda: dt.datetime(2026, 1, 1, 1, 2, 3, 4),
    "fold": lambda: dt.datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=BERLIN),
    "utc": lambda: dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    "offset": lambda: dt.datetime(2026, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=-3, minutes=30), "X")),
    "time": lambda: dt.time(1, 2, 3, tzinfo=dt.UTC),
    "timedelta": lambda: dt.timedelta(-1, 2, 3),
    "zone": lambda: BERLIN,
    "decimal": lambda: decimal.Decimal("-0.10"),
    "decimal nan": lambda: decimal.Decimal("NaN"),
    "fraction": lambda: fractions.Fraction(-1, 3),
    "uuid": lambda: uuid.UUID(int=5),
    "path": lambda: pathlib.Path("/a/é"),
    "pure paths": lambda: [pathlib.PurePosixPath("a"), pathlib.PureWindowsPath("C:\\d")],
    "address": lambda: [ipaddress.ip_address("::1"), ipaddress.ip_network("10.0.0.0/8")],
    "pattern": lambda: re.compile("a+", re.I),
    "enum": lambda: [Colour.RED, Colour.GREEN],
    "string enum": lambda: Word.YES,
    "int enum": lambda: Level.LOW,
    "flag": lambda: [Access.READ | Access.WRITE, Access(0), Rights.READ | Rights.WRITE],
    "own int": lambda: OwnInt(5),
    "own float": lambda: OwnFloat(0.5),
    "own str": lambda: _with(OwnStr("s"), note="n"),
    "enum with a base": lambda: [Size.HALF, Interval.UNIT, Marked.ONE, Colours.UPPER_TOO],
    "enum as key": lambda: {Size.HALF: 1, Colour.RED: 2},
    "complex parts": lambda: [complex(0.0, -0.0), complex(math.inf, math.nan), complex(-0.0, 1)],
    "fold of no zone": lambda: dt.datetime(2026, 10, 25, 2, 30, fold=1),
    "time with fold": lambda: dt.time(2, 30, fold=1, tzinfo=BERLIN),
    "extreme times": lambda: [dt.datetime.min, dt.datetime.max, dt.date.min, dt.timedelta.max, dt.timedelta.resolution],
    "decimals": lambda: [decimal.Decimal(text) for text in ("1E+20", "-0", "sNaN", "-Infinity", "1.10", "9" * 60)],
    "decimal context": lambda: decimal.Context(prec=5, rounding=decimal.ROUND_UP, traps=[decimal.Inexact]),
    "lone surrogates": lambda: {"\ud800": ["\udfff"], "a\udc80b": b""},
}
_CONTAINERS: dict[str, Made] = {
    "empty": lambda: [[], (), {}, set(), frozenset()],
    "nested": lambda: {"a": [1, (2, {"b": None})], "c": {1, "x", (1, 2)}},
    "keys": lambda: {1: "x", "1": "y", (1, 2): "t", None: 0, True + 1: 2, b"k": 3, frozenset({1}): 4, 1.5: 5},
    "key nan": lambda: {math.inf: 1},
    "ordered dict": lambda: collections.OrderedDict([("b", 1), ("a", 2)]),
    "default dict": lambda: collections.defaultdict(list, {"a": [1]}),
    "counter": lambda: collections.Counter("abca"),
    "deque": lambda: collections.deque([1, 2], maxlen=3),
    "chain map": lambda: collections.ChainMap({"a": 1}, {"b": 2}),
    "user dict": lambda: collections.UserDict({"a": 1}),
    "named tuple": lambda: [Pair(1, [2]), Old(1, 2)],
    "typed dict": lambda: Typed(a=1),
    "namespace": lambda: types.SimpleNamespace(a=1, b=[2]),
    "shared": lambda: (lambda one: [one, one])([1, 2]),
    "in itself": _in_itself,
    "deep": lambda: _nested(300),
    "wide": lambda: {f"key{i}": i for i in range(2000)},
    "dataclass": lambda: State(1, {"w": [1.5]}),
    "frozen slots": lambda: Frozen(1, b=(2,)),
    "cached property": _cached,
    "parent links": _linked,
    "generic": lambda: Box([1]),
    "plain class": lambda: Plain({"a": 1}),
    "slots": lambda: Slotted(5),
    "own state": lambda: StateOfItsOwn([1]),
    "own dict": lambda: _with(OwnDict(a=1), note="kept"),
    "own list": lambda: OwnList([1, 2]),
    "exception": lambda: [ValueError("a", 1), OwnError(5), KeyError("k")],
    "exception group": lambda: ExceptionGroup("g", [ValueError(1), OwnError(2)]),
    "pydantic": lambda: Model(number=2, inner={"a": [1.5]}),
    "pydantic default": lambda: Model(),
    "msgspec": lambda: Schema(1, ["x"]),
    "attrs": lambda: Attrs(1, [2]),
    "syntax tree": lambda: ast.dump(ast.parse("a + 1")),
    "random": _used_random,
    "noted exception": _noted,
    "caused exception": _caused,
    "exception in a context": _in_context,
    "named tuple of a type": lambda: Cell[int](1),
    "field that is no argument": lambda: Initialised(3, 5),
    "only keywords": lambda: Keyword(a=1, hidden=[2]),
    "derived": lambda: Derived(1, b={"c": Base(2)}),
    "attribute that is no field": lambda: _with(WithMore(1), more=[2]),
    "frozen model": lambda: _with(FrozenModel.model_validate({"number": 1, "other": "x"}), _private=[3]),
    "generic model": lambda: Container[int](content=1),
    "model with unset fields": lambda: Model.model_construct(number="unchecked"),
    "frozen attrs": lambda: FrozenAttrs(given=1, b=[2]),
    "slots with inheritance": _slots_below,
    "shared within": _shared_within,
    "graph of dicts": _graph_of_dicts,
    "mapping proxy": lambda: types.MappingProxyType({"a": 1}),
    "sets within": lambda: {frozenset({frozenset({1}), (1, "a")}), frozenset()},
    "deque of tuples": lambda: collections.deque([(1, collections.deque())]),
}
_CALLABLES: dict[str, Made] = {
    "function": lambda: triple,
    "builtin": lambda: [len, math.sqrt, str.upper, operator.add],
    "class": lambda: [State, int, collections.OrderedDict, Colour],
    "partial": lambda: functools.partial(triple, x=2),
    "getters": lambda: [operator.itemgetter(1), operator.attrgetter("a.b")],
    "method of a class": lambda: dict.fromkeys,
    "jax function": lambda: [jax.nn.relu, jnp.tanh, jnp.sum],
    "torch function": lambda: [torch.relu, torch.nn.functional.gelu],
    "ufunc": lambda: [np.add, np.exp],
    "alias": lambda: [list[int], dict[str, int | None]],
    "union": lambda: int | None,
    "bound method": lambda: [Plain(3).__reduce__, [1].append, "a".__add__, dt.datetime.now],
    "partial of a partial": lambda: functools.partial(functools.partial(triple, 1), y=[2]),
    "module": lambda: [math, os.path, collections.abc],
    "descriptor": lambda: [classmethod(triple), staticmethod(triple)],
    "class of a class": lambda: [type, enum.EnumMeta, Container, Cell, Generic],
    "dtype objects": lambda: [np.dtype("f4"), np.dtype(STRUCT), torch.float16, jnp.bfloat16],
}
_DTYPES = ("bool", *(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)), "f2", "f4", "f8", "g", "F", "D", "G")
_NUMPY: dict[str, Made] = {
    **{f"dtype {name}": lambda name=name: np.arange(6).reshape(2, 3).astype(name) for name in _DTYPES},
    **{
        f"dtype {name}": lambda name=name: np.array([0.0, 1.0, -1.0]).astype(getattr(ml_dtypes, name))
        for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3b11fnuz", "int4", "int2")
    },
    "scalar": lambda: [np.float32(0.1), np.int8(-1), np.bool_(True), np.complex64(1j), np.str_("a"), np.bytes_(b"b")],
    "scalar date": lambda: [np.datetime64("2026-01-01T00:00:01", "ns"), np.timedelta64(3, "D"), np.datetime64("NaT")],
    "zero dimensions": lambda: np.array(5.0),
    "no elements": lambda: np.zeros((0, 3), "f4"),
    "large": lambda: np.arange(100_000.0),
    "fortran": lambda: np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "strided": lambda: np.arange(24.0).reshape(4, 6)[::2, ::3],
    "negative stride": lambda: np.arange(5)[::-1],
    "broadcast": lambda: np.broadcast_to(np.arange(3), (2, 3)),
    "big endian": lambda: np.arange(3, dtype=">i4"),
    "strings": lambda: np.array(["a", "bcd", "é"]),
    "byte strings": lambda: np.array([b"a", b"bc"]),
    "variable strings": lambda: np.array(["a", "b" * 100], dtype=np.dtypes.StringDType()),
    "dates": lambda: np.array(["2026-01-01", "NaT"], dtype="M8[us]"),
    "structured": lambda: np.array([(1, (2.0, 3.0), "x")], dtype=STRUCT),
    "padding": lambda: np.zeros(2, PADDED),
    "record": lambda: np.array([(1, (2.0, 3.0), "x")], dtype=STRUCT)[0],
    "recarray": lambda: np.rec.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")]),
    "objects": lambda: np.array([1, "a", None, [1, 2]], dtype=object),
    "void": lambda: np.array([b"\x00\x01"], dtype="V2"),
    "masked": _masked,
    "masked without mask": lambda: np.ma.array([1, 2]),
    "matrix": lambda: np.matrix([[1, 2]]),
    "own array": lambda: np.arange(3.0).view(OwnArray),
    "generator": _used_rng,
    "random state": lambda: np.random.RandomState(3),
    "seed sequence": lambda: np.random.SeedSequence(5).generate_state(2),
    "hard mask": lambda: np.ma.array([1, 2], mask=[0, 1], hard_mask=True),
    "structured mask": lambda: np.ma.array([(1, 2.0)], mask=[(1, 0)], dtype=[("a", "i4"), ("b", "f8")]),
    "masked constant": lambda: [np.ma.masked, np.ma.nomask],
    "nan payload": lambda: np.array([0x7FF8000000000ABC, 0xFFF0000000000001], np.uint64).view(np.float64),
    "complex nan payload": lambda: np.array([0x7FF8000000000ABC, 1], np.uint64).view(np.complex128),
    "negative zeros": lambda: np.array([-0.0, 0.0, complex(-0.0, -0.0)]),
    "no dimensions of objects": lambda: np.array({"a": 1}, dtype=object),
    "big endian structure": lambda: np.zeros(2, [("a", ">f8"), ("b", "<u2"), ("c", ">U2")]),
    "subarray": lambda: np.zeros(2, [("a", "f4", (2, 3)), ("n", [("x", "i1"), ("y", "S3")])]),
    "titles": lambda: np.zeros(1, [(("a title", "a"), "i4")]),
    "aligned": lambda: np.zeros(1, np.dtype([("a", "i1"), ("b", "f8")], align=True)),
    "dates of every unit": lambda: [np.array([1, 2], f"M8[{unit}]") for unit in ("Y", "M", "W", "D", "h", "ps", "25s")],
    "dates of no unit": lambda: [np.array(["NaT"], "M8"), np.array([5], "m8")],
    "scalars of ml_dtypes": lambda: [ml_dtypes.bfloat16(1.5), ml_dtypes.float8_e5m2(2), ml_dtypes.int4(-3)],
    "float4 and 6": lambda: [
        np.array([1.0, -2.0]).astype(getattr(ml_dtypes, name)) for name in ("float4_e2m1fn", "float6_e2m3fn", "uint4")
    ],
    "polynomial": lambda: np.polynomial.Polynomial([1.0, 2.0]),
}
_JAX: dict[str, Made] = {
    **{
        f"dtype {name}": lambda name=name: jnp.array([0, 1, 2]).astype(name)
        for name in ("bool", "int8", "uint32", "int32", "float16", "bfloat16", "float32", "complex64", "float8_e4m3fn")
    },
    "scalar": lambda: jnp.float32(2.5),
    "weak": lambda: jnp.asarray(1.0),
    "no elements": lambda: jnp.zeros((0, 2)),
    "key": lambda: jax.random.key(3),
    "keys": lambda: jax.random.split(jax.random.key(1), 3),
    "raw key": lambda: jax.random.PRNGKey(0),
    "rbg key": lambda: jax.random.key(1, impl="rbg"),
    "tree": lambda: {"a": [jnp.ones(2), None], "b": (jnp.zeros((), jnp.int32),)},
    "shape": lambda: jax.ShapeDtypeStruct((2, 3), jnp.float32),
    "optax": _optax,
    "optax chain": lambda: optax.chain(optax.clip(1.0), optax.sgd(0.1, momentum=0.9)).init({"w": jnp.ones(2)}),
    "flax parameters": _flax_params,
    "flax frozen": lambda: flax.core.freeze({"a": {"b": jnp.ones(2)}}),
    "flax struct": lambda: FlaxState(jnp.int32(1), {"w": jnp.ones(2)}),
    "nnx state": _nnx_state,
    "equinox": lambda: Dense(jnp.ones((2, 2)), jax.nn.relu),
    "equinox linear": lambda: eqx.nn.Linear(2, 3, key=jax.random.key(0)),
    "equinox mlp": lambda: eqx.nn.MLP(2, 1, 4, 1, key=jax.random.key(0)),
    "bcoo": lambda: jax.experimental.sparse.BCOO.fromdense(jnp.eye(2)),
    "partial": lambda: jax.tree_util.Partial(triple, 2),
    "weak types": lambda: [jnp.asarray(1), jnp.asarray(True), jnp.asarray(1j), jnp.full(2, 3)],
    "key of no elements": lambda: jax.random.split(jax.random.key(1), 0),
    "int4": lambda: jnp.arange(3, dtype=jnp.int4),
}
_TORCH: dict[str, Made] = {
    **{
        f"dtype {name}": lambda name=name: torch.tensor([0.0, 1.0, 2.0]).to(getattr(torch, name))
        for name in (
            *("bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64", "float16", "bfloat16"),
            *("float32", "float64", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu"),
        )
    },
    "scalar": lambda: torch.tensor(2.5),
    "no elements": lambda: torch.zeros(0, 3),
    "view": lambda: torch.arange(1_000_000.0)[5:8],
    "transposed": lambda: torch.arange(6.0).reshape(2, 3).T,
    "channels last": lambda: torch.arange(24.0).reshape(1, 2, 3, 4).contiguous(memory_format=torch.channels_last),
    "expanded": lambda: torch.ones(1).expand(3),
    "conjugated": lambda: torch.tensor([1 + 1j]).conj(),
    "negative": lambda: torch.tensor([1 + 2j]).conj().imag,
    "gradient": lambda: torch.ones(2, requires_grad=True),
    "no leaf": lambda: {"x": torch.ones(2, requires_grad=True).detach() * 2},
    "parameter": lambda: torch.nn.Parameter(torch.ones(2)),
    "buffer": lambda: torch.nn.Buffer(torch.ones(2)),
    "tied": _tied,
    "shared memory": _memory_shared,
    "coo": lambda: torch.eye(3).to_sparse(),
    "csr": lambda: torch.eye(3).to_sparse_csr(),
    "quantised": lambda: torch.quantize_per_tensor(torch.arange(3.0), 0.5, 1, torch.qint8),
    "channels quantised": lambda: torch.quantize_per_channel(
        torch.ones(2, 2), torch.tensor([0.1, 0.2]), torch.tensor([0, 1]), 0, torch.qint8
    ),
    "meta": lambda: torch.empty(2, 3, device="meta"),
    "module": _net,
    "state dict": lambda: _net().state_dict(),
    "optimizer": _adam,
    "sequential": lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.ReLU()),
    "own parameter": lambda: Weights(torch.ones(2)),
    "bsr": lambda: torch.eye(4).to_sparse_bsr((2, 2)),
    "complex view": lambda: torch.view_as_complex(torch.arange(4.0).reshape(2, 2)),
    "frozen parameter": lambda: torch.nn.Parameter(torch.arange(2), requires_grad=False),
    "parameters": lambda: torch.nn.ParameterList([torch.ones(1), torch.zeros(2)]),
    "inference": lambda: torch.arange(3).share_memory_(),
    "size": lambda: [torch.Size([1, 2]), torch.device("cpu"), torch.strided],
    "generator": _torch_rng,
    "script in a dict": lambda: {"epoch": 3, "model": _net().state_dict(), "loss": 0.5},
}
_TABLES: dict[str, Made] = {
    "frame": _frame,
    "empty frame": lambda: pd.DataFrame(),
    "frame of floats": lambda: pd.DataFrame({"a": [1.0, 2.0]}),
    "multi index": lambda: pd.DataFrame({"a": [1, 2]}, index=pd.MultiIndex.from_tuples([(1, "x"), (2, "y")])),
    "column levels": lambda: pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([("a", 1), ("a", 2)])),
    "integer columns": lambda: pd.DataFrame([[1, 2]]),
    "nullable": lambda: pd.DataFrame({"i": pd.array([1, None], "Int64"), "b": pd.array([True, None], "boolean")}),
    "categorical": _categorical,
    "time zone": lambda: pd.DataFrame({"t": pd.to_datetime(["2026-01-01"]).tz_localize("Europe/Berlin")}),
    "periods": lambda: pd.Series(pd.period_range("2026-01", periods=2, freq="M")),
    "intervals": lambda: pd.Series(pd.interval_range(0, 2)),
    "sparse column": lambda: pd.DataFrame({"s": pd.arrays.SparseArray([0, 0, 1])}),
    "arrow column": lambda: pd.DataFrame({"a": pd.Series([[1], [2, 3]], dtype=pd.ArrowDtype(pa.list_(pa.int64())))}),
    "object column": lambda: pd.DataFrame({"o": [[1], {"a": 2}]}),
    "attributes": lambda: _with(pd.DataFrame({"a": [1]}), attrs={"unit": "m"}),
    "duplicate columns": lambda: pd.DataFrame([[1, 2]], columns=["a", "a"]),
    "frequency": lambda: pd.DataFrame({"a": [1, 2]}, index=pd.date_range("2026-01-01", periods=2, freq="D")),
    "series": lambda: pd.Series([1, 2], name="n", index=["a", "b"]),
    "index": lambda: [pd.RangeIndex(3), pd.Index(["a"], name="x"), pd.DatetimeIndex(["2026-01-01"])],
    "timestamp": lambda: [pd.Timestamp("2026-01-01 00:00:00.000000001", tz="UTC"), pd.Timedelta(5), pd.NaT, pd.NA],
    "extension types": lambda: pd.DataFrame(
        {
            "s": pd.array(["a", None], "string"),
            "f": pd.array([0.5, None], "Float32"),
            "a": pd.array(["x", None], "string[pyarrow]"),
            "c": pd.Categorical([1, 2], [2, 1]),
        }
    ),
    "unique labels": _unlabelled,
    "index of categories": lambda: pd.DataFrame({"a": [1]}, index=pd.CategoricalIndex(["x"], ["x", "y"], name="i")),
    "level names": lambda: pd.DataFrame({"a": [1]}, index=pd.MultiIndex.from_tuples([("x", 1)], names=["u", None])),
    "days of work": lambda: pd.date_range("2026-01-01", periods=3, freq="B"),
    "offsets": lambda: [pd.offsets.MonthEnd(2), pd.Period("2026Q1"), pd.Interval(0, 1, closed="left")],
    "other sparse": lambda: [
        getattr(scipy.sparse, f"{form}_array")([[1.0, 0.0], [0.0, 2.0]]) for form in ("csc", "bsr", "dia", "dok", "lil")
    ],
    "polars nested": lambda: pl.DataFrame(
        {"a": [[{"x": [1, None]}]], "b": [None], "o": [b"\x00"]},
        schema={"a": pl.List(pl.Struct({"x": pl.List(pl.Int8)})), "b": pl.Null, "o": pl.Binary},
    ),
    "polars arrays": lambda: pl.DataFrame(
        {"a": [[1, 2]], "d": [dt.timedelta(1)]}, schema_overrides={"a": pl.Array(pl.Int8, 2)}
    ),
    "polars": lambda: pl.DataFrame({"a": [1, None], "b": ["x", "y"], "c": [[1], []]}),
    "polars types": lambda: pl.DataFrame(
        {"c": pl.Series(["a"], dtype=pl.Categorical), "e": pl.Series(["x"], dtype=pl.Enum(["x"])), "s": [{"k": 1}]}
    ),
    "polars decimals": lambda: pl.DataFrame({"d": [decimal.Decimal("1.50")], "t": [dt.datetime(2026, 1, 1)]}),
    "polars large integers": lambda: pl.DataFrame({"i": pl.Series([2**100, None], dtype=pl.Int128)}),
    "index of intervals": lambda: pd.DataFrame({"a": [1, 2]}, index=pd.interval_range(0, 2, closed="both")),
    "arrow views": lambda: pa.table({"s": pa.array(["a" * 20, None], pa.string_view()), "b": pa.nulls(2)}),
    "polars series": lambda: pl.Series("a", [1.5, math.nan, None]),
    "polars lazy": lambda: pl.LazyFrame({"a": [1, 2]}).filter(pl.col("a") > 1),
    "arrow": lambda: pa.table({"a": [1, None], "b": [["x"], []]}).replace_schema_metadata({"k": "v"}),
    "arrow chunks": lambda: pa.chunked_array([[1, 2], [3]]),
    "arrow array": lambda: pa.array(["a", None, "b"])[1:],
    "arrow dictionary": lambda: pa.array(["a", "b", "a"]).dictionary_encode(),
    "arrow schema": lambda: pa.schema([("a", pa.int8()), ("b", pa.list_(pa.string()))]),
    "arrow scalar": lambda: pa.scalar(5, pa.int16()),
    "csr matrix": lambda: scipy.sparse.csr_matrix([[1.0, 0.0], [0.0, 2.0]]),
    "coo array": lambda: scipy.sparse.coo_array([[1.0, 0.0], [0.0, 2.0]]),
    "data array": lambda: xr.DataArray([[1.0, 2.0]], dims=("x", "y"), coords={"y": [10, 20]}, attrs={"u": "m"}),
    "data set": lambda: xr.Dataset({"a": ("x", [1, 2])}, coords={"x": [0.5, 1.5]}),
    "regression": _fitted,
    "pipeline": _pipeline,
    "graph": _graph,
    "symbols": lambda: sympy.Symbol("x") ** 2 + 1,
}

ZOO: dict[str, Made] = {
    f"{group}: {name}": made
    for group, members in [
        ("plain", _PLAIN),
        ("containers", _CONTAINERS),
        ("callables", _CALLABLES),
        ("numpy", _NUMPY),
        ("jax", _JAX),
        ("torch", _TORCH),
        ("tables", _TABLES),
    ]
    for name, made in members.items()
}
"""Every kind of value by a name, as a function that makes one."""

NEED_LIKE = {"jax: flax frozen", "jax: bcoo", "jax: partial"}
"""Nodes that only JAX can build: a snapshot of one is loaded with `like=`."""

REFUSED: dict[str, Made] = {
    "lock": threading.Lock,
    "event": threading.Event,
    "thread": lambda: threading.Thread(target=triple),
    "generator": lambda: (x for x in "ab"),
    "coroutine iterator": lambda: _later().__await__(),
    "frame": lambda: sys._getframe(),
    "open file": lambda: open(os.devnull, "rb"),  # noqa: SIM115
    "socket": socket.socket,
    "condition": threading.Condition,
    "asynchronous generator": lambda: _endless(),
    "lambda with a lock": lambda: (lambda lock: lambda: lock)(threading.Lock()),
    "exception with a lock": lambda: ValueError(threading.Lock()),
    "text file": lambda: open(os.devnull),  # noqa: SIM115
    "connection": lambda: sqlite3.connect(":memory:"),
    "weak reference": lambda: weakref.ref(State),
    "pointer": lambda: ctypes.pointer(ctypes.c_int(1)),
    "object whose state does not fit": lambda: WrongState(),
    "array of such objects": lambda: np.array([threading.Lock()], dtype=object),
    "frame with such objects": lambda: pd.DataFrame({"a": [threading.Lock()]}),
    "scripted module": lambda: torch.jit.script(torch.nn.ReLU()),
}
"""What no process could read again, by a name."""


# --- comparing --------------------------------------------------------------------------------------------------------


def same(one: Any, two: Any) -> bool:
    """Return whether two values have the same types and content: NaN equals NaN, and 0.0 is not -0.0."""
    return _Comparison().same(one, two)


class _Comparison:
    def __init__(self) -> None:
        self._pairs: dict[tuple[int, int], Any] = {}

    def same(self, one: Any, two: Any) -> bool:
        """Compare two values. Those that contain themselves are equal if everything else is."""
        if one is two:
            return True
        if type(one) is not type(two):
            return False
        if (id(one), id(two)) in self._pairs:
            return True
        self._pairs[id(one), id(two)] = one, two
        for kinds, compare in self._by_type.items():
            if isinstance(one, kinds):
                return bool(compare(self, one, two))
        if dataclasses.is_dataclass(one):
            names = [field.name for field in dataclasses.fields(one)]
            return all(self.same(getattr(one, name), getattr(two, name)) for name in names)
        if callable(one) and hasattr(one, "__qualname__"):
            return bool(one == two)
        if type(one).__eq__ is not object.__eq__:
            return bool(one == two) and self._attributes(one, two)
        return self._state(one, two)

    def _state(self, one: Any, two: Any) -> bool:
        states = [value.__reduce_ex__(4)[1:3] for value in (one, two)]
        return self.same(*states)

    def _array(self, one: Any, two: Any) -> bool:
        if (one.dtype, one.shape) != (two.dtype, two.shape):
            return False
        if one.dtype.hasobject or one.dtype.kind == "T":
            return self.same(one.tolist(), two.tolist())
        if one.dtype.names:  # may have padding of any content
            return all(self.same(one[name], two[name]) for name in one.dtype.names)
        contiguous = one.flags.f_contiguous == two.flags.f_contiguous or not one.flags.forc
        if one.dtype.char in "gG":  # has padding of any content
            return contiguous and repr(one.tolist()) == repr(two.tolist())
        return contiguous and one.tobytes() == two.tobytes()

    def _masked(self, one: Any, two: Any) -> bool:
        return self.same(
            *(
                [
                    np.ma.getmaskarray(array),
                    array.data if array.dtype.names else array.filled(0),
                    array.fill_value,
                    array.hardmask,
                ]
                for array in (one, two)
            )
        )

    def _jax(self, one: Any, two: Any) -> bool:
        if one.aval != two.aval:  # shape, dtype and whether the type is weak
            return False
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, two = jax.random.key_data(one), jax.random.key_data(two)
        return self._array(np.asarray(one), np.asarray(two))

    def _tensor(self, one: Any, two: Any) -> bool:
        marks = [
            (
                t.dtype,
                t.shape,
                t.layout,
                t.device,
                t.requires_grad,
                t.is_quantized,
                t.is_conj() if t.is_complex() else 0,
            )
            for t in (one, two)
        ]
        if marks[0] != marks[1] or one.is_meta:
            return bool(marks[0] == marks[1])
        if one.is_quantized:
            return self._tensor(one.int_repr(), two.int_repr()) and repr(one) == repr(two)
        if one.layout is not torch.strided:
            return self._tensor(one.detach().to_dense(), two.detach().to_dense())
        one, two = (t.detach().resolve_conj().resolve_neg().clone(memory_format=DENSE).reshape(-1) for t in (one, two))
        return bool(torch.equal(one.view(torch.uint8), two.view(torch.uint8)))

    def _module(self, one: Any, two: Any) -> bool:
        shared = [len({id(parameter) for parameter in m.parameters()}) for m in (one, two)]
        return repr(one) == repr(two) and shared[0] == shared[1] and self.same(one.state_dict(), two.state_dict())

    def _items(self, one: Any, two: Any) -> bool:
        pairs = zip(one.items(), two.items(), strict=False)
        return len(one) == len(two) and all(self.same(a, b) for a, b in pairs) and self._attributes(one, two)

    def _elements(self, one: Any, two: Any) -> bool:
        return len(one) == len(two) and all(map(self.same, one, two)) and self._attributes(one, two)

    def _attributes(self, one: Any, two: Any) -> bool:
        return self.same(getattr(one, "__dict__", None), getattr(two, "__dict__", None))

    def _float(self, one: Any, two: Any) -> bool:
        return math.copysign(1, one) == math.copysign(1, two) and (one == two or (one != one and two != two))

    def _time(self, one: Any, two: Any) -> bool:
        plain = one.replace(tzinfo=None) == two.replace(tzinfo=None)
        return plain and one.fold == two.fold and repr(one.tzinfo) == repr(two.tzinfo)

    def _frame(self, one: Any, two: Any) -> bool:
        check = pd.testing.assert_frame_equal if isinstance(one, pd.DataFrame) else pd.testing.assert_series_equal
        try:
            check(one, two, check_exact=True, check_freq=True, check_flags=True)
        except AssertionError:
            return False
        return self.same(one.attrs, two.attrs)

    def _missing(self, one: Any, two: Any) -> bool:
        return repr(one) == repr(two)

    _by_type: ClassVar[dict[Any, Any]] = {
        np.ma.MaskedArray: _masked,
        (np.ndarray, np.generic): _array,
        jax.Array: _jax,
        torch.Tensor: _tensor,
        torch.nn.Module: _module,
        (pd.DataFrame, pd.Series): _frame,
        pd.Index: lambda self, one, two: one.identical(two) and one.dtype == two.dtype,
        (pd.Timestamp, pd.Period, type(pd.NaT), type(pd.NA)): _missing,
        pl.DataFrame: lambda self, one, two: one.schema == two.schema and one.equals(two, null_equal=True),
        pl.Series: lambda self, one, two: one.name == two.name and one.equals(two, null_equal=True, check_dtypes=True),
        pl.LazyFrame: lambda self, one, two: self.same(one.collect(), two.collect()),
        pa.Table: lambda self, one, two: one.schema.equals(two.schema, check_metadata=True) and one.equals(two),
        scipy.sparse.sparray | scipy.sparse.spmatrix: lambda self, one, two: (
            one.dtype == two.dtype and self._array(one.toarray(), two.toarray())
        ),
        (xr.DataArray, xr.Dataset): lambda self, one, two: one.identical(two),
        nx.Graph: lambda self, one, two: self.same([one.graph, one._node, one._adj], [two.graph, two._node, two._adj]),
        (collections.abc.Mapping,): _items,
        (set, frozenset): lambda self, one, two: one == two and sorted(map(repr, one)) == sorted(map(repr, two)),
        (list, tuple, collections.deque): _elements,
        jax.experimental.sparse.BCOO: lambda self, one, two: self.same(
            [one.data, one.indices, one.shape], [two.data, two.indices, two.shape]
        ),
        (types.SimpleNamespace, Plain, Slotted, StateOfItsOwn): lambda self, one, two: self._state(one, two),
        bool: lambda self, one, two: one == two,
        float: _float,
        complex: lambda self, one, two: self._float(one.real, two.real) and self._float(one.imag, two.imag),
        decimal.Decimal: lambda self, one, two: one.as_tuple() == two.as_tuple(),
        (dt.datetime, dt.time): _time,
        functools.partial: lambda self, one, two: self.same(
            [one.func, one.args, one.keywords], [two.func, two.args, two.keywords]
        ),
        (operator.itemgetter, operator.attrgetter): lambda self, one, two: one.__reduce__() == two.__reduce__(),
        memoryview: lambda self, one, two: (
            (one.format, one.shape) == (two.format, two.shape) and one.tobytes() == two.tobytes()
        ),
        np.polynomial.Polynomial: lambda self, one, two: self.same(
            [one.coef, one.domain, one.window, one.symbol], [two.coef, two.domain, two.window, two.symbol]
        ),
        BaseException: lambda self, one, two: self.same(
            *([e.args, vars(e), e.__cause__, e.__context__, e.__suppress_context__] for e in (one, two))
        ),
        pd.offsets.BaseOffset: lambda self, one, two: one == two,
        decimal.Context: lambda self, one, two: repr(one) == repr(two),
        types.ModuleType: lambda self, one, two: one is two,
        (classmethod, staticmethod): lambda self, one, two: one.__func__ == two.__func__,
        types.MethodType: lambda self, one, two: self.same([one.__self__, one.__func__], [two.__self__, two.__func__]),
        types.BuiltinMethodType: lambda self, one, two: (
            one.__name__ == two.__name__ and self.same(one.__self__, two.__self__)
        ),
        types.MethodWrapperType: lambda self, one, two: self.same(
            [one.__name__, one.__self__], [two.__name__, two.__self__]
        ),
        random.Random: lambda self, one, two: one.getstate() == two.getstate(),
        np.random.Generator: lambda self, one, two: self.same(one.bit_generator.state, two.bit_generator.state),
        np.random.RandomState: lambda self, one, two: self.same(one.get_state(), two.get_state()),
    }
