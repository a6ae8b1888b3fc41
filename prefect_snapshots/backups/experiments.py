"""Try something with data that is backed up, and get the data back if it fails."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from .manager import BackupManager
from .records import Backup


@contextlib.contextmanager
def safe_experiment(manager: BackupManager, description: str = "Before an experiment") -> Iterator[Backup]:
    """Back up first, and restore if the block raises. The exception goes on.

    While the block runs, the backup is pinned, so that nothing in the block deletes it.

    Args:
        manager: The manager of the databases and directories that you experiment with.
        description: The description of the backup.

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
        manager.unpin(backup.name)
        raise
    manager.unpin(backup.name)
