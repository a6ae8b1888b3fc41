"""Shared code of the databases: parse URLs, run the programs of a database, and read and check dumps.

A *tool* is a program that comes with a database, such as `pg_dump`. Passwords are passed to tools in their environment
or in a file that only its owner can read, never as an argument, because all users of a machine can read arguments. The
error messages of tools become part of our errors, without passwords. This module knows no particular database.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, ClassVar, Self, TypeVar
from urllib.parse import parse_qsl, quote, unquote

import msgspec

from ...errors import UNDECODABLE, BackupFailed, InvalidArgument, RestoreFailed, SourceUnusable, ToolMissing
from ...messages import last_words, logger
from ...private_files import create_file
from ...redaction import is_ambiguous, masking, safe_url
from ..interruption import deferred
from ..sources import Database, DumpFile, DumpReader, Password, Switch
from ..working import exclusively, is_held, place_id, working_path

PIECE = 1 << 20
"""Bytes of a dump to read at once: few calls, and little memory."""

_URL = re.compile(
    r"(?P<scheme>[a-z0-9]+)(?:\+(?P<driver>[a-z0-9]+))?://(?:(?P<user>[^:@/]*)(?::(?P<password>[^/]*))?@)?"
    r"(?P<host>\[[^\]]*\]|[^/?@:,]*(?:(?::\d+)?,[^/?@:,]*)*)(?::(?P<port>\d+))?(?:/(?P<database>[^?]*))?(?:\?(?P<options>.*))?",
    re.DOTALL,
)
_DRILL = re.compile(r"(?s).*_drill_([0-9a-f]{8})([0-9a-f]{8})")
_LOCAL_DRILL = re.compile(r"(?s).*_drill_([0-9a-f]{8})([0-9a-f]{8})([0-9a-f]{8})")
_STEM = 30
"""Characters of a database's name in that of its scratch database, which has at most 63 in MongoDB."""
_DENIED = re.compile(r"(?i)not authorized|unauthorized|forbidden")
DOCUMENTS = re.compile(r"(?s)(?P<kept>\b(?:dup key|conflicting key|[Dd]ocument):) .*")
"""What tools of databases of documents repeat of them in their messages."""
_DIGEST = 16
"""Bytes of a checksum: 128 bits never collide by chance, and fit on one line of a report."""
_LONGEST_LINE = 1 << 30
"""Bytes of a line of a dump: no server of MariaDB or MySQL takes longer statements."""
_LARGEST_SETTINGS = 16 * 1024 * 1024
"""The largest settings file in bytes. It is read into memory, and has at most a few thousand names."""
_SHOWN = 2000
"""The most characters of a tool's output that an error repeats, from its end."""


@dataclass(frozen=True)
class Address:
    """A parsed URL. Missing parts are empty, and a missing port is 0."""

    scheme: str
    driver: str
    user: str
    password: str | None = field(repr=False)
    host: str
    port: int
    database: str
    options: Mapping[str, str]

    @classmethod
    def of(cls, url: str) -> Address:
        """Parse `scheme://user:password@host:port/database?option=value`, each part percent-encoded.

        Raises:
            InvalidArgument: It is not such a URL. The message does not repeat it, because it may contain a password.
        """
        found = _URL.fullmatch(url)
        if found is None:
            raise InvalidArgument(
                f"The URL of a database that begins with {url.partition(':')[0][:20]!r} is not understood. Write "
                "scheme://user:password@host:port/database, with special characters percent-encoded."
            )
        part = {name: unquote(value) for name, value in found.groupdict(default="").items()}
        if not found["host"]:  # a path may be in any encoding
            part["database"] = unquote(found["database"] or "", errors="surrogateescape")
        password = part["password"] if found["password"] is not None else None
        options = dict(parse_qsl(found["options"] or "", keep_blank_values=True))
        if is_ambiguous(url) or (found["host"] and "@" in (found["database"] or "")):
            raise InvalidArgument(
                "The URL of a database has an '@' after its host, so it is not clear where the password ends. "
                "Percent-encode special characters: '@' is %40, '/' is %2F."
            )
        if "\0" in unquote(url):
            raise InvalidArgument(
                f"The URL of a database that begins with {part['scheme'][:20]!r} has a zero byte (%00). Remove it."
            )
        host = part["host"].strip("[]")
        port = int(part["port"] or 0)
        return cls(part["scheme"], part["driver"], part["user"], password, host, port, part["database"], options)


