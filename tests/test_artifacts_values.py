"""Values of artifacts: a handler gives back what it was given, or refuses it, and packages can add their own."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import joblib
import ml_dtypes
import numpy as np
import onnx
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import safetensors.numpy
import safetensors.torch
import scipy.sparse  # type: ignore[import-untyped]
import torch

from prefect_snapshots import ArtifactRegistry, Repository, SnapshotManager
from prefect_snapshots.artifacts import (
    FileHandler,
    Handler,
    handlers,
    list_handlers,
    register_handler,
    safetensors_files,
)
from prefect_snapshots.artifacts.handlers import JSON, find_handler
from prefect_snapshots.artifacts.references import FileReference, ReferencedFile, refer
from prefect_snapshots.errors import (
    ArtifactNotFound,
    DamagedVersion,
    EnvironmentMismatch,
    HandlerNotFound,
    IntegrityError,
    InvalidArgument,
    InvalidName,
    MissingDependency,
    ObjectMissing,
    PickleRefused,
    ReferenceChanged,
    ReferenceRefused,
    StorageError,
    UnreadableValue,
    UnserialisableLeaf,
    UnserialisableValue,
)
from prefect_snapshots.snapshots.handler import PYTREE
from prefect_snapshots.testing import HandlerContract


@pytest.fixture
def registry(tmp_path: Path) -> ArtifactRegistry:
    return ArtifactRegistry(tmp_path / "repository")


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) and a.dtype != object:
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.tobytes() == b.tobytes() and a.shape == b.shape
    if isinstance(a, pd.DataFrame | pl.DataFrame | pa.Table):
        return type(a) is type(b) and bool(a.equals(b))
    return type(a) is type(b) and bool(np.all(a == b))


@pytest.mark.parametrize(
    ("handler", "value"),
    [
        ("json", {"a": [1, 2.5, None, "ü"]}),
        ("json", list(range(10_000))),
        ("text", "several\nlines\r\nof text, ünïcode, \x00"),
        ("pickle", OrderedDict(a=Decimal("0.1"), b={1, 2})),
        ("numpy", np.arange(24, dtype=">i2").reshape(2, 3, 4)),
        ("numpy", np.asfortranarray(np.random.default_rng(0).random((300, 400)))),
        ("numpy", np.random.default_rng(0).random((300, 400))[::2, ::3]),
        ("numpy", np.array(["a", "bc"])),
        ("numpy", np.array(7.5)),
        ("numpy", np.zeros((0, 3), "datetime64[ns]")),
        ("numpy", np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")])),
        ("numpy", np.array([1, "object"], dtype=object)),
        ("pytree", {"a": (1, [2, None]), "b": "text"}),
        ("joblib", {"any": [1, Decimal(2)]}),
        ("parquet", pd.DataFrame({"a": [1, 2], "b": ["x", None]}, index=[5, 6])),
        ("parquet", pl.DataFrame({"a": [1, 2], "b": ["x", None]})),
        ("parquet", pa.table({"a": [1, 2], "b": ["x", None]})),
    ],
    ids=lambda value: value if isinstance(value, str) and "\n" not in value else type(value).__name__,
)
def test_values_come_back(registry: ArtifactRegistry, handler: str, value: Any) -> None:
    registry.log_artifact("x", value, handler=handler)
    assert same(ArtifactRegistry(registry.repository.url).load_artifact("x"), value)


def test_arrays_of_jax_are_pytrees(registry: ArtifactRegistry) -> None:
    registry.log_artifact("w", {"encoder": {"k": jnp.ones((3, 4))}, "head": jnp.zeros(2)}, handler="pytree")
    part = registry.load_artifact("w", leaves="encoder/**")
    assert list(part) == ["encoder"]
    assert part["encoder"]["k"].shape == (3, 4)


@pytest.mark.parametrize(
    ("handler", "read"),
    [
        ("json", lambda path: json.loads(path.read_text())),
        ("text", lambda path: json.loads(path.read_text())),
        ("pickle", lambda path: pickle.loads(path.read_bytes())),
        ("numpy", lambda path: np.load(path).tolist()),
        ("joblib", joblib.load),
        ("parquet", lambda path: pd.read_parquet(path)["a"].tolist()),
    ],
)
def test_downloaded_values_are_files_for_everybody(registry: ArtifactRegistry, handler: str, read: Any) -> None:
    values = {"text": "[1, 2, 3]", "parquet": pd.DataFrame({"a": [1, 2, 3]}), "numpy": np.array([1, 2, 3])}
    value: Any = values.get(handler, [1, 2, 3])
    registry.log_artifact("x", value, handler=handler)
    with registry.download_artifact("x") as folder:
        [path] = folder.iterdir()
        assert read(path) == [1, 2, 3]


def test_a_downloaded_pytree_is_body_and_manifest(registry: ArtifactRegistry) -> None:
    registry.log_artifact("x", {"w": np.arange(5, dtype="<i4")}, handler="pytree")
    with registry.download_artifact("x") as folder:
        assert sorted(path.name for path in folder.iterdir()) == ["x.pytree", "x.pytree.manifest"]
        assert (folder / "x.pytree").read_bytes() == np.arange(5, dtype="<i4").tobytes()


@pytest.mark.parametrize(
    ("handler", "value", "words"),
    [
        ("json", {1, 2}, "'json' cannot write this set, and nothing was saved: JSON has no type set"),
        ("text", 5, "'text' cannot write this int, and nothing was saved: it is not a string"),
        ("pickle", (i for i in range(3)), "'pickle' cannot write this generator"),
        ("joblib", sys._getframe(), "'joblib' cannot write this frame"),
        ("numpy", np.ones(3, ml_dtypes.bfloat16), "cannot hold bfloat16. Use the handler 'pytree'."),
        ("parquet", [1], "'parquet' cannot write this list"),
    ],
    ids=["json", "text", "pickle", "joblib", "numpy", "parquet"],
)
def test_what_cannot_be_written_logs_nothing(registry: ArtifactRegistry, handler: str, value: Any, words: str) -> None:
    with pytest.raises(UnserialisableValue, match=words):
        registry.log_artifact("x", value, handler=handler)
    assert not registry.exists("x")
    assert issubclass(UnserialisableValue, TypeError)


class Refuses:
    """An object that can be pickled, but not unpickled."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


