"""The flow that workers run, in a process that is killed once it has stored a part, if a file asks for that."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from prefect_snapshots import BackupManager
from prefect_snapshots.flows import stage_backup
from prefect_snapshots.repository import StagedPart

__all__ = ["stage_backup"]

_stage = BackupManager.stage_backup


def _die(self: BackupManager, *arguments: Any) -> StagedPart:
    part = _stage(self, *arguments)
    asked = Path(os.environ["KILLED_ONCE"])
    if asked.exists():
        asked.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return part


setattr(BackupManager, "stage_backup", _die)  # noqa: B010  for type checkers it has another signature
