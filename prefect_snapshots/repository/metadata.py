"""What a user notes beside a value, in plain types: so that the catalog can hold it, search it and show it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from ..errors import InvalidArgument

METADATA_LIMIT = 64 * 1024
"""Most bytes of metadata with one thing: it travels in the catalog, and larger things belong into the data."""


def clean_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """A copy in plain types, so that the catalog can hold and search it.

    Raises:
        InvalidArgument: for a value that is none of: None, bool, int of 64 bits, float, str, bytes, datetime with a
            zone, a list or a dictionary with text keys of such; and for more than 64 KB. Scalars of NumPy and JAX
            become Python's.
    """
    cleaned = {key: clean_value(value, str(key)) for key, value in (metadata or {}).items()}
    if any(not isinstance(key, str) for key in cleaned):
        raise InvalidArgument("metadata keys are texts")
    try:
        size = len(msgspec.msgpack.encode(cleaned))
    except (OverflowError, UnicodeEncodeError) as error:
        raise InvalidArgument(f"metadata cannot be stored: {error}") from None
    if size > METADATA_LIMIT:
        raise InvalidArgument(f"metadata of {size} bytes; up to {METADATA_LIMIT} are kept: store large things as data")
    return cleaned


_PLAIN = (type(None), bool, int, float, str, bytes)


def clean_value(value: Any, path: str) -> Any:
    """One value of the metadata in plain types; `path` names it in errors."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Mapping):
        if any(not isinstance(key, str) for key in value):
            raise InvalidArgument(f"metadata {path!r} has keys that are no texts")
        return {key: clean_value(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean_value(item, f"{path}[{at}]") for at, item in enumerate(value)]
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise InvalidArgument(f"metadata {path!r} is a datetime without a time zone")
        return value
    if hasattr(value, "item") and getattr(value, "shape", None) == ():  # a scalar of NumPy or JAX
        return clean_value(value.item(), path)
    raise InvalidArgument(f"metadata {path!r} is a {type(value).__name__}: store it as data, or as a text")
