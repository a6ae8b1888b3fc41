"""The processes of a JAX run, which call a method together: process 0 decides and commits for all of them.

Every process calls the same methods in the same order, as in any JAX program for several processes. Each call is a
*turn* with its own number. In each turn the processes exchange a few bytes through the key-value store of
`jax.distributed.initialize`; data goes through the repository.

A process that fails tells process 0, which tells all others. One that ends, or never calls, is noticed after the time
that `process_timeout` gives it beyond the first one.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import itertools
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from types import FunctionType
from typing import Any, TypeVar, cast

import msgspec

from .. import errors
from ..errors import UNDECODABLE, ProcessFailed, SnapshotsError, UnserialisableLeaf
from ..repository.threads import Lock
from ..values import is_spread, iter_leaves

T = TypeVar("T")

_SLICE = 1.0
"""Seconds after which a waiting process looks whether it was interrupted: the wait itself cannot be."""

_NOT_DONE = "Nothing was saved or changed."
_UNSURE = "Look whether it was done before you repeat it."
_FAILURE = "_failure_of_a_process"

_turns: defaultdict[str, Iterator[int]] = defaultdict(itertools.count)
_lock = Lock()


class ProcessFailure(msgspec.Struct, array_like=True, frozen=True):
    """An error of one process, as the others get it."""

    process: int
    name: str
    message: str
    details: dict[str, str | int | None]
    """Attributes of the error, such as the token of an unknown commit."""

    @classmethod
    def of(cls, process: int, error: BaseException) -> ProcessFailure:
        """Describe an error. One that came from another process is passed on as it was."""
        if isinstance(passed := vars(error).get(_FAILURE), cls):
            return passed
        details = {
            name: value
            for name, value in vars(error).items()
            if isinstance(value, str | int | None) and name[:1] != "_"
        }
        return cls(process, type(error).__name__, str(error) or type(error).__name__, details)

    def error(self) -> SnapshotsError:
        """Return the error to raise in another process: of the same class if it is one of ours."""
        found = getattr(errors, self.name, None)
        text = f"Process {self.process} of the run failed: {self.message}"
        if found is errors.ProcessesDisagree:
            text = self.message  # which names the processes
        if not (isinstance(found, type) and issubclass(found, SnapshotsError)):
            # Any error may interrupt process 0 after it has committed, for example Ctrl-C.
            error: SnapshotsError = ProcessFailed(f"{text} ({self.name}). {_NOT_DONE if self.process else _UNSURE}")
        elif isinstance(found.__init__, FunctionType):
            error = _relay(found, text, self.details)
        else:
            error = found(text)  # its only argument is the message
        vars(error)[_FAILURE] = self
        return error


def _relay(found: type[SnapshotsError], text: str, details: dict[str, Any]) -> SnapshotsError:
    """Return an error of a class, with the whole message instead of the arguments of its constructor."""

    class Relayed(found):  # type: ignore[valid-type,misc]
        def _message(self) -> str:
            return text

        def __reduce__(self) -> tuple[Any, ...]:
            return _relay, (found, text, details)

    Relayed.__name__ = Relayed.__qualname__ = found.__name__
    error: SnapshotsError = Relayed.__new__(Relayed)
    vars(error).update(details)
    return error


class Turn:
    """One call of a method by all processes.

    Args:
        client: JAX's client of the key-value store.
        prefix: The beginning of the keys of this turn.
        index: The number of this process.
        count: How many processes there are.
        timeout: How many seconds a process may be later than another one.

    Attributes:
        attempt: How often this turn was begun again. Reports and answers of each attempt have their own keys.
    """

    def __init__(self, client: Any, prefix: str, index: int, count: int, timeout: float) -> None:
        self._client = client
        self._prefix = prefix
        self._timeout = timeout
        self.index = index
        self.count = count
        self.attempt = 0

    @property
    def leads(self) -> bool:
        """Whether this process commits."""
        return self.index == 0

    def report(self, value: Any) -> None:
        """Send a value to process 0."""
        self._set(f"report/{self.attempt}/{self.index}", value)

    def fail(self, error: BaseException) -> None:
        """Tell the others that this process has failed."""
        failure = ProcessFailure.of(self.index, error)
        # The caller raises `error`, which says more than that the others cannot be told, or were told before.
        with contextlib.suppress(Exception):
            if self.leads:
                self.answer(failure)
            else:
                self.report(failure)

    def reports(self, kind: type[T], processes: Iterable[int]) -> dict[int, T]:
        """Return what other processes report to process 0. Raises the error of the first that has failed."""
        end = time.monotonic() + self._timeout
        found = {}
        for process in processes:
            key = f"report/{self.attempt}/{process}"
            data = self._get(key, end, process)
            self._client.key_value_delete(f"{self._prefix}/{key}")
            found[process] = _opened(data, kind)
        return found

    def answer(self, value: Any) -> None:
        """Send a value from process 0 to all others."""
        self._set(f"answer/{self.attempt}", value)

    def wait(self, kind: type[T]) -> T:
        """Return the answer of process 0. Raises the error if there is one."""
        # Process 0 may begin so much later than this one, and then wait as long for the last one.
        return _opened(self._get(f"answer/{self.attempt}", time.monotonic() + 2 * self._timeout, 0), kind)

    def _set(self, key: str, value: Any) -> None:
        failed = isinstance(value, ProcessFailure)
        self._client.key_value_set_bytes(f"{self._prefix}/{key}", msgspec.msgpack.encode([failed, value]))

    def _get(self, key: str, end: float, process: int) -> bytes:
        while True:
            left = end - time.monotonic()
            try:
                milliseconds = max(int(min(left, _SLICE) * 1000), 1)
                return bytes(self._client.blocking_key_value_get_bytes(f"{self._prefix}/{key}", milliseconds))
            except Exception as error:  # of a class that JAX does not publish
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise ProcessFailed(self._late(process, f"the run of JAX has ended ({error})")) from error
                if left <= 0:
                    raise ProcessFailed(
                        self._late(process, f"it did not answer within {self._timeout:g} s (process_timeout)")
                    ) from None

    def _late(self, process: int, why: str) -> str:
        outcome = _NOT_DONE if self.leads else _UNSURE
        return f"Process {process} of {self.count} did not take part in this call: {why}. {outcome}"


def _opened(data: bytes, kind: type[T]) -> T:
    """Return the value in a message. Raises the error of the process that sent it, if it failed."""
    try:
        failed, value = msgspec.msgpack.decode(data, type=tuple[bool, msgspec.Raw])
        found: Any = msgspec.msgpack.decode(value, type=ProcessFailure if failed else kind)
    except UNDECODABLE as error:
        raise ProcessFailed(
            f"A message of another process of the run is not understood ({error}). {_UNSURE} Use the same version of "
            "prefect-snapshots in all processes."
        ) from None
    if failed:
        raise found.error()
    return cast("T", found)


def turn_of(scope: str, timeout: float) -> Turn | None:
    """Begin a turn, or return None if JAX runs in one process only.

    Args:
        scope: Names what the turns are about. Each scope has its own sequence of turns.
        timeout: See `Turn`.
    """
    if "jax" not in sys.modules:
        return None
    client, index, count = runtime()
    if client is None or count < 2:
        return None
    prefix = f"prefect-snapshots/{hashlib.sha256(scope.encode()).hexdigest()[:16]}"
    with _lock:
        number = next(_turns[prefix])
    return Turn(client, f"{prefix}/{number}", index, count, timeout)


def runtime() -> tuple[Any, int, int]:
    """Return JAX's client of the key-value store (None without `jax.distributed`), the index and number of processes.

    JAX has no public way to the store, which Orbax uses in the same way. Asking `jax.process_count()` would start JAX's
    devices, after which `jax.distributed.initialize` fails.
    """
    state = importlib.import_module("jax._src.distributed").global_state
    return state.client, state.process_id or 0, state.num_processes or 1


def concerns_all(value: Any) -> bool:
    """Whether all processes of this run have to save a value together, because it has arrays on devices of several."""
    if "jax" not in sys.modules or runtime()[2] < 2:
        return False
    try:
        return any(is_spread(leaf) for _, leaf in iter_leaves(value))
    except UnserialisableLeaf:
        return False  # it contains itself, so it is stored as one pickle


def together(
    turn: Turn,
    plan: Callable[[], dict[str, Any]],
    act: Callable[[], int | None],
    check: Callable[[dict[str, Any], int, dict[str, Any]], None],
) -> int | None:
    """Let process 0 do something once, and return its result in all processes.

    Args:
        turn: The turn of this call.
        plan: Returns what a process is about to do. If it fails in one of them, nothing is done.
        act: What process 0 does.
        check: Takes the plan of process 0, the number of another process, and its plan. Raises an error if they differ.
    """
    try:
        mine = plan()
        if turn.leads:
            for process, other in turn.reports(dict[str, Any], range(1, turn.count)).items():
                check(mine, process, other)
            done = act()
            turn.answer(done)
            return done
        turn.report(mine)
    except BaseException as error:
        turn.fail(error)
        raise
    return turn.wait(int | None)  # type: ignore[arg-type]
