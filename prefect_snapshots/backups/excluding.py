"""Which files of a directory are left out: patterns as in `.gitignore`, given or found in ignore files on the way.

The last pattern that matches decides; those of an ignore file go before those of the directories above it, and before
the given ones. What lies in a directory that is left out is not looked at.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

RESTORING = ".prefect-snapshots-restoring-"
"""How the name of a folder begins in which a restore builds what it swaps in; never part of a backup."""


@dataclass(frozen=True, slots=True)
class _Rules:
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


def walk(
    folder: str,
    excludes: Sequence[str],
    ignore_files: Sequence[str],
    failed: Callable[[str, OSError], None],
) -> Iterator[tuple[str, os.DirEntry[str], bool]]:
    """Everything in a folder, directories before what is in them.

    Arguments:
        folder: where.
        excludes: patterns.
        ignore_files: names of files with patterns for the directory they lie in.
        failed: called with the path of a directory, or an ignore file, that cannot be read.

    Yields:
        The path relative to the folder, what `os.scandir` says of it, and whether it is left out.
    """
    waiting: list[tuple[str, str, tuple[_Rules, ...]]] = [("", folder, _rules(excludes, 0))]
    while waiting:
        prefix, at, rules = waiting.pop()
        try:
            with os.scandir(at) as found:
                entries = list(found)
        except OSError as error:
            failed(prefix.rstrip("/"), error)
            continue
        for entry in entries if ignore_files else ():
            if entry.name in ignore_files and entry.is_file(follow_symlinks=False):
                try:
                    with open(entry.path, encoding="utf-8-sig", errors="surrogateescape") as file:
                        rules = (*_rules(file.read().split("\n"), len(prefix)), *rules)
                except OSError as error:
                    failed(prefix + entry.name, error)
        for entry in entries:
            path = prefix + entry.name
            is_directory = entry.is_dir(follow_symlinks=False)
            if entry.name.startswith(RESTORING) or (rules and _left_out(rules, path, entry.name, is_directory)):
                yield path, entry, True
                continue
            yield path, entry, False
            if is_directory:
                waiting.append((f"{path}/", entry.path, rules))


def _left_out(rules: Iterable[_Rules], path: str, name: str, is_directory: bool) -> bool:
    for each in rules:
        verdict = each.verdict(path, name, is_directory)
        if verdict is not None:
            return verdict
    return False


def _rules(patterns: Sequence[str], start: int) -> tuple[_Rules, ...]:
    patterns = [pattern for pattern in map(_stripped, patterns) if pattern and not pattern.startswith("#")]
    if not patterns:
        return ()
    if not any(set(pattern) & set("*?[!/\\") for pattern in patterns):
        return (_Rules(frozenset(patterns), (), start),)
    return (_Rules(frozenset(), [_pattern(pattern) for pattern in reversed(patterns)], start),)


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
