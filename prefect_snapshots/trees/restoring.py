"""Entries -> a directory on the disk: written beside it, and then swapped.

What a restore writes goes into a *workspace*, a new folder of a recognisable name in the same directory as the target,
so that nothing is ever written through a link, and a rename puts it in place. Who is killed leaves the target as it was
or as it should be, and perhaps a workspace; the next restore or backup removes it, for no lock is held on it any more.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec

from ..errors import (
    DamagedVersion,
    IntegrityError,
    InvalidArgument,
    InvalidName,
    PermissionDenied,
    StorageError,
    StorageFull,
)
from ..repository.location import LargeFile
from .entries import Entry, check_path
from .scanning import RESTORING, walk
from .stored import StoredTree

_SPAN = 4 * 1024 * 1024
"""Bytes of the body that a thread reads at once."""
_FILES = 512
"""Files that a thread writes at once."""
_WORKERS = min(8, max(2, os.cpu_count() or 2))
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ASIDE = "old"
"""Where in a workspace the old waits while the new takes its place, where both cannot be swapped at once."""
_OCTAL = re.compile(rb"\\([0-7]{3})")
_LIBC = ctypes.CDLL(None, use_errno=True)
_AT_CWD = -100
_thread = threading.local()
_EXCHANGE = 2


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did."""

    target: Path
    """Where: a link that was given is resolved."""
    files: int
    size: int
    carried: list[str]
    """What was not in the backup, and is there still: it was excluded, or `delete` was false."""
    not_set: list[str] = field(default_factory=list)
    """Extended attributes that this file system does not take."""


def restore_directory(
    part: StoredTree,
    target: str | os.PathLike[str],
    *,
    only: str | Sequence[str] | None = None,
    delete: bool = True,
    in_place: bool = False,
    passed: Callable[[int], None] = lambda _: None,
) -> Restored:
    """Make a directory what a part of a backup holds, or some files and folders in it.

    Args and errors are those of `stage_directory`.

    Returns:
        What was done.
    """
    with stage_directory(part, target, only=only, delete=delete, in_place=in_place, passed=passed) as switch:
        return switch()


@contextmanager
def stage_directory(
    part: StoredTree,
    target: str | os.PathLike[str],
    *,
    only: str | Sequence[str] | None = None,
    delete: bool = True,
    in_place: bool = False,
    passed: Callable[[int], None] = lambda _: None,
) -> Iterator[Callable[[], Restored]]:
    """Write what a part of a backup holds beside a directory, and give the function that puts it in its place.

    Everything is written and verified beside the target before anything of the target changes. Leaving the block
    without calling the function deletes what was written, and leaves the target as it was.

    Args:
        part: The part of the backup.
        target: The directory; it need not exist. A link is followed.
        only: Paths within the part: nothing else is touched. All of them are looked at, and written, before the first
            one is put in its place. None: everything.
        delete: Whether to delete what the backup does not hold. What its patterns exclude stays in any case.
        in_place: Swap what is in the target one by one, if it cannot be swapped as a whole because it is a mount
            point, or because the directory that it lies in cannot be written. A kill then leaves some old and some new.
        passed: Called with bytes that were written.

    Raises:
        DamagedVersion: A file cannot be verified. The message names it, and the target is untouched.
        InvalidArgument: There is no `only`, or the target cannot be swapped. The target is untouched.
        StorageFull: There is no space for the new beside the old. The target is untouched.
    """
    root = Path(os.path.realpath(target))
    recover(root)
    if os.path.lexists(root) and not root.is_dir():
        raise InvalidArgument(f"{root} is not a directory: remove it, or restore to another place")
    paths = None if only is None else [only] if isinstance(only, str) else only
    chosen = {b"": list(part.entries)} if paths is None else _choose_all(part, root, paths)
    places = {base: root / os.fsdecode(base) if base else root for base in chosen}
    for place in places.values():
        recover(place)
        if (inside := _cannot_swap(place)) and not (in_place and place.is_dir()):
            raise InvalidArgument(
                f"{inside}. Restore to another place, or in place: then not as a whole, but one by one"
            )
    with ExitStack() as stack:
        staged = []
        for base, entries in chosen.items():
            stack.enter_context(_errors(places[base]))
            staged.append(stack.enter_context(_staged(part, root, base, entries, delete, passed)))

        def switch() -> Restored:
            done: list[_Staged] = []
            try:
                for each in staged:
                    done.append(each)
                    each.swap()
            except BaseException:
                # Some paths old and some new would be neither the one nor the other.
                for each in reversed(done):
                    each.swap_back()
                raise
            for each in staged:
                each.tidy()
            files = [entry for entries in chosen.values() for entry in entries if entry.is_file]
            return Restored(
                staged[0].place if len(staged) == 1 else root,
                len(files),
                sum(entry.size for entry in files),
                [path for each in staged for path in each.carried],
                [name for each in staged for name in each.not_set],
            )

        yield switch


