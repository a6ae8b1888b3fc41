"""Values <-> bytes: any Python object, or a JAX pytree, as a manifest and a body.

The *manifest* says what a value is made of and holds its scalars; the *body* is the bytes of the larger leaves, laid
end to end in the order of the tree. Arrays, scalars and containers of the standard library, named tuples, dataclasses
and JAX arrays need no pickle (`scalars`, `arrays` and `structure` list them). Everything else becomes one pickled leaf,
whose large buffers are part of the body like those of arrays. A dataclass or named tuple of the running script, or of
a function, is stored by field like any other, with its class pickled beside.

Equal values give equal bytes in every process, except for what is pickled. Which repository keeps the bytes, and how,
is not known here.

This module is the face; `encoding` and `decoding` do the work.
"""

from __future__ import annotations

from .decoding import BodyReader, decode, decode_leaves
from .encoding import Encoded, encode, validate
from .manifest import LeafInfo, describe
from .structure import iter_leaves, map_leaves, map_leaves_with_path

__all__ = [
    "BodyReader",
    "Encoded",
    "LeafInfo",
    "decode",
    "decode_leaves",
    "describe",
    "encode",
    "iter_leaves",
    "map_leaves",
    "map_leaves_with_path",
    "validate",
]
