"""Convert PyTorch tensors to bytes and back.

A *component* is a dense tensor: elements of one dtype in memory, with a shape and strides. A tensor is stored as its
components, without pickle: a dense tensor has one, sparse and quantised tensors have several. Its *form* says how to
build it from them. The dtype is only a name, so every dtype of PyTorch can be stored.

Only the part of the memory that a view shows is stored. Tensors of one value that overlap in memory are stored as one
piece of memory, and overlap again after loading. PyTorch is imported to load a tensor, never to store one.
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import MissingDependency
from .arrays import Buffer, NotAtHand, bytes_of
from .classes import Unavailable

DENSE, META, COO, CSR, CSC, BSR, BSC, PER_TENSOR, PER_CHANNEL = range(9)
"""The forms: dense, without memory, sparse, and quantised with one scale or with one per channel."""
_COMPONENTS = {DENSE: 1, META: 1, COO: 2, CSR: 3, CSC: 3, BSR: 3, BSC: 3, PER_TENSOR: 1, PER_CHANNEL: 3}
_COMPRESSED = {CSR: "sparse_csr", CSC: "sparse_csc", BSR: "sparse_bsr", BSC: "sparse_bsc"}
_SPARSE = (COO, *_COMPRESSED)
_QUANTISED = {"uint8": "quint8", "int8": "qint8", "int32": "qint32"}
"""The dtype of a quantised tensor by that of its integers."""

PARAMETER, REQUIRES_GRAD, COALESCED = 1, 2, 4
"""Flags of a tensor."""
CONJUGATED, NEGATED = 1, 2
"""Flags of a component: operations that PyTorch applies to each element lazily."""

_ALIGNMENT = 16
"""The size of the largest element in bytes. Each element begins at a multiple of its size."""

_DIMENSIONS = 64
"""The most dimensions of a tensor that PyTorch allows."""


def loaded_torch() -> Any:
    """Return PyTorch if this process has imported it, else None: without it there is no tensor to recognise."""
    torch: Any = sys.modules.get("torch")
    # While another thread imports it, only a part of it exists.
    return torch if hasattr(torch, "nn") and hasattr(torch.nn, "Parameter") else None


def is_tensor_class(cls: Any) -> bool:
    """Return whether a class is that of tensors or parameters. Other subclasses may have more state."""
    torch: Any = loaded_torch()
    return torch is not None and cls in (torch.Tensor, torch.nn.Parameter)


def is_tensor(value: Any) -> bool:
    """Return whether a value is a tensor that needs no pickle.

    Tensors of other subclasses, with attributes, with names of dimensions, nested ones, and ones quantised in rare ways
    need pickle, which runs their own code.
    """
    if not is_tensor_class(type(value)) or vars(value):
        return False
    torch = sys.modules["torch"]
    if value.is_quantized:
        dtypes = [getattr(torch, name) for name in _QUANTISED.values()]
        return value.dtype in dtypes and value.qscheme() in (torch.per_tensor_affine, torch.per_channel_affine)
    return not (value.is_nested or value.is_mkldnn or any(getattr(value, "names", ())))


# --- writing --------------------------------------------------------------------------------------------------------


class Component(NamedTuple):
    """A dense tensor."""

    dtype: str
    flags: int
    offset: int
    """Elements before the first one, in memory."""
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class TensorMemory(NamedTuple):
    """Bytes of a component."""

    nbytes: int
    read: Callable[[], Buffer]


class TensorParts(NamedTuple):
    """The parts of a tensor to store."""

    form: int
    flags: int
    extra: list[Any]
    """The additional data of the form: the shape of a sparse tensor, or the parameters of a quantised one."""
    components: list[Component]
    memories: list[TensorMemory]
    shared: int | None
    """A number that all tensors with the same memory share. None for a tensor whose memory is not shared."""


class Tensors:
    """The tensors of one value, and which of them overlap in memory.

    Args:
        leaves: All leaves of the value.
    """

    def __init__(self, leaves: Iterable[Any]) -> None:
        storages: dict[int, dict[int, Any]] = defaultdict(dict)
        for leaf in leaves:
            if is_tensor(leaf) and _is_dense(leaf) and leaf.numel() and (storage := _storage(leaf)) is not None:
                storages[storage._cdata][id(leaf)] = leaf
        self._shared: dict[int, tuple[int, int, TensorMemory]] = {}
        for tensors in storages.values():
            if len(tensors) > 1:
                self._share(sorted((*_extent(tensor), one) for one, tensor in tensors.items()), tensors)

    def _share(self, extents: list[tuple[int, int, int]], tensors: dict[int, Any]) -> None:
        """Give the tensors of one storage that overlap the same memory."""
        group: list[tuple[int, int, int]] = []
        end = 0
        for extent in [*extents, (sys.maxsize, sys.maxsize, 0)]:
            if group and extent[0] >= end:
                if len(group) > 1:
                    # The elements of each dtype must start at a multiple of their size.
                    widest = max(tensors[one].element_size() for *_, one in group)
                    start = group[0][0] - group[0][0] % widest
                    memory = TensorMemory(end - start, _reader(tensors[group[0][2]], start, end))
                    number = len(self._shared)
                    self._shared.update({one: (number, start, memory) for *_, one in group})
                group, end = [], 0
            group.append(extent)
            end = max(end, extent[1])

    def parts(self, tensor: Any) -> TensorParts:
        """Return the parts of a tensor to store.

        Args:
            tensor: A tensor for which `is_tensor` is true.

        Raises:
            NotAtHand: Its elements cannot be read here.
        """
        torch = sys.modules["torch"]
        flags = PARAMETER * (type(tensor) is torch.nn.Parameter) | REQUIRES_GRAD * tensor.requires_grad
        if id(tensor) in self._shared:
            number, start, memory = self._shared[id(tensor)]
            component = _described(tensor)._replace(offset=tensor.storage_offset() - start // tensor.element_size())
            return TensorParts(DENSE, flags, [], [component], [memory], number)
        form, extra, found = take_apart(tensor.detach())
        if form == COO and tensor.is_coalesced():
            flags |= COALESCED
        components, memories = zip(*map(_component, found), strict=True)
        return TensorParts(form, flags, extra, list(components), list(memories), None)


class UsedMemory(NamedTuple):
    """The part of a storage that tensors use."""

    storage: Any
    """This part as a storage of its own, without a copy."""
    start: int
    """Where it begins in the whole storage, in bytes."""


def used_memory(tensors: Iterable[Any]) -> dict[int, UsedMemory]:
    """Return which part of their storages some tensors use. Storages that they use as a whole are left out.

    Args:
        tensors: All tensors of a value, of any class.
    """
    spans: dict[int, tuple[Any, int, int]] = {}
    for tensor in tensors:
        storage = _storage(tensor)
        if storage is None or storage.device.type != "cpu":
            continue
        plain = is_tensor_class(type(tensor)) and _is_dense(tensor) and not tensor.is_nested
        start, end = _extent(tensor) if plain else (0, storage.nbytes())
        _, first, last = spans.get(storage._cdata, (storage, start, end))
        spans[storage._cdata] = storage, min(start, first), max(end, last)
    torch = loaded_torch()
    used = {}
    for name, (storage, start, end) in spans.items():
        start -= start % _ALIGNMENT
        if end <= storage.nbytes() and end - start < storage.nbytes():
            part = torch.empty(0, dtype=torch.uint8).set_(storage, start, (end - start,)).numpy()
            used[name] = UsedMemory(torch.from_numpy(part).untyped_storage(), start)
    return used


def take_apart(tensor: Any) -> tuple[int, list[Any], list[Any]]:
    """Return the form of a tensor, its additional data, and its components as tensors.

    Raises:
        NotAtHand: Its elements cannot be read.
    """
    torch = sys.modules["torch"]
    try:
        if tensor.is_meta:
            return META, [], [tensor]
        if tensor.is_quantized:
            if tensor.qscheme() == torch.per_tensor_affine:
                return PER_TENSOR, [tensor.q_scale(), tensor.q_zero_point()], [tensor.int_repr()]
            scales, zeros = tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()
            return PER_CHANNEL, [tensor.q_per_channel_axis()], [tensor.int_repr(), scales, zeros]
        if tensor.layout == torch.sparse_coo:
            return COO, list(tensor.shape), [tensor._indices(), tensor._values()]
        for form, layout in _COMPRESSED.items():
            if tensor.layout == getattr(torch, layout):
                columns = form in (CSC, BSC)
                first = tensor.ccol_indices() if columns else tensor.crow_indices()
                second = tensor.row_indices() if columns else tensor.col_indices()
                return form, list(tensor.shape), [first, second, tensor.values()]
    except RuntimeError as error:
        raise NotAtHand(f"PyTorch does not give its elements ({error}).") from error
    if tensor.layout != torch.strided:
        raise NotAtHand(f"Tensors of the layout {tensor.layout} cannot be stored. Convert it to a dense tensor.")
    return DENSE, [], [tensor]


def _is_dense(tensor: Any) -> bool:
    return tensor.layout is sys.modules["torch"].strided and not tensor.is_quantized and not tensor.is_meta


def _component(tensor: Any) -> tuple[Component, TensorMemory]:
    """Return a dense tensor that shares its memory with no other one."""
    nbytes = tensor.numel() * tensor.element_size()
    if tensor.is_meta or not nbytes:
        return _described(tensor), TensorMemory(0, lambda: memoryview(b""))
    start, end = _extent(tensor)
    if end - start > nbytes:  # a view with gaps
        try:
            tensor = tensor.resolve_conj().resolve_neg().contiguous()
        except RuntimeError as error:  # PyTorch cannot copy elements of some rare dtypes
            raise NotAtHand(f"PyTorch does not give its elements ({error}).") from error
        start, end = _extent(tensor)
    return _described(tensor), TensorMemory(end - start, _reader(tensor, start, end))


def _described(tensor: Any) -> Component:
    """Return the component of a tensor whose memory begins with its first element."""
    flags = 0 if tensor.is_meta else CONJUGATED * tensor.is_conj() | NEGATED * tensor.is_neg()
    return Component(_name(tensor), flags, 0, tuple(tensor.shape), tuple(tensor.stride()))


def _name(tensor: Any) -> str:
    return _dtype_name(tensor.dtype)


def _extent(tensor: Any) -> tuple[int, int]:
    """Return where the elements of a tensor begin and end, in bytes of its storage."""
    size = tensor.element_size()
    start = tensor.storage_offset() * size
    if not tensor.numel():
        return start, start
    return start, start + (_last(tensor.shape, tensor.stride()) + 1) * size


def _last(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Return how many elements of memory lie between the first and the last element."""
    return sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))


