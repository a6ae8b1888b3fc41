"""Flows to deploy on a schedule: they make, restore and prove backups, and check, prune and watch a repository."""

from __future__ import annotations

from .backups import (
    backup_prefect_server,
    cleanup_backups,
    create_backup,
    restore_backup,
    restore_drill,
    restore_parts,
    stage_backup,
)
from .diagnosing import doctor
from .fan_out import WorkerSources
from .maintenance import check_repository, expire_results, extend_locks, prune_repository
from .recovery_drills import recovery_drill
from .repository_copies import copy_repository
from .watching import watch_repository

__all__ = [
    "WorkerSources",
    "backup_prefect_server",
    "check_repository",
    "cleanup_backups",
    "copy_repository",
    "create_backup",
    "doctor",
    "expire_results",
    "extend_locks",
    "prune_repository",
    "recovery_drill",
    "restore_backup",
    "restore_drill",
    "restore_parts",
    "stage_backup",
    "watch_repository",
]
