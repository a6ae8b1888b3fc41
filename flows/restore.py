"""Restore a backup, once a person has typed its name on the page of the run: the entry point to deploy.

    prefect deployment run restore-backup/restore --param backup=default_20260131_120000_before_the_migration

The flow lives in `prefect_snapshots.flows`. Without Prefect: `prefect-snapshots backups restore NAME`.
"""

from __future__ import annotations

from prefect_snapshots.flows import restore_backup

__all__ = ["restore_backup"]
