"""Snapshots of Python objects and JAX pytrees: captured, annotated, found again, ranked, compared.

This room knows the repository and no Prefect. JAX is used when a value or a request needs it, and only then.
"""

from ..values.diff import LeafDifference
from .manager import PyTreeSnapshotManager, SnapshotManager, list_names
from .query import ByContent, ByLeaf, ByMetadata, ByTag, ByTimeRange, Query
from .records import Snapshot

__all__ = [
    "ByContent",
    "ByLeaf",
    "ByMetadata",
    "ByTag",
    "ByTimeRange",
    "LeafDifference",
    "PyTreeSnapshotManager",
    "Query",
    "Snapshot",
    "SnapshotManager",
    "list_names",
]