@dataclass(slots=True)
class _Staged:
    """One path that is written beside the place where it goes."""

    new: Path
    place: Path
    workspace: Path
    inside: bool
    """Whether what is in the place is swapped one by one."""
    carried: list[str]
    not_set: list[str]
    tidy: Callable[[], None]
    """To be called when it is in its place."""
    swapped: bool = False

    def swap(self) -> None:
        if self.inside:
            _swap_each(self.new, self.place, self.workspace)
        else:
            _swap(self.new, self.place, self.workspace)
        self.swapped = True

    def swap_back(self) -> None:
        """Put back what was there, as far as it was swapped as a whole."""
        if not self.swapped or self.inside:
            return
        aside = self.workspace / _ASIDE / self.place.name
        if os.path.lexists(self.new):
            _exchange(self.new, self.place)
        else:
            os.rename(self.place, self.new)
            if os.path.lexists(aside):
                os.rename(aside, self.place)
        _sync(self.place.parent)


@contextmanager
def _staged(
    part: StoredTree,
    root: Path,
    base: bytes,
    entries: Sequence[Entry],
    delete: bool,
    passed: Callable[[int], None],
) -> Iterator[_Staged]:
    place = root / os.fsdecode(base) if base else root
    inside = bool(_cannot_swap(place))
    place.parent.mkdir(parents=True, exist_ok=True)
    with _workspace(place if inside else place.parent) as workspace:
        new = workspace / "new" / (place.name or "root")
        new.parent.mkdir()
        not_set = _write(part, new, entries, base, passed)
        carried = list(_carry(part, root, new, base, delete)) if new.is_dir() and place.is_dir() else []
        not_set += _set_directories(part, new, entries, base)
        _sync_all(workspace)
        tops = [entry for entry in entries if entry.raw == base]

        def tidy() -> None:
            if inside:
                with suppress(OSError):  # the next restore tries again
                    _remove(workspace)
            # Once more: making and removing what lay beside has changed them, where they were restored in place.
            _set_directories(part, place, tops, base)

        yield _Staged(new, place, workspace, inside, carried, not_set, tidy)


def recover(target: str | os.PathLike[str]) -> None:
    """Remove what a killed restore has left beside a target, or in it, and put back what it had set aside."""
    place = Path(target)
    for folder in (place.parent, place):
        try:
            names = [name for name in os.listdir(folder) if name.startswith(RESTORING)]
        except OSError:
            continue
        for name in names:
            with suppress(OSError), _locked(folder / name):
                _put_back(folder / name, folder)
                _remove(folder / name)


# --- writing ---------------------------------------------------------------------------------------------------------


def write(part: StoredTree, folder: Path) -> None:
    """Write a part into a new or empty folder, every byte verified.

    Raises:
        DamagedVersion: naming the first file that cannot be verified.
    """
    with _errors(folder):
        _write(part, folder, part.entries, b"", lambda _: None)
        _set_directories(part, folder, part.entries, b"")


