"""Many writers on one name cost a few requests a commit, because who lost a slot waits before trying the next one."""

from __future__ import annotations

import json
import subprocess
import uuid
from pathlib import Path

import pytest
import servers
from toy_kind import ToyKind

from prefect_snapshots.repository import Repository

WRITERS = 16
COMMITS = 4


@pytest.mark.timeout(280)
@pytest.mark.nightly
def test_sixteen_writers_make_few_requests(moto_endpoint: str, warm_python: Path) -> None:
    """Packs, index, hints and merges included."""
    with servers.dropping_proxy(moto_endpoint) as proxy:
        url, options = f"s3://{servers.BUCKET}/{uuid.uuid4().hex}", servers.s3_options(proxy.endpoint)
        toy = ToyKind(Repository(url, storage_options=options), "one")
        toy.put("first", [b"1"])
        before = proxy.requests["PUT"]
        script = str(Path(__file__).parent / "writers.py")
        arguments = [[url, "one", str(number * 1_000), str(COMMITS), json.dumps(options)] for number in range(WRITERS)]
        started = [
            subprocess.Popen([warm_python, script, "commit", *each], stdout=subprocess.DEVNULL) for each in arguments
        ]
        assert [process.wait() for process in started] == [0] * WRITERS
        requests = proxy.requests["PUT"] - before
    toy = ToyKind(Repository(url, storage_options=servers.s3_options(moto_endpoint)), "one")
    commits = len(toy.events) - 1
    assert commits == WRITERS * COMMITS * 5 // 4
    assert requests / commits <= 6
