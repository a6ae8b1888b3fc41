"""Restore a stored tree to a directory: build the new state beside it, and then switch to it.

`stage_directory` writes and verifies everything in a workspace, and returns a function that switches to it. The
directory and the workspace are kept open, and nothing below them is reached through a link: see `descriptors` for the
reason, and `planning` for what happens to each path.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..documents.texts import count_text
from ..errors import InvalidArgument, PermissionDenied, RestoreFailed, StorageError, StorageFull
from ..repository.contents import ContentReader
from .descriptors import DIRECTORY, Parents, exists, give, open_below, opened, opened_below, owned_by_others, resolve
from .entries import Entry
from .restore_plan import Options, RestorePlan, above, find_alone, make_plan
from .reusing import LocalFirst
from .scanning import xattrs_of
from .stored import StoredTree, VerifiedContent
from .unchanged import Placed, UnchangedFiles
from .workspaces import Workspace, delete_tree, recover, swap, sync_all, workspace
from .writing import NotSet, drop_attributes, set_directories, set_open, write_entries

_INHERITED = "system.posix_acl_default"
"""The access control list that new files in a directory get."""


@dataclass(frozen=True, slots=True)
class Restored:
    """The result of restoring a directory.

    Attributes:
        target: The directory. Links are resolved.
        files: How many files were written.
        size: Their size in bytes.
        carried: Paths that are not in the tree and stayed: they were excluded, or `delete` was False.
        not_set: Owners and extended attributes that could not be set.
        owner: If the user is root: who else can rename or replace the restored files. Empty if nobody can.
        unchanged: How many files were not written, because they were identical.
        leftovers: Full sentences about old states that could not be deleted.

    The warnings are complete when the block of `stage_directory` has ended.
    """

    target: Path
    files: int
    size: int
    carried: list[str]
    not_set: list[NotSet]
    owner: str = ""
    unchanged: int = 0
    leftovers: Sequence[str] = ()

    @property
    def warnings(self) -> list[str]:
        """Full sentences about what could not be set, and about other users who can change the result."""
        found = [
            f"The extended attribute '{each.path}: {each.attribute}' could not be set."
            for each in self.not_set
            if each.attribute
        ]
        if owned := [each.path for each in self.not_set if not each.attribute]:
            found.append(
                f"The owner or the group of {count_text(len(owned), 'file')} in {self.target} could not be set, such "
                f"as {owned[0] or '.'!r}. Restore as root to set them. Programs among them are restored without setuid."
            )
        if self.owner:
            found.append(f"{self.owner}, who can rename or replace the files in {self.target}.")
        return [*found, *self.leftovers]


def restore_directory(
    tree: StoredTree,
    target: str | os.PathLike[str],
    *,
    only: str | Sequence[str] | None = None,
    delete: bool = True,
    in_place: bool = False,
    only_changed: bool = False,
    passed: Callable[[int], None] = lambda _: None,
) -> Restored:
    """Restore a directory to the state in a tree, or some files and folders of it. See `stage_directory`."""
    with stage_directory(
        tree, target, only=only, delete=delete, in_place=in_place, only_changed=only_changed, passed=passed
    ) as switch:
        return switch()


@contextmanager
def stage_directory(
    tree: StoredTree,
    target: str | os.PathLike[str],
    *,
    only: str | Sequence[str] | None = None,
    delete: bool = True,
    in_place: bool = False,
    merge: bool = False,
    only_changed: bool = False,
    passed: Callable[[int], None] = lambda _: None,
) -> Iterator[Callable[[], Restored]]:
    """Build the new state of a directory beside the old one, verified and durable. The old state does not change.

    Leaving the block deletes the new state if it was not used, and the old state if it was replaced.

    Args:
        tree: The tree to restore.
        target: The directory. It need not exist. A link is followed; for root only if it belongs to root.
        only: Restore only these paths of the tree. Default: everything.
        delete: Whether to delete files that are not in the tree. Files that the tree excludes stay in any case.
        in_place: Whether the directory itself stays, and its contents are swapped one by one. A kill during the switch
            then leaves a mixture of old and new. A mount point, and a directory whose parent you cannot write to, can
            only be restored in this way.
        merge: Whether all existing directories stay, and files that are not in the tree are ignored.
        only_changed: Whether files that are identical already are not written again, and only bytes that the directory
            does not have are read from the repository. See `unchanged` and `local`.
        passed: Called with the number of bytes just written, or found unchanged.

    Returns:
        A context manager that yields a function. Calling it switches to the new state. See `StagedDirectory.switch` for
        its errors.

    Raises:
        DamagedVersion: A file cannot be verified. The message names the first one.
        InvalidArgument: A path in `only` is not in the tree, or something cannot be swapped.
        StorageFull: There is not enough space for the new state beside the old one.
    """
    with ExitStack() as closing:
        root = resolve(target)
        with _errors(root):
            recover(root)
            paths = (only,) if isinstance(only, str) else only or ()
            options = Options(delete, in_place, merge, only_changed)
            plan = make_plan(tree, root, paths, options)
            staged = StagedDirectory(tree, root, plan, options, closing)
            staged.build(passed)
        yield staged.switch


@dataclass(frozen=True, slots=True)
class _Swap:
    """Something whose contents are replaced as a whole."""

    place: bytes
    """Its path relative to the directory that the target is in."""
    space: Workspace
    """The descriptor of the folder in which the new state is built."""
    new: bytes
    """The name of the new state in that folder."""
    where: bytes
    """The path of the place relative to the folder that the workspace is in."""


class StagedDirectory:
    """A directory whose new state is built beside it.

    Args:
        tree: The tree to restore.
        root: The directory.
        plan: What happens to each path.
        options: The options of the restore.
        closing: Deletes the workspaces when it is closed.
    """

    def __init__(self, tree: StoredTree, root: Path, plan: RestorePlan, options: Options, closing: ExitStack) -> None:
        self._tree, self._root, self._plan, self._options = tree, root, plan, options
        self._swaps: dict[bytes, _Swap] = {}
        self._spaces: dict[bytes, Workspace] = {}
        self._unchanged: dict[Workspace, UnchangedFiles] = {}
        self._carried: list[str] = []
        self._not_set: list[NotSet] = []
        self._leftovers: list[str] = []
        self._undo: list[Callable[[], None]] = []
        self._switched = False
        self._above = closing.enter_context(opened(root.parent, create=True))
        # When the block ends: delete the workspaces, which changes the directories around them; restore their
        # permissions; and set the new attributes of directories that stay.
        closing.callback(self._set_kept)
        self._writable = closing.enter_context(ExitStack())
        self._open = closing.enter_context(ExitStack())

    # --- building ----------------------------------------------------------------------------------------------------

    def build(self, passed: Callable[[int], None]) -> None:
        """Write everything that the switch needs."""
        for number, base in enumerate(self._plan.swaps):
            place = self._place(base)
            folder = self._folder_of(base, place)
            where = place[len(folder) + 1 :] if folder else place
            self._swaps[base] = _Swap(place, self._space(folder), b"%d" % number, where)
        placed: dict[Workspace, list[Placed]] = defaultdict(list)
        if (top := self._swaps.get(b"")) is not None:
            placed[top.space].append((self._root_entry, top.new))
        for entry in self._plan.entries:
            if (found := self._in_workspace(entry.raw)) is not None:
                placed[found[0].space].append((entry, found[1]))
        for space, entries in placed.items():
            if self._options.only_changed and self._tree.root is not None:
                self._unchanged[space] = UnchangedFiles(self._above, os.fsencode(self._root.name))
            self._not_set += write_entries(
                self._tree, space.file, entries, passed, self._unchanged.get(space), self._content
            )
        self._carry()
        for space, entries in placed.items():
            below = [each for each in entries if b"/" in each[1]]
            self._not_set += set_directories(self._tree, space.file, below)
            # To rename a directory, you need the right to write to it. `_finish` sets its real permissions.
            tops = [each for each in entries if b"/" not in each[1]]
            self._not_set += set_directories(self._tree, space.file, tops, also=0o700 if os.geteuid() else 0)
        # Without this, a loss of power after the switch could leave new files without their bytes.
        for space in self._spaces.values():
            sync_all(space.file)

    @cached_property
    def _content(self) -> VerifiedContent:
        """The bytes of the tree. With `only_changed`, those that the directory has are not read from the repository."""
        content = self._tree.content
        if self._options.only_changed and isinstance(content, ContentReader) and content.inline is None:
            return LocalFirst(self._tree, content, self._above, os.fsencode(self._root.name))
        return content

    @property
    def _root_entry(self) -> Entry:
        return self._tree.root or Entry(b"", stat.S_IFDIR | 0o755)

    def _place(self, base: bytes) -> bytes:
        return b"/".join(filter(None, (os.fsencode(self._root.name), base)))

    def _space(self, folder: bytes) -> Workspace:
        """Return the workspace in a folder. It is created if necessary."""
        if folder not in self._spaces:
            file = self._open.enter_context(opened_below(self._above, folder))
            _make_writable(file, self._writable)
            space = self._spaces[folder] = self._open.enter_context(workspace(file, self._leftovers))
            if self._tree.root is not None:
                # Everything in it would inherit rights that the tree does not have.
                with suppress(OSError, AttributeError):  # it has none, and macOS has no such call
                    os.removexattr(space.file, _INHERITED)
        return self._spaces[folder]

    def _folder_of(self, base: bytes, place: bytes) -> bytes:
        """Choose the folder for a workspace: on the file system of a place, and beside the target if possible."""
        beside = self._root.parent
        parent = beside / os.fsdecode(place.rpartition(b"/")[0])
        mounts = [mount for mount in self._plan.mounts if parent.is_relative_to(mount)]
        if mounts:
            return os.fsencode(max(mounts, key=lambda mount: len(mount.parts)).relative_to(beside))
        if base and not os.access(beside, os.W_OK | os.X_OK):
            return os.fsencode(self._root.name)
        if not base and self._root.exists() and not os.access(beside, os.W_OK | os.X_OK):
            raise InvalidArgument(
                f"You cannot write to {beside}, so {self._root} cannot be swapped as a whole. Nothing was changed. "
                "Restore to another place, or pass in_place=True to replace its contents one by one."
            )
        return b""

    def _in_workspace(self, raw: bytes) -> tuple[_Swap, bytes] | None:
        """Find the swap that a path is part of, and its path in the workspace; None if it is in a kept directory."""
        base = raw
        while (swapped := self._swaps.get(base)) is None:
            if not base:
                return None
            base = base.rpartition(b"/")[0]
        rest = raw[len(base) + 1 :] if base else raw
        return swapped, swapped.new + b"/" + rest if rest else swapped.new

    def _carry(self) -> None:
        """Create a second name (a hard link) in the new directories for every path that stays."""
        kept = set(self._plan.kept)
        made: list[tuple[int, bytes, bytes]] = []
        for raw in [raw for raw, whole in self._plan.alone.items() if whole]:
            found = self._in_workspace(raw)
            if found is None:
                if kept.intersection(above(raw)):
                    self._carried.append(os.fsdecode(raw))
            elif self._carry_one(raw, found[0].space.file, found[1], made):
                self._carried.append(os.fsdecode(raw))
        self._finish_above(made)

    def _carry_one(self, raw: bytes, space: int, where: bytes, made: list[tuple[int, bytes, bytes]]) -> bool:
        self._refuse_to_bury(raw)
        with _unless_in_the_way(), Parents(self._above) as old, Parents(space) as new:
            # directories that are not in the tree, but above a path that stays
            for depth, directory in enumerate(above(where)[1:]):
                parent, name = new.find(directory)
                if not exists(parent, name):
                    os.mkdir(name, 0o700, dir_fd=parent)
                    steps = raw.split(b"/")
                    made.append((space, directory, b"/".join(steps[: len(steps) - where.count(b"/") + depth])))
            (source, name), (target, new_name) = old.find(self._place(raw)), new.find(where)
            if exists(target, new_name):
                return False
            held = os.fstat(target)
            try:
                _link(source, name, target, new_name)
                # When it is built, the directory has the time from the tree.
                os.utime(target, ns=(held.st_atime_ns, held.st_mtime_ns))
            except PermissionError:
                raise InvalidArgument(
                    f"{os.fsdecode(raw)!r} in {self._root} is not in the backup, and you may not create a hard link to "
                    "it in the new directory, or not give that directory its owner. Nothing was changed. Restore as "
                    "root, or to another place. Files that may not be changed (`lsattr`) cannot be linked by anybody."
                ) from None
            return True
        return False

    def _refuse_to_bury(self, raw: bytes) -> None:
        for path in map(os.fsdecode, above(raw)):
            if path in self._tree.by_path and not self._tree.by_path[path][0].is_directory:
                raise InvalidArgument(
                    f"{os.fsdecode(raw)!r} in {self._root} is not in the backup, which has no directory {path!r} "
                    "to keep it in. Nothing was changed. Move it out of the way, or restore to another place."
                )

    def _finish_above(self, made: list[tuple[int, bytes, bytes]]) -> None:
        """Copy the attributes of old directories to the new ones that were created above paths that stay."""
        for space, new, old in reversed(made):
            with opened_below(space, new) as file, opened_below(self._above, self._place(old)) as like:
                _copy_attributes(like, file)

    def _carry_again(self) -> None:
        """Repeat this for paths that changed since, because the build may take hours while programs go on.

        For example, an excluded database may have a new `-wal` file, or none. Without the new file, the database would
        lose its last rows; with an old file, it would undo others.
        """
        before, now = self._plan.alone, find_alone(self._tree, self._root, self._options)
        made: list[tuple[int, bytes, bytes]] = []
        for raw in [raw for raw in (before | now) if now.get(raw, before.get(raw))]:
            if (found := self._in_workspace(raw)) is None:
                continue
            space, where = found[0].space.file, found[1]
            stays = now.get(raw, False)
            if os.fsdecode(raw) not in self._carried:
                if stays and self._carry_one(raw, space, where, made):
                    self._carried.append(os.fsdecode(raw))
                continue
            with _unless_in_the_way(), Parents(self._above) as old, Parents(space) as new:
                (source, name), (target, new_name) = old.find(self._place(raw)), new.find(where)
                _link_anew(source if stays else None, name, target, new_name)
        self._finish_above(made)

    def _write_changed(self) -> None:
        """Write files that were unchanged during the build, and have changed since."""
        for space, unchanged in self._unchanged.items():
            with Parents(space.file) as parents, ExitStack() as back:
                changed = unchanged.drop_changed(parents)
                for directory in {place.rpartition(b"/")[0] for _, place in changed}:
                    file = back.enter_context(opened_below(space.file, directory))
                    held = os.fstat(file)
                    # The directory already has the time and the permissions from the tree.
                    back.callback(os.utime, file, ns=(held.st_atime_ns, held.st_mtime_ns))
                    _make_writable(file, back)
                for _, place in changed:
                    parent, name = parents.find(place)
                    os.unlink(name, dir_fd=parent)
                self._not_set += write_entries(self._tree, space.file, changed)
            if changed:
                sync_all(space.file)

    # --- switching ---------------------------------------------------------------------------------------------------

    def switch(self) -> Restored:
        """Switch to the new state.

        Raises:
            RestoreFailed: A swap failed, and earlier swaps could not be undone.
            StorageError: A swap failed. Nothing has changed.
        """
        with _errors(self._root):
            try:
                self._carry_again()
                self._write_changed()
                for swapped in self._swaps.values():
                    self._take(swapped)
                for raw in self._plan.extras:
                    self._remove(raw)
                self._finish()
            except BaseException as error:
                self._take_back(error)
                raise
        self._switched = True
        kept = {
            entry.raw
            for unchanged in self._unchanged.values()
            for names, _ in unchanged.taken.values()
            for entry, _ in names
        }
        files = [entry for entry in self._plan.entries if entry.is_file and entry.raw not in kept]
        owner = owned_by_others(self._root.parent) if os.geteuid() == 0 else ""
        size = sum(entry.size for entry in files)
        return Restored(self._root, len(files), size, self._carried, self._not_set, owner, len(kept), self._leftovers)

    def _parent(self, place: bytes) -> tuple[int, bytes]:
        """Open the directory of a place, and make it writable."""
        directory, _, name = place.rpartition(b"/")
        parent = open_below(self._above, directory)
        self._open.callback(os.close, parent)
        _make_writable(parent, self._writable)
        return parent, name

    def _take(self, swapped: _Swap) -> None:
        parent, name = self._parent(swapped.place)
        space, new, where = swapped.space, swapped.new, swapped.where
        with suppress(OSError):  # it is not a directory, or does not exist
            # A directory that its owner cannot write to cannot be renamed.
            old = os.open(name, DIRECTORY, dir_fd=parent)
            self._open.callback(os.close, old)
            _make_writable(old, self._writable)
        existed = exists(parent, name)
        swap(space, new, parent, name, where)

        def undo() -> None:
            if existed:
                swap(space, new, parent, name, where)
            else:
                os.rename(name, new, src_dir_fd=parent, dst_dir_fd=space.file)

        self._undo.append(undo)
        os.fsync(parent)

    def _remove(self, raw: bytes) -> None:
        place = self._place(raw)
        space = self._space(self._folder_of(raw, place)).file
        parent, name = self._parent(place)
        gone = b"gone-%d" % len(self._undo)
        with suppress(OSError):
            old = os.open(name, DIRECTORY, dir_fd=parent)
            self._open.callback(os.close, old)
            _make_writable(old, self._writable)
        os.rename(name, gone, src_dir_fd=parent, dst_dir_fd=space)
        self._undo.append(lambda: os.rename(gone, name, src_dir_fd=space, dst_dir_fd=parent))
        os.fsync(parent)

    def _take_back(self, error: BaseException) -> None:
        for undo in reversed(self._undo):
            try:
                undo()
            except OSError as failed:
                raise RestoreFailed(
                    f"{self._root} is only partly restored: a swap failed ({error}), and earlier swaps could not be "
                    f"undone ({failed}). Restore it again to finish."
                ) from error
        self._undo.clear()

    def _finish(self) -> None:
        """Set the real permissions of moved directories, which might have prevented the move."""
        for base, swapped in self._swaps.items():
            entry = self._entry(base)
            if entry is not None and os.geteuid() and entry.mode & 0o700 != 0o700:
                with opened_below(self._above, swapped.place) as file:
                    set_open(self._tree, entry, file)

    def _set_kept(self) -> None:
        for base in reversed(self._plan.kept) if self._switched else ():
            if (entry := self._entry(base)) is not None:
                with opened_below(self._above, self._place(base)) as file:
                    if self._tree.root is not None:
                        self._not_set += drop_attributes(entry, file)
                    self._not_set += set_open(self._tree, entry, file)

    def _entry(self, base: bytes) -> Entry | None:
        if not base:
            return self._tree.root
        entry = self._tree.by_path[os.fsdecode(base)][0] if os.fsdecode(base) in self._tree.by_path else None
        return entry if entry is not None and entry.is_directory else None


# --- helpers ---------------------------------------------------------------------------------------------------------


def write_tree(tree: StoredTree, folder: Path, passed: Callable[[int], None] = lambda _: None) -> None:
    """Write a tree into a new or empty folder that only this user can open. Every byte is verified.

    Raises:
        DamagedVersion: A file cannot be verified. The message names the first one.
    """
    with _errors(folder):
        folder.mkdir(exist_ok=True, mode=0o700)
        placed = [(entry, entry.raw) for entry in tree.entries]
        with opened(os.path.realpath(folder)) as file:
            write_entries(tree, file, placed, passed)
            set_directories(tree, file, placed)
            if tree.root is not None:
                set_open(tree, tree.root, file)


@contextmanager
def _unless_in_the_way() -> Iterator[None]:
    """Leave the block if a file or a link is in the place of a directory. The tree has precedence."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EMLINK, errno.ENOTDIR, errno.ENOENT):
            raise


