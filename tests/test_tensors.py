"""PyTorch tensors come back as they were, without pickle: every dtype, layout and view, with what they share.

A manifest that was tampered with is a named error before PyTorch sees memory that does not exist.
"""

from __future__ import annotations

import contextlib
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from prefect_snapshots.errors import (
    IntegrityError,
    LeafError,
    SnapshotsError,
    StructureMismatch,
    UnserialisableLeaf,
)
from prefect_snapshots.values import MemoryBody, decode, decode_leaves, describe, encode
from prefect_snapshots.values.pickling import dump, load

pytestmark = pytest.mark.filterwarnings(
    "ignore:ComplexHalf support", "ignore:Sparse ", "ignore:The PyTorch API of nested"
)

DTYPES = sorted(name for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype))
PLAIN = [name for name in DTYPES if not name.startswith(("q", "bit")) and getattr(torch, name).itemsize]


def restored(value: Any, **options: Any) -> Any:
    encoded = encode(value, allow_pickle=False)
    return decode(encoded.manifest, MemoryBody(b"".join(encoded.buffers)), allow_pickle=False, **options)


def size(value: Any) -> int:
    return sum(map(len, encode(value, allow_pickle=False).buffers))


def raw(tensor: Any) -> bytes:
    """The bits of the elements in order."""
    dense = tensor.detach().resolve_conj().resolve_neg().contiguous()
    return bytes(dense.reshape(-1).view(torch.uint8).numpy()) if dense.numel() else b""


def same(a: Any, b: Any) -> bool:
    """Equal in class, dtype, layout, flags and bits."""
    told = [
        (type(one), one.dtype, one.shape, one.layout, one.requires_grad, one.is_quantized, one.device) for one in (a, b)
    ]
    if told[0] != told[1]:
        return False
    if a.is_meta:
        return bool(a.stride() == b.stride())
    if a.is_quantized:
        return repr(a) == repr(b) and torch.equal(a.int_repr(), b.int_repr())
    if a.layout is torch.sparse_coo:
        parts = [(one._indices(), one._values()) for one in (a, b)]
        return a.is_coalesced() == b.is_coalesced() and all(map(same, *parts))
    if a.layout in (torch.sparse_csr, torch.sparse_bsr):
        return all(map(same, *((one.crow_indices(), one.col_indices(), one.values()) for one in (a, b))))
    if a.layout in (torch.sparse_csc, torch.sparse_bsc):
        return all(map(same, *((one.ccol_indices(), one.row_indices(), one.values()) for one in (a, b))))
    return raw(a) == raw(b)


@pytest.mark.parametrize("name", PLAIN)
def test_tensors_of_every_dtype(name: str) -> None:
    dtype = getattr(torch, name)
    elements = torch.arange(64, dtype=torch.uint8)
    tensor = (elements % 2).bool() if dtype is torch.bool else elements.view(dtype)
    assert same(restored(tensor), tensor)
    assert same(restored(tensor[:0]), tensor[:0])
    assert describe(encode(tensor).manifest)[0].dtype == str(dtype).removeprefix("torch.")
    [stream, *buffers] = dump({"in": [tensor]})
    assert same(load(stream, buffers, allow_pickle=True)["in"][0], tensor)
    alone = dump(tensor, out_of_band=False)
    assert alone == dump(restored(tensor), out_of_band=False)
    assert same(pickle.loads(*alone), tensor)  # any program with PyTorch can read it


def scaled(per_channel: bool, dtype: Any) -> Any:
    tensor = torch.arange(6.0).reshape(2, 3)
    if not per_channel:
        return torch.quantize_per_tensor(tensor, 0.1, 2, dtype)
    return torch.quantize_per_channel(tensor, torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0, 1, 2]), 1, dtype)


