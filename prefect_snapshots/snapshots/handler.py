"""Pytrees as values of artifacts: the handler `pytree`, which the artifacts find through its entry point.

An artifact of this handler has the content of a snapshot, so that a snapshot becomes one without a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..repository.location import Buffer
from ..values import BodyReader, decode, encode
from ..values.diff import LeafDifference, diff_contents

NAME = "pytree"
"""Of the handler, as its entry point has it."""


class PyTreeHandler:
    """Writes and reads any Python object or pytree as snapshots do: arrays and plain containers without pickle."""

    suffix = "pytree"

    def write(self, value: Any, *, allow_pickle: bool, **options: Any) -> tuple[bytes, Sequence[Buffer]]:
        """Manifest and body of a value. There are no options."""
        encoded = encode(value, allow_pickle=allow_pickle, **options)
        return encoded.manifest, encoded.buffers

    def read(self, manifest: bytes, body: BodyReader, *, allow_pickle: bool, **options: Any) -> Any:
        """The value. Options: `leaves`, patterns of the paths that are wanted, and `like`, a value that gives structure
        and sharding."""
        return decode(manifest, body, allow_pickle=allow_pickle, **options)

    def environment(self, value: Any) -> dict[str, str]:
        """Nothing: what was pickled says itself what it lacks."""
        return {}

    def diff(self, old: tuple[bytes, Any], new: tuple[bytes, Any], *, allow_pickle: bool) -> list[LeafDifference]:
        """The leaves that differ."""
        return diff_contents(old, new, allow_pickle=allow_pickle)


PYTREE = PyTreeHandler()