class Color(StrEnum):
    RED = "red"


TABLE = pd.DataFrame({"a": [1, 2]})
NOTED = pd.DataFrame({"a": [1]})
NOTED.attrs["shape"] = (1, 2)
TIED = torch.nn.Parameter(torch.ones(2))
LISTS = pd.DataFrame({"a": pd.Series([[1, 2], [3]], dtype=pd.ArrowDtype(pa.list_(pa.int64())))})


@pytest.mark.parametrize(
    ("handler", "value", "words"),
    [
        ("json", {1: "x", "1": "y"}, "JSON turns the keys of a dict into strings"),
        ("json", {"a": {np.str_("x"): 1}}, "At a: JSON turns the keys of a dict into strings"),
        ("json", {"a": [(1, 2)]}, "At a/0: JSON turns tuple into list"),
        ("json", {"a": [Fraction(1, 2)]}, "At a/0: JSON has no type Fraction"),
        ("json", [Color.RED], "At 0: JSON has no type Color"),
        ("json", {"a": OrderedDict(b=1)}, "At a: JSON has no type OrderedDict"),
        ("text", Color.RED, "it is not a string"),
        ("joblib", [np.matrix([[1]])], "joblib would bring back a matrix as an array"),
        ("joblib", [np.array([1], ">i4")], "joblib would bring back an array of >i4 in the byte order of this machine"),
        ("numpy", np.ma.array([1.0, -999.0], mask=[False, True]), "cannot write this MaskedArray"),
        ("numpy", TABLE, "cannot write this DataFrame"),
        ("numpy", scipy.sparse.csr_matrix([[1, 0]]), "cannot write this csr_matrix"),
        ("numpy", np.matrix([[1]]), "cannot write this matrix"),
        ("numpy", np.array([Refuses()], object), "cannot write this ndarray"),
        ("parquet", TABLE.astype("category"), "would not bring back the same table"),
        ("parquet", pd.DataFrame({"a": [[1, 2], [3]]}), "would not bring back the same table"),
        ("parquet", pd.DataFrame({"a": [{"x": 1}, {"y": 2}]}), "would not bring back the same table"),
        ("parquet", LISTS, "would not bring back the same table"),
        ("parquet", NOTED, "would not bring back the same table"),
        ("arrow", NOTED, "would not bring back the same table"),
        ("parquet", pa.record_batch({"a": [1]}), "tables of pandas, polars or pyarrow, not RecordBatch"),
        ("parquet", pd.Series([1]), "tables of pandas, polars or pyarrow, not Series"),
        ("arrow", pl.Series([1]), "tables of pandas, polars or pyarrow, not Series"),
        ("joblib", {"a": Refuses()}, "joblib could not read what it wrote"),
        ("joblib", {"a": [torch.ones(2).to(torch.float8_e4m3fn)]}, "Use the handler 'pickle' or 'pytree'"),
        (
            "joblib",
            [torch.ones(2), torch.arange(4)[:2], TIED, TIED.detach()],
            "tensors that share memory, such as tied",
        ),
        ("joblib", {"a": {"b": [sys._getframe()]}}, "At a/b/0: cannot pickle"),
        ("pickle", {"a": {"b": [sys._getframe()]}}, "At a/b/0: cannot pickle"),
    ],
)
def test_what_a_handler_would_change_is_refused(
    registry: ArtifactRegistry, handler: str, value: Any, words: str
) -> None:
    with pytest.raises(UnserialisableValue, match=words):
        registry.log_artifact("x", value, handler=handler)
    assert not registry.exists("x")


@pytest.mark.parametrize("handler", ["json", "joblib", "parquet", "arrow", "numpy"])
def test_an_option_that_a_handler_does_not_take_is_named(registry: ArtifactRegistry, handler: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"'{handler}' does not take an option that you passed \(fname\)"):
        value: Any = TABLE if handler in ("parquet", "arrow") else [1] if handler == "json" else np.ones(1)
        registry.log_artifact("x", value, handler, fname="a.json")


