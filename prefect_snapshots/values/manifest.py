"""The manifest of a value, which contains its structure and its plain values, encoded with msgpack.

    [format, bytes of the body, classes, root]

A node is a plain value (see `scalars`), a branch `[code, label, keys or None, child, ...]` (see `structure`), or a leaf
whose bytes are in the body, `[code, size or sizes, ...]`. The body is in the order of the tree, so offsets are sums of
sizes. Each class is listed once, in `classes`: as its reference `module:qualname`, or as `[reference, pickled class]`
if no other process could find it by its reference. The label of a named tuple or dataclass is a position in this list.

No manifest is trusted: one that is inconsistent raises `IntegrityError`. Reading a manifest does not look up or run any
classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from ..errors import IntegrityError, LeafError, SnapshotsError, UnsupportedFormat
from .arrays import FORTRAN, WEAK, ArraySpec, array_spec
from .classes import Unavailable
from .grids import Cuts, check_cuts
from .scalars import ENUM, FORMS, NUMPY_SCALAR, RAW, Node, kind_of, no_class, plain_value
from .structure import DATACLASS, KINDS, MAX_DEPTH, NAMED_TUPLE, Branch, leaf_paths
from .tensors import TensorSpec, tensor_spec

FORMAT = 1
"""The format version of the manifest. A reader refuses a higher one."""

LONG_TEXT, BYTES, BYTEARRAY, LONG_INTEGER, ARRAY, JAX_ARRAY, JAX_KEYS, PICKLE, TENSOR, TENSOR_AGAIN, JAX_SHARDS = range(
    48, 59
)
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
    JAX_SHARDS: "jax",
}

_decode = msgspec.msgpack.Decoder().decode


@dataclass(slots=True, eq=False)
class StoredLeaf:
    """A stored leaf other than a raw value."""

    node: list[Node]
    offset: int = 0
    sizes: tuple[int, ...] = ()
    """The lengths of its parts in the body. Empty for a leaf that is in the manifest."""


@dataclass(frozen=True, slots=True)
class Manifest:
    root: Any
    """A branch, a `StoredLeaf`, or a raw value."""
    nbytes: int
    classes: list[Any]


@dataclass(frozen=True, slots=True)
class LeafInfo:
    """The description of one leaf in the manifest."""

    path: str
    kind: str
    """`none`, `bool`, `int`, `str`, `datetime`, ..., `numpy`, `numpy-scalar`, `jax`, `jax-keys`, `torch`, `enum`,
    `pickle`."""
    dtype: str | None
    """The dtype, for arrays and NumPy scalars."""
    shape: tuple[int, ...] | None
    """The shape, for arrays and NumPy scalars. For random keys, that of their raw data."""
    offset: int
    """The offset of its bytes in the body."""
    nbytes: int
    """The number of its bytes in the body."""
    inline: bool
    """Whether `value` is the leaf itself. False for a member of an enum, too, because its class is not looked up."""
    value: Any = None
    order: str | None = None
    """The order of the elements in the body. Arrays: `C` or `F`, with the grid if they are in pieces. Tensors: their
    form, flags and components."""


def describe(manifest: bytes) -> list[LeafInfo]:
    """Describe every leaf of an encoded value in order. The body is not needed, and no class is imported.

    Raises:
        IntegrityError: The manifest is damaged.
        UnsupportedFormat: A newer version wrote it.
        LeafError: A leaf names a time zone or a dtype that does not exist here.
        MissingDependency: A leaf has a dtype of ml_dtypes, which is not installed.

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
    """Decode a manifest, and check it.

    Raises:
        IntegrityError: It is damaged.
        UnsupportedFormat: A newer version wrote it.
    """
    with distrust():
        version, nbytes, classes, root = _decode(manifest)
        if type(version) is int and version > FORMAT:
            raise UnsupportedFormat(
                f"This value has format {version}, and this version of prefect-snapshots reads up to {FORMAT}. Upgrade "
                "prefect-snapshots."
            )
        if version != FORMAT or type(nbytes) is not int or type(classes) is not list:
            raise ValueError("its first fields are not valid")
        reader = _Reader()
        parsed = reader.read(root, 0)
    if reader.offset != nbytes:
        raise damaged(f"its leaves have {reader.offset} bytes, but the body has {nbytes}")
    return Manifest(parsed, nbytes, classes)


