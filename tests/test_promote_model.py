"""The promotion flow: a better model goes into production, a worse one does not; a person can have the last word."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
from prefect.flow_runs import resume_flow_run
from prefect.flows import load_flow_from_entrypoint
from prefect_support import artifacts_of, flush

from prefect_snapshots import ArtifactRegistry, SnapshotManager
from prefect_snapshots.errors import CommitConflict, SnapshotNotFound

FLOWS = Path(__file__).parent.parent / "flows"

pytestmark = [pytest.mark.xdist_group("prefect"), pytest.mark.usefixtures("prefect_server")]


@pytest.fixture(scope="module")
def flows() -> Any:
    """The modules of the training and of the promotion."""
    sys.path.insert(0, str(FLOWS))
    try:
        import promote_model
        import train

        yield train, promote_model
    finally:
        sys.path.remove(str(FLOWS))


@pytest.fixture(scope="module")
def trained(flows: Any, prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which an epoch was trained, and its model is in production."""
    train, promote = flows
    place = tmp_path_factory.mktemp("trained")
    train.train(1, repository=str(place))
    decision = promote.promote_model(repository=str(place))
    assert (decision.candidate, decision.production, decision.promoted) == ("v0", None, True)
    return place


@pytest.fixture
def repository(trained: Path, tmp_path: Path) -> str:
    """A copy of it."""
    shutil.copytree(trained, tmp_path / "repository")
    return str(tmp_path / "repository")


def production(repository: str) -> str:
    return ArtifactRegistry(repository).get_artifact("digits-model", "production").version


def test_only_a_better_model_is_promoted(flows: Any, repository: str) -> None:
    train, promote = flows
    again = promote.promote_model(repository=repository)
    assert (again.candidate, again.promoted, again.why) == ("v0", False, "v0 is in production already")
    train.train(4, repository=repository)
    close = promote.promote_model(repository=repository, margin=1.0)
    assert (close.candidate, close.promoted, production(repository)) == ("v1", False, "v0")
    better = promote.promote_model(repository=repository)
    assert better.accuracy > better.production_accuracy
    assert (better.candidate, better.promoted, production(repository)) == ("v1", True, "v1")
    registry = ArtifactRegistry(repository)
    assert [info.written < 1000 for info in registry.list_versions("digits-model")] == [True, True]
    [best, *_] = SnapshotManager(repository, name="digits/best", rank_by="loss", mode="min").get_ids_by_rank()
    info = registry.get_artifact("digits-model", "production")
    assert info.source is not None
    assert info.source["snapshot"] == best
    flush()
    assert any(
        "production is now v1, and was v0" in str(page.data)
        for page in artifacts_of("default/digits-model", "artifacts")
    )


def test_a_person_is_asked(flows: Any, repository: str) -> None:
    train, promote = flows
    train.train(4, repository=repository)
    for approve in (False, True):
        name = f"asking-{approve}-{time.time_ns()}"
        decisions: list[Any] = []
        asking = promote.promote_model.with_options(flow_run_name=name)
        options = {"repository": repository, "ask": True, "poll_interval": 1}
        run = threading.Thread(target=lambda: decisions.append(asking(**options)), daemon=True)  # noqa: B023
        run.start()
        with get_client(sync_client=True) as client:
            wanted = FlowRunFilter(name=FlowRunFilterName(any_=[name]))
            deadline = time.monotonic() + 60
            while not (found := client.read_flow_runs(flow_run_filter=wanted)) or found[0].state_name != "Paused":
                assert run.is_alive()
                assert time.monotonic() < deadline
                time.sleep(0.1)
        assert production(repository) == "v0"
        resume_flow_run(found[0].id, run_input={"approve": approve, "reason": "not today"})
        run.join(60)
        [decision] = decisions
        assert (decision.promoted, production(repository)) == (approve, "v1" if approve else "v0")
        assert ("not today" in decision.why) != approve


def test_a_rival_is_not_undone(flows: Any, repository: str, monkeypatch: pytest.MonkeyPatch) -> None:
    train, promote = flows
    train.train(4, repository=repository)
    score = promote.score

    def slowly(model: str, version: str) -> float:
        registry = ArtifactRegistry(repository)
        if len(registry.list_versions(model)) == 2:
            rival = registry.log_artifact(model, {"params": "another"}, "pytree")
            registry.promote_artifact(model, rival.version, to="production")
        return float(score(model, version))

    monkeypatch.setattr(promote, "score", slowly)
    with pytest.raises(CommitConflict, match="is v2, not v0 as expected"):
        promote.promote_model(repository=repository)
    assert production(repository) == "v2"


def test_nothing_to_promote(flows: Any, tmp_path: Path) -> None:
    with pytest.raises(SnapshotNotFound, match=r"run flows/train\.py first"):
        flows[1].promote_model(repository=str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_it_can_be_deployed_by_its_path() -> None:
    flow: Any = load_flow_from_entrypoint(f"{FLOWS / 'promote_model.py'}:promote_model")
    assert flow.name == "promote-digits"
    assert set(flow.parameters.properties) >= {"name", "model", "repository", "ask", "margin"}