def test_changes_can_be_allowed(registry: ArtifactRegistry) -> None:
    registry.log_artifact("x", {1: (2, 3)}, strict=False)
    assert registry.load_artifact("x") == {"1": [2, 3]}
    registry.log_artifact("x", pd.DataFrame({"a": [(1, 2)]}), "parquet", strict=False)
    assert list(registry.load_artifact("x")["a"][0]) == [1, 2]


@pytest.mark.parametrize(
    "value",
    [
        pa.Table.from_pandas(pd.DataFrame({"a": [1.0, float("nan")]}, index=[3, 4])),
        pa.table({"a": [[1.0, float("nan")], None]}).replace_schema_metadata({"key": "value"}),
        pl.DataFrame({"a": ["x", None], "b": [[1], [2, 3]]}, schema_overrides={"a": pl.Enum(["x", "y"])}),
    ],
    ids=["from pandas", "nested", "polars"],
)
def test_a_table_comes_back_as_it_was(registry: ArtifactRegistry, value: Any) -> None:
    ways: list[dict[str, Any]] = [{}, {"use_pyarrow": True}] if isinstance(value, pl.DataFrame) else [{}]
    for options in ways:
        registry.log_artifact("x", value, "parquet", **options)
        back = registry.load_artifact("x")
        assert type(back) is type(value)
        assert back.schema == value.schema
        assert repr(back.to_dict(as_series=False) if isinstance(back, pl.DataFrame) else back.to_pydict()) == repr(
            value.to_dict(as_series=False) if isinstance(value, pl.DataFrame) else value.to_pydict()
        )


