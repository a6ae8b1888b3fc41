"""A flow run of 10,000 items, 200 snapshots and 50 versions is little work for its server, and takes little longer."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_benchmarks import measure


@pytest.mark.xdist_group("end-to-end")
def test_a_large_run_costs_few_task_runs_and_seconds(tmp_path: Path) -> None:
    report = measure(tmp_path, "run_overhead.py", "--repeat", "1")
    limits = {limit["what"].partition(": ")[2]: limit for limit in report["limits"]}
    assert set(limits) == {"a flow, beyond plain Python", "task runs", "changes of one artifact"}
    assert all(limit["met"] for limit in limits.values()), limits
    assert limits["task runs"]["value"] == 10_000 / 500 + 1 + 50
