"""The state of one artifact, computed from its events: versions, aliases with their history, metadata and pins.

A *version* is `v0`, `v1`, ... in the order of the events that committed them. The event contains the number, so that a
lost event changes no other number. An *alias* (a stage such as `production`) points to one version, and every *move* of
it is recorded. A version in a release is *released*. This is recorded with the artifact itself, so that a cleanup
cannot miss it.
"""

from __future__ import annotations

import contextlib
import operator
import re
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import dropwhile
from typing import Any, Literal
from urllib.parse import unquote

import msgspec

from ..errors import ArtifactExpired, ArtifactNotFound, InvalidArgument, InvalidName
from ..messages import close_names
from ..repository.catalog import OMITTED, RENAMED, RENAMING, Event
from ..repository.descriptions import NOTHING, Description
from ..repository.names import check_name
from ..repository.provenance import MadeBy, read_made_by
from ..repository.times import from_nanoseconds, is_moment, parse_time, to_nanoseconds

KIND = "artifacts"
"""The kind of the streams of artifacts."""

Match = Literal["exact", "asof"]
VersionLike = int | str | datetime | None
"""A version by its number (`3`, `"v3"`), `"latest"` or None, an alias, or a point in time (a datetime or an ISO
string)."""

NO_VERSION = "{!r} is not a version. Pass a number, an alias, or a date with a time zone."
LATEST = "latest"
NUMBER = re.compile(r"v?(0|[1-9][0-9]{0,17})")
"""A version number as a string: `3` or `v3`. At most 18 digits, so that it fits into 64 bits."""
_SECOND = 1_000_000_000
_CREATED = "created_at"


def stream_name(collection: str, name: str) -> str:
    """Return the stream of an artifact: collection and name, separated by a colon."""
    return f"{collection.replace('%', '%25').replace(':', '%3A')}:{name}"


def names_of(stream: str) -> tuple[str, str]:
    """Return the collection and the name of an artifact from the name of its stream."""
    collection, _, name = stream.partition(":")
    return unquote(collection), name


class _VersionBody(msgspec.Struct):
    """The fields of a version's event, except its number. Anyone who can write to the repository can forge them."""

    metadata: dict[str, Any] = {}
    expiry: int | None = None
    handler: str | None = None
    suffix: str | None = None
    environment: dict[str, str] = {}
    source: dict[str, str] | None = None
    made_by: MadeBy | None = None


@dataclass(slots=True, eq=False)
class StoredVersion:
    """One version, with its current metadata and expiry."""

    number: int
    event: Event
    metadata: dict[str, Any]
    expiry: int | None
    """Nanoseconds since 1970 in UTC."""
    about: Description = NOTHING
    """Its description and its tags."""

    @property
    def label(self) -> str:
        """Its name, as in `v3`."""
        return f"v{self.number}"

    @property
    def damage(self) -> str | None:
        """Why this version is damaged, so that you can only delete it. None if it is not damaged."""
        if self.event.content is None:
            return "the event that committed it has no content"
        try:
            msgspec.convert({**self.event.body, "metadata": self.metadata, "expiry": self.expiry}, _VersionBody)
        except msgspec.ValidationError as error:
            return f"the event that committed it is invalid ({error})"
        return None

    @property
    def time(self) -> int:
        """When it was first logged, in nanoseconds since 1970 in UTC, by the writer's clock. Promotion to another
        registry does not change it."""
        source = source_of(self)
        made = created_at(source) if source else None
        return self.event.time if made is None else min(to_nanoseconds(made), self.event.time)

    @property
    def made_by(self) -> MadeBy | None:
        """The flow run that made it. None if that is not recorded, or not readable."""
        try:
            return read_made_by(self.event.body)
        except msgspec.ValidationError:
            return None

    @property
    def handler(self) -> str | None:
        """The handler that reads its value. None for a folder."""
        return self.event.body.get("handler")


@dataclass(frozen=True, slots=True)
class Move:
    """One move of an alias from one version to another.

    Attributes:
        alias: The alias, such as `production`.
        version: The version that it was moved to, such as `v3`. None if the alias was deleted.
        previous: The version that it pointed to before. None if the alias was new.
        moved_at: When it was moved, in UTC, by the clock of the machine that moved it.
        moved_by: Who moved it. Default: user and host.
        rollback: Whether the move was a rollback.
    """

    alias: str
    version: str | None
    previous: str | None
    moved_at: datetime
    moved_by: str
    rollback: bool


