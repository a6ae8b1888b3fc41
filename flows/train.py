"""Train a small classifier of handwritten digits, and lose nothing to a kill on the way.

    python flows/train.py                                  train, or go on where an earlier run was stopped
    python flows/train.py --epochs 40 --repository s3://bucket/snapshots
    python flows/train.py demo                             kill a run, resume it, compare it with one left alone

The data are scikit-learn's digits, which the package ships. A *state* is all that the training needs to go on: weights,
Adam's moments, the random key, the number of the epoch. After every epoch it is saved twice: under `NAME/best`, where
the three with the least validation loss stay, and under `NAME/latest`, where the last one stays, to resume from. What
both hold is stored once. The order makes a kill between the two harmless: the epoch is repeated, to the same bits, and
takes the place of its twin among the best.
"""

from __future__ import annotations

import functools
import logging
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypedDict, cast

import cyclopts
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.logging import get_run_logger
from prefect.settings import (
    PREFECT_SERVER_ANALYTICS_ENABLED,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    get_current_settings,
    temporary_settings,
)
from pydantic import PositiveInt
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits

from prefect_snapshots import Snapshot, SnapshotManager, load_latest, save_snapshot, use_repository
from prefect_snapshots.integration.blocks import current_repository

LAYERS = (64, 128, 64, 10)
BATCH = 32
LEARNING_RATE = 3e-3
KEPT = 3
REPORT = "digits-training"
"""The key of the report in the Prefect UI."""

PREFECT_SETTINGS = {PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: 120, PREFECT_SERVER_ANALYTICS_ENABLED: False}
"""Of the demo: when Prefect's own server first starts, it makes its database, which takes a small machine a minute."""

Params = list[dict[str, jax.Array]]
app = cyclopts.App(help=__doc__.partition("\n")[0])
tell = functools.partial(Console(highlight=False).print, soft_wrap=True)


class State(TypedDict):
    """All that the training needs to go on."""

    epoch: int
    key: jax.Array
    params: Params
    adam: dict[str, Any]


class Metrics(TypedDict):
    """What an epoch reached on the validation set."""

    epoch: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class Report:
    """What a run has to say in the end."""

    resumed_from: int
    """The last epoch of an earlier run; 0 when this one began anew."""
    best: list[Metrics]
    """Of the snapshots that were kept, the best first."""
    test_accuracy: float
    """Of the best one."""


# --- the flow ---------------------------------------------------------------------------------------------------------


@flow(name="train-digits")
def train(epochs: PositiveInt = 20, name: str = "digits", repository: str | None = None, seed: int = 0) -> Report:
    """Train up to an epoch, from the last snapshot on if there is one; evaluate the best one, and report it.

    Args:
        epochs: the number of the last epoch.
        name: what the snapshots are called: another name trains another model.
        repository: a URL or path. Default: the setting, the block `prefect-snapshots-repository/default`, or
            `./snapshots`.
        seed: of the weights and of the order of the samples.
    """
    with use_repository(current_repository(repository)) as opened:
        state: State = load_latest(f"{name}/latest", default=None) or initial_state(seed)
        resumed_from = state["epoch"]
        if resumed_from:
            get_run_logger().info("Going on after epoch %d.", resumed_from)
        for epoch in range(resumed_from + 1, epochs + 1):
            state, metrics = train_epoch.with_options(task_run_name=f"epoch-{epoch}")(state)
            save = functools.partial(save_snapshot, state, epoch_id(epoch), metrics, overwrite=True)
            save(name=f"{name}/best", rank_by="loss", mode="min", max_snapshots=KEPT)
            save(name=f"{name}/latest", max_snapshots=1)
        best = SnapshotManager[State](opened, name=f"{name}/best", rank_by="loss", mode="min")
        kept = [best[snapshot_id] for snapshot_id in best.get_ids_by_rank()]
        report = Report(resumed_from, [metrics_of(one) for one in kept], evaluate(kept[0].data["params"]))
        leave_report(name, report)
        return report


@task(cache_policy=NO_CACHE)
def train_epoch(state: State) -> tuple[State, Metrics]:
    """One pass over the training set, and how good the result is on the validation set."""
    data = digits()
    params, adam, key = run_epoch(state["params"], state["adam"], state["key"], *data["train"])
    after = State(epoch=state["epoch"] + 1, key=key, params=params, adam=adam)
    loss, accuracy = measure(params, *data["validation"])
    metrics = Metrics(epoch=after["epoch"], loss=float(loss), accuracy=float(accuracy))
    get_run_logger().info(f"Epoch {after['epoch']}: validation loss {loss:.4f}, accuracy {accuracy:.1%}.")
    return after, metrics


