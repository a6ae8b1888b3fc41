"""Convert arrays to bytes and back.

NumPy arrays and JAX arrays are written in the same way: dtype, shape, and the bytes of the elements, without a copy if
the memory is contiguous. JAX is never imported for writing. It is imported for reading a value that was a JAX array.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidArgument, MissingDependency
from .classes import Unavailable
from .dtypes import dtype_node, parse_dtype
from .grids import Box, Cuts, box_of, cells, cuts_of

Buffer = memoryview | bytes | bytearray

FORTRAN, WEAK = 1, 2
"""Flags: the elements are in Fortran order; the JAX array is weakly typed, like `jnp.asarray(1.0)`."""

CASTABLE = {dtype: dtype_node(dtype) for dtype in map(np.dtype, "?bBhHiIlLqQefd")}
"""The dtypes that the buffer protocol and `memoryview.cast` support, and their manifest form."""
_DIMENSIONS = 64
"""The most dimensions of an array: the limit of NumPy 2."""
_ALIGNMENT = 64
"""The alignment in bytes of memory that JAX adopts on the CPU. It would copy any other memory."""


class ArraySpec(NamedTuple):
    """The description of an array, without its elements."""

    dtype: np.dtype[Any]
    """The dtype of the elements; for an array of random keys, that of their raw data."""
    shape: tuple[int, ...]
    """The shape of the array; for an array of random keys, that of their raw data."""
    flags: int
    implementation: str | None = None
    """The generator, for an array of random keys."""

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def dtype_name(self) -> str:
        return f"key<{self.implementation}>" if self.implementation else _name(self.dtype)


_name = lru_cache(str)


class NotAnArrayOfBytes(Exception):
    """The elements are not plain bytes, so only pickle can store this array."""


class NotAtHand(Exception):
    """The elements of a JAX array cannot be read here. The message is a sentence that says why."""


def loaded_jax() -> Any:
    """Return JAX if this process has imported it, or else None, because then there cannot be any JAX arrays."""
    jax = sys.modules.get("jax")
    # while another thread imports it, it may be incomplete
    return jax if hasattr(jax, "Array") and hasattr(jax, "tree_util") else None


# --- writing --------------------------------------------------------------------------------------------------------


class Parts(NamedTuple):
    """The parts of an array that are written."""

    dtype: Any
    """The manifest form."""
    flags: int
    shape: tuple[int, ...]
    nbytes: int
    read: Callable[[], Buffer]
    """Returns the elements. May wait for a copy from a device, which has already started."""
    implementation: str | None = None


def numpy_parts(array: NDArray[Any]) -> Parts:
    """Return the parts of a NumPy array.

    Raises:
        NotAnArrayOfBytes: Its elements are objects or strings of variable width.
    """
    dtype = dtype_node(array.dtype)
    if dtype is None:
        raise NotAnArrayOfBytes
    shape, flags = array.shape, 0
    if not array.flags.c_contiguous:
        if array.flags.f_contiguous:
            array, flags = array.T, FORTRAN
        else:
            array = np.ascontiguousarray(array)
    return Parts(dtype, flags, shape, array.nbytes, lambda: bytes_of(array))


def bytes_of(array: NDArray[Any]) -> memoryview:
    """Return the memory of a contiguous array as flat bytes."""
    if array.size == 0:
        return memoryview(b"")
    if array.dtype in CASTABLE:
        return array.data.cast("B")
    return array.reshape(-1).view(np.uint8).data


class Shards(NamedTuple):
    """The parts of a JAX array that is spread over the processes of a run."""

    whole: Parts
    """The description of the whole array. Its elements cannot be read."""
    cuts: Cuts
    mine: list[tuple[int, int, Callable[[], Buffer]]]
    """The cells of the grid that this process has to write: the number, the size in bytes, and what returns the
    elements. Of each cell, one process in the run has it here."""


def shards_of(array: Any) -> Shards | None:
    """Return the parts of a JAX array that is spread over several processes, or None for any other.

    Raises:
        NotAtHand: As for `jax_parts`, or its pieces do not form a regular grid, or only one other process has it.
    """
    if _is_traced_or_deleted(array) or array.is_fully_addressable:
        return None
    holders = {device.process_index for device in array.sharding.device_set}
    if 0 in holders and (len(holders) == 1 or array.is_fully_replicated):
        return None  # process 0 has all of it
    if len(holders) == 1:
        # In that process it cannot be told from the arrays that each process has of its own, such as `jnp.ones(3)`.
        raise NotAtHand(f"Only process {min(holders)} has it. Put it on devices of process 0 or of several processes.")
    implementation = None
    if not isinstance(array.dtype, np.dtype):
        implementation = _implementation(array)
        array = loaded_jax().random.key_data(array)
    shape, dtype = array.shape, array.dtype
    boxes = [box_of(index, shape) for index in array.sharding.devices_indices_map(shape).values()]
    try:
        cuts = cuts_of(boxes, shape)
    except ValueError as error:
        raise NotAtHand(f"It is spread over several processes, and {error}. Choose a NamedSharding.") from None
    numbers = {_start(cell.box): number for number, cell in enumerate(cells(cuts, shape, 1))}
    mine = []
    for shard in array.addressable_shards:
        if shard.replica_id == 0:
            number = numbers[_start(box_of(shard.index, shape))]
            mine.append((number, math.prod(shard.data.shape) * dtype.itemsize, _shard_reader(_local(shard.data))))
    nbytes = math.prod(shape) * dtype.itemsize
    flags = WEAK if array.weak_type else 0
    whole = Parts(dtype_node(dtype), flags, shape, nbytes, _not_here, implementation)
    return Shards(whole, cuts, sorted(mine, key=lambda cell: cell[0]))


def is_spread(value: Any) -> bool:
    """Whether a value is a JAX array on devices of several processes, in whole or in parts."""
    jax = loaded_jax()
    if jax is None or not isinstance(value, jax.Array) or _is_traced_or_deleted(value):
        return False
    return len({device.process_index for device in value.sharding.device_set}) > 1


def _start(box: Box) -> tuple[int, ...]:
    return tuple(part.start for part in box)


def _shard_reader(local: Any) -> Callable[[], Buffer]:
    return lambda: bytes_of(np.ascontiguousarray(np.asarray(local)))


def _not_here() -> Buffer:
    raise AssertionError("the elements of this array are not all in this process")


def _is_traced_or_deleted(array: Any) -> bool:
    return isinstance(array, loaded_jax().core.Tracer) or array.is_deleted()


def _implementation(array: Any) -> str:
    implementation = loaded_jax().random.key_impl(array)
    if not isinstance(implementation, str):
        raise NotAtHand(f"Its random number generator, {implementation}, is not registered with JAX.")
    return implementation


def jax_parts(array: Any, *, shared: bool = False) -> Parts:
    """Return the parts of a JAX array. For random keys, dtype and shape are those of their raw data.

    Args:
        array: The array.
        shared: Whether another process reads the elements if this one has none of them.

    Raises:
        NotAtHand: The array is traced, deleted, or spread over several processes.
    """
    jax = loaded_jax()
    if isinstance(array, jax.core.Tracer):
        raise NotAtHand("It is a traced value. Save outside of jit, grad and vmap.")
    if array.is_deleted():
        raise NotAtHand("This array was deleted, or donated to a jitted function.")
    dtype = array.dtype
    if not isinstance(dtype, np.dtype):
        implementation = _implementation(array)
        return jax_parts(jax.random.key_data(array), shared=shared)._replace(implementation=implementation)
    shape = array.shape
    nbytes = math.prod(shape) * dtype.itemsize
    elsewhere = shared and not array.sharding.addressable_devices
    read = _not_here if elsewhere else _reader(array, dtype, nbytes)
    return Parts(dtype_node(dtype), WEAK if array.weak_type else 0, shape, nbytes, read)


def _reader(array: Any, dtype: np.dtype[Any], nbytes: int) -> Callable[[], Buffer]:
    if dtype in CASTABLE and nbytes:
        try:
            view = memoryview(array)
        except BufferError:  # not on the CPU, or on several devices
            pass
        else:
            if view.c_contiguous:
                return lambda: view.cast("B")
    if array.is_fully_replicated:
        local = array if next(iter(array.devices())).platform == "cpu" else _local(array)
        return lambda: bytes_of(np.ascontiguousarray(np.asarray(local)))
    if not array.is_fully_addressable:
        raise NotAtHand(
            "It is spread over several processes. Save it with a PyTreeSnapshotManager with a repository, in all of "
            "them, or gather it with jax.experimental.multihost_utils.process_allgather."
        )
    parts = [(shard.index, _local(shard.data)) for shard in array.addressable_shards if shard.replica_id == 0]
    return lambda: _joined(array.shape, dtype, parts)


def _local(array: Any) -> Any:
    """Return a new array over the memory of one device, and start to copy it to the host.

    JAX keeps the copy on the host for as long as the array that was copied. So this must not be the caller's array.
    """
    local = array.addressable_data(0)
    local.copy_to_host_async()
    return local


def _joined(shape: tuple[int, ...], dtype: np.dtype[Any], parts: Sequence[tuple[Any, Any]]) -> memoryview:
    whole = np.empty(shape, dtype)
    for index, part in parts:
        whole[index] = np.asarray(part)
    return bytes_of(whole)


# --- reading --------------------------------------------------------------------------------------------------------


def array_spec(dtype: Any, flags: Any, shape: Sequence[Any], nbytes: int, implementation: Any = None) -> ArraySpec:
    """Return the description of an array from a manifest.

    Raises:
        ValueError: It is not valid.
        Unavailable, MissingDependency: The dtype does not exist here.
    """
    for number in (flags, *shape):
        if type(number) is not int or number < 0:
            raise ValueError(f"{shape} with flags {flags!r} is not a shape")
    if len(shape) > _DIMENSIONS:
        raise ValueError(f"{len(shape)} dimensions are too many")
    if type(implementation) not in (str, type(None)):
        raise ValueError(f"{implementation!r} is not a random number generator")
    spec = ArraySpec(parse_dtype(dtype), tuple(shape), flags, implementation)
    if spec.nbytes != nbytes or not spec.dtype.itemsize:
        raise ValueError(f"{spec.dtype_name}{spec.shape} does not have {nbytes} bytes")
    return spec


def empty(spec: ArraySpec, *, aligned: bool) -> tuple[NDArray[Any], memoryview]:
    """Return a new writable array, and its memory in the order in which the elements were written.

    Args:
        spec: The description of the array.
        aligned: Whether to align its memory so that JAX can adopt it.
    """
    shape = spec.shape[::-1] if spec.flags & FORTRAN else spec.shape
    if aligned:
        memory = np.empty(spec.nbytes + _ALIGNMENT, np.uint8)
        start = -memory.__array_interface__["data"][0] % _ALIGNMENT
        array = memory[start : start + spec.nbytes].view(spec.dtype).reshape(shape)
    else:
        array = np.empty(shape, spec.dtype)
    return array.T if spec.flags & FORTRAN else array, bytes_of(array)


_RANKS = {"b": 0, "i": 1, "u": 1, "f": 2, "c": 3}
"""What numbers can hold: those of a rank hold all of lower ones, with less precision at worst."""


def is_castable(before: Any, after: Any) -> bool:
    """Return whether numbers of one dtype can be converted to another one without becoming another kind of number."""
    ranks = [_rank(dtype) for dtype in (before, after)]
    return None not in ranks and ranks[0] <= ranks[1]  # type: ignore[operator]


def _rank(dtype: Any) -> int | None:
    if not isinstance(dtype, np.dtype):
        return None  # random keys
    if dtype.kind == "V" and dtype.names is None and dtype.subdtype is None:  # of ml_dtypes, such as bfloat16 and int4
        return _RANKS.get(dtype.name.removeprefix("b")[:1])
    return _RANKS.get(dtype.kind)


def cast_spec(spec: ArraySpec, dtype: np.dtype[Any]) -> ArraySpec:
    """Return the description of an array after a cast."""
    return spec._replace(dtype=dtype, flags=spec.flags & ~WEAK)


def cast_array(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Convert the numbers of an array to a dtype that `is_castable` allows.

    Raises:
        Unavailable: An integer does not fit.
    """
    with np.errstate(over="ignore"):  # beyond the largest float of the new dtype is infinity
        made = array.astype(dtype)
    if _rank(dtype) == 1 and not np.array_equal(made.astype(array.dtype), array):
        raise Unavailable(f"Not all of its numbers fit into {dtype}.")
    return made


