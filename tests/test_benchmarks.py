"""Each benchmark runs from its command line, reports what it found, and fills in its part of the page of the docs.

With sizes this small only counts of bytes and requests mean something, and those keep their limits here too.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"


def run(tmp_path: Path, script: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a script from elsewhere than its checkout."""
    command = [sys.executable, str(ROOT / "benchmarks" / script), "--directory", str(tmp_path / "scratch"), *options]
    return subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)


def measure(tmp_path: Path, script: str, *options: str) -> dict[str, Any]:
    """What a script reports, once it is clear that it reported the same everywhere and left nothing behind."""
    page, values = tmp_path / "page.md", tmp_path / "values.json"
    shutil.copy(PAGE, page)
    done = run(tmp_path, script, *options, "--json", str(values), "--update-docs", str(page), "--check")
    assert values.exists(), done.stderr
    report: dict[str, Any] = json.loads(values.read_text())
    assert done.returncode == (0 if all(limit["met"] for limit in report["limits"]) else 1)
    section = f"<!-- {report['section']}: begin -->\n{done.stdout.strip()}\n<!-- {report['section']}: end -->"
    assert section in page.read_text()
    assert {figure["survives"] for figure in report["figures"]} <= {"power loss", "process kill", "-"}
    assert not list((tmp_path / "scratch").iterdir())
    return report


def met(report: dict[str, Any], words: str) -> list[bool]:
    """Whether the limits with these words in their name were met."""
    return [limit["met"] for limit in report["limits"] if words in limit["what"]]


def contenders(report: dict[str, Any], what: str) -> set[str]:
    return {figure["contender"] for figure in report["figures"] if figure["what"] == what}


@pytest.mark.nightly
def test_pytrees(tmp_path: Path) -> None:
    report = measure(tmp_path, "pytrees.py", "--size-mb", "2", "--leaves", "40", "--repeat", "1")
    assert met(report, "bytes / tree") == [True, True]
    assert met(report, "peak memory") == [True]
    peers = {"raw write + fsync", "safetensors", "Orbax Standard"}
    assert contenders(report, "save of the tree") == {"prefect-snapshots", *peers}


@pytest.mark.nightly
def test_pytrees_of_jax_arrays(tmp_path: Path) -> None:
    options = ["--size-mb", "2", "--leaves", "40", "--repeat", "1", "--arrays", "jax", "--only", "save"]
    assert measure(tmp_path, "pytrees.py", *options)["section"] == "pytrees of jax arrays"


@pytest.mark.nightly
def test_processes(tmp_path: Path) -> None:
    report = measure(tmp_path, "processes.py", "--size-mb", "20", "--leaves", "5", "--repeat", "1")
    assert met(report, "bytes / tree") == [True]
    assert contenders(report, "restore onto another mesh") == {"prefect-snapshots", "Orbax Standard"}


def test_catalog(tmp_path: Path) -> None:
    report = measure(tmp_path, "catalog.py", "--count", "300", "--repeat", "1")
    assert met(report, "query") == [True] * 4


@pytest.mark.nightly
def test_artifacts(tmp_path: Path) -> None:
    options = ["--versions", "40", "--resolve", "50", "--folder-mb", "30", "--repeat", "1"]
    report = measure(tmp_path, "artifacts.py", *options)
    assert met(report, "bytes written") == [True]
    assert met(report, "find") == [True] * 3
    assert contenders(report, "log version 10") == {"prefect-snapshots", "lazyscribe", "mxm-scaffold", "MLflow"}


@pytest.mark.nightly
def test_requests_on_s3(tmp_path: Path) -> None:
    options = ["--saves", "5", "--writers", "3", "--commits", "2", "--count", "100", "--repeat", "1"]
    report = measure(tmp_path, "s3_requests.py", *options)
    assert all(met(report, "median"))
    assert met(report, "LIST") == [True, True]
    assert met(report, "3 writers") == [True]


@pytest.mark.nightly
def test_copies(tmp_path: Path) -> None:
    report = measure(tmp_path, "copies.py", "--size-mb", "4", "--repeat", "1")
    assert met(report, "") == [True, True, True]


