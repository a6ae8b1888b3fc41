"""The repositories that you have opened before, so that another one in the same place is noticed.

Whoever can write to a bucket can put another repository there: one of yours with the same password, or one without
encryption. A disk that is not mounted, or a copy to the wrong place, does the same by mistake. So the id of each
repository is remembered when it is first opened, as SSH remembers the keys of hosts: one small file for each place, in
`$XDG_STATE_HOME/prefect-snapshots/repositories` (default: `~/.local/state/...`), readable by you only.

The id of a plain repository protects against mistakes only: whoever can write to it can keep the id and change the
rest. Plain repositories in the directory for temporary files are not remembered: tests create thousands of them.

If nothing can be saved, as in a container, a replaced repository is not noticed. Pass `Repository(url, id=...)` there.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec
from blake3 import blake3

from ..errors import UNDECODABLE, RepositoryError
from ..messages import logger
from ..private_files import why_forgeable
from ..redaction import harmless_options, safe_url
from .location import Location

_MOST_BYTES = 16 * 1024
"""The largest size in bytes of such a file. A valid one has a few hundred bytes."""


class _Stored(msgspec.Struct):
    id: str
    encrypted: bool = True
    """Files of older versions do not say it."""


@dataclass(frozen=True)
class KnownRepository:
    """A repository that was opened before."""

    id: str
    encrypted: bool

    def is_replaced_by(self, other: KnownRepository) -> bool:
        """Return whether another repository is here now, or this one lost its encryption."""
        return self.id != other.id or (self.encrypted and not other.encrypted)

    def __str__(self) -> str:
        return self.id if self.encrypted else f"{self.id}, which is not encrypted"


def find(location: Location) -> KnownRepository | None:
    """Return the repository that was opened here last, if it is remembered.

    What cannot be read is a warning: the repository opens, but another one in its place is not noticed.

    Raises:
        RepositoryError: A pipe or something else is where the file should be, or others can write to it or its
            directory. It is not read.
    """
    if location.url.startswith("memory://"):
        return None
    try:
        return _load(location)
    except (FileNotFoundError, RuntimeError):
        return None  # it was never opened here, or a user without an entry in /etc/passwd has no home
    except (OSError, ValueError) as error:
        logger.warning(
            "The saved id of %s could not be read (%s). So you would not notice if another repository is there now.",
            safe_url(location.url),
            error,
        )
        return None


def remember(location: Location, repository: KnownRepository) -> None:
    """Remember which repository is here. Does nothing if your state folder cannot be written."""
    if _is_forgettable(location, repository):
        return
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        if _load(location) == repository:
            return
    with contextlib.suppress(OSError, RuntimeError):  # a user without an entry in /etc/passwd may have no home
        file = _file(location)
        # One by one: the mode of `mkdir` is not for the parents.
        for folder in (file.parent.parent, file.parent):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Atomically, because another process may do the same, and a half-written file would be useless.
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=".tmp-") as beside:
            new = Path(beside) / file.name
            new.touch(0o600)
            new.write_text(json.dumps({"url": location.url, "id": repository.id, "encrypted": repository.encrypted}))
            os.replace(new, file)


def forget(location: Location) -> None:
    """Delete the saved id of a location."""
    with contextlib.suppress(OSError, RuntimeError):
        _file(location).unlink()


def _load(location: Location) -> KnownRepository:
    path = _file(location)
    _refuse_strangers(path)
    # Opening a pipe would wait for somebody who writes to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise RepositoryError(
                f"{path} should have the id of a repository, and is not a regular file. Nothing was opened. Delete it, "
                "unless you know who put it there, and try again."
            )
        data = os.read(descriptor, _MOST_BYTES)
    finally:
        os.close(descriptor)
    try:
        stored = msgspec.json.decode(data, type=_Stored)
    except UNDECODABLE as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    return KnownRepository(stored.id, stored.encrypted)


def _refuse_strangers(path: Path) -> None:
    """Refuse what others could have written: they could replace an encrypted repository."""
    state = path.parent.parent.parent
    for each in (path.parent.parent, path.parent, path):
        if (why := why_forgeable(each, state)) is not None:
            raise RepositoryError(
                f"{each} {why}, so the saved ids of your repositories could be forged. Nothing was opened. Check who "
                "did that, then correct or delete it: the ids are saved again when repositories are opened."
            )


def _file(location: Location) -> Path:
    # The XDG specification says to ignore a relative path.
    state = os.environ.get("XDG_STATE_HOME", "")
    home = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    # Buckets with the same name may exist at different endpoints.
    options = harmless_options(location.storage_options)
    where = {key: options.get(key) for key in ("endpoint_url", "client_kwargs", "host", "port", "account_name")}
    name = blake3(json.dumps([location.url, where], sort_keys=True).encode()).hexdigest(16)
    return Path(f"{home}/prefect-snapshots/repositories/{name}.json")


def _is_forgettable(location: Location, repository: KnownRepository) -> bool:
    temporary = Path(tempfile.gettempdir()).resolve().as_uri() + "/"
    return location.url.startswith("memory://" if repository.encrypted else ("memory://", temporary))
