"""Backups of databases and directories: list, verify, compare, prove and restore them."""

from ..trees.scanning import Directory
from .browsing import BackupDiff, CountChange, FileChange, FileInfo
from .drills import DrillReport, DrillRow
from .experiments import safe_experiment
from .hooks import HookCall, Hooks
from .journal import PartState, RestorePart, RestoreRecord
from .manager import BackupManager, list_names
from .records import Backup, FailedBackup, PartRecord, last_proven
from .restores import RestoreReport
from .single_files import Command, File, StandardInput

__all__ = [
    "Backup",
    "BackupDiff",
    "BackupManager",
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
    "RestorePart",
    "RestoreRecord",
    "RestoreReport",
    "StandardInput",
    "last_proven",
    "list_names",
    "safe_experiment",
]