@dataclass(slots=True)
class ArtifactHistory:
    """The state of one artifact."""

    versions: dict[int, StoredVersion] = field(default_factory=dict)
    """By number, ascending."""
    aliases: dict[str, list[int]] = field(default_factory=dict)
    """The versions of each alias: it points to the last one, and a rollback returns to the one before."""
    moves: list[Move] = field(default_factory=list)
    pinned: set[int] = field(default_factory=set)
    """Versions that a user exempted from retention."""
    released: set[int] = field(default_factory=set)
    """Versions that a release includes, or was about to include."""
    next_number: int = 0
    about: Description = NOTHING
    """What the artifact is, apart from its versions."""
    renamed_to: str | None = None
    """The stream of its new name, if everything is there now."""
    _newest: StoredVersion | None = None
    _times: list[tuple[int, int]] = field(default_factory=list)
    """Commit time and number of each version, sorted by time. If the clocks of writers differ, this is not the order
    of the numbers."""

    def copy(self) -> ArtifactHistory:
        """Return a copy that is independent of later events."""
        return ArtifactHistory(
            dict(self.versions),
            {alias: list(stack) for alias, stack in self.aliases.items()},
            list(self.moves),
            set(self.pinned),
            set(self.released),
            self.next_number,
            self.about,
            self.renamed_to,
            self._newest,
            list(self._times),
        )

    def apply(self, event: Event) -> None:
        """Apply one event."""
        body = event.body
        if event.deletes:
            self._drop(set(event.deletes))
        if event.kind == "version":
            number = int(body["id"][1:])
            about = NOTHING
            if "description" in body or "tags" in body:
                about = NOTHING.changed_by(
                    {"description": body.get("description", ""), "add_tags": body.get("tags", ())}
                )
            version = StoredVersion(number, event, body.get("metadata", {}), body.get("expiry"), about)
            self.versions[number] = self._newest = version
            self.next_number = number + 1
            insort(self._times, (version.time, number))
        elif event.kind == "alias":
            self._move(event)
        elif event.kind == "annotate" and (found := self.versions.get(int(body["version"][1:]))) is not None:
            self._replace(
                found,
                StoredVersion(
                    found.number,
                    found.event,
                    {**found.metadata, **body.get("metadata", {})},
                    body.get("expiry", found.expiry),
                    found.about.changed_by(body),
                ),
            )
        elif event.kind == "pin":
            self.pinned.add(int(body["version"][1:]))
        elif event.kind == "unpin":
            self.pinned.discard(int(body["version"][1:]))
        elif event.kind == "release":
            self.released.add(int(body["version"][1:]))
        elif event.kind == "lost":
            self.next_number += 1  # it may have been a version, and a number is never used twice
        elif event.kind == RENAMING:
            self.__init__()  # type: ignore[misc]
        elif event.kind == "describe":
            self.about = self.about.changed_by(body)
        elif event.kind == RENAMED:
            self.about = NOTHING
            collection, name = names_of(body["to"])
            check_name(collection), check_name(name)
            self.renamed_to = body["to"]
        elif event.kind == OMITTED:
            self.next_number = max(self.next_number, int(body["id"][1:]) + 1)

    @property
    def newest(self) -> StoredVersion | None:
        """The version that was committed last."""
        return self._newest

    @property
    def newest_number(self) -> int | None:
        """The number of the version that was committed last."""
        return None if self._newest is None else self._newest.number

    def alias_target(self, alias: str) -> str | None:
        """Return the version that an alias points to, such as `v3`, or None if there is no such alias."""
        stack = self.aliases.get(alias)
        return f"v{stack[-1]}" if stack else None

    def latest(self, moment: datetime | None = None) -> StoredVersion | None:
        """Return the newest version that has not expired, or the newest one if all have.

        Args:
            moment: The point in time to look at the expiry. Default: now.
        """
        valid = (one for one in reversed(self.versions.values()) if not is_expired(one, moment))
        return next(valid, self._newest)

    def exempt(self, number: int) -> list[str]:
        """Return the reasons why retention never deletes a version. Empty if it can."""
        latest = (self._newest, self.latest())
        reasons = ["latest"] if any(one is not None and one.number == number for one in latest) else []
        rollbacks = [alias for alias, stack in sorted(self.aliases.items()) if number in stack[-2:-1]]
        return reasons + self.protection(number) + [f"rollback of alias {alias}" for alias in rollbacks]

    def protection(self, number: int) -> list[str]:
        """Return the reasons why a version is deleted only with `force=True`. Empty if there are none."""
        reasons = ["pinned"] if number in self.pinned else []
        reasons += ["released"] if number in self.released else []
        return reasons + [f"alias {alias}" for alias in self.aliases_of(number)]

    def aliases_of(self, number: int) -> list[str]:
        """Return the aliases that point to a version, sorted."""
        return sorted(alias for alias, stack in list(self.aliases.items()) if stack[-1] == number)

    def resolve(self, version: VersionLike, match: Match, label: str, *, valid: bool = False) -> StoredVersion:
        """Find a version. The latest one, and an as-of search, skip versions that had expired if others had not.

        Args:
            version: See `VersionLike`.
            match: For a point in time: the version of exactly that time, or the newest one at that time.
            label: The name of the artifact in error messages.
            valid: Refuse a version that has expired or, in an as-of search, had expired at that time.

        Raises:
            ArtifactExpired: The version has expired, and `valid` is True.
            ArtifactNotFound: There is no such version. The message lists the existing ones.
            InvalidArgument: `version` or `match` is invalid.
        """
        if match not in ("exact", "asof"):
            raise InvalidArgument(f'match must be "exact" or "asof", not {match!r}.')
        if self._newest is None:
            raise ArtifactNotFound(f"{label} has no version yet.")
        version = plain_version(version)
        moment = self._moment_of(version)
        found = self._named(version, label) if moment is None else self._at_time(moment, match, label)
        if valid and is_expired(found, moment if match == "asof" else None):
            assert found.expiry is not None
            raise ArtifactExpired(
                f"{label}:{found.label} expired at {from_nanoseconds(found.expiry).isoformat()}. Choose another "
                "version, or pass validate=False to read it anyway."
            )
        return found

    def _moment_of(self, version: int | str | datetime | None) -> datetime | None:
        if isinstance(version, datetime):
            return version
        named = not isinstance(version, str) or version in self.aliases or NUMBER.fullmatch(version) is not None
        return None if named or not is_time(str(version)) else parse_time(str(version))

    def _named(self, version: int | str | datetime | None, label: str) -> StoredVersion:
        latest = self.latest()
        if latest is not None and (version is None or version == LATEST):
            return latest
        number: int | None = None
        if isinstance(version, int):
            number = version
        elif isinstance(version, str) and (written := NUMBER.fullmatch(version)):
            number = int(written[1])
        elif isinstance(version, str) and version in self.aliases:
            number = self.aliases[version][-1]
        if number is None or number not in self.versions:
            aliases = close_names(str(version), self.aliases)
            raise ArtifactNotFound(no_such_version(label, version, list(self.versions), aliases))
        return self.versions[number]

    def _at_time(self, moment: datetime, match: Match, label: str) -> StoredVersion:
        number = at_time(self._times, moment, match, label)
        if match == "asof" and is_expired(self.versions[number], moment):
            until = dropwhile(lambda pair: pair[1] != number, reversed(self._times))
            valid = (each for _, each in until if not is_expired(self.versions[each], moment))
            number = next(valid, number)
        return self.versions[number]

    def _replace(self, old: StoredVersion, new: StoredVersion) -> None:
        self.versions[new.number] = new
        if self._newest is old:
            self._newest = new

    def _drop(self, sequences: set[int]) -> None:
        gone = {number for number, version in self.versions.items() if version.event.sequence in sequences}
        self.versions = {number: version for number, version in self.versions.items() if number not in gone}
        self._times = [(time, number) for time, number in self._times if number not in gone]
        self._newest = next(reversed(self.versions.values()), None)
        # A rollback returns only to existing versions. If the version of an alias was deleted by force, the alias is
        # deleted, too: falling back to its previous version would change production unasked.
        self.aliases = {
            alias: [number for number in stack if number not in gone]
            for alias, stack in self.aliases.items()
            if stack[-1] not in gone
        }

    def _move(self, event: Event) -> None:
        body = event.body
        alias = body["alias"]
        if not isinstance(alias, str):  # the catalog turns this into damage of the artifact
            raise TypeError("an alias must be a string")
        version, previous = body["version"], self.alias_target(alias)
        rollback = body.get("rollback", False)
        stack = self.aliases.pop(alias, [])
        number = None if version is None else int(version[1:])
        # In a copy of a repository, a version does not exist if it was deleted before it was copied.
        if number in self.versions:
            if rollback:
                stack = stack[:-1]
            if not rollback or stack[-1:] != [number]:
                stack = [*stack, number]
            self.aliases[alias] = stack
        self.moves.append(Move(alias, version, previous, from_nanoseconds(event.time), body["by"], rollback))


