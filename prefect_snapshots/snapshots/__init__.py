"""Save Python objects and JAX pytrees, annotate them, and find, rank and compare them later.

This package uses the repository, but not Prefect. JAX is imported only if a value or a request needs it.
"""

from ..repository.descriptions import Description
from ..values.diff import LeafDifference
from .manager import SnapshotManager, list_names
from .preemption import PreemptionWatch
from .pytrees import PyTreeSnapshotManager
from .query import ByContent, ByLeaf, ByMetadata, BySearch, ByTag, ByTimeRange, Query
from .records import Snapshot, SnapshotInfo

__all__ = [
    "ByContent",
    "ByLeaf",
    "ByMetadata",
    "BySearch",
    "ByTag",
    "ByTimeRange",
    "Description",
    "LeafDifference",
    "PreemptionWatch",
    "PyTreeSnapshotManager",
    "Query",
    "Snapshot",
    "SnapshotInfo",
    "SnapshotManager",
    "list_names",
]
