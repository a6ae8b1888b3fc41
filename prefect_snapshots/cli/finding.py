"""Finding snapshots by what a user typed, and saying what comes near when there is none."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..errors import DamagedVersion, IntegrityError, InvalidArgument, SnapshotNotFound
from ..repository import Repository
from ..repository.names import check_name
from ..snapshots import SnapshotManager, list_names
from ..snapshots.backends import Durable
from ..snapshots.records import Record, finder
from ..values.manifest import LeafInfo, describe
from ..values.paths import matcher

_NEAR = 3


@dataclass(frozen=True, slots=True)
class Found:
    """A snapshot: under which name, among which others, and its record."""

    name: str
    backend: Durable
    record: Record

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"{self.record.id} of {self.name}"

    @property
    def reference(self) -> dict[str, str]:
        """What documents call it."""
        return {"name": self.name, "id": self.record.id}

    def manager(self) -> SnapshotManager[Any]:
        """A manager of its name, which can change it."""
        return SnapshotManager(self.backend.repository, name=self.name)

    def leaves(self, patterns: Sequence[str] | None = None) -> list[LeafInfo]:
        """Its leaves, or those that match a pattern, described without loading them.

        Raises:
            InvalidArgument: patterns that match none; with paths that come near.
        """
        with self.naming_damage():
            described = describe(self.backend.content(self.record)[0])
        if not patterns:
            return described
        matches = matcher(patterns)
        chosen = [leaf for leaf in described if matches(leaf.path)]
        if not chosen:
            paths = [leaf.path for leaf in described]
            raise InvalidArgument(f"no leaf of {self.label} matches {patterns[0]!r}{_near(patterns[0], paths)}")
        return chosen

    @contextmanager
    def naming_damage(self) -> Iterator[None]:
        """Whatever is found to be damaged inside names this snapshot."""
        try:
            yield
        except DamagedVersion:
            raise
        except IntegrityError as error:
            raise DamagedVersion(f"snapshot {self.record.id!r} of {self.name!r}", "", str(error)) from error


def find(repository: Repository, ids: Sequence[str], name: str | None) -> list[Found]:
    """The snapshots with these ids, under one name or any.

    Raises:
        SnapshotNotFound: an id, or the name, is not known; with those that come near.
        InvalidArgument: an id is known under several names.
    """
    if name is not None:
        check_known(repository, name)
    names = list_names(repository) if name is None else [name]
    backends = {each: Durable(repository, each) for each in names}
    return [_find(snapshot_id, backends) for snapshot_id in ids]


def check_known(repository: Repository, name: str) -> None:
    """
    Raises:
        InvalidName: it is no name.
        SnapshotNotFound: nothing was ever saved under it; with names that come near.
    """
    known = list_names(repository)
    if name not in known:
        check_name(name)
        raise SnapshotNotFound(f"no snapshots under the name {name!r}{_near(name, known)}")


def best_of(ranked: Sequence[Record], key: str) -> str:
    """The id of the first, which is the best if it has a number to rank by.

    Raises:
        InvalidArgument: it has none, and neither has any other.
    """
    value = finder(key, None)(ranked[0].metadata)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidArgument(f"none of these snapshots has a number to rank by at {key!r} in its metadata")
    return ranked[0].id


def _find(snapshot_id: str, backends: dict[str, Durable]) -> Found:
    holders = [name for name, backend in backends.items() if snapshot_id in backend.view.by_id]
    if not holders:
        known = [each for backend in backends.values() for each in backend.view.by_id]
        raise SnapshotNotFound(f"no snapshot {snapshot_id!r}{_near(snapshot_id, known)}")
    if len(holders) > 1:
        raise InvalidArgument(
            f"there is a snapshot {snapshot_id!r} under each of {', '.join(holders)}: say which with --name"
        )
    backend = backends[holders[0]]
    return Found(holders[0], backend, backend.view.by_id[snapshot_id])


def _near(wanted: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(wanted, known, _NEAR, 0.5) or list(known)[-_NEAR:]
    return f" (there is: {', '.join(near)})" if near else " (there is none at all)"