class StagedDatabase:
    """The base of databases that build the new state before they switch to it. All databases of this package do."""

    def stage(self, dump: DumpReader, only: Sequence[str] = ()) -> AbstractContextManager[Switch]:
        """See `StagedRestores`."""
        raise NotImplementedError

    def restore(self, dump: DumpReader, only: Sequence[str] = ()) -> None:
        """See `Database`."""
        with self.stage(dump, only) as switch:
            for warning in switch():
                logger.warning("%s", warning)

    def check_restorable(self) -> Sequence[str]:
        """See `Database`. By default, everything can be restored."""
        return []


@dataclass(frozen=True, repr=False)
class ServerDatabase(StagedDatabase):
    """A database on a server.

    Attributes:
        url: Its URL. A pickle contains it without the password, and without options that could be secrets.
        password: The password to use instead of the one in the URL. A function is called whenever it is needed.
    """

    url: str
    password: Password = None

    schemes: ClassVar[tuple[str, ...]]
    suffixes: ClassVar[tuple[str, ...]] = ()
    kind: ClassVar[str]
    default_port: ClassVar[int]
    options: ClassVar[Collection[str] | None]
    """The options that a URL can have after its `?`. None if the client of the database checks them."""
    has_databases: ClassVar[bool] = True
    """Whether a backup contains one database of the server, which the URL must name."""

    def __post_init__(self) -> None:
        kind, address = type(self), Address.of(self.url)
        if kind.has_databases and not kind.database_in(address):
            raise InvalidArgument(
                f"The URL of a database of {kind.__name__} ends with its name: {kind.schemes[0]}://host/name."
            )
        if kind.options is not None and (unknown := sorted(set(address.options) - set(kind.options))):
            raise InvalidArgument(f"Unknown in the URL of {kind.__name__}: {', '.join(unknown)}.")
        self.check_url(address)

    @classmethod
    def database_in(cls, address: Address) -> str:
        """Return the name of the database in a URL."""
        return address.database

    @classmethod
    def from_url(cls, url: str, password: Password = None) -> Self:
        """See `DatabaseDriver.from_url`."""
        return cls(url, password)

    def check_url(self, address: Address) -> None:
        """Refuse a URL that is not valid for this kind of database. Its name and its options have been checked before.

        Raises:
            InvalidArgument: The URL is not valid. The message shows what a valid URL looks like.
        """

    def __repr__(self) -> str:
        return f"{type(self).__name__}({safe_url(self.url)!r})"

    def __reduce__(self) -> tuple[Callable[..., ServerDatabase], tuple[Any, ...]]:
        # As for a repository, a pickle has no password. The other process finds it where the tools of the database do.
        harmless = {"url": safe_url(self.url), "password": self.password if callable(self.password) else None}
        return _remade, (type(self), {**vars(self), **harmless})

    @property
    def name(self) -> str:
        """The URL without user, password and options."""
        address = self.address
        host = f"[{address.host}]" if ":" in address.host else address.host or "localhost"
        return f"{self.kind}://{host}:{address.port or self.default_port}/{quote(address.database, safe='')}"

    @property
    def address(self) -> Address:
        return Address.of(self.url)

    def checksums(self, dump: Iterable[DumpFile]) -> dict[str, str]:
        """See `Database`. By default, there are no checksums."""
        return {}

    def secret(self) -> str | None:
        """Return the password, if you passed one."""
        if self.password is None:
            return self.address.password
        return self.password() if callable(self.password) else self.password

    def renamed(self, database: str) -> str:
        """Return the URL of another database on the same server."""
        head, question, options = self.url.partition("?")
        scheme, _, rest = head.partition("://")
        return f"{scheme}://{rest.partition('/')[0]}/{quote(database, safe='')}{question}{options}"


def _remade(kind: type[ServerDatabase], fields: dict[str, Any]) -> ServerDatabase:
    return kind(**fields)


