"""What a recovery must know about a base backup of a PostgreSQL server: the file `cluster.json` in it."""

from __future__ import annotations

from typing import Annotated

import msgspec

from ...errors import UNDECODABLE, IntegrityError
from ...trees.entries import check_path
from ...wal.names_and_headers import parse_lsn
from ..sources import DumpReader

CLUSTER = "cluster.json"
_LARGEST = 64 << 20
"""The largest `cluster.json` in bytes. It names the empty folders of the server: a few for each database."""
_Lsn = Annotated[str, msgspec.Meta(pattern=r"^[0-9A-F]{1,8}/[0-9A-F]{1,8}$")]


class ClusterFacts(msgspec.Struct, kw_only=True, frozen=True):
    """What a recovery must know about a base backup. It is from a repository, so every value has a type and bounds."""

    version: Annotated[int, msgspec.Meta(ge=130000, lt=1000000)]
    """`server_version_num`, such as 150018."""
    system: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,20}$")]
    timeline: Annotated[int, msgspec.Meta(ge=1, lt=2**32)]
    segment_size: Annotated[int, msgspec.Meta(ge=1 << 20, le=1 << 30)]
    superuser: Annotated[str, msgspec.Meta(min_length=1, max_length=63)]
    """The role that `initdb` created."""
    prepared: Annotated[int, msgspec.Meta(ge=0, lt=2**18)]
    """The setting `max_prepared_transactions`, which a recovery may not have smaller."""
    start: _Lsn
    """Where the WAL begins that the base backup needs."""
    stop: _Lsn
    """A position after its end: no recovery can stop before the end."""
    finished: str
    """The time of the server at `stop`, in UTC."""
    label: str
    folders: list[str] = []
    """Empty folders, which must exist."""

    @property
    def major(self) -> int:
        """The major version."""
        return self.version // 10000

    @property
    def first(self) -> int:
        """`start` as a number."""
        return parse_lsn(self.start)

    @property
    def last(self) -> int:
        """`stop` as a number."""
        return parse_lsn(self.stop)


def read_facts(dump: DumpReader) -> ClusterFacts:
    """Return what a recovery must know about a base backup.

    Raises:
        IntegrityError: It is missing or invalid.
    """
    if CLUSTER not in dump.paths:
        raise IntegrityError(f"The base backup is damaged: it has no {CLUSTER}. Use another backup.")
    data = bytearray()
    for piece in dump.open(CLUSTER):
        data += piece
        if len(data) > _LARGEST:
            raise IntegrityError(f"The base backup is damaged: its {CLUSTER} is too large. Use another backup.")
    try:
        facts = msgspec.json.decode(data, type=ClusterFacts)
    except UNDECODABLE as error:
        raise IntegrityError(f"The base backup is damaged: {CLUSTER}: {error}. Use another backup.") from None
    for folder in facts.folders:
        check_path(folder.encode())
    return facts


def conninfo(database: str) -> str:
    """Return what names a database to the tools of PostgreSQL. They take some names for an address."""
    return "dbname='" + database.replace("\\", "\\\\").replace("'", "\\'") + "'"
