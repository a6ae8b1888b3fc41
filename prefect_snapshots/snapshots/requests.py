"""The request to save a value, which all ways of saving share."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ..repository.catalog import token_from
from ..repository.descriptions import clean_tags
from ..repository.metadata import clean_metadata
from ..repository.names import check_name
from ..repository.provenance import MADE_BY
from .records import Record


@dataclass(frozen=True, slots=True)
class SaveRequest:
    """The id, metadata and options of a save. `SaveRequest.of` checks the arguments of users.

    Attributes:
        id: The id of the snapshot.
        metadata: JSON-like values with string keys.
        tags: Its tags, in order.
        overwrite: Whether to replace a snapshot with this id.
        token: Identifies the save, so that a retry after `CommitUnknown` cannot store it twice.
        time: When it was saved, in nanoseconds since 1970. None means now.
        pinned: Whether it is pinned from the beginning.
        named: Whether the caller chose the id.
        description: The text that describes it.
        made_by: For a snapshot that is saved again, what it records of the flow run that made it.
    """

    id: str
    metadata: Mapping[str, Any]
    tags: Sequence[str]
    overwrite: bool = False
    token: bytes | None = None
    time: int | None = None
    pinned: bool = False
    named: bool = True
    description: str = ""
    made_by: Mapping[str, Any] | None = None

    @classmethod
    def of(
        cls,
        snapshot_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        tags: str | Sequence[str] | None = None,
        overwrite: bool = False,
        *,
        token: str | None = None,
    ) -> SaveRequest:
        """Check the arguments of a save.

        Args:
            snapshot_id: The id. Default: the time and a random part.
            metadata: JSON-like values with string keys. Default: none.
            tags: One tag or several. Default: none.
            overwrite: Whether to replace a snapshot with this id.
            token: The token of an earlier attempt, in hexadecimal digits.

        Raises:
            InvalidName: The id or a tag cannot be stored.
            InvalidArgument: The metadata cannot be stored, or the token is malformed.
        """
        known = _new_id() if snapshot_id is None else check_name(snapshot_id, "snapshot id")
        named = snapshot_id is not None
        return cls(known, clean_metadata(metadata), clean_tags(tags), overwrite, token_from(token), named=named)

    @classmethod
    def again(cls, record: Record) -> SaveRequest:
        """Return the request to save an existing snapshot elsewhere, with its time, tags and pin."""
        return cls(
            record.id,
            record.metadata,
            list(record.tags),
            time=record.time,
            pinned=record.pinned,
            description=record.description,
            made_by=record.event.body.get(MADE_BY),
        )

    @property
    def body(self) -> dict[str, Any]:
        """The body of the event for this save."""
        body: dict[str, Any] = {"id": self.id, "metadata": dict(self.metadata), "tags": list(self.tags)}
        if self.time is not None:
            body["time"] = self.time
        if self.pinned:
            body["pinned"] = True
        if self.description:
            body["description"] = self.description
        if self.made_by:
            body[MADE_BY] = self.made_by
        return body


def _new_id() -> str:
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
