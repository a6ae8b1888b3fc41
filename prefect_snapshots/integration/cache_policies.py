"""A cache policy for Prefect tasks whose key changes exactly when the task, its code or its inputs change.

Prefect's own `INPUTS` leaves the task out of the key, and hashes sets and classes of `__main__` differently in each
process; `TASK_SOURCE` ignores closures and called functions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from prefect.cache_policies import CachePolicy
from prefect.context import TaskRunContext

from ..checkpoints import fingerprint, stable_hash


@dataclass
class StableInputs(CachePolicy):
    """Cache a task by its name, the fingerprint of its function, and the content of its inputs.

    The key is the same in every process and for every hash seed. `STABLE_INPUTS - "logger"` ignores an input.

    Args:
        exclude: Names of inputs to ignore. Default: none.

    Example:
        >>> from prefect import task
        >>> from prefect_snapshots import STABLE_INPUTS
        >>> @task(cache_policy=STABLE_INPUTS, persist_result=True)
        ... def load(path: str, encodings: set[str]) -> str: ...
    """

    exclude: tuple[str, ...] = ()

    def compute_key(
        self, task_ctx: TaskRunContext, inputs: dict[str, Any], flow_parameters: dict[str, Any], **kwargs: Any
    ) -> str:
        """Return the key of a task run: 32 hexadecimal digits.

        Args:
            task_ctx: The context of the task run, as Prefect passes it.
            inputs: The arguments of the task, by name.
            flow_parameters: The parameters of the flow. They are ignored.
            kwargs: Arguments of later versions of Prefect. They are ignored.

        Raises:
            UnhashableItem: The content of an input cannot be reproduced in another process.
            UnfingerprintableFunction: The source of the function is not available.
        """
        counted = {name: value for name, value in inputs.items() if name not in self.exclude}
        return stable_hash((task_ctx.task.name, fingerprint(task_ctx.task.fn), counted)).hex()

    def __sub__(self, other: str) -> StableInputs:
        return replace(self, exclude=(*self.exclude, other))


STABLE_INPUTS = StableInputs()
"""The policy that uses all inputs of a task."""
