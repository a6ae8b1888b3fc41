"""Convert Python values to bytes and back: any object, or a JAX pytree, as a manifest and a body.

The *manifest* describes the structure of a value and contains its small plain values. The *body* contains the bytes of
the larger leaves, one after another in the order of the tree. Arrays, scalars, containers of the standard library,
named tuples, dataclasses, JAX arrays and PyTorch tensors need no pickle (`scalars`, `arrays`, `tensors` and `structure`
list them). Everything else becomes one pickled leaf, and its large buffers are part of the body, like those of arrays.
A dataclass or named tuple that is defined in the running script or in a function is stored by field like any other, and
its class is pickled, too.

Equal values give equal bytes in every process, except for what is pickled. Decoding trusts nothing: damaged or hostile
bytes raise `IntegrityError`, and nothing is unpickled unless you pass `allow_pickle=True`.

This package does not know about repositories: snapshots, checkpoints and artifacts choose where to store the bytes.
Most callers need only `encode` and `decode`. `pickling` is the only module that unpickles.

Example:
    >>> from prefect_snapshots.values import MemoryBody, decode, encode
    >>> encoded = encode({"loss": 0.5, "steps": [1, 2]}, allow_pickle=False)
    >>> decode(encoded.manifest, MemoryBody(b"".join(encoded.buffers)), allow_pickle=False)
    {'loss': 0.5, 'steps': [1, 2]}
"""

from __future__ import annotations

from .arrays import is_spread
from .decoding import WHOLE, BodyReader, Loading, MemoryBody, decode, decode_leaves
from .encoding import Encoded, SharedValue, Spread, encode, encode_shared, validate
from .manifest import LeafInfo, describe, without_pickles
from .structure import iter_leaves, map_leaves, map_leaves_with_path

__all__ = [
    "WHOLE",
    "BodyReader",
    "Encoded",
    "LeafInfo",
    "Loading",
    "MemoryBody",
    "SharedValue",
    "Spread",
    "decode",
    "decode_leaves",
    "describe",
    "encode",
    "encode_shared",
    "is_spread",
    "iter_leaves",
    "map_leaves",
    "map_leaves_with_path",
    "validate",
    "without_pickles",
]
