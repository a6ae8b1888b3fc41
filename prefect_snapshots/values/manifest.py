"""The manifest of a value: its structure and its plain values, as a few bytes of msgpack.

    [format, bytes of the body, classes, root]

A node is a plain value (see `scalars`), a branch `[code, label, keys or None, child, ...]` (see `structure`), or a leaf
whose bytes are in the body, `[code, size or sizes, ...]`. Bodies are laid out in the order of the tree, so offsets are
sums. Classes are named once, in `classes`, as `module:qualname`, or `[that, pickled class]` when no other process could
find it by this name; the label of a named tuple or dataclass is a position there.

Nothing here trusts a manifest: whatever does not hold together is an `IntegrityError`. Reading one finds no class and
runs no code of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from ..errors import IntegrityError, LeafError, SnapshotsError, UnsupportedFormat
from .arrays import FORTRAN, ArraySpec, array_spec
from .classes import Unavailable
from .scalars import ENUM, FORMS, NUMPY_SCALAR, RAW, Node, kind_of, no_class, plain_value
from .structure import DATACLASS, KINDS, MAX_DEPTH, NAMED_TUPLE, Branch, leaf_paths
from .tensors import TensorSpec, tensor_spec

FORMAT = 1
"""The version of a value's manifest. A reader refuses a higher one."""

LONG_TEXT, BYTES, BYTEARRAY, LONG_INTEGER, ARRAY, JAX_ARRAY, JAX_KEYS, PICKLE, TENSOR, TENSOR_AGAIN = range(48, 58)
_BODY_KINDS = {
    LONG_TEXT: "str",
    BYTES: "bytes",
    BYTEARRAY: "bytearray",
    LONG_INTEGER: "int",
    ARRAY: "numpy",
    JAX_ARRAY: "jax",
    JAX_KEYS: "jax-keys",
    PICKLE: "pickle",
    TENSOR: "torch",
}

_decode = msgspec.msgpack.Decoder().decode


@dataclass(slots=True, eq=False)
class StoredLeaf:
    """A leaf that is more than a raw value."""

    node: list[Node]
    offset: int = 0
    sizes: tuple[int, ...] = ()
    """The lengths of its pieces in the body; none for a leaf that is in the manifest."""


@dataclass(frozen=True, slots=True)
class Manifest:
    root: Any
    """A branch, a `StoredLeaf`, or a raw value."""
    nbytes: int
    classes: list[Any]


@dataclass(frozen=True, slots=True)
class LeafInfo:
    """One leaf, as the manifest describes it."""

    path: str
    kind: str
    """`none`, `bool`, `int`, `str`, `datetime`, ..., `numpy`, `numpy-scalar`, `jax`, `jax-keys`, `torch`, `enum`,
    `pickle`."""
    dtype: str | None
    """Of arrays and NumPy scalars."""
    shape: tuple[int, ...] | None
    """Of arrays and NumPy scalars. For random keys, of the data below."""
    offset: int
    """Where its bytes start in the body."""
    nbytes: int
    """Bytes in the body."""
    inline: bool
    """Whether `value` is the leaf. False too for a member of an enum, whose class is not looked up here."""
    value: Any = None
    order: str | None = None
    """How the elements lie in the body. Of arrays: `C` or `F`. Of tensors: their form, flags and components."""


def describe(manifest: bytes) -> list[LeafInfo]:
    """Every leaf of an encoded value in order. Nothing of the body is needed, and no class is imported.

    Raises:
        IntegrityError: the manifest is damaged.
        UnsupportedFormat: a newer version wrote it.
        LeafError: a leaf names a time zone or a dtype that does not exist here.
        MissingDependency: a leaf has a dtype of ml_dtypes, which is not installed.

    Example:
        >>> from prefect_snapshots.values import encode
        >>> [(leaf.path, leaf.kind, leaf.value) for leaf in describe(encode({"loss": 0.5, "steps": [3]}).manifest)]
        [('loss', 'float', 0.5), ('steps/0', 'int', 3)]
    """
    with distrust():
        described = []
        for path, leaf in leaf_paths(parse(manifest).root):
            try:
                described.append(leaf_info(path, leaf))
            except Unavailable as error:
                raise LeafError(path, str(error)) from error
        return described


def parse(manifest: bytes) -> Manifest:
    """
    Raises:
        IntegrityError: the manifest is damaged.
        UnsupportedFormat: a newer version wrote it.
    """
    with distrust():
        version, nbytes, classes, root = _decode(manifest)
        if type(version) is int and version > FORMAT:
            raise UnsupportedFormat(
                f"This value has format {version}, and this version of prefect-snapshots reads up to {FORMAT}. Upgrade "
                "prefect-snapshots."
            )
        if version != FORMAT or type(nbytes) is not int or type(classes) is not list:
            raise ValueError("its head is none")
        reader = _Reader()
        parsed = reader.read(root, 0)
    if reader.offset != nbytes:
        raise damaged(f"its leaves take {reader.offset} bytes of a body of {nbytes}")
    return Manifest(parsed, nbytes, classes)


