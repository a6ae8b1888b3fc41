"""Names of leaves, as in `encoder/layers/0/kernel`, and patterns over them.

A *path* is the way from a value to one of its leaves: *components* joined by `/`. A component is a dict key, a field
name, or a position. `/ % * ?`, control characters and lone surrogates in keys are percent-encoded, so a path holds
no wildcard and is itself the pattern that matches it alone.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

_ESCAPES: dict[int, str] = (
    {code: f"%{code:02X}" for code in (*range(0x20), 0x7F)}
    | {ord(character): f"%{ord(character):02X}" for character in "/%*?"}
    | {code: f"%u{code:04X}" for code in range(0xD800, 0xE000)}
)
_WILDCARDS = re.compile(r"(/\*\*$|(?:(?<=/)|^)\*\*/|\*\*|\*|\?)")
_EXPRESSIONS = {"/**": "(?:/.*)?", "**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
_SEARCHED = 2_000
"""Paths looked at for near misses; more would make an error message take seconds."""


def components(texts: Sequence[str], kinds: Sequence[str]) -> list[str]:
    """The path components of the keys of one dict: their texts, escaped and told apart.

    Where keys of several types share a text, as `1` and `"1"` do, the string keeps it and every other one gets `%` and
    its type: `1%int`. Where that is not enough (two NaN), `#` and its position follow. Neither can arise from a string.

    Args:
        texts: the text of each key.
        kinds: the type of each key, `str` for strings.

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
    """A test whether a path matches one of the patterns.

    `*` stands for any text within a component, `?` for one character of it, and `**` for any number of components:
    `encoder/**`, `**/bias`, `encoder/layers/*/kernel`.

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


def nearest(path: str, paths: Iterable[str]) -> list[str]:
    """Up to three paths that somebody who wrote `path` may have meant, the likeliest first."""
    return difflib.get_close_matches(path, islice(paths, _SEARCHED), n=3, cutoff=0.4)


def _expression(pattern: str) -> str:
    return "".join(_EXPRESSIONS.get(piece, re.escape(piece)) for piece in _WILDCARDS.split(pattern))
