"""Plan the restore of a directory: decide what happens to each path. Nothing is changed here.

- A *swap* is a path whose contents are replaced as a whole, by one rename.
- A *kept* directory stays the same directory, and its contents are swapped one by one. This applies to mount points and
  the directories above them, to the target itself with `in_place`, and to all existing directories with `merge`.
- An *extra* is in a kept directory, but not in the tree. It is deleted.
- A path stays *alone* if it is not in the tree because it was excluded from it, or because `delete` is False.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InvalidArgument
from .entries import Entry
from .scanning import RESTORING, walk
from .stored import StoredTree

_OCTAL = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a restore. See `stage_directory`."""

    delete: bool = True
    in_place: bool = False
    merge: bool = False
    only_changed: bool = False


@dataclass(slots=True)
class RestorePlan:
    """What happens to each path. All paths are relative to the directory.

    Attributes:
        entries: The entries to write, sorted by path.
        swaps: Paths to swap. The empty path is the directory itself.
        kept: Directories that stay, parents first.
        extras: Paths to delete.
        alone: Paths that stay although they are not in the tree. True: with all their contents. False: only some of
            their contents stay.
        mounts: Mount points in the directory, including the directory itself.
    """

    entries: list[Entry]
    swaps: list[bytes] = field(default_factory=list)
    kept: list[bytes] = field(default_factory=list)
    extras: list[bytes] = field(default_factory=list)
    alone: dict[bytes, bool] = field(default_factory=dict)
    mounts: list[Path] = field(default_factory=list)


def make_plan(tree: StoredTree, root: Path, only: Sequence[str], options: Options) -> RestorePlan:
    """Decide what a restore does. All paths are checked before anything changes.

    Args:
        tree: The tree to restore.
        root: The directory, without links in its path. It need not exist.
        only: Restore only these paths of the tree. Empty: everything.
        options: The options of the restore.

    Raises:
        InvalidArgument: A path is not in the tree, or something cannot be swapped.
    """
    if os.path.lexists(root) and not root.is_dir():
        raise InvalidArgument(f"{root} is not a directory. Delete it, or restore to another place.")
    if root == root.parent:
        raise InvalidArgument("The root of the file system cannot be restored to. Restore to another place.")
    chosen = _choose(tree, root, only) if only else {b"": list(tree.entries)}
    plan = RestorePlan([entry for entries in chosen.values() for entry in entries])
    plan.mounts = [mount for mount in _mounts() if mount.is_relative_to(root)]
    plan.alone = find_alone(tree, root, options)
    _Expansion(plan, tree, root, options).run(chosen)
    return plan


def above(raw: bytes) -> list[bytes]:
    """Return the paths above a path, the shortest first: of `a/b/c` the empty one, `a` and `a/b`."""
    steps = raw.split(b"/")
    return [b"/".join(steps[:depth]) for depth in range(len(steps))] if raw else []


def _choose(tree: StoredTree, root: Path, only: Sequence[str]) -> dict[bytes, list[Entry]]:
    """Return what to swap for each path: the path itself, or the first missing directory above it."""
    chosen: dict[bytes, dict[bytes, Entry]] = defaultdict(dict)
    for path in only:
        base, entries = _choose_one(tree, root, path)
        chosen[base].update((entry.raw, entry) for entry in entries)
    return {
        base: sorted(entries.values(), key=lambda entry: entry.raw)
        for base, entries in chosen.items()
        if not any(each in chosen for each in above(base))
    }


def _choose_one(tree: StoredTree, root: Path, path: str) -> tuple[bytes, list[Entry]]:
    base = os.fsencode(path.rstrip("/"))  # entries were checked before: any other path is refused
    found = [entry for entry in tree.entries if entry.raw == base or entry.raw.startswith(base + b"/")]
    if not found:
        raise InvalidArgument(f"There is no {path!r} in {tree.title}. Nothing was changed.")
    for depth, raw in enumerate(directories := above(base)):
        place = root / os.fsdecode(raw)
        if not _is_there(place):
            missing = {each for each in directories[depth:] if each}
            return raw, [entry for entry in tree.entries if entry.raw in missing] + found
        if place.is_symlink() or not place.is_dir():
            raise InvalidArgument(
                f"{place} is not a directory, so nothing can be written below it. Nothing was changed. Restore to "
                "another place."
            )
    return base, found