def test_joblib_refuses_what_only_the_running_script_has(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from prefect_snapshots import ArtifactRegistry\n"
        "class Model: pass\n"
        "registry = ArtifactRegistry('memory://script')\n"
        "try: registry.log_artifact('m', {'model': Model()}, 'joblib')\n"
        "except TypeError as error: print(error)\n"
        "registry.log_artifact('m', {'model': Model()}, 'pickle')\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert "refers to Model of the running script" in done.stdout


def test_a_handler_can_be_registered(registry: ArtifactRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "_registered", {})
    backwards = FileHandler(
        "txt",
        dump=lambda value, allow_pickle: [value[::-1].encode()],
        load=lambda data, allow_pickle: str(data, "utf-8")[::-1],
    )
    register_handler("backwards", backwards)
    registry.log_artifact("x", "abc", "backwards")
    assert registry.load_artifact("x") == "abc"
    assert "backwards" in list_handlers()
    with pytest.raises(InvalidArgument, match="installed a handler 'json' already"):
        register_handler("json", backwards)


def npy_head(shape: tuple[int, ...]) -> bytes:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return head.getvalue()


def test_a_leaf_that_cannot_be_written_is_named(registry: ArtifactRegistry) -> None:
    with pytest.raises(UnserialisableLeaf, match="Leaf a/0: It cannot be pickled"):
        registry.log_artifact("x", {"a": [sys._getframe()]}, handler="pytree")
    assert not registry.exists("x")


def test_an_unknown_option_logs_nothing(registry: ArtifactRegistry) -> None:
    with pytest.raises(InvalidArgument, match="unexpected keyword argument 'indnt'"):
        registry.log_artifact("x", [1], indnt=4)
    assert not registry.exists("x")


HOSTILE = {
    "json": [b"[" * 100_000, b"1" * 5_000, b'{"a"', b"\0", b"\xff\xfe\x80", b""],
    "text": [b"\xff", b"\xed\xa0\x80"],
    "pickle": [b"", b"x", pickle.dumps([1])[:-3], b"cabsent_module\nname\n."],
    "joblib": [b"", b"x"],
    "numpy": [b"", b"\x93NUMPY", b"PK\3\4" + b"x" * 50, npy_head((2**60,)), npy_head((-1,)), npy_head((2**62, 2**62))],
    "parquet": [b"", b"PAR1" + b"x" * 100 + b"PAR1"],
    "arrow": [b"", b"ARROW1\0\0" + b"x" * 100 + b"ARROW1"],
}


@pytest.mark.parametrize("handler", HOSTILE)
def test_bytes_that_a_handler_cannot_read_are_named(
    registry: ArtifactRegistry, handler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever can write to a plain repository chooses what a library reads: its own errors would stop everybody."""
    with monkeypatch.context() as forging:
        forger = FileHandler(handler, dump=lambda data, allow_pickle: [data], load=lambda data, allow_pickle: data)
        forging.setitem(handlers._registered, handler, forger)
        for data in HOSTILE[handler]:
            registry.log_artifact("x", data, handler)
    careful = ArtifactRegistry(Repository(registry.repository.url, allow_pickle=False))
    for version, data in enumerate(HOSTILE[handler]):
        with pytest.raises(UnreadableValue, match=f"'{handler}' cannot read default/x:v{version}"):
            registry.load_artifact("x", version)
        if handler not in ("pickle", "joblib"):  # nobody should allow pickles to read what is damaged
            with pytest.raises(UnreadableValue):
                careful.load_artifact("x", version)
        with registry.download_artifact("x", version=version) as folder:
            assert next(folder.iterdir()).read_bytes() == data


def test_tensors_of_a_forged_file_do_not_multiply(registry: ArtifactRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"dtype": "U8", "shape": [1000], "data_offsets": [0, 1000]}
    header = json.dumps({str(number): entry for number in range(1000)}).encode()
    file = struct.pack("<Q", len(header)) + header + bytes(1000)
    with monkeypatch.context() as forging:
        forger = FileHandler("safetensors", dump=lambda data, allow_pickle: [data], load=lambda data, allow_pickle: 0)
        forging.setitem(handlers._registered, "safetensors", forger)
        registry.log_artifact("x", file, "safetensors")
    with pytest.raises(IntegrityError, match="overlap"):
        registry.load_artifact("x")
    assert registry.load_artifact("x", names=["7"])["7"].nbytes == 1000


def test_an_unknown_option_of_a_reader_is_refused(registry: ArtifactRegistry) -> None:
    registry.log_artifact("x", [1])
    with pytest.raises(InvalidArgument, match="unexpected keyword argument 'parse_flaot'"):
        registry.load_artifact("x", parse_flaot=str)


def test_an_unknown_handler_names_near_ones(registry: ArtifactRegistry) -> None:
    with pytest.raises(HandlerNotFound, match=r"No handler 'pikle' is installed or registered\. Did you mean 'pickle'"):
        registry.log_artifact("x", 1, handler="pikle")


def test_pickle_needs_permission(registry: ArtifactRegistry) -> None:
    for handler in ("pickle", "joblib"):
        registry.log_artifact(handler, [1], handler=handler)
    registry.log_artifact("numpy", np.array([1, "x"], dtype=object), handler="numpy")
    registry.log_artifact("tree", {"a": Path}, handler="pytree")
    careful = ArtifactRegistry(Repository(registry.repository.url, allow_pickle=False))
    for name in ("pickle", "joblib", "tree", "numpy"):
        with pytest.raises(PickleRefused):
            careful.load_artifact(name)
    for handler in ("pickle", "joblib"):
        with pytest.raises(PickleRefused):
            careful.log_artifact("new", [1], handler=handler)
    with pytest.raises(PickleRefused):
        careful.log_artifact("new", np.array([1, "x"], dtype=object), handler="numpy")
    assert not careful.exists("new")


def test_folders_are_not_loaded_and_values_are(registry: ArtifactRegistry) -> None:
    with registry.log_folder("folder") as folder:
        (folder / "a").write_text("a")
    with pytest.raises(InvalidArgument, match=r"is a folder of files\. Use download_artifact"):
        registry.load_artifact("folder")


def test_a_model_of_scikit_learn_remembers_what_it_needs(registry: ArtifactRegistry) -> None:
    from sklearn.linear_model import LinearRegression  # takes a second, for each process that collects the tests

    model = LinearRegression().fit(np.arange(4).reshape(4, 1), np.arange(4) * 2)
    registry.log_artifact("model", model, handler="joblib")
    environment = registry.get_artifact("model").environment
    assert set(environment) == {"python", "scikit-learn"}
    assert environment["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert registry.load_artifact("model").predict([[10]])[0] == pytest.approx(20)


# --- handlers of other packages --------------------------------------------------------------------------------------


@pytest.fixture
def their_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that brings two handlers, and one that cannot be imported."""
    site = tmp_path / "site"
    info = site / "theirs-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[prefect_snapshots.handlers]\ncsv = theirs:CSV\nold = theirs:OLD\nbroken = theirs_missing:X\n"
    )
    (site / "theirs.py").write_text(
        "from prefect_snapshots.artifacts import FileHandler\n"
        "def dump(rows, allow_pickle, sep=','): return ['\\n'.join(sep.join(row) for row in rows).encode()]\n"
        "def load(data, allow_pickle, sep=','): return [x.split(sep) for x in str(data, 'utf-8').splitlines()]\n"
        "CSV = FileHandler('csv', dump, load)\n"
        "OLD = FileHandler('csv', dump, load, lambda value: {'python': '2.7', 'theirs': '0.9', 'gone': '1'})\n"
    )
    monkeypatch.syspath_prepend(site)
    return site


@pytest.mark.usefixtures("their_package")
def test_other_packages_bring_handlers(registry: ArtifactRegistry) -> None:
    registry.log_artifact("rows", [["a", "b"], ["c", "d"]], handler="csv", sep=";")
    assert registry.load_artifact("rows", sep=";") == [["a", "b"], ["c", "d"]]
    with registry.download_artifact("rows") as folder:
        assert (folder / "rows.csv").read_text() == "a;b\nc;d"
    assert {"csv", "json", "pytree"} <= set(list_handlers())
    with pytest.raises(MissingDependency, match="The handler 'broken' cannot be imported"):
        registry.log_artifact("rows", [], handler="broken")


@pytest.mark.usefixtures("their_package")
def test_another_environment_is_told_and_can_be_overruled(registry: ArtifactRegistry) -> None:
    registry.log_artifact("rows", [["a"]], handler="old")
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    words = rf"python 2.7 \(here: {here}\), theirs 0.9 \(here: 1.0\), gone 1 \(here: none\).*validate=False"
    with pytest.raises(EnvironmentMismatch, match=words):
        registry.load_artifact("rows")
    assert registry.load_artifact("rows", validate=False) == [["a"]]


def test_our_handlers_are_handlers() -> None:
    handlers: list[Handler] = [JSON, PYTREE]
    assert all(isinstance(handler.suffix, str) for handler in handlers)


class TestJson(HandlerContract):
    name = "json"

    @pytest.fixture
    def values(self) -> list[Any]:
        return [{"a": [1, 2.5, None]}, "text", []]

    @pytest.fixture
    def refused(self) -> list[Any]:
        return [object(), {1, 2}]


class TestText(HandlerContract):
    name = "text"

    @pytest.fixture
    def values(self) -> list[Any]:
        return ["one\ntwo", "größer", "x" * 50_000]

    @pytest.fixture
    def refused(self) -> list[Any]:
        return [b"bytes", 5]


class TestPickle(HandlerContract):
    name = "pickle"
    needs_pickle = True

    @pytest.fixture
    def values(self) -> list[Any]:
        return [{"a": {1, 2}}, 1j]


class TestJoblib(HandlerContract):
    name = "joblib"
    needs_pickle = True

    @pytest.fixture
    def values(self) -> list[Any]:
        return [{"a": [1, 2]}, "b"]


class TestNumpy(HandlerContract):
    name = "numpy"

    def same(self, one: Any, other: Any) -> bool:
        return bool(one.dtype == other.dtype and np.array_equal(one, other))

    @pytest.fixture
    def values(self) -> list[Any]:
        return [np.arange(12.0).reshape(3, 4), np.zeros((0, 3), np.int8)]


class TestSafetensors(HandlerContract):
    name = "safetensors"

    def same(self, one: Any, other: Any) -> bool:
        return list(one) == list(other) and all(
            type(one[name]) is type(other[name])
            and one[name].dtype == other[name].dtype
            and one[name].shape == other[name].shape
            and bool((one[name] == other[name]).all())
            for name in one
        )

    @pytest.fixture
    def values(self) -> list[Any]:
        return [
            {"b": np.arange(6.0).reshape(2, 3).T, "a": np.ones((), ml_dtypes.bfloat16), "": np.array([True])},
            {"weight": torch.arange(6.0).reshape(2, 3).T, "low": torch.ones(3).to(torch.float8_e8m0fnu)},
            {"weight": jnp.ones((2, 3), jnp.bfloat16), "none": jnp.zeros((0, 2), jnp.int8)},
            {},
        ]

    @pytest.fixture
    def refused(self) -> list[Any]:
        tied = torch.ones(3)
        return [
            [np.ones(2)],
            {1: np.ones(2)},
            {"__metadata__": np.ones(2)},
            {"a": np.ones(2), "b": torch.ones(2)},
            {"a": np.array(["text"])},
            {"a": np.ma.array([1.0], mask=[True])},
            {"a": torch.ones(2, requires_grad=True)},
            {"a": torch.ones(2).to_sparse()},
            {"a": tied, "b": tied},
            {"a": tied, "b": tied[1:]},
            {"a": jnp.float32(1) * 1.0, "b": jnp.asarray(1.0, copy=True) + 0, "c": jax.random.key(0)},
        ]


def onnx_model(*, weight: float = 1.0, place: str = "") -> onnx.ModelProto:
    """A model that adds a weight, which can be said to be in another file, within a graph of a graph."""
    made = onnx.helper
    tensor = onnx.numpy_helper.from_array(np.full(3, weight, np.float32), "weight")
    if place:
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=place)
    x, y = (made.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [3]) for name in "xy")
    inner = made.make_graph([made.make_node("Add", ["x", "weight"], ["y"])], "inner", [], [y], [tensor])
    node = made.make_node("If", ["yes"], ["y"], then_branch=inner, else_branch=inner)
    return made.make_model(made.make_graph([node], "outer", [x], [y]))


