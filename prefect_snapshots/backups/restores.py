"""Restore a backup: nothing is deleted before its replacement is ready, and an interrupted restore can be finished.

A restore goes through these steps:

1. *Plan*: decide where each part goes. All mistakes in the request are found here.
2. *Verify*: every byte of these parts is read. Targets that are changed in place get a safety backup. Of a directory
   with `only_changed`, staging reads what the target does not have.
3. *Start* the journal (`journal.py`). From here on, a process that is killed leaves a record of what it did.
4. *Stage*: the new state of each part is built and verified beside its target, which stays in place and in use.
5. *Switch*: the parts are switched one after the other. The journal records each switch before and after.

A failure in steps 1 to 4 changes nothing. A failure in step 5 leaves each part new or old, except for databases that
can only be changed in place: these are put back from the safety backup. If a database or directory lies within a
directory that is also restored, it is staged after that directory has been switched: otherwise it would be built in the
old directory, which the switch removes.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import BackupFailed, DamagedVersion, InvalidArgument, RestoreFailed, RestoreRunning, UsageError
from ..messages import logger
from ..repository.progress import Progress
from ..trees.restoring import Restored, stage_directory
from ..trees.scanning import Directory
from .archive import Archive
from .browsing import BackupDiff, restore_changes
from .claims import Source, data_folder, files_of, holds_repository, is_within, outer_first
from .databases import open_target
from .history import BackupHistory
from .interruption import closed_undisturbed, deferred, terminable
from .journal import Journal, PartState, RestorePart, RestoreRecord, begun
from .making import BackupRequest, make
from .manifest import DIRECTORY
from .records import Backup, PartRecord
from .rivals import alone
from .single_files import FILE, File, how_to_get, is_homeless
from .sources import CanBeMissing, CreatesUsers, Database, StagedRestores
from .working import check_space

FINISH = "`prefect-snapshots backups resume-restore`"
"""The command that finishes an interrupted restore."""
UNDO = "`prefect-snapshots backups resume-restore --undo`"
"""The command that undoes an interrupted restore."""


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What a restore did, or would do with `dry_run`.

    Attributes:
        name: The name of the backup.
        restored: The names of the restored parts. Empty for a dry run.
        safety_backup: The name of the backup that was made first, of targets that can only be changed in place. None:
            no safety backup was needed.
        warnings: Full sentences about attributes that could not be set, or leftovers that could not be deleted. The
            data is restored nevertheless.
        dry_run: Whether this was a dry run, which changes nothing.
        changes: For a dry run: what would change in each target.
        failed_hooks: Full sentences about hooks that failed after the restore.
        unchanged: How many files of directories were not written, because they were identical. Only with
            `only_changed`.
    """

    name: str
    restored: tuple[str, ...]
    safety_backup: str | None = None
    warnings: tuple[str, ...] = ()
    dry_run: bool = False
    changes: tuple[BackupDiff, ...] = ()
    failed_hooks: tuple[str, ...] = ()
    unchanged: int = 0


@dataclass(frozen=True, kw_only=True)
class RestoreRequest:
    """What to restore, and how.

    Attributes:
        include_directories, include_databases: Whether to restore them.
        to: Other targets, by source.
        only: Only these sources, and of each only these tables, collections or paths. Empty: all of them.
        safety: Whether to make a safety backup of targets that can only be changed in place.
        in_place: Whether a directory that cannot be switched as a whole may be restored file by file.
        keep_extra: Whether files that are not in the backup stay.
        only_changed: Whether files of directories that are identical already are neither read from the repository nor
            written again.
        allow_privileges: Whether users of a server may be created with privileges.
    """

    include_directories: bool = True
    include_databases: bool = True
    to: Mapping[Any, Any]
    only: Mapping[Any, Sequence[str]]
    safety: bool = True
    in_place: bool = False
    keep_extra: bool = False
    only_changed: bool = False
    allow_privileges: bool = False

    def permitted(self, target: Source) -> Source:
        """Return a target that may create users with privileges, if the request allows it."""
        return target.allowing_privileges() if self.allow_privileges and isinstance(target, CreatesUsers) else target


