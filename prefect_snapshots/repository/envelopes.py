"""Envelopes: how a password opens a repository.

An encrypted repository has one *secret*, from which all its keys are derived and which never changes. `repository.json`
contains one *envelope* for each password: the secret, encrypted with a key that scrypt derives from the password. So
adding, changing or removing a password writes an envelope, but no data. `docs/format.md` describes the fields.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from ..errors import InvalidName

COST = 2**16
"""scrypt N, with r=8 and p=1: 64 MB and about 0.15 s for each guess at a password (RFC 7914)."""

MOST_ENVELOPES = 16
"""The most passwords of one repository. A wrong password is tried against each of them, which takes 2.4 s."""

# These limits keep anyone who can write to the bucket from making every reader calculate for hours. A single envelope
# takes at most 256 MB of memory.
_MOST_COST = 2**18
_MOST_COST_IN_ALL = 2**20
"""The largest sum of the costs of all envelopes that a reader accepts."""

_SECRET_SIZE = 32
"""Bytes of the secret of a repository: 256 bits, the key size of the ciphers that are derived from it."""
_SALT_SIZE = 16
"""Bytes of a salt: 128 bits, the least that NIST SP 800-132 allows."""
_NONCE_SIZE = 12
"""Bytes of a nonce of AES-GCM (NIST SP 800-38D)."""
_TAG_SIZE = 16
"""Bytes of a tag of AES-GCM, at full length."""
_FIELDS = {"name", "created", "kdf", "cost", "salt", "nonce", "wrapped"}
_NAME = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.@ -]{0,63}")


@dataclass(frozen=True, slots=True)
class Envelope:
    """The secret of a repository, wrapped with one password.

    Attributes:
        name: The name of the password.
        created: When it was added, in UTC.
        cost: scrypt's N.
        salt: 16 random bytes for scrypt.
        nonce: 12 random bytes for AES-GCM.
        wrapped: The encrypted secret and its tag.
    """

    name: str
    created: datetime
    cost: int
    salt: bytes
    nonce: bytes
    wrapped: bytes

    @classmethod
    def seal(cls, name: str, password: str, secret: bytes, repository_id: str) -> Envelope:
        """Wrap the secret of a repository with a password.

        Raises:
            InvalidName: The name is empty, too long, or has unusual characters.
        """
        if not _NAME.fullmatch(name):
            raise InvalidName(
                "The name of a password must have 1 to 64 characters: letters, digits, spaces and . _ - @, the first "
                "of them a letter, a digit or _."
            )
        salt, nonce = os.urandom(_SALT_SIZE), os.urandom(_NONCE_SIZE)
        cipher = AESGCM(_key(password, salt, COST))
        wrapped = cipher.encrypt(nonce, secret, _binding(repository_id, name))
        return cls(name, datetime.now(UTC).replace(microsecond=0), COST, salt, nonce, wrapped)

    def open(self, password: str, repository_id: str) -> bytes | None:
        """Return the secret, or None if the password is not the one of this envelope."""
        cipher = AESGCM(_key(password, self.salt, self.cost))
        try:
            return cipher.decrypt(self.nonce, self.wrapped, _binding(repository_id, self.name))
        except InvalidTag:
            return None

    def record(self) -> dict[str, Any]:
        """Return the envelope in the form of `repository.json`."""
        return {
            "name": self.name,
            "created": self.created.isoformat(),
            "kdf": "scrypt",
            "cost": self.cost,
            "salt": base64.b64encode(self.salt).decode(),
            "nonce": base64.b64encode(self.nonce).decode(),
            "wrapped": base64.b64encode(self.wrapped).decode(),
        }


def parse_envelopes(records: object) -> list[Envelope]:
    """Return the envelopes of `repository.json`. Everything in them is checked before anything is derived.

    Raises:
        ValueError: They are invalid.
    """
    if not isinstance(records, list) or len(records) > MOST_ENVELOPES:
        raise ValueError("the passwords are not a short list")
    found = [_parse(record) for record in records]
    if len({envelope.name for envelope in found}) < len(found):
        raise ValueError("two passwords have one name")
    if sum(envelope.cost for envelope in found) > _MOST_COST_IN_ALL:
        raise ValueError("the passwords cost too much to try")
    return found


def opened_by(envelopes: Sequence[Envelope], password: str, repository_id: str) -> tuple[str, bytes] | None:
    """Return the name of the password and the secret, or None if the password opens no envelope."""
    for envelope in envelopes:
        secret = envelope.open(password, repository_id)
        if secret is not None:
            return envelope.name, secret
    return None


def _parse(record: object) -> Envelope:
    if not isinstance(record, dict) or record.keys() != _FIELDS:
        raise ValueError("a password does not have the fields that it should have")
    name, cost = record["name"], record["cost"]
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError("a password has no proper name")
    if record["kdf"] != "scrypt":
        raise ValueError("a key is derived in an unknown way")
    if type(cost) is not int or not 2 <= cost <= _MOST_COST or cost & (cost - 1):
        raise ValueError("a key is derived at an impossible cost")
    return Envelope(
        name,
        datetime.fromisoformat(record["created"]),
        cost,
        _bytes(record["salt"], _SALT_SIZE),
        _bytes(record["nonce"], _NONCE_SIZE),
        _bytes(record["wrapped"], _SECRET_SIZE + _TAG_SIZE),
    )


def _bytes(text: str, size: int) -> bytes:
    found = base64.b64decode(text, validate=True)
    if len(found) != size:
        raise ValueError("a part of a password has another length")
    return found


def _binding(repository_id: str, name: str) -> bytes:
    """Return the associated data that binds an envelope to its repository and its name."""
    return f"prefect-snapshots envelope\0{repository_id}\0{name}".encode()


def _key(password: str, salt: bytes, cost: int) -> bytes:
    return Scrypt(salt=salt, length=32, n=cost, r=8, p=1).derive(password.encode())
