"""Write entries as files into an open folder. Every byte is verified."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from ..errors import IntegrityError, InvalidName
from ..repository.location import LargeFile
from .descriptors import DIRECTORY, Parents, give, path_of
from .entries import Entry
from .scanning import xattrs_of
from .stored import StoredTree, VerifiedContent
from .unchanged import Placed, UnchangedFiles

_SPAN = 4 * 1024 * 1024
"""Bytes of the body that a thread reads at once: larger spans save few calls, and take more memory per thread."""
_FILES = 512
"""Files in a batch of a thread: a limit, so that many empty files keep several threads busy."""
_WORKERS = min(8, max(2, os.cpu_count() or 2))
"""Threads that write files. More threads would only wait for the same disk."""
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
"""No link is followed: where one is in the place of a new file, O_EXCL fails."""
_thread = threading.local()


class NotSet(NamedTuple):
    """An attribute that could not be set.

    Attributes:
        path: The path of its file.
        attribute: The name of the extended attribute. Empty: the owner or the group.
    """

    path: str
    attribute: str = ""


_File = tuple[Entry, bytes, int]
"""The entry with the bytes of a file, its first place in the folder, and the offset of its bytes in the content."""


def write_entries(
    tree: StoredTree,
    folder: int,
    placed: Sequence[Placed],
    passed: Callable[[int], None] = lambda _: None,
    unchanged: UnchangedFiles | None = None,
    content: VerifiedContent | None = None,
) -> list[NotSet]:
    """Write entries below a folder. Directories are private until `set_directories` sets their attributes.

    Nobody else must be able to write below the folder.

    Args:
        tree: The tree with the bytes.
        folder: The descriptor of the folder.
        placed: The entries, directories before their contents.
        passed: Called with the number of bytes just written, or found unchanged.
        unchanged: Takes files that need not be written. None: all files are written.
        content: The bytes of the tree. Default: its own content.

    Returns:
        The attributes that could not be set.

    Raises:
        DamagedVersion: A file cannot be verified. The message names the first one.
        InvalidName: The file system treats two names of the tree as the same name.
    """
    not_set: list[NotSet] = []
    files: list[_File] = []
    names: dict[bytes, list[Placed]] = {}
    with Parents(folder) as parents:
        for entry, place in placed:
            if entry.is_file:
                first, offset = tree.by_path[_text(entry.link or entry.raw)]
                if first.raw not in names:
                    files.append((first, place, offset))
                names.setdefault(first.raw, []).append((entry, place))
                continue
            parent, name = parents.find(place)
            try:
                if entry.is_directory:
                    os.mkdir(name, 0o700, dir_fd=parent)
                    continue
                if entry.is_symlink:
                    os.symlink(entry.link, name, dir_fd=parent)
                else:
                    os.mkfifo(name, 0o600, dir_fd=parent)
            except FileExistsError:
                raise _two_names(entry) from None
            if tree.root is not None:
                not_set += _set_named(entry, parent, name)

    def job(span: list[_File]) -> tuple[int, list[NotSet]]:
        try:
            return _write_span(tree, content or tree.content, span, folder, names, unchanged)
        except IntegrityError as error:
            raise tree.damage([(entry, offset) for entry, _, offset in span], error) from error

    with ThreadPoolExecutor(_WORKERS, "prefect-snapshots-files") as workers:
        try:
            for size, failed in workers.map(job, _spans(files)):
                passed(size)
                not_set += failed
        except BaseException:
            workers.shutdown(cancel_futures=True)
            raise
    with Parents(folder) as from_parents, Parents(folder) as to_parents:
        for raw, ((_, first_place), *others) in names.items():
            for _, place in others if unchanged is None or raw not in unchanged.taken else ():
                (source, old), (target, new) = from_parents.find(first_place), to_parents.find(place)
                os.link(old, new, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    return not_set


def set_directories(tree: StoredTree, folder: int, placed: Sequence[Placed], also: int = 0) -> list[NotSet]:
    """Set the attributes of directories, after their contents are written. Inner directories come first.

    Args:
        tree: The tree, which stores all attributes or only permissions.
        folder: The descriptor of the folder that contains them.
        placed: The entries, directories before their contents.
        also: Permissions to add to those of each directory.

    Returns:
        The attributes that could not be set.
    """
    not_set: list[NotSet] = []
    with Parents(folder) as parents:
        for entry, place in reversed(placed):
            if entry.is_directory:
                parent, name = parents.find(place)
                file = os.open(name, DIRECTORY, dir_fd=parent)
                try:
                    not_set += set_open(tree, entry, file, also)
                finally:
                    os.close(file)
    return not_set


def set_open(tree: StoredTree, entry: Entry, file: int, also: int = 0) -> list[NotSet]:
    """Set the attributes of an open file or directory, or only its permissions if the tree stores no more.

    Args:
        tree: The tree.
        entry: The entry with the attributes.
        file: The descriptor.
        also: Permissions to add to those of the entry.

    Returns:
        The attributes that could not be set.
    """
    if tree.root is None:
        os.fchmod(file, stat.S_IMODE(entry.mode) | also)
        return []
    return set_all(entry, file, also)


def set_all(entry: Entry, file: int, also: int = 0) -> list[NotSet]:
    """Set all attributes of an open file or directory.

    Args:
        entry: The entry with the attributes.
        file: The descriptor.
        also: Permissions to add to those of the entry.

    Returns:
        The attributes that could not be set.
    """
    owned = give(file, entry.uid, entry.gid)
    not_set = [] if owned else [NotSet(entry.path)]
    # Before the permissions: an attribute of a file that its owner may not write cannot be set, even by the owner.
    # After the owner: changing that takes capabilities away, which are an attribute, too.
    for name, value in (entry.xattrs or {}).items():
        not_set += _set_attribute(entry, file, name, value, follow=True)
    # After the owner: changing that takes setuid away. For any other owner, it would mean another right.
    taken = 0 if owned or entry.is_directory else stat.S_ISUID | stat.S_ISGID
    os.fchmod(file, stat.S_IMODE(entry.mode) & ~taken | also)
    os.utime(file, ns=(entry.mtime, entry.mtime))
    return not_set


def _set_named(entry: Entry, parent: int, name: bytes) -> list[NotSet]:
    """Give a link or a fifo its attributes, never following a link."""
    not_set = [] if give(name, entry.uid, entry.gid, parent) else [NotSet(entry.path)]
    for key, value in (entry.xattrs or {}).items():
        not_set += _set_attribute(entry, path_of(parent, name), key, value, follow=False)
    if not entry.is_symlink:
        # No call of Linux does this without following a link. It is a fifo, made just now where nobody else writes.
        os.chmod(name, stat.S_IMODE(entry.mode), dir_fd=parent)
    os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=parent, follow_symlinks=False)
    return not_set


def drop_attributes(entry: Entry, file: int) -> list[NotSet]:
    """Delete the extended attributes of an open file or directory that its entry does not have, such as access lists.

    Args:
        entry: The entry.
        file: The descriptor.

    Returns:
        The attributes that could not be deleted.
    """
    not_set = []
    for name in xattrs_of(file) or {}:
        # The others, such as labels of SELinux, are given by the system.
        if name not in (entry.xattrs or {}) and not name.startswith(b"security."):
            try:
                os.removexattr(file, name)
            except OSError as error:
                if error.errno not in _NOT_TAKEN:
                    raise
                not_set.append(NotSet(entry.path, os.fsdecode(name)))
    return not_set


def _set_attribute(entry: Entry, where: int | bytes, name: bytes, value: bytes, follow: bool) -> list[NotSet]:
    try:
        os.setxattr(where, name, value, follow_symlinks=follow)
    except (OSError, AttributeError) as error:  # macOS has no such call
        if isinstance(error, OSError) and error.errno not in _NOT_TAKEN:
            raise
        return [NotSet(entry.path, os.fsdecode(name))]
    return []


_NOT_TAKEN = (errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.ENOENT, errno.EINVAL, errno.ERANGE, errno.E2BIG)
"""An attribute that this file system or this user cannot set. It is reported, and the file itself is restored."""


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _two_names(entry: Entry) -> InvalidName:
    return InvalidName(f"This file system treats {entry.path!r} and another name in the tree as the same name.")


def _spans(files: Iterable[_File]) -> Iterator[list[_File]]:
    """Group files whose bytes follow each other; one that is larger than a span is alone."""
    span: list[_File] = []
    start = end = 0
    for entry, place, offset in files:
        if span and (offset != end or offset + entry.stored - start > _SPAN or len(span) >= _FILES):
            yield span
            span = []
        if not span:
            start = offset
        span.append((entry, place, offset))
        end = offset + entry.stored
    if span:
        yield span


def _write_span(
    tree: StoredTree,
    content: VerifiedContent,
    span: list[_File],
    folder: int,
    names: Mapping[bytes, Sequence[Placed]],
    unchanged: UnchangedFiles | None,
) -> tuple[int, list[NotSet]]:
    start = span[0][2]
    end = span[-1][2] + span[-1][0].stored
    together = end - start <= _SPAN
    buffer = _buffer()
    data = buffer[: end - start]
    if together:
        content.read_into([(start, data)])
    not_set = []
    with Parents(folder) as parents, Parents(folder if unchanged is None else unchanged.folder) as old:
        for entry, place, offset in span:
            if unchanged is not None:
                read = data[offset - start :] if together else None
                same = partial(_is_same, content, entry, offset, read, buffer)
                if unchanged.take(entry, names[entry.raw], old, parents, same):
                    continue
            parent, name = parents.find(place)
            try:
                file = os.open(name, _NEW, 0o600, dir_fd=parent)
            except FileExistsError:
                raise _two_names(entry) from None
            try:
                for at, length in entry.spans:
                    if together:
                        _write_at(file, data[offset - start : offset - start + length], at)
                    else:
                        _write_large(content, file, at, length, offset, buffer)
                    offset += length
                if entry.extents is not None:
                    os.ftruncate(file, entry.size)
                not_set += set_open(tree, entry, file)
            finally:
                os.close(file)
    return end - start, not_set


def _is_same(
    content: VerifiedContent, entry: Entry, offset: int, read: memoryview | None, buffer: memoryview, file: int
) -> bool:
    """Compare the bytes of an open file with those of an entry.

    Args:
        content: The bytes of the tree.
        entry: The entry.
        offset: The offset of its bytes in the content.
        read: These bytes, or None to read them piece by piece.
        buffer: Memory to read them into.
        file: The descriptor of the file.
    """
    for at, length in entry.spans:
        for done in range(0, length, _SPAN):
            size = min(_SPAN, length - done)
            if read is None:
                content.read_into([(offset + done, buffer[:size])])
                piece = buffer[:size]
            else:
                piece, read = read[:size], read[size:]
            if os.pread(file, size, at + done) != piece:
                return False
        offset += length
    return True


def _write_large(content: VerifiedContent, file: int, at: int, length: int, offset: int, buffer: memoryview) -> None:
    os.lseek(file, at, os.SEEK_SET)
    large = LargeFile(file, at)
    for done in range(0, length, _SPAN):
        piece = buffer[: min(_SPAN, length - done)]
        content.read_into([(offset + done, piece)])
        large.write([piece])
    large.finish()


def _buffer() -> memoryview:
    """Return a span of memory of this thread: new memory for each span would cost as much as the writing."""
    found: memoryview | None = getattr(_thread, "buffer", None)
    if found is None:
        found = _thread.buffer = memoryview(bytearray(_SPAN))
    return found


def _write_at(file: int, data: memoryview, at: int) -> None:
    while data:
        count = os.pwrite(file, data, at)
        data = data[count:]
        at += count
