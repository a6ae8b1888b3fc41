"""The proof that creating an object is exclusive: several writers race for one *probe*."""

from __future__ import annotations

import contextlib
import re
import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ...errors import PermissionDenied, UnsupportedStorage

if TYPE_CHECKING:
    from .interface import Location

_CONTENDERS = 4
_PROBE = re.compile(r"probe/[0-9a-f]{32}")


def race(location: Location) -> None:
    """Let several threads create the same probe, and then one more. Raises `UnsupportedStorage` unless one has won."""
    path = f"probe/{secrets.token_hex(16)}"

    def claim(_: object) -> bool:
        return location.create(path, secrets.token_bytes(16))

    with ThreadPoolExecutor(_CONTENDERS) as contenders:
        claims = [*contenders.map(claim, range(_CONTENDERS)), claim(None)]
    # Whoever may write but not delete leaves the probe behind.
    with contextlib.suppress(PermissionDenied):
        location.delete([path])
    if claims.count(True) != 1 or claims[-1]:
        raise UnsupportedStorage(
            f"{location.url} let {claims.count(True)} of {len(claims)} writers create the same object, so that writers "
            "could overwrite each other. Use a store that supports conditional writes, or pass single_writer=True "
            "if never more than one process writes at a time."
        )


def is_probe(path: str) -> bool:
    """Whether an object is such a probe, left behind by somebody who may not delete."""
    return _PROBE.fullmatch(path) is not None
