"""The tasks save and load like the manager, and a run that saves leaves its report in Prefect: log, event, artifact.

A report never fails a run and never delays it for long: the server may be slow, or gone.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.objects import Artifact
from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL, temporary_settings
from prefect.transactions import transaction
from prefect.utilities.annotations import quote
from prefect_support import artifact_text, artifacts_of, events_about, events_of, flush

from prefect_snapshots import (
    Repository,
    SnapshotManager,
    aload_snapshot,
    asave_snapshot,
    load_latest,
    load_snapshot,
    save_snapshot,
    snapshot,
    use_repository,
)
from prefect_snapshots.errors import SnapshotExists, SnapshotNotFound
from prefect_snapshots.integration import live
from prefect_snapshots.integration.live import artifact_key

pytestmark = [pytest.mark.xdist_group("prefect"), pytest.mark.usefixtures("prefect_server")]


@pytest.fixture(autouse=True)
def repository(tmp_path: Path) -> Iterator[Repository]:
    """The repository in use, on disk."""
    with use_repository(tmp_path / "repository") as repository:
        yield repository


@pytest.fixture
def name() -> str:
    """A name that no other test reports on."""
    return f"tests/{uuid.uuid4().hex}"


# --- the tasks -------------------------------------------------------------------------------------------------------


def test_save_and_load_in_a_flow(repository: Repository) -> None:
    @flow
    def pipeline() -> list[Any]:
        save_snapshot({"weights": np.arange(4), "step": 1}, "first", metadata={"loss": 0.5}, tags="a")
        future = save_snapshot.submit({"weights": np.arange(5), "step": 2}, "second")
        return [
            future.result(),
            load_snapshot("first")["step"],
            load_snapshot()["step"],
            load_snapshot("first", leaves="weights")["weights"].tolist(),
            load_snapshot("first", like={"weights": np.zeros(4, int), "step": 0})["step"],
        ]

    assert pipeline() == ["second", 1, 2, [0, 1, 2, 3], 1]
    manager = SnapshotManager(repository)
    assert (manager.get_metadata("first"), manager.get_tags("first")) == ({"loss": 0.5}, ["a"])


def test_they_work_without_a_flow_and_map() -> None:
    assert save_snapshot([1, 2], "list", name="alone") == "list"
    assert load_snapshot("list", name="alone") == [1, 2]
    with pytest.raises(SnapshotNotFound, match="no snapshots under the name 'other'"):
        load_snapshot(name="other")
    with pytest.raises(SnapshotExists):
        save_snapshot(3, "list", name="alone")
    assert save_snapshot(3, "list", name="alone", overwrite=True) == "list"

    @flow
    def mapped() -> list[str | None]:
        return save_snapshot.map([1, 2, 3], ["a", "b", "c"], name="mapped").result()

    assert mapped() == ["a", "b", "c"]


def test_the_best_are_kept() -> None:
    options: dict[str, Any] = {"name": "ranked", "rank_by": "loss", "mode": "min", "max_snapshots": 1}
    assert save_snapshot(1, "good", {"loss": 0.1}, **options) == "good"
    assert save_snapshot(2, "bad", {"loss": 0.9}, **options) is None
    assert load_snapshot(name="ranked") == 1


def test_their_asynchronous_twins() -> None:
    @flow
    async def pipeline() -> Any:
        await asave_snapshot({"step": 3}, "third", name="twins")
        return await aload_snapshot("third", name="twins"), await aload_snapshot(name="twins")

    assert asyncio.run(pipeline()) == ({"step": 3}, {"step": 3})
    for synchronous, asynchronous in ((save_snapshot, asave_snapshot), (load_snapshot, aload_snapshot)):
        assert inspect.signature(synchronous).parameters == inspect.signature(asynchronous).parameters


def test_they_take_every_option_of_a_task() -> None:
    attempts: list[str] = []

    def ask(*_: Any) -> bool:
        attempts.append("asked")
        return True

    configured = save_snapshot.with_options(name="Save the weights", tags=["io"], retries=1, retry_condition_fn=ask)
    assert (configured.name, configured.tags, configured.retries) == ("Save the weights", {"io"}, 1)
    assert configured(1, "one", name="options") == "one"
    with pytest.raises(SnapshotExists):
        configured(1, "one", name="options")
    assert attempts == ["asked"]


def test_what_is_quoted_is_saved_as_it_is() -> None:
    assert save_snapshot(quote({"numbers": list(range(1000))}), "quoted", name="quoted") == "quoted"
    assert load_snapshot("quoted", name="quoted") == {"numbers": list(range(1000))}


# --- the report ------------------------------------------------------------------------------------------------------


def test_a_line_in_the_log(caplog: pytest.LogCaptureFixture, name: str) -> None:
    @flow
    def pipeline() -> None:
        data = {f"leaf-{number}": np.full(20_000, number) for number in range(10)}
        save_snapshot(data, "first", {"loss": 0.38}, name=name)
        data["leaf-3"] = data["leaf-3"] + 1
        data["small"] = np.arange(3)
        save_snapshot(data, "second", name=name)

    pipeline()
    [first, second] = [record.getMessage() for record in caplog.records if "Saved snapshot" in record.getMessage()]
    [page] = artifacts_of(name)
    assert f"Saved snapshot 'first' of '{name}': loss=0.38, 1.6 MB, " in first
    assert first.endswith(f"leaves: 10. {PREFECT_UI_URL.value()}/artifacts/artifact/{page.id}"), "the page itself"
    assert second.endswith("changed leaves: 2 of 11 since 'first'."), "one link a run is enough"


def test_one_artifact_lists_the_latest_and_marks_the_best(name: str) -> None:
    @flow
    def pipeline(losses: list[float]) -> None:
        for loss in losses:
            save_snapshot(
                {"loss": loss, "same": 1}, f"loss|{loss}", {"loss": loss}, name=name, rank_by="loss", mode="min"
            )

    pipeline([1 - number / 100 for number in range(12)])
    pipeline([0.5, 0.7])
    flush()
    newer, older = sorted(artifacts_of(name), key=lambda artifact: str(artifact.created), reverse=True)
    text = str(newer.data)
    rows = [row.strip("| ").split(" | ") for row in text.splitlines() if row.startswith("| loss\\|")]
    assert [row[0] for row in rows[:3]] == ["loss\\|0.7", "loss\\|0.5", "loss\\|0.89"]
    assert len(rows) == 10
    assert [row[0] for row in rows if "best" in row[-1]] == ["loss\\|0.5"]
    assert rows[0][2] == "loss=0.7"
    assert rows[0][5] == "1 of 2"
    assert "| snapshots | 14 |" in text
    assert "file://" in str(newer.description)
    assert "| loss\\|0.5 " not in str(older.data)
    assert newer.flow_run_id != older.flow_run_id


def test_the_artifact_is_updated_about_once_a_second_and_for_the_last_time(name: str) -> None:
    @flow
    def pipeline() -> None:
        end = time.monotonic() + 2.5
        number = 0
        while time.monotonic() < end:
            save_snapshot(number, f"s-{number}", name=name)
            number += 1
        save_snapshot(number, "the-last", name=name)

    start = time.monotonic()
    pipeline()
    flush()
    seconds = time.monotonic() - start
    assert "the-last" in artifact_text(name)
    [artifact] = artifacts_of(name)
    assert len(events_about(f"prefect.artifact.{artifact.id}", expected=2)) <= seconds + 2


def test_the_last_update_is_sent_when_python_exits(prefect_server: str, repository: Repository, name: str) -> None:
    program = f"""
    from prefect import flow
    from prefect_snapshots import save_snapshot

    @flow
    def pipeline():
        for number in range(5):
            save_snapshot(number, f"number-{{number}}", name={name!r}, repository={repository.url!r})

    pipeline()
    """
    environment = {**os.environ, "PREFECT_API_URL": prefect_server}
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, env=environment)
    assert "number-4" in artifact_text(name)


def test_events(repository: Repository, name: str) -> None:
    class Undo(Exception):
        """Fails the transaction."""

    @flow
    def pipeline() -> None:
        save_snapshot({"a": 1, "b": 2}, "first", {"loss": float("nan"), "raw": b"\x01"}, ["tag"], name=name)
        save_snapshot({"a": 1, "b": 3}, "second", name=name)
        with transaction():
            save_snapshot(1, "third", name=name, max_snapshots=2)
            raise Undo

    with pytest.raises(Undo):
        pipeline()
    events = events_of(name, expected=5)
    kinds = [event.event.removeprefix("prefect-snapshots.snapshot.") for event in events]
    assert kinds == ["saved", "saved", "saved", "evicted", "rolled-back"]
    first, second, _, evicted, rolled_back = [event.payload for event in events]
    facts = {"repository": repository.url, "name": name}
    record = SnapshotManager(repository, name=name).records.get("first")
    assert first == {
        **facts,
        "snapshot_id": "first",
        "saved_at": record.timestamp.isoformat(),
        "metadata": {"loss": "nan", "raw": "01"},
        "tags": ["tag"],
        "size": record.size,
        "written": record.written,
        "leaves": 2,
        "changed_leaves": None,
    }
    assert (second["snapshot_id"], second["changed_leaves"]) == ("second", 1)
    assert evicted == {**facts, "snapshot_id": "first", "evicted_by": "third"}
    assert rolled_back == {**facts, "snapshot_id": "third", "restored": ["first"]}
    related = {resource.id.split(".")[1] for resource in events[0].related if resource.id.startswith("prefect.")}
    assert {"flow-run", "task-run"} <= related


def test_what_a_busy_server_does_not_take_is_sent_later(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    create, busy = SyncPrefectClient.create_artifact, [True, True]

    def create_artifact(self: SyncPrefectClient, artifact: ArtifactCreate) -> Artifact:
        if busy:
            busy.pop()
            raise httpx.ReadTimeout("timed out")
        return create(self, artifact)

    @flow
    def pipeline() -> None:
        save_snapshot(1, "the-last", name=name)

    monkeypatch.setattr(SyncPrefectClient, "create_artifact", create_artifact)
    monkeypatch.setattr(live, "_AFTER_FAILURE", 0.1)
    pipeline()
    deadline = time.monotonic() + 60
    while not artifacts_of(name):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert "the-last" in artifact_text(name)
    assert caplog.text.count("is not up to date: ReadTimeout") == 2


def test_a_server_that_is_gone_costs_a_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(live, "_FAILURES", 1)  # or it would be tried again beside other tests

    @snapshot(name=name)
    def compute() -> int:
        return 7

    @flow
    def pipeline() -> int:
        with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
            result = compute()
            live.flush()
        return result

    assert pipeline() == 7
    assert load_latest(name) == 7
    assert re.search(rf"\(Snapshots of `{name}` in .*\) is not up to date", caplog.text)


def test_keys_of_artifacts_keep_names_apart() -> None:
    names = ["a/b", "a-b", "A-b", "a_b", "é", "/".join("x" * 100), "y" * 500]
    keys = [artifact_key("snapshots", name) for name in names]
    assert len(set(keys)) == len(names)
    assert all(set(key) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") and len(key) < 255 for key in keys)


def test_a_client_that_is_forgotten_closes_its_connections(prefect_server: str) -> None:
    client = live._client("another server").client
    assert client.api_healthcheck() is None
    live._client.cache_clear()
    with pytest.raises(RuntimeError, match="closed"):
        client.hello()
