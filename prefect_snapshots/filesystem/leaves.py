"""The leaves of a snapshot as files: arrays and numbers as `.npy`, strings as `.txt`, bytes as `.bin`.

The bytes of an array are stored as a `.npy` file has them, behind its header. So reading a part of such a file reads
only the chunks of this part. No class is imported and nothing is unpickled: leaves of other kinds are not files.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..errors import DamagedVersion, IntegrityError, MissingDependency
from ..repository.contents import ContentReader
from ..values.classes import Unavailable
from ..values.manifest import LeafInfo, array_spec_of, distrust, leaf_info, parse
from ..values.scalars import text_bytes
from ..values.structure import leaf_paths
from .nodes import Node
from .segments import component

_NUMBERS = frozenset({"bool", "int", "float", "complex", "numpy-scalar"})
_SUFFIXES = {"str": "txt", "bytes": "bin", "bytearray": "bin"}
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


class _LeafBytes:
    """The bytes of a leaf: a header, and a part of the body."""

    def __init__(self, header: bytes, content: ContentReader, leaf: LeafInfo, label: str) -> None:
        self._header = header
        self._content = content
        self._leaf = leaf
        self._label = label

    def __call__(self, offset: int, length: int) -> bytes:
        start = max(0, offset - len(self._header))
        head = self._header[offset : offset + length]
        body = max(0, min(length - len(head), self._leaf.nbytes - start))
        try:
            return head + (self._content.read(self._leaf.offset + start, body) if body else b"")
        except IntegrityError as error:
            raise DamagedVersion(self._label, f"leaf {self._leaf.path}", str(error)) from error


def _files(content: ContentReader, label: str) -> Iterator[Node]:
    with distrust():
        leaves = leaf_paths(parse(content.manifest).root)
    for path, leaf in leaves:
        with distrust():
            try:
                info, spec = leaf_info(path, leaf), array_spec_of(leaf)
            except (Unavailable, MissingDependency):
                continue
            made = _made(info, spec)
        if made is None:
            continue
        suffix, header = made
        name = "/".join(map(_safe, path.split("/"))) if path else _WHOLE
        size = len(header) + info.nbytes
        yield Node(f"{name}.{suffix}", "file", size, read=_LeafBytes(header, content, info, label))


def _made(info: LeafInfo, spec: Any) -> tuple[str, bytes] | None:
    """Return the suffix of a leaf, and the bytes before those in the body. None: it has no form as a file."""
    if info.kind in ("numpy", "jax") and spec is not None and not info.inline and _is_native(spec.dtype):
        return "npy", _npy_header(spec.dtype, spec.shape, info.order == "F")
    if info.inline and info.kind in _NUMBERS:
        array = np.asarray(info.value)
        if _is_native(array.dtype):
            return "npy", _npy_header(array.dtype, array.shape, False) + array.tobytes()
    if info.kind in _SUFFIXES:
        value = info.value if info.inline else b""
        return _SUFFIXES[info.kind], text_bytes(value) if isinstance(value, str) else bytes(value)
    return None


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
