"""`@checkpointed`: a Prefect task that keeps the result of every item, and does only what is not done.

Mapped over an iterable it has *batches* of items done, each by a task run of its own, which writes the results straight
to the repository: nothing flows through the flow, and what was written is never done again, whatever happens. One more
task run, in the state Cached, stands for all items that were done before.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import Future as ThreadFuture
from dataclasses import dataclass, replace
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload

import numpy as np
from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.exceptions import MappingLengthMismatch, MappingMissingIterable
from prefect.futures import PrefectFuture, PrefectTaskRunFuture, wait
from prefect.settings import get_current_settings
from prefect.states import Completed
from prefect.utilities.annotations import unmapped
from prefect.utilities.collections import isiterable
from prefect.utilities.engine import collect_task_run_inputs_sync, resolve_inputs_sync

from ...checkpoints import (
    RAISE,
    CheckpointManager,
    Failure,
    ItemBatch,
    Job,
    Plan,
    RunCounts,
    collect,
    failures_of,
    item_keys,
    make_job,
    open_log,
    run_batch,
    stable_hash,
)
from ...errors import InvalidArgument
from ...repository.choosing import RepositoryLike
from ...repository.handing_over import WithSecrets
from ..blocks import current_repository
from ..run_context import run_logger
from .report import Processing

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_BATCH_SIZE = 100
_MAX_WAIT_TIME = 10.0
_AHEAD = 32
"""Batches at work, or waiting for a worker, while an iterable without a length is read."""


@dataclass(frozen=True)
class _Options:
    """What the decorator was told, but for the options of the task. It travels with the function to other processes."""

    repository: RepositoryLike | None
    name: str | None
    key: Callable[..., Any] | None
    function_version: object
    batch_size: int
    max_wait_time: float | None
    max_retries: int
    fatal_exceptions: type[BaseException] | tuple[type[BaseException], ...]
    max_consecutive_exceptions: int | None
    skip_item_errors: bool
    retry_failed_items: bool

    def __post_init__(self) -> None:
        most = self.max_consecutive_exceptions
        if most is not None and most > self.batch_size:
            raise InvalidArgument(
                f"max_consecutive_exceptions={most} counts within a batch, which has {self.batch_size} items"
            )

    def job(self, fn: Callable[..., Any], *, refresh: bool) -> Job:
        names = self.__dataclass_fields__.keys() - {"repository", "key"}
        settings = {name: getattr(self, name) for name in names}
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
    function_version: object = None,
    batch_size: int = ...,
    max_wait_time: float | None = ...,
    max_retries: int = 3,
    fatal_exceptions: type[BaseException] | Sequence[type[BaseException]] = (),
    max_consecutive_exceptions: int | None = None,
    skip_item_errors: bool = False,
    retry_failed_items: bool = False,
    **task_options: Any,
) -> Callable[[Callable[P, R]], CheckpointedTask[P, R]]: ...


def checkpointed(
    fn: Callable[P, R] | None = None,
    /,
    *,
    repository: RepositoryLike | None = None,
    name: str | None = None,
    key: Callable[..., Any] | None = None,
    function_version: object = None,
    batch_size: int = _BATCH_SIZE,
    max_wait_time: float | None = _MAX_WAIT_TIME,
    max_retries: int = 3,
    fatal_exceptions: type[BaseException] | Sequence[type[BaseException]] = (),
    max_consecutive_exceptions: int | None = None,
    skip_item_errors: bool = False,
    retry_failed_items: bool = False,
    **task_options: Any,
) -> CheckpointedTask[P, R] | Callable[[Callable[P, R]], CheckpointedTask[P, R]]:
    """Make a task of a function, whose results are kept item by item.

    Arguments:
        fn: the function, asynchronous or not.
        repository: a repository, a URL or a block; see `blocks.current_repository` for the default.
        name: of the checkpoints, and of the task. Default: the function's module and qualified name, and its name.
        key: called with the arguments of the function; says what stands for them, where their content does not.
        function_version: stands for the code of the function, in place of its fingerprint.
        batch_size: items that a task run does, and at most so many are written together.
        max_wait_time: most seconds of a batch between two writes; None: it is written when it is done.
        max_retries: how often an item that fails is tried again, at once. `retries` is how often a batch is; what
            it had written is not done again.
        fatal_exceptions: failures that are not tried again, nor skipped.
        max_consecutive_exceptions: so many failing items in a row fail their batch.
        skip_item_errors: go on after an item failed; see `CheckpointedFuture.failed_items`.
        retry_failed_items: try items again that were skipped in an earlier run.
        task_options: any option of `@task`. `refresh_cache=True` does everything again.

    Returns:
        A task. Calls and `.submit` go through the checkpoints too.

    Raises:
        InvalidArgument: an argument makes no sense.

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
    fatal = fatal_exceptions if isinstance(fatal_exceptions, type) else tuple(fatal_exceptions)
    options = _Options(
        repository,
        name,
        key,
        function_version,
        batch_size,
        max_wait_time,
        max_retries,
        fatal,
        max_consecutive_exceptions,
        skip_item_errors,
        retry_failed_items,
    )
    if name is not None:
        task_options.setdefault("name", name)

    def decorate(fn: Callable[P, R]) -> CheckpointedTask[P, R]:
        return CheckpointedTask(fn, options, **task_options)

    return decorate if fn is None else decorate(fn)


