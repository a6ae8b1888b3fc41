"""The journal of restores: it records which parts are new, old or mixed, even if the restoring process is killed.

A restore is a sequence of events in the stream of its backups:

1. `restore` is committed when everything is verified, and before anything changes. It names the backup, its parts,
   their targets, and the safety backup if there is one. All parts are *old*.
2. `restore-step` is committed before a part is switched, and marks it as *switching*. The next step, or the end,
   records the result: *new*, *old*, or *mixed*.
3. `restore-end` closes the journal: all parts are new, or all are old, or somebody accepted the current state.

A journal without an end whose process is dead is an *interrupted* restore. Because the backup is in the repository, its
parts can be restored again from any machine: `BackupManager.resume_restore` finishes or undoes it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from ..errors import SnapshotsError
from ..messages import logger
from ..repository.catalog import Event
from ..repository.commits import Draft
from ..repository.origin import host
from ..repository.times import from_nanoseconds
from .working import is_held, working_folder, working_path

_MOST_OPEN = 100
"""The most journals without an end to keep in memory, from the latest: each takes a few hundred bytes."""

_LOCK = re.compile(r"restore-\w+")
"""The form of the name of a working folder. Any other name in a journal is ignored."""

Change = Callable[[Callable[[], Draft | None]], object]
"""Commits an event to the stream of the backups."""


class PartState(StrEnum):
    """The state of a target while its part is restored."""

    OLD = "old"
    """The state before the restore."""
    SWITCHING = "switching"
    """Old or new: the process ended during the switch."""
    NEW = "new"
    """The state in the backup."""
    MIXED = "mixed"
    """A mixture of both, or nothing."""


class _RestoredPart(msgspec.Struct, kw_only=True):
    name: str
    target: str
    only: list[str] = []
    in_place: bool = False
    """Whether it is changed in place, so that a kill during the switch leaves it mixed."""


class _Begun(msgspec.Struct, kw_only=True):
    id: str
    backup: str
    host: str
    lock: str
    parts: list[_RestoredPart]
    keep_extra: bool = False
    safety: str | None = None


class _Step(msgspec.Struct, kw_only=True):
    id: str
    part: str
    state: PartState


@dataclass(frozen=True, slots=True)
class RestorePart:
    """One part of a restore.

    Attributes:
        name: The name of the part.
        target: The name of the database, or the path of the directory, to which it is restored.
        only: The tables, collections or paths to restore. Empty: all of them.
        in_place: Whether the target is changed in place instead of switched as a whole.
        state: The last recorded state of the target.
    """

    name: str
    target: str
    only: tuple[str, ...]
    in_place: bool
    state: PartState

    @property
    def found(self) -> PartState:
        """The state of the target if the process is dead: after an interrupted change in place it is mixed."""
        return PartState.MIXED if self.in_place and self.state is PartState.SWITCHING else self.state


@dataclass(frozen=True, slots=True)
class RestoreRecord:
    """A restore that has not ended.

    Attributes:
        id: The id of the restore.
        backup: The name of the backup.
        started_at: When it started to change targets, in UTC.
        host: The machine on which it runs or ran.
        parts: All parts, and the states of their targets.
        keep_extra: Whether files that are not in the backup stay.
        safety_backup: The backup of the targets that are changed in place, made before the restore. None: there is
            none.
        lock: The working folder that its process keeps locked while it lives.
    """

    id: str
    backup: str
    started_at: datetime
    host: str
    parts: tuple[RestorePart, ...]
    keep_extra: bool
    safety_backup: str | None
    lock: str

    @property
    def here(self) -> bool:
        """Whether it ran on this machine."""
        return self.host == host()

    @property
    def runs(self) -> bool:
        """Whether its process is alive. A process on another machine cannot be checked, and counts as dead."""
        return self.here and _LOCK.fullmatch(self.lock) is not None and is_held(working_path(self.lock))

    @property
    def changed(self) -> bool:
        """Whether the target of any part may have changed."""
        return any(part.state is not PartState.OLD for part in self.parts)

    def described(self) -> str:
        """Return full sentences that say which targets are restored, unchanged, or only partly restored."""
        words = {
            PartState.NEW: "Restored",
            PartState.MIXED: "Only partly restored",
            PartState.SWITCHING: "Either restored or unchanged",
            PartState.OLD: "Unchanged",
        }
        groups = {word: [part.target for part in self.parts if part.found is state] for state, word in words.items()}
        return " ".join(f"{word}: {', '.join(targets)}." for word, targets in groups.items() if targets)


def apply_restore_event(open_restores: MutableMapping[str, RestoreRecord], event: Event) -> None:
    """Apply an event of a journal. An event that cannot be read, or is of another kind, changes nothing."""
    try:
        if event.kind == "restore":
            begun = msgspec.convert(event.body, _Begun)
            open_restores[begun.id] = RestoreRecord(
                begun.id,
                begun.backup,
                from_nanoseconds(event.time),
                begun.host,
                tuple(RestorePart(p.name, p.target, tuple(p.only), p.in_place, PartState.OLD) for p in begun.parts),
                begun.keep_extra,
                begun.safety,
                begun.lock,
            )
            while len(open_restores) > _MOST_OPEN:
                del open_restores[next(iter(open_restores))]
        elif event.kind == "restore-step":
            step = msgspec.convert(event.body, _Step)
            if found := open_restores.get(step.id):
                parts = tuple(
                    dataclasses.replace(part, state=step.state) if part.name == step.part else part
                    for part in found.parts
                )
                open_restores[step.id] = dataclasses.replace(found, parts=parts)
        elif event.kind == "restore-end":
            open_restores.pop(str(event.body.get("id")), None)
    except msgspec.ValidationError:
        return


class Journal:
    """The journal of a running restore.

    Args:
        change: Commits an event. None: nothing is recorded, because the repository is read-only.
        id: The id of the restore.
        states: The state of the target of each part, by the name of the part.
    """

    def __init__(self, change: Change | None, id: str, states: Mapping[str, PartState]) -> None:
        self._change = change
        self.id = id
        self.states = dict(states)

    def step(self, part: str, state: PartState) -> None:
        """Record the state of a target. When this returns, the record survives a kill of this process."""
        self.states[part] = state
        body = {"id": self.id, "part": part, "state": state.value}
        self._commit(lambda: Draft("restore-step", body))

    def note(self, part: str, state: PartState) -> None:
        """Record the state of a target after a failure. If that fails too, it is logged, not raised: it must not hide
        the first failure."""
        try:
            self.step(part, state)
        except SnapshotsError as error:
            logger.warning("The journal of the restore could not be updated: part %s is %s. %s", part, state, error)

    def close(self) -> None:
        """Record that nothing is left to finish or to undo."""
        try:
            self._commit(lambda: Draft("restore-end", {"id": self.id}))
        except SnapshotsError as error:
            logger.warning(
                "The restore has ended, but its journal could not be closed: %s To close it, run `prefect-snapshots "
                "backups resume-restore`.",
                error,
            )

    def _commit(self, draft: Callable[[], Draft]) -> None:
        if self._change is not None:
            self._change(draft)


@contextlib.contextmanager
def begun(
    change: Change | None,
    backup: str,
    parts: Sequence[RestorePart],
    *,
    keep_extra: bool,
    safety_backup: str | None,
    again: RestoreRecord | None = None,
) -> Iterator[Journal]:
    """Start the journal of a restore, and hold its lock while the block runs.

    Args:
        change: Commits an event to the stream of the backups. None: the repository is read-only, and keeps no journal.
        backup: The name of the backup.
        parts: All parts. Their states are ignored.
        keep_extra: Whether files that are not in the backup stay.
        safety_backup: The name of the backup that was made before the restore.
        again: An interrupted restore that this one finishes or undoes. Its journal ends when this one has started.
    """
    states = {part.name: PartState.OLD for part in parts}
    if again is not None:
        states |= {part.name: part.found for part in again.parts if part.name in states}
    with working_folder("restore") as lock:
        journal = Journal(change, os.urandom(8).hex(), states)
        body = _Begun(
            id=journal.id,
            backup=backup,
            host=host(),
            lock=lock.name,
            parts=[_RestoredPart(name=p.name, target=p.target, only=list(p.only), in_place=p.in_place) for p in parts],
            keep_extra=keep_extra,
            safety=safety_backup,
        )
        plain: dict[str, Any] = msgspec.to_builtins(body)
        journal._commit(lambda: Draft("restore", plain))
        for name, state in states.items():
            if state is not PartState.OLD:
                journal.step(name, state)
        if again is not None:
            Journal(change, again.id, {}).close()
        yield journal