MADE: dict[str, Callable[[], Any]] = {
    "no dimensions": lambda: torch.tensor(1.5),
    "no elements": lambda: torch.ones(2, 0, 3),
    "transposed": lambda: torch.arange(6).reshape(2, 3).T,
    "view with gaps": lambda: torch.arange(30)[3::7],
    "expanded": lambda: torch.ones(1).expand(5, 7),
    "windows": lambda: torch.arange(9).unfold(0, 3, 1),
    "conjugated": lambda: torch.tensor([1 + 2j, 3 - 0j]).conj(),
    "conjugated with gaps": lambda: torch.tensor([1 + 2j, 3, 5 + 1j]).conj()[::2],
    "negated": lambda: torch.tensor([1 + 2j, 3]).conj().imag,
    "not a number": lambda: torch.tensor([float("nan"), -0.0, float("inf")]),
    "parameter": lambda: nn.Parameter(torch.ones(2)),
    "frozen parameter": lambda: nn.Parameter(torch.ones(2, dtype=torch.int8), requires_grad=False),
    "needs grad": lambda: torch.ones(2, requires_grad=True),
    "meta": lambda: torch.ones(2, 3, device="meta").T,
    "meta parameter": lambda: nn.Parameter(torch.ones(2, device="meta")),
    "coo": lambda: torch.eye(3).to_sparse(),
    "coo of rows": lambda: torch.eye(3).to_sparse(1),
    "coo with duplicates": lambda: torch.sparse_coo_tensor(torch.tensor([[1, 1, 0]]), torch.tensor([1.0, 2, 3]), (4,)),
    "coo without elements": lambda: torch.zeros(3, 2).to_sparse(),
    "coo needs grad": lambda: torch.eye(2).to_sparse().requires_grad_(),
    "csr": lambda: torch.eye(3, dtype=torch.float64).to_sparse_csr(),
    "csc": lambda: torch.eye(3).to_sparse_csc(),
    "bsr": lambda: torch.eye(4).to_sparse_bsr((2, 2)),
    "bsc": lambda: torch.eye(4).to_sparse_bsc((2, 1)),
    **{
        f"{dtype}, {per_channel=}": partial(scaled, per_channel, dtype)
        for per_channel in (False, True)
        for dtype in (torch.qint8, torch.quint8, torch.qint32)
    },
}


@pytest.mark.parametrize("name", MADE)
def test_tensors_of_every_kind(name: str) -> None:
    tensor = MADE[name]()
    for found in (restored(tensor), restored({"a": 1, "b": [tensor]})["b"][0], restored([tensor], like=[tensor])[0]):
        assert same(found, tensor)
    again = encode(MADE[name]())
    assert encode(tensor).manifest == again.manifest
    assert encode(tensor).buffers == again.buffers


def test_a_tensor_that_a_computation_gave_comes_back_as_a_leaf() -> None:
    found = restored(torch.ones(2, requires_grad=True) * 2)
    assert found.is_leaf
    assert found.requires_grad


def test_a_view_needs_only_its_own_bytes() -> None:
    large = torch.zeros(1_000_000)
    assert size(large[5:8]) == 12
    assert size(large[::1000]) == 4000
    assert size([large[:3], large[-3:]]) == 24
    assert size(torch.ones(1).expand(1000)) == 4


def test_what_tensors_share_is_stored_once_and_shared_again() -> None:
    weight, base = nn.Parameter(torch.ones(3)), torch.arange(10.0)
    value = {"tied": [weight, weight], "alias": weight.detach(), "a": base[1:5], "b": base[3:9], "bits": base[4:6]}
    value["bits"] = base[4:6].view(torch.int32)
    assert size(value) == 12 + 32
    found = restored(value)
    assert found["tied"][0] is found["tied"][1]
    with torch.no_grad():
        found["alias"][0] = 7
        found["b"][0] = 8
    assert found["tied"][0][0] == 7
    assert found["a"].tolist() == [1, 2, 8, 4]
    found["bits"][0] = 0
    assert found["b"].tolist() == [8, 0, 5, 6, 7, 8]