def leaf_info(path: str, leaf: Any) -> LeafInfo:
    """
    Raises:
        ValueError, TypeError, ArithmeticError, LookupError: the manifest is damaged.
        Unavailable, MissingDependency: its time zone or dtype does not exist here.
    """
    if type(leaf) is not StoredLeaf:
        return LeafInfo(path, kind_of(leaf), None, None, 0, 0, True, leaf)
    code = leaf.node[0]
    if code == TENSOR:
        tensor = tensor_spec_of(leaf)
        layout = str([tensor.form, tensor.flags, tensor.extra, *map(list, tensor.components)])
        nbytes = sum(leaf.sizes)
        return LeafInfo(path, "torch", tensor.dtype, tensor.shape, leaf.offset, nbytes, False, order=layout)
    spec = array_spec_of(leaf)
    dtype, shape = (None, None) if spec is None else (spec.dtype_name, spec.shape)
    if leaf.sizes:
        order = None if spec is None else "F" if spec.flags & FORTRAN else "C"
        return LeafInfo(path, _BODY_KINDS[code], dtype, shape, leaf.offset, sum(leaf.sizes), False, order=order)
    inline = code != ENUM
    value = plain_value(leaf.node, no_class) if inline else None
    return LeafInfo(path, kind_of(leaf.node), dtype, shape, 0, 0, inline, value)


def array_spec_of(leaf: Any) -> ArraySpec | None:
    """What an array or a NumPy scalar is; None for other leaves.

    Raises:
        ValueError, TypeError: the manifest is damaged.
        Unavailable, MissingDependency: the dtype does not exist here.
    """
    node: Sequence[Node] = leaf.node if type(leaf) is StoredLeaf else (None,)
    code = node[0]
    if code in (ARRAY, JAX_ARRAY):
        return array_spec(node[2], node[3], node[4:], node[1])
    if code == JAX_KEYS:
        return array_spec(node[2], node[3], node[5:], node[1], node[4])
    if code == NUMPY_SCALAR:
        _, data, dtype = node
        return array_spec(dtype, 0, (), len(data))
    return None


def tensor_spec_of(leaf: StoredLeaf) -> TensorSpec:
    """Return what a tensor is.

    Raises:
        ValueError, TypeError: the manifest is damaged.
    """
    return tensor_spec(*leaf.node[2:])


def damaged(why: object) -> IntegrityError:
    return IntegrityError(
        f"the manifest of this value is damaged: {why}. Run `prefect-snapshots check`, then `repair`."
    )


@contextmanager
def distrust() -> Iterator[None]:
    """Whatever taking apart an arbitrary manifest raises becomes an `IntegrityError`.

    Raises:
        IntegrityError: the manifest is damaged.
    """
    try:
        yield
    except SnapshotsError:
        raise
    except (
        msgspec.DecodeError,
        ValueError,
        TypeError,
        ArithmeticError,
        LookupError,
        AttributeError,
        RecursionError,
    ) as error:
        raise damaged(error) from error


class _Reader:
    """Turns nodes into branches and leaves, and adds up where leaves lie in the body."""

    __slots__ = ("offset", "tensors")

    def __init__(self) -> None:
        self.offset = 0
        self.tensors: list[StoredLeaf] = []

    def read(self, node: Node, depth: int) -> Any:
        if type(node) in RAW:
            return node
        if type(node) is not list:
            raise ValueError(f"a {type(node).__name__} is no node")
        code = node[0]
        kind = KINDS.get(code)
        if kind is None:
            return StoredLeaf(node) if code in FORMS else self._leaf(node)
        _, label, keys, *children = node
        if depth == MAX_DEPTH:
            raise ValueError(f"containers nest more than {MAX_DEPTH} deep")
        if kind.keyed != (type(keys) is list) or (kind.keyed and len(keys) != len(children)):
            raise ValueError(f"a {kind.name} of {len(children)} has the keys {keys!r}")
        if kind in (NAMED_TUPLE, DATACLASS) and not all(type(key) is str for key in keys):
            raise ValueError(f"a {kind.name} has the fields {keys!r}")
        for position, child in enumerate(children):
            if type(child) not in RAW:
                children[position] = self.read(child, depth + 1)
        return Branch(kind, keys, children, (), label)

    def _leaf(self, node: list[Node]) -> StoredLeaf:
        code, sizes = node[0], node[1]
        if code == TENSOR_AGAIN:
            earlier = self._tensor(sizes)
            return StoredLeaf(earlier.node, earlier.offset, earlier.sizes)
        if code not in _BODY_KINDS:
            raise ValueError(f"{code!r} is no code")
        if code == TENSOR and type(sizes) is int:
            earlier = self._tensor(sizes)
            leaf = StoredLeaf(node, earlier.offset, earlier.sizes)
            self.tensors.append(leaf)
            return leaf
        leaf = StoredLeaf(node, self.offset, tuple(sizes) if code in (PICKLE, TENSOR) else (sizes,))
        if code == TENSOR:
            self.tensors.append(leaf)
        for size in leaf.sizes:
            if type(size) is not int or size < 0:
                raise ValueError(f"{size!r} is no size")
            self.offset += size
        return leaf

    def _tensor(self, number: Any) -> StoredLeaf:
        if type(number) is not int or not 0 <= number < len(self.tensors):
            raise ValueError(f"{number!r} is no number of an earlier tensor")
        return self.tensors[number]