def _storage(tensor: Any) -> Any:
    """Return the storage of a tensor. None if it has none: it is traced, transformed or not initialised."""
    try:
        return tensor.untyped_storage()
    except (RuntimeError, ValueError):
        return None


def _reader(tensor: Any, start: int, end: int) -> Callable[[], Buffer]:
    torch = sys.modules["torch"]
    storage = _storage(tensor)
    if storage is None:
        raise NotAtHand("It is traced or transformed. Save outside of compile, grad and vmap.")
    # `set_` would extend a storage that is too short, in place.
    if storage.nbytes() < end:
        raise NotAtHand("Its memory was freed.")
    held = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage, start, (end - start,))
    return lambda: bytes_of(held.cpu().numpy())


# --- reading --------------------------------------------------------------------------------------------------------


class TensorSpec(NamedTuple):
    """The description of a tensor, without its elements."""

    form: int
    flags: int
    extra: list[Any]
    components: list[Component]

    @property
    def dtype(self) -> str:
        """The name of its dtype in PyTorch."""
        name = self.components[-1 if self.form in _SPARSE else 0].dtype
        return _QUANTISED[name] if self.form in (PER_TENSOR, PER_CHANNEL) else name

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.extra) if self.form in _SPARSE else self.components[0].shape


def tensor_spec(form: Any, flags: Any, extra: Any, *components: Any) -> TensorSpec:
    """Return the description of a tensor in a manifest.

    Raises:
        ValueError, TypeError: It contradicts itself.
    """
    if type(form) is not int or len(components) != _COMPONENTS.get(form):
        raise ValueError(f"{form!r} with {len(components)} components is no form of a tensor")
    _naturals(flags)
    spec = TensorSpec(form, flags, extra, [_component_spec(*component) for component in components])
    if form in _SPARSE:
        _shape(extra)
    elif form == PER_TENSOR:
        scale, zero = extra
        if type(scale) is not float or type(zero) is not int or not 0 <= zero + (1 << 31) < 1 << 32:
            raise ValueError(f"{extra!r} is no scale and zero point")
    elif form == PER_CHANNEL:
        [axis] = extra
        _naturals(axis)
        count = (spec.shape[axis],)
        if [one.shape for one in spec.components[1:]] != [count, count]:
            raise ValueError(f"axis {axis} of {spec.shape} does not have these scales and zero points")
    elif extra:
        raise ValueError(f"{extra!r} has no meaning")
    if form in (PER_TENSOR, PER_CHANNEL) and spec.components[0].dtype not in _QUANTISED:
        raise ValueError(f"{spec.components[0].dtype} is no dtype of quantised elements")
    return spec