def _write(
    part: StoredTree, folder: Path, entries: Sequence[Entry], base: bytes, passed: Callable[[int], None]
) -> list[str]:
    """Write entries below `base` into a folder that stands for it. Returns the attributes that could not be set."""
    exact = part.root is not None
    place = partial(_place, os.fsencode(folder), base)
    not_set: list[str] = []
    if not base:
        folder.mkdir(exist_ok=True, mode=0o700)
    files: list[tuple[Entry, int]] = []
    written: dict[bytes, bytes] = {}
    others: list[tuple[bytes, bytes]] = []
    for entry in entries:
        try:
            if entry.is_directory:
                os.mkdir(place(entry.raw), 0o700)
            elif entry.is_symlink:
                os.symlink(entry.link, place(entry.raw))
                not_set += _set(entry, place(entry.raw))
            elif not entry.is_file:
                os.mkfifo(place(entry.raw), 0o600)
                not_set += _set(entry, place(entry.raw))
            elif entry.link in written:
                others.append((written[entry.link], entry.raw))
            else:
                first, offset = part.by_path[_text(entry.link or entry.raw)]
                written[first.raw] = entry.raw
                files.append((msgspec.structs.replace(first, raw=entry.raw) if entry.link else first, offset))
        except FileExistsError:
            raise _two_names(entry) from None

    def job(span: list[tuple[Entry, int]]) -> tuple[int, list[str]]:
        try:
            return _write_span(part, span, place, exact)
        except IntegrityError as error:
            raise DamagedVersion(part.label, _damaged(part, span), str(error)) from error

    with ThreadPoolExecutor(_WORKERS, "prefect-snapshots-files") as workers:
        try:
            for size, failed in workers.map(job, _spans(files)):
                passed(size)
                not_set += failed
        except BaseException:
            workers.shutdown(cancel_futures=True)
            raise
    for first_name, name in others:
        os.link(place(first_name), place(name), follow_symlinks=False)
    return not_set


def _place(folder: bytes, base: bytes, raw: bytes) -> bytes:
    return folder + raw[len(base) :] if base else folder + b"/" + raw


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _two_names(entry: Entry) -> InvalidName:
    return InvalidName(f"{entry.path!r}: this file system takes two names of the backup for one")


def _spans(files: Iterable[tuple[Entry, int]]) -> Iterator[list[tuple[Entry, int]]]:
    """Files whose bytes follow each other; one that is larger than a span is alone."""
    span: list[tuple[Entry, int]] = []
    start = end = 0
    for entry, offset in files:
        if span and (offset != end or offset + entry.stored - start > _SPAN or len(span) >= _FILES):
            yield span
            span = []
        if not span:
            start = offset
        span.append((entry, offset))
        end = offset + entry.stored
    if span:
        yield span


def _write_span(
    part: StoredTree, span: list[tuple[Entry, int]], place: Callable[[bytes], bytes], exact: bool
) -> tuple[int, list[str]]:
    start = span[0][1]
    end = span[-1][1] + span[-1][0].stored
    together = end - start <= _SPAN
    buffer = _buffer()
    data = buffer[: end - start]
    if together:
        part.content.read_into([(start, data)])
    not_set = []
    for entry, offset in span:
        try:
            file = os.open(place(entry.raw), _NEW, 0o600)
        except FileExistsError:
            raise _two_names(entry) from None
        try:
            for at, length in ((0, entry.size),) if entry.extents is None else entry.extents:
                if together:
                    _write_at(file, data[offset - start : offset - start + length], at)
                else:
                    os.lseek(file, at, os.SEEK_SET)
                    large = LargeFile(file, at)
                    for done in range(0, length, _SPAN):
                        piece = buffer[: min(_SPAN, length - done)]
                        part.content.read_into([(offset + done, piece)])
                        large.write([piece])
                    large.finish()
                offset += length
            if entry.extents is not None:
                os.ftruncate(file, entry.size)
            if exact:
                not_set += _set(entry, file)
        finally:
            os.close(file)
    return end - start, not_set


def _buffer() -> memoryview:
    """A span of memory of this thread: new memory for each span would cost as much as the writing."""
    found: memoryview | None = getattr(_thread, "buffer", None)
    if found is None:
        found = _thread.buffer = memoryview(bytearray(_SPAN))
    return found


def _write_at(file: int, data: memoryview, at: int) -> None:
    while data:
        count = os.pwrite(file, data, at)
        data = data[count:]
        at += count