@task(cache_policy=NO_CACHE)
def evaluate(params: Params) -> float:
    """The share of the test set that the model gets right."""
    return float(measure(params, *digits()["test"])[1])


def leave_report(name: str, report: Report) -> None:
    """Put the report where the Prefect UI finds it."""
    create_table_artifact(
        key=REPORT,
        table=[dict(row) for row in report.best],
        description=f"The best of `{name}`: {report.test_accuracy:.1%} of the test set. "
        + (f"Resumed after epoch {report.resumed_from}." if report.resumed_from else "Trained in one go."),
    )


def epoch_id(epoch: int) -> str:
    """The id of the snapshot of an epoch. Ids sort as epochs do."""
    return f"epoch-{epoch:04}"


def metrics_of(snapshot: Snapshot[State]) -> Metrics:
    """The metrics that were saved with a state."""
    return cast(Metrics, snapshot.metadata)


# --- the model --------------------------------------------------------------------------------------------------------


@functools.cache
def digits() -> dict[str, tuple[NDArray[np.float32], NDArray[np.int32]]]:
    """1,797 images of 8 x 8 pixels in [0, 1] and their labels: to train, to validate, to test."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = (images[order] / 16).astype(np.float32), labels[order].astype(np.int32)
    parts = {"train": slice(1197), "validation": slice(1197, 1497), "test": slice(1497, None)}
    return {name: (images[part], labels[part]) for name, part in parts.items()}


def initial_state(seed: int) -> State:
    """Random weights (He et al. 2015), before the first epoch."""
    key, *keys = jax.random.split(jax.random.key(seed), len(LAYERS))
    params: Params = [
        {"kernel": jax.random.normal(one, (inputs, outputs)) * np.sqrt(2 / inputs), "bias": jnp.zeros(outputs)}
        for one, inputs, outputs in zip(keys, LAYERS[:-1], LAYERS[1:], strict=True)
    ]
    zeros = jax.tree.map(jnp.zeros_like, params)
    return State(
        epoch=0, key=key, params=params, adam={"step": jnp.zeros((), jnp.int32), "mean": zeros, "square": zeros}
    )


def logits(params: Params, images: Any) -> jax.Array:
    """What the network says of each image: (images, 10)."""
    *hidden, last = params
    for layer in hidden:
        images = jax.nn.relu(images @ layer["kernel"] + layer["bias"])
    return jnp.asarray(images @ last["kernel"] + last["bias"])


def cross_entropy(params: Params, images: Any, labels: Any) -> jax.Array:
    """Mean over the images."""
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits(params, images)), labels[:, None], axis=1)
    return -picked.mean()


@jax.jit
def run_epoch(params: Params, adam: dict[str, Any], key: jax.Array, images: Any, labels: Any) -> Any:
    """One pass over shuffled batches. Returns new weights, moments and key."""
    key, shuffle = jax.random.split(key)
    batches = jax.random.permutation(shuffle, len(images))[: len(images) // BATCH * BATCH].reshape(-1, BATCH)

    def step(carry: Any, batch: jax.Array) -> tuple[Any, None]:
        params, adam = carry
        gradients = jax.grad(cross_entropy)(params, images[batch], labels[batch])
        return adam_step(params, adam, gradients), None

    (params, adam), _ = jax.lax.scan(step, (params, adam), batches)
    return params, adam, key


def adam_step(params: Params, adam: dict[str, Any], gradients: Params) -> tuple[Params, dict[str, Any]]:
    """One step of Adam (Kingma and Ba 2015, algorithm 1)."""
    step = adam["step"] + 1
    mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, adam["mean"], gradients)
    square = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, adam["square"], gradients)

    def update(param: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
        unbiased_mean, unbiased_square = m / (1 - 0.9**step), v / (1 - 0.999**step)
        change: jax.Array = LEARNING_RATE * unbiased_mean / (jnp.sqrt(unbiased_square) + 1e-8)
        return param - change

    updated: Params = jax.tree.map(update, params, mean, square)
    return updated, {"step": step, "mean": mean, "square": square}


@jax.jit
def measure(params: Params, images: Any, labels: Any) -> tuple[jax.Array, jax.Array]:
    """Loss and accuracy."""
    return cross_entropy(params, images, labels), jnp.mean(logits(params, images).argmax(axis=1) == labels)


# --- on the command line ----------------------------------------------------------------------------------------------


@app.default
def main(epochs: int = 20, name: str = "digits", repository: str | None = None, seed: int = 0) -> None:
    """Train, or go on where an earlier run was stopped.

    Parameters
    ----------
    epochs
        The number of the last epoch.
    name
        What the snapshots are called: another name trains another model.
    repository
        A URL or path; default: the setting, the block prefect-snapshots-repository/default, else ./snapshots.
    seed
        Of the weights and of the order of the samples.
    """
    show(train(epochs, name, repository, seed))


@app.command
def demo(epochs: int = 16, kill_after: int = 6, repository: str = "./snapshots") -> None:
    """Kill a run, resume it, and compare it with one that was left alone.

    Parameters
    ----------
    epochs
        The number of the last epoch.
    kill_after
        The run is killed as soon as this epoch is saved.
    repository
        A URL or path. Every demo takes a new name in it.
    """
    name = f"digits-demo-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    quieten_console()
    with temporary_settings(PREFECT_SETTINGS), tempfile.TemporaryDirectory() as elsewhere:
        tell(f"[b]1.[/b] Training {name} up to epoch {epochs}, for comparison in another repository ...")
        train(epochs, name, elsewhere)
        tell("[b]2.[/b] The same again, in another process ...")
        tell(
            f"   Killed it (SIGKILL). The last snapshot is {train_until_killed(kill_after, epochs, name, repository)}."
        )
        tell("[b]3.[/b] Going on from there ...")
        report = train(epochs, name, repository)
        undisturbed, resumed = (load_latest(f"{name}/latest", repository=where) for where in (elsewhere, repository))
    if bits_of(resumed) != bits_of(undisturbed):
        sys.exit("The resumed run ended with other weights than the undisturbed one.")
    tell("   Both ended with the same weights, moments and random key, bit for bit.\n")
    show(report)
    ui = get_current_settings().ui_url or "http://127.0.0.1:4200"
    tell(f"\nThe report: {ui}/artifacts/key/{REPORT}, after [b]prefect server start[/b]")
    tell(
        f"The snapshots: [b]prefect-snapshots snapshots list {name}/best --rank-by loss --mode min -r {repository}[/b]"
    )


def show(report: Report) -> None:
    """Print the snapshots that were kept."""
    table = Table()
    for heading in ("epoch", "validation loss", "validation accuracy"):
        table.add_column(heading, justify="right")
    for row in report.best:
        table.add_row(str(row["epoch"]), f"{row['loss']:.4f}", f"{row['accuracy']:.1%}")
    tell(table)
    tell(f"The best of them gets {report.test_accuracy:.1%} of the test set right.")


def train_until_killed(kill_after: int, epochs: int, name: str, repository: str) -> str:
    """Train in another process, and kill it when an epoch is saved. Returns the id of the last snapshot."""
    with get_client(sync_client=True) as client:
        # A Prefect server of its own would survive the kill.
        environment = {**os.environ, "PREFECT_API_URL": str(client.api_url)}
    options = ["--epochs", str(epochs), "--name", name, "--repository", repository]
    latest = SnapshotManager(repository, name=f"{name}/latest")
    process = subprocess.Popen([sys.executable, __file__, *options], env=environment, stdout=subprocess.DEVNULL)
    try:
        while not any(snapshot_id >= epoch_id(kill_after) for snapshot_id in latest):
            if process.poll() is not None:
                sys.exit(f"The training ended (exit {process.returncode}) before epoch {kill_after} was saved.")
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    [last] = latest
    return last


def quieten_console() -> None:
    """Show errors only, of this process. In the Prefect UI the logs stay complete."""
    # For the processes to come: the training to be killed, and Prefect's server, which tells at length that it ends.
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
    for handler in logging.getLogger().handlers:
        handler.setLevel(logging.ERROR)


def bits_of(state: State) -> list[bytes]:
    """Every leaf of a state, as bytes."""
    leaves = jax.tree.leaves({**state, "key": jax.random.key_data(state["key"])})
    return [np.asarray(leaf).tobytes() for leaf in leaves]


if __name__ == "__main__":
    app()
