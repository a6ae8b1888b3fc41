"""The artifact handler `pytree`, which is loaded through its entry point.

An artifact of this handler has the same content as a snapshot, so promoting a snapshot copies nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..repository.location import Buffer
from ..values import BodyReader, decode, encode
from ..values.diff import LeafDifference, diff_contents

NAME = "pytree"
"""The name of the handler and of its entry point."""


class PyTreeHandler:
    """Write and read any Python object or pytree like snapshots. Arrays and plain containers need no pickle."""

    suffix = "pytree"

    def write(self, value: Any, *, allow_pickle: bool, **options: Any) -> tuple[bytes, Sequence[Buffer]]:
        """Return the manifest and the body of a value. There are no options."""
        encoded = encode(value, allow_pickle=allow_pickle, **options)
        return encoded.manifest, encoded.buffers

    def read(self, manifest: bytes, body: BodyReader, *, allow_pickle: bool, **options: Any) -> Any:
        """Return the value. Options are `leaves`, patterns of the leaf paths to read, and `like`, a value whose
        structure and sharding the result gets."""
        return decode(manifest, body, allow_pickle=allow_pickle, **options)

    def environment(self, value: Any) -> dict[str, str]:
        """Return no requirements, because a pickled leaf itself names a missing package."""
        return {}

    def diff(self, old: tuple[bytes, Any], new: tuple[bytes, Any], *, allow_pickle: bool) -> list[LeafDifference]:
        """Return the leaves that differ."""
        return diff_contents(old, new, allow_pickle=allow_pickle)


PYTREE = PyTreeHandler()
