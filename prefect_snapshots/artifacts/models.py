"""ModelLogger: the state of a model, its optimizers and schedulers as an artifact.

Models of torch become one file, `state.pt`, which torch alone can load. Models of JAX, Flax and Equinox are trees, and
are stored as such: without pickle, and what did not change is stored once. Neither is imported before it is needed.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import InvalidArgument, MissingDependency
from ..values.pickling import load_torch
from .history import VersionLike
from .interface import ArtifactManager, ArtifactVersion

STATE_FILE = "state.pt"


class ModelLogger:
    """Logs the state of models to a store of artifacts, and gets it back without the model's class.

    Arguments:
        artifact_manager: an `ArtifactRegistry`, or any other `ArtifactManager`.

    Example:
        >>> import numpy as np
        >>> from prefect_snapshots import ArtifactRegistry, ModelLogger
        >>> logger = ModelLogger(artifact_manager=ArtifactRegistry("memory://example-models"))
        >>> str(logger.log_state_to_artifact("line", {"slope": np.float32(0.5)}, epoch=3))
        'default/line:v0'
        >>> state = logger.retrieve_state_from_artifact("line")
        >>> state["model"], state["epoch"]
        ({'slope': np.float32(0.5)}, 3)
    """

    def __init__(self, artifact_manager: ArtifactManager) -> None:
        self.artifact_manager = artifact_manager

    def log_state_to_artifact(
        self,
        name: str,
        model: Any,
        optimizers: Any = None,
        schedulers: Any = None,
        *,
        collection: str | None = None,
        **extra: Any,
    ) -> ArtifactVersion:
        """Log the state of a model as a new version.

        Arguments:
            name: the artifact.
            model: a `torch.nn.Module`, or a tree of arrays: parameters of Flax, a module of Equinox, a dictionary. A
                model that is wrapped to be distributed or compiled is unwrapped.
            optimizers, schedulers: one or a list of those of torch; for a tree, the tree of their state.
            collection: default: the active one.
            extra: more to store under its own name, such as `epoch=3`.
        """
        if _is_torch(model):
            with tempfile.TemporaryDirectory(prefix="prefect-snapshots-") as folder:
                path = self.save_state(folder, model, optimizers, schedulers, **extra)
                return self.artifact_manager.log_files(name, path, collection)
        state = {"model": model, "optimizers": optimizers, "schedulers": schedulers, **extra}
        return self.artifact_manager.log_artifact(name, state, "pytree", collection=collection)

    def save_state(
        self,
        directory: str | os.PathLike[str],
        model: Any,
        optimizers: Any = None,
        schedulers: Any = None,
        **extra: Any,
    ) -> Path:
        """Write the state of a torch model as `state.pt` into a directory. The arguments are those of
        `log_state_to_artifact`.

        Returns:
            The path of the file. `torch.load` makes of it a dictionary of `model`, `optimizers`, `schedulers` and what
            was `extra`, with the state dictionaries of each.

        Raises:
            InvalidArgument: the model is none of torch.
        """
        if not _is_torch(model):
            raise InvalidArgument(f"a {type(model).__name__} is no torch.nn.Module: log_state_to_artifact takes it")
        import torch

        state = {
            "model": _unwrapped(model).state_dict(),
            "optimizers": [one.state_dict() for one in _several(optimizers)],
            "schedulers": [one.state_dict() for one in _several(schedulers)],
            **extra,
        }
        path = Path(directory) / STATE_FILE
        torch.save(state, path)
        return path

    def retrieve_state_from_artifact(
        self,
        name: str,
        version: VersionLike = None,
        device: Any = None,
        *,
        collection: str | None = None,
        weights_only: bool = True,
    ) -> dict[str, Any]:
        """The state of a model: a dictionary of `model`, `optimizers`, `schedulers` and what was `extra`.

        Arguments:
            name, version, collection: as for `ArtifactRegistry.get_artifact`.
            device: where the arrays shall be: of torch, a device or its name (default: the GPU if there is one);
                of JAX, a device or the name of a platform (default: JAX's own default).
            weights_only: of torch: load tensors and plain values only. False runs what is pickled in the file: say so
                only for an artifact of your own.
        """
        found = self.artifact_manager.get_artifact(name, version, collection=collection)
        if found.handler is not None:
            state = self.artifact_manager.load_artifact(name, found.version, collection=collection)
            return state if device is None else _put(state, device)
        try:
            import torch
        except ImportError as error:
            raise MissingDependency('this model needs torch: pip install "prefect-snapshots[torch]"') from error

        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        with self.artifact_manager.download_artifact(name, collection, found.version) as folder:
            allowed = self.artifact_manager.allow_pickle
            path = folder / STATE_FILE
            return dict(load_torch(path, device=device, weights_only=weights_only, allow_pickle=allowed))


def _is_torch(model: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def _unwrapped(model: Any) -> Any:
    import torch

    model = getattr(model, "_orig_mod", model)  # of torch.compile
    while isinstance(model, torch.nn.DataParallel | torch.nn.parallel.DistributedDataParallel):
        model = model.module
    return model


def _several(given: Any) -> Iterable[Any]:
    if given is None:
        return ()
    return given if isinstance(given, list | tuple) else (given,)


def _put(state: dict[str, Any], device: Any) -> dict[str, Any]:
    import jax

    target = jax.devices(device)[0] if isinstance(device, str) else device

    def move(leaf: Any) -> Any:
        return jax.device_put(leaf, target) if isinstance(leaf, jax.Array) else leaf

    moved: dict[str, Any] = jax.tree.map(move, state)
    return moved
