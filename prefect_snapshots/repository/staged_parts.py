"""Commit parts that other processes have stored with `Repository.stage`.

Each part needs chunks that its author stored or reused some time ago. The process that commits looks for all of them
again: see "Parts that other processes have stored" in docs/prune.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

import msgspec

from ..errors import IntegrityError, InvalidArgument, MalformedContent, StagedPartsLost
from ..messages import logger
from .contents import ContentReader, Kept, StagedPart, Stored, Writer
from .repository import Repository

_ATTEMPTS = 3
"""How often parts that a prune has freed are staged again. A prune spares what is younger than its grace time."""

P = TypeVar("P")
R = TypeVar("R")

Parts: TypeAlias = Sequence[P] | Callable[[Sequence[int] | None], Sequence[P]]
"""Parts, or a function that has them staged: all if it is called with None, else those with these numbers."""


def commit_parts(parts: Parts[P], commit: Callable[[list[P]], R]) -> R:
    """Commit parts. If a prune has freed some of them, have these staged again, if `parts` is a function.

    Args:
        parts: The parts, or a function that has them staged.
        commit: Commits the parts that it is called with.

    Raises:
        StagedPartsLost: A prune has freed some parts, and they cannot be staged again.
    """
    if not callable(parts):
        return commit(list(parts))
    staged = list(parts(None))
    for _ in range(_ATTEMPTS - 1):
        try:
            return commit(staged)
        except StagedPartsLost as lost:
            logger.warning("A prune has freed %d staged parts before they were committed.", len(lost.parts))
            for number, again in zip(lost.parts, parts(lost.parts), strict=True):
                staged[number] = again
    return commit(staged)


def open_parts(
    repository: Repository,
    writer: Writer,
    parts: Sequence[StagedPart],
    by: str,
    refused: Callable[[int, str], Exception],
) -> list[tuple[ContentReader, Kept]]:
    """Open parts, and look for all of their chunks.

    Args:
        repository: The repository.
        writer: The writer of the commit.
        parts: What `Repository.stage` has returned elsewhere.
        by: The method that returns such parts, for messages.
        refused: Returns the error to raise if the part with a number is invalid, and why.

    Returns:
        A reader of each, and its body, without the manifest.

    Raises:
        StagedPartsLost: A prune has freed some of them. The error has their numbers.
        InvalidArgument: One is no part, or was staged in another repository.
    """
    found: list[tuple[ContentReader, Kept]] = []
    lost: list[int] = []
    for number, part in enumerate(parts):
        if not isinstance(part, StagedPart):
            raise InvalidArgument(f"A part must be what {by} returned, not {type(part).__name__}.")
        try:
            content = repository.staged(part)
            found.append((content, writer.keep_body(content)))
            content.manifest  # noqa: B018  it may be lost as well
        except MalformedContent as error:
            raise refused(number, str(error)) from error
        except IntegrityError:
            lost.append(number)
    if lost:
        raise StagedPartsLost(*lost)
    return found


def with_written(stored: Stored, parts: Sequence[StagedPart]) -> Stored:
    """Return a content that says how many bytes were new in the repository, those of its parts included."""
    written = stored.content.written + sum(max(0, part.content.written) for part in parts)
    return Stored(msgspec.structs.replace(stored.content, written=written), stored.inline)
