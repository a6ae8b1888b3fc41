"""BackupManager: make backups of databases and directories, list, verify, restore and export them, let old ones go.

A backup is one event in the stream of kind "backups" with one content, so that it is there whole or not at all. What
goes is only marked in the stream; the repository's prune frees the space.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from ..errors import (
    BackupFailed,
    BackupNotFound,
    ConfirmationRequired,
    DamagedObject,
    DamagedVersion,
    IntegrityError,
    InvalidArgument,
    PermanentBackup,
    RestoreFailed,
)
from ..repository.catalog import Event, token_from
from ..repository.contents import Stored, Writer
from ..repository.maintenance import Progress
from ..repository.maintenance import prune as prune_repository
from ..repository.maintenance.progress import silent
from ..repository.maintenance.scanning import scan_stream
from ..repository.metadata import clean_metadata
from ..repository.repository import Draft, Repository, RepositoryLike, as_repository, check_name
from ..repository.tracking import TrackedStream, damage_of
from ..retention import CleanupReport, RetentionPolicy, RetentionRow
from ..trees.restoring import restore_directory
from ..trees.scanning import Directory
from ..trees.workspaces import recover
from . import archive
from .archive import Archive
from .databases import open_database
from .drills import DrillReport
from .drills import drill as run_drill
from .export import write_tar
from .manifest import DIRECTORY
from .records import (
    Backup,
    PartRecord,
    Records,
    backup_name,
    body_of,
    broken_record,
    clocks_behind,
    git_state,
    host,
    part_record,
    read_record,
)
from .sources import Database

KIND = "backups"

Source = Database | Directory

DEFAULT_RETENTION = RetentionPolicy()

logger = logging.getLogger("prefect_snapshots")


class BackupManager:
    """Backups of databases and directories in a repository.

    Arguments:
        repository: where backups live: a `Repository`, a URL or a path.
        name: keeps managers apart that share a repository. It is the first part of the name of every backup.
        databases: what to back up: objects such as `SQLite("app.db")`, or URLs such as `"postgresql://localhost/app"`.
        directories: what to back up: paths, or `Directory` objects with their own excludes.
        retention: which backups stay. Applied after every backup, and by `cleanup`.

    Example:
        >>> import pathlib, tempfile
        >>> from prefect_snapshots import BackupManager
        >>> folder = pathlib.Path(tempfile.mkdtemp()) / "results"
        >>> folder.mkdir()
        >>> _ = (folder / "loss.txt").write_text("0.25")
        >>> manager = BackupManager("memory://example-backups", name="demo", directories=[folder])
        >>> backup = manager.create_backup("Before the experiment")
        >>> backup.name.endswith("_before_the_experiment"), backup.files
        (True, 1)
        >>> _ = (folder / "loss.txt").write_text("nan")
        >>> _ = manager.restore_backup(backup.name, confirm=True)
        >>> (folder / "loss.txt").read_text()
        '0.25'
    """

    def __init__(
        self,
        repository: RepositoryLike | None = None,
        *,
        name: str = "default",
        databases: Sequence[Database | str] = (),
        directories: Sequence[Directory | str | os.PathLike[str]] = (),
        retention: RetentionPolicy = DEFAULT_RETENTION,
    ) -> None:
        self.repository = as_repository(repository)
        self.name = check_name(name)
        self.databases = tuple(map(_as_database, databases))
        self.directories = tuple(map(_as_directory, directories))
        self.retention = retention
        self._lock = threading.RLock()
        self._opened: TrackedStream[Records] | None = None
        names = [_text(source.name, "name of a source") for source in self._sources()]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InvalidArgument(f"two sources are called {twice[0]!r}: a backup keeps each under its name")

    # --- making -----------------------------------------------------------------------------------------------

    def create_backup(
        self,
        description: str = "",
        permanent: bool = False,
        include_directories: bool = True,
        tags: Sequence[str] = (),
        run: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
        *,
        token: str | None = None,
    ) -> Backup:
        """Back up all databases and directories. All of them, or nothing at all.

        Then the retention policy is applied; that it fails is only logged, and never touches the backup just made.

        Arguments:
            description: why; becomes part of the name.
            permanent: whether retention leaves it alone, and deleting it has to be forced.
            include_directories: say False for a quick backup of the databases alone.
            tags: for the `keep_tags` of a policy.
            run: what is known of the run that makes it, in plain values.
            progress: called with the bytes that are done, and 0 for how many there will be: nobody knows.
            token: of an earlier backup that raised `CommitUnknown`: if that one landed, it is returned.

        Returns:
            The backup.

        Raises:
            BackupFailed: naming the source that could not be read whole.
            ToolMissing: naming the program to install.
            CommitUnknown: the storage did not say whether the backup landed.
        """
        sources = self._sources(include_directories)
        if not sources:
            raise InvalidArgument("there is nothing to back up: give the manager databases or directories")
        backup = self._create(description, sources, permanent, tags, run, progress or silent, token)
        try:
            self._expire(dry_run=False)
        except Exception:  # whatever it is, the backup is made
            logger.warning("backup %s is made, but retention failed", backup.name, exc_info=True)
        return backup

    def _create(
        self,
        description: str,
        sources: Sequence[Source],
        permanent: bool = False,
        tags: Sequence[str] = (),
        run: Mapping[str, Any] | None = None,
        progress: Progress = silent,
        token: str | None = None,
    ) -> Backup:
        known = token_from(token)
        started = time.monotonic()
        made = Backup(
            name="",
            description=_text(description, "description"),
            created_at=datetime.now(UTC),
            permanent=bool(permanent),
            tags=tuple(check_name(tag, "tag") for tag in dict.fromkeys(tags)),
            host=host(),
            git=git_state(Path(source.path) for source in sources if isinstance(source, Directory)),
            run=None if run is None else clean_metadata(run),
            versions={source.name: source.check() for source in sources if not isinstance(source, Directory)},
        )
        for source in sources:
            if isinstance(source, Directory):
                recover(source.path)  # what a restore that was killed has set aside belongs into the backup
        body = body_of(made)
        # A stream of its own, so that nobody who only looks waits for the backup.
        tracked = self._open()

        def draft() -> Draft:
            body["id"] = tracked.state.free_name(backup_name(self.name, made.created_at, description))
            return Draft("backup", body)

        passed = _counting(progress, "backing up", 0)

        def store(writer: Writer) -> Stored:
            stored, summaries = archive.store(writer, sources, self._previous(sources, tracked), passed)
            body["parts"] = msgspec.to_builtins([part_record(summary) for summary in summaries])
            body["duration"] = round(time.monotonic() - started, 3)
            return stored

        event = tracked.store(draft, None, store, token=known)
        assert event is not None
        return read_record(event)

    # --- looking ----------------------------------------------------------------------------------------------

    def list_backups(self) -> list[Backup]:
        """All backups, the one that was committed last first. One whose record is damaged is listed as `broken`."""
        try:
            backups = [backup for _, backup in self._tracked.refresh().by_name.values()]
        except DamagedObject:
            backups = self._salvaged()
        return backups[::-1]

    def get_backup(self, name: str) -> Backup:
        """What is known of a backup.

        Raises:
            BackupNotFound: naming those that come near.
        """
        return self._tracked.refresh().get(name)[1]

    def verify_backup(self, name: str, progress: Progress | None = None) -> Backup:
        """Read a whole backup, and verify every byte.

        Raises:
            DamagedVersion: naming the backup and the file that is hit.
        """
        event, backup = self._sound(name)
        with damage_of(self._label(backup)):
            self._archive(event, backup).verify(_counting(progress, f"verifying {name}", backup.size))
        return backup

    def export(self, name: str, path: str | os.PathLike[str], progress: Progress | None = None) -> Path:
        """Write a backup into a tar file that needs nothing of ours to be read.

        It holds `metadata.json`, and a folder for each part, with modes, times, owners, attributes and links; the holes
        of sparse files are zeros. It appears when it is whole.

        Arguments:
            name: of the backup.
            path: of a file that does not exist. With the suffix `.zst` it is compressed.

        Returns:
            The path.
        """
        event, backup = self._sound(name)
        with damage_of(self._label(backup)):
            passed = _counting(progress, f"exporting {name}", backup.size)
            return write_tar(Path(path), backup, self._archive(event, backup), passed)

    # --- restoring --------------------------------------------------------------------------------------------

    def restore_backup(
        self,
        name: str,
        confirm: bool = False,
        include_directories: bool = True,
        include_databases: bool = True,
        to: Mapping[Any, Source | str | os.PathLike[str]] | None = None,
        only: Mapping[Any, Sequence[str]] | None = None,
        safety: bool = True,
        in_place: bool = False,
        progress: Progress | None = None,
    ) -> RestoreReport:
        """Make databases and directories what they were. What the backup does not hold is removed from them.

        Every byte of what is to be restored is verified before anything is touched. Then each part is restored beside
        its target and swapped in, where the target can do that. For the others a safety backup is made first, and put
        back when the restore fails.

        Arguments:
            name: of the backup.
            confirm: has to be True: this replaces data.
            include_directories, include_databases: say False to leave them alone.
            to: other targets by source: a database or its URL, or a path. A source is called by its name, by the end of
                it, such as `"app.db"`, or is the object itself.
            only: restore these sources alone, and of them these tables, collections or paths; none: all of it.
            safety: whether to make a safety backup. Say False where nothing is left that could be backed up.
            in_place: a directory that cannot be swapped as a whole, such as a mount point, is restored file by file.
            progress: called with what is done, how much of it, and how much there is.

        Returns:
            What was restored, and the name of the safety backup, if there is one.

        Raises:
            ConfirmationRequired: nobody confirmed it.
            DamagedVersion: stored bytes are damaged. Nothing was touched.
            RestoreFailed: naming the part, and which targets are new and which are as they were.

        Example:
            >>> import pathlib, tempfile
            >>> from prefect_snapshots import BackupManager
            >>> folder = pathlib.Path(tempfile.mkdtemp()) / "data"
            >>> folder.mkdir()
            >>> manager = BackupManager("memory://example-restore", directories=[folder])
            >>> backup = manager.create_backup("empty")
            >>> manager.restore_backup(backup.name)
            Traceback (most recent call last):
            ...
            prefect_snapshots.errors.ConfirmationRequired: restoring ... replaces ...: pass confirm=True
        """
        event, backup = self._sound(name)
        jobs = self._jobs(backup, include_directories, include_databases, to or {}, only or {})
        if not jobs:
            raise InvalidArgument(f"there is nothing to restore: backup {name!r} has {_listed(backup.part_names)}")
        for job in jobs:
            if isinstance(job.target, Directory) and not (in_place or job.only):
                self._keep_repository(job.target)
        if confirm is not True:
            targets = _listed([job.target.name for job in jobs])
            raise ConfirmationRequired(f"restoring {name} replaces {targets}: pass confirm=True")
        say = progress or silent
        with damage_of(self._label(backup)):
            content = self._archive(event, backup)
            _verify(content, [job.part.name for job in jobs], _counting(progress, f"verifying {name}", backup.size))
        databases = [job.target for job in jobs if not isinstance(job.target, Directory)]
        for database in databases:
            # A database that is gone is no reason to stop: restoring makes it. A tool that is missing is one.
            with contextlib.suppress(BackupFailed):
                database.check()
        risky = [database for database in databases if not database.swaps]
        safe = self._safety_backup(name, risky, say) if risky and safety else None
        restored: list[str] = []
        for number, job in enumerate(jobs):
            say("restoring", number, len(jobs))
            try:
                with damage_of(self._label(backup)):
                    job.restore(content, in_place)
            except Exception as error:
                waiting = [one.part.name for one in jobs[number + 1 :]]
                state = self._put_back(job, safe)
                raise RestoreFailed(
                    f"{job.part.name} of backup {name} could not be restored ({error}). {state} Restored: "
                    f"{_listed(restored)}. As they were: {_listed(waiting)}."
                ) from error
            restored.append(job.part.name)
        say("restoring", len(jobs), len(jobs))
        return RestoreReport(name, tuple(restored), safe)

    def _jobs(
        self,
        backup: Backup,
        include_directories: bool,
        include_databases: bool,
        to: Mapping[Any, Any],
        only: Mapping[Any, Sequence[str]],
    ) -> list[_Job]:
        """What is to be restored to where. Everything that can be wrong about it is found here."""
        targets = {_part(backup, source): target for source, target in to.items()}
        if any(isinstance(paths, str) for paths in only.values()):
            raise InvalidArgument("only= takes a list of tables, collections or paths for each part")
        chosen = {_part(backup, source): paths for source, paths in only.items()}
        own = {source.name: source for source in self._sources()}
        jobs = []
        for part in backup.parts:
            wanted = include_directories if part.kind == DIRECTORY else include_databases
            if not wanted or (chosen and part.name not in chosen):
                continue
            target = targets.get(part.name, own.get(part.name))
            if target is None:
                raise InvalidArgument(
                    f"nobody says where {part.name!r} of backup {backup.name!r} goes: give the manager a source of "
                    f"this name, or say to={{{part.name!r}: ...}}"
                )
            target = _as_directory(target) if part.kind == DIRECTORY else _as_database(target)
            if not isinstance(target, Directory) and target.kind != part.kind:
                raise InvalidArgument(f"{part.name!r} is of {part.kind}, and cannot be restored to {target.kind}")
            jobs.append(_Job(part, target, tuple(chosen.get(part.name, ()))))
        return jobs

    def _safety_backup(self, name: str, databases: Sequence[Database], say: Progress) -> str:
        """The name of a backup of what a restore is about to replace."""
        try:
            return self._create(f"before restoring {name}", databases, progress=say).name
        except BackupFailed as error:
            raise RestoreFailed(
                f"nothing was touched, because what is there now could not be backed up ({error}). If nothing is "
                "left to lose, say safety=False"
            ) from error

    def _put_back(self, job: _Job, safety: str | None) -> str:
        """After a restore that failed: what became of its target."""
        target = job.target
        if isinstance(target, Directory) or target.swaps:
            return f"{target.name} is as it was."
        if safety is None:
            return f"{target.name} is in between."
        try:
            event, backup = self._sound(safety)
            target.restore(self._archive(event, backup).part(target.name))
        except Exception as error:  # the failure that is told is the first one, and this is a part of it
            return f"{target.name} is in between ({error}): what it was is in backup {safety}."
        return f"{target.name} was put back from backup {safety}."

    def drill(self, name: str | None = None, progress: Progress | None = None) -> DrillReport:
        """Restore a backup where it harms nobody, and compare: whether it could be relied upon.

        Each database is restored into an empty one beside it, which is dropped again: its rows are counted, and their
        checksums compared where its kind has them. Each directory is restored into a temporary one, where every file is
        compared.

        Arguments:
            name: of the backup; default: the one that was committed last.

        Returns:
            What was found of each part.

        Raises:
            BackupNotFound: there is none.
        """
        if name is None:
            newest = next((backup for backup in self.list_backups() if backup.broken is None), None)
            if newest is None:
                raise BackupNotFound(f"there is no backup yet under {self.name!r}")
            name = newest.name
        event, backup = self._sound(name)
        sources = {source.name: source for source in self._sources()}
        with damage_of(self._label(backup)):
            return run_drill(backup, self._archive(event, backup), sources, progress or silent)

    # --- letting go -------------------------------------------------------------------------------------------

    def delete_backup(self, name: str, force: bool = False) -> None:
        """Delete one backup. Its space is freed by the next `cleanup`, or prune of the repository.

        Arguments:
            name: its whole name.
            force: delete it even if it is permanent, or its record is broken.

        Raises:
            BackupNotFound: naming those that come near; nothing is deleted.
            PermanentBackup: it is marked as permanent, or broken.
        """

        def draft() -> Draft:
            event, backup = self._tracked.state.get(name)
            if backup.permanent and not force:
                why = "marked as permanent" if backup.broken is None else "broken"
                raise PermanentBackup(f"backup {name!r} is {why}: force=True deletes it all the same")
            return Draft("remove", {"id": name}, [event.sequence])

        self._tracked.change(draft)

    def mark_permanent(self, name: str, permanent: bool = True) -> Backup:
        """Protect a backup from retention and from being deleted without force, or stop protecting it."""

        def draft() -> Draft:
            self._tracked.state.get(name)
            return Draft("annotate", {"id": name, "permanent": bool(permanent)})

        self._tracked.change(draft)
        return self.get_backup(name)

    def cleanup(self, dry_run: bool = False, prune: bool = True, progress: Progress | None = None) -> CleanupReport:
        """Let go what the retention policy does not keep, and free the space.

        Permanent backups always stay, and so do the one that was committed last, those with a broken record, and those
        that were made by a clock that is a day or more wrong.

        Arguments:
            dry_run: only say what would go.
            prune: whether to free the space, too; it may be some other process that may delete objects.

        Returns:
            What is said of each backup, and the bytes freed.
        """
        rows, doomed = self._expire(dry_run)
        deleted = tuple(row.name for row in rows if not row.keep)
        if not prune or not self.repository.exists():
            return CleanupReport(rows, deleted, dry_run)
        gone = [(KIND, self.name, sequence) for sequence in doomed]
        report = prune_repository(self.repository, dry_run, progress=progress, without=gone)
        return CleanupReport(rows, deleted, dry_run, report.bytes_freed, report.bytes_waiting)

    def _expire(self, dry_run: bool) -> tuple[tuple[RetentionRow, ...], list[int]]:
        """Remove what the policy does not keep. Returns its rows, and the events of what goes."""
        rows: tuple[RetentionRow, ...] = ()
        doomed: list[int] = []

        def draft() -> Draft | None:
            nonlocal rows
            rows = self._plan(self._tracked)
            doomed[:] = [self._tracked.state.get(row.name)[0].sequence for row in rows if not row.keep]
            return Draft("cleanup", {}, doomed) if doomed else None

        self._tracked.change(draft, dry_run=dry_run)
        return rows, doomed

    def _plan(self, tracked: TrackedStream[Records]) -> tuple[RetentionRow, ...]:
        now = datetime.now(UTC)
        behind = clocks_behind(tracked.events, now)
        committed = list(tracked.state.by_name.values())
        spared = {backup.name: behind[event.sequence] for event, backup in committed if event.sequence in behind}
        spared |= {backup.name: "its record is broken" for _, backup in committed if backup.broken is not None}
        rows = self.retention.plan([backup for _, backup in committed if backup.name not in spared], now)
        last = committed[-1][1].name if committed else None
        return (
            *(RetentionRow(row.name, True, ("latest",)) if row.name == last and not row.keep else row for row in rows),
            *(RetentionRow(name, True, (reason,)) for name, reason in spared.items()),
        )

    # --- inside -----------------------------------------------------------------------------------------------

    def _sources(self, include_directories: bool = True) -> list[Source]:
        return [*self.databases, *(map(self._without_repository, self.directories) if include_directories else ())]

    def _without_repository(self, directory: Directory) -> Directory:
        """The same, but for the repository, where that lies in it: a backup that holds itself would never end."""
        inside = self._repository_in(Path(directory.path))
        if inside is None:
            return directory
        pattern = "/" + re.sub(r"([\\*?\[!#\s])", r"\\\1", inside)
        return dataclasses.replace(directory, excludes=(*directory.excludes, pattern))

    def _keep_repository(self, directory: Directory) -> None:
        """Refuse to put another directory in the place of the one in which the repository lies."""
        if self._repository_in(Path(directory.path)) is not None:
            raise InvalidArgument(
                f"the repository {self.repository.url} lies in {directory.path}, which cannot be swapped as a whole: "
                "restore to another place, or in_place=True, or only some paths of it"
            )

    def _repository_in(self, folder: Path) -> str | None:
        """Where in a folder the repository lies; None when it lies elsewhere."""
        if not self.repository.location.is_local:
            return None
        place = Path(os.path.realpath(self.repository.url.removeprefix("file://")))
        root = Path(os.path.realpath(folder))
        return place.relative_to(root).as_posix() if place.is_relative_to(root) and place != root else None

    def _open(self) -> TrackedStream[Records]:
        return TrackedStream(self.repository, KIND, self.name, Records())

    @property
    def _tracked(self) -> TrackedStream[Records]:
        with self._lock:
            if self._opened is None:
                self._opened = self._open()
            return self._opened

    def _sound(self, name: str) -> tuple[Event, Backup]:
        """The event and the record of a backup that can be read."""
        event, backup = self._tracked.refresh().get(name)
        if backup.broken is not None:
            raise DamagedVersion(self._label(backup), "", backup.broken)
        return event, backup

    def _archive(self, event: Event, backup: Backup, tracked: TrackedStream[Records] | None = None) -> Archive:
        with (tracked or self._tracked).reading(event, self._label(backup)) as content:
            return Archive(content, self._label(backup))

    def _previous(self, sources: Sequence[Source], tracked: TrackedStream[Records]) -> list[Archive]:
        """The last backup of each source, the newest first, as far as they can be read."""
        wanted = {source.name for source in sources}
        found = []
        for event, backup in reversed(tracked.view.by_name.values()):
            there = wanted & set(backup.part_names)
            if there:
                wanted -= there
                try:
                    found.append(self._archive(event, backup, tracked))
                except IntegrityError as error:
                    logger.warning("all files are read, because %s cannot be: %s", self._label(backup), error)
            if not wanted:
                break
        return found

    def _label(self, backup: Backup) -> str:
        return f"backup {backup.name!r} of {self.name!r}"

    def _salvaged(self) -> list[Backup]:
        """The backups of a stream with damaged events, in order; a broken one for each of those events."""
        slots = scan_stream(self.repository.parts(), KIND, self.name)
        records, broken = Records(), []
        for sequence in range(1, slots.head + 1):
            event = slots.rescued.get(sequence) or slots.events.get(sequence)
            if event is None or (sequence in slots.damaged and sequence not in slots.rescued):
                broken.append(broken_record(sequence, slots.damaged[sequence]))
            else:
                records.apply(event)
        return [*broken, *(backup for _, backup in records.by_name.values())]

    def __repr__(self) -> str:
        return f"BackupManager({self.repository.url}, name={self.name!r})"

    def __reduce__(self) -> tuple[Callable[..., BackupManager], tuple[Any, ...]]:
        options = {
            "name": self.name,
            "databases": self.databases,
            "directories": self.directories,
            "retention": self.retention,
        }
        return _restore, (self.repository, options)


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What `restore_backup` did: of which backup, which parts, and the backup that was made before, if any."""

    name: str
    restored: tuple[str, ...]
    safety_backup: str | None = None