def test_a_pickle_holds_only_the_memory_that_tensors_use() -> None:
    base, doubles = torch.arange(1_000_000.0), torch.arange(2**17, dtype=torch.float64)
    value = {
        "view": base[5:8],
        "overlap": nn.Parameter(base[7:9]),
        "strided": doubles[1:9:2],
        "none": torch.arange(2**20)[3:3],
        "newer": torch.zeros(2**20).to(torch.float8_e4m3fn)[9:11],
        "sparse": torch.eye(3).to_sparse(),
        "lazy": nn.LazyLinear(3),
    }
    stream, *memory = dump(value)
    assert len(stream) + sum(map(len, memory)) < 10_000
    found = load(stream, memory, allow_pickle=True)
    assert found["view"].tolist() == [5, 6, 7]
    assert found["strided"].tolist() == [1, 3, 5, 7]
    assert found["none"].shape == (0,)
    assert found["newer"].float().tolist() == [0, 0]
    assert found["sparse"].to_dense().tolist() == torch.eye(3).tolist()
    assert isinstance(found["lazy"].weight, nn.UninitializedParameter)
    found["overlap"].data[0] = -1
    assert found["view"][2] == -1


def test_tied_weights_of_a_model_stay_tied() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    found = restored(dict(model.state_dict(keep_vars=True)))
    assert found["0.weight"] is found["1.weight"]
    assert size(dict(model.state_dict())) == 4 * (9 + 3 + 3)


def test_a_part_reads_only_its_own_bytes() -> None:
    shared = torch.ones(3)
    encoded = encode({"a": torch.arange(100), "b": shared, "again": shared, "view": shared[1:]})
    body = MemoryBody(b"\0" * 800 + torch.ones(3).numpy().tobytes())
    for path, expected in ("b", [1, 1, 1]), ("again", [1, 1, 1]), ("view", [1, 1]):
        assert decode(encoded.manifest, body, leaves=path)[path].tolist() == expected
        assert decode_leaves(encoded.manifest, body, [path])[path].tolist() == expected


def test_like_says_which_dtype_and_shape_are_expected() -> None:
    with pytest.raises(StructureMismatch, match=r"like= has torch int64\[3\], but torch float32\[2\] is stored"):
        restored({"a": torch.ones(2)}, like={"a": torch.ones(3, dtype=torch.int64)})
    with pytest.raises(StructureMismatch, match=r"like= has torch float32\[2\], but float is stored"):
        restored({"a": 1.0}, like={"a": torch.ones(2)})
    assert restored({"a": torch.ones(2)}, like={"a": torch.ones(2, device="meta")})["a"].is_meta


def test_tensors_are_cast_to_the_dtypes_of_like() -> None:
    weight = torch.nn.Parameter(torch.arange(3.0))
    like = {"a": torch.zeros(3, dtype=torch.bfloat16), "b": torch.zeros(3, dtype=torch.bfloat16)}
    found = restored({"a": weight, "b": weight}, like=like, cast=True)
    assert found["a"] is found["b"]
    assert isinstance(found["a"], torch.nn.Parameter)
    assert (found["a"].dtype, found["a"].is_leaf, found["a"].tolist()) == (torch.bfloat16, True, [0, 1, 2])
    numbers = torch.tensor([1, 300])
    assert restored([numbers], like=[torch.zeros(2, dtype=torch.int16)], cast=True)[0].tolist() == [1, 300]
    with pytest.raises(LeafError, match="Leaf 0: Not all of its numbers fit into int8"):
        restored([numbers], like=[torch.zeros(2, dtype=torch.int8)], cast=True)
    quantised = torch.quantize_per_tensor(torch.arange(3.0), 0.5, 1, torch.qint8)
    for stored, other in (torch.ones(2), torch.zeros(2, dtype=torch.int64)), (quantised, torch.zeros(3)):
        with pytest.raises(StructureMismatch, match="Leaf 0: like= has torch"):
            restored([stored], like=[other], cast=True)


