"""What a version was made from: the flow run, the commit of the code, and what this run has read before.

Within a flow run of Prefect, whatever reads a version notes it here, and whatever creates one records the run with all
that was noted. Outside of a flow run, nothing is noted or recorded. Prefect is not imported: whoever is in a flow run
has imported it. Parameters, environment variables and options of storages are never recorded.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec

from .catalog import RENAMED, Event
from .origin import Git, git_state
from .threads import Lock

if TYPE_CHECKING:
    from .repository import Repository

MADE_BY = "made_by"
"""The field of an event that contains what this module records."""

_INPUTS = 200
"""The most inputs of one run that are recorded, because they are stored with each of its versions in the catalog."""
_RUNS = 64
"""Flow runs of one process whose inputs are remembered: more than run at the same time in a worker."""


@dataclass(frozen=True, slots=True)
class Origin:
    """A version that a flow run has read.

    Attributes:
        kind: "artifacts", "snapshots" or "backups".
        name: The name: of an artifact with its collection, as in `default/model`.
        version: The version of an artifact, the id of a snapshot, or the name of a backup.
        repository: The URL of the repository, without secrets. None: the repository of the version that was made.
    """

    kind: str
    name: str
    version: str
    repository: str | None = None

    def __str__(self) -> str:
        where = "" if self.repository is None else f" in {self.repository}"
        return f"{self.name}:{self.version}{where}"


@dataclass(frozen=True, slots=True)
class MadeBy:
    """The flow run that made a version.

    Attributes:
        flow: The name of the flow.
        flow_run: The name of the flow run.
        flow_run_id: Its id.
        deployment_id: The id of its deployment, or None.
        git: The state of the code, or None if it is not in a git work tree.
        inputs: What the run had read before, in this order; the first 200.
    """

    flow: str
    flow_run: str
    flow_run_id: str
    deployment_id: str | None = None
    git: Git | None = None
    inputs: tuple[Origin, ...] = ()


class _RunSoFar:
    """What is known of one flow run of this process."""

    def __init__(self) -> None:
        self.inputs: dict[tuple[str, str, str, str, str], None] = {}
        """Kind, name, version, and the id and the URL of the repository."""

    @cached_property
    def git(self) -> Git | None:
        """The state of the code when the run logs its first version. To find out takes some milliseconds."""
        return git_state(())


_runs: dict[str, _RunSoFar] = {}
_lock = Lock()


def note_input(repository: Repository, kind: str, name: str, version: str) -> None:
    """Note that the current flow run reads a version. Does nothing outside of a flow run.

    Args:
        repository: The repository of the version.
        kind, name, version: As for `Origin`.
    """
    found = _flow_run()
    if found is not None:
        inputs = _run_of(found).inputs
        if len(inputs) < _INPUTS:
            inputs[kind, name, version, repository.id, repository.url] = None


def made_by(repository: Repository) -> dict[str, Any]:
    """Return the field of an event that records the current flow run, or an empty dictionary outside of one.

    Args:
        repository: The repository of the event. It need not exist yet.
    """
    found = _flow_run()
    if found is None:
        return {}
    run = _run_of(found)
    own = repository.id if repository.exists() else None
    inputs = tuple(
        Origin(kind, name, version, None if there == own else url)
        for kind, name, version, there, url in list(run.inputs)
    )
    flow, flow_run = found
    deployment = getattr(flow_run, "deployment_id", None)
    record = MadeBy(
        str(getattr(flow, "name", "")),
        str(getattr(flow_run, "name", "")),
        str(flow_run.id),
        None if deployment is None else str(deployment),
        run.git,
        inputs,
    )
    return {MADE_BY: msgspec.to_builtins(record)}


def read_made_by(body: dict[str, Any]) -> MadeBy | None:
    """Return what an event says of the run that made its version.

    Raises:
        msgspec.ValidationError: Someone who can write to the repository has forged it.
    """
    found = body.get(MADE_BY)
    return None if found is None else msgspec.convert(found, MadeBy)


class MadeVersions:
    """What the events of a stream of any kind say of the runs that made its versions. Deleted versions count, too."""

    def __init__(self, made: Mapping[str, MadeBy] | None = None) -> None:
        self.made: dict[str, MadeBy] = dict(made or {})

    def copy(self) -> MadeVersions:
        """Return a copy that is independent of later events."""
        return MadeVersions(self.made)

    def apply(self, event: Event) -> None:
        """Apply one event."""
        if event.kind == RENAMED:
            self.made.clear()  # they are in the stream of the new name
        version = event.body.get("id")
        # Whoever can forge a record could also leave it out.
        with contextlib.suppress(msgspec.ValidationError):
            if isinstance(version, str) and (found := read_made_by(event.body)) is not None:
                self.made[version] = found


def made_by_elsewhere(found: MadeBy, url: str) -> dict[str, Any]:
    """Return the field of an event for a copy in another repository.

    Args:
        found: What the original says of its run.
        url: The repository of the original, without secrets: inputs that were in it still are.
    """
    inputs = tuple(one if one.repository is not None else replace(one, repository=url) for one in found.inputs)
    return {MADE_BY: msgspec.to_builtins(replace(found, inputs=inputs))}


def _flow_run() -> tuple[Any, Any] | None:
    """Return the flow and the flow run in which the caller is, or None."""
    context = sys.modules.get("prefect.context")
    if context is None:
        return None
    found = context.FlowRunContext.get()
    return None if found is None or found.flow_run is None else (found.flow, found.flow_run)


def _run_of(found: tuple[Any, Any]) -> _RunSoFar:
    key = str(found[1].id)
    with _lock:
        run = _runs.pop(key, None)
        if run is None:
            run = _RunSoFar()
        _runs[key] = run  # the last one used is the last one that is forgotten
        while len(_runs) > _RUNS:
            del _runs[next(iter(_runs))]
    return run
