"""The zoo: every kind of value comes back from every kind of storage in a fresh process, and again in the next.

Keys and fingerprints are the same in each. What could never be read again is refused, with the path of the leaf.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

KEEPER = Path(__file__).parent / "zoo_keeper.py"


def keep(stage: str, folder: Path, seed: int) -> dict[str, Any]:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONHASHSEED": str(seed)}
    # Each process would compile the same programs.
    environment |= {"JAX_COMPILATION_CACHE_DIR": str(folder / "jax"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    done = subprocess.run(
        [sys.executable, str(KEEPER), stage, str(folder)], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads((folder / "report").read_text())
    assert not report["wrong"]
    return report


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    folder = tmp_path_factory.mktemp("zoo")
    return folder, keep("write", folder, 1), keep("pass", folder, 2)


@pytest.mark.long
def test_everything_comes_back_in_a_fresh_process(zoo: tuple[Path, dict[str, Any], dict[str, Any]]) -> None:
    _, written, passed = zoo
    taken = written["taken"]
    assert len(taken) > 310
    assert passed["taken"] == taken
    counts = Counter(way for ways in taken.values() for way in ways)
    assert counts["snapshot"] == counts["pytree"] == counts["pickle"] == len(taken)
    assert counts["joblib"] > 240
    assert counts["numpy"] > 30
    assert counts["json"] >= 20
    assert counts["parquet"] >= 14
    assert counts["text"] == 4
    # What nests this deeply or has no elements has neither, and a part of a class is not known by its content.
    without = {"containers: deep", "torch: meta"}
    for what, more in (("keys", {"callables: descriptor"}), ("fingerprints", set[str]())):
        assert {name for name, found in written[what].items() if found == "refused"} == without | more


@pytest.mark.nightly
def test_everything_comes_back_again_in_the_next_process(zoo: tuple[Path, dict[str, Any], dict[str, Any]]) -> None:
    folder, _, passed = zoo
    read = keep("read", folder, 3)
    assert read["keys"] == passed["keys"]
    assert read["fingerprints"] == passed["fingerprints"]