@dataclass(frozen=True, slots=True)
class _Job:
    """One part that is to be restored."""

    part: PartRecord
    target: Source
    only: tuple[str, ...]

    def restore(self, content: Archive, in_place: bool) -> None:
        part = content.part(self.part.name)
        if not isinstance(self.target, Directory):
            self.target.restore(part, self.only)
            return
        restore_directory(part, self.target.path, only=self.only, in_place=in_place)


@contextlib.contextmanager
def safe_experiment(manager: BackupManager, description: str = "Before an experiment") -> Iterator[Backup]:
    """Back up first, and restore if the block raises. The exception goes on.

    While the block runs, the backup is permanent, so that nothing in the block lets it go.

    Arguments:
        manager: of what is experimented with.
        description: of the backup.

    Example:
        >>> import pathlib, tempfile
        >>> from prefect_snapshots import BackupManager, safe_experiment
        >>> folder = pathlib.Path(tempfile.mkdtemp()) / "data"
        >>> folder.mkdir()
        >>> manager = BackupManager("memory://example-experiment", directories=[folder])
        >>> try:
        ...     with safe_experiment(manager):
        ...         _ = (folder / "result.txt").write_text("wrong")
        ...         raise ValueError("the experiment failed")
        ... except ValueError:
        ...     list(folder.iterdir())
        []
    """
    backup = manager.create_backup(description, permanent=True)
    try:
        yield backup
    except BaseException:
        manager.restore_backup(backup.name, confirm=True)
        manager.mark_permanent(backup.name, False)
        raise
    manager.mark_permanent(backup.name, False)


