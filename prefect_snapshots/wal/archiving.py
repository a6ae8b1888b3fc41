"""The archive of one PostgreSQL system: a stream for each timeline, in which each file is an event with a content.

A file is never replaced: archiving it again succeeds if the bytes are identical, and is refused otherwise. Segments are
contents like all others, so `check`, `prune`, encryption and copies treat them like backups.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from ..errors import WalNotFound, WalRefused
from ..private_files import create_file
from ..repository.catalog import Event
from ..repository.commits import Draft
from ..repository.repository import Repository
from ..repository.times import from_nanoseconds
from ..repository.tracking import TrackedStream
from .names_and_headers import (
    Segment,
    TimelineSwitch,
    WalName,
    lsn_text,
    missing_ranges,
    parse_name,
    read_history,
    read_segment,
    segment_name,
    segment_number,
    system_of,
)

KIND = "wal"
_STREAM = re.compile(r"(0|[1-9][0-9]{0,19})/([0-9A-F]{8})")
_LONGEST = 1 << 30
"""The most bytes of a file: the largest segment."""
_PIECE = 4 << 20
"""Bytes to read and compare at once."""


@dataclass(frozen=True, slots=True)
class ArchivedFile:
    """A file in an archive.

    Attributes:
        name: The name that PostgreSQL gave it.
        size: Its size in bytes.
        written: Bytes that were new to the repository, after compression.
        archived_at: When it was archived, in UTC by the clock of the server's machine.
    """

    name: str
    size: int
    written: int
    archived_at: datetime


@dataclass(frozen=True, slots=True)
class WalTimeline:
    """The segments of one timeline in an archive.

    Attributes:
        system: The system identifier, in decimal.
        timeline: The number of the timeline.
        segments: How many complete segments there are.
        first, last: The names of the first and last one.
        start, end: The LSN at which the first one begins, and at which the last one ends.
        size: Bytes of all files.
        written: Bytes that were new to the repository, after compression.
        archived_at: When the last file was archived.
        missing: The first and last name of each gap between the segments. A recovery cannot pass a gap.
        left: The timelines before it, the oldest first, each with the LSN at which it was left.
    """

    system: str
    timeline: int
    segments: int
    first: str
    last: str
    start: str
    end: str
    size: int
    written: int
    archived_at: datetime
    missing: tuple[tuple[str, str], ...] = ()
    left: tuple[tuple[int, str], ...] = ()


class WalArchive:
    """Archive the WAL of a PostgreSQL server, and fetch it for a recovery.

    `archive_command` and `restore_command` of PostgreSQL call `push` and `fetch` through the command line.

    Args:
        repository: Where the WAL is stored.
        system: The system identifier of the server, as `SELECT system_identifier FROM pg_control_system()` shows it.

    Example:
        >>> from prefect_snapshots import Repository
        >>> from prefect_snapshots.wal import WalArchive
        >>> WalArchive(Repository("memory://example-wal"), "7301234567890123456").list_timelines()
        []
    """

    def __init__(self, repository: Repository, system: str | int) -> None:
        self.repository = repository
        self.system = str(int(system))
        self._streams: dict[int, TrackedStream[_Files]] = {}

    @classmethod
    def of(cls, repository: Repository, path: str | os.PathLike[str], system: str | int | None = None) -> WalArchive:
        """Return the archive of the server that a file in `pg_wal` belongs to.

        Args:
            repository: Where the WAL is stored.
            path: A path in the folder `pg_wal` of the server. The file need not exist.
            system: The system identifier. Default: the one in `global/pg_control` beside `pg_wal`.

        Raises:
            WalRefused: There is no `global/pg_control`, and the identifier is not given.
        """
        found = system if system is not None else system_of(Path(path))
        if found is None:
            raise WalRefused(
                f"{os.fspath(path)} is not in the folder pg_wal of a PostgreSQL server, so it is not known to which "
                "server it belongs. Pass %p of archive_command or restore_command, or --system IDENTIFIER."
            )
        return cls(repository, found)

    def push(self, path: str | os.PathLike[str], name: str | None = None) -> bool:
        """Archive a file durably. Archiving identical bytes again changes nothing.

        Args:
            path: The path of the file, `%p` of `archive_command`.
            name: The name of the file. Default: the last component of the path.

        Returns:
            Whether the file is new in the archive.

        Raises:
            WalRefused: The archive has other bytes under this name, or the file belongs to another server.
            CommitUnknown: The storage did not say whether it was archived. PostgreSQL tries again.
        """
        path = Path(path)
        parsed = parse_name(name or path.name)
        data = path.read_bytes()
        body: dict[str, object] = {"id": parsed.name}
        if parsed.is_segment:
            segment = read_segment(parsed, data)
            self._check_system(parsed, segment)
            body["size"] = segment.size
        elif parsed.is_history:
            read_history(data, parsed.timeline)
        tracked = self._tracked(parsed.timeline)
        found: Event | None = None

        def draft() -> Draft | None:
            nonlocal found
            found = tracked.state.files.get(parsed.name)
            return None if found else Draft("put", body)

        tracked.put(draft, b"", [data])
        if found is None:
            return True
        with tracked.reading(found, self._label(parsed)) as content:
            if content.body_size != len(data) or any(
                content.read(at, min(_PIECE, len(data) - at)) != data[at : at + _PIECE]
                for at in range(0, len(data), _PIECE)
            ):
                raise WalRefused(
                    f"{parsed.name} of system {self.system} was archived with other bytes. The archive was not "
                    "changed. Two servers may archive as one: a restored copy keeps its system identifier, and must "
                    "not archive on the timeline of the original."
                )
        return False

    def fetch(self, name: str, path: str | os.PathLike[str]) -> None:
        """Write a file of the archive. Every byte is verified.

        Args:
            name: The name of the file, `%f` of `restore_command`.
            path: The path to write to, `%p`. It appears only when it is complete.

        Raises:
            WalNotFound: The archive has no such file. During a recovery, this is how PostgreSQL finds the end.
            IntegrityError: The file is damaged.
        """
        parsed = parse_name(name)
        tracked = self._tracked(parsed.timeline)
        event = tracked.refresh().files.get(parsed.name)
        if event is None:
            raise WalNotFound(f"{name} of system {self.system} is not in the archive in {self.repository.url}.")
        target = Path(path)
        part = target.with_name(f"{target.name}.fetching")
        try:
            with tracked.reading(event, self._label(parsed)) as content:
                if content.body_size > _LONGEST:
                    raise WalRefused(
                        f"{name} in the archive has {content.body_size} bytes. It is not a file of the WAL."
                    )
                part.unlink(missing_ok=True)
                with create_file(part) as file:
                    for at in range(0, content.body_size, _PIECE):
                        file.write(content.read(at, min(_PIECE, content.body_size - at)))
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)

    def list_files(self) -> list[ArchivedFile]:
        """Return all files in the archive, sorted by name."""
        found = [
            ArchivedFile(name, event.content.size, event.content.written, from_nanoseconds(event.time))
            for timeline in self._timelines()
            for name, event in self._tracked(timeline).refresh().files.items()
            if event.content is not None
        ]
        return sorted(found, key=lambda file: file.name)

    def list_timelines(self) -> list[WalTimeline]:
        """Return the timelines in the archive, the oldest first. Those without a complete segment are left out."""
        found = (self._timeline(timeline) for timeline in self._timelines())
        return [timeline for timeline in found if timeline is not None]

    def history(self, timeline: int) -> list[TimelineSwitch]:
        """Return the timelines before this one, the oldest first, each with the LSN at which it was left.

        Raises:
            WalNotFound: The history of this timeline is not in the archive.
        """
        if timeline == 1:
            return []
        name = f"{timeline:08X}.history"
        tracked = self._tracked(timeline)
        event = tracked.refresh().files.get(name)
        if event is None:
            raise WalNotFound(f"{name} of system {self.system} is not in the archive in {self.repository.url}.")
        with tracked.reading(event, self._label(parse_name(name))) as content:
            return read_history(content.read(0, min(content.body_size, _PIECE)), timeline)

    def delete_before(self, lsn: int, *, dry_run: bool = False) -> list[str]:
        """Delete segments that end at or before an LSN, on all timelines. The next prune frees their space.

        Histories of timelines stay: they are small, and a recovery may need them.

        Args:
            lsn: The LSN at which the oldest base backup begins that you want to recover.
            dry_run: Only return what would be deleted.

        Returns:
            The names of the deleted files, sorted.
        """
        gone: list[str] = []
        for timeline in self._timelines():
            gone += self._delete(self._tracked(timeline), lsn, dry_run)
        return sorted(gone)

    def _delete(self, tracked: TrackedStream[_Files], lsn: int, dry_run: bool) -> list[str]:
        gone: dict[str, int] = {}

        def draft() -> Draft | None:
            nonlocal gone
            state = tracked.state
            gone = {
                name: event.sequence
                for name, event in state.files.items()
                if (parsed := parse_name(name)).log is not None
                and (segment_number(parsed, state.segment_size) + 1) * state.segment_size <= lsn
            }
            return Draft("expire", {}, list(gone.values())) if gone else None

        tracked.change(draft, dry_run=dry_run)
        return list(gone)

    def _timeline(self, timeline: int) -> WalTimeline | None:
        state = self._tracked(timeline).refresh()
        size = state.segment_size
        numbers = sorted(
            segment_number(parsed, size) for name in state.files if (parsed := parse_name(name)).is_segment
        )
        if not numbers:
            return None
        try:
            left = tuple((each.timeline, lsn_text(each.lsn)) for each in self.history(timeline))
        except WalNotFound:
            left = ()
        contents = [event.content for event in state.files.values() if event.content is not None]
        return WalTimeline(
            system=self.system,
            timeline=timeline,
            segments=len(numbers),
            first=segment_name(timeline, numbers[0], size),
            last=segment_name(timeline, numbers[-1], size),
            start=lsn_text(numbers[0] * size),
            end=lsn_text((numbers[-1] + 1) * size),
            size=sum(content.size for content in contents),
            written=sum(content.written for content in contents),
            archived_at=from_nanoseconds(max(event.time for event in state.files.values())),
            missing=tuple(
                (segment_name(timeline, first, size), segment_name(timeline, last, size))
                for first, last in missing_ranges(numbers)
            ),
            left=left,
        )

    def _check_system(self, name: WalName, segment: Segment) -> None:
        if str(segment.system) != self.system:
            raise WalRefused(
                f"{name.name} belongs to the PostgreSQL system {segment.system}, and this archive to {self.system}. "
                "Nothing was archived."
            )

    def _label(self, name: WalName) -> str:
        return f"wal/{self.system}/{name.name}"

    def _timelines(self) -> list[int]:
        return [timeline for system, timeline in _streams(self.repository) if system == self.system]

    def _tracked(self, timeline: int) -> TrackedStream[_Files]:
        if timeline not in self._streams:
            name = f"{self.system}/{timeline:08X}"
            self._streams[timeline] = TrackedStream(self.repository, KIND, name, _Files(timeline))
        return self._streams[timeline]


def list_systems(repository: Repository) -> list[str]:
    """Return the system identifiers of all servers whose WAL is in a repository, sorted."""
    return sorted({system for system, _ in _streams(repository)})


def _streams(repository: Repository) -> Iterator[tuple[str, int]]:
    for name in repository.names(KIND) if repository.exists() else ():
        # Anybody who can write to the repository may have added other names.
        if found := _STREAM.fullmatch(name):
            yield found[1], int(found[2], 16)


@dataclass
class _Files:
    """The files of one timeline, by name."""

    timeline: int
    files: dict[str, Event] = field(default_factory=dict)
    segment_size: int = 1 << 24
    _names: dict[int, str] = field(default_factory=dict)

    def copy(self) -> _Files:
        return _Files(self.timeline, dict(self.files), self.segment_size, dict(self._names))

    def apply(self, event: Event) -> None:
        for sequence in event.deletes:
            name = self._names.pop(sequence, None)
            if name is not None:
                self.files.pop(name, None)
        if event.kind == "put":
            parsed = parse_name(event.body["id"])
            size = event.body.get("size", self.segment_size)
            if type(size) is not int or not 1 << 20 <= size <= _LONGEST or size & (size - 1):
                raise ValueError("the size of a segment")
            # What cannot be fetched must not close a gap. Only segments say their size.
            beyond = parsed.is_segment and (parsed.part or 0) >= (1 << 32) // size
            if event.content is None or parsed.timeline != self.timeline or beyond:
                raise ValueError("a file without bytes, or of another timeline, or a segment that cannot be")
            self.segment_size = size
            self.files[parsed.name] = event
            self._names[event.sequence] = parsed.name
