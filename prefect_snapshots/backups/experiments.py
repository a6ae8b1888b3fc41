"""Run an experiment on your data, and restore the data if the experiment fails."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from .manager import BackupManager
from .records import Backup


@contextlib.contextmanager
def safe_experiment(manager: BackupManager, description: str = "Before an experiment") -> Iterator[Backup]:
    """Make a backup first, and restore it if the block raises an exception. The exception is raised again.

    The backup is pinned while the block runs, so that nothing in the block deletes it.

    Args:
        manager: The manager of the databases and directories that you experiment with.
        description: The description of the backup.

    Yields:
        The backup.

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
