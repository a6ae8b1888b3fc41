"""The files of one version: what is at a path within it, and how its bytes are read."""

from __future__ import annotations

import dataclasses
import posixpath
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

from ..messages import hint
from ..trees.entries import Entry
from ..trees.stored import StoredTree

NodeType = Literal["file", "directory", "link", "other"]
Read = Callable[[int, int], bytes]
"""Returns verified bytes: from an offset on, a number of them."""

_HOPS = 40
"""Links to follow until a file: what Linux allows."""


@dataclass(frozen=True, slots=True)
class Node:
    """What is at one path of a version.

    Attributes:
        path: The path within the version. Empty for the version itself.
        type: "file", "directory", "link" (a symbolic link that does not lead to a file of this version) or "other".
        size: The size of a file in bytes, else 0.
        modified: When the file was last changed, in seconds since 1970. None: unknown.
        link: What a symbolic link points to.
        mode: The permissions of a file or directory. None: unknown.
        read: A function that returns bytes of a file. None for everything else.
    """

    path: str
    type: NodeType
    size: int = 0
    modified: float | None = None
    link: str | None = None
    mode: int | None = None
    read: Read | None = None


class FileTree(Protocol):
    """The files of one version."""

    def find(self, path: str) -> Node | None:
        """Return what is at a path, or None if nothing is."""

    def children(self, path: str) -> Sequence[Node]:
        """Return what a directory contains. Empty if there is no such directory."""


class StoredFiles:
    """The files of a stored tree.

    Args:
        tree: The tree.
    """

    def __init__(self, tree: StoredTree) -> None:
        self._tree = tree
        self._below: dict[str, list[str]] = {}
        for path in tree.by_path:
            self._below.setdefault(path.rpartition("/")[0], []).append(path)

    def find(self, path: str) -> Node | None:
        """Return what is at a path, or None if nothing is."""
        if not path:
            return Node("", "directory")
        found = self._tree.by_path.get(path)
        return None if found is None else self._node(path, found[0])

    def children(self, path: str) -> Sequence[Node]:
        """Return what a directory contains."""
        return [self._node(each, self._tree.by_path[each][0]) for each in self._below.get(path, ())]

    def _node(self, path: str, entry: Entry) -> Node:
        type_: NodeType = "directory" if entry.is_directory else "file" if entry.is_file else "other"
        modified = entry.mtime / 1e9 if entry.mtime else None
        node = Node(path, type_, entry.size if entry.is_file else 0, modified, mode=stat.S_IMODE(entry.mode))
        if not entry.is_symlink:
            return dataclasses.replace(node, read=partial(self._tree.read, path)) if entry.is_file else node
        link, target = entry.link.decode("utf-8", "surrogateescape"), self._follow(path)
        if target is None:
            return dataclasses.replace(node, type="link", link=link)
        read = partial(self._tree.read, target.path)
        return dataclasses.replace(node, type="file", size=target.size, link=link, read=read)

    def _follow(self, path: str) -> Entry | None:
        """Return the file that a link leads to, if that is in this tree and no other link is on the way."""
        for _ in range(_HOPS):
            found = self._tree.by_path.get(path)
            if found is None or found[0].is_directory:
                return None
            if not found[0].is_symlink:
                return found[0] if found[0].is_file else None
            link = found[0].link.decode("utf-8", "surrogateescape")
            # After a name, `..` leads elsewhere if that name is a link itself.
            if link.startswith("/") or ".." in link.lstrip("./").split("/"):
                return None
            path = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
        return None


class JoinedTrees:
    """Several trees, each in a directory. They are opened when they are first used.

    Args:
        trees: A function that opens each tree, by the name of its directory.
        also: Other names by which a directory is found, and that are not listed.
    """

    def __init__(self, trees: Mapping[str, Callable[[], FileTree]], also: Mapping[str, str] | None = None) -> None:
        self._open = trees
        self._also = also or {}
        self._trees: dict[str, FileTree] = {}

    def find(self, path: str) -> Node | None:
        """Return what is at a path, or None if nothing is."""
        if not path:
            return Node("", "directory")
        name, _, rest = path.partition("/")
        tree = self._tree(name)
        found = None if tree is None else tree.find(rest)
        return None if found is None else dataclasses.replace(found, path=path)

    def children(self, path: str) -> Sequence[Node]:
        """Return what a directory contains."""
        if not path:
            return [Node(name, "directory") for name in self._open]
        name, _, rest = path.partition("/")
        tree = self._tree(name)
        below = () if tree is None else tree.children(rest)
        return [dataclasses.replace(node, path=f"{name}/{node.path}") for node in below]

    def _tree(self, name: str) -> FileTree | None:
        name = self._also.get(name, name)
        if name not in self._trees and name in self._open:
            self._trees[name] = self._open[name]()
        return self._trees.get(name)


def missing_hint(tree: FileTree, path: str) -> str:
    """Return a hint for a message about a path that does not exist: similar names in the nearest directory."""
    parent, _, name = path.rpartition("/")
    while parent and tree.find(parent) is None:
        parent, _, name = parent.rpartition("/")
    return hint(name, [node.path.rpartition("/")[2] for node in tree.children(parent)])
