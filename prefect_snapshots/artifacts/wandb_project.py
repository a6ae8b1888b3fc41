"""A project of Weights & Biases: its collections, the names it accepts, and the active run that logs into it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING, Any

from ..errors import InvalidArgument, InvalidName, NoActiveRun
from ..repository.names import check_name
from ..repository.times import parse_time
from .history import check_alias
from .wandb_versions import VersionNote, asking, is_absence, load_wandb, plain_metadata

if TYPE_CHECKING:
    import wandb

_NAME = re.compile(r"(?=[^A-Za-z0-9]*[A-Za-z0-9])[A-Za-z0-9_.-]{1,128}")
_REGISTRY = "wandb-registry-"


class WandbProject:
    """A project of W&B.

    Args:
        name: The name of the project.
        entity: The team or user. Default: that of the active run if it belongs to this project, else the one in the
            settings of wandb.
    """

    def __init__(self, name: str, entity: str | None) -> None:
        self.name = _check_place(name, "project")
        self.entity = None if entity is None else _check_place(entity, "entity")
        self.is_registry = name.startswith(_REGISTRY)
        load_wandb()

    @cached_property
    def api(self) -> wandb.Api:
        with asking("logging in"):
            api: wandb.Api = load_wandb().Api()
        return api

    @property
    def path(self) -> str:
        """Entity and name of the project, as the API takes them."""
        run = load_wandb().run
        entity = self.entity or (run.entity if run is not None and run.project == self.name else None)
        return f"{entity}/{self.name}" if entity else self.name

    def collections(self) -> list[str]:
        """Return the collections that have artifacts, sorted, without the internal ones of W&B."""
        with asking(f"the collections of {self.path}"):
            return sorted(name for name, kind in self._types().items() if any(True for _ in kind.collections()))

    def names(self, collection: str) -> list[str]:
        """Return the names of the artifacts of a collection, sorted. Empty if there is no such collection or project.

        W&B also lists artifacts whose versions were all deleted, or whose first version is still being uploaded.
        """
        with asking(f"the artifacts of {self.path}"):
            found = self._types().get(collection)
            return [] if found is None else sorted(one.name for one in found.collections())

    def draft(
        self,
        name: str,
        collection: str,
        note: VersionNote,
        metadata: Mapping[str, Any] | None,
        expiry: datetime | str | None,
    ) -> tuple[wandb.Run, wandb.Artifact]:
        """Return the active run and an artifact without files, after checking all that W&B would refuse.

        Nothing is sent.
        """
        wandb = load_wandb()
        try:
            artifact = wandb.Artifact(name, type=collection)
        except ValueError as error:
            raise InvalidName(
                f"W&B does not accept the artifact {name!r} of the collection {collection!r}: {error}"
            ) from None
        artifact.metadata = note.within(plain_metadata(metadata))
        if expiry is not None:
            artifact.ttl = ttl_of(datetime.now(UTC), expiry)
        run = wandb.run
        if run is None or run.disabled:
            raise NoActiveRun(
                f"Logging to W&B needs an active run. Call wandb.init(project={self.name!r}) first, in a mode other "
                "than disabled."
            )
        if run.project != self.name or (self.entity and not run.offline and run.entity != self.entity):
            raise InvalidArgument(
                f"The active run belongs to {run.entity}/{run.project}, and W&B logs into the project of the run. "
                f"Start one with wandb.init(project={self.name!r}, entity={self.entity!r})."
            )
        return run, artifact

    def _types(self) -> dict[str, Any]:
        """Return the artifact types of the project by name; empty if there is no such project."""
        try:
            found = list(self.api.artifact_types(self.path))
        except ValueError as error:
            if not is_absence(error):
                raise
            return {}
        return {one.name: one for one in found if one.name != "job" and not one.name.startswith("wandb-")}

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "api"}


def ttl_of(created_at: datetime, expiry: datetime | str) -> timedelta:
    """Return how long W&B has to keep a version.

    Raises:
        InvalidArgument: It would be deleted at once.
    """
    seconds = math.ceil((parse_time(expiry) - created_at).total_seconds())
    if seconds <= 0:
        raise InvalidArgument(
            f"The expiry {expiry} is not after the version was logged: W&B would delete it at once. Pass a later time."
        )
    return timedelta(seconds=seconds)


def check_wandb_name(name: str, what: str = "name") -> str:
    """Return the name of an artifact or a collection, or raise `InvalidName`."""
    if not _NAME.fullmatch(check_name(name, what)):
        raise InvalidName(f"W&B does not accept the {what} {name!r}. Use up to 128 letters, digits, '_', '-' and '.'.")
    return name


def check_wandb_alias(alias: str) -> str:
    """Return an alias, or raise `InvalidName`."""
    if set(check_alias(alias)) & set("/:"):
        raise InvalidName(f"W&B does not accept the alias {alias!r}. Use one without '/' and ':'.")
    return alias


def check_wandb_path(path: str) -> str:
    """Refuse a path that W&B would mistake for a Windows path, and not return as it was."""
    if "\\" in path or PureWindowsPath(path).anchor:
        raise InvalidName(f"The path {path!r} looks like a Windows path, which W&B refuses. Rename the file.")
    return path


def _check_place(name: str, what: str) -> str:
    if len(check_name(name, what)) > 128 or set(name) & set("/#?%:"):
        raise InvalidName(f"W&B does not accept the {what} {name!r}. Use up to 128 characters without / # ? % and :.")
    return name
