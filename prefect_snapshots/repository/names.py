"""The rules for names, ids and tags."""

from __future__ import annotations

import unicodedata

from ..errors import InvalidName

NAME_LIMIT = 512
"""The most characters in a name, an id or a tag: object stores and lists cope with it, and no honest name is longer."""

_INVISIBLE = ("Cc", "Cs", "Cf", "Zl", "Zp", "Co", "Cn")
"""Unicode categories of characters that are not shown, or not everywhere: two names could look the same."""


def check_name(name: str, what: str = "name") -> str:
    """Return a name, or refuse it if it cannot be told apart from others or shown safely.

    Args:
        name: A string of 1 to 512 characters in Unicode normal form C.
        what: What messages call it.

    Raises:
        InvalidName: The name is anything else.
    """
    if not isinstance(name, str):
        raise InvalidName(f"A {what} must be a string, not {type(name).__name__}.")
    if not name or len(name) > NAME_LIMIT:
        raise InvalidName(f"A {what} must have 1 to {NAME_LIMIT} characters, not {len(name)}.")
    shown = name if len(name) <= 40 else name[:40] + "..."
    if any(unicodedata.category(char) in _INVISIBLE for char in name):
        raise InvalidName(f"The {what} {shown!r} has control or invisible characters. Remove them.")
    if unicodedata.normalize("NFC", name) != name:
        raise InvalidName(
            f"The {what} {shown!r} is not in Unicode normal form C, so that another one could look the same. "
            "Pass it through unicodedata.normalize('NFC', name)."
        )
    if name != name.strip() or any(part in ("", ".", "..") for part in name.split("/")):
        raise InvalidName(f"The {what} {shown!r} has an empty, '.' or '..' part, or spaces around it.")
    if "\\" in name:
        raise InvalidName(f"The {what} {shown!r} has a backslash. Use '/'.")
    return name
