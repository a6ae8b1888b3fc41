"""Encode values as bytes. See the package `values` for the vocabulary."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from ..errors import UnserialisableLeaf
from ..messages import logger
from .arrays import (
    CASTABLE,
    Buffer,
    NotAnArrayOfBytes,
    NotAtHand,
    Parts,
    Shards,
    jax_parts,
    loaded_jax,
    numpy_parts,
    shards_of,
)
from .classes import reference
from .manifest import (
    ARRAY,
    BYTEARRAY,
    BYTES,
    FORMAT,
    JAX_ARRAY,
    JAX_KEYS,
    JAX_SHARDS,
    LONG_INTEGER,
    LONG_TEXT,
    PICKLE,
    TENSOR,
    TENSOR_AGAIN,
)
from .pickling import NotReadable, dump
from .scalars import WRITERS, Node, NotPlain, encode_node, integer_bytes, plain_node, text_bytes
from .structure import (
    DATACLASS,
    DEFAULT_DICT,
    NAMED_TUPLE,
    ORDERED_DICT,
    REGISTERED,
    Branch,
    Kind,
    leaves_of,
    outline,
    path_of,
    plain_form,
)
from .tensors import Tensors, is_tensor, is_tensor_class

_INLINE = 256
"""Strings, bytes and integers up to this many bytes are stored in the manifest, because a separate leaf in the body
would take more space than that."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """An encoded value."""

    manifest: bytes
    buffers: list[Buffer]
    """The body in order. It contains views of arrays with contiguous memory: do not change these before you have used
    the buffers."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The bytes of an array that is spread over the processes of a run.

    Attributes:
        cells: The number of its pieces, which follow one another in the body.
        mine: The pieces that this process has to store: the number of each, its size in bytes, and a function that
            returns its bytes.
    """

    cells: int
    mine: list[tuple[int, int, Callable[[], Buffer]]]


@dataclass(frozen=True, slots=True)
class SharedValue:
    """A value of which each process of a run has a part.

    Attributes:
        manifest: The manifest, equal in all processes.
        body: The parts of the body in order: functions that return bytes which every process has, and arrays that are
            spread over the processes.
    """

    manifest: bytes
    body: list[Buffer | Callable[[], Buffer] | Spread]


def encode_shared(value: Any, *, allow_pickle: bool = True) -> SharedValue:
    """Encode a value of which other processes encode other parts at the same time.

    Args:
        value: As for `encode`. It may contain JAX arrays that are spread over the processes of a run.
        allow_pickle: As for `encode`.

    Raises:
        UnserialisableLeaf: As for `encode`.
    """
    encoder = _encoded(value, allow_pickle, shared=True, with_like=True)
    return SharedValue(encoder.manifest, encoder.buffers)


def encode(value: Any, *, allow_pickle: bool = True, with_like: bool = True) -> Encoded:
    """Encode a value as a manifest and a body.

    A list or array that occurs at two places is written twice, a tensor once.

    Args:
        value: Any object.
        allow_pickle: Whether to pickle objects that cannot be stored in another way.
        with_like: Whether it may need `like=` to be decoded. If not, nodes that only JAX can build are pickled.

    Raises:
        UnserialisableLeaf: A leaf cannot be written. Without pickle, also if a container contains itself, or if
            containers nest too deeply.

    Example:
        >>> encoded = encode({"weights": np.zeros(4, np.float32), "loss": 0.5})
        >>> [len(buffer) for buffer in encoded.buffers]
        [16]
    """
    encoder = _encoded(value, allow_pickle, shared=False, with_like=with_like)
    buffers = [buffer() if callable(buffer) else buffer for buffer in encoder.buffers]
    return Encoded(encoder.manifest, cast("list[Buffer]", buffers))


def _encoded(value: Any, allow_pickle: bool, shared: bool, with_like: bool) -> _Encoder:
    try:
        root = outline(value, registered=with_like)
    except UnserialisableLeaf:
        if not allow_pickle:
            raise
        root = value  # it contains itself or nests deeply: pickle may store it as one leaf
    encoder = _Encoder(root, allow_pickle, shared)
    try:
        node = encoder.node(root)
    except _Unwritable as refused:
        raise UnserialisableLeaf(path_of(root, refused.item), refused.reason) from refused.__cause__
    if encoder.sharing is not None:
        _warn_of_copies(*(path_of(root, item) for item in encoder.sharing))
    encoder.manifest = encode_node([FORMAT, encoder.nbytes, encoder.classes, node])
    return encoder


@functools.lru_cache(1000)  # once for a pair of leaves, because a training saves them again and again
def _warn_of_copies(first: str, second: str) -> None:
    logger.warning(
        "Leaf %s shares tensors with leaf %s, and each is pickled alone, so that it comes back with copies of its own: "
        "an optimizer would no longer change its model. Save the state_dict() of each instead.",
        second,
        first,
    )


def validate(value: Any) -> None:
    """Check that a value can be stored. Takes as long as encoding it.

    Raises:
        UnserialisableLeaf: It cannot. The message names the leaf.

    Example:
        >>> import threading
        >>> validate({"x": threading.Lock()})
        Traceback (most recent call last):
            ...
        prefect_snapshots.errors.UnserialisableLeaf: Leaf x: It cannot be pickled (cannot pickle ... Remove it, or ...
    """
    encode(value)


class _Unwritable(Exception):
    """A leaf or branch cannot be written."""

    def __init__(self, item: Any, reason: str) -> None:
        self.item = item
        self.reason = reason


class _Encoder:
    """Converts the outline of a value to nodes, and collects the body."""

    __slots__ = (
        "_allow_pickle", "_holders", "_memories", "_numbers", "_root", "_tensor_numbers", "_tensors", "buffers",
        "classes", "manifest", "nbytes", "shared", "sharing",
    )  # fmt: skip

    def __init__(self, root: Any, allow_pickle: bool, shared: bool) -> None:
        self._root = root
        self._tensors: Tensors | None = None
        self._tensor_numbers: dict[int, int] = {}
        self._memories: dict[int, int] = {}
        self._allow_pickle = allow_pickle
        self._numbers: dict[type, int] = {}
        self._holders: dict[int, tuple[Any, Any]] = {}  # with the tensor itself, so that no other one gets its id
        self.sharing: tuple[Any, Any] | None = None
        """Two leaves with the same tensor, one of which is pickled."""
        self.manifest = b""
        self.shared = shared
        self.buffers: list[Buffer | Callable[[], Buffer] | Spread] = []
        self.classes: list[Node] = []
        self.nbytes = 0

    def node(self, item: Any) -> Node:
        if type(item) is Branch:
            label = _LABELS.get(item.kind)
            return [
                item.kind.code,
                item.maker if label is None else label(self, item),
                item.keys,
                *[
                    self.node(child)
                    if type(child) is Branch
                    else _LEAF_WRITERS.get(type(child), _write_other)(self, child)
                    for child in item.children
                ],
            ]
        return _LEAF_WRITERS.get(type(item), _write_other)(self, item)

    def body(self, code: int, data: Buffer) -> Node:
        """A leaf whose bytes are in the body."""
        self.buffers.append(data)
        self.nbytes += len(data)
        return [code, len(data)]

    def array(self, code: int, parts: Parts) -> Node:
        self.buffers.append(parts.read)
        self.nbytes += parts.nbytes
        implementation = () if parts.implementation is None else (parts.implementation,)
        return [code, parts.nbytes, parts.dtype, parts.flags, *implementation, *parts.shape]

    def shards(self, shards: Shards) -> Node:
        """An array that is spread over several processes."""
        whole = shards.whole
        self.buffers.append(Spread(math.prod(map(len, shards.cuts)), shards.mine))
        self.nbytes += whole.nbytes
        cuts = [list(starts) for starts in shards.cuts]
        return [JAX_SHARDS, whole.nbytes, whole.dtype, whole.flags, whole.implementation, list(whole.shape), cuts]

    def tensor(self, tensor: Any) -> Node:
        """A tensor; one that was written before, or whose memory was, refers to it."""
        self._hold(tensor, tensor)
        if id(tensor) in self._tensor_numbers:
            return [TENSOR_AGAIN, self._tensor_numbers[id(tensor)]]
        if self._tensors is None:
            self._tensors = Tensors(leaves_of(self._root))
        parts = self._tensors.parts(tensor)
        number = self._tensor_numbers[id(tensor)] = len(self._tensor_numbers)
        sizes: Node = [memory.nbytes for memory in parts.memories]
        if parts.shared in self._memories:
            sizes = self._memories[parts.shared]
        else:
            self.buffers += [memory.read for memory in parts.memories]
            self.nbytes += sum(sizes)
            if parts.shared is not None:
                self._memories[parts.shared] = number
        return [TENSOR, sizes, parts.form, parts.flags, parts.extra, *map(list, parts.components)]

    def pickle(self, item: Any) -> Node:
        tensors: list[Any] = []
        pieces = self._pickled(item, item, tensors)
        for tensor in tensors:
            self._hold(tensor, item)
        self.buffers += pieces
        self.nbytes += sum(map(len, pieces))
        return [PICKLE, [len(piece) for piece in pieces]]

    def _hold(self, tensor: Any, item: Any) -> None:
        holder, _ = self._holders.setdefault(id(tensor), (item, tensor))
        if holder is not item and self.sharing is None:
            self.sharing = holder, item

    def class_number(self, branch: Branch) -> int:
        """Return the position of a class in `classes`. A class that could not be found by name is pickled."""
        cls = branch.maker
        if cls not in self._numbers:
            name = reference(cls)
            by_value = (
                [f"{cls.__module__}:{cls.__qualname__}", b"".join(self._pickled(branch, cls))] if name is None else name
            )
            self._numbers[cls] = len(self.classes)
            self.classes.append(by_value)
        return self._numbers[cls]

    def _pickled(self, item: Any, value: Any, tensors: list[Any] | None = None) -> list[Buffer]:
        """Return the pickle stream and its out-of-band buffers. If this fails, the error names `item`."""
        if not self._allow_pickle:
            name = f"{type(value).__module__}.{type(value).__qualname__}"
            raise _Unwritable(item, f"Only pickle could store this {name}, and allow_pickle is False.")
        try:
            return dump(value, tensors=tensors)
        except MemoryError:
            raise
        except NotReadable as error:
            raise _Unwritable(item, str(error)) from error
        except Exception as error:  # code of the pickled objects runs here
            raise _Unwritable(
                item, f"It cannot be pickled ({error}). Remove it, or convert it to arrays, numbers and strings."
            ) from error


_LABELS: dict[Kind, Callable[[_Encoder, Branch], Node]] = {
    ORDERED_DICT: lambda _, branch: None if branch.maker is None else plain_node(plain_form(branch.maker)),
    DEFAULT_DICT: lambda _, branch: branch.maker and branch.maker.__name__,
    NAMED_TUPLE: _Encoder.class_number,
    DATACLASS: _Encoder.class_number,
    REGISTERED: lambda _, branch: branch.maker[0],
}
"""How the maker of a branch is stored in a manifest, by kind. If a kind is missing, the maker itself is stored."""


def _write_plain(encoder: _Encoder, value: Any) -> Node:
    try:
        return WRITERS[type(value)](value)
    except NotPlain:
        return encoder.pickle(value)


def _write_text(encoder: _Encoder, value: str) -> Node:
    return WRITERS[str](value) if len(value) <= _INLINE else encoder.body(LONG_TEXT, text_bytes(value))


def _write_bytes(encoder: _Encoder, value: bytes) -> Node:
    return value if len(value) <= _INLINE else encoder.body(BYTES, value)


def _write_bytearray(encoder: _Encoder, value: bytearray) -> Node:
    return encoder.body(BYTEARRAY, memoryview(value))


def _write_integer(encoder: _Encoder, value: int) -> Node:
    short = value.bit_length() <= 8 * _INLINE
    return WRITERS[int](value) if short else encoder.body(LONG_INTEGER, integer_bytes(value))


def _write_array(encoder: _Encoder, array: Any) -> Node:
    dtype = CASTABLE.get(array.dtype)
    if dtype is not None and array.size and array.flags.c_contiguous:
        # The most common arrays, without a call or a list for each: a tree can have many small ones.
        memory = array.data.cast("B")
        size = len(memory)
        encoder.buffers.append(memory)
        encoder.nbytes += size
        return [ARRAY, size, dtype, 0, *array.shape]
    try:
        return encoder.array(ARRAY, numpy_parts(array))
    except NotAnArrayOfBytes:
        return encoder.pickle(array)


def _write_jax(encoder: _Encoder, array: Any) -> Node:
    try:
        if encoder.shared and (shards := shards_of(array)) is not None:
            return encoder.shards(shards)
        parts = jax_parts(array, shared=encoder.shared)
    except NotAtHand as error:
        raise _Unwritable(array, str(error)) from None
    return encoder.array(JAX_ARRAY if parts.implementation is None else JAX_KEYS, parts)


def _write_tensor(encoder: _Encoder, tensor: Any) -> Node:
    if not is_tensor(tensor):
        return encoder.pickle(tensor)
    try:
        return encoder.tensor(tensor)
    except NotAtHand as error:
        raise _Unwritable(tensor, str(error)) from error


def _write_other(encoder: _Encoder, value: Any) -> Node:
    jax = loaded_jax()
    if jax is not None and isinstance(value, jax.Array):
        _LEAF_WRITERS[type(value)] = _write_jax
        return _write_jax(encoder, value)
    if is_tensor_class(type(value)):
        _LEAF_WRITERS[type(value)] = _write_tensor
        return _write_tensor(encoder, value)
    try:
        return plain_node(value)
    except NotPlain:
        return encoder.pickle(value)


_LEAF_WRITERS: dict[type, Callable[[_Encoder, Any], Node]] = {
    **dict.fromkeys(WRITERS, _write_plain),
    str: _write_text,
    bytes: _write_bytes,
    bytearray: _write_bytearray,
    int: _write_integer,
    np.ndarray: _write_array,
    np.memmap: _write_array,
}
"""The functions by exact type. Those for JAX arrays and tensors are added when the first one is encountered."""
