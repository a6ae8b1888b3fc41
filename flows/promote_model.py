"""Take the best snapshot of the training, make it a version of the model, and put it into production if it is better.

    python flows/train.py                       train something first
    python flows/promote_model.py               log the best snapshot, compare it with production, promote it if better
    python flows/promote_model.py --ask         let a person decide, in the Prefect UI

The model is the artifact `digits-model`, and `production` is one of its stages. Making a version of a snapshot copies
nothing: both are the same chunks. Running this again changes nothing, and if somebody else promotes meanwhile, this run
fails and says what it found, instead of undoing what they did.
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from typing import Any

import cyclopts
from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.logging import get_run_logger
from prefect.settings import temporary_settings
from pydantic import Field
from train import PREFECT_SETTINGS, Params, evaluate, quieten_console, tell

from prefect_snapshots import (
    ArtifactRegistry,
    SnapshotManager,
    load_artifact,
    promote_artifact,
    promote_snapshot,
    use_repository,
)
from prefect_snapshots.errors import ArtifactNotFound, SnapshotNotFound
from prefect_snapshots.integration.blocks import current_repository

STAGE = "production"
REPORT = "digits-promotion"
"""The key of the report in the Prefect UI."""
PATIENCE = 24 * 3600
"""Seconds that a person has for an answer."""

app = cyclopts.App(help=__doc__.partition("\n")[0])


@dataclass(frozen=True)
class Decision:
    """What came of it."""

    candidate: str
    """The version that the best snapshot is."""
    accuracy: float
    """Of the candidate, on the test set."""
    production: str | None
    """The version that was in production."""
    production_accuracy: float | None
    promoted: bool
    why: str


class Approval(RunInput):
    """What a person is asked, before a model goes into production."""

    approve: bool = Field(default=False, description="Whether it goes into production.")
    reason: str = Field(default="", description="For those who look at the timeline of the model later.")


@flow(name="promote-digits")
def promote_model(
    name: str = "digits",
    model: str = "digits-model",
    repository: str | None = None,
    ask: bool = False,
    margin: float = 0.0,
    poll_interval: int = 10,
) -> Decision:
    """Log the best snapshot as a version of the model, and promote it if it beats what is in production.

    Args:
        name: what the snapshots of the training are called.
        model: the artifact.
        repository: a URL or path. Default: the setting, the block `prefect-snapshots-repository/default`, or
            `./snapshots`.
        ask: let a person decide: the run waits, and its page in the UI has a form.
        margin: by how much of the test set a candidate has to be better, from 0 to 1.
        poll_interval: seconds between two looks whether the person has answered.

    Raises:
        SnapshotNotFound: nothing was trained yet.
        CommitConflict: somebody else put another version into production while this one was compared.
    """
    with use_repository(current_repository(repository)) as opened:
        training: SnapshotManager[Any] = SnapshotManager(opened, name=f"{name}/best", rank_by="loss", mode="min")
        best = next(iter(training.get_ids_by_rank()), None)
        if best is None:
            raise SnapshotNotFound(f"{opened.url} has no snapshots under {name}/best: run flows/train.py first")
        registry = ArtifactRegistry(opened)
        candidate = promote_snapshot(best, model, name=f"{name}/best").version
        production = version_in_production(registry, model)
        accuracy = score(model, candidate)
        reached = score(model, production) if production else None
        decision = functools.partial(Decision, candidate, accuracy, production, reached)
        if candidate == production:
            decided = decision(False, f"{candidate} is in {STAGE} already")
        elif reached is not None and accuracy <= reached + margin:
            decided = decision(False, f"{candidate} gets {accuracy:.1%} right, and {production} {reached:.1%}")
        elif ask and (refused := refusal(best, candidate, accuracy, production, reached, poll_interval)):
            decided = decision(False, refused)
        else:
            promote_artifact(model, candidate, to=STAGE, expected=production)
            than = f"{production} only {reached:.1%}" if reached is not None else f"nothing was in {STAGE} yet"
            decided = decision(True, f"{candidate} gets {accuracy:.1%} right, and {than}")
        leave_report(model, decided)
        return decided


def version_in_production(registry: ArtifactRegistry, model: str) -> str | None:
    """The version that is in production; None when there is none."""
    try:
        return registry.get_artifact(model, STAGE).version
    except ArtifactNotFound:
        return None


@task(cache_policy=NO_CACHE)
def score(model: str, version: str) -> float:
    """The share of the test set that a version of the model gets right. Only its weights are read."""
    params: Params = load_artifact.fn(model, version, leaves="params/**")["params"]
    return evaluate.fn(params)


def refusal(
    snapshot_id: str, candidate: str, accuracy: float, production: str | None, reached: float | None, interval: int
) -> str | None:
    """Wait until a person has filled in the form on the page of this run: why not; None if it is approved."""
    now = f"{production}, which gets {reached:.1%}" if reached is not None else "nothing"
    form = Approval.with_initial_data(
        description=f"**{candidate}**, snapshot `{snapshot_id}`, gets **{accuracy:.1%}** of the test set right. "
        f"In {STAGE} is {now}. Shall {candidate} go into {STAGE}?"
    )
    answer = pause_flow_run(wait_for_input=form, timeout=PATIENCE, poll_interval=interval)
    assert answer is not None
    return None if answer.approve else f"not approved: {answer.reason or 'no reason was given'}"


def leave_report(model: str, decision: Decision) -> None:
    """Say what was decided, and why, where people look for it."""
    what = "promoted" if decision.promoted else "not promoted"
    get_run_logger().info("%s %s: %s.", model, what, decision.why)
    create_table_artifact(key=REPORT, table=[asdict(decision)], description=f"`{model}` {what}: {decision.why}.")


@app.default
def main(name: str = "digits", model: str = "digits-model", repository: str | None = None, ask: bool = False) -> None:
    """Log the best snapshot, compare it with production, promote it if it is better.

    Parameters
    ----------
    name
        What the snapshots of the training are called.
    model
        The artifact.
    repository
        A URL or path; default: the setting, the block prefect-snapshots-repository/default, else ./snapshots.
    ask
        Let a person decide in the Prefect UI.
    """
    quieten_console()
    with temporary_settings(PREFECT_SETTINGS):
        decision = promote_model(name, model, repository, ask)
    tell(f"{'Promoted' if decision.promoted else 'Not promoted'}: {decision.why}.")
    tell(f"The model: [b]prefect-snapshots artifacts list {model}{f' -r {repository}' if repository else ''}[/b]")


if __name__ == "__main__":
    app()
