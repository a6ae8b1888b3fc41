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
    from prefect_snapshots.integration.artifacts import (
        acreate_release,
        aload_artifact,
        alog_artifact,
        alog_files,
        apromote_artifact,
        apromote_snapshot,
        create_release,
        load_artifact,
        log_artifact,
        log_files,
        promote_artifact,
        promote_snapshot,
    )
    from prefect_snapshots.integration.blocks import SnapshotRepository
    from prefect_snapshots.integration.cache_policies import STABLE_INPUTS, StableInputs
    from prefect_snapshots.integration.checkpoints.task import CheckpointedFuture, CheckpointedTask, checkpointed
    from prefect_snapshots.integration.snapshots.decorator import load_latest, snapshot
    from prefect_snapshots.integration.snapshots.saving import wait_for_snapshots
    from prefect_snapshots.integration.snapshots.tasks import (
        aload_snapshot,
        asave_snapshot,
        load_snapshot,
        save_snapshot,
    )
    from prefect_snapshots.repository import Repository, use_repository
    from prefect_snapshots.retention import RetentionPolicy
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
        "CheckpointedFuture": "integration.checkpoints.task",
        "CheckpointedTask": "integration.checkpoints.task",
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
        "STABLE_INPUTS": "integration.cache_policies",
        "Snapper": "checkpoints",
        "Snapshot": "snapshots",
        "SnapshotManager": "snapshots",
        "SnapshotRepository": "integration.blocks",
        "StableInputs": "integration.cache_policies",
        "WandbArtifactRegistry": "artifacts",
        "acreate_release": "integration.artifacts",
        "aload_artifact": "integration.artifacts",
        "aload_snapshot": "integration.snapshots.tasks",
        "alog_artifact": "integration.artifacts",
        "alog_files": "integration.artifacts",
        "apromote_artifact": "integration.artifacts",
        "apromote_snapshot": "integration.artifacts",
        "asave_snapshot": "integration.snapshots.tasks",
        "checkpointed": "integration.checkpoints.task",
        "create_release": "integration.artifacts",
        "load_artifact": "integration.artifacts",
        "load_latest": "integration.snapshots.decorator",
        "load_snapshot": "integration.snapshots.tasks",
        "log_artifact": "integration.artifacts",
        "log_files": "integration.artifacts",
        "promote_artifact": "integration.artifacts",
        "promote_snapshot": "integration.artifacts",
        "safe_experiment": "backups",
        "save_snapshot": "integration.snapshots.tasks",
        "snapshot": "integration.snapshots.decorator",
        "use_repository": "repository",
        "wait_for_snapshots": "integration.snapshots.saving",
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
