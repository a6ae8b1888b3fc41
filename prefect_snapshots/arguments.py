"""Check the names of keyword arguments and the types of flags, and suggest similar names for an unknown one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeVar

from .errors import InvalidArgument
from .messages import hint

C = TypeVar("C", bound=type[Any])
T = TypeVar("T", bound=Callable[..., Any])


def check_names(what: str, given: Iterable[str], known: Collection[str]) -> None:
    """Raise `InvalidArgument` for a name that is not known.

    Args:
        what: The function or class, for the message.
        given: The names of the arguments that were passed.
        known: The names of all arguments.
    """
    for unknown in sorted(set(given) - set(known)):
        raise InvalidArgument(f"{what} has no option {unknown!r}. {hint(unknown, sorted(known))}")


def checking_names(cls: C) -> C:
    """Make a dataclass raise `InvalidArgument`, and not `TypeError`, for an unknown keyword argument."""
    init = cls.__init__

    @functools.wraps(init)
    def checked(self: object, *args: Any, **options: Any) -> None:
        check_names(cls.__name__, options, cls.__dataclass_fields__)
        init(self, *args, **options)

    cls.__init__ = checked
    return cls


def checking_types(target: T) -> T:
    """Make a function, or the public methods of a class, raise `InvalidArgument` for a flag or callback that is none.

    Every string counts as true, also "no" and "false": a flag that takes one would do the opposite of what its caller
    means. A `progress` that cannot be called would fail in the middle of the work.

    Args:
        target: A function, or a class. Its arguments with the annotation `bool`, `bool | None` or `Progress | None` are
            checked when it is called, before anything else happens.
    """
    if not isinstance(target, type):
        checked: T = _checking(target)
        return checked
    for name, member in [*vars(target).items()]:
        if name.startswith("_") and name != "__init__":
            continue
        if isinstance(member, classmethod | staticmethod):
            setattr(target, name, type(member)(_checking(member.__func__)))
        elif inspect.isfunction(member):
            setattr(target, name, _checking(member))
    return target


def _checking(function: Any) -> Any:
    parameters = inspect.signature(function).parameters.values()
    flags = [
        (place if each.kind is each.POSITIONAL_OR_KEYWORD else None, each.name, *_CHECKS[each.annotation])
        for place, each in enumerate(parameters)
        if each.annotation in _CHECKS
    ]
    if not flags:
        return function

    @functools.wraps(function)
    def checked(*args: Any, **options: Any) -> Any:
        for place, name, is_right, wanted in flags:
            if name in options:
                value = options[name]
            elif place is not None and place < len(args):
                value = args[place]
            else:
                continue
            if not is_right(value):
                shown = repr(value) if isinstance(value, str | int | float) else type(value).__name__
                raise InvalidArgument(f"{name} must be {wanted}, not {shown}.")
        return function(*args, **options)

    return checked


def _is_flag(value: object) -> bool:
    # What a comparison of NumPy or JAX returns is no `bool`, but means the same.
    return isinstance(value, bool) or getattr(value, "dtype", None) == "bool"


def _is_flag_or_none(value: object) -> bool:
    return value is None or _is_flag(value)


def _is_callback(value: object) -> bool:
    return value is None or callable(value)


_CHECKS = {
    "bool": (_is_flag, "True or False"),
    "bool | None": (_is_flag_or_none, "True, False or None"),
    "Progress | None": (_is_callback, "a function"),
}
"""By the annotation of an argument: what its value has to be, and in words."""