class TestOnnx(HandlerContract):
    name = "onnx"

    @pytest.fixture
    def values(self) -> list[Any]:
        return [onnx_model(), onnx_model(weight=2.0)]

    @pytest.fixture
    def refused(self) -> list[Any]:
        return [onnx_model().graph, b"bytes", onnx_model(place="weights.bin")]


def test_an_onnx_model_is_a_file_for_others_and_names_none_itself(registry: ArtifactRegistry, tmp_path: Path) -> None:
    registry.log_artifact("model", onnx_model(), "onnx")
    folder = registry.download_artifact("model", to=tmp_path / "model").path
    assert onnx.load(folder / "model.onnx") == onnx_model()
    forged = onnx_model(place="/etc/passwd").SerializeToString()
    with pytest.raises(ValueError, match="'weight' is in another file"):
        find_handler("onnx").load(memoryview(forged), allow_pickle=False)  # type: ignore[attr-defined]


def test_safetensors_are_what_the_library_reads_and_writes(registry: ArtifactRegistry, tmp_path: Path) -> None:
    value = {"weight": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "bias": np.ones(2, np.float16)}
    registry.log_artifact("weights", value, "safetensors")
    with registry.download_artifact("weights") as folder:
        read = safetensors.numpy.load_file(folder / "weights.safetensors")
    assert all((read[name] == value[name]).all() and read[name].dtype == value[name].dtype for name in value)
    written = safetensors.torch.save({"a": torch.arange(3), "b": torch.ones(2, dtype=torch.bfloat16)}, {"format": "pt"})
    handler = find_handler("safetensors")
    back = handler.load(memoryview(bytearray(written)), allow_pickle=False)  # type: ignore[attr-defined]
    assert back["b"].dtype == torch.bfloat16
    assert back["a"].tolist() == [0, 1, 2]
    assert list(registry.load_artifact("weights", names=["bias"])) == ["bias"]
    with pytest.raises(ArtifactNotFound, match=r"has no tensor 'wieght'\. Did you mean 'weight'"):
        registry.load_artifact("weights", names=["wieght"])


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b"[]",
        b'{"a": 1}',
        b'{"__metadata__": 3}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 9]}}',
        b'{"a": {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}}',
        b'{"a": {"dtype": "F32", "shape": [true, 2], "data_offsets": [0, 8]}}',
        b'{"a": {"dtype": "O", "shape": [1], "data_offsets": [0, 8]}}',
        b'{"a": {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}}',
        b'{"a": {"dtype": "F32", "shape": 2, "data_offsets": [8, 16]}}',
    ],
)
def test_a_safetensors_header_that_lies_is_damage(header: bytes) -> None:
    data = len(header).to_bytes(8, "little") + header + bytes(8)
    with pytest.raises(IntegrityError):
        find_handler("safetensors").load(memoryview(bytearray(data)), allow_pickle=False)  # type: ignore[attr-defined]
    with pytest.raises(IntegrityError, match="truncated"):
        find_handler("safetensors").load(memoryview(data[:5]), allow_pickle=False)  # type: ignore[attr-defined]