def _component_spec(dtype: Any, flags: Any, offset: Any, shape: Any, strides: Any) -> Component:
    if type(dtype) is not str or not dtype.isidentifier():
        raise ValueError(f"{dtype!r} is no dtype")
    _naturals(flags, offset, *strides)
    _shape(shape)
    if len(shape) != len(strides) or _last(shape, strides) >= 1 << 59:
        raise ValueError(f"{shape} with the strides {strides} is no shape")
    return Component(dtype, flags, offset, tuple(shape), tuple(strides))


def _shape(shape: Any) -> None:
    _naturals(*shape)
    # Half of what PyTorch can count, so that nothing that it computes from the shape overflows.
    if len(shape) > _DIMENSIONS or math.prod(length or 1 for length in shape) >= 1 << 59:
        raise ValueError(f"{shape} is no shape")


def _naturals(*numbers: Any) -> None:
    for number in numbers:
        if type(number) is not int or not 0 <= number < 1 << 59:
            raise ValueError(f"{number!r} is no length")


def check_torch(spec: TensorSpec, sizes: Sequence[int]) -> None:
    """Check, before memory is allocated, that each component lies within its memory.

    Args:
        spec: The description of the tensor.
        sizes: The bytes of the memory of each component.

    Raises:
        ValueError: It does not.
        MissingDependency: PyTorch is not installed.
        Unavailable: The installed PyTorch does not have the dtype.
    """
    torch = _torch()
    for component, size in zip(spec.components, sizes, strict=True):
        dtype = _dtype(torch, component.dtype)
        end = component.offset + _last(component.shape, component.strides) + 1 if math.prod(component.shape) else 0
        if end * dtype.itemsize > size and spec.form != META:
            raise ValueError(f"{component} does not fit into {size} bytes")
    if spec.form in (PER_TENSOR, PER_CHANNEL):
        _dtype(torch, spec.dtype)


