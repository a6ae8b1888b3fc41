"""A flow run of 10,000 items, 200 snapshots and 50 versions is few task runs, few updates, and little slower than none.

On a machine that does nothing else it is at most 10 s slower: that is a limit of the benchmark. Here other tests run.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from test_benchmarks import measure


@pytest.mark.nightly
@pytest.mark.xdist_group("end-to-end")
def test_a_large_run_costs_few_task_runs_and_seconds(tmp_path: Path) -> None:
    report = measure(tmp_path, "run_overhead.py", "--repeat", "1")
    values = {limit["what"].partition(": ")[2]: limit["value"] for limit in report["limits"]}
    assert values["task runs"] == 10_000 / 500 + 1 + 50
    assert values["changes of one artifact"] <= 2
    assert values["a flow, beyond plain Python"] <= 40