def test_a_safetensors_header_longer_than_any_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    data = memoryview(bytearray((200).to_bytes(8, "little") + b"{}" + b" " * 198))
    handler: Any = find_handler("safetensors")
    assert handler.load(data, allow_pickle=False) == {}
    monkeypatch.setattr(safetensors_files, "_LONGEST", 199)
    with pytest.raises(IntegrityError):
        handler.load(data, allow_pickle=False)


class TestArrow(HandlerContract):
    name = "arrow"

    def same(self, one: Any, other: Any) -> bool:
        return type(one) is type(other) and bool(one.equals(other))

    @pytest.fixture
    def values(self) -> list[Any]:
        table = pa.table({"a": [1, None], "nested": [[1], []]}, metadata={"of": "the user"})
        return [
            pd.DataFrame({"a": [1, 2], "b": ["x", None]}, index=pd.date_range("2026", periods=2, freq="D")),
            pl.DataFrame({"a": [1, None], "kind": ["x", "y"]}, schema_overrides={"kind": pl.Categorical}),
            table,
            pl.DataFrame(),
        ]

    @pytest.fixture
    def refused(self) -> list[Any]:
        return [[1, 2], pa.array([1]), pd.Series([1]), pd.DataFrame({"a": [1, "x"]}), pl.Series([1])]


def test_columns_of_an_arrow_file_are_read_alone(registry: ArtifactRegistry) -> None:
    frame = pd.DataFrame({"a": [1], "b": [2]}, index=pd.Index([7], name="key"))
    registry.log_artifact("pandas", frame, "arrow")
    assert registry.load_artifact("pandas", columns=["b"]).equals(frame[["b"]])
    registry.log_artifact("polars", pl.DataFrame({"a": [1], "b": [2]}), "arrow")
    assert registry.load_artifact("polars", columns=["b"]).equals(pl.DataFrame({"b": [2]}))
    registry.log_artifact("table", pa.table({"a": [1], "b": [2]}), "arrow")
    assert registry.load_artifact("table", columns=["b"]).equals(pa.table({"b": [2]}))
    with registry.download_artifact("table") as folder:
        assert pl.read_ipc(folder / "table.arrow").columns == ["a", "b"]


class TestReference(HandlerContract):
    name = "reference"

    @pytest.fixture
    def values(self, tmp_path: Path) -> list[Any]:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "a.csv").write_text("a")
        return [
            refer(tmp_path / "elsewhere", None, checksum=False),
            refer(tmp_path / "elsewhere" / "a.csv", None, checksum=True),
        ]

    @pytest.fixture
    def refused(self) -> list[Any]:
        return ["file:///etc/passwd", {}]