def _damaged(part: StoredTree, span: Iterable[tuple[Entry, int]]) -> str:
    for entry, offset in span:
        if not part.is_sound(entry, offset):
            return f"{part.name}: file {entry.path!r}"
    return part.name


# --- modes, owners, times --------------------------------------------------------------------------------------------


def _set_directories(part: StoredTree, folder: Path, entries: Sequence[Entry], base: bytes) -> list[str]:
    """Modes and times of directories: after all that is in them, and what is in a directory before itself."""
    if part.root is None:
        return []
    place = partial(_place, os.fsencode(folder), base)
    not_set: list[str] = []
    for entry in reversed(entries):
        if entry.is_directory:
            not_set += _set(entry, place(entry.raw))
    if not base:
        not_set += _set(part.root, os.fsencode(folder))
    return not_set


def _set(entry: Entry, where: bytes | int) -> list[str]:
    """Owner, permissions, attributes and times. Returns the attributes that could not be set."""
    follow = isinstance(where, int)
    if os.geteuid() == 0:
        os.chown(where, entry.uid, entry.gid, follow_symlinks=follow)
    elif entry.gid != os.getegid() and entry.gid in os.getgroups():
        os.chown(where, -1, entry.gid, follow_symlinks=follow)
    if not entry.is_symlink:
        os.chmod(where, stat.S_IMODE(entry.mode))  # after the owner: changing that takes setuid away
    not_set = []
    for name, value in (entry.xattrs or {}).items():
        try:
            os.setxattr(where, name, value, follow_symlinks=follow)
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EPERM, errno.EACCES):
                raise
            not_set.append(f"{entry.path}: {name}")
    os.utime(where, ns=(entry.mtime, entry.mtime), follow_symlinks=follow)
    return not_set


# --- what is there ---------------------------------------------------------------------------------------------------


def _choose_all(part: StoredTree, root: Path, only: Iterable[str]) -> dict[bytes, list[Entry]]:
    """What has to be swapped so that all these paths are there, as `_choose` says for each; nothing twice."""
    chosen: dict[bytes, dict[bytes, Entry]] = {}
    for path in only:
        base, entries = _choose(part, root, path)
        chosen.setdefault(base, {}).update({entry.raw: entry for entry in entries})
    for base in list(chosen):
        above = next(
            (other for other in chosen if other != base and base.startswith(other + b"/" if other else b"")), None
        )
        if above is not None:
            chosen[above].update(chosen.pop(base))
    return {
        base: [entry for entry in part.entries if entry.raw in entries] for base, entries in chosen.items() if entries
    }


def _choose(part: StoredTree, root: Path, only: str) -> tuple[bytes, list[Entry]]:
    """What has to be swapped so that `only` is there: it, or the first directory above it that is missing.

    Returns:
        Its path within the part, and the entries in it that are written.
    """
    base = check_path(os.fsencode(only.rstrip("/")))
    chosen = [entry for entry in part.entries if entry.raw == base or entry.raw.startswith(base + b"/")]
    if not chosen:
        raise InvalidArgument(f"{part.label}, {part.name}: there is no {only!r}")
    steps = base.split(b"/")
    above = [b"/".join(steps[:depth]) for depth in range(1, len(steps))]
    if not os.path.lexists(root):
        return b"", [entry for entry in part.entries if entry.raw in above] + chosen
    for depth, raw in enumerate(above):
        place = root / os.fsdecode(raw)
        if not os.path.lexists(place):
            return raw, [entry for entry in part.entries if entry.raw in above[depth:]] + chosen
        if place.is_symlink() or not place.is_dir():
            raise InvalidArgument(f"{place} is no directory: nothing is written through it. Restore to another place")
    return base, chosen


def _cannot_swap(place: Path) -> str:
    """Why a place cannot be swapped as a whole; empty when it can."""
    below = [mount for mount in _mounts() if mount.is_relative_to(place) and mount != place]
    if below:
        raise InvalidArgument(f"{below[0]} is a mount point in {place}: unmount it, or restore to another place")
    if os.path.ismount(place):
        return f"{place} is a mount point"
    if place.exists() and not os.access(place.parent, os.W_OK | os.X_OK):
        return f"{place.parent} cannot be written, so that nothing can be built beside {place}"
    return ""