class CheckpointedTask(Task[P, R]):
    """A task whose results are kept item by item. Made by `@checkpointed`."""

    def __init__(self, fn: Callable[P, R], options: _Options, **task_options: Any) -> None:
        if isinstance(fn, Task):
            raise InvalidArgument(f"give the options of the task {fn.name!r} to @checkpointed, in place of @task")
        if not callable(fn):
            raise InvalidArgument(f"@checkpointed decorates functions, not {fn!r}: options are given by name")
        if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
            raise InvalidArgument(
                f"{fn.__qualname__} is a generator function: what it returns can be read only once, so that it cannot "
                "be kept. Let it return a list."
            )
        self._function = fn
        self._options = options
        task_options.setdefault("cache_policy", NO_CACHE)
        task_options.setdefault("persist_result", False)
        super().__init__(fn=self._calling(), **task_options)

    def with_options(self, **options: Any) -> CheckpointedTask[P, R]:
        """The same task with other options: of the checkpoints or of the task."""
        mine = {name: options.pop(name) for name in list(options) if name in _Options.__dataclass_fields__}
        if "name" in mine:
            options["name"] = mine["name"]
        plain = super().with_options(**options)
        task = object.__new__(type(self))
        vars(task).update(vars(plain))
        task._function = self._function
        task._options = replace(self._options, **mine)
        task.fn = task._calling()
        return task

    @overload  # type: ignore[override]
    def map(
        self: CheckpointedTask[P, Coroutine[Any, Any, T]], *args: Any, wait_for: Any = None, **kwargs: Any
    ) -> CheckpointedFuture[T]: ...

    @overload
    def map(self, *args: Any, wait_for: Any = None, **kwargs: Any) -> CheckpointedFuture[R]: ...

    def map(self, *args: Any, wait_for: Any = None, **kwargs: Any) -> CheckpointedFuture[Any]:
        """Have every item of some iterables done that is not done yet.

        Arguments:
            args, kwargs: as those of the function, each an iterable of values, of the same length. What is no iterable,
                or `unmapped`, is the same in each call.
            wait_for: futures that have to be complete before.

        Returns:
            A future: its `result()` is the list of all results, in the order of the items.

        An iterable without a length is read as its items are done, a bounded number ahead; then this returns when the
        last ones are at work. Otherwise it returns at once.

        Raises:
            MappingLengthMismatch: the iterables have different lengths.
            MappingMissingIterable: there is none.
            RuntimeError: this is not called in a flow.
        """
        context = FlowRunContext.get()
        if context is None:
            raise RuntimeError(f"{self.name}.map() needs a flow around it; outside of one use Snapper")
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
        """The result of one item: the kept one, or a new one, which is kept."""
        arguments = _given(self._function, inspect.signature(self._function).bind(*args, **kwargs).arguments)
        job = self._job(arguments, {})
        job = replace(job, skip_item_errors=False, retry_failed_items=True)
        item = _item(self._function, arguments)
        keys = item_keys([item], key=job.key)
        counts = run_batch(job, ItemBatch([item], keys, np.zeros(1, np.int64)))
        if not counts.worked:
            run_logger().info("%s was done before, and kept in %s.", self.name, job.repository.url)
        return next(collect(job, keys))

    # --- many ----------------------------------------------------------------------------------------------------

    def _mapped(self, parameters: Mapping[str, Any]) -> tuple[Job, Iterable[Any], int | None]:
        """The job, its items, and how many they are, if that is known."""
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
            raise MappingMissingIterable(f"{self.name}.map() needs at least one iterable, and got {dict(parameters)}")
        lengths = {name: len(value) for name, value in mapped.items() if isinstance(value, Sized)}
        if len(set(lengths.values())) > 1:
            raise MappingLengthMismatch(f"{self.name}.map() needs iterables of one length, and got {lengths}")
        names = tuple(mapped)
        columns = [_resolved(values) for values in mapped.values()]
        if _is_plain(self._function, [*mapped, *constants]):
            items: Iterable[Any] = columns[0]
        else:
            items = (dict(zip(names, row, strict=True)) for row in _rows(self.name, columns))
        total = next(iter(lengths.values())) if len(lengths) == len(mapped) else None
        return self._job([*mapped, *constants], constants), items, total

    def _job(self, names: Iterable[str], constants: Mapping[str, Any]) -> Job:
        """The job for calls with arguments of these names, some of which are the same in each call."""
        function, key = self._function, self._options.key
        refresh = self.refresh_cache
        if refresh is None:
            refresh = bool(get_current_settings().tasks.refresh_cache)
        job = self._options.job(function, refresh=refresh)
        if _is_plain(function, names):
            return replace(job, key=key)
        if key is not None:

            def key_of(item: Mapping[str, Any]) -> Any:
                return _call_with(key, function, {**item, **constants})

        else:
            defaults = _digests(_defaults(function))
            digests = _digests(constants)

            def key_of(item: Mapping[str, Any]) -> Any:
                found = {**_digests(item), **digests}
                given = {name: digest for name, digest in found.items() if digest != defaults.get(name)}
                return item[next(iter(given))] if _is_plain(function, given) and not digests else given

        return replace(job, key=key_of, function=_with_constants(function, constants))


