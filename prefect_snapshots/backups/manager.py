"""BackupManager: everything that you can do with backups of databases and directories.

A backup is one event in the stream of kind "backups" with one content, so it is there whole or not at all. Deleting
only marks it in the stream: a prune of the repository frees the space. What each method does is in a module of its own:
`making`, `history` (listing), `browsing`, `restores`, `drills`, `changing` (pins, retention) and `export`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import BackupFailed, ConfirmationRequired, InvalidArgument, NotProven, SnapshotsError
from ..repository.choosing import RepositoryLike, as_repository
from ..repository.names import check_name
from ..repository.progress import Progress, silent
from ..repository.repository import Repository
from ..retention import CleanupReport, RetentionPolicy
from ..trees.scanning import Directory
from . import browsing, changing, restores
from .browsing import BackupDiff, FileInfo
from .claims import Source, refuse_own_repository, without_claimed
from .databases import open_database
from .drills import DrillReport, drill, prover
from .export import write_tar
from .history import KIND, History
from .journal import RestoreRecord
from .making import BackupRequest, checked_string, make, preview
from .records import LATEST, Backup
from .restores import RestoreReport, RestoreRequest
from .sources import Database, DropsAbandoned

DEFAULT_RETENTION = RetentionPolicy()

logger = logging.getLogger("prefect_snapshots")


class BackupManager:
    """Back up databases and directories to a repository, and restore them.

    Args:
        repository: Where backups are stored: a `Repository`, a URL or a path.
        name: Separates managers that share a repository. It is the first part of the name of every backup.
        databases: What to back up: objects such as `SQLite("app.db")`, or URLs such as `"postgresql://localhost/app"`.
        directories: What to back up: paths, or `Directory` objects with their own excludes.
        retention: Which backups to keep. It is applied after every backup, and by `cleanup`.

    Wherever a method takes the name of a backup to read, `"latest"` stands for the one that was made last.

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
        databases: Sequence[Database | str] = (),
        directories: Sequence[Directory | str | os.PathLike[str]] = (),
        retention: RetentionPolicy = DEFAULT_RETENTION,
    ) -> None:
        self.repository = as_repository(repository)
        self.name = check_name(name)
        self.databases: tuple[Database, ...] = tuple(
            open_database(database) if isinstance(database, str) else database for database in databases
        )
        self.directories = tuple(
            directory if isinstance(directory, Directory) else Directory(directory) for directory in directories
        )
        self.retention = retention
        self._history = History(self.repository, self.name)
        sources: list[Source] = [*self.databases, *self.directories]
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
    ) -> Backup:
        """Back up all databases and directories: all of them, or nothing at all.

        Then the retention policy is applied. If that fails, it is logged, and the new backup is not affected.

        Args:
            description: Why you make it. It becomes a part of the name.
            permanent: Whether to pin the backup: retention never deletes it, and deleting it takes `force=True`.
            include_directories: Pass False for a quick backup of the databases alone.
            tags: What `keep_tags` of a retention policy looks at.
            run: What is known of the run that makes it, in plain values.
            progress: Called with the bytes that are done, and 0 for the total, which nobody knows.
            prove: Whether to restore the backup into a scratch place at once, and compare. A backup that passes is
                marked as proven.
            dry_run: Whether to store nothing, and only return what the backup would be. Databases are only looked at.
            token: From an earlier call that raised `CommitUnknown`. If that backup was committed, it is returned.

        Returns:
            The backup.

        Raises:
            BackupFailed: A source could not be read whole, or could not be restored from the backup. The message names
                it. Nothing was committed.
            NotProven: The backup is made, and `prove` found that it does not come back identical.
            ToolMissing: The message names the program to install.
            CommitUnknown: The storage did not say whether the backup was committed.
        """
        sources = self._sources(include_directories)
        if not sources:
            raise InvalidArgument("There is nothing to back up. Give the manager databases=[...] or directories=[...].")
        request = BackupRequest(
            sources=sources, description=description, pinned=permanent, tags=tags, run=run, token=token
        )
        if dry_run:
            return preview(self._history, request)
        backup = make(self._history, request, _counting(progress, "backing up", 0))
        if prove:
            report = self.drill(backup.name, progress, run=run)
            if not report.ok:
                raise NotProven(backup.name, report.problems)
            backup = self.get_backup(backup.name)
        try:
            changing.expire(self._history, self.retention)
        except Exception:  # whatever it is, the backup is made
            logger.warning("Backup %s is made, but retention failed.", backup.name, exc_info=True)
        return backup

    # --- listing ----------------------------------------------------------------------------------------------

    def list_backups(self) -> list[Backup]:
        """Return all backups, newest first. One whose record is damaged is listed, with the reason in `broken`."""
        return self._history.backups()

    def get_backup(self, name: str) -> Backup:
        """Return what is known of a backup, without reading it.

        Raises:
            BackupNotFound: There is none. The message names similar ones.
        """
        return self._history.find(name)[1]

    def list_files(
        self, name: str, part: str | None = None, path: str = "", pattern: str | None = None
    ) -> list[FileInfo]:
        """Return the files, directories and links in a backup, sorted within each part. No file is read.

        Args:
            name: The name of the backup.
            part: The name of a part, or its last component. None: all parts.
            path: A file or a directory within the part: it, and everything below it.
            pattern: As in `*.csv`: only what matches. A pattern with a slash is compared with the whole path.

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
        """Yield the bytes of one file of a backup, in pieces of up to some MB. Each of them is verified.

        Args:
            name: The name of the backup.
            part: The name of a part, or its last component.
            path: The path of the file within the part.

        Raises:
            InvalidArgument: There is no such file.
            DamagedVersion: The file cannot be verified from there on.
        """
        with self._history.opened(name) as (backup, content):
            yield from content.part(backup.part(part).name).open(path)

    def diff(self, old: str, new: str | None = None) -> BackupDiff:
        """Return what differs between two backups: files of directories, and counts of databases.

        Args:
            old: The name of a backup.
            new: The name of another one. None: the latest.
        """
        names = self.get_backup(old).name, self.get_backup(new or LATEST).name
        with self._history.opened(names[0]) as (_, before), self._history.opened(names[1]) as (_, after):
            return browsing.compare(before, after, names)

    def verify_backup(self, name: str, progress: Progress | None = None) -> Backup:
        """Read a whole backup, and verify every byte.

        Raises:
            DamagedVersion: The message names the backup and the file that is damaged.
        """
        with self._history.opened(name) as (backup, content):
            content.verify(_counting(progress, f"verifying {backup.name}", backup.size))
        return backup

    def export(self, name: str, path: str | os.PathLike[str], progress: Progress | None = None) -> Path:
        """Write a backup to a tar file, which any other program can read.

        It holds `metadata.json`, and a folder for each part, with modes, times, owners, attributes and links. The
        holes of sparse files become zeros. The file appears when it is complete.

        Args:
            name: The name of the backup.
            path: A file that does not exist yet. With the suffix `.zst` it is compressed.
            progress: Called with the bytes that are written.

        Returns:
            The path.
        """
        with self._history.opened(name) as (backup, content):
            return write_tar(Path(path), backup, content, _counting(progress, f"exporting {backup.name}", backup.size))

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
        dry_run: bool = False,
    ) -> RestoreReport:
        """Restore databases and directories to the state in a backup. Anything that is not in the backup is deleted.

        Everything is verified, and built beside its target, before the first target changes. Then one part after the
        other is put in its place. Databases that can only be changed in place are backed up first, and put back if
        their restore fails. If the process is killed meanwhile, `resume_restore` finishes the restore or takes it back.

        Args:
            name: The name of the backup, or "latest".
            confirm: Must be True: this replaces data.
            include_directories, include_databases: Pass False to leave them alone.
            to: Other targets by source: a database or its URL, or a path. Name a source by its name, by the last
                component of it, such as `"app.db"`, or pass the object itself.
            only: Restore these sources alone, and of each these tables, collections or paths; an empty list: all of it.
            safety: Whether to make the safety backup. Pass False if nothing is left that could be backed up.
            in_place: Whether a directory that cannot be switched as a whole, such as a mount point, may be restored
                file by file.
            progress: Called with what is done, how much of it, and how much there is.
            keep_extra: Whether files stay that the backup does not hold. Databases are always restored as a whole.
            dry_run: Whether to change nothing, and only return what would change. Needs no `confirm`.

        Returns:
            What was restored, and the name of the safety backup, if there is one.

        Raises:
            ConfirmationRequired: You did not confirm it. Nothing was changed.
            DamagedVersion: Stored bytes are damaged. Nothing was changed.
            RestoreFailed: A part could not be restored. The message says which targets are new, old or mixed, and
                which command mends it.

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
            prefect_snapshots.errors.ConfirmationRequired: Restoring ... replaces ...: pass confirm=True
        """
        request = RestoreRequest(
            include_directories=include_directories,
            include_databases=include_databases,
            to=to or {},
            only=only or {},
            safety=safety,
            in_place=in_place,
            keep_extra=keep_extra,
        )
        with self._history.opened(name) as (backup, content):
            jobs = restores.plan(backup, request, self._by_name())
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
            return restores.restore(self._history, backup, content, jobs, request, progress or silent)

    def list_interrupted_restores(self) -> list[RestoreRecord]:
        """Return the restores that were cut off while targets changed, oldest first: by a kill, or by a failure.

        Each says which parts are new, old or mixed. A restore that runs on another machine right now is listed, too:
        its `host` says where.
        """
        return restores.interrupted(self._history)

    def resume_restore(
        self,
        undo: bool = False,
        dismiss: bool = False,
        to: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> list[RestoreReport]:
        """Finish the restores that were interrupted: restore again what is not new. Or take them back.

        Args:
            undo: Whether to take them back instead: put back the safety backup. This is possible only for databases
                that are changed in place.
            dismiss: Whether to leave all targets as they are, and to forget that these restores did not end.
            to: The targets, by the names of the parts. Default: the manager's sources, and the places that the
                interrupted restores went to. A database on a server that is not a source has to be given.
            progress: As for `restore_backup`.

        Returns:
            What was restored, one report for each interrupted restore.

        Raises:
            RestoreFailed: As for `restore_backup`; or a restore cannot be taken back.
        """
        if undo and dismiss:
            raise InvalidArgument("Pass undo=True or dismiss=True, not both.")
        say = progress or silent
        reports = []
        for record in self.list_interrupted_restores():
            if dismiss:
                restores.end(self._history, record)
            elif undo:
                reports.append(restores.undo(self._history, record, self._by_name(), to or {}, say))
            else:
                reports.append(restores.finish(self._history, record, self._by_name(), to or {}, say))
        return reports

    def drill(
        self, name: str = LATEST, progress: Progress | None = None, *, run: Mapping[str, Any] | None = None
    ) -> DrillReport:
        """Restore a backup into a scratch place and compare, without touching what runs.

        Each database is restored into an empty one beside it, which is deleted again. Its rows are counted, and their
        checksums compared if its kind has them. Each directory is restored into a temporary one, where every file is
        compared. A backup that comes back identical is marked as proven, unless the repository is read-only.

        Args:
            name: The name of the backup. Default: the latest.
            progress: Called with how many parts are done.
            run: What is known of the run that drills, in plain values.

        Returns:
            What was found about each part.

        Raises:
            BackupNotFound: There is none.
        """
        with self._history.opened(name) as (backup, content):
            report = drill(backup, content, self._by_name(), progress or silent)
        if report.ok and not self.repository.read_only:
            try:
                changing.annotate(self._history, backup.name, proven_by=prover(run))
            except SnapshotsError:  # credentials that may only read are enough for a drill
                logger.warning("%s came back identical, but cannot be marked as proven.", backup.name, exc_info=True)
        return report

    # --- changing and deleting --------------------------------------------------------------------------------

    def pin(self, name: str) -> Backup:
        """Exempt a backup from retention. Deleting it takes `force=True` then. Pinning it twice changes nothing.

        Raises:
            BackupNotFound: There is none. The message names similar ones.
        """
        return self._pinned(name, True)

    def unpin(self, name: str) -> Backup:
        """Let retention delete a backup again. Returns the backup."""
        return self._pinned(name, False)

    def edit_backup(self, name: str, description: str | None = None, tags: Sequence[str] | None = None) -> Backup:
        """Change the description or the tags of a backup. Its name and what it holds stay.

        Args:
            name: The name of the backup.
            description: The new description. None: as it is.
            tags: All tags that it has from now on. None: as they are.

        Returns:
            The backup.
        """
        return changing.edit(self._history, name, description, tags)

    def delete_backup(self, name: str, force: bool = False) -> None:
        """Delete one backup. The next `cleanup`, or a prune of the repository, frees its space.

        Args:
            name: Its whole name.
            force: Whether to delete it even if it is pinned, or if its record cannot be read.

        Raises:
            BackupNotFound: There is none. The message names similar ones. Nothing was deleted.
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

        These always stay: pinned backups, the one that was committed last, the last one that is proven, those with a
        broken record, and those made by a clock that is a day or more wrong.

        Args:
            policy: What to keep. None: the manager's own policy.
            dry_run: Whether to delete nothing, and only return what would be deleted.
            prune: Whether to reclaim the space. Pass False if this process may not delete objects.
            progress: Called with how far the prune is.

        Returns:
            A row for each backup, and the bytes freed.
        """
        if not dry_run:
            self._drop_abandoned()
        return changing.clean_up(
            self._history, policy or self.retention, dry_run=dry_run, prune=prune, progress=progress
        )

    # --- helpers ----------------------------------------------------------------------------------------------

    def _drop_abandoned(self) -> None:
        for database in self.databases:
            if isinstance(database, DropsAbandoned):
                try:
                    dropped = database.drop_abandoned()
                except BackupFailed as error:  # a server that is away is no reason to keep backups
                    logger.warning("What killed drills have left beside %s stays: %s", database.name, error)
                else:
                    if dropped:
                        logger.info("Dropped what killed drills had left beside %s: %s", database.name, dropped)

    def _pinned(self, name: str, pinned: bool) -> Backup:
        backup = self.get_backup(name)
        return backup if backup.pinned is pinned else changing.annotate(self._history, backup.name, pinned=pinned)

    def _sources(self, include_directories: bool = True) -> list[Source]:
        directories = without_claimed(self.directories, self.databases, self.repository)
        return [*self.databases, *(directories if include_directories else ())]

    def _by_name(self) -> dict[str, Source]:
        return {source.name: source for source in self._sources()}

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


def list_names(repository: RepositoryLike) -> list[str]:
    """Return the names under which a repository has backups, sorted."""
    return as_repository(repository).names(KIND)


def _counting(progress: Progress | None, what: str, total: int) -> Callable[[int], None]:
    return restores.counting(progress or silent, what, total)


def _restore(repository: Repository, options: dict[str, Any]) -> BackupManager:
    return BackupManager(repository, **options)