def _mounts() -> list[Path]:
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return []
    return [Path(os.fsdecode(_OCTAL.sub(lambda found: bytes([int(found[1], 8)]), line.split()[4]))) for line in lines]


def _carry(part: StoredTree, root: Path, new: Path, base: bytes, delete: bool) -> Iterator[str]:
    """Give what the backup does not hold, and a restore leaves alone, a second name in the new folder."""
    below = f"{os.fsdecode(base)}/" if base else ""

    def failed(path: str, error: OSError) -> None:
        raise error

    for path, item, left_out in walk(str(root), part.excludes, part.ignore_files, failed):
        if not path.startswith(below) or (delete and not left_out) or item.name.startswith(RESTORING):
            continue
        place = new / path[len(below) :]
        if os.path.lexists(place):
            continue
        with suppress(FileExistsError, NotADirectoryError):
            place.parent.mkdir(parents=True, exist_ok=True)
        # What the backup holds goes first, and nothing is written through a link of it.
        if os.path.realpath(place.parent) == str(place.parent) and place.parent.is_dir():
            _link(Path(item.path), place)
            yield path


def _link(old: Path, new: Path) -> None:
    if not old.is_dir() or old.is_symlink():
        os.link(old, new, follow_symlinks=False)
        return
    new.mkdir(mode=0o700)
    for name in os.listdir(old):
        _link(old / name, new / name)
    status = old.stat()
    if os.geteuid() == 0:
        os.chown(new, status.st_uid, status.st_gid)
    shutil.copystat(old, new)


# --- swapping --------------------------------------------------------------------------------------------------------


@contextmanager
def _workspace(folder: Path) -> Iterator[Path]:
    while True:
        workspace = Path(tempfile.mkdtemp(prefix=RESTORING, dir=folder))
        with _locked(workspace):
            if not workspace.exists():  # somebody took it for a leftover before it was locked
                continue
            try:
                yield workspace
            finally:
                with suppress(OSError):  # the next restore tries again
                    _remove(workspace)
            return


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a workspace. Raises `BlockingIOError` when another process does."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(file)


def _swap(new: Path, place: Path, workspace: Path) -> None:
    """Put the new where the old is. What was there is in the workspace then."""
    if not os.path.lexists(place):
        os.rename(new, place)
    elif not _exchange(new, place):
        aside = workspace / _ASIDE
        aside.mkdir(exist_ok=True)
        os.rename(place, aside / place.name)
        os.rename(new, place)
    _sync(place.parent)


def _swap_each(new: Path, place: Path, workspace: Path) -> None:
    names = os.listdir(new)
    for name in names:
        _swap(new / name, place / name, workspace)
    gone = workspace / "gone"
    gone.mkdir()
    for name in set(os.listdir(place)) - set(names):
        if not name.startswith(RESTORING):
            os.rename(place / name, gone / name)
    _sync(place)


def _put_back(workspace: Path, folder: Path) -> None:
    """What was set aside, and nothing came in its place."""
    aside = workspace / _ASIDE
    for name in os.listdir(aside) if aside.is_dir() else ():
        if not os.path.lexists(folder / name):
            os.rename(aside / name, folder / name)
            _sync(folder)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names at once, where the system can."""
    call = getattr(_LIBC, "renameat2", None)
    if call is None:
        return False
    if call(_AT_CWD, os.fsencode(one), _AT_CWD, os.fsencode(other), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(other))


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except PermissionError:
        for at, _, _ in os.walk(folder):
            os.chmod(at, 0o700)
        shutil.rmtree(folder)


def _sync(directory: Path) -> None:
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _sync_all(folder: Path) -> None:
    """Make everything on a file system durable: 20,000 files one by one would take ten times as long."""
    call = getattr(_LIBC, "syncfs", None)
    if call is None:
        os.sync()
        return
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if call(file) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(file)


@contextmanager
def _errors(place: Path) -> Iterator[None]:
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StorageFull(f"there is no room for what is restored beside {place}: {error.strerror}") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise PermissionDenied(f"{place} cannot be restored: {error}") from error
        raise
