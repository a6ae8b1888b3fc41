"""What the events of one artifact say: its versions, where its aliases point and pointed, and what is noted.

A *version* is `v0`, `v1`, ... in the order of the events that committed them; its number is in the event, so that
a lost event changes no other number. An *alias* (a stage such as `production`) names one version; every *move* of it is
kept. A version that a release names is *released*, which its own artifact knows, so that a cleanup cannot miss it.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from ..errors import ArtifactNotFound, InvalidArgument, InvalidName
from ..repository.catalog import Event
from ..repository.names import check_name
from ..repository.times import from_nanoseconds, parse_time, to_nanoseconds
from ..repository.tracking import close_names

Match = Literal["exact", "asof"]
VersionLike = int | str | datetime | None
"""A version by its number (`3`, `"v3"`), `"latest"` or None, an alias, or a point in time (a datetime, an ISO text)."""

LATEST = "latest"
NUMBER = re.compile(r"v?(0|[1-9][0-9]{0,17})")
"""A version by its number, as a text."""
_SECOND = 1_000_000_000


@dataclass(slots=True, eq=False)
class Version:
    """One version, and what was noted of it since."""

    number: int
    event: Event
    metadata: dict[str, Any]
    expiry: int | None
    """Nanoseconds since 1970 in UTC."""

    @property
    def label(self) -> str:
        """Its name, as in `v3`."""
        return f"v{self.number}"

    @property
    def time(self) -> int:
        """When it was committed, in nanoseconds since 1970 in UTC, by the writer's clock."""
        return self.event.time

    @property
    def handler(self) -> str | None:
        """What reads its value; None of a folder."""
        return self.event.body.get("handler")


@dataclass(frozen=True, slots=True)
class Move:
    """An alias went from one version to another."""

    alias: str
    version: str | None
    """Where it points since then; None when it was removed."""
    previous: str | None
    moved_at: datetime
    """In UTC, by the clock of who moved it."""
    moved_by: str
    rollback: bool


@dataclass(slots=True)
class History:
    """The state of one artifact."""

    versions: dict[int, Version] = field(default_factory=dict)
    """By number, ascending."""
    aliases: dict[str, list[int]] = field(default_factory=dict)
    """Where each alias points (the last one), and where a rollback leads."""
    moves: list[Move] = field(default_factory=list)
    pinned: set[int] = field(default_factory=set)
    """Versions that a user exempted from retention."""
    released: set[int] = field(default_factory=set)
    """Versions that a release names, or was about to name."""
    next_number: int = 0
    _newest: Version | None = None
    _times: list[tuple[int, int]] = field(default_factory=list)
    """When which version was committed, sorted: clocks of several writers need not agree with the order of versions."""

    def copy(self) -> History:
        """Return a copy that later events do not change."""
        return History(
            dict(self.versions),
            {alias: list(stack) for alias, stack in self.aliases.items()},
            list(self.moves),
            set(self.pinned),
            set(self.released),
            self.next_number,
            self._newest,
            list(self._times),
        )

    def apply(self, event: Event) -> None:
        """Take one event into account."""
        body = event.body
        if event.deletes:
            self._drop(set(event.deletes))
        if event.kind == "version":
            number = int(body["id"][1:])
            version = Version(number, event, body.get("metadata", {}), body.get("expiry"))
            self.versions[number] = self._newest = version
            self.next_number = number + 1
            insort(self._times, (version.time, number))
        elif event.kind == "alias":
            self._move(event)
        elif event.kind == "annotate" and (found := self.versions.get(int(body["version"][1:]))) is not None:
            self._replace(
                found,
                Version(
                    found.number,
                    found.event,
                    {**found.metadata, **body.get("metadata", {})},
                    body.get("expiry", found.expiry),
                ),
            )
        elif event.kind == "pin":
            self.pinned.add(int(body["version"][1:]))
        elif event.kind == "unpin":
            self.pinned.discard(int(body["version"][1:]))
        elif event.kind == "release":
            self.released.add(int(body["version"][1:]))
        elif event.kind == "lost":
            self.next_number += 1  # it may have been a version, and no number is given twice

    @property
    def newest(self) -> Version | None:
        """The version that was committed last."""
        return self._newest

    def alias_target(self, alias: str) -> str | None:
        """Where an alias points; None when there is none."""
        stack = self.aliases.get(alias)
        return f"v{stack[-1]}" if stack else None

    def exempt(self, number: int) -> list[str]:
        """Return the reasons why retention never deletes a version; none if it may."""
        reasons = ["latest"] if self._newest is not None and self._newest.number == number else []
        rollbacks = [alias for alias, stack in sorted(self.aliases.items()) if number in stack[-2:-1]]
        return reasons + self.protection(number) + [f"rollback of alias {alias}" for alias in rollbacks]

    def protection(self, number: int) -> list[str]:
        """Return the reasons why a version is only deleted by force; none if it is deleted without."""
        reasons = ["pinned"] if number in self.pinned else []
        reasons += ["released"] if number in self.released else []
        return reasons + [f"alias {alias}" for alias in self.aliases_of(number)]

    def aliases_of(self, number: int) -> list[str]:
        """The aliases that point to a version, sorted."""
        return sorted(alias for alias, stack in list(self.aliases.items()) if stack[-1] == number)

    def resolve(self, version: VersionLike, match: Match, label: str) -> Version:
        """The version that is meant.

        Arguments:
            version: see `VersionLike`.
            match: of a point in time: the version of exactly that time, or the newest one as of then.
            label: what errors call the artifact.

        Raises:
            ArtifactNotFound: naming what there is instead.
        """
        if match not in ("exact", "asof"):
            raise InvalidArgument(f'match is "exact" or "asof", not {match!r}')
        if self._newest is None:
            raise ArtifactNotFound(f"{label} has no version yet")
        if version is None or version == LATEST:
            return self._newest
        if isinstance(version, datetime):
            return self.versions[at_time(self._times, version, match, label)]
        if isinstance(version, int) and not isinstance(version, bool):
            number: int | None = version
        elif not isinstance(version, str):
            raise InvalidArgument(f"{version!r} is no version: give a number, an alias, or a date with a time zone")
        elif written := NUMBER.fullmatch(version):
            number = int(written[1])
        elif version in self.aliases:
            number = self.aliases[version][-1]
        elif is_time(version):
            return self.versions[at_time(self._times, parse_time(version), match, label)]
        else:
            number = None
        if number is None or number not in self.versions:
            raise ArtifactNotFound(f"{label} has no version {version!r} ({self._offer(str(version))})")
        return self.versions[number]

    def _replace(self, old: Version, new: Version) -> None:
        self.versions[new.number] = new
        if self._newest is old:
            self._newest = new

    def _drop(self, sequences: set[int]) -> None:
        gone = {number for number, version in self.versions.items() if version.event.sequence in sequences}
        self.versions = {number: version for number, version in self.versions.items() if number not in gone}
        self._times = [(time, number) for time, number in self._times if number not in gone]
        self._newest = next(reversed(self.versions.values()), None)
        # A rollback leads to what still exists. An alias of what was deleted by force goes: if it fell back to its
        # previous version instead, production would change unasked.
        self.aliases = {
            alias: [number for number in stack if number not in gone]
            for alias, stack in self.aliases.items()
            if stack[-1] not in gone
        }

    def _move(self, event: Event) -> None:
        body = event.body
        alias = body["alias"]
        version, previous = body["version"], self.alias_target(alias)
        rollback = body.get("rollback", False)
        if version is None:
            self.aliases.pop(alias, None)
        elif rollback:
            self.aliases[alias].pop()
        else:
            self.aliases.setdefault(alias, []).append(int(version[1:]))
        self.moves.append(Move(alias, version, previous, from_nanoseconds(event.time), body["by"], rollback))

    def _offer(self, wanted: str) -> str:
        assert self._newest is not None
        aliases = close_names(wanted, self.aliases)
        first = next(iter(self.versions))
        numbers = self._newest.label if len(self.versions) == 1 else f"v{first} to {self._newest.label}"
        return f"there is: {', '.join([*aliases, numbers])}"


