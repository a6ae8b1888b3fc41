"""`@checkpointed`: a Prefect task that stores the result of every item, and computes only the missing ones.

Mapped over an iterable, it computes *batches* of items. Each batch has its own task run, which writes the results
directly to the repository, not through the flow. A result that was written is never computed again. One more task run,
in the state Cached, represents all items that were computed before.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import inspect
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import Future as ThreadFuture
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload

import numpy as np
from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.exceptions import MappingLengthMismatch, MappingMissingIterable, TerminationSignal
from prefect.futures import PrefectFuture, PrefectTaskRunFuture, wait
from prefect.settings import get_current_settings
from prefect.states import Completed, Failed
from prefect.utilities.annotations import unmapped
from prefect.utilities.collections import isiterable
from prefect.utilities.engine import collect_task_run_inputs_sync, resolve_inputs_sync

from ...arguments import check_names, checking_types
from ...checkpoints import (
    RAISE,
    CheckpointManager,
    Failure,
    ItemBatch,
    Job,
    JobPlan,
    RunCounts,
    check_batches,
    collect,
    exception_classes,
    failures_of,
    find_done,
    item_keys,
    make_job,
    open_log,
    run_batch,
    stable_hash,
)
from ...documents.texts import count_text
from ...errors import IncompleteResults, InvalidArgument
from ...messages import hint
from ...repository.choosing import RepositoryLike
from ...repository.handing_over import WithSecrets
from ..blocks import current_repository
from ..run_context import run_logger
from ..terminal import hide_traceback_of_interrupt
from .report import Processing, cancel_waiting, outcome_of

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_BATCH_SIZE = 100
"""Items per task run. A task run costs about 10 ms in Prefect, so 100 items cost 0.1 ms each."""
_MAX_WAIT_TIME = 10.0
"""Seconds between two writes within a batch: the most computing time that a killed process loses."""
_INCOMPLETE = "CompletedWithFailures"
"""The name of the state of a batch or map of which items have no result. Its type is that of a completed run."""
_PATIENCE = 10.0
"""Seconds to wait after an interrupt for the items that are being computed, before the line that says what is kept."""
_AHEAD = 32
"""How many batches may be running or queued while an iterable without a length is read. Enough for 32 workers; more
would only keep more items in memory."""


@dataclass(frozen=True)
class _Options:
    """The options of the decorator, without those of the task. They are pickled with the function."""

    repository: RepositoryLike | None
    name: str | None
    key: Callable[..., Any] | None
    ignore: tuple[str, ...]
    function_version: object
    batch_size: int
    max_wait_time: float | None
    max_retries: int
    fatal_exceptions: type[BaseException] | tuple[type[BaseException], ...]
    max_consecutive_exceptions: int | None
    skip_item_errors: bool
    retry_failed_items: bool
    fail_if_incomplete: bool
    cache_expiration: timedelta | None

    def __post_init__(self) -> None:
        check_batches(self.batch_size, self.max_wait_time)
        most = self.max_consecutive_exceptions
        if most is not None and most > self.batch_size:
            raise InvalidArgument(
                f"max_consecutive_exceptions={most} can never be reached: it counts within one batch, and a batch has "
                f"only {count_text(self.batch_size, 'item')}. Pass a larger batch_size or a smaller limit."
            )
        if self.key is not None and self.ignore:
            raise InvalidArgument("Pass either key or ignore: a function `key` decides itself what identifies an item.")

    def job(self, fn: Callable[..., Any], *, refresh: bool) -> Job:
        names = self.__dataclass_fields__.keys() - {"repository", "key", "ignore", "fail_if_incomplete"}
        settings = {name: getattr(self, name) for name in names}
        if (instance := _instance_of(fn)) is not None:
            if _self_of(fn) in self.ignore:
                settings["identity"] = fn.__func__  # type: ignore[attr-defined]
            elif self.function_version is not None:
                settings["function_version"] = [self.function_version, stable_hash(instance)]
        return make_job(current_repository(self.repository), fn, refresh=refresh, **settings)


@overload
def checkpointed(fn: Callable[P, R], /) -> CheckpointedTask[P, R]: ...


@overload
def checkpointed(
    fn: None = None,
    /,
    *,
    repository: RepositoryLike | None = None,
    name: str | None = None,
    key: Callable[..., Any] | None = None,
    ignore: str | Sequence[str] = (),
    function_version: object = None,
    batch_size: int = ...,
    max_wait_time: float | None = ...,
    max_retries: int = 3,
    fatal_exceptions: type[BaseException] | Sequence[type[BaseException]] = (),
    max_consecutive_exceptions: int | None = None,
    skip_item_errors: bool = False,
    retry_failed_items: bool = False,
    fail_if_incomplete: bool = False,
    cache_expiration: timedelta | None = None,
    **task_options: Any,
) -> Callable[[Callable[P, R]], CheckpointedTask[P, R]]: ...


@checking_types
def checkpointed(
    fn: Callable[P, R] | None = None,
    /,
    *,
    repository: RepositoryLike | None = None,
    name: str | None = None,
    key: Callable[..., Any] | None = None,
    ignore: str | Sequence[str] = (),
    function_version: object = None,
    batch_size: int = _BATCH_SIZE,
    max_wait_time: float | None = _MAX_WAIT_TIME,
    max_retries: int = 3,
    fatal_exceptions: type[BaseException] | Sequence[type[BaseException]] = (),
    max_consecutive_exceptions: int | None = None,
    skip_item_errors: bool = False,
    retry_failed_items: bool = False,
    fail_if_incomplete: bool = False,
    cache_expiration: timedelta | None = None,
    **task_options: Any,
) -> CheckpointedTask[P, R] | Callable[[Callable[P, R]], CheckpointedTask[P, R]]:
    """Turn a function into a task that stores the result of every item, so that a rerun computes only what is missing.

    Args:
        fn: The function, asynchronous or not.
        repository: A repository, a URL or a block. Default: the repository of the run.
        name: The name of the checkpoints and of the task. Default: the module and qualified name of the function for
            the checkpoints, and its plain name for the task.
        key: A function that gets the arguments of a call and returns what identifies the item. Default: the content
            of the arguments.
        ignore: Names of arguments that do not identify an item, such as "verbose". An item that was computed with one
            value of them is not computed again for another value.
        function_version: Identifies the code of the function. Default: a fingerprint of its source. Results of
            another version are not used.
        batch_size: How many items a task run computes. At most this many results are written together.
        max_wait_time: The most seconds between two writes within a batch. None writes a batch only when it is done.
        max_retries: How often a failing item is retried, immediately. The task option `retries` says how often a
            whole batch is retried; results that it had written are not computed again.
        fatal_exceptions: Exceptions that are neither retried nor skipped.
        max_consecutive_exceptions: How many failing items in a row fail their batch. Default: no limit.
        skip_item_errors: Continue when an item fails. `CheckpointedFuture.failed_items` lists these items.
        retry_failed_items: Whether to retry items that failed in an earlier run.
        fail_if_incomplete: Whether a map of which items have no result ends in a failed state. Default: it completes,
            in a state named `CompletedWithFailures`. A flow that returns the future ends in this state.
        cache_expiration: Items are computed again if their results are older than this. Default: results do not expire.
        task_options: Any option of `@task`. `refresh_cache=True` recomputes everything.

    Returns:
        A task. Calls and `.submit` use the checkpoints, too.

    Raises:
        InvalidArgument: An option is invalid, or two options contradict each other.

    Example:
        >>> from prefect import flow
        >>> from prefect_snapshots import checkpointed
        >>> @checkpointed(repository="memory://example", batch_size=500, function_version=1)
        ... def square(x: int) -> int:
        ...     return x * x
        >>> @flow
        ... def squares() -> list[int]:
        ...     return square.map(range(1000)).result()
        >>> sum(squares())
        332833500
    """
    options = _Options(
        repository,
        name,
        key,
        (ignore,) if isinstance(ignore, str) else tuple(ignore),
        function_version,
        batch_size,
        max_wait_time,
        max_retries,
        exception_classes(fatal_exceptions),
        max_consecutive_exceptions,
        skip_item_errors,
        retry_failed_items,
        fail_if_incomplete,
        cache_expiration,
    )
    if name is not None:
        task_options.setdefault("name", name)

    def decorate(fn: Callable[P, R]) -> CheckpointedTask[P, R]:
        return CheckpointedTask(fn, options, **task_options)

    return decorate if fn is None else decorate(fn)


def _check_options(options: Iterable[str]) -> None:
    """Raise an error for a name that is an option of neither the checkpoints nor a Prefect task."""
    known = {*_Options.__dataclass_fields__, *inspect.signature(Task.__init__).parameters} - {"self", "fn"}
    check_names("@checkpointed", options, known)


class CheckpointedTask(Task[P, R]):
    """A task that stores the result of every item. `@checkpointed` returns one."""

    def __init__(self, fn: Callable[P, R], options: _Options, **task_options: Any) -> None:
        if isinstance(fn, Task):
            raise InvalidArgument(
                f"{fn.name!r} is a task already. Remove @task, and pass its options to @checkpointed."
            )
        if not callable(fn):
            raise InvalidArgument(f"@checkpointed decorates a function, not {fn!r}. Pass options by name.")
        if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
            raise InvalidArgument(
                f"{fn.__qualname__} is a generator function. Its result can be read only once, so it cannot be "
                "stored. Return a list instead."
            )
        self._function = fn
        self._options = options
        _check_options(task_options)
        _check_ignored(fn, options.ignore)
        task_options.setdefault("cache_policy", NO_CACHE)
        task_options.setdefault("persist_result", False)
        super().__init__(fn=self._calling(), **task_options)

    def with_options(self, **options: Any) -> CheckpointedTask[P, R]:
        """Return the same task with other options, of the checkpoints or of the task.

        Args:
            options: Options of `checkpointed` or of a Prefect task. Options that you leave out keep their values.
        """
        mine = {name: options.pop(name) for name in list(options) if name in _Options.__dataclass_fields__}
        if "ignore" in mine:
            mine["ignore"] = (mine["ignore"],) if isinstance(mine["ignore"], str) else tuple(mine["ignore"])
            _check_ignored(self._function, mine["ignore"])
        if "name" in mine:
            options["name"] = mine["name"]
        _check_options(options)
        plain = super().with_options(**options)
        task = object.__new__(type(self))
        vars(task).update(vars(plain))
        task._function = self._function
        task._options = replace(self._options, **mine)
        task.fn = task._calling()
        return task

    def __get__(self, instance: Any, owner: Any = None) -> CheckpointedTask[P, R]:
        """Return the task of a method of an object. The object is part of the fingerprint of the function."""
        if instance is None:
            return self
        task = copy.copy(self)
        task._function = self._function.__get__(instance, owner)
        task.fn = task._calling()
        return task

    def is_done(self, *args: Any, **kwargs: Any) -> bool:
        """Return whether a call with these arguments has a result that has not expired. The function is not called.

        Args:
            args, kwargs: The arguments of the function, as for a call.

        Raises:
            UnhashableItem: The arguments cannot be compared between processes. Pass `key` or `ignore`.

        Example:
            >>> from prefect_snapshots import checkpointed
            >>> @checkpointed(repository="memory://example-call-is-done", function_version=1)
            ... def square(x: int) -> int:
            ...     return x * x
            >>> square(3), square.is_done(3), square.is_done(4)
            (9, True, False)
        """
        job, item = self._one(args, kwargs)
        return bool(find_done(job, item_keys([item], key=job.key))[0])

    @overload  # type: ignore[override]
    def map(
        self: CheckpointedTask[P, Coroutine[Any, Any, T]], *args: Any, wait_for: Any = None, **kwargs: Any
    ) -> CheckpointedFuture[T]: ...

    @overload
    def map(self, *args: Any, wait_for: Any = None, **kwargs: Any) -> CheckpointedFuture[R]: ...

    def map(self, *args: Any, wait_for: Any = None, **kwargs: Any) -> CheckpointedFuture[Any]:
        """Call the function for every item of one or more iterables, except for items that already have a result.

        Returns immediately. If an iterable has no length, only a bounded number of its items is read ahead, and `map`
        returns when the last batch is submitted.

        Args:
            args, kwargs: The arguments of the function, each as an iterable of values. All iterables must have the
                same length. Values that are not iterable, or wrapped in `unmapped`, are passed to every call.
            wait_for: Futures to wait for before the first batch starts.

        Returns:
            A future. Its `result()` is the list of all results, in the order of the items.

        Raises:
            MappingLengthMismatch: The iterables have different lengths.
            MappingMissingIterable: No argument is iterable.
            RuntimeError: You called it outside of a flow.
        """
        context = FlowRunContext.get()
        if context is None:
            raise RuntimeError(f"{self.name}.map() works only inside a flow. Outside of a flow, use Snapper.")
        parameters = inspect.signature(self._function).bind(*args, **kwargs).arguments
        upstream = set().union(*(collect_task_run_inputs_sync(value, max_depth=0) for value in parameters.values()))
        parameters = resolve_inputs_sync(_spread(self._function, parameters), max_depth=0)
        job, items, total = self._mapped(parameters)
        submit = functools.partial(context.task_runner.submit, wait_for=wait_for, dependencies={"work": upstream})
        return _Mapping(self, job, items, total, submit).start()

    # --- one call ------------------------------------------------------------------------------------------------

    def _calling(self) -> Callable[..., Any]:
        function = self._function
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def call(*args: Any, **kwargs: Any) -> Any:
                return await asyncio.to_thread(self._call, args, kwargs)

            return call

        @functools.wraps(function)
        def call_directly(*args: Any, **kwargs: Any) -> Any:
            return self._call(args, kwargs)

        return call_directly

    def _call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Return the stored result of one item, or compute and store it."""
        job, item = self._one(args, kwargs)
        job = replace(job, skip_item_errors=False, retry_failed_items=True)
        keys = item_keys([item], key=job.key)
        counts = run_batch(job, ItemBatch([item], keys, np.zeros(1, np.int64)))
        if not counts.worked:
            run_logger().info("%s: the result was stored before in %s.", self.name, job.repository.url)
        return next(collect(job, keys))

    def _one(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Job, Any]:
        """Return the job and the item of one call."""
        given = inspect.signature(self._function).bind(*args, **kwargs).arguments
        arguments = _given(self._function, given, self._options.ignore)
        item = next(iter(arguments.values())) if self._is_plain(arguments) else dict(arguments)
        return self._job(arguments, {}), item

    # --- many ----------------------------------------------------------------------------------------------------

    def _mapped(self, parameters: Mapping[str, Any]) -> tuple[Job, Iterable[Any], int | None]:
        """Return the job, its items, and the number of items if it is known."""
        mapped: dict[str, Iterable[Any]] = {}
        constants: dict[str, Any] = {}
        for name, value in parameters.items():
            if isinstance(value, unmapped):
                constants[name] = value.value
            elif isiterable(value):
                mapped[name] = value
            else:
                constants[name] = value
        if not mapped:
            raise MappingMissingIterable(f"{self.name}.map() needs at least one iterable, but got {dict(parameters)}.")
        lengths = {name: len(value) for name, value in mapped.items() if isinstance(value, Sized)}
        if len(set(lengths.values())) > 1:
            raise MappingLengthMismatch(f"{self.name}.map() needs iterables of the same length, but got {lengths}.")
        names = tuple(mapped)
        columns = [_resolved(values) for values in mapped.values()]
        if self._is_plain([*mapped, *constants]):
            items: Iterable[Any] = columns[0]
        else:
            items = (dict(zip(names, row, strict=True)) for row in _rows(self.name, columns))
        total = next(iter(lengths.values())) if len(lengths) == len(mapped) else None
        return self._job([*mapped, *constants], constants), items, total

    def _job(self, names: Iterable[str], constants: Mapping[str, Any]) -> Job:
        """Return the job for calls with arguments of these names; `constants` are the same in every call."""
        function, key = self._function, self._options.key
        refresh = self.refresh_cache
        if refresh is None:
            refresh = bool(get_current_settings().tasks.refresh_cache)
        job = self._options.job(function, refresh=refresh)
        if self._is_plain(names):
            return replace(job, key=key)
        if key is not None:

            def key_of(item: Mapping[str, Any]) -> Any:
                return _call_with(key, function, {**item, **constants})

        else:
            ignored = self._options.ignore
            defaults = _digests(_defaults(function), ignored)
            digests = _digests(constants, ignored)

            def key_of(item: Mapping[str, Any]) -> Any:
                found = {**_digests(item, ignored), **digests}
                given = {name: digest for name, digest in found.items() if digest != defaults.get(name)}
                return item[next(iter(given))] if _is_plain(function, given) and not digests else given

        return replace(job, key=key_of, function=_with_constants(function, constants))

    def _is_plain(self, names: Iterable[str]) -> bool:
        """Return whether the first argument of a call, which is the only one, is the item itself."""
        return _is_plain(self._function, names) and not set(names) & {*self._options.ignore}


