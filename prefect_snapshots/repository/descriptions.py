"""Tags and descriptions: what people note about a name or a version, and can change at any time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidArgument
from .names import check_name

DESCRIPTION_LIMIT = 10_000
"""The most characters of a description, because it is stored in the catalog: a few pages of text."""


@dataclass(frozen=True, slots=True)
class Description:
    """What people have noted about a name or a version.

    Attributes:
        description: A text, such as Markdown. Empty if there is none.
        tags: The tags, in the order in which they were added.
    """

    description: str = ""
    tags: tuple[str, ...] = ()

    def changed_by(self, body: Mapping[str, Any]) -> Description:
        """Return what it is after an event.

        Args:
            body: The fields of the event: `description`, `add_tags` and `remove_tags`. Each can be missing.
        """
        tags = dict.fromkeys((*self.tags, *body.get("add_tags", ())))
        for tag in body.get("remove_tags", ()):
            tags.pop(tag, None)
        return Description(str(body.get("description", self.description)), tuple(map(str, tags)))


NOTHING = Description()
"""Nobody has noted anything."""


def changes_of(
    description: str | None, add_tags: str | Sequence[str] | None, remove_tags: str | Sequence[str] | None
) -> dict[str, Any]:
    """Check what is to change, and return it as the fields of an event.

    Raises:
        InvalidArgument: Nothing is to change, or the description is no string, or too long.
        InvalidName: A tag is not valid.
    """
    changes: dict[str, Any] = {}
    if description is not None:
        if not isinstance(description, str) or len(description) > DESCRIPTION_LIMIT:
            raise InvalidArgument(f"A description must be a string of up to {DESCRIPTION_LIMIT:,} characters.")
        changes["description"] = description.encode(errors="replace").decode()
    for key, tags in (("add_tags", add_tags), ("remove_tags", remove_tags)):
        if cleaned := clean_tags(tags):
            changes[key] = cleaned
    if not changes:
        raise InvalidArgument("Pass a description, or tags to add or to remove. Nothing was changed.")
    return changes


def clean_tags(tags: str | Sequence[str] | None) -> list[str]:
    """Return tags in order, without duplicates. A single string is one tag."""
    if tags is None:
        return []
    if not isinstance(tags, Iterable):
        raise InvalidArgument(f"tags must be a string or a sequence of strings, not {type(tags).__name__}.")
    return list(dict.fromkeys(check_name(tag, "tag") for tag in ([tags] if isinstance(tags, str) else tags)))
