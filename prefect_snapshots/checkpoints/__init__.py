"""Process long iterables, save each result, and continue where a run stopped.

This package knows the repository and no Prefect.

- A *job* is a function with its *fingerprint*, a name, and how to run it.
- An *item* is recognised by its *key*, a hash of its value.
- Results are appended to *segments* of a log. Each start writes a segment of its own.

`Snapper` is what most callers need, and `CheckpointManager` looks after what is stored. To distribute the work, use
four functions:

1. `make_job` checks the arguments and returns a `Job`, which travels to other processes if its function does.
2. `plan(job, items)` yields batches of the items without a result. Its `counts` tell what is done already.
3. `run_batch(job, batch)` computes a batch in any process, writes the results to the repository, and returns
   `RunCounts`. It leaves out items that are done by then, so you may repeat it. `counts_of` tells what a batch that
   raised has left.
4. `collect(job, plan.keys)` streams the results in the order of the items.

`merge(open_log(job))` merges small segments afterwards. A `Run` does the same within one process and reports each
write.
"""

from __future__ import annotations

from .counts import RunCounts
from .differences import CheckpointDiff
from .fingerprint import fingerprint
from .frozen import Failure
from .job import Job, check_batches, exception_classes, make_job
from .keys import item_keys, stable_hash
from .manager import CheckpointInfo, CheckpointManager
from .metrics import Metric, failures_of
from .planning import ItemBatch, Plan, plan
from .reading import RAISE, collect, open_log
from .running import Run, counts_of, run_batch
from .snapper import FailedItem, Snapper

__all__ = [
    "RAISE",
    "CheckpointDiff",
    "CheckpointInfo",
    "CheckpointManager",
    "FailedItem",
    "Failure",
    "ItemBatch",
    "Job",
    "Metric",
    "Plan",
    "Run",
    "RunCounts",
    "Snapper",
    "check_batches",
    "collect",
    "counts_of",
    "exception_classes",
    "failures_of",
    "fingerprint",
    "item_keys",
    "make_job",
    "open_log",
    "plan",
    "run_batch",
    "stable_hash",
]