@pytest.mark.nightly
def test_point_in_time(tmp_path: Path) -> None:
    report = measure(tmp_path, "point_in_time.py", "--size-mb", "10", "--days", "1", "--segments", "1")
    assert met(report, "archive_command") == [True]


@pytest.mark.nightly
def test_file_system(tmp_path: Path) -> None:
    report = measure(tmp_path, "file_system.py", "--size-mb", "10", "--ranges", "5", "--repeat", "1")
    assert met(report, "requests") == [True] * 3
    assert contenders(report, "read one column of 20") == {"prefect-snapshots", "s3fs"}


@pytest.mark.nightly
def test_iterables(tmp_path: Path) -> None:
    report = measure(tmp_path, "iterables.py", "--count", "2000", "--done", "2000", "--repeat", "1")
    assert met(report, "memory of the process") == [True]
    assert "joblib.Memory" in contenders(report, "one by one: all done")


@pytest.mark.timeout(200)
@pytest.mark.nightly
def test_mapping(tmp_path: Path) -> None:
    sizes = ["--count", "2000", "--tasks", "5", "--items", "4", "--loops", "1000", "--repeat", "1"]
    report = measure(tmp_path, "mapping.py", *sizes)
    assert contenders(report, "items in a flow: first run") == {"prefect-snapshots", "Prefect .map"}


@pytest.mark.nightly
def test_backups(tmp_path: Path) -> None:
    report = measure(tmp_path, "backups.py", "--only", "tree", "--scale", "0.003", "--repeat", "1")
    assert met(report, "peak") == [True] * 5
    assert "prefect-snapshots" in contenders(report, "restore of the tree")


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("kind", "smallest"),
    [("snapshots", 4_000), ("items", 200_000), ("versions", 400), ("files", 2_000), ("chunks", 500_000)],
)
def test_scale(tmp_path: Path, kind: str, smallest: int) -> None:
    """Nothing grows faster than what it works on, also at sizes that are small enough for every night."""
    report = measure(tmp_path, "scale.py", "--kind", kind, "--smallest", str(smallest), "--repeat", "3")
    assert all(met(report, "per doubling"))
    assert all(met(report, "memory"))


@pytest.mark.nightly
@pytest.mark.timeout(200)
def test_result_storage(tmp_path: Path) -> None:
    options = ["--size-mb", "8", "--count", "20", "--writers", "1", "--repeat", "1"]
    report = measure(tmp_path, "result_storage.py", *options)
    assert all(met(report, "bytes"))
    ours = {"prefect-snapshots", "prefect-snapshots, durable_results=False", "prefect-snapshots, on S3"}
    everybody = {*ours, "LocalFileSystem", "S3Bucket"}
    assert contenders(report, "arrays: hit") == everybody


def test_another_commit(tmp_path: Path) -> None:
    options = ["--commit", "HEAD", "--cases", "small values: load", "--scale", "0.01", "--repeat", "1"]
    report = measure(tmp_path, "commits.py", *options)
    assert {figure["contender"] for figure in report["figures"]} == {"HEAD", "this checkout"}
    assert len(report["limits"]) == 1


@pytest.mark.nightly
@pytest.mark.timeout(200)
def test_every_case_of_a_comparison_runs(tmp_path: Path) -> None:
    """All in one process, because importing takes longer than what is measured here."""
    script = (
        "import itertools, pathlib, sys; from _cases import CASES, measure\n"
        "for number, case in enumerate(CASES.values()):\n"
        "    place = pathlib.Path(sys.argv[1]) / str(number)\n"
        "    place.mkdir()\n"
        "    assert measure(next(itertools.islice(case.make(place, 0.001), 1, None)))[1] > 0\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    subprocess.run(command, check=True, cwd=ROOT / "benchmarks", timeout=190)


def test_page_without_the_section_is_an_error(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Benchmarks\n")
    done = run(tmp_path, "catalog.py", "--count", "300", "--repeat", "1", "--update-docs", str(page))
    assert done.returncode == 1
    assert "has no section between" in done.stderr
    assert page.read_text() == "# Benchmarks\n"
