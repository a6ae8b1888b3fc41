"""Two restores of one target never run at once: the second one is refused, and learns who runs the first.

Each target has a name among the processes of this user on this machine (`working.exclusively`), whatever repository the
backup comes from. The operating system gives it back when the process ends, even by SIGKILL, so nothing blocks forever.
The folders above a target are held as well, and shared: so a directory is not switched while something within it is
restored.

Processes on other machines, or of other users, are not seen here. PostgreSQL has a lock on its server for them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from ..errors import RestoreRunning
from ..repository.origin import host
from .working import AlreadyHeld, exclusively


@contextlib.contextmanager
def alone(targets: Sequence[tuple[str, Path | None]], backup: str) -> Iterator[None]:
    """Hold the targets of a restore while the block runs.

    Args:
        targets: The name of each, and its path if it is on this machine.
        backup: The name of the backup, for others who want the same target.

    Raises:
        RestoreRunning: Another restore holds one of them.
    """
    wanted = {name if path is None else str(path): name for name, path in targets}
    above = {str(folder): name for name, path in targets if path is not None for folder in path.parents}
    since = f"{datetime.now(UTC):%F %T} UTC"
    note = f"the restore of backup {backup}, which process {os.getpid()} on {host()} has been running since {since}"
    with contextlib.ExitStack() as stack:
        # In one order: of two restores that want the same targets, one gets all of them.
        for place in sorted(wanted.keys() | above.keys()):
            name = "target-" + hashlib.blake2b(os.fsencode(place), digest_size=16).hexdigest()
            try:
                stack.enter_context(exclusively(name, note, shared=place not in wanted))
            except AlreadyHeld as held:
                found = " and ".join(held.notes) or "a restore that is just starting or ending"
                raise RestoreRunning(wanted.get(place) or above[place], found) from None
        yield
