"""The files that PostgreSQL archives: their names, and the headers of segments.

A *segment* is a part of the WAL, of 16 MB by default. Its name is the *timeline* and the number of the segment, in
hexadecimal. Every promotion begins a new timeline, whose *history file* says where it left the previous one. The WAL is
addressed by *LSN*, a position in bytes. The *system identifier* is a number that `initdb` gives to a cluster, and that
all of its copies share.

What is read here can come from anybody who may write to the repository, so every name and number is checked.
"""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InvalidArgument, WalRefused

_NAME = re.compile(r"([0-9A-F]{8})(?:\.history|([0-9A-F]{8})([0-9A-F]{8})(\.partial|\.[0-9A-F]{8}\.backup)?)")
_LSN = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")
_HEADER = struct.Struct("=HHIQI4xQII")
"""The long header of the first page of a segment, as the server writes it (src/include/access/xlog_internal.h): magic,
flags, timeline, LSN of the page, bytes that continue a record, system identifier, size of a segment, size of a page."""
_LONG_HEADER = 0x0002
"""The flag of a page with a long header: XLP_LONG_HEADER in the same file."""
_SIZES = [1 << bits for bits in range(20, 31)]
"""The sizes that a segment can have: 1 MB to 1 GB."""
_CONTROL = "global/pg_control"
_HISTORY_LIMIT = 1 << 20
"""Bytes of a history file. It has a line for each promotion."""


@dataclass(frozen=True, slots=True)
class WalName:
    """The parsed name of a file that PostgreSQL archives.

    Attributes:
        name: The name itself.
        timeline: The timeline.
        log, part: The two numbers of a segment. None for a history file.
        suffix: "", ".partial", or that of a backup history file.
    """

    name: str
    timeline: int
    log: int | None
    part: int | None
    suffix: str

    @property
    def is_segment(self) -> bool:
        """Whether it is a complete segment."""
        return self.log is not None and not self.suffix

    @property
    def is_history(self) -> bool:
        """Whether it is the history of a timeline."""
        return self.log is None


@dataclass(frozen=True, slots=True)
class Segment:
    """The header of a segment.

    Attributes:
        system: The system identifier.
        timeline: The timeline on which its first page was written.
        start: The LSN of its first byte.
        size: Its size in bytes.
    """

    system: int
    timeline: int
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class TimelineSwitch:
    """A line of a history file: the timeline that was left, and the LSN at which it was."""

    timeline: int
    lsn: int


def parse_name(name: str) -> WalName:
    """Parse the name of a file that PostgreSQL archives.

    Raises:
        InvalidArgument: PostgreSQL archives no file with such a name.

    Example:
        >>> parse_name("000000010000000000000003").is_segment
        True
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise InvalidArgument(
            f"{name!r} is not the name of a file that PostgreSQL archives. Pass %f, or %p, unchanged."
        )
    timeline, log, part, suffix = found.groups()
    return WalName(
        name,
        int(timeline, 16),
        None if log is None else int(log, 16),
        None if part is None else int(part, 16),
        suffix or "",
    )


def parse_lsn(text: str) -> int:
    """Return the number of an LSN.

    Raises:
        InvalidArgument: It is not an LSN.

    Example:
        >>> parse_lsn("0/3000028")
        50331688
    """
    found = _LSN.fullmatch(text)
    if found is None:
        raise InvalidArgument(f"{text!r} is not an LSN. An LSN looks like 0/3000028.")
    return int(found[1], 16) << 32 | int(found[2], 16)


def lsn_text(lsn: int) -> str:
    """Return an LSN as PostgreSQL writes it.

    Example:
        >>> lsn_text(50331688)
        '0/3000028'
    """
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def segment_name(timeline: int, number: int, size: int) -> str:
    """Return the name of the segment with a number on a timeline.

    Example:
        >>> segment_name(1, 3, 1 << 24)
        '000000010000000000000003'
    """
    per_log = (1 << 32) // size
    return f"{timeline:08X}{number // per_log:08X}{number % per_log:08X}"


def segment_number(name: WalName, size: int) -> int:
    """Return the number of a segment, counted from the beginning of the WAL."""
    assert name.log is not None
    assert name.part is not None
    return name.log * ((1 << 32) // size) + name.part


def read_segment(name: WalName, data: bytes | memoryview) -> Segment:
    """Return the header of a segment, after comparing it with the name.

    Raises:
        WalRefused: It is not the segment with this name.
    """
    if len(data) < _HEADER.size:
        raise WalRefused(f"{name.name} has only {len(data)} bytes. It is not a segment of the WAL.")
    _, flags, timeline, start, _, system, size, _ = _HEADER.unpack_from(data)
    if not flags & _LONG_HEADER or size not in _SIZES or len(data) != size:
        raise WalRefused(f"{name.name} is not a complete segment of the WAL. Archive the files that PostgreSQL names.")
    # The first page of a timeline is copied from the one before, with the number of that.
    if timeline > name.timeline or start != segment_number(name, size) * size:
        raise WalRefused(
            f"{name.name} is the segment at {lsn_text(start)} of timeline {timeline} by its first page, and not the "
            "one that its name says. Nothing was archived."
        )
    return Segment(system, timeline, start, size)


def read_history(data: bytes, timeline: int) -> list[TimelineSwitch]:
    """Return the timelines that a history file names, the oldest first, each with the LSN at which it was left.

    Raises:
        WalRefused: It is not the history of this timeline.
    """
    switches: list[TimelineSwitch] = []
    for line in data[:_HISTORY_LIMIT].decode("utf-8", "replace").splitlines():
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        found = _LSN.fullmatch(fields[1]) if len(fields) > 1 and fields[0].isascii() and fields[0].isdigit() else None
        if found is None or not (switches[-1].timeline if switches else 0) < int(fields[0]) < timeline:
            raise WalRefused(f"The history of timeline {timeline} is not understood: {line[:80]!r}.")
        switches.append(TimelineSwitch(int(fields[0]), parse_lsn(fields[1])))
    return switches


def system_of(path: Path) -> int | None:
    """Return the system identifier of the cluster whose `pg_wal` contains a file, or None if it is not in a cluster."""
    try:
        with (path.absolute().parent.parent / _CONTROL).open("rb") as control:
            head = control.read(8)
    except OSError:
        return None
    return int.from_bytes(head, "little") if len(head) == 8 else None


def missing_ranges(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Return the first and last number of each gap in sorted numbers.

    Example:
        >>> missing_ranges([1, 2, 5, 6, 8])
        [(3, 4), (7, 7)]
    """
    return [(before + 1, after - 1) for before, after in itertools.pairwise(numbers) if after > before + 1]
