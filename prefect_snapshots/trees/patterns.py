"""Patterns of files to leave out, as in `.gitignore`.

The last pattern that matches decides. The patterns of an ignore file take precedence over those of the directories
above it, and over the given ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rules:
    """The patterns of one place."""

    names: frozenset[str]
    """Patterns that are names only, when all of them are."""
    patterns: Sequence[_Pattern]
    """Otherwise all of them, the last one first."""
    start: int
    """Characters of a path before what the patterns see of it."""

    def verdict(self, path: str, name: str, is_directory: bool) -> bool | None:
        """Whether they leave a path out; None when they say nothing."""
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
    for each in rules:
        verdict = each.verdict(path, name, is_directory)
        if verdict is not None:
            return verdict
    return False


def rules_of(patterns: Sequence[str], start: int) -> tuple[Rules, ...]:
    patterns = [pattern for pattern in map(_stripped, patterns) if pattern and not pattern.startswith("#")]
    if not patterns:
        return ()
    if not any(set(pattern) & set("*?[!/\\") for pattern in patterns):
        return (Rules(frozenset(patterns), (), start),)
    return (Rules(frozenset(), [_pattern(pattern) for pattern in reversed(patterns)], start),)


def _stripped(pattern: str) -> str:
    """Without the spaces at its end, unless a backslash keeps one."""
    pattern = pattern.removesuffix("\r")
    bare = pattern.rstrip(" ")
    return bare + " " if bare.endswith("\\") and bare != pattern else bare


def _pattern(text: str) -> _Pattern:
    """A line of an ignore file, as gitignore(5) explains it."""
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
    """What stands between two slashes, as a regular expression. A bracket that is not closed matches nothing."""
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
    """What stands in brackets. A range whose end comes before its start matches nothing, and so does a slash."""
    members = re.sub(r"(^\]|[\[&~|^])", r"\\\1", several)
    try:
        re.compile(f"[{members}]")
    except re.error:
        return "(?!)"
    return f"(?!/)[{negated}{members}]"