def no_such_version(label: str, wanted: object, numbers: Sequence[int], aliases: Sequence[str]) -> str:
    """Return the error message for a missing version. It lists the existing numbers and aliases."""
    existing = f"v{numbers[0]}" if len(numbers) == 1 else f"v{numbers[0]} to v{numbers[-1]}"
    is_name = isinstance(wanted, str) and not re.fullmatch(r"v?\d+", wanted)
    others = ", and no stage or other alias yet" if is_name and not aliases else ""
    also = f" Aliases: {', '.join(aliases)}." if aliases else ""
    return f"{label} has no version {wanted!r}{others}. Existing versions: {existing}.{also}"


def at_time(times: Sequence[tuple[int, int]], moment: datetime, match: Match, label: str) -> int:
    """Return the number of the version of a point in time.

    Args:
        times: Commit time, in nanoseconds since 1970, and number of each version, sorted; at least one.
        moment, match, label: As for `History.resolve`.

    Raises:
        ArtifactNotFound: There is no such version, or more than one. The message names the nearest ones.
    """
    start = to_nanoseconds(parse_time(moment))
    # A time without a fraction matches its whole second, and one with a fraction its whole microsecond.
    end = start + (1000 if moment.microsecond else _SECOND)
    before = bisect_left(times, (end,))
    if match == "asof":
        if before == 0:
            first = from_nanoseconds(times[0][0])
            raise ArtifactNotFound(
                f"{label} had no version yet at {moment.isoformat()}. Its first version is from {first.isoformat()}."
            )
        return times[before - 1][1]
    found = [number for _, number in times[bisect_right(times, (start,)) : before]]
    if len(found) == 1:
        return found[0]
    if found:
        raise ArtifactNotFound(
            f"{label} has several versions from {moment.isoformat()}: {', '.join(f'v{n}' for n in found)}. Pass one of "
            "these, or a time with a fraction of a second."
        )
    around = times[max(before - 1, 0) : before + 1]
    near = ", ".join(f"v{number} from {from_nanoseconds(time).isoformat()}" for time, number in around)
    raise ArtifactNotFound(
        f"{label} has no version from exactly {moment.isoformat()}. The nearest are {near}. Pass "
        'match="asof" for the newest version at that time.'
    )


