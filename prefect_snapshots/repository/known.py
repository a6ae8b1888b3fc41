"""The encrypted repositories that you have opened before, so that another one in the same place is noticed.

Whoever can write to a bucket can put another repository there: one of yours with the same password, or one without
encryption. So the id of each encrypted repository is remembered when it is first opened, as SSH remembers the
keys of hosts: one small file for each place, in `$XDG_STATE_HOME/prefect-snapshots/repositories`
(default: `~/.local/state/...`), readable by you only.

Where nothing can be remembered, as in a container, nothing is noticed: pass `Repository(url, id=...)` there.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path

from blake3 import blake3

from ..redaction import harmless_options
from .location import Location

_MOST_BYTES = 16 * 1024
"""Bytes of a file that remembers one repository: it has some hundred. A larger one is not ours."""


def known_id(location: Location) -> str | None:
    """Return the id of the encrypted repository that was opened here last; None if there was none."""
    if _is_forgettable(location):
        return None
    try:
        with open(_file(location), "rb") as file:
            found = json.loads(file.read(_MOST_BYTES))["id"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if isinstance(found, str) else None


def remember(location: Location, repository_id: str) -> None:
    """Remember which encrypted repository is here. Does nothing if your state folder cannot be written."""
    if _is_forgettable(location) or known_id(location) == repository_id:
        return
    file = _file(location)
    with contextlib.suppress(OSError):
        # One by one: the mode of `mkdir` is not for the parents.
        for folder in (file.parent.parent, file.parent):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # In one step: another process may do the same, and a half-written file would be no memory at all.
        with tempfile.NamedTemporaryFile("w", dir=file.parent, prefix=".tmp-", delete=False) as new:
            new.write(json.dumps({"url": location.url, "id": repository_id}))
        os.replace(new.name, file)


def forget(location: Location) -> None:
    """Forget which repository was here."""
    with contextlib.suppress(OSError):
        _file(location).unlink()


def _file(location: Location) -> Path:
    # The specification wants a relative path there to be ignored.
    state = os.environ.get("XDG_STATE_HOME", "")
    home = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    # A bucket of one name may exist at two endpoints.
    options = harmless_options(location.storage_options)
    where = {key: options.get(key) for key in ("endpoint_url", "client_kwargs", "host", "port", "account_name")}
    name = blake3(json.dumps([location.url, where], sort_keys=True).encode()).hexdigest(16)
    return home / "prefect-snapshots" / "repositories" / f"{name}.json"


def _is_forgettable(location: Location) -> bool:
    return location.url.startswith("memory://")
