"""What is known of each backup without reading it: its name, what it holds, where it was made, and from which code.

A *backup* is one version. A *part* of it is what came from one source: a directory or a database. A record that cannot
be read is listed as *broken*, with the reason, and never hides the others.
"""

from __future__ import annotations

import dataclasses
import os
import re
import socket
import subprocess
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from ..errors import BackupNotFound
from ..repository.catalog import Event
from ..repository.times import from_nanoseconds, to_nanoseconds
from ..repository.tracking import hint
from ..retention import PINNED
from .directories import Summary

SLUG_LIMIT = 60
"""Most characters of a description in a name."""

_SHOWN = 10
"""Files of a part that are named when something is noted of them."""
_GIT_SECONDS = 10.0
_DAY = timedelta(days=1)


class PartRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one part."""

    name: str
    kind: str
    """"directory", or what the database is: "postgresql", "sqlite", ..."""
    size: int
    """Bytes of its files."""
    files: int
    counts: dict[str, int] = {}
    """Of a database: rows or documents per table or collection."""
    notes: list[str] = []
    """What a person should know: files that changed while they were read, or could not be read."""


class Git(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the code when a backup was made."""

    commit: str | None
    branch: str | None
    """None when no branch was checked out."""
    dirty: bool
    """Whether tracked files were changed and not committed."""

    def __str__(self) -> str:
        return f"{self.branch or 'no branch'}@{(self.commit or 'no commit')[:7]}{' (changed)' if self.dirty else ''}"


class _Body(msgspec.Struct, kw_only=True):
    """The body of the event that commits a backup."""

    id: str
    description: str
    time: int
    permanent: bool
    tags: list[str]
    parts: list[PartRecord]
    duration: float
    host: str
    git: Git | None = None
    run: dict[str, Any] | None = None
    versions: dict[str, list[str]] = {}


@dataclass(frozen=True, slots=True)
class Backup:
    """One backup.

    Attributes:
        name: unique under its manager's name, as in `default_20260131_120000_before_the_migration`.
        description: what its maker said.
        created_at: when it was begun, in UTC.
        permanent: whether retention leaves it alone, and deleting it has to be forced.
        tags: what `keep_tags` of a retention policy looks at.
        parts: what it holds, one part for each source.
        written: bytes that storing it took; the rest was in the repository already, or compressed away.
        duration: seconds.
        host: the machine on which it was made.
        git: the state of the code that was backed up, or of the working directory; None when neither is in git.
        run: the Prefect run that made it.
        versions: tools and servers, by the name of the part.
        broken: why its record cannot be read; None when it can.
    """

    name: str
    description: str
    created_at: datetime
    permanent: bool = False
    tags: tuple[str, ...] = ()
    parts: tuple[PartRecord, ...] = ()
    written: int = 0
    duration: float = 0.0
    host: str = ""
    git: Git | None = None
    run: Mapping[str, Any] | None = None
    versions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    broken: str | None = None

    @property
    def exempt(self) -> tuple[str, ...]:
        """The reasons why retention never deletes it."""
        return (PINNED,) if self.permanent else ()

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(part.size for part in self.parts)

    @property
    def files(self) -> int:
        """Files of all parts."""
        return sum(part.files for part in self.parts)

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Rows or documents per table or collection, of every database."""
        return {part.name: part.counts for part in self.parts if part.counts}

    def part(self, name: str) -> PartRecord:
        """The part that came from one source.

        Arguments:
            name: of the source, or its end behind a slash, where that is clear: `"app.db"`.

        Raises:
            BackupNotFound: it has no such part, or several.
        """
        found = [part for part in self.parts if part.name == name]
        found = found or [part for part in self.parts if part.name.endswith(f"/{name}")]
        if len(found) != 1:
            raise BackupNotFound(f"backup {self.name!r} has not one part {name!r}: it has {', '.join(self.part_names)}")
        return found[0]

    @property
    def part_names(self) -> list[str]:
        """The names of all parts."""
        return [part.name for part in self.parts]

    def to_dict(self) -> dict[str, Any]:
        """All of it in plain types, for JSON."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return {**plain, "size": self.size, "files": self.files}


