"""Patterns of files to exclude, as in `.gitignore`.

The last pattern that matches decides. The patterns of an ignore file take precedence over those of the directories
above it, and over the given ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rules:
    """The compiled patterns of one directory."""

    names: frozenset[str]
    """All patterns, if each is a plain name: a look-up is much faster than matching."""
    patterns: Sequence[_Pattern]
    """All patterns otherwise, in reverse order, because the last one that matches decides."""
    start: int
    """Number of characters at the start of a path that the patterns ignore."""

    def verdict(self, path: str, name: str, is_directory: bool) -> bool | None:
        """Return whether the patterns exclude a path. None if no pattern matches."""
        if name in self.names:
            return True
        for pattern in self.patterns:
            if (is_directory or not pattern.only_directories) and pattern.regex.fullmatch(path, self.start):
                return pattern.leaves_out
        return None


@dataclass(frozen=True, slots=True)
class _Pattern:
    regex: re.Pattern[str]
    leaves_out: bool
    only_directories: bool


def left_out(rules: Iterable[Rules], path: str, name: str, is_directory: bool) -> bool:
    """Return whether patterns exclude a path.

    Args:
        rules: The patterns, those of the deepest directory first.
        path: The path relative to the directory that is scanned.
        name: Its last part.
        is_directory: Whether it is a directory.
    """
    for each in rules:
        verdict = each.verdict(path, name, is_directory)
        if verdict is not None:
            return verdict
    return False


def rules_of(patterns: Sequence[str], start: int) -> tuple[Rules, ...]:
    """Compile the patterns of one directory.

    Args:
        patterns: Lines as in `.gitignore`.
        start: Number of characters of a path up to this directory. The patterns are matched with the rest.

    Returns:
        The compiled patterns. An empty tuple if there are none.
    """
    patterns = [pattern for pattern in map(_stripped, patterns) if pattern and not pattern.startswith("#")]
    if not patterns:
        return ()
    if not any(set(pattern) & set("*?[!/\\") for pattern in patterns):
        return (Rules(frozenset(patterns), (), start),)
    return (Rules(frozenset(), [_pattern(pattern) for pattern in reversed(patterns)], start),)


def _stripped(pattern: str) -> str:
    """Return a line without the spaces at its end, unless a backslash keeps one."""
    pattern = pattern.removesuffix("\r")
    bare = pattern.rstrip(" ")
    return bare + " " if bare.endswith("\\") and bare != pattern else bare


def _pattern(text: str) -> _Pattern:
    """Compile a line of an ignore file, as gitignore(5) explains it."""
    leaves_out = not text.startswith("!")
    text = text if leaves_out else text[1:]
    only_directories = text.endswith("/")
    text = text[:-1] if only_directories else text
    if "/" not in text:
        text = f"**/{text}"
    steps = text.removeprefix("/").split("/")
    regex = "".join(
        (".+" if last else "(?:.*/)?") if step == "**" else _step(step) + ("" if last else "/")
        for step, last in zip(steps, [False] * (len(steps) - 1) + [True], strict=True)
    )
    return _Pattern(re.compile(regex, re.DOTALL), leaves_out, only_directories)


_TOKEN = re.compile(r"\\(.)|(\*+)|(\?)|\[([!^]?)(\]?(?:\\.|[^\]\\])*)\]|(.)", re.DOTALL)


def _step(step: str) -> str:
    """Translate what is between two slashes. As for Git, a bracket that is not closed matches nothing."""
    found = []
    for token in _TOKEN.finditer(step):
        escaped, stars, question, negated, several, one = token.groups()
        if stars or question:
            found.append("[^/]*" if stars else "[^/]")
        elif several is not None:
            found.append(_members(several, "^" if negated else ""))
        else:
            found.append("(?!)" if one in ("[", "\\") else re.escape(escaped or one))
    return "".join(found)


def _members(several: str, negated: str) -> str:
    """Translate what is in brackets. A range whose end is before its start matches nothing, and so does a slash."""
    members = re.sub(r"(^\]|[\[&~|^])", r"\\\1", several)
    try:
        re.compile(f"[{members}]")
    except re.error:
        return "(?!)"
    return f"(?!/)[{negated}{members}]"
