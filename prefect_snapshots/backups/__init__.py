"""Backups of databases and directories: each one a version that can be listed, verified and restored as a whole."""

from ..trees.scanning import Directory
from .drills import DrillReport
from .manager import BackupManager, RestoreReport, list_names, safe_experiment
from .records import Backup

__all__ = [
    "Backup",
    "BackupManager",
    "Directory",
    "DrillReport",
    "RestoreReport",
    "list_names",
    "safe_experiment",
]