class Records:
    """All backups of one stream, in the order in which they were committed."""

    def __init__(self) -> None:
        self.by_name: dict[str, tuple[Event, Backup]] = {}
        self._names: dict[int, str] = {}
        self._given: set[str] = set()

    def copy(self) -> Records:
        """Return a copy that later events do not change."""
        other = Records()
        other.by_name, other._names, other._given = dict(self.by_name), dict(self._names), set(self._given)
        return other

    def apply(self, event: Event) -> None:
        """Take one event into account."""
        for sequence in event.deletes:
            name = self._names.pop(sequence, None)
            if name is not None:
                del self.by_name[name]
        if event.kind == "backup":
            backup = read_record(event)
            self.by_name[backup.name] = event, backup
            self._names[event.sequence] = backup.name
            self._given.add(backup.name)
        elif event.kind == "annotate" and event.body.get("id") in self.by_name:
            committed, backup = self.by_name[event.body["id"]]
            changed = dataclasses.replace(backup, permanent=bool(event.body["permanent"]))
            self.by_name[backup.name] = committed, changed

    def get(self, name: str) -> tuple[Event, Backup]:
        """The event and the backup of a name.

        Raises:
            BackupNotFound: naming those that come near.
        """
        found = self.by_name.get(name) if isinstance(name, str) else None
        if found is None:
            raise BackupNotFound(f"no backup {name!r} {hint(name, self.by_name)}")
        return found

    def free_name(self, name: str) -> str:
        """The name, or if it is taken the first of `name_2`, `name_3`, ... that is free. None is given twice."""
        number, free = 1, name
        while free in self._given:
            number += 1
            free = f"{name}_{number}"
        return free


def read_record(event: Event) -> Backup:
    """The backup that an event committed; a broken one when its record is not what it should be."""
    try:
        body = msgspec.convert(event.body, _Body)
    except msgspec.ValidationError as error:
        name = event.body.get("id")
        return broken_record(name if isinstance(name, str) else event.sequence, str(error), event.time)
    return Backup(
        name=body.id,
        description=body.description,
        created_at=from_nanoseconds(body.time),
        permanent=body.permanent,
        tags=tuple(body.tags),
        parts=tuple(body.parts),
        written=event.content.written if event.content else 0,
        duration=body.duration,
        host=body.host,
        git=body.git,
        run=body.run,
        versions=body.versions,
    )


def broken_record(name: str | int, reason: str, time: int = 0) -> Backup:
    """What is listed where a record cannot be read: it stays until somebody deletes it by force.

    Arguments:
        name: of the backup, or the number of the event that would tell.
        reason: why it cannot be read.
        time: of the event, in nanoseconds since 1970, if that is known.
    """
    known = name if isinstance(name, str) else f"event-{name}"
    return Backup(name=known, description="", created_at=from_nanoseconds(time), permanent=True, broken=reason)


def body_of(backup: Backup) -> dict[str, Any]:
    """The body of the event that commits a backup."""
    body = _Body(
        id=backup.name,
        description=backup.description,
        time=to_nanoseconds(backup.created_at),
        permanent=backup.permanent,
        tags=list(backup.tags),
        parts=list(backup.parts),
        duration=backup.duration,
        host=backup.host,
        git=backup.git,
        run=dict(backup.run) if backup.run is not None else None,
        versions={name: list(versions) for name, versions in backup.versions.items()},
    )
    plain: dict[str, Any] = msgspec.to_builtins(body)
    return plain


