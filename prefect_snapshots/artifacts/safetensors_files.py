"""The handler `safetensors`: tensors by name, in the file format of the library of the same name.

The format is small: the length of a header in 8 bytes, the header as JSON, and the bytes of each tensor, in C order and
little-endian. It is written and read here, because the library itself changes the order of Fortran arrays, and knows
fewer dtypes of NumPy.
"""

from __future__ import annotations

import itertools
import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UNDECODABLE, ArtifactNotFound, EnvironmentMismatch, IntegrityError
from ..messages import hint
from ..repository.location import Buffer
from ..values.arrays import loaded_jax
from ..values.tensors import is_tensor
from .handlers import FileHandler, require

_DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
}
_NAMES = {name: code for code, name in _DTYPES.items()}
_LONGEST = 100_000_000
"""The most bytes of a header, as in the library: about a million tensors."""
_ALIGNMENT = 8
"""The body begins at a multiple of this, the size of the widest element, so that a mapped file is aligned."""
_TORCH, _JAX, _NUMPY = "pt", "flax", "np"
"""The field `format` of the header, by which other programs know the library, too."""


def _dump(value: Any, allow_pickle: bool) -> list[Buffer]:
    if type(value) is not dict:
        raise TypeError("a safetensors file holds a dict of tensors by name. Use the handler 'pytree'.")
    libraries = {_library_of(name, tensor) for name, tensor in value.items()} or {_NUMPY}
    if len(libraries) > 1:
        raise TypeError("a safetensors file holds tensors of one library. Use the handler 'pytree'.")
    library = libraries.pop()
    if library == _TORCH:
        _check_torch(value)
    header: dict[str, Any] = {"__metadata__": {"format": library}, **dict.fromkeys(value)}
    body: list[Buffer] = []
    end = 0
    # Wide elements come first, so that programs that map the file into memory find all of them aligned.
    for name, tensor in sorted(value.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])):
        dtype, data = _bytes_of(name, tensor, library)
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [end, end + len(data)]}
        end += len(data)
        body.append(data)
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % _ALIGNMENT)
    return [struct.pack("<Q", len(encoded)), encoded, *body]


def _library_of(name: Any, tensor: Any) -> str:
    if type(name) is not str or name == "__metadata__":
        raise TypeError(f"{name!r} is not a name of a tensor in a safetensors file. Use the handler 'pytree'.")
    if is_tensor(tensor):
        return _TORCH
    jax = loaded_jax()
    if jax is not None and isinstance(tensor, jax.Array):
        return _JAX
    if type(tensor) is np.ndarray:
        return _NUMPY
    raise TypeError(f"At {name}: a {type(tensor).__name__} is not a tensor. Use the handler 'pytree'.")


def _check_torch(tensors: dict[str, Any]) -> None:
    """Raise an error for tensors that are not plain, or that share memory: tied parameters would come back apart."""
    torch = require("torch", "safetensors")
    extents = []
    for name, tensor in tensors.items():
        plain = tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_meta
        if type(tensor) is not torch.Tensor or not plain or tensor.requires_grad:
            raise TypeError(
                f"At {name}: a safetensors file holds plain dense tensors without gradients. Pass "
                "`tensor.detach()`, or use the handler 'pytree'."
            )
        if tensor.numel():
            last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
            start = tensor.data_ptr()
            extents.append((start, start + (last + 1) * tensor.element_size(), name))
    extents.sort()
    for (_, end, one), (start, _, other) in itertools.pairwise(extents):
        if start < end:
            raise TypeError(
                f"{one} and {other} share memory, and would come back as two tensors. Use the handler 'pytree', or "
                "leave one of them out."
            )


