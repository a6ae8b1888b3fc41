"""Redis: all databases of a server, as the RDB file that a replica would receive.

A restore starts a temporary server from that file, which listens only on a Unix socket. It copies every key into empty
databases of the target, and then swaps them with the real ones in one transaction.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from ...documents.texts import count_text
from ...errors import BackupFailed, InvalidArgument, SourceUnusable
from ...messages import last_words, logger
from ..sources import Database, DatabaseDescription, Dump, DumpFile, DumpNote, DumpReader, Switch
from ..working import working_folder
from .base import Address, ServerDatabase, Tool, check_only, file_pieces, restoring, write

_FILE = "dump.rdb"
_BATCH = 500
"""Keys in one round trip: few round trips, and the server is not blocked for long."""
_MARK = "prefect-snapshots:restoring"
"""A key in each database that a restore is filling. It shows the next restore what a killed one left behind."""
_TIMEOUT = 60.0
"""Seconds to wait for an answer. A busy server may be slow, but a dead one must not block a backup forever."""


@dataclass(frozen=True, repr=False)
class Redis(ServerDatabase):
    """A Redis server with all its databases; not a cluster.

    Example:
        >>> from prefect_snapshots.backups.databases import Redis
        >>> Redis("redis://:secret@cache.example.com:6379").name
        'redis://cache.example.com:6379/'

    `rediss://` connects with TLS. The URL can have the option `?unix_socket=`.
    """

    schemes: ClassVar[tuple[str, ...]] = ("redis", "rediss")
    kind: ClassVar[str] = "redis"
    swaps: ClassVar[bool] = True
    description: ClassVar[DatabaseDescription] = DatabaseDescription(
        title="Redis",
        urls="`redis://:password@host`",
        needs="`redis-tools`; to restore `redis-server`",
        dump="one moment, all databases of the server (`redis-cli --rdb`), counted in the file",
        restored="into empty databases of the server, which are then all swapped in one transaction",
        not_kept=(
            "access lists, configuration and data of modules (a backup names the modules). Expiry times are kept to "
            "some milliseconds. Clusters are refused. A restore needs one empty database for each database, and twice "
            "the memory"
        ),
    )
    default_port: ClassVar[int] = 6379
    options: ClassVar[tuple[str, ...]] = ("unix_socket",)
    has_databases: ClassVar[bool] = False

    def check_url(self, address: Address) -> None:
        if address.database not in ("", "0"):
            raise InvalidArgument(
                "A backup of Redis contains all databases of the server. Leave the number out of the URL."
            )

    @property
    def name(self) -> str:
        return super().name.rstrip("0") if self.address.database else super().name

    def check(self) -> list[str]:
        _find("redis-check-rdb", "redis-tools")
        tools = [_find("redis-cli", "redis-tools"), _find("redis-server", "redis-server")]
        versions = [f"{tool.name} {tool.run('--version').decode().split()[-1]}" for tool in tools[:1]]
        with self._connected() as connection:
            _check_alone(connection)
            server = re.search(rb"redis_version:(\S+)", connection.run("INFO", "server"))
        return [*versions, f"server {server[1].decode()}" if server else "server of unknown version"]

    @contextlib.contextmanager
    def dump(self) -> Iterator[Dump]:
        address, secret = self.address, self.secret()
        place = ["-h", address.host or "localhost", "-p", str(address.port or self.default_port)]
        if path := address.options.get("unix_socket"):
            place = ["-s", path]
        place += ["--user", address.user] if address.user else []
        place += ["--tls"] if address.scheme == "rediss" else []
        environment = {"REDISCLI_AUTH": secret} if secret else {}
        with self._connected() as connection:
            _check_alone(connection)
        with working_folder("redis") as folder:
            file = folder / _FILE
            Tool.find("redis-cli", "redis-tools", environment, secret).run(*place, "--rdb", str(file))
            counts = {name: keys for name, (keys, _) in _counts_in(file).items()}
            with self._connected() as connection:
                notes = [*_too_few(connection, counts), *_modules(connection)]
            yield Dump([DumpFile(_FILE, file_pieces(file))], counts, notes)

    def counts(self) -> dict[str, int]:
        with self._connected() as connection:
            return connection.sizes()

    @contextlib.contextmanager
    def stage(self, dump: DumpReader, only: Sequence[str] = ()) -> Iterator[Switch]:
        """See `StagedRestores`."""
        check_only(only, dump.counts, "database")
        with contextlib.ExitStack() as stack:
            with restoring(self.name, "and is unchanged"):
                folder = stack.enter_context(working_folder("redis"))
                write(folder / _FILE, dump.open(_FILE))
                databases = max(map(_checked_number, dump.counts), default=0) + 1
                source = stack.enter_context(_throwaway(folder, databases))
                swap = stack.enter_context(_filled(source, self._connected, [_number(name) for name in only]))

            def switch() -> Sequence[str]:
                with restoring(self.name, "and is unchanged"):
                    swap()
                return []

            yield switch

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Database]:
        with working_folder("redis") as folder, _throwaway(folder, 2048):
            yield _ScratchRedis(f"redis://localhost?unix_socket={folder}/socket")

    @contextlib.contextmanager
    def _connected(self) -> Iterator[_Connection]:
        address, secret = self.address, self.secret()
        try:
            with contextlib.ExitStack() as stack:
                if path := address.options.get("unix_socket"):
                    opened = stack.enter_context(_open_socket(path))
                else:
                    place = (address.host or "localhost", address.port or self.default_port)
                    opened = stack.enter_context(socket.create_connection(place, _TIMEOUT))
                if address.scheme == "rediss":
                    tls = ssl.create_default_context()
                    opened = stack.enter_context(tls.wrap_socket(opened, server_hostname=address.host))
                connection = _Connection(opened)
                if secret:
                    connection.run("AUTH", *([address.user] if address.user else []), secret)
                yield connection
        except OSError as error:
            raise BackupFailed(f"{self.name} does not answer: {error}") from error


@dataclass(frozen=True, repr=False)
class _ScratchRedis(Redis):
    """A server for a drill.

    Attributes:
        expiring: The number of keys in each database that expire.
    """

    expiring: dict[str, int] = field(default_factory=dict, compare=False)

    def restore(self, dump: DumpReader, only: Sequence[str] = ()) -> None:
        super().restore(dump, only)
        with working_folder("redis") as folder:
            write(folder / _FILE, dump.open(_FILE))
            self.expiring.update((name, expiring) for name, (_, expiring) in _counts_in(folder / _FILE).items())

    def still_expected(self, counts: Mapping[str, int], found: Mapping[str, int]) -> Mapping[str, int]:
        """See `Expires`: keys that have expired since the backup do not count as differences."""
        expected: dict[str, int] = {}
        for name, keys in counts.items():
            there = found.get(name, 0)
            left = there if keys - self.expiring.get(name, 0) <= there <= keys else keys
            expected |= {name: left} if left else {}
        return expected


Reply: TypeAlias = Any
"""bytes, an integer, None, an error, or a list of replies."""


class _RedisError(Exception):
    """An error in an answer of the server."""


class _Connection:
    """A connection with version 2 of Redis's protocol."""

    def __init__(self, opened: socket.socket) -> None:
        self._socket = opened
        self._file = opened.makefile("rb")

    def run(self, *command: str | bytes | int) -> Reply:
        """Return the answer to one command.

        Raises:
            BackupFailed: The server refuses it.
        """
        return self.all_of([command])[0]

    def all_of(self, commands: Sequence[Sequence[str | bytes | int]]) -> list[Reply]:
        """Return the answers to many commands, in one round trip."""
        sent = bytearray()
        for command in commands:
            words = [word if isinstance(word, bytes) else str(word).encode() for word in command]
            sent += b"*%d\r\n" % len(words)
            for word in words:
                sent += b"$%d\r\n%b\r\n" % (len(word), word)
        self._socket.sendall(sent)
        replies = [self._read() for _ in commands]
        for command, reply in zip(commands, replies, strict=True):
            for answer in reply if isinstance(reply, list) else [reply]:
                if isinstance(answer, _RedisError):
                    raise BackupFailed(f"Redis refuses {command[0]!s}: {answer}")
        return replies

    def sizes(self) -> dict[str, int]:
        """Return the number of keys in each database."""
        found = re.findall(rb"^(db\d+):keys=(\d+)", self.run("INFO", "keyspace"), re.MULTILINE)
        return {name.decode(): int(keys) for name, keys in found}

    def _read(self) -> Reply:
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("the connection ended")
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            return _RedisError(rest.decode(errors="replace"))
        if kind == b"+":
            return rest
        if kind == b":" or int(rest) < 0:
            return int(rest) if kind == b":" else None
        if kind == b"*":
            return [self._read() for _ in range(int(rest))]
        return self._file.read(int(rest) + 2)[:-2]