class CheckpointedFuture(PrefectTaskRunFuture[list[R]], Generic[R]):
    """The results of a map, by and by.

    Attributes:
        futures: those of the batches.
    """

    def __init__(self, job: Job, plan: Plan, futures: list[PrefectFuture[Any]], ends: list[int], run: Any) -> None:
        super().__init__(run)
        self.futures = futures
        self._job = job
        self._plan = plan
        self._ends = ends
        self._processing: Processing | None = None

    def wait(self, timeout: float | None = None) -> None:
        """Wait for all batches, or until some seconds are over."""
        pending = wait(list(self.futures), timeout=timeout).not_done
        if not pending and self._processing is not None:
            self._processing.finish()

    def result(self, timeout: float | None = None, raise_on_failure: bool = True, *, missing: Any = RAISE) -> list[R]:
        """The results of all items, in their order.

        Arguments:
            timeout: seconds.
            raise_on_failure: False: None stands for the result of an item that failed.
            missing: what stands for it otherwise.

        Raises:
            Exception: what the function raised, unless failing items are skipped.
            IncompleteResults: items failed, and nothing stands for their results.
            TimeoutError: the time is over.
        """
        self._wait_to_the_end(timeout)
        if raise_on_failure:
            for future in self.futures:
                future.result()
        elif missing is RAISE:
            missing = None
        return list(collect(self._job, self._plan.keys, missing=missing))

    def iter_results(self, *, missing: Any = RAISE) -> Iterator[R]:
        """The same one by one, in flat memory: each as soon as it and all before it are there.

        Raises:
            Exception: what the function raised, unless failing items are skipped.
            IncompleteResults: it comes to an item that failed, and nothing stands for its result.
        """
        log = open_log(self._job)
        keys = self._plan.keys
        first = 0
        for future, end in zip(self.futures, self._ends, strict=True):
            future.result()
            log.refresh()
            yield from collect(self._job, keys[first:end], missing=missing, log=log)
            first = end
        self.wait()
        yield from collect(self._job, keys[first:], missing=missing, log=log)

    @property
    def failed_items(self) -> dict[int, Failure]:
        """Why items have no result, by their position. Waits for all batches."""
        self.wait()
        return failures_of(open_log(self._job), self._plan.keys)

    def report(self, format: str = "markdown") -> str:
        """How it went, in Markdown or, with `"json"`, in JSON. Waits for all batches."""
        self.wait()
        job = self._job
        return CheckpointManager(job.repository).report(job.name, job.fingerprint, format=format)  # type: ignore[arg-type]

    @property
    def state(self) -> State[list[R]]:
        """That of the first batch that did not complete; or a completed one, with the results."""
        for future in self.futures:
            if not future.state.is_completed():
                return future.state
        return Completed(data=self.result(raise_on_failure=False))

    def add_done_callback(self, fn: Callable[[PrefectFuture[list[R]]], None]) -> None:
        """Have a function called with this future when all batches have ended."""
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

    def _wait_to_the_end(self, timeout: float | None) -> None:
        pending = wait(list(self.futures), timeout=timeout).not_done
        if pending:
            raise TimeoutError(f"{len(pending)} of {len(self.futures)} batches were not done within {timeout} seconds")
        if self._processing is not None:
            self._processing.finish()


