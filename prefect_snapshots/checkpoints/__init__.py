"""Long iterables whose results survive anything: done once, kept at once, resumed where they stopped.

This room knows the repository and no Prefect.

- A *job* is a function, by its *fingerprint*, a name, and how to go about it.
- An *item* is recognised by its *key*, a hash of its value.
- Results are appended to *segments* of a log; each start writes one of its own.

For faces
---------
`make_job` checks the arguments and gives a `Job`, which travels to other processes as far as its function does (with
cloudpickle). `plan(job, items)` is iterated over once and yields `ItemBatch`es of what is not done; its counts say what
is done already. Each batch goes to `run_batch(job, batch)`, in any process: it writes its own segment straight to the
repository and returns `RunCounts`. It leaves out what was done meanwhile, so it may be repeated.
`collect(job, plan.keys)` streams the results in the order of the items. `open_log(job).merge()` puts the many small
segments together afterwards. A `Run` does the same within one process, for those who want to see the flushes.
"""

from __future__ import annotations

from .counts import RunCounts
from .differences import CheckpointDiff
from .fingerprint import fingerprint
from .frozen import Failure
from .job import Job, make_job
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
    "collect",
    "counts_of",
    "failures_of",
    "fingerprint",
    "item_keys",
    "make_job",
    "open_log",
    "plan",
    "run_batch",
    "stable_hash",
]
