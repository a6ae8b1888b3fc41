"""Convert Python values to bytes and back: any object, or a JAX pytree, as a manifest and a body.

The *manifest* describes the structure of a value and holds its small plain values. The *body* is the bytes of the
larger leaves, end to end in the order of the tree. Arrays, scalars, containers of the standard library, named tuples,
dataclasses, JAX arrays and PyTorch tensors need no pickle (`scalars`, `arrays`, `tensors` and `structure` list them).
Everything else becomes one pickled leaf, whose large buffers are part of the body like those of arrays. A dataclass or
named tuple of the running script, or of a function, is stored by field like any other, with its class pickled beside.

Equal values give equal bytes in every process, except for what is pickled. Decoding trusts nothing: damaged or hostile
bytes raise `IntegrityError`, and nothing is unpickled unless you pass `allow_pickle=True`.

This package knows no repository: snapshots, checkpoints and artifacts choose where the bytes live. `encode` and
`decode` are all that most callers need; `pickling` is the one module that unpickles.

Example:
    >>> from prefect_snapshots.values import MemoryBody, decode, encode
    >>> encoded = encode({"loss": 0.5, "steps": [1, 2]}, allow_pickle=False)
    >>> decode(encoded.manifest, MemoryBody(b"".join(encoded.buffers)), allow_pickle=False)
    {'loss': 0.5, 'steps': [1, 2]}
"""

from __future__ import annotations

from .decoding import BodyReader, MemoryBody, decode, decode_leaves
from .encoding import Encoded, encode, validate
from .manifest import LeafInfo, describe
from .structure import iter_leaves, map_leaves, map_leaves_with_path

__all__ = [
    "BodyReader",
    "Encoded",
    "LeafInfo",
    "MemoryBody",
    "decode",
    "decode_leaves",
    "describe",
    "encode",
    "iter_leaves",
    "map_leaves",
    "map_leaves_with_path",
    "validate",
]
