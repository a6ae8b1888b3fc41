"""Open or create a repository: find its configuration, check that it is the expected one, and unlock it."""

from __future__ import annotations

import os
import shlex
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
    """Open one repository once, at its first use.

    Args:
        location: The location of the repository.
        password: The source of its password.
        expected_id: The id that it must have. None means the id that was saved when it was last opened, if any.
        compression: How this process compresses new data.
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
            RepositoryNotFound: There is no repository.
            NotARepository: The location is not empty, but does not contain a repository.
            WrongPassword: The password does not open it, or is missing.
            RepositoryChanged: It is another repository than the expected one.
        """
        if self._opened is None:
            with self.lock:
                if self._opened is None:
                    config = read_config(self.location)
                    if config is None and not self.location.is_empty():
                        # Another process may have created the repository between these two checks.
                        config = read_config(self.location)
                        if config is None:
                            raise NotARepository(
                                f"{self._url} is not empty, but does not contain a repository. Nothing was changed. "
                                "Choose an empty or new directory or prefix, or check the URL."
                            )
                    if config is None:
                        raise RepositoryNotFound(
                            f"There is no repository at {self._url}. "
                            + (
                                "With read_only=True none is created. Check the URL."
                                if self._read_only
                                else "The first save creates one; check the URL if you expected data here."
                            )
                        )
                    self._opened = self._open(config)
        return self._opened

    def writing(self) -> Opened:
        """Open the repository for writing, and create it if the location is empty."""
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
                # The process that created the repository may have been killed before it wrote the copy.
                if self.location.size(CONFIG_COPY) is None:
                    self.location.create(CONFIG_COPY, config_bytes(opened.config))
                keep_reserve(self.location)
                self._complete = True
        return self.reading()

    def _create_config(self) -> dict[str, Any]:
        """Create the configuration. If several processes try, one wins, and the others open its repository."""
        password = self._password()
        if self._expected_id is not None:
            raise RepositoryNotFound(
                f"There is no repository at {self._url}, and none was created, because you passed "
                f"id={self._expected_id!r}. Check the URL, or leave out id to create a new repository."
            )
        before = known.find(self.location)
        if password is None and not self._password.is_refused and before is not None and before.encrypted:
            raise WrongPassword(
                f"There was an encrypted repository at {self._url} when you last opened it, and now there is none. "
                "Nothing was created, because it would not be encrypted. Pass a password, or password=False "
                "(--no-password)."
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
            # The repository that was here before is gone, and this process has created the new one.
            known.forget(self.location)
            return config
        found = read_config(self.location)
        if found is None:
            raise StorageUnavailable(f"{self._url} did not confirm that the repository was created. Try again.")
        return found

    def _check_id(self, config: dict[str, Any]) -> bool:
        """Raise an error if the repository is not the expected one. Return whether it is the remembered one."""
        if self._expected_id is not None:
            if config["id"] != self._expected_id:
                raise RepositoryChanged(
                    f"The repository at {self._url} is {config['id']}, but you passed id={self._expected_id!r}. "
                    "Somebody may have replaced it. Nothing was read from it."
                )
            return False
        before, now = known.find(self.location), _known(config)
        if before is not None and before.is_replaced_by(now):
            raise RepositoryChanged(
                f"{self._url} held the repository {before} when you last opened it, and now holds {now}. "
                "Somebody may have replaced it. Nothing was read from it. If you know why it changed, run "
                f"`prefect-snapshots --repository {shlex.quote(self._url)} password trust`, or pass "
                f"id={config['id']!r}."
            )
        return before == now

    def _open(self, config: dict[str, Any]) -> Opened:
        if config["format"] > FORMAT:
            raise UnsupportedFormat(
                f"{self._url} has repository format {config['format']}, but this version reads only up to {FORMAT}. "
                "Upgrade prefect-snapshots."
            )
        if config["chunking"] != chunking.parameters() and not self._read_only:
            raise UnsupportedFormat(
                f"{self._url} splits data with other parameters ({config['chunking']}), so new data would not be "
                "deduplicated. Nothing was changed. Open it with read_only=True."
            )
        is_remembered = self._check_id(config)
        name, secret = self._unlock(config)
        if not is_remembered:
            known.remember(self.location, _known(config))
        sealer = Sealer(bytes.fromhex(config["id"]), secret, self._compression)
        return assemble(self.location, config, secret, name, sealer, self._read_only)

    def _unlock(self, config: dict[str, Any]) -> tuple[str, bytes | None]:
        """Return the name of the password that opened the repository, and the secret: "" and None if not encrypted.

        If a password is configured, the repository must be encrypted. Otherwise anyone who can write to the bucket
        could replace it by a plain one, make you unpickle their data, and read what you save next.
        """
        password = self._password()
        if not config["passwords"]:
            if password is not None:
                raise WrongPassword(
                    f"{self._url} is not encrypted, but a password is configured for it. Somebody may have replaced "
                    "it. If it should not be encrypted, pass password=False (--no-password on the command line)."
                    f"{self._password.origin}"
                )
            return "", None
        if password is None:
            if self._password.is_refused:
                raise WrongPassword(
                    f"{self._url} is encrypted, but password=False (--no-password on the command line) says that it is "
                    "not. Nothing was read or changed. Pass its password instead."
                )
            raise WrongPassword(
                f"{self._url} is encrypted. Nothing was read or changed. Pass a password, or set {PASSWORD_SETTING}."
            )
        found = opened_by(parse_envelopes(config["passwords"]), password, config["id"])
        if found is None:
            raise WrongPassword(
                f"The password does not open {self._url}. Nothing was read or changed. Check it, and the URL."
                f"{self._password.origin}"
            )
        return found


def _known(config: dict[str, Any]) -> known.KnownRepository:
    return known.KnownRepository(config["id"], bool(config["passwords"]))
