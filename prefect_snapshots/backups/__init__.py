"""Backups of databases and directories."""
