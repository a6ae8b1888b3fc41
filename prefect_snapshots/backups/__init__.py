"""Backups of databases and directories: list, verify, compare, prove and restore them."""

from ..trees.scanning import Directory
from .browsing import BackupDiff, CountChange, FileChange, FileInfo
from .drills import DrillReport, DrillRow
from .experiments import safe_experiment
from .journal import PartState, RestorePart, RestoreRecord
from .manager import BackupManager, list_names
from .records import Backup, PartRecord
from .restores import RestoreReport

__all__ = [
    "Backup",
    "BackupDiff",
    "BackupManager",
    "CountChange",
    "Directory",
    "DrillReport",
    "DrillRow",
    "FileChange",
    "FileInfo",
    "PartRecord",
    "PartState",
    "RestorePart",
    "RestoreRecord",
    "RestoreReport",
    "list_names",
    "safe_experiment",
]