def at_time(times: Sequence[tuple[int, int]], moment: datetime, match: Match, label: str) -> int:
    """The number of the version of a point in time.

    Arguments:
        times: when which version was committed, in nanoseconds since 1970, sorted; at least one.
        moment, match, label: as for `History.resolve`.

    Raises:
        ArtifactNotFound: there is none, or several; the message says which are near.
    """
    start = to_nanoseconds(parse_time(moment))
    # A time without a fraction stands for its whole second, and one with a fraction for its microsecond.
    end = start + (1000 if moment.microsecond else _SECOND)
    before = bisect_left(times, (end,))
    if match == "asof":
        if before == 0:
            first = from_nanoseconds(times[0][0])
            raise ArtifactNotFound(
                f"{label} has no version as of {moment.isoformat()}: the first one is of {first.isoformat()}"
            )
        return times[before - 1][1]
    found = [number for _, number in times[bisect_right(times, (start,)) : before]]
    if len(found) == 1:
        return found[0]
    if found:
        raise ArtifactNotFound(
            f"{label} has several versions of {moment.isoformat()}: {', '.join(f'v{n}' for n in found)}. Say "
            "which, or give the fraction of the second"
        )
    around = times[max(before - 1, 0) : before + 1]
    near = ", ".join(f"v{number} of {from_nanoseconds(time).isoformat()}" for time, number in around)
    raise ArtifactNotFound(
        f'{label} has no version of exactly {moment.isoformat()} (near: {near}). match="asof" takes the newest one '
        "as of then"
    )


def check_alias(alias: str) -> str:
    """Refuse an alias that could be taken for a version. Returns the alias.

    Raises:
        InvalidName: it looks like a number, a date or `latest`, or is no name at all.
    """
    check_name(alias, "alias")
    if alias == LATEST or re.fullmatch(r"[vV]?[+-]?\d+", alias) or is_time(alias):
        raise InvalidName(f"the alias {alias!r} looks like a version or a date: choose a word, such as production")
    return alias


def is_time(text: str) -> bool:
    """Whether a text is an ISO 8601 date or time."""
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def expiry_of(moment: datetime | str | None) -> int | None:
    """Return an expiry as it is stored.

    Raises:
        InvalidArgument: It is no time, or is after the year 2262, which nanoseconds in 64 bits cannot express.
    """
    if moment is None:
        return None
    expiry = to_nanoseconds(parse_time(moment))
    if not -(2**63) <= expiry < 2**63:
        raise InvalidArgument(f"{moment} is too far away for an expiry. Pass None for a version that never expires.")
    return expiry


def is_expired(version: Version, now: datetime | None = None) -> bool:
    """Whether a version is past its expiry, by this machine's clock."""
    return version.expiry is not None and version.expiry <= to_nanoseconds(now or datetime.now(UTC))


def moves_of(history: History, alias: str | None) -> Iterator[Move]:
    """The moves of one alias, or of all, the oldest first."""
    return (move for move in history.moves if alias in (None, move.alias))


def source_of(version: Version) -> Mapping[str, Any] | None:
    """Where a version was promoted from; None when it was logged here."""
    return version.event.body.get("source")