# --- submitting batches ------------------------------------------------------------------------------------------


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
        self._plan = Plan(job, items)
        self._total = total
        self._submit = submit
        self._futures: list[PrefectFuture[Any]] = []
        self._ends: list[int] = []
        self._processing = Processing(job, task.name)

    def start(self) -> CheckpointedFuture[R]:
        batches: Iterable[ItemBatch] = self._plan
        try:
            if self._total is not None:
                batches = list(batches)
                self._processing.begin(self._plan.counts.done_before, sum(map(len, batches)), len(batches))
            for batch in batches:
                self._add(batch)
                if self._total is None and not self._keep_up():
                    break
        except BaseException:
            wait(list(self._futures))  # what came before is kept
            raise
        run_id = (
            self._stand_in() if self._plan.counts.done_before or not self._futures else self._futures[-1].task_run_id
        )
        future: CheckpointedFuture[R] = CheckpointedFuture(self._job, self._plan, self._futures, self._ends, run_id)
        future._processing = self._processing
        self._processing.all_submitted(self._plan)
        return future

    def _add(self, batch: ItemBatch) -> None:
        first, last = int(batch.positions[0]), int(batch.positions[-1])
        task = _task_for(self._task, _do_batch)
        parameters = {"label": f"{self._task.name}[{first}-{last}]", "work": _Work(self._job, batch)}
        future = self._submit(task=task, parameters=parameters)
        self._futures.append(future)
        self._ends.append(last + 1)
        self._processing.submitted(future, len(batch))

    def _keep_up(self) -> bool:
        """Wait until few batches are ahead. False when one has failed, so that going on makes no sense."""
        if len(self._futures) >= _AHEAD:
            earlier = self._futures[-_AHEAD]
            earlier.wait()
            return earlier.state.is_completed()
        return True

    def _stand_in(self) -> Any:
        """The task run that stands for what was done before. Returns its id."""
        done = self._plan.counts.done_before
        label = f"{self._task.name}[done: {done:,}]"
        task = _task_for(self._task, _say_done)
        state: Any = task(label=label, done=done, url=self._job.repository.url, return_state=True)
        return state.state_details.task_run_id


def _task_for(task: CheckpointedTask[Any, Any], fn: Callable[..., Any]) -> Task[..., Any]:
    """A task with the options of another one that runs a function of ours, with a `label` to be called by."""
    made: Task[..., Any] = Task.with_options(task, task_run_name="{label}", cache_policy=NO_CACHE)
    made.fn, made.isasync = fn, False
    return made


class _Work:
    """A batch to be done. Not a tuple nor a dataclass, which Prefect would look through for futures, item by item."""

    def __init__(self, job: Job, batch: ItemBatch) -> None:
        self.job = job
        self.batch = batch
        self.access = WithSecrets(job.repository)


def _do_batch(label: str, work: _Work) -> RunCounts:
    """The body of a batch's task run."""
    return run_batch(replace(work.job, repository=work.access.repository), work.batch)


def _say_done(label: str, done: int, url: str) -> State[int]:
    return Completed(name="Cached", message=f"{done:,} items were done before, and kept in {url}.", data=done)


# --- calls and items ---------------------------------------------------------------------------------------------


def _is_plain(function: Callable[..., Any], names: Iterable[str]) -> bool:
    """Whether a call with arguments of these names has its first one only, which then is the item itself."""
    first = next(iter(inspect.signature(function).parameters.values()), None)
    return first is not None and list(names) == [first.name] and first.kind in _POSITIONAL


_POSITIONAL = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD


def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {one.name: one.default for one in parameters if one.default is not one.empty}


def _digests(arguments: Mapping[str, Any]) -> dict[str, bytes]:
    return {name: stable_hash(value) for name, value in arguments.items()}


def _given(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that are not the default anyway. Prefect calls with every argument, so that these cannot count."""
    defaults = _defaults(function)
    return {
        name: value
        for name, value in arguments.items()
        if name not in defaults or stable_hash(value) != stable_hash(defaults[name])
    }


def _item(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """What is done by a call with these arguments."""
    return next(iter(arguments.values())) if _is_plain(function, arguments) else dict(arguments)


def _call_with(call: Callable[..., Any], function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Call something as the function would be called with arguments by name."""
    signature = inspect.signature(function)
    ordered = {name: arguments[name] for name in signature.parameters if name in arguments}
    bound = inspect.BoundArguments(signature, cast(Any, ordered))
    return call(*bound.args, **bound.kwargs)


def _with_constants(function: Callable[..., Any], constants: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], Any]:
    """The function, of the arguments that vary."""
    if inspect.iscoroutinefunction(function):

        async def call(item: Mapping[str, Any]) -> Any:
            return await _call_with(function, function, {**item, **constants})

        return call
    return lambda item: _call_with(function, function, {**item, **constants})


def _spread(function: Callable[..., Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call to be mapped."""
    kinds = {name: parameter.kind for name, parameter in inspect.signature(function).parameters.items()}
    for name in parameters:
        if kinds[name] in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            raise InvalidArgument(f"map() cannot tell the items of {name!r} apart: give each argument a name")
    return dict(parameters)


def _resolved(values: Iterable[Any]) -> Iterable[Any]:
    """Values, with the results of futures among them."""
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
        raise MappingLengthMismatch(f"{name}.map() needs iterables of one length: {error}") from None
