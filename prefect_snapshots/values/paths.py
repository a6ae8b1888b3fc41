"""Names of leaves, as in `encoder/layers/0/kernel`, and patterns over them.

A *path* leads from a value to one of its leaves. It consists of *components* joined by `/`. A component is a dict key,
a field name, or a position. `/ % * ?`, control characters and lone surrogates in keys are percent-encoded, so a path
contains no wildcards. Used as a pattern, it matches only itself.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

_ESCAPES: dict[int, str] = (
    {code: f"%{code:02X}" for code in (*range(0x20), 0x7F)}
    | {ord(character): f"%{ord(character):02X}" for character in "/%*?"}
    | {code: f"%u{code:04X}" for code in range(0xD800, 0xE000)}
)
_WILDCARDS = re.compile(r"(/\*\*$|(?:(?<=/)|^)\*\*/|\*\*|\*|\?)")
_EXPRESSIONS = {"/**": "(?:/.*)?", "**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


def components(texts: Sequence[str], kinds: Sequence[str]) -> list[str]:
    """Return the path components of the keys of one dict: their strings, escaped and made unique.

    If keys of different types have the same string, as `1` and `"1"` do, the key that is a string keeps it, and every
    other key gets `%` and its type: `1%int`. If that is not enough (two NaN), `#` and its position follow. No string
    key can contain these.

    Args:
        texts: Each key as a string.
        kinds: The type of each key, `str` for strings.

    Example:
        >>> components(["1", "1", "a/b"], ["int", "str", "str"])
        ['1%int', '1', 'a%2Fb']
    """
    escaped = [text if text.isalnum() else text.translate(_ESCAPES) for text in texts]
    if len(set(escaped)) == len(escaped):
        return escaped
    shared = Counter(escaped)
    typed = [
        name if kind == "str" or shared[name] == 1 else f"{name}%{kind}"
        for name, kind in zip(escaped, kinds, strict=True)
    ]
    shared = Counter(typed)
    return [name if shared[name] == 1 else f"{name}#{position}" for position, name in enumerate(typed)]


def matcher(patterns: str | Sequence[str]) -> Callable[[str], bool]:
    """Return a function that tells whether a path matches one of the patterns.

    `*` stands for any characters within a component, `?` for one character of it, and `**` for any number of
    components: `encoder/**`, `**/bias`, `encoder/layers/*/kernel`.

    Example:
        >>> matches = matcher(["encoder/**", "*/bias"])
        >>> [matches("encoder/layers/0"), matches("head/bias"), matches("head/kernel")]
        [True, True, False]
    """
    patterns = [patterns] if isinstance(patterns, str) else patterns
    literal = {pattern for pattern in patterns if not _WILDCARDS.search(pattern)}
    globs = [_expression(pattern) for pattern in patterns if pattern not in literal]
    expression = re.compile("|".join(globs), re.DOTALL)
    if not globs:
        return literal.__contains__
    return lambda path: path in literal or expression.fullmatch(path) is not None


def _expression(pattern: str) -> str:
    return "".join(_EXPRESSIONS.get(piece, re.escape(piece)) for piece in _WILDCARDS.split(pattern))
