"""`repository.json`: the id of the repository, how it splits chunks, and its passwords. It is stored twice."""

from __future__ import annotations

import json
from typing import Any

from blake3 import blake3

from ..errors import UNDECODABLE, DamagedObject, ObjectMissing
from . import chunking
from .envelopes import parse_envelopes
from .location import Location

CONFIG = "repository.json"
CONFIG_COPY = "repository.copy.json"
FORMAT = 1
"""The version of the repository's format. A reader refuses a higher one."""

# A configuration has a few KB, but anyone who can write to the bucket could put gigabytes there.
_MOST_CONFIG = 64 * 1024


def read_config(location: Location) -> dict[str, Any] | None:
    """Return `repository.json`, or its copy if it is damaged, or None if neither exists."""
    damage: Exception | None = None
    for path in (CONFIG, CONFIG_COPY):
        try:
            return parse_config(path, location.read_range(path, 0, _MOST_CONFIG))
        except ObjectMissing:
            continue
        except DamagedObject as error:
            damage = damage or error
    if damage is not None:
        raise damage
    return None


def config_bytes(config: dict[str, Any]) -> bytes:
    """Return the stored form of a configuration."""
    return (json.dumps({**config, "checksum": _checksum(config)}, indent=1) + "\n").encode()


def _checksum(config: dict[str, Any]) -> str:
    plain = {key: value for key, value in config.items() if key != "checksum"}
    return blake3(json.dumps(plain, sort_keys=True).encode()).hexdigest(16)


def parse_config(path: str, data: bytes) -> dict[str, Any]:
    """Parse a stored configuration. Raises `DamagedObject`."""
    try:
        config: dict[str, Any] = json.loads(data)
        version = config["format"]
        if isinstance(version, int) and version > FORMAT:
            return {**config, "chunking": chunking.parameters(), "passwords": []}
        if config["checksum"] != _checksum(config):
            raise DamagedObject(path, "it does not match its checksum")
        if len(bytes.fromhex(config["id"])) != 16:
            raise ValueError("an id has 16 bytes")
        parse_envelopes(config["passwords"])
        del config["checksum"]
    except (*UNDECODABLE, KeyError, TypeError, AttributeError) as error:
        raise DamagedObject(path, f"it cannot be read ({error})") from None
    if data != config_bytes(config):
        raise DamagedObject(path, "its fields are invalid")
    return config