@dataclass(frozen=True, slots=True)
class PartRestore:
    """One part, and its target."""

    part: PartRecord
    target: Source
    only: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """The name of the target in the journal and in messages."""
        return str(self.target.path) if isinstance(self.target, Directory) else self.target.name

    @property
    def folder(self) -> Path | None:
        """The path of the target on this machine. None if it is on a server."""
        if isinstance(self.target, Directory):
            return Path(self.target.path).resolve()
        return next(iter(files_of(self.target)), None)

    def by_steps(self, request: RestoreRequest) -> bool:
        """Whether the switch takes several steps, so that a kill between two of them leaves the target mixed."""
        return self.in_place or (isinstance(self.target, Directory) and (request.in_place or len(self.only) > 1))

    @property
    def last(self) -> bool:
        """Whether this part is switched after all others, because it refers to what is in them."""
        return bool(getattr(self.target, "switches_last", False))

    @property
    def in_place(self) -> bool:
        """Whether the target can only be changed in place."""
        return not isinstance(self.target, Directory) and not self.target.swaps


# --- planning --------------------------------------------------------------------------------------------------------


def plan(backup: Backup, request: RestoreRequest, sources: Mapping[str, Source]) -> list[PartRestore]:
    """Return the target of each part.

    Args:
        backup: The backup.
        request: What to restore.
        sources: The sources of the manager, by name.

    Raises:
        InvalidArgument: The request cannot be carried out. Nothing was changed.
    """
    targets = {_part_name(backup, source): target for source, target in request.to.items()}
    for paths in request.only.values():
        if isinstance(paths, str) or not isinstance(paths, Iterable):
            raise InvalidArgument(
                "Pass only= as a list of tables, collections or paths for each part, not as one "
                f"{'string' if isinstance(paths, str) else type(paths).__name__}."
            )
    chosen = {_part_name(backup, source): paths for source, paths in request.only.items()}
    jobs, missing = [], []
    for part in backup.parts:
        wanted = request.include_directories if part.kind == DIRECTORY else request.include_databases
        place = targets.get(part.name, sources.get(part.name))
        if not chosen and is_homeless(part.name, part.kind, place):
            continue  # the report says so
        if wanted and (not chosen or part.name in chosen):
            if place is None:
                missing.append(part.name)
                continue
            target = request.permitted(_target(part, place))
            jobs.append(PartRestore(part, target, tuple(chosen.get(part.name, ()))))
    if missing:
        first, *others = missing
        parts = f"the parts {', '.join(map(repr, missing))}" if others else f"part {first!r}"
        lacking = "sources with these names" if others else "a source with this name"
        raise InvalidArgument(
            f"No target for {parts} of backup {backup.name!r}. Nothing was changed. Add {lacking}, or pass "
            f"to={{{first!r}: TARGET}} (--to {shlex.quote(f'{first}=TARGET')}){' and so on' if others else ''}."
        )
    if not jobs:
        raise InvalidArgument(
            f"These options select nothing to restore. The parts of backup {backup.name!r} are: "
            f"{_listed(backup.part_names)}."
        )
    places = [job.place for job in jobs]
    if twice := next((place for place in places if places.count(place) > 1), None):
        raise InvalidArgument(f"Two parts cannot be restored to {twice}. Give one of them another target with to=.")
    return jobs


def changes(content: Archive, jobs: Sequence[PartRestore], keep_extra: bool) -> tuple[BackupDiff, ...]:
    """Return what a restore would change in each target."""
    return tuple(restore_changes(content.part(job.part.name), job.target, job.only, keep_extra) for job in jobs)


def _target(part: PartRecord, target: Any) -> Source:
    if part.kind == DIRECTORY:
        if isinstance(target, Directory):
            return target
        try:
            return Directory(target)
        except TypeError:
            raise InvalidArgument(
                f"Part {part.name!r} is a directory, and cannot be restored to {type(target).__name__}. Pass a path."
            ) from None
    database = _database_of(part, target)
    if getattr(database, "kind", None) != part.kind:
        kind = getattr(database, "kind", type(target).__name__)
        raise InvalidArgument(f"Part {part.name!r} is of kind {part.kind}, and cannot be restored to {kind}.")
    return database


def _part_name(backup: Backup, source: Any) -> str:
    return backup.part(source if isinstance(source, str) else source.name).name


# --- restoring -------------------------------------------------------------------------------------------------------


