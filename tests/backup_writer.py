"""A process that makes, cleans up or restores backups again and again, until it is killed."""

from __future__ import annotations

import itertools
import sys

from prefect_snapshots import BackupManager, RetentionPolicy
from prefect_snapshots.backups.databases import SQLite


def main(verb: str, url: str, database: str, directory: str, *names: str) -> None:
    policy = RetentionPolicy(keep_last=2, keep_weekly_within=None)
    manager = BackupManager(url, name="metis", databases=[SQLite(database)], directories=[directory], retention=policy)
    print("ready", flush=True)
    for number in itertools.count():
        if verb == "restore":
            manager.restore_backup(names[number % len(names)], confirm=True)
        else:
            manager.create_backup(f"{number}")
        if verb == "cleanup":
            manager.cleanup()
            manager.repository.prune(grace=0)


if __name__ == "__main__":
    main(*sys.argv[1:])
