"""Write objects of other libraries by content: tensors, arrays, frames, tables, sparse matrices and models.

Their pickled form is not unique: it depends on how a frame was built, on what a slice was cut from, on the values
behind masked elements, and on what was computed before. No library is imported here, because an object of a library
exists only where it is already imported.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..values.arrays import NotAtHand
from ..values.classes import module_of
from ..values.tensors import take_apart


class CanonicalWriter(Protocol):
    """What writes the canonical form of a value: see `canonical`."""

    def write(self, value: Any) -> None: ...
    def text(self, mark: bytes, content: str) -> None: ...
    def data(self, mark: bytes, content: bytes | bytearray | memoryview) -> None: ...
    def array(self, value: NDArray[Any], mark: bytes = b"A") -> None: ...


class NoContent(Exception):
    """An object has no content that could be compared. The message says why."""


def write_foreign(canon: CanonicalWriter, value: Any) -> bool:
    """Write an object of another library by content. Return False if it is of none that is known here.

    Raises:
        NoContent: It has no content.
    """
    cls = type(value)
    if hasattr(cls, "__pydantic_fields__"):
        return _pydantic_model(canon, value)
    write = _WRITERS.get(cls.__module__.partition(".")[0])
    return write is not None and write(canon, value)


def _start(canon: CanonicalWriter, value: Any, *parts: Any) -> None:
    """Write the class of an object, and some of its parts."""
    _class(canon, type(value))
    for part in parts:
        canon.write(part)


def _class(canon: CanonicalWriter, cls: type) -> None:
    canon.text(b"C", f"{module_of(cls)}:{cls.__qualname__}")


def _jax(canon: CanonicalWriter, value: Any) -> bool:
    jax = sys.modules["jax"]
    if not isinstance(value, jax.Array):
        return False
    if jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key):
        canon.text(b"J", str(jax.random.key_impl(value)))
        value = jax.random.key_data(value)
    canon.array(np.asarray(value), b"J")
    return True


def _torch(canon: CanonicalWriter, value: Any) -> bool:
    torch = sys.modules["torch"]
    if not isinstance(value, torch.Tensor):
        return False
    if value.is_meta or value.is_nested:
        kind = "nested torch tensor" if value.is_nested else "torch tensor on the meta device"
        raise NoContent(f"a {kind} has no elements to compare")
    try:
        shape = tuple(value.shape)
    except RuntimeError as error:  # it has not been initialised
        raise NoContent(f"the elements of a torch tensor cannot be read ({error})") from error
    canon.text(b"T", f"{module_of(type(value))}:{type(value).__qualname__}|{value.dtype}|{shape}")
    attributes = {**vars(value), **({"names": value.names} if any(getattr(value, "names", ())) else {})}
    if attributes:
        canon.write(attributes)
    try:
        tensor = value.detach()
        if tensor.layout is torch.sparse_coo:
            tensor = tensor.coalesce()
        form, extra, components = take_apart(tensor)
        if form:
            canon.write([form, extra])
        for part in components:
            flat = part.cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
            if flat.stride() != (1,):  # a single element is contiguous with any stride
                flat = flat.clone(memory_format=torch.contiguous_format)
            canon.data(b"D", flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    except (NotAtHand, RuntimeError, TypeError) as error:  # a subclass may refuse what others can
        raise NoContent(f"the elements of a torch tensor cannot be read ({error})") from error
    return True


def _numpy(canon: CanonicalWriter, value: Any) -> bool:
    if not isinstance(value, np.ma.MaskedArray):
        return False
    if value is np.ma.masked:
        _class(canon, type(value))
        return True
    mask = np.ma.getmaskarray(value)
    filled = np.array(value.data, copy=True, subok=False)
    _blank(filled, mask)
    _start(canon, value, filled, mask, value.fill_value, *(["hard mask"] if value.hardmask else []))
    return True


def _blank(array: NDArray[Any], mask: NDArray[Any]) -> None:
    """Set the masked elements to zero: what is behind a mask is not content. A structure has a mask for each field."""
    if array.dtype.names is None:
        array[mask] = np.zeros((), array.dtype)
    for name in array.dtype.names or ():
        _blank(array[name], mask[name])


def _scipy(canon: CanonicalWriter, value: Any) -> bool:
    if not type(value).__module__.startswith("scipy.sparse") or not hasattr(value, "tocoo"):
        return False
    entries = value.tocoo(copy=True)
    entries.sum_duplicates()  # sorts them, too
    coordinates = [np.asarray(axis, np.int64) for axis in entries.coords]
    _start(canon, value, tuple(value.shape), *coordinates, entries.data)
    return True


def _xarray(canon: CanonicalWriter, value: Any) -> bool:
    """Write an array or data set. Whether it was asked for its attributes, and how it was stored, is not content."""
    xarray = sys.modules["xarray"]
    tree: Any = getattr(xarray, "DataTree", ())  # older versions have none
    if isinstance(value, xarray.Variable):
        _start(canon, value, value.dims, value.values, dict(value.attrs))
    elif isinstance(value, xarray.DataArray):
        _start(canon, value, value.name, value.variable, {name: part.variable for name, part in value.coords.items()})
    elif isinstance(value, xarray.Dataset):
        variables = dict(value.variables)
        _start(canon, value, variables, set(value.coords), dict(value.attrs))
    elif isinstance(value, tree):
        _start(canon, value, value.name, value.to_dataset(inherit=False), dict(value.children))
    else:
        return False
    return True


def _pydantic_model(canon: CanonicalWriter, value: Any) -> bool:
    """Write the fields of a model. Which of them were given, and not set by default, is not content."""
    if not isinstance(getattr(value, "__dict__", None), dict):
        return False
    parts = (getattr(value, name, None) for name in ("__pydantic_extra__", "__pydantic_private__"))
    _start(canon, value, value.__dict__, *(part or None for part in parts))
    return True


# --- pandas -----------------------------------------------------------------------------------------------------------


def _pandas(canon: CanonicalWriter, value: Any) -> bool:
    pandas = sys.modules["pandas"]
    if isinstance(value, pandas.DataFrame):
        _start(canon, value, value.index, value.columns, dict(value.attrs))
        for position in range(value.shape[1]):
            _column(canon, value.iloc[:, position].array)
    elif isinstance(value, pandas.Series):
        _start(canon, value, value.index, value.name, dict(value.attrs))
        _column(canon, value.array)
    elif isinstance(value, pandas.MultiIndex):
        _start(canon, value, list(value.names), len(value))
        for level in range(value.nlevels):
            _column(canon, value.get_level_values(level).array)
    elif isinstance(value, pandas.Index):
        # A range of integers is equal to the same integers one by one, as after a filter.
        _class(canon, pandas.Index if isinstance(value, pandas.RangeIndex) else type(value))
        canon.write([value.name, str(getattr(value, "freq", None))])
        _column(canon, value.array)
    elif isinstance(value, pandas.api.extensions.ExtensionArray):
        _column(canon, value)
    else:
        return False
    return True


def _column(canon: CanonicalWriter, column: Any) -> None:
    """Write an array of pandas."""
    pandas = sys.modules["pandas"]
    dtype = column.dtype
    _start(canon, column, f"{dtype!r} {getattr(dtype, 'storage', '')}")
    if isinstance(dtype, pandas.CategoricalDtype):
        canon.write([dtype.ordered, dtype.categories, column.codes])
    elif isinstance(dtype, pandas.IntervalDtype):
        canon.write([column.left, column.right])
    elif isinstance(dtype, pandas.SparseDtype):
        canon.write([dtype.fill_value, column.to_dense()])
    elif hasattr(column, "asi8"):  # dates, durations and periods
        canon.write(column.asi8)
    elif isinstance(dtype, pandas.ArrowDtype) or (getattr(dtype, "storage", None) == "pyarrow"):
        _arrow_array(canon, column.__arrow_array__())
    elif isinstance(plain := getattr(dtype, "numpy_dtype", None), np.dtype) and hasattr(dtype, "na_value"):
        canon.write([column.isna(), column.to_numpy(plain, na_value=plain.type())])
    else:
        canon.write(np.asarray(column, object if isinstance(dtype, pandas.StringDtype) else None))


# --- Arrow and polars -------------------------------------------------------------------------------------------------


def _polars(canon: CanonicalWriter, value: Any) -> bool:
    polars = sys.modules["polars"]
    if isinstance(value, polars.DataFrame):
        _start(canon, value, [(name, repr(dtype)) for name, dtype in value.schema.items()], value.height)
        columns: Iterable[Any] = value.get_columns()
    elif isinstance(value, polars.Series):
        _start(canon, value, value.name, repr(value.dtype), len(value))
        columns = [value]
    else:
        return False
    for column in columns:
        if column.dtype == polars.Object:  # Arrow would get their addresses
            canon.write(column.to_list())
            continue
        try:
            array = column.to_arrow()
        except Exception:  # Arrow has no such type, as for integers of 128 bits
            canon.write(column.to_list())
        else:
            _arrow_array(canon, array)
    return True


def _pyarrow(canon: CanonicalWriter, value: Any) -> bool:
    pyarrow = sys.modules["pyarrow"]
    if isinstance(value, pyarrow.Table | pyarrow.RecordBatch):
        fields = [(field.name, str(field.type), field.nullable, field.metadata) for field in value.schema]
        _start(canon, value, fields, value.schema.metadata, value.num_rows)
        for column in value.columns:
            _arrow_array(canon, column)
    elif isinstance(value, pyarrow.Array | pyarrow.ChunkedArray):
        # Arrays of one type have one class, and chunks are not content.
        canon.text(b"C", "pyarrow:Array")
        _arrow_array(canon, value)
    else:
        return False
    return True


def _arrow_array(canon: CanonicalWriter, array: Any) -> None:
    """Write the elements of an Arrow array: neither chunks, nor what it was cut from, nor what lies behind a null."""
    arrow: Any = sys.modules["pyarrow"]
    types = arrow.types
    if isinstance(array, arrow.ChunkedArray):
        array = arrow.concat_arrays(array.chunks) if array.num_chunks else arrow.array([], array.type)
    kind = array.type
    canon.text(b"W", f"{kind}|{len(array)}")
    if array.null_count:
        canon.write(array.is_null().to_numpy(zero_copy_only=False))
    try:
        present = array.drop_null()
    except NotImplementedError:  # such as views of strings
        canon.write(array.to_pylist())
        return
    start, count = present.offset, len(present)
    if isinstance(kind, arrow.BaseExtensionType):
        _arrow_array(canon, array.storage)
    elif types.is_dictionary(kind):
        _arrow_array(canon, present.dictionary_decode())
    elif types.is_list(kind) or types.is_large_list(kind):
        canon.write(present.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64))
        _arrow_array(canon, present.flatten())
    elif types.is_fixed_size_list(kind):
        _arrow_array(canon, present.flatten())
    elif types.is_struct(kind):
        for part in present.flatten():
            _arrow_array(canon, part)
    elif types.is_string_view(kind) or types.is_binary_view(kind):
        _arrow_array(canon, present.cast(arrow.large_binary()))
    elif types.is_string(kind) or types.is_binary(kind) or types.is_large_string(kind) or types.is_large_binary(kind):
        wide = types.is_large_string(kind) or types.is_large_binary(kind)
        _, ends, content = present.buffers()
        offsets = np.zeros(1, np.int64)
        if count:
            offsets = np.frombuffer(ends, np.int64 if wide else np.int32)[start : start + count + 1].astype(np.int64)
        canon.write(np.diff(offsets))
        canon.data(b"D", memoryview(content or b"")[int(offsets[0]) : int(offsets[-1])])
    elif types.is_boolean(kind):
        canon.write(present.to_numpy(zero_copy_only=False))
    elif types.is_primitive(kind) or types.is_decimal(kind) or types.is_fixed_size_binary(kind):
        width = kind.bit_width // 8
        canon.data(b"D", memoryview(present.buffers()[1] or b"")[start * width : (start + count) * width])
    elif not types.is_null(kind):
        canon.write(present.to_pylist())


_WRITERS: dict[str, Callable[[CanonicalWriter, Any], bool]] = {
    "jaxlib": _jax,
    "jax": _jax,
    "torch": _torch,
    "numpy": _numpy,
    "scipy": _scipy,
    "xarray": _xarray,
    "pandas": _pandas,
    "polars": _polars,
    "pyarrow": _pyarrow,
}
"""By the root of the module of a class. Subclasses that others define are written as they are pickled, because they may
have more content."""
