"""Flows to deploy on a schedule, importable from the wheel: they look after a repository."""

from __future__ import annotations

from .maintenance import check_repository, prune_repository

__all__ = ["check_repository", "prune_repository"]