def _is_there(place: Path) -> bool:
    """Unlike `os.path.lexists`, raise an error about a path that is too long: something may be there."""
    try:
        place.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def find_alone(tree: StoredTree, root: Path, options: Options) -> dict[bytes, bool]:
    """Find the paths in a directory that stay although they are not in the tree. See `Plan.alone`."""
    alone: dict[bytes, bool] = {}
    if not root.is_dir() or options.merge:
        return alone
    held = {entry.raw for entry in tree.entries}

    def stay(raw: bytes) -> None:
        alone[raw] = True
        for each in above(raw):
            alone.setdefault(each, False)

    def failed(path: str, error: OSError) -> None:
        # Its contents cannot be listed. If it is in the tree, excluded files in it would be lost.
        if os.fsencode(path) in held:
            raise error
        stay(os.fsencode(path))

    for path, item, _, is_left_out in walk(str(root), tree.selection, failed):
        raw = os.fsencode(path)
        if item.name.startswith(RESTORING) or alone.get(raw.rpartition(b"/")[0]):
            continue
        # A directory whose contents could not be read is in the tree, but its contents are not.
        unread = tree.left_out.intersection(held, (raw.rpartition(b"/")[0],))
        if is_left_out or unread or (raw not in held and (raw in tree.left_out or not options.delete)):
            stay(raw)
    return alone


class _Expansion:
    """Finds out which directories are kept."""

    def __init__(self, plan: RestorePlan, tree: StoredTree, root: Path, options: Options) -> None:
        self.plan, self.tree, self.root, self.options = plan, tree, root, options
        self.directories = {entry.raw for entry in plan.entries if entry.is_directory} | {b""}
        self.children: dict[bytes, list[bytes]] = defaultdict(list)
        if options.in_place or options.merge or plan.mounts:
            for entry in plan.entries:
                self.children[entry.raw.rpartition(b"/")[0]].append(entry.raw)

    def run(self, bases: Sequence[bytes] | dict[bytes, list[Entry]]) -> None:
        waiting = list(bases)
        while waiting:
            base = waiting.pop()
            place = self._place(base)
            if self.options.merge:
                self._refuse_mixture(base, place)
            if not self._keeps(base, place):
                self.plan.swaps.append(base)
                continue
            self.plan.kept.append(base)
            if base and place in self.plan.mounts and self.tree.selection.one_file_system:
                continue  # the mounted contents were excluded
            waiting += self.children[base]
            if not self.options.merge:
                self._find_extras(base, place)

    def _keeps(self, base: bytes, place: Path) -> bool:
        is_directory = place.is_dir() and not place.is_symlink()
        mounts = self._mounts(place)
        if not mounts:
            return is_directory and (self.options.merge or (self.options.in_place and not base))
        if not (self.options.in_place or self.options.merge):
            where = f"{mounts[0]} is a mount point" + ("" if mounts[0] == place else f" in {place}")
            raise InvalidArgument(
                f"{where}, so it cannot be swapped as a whole. Nothing was changed. Unmount it, restore to another "
                "place, or pass in_place=True to replace its contents one by one."
            )
        if not is_directory or base not in self.directories:
            raise InvalidArgument(
                f"{mounts[0]} is a mount point, and {self.tree.title} has no directory there. Nothing was changed. "
                "Unmount it, or restore to another place."
            )
        return True

    def _find_extras(self, base: bytes, place: Path) -> None:
        children = set(self.children[base])
        for name in os.listdir(place):
            raw = base + b"/" + os.fsencode(name) if base else os.fsencode(name)
            if name.startswith(RESTORING) or raw in children or self.plan.alone.get(raw):
                continue
            if mounts := self._mounts(place / name):
                raise InvalidArgument(
                    f"{mounts[0]} is a mount point that is not in {self.tree.title}. Nothing was changed. Unmount "
                    "it, or restore to another place."
                )
            if raw in self.plan.alone:
                self.plan.swaps.append(raw)  # the new directory contains only the paths that stay
            elif self.options.delete:
                self.plan.extras.append(raw)

    def _refuse_mixture(self, base: bytes, place: Path) -> None:
        is_directory = place.is_dir() and not place.is_symlink()
        if os.path.lexists(place) and is_directory != (base in self.directories):
            raise InvalidArgument(
                f"{place} is {'a' if is_directory else 'no'} directory, and {self.tree.title} has "
                f"{'a file' if is_directory else 'one'} there. Nothing was changed. Choose another target."
            )

    def _mounts(self, place: Path) -> list[Path]:
        return [mount for mount in self.plan.mounts if mount.is_relative_to(place)]

    def _place(self, base: bytes) -> Path:
        return self.root / os.fsdecode(base) if base else self.root


def _mounts() -> list[Path]:
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return []
    return [Path(os.fsdecode(_OCTAL.sub(lambda found: bytes([int(found[1], 8)]), line.split()[4]))) for line in lines]
