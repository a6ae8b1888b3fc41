"""Find the snapshots that a user means, and suggest similar names if there is none."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..errors import DamagedVersion, IntegrityError, InvalidArgument, SnapshotNotFound
from ..repository import Repository
from ..repository.names import check_name
from ..repository.tracking import hint
from ..snapshots import SnapshotManager, list_names
from ..snapshots.backends import Durable
from ..snapshots.records import Record, finder
from ..values.manifest import LeafInfo, describe
from ..values.paths import matcher
from .naming import LATEST, choose


@dataclass(frozen=True, slots=True)
class Found:
    """A snapshot: its name, the storage of that name, and its record."""

    name: str
    backend: Durable
    record: Record

    @property
    def label(self) -> str:
        """Its name in messages."""
        return f"{self.record.id} of {self.name}"

    @property
    def reference(self) -> dict[str, str]:
        """Its name in documents."""
        return {"name": self.name, "id": self.record.id}

    def manager(self) -> SnapshotManager[Any]:
        """Return the manager of its name, which can change it."""
        return SnapshotManager(self.backend.repository, name=self.name)

    def leaves(self, patterns: Sequence[str] | None = None) -> list[LeafInfo]:
        """Return its leaves, or those that match a pattern, without loading them.

        Raises:
            InvalidArgument: No leaf matches. The message names similar paths.
        """
        with self.naming_damage():
            described = describe(self.backend.content(self.record)[0])
        if not patterns:
            return described
        matches = matcher(patterns)
        chosen = [leaf for leaf in described if matches(leaf.path)]
        if not chosen:
            paths = [leaf.path for leaf in described]
            raise InvalidArgument(f"No leaf of {self.label} matches {patterns[0]!r}. {hint(patterns[0], paths)}")
        return chosen

    @contextmanager
    def naming_damage(self) -> Iterator[None]:
        """Report damage that is found within the block with the name of this snapshot."""
        try:
            yield
        except DamagedVersion:
            raise
        except IntegrityError as error:
            raise DamagedVersion(f"snapshot {self.record.id!r} of {self.name!r}", "", str(error)) from error


def find(repository: Repository, ids: Sequence[str], name: str | None, *, whole: bool = False) -> list[Found]:
    """Return the snapshots with these ids, under one name or any.

    Args:
        repository: The repository to look in.
        ids: Ids, beginnings of ids, or `latest`.
        name: The name to look under. Default: any.
        whole: Whether only whole ids count.

    Raises:
        SnapshotNotFound: An id, or the name, is not known. The message names similar ones.
        InvalidArgument: Several names have the id, or several ids begin like it.
    """
    if name is not None:
        check_known(repository, name)
    names = list_names(repository) if name is None else [name]
    backends = {each: Durable(repository, each) for each in names}
    return [_find(snapshot_id, backends, whole) for snapshot_id in ids]


def check_known(repository: Repository, name: str) -> None:
    """Check that snapshots were saved under a name.

    Raises:
        InvalidName: It is not a valid name.
        SnapshotNotFound: Nothing was ever saved under it. The message names similar ones.
    """
    known = list_names(repository)
    if name not in known:
        check_name(name)
        raise SnapshotNotFound(f"There are no snapshots under the name {name!r}. {hint(name, known)}")


def best_of(ranked: Sequence[Record], key: str) -> str:
    """Return the id of the first snapshot, which is the best one if it has a number to rank by.

    Raises:
        InvalidArgument: None of them has one.
    """
    value = finder(key, None)(ranked[0].metadata)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidArgument(f"None of these snapshots has a number at {key!r} in its metadata to rank by.")
    return ranked[0].id


def _find(wanted: str, backends: dict[str, Durable], whole: bool) -> Found:
    holders = [name for name, backend in backends.items() if wanted in backend.view.by_id]
    if len(holders) > 1:
        raise InvalidArgument(
            f"Several names have a snapshot {wanted!r}: {', '.join(holders)}. Choose one with --name."
        )
    if holders:
        backend = backends[holders[0]]
        return Found(holders[0], backend, backend.view.by_id[wanted])
    if wanted == LATEST and len(backends) > 1 and not whole:
        raise InvalidArgument(f"Several names have snapshots: {', '.join(backends)}. Choose one with --name.")
    records = [(record, name) for name, backend in backends.items() for record in backend.view.by_id.values()]
    records.sort(key=lambda pair: pair[0].order, reverse=True)
    chosen = choose(wanted, [record.id for record, _ in records], "snapshot", SnapshotNotFound, whole=whole)
    record, name = next(pair for pair in records if pair[0].id == chosen)
    return Found(name, backends[name], record)
