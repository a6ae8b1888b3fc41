"""The checkpoints in a repository: which there are, what they hold, and clearing them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np

from ..documents import Document
from ..errors import InvalidArgument, SnapshotNotFound
from ..repository.repository import Draft, Repository, RepositoryLike, as_repository
from ..repository.times import from_nanoseconds
from ..repository.tracking import TrackedStream
from ..retention import RetentionItem, RetentionPolicy, RetentionRow
from .batches import DONE
from .ledger import outcomes_of
from .log import KIND, Log, Registry
from .metrics import Metrics, describe, load_metrics, render


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The results of one function under one name."""

    name: str
    fingerprint: str
    function: str
    done: int
    failed: int
    segments: int
    started: datetime
    """When it was started last, in UTC."""


def list_names(repository: RepositoryLike | None = None) -> list[str]:
    """The names that have checkpoints."""
    return as_repository(repository).names(KIND)


def list_checkpoints(repository: RepositoryLike | None = None, name: str | None = None) -> list[Checkpoint]:
    """All checkpoints, or those of one name: a row for each version of the function, the latest started last."""
    chosen = as_repository(repository)
    found: list[Checkpoint] = []
    for one in chosen.names(KIND) if name is None else [name]:
        registry = Registry()
        chosen.stream(KIND, one, registry.apply)
        starts: dict[str, list[int]] = {}
        for start in registry.of(None):
            starts.setdefault(start.fingerprint, []).append(start.time)
        rows = []
        for fingerprint, times in starts.items():
            outcomes = outcomes_of(Log(chosen, one, fingerprint).ledger.contents()[1])
            function = registry.of(fingerprint)[0].function
            done = int(np.count_nonzero(outcomes == DONE))
            rows.append(
                Checkpoint(
                    one, fingerprint, function, done, len(outcomes) - done, len(times), from_nanoseconds(max(times))
                )
            )
        found += sorted(rows, key=lambda row: row.started)
    return found


def report(
    name: str,
    repository: RepositoryLike | None = None,
    *,
    fingerprint: str | None = None,
    format: Literal["markdown", "json"] = "markdown",
) -> str:
    """How processing went under a name, for the version of the function that was started last, or a given one.

    Raises:
        SnapshotNotFound: there are no checkpoints of that name, or not of that fingerprint.
    """
    return render(name, _metrics(name, repository, fingerprint), format)


def describe_checkpoints(
    name: str, repository: RepositoryLike | None = None, *, fingerprint: str | None = None
) -> Document:
    """The same as a document."""
    return describe(name, _metrics(name, repository, fingerprint))


def clear(name: str, repository: RepositoryLike | None = None, *, fingerprint: str | None = None) -> int:
    """Forget all results under a name, or those of one version of the function. `prune` frees the space.

    Returns:
        How many segments were dropped. 0: there was nothing.

    Raises:
        InvalidArgument: the name is empty.
    """
    return _clear(name, as_repository(repository), lambda one: fingerprint in (None, one))


def cleanup(
    name: str, policy: RetentionPolicy, repository: RepositoryLike | None = None, *, dry_run: bool = False
) -> list[RetentionRow]:
    """Forget the results of versions of a function that a retention policy does not keep. `prune` frees the space.

    The version that was started last stays in any case.

    Arguments:
        name: of the checkpoints.
        policy: asked about versions of the function, each as old as its last start.
        dry_run: only say what would go.

    Returns:
        The policy's rows: the name of each is a fingerprint.

    Raises:
        InvalidArgument: the name is empty.
    """
    chosen = as_repository(repository)
    versions = list_checkpoints(chosen, name) if name else []
    rows = policy.plan(
        RetentionItem(version.fingerprint, version.started, exempt=["latest"] if version is versions[-1] else [])
        for version in versions
    )
    if not dry_run:
        _clear(name, chosen, {row.name for row in rows if not row.keep}.__contains__)
    return rows


def _clear(name: str, repository: Repository, unwanted: Callable[[str], bool]) -> int:
    """Drop the segments of some fingerprints. Returns how many."""
    if not name:
        raise InvalidArgument("an empty name clears nothing: say which one")
    tracked = TrackedStream(repository, KIND, name, Registry())
    dropped: list[str] = []

    def draft() -> Draft | None:
        registry = tracked.state
        dropped[:] = [start.segment for start in registry.of(None) if unwanted(start.fingerprint)]
        dropped.extend(one for one, owner in registry.merging.items() if unwanted(owner))
        return Draft("clear", {"drops": list(dropped)}) if dropped else None

    tracked.change(draft)
    return len(dropped)


def _metrics(name: str, repository: RepositoryLike | None, fingerprint: str | None) -> Metrics:
    chosen = as_repository(repository)
    registry = Registry()
    chosen.stream(KIND, name, registry.apply)
    latest = max(registry.of(fingerprint), key=lambda start: start.time, default=None)
    if latest is None:
        raise SnapshotNotFound(f"{chosen.url} has no checkpoints of {name!r}")
    return load_metrics(Log(chosen, name, latest.fingerprint))
