"""Process long iterables, save each result, and continue where a run stopped.

This package uses the repository, but not Prefect.

- A *job* is a function with its *fingerprint*, its name, and the options to run it.
- An *item* is recognised by its *key*, a hash of its value.
- Results are appended to the *segments* of a log. Each start writes a new segment.

Most callers need only `Snapper`, and `CheckpointManager` to manage stored results. To distribute the work, use four
functions:

1. `make_job` checks the arguments and returns a `Job`. You can send it to other processes if its function can be
   pickled.
2. `plan(job, items)` yields batches of the items without a result. Its `counts` say how many items are done already.
3. `run_batch(job, batch)` computes a batch in any process, writes the results to the repository, and returns
   `RunCounts`. It skips items that are done by then, so you can repeat it. `counts_of` returns the counts of a batch
   that raised an error.
4. `collect(job, plan.keys)` streams the results in the order of the items.

Afterwards, `merge(open_log(job))` merges small segments. A `Run` does all this within one process and reports each
write.
"""

from __future__ import annotations

from .counts import RunCounts
from .differences import CheckpointDiff
from .explaining import FingerprintDiff
from .fingerprint import FingerprintPart, explain_fingerprint, fingerprint
from .frozen import Failure
from .job import Job, check_batches, exception_classes, make_job
from .keys import item_keys, stable_hash
from .manager import CheckpointInfo, CheckpointManager
from .metrics import Metric, describe_run, failures_of
from .planning import ItemBatch, JobPlan, find_done, plan
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
    "FingerprintDiff",
    "FingerprintPart",
    "ItemBatch",
    "Job",
    "JobPlan",
    "Metric",
    "Run",
    "RunCounts",
    "Snapper",
    "check_batches",
    "collect",
    "counts_of",
    "describe_run",
    "exception_classes",
    "explain_fingerprint",
    "failures_of",
    "find_done",
    "fingerprint",
    "item_keys",
    "make_job",
    "open_log",
    "plan",
    "run_batch",
    "stable_hash",
]
