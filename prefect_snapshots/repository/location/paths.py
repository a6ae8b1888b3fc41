"""Which paths an object may have, and which names mark what is no object yet."""

from __future__ import annotations

import re
import secrets

from ...errors import InvalidName

_SEGMENT = r"[0-9A-Za-z_][0-9A-Za-z._-]*"
_PATH = re.compile(rf"{_SEGMENT}(/{_SEGMENT})*")
_TEMPORARY_PATH = re.compile(rf"({_SEGMENT}/)*\.tmp-[0-9a-f]+")


def checked(path: str, temporary: bool = False) -> str:
    """The path. Raises `InvalidName` for one that leads out of the location; `temporary` files may be allowed."""
    if _PATH.fullmatch(path) or (temporary and _TEMPORARY_PATH.fullmatch(path)):
        return path
    raise InvalidName(f"{path!r} is no path inside a repository: letters, digits, '.', '_', '-' between single '/'.")


def temporary_name() -> str:
    """A new name for a temporary file."""
    return f".tmp-{secrets.token_hex(8)}"


def is_temporary(path: str) -> bool:
    """Whether a path is that of a temporary file."""
    return path.rpartition("/")[2].startswith(".tmp-")
