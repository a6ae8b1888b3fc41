"""Follow a SQLite database in WAL mode: copy the frames of its log to the archive before SQLite overwrites them.

SQLite overwrites its log from the beginning once everything in it is in the database file, and no connection reads from
it. The follower therefore always has a read transaction open. Everybody can read and write meanwhile; only the log
grows. When it has grown enough, the follower lets it begin anew: it archives all frames, writes them to the database
file (a checkpoint), ends its transaction for a moment, and begins another one. Then it proves that nothing was lost in
this moment: the header of the shared memory counts transactions, and the new log must contain all that were added.
A program that waits in a checkpoint of its own until the log may begin anew gets the same moment.

A look copies that header from shared memory, which is atomic, takes microseconds, and locks nothing. It says which
frame is the last committed one now. So each state has an exact time.

The database and its shared memory, once opened here, stay open as long as this process runs: closing a file releases
the locks that SQLite holds on it anywhere in the process. Then another process that ends believes that it is the last
one, and deletes the log.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import math
import mmap
import os
import shlex
import sqlite3
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Generic, TypeVar
from urllib.parse import quote

from ..errors import InvalidArgument, StorageError, WalRefused
from ..messages import logger
from ..repository.location import Buffer
from ..repository.repository import Repository
from ..repository.threads import Lock
from .sqlite_archive import FRAME_HEAD, Mark, Position, SQLiteArchive

T = TypeVar("T", bound=Buffer)

_LOOK = 0.01
"""Seconds between two looks: the resolution of times."""
_STORE = 1.0
"""Seconds between two commits: what is lost at most if the machine is."""
_PIECE = 16 << 20
"""Bytes of frames to store at once, in memory."""
_LOG = 16 << 20
"""Bytes of the log after which it begins anew."""
_REST = 1 << 20
"""Bytes of frames that are archived while others cannot write, at most about that many."""
_HEARTBEAT = 300.0
"""Seconds after which it is noted that nothing has changed."""
_PAUSE = 2.0
"""Seconds until the next attempt, after the log could not begin anew, or the storage failed."""
_PATIENCE = 60.0
"""Seconds to wait for the locks of others."""
_TRIES = 1000
"""Looks at a header that is being written, after which its writer is taken for dead."""
_WAIT = 0.0002
"""Seconds between two attempts to get a lock. SQLite itself waits up to 0.1 seconds, but a program that writes without
pause releases the lock for microseconds only."""
_ROUNDS = 10
"""Attempts to let the log begin anew, at once one after another."""
_WRITE_BACK = 1.0
"""Seconds to wait for readers of old states, before a state is written to the database file."""
_WRITE_BACK_LOCKED = 0.1
"""The same, while others cannot write."""
_AWAITED = 3
"""Looks in a row that see the locks of a program which waits. Two programs at work also have both for a moment."""
_GIVEN = 1.0
"""Seconds to wait until such a program takes the moment that it gets."""
_BASE_PIECE = 4 << 20
"""Bytes of the database file to read at once."""
_HEADER = struct.Struct("=IIIBBHIIII8s")
_WORDS = struct.Struct("=12I")
_CHECKPOINT = struct.Struct("=I")
_LOG_HEAD = 32
"""Bytes before the first frame, in the format of SQLite."""
_LOCKS = (120, 121)
"""The bytes of the shared memory whose locks a writer and a checkpoint have."""
_FLOCK = struct.Struct("hhqqi4x")
"""A lock, as the system describes it: type, origin of the offset, offset, length, process."""
_ASK = getattr(fcntl, "F_OFD_GETLK", None)
"""How to ask for locks, also for those of this process. Only Linux can."""

_opened: dict[tuple[int, int], int] = {}
"""The descriptors of databases and their shared memories, by device and inode. They are never closed."""
_followed: set[int] = set()
"""The descriptors of the databases that are followed in this process."""
_registering = Lock()


@dataclass(frozen=True, slots=True)
class _Look:
    """What the shared memory said: the last committed frame, and what identifies the log."""

    begun: int
    over: int
    salt: bytes
    frame: int
    changes: int
    pages: int
    page: int


class SQLiteFollower:
    """Archive every transaction of a SQLite database, so that it can be restored to any time.

    Args:
        repository: Where the archive is.
        path: The path of the database, which must be in WAL mode.
        name: The name of the database in the archive. Default: the name of its file.
        base_every: How often to store another base copy. A restore applies the log since the last one before its time.
        keep: How long times stay restorable. Default: forever.

    Example:
        >>> from prefect_snapshots import Repository
        >>> from prefect_snapshots.wal import SQLiteFollower
        >>> SQLiteFollower(Repository("memory://example-follower"), "/var/lib/app.db").archive.name
        'app.db'
    """

    def __init__(
        self,
        repository: Repository,
        path: str | os.PathLike[str],
        name: str | None = None,
        *,
        base_every: timedelta = timedelta(days=1),
        keep: timedelta | None = None,
    ) -> None:
        self.path = Path(path).absolute()
        self.archive = SQLiteArchive(repository, name if name is not None else self.path.name)
        self.base_every = base_every
        self.keep = keep

    def run(self, ending: threading.Event | None = None, begun: Callable[[], None] | None = None) -> None:
        """Follow until `ending` is set, or forever. What was committed before is archived then.

        Args:
            ending: Ends it.
            begun: Called once, when the database is followed.

        Raises:
            InvalidArgument: The file is no SQLite database in WAL mode.
            WalRefused: Another process follows the database, or another one into the same archive.
        """
        ending = ending or threading.Event()
        with _LiveLog(self.path) as live, ThreadPoolExecutor(1) as worker:
            following = _Following(self, live, worker)
            if begun is not None:
                begun()
            following.run(ending)


class _Following:
    """The state of a follower while it runs. Everything is decided in one thread; another one stores."""

    def __init__(self, follower: SQLiteFollower, live: _LiveLog, worker: ThreadPoolExecutor) -> None:
        self.archive = follower.archive
        self.follower = follower
        self.live = live
        self.worker = worker
        self.marks: list[Mark] = []
        self.job: Callable[[], None] | None = None
        """What is being stored, or will be tried again."""
        self.storing: Future[None] | None = None
        self.frozen: _Look | None = None
        """The state of the next base copy, which the database file has."""
        self.stored_at = self.due = self.restart_due = 0.0
        self.rest = math.inf
        """Bytes that were archived last to come near to the end of a full log."""
        self.awaited = 0
        """Looks in a row at which somebody seemed to wait."""
        made = self.archive.window().base_copies
        self.based_at = time.monotonic() - (datetime.now(UTC) - made[-1]).total_seconds() if made else float("-inf")
        live.hold()
        self.look = live.look()
        found, until = self.archive.position, self.archive.known_until
        # The same salts and the same checksum: the log was only continued. Then nothing was lost.
        known = found if found is not None and live.continues(found, self.look) else None
        self.begins = known is None
        self.stored: Position = known or live.position(self.look)
        self.after: Position = self.stored
        """The position of the archive. It differs from what is stored after the log has begun anew."""
        self.seen = self.stored.frame
        if self.look.frame != self.seen:
            self.seen = self.look.frame
            self.marks.append(Mark(self.look.over, until, self.seen))

    def run(self, ending: threading.Event) -> None:
        while not ending.is_set():
            self._note(self.live.look())
            self.live.check()
            self._finish()
            self.awaited = self.awaited + 1 if self.live.awaited() else 0
            if self.storing is None and time.monotonic() >= self.due:
                try:
                    if self.awaited < _AWAITED:
                        self._begin(time.monotonic())
                    elif self.job is None and self.frozen is None and not self.begins:
                        self._restarted(self.live.give_way(self._archive_rest))
                except sqlite3.OperationalError as error:
                    self.begins = self.begins or not self.live.held
                    self._later(f"SQLite says: {error}")
            ending.wait(_LOOK)
        self._finish(last=True)
        self._note(self.live.look())
        self.live.check()
        if not self.begins and self._waiting():
            self._store_log()
            self._finish(last=True)

    def _note(self, look: _Look) -> None:
        before, self.look = self.look, look
        if look.frame != self.seen:
            self.marks.append(Mark(look.over, before.begun, look.frame))
            self.seen = look.frame

    def _waiting(self) -> int:
        """Return the bytes of the frames that are not archived."""
        return (self.look.frame - self.stored.frame) * (FRAME_HEAD + self.look.page)

    def _begin(self, now: float) -> None:
        """Begin what is due next. Nothing is being stored."""
        waiting = self._waiting()
        every = self.follower.base_every.total_seconds()
        full = now >= self.restart_due and self.look.frame * (FRAME_HEAD + self.look.page) > _LOG
        if self.job is not None:
            self.storing = self.worker.submit(self.job)
        elif self.frozen is not None:
            self._store_base(self.frozen)
        elif self.begins or now - self.based_at > every:
            self._freeze()
        elif full and (waiting < _REST or 2 * waiting > self.rest):
            # Somebody may write as fast as this can archive. Then they wait for about as long as the last piece took.
            self.rest = math.inf
            self.restart_due = now + _PAUSE
            self._restarted(self.live.restart(self._archive_rest))
        elif waiting and (full or now - self.stored_at > _STORE or waiting >= _PIECE):
            self.rest = waiting if full else math.inf
            self._store_log()
        elif not waiting and now - self.stored_at > _HEARTBEAT:
            after, looked = self.after, self.look.begun
            self._store(lambda: self.archive.put_looked(after, looked), lambda: None)

    def _store(self, job: Callable[[], None], stored: Callable[[], None]) -> None:
        self.stored_at = time.monotonic()
        self.job, self.when_stored = job, stored
        self.storing = self.worker.submit(job)

    def _finish(self, *, last: bool = False) -> None:
        if self.storing is None or not (last or self.storing.done()):
            return
        storing, self.storing = self.storing, None
        try:
            storing.result()
        except StorageError as error:
            if last:
                raise
            self._later(str(error))
            return
        self.job = None
        self.when_stored()

    def _later(self, why: str) -> None:
        logger.warning("%s was not archived, and will be tried again. %s", self.archive.name, why)
        self.due = time.monotonic() + _PAUSE

    def _store_log(self) -> None:
        look, after = self.look, self.after
        position = self.live.position(look)
        marks, frames = self.marks, self.live.frames(self.stored.frame + 1, look)
        self.marks = []
        tried = False

        def store() -> None:
            nonlocal tried
            # Otherwise an attempt has succeeded that seemed to fail.
            if not tried or self.archive.position != position:
                tried = True
                self.archive.put_log(after, position, look.page, look.begun, marks, frames)

        def stored() -> None:
            self.stored = self.after = position

        self._store(store, stored)

    def _freeze(self) -> None:
        frozen = self.live.freeze()
        self._note(self.live.look() if frozen is None else frozen)
        if frozen is None:
            self.due = time.monotonic() + _PAUSE
            return
        self.frozen = frozen
        if self.begins:
            self.stored = self.after = self.live.position(frozen)
            self.marks = []
        elif self._waiting():
            self._store_log()

    def _store_base(self, frozen: _Look) -> None:
        position, begins = self.live.position(frozen), self.begins

        def store() -> None:
            self.archive.put_base(position, begins, frozen.page, frozen.over, self.live.database(frozen))
            if self.follower.keep is not None:
                self.archive.expire(datetime.now(UTC) - self.follower.keep)

        def stored() -> None:
            self.begins, self.frozen, self.based_at = False, None, time.monotonic()

        self._store(store, stored)

    def _restarted(self, lost: bool | None) -> None:
        """Go on in the new log, all frames of the old one are archived. None: it did not begin anew."""
        if lost is None:
            return
        if lost:
            logger.warning("Transactions of %s may not be archived: a new base copy is made.", self.archive.name)
        self.begins = self.begins or lost
        before, self.look = self.look, self.live.look()
        self.stored = Position(self.look.salt, 0, bytes(8))
        self.seen = self.look.frame
        self.marks = [Mark(self.look.over, before.begun, self.seen)]

    def _archive_rest(self, look: _Look) -> bool:
        """Archive all frames. Returns whether that succeeded."""
        self._note(look)
        if self._waiting():
            self._store_log()
            try:
                self._finish(last=True)
            except StorageError as error:
                self._later(str(error))
                return False
        return True


class _LiveLog:
    """The log of a database that others use."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open = contextlib.ExitStack()
        self._holding: sqlite3.Connection | None = None

    def __enter__(self) -> _LiveLog:
        with contextlib.ExitStack() as stack:
            if not self.path.is_file():
                raise InvalidArgument(f"{self.path} is not a file.")
            self._file = stack.enter_context(self._followed_alone())
            try:
                self._writer, *self._idle = [stack.enter_context(self._connected()) for _ in range(4)]
                self._holding = None
                (mode,) = self._writer.execute("PRAGMA journal_mode").fetchone()
                if mode != "wal":
                    raise InvalidArgument(
                        f"{self.path} is not in WAL mode, but in the mode {mode!r}. It was not changed. Run "
                        f"`sqlite3 {shlex.quote(str(self.path))} 'PRAGMA journal_mode = WAL'`; the database stays in "
                        "this mode."
                    )
                self._writer.execute("PRAGMA busy_timeout = 0")
                self._touch()
                self._memory = _open_for_good(f"{self.path}-shm")
                self._shared = stack.enter_context(mmap.mmap(self._memory, 0, prot=mmap.PROT_READ))
                log = stack.enter_context(open(f"{self.path}-wal", "rb"))
                self._log = log.fileno()
            except sqlite3.Error as error:
                raise InvalidArgument(f"{self.path} cannot be followed. SQLite says: {error}") from error
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @contextlib.contextmanager
    def _followed_alone(self) -> Iterator[int]:
        """Open the database. Two followers would keep each other from ever making a base copy."""
        with _registering:
            file = _open_for_good(self.path)
            alone = file not in _followed
            if alone:
                # This lock is of another kind than those of SQLite, and goes with the process.
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _followed.add(file)
                except BlockingIOError:
                    alone = False
        if not alone:
            raise WalRefused(
                f"Another process, or another thread of this one, follows {self.path}. Nothing was changed. End one of "
                "the followers."
            )
        try:
            yield file
        finally:
            with _registering:
                _followed.discard(file)
                fcntl.flock(file, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        uri = f"file:{quote(os.fsencode(self.path))}?mode=rw"
        connection = sqlite3.connect(uri, uri=True, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
        with contextlib.closing(connection):
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            yield connection

    @property
    def held(self) -> bool:
        """Whether a transaction keeps the log from beginning anew."""
        return self._holding is not None

    def check(self) -> None:
        """Check that the database, its log and their shared memory are still the files that this follower opened."""
        for ending, file in (("", self._file), ("-wal", self._log), ("-shm", self._memory)):
            path = f"{self.path}{ending}"
            try:
                now = os.stat(path)
            except FileNotFoundError:
                now = None
            if now is None or not os.path.samestat(now, os.fstat(file)):
                raise WalRefused(
                    f"{path} was deleted or replaced while this follower used it. What was archived before that is "
                    "complete. What was committed since then is not archived. Start the follower again: it makes a "
                    "base copy first."
                )

    def look(self) -> _Look:
        """Return what is committed now."""
        for attempt in itertools.count(1):
            begun = time.time_ns()
            head = self._shared[:96]
            over = time.time_ns()
            words = _WORDS.unpack_from(head)
            if head[:48] == head[48:] and _checksum(words[:10]) == words[10:]:
                _, _, changes, _, _, page, frame, pages, _, _, salt = _HEADER.unpack_from(head)
                # 65536 does not fit into 16 bits.
                return _Look(begun, over, salt, frame, changes, pages, page & 0xFE00 | (page & 1) << 16)
            time.sleep(0.0001)
            if attempt % _TRIES == 0 and not self._writer.in_transaction:
                # A writer was killed while it wrote this. Whoever reads next repairs it: do not wait for others.
                with contextlib.suppress(sqlite3.OperationalError):
                    self._writer.execute("SELECT count(*) FROM sqlite_master").fetchone()
        raise AssertionError

    def hold(self) -> _Look:
        """Begin a read transaction that keeps the log from beginning anew, and only then end the one before.

        Returns:
            What was committed just before it.
        """
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            before = self.look()
            if self._in_file() < before.frame:
                if self._hold_once(before):
                    return before
            elif self._begins_writing():  # a transaction on a log without news reads the file, and does not hold it
                self._touch()
            else:
                time.sleep(_WAIT)
        raise WalRefused(f"{self.path} is written too fast to be followed. What is archived is complete.")

    def _hold_once(self, before: _Look) -> bool:
        """Hold the log once, without a transaction of its own. Returns False if everything is in the database file."""
        connection = self._idle.pop()
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        # What is in the file only grows. So it was also behind when the transaction began.
        if self._in_file() >= before.frame or self.look().salt != before.salt:
            self._release(connection)
            return False
        released, self._holding = self._holding, connection
        if released is not None:
            self._release(released)
        return True

    def freeze(self) -> _Look | None:
        """Make the database file what it is at one time, until the next `hold`. None: others hinder it now."""
        return self._all_in_file(lambda _: True)

    def restart(self, archive: Callable[[_Look], bool]) -> bool | None:
        """Let the log begin anew.

        Args:
            archive: Archives the frames up to a look, and returns whether that succeeded. Nobody can write meanwhile.

        Returns:
            Whether something may have been lost. None: others hinder it now, and the log goes on.
        """
        for _ in range(_ROUNDS):
            seen = self._all_in_file(archive)
            if seen is None:
                return None
            with self._writing():
                # A transaction that has begun when the file has everything reads only the file. Such a one is allowed
                # to begin the log anew, when nobody else reads from it.
                once = self._let_go(seen)
                if once is None:
                    continue  # somebody was faster
                self._change()
            lost = self._lost(seen, once)
            if lost is not None:
                return lost
        return None

    def _all_in_file(self, archive: Callable[[_Look], bool]) -> _Look | None:
        """Write everything to the database file, and hold this state: no checkpoint passes the oldest transaction."""
        if not self._write_back(self._writer, self.hold(), _WRITE_BACK):
            return None
        with self._writing():
            now = self.look()
            if not archive(now):
                return None
            if self._in_file() < now.frame:
                self._hold_once(now)
                if not self._write_back(self._idle[-1], now, _WRITE_BACK_LOCKED):
                    return None
            return now

    def awaited(self) -> bool:
        """Return whether a checkpoint keeps others from writing. It may wait until the log may begin anew."""
        return _ASK is not None and all(
            _FLOCK.unpack(fcntl.fcntl(self._memory, _ASK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)))[0]
            != fcntl.F_UNLCK
            for byte in _LOCKS
        )

    def give_way(self, archive: Callable[[_Look], bool]) -> bool | None:
        """Let somebody begin the log anew who waits for it.

        Args:
            archive: As for `restart`.

        Returns:
            As for `restart`. If they need another look to see what they wait for: None.
        """
        seen = self.look()
        if self._in_file() < seen.frame:
            self._hold_once(seen)  # they wait until nobody reads an older state
            return None
        if not archive(seen) or not self.awaited():
            return None
        once = self._let_go(seen)
        if once is None:
            return None
        until = time.monotonic() + _GIVEN
        while self.look().salt == seen.salt and self.awaited() and time.monotonic() < until:
            time.sleep(_WAIT)
        return self._lost(seen, once)

    def _let_go(self, seen: _Look) -> sqlite3.Connection | None:
        """Let the log begin anew, but only once, with everything of a look in the database file.

        A transaction that reads only the file does not hold the log. But nobody may write to the file meanwhile, and
        without that the next log cannot begin anew.

        Returns:
            The connection with this transaction. None: there is news, or not everything is in the file.
        """
        once = self._idle.pop()
        once.execute("BEGIN")
        once.execute("SELECT count(*) FROM sqlite_master").fetchone()
        now = self.look()
        if (now.salt, now.frame) != (seen.salt, seen.frame) or self._in_file() != now.frame:
            self._release(once)
            return None
        assert self._holding is not None
        released, self._holding = self._holding, None
        self._release(released)
        return once

    def _lost(self, seen: _Look, once: sqlite3.Connection) -> bool | None:
        """Hold the log again, and return whether transactions after a look may be lost. None: it is the same log."""
        try:
            self.hold()
        finally:
            self._release(once)
        now = self.look()
        if now.salt == seen.salt:
            return None
        commits = sum(1 for at in range(1, now.frame + 1) if self._head(at, now.page)[4:8] != bytes(4))
        return (now.changes - seen.changes) % (1 << 32) != commits

    def continues(self, position: Position, look: _Look) -> bool:
        """Return whether the log begins with all frames up to a position."""
        return (
            position.salt == look.salt
            and 0 < position.frame <= look.frame
            and self._check(position.frame, look.page) == position.check
        )

    def position(self, look: _Look) -> Position:
        """Return the position of the last committed frame."""
        return Position(look.salt, look.frame, self._check(look.frame, look.page))

    def frames(self, first: int, look: _Look) -> Sequence[bytes] | Iterable[bytes]:
        """Return the frames from `first` to the last committed one, with their heads; many of them later."""
        step = FRAME_HEAD + look.page
        count = max(1, _PIECE // step)

        def read(at: int) -> bytes:
            size = min(count, look.frame + 1 - at) * step
            data = self._bytes(self._log, size, _LOG_HEAD + (at - 1) * step)
            if any(data[begin + 8 : begin + 16] != look.salt for begin in range(0, size, step)):
                raise WalRefused(f"The log of {self.path} has begun anew unseen. What is archived is complete.")
            return data

        pieces = _Pieces(read, range(first, look.frame + 1, count))
        return [*pieces] if len(pieces) == 1 else pieces

    def database(self, look: _Look) -> Iterable[bytes | memoryview]:
        """Return the bytes of the database file."""
        size = look.pages * look.page
        return _Pieces(
            lambda at: memoryview(self._bytes(self._file, min(_BASE_PIECE, size - at), at)),
            range(0, size, _BASE_PIECE),
        )

    def _bytes(self, file: int, size: int, at: int) -> bytes:
        data = os.pread(file, size, at)
        if len(data) != size:
            raise WalRefused(f"{self.path} or its log is shorter than SQLite says. What is archived is complete.")
        return data

    def _check(self, frame: int, page: int) -> bytes:
        """Return the checksum of the log up to a frame, which SQLite has stored with it."""
        return self._head(frame, page)[16:24]

    def _head(self, frame: int, page: int) -> bytes:
        return os.pread(self._log, FRAME_HEAD, _LOG_HEAD + (frame - 1) * (FRAME_HEAD + page))

    def _in_file(self) -> int:
        """Return how many frames of the log are in the database file."""
        (frame,) = _CHECKPOINT.unpack_from(self._shared, 96)
        return int(frame)

    def _write_back(self, connection: sqlite3.Connection, state: _Look, seconds: float) -> bool:
        """Write the frames up to a state to the database file. Returns False if others hinder it for too long."""
        until = time.monotonic() + seconds
        while self._in_file() < state.frame:
            with contextlib.suppress(sqlite3.OperationalError):  # another connection does the same
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            if self._in_file() < state.frame:
                if time.monotonic() > until:
                    return False
                time.sleep(_WAIT)
        return True

    def _touch(self) -> None:
        """Commit a transaction that changes nothing."""
        with self._writing():
            self._change()

    def _change(self) -> None:
        (version,) = self._writer.execute("PRAGMA user_version").fetchone()
        self._writer.execute(f"PRAGMA user_version = {int(version)}")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Keep others from writing."""
        until = time.monotonic() + _PATIENCE
        while not self._begins_writing():
            if time.monotonic() > until:
                raise sqlite3.OperationalError(f"others write for {_PATIENCE:g} seconds")
            time.sleep(_WAIT)
        try:
            yield
            self._writer.execute("COMMIT")
        finally:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")

    def _begins_writing(self) -> bool:
        """Try to begin a transaction that keeps others from writing, unless there is one."""
        if not self._writer.in_transaction:
            try:
                self._writer.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
                return False
        return True

    def _release(self, connection: sqlite3.Connection) -> None:
        connection.execute("ROLLBACK")
        self._idle.append(connection)


def _open_for_good(path: str | os.PathLike[str]) -> int:
    found = os.stat(path)
    file = _opened.get((found.st_dev, found.st_ino))
    if file is None:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        opened = os.fstat(file)
        _opened[opened.st_dev, opened.st_ino] = file
    return file


class _Pieces(Generic[T]):
    """Bytes that are read piece by piece whenever they are iterated: a second attempt reads them again."""

    def __init__(self, read: Callable[[int], T], starts: range) -> None:
        self._read, self._starts = read, starts

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[T]:
        return map(self._read, self._starts)


def _checksum(words: tuple[int, ...]) -> tuple[int, int]:
    """The checksum of SQLite, of words in the order of this machine."""
    first = second = 0
    for at in range(0, len(words), 2):
        first = (first + words[at] + second) & 0xFFFFFFFF
        second = (second + words[at + 1] + first) & 0xFFFFFFFF
    return first, second