@contextlib.contextmanager
def _filled(
    source: _Connection, connect: Callable[[], AbstractContextManager[_Connection]], only: Sequence[int]
) -> Iterator[Callable[[], None]]:
    """Fill empty databases of the target, and empty them when the block ends.

    Args:
        source: A server with the data to restore.
        connect: Connects to the target. A connection may not stay open while other parts of the backup are restored.
        only: The databases to restore. Empty: all.

    Returns:
        A function that swaps them with the real ones in one transaction.
    """
    wanted = [number for number in map(_number, source.sizes()) if not only or number in only]
    token = secrets.token_hex(8)
    spare: list[int] = []
    try:
        with connect() as target:
            there, spare = _spare(target, wanted)
            if len(spare) < len(wanted):
                raise BackupFailed(
                    f"The restore needs {count_text(len(wanted), 'empty database')}, and the server has {len(spare)}. "
                    "Increase `databases` in redis.conf."
                )
            filled = list(zip(wanted, spare, strict=True))
            for number, free in filled:
                target.run("SELECT", free)
                target.run("SET", _MARK, token)
                source.run("SELECT", number)
                _copy_keys(source, target)
            functions = None if only else _functions(source, target)

        def swap() -> None:
            old = [number for number in {*there, *only} if not only or number in only]
            with connect() as target:
                _swap(target, filled, token, old, functions)

        yield swap
    finally:
        # A server that is out of memory refuses all writes of all clients until the copies are deleted.
        try:
            with connect() as target:
                for free in spare:
                    _empty(target, free, token)
        except BackupFailed as error:
            logger.warning("The server could not be tidied up. The next restore tries again: %s", error)