def check_jax(spec: ArraySpec) -> None:
    """Check that JAX can hold an array without changing it.

    Raises:
        MissingDependency: JAX is not installed.
        Unavailable: JAX would change the dtype, or does not know the generator of the keys.
        ValueError: No array of JAX is like that.
    """
    jax = _jax()
    if not _is_for_jax(spec.dtype):
        raise ValueError(f"JAX has no arrays of {spec.dtype}")
    if spec.implementation is not None:
        _, key_shape = key_form(spec.implementation)
        if spec.dtype != np.uint32 or spec.shape[max(len(spec.shape) - len(key_shape), 0) :] != key_shape:
            raise ValueError(f"{spec.dtype}{spec.shape} is not the raw data of keys for {spec.implementation}")
    if jax.dtypes.canonicalize_dtype(spec.dtype) != spec.dtype:
        raise Unavailable(
            f"It was stored as {spec.dtype}, which JAX would cut to {jax.dtypes.canonicalize_dtype(spec.dtype)} here. "
            "Set jax_enable_x64, or restore it as a NumPy array with like=."
        )


@lru_cache
def _is_for_jax(dtype: np.dtype[Any]) -> bool:
    try:
        _jax().device_put(np.zeros((), dtype))
    except TypeError:
        return False
    return True


@lru_cache
def key_form(implementation: str) -> tuple[Any, tuple[int, ...]]:
    """Return the dtype of an array of random keys, and the shape of the raw data of one.

    Raises:
        Unavailable: JAX has no generator with this name.
    """
    jax = _jax()
    try:
        key = jax.random.key(0, impl=implementation)
    except ValueError as error:
        raise Unavailable(f"The installed JAX has no random number generator {implementation!r}.") from error
    return key.dtype, jax.random.key_data(key).shape


