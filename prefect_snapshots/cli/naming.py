"""Find the one name that a user means: a whole name, the beginning of one, or `latest`."""

from __future__ import annotations

from collections.abc import Sequence

from cyclopts import Parameter

from ..errors import InvalidArgument, SnapshotsError
from ..messages import hint, some_names, whole_name_needed

LATEST = "latest"

NAME = Parameter(help="Look only under this name. Default: any.")
"""What `--name` says for commands that look for one version, and would find it without the name, too."""


def choose(wanted: str, known: Sequence[str], what: str, error: type[SnapshotsError], *, whole: bool = False) -> str:
    """Return the one name that the user means.

    Args:
        wanted: The user's input: a full name, `latest`, or the beginning of exactly one name.
        known: All names, newest first.
        what: What the names belong to, such as "backup".
        error: The error to raise if no name matches.
        whole: Whether only a full name is accepted. Commands that delete require that.

    Raises:
        InvalidArgument: Several names have this beginning.

    Example:
        >>> from prefect_snapshots.errors import BackupNotFound
        >>> names = ["shop_20260131", "shop_20260130"]
        >>> choose("latest", names, "backup", BackupNotFound), choose("shop_20260130", names, "backup", BackupNotFound)
        ('shop_20260131', 'shop_20260130')
    """
    if wanted in known:
        return wanted
    meant = [*known[:1]] if wanted == LATEST else [name for name in known if wanted and name.startswith(wanted)]
    if meant and whole:
        raise error(whole_name_needed(what, wanted, meant))
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise InvalidArgument(f"{wanted!r} may be {some_names(meant)}. Type more of it.")
    raise error(f"There is no {what} {wanted!r}. {hint(wanted, reversed(known))}")