def list_names(repository: RepositoryLike) -> list[str]:
    """The names under which a repository keeps backups, sorted."""
    return as_repository(repository).names(KIND)


def _as_database(database: Any) -> Database:
    return open_database(database) if isinstance(database, str) else database


def _part(backup: Backup, source: str | Source) -> str:
    """The name of the part of a backup that came from a source."""
    return backup.part(source if isinstance(source, str) else source.name).name


def _as_directory(directory: Any) -> Directory:
    return directory if isinstance(directory, Directory) else Directory(directory)


def _counting(progress: Progress | None, what: str, total: int) -> Callable[[int], None]:
    """Something that is told of bytes as they pass, and tells how many there were."""
    say, done = progress or silent, 0

    def passed(size: int) -> None:
        nonlocal done
        done += size
        say(what, done, total)

    return passed


def _text(value: str, what: str) -> str:
    if not isinstance(value, str):
        raise InvalidArgument(f"a {what} is a text, not {type(value).__name__}")
    clean_metadata({what: value})
    return value


def _verify(content: Archive, names: Sequence[str], passed: Callable[[int], None]) -> None:
    """Read and verify these parts of a backup."""
    if len(names) == len(content.parts):
        content.verify(passed)
        return
    for part in map(content.part, names):
        if damaged := part.damaged():
            raise DamagedVersion(content.label, f"{part.name}: {damaged}", "it cannot be verified")
        passed(part.stored)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _restore(repository: Repository, options: dict[str, Any]) -> BackupManager:
    return BackupManager(repository, **options)
