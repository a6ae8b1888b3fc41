"""`@snapshot`: save what a function returns, and return it unchanged. `load_latest` resumes from it.

The value is saved before the function returns, so a task that cannot save fails. Only returned or yielded values are
saved: a failed attempt and a cache hit save nothing. A task run saves each of its values once, even if it is retried.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import functools
import inspect
import itertools
import re
import string
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, cast, overload

from prefect import Flow, Task
from prefect.client.schemas.objects import State

from ...arguments import checking_types
from ...errors import InvalidArgument, SnapshotNotFound
from ...repository.choosing import RepositoryLike
from ...repository.metadata import finder
from ...repository.names import check_name
from ...repository.threads import Lock
from ...retention import RetentionPolicy
from ...snapshots.processes import concerns_all
from ...snapshots.records import Ranking
from ...snapshots.requests import SaveRequest
from ...values import Loading
from ..blocks import current_repository
from ..run_context import own_run_id, placeholders, run_ids, run_logger
from .saving import check_free, load, manager_of, save, save_in_background

F = TypeVar("F", bound=Callable[..., Any])

Text = str | Callable[..., str]
"""A template such as `"{task_name}-{parameters[epoch]}"`, or a function of the result (and of `parameters`)."""
Texts = Sequence[str] | Callable[..., str | Sequence[str]]
Metadata = Mapping[str, Any] | Callable[..., Mapping[str, Any]]


@overload
def snapshot(fn: F, /) -> F: ...


@overload
def snapshot(
    fn: None = None,
    /,
    *,
    name: Text = ...,
    repository: RepositoryLike | None = None,
    snapshot_id: Text | None = None,
    tags: Texts = (),
    metadata: Metadata | None = None,
    rank_by: str | None = None,
    mode: Literal["max", "min"] = "max",
    max_snapshots: int | None = None,
    retention: RetentionPolicy | None = None,
    every: int = 1,
    background: bool = False,
) -> Callable[[F], F]: ...


@checking_types
def snapshot(
    fn: F | None = None,
    /,
    *,
    name: Text = "{flow_name}/{task_name}",
    repository: RepositoryLike | None = None,
    snapshot_id: Text | None = None,
    tags: Texts = (),
    metadata: Metadata | None = None,
    rank_by: str | None = None,
    mode: Literal["max", "min"] = "max",
    max_snapshots: int | None = None,
    retention: RetentionPolicy | None = None,
    every: int = 1,
    background: bool = False,
) -> F | Callable[[F], F]:
    """Save what a function returns, or each value that a generator yields, as a snapshot.

    In a run of several JAX processes, a value with arrays on devices of several of them is saved once, by all processes
    together. Each process has to call the function. All other values are saved by each process that calls it.

    Works on functions, methods, asynchronous functions, generators and tasks, inside or outside of a run. You can put
    it above or below `@task`; a task keeps all its options.

    `name`, `snapshot_id`, `tags` and the strings in `metadata` are templates. They can contain `{flow_name}`,
    `{flow_run_name}`, `{flow_run_id}`, `{task_name}`, `{task_run_id}`, and `{parameters[x]}` for the argument `x` of
    the call. Outside of a run, `{task_name}` is the name of the function, and the others are `local`. Instead of a
    template you can pass a function. It gets the result and, if it has an argument `parameters`, the arguments of the
    call.

    Args:
        fn: The function or task to decorate.
        name: The name to save under. It separates groups of snapshots in one repository.
        repository: A repository, a URL or a block. Default: the one that `blocks.current_repository` returns.
        snapshot_id: The id. Default: the time and a random part.
        tags: One tag or several.
        metadata: JSON-like values with string keys, such as metrics: `metadata=lambda result: {"loss": result[1]}`.
        rank_by: The metadata key that ranks snapshots. If the metadata lacks it, the key or attribute of the result.
            Default: no ranking.
        mode: "max" if large values of `rank_by` are good, "min" if small ones are.
        max_snapshots: Keep at most this many: the best, or the newest without `rank_by`. Default: keep all.
        retention: Instead of `max_snapshots`, the policy that decides what to keep. See `SnapshotManager`.
        every: Save every n-th result, counted over the calls in one flow run and process, or over the values of one
            generator.
        background: Copy the value, and save the copy while the run continues. The next save of the same name, every
            load of it and `wait_for_snapshots` wait for it, and raise its error. The run may end before.

    Returns:
        The decorated function or task, of the same type.

    Raises:
        InvalidArgument: A template has an unknown placeholder, or an argument is invalid.

    Example:
        >>> from prefect_snapshots import load_latest, snapshot, use_repository
        >>> @snapshot(name="squares", metadata=lambda result, parameters: {"n": parameters["n"]})
        ... def square(n: int) -> int:
        ...     return n * n
        >>> with use_repository("memory://example"):
        ...     square(7), load_latest("squares")
        (49, 49)
    """
    capture = _Capture(
        name, repository, snapshot_id, tags, metadata, rank_by, mode, max_snapshots, retention, every, background
    )
    return capture.decorate if fn is None else capture.decorate(fn)


@checking_types
def load_latest(
    name: str,
    default: Any = ...,
    repository: RepositoryLike | None = None,
    like: Any = None,
    *,
    cast: bool = False,
    strict: bool = True,
) -> Any:
    """Load the latest snapshot of a name, to resume from it.

    Args:
        name: The name under which it was saved, such as `"training/train_epoch"`. Templates are not expanded.
        default: Returned if there is no snapshot yet. Default: raise an error.
        repository: A repository, a URL or a block. Default: the one that `blocks.current_repository` returns.
        like: A value whose structure, custom node types and sharding the result gets. `...` in it skips a leaf.
        cast, strict: As for `SnapshotManager.get_snapshot`.

    Returns:
        The value of the latest snapshot, or `default` if there is none.

    Raises:
        SnapshotNotFound: There is no snapshot, and you passed no default.

    Example:
        >>> load_latest("never/saved", default={"epoch": 0}, repository="memory://example")
        {'epoch': 0}
    """
    try:
        return load(current_repository(repository), name, loading=Loading(like=like, cast=cast, strict=strict))
    except SnapshotNotFound:
        if default is ...:
            raise
        return default


_PLACEHOLDERS = {"flow_name", "flow_run_name", "flow_run_id", "task_name", "task_run_id", "parameters"}
_MISSING = object()

_calls: Counter[tuple[str, uuid.UUID | None]] = Counter()
_counting = Lock()


@dataclass(frozen=True)
class _Capture:
    """The arguments of the decorator. They are pickled with the function."""

    name: Text
    repository: RepositoryLike | None
    snapshot_id: Text | None
    tags: Texts
    metadata: Metadata | None
    rank_by: str | None
    mode: Literal["max", "min"]
    max_snapshots: int | None
    retention: RetentionPolicy | None
    every: int
    background: bool
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Distinguishes the calls of different decorated functions."""

    def __post_init__(self) -> None:
        for what in ("name", "snapshot_id", "tags", "metadata"):
            _check_templates(getattr(self, what), what)
        for what in ("every", "max_snapshots"):
            number = getattr(self, what)
            if number is not None and (not isinstance(number, int) or number < 1):
                raise InvalidArgument(f"{what} must be an integer of at least 1, not {number!r}.")
        if self.retention is not None:
            RetentionPolicy.checked(self.retention)
        Ranking(self.rank_by, self.mode)

    def decorate(self, fn: F) -> F:
        """Return the function, saving its results. A task stays a task of the same type with the same options."""
        if isinstance(fn, Flow):
            raise InvalidArgument(f"Put @snapshot below @flow, not above it: {fn.name} would no longer be a flow.")
        if isinstance(fn, classmethod | staticmethod):
            return cast(F, type(fn)(self._capturing(fn.__func__)))
        if not isinstance(fn, Task):
            return cast(F, self._capturing(fn))
        task = copy.copy(fn)
        # A hook that is added to one of the two tasks later must not run for the other.
        vars(task).update({key: list(value) for key, value in vars(fn).items() if isinstance(value, list)})
        task.fn = self._capturing(fn.fn)
        return task

    def _capturing(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        if not callable(fn):
            raise InvalidArgument(
                f"@snapshot decorates functions, not {fn!r}. Pass options by name, as in @snapshot(name=...)."
            )
        for is_kind, capturing in _KINDS.items():
            if is_kind(fn):
                return functools.wraps(fn)(capturing(self, fn))
        return functools.wraps(fn)(_function(self, fn))


# --- one wrapper for each kind of function -------------------------------------------------------------------------


def _function(capture: _Capture, fn: Callable[..., Any]) -> Callable[..., Any]:
    def capturing(*args: Any, **kwargs: Any) -> Any:
        call = _Call(capture, fn, args, kwargs)
        result = fn(*args, **kwargs)
        call.save(result)
        return result

    return capturing


def _coroutine(capture: _Capture, fn: Callable[..., Any]) -> Callable[..., Any]:
    async def capturing(*args: Any, **kwargs: Any) -> Any:
        call = _Call(capture, fn, args, kwargs)
        result = await fn(*args, **kwargs)
        await asyncio.to_thread(call.save, result)
        return result

    return capturing


def _generator(capture: _Capture, fn: Callable[..., Any]) -> Callable[..., Any]:
    def capturing(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        call = _Call(capture, fn, args, kwargs)
        with contextlib.closing(fn(*args, **kwargs)) as generator:
            resume = functools.partial(generator.send, None)
            for number in itertools.count():
                try:
                    value = resume()
                except StopIteration as end:
                    return end.value
                call.save(value, number)
                try:
                    resume = functools.partial(generator.send, (yield value))
                except GeneratorExit:
                    raise
                except BaseException as error:
                    resume = functools.partial(generator.throw, error)

    return capturing


def _async_generator(capture: _Capture, fn: Callable[..., Any]) -> Callable[..., Any]:
    async def capturing(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        call = _Call(capture, fn, args, kwargs)
        async with contextlib.aclosing(fn(*args, **kwargs)) as generator:
            resume = functools.partial(generator.asend, None)
            for number in itertools.count():
                try:
                    value = await resume()
                except StopAsyncIteration:
                    return
                await asyncio.to_thread(call.save, value, number)
                try:
                    resume = functools.partial(generator.asend, (yield value))
                except GeneratorExit:
                    raise
                except BaseException as error:
                    resume = functools.partial(generator.athrow, error)

    return capturing


_KINDS = {
    inspect.isasyncgenfunction: _async_generator,
    inspect.isgeneratorfunction: _generator,
    inspect.iscoroutinefunction: _coroutine,
}


# --- one call ------------------------------------------------------------------------------------------------------


class _Call:
    """One call of a decorated function. It keeps the run in which it started: another run may resume a generator."""

    def __init__(
        self, capture: _Capture, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        bound = inspect.signature(fn).bind(*args, **kwargs)
        bound.apply_defaults()
        self._capture = capture
        self._fn = fn
        self._parameters = bound.arguments
        self._context = contextvars.copy_context()
        self._check_names()

    def _check_names(self) -> None:
        """Check the names that do not depend on the result, before the function works for hours.

        Raises:
            InvalidName: One of them cannot be stored.
            InvalidArgument: A template does not fit this call.
            SnapshotExists: There is a snapshot with this id.
        """
        name, snapshot_id, tags = (
            None if any(map(callable, _parts(template))) else self._resolve(template, None)
            for template in (self._capture.name, self._capture.snapshot_id, self._capture.tags)
        )
        if name is not None:
            check_name(name)
        SaveRequest.of(snapshot_id, tags=tags)
        always = self._capture.every == 1 and not self._capture.background
        if name is not None and snapshot_id is not None and always:
            repository = current_repository(self._capture.repository)
            check_free(manager_of(repository, name), snapshot_id, self._token(0))

    def _token(self, number: int) -> str | None:
        """Return what identifies a save of this run, so that a retry does not save again."""
        run_id = own_run_id(self._fn)
        return uuid.uuid5(run_id, str(number)).hex if run_id is not None else None

    def save(self, value: Any, number: int | None = None) -> None:
        """Save a value that was returned, or the one that was yielded as number 0, 1, 2, ..."""
        if not isinstance(value, State):  # a state only says how a run ended
            self._context.run(self._save, value, number)

    def _save(self, value: Any, number: int | None) -> None:
        capture = self._capture
        if not self._is_due(number):
            return
        name = self._resolve(capture.name, value)
        repository = current_repository(capture.repository)
        options = capture.rank_by, capture.mode, capture.max_snapshots, capture.retention
        manager = manager_of(repository, name, *options, all_processes=concerns_all(value))
        save_it = save_in_background if capture.background else save
        request = SaveRequest.of(
            self._resolve(capture.snapshot_id, value),
            self._metadata(value),
            self._resolve(capture.tags, value),
            token=self._token(number or 0),
        )
        save_it(manager, value, request)

    def _is_due(self, number: int | None) -> bool:
        if number is None and self._capture.every > 1:
            key = self._capture.id, run_ids()[0]
            with _counting:
                number = _calls[key]
                _calls[key] += 1
        return ((number or 0) + 1) % self._capture.every == 0

    def _metadata(self, value: Any) -> dict[str, Any]:
        metadata = dict(self._resolve(self._capture.metadata, value) or {})
        key = self._capture.rank_by
        if key is not None and finder(key, _MISSING)(metadata) is _MISSING:
            found = finder(key, _MISSING)(value) if isinstance(value, dict) else getattr(value, key, _MISSING)
            if found is not _MISSING:
                metadata[key] = found
            else:
                run_logger().warning("Neither the metadata nor the result has rank_by=%r. It ranks last.", key)
        return metadata

    def _resolve(self, template: Any, value: Any) -> Any:
        """Fill in a template at any depth, or call a function."""
        if callable(template):
            return template(value, parameters=self._parameters) if _takes_parameters(template) else template(value)
        if isinstance(template, str):
            try:
                return template.format(**placeholders(self._fn), parameters=self._parameters)
            except (LookupError, AttributeError) as error:
                raise InvalidArgument(
                    f"The template {template!r} does not fit this call, which has no {error}. Nothing was saved."
                ) from error
        if isinstance(template, Mapping):
            return {key: self._resolve(item, value) for key, item in template.items()}
        return [self._resolve(item, value) for item in template] if isinstance(template, list | tuple) else template


def _parts(template: Any) -> Sequence[Any]:
    return template if isinstance(template, list | tuple) else [template]


def _takes_parameters(fn: Callable[..., Any]) -> bool:
    try:
        signature = inspect.signature(fn)
    except ValueError:  # a builtin without a signature
        return False
    kinds = (parameter.kind for parameter in signature.parameters.values())
    return "parameters" in signature.parameters or inspect.Parameter.VAR_KEYWORD in kinds


def _check_templates(template: Any, what: str) -> None:
    for text in _texts_in(template):
        try:
            fields = [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
        except ValueError as error:
            raise InvalidArgument(
                f"{what}={text!r} is not a valid template: {error}. Double a brace to use it literally."
            ) from None
        unknown = {re.split(r"[.\[]", name)[0] for name in fields} - _PLACEHOLDERS
        if unknown:
            known = ", ".join(sorted(_PLACEHOLDERS))
            raise InvalidArgument(
                f"{what}={text!r} has the unknown placeholder {', '.join(sorted(unknown))!r}. Use one of: {known}."
            )


def _texts_in(template: Any) -> Iterator[str]:
    if isinstance(template, str):
        yield template
    elif isinstance(template, Mapping):
        yield from itertools.chain.from_iterable(map(_texts_in, template.values()))
    elif isinstance(template, list | tuple):
        yield from itertools.chain.from_iterable(map(_texts_in, template))