def restore(
    history: BackupHistory,
    backup: Backup,
    content: Archive,
    jobs: Sequence[PartRestore],
    request: RestoreRequest,
    say: Progress,
    again: RestoreRecord | None = None,
) -> RestoreReport:
    """Restore the parts of a backup. The steps are those of this module's description.

    Args:
        history: The stream of the backups, which has the journal.
        backup: The backup.
        content: Its data.
        jobs: The parts and their targets.
        request: The options.
        say: Called with a label of the current step, how much of it is done, and the total.
        again: An interrupted restore that this one finishes.

    Raises:
        RestoreRunning: Another restore is changing one of the targets. Nothing was changed.
        DamagedVersion: Stored data is damaged. Nothing was changed.
        RestoreFailed: A part could not be restored. The message says which targets are restored, unchanged or only
            partly restored.
    """
    with terminable(), alone([(job.place, job.folder) for job in jobs], backup.name):
        read = [job.part.name for job in jobs if not (request.only_changed and _verified_later(job, jobs))]
        verify(content, read, counting(say, f"verifying {backup.name}", backup.size))
        databases = [job.target for job in jobs if not isinstance(job.target, Directory)]
        for database in databases:
            # A database that is gone is no reason to stop: restoring makes it. A program that is missing is one.
            with contextlib.suppress(BackupFailed):
                database.check()
        safety = again.safety_backup if again else None
        in_place = [
            database
            for database in databases
            if not database.swaps and not (isinstance(database, CanBeMissing) and not database.is_there())
        ]
        # A backup of what an interrupted restore has left would be one of a mixture: it is no way back.
        if in_place and request.safety and again is None:
            safety = _safety_backup(history, backup.name, in_place, say)
        parts = [RestorePart(job.part.name, job.place, job.only, job.by_steps(request), PartState.OLD) for job in jobs]
        # A journal in a directory that is switched would be cut off by the switch that it tells of.
        folders = [job.target for job in jobs if isinstance(job.target, Directory) and not request.in_place]
        inside = any(holds_repository(folder, history.repository) for folder in folders)
        with begun(
            None if inside else history.change,
            backup.name,
            parts,
            keep_extra=request.keep_extra,
            safety_backup=safety,
            again=again,
        ) as journal:
            run = _Restore(history, backup, content, jobs, request, say, journal, safety)
            with _standing_still(jobs):
                warnings = run.all()
    _supersede(history, jobs)
    done = {job.part.name for job in jobs}
    if request.include_databases and not request.only:
        left = [part.name for part in backup.parts if part.kind == FILE and part.name not in done]
        warnings += [
            f"Part {name!r} is not a file on this machine, and was not restored. {how_to_get(name)}" for name in left
        ]
    return RestoreReport(
        backup.name, tuple(job.part.name for job in jobs), safety, tuple(warnings), unchanged=run.unchanged
    )


def verify(content: Archive, names: Sequence[str], passed: Callable[[int], None]) -> None:
    """Read and verify these parts of a backup.

    Raises:
        DamagedVersion: The message names the first file that is damaged.
    """
    if len(names) == len(content.parts):
        content.verify(passed)
        return
    for part in map(content.part, names):
        if damaged := part.damaged():
            raise DamagedVersion(content.label, f"{part.name}: {damaged}", "it cannot be verified")
        passed(part.stored)


def _verified_later(job: PartRestore, jobs: Sequence[PartRestore]) -> bool:
    """Whether all bytes of a directory that are needed are verified when it is staged, before anything is switched.

    What lies within another target is staged after that one was switched.
    """
    folder = job.folder
    others = [other.folder for other in jobs if other is not job and other.folder is not None]
    return isinstance(job.target, Directory) and not any(folder and is_within(folder, other) for other in others)