@dataclass(frozen=True)
class FileDatabase(StagedDatabase):
    """A database in one file.

    Attributes:
        path: The path of the file. A relative path is made absolute.
    """

    path: str

    suffixes: ClassVar[tuple[str, ...]]
    kind: ClassVar[str]

    def __post_init__(self) -> None:
        if not os.fspath(self.path) or ":memory:" in os.fspath(self.path):
            raise InvalidArgument(
                f"A {type(self).__name__} database must be a file to be backed up. Pass its path, such as "
                f"app{self.suffixes[0]}."
            )
        object.__setattr__(self, "path", os.path.abspath(self.path))

    @staticmethod
    def refuse_missing(path: str) -> None:
        """Raise `SourceUnusable` if there is no file at a path. One that cannot be reached may be there."""
        try:
            os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            raise SourceUnusable(f"{path} does not exist.") from None
        except OSError:
            pass

    @classmethod
    def from_url(cls, url: str, password: Password = None) -> Self:
        """See `DatabaseDriver.from_url`."""
        if "://" not in url:
            return cls(url)
        address = Address.of(url)
        options = cls.options_of(address)
        if password is not None or address.password is not None:
            raise InvalidArgument(f"A {cls.__name__} database has no password. Leave it out.")
        return cls(address.database, **options)

    @classmethod
    def options_of(cls, address: Address) -> dict[str, Any]:
        """Return the options of a URL as arguments of the class. This kind has no options.

        Raises:
            InvalidArgument: The URL has an option that this kind does not know.
        """
        if address.options:
            raise InvalidArgument(f"Unknown in the URL of a {cls.__name__} database: {', '.join(address.options)}.")
        return {}

    @property
    def name(self) -> str:
        """The URL of the file."""
        return f"{self.kind}:///{quote(os.fsencode(self.path))}"