def plain_version(version: Any) -> int | str | datetime | None:
    """Return a version as one of four types: NumPy integers, dates and times of other libraries are converted.

    Raises:
        InvalidArgument: It is something else.
    """
    if is_moment(version) and not isinstance(version, datetime):
        return parse_time(version)
    if isinstance(version, str | datetime | None):
        return version
    if not isinstance(version, bool):
        with contextlib.suppress(TypeError):
            return operator.index(version)
    raise InvalidArgument(NO_VERSION.format(version))


def check_alias(alias: str) -> str:
    """Return an alias after checking that it cannot be mistaken for a version.

    Raises:
        InvalidName: It looks like a number, a date or `latest`, or is not a valid name.
    """
    check_name(alias, "alias")
    if alias == LATEST or re.fullmatch(r"[vV]?[+-]?\d+", alias) or is_time(alias):
        raise InvalidName(f"The alias {alias!r} looks like a version or a date. Choose a word, such as production.")
    return alias


def is_time(text: str) -> bool:
    """Return whether a string is an ISO 8601 date or time."""
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def expiry_of(moment: datetime | str | None) -> int | None:
    """Return an expiry in the form in which it is stored.

    Raises:
        InvalidArgument: It is not a time, or is after the year 2262, the limit of nanoseconds in 64 bits.
    """
    if moment is None:
        return None
    expiry = to_nanoseconds(parse_time(moment))
    if not -(2**63) <= expiry < 2**63:
        raise InvalidArgument(f"The expiry {moment} is too far away. Pass None for a version that never expires.")
    return expiry


def is_expired(version: StoredVersion, now: datetime | None = None) -> bool:
    """Return whether a version is past its expiry, by this machine's clock."""
    return version.expiry is not None and version.expiry <= to_nanoseconds(now or datetime.now(UTC))


def moves_of(history: ArtifactHistory, alias: str | None) -> Iterator[Move]:
    """Yield the moves of one alias, or of all aliases, oldest first."""
    return (move for move in history.moves if alias in (None, move.alias))


def created_at(source: Mapping[str, Any] | None) -> datetime | None:
    """Return when the version that a version was copied from was first logged, or None if that is not recorded."""
    try:
        return parse_time((source or {}).get(_CREATED))
    except InvalidArgument:  # it is not recorded, or forged by someone who can write to the repository
        return None


def created(version: StoredVersion) -> dict[str, str]:
    """Return the part of a source that says when a version was first logged."""
    return {_CREATED: from_nanoseconds(version.time).isoformat()}


def refuse_older(source: Mapping[str, str] | None, newest: datetime, label: str) -> None:
    """Raise `InvalidArgument` if a source is older than the newest version of the target."""
    made = created_at(source)
    if made is not None and made < newest:
        raise InvalidArgument(
            f"This version is from {made.isoformat()}, and {label} already has a newer one, from {newest.isoformat()}. "
            "Nothing was copied. Pass allow_older=True, or --allow-older on the command line, to copy it anyway."
        )


def source_of(version: StoredVersion) -> Mapping[str, Any] | None:
    """Return the source that a version was copied from, or None if it was logged here."""
    found = version.event.body.get("source")
    return found if isinstance(found, dict) else None
