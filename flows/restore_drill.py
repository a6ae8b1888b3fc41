"""Prove that the newest backup can be restored: the entry point to deploy.

It is restored into scratch databases and temporary directories, and compared. The run fails where something differs,
and an event says so, for automations. The flow lives in `prefect_snapshots.flows`.
"""

from __future__ import annotations

from prefect_snapshots.flows import restore_drill

__all__ = ["restore_drill"]
