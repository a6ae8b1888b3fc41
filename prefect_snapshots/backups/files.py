"""Single files, the output of commands and standard input as sources of a backup, and files as targets of a restore.

All of them are parts of one kind, "file": what a backup has of them is bytes under a name. A file comes back with its
mode, owner and time. The output of a command comes back to a file, or to standard output with `backups cat`.
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

from ..errors import BackupFailed, InvalidArgument, InvalidName
from ..trees.entries import check_path
from .databases.base import Tool, pieces, read_settings, restoring, write
from .sources import Database, Dump, DumpFile, DumpNote, DumpReader, Switch
from .working import folder_beside, working_folder

FILE = "file"
"""The kind of these parts."""
_SETTINGS = "metadata/file.json"
"""Mode, owner and time of a file. No name of a file has a slash."""
_CONTENT = "content"
_SCHEME = "file://"
"""How the names of files begin. Names of outputs have no slash."""


class _Status(msgspec.Struct, forbid_unknown_fields=True):
    """What a file gets back. It comes out of a backup."""

    mode: Annotated[int, msgspec.Meta(ge=0, le=0o777)]
    uid: Annotated[int, msgspec.Meta(ge=0, lt=2**32 - 1)]
    gid: Annotated[int, msgspec.Meta(ge=0, lt=2**32 - 1)]
    mtime: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class _Bytes:
    """What these sources share. A drill restores them to a file in a temporary folder."""

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
        raise InvalidArgument(f"Part {self.name!r} is no file on this machine. {how_to_get(self.name)}")

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Database]:
        """See `Database`."""
        with working_folder("file") as folder:
            yield File(folder / os.path.basename(self.name))


@dataclass(frozen=True)
class File(_Bytes):
    """A single file to back up, or to restore to. Its mode, owner and time are kept.

    Back up its directory to keep extended attributes, too.

    Args:
        path: Where it is. A link is followed.

    Example:
        >>> from prefect_snapshots.backups import File
        >>> File("/etc/hosts").name
        'file:///etc/hosts'
    """

    path: str | os.PathLike[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(os.path.abspath(self.path)))
        _check_name(Path(self.path).name)

    @classmethod
    def from_url(cls, url: str) -> File:
        """Return the file that the name of a part stands for: `file:///etc/hosts`, or a path."""
        return cls(unquote(url.removeprefix(_SCHEME)) if url.startswith(_SCHEME) else url)

    @property
    def name(self) -> str:  # type: ignore[override]
        """What a backup calls it."""
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
            kept = _Status(stat.S_IMODE(before.st_mode) & 0o777, before.st_uid, before.st_gid, before.st_mtime_ns)
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
            raise InvalidArgument(f"Part {self.name!r} is one file, which has no parts. Pass an empty list: [].")
        target = Path(os.path.realpath(self.path))
        if target.is_dir():
            raise InvalidArgument(f"{self.path} is a directory. Pass the path of a file.")
        with contextlib.ExitStack() as stack:
            with restoring(self.name, "and is unchanged"), _told(self.path):
                beside = stack.enter_context(folder_beside(target)) / _CONTENT
                write(beside, dump.open(_content_path(dump)))
                if _SETTINGS in dump.paths:
                    kept = read_settings(dump, _SETTINGS, _Status)
                    if os.geteuid() == 0:
                        os.chown(beside, kept.uid, kept.gid)
                    os.chmod(beside, kept.mode)
                    os.utime(beside, ns=(kept.mtime, kept.mtime))

            def switch() -> Sequence[str]:
                with restoring(self.name, "and is unchanged"), _told(self.path):
                    os.replace(beside, target)
                return []

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
        """The file, open. A pipe or a device could keep a backup waiting for ever."""
        with _told(self.path), contextlib.ExitStack() as stack:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            stack.callback(os.close, descriptor)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise BackupFailed(
                    f"{self.path} is not a file. Back up a directory with directories=, and a pipe with Command."
                )
            yield stack.enter_context(open(descriptor, "rb", closefd=False))


@dataclass(frozen=True)
class Command(_Bytes):
    """The output of a command to back up. If the command fails, so does the backup, and nothing is committed.

    Args:
        command: The program and its arguments, as one string that is split like a shell does, or as a list. No shell
            runs it: write `sh -c '...'` for pipes. Do not write a password into it: everybody on a machine can read it.
        name: What the backup calls the output: a name of a file, such as "users.sql".

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
        try:
            split = shlex.split(self.command) if isinstance(self.command, str) else list(self.command)
        except ValueError as error:
            raise InvalidArgument(f"The command of {self.name!r} is not understood: {error}.") from None
        if not split or not all(isinstance(word, str) for word in split):
            raise InvalidArgument(f"The command of {self.name!r} has no program. Pass a string or a list of strings.")
        object.__setattr__(self, "command", tuple(split))

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
            raise BackupFailed(f"The command of {self.name!r} cannot be run: there is no program {self.command[0]!r}.")
        return Tool(path)


@dataclass(frozen=True)
class StandardInput(_Bytes):
    """What is read from standard input until it ends, once. A command whose exit code counts is a `Command`.

    Args:
        name: What the backup calls it: a name of a file, such as "users.sql".
    """

    name: str

    def __post_init__(self) -> None:
        _check_name(self.name)

    def check(self) -> list[str]:
        """See `Database`."""
        if sys.stdin is None or sys.stdin.isatty():
            raise BackupFailed("Standard input is a terminal. Pipe into it what is to be backed up.")
        return []

    @contextlib.contextmanager
    def dump(self) -> Iterator[Dump]:
        """See `Database`."""
        yield Dump([DumpFile(self.name, pieces(sys.stdin.buffer))])


def is_homeless(name: str, kind: str, target: object) -> bool:
    """Return whether a part is the output of a command or standard input, and nobody has said where it goes.

    Args:
        name: The name of the part.
        kind: Its kind.
        target: What was chosen as its target, or the source of its name, or None.
    """
    unknown = target is None and not name.startswith(_SCHEME)
    return kind == FILE and (unknown or isinstance(target, Command | StandardInput))


def how_to_get(name: str) -> str:
    """Return what to do with a part that has no place to go back to."""
    return (
        f"Restore it to a file with to={{{name!r}: PATH}} (--to {name}=PATH), or print it with "
        f"`prefect-snapshots backups cat BACKUP {name} {name}`."
    )


def _check_name(name: str) -> None:
    try:
        if "/" in name:
            raise InvalidName("It has a slash.")
        check_path(name.encode())
    except (InvalidName, UnicodeEncodeError) as error:
        raise InvalidArgument(
            f"A file in a backup needs a plain name in UTF-8, such as 'users.sql', not {name!r}: {error}"
        ) from None


def _content_path(dump: DumpReader) -> str:
    found = [path for path in dump.paths if path != _SETTINGS]
    if len(found) != 1:
        raise BackupFailed("This part of the backup is not one file: it is damaged or forged. Nothing was changed.")
    return found[0]


@contextlib.contextmanager
def _told(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BackupFailed(f"{path}: {error.strerror}.") from error