def new_memory(nbytes: int) -> tuple[Any, memoryview]:
    """Return new memory of PyTorch, as a tensor of bytes and as a view to be filled.

    Raises:
        MissingDependency: PyTorch is not installed.
    """
    torch = _torch()
    memory = torch.empty(nbytes, dtype=torch.uint8)
    return memory, memory.numpy().data


def is_castable_tensor(before: str, after: Any) -> bool:
    """Return whether a tensor of one dtype can be converted to another without becoming another kind of number.

    Args:
        before: The name of the stored dtype.
        after: The dtype of PyTorch to convert to.
    """
    torch = _torch()
    dtypes = [getattr(torch, before, None), after]
    if not all(isinstance(dtype, torch.dtype) for dtype in dtypes) or not {before, _dtype_name(after)}.isdisjoint(
        _QUANTISED.values()
    ):
        return False
    ranks = [
        3 if dtype.is_complex else 2 if dtype.is_floating_point else 0 if dtype == torch.bool else 1 for dtype in dtypes
    ]
    return ranks[0] <= ranks[1]


def _dtype_name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def make(spec: TensorSpec, memories: Sequence[Any], device: Any = None, dtype: Any = None) -> Any:
    """Return a tensor that uses the memory of its components.

    Args:
        spec: The description of the tensor, which `check_torch` has accepted.
        memories: The memory of each component, as tensors of bytes.
        device: The device of the new tensor. Default: the CPU.
        dtype: The dtype to convert it to, which `is_castable_tensor` has allowed. Default: the stored one.

    Raises:
        Unavailable: The installed PyTorch cannot create it, or refuses its components, or an integer does not fit.
    """
    torch = _torch()
    try:
        made = _put_together(torch, spec, memories)
        if dtype is not None:
            before, made = made, made.to(dtype)
            if not dtype.is_floating_point and not dtype.is_complex and not torch.equal(made.to(before.dtype), before):
                raise Unavailable(f"Not all of its numbers fit into {_dtype_name(dtype)}.")
        if device is not None:
            made = made.to(device)
        grad = bool(spec.flags & REQUIRES_GRAD)
        return torch.nn.Parameter(made, requires_grad=grad) if spec.flags & PARAMETER else made.requires_grad_(grad)
    except (RuntimeError, AttributeError, TypeError, ValueError, IndexError) as error:
        raise Unavailable(f"PyTorch {torch.__version__} cannot make this tensor ({error}).") from error


