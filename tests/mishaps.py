"""What automations wait for, caused for real: `python mishaps.py PLACE`, with the URL of a Prefect server around it."""

from __future__ import annotations

import contextlib
import random
import sys
from datetime import timedelta
from pathlib import Path

from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from prefect_snapshots.errors import DamagedVersion, IntegrityError
from prefect_snapshots.flows import check_repository, create_backup, restore_drill, watch_repository


def main(place: Path) -> None:
    repository = str(place / "repository")
    (place / "data").mkdir()
    (place / "data" / "noise").write_bytes(random.Random(0).randbytes(1_000_000))
    create_backup(name="project", directories=[str(place / "data")], repository=repository)
    assert watch_repository({"project": "1d"}, limit=2_000_000, repository=repository).ok
    assert check_repository(repository, read_data=True).ok
    watch_repository({"project": "PT0S"}, margin=timedelta(), limit=500_000, repository=repository)
    for pack in (place / "repository" / "packs").rglob("*/*"):
        data = bytearray(pack.read_bytes())
        data[len(data) // 2] ^= 1
        pack.write_bytes(data)
    with contextlib.suppress(IntegrityError):
        check_repository(repository, read_data=True)
    with contextlib.suppress(DamagedVersion):
        restore_drill("project", repository=repository)


if __name__ == "__main__":
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):  # which costs each flow a second
        main(Path(sys.argv[1]))
