"""The handler `onnx`: a model as one file, with its weights, which any runtime for ONNX opens.

A model can also name files beside it that hold its weights. Such a model is refused: its file alone is not the model,
and a path that somebody else wrote would be read by the runtime that opens it.
"""

from __future__ import annotations

from typing import Any

from ..repository.location import Buffer
from .handlers import FileHandler, require


def _dump(value: Any, allow_pickle: bool) -> list[Buffer]:
    onnx = require("onnx", "onnx")
    if type(value) is not onnx.ModelProto:
        raise TypeError("an ONNX file holds an onnx.ModelProto.")
    _check_whole(value)
    # Two models that are equal get the same bytes, so that they are stored once.
    return [value.SerializeToString(deterministic=True)]


def _load(data: memoryview, allow_pickle: bool) -> Any:
    model = require("onnx", "onnx").load_model_from_string(bytes(data))
    _check_whole(model)
    return model


def _check_whole(model: Any) -> None:
    """Raise an error if a tensor is in another file."""
    onnx = require("onnx", "onnx")
    left = [model]
    while left:
        for field, found in left.pop().ListFields():
            if field.message_type is None:
                continue
            for part in [found] if hasattr(found, "ListFields") else found:
                if isinstance(part, onnx.TensorProto) and part.data_location == onnx.TensorProto.EXTERNAL:
                    raise ValueError(
                        f"the tensor {part.name!r} is in another file. Load it into the model with "
                        "`onnx.load_external_data_for_model`, or log the folder with log_folder"
                    )
                left.append(part)


ONNX = FileHandler("onnx", _dump, _load)
