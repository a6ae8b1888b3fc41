"""Metadata, in plain types that the catalog can store, search and show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime
from enum import Enum
from pathlib import PurePath
from typing import Any

import msgspec

from ..errors import InvalidArgument

METADATA_LIMIT = 64 * 1024
"""The most bytes of metadata for one version, because it is stored in the catalog. Store larger values as data."""

DEPTH_LIMIT = 100
"""The most lists and dictionaries within each other in metadata. Whoever copies, shows or compares it needs as much
stack."""


def clean_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a copy in plain types, so that the catalog can store and search it.

    Allowed are None, bool, 64-bit int, float, str, bytes, datetime with a time zone, and lists and dictionaries of
    these with string keys. Scalars of NumPy and JAX, enums and subclasses are converted. Paths and dates become
    strings.

    Raises:
        InvalidArgument: A value has another type, more than 100 lists and dictionaries are within each other, or the
            metadata is larger than 64 KB.
    """
    if metadata is not None and not isinstance(metadata, Mapping):
        raise InvalidArgument(f"Metadata must be a dictionary, not {type(metadata).__name__}.")
    if any(not isinstance(key, str) for key in metadata or ()):
        raise InvalidArgument("Metadata keys must be strings.")
    try:
        cleaned = {str.__str__(key): clean_value(value, key) for key, value in (metadata or {}).items()}
        size = len(msgspec.msgpack.encode(cleaned))
    except (OverflowError, UnicodeEncodeError) as error:
        raise InvalidArgument(f"Metadata cannot be stored: {error}.") from None
    if size > METADATA_LIMIT:
        raise InvalidArgument(
            f"Metadata has {size} bytes, more than the limit of {METADATA_LIMIT}. Store large values as data."
        )
    return cleaned


def is_deep(values: Iterable[Any], left: int = DEPTH_LIMIT + 1) -> bool:
    """Return whether values of an event have more than 100 lists and dictionaries within each other.

    No writer of ours stores such a value. This is called for every event that is read, so it must be fast.

    Args:
        values: The values.
        left: How many lists and dictionaries within each other are not too many.
    """
    for value in values:
        kind = type(value)
        if (kind is dict or kind is list) and (
            not left or is_deep(value.values() if kind is dict else value, left - 1)
        ):
            return True
    return False


_SHOWN = 100
"""Characters of a key in an error: enough to find it."""
_SUBCLASSES: dict[type, Callable[[Any], Any]] = {int: int, float: float, str: str.__str__, bytes: bytes}
_PLAIN = (type(None), bool, int, float, str, bytes)


def clean_value(value: Any, path: str, depth: int = 1) -> Any:
    """Return one value of the metadata in plain types.

    Args:
        value: The value.
        path: Its name in errors.
        depth: How many lists and dictionaries it is in.

    Raises:
        InvalidArgument: See `clean_metadata`.
    """
    if type(value) in _PLAIN:
        return value
    if depth > DEPTH_LIMIT:
        raise InvalidArgument(
            f"Metadata {path[:_SHOWN]!r}... contains itself, or has more than {DEPTH_LIMIT} lists and "
            "dictionaries within each other. Store it as data."
        )
    if isinstance(value, Mapping):
        if any(not isinstance(key, str) for key in value):
            raise InvalidArgument(f"Metadata {path!r} has keys that are not strings.")
        return {str.__str__(key): clean_value(item, f"{path}.{key}", depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean_value(item, f"{path}[{at}]", depth + 1) for at, item in enumerate(value)]
    if isinstance(value, Enum):
        return clean_value(value.value, path, depth + 1)
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise InvalidArgument(f"Metadata {path!r} is a datetime without a time zone. Add one, such as tzinfo=UTC.")
        # Subclasses, such as that of pandas, have more than the encoder knows.
        return datetime.combine(value.date(), value.time(), value.tzinfo)
    if isinstance(value, date | PurePath):
        return str(value)
    for plain, convert in _SUBCLASSES.items():
        if isinstance(value, plain):
            return convert(value)
    if hasattr(value, "item") and getattr(value, "shape", None) == ():  # a scalar of NumPy or JAX
        return clean_value(value.item(), path, depth + 1)
    raise InvalidArgument(f"Metadata {path!r} is of type {type(value).__name__}. Store it as data, or as a string.")


def finder(key: str, default: Any) -> Callable[[dict[str, Any]], Any]:
    """Return a function that finds the value of a dotted key in metadata. A key that contains dots is tried first."""
    if "." not in key:
        return lambda metadata: metadata.get(key, default)
    parts = key.split(".")

    def find(metadata: dict[str, Any]) -> Any:
        if key in metadata:
            return metadata[key]
        value: Any = metadata
        for part in parts:
            if type(value) is not dict or part not in value:
                return default
            value = value[part]
        return value

    return find