def test_tensors_that_only_their_own_code_can_store_need_pickle() -> None:
    class Sub(torch.Tensor):
        pass

    buffer = nn.Buffer(torch.ones(2).to(torch.uint16))
    nested = torch.nested.nested_tensor([torch.ones(1), torch.ones(2)])
    for tensor in (torch.ones(2).as_subclass(Sub), buffer, nested):
        with pytest.raises(UnserialisableLeaf, match=r"Leaf a/0: Only pickle could store this"):
            encode({"a": [tensor]}, allow_pickle=False)
    encoded = encode(buffer)
    found = decode(encoded.manifest, MemoryBody(b"".join(encoded.buffers)))
    assert raw(found) == raw(buffer)
    assert vars(found) == vars(buffer)


def test_tensors_without_elements_at_hand_are_named() -> None:
    found: list[UnserialisableLeaf] = []

    def save(tensor: Any) -> Any:
        with pytest.raises(UnserialisableLeaf, match="Leaf x: It is traced or transformed") as caught:
            encode({"x": tensor})
        found.append(caught.value)
        return tensor

    torch.vmap(save)(torch.ones(2))
    assert len(found) == 1
    freed = torch.ones(2)
    freed.untyped_storage().resize_(0)
    with pytest.raises(UnserialisableLeaf, match="Its memory was freed"):
        encode(freed)