def _put_together(torch: Any, spec: TensorSpec, memories: Sequence[Any]) -> Any:
    if spec.form == META:
        [component] = spec.components
        dtype = _dtype(torch, component.dtype)
        return torch.empty_strided(component.shape, component.strides, dtype=dtype, device="meta")
    parts = [_dense(torch, *pair) for pair in zip(spec.components, memories, strict=True)]
    if spec.form == COO:
        made = torch.sparse_coo_tensor(*parts, spec.extra, check_invariants=True)
        if spec.flags & COALESCED and _is_ordered(parts[0].numpy()):
            # PyTorch has no public function for it, and `coalesce` would sort the indices once more.
            made = made._coalesced_(True)
        return made
    if spec.form in _COMPRESSED:
        layout = getattr(torch, _COMPRESSED[spec.form])
        return torch.sparse_compressed_tensor(*parts, spec.extra, layout=layout, check_invariants=True)
    if spec.form == PER_TENSOR:
        return torch._make_per_tensor_quantized_tensor(parts[0], *spec.extra)
    if spec.form == PER_CHANNEL:
        return torch._make_per_channel_quantized_tensor(*parts, *spec.extra)
    return parts[0]


def _dense(torch: Any, component: Component, memory: Any) -> Any:
    dtype = _dtype(torch, component.dtype)
    if not math.prod(component.shape):
        return torch.empty_strided(component.shape, component.strides, dtype=dtype)
    made = torch.empty(0, dtype=dtype)
    made.set_(memory.untyped_storage(), component.offset, component.shape, component.strides)
    made = made.conj() if component.flags & CONJUGATED else made
    return torch._neg_view(made) if component.flags & NEGATED else made


def _is_ordered(indices: NDArray[Any]) -> bool:
    """Return whether the columns are in ascending order, without duplicates."""
    before, after = indices[:, :-1], indices[:, 1:]
    ordered, equal = np.zeros(before.shape[1:], np.bool_), np.ones(before.shape[1:], np.bool_)
    for low, high in zip(before, after, strict=True):
        ordered |= equal & (low < high)
        equal &= low == high
    return bool(ordered.all())


def _dtype(torch: Any, name: str) -> Any:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise Unavailable(f"PyTorch {torch.__version__} has no dtype {name}. Upgrade it.")
    return found


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingDependency(
            'This was a tensor of PyTorch. Run `pip install "prefect-snapshots[torch]"`.', name="torch"
        ) from error
    return torch
