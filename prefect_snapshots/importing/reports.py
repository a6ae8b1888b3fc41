"""What an import did, and how a foreign file is read."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from ..errors import InvalidArgument, SnapshotsError
from ..repository.progress import Progress

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did.

    Attributes:
        imported: The names of what was imported, oldest first.
        present: The names of what was imported before, and was not touched.
        left_out: A sentence for everything that could not be imported. The rest was.
    """

    imported: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


class NotImported(Exception):
    """One thing of an import cannot be imported. The message says why."""


UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, EOFError, zlib.error)
"""What reading a malformed file of another package raises, besides errors of this package and of the system."""


def watched_items(what: str, items: Sequence[T], progress: Progress | None) -> Iterator[T]:
    """Yield the items, and report after each how many were yielded.

    Args:
        what: The label of the step.
        items: The items.
        progress: Called with the label, how many items are done, and how many there are.
    """
    for number, item in enumerate(items, 1):
        yield item
        if progress is not None:
            progress(what, number, len(items))


def existing(path: str | os.PathLike[str], what: str) -> Path:
    """Return a path that exists.

    Raises:
        InvalidArgument: It does not, or it is neither a file nor a directory: reading a pipe would wait forever.
    """
    found = Path(os.path.expanduser(path))
    if not (found.is_file() or found.is_dir()):
        raise InvalidArgument(f"There is no {what} at {found}. Nothing was imported.")
    return found


def within(root: Path, path: str) -> Path:
    """Return a file whose path an imported file names.

    Raises:
        NotImported: It is not within the imported directory, or not there.
    """
    found = (root / path).resolve()
    if not found.is_relative_to(root.resolve()):
        raise NotImported(f"its file {path!r} is not in {root}")
    if not found.is_file():
        raise NotImported(f"its file {found} is missing")
    return found


def moment(value: Any, *, local: bool = False) -> datetime | None:
    """Return a time of an imported file. None if there is none.

    Args:
        value: Seconds since 1970, or a time in ISO format. What is neither, or no time of a calendar, is none.
        local: Whether a time without a zone is one of this machine. If not, it is in UTC.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return datetime.fromtimestamp(value, UTC)
        except (ValueError, OverflowError, OSError):
            return None
    if not isinstance(value, str):
        return None
    try:
        found = datetime.fromisoformat(value)
        return (found.astimezone() if local or found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def reason(error: Exception) -> str:
    """Return why something was left out, as the end of a sentence."""
    known = isinstance(error, SnapshotsError | NotImported)
    return str(error).removesuffix(".") if known else f"{type(error).__name__}: {error}".removesuffix(".")
