"""Look whether backups are overdue and how fast a repository grows, and let old results go: the entry points to deploy.

What is wrong is an event, for automations; see `docs/automations.md`. The flows live in `prefect_snapshots.flows`.
"""

from __future__ import annotations

from prefect_snapshots.flows import expire_results, watch_repository

__all__ = ["expire_results", "watch_repository"]