def to_jax(arrays: Sequence[tuple[NDArray[Any], ArraySpec, Any]]) -> list[Any]:
    """Return JAX arrays with the contents of new NumPy arrays. JAX adopts their memory if it can.

    Args:
        arrays: Each array with its description and its sharding, or None for JAX's default device.
    """
    if not arrays:
        return []
    jax = _jax()
    hosts = [host for host, _, _ in arrays]
    shardings = [None if spec.implementation else sharding for _, spec, sharding in arrays]
    if not any(shardings):
        placed = jax.device_put(hosts)
    else:
        placed = [_place(jax, host, sharding) for host, sharding in zip(hosts, shardings, strict=True)]
    return [_finish(jax, array, spec, sharding) for array, (_, spec, sharding) in zip(placed, arrays, strict=True)]


def _place(jax: Any, host: NDArray[Any], sharding: Any) -> Any:
    if sharding is None or sharding.is_fully_addressable:
        return jax.device_put(host, sharding)
    return jax.make_array_from_callback(host.shape, sharding, host.__getitem__, dtype=host.dtype)


def _finish(jax: Any, array: Any, spec: ArraySpec, sharding: Any) -> Any:
    if spec.implementation is not None:
        keys = jax.random.wrap_key_data(array, impl=spec.implementation)
        return keys if sharding is None else jax.device_put(keys, sharding)
    if spec.flags & WEAK:
        # JAX has no public function to make a weak type, and 1.0 * array would make a strong one
        return jax.lax.convert_element_type_p.bind(array, new_dtype=array.dtype, weak_type=True, sharding=None)
    return array


