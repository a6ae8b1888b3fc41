"""Check the names of keyword arguments, and suggest similar ones for an unknown name."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable
from typing import Any, TypeVar

from .errors import InvalidArgument
from .messages import hint

C = TypeVar("C", bound=type[Any])


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
