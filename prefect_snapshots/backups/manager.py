"""BackupManager: everything that you can do with backups of databases and directories.

A backup is one event in the stream of kind "backups" with one content, so it is committed completely or not at all.
Deleting only marks it in the stream: a prune of the repository frees the space. Each method is implemented in a
separate module: `making`, `history` (listing), `browsing`, `restores`, `drills`, `changing` (pins, retention) and
`export`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ..arguments import checking_types
from ..errors import BackupFailed, ConfirmationRequired, InvalidArgument, NotProven, SnapshotsError
from ..messages import logger
from ..repository.choosing import RepositoryLike, as_repository
from ..repository.contents import StagedPart
from ..repository.metadata import clean_metadata
from ..repository.names import check_name
from ..repository.progress import Progress, silent
from ..repository.provenance import note_input
from ..repository.repository import Repository
from ..repository.staged_parts import Parts
from ..retention import CleanupReport, RetentionPolicy
from ..trees.scanning import Directory
from . import browsing, changing, restores
from .browsing import BackupDiff, FileInfo
from .claims import Source, refuse_own_repository, without_claimed
from .databases import PostgreSQLCluster, is_pattern, open_databases
from .drills import DrillReport, drill, prover
from .export import write_tar
from .history import KIND, BackupHistory
from .hooks import NO_HOOKS, Hooks, around
from .journal import RestoreRecord
from .making import BackupRequest, check_request, checked_string, make, preview, stage
from .records import LATEST, Backup, FailedBackup
from .recoveries import clean_wal
from .restores import RestoreReport, RestoreRequest
from .single_files import Command, File, StandardInput
from .sources import Database, DatabaseServer, DropsAbandoned
from .staging import PlacedPart, prefix_of

DEFAULT_RETENTION = RetentionPolicy()


@checking_types
class BackupManager:
    """Back up databases and directories to a repository, and restore them.

    Args:
        repository: Where backups are stored: a `Repository`, a URL or a path.
        name: The name of this set of backups. Managers with different names can share a repository. It is the first
            part of the name of every backup. Default: "default".
        databases: What to back up: objects such as `SQLite("app.db")`, or URLs such as `"postgresql://localhost/app"`.
            `"postgresql://localhost/*"` means all databases of a server, and its roles or users.
        directories: What to back up: paths, or `Directory` objects with their own excludes.
        files: What to back up: paths of single files, or objects `File`, `Command` (the output of a command) and
            `StandardInput`. They count as databases where a method takes these and directories apart.
        retention: Which backups to keep. It is applied after every backup, and by `cleanup`.
        hooks: What to run before and after every backup and restore.

    Wherever a method takes the name of a backup to read, `"latest"` means the last one that you or a schedule made. The
    safety backup of a restore has to be named.

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
        >>> _ = manager.restore_backup("latest", confirm=True)
        >>> (folder / "loss.txt").read_text()
        '0.25'
    """

    def __init__(
        self,
        repository: RepositoryLike | None = None,
        *,
        name: str = "default",
        databases: Sequence[Database | DatabaseServer | str] = (),
        directories: Sequence[Directory | str | os.PathLike[str]] = (),
        files: Sequence[File | Command | StandardInput | str | os.PathLike[str]] = (),
        retention: RetentionPolicy = DEFAULT_RETENTION,
        hooks: Hooks = NO_HOOKS,
    ) -> None:
        self.repository = as_repository(repository)
        self.name = check_name(name)
        for what, given in {"databases": databases, "directories": directories, "files": files}.items():
            if isinstance(given, str | os.PathLike | Mapping):
                raise InvalidArgument(f"{what} must be a list, not {type(given).__name__}.")
        opened = [open_databases(database) if isinstance(database, str) else database for database in databases]
        self.servers = tuple(each for each in opened if isinstance(each, DatabaseServer))
        self.databases: tuple[Database, ...] = tuple(each for each in opened if not isinstance(each, DatabaseServer))
        self.directories = tuple(
            directory if isinstance(directory, Directory) else Directory(directory) for directory in directories
        )
        self.files = tuple(File(file) if isinstance(file, str | os.PathLike) else file for file in files)
        if not isinstance(retention, RetentionPolicy):
            raise InvalidArgument(
                f"retention must be a RetentionPolicy, such as RetentionPolicy(keep_daily=7), not {retention!r}."
            )
        self.retention = retention
        if not isinstance(hooks, Hooks):
            raise InvalidArgument(
                f'hooks must be Hooks, such as Hooks(before_backup=[["true"]]), not {type(hooks).__name__}.'
            )
        self.hooks = hooks
        self._history = BackupHistory(self.repository, self.name)
        sources: list[Source] = [*self.databases, *self.files, *self.directories]
        for source in sources:
            if not hasattr(source, "name"):
                raise InvalidArgument(
                    f"A source must be a database, a directory or a file, not {type(source).__name__}."
                )
        names = [checked_string(source.name, "name of a source") for source in sources]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InvalidArgument(
                f"Two sources are named {twice[0]!r}: a backup stores each under its name. Give one of them another "
                "name, as in Directory(PATH, name=NAME)."
            )
        self._sources()

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
        prove: bool = False,
        dry_run: bool = False,
        token: str | None = None,
        parts: Parts[PlacedPart] = (),
    ) -> Backup:
        """Back up all databases and directories. If one of them fails, nothing is committed.

        A failure is recorded in the repository: see `list_failed_backups`.

        Afterwards the retention policy is applied. If that fails, a warning is logged, and the new backup is not
        affected.

        Args:
            description: Why you make the backup. It becomes part of the name.
            permanent: Whether to pin the backup: retention never deletes it, and deleting it takes `force=True`.
            include_directories: Pass False for a quick backup of the databases alone.
            tags: Labels, which `keep_tags` of a retention policy can select.
            run: Facts about the run that makes the backup, as plain values.
            progress: Called with a label, the bytes done so far, and 0, because the total is unknown.
            prove: Whether to restore the backup into a temporary place right away, and compare. A backup that passes
                is marked as proven.
            dry_run: Whether to store nothing, and only return the backup that would be made. Databases are checked,
                and not read.
            token: From an earlier call that raised `CommitUnknown`. If that backup was committed, it is returned.
            parts: Parts that other processes have stored with `stage_backup`: for each, the place and the part. They
                become parts of this backup. Or a function that returns them: it is called with None for all parts, and
                with the numbers of some that have to be stored again. With `dry_run`, they do not count.

        Returns:
            The backup.

        Raises:
            BackupFailed: A source could not be read completely, or could not be restored from the backup, or a hook
                before the backup failed, or a part is not valid. The message names it. Nothing was committed.
            StagedPartsLost: A prune has freed some of `parts`. The error has their numbers. Nothing was committed.
            NotProven: The backup was made, but `prove` found that the restored data is not identical.
            ToolMissing: A program is not installed. The message names its package.
            CommitUnknown: The storage did not say whether the backup was committed.
            InvalidArgument: An argument has another type. This is not recorded as a failure.
        """
        # A wrong argument is a mistake in the calling code. It is no failed backup, and no hook has to know it.
        described = BackupRequest(
            sources=(), description=description, pinned=permanent, tags=tags, run=run, token=token, parts=parts
        )
        check_request(described)
        if dry_run:
            request = self._request(include_directories, description, permanent, tags, run, token, empty=bool(parts))
            return preview(self._history, request)
        # Hooks may start a server, and have to learn that it cannot be reached: so databases are listed between them.
        with self._recording_failure(run), around(self.hooks, "backup", self.name) as outcome:
            request = self._request(include_directories, description, permanent, tags, run, token, empty=bool(parts))
            request = dataclasses.replace(request, parts=parts)
            backup = make(self._history, request, _counting(progress, "backing up", 0))
            outcome.backup, outcome.incomplete = backup.name, backup.incomplete
        if prove:
            report = self.drill(backup.name, progress, run=run)
            if not report.ok:
                raise NotProven(backup.name, report.problems)
            backup = self.get_backup(backup.name)
        try:
            changing.expire(self._history, self.retention)
            self._clean_wal(backup)
        except Exception as error:  # whatever it is, the backup is made
            logger.warning("Backup %s was made, but its retention policy could not be applied: %r", backup.name, error)
        return dataclasses.replace(backup, failed_hooks=tuple(outcome.failed_hooks))

    def stage_backup(self, place: str, sources: Sequence[str] = (), progress: Progress | None = None) -> StagedPart:
        """Store databases and directories for a backup that another process commits. No backup appears yet.

        Call it on each machine that has some of the sources. What it returns is small and contains no secret: send it,
        with pickle or with `to_text`, to the process that calls `create_backup` with all of these as `parts`. Parts
        that no backup contains are freed by `prune`. Hooks are not run.

        Args:
            place: The name of this machine. The names of the parts begin with it, as in `db1::postgresql://...`. If it
                is empty, they are the names of the sources, as if the process that commits had stored them.
            sources: The names of the sources to store, or of the patterns. Default: all.
            progress: Called with a label, the bytes done so far, and 0, because the total is unknown.

        Returns:
            A value that says where the data is.

        Raises:
            BackupFailed: A source could not be read completely, or could not be restored from the backup.
            InvalidArgument: The manager has no source with one of these names.
            InvalidName: The place is not a valid name, or contains a colon.
            ToolMissing: A program is not installed. The message names its package.

        Example:
            >>> import pathlib, tempfile
            >>> from prefect_snapshots import BackupManager
            >>> folder = pathlib.Path(tempfile.mkdtemp()) / "logs"
            >>> folder.mkdir()
            >>> _ = (folder / "today.txt").write_text("all is well")
            >>> web1 = BackupManager("memory://example-parts", directories=[folder])  # on the machine web1
            >>> part = web1.stage_backup("web1")
            >>> manager = BackupManager("memory://example-parts")  # on any machine
            >>> backup = manager.create_backup("nightly", parts=[("web1", part)])
            >>> backup.part_names
            ['web1::logs']
        """
        request = self._request(True, "", False, (), None, None, only=sources)
        return stage(self._history, request, place, _counting(progress, "backing up", 0))

    def _request(
        self,
        include_directories: bool,
        description: str,
        pinned: bool,
        tags: Sequence[str],
        run: Mapping[str, Any] | None,
        token: str | None,
        *,
        only: Sequence[str] = (),
        empty: bool = False,
    ) -> BackupRequest:
        sources = self._sources(include_directories)
        known = {source.name for source in sources}
        servers = [server for server in self.servers if not only or server.name in only]
        if unknown := sorted({*only} - known - {server.name for server in servers}):
            raise InvalidArgument(
                f"The manager has no source named {unknown[0]!r}. It has: {', '.join(sorted(known))}."
            )
        # Of two patterns that match one database, the first counts. Roles come before the databases that they own.
        listed = {each.name: each for server in reversed(servers) for each in server.databases()}
        sources = [source for source in sources if not only or source.name in only]
        sources = [*sorted((each for each in listed.values() if each.name not in known), key=_name), *sources]
        if not sources and not empty:
            raise InvalidArgument(
                "There is nothing to back up. Give the manager databases=[...], directories=[...] or files=[...]. "
                "On the command line, pass --database, --directory or --file, or configure pyproject.toml."
            )
        return BackupRequest(sources=sources, description=description, pinned=pinned, tags=tags, run=run, token=token)

    # --- listing ----------------------------------------------------------------------------------------------

    def list_backups(self) -> list[Backup]:
        """Return all backups, newest first. A backup with a damaged record has the reason in `broken`."""
        return self._history.backups()

    def get_backup(self, name: str) -> Backup:
        """Return the record of a backup without reading its data.

        Args:
            name: The name of the backup, or "latest".

        Raises:
            BackupNotFound: There is no such backup. The message names similar ones.
        """
        return self._history.find(name)[1]

    def list_files(
        self, name: str, part: str | None = None, path: str = "", pattern: str | None = None
    ) -> list[FileInfo]:
        """Return the files, directories and links in a backup, sorted within each part. No file is read.

        Args:
            name: The name of the backup.
            part: The name of a part, or its last component. None: all parts.
            path: A path within the part. Only this file or directory, and everything below it, is listed.
            pattern: List only names that match, such as `*.csv`. A pattern with a slash is compared with the whole
                path.

        Example:
            >>> import pathlib, tempfile
            >>> from prefect_snapshots import BackupManager
            >>> folder = pathlib.Path(tempfile.mkdtemp()) / "data"
            >>> (folder / "in").mkdir(parents=True)
            >>> _ = (folder / "in" / "a.csv").write_text("1,2")
            >>> manager = BackupManager("memory://example-files", directories=[folder])
            >>> _ = manager.create_backup()
            >>> [(file.path, file.size) for file in manager.list_files("latest", pattern="*.csv")]
            [('in/a.csv', 3)]
            >>> b"".join(manager.open_file("latest", "data", "in/a.csv"))
            b'1,2'
        """
        with self._history.opened(name) as (backup, content):
            chosen = None if part is None else backup.part(part).name
            return browsing.list_files(content, chosen, path, pattern)

    def open_file(self, name: str, part: str, path: str) -> Iterator[memoryview]:
        """Yield the bytes of one file of a backup, in verified pieces of at most a few MB.

        Args:
            name: The name of the backup.
            part: The name of a part, or its last component.
            path: The path of the file within the part.

        Raises:
            InvalidArgument: There is no such file.
            DamagedVersion: The next piece of the file cannot be verified.
        """
        with self._history.opened(name) as (backup, content):
            yield from content.part(backup.part(part).name).open(path)

    def diff(self, old: str, new: str | None = None) -> BackupDiff:
        """Compare two backups: the files of directories, and the row counts of databases.

        Args:
            old: The name of a backup.
            new: The name of another backup. None: the latest.

        Returns:
            What was added, removed and changed, for each directory and database.
        """
        names = self.get_backup(old).name, self.get_backup(new or LATEST).name
        with self._history.opened(names[0]) as (_, before), self._history.opened(names[1]) as (_, after):
            return browsing.compare(before, after, names)

    def verify_backup(self, name: str, progress: Progress | None = None) -> Backup:
        """Read a whole backup and verify every byte.

        Args:
            name: The name of the backup.
            progress: Called with a label, the bytes verified so far, and the total.

        Returns:
            The record of the backup.

        Raises:
            DamagedVersion: The message names the backup and the damaged file.
        """
        with self._history.opened(name) as (backup, content):
            content.verify(_counting(progress, f"verifying {backup.name}", backup.size))
        return backup

    def export(self, name: str, path: str | os.PathLike[str], progress: Progress | None = None) -> Path:
        """Write a backup to a plain tar file, which other programs can read.

        It contains `metadata.json` and a folder for each part, with modes, times, owners, attributes and links. Holes
        of sparse files become zeros. The file appears only when it is complete.

        Args:
            name: The name of the backup.
            path: A file that does not exist yet. With the suffix `.zst` it is compressed.
            progress: Called with a label, the bytes written so far, and the total.

        Returns:
            The path.
        """
        with self._history.opened(name) as (backup, content):
            return write_tar(
                Path(os.path.expanduser(path)),
                backup,
                content,
                _counting(progress, f"exporting {backup.name}", backup.size),
            )

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
        *,
        keep_extra: bool = False,
        only_changed: bool = False,
        allow_privileges: bool = False,
        dry_run: bool = False,
        place: str = "",
    ) -> RestoreReport:
        """Restore databases and directories to the state in a backup. Anything that is not in the backup is deleted.

        Everything is verified and built beside its target before the first target changes. Then the targets are
        switched one after the other. Databases that can only be changed in place are backed up first, and put back if
        their restore fails. If the process is killed meanwhile, `resume_restore` finishes or undoes the restore.

        Args:
            name: The name of the backup, or "latest".
            confirm: Must be True, because this replaces data.
            include_directories, include_databases: Pass False to leave them unchanged.
            to: Other targets by source: a database or its URL, or a path. Name a source by its name, by the last
                component of it, such as `"app.db"`, or pass the object itself.
            only: Restore only these sources, and of each only these tables, collections or paths. An empty list means
                all of them.
            safety: Whether to make the safety backup. Pass False if nothing is left to back up.
            in_place: Whether a directory that cannot be switched as a whole, such as a mount point, may be restored
                file by file.
            progress: Called with a label of the current step, how much of it is done, and the total.
            keep_extra: Whether files that are not in the backup stay. Databases are always restored completely.
            only_changed: Whether files of directories that are identical already are not written again. Their bytes
                are read and compared by their hashes; only what they lack is read from the repository. A program that
                has such a file open keeps the restored file open.
            allow_privileges: Whether roles of a server may be created with privileges: SUPERUSER, CREATEROLE,
                REPLICATION, BYPASSRLS, memberships in roles that exist, and settings that a role cannot change for
                itself. Pass True only if you trust everybody who can write to the repository.
            dry_run: Whether to change nothing, and only return what would change. Needs no `confirm`.
            place: Restore only the parts that this place has staged, to the sources of this manager. Default: all.

        Returns:
            What was restored, and the name of the safety backup if there is one.

        Raises:
            ConfirmationRequired: You did not pass `confirm=True`. Nothing was changed.
            DamagedVersion: Stored data is damaged. Nothing was changed.
            PrivilegesRefused: The backup has roles with privileges, and you did not pass `allow_privileges=True`.
                Nothing was changed.
            RestoreRunning: Another restore is changing one of the targets. Nothing was changed.
            RestoreFailed: A part could not be restored. The message says which targets are restored, unchanged or only
                partly restored, and which command to run.

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
            prefect_snapshots.errors.ConfirmationRequired: Restoring ... replaces data. Nothing was changed. ...
        """
        for what, given in {"to": to, "only": only}.items():
            if not isinstance(given, Mapping | None):
                raise InvalidArgument(
                    f"{what}= must be a dictionary with the names of parts as keys, not {type(given).__name__}."
                )
        with self._history.opened(name) as (backup, content):
            if place and not only:
                only = dict.fromkeys(_parts_from(backup, place), ())
            request = RestoreRequest(
                include_directories=include_directories,
                include_databases=include_databases,
                to=_each_database(to or {}, backup),
                only=only or {},
                safety=safety,
                in_place=in_place,
                keep_extra=keep_extra,
                only_changed=only_changed,
                allow_privileges=allow_privileges,
            )
            jobs = restores.plan(backup, request, self._targets(backup, place))
            for job in jobs:
                if isinstance(job.target, Directory) and not (in_place or job.only):
                    refuse_own_repository(job.target, self.repository)
            if dry_run:
                return RestoreReport(backup.name, (), dry_run=True, changes=restores.changes(content, jobs, keep_extra))
            if confirm is not True:
                targets = ", ".join(job.target.name for job in jobs)
                raise ConfirmationRequired(
                    f"Restoring {backup.name} replaces {targets}. Nothing was changed. Pass confirm=True to do it."
                )
            with around(self.hooks, "restore", self.name, backup.name) as outcome:
                report = restores.restore(self._history, backup, content, jobs, request, progress or silent)
            note_input(self.repository, KIND, self.name, backup.name)
        return dataclasses.replace(report, failed_hooks=tuple(outcome.failed_hooks))

    def list_failed_backups(self) -> list[FailedBackup]:
        """Return the last backups that failed, newest first."""
        return self._history.failures()

    def record_failure(self, error: str, *, run: Mapping[str, Any] | None = None) -> None:
        """Record that a backup failed, so that reports show it. Does nothing if there is no repository yet.

        `create_backup` does this itself. Call it if you make backups in another way.

        Args:
            error: Why it failed, without secrets.
            run: Facts about the run, as plain values.

        Raises:
            SnapshotsError: The repository cannot be written to.
        """
        self._history.record_failure(checked_string(error, "error"), None if run is None else clean_metadata(run))

    def list_interrupted_restores(self) -> list[RestoreRecord]:
        """Return the restores that were killed or failed while they changed targets, oldest first.

        Each record contains the state of every part. A restore that is running on another machine is listed, too: see
        its `host`.
        """
        return restores.interrupted(self._history)

    def resume_restore(
        self,
        undo: bool = False,
        dismiss: bool = False,
        to: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
        *,
        allow_privileges: bool = False,
        dry_run: bool = False,
    ) -> list[RestoreReport]:
        """Finish interrupted restores: restore every part that is not new yet. Or undo them.

        Args:
            undo: Whether to undo them instead, by restoring the safety backup. This is possible only for databases
                that are changed in place.
            dismiss: Whether to leave all targets as they are, and only close the records of these restores.
            to: The targets, by the names of the parts. Default: the manager's sources. You must pass a target that is
                not a source of the manager.
            progress, allow_privileges: As for `restore_backup`.
            dry_run: Whether to change nothing, and only find all targets.

        Returns:
            One report for each interrupted restore. With `dismiss` or `dry_run`, an empty list.

        Raises:
            InvalidArgument: A target is neither a source of the manager nor in `to`. No restore was continued.
            RestoreFailed: As for `restore_backup`; or a restore cannot be undone.
        """
        if undo and dismiss:
            raise InvalidArgument("Pass undo=True or dismiss=True, not both.")
        say = progress or silent
        records = self.list_interrupted_restores()
        if dismiss:
            for record in () if dry_run else records:
                restores.end(self._history, record)
            return []
        # All targets are found before the first restore goes on: otherwise a mistake in the last one is met too late.
        find, proceed = (restores.to_undo, restores.undo) if undo else (restores.to_finish, restores.finish)
        found = []
        for record in records:
            own = self._by_name([part.target for part in record.parts])
            found.append((record, find(self._history, record, own, to or {})))
        request = RestoreRequest(to={}, only={}, allow_privileges=allow_privileges)
        reports: list[RestoreReport] = []
        for record, jobs in () if dry_run else found:
            with around(self.hooks, "restore", self.name, record.backup) as outcome:
                report = proceed(self._history, record, jobs, request, say)
            reports.append(dataclasses.replace(report, failed_hooks=tuple(outcome.failed_hooks)))
        return reports

    def drill(
        self,
        name: str = LATEST,
        progress: Progress | None = None,
        *,
        run: Mapping[str, Any] | None = None,
        place: str = "",
        elsewhere: Sequence[DrillReport] = (),
    ) -> DrillReport:
        """Prove a backup: restore it into a temporary place and compare. Your databases and directories do not change.

        Each database is restored into an empty one beside it, which is deleted afterwards. Its rows are counted, and
        their checksums compared if its kind supports that. Each directory is restored into a temporary one, and every
        file is compared. If everything is identical, the backup is marked as proven, unless the repository is
        read-only.

        Args:
            name: The name of the backup. Default: the latest.
            progress: Called with a label, the number of parts done, and the total.
            run: Facts about the run that drills, as plain values.
            place: Only try the parts that this place has staged, with the sources of this manager. The backup is marked
                as proven only if these are all of its parts. Default: all parts.
            elsewhere: What drills of some parts of this backup have returned on other machines. These parts are not
                tried again, and count as tried.

        Returns:
            The result for each part.

        Raises:
            BackupNotFound: There is no such backup.
            InvalidArgument: The backup has no part from this place, or `elsewhere` is about another backup.
        """
        if run is not None:
            clean_metadata(run)  # refuses what is no dictionary before the work, and not after it
        with self._history.opened(name) as (backup, content):
            tried = {row.part: row for report in elsewhere for row in report.rows}
            others = {report.name for report in elsewhere} - {backup.name}
            if others or not tried.keys() <= {*backup.part_names}:
                raise InvalidArgument(
                    f"What was tried elsewhere must be parts of backup {backup.name!r}: pass what drill(name) has "
                    "returned there for the same name."
                )
            wanted = _parts_from(backup, place) if place else backup.part_names
            here = dataclasses.replace(backup, parts=tuple(backup.part(each) for each in wanted if each not in tried))
            report = drill(here, content, self._targets(backup, place), progress or silent)
            tried |= {row.part: row for row in report.rows}
            report = dataclasses.replace(report, rows=tuple(tried[each] for each in backup.part_names if each in tried))
        if report.ok and len(report.rows) == len(backup.parts) and not self.repository.read_only:
            try:
                changing.annotate(self._history, backup.name, proven_by=prover(run))
            except SnapshotsError as error:  # credentials that may only read are enough for a drill
                logger.warning(
                    "%s was restored and is identical, but cannot be marked as proven: %s", backup.name, error
                )
        return report

    # --- changing and deleting --------------------------------------------------------------------------------

    def pin(self, name: str) -> Backup:
        """Exempt a backup from retention. Deleting it then takes `force=True`. Pinning it twice changes nothing.

        Args:
            name: The name of the backup.

        Returns:
            The backup.

        Raises:
            BackupNotFound: There is no such backup. The message names similar ones.
        """
        return self._pinned(name, True)

    def unpin(self, name: str) -> Backup:
        """Allow retention to delete a backup again.

        Args:
            name: The name of the backup.

        Returns:
            The backup.

        Raises:
            BackupNotFound: There is no such backup. The message names similar ones.
        """
        return self._pinned(name, False)

    def edit_backup(self, name: str, description: str | None = None, tags: Sequence[str] | None = None) -> Backup:
        """Change the description or the tags of a backup. Its name and data do not change.

        Args:
            name: The name of the backup.
            description: The new description. None: do not change it.
            tags: The new tags, which replace the old ones. None: do not change them.

        Returns:
            The backup.
        """
        return changing.edit(self._history, name, description, tags)

    def delete_backup(self, name: str, force: bool = False) -> None:
        """Delete one backup. The next `cleanup`, or a prune of the repository, frees its space.

        Args:
            name: The full name of the backup; "latest" is not accepted.
            force: Whether to delete it even if it is pinned or its record cannot be read.

        Raises:
            BackupNotFound: There is no such backup. The message names similar ones. Nothing was deleted.
            Pinned: It is pinned, or its record cannot be read. Nothing was deleted.
        """
        changing.delete(self._history, name, force)

    def cleanup(
        self,
        policy: RetentionPolicy | None = None,
        dry_run: bool = False,
        prune: bool = True,
        progress: Progress | None = None,
    ) -> CleanupReport:
        """Delete backups that the retention policy does not keep, and reclaim their space.

        It also drops scratch databases that killed drills have left on the servers of the manager's databases.

        These are never deleted: pinned backups, the last committed one, the last proven one, those with a broken
        record, those whose clock was wrong by a day or more, and the safety backup of an interrupted restore. The
        policy is applied to safety backups separately.

        Args:
            policy: Which backups to keep. None: the manager's retention policy.
            dry_run: Whether to delete nothing, and only return what would be deleted.
            prune: Whether to reclaim the space. Pass False if this process may not delete objects.
            progress: Called with a label, how much of the prune is done, and the total.

        Returns:
            A row for each backup, and the number of bytes freed.
        """
        if policy is not None and not isinstance(policy, RetentionPolicy):
            raise InvalidArgument(f"policy must be a RetentionPolicy, not {type(policy).__name__}.")
        if not dry_run:
            self._drop_abandoned()
        return changing.clean_up(
            self._history, policy or self.retention, dry_run=dry_run, prune=prune, progress=progress
        )

    # --- helpers ----------------------------------------------------------------------------------------------

    def _clean_wal(self, backup: Backup) -> None:
        """Delete the WAL that no base backup needs any more, if a backup contains one."""
        if any(part.kind == PostgreSQLCluster.kind for part in backup.parts):
            clean_wal(self.repository)

    def _drop_abandoned(self) -> None:
        places: list[Database | DatabaseServer] = [*self.databases, *self.servers]
        for database in places:
            if isinstance(database, DropsAbandoned):
                try:
                    dropped = database.drop_abandoned()
                except BackupFailed as error:  # a server that is away is no reason to keep backups
                    logger.warning(
                        "Databases that killed drills left beside %s could not be dropped: %s", database.name, error
                    )
                else:
                    if dropped:
                        logger.info(
                            "Dropped databases that killed drills had left beside %s: %s", database.name, dropped
                        )

    @contextlib.contextmanager
    def _recording_failure(self, run: Mapping[str, Any] | None) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            try:
                self.record_failure(f"{type(error).__name__}: {error}", run=run)
            except Exception as unrecorded:  # the repository may be what has failed
                logger.warning("That no backup was made could not be recorded: %s", unrecorded)
            raise

    def _pinned(self, name: str, pinned: bool) -> Backup:
        backup = self.get_backup(name)
        return backup if backup.pinned is pinned else changing.annotate(self._history, backup.name, pinned=pinned)

    def _sources(self, include_directories: bool = True) -> list[Source]:
        streams = [*self.databases, *self.files]
        directories = without_claimed(self.directories, streams, self.repository)
        return [*streams, *(directories if include_directories else ())]

    def _targets(self, backup: Backup, place: str) -> dict[str, Source]:
        """The sources by the names of the parts of a backup that were staged at a place, or were not staged."""
        if not place:
            return self._by_name(backup.part_names)
        prefix = prefix_of(place)
        own = [part.removeprefix(prefix) for part in _parts_from(backup, place)]
        return {prefix + name: source for name, source in self._by_name(own).items()}

    def _by_name(self, parts: Sequence[str]) -> dict[str, Source]:
        """The sources by name, with those of these parts that come from a server. They need not exist any more."""
        of_servers: dict[str, Source] = {}
        for part in parts:
            for server in self.servers:
                # A forged name may be one that no database can have: then this part has no target.
                with contextlib.suppress(InvalidArgument):
                    if server.covers(part):
                        of_servers[part] = server.named(unquote(part.rpartition("/")[2]))
        return {**of_servers, **{source.name: source for source in self._sources()}}

    def __repr__(self) -> str:
        return f"BackupManager({self.repository.url}, name={self.name!r})"

    def __reduce__(self) -> tuple[Callable[..., BackupManager], tuple[Any, ...]]:
        options = {
            "name": self.name,
            "databases": (*self.databases, *self.servers),
            "directories": self.directories,
            "files": self.files,
            "retention": self.retention,
            "hooks": self.hooks,
        }
        return _restore, (self.repository, options)


def list_names(repository: RepositoryLike) -> list[str]:
    """Return the names of all managers that have backups in a repository, sorted."""
    return as_repository(repository).names(KIND)


def _parts_from(backup: Backup, place: str) -> list[str]:
    """Return the names of the parts that were staged at a place.

    Raises:
        InvalidArgument: There is none.
    """
    prefix = prefix_of(place)
    found = [name for name in backup.part_names if name.startswith(prefix)]
    if not found:
        names = ", ".join(backup.part_names) or "none"
        raise InvalidArgument(f"Backup {backup.name!r} has no part from {place!r}. Its parts are: {names}.")
    return found


def _name(source: Source) -> str:
    return source.name


def _each_database(to: Mapping[Any, Any], backup: Backup) -> dict[Any, Any]:
    """Return targets in which a whole server as the target of a pattern is each of its databases.

    Raises:
        InvalidArgument: No part of the backup matches the pattern.
    """
    targets: dict[Any, Any] = {}
    for source, target in to.items():
        server = open_databases(target) if isinstance(target, str) and is_pattern(target) else target
        if not isinstance(server, DatabaseServer):
            targets[source] = target
            continue
        origin = open_databases(source) if isinstance(source, str) and is_pattern(source) else source
        pattern = source if isinstance(source, str) else source.name
        matches = origin.covers if isinstance(origin, DatabaseServer) else pattern.__eq__
        found = [part for part in backup.part_names if matches(part)]
        if not found:
            raise InvalidArgument(
                f"No part of backup {backup.name!r} matches {pattern!r}. It has: {backup.part_names}."
            )
        targets |= {part: server.named(unquote(part.rpartition("/")[2])) for part in found}
    return targets


def _counting(progress: Progress | None, what: str, total: int) -> Callable[[int], None]:
    return restores.counting(progress or silent, what, total)


def _restore(repository: Repository, options: dict[str, Any]) -> BackupManager:
    return BackupManager(repository, **options)
