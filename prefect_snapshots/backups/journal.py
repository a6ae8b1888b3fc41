"""The journal of restores: which parts are new, old or mixed, however the process that restores them ends.

A restore is a sequence of events in the stream of its backups:

1. `restore` is committed when everything is verified, and before anything changes. It names the backup, its parts,
   their targets, and the safety backup if there is one. All parts are *old*.
2. `restore-step` is committed before a part is switched, and says that it is *switching*. The next step, or the end,
   says what became of it: *new*, *old*, or *mixed*.
3. `restore-end` closes the journal: all parts are new, or all are old, or somebody accepted what is there.

A journal without an end whose process is dead is an *interrupted* restore. Because the backup is in the repository, its
parts can be restored again from any machine: `BackupManager.resume_restore` finishes it, or takes it back.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from ..errors import SnapshotsError
from ..repository.catalog import Event
from ..repository.commits import Draft
from ..repository.times import from_nanoseconds
from .origin import host
from .working import is_held, working_folder, working_path

_MOST_OPEN = 100
"""Journals without an end that are remembered, the latest ones: each takes some hundred bytes in every reader."""

_LOCK = re.compile(r"restore-\w+")
"""What names a working folder: whatever else a journal says leads nowhere."""

logger = logging.getLogger("prefect_snapshots")

Change = Callable[[Callable[[], Draft | None]], object]
"""Commits an event to the stream of the backups."""


class PartState(StrEnum):
    """What a target holds while its part is restored."""

    OLD = "old"
    """What it was before the restore."""
    SWITCHING = "switching"
    """Old or new: the process ended during the switch."""
    NEW = "new"
    """What the backup holds."""
    MIXED = "mixed"
    """Some of both, or nothing."""


class _Part(msgspec.Struct, kw_only=True):
    name: str
    target: str
    only: list[str] = []
    in_place: bool = False
    """Whether it is changed in place, so that an end during the switch leaves it mixed."""


class _Begun(msgspec.Struct, kw_only=True):
    id: str
    backup: str
    host: str
    lock: str
    parts: list[_Part]
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
        target: The name of the database, or the path of the directory, that it is restored to.
        only: The tables, collections or paths that are restored; empty: all of it.
        in_place: Whether the target is changed in place, and not switched as a whole.
        state: What the target holds.
    """

    name: str
    target: str
    only: tuple[str, ...]
    in_place: bool
    state: PartState

    @property
    def found(self) -> PartState:
        """What the target holds if the process is dead: a switch in place is mixed."""
        return PartState.MIXED if self.in_place and self.state is PartState.SWITCHING else self.state


@dataclass(frozen=True, slots=True)
class RestoreRecord:
    """A restore that has not ended.

    Attributes:
        id: Names the restore.
        backup: The name of the backup.
        started_at: When it began to change targets, in UTC.
        host: The machine that it runs on, or ran on.
        parts: All parts, and what their targets hold.
        keep_extra: Whether files stay that the backup does not hold.
        safety_backup: The backup that was made before, of the targets that are changed in place. None: there is none.
        lock: The working folder that its process holds while it lives.
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
        """Whether its process lives. Of another machine's process this machine cannot tell: it counts as dead."""
        return self.here and _LOCK.fullmatch(self.lock) is not None and is_held(working_path(self.lock))

    @property
    def changed(self) -> bool:
        """Whether the target of any part may not be what it was."""
        return any(part.state is not PartState.OLD for part in self.parts)

    def described(self) -> str:
        """Return which parts are new, old or mixed, in words."""
        words = {
            PartState.NEW: "Restored",
            PartState.MIXED: "Mixed",
            PartState.SWITCHING: "Either restored or as they were",
            PartState.OLD: "As they were",
        }
        groups = {word: [part.target for part in self.parts if part.found is state] for state, word in words.items()}
        return " ".join(f"{word}: {', '.join(targets)}." for word, targets in groups.items() if targets)


def apply_restore_event(open_restores: MutableMapping[str, RestoreRecord], event: Event) -> None:
    """Take an event of a journal into account. One that cannot be read, or is of another kind, changes nothing."""
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
    """The journal of one restore, on its way.

    Args:
        change: Commits an event. None: nothing is kept, because the repository is only read.
        id: Names the restore.
        states: What the target of each part holds, by the name of the part.
    """

    def __init__(self, change: Change | None, id: str, states: Mapping[str, PartState]) -> None:
        self._change = change
        self.id = id
        self.states = dict(states)

    def step(self, part: str, state: PartState) -> None:
        """Say what the target of a part holds from now on. When this returns, a killed process is believed."""
        self.states[part] = state
        body = {"id": self.id, "part": part, "state": state.value}
        self._commit(lambda: Draft("restore-step", body))

    def note(self, part: str, state: PartState) -> None:
        """Say what a target holds after a failure: that this cannot be written down must not hide the failure."""
        try:
            self.step(part, state)
        except SnapshotsError:
            logger.warning("The journal of the restore does not say that %s is %s.", part, state, exc_info=True)

    def close(self) -> None:
        """Say that nothing is left to finish or to take back."""
        try:
            self._commit(lambda: Draft("restore-end", {"id": self.id}))
        except SnapshotsError:
            logger.warning(
                "The restore has ended, but its journal does not say so. Run `prefect-snapshots backups "
                "resume-restore`: it ends the journal.",
                exc_info=True,
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
    """Begin the journal of a restore, and hold its lock while the block runs.

    Args:
        change: Commits an event to the stream of the backups. None: the repository is only read, and keeps no journal.
        backup: The name of the backup.
        parts: All parts. Their states are not looked at.
        keep_extra: Whether files stay that the backup does not hold.
        safety_backup: The backup that was made before.
        again: An interrupted restore, which this one finishes or takes back: it ends when this one has begun.
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
            parts=[_Part(name=p.name, target=p.target, only=list(p.only), in_place=p.in_place) for p in parts],
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
