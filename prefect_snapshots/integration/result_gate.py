"""Refuse results of Prefect that could run code when Prefect reads them.

The metadata stored with a result decides how Prefect reads it: with `pickle` by default, or with a JSON decoder that
looks up classes by name. So anyone who can write to the repository could run code on every machine that reads a result.
With `allow_pickle=False`, only plain JSON is accepted.
"""

from __future__ import annotations

import json
from typing import Any

from prefect.results import ResultRecord, ResultRecordMetadata  # type: ignore[attr-defined]
from prefect.serializers import JSONSerializer, Serializer
from pydantic import ValidationError

from ..errors import PickleRefused

_CLASSES = frozenset({"__class__", "__exc_type__"})
"""Keys that make Prefect's decoder look up a class and call it."""


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
        # Prefect passes a record that it cannot validate to the serializer of the reader, which is pickle by default.
        record: ResultRecord[Any] = ResultRecord.model_validate_json(data)
        if not _is_plain(record.metadata.serializer):
            return False
        json.loads(record.result, object_hook=_refuse_classes)
    except (ValidationError, ValueError, TypeError, RecursionError):
        return False
    return True


def _is_plain_metadata(data: bytes) -> bool:
    """Return whether the data is the metadata of a result in a separate object, which is checked when it is read."""
    try:
        return "result" not in json.loads(data) and _is_plain(ResultRecordMetadata.load_bytes(data).serializer)
    except (ValidationError, ValueError, TypeError, RecursionError):
        return False


def _is_plain(serializer: Serializer[Any]) -> bool:
    """Return whether a serializer is Prefect's JSON serializer without any lookup of stored names."""
    return serializer == JSONSerializer(dumps_kwargs=getattr(serializer, "dumps_kwargs", {}))


def _refuse_classes(found: dict[str, Any]) -> dict[str, Any]:
    if _CLASSES & found.keys():
        raise ValueError("an object of a class")
    return found
