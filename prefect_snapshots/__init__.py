"""State that outlives a Prefect run, kept in one repository: any directory or bucket.

This is the public face: names only. Each one is imported when it is first used, so that importing the package costs
milliseconds, and neither Prefect nor JAX is loaded before somebody needs it. All errors are in
`prefect_snapshots.errors`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefect_snapshots import errors

__all__ = [
    "STABLE_INPUTS",
    "ArangoDBDatabase",
    "ArtifactRegistry",
    "Backup",
    "BackupManager",
    "ByContent",
    "ByLeaf",
    "ByMetadata",
    "ByTag",
    "ByTimeRange",
    "CheckpointedFuture",
    "CheckpointedTask",
    "Directory",
    "DuckDBDatabase",
    "EtcdDatabase",
    "MariaDBDatabase",
    "ModelLogger",
    "MongoDBDatabase",
    "PostgreSQLDatabase",
    "PyTreeSnapshotManager",
    "RedisDatabase",
    "Repository",
    "RetentionPolicy",
    "SQLiteDatabase",
    "Snapper",
    "Snapshot",
    "SnapshotManager",
    "SnapshotRepository",
    "StableInputs",
    "WandbArtifactRegistry",
    "acreate_release",
    "aload_artifact",
    "aload_snapshot",
    "alog_artifact",
    "alog_files",
    "apromote_artifact",
    "apromote_snapshot",
    "asave_snapshot",
    "checkpointed",
    "create_release",
    "errors",
    "load_artifact",
    "load_latest",
    "load_snapshot",
    "log_artifact",
    "log_files",
    "promote_artifact",
    "promote_snapshot",
    "safe_experiment",
    "save_snapshot",
    "snapshot",
    "use_repository",
    "wait_for_snapshots",
]

if TYPE_CHECKING:
    from prefect_snapshots.artifacts import ArtifactRegistry, ModelLogger, WandbArtifactRegistry
    from prefect_snapshots.backups import Backup, BackupManager, Directory, safe_experiment
    from prefect_snapshots.batching import CheckpointedFuture, CheckpointedTask, checkpointed
    from prefect_snapshots.blocks import SnapshotRepository
    from prefect_snapshots.cache_policies import STABLE_INPUTS, StableInputs
    from prefect_snapshots.checkpoints import Snapper
    from prefect_snapshots.database_blocks import (
        ArangoDBDatabase,
        DuckDBDatabase,
        EtcdDatabase,
        MariaDBDatabase,
        MongoDBDatabase,
        PostgreSQLDatabase,
        RedisDatabase,
        SQLiteDatabase,
    )
    from prefect_snapshots.decorators import load_latest, snapshot
    from prefect_snapshots.repository import Repository, use_repository
    from prefect_snapshots.retention import RetentionPolicy
    from prefect_snapshots.saving import wait_for_snapshots
    from prefect_snapshots.snapshots import (
        ByContent,
        ByLeaf,
        ByMetadata,
        ByTag,
        ByTimeRange,
        PyTreeSnapshotManager,
        Snapshot,
        SnapshotManager,
    )
    from prefect_snapshots.tasks import (
        acreate_release,
        aload_artifact,
        aload_snapshot,
        alog_artifact,
        alog_files,
        apromote_artifact,
        apromote_snapshot,
        asave_snapshot,
        create_release,
        load_artifact,
        load_snapshot,
        log_artifact,
        log_files,
        promote_artifact,
        promote_snapshot,
        save_snapshot,
    )
else:  # hidden from type checkers, to which a module with `__getattr__` has every name, misspelt ones too
    _MODULE_OF = {
        "ArangoDBDatabase": "database_blocks",
        "ArtifactRegistry": "artifacts",
        "Backup": "backups",
        "BackupManager": "backups",
        "ByContent": "snapshots",
        "ByLeaf": "snapshots",
        "ByMetadata": "snapshots",
        "ByTag": "snapshots",
        "ByTimeRange": "snapshots",
        "CheckpointedFuture": "batching",
        "CheckpointedTask": "batching",
        "Directory": "backups",
        "DuckDBDatabase": "database_blocks",
        "EtcdDatabase": "database_blocks",
        "MariaDBDatabase": "database_blocks",
        "ModelLogger": "artifacts",
        "MongoDBDatabase": "database_blocks",
        "PostgreSQLDatabase": "database_blocks",
        "PyTreeSnapshotManager": "snapshots",
        "RedisDatabase": "database_blocks",
        "Repository": "repository",
        "RetentionPolicy": "retention",
        "SQLiteDatabase": "database_blocks",
        "STABLE_INPUTS": "cache_policies",
        "Snapper": "checkpoints",
        "Snapshot": "snapshots",
        "SnapshotManager": "snapshots",
        "SnapshotRepository": "blocks",
        "StableInputs": "cache_policies",
        "WandbArtifactRegistry": "artifacts",
        "acreate_release": "tasks",
        "aload_artifact": "tasks",
        "aload_snapshot": "tasks",
        "alog_artifact": "tasks",
        "alog_files": "tasks",
        "apromote_artifact": "tasks",
        "apromote_snapshot": "tasks",
        "asave_snapshot": "tasks",
        "checkpointed": "batching",
        "create_release": "tasks",
        "load_artifact": "tasks",
        "load_latest": "decorators",
        "load_snapshot": "tasks",
        "log_artifact": "tasks",
        "log_files": "tasks",
        "promote_artifact": "tasks",
        "promote_snapshot": "tasks",
        "safe_experiment": "backups",
        "save_snapshot": "tasks",
        "snapshot": "decorators",
        "use_repository": "repository",
        "wait_for_snapshots": "saving",
    }

    def __getattr__(name: str) -> object:
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted(globals() | _MODULE_OF)