def part_record(done: Summary) -> PartRecord:
    """What is noted of a part, given what was done with its source."""
    kinds = {
        "changed while they were read": done.changed,
        "could not be read": done.unreadable,
        "were gone when they should have been read": done.vanished,
        "are sockets or devices, which are not kept": done.skipped,
    }
    notes = [
        f"{len(paths)} files {what}: {', '.join(paths[:_SHOWN])}{', ...' if len(paths) > _SHOWN else ''}"
        for what, paths in kinds.items()
        if paths
    ]
    return PartRecord(
        name=done.name, kind=done.kind, size=done.size, files=done.files, counts=dict(done.counts), notes=notes
    )


def clocks_behind(events: Iterable[Event], now: datetime) -> dict[int, str]:
    """The events whose machine's clock was a day or more behind that of an earlier one, and why that is thought.

    Arguments:
        events: of one stream, in order.
        now: what lies a day ahead of it does not count as an earlier time.

    Returns:
        Reasons by the number of the event.
    """
    found: dict[int, str] = {}
    latest = datetime.min.replace(tzinfo=UTC)
    for event in events:
        time = from_nanoseconds(event.time)
        if latest - time >= _DAY:
            found[event.sequence] = f"its clock was {round((latest - time) / _DAY)} days behind"
        elif time - now < _DAY:
            latest = max(latest, time)
    return found


# --- names -------------------------------------------------------------------------------------------------------


def backup_name(name: str, created_at: datetime, description: str) -> str:
    """What a backup is called: the name of its manager, the time in UTC, and the slug of its description, if any.

    Example:
        >>> backup_name("metis", datetime(2025, 10, 7, 14, 30, 22, tzinfo=UTC), "Before CF validation Phase 4")
        'metis_20251007_143022_before_cf_validation_phase_4'
    """
    return "_".join(filter(None, [name, f"{created_at.astimezone(UTC):%Y%m%d_%H%M%S}", slug(description)]))


def slug(description: str) -> str:
    """A description as it goes into a name.

    In lower case, letters without their accents; runs of anything but letters and digits become `_`, none at the ends;
    at most 60 characters.

    Example:
        >>> slug("Before CF validation, Phase 4 - clean baseline!")
        'before_cf_validation_phase_4_clean_baseline'
        >>> slug("Größe: naïve Übersicht"), slug("../../etc/passwd"), slug(" \\n")
        ('grosse_naive_ubersicht', 'etc_passwd', '')
    """
    bare = (char for char in unicodedata.normalize("NFKD", description.casefold()) if not unicodedata.combining(char))
    folded = unicodedata.normalize("NFC", "".join(bare))
    words = "".join(char if char.isalnum() else "_" for char in folded)
    return re.sub("_+", "_", words).strip("_")[:SLUG_LIMIT].rstrip("_")


# --- where a backup is made ----------------------------------------------------------------------------------------


def host() -> str:
    """The name of this machine."""
    return socket.gethostname()


def git_state(folders: Iterable[Path]) -> Git | None:
    """The state of the code: of the first folder that is in a work tree of git, else of the working directory.

    Nothing is changed by looking, and no program that a repository configures is run. Without git, or when it does not
    answer in time, there is no state.
    """
    return next((state for folder in (*folders, Path.cwd()) if (state := _git(folder)) is not None), None)


def _git(folder: Path) -> Git | None:
    command = ["git", "-C", str(folder), "--no-optional-locks", "-c", "core.fsmonitor=false"]
    command += ["status", "--porcelain=v2", "--branch", "--untracked-files=no", "--ignore-submodules=all"]
    # Variables such as GIT_DIR, which git sets for its hooks, would lead to another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_GIT_SECONDS,
            text=True,
            errors="replace",
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.splitlines()
    facts = dict(line[2:].split(" ", 1) for line in lines if line.startswith("# ") and " " in line[2:])
    commit, branch = facts.get("branch.oid"), facts.get("branch.head")
    return Git(
        commit=None if commit == "(initial)" else commit,
        branch=None if branch == "(detached)" else branch,
        dirty=any(not line.startswith("#") for line in lines),
    )
