"""Single files, the output of commands and standard input as sources of a backup, and files as targets of a restore.

All of them are parts of the kind "file": bytes under a name. A file is restored with its mode, owner and time. The
output of a command can be restored to a file, or printed with `prefect-snapshots cat`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, ClassVar
from urllib.parse import quote, unquote

import msgspec

from ..errors import BackupFailed, InvalidArgument, InvalidName, SourceUnusable
from ..trees.descriptors import not_owned
from ..trees.entries import FIRST, LAST, Entry, check_path
from ..trees.scanning import mtime_of, xattrs_of
from ..trees.writing import drop_attributes, set_all
from .databases.base import Tool, pieces, read_settings, restoring, write
from .sources import Database, Dump, DumpFile, DumpNote, DumpReader, Switch, unreadable
from .working import folder_beside, working_folder

FILE = "file"
"""The kind of all these parts."""
_SETTINGS = "metadata/file.json"
"""The file in a dump with the mode, owner and time. It cannot collide: names of contents have no slash."""
_CONTENT = "content"
_SCHEME = "file://"
"""The prefix of the names of files. It cannot collide: names of outputs have no slash."""


class _Status(msgspec.Struct, forbid_unknown_fields=True):
    """The attributes that a restore gives to a file. They come from a backup, and are not trusted."""

    mode: Annotated[int, msgspec.Meta(ge=0, le=0o777)]
    uid: Annotated[int, msgspec.Meta(ge=0, lt=2**32 - 1)]
    gid: Annotated[int, msgspec.Meta(ge=0, lt=2**32 - 1)]
    mtime: int
    attributes: list[tuple[bytes, bytes]] = []

    def __post_init__(self) -> None:
        if any(not name or b"\0" in name for name, _ in self.attributes):
            raise ValueError("An attribute has an impossible name.")
        if not FIRST <= self.mtime <= LAST:  # `Meta` cannot have bounds of over 63 bits
            raise ValueError("The time is out of its bounds.")


class _Bytes:
    """The base of these sources. A drill restores them to a file in a temporary folder."""

    kind: ClassVar[str] = FILE
    swaps: ClassVar[bool] = True
    name: str

    def check(self) -> list[str]:
        """See `Database`."""
        return []

    def check_restorable(self) -> list[str]:
        """See `Database`. Bytes can always be restored."""
        return []

    def counts(self) -> dict[str, int]:
        """See `Database`. A file has no tables."""
        return {}

    def checksums(self, dump: Iterable[DumpFile]) -> dict[str, str]:
        """See `Database`."""
        found = hashlib.blake2b(digest_size=16)
        for file in dump:
            for piece in file.pieces if file.path != _SETTINGS else ():
                found.update(piece)
        return {_CONTENT: found.hexdigest()}

    def restore(self, dump: DumpReader, only: Sequence[str] = ()) -> None:
        """See `Database`."""
        raise InvalidArgument(f"Part {self.name!r} is not a file on this machine. {how_to_get(self.name)}")

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Database]:
        """See `Database`."""
        with working_folder("file") as folder:
            yield File(folder / os.path.basename(self.name))


@dataclass(frozen=True)
class File(_Bytes):
    """A single file to back up, or to restore to, with its mode, owner, time and extended attributes.

    Args:
        path: The path of the file. A link is followed.

    Example:
        >>> from prefect_snapshots.backups import File
        >>> File("/etc/hosts").name
        'file:///etc/hosts'
    """

    path: str | os.PathLike[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(os.path.abspath(os.path.expanduser(self.path))))
        _check_name(Path(self.path).name)

    @classmethod
    def from_url(cls, url: str) -> File:
        """Return the file with a URL, such as `file:///etc/hosts`, or a path."""
        return cls(unquote(url.removeprefix(_SCHEME)) if url.startswith(_SCHEME) else url)

    @property
    def name(self) -> str:  # type: ignore[override]
        """Its name in backups: its URL."""
        return f"{_SCHEME}{quote(str(self.path))}"

    def check(self) -> list[str]:
        """See `Database`."""
        with self._opened():
            return []

    @contextlib.contextmanager
    def dump(self) -> Iterator[Dump]:
        """See `Database`."""
        with self._opened() as file:
            before = os.fstat(file.fileno())
            attributes = list((xattrs_of(file.fileno()) or {}).items())
            mode = stat.S_IMODE(before.st_mode) & 0o777
            kept = _Status(mode, before.st_uid, before.st_gid, mtime_of(before), attributes)
            dump = Dump([])

            def content() -> Iterator[bytes]:
                yield from pieces(file)
                after = os.fstat(file.fileno())
                if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
                    dump.notes.append(DumpNote(f"File {self.path} changed while it was read."))

            settings = DumpFile(_SETTINGS, iter([msgspec.json.encode(kept)]))
            dump.files = [settings, DumpFile(Path(self.path).name, content())]
            yield dump

    def restore(self, dump: DumpReader, only: Sequence[str] = ()) -> None:
        """See `Database`."""
        with self.stage(dump, only) as switch:
            switch()

    @contextlib.contextmanager
    def stage(self, dump: DumpReader, only: Sequence[str] = ()) -> Iterator[Switch]:
        """See `StagedRestores`."""
        if only:
            raise InvalidArgument(
                f"Part {self.name!r} is a single file, so you cannot select parts of it. Pass an empty list: []."
            )
        warnings: list[str] = []
        target = Path(os.path.realpath(self.path))
        if target.is_dir():
            raise InvalidArgument(f"{self.path} is a directory. Pass the path of a file.")
        with contextlib.ExitStack() as stack:
            with restoring(self.name, "and is unchanged"), _told(self.path):
                beside = stack.enter_context(folder_beside(target)) / _CONTENT
                write(beside, dump.open(_content_path(dump)))
                if _SETTINGS in dump.paths:
                    kept = read_settings(dump, _SETTINGS, _Status)
                    warnings += _set_status(beside, target, kept)

            def switch() -> Sequence[str]:
                with restoring(self.name, "and is unchanged"), _told(self.path):
                    os.replace(beside, target)
                return warnings

            yield switch

    def holds(self, dump: DumpReader) -> bool:
        """Return whether the file has the content of a dump. False if there is no file."""
        try:
            with open(self.path, "rb") as file:
                stored = dump.open(_content_path(dump))
                return all(file.read(len(piece)) == piece for piece in stored) and not file.read(1)
        except OSError:
            return False

    @contextlib.contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        """Open the file. A pipe or a device is refused, because it could block a backup forever."""
        with _told(self.path), contextlib.ExitStack() as stack:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            stack.callback(os.close, descriptor)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise SourceUnusable(
                    f"{self.path} is not a file. Back up a directory with directories=, and a pipe with Command."
                )
            yield stack.enter_context(open(descriptor, "rb", closefd=False))


@dataclass(frozen=True)
class Command(_Bytes):
    """The output of a command to back up. If the command fails, so does the backup, and nothing is committed.

    Args:
        command: The program and its arguments, as a list, or as one string that is split like a shell does. It is not
            run by a shell: for pipes, write `sh -c '...'`. Do not write a password into it: all users of the machine
            can read command lines.
        name: The name of the output in the backup: a file name, such as "users.sql".

    Example:
        >>> from prefect_snapshots import BackupManager
        >>> from prefect_snapshots.backups import Command
        >>> manager = BackupManager("memory://example-command", files=[Command("echo hello", name="greeting.txt")])
        >>> backup = manager.create_backup()
        >>> b"".join(manager.open_file(backup.name, "greeting.txt", "greeting.txt"))
        b'hello\\n'
    """

    command: str | Sequence[str]
    name: str

    def __post_init__(self) -> None:
        _check_name(self.name)
        object.__setattr__(self, "command", split_command(self.command, f"The command of {self.name!r}"))

    def check(self) -> list[str]:
        """See `Database`."""
        self._tool()
        return []

    @contextlib.contextmanager
    def dump(self) -> Iterator[Dump]:
        """See `Database`."""
        with contextlib.closing(self._tool().stream(*self.command[1:])) as output:
            yield Dump([DumpFile(self.name, output)])

    def _tool(self) -> Tool:
        path = shutil.which(self.command[0])
        if path is None:
            program = self.command[0]
            raise SourceUnusable(f"The command of {self.name!r} cannot be run: there is no program {program!r}.")
        return Tool(path)


@dataclass(frozen=True)
class StandardInput(_Bytes):
    """Standard input, read once until it ends. Use `Command` if a failure of the program must make the backup fail.

    Args:
        name: Its name in the backup: a file name, such as "users.sql".
    """

    name: str

    def __post_init__(self) -> None:
        _check_name(self.name)

    def check(self) -> list[str]:
        """See `Database`."""
        if sys.stdin is None or sys.stdin.isatty():
            raise SourceUnusable("Standard input is a terminal. Pipe the data to back up into it.")
        return []

    @contextlib.contextmanager
    def dump(self) -> Iterator[Dump]:
        """See `Database`."""
        yield Dump([DumpFile(self.name, pieces(sys.stdin.buffer))])


def split_command(command: str | Sequence[str], what: str) -> tuple[str, ...]:
    """Return a program and its arguments.

    Args:
        command: A list, or a string that is split like a shell does.
        what: The beginning of an error, such as "The hook".

    Raises:
        InvalidArgument: There is no program, or a quote is not closed.
    """
    try:
        split = shlex.split(command) if isinstance(command, str) else list(command)
    except ValueError as error:
        raise InvalidArgument(f"{what} cannot be parsed: {error}.") from None
    if not split or not all(isinstance(word, str) for word in split):
        raise InvalidArgument(f"{what} has no program. Pass a string or a list of strings.")
    return tuple(split)


def is_homeless(name: str, kind: str, target: object) -> bool:
    """Return whether a part is the output of a command or standard input, and has no target to be restored to.

    Args:
        name: The name of the part.
        kind: Its kind.
        target: The chosen target, or the source with its name, or None.
    """
    unknown = target is None and not name.startswith(_SCHEME)
    return kind == FILE and (unknown or isinstance(target, Command | StandardInput))


def how_to_get(name: str) -> str:
    """Return sentences that explain how to restore a part that has no target."""
    return (
        f"Restore it to a file with to={{{name!r}: PATH}} (--to {shlex.quote(f'{name}=PATH')}), or print it with "
        f"`prefect-snapshots cat {shlex.quote(f'backups/NAME@BACKUP/{name}/{name}')}`."
    )


def _set_status(beside: Path, target: Path, kept: _Status) -> Iterator[str]:
    """Give the new file its attributes. Yields warnings."""
    entry = Entry(
        os.fsencode(target),
        stat.S_IFREG | kept.mode,
        mtime=kept.mtime,
        uid=kept.uid,
        gid=kept.gid,
        xattrs=dict(kept.attributes),
    )
    with open(beside, "rb") as file:
        # First what it has inherited from the folder, such as an access control list.
        not_set = drop_attributes(entry, file.fileno()) + set_all(entry, file.fileno())
    for path, attribute in not_set:
        yield f"The extended attribute '{path}: {attribute}' could not be set." if attribute else not_owned(target)


def _check_name(name: str) -> None:
    try:
        if "/" in name:
            raise InvalidName("It has a slash.")
        check_path(name.encode())
    except (InvalidName, UnicodeEncodeError) as error:
        raise InvalidArgument(
            f"The name of an output must be a plain file name in UTF-8, such as 'users.sql', not {name!r}: {error}"
        ) from None


def _content_path(dump: DumpReader) -> str:
    found = [path for path in dump.paths if path != _SETTINGS]
    if len(found) != 1:
        raise BackupFailed(
            "This part of the backup is not a single file: it is damaged or forged. Nothing was changed."
        )
    return found[0]


@contextlib.contextmanager
def _told(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise unreadable(error)(f"{path}: {error.strerror}.") from error
