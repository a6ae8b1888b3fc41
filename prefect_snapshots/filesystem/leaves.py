"""The leaves of a snapshot as files: arrays, tensors and numbers as `.npy`, strings as `.txt`, bytes as `.bin`.

The bytes of an array are stored as a `.npy` file has them, behind its header. So reading a part of such a file reads
only the chunks of this part. No class is imported and nothing is unpickled: leaves of other kinds are not files.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..errors import DamagedVersion, IntegrityError, MissingDependency
from ..repository.contents import ContentReader
from ..values.classes import Unavailable
from ..values.manifest import LeafInfo, array_spec_of, distrust, leaf_info, parse, tensor_spec_of
from ..values.scalars import text_bytes
from ..values.structure import leaf_paths
from ..values.tensors import DENSE, TensorSpec
from .nodes import Node
from .segments import component

_NUMBERS = frozenset({"bool", "int", "float", "complex", "numpy-scalar"})
_SUFFIXES = {"str": "txt", "bytes": "bin", "bytearray": "bin"}
_TENSOR_DTYPES = frozenset(
    {"bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"}
    | {"float16", "float32", "float64", "complex64", "complex128"}
)
"""Those that PyTorch and NumPy have under the same name."""
_WHOLE = "value"
"""The name of a value that is a single leaf, and so has no path."""


class LeafFiles:
    """The leaves of one snapshot as files.

    Args:
        content: The content of the snapshot.
        label: The name of the snapshot in error messages.

    Raises:
        IntegrityError: The manifest is damaged.
    """

    def __init__(self, content: ContentReader, label: str) -> None:
        self._nodes: dict[str, Node] = {"": Node("", "directory")}
        self._below: dict[str, list[str]] = {"": []}
        files = list(_files(content, label))
        folders = {parent for node in files for parent in _parents(node.path)}
        for node in files:
            if node.path in folders:  # a key of the value ends like the suffix; no other leaf has a bare % in its name
                stem, _, suffix = node.path.rpartition(".")
                node = Node(f"{stem}%.{suffix}", node.type, node.size, read=node.read)
            for parent in _parents(node.path):
                self._enter(Node(parent, "directory"))
            self._enter(node)

    def find(self, path: str) -> Node | None:
        """Return what is at a path, or None if nothing is."""
        return self._nodes.get(path)

    def children(self, path: str) -> Sequence[Node]:
        """Return what a directory contains."""
        return [self._nodes[each] for each in self._below.get(path, ())]

    def _enter(self, node: Node) -> None:
        if node.path not in self._nodes:
            self._nodes[node.path] = node
            self._below.setdefault(node.path.rpartition("/")[0], []).append(node.path)


class _Form(NamedTuple):
    """A leaf as a file: a header, and a part of the body."""

    suffix: str
    header: bytes
    offset: int = 0
    nbytes: int = 0


@dataclass(frozen=True, slots=True)
class _LeafBytes:
    """Reads the bytes of a leaf as a file."""

    form: _Form
    content: ContentReader
    label: str
    path: str

    def __call__(self, offset: int, length: int) -> bytes:
        header = self.form.header
        head = header[offset : offset + length]
        start = max(0, offset - len(header))
        body = max(0, min(length - len(head), self.form.nbytes - start))
        try:
            return head + (self.content.read(self.form.offset + start, body) if body else b"")
        except IntegrityError as error:
            raise DamagedVersion(self.label, f"leaf {self.path or _WHOLE}", str(error)) from error


def _files(content: ContentReader, label: str) -> Iterator[Node]:
    with distrust():
        leaves = leaf_paths(parse(content.manifest).root)
    for path, leaf in leaves:
        with distrust():
            try:
                form = _form(leaf, leaf_info(path, leaf))
            except (Unavailable, MissingDependency):  # its dtype or time zone does not exist here
                continue
        if form is None:
            continue
        name = "/".join(map(_safe, path.split("/"))) if path else _WHOLE
        read = _LeafBytes(form, content, label, path)
        yield Node(f"{name}.{form.suffix}", "file", len(form.header) + form.nbytes, read=read)


def _form(leaf: Any, info: LeafInfo) -> _Form | None:
    """Return a leaf as a file, or None if there is no form for it."""
    if info.kind in _NUMBERS and info.inline:
        array = np.asarray(info.value)
        if _is_native(array.dtype):
            return _Form("npy", _npy_header(array.dtype, array.shape, False) + array.tobytes())
    if info.kind in _SUFFIXES:
        value = info.value if info.inline else b""
        data = text_bytes(value) if isinstance(value, str) else bytes(value)
        return _Form(_SUFFIXES[info.kind], data, info.offset, info.nbytes)
    if info.kind == "torch":
        return _tensor(tensor_spec_of(leaf), info)
    spec = array_spec_of(leaf)
    if info.kind in ("numpy", "jax") and not info.inline and spec is not None and _is_native(spec.dtype):
        return _Form("npy", _npy_header(spec.dtype, spec.shape, info.order == "F"), info.offset, info.nbytes)
    return None


def _tensor(spec: TensorSpec, info: LeafInfo) -> _Form | None:
    """Return a tensor as a file if its elements are stored in the order of a row-major array."""
    component = spec.components[0]
    if spec.form != DENSE or component.flags or component.dtype not in _TENSOR_DTYPES:
        return None
    dtype, strides = (
        np.dtype(component.dtype),
        [math.prod(component.shape[at + 1 :]) for at in range(len(component.shape))],
    )
    if any(
        length > 1 and stride != wanted
        for length, stride, wanted in zip(component.shape, component.strides, strides, strict=True)
    ):
        return None
    skipped, nbytes = component.offset * dtype.itemsize, math.prod(component.shape) * dtype.itemsize
    if skipped + nbytes > info.nbytes:
        raise ValueError(f"{component} does not fit into {info.nbytes} bytes")
    return _Form("npy", _npy_header(dtype, component.shape, False), info.offset + skipped, nbytes)


def _is_native(dtype: Any) -> bool:
    return dtype.type.__module__ == "numpy" and not dtype.hasobject


def _npy_header(dtype: Any, shape: tuple[int, ...], fortran: bool) -> bytes:
    stream = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": fortran, "shape": shape}
    np.lib.format.write_array_header_2_0(stream, described)
    return stream.getvalue()


def _safe(name: str) -> str:
    return component(name) if name in ("", ".", "..") else name


def _parents(path: str) -> Iterator[str]:
    parts = path.split("/")
    return ("/".join(parts[:depth]) for depth in range(1, len(parts)))
