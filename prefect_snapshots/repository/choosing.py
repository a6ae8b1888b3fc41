"""Choose the repository of a call: the argument, the one of the enclosing `use_repository`, or the default."""

from __future__ import annotations

import contextlib
import contextvars
import os
from collections.abc import Iterator
from typing import Protocol

from ..errors import InvalidArgument
from .repository import Repository

_selected: contextvars.ContextVar[Repository | None] = contextvars.ContextVar(
    "prefect_snapshots_repository", default=None
)


class RepositorySource(Protocol):
    """Anything that configures a repository, such as the Prefect block."""

    def get_repository(self) -> Repository:
        """Return the repository."""


RepositoryLike = Repository | RepositorySource | str | os.PathLike[str]
"""A repository, something that configures one, or a URL or path."""


@contextlib.contextmanager
def use_repository(repository: RepositoryLike) -> Iterator[Repository]:
    """Make a repository the default in a `with` block, also for the tasks that you call there.

    Args:
        repository: A repository, a block, or a URL or path.

    Yields:
        The repository.

    Example:
        >>> from prefect_snapshots import use_repository
        >>> with use_repository("memory://example") as repository:
        ...     repository.url
        'memory://example'
    """
    chosen = as_repository(repository)
    token = _selected.set(chosen)
    try:
        yield chosen
    finally:
        _selected.reset(token)


def selected_repository() -> Repository | None:
    """Return the repository of the enclosing `use_repository`, if any."""
    return _selected.get()


def as_repository(repository: RepositoryLike | None) -> Repository:
    """Return the repository for an argument. None means the default one.

    Raises:
        InvalidArgument: It is not a `RepositoryLike`.
    """
    if repository is None:
        return selected_repository() or Repository()
    if isinstance(repository, str | os.PathLike):
        return Repository(repository)
    if isinstance(repository, Repository):
        return repository
    if not hasattr(repository, "get_repository"):
        raise InvalidArgument(
            f"A repository must be a Repository, a block, or a URL or path, not {type(repository).__name__}."
        )
    return repository.get_repository()
