"""Prove that the newest backup can be restored, and servers be recovered: the entry points to deploy.

It is restored into scratch databases and temporary directories, and compared. The run fails where something differs,
and an event says so, for automations. The flow lives in `prefect_snapshots.flows`.
"""

from __future__ import annotations

from prefect_snapshots.flows import recovery_drill, restore_drill

__all__ = ["recovery_drill", "restore_drill"]