def _make_writable(file: int, back: ExitStack) -> None:
    """Give the owner of a directory write permission until `back` is closed. Root needs no permission."""
    status = os.fstat(file)
    if os.geteuid() and status.st_uid == os.geteuid() and status.st_mode & 0o300 != 0o300:
        copy = os.dup(file)
        back.callback(os.close, copy)
        back.callback(os.fchmod, copy, stat.S_IMODE(status.st_mode))
        os.fchmod(file, stat.S_IMODE(status.st_mode) | 0o300)


def _link(source: int, name: bytes, target: int, new: bytes) -> None:
    """Create a second name (a hard link) for a file, or for everything in a directory."""
    if not stat.S_ISDIR(os.stat(name, dir_fd=source, follow_symlinks=False).st_mode):
        os.link(name, new, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
        return
    os.mkdir(new, 0o700, dir_fd=target)
    made = [b"/."]
    # By paths and not by calls of itself: there may be more levels than a process may have open files.
    with Parents(source) as old, Parents(target) as fresh:
        for path in made:
            (from_file, _), (to_file, _) = old.find(name + path), fresh.find(new + path)
            for each in map(os.fsencode, os.listdir(from_file)):
                if stat.S_ISDIR(os.stat(each, dir_fd=from_file, follow_symlinks=False).st_mode):
                    os.mkdir(each, 0o700, dir_fd=to_file)
                    made.append(path[:-1] + each + b"/.")
                else:
                    os.link(each, each, src_dir_fd=from_file, dst_dir_fd=to_file, follow_symlinks=False)
        for path in reversed(made):
            _copy_attributes(old.find(name + path)[0], fresh.find(new + path)[0])


def _link_anew(source: int | None, name: bytes, target: int, new: bytes) -> None:
    """Update a second name to the file that the first name has now. `source` None: the first name is gone."""
    waiting, merged = [b""], []
    with ExitStack() as closing:
        old = None if source is None else closing.enter_context(Parents(source))
        fresh = closing.enter_context(Parents(target))
        for path in waiting:  # grows, see `_link`
            first = None if old is None else _status(*old.find(name + path))
            folder, raw = fresh.find(new + path)
            second = _status(folder, raw)
            if first is not None and second is not None and os.path.samestat(first, second):
                continue
            if old is not None and _is_directory(first) and _is_directory(second):
                merged.append(path)
                inside = [
                    os.listdir(parents.find(each + path + b"/.")[0]) for parents, each in ((old, name), (fresh, new))
                ]
                waiting += [path + b"/" + os.fsencode(each) for each in sorted({*inside[0], *inside[1]})]
                continue
            held = os.fstat(folder)
            if _is_directory(second):
                delete_tree(folder, raw)
            elif second is not None:
                os.unlink(raw, dir_fd=folder)
            if first is not None and old is not None:
                _link(*old.find(name + path), folder, raw)
            # The directory already has the time from the tree.
            os.utime(folder, ns=(held.st_atime_ns, held.st_mtime_ns))
            os.fsync(folder)
        for path in reversed(merged):
            if old is not None:
                _copy_attributes(old.find(name + path + b"/.")[0], fresh.find(new + path + b"/.")[0])


def _is_directory(status: os.stat_result | None) -> bool:
    return status is not None and stat.S_ISDIR(status.st_mode)


def _status(folder: int, raw: bytes) -> os.stat_result | None:
    try:
        return os.stat(raw, dir_fd=folder, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _copy_attributes(old: int, new: int) -> None:
    """Copy the attributes of another directory to an open one."""
    status = os.fstat(old)
    if not give(new, status.st_uid, status.st_gid):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
    for name, value in (xattrs_of(old) or {}).items():
        with suppress(OSError):
            os.setxattr(new, name, value)
    os.fchmod(new, stat.S_IMODE(status.st_mode))
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))


@contextmanager
def _errors(place: Path) -> Iterator[None]:
    """Convert errors of the system to our own, which say what cannot be restored."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StorageFull(
                f"There is not enough space beside {place} for the restored files: {error.strerror}. It is unchanged. "
                "Free some space, or restore to another place."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise PermissionDenied(f"{place} cannot be restored: {error}. It is unchanged.") from error
        raise
