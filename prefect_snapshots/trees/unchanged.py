"""Find files of a directory that a restore would not change, and give them a second name in the new state.

A file is *unchanged* if its bytes and all attributes that a restore sets are equal to those of the entry, and if it has
exactly the names that the tree has for it. The new state gets a hard link to it, so it is not written again. Both
states share the file until the old one is deleted. So nothing is ever set on it, and if a program changes it before
the switch, `drop_changed` finds it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .descriptors import FILE, Parents
from .entries import Entry
from .scanning import extents_of, mtime_of, state_of, xattrs_of

Placed = tuple[Entry, bytes]
"""An entry, and its path in the folder to which it is written."""


@dataclass(slots=True)
class UnchangedFiles:
    """The unchanged files of a directory. Several threads may use it.

    Args:
        folder: The descriptor of a folder.
        root: The path of the directory relative to it.
    """

    folder: int
    root: bytes
    taken: dict[bytes, tuple[list[Placed], tuple[int, ...]]] = field(default_factory=dict)
    """By the path of the entry with the bytes: the names in the new state, and values that differ after a change."""

    def take(
        self, entry: Entry, names: Sequence[Placed], old: Parents, new: Parents, same: Callable[[int], bool]
    ) -> bool:
        """Create all names of a file in the new state, if the old state has the same file under the same names.

        Args:
            entry: The entry with the bytes and attributes.
            names: The entries of all names of the file.
            old: Finds directories below `folder`.
            new: Finds directories of the new state.
            same: Compares the bytes of an open file.

        Returns:
            Whether it was unchanged. If not, nothing has changed in the new state.
        """
        made: list[bytes] = []
        try:
            state = self._take(entry, names, old, new, same, made)
        except OSError:  # it is gone, may not be read or linked, or is something else by now: it is written
            state = None
        if state is None:
            for place in made:
                parent, name = new.find(place)
                os.unlink(name, dir_fd=parent)
            return False
        self.taken[entry.raw] = list(names), state
        return True

    def _take(
        self,
        entry: Entry,
        names: Sequence[Placed],
        old: Parents,
        new: Parents,
        same: Callable[[int], bool],
        made: list[bytes],
    ) -> tuple[int, ...] | None:
        # Another name, inside of the directory or outside, would stay connected with the file.
        found = [_status(old, self._place(each)) for each, _ in names]
        if not _like(entry, found[0], len(names)) or not all(os.path.samestat(found[0], each) for each in found):
            return None
        parent, name = old.find(self._place(names[0][0]))
        file = os.open(name, FILE, dir_fd=parent)
        try:
            before = os.fstat(file)
            if not os.path.samestat(before, found[0]) or not _like(entry, before, len(names)):
                return None
            attributes = xattrs_of(file), extents_of(file, before)
            if attributes != (entry.xattrs or None, entry.extents) or not same(file):
                return None
            if state_of(os.fstat(file)) != state_of(before):
                return None
            for each, place in names:
                (source, first), (target, second) = old.find(self._place(each)), new.find(place)
                os.link(first, second, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
                made.append(place)
            after = os.fstat(file)
        finally:
            os.close(file)
        linked = [_status(new, place) for _, place in names]
        if not all(os.path.samestat(after, each) for each in linked) or not _like(entry, after, 2 * len(names)):
            return None
        return state_of(after)

    def drop_changed(self, new: Parents) -> list[Placed]:
        """Forget the files that have changed since they were taken. Their names in the new state must be replaced."""
        changed = []
        for raw, (names, state) in list(self.taken.items()):
            if state_of(_status(new, names[0][1])) != state:
                changed += names
                del self.taken[raw]
        return changed

    def _place(self, entry: Entry) -> bytes:
        return self.root + b"/" + entry.raw


def _status(parents: Parents, place: bytes) -> os.stat_result:
    parent, name = parents.find(place)
    return os.stat(name, dir_fd=parent, follow_symlinks=False)


def _like(entry: Entry, status: os.stat_result, names: int) -> bool:
    """Whether a file has the attributes of an entry, and this number of names."""
    return (entry.mode, entry.size, entry.mtime, entry.uid, entry.gid, names) == (
        *(status.st_mode, status.st_size, mtime_of(status), status.st_uid, status.st_gid, status.st_nlink),
    )
