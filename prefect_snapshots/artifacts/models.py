"""ModelLogger: log the state of a model, its optimizers and schedulers as an artifact.

The state of a PyTorch model becomes one file, `state.pt`, which PyTorch can load without this package. Models of JAX,
Flax and Equinox are stored as pytrees: without pickle, and with unchanged leaves stored only once. PyTorch
and JAX are imported only when they are needed.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..arguments import checking_types
from ..errors import InvalidArgument, MissingDependency
from ..values.pickling import load_torch
from .handlers import reading
from .history import VersionLike
from .infos import ArtifactVersion
from .manager import ArtifactManager

STATE_FILE = "state.pt"


@checking_types
class ModelLogger:
    """Log the state of models as artifacts, and load it without the model's class.

    Args:
        artifact_manager: Where to store the artifacts: an `ArtifactRegistry`, or any other `ArtifactManager`.

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

        Args:
            name: The name of the artifact.
            model: A `torch.nn.Module`, or a pytree of arrays, such as Flax parameters, an Equinox module or a
                dictionary. A model wrapped by `torch.compile` or for distributed training is unwrapped.
            optimizers, schedulers: For PyTorch, one or a list of them. A scheduler may be in a dictionary, as in
                Lightning: `{"scheduler": scheduler, "interval": "epoch"}`. For a pytree, the pytree of their state.
                Default: none.
            collection: The collection of the artifact. Default: the active one.
            extra: Other values to store, by name, such as `epoch=3`.

        Returns:
            The version that was logged, with its name and number.

        Raises:
            UnserialisableLeaf: A leaf of the pytree cannot be stored. Nothing was saved.
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
        """Write the state of a PyTorch model to the file `state.pt` in a directory.

        Args:
            directory: A directory. It is created if it does not exist.
            model, optimizers, schedulers, extra: As for `log_state_to_artifact`.

        Returns:
            The path of the file. `torch.load` returns a dictionary with the state dictionaries `model`, `optimizers`
            and `schedulers`, and with the keys of `extra`.

        Raises:
            InvalidArgument: The model is not a `torch.nn.Module`, or an optimizer or scheduler is none of PyTorch.
        """
        if not _is_torch(model):
            raise InvalidArgument(
                f"save_state() needs a torch.nn.Module, not {type(model).__name__}. Use log_state_to_artifact() for a "
                "pytree."
            )
        import torch

        state = {
            "model": _unwrapped(model).state_dict(),
            "optimizers": [_state_of(one) for one in _several(optimizers)],
            "schedulers": [_state_of(one["scheduler"] if _has_options(one) else one) for one in _several(schedulers)],
            **extra,
        }
        path = Path(directory) / STATE_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
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
        """Load the state of a model.

        Args:
            name, version, collection: As for `ArtifactRegistry.get_artifact`.
            device: The device for the arrays. For PyTorch, a device or its name (default: the GPU if there is one,
                otherwise the CPU). For JAX, a device or the name of a platform (default: the default device of JAX).
            weights_only: Whether to load only tensors and plain values from a PyTorch file. False runs any code that is
                pickled in the file, so use it only for artifacts that you trust.

        Returns:
            A dictionary with the keys `model`, `optimizers`, `schedulers`, and those of `extra`.

        Raises:
            ArtifactNotFound: There is no such artifact or version.
            MissingDependency: The model was logged with PyTorch, which is not installed.
            PickleRefused: The file needs pickle, which is not allowed.
        """
        found = self.artifact_manager.get_artifact(name, version, collection=collection)
        if found.handler is not None:
            state = self.artifact_manager.load_artifact(name, found.version, collection=collection)
            return state if device is None else _put(state, device)
        try:
            import torch
        except ImportError as error:
            raise MissingDependency(
                'This model was logged with PyTorch. Run `pip install "prefect-snapshots[torch]"` to load it.'
            ) from error

        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        with self.artifact_manager.download_artifact(name, collection, found.version) as folder:
            allowed = self.artifact_manager.allow_pickle
            path = folder / STATE_FILE
            with reading("torch", f"{name}:{found.version}", {}):
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


def _has_options(scheduler: Any) -> bool:
    """Return whether a scheduler is in a dictionary of Lightning, with options such as how often it steps."""
    return isinstance(scheduler, dict) and "scheduler" in scheduler


def _state_of(one: Any) -> Any:
    try:
        read = one.state_dict
    except AttributeError:
        raise InvalidArgument(
            f"{type(one).__name__} is no optimizer or scheduler of PyTorch: it has no state_dict(). Nothing was saved."
        ) from None
    return read()


def _put(state: dict[str, Any], device: Any) -> dict[str, Any]:
    import jax

    target = jax.devices(device)[0] if isinstance(device, str) else device

    def move(leaf: Any) -> Any:
        return jax.device_put(leaf, target) if isinstance(leaf, jax.Array) else leaf

    moved: dict[str, Any] = jax.tree.map(move, state)
    return moved
