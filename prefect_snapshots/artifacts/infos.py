"""The plain records that every artifact store returns."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from ..repository.provenance import MadeBy


@dataclass(frozen=True, slots=True)
class ArtifactVersion:
    """One version of an artifact."""

    name: str
    collection: str
    version: str
    """The version number, as in `v3`."""
    new: bool = field(default=True, compare=False, repr=False)
    """False if the call that returned it has found it, and has made no version: with `if_changed`, or of a copy that
    was there already."""

    def __str__(self) -> str:
        return f"{self.collection}/{self.name}:{self.version}"


@dataclass(frozen=True, slots=True)
class ArtifactInfo:
    """The metadata of a version."""

    name: str
    collection: str
    version: str
    created_at: datetime
    """When it was logged, in UTC, by the clock of the machine that logged it."""
    expiry: datetime | None
    """When it expires, in UTC. After that, it is loaded only with `validate=False`. None means never."""
    handler: str | None
    """The handler that reads its value. None for a folder of files."""
    size: int
    """Its size in bytes, uncompressed."""
    written: int
    """The bytes that it added to the repository. Identical data is stored only once and compressed."""
    metadata: dict[str, Any]
    aliases: list[str]
    """The aliases that point to it now, sorted."""
    environment: dict[str, str]
    """The versions of `python` and of packages, by name, that are required to load it."""
    source: dict[str, str] | None
    """The registry, name and version that it was copied from. None if it was logged here."""
    pinned: bool = False
    """Whether it is exempt from retention."""
    description: str = ""
    """The text that describes it. Empty if there is none."""
    tags: tuple[str, ...] = ()
    """Its tags, in the order in which they were added."""
    made_by: MadeBy | None = None
    """The flow run that made it, with the commit of the code and what it had read. None outside of a flow run."""

    @property
    def fields(self) -> dict[str, Any]:
        """The fields that a condition can use, beside the metadata."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name not in _NOT_SEARCHED}


_NOT_SEARCHED = frozenset({"metadata", "environment", "source", "made_by"})
"""Fields with keys of their own, which are searched by these, or not at all."""


@dataclass(frozen=True, slots=True)
class Release:
    """A fixed set of artifact versions under one tag. It never changes."""

    tag: str
    collection: str
    created_at: datetime
    artifacts: dict[str, str]
    """The version of each artifact by its name, as in `{"features": "v3"}`."""
    metadata: dict[str, Any]
