"""The rules for names, ids and tags."""

from __future__ import annotations

import unicodedata

from ..errors import InvalidName

NAME_LIMIT = 512
"""The most characters in a name, an id or a tag: object stores and tables can handle it, and real names are shorter."""
STREAM_LIMIT = 5 * NAME_LIMIT
"""The most characters in the name of a stream, which can consist of several names with escaped characters."""

_INVISIBLE = ("Cc", "Cs", "Cf", "Zl", "Zp", "Co", "Cn")
"""Unicode categories of characters that are not always visible, so that different names could look the same."""


def check_name(name: str, what: str = "name", limit: int = NAME_LIMIT) -> str:
    """Check that a name cannot be confused with others and can be shown safely, and return it.

    Args:
        name: A string in Unicode normal form C.
        what: The word for it in messages.
        limit: The most characters.

    Raises:
        InvalidName: The name is invalid.
    """
    if not isinstance(name, str):
        raise InvalidName(f"A {what} must be a string, not {type(name).__name__}.")
    if not name or len(name) > limit:
        raise InvalidName(f"A {what} must have 1 to {limit} characters, not {len(name)}.")
    shown = name if len(name) <= 40 else name[:40] + "..."
    plain = name.isascii() and name.isprintable()  # most names are, and every call that takes a name comes here
    if not plain and any(unicodedata.category(char) in _INVISIBLE for char in name):
        raise InvalidName(f"The {what} {shown!r} has control or invisible characters. Remove them.")
    if not plain and unicodedata.normalize("NFC", name) != name:
        raise InvalidName(
            f"The {what} {shown!r} is not in Unicode normal form C, so another one could look the same. "
            "Pass it through unicodedata.normalize('NFC', name)."
        )
    if name != name.strip() or any(part in ("", ".", "..") for part in name.split("/")):
        raise InvalidName(f"The {what} {shown!r} has an empty, '.' or '..' part, or spaces around it.")
    if "\\" in name:
        raise InvalidName(f"The {what} {shown!r} has a backslash. Use '/'.")
    return str.__str__(name)  # the encoder knows no subclass, such as that of NumPy
