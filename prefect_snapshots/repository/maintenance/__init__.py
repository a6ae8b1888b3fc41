"""Maintain a repository: check, prune, repair, statistics. Only `prune` and `repair` delete anything.

`liveness` finds what versions need, `scanning` reads streams even if parts are damaged, and `checking`, `pruning`,
`repairing` and `totals` do the work.
"""

from __future__ import annotations

from .checking import CheckReport, Problem, check
from .pruning import PruneReport, prune
from .repairing import RepairReport, repair
from .totals import Statistics, statistics, written_since

__all__ = [
    "CheckReport",
    "Problem",
    "PruneReport",
    "RepairReport",
    "Statistics",
    "check",
    "prune",
    "repair",
    "statistics",
    "written_since",
]