def _bytes_of(name: str, tensor: Any, library: str) -> tuple[str, Buffer]:
    """Return the dtype and the bytes of a tensor."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    code = _NAMES.get(dtype)
    if code is None:
        raise TypeError(f"At {name}: a safetensors file cannot hold {dtype}. Use the handler 'pytree'.")
    if library == _TORCH:
        torch = require("torch", "safetensors")
        if tensor.is_conj() or tensor.is_neg():
            tensor = tensor.resolve_conj().resolve_neg()
        array = tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    else:
        array = np.ascontiguousarray(tensor).reshape(-1)
        if library == _JAX and tensor.weak_type:
            raise TypeError(f"At {name}: a safetensors file cannot hold a weak type. Use the handler 'pytree'.")
    return code, array.view(np.uint8).data


def _load(data: memoryview, allow_pickle: bool, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Return the tensors, or those with the given names."""
    header, body = _header_of(data)
    library = (header.pop("__metadata__", None) or {}).get("format", _NUMPY)
    if unknown := [name for name in names or () if name not in header]:
        raise ArtifactNotFound(f"The file has no tensor {unknown[0]!r}. {hint(unknown[0], header)}")
    chosen = header if names is None else {name: header[name] for name in names}
    arrays = {}
    size = 0
    for name, entry in chosen.items():
        arrays[name] = array = _array(name, entry, body)
        size += array.nbytes
        if size > len(body):  # each is copied: a small file could fill the memory
            raise IntegrityError("The tensors of this safetensors file overlap.")
    if library == _TORCH:
        torch = require("torch", "safetensors")
        return {
            name: torch.from_numpy(array.reshape(-1).view(np.uint8)).view(_torch_dtype(torch, array)).view(array.shape)
            for name, array in arrays.items()
        }
    if library == _JAX:
        numpy = require("jax.numpy", "safetensors")
        for name, array in arrays.items():
            if (cut := numpy.asarray(array[:0] if array.ndim else array).dtype) != array.dtype:
                raise EnvironmentMismatch(
                    f"The tensor {name!r} was stored as {array.dtype}, which JAX would cut to {cut} here. Set "
                    "jax_enable_x64."
                )
        return {name: numpy.asarray(array) for name, array in arrays.items()}
    return arrays


def _torch_dtype(torch: Any, array: NDArray[Any]) -> Any:
    return getattr(torch, str(array.dtype))


def _header_of(data: memoryview) -> tuple[dict[str, Any], memoryview]:
    """Return the header and the body of a file, which anyone may have written."""
    size = int.from_bytes(data[:8], "little") if len(data) >= 8 else -1
    if not 0 <= size <= min(_LONGEST, len(data) - 8):
        raise IntegrityError("This is not a safetensors file: its header is truncated.")
    try:
        header = json.loads(bytes(data[8 : 8 + size]))
    except UNDECODABLE as error:
        raise IntegrityError(f"The header of this safetensors file cannot be read: {error}") from None
    if not isinstance(header, dict) or not isinstance(header.get("__metadata__", {}), Mapping):
        raise IntegrityError("The header of this safetensors file is not an object.")
    return header, data[8 + size :]


def _array(name: str, entry: Any, body: memoryview) -> NDArray[Any]:
    try:
        dtype = _numpy_dtype(_DTYPES[entry["dtype"]])
        shape, (start, end) = tuple(entry["shape"]), entry["data_offsets"]
        sizes = (*shape, start, end)
        valid = all(type(size) is int and size >= 0 for size in sizes) and len(shape) <= 64
        if valid and end <= len(body) and end - start == math.prod(shape) * dtype.itemsize:
            return np.frombuffer(body[start:end], dtype).reshape(shape).copy()
    except (KeyError, TypeError, ValueError):
        pass
    raise IntegrityError(f"The tensor {name!r} of this safetensors file has an invalid description.")


def _numpy_dtype(name: str) -> np.dtype[Any]:
    return (
        np.dtype(name)
        if hasattr(np, name) or name == "bool"
        else np.dtype(getattr(require("ml_dtypes", "safetensors"), name))
    )


SAFETENSORS = FileHandler("safetensors", _dump, _load)
