"""Backups of databases and directories: list, verify, compare, prove and restore them."""

from ..trees.scanning import Directory
from .browsing import BackupDiff, CountChange, FileChange, FileInfo
from .databases.postgresql_recovery import RecoveryTarget
from .drills import DrillReport, DrillRow
from .experiments import safe_experiment
from .hooks import HookCall, Hooks
from .journal import PartState, RestorePart, RestoreRecord
from .manager import BackupManager, list_names
from .records import Backup, FailedBackup, PartRecord, last_proven
from .recoveries import (
    BaseBackup,
    RecoveryReport,
    RecoveryWindow,
    clean_wal,
    list_base_backups,
    recover,
    recovery_windows,
)
from .restores import RestoreReport
from .single_files import Command, File, StandardInput
from .sqlite_restores import SQLiteRestoreReport, restore_sqlite

__all__ = [
    "Backup",
    "BackupDiff",
    "BackupManager",
    "BaseBackup",
    "Command",
    "CountChange",
    "Directory",
    "DrillReport",
    "DrillRow",
    "FailedBackup",
    "File",
    "FileChange",
    "FileInfo",
    "HookCall",
    "Hooks",
    "PartRecord",
    "PartState",
    "RecoveryReport",
    "RecoveryTarget",
    "RecoveryWindow",
    "RestorePart",
    "RestoreRecord",
    "RestoreReport",
    "SQLiteRestoreReport",
    "StandardInput",
    "clean_wal",
    "last_proven",
    "list_base_backups",
    "list_names",
    "recover",
    "recovery_windows",
    "restore_sqlite",
    "safe_experiment",
]
