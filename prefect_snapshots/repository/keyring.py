"""List, add, change and remove the passwords of an open repository. The keys of the data do not change."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from ..errors import CommitConflict, InvalidArgument, InvalidName, ObjectMissing, RepositoryChanged, WrongPassword
from .configuration import CONFIG, CONFIG_COPY, config_bytes, read_config
from .envelopes import MOST_ENVELOPES, Envelope, parse_envelopes
from .location import Location
from .opened import Opened

EDIT_CLAIM = "repository.edit"
"""An object that exists while a process edits the passwords."""

_PATIENCE = 10.0
"""Seconds after which the process with the claim is assumed dead. An edit derives one key and writes two small objects,
which takes less than a second."""
_LONGEST_WAIT = 60.0
"""Seconds after which an edit gives up: so many others take less, unless somebody only pretends to edit."""
_POLL = 0.05
"""Seconds between two checks of another process's claim: short compared with an edit."""


@dataclass(frozen=True, slots=True)
class PasswordInfo:
    """A password of a repository.

    Attributes:
        name: Its name.
        created: When it was added or last changed, in UTC.
    """

    name: str
    created: datetime


def list_passwords(location: Location) -> list[PasswordInfo]:
    """Return the passwords that open the repository, newest first."""
    config = read_config(location) or {"passwords": []}
    infos = [PasswordInfo(found.name, found.created) for found in parse_envelopes(config["passwords"])]
    return sorted(infos, key=lambda info: (info.created, info.name), reverse=True)


def add_password(opened: Opened, name: str, password: str) -> None:
    """See `Repository.add_password`."""
    url = opened.store.location.url

    def add(envelopes: list[Envelope], secret: bytes) -> list[Envelope]:
        if any(envelope.name == name for envelope in envelopes):
            raise InvalidName(f"{url} already has a password named {name!r}. Choose another name.")
        if len(envelopes) >= MOST_ENVELOPES:
            raise InvalidArgument(f"{url} already has {MOST_ENVELOPES} passwords. Remove one before you add another.")
        return [*envelopes, _envelope(opened, name, password, secret)]

    _edit(opened, add)


def change_password(opened: Opened, new: str, name: str) -> None:
    """See `Repository.change_password`."""

    def change(envelopes: list[Envelope], secret: bytes) -> list[Envelope]:
        _check_name(opened, envelopes, name)
        new_one = _envelope(opened, name, new, secret)
        return [new_one if envelope.name == name else envelope for envelope in envelopes]

    _edit(opened, change)


def remove_password(opened: Opened, name: str) -> None:
    """See `Repository.remove_password`."""

    def remove(envelopes: list[Envelope], secret: bytes) -> list[Envelope]:
        _check_name(opened, envelopes, name)
        if name == opened.password_name:
            raise InvalidArgument(
                f"{opened.store.location.url} was opened with the password {name!r}. Open it with another one to "
                "remove this one."
            )
        return [envelope for envelope in envelopes if envelope.name != name]

    _edit(opened, remove)


def _envelope(opened: Opened, name: str, password: str, secret: bytes) -> Envelope:
    if not password:
        raise InvalidArgument("A password must not be empty.")
    return Envelope.seal(name, password, secret, opened.id)


def _check_name(opened: Opened, envelopes: Sequence[Envelope], name: str) -> None:
    names = sorted(envelope.name for envelope in envelopes)
    if name not in names:
        raise InvalidName(f"{opened.store.location.url} has no password named {name!r}. It has: {', '.join(names)}.")


def _edit(opened: Opened, edit: Callable[[list[Envelope], bytes], list[Envelope]]) -> None:
    location = opened.store.location
    if opened.secret is None:
        raise WrongPassword(
            f"{location.url} is not encrypted, and this cannot be changed. Create a new repository with a password, "
            "and copy the data."
        )
    with _alone(location) as check:
        # Read it again, because another process may have added a password since this repository was opened.
        current = read_config(location)
        if current is None or current["id"] != opened.id:
            raise RepositoryChanged(
                f"{location.url} is no longer the repository that you opened. Nothing was changed. Find out who "
                "replaced it."
            )
        envelopes = edit(parse_envelopes(current["passwords"]), opened.secret)
        data = config_bytes({**current, "passwords": [envelope.record() for envelope in envelopes]})
        check("Nothing was changed. Run the command again.")
        # Write the copy first: if the second write fails, the repository still opens with the old passwords.
        for path in (CONFIG_COPY, CONFIG):
            location.replace(path, data)
        # Another process may have read the passwords before this write, and written them after it.
        check("Either change may be missing. List the passwords, and repeat what is missing.")


@contextlib.contextmanager
def _alone(location: Location) -> Iterator[Callable[[str], None]]:
    """Exclude other processes from editing the passwords. Otherwise one of two edits would undo the other.

    No storage can change several objects atomically, but all can create an object exclusively.

    One case remains: a process that is stopped for more than `_PATIENCE` between its check and its write undoes an edit
    that was acknowledged meanwhile. It is told when it goes on, so that somebody lists the passwords. To exclude it,
    all storages would have to replace an object only if it has not changed.

    Yields:
        A function that raises `CommitConflict` if another process has taken over, because this one was stopped for
        long. Its argument is the end of the message.
    """
    claim = os.urandom(16).hex().encode()
    seen, since = b"", time.monotonic()
    begun = since
    while not location.create(EDIT_CLAIM, claim):
        if time.monotonic() - begun > _LONGEST_WAIT:
            raise CommitConflict(
                f"Other processes have edited the passwords of {location.url} for {_LONGEST_WAIT:.0f} s, and this one "
                f"could not begin. Nothing was changed. Find out who writes the object {EDIT_CLAIM}, and try again."
            )
        with contextlib.suppress(ObjectMissing):
            holder = location.read(EDIT_CLAIM)
            if holder != seen:
                seen, since = holder, time.monotonic()
            elif time.monotonic() - since > _PATIENCE:
                # The other process was killed. If it was only stopped, its `check` fails.
                location.delete([EDIT_CLAIM])
        time.sleep(_POLL)

    def holds() -> bool:
        with contextlib.suppress(ObjectMissing):
            return location.read(EDIT_CLAIM) == claim
        return False

    def check(advice: str) -> None:
        if not holds():
            raise CommitConflict(
                f"Another process edited the passwords of {location.url} while this one was stopped. {advice}"
            )

    try:
        yield check
    finally:
        if holds():
            location.delete([EDIT_CLAIM])
