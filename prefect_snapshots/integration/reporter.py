"""How every kind reports: an event for automations, and warnings instead of errors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from prefect.events import emit_event

from ..repository import Repository
from .run_context import run_logger


def emit(event: str, repository: Repository, facts: dict[str, Any], resource: str = "", name: str = "") -> None:
    """Tell the event feed, and automations, of something that concerns a repository.

    Arguments:
        event: what happened, without the name of this package.
        facts: the payload, beside the repository.
        resource, name: what it happened to; default: the repository.
    """
    emit_event(
        f"prefect-snapshots.{event}",
        resource={
            "prefect.resource.id": f"prefect-snapshots.{resource or f'repositories.{repository.url}'}",
            "prefect.resource.name": name or repository.url,
            "prefect-snapshots.repository": repository.url,
        },
        payload={"repository": repository.url, **facts},
    )


@contextlib.contextmanager
def only_warn(what: str) -> Iterator[None]:
    """Have an error inside be a warning in the log of the run: reporting never fails one."""
    try:
        yield
    except Exception as error:
        run_logger().warning("%s: %r", what, error)
