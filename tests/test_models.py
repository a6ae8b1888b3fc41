"""Models of torch, JAX, Flax and Equinox: their state comes back, and what torch wrote is torch's own file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import equinox as eqx
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from torch import nn, optim

from prefect_snapshots import ArtifactRegistry, ModelLogger, Repository
from prefect_snapshots.errors import ArtifactNotFound, InvalidArgument, PickleRefused


@pytest.fixture
def logger(tmp_path: Path) -> ModelLogger:
    return ModelLogger(artifact_manager=ArtifactRegistry(tmp_path / "repository"))


def trained() -> tuple[nn.Module, optim.Optimizer]:
    model = nn.Linear(10, 2)
    optimizer = optim.Adam(model.parameters(), lr=0.001)
    model(torch.ones(3, 10)).sum().backward()
    optimizer.step()
    return model, optimizer


def test_the_example_of_the_model_logger(logger: ModelLogger) -> None:
    model, optimizer = trained()
    afid = logger.log_state_to_artifact("my_model_state", model, optimizers=[optimizer])
    assert str(afid) == "default/my_model_state:v0"
    state = logger.retrieve_state_from_artifact("my_model_state", device="cpu")
    fresh = nn.Linear(10, 2)
    fresh.load_state_dict(state["model"])
    assert torch.equal(fresh.weight, model.weight)  # type: ignore[arg-type]
    again = optim.Adam(fresh.parameters(), lr=1.0)
    again.load_state_dict(state["optimizers"][0])
    assert again.param_groups[0]["lr"] == 0.001
    assert state["schedulers"] == []


def test_the_file_is_torchs_own(logger: ModelLogger, tmp_path: Path) -> None:
    model, optimizer = trained()
    scheduler = optim.lr_scheduler.StepLR(optimizer, 5)
    logger.log_state_to_artifact("m", model, optimizer, scheduler, epoch=7)
    logger.artifact_manager.download_artifact("m", to=tmp_path / "to")
    state = torch.load(tmp_path / "to" / "state.pt", weights_only=True)
    assert torch.equal(state["model"]["weight"], model.weight)  # type: ignore[arg-type]
    assert state["schedulers"][0]["step_size"] == 5
    assert state["epoch"] == 7


def test_a_scheduler_may_have_the_options_of_lightning(logger: ModelLogger, tmp_path: Path) -> None:
    model, optimizer = trained()
    scheduler = {"scheduler": optim.lr_scheduler.StepLR(optimizer, 5), "interval": "epoch"}
    path = logger.save_state(tmp_path / "new" / "folder", model, optimizer, scheduler)
    assert torch.load(path, weights_only=True)["schedulers"][0]["step_size"] == 5
    with pytest.raises(InvalidArgument, match="dict is no optimizer or scheduler"):
        logger.save_state(tmp_path, model, [optimizer], [{"interval": "epoch"}])


@pytest.mark.parametrize("weights_only", [True, False])
def test_a_torch_file_is_a_pickle(tmp_path: Path, weights_only: bool) -> None:
    ModelLogger(ArtifactRegistry(tmp_path / "r")).log_state_to_artifact("m", trained()[0])
    distrustful = ModelLogger(ArtifactRegistry(Repository(tmp_path / "r", allow_pickle=False)))
    with pytest.raises(PickleRefused, match="This file of torch was"):
        distrustful.retrieve_state_from_artifact("m", weights_only=weights_only)


def test_versions_of_a_model(logger: ModelLogger) -> None:
    for epoch in range(3):
        logger.log_state_to_artifact("m", trained()[0], collection="team", epoch=epoch)
    assert logger.retrieve_state_from_artifact("m", 1, collection="team")["epoch"] == 1
    assert logger.retrieve_state_from_artifact("m", collection="team")["epoch"] == 2
    with pytest.raises(ArtifactNotFound):
        logger.retrieve_state_from_artifact("m")


def test_wrapped_models_are_unwrapped(logger: ModelLogger, tmp_path: Path) -> None:
    model, _ = trained()
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        wrapped = [nn.parallel.DistributedDataParallel(model), nn.DataParallel(model), torch.compile(model)]
        for number, one in enumerate(wrapped):
            logger.log_state_to_artifact(f"m{number}", one)
            assert set(logger.retrieve_state_from_artifact(f"m{number}")["model"]) == {"weight", "bias"}
    finally:
        torch.distributed.destroy_process_group()


def test_code_in_a_file_of_torch_is_not_run_unasked(logger: ModelLogger) -> None:
    model, _ = trained()
    logger.log_state_to_artifact("m", model, config=Path("an object that is no weight"))
    with pytest.raises(Exception, match=r"(?i)weights_only"):
        logger.retrieve_state_from_artifact("m")
    assert logger.retrieve_state_from_artifact("m", weights_only=False)["config"] == Path("an object that is no weight")


def test_save_state_is_for_torch(tmp_path: Path, logger: ModelLogger) -> None:
    assert logger.save_state(tmp_path, trained()[0]) == tmp_path / "state.pt"
    with pytest.raises(InvalidArgument, match=r"needs a torch\.nn\.Module, not dict"):
        logger.save_state(tmp_path, {"w": 1})


class Net(eqx.Module):
    """A module of Equinox."""

    layer: eqx.nn.Linear
    scale: jax.Array
    name: str = eqx.field(static=True, default="net")

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.layer(x) * self.scale


def test_modules_of_equinox(logger: ModelLogger) -> None:
    model = Net(eqx.nn.Linear(3, 2, key=jax.random.key(0)), jnp.array(2.0))
    optimizer = optax.adam(0.1)
    logger.log_state_to_artifact("net", model, optimizer.init(eqx.filter(model, eqx.is_array)))
    state = logger.retrieve_state_from_artifact("net", device="cpu")
    assert isinstance(state["model"], Net)
    np.testing.assert_array_equal(state["model"](jnp.ones(3)), model(jnp.ones(3)))
    assert state["model"].scale.devices() == {jax.devices("cpu")[0]}
    assert int(state["optimizers"][0].count) == 0


def test_parameters_of_flax(logger: ModelLogger) -> None:
    module = linen.Dense(4)
    parameters: Any = module.init(jax.random.key(0), jnp.ones((1, 3)))
    logger.log_state_to_artifact("dense", parameters, epoch=2)
    state = logger.retrieve_state_from_artifact("dense")
    np.testing.assert_array_equal(
        module.apply(state["model"], jnp.ones((1, 3))), module.apply(parameters, jnp.ones((1, 3)))
    )
    assert state["epoch"] == 2


def test_unchanged_layers_are_stored_once(logger: ModelLogger) -> None:
    parameters = {f"layer-{n}": np.random.default_rng(n).random(250_000, np.float32) for n in range(8)}
    logger.log_state_to_artifact("tree", parameters)
    parameters["layer-3"] = parameters["layer-3"] + 1
    logger.log_state_to_artifact("tree", parameters)
    assert logger.artifact_manager.get_artifact("tree").written < 1_100_000
    model = nn.Sequential(*(nn.Linear(500, 500) for _ in range(8)))
    logger.log_state_to_artifact("torch", model)
    with torch.no_grad():
        model[3].weight.add_(1)  # type: ignore[operator]
    logger.log_state_to_artifact("torch", model)
    assert logger.artifact_manager.get_artifact("torch").written < 1_800_000