@dataclass(slots=True)
class _Restore:
    """One restore on its way: staging and switching, and what is true when that fails."""

    history: BackupHistory
    backup: Backup
    content: Archive
    jobs: Sequence[PartRestore]
    request: RestoreRequest
    say: Progress
    journal: Journal
    safety: str | None
    done: int = 0
    unchanged: int = 0

    def all(self) -> list[str]:
        """Restore all parts. Returns warnings."""
        warnings: list[str] = []
        folders = {number: job.folder for number, job in enumerate(self.jobs)}
        for jobs in outer_first(self.jobs, folders):
            warnings += self._round(jobs)
        self.say("restoring", len(self.jobs), len(self.jobs))
        self.journal.close()
        return warnings

    def _round(self, jobs: Sequence[PartRestore]) -> list[str]:
        """Stage all of these, then switch one after the other."""
        warnings: list[str] = []
        done: list[Restored] = []
        with closed_undisturbed() as beside:
            switches = []
            for job in jobs:
                self.say("restoring", self.done, len(self.jobs))
                with self._telling(job, staging=True):
                    switches.append(beside.enter_context(self._staged(job, done)))
            # Rights of users refer to tables: those have to be there.
            for job, switch in sorted(zip(jobs, switches, strict=True), key=lambda pair: pair[0].last):
                with self._telling(job, staging=False):
                    # Before the switch: a process that is killed during it must not be taken for one that was not.
                    self.journal.step(job.part.name, PartState.SWITCHING)
                    warnings += switch()
                # Deferred work may not be lost between the switch and this line: what is told later is still true.
                self.journal.note(job.part.name, PartState.NEW)
                self.done += 1
                self.say("restoring", self.done, len(self.jobs))
        # Only now: leaving the block deletes the old states, and sets the attributes of directories that stay.
        return warnings + [warning for restored in done for warning in restored.warnings]

    @contextlib.contextmanager
    def _staged(self, job: PartRestore, done: list[Restored]) -> Iterator[Callable[[], Sequence[str]]]:
        """The function that puts a part in its place. Leaving the block deletes what stands beside the target.

        A directory is added to `done`, because its warnings are complete only after that.
        """
        part, target = self.content.part(job.part.name), job.target
        if isinstance(target, Directory):
            with stage_directory(
                part,
                target.path,
                only=job.only or None,
                delete=not self.request.keep_extra,
                in_place=self.request.in_place,
                only_changed=self.request.only_changed,
            ) as switch:

                def whole() -> Sequence[str]:
                    with deferred():
                        restored = switch()
                    self.unchanged += restored.unchanged
                    done.append(restored)
                    return ()

                yield whole
        elif isinstance(target, StagedRestores):
            if (folder := data_folder(target)) is not None:
                check_space(part.stored, folder, f"The restore of {job.place}")
            with target.stage(part, job.only) as take:

                def taken() -> Sequence[str]:
                    with deferred():
                        return take()

                yield taken
        else:
            # It builds and switches at once, or changes the target in place: that is its turn's work.
            yield partial(_restored, target, part, job.only)

    @contextlib.contextmanager
    def _telling(self, job: PartRestore, *, staging: bool) -> Iterator[None]:
        """What fails within the block is told with the state that all targets are in."""
        try:
            yield
        except BaseException as error:
            told = self._after_failure(job, error, staging)
            if isinstance(error, UsageError | RestoreRunning) and self._unchanged():
                raise  # its message is enough: it says what to pass
            if not isinstance(error, Exception):
                # Whoever asked for the end gets it, and still learns what there is.
                logger.critical("%s", told)
                error.add_note(told)
                raise
            raise RestoreFailed(told) from error

    def _unchanged(self) -> bool:
        return all(state is PartState.OLD for state in self.journal.states.values())

    def _after_failure(self, job: PartRestore, error: BaseException, staging: bool) -> str:
        """Bring the target of a part that failed into a known state. Returns what is true of all of them then."""
        sentence, state = ("", PartState.OLD) if staging else self._settle(job, error)
        if not staging:
            self.journal.note(job.part.name, state)
        states = self.journal.states
        if self._unchanged():
            self.journal.close()
        by_state = {
            wanted: [each.part.name for each in self.jobs if states[each.part.name] is wanted] for wanted in PartState
        }
        others = [name for name in by_state[PartState.OLD] if name != job.part.name]
        why = str(error) or type(error).__name__
        told = [f"{job.part.name} of backup {self.backup.name} could not be restored ({why})."]
        told += [sentence or f"{job.place} is unchanged."]
        told += [f"Restored: {_listed(by_state[PartState.NEW])}.", f"Unchanged: {_listed(others)}."]
        if mixed := [name for name in by_state[PartState.MIXED] if name != job.part.name]:
            told += [f"Only partly restored: {_listed(mixed)}."]
        told += [self._remedy(by_state)]
        return " ".join(told)

    def _settle(self, job: PartRestore, error: BaseException) -> tuple[str, PartState]:
        """What became of a target whose switch failed: it is put back if it may be mixed."""
        if isinstance(job.target, Directory) and isinstance(error, RestoreFailed):
            return f"{job.place} is only partly restored.", PartState.MIXED
        if not job.in_place:
            if isinstance(error, Exception):
                return f"{job.place} is unchanged.", PartState.OLD
            return f"{job.place} is either restored or unchanged.", PartState.SWITCHING
        if self.safety is None:
            return (
                f"{job.place} is only partly restored, and there is no safety backup of its previous contents.",
                PartState.MIXED,
            )
        try:
            with self.history.opened(self.safety) as (_, content):
                _restored(job.target, content.part(job.place), ())
        except Exception as again:  # the failure that is told is the first one, and this is a part of it
            return (
                f"{job.place} is only partly restored, and could not be put back ({again}). Its previous contents are "
                f"in backup {self.safety}.",
                PartState.MIXED,
            )
        return f"{job.place} was put back from backup {self.safety}.", PartState.OLD

    def _remedy(self, by_state: Mapping[PartState, Sequence[str]]) -> str:
        if by_state[PartState.MIXED] and self.safety:
            return f"Run {UNDO} to put back the safety backup, or {FINISH} to finish the restore."
        if len(by_state[PartState.OLD]) < len(self.jobs):
            return f"Fix the cause, then run {FINISH} to finish the restore."
        return "Nothing was changed. Fix the cause, then restore again."