@checking_types
class CheckpointedFuture(PrefectTaskRunFuture[list[R]], Generic[R]):
    """The results of a map that may still be running.

    Attributes:
        futures: The futures of the batches.
    """

    def __init__(self, job: Job, plan: JobPlan, futures: list[PrefectFuture[Any]], ends: list[int], run: Any) -> None:
        super().__init__(run)
        self.futures = futures
        self._job = job
        self._plan = plan
        self._ends = ends
        self._processing: Processing | None = None
        self._interruptions: _Interruptions | None = None
        self._fails = False

    def wait(self, timeout: float | None = None) -> None:
        """Wait until all batches have ended.

        Args:
            timeout: The most seconds to wait. Default: no limit.
        """
        with self._interruptible():
            pending = wait(list(self.futures), timeout=timeout).not_done
        if not pending and self._processing is not None:
            self._processing.finish()

    def result(self, timeout: float | None = None, raise_on_failure: bool = True, *, missing: Any = RAISE) -> list[R]:
        """Return the results of all items, in their order.

        Args:
            timeout: The most seconds to wait. Default: no limit.
            raise_on_failure: If False, return None for an item that failed instead of raising its error.
            missing: What to return for an item that failed. Default: raise `IncompleteResults`.

        Raises:
            Exception: The error of the function, unless failing items are skipped.
            IncompleteResults: Items failed, and you did not pass `missing`.
            TimeoutError: Some batches did not end in time.
        """
        self._wait_to_the_end(timeout)
        if raise_on_failure:
            for future in self.futures:
                future.result()
        elif missing is RAISE:
            missing = None
        return list(collect(self._job, self._plan.keys, missing=missing))

    def iter_results(self, *, missing: Any = RAISE) -> Iterator[R]:
        """Yield the results one by one, in order, as soon as they are available. Uses constant memory.

        Args:
            missing: What to yield for an item that failed. Default: raise `IncompleteResults`.

        Raises:
            Exception: The error of the function, unless failing items are skipped.
            IncompleteResults: An item failed, and you did not pass `missing`.
        """
        log = open_log(self._job)
        keys = self._plan.keys
        first = 0
        for future, end in zip(self.futures, self._ends, strict=True):
            with self._interruptible():
                future.result()
            log.refresh()
            yield from collect(self._job, keys[first:end], missing=missing, log=log)
            first = end
        self.wait()
        yield from collect(self._job, keys[first:], missing=missing, log=log)

    @property
    def failed_items(self) -> dict[int, Failure]:
        """Return why items have no result, by position. Waits for all batches."""
        self.wait()
        return failures_of(open_log(self._job), self._plan.keys)

    def report(self, format: str = "markdown") -> str:
        """Report throughput, slow items and failures, as `"markdown"` or `"json"`. Waits for all batches.

        Args:
            format: "markdown", for people, or "json", for programs.

        Returns:
            The report, as a string.
        """
        self.wait()
        job = self._job
        return CheckpointManager(job.repository).report(job.name, job.fingerprint, format=format)  # type: ignore[arg-type]

    @property
    def state(self) -> State[list[R]]:
        """The state of the first batch that is not completed. If all are, a completed state with the counts.

        If items have no result, its name is `CompletedWithFailures`, or with `fail_if_incomplete` it is a failed state.
        """
        for future in self.futures:
            if not future.state.is_completed():
                return future.state
        counts = self._plan.counts
        for future in self.futures:
            counts = counts.after(outcome_of(future) or RunCounts())
        if counts.missing and self._fails:
            failed = counts.failed + counts.failed_before
            first = min(self.failed_items, default=0)
            return Failed(message=str(counts), data=IncompleteResults(counts.missing, failed, counts.total, first))
        name = _INCOMPLETE if counts.missing else "Completed"
        return Completed(name=name, message=str(counts), data=self.result(raise_on_failure=False))

    def add_done_callback(self, fn: Callable[[PrefectFuture[list[R]]], None]) -> None:
        """Call a function with this future when all batches have ended.

        Args:
            fn: The function. It runs in the thread that ends the last batch.
        """
        all_done: ThreadFuture[None] = ThreadFuture()
        left = len(self.futures)

        def one_ended(_: PrefectFuture[Any]) -> None:
            nonlocal left
            left -= 1
            if not left:
                all_done.set_result(None)

        all_done.add_done_callback(lambda _: fn(self))
        if not left:
            all_done.set_result(None)
        for future in self.futures:
            future.add_done_callback(one_ended)

    def _interruptible(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self._interruptions is None else self._interruptions.told()

    def _wait_to_the_end(self, timeout: float | None) -> None:
        with self._interruptible():
            pending = wait(list(self.futures), timeout=timeout).not_done
        if pending:
            raise TimeoutError(
                f"{len(pending)} of {count_text(len(self.futures), 'batch', 'batches')} did not end within {timeout} s "
                "and continue in the background."
            )
        if self._processing is not None:
            self._processing.finish()


# --- submitting batches ------------------------------------------------------------------------------------------


class _Interruptions:
    """How an interrupt of the flow ends a map: batches end after their current item, and one line says what is kept.

    Args:
        processing: The report of the map.
        futures: The futures of the batches that are submitted.

    Attributes:
        stopping: Not empty when the batches of this process are to end. Other processes get a copy that stays empty:
            their task runner stops them.
    """

    def __init__(self, processing: Processing, futures: list[PrefectFuture[Any]]) -> None:
        self.stopping: list[object] = []
        self._processing = processing
        self._futures = futures

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        try:
            yield
        except (KeyboardInterrupt, TerminationSignal):
            self.stopping.append(True)
            cancel_waiting(self._futures)
            self._processing.interrupted(_PATIENCE)
            hide_traceback_of_interrupt()
            raise


class _Mapping(Generic[R]):
    """One call of `map`."""

    def __init__(
        self,
        task: CheckpointedTask[Any, R],
        job: Job,
        items: Iterable[Any],
        total: int | None,
        submit: Callable[..., PrefectFuture[Any]],
    ) -> None:
        self._task = task
        self._job = job
        self._plan = JobPlan(job, items)
        self._total = total
        self._submit = submit
        self._futures: list[PrefectFuture[Any]] = []
        self._ends: list[int] = []
        self._processing = Processing(job, task.name)
        self._interruptions = _Interruptions(self._processing, self._futures)

    def start(self) -> CheckpointedFuture[R]:
        batches: Iterable[ItemBatch] = self._plan
        with self._interruptions.told():
            try:
                if self._total is not None:
                    batches = list(batches)
                    self._processing.begin(self._plan.counts, sum(map(len, batches)), len(batches))
                for batch in batches:
                    self._add(batch)
                    if self._total is None and not self._keep_up():
                        break
            except Exception:
                wait(list(self._futures))  # so that the results of batches submitted before are stored
                raise
        run_id = (
            self._stand_in() if self._plan.counts.done_before or not self._futures else self._futures[-1].task_run_id
        )
        future: CheckpointedFuture[R] = CheckpointedFuture(self._job, self._plan, self._futures, self._ends, run_id)
        future._processing, future._interruptions = self._processing, self._interruptions
        future._fails = self._task._options.fail_if_incomplete
        self._processing.all_submitted(self._plan)
        return future

    def _add(self, batch: ItemBatch) -> None:
        first, last = int(batch.positions[0]), int(batch.positions[-1])
        task = _task_for(self._task, _do_batch)
        parameters = {
            "label": f"{self._task.name}[{first}-{last}]",
            "work": _Work(self._job, batch, self._interruptions.stopping),
        }
        future = self._submit(task=task, parameters=parameters)
        self._futures.append(future)
        self._ends.append(last + 1)
        self._processing.submitted(future)

    def _keep_up(self) -> bool:
        """Wait until few batches are pending. Return False if one has failed, because the map fails then."""
        if len(self._futures) >= _AHEAD:
            earlier = self._futures[-_AHEAD]
            earlier.wait()
            return earlier.state.is_completed()
        return True

    def _stand_in(self) -> Any:
        """Run a task that represents the items computed before, and return the id of its run."""
        done = self._plan.counts.done_before
        label = f"{self._task.name}[done: {done:,}]"
        task = _task_for(self._task, _say_done)
        state: Any = task(label=label, done=done, url=self._job.repository.url, return_state=True)
        return state.state_details.task_run_id


def _task_for(task: CheckpointedTask[Any, Any], fn: Callable[..., Any]) -> Task[..., Any]:
    """Return a task that runs an internal function with the options of another task. Its `label` names the run."""
    made: Task[..., Any] = Task.with_options(task, task_run_name="{label}", cache_policy=NO_CACHE)
    made.fn, made.isasync = fn, False
    return made


class _Work:
    """A batch to compute. Not a tuple or dataclass, because Prefect would search each item of those for futures."""

    def __init__(self, job: Job, batch: ItemBatch, stopping: list[object]) -> None:
        self.job = job
        self.batch = batch
        self.stopping = stopping
        self.access = WithSecrets(job.repository)


def _do_batch(label: str, work: _Work) -> State[RunCounts]:
    """The body of a batch's task run."""
    counts = run_batch(replace(work.job, repository=work.access.repository), work.batch, stopping=work.stopping)
    name = "Interrupted" if counts.skipped else _INCOMPLETE if counts.missing else "Completed"
    return Completed(name=name, message=str(counts), data=counts)


def _say_done(label: str, done: int, url: str) -> State[int]:
    return Completed(name="Cached", message=f"{count_text(done, 'item')} computed before, stored in {url}.", data=done)


# --- calls and items ---------------------------------------------------------------------------------------------


def _is_plain(function: Callable[..., Any], names: Iterable[str]) -> bool:
    """Return whether a call passes only the first argument, which is then the item itself."""
    first = next(iter(inspect.signature(function).parameters.values()), None)
    return first is not None and list(names) == [first.name] and first.kind in _POSITIONAL


_POSITIONAL = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD


def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {one.name: one.default for one in parameters if one.default is not one.empty}


def _digests(arguments: Mapping[str, Any], ignored: Sequence[str] = ()) -> dict[str, bytes]:
    return {name: stable_hash(value) for name, value in arguments.items() if name not in ignored}


def _instance_of(function: Callable[..., Any]) -> Any:
    """Return the object of a method, or None for a function or a class method."""
    instance = function.__self__ if inspect.ismethod(function) else None
    return None if isinstance(instance, type) else instance


def _self_of(method: Any) -> str:
    """Return the name of the first parameter of a method: `self`."""
    return next(iter(inspect.signature(method.__func__).parameters))


def _check_ignored(function: Callable[..., Any], ignored: Sequence[str]) -> None:
    """Raise `InvalidArgument` for a name that is not a parameter of the function."""
    function = getattr(function, "__func__", function)
    parameters = inspect.signature(function).parameters
    for name in ignored:
        if name not in parameters:
            raise InvalidArgument(
                f"ignore={name!r} is not a parameter of {function.__qualname__}. {hint(name, parameters)}"
            )


def _given(function: Callable[..., Any], arguments: Mapping[str, Any], ignored: Sequence[str]) -> dict[str, Any]:
    """Return the arguments that differ from their defaults. Prefect always passes all, so defaults are left out."""
    defaults = _defaults(function)
    return {
        name: value
        for name, value in arguments.items()
        if name in ignored or name not in defaults or stable_hash(value) != stable_hash(defaults[name])
    }


def _call_with(call: Callable[..., Any], function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Call something with the arguments of the function, by name."""
    signature = inspect.signature(function)
    ordered = {name: arguments[name] for name in signature.parameters if name in arguments}
    bound = inspect.BoundArguments(signature, cast(Any, ordered))
    return call(*bound.args, **bound.kwargs)


def _with_constants(function: Callable[..., Any], constants: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], Any]:
    """Return a function that takes only the arguments that vary."""
    if inspect.iscoroutinefunction(function):

        async def call(item: Mapping[str, Any]) -> Any:
            return await _call_with(function, function, {**item, **constants})

        return call
    return lambda item: _call_with(function, function, {**item, **constants})


def _spread(function: Callable[..., Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call of `map` by name."""
    kinds = {name: parameter.kind for name, parameter in inspect.signature(function).parameters.items()}
    for name in parameters:
        if kinds[name] in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            raise InvalidArgument(
                f"map() cannot tell the items of {name!r} apart. Declare each argument by name instead of * or **."
            )
    return dict(parameters)


def _resolved(values: Iterable[Any]) -> Iterable[Any]:
    """Return values, with futures among them replaced by their results."""
    if isinstance(values, range):
        return values
    return (
        resolve_inputs_sync({"item": value}, max_depth=0)["item"] if isinstance(value, PrefectFuture | State) else value
        for value in values
    )


def _rows(name: str, columns: Sequence[Iterable[Any]]) -> Iterator[tuple[Any, ...]]:
    try:
        yield from zip(*columns, strict=True)
    except ValueError as error:
        if "argument" not in str(error):
            raise
        raise MappingLengthMismatch(f"{name}.map() needs iterables of the same length: {error}.") from None
