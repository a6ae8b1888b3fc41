"""Backups of databases and directories: each one a version that can be listed, verified and restored as a whole."""

from .retention import RetentionPolicy

__all__ = ["RetentionPolicy"]
