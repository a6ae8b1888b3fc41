"""What one save did, told from the catalog: which leaves it changed, what it evicted, and how to undo it."""

from __future__ import annotations

from typing import Any

from ..repository.catalog import Event
from ..repository.contents import ContentReader
from ..repository.repository import Draft
from .backends import Durable
from .manager import SnapshotManager
from .manifest import StoredLeaf, parse
from .records import Record, Records
from .scalars import encode_node
from .structure import leaf_paths