def regions_of(sharding: Any, shape: Sequence[int]) -> list[Box]:
    """Return the regions of an array that a sharding puts on devices of this process, each once."""
    indices = sharding.addressable_devices_indices_map(tuple(shape)).values()
    return list({_start(box): box for box in (box_of(index, shape) for index in indices)}.values())


def as_sharding(given: Any) -> Any:
    """Return the sharding that a caller gave, for one device if it is a device.

    Raises:
        InvalidArgument: It is neither.
    """
    jax = _jax()
    if isinstance(given, jax.Device):
        return jax.sharding.SingleDeviceSharding(given)
    if given is not None and not isinstance(given, jax.sharding.Sharding):
        raise InvalidArgument(
            f"sharding= takes shardings such as jax.NamedSharding(mesh, jax.P('x')), not {type(given).__name__}."
        )
    return given


def from_regions(spec: ArraySpec, sharding: Any, regions: Sequence[tuple[Box, NDArray[Any]]]) -> Any:
    """Return a JAX array with a sharding, from the regions of it that this process needs."""
    jax = _jax()
    shape, dtype = spec.shape, spec.dtype
    by_start = {_start(box): array for box, array in regions}
    if spec.implementation is not None:
        dtype, key_shape = key_form(spec.implementation)
        shape = shape[: len(shape) - len(key_shape)]
        by_start = {
            start[: len(shape)]: jax.random.wrap_key_data(array, impl=spec.implementation)
            for start, array in by_start.items()
        }
    if not by_start:  # this process has none of its devices
        placed = jax.make_array_from_single_device_arrays(shape, sharding, [], dtype=dtype)
    else:
        placed = jax.make_array_from_callback(
            shape, sharding, lambda index: by_start[_start(box_of(index, shape))], dtype=dtype
        )
    return placed if spec.implementation is not None else _finish(jax, placed, spec, sharding)


def _jax() -> Any:
    try:
        import jax
    except ImportError as error:
        raise MissingDependency(
            'This was a JAX array. Run `pip install "prefect-snapshots[jax]"`, or restore it as NumPy with like=.',
            name="jax",
        ) from error
    return jax
