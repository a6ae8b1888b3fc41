"""PreemptionWatch: notice that this process will be stopped soon, to save before it is."""

from __future__ import annotations

import importlib
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from ..errors import InvalidArgument
from ..values.arrays import loaded_jax


class PreemptionWatch:
    """Notice that this process is about to be stopped, to save a snapshot before it is.

    Schedulers, Kubernetes and Prefect's workers send SIGTERM, and wait for some seconds before they kill a process. In
    the `with` block, the signal does not end the process: `reached` says that it has arrived. When the block ends, the
    signal takes its usual course, so that the process, or the flow run, ends as it would have without the watch. A
    second signal takes its course at once.

    In a run of several JAX processes, the preemption service of `jax.distributed` watches for the signal. It chooses
    one step for all processes. Call `reached` in every process and at every step.

    Raises:
        InvalidArgument: It is not the main thread, or the preemption service of JAX is off.

    Example:
        >>> import os, signal
        >>> from prefect_snapshots import PreemptionWatch, SnapshotManager
        >>> manager = SnapshotManager("memory://example-preemption")
        >>> stop = signal.signal(signal.SIGTERM, lambda *_: print("stopped"))
        >>> with PreemptionWatch() as watch:
        ...     for step in range(100):
        ...         if step == 7:
        ...             os.kill(os.getpid(), signal.SIGTERM)
        ...         if watch.reached(step):
        ...             _ = manager.save_snapshot({"step": step}, f"step-{step}")
        ...             break
        stopped
        >>> manager.get_latest_snapshot().data
        {'step': 7}
        >>> _ = signal.signal(signal.SIGTERM, stop)
    """

    def __init__(self) -> None:
        self._arrived = False
        self._before: Any = None
        self._service: Callable[[int], bool] | None = None

    def __enter__(self) -> Self:
        self._arrived = False
        self._service = _service()
        if self._service is None:
            if threading.current_thread() is not threading.main_thread():
                raise InvalidArgument("A PreemptionWatch must be entered in the main thread, which gets all signals.")
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._service is None:
            # A handler that was not set in Python cannot be set again by it.
            signal.signal(signal.SIGTERM, signal.SIG_DFL if self._before is None else self._before)
            if self._arrived:
                signal.raise_signal(signal.SIGTERM)

    def reached(self, step: int) -> bool:
        """Return whether to save now and to stop.

        Args:
            step: The number of the step. Only a run of several JAX processes uses it.
        """
        return self._arrived if self._service is None else self._service(step)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._arrived:
            signal.signal(signal.SIGTERM, signal.SIG_DFL if self._before is None else self._before)
            signal.raise_signal(signal.SIGTERM)
        self._arrived = True


def _service() -> Callable[[int], bool] | None:
    """Return the preemption service of JAX if this is one of several processes."""
    jax = loaded_jax()
    if jax is None or not jax.distributed.is_initialized() or jax.process_count() == 1:
        return None
    utilities = importlib.import_module("jax.experimental.multihost_utils")
    reached: Callable[[int], bool] = utilities.reached_preemption_sync_point
    if not jax.config.jax_enable_preemption_service:
        raise InvalidArgument(
            "The preemption service of JAX is off. Before jax.distributed.initialize, call "
            "jax.config.update('jax_enable_preemption_service', True)."
        )
    return reached