def without_pickles(manifest: bytes) -> bytes:
    """Return a manifest without what differs between processes that encode equal values: pickles and their sizes.

    For example, cloudpickle gives each class of the running script a random number.
    """
    _, _, classes, root = _decode(manifest)
    names = [entry if type(entry) is str else entry[0] for entry in classes]
    return msgspec.msgpack.encode([names, _without_pickles(root)])


def _without_pickles(node: Node) -> Node:
    if type(node) is not list:
        return node
    if node[0] == PICKLE:
        return [PICKLE]
    return [*node[:3], *map(_without_pickles, node[3:])] if node[0] in KINDS else node


def leaf_info(path: str, leaf: Any) -> LeafInfo:
    """Return the description of a leaf.

    Raises:
        ValueError, TypeError, ArithmeticError, LookupError: The manifest is damaged.
        Unavailable, MissingDependency: The time zone or dtype of the leaf does not exist here.
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
        if code == JAX_SHARDS:
            order = f"C {[list(starts) for starts in cuts_of_leaf(leaf)]}"
            code = JAX_KEYS if spec is not None and spec.implementation else JAX_ARRAY
        return LeafInfo(path, _BODY_KINDS[code], dtype, shape, leaf.offset, sum(leaf.sizes), False, order=order)
    inline = code != ENUM
    value = plain_value(leaf.node, no_class) if inline else None
    return LeafInfo(path, kind_of(leaf.node), dtype, shape, 0, 0, inline, value)


def array_spec_of(leaf: Any) -> ArraySpec | None:
    """Return the description of an array or a NumPy scalar, or None for other leaves.

    Raises:
        ValueError, TypeError: The manifest is damaged.
        Unavailable, MissingDependency: The dtype does not exist here.
    """
    node: Sequence[Node] = leaf.node if type(leaf) is StoredLeaf else (None,)
    code = node[0]
    if code in (ARRAY, JAX_ARRAY):
        return array_spec(node[2], node[3], node[4:], node[1])
    if code == JAX_KEYS:
        return array_spec(node[2], node[3], node[5:], node[1], node[4])
    if code == JAX_SHARDS:
        if node[3] not in (0, WEAK):
            raise ValueError(f"an array in pieces has the flags {node[3]!r}")
        return array_spec(node[2], node[3], node[5], node[1], node[4])
    if code == NUMPY_SCALAR:
        _, data, dtype = node
        return array_spec(dtype, 0, (), len(data))
    return None


def cuts_of_leaf(leaf: StoredLeaf) -> Cuts:
    """Return the grid in which an array is stored. One that is stored in one piece has one cell.

    Raises:
        ValueError, TypeError: The manifest is damaged.
    """
    spec = array_spec_of(leaf)
    assert spec is not None
    if leaf.node[0] != JAX_SHARDS:
        return ((0,),) * len(spec.shape)
    return check_cuts(leaf.node[6], spec.shape)


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
    """Convert every error that an arbitrary manifest may cause to an `IntegrityError`.

    Raises:
        IntegrityError: The manifest is damaged.
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
    """Converts nodes to branches and leaves, and adds up the offsets of leaves in the body."""

    __slots__ = ("offset", "tensors")

    def __init__(self) -> None:
        self.offset = 0
        self.tensors: list[StoredLeaf] = []

    def read(self, node: Node, depth: int) -> Any:
        if type(node) in RAW:
            return node
        if type(node) is not list:
            raise ValueError(f"a {type(node).__name__} is not a node")
        code = node[0]
        kind = KINDS.get(code)
        if kind is None:
            return StoredLeaf(node) if code in FORMS else self._leaf(node)
        _, label, keys, *children = node
        if depth == MAX_DEPTH:
            raise ValueError(f"containers nest more than {MAX_DEPTH} levels deep")
        if kind.keyed != (type(keys) is list) or (kind.keyed and len(keys) != len(children)):
            raise ValueError(f"a {kind.name} with {len(children)} children has the keys {keys!r}")
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
            raise ValueError(f"{code!r} is not a code")
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
                raise ValueError(f"{size!r} is not a size")
            self.offset += size
        return leaf

    def _tensor(self, number: Any) -> StoredLeaf:
        if type(number) is not int or not 0 <= number < len(self.tensors):
            raise ValueError(f"{number!r} is no number of an earlier tensor")
        return self.tensors[number]
