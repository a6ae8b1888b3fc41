"""Refuse results of Prefect that could run code when Prefect reads them.

The metadata stored with a result decides how Prefect reads it: with `pickle` by default, or with a JSON decoder that
looks up classes by name. So anyone who can write to the repository could run code on every machine that reads a result.
With `allow_pickle=False`, only plain JSON is accepted, and it is read here first: Prefect imports the modules that
metadata names when it validates them.
"""

from __future__ import annotations

import json
from typing import Any

from prefect.results import ResultRecord, ResultRecordMetadata  # type: ignore[attr-defined]
from prefect.serializers import JSONSerializer
from pydantic import ValidationError

from ..errors import PickleRefused

_CLASSES = frozenset({"__class__", "__exc_type__"})
"""Keys that make Prefect's decoder look up a class and call it."""
_UNREADABLE = (ValidationError, ValueError, TypeError, KeyError, RecursionError)
_PLAIN = JSONSerializer().model_dump()
"""Prefect's JSON serializer without any lookup of stored names."""


def check_result(key: str, data: bytes, *, allow_pickle: bool) -> bytes:
    """Return the bytes of a result if Prefect may read them.

    Args:
        key: The key of the result.
        data: The stored bytes, or those about to be stored.
        allow_pickle: Whether the user permits unpickling. If so, every result is accepted.

    Raises:
        PickleRefused: Reading it could run code, and `allow_pickle` is False.
    """
    if not allow_pickle and not (_is_plain_record(data) or _is_plain_metadata(data)):
        raise PickleRefused(
            "",
            f"The Prefect result {key!r} is not plain JSON, and allow_pickle is False. Reading it could run code of "
            'whoever wrote it. Set result_serializer="json" on the task or flow and return plain values, or allow '
            "pickle on the block if you trust everyone who can write to the repository.",
        )
    return data


def _is_plain_record(data: bytes) -> bool:
    try:
        found = json.loads(data, object_pairs_hook=_unique)
        if not _is_plain(found["metadata"]["serializer"]):
            return False
        # Prefect passes a record that it cannot validate to the serializer of the reader, which is pickle by default.
        record: ResultRecord[Any] = ResultRecord.model_validate_json(data)
        json.loads(record.result, object_hook=_refuse_classes)
    except _UNREADABLE:
        return False
    return True


def _is_plain_metadata(data: bytes) -> bool:
    """Return whether the data is the metadata of a result in a separate object, which is checked when it is read."""
    try:
        found = json.loads(data, object_pairs_hook=_unique)
        if "result" in found or not _is_plain(found["serializer"]):
            return False
        ResultRecordMetadata.load_bytes(data)
    except _UNREADABLE:
        return False
    return True


def _is_plain(serializer: dict[str, Any]) -> bool:
    return serializer["type"] == "json" and {**_PLAIN, **serializer, "dumps_kwargs": {}} == _PLAIN


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse two values of one key: Prefect could use the other one."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key has two values")
    return found


def _refuse_classes(found: dict[str, Any]) -> dict[str, Any]:
    if _CLASSES & found.keys():
        raise ValueError("an object of a class")
    return found