@dataclass(frozen=True)
class Tool:
    """A program, and the environment in which it runs.

    Attributes:
        path: The path of the program.
        environment: Environment variables, in addition to those of this process.
        secrets: Strings that must not appear in errors.
        arguments: The first arguments of every call.
        descriptors: Open files that the program inherits.
        hidden: A pattern for data in its messages, which must not appear in errors. Its group `kept`, if any, stays.
    """

    path: str
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: Collection[str] = field(default=(), repr=False)
    arguments: tuple[str, ...] = ()
    descriptors: tuple[int, ...] = ()
    hidden: re.Pattern[str] | None = None

    @classmethod
    def find(cls, names: str, package: str, environment: Mapping[str, str] | None = None, *secrets: str | None) -> Tool:
        """Find a tool on the PATH.

        Args:
            names: The names of the program. The first one that exists is used.
            package: The Debian package with the program.

        Raises:
            ToolMissing: None of them exists.
        """
        for name in names.split():
            if path := shutil.which(name):
                return cls(path, environment or {}, [secret for secret in secrets if secret])
        raise missing(names, package)

    @property
    def name(self) -> str:
        return os.path.basename(self.path)

    def dying_with_us(self) -> Tool:
        """Return the same program. Linux ends it if this process is killed; otherwise a server would keep running."""
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            return self
        return replace(self, path=setpriv, arguments=("--pdeathsig", "TERM", self.path, *self.arguments))

    def run(
        self,
        *arguments: str,
        stdin: Iterable[bytes | memoryview] = (),
        stdout: IO[bytes] | None = None,
        stderr: IO[bytes] | None = None,
    ) -> bytes:
        """Run the program to its end, and write `stdin` to it piece by piece.

        Returns:
            Its output, unless it went to `stdout`.

        Raises:
            BackupFailed: It failed. The message contains its last messages.
        """
        with tempfile.TemporaryFile() as output:
            with self.started(*arguments, stdin=subprocess.PIPE, stdout=stdout or output, stderr=stderr) as process:
                assert process.stdin is not None
                # A tool that needs no more input, or has failed, closes the pipe. Its exit code says which.
                with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
                    for piece in stdin:
                        pipe.write(piece)
            output.seek(0)
            return output.read()

    def stream(self, *arguments: str, stderr: IO[bytes] | None = None) -> Generator[bytes]:
        """Run the program, and yield its output in pieces. It runs until the iterator is closed.

        Args:
            stderr: A file for its messages.

        Raises:
            BackupFailed: It failed, maybe after many pieces.
        """
        with self.started(*arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr) as process:
            assert process.stdout is not None
            yield from pieces(process.stdout)

    @contextlib.contextmanager
    def started(
        self,
        *arguments: str,
        stdin: int | IO[bytes],
        stdout: int | IO[bytes],
        stderr: IO[bytes] | None = None,
        cwd: Path | None = None,
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Run the program while the block runs. Afterwards check its exit code, or kill it if the block failed.

        Raises:
            BackupFailed: It failed.
        """
        with contextlib.ExitStack() as stack:
            complaints = stderr or stack.enter_context(tempfile.TemporaryFile())
            # A signal in between would leave a program that nobody ends.
            with deferred():
                try:
                    process = subprocess.Popen(
                        [self.path, *self.arguments, *arguments],
                        stdin=stdin,
                        stdout=stdout,
                        stderr=complaints,
                        env={**os.environ, **self.environment},
                        cwd=cwd,
                        pass_fds=self.descriptors,
                    )
                except (OSError, ValueError) as error:  # a name that is too long, or a password with a zero byte
                    raise BackupFailed(f"{self.name} could not be started: {self.masked(str(error))}") from None
                stack.push(_ending(process))
            yield process
            _close_pipes(process)
            process.wait()
            if process.returncode:
                raise BackupFailed(self._failure(process.returncode, complaints))

    def _failure(self, code: int, complaints: IO[bytes]) -> str:
        complaints.seek(0)
        words = complaints.read().decode(errors="replace").strip()
        how = f"was killed by signal {-code}" if code < 0 else f"failed with exit code {code}"
        return f"{self.name} {how}: {last_words(self.masked(words), _SHOWN) or 'it did not say why'}"

    def masked(self, text: str) -> str:
        """Return a message without secrets and data."""
        text = masking(self.secrets)(text)
        return self.hidden.sub(lambda found: found.groupdict().get("kept") or "", text).strip() if self.hidden else text


def _ending(process: subprocess.Popen[bytes]) -> Callable[..., None]:
    """Return what an `ExitStack` calls: it kills the program if the block failed, and waits for its end."""

    def end(kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            process.kill()
        _close_pipes(process)
        process.wait()

    return end


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    """Close our ends of the pipes: a program that waits for us would never end."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


class Checksums:
    """Compute a checksum for each table: the sum of the digests of its rows, which does not depend on their order."""

    def __init__(self) -> None:
        self._sums: dict[str, int] = {}

    def add(self, table: str, row: bytes) -> None:
        digest = int.from_bytes(hashlib.blake2b(row, digest_size=_DIGEST).digest())
        self._sums[table] = self._sums.get(table, 0) + digest

    def of_tables(self) -> dict[str, str]:
        """Return the checksums in hexadecimal. Tables without rows have none."""
        return {table: f"{total % 256**_DIGEST:0{2 * _DIGEST}x}" for table, total in self._sums.items()}


class LocalHTTP(http.client.HTTPConnection):
    """An HTTP connection through a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def drill_mark() -> str:
    """Return 16 random digits for the end of a name: `shop_drill_MARK`. `drill_lock` recognises such names."""
    token = secrets.token_hex(4)
    return token + _proof(token)


def drill_lock(name: str) -> int | None:
    """Return the number of the lock that a drill holds on the server until its process ends.

    Args:
        name: The name of a database, role or user on a server. No other name matches by chance: half of the mark is a
            checksum of the other half.

    Returns:
        A number from 0 to 2**31 - 1. None: no drill created this.
    """
    found = _DRILL.fullmatch(name)
    return int(found[1], 16) % 2**31 if found and found[2] == _proof(found[1]) else None


@contextlib.contextmanager
def local_scratch_name(database: str) -> Iterator[str]:
    """Yield the name of a scratch database on a server that has no locks. Its lock is on this machine.

    Args:
        database: The name of the database that is drilled.
    """
    place, token = place_id(), secrets.token_hex(4)
    with exclusively(f"drill-{token}", f"a drill of {database}"):
        yield f"{database[:_STEM]}_drill_{place}{token}{_proof(place + token)}"


def abandoned_here(names: Iterable[str]) -> list[str]:
    """Return the names that `local_scratch_name` has made on this machine for drills that were killed."""
    place, left = place_id(), []
    for name in names:
        found = _LOCAL_DRILL.fullmatch(name)
        if found and found[1] == place and found[3] == _proof(place + found[2]):
            left += [] if is_held(working_path(f"drill-{found[2]}")) else [name]
    return left


def _proof(token: str) -> str:
    return hashlib.blake2b(f"prefect-snapshots drill {token}".encode(), digest_size=4).hexdigest()


def missing(names: str, package: str) -> ToolMissing:
    """Return the error for a program that is not installed."""
    program = " or ".join(names.split())
    return ToolMissing(f"{program} is not installed or not on the PATH. Install the package {package}.")


@contextlib.contextmanager
def restoring(name: str, state: str) -> Iterator[None]:
    """Raise errors within the block as `RestoreFailed`.

    Args:
        name: The name of the database.
        state: The state after a failure, such as "and is unchanged".
    """
    try:
        yield
    except BackupFailed as error:
        raise RestoreFailed(f"{name} was not restored {state}: {error}") from error


@contextlib.contextmanager
def private_file(text: str) -> Iterator[tuple[str, int]]:
    """Create a file without a name in any folder for another program, so that a kill of this process leaves nothing.

    Returns:
        The path by which the program can open it, and the descriptor that the program must inherit.
    """
    data = text.encode(errors="surrogateescape")
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("prefect-snapshots")
        os.fchmod(descriptor, 0o600)  # clients ignore an option file that everybody can write to
        os.write(descriptor, data)
    else:  # on every system, a pipe buffers 16 KB before it is read
        descriptor, end = os.pipe()
        os.write(end, data)
        os.close(end)
    try:
        yield f"/dev/fd/{descriptor}", descriptor
    finally:
        os.close(descriptor)


def pieces(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the rest of an open file in pieces."""
    while piece := file.read(PIECE):
        yield piece


def file_pieces(path: Path) -> Iterator[bytes]:
    """Yield the contents of a file in pieces. It is opened when the first piece is read."""
    with path.open("rb") as file:
        yield from pieces(file)


def lines(content: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines of data that comes in pieces, each with its line feed.

    Raises:
        BackupFailed: A line is longer than any that a tool writes.
    """
    begun: list[bytes] = []
    length = 0
    for piece in content:
        for line in io.BytesIO(piece):
            begun.append(line)
            length += len(line)
            if length > _LONGEST_LINE:
                raise BackupFailed(
                    f"The dump of this backup has a line of more than {_LONGEST_LINE >> 20:,} MB: it is damaged."
                )
            if line.endswith(b"\n"):
                yield b"".join(begun)
                begun.clear()
                length = 0
    if begun:
        yield b"".join(begun)


def write(path: Path, content: Iterable[bytes | memoryview]) -> None:
    """Write a new file, durably."""
    with create_file(path) as file:
        for piece in content:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


T = TypeVar("T")


def read_settings(dump: DumpReader, path: str, kind: type[T]) -> T:
    """Return the checked contents of a JSON file of a dump. Anybody who can write to the repository may have forged it.

    Args:
        dump: The dump.
        path: The path of the file.
        kind: The type of its contents, as `msgspec` checks it.

    Raises:
        BackupFailed: The dump has no such file, or its contents have another type.
    """
    data = bytearray()
    try:
        for piece in dump.open(path) if path in dump.paths else ():
            data += piece
            if len(data) > _LARGEST_SETTINGS:
                raise ValueError("it is too large")
        # If a key has two values, a tool may use another one than the value that was checked.
        return msgspec.convert(json.loads(data, object_pairs_hook=_unique), kind)
    except UNDECODABLE as error:
        raise BackupFailed(
            f"The settings of the database in this backup are damaged or forged ({path}). Nothing was changed."
        ) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def check_only(only: Iterable[str], available: Collection[str], what: str = "table") -> None:
    """Refuse a partial restore of tables that are not in the backup.

    Raises:
        InvalidArgument: A table is not in the backup. The message lists those that are.
    """
    if unknown := sorted(set(only) - set(available)):
        there = ", ".join(sorted(available)[:20]) or "none"
        raise InvalidArgument(f"There is no {what} {', '.join(unknown)} in the backup. It contains {there}.")


def check_beside(beside: AbstractContextManager[Database], dump: DumpReader, only: Sequence[str]) -> list[str]:
    """Build a dump in a database beside one that can only be changed in place, and count it there.

    Args:
        beside: An empty database, which is dropped when its block ends.
        dump: The dump to restore.
        only: Build only these collections. Empty: all.

    Returns:
        A warning if the user has no right to create such a database. Then it is restored without this step.

    Raises:
        BackupFailed: The dump cannot be restored, or its counts are not those of the backup.
    """
    try:
        with beside as built:
            built.restore(dump, only)
            found = built.counts()
    except (BackupFailed, RestoreFailed) as error:
        if _DENIED.search(str(error)):
            return [
                "The backup was not built in a temporary database first, because the user of the restore has no right "
                f"to create one: {error}"
            ]
        raise BackupFailed(str(error)) from error
    # Collections of the server itself do not exist in the temporary database.
    wanted = {
        name: count
        for name, count in dump.counts.items()
        if (name in only or not only) and not name.startswith("system.")
    }
    check_counts({name: found.get(name, 0) for name in wanted}, wanted)
    return []


def beside_name(database: str) -> str:
    """Return the name of the temporary database of a restore. It never changes, so that the next one replaces it."""
    return f"{database[:36]}_being_restored_{hashlib.blake2b(database.encode(), digest_size=4).hexdigest()}"


def check_counts(found: Mapping[str, int], expected: Mapping[str, int]) -> None:
    """Compare the counts of what was restored with those of the backup.

    Raises:
        BackupFailed: They differ.
    """
    if found != expected:
        differing = sorted({name for name, _ in set(found.items()) ^ set(expected.items())})
        told = ", ".join(f"{name} has {found.get(name, 0)} of {expected.get(name, 0)}" for name in differing[:5])
        raise BackupFailed(f"The restored data does not match the counts of the backup: {told}.")
