"""NumPy dtypes as manifest data.

Built-in dtypes are written as NumPy's own short strings (`<f4`, `>i8`, `<M8[ns]`), those of ml_dtypes by name
(`bfloat16`), and structured ones as nested lists. A string from a manifest must match one of these patterns before it
is passed to NumPy's own parser, because that accepts far more.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import numpy as np

from ..errors import MissingDependency
from .classes import Unavailable

_BUILTIN = re.compile(r"[<>|]([biufc]\d{1,2}|[SUV]\d{1,10}|[Mm]8(\[\d{0,10}[A-Za-z]{1,7}\])?)")
_LONG = re.compile(r"([<>][fc]\d{2}):(\d{2,3})")
_EXTENSION = re.compile(r"[a-z][a-z0-9_]{1,30}")
_LONG_DOUBLES = (np.longdouble, np.clongdouble)
_MANTISSA = int(np.finfo(np.longdouble).nmant)
_NESTING = 16
"""How deep the fields of a dtype may nest. Real dtypes have up to three levels; deeper ones could exhaust the stack."""


def dtype_node(dtype: np.dtype[Any]) -> Any:
    """Return the manifest form of a dtype, or None if its elements are not plain bytes (objects, variable-width
    strings)."""
    return _KNOWN.get(dtype) or _node(dtype)


def parse_dtype(node: Any, nesting: int = 0) -> np.dtype[Any]:
    """Return the dtype of a manifest form.

    Raises:
        ValueError: The form is not valid.
        Unavailable: The dtype does not exist here.
        MissingDependency: The dtype needs ml_dtypes, which is not installed.
    """
    if type(node) is str:
        return _parse_text(node)
    try:
        if type(node) is list and nesting < _NESTING and len(node) == 2:
            base, shape = node
            subarray: np.dtype[Any] = np.dtype((parse_dtype(base, nesting + 1), tuple(shape)))
            return subarray
        if type(node) is list and nesting < _NESTING and len(node) == 6:
            names, formats, offsets, titles, itemsize, aligned = node
            parsed = [parse_dtype(item, nesting + 1) for item in formats]
            fields: Any = {
                "names": names,
                "formats": parsed,
                "offsets": offsets,
                "titles": titles,
                "itemsize": itemsize,
            }
            structured: np.dtype[Any] = np.dtype(fields, align=bool(aligned))
            return structured
    except (TypeError, OverflowError) as error:
        raise ValueError(str(error)) from None
    raise ValueError(f"{node!r} is not a dtype")


def _node(dtype: np.dtype[Any]) -> Any:
    if not dtype.itemsize:
        return None
    if dtype.names is not None:
        return _structured_node(dtype)
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        node = dtype_node(base)
        return None if node is None else [node, list(shape)]
    if dtype.type.__module__ == "ml_dtypes":
        return dtype.name
    if issubclass(dtype.type, _LONG_DOUBLES):
        # the same name means different formats on different processors, which differ in the width of the mantissa
        return f"{dtype.str}:{_MANTISSA}"
    return dtype.str if _BUILTIN.fullmatch(dtype.str) else None


def _structured_node(dtype: np.dtype[Any]) -> Any:
    """Return the form of a structured dtype: `[names, formats, offsets, titles, itemsize, aligned]`."""
    names = list(dtype.names or ())
    fields: list[Any] = [dtype.fields[name] for name in names if dtype.fields]
    formats = [dtype_node(field[0]) for field in fields]
    titles = [field[2] if len(field) > 2 else None for field in fields]
    if None in formats or not all(isinstance(title, str | None) for title in titles):
        return None
    return [names, formats, [field[1] for field in fields], titles, dtype.itemsize, dtype.isalignedstruct]


@lru_cache(maxsize=256)
def _parse_text(text: str) -> np.dtype[Any]:
    if _BUILTIN.fullmatch(text):
        try:
            return np.dtype(text)
        except TypeError as error:
            raise ValueError(str(error)) from None
    if long := _LONG.fullmatch(text):
        if int(long[2]) != _MANTISSA:
            raise Unavailable(f"Its dtype {text!r} is a long double in the format of another kind of processor.")
        return np.dtype(long[1])
    if not _EXTENSION.fullmatch(text):
        raise ValueError(f"{text!r} is not a dtype")
    try:
        import ml_dtypes
    except ImportError as error:
        raise MissingDependency(
            f'{text!r} is a dtype of ml_dtypes. Run `pip install "prefect-snapshots[jax]"`.', name="ml_dtypes"
        ) from error
    scalar = getattr(ml_dtypes, text, None)
    if not (isinstance(scalar, type) and issubclass(scalar, np.generic)):
        raise Unavailable(f"The installed version of ml_dtypes has no dtype {text!r}. Update it.")
    return np.dtype(scalar)


_KNOWN: dict[np.dtype[Any], str] = {
    dtype: dtype.str for native in map(np.dtype, "?bBhHiIlLqQefdFD") for dtype in (native, native.newbyteorder())
}
