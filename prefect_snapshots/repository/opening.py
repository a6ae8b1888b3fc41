"""Open or create a repository: find its configuration, check that it is the expected one, and unlock it."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

from ..errors import (
    NotARepository,
    ReadOnlyRepository,
    RepositoryChanged,
    RepositoryNotFound,
    StorageUnavailable,
    UnsupportedFormat,
    WrongPassword,
)
from . import chunking, known
from .configuration import CONFIG, CONFIG_COPY, FORMAT, config_bytes, read_config
from .envelopes import Envelope, opened_by, parse_envelopes
from .location import Location
from .opened import Opened, assemble
from .passwords import PASSWORD_SETTING, PasswordSource
from .reserve import keep_reserve
from .sealing import Compression, Sealer
from .threads import Lock


class Opener:
    """Open one repository when it is first used, and once.

    Args:
        location: Where it is.
        password: Where its password comes from.
        expected_id: The id that it must have; None for the one that is remembered, if any.
        compression: How this process compresses what it stores.
        read_only: Refuse to write.
        single_writer: Accept a location that cannot create objects exclusively.
    """

    def __init__(
        self,
        location: Location,
        password: PasswordSource,
        expected_id: str | None,
        compression: Compression,
        read_only: bool,
        single_writer: bool,
    ) -> None:
        self.location = location
        self.lock = Lock()
        self._password = password
        self._expected_id = expected_id
        self._compression: Compression = compression
        self._read_only = read_only
        self._single_writer = single_writer
        self._opened: Opened | None = None
        self._complete = False

    @property
    def _url(self) -> str:
        return self.location.url

    def reading(self) -> Opened:
        """Open the repository for reading. Creates nothing.

        Raises:
            RepositoryNotFound: There is none.
            NotARepository: The place is not empty, and holds none.
            WrongPassword: The password does not open it, or is missing.
            RepositoryChanged: It is another repository than the expected one.
        """
        if self._opened is None:
            with self.lock:
                if self._opened is None:
                    config = read_config(self.location)
                    if config is None and not self.location.is_empty():
                        # Somebody may have created the repository between these two looks.
                        config = read_config(self.location)
                        if config is None:
                            raise NotARepository(
                                f"{self._url} is not empty, and it holds no repository. Nothing was changed. Choose "
                                "an empty or a new place, or check the URL."
                            )
                    if config is None:
                        raise RepositoryNotFound(
                            f"There is no repository at {self._url}. The first save creates one; check the URL if you "
                            "expected data here."
                        )
                    self._opened = self._open(config)
        return self._opened

    def writing(self) -> Opened:
        """Open the repository for writing, and create it if the place is empty."""
        if self._read_only:
            raise ReadOnlyRepository(
                f"{self._url} was opened with read_only=True. Nothing was changed. To write, open it without "
                "read_only=True."
            )
        if not self._complete:
            with self.lock:
                try:
                    opened = self.reading()
                except RepositoryNotFound:
                    opened = self._opened = self._open(self._create_config())
                # Whoever created the repository may have been killed before there was a copy.
                if self.location.size(CONFIG_COPY) is None:
                    self.location.create(CONFIG_COPY, config_bytes(opened.config))
                keep_reserve(self.location)
                self._complete = True
        return self.reading()

    def _create_config(self) -> dict[str, Any]:
        """Claim the place. Of several at once one wins, and the others open what it created."""
        password = self._password()
        if self._expected_id is not None:
            raise RepositoryNotFound(
                f"There is no repository at {self._url}, and none is created, because id={self._expected_id!r} was "
                "given. Check the URL, or leave out id to create a new one."
            )
        before = known.find(self.location)
        if password is None and not self._password.is_refused and before is not None and before.encrypted:
            raise WrongPassword(
                f"There was an encrypted repository at {self._url} when you last looked, and now there is none. It is "
                "not replaced by one without encryption: pass a password, or password=False (--no-password)."
            )
        if not self._single_writer:
            self.location.prove_exclusive()
        repository_id, secret = os.urandom(16).hex(), os.urandom(32)
        config = {
            "format": FORMAT,
            "id": repository_id,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "chunking": chunking.parameters(),
            "passwords": [Envelope.seal("default", password, secret, repository_id).record()] if password else [],
        }
        data = config_bytes(config)
        try:
            claimed = self.location.create(CONFIG, data)
        except StorageUnavailable:
            claimed = False
        if claimed:
            # What was here before is gone, and this one is ours.
            known.forget(self.location)
            return config
        found = read_config(self.location)
        if found is None:
            raise StorageUnavailable(f"{self._url} did not confirm that the repository was created. Try again.")
        return found

    def _check_id(self, config: dict[str, Any]) -> None:
        """Refuse a repository that is not the one that is expected here."""
        if self._expected_id is not None:
            if config["id"] != self._expected_id:
                raise RepositoryChanged(
                    f"{self._url} holds the repository {config['id']}, but id={self._expected_id!r} was given. "
                    "Somebody may have replaced it. Nothing was read from it."
                )
            return
        before, now = known.find(self.location), _known(config)
        if before is not None and before.is_replaced_by(now):
            raise RepositoryChanged(
                f"{self._url} held the repository {before} when you last opened it, and now holds {now}. "
                "Somebody may have replaced it. Nothing was read from it. If you know why it changed, run "
                f"`prefect-snapshots --repository {self._url} password trust`, or pass id={config['id']!r}."
            )

    def _open(self, config: dict[str, Any]) -> Opened:
        if config["format"] > FORMAT:
            raise UnsupportedFormat(
                f"{self._url} has repository format {config['format']}; this version reads up to {FORMAT}. "
                "Upgrade prefect-snapshots."
            )
        if config["chunking"] != chunking.parameters() and not self._read_only:
            raise UnsupportedFormat(
                f"{self._url} cuts its chunks in another way ({config['chunking']}), so that nothing would be found "
                "again. Open it with read_only=True."
            )
        self._check_id(config)
        name, secret = self._unlock(config)
        known.remember(self.location, _known(config))
        sealer = Sealer(bytes.fromhex(config["id"]), secret, self._compression)
        return assemble(self.location, config, secret, name, sealer, self._read_only)

    def _unlock(self, config: dict[str, Any]) -> tuple[str, bytes | None]:
        """Return the name of the password that opened the repository, and the secret. Both are nothing in a plain one.

        A configured password means that the repository is encrypted. Otherwise whoever can write to the bucket could
        put a plain one there, have you unpickle what is in it, and read what you save next.
        """
        password = self._password()
        if not config["passwords"]:
            if password is not None:
                raise WrongPassword(
                    f"{self._url} is not encrypted, but a password is configured for it. Somebody may have replaced "
                    "it. If it is meant to be open, pass password=False (--no-password on the command line)."
                )
            return "", None
        if password is None:
            raise WrongPassword(f"{self._url} is encrypted. Pass a password, or set {PASSWORD_SETTING}.")
        found = opened_by(parse_envelopes(config["passwords"]), password, config["id"])
        if found is None:
            raise WrongPassword(f"The password does not open {self._url}. Check it, and the URL.")
        return found


def _known(config: dict[str, Any]) -> known.Known:
    return known.Known(config["id"], bool(config["passwords"]))
