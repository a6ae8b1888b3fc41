"""Find the one name that a user means: a whole name, the beginning of one, or `latest`."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import InvalidArgument, SnapshotsError

LATEST = "latest"

_SHOWN = 3
"""How many names a message lists: enough to choose from, and the message stays on one line."""


def choose(wanted: str, known: Sequence[str], what: str, error: type[SnapshotsError], *, whole: bool = False) -> str:
    """Return the one name that is meant.

    Args:
        wanted: What was typed: a whole name, `latest`, or a beginning that only one name has.
        known: All names, the newest first.
        what: What they are names of, as in "backup".
        error: The error to raise if there is none.
        whole: Whether only a whole name counts. What deletes asks for that.

    Raises:
        InvalidArgument: Several names begin like this.

    Example:
        >>> from prefect_snapshots.errors import BackupNotFound
        >>> names = ["shop_20260131", "shop_20260130"]
        >>> choose("latest", names, "backup", BackupNotFound), choose("shop_20260130", names, "backup", BackupNotFound)
        ('shop_20260131', 'shop_20260130')
    """
    if wanted in known:
        return wanted
    if not whole:
        if wanted == LATEST and known:
            return known[0]
        meant = [name for name in known if wanted and name.startswith(wanted)]
        if len(meant) == 1:
            return meant[0]
        if meant:
            raise InvalidArgument(f"Several names of a {what} begin with {wanted!r}: {_some(meant)}. Type more of it.")
    from ..repository.tracking import hint  # the commands start without the repository

    raise error(f"There is no {what} {wanted!r}. {hint(wanted, reversed(known))}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else "")