def _swap(
    target: _Connection, filled: Sequence[tuple[int, int]], token: str, old: Iterable[int], functions: bytes | None
) -> None:
    """Swap the filled databases with the real ones, and empty these and all others of `old`, in one transaction.

    Raises:
        BackupFailed: Another restore has emptied one of the filled databases. Nothing was changed.
    """
    commands: list[tuple[str | bytes | int, ...]] = [("MULTI",)]
    for number, free in filled:
        target.run("SELECT", free)
        target.run("WATCH", _MARK)
        if target.run("GET", _MARK) != token.encode():
            raise BackupFailed("Another restore of this server is running.")
        # After the swap, `free` contains the previous data.
        commands += [("SELECT", free), ("DEL", _MARK), ("SWAPDB", free, number), ("FLUSHDB",)]
    for number in sorted(set(old) - {number for number, _ in filled}):
        commands += [("SELECT", number), ("FLUSHDB",)]
    if functions is not None:
        commands.append(("FUNCTION", "RESTORE", functions, "FLUSH"))
    if target.all_of([*commands, ("EXEC",)])[-1] is None:
        raise BackupFailed("Another restore of this server is running.")


def _empty(target: _Connection, number: int, token: str | None = None) -> None:
    """Empty a database that a restore was filling, even if the server has no FLUSHDB.

    Args:
        target: The server.
        number: The database. If it has no mark, it was not being filled, and nothing is deleted.
        token: Empty it only if this is its mark.
    """
    try:
        target.run("SELECT", number)
        mark = target.run("GET", _MARK)
        if mark is None or (token is not None and mark != token.encode()):
            return
        try:
            target.run("FLUSHDB")
        except BackupFailed:
            cursor = b"0"
            while True:
                cursor, keys = target.run("SCAN", cursor, "COUNT", _BATCH)
                if others := [key for key in keys if key != _MARK.encode()]:
                    target.run("UNLINK", *others)
                if cursor == b"0":
                    break
            target.run("UNLINK", _MARK)  # delete the mark last: until then the database is known to be ours
    except (BackupFailed, OSError) as error:
        logger.warning(
            "Database %d of the server could not be emptied. The next restore tries again: %s", number, error
        )


