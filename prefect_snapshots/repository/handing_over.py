"""Pass an open repository to a child process, including its secrets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .repository import Repository, opened_here


class WithSecrets:
    """A repository that keeps its secrets when it is pickled. Pass it only to child processes, and never store it.

    Args:
        repository: The repository.
    """

    def __init__(self, repository: Repository) -> None:
        self.repository = repository

    def __reduce__(self) -> tuple[Callable[..., WithSecrets], tuple[Any, ...]]:
        one = self.repository
        return _restore_with_secrets, (one._token, one.location.url_with_secrets, _options(one))


def limited(repository: Repository, limit_upload: float) -> Repository:
    """Open a repository again, with a limited upload rate.

    Args:
        repository: The repository.
        limit_upload: The limit in bytes per second.

    Returns:
        The repository, with the same options.
    """
    return Repository(repository.location.url_with_secrets, **{**_options(repository), "limit_upload": limit_upload})


def _options(one: Repository) -> dict[str, Any]:
    """Return all options except the URL, including secrets."""
    return {
        "storage_options": one.location.storage_options,
        "password": False if one._password.is_refused else one._password(),
        "id": one._expected_id,
        "compression": one._compression,
        "allow_pickle": one.allow_pickle,
        "read_only": one.read_only,
        "single_writer": one._single_writer,
        "limit_upload": one.limit_upload,
    }


_restored: dict[str, WithSecrets] = {}
"""Repositories by token, so that a process opens each one only once."""


def _restore_with_secrets(token: str, url: str, options: dict[str, Any]) -> WithSecrets:
    if token not in _restored:
        _restored[token] = WithSecrets(opened_here(token) or Repository(url, **options))
    return _restored[token]