def test_pytorch_is_imported_only_to_read_a_tensor() -> None:
    encoded = encode({"t": torch.ones(2), "n": 1})
    script = f"""
import sys
from prefect_snapshots.errors import MissingDependency
from prefect_snapshots.values import MemoryBody, decode, describe, encode
manifest, body = {encoded.manifest!r}, MemoryBody({b"".join(encoded.buffers)!r})
encode({{"a": [1, object]}})
assert [(leaf.dtype, leaf.shape) for leaf in describe(manifest)] == [("float32", (2,)), (None, None)]
assert decode(manifest, body, leaves="n") == {{"n": 1}}
assert "torch" not in sys.modules
sys.modules["torch"] = None
try:
    decode(manifest, body)
except MissingDependency as error:
    assert "prefect-snapshots[torch]" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


# --- hostile manifests ----------------------------------------------------------------------------------------------

GOOD = ["float32", 0, 0, [2], [1]]
INDEX = ["int64", 0, 0, [1, 1], [1, 1]]


@pytest.mark.parametrize(
    "root",
    [
        [56, [8], 0, 0, [], ["float32", 0, 0, [3], [1]]],
        [56, [8], 0, 0, [], ["float32", 0, 1, [2], [1]]],
        [56, [8], 0, 0, [], ["float32", 0, 0, [2], [2]]],
        [56, [8], 0, 0, [], ["float32", 0, 0, [2], [-1]]],
        [56, [8], 0, 0, [], ["float32", 0, -1, [2], [1]]],
        [56, [8], 0, 0, [], ["float32", 0, 0, [2**62], [0]]],
        [56, [8], 0, 0, [], ["float32", 0, 0, [2**40, 2**40], [0, 0]]],
        [56, [8], 0, 0, [], ["float32", 0, 0, [2], [2**62]]],
        [56, [8], 0, 0, [], ["float32", 0, 0, [2, 1], [1]]],
        [56, [8], 0, 0, [], ["float32", 0, 0, [1] * 65, [1] * 65]],
        [56, [8], 0, 0, [], ["os.system", 0, 0, [2], [1]]],
        [56, [8], 0, 0, [], GOOD, GOOD],
        [56, [8], 0, 0, [1], GOOD],
        [56, [8], 99, 0, [], GOOD],
        [56, [8], True, 0, [], GOOD],
        [56, [8], 0, -1, [], GOOD],
        [56, [4, 4], 0, 0, [], GOOD],
        [56, [], 0, 0, [], GOOD],
        [56, 0, 0, 0, [], GOOD],
        [57, 0],
        [1, None, None, [56, [8], 0, 0, [], GOOD], [57, 1]],
        [1, None, None, [56, [8], 0, 0, [], GOOD], [56, -1, 0, 0, [], GOOD]],
        [1, None, None, [56, [8], 0, 0, [], GOOD], [56, 0, 0, 0, [], ["float32", 0, 0, [3], [1]]]],
        [56, [8], 7, 0, [0.1, 2**40], ["int32", 0, 0, [2], [1]]],
        [56, [8], 7, 0, [0.1, 0], GOOD],
        [56, [8, 0, 0], 8, 0, [5], ["int32", 0, 0, [2], [1]], GOOD, GOOD],
        [56, [0, 8, 0], 8, 0, [0], ["int32", 0, 0, [0], [1]], GOOD, ["int64", 0, 0, [0], [1]]],
        [56, [8, 0], 2, 0, [2**40, 2**40], INDEX, ["float32", 0, 0, [0], [1]]],
    ],
)
def test_lies_about_tensors_are_found_before_memory_is_taken(root: Any) -> None:
    manifest = msgspec.msgpack.encode([1, 8, [], root])
    with pytest.raises(IntegrityError, match="manifest of this value is damaged"):
        decode(manifest, MemoryBody(bytes(8)))


@pytest.mark.parametrize(
    ("form", "extra", "numbers", "shapes"),
    [
        (2, [2], [5, 1], [[1, 1], [1]]),  # COO: an index out of the shape
        (2, [2], [-1, 1], [[1, 1], [1]]),
        (3, [1, 2], [0, 9, 0, 1], [[2], [1], [1]]),  # CSR: more elements than there are
        (3, [1, 2], [0, 1, 7, 1], [[2], [1], [1]]),
        (4, [2, 1], [0, 1, -7, 1], [[2], [1], [1]]),
    ],
)
def test_indices_of_sparse_tensors_are_checked(
    form: int, extra: list[int], numbers: list[int], shapes: list[list[int]]
) -> None:
    components = [["int64", 0, 0, shape, [1] * len(shape)] for shape in shapes]
    sizes = [8 * shape[-1] for shape in shapes]
    body = b"".join(number.to_bytes(8, "little", signed=True) for number in numbers)
    manifest = msgspec.msgpack.encode([1, len(body), [], [56, sizes, form, 0, extra, *components]])
    with pytest.raises(LeafError, match="cannot make this tensor"):
        decode(manifest, MemoryBody(body))


def test_indices_that_are_called_ordered_and_are_not_are_ordered_again() -> None:
    encoded = encode(torch.sparse_coo_tensor(torch.tensor([[1, 1, 0]]), torch.tensor([1.0, 2, 3]), (4,)))
    version, nbytes, classes, root = msgspec.msgpack.decode(encoded.manifest)
    root[3] = 4  # coalesced
    manifest = msgspec.msgpack.encode([version, nbytes, classes, root])
    found = decode(manifest, MemoryBody(b"".join(encoded.buffers)))
    assert not found.is_coalesced()
    assert found.to_dense().tolist() == [3, 3, 0, 0]


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    VICTIM = encode({name: make() for name, make in MADE.items()} | {"shared": [MADE["coo"]()] * 2})
VICTIM_BODY = MemoryBody(b"".join(VICTIM.buffers))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_flipped_bytes_of_a_manifest_are_named_errors(data: st.DataObject) -> None:
    manifest = bytearray(VICTIM.manifest)
    for _ in range(data.draw(st.integers(1, 3))):
        manifest[data.draw(st.integers(0, len(manifest) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    for read in (
        lambda: decode(bytes(manifest), VICTIM_BODY, allow_pickle=False),
        lambda: describe(bytes(manifest)),
        lambda: decode(bytes(manifest), VICTIM_BODY, leaves="[a-m]*", allow_pickle=False),
    ):
        with contextlib.suppress(SnapshotsError):
            read()


def test_what_is_pickled_alone_but_shares_tensors_is_told(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Linear(2, 2)
    encode({"model": model, "other": nn.Linear(2, 2), "state": torch.optim.SGD(model.parameters()).state_dict()})
    encode({"weights": model.weight, "again": [model.weight]})
    assert caplog.messages == []
    for _ in range(2):  # said once
        encode({"the model": model, "optimizer": torch.optim.SGD(model.parameters())})
    assert [message.partition(",")[0] for message in caplog.messages] == [
        "Leaf optimizer shares tensors with leaf the model"
    ]
    encode([model.weight, model])
    assert len(caplog.messages) == 2