def _spare(target: _Connection, wanted: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return the numbers of the target's databases with keys, and of as many empty ones as are needed."""
    there = []
    for number in map(_number, target.sizes()):
        target.run("SELECT", number)
        if target.run("EXISTS", _MARK):
            _empty(target, number)
        else:
            there.append(number)
    spare: list[int] = []
    number = 0
    with contextlib.suppress(BackupFailed):  # raised by the number after the last database
        while len(spare) < len(wanted):
            target.run("SELECT", number)
            if number not in there and number not in wanted:
                spare.append(number)
            number += 1
    return there, spare


def _check_alone(connection: _Connection) -> None:
    """Refuse a node of a cluster.

    Raises:
        SourceUnusable: It is one.
    """
    if b"redis_mode:cluster" in connection.run("INFO", "server"):
        raise SourceUnusable(
            "The server is a node of a Redis cluster, and has only a part of its keys. Backups of clusters are not "
            "supported."
        )


def _modules(connection: _Connection) -> list[DumpNote]:
    """Return what to say of modules, whose types of data no restore can load."""
    try:
        found = [dict(zip(each[::2], each[1::2], strict=True)) for each in connection.run("MODULE", "LIST")]
    except BackupFailed:  # the user may not ask
        return []
    names = ", ".join(sorted(each[b"name"].decode(errors="replace") for each in found))
    if not names:
        return []
    return [
        DumpNote(
            f"The server has modules: {names}. If it has data of their types, no restore can load this backup: a drill "
            "tells."
        )
    ]


def _too_few(connection: _Connection, counts: Mapping[str, int]) -> list[DumpNote]:
    """Return what to say if a restore to this server would have no room beside the databases in a backup."""
    if needed := 2 * len(counts):
        try:
            connection.run("SELECT", needed - 1)
        except BackupFailed:
            return [
                DumpNote(
                    f"The server has fewer than {needed} databases, and a restore to it needs as many: an empty one "
                    "for each that has keys. Increase `databases` in redis.conf before you restore."
                )
            ]
    return []


def _copy_keys(source: _Connection, target: _Connection) -> None:
    cursor = b"0"
    while True:
        cursor, keys = source.run("SCAN", cursor, "COUNT", _BATCH)
        values = source.all_of([("DUMP", key) for key in keys])
        left = source.all_of([("PTTL", key) for key in keys])
        # None or -2: it has expired since. A scan may return a key twice. To RESTORE, 0 means that a key never expires,
        # and to PTTL, that it does within a millisecond.
        target.all_of(
            [
                ("RESTORE", key, 0 if ttl == -1 else max(1, ttl), value, "REPLACE")
                for key, value, ttl in zip(keys, values, left, strict=True)
                if value is not None and ttl != -2
            ]
        )
        if cursor == b"0":
            return


def _functions(source: _Connection, target: _Connection) -> bytes | None:
    """Return the libraries of functions, which servers have since version 7."""
    try:
        target.run("FUNCTION", "STATS")
    except BackupFailed:
        return None
    dumped: bytes = source.run("FUNCTION", "DUMP")
    return dumped


@contextlib.contextmanager
def _throwaway(folder: Path, databases: int) -> Iterator[_Connection]:
    """Run a server on a socket in a folder, with the dump in the folder."""
    path = str(folder / "socket")
    options = ["--port", "0", "--unixsocket", path, "--unixsocketperm", "700", "--dir", str(folder), "--save", ""]
    options += ["--dbfilename", _FILE, "--appendonly", "no", "--databases", str(databases), "--loglevel", "warning"]
    tool = _find("redis-server", "redis-server")
    version = re.search(rb"v=(\d+)\.(\d+)", tool.run("--version"))
    if version and (int(version[1]), int(version[2])) >= (6, 2):
        # Otherwise a forged dump could crash this server, and then the server that it is copied to.
        options += ["--sanitize-dump-payload", "yes"]
    with (
        (folder / "log").open("wb") as log,
        tool.dying_with_us().started(*options, stdin=subprocess.DEVNULL, stdout=log) as process,
    ):
        try:
            while True:
                with contextlib.ExitStack() as stack:
                    try:
                        connection = _Connection(stack.enter_context(_open_socket(path)))
                        connection.run("SELECT", 0)
                    except (FileNotFoundError, ConnectionError):  # not yet, or it ends because of the dump
                        pass
                    except BackupFailed as error:
                        if "LOADING" not in str(error):
                            raise
                    else:
                        yield connection
                        return
                if process.poll() is not None:
                    words = last_words((folder / "log").read_text(errors="replace"), 1000)
                    raise BackupFailed(f"A Redis server does not start from the dump: {words}")
                time.sleep(0.05)
        finally:
            process.terminate()
            process.wait()
            # It ended because it was told to.
            process.returncode = 0


@contextlib.contextmanager
def _open_socket(path: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as opened:
        opened.settimeout(_TIMEOUT)
        opened.connect(path)
        yield opened


def _counts_in(file: Path) -> dict[str, tuple[int, int]]:
    """Return the number of keys in each database and how many of them expire, as recorded in the file.

    `redis-check-rdb` verifies the file and knows where that is.
    """
    said = _find("redis-check-rdb", "redis-tools").run(str(file))
    counts = {}
    with file.open("rb") as content:
        for at, number in re.findall(rb"\[offset (\d+)\] Selecting DB ID (\d+)", said):
            content.seek(int(at))
            head = content.read(19)
            if head[:1] != b"\xfb":
                raise BackupFailed("The dump does not say how many keys it contains. Redis 3.2 or newer is required.")
            keys, size = _length(head[1:])
            counts[f"db{number.decode()}"] = keys, _length(head[1 + size :])[0]
    return counts


def _length(data: bytes) -> tuple[int, int]:
    """Return a length of the RDB format, and its size in bytes, which its first two bits encode."""
    first, low = data[0] >> 6, data[0] & 0x3F
    if first == 0:
        return low, 1
    if first == 1:
        return low << 8 | data[1], 2
    size = 9 if data[0] == 0x81 else 5
    return int.from_bytes(data[1:size]), size


def _checked_number(name: str) -> int:
    """Return the checked number of a database in a backup. A server uses 1 kB of memory for each, up to the largest."""
    if not re.fullmatch(r"db[0-9]{1,5}", name, re.ASCII):
        raise BackupFailed("The backup has databases that no Redis server has: it is damaged or forged.")
    return _number(name)


def _number(name: str) -> int:
    return int(name.removeprefix("db"))


def _find(name: str, package: str) -> Tool:
    return Tool.find(name, package)
