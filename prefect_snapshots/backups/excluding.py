"""Which files of a directory are left out: patterns as in `.gitignore`, given or found in ignore files on the way.

The last pattern that matches decides; those of an ignore file go before those of the directories above it, and before
the given ones. What lies in a directory that is left out is not looked at.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

RESTORING = ".prefect-snapshots-restoring-"
"""How the name of a folder begins in which a restore builds what it swaps in; never part of a backup."""


@dataclass(frozen=True, slots=True)
class _Rules:
    """The patterns of one place."""

    names: frozenset[str]
    """Patterns that are names only, when all of them are."""
    spec: GitIgnoreSpec | None
    start: int
    """Characters of a path before what the patterns see of it."""

    def verdict(self, path: str, name: str) -> bool | None:
        """Whether they leave a path out; None when they say nothing. A directory ends with `/`."""
        if name in self.names:
            return True
        return self.spec.check_file(path[self.start :]).include if self.spec is not None else None


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
                    with open(entry.path, encoding="utf-8", errors="surrogateescape") as file:
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
        verdict = each.verdict(f"{path}/" if is_directory else path, name)
        if verdict is not None:
            return verdict
    return False


def _rules(patterns: Sequence[str], start: int) -> tuple[_Rules, ...]:
    patterns = [pattern for pattern in patterns if pattern.strip() and not pattern.startswith("#")]
    if not patterns:
        return ()
    if not any(set(pattern) & set("*?[]!/\\ \t\r") for pattern in patterns):
        return (_Rules(frozenset(patterns), None, start),)
    from pathspec import GitIgnoreSpec  # 50 ms that names alone do not need

    return (_Rules(frozenset(), GitIgnoreSpec.from_lines(patterns), start),)
