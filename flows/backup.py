"""Back up databases and directories, let old backups go, and check the repository: the entry points to deploy.

    python flows/backup.py --directory data --database app.db --description "before the migration"
    python flows/backup.py --database postgresql://backup@localhost/shop --repository s3://bucket/backups

`deployments/prefect.yaml` has schedules for the flows here. They live in `prefect_snapshots.flows`.
"""

from __future__ import annotations

from pathlib import Path

import cyclopts

from prefect_snapshots.flows import (
    backup_prefect_server,
    check_repository,
    cleanup_backups,
    copy_repository,
    create_backup,
)

__all__ = ["backup_prefect_server", "check_repository", "cleanup_backups", "copy_repository", "create_backup"]

app = cyclopts.App(help=__doc__.partition("\n")[0])


@app.default
def main(
    description: str = "",
    name: str = "default",
    database: list[str] | None = None,
    directory: list[Path] | None = None,
    repository: str | None = None,
) -> None:
    """Make a backup, with a report in the Prefect UI.

    Parameters
    ----------
    description
        Why; becomes part of the backup's name.
    name
        Keeps backups apart that share a repository.
    database
        The URL of a database, the path of a file of SQLite or DuckDB, or a block such as
            prefect-snapshots-backup-database/shop.
    directory
        A directory.
    repository
        A URL or path; default: the setting, the block prefect-snapshots-repository/default, else ./snapshots.
    """
    create_backup(description, name, database or [], [str(path) for path in directory or ()], repository=repository)


if __name__ == "__main__":
    app()