def test_a_reference_notices_every_change(registry: ArtifactRegistry, tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    (folder / "deep").mkdir(parents=True)
    changes: dict[str, Callable[[Path], Any]] = {
        "it is gone": lambda path: path.unlink(),
        "it has 6 bytes, not 3": lambda path: path.write_bytes(b"longer"),
        "its modified is .* not": lambda path: path.write_bytes(b"two"),
    }
    for how, change in changes.items():
        file = folder / "deep" / "x.bin"
        file.write_bytes(b"one")
        os.utime(file, (1_000_000, 1_000_000))
        registry.log_reference("raw", folder)
        (folder / "new").write_text("a file that was not there does not count")
        reference = registry.load_artifact("raw")
        with reference.open("deep/x.bin") as opened:
            assert opened.read() == b"one"
        change(file)
        with pytest.raises(ReferenceChanged, match=f"deep/x.bin has changed since it was logged: {how}"):
            registry.load_artifact("raw")
        assert registry.load_artifact("raw", verify=False).files == reference.files
        (folder / "new").unlink()


def test_checksums_decide_whether_a_reference_has_changed(registry: ArtifactRegistry, tmp_path: Path) -> None:
    file = tmp_path / "x.bin"
    file.write_bytes(b"one")
    registry.log_reference("raw", file, checksum=True)
    os.utime(file, (1_000_000, 1_000_000))
    reference = registry.load_artifact("raw")
    modified = os.stat(file)
    file.write_bytes(b"two")
    with pytest.raises(ReferenceChanged, match="its content differs"):
        registry.load_artifact("raw")
    registry.log_reference("raw", file, checksum=True)
    reference = registry.load_artifact("raw")
    file.write_bytes(b"six")
    os.utime(file, ns=(modified.st_atime_ns, int(float(reference.files[0].checks["modified"]) * 1e9)))
    with pytest.raises(ReferenceChanged, match="its content differs"):
        reference.verify(checksum=True)
    with pytest.raises(InvalidArgument, match="has no file 'other'"), reference.open("other"):
        pass


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:secret@bucket/x",
        "https://host/x?token=secret",
        "simplecache::s3://bucket/x",
        "zip://a.txt",
        "reference://x",
        "file:///a\nb",
        "file://~/x",
        "file://data/x",
        "file://localhost/x",
    ],
)
def test_urls_with_secrets_or_of_other_kinds_are_no_references(registry: ArtifactRegistry, url: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        registry.log_reference("raw", url)
    assert "secret@" not in str(refused.value)
    assert "=secret" not in str(refused.value)
    assert not registry.exists("raw")
    forged = json.dumps({"url": url, "files": []}).encode()
    with pytest.raises((IntegrityError, InvalidArgument)):
        find_handler("reference").load(memoryview(bytearray(forged)), allow_pickle=False)  # type: ignore[attr-defined]


@pytest.mark.parametrize("place", [5, b"/data", ["/data", 5], {"/data": 1}.items()])
def test_what_is_no_place_is_no_place_of_a_reference(registry: ArtifactRegistry, tmp_path: Path, place: Any) -> None:
    (tmp_path / "file").write_text("x")
    registry.log_reference("raw", tmp_path / "file")
    with pytest.raises(InvalidArgument, match="needs a path or a URL, not"):
        registry.load_artifact("raw", within=place)
    with pytest.raises(InvalidArgument, match="needs a path or a URL, not"):
        registry.log_reference("raw", place)


def test_a_reference_asks_no_url_that_was_not_allowed(tmp_path: Path) -> None:
    """A writer who is not trusted logs a reference, and others load it."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append(self.path)
            target = moved.get(self.path)
            self.send_response(200 if target is None else 302)
            if target is not None:
                self.send_header("Location", target)
            self.send_header("Content-Length", "3")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(b"abc")

        do_GET = do_HEAD

        def log_message(self, *_: object) -> None:
            pass

    moved: dict[str, str] = {}
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        host = f"http://127.0.0.1:{server.server_port}"
        writer = ArtifactRegistry(tmp_path / "repository")
        reader = ArtifactRegistry(Repository(tmp_path / "repository", allow_pickle=False))
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "link").symlink_to("/etc")
        attacks: list[tuple[str, list[Any]]] = [
            (f"{host}/latest/meta-data", [None, f"{host}/late", f"{host}/latest/meta-data/x", "s3://bucket", []]),
            (f"{host}/data/../latest", [None, f"{host}/data"]),
            *(
                (f"{host}/data/{up}/latest", [None, f"{host}/data"])
                for up in ("%2e%2e", "%25252e%25252e", "..;x", "x%5c..", ".%09.")
            ),
            (f"file://{tmp_path}/data/link", [None, tmp_path / "data"]),
        ]
        for url, places in attacks:
            writer.log_artifact("raw", FileReference(url, (ReferencedFile("", 3, {}),)), "reference")
            for within in places:
                with pytest.raises(ReferenceRefused, match=r"No request was sent"):
                    reader.load_artifact("raw", within=within)
                if within is not None:
                    with pytest.raises(ReferenceRefused):
                        writer.load_artifact("raw", within=within)
            assert reader.load_artifact("raw", verify=False).url == url
        assert asked == []
        writer.log_artifact("raw", FileReference(f"{host}/data/x", (ReferencedFile("", 3, {}),)), "reference")
        assert reader.load_artifact("raw", within=["s3://bucket", f"{host}/data/"]).size == 3
        assert set(asked) == {"/data/x"}
        # The server of an allowed URL leads to others: the client follows only if they are allowed, too.
        other = host.replace("127.0.0.1", "localhost")
        for target in ("/latest/x", "../latest/x", f"{other}/data/x", "/data/%2e%2e/latest/x", "//localhost/data/x"):
            asked.clear()
            moved["/data/x"] = target
            with pytest.raises(ReferenceRefused, match="No request was sent there"):
                reader.load_artifact("raw", within=f"{host}/data")
            reference = reader.load_artifact("raw", within=f"{host}/data", verify=False)
            with pytest.raises(ReferenceRefused), reference.open() as file:
                file.read()
            assert set(asked) == {"/data/x"}
        moved["/data/x"] = "/data/y?signature=1"
        assert reader.load_artifact("raw", within=[f"{host}/data", other]).size == 3
        assert "/data/y?signature=1" in asked
        moved["/data/x"] = "/latest/x"
        assert writer.load_artifact("raw").size == 3, "a user who trusts the writers is not limited"
        server.shutdown()
        thread.join()


def test_a_host_that_does_not_answer_is_not_said_to_have_no_file(registry: ArtifactRegistry) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(int(self.path[1:]))

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        host = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(ObjectMissing, match="There is nothing at"):
            registry.log_reference("raw", f"{host}/404")
        for status in (403, 503):
            with pytest.raises(StorageError, match=f"cannot be read: {status}"):
                registry.log_reference("raw", f"{host}/{status}")
        server.shutdown()
        thread.join()
    with pytest.raises(StorageError, match="cannot be read: Cannot connect"):
        registry.log_reference("raw", f"{host}/404")
    with pytest.raises(InvalidArgument, match=r"did you mean s3://bucket/x\?"):
        registry.log_reference("raw", "s3:/bucket/x")


def test_a_forged_path_of_a_reference_is_refused() -> None:
    forged = json.dumps({"url": "file:///data", "files": [{"path": "../x", "size": 1, "checks": {}}]}).encode()
    with pytest.raises((IntegrityError, InvalidName)):
        find_handler("reference").load(memoryview(bytearray(forged)), allow_pickle=False)  # type: ignore[attr-defined]


class TestPytree(HandlerContract):
    name = "pytree"

    @pytest.fixture
    def values(self) -> list[Any]:
        return [{"a": [1, 2.5, (3, "x")]}, [True, None]]


def test_importing_artifacts_imports_none_of_what_handlers_need() -> None:
    code = (
        "import prefect_snapshots.artifacts, sys; from prefect_snapshots.artifacts.handlers import find_handler; "
        "[find_handler(name) for name in ('json', 'pytree', 'joblib', 'parquet', 'arrow', 'safetensors', 'onnx')]; "
        "print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"jax", "torch", "joblib", "onnx", "pyarrow", "pandas", "polars", "prefect"} & set(loaded)


def test_damage_of_a_value_is_named(registry: ArtifactRegistry, tmp_path: Path) -> None:
    registry.log_artifact("x", np.random.default_rng(0).random(100_000), handler="numpy")
    [pack] = [path for path in (tmp_path / "repository" / "packs").rglob("*") if path.is_file()]
    data = bytearray(pack.read_bytes())
    data[100_000] ^= 1
    pack.chmod(0o644)
    pack.write_bytes(data)
    with pytest.raises(DamagedVersion, match="default/x:v0"):
        ArtifactRegistry(registry.repository.url).load_artifact("x")


# --- snapshots become artifacts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 300_000])
def test_a_snapshot_becomes_an_artifact_without_a_copy(registry: ArtifactRegistry, size: int) -> None:
    manager = SnapshotManager(registry.repository, name="training")
    value = {"w": np.random.default_rng(0).random(size), "step": 3}
    manager.save_snapshot(value, "best", metadata={"loss": 0.25})
    version = manager.promote("best", registry, "model")
    assert version.version == "v0"
    info = registry.get_artifact("model")
    assert info.metadata == {"loss": 0.25}
    assert info.source is not None
    assert (info.source["snapshot"], info.source["name"]) == ("best", "training")
    assert info.written in (0, info.size if size == 10 else 0)
    np.testing.assert_array_equal(registry.load_artifact("model")["w"], value["w"])
    assert manager.promote("best", registry, "model") == version, "it is that already"
    manager.remove_snapshot("best")
    registry.repository.prune(grace=0)
    np.testing.assert_array_equal(registry.load_artifact("model")["w"], value["w"])


def test_a_snapshot_goes_into_another_repository_and_from_memory(registry: ArtifactRegistry, tmp_path: Path) -> None:
    value = {"w": np.random.default_rng(0).random(300_000)}
    for manager in (SnapshotManager(Repository(tmp_path / "other", password="secret")), SnapshotManager()):
        manager.save_snapshot(value, "best", metadata={"loss": 0.25})
        manager.promote("best", registry, "model")
        np.testing.assert_array_equal(registry.load_artifact("model")["w"], value["w"])
        assert registry.get_artifact_metadata("model") == {"loss": 0.25}
    assert len(registry.list_versions("model")) == 2
    assert registry.get_artifact("model").written < 10_000, "the same bytes"


def test_file_handlers_are_made_of_two_functions() -> None:
    handler = FileHandler("bin", lambda value, allow_pickle: [value], lambda data, allow_pickle: bytes(data))
    manifest, buffers = handler.write(b"abc", allow_pickle=False)
    assert (manifest, list(buffers)) == (b"", [b"abc"])
    assert handler.environment(b"") == {}
    assert io.BytesIO(buffers[0]).read() == b"abc"
