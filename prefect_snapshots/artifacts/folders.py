"""Folders <-> contents: files with their modes, directories and links.

The *manifest* of a folder lists its *entries* in the order of their paths; the *body* is the bytes of its files, end to
end in this order. Every file of some size is cut into chunks on its own, so that no neighbour's change moves its cuts;
smaller ones that follow each other share chunks.

Paths are data: one that is absolute, has `..` or control characters, or a link that leads out of the folder is refused,
when it is logged and again when it comes back.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path, PurePosixPath

import msgspec

from ..errors import DamagedVersion, IntegrityError, InvalidArgument, InvalidName, ObjectMissing, UnsupportedFormat
from ..repository.chunking import AVERAGE_SIZE, content_defined_stream
from ..repository.contents import INLINE_LIMIT, ContentReader, Stored, Writer, inline

FORMAT = 1

_OWN = AVERAGE_SIZE // 4
"""Bytes of a file from which on it shares no chunk with its neighbours; the average of chunks that are shared."""
_PIECE = 8 * 1024 * 1024
"""Bytes of a file, or of small files together, that are read and written at once."""
_SMALL = 2 * 1024 * 1024
"""Bytes of a folder below which handing work to threads costs more than it saves."""
_WORKERS = 4
"""Threads that write files; each of them has a piece in memory."""
_STRANGE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


class Entry(msgspec.Struct, array_like=True, frozen=True):
    """One file, directory or link of a folder."""

    path: str
    """Relative to the folder, with `/`."""
    mode: int
    """Its type and its permissions, as in `stat`."""
    size: int = 0
    """Bytes of a file."""
    link: str = ""
    """What a link names, relative to its own place."""

    @property
    def is_file(self) -> bool:
        """Whether it has bytes."""
        return stat.S_ISREG(self.mode)


class _Manifest(msgspec.Struct, array_like=True):
    format: int
    entries: list[Entry]


@dataclass(frozen=True, slots=True)
class Source:
    """An entry, and where it is read from."""

    entry: Entry
    local: Path
    state: tuple[int, ...]
    """What changes when the file does."""


# --- from the disk ---------------------------------------------------------------------------------------------------


def scan(local: Path, below: str | None = None) -> list[Source]:
    """What a file or folder consists of, in the order of the paths. No file is read.

    Arguments:
        local: a file, which keeps its name, or a folder, whose entries keep theirs.
        below: the folder within the artifact that takes them.

    Raises:
        ObjectMissing: there is nothing at `local`.
        InvalidName: a path that has no safe equal elsewhere, or a link that leads out of the folder.
        InvalidArgument: something that is neither file, directory nor link.
    """
    try:
        found = os.stat(local)
    except FileNotFoundError:
        raise ObjectMissing(f"there is no file or folder {local}") from None
    prefix = "" if below is None else f"{check_path(below.rstrip('/'))}/"
    if stat.S_ISDIR(found.st_mode):
        sources = list(_scan_folder(local, prefix))
    else:
        sources = [_source(f"{prefix}{local.name}", local, found)]
    return sorted(sources, key=lambda source: source.entry.path)


def encode_manifest(sources: Iterable[Source]) -> bytes:
    """The manifest of a folder."""
    return msgspec.msgpack.encode(_Manifest(FORMAT, [source.entry for source in sources]))


def size_of(sources: Iterable[Source]) -> int:
    """Bytes of all files."""
    return sum(source.entry.size for source in sources)


def travelling(manifest: bytes, sources: Sequence[Source]) -> Stored | None:
    """A folder as it travels inside an event; None when it is too large for that."""
    if size_of(sources) > INLINE_LIMIT:
        return None
    return inline(manifest, [piece for source in sources for piece in _pieces(source)])


def store(
    writer: Writer, manifest: bytes, sources: Sequence[Source], passed: Callable[[int], None] = lambda _: None
) -> Stored:
    """Store a folder. `passed` is called with bytes that were read.

    Raises:
        InvalidArgument: a file changed since it was scanned, or while it was read.
    """

    def pieces(source: Source) -> Iterator[bytes]:
        for piece in _pieces(source):
            yield piece
            passed(len(piece))

    return writer.store_cut(manifest, _chunks(sources, pieces), small=size_of(sources) < _SMALL)


def _chunks(sources: Iterable[Source], pieces: Callable[[Source], Iterator[bytes]]) -> Iterator[memoryview]:
    for small, group in groupby(sources, lambda source: source.entry.size < _OWN):
        if small:
            yield from content_defined_stream(chain.from_iterable(map(pieces, group)), _OWN)
        else:
            for source in group:
                yield from content_defined_stream(pieces(source))


def _pieces(source: Source) -> Iterator[bytes]:
    if not stat.S_ISREG(source.entry.mode):
        return
    left = source.entry.size
    with source.local.open("rb", buffering=0) as file:
        while left and _state(os.fstat(file.fileno())) == source.state and (piece := file.read(min(left, _PIECE))):
            left -= len(piece)
            yield piece
        if left or _state(os.fstat(file.fileno())) != source.state:
            raise _changed(source)


def check_unchanged(source: Source) -> None:
    """Raise `InvalidArgument` if a file is not what it was when it was scanned."""
    if _state(os.stat(source.local)) != source.state:
        raise _changed(source)


def _changed(source: Source) -> InvalidArgument:
    return InvalidArgument(f"{source.local} changed while it was logged: nothing was. Log it when it is done")


def _scan_folder(folder: Path, prefix: str) -> Iterator[Source]:
    with os.scandir(folder) as entries:
        for entry in entries:
            path = f"{prefix}{entry.name}"
            local = Path(entry.path)
            yield _source(path, local, entry.stat(follow_symlinks=False))
            if entry.is_dir(follow_symlinks=False):
                yield from _scan_folder(local, f"{path}/")


def _source(path: str, local: Path, found: os.stat_result) -> Source:
    mode = stat.S_IFMT(found.st_mode) | found.st_mode & 0o777
    is_file, is_link = stat.S_ISREG(mode), stat.S_ISLNK(mode)
    if not (is_file or is_link or stat.S_ISDIR(mode)):
        raise InvalidArgument(f"{local} is neither a file nor a directory nor a link: an artifact cannot hold it")
    entry = Entry(
        check_path(path),
        stat.S_IFLNK | 0o777 if is_link else mode,
        found.st_size if is_file else 0,
        os.readlink(local) if is_link else "",
    )
    if is_link:
        _check_link(entry)
    return Source(entry, local, _state(found))


def _state(found: os.stat_result) -> tuple[int, ...]:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


# --- onto the disk ---------------------------------------------------------------------------------------------------


def decode_manifest(content: ContentReader) -> list[Entry]:
    """The entries of a folder, checked: nothing of them leads anywhere else.

    Raises:
        IntegrityError: the manifest is damaged.
        UnsupportedFormat: a newer version wrote it.
        InvalidName: it leads out of the folder.
    """
    try:
        manifest = msgspec.msgpack.decode(content.manifest, type=_Manifest)
    except msgspec.MsgspecError as error:
        raise IntegrityError(f"the manifest of this folder is damaged: {error}") from None
    if manifest.format > FORMAT:
        raise UnsupportedFormat(
            f"this folder has format {manifest.format}, and this prefect-snapshots reads up to {FORMAT}: upgrade it"
        )
    entries = manifest.entries
    if sum(entry.size for entry in entries) != content.body_size or any(entry.size < 0 for entry in entries):
        raise IntegrityError("the files of this folder do not add up to its size")
    check_entries(entries)
    return entries


def check_entries(entries: Sequence[Entry]) -> None:
    """Refuse entries of which one leads anywhere else, is no file, directory or link, or is in the way of another.

    Raises:
        InvalidName: naming it.
    """
    directories: set[str] = set()
    others: set[str] = set()
    for entry in entries:
        check_path(entry.path)
        (directories if stat.S_ISDIR(entry.mode) else others).add(entry.path)
        directories.update(map(str, PurePosixPath(entry.path).parents))
        if stat.S_ISLNK(entry.mode):
            _check_link(entry)
        elif not (stat.S_ISREG(entry.mode) or stat.S_ISDIR(entry.mode)) or entry.mode & 0o7000:
            raise InvalidName(f"{entry.path!r} is neither a file nor a directory nor a link: refused")
    if directories & others or len({entry.path for entry in entries}) < len(entries):
        raise InvalidName("two entries of this folder claim the same path: refused")


def write(
    content: ContentReader,
    entries: Sequence[Entry],
    folder: Path,
    label: str,
    *,
    durable: bool,
    passed: Callable[[int], None] = lambda _: None,
) -> None:
    """Write a folder to the disk, every byte verified, files in parallel.

    Arguments:
        content: the content.
        entries: from `decode_manifest`.
        folder: an empty directory.
        label: what errors call the version.
        durable: whether it has survived a loss of power when this returns.
        passed: called with bytes that were written.

    Raises:
        DamagedVersion: naming the first file that cannot be verified.
    """
    place_links(entries, folder)

    def job(files: list[tuple[Entry, int]]) -> int:
        try:
            return _write_files(content, files, folder, durable)
        except IntegrityError as error:
            raise DamagedVersion(label, _damaged_file(content, files), str(error)) from error

    with ThreadPoolExecutor(_WORKERS, "prefect-snapshots-files") as workers:
        try:
            for written in workers.map(job, _jobs(entries)):
                passed(written)
        except BaseException:
            workers.shutdown(cancel_futures=True)
            raise
    finish(entries, folder, durable)


def place_links(entries: Iterable[Entry], folder: Path) -> None:
    """Make the directories and links of a folder."""
    for entry in entries:
        (folder / entry.path).parent.mkdir(parents=True, exist_ok=True)
        if stat.S_ISDIR(entry.mode):
            (folder / entry.path).mkdir(exist_ok=True)
        elif stat.S_ISLNK(entry.mode):
            (folder / entry.path).symlink_to(entry.link)


def finish(entries: Sequence[Entry], folder: Path, durable: bool) -> None:
    """Give directories their modes, and make all names durable if they shall be."""
    set_directory_modes(entries, folder)
    if durable:
        for at, _, _ in os.walk(folder):
            sync(at)


def set_directory_modes(entries: Sequence[Entry], folder: Path) -> None:
    """Give directories their modes: last, and the deepest first, because one of them may forbid writing."""
    for entry in reversed(entries):
        if stat.S_ISDIR(entry.mode):
            os.chmod(folder / entry.path, stat.S_IMODE(entry.mode))


def sync(directory: str | Path) -> None:
    """Make the names in a directory durable."""
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def offsets(entries: Iterable[Entry]) -> Iterator[tuple[Entry, int]]:
    """The files, and where in the body each of them begins."""
    offset = 0
    for entry in entries:
        if stat.S_ISREG(entry.mode):
            yield entry, offset
        offset += entry.size


def _jobs(entries: Iterable[Entry]) -> Iterator[list[tuple[Entry, int]]]:
    """Files that follow each other, up to a piece together; a larger one is alone."""
    job: list[tuple[Entry, int]] = []
    size = 0
    for entry, offset in offsets(entries):
        if job and size + entry.size > _PIECE:
            yield job
            job, size = [], 0
        job.append((entry, offset))
        size += entry.size
    if job:
        yield job


def _write_files(content: ContentReader, files: list[tuple[Entry, int]], folder: Path, durable: bool) -> int:
    start = files[0][1]
    end = files[-1][1] + files[-1][0].size
    if end - start > _PIECE:
        [(entry, _)] = files
        spans: Iterable[tuple[int, int]] = ((at, min(_PIECE, end - at)) for at in range(start, end, _PIECE))
        _write_file(folder, entry, (_read(content, at, length) for at, length in spans), durable)
    else:
        data = _read(content, start, end - start)
        for entry, offset in files:
            _write_file(folder, entry, [data[offset - start : offset - start + entry.size]], durable)
    return end - start


def _write_file(folder: Path, entry: Entry, pieces: Iterable[memoryview], durable: bool) -> None:
    try:
        file = os.open(folder / entry.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise InvalidName(f"{entry.path!r}: this file system takes two names of the artifact for one") from None
    with open(file, "wb", buffering=0) as stream:
        for piece in pieces:
            while piece:
                piece = piece[stream.write(piece) :]
        os.fchmod(file, stat.S_IMODE(entry.mode))
        if durable:
            os.fsync(file)


def _read(content: ContentReader, offset: int, length: int) -> memoryview:
    view = memoryview(bytearray(length))
    content.read_into([(offset, view)])
    return view


def _damaged_file(content: ContentReader, files: Iterable[tuple[Entry, int]]) -> str:
    for entry, offset in files:
        try:
            for at in range(0, entry.size, _PIECE):
                _read(content, offset + at, min(_PIECE, entry.size - at))
        except IntegrityError:
            return f"file {entry.path}"
    return ""


# --- paths -----------------------------------------------------------------------------------------------------------


def check_path(path: str) -> str:
    """Refuse a path that leads out of its folder, or cannot be shown or stored as text. Returns the path."""
    if _STRANGE.search(path):
        raise InvalidName(f"the path {path!r} has control characters, or bytes that are no text: rename the file")
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise InvalidName(f"the path {path!r} leads out of its folder, or has an empty part: refused")
    return path


def _check_link(entry: Entry) -> None:
    """Refuse a link that could lead out. Its `..` come first, where they leave a real directory and not a link."""
    parts = entry.link.split("/")
    ups = next((at for at, part in enumerate(parts) if part != ".."), len(parts))
    if not parts[0] or _STRANGE.search(entry.link) or ".." in parts[ups:] or ups > entry.path.count("/"):
        raise InvalidName(
            f"the link {entry.path!r} leads to {entry.link!r}, out of its folder: put the file itself there"
        )