def _restored(target: Any, part: Any, only: Sequence[str]) -> Sequence[str]:
    target.restore(part, only)
    return ()


def _safety_backup(history: BackupHistory, name: str, databases: Sequence[Database], say: Progress) -> str:
    """The name of a backup of what a restore is about to change in place."""
    request = BackupRequest(sources=databases, description=f"before restoring {name}", safety=True)
    try:
        return make(history, request, counting(say, "backing up", 0)).name
    except BackupFailed as error:
        raise RestoreFailed(
            f"Nothing was changed, because the safety backup of the targets failed ({error}). If they contain "
            "nothing that you want to keep, pass safety=False (--no-safety-backup)."
        ) from error


# --- interrupted restores --------------------------------------------------------------------------------------------


def interrupted(history: BackupHistory) -> list[RestoreRecord]:
    """Return the restores that may have changed a target, and whose process is dead or on another machine."""
    return [record for record in history.open_restores() if record.changed and not record.runs]


def to_finish(
    history: BackupHistory, record: RestoreRecord, sources: Mapping[str, Source], to: Mapping[str, Any]
) -> list[PartRestore]:
    """Return what finishes an interrupted restore: every part that is not new, and its target.

    Raises:
        InvalidArgument: A target is neither a source nor in `to`.
    """
    backup = history.find(record.backup)[1]
    return [
        PartRestore(backup.part(part.name), find_target(backup.part(part.name), part, sources, to), part.only)
        for part in record.parts
        if part.state is not PartState.NEW
    ]


def to_undo(
    history: BackupHistory, record: RestoreRecord, sources: Mapping[str, Source], to: Mapping[str, Any]
) -> list[PartRestore]:
    """Return what undoes an interrupted restore: the parts of the safety backup, and the targets that were changed.

    Raises:
        InvalidArgument: A target is neither a source nor in `to`.
        RestoreFailed: There is no backup of the previous contents of a target. Nothing was changed.
    """
    touched = [part for part in record.parts if part.found is not PartState.OLD]
    safe = history.find(record.safety_backup)[1] if record.safety_backup else None
    if lost := [part.target for part in touched if safe is None or part.target not in safe.part_names]:
        raise RestoreFailed(
            f"The restore of {record.backup} cannot be undone: there is no safety backup of {_listed(lost)}. "
            f"{record.described()} Nothing was changed. Run {FINISH} to finish it."
        )
    if safe is None:
        return []
    targets = {part.target: find_target(safe.part(part.target), part, sources, to) for part in touched}
    return [PartRestore(safe.part(name), target) for name, target in targets.items()]


