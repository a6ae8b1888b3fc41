"""BackupManager: make backups of databases and directories, list, verify, restore and export them, let old ones go.

A backup is one event in the stream of kind "backups" with one content, so that it is there whole or not at all. What
goes is only marked in the stream; the repository's prune frees the space.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from ..errors import (
    BackupNotFound,
    CommitUnknown,
    ConfirmationRequired,
    DamagedObject,
    DamagedVersion,
    IntegrityError,
    InvalidArgument,
    PermanentBackup,
    RestoreFailed,
)
from ..repository.catalog import Event, Stream
from ..repository.contents import Stored, Writer
from ..repository.maintenance import Progress
from ..repository.maintenance.progress import silent
from ..repository.metadata import clean_metadata
from ..repository.repository import Draft, Repository, RepositoryLike, as_repository, check_name
from . import archive, drills, export
from .archive import Archive
from .databases import open_database
from .records import Backup, Part, Records, backup_name, body_of, broken_record, clocks_behind, git_state, host
from .retention import RetentionPolicy, RetentionRow
from .sources import Database
from .trees import Directory

KIND = "backups"

Source = Database | Directory

logger = logging.getLogger("prefect_snapshots")


@dataclass(frozen=True, slots=True)
class CleanupReport:
    """What `cleanup` did, or with `dry_run` would do.

    Attributes:
        rows: what is said of each backup, newest first: its name, whether it stays, and for which reasons.
        removed: the names of those that go.
        freed: bytes that are free now.
        freed_later: bytes that a later prune frees, when their grace time is over.
    """

    rows: tuple[RetentionRow, ...]
    removed: tuple[str, ...]
    dry_run: bool
    freed: int = 0
    freed_later: int = 0


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
        retention: RetentionPolicy = RetentionPolicy(),
    ) -> None:
        self.repository = as_repository(repository)
        self.name = check_name(name)
        self.databases = tuple(map(_as_database, databases))
        self.directories = tuple(map(_as_directory, directories))
        self.retention = retention
        self._lock = threading.RLock()
        self._stream: Stream | None = None
        self._records = Records()
        names = [source.name for source in self._sources()]
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
            progress: called with the source, the bytes that are done, and 0, as nobody knows how many will come.
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
        except Exception:
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
        known = _token(token)
        started = time.monotonic()
        made = Backup(
            name="",
            description=clean_metadata({"": _text(description)})[""],
            created_at=datetime.now(UTC),
            permanent=permanent,
            tags=tuple(check_name(tag, "tag") for tag in dict.fromkeys(tags)),
            host=host(),
            git=git_state(source.path for source in sources if isinstance(source, Directory)),
            run=None if run is None else clean_metadata(run),
            versions={source.name: source.check() for source in sources if not isinstance(source, Directory)},
        )
        body = body_of(made)

        def draft() -> Draft:
            body["id"] = self._records.free_name(backup_name(self.name, made.created_at, description))
            return Draft("backup", body)

        def store(writer: Writer) -> Stored:
            stored, parts = archive.store(writer, sources, self._previous(sources), progress)
            body["parts"] = msgspec.to_builtins(parts)
            body["duration"] = round(time.monotonic() - started, 3)
            return stored

        with self._lock:
            event = self.repository.commit(self._following(), draft, store=store, token=known)
        assert event is not None
        return self._records.by_name[event.body["id"]][1]
