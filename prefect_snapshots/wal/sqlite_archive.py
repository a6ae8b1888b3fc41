"""The archive of one SQLite database: base copies of its file, and the frames of its log between them, in one stream.

A frame is a page as a transaction has left it. Each event with frames names the position that it continues, so a chain
of events leads from a base copy to every later state. If the chain is broken, because frames were lost while nobody
followed the database, the times between are refused, and the next chain begins with a new base copy.

`manifest` of an event with frames: its marks. A mark says which frames were committed at a time, by one atomic look.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, BinaryIO

from ..errors import IntegrityError, WalNotFound, WalRefused
from ..messages import hint
from ..repository.catalog import Event
from ..repository.commits import Draft
from ..repository.contents import ContentReader, inline
from ..repository.location import Buffer
from ..repository.names import check_name
from ..repository.progress import Progress, silent
from ..repository.repository import Repository
from ..repository.times import from_nanoseconds, to_nanoseconds
from ..repository.tracking import TrackedStream, damage_of
from .archiving import KIND

_PREFIX = "sqlite/"
_PIECE = 4 << 20
"""Bytes to read or write at once."""
_MARK = struct.Struct("<qqI")
_FRAME = struct.Struct(">II8s8s")
FRAME_HEAD = _FRAME.size
_PAGE_SIZES = [1 << bits for bits in range(9, 17)]


@dataclass(frozen=True, slots=True)
class Position:
    """A position in the log of a database: the salts of the log, a frame, and the checksum of all frames up to it."""

    salt: bytes
    frame: int
    check: bytes

    @classmethod
    def of(cls, value: Any) -> Position:
        """Return a position that an event states. Raises ValueError if it is none."""
        salt, frame, check = value
        if not (type(salt) is type(check) is bytes and len(salt) == len(check) == 8 and _is_count(frame)):
            raise ValueError("a position in a log")
        return cls(salt, frame, check)

    def body(self) -> list[Any]:
        """Return it as a part of the body of an event."""
        return [self.salt, self.frame, self.check]


@dataclass(frozen=True, slots=True)
class Mark:
    """What a look found.

    Attributes:
        at: When it was over. Everything up to the frame was committed before.
        before: When the last look that had not found this frame yet began. Everything that was acknowledged before it
            is in the frames of the mark before.
        frame: The last committed frame.
    """

    at: int
    before: int
    frame: int


@dataclass(frozen=True, slots=True)
class SQLiteWindow:
    """What can be restored of one database that is followed.

    Attributes:
        name: Its name.
        ranges: The first and last time of each range of times that can be restored, the oldest first.
        base_copies: When each of its base copies was made.
        size: Bytes of base copies and frames.
        written: Bytes that were new to the repository, after compression.
    """

    name: str
    ranges: tuple[tuple[datetime, datetime], ...]
    base_copies: tuple[datetime, ...]
    size: int
    written: int

    @property
    def since(self) -> datetime | None:
        """The first time that can be restored."""
        return self.ranges[0][0] if self.ranges else None

    @property
    def until(self) -> datetime | None:
        """The last time that can be restored."""
        return self.ranges[-1][1] if self.ranges else None


@dataclass(frozen=True, slots=True)
class SQLiteState:
    """A state of a database in its archive.

    Attributes:
        at: The time of the state: nothing that was committed later is in it.
        complete_until: Everything that was acknowledged before this time is in it.
        base: The base copy, and the events whose frames are applied to it, in their order.
        last: The last frame to apply, of the last one of these events.
    """

    at: datetime
    complete_until: datetime
    base: Event
    logs: tuple[Event, ...]
    last: int

    @property
    def size(self) -> int:
        """Bytes of the base copy and of these frames."""
        contents = [event.content for event in (self.base, *self.logs) if event.content is not None]
        return sum(content.size - content.manifest_size for content in contents)


class SQLiteArchive:
    """The archive of a SQLite database, which `SQLiteFollower` writes.

    Args:
        repository: Where it is stored.
        name: The name of the database in the archive.

    Example:
        >>> from prefect_snapshots import Repository
        >>> from prefect_snapshots.wal import SQLiteArchive
        >>> SQLiteArchive(Repository("memory://example-sqlite"), "app.db").window().ranges
        ()
    """

    def __init__(self, repository: Repository, name: str) -> None:
        self.repository = repository
        self.name = check_name(name)
        self._tracked = TrackedStream(repository, KIND, f"{_PREFIX}{name}", _Log())

    # --- writing ------------------------------------------------------------------------------------------------------

    @property
    def position(self) -> Position | None:
        """The position up to which frames are archived. None: there are none."""
        return self._tracked.refresh().position

    @property
    def known_until(self) -> int:
        """The last time at which the state of the position is known, in nanoseconds."""
        return self._tracked.refresh().until

    def put_base(self, position: Position, begins: bool, page: int, at: int, pieces: Iterable[Buffer]) -> None:
        """Store a base copy.

        Args:
            position: Its state.
            begins: Whether a new chain begins with it, because what was archived does not lead to this position.
            page: Bytes of a page.
            at: When this state was found, in nanoseconds.
            pieces: Its bytes.
        """
        body = {"position": position.body(), "begins": begins, "page": page, "at": at}
        self._tracked.store(lambda: Draft("base", body), None, lambda writer: writer.store(b"", pieces))

    def put_log(
        self, after: Position, last: Position, page: int, looked: int, marks: Sequence[Mark], frames: Iterable[Buffer]
    ) -> None:
        """Store frames.

        Args:
            after: The position that they continue.
            last: The position of the last one.
            page: Bytes of a page.
            looked: When the last look began, in nanoseconds.
            marks: The marks on them.
            frames: Their bytes, with their heads. Small ones in a sequence.

        Raises:
            WalRefused: Another process has archived the same database meanwhile.
        """
        body = {"after": after.body(), "last": last.body(), "page": page, "looked": looked}
        if marks:
            body["begin"], body["end"] = marks[0].at, marks[-1].at

        def draft() -> Draft:
            if self._tracked.state.position != after:
                raise WalRefused(
                    f"Another process follows {self.name} into {self.repository.url}, too. This one ends. What is "
                    "archived is complete."
                )
            return Draft("log", body)

        packed = b"".join(_MARK.pack(mark.at, mark.before, mark.frame) for mark in marks)
        few = inline(packed, frames) if isinstance(frames, Sequence) else None
        self._tracked.store(draft, few, lambda writer: writer.store(packed, frames))

    def put_looked(self, after: Position, looked: int) -> None:
        """Note that nothing has changed up to a time, in nanoseconds."""
        self._tracked.change(
            lambda: (
                Draft("looked", {"after": after.body(), "looked": looked})
                if self._tracked.state.position == after
                else None
            )
        )

    def expire(self, before: datetime) -> int:
        """Delete what no time after `before` needs. The next prune frees its space.

        Returns:
            How many base copies and pieces of the log were deleted.
        """
        gone: list[int] = []

        def draft() -> Draft | None:
            nonlocal gone
            state = self._tracked.state
            kept = [base for base in state.bases if base.body["at"] <= to_nanoseconds(before)][-1:]
            first = min((event.sequence for base in kept for event in (base, *state.chain(base))), default=0)
            gone = [event.sequence for event in (*state.bases, *state.logs) if event.sequence < first]
            return Draft("expire", {}, sorted(gone)) if gone else None

        self._tracked.change(draft)
        return len(gone)

    # --- reading ------------------------------------------------------------------------------------------------------

    def window(self) -> SQLiteWindow:
        """Return which times can be restored."""
        state = self._tracked.refresh()
        ranges: list[tuple[int, int]] = []
        for base in state.bases:
            begin, end = base.body["at"], state.known_until(base)
            if ranges and begin <= ranges[-1][1]:
                ranges[-1] = ranges[-1][0], max(end, ranges[-1][1])
            else:
                ranges.append((begin, end))
        contents = [event.content for event in (*state.bases, *state.logs) if event.content is not None]
        return SQLiteWindow(
            self.name,
            tuple((_not_before(begin), from_nanoseconds(end)) for begin, end in ranges),
            tuple(_not_before(base.body["at"]) for base in state.bases),
            sum(content.size for content in contents),
            sum(content.written for content in contents),
        )

    def state_at(self, at: datetime | None = None) -> SQLiteState:
        """Return the state of the database at a time.

        Args:
            at: The time. Default: the latest state.

        Raises:
            WalNotFound: The time is not in the archive.
        """
        state = self._tracked.refresh()
        moment = None if at is None else to_nanoseconds(at)
        bases = [base for base in state.bases if moment is None or base.body["at"] <= moment]
        if not state.bases:
            known = list_followed(self.repository)
            if self.name in known:
                raise WalNotFound(f"The archive of {self.name} in {self.repository.url} has no base copy yet.")
            raise WalNotFound(
                f"The archive in {self.repository.url} has no SQLite database {self.name!r}. {hint(self.name, known)}"
            )
        if not bases:
            since = _not_before(state.bases[0].body["at"])
            raise WalNotFound(
                f"The archive of {self.name} in {self.repository.url} does not reach {at}. It begins at {since}."
            )
        base = bases[-1]
        if moment is not None and moment > state.known_until(base):
            raise WalNotFound(
                f"The archive of {self.name} in {self.repository.url} does not know the state at {at}: from "
                f"{from_nanoseconds(state.known_until(base))} on nobody followed the database, or what it found is not "
                "archived yet. `prefect-snapshots wal status` shows which times can be restored."
            )
        logs, last = [], Position.of(base.body["position"]).frame
        found, complete = base.body["at"], state.known_until(base)
        for event in state.chain(base):
            marks = [] if moment is None or event.body.get("end", 0) <= moment else self._marks(event)
            late = [mark for mark in marks if moment is not None and mark.at > moment]
            early = marks[: len(marks) - len(late)]
            if not late:
                logs.append(event)
                last, found = Position.of(event.body["last"]).frame, event.body.get("end", found)
                continue
            complete = late[0].before
            if early:
                logs.append(event)
                last, found = early[-1].frame, early[-1].at
            break
        complete = complete if moment is None else min(complete, moment)
        return SQLiteState(_not_before(found), from_nanoseconds(complete), base, tuple(logs), last)

    def write(self, state: SQLiteState, file: BinaryIO, progress: Progress = silent) -> None:
        """Write a state of the database to an empty file. Every byte is verified.

        Args:
            state: The state.
            file: The empty file.
            progress: Called with the bytes that were read from the archive, and how many there are.

        Raises:
            IntegrityError: The archive is damaged.
        """
        label = f"wal/{_PREFIX}{self.name}"
        total, done = state.size, 0
        with self._tracked.reading(state.base, label) as content:
            for at in range(0, content.body_size, _PIECE):
                done += file.write(content.read(at, min(_PIECE, content.body_size - at)))
                progress("restoring", done, total)
        with damage_of(label):
            pages = 0
            for event in state.logs:
                with self._tracked.reading(event, label) as content:
                    count = state.last - _first(event) + 1 if event is state.logs[-1] else None
                    pages = _apply(content, event.body["page"], count, file) or pages
                    done += content.body_size
                    progress("restoring", done, total)
        if pages:
            file.truncate(pages * state.base.body["page"])

    def _marks(self, event: Event) -> list[Mark]:
        label = f"wal/{_PREFIX}{self.name}"
        with self._tracked.reading(event, label) as content, damage_of(label):
            packed = content.manifest
            if len(packed) % _MARK.size:
                raise IntegrityError("The marks of a piece of the log end within one.")
            return [Mark(*fields) for fields in _MARK.iter_unpack(packed)]


def list_followed(repository: Repository) -> list[str]:
    """Return the names of the SQLite databases that are followed into a repository, sorted."""
    names = repository.names(KIND) if repository.exists() else ()
    return [name.removeprefix(_PREFIX) for name in names if name.startswith(_PREFIX)]


def _not_before(nanoseconds: int) -> datetime:
    """Return the first time that can be written and is not before another one: times have microseconds."""
    return from_nanoseconds(-(-nanoseconds // 1000) * 1000)


def _first(event: Event) -> int:
    after, last = Position.of(event.body["after"]), Position.of(event.body["last"])
    return after.frame + 1 if after.salt == last.salt else 1


def _apply(content: ContentReader, page: int, count: int | None, file: BinaryIO) -> int:
    """Write frames to a database file. Returns how many pages it then has, or 0 if no transaction ends in them."""
    step = FRAME_HEAD + page
    frames = content.body_size // step if count is None else count
    if frames < 0 or frames * step > content.body_size or content.body_size % step:
        raise IntegrityError("A piece of the log has other frames than its event states.")
    pages = 0
    at_once = max(1, _PIECE // step)
    for first in range(0, frames, at_once):
        data = memoryview(content.read(first * step, min(at_once, frames - first) * step))
        for at in range(0, len(data), step):
            number, size, _, _ = _FRAME.unpack_from(data, at)
            if number == 0:
                raise IntegrityError("A frame of the log has no page.")
            file.seek((number - 1) * page)
            file.write(data[at + FRAME_HEAD : at + step])
            pages = size or pages
    return pages


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


@dataclass
class _Log:
    """The base copies and pieces of the log of one database."""

    bases: list[Event] = field(default_factory=list)
    logs: list[Event] = field(default_factory=list)
    position: Position | None = None
    until: int = 0
    looked: dict[Position, int] = field(default_factory=dict)
    """Until when nothing had changed after the last position of a chain."""

    def copy(self) -> _Log:
        return _Log(list(self.bases), list(self.logs), self.position, self.until, dict(self.looked))

    def apply(self, event: Event) -> None:
        body = event.body
        if event.deletes:
            gone = set(event.deletes)
            self.bases = [each for each in self.bases if each.sequence not in gone]
            self.logs = [each for each in self.logs if each.sequence not in gone]
        if event.kind in ("base", "log") and body["page"] not in _PAGE_SIZES:
            raise ValueError("the size of a page")
        if event.kind == "base":
            if not _is_count(body["at"]):
                raise ValueError("a time")
            position = Position.of(body["position"])
            self.bases.append(event)
            if body["begins"] is True:
                self.position, self.until = position, body["at"]
        elif event.kind == "log":
            Position.of(body["after"])
            times = [body["looked"], body.get("begin", 0), body.get("end", 0)]
            if not all(_is_count(time) for time in times):
                raise ValueError("a time")
            self.position, self.until = Position.of(body["last"]), body["looked"]
            self.logs.append(event)
        elif event.kind == "looked":
            if not _is_count(body["looked"]):
                raise ValueError("a time")
            self.looked = {Position.of(body["after"]): body["looked"]}
            self.until = body["looked"]

    def chain(self, base: Event) -> Iterator[Event]:
        """Yield the pieces of the log that continue a base copy, in their order."""
        position = Position.of(base.body["position"])
        for event in self.logs:
            if Position.of(event.body["after"]) == position:
                yield event
                position = Position.of(event.body["last"])

    def known_until(self, base: Event) -> int:
        """Return the last time at which the state is known that continues a base copy."""
        known: int = base.body["at"]
        position = Position.of(base.body["position"])
        for event in self.chain(base):
            known, position = max(known, event.body["looked"]), Position.of(event.body["last"])
        return max(known, self.looked.get(position, 0))