def finish(
    history: BackupHistory, record: RestoreRecord, jobs: Sequence[PartRestore], request: RestoreRequest, say: Progress
) -> RestoreReport:
    """Finish an interrupted restore.

    Args:
        history: The stream of the backups.
        record: The interrupted restore.
        jobs: What `to_finish` returned.
        request: The options. Those that were recorded replace them.
        say: As for `restore`.

    Raises:
        RestoreFailed: A part could not be restored.
    """
    if not jobs:  # it was killed between its last step and its end
        end(history, record)
        return RestoreReport(record.backup, ())
    request = replace(request, in_place=True, keep_extra=record.keep_extra)
    jobs = [replace(job, target=request.permitted(job.target)) for job in jobs]
    with history.opened(record.backup) as (backup, content):
        return restore(history, backup, content, jobs, request, say, again=record)


def undo(
    history: BackupHistory, record: RestoreRecord, jobs: Sequence[PartRestore], request: RestoreRequest, say: Progress
) -> RestoreReport:
    """Undo an interrupted restore. The arguments are those of `finish`, and `jobs` is what `to_undo` returned."""
    if not jobs:  # nothing was changed
        end(history, record)
        return RestoreReport(record.backup, ())
    assert record.safety_backup is not None
    with history.opened(record.safety_backup) as (backup, content):
        report = restore(history, backup, content, jobs, replace(request, safety=False), say)
    end(history, record)
    return report


def find_target(part: PartRecord, touched: RestorePart, sources: Mapping[str, Source], to: Mapping[str, Any]) -> Source:
    """Return the target of an interrupted restore: from `to`, else the source that it is.

    The recorded target alone is not enough: whoever can write to the repository could record any path or server.

    Raises:
        InvalidArgument: It is no source, and not in `to`.
    """
    folders = {str(source.path): source.path for source in sources.values() if isinstance(source, Directory)}
    known = folders if part.kind == DIRECTORY else sources
    chosen = to.get(touched.name, known.get(touched.target))
    if chosen is None:
        raise InvalidArgument(
            f"The interrupted restore has recorded {touched.target!r} as the target of part {touched.name!r}, which is "
            f"none of the sources. Nothing was changed. If this target is right, pass to={{{touched.name!r}: TARGET}} "
            "(--to PART=TARGET)."
        )
    if part.kind == DIRECTORY:
        return chosen if isinstance(chosen, Directory) else Directory(chosen)
    return _database_of(part, chosen)


def _database_of(part: PartRecord, target: Any) -> Database:
    """Return the target of a part that is not a directory. A URL or a path is opened."""
    if part.kind == FILE and isinstance(target, str | os.PathLike):
        return File.from_url(os.fspath(target))
    database: Database = open_target(part.kind, target) if isinstance(target, str) else target
    return database


def end(history: BackupHistory, record: RestoreRecord) -> None:
    """Close the journal of a restore: nothing is left to finish or to undo."""
    Journal(history.change, record.id, {}).close()


def _supersede(history: BackupHistory, jobs: Sequence[PartRestore]) -> None:
    """End the journals of interrupted restores whose targets have all been restored as a whole now."""
    whole = {job.place for job in jobs if not job.only}
    try:
        records = [record for record in history.open_restores() if not record.runs]
    except Exception as error:  # the restore is done; that old journals stay open is told by whoever lists them
        logger.warning("The journals of earlier restores could not be read: %s", error)
        return
    for record in records:
        if all(part.target in whole for part in record.parts if part.state is not PartState.OLD):
            end(history, record)


# --- helpers ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _standing_still(jobs: Sequence[PartRestore]) -> Iterator[None]:
    """Enter the working directory anew after the block, if it was in a directory that the block has switched.

    Otherwise this process would go on in the directory that was there before, which is deleted: relative paths would
    lead nowhere.
    """
    try:
        here = Path.cwd()
    except FileNotFoundError:
        yield
        return
    folders = [Path(os.path.realpath(job.target.path)) for job in jobs if isinstance(job.target, Directory)]
    try:
        yield
    finally:
        if any(here == folder or is_within(here, folder) for folder in folders) and here.is_dir():
            os.chdir(here)


def counting(say: Progress, what: str, total: int) -> Callable[[int], None]:
    """Return a function that adds up the bytes it is called with, and reports the sum as progress."""
    done = 0

    def passed(size: int) -> None:
        nonlocal done
        done += size
        say(what, done, total)

    return passed


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
